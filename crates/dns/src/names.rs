//! The names of a network's containers: a text that the daemon replaces as a whole, in the form of a hosts file.
//!
//! ```text
//! # palan-names 1 front
//! 172.18.0.2 web www 0123456789ab
//! fd00::2 web www 0123456789ab
//! ```
//!
//! The first name of a line is what a reverse look-up gives. A reader scans the text for each query: a network of a
//! thousand containers has some 60 KiB, which takes 50 µs, and no reader has to keep anything.

use std::fmt::Write;
use std::net::IpAddr;

const MARK: &str = "# palan-names 1 ";

/// One container on the network.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Entry {
    /// Its addresses.
    pub addresses: Vec<IpAddr>,
    /// Its names: the container's first, then aliases and the short id.
    pub names: Vec<String>,
}

/// The text for a network. Names that a hosts file can't have are left out.
#[must_use]
pub fn render(network: &str, entries: &[Entry]) -> String {
    let mut text = format!("{MARK}{network}\n");
    for entry in entries {
        let is_name =
            |name: &&String| !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c == '#');
        let names: Vec<String> =
            entry.names.iter().filter(is_name).map(|name| name.to_ascii_lowercase()).collect();
        if names.is_empty() {
            continue;
        }
        for address in &entry.addresses {
            // Writing to a text can't fail.
            let _ = writeln!(text, "{address} {}", names.join(" "));
        }
    }
    text
}

/// A network's names, as they are read.
#[derive(Debug, Clone, Copy)]
pub struct Zone<'a> {
    network: &'a str,
    lines: &'a str,
}

impl<'a> Zone<'a> {
    /// Takes the text; one of a later version says nothing.
    #[must_use]
    pub fn new(text: &'a str) -> Self {
        match text.strip_prefix(MARK).and_then(|text| text.split_once('\n')) {
            Some((network, lines)) => Self { network: network.trim(), lines },
            None => Self { network: "", lines: "" },
        }
    }

    /// The addresses of a name (in lower case), with or without the network's name after it. `None` if nobody has it.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Option<Vec<IpAddr>> {
        let found = self.of_name(name);
        let found = if found.is_empty() { self.of_name(self.without_network(name)?) } else { found };
        (!found.is_empty()).then_some(found)
    }

    /// The name of an address, with the network's after it.
    #[must_use]
    pub fn name(&self, address: IpAddr) -> Option<String> {
        let (_, names) = self.entries().find(|(found, _)| *found == address)?;
        Some(format!("{}.{}", names.split(' ').next()?, self.network))
    }

    fn of_name(&self, name: &str) -> Vec<IpAddr> {
        let has = |names: &str| names.split(' ').any(|other| other == name);
        self.entries().filter(|(_, names)| has(names)).map(|(address, _)| address).collect()
    }

    fn without_network<'n>(&self, name: &'n str) -> Option<&'n str> {
        let (rest, network) = (name.len().checked_sub(self.network.len() + 1)?, self.network);
        let is_suffix = name.is_char_boundary(rest)
            && name[rest..].strip_prefix('.').is_some_and(|suffix| suffix.eq_ignore_ascii_case(network));
        (is_suffix && !network.is_empty()).then(|| &name[..rest])
    }

    fn entries(&self) -> impl Iterator<Item = (IpAddr, &'a str)> + use<'a> {
        self.lines.lines().filter_map(|line| {
            let (address, names) = line.split_once(' ')?;
            Some((address.parse().ok()?, names))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> String {
        let entry = |addresses: &[&str], names: &[&str]| Entry {
            addresses: addresses.iter().map(|address| address.parse().unwrap()).collect(),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        };
        let entries = [
            entry(&["172.18.0.2", "fd00::2"], &["Web", "www", "0123456789ab"]),
            entry(&["172.18.0.3"], &["db", "www", "ab0123456789"]),
            entry(&["172.18.0.4"], &["bad name"]),
        ];
        render("Front", &entries)
    }

    #[test]
    fn names_and_aliases() {
        let text = text();
        let zone = Zone::new(&text);
        let found =
            |name: &str| zone.addresses(name).map(|found| found.iter().map(IpAddr::to_string).collect());
        let some = |list: &[&str]| Some(list.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>());
        assert_eq!(found("web"), some(&["172.18.0.2", "fd00::2"]));
        assert_eq!(found("www"), some(&["172.18.0.2", "fd00::2", "172.18.0.3"]), "several containers");
        assert_eq!(found("db.front"), some(&["172.18.0.3"]));
        assert_eq!(found("0123456789ab"), some(&["172.18.0.2", "fd00::2"]));
        for unknown in ["we", "webx", "front", "db.frontx", ".front", "bad", "name", "", "172.18.0.2"] {
            assert_eq!(found(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn addresses_have_names() {
        let text = text();
        let zone = Zone::new(&text);
        assert_eq!(zone.name("172.18.0.3".parse().unwrap()).as_deref(), Some("db.Front"));
        assert_eq!(zone.name("fd00::2".parse().unwrap()).as_deref(), Some("web.Front"));
        assert_eq!(zone.name("172.18.0.9".parse().unwrap()), None);
    }

    #[test]
    fn texts_of_other_versions_are_silent() {
        for text in ["", "# palan-names 2 x\n1.2.3.4 a\n", "1.2.3.4 a\n", MARK] {
            assert_eq!(Zone::new(text).addresses("a"), None, "{text:?}");
        }
    }
}
