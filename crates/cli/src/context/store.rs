//! Contexts on the disk, where Docker's client keeps them, so that both have the same:
//!
//! ```text
//! <configuration>/contexts/
//!   meta/<SHA-256 of the name>/meta.json               name, description, endpoint
//!   tls/<SHA-256 of the name>/docker/{ca,cert,key}.pem what TLS needs
//!   palan-current                                      the name of the one in use
//! ```
//!
//! Docker's own choice of a context is the key `currentContext` of its `config.json`. It counts when this program is called
//! `docker`. As `palan` it has a choice of its own: what somebody chose for Docker's client names Docker's daemon.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use palan_docker_api::client::TlsFiles;
use palan_oci::Digest;
use palan_stdx::atomic_file::{self, Durability};
use palan_stdx::{error_chain, fs};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{CliError, Result};

/// The context that needs no file: what the environment says.
pub(crate) const DEFAULT: &str = "default";

/// The endpoint that all contexts have.
const DOCKER: &str = "docker";

/// The files that TLS needs, as Docker names them.
pub(crate) const TLS_FILES: [&str; 3] = ["ca.pem", "cert.pem", "key.pem"];

/// `meta.json`. What other clients wrote into it stays.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Context {
    pub(crate) name: String,
    pub(crate) metadata: BTreeMap<String, Value>,
    pub(crate) endpoints: BTreeMap<String, Value>,
}

/// What a context says about the daemon.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Endpoint {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) host: String,
    #[serde(rename = "SkipTLSVerify")]
    pub(crate) skip_tls_verify: bool,
}

impl Context {
    /// A context of this name for a daemon.
    pub(crate) fn new(name: &str) -> Self {
        Self { name: name.to_owned(), ..Self::default() }
    }

    pub(crate) fn description(&self) -> &str {
        self.metadata.get("Description").and_then(Value::as_str).unwrap_or_default()
    }

    pub(crate) fn set_description(&mut self, text: &str) {
        match text {
            "" => drop(self.metadata.remove("Description")),
            text => drop(self.metadata.insert("Description".to_owned(), text.into())),
        }
    }

    /// The daemon; `None` if the context is not about one.
    pub(crate) fn endpoint(&self) -> Option<Endpoint> {
        serde_json::from_value(self.endpoints.get(DOCKER)?.clone()).ok()
    }

    pub(crate) fn set_endpoint(&mut self, endpoint: &Endpoint) {
        let value = serde_json::to_value(endpoint).unwrap_or_default();
        self.endpoints.insert(DOCKER.to_owned(), value);
    }
}

