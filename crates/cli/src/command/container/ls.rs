//! `palan ps`.

use std::time::SystemTime;

use palan_docker_api::client::ListOptions;
use palan_docker_api::types::ContainerSummary;
use palan_oci::Reference;
use palan_stdx::size;

use super::super::common::{self, FORMAT_HELP};
use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed, quote};
use crate::output::human;
use crate::output::list::{self, Column, Format, Row};
use crate::output::ports::{self, Port};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container ls, palan container list, palan container ps, palan ps",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "List containers", Arity::None, run)
};

static FLAGS: &[Flag] = &[
    Flag::bool("all", Some('a'), "Show all containers (default shows just running)"),
    common::filter_flag(Some('f'), "Filter output based on conditions provided"),
    Flag::string("format", None, FORMAT_HELP),
    Flag::int("last", Some('n'), "Show n last created containers (includes all states)").default("-1"),
    Flag::bool("latest", Some('l'), "Show the latest created container (includes all states)"),
    Flag::bool("no-trunc", None, "Don't truncate output"),
    Flag::bool("quiet", Some('q'), "Only display container IDs"),
    Flag::bool("size", Some('s'), "Display total file sizes"),
];

const DEFAULT: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

const COLUMNS: &[Column] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Platform", "PLATFORM"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
    ("HealthStatus", "HEALTH STATUS"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (quiet, size) = (flags.bool("quiet"), flags.bool("size"));
    let asked = match flags.string("format") {
        "" if !quiet => app.config().text("psFormat"),
        asked => asked,
    };
    let format = format(asked, quiet, size).check()?;
    let last = match flags.int("last") {
        -1 if flags.bool("latest") => 1,
        last => last,
    };
    let options = ListOptions {
        all: flags.bool("all"),
        limit: u64::try_from(last).ok().filter(|last| *last > 0),
        // `json` alone doesn't cost the daemon a walk through every container, as in Docker.
        size: size || (asked != "json" && format.uses("Size")),
        filters: common::filters(flags),
    };
    let containers = app.client()?.list_containers(&options)?;
    let (truncate, now) = (!flags.bool("no-trunc"), SystemTime::now());
    let lines: Vec<Line<'_>> = containers.iter().map(|container| Line { container, truncate, now }).collect();
    app.streams.print(&list::render(&format, COLUMNS, &lines)?)
}

fn format(asked: &str, quiet: bool, size: bool) -> Format {
    match (asked, quiet) {
        ("raw", true) => Format::plain("container_id: {{.ID}}"),
        ("raw", false) => Format::plain(&format!(
            "container_id: {{{{.ID}}}}\nimage: {{{{.Image}}}}\ncommand: {{{{.Command}}}}\ncreated_at: {{{{.CreatedAt}}}}\n\
             state: {{{{- pad .State 1 0}}}}\nstatus: {{{{- pad .Status 1 0}}}}\nnames: {{{{.Names}}}}\n\
             labels: {{{{- pad .Labels 1 0}}}}\nports: {{{{- pad .Ports 1 0}}}}\n{}",
            if size { "size: {{.Size}}\n" } else { "" }
        )),
        (_, true) => Format::plain("{{.ID}}"),
        (asked, false) => Format::new(asked, &format!("{DEFAULT}{}", if size { "\t{{.Size}}" } else { "" })),
    }
}

/// The table of `system df -v`.
pub(crate) fn usage_table(containers: &[ContainerSummary], now: SystemTime) -> Result<String> {
    let template = "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}";
    let lines: Vec<Line<'_>> =
        containers.iter().map(|container| Line { container, truncate: true, now }).collect();
    list::render(&Format::new("table", template), COLUMNS, &lines)
}

/// What the table of `system df -v` is made of, uncut.
pub(crate) fn usage_records(containers: &[ContainerSummary], now: SystemTime) -> gotmpl::Value {
    let lines: Vec<Line<'_>> =
        containers.iter().map(|container| Line { container, truncate: false, now }).collect();
    list::records(COLUMNS, &lines)
}

struct Line<'a> {
    container: &'a ContainerSummary,
    truncate: bool,
    now: SystemTime,
}

impl Row for Line<'_> {
    fn field(&self, name: &str) -> String {
        let container = self.container;
        match name {
            "ID" if self.truncate => human::truncate_id(&container.id).to_owned(),
            "ID" => container.id.clone(),
            "Names" => self.names(),
            "Image" => self.image(),
            "Command" if self.truncate => quote(&human::ellipsis(&container.command, 20)),
            "Command" => quote(&container.command),
            "CreatedAt" => human::local_time(container.created, &common::zone()),
            "RunningFor" => human::ago(container.created, self.now),
            "Platform" => self.platform(),
            "Ports" => ports::display(&self.ports()),
            "State" => container.state.clone(),
            "Status" => container.status.clone(),
            "Size" => self.size(),
            "Labels" => {
                let labels = container.labels.iter();
                labels.map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join(",")
            }
            "Mounts" => self.mounts(),
            "LocalVolumes" => {
                container.mounts.iter().filter(|mount| mount.driver == "local").count().to_string()
            }
            "Networks" => {
                let names: Vec<&str> =
                    container.network_settings.networks.keys().map(String::as_str).collect();
                names.join(",")
            }
            "HealthStatus" => self.health(),
            _ => String::new(),
        }
    }

    fn labels(&self) -> Vec<(&str, &str)> {
        self.container.labels.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
    }
}

