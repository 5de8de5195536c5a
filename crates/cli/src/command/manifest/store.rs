//! Where lists are kept until they are pushed: `manifests/<list>/<image>`, a JSON document for each image, as Docker's
//! client writes them. In file names `/` is `_` and `:` is `-`.

use std::path::PathBuf;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_docker_api::client::RegistryManifest;
use palan_docker_api::types::{Descriptor, Platform};
use palan_oci::{Manifest, Reference, media_type};
use palan_stdx::atomic_file::{self, Durability};
use palan_stdx::{error_chain, fs};
use serde::{Deserialize, Serialize};

use crate::app::App;
use crate::error::{CliError, Result};
use crate::output::json;

/// An image of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) reference: Reference,
    pub(super) descriptor: Descriptor,
    pub(super) raw: String,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    #[serde(rename = "Ref")]
    reference: String,
    descriptor: Descriptor,
    #[serde(default)]
    raw: String,
}

impl Stored {
    /// An image as its registry has it.
    pub(super) fn of(
        reference: &Reference,
        answer: &RegistryManifest,
        platform: Option<&Platform>,
    ) -> Result<Self> {
        let raw = String::from_utf8(answer.raw.clone())
            .map_err(|_| CliError::new(format!("the manifest of {} is no text", reference.familiar())))?;
        let descriptor = Descriptor { platform: platform.cloned(), ..answer.descriptor.clone() };
        Ok(Self { reference: reference.clone(), descriptor, raw })
    }

    /// The document as Docker's client shows and keeps it.
    pub(super) fn to_json(&self) -> Result<String> {
        let document = Document {
            reference: self.reference.to_string(),
            descriptor: self.descriptor.clone(),
            raw: STANDARD.encode(&self.raw),
        };
        let head = serde_json::to_string(&document).map_err(|error| CliError::new(error.to_string()))?;
        let kind = match self.descriptor.media_type.as_str() {
            media_type::DOCKER_MANIFEST => "SchemaV2Manifest",
            _ => "OCIManifest",
        };
        let head = head.strip_suffix('}').unwrap_or(&head);
        Ok(format!("{head},\"{kind}\":{}}}", json::compact(&self.raw)))
    }

    fn parse(text: &str) -> Result<Self> {
        let wrong = |why: String| CliError::new(format!("a kept manifest can't be used: {why}"));
        let document: Document = serde_json::from_str(text).map_err(|error| wrong(error.to_string()))?;
        let raw = STANDARD.decode(document.raw).map_err(|error| wrong(error.to_string()))?;
        Manifest::parse(&raw, Some(&document.descriptor.media_type))
            .map_err(|error| wrong(error_chain::to_string(&error)))?;
        Ok(Self {
            reference: Reference::parse(&document.reference).map_err(|error| wrong(error.to_string()))?,
            descriptor: document.descriptor,
            raw: String::from_utf8(raw).map_err(|error| wrong(error.to_string()))?,
        })
    }
}

/// The lists of a user.
pub(super) struct Store {
    directory: PathBuf,
}

impl Store {
    pub(super) fn of(app: &App) -> Self {
        let directory = app.config().path().parent().unwrap_or(std::path::Path::new(".")).join("manifests");
        Self { directory }
    }

    fn list_directory(&self, list: &Reference) -> PathBuf {
        self.directory.join(file_name(list))
    }

    /// One image of a list.
    pub(super) fn get(&self, list: &Reference, image: &Reference) -> Result<Option<Stored>> {
        let path = self.list_directory(list).join(file_name(image));
        let text = fs::read_to_string_if_exists(&path).map_err(|error| failed(&error))?;
        text.as_deref().map(Stored::parse).transpose()
    }

    /// All images of a list, in the order of their files' names; none where there is no such list.
    pub(super) fn list(&self, list: &Reference) -> Result<Vec<Stored>> {
        let directory = self.list_directory(list);
        if !directory.is_dir() {
            return Ok(Vec::new());
        }
        let mut paths: Vec<PathBuf> = fs::read_dir(&directory)
            .map_err(|error| failed(&error))?
            .into_iter()
            .map(|entry| entry.path())
            .collect();
        paths.sort();
        let read = |path: PathBuf| Stored::parse(&fs::read_to_string(&path).map_err(|error| failed(&error))?);
        paths.into_iter().map(read).collect()
    }

    /// Keeps an image of a list.
    pub(super) fn save(&self, list: &Reference, image: &Stored) -> Result<()> {
        let directory = self.list_directory(list);
        fs::create_dir_all(&directory, 0o755).map_err(|error| failed(&error))?;
        let path = directory.join(file_name(&image.reference));
        atomic_file::write(&path, image.to_json()?.as_bytes(), 0o644, Durability::Process)
            .map_err(|error| failed(&error))
    }

    /// Forgets a list; whether there was one.
    pub(super) fn remove(&self, list: &Reference) -> Result<bool> {
        let directory = self.list_directory(list);
        if !directory.is_dir() {
            return Ok(false);
        }
        fs::remove_dir_all(&directory).map_err(|error| failed(&error))?;
        Ok(true)
    }
}

fn failed(error: &(dyn std::error::Error + 'static)) -> CliError {
    CliError::new(error_chain::to_string(error))
}

/// A reference has no component that could lead out: it was parsed.
fn file_name(reference: &Reference) -> String {
    reference.to_string().replace(':', "-").replace('/', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_is_read_again() {
        let raw = r#"{ "schemaVersion": 2, "config": {"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:HEX","size":2}, "layers": [] }"#
            .replace("HEX", &"0".repeat(64));
        let image = Stored {
            reference: Reference::parse("r.example:5000/team/app:1").unwrap(),
            descriptor: Descriptor {
                media_type: media_type::OCI_MANIFEST.to_owned(),
                digest: "sha256:00".to_owned(),
                size: 7,
                ..Descriptor::default()
            },
            raw,
        };
        let text = image.to_json().unwrap();
        assert!(text.starts_with(r#"{"Ref":"r.example:5000/team/app:1","Descriptor":{"#), "{text}");
        assert!(text.contains(r#""OCIManifest":{"schemaVersion":2,"#), "{text}");
        assert_eq!(Stored::parse(&text).unwrap(), image);
        assert_eq!(file_name(&image.reference), "r.example-5000_team_app-1");
        assert!(Stored::parse("{}").is_err());
    }
}
