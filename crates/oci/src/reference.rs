//! Image names: Docker's grammar, normal forms and error texts.
//!
//! ```text
//! reference  = name [ ":" tag ] [ "@" digest ]
//! name       = [ domain "/" ] path             domain: host[:port]; docker.io when absent
//! path       = component *( "/" component )    library/… for a single component of docker.io
//! component  = [a-z0-9]+ *( ( "." / "_" / "__" / "-"+ ) [a-z0-9]+ )
//! tag        = [A-Za-z0-9_][A-Za-z0-9_.-]{0,127}
//! ```

use std::fmt;
use std::str::FromStr;

use crate::digest::{Digest, DigestError};

/// The registry of names that name none.
pub const DEFAULT_DOMAIN: &str = "docker.io";
/// The tag of names that have none.
pub const DEFAULT_TAG: &str = "latest";

const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL_PREFIX: &str = "library/";
const MAX_PATH: usize = 255;
const MAX_TAG: usize = 128;

/// A normalised image name. `debian` is `docker.io/library/debian`, without a tag until [`Reference::or_latest`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// Why a text is no image name. The texts are Docker's: clients match on them.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// It does not follow the grammar.
    #[error("invalid reference format")]
    Format,
    /// The repository has upper-case letters.
    #[error("invalid reference format: repository name ({0}) must be lowercase")]
    Uppercase(String),
    /// The repository's path is too long.
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    /// The name is what an image id looks like.
    #[error("invalid repository name ({0}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId(String),
    /// The part after `@` is no digest that we know.
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Reference {
    /// Parses a name as a user types it.
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if looks_like_id(text) {
            return Err(ReferenceError::LooksLikeId(text.to_owned()));
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split_once(':').map_or(&*remainder, |(remote, _)| remote);
        if remote.chars().any(char::is_uppercase) {
            return Err(ReferenceError::Uppercase(remote.to_owned()));
        }
        let (rest, digest) = match remainder.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (&*remainder, None),
        };
        let (path, tag) = match rest.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (rest, None),
        };
        let well_formed = is_domain(domain)
            && path.split('/').all(is_path_component)
            && tag.is_none_or(is_tag)
            && digest.is_none_or(looks_like_digest);
        if !well_formed {
            return Err(ReferenceError::Format);
        }
        if path.len() > MAX_PATH {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::parse).transpose()?,
        })
    }

    /// The registry: `docker.io`, `localhost:5000`, …
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository within the registry: `library/debian`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Registry and repository: `docker.io/library/debian`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<Digest> {
        self.digest
    }

    /// The same with the tag `latest` if there is neither tag nor digest.
    #[must_use]
    pub fn or_latest(mut self) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Format);
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag: what `RepoDigests` lists.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The repository alone.
    #[must_use]
    pub fn repository(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    /// The short form of the repository: `debian`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        let short = match self.path.strip_prefix(OFFICIAL_PREFIX) {
            Some(official) if !official.contains('/') => official,
            _ => &self.path,
        };
        // `docker.io/quay.io/app` without its first part would be another registry's.
        let is_unambiguous =
            !looks_like_id(short) && split_domain(short) == (DEFAULT_DOMAIN, self.path.clone());
        if is_unambiguous { short.to_owned() } else { self.name() }
    }

    /// The short form with tag and digest, as Docker shows it: `debian:latest`.
    pub fn familiar(&self) -> String {
        self.with_suffixes(self.familiar_name())
    }

    fn with_suffixes(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name.push(':');
            name.push_str(tag);
        }
        if let Some(digest) = &self.digest {
            name.push('@');
            name.push_str(&digest.to_string());
        }
        name
    }
}

/// The full form: `docker.io/library/debian:latest`.
impl fmt::Display for Reference {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.with_suffixes(self.name()))
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

/// What the id of an image looks like.
fn looks_like_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The first component is a registry when it could not be part of a repository name, else it is Docker's.
fn split_domain(text: &str) -> (&str, String) {
    let (domain, remainder) = match text.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.chars().any(char::is_uppercase) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        return (domain, format!("{OFFICIAL_PREFIX}{remainder}"));
    }
    (domain, remainder.to_owned())
}

fn is_domain(domain: &str) -> bool {
    let (host, port) = if let Some(rest) = domain.strip_prefix('[') {
        let Some((address, port)) = rest.split_once(']') else { return false };
        let is_address =
            !address.is_empty() && address.bytes().all(|byte| byte == b':' || byte.is_ascii_hexdigit());
        match port.strip_prefix(':') {
            Some(port) if is_address => return is_port(port),
            _ => return is_address && port.is_empty(),
        }
    } else {
        match domain.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (domain, None),
        }
    };
    host.split('.').all(is_domain_component) && port.is_none_or(is_port)
}

fn is_port(port: &str) -> bool {
    !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
}

fn is_domain_component(component: &str) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = component.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || *byte == b'-')
}

