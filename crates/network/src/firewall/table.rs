//! Our nftables table, `ip palan` by default.
//!
//! ```text
//! prerouting -300  guard        127.0.0.0/8 never comes or goes over the bridge
//! prerouting -100  prerouting   to a local address, not 127.0.0.0/8 → publish
//! output     -100  output       to a local address                  → publish
//!                  publish      map (address, protocol, port) or (protocol, port) → container address and port
//! forward       0  forward      PALAN-USER; then into the bridge: replies, other containers (icc), published ports;
//!                               nothing else. Out of it: everything but other engines' bridges
//! postrouting 100  postrouting  masquerade what leaves the subnet, what came from 127.0.0.1, and what a container
//!                               sends to a container by way of a published port (the answer must come back here)
//! ```
//!
//! One published port is one element of a map. `PALAN-USER` belongs to the administrator: it is made, and never
//! flushed or removed except with the whole table.

use std::net::Ipv4Addr;

use palan_linux::netlink::nftables::{
    self, Comparison, Conntrack, DataType, Element, Header, Hook, HookPoint, Meta, Position, Register, Rule,
    Set, Transaction, Verdict, state, status,
};
use palan_linux::netlink::{self, Socket};
use rustix::io::Errno;

use crate::record::PublishedPort;
use crate::{NetworkConfig, Subnet};

/// The administrator's chain.
const USER_CHAIN: &str = "PALAN-USER";
const GUARD: &str = "guard";
const PREROUTING: &str = "prerouting";
const OUTPUT: &str = "output";
const PUBLISH: &str = "publish";
const FORWARD: &str = "forward";
const POSTROUTING: &str = "postrouting";

const CHAINS: [(&str, Option<Hook>); 7] = [
    (USER_CHAIN, None),
    (PUBLISH, None),
    (GUARD, Some(Hook { kind: "filter", point: HookPoint::Prerouting, priority: -300 })),
    (PREROUTING, Some(Hook { kind: "nat", point: HookPoint::Prerouting, priority: -100 })),
    (OUTPUT, Some(Hook { kind: "nat", point: HookPoint::Output, priority: -100 })),
    (FORWARD, Some(Hook { kind: "filter", point: HookPoint::Forward, priority: 0 })),
    (POSTROUTING, Some(Hook { kind: "nat", point: HookPoint::Postrouting, priority: 100 })),
];

const TARGET: &[DataType] = &[DataType::Ipv4Address, DataType::Port];
/// Ports published on every address.
const ANY_ADDRESS: Set<'_> =
    Set { name: "published", key: &[DataType::Protocol, DataType::Port], data: TARGET };
/// Ports published on one address.
const ONE_ADDRESS: Set<'_> = Set {
    name: "published-on",
    key: &[DataType::Ipv4Address, DataType::Protocol, DataType::Port],
    data: TARGET,
};
/// Bridges of other engines.
const OTHER_BRIDGES: Set<'_> = Set { name: "other-bridges", key: &[DataType::InterfaceName], data: &[] };

const LOOPBACK: Subnet = Subnet::constant(Ipv4Addr::new(127, 0, 0, 0), 8);
/// The space of an interface name in registers.
const INTERFACE_NAME: usize = 16;

// Registers by what they hold; a rule that looks a port up needs the first three in a row.
const R0: Register = Register(0);
const R1: Register = Register(1);
const R2: Register = Register(2);

/// The table of one network.
#[derive(Debug, Clone)]
pub(crate) struct Table {
    name: String,
    bridge: String,
    subnet: Subnet,
    inter_container: bool,
    masquerade: bool,
}

/// The bridge for which the kernel has rules under the configured table name, if it isn't ours.
pub(crate) fn other_owner(
    socket: &mut Socket,
    config: &NetworkConfig,
) -> Result<Option<String>, netlink::NetlinkError> {
    let rules = nftables::rules(socket, &config.table, Some(GUARD))?;
    let owner = rules.into_iter().map(|rule| rule.comment).find(|comment| !comment.is_empty());
    Ok(owner.filter(|bridge| *bridge != config.bridge))
}

/// A published port and the container it leads to.
pub(crate) type Publication = (PublishedPort, Ipv4Addr);

