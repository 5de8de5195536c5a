//! `~/.docker/config.json`: what the user set for Docker's client counts for ours, and logins are kept there.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_docker_api::types::AuthConfig;
use palan_stdx::atomic_file::{self, Durability};
use palan_stdx::{error_chain, fs};

use crate::error::{CliError, Result};
use crate::output::json::{self, Ordered};

/// The key of Docker Hub's credentials.
pub(crate) const HUB: &str = "https://index.docker.io/v1/";

/// The file as it was, in its order, with keys that we know nothing of.
#[derive(Debug, Clone)]
pub(crate) struct ConfigFile {
    path: PathBuf,
    members: Vec<(String, Ordered)>,
    /// Why the file could not be read; it is not overwritten then.
    broken: Option<String>,
}

impl ConfigFile {
    /// Reads `config.json` of the directory; a missing file is an empty one.
    pub(crate) fn load(directory: &Path) -> Self {
        let path = directory.join("config.json");
        let (members, broken) = match fs::read_to_string_if_exists(&path) {
            Err(error) => (Vec::new(), Some(error_chain::to_string(&error))),
            Ok(None) => (Vec::new(), None),
            Ok(Some(text)) if text.trim().is_empty() => (Vec::new(), None),
            Ok(Some(text)) => match Ordered::parse(&text) {
                Ok(Ordered::Map(members)) => (members, None),
                Ok(_) => (Vec::new(), Some(format!("{}: is no JSON object", path.display()))),
                Err(error) => (Vec::new(), Some(format!("{}: {error}", path.display()))),
            },
        };
        Self { path, members, broken }
    }