/// The files for TLS of one context: name and content.
pub(crate) type TlsMaterial = Vec<(&'static str, Vec<u8>)>;

/// All contexts of a user.
#[derive(Debug, Clone)]
pub(crate) struct Contexts {
    directory: PathBuf,
}

impl Contexts {
    /// Those beside the client's configuration.
    pub(crate) fn of(configuration: &Path) -> Self {
        Self { directory: configuration.join("contexts") }
    }

    /// Where `meta.json` of a context is.
    pub(crate) fn meta_directory(&self, name: &str) -> PathBuf {
        self.directory.join("meta").join(Digest::of(name).hex())
    }

    /// Where the files for TLS of a context are.
    pub(crate) fn tls_directory(&self, name: &str) -> PathBuf {
        self.directory.join("tls").join(Digest::of(name).hex())
    }

    /// All but the default one, by name. A file that can't be understood is left out, as in Docker.
    pub(crate) fn all(&self) -> Result<Vec<Context>> {
        let entries =
            fs::if_exists(fs::read_dir(&self.directory.join("meta"))).map_err(|error| failed(&error))?;
        let mut contexts: Vec<Context> = entries
            .unwrap_or_default()
            .iter()
            .filter_map(|entry| read(&entry.path().join("meta.json")))
            .filter(|context| !context.name.is_empty())
            .collect();
        contexts.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(contexts)
    }

    /// The context of this name.
    pub(crate) fn get(&self, name: &str) -> Result<Context> {
        let found = self.all()?.into_iter().find(|context| context.name == name);
        found.ok_or_else(|| CliError::new(format!("context {name:?}: context not found")))
    }

    /// Whether there is one of this name.
    pub(crate) fn has(&self, name: &str) -> Result<bool> {
        Ok(self.all()?.iter().any(|context| context.name == name))
    }

    /// Writes a context; of TLS `files` if they are given, and those that it has otherwise.
    pub(crate) fn save(&self, context: &Context, files: Option<&TlsMaterial>) -> Result<()> {
        let text = serde_json::to_vec(context).unwrap_or_default();
        self.write(&self.meta_directory(&context.name), "meta.json", &text, 0o644)?;
        let Some(files) = files else { return Ok(()) };
        let directory = self.tls_directory(&context.name);
        fs::remove_dir_all(&directory).map_err(|error| failed(&error))?;
        for (name, content) in files {
            self.write(&directory.join(DOCKER), name, content, 0o600)?;
        }
        Ok(())
    }

    fn write(&self, directory: &Path, name: &str, content: &[u8], mode: u32) -> Result<()> {
        let written = fs::create_dir_all(directory, 0o700)
            .and_then(|()| atomic_file::write(&directory.join(name), content, mode, Durability::Power));
        written.map_err(|error| failed(&error))
    }

    /// What a context has for TLS.
    pub(crate) fn tls_files(&self, name: &str) -> Result<TlsMaterial> {
        let directory = self.tls_directory(name).join(DOCKER);
        let mut files = TlsMaterial::new();
        for file in TLS_FILES {
            if let Some(content) =
                fs::if_exists(fs::read(&directory.join(file))).map_err(|error| failed(&error))?
            {
                files.push((file, content));
            }
        }
        Ok(files)
    }

    /// The files by which TLS is spoken with a context's daemon; `None`: it is not. A daemon that nobody could tell from another is
    /// accepted only where the user has said so.
    pub(crate) fn tls_paths(&self, name: &str, skip_verify: bool) -> Result<Option<TlsFiles>> {
        let directory = self.tls_directory(name).join(DOCKER);
        let there = |name: &str| Some(directory.join(name)).filter(|path| path.exists());
        let lacks =
            |what: &str| CliError::new(format!("context {name:?} has certificates for TLS, but {what}"));
        let (authorities, certificate, key) = (there("ca.pem"), there("cert.pem"), there("key.pem"));
        if certificate.is_some() != key.is_some() {
            return Err(
                lacks("not both a certificate and its key").hint("Set both with 'context update --docker'.")
            );
        }
        let identity = certificate.zip(key);
        match (authorities, identity) {
            (_, identity) if skip_verify => Ok(Some(TlsFiles { authorities: None, identity })),
            (None, None) => Ok(None),
            (None, Some(_)) => Err(lacks("none of an authority that vouches for the daemon")
                .hint("Name it by ca=FILE, or say skip-tls-verify=true, with 'context update --docker'.")),
            (authorities, identity) => Ok(Some(TlsFiles { authorities, identity })),
        }
    }

    /// Removes a context; one that is not there is fine.
    pub(crate) fn remove(&self, name: &str) -> Result<()> {
        for directory in [self.meta_directory(name), self.tls_directory(name)] {
            fs::remove_dir_all(&directory).map_err(|error| failed(&error))?;
        }
        Ok(())
    }

    /// The context that was chosen for `palan`; empty if none was.
    pub(crate) fn current(&self) -> String {
        let text = fs::read_to_string_if_exists(&self.directory.join("palan-current"));
        text.ok().flatten().unwrap_or_default().trim().to_owned()
    }

    /// Chooses one for `palan`; an empty name chooses none.
    pub(crate) fn set_current(&self, name: &str) -> Result<()> {
        if name.is_empty() {
            return fs::remove_file(&self.directory.join("palan-current")).map_err(|error| failed(&error));
        }
        self.write(&self.directory, "palan-current", format!("{name}\n").as_bytes(), 0o644)
    }
}

/// The name that a context is to have, as Docker checks it.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.+-".contains(c);
    match name {
        "" => Err(CliError::new("context name cannot be empty")),
        DEFAULT => Err(CliError::new("\"default\" is a reserved context name")),
        _ if name.len() > 1
            && name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.chars().all(fits) =>
        {
            Ok(())
        }
        _ => Err(CliError::new(format!(
            "context name {name:?} is invalid, names are validated against regexp \"^[a-zA-Z0-9][a-zA-Z0-9_.+-]+$\""
        ))),
    }
}

