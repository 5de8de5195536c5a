//! Kinds and permissions of files as Go's `os.FileMode` has them, which is what travels.

use palan_linux::path::FileKind;

const DIRECTORY: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const FIFO: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SET_UID: u32 = 1 << 23;
const SET_GID: u32 = 1 << 22;
const CHARACTER_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;
const IRREGULAR: u32 = 1 << 19;

/// The bits that Go counts as the kind. With none of them it is a regular file, of which content can be asked for.
const KIND: u32 = DIRECTORY | SYMLINK | DEVICE | FIFO | SOCKET | CHARACTER_DEVICE | IRREGULAR;

/// Go's bits of a kind and permissions (`07777`).
pub fn to_go(kind: FileKind, mode: u32) -> u32 {
    let kind = match kind {
        FileKind::Regular => 0,
        FileKind::Directory => DIRECTORY,
        FileKind::Symlink => SYMLINK,
        FileKind::Fifo => FIFO,
        FileKind::Socket => SOCKET,
        FileKind::CharacterDevice => DEVICE | CHARACTER_DEVICE,
        FileKind::BlockDevice => DEVICE,
        FileKind::Unknown => IRREGULAR,
    };
    let special = [(0o4000, SET_UID), (0o2000, SET_GID), (0o1000, STICKY)];
    let special = special.iter().filter(|(bit, _)| mode & bit != 0).fold(0, |all, (_, bit)| all | bit);
    kind | special | mode & 0o777
}

/// Kind and permissions of Go's bits.
pub fn from_go(mode: u32) -> (FileKind, u32) {
    let kind = match mode & KIND {
        0 => FileKind::Regular,
        DIRECTORY => FileKind::Directory,
        SYMLINK => FileKind::Symlink,
        DEVICE => FileKind::BlockDevice,
        FIFO => FileKind::Fifo,
        SOCKET => FileKind::Socket,
        kind if kind == DEVICE | CHARACTER_DEVICE => FileKind::CharacterDevice,
        _ => FileKind::Unknown,
    };
    let special = [(0o4000, SET_UID), (0o2000, SET_GID), (0o1000, STICKY)];
    let special = special.iter().filter(|(_, bit)| mode & bit != 0).fold(0, |all, (bit, _)| all | bit);
    (kind, special | mode & 0o777)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        use FileKind::{BlockDevice, CharacterDevice, Directory, Fifo, Regular, Socket, Symlink, Unknown};
        for kind in [Regular, Directory, Symlink, Fifo, Socket, CharacterDevice, BlockDevice, Unknown] {
            for mode in [0, 0o644, 0o4755, 0o2755, 0o1777, 0o7777] {
                assert_eq!(from_go(to_go(kind, mode)), (kind, mode));
            }
        }
        // What Go prints of a directory with its sticky bit: `dtrwxrwxrwx`.
        assert_eq!(to_go(Directory, 0o1777), 0x8010_01ff);
        assert_eq!(from_go(DIRECTORY | SYMLINK), (Unknown, 0));
    }
}
