//! What a path in a container is.

use jiff::Timestamp;
use palan_docker_api::types::{self, file_mode};
use palan_engine::container::{FileKind, PathStat};

pub(crate) fn path_stat(stat: &PathStat) -> types::PathStat {
    let metadata = &stat.metadata;
    let nanoseconds = i32::try_from(metadata.modified.nanoseconds).unwrap_or_default();
    types::PathStat {
        name: stat.name.clone(),
        size: super::signed(metadata.size),
        mode: mode(metadata.kind, metadata.mode),
        mtime: super::time(Timestamp::new(metadata.modified.seconds, nanoseconds).ok()),
        link_target: stat.link_target.clone(),
    }
}

/// Go's `os.FileMode` of a kind and its permission, set-id and sticky bits.
fn mode(kind: FileKind, bits: u32) -> u32 {
    let kind = match kind {
        FileKind::Regular => 0,
        FileKind::Directory => file_mode::DIRECTORY,
        FileKind::Symlink => file_mode::SYMLINK,
        FileKind::Fifo => file_mode::NAMED_PIPE,
        FileKind::Socket => file_mode::SOCKET,
        FileKind::CharacterDevice => file_mode::DEVICE | file_mode::CHARACTER_DEVICE,
        FileKind::BlockDevice => file_mode::DEVICE,
        FileKind::Unknown => file_mode::IRREGULAR,
    };
    let special = [(0o4000, file_mode::SETUID), (0o2000, file_mode::SETGID), (0o1000, file_mode::STICKY)];
    let special = special.iter().filter(|(bit, _)| bits & bit != 0).fold(0, |mode, (_, flag)| mode | flag);
    kind | special | (bits & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_are_those_of_go() {
        assert_eq!(mode(FileKind::Directory, 0o1777), 0o777 | 1 << 31 | 1 << 20);
        assert_eq!(mode(FileKind::Regular, 0o4755), 0o755 | 1 << 23);
        assert_eq!(mode(FileKind::Symlink, 0o777), 0o1_000_000_777);
        assert_eq!(mode(FileKind::CharacterDevice, 0o600), 0o600 | 1 << 26 | 1 << 21);
    }
}
