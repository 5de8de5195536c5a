//! What commands share: the same action on many objects, filters, times, and `inspect`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime};

use gotmpl::MissingKey;
use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use palan_docker_api::client::{Client, ClientError, Query, Request};
use palan_docker_api::filters::Filters;
use palan_docker_api::timestamp;
use palan_docker_api::types::ImageDeleteItem;
use palan_stdx::size;
use serde::Deserialize;

use crate::app::App;
use crate::error::{self, CliError, Kind, Result};
use crate::flags::{Flag, Parsed};
use crate::output::json::{self, Ordered};
use crate::output::template::{self, Complete, Order, Zero};

/// What `--format` of a list takes.
pub(crate) const FORMAT_HELP: &str = "Format output using a custom template:\n\
'table':            Print output in table format with column headers (default)\n\
'table TEMPLATE':   Print output in table format using the given Go template\n\
'json':             Print in JSON format\n\
'TEMPLATE':         Print output using the given Go template.\n\
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates";

/// What `--format` of an inspection takes.
pub(crate) const INSPECT_FORMAT_HELP: &str = "Format output using a custom template:\n\
'json':             Print in JSON format\n\
'TEMPLATE':         Print output using the given Go template.\n\
Refer to https://docs.docker.com/go/formatting/ for more information about formatting output with templates";

/// How many requests of one command are under way at once, as in Docker's client.
const PARALLEL: usize = 50;

/// `--filter`.
pub(crate) const fn filter_flag(short: Option<char>, help: &'static str) -> Flag {
    Flag::list("filter", short, help).named("filter").check(check_filter)
}

fn check_filter(text: &str) -> std::result::Result<(), String> {
    if text.is_empty() || text.split_once('=').is_some_and(|(name, _)| !name.trim().is_empty()) {
        return Ok(());
    }
    Err("bad format of filter (expected name=value)".to_owned())
}

/// The filters given with `--filter`.
pub(crate) fn filters(flags: &Parsed) -> Filters {
    let mut filters = Filters::new();
    for text in flags.list("filter") {
        if let Some((name, value)) = text.split_once('=') {
            filters.add(name.trim().to_lowercase(), value.trim());
        }
    }
    filters
}

/// Does the same with every named object, several at once, and prints the names it was done to in their order.
pub(crate) fn each(
    app: &App,
    names: &[String],
    action: impl Fn(&Client, &str) -> std::result::Result<(), ClientError> + Sync,
) -> Result<()> {
    let client = app.client()?;
    let mut failures = Vec::new();
    for (name, result) in names.iter().zip(in_parallel(names, |name| action(client, name))) {
        match result {
            Ok(()) => app.streams.line(name)?,
            Err(error) => failures.push(CliError::from(error)),
        }
    }
    error::join(failures)
}

/// Maps every name, several at once.
pub(crate) fn in_parallel<T: Send>(names: &[String], action: impl Fn(&str) -> T + Sync) -> Vec<T> {
    if let [name] = names {
        return vec![action(name)];
    }
    let waiting: Mutex<VecDeque<(usize, &String)>> = Mutex::new(names.iter().enumerate().collect());
    let done = Mutex::new(Vec::with_capacity(names.len()));
    thread::scope(|scope| {
        for _ in 0..names.len().min(PARALLEL) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some((index, name)) = next else { return };
                    let result = action(name);
                    done.lock().unwrap_or_else(PoisonError::into_inner).push((index, result));
                }
            });
        }
    });
    let mut done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    done.sort_by_key(|(index, _)| *index);
    done.into_iter().map(|(_, result)| result).collect()
}

