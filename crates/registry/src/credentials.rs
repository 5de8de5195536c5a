//! What a user proves themselves with; never shown, never logged.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use reqwest::header::HeaderValue;
use sha2::{Digest as _, Sha256};

use crate::error::RequestError;

/// The credentials of one request, as `X-Registry-Auth` carries them.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// None.
    #[default]
    Anonymous,
    /// User and password.
    Password {
        /// The user's name.
        username: String,
        /// The password or personal access token.
        password: String,
    },
    /// A token from an earlier login, exchanged for access tokens at the token service.
    IdentityToken {
        /// The account, if known.
        username: Option<String>,
        /// The refresh token.
        token: String,
    },
    /// A bearer token to send as it is.
    RegistryToken(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Anonymous => "Anonymous",
            Self::Password { .. } => "Password(***)",
            Self::IdentityToken { .. } => "IdentityToken(***)",
            Self::RegistryToken(_) => "RegistryToken(***)",
        })
    }
}

/// A digest of credentials, to tell whose token is whose without keeping the credentials as keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fingerprint([u8; 32]);

impl Credentials {
    /// Whether there are any.
    pub fn is_anonymous(&self) -> bool {
        *self == Self::Anonymous
    }

    /// The account to name in token requests.
    pub(crate) fn username(&self) -> Option<&str> {
        match self {
            Self::Password { username, .. } => Some(username),
            Self::IdentityToken { username, .. } => username.as_deref(),
            Self::Anonymous | Self::RegistryToken(_) => None,
        }
    }

    /// `Basic …` for user and password.
    pub(crate) fn basic(&self) -> Option<String> {
        match self {
            Self::Password { username, password } => {
                Some(format!("Basic {}", STANDARD.encode(format!("{username}:{password}"))))
            }
            _ => None,
        }
    }

    /// The same as a header's value.
    pub(crate) fn basic_header(&self) -> Result<Option<HeaderValue>, RequestError> {
        let header = |text: String| {
            HeaderValue::from_str(&text).map_err(|_| RequestError::Malformed {
                reason: "a token with characters that no header may have".to_owned(),
            })
        };
        self.basic().map(header).transpose()
    }

    pub(crate) fn fingerprint(&self) -> Fingerprint {
        let mut hasher = Sha256::new();
        let mut add = |part: &str| {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        };
        match self {
            Self::Anonymous => add("anonymous"),
            Self::Password { username, password } => {
                add("password");
                add(username);
                add(password);
            }
            Self::IdentityToken { username, token } => {
                add("identity");
                add(username.as_deref().unwrap_or(""));
                add(token);
            }
            Self::RegistryToken(token) => {
                add("registry");
                add(token);
            }
        }
        Fingerprint(hasher.finalize().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_output_has_no_secret() {
        let secret = "s3cret".to_owned();
        for credentials in [
            Credentials::Password { username: secret.clone(), password: secret.clone() },
            Credentials::IdentityToken { username: None, token: secret.clone() },
            Credentials::RegistryToken(secret.clone()),
        ] {
            assert!(!format!("{credentials:?}").contains(&secret));
        }
    }

    #[test]
    fn fingerprints_tell_credentials_apart() {
        let of = |username: &str, password: &str| {
            Credentials::Password { username: username.into(), password: password.into() }.fingerprint()
        };
        assert_ne!(of("a", "bc"), of("ab", "c"));
        assert_eq!(of("a", "b"), of("a", "b"));
        assert_ne!(Credentials::Anonymous.fingerprint(), of("", ""));
    }
}
