//! Debian's packages: `var/lib/dpkg/status`, and `status.d/` where nothing can install any more.

use crate::package::{Kind, Package};
use crate::stanza::{fields, paragraphs};

/// The database.
pub(crate) const STATUS: &str = "var/lib/dpkg/status";
/// A file for each package.
pub(crate) const STATUS_D: &str = "var/lib/dpkg/status.d";

/// Reads packages. What is known and not installed is left out.
pub fn parse(text: &str, path: &str) -> Vec<Package> {
    let package = |lines: Vec<&str>| {
        let names = ["Package", "Version", "Architecture", "Source", "Status"];
        let [name, version, architecture, source, status] = fields(lines.into_iter(), names);
        // `want flag status`; without the field it is a file of `status.d`.
        let is_installed = status.is_empty() || status.split_whitespace().nth(2) == Some("installed");
        // The source's own version may follow in brackets.
        let source = source.split_whitespace().next().unwrap_or_default();
        (is_installed && !name.is_empty() && !version.is_empty()).then(|| Package {
            kind: Kind::Deb,
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
            source: source.to_owned(),
            license: String::new(),
            path: path.to_owned(),
        })
    };
    paragraphs(text).filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_installed() {
        let text = "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nSource: glibc (2.36-9)\nVersion: 2.36-9+deb12u1\n\
                    Description: GNU C\n Package: no\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n\
                    Package: base-files\nVersion: 12\n\nPackage: without\n";
        let found = parse(text, "x");
        let shown: Vec<(&str, &str, &str, &str)> = found
            .iter()
            .map(|one| {
                (one.name.as_str(), one.version.as_str(), one.architecture.as_str(), one.source.as_str())
            })
            .collect();
        assert_eq!(shown, [("libc6", "2.36-9+deb12u1", "amd64", "glibc"), ("base-files", "12", "", "")]);
    }
}
