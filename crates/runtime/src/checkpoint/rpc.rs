//! CRIU's messages: protocol buffers, by hand for the few that are needed.
//!
//! Numbers and types are those of `images/rpc.proto` in CRIU. A message is a row of fields, each with a key (number and
//! wire type) and a value; what is absent has its default, what is unknown is skipped
//! (<https://protobuf.dev/programming-guides/encoding/>).

use std::os::fd::RawFd;

/// The largest answer that is read; CRIU's own have a few hundred bytes.
pub(super) const MAX_SIZE: usize = 64 * 1024;

/// What is asked of CRIU (`criu_req_type`), and what its answers are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Dump,
    Restore,
    PreDump,
    Notify,
    FeatureCheck,
    Version,
}

impl Kind {
    const ALL: [Self; 6] =
        [Self::Dump, Self::Restore, Self::PreDump, Self::Notify, Self::FeatureCheck, Self::Version];

    fn number(self) -> u64 {
        match self {
            Self::Dump => 1,
            Self::Restore => 2,
            Self::PreDump => 4,
            Self::Notify => 6,
            Self::FeatureCheck => 9,
            Self::Version => 10,
        }
    }

    /// CRIU's name for it, which runc's messages show too.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Dump => "DUMP",
            Self::Restore => "RESTORE",
            Self::PreDump => "PRE_DUMP",
            Self::Notify => "NOTIFY",
            Self::FeatureCheck => "FEATURE_CHECK",
            Self::Version => "VERSION",
        }
    }
}

/// What CRIU does about the cgroups that it finds (`criu_cg_mode`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CgroupMode {
    /// As CRIU sees fit.
    #[default]
    Default,
    /// Restore a cgroup's properties only if CRIU had to make it.
    Soft,
    /// Restore cgroups and all properties.
    Full,
    /// Like full, but refuse cgroups that exist.
    Strict,
    /// Leave them alone: the container's processes stay in the cgroup that the runtime made.
    Ignore,
}

impl CgroupMode {
    fn number(self) -> u64 {
        match self {
            Self::Ignore => 0,
            Self::Soft => 3,
            Self::Full => 4,
            Self::Strict => 5,
            Self::Default => 6,
        }
    }
}

/// What a kernel and a CRIU can do beyond the ordinary (`criu_features`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Features {
    /// Tell which pages were written since the last look: for pre-dumps.
    pub(super) memory_tracking: bool,
    /// Fetch pages when they are touched.
    pub(super) lazy_pages: bool,
}

/// `criu_opts`, as far as a container needs them. What is false or absent is not sent.
#[derive(Debug, Default)]
pub(super) struct Options {
    /// Number in the *calling* process, which CRIU opens through its /proc directory, like `work_directory`.
    pub(super) images_directory: RawFd,
    pub(super) work_directory: Option<RawFd>,
    pub(super) log_file: &'static str,
    pub(super) log_level: u8,
    pub(super) configuration_file: Option<String>,
    pub(super) pid: Option<i32>,
    pub(super) root: String,
    pub(super) leave_running: bool,
    pub(super) external_unix_sockets: bool,
    pub(super) tcp_established: bool,
    pub(super) tcp_skip_in_flight: bool,
    pub(super) evasive_devices: bool,
    pub(super) shell_job: bool,
    pub(super) file_locks: bool,
    pub(super) link_remap: bool,
    pub(super) auto_dedup: bool,
    pub(super) lazy_pages: bool,
    pub(super) page_server: Option<(String, u16)>,
    /// Earlier images that these build upon, relative to the images' directory.
    pub(super) parent_images: Option<String>,
    pub(super) notify: bool,
    pub(super) sibling: bool,
    pub(super) orphan_terminal_master: bool,
    pub(super) cgroup_mode: CgroupMode,
    /// The container's place by controller: where cgroups of the images go.
    pub(super) cgroup_roots: Vec<(String, String)>,
    pub(super) freeze_cgroup: Option<String>,
    /// `type[what]:key` of things outside of the container.
    pub(super) external: Vec<String>,
    /// Descriptors of CRIU that stand for things of a key.
    pub(super) inherited: Vec<(String, i32)>,
    /// Namespaces to join: CRIU's short name of the kind, and the file.
    pub(super) join_namespaces: Vec<(&'static str, String)>,
    /// `CLONE_NEW*` bits of namespaces that are restored without content.
    pub(super) empty_namespaces: u32,
    pub(super) lsm_profile: Option<String>,
    pub(super) lsm_mount_context: Option<String>,
}

/// A request.
#[derive(Debug)]
pub(super) enum Request<'a> {
    /// `DUMP`, `PRE_DUMP` or `RESTORE`.
    Act(Kind, &'a Options),
    Features(Features),
    Version,
    /// The answer to a notification: whether CRIU may go on.
    Notified(bool),
}

impl Request<'_> {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Act(kind, _) => *kind,
            Self::Features(_) => Kind::FeatureCheck,
            Self::Version => Kind::Version,
            Self::Notified(_) => Kind::Notify,
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let mut message = Message::default();
        message.number(1, self.kind().number());
        match self {
            Self::Act(_, options) => message.message(2, &options.encode()),
            Self::Features(features) => {
                let mut wanted = Message::default();
                wanted.flag(1, features.memory_tracking);
                wanted.flag(2, features.lazy_pages);
                message.message(5, &wanted);
            }
            Self::Version => {}
            Self::Notified(success) => message.number(3, u64::from(*success)),
        }
        message.bytes
    }
}

