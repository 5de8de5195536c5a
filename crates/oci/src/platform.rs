//! Platforms: what an image runs on, and which of several a host would choose.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Operating system, architecture and variant, in Go's names (`linux/arm64/v8`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Platform {
    /// `amd64`, `arm64`, `arm`, `386`, …
    #[serde(default)]
    pub architecture: String,
    /// `linux`, `windows`, …
    #[serde(default)]
    pub os: String,
    /// `v7`, `v8`, …
    #[serde(default, deserialize_with = "crate::null_is_default", skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Of Windows.
    #[serde(rename = "os.version", default, skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Of Windows.
    #[serde(
        rename = "os.features",
        default,
        deserialize_with = "crate::null_is_default",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub os_features: Vec<String>,
}

/// A text that names no platform; the texts are those of Docker's clients.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlatformError {
    /// One word that is neither an operating system nor an architecture.
    #[error("{0:?}: unknown operating system or architecture: invalid argument")]
    Unknown(String),
    /// More than three parts, or characters that no platform has.
    #[error("{0:?}: cannot parse platform specifier: invalid argument")]
    Malformed(String),
}

impl Platform {
    /// `linux` on the architecture this program was built for.
    pub fn host() -> Self {
        let (architecture, variant) = normalise(std::env::consts::ARCH, None);
        Self::linux(architecture, variant)
    }

    fn linux(architecture: String, variant: Option<String>) -> Self {
        Self { architecture, os: "linux".to_owned(), variant, os_version: None, os_features: Vec::new() }
    }

    /// The same in the usual names: `x86_64` is `amd64`, `aarch64` and `arm64/v8` are `arm64`, `arm` is `arm/v7`.
    #[must_use]
    pub fn normalised(&self) -> Self {
        let os = match self.os.to_ascii_lowercase().as_str() {
            "macos" => "darwin".to_owned(),
            other => other.to_owned(),
        };
        let (architecture, variant) = normalise(&self.architecture, self.variant.as_deref());
        Self { architecture, os, variant, ..self.clone() }
    }

    /// Whether an image made for `image` can be used where this platform is wanted.
    pub fn matches(&self, image: &Self) -> bool {
        self.rank(image).is_some()
    }

    /// How well an image made for `image` serves where this platform is wanted: 0 is exact, `None` not at all.
    /// An older ARM variant runs on a newer one, and 32-bit ARM on 64-bit; a newer amd64 level runs older ones.
    pub fn rank(&self, image: &Self) -> Option<usize> {
        let (wanted, image) = (self.normalised(), image.normalised());
        if wanted.os != image.os {
            return None;
        }
        if wanted.architecture == image.architecture && wanted.variant == image.variant {
            return Some(0);
        }
        let candidates = older(&wanted.architecture, wanted.variant.as_deref());
        let found = candidates.iter().position(|(architecture, variant)| {
            *architecture == image.architecture && variant.as_deref() == image.variant.as_deref()
        })?;
        Some(found + 1)
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.os, self.architecture)?;
        match &self.variant {
            Some(variant) if !variant.is_empty() => write!(formatter, "/{variant}"),
            _ => Ok(()),
        }
    }
}

impl FromStr for Platform {
    type Err = PlatformError;

    /// `os`, `architecture`, `os/architecture` or `os/architecture/variant`.
    fn from_str(text: &str) -> Result<Self, PlatformError> {
        let malformed = || PlatformError::Malformed(text.to_owned());
        let parts: Vec<&str> = text.split('/').collect();
        let is_part = |part: &&str| {
            part.starts_with(|first: char| first.is_ascii_alphanumeric())
                && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
        };
        if !parts.iter().all(is_part) {
            return Err(malformed());
        }
        let (os, architecture, variant) = match parts[..] {
            [only] if is_known_os(only) => {
                let host = Self::host();
                return Ok(Self { os: only.to_owned(), ..host }.normalised());
            }
            [only] if is_known_architecture(only) => ("linux", only, None),
            [_] => return Err(PlatformError::Unknown(text.to_owned())),
            [os, architecture] => (os, architecture, None),
            [os, architecture, variant] => (os, architecture, Some(variant.to_owned())),
            _ => return Err(malformed()),
        };
        let platform = Self::linux(architecture.to_owned(), variant);
        Ok(Self { os: os.to_owned(), ..platform }.normalised())
    }
}

