//! `palan images --tree`: each image with the platforms that it has.
//!
//! The layout is that of Docker's CLI 28: the first column is as wide as it must be, but leaves room for the others in the
//! terminal's width; of several names the shortest stands in the line with the numbers.

use palan_docker_api::filters::Filters;
use palan_docker_api::types::{ImageSummary, ManifestSummary};
use palan_stdx::size;

use crate::app::App;
use crate::error::Result;
use crate::output::human;

const SPACING: usize = 3;
/// Titles and widths behind the first column; numbers stand on the right.
const COLUMNS: [(&str, usize); 4] = [("ID", 12), ("DISK USAGE", 10), ("CONTENT SIZE", 12), ("EXTRA", 5)];
const BRANCH: &str = "├─ ";
const LAST_BRANCH: &str = "└─ ";
const LEGEND: &str = "Info ->  U In Use ";

pub(super) fn run(app: &App, all: bool, filters: &Filters) -> Result<()> {
    let mut images = app.client()?.list_manifests(all, filters)?;
    images.retain(|image| all || !image.repo_tags.is_empty());
    images.sort_by_key(|image| std::cmp::Reverse(image.created));
    let columns = app.streams.columns(false).unwrap_or(80);
    app.streams.print(&render(&images, columns))
}

fn render(images: &[ImageSummary], columns: usize) -> String {
    let groups: Vec<Group<'_>> = images.iter().map(Group::new).collect();
    let widest = groups.iter().flat_map(Group::widths).chain(["IMAGE".len()]).max().unwrap_or(0);
    let others: usize = COLUMNS.iter().map(|(_, width)| width + SPACING).sum();
    let width = widest.min(columns.saturating_sub(others).max("IMAGE".len()));
    let mut text = String::from(
        "WARNING: This is an experimental feature. The output may change and shouldn't be depended on.\n",
    );
    text.push_str(&format!("{LEGEND:>columns$}\n\n"));
    let titles = COLUMNS.map(|(title, _)| title.to_owned());
    text.push_str(&line("IMAGE", &titles, width));
    for group in &groups {
        group.write(width, &mut text);
        text.push('\n');
    }
    text
}

/// An image, its names and its platforms.
struct Group<'a> {
    image: &'a ImageSummary,
    names: Vec<String>,
    platforms: Vec<(String, &'a ManifestSummary)>,
}

impl<'a> Group<'a> {
    fn new(image: &'a ImageSummary) -> Self {
        let mut names = image.repo_tags.clone();
        names.sort_by(|one, other| other.len().cmp(&one.len()).then_with(|| one.cmp(other)));
        if names.is_empty() {
            names.push("<untagged>".to_owned());
        }
        let of_images = image.manifests.iter().flatten().filter(|manifest| manifest.kind == "image");
        let platforms = of_images.map(|manifest| {
            let platform = manifest.image_data.as_ref().map(|data| &data.platform);
            let parts = platform.map_or_else(Vec::new, |platform| {
                vec![platform.os.as_str(), platform.architecture.as_str(), platform.variant.as_str()]
            });
            let parts: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
            (parts.join("/"), manifest)
        });
        Self { image, names, platforms: platforms.collect() }
    }

    fn widths(&self) -> impl Iterator<Item = usize> {
        let names = self.names.iter().map(String::len);
        // Docker counts the branch in bytes.
        names.chain(self.platforms.iter().map(|(platform, _)| platform.len() + BRANCH.len()))
    }

    fn write(&self, width: usize, text: &mut String) {
        let content: i64 = self.platforms.iter().map(|(_, manifest)| manifest.size.content).sum();
        let in_use = self.platforms.iter().any(|(_, manifest)| is_used(manifest));
        if let Some((shortest, others)) = self.names.split_last() {
            for name in others {
                text.push_str(name);
                text.push('\n');
            }
            text.push_str(&line(shortest, &cells(&self.image.id, self.image.size, content, in_use), width));
        }
        for (index, (platform, manifest)) in self.platforms.iter().enumerate() {
            let branch = if index + 1 == self.platforms.len() { LAST_BRANCH } else { BRANCH };
            let cells = cells(&manifest.id, manifest.size.total, manifest.size.content, is_used(manifest));
            text.push_str(&line(&format!("{branch}{platform}"), &cells, width));
        }
    }
}

fn is_used(manifest: &ManifestSummary) -> bool {
    manifest.image_data.as_ref().is_some_and(|data| !data.containers.is_empty())
}

fn cells(id: &str, total: i64, content: i64, in_use: bool) -> [String; 4] {
    let bytes = |bytes: i64| size::format_decimal_short(u64::try_from(bytes).unwrap_or(0));
    let extra = if in_use { "U" } else { " " };
    [human::truncate_id(id).to_owned(), bytes(total), bytes(content), extra.to_owned()]
}

fn line(first: &str, cells: &[String; 4], width: usize) -> String {
    let [id, total, content, extra] = cells;
    let [id_width, total_width, content_width, extra_width] = COLUMNS.map(|(_, width)| width);
    let first = human::ellipsis(first, width);
    format!(
        "{first:<width$}   {id:<id_width$}   {total:>total_width$}   {content:>content_width$}   {extra:<extra_width$}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_dockers() {
        let image: ImageSummary = serde_json::from_str(
            r#"{"Id":"sha256:0123456789abcdef","RepoTags":["made:1","second/name:tag"],"Created":1,"Size":1980000,
                "Manifests":[{"ID":"sha256:fedcba9876543210","Available":true,"Kind":"image",
                    "Size":{"Content":2000000,"Total":3980000},
                    "ImageData":{"Platform":{"os":"linux","architecture":"amd64"},"Containers":["x"],"Size":{"Unpacked":1980000}}}]}"#,
        )
        .unwrap();
        let expected = "WARNING: This is an experimental feature. The output may change and shouldn't be depended on.\n\
            \x20                                                             Info ->  U In Use \n\
            \n\
            IMAGE                ID             DISK USAGE   CONTENT SIZE   EXTRA\n\
            second/name:tag\n\
            made:1               0123456789ab       1.98MB            2MB   U    \n\
            └─ linux/amd64       fedcba987654       3.98MB            2MB   U    \n\
            \n";
        assert_eq!(render(&[image], 80), expected);
    }
}
