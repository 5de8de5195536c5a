//! The `X-Registry-Auth` header: credentials as base64url of JSON.

use crate::json;
use crate::types::AuthConfig;
use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The header's name.
pub const HEADER: &str = "X-Registry-Auth";

/// Writes padding as Docker does, and reads with and without.
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The header's value for these credentials.
pub fn encode(auth: &AuthConfig) -> String {
    BASE64_URL.encode(json::to_vec(auth))
}

/// The credentials of a header; none when it is empty or not what it should be, which Docker ignores for a pull.
pub fn decode(header: &str) -> Option<AuthConfig> {
    // docker-py before 2.0 and some scripts send the other base64 alphabet.
    let header = header.trim().replace('+', "-").replace('/', "_");
    let auth: AuthConfig = json::from_slice(&BASE64_URL.decode(header).ok()?).ok()?;
    (auth != AuthConfig::default()).then_some(auth)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_what_others_write() {
        let auth = AuthConfig { username: "u".into(), password: "p?>~".into(), ..AuthConfig::default() };
        let header = encode(&auth);
        assert_eq!(decode(&header), Some(auth.clone()));
        assert_eq!(decode(header.trim_end_matches('=')), Some(auth.clone()));
        assert_eq!(decode(&header.replace('-', "+").replace('_', "/")), Some(auth));
        assert_eq!(decode(""), None);
        assert_eq!(decode("e30="), None);
        assert_eq!(decode("null"), None);
        assert_eq!(decode("\u{fffd}"), None);
    }

    #[test]
    fn debug_output_has_no_secret() {
        let auth = AuthConfig { username: "u".into(), password: "hunter2".into(), ..AuthConfig::default() };
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}
