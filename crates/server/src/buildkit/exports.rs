//! Where the result of a build goes.

use std::collections::BTreeMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use palan_buildkit::fsutil::Send as SendDirectory;
use palan_buildkit::grpc::{ClientCall, Code, HeaderName, HeaderValue, Metadata, Status, metadata};
use palan_buildkit::message::control::Exporter;
use palan_buildkit::message::session::{BytesMessage, metadata as name, method};
use palan_engine::build::{Annotations, BuildOutcome, BuiltImage, Reference};
use palan_engine::stream::Items;

use super::BuildKit;
use super::client::status;
use super::gateway::unsupported;
use super::progress::{Build, Internal};
use super::sessions::Session;

/// What the options begin with that are annotations.
const ANNOTATION: &str = "annotation";

/// One of a build's results.
#[derive(Debug, PartialEq)]
pub(super) enum Export {
    /// An image in the store.
    Image,
    /// A directory of the client's.
    Directory,
    /// An archive of the files.
    Tar,
    /// Nothing: the result stays in the cache, where every result is.
    Nothing,
    /// An archive of the image, with the names it has there.
    Archive(Vec<Reference>),
}

/// All of a build's results.
#[derive(Debug, Default)]
pub(super) struct Exports {
    /// By the numbers that the client knows them by.
    pub(super) list: Vec<Export>,
    /// The image is recorded, with these names.
    pub(super) image: Option<Vec<Reference>>,
    /// No file of its own layers is later than the build's epoch.
    pub(super) rewrite_times: bool,
    /// `source-date-epoch`, over the build argument.
    pub(super) epoch: Option<String>,
    /// Files are in a directory for each platform, or are not.
    pub(super) split: Option<bool>,
    /// Statements about images are artifacts of their own kind.
    pub(super) as_artifacts: bool,
    /// Remarks in images' documents.
    pub(super) annotations: Annotations,
    /// What is in the client's directory besides is removed.
    pub(super) mirror: bool,
    /// The image's layers are compressed at once, as they otherwise are by a push.
    pub(super) compressed: bool,
}

impl Exports {
    /// Whether files are handed out, and not only images.
    pub(super) fn has_files(&self) -> bool {
        self.list.iter().any(|export| matches!(export, Export::Directory | Export::Tar))
    }
}

/// Reads exporters; what one can't do is an error before anything is built.
pub(super) fn parse(exporters: &[Exporter]) -> Result<Exports, Status> {
    let mut exports = Exports::default();
    for exporter in exporters {
        // Who asks for nothing else gets that of an OCI layout.
        if let Some(epoch) = exporter.attrs.get("source-date-epoch") {
            exports.epoch = Some(epoch.clone());
        }
        exports.as_artifacts |= exporter.attrs.get("oci-artifact").is_some_and(|value| is_true(value));
        exports.rewrite_times |= exporter.attrs.get("rewrite-timestamp").is_some_and(|value| is_true(value));
        exports.compressed |= exporter.kind == "oci" || exporter.attrs.contains_key("compression");
        let export = match exporter.kind.as_str() {
            kind @ ("image" | "moby") => {
                annotate(&mut exports.annotations, &exporter.attrs)?;
                let names = image(kind, &exporter.attrs)?;
                exports.image.get_or_insert_default().extend(names);
                Export::Image
            }
            kind @ ("docker" | "oci") => {
                annotate(&mut exports.annotations, &exporter.attrs)?;
                let names = image(kind, &exporter.attrs)?;
                exports.image.get_or_insert_default();
                Export::Archive(names)
            }
            kind @ ("local" | "tar") => {
                for (attribute, value) in &exporter.attrs {
                    let is_known = match attribute.as_str() {
                        // The client's own.
                        "dest" | "source-date-epoch" => true,
                        "mode" => {
                            exports.mirror |= value == "delete";
                            matches!(value.as_str(), "" | "copy" | "delete")
                        }
                        "platform-split" => {
                            exports.split = Some(is_true(value));
                            matches!(value.as_str(), "" | "true" | "1" | "false" | "0")
                        }
                        _ => false,
                    };
                    if !is_known {
                        return Err(option(kind, attribute, value));
                    }
                }
                if kind == "tar" { Export::Tar } else { Export::Directory }
            }
            "cacheonly" => Export::Nothing,
            other => return Err(unsupported(&format!("the exporter {other:?}"))),
        };
        exports.list.push(export);
    }
    Ok(exports)
}