impl Options {
    fn encode(&self) -> Message {
        let mut message = Message::default();
        message.integer(1, self.images_directory);
        message.optional_integer(2, self.pid);
        message.flag(3, self.leave_running);
        message.flag(4, self.external_unix_sockets);
        message.flag(5, self.tcp_established);
        message.flag(6, self.evasive_devices);
        message.flag(7, self.shell_job);
        message.flag(8, self.file_locks);
        message.number(9, self.log_level.into());
        message.text(10, self.log_file);
        if let Some((address, port)) = &self.page_server {
            let mut server = Message::default();
            server.text(1, address);
            server.number(2, (*port).into());
            message.message(11, &server);
        }
        message.flag(12, self.notify);
        message.text(13, &self.root);
        message.optional_text(14, self.parent_images.as_deref());
        message.flag(15, self.parent_images.is_some());
        message.flag(16, self.auto_dedup);
        message.optional_integer(17, self.work_directory);
        message.flag(18, self.link_remap);
        message.flag(24, true);
        for (controller, path) in &self.cgroup_roots {
            let mut root = Message::default();
            root.text(1, controller);
            root.text(2, path);
            message.message(25, &root);
        }
        message.flag(26, self.sibling);
        for (key, descriptor) in &self.inherited {
            let mut inherited = Message::default();
            inherited.text(1, key);
            inherited.integer(2, *descriptor);
            message.message(27, &inherited);
        }
        message.number(34, self.cgroup_mode.number());
        for external in &self.external {
            message.text(37, external);
        }
        message.number(38, self.empty_namespaces.into());
        for (kind, file) in &self.join_namespaces {
            let mut namespace = Message::default();
            namespace.text(1, kind);
            namespace.text(2, file);
            message.message(39, &namespace);
        }
        message.optional_text(44, self.freeze_cgroup.as_deref());
        message.flag(46, self.tcp_skip_in_flight);
        message.flag(48, self.lazy_pages);
        message.flag(50, self.orphan_terminal_master);
        message.optional_text(51, self.configuration_file.as_deref());
        message.optional_text(53, self.lsm_profile.as_deref());
        message.optional_text(63, self.lsm_mount_context.as_deref());
        message
    }
}

const VARINT: u64 = 0;
const FIXED_64: u64 = 1;
const LENGTH_DELIMITED: u64 = 2;
const FIXED_32: u64 = 5;

/// A message being written.
#[derive(Debug, Default)]
struct Message {
    bytes: Vec<u8>,
}

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.bytes.push(value.to_le_bytes()[0]);
    }

    fn number(&mut self, field: u32, value: u64) {
        self.varint(u64::from(field) << 3 | VARINT);
        self.varint(value);
    }

    /// `int32`: a negative one takes ten bytes, as its 64-bit form.
    fn integer(&mut self, field: u32, value: i32) {
        self.number(field, i64::from(value).cast_unsigned());
    }

    fn optional_integer(&mut self, field: u32, value: Option<i32>) {
        if let Some(value) = value {
            self.integer(field, value);
        }
    }

    fn flag(&mut self, field: u32, value: bool) {
        if value {
            self.number(field, 1);
        }
    }

    fn text(&mut self, field: u32, value: &str) {
        self.delimited(field, value.as_bytes());
    }

    fn optional_text(&mut self, field: u32, value: Option<&str>) {
        if let Some(value) = value {
            self.text(field, value);
        }
    }

    fn message(&mut self, field: u32, value: &Self) {
        self.delimited(field, &value.bytes);
    }

    fn delimited(&mut self, field: u32, value: &[u8]) {
        self.varint(u64::from(field) << 3 | LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.bytes.extend_from_slice(value);
    }
}

/// An answer, or a notification (`criu_resp`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Response {
    /// `None` for one that Palan does not know.
    pub(super) kind: Option<Kind>,
    pub(super) success: bool,
    pub(super) notification: Option<Notification>,
    pub(super) errno: i32,
    pub(super) error_message: String,
    pub(super) features: Features,
    pub(super) version: Option<u32>,
}

