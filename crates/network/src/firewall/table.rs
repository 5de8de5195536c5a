//! Our nftables tables, `ip palan` by default, and `ip6 palan` while a network has IPv6.
//!
//! ```text
//! prerouting -300  guard        127.0.0.0/8 never comes or goes over a bridge
//! prerouting -100  prerouting   to a local address, not 127.0.0.0/8 → publish
//! output     -100  output       to a local address                  → publish
//!                  publish      map (address, protocol, port) or (protocol, port) → container address and port
//! forward       0  forward      PALAN-USER; containers of one bridge (icc); nothing else into or out of an internal one;
//!                               then into a bridge: replies, published ports; nothing else. Out of it: everything but
//!                               our other bridges and other engines' ones
//! postrouting 100  postrouting  masquerade what leaves our bridges, what came from the host's loopback, and what a
//!                               container sends to one of the same bridge by way of a published port (the answer must
//!                               come back here): → hairpin. A container of another bridge is seen by its own address
//!                  hairpin      one rule for each network
//! ```
//!
//! A network is some elements of sets, a published port one element of a map; so the number of either costs a packet
//! nothing. `PALAN-USER` belongs to the administrator: it is made, and never flushed or removed except with its table.

use std::net::IpAddr;

use palan_linux::netlink::nftables::{
    self, Comparison, Conntrack, DataType, Element, Family, Header, Hook, HookPoint, Meta, Position,
    Register, Rule, Set, Transaction, Verdict, state, status,
};
use palan_linux::netlink::{self, Socket};
use rustix::io::Errno;

use crate::config::{Driver, GatewayMode, NetworkConfig};
use crate::record::PublishedPort;
use crate::{HostConfig, Subnet};

/// The administrator's chain.
const USER_CHAIN: &str = "PALAN-USER";
const GUARD: &str = "guard";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const PUBLISH: &str = "publish";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";
const HAIRPIN: &str = "hairpin";

const CHAINS: [(&str, Option<Hook>); 8] = [
    (USER_CHAIN, None),
    (PUBLISH, None),
    (HAIRPIN, None),
    (GUARD, Some(Hook { kind: "filter", point: HookPoint::Prerouting, priority: -300 })),
    (PREROUTING, Some(Hook { kind: "nat", point: HookPoint::Prerouting, priority: -100 })),
    (OUTPUT, Some(Hook { kind: "nat", point: HookPoint::Output, priority: -100 })),
    (FORWARD, Some(Hook { kind: "filter", point: HookPoint::Forward, priority: 0 })),
    (POSTROUTING, Some(Hook { kind: "nat", point: HookPoint::Postrouting, priority: 100 })),
];

const FAMILIES: [Family; 2] = [Family::Ipv4, Family::Ipv6];

// Sets of interface names.
const BRIDGES: &str = "bridges";
const INTERNAL: &str = "internal";
const MASQUERADED: &str = "masqueraded";
const UNPROTECTED: &str = "unprotected";
const OTHER_BRIDGES: &str = "other-bridges";
/// Pairs of a bridge's name with itself: what goes from one port to another of a bridge whose containers may talk.
const TALKING: &str = "talking";
/// Ports published on every address, and those on one.
const ANY_ADDRESS: &str = "published";
const ONE_ADDRESS: &str = "published-on";
/// Published ports that are reached without NAT: (container address, protocol, port).
const OPENED: &str = "opened";

/// The space of an interface name in registers.
const INTERFACE_NAME: usize = 16;
const IPV4_LOOPBACK: Subnet = Subnet::constant(IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 0)), 8);
const IPV6_LOOPBACK: Subnet = Subnet::constant(IpAddr::V6(std::net::Ipv6Addr::LOCALHOST), 128);

// Registers, four bytes each; keys and data of lookups begin at the first.
const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);
const R4: Register = Register(4);
const R5: Register = Register(5);

/// What the tables must know of a network.
#[derive(Debug, Clone)]
pub(crate) struct TableNetwork {
    bridge: String,
    subnets: Vec<Subnet>,
    internal: bool,
    inter_container: bool,
    masquerade: bool,
    modes: [GatewayMode; 2],
}

