//! `os-release`: whose distribution it is.

use crate::package::Distribution;

/// Where it says so; the first wins.
pub(crate) const FILES: [&str; 2] = ["etc/os-release", "usr/lib/os-release"];

/// Reads the assignments that matter. Values may be quoted as in a shell.
pub fn parse(text: &str) -> Distribution {
    let value = |name: &str| {
        let found = text.lines().find_map(|line| line.trim().strip_prefix(name)?.strip_prefix('='));
        let found = found.unwrap_or_default().trim();
        let quoted = ['"', '\''].iter().find_map(|quote| found.strip_prefix(*quote)?.strip_suffix(*quote));
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        let value = quoted.unwrap_or(found);
        if value.chars().all(is_plain) { value.to_owned() } else { String::new() }
    };
    Distribution { id: value("ID").to_lowercase(), version: value("VERSION_ID") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distributions() {
        let of = |text: &str| {
            let Distribution { id, version } = parse(text);
            format!("{id} {version}")
        };
        assert_eq!(of("NAME=\"Alpine\"\nID=alpine\nVERSION_ID=3.20.1\n"), "alpine 3.20.1");
        assert_eq!(of("VERSION_ID=\"12\"\nID='Debian'"), "debian 12");
        assert_eq!(of("IDX=x\nID=\"a b\""), " ");
        assert_eq!(of(""), " ");
    }
}