fn read(path: &Path) -> Option<Context> {
    serde_json::from_str(&fs::read_to_string_if_exists(path).ok()??).ok()
}

fn failed(error: &fs::PathError) -> CliError {
    CliError::new(error_chain::to_string(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contexts() -> (tempfile::TempDir, Contexts) {
        let directory = tempfile::tempdir().unwrap();
        let contexts = Contexts::of(directory.path());
        (directory, contexts)
    }

    #[test]
    fn a_context_lies_where_docker_looks_for_it() {
        let (directory, contexts) = contexts();
        let mut far = Context::new("far");
        far.set_description("over there");
        far.set_endpoint(&Endpoint { host: "tcp://10.0.0.1:2376".to_owned(), skip_tls_verify: false });
        contexts.save(&far, Some(&vec![("ca.pem", b"ca".to_vec())])).unwrap();
        let path = contexts.meta_directory("far");
        assert!(path.ends_with(Digest::of("far").hex()));
        assert_eq!(
            fs::read_to_string(&path.join("meta.json")).unwrap(),
            r#"{"Name":"far","Metadata":{"Description":"over there"},"Endpoints":{"docker":{"Host":"tcp://10.0.0.1:2376","SkipTLSVerify":false}}}"#
        );
        assert_eq!(contexts.tls_files("far").unwrap(), [("ca.pem", b"ca".to_vec())]);
        assert!(directory.path().join("contexts/tls").is_dir());
        assert_eq!(contexts.all().unwrap(), [far]);
        contexts.remove("far").unwrap();
        assert!(!contexts.has("far").unwrap());
        assert_eq!(contexts.get("far").unwrap_err().message, "context \"far\": context not found");
    }

    #[test]
    fn what_other_clients_wrote_stays() {
        let (_directory, contexts) = contexts();
        let text = r#"{"Name":"x","Metadata":{"Otel":{"a":1}},"Endpoints":{"docker":{"Host":"unix:///s","SkipTLSVerify":false},"kubernetes":{}}}"#;
        let mut context: Context = serde_json::from_str(text).unwrap();
        context.set_description("mine");
        contexts.save(&context, None).unwrap();
        let read = contexts.get("x").unwrap();
        assert_eq!(read.endpoints.len(), 2);
        assert_eq!(read.metadata["Otel"]["a"], 1);
        assert_eq!(read.description(), "mine");
    }

    #[test]
    fn no_daemon_is_believed_without_proof() {
        let (_directory, contexts) = contexts();
        let files = |names: &[&'static str], skip: bool| {
            let material = names.iter().map(|name| (*name, b"x".to_vec())).collect();
            contexts.save(&Context::new("far"), Some(&material)).unwrap();
            let found = contexts.tls_paths("far", skip);
            found.map(|files| files.map(|files| (files.authorities.is_some(), files.identity.is_some())))
        };
        assert_eq!(files(&[], false), Ok(None));
        assert_eq!(files(&[], true), Ok(Some((false, false))));
        assert_eq!(files(&["ca.pem"], false), Ok(Some((true, false))));
        assert_eq!(files(&["ca.pem", "cert.pem", "key.pem"], false), Ok(Some((true, true))));
        assert_eq!(files(&["ca.pem", "cert.pem", "key.pem"], true), Ok(Some((false, true))));
        files(&["cert.pem", "key.pem"], false).unwrap_err();
        files(&["ca.pem", "cert.pem"], false).unwrap_err();
    }

    #[test]
    fn names_are_checked() {
        for good in ["ab", "a.b_c+d-e", "0x"] {
            check_name(good).unwrap();
        }
        for bad in ["", "default", "a", "-ab", "a b", "a/b"] {
            check_name(bad).unwrap_err();
        }
    }

    #[test]
    fn the_choice_is_kept() {
        let (_directory, contexts) = contexts();
        assert_eq!(contexts.current(), "");
        contexts.set_current("far").unwrap();
        assert_eq!(contexts.current(), "far");
        contexts.set_current("").unwrap();
        assert_eq!(contexts.current(), "");
    }
}
