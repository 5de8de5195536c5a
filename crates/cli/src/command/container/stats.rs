//! `palan stats`: a table that is drawn again twice a second, or one sample.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use palan_docker_api::client::{Client, ListOptions};
use palan_docker_api::filters::Filters;
use palan_docker_api::types::{EventMessage, MemoryStats, StatsResponse};
use palan_stdx::size;

use super::super::common::{self, FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{self, CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::output::human;
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container stats, palan stats",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] [CONTAINER...]",
        "Display a live stream of container(s) resource usage statistics",
        Arity::AtLeast(0),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::bool("all", Some('a'), "Show all containers (default shows just running)"),
    Flag::string("format", None, FORMAT_HELP),
    Flag::bool("no-stream", None, "Disable streaming stats and only pull the first result"),
    Flag::bool("no-trunc", None, "Do not truncate output"),
];

const DEFAULT: &str =
    "{{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}";

const COLUMNS: &[Column] = &[
    ("Container", "CONTAINER"),
    ("Name", "NAME"),
    ("ID", "CONTAINER ID"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// What is known of one container; the table shows `--` for what is not.
#[derive(Debug, Clone, Default)]
struct Entry {
    container: String,
    sample: Option<StatsResponse>,
    failure: Option<CliError>,
    /// Its first answer has come, or will not.
    ready: bool,
    gone: bool,
}

type Entries = Arc<Mutex<Vec<Entry>>>;

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let asked = match flags.string("format") {
        "" => app.config().text("statsFormat"),
        asked => asked,
    };
    let format = Format::new(asked, DEFAULT).check()?;
    let truncate = !flags.bool("no-trunc");
    let client = app.client()?;
    let stream = !flags.bool("no-stream");
    let entries = Entries::default();
    let all = flags.args.is_empty();
    if all {
        if stream {
            follow(client, &entries, flags.bool("all"));
        }
        let options = ListOptions { all: flags.bool("all"), ..ListOptions::default() };
        for container in client.list_containers(&options)? {
            collect(client, &entries, &container.id, stream);
        }
    } else {
        flags.args.iter().for_each(|name| collect(client, &entries, name, stream));
    }
    while !snapshot(&entries).iter().all(|entry| entry.ready) {
        common::pause(5);
    }
    if !all {
        error::join(snapshot(&entries).into_iter().filter_map(|entry| entry.failure).collect())?;
    }
    if !stream {
        let text = table(&format, &snapshot(&entries), truncate)?;
        return app.streams.print(&text);
    }
    loop {
        let rows = snapshot(&entries);
        if rows.is_empty() && !all {
            return app.streams.print("\x1b[H\x1b[J");
        }
        let mut frame = "\x1b[H".to_owned();
        // Each line may be shorter than what it is drawn over, and there may be fewer.
        for line in table(&format, &rows, truncate)?.lines() {
            frame.push_str(line);
            frame.push_str("\x1b[K\n");
        }
        frame.push_str("\x1b[J");
        app.streams.print(&frame)?;
        common::pause(500);
    }
}

fn snapshot(entries: &Entries) -> Vec<Entry> {
    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    entries.retain(|entry| !entry.gone);
    entries.clone()
}

fn update(entries: &Entries, container: &str, change: impl FnOnce(&mut Entry)) {
    let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(entry) = entries.iter_mut().find(|entry| entry.container == container) {
        change(entry);
    }
}

/// Reads one container's samples in a thread of its own.
fn collect(client: &Client, entries: &Entries, container: &str, stream: bool) {
    {
        let mut entries = entries.lock().unwrap_or_else(PoisonError::into_inner);
        if entries.iter().any(|entry| entry.container == container && !entry.gone) {
            return;
        }
        entries.push(Entry { container: container.to_owned(), ..Entry::default() });
    }
    let (client, entries, container) = (client.clone(), Arc::clone(entries), container.to_owned());
    thread::spawn(move || {
        match client.container_stats(&container, stream, false) {
            Err(error) => update(&entries, &container, |entry| entry.failure = Some(error.into())),
            Ok(samples) => {
                for sample in samples.map_while(std::result::Result::ok) {
                    update(&entries, &container, |entry| {
                        entry.sample = Some(sample);
                        entry.ready = true;
                    });
                }
            }
        }
        update(&entries, &container, |entry| entry.ready = true);
    });
}

/// Adds containers as they start and drops them as they end.
fn follow(client: &Client, entries: &Entries, all: bool) {
    let (client, entries) = (client.clone(), Arc::clone(entries));
    thread::spawn(move || {
        let mut filters = Filters::new();
        filters.add("type", "container");
        let Ok(events) = client.events(None, None, &filters) else { return };
        for EventMessage { action, actor, .. } in events.map_while(std::result::Result::ok) {
            match action.as_str() {
                "start" => collect(&client, &entries, &actor.id, true),
                "create" if all => collect(&client, &entries, &actor.id, true),
                "die" if !all => update(&entries, &actor.id, |entry| entry.gone = true),
                "destroy" => update(&entries, &actor.id, |entry| entry.gone = true),
                _ => {}
            }
        }
    });
}

fn table(format: &Format, entries: &[Entry], truncate: bool) -> Result<String> {
    let lines: Vec<Line<'_>> = entries.iter().map(|entry| Line { entry, truncate }).collect();
    list::render(format, COLUMNS, &lines)
}

struct Line<'a> {
    entry: &'a Entry,
    truncate: bool,
}

impl Row for Line<'_> {
    fn field(&self, name: &str) -> String {
        let none = || "--".to_owned();
        if name == "Container" {
            return self.entry.container.clone();
        }
        let Some(sample) = &self.entry.sample else {
            return match name {
                "ID" if self.truncate => human::truncate_id(&self.entry.container).to_owned(),
                "ID" => self.entry.container.clone(),
                "MemUsage" => "-- / --".to_owned(),
                _ => none(),
            };
        };
        let decimal = |(a, b): (u64, u64)| {
            format!("{} / {}", size::format_decimal_short(a), size::format_decimal_short(b))
        };
        let memory = &sample.memory_stats;
        match name {
            "Name" => match sample.name.strip_prefix('/').unwrap_or(&sample.name) {
                "" => none(),
                name => name.to_owned(),
            },
            "ID" if self.truncate => human::truncate_id(&sample.id).to_owned(),
            "ID" => sample.id.clone(),
            "CPUPerc" => format!("{:.2}%", cpu_percentage(sample)),
            "MemUsage" => {
                format!("{} / {}", size::format_binary(used(memory)), size::format_binary(memory.limit))
            }
            "MemPerc" => format!("{:.2}%", percentage(used(memory), memory.limit)),
            "NetIO" => decimal(sample.networks.values().fold((0, 0), |(received, sent), network| {
                (received + network.rx_bytes, sent + network.tx_bytes)
            })),
            "BlockIO" => decimal(block_io(sample)),
            "PIDs" => sample.pids_stats.current.to_string(),
            _ => String::new(),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "two digits behind the point are shown")]
fn percentage(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 * 100.0 }
}

