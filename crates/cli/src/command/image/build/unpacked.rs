//! An output that is an OCI layout in a directory (`tar=false`): what the daemon sends as an archive, file by file.
//!
//! ```text
//! dest/blobs/sha256/<hex>   what is there already with this size stays
//! dest/oci-layout
//! dest/index.json           written last, and at once: with what it had before, but for names that are given anew
//! ```
//! Only these names are made. Until the archive is whole the directory leads to what it led to before.

use std::io::{self, PipeWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::thread::JoinHandle;

use palan_oci::Digest;
use palan_stdx::atomic_file::{self, Durability};
use palan_stdx::{error_chain, fs};
use palan_tar::{Kind, Limits, Reader};
use serde_json::{Value, json};

/// The largest document that is kept in memory.
const MAX_DOCUMENT: usize = 16 << 20;
/// By which annotations an entry of an index has its name.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];

/// Takes the archive.
#[derive(Debug)]
pub(super) struct Layout {
    archive: Option<PipeWriter>,
    unpacking: Option<JoinHandle<io::Result<()>>>,
}

impl Layout {
    pub(super) fn new(path: PathBuf) -> io::Result<Self> {
        let (reader, writer) = io::pipe()?;
        let unpacking = std::thread::Builder::new().name("layout".to_owned()).spawn(move || {
            let unpacked = unpack(&mut &reader, &path);
            // Whoever writes isn't to be stopped by a signal: what is left is read and forgotten.
            let _ = io::copy(&mut &reader, &mut io::sink());
            unpacked
        })?;
        Ok(Self { archive: Some(writer), unpacking: Some(unpacking) })
    }
}

impl Write for Layout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.archive {
            Some(archive) => archive.write(bytes),
            None => Err(io::Error::other("the archive has ended already")),
        }
    }

    /// It is called once, at the end.
    fn flush(&mut self) -> io::Result<()> {
        self.archive = None;
        match self.unpacking.take().map(JoinHandle::join) {
            Some(Ok(unpacked)) => unpacked,
            Some(Err(_)) => Err(io::Error::other("unpacking broke off")),
            None => Ok(()),
        }
    }
}

impl Drop for Layout {
    fn drop(&mut self) {
        // An archive that is not whole ends here: the thread ends with it.
        self.archive = None;
        if let Some(unpacking) = self.unpacking.take() {
            let _ = unpacking.join();
        }
    }
}

/// What of an archive is kept.
enum Place {
    Blob(Digest),
    Index,
    Version,
    /// Docker's own format, directories.
    Nothing,
}

impl Place {
    fn of(name: &[u8]) -> Self {
        let name = std::str::from_utf8(name).unwrap_or_default();
        match name.strip_prefix("blobs/sha256/").map(Digest::from_hex) {
            Some(Ok(digest)) => Self::Blob(digest),
            _ if name == "index.json" => Self::Index,
            _ if name == "oci-layout" => Self::Version,
            _ => Self::Nothing,
        }
    }
}

fn unpack(archive: &mut dyn Read, path: &Path) -> io::Result<()> {
    let blobs = path.join("blobs/sha256");
    fs::create_dir_all(&blobs, 0o755).map_err(io::Error::from)?;
    let limits = Limits::default();
    let mut reader = Reader::new(archive, &limits);
    let broken = |error: palan_tar::TarError| io::Error::other(error_chain::to_string(&error));
    let (mut index, mut version) = (None, None);
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        if entry.kind != Kind::Regular {
            continue;
        }
        match Place::of(&entry.path) {
            Place::Blob(digest) => {
                let target = blobs.join(digest.hex());
                if !fs::metadata(&target).is_ok_and(|known| known.len() == entry.size) {
                    blob(&mut reader, &target)?;
                }
            }
            Place::Index => index = Some(document(&mut reader)?),
            Place::Version => version = Some(document(&mut reader)?),
            Place::Nothing => {}
        }
    }
    let (Some(index), Some(version)) = (index, version) else {
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the daemon sent no image"));
    };
    let write = |name: &str, content: &[u8]| {
        atomic_file::write(&path.join(name), content, 0o644, Durability::Process).map_err(io::Error::from)
    };
    write("oci-layout", &version)?;
    let before = fs::read(&path.join("index.json")).unwrap_or_default();
    write("index.json", &merged(&before, &index)?)
}

