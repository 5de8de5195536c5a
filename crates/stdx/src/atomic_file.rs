//! Files that appear whole or not at all: written beside their place, then renamed into it.

use std::ffi::OsString;
use std::fs::File;
use std::io::Write;
use std::path::Path;

use crate::fs::{PathContext, PathError};

/// How much a new file must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The death of this process: no `fsync`.
    Process,
    /// A power loss: `fsync` of the file and of its directory.
    Power,
}

/// Replaces `path` by a file with the given content and permission bits.
///
/// A reader sees the old content or the new, never a mixture. The temporary name is fixed (`.<name>.tmp`), so what a
/// killed process left is overwritten by the next call; two writers of one path must be kept apart by the caller.
pub fn write(path: &Path, content: &[u8], mode: u32, durability: Durability) -> Result<(), PathError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let mut name = OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(".tmp");
    let temporary = directory.join(name);
    let create = || crate::fs::create_new(&temporary, mode);
    let mut file = match create() {
        // Left by a process that was killed.
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
            crate::fs::remove_file(&temporary)?;
            create()?
        }
        created => created?,
    };
    let written = file.write_all(content).and_then(|()| match durability {
        Durability::Process => Ok(()),
        Durability::Power => file.sync_all(),
    });
    if let Err(error) = written {
        drop(file);
        crate::fs::remove_file(&temporary)?;
        return Err(PathError::new("write", &temporary, error));
    }
    crate::fs::rename(&temporary, path)?;
    if durability == Durability::Power {
        File::open(directory).and_then(|opened| opened.sync_all()).path_context("sync", directory)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replaces_the_content_and_leaves_no_temporary_file() {
        let directory = std::env::temp_dir().join(format!("palan-atomic-{}", std::process::id()));
        crate::fs::create_dir_all(&directory, 0o700).unwrap();
        let path = directory.join("file");
        write(&path, b"one", 0o600, Durability::Process).unwrap();
        write(&path, b"two", 0o600, Durability::Power).unwrap();
        assert_eq!(crate::fs::read(&path).unwrap(), b"two");
        std::fs::write(directory.join(".file.tmp"), "left by a process that was killed").unwrap();
        write(&path, b"two", 0o600, Durability::Process).unwrap();
        assert_eq!(crate::fs::read(&path).unwrap(), b"two");
        assert_eq!(crate::fs::read_dir(&directory).unwrap().len(), 1);
        crate::fs::remove_dir_all(&directory).unwrap();
    }
}