fn option(kind: &str, name: &str, value: &str) -> Status {
    unsupported(&format!("the option {name}={value} of the exporter {kind}"))
}

fn is_true(value: &str) -> bool {
    matches!(value, "" | "true" | "1")
}

/// `annotation[-<where>].<name>`; of a single platform there is none.
fn annotate(annotations: &mut Annotations, attrs: &BTreeMap<String, String>) -> Result<(), Status> {
    for (attribute, value) in attrs {
        let Some(rest) = attribute.strip_prefix(ANNOTATION) else { continue };
        let (place, name) = rest.split_once('.').unwrap_or((rest, ""));
        let map = match place {
            _ if name.is_empty() => return Err(unsupported(&format!("the annotation {attribute:?}"))),
            "" | "-manifest" => &mut annotations.manifest,
            "-manifest-descriptor" => &mut annotations.manifest_descriptor,
            "-index" => &mut annotations.index,
            _ => return Err(unsupported(&format!("the annotation {attribute:?}"))),
        };
        map.insert(name.to_owned(), value.clone());
    }
    Ok(())
}

/// The names that an image gets.
fn image(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Vec<Reference>, Status> {
    let is_false = |value: &str| matches!(value, "" | "false" | "0");
    for (attribute, value) in attrs {
        let is_known = match attribute.as_str() {
            "name" | "dest" => true,
            // bollard says what it would be elsewhere.
            "type" => matches!(value.as_str(), "docker" | "image" | "moby"),
            // buildx asks for the push afterwards, with the API.
            "push" => kind == "moby" || is_false(value),
            "push-by-digest" | "tar-multi" | "force-compression" => is_false(value),
            "rewrite-timestamp" => is_true(value) || is_false(value),
            "source-date-epoch" => true,
            "tar" => is_true(value),
            "compression" => value == "gzip",
            // What every image here is.
            "store" | "unpack" | "name-canonical" | "prefer-image-digest" => true,
            // Of what there is none.
            "attestation-inline"
            | "inline-attestations"
            | "force-inline-attestations"
            | "buildinfo-attrs"
            | "oci-artifact" => true,
            "dangling-name-prefix" => value.is_empty(),
            // Read by `annotate`.
            name if name.starts_with(ANNOTATION) => true,
            _ => false,
        };
        if !is_known {
            return Err(option(kind, attribute, value));
        }
    }
    let names = attrs.get("name").map(String::as_str).unwrap_or_default();
    let names = names.split(',').filter(|name| !name.is_empty());
    let parse = |name: &str| {
        Reference::parse(name).map_err(|error| {
            Status::new(Code::InvalidArgument, format!("failed to parse image name {name}: {error}"))
        })
    };
    names.map(parse).collect()
}

impl BuildKit {
    /// Sends a result to where it is wanted, and tells what the client is told of it.
    pub(super) async fn export(
        &self,
        exports: &Exports,
        build: &Arc<Build>,
        session: Option<&Arc<Session>>,
        outcome: &BuildOutcome,
    ) -> Result<BTreeMap<String, String>, Status> {
        let mut response = BTreeMap::new();
        let mut outcome = outcome.clone();
        match exports.split {
            // All in one place: with one platform there is nothing that could meet.
            Some(false) if outcome.images.len() > 1 => {
                return Err(unsupported("platform-split=false with several platforms"));
            }
            Some(split) => outcome.several = split,
            None => {}
        }
        if exports.mirror && outcome.images.len() > 1 {
            return Err(unsupported("mode=delete with several platforms"));
        }
        if exports.compressed && exports.image.is_some() {
            let internal = Internal::begin(build, "compressing layers", None);
            let compressed = self.engine.compress_built(&mut outcome).await;
            internal.end(compressed.map_err(|error| status(&error)))?;
        }
        let outcome = &outcome;
        if exports.image.is_some() {
            response.extend(described(outcome));
        }
        for (number, export) in exports.list.iter().enumerate() {
            let title = match export {
                Export::Nothing => continue,
                Export::Image => "exporting to image",
                Export::Directory | Export::Tar => "exporting to client",
                Export::Archive(_) => "exporting to oci image format",
            };
            let internal = Internal::begin(build, title, None);
            let exported = self.export_one(export, number, &internal, session, outcome).await;
            internal.end(exported)?;
        }
        // A build that had nothing to say was built all the same.
        response
            .entry("containerimage.config.digest".to_owned())
            .or_insert_with(|| outcome.image().image.to_string());
        Ok(response)
    }

    async fn export_one(
        &self,
        export: &Export,
        number: usize,
        internal: &Internal,
        session: Option<&Arc<Session>>,
        outcome: &BuildOutcome,
    ) -> Result<(), Status> {
        if *export == Export::Image {
            internal.part("exporting layers", 0, true);
            for image in &outcome.images {
                internal.part(&format!("writing image {}", image.image), 0, true);
            }
            if let Some(index) = &outcome.index {
                internal.part(&format!("exporting manifest list {}", index.digest), 0, true);
            }
            for name in &outcome.names {
                internal.part(&format!("naming to {name}"), 0, true);
            }
            return Ok(());
        }
        let session = session.ok_or_else(|| {
            Status::new(Code::FailedPrecondition, "the build has no session that its result could be sent to")
        })?;
        if !session.supports(method::FILE_SEND_DIFF_COPY) {
            let text = format!("method {} not supported by the client", method::FILE_SEND_DIFF_COPY);
            return Err(Status::new(Code::FailedPrecondition, text));
        }
        let mut metadata = metadata(&[(name::EXPORTER_ID, &number.to_string()), (name::MULTI_PLATFORM, "1")]);
        let archive = match export {
            Export::Directory => {
                for image in &outcome.images {
                    let directory = outcome.several.then(|| image.directory());
                    self.send_files(image, directory, outcome, session, &metadata, internal).await?;
                }
                return Ok(());
            }
            Export::Archive(names) => {
                for (key, value) in described(outcome) {
                    said(&mut metadata, &key, &value);
                }
                self.engine.save_built(outcome, names.clone()).await
            }
            _ => self.engine.built_archive(outcome).await,
        };
        let archive = archive.map_err(|error| status(&error))?;
        let call = session.channel.call(method::FILE_SEND_DIFF_COPY, metadata).await?;
        send_archive(archive, call, internal).await
    }
}

impl BuildKit {
    /// Sends the files of one platform.
    async fn send_files(
        &self,
        image: &BuiltImage,
        directory: Option<String>,
        outcome: &BuildOutcome,
        session: &Session,
        metadata: &Metadata,
        internal: &Internal,
    ) -> Result<(), Status> {
        let what = match &directory {
            Some(_) => format!("copying files {}", image.platform),
            None => "copying files".to_owned(),
        };
        let files = self.engine.built_files(image).await.map_err(|error| status(&error))?;
        let root =
            files.root().try_clone().map_err(|error| Status::new(Code::Internal, error.to_string()))?;
        let call = session.channel.call(method::FILE_SEND_DIFF_COPY, metadata.clone()).await?;
        let ClientCall { incoming, outgoing } = call;
        internal.part(&what, 0, false);
        let time = outcome.epoch.and_then(|epoch| i64::try_from(epoch.as_nanosecond()).ok());
        let send = SendDirectory { time, directory, ..SendDirectory::default() };
        send.run(root, incoming, outgoing).await?;
        drop(files);
        internal.part(&what, 0, true);
        Ok(())
    }
}

/// Tells the client about a file.
fn said(metadata: &mut Metadata, key: &str, value: &str) {
    let name = HeaderName::try_from(format!("{}{key}", name::EXPORTER_PREFIX));
    if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
        metadata.insert(name, value);
    }
}

