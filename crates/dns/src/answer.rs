//! What is done about a query.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::config::Config;
use crate::message::{self, Code, Kind, Query, Record};
use crate::names::Zone;

/// How a query came, which says how long its answer may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names say it")]
pub enum Transport {
    Udp,
    Tcp,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Send this.
    Answer(Vec<u8>),
    /// Ask an upstream.
    Forward,
    /// It was no query: say nothing.
    Drop,
}

/// Decides about a query, given the container's configuration and the names of its networks.
///
/// A name that a container has is answered for every type, mostly with no record: nobody upstream is to hear of it.
#[must_use]
pub fn decide(bytes: &[u8], transport: Transport, config: &Config, zones: &[Zone<'_>]) -> Decision {
    let query = match Query::parse(bytes) {
        Ok(query) => query,
        Err(error) => {
            let reply = error.code().and_then(|code| message::failure(bytes, code));
            return reply.map_or(Decision::Drop, Decision::Answer);
        }
    };
    let limit = match transport {
        Transport::Udp => query.udp_limit(),
        Transport::Tcp => usize::from(u16::MAX),
    };
    let reply =
        |code, records: &[Record]| Decision::Answer(message::answer(bytes, &query, code, records, limit));
    if query.is_internet
        && let Some(records) = known(&query, config, zones)
    {
        return reply(Code::NoError, &records);
    }
    if config.forward { Decision::Forward } else { reply(Code::NameError, &[]) }
}

/// The records about one of our names or addresses; `None` for all others.
fn known(query: &Query, config: &Config, zones: &[Zone<'_>]) -> Option<Vec<Record>> {
    if query.kind == Kind::Ptr
        && let Some(address) = reversed(&query.name)
    {
        let name = zones.iter().find_map(|zone| zone.name(address))?;
        return Some(vec![Record::Ptr(name)]);
    }
    let name = config.linked(&query.name);
    let mut addresses = zones.iter().find_map(|zone| zone.addresses(name))?;
    addresses.retain(|address| match query.kind {
        Kind::A => address.is_ipv4(),
        Kind::Aaaa => address.is_ipv6(),
        Kind::Any => true,
        Kind::Ptr | Kind::Other(_) => false,
    });
    // Who takes the first shall not always get the same.
    if !addresses.is_empty() {
        let first = usize::from(query.id) % addresses.len();
        addresses.rotate_left(first);
    }
    Some(addresses.into_iter().map(Record::from).collect())
}

/// The address that a name such as `2.0.18.172.in-addr.arpa` asks about.
fn reversed(name: &str) -> Option<IpAddr> {
    if let Some(digits) = name.strip_suffix(".in-addr.arpa") {
        let mut octets = [0; 4];
        let mut labels = digits.split('.');
        for octet in octets.iter_mut().rev() {
            *octet = labels.next()?.parse().ok()?;
        }
        return labels.next().is_none().then(|| Ipv4Addr::from(octets).into());
    }
    let digits = name.strip_suffix(".ip6.arpa")?;
    let mut bits: u128 = 0;
    let mut count = 0;
    for (index, label) in digits.split('.').enumerate() {
        let [digit] = label.as_bytes() else { return None };
        let value = char::from(*digit).to_digit(16)?;
        bits |= u128::from(value).checked_shl(u32::try_from(index * 4).ok()?)?;
        count += 1;
    }
    (count == 32).then(|| Ipv6Addr::from_bits(bits).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::query;

    const NAMES: &str = "# palan-names 1 front\n172.18.0.2 web www\nfd00::2 web www\n172.18.0.3 db www\n";

    fn config(forward: bool) -> Config {
        Config { forward, links: vec![("database".into(), "db".into())], ..Config::default() }
    }

    /// The number of records and the code of the answer; `None` when it is forwarded.
    fn outcome(name: &str, kind: u16, forward: bool) -> Option<(u8, u8)> {
        match decide(&query(name, kind, None), Transport::Udp, &config(forward), &[Zone::new(NAMES)]) {
            Decision::Answer(reply) => Some((reply[7], reply[3] & 0x0f)),
            Decision::Forward => None,
            Decision::Drop => panic!("{name} was dropped"),
        }
    }

    #[test]
    fn our_names_are_answered_and_others_forwarded() {
        assert_eq!(outcome("web", 1, true), Some((1, 0)));
        assert_eq!(outcome("WWW", 1, true), Some((2, 0)));
        assert_eq!(outcome("web", 28, true), Some((1, 0)));
        assert_eq!(outcome("db", 28, true), Some((0, 0)), "known, without an address of the family");
        assert_eq!(outcome("db", 15, true), Some((0, 0)), "no mail, but nobody else is asked either");
        assert_eq!(outcome("database", 1, true), Some((1, 0)), "a link");
        assert_eq!(outcome("web.front", 255, true), Some((2, 0)));
        assert_eq!(outcome("example.com", 1, true), None);
        assert_eq!(outcome("2.0.18.172.in-addr.arpa", 12, true), Some((1, 0)));
        assert_eq!(outcome("9.0.18.172.in-addr.arpa", 12, true), None);
    }

    #[test]
    fn nothing_leaves_an_internal_network() {
        assert_eq!(outcome("web", 1, false), Some((1, 0)));
        for name in ["example.com", "secret.attacker.example", "9.0.18.172.in-addr.arpa", ""] {
            assert_eq!(outcome(name, 1, false), Some((0, 3)), "{name}");
        }
    }

    #[test]
    fn addresses_backwards() {
        let check = |name: &str, expected: Option<&str>| {
            assert_eq!(reversed(name).map(|address| address.to_string()).as_deref(), expected, "{name}");
        };
        check("2.0.18.172.in-addr.arpa", Some("172.18.0.2"));
        let ipv6 = format!("2.{}d.f.ip6.arpa", "0.".repeat(29));
        check(&ipv6, Some("fd00::2"));
        for bad in ["in-addr.arpa", "1.2.3.in-addr.arpa", "1.2.3.4.5.in-addr.arpa", "256.0.0.1.in-addr.arpa"]
        {
            check(bad, None);
        }
        check(&format!("{}ip6.arpa", "0.".repeat(200)), None);
    }

    #[test]
    fn nonsense_is_told_or_dropped() {
        let zones = [Zone::new(NAMES)];
        assert_eq!(decide(b"x", Transport::Udp, &config(true), &zones), Decision::Drop);
        let mut several = query("web", 1, None);
        several[5] = 7;
        let Decision::Answer(reply) = decide(&several, Transport::Udp, &config(true), &zones) else {
            panic!("no answer")
        };
        assert_eq!(reply[3] & 0x0f, Code::NotImplemented as u8);
    }
}
