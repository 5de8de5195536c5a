//! A package, whoever manages it.

use std::fmt::Write as _;

/// Who manages a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the managers'")]
pub enum Kind {
    Apk,
    Deb,
    Npm,
    Python,
}

/// A package that is installed.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Package {
    /// Who manages it.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What it is for, in the manager's words; empty where that is not told.
    pub architecture: String,
    /// The source package that it was made of, if that is another one.
    pub source: String,
    /// What it declares to be licensed under, in its own words; empty where it declares nothing.
    pub license: String,
    /// Where that was read.
    pub path: String,
}

/// A distribution, for the names of its packages.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Distribution {
    /// `debian`, `alpine`, …
    pub id: String,
    /// `12`, `3.20.1`, …
    pub version: String,
}

impl Package {
    /// Its package URL.
    pub fn purl(&self, distribution: &Distribution) -> String {
        let id =
            |other: &str| if distribution.id.is_empty() { other.to_owned() } else { distribution.id.clone() };
        let (kind, namespace, name) = match self.kind {
            Kind::Apk => ("apk", id("alpine"), self.name.to_lowercase()),
            Kind::Deb => ("deb", id("debian"), self.name.to_lowercase()),
            Kind::Python => ("pypi", String::new(), self.name.to_lowercase().replace(['_', '.'], "-")),
            Kind::Npm => match self.name.split_once('/') {
                Some((scope, name)) => ("npm", scope.to_owned(), name.to_owned()),
                None => ("npm", String::new(), self.name.clone()),
            },
        };
        let mut url = format!("pkg:{kind}/");
        if !namespace.is_empty() {
            url.push_str(&encoded(&namespace));
            url.push('/');
        }
        url.push_str(&encoded(&name));
        if !self.version.is_empty() {
            url.push('@');
            url.push_str(&encoded(&self.version));
        }
        let mut qualifiers = Vec::new();
        if matches!(self.kind, Kind::Apk | Kind::Deb) {
            if !self.architecture.is_empty() {
                qualifiers.push(("arch", self.architecture.clone()));
            }
            if !distribution.id.is_empty() {
                let version = if distribution.version.is_empty() { "" } else { "-" };
                qualifiers.push(("distro", format!("{}{version}{}", distribution.id, distribution.version)));
            }
            if !self.source.is_empty() && self.source != self.name {
                qualifiers.push(("upstream", self.source.clone()));
            }
        }
        for (number, (name, value)) in qualifiers.iter().enumerate() {
            let _ = write!(url, "{}{name}={}", if number == 0 { '?' } else { '&' }, encoded(value));
        }
        url
    }
}

/// Percent-encoding of package URLs.
fn encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_' | b'~' | b':' => {
                encoded.push(byte.into())
            }
            _ => {
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(kind: Kind, name: &str) -> Package {
        Package {
            kind,
            name: name.to_owned(),
            version: "1:2.3+b/1".to_owned(),
            architecture: "amd64".to_owned(),
            source: "src".to_owned(),
            license: String::new(),
            path: String::new(),
        }
    }

    #[test]
    fn urls() {
        let debian = Distribution { id: "debian".to_owned(), version: "12".to_owned() };
        let none = Distribution::default();
        for (kind, name, distribution, expected) in [
            (
                Kind::Deb,
                "libC6",
                &debian,
                "pkg:deb/debian/libc6@1:2.3%2Bb%2F1?arch=amd64&distro=debian-12&upstream=src",
            ),
            (Kind::Apk, "musl", &none, "pkg:apk/alpine/musl@1:2.3%2Bb%2F1?arch=amd64&upstream=src"),
            (Kind::Python, "Zope_Interface", &debian, "pkg:pypi/zope-interface@1:2.3%2Bb%2F1"),
            (Kind::Npm, "@babel/core", &debian, "pkg:npm/%40babel/core@1:2.3%2Bb%2F1"),
            (Kind::Npm, "left-pad", &none, "pkg:npm/left-pad@1:2.3%2Bb%2F1"),
        ] {
            assert_eq!(package(kind, name).purl(distribution), expected);
        }
    }
}
