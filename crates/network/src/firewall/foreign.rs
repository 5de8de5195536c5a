//! Rules of ours in other people's tables, so that their default of dropping what passes through the host doesn't hit
//! our bridge; and the search for firewalls that can't be told.
//!
//! They go where they come last: the host's own denies keep their say, only the final default doesn't reach us.

use palan_linux::netlink::nftables::{
    self, ChainInfo, Comparison, Family, HookPoint, Meta, Position, Register, Rule, RuleInfo, Transaction,
    Verdict,
};
use palan_linux::netlink::{self, Socket};

/// The table that iptables-nft calls `filter`.
const TABLE: &str = "filter";
const FORWARD: &str = "FORWARD";
/// Docker's chain for administrators; it jumps there first and keeps its rules.
const DOCKER_USER: &str = "DOCKER-USER";
/// What the comments of our rules begin with.
const TAG: &str = "palan: ";
/// The table that firewalld makes.
const FIREWALLD: &str = "firewalld";

/// Puts the rules of our bridges where they belong now and removes them elsewhere; with `wanted` false, everywhere.
pub(crate) fn reconcile(
    socket: &mut Socket,
    bridges: &[&str],
    wanted: bool,
) -> Result<(), netlink::NetlinkError> {
    for family in [Family::Ipv4, Family::Ipv6] {
        let forward = nftables::rules(socket, family, TABLE, Some(FORWARD))?;
        let docker_user = nftables::rules(socket, family, TABLE, Some(DOCKER_USER))?;
        let place = if wanted { place(socket, family, &forward)? } else { None };
        let mut change = Transaction::new(family);
        for bridge in bridges {
            let tag = tag(bridge);
            for (chain, rules) in [(FORWARD, &forward), (DOCKER_USER, &docker_user)] {
                if place != Some(chain) {
                    remove(&mut change, chain, rules, &tag);
                } else if !is_in_place(rules, &tag) {
                    remove(&mut change, chain, rules, &tag);
                    // A rule that decides about everything ends the chain: ours must come before it.
                    let end = rules.iter().find(|rule| rule.final_for_all && !is_ours(rule));
                    let position = end.map_or(Position::End, |rule| Position::Before(rule.handle));
                    for interface in [Meta::InputInterfaceName, Meta::OutputInterfaceName] {
                        change.add_rule(TABLE, chain, position, &accept(interface, bridge).comment(&tag));
                    }
                }
            }
        }
        change.commit(socket)?;
    }
    Ok(())
}

/// The chain our rules belong in: Docker's, if packets get there; else the host's, if it drops by default.
fn place(
    socket: &mut Socket,
    family: Family,
    forward: &[RuleInfo],
) -> Result<Option<&'static str>, netlink::NetlinkError> {
    if forward.iter().any(|rule| rule.jumps_to.as_deref() == Some(DOCKER_USER)) {
        return Ok(Some(DOCKER_USER));
    }
    let drops = nftables::chains(socket)?
        .iter()
        .any(|chain| chain.family == family && is_host_forward(chain) && chain.drops)
        || forward.iter().any(|rule| rule.final_for_all && !is_ours(rule));
    Ok(drops.then_some(FORWARD))
}

/// Firewalls on the host that may drop what passes through it and that we can't talk to, as sentences.
pub(crate) fn warnings(
    socket: &mut Socket,
    own_table: &str,
    bridges: &[&str],
) -> Result<Vec<String>, netlink::NetlinkError> {
    let mut warnings = Vec::new();
    let chains = nftables::chains(socket)?;
    if chains.iter().any(|chain| chain.table == FIREWALLD) {
        let interfaces: Vec<String> =
            bridges.iter().map(|bridge| format!("--add-interface={bridge}")).collect();
        warnings.push(format!(
            "firewalld is active and rejects what no zone accepts: \
             run `firewall-cmd --permanent --zone=trusted {}` and `firewall-cmd --reload`",
            interfaces.join(" ")
        ));
    }
    for chain in chains.into_iter().filter(|chain| chain.table != FIREWALLD) {
        let sees_us = matches!(chain.family, Family::Ipv4 | Family::Inet) && chain.table != own_table;
        let at_forward = chain.hook == Some(HookPoint::Forward as u32);
        if sees_us && at_forward && chain.drops && !is_host_forward(&chain) {
            let family = chain.family.word();
            warnings.push(format!(
                "the nftables chain \"{}\" of the table \"{family} {}\" drops what it doesn't accept: \
                 accept the bridge there, or containers reach nothing outside of the host",
                chain.name, chain.table
            ));
        }
    }
    // The file lists the tables of the old kernel interface, whether or not they hold rules.
    let legacy = palan_stdx::fs::read_to_string_if_exists("/proc/thread-self/net/ip_tables_names".as_ref());
    if legacy.is_ok_and(|tables| tables.is_some_and(|tables| tables.lines().any(|table| table == TABLE))) {
        warnings.push(
            "rules of iptables-legacy are loaded, which Palan can't extend: if their FORWARD chain drops by default, \
             accept the bridge there or move to iptables-nft"
                .to_owned(),
        );
    }
    Ok(warnings)
}

/// The interfaces among `names` that Docker's way of naming shows to be its bridges.
pub(crate) fn docker_bridges<'a>(names: impl Iterator<Item = &'a str>) -> Vec<String> {
    let is_network = |name: &str| {
        name.strip_prefix("br-")
            .is_some_and(|id| id.len() == 12 && id.bytes().all(|byte| byte.is_ascii_hexdigit()))
    };
    names
        .filter(|name| matches!(*name, "docker0" | "docker_gwbridge") || is_network(name))
        .map(str::to_owned)
        .collect()
}

fn is_host_forward(chain: &ChainInfo) -> bool {
    matches!(chain.family, Family::Ipv4 | Family::Ipv6) && chain.table == TABLE && chain.name == FORWARD
}

/// Rules of ours for other bridges don't end a chain either, though they accept.
fn is_ours(rule: &RuleInfo) -> bool {
    rule.comment.starts_with(TAG)
}

fn is_in_place(rules: &[RuleInfo], tag: &str) -> bool {
    let ours = rules.iter().take_while(|rule| !rule.final_for_all).filter(|rule| rule.comment == tag).count();
    ours == 2 && rules.iter().filter(|rule| rule.comment == tag).count() == 2
}

fn remove(change: &mut Transaction, chain: &str, rules: &[RuleInfo], tag: &str) {
    for rule in rules.iter().filter(|rule| rule.comment == tag) {
        change.delete_rule(TABLE, chain, rule.handle);
    }
}

/// By this comment our rules are known again, also to `iptables -S`.
fn tag(bridge: &str) -> String {
    format!("{TAG}{bridge}")
}

/// An accept rule in the very form iptables-nft writes, as it refuses to list a chain with anything else in it.
fn accept(interface: Meta, bridge: &str) -> Rule {
    let mut name = bridge.as_bytes().to_vec();
    name.push(0);
    let register = Register(0);
    Rule::new().meta(interface, register).compare(register, Comparison::Equal, &name).verdict(Verdict::Accept)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_bridges_are_known_by_name() {
        let names = ["docker0", "br-0123456789ab", "br-lan", "br-0123456789xy", "palan0", "docker_gwbridge"];
        assert_eq!(docker_bridges(names.into_iter()), ["docker0", "br-0123456789ab", "docker_gwbridge"]);
    }
}
