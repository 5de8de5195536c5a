//! `palan system df`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use palan_docker_api::types::{BuildCache, ContainerSummary, DiskUsage, KindUsage};
use palan_stdx::size;

use super::super::common::FORMAT_HELP;
use super::super::{Arity, Command, container, image, volume};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::human;
use crate::output::list::{self, Column, Format, Row};

pub(crate) static COMMAND: Command =
    Command { flags: &[FLAGS], ..Command::new("[OPTIONS]", "Show docker disk usage", Arity::None, run) };

static FLAGS: &[Flag] = &[
    Flag::string("format", None, FORMAT_HELP),
    Flag::bool("verbose", Some('v'), "Show detailed information on space usage"),
];

const COLUMNS: &[Column] = &[
    ("Type", "TYPE"),
    ("TotalCount", "TOTAL"),
    ("Active", "ACTIVE"),
    ("Size", "SIZE"),
    ("Reclaimable", "RECLAIMABLE"),
];

const BUILD_CACHE: &[Column] = &[
    ("ID", "CACHE ID"),
    ("CacheType", "CACHE TYPE"),
    ("Size", "SIZE"),
    ("CreatedSince", "CREATED"),
    ("LastUsedSince", "LAST USED"),
    ("UsageCount", "USAGE"),
    ("Shared", "SHARED"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (asked, verbose) = (flags.string("format"), flags.bool("verbose"));
    let usage = app.client()?.disk_usage(verbose)?;
    if verbose {
        let text = match asked {
            "" | "table" => in_detail(&usage)?,
            _ => list::render_value(&detail_format(asked), &details(&usage))?,
        };
        return app.streams.print(&text);
    }
    let default = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    app.streams.print(&list::render(&Format::new(asked, default), COLUMNS, &lines(&usage))?)
}

/// One kind of objects.
struct Line {
    kind: &'static str,
    total: i64,
    active: i64,
    size: i64,
    reclaimable: i64,
    /// Whether the part that can be reclaimed is told in per cent, too.
    in_percent: bool,
}

fn lines(usage: &DiskUsage) -> [Line; 4] {
    fn line<T>(kind: &'static str, usage: Option<&KindUsage<T>>, in_percent: bool) -> Line {
        Line {
            kind,
            total: usage.map_or(0, |usage| usage.total_count),
            active: usage.map_or(0, |usage| usage.active_count),
            size: usage.map_or(0, |usage| usage.total_size),
            reclaimable: usage.map_or(0, |usage| usage.reclaimable),
            in_percent,
        }
    }
    [
        line("Images", usage.image_usage.as_ref(), true),
        line("Containers", usage.container_usage.as_ref(), true),
        line("Local Volumes", usage.volume_usage.as_ref(), true),
        line("Build Cache", usage.build_cache_usage.as_ref(), false),
    ]
}

fn bytes(number: i64) -> String {
    size::format_decimal(u64::try_from(number).unwrap_or(0))
}

impl Row for Line {
    fn field(&self, name: &str) -> String {
        match name {
            "Type" => self.kind.to_owned(),
            "TotalCount" => self.total.to_string(),
            "Active" => self.active.to_string(),
            "Size" => bytes(self.size),
            "Reclaimable" if self.in_percent && self.size > 0 => {
                let percent = i128::from(self.reclaimable) * 100 / i128::from(self.size);
                format!("{} ({percent}%)", bytes(self.reclaimable))
            }
            "Reclaimable" => bytes(self.reclaimable),
            _ => String::new(),
        }
    }
}

fn items<T>(usage: Option<&KindUsage<T>>) -> &[T] {
    usage.map_or(&[], |usage| &usage.items)
}

/// What belongs to the image is shown there.
fn containers(usage: &DiskUsage) -> Vec<ContainerSummary> {
    let mut containers = items(usage.container_usage.as_ref()).to_vec();
    containers.iter_mut().for_each(|container: &mut ContainerSummary| container.size_root_fs = 0);
    containers
}

/// `-v`: every object, a table for each kind.
fn in_detail(usage: &DiskUsage) -> Result<String> {
    let now = SystemTime::now();
    let cache = usage.build_cache_usage.as_ref().map_or(0, |cache| cache.total_size);
    let records: Vec<Record<'_>> = items(usage.build_cache_usage.as_ref()).iter().map(Record).collect();
    let records = list::render(
        &Format::new(
            "table",
            "{{.ID}}\t{{.CacheType}}\t{{.Size}}\t{{.CreatedSince}}\t{{.LastUsedSince}}\t{{.UsageCount}}\t{{.Shared}}",
        ),
        BUILD_CACHE,
        &records,
    )?;
    Ok(format!(
        "Images space usage:\n\n{}\nContainers space usage:\n\n{}\nLocal Volumes space usage:\n\n{}\nBuild cache usage: {}\n\n{records}",
        image::ls::usage_table(items(usage.image_usage.as_ref()), now)?,
        container::ls::usage_table(&containers(usage), now)?,
        volume::ls::usage_table(items(usage.volume_usage.as_ref()))?,
        bytes(cache),
    ))
}

/// `-v` with a template, which is applied to all of it at once.
fn detail_format(asked: &str) -> Format {
    if asked != "json" {
        return Format::plain(&crate::output::template::unescape(asked));
    }
    // In Docker's order.
    let fields = ["Images", "Containers", "Volumes", "BuildCache"];
    let fields = fields.map(|name| format!("\"{name}\":{{{{json .{name}}}}}"));
    Format::plain(&format!("{{{{print \"{{\"}}}}{}}}\n", fields.join(",")))
}

fn details(usage: &DiskUsage) -> gotmpl::Value {
    let now = SystemTime::now();
    let cache: Vec<Record<'_>> = items(usage.build_cache_usage.as_ref()).iter().map(Record).collect();
    gotmpl::Value::from(BTreeMap::from([
        ("Images".to_owned(), image::ls::usage_records(items(usage.image_usage.as_ref()), now)),
        ("Containers".to_owned(), container::ls::usage_records(&containers(usage), now)),
        ("Volumes".to_owned(), volume::ls::usage_records(items(usage.volume_usage.as_ref()))),
        ("BuildCache".to_owned(), list::records(BUILD_CACHE, &cache)),
    ]))
}

struct Record<'a>(&'a BuildCache);

