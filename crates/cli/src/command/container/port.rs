//! `palan port`.

use palan_docker_api::types::PortBinding;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::Parsed;
use crate::output::ports::host_port;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container port, palan port",
    ..Command::new(
        "CONTAINER [PRIVATE_PORT[/PROTO]]",
        "List port mappings or a specific mapping for the container",
        Arity::Between(1, 2),
        run,
    )
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let name = &flags.args[0];
    let ports = app.client()?.inspect_container(name, false)?.network_settings.ports;
    let lines = match flags.args.get(1) {
        None => {
            let mut lines = Vec::new();
            for (port, bindings) in &ports {
                for binding in bindings.iter().flatten() {
                    lines.push(format!("{port} -> {}", display(binding)));
                }
            }
            sort_by_port(&mut lines);
            lines
        }
        Some(asked) => {
            let (port, protocol) = asked.split_once('/').unwrap_or((asked, "tcp"));
            if port.parse::<u16>().is_err() {
                return Err(CliError::new(format!("invalid port '{port}'")));
            }
            let key = format!("{port}/{protocol}");
            let bindings = ports.get(&key).and_then(Option::as_ref);
            let bindings = bindings
                .ok_or_else(|| CliError::new(format!("no public port '{asked}' published for {name}")))?;
            bindings.iter().map(display).collect()
        }
    };
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    app.streams.print(&text)
}

fn display(binding: &PortBinding) -> String {
    match binding.host_ip.parse() {
        Ok(address) => host_port(address, &binding.host_port),
        Err(_) => format!("{}:{}", binding.host_ip, binding.host_port),
    }
}

/// By the number of the container's port, as people count.
fn sort_by_port(lines: &mut [String]) {
    lines.sort_by_key(|line| {
        let number = line.split(['/', ' ']).next().and_then(|port| port.parse::<u16>().ok());
        (number, line.clone())
    });
}
