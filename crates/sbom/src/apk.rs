//! Alpine's packages: `lib/apk/db/installed`, where a letter is what a line says.

use crate::package::{Kind, Package};
use crate::stanza::paragraphs;

/// Where the database is; the second since the directories were merged.
pub(crate) const DATABASES: [&str; 2] = ["lib/apk/db/installed", "usr/lib/apk/db/installed"];

/// Reads packages.
pub fn parse(text: &str, path: &str) -> Vec<Package> {
    let package = |lines: Vec<&str>| {
        // Letters of files' lines are the same again, behind those of the package.
        let value = |letter: &str| {
            let found = lines.iter().find_map(|line| line.strip_prefix(letter));
            found.map(str::trim).unwrap_or_default().to_owned()
        };
        let (name, version) = (value("P:"), value("V:"));
        (!name.is_empty() && !version.is_empty()).then(|| Package {
            kind: Kind::Apk,
            name,
            version,
            architecture: value("A:"),
            source: value("o:"),
            license: value("L:"),
            path: path.to_owned(),
        })
    };
    paragraphs(text).filter_map(package).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages() {
        let text = "C:Q1x=\nP:musl\nV:1.2.5-r0\nA:x86_64\nL:MIT\no:musl\nF:lib\nR:ld-musl-x86_64.so.1\na:0:0:755\n\nP:busybox\nV:1.36\n\nV:2\n\nP:x\n";
        let found = parse(text, "x");
        assert_eq!(found.len(), 2);
        let first = &found[0];
        let shown = [&first.name, &first.version, &first.architecture, &first.license, &first.source];
        assert_eq!(shown, ["musl", "1.2.5-r0", "x86_64", "MIT", "musl"]);
    }
}
