//! SLSA provenance of an image, in the words of BuildKit's build type: v1, and v0.2 made of it.
//!
//! `mode=min` leaves out build arguments, labels, secrets and the Dockerfile, and says that the request is not complete; `mode=max` has
//! them. Steps are not told in BuildKit's form (LLB), which does not exist here.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_oci::{Platform, Reference};
use serde_json::{Map, Value, json};

use super::attest::About;
use super::request::{Provenance, ProvenanceVersion};

/// What the words of the request mean.
const BUILD_TYPE: &str = "https://github.com/moby/buildkit/blob/master/docs/attestations/slsa-definitions.md";
const BUILD_TYPE_02: &str = "https://mobyproject.org/buildkit@v1";

impl ProvenanceVersion {
    /// What statements call such a predicate.
    pub(super) fn predicate(self) -> &'static str {
        match self {
            Self::V1 => "https://slsa.dev/provenance/v1",
            Self::V02 => "https://slsa.dev/provenance/v0.2",
        }
    }
}

/// An image's package URL.
pub(super) fn purl(kind: &str, name: &Reference, platform: Option<&Platform>) -> String {
    let named = name.clone().or_latest();
    let encode =
        |text: &str| text.replace('%', "%25").replace(':', "%3A").replace('/', "%2F").replace('@', "%40");
    let familiar = named.familiar_name();
    let mut url = format!("pkg:{kind}/{}", familiar.split('/').map(encode).collect::<Vec<_>>().join("/"));
    if let Some(tag) = named.tag() {
        url.push('@');
        url.push_str(&encode(tag));
    }
    let digest = named.digest().map(|digest| format!("digest={digest}"));
    let platform = platform.map(|platform| format!("platform={}", encode(&platform.to_string())));
    let qualifiers: Vec<String> = digest.into_iter().chain(platform).collect();
    if !qualifiers.is_empty() {
        url.push('?');
        url.push_str(&qualifiers.join("&"));
    }
    url
}

/// The predicate.
pub(super) fn predicate(wanted: &Provenance, about: &About<'_>) -> Value {
    match wanted.version {
        ProvenanceVersion::V1 => v1(wanted, about),
        ProvenanceVersion::V02 => v02(wanted, about),
    }
}

/// What both versions have, under names of their own.
struct Facts {
    materials: Vec<Value>,
    request: Map<String, Value>,
    source: Map<String, Value>,
    details: Map<String, Value>,
    is_request_complete: bool,
    are_materials_complete: bool,
}

fn facts(wanted: &Provenance, about: &About<'_>) -> Facts {
    let materials = about.materials;
    let mut list = Vec::new();
    for (name, platform, digest) in &materials.images {
        let Ok(name) = Reference::parse(name) else { continue };
        let uri = purl("docker", &name, platform.parse().ok().as_ref());
        list.push(json!({ "uri": uri, "digest": { "sha256": digest.hex() } }));
    }
    for (uri, digest) in &materials.remotes {
        list.push(match digest {
            Some((kind, digest)) => json!({ "uri": uri, "digest": { (*kind): digest } }),
            None => json!({ "uri": uri }),
        });
    }
    let mut is_request_complete = true;
    let mut arguments = Map::new();
    let mut vcs = Map::new();
    let mut source = Map::new();
    for (name, value) in &wanted.parameters {
        if let Some(name) = name.strip_prefix("vcs:") {
            if !value.is_empty() {
                let value =
                    if name == "source" { palan_context::remote::redacted(value) } else { value.clone() };
                vcs.insert(name.to_owned(), value.into());
            }
            continue;
        }
        match name.as_str() {
            "context" => drop(source.insert("uri".to_owned(), palan_context::remote::redacted(value).into())),
            "filename" => drop(source.insert("path".to_owned(), value.clone().into())),
            name if !wanted.is_max && (name.starts_with("build-arg:") || name.starts_with("label:")) => {
                is_request_complete = false;
            }
            name => drop(arguments.insert(name.to_owned(), value.clone().into())),
        }
    }
    let mut request = Map::new();
    request.insert("frontend".to_owned(), "dockerfile.v0".into());
    if !arguments.is_empty() {
        request.insert("args".to_owned(), arguments.into());
    }
    let mut details = Map::new();
    if !vcs.is_empty() {
        details.insert("vcs".to_owned(), vcs.into());
    }
    if wanted.is_max {
        for (name, known) in [("secrets", &materials.secrets), ("ssh", &materials.agents)] {
            let list = known.iter().map(|(id, is_optional)| match is_optional {
                true => json!({ "id": id, "optional": true }),
                false => json!({ "id": id }),
            });
            let list: Vec<Value> = list.collect();
            if !list.is_empty() {
                request.insert(name.to_owned(), list.into());
            }
        }
        let (filename, content) = about.dockerfile;
        let info =
            json!({ "filename": filename, "language": "Dockerfile", "data": STANDARD.encode(content) });
        details.insert("source".to_owned(), json!({ "infos": [info] }));
    }
    if !materials.locals.is_empty() {
        let locals: Vec<Value> = materials.locals.iter().map(|name| json!({ "name": name })).collect();
        request.insert("locals".to_owned(), locals.into());
    }
    let are_materials_complete =
        materials.locals.is_empty() && materials.remotes.iter().all(|(_, digest)| digest.is_some());
    Facts { materials: list, request, source, details, is_request_complete, are_materials_complete }
}

