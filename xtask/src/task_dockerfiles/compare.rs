//! What an image is, in comparable words: its configuration, its history, and every file of a container made from it.

use std::collections::BTreeMap;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

use palan_linux::xattr;
use palan_test_support::image::digest;
use serde_json::Value;

use super::clients::Daemon;
use crate::Failure;
use crate::process::{command, output};

/// Files whose bytes differ between two builds by one tool. That they are there, and whose they are, is compared all the same.
pub(super) struct Exception {
    /// A path, a directory that ends with a slash, or a suffix behind a star.
    pub(super) pattern: &'static str,
    pub(super) reason: &'static str,
    /// How many bytes at the beginning differ; all, if none are said.
    head: Option<usize>,
}

pub(super) const EXCEPTIONS: &[Exception] = &[
    Exception { pattern: "var/log/", reason: "package managers write when they did what", head: None },
    Exception {
        pattern: "var/cache/ldconfig/aux-cache",
        reason: "has the inodes and times of libraries",
        head: None,
    },
    Exception {
        pattern: "*.pyc",
        reason: "begins with the time of its source, which is when pip unpacked it (the first 16 bytes)",
        head: Some(16),
    },
];

impl Exception {
    fn matches(&self, path: &str) -> bool {
        match self.pattern.strip_prefix('*') {
            Some(suffix) => path.ends_with(suffix),
            None if self.pattern.ends_with('/') => path.starts_with(self.pattern),
            None => path == self.pattern,
        }
    }
}

/// A described image.
pub(super) struct Image {
    /// Configuration and history, one value a line.
    pub(super) facts: BTreeMap<String, String>,
    /// Files by name.
    pub(super) files: BTreeMap<String, String>,
}

impl Image {
    pub(super) fn read(daemon: &Daemon, name: &str) -> Result<Self, Failure> {
        let mut facts = BTreeMap::new();
        let text = output(&mut daemon.ours(&["image", "inspect", name]))?;
        let inspected: Value = serde_json::from_str(&text)?;
        let image = inspected.get(0).ok_or("inspect shows no image")?;
        for key in ["Architecture", "Variant", "Os", "Author", "Comment", "Config"] {
            collect(&mut facts, key, image.get(key).unwrap_or(&Value::Null));
        }
        // Their digests differ with the times of files.
        let layers = image.pointer("/RootFS/Layers").and_then(Value::as_array).map_or(0, Vec::len);
        facts.insert("layers".to_owned(), layers.to_string());
        let format = "{{.CreatedBy}}\t{{.Comment}}";
        let history = output(&mut daemon.ours(&["history", "--no-trunc", "--format", format, name]))?;
        for (number, line) in history.lines().rev().enumerate() {
            facts.insert(format!("history {number:02}"), line.to_owned());
        }

        let id = output(&mut daemon.ours(&["create", name]))?;
        let (archive, tree) = (daemon.directory.join("export.tar"), daemon.directory.join("tree"));
        daemon.quietly(daemon.ours(&["export", "-o"]).arg(&archive).arg(id.trim()))?;
        daemon.quietly(&mut daemon.ours(&["rm", "-f", "-v", id.trim()]))?;
        std::fs::create_dir_all(&tree)?;
        let mut unpack = command("tar");
        unpack.args(["--numeric-owner", "--xattrs", "--xattrs-include=*", "-xpf"]).arg(&archive);
        daemon.quietly(unpack.arg("-C").arg(&tree))?;
        let mut files = BTreeMap::new();
        walk(&tree, &tree, &mut files)?;
        std::fs::remove_dir_all(&tree)?;
        std::fs::remove_file(&archive)?;
        Ok(Self { facts, files })
    }

    /// Where the other one differs, in sentences.
    pub(super) fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = between(&self.facts, &other.facts);
        found.extend(between(&self.files, &other.files));
        found
    }
}

fn between(one: &BTreeMap<String, String>, other: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (name, value) in one {
        match other.get(name) {
            None => found.push(format!("{name} is missing ({value})")),
            Some(differs) if differs != value => found.push(format!("{name} is {differs}, and not {value}")),
            Some(_) => {}
        }
    }
    let more = other.iter().filter(|(name, _)| !one.contains_key(*name));
    found.extend(more.map(|(name, value)| format!("{name} is there ({value})")));
    found
}

/// One line for each value within.
fn collect(facts: &mut BTreeMap<String, String>, name: &str, value: &Value) {
    match value {
        Value::Object(fields) => {
            fields.iter().for_each(|(key, value)| collect(facts, &format!("{name}.{key}"), value));
        }
        Value::Null => {}
        other => {
            facts.insert(name.to_owned(), other.to_string());
        }
    }
}

fn walk(root: &Path, directory: &Path, files: &mut BTreeMap<String, String>) -> Result<(), Failure> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.strip_prefix(root)?.to_string_lossy().into_owned();
        let metadata = std::fs::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        let mut line = format!("mode {:o}, owner {}:{}", metadata.mode(), metadata.uid(), metadata.gid());
        if kind.is_symlink() {
            line += &format!(", to {}", std::fs::read_link(&path)?.display());
        } else if kind.is_file() {
            line += &format!(", {} links, {}", metadata.nlink(), content(&path, &name)?);
        } else if kind.is_block_device() || kind.is_char_device() {
            line += &format!(", device {}", metadata.rdev());
        }
        if kind.is_file() || kind.is_dir() {
            let file = std::fs::File::open(&path)?;
            for attribute in xattr::list(&file)? {
                let value = xattr::get(&file, &attribute.to_string_lossy())?.unwrap_or_default();
                line += &format!(", {} = {}", attribute.to_string_lossy(), digest(&value));
            }
        }
        files.insert(name, line);
        if kind.is_dir() {
            walk(root, &path, files)?;
        }
    }
    Ok(())
}

/// Size and digest, as far as they can be compared.
fn content(path: &Path, name: &str) -> Result<String, Failure> {
    let bytes = std::fs::read(path)?;
    match EXCEPTIONS.iter().find(|exception| exception.matches(name)) {
        Some(Exception { head: None, .. }) => Ok("not compared".to_owned()),
        Some(Exception { head: Some(head), .. }) => {
            Ok(format!("{} bytes, {}", bytes.len(), digest(bytes.get(*head..).unwrap_or_default())))
        }
        None => Ok(format!("{} bytes, {}", bytes.len(), digest(&bytes))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
        entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn every_kind_of_difference_is_found() {
        let one = map(&[("same", "1"), ("gone", "2"), ("other", "3")]);
        let two = map(&[("same", "1"), ("other", "4"), ("new", "5")]);
        let found = between(&one, &two);
        assert_eq!(found, ["gone is missing (2)", "other is 4, and not 3", "new is there (5)"]);
        assert!(between(&one, &one).is_empty());
    }

    #[test]
    fn exceptions_take_what_they_say_and_nothing_else() {
        let excepted = |path: &str| EXCEPTIONS.iter().any(|exception| exception.matches(path));
        for path in ["var/log/dpkg.log", "var/cache/ldconfig/aux-cache", "venv/lib/flask/app.pyc"] {
            assert!(excepted(path), "{path}");
        }
        for path in ["var/logs", "srv/var/log/x", "venv/lib/flask/app.py", "var/cache/ldconfig/aux-cache2"] {
            assert!(!excepted(path), "{path}");
        }
    }
}
