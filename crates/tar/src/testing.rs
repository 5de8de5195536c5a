//! Archives by hand, byte by byte, for tests. Every entry may lie.

#![allow(missing_docs, reason = "the names are those of the format")]

/// An archive in the making. Every entry may lie.
#[derive(Debug, Default, Clone)]
pub struct Tar {
    bytes: Vec<u8>,
}

/// One header, with everything that can be set in it.
#[derive(Debug, Clone)]
pub struct Header {
    pub name: Vec<u8>,
    pub kind: u8,
    pub link: Vec<u8>,
    pub mode: u32,
    pub owner: (u32, u32),
    pub size: u64,
    pub modified: u64,
    pub device: (u32, u32),
    pub magic: [u8; 8],
}

impl Header {
    pub fn new(name: impl AsRef<[u8]>, kind: u8) -> Self {
        Self {
            name: name.as_ref().to_vec(),
            kind,
            link: Vec::new(),
            mode: if kind == b'5' { 0o755 } else { 0o644 },
            owner: (0, 0),
            size: 0,
            modified: 1_600_000_000,
            device: (0, 0),
            magic: *b"ustar\x0000",
        }
    }

    pub fn bytes(&self) -> [u8; 512] {
        let mut block = [0; 512];
        let name = &self.name[..self.name.len().min(100)];
        block[..name.len()].copy_from_slice(name);
        octal(&mut block[100..108], u64::from(self.mode));
        octal(&mut block[108..116], u64::from(self.owner.0));
        octal(&mut block[116..124], u64::from(self.owner.1));
        octal(&mut block[124..136], self.size);
        octal(&mut block[136..148], self.modified);
        block[156] = self.kind;
        let link = &self.link[..self.link.len().min(100)];
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(&self.magic);
        octal(&mut block[329..337], u64::from(self.device.0));
        octal(&mut block[337..345], u64::from(self.device.1));
        seal(&mut block);
        block
    }
}

/// Puts the right checksum in a header block.
pub fn seal(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
    octal(&mut block[148..155], sum);
}

fn octal(field: &mut [u8], number: u64) {
    let text = format!("{number:0width$o}\0", width = field.len() - 1);
    field.copy_from_slice(text.as_bytes());
}

impl Tar {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn file(self, name: &str, content: &[u8]) -> Self {
        let size = content.len() as u64;
        self.entry(&Header { size, ..Header::new(name, b'0') }, content)
    }

    pub fn directory(self, name: &str) -> Self {
        self.entry(&Header::new(name, b'5'), b"")
    }

    pub fn symlink(self, name: &str, target: &str) -> Self {
        self.entry(&Header { link: target.into(), ..Header::new(name, b'2') }, b"")
    }

    pub fn hard_link(self, name: &str, target: &str) -> Self {
        self.entry(&Header { link: target.into(), ..Header::new(name, b'1') }, b"")
    }

    /// A PAX header for the next entry, of these records.
    pub fn pax(self, records: &[(&str, &[u8])]) -> Self {
        self.extended(b'x', &pax_records(records))
    }

    /// An extended header of any kind and content.
    pub fn extended(self, kind: u8, content: &[u8]) -> Self {
        let size = content.len() as u64;
        self.entry(&Header { size, ..Header::new("././@LongLink", kind) }, content)
    }

    pub fn entry(self, header: &Header, content: &[u8]) -> Self {
        self.raw(&header.bytes()).padded(content)
    }

    pub fn raw(mut self, bytes: &[u8]) -> Self {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub fn padded(self, content: &[u8]) -> Self {
        let padding = content.len().wrapping_neg() % 512;
        self.raw(content).raw(&vec![0; padding])
    }

    /// With the two blocks of zeros that end an archive.
    pub fn finish(self) -> Vec<u8> {
        self.raw(&[0; 1024]).bytes
    }

    /// Just what was put in.
    pub fn unfinished(self) -> Vec<u8> {
        self.bytes
    }
}

pub fn pax_records(records: &[(&str, &[u8])]) -> Vec<u8> {
    let mut content = Vec::new();
    for (key, value) in records {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + rest.to_string().len();
        length = rest + length.to_string().len();
        content.extend_from_slice(format!("{length} {key}=").as_bytes());
        content.extend_from_slice(value);
        content.push(b'\n');
    }
    content
}