impl TableNetwork {
    /// `None` for a network that has no bridge: its packets don't pass the host's firewall.
    pub(crate) fn new(config: &NetworkConfig) -> Option<Self> {
        let plans = config.ipv4.iter().chain(&config.ipv6);
        (config.driver == Driver::Bridge).then(|| Self {
            bridge: config.bridge.clone(),
            subnets: plans.map(|plan| plan.subnet.network()).collect(),
            internal: config.internal,
            inter_container: config.inter_container,
            masquerade: config.masquerade,
            modes: [config.gateway_mode, config.gateway_mode_ipv6],
        })
    }

    pub(crate) fn bridge(&self) -> &str {
        &self.bridge
    }

    fn mode(&self, family: Family) -> GatewayMode {
        self.modes[usize::from(family == Family::Ipv6)]
    }

    fn subnet(&self, family: Family) -> Option<Subnet> {
        self.subnets.iter().copied().find(|subnet| subnet.is_ipv6() == (family == Family::Ipv6))
    }
}

/// A published port and the container it leads to.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Publication {
    pub(crate) port: PublishedPort,
    pub(crate) container: IpAddr,
    /// Reached by the container's own address.
    pub(crate) routed: bool,
}

impl Publication {
    fn family(&self) -> Family {
        if self.container.is_ipv4() { Family::Ipv4 } else { Family::Ipv6 }
    }
}

/// The tables of one daemon.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    name: String,
    owner: String,
}

/// The bridge for which the kernel has rules under the configured table name, if it isn't ours.
pub(crate) fn other_owner(
    socket: &mut Socket,
    config: &HostConfig,
) -> Result<Option<String>, netlink::NetlinkError> {
    let rules = nftables::rules(socket, Family::Ipv4, &config.table, Some(GUARD))?;
    let owner = rules.into_iter().map(|rule| rule.comment).find(|comment| !comment.is_empty());
    Ok(owner.filter(|bridge| *bridge != config.owner))
}

