//! Images.

use palan_docker_api::stream::{ProgressDetail, ProgressMessage};
use palan_docker_api::types as wire;
use palan_engine::distribution::{RegistryImage, SearchResult};
use palan_engine::image::{
    Attestation, HistoryEntry, ImageDetails, ImageRemoval, ImageSummary, ManifestKind, ManifestSummary,
    Manifests, Progress, PushedTag,
};
use palan_oci::image_config::ExecutionConfig;
use palan_oci::{ImageConfig, Platform};

use super::{container, signed, time};
use crate::error::ApiError;

pub(crate) fn summary(image: ImageSummary) -> wire::ImageSummary {
    wire::ImageSummary {
        containers: image.containers,
        created: image.created.map_or(0, |moment| moment.as_second()),
        id: image.id,
        labels: image.labels,
        repo_digests: image.repo_digests,
        repo_tags: image.repo_tags,
        parent_id: image.parent,
        descriptor: image.manifests.as_ref().map(descriptor),
        manifests: image.manifests.as_ref().map(manifests),
        shared_size: image.shared_size.map_or(-1, signed),
        size: signed(image.size),
        ..wire::ImageSummary::default()
    }
}

/// `GET /images/{name}/json`.
pub(crate) fn inspect(image: &ImageDetails) -> wire::ImageInspect {
    let config = &*image.config;
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    wire::ImageInspect {
        id: image.id.clone(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        comment: given(comment(config)),
        created: config.created.clone().unwrap_or_default(),
        docker_version: given(&config.docker_version),
        author: given(&config.author),
        config: execution_config(&config.config),
        architecture: config.architecture.clone(),
        variant: config.variant.clone(),
        os: config.os.clone(),
        os_version: config.os_version.clone(),
        size: signed(image.size),
        graph_driver: Some(graph_driver(&image.layer_dirs)),
        root_fs: wire::RootFs {
            kind: config.rootfs.kind.clone(),
            layers: config.rootfs.diff_ids.iter().map(ToString::to_string).collect(),
        },
        metadata: wire::ImageMetadata { last_tag_time: time(image.last_tagged) },
        parent: given(&image.parent),
        descriptor: Some(descriptor(&image.manifests)),
        ..wire::ImageInspect::default()
    }
}

fn descriptor(manifests: &Manifests) -> wire::Descriptor {
    wire::Descriptor {
        media_type: manifests.media_type.clone(),
        digest: manifests.digest.clone(),
        size: signed(manifests.size),
        ..wire::Descriptor::default()
    }
}

/// An image as manifests.
pub(crate) fn manifests(manifests: &Manifests) -> Vec<wire::ManifestSummary> {
    manifests.list.iter().map(manifest).collect()
}

fn manifest(manifest: &ManifestSummary) -> wire::ManifestSummary {
    let mut summary = wire::ManifestSummary {
        id: manifest.digest.clone(),
        descriptor: wire::Descriptor {
            media_type: manifest.media_type.clone(),
            digest: manifest.digest.clone(),
            size: signed(manifest.size),
            ..wire::Descriptor::default()
        },
        available: manifest.available,
        size: wire::ManifestSize {
            content: signed(manifest.content_size),
            total: signed(manifest.content_size + manifest.unpacked_size),
        },
        ..wire::ManifestSummary::default()
    };
    let platform = &manifest.platform;
    match &manifest.kind {
        ManifestKind::Image => {
            "image".clone_into(&mut summary.kind);
            summary.image_data = Some(wire::ManifestImage {
                platform: wire::Platform {
                    architecture: platform.architecture.clone(),
                    os: platform.os.clone(),
                    variant: platform.variant.clone().unwrap_or_default(),
                    ..wire::Platform::default()
                },
                containers: manifest.containers.clone(),
                size: wire::UnpackedSize { unpacked: signed(manifest.unpacked_size) },
            });
        }
        ManifestKind::Attestation(about) => {
            "attestation".clone_into(&mut summary.kind);
            summary.attestation_data = Some(wire::ManifestAttestation { about: about.clone() });
        }
    }
    summary
}

/// A statement about an image.
pub(crate) fn attestation(found: Attestation) -> wire::AttestationStatement {
    wire::AttestationStatement {
        descriptor: wire::Descriptor {
            media_type: found.descriptor.media_type,
            digest: found.descriptor.digest.to_string(),
            size: signed(found.descriptor.size),
            annotations: found.descriptor.annotations,
            ..wire::Descriptor::default()
        },
        predicate_type: found.predicate_type,
        statement: found.statement,
    }
}

/// The image's comment, else that of its last step, as Docker shows it.
fn comment(config: &ImageConfig) -> &String {
    match config.history.last() {
        Some(step) if config.comment.is_empty() => &step.comment,
        _ => &config.comment,
    }
}

/// The topmost layer is the image's own, those below it are its lower ones.
fn graph_driver(layers: &[String]) -> wire::GraphDriver {
    let mut data = wire::StringMap::new();
    if let Some((top, lower)) = layers.split_first() {
        data.insert("UpperDir".to_owned(), top.clone());
        if !lower.is_empty() {
            data.insert("LowerDir".to_owned(), lower.join(":"));
        }
    }
    wire::GraphDriver { data, name: container::STORAGE_DRIVER.to_owned() }
}

fn execution_config(config: &ExecutionConfig) -> wire::ImageConfig {
    let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let set = |names: &std::collections::BTreeMap<String, palan_oci::image_config::Empty>| {
        names.keys().map(|name| (name.clone(), wire::Empty {})).collect::<wire::StringSet>()
    };
    wire::ImageConfig {
        user: given(&config.user),
        exposed_ports: set(&config.exposed_ports),
        env: config.env.clone().into(),
        cmd: config.cmd.clone().unwrap_or_default().into(),
        healthcheck: config.healthcheck.as_ref().map(|check| super::config::health_check(&check.into())),
        args_escaped: config.args_escaped,
        volumes: set(&config.volumes).into(),
        working_dir: given(&config.working_dir),
        entrypoint: config.entrypoint.clone().unwrap_or_default().into(),
        on_build: config.on_build.clone().into(),
        labels: config.labels.clone().into(),
        stop_signal: config.stop_signal.clone(),
        shell: config.shell.clone().unwrap_or_default(),
        ..wire::ImageConfig::default()
    }
}

pub(crate) fn history(entry: HistoryEntry) -> wire::HistoryItem {
    wire::HistoryItem {
        comment: entry.comment,
        created: entry.created.map_or(0, |moment| moment.as_second()),
        created_by: entry.created_by,
        id: entry.id,
        size: signed(entry.size),
        tags: entry.tags,
    }
}

pub(crate) fn removal(removal: ImageRemoval) -> wire::ImageDeleteItem {
    match removal {
        ImageRemoval::Untagged(untagged) => wire::ImageDeleteItem { untagged, deleted: String::new() },
        ImageRemoval::Deleted(deleted) => wire::ImageDeleteItem { deleted, untagged: String::new() },
    }
}

pub(crate) fn search_result(result: SearchResult) -> wire::SearchResult {
    wire::SearchResult {
        star_count: result.star_count,
        is_official: result.is_official,
        name: result.name,
        is_automated: false,
        description: result.description,
    }
}

/// `GET /distribution/{name}/manifest`.
pub(crate) fn registry_manifest(image: RegistryImage) -> wire::RegistryManifest {
    let raw = palan_docker_api::json::to_base64(&image.body);
    let wire::DistributionInspect { descriptor, platforms } = distribution(image);
    wire::RegistryManifest { descriptor, platforms, raw }
}

/// `GET /distribution/{name}/json`.
pub(crate) fn distribution(image: RegistryImage) -> wire::DistributionInspect {
    let descriptor = wire::Descriptor {
        media_type: image.descriptor.media_type,
        digest: image.descriptor.digest.to_string(),
        size: signed(image.descriptor.size),
        ..wire::Descriptor::default()
    };
    let platform = |platform: Platform| wire::Platform {
        architecture: platform.architecture,
        os: platform.os,
        os_version: platform.os_version.unwrap_or_default(),
        os_features: platform.os_features,
        variant: platform.variant.unwrap_or_default(),
    };
    wire::DistributionInspect { descriptor, platforms: image.platforms.into_iter().map(platform).collect() }
}

/// A platform as JSON of the OCI specification, which some requests have as a parameter.
pub(crate) fn platform(text: &str) -> Result<Platform, ApiError> {
    let wrong = |why: &str| ApiError::invalid(format!("failed to parse platform: {why}"));
    let platform: Platform = serde_json::from_str(text).map_err(|error| wrong(&error.to_string()))?;
    match (platform.os.is_empty(), platform.architecture.is_empty()) {
        (false, false) => Ok(platform.normalised()),
        (true, true) if platform.variant.is_some() || platform.os_version.is_some() => {
            Err(ApiError::invalid("optional platform fields provided, but OS and Architecture are missing"))
        }
        _ => Err(ApiError::invalid("both OS and Architecture must be provided")),
    }
}

/// One line of a pull, push, load or import. A line about a layer always has the detail, if only an empty one.
pub(crate) fn progress(progress: Progress) -> ProgressMessage {
    if let Some(stream) = progress.stream {
        return ProgressMessage { stream, ..ProgressMessage::default() };
    }
    if let Some(pushed) = progress.pushed {
        let PushedTag { tag, digest, size } = pushed;
        let aux = serde_json::to_value(wire::PushedTag { tag, digest, size }).ok();
        return ProgressMessage {
            progress_detail: Some(ProgressDetail::default()),
            aux,
            ..ProgressMessage::default()
        };
    }
    let counted = progress.current.is_some() || progress.total.is_some();
    let is_layer = progress.id.len() == 12 && progress.id.bytes().all(|b| b.is_ascii_hexdigit());
    let detail = ProgressDetail {
        current: signed(progress.current.unwrap_or(0)),
        total: signed(progress.total.unwrap_or(0)),
        ..ProgressDetail::default()
    };
    ProgressMessage {
        status: progress.status,
        progress_detail: (counted || is_layer).then_some(detail),
        id: progress.id,
        ..ProgressMessage::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_lines() {
        let line = |p: Progress| serde_json::to_string(&progress(p)).unwrap();
        let from =
            Progress { id: "latest".into(), status: "Pulling from library/a".into(), ..Progress::default() };
        assert_eq!(line(from), r#"{"status":"Pulling from library/a","id":"latest"}"#);
        let layer = |current| Progress {
            id: "0123456789ab".into(),
            status: "S".into(),
            current,
            total: current,
            ..Progress::default()
        };
        assert_eq!(line(layer(None)), r#"{"status":"S","progressDetail":{},"id":"0123456789ab"}"#);
        assert_eq!(
            line(layer(Some(7))),
            r#"{"status":"S","progressDetail":{"current":7,"total":7},"id":"0123456789ab"}"#
        );
        let pushed = PushedTag { tag: "1".into(), digest: "sha256:00".into(), size: 5 };
        let aux = Progress { pushed: Some(pushed), ..Progress::default() };
        assert_eq!(line(aux), r#"{"progressDetail":{},"aux":{"Digest":"sha256:00","Size":5,"Tag":"1"}}"#);
        let text = Progress { stream: Some("Loaded image: a\n".into()), ..Progress::default() };
        assert_eq!(line(text), r#"{"stream":"Loaded image: a\n"}"#);
    }

    #[test]
    fn platforms_as_json() {
        let text = |json: &str| platform(json).map(|platform| platform.to_string());
        assert_eq!(text(r#"{"os":"linux","architecture":"arm","variant":"v5"}"#), Ok("linux/arm/v5".into()));
        assert_eq!(
            text(r#"{"os":"linux"}"#),
            Err(ApiError::invalid("both OS and Architecture must be provided"))
        );
        assert!(text("linux/arm").is_err());
    }
}
