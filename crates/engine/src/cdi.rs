//! The Container Device Interface: what a vendor writes down about its devices (`/etc/cdi/*.json`, `*.yaml`), found by name and
//! laid over a container's runtime specification. [`gpu`] turns `--gpus` into such names.
//!
//! <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>, version 1.1.
//!
//! The files are read when a container asks for a device, and at no other time: there is nothing to keep in step.

mod document;
mod edit;
pub(crate) mod gpu;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use palan_oci::runtime_spec::Spec;
use palan_stdx::fs;

pub(crate) use self::document::{ContainerEdits, Document};
use crate::spec::DeviceRequest;
use crate::{Error, Result};

/// Where specifications are looked for, those in a later directory before those in an earlier one.
pub(crate) const DEFAULT_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

/// Largest file that is read.
const MAX_SIZE: u64 = 8 << 20;

/// All devices that are described on this host.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    documents: Vec<Document>,
    /// By qualified name: the document and the place in it.
    devices: BTreeMap<String, (usize, usize)>,
    /// What could not be used, a sentence each.
    pub(crate) problems: Vec<String>,
}

impl Registry {
    /// Reads the directories. What can't be used is left out and noted.
    pub(crate) fn read(directories: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        // Names that two files of one directory claim are nobody's, unless a later directory has them.
        for directory in directories {
            let mut own: BTreeMap<String, Option<(usize, usize)>> = BTreeMap::new();
            for path in files(directory, &mut registry.problems) {
                let document = match read(&path) {
                    Ok(document) => document,
                    Err(problem) => {
                        registry.problems.push(format!("{}: {problem}", path.display()));
                        continue;
                    }
                };
                for (place, device) in document.devices.iter().enumerate() {
                    let name = format!("{}={}", document.kind, device.name);
                    let entry = (registry.documents.len(), place);
                    match own.get_mut(&name) {
                        None => drop(own.insert(name, Some(entry))),
                        Some(claimed) => {
                            *claimed = None;
                            registry.problems.push(format!("{}: conflicting device {name}", path.display()));
                        }
                    }
                }
                registry.documents.push(document);
            }
            for (name, entry) in own {
                match entry {
                    Some(entry) => drop(registry.devices.insert(name, entry)),
                    None => drop(registry.devices.remove(&name)),
                }
            }
        }
        registry
    }

    /// The names of all devices, `vendor.com/class=name`.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.devices.keys().map(String::as_str)
    }

    /// Whether any device is of this kind, `vendor.com/class`.
    pub(crate) fn has_kind(&self, kind: &str) -> bool {
        self.names().any(|name| name.split('=').next() == Some(kind))
    }

    /// What the devices change, the edits that belong to all devices of a document once and first.
    fn edits(&self, names: &[String]) -> Result<Vec<&ContainerEdits>> {
        let unknown: Vec<&str> =
            names.iter().filter(|name| !self.devices.contains_key(*name)).map(String::as_str).collect();
        if !unknown.is_empty() {
            let mut text =
                format!("CDI device injection failed: unresolvable CDI devices {}", unknown.join(", "));
            for problem in &self.problems {
                text = format!("{text}; {problem}");
            }
            return Err(Error::invalid(text));
        }
        let mut edits = Vec::new();
        let mut seen = Vec::new();
        for (document, device) in names.iter().filter_map(|name| self.devices.get(name)) {
            let of = &self.documents[*document];
            if !seen.contains(document) {
                seen.push(*document);
                edits.push(&of.container_edits);
            }
            edits.push(&of.devices[*device].container_edits);
        }
        Ok(edits)
    }
}

/// Lays what the requested devices need over the specification.
pub(crate) fn inject(requests: &[DeviceRequest], directories: &[PathBuf], spec: &mut Spec) -> Result<()> {
    if requests.is_empty() {
        return Ok(());
    }
    let registry = Registry::read(directories);
    for request in requests {
        let names = if request.driver == "cdi" { named(request)? } else { gpu::names(request, &registry)? };
        for edits in registry.edits(&names)? {
            edit::apply(edits, spec).map_err(|source| {
                Error::invalid("CDI device injection failed: failed to inject devices").with_source(source)
            })?;
        }
    }
    Ok(())
}

