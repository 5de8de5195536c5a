//! The list as a document: SPDX 2.3 in JSON. The same list, name and time give the same bytes.

use palan_oci::Digest;
use serde::Serialize;

use crate::scan::Found;

/// What statements with such a document call it.
pub const PREDICATE: &str = "https://spdx.dev/Document";

const NOTHING: &str = "NOASSERTION";
const DOCUMENT: &str = "SPDXRef-DOCUMENT";
const ROOT: &str = "SPDXRef-DocumentRoot-Image";

/// A document.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Document {
    spdx_version: &'static str,
    data_license: &'static str,
    #[serde(rename = "SPDXID")]
    id: &'static str,
    name: String,
    document_namespace: String,
    creation_info: Creation,
    packages: Vec<Entry>,
    relationships: Vec<Relationship>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Creation {
    created: String,
    creators: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    #[serde(rename = "SPDXID")]
    id: String,
    name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    version_info: String,
    download_location: &'static str,
    files_analyzed: bool,
    license_concluded: &'static str,
    license_declared: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    license_comments: String,
    copyright_text: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    source_info: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    external_refs: Vec<External>,
    #[serde(skip_serializing_if = "Option::is_none")]
    primary_package_purpose: Option<&'static str>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct External {
    reference_category: &'static str,
    reference_type: &'static str,
    reference_locator: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Relationship {
    spdx_element_id: &'static str,
    relationship_type: &'static str,
    related_spdx_element: String,
}

/// Makes the document of an image called `name`, with the time (RFC 3339, of whole seconds) and the program that says so.
pub fn document(found: &Found, name: &str, created: &str, tool: &str) -> Document {
    let mut packages = vec![Entry {
        primary_package_purpose: Some("CONTAINER"),
        ..entry(ROOT.to_owned(), name.to_owned(), String::new())
    }];
    let relation = |from, kind, to: &str| Relationship {
        spdx_element_id: from,
        relationship_type: kind,
        related_spdx_element: to.to_owned(),
    };
    let mut relationships = vec![relation(DOCUMENT, "DESCRIBES", ROOT)];
    for package in &found.packages {
        let purl = package.purl(&found.distribution);
        let digest = Digest::of(format!("{purl} {}", package.path));
        let id = format!("SPDXRef-Package-{}", &digest.hex()[..16]);
        relationships.push(relation(ROOT, "CONTAINS", &id));
        let license = package.license.split_whitespace().collect::<Vec<_>>().join(" ");
        packages.push(Entry {
            license_comments: if license.is_empty() { license } else { format!("declared as: {license}") },
            source_info: format!("found in /{}", package.path),
            external_refs: vec![External {
                reference_category: "PACKAGE-MANAGER",
                reference_type: "purl",
                reference_locator: purl,
            }],
            ..entry(id, package.name.clone(), package.version.clone())
        });
    }
    let mut document = Document {
        spdx_version: "SPDX-2.3",
        data_license: "CC0-1.0",
        id: DOCUMENT,
        name: name.to_owned(),
        document_namespace: String::new(),
        creation_info: Creation { created: created.to_owned(), creators: vec![format!("Tool: {tool}")] },
        packages,
        relationships,
    };
    // By what it says: no two documents that differ have the same one.
    let content = serde_json::to_vec(&document).unwrap_or_default();
    document.document_namespace = format!("urn:sha256:{}", Digest::of(content).hex());
    document
}

fn entry(id: String, name: String, version_info: String) -> Entry {
    Entry {
        id,
        name,
        version_info,
        download_location: NOTHING,
        files_analyzed: false,
        license_concluded: NOTHING,
        license_declared: NOTHING,
        license_comments: String::new(),
        copyright_text: NOTHING,
        source_info: String::new(),
        external_refs: Vec::new(),
        primary_package_purpose: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::package::{Distribution, Kind, Package};

    #[test]
    fn a_document() {
        let package = Package {
            kind: Kind::Apk,
            name: "musl".to_owned(),
            version: "1".to_owned(),
            architecture: "x86_64".to_owned(),
            source: String::new(),
            license: "MIT\n x".to_owned(),
            path: "lib/apk/db/installed".to_owned(),
        };
        let distribution = Distribution { id: "alpine".to_owned(), version: "3".to_owned() };
        let found = Found { distribution, packages: vec![package] };
        let made = document(&found, "sbom", "1970-01-01T00:00:00Z", "palan-1");
        let json = serde_json::to_value(&made).expect("JSON");
        assert_eq!(json["SPDXID"], "SPDXRef-DOCUMENT");
        assert_eq!(json["creationInfo"]["creators"][0], "Tool: palan-1");
        assert!(json["documentNamespace"].as_str().is_some_and(|text| text.starts_with("urn:sha256:")));
        let listed = &json["packages"][1];
        assert_eq!(
            listed["externalRefs"][0]["referenceLocator"],
            "pkg:apk/alpine/musl@1?arch=x86_64&distro=alpine-3"
        );
        assert_eq!(listed["licenseComments"], "declared as: MIT x");
        let relations = json["relationships"].as_array().expect("relationships");
        assert_eq!(relations.len(), 2);
        assert_eq!(relations[1]["relatedSpdxElement"], listed["SPDXID"]);
        let again = document(&found, "sbom", "1970-01-01T00:00:00Z", "palan-1");
        assert_eq!(serde_json::to_value(again).expect("JSON"), json);
    }
}
