//! `palan images`.

use std::time::SystemTime;

use palan_docker_api::filters::Filters;
use palan_docker_api::types::ImageSummary;
use palan_oci::Reference;
use palan_stdx::size;

use super::super::common::{self, FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::output::human;
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan image ls, palan image list, palan images",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] [REPOSITORY[:TAG]]", "List images", Arity::AtMost(1), run)
};

static FLAGS: &[Flag] = &[
    Flag::bool("all", Some('a'), "Show all images (default hides intermediate images)"),
    Flag::bool("digests", None, "Show digests"),
    common::filter_flag(Some('f'), "Filter output based on conditions provided"),
    Flag::string("format", None, FORMAT_HELP),
    Flag::bool("no-trunc", None, "Don't truncate output"),
    Flag::bool("quiet", Some('q'), "Only show image IDs"),
    Flag::bool("tree", None, "List multi-platform images as a tree (EXPERIMENTAL)"),
];

const CREATED: &str = "{{if .CreatedSince }}{{.CreatedSince}}{{else}}N/A{{end}}";

const COLUMNS: &[Column] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("Containers", "CONTAINERS"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    if flags.bool("tree") {
        return as_tree(app, flags);
    }
    let (quiet, digests) = (flags.bool("quiet"), flags.bool("digests"));
    let asked = match flags.string("format") {
        "" if !quiet => app.config().text("imagesFormat"),
        asked => asked,
    };
    let format = format(asked, quiet, digests).check()?;
    let filters = filters(flags);
    let images = app.client()?.list_images(flags.bool("all"), &filters)?;
    let with_digest = digests || format.uses("Digest}}");
    let truncate = !flags.bool("no-trunc");
    let now = SystemTime::now();
    let lines: Vec<Line<'_>> =
        images.iter().flat_map(|image| lines(image, digests, with_digest, truncate, now)).collect();
    app.streams.print(&list::render(&format, COLUMNS, &lines)?)
}

fn filters(flags: &Parsed) -> Filters {
    let mut filters = common::filters(flags);
    if let Some(name) = flags.args.first() {
        filters.add("reference", name.as_str());
    }
    filters
}

fn as_tree(app: &App, flags: &Parsed) -> Result<()> {
    // In Docker's words, and its order.
    let others =
        [("quiet", "quiet"), ("no-trunc", "no-trunc"), ("digests", "show-digest"), ("format", "format")];
    if let Some((_, name)) = others.iter().find(|(flag, _)| flags.changed(flag)) {
        return Err(CliError::new(format!("--{name} is not yet supported with --tree")));
    }
    super::tree::run(app, flags.bool("all"), &filters(flags))
}

fn format(asked: &str, quiet: bool, digests: bool) -> Format {
    let digest = if digests { "{{.Digest}}\t" } else { "" };
    let raw_digest = if digests { "digest: {{.Digest}}\n" } else { "" };
    match (asked, quiet) {
        ("raw", true) => Format::plain("image_id: {{.ID}}"),
        ("raw", false) => Format::plain(&format!(
            "repository: {{{{ .Repository }}}}\ntag: {{{{.Tag}}}}\n{raw_digest}image_id: {{{{.ID}}}}\n\
             created_at: {{{{.CreatedAt}}}}\nvirtual_size: {{{{.Size}}}}\n"
        )),
        ("" | "table", true) => Format::plain("{{.ID}}"),
        (asked, _) if asked.starts_with("table ") && digests && !asked.contains("{{.Digest}}") => {
            Format::new(&format!("{asked}\t{{{{.Digest}}}}"), "")
        }
        (asked, _) => {
            let default =
                format!("{{{{.Repository}}}}\t{{{{.Tag}}}}\t{digest}{{{{.ID}}}}\t{CREATED}\t{{{{.Size}}}}");
            Format::new(asked, &default)
        }
    }
}

/// The table of `system df -v`.
pub(crate) fn usage_table(images: &[ImageSummary], now: SystemTime) -> Result<String> {
    let template = format!(
        "{{{{.Repository}}}}\t{{{{.Tag}}}}\t{{{{.ID}}}}\t{CREATED}\t{{{{.Size}}}}\t{{{{.SharedSize}}}}\t{{{{.UniqueSize}}}}\t{{{{.Containers}}}}"
    );
    list::render(&Format::new("table", &template), COLUMNS, &usage_lines(images, true, now))
}

/// What the table of `system df -v` is made of, uncut.
pub(crate) fn usage_records(images: &[ImageSummary], now: SystemTime) -> gotmpl::Value {
    list::records(COLUMNS, &usage_lines(images, false, now))
}

/// One for each image, under its first name.
fn usage_lines(images: &[ImageSummary], truncate: bool, now: SystemTime) -> Vec<Line<'_>> {
    let first = |image| lines(image, false, false, truncate, now).into_iter().next();
    images.iter().filter_map(first).map(|line| Line { digest: String::new(), ..line }).collect()
}

/// A row of the table: an image under one of its names.
struct Line<'a> {
    image: &'a ImageSummary,
    repository: String,
    tag: String,
    digest: String,
    truncate: bool,
    now: SystemTime,
}

