//! DNS messages (RFC 1035, RFC 6891): a query is read, an answer is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The length of a message's header.
pub const HEADER: usize = 12;
/// What a UDP client takes that says nothing.
pub const PLAIN_UDP: usize = 512;
/// The most that is sent by UDP to a client that takes more: what fits in a packet on every network (DNS flag day 2020).
pub const LARGEST_UDP: usize = 1232;
/// How long a client may keep an answer about a container, in seconds; Docker's.
const TIME_TO_LIVE: u32 = 600;
/// `OPT`, the record of EDNS.
const OPT: u16 = 41;
/// The longest name with its length bytes.
const LONGEST_NAME: usize = 255;

/// A type of record that is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the standard's own names")]
pub enum Kind {
    A,
    Aaaa,
    Ptr,
    Any,
    /// Every other number.
    Other(u16),
}

impl From<u16> for Kind {
    fn from(number: u16) -> Self {
        match number {
            1 => Self::A,
            28 => Self::Aaaa,
            12 => Self::Ptr,
            255 => Self::Any,
            other => Self::Other(other),
        }
    }
}

/// How a query ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "the standard's own names")]
pub enum Code {
    NoError = 0,
    FormatError = 1,
    ServerFailure = 2,
    NameError = 3,
    NotImplemented = 4,
    Refused = 5,
}

/// Why bytes are no query.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// Too short for anything, or an answer: nothing can be said to whoever sent it.
    #[error("no query")]
    NoQuery,
    /// The rest makes no sense.
    #[error("a query that makes no sense")]
    Malformed,
    /// An operation that is not a query, or several questions.
    #[error("a query of a kind that is not supported")]
    Unsupported,
}

impl QueryError {
    /// The answer's code; `None` when there is nobody to answer to.
    #[must_use]
    pub fn code(self) -> Option<Code> {
        match self {
            Self::NoQuery => None,
            Self::Malformed => Some(Code::FormatError),
            Self::Unsupported => Some(Code::NotImplemented),
        }
    }
}

/// A query with its one question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Chosen by the client.
    pub id: u16,
    /// The name in lower case, without the last dot.
    pub name: String,
    /// The type that is asked for.
    pub kind: Kind,
    /// Whether it is about the internet, as all are.
    pub is_internet: bool,
    /// Where the question ends.
    question_end: usize,
    /// The size that the client takes by UDP; `None` without EDNS.
    udp_size: Option<u16>,
}

impl Query {
    /// Reads a query.
    pub fn parse(bytes: &[u8]) -> Result<Self, QueryError> {
        let word = |at: usize| u16_at(bytes, at);
        let (Some(id), Some(flags)) = (word(0), word(2)) else { return Err(QueryError::NoQuery) };
        if bytes.len() < HEADER || flags & 0x8000 != 0 {
            return Err(QueryError::NoQuery);
        }
        if flags & 0x7800 != 0 || word(4) != Some(1) {
            return Err(QueryError::Unsupported);
        }
        let (name, at) = read_name(bytes, HEADER).ok_or(QueryError::Malformed)?;
        let (Some(kind), Some(class)) = (word(at), word(at + 2)) else { return Err(QueryError::Malformed) };
        let question_end = at + 4;
        let records = [6, 8, 10].into_iter().filter_map(word).map(u32::from).sum();
        let udp_size = find_udp_size(bytes, question_end, records);
        Ok(Self {
            id,
            name,
            kind: kind.into(),
            is_internet: class == 1 || class == 255,
            question_end,
            udp_size,
        })
    }

    /// The most that may be sent by UDP.
    #[must_use]
    pub fn udp_limit(&self) -> usize {
        self.udp_size.map_or(PLAIN_UDP, |size| usize::from(size).clamp(PLAIN_UDP, LARGEST_UDP))
    }
}

/// One record of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// The name's IPv4 address.
    A(Ipv4Addr),
    /// The name's IPv6 address.
    Aaaa(Ipv6Addr),
    /// The address's name.
    Ptr(String),
}

impl From<IpAddr> for Record {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(address) => Self::A(address),
            IpAddr::V6(address) => Self::Aaaa(address),
        }
    }
}

