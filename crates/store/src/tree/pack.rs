//! A container's changes as a layer's tar, and its whole tree as a tar.

use std::io::Write;
use std::os::unix::ffi::OsStrExt as _;

use palan_tar::pack::{Packer, absolute};

use super::settle::hides;
use super::{Overlaid, Scope, TreeError, Visited};
use crate::layer::tar::{Entry, Kind};

impl Overlaid {
    /// Writes what changed as a layer: applied to the lower side it gives what the container sees. Whether there was
    /// anything to write.
    pub fn write_layer(&self, sink: &mut dyn Write) -> Result<bool, TreeError> {
        let mut packer = Packer::new(sink);
        self.walk(Scope::Own, &mut |visited| change(&mut packer, visited))?;
        packer.finish()
    }

    /// Writes all that the container sees.
    pub fn write_all(&self, sink: &mut dyn Write) -> Result<(), TreeError> {
        let mut packer = Packer::new(sink);
        self.walk(Scope::Visible, &mut |visited| match (&visited.upper, &visited.lower) {
            _ if visited.is_whiteout() => Ok(()),
            (Some((directory, metadata)), _) | (None, Some((directory, metadata))) => {
                packer.add(visited.path, directory, visited.name, metadata)
            }
            (None, None) => Ok(()),
        })?;
        packer.finish().map(drop)
    }
}

pub(super) fn change(packer: &mut Packer<'_>, visited: &Visited<'_>) -> Result<(), TreeError> {
    let Some((directory, metadata)) = &visited.upper else { return Ok(()) };
    if visited.is_whiteout() {
        // What hides nothing is not worth telling.
        return if visited.lower.is_some() { whiteout(packer, visited) } else { Ok(()) };
    }
    if visited.name.as_bytes().starts_with(b".wh.") {
        return Err(TreeError::Name { path: absolute(visited.path) });
    }
    packer.add(visited.path, directory, visited.name, metadata)?;
    if visited.opaque && hides(visited) {
        let path = [visited.path, b"/.wh..wh..opq"].concat();
        return mark(packer, path);
    }
    Ok(())
}

fn whiteout(packer: &mut Packer<'_>, visited: &Visited<'_>) -> Result<(), TreeError> {
    let start = visited.path.len() - visited.name.len();
    let path = [&visited.path[..start], b".wh.", visited.name.as_bytes()].concat();
    mark(packer, path)
}

fn mark(packer: &mut Packer<'_>, path: Vec<u8>) -> Result<(), TreeError> {
    let mut entry = Entry::plain(path, Kind::Regular);
    entry.mode = 0;
    packer.bare(&entry)
}