fn v1(wanted: &Provenance, about: &About<'_>) -> Value {
    let facts = facts(wanted, about);
    let mut metadata = json!({
        "invocationId": wanted.invocation,
        "startedOn": about.started.to_string(),
        "finishedOn": about.finished.to_string(),
        "buildkit_metadata": facts.details,
        "buildkit_completeness": {
            "request": facts.is_request_complete,
            "resolvedDependencies": facts.are_materials_complete,
        },
    });
    if is_hermetic(&facts, about) {
        metadata["buildkit_hermetic"] = true.into();
    }
    if wanted.is_reproducible {
        metadata["buildkit_reproducible"] = true.into();
    }
    json!({
        "buildDefinition": {
            "buildType": BUILD_TYPE,
            "externalParameters": { "configSource": facts.source, "request": facts.request },
            "internalParameters": { "builderPlatform": Platform::host().to_string() },
            "resolvedDependencies": facts.materials,
        },
        "runDetails": { "builder": { "id": wanted.builder }, "metadata": metadata },
    })
}

fn v02(wanted: &Provenance, about: &About<'_>) -> Value {
    let facts = facts(wanted, about);
    let mut source = facts.source.clone();
    if let Some(path) = source.remove("path") {
        source.insert("entryPoint".to_owned(), path);
    }
    let mut metadata = json!({
        "buildInvocationID": wanted.invocation,
        "buildStartedOn": about.started.to_string(),
        "buildFinishedOn": about.finished.to_string(),
        "completeness": {
            "parameters": facts.is_request_complete,
            "environment": true,
            "materials": facts.are_materials_complete,
        },
        "reproducible": wanted.is_reproducible,
        "https://mobyproject.org/buildkit@v1#metadata": facts.details,
    });
    if is_hermetic(&facts, about) {
        metadata["https://mobyproject.org/buildkit@v1#hermetic"] = true.into();
    }
    json!({
        "builder": { "id": wanted.builder },
        "buildType": BUILD_TYPE_02,
        "materials": facts.materials,
        "invocation": {
            "configSource": source,
            "parameters": facts.request,
            "environment": { "platform": Platform::host().to_string() },
        },
        "metadata": metadata,
    })
}

fn is_hermetic(facts: &Facts, about: &About<'_>) -> bool {
    facts.are_materials_complete && !about.materials.has_network
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use jiff::Timestamp;
    use palan_oci::{Descriptor, Digest};

    use super::super::attest::Materials;
    use super::*;

    fn check(wanted: &Provenance) -> Value {
        let manifest = Descriptor::of("x", b"manifest");
        let materials = Materials {
            images: vec![("alpine".to_owned(), "linux/arm64".to_owned(), Digest::of("base"))],
            locals: ["context".to_owned()].into(),
            secrets: BTreeMap::from([("token".to_owned(), true)]),
            ..Materials::default()
        };
        let about = About {
            platform: &"linux/arm64".parse().expect("a platform"),
            manifest: &manifest,
            names: &[],
            materials: &materials,
            packages: None,
            dockerfile: ("Dockerfile", b"FROM alpine"),
            started: Timestamp::UNIX_EPOCH,
            finished: Timestamp::UNIX_EPOCH,
        };
        predicate(wanted, &about)
    }

    fn wanted(is_max: bool, version: ProvenanceVersion) -> Provenance {
        let parameters = [
            ("filename", "Dockerfile"),
            ("build-arg:A", "hidden"),
            ("target", "x"),
            ("vcs:source", "https://me:secret@example.com/a.git"),
        ];
        let parameters = parameters.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
        Provenance { version, is_max, parameters, invocation: "abc".to_owned(), ..Provenance::default() }
    }

    #[test]
    fn purls() {
        let of = |name: &str| {
            let platform = "linux/arm64".parse::<Platform>().expect("a platform");
            purl("docker", &Reference::parse(name).expect("a name"), Some(&platform))
        };
        assert_eq!(of("alpine"), "pkg:docker/alpine@latest?platform=linux%2Farm64");
        assert_eq!(of("localhost:5000/a/b:1"), "pkg:docker/localhost%3A5000/a/b@1?platform=linux%2Farm64");
    }

    #[test]
    fn a_minimum_hides_what_the_user_gave() {
        let min = check(&wanted(false, ProvenanceVersion::V1));
        let text = min.to_string();
        assert!(!text.contains("hidden") && !text.contains("token") && !text.contains("secret@"), "{text}");
        assert!(!text.contains("infos"), "{text}");
        let definition = &min["buildDefinition"];
        assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
        assert_eq!(definition["externalParameters"]["request"]["args"], json!({ "target": "x" }));
        let material = &definition["resolvedDependencies"][0];
        assert_eq!(material["uri"], "pkg:docker/alpine@latest?platform=linux%2Farm64");
        assert_eq!(material["digest"]["sha256"], Digest::of("base").hex());
        let completeness = &min["runDetails"]["metadata"]["buildkit_completeness"];
        assert_eq!(completeness, &json!({ "request": false, "resolvedDependencies": false }));
    }

    #[test]
    fn a_maximum_has_all_but_values_of_secrets() {
        let max = check(&wanted(true, ProvenanceVersion::V1));
        let request = &max["buildDefinition"]["externalParameters"]["request"];
        assert_eq!(request["args"]["build-arg:A"], "hidden");
        assert_eq!(request["secrets"], json!([{ "id": "token", "optional": true }]));
        assert_eq!(max["runDetails"]["metadata"]["buildkit_completeness"]["request"], true);
        let infos = &max["runDetails"]["metadata"]["buildkit_metadata"]["source"]["infos"];
        assert_eq!(infos[0]["data"], STANDARD.encode("FROM alpine"));
    }

    #[test]
    fn the_earlier_version_says_the_same() {
        let old = check(&wanted(true, ProvenanceVersion::V02));
        assert_eq!(old["invocation"]["configSource"]["entryPoint"], "Dockerfile");
        assert_eq!(old["materials"][0]["digest"]["sha256"], Digest::of("base").hex());
        assert_eq!(old["metadata"]["completeness"]["environment"], true);
    }
}
