//! What a container's resolver must know: a text that the daemon replaces as a whole when the container's networks
//! change.
//!
//! ```text
//! palan-resolver 1
//! names /run/palan/networks/5f…
//! link database db
//! server 192.0.2.53
//! forward
//! ```
//!
//! Without a `server` the host's own are asked, as its `resolv.conf` names them at that moment; without `forward` (when all
//! networks are internal) nobody is.

use std::fmt::Write;
use std::net::IpAddr;

const MARK: &str = "palan-resolver 1";

/// The configuration of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The files with the names of its networks, in the order in which they are looked at.
    pub names: Vec<String>,
    /// Names that mean another one for this container alone: `--link`.
    pub links: Vec<(String, String)>,
    /// The servers to forward to; empty: the host's.
    pub servers: Vec<IpAddr>,
    /// Whether anything is forwarded.
    pub forward: bool,
}

impl Config {
    /// The text. What would be read as something else (an alias with a line end, say) is left out.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("{MARK}\n");
        // Writing to a text can't fail.
        for path in self.names.iter().filter(|path| !path.contains('\n')) {
            let _ = writeln!(text, "names {path}");
        }
        for (alias, name) in self.links.iter().filter(|(alias, name)| is_word(alias) && is_word(name)) {
            let _ = writeln!(text, "link {alias} {name}");
        }
        for server in &self.servers {
            let _ = writeln!(text, "server {server}");
        }
        if self.forward {
            text.push_str("forward\n");
        }
        text
    }

    /// Reads the text. What is not understood is left out, so that a later version may add to it; a text of another version
    /// answers nothing.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut config = Self::default();
        // A path may end with a carriage return.
        let mut lines = text.split('\n');
        if lines.next() != Some(MARK) {
            return config;
        }
        for line in lines {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match word {
                "names" => config.names.push(rest.to_owned()),
                "link" => config.links.extend(
                    rest.split_once(' ')
                        .filter(|(alias, name)| is_word(alias) && is_word(name))
                        .map(|(alias, name)| (alias.to_ascii_lowercase(), name.to_owned())),
                ),
                "server" => config.servers.extend(rest.parse::<IpAddr>().ok()),
                "forward" => config.forward = true,
                _ => {}
            }
        }
        config
    }

    /// What a name means for this container.
    #[must_use]
    pub fn linked<'a>(&'a self, name: &'a str) -> &'a str {
        self.links.iter().find(|(alias, _)| alias == name).map_or(name, |(_, target)| target)
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_word_is_left_out() {
        let link = |alias: &str, name: &str| (alias.to_owned(), name.to_owned());
        let config = Config {
            names: vec!["/run/a\r".into(), "/run/b\nforward".into()],
            links: vec![
                link("x\nserver 192.0.2.66", "db"),
                link("a b", "db"),
                link("a", "db\r"),
                link("a", "db"),
            ],
            ..Config::default()
        };
        let read = Config::parse(&config.render());
        assert_eq!(read.names, ["/run/a\r"]);
        assert_eq!(read.links, [link("a", "db")]);
        assert!(read.servers.is_empty() && !read.forward);
        assert!(Config::parse("palan-resolver 1\nlink a db x\nlink  db\nlink a db\r\n").links.is_empty());
    }

    #[test]
    fn what_is_written_is_read_back() {
        let config = Config {
            names: vec!["/run/palan/networks/a b".into()],
            links: vec![("database".into(), "db".into())],
            servers: vec!["192.0.2.53".parse().unwrap(), "fd00::53".parse().unwrap()],
            forward: true,
        };
        assert_eq!(Config::parse(&config.render()), config);
        assert_eq!(Config::parse(&Config::default().render()), Config::default());
        assert_eq!(config.linked("database"), "db");
        assert_eq!(config.linked("other"), "other");
        assert_eq!(Config::parse("palan-resolver 2\nforward\n"), Config::default());
        assert!(Config::parse("palan-resolver 1\nnew thing\nserver x\nforward\n").forward);
    }
}
