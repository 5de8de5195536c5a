//! PAX records: `length key=value\n`, the ones that matter here kept, numbers parsed strictly.

use palan_linux::path::Time;

use super::sparse::Segment;
use crate::Limits;

/// The records before one entry, or the global ones.
#[derive(Debug, Default)]
pub(super) struct Records {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<u64>,
    pub(super) gid: Option<u64>,
    pub(super) modified: Option<Time>,
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: Sparse,
}

/// GNU's records about holes, of three versions of the format.
#[derive(Debug, Default)]
pub(super) struct Sparse {
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    major: Option<u64>,
    minor: Option<u64>,
    block_count: Option<u64>,
    /// Offsets and lengths in turn.
    numbers: Vec<u64>,
    has_map: bool,
}

impl Records {
    /// Merges a global header. One that would rename or resize every following entry is only good for
    /// showing different readers different archives.
    pub(super) fn update_global(&mut self, new: Self) -> Result<(), &'static str> {
        if new.path.is_some() || new.link.is_some() || new.size.is_some() {
            return Err("a global header sets a name or size");
        }
        if new.sparse.is_present() || new.sparse.name.is_some() || !new.xattrs.is_empty() {
            return Err("a global header sets a sparse map or extended attributes");
        }
        self.uid = new.uid.or(self.uid);
        self.gid = new.gid.or(self.gid);
        self.modified = new.modified.or(self.modified);
        Ok(())
    }
}

impl Sparse {
    pub(super) fn is_version_1(&self) -> bool {
        self.major == Some(1) && self.minor == Some(0)
    }

    pub(super) fn is_present(&self) -> bool {
        self.major.is_some() || self.block_count.is_some() || self.has_map || !self.numbers.is_empty()
    }

    /// The map of versions 0.0 and 0.1.
    pub(super) fn map(&self) -> Result<Vec<Segment>, &'static str> {
        if matches!((self.major, self.minor), (Some(major), minor) if major != 0 || minor.is_some_and(|minor| minor > 1))
        {
            return Err("a sparse format of an unknown version");
        }
        let (pairs, rest) = self.numbers.as_chunks::<2>();
        let count_fits = self.block_count.is_none_or(|count| count == pairs.len() as u64);
        if !rest.is_empty() || !count_fits {
            return Err("the sparse map has not the announced number of segments");
        }
        Ok(pairs.iter().map(|[offset, length]| Segment { offset: *offset, length: *length }).collect())
    }

    fn set(&mut self, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), &'static str> {
        match key {
            b"name" => self.name = Some(value.to_vec()),
            b"size" | b"realsize" => self.real_size = Some(number(value)?),
            b"major" => self.major = Some(number(value)?),
            b"minor" => self.minor = Some(number(value)?),
            b"numblocks" => self.block_count = Some(number(value)?),
            b"offset" if self.numbers.len().is_multiple_of(2) && !self.has_map => {
                self.numbers.push(number(value)?)
            }
            b"numbytes" if !self.numbers.len().is_multiple_of(2) && !self.has_map => {
                self.numbers.push(number(value)?)
            }
            b"map" if self.numbers.is_empty() => {
                self.has_map = true;
                for item in value.split(|byte| *byte == b',').filter(|_| !value.is_empty()) {
                    self.numbers.push(number(item)?);
                }
            }
            _ => return Err("an unknown or misplaced record about a sparse file"),
        }
        if self.numbers.len() / 2 > limits.sparse_segments {
            return Err("too many segments in a sparse map");
        }
        Ok(())
    }
}

/// Parses the content of an extended header.
pub(super) fn parse(mut content: &[u8], limits: &Limits) -> Result<Records, &'static str> {
    let mut records = Records::default();
    while !content.is_empty() {
        let (key, value, rest) = record(content)?;
        content = rest;
        set(&mut records, key, value, limits)?;
    }
    Ok(records)
}

fn set(records: &mut Records, key: &[u8], value: &[u8], limits: &Limits) -> Result<(), &'static str> {
    // An empty value takes an earlier one back.
    let is_set = !value.is_empty();
    let parsed = |value| if is_set { number(value).map(Some) } else { Ok(None) };
    match key {
        b"path" => records.path = is_set.then(|| name(value)).transpose()?,
        b"linkpath" => records.link = is_set.then(|| name(value)).transpose()?,
        b"size" => records.size = parsed(value)?,
        b"uid" => records.uid = parsed(value)?,
        b"gid" => records.gid = parsed(value)?,
        b"mtime" => records.modified = is_set.then(|| time(value)).transpose()?,
        _ => {
            if let Some(attribute) = key.strip_prefix(b"SCHILY.xattr.") {
                if attribute.is_empty() {
                    return Err("an extended attribute without a name");
                }
                records.xattrs.push((attribute.to_vec(), value.to_vec()));
            } else if let Some(key) = key.strip_prefix(b"GNU.sparse.") {
                name(value)?;
                records.sparse.set(key, value, limits)?;
            }
            // Others (atime, ctime, uname, gname, comment, charset, vendors' own) say nothing about content.
        }
    }
    Ok(())
}

