//! Writing the archive that the kernel unpacks into its first root: cpio, "new ASCII" format
//! (`Documentation/driver-api/early-userspace/buffer-format.rst` of the kernel).

/// An archive under construction.
#[derive(Debug, Default)]
pub(super) struct Archive {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_755;
const REGULAR: u32 = 0o100_000;

impl Archive {
    /// Adds a directory. Parents come before what lies in them.
    pub(super) fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY, &[]);
    }

    /// Adds a file with the permissions.
    pub(super) fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, content);
    }

    /// The archive with its end marked.
    pub(super) fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[]);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) {
        self.entries += 1;
        let length = u32::try_from(content.len()).expect("nothing that we put in has 4 GiB");
        let name_length = u32::try_from(path.len() + 1).expect("our paths are short");
        // inode, mode, uid, gid, links, time, size, device twice, device of a device node twice, name, check sum
        let fields = [self.entries, mode, 0, 0, 1, 0, length, 0, 0, 0, 0, name_length, 0];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_laid_out_as_the_kernel_reads_it() {
        let mut archive = Archive::default();
        archive.file("init", 0o755, b"hello");
        let bytes = archive.finish();
        let head = "070701".to_owned()
            + "00000001"
            + "000081ed"
            + &"00000000".repeat(2)
            + "00000001"
            + "00000000"
            + "00000005"
            + &"00000000".repeat(4)
            + "00000005"
            + "00000000";
        // 110 bytes of header and 5 of name are 115, so one byte fills up to 116; the content takes 5 and three more.
        let expected = [head.as_bytes(), b"init\0\0", b"hello\0\0\0", b"070701"].concat();
        assert_eq!(bytes[..expected.len()], expected);
        assert_eq!(bytes.len() % 4, 0);
    }

    #[test]
    fn the_trailer_ends_it() {
        let mut archive = Archive::default();
        archive.directory("modules");
        let bytes = archive.finish();
        assert!(bytes.windows(11).any(|window| window == b"TRAILER!!!\0"));
        assert!(bytes.windows(8).any(|window| window == b"000041ed"));
    }
}
