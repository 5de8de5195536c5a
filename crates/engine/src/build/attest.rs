//! Statements about images: provenance and lists of packages, as BuildKit attaches them.
//!
//! ```text
//! index ─┬─ manifest of linux/amd64 ◀────────────────────────────────┐ subject, annotation
//!        └─ manifest of statements (platform unknown/unknown) ───────┘
//!             ├─ config: an image configuration without anything to run
//!             └─ layers: in-toto statements (application/vnd.in-toto+json), each with its predicate's type as an annotation
//! ```
//! The provenance is what this builder knows itself: what was asked for, and the materials whose digests it pinned. Files of the client's
//! have no digest that means anything elsewhere, so it says that the materials are not complete. The list of packages is `palan_sbom`'s.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use palan_builder::backend::{Sources, StepError};
use palan_builder::cancel::Cancel;
use palan_builder::graph::{Input, MountKind, Op, Plan, Remote};
use palan_dockerfile::ast::Network;
use palan_oci::image_config::ImageConfig;
use palan_oci::{Descriptor, Digest, Manifest, Platform, Reference, media_type};
use serde::Serialize;
use serde_json::{Value, json};

use super::provenance;
use super::request::Attestations;
use crate::error::Context as _;
use crate::image::list::{REFERENCE_DIGEST, REFERENCE_TYPE};
use crate::{Error, Result};

/// The media type of a statement.
pub(crate) const STATEMENT: &str = "application/vnd.in-toto+json";
/// The annotation with the type of a statement's predicate.
pub(crate) const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";
/// What a manifest of statements is, in its index.
const KIND: &str = "attestation-manifest";
/// The same for registries, where statements are found by what they are about.
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
/// The configuration of what has none.
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
const EMPTY_CONTENT: &[u8] = b"{}";
/// What a list of packages calls what it is about.
const NAME: &str = "sbom";

/// Name, platform and digest of an image that a build stands on.
pub(super) type UsedImage = (String, String, Digest);

