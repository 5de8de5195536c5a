//! `--storage-opt size=…`: how much a container may write to its root file system, as a project quota of the file system that the
//! data root lies on.
//!
//! The overlay's two directories are of one project, since the kernel renames nothing from one into another.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

use palan_linux::quota;

use crate::container::Details;
use crate::error::Context;
use crate::{Error, Result};

/// Numbers from here on are Palan's; Docker counts from 1.
const FIRST_PROJECT: u32 = 0x4000_0000;
/// Numbers tried until one is free.
const ATTEMPTS: u32 = 64;

/// Refuses every other option.
pub(crate) fn check(options: &BTreeMap<String, String>) -> Result<()> {
    size(options).map(drop)
}

/// The size in bytes; `None` for no limit.
fn size(options: &BTreeMap<String, String>) -> Result<Option<u64>> {
    let mut size = None;
    for (key, value) in options {
        if !key.eq_ignore_ascii_case("size") {
            return Err(Error::invalid(format!("Unknown option {key}")));
        }
        let bytes = palan_stdx::size::parse_memory(value);
        size = Some(bytes.map_err(|_| Error::invalid(format!("invalid size: '{value}'")))?);
    }
    Ok(size.filter(|bytes| *bytes > 0))
}

/// Limits what may be written to the overlay's directories, which must be empty. The project's number is kept in the details.
pub(crate) fn limit(details: &mut Details) -> Result<()> {
    let Some(size) = size(&details.host.storage_opt)? else { return Ok(()) };
    let upper = open(&details.overlay.upper)?;
    let work = open(&details.overlay.work)?;
    let project = free_project(&upper, &details.id)?;
    for directory in [&upper, &work] {
        quota::assign(directory, project).context(|| {
            "--storage-opt size: cannot assign the container's directories to a project".into()
        })?;
    }
    quota::limit(&upper, project, size)
        .context(|| "--storage-opt size: cannot limit what the container writes".into())?;
    details.quota_project = project;
    Ok(())
}

/// Forgets the limit of a container that is removed. What can't be forgotten does no harm: its number is used by nobody.
pub(crate) fn release(upper: &str, project: u32) {
    if project == 0 {
        return;
    }
    if let Ok(Err(error)) = open(upper).map(|directory| quota::limit(directory, project, 0)) {
        tracing::warn!(%error, directory = upper, "the quota of a removed container was not released");
    }
}

fn open(path: &str) -> Result<File> {
    palan_stdx::fs::open(Path::new(path)).context(|| "cannot open the container's directories".into())
}

/// A number that no other project of this file system has, be it of another daemon.
fn free_project(directory: &File, id: &str) -> Result<u32> {
    let wish = id.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or_default();
    for attempt in 0..ATTEMPTS {
        let project = FIRST_PROJECT | (wish.wrapping_add(attempt) & (FIRST_PROJECT - 1));
        match quota::project(directory, project) {
            Ok(quota::Project { limit: 0, used: 0 }) => return Ok(project),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(project),
            Ok(_) => {}
            Err(source) => {
                return Err(Error::invalid(
                    "--storage-opt size is supported only where the file system of the data root has project quotas: \
                     ext4 or xfs, mounted with the option 'prjquota' ('pquota' for xfs), and Linux 5.14",
                )
                .with_source(source));
            }
        }
    }
    Err(Error::system("--storage-opt size: no free project was found on the file system of the data root"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options() {
        let outcome = |key: &str, value: &str| {
            size(&BTreeMap::from([(key.to_owned(), value.to_owned())])).map_err(|error| error.report())
        };
        assert_eq!(outcome("size", "1G"), Ok(Some(1 << 30)));
        assert_eq!(outcome("Size", "0"), Ok(None));
        assert_eq!(outcome("size", "x"), Err("invalid size: 'x'".into()));
        assert_eq!(outcome("colour", "x"), Err("Unknown option colour".into()));
    }
}
