//! A writer of tar archives: ustar headers, PAX records where a field is too small, nothing that depends on this host.
//!
//! The same entries give the same bytes. No owner's names, no access times, no device of the archive's source are written,
//! so an archive says what it holds and not where it was made.

use std::io::{self, Read, Write};

use palan_linux::path::Time;

use super::{BLOCK, Entry, Kind, Segment};

/// What fits in eleven octal digits.
const MAX_OCTAL_11: u64 = 0o777_7777_7777;
/// What fits in seven octal digits.
const MAX_OCTAL_7: u64 = 0o777_7777;
const NAME_BYTES: usize = 100;

/// Writes an archive from start to end.
#[derive(Debug)]
pub struct Writer<W> {
    sink: W,
    buffer: Vec<u8>,
    entries: u64,
    watch: Watch,
}

/// Hears of content before it is written: the path of its file, where in the file, how many bytes.
pub type ContentWatch = Box<dyn FnMut(&[u8], u64, u64)>;

#[derive(Default)]
struct Watch(Option<ContentWatch>);

impl std::fmt::Debug for Watch {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_tuple("Watch").field(&self.0.is_some()).finish()
    }
}

impl Watch {
    fn tell(&mut self, path: &[u8], offset: u64, length: u64) {
        if let (Some(told), true) = (&mut self.0, length > 0) {
            told(path, offset, length);
        }
    }
}

impl<W: Write> Writer<W> {
    /// A writer to `sink`; the archive is complete with [`Writer::finish`].
    pub fn new(sink: W) -> Self {
        Self { sink, buffer: Vec::new(), entries: 0, watch: Watch::default() }
    }

    /// From now on `told` hears which of the bytes that the sink gets next are the content of a file: its path, where in it, and how
    /// many. All other bytes are the archive's own.
    pub fn watch_content(&mut self, told: ContentWatch) {
        self.watch = Watch(Some(told));
    }

    /// Writes an entry without content.
    pub fn entry(&mut self, entry: &Entry) -> io::Result<()> {
        self.header(entry, 0)
    }

    /// Writes a regular file of `entry.size` bytes. A source that ends early is filled up with zeros, as GNU tar does with a
    /// file that shrinks while it is read; one that has more is cut.
    pub fn file(&mut self, entry: &Entry, content: &mut dyn Read) -> io::Result<()> {
        self.header(entry, entry.size)?;
        self.watch.tell(&entry.path, 0, entry.size);
        self.content(content, entry.size)?;
        self.pad(entry.size)
    }

    /// Writes a regular file with holes: `entry.sparse` says where the content is, and `content_at` reads it from there.
    /// The format is PAX 1.0 (GNU tar's manual, appendix "Sparse Formats"), which Go, Python and bsdtar read, too.
    pub fn sparse_file(
        &mut self,
        entry: &Entry,
        segments: &[Segment],
        mut content_at: impl FnMut(u64) -> io::Result<Box<dyn Read>>,
    ) -> io::Result<()> {
        let map = sparse_map(segments);
        let data: u64 = segments.iter().map(|segment| segment.length).sum();
        self.header(entry, map.len() as u64 + data)?;
        self.sink.write_all(&map)?;
        for segment in segments.iter().filter(|segment| segment.length > 0) {
            self.watch.tell(&entry.path, segment.offset, segment.length);
            self.content(&mut *content_at(segment.offset)?, segment.length)?;
        }
        self.pad(data)
    }

    /// How many entries were written.
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Ends the archive with two blocks of zeros.
    pub fn finish(mut self) -> io::Result<W> {
        self.sink.write_all(&[0; 2 * BLOCK])?;
        Ok(self.sink)
    }

    fn header(&mut self, entry: &Entry, size: u64) -> io::Result<()> {
        self.entries += 1;
        let records = records(entry, size);
        if !records.is_empty() {
            let name = [b"PaxHeaders.0/".as_slice(), last_component(&entry.path)].concat();
            let fields = Fields { name: &name, kind: b'x', mode: 0o644, ..Fields::default() };
            self.sink.write_all(&fields.block(records.len() as u64))?;
            self.sink.write_all(&records)?;
            self.pad(records.len() as u64)?;
        }
        let fields = Fields {
            name: &entry.path,
            kind: flag(entry.kind),
            mode: entry.mode,
            uid: entry.uid.into(),
            gid: entry.gid.into(),
            modified: u64::try_from(entry.modified.seconds).unwrap_or(0),
            link: &entry.link,
            device: entry.device,
        };
        self.sink.write_all(&fields.block(size))
    }

