//! Content digests: the validated `sha256:<64 hex>` newtype, and incremental hashing and verification.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};

/// A SHA-256 content digest. Its text form is `sha256:` and 64 lower-case hexadecimal digits and nothing else, so it
/// is safe in a path or a URL (CVE-2024-3727).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest([u8; 32]);

/// Why a text is not a digest that we accept. The texts are those that Docker gives.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// No `algorithm:hex` form.
    #[error("invalid checksum digest format")]
    Format,
    /// Another algorithm than sha256.
    #[error("unsupported digest algorithm")]
    Algorithm,
    /// The wrong number of digits.
    #[error("invalid checksum digest length")]
    Length,
}

impl Digest {
    /// The digest of bytes at hand.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self(Sha256::digest(bytes.as_ref()).into())
    }

    /// A digest from its 32 bytes.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A digest from its 64 lower-case hexadecimal digits.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        if hex.len() != 64 {
            return Err(DigestError::Length);
        }
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (high, low) = (nibble(pair[0]), nibble(pair[1]));
            let (Some(high), Some(low)) = (high, low) else { return Err(DigestError::Format) };
            *byte = high << 4 | low;
        }
        Ok(Self(bytes))
    }

    /// `sha256`.
    pub fn algorithm(&self) -> &'static str {
        "sha256"
    }

    /// The 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        self.to_string().split_off("sha256:".len())
    }

    /// The first 12 hexadecimal digits: how Docker shows ids of images and layers.
    pub fn short(&self) -> String {
        let mut hex = self.hex();
        hex.truncate(12);
        hex
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut text = [0; 64];
        for (pair, byte) in text.chunks_exact_mut(2).zip(self.0) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        formatter.write_str("sha256:")?;
        formatter.write_str(str::from_utf8(&text).unwrap_or_default())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (algorithm, hex) = text.split_once(':').ok_or(DigestError::Format)?;
        if algorithm == "sha256" {
            return Self::from_hex(hex);
        }
        let well_formed = !algorithm.is_empty()
            && algorithm.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+._-".contains(&byte));
        Err(if well_formed { DigestError::Algorithm } else { DigestError::Format })
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        text.parse().map_err(|error| serde::de::Error::custom(format_args!("{error}: {text:?}")))
    }
}

/// Hashes a stream piece by piece.
#[derive(Clone, Default)]
pub struct Hasher {
    state: Sha256,
    length: u64,
}

impl Hasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
        self.length += bytes.len() as u64;
    }

    /// How many bytes were added.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// The digest of all bytes added.
    pub fn finish(self) -> Digest {
        Digest(self.state.finalize().into())
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hasher").field("length", &self.length).finish_non_exhaustive()
    }
}

/// Checks a stream against the size and digest that were promised for it, and stops it where it gets too long.
#[derive(Debug, Clone)]
pub struct Verifier {
    hasher: Hasher,
    digest: Digest,
    size: u64,
}

/// How content differs from what was promised.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// More bytes than promised; told as soon as they arrive.
    #[error("content of {digest} is longer than the {size} bytes promised for it")]
    TooLong {
        /// The promised digest.
        digest: Digest,
        /// The promised size.
        size: u64,
    },
    /// The stream ended early.
    #[error("content of {digest} ended after {actual} of {size} bytes")]
    TooShort {
        /// The promised digest.
        digest: Digest,
        /// The promised size.
        size: u64,
        /// What came.
        actual: u64,
    },
    /// The right size, but other bytes.
    #[error("content does not match its digest: expected {expected}, got {actual}")]
    Digest {
        /// The promised digest.
        expected: Digest,
        /// The digest of what came.
        actual: Digest,
    },
}

impl Verifier {
    /// Expects content of this digest and size.
    pub fn new(digest: Digest, size: u64) -> Self {
        Self { hasher: Hasher::new(), digest, size }
    }

    /// Adds the next bytes.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), VerifyError> {
        if bytes.len() as u64 > self.size - self.hasher.length() {
            return Err(VerifyError::TooLong { digest: self.digest, size: self.size });
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// How many bytes were added.
    pub fn length(&self) -> u64 {
        self.hasher.length()
    }

    /// Whether all came and matched.
    pub fn finish(self) -> Result<(), VerifyError> {
        let (digest, size, actual) = (self.digest, self.size, self.hasher.length());
        if actual < size {
            return Err(VerifyError::TooShort { digest, size, actual });
        }
        let actual = self.hasher.finish();
        if actual != digest {
            return Err(VerifyError::Digest { expected: digest, actual });
        }
        Ok(())
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn text_and_back() {
        let digest: Digest = EMPTY.parse().expect("valid");
        assert_eq!(digest, Digest::of(b""));
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(Digest::from_hex(&digest.hex()), Ok(digest));
    }

    #[test]
    fn what_is_no_digest() {
        let check =
            |text: &str, expected: DigestError| assert_eq!(text.parse::<Digest>(), Err(expected), "{text}");
        check("", DigestError::Format);
        check("sha256", DigestError::Format);
        check("sha256:", DigestError::Length);
        check(&EMPTY[..70], DigestError::Length);
        check(&EMPTY.to_uppercase().replace("SHA", "sha"), DigestError::Format);
        check(&format!("sha256:{}", "../".repeat(21) + "x"), DigestError::Format);
        check("sha512:00", DigestError::Algorithm);
        check("../x:00", DigestError::Format);
        check(&EMPTY.replace('e', "é"), DigestError::Length);
    }

    #[test]
    fn a_verifier_tells_long_short_and_wrong() {
        let mut verifier = Verifier::new(Digest::of(b"abc"), 3);
        verifier.update(b"ab").expect("fits");
        assert!(matches!(verifier.clone().finish(), Err(VerifyError::TooShort { actual: 2, .. })));
        assert!(matches!(verifier.clone().update(b"cd"), Err(VerifyError::TooLong { size: 3, .. })));
        let mut wrong = verifier.clone();
        wrong.update(b"x").expect("fits");
        assert!(matches!(wrong.finish(), Err(VerifyError::Digest { .. })));
        verifier.update(b"c").expect("fits");
        verifier.finish().expect("matches");
    }
}