async fn send_archive(
    mut archive: Items<Bytes>,
    call: ClientCall,
    internal: &Internal,
) -> Result<(), Status> {
    let ClientCall { outgoing, mut incoming } = call;
    let mut sent = 0;
    while let Some(piece) = archive.next().await {
        // Dropping the call breaks it off, so that nobody takes a part for the whole.
        let data = piece.map_err(|error| status(&error))?;
        sent += data.len() as u64;
        if outgoing.send(&BytesMessage { data }).await.is_err() {
            break;
        }
    }
    drop(outgoing);
    // The client's end says whether it has all.
    while incoming.next::<BytesMessage>().await?.is_some() {}
    internal.part("sending tarball", sent, true);
    Ok(())
}

/// What an image is, in BuildKit's names.
fn described(outcome: &BuildOutcome) -> BTreeMap<String, String> {
    let top = outcome.top();
    let mut descriptor = serde_json::json!({
        "mediaType": top.media_type,
        "digest": top.digest.to_string(),
        "size": top.size,
    });
    if outcome.index.is_none() {
        descriptor["platform"] = serde_json::json!(outcome.image().config.platform());
    }
    let mut described = BTreeMap::from([
        ("containerimage.digest".to_owned(), top.digest.to_string()),
        ("containerimage.config.digest".to_owned(), outcome.image().image.to_string()),
        ("containerimage.descriptor".to_owned(), STANDARD.encode(descriptor.to_string())),
    ]);
    if !outcome.names.is_empty() {
        let names: Vec<String> = outcome.names.iter().map(ToString::to_string).collect();
        described.insert("image.name".to_owned(), names.join(","));
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exporter(kind: &str, attrs: &[(&str, &str)]) -> Exporter {
        let attrs = attrs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Exporter { kind: kind.to_owned(), attrs: attrs.collect() }
    }

    #[test]
    fn what_clients_ask_for() {
        let exports = parse(&[
            exporter("moby", &[("name", "a,b:1"), ("push", "true")]),
            exporter("local", &[("dest", "out")]),
            exporter("docker", &[("name", "c")]),
            exporter("cacheonly", &[]),
            exporter("tar", &[]),
        ])
        .expect("exports");
        let names = |names: &Option<Vec<Reference>>| -> Vec<String> {
            names.iter().flatten().map(Reference::familiar).collect()
        };
        assert_eq!(names(&exports.image), ["a", "b:1"]);
        // Clients know each by its number.
        assert_eq!(exports.list.len(), 5);
        assert_eq!((&exports.list[3], &exports.list[4]), (&Export::Nothing, &Export::Tar));
        assert!(matches!(&exports.list[2], Export::Archive(names) if names.len() == 1));
        assert!(!exports.compressed);
        for exporter in [exporter("oci", &[]), exporter("moby", &[("compression", "gzip")])] {
            assert!(parse(&[exporter]).expect("exports").compressed);
        }
        assert!(parse(&[]).expect("none").image.is_none());
        let attrs =
            [("annotation.a.b", "c"), ("annotation-index.d", "e"), ("annotation-manifest-descriptor.f", "g")];
        let annotations = parse(&[exporter("oci", &attrs)]).expect("exports").annotations;
        let of = |map: &BTreeMap<String, String>| format!("{map:?}");
        assert_eq!(of(&annotations.manifest), r#"{"a.b": "c"}"#);
        assert_eq!(of(&annotations.index), r#"{"d": "e"}"#);
        assert_eq!(of(&annotations.manifest_descriptor), r#"{"f": "g"}"#);
    }

    #[test]
    fn what_is_refused_is_named() {
        for (exporter, expected) in [
            (exporter("s3", &[]), "the exporter \"s3\""),
            (exporter("image", &[("push", "true")]), "the option push=true of the exporter image"),
            (exporter("moby", &[("compression", "zstd")]), "the option compression=zstd"),
            (exporter("local", &[("platform-split", "perhaps")]), "the option platform-split=perhaps"),
            (exporter("image", &[("name", "A")]), "failed to parse image name A"),
            (
                exporter("oci", &[("annotation-index-descriptor.a", "b")]),
                "the annotation \"annotation-index-descriptor.a\"",
            ),
            (
                exporter("oci", &[("annotation[linux/arm64].a", "b")]),
                "the annotation \"annotation[linux/arm64].a\"",
            ),
        ] {
            let error = parse(&[exporter]).expect_err("refused").message;
            assert!(error.contains(expected), "{error} instead of {expected}");
        }
    }
}