/// What CRIU is about to do or has done (`criu_notify`).
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Notification {
    pub(super) name: String,
    pub(super) pid: i32,
}

/// Bytes that are no message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They end within a field.
    #[error("it is cut short")]
    Truncated,
    /// A number of more than 64 bits.
    #[error("a number is too long")]
    LongNumber,
    /// A wire type that does not exist, or a group, which CRIU has none of.
    #[error("a field has the unknown wire type {0}")]
    WireType(u64),
    /// A field's number is 0 or too large, or its value of another type than it has.
    #[error("field {0} is not valid")]
    Field(u64),
    /// More than [`MAX_SIZE`] bytes.
    #[error("it is too large")]
    TooLarge,
}

impl Response {
    /// Reads an answer. Of a field that comes twice the last one counts.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX_SIZE {
            return Err(Malformed::TooLarge);
        }
        let mut response = Self::default();
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => {
                    let kind = value.number(number)?;
                    response.kind = Kind::ALL.into_iter().find(|known| known.number() == kind);
                }
                2 => response.success = value.number(number)? != 0,
                5 => response.notification = Some(Notification::decode(value.bytes(number)?)?),
                7 => response.errno = value.integer(number)?,
                8 => response.features = Features::decode(value.bytes(number)?)?,
                9 => response.error_message = text(value.bytes(number)?),
                10 => response.version = Some(version(value.bytes(number)?)?),
                _ => {}
            }
        }
        Ok(response)
    }
}

impl Notification {
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut notification = Self::default();
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => notification.name = text(value.bytes(number)?),
                2 => notification.pid = value.integer(number)?,
                _ => {}
            }
        }
        Ok(notification)
    }
}

impl Features {
    fn decode(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut features = Self::default();
        for field in Fields(bytes) {
            let (number, value) = field?;
            match number {
                1 => features.memory_tracking = value.number(number)? != 0,
                2 => features.lazy_pages = value.number(number)? != 0,
                _ => {}
            }
        }
        Ok(features)
    }
}

/// `criu_version` as one number to compare: 3.17.1 is 31701. A build from between two releases counts as the next.
fn version(bytes: &[u8]) -> Result<u32, Malformed> {
    let (mut major, mut minor, mut sublevel, mut between) = (0, 0, 0, false);
    for field in Fields(bytes) {
        let (number, value) = field?;
        match number {
            1 => major = value.integer(number)?.unsigned_abs().min(10_000),
            2 => minor = value.integer(number)?.unsigned_abs().min(99),
            3 => between = true,
            4 => sublevel = value.integer(number)?.unsigned_abs().min(99),
            _ => {}
        }
    }
    if between {
        (minor, sublevel) = (minor + 1, 0);
    }
    Ok(major * 10_000 + minor * 100 + sublevel)
}

/// Text to show or compare: whatever is no UTF-8 or no printable character can only be replaced.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).replace(char::is_control, "?")
}

/// The value of a field, not interpreted yet.
#[derive(Debug, Clone, Copy)]
enum Value<'a> {
    Number(u64),
    Bytes(&'a [u8]),
}

impl<'a> Value<'a> {
    fn number(self, field: u64) -> Result<u64, Malformed> {
        match self {
            Self::Number(number) => Ok(number),
            Self::Bytes(_) => Err(Malformed::Field(field)),
        }
    }

    /// `int32`: what does not fit loses its upper bits, as the format wants it.
    fn integer(self, field: u64) -> Result<i32, Malformed> {
        let [a, b, c, d, ..] = self.number(field)?.to_le_bytes();
        Ok(i32::from_le_bytes([a, b, c, d]))
    }

    fn bytes(self, field: u64) -> Result<&'a [u8], Malformed> {
        match self {
            Self::Bytes(bytes) => Ok(bytes),
            Self::Number(_) => Err(Malformed::Field(field)),
        }
    }
}