    /// Why the file counts for nothing, if it is broken.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.broken.as_deref()
    }

    /// Where the file is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    fn get(&self, key: &str) -> Option<&Ordered> {
        self.members.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// A text of the top level: `psFormat`, `detachKeys`, …; empty when it isn't there.
    pub(crate) fn text(&self, key: &str) -> &str {
        self.get(key).and_then(Ordered::as_str).unwrap_or_default()
    }

    /// Sets a text of the top level; an empty one removes it.
    pub(crate) fn set_text(&mut self, key: &str, value: &str) {
        self.members.retain(|(name, _)| name != key);
        if !value.is_empty() {
            self.members.push((key.to_owned(), Ordered::String(value.to_owned())));
        }
    }

    /// The credential helper of a registry: its own, or the one for all.
    pub(crate) fn helper(&self, registry: &str) -> Option<&str> {
        let own = self.get("credHelpers").and_then(|helpers| helpers.get(registry)).and_then(Ordered::as_str);
        own.or_else(|| self.get("credsStore").and_then(Ordered::as_str)).filter(|helper| !helper.is_empty())
    }

    /// Every registry that the user is logged in to, as far as the file knows.
    pub(crate) fn registries(&self) -> Vec<String> {
        let mut names = Vec::new();
        for key in ["auths", "credHelpers"] {
            let Some(Ordered::Map(entries)) = self.get(key) else { continue };
            for (name, _) in entries {
                if !names.contains(name) {
                    names.push(name.clone());
                }
            }
        }
        names
    }

    /// The proxy variables that every container gets, in both cases of letters.
    pub(crate) fn proxies(&self, host: &str) -> Vec<(String, String)> {
        const NAMES: [(&str, &str); 5] = [
            ("httpProxy", "HTTP_PROXY"),
            ("httpsProxy", "HTTPS_PROXY"),
            ("noProxy", "NO_PROXY"),
            ("ftpProxy", "FTP_PROXY"),
            ("allProxy", "ALL_PROXY"),
        ];
        let Some(proxies) = self.get("proxies") else { return Vec::new() };
        let Some(proxy) = proxies.get(host).or_else(|| proxies.get("default")) else { return Vec::new() };
        let mut variables = Vec::new();
        for (key, name) in NAMES {
            if let Some(value) = proxy.get(key).and_then(Ordered::as_str).filter(|value| !value.is_empty()) {
                variables.push((name.to_owned(), value.to_owned()));
                variables.push((name.to_lowercase(), value.to_owned()));
            }
        }
        variables
    }

    /// The credentials in the file for a registry, by its key or by the host name of another spelling.
    pub(crate) fn auth(&self, registry: &str) -> Option<AuthConfig> {
        let Some(Ordered::Map(entries)) = self.get("auths") else { return None };
        let exact = entries.iter().find(|(key, _)| key == registry);
        let (_, entry) =
            exact.or_else(|| entries.iter().find(|(key, _)| hostname(key) == hostname(registry)))?;
        let text = |key: &str| entry.get(key).and_then(Ordered::as_str).unwrap_or_default().to_owned();
        let (username, password) =
            decode_auth(&text("auth")).unwrap_or_else(|| (text("username"), text("password")));
        let auth = AuthConfig {
            username,
            password,
            server_address: registry.to_owned(),
            identity_token: text("identitytoken"),
            registry_token: text("registrytoken"),
            ..AuthConfig::default()
        };
        let known =
            !auth.username.is_empty() || !auth.identity_token.is_empty() || !auth.registry_token.is_empty();
        known.then_some(auth)
    }

    /// Sets the credentials of a registry. With a helper only the key is kept, as Docker does.
    pub(crate) fn set_auth(&mut self, auth: &AuthConfig, in_helper: bool) {
        let mut entry = Vec::new();
        if !in_helper {
            if !auth.username.is_empty() || !auth.password.is_empty() {
                let pair = format!("{}:{}", auth.username, auth.password);
                entry.push(("auth".to_owned(), Ordered::String(STANDARD.encode(pair))));
            }
            if !auth.identity_token.is_empty() {
                entry.push(("identitytoken".to_owned(), Ordered::String(auth.identity_token.clone())));
            }
        }
        let entries = self.entries();
        entries.retain(|(key, _)| *key != auth.server_address);
        entries.push((auth.server_address.clone(), Ordered::Map(entry)));
    }

    /// Removes the credentials of a registry; whether there were any.
    pub(crate) fn remove_auth(&mut self, registry: &str) -> bool {
        let entries = self.entries();
        let before = entries.len();
        entries.retain(|(key, _)| key != registry);
        entries.len() != before
    }

    fn entries(&mut self) -> &mut Vec<(String, Ordered)> {
        let index = self.members.iter().position(|(key, _)| key == "auths").unwrap_or_else(|| {
            self.members.insert(0, ("auths".to_owned(), Ordered::Map(Vec::new())));
            0
        });
        let value = &mut self.members[index].1;
        if !matches!(value, Ordered::Map(_)) {
            *value = Ordered::Map(Vec::new());
        }
        match value {
            Ordered::Map(entries) => entries,
            _ => unreachable!("it was made an object above"),
        }
    }

    /// Writes the file whole or not at all, readable by its owner only; a symbolic link stays one.
    pub(crate) fn save(&self) -> Result<()> {
        if let Some(problem) = &self.broken {
            return Err(CliError::new(format!(
                "the configuration was not saved, since it can't be read: {problem}"
            ))
            .hint("Repair or remove the file first."));
        }
        let mut text = String::new();
        Ordered::Map(self.members.clone()).write(&mut text, true);
        let text = json::indent(&text, "\t");
        let failed = |error: &fs::PathError| CliError::new(error_chain::to_string(error));
        if let Some(directory) = self.path.parent() {
            fs::create_dir_all(directory, 0o700).map_err(|error| failed(&error))?;
        }
        let target = self.path.canonicalize().unwrap_or_else(|_| self.path.clone());
        atomic_file::write(&target, text.as_bytes(), 0o600, Durability::Power).map_err(|error| failed(&error))
    }
}

/// `user:password` in Base64.
pub(crate) fn encode_auth(auth: &AuthConfig) -> String {
    STANDARD.encode(format!("{}:{}", auth.username, auth.password))
}

