//! Node's packages: `package.json` in a directory of `node_modules`.

use serde::Deserialize;

use crate::package::{Kind, Package};

/// What a file of npm's says.
pub(crate) const FILE: &str = "package.json";

#[derive(Deserialize)]
struct Json {
    #[serde(default)]
    name: String,
    #[serde(default)]
    version: String,
    /// A text, or an object of old.
    #[serde(default)]
    license: serde_json::Value,
}

/// Reads a file. One without a name and a version is part of a package, and none.
pub fn parse(content: &[u8], path: &str) -> Option<Package> {
    let json: Json = serde_json::from_slice(content).ok()?;
    let license = json.license.as_str().or_else(|| json.license.get("type")?.as_str()).unwrap_or_default();
    (!json.name.is_empty() && !json.version.is_empty()).then(|| Package {
        kind: Kind::Npm,
        name: json.name.clone(),
        version: json.version.clone(),
        architecture: String::new(),
        source: String::new(),
        license: license.to_owned(),
        path: path.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages() {
        let found = parse(br#"{"name":"@a/b","version":"1.0.0","license":{"type":"MIT"},"x":[1]}"#, "x");
        let found = found.expect("a package");
        assert_eq!([&found.name, &found.version, &found.license], ["@a/b", "1.0.0", "MIT"]);
        for none in [&b"{}"[..], b"", br#"{"name":"a"}"#, br#"{"name":1,"version":"1"}"#, b"[]"] {
            assert_eq!(parse(none, "x"), None);
        }
    }
}
