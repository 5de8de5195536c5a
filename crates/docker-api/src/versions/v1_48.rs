//! Up to 1.48: `info` names the commits that were expected, and no firewall.

use crate::types::SystemInfo;

pub(super) fn info(answer: &mut SystemInfo) {
    answer.firewall_backend = None;
    for commit in [&mut answer.containerd_commit, &mut answer.runc_commit, &mut answer.init_commit] {
        commit.expected = Some(commit.id.clone());
    }
}
