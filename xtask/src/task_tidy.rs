//! `cargo xtask tidy`: the repository's own rules, each of which a reader relies on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::Failure;
use crate::process::{cargo, output, root};

/// The edges between crates, as ARCHITECTURE.md draws them: down only. Every crate may use `oci` and `stdx`.
const EDGES: &[(&str, &[&str])] = &[
    ("palan", &["cli", "server", "engine", "supervisor", "runtime", "linux"]),
    ("palan-server", &["engine", "docker-api", "buildkit"]),
    ("palan-cli", &["docker-api", "buildkit", "context", "dockerfile", "linux", "tar"]),
    (
        "palan-engine",
        &[
            "store",
            "registry",
            "network",
            "supervisor",
            "linux",
            "dns",
            "tls",
            "builder",
            "dockerfile",
            "context",
            "sbom",
        ],
    ),
    ("palan-builder", &["dockerfile", "context", "linux"]),
    ("palan-registry", &["store"]),
    ("palan-supervisor", &["runtime", "linux", "dns"]),
    ("palan-runtime", &["linux"]),
    ("palan-network", &["linux"]),
    ("palan-store", &["linux", "redeflate", "tar"]),
    ("palan-redeflate", &[]),
    ("palan-tar", &["linux"]),
    ("palan-dns", &[]),
    ("palan-sbom", &["linux"]),
    ("palan-dockerfile", &[]),
    ("palan-context", &["linux", "tar"]),
    ("palan-buildkit", &["context", "linux"]),
    ("palan-docker-api", &["tls"]),
    ("palan-tls", &[]),
    ("palan-linux", &[]),
    ("palan-oci", &[]),
    ("palan-stdx", &[]),
];

/// Crates that may depend on anything: they are not part of the product.
const DEVELOPMENT: &[&str] = &["xtask", "palan-test-support", "palan-tests", "palan-demo"];

/// Licences that need nothing from us but their text; `deny.toml` holds the same list.
const LICENCES: &[&str] = &[
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "Unicode-3.0",
    "Unlicense",
    "Zlib",
    "0BSD",
    "bzip2-1.0.6",
];

/// Crates that must never be in the tree; `deny.toml` gives the reasons.
const BANNED: &[&str] = &[
    "openssl",
    "openssl-sys",
    "native-tls",
    "aws-lc-rs",
    "aws-lc-sys",
    "libseccomp",
    "tokio-tar",
    "async-tar",
];

/// Checks every rule and lists every breach.
#[expect(clippy::print_stdout, reason = "tasks talk to the person at the terminal")]
pub(crate) fn run() -> Result<(), Failure> {
    let mut breaches = Vec::new();
    let mut sources = Vec::new();
    for directory in ["crates", "palan", "xtask", "tests", "demo"] {
        collect_sources(&root().join(directory), &mut sources)?;
    }
    for path in &sources {
        let text = std::fs::read_to_string(path)?;
        let name = path.strip_prefix(root()).unwrap_or(path);
        breaches
            .extend(check_source(name, &text).into_iter().map(|rule| format!("{}: {rule}", name.display())));
    }
    check_graph(&mut breaches)?;
    if breaches.is_empty() {
        println!("tidy: {} source files, no breach", sources.len());
        return Ok(());
    }
    Err(format!("{} breaches of the repository's rules:\n{}", breaches.len(), breaches.join("\n")).into())
}

fn collect_sources(directory: &Path, found: &mut Vec<PathBuf>) -> Result<(), Failure> {
    if !directory.is_dir() {
        return Ok(());
    }
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                collect_sources(&path, found)?;
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    Ok(())
}

