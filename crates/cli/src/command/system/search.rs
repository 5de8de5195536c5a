//! `palan search`.

use palan_docker_api::types::SearchResult;

use super::super::common::{self, FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::credentials;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::output::human;
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command = Command {
    long: "Search Docker Hub for images",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] TERM", "Search Docker Hub for images", Arity::Exactly(1), run)
};

static FLAGS: &[Flag] = &[
    common::filter_flag(Some('f'), "Filter output based on conditions provided"),
    Flag::string("format", None, FORMAT_HELP),
    Flag::int("limit", None, "Max number of search results").default("0"),
    Flag::bool("no-trunc", None, "Don't truncate output"),
];

const COLUMNS: &[Column] =
    &[("Name", "NAME"), ("Description", "DESCRIPTION"), ("StarCount", "STARS"), ("IsOfficial", "OFFICIAL")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let term = &flags.args[0];
    let default = "{{.Name}}\t{{.Description}}\t{{.StarCount}}\t{{.IsOfficial}}";
    let asked = flags.string("format");
    let format = Format::new(asked, default).check()?;
    let auth = credentials::get(app.config(), &app.environment, domain(term)?)?;
    let limit = flags.int("limit");
    let results = app.client()?.search_images(term, limit, &common::filters(flags), auth.as_ref())?;
    let truncate = !flags.bool("no-trunc");
    let lines: Vec<Line<'_>> =
        results.iter().map(|result| Line { result, truncate, json: asked == "json" }).collect();
    app.streams.print(&list::render(&format, COLUMNS, &lines)?)
}

/// The registry whose credentials a search needs.
fn domain(term: &str) -> Result<&str> {
    if term.contains("://") {
        let message = format!("invalid repository name: repository name ({term}) should not have a scheme");
        return Err(CliError::new(message));
    }
    Ok(match term.split_once('/') {
        Some((first, _)) if first.contains(['.', ':']) || first == "localhost" => first,
        _ => palan_oci::reference::DEFAULT_DOMAIN,
    })
}

struct Line<'a> {
    result: &'a SearchResult,
    truncate: bool,
    json: bool,
}

impl Line<'_> {
    fn truth(&self, value: bool) -> &'static str {
        match (value, self.json) {
            (true, true) => "true",
            (false, true) => "false",
            (true, false) => "[OK]",
            (false, false) => "",
        }
    }
}

impl Row for Line<'_> {
    fn field(&self, name: &str) -> String {
        let result = self.result;
        match name {
            "Name" => result.name.clone(),
            "Description" => {
                let line = result.description.replace(['\n', '\r'], " ");
                if self.truncate { human::ellipsis(&line, 45) } else { line }
            }
            "StarCount" => result.star_count.to_string(),
            "IsOfficial" => self.truth(result.is_official).to_owned(),
            _ => String::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terms_name_their_registry() {
        assert_eq!(domain("debian").ok(), Some("docker.io"));
        assert_eq!(domain("team/app").ok(), Some("docker.io"));
        assert_eq!(domain("localhost/app").ok(), Some("localhost"));
        assert_eq!(domain("r.example:5000/app").ok(), Some("r.example:5000"));
        assert!(domain("https://r.example/app").is_err());
    }
}
