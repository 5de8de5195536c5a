//! What a log says about its container: the tag, and the labels and variables that the user chose.

use std::collections::BTreeMap;

use gotmpl::{MissingKey, Template, Value};
use regex_automata::meta::Regex;

use crate::container::Details;
use crate::{Error, Result};

/// The tag that a driver has when the user says nothing.
const DEFAULT_TAG: &str = "{{.ID}}";

/// What a receiver is told about a container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Origin {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) image_id: String,
    pub(super) image_name: String,
    pub(super) command: String,
    pub(super) created: String,
    pub(super) hostname: String,
    pub(super) tag: String,
    /// Labels and variables.
    pub(super) extra: BTreeMap<String, String>,
}

impl Origin {
    pub(super) fn of(details: &Details) -> Result<Self> {
        let command: Vec<&str> =
            std::iter::once(&details.path).chain(&details.args).map(String::as_str).collect();
        let mut origin = Self {
            id: details.id.clone(),
            name: details.name.clone(),
            image_id: details.image_id.clone(),
            image_name: details.config.image.clone(),
            command: command.join(" "),
            created: details.created.to_string(),
            hostname: rustix::system::uname().nodename().to_string_lossy().into_owned(),
            tag: String::new(),
            extra: extra(details)?,
        };
        let template = details.host.log.options.get("tag").filter(|tag| !tag.is_empty());
        origin.tag = tag(template.map_or(DEFAULT_TAG, String::as_str), &origin)?;
        Ok(origin)
    }
}

/// The attributes that `json-file` writes into each line; none if the user chose none.
pub(super) fn of_lines(details: &Details) -> Result<Option<String>> {
    let mut all = extra(details)?;
    if details.host.log.options.get("tag").is_some_and(|tag| !tag.is_empty()) {
        all.insert("tag".to_owned(), Origin::of(details)?.tag);
    }
    if all.is_empty() {
        return Ok(None);
    }
    // A map of strings always has a form.
    Ok(serde_json::to_string(&all).ok())
}

/// The labels and variables that the options choose, by name or by pattern.
fn extra(details: &Details) -> Result<BTreeMap<String, String>> {
    let options = &details.host.log.options;
    let names = |key: &str| -> Vec<&str> {
        options
            .get(key)
            .map(|names| names.split(',').filter(|name| !name.is_empty()).collect())
            .unwrap_or_default()
    };
    let matching = |key: &str| {
        options.get(key).filter(|text| !text.is_empty()).map(|text| pattern(key, text)).transpose()
    };
    let (labels, by_label) = (names("labels"), matching("labels-regex")?);
    let (variables, by_variable) = (names("env"), matching("env-regex")?);
    let is_match =
        |pattern: &Option<Regex>, name: &str| pattern.as_ref().is_some_and(|pattern| pattern.is_match(name));
    let own = details.config.labels.iter();
    let own = own.filter(|(name, _)| labels.contains(&name.as_str()) || is_match(&by_label, name));
    let mut chosen: BTreeMap<String, String> =
        own.map(|(name, value)| (name.clone(), value.clone())).collect();
    for variable in &details.config.env {
        if let Some((name, value)) = variable.split_once('=')
            && (variables.contains(&name) || is_match(&by_variable, name))
        {
            chosen.insert(name.to_owned(), value.to_owned());
        }
    }
    Ok(chosen)
}

/// A pattern of an option.
pub(super) fn pattern(key: &str, text: &str) -> Result<Regex> {
    Regex::new(text)
        .map_err(|error| Error::invalid(format!("error parsing {key}: '{text}'")).with_source(error))
}

/// Refuses a tag that no container can have.
pub(super) fn check_tag(template: &str) -> Result<()> {
    tag(template, &Origin::default()).map(drop)
}

fn tag(template: &str, origin: &Origin) -> Result<String> {
    let short = |id: &str| {
        let id = id.split_once(':').map_or(id, |(_, hex)| hex);
        id.get(..12).unwrap_or(id).to_owned()
    };
    let fields = [
        ("ID", short(&origin.id)),
        ("FullID", origin.id.clone()),
        ("Name", origin.name.clone()),
        ("ImageID", short(&origin.image_id)),
        ("ImageFullID", origin.image_id.clone()),
        ("ImageName", origin.image_name.clone()),
        ("Command", origin.command.clone()),
        ("Hostname", origin.hostname.clone()),
        ("DaemonName", "palan".to_owned()),
        ("ContainerID", origin.id.clone()),
        ("ContainerName", format!("/{}", origin.name)),
        ("ContainerImageID", origin.image_id.clone()),
        ("ContainerImageName", origin.image_name.clone()),
    ];
    let data: BTreeMap<_, Value> =
        fields.into_iter().map(|(name, value)| (name.into(), Value::from(value))).collect();
    let failed = |error: gotmpl::TemplateError| {
        Error::invalid(format!("failed to parse the log tag '{template}'")).with_source(error)
    };
    let parsed = Template::new("log-tag").missing_key(MissingKey::Error).parse(template).map_err(failed)?;
    parsed.execute_to_string(&Value::Map(std::sync::Arc::new(data))).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn details(options: &[(&str, &str)]) -> Details {
        let mut details =
            Details { id: "0123456789abcdef".repeat(4), name: "web".into(), ..Details::default() };
        details.config.image = "bb".into();
        details.config.labels =
            [("team", "a"), ("tier.x", "b")].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        details.config.env = vec!["MODE=fast".into(), "OTHER=1".into()];
        details.host.log.options = options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        details
    }

    #[test]
    fn tags() {
        let tag = |template: &str| Origin::of(&details(&[("tag", template)])).map(|origin| origin.tag);
        assert_eq!(Origin::of(&details(&[])).expect("fine").tag, "0123456789ab");
        assert_eq!(tag("{{.ImageName}}/{{.Name}}/{{.ID}}").expect("fine"), "bb/web/0123456789ab");
        assert_eq!(tag("plain").expect("fine"), "plain");
        assert!(tag("{{.Nosuch}}").is_err() && tag("{{").is_err());
    }

    #[test]
    fn chosen_attributes() {
        assert_eq!(of_lines(&details(&[])).expect("fine"), None);
        let chosen = [("labels", "team,nosuch"), ("env", "MODE"), ("tag", "t")];
        let text = of_lines(&details(&chosen)).expect("fine");
        assert_eq!(text.as_deref(), Some(r#"{"MODE":"fast","tag":"t","team":"a"}"#));
        let patterns = [("labels-regex", "^tier"), ("env-regex", "^(OTHER|X)$")];
        let text = of_lines(&details(&patterns)).expect("fine");
        assert_eq!(text.as_deref(), Some(r#"{"OTHER":"1","tier.x":"b"}"#));
        assert!(of_lines(&details(&[("env-regex", "(")])).is_err());
    }
}
