//! `palan network connect`.

use palan_docker_api::types::{EndpointIpamConfig, EndpointSettings};

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::run_flags::networks::{check_address, check_link};
use crate::run_flags::request::map;

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] NETWORK CONTAINER", "Connect a container to a network", Arity::Exactly(2), run)
};

static FLAGS: &[Flag] = &[
    Flag::list("alias", None, "Add network-scoped alias for the container").named("strings"),
    Flag::list("driver-opt", None, "driver options for the network").named("strings"),
    Flag::int(
        "gw-priority",
        None,
        "Highest gw-priority provides the default gateway. Accepts positive and negative values.",
    ),
    Flag::string("ip", None, "IPv4 address (e.g., \"172.30.100.104\")").named("ip").check(check_address),
    Flag::string("ip6", None, "IPv6 address (e.g., \"2001:db8::33\")").named("ip").check(check_address),
    Flag::list("link", None, "Add link to another container").check(check_link),
    Flag::list("link-local-ip", None, "Add a link-local address for the container")
        .named("ipSlice")
        .check(check_address),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let list = |name: &str| flags.list(name).iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
    let ipam = EndpointIpamConfig {
        ipv4_address: flags.string("ip").to_owned(),
        ipv6_address: flags.string("ip6").to_owned(),
        link_local_ips: list("link-local-ip"),
    };
    let endpoint = EndpointSettings {
        ipam_config: Some(ipam),
        links: list("link"),
        aliases: list("alias"),
        driver_opts: map(flags.list("driver-opt")),
        gw_priority: flags.int("gw-priority"),
        ..EndpointSettings::default()
    };
    Ok(app.client()?.connect_network(&flags.args[0], &flags.args[1], Some(endpoint))?)
}
