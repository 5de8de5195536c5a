//! Up to 1.42: an image without any name has names that say so.

use crate::types::ImageSummary;

pub(super) fn image_summary(answer: &mut ImageSummary) {
    if answer.repo_tags.is_empty() && answer.repo_digests.is_empty() {
        answer.repo_tags = vec!["<none>:<none>".to_owned()];
        answer.repo_digests = vec!["<none>@<none>".to_owned()];
    }
}