    fn content(&mut self, source: &mut dyn Read, size: u64) -> io::Result<()> {
        self.buffer.resize(256 * 1024, 0);
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(self.buffer.len());
            let length = match source.read(&mut self.buffer[..wanted]) {
                Ok(0) => {
                    self.buffer[..wanted].fill(0);
                    wanted
                }
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            self.sink.write_all(&self.buffer[..length])?;
            left -= length as u64;
        }
        Ok(())
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let padding = usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0);
        self.sink.write_all(&[0; BLOCK][..padding])
    }
}

/// What one header block says.
#[derive(Default)]
struct Fields<'a> {
    name: &'a [u8],
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    modified: u64,
    link: &'a [u8],
    device: (u32, u32),
}

impl Fields<'_> {
    /// What does not fit is 0 or cut; a record before it says what is right.
    fn block(&self, size: u64) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        text(&mut block[..NAME_BYTES], self.name);
        octal(&mut block[100..108], self.mode.into());
        octal(&mut block[108..116], self.uid);
        octal(&mut block[116..124], self.gid);
        octal(&mut block[124..136], size);
        octal(&mut block[136..148], self.modified);
        block[148..156].fill(b' ');
        block[156] = self.kind;
        text(&mut block[157..257], self.link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        octal(&mut block[329..337], self.device.0.into());
        octal(&mut block[337..345], self.device.1.into());
        let sum: u64 = block.iter().map(|byte| u64::from(*byte)).sum();
        // Six digits, NUL, space: the form that every reader knows.
        octal(&mut block[148..155], sum);
        block
    }
}

fn text(field: &mut [u8], value: &[u8]) {
    let length = value.len().min(field.len());
    field[..length].copy_from_slice(&value[..length]);
}

/// Octal digits with leading zeros and a NUL at the end; 0 for what does not fit.
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let most = (1u64 << (3 * digits)) - 1;
    let mut value = if value > most { 0 } else { value };
    for digit in field[..digits].iter_mut().rev() {
        *digit = b'0' + (value & 7) as u8;
        value >>= 3;
    }
    field[digits] = 0;
}

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::Regular => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharacterDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// The PAX records that an entry needs, in a fixed order.
fn records(entry: &Entry, size: u64) -> Vec<u8> {
    let mut records = Vec::new();
    if entry.sparse.is_some() {
        record(&mut records, "GNU.sparse.major", b"1");
        record(&mut records, "GNU.sparse.minor", b"0");
        record(&mut records, "GNU.sparse.name", &entry.path);
        record(&mut records, "GNU.sparse.realsize", entry.size.to_string().as_bytes());
    } else if entry.path.len() > NAME_BYTES {
        record(&mut records, "path", &entry.path);
    }
    if entry.link.len() > NAME_BYTES {
        record(&mut records, "linkpath", &entry.link);
    }
    if size > MAX_OCTAL_11 {
        record(&mut records, "size", size.to_string().as_bytes());
    }
    for (name, id) in [("uid", entry.uid), ("gid", entry.gid)] {
        if u64::from(id) > MAX_OCTAL_7 {
            record(&mut records, name, id.to_string().as_bytes());
        }
    }
    let Time { seconds, nanoseconds } = entry.modified;
    if nanoseconds != 0 || u64::try_from(seconds).map_or(true, |seconds| seconds > MAX_OCTAL_11) {
        record(&mut records, "mtime", decimal(entry.modified).as_bytes());
    }
    for (name, value) in &entry.xattrs {
        let mut key = b"SCHILY.xattr.".to_vec();
        key.extend_from_slice(name);
        record_bytes(&mut records, &key, value);
    }
    records
}

/// Seconds with their fraction; before 1970 the fraction counts backwards, as PAX has it.
fn decimal(time: Time) -> String {
    let (sign, seconds, nanoseconds) = match (time.seconds < 0, time.nanoseconds) {
        (true, 0) => ("-", time.seconds.unsigned_abs(), 0),
        (true, nanoseconds) => ("-", time.seconds.unsigned_abs() - 1, 1_000_000_000 - nanoseconds),
        (false, nanoseconds) => ("", time.seconds.unsigned_abs(), nanoseconds),
    };
    if nanoseconds == 0 {
        return format!("{sign}{seconds}");
    }
    let fraction = format!("{nanoseconds:09}");
    format!("{sign}{seconds}.{}", fraction.trim_end_matches('0'))
}

fn record(records: &mut Vec<u8>, key: &str, value: &[u8]) {
    record_bytes(records, key.as_bytes(), value);
}