fn check_source(name: &Path, text: &str) -> Vec<String> {
    let mut breaches = Vec::new();
    if !text.starts_with("//!") {
        breaches.push("opens without a `//!` line that says what lives here".to_owned());
    }
    if name.starts_with("xtask/src/task_tidy.rs") {
        return breaches;
    }
    let may_be_unsafe = name.starts_with("crates/linux");
    for (index, line) in text.lines().enumerate() {
        let code = line.split("//").next().unwrap_or_default();
        if !may_be_unsafe
            && ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|word| code.contains(word))
        {
            breaches.push(format!("line {}: `unsafe` outside of crates/linux", index + 1));
        }
        for word in ["TODO", "FIXME", "XXX:", "todo!(", "unimplemented!(", "#[ignore"] {
            if line.contains(word) {
                breaches.push(format!("line {}: {word} – finish it, or state today's behaviour", index + 1));
            }
        }
    }
    breaches
}

fn check_graph(breaches: &mut Vec<String>) -> Result<(), Failure> {
    let metadata = output(cargo().args(["metadata", "--format-version", "1", "--locked"]))?;
    let metadata: Value = serde_json::from_str(&metadata)?;
    let packages = metadata["packages"].as_array().ok_or("cargo metadata lists no packages")?;
    let members: BTreeSet<&str> =
        metadata["workspace_members"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let allowed: BTreeMap<&str, BTreeSet<String>> = EDGES
        .iter()
        .map(|(from, to)| {
            (*from, to.iter().chain(&["oci", "stdx"]).map(|name| format!("palan-{name}")).collect())
        })
        .collect();
    for package in packages {
        let name = package["name"].as_str().unwrap_or_default();
        if BANNED.contains(&name) {
            breaches.push(format!("{name} is in the dependency tree; deny.toml says why it must not be"));
        }
        if members.contains(package["id"].as_str().unwrap_or_default()) {
            check_edges(name, package, &allowed, breaches);
        } else if !licence_is_permissive(package["license"].as_str().unwrap_or_default()) {
            breaches.push(format!("{name} has the licence {}, which is not on the list", package["license"]));
        }
    }
    Ok(())
}

fn check_edges(
    name: &str,
    package: &Value,
    allowed: &BTreeMap<&str, BTreeSet<String>>,
    breaches: &mut Vec<String>,
) {
    if DEVELOPMENT.contains(&name) {
        return;
    }
    let Some(edges) = allowed.get(name) else {
        breaches.push(format!("the crate {name} has no place in the list of edges"));
        return;
    };
    for dependency in package["dependencies"].as_array().into_iter().flatten() {
        let to = dependency["name"].as_str().unwrap_or_default();
        let for_tests = dependency["kind"] == "dev";
        if to.starts_with("palan-") && !for_tests && !edges.contains(to) {
            breaches.push(format!("{name} depends on {to}: an edge that ARCHITECTURE.md does not have"));
        }
    }
}

/// Whether one alternative of an SPDX expression consists of permissive licences.
fn licence_is_permissive(expression: &str) -> bool {
    let plain = expression.replace(['(', ')'], "").replace('/', " OR ");
    !plain.is_empty()
        && plain
            .split(" OR ")
            .any(|choice| choice.split(" AND ").all(|licence| LICENCES.contains(&licence.trim())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn licences() {
        assert!(licence_is_permissive("MIT OR Apache-2.0"));
        assert!(licence_is_permissive("MIT/Apache-2.0"));
        assert!(licence_is_permissive("(MIT OR Apache-2.0) AND Unicode-3.0"));
        assert!(licence_is_permissive("GPL-2.0 OR BSD-3-Clause"));
        assert!(!licence_is_permissive("LGPL-2.1"));
        assert!(!licence_is_permissive("MIT AND GPL-3.0"));
        assert!(!licence_is_permissive(""));
    }

    #[test]
    fn a_source_needs_a_first_line_and_no_unsafe() {
        assert_eq!(check_source(Path::new("crates/engine/src/a.rs"), "//! A.\n").len(), 0);
        assert_eq!(check_source(Path::new("crates/engine/src/a.rs"), "fn a() { unsafe { b() } }\n").len(), 2);
        assert_eq!(check_source(Path::new("crates/linux/src/a.rs"), "//! A.\nunsafe { b() }\n").len(), 0);
    }
}