impl Line<'_> {
    fn names(&self) -> String {
        let names = self.container.names.iter().map(|name| name.strip_prefix('/').unwrap_or(name));
        if self.truncate {
            // The others are those of links, which have a slash inside.
            return names.filter(|name| !name.contains('/')).take(1).collect();
        }
        names.collect::<Vec<_>>().join(",")
    }

    fn image(&self) -> String {
        let (image, id) = (self.container.image.as_str(), self.container.image_id.as_str());
        if image.is_empty() {
            return "<no image>".to_owned();
        }
        if !self.truncate {
            return image.to_owned();
        }
        if human::truncate_id(id) == human::truncate_id(image) {
            return human::truncate_id(id).to_owned();
        }
        let Ok(reference) = Reference::parse(image) else { return image.to_owned() };
        match (reference.digest(), reference.tag()) {
            (Some(_), Some(tag)) => format!("{}:{tag}", reference.familiar_name()),
            (Some(_), None) => reference.familiar_name(),
            (None, _) => reference.familiar(),
        }
    }

    fn platform(&self) -> String {
        let descriptor = self.container.image_manifest_descriptor.as_ref();
        let Some(platform) = descriptor.and_then(|descriptor| descriptor.platform.as_ref()) else {
            return String::new();
        };
        let variant =
            if platform.variant.is_empty() { String::new() } else { format!("/{}", platform.variant) };
        format!("{}/{}{variant}", platform.os, platform.architecture)
    }

    fn ports(&self) -> Vec<Port> {
        let ports = self.container.ports.iter();
        ports
            .map(|port| Port {
                address: port.ip.parse().ok(),
                private: port.private_port,
                public: port.public_port,
                protocol: port.kind.clone(),
            })
            .collect()
    }

    fn size(&self) -> String {
        let shown = |bytes: i64| size::format_decimal_short(u64::try_from(bytes).unwrap_or(0));
        let own = shown(self.container.size_rw);
        match self.container.size_root_fs {
            ..=0 => own,
            all => format!("{own} (virtual {})", shown(all)),
        }
    }

    fn mounts(&self) -> String {
        let names = self.container.mounts.iter().map(|mount| {
            let name = if mount.name.is_empty() { &mount.source } else { &mount.name };
            if self.truncate { human::ellipsis(name, 15) } else { name.clone() }
        });
        names.collect::<Vec<_>>().join(",")
    }

    fn health(&self) -> String {
        if let Some(health) = self.container.health.as_ref().filter(|health| !health.status.is_empty()) {
            return if health.status == "none" { String::new() } else { health.status.clone() };
        }
        let status = self.container.status.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
        let status =
            status.map(|status| status.strip_prefix("health: ").unwrap_or(status)).unwrap_or_default();
        if matches!(status, "healthy" | "unhealthy" | "starting") { status.to_owned() } else { String::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn container() -> ContainerSummary {
        serde_json::from_str(
            r#"{"Id":"0123456789abcdef0123","Names":["/other/alias","/web"],"Image":"docker.io/library/nginx:1",
                "ImageID":"sha256:ffff","Command":"/docker-entrypoint.sh nginx -g 'daemon off;'","Created":1000,
                "Ports":[{"IP":"0.0.0.0","PrivatePort":80,"PublicPort":8080,"Type":"tcp"}],
                "Labels":{"b":"2","a":"1"},"State":"running","Status":"Up 2 minutes (Paused)",
                "SizeRw":2000,"SizeRootFs":1230000,
                "Mounts":[{"Name":"0123456789abcdef0123","Driver":"local","Source":"/x"}],
                "NetworkSettings":{"Networks":{"bridge":{}}}}"#,
        )
        .unwrap()
    }

    fn check(format: &Format, truncate: bool, expected: &str) {
        let container = container();
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1130);
        let lines = [Line { container: &container, truncate, now }];
        assert_eq!(list::render(format, COLUMNS, &lines).unwrap(), expected);
    }

    #[test]
    fn the_table_is_dockers() {
        check(
            &format("", false, false),
            true,
            "CONTAINER ID   IMAGE     COMMAND                  CREATED         STATUS                  PORTS                  NAMES\n\
             0123456789ab   nginx:1   \"/docker-entrypoint.…\"   2 minutes ago   Up 2 minutes (Paused)   0.0.0.0:8080->80/tcp   web\n",
        );
    }

    #[test]
    fn fields_and_options() {
        check(
            &format("{{.Size}}|{{.Mounts}}|{{.Labels}}|{{.Networks}}|{{.LocalVolumes}}", false, false),
            true,
            "2kB (virtual 1.23MB)|0123456789abcd…|a=1,b=2|bridge|1\n",
        );
        check(
            &format("{{.Names}} {{.Image}} {{.ID}} {{.Label \"a\"}}", false, false),
            false,
            "other/alias,web docker.io/library/nginx:1 0123456789abcdef0123 1\n",
        );
        check(&format("", true, false), true, "0123456789ab\n");
        check(&format("raw", true, false), true, "container_id: 0123456789ab\n");
        assert!(format("{{.Size}}", false, false).uses("Size"));
        assert!(!format("", false, false).uses("Size"));
    }
}
