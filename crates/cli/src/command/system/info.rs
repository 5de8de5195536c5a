//! `palan info`.

use std::fmt::Write as _;

use palan_docker_api::client::{Query, Request};
use palan_docker_api::json as wire;
use palan_docker_api::types::SystemInfo;
use palan_stdx::size;

use super::super::common::{self, INSPECT_FORMAT_HELP};
use super::super::{Arity, Command, VERSION};
use super::version::ClientVersion;
use crate::app::App;
use crate::config_file::HUB;
use crate::error::{CliError, Kind, Result};
use crate::flags::{Flag, Parsed};
use crate::output::json::Ordered;
use crate::output::template::{self, Complete};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan system info, palan info",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS]", "Display system-wide information", Arity::None, run)
};

static FLAGS: &[Flag] = &[Flag::string("format", Some('f'), INSPECT_FORMAT_HELP)];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let format = flags.string("format");
    if !matches!(format, "" | "json") {
        let order = std::sync::Arc::default();
        template::parse(format, gotmpl::MissingKey::Error, order)
            .map_err(|error| CliError::of(Kind::Template, template::describe(format, &error)))?;
    }
    let raw = app
        .client()
        .and_then(|client| Ok(client.fetch_bytes(Request::new("GET", "/info", &Query::new()))?));
    if format.is_empty() {
        let context = app.target()?.context;
        let mut text = format!(
            "Client:\n Version:    {VERSION}\n Context:    {context}\n Debug Mode: {}\n\nServer:\n",
            app.debug()
        );
        let info = match &raw {
            Ok(bytes) => {
                let info: SystemInfo =
                    wire::from_slice(bytes).map_err(|error| CliError::new(format!("info: {error}")))?;
                let user = app.config().auth(HUB).map(|auth| auth.username).unwrap_or_default();
                server(&info, &user, app.debug(), &mut text);
                Some(info)
            }
            Err(_) => None,
        };
        app.streams.print(&text)?;
        info.iter().flat_map(|info| &info.warnings).for_each(|warning| app.streams.say(warning));
        return raw.map(drop);
    }
    let text = formatted(app, &raw?, format)?;
    app.streams.print(&text)
}

fn formatted(app: &App, raw: &[u8], format: &str) -> Result<String> {
    let broken =
        |why: &dyn std::fmt::Display| CliError::new(format!("unable to read the daemon's answer: {why}"));
    let text = std::str::from_utf8(raw).map_err(|error| broken(&error))?;
    let mut value = Ordered::parse(text).map_err(|error| broken(&error))?;
    let for_template = format != "json";
    if let Ordered::Map(members) = &mut value {
        if for_template {
            // Templates know these by the names of Docker's Go type.
            for (wire, name) in [
                ("CpuCfsPeriod", "CPUCfsPeriod"),
                ("CpuCfsQuota", "CPUCfsQuota"),
                ("HttpProxy", "HTTPProxy"),
                ("HttpsProxy", "HTTPSProxy"),
            ] {
                let found = members.iter().find(|(known, _)| known == wire).map(|(_, value)| value.clone());
                members.extend(found.map(|value| (name.to_owned(), value)));
            }
        }
        let client = ClientVersion::alone(app.target()?.context).json(for_template);
        let mut info = vec![("Debug".to_owned(), Ordered::Bool(app.debug()))];
        if let Ordered::Map(version) = client {
            info.extend(version);
        }
        info.push(("Plugins".to_owned(), Ordered::List(Vec::new())));
        info.push(("Warnings".to_owned(), Ordered::Null));
        members.push(("ClientInfo".to_owned(), Ordered::Map(info)));
    }
    if !for_template {
        let mut text = String::new();
        value.write(&mut text, false);
        return Ok(text + "\n");
    }
    let executed = common::execute(&value, format, &Complete::NONE);
    Ok(executed.map_err(|error| CliError::new(template::describe(format, &error)))? + "\n")
}