/// A time as `--since` and `--until` take it: `42m` ago, RFC 3339 with parts left out, or Unix seconds.
pub(crate) fn moment(text: &str, now: SystemTime, zone: &TimeZone) -> Result<String> {
    let (sign, bare) = text.strip_prefix('-').map_or((false, text), |bare| (true, bare));
    if let Ok(ago) = palan_stdx::duration::parse(bare) {
        let moment = if sign { now.checked_add(ago) } else { now.checked_sub(ago) };
        return Ok(timestamp::format(moment.unwrap_or(SystemTime::UNIX_EPOCH)));
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(timestamp::format(SystemTime::from(moment)));
    }
    if let Some(local) = civil(text)
        && let Ok(zoned) = local.to_zoned(zone.clone())
    {
        return Ok(timestamp::format(SystemTime::from(zoned.timestamp())));
    }
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (seconds, fraction) = bare.split_once('.').unwrap_or((bare, "0"));
    if digits(seconds) && digits(fraction) {
        return Ok(text.to_owned());
    }
    Err(CliError::new(format!("failed to parse value as time or duration: {text:?}")))
}

/// `2006-01-02`, `2006-01-02T15`, `2006-01-02T15:04`, `2006-01-02T15:04:05[.999999999]`; a `Z` behind the date alone.
fn civil(text: &str) -> Option<DateTime> {
    let text = text.strip_suffix('Z').unwrap_or(text);
    let complete = match text.len() {
        10 => format!("{text}T00:00:00"),
        13 => format!("{text}:00:00"),
        16 => format!("{text}:00"),
        _ => text.to_owned(),
    };
    complete.parse().ok()
}

/// Prints what `inspect` found: raw JSON in the daemon's order, or each object through a template.
pub(crate) fn inspect(
    app: &App,
    names: &[String],
    format: &str,
    complete: &Complete<'_>,
    mut get: impl FnMut(&str) -> Result<Vec<u8>>,
) -> Result<()> {
    let wrong =
        |error: &gotmpl::TemplateError| CliError::of(Kind::Template, template::describe(format, error));
    if !matches!(format, "" | "json") {
        // A wrong template is told before anything is asked.
        template::parse(format, MissingKey::Error, Arc::default()).map_err(|error| wrong(&error))?;
    }
    let mut failures = Vec::new();
    let mut objects = Vec::new();
    for name in names {
        let found = get(name).and_then(|bytes| {
            String::from_utf8(bytes).map_err(|_| CliError::new(format!("{name}: the answer is not UTF-8")))
        });
        match found {
            Ok(text) => objects.push(text),
            Err(error) => failures.push(error),
        }
    }
    let text = match format {
        "" | "json" => {
            let list = format!("[{}]", objects.iter().map(|text| text.trim()).collect::<Vec<_>>().join(","));
            let text = if format.is_empty() { json::indent(&list, "    ") } else { json::compact(&list) };
            format!("{text}\n")
        }
        _ => {
            let mut text = String::new();
            for object in &objects {
                match through_template(object, format, complete) {
                    Ok(line) => text.push_str(&line),
                    Err(error) => {
                        failures.push(CliError::new(error));
                        continue;
                    }
                }
                text.push('\n');
            }
            if text.is_empty() {
                text.push('\n');
            }
            text
        }
    };
    app.streams.print(&text)?;
    error::join(failures)
}

fn through_template(
    object: &str,
    format: &str,
    complete: &Complete<'_>,
) -> std::result::Result<String, String> {
    let value = Ordered::parse(object).map_err(|error| format!("unable to read inspect data: {error}"))?;
    execute(&value, format, complete).map_err(|error| template::describe(format, &error))
}

/// A JSON value through a template.
pub(crate) fn execute(
    value: &Ordered,
    format: &str,
    complete: &Complete<'_>,
) -> std::result::Result<String, gotmpl::TemplateError> {
    let mut order = Order::default();
    let data = order.convert(value, &mut Vec::new(), complete);
    let parsed = template::parse(format, MissingKey::Error, Arc::new(order))?;
    // Docker's values are typed, and a typed nil prints so.
    Ok(parsed.execute(&data)?.replace("<no value>", "<nil>"))
}