/// Runs of `[a-z0-9]` with one separator between them: `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let is_word = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    if !bytes.first().is_some_and(is_word) || !bytes.last().is_some_and(is_word) {
        return false;
    }
    bytes.split(is_word).all(|separator| {
        matches!(separator, b"" | b"." | b"_" | b"__") || separator.iter().all(|byte| *byte == b'-')
    })
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    tag.len() <= MAX_TAG
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || byte == b'.' || byte == b'-')
}

/// The grammar of the part after `@`; whether it is a digest that we know is decided afterwards.
fn looks_like_digest(text: &str) -> bool {
    let Some((algorithm, hex)) = text.split_once(':') else { return false };
    let is_part = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphabetic())
            && part.bytes().all(|byte| byte.is_ascii_alphanumeric())
    };
    algorithm.split(['-', '_', '+', '.']).all(is_part)
        && hex.len() >= 32
        && hex.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_short_form_is_never_another_name() {
        let id = "0123456789abcdef".repeat(4);
        for text in [
            "docker.io/quay.io/app",
            "docker.io/localhost/app:1",
            &format!("docker.io/library/{id}"),
            "docker.io/a/b",
        ] {
            let reference = Reference::parse(text).unwrap();
            assert_eq!(Reference::parse(&reference.familiar()).as_ref(), Ok(&reference), "{text}");
        }
        assert_eq!(Reference::parse("docker.io/quay.io/app").unwrap().familiar(), "docker.io/quay.io/app");
    }

    fn check(text: &str, full: &str, familiar: &str) {
        let reference = Reference::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(reference.to_string(), full, "{text}");
        assert_eq!(reference.familiar(), familiar, "{text}");
        assert_eq!(Reference::parse(full), Ok(reference), "the full form of {text} parses to the same");
    }

    fn refused(text: &str, message: &str) {
        let error = Reference::parse(text).expect_err(text);
        assert_eq!(error.to_string(), message, "{text}");
    }

    #[test]
    fn names_are_normalised() {
        check("debian", "docker.io/library/debian", "debian");
        check("debian:12", "docker.io/library/debian:12", "debian:12");
        check("docker.io/debian", "docker.io/library/debian", "debian");
        check("index.docker.io/library/debian", "docker.io/library/debian", "debian");
        check("user/app", "docker.io/user/app", "user/app");
        check("localhost/app", "localhost/app", "localhost/app");
        check("localhost:5000/a/b:v1", "localhost:5000/a/b:v1", "localhost:5000/a/b:v1");
        check("Example.com/app", "Example.com/app", "Example.com/app");
        check("[::1]:5000/app", "[::1]:5000/app", "[::1]:5000/app");
        check("docker.io/library/a/b", "docker.io/library/a/b", "library/a/b");
        check("a--b__c.d_e-f", "docker.io/library/a--b__c.d_e-f", "a--b__c.d_e-f");
        let digest = Digest::of(b"x");
        check(&format!("a:t@{digest}"), &format!("docker.io/library/a:t@{digest}"), &format!("a:t@{digest}"));
    }

    #[test]
    fn what_docker_refuses_is_refused_with_its_words() {
        for text in
            ["", ":", "a:", "a b", "-a", "a-", "a..b", "a___b", "a/", "/a", "a//b", "a@b", "a:tag@", "ä"]
        {
            refused(text, "invalid reference format");
        }
        refused(&format!("a:{}", "t".repeat(129)), "invalid reference format");
        refused("-x.com/a", "invalid reference format");
        refused("x.com:port/a", "invalid reference format");
        refused("UPPER", "invalid reference format: repository name (library/UPPER) must be lowercase");
        refused("a/Upper:T", "invalid reference format: repository name (a/Upper) must be lowercase");
        refused("UPPER/Case", "invalid reference format: repository name (Case) must be lowercase");
        refused(
            "a/".repeat(200).trim_end_matches('/'),
            "repository name must not be more than 255 characters",
        );
        let id = Digest::of(b"x").hex();
        refused(&id, &format!("invalid repository name ({id}), cannot specify 64-byte hexadecimal strings"));
        refused(&format!("a@sha512:{id}{id}"), "unsupported digest algorithm");
        refused(&format!("a@sha256:{}", &id[..40]), "invalid checksum digest length");
    }

    #[test]
    fn limits_are_exact() {
        assert!(Reference::parse(&format!("a:{}", "t".repeat(128))).is_ok());
        assert!(Reference::parse(&format!("x.io/{}", "a".repeat(255))).is_ok());
        assert_eq!(Reference::parse(&format!("x.io/{}", "a".repeat(256))), Err(ReferenceError::TooLong));
    }

    #[test]
    fn a_tag_is_only_added_where_nothing_is() {
        let latest = |text: &str| Reference::parse(text).expect(text).or_latest().familiar();
        assert_eq!(latest("a"), "a:latest");
        assert_eq!(latest("a:1"), "a:1");
        let digest = Digest::of(b"x");
        assert_eq!(latest(&format!("a@{digest}")), format!("a@{digest}"));
    }
}