/// A file that has its name when it is whole.
fn blob<R: Read>(reader: &mut Reader<'_, R>, target: &Path) -> io::Result<()> {
    let mut name = std::ffi::OsString::from(".tmp-");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".{}", std::process::id()));
    let temporary = target.with_file_name(name);
    let written = (|| {
        let mut file = std::fs::File::create(&temporary)?;
        while let Some(chunk) =
            reader.next_chunk().map_err(|error| io::Error::other(error_chain::to_string(&error)))?
        {
            file.write_all(chunk)?;
        }
        std::fs::rename(&temporary, target)
    })();
    if written.is_err() {
        // The error to tell is the one at hand.
        let _ = std::fs::remove_file(&temporary);
    }
    written
}

fn document<R: Read>(reader: &mut Reader<'_, R>) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    while let Some(chunk) =
        reader.next_chunk().map_err(|error| io::Error::other(error_chain::to_string(&error)))?
    {
        content.extend_from_slice(chunk);
        if content.len() > MAX_DOCUMENT {
            return Err(io::Error::other("a document of the image is too large"));
        }
    }
    Ok(content)
}

/// The new index, and of the one before what has another name and is something else.
fn merged(before: &[u8], new: &[u8]) -> io::Result<Vec<u8>> {
    let mut index: Value = serde_json::from_slice(new).map_err(io::Error::other)?;
    let before: Value = serde_json::from_slice(before).unwrap_or_default();
    let list = |index: &Value| index["manifests"].as_array().cloned().unwrap_or_default();
    let name = |entry: &Value| -> Option<Value> {
        NAMES.iter().find_map(|name| entry["annotations"].get(name).cloned())
    };
    let made = list(&index);
    let mut all: Vec<Value> = list(&before)
        .into_iter()
        .filter(|old| {
            made.iter().all(|new| match (name(old), name(new)) {
                (None, None) => old["digest"] != new["digest"],
                (old, new) => old != new,
            })
        })
        .collect();
    all.extend(made);
    index["manifests"] = json!(all);
    serde_json::to_vec(&index).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use palan_tar::testing::Tar;

    use super::*;

    fn index(entries: &[(&str, &str)]) -> String {
        let entries: Vec<Value> = entries
            .iter()
            .map(|(digest, name)| match *name {
                "" => json!({ "digest": digest }),
                name => json!({ "digest": digest, "annotations": { NAMES[0]: name } }),
            })
            .collect();
        json!({ "schemaVersion": 2, "manifests": entries }).to_string()
    }

    fn digests(content: &[u8]) -> Vec<String> {
        let index: Value = serde_json::from_slice(content).unwrap();
        let list = index["manifests"].as_array().unwrap();
        list.iter().map(|entry| entry["digest"].as_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn names_move_and_others_stay() {
        let before = index(&[("1", "a"), ("2", "b"), ("3", "")]);
        let new = index(&[("4", "a"), ("3", "")]);
        assert_eq!(digests(&merged(before.as_bytes(), new.as_bytes()).unwrap()), ["2", "4", "3"]);
        assert_eq!(digests(&merged(b"", new.as_bytes()).unwrap()), ["4", "3"]);
        assert_eq!(digests(&merged(b"nonsense", new.as_bytes()).unwrap()), ["4", "3"]);
        merged(b"", b"nonsense").unwrap_err();
    }

    #[test]
    fn a_layout_is_unpacked_and_nothing_else_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("made/layout");
        let hex = Digest::of("content").hex().to_owned();
        let archive = Tar::new()
            .file(&format!("blobs/sha256/{hex}"), b"content")
            .file("../outside", b"x")
            .file("blobs/sha256/../../up", b"x")
            .file("manifest.json", b"[]")
            .file("oci-layout", b"{}")
            .file("index.json", index(&[("1", "a")]).as_bytes())
            .finish();
        let mut layout = Layout::new(path.clone()).unwrap();
        layout.write_all(&archive).unwrap();
        layout.flush().unwrap();
        drop(layout);
        assert_eq!(std::fs::read(path.join("blobs/sha256").join(hex)).unwrap(), b"content");
        assert_eq!(digests(&std::fs::read(path.join("index.json")).unwrap()), ["1"]);
        let mut names: Vec<_> =
            std::fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["blobs", "index.json", "oci-layout"]);
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        // Half of an archive changes nothing that is led to.
        let mut layout = Layout::new(path.clone()).unwrap();
        layout.write_all(&archive[..700]).unwrap();
        drop(layout);
        assert_eq!(digests(&std::fs::read(path.join("index.json")).unwrap()), ["1"]);
    }
}
