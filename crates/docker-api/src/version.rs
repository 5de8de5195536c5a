//! API versions: `1.NN`, compared as numbers.

use std::fmt;
use std::str::FromStr;

/// A version of the Engine API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

impl ApiVersion {
    /// The oldest version that is served.
    pub const MIN: Self = Self::v1(24);
    /// The newest version: the one whose types are in [`crate::types`].
    pub const MAX: Self = Self::v1(56);

    /// `1.<minor>`.
    pub const fn v1(minor: u16) -> Self {
        Self { major: 1, minor }
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A text that is not `N.N`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid API version {0:?}: expected MAJOR.MINOR, as in {max}", max = ApiVersion::MAX)]
pub struct ParseVersionError(pub String);

impl FromStr for ApiVersion {
    type Err = ParseVersionError;

    fn from_str(text: &str) -> Result<Self, ParseVersionError> {
        let number = |digits: &str| {
            let plain = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
            plain.then(|| digits.parse().ok()).flatten()
        };
        let parts = text.split_once('.').and_then(|(major, minor)| Some((number(major)?, number(minor)?)));
        let (major, minor) = parts.ok_or_else(|| ParseVersionError(text.to_owned()))?;
        Ok(Self { major, minor })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compares_as_numbers() {
        assert!("1.9".parse::<ApiVersion>().unwrap() < ApiVersion::MIN);
        assert!("1.100".parse::<ApiVersion>().unwrap() > ApiVersion::MAX);
        assert_eq!("1.41".parse::<ApiVersion>().unwrap().to_string(), "1.41");
    }

    #[test]
    fn rejects_what_is_no_version() {
        for text in ["", "1", "1.", ".1", "1.2.3", "+1.2", "1.x", "1.99999999", "v1.41"] {
            assert!(text.parse::<ApiVersion>().is_err(), "{text}");
        }
    }
}