impl Table {
    pub(crate) fn new(config: &HostConfig) -> Self {
        Self { name: config.table.clone(), owner: config.owner.clone() }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Writes everything anew in one transaction, whatever was there before.
    pub(crate) fn write(
        &self,
        socket: &mut Socket,
        networks: &[TableNetwork],
        published: &[Publication],
        other_bridges: &[String],
    ) -> Result<(), netlink::NetlinkError> {
        let mut change = Transaction::new(Family::Ipv4);
        for family in FAMILIES {
            change.turn_to(family);
            change.add_table(&self.name);
            if is_needed(family, networks) {
                self.write_family(&mut change, family, networks, published, other_bridges);
            } else {
                change.delete_table(&self.name);
            }
        }
        change.commit(socket)
    }

    fn write_family(
        &self,
        change: &mut Transaction,
        family: Family,
        networks: &[TableNetwork],
        published: &[Publication],
        other_bridges: &[String],
    ) {
        let table = self.name.as_str();
        for (chain, hook) in CHAINS {
            change.add_chain(table, chain, hook);
            if chain != USER_CHAIN {
                change.flush_chain(table, chain);
            }
        }
        let sets = sets(family);
        for set in &sets {
            change.add_set(table, set);
            change.flush_set(table, set.name);
        }
        let of_family = |network: &&TableNetwork| network.subnet(family).is_some();
        let named = |wanted: &dyn Fn(&TableNetwork) -> bool| -> Vec<Element> {
            let names = networks.iter().filter(|network| wanted(network));
            names.map(|network| Element { key: interface(&network.bridge), data: Vec::new() }).collect()
        };
        change.add_elements(table, BRIDGES, &named(&|_| true));
        change.add_elements(table, INTERNAL, &named(&|network| network.internal));
        let masqueraded = |network: &TableNetwork| {
            network.masquerade && !network.internal && network.mode(family) != GatewayMode::Routed
        };
        change.add_elements(table, MASQUERADED, &named(&masqueraded));
        let unprotected = |network: &TableNetwork| network.mode(family) == GatewayMode::NatUnprotected;
        change.add_elements(table, UNPROTECTED, &named(&unprotected));
        let talking: Vec<Element> = networks
            .iter()
            .filter(|network| network.inter_container)
            .map(|network| Element {
                key: [interface(&network.bridge), interface(&network.bridge)].concat(),
                data: Vec::new(),
            })
            .collect();
        change.add_elements(table, TALKING, &talking);
        let others: Vec<Element> =
            other_bridges.iter().map(|name| Element { key: interface(name), data: Vec::new() }).collect();
        change.add_elements(table, OTHER_BRIDGES, &others);
        self.add(change, family, published);
        for (chain, rule) in self.rules(family, networks.iter().filter(of_family)) {
            change.add_rule(table, chain, Position::End, &rule);
        }
    }

    /// Adds the ports of one endpoint.
    pub(crate) fn publish(
        &self,
        socket: &mut Socket,
        published: &[Publication],
    ) -> Result<(), netlink::NetlinkError> {
        let mut change = Transaction::new(Family::Ipv4);
        for family in FAMILIES {
            change.turn_to(family);
            self.add(&mut change, family, published);
        }
        change.commit(socket)
    }

    fn add(&self, change: &mut Transaction, family: Family, published: &[Publication]) {
        for (set, elements) in elements(family, published) {
            change.add_elements(&self.name, set, &elements);
        }
    }

    /// Removes the ports of one endpoint.
    pub(crate) fn withdraw(
        &self,
        socket: &mut Socket,
        published: &[Publication],
    ) -> Result<(), netlink::NetlinkError> {
        let mut change = Transaction::new(Family::Ipv4);
        for family in FAMILIES {
            change.turn_to(family);
            for (set, elements) in elements(family, published) {
                change.delete_elements(&self.name, set, &elements);
            }
        }
        change.commit(socket)
    }

    /// Whether the rules are all there. Their content isn't compared: whoever edits a rule of ours in place means it.
    pub(crate) fn is_intact(
        &self,
        socket: &mut Socket,
        networks: &[TableNetwork],
    ) -> Result<bool, netlink::NetlinkError> {
        for family in FAMILIES.into_iter().filter(|family| is_needed(*family, networks)) {
            let present = nftables::rules(socket, family, &self.name, None)?;
            let of_family = |network: &&TableNetwork| network.subnet(family).is_some();
            let rules = self.rules(family, networks.iter().filter(of_family));
            let count = |name: &str| present.iter().filter(|rule| rule.chain == name).count();
            let wanted = |name: &str| rules.iter().filter(|(chain, _)| *chain == name).count();
            if !CHAINS.iter().all(|(name, _)| *name == USER_CHAIN || count(name) == wanted(name)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Whether packets to the host's loopback are kept out.
    pub(crate) fn has_guard(&self, socket: &mut Socket) -> Result<bool, netlink::NetlinkError> {
        const GUARD_RULES: usize = 2;
        Ok(nftables::rules(socket, Family::Ipv4, &self.name, Some(GUARD))?.len() == GUARD_RULES)
    }

    /// Removes the tables with all they hold.
    pub(crate) fn remove(&self, socket: &mut Socket) -> Result<(), netlink::NetlinkError> {
        for family in FAMILIES {
            let mut change = Transaction::new(family);
            change.delete_table(&self.name);
            match change.commit(socket) {
                Err(error) if error.errno() != Some(Errno::NOENT) => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The rules, each with its chain, in order.
    fn rules<'a>(
        &self,
        family: Family,
        networks: impl Iterator<Item = &'a TableNetwork>,
    ) -> Vec<(&'static str, Rule)> {
        let mut rules = Vec::new();
        if family == Family::Ipv4 {
            self.guard_rules(&mut rules);
        }
        publish_rules(family, &mut rules);
        forward_rules(family, &mut rules);
        postrouting_rules(family, &mut rules);
        for network in networks {
            let Some(subnet) = network.subnet(family) else { continue };
            let same = interface_is(Rule::new(), Meta::OutputInterfaceName, &network.bridge);
            rules.push((HAIRPIN, source_in(same, subnet, true).masquerade()));
        }
        rules
    }

    /// The bridges may have `route_localnet`, so the kernel itself no longer refuses these. The comment tells whose table it
    /// is.
    fn guard_rules(&self, rules: &mut Vec<(&'static str, Rule)>) {
        let mut guard = |rule: Rule| rules.push((GUARD, rule.verdict(Verdict::Drop).comment(&self.owner)));
        guard(destination_in(leaving(Rule::new(), BRIDGES), IPV4_LOOPBACK, true));
        guard(source_in(leaving(Rule::new(), BRIDGES), IPV4_LOOPBACK, true));
    }
}

/// The IPv4 table is always there: its guard says whose the name is.
fn is_needed(family: Family, networks: &[TableNetwork]) -> bool {
    family == Family::Ipv4 || networks.iter().any(|network| network.subnet(family).is_some())
}

fn sets(family: Family) -> [Set<'static>; 9] {
    const NAME: &[DataType] = &[DataType::InterfaceName];
    const PAIR: &[DataType] = &[DataType::InterfaceName, DataType::InterfaceName];
    const PORT: &[DataType] = &[DataType::Protocol, DataType::Port];
    let (address_and_port, target): (&[DataType], &[DataType]) = match family {
        Family::Ipv6 => (
            &[DataType::Ipv6Address, DataType::Protocol, DataType::Port],
            &[DataType::Ipv6Address, DataType::Port],
        ),
        _ => (
            &[DataType::Ipv4Address, DataType::Protocol, DataType::Port],
            &[DataType::Ipv4Address, DataType::Port],
        ),
    };
    [
        Set { name: BRIDGES, key: NAME, data: &[] },
        Set { name: INTERNAL, key: NAME, data: &[] },
        Set { name: MASQUERADED, key: NAME, data: &[] },
        Set { name: UNPROTECTED, key: NAME, data: &[] },
        Set { name: OTHER_BRIDGES, key: NAME, data: &[] },
        Set { name: TALKING, key: PAIR, data: &[] },
        Set { name: ANY_ADDRESS, key: PORT, data: target },
        Set { name: ONE_ADDRESS, key: address_and_port, data: target },
        Set { name: OPENED, key: address_and_port, data: &[] },
    ]
}

/// A packet from outside that claims to go to 127.0.0.0/8 is translated before routing could refuse it; so the way in
/// must not lead to ports that are published on a loopback address. What goes to `::1` is relayed, as no answer would find back.
fn publish_rules(family: Family, rules: &mut Vec<(&'static str, Rule)>) {
    let (from_outside, from_host) = match family {
        Family::Ipv6 => (Rule::new(), destination_in(Rule::new(), IPV6_LOOPBACK, false)),
        _ => (destination_in(Rule::new(), IPV4_LOOPBACK, false), Rule::new()),
    };
    rules.push((PREROUTING, to_local(from_outside).verdict(Verdict::Jump(PUBLISH))));
    rules.push((OUTPUT, to_local(from_host).verdict(Verdict::Jump(PUBLISH))));
    let port_of_target = if family == Family::Ipv6 { R4 } else { R1 };
    let on_address = address_and_port(family, Rule::new()).lookup(ONE_ADDRESS, R0, Some(R0)).destination_nat(
        family,
        R0,
        port_of_target,
    );
    let on_any = Rule::new()
        .meta(Meta::TransportProtocol, R0)
        .payload(Header::Transport, 2, 2, R1)
        .lookup(ANY_ADDRESS, R0, Some(R0))
        .destination_nat(family, R0, port_of_target);
    rules.push((PUBLISH, on_address));
    rules.push((PUBLISH, on_any));
}

fn forward_rules(family: Family, rules: &mut Vec<(&'static str, Rule)>) {
    let mut forward = |rule: Rule, verdict| rules.push((FORWARD, rule.verdict(verdict)));
    forward(leaving(Rule::new(), BRIDGES), Verdict::Jump(USER_CHAIN));
    let from_elsewhere =
        entering(Rule::new(), BRIDGES).meta(Meta::InputInterfaceName, R0).lookup_absent(BRIDGES, R0);
    forward(from_elsewhere, Verdict::Jump(USER_CHAIN));
    let between = Rule::new()
        .meta(Meta::InputInterfaceName, R0)
        .meta(Meta::OutputInterfaceName, R4)
        .lookup(TALKING, R0, None);
    forward(between, Verdict::Accept);
    forward(leaving(Rule::new(), INTERNAL), Verdict::Drop);
    forward(entering(Rule::new(), INTERNAL), Verdict::Drop);
    forward(is_reply(entering(Rule::new(), BRIDGES)), Verdict::Accept);
    forward(is_published(entering(Rule::new(), BRIDGES), true), Verdict::Accept);
    forward(entering(Rule::new(), UNPROTECTED), Verdict::Accept);
    let opened = address_and_port(family, entering(Rule::new(), BRIDGES)).lookup(OPENED, R0, None);
    forward(opened, Verdict::Accept);
    forward(entering(Rule::new(), BRIDGES), Verdict::Drop);
    let to_other_bridge = entering(leaving(Rule::new(), BRIDGES), OTHER_BRIDGES);
    forward(is_published(to_other_bridge, false), Verdict::Drop);
}

fn postrouting_rules(family: Family, rules: &mut Vec<(&'static str, Rule)>) {
    let mut push = |rule: Rule| rules.push((POSTROUTING, rule));
    let outside =
        leaving(Rule::new(), MASQUERADED).meta(Meta::OutputInterfaceName, R0).lookup_absent(BRIDGES, R0);
    push(outside.masquerade());
    if family == Family::Ipv4 {
        push(source_in(entering(Rule::new(), BRIDGES), IPV4_LOOPBACK, true).masquerade());
    }
    push(is_published(entering(Rule::new(), BRIDGES), true).verdict(Verdict::Jump(HAIRPIN)));
}

/// The elements of the published ports, by set.
fn elements(family: Family, published: &[Publication]) -> [(&'static str, Vec<Element>); 3] {
    let (mut any, mut one, mut opened) = (Vec::new(), Vec::new(), Vec::new());
    for publication in published.iter().filter(|publication| publication.family() == family) {
        let Publication { port, container, routed } = publication;
        let key = |port_number: u16| [[port.protocol.number(), 0, 0, 0], padded(port_number)].concat();
        if *routed {
            let key = [octets(*container), key(port.container_port)].concat();
            opened.push(Element { key, data: Vec::new() });
            continue;
        }
        let data = [octets(*container), padded(port.container_port).to_vec()].concat();
        if port.host_address.is_unspecified() {
            any.push(Element { key: key(port.host_port), data });
        } else {
            let key = [octets(port.host_address), key(port.host_port)].concat();
            one.push(Element { key, data });
        }
    }
    // Two ports on the host may lead to one of the container, which then is opened once.
    opened.sort_by(|a, b| a.key.cmp(&b.key));
    opened.dedup();
    [(ANY_ADDRESS, any), (ONE_ADDRESS, one), (OPENED, opened)]
}

/// A port as it stands in a register.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME, 0);
    bytes
}

fn comparison(equal: bool) -> Comparison {
    if equal { Comparison::Equal } else { Comparison::Different }
}

/// Came from a bridge of the set.
fn leaving(rule: Rule, set: &str) -> Rule {
    rule.meta(Meta::InputInterfaceName, R0).lookup(set, R0, None)
}

/// Goes to a bridge of the set.
fn entering(rule: Rule, set: &str) -> Rule {
    rule.meta(Meta::OutputInterfaceName, R0).lookup(set, R0, None)
}

fn interface_is(rule: Rule, which: Meta, name: &str) -> Rule {
    rule.meta(which, R0).compare(R0, Comparison::Equal, &interface(name))
}

/// Loads destination address, protocol and destination port as the keys of sets have them.
fn address_and_port(family: Family, rule: Rule) -> Rule {
    let (offset, length, protocol, port) =
        if family == Family::Ipv6 { (24, 16, R4, R5) } else { (16, 4, R1, R2) };
    rule.payload(Header::Network, offset, length, R0).meta(Meta::TransportProtocol, protocol).payload(
        Header::Transport,
        2,
        2,
        port,
    )
}

fn source_in(rule: Rule, subnet: Subnet, inside: bool) -> Rule {
    address_in(rule, if subnet.is_ipv6() { 8 } else { 12 }, subnet, inside)
}

fn destination_in(rule: Rule, subnet: Subnet, inside: bool) -> Rule {
    address_in(rule, if subnet.is_ipv6() { 24 } else { 16 }, subnet, inside)
}

fn address_in(rule: Rule, offset: u32, subnet: Subnet, inside: bool) -> Rule {
    let length = if subnet.is_ipv6() { 16 } else { 4 };
    rule.payload(Header::Network, offset, length, R0).mask(R0, &octets(subnet.mask())).compare(
        R0,
        comparison(inside),
        &octets(subnet.network().address()),
    )
}

fn to_local(rule: Rule) -> Rule {
    const RTN_LOCAL: u32 = 2;
    rule.destination_type(R0).compare(R0, Comparison::Equal, &RTN_LOCAL.to_ne_bytes())
}

fn is_reply(rule: Rule) -> Rule {
    has_bits(rule.conntrack(Conntrack::State, R0), state::ESTABLISHED_OR_RELATED, true)
}

fn is_published(rule: Rule, yes: bool) -> Rule {
    has_bits(rule.conntrack(Conntrack::Status, R0), status::DESTINATION_NAT, yes)
}

fn has_bits(rule: Rule, bits: u32, yes: bool) -> Rule {
    rule.mask(R0, &bits.to_ne_bytes()).compare(R0, comparison(!yes), &[0; 4])
}