/// Writes the answer to a query. What doesn't fit in `limit` is left out, and the client told to ask by TCP.
#[must_use]
pub fn answer(bytes: &[u8], query: &Query, code: Code, records: &[Record], limit: usize) -> Vec<u8> {
    let mut message = head(bytes, query.question_end, code);
    let options: &[u8] = if query.udp_size.is_some() { &edns() } else { &[] };
    let mut count: u16 = 0;
    for record in records {
        let data = data(record);
        let Ok(length) = u16::try_from(data.len()) else { continue };
        if message.len() + HEADER + data.len() + options.len() > limit {
            message[2] |= 0x02;
            break;
        }
        let kind: u16 = match record {
            Record::A(_) => 1,
            Record::Aaaa(_) => 28,
            Record::Ptr(_) => 12,
        };
        // The name is the question's: a pointer to where that stands.
        message.extend_from_slice(&[0xc0, 12]);
        message.extend_from_slice(&kind.to_be_bytes());
        message.extend_from_slice(&1_u16.to_be_bytes());
        message.extend_from_slice(&TIME_TO_LIVE.to_be_bytes());
        message.extend_from_slice(&length.to_be_bytes());
        message.extend_from_slice(&data);
        count += 1;
    }
    message[6..8].copy_from_slice(&count.to_be_bytes());
    if !options.is_empty() {
        message[10..12].copy_from_slice(&1_u16.to_be_bytes());
        message.extend_from_slice(options);
    }
    message
}

/// An answer without records to a query that may be only half understood; `None` if there is nothing to answer to.
#[must_use]
pub fn failure(bytes: &[u8], code: Code) -> Option<Vec<u8>> {
    if bytes.len() < HEADER {
        return None;
    }
    let question_end = Query::parse(bytes).map_or(HEADER, |query| query.question_end);
    Some(head(bytes, question_end, code))
}

/// Whether an upstream's reply belongs to this query: the same id and question.
#[must_use]
pub fn is_reply_to(reply: &[u8], query: &[u8], id: u16) -> bool {
    let Ok(asked) = Query::parse(query) else { return false };
    let question = query.get(HEADER..asked.question_end);
    let flags = u16_at(reply, 2).unwrap_or(0);
    let same = reply.get(HEADER..asked.question_end);
    u16_at(reply, 0) == Some(id)
        && flags & 0x8000 != 0
        && same.zip(question).is_some_and(|(same, question)| same.eq_ignore_ascii_case(question))
}

/// Whether a reply says that this server can't help, so that another one may.
#[must_use]
pub fn is_failure(reply: &[u8]) -> bool {
    let code = reply.get(3).map_or(0, |byte| byte & 0x0f);
    [Code::ServerFailure, Code::NotImplemented, Code::Refused].iter().any(|failure| *failure as u8 == code)
}

/// What two queries must have in common to have the same answer; `None` for what is no query.
#[must_use]
pub fn key(query: &[u8]) -> Option<Vec<u8>> {
    let asked = Query::parse(query).ok()?;
    let mut key = query.get(HEADER..asked.question_end)?.to_ascii_lowercase();
    key.push(u8::from(asked.udp_size.is_some()));
    key.extend(asked.udp_limit().to_be_bytes());
    // Whether recursion is desired, and whether checking is disabled.
    key.extend([query.get(2)? & 1, query.get(3)? & 0x10]);
    Some(key)
}

/// Makes a reply to one query that of another with the same [`key`]: its id, and its name as it was written.
pub fn readdress(reply: &mut [u8], query: &[u8]) {
    let Ok(asked) = Query::parse(query) else { return };
    set_id(reply, asked.id);
    if let (Some(place), Some(question)) =
        (reply.get_mut(HEADER..asked.question_end), query.get(HEADER..asked.question_end))
    {
        place.copy_from_slice(question);
    }
}

