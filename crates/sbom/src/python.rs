//! Python's packages: `METADATA` in `*.dist-info`, `PKG-INFO` in `*.egg-info`.

use crate::package::{Kind, Package};
use crate::stanza::fields;

/// The file with what a directory of this name says.
pub(crate) fn file_of(directory: &str) -> Option<&'static str> {
    match directory.rsplit_once('.')?.1 {
        "dist-info" => Some("METADATA"),
        "egg-info" => Some("PKG-INFO"),
        _ => None,
    }
}

/// Reads the head of a package's metadata: what follows an empty line is its description.
pub fn parse(text: &str, path: &str) -> Option<Package> {
    let head = text.lines().take_while(|line| !line.trim().is_empty());
    let names = ["Name", "Version", "License-Expression", "License"];
    let [name, version, expression, license] = fields(head, names);
    (!name.is_empty()).then(|| Package {
        kind: Kind::Python,
        name: name.to_owned(),
        version: version.to_owned(),
        architecture: String::new(),
        source: String::new(),
        license: if expression.is_empty() { license } else { expression }.to_owned(),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages() {
        assert_eq!(file_of("requests-2.0.dist-info"), Some("METADATA"));
        assert_eq!(file_of("x.egg-info"), Some("PKG-INFO"));
        assert_eq!((file_of("x"), file_of("dist-info")), (None, None));
        let text =
            "Metadata-Version: 2.1\nName: requests\nVersion: 2.32.3\nLicense: Apache-2.0\n\nName: no\n";
        let found = parse(text, "x").expect("a package");
        assert_eq!([&found.name, &found.version, &found.license], ["requests", "2.32.3", "Apache-2.0"]);
        assert_eq!(parse("\nName: no", "x"), None);
    }
}