impl Table {
    pub(crate) fn new(config: &NetworkConfig, gateway: Subnet) -> Self {
        Self {
            name: config.table.clone(),
            bridge: config.bridge.clone(),
            subnet: gateway.network(),
            inter_container: config.inter_container,
            masquerade: config.masquerade,
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Writes everything anew in one transaction, whatever was there before.
    pub(crate) fn write(
        &self,
        socket: &mut Socket,
        published: &[Publication],
        other_bridges: &[String],
    ) -> Result<(), netlink::NetlinkError> {
        let table = self.name.as_str();
        let mut change = Transaction::new();
        change.add_table(table);
        for (chain, hook) in CHAINS {
            change.add_chain(table, chain, hook);
            if chain != USER_CHAIN {
                change.flush_chain(table, chain);
            }
        }
        for set in [ANY_ADDRESS, ONE_ADDRESS, OTHER_BRIDGES] {
            change.add_set(table, &set);
            change.flush_set(table, set.name);
        }
        add(&mut change, table, published);
        let names: Vec<Element> =
            other_bridges.iter().map(|name| Element { key: interface(name), data: Vec::new() }).collect();
        change.add_elements(table, OTHER_BRIDGES.name, &names);
        for (chain, rule) in self.rules() {
            change.add_rule(table, chain, Position::End, &rule);
        }
        change.commit(socket)
    }

    /// Adds the ports of one endpoint.
    pub(crate) fn publish(
        &self,
        socket: &mut Socket,
        published: &[Publication],
    ) -> Result<(), netlink::NetlinkError> {
        let mut change = Transaction::new();
        add(&mut change, &self.name, published);
        change.commit(socket)
    }

    /// Removes the ports of one endpoint.
    pub(crate) fn withdraw(
        &self,
        socket: &mut Socket,
        published: &[Publication],
    ) -> Result<(), netlink::NetlinkError> {
        let (any, one) = elements(published);
        let mut change = Transaction::new();
        change.delete_elements(&self.name, ANY_ADDRESS.name, &any);
        change.delete_elements(&self.name, ONE_ADDRESS.name, &one);
        change.commit(socket)
    }

    /// Whether the rules are all there. Their content isn't compared: whoever edits a rule of ours in place means it.
    pub(crate) fn is_intact(&self, socket: &mut Socket) -> Result<bool, netlink::NetlinkError> {
        let present = nftables::rules(socket, &self.name, None)?;
        let count = |name: &str| present.iter().filter(|rule| rule.chain == name).count();
        let rules = self.rules();
        let wanted = |name: &str| rules.iter().filter(|(chain, _)| *chain == name).count();
        Ok(CHAINS.iter().all(|(name, _)| *name == USER_CHAIN || count(name) == wanted(name)))
    }

    /// Removes the table with all it holds.
    pub(crate) fn remove(&self, socket: &mut Socket) -> Result<(), netlink::NetlinkError> {
        let mut change = Transaction::new();
        change.delete_table(&self.name);
        match change.commit(socket) {
            Err(error) if error.errno() == Some(Errno::NOENT) => Ok(()),
            other => other,
        }
    }

    /// The rules, each with its chain, in order.
    fn rules(&self) -> Vec<(&'static str, Rule)> {
        let mut rules = Vec::new();
        self.guard_rules(&mut rules);
        publish_rules(&mut rules);
        self.forward_rules(&mut rules);
        self.postrouting_rules(&mut rules);
        rules
    }

    /// The bridge has `route_localnet`, so the kernel itself no longer refuses these. The comment tells whose table it is.
    fn guard_rules(&self, rules: &mut Vec<(&'static str, Rule)>) {
        let mut guard = |rule: Rule| rules.push((GUARD, rule.verdict(Verdict::Drop).comment(&self.bridge)));
        guard(destination_in(self.leaving(), LOOPBACK, true));
        guard(source_in(self.leaving(), LOOPBACK, true));
    }

    fn forward_rules(&self, rules: &mut Vec<(&'static str, Rule)>) {
        let mut forward = |rule: Rule, verdict| rules.push((FORWARD, rule.verdict(verdict)));
        forward(self.leaving(), Verdict::Jump(USER_CHAIN));
        forward(
            interface_is(self.entering(), Meta::InputInterfaceName, &self.bridge, false),
            Verdict::Jump(USER_CHAIN),
        );
        forward(is_reply(self.entering()), Verdict::Accept);
        if self.inter_container {
            let between = interface_is(self.entering(), Meta::InputInterfaceName, &self.bridge, true);
            forward(between, Verdict::Accept);
        }
        forward(is_published(self.entering(), true), Verdict::Accept);
        forward(self.entering(), Verdict::Drop);
        let to_other_bridge =
            self.leaving().meta(Meta::OutputInterfaceName, R0).lookup(OTHER_BRIDGES.name, R0, None);
        forward(is_published(to_other_bridge, false), Verdict::Drop);
    }

    fn postrouting_rules(&self, rules: &mut Vec<(&'static str, Rule)>) {
        let mut masquerade = |rule: Rule| rules.push((POSTROUTING, rule.masquerade()));
        if self.masquerade {
            let leaving = source_in(Rule::new(), self.subnet, true);
            masquerade(interface_is(leaving, Meta::OutputInterfaceName, &self.bridge, false));
        }
        masquerade(source_in(self.entering(), LOOPBACK, true));
        masquerade(is_published(source_in(self.entering(), self.subnet, true), true));
    }

    fn leaving(&self) -> Rule {
        interface_is(Rule::new(), Meta::InputInterfaceName, &self.bridge, true)
    }

    fn entering(&self) -> Rule {
        interface_is(Rule::new(), Meta::OutputInterfaceName, &self.bridge, true)
    }
}

/// A packet from outside that claims to go to 127.0.0.0/8 is translated before routing could refuse it; so the way in
/// must not lead to ports that are published on a loopback address.
fn publish_rules(rules: &mut Vec<(&'static str, Rule)>) {
    let from_outside = destination_in(Rule::new(), LOOPBACK, false);
    rules.push((PREROUTING, to_local(from_outside).verdict(Verdict::Jump(PUBLISH))));
    rules.push((OUTPUT, to_local(Rule::new()).verdict(Verdict::Jump(PUBLISH))));
    let on_address = Rule::new()
        .payload(Header::Network, 16, 4, R0)
        .meta(Meta::TransportProtocol, R1)
        .payload(Header::Transport, 2, 2, R2)
        .lookup(ONE_ADDRESS.name, R0, Some(R0))
        .destination_nat(R0, R1);
    let on_any = Rule::new()
        .meta(Meta::TransportProtocol, R0)
        .payload(Header::Transport, 2, 2, R1)
        .lookup(ANY_ADDRESS.name, R0, Some(R0))
        .destination_nat(R0, R1);
    rules.push((PUBLISH, on_address));
    rules.push((PUBLISH, on_any));
}

fn add(change: &mut Transaction, table: &str, published: &[Publication]) {
    let (any, one) = elements(published);
    change.add_elements(table, ANY_ADDRESS.name, &any);
    change.add_elements(table, ONE_ADDRESS.name, &one);
}

/// The elements for ports on every address, and those for ports on one.
fn elements(published: &[Publication]) -> (Vec<Element>, Vec<Element>) {
    let mut any = Vec::new();
    let mut one = Vec::new();
    for (port, container) in published {
        let protocol_and_port = [[port.protocol.number(), 0, 0, 0], padded(port.host_port)].concat();
        let data = [container.octets(), padded(port.container_port)].concat();
        if port.host_address.is_unspecified() {
            any.push(Element { key: protocol_and_port, data });
        } else {
            let key = [&port.host_address.octets()[..], &protocol_and_port].concat();
            one.push(Element { key, data });
        }
    }
    (any, one)
}

/// A port as it stands in a register.
fn padded(port: u16) -> [u8; 4] {
    let [high, low] = port.to_be_bytes();
    [high, low, 0, 0]
}

fn interface(name: &str) -> Vec<u8> {
    let mut bytes = name.as_bytes().to_vec();
    bytes.resize(INTERFACE_NAME, 0);
    bytes
}

fn comparison(equal: bool) -> Comparison {
    if equal { Comparison::Equal } else { Comparison::Different }
}

fn interface_is(rule: Rule, which: Meta, name: &str, equal: bool) -> Rule {
    rule.meta(which, R0).compare(R0, comparison(equal), &interface(name))
}

fn source_in(rule: Rule, subnet: Subnet, inside: bool) -> Rule {
    address_in(rule, 12, subnet, inside)
}

fn destination_in(rule: Rule, subnet: Subnet, inside: bool) -> Rule {
    address_in(rule, 16, subnet, inside)
}

fn address_in(rule: Rule, offset: u32, subnet: Subnet, inside: bool) -> Rule {
    rule.payload(Header::Network, offset, 4, R0).mask(R0, subnet.mask().octets()).compare(
        R0,
        comparison(inside),
        &subnet.network().address().octets(),
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
    rule.mask(R0, bits.to_ne_bytes()).compare(R0, comparison(!yes), &[0; 4])
}