/// The fields of a message in their order; nothing follows an error.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Value<'a>), Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_err() {
            self.0 = &[];
        }
        Some(field)
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Result<(u64, Value<'a>), Malformed> {
        const MAX_FIELD: u64 = (1 << 29) - 1;
        let key = self.varint()?;
        let number = key >> 3;
        if number == 0 || number > MAX_FIELD {
            return Err(Malformed::Field(number));
        }
        let value = match key & 7 {
            VARINT => Value::Number(self.varint()?),
            FIXED_64 => Value::Bytes(self.take(8)?),
            FIXED_32 => Value::Bytes(self.take(4)?),
            LENGTH_DELIMITED => {
                let length = usize::try_from(self.varint()?).map_err(|_| Malformed::Truncated)?;
                Value::Bytes(self.take(length)?)
            }
            other => return Err(Malformed::WireType(other)),
        };
        Ok((number, value))
    }

    fn varint(&mut self) -> Result<u64, Malformed> {
        let mut result = 0u64;
        for shift in (0..64).step_by(7) {
            let [byte] = *self.take(1)? else { return Err(Malformed::Truncated) };
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return Err(Malformed::LongNumber);
            }
            result |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(result);
            }
        }
        Err(Malformed::LongNumber)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(Malformed::Truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_what_criu_reads() {
        assert_eq!(Request::Version.encode(), [0x08, 10]);
        assert_eq!(Request::Notified(true).encode(), [0x08, 6, 0x18, 1]);
        assert_eq!(Request::Notified(false).encode(), [0x08, 6, 0x18, 0]);
        let features = Features { memory_tracking: true, lazy_pages: false };
        assert_eq!(Request::Features(features).encode(), [0x08, 9, 0x2a, 2, 0x08, 1]);
    }

    #[test]
    fn options_carry_their_fields() {
        let options = Options {
            images_directory: -1,
            pid: Some(300),
            external: vec!["mnt[/a]:b".to_owned()],
            inherited: vec![("pipe:[1]".to_owned(), 2)],
            ..Options::default()
        };
        let bytes = options.encode().bytes;
        let fields: Vec<_> = Fields(&bytes).map(Result::unwrap).collect();
        let find = |wanted| fields.iter().find(|(number, _)| *number == wanted).map(|(_, value)| *value);
        assert_eq!(find(1).unwrap().integer(1).unwrap(), -1);
        assert_eq!(find(2).unwrap().integer(2).unwrap(), 300);
        assert_eq!(find(37).unwrap().bytes(37).unwrap(), b"mnt[/a]:b");
        assert_eq!(find(27).unwrap().bytes(27).unwrap(), b"\x0a\x08pipe:[1]\x10\x02");
        assert!(find(3).is_none() && find(14).is_none());
    }

    #[test]
    fn answers_are_read() {
        let response = Response::decode(&[0x08, 10, 0x10, 1, 0x52, 6, 0x08, 3, 0x10, 17, 0x20, 1]).unwrap();
        assert_eq!((response.kind, response.success), (Some(Kind::Version), true));
        assert_eq!(response.version, Some(31_701));
        // A build of 4.1 from between two releases (field 3) counts as 4.2.
        let response = Response::decode(&[0x52, 7, 0x08, 4, 0x10, 1, 0x1a, 1, b'x']).unwrap();
        assert_eq!(response.version, Some(40_200));
        let mut bytes = vec![0x08, 6, 0x10, 1, 0x2a, 15, 0x0a, 10];
        bytes.extend(b"network\n-l\x10\xac\x02");
        let notification = Response::decode(&bytes).unwrap().notification.unwrap();
        assert_eq!((notification.name.as_str(), notification.pid), ("network?-l", 300));
        // Kinds and fields of later versions do no harm.
        let response = Response::decode(&[0x08, 99, 0x10, 0, 0xa2, 0x06, 1, 7, 0x38, 5]).unwrap();
        assert_eq!((response.kind, response.success, response.errno), (None, false, 5));
    }

    #[test]
    fn nonsense_is_refused() {
        for (bytes, error) in [
            (&[0x08][..], Malformed::Truncated),
            (&[0x80], Malformed::Truncated),
            (&[0x00, 0], Malformed::Field(0)),
            (&[0x0a, 1, 0], Malformed::Field(1)),
            (&[0x28, 1], Malformed::Field(5)),
            (&[0x0b], Malformed::WireType(3)),
            (&[0x4a, 5, 1], Malformed::Truncated),
            (&[0x4a, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1], Malformed::Truncated),
            (&[0x10, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2], Malformed::LongNumber),
            (&[0x11, 1, 2, 3], Malformed::Truncated),
        ] {
            assert_eq!(Response::decode(bytes), Err(error), "{bytes:x?}");
        }
        assert_eq!(Response::decode(&vec![0; MAX_SIZE + 1]), Err(Malformed::TooLarge));
    }

    /// Every cut and many changed bytes of a real answer: an answer or an error, never a panic.
    #[test]
    fn any_bytes_are_answered() {
        let mut whole = vec![0x08, 6, 0x10, 1, 0x22, 2, 0x08, 7, 0x2a, 6, 0x0a, 2, b'a', b'b', 0x10, 9];
        whole.extend([0x42, 4, 0x08, 1, 0x10, 1, 0x4a, 1, b'x', 0x52, 4, 0x08, 4, 0x10, 2]);
        for end in 0..=whole.len() {
            let _ = Response::decode(&whole[..end]);
        }
        for place in 0..whole.len() {
            for byte in 0..=255 {
                let mut changed = whole.clone();
                changed[place] = byte;
                let _ = Response::decode(&changed);
            }
        }
    }
}