/// What the daemon's objects hold where their JSON is silent.
pub(crate) const OBJECTS: Complete<'static> = Complete {
    optional: &[
        (
            "",
            &[
                ("SizeRw", Zero::Pointer),
                ("SizeRootFs", Zero::Pointer),
                ("GraphDriver", Zero::Pointer),
                ("ImageManifestDescriptor", Zero::Pointer),
                ("Descriptor", Zero::Pointer),
                ("Comment", Zero::Text),
                ("Author", Zero::Text),
                ("Parent", Zero::Text),
                ("Variant", Zero::Text),
                ("OsVersion", Zero::Text),
                ("Status", Zero::Map),
                ("UsageData", Zero::Pointer),
                ("CreatedAt", Zero::Text),
                ("Containers", Zero::Map),
            ],
        ),
        ("State", &[("Health", Zero::Pointer)]),
        (
            "Config",
            &[
                ("ExposedPorts", Zero::Map),
                ("Healthcheck", Zero::Pointer),
                ("ArgsEscaped", Zero::Flag),
                ("NetworkDisabled", Zero::Flag),
                ("MacAddress", Zero::Text),
                ("StopSignal", Zero::Text),
                ("StopTimeout", Zero::Pointer),
                ("Shell", Zero::List),
                ("User", Zero::Text),
                ("Env", Zero::List),
                ("Cmd", Zero::List),
                ("Entrypoint", Zero::List),
                ("Volumes", Zero::Map),
                ("WorkingDir", Zero::Text),
                ("OnBuild", Zero::List),
                ("Labels", Zero::Map),
            ],
        ),
        (
            "HostConfig",
            &[
                ("Annotations", Zero::Map),
                ("StorageOpt", Zero::Map),
                ("Tmpfs", Zero::Map),
                ("Sysctls", Zero::Map),
                ("Runtime", Zero::Text),
                ("KernelMemory", Zero::Number),
                ("Mounts", Zero::List),
                ("Init", Zero::Pointer),
            ],
        ),
        (
            "NetworkSettings",
            &[
                ("Bridge", Zero::Text),
                ("EndpointID", Zero::Text),
                ("Gateway", Zero::Text),
                ("GlobalIPv6Address", Zero::Text),
                ("GlobalIPv6PrefixLen", Zero::Number),
                ("IPAddress", Zero::Text),
                ("IPPrefixLen", Zero::Number),
                ("IPv6Gateway", Zero::Text),
                ("MacAddress", Zero::Text),
            ],
        ),
        ("Mounts.[]", &[("Type", Zero::Text), ("Name", Zero::Text), ("Driver", Zero::Text)]),
    ],
    maps: &[
        "Annotations",
        "Containers",
        "DriverOpts",
        "ExposedPorts",
        "Labels",
        "Networks",
        "Options",
        "PortBindings",
        "Ports",
        "Status",
        "StorageOpt",
        "Sysctls",
        "Tmpfs",
        "Volumes",
        "Data",
        "Config",
    ],
    pointers: &[
        "Healthcheck",
        "Health",
        "Init",
        "IPAMConfig",
        "MemorySwappiness",
        "OomKillDisable",
        "PidsLimit",
        "StopTimeout",
        "UsageData",
        "GraphDriver",
    ],
};

/// The time zone of the user, read when a time is first shown.
pub(crate) fn zone() -> TimeZone {
    TimeZone::system()
}

/// `since` and `until` of a command, relative to now.
pub(crate) fn range(flags: &Parsed) -> Result<(Option<String>, Option<String>)> {
    let now = SystemTime::now();
    let get = |name: &str| match flags.string(name) {
        "" => Ok(None),
        text => moment(text, now, &zone()).map(Some),
    };
    Ok((get("since")?, get("until")?))
}

/// Pauses a thread that polls.
pub(crate) fn pause(milliseconds: u64) {
    thread::sleep(Duration::from_millis(milliseconds));
}

/// What a `prune` removes, and how it talks about it.
#[derive(Debug)]
pub(crate) struct Prune<'a> {
    pub(crate) path: &'a str,
    pub(crate) object: &'a str,
    pub(crate) warning: &'a str,
    pub(crate) title: &'a str,
}

/// The answers of all prune endpoints.
#[derive(Deserialize, Default)]
#[serde(default, rename_all = "PascalCase")]
struct Pruned {
    containers_deleted: Vec<String>,
    networks_deleted: Vec<String>,
    images_deleted: Vec<ImageDeleteItem>,
    volumes_deleted: Vec<String>,
    space_reclaimed: u64,
}