/// Key, value, and what is behind them.
type Record<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits off one record; strictly, since a length that is off by one moves everything behind it.
fn record(content: &[u8]) -> Result<Record<'_>, &'static str> {
    const BROKEN: &str = "a broken record in an extended header";
    let space = content.iter().take(8).position(|byte| *byte == b' ').ok_or(BROKEN)?;
    let length = usize::try_from(number(&content[..space])?).map_err(|_| BROKEN)?;
    if length > content.len() || length < space + 4 {
        return Err(BROKEN);
    }
    let (record, rest) = content.split_at(length);
    let body = record[space + 1..].strip_suffix(b"\n").ok_or(BROKEN)?;
    let equals = body.iter().position(|byte| *byte == b'=').ok_or(BROKEN)?;
    let (key, value) = (&body[..equals], &body[equals + 1..]);
    if key.is_empty() || key.contains(&0) {
        return Err(BROKEN);
    }
    Ok((key, value, rest))
}

fn name(value: &[u8]) -> Result<Vec<u8>, &'static str> {
    if value.contains(&0) {
        return Err("a name with a NUL in an extended header");
    }
    Ok(value.to_vec())
}

/// Decimal digits only; at most what fits in a file size.
pub(super) fn number(digits: &[u8]) -> Result<u64, &'static str> {
    const BROKEN: &str = "a number in an extended header is not one";
    if digits.is_empty() || digits.len() > 19 {
        return Err(BROKEN);
    }
    let number = digits.iter().try_fold(0u64, |number, digit| match digit {
        b'0'..=b'9' => number.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    });
    number.filter(|number| *number <= i64::MAX.cast_unsigned()).ok_or(BROKEN)
}

/// Seconds with a fraction, possibly negative.
fn time(value: &[u8]) -> Result<Time, &'static str> {
    const BROKEN: &str = "a time in an extended header is not one";
    let (negative, value) = match value.strip_prefix(b"-") {
        Some(rest) => (true, rest),
        None => (false, value),
    };
    let point = value.iter().position(|byte| *byte == b'.').unwrap_or(value.len());
    let fraction = value.get(point + 1..).unwrap_or_default();
    if !fraction.iter().all(u8::is_ascii_digit) {
        return Err(BROKEN);
    }
    let seconds = number(&value[..point]).map_err(|_| BROKEN)?.cast_signed();
    let digits = fraction.iter().copied().chain(std::iter::repeat(b'0')).take(9);
    let nanoseconds = digits.fold(0u32, |sum, digit| sum * 10 + u32::from(digit - b'0'));
    Ok(match (negative, nanoseconds) {
        (false, _) => Time { seconds, nanoseconds },
        (true, 0) => Time { seconds: -seconds, nanoseconds: 0 },
        (true, _) => Time { seconds: -seconds - 1, nanoseconds: 1_000_000_000 - nanoseconds },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(content: &[u8]) -> Result<Records, &'static str> {
        parse(content, &Limits::default())
    }

    #[test]
    fn records_are_strict() {
        let records = parsed(b"12 path=a/b\n11 size=99\n").expect("valid");
        assert_eq!((records.path, records.size), (Some(b"a/b".to_vec()), Some(99)));
        for broken in [
            &b"11 path=a/b\n"[..],
            b"13 path=a/b\n",
            b"12 path=a/b",
            b"0 \n",
            b"5 a=b",
            b"6 =bc\n",
            b"+12 path=a/b\n",
            b"99999999999999999999 path=a\n",
            b"10 size=-\n\n",
            b"12 size=0x1\n",
            b"9 path=\0\n",
            b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
        ] {
            assert!(parsed(broken).is_err(), "{:?}", String::from_utf8_lossy(broken));
        }
    }

    #[test]
    fn an_empty_value_takes_back() {
        assert_eq!(parsed(b"9 path=a\n8 path=\n").map(|records| records.path), Ok(None));
    }

    #[test]
    fn times() {
        assert_eq!(time(b"1.5"), Ok(Time { seconds: 1, nanoseconds: 500_000_000 }));
        assert_eq!(time(b"-1.25"), Ok(Time { seconds: -2, nanoseconds: 750_000_000 }));
        assert_eq!(
            time(b"1700000000.1234567891"),
            Ok(Time { seconds: 1_700_000_000, nanoseconds: 123_456_789 })
        );
        for broken in [&b""[..], b".", b"-", b"1.x", b"1e9", b"--1"] {
            assert!(time(broken).is_err(), "{broken:?}");
        }
    }
}