/// What an image was made of.
#[derive(Debug, Clone, Default)]
pub(super) struct Materials {
    /// Names, platforms and digests of images.
    pub(super) images: Vec<UsedImage>,
    /// Downloads and repositories: where, and what they were by which digest.
    pub(super) remotes: Vec<(String, Option<(&'static str, String)>)>,
    /// Contexts of the client's.
    pub(super) locals: BTreeSet<String>,
    /// Secrets and agents by their names; whether the build went on without.
    pub(super) secrets: BTreeMap<String, bool>,
    pub(super) agents: BTreeMap<String, bool>,
    /// A command had a network.
    pub(super) has_network: bool,
}

impl Materials {
    /// Collects them of a plan that was solved.
    pub(super) fn of(
        plan: &Plan,
        images: Vec<UsedImage>,
        sources: &dyn Sources,
        cancel: &Cancel,
    ) -> Result<Self, StepError> {
        let mut materials = Self { images, ..Self::default() };
        for vertex in &plan.vertices {
            for input in &vertex.inputs {
                if let Input::Context(name) = input {
                    materials.locals.insert(if name.is_empty() {
                        "context".to_owned()
                    } else {
                        name.clone()
                    });
                }
            }
            match &vertex.op {
                Op::Remote(remote @ Remote::Http { url, .. }) => {
                    let digest = sources.pin(remote, cancel)?;
                    let url = palan_context::remote::redacted(url);
                    materials.remotes.push((url, Some(("sha256", digest.hex().to_owned()))));
                }
                Op::Remote(Remote::Git { remote, reference, checksum, .. }) => {
                    let reference = reference.as_ref().map(|name| format!("#{name}")).unwrap_or_default();
                    let url = format!("{}{reference}", palan_context::remote::redacted(remote));
                    // Only a whole commit is a digest.
                    let commit = checksum.clone().filter(|commit| commit.len() == 40);
                    materials.remotes.push((url, commit.map(|commit| ("sha1", commit))));
                }
                Op::Run(run) => {
                    materials.has_network |= run.network != Network::None;
                    for mount in &run.mounts {
                        match &mount.kind {
                            MountKind::Secret { id, required, .. } => {
                                materials.secrets.insert(id.clone(), !required);
                            }
                            MountKind::Ssh { id, required, .. } => {
                                materials.agents.insert(id.clone(), !required);
                            }
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        materials.remotes.sort();
        materials.remotes.dedup();
        Ok(materials)
    }
}

/// The list of packages of what was built.
pub(super) fn packages(
    root: &palan_linux::path::RootDir,
    created: Timestamp,
    cancel: &Cancel,
) -> Result<Value> {
    let is_over = || cancel.is_cancelled();
    let found = palan_sbom::scan(root, &is_over)
        .map_err(|source| Error::system("cannot list the packages of the image").with_source(source))?;
    let created = Timestamp::from_second(created.as_second()).unwrap_or(created);
    let tool = concat!("palan-", env!("CARGO_PKG_VERSION"));
    let document = palan_sbom::document(&found, NAME, &created.to_string(), tool);
    serde_json::to_value(document).context(|| "cannot write the list of packages".into())
}

/// Everything that statements about one image are made of.
#[derive(Debug)]
pub(super) struct About<'a> {
    pub(super) platform: &'a Platform,
    pub(super) manifest: &'a Descriptor,
    pub(super) names: &'a [Reference],
    pub(super) materials: &'a Materials,
    pub(super) packages: Option<&'a Value>,
    pub(super) dockerfile: (&'a str, &'a [u8]),
    pub(super) started: Timestamp,
    pub(super) finished: Timestamp,
}

/// A manifest of statements, with what it names.
#[derive(Debug)]
pub(super) struct Statements {
    pub(super) entry: Descriptor,
    pub(super) papers: Vec<Vec<u8>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Statement<'a> {
    #[serde(rename = "_type")]
    kind: &'static str,
    predicate_type: &'a str,
    subject: Vec<Value>,
    predicate: &'a Value,
}

/// Writes statements, if any are wanted.
pub(super) fn statements(wanted: &Attestations, about: &About<'_>) -> Result<Option<Statements>> {
    let mut predicates: Vec<(&str, Value)> = Vec::new();
    if let Some(packages) = about.packages {
        predicates.push((palan_sbom::PREDICATE, packages.clone()));
    }
    if let Some(provenance) = &wanted.provenance {
        predicates.push((provenance.version.predicate(), provenance::predicate(provenance, about)));
    }
    if predicates.is_empty() {
        return Ok(None);
    }
    let digest = json!({ "sha256": about.manifest.digest.hex() });
    let subject: Vec<Value> = about
        .names
        .iter()
        .map(|name| json!({ "name": provenance::purl("docker", name, Some(about.platform)), "digest": digest }))
        .collect();
    let mut papers = Vec::new();
    let mut layers = Vec::new();
    for (kind, predicate) in &predicates {
        let statement = Statement {
            kind: "https://in-toto.io/Statement/v1",
            predicate_type: kind,
            subject: subject.clone(),
            predicate,
        };
        let content =
            serde_json::to_vec(&statement).context(|| "cannot write a statement about the image".into())?;
        let mut layer = Descriptor::of(STATEMENT, &content);
        layer.annotations.insert(PREDICATE_TYPE.to_owned(), (*kind).to_owned());
        layers.push(layer);
        papers.push(content);
    }
    let mut manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.to_owned()),
        artifact_type: None,
        config: Descriptor::of(EMPTY, EMPTY_CONTENT),
        layers,
        subject: None,
        annotations: BTreeMap::new(),
    };
    let mut config = EMPTY_CONTENT.to_vec();
    if wanted.as_artifacts {
        manifest.artifact_type = Some(ARTIFACT.to_owned());
        manifest.subject = Some(about.manifest.clone());
    } else {
        let platform = nobodys();
        let mut image =
            ImageConfig { architecture: platform.architecture, os: platform.os, ..ImageConfig::default() };
        "layers".clone_into(&mut image.rootfs.kind);
        image.rootfs.diff_ids = manifest.layers.iter().map(|layer| layer.digest).collect();
        config =
            serde_json::to_vec(&image).context(|| "cannot write the statements' configuration".into())?;
        manifest.config = Descriptor::of(media_type::OCI_CONFIG, &config);
    }
    let manifest =
        serde_json::to_vec(&manifest).context(|| "cannot write the statements' manifest".into())?;
    let mut entry = Descriptor::of(media_type::OCI_MANIFEST, &manifest);
    entry.annotations.insert(REFERENCE_TYPE.to_owned(), KIND.to_owned());
    entry.annotations.insert(REFERENCE_DIGEST.to_owned(), about.manifest.digest.to_string());
    entry.platform = Some(nobodys());
    papers.extend([config, manifest]);
    Ok(Some(Statements { entry, papers }))
}

/// What statements run on.
fn nobodys() -> Platform {
    let unknown = "unknown".to_owned();
    Platform {
        architecture: unknown.clone(),
        os: unknown,
        variant: None,
        os_version: None,
        os_features: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::Provenance;
    use super::*;

    #[test]
    fn statements_name_the_image_and_are_named_by_their_manifest() {
        let manifest = Descriptor::of(media_type::OCI_MANIFEST, b"manifest");
        let packages = json!({ "spdxVersion": "SPDX-2.3" });
        let about = About {
            platform: &Platform::host(),
            manifest: &manifest,
            names: &[Reference::parse("a/b:1").expect("a name")],
            materials: &Materials::default(),
            packages: Some(&packages),
            dockerfile: ("Dockerfile", b""),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
        };
        let mut wanted = Attestations { provenance: Some(Provenance::default()), ..Attestations::default() };
        let made = statements(&wanted, &about).expect("statements").expect("some");
        assert_eq!(made.entry.annotations[REFERENCE_DIGEST], manifest.digest.to_string());
        assert_eq!(made.papers.len(), 4);
        let parsed = Manifest::parse(&made.papers[3], None).expect("a manifest");
        let kinds: Vec<&String> =
            parsed.layers.iter().map(|layer| &layer.annotations[PREDICATE_TYPE]).collect();
        assert_eq!(kinds, ["https://spdx.dev/Document", "https://slsa.dev/provenance/v1"]);
        let statement: Value = serde_json::from_slice(&made.papers[0]).expect("JSON");
        assert_eq!(statement["subject"][0]["digest"]["sha256"], manifest.digest.hex());
        assert_eq!(statement["predicate"], packages);
        wanted.as_artifacts = true;
        let made = statements(&wanted, &about).expect("statements").expect("some");
        let parsed = Manifest::parse(&made.papers[3], None).expect("a manifest");
        assert_eq!(parsed.subject.expect("a subject").digest, manifest.digest);
        assert_eq!(made.papers[2], b"{}");
        assert!(
            statements(&Attestations::default(), &About { packages: None, ..about }).expect("none").is_none()
        );
    }
}