/// The names of a request to CDI itself.
fn named(request: &DeviceRequest) -> Result<Vec<String>> {
    if request.count != 0 {
        return Err(Error::invalid("unexpected count in CDI device request"));
    }
    if !request.options.is_empty() {
        return Err(Error::invalid("unexpected options in CDI device request"));
    }
    Ok(request.device_ids.clone())
}

/// The specifications of a directory, in the order of their names.
fn files(directory: &Path, problems: &mut Vec<String>) -> Vec<PathBuf> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(palan_stdx::error_chain::to_string(&error));
            return Vec::new();
        }
    };
    let paths = entries.into_iter().map(|entry| entry.path());
    let is_specification = |path: &PathBuf| {
        path.extension().is_some_and(|extension| extension == "json" || extension == "yaml") && !path.is_dir()
    };
    let mut paths: Vec<PathBuf> = paths.filter(is_specification).collect();
    paths.sort();
    paths
}

fn read(path: &Path) -> Result<Document, String> {
    let read = || -> Result<String, palan_stdx::fs::PathError> {
        let size = fs::metadata(path)?.len();
        if size > MAX_SIZE { Ok(String::new()) } else { fs::read_to_string(path) }
    };
    let text = read().map_err(|error| palan_stdx::error_chain::to_string(&error))?;
    Document::parse(&text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("temporary");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        directory
    }

    fn document(kind: &str, name: &str, variable: &str) -> String {
        format!(
            r#"{{"cdiVersion": "0.6.0", "kind": "{kind}", "containerEdits": {{"env": ["ALL=1"]}},
                 "devices": [{{"name": "{name}", "containerEdits": {{"env": ["V={variable}"]}}}}]}}"#
        )
    }

    fn environment(directories: &[&tempfile::TempDir], names: &[&str]) -> Result<Vec<String>, String> {
        let paths: Vec<PathBuf> = directories.iter().map(|directory| directory.path().into()).collect();
        let request = DeviceRequest {
            driver: "cdi".into(),
            device_ids: names.iter().map(|name| (*name).into()).collect(),
            ..DeviceRequest::default()
        };
        let mut spec = Spec { process: Some(palan_oci::runtime_spec::Process::default()), ..Spec::default() };
        inject(&[request], &paths, &mut spec).map_err(|error| error.report())?;
        Ok(spec.process.unwrap_or_default().env)
    }

    #[test]
    fn a_later_directory_counts_more() {
        let first = directory(&[("a.json", &document("v.com/c", "d", "1"))]);
        let second = directory(&[("a.json", &document("v.com/c", "d", "2"))]);
        assert_eq!(environment(&[&first, &second], &["v.com/c=d"]), Ok(vec!["ALL=1".into(), "V=2".into()]));
        assert_eq!(environment(&[&second, &first], &["v.com/c=d"]), Ok(vec!["ALL=1".into(), "V=1".into()]));
    }

    #[test]
    fn what_is_not_there_or_not_clear() {
        let twice = directory(&[
            ("a.json", &document("v.com/c", "d", "1")),
            ("b.json", &document("v.com/c", "d", "2")),
            ("c.json", "{"),
            ("d.txt", "no specification"),
        ]);
        let error = environment(&[&twice], &["v.com/c=d", "v.com/c=e"]).expect_err("two files claim it");
        assert!(
            error.starts_with("CDI device injection failed: unresolvable CDI devices v.com/c=d, v.com/c=e; "),
            "{error}"
        );
        assert!(error.contains("b.json: conflicting device v.com/c=d"), "{error}");
        assert!(error.contains("c.json: "), "{error}");
        assert_eq!(environment(&[], &[]), Ok(Vec::new()));
    }
}