fn cpu_percentage(sample: &StatsResponse) -> f64 {
    let (now, before) = (&sample.cpu_stats, &sample.precpu_stats);
    let used = now.cpu_usage.total_usage.saturating_sub(before.cpu_usage.total_usage);
    let passed = now.system_cpu_usage.saturating_sub(before.system_cpu_usage);
    let cpus = match now.online_cpus {
        0 => u32::try_from(now.cpu_usage.percpu_usage.len()).unwrap_or(1),
        cpus => cpus,
    };
    percentage(used, passed) * f64::from(cpus)
}

/// Memory without the cache that the kernel would give back first: v1's name of it, else v2's.
fn used(memory: &MemoryStats) -> u64 {
    let cache = |name: &str| memory.stats.get(name).copied().filter(|cache| *cache < memory.usage);
    memory.usage - cache("total_inactive_file").or_else(|| cache("inactive_file")).unwrap_or(0)
}

fn block_io(sample: &StatsResponse) -> (u64, u64) {
    let entries = sample.blkio_stats.io_service_bytes_recursive.iter();
    entries.fold((0, 0), |(read, written), entry| match entry.op.bytes().next() {
        Some(b'r' | b'R') => (read + entry.value, written),
        Some(b'w' | b'W') => (read, written + entry.value),
        _ => (read, written),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_dockers() {
        let sample = serde_json::from_str(
            r#"{"id":"0123456789abcdef","name":"/web","pids_stats":{"current":3},
                "cpu_stats":{"cpu_usage":{"total_usage":300},"system_cpu_usage":2000,"online_cpus":2},
                "precpu_stats":{"cpu_usage":{"total_usage":200},"system_cpu_usage":1000},
                "memory_stats":{"usage":3145728,"limit":1073741824,"stats":{"inactive_file":1048576}},
                "networks":{"eth0":{"rx_bytes":1234,"tx_bytes":5}},
                "blkio_stats":{"io_service_bytes_recursive":[{"op":"Read","value":4096},{"op":"write","value":1}]}}"#,
        )
        .unwrap();
        let entries = [
            Entry { container: "web".to_owned(), sample: Some(sample), ..Entry::default() },
            Entry { container: "fedcba9876543210".to_owned(), ..Entry::default() },
        ];
        assert_eq!(
            table(&Format::new("", DEFAULT), &entries, true).unwrap(),
            "CONTAINER ID   NAME      CPU %     MEM USAGE / LIMIT   MEM %     NET I/O       BLOCK I/O    PIDS\n\
             0123456789ab   web       20.00%    2MiB / 1GiB         0.20%     1.23kB / 5B   4.1kB / 1B   3\n\
             fedcba987654   --        --        -- / --             --        --            --           --\n"
        );
    }
}
