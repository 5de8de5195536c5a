//! Contexts as Docker's clients export them:
//!
//! ```text
//! meta.json               as it lies on the disk
//! tls/docker/ca.pem …     what TLS needs
//! ```
//! An archive is somebody else's: what is in it beside these files is refused, and nothing of it is a path here.

use std::io;

use palan_stdx::error_chain;
use palan_tar::write::Writer;
use palan_tar::{Entry, Kind, Limits, Reader, lossy};

use super::store::{Context, TLS_FILES, TlsMaterial};
use crate::error::{CliError, Result};

/// The largest archive, as in Docker.
pub(crate) const MAX_ARCHIVE: u64 = 10 << 20;

/// A context as an archive.
pub(crate) fn write(context: &Context, files: &TlsMaterial) -> io::Result<Vec<u8>> {
    let mut writer = Writer::new(Vec::new());
    let mut file = |path: &str, mode: u32, content: &[u8]| {
        let size = content.len() as u64;
        let entry = Entry { mode, size, ..Entry::plain(path.as_bytes().to_vec(), Kind::Regular) };
        writer.file(&entry, &mut &*content)
    };
    file("meta.json", 0o644, &serde_json::to_vec(context)?)?;
    let mut directory = |path: &str| {
        writer.entry(&Entry { mode: 0o700, ..Entry::plain(path.as_bytes().to_vec(), Kind::Directory) })
    };
    directory("tls")?;
    if !files.is_empty() {
        directory("tls/docker")?;
    }
    for (name, content) in files {
        let size = content.len() as u64;
        let path = format!("tls/docker/{name}").into_bytes();
        writer.file(&Entry { mode: 0o600, size, ..Entry::plain(path, Kind::Regular) }, &mut &**content)?;
    }
    writer.finish()
}

/// The context in an archive.
pub(crate) fn read(bytes: &[u8]) -> Result<(Context, TlsMaterial)> {
    if bytes.len() as u64 > MAX_ARCHIVE {
        return Err(CliError::new(format!(
            "the archive of the context is larger than {MAX_ARCHIVE} bytes, which no context is"
        )));
    }
    if bytes.starts_with(b"PK\x03\x04") {
        return Err(CliError::new("a context in a zip file is not supported")
            .hint("Unpack it, and give it as a tar archive of meta.json and tls/."));
    }
    let broken = |error: palan_tar::TarError| CliError::new(error_chain::to_string(&error));
    let limits = Limits::default();
    let mut reader = Reader::new(bytes, &limits);
    let (mut context, mut files) = (None, TlsMaterial::new());
    while let Some(entry) = reader.next_entry().map_err(broken)? {
        let mut content = Vec::new();
        while let Some(chunk) = reader.next_chunk().map_err(broken)? {
            content.extend_from_slice(chunk);
        }
        let path = lossy(&entry.path);
        let path = path.trim_start_matches("./").trim_end_matches('/');
        match (entry.kind, path) {
            (Kind::Directory, _) => {}
            (Kind::Regular, "meta.json") => {
                let read = serde_json::from_slice::<Context>(&content);
                context =
                    Some(read.map_err(|error| CliError::new(format!("meta.json of the context: {error}")))?);
            }
            (Kind::Regular, path) => {
                let known = TLS_FILES.iter().find(|name| path.strip_prefix("tls/docker/") == Some(**name));
                match known {
                    Some(name) => files.push((name, content)),
                    None => return Err(unexpected(path)),
                }
            }
            _ => return Err(unexpected(path)),
        }
    }
    let context = context.ok_or_else(|| CliError::new("invalid context: no metadata found"))?;
    if context.endpoint().is_none() {
        return Err(CliError::new("invalid context: it names no docker endpoint"));
    }
    Ok((context, files))
}

fn unexpected(path: &str) -> CliError {
    CliError::new(format!("{path}: unexpected context file"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::context::store::Endpoint;

    fn context() -> Context {
        let mut context = Context::new("far");
        context.set_endpoint(&Endpoint { host: "tcp://10.0.0.1:2376".to_owned(), skip_tls_verify: false });
        context
    }

    #[test]
    fn there_and_back() {
        let files: TlsMaterial = vec![("ca.pem", b"authority".to_vec()), ("key.pem", b"key".to_vec())];
        for files in [files, TlsMaterial::new()] {
            let bytes = write(&context(), &files).unwrap();
            assert_eq!(read(&bytes).unwrap(), (context(), files));
        }
    }

    #[test]
    fn archives_of_others_are_not_trusted() {
        let archive = |path: &str, kind: Kind, content: &[u8]| {
            let mut writer = Writer::new(Vec::new());
            let size = content.len() as u64;
            let entry =
                Entry { size, link: b"/etc/passwd".to_vec(), ..Entry::plain(path.as_bytes().to_vec(), kind) };
            match kind {
                Kind::Regular => writer.file(&entry, &mut &*content).unwrap(),
                _ => writer.entry(&entry).unwrap(),
            }
            read(&writer.finish().unwrap()).unwrap_err().message
        };
        assert_eq!(archive("../x", Kind::Regular, b""), "../x: unexpected context file");
        assert_eq!(
            archive("tls/docker/../../x", Kind::Regular, b""),
            "tls/docker/../../x: unexpected context file"
        );
        assert_eq!(archive("meta.json", Kind::Symlink, b""), "meta.json: unexpected context file");
        assert!(archive("meta.json", Kind::Regular, b"{").starts_with("meta.json of the context: "));
        assert_eq!(
            archive("meta.json", Kind::Regular, b"{}"),
            "invalid context: it names no docker endpoint"
        );
        assert_eq!(archive("tls", Kind::Directory, b""), "invalid context: no metadata found");
        assert!(read(b"PK\x03\x04").unwrap_err().message.contains("zip"));
    }
}
