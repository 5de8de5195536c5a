//! One header block: 512 bytes, numbers in octal or base 256, names in fixed fields.

use super::until_nul;

/// Which dialect a header speaks, as far as its layout differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

#[derive(Debug)]
pub(super) struct Header {
    pub(super) format: Format,
    pub(super) kind: u8,
    pub(super) name: Vec<u8>,
    pub(super) link: Vec<u8>,
    pub(super) mode: u32,
    /// Checked when used: a PAX record may replace it.
    pub(super) uid: i64,
    pub(super) gid: i64,
    pub(super) size: u64,
    pub(super) modified: i64,
    /// `None`: out of range.
    pub(super) device: Option<(u32, u32)>,
    /// GNU: the four segments in the header, whether blocks with more follow, and the file's logical size.
    pub(super) sparse: [u8; 96],
    pub(super) sparse_continues: bool,
    pub(super) sparse_size: Option<u64>,
}

impl Header {
    pub(super) fn parse(block: &[u8; 512]) -> Result<Self, &'static str> {
        check_sum(block)?;
        let format = match (&block[257..263], &block[263..265], &block[508..512]) {
            (b"ustar\0", _, b"tar\0") => Format::Star,
            (b"ustar\0", _, _) => Format::Ustar,
            (b"ustar ", b" \0", _) => Format::Gnu,
            _ => Format::V7,
        };
        let kind = block[156];
        let is_device = matches!(kind, b'3' | b'4');
        let has_content = !matches!(kind, b'1'..=b'6');
        let size = if has_content {
            number(&block[124..136])
                .and_then(|size| u64::try_from(size).ok())
                .ok_or("the size is not a number")?
        } else {
            0
        };
        let mut sparse = [0; 96];
        sparse.copy_from_slice(&block[386..482]);
        Ok(Self {
            format,
            kind,
            name: full_name(block, format),
            link: until_nul(&block[157..257]).to_vec(),
            mode: mode(&block[100..108])?,
            uid: number(&block[108..116]).ok_or("the owner is not a number")?,
            gid: number(&block[116..124]).ok_or("the group is not a number")?,
            size,
            modified: number(&block[136..148]).ok_or("the time is not a number")?,
            device: if is_device && format != Format::V7 { device(block) } else { Some((0, 0)) },
            sparse,
            sparse_continues: block[482] != 0,
            sparse_size: number(&block[483..495]).and_then(|size| u64::try_from(size).ok()),
        })
    }
}

fn full_name(block: &[u8; 512], format: Format) -> Vec<u8> {
    let name = until_nul(&block[..100]);
    let prefix: &[u8] = match format {
        Format::Ustar => until_nul(&block[345..500]),
        Format::Star => until_nul(&block[345..476]),
        Format::V7 | Format::Gnu => b"",
    };
    if prefix.is_empty() { name.to_vec() } else { [prefix, b"/", name].concat() }
}

/// The file type bits, which some archivers leave in, are ignored.
fn mode(field: &[u8]) -> Result<u32, &'static str> {
    let bits = number(field).ok_or("the mode is not a number")? & 0o7777;
    u32::try_from(bits).map_err(|_| "the mode is not a number")
}

fn device(block: &[u8; 512]) -> Option<(u32, u32)> {
    let part = |field| u32::try_from(number(field)?).ok();
    Some((part(&block[329..337])?, part(&block[337..345])?))
}

/// The sum of all bytes with the sum's own field taken as spaces. Some old archivers added signed bytes.
fn check_sum(block: &[u8; 512]) -> Result<(), &'static str> {
    let expected = number(&block[148..156]).ok_or("the header's checksum is not a number")?;
    let (mut unsigned, mut signed) = (0i64, 0i64);
    for (index, byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&index) { b' ' } else { *byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    if expected == unsigned || expected == signed { Ok(()) } else { Err("the header's checksum is wrong") }
}

/// A number in octal digits, padded with spaces or NULs (an empty field is 0), or in base 256.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base_256(field),
        _ => octal(field),
    }
}

fn octal(field: &[u8]) -> Option<i64> {
    let start = field.iter().position(|byte| !matches!(byte, b' ' | 0)).unwrap_or(field.len());
    let digits = until_nul(&field[start..]).trim_ascii_end();
    digits.iter().try_fold(0i64, |number, digit| match digit {
        b'0'..=b'7' => number.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
        _ => None,
    })
}

/// Big-endian two's complement behind the marker bit.
fn base_256(field: &[u8]) -> Option<i64> {
    let (first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    let mut number = i64::from(first & 0x3f) - if negative { 0x40 } else { 0 };
    for byte in rest {
        number = number.checked_mul(256)?.checked_add(i64::from(*byte))?;
    }
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"77777777777 "), Some(0o77_777_777_777));
        assert_eq!(number(b"12 34\0\0\0"), None);
        assert_eq!(number(b"0x1f\0\0\0\0"), None);
        assert_eq!(number(b"-1\0\0\0\0\0\0"), None);
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        let mut huge = [0xff; 12];
        huge[0] = 0x80;
        assert_eq!(number(&huge), None);
    }
}
