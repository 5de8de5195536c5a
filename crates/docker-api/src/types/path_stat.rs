//! What a path in a container is, as the header of the archive endpoints says it.

use crate::json;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};

/// The header's name.
pub const PATH_STAT_HEADER: &str = "X-Docker-Container-Path-Stat";

/// `X-Docker-Container-Path-Stat`: base64 of this as JSON.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PathStat {
    pub name: String,
    pub size: i64,
    /// Go's `os.FileMode`: see [`file_mode`].
    pub mode: u32,
    pub mtime: String,
    pub link_target: String,
}

/// The bits of Go's `os.FileMode` beside the permissions.
pub mod file_mode {
    pub const DIRECTORY: u32 = 1 << 31;
    pub const SYMLINK: u32 = 1 << 27;
    pub const DEVICE: u32 = 1 << 26;
    pub const NAMED_PIPE: u32 = 1 << 25;
    pub const SOCKET: u32 = 1 << 24;
    pub const SETUID: u32 = 1 << 23;
    pub const SETGID: u32 = 1 << 22;
    pub const CHARACTER_DEVICE: u32 = 1 << 21;
    pub const STICKY: u32 = 1 << 20;
    pub const IRREGULAR: u32 = 1 << 19;
}

impl PathStat {
    /// The header's value.
    pub fn to_header(&self) -> String {
        STANDARD.encode(json::to_vec(self))
    }

    /// Reads the header; `None` when it is not what it should be.
    pub fn from_header(value: &str) -> Option<Self> {
        json::from_slice(&STANDARD.decode(value.trim()).ok()?).ok()
    }

    pub fn is_directory(&self) -> bool {
        self.mode & file_mode::DIRECTORY != 0
    }

    pub fn is_symlink(&self) -> bool {
        self.mode & file_mode::SYMLINK != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_header_is_read_as_it_is_written() {
        let stat = PathStat { name: "a".into(), mode: file_mode::DIRECTORY | 0o755, ..PathStat::default() };
        assert_eq!(PathStat::from_header(&stat.to_header()), Some(stat));
        // As dockerd writes it.
        let theirs = "eyJuYW1lIjoicm9vdCIsInNpemUiOjQwOTYsIm1vZGUiOjIxNDc0ODQwOTYsIm10aW1lIjoiMjAxNC0wMi0yN1QyMDo1MToyM1oiLCJsaW5rVGFyZ2V0IjoiIn0=";
        let stat = PathStat::from_header(theirs).expect("valid");
        assert_eq!((stat.name.as_str(), stat.size, stat.is_directory()), ("root", 4096, true));
        assert_eq!(PathStat::from_header("?"), None);
    }
}