fn normalise(architecture: &str, variant: Option<&str>) -> (String, Option<String>) {
    let architecture = architecture.to_ascii_lowercase();
    let variant = variant.map(str::to_ascii_lowercase).filter(|variant| !variant.is_empty());
    let (architecture, variant) = match (architecture.as_str(), variant.as_deref()) {
        ("i386" | "i686" | "x86", _) => ("386", None),
        ("x86_64" | "x86-64" | "amd64", Some("v1") | None) => ("amd64", None),
        ("x86_64" | "x86-64" | "amd64", variant) => ("amd64", variant),
        ("aarch64" | "arm64", Some("8" | "v8" | "v8.0") | None) => ("arm64", None),
        ("aarch64" | "arm64", variant) => ("arm64", variant),
        ("armhf", _) => ("arm", Some("v7")),
        ("armel", _) => ("arm", Some("v6")),
        ("arm", None | Some("7")) => ("arm", Some("v7")),
        ("arm", Some("5")) => ("arm", Some("v5")),
        ("arm", Some("6")) => ("arm", Some("v6")),
        ("arm", Some("8")) => ("arm", Some("v8")),
        (other, variant) => (other, variant),
    };
    (architecture.to_owned(), variant.map(str::to_owned))
}

/// What else runs there, best first.
fn older(architecture: &str, variant: Option<&str>) -> Vec<(&'static str, Option<String>)> {
    let level = |variant: Option<&str>, default: u32| -> u32 {
        variant
            .and_then(|text| text.strip_prefix('v')?.split('.').next()?.parse().ok())
            .unwrap_or(default)
            .min(9)
    };
    let arm = |newest: u32| (5..=newest).rev().map(|level| ("arm", Some(format!("v{level}"))));
    match architecture {
        "amd64" => (1..level(variant, 1))
            .rev()
            .map(|level| ("amd64", (level > 1).then(|| format!("v{level}"))))
            .collect(),
        "arm64" if level(variant, 8) > 8 || variant.is_some() => {
            std::iter::once(("arm64", None)).chain(arm(8)).collect()
        }
        "arm64" => arm(8).collect(),
        "arm" => arm(level(variant, 7).saturating_sub(1)).collect(),
        _ => Vec::new(),
    }
}

fn is_known_os(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "aix"
            | "android"
            | "darwin"
            | "dragonfly"
            | "freebsd"
            | "illumos"
            | "ios"
            | "js"
            | "linux"
            | "macos"
            | "netbsd"
            | "openbsd"
            | "plan9"
            | "solaris"
            | "wasip1"
            | "windows"
    )
}

fn is_known_architecture(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "386"
            | "amd64"
            | "arm"
            | "arm64"
            | "armel"
            | "armhf"
            | "aarch64"
            | "i386"
            | "i686"
            | "loong64"
            | "mips"
            | "mips64"
            | "mips64le"
            | "mipsle"
            | "ppc64"
            | "ppc64le"
            | "riscv64"
            | "s390x"
            | "wasm"
            | "x86_64"
            | "x86-64"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    #[test]
    fn parsing_normalises() {
        let check = |text: &str, expected: &str| assert_eq!(platform(text).to_string(), expected, "{text}");
        check("linux/amd64", "linux/amd64");
        check("linux/x86_64", "linux/amd64");
        check("aarch64", "linux/arm64");
        check("linux/arm64/v8", "linux/arm64");
        check("arm", "linux/arm/v7");
        check("linux/arm/v6", "linux/arm/v6");
        check("windows/amd64", "windows/amd64");
        assert_eq!(platform("linux"), Platform::host());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "bogus", "linux/", "a/b/c/d", "linux/am d64", "linux/../x"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_variant_wins() {
        let rank = |wanted: &str, image: &str| platform(wanted).rank(&platform(image));
        assert_eq!(rank("linux/amd64", "linux/amd64"), Some(0));
        assert_eq!(rank("linux/amd64", "linux/amd64/v3"), None);
        assert!(rank("linux/amd64/v3", "linux/amd64/v2") < rank("linux/amd64/v3", "linux/amd64"));
        assert_eq!(rank("linux/amd64", "linux/arm64"), None);
        assert_eq!(rank("linux/amd64", "windows/amd64"), None);
        assert!(rank("linux/arm64", "linux/arm/v7").is_some());
        assert_eq!(rank("linux/arm/v6", "linux/arm/v7"), None);
        assert!(rank("linux/arm/v7", "linux/arm/v6").is_some());
    }
}
