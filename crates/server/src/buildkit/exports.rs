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
use palan_engine::build::{BuildOutcome, Reference};
use palan_engine::stream::Items;

use super::BuildKit;
use super::client::status;
use super::gateway::unsupported;
use super::progress::{Build, Internal};
use super::sessions::Session;

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
    /// The image's layers are compressed at once, as they otherwise are by a push.
    pub(super) compressed: bool,
}

/// Reads exporters; what one can't do is an error before anything is built.
pub(super) fn parse(exporters: &[Exporter]) -> Result<Exports, Status> {
    let mut exports = Exports::default();
    for exporter in exporters {
        // Who asks for nothing else gets that of an OCI layout.
        exports.compressed |= exporter.kind == "oci" || exporter.attrs.contains_key("compression");
        let export = match exporter.kind.as_str() {
            kind @ ("image" | "moby") => {
                let names = image(kind, &exporter.attrs)?;
                exports.image.get_or_insert_default().extend(names);
                Export::Image
            }
            kind @ ("docker" | "oci") => {
                let names = image(kind, &exporter.attrs)?;
                exports.image.get_or_insert_default();
                Export::Archive(names)
            }
            kind @ ("local" | "tar") => {
                for (attribute, value) in &exporter.attrs {
                    let is_known = match attribute.as_str() {
                        // The client's own.
                        "dest" => true,
                        "mode" => matches!(value.as_str(), "" | "copy" | "delete"),
                        "platform-split" => matches!(value.as_str(), "" | "false" | "0"),
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

/// The names that an image gets.
fn image(kind: &str, attrs: &BTreeMap<String, String>) -> Result<Vec<Reference>, Status> {
    let is_true = |value: &str| matches!(value, "" | "true" | "1");
    let is_false = |value: &str| matches!(value, "" | "false" | "0");
    for (attribute, value) in attrs {
        let is_known = match attribute.as_str() {
            "name" | "dest" => true,
            // bollard says what it would be elsewhere.
            "type" => matches!(value.as_str(), "docker" | "image" | "moby"),
            // buildx asks for the push afterwards, with the API.
            "push" => kind == "moby" || is_false(value),
            "push-by-digest" | "tar-multi" | "force-compression" | "rewrite-timestamp" => is_false(value),
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
            .or_insert_with(|| outcome.image.to_string());
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
            internal.part(&format!("writing image {}", outcome.image), 0, true);
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
                let files = self.engine.built_files(outcome).await.map_err(|error| status(&error))?;
                let root = files.root().try_clone();
                let root = root.map_err(|error| Status::new(Code::Internal, error.to_string()))?;
                let ClientCall { incoming, outgoing } =
                    session.channel.call(method::FILE_SEND_DIFF_COPY, metadata).await?;
                internal.part("copying files", 0, false);
                SendDirectory::default().run(root, incoming, outgoing).await?;
                drop(files);
                internal.part("copying files", 0, true);
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
    let descriptor = serde_json::json!({
        "mediaType": outcome.media_type,
        "digest": outcome.manifest.to_string(),
        "size": outcome.size,
    });
    let mut described = BTreeMap::from([
        ("containerimage.digest".to_owned(), outcome.manifest.to_string()),
        ("containerimage.config.digest".to_owned(), outcome.image.to_string()),
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
    }

    #[test]
    fn what_is_refused_is_named() {
        for (exporter, expected) in [
            (exporter("s3", &[]), "the exporter \"s3\""),
            (exporter("image", &[("push", "true")]), "the option push=true of the exporter image"),
            (exporter("moby", &[("compression", "zstd")]), "the option compression=zstd"),
            (exporter("local", &[("platform-split", "true")]), "the option platform-split=true"),
            (exporter("image", &[("name", "A")]), "failed to parse image name A"),
        ] {
            let error = parse(&[exporter]).expect_err("refused").message;
            assert!(error.contains(expected), "{error} instead of {expected}");
        }
    }
}
