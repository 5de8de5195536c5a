//! The `X-Registry-Auth` header: credentials as base64url of JSON.

use crate::json;
use crate::types::AuthConfig;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};

/// The header's name.
pub const HEADER: &str = "X-Registry-Auth";

/// The name of the header with the credentials of a build, for several registries.
pub const CONFIG_HEADER: &str = "X-Registry-Config";

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

/// The credentials of a build's header, by the registries' names; none when it is not what it should be, as for a pull.
pub fn decode_config(header: &str) -> BTreeMap<String, AuthConfig> {
    let header = header.trim().replace('+', "-").replace('/', "_");
    let decoded = BASE64_URL.decode(header).ok();
    decoded.and_then(|bytes| json::from_slice(&bytes).ok()).unwrap_or_default()
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
    fn credentials_of_several_registries() {
        let json = br#"{"host:5000":{"username":"u","password":"p"}}"#;
        assert_eq!(decode_config(&BASE64_URL.encode(json))["host:5000"].username, "u");
        assert!(decode_config("").is_empty() && decode_config("e30=").is_empty());
    }

    #[test]
    fn debug_output_has_no_secret() {
        let auth = AuthConfig { username: "u".into(), password: "hunter2".into(), ..AuthConfig::default() };
        assert!(!format!("{auth:?}").contains("hunter2"));
    }
}