/// Docker's lines, in its order.
fn server(info: &SystemInfo, user: &str, debug: bool, text: &mut String) {
    let mut line = |label: &str, value: &dyn std::fmt::Display| {
        let _ = writeln!(text, " {label}: {value}");
    };
    line("Containers", &info.containers);
    line(" Running", &info.containers_running);
    line(" Paused", &info.containers_paused);
    line(" Stopped", &info.containers_stopped);
    line("Images", &info.images);
    let mut known = |label: &str, value: &str| {
        if !value.is_empty() {
            line(label, &value);
        }
    };
    known("Server Version", &info.server_version);
    known("Storage Driver", &info.driver);
    for [name, value] in &info.driver_status {
        known(&format!(" {name}"), value);
    }
    known("Logging Driver", &info.logging_driver);
    known("Cgroup Driver", &info.cgroup_driver);
    known("Cgroup Version", &info.cgroup_version);
    let _ = writeln!(text, " Plugins:");
    let _ = writeln!(text, "  Volume: {}", info.plugins.volume.join(" "));
    let _ = writeln!(text, "  Network: {}", info.plugins.network.join(" "));
    if !info.plugins.authorization.is_empty() {
        let _ = writeln!(text, "  Authorization: {}", info.plugins.authorization.join(" "));
    }
    let _ = writeln!(text, "  Log: {}", info.plugins.log.join(" "));
    list(text, "CDI spec directories", info.cdi_spec_dirs.iter().map(String::as_str));
    let devices: Vec<String> =
        info.discovered_devices.iter().map(|device| format!("{}: {}", device.source, device.id)).collect();
    list(text, "Discovered Devices", devices.iter().map(String::as_str));
    let _ = writeln!(text, " Swarm: {}", info.swarm.local_node_state);
    if !info.runtimes.is_empty() {
        let names: Vec<&str> = info.runtimes.keys().map(String::as_str).collect();
        let _ = writeln!(text, " Runtimes: {}\n Default Runtime: {}", names.join(" "), info.default_runtime);
    }
    if info.os_type == "linux" {
        let _ = writeln!(
            text,
            " Init Binary: {}\n containerd version: {}\n runc version: {}\n init version: {}",
            info.init_binary, info.containerd_commit.id, info.runc_commit.id, info.init_commit.id
        );
        security_options(&info.security_options, text);
    }
    host(info, debug, text);
    for (label, value) in [
        ("HTTP Proxy", &info.http_proxy),
        ("HTTPS Proxy", &info.https_proxy),
        ("No Proxy", &info.no_proxy),
        ("Username", &user.to_owned()),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, " {label}: {value}");
        }
    }
    list(text, "Labels", info.labels.iter().map(String::as_str));
    let _ = writeln!(text, " Experimental: {}", info.experimental_build);
    registries(info, text);
    let _ = writeln!(text, " Live Restore Enabled: {}", info.live_restore_enabled);
    if !info.default_address_pools.is_empty() {
        let _ = writeln!(text, " Default Address Pools:");
        for pool in &info.default_address_pools {
            let _ = writeln!(text, "   Base: {}, Size: {}", pool.base, pool.size);
        }
    }
    if let Some(firewall) = &info.firewall_backend {
        let _ = writeln!(text, " Firewall Backend: {}", firewall.driver);
        for [name, value] in &firewall.info {
            let _ = writeln!(text, "  {name}: {value}");
        }
    }
    text.push('\n');
}

fn list<'a>(text: &mut String, title: &str, items: impl Iterator<Item = &'a str>) {
    let items: Vec<&str> = items.collect();
    if !items.is_empty() {
        let _ = writeln!(text, " {title}:\n  {}", items.join("\n  "));
    }
}

/// `name=seccomp,profile=builtin` as two lines.
fn security_options(options: &[String], text: &mut String) {
    if options.is_empty() {
        return;
    }
    let _ = writeln!(text, " Security Options:");
    for option in options {
        let pairs: Vec<(&str, &str)> = option.split(',').filter_map(|pair| pair.split_once('=')).collect();
        let get = |wanted: &str| pairs.iter().find(|(name, _)| *name == wanted).map(|(_, value)| *value);
        let _ = writeln!(text, "  {}", get("name").unwrap_or(option));
        if let Some(profile) = get("profile") {
            let _ = writeln!(text, "   Profile: {profile}");
        }
    }
}

fn host(info: &SystemInfo, debug: bool, text: &mut String) {
    let memory = size::format_binary(u64::try_from(info.mem_total).unwrap_or(0));
    let cpus = info.ncpu.to_string();
    for (label, value) in [
        ("Kernel Version", &info.kernel_version),
        ("Operating System", &info.operating_system),
        ("OSType", &info.os_type),
        ("Architecture", &info.architecture),
        ("CPUs", &cpus),
        ("Total Memory", &memory),
        ("Name", &info.name),
        ("ID", &info.id),
    ] {
        if !value.is_empty() {
            let _ = writeln!(text, " {label}: {value}");
        }
    }
    let _ = writeln!(text, " Docker Root Dir: {}\n Debug Mode: {}", info.docker_root_dir, info.debug);
    if info.debug || debug {
        let _ = writeln!(
            text,
            "  File Descriptors: {}\n  Goroutines: {}\n  System Time: {}\n  EventsListeners: {}",
            info.n_fd, info.n_goroutines, info.system_time, info.n_events_listener
        );
    }
}

fn registries(info: &SystemInfo, text: &mut String) {
    let config = &info.registry_config;
    let insecure =
        config.index_configs.values().filter(|index| !index.secure).map(|index| index.name.as_str());
    let insecure = insecure.chain(config.insecure_registry_cidrs.iter().map(String::as_str));
    list(text, "Insecure Registries", insecure);
    list(text, "Registry Mirrors", config.mirrors.iter().map(String::as_str));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lines_are_dockers() {
        let info: SystemInfo = wire::from_slice(
            br#"{"Containers":3,"ContainersRunning":1,"Images":2,"Driver":"overlay","DriverStatus":[["Backing","ext4"]],
                "ServerVersion":"0.1.0","OSType":"linux","NCPU":2,"MemTotal":2147483648,"DockerRootDir":"/var/lib/palan",
                "SecurityOptions":["name=seccomp,profile=builtin"],"Plugins":{"Log":["json-file"]}}"#,
        )
        .unwrap();
        let mut text = String::new();
        server(&info, "me", false, &mut text);
        for line in [
            " Containers: 3\n  Running: 1\n  Paused: 0\n  Stopped: 0\n Images: 2\n Server Version: 0.1.0\n",
            " Storage Driver: overlay\n  Backing: ext4\n",
            " Plugins:\n  Volume: \n  Network: \n  Log: json-file\n Swarm: inactive\n",
            " Security Options:\n  seccomp\n   Profile: builtin\n",
            " CPUs: 2\n Total Memory: 2GiB\n Docker Root Dir: /var/lib/palan\n Debug Mode: false\n Username: me\n",
        ] {
            assert!(text.contains(line), "{line}\nis not in\n{text}");
        }
    }
}
