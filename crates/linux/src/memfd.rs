//! Sealed anonymous files: data or a program that nobody can change any more, not even through `/proc/<pid>/exe`.

use std::fs::File;
use std::io::{self, Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, SealFlags};

/// Makes a sealed memfd with `contents`; its offset is at the start.
pub fn sealed(name: &str, contents: &[u8]) -> io::Result<OwnedFd> {
    fill(name, MemfdFlags::empty(), |file| file.write_all(contents))
}

/// Makes a sealed, executable memfd with a program.
pub fn sealed_program(name: &str, program: &[u8]) -> io::Result<OwnedFd> {
    fill(name, MemfdFlags::EXEC, |file| file.write_all(program))
}

/// Makes a sealed, executable memfd with what a file still has to give.
pub fn sealed_copy(name: &str, source: &mut File) -> io::Result<OwnedFd> {
    fill(name, MemfdFlags::EXEC, |file| io::copy(source, file).map(drop))
}

fn fill(
    name: &str,
    extra: MemfdFlags,
    write: impl FnOnce(&mut File) -> io::Result<()>,
) -> io::Result<OwnedFd> {
    let base = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    // MFD_EXEC came with Linux 6.3; before that every memfd is executable.
    let fd = match rustix::fs::memfd_create(name, base | extra) {
        Err(rustix::io::Errno::INVAL) if !extra.is_empty() => rustix::fs::memfd_create(name, base)?,
        other => other?,
    };
    let mut file = File::from(fd);
    write(&mut file)?;
    file.seek(SeekFrom::Start(0))?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::SEAL | SealFlags::SHRINK | SealFlags::GROW | SealFlags::WRITE,
    )?;
    Ok(file.into())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;

    #[test]
    fn a_sealed_file_reads_back_and_refuses_writes() {
        let mut file = File::from(sealed("test", b"abc").unwrap());
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, "abc");
        assert!(file.write_all(b"x").is_err());
        assert!(file.set_len(0).is_err());
    }
}