/// `length key=value\n`, where the length counts its own digits.
fn record_bytes(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(length.to_string().as_bytes());
    records.push(b' ');
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

/// The number of segments, then offset and length of each, a line each, filled up to a block.
fn sparse_map(segments: &[Segment]) -> Vec<u8> {
    let mut map = format!("{}\n", segments.len()).into_bytes();
    for segment in segments {
        map.extend_from_slice(format!("{}\n{}\n", segment.offset, segment.length).as_bytes());
    }
    map.resize(map.len().next_multiple_of(BLOCK), 0);
    map
}

fn last_component(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let start = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    &path[start..path.len().min(start + 80)]
}

#[cfg(test)]
mod tests {
    use super::super::Reader;
    use super::*;
    use crate::Limits;

    fn entry(path: &[u8], kind: Kind) -> Entry {
        let modified = Time { seconds: 1_700_000_000, nanoseconds: 0 };
        Entry { mode: 0o644, modified, ..Entry::plain(path.to_vec(), kind) }
    }

    /// Writes entries and reads them back.
    fn round_trip(entries: &[(Entry, &[u8])]) -> Vec<(Entry, Vec<u8>)> {
        let mut writer = Writer::new(Vec::new());
        for (entry, mut content) in entries.iter().map(|(entry, content)| (entry, *content)) {
            match &entry.sparse {
                Some(segments) => {
                    let whole = content.to_vec();
                    let at = |offset: u64| {
                        let from = whole[usize::try_from(offset).unwrap()..].to_vec();
                        Ok(Box::new(io::Cursor::new(from)) as Box<dyn Read>)
                    };
                    writer.sparse_file(entry, segments, at).unwrap();
                }
                None if entry.kind == Kind::Regular => writer.file(entry, &mut content).unwrap(),
                None => writer.entry(entry).unwrap(),
            }
        }
        assert_eq!(writer.entries(), entries.len() as u64);
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        let limits = Limits::default();
        let mut reader = Reader::new(&bytes[..], &limits);
        let mut found = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            let mut content = Vec::new();
            while let Some(chunk) = reader.next_chunk().unwrap() {
                content.extend_from_slice(chunk);
            }
            found.push((entry, content));
        }
        found
    }

    #[test]
    fn what_is_written_is_read_back() {
        let long = [b"d/".repeat(120), b"file".to_vec()].concat();
        let mut large = entry(&long, Kind::Regular);
        (large.size, large.mode) = (5, 0o4755);
        (large.uid, large.gid) = (3_000_000, 4_000_000_000);
        large.modified = Time { seconds: -2, nanoseconds: 750_000_000 };
        large.xattrs = vec![(b"security.capability".to_vec(), vec![1, 0, 0, 2, b'\n', 0])];
        let mut link = entry(b"link", Kind::Symlink);
        link.link = b"x".repeat(300);
        let mut hard = entry(b"hard", Kind::HardLink);
        hard.link = long.clone();
        let mut device = entry(b"dev/null", Kind::CharacterDevice);
        device.device = (1, 3);
        let mut nanoseconds = entry(b"dir/", Kind::Directory);
        nanoseconds.modified.nanoseconds = 120_000_000;
        let written = [
            (large, &b"hello"[..]),
            (link, b""),
            (hard, b""),
            (device, b""),
            (nanoseconds, b""),
            (entry(b"fifo", Kind::Fifo), b""),
        ];
        let read = round_trip(&written);
        let expected: Vec<(Entry, Vec<u8>)> =
            written.iter().map(|(entry, content)| (entry.clone(), content.to_vec())).collect();
        assert_eq!(read, expected);
    }

    #[test]
    fn holes_stay_holes() {
        let mut sparse = entry(b"sparse", Kind::Regular);
        sparse.size = 10_000;
        sparse.sparse = Some(vec![
            Segment { offset: 100, length: 3 },
            Segment { offset: 5000, length: 4 },
            Segment { offset: 10_000, length: 0 },
        ]);
        let mut content = vec![0; 10_000];
        content[100..103].copy_from_slice(b"abc");
        content[5000..5004].copy_from_slice(b"defg");
        let read = round_trip(&[(sparse.clone(), &content)]);
        assert_eq!(read, [(sparse, b"abcdefg".to_vec())]);
    }

    #[test]
    fn a_source_that_ends_early_is_filled_up() {
        let mut short = entry(b"short", Kind::Regular);
        short.size = 6;
        let mut writer = Writer::new(Vec::new());
        writer.file(&short, &mut &b"abc"[..]).unwrap();
        let bytes = writer.finish().unwrap();
        assert_eq!(&bytes[BLOCK..BLOCK + 8], b"abc\0\0\0\0\0");
    }
}