/// The reverse of [`encode_auth`].
pub(crate) fn decode_auth(text: &str) -> Option<(String, String)> {
    let decoded = String::from_utf8(STANDARD.decode(text.trim()).ok()?).ok()?;
    let (username, password) = decoded.split_once(':').filter(|(username, _)| !username.is_empty())?;
    Some((username.to_owned(), password.trim_matches('\0').to_owned()))
}

/// The host name in a registry's address, which may be a URL.
pub(crate) fn hostname(address: &str) -> &str {
    let bare =
        address.strip_prefix("https://").or_else(|| address.strip_prefix("http://")).unwrap_or(address);
    bare.split('/').next().unwrap_or(bare)
}

/// Under which key the credentials of a registry's domain are kept.
pub(crate) fn auth_key(domain: &str) -> &str {
    if matches!(domain, "docker.io" | "index.docker.io") { HUB } else { domain }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(text: &str) -> (tempfile::TempDir, ConfigFile) {
        let directory = tempfile::tempdir().unwrap();
        fs::write(&directory.path().join("config.json"), text).unwrap();
        let config = ConfigFile::load(directory.path());
        (directory, config)
    }

    #[test]
    fn logins_keep_what_else_is_in_the_file() {
        let (directory, mut config) =
            config(r#"{"zzz":1,"auths":{"r.example":{"auth":"YTpi"}},"aaa":{"b":[]}}"#);
        let auth = config.auth("r.example").unwrap();
        assert_eq!((auth.username.as_str(), auth.password.as_str()), ("a", "b"));
        let new = AuthConfig {
            username: "u".to_owned(),
            password: "p:w".to_owned(),
            server_address: "localhost:5000".to_owned(),
            ..AuthConfig::default()
        };
        config.set_auth(&new, false);
        config.save().unwrap();
        let path = directory.path().join("config.json");
        assert_eq!(
            fs::read_to_string(&path).unwrap(),
            "{\n\t\"zzz\": 1,\n\t\"auths\": {\n\t\t\"r.example\": {\n\t\t\t\"auth\": \"YTpi\"\n\t\t},\n\t\t\
             \"localhost:5000\": {\n\t\t\t\"auth\": \"dTpwOnc=\"\n\t\t}\n\t},\n\t\"aaa\": {\n\t\t\"b\": []\n\t}\n}"
        );
        let mode = std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
        let mut again = ConfigFile::load(directory.path());
        assert_eq!(again.auth("http://localhost:5000").unwrap().password, "p:w");
        assert!(again.remove_auth("r.example") && !again.remove_auth("r.example"));
    }

    #[test]
    fn a_broken_file_counts_for_nothing_and_is_not_overwritten() {
        let (_directory, config) = config("{");
        assert!(config.problem().is_some());
        assert!(config.save().unwrap_err().message.contains("can't be read"));
    }

    #[test]
    fn helpers_and_proxies_are_found() {
        let (_directory, config) = config(
            r#"{"credsStore":"all","credHelpers":{"r.example":"own"},"detachKeys":"ctrl-a",
                "proxies":{"default":{"httpProxy":"http://p","noProxy":""}}}"#,
        );
        assert_eq!(config.helper("r.example"), Some("own"));
        assert_eq!(config.helper("other"), Some("all"));
        assert_eq!(config.text("detachKeys"), "ctrl-a");
        let proxies = config.proxies("unix:///x");
        assert_eq!(proxies[0], ("HTTP_PROXY".to_owned(), "http://p".to_owned()));
        assert_eq!(proxies[1].0, "http_proxy");
        assert_eq!(proxies.len(), 2);
    }

    #[test]
    fn registries_have_their_keys() {
        assert_eq!(hostname("https://r.example:5000/v1/"), "r.example:5000");
        assert_eq!(auth_key("docker.io"), HUB);
        assert_eq!(auth_key("localhost:5000"), "localhost:5000");
    }
}