/// Asks, removes what nobody uses, and says what went.
pub(crate) fn prune(app: &App, force: bool, filters: &Filters, prune: &Prune<'_>) -> Result<()> {
    if !force && !confirm(app, &format!("{}\nAre you sure you want to continue?", prune.warning))? {
        return Err(CliError::new(format!("{} prune has been cancelled", prune.object)));
    }
    let (text, reclaimed) = sweep(app, filters, prune.path, prune.title)?;
    app.streams.print(&format!("{text}{}\n", reclaimed_text(reclaimed)))
}

/// How much came free, in Docker's words.
pub(crate) fn reclaimed_text(bytes: u64) -> String {
    format!("Total reclaimed space: {}", size::format_decimal(bytes))
}

/// Has the daemon remove what nobody uses: a list of what went, and how many bytes came free.
pub(crate) fn sweep(app: &App, filters: &Filters, path: &str, title: &str) -> Result<(String, u64)> {
    let query = Query::new().with_some("filters", filters.to_json().as_deref());
    let pruned: Pruned = app.client()?.fetch(Request::new("POST", path, &query))?;
    let images = pruned.images_deleted.iter().map(|item| match item.deleted.as_str() {
        "" => format!("untagged: {}", item.untagged),
        deleted => format!("deleted: {deleted}"),
    });
    let names =
        [pruned.containers_deleted, pruned.networks_deleted, pruned.volumes_deleted].into_iter().flatten();
    let lines: Vec<String> = names.chain(images).collect();
    let text = if lines.is_empty() { String::new() } else { format!("{title}:\n{}\n\n", lines.join("\n")) };
    Ok((text, pruned.space_reclaimed))
}

/// Asks before something is deleted.
pub(crate) fn confirm(app: &App, question: &str) -> Result<bool> {
    app.streams.print(&format!("{question} [y/N] "))?;
    let mut input = std::io::BufReader::new(app.streams.take_input());
    let mut answer = String::new();
    std::io::BufRead::read_line(&mut input, &mut answer)
        .map_err(|error| CliError::io("read stdin", &error))?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_docker_does() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let check = |text: &str, expected: &str| {
            let shown = moment(text, now, &TimeZone::UTC).unwrap_or_else(|error| error.message);
            assert_eq!(shown, expected, "{text}");
        };
        check("10s", "990.000000000");
        check("1m30s", "910.000000000");
        check("1970-01-01T00:00:05Z", "5.000000000");
        check("1970-01-01T01:00:05+01:00", "5.000000000");
        check("1970-01-01T00:00:05.5", "5.500000000");
        check("1970-01-01T00:01", "60.000000000");
        check("1970-01-01T01", "3600.000000000");
        check("1970-01-02", "86400.000000000");
        check("1136073600.000000001", "1136073600.000000001");
        check("1136073600", "1136073600");
        check("x", "failed to parse value as time or duration: \"x\"");
    }

    #[test]
    fn results_keep_the_order_of_names() {
        let names: Vec<String> = (0..120).map(|number| number.to_string()).collect();
        assert_eq!(in_parallel(&names, str::to_owned), names);
    }

    #[test]
    fn templates_see_what_dockers_types_hold() {
        let check = |object: &str, format: &str, expected: &str| {
            let shown = through_template(object, format, &OBJECTS).unwrap_or_else(|error| error);
            assert_eq!(shown, expected);
        };
        let object = r#"{"Id":"x","State":{"Running":true},"Config":{"Labels":null,"Env":["A=1"]},"HostConfig":{"Binds":null}}"#;
        check(object, "{{.State.Health}}|{{.Config.Labels}}|{{.HostConfig.Binds}}", "<nil>|map[]|[]");
        check(object, "{{json .Config}}", r#"{"Labels":null,"Env":["A=1"]}"#);
        check(object, "{{if .State.Running}}up{{end}} {{index .Config.Env 0}}", "up A=1");
        check(
            object,
            "{{.Config.Nope}}",
            "template parsing error: template: :1:9: executing \"\" at <.Nope>: map has no entry for key \"Nope\"",
        );
    }
}