/// For how many seconds a reply that found something is good: the least of its answers. `None` for all others.
#[must_use]
pub fn time_to_live(reply: &[u8]) -> Option<u32> {
    let flags = u16_at(reply, 2)?;
    let is_whole = flags & 0x8000 != 0 && flags & 0x0200 == 0 && flags & 0x000f == 0;
    let answers = u16_at(reply, 6)?;
    if !is_whole || answers == 0 || u16_at(reply, 4)? != 1 {
        return None;
    }
    let (_, question) = read_name(reply, HEADER)?;
    let mut at = question + 4;
    let mut least = u32::MAX;
    for _ in 0..answers {
        let (_, end) = read_name(reply, at)?;
        let seconds = u32::from(u16_at(reply, end + 4)?) << 16 | u32::from(u16_at(reply, end + 6)?);
        least = least.min(seconds);
        at = end + 10 + usize::from(u16_at(reply, end + 8)?);
    }
    Some(least)
}

/// Gives a message another id.
pub fn set_id(message: &mut [u8], id: u16) {
    if let Some(place) = message.get_mut(..2) {
        place.copy_from_slice(&id.to_be_bytes());
    }
}

/// The header of an answer, and the question.
fn head(bytes: &[u8], question_end: usize, code: Code) -> Vec<u8> {
    let mut message = bytes.get(..question_end).unwrap_or_default().to_vec();
    message.resize(message.len().max(HEADER), 0);
    // An answer; recursion is desired if the client said so, and available.
    message[2] = 0x80 | (message[2] & 0x79);
    message[3] = 0x80 | code as u8;
    let questions = u16::from(question_end > HEADER);
    message[4..6].copy_from_slice(&questions.to_be_bytes());
    message[6..HEADER].fill(0);
    message
}

fn data(record: &Record) -> Vec<u8> {
    match record {
        Record::A(address) => address.octets().to_vec(),
        Record::Aaaa(address) => address.octets().to_vec(),
        Record::Ptr(name) => write_name(name),
    }
}

/// The record of EDNS: version 0, no options, what we take.
fn edns() -> [u8; 11] {
    let size = u16::try_from(LARGEST_UDP).unwrap_or(0).to_be_bytes();
    [0, 0, 41, size[0], size[1], 0, 0, 0, 0, 0, 0]
}

fn write_name(name: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        bytes.push(u8::try_from(label.len()).unwrap_or(0));
        bytes.extend_from_slice(label);
    }
    bytes.truncate(LONGEST_NAME - 1);
    bytes.push(0);
    bytes
}

/// A name that begins at `start`, in lower case, and where it ends.
fn read_name(bytes: &[u8], start: usize) -> Option<(String, usize)> {
    let mut name = String::new();
    let (mut at, mut end, mut limit) = (start, None, start);
    loop {
        let length = *bytes.get(at)?;
        match length {
            0 => return Some((name, end.unwrap_or(at + 1))),
            1..=63 => {
                let label = bytes.get(at + 1..at + 1 + usize::from(length))?;
                if !name.is_empty() {
                    name.push('.');
                }
                // Names of ours have no other bytes; one with them must only stay different from all others.
                name.extend(label.iter().map(|byte| {
                    if byte.is_ascii_graphic() && *byte != b'.' {
                        char::from(byte.to_ascii_lowercase())
                    } else {
                        char::REPLACEMENT_CHARACTER
                    }
                }));
                at += 1 + usize::from(length);
                if name.len() > LONGEST_NAME * 3 {
                    return None;
                }
            }
            0xc0.. => {
                let target = usize::from(u16::from_be_bytes([length & 0x3f, *bytes.get(at + 1)?]));
                end.get_or_insert(at + 2);
                // Only backwards, so that it comes to an end.
                if target >= limit {
                    return None;
                }
                (at, limit) = (target, target);
            }
            _ => return None,
        }
    }
}