/// The rows of an image: one for each tag, with its digests if they are shown, and for digests without a tag.
fn lines(
    image: &ImageSummary,
    digests: bool,
    with_digest: bool,
    truncate: bool,
    now: SystemTime,
) -> Vec<Line<'_>> {
    const NONE: &str = "<none>";
    let line = |repository: &str, tag: &str, digest: &str| Line {
        image,
        repository: repository.to_owned(),
        tag: tag.to_owned(),
        digest: digest.to_owned(),
        truncate,
        now,
    };
    let named = |texts: &[String]| -> Vec<Reference> {
        texts.iter().filter_map(|text| Reference::parse(text).ok()).collect()
    };
    let (tags, by_digest) = (named(&image.repo_tags), named(&image.repo_digests));
    if tags.is_empty() && by_digest.is_empty() {
        return vec![line(NONE, NONE, NONE)];
    }
    let mut lines = Vec::new();
    for tagged in &tags {
        let (repository, tag) = (tagged.familiar_name(), tagged.tag().unwrap_or(NONE));
        let own = by_digest.iter().filter(|other| with_digest && other.familiar_name() == repository);
        let before = lines.len();
        lines.extend(own.filter_map(|other| Some(line(&repository, tag, &other.digest()?.to_string()))));
        if lines.len() == before {
            lines.push(line(&repository, tag, NONE));
        }
    }
    let mut shown: Vec<String> = Vec::new();
    for untagged in &by_digest {
        let repository = untagged.familiar_name();
        if tags.iter().any(|tagged| tagged.familiar_name() == repository) {
            continue;
        }
        if digests {
            let digest = untagged.digest().map(|digest| digest.to_string()).unwrap_or_default();
            lines.push(line(&repository, NONE, &digest));
        } else if !shown.contains(&repository) {
            lines.push(line(&repository, NONE, NONE));
            shown.push(repository);
        }
    }
    lines
}

impl Row for Line<'_> {
    fn field(&self, name: &str) -> String {
        let image = self.image;
        let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or(0);
        let or_unknown = |known: bool, text: String| if known { text } else { "N/A".to_owned() };
        match name {
            "ID" if self.truncate => human::truncate_id(&image.id).to_owned(),
            "ID" => image.id.clone(),
            "Repository" => self.repository.clone(),
            "Tag" => self.tag.clone(),
            "Digest" => self.digest.clone(),
            // Go's zero time: the image doesn't say when it was made.
            "CreatedSince" if image.created == i64::MIN || image.created == -62_135_596_800 => String::new(),
            "CreatedSince" => human::ago(image.created, self.now),
            "CreatedAt" => human::local_time(image.created, &common::zone()),
            "Size" => size::format_decimal_short(bytes(image.size)),
            "VirtualSize" => size::format_decimal(bytes(image.size)),
            "Containers" => or_unknown(image.containers != -1, image.containers.to_string()),
            "SharedSize" => {
                or_unknown(image.shared_size != -1, size::format_decimal(bytes(image.shared_size)))
            }
            "UniqueSize" => {
                let known = image.shared_size != -1 && image.size != -1;
                or_unknown(known, size::format_decimal(bytes(image.size - image.shared_size)))
            }
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn check(asked: &str, digests: bool, expected: &str) {
        let hex = "0123456789abcdef".repeat(4);
        let image: ImageSummary = serde_json::from_str(&format!(
            r#"{{"Id":"sha256:{hex}","RepoTags":["docker.io/library/debian:bookworm","localhost:5000/d:1"],
                "RepoDigests":["debian@sha256:{hex}"],"Created":1000,"Size":124500000,"SharedSize":-1,"Containers":-1}}"#
        ))
        .unwrap();
        let dangling =
            ImageSummary { id: "sha256:ffffffffffffffff".to_owned(), size: 5, ..ImageSummary::default() };
        let format = format(asked, false, digests);
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 + 14 * 86400);
        let with_digest = digests || format.uses("Digest}}");
        let rows: Vec<Line<'_>> = [&image, &dangling]
            .into_iter()
            .flat_map(|image| lines(image, digests, with_digest, true, now))
            .collect();
        assert_eq!(list::render(&format, COLUMNS, &rows).unwrap(), expected.replace("HEX", &hex));
    }

    #[test]
    fn the_table_is_dockers() {
        check(
            "",
            false,
            "REPOSITORY         TAG        IMAGE ID       CREATED       SIZE\n\
             debian             bookworm   0123456789ab   2 weeks ago   124MB\n\
             localhost:5000/d   1          0123456789ab   2 weeks ago   124MB\n\
             <none>             <none>     ffffffffffff   2 weeks ago   5B\n",
        );
    }

    #[test]
    fn digests_and_templates() {
        check(
            "{{.Repository}}:{{.Tag}} {{.Digest}}",
            true,
            "debian:bookworm sha256:HEX\nlocalhost:5000/d:1 <none>\n<none>:<none> <none>\n",
        );
        check("{{.SharedSize}}", false, "N/A\nN/A\n0B\n");
    }
}
