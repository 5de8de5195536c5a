//! Records of installed packages, as distributions and languages keep them: whatever they say, names become one package URL each.

#![no_main]

use palan_sbom::{Package, parse};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let text = String::from_utf8_lossy(bytes);
    let distribution = parse::os(&text);
    let mut packages: Vec<Package> = parse::dpkg(&text, "a");
    packages.extend(parse::apk(&text, "b"));
    packages.extend(parse::python(&text, "c"));
    packages.extend(parse::npm(bytes, "d"));
    for package in &packages {
        let url = package.purl(&distribution);
        assert!(url.starts_with("pkg:") && url.bytes().all(|byte| byte.is_ascii_graphic()), "{url}");
        assert!(!package.name.is_empty());
    }
    let found = palan_sbom::Found { distribution, packages };
    let document = palan_sbom::document(&found, "x", "1970-01-01T00:00:00Z", "x");
    serde_json::to_vec(&document).expect("JSON");
});
