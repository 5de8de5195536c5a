//! `palan events`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use gotmpl::{MissingKey, Value};
use palan_docker_api::types::EventMessage;
use palan_stdx::error_chain;

use super::super::common::{self, INSPECT_FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Kind, Result};
use crate::flags::{Flag, Parsed};
use crate::output::human;
use crate::output::template::{self, Order};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan system events, palan events",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "Get real time events from the server", Arity::None, run)
};

static FLAGS: &[Flag] = &[
    common::filter_flag(Some('f'), "Filter output based on conditions provided"),
    Flag::string("format", None, INSPECT_FORMAT_HELP),
    Flag::string("since", None, "Show all events created since timestamp"),
    Flag::string("until", None, "Stream events until this timestamp"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let format = flags.string("format");
    let source = template::unescape(format);
    let wrong =
        |error: &gotmpl::TemplateError| CliError::of(Kind::Template, template::describe(&source, error));
    let parsed =
        template::parse(&source, MissingKey::Error, Arc::new(Order::default())).map_err(|e| wrong(&e))?;
    let named = named_attributes(&source);
    let (since, until) = common::range(flags)?;
    let zone = common::zone();
    let events = app.client()?.events(since.as_deref(), until.as_deref(), &common::filters(flags))?;
    for event in events {
        let event = event.map_err(|error| CliError::new(error_chain::to_string(&error)))?;
        let line = match format {
            "" => display(&event, &zone),
            "json" | "{{json .}}" => {
                serde_json::to_string(&event).map_err(|error| CliError::new(error.to_string()))?
            }
            _ => parsed
                .execute(&data(&event, &named))
                .map_err(|error| CliError::new(template::describe(&source, &error)))?,
        };
        app.streams.line(&line)?;
    }
    Ok(())
}

fn display(event: &EventMessage, zone: &jiff::tz::TimeZone) -> String {
    let mut text = String::new();
    let nanoseconds =
        if event.time_nano == 0 { event.time.saturating_mul(1_000_000_000) } else { event.time_nano };
    if nanoseconds != 0 {
        let _ = write!(text, "{} ", human::rfc3339_nano(nanoseconds, zone));
    }
    let _ = write!(text, "{} {} {}", event.kind, event.action, event.actor.id);
    let attributes: Vec<String> =
        event.actor.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
    if !attributes.is_empty() {
        let _ = write!(text, " ({})", attributes.join(", "));
    }
    text
}

/// The attributes that a template names. Those are a map in Go, where one that is missing is no error as a field would be.
fn named_attributes(source: &str) -> Vec<String> {
    let names = source.split(".Attributes.").skip(1).map(|rest| {
        let end = rest.find(|letter: char| !letter.is_alphanumeric() && letter != '_').unwrap_or(rest.len());
        rest[..end].to_owned()
    });
    names.collect()
}

/// The fields under the names of Docker's Go type. `named` are attributes that have no value where the event lacks them.
fn data(event: &EventMessage, named: &[String]) -> Value {
    let text = |text: &str| Value::from(text);
    let missing = named.iter().map(|name| (name.clone(), Value::Nil));
    let given = event.actor.attributes.iter().map(|(name, value)| (name.clone(), text(value)));
    let attributes: BTreeMap<String, Value> = missing.chain(given).collect();
    let actor: BTreeMap<String, Value> =
        [("ID".to_owned(), text(&event.actor.id)), ("Attributes".to_owned(), Value::from(attributes))].into();
    let old = |field: &Option<String>, new: &str| text(field.as_deref().unwrap_or(new));
    let from = event.actor.attributes.get("image").map_or("", String::as_str);
    let fields: BTreeMap<String, Value> = [
        ("Status".to_owned(), old(&event.status, &event.action)),
        ("ID".to_owned(), old(&event.id, &event.actor.id)),
        ("From".to_owned(), old(&event.from, from)),
        ("Type".to_owned(), text(&event.kind)),
        ("Action".to_owned(), text(&event.action)),
        ("Actor".to_owned(), Value::from(actor)),
        ("Scope".to_owned(), text(&event.scope)),
        ("Time".to_owned(), Value::Int(event.time)),
        ("TimeNano".to_owned(), Value::Int(event.time_nano)),
    ]
    .into();
    Value::from(fields)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_shown_as_docker_does() {
        let event: EventMessage = serde_json::from_str(
            r#"{"Type":"container","Action":"die","Actor":{"ID":"abc","Attributes":{"name":"web","exitCode":"0"}},
                "time":1,"timeNano":1000000001}"#,
        )
        .unwrap();
        assert_eq!(
            display(&event, &jiff::tz::TimeZone::UTC),
            "1970-01-01T00:00:01.000000001Z container die abc (exitCode=0, name=web)"
        );
        let order = Arc::new(Order::default());
        let parsed =
            template::parse("{{.Type}} {{.Status}} {{.Actor.Attributes.name}}", MissingKey::Error, order)
                .unwrap();
        assert_eq!(parsed.execute(&data(&event, &[])).unwrap(), "container die web");
        let check = |source: &str, expected: &str| {
            let parsed = template::parse(source, MissingKey::Error, Arc::new(Order::default())).unwrap();
            let shown = parsed.execute(&data(&event, &named_attributes(source)));
            assert_eq!(shown.unwrap_or_else(|error| error.to_string()), expected, "{source}");
        };
        check("{{.Actor.Attributes.exitCode}} {{.Actor.Attributes.signal}}", "0 <no value>");
        check("{{if .Actor.Attributes.signal}}yes{{else}}no{{end}}", "no");
    }
}