/// The size that the EDNS record of a query tells, if it has one.
fn find_udp_size(bytes: &[u8], mut at: usize, records: u32) -> Option<u16> {
    for _ in 0..records {
        let (_, end) = read_name(bytes, at)?;
        let kind = u16_at(bytes, end)?;
        let size = u16_at(bytes, end + 2)?;
        let length = u16_at(bytes, end + 8)?;
        if kind == OPT {
            return Some(size);
        }
        at = end + 10 + usize::from(length);
    }
    None
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A query as `dig` sends it.
    pub(crate) fn query(name: &str, kind: u16, edns: Option<u16>) -> Vec<u8> {
        let mut bytes = vec![0x12, 0x34, 0x01, 0x00, 0, 1, 0, 0, 0, 0, 0, u8::from(edns.is_some())];
        bytes.extend(write_name(name));
        bytes.extend(kind.to_be_bytes());
        bytes.extend([0, 1]);
        if let Some(size) = edns {
            bytes.extend([0, 0, 41]);
            bytes.extend(size.to_be_bytes());
            bytes.extend([0; 6]);
        }
        bytes
    }

    #[test]
    fn a_query_is_read() {
        let parsed = Query::parse(&query("Web.Example", 1, None)).unwrap();
        assert_eq!((parsed.id, parsed.name.as_str(), parsed.kind), (0x1234, "web.example", Kind::A));
        assert_eq!(parsed.udp_limit(), PLAIN_UDP);
        assert_eq!(Query::parse(&query("a", 28, Some(4096))).unwrap().udp_limit(), LARGEST_UDP);
        assert_eq!(Query::parse(&query("a", 28, Some(0))).unwrap().udp_limit(), PLAIN_UDP);
    }

    #[test]
    fn what_is_no_query_is_told_apart() {
        let parse = |bytes: &[u8]| Query::parse(bytes).unwrap_err();
        assert_eq!(parse(b""), QueryError::NoQuery);
        assert_eq!(parse(&[0; 11]), QueryError::NoQuery);
        let mut answer = query("a", 1, None);
        answer[2] |= 0x80;
        assert_eq!(parse(&answer), QueryError::NoQuery);
        let mut several = query("a", 1, None);
        several[5] = 2;
        assert_eq!(parse(&several), QueryError::Unsupported);
        let whole = query("abc.de", 1, None);
        for length in HEADER..whole.len() {
            assert_eq!(parse(&whole[..length]), QueryError::Malformed, "{length}");
        }
    }

    #[test]
    fn names_that_lead_nowhere() {
        let with_name = |name: &[u8]| {
            let mut bytes = query("", 1, None);
            bytes.truncate(HEADER);
            bytes.extend(name);
            bytes.extend([0, 1, 0, 1]);
            Query::parse(&bytes)
        };
        assert!(with_name(&[0xc0, 12]).is_err(), "to itself");
        assert!(with_name(&[1, b'a', 0xc0, 12]).is_err(), "around");
        assert!(with_name(&[0xc0, 60]).is_err(), "forwards");
        assert!(with_name(&[0x40, 0]).is_err(), "a reserved kind of label");
        assert!(with_name(&[63; 600]).is_err(), "too long");
    }

    #[test]
    fn answers_that_dont_fit_are_cut_and_marked() {
        let bytes = query("many", 1, Some(600));
        let parsed = Query::parse(&bytes).unwrap();
        let records: Vec<Record> = (0..100).map(|last| Record::A(Ipv4Addr::new(10, 0, 0, last))).collect();
        let whole = answer(&bytes, &parsed, Code::NoError, &records, usize::MAX);
        assert_eq!((u16_at(&whole, 6), whole[2] & 2), (Some(100), 0));
        assert_eq!(u16_at(&whole, 10), Some(1), "EDNS is answered by EDNS");
        let cut = answer(&bytes, &parsed, Code::NoError, &records, parsed.udp_limit());
        assert!(cut.len() <= 600 && cut[2] & 2 != 0, "{}", cut.len());
        assert!(is_reply_to(&cut, &bytes, 0x1234));
        assert!(!is_reply_to(&cut, &query("other", 1, None), 0x1234));
        assert!(!is_reply_to(&cut, &bytes, 0x1235));
    }

    #[test]
    fn failures_keep_the_question() {
        let bytes = query("x", 1, None);
        let reply = failure(&bytes, Code::ServerFailure).unwrap();
        assert!(is_failure(&reply) && is_reply_to(&reply, &bytes, 0x1234));
        assert_eq!(failure(&bytes[..5], Code::FormatError), None);
    }
}
