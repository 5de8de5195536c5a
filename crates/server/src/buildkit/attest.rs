//! `attest:sbom` and `attest:provenance` among a frontend's attributes, and the build arguments that say the same.

use std::collections::BTreeMap;

use palan_buildkit::grpc::{Code, Status};
use palan_engine::build::{Attestations, Provenance, ProvenanceVersion};

use super::gateway::unsupported;

/// Build arguments that ask for an attestation.
const ARGUMENT: &str = "build-arg:BUILDKIT_ATTEST_";

fn invalid(text: String) -> Status {
    Status::new(Code::InvalidArgument, text)
}

/// Reads what statements are wanted.
pub(super) fn parse(attrs: &BTreeMap<String, String>) -> Result<Attestations, Status> {
    let mut wanted = Attestations::default();
    for (name, value) in attrs {
        let kind = name.strip_prefix("attest:").or_else(|| name.strip_prefix(ARGUMENT));
        let Some(kind) = kind.map(str::to_ascii_lowercase) else { continue };
        let fields = fields(value);
        if flag(&fields, "disabled")? {
            continue;
        }
        match kind.as_str() {
            "sbom" => {
                // Docker's own scanner is an image; this one is built in.
                if let Some(generator) = fields.get("generator").filter(|name| !is_own(name)) {
                    let text =
                        format!("the SBOM generator {generator:?} (this builder has a scanner of its own)");
                    return Err(unsupported(&text));
                }
                wanted.packages = true;
            }
            // What a client asks for by itself is for its own records.
            "provenance" if flag(&fields, "inline-only")? => {}
            "provenance" => wanted.provenance = Some(provenance(attrs, &fields)?),
            other => return Err(invalid(format!("unknown attestation type {other:?}"))),
        }
    }
    Ok(wanted)
}

/// Docker's scanner, which clients name where nothing else is asked for.
fn is_own(generator: &str) -> bool {
    let generator = generator.strip_prefix("docker.io/").unwrap_or(generator);
    generator.is_empty()
        || generator
            .strip_prefix("docker/buildkit-syft-scanner")
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
}

fn fields(text: &str) -> BTreeMap<&str, &str> {
    let fields = text.split(',').filter(|field| !field.is_empty());
    fields.map(|field| field.split_once('=').unwrap_or((field, ""))).collect()
}

fn flag(fields: &BTreeMap<&str, &str>, name: &str) -> Result<bool, Status> {
    fields.get(name).map_or(Ok(false), |value| super::request::flag(name, value))
}

fn provenance(attrs: &BTreeMap<String, String>, fields: &BTreeMap<&str, &str>) -> Result<Provenance, Status> {
    const KNOWN: [&str; 9] = [
        "disabled",
        "inline-only",
        "mode",
        "version",
        "builder-id",
        "reproducible",
        "complete-materials",
        // Of files, and of what is not measured here.
        "filename",
        "capture-usage",
    ];
    if let Some((name, _)) = fields.iter().find(|(name, _)| !KNOWN.contains(name)) {
        return Err(unsupported(&format!("the option {name} of the attestation provenance")));
    }
    let version = match fields.get("version").copied().unwrap_or_default() {
        "" | "v1" => ProvenanceVersion::V1,
        "v0.2" => ProvenanceVersion::V02,
        other => return Err(invalid(format!("invalid provenance SLSA version: {other}"))),
    };
    let is_max = match fields.get("mode").copied().unwrap_or_default() {
        "" | "max" | "full" => true,
        "min" => false,
        other => return Err(invalid(format!("invalid mode {other:?}"))),
    };
    let is_told = |name: &&String| {
        // How a client and its sessions are called says nothing about the result.
        !name.starts_with("attest:")
            && !name.starts_with("local-sessionid:")
            && !name.starts_with("sharedkey:")
            && !matches!(name.as_str(), "frontend.caps" | "contextkey" | "dockerfilekey" | "cache-imports")
    };
    let parameters = attrs.iter().filter(|(name, _)| is_told(name));
    Ok(Provenance {
        version,
        is_max,
        needs_materials: flag(fields, "complete-materials")?,
        is_reproducible: flag(fields, "reproducible")?,
        builder: fields.get("builder-id").map(|id| (*id).to_owned()).unwrap_or_default(),
        invocation: String::new(),
        parameters: parameters.map(|(name, value)| (name.clone(), value.clone())).collect(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(entries: &[(&str, &str)]) -> Result<Attestations, String> {
        let attrs = entries.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        parse(&attrs.collect()).map_err(|status| status.message)
    }

    #[test]
    fn what_is_wanted() {
        assert_eq!(of(&[]), Ok(Attestations::default()));
        assert_eq!(of(&[("attest:provenance", "mode=min,inline-only=true")]), Ok(Attestations::default()));
        assert_eq!(of(&[("attest:sbom", "disabled=true")]), Ok(Attestations::default()));
        let found = of(&[
            ("attest:sbom", "generator=docker/buildkit-syft-scanner:stable-1"),
            ("attest:provenance", "mode=min,version=v0.2,builder-id=https://x/y,reproducible=true"),
            ("target", "x"),
            ("local-sessionid:context", "s"),
        ])
        .expect("attestations");
        let provenance = found.provenance.expect("provenance");
        assert!(found.packages && !provenance.is_max && provenance.is_reproducible);
        assert_eq!(
            (provenance.version, provenance.builder.as_str()),
            (ProvenanceVersion::V02, "https://x/y")
        );
        assert_eq!(provenance.parameters, BTreeMap::from([("target".to_owned(), "x".to_owned())]));
        let argument = of(&[("build-arg:BUILDKIT_ATTEST_PROVENANCE", "")]).expect("by an argument");
        assert!(argument.provenance.expect("provenance").is_max);
    }

    #[test]
    fn what_is_refused_is_named() {
        for (name, value, expected) in [
            ("attest:sbom", "generator=me/scanner", "the SBOM generator \"me/scanner\""),
            ("attest:provenance", "mode=most", "invalid mode \"most\""),
            ("attest:provenance", "version=v2", "invalid provenance SLSA version: v2"),
            ("attest:provenance", "x=y", "the option x of the attestation provenance"),
            ("attest:provenance", "disabled=perhaps", "invalid boolean value"),
            ("attest:nonsense", "", "unknown attestation type \"nonsense\""),
        ] {
            let error = of(&[(name, value)]).expect_err(expected);
            assert!(error.contains(expected), "{error} instead of {expected}");
        }
    }
}
