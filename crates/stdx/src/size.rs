//! Sizes in bytes, as Docker reads them in flags (binary multiples) and prints them (decimal multiples).

/// Why a text is not a size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid size: '{0}'")]
pub struct ParseError(pub String);

/// Parses `10m`, `100k`, `1.5GB` with 1000-based multiples, as the options of log drivers do.
pub fn parse_decimal(text: &str) -> Result<u64, ParseError> {
    parse_multiple(text, 1000)
}

/// Parses `512m`, `1.5g`, `64k`, `100`, `2GiB`, `10MB` with 1024-based multiples, as `docker run -m` does.
pub fn parse_memory(text: &str) -> Result<u64, ParseError> {
    parse_multiple(text, 1024)
}

fn parse_multiple(text: &str, base: u64) -> Result<u64, ParseError> {
    let invalid = || ParseError(text.to_owned());
    let number_length = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(number_length);
    let suffix = suffix.strip_prefix(' ').unwrap_or(suffix).to_ascii_lowercase();
    let exponent: u32 =
        match suffix.strip_suffix("ib").or_else(|| suffix.strip_suffix('b')).unwrap_or(&suffix) {
            "" if !suffix.starts_with('i') => 0,
            "k" => 1,
            "m" => 2,
            "g" => 3,
            "t" => 4,
            "p" => 5,
            _ => return Err(invalid()),
        };
    let multiple = base.pow(exponent);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() || fraction.contains('.') || (number.contains('.') && fraction.is_empty()) {
        return Err(invalid());
    }
    let whole: u64 = whole.parse().map_err(|_| invalid())?;
    // Beyond 15 digits a fraction changes no byte of the sizes that exist.
    let digits = &fraction[..fraction.len().min(15)];
    let part: u64 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| invalid())? };
    let part = u128::from(part) * u128::from(multiple) / digits.bytes().fold(1, |scale, _| scale * 10);
    whole
        .checked_mul(multiple)
        .and_then(|value| value.checked_add(u64::try_from(part).ok()?))
        .filter(|value| i64::try_from(*value).is_ok())
        .ok_or_else(invalid)
}

/// Formats with four significant digits and decimal units: `1.23MB`, as `docker images` and the pull bars do.
pub fn format_decimal(bytes: u64) -> String {
    format_scaled(bytes, 1000, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 4)
}

/// As [`format_decimal`] with three significant digits, as `docker images` prints the SIZE column.
pub fn format_decimal_short(bytes: u64) -> String {
    format_scaled(bytes, 1000, &["B", "kB", "MB", "GB", "TB", "PB", "EB"], 3)
}

/// Formats with four significant digits and binary units: `1.5GiB`, as `docker stats` does.
pub fn format_binary(bytes: u64) -> String {
    format_scaled(bytes, 1024, &["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"], 4)
}

fn format_scaled(bytes: u64, base: u64, units: &[&str], digits: usize) -> String {
    let mut divisor = 1u64;
    let mut unit = 0;
    while unit + 1 < units.len() && bytes / divisor >= base {
        divisor *= base;
        unit += 1;
    }
    #[expect(clippy::cast_precision_loss, reason = "four digits are printed")]
    let value = bytes as f64 / divisor as f64;
    format!("{}{}", significant(value, digits), units[unit])
}

/// C's `%.<digits>g` for values from 0 to 9999: trailing zeros and a bare point are dropped.
fn significant(value: f64, digits: usize) -> String {
    let whole_digits = if value >= 1000.0 {
        4
    } else if value >= 100.0 {
        3
    } else if value >= 10.0 {
        2
    } else {
        1
    };
    let text = format!("{value:.*}", digits.saturating_sub(whole_digits));
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_dockers_memory_sizes() {
        let check = |text: &str, bytes: u64| assert_eq!(parse_memory(text), Ok(bytes), "{text}");
        check("0", 0);
        check("100", 100);
        check("100b", 100);
        check("1k", 1024);
        check("512m", 512 << 20);
        check("512M", 512 << 20);
        check("2gb", 2 << 30);
        check("2GiB", 2 << 30);
        check("1.5g", 3 << 29);
        check("1 k", 1024);
        for text in ["", "m", "1x", "-1", "1.m", "1..5m", "1ib", "99999999999999999999", "9999999p", "1 000"]
        {
            assert_eq!(parse_memory(text), Err(ParseError(text.to_owned())), "{text:?}");
        }
    }

    #[test]
    fn parses_decimal_sizes() {
        assert_eq!(parse_decimal("100k"), Ok(100_000));
        assert_eq!(parse_decimal("10m"), Ok(10_000_000));
        assert_eq!(parse_decimal("1.5GB"), Ok(1_500_000_000));
        assert_eq!(parse_decimal("64"), Ok(64));
    }

    #[test]
    fn prints_as_docker() {
        assert_eq!(format_decimal(0), "0B");
        assert_eq!(format_decimal(999), "999B");
        assert_eq!(format_decimal(1_234_567), "1.235MB");
        assert_eq!(format_decimal_short(124_500_000), "124MB");
        assert_eq!(format_decimal_short(7_380_000), "7.38MB");
        assert_eq!(format_decimal(1_000_000), "1MB");
        assert_eq!(format_binary(1_610_612_736), "1.5GiB");
    }
}