impl Row for Record<'_> {
    fn field(&self, name: &str) -> String {
        match name {
            "ID" if self.0.in_use => format!("{}*", self.0.id),
            "ID" => self.0.id.clone(),
            "CacheType" => self.0.kind.clone(),
            "Size" => bytes(self.0.size),
            "CreatedSince" => since(&self.0.created_at),
            "LastUsedSince" => self.0.last_used_at.as_deref().map(since).unwrap_or_default(),
            "UsageCount" => self.0.usage_count.to_string(),
            "Shared" => self.0.shared.to_string(),
            _ => String::new(),
        }
    }
}

/// How long ago a time of the API was.
fn since(time: &str) -> String {
    let time = time.parse::<jiff::Timestamp>();
    time.map(|time| human::ago(time.as_second(), SystemTime::now())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_build_cache() {
        let time =
            jiff::Timestamp::now().checked_sub(jiff::SignedDuration::from_hours(3)).unwrap().to_string();
        let cache = BuildCache {
            id: "a".to_owned(),
            kind: "source.local".to_owned(),
            in_use: true,
            created_at: time.clone(),
            ..BuildCache::default()
        };
        let text = |record: &BuildCache| {
            BUILD_CACHE.iter().map(|column| Record(record).field(column.0)).collect::<Vec<_>>().join("|")
        };
        assert_eq!(text(&cache), "a*|source.local|0B|3 hours ago||0|false");
        let cache = BuildCache { last_used_at: Some(time), in_use: false, usage_count: 2, ..cache };
        assert_eq!(text(&cache), "a|source.local|0B|3 hours ago|3 hours ago|2|false");
    }

    #[test]
    fn the_table_is_dockers() {
        let usage = DiskUsage {
            image_usage: Some(KindUsage {
                active_count: 1,
                total_count: 3,
                reclaimable: 5_000_000,
                total_size: 20_000_000,
                items: Vec::new(),
            }),
            ..DiskUsage::default()
        };
        let format = Format::new("", "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}");
        assert_eq!(
            list::render(&format, COLUMNS, &lines(&usage)).unwrap(),
            "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\n\
             Images          3         1         20MB      5MB (25%)\n\
             Containers      0         0         0B        0B\n\
             Local Volumes   0         0         0B        0B\n\
             Build Cache     0         0         0B        0B\n"
        );
    }
}
