//! `--output`, `--push`, `--load` and `--tag`: what becomes of the result.

use std::path::PathBuf;

use palan_oci::Reference;

use super::fields;
use crate::error::{CliError, Result};
use crate::flags::Parsed;

/// One thing to make of the result, in BuildKit's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Export {
    /// `moby` for an image in the daemon, else the name as it is written.
    pub(crate) kind: String,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) destination: Destination,
}

/// Where what is made goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Destination {
    /// It stays in the daemon, or goes to a registry from there.
    Daemon,
    /// The files of a directory.
    Directory(PathBuf),
    /// An image as a directory.
    Layout(PathBuf),
    /// One file.
    File(PathBuf),
    /// Standard output.
    Stdout,
}

/// One `--output`, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Asked {
    kind: String,
    destination: Option<String>,
    attributes: Vec<(String, String)>,
}

/// The kinds of outputs.
const KINDS: [&str; 7] = ["cacheonly", "docker", "image", "local", "oci", "registry", "tar"];

/// Reads an `--output`.
pub(super) fn parse(text: &str) -> Result<Asked, String> {
    let Some(mut pairs) = fields::pairs(text)? else {
        let kind = if text == "-" { "tar" } else { "local" };
        return Ok(Asked {
            kind: kind.to_owned(),
            destination: Some(text.to_owned()),
            attributes: Vec::new(),
        });
    };
    let kind = fields::take(&mut pairs, "type").unwrap_or_default();
    if kind.is_empty() {
        return Err("type is required for output".to_owned());
    }
    if !KINDS.contains(&kind.as_str()) {
        return Err(format!("exporter {kind:?} could not be found: there are {}", KINDS.join(", ")));
    }
    let destination = fields::take(&mut pairs, "dest");
    match (kind.as_str(), &destination) {
        ("local", None) => return Err("dest is required for local output".to_owned()),
        ("image" | "registry" | "cacheonly", Some(_)) => {
            return Err(format!("dest is not a key of output type {kind:?}"));
        }
        _ => {}
    }
    if let Some((key, _)) = pairs.iter().find(|(key, _)| key == "name") {
        for name in pairs.iter().filter(|(other, _)| other == key).flat_map(|(_, names)| names.split(',')) {
            tag(name)?;
        }
    }
    Ok(Asked { kind, destination, attributes: pairs })
}

/// A name for an image, in full.
pub(super) fn tag(text: &str) -> Result<String, String> {
    let reference = Reference::parse(text).map_err(|error| format!("invalid tag {text:?}: {error}"))?;
    if reference.digest().is_some() {
        return Err(format!("invalid tag {text:?}: refusing to create a tag with a digest reference"));
    }
    Ok(reference.or_latest().to_string())
}

/// All that is to be made of the result.
pub(super) fn of_flags(flags: &Parsed, stdout_is_terminal: bool) -> Result<Vec<Export>> {
    let mut asked = Vec::new();
    for text in flags.list("output") {
        asked.push(parse(text).map_err(CliError::new)?);
    }
    let plain = |kind: &str| Asked { kind: kind.to_owned(), destination: None, attributes: Vec::new() };
    let (push, load) = (flags.bool("push"), flags.bool("load"));
    if push {
        match asked.iter_mut().find(|one| {
            matches!(one.kind.as_str(), "image" | "registry" | "docker") && one.destination.is_none()
        }) {
            Some(one) => set(&mut one.attributes, "push", "true"),
            None => asked.push(plain("registry")),
        }
    }
    let is_in_daemon = |one: &Asked| {
        matches!(one.kind.as_str(), "image" | "registry" | "docker") && one.destination.is_none()
    };
    if load && !asked.iter().any(is_in_daemon) {
        asked.push(plain("docker"));
    }
    if asked.is_empty() {
        asked.push(plain("image"));
    }
    let tags: Vec<String> =
        flags.list("tag").into_iter().map(tag).collect::<Result<_, _>>().map_err(CliError::new)?;
    let mut exports = Vec::new();
    for one in asked {
        exports.extend(export(one, &tags, stdout_is_terminal)?);
    }
    let to_stdout = exports.iter().filter(|export| export.destination == Destination::Stdout).count();
    if to_stdout > 1 {
        return Err(CliError::new("only one output can go to standard output"));
    }
    annotate(flags, &mut exports)?;
    Ok(exports)
}

fn export(asked: Asked, tags: &[String], stdout_is_terminal: bool) -> Result<Option<Export>> {
    let Asked { kind, destination, mut attributes } = asked;
    let refuse = |kind: &str| {
        Err(CliError::new(format!("dest file is required for {kind} exporter. refusing to write to console")))
    };
    let archive = |path: Option<String>| match path.as_deref() {
        None | Some("" | "-") if stdout_is_terminal => refuse(&kind),
        None | Some("" | "-") => Ok(Destination::Stdout),
        Some(path) => {
            if std::path::Path::new(path).is_dir() {
                return Err(CliError::new(format!("destination file {path} is a directory")));
            }
            Ok(Destination::File(path.into()))
        }
    };
    // The daemon sends an archive in any case.
    let is_layout =
        match fields::take(&mut attributes, "tar").filter(|_| matches!(kind.as_str(), "oci" | "docker")) {
            Some(value) => !crate::flags::parse_bool(&value)
                .map_err(|_| CliError::new(format!("invalid value {value:?} for tar of an {kind} output")))?,
            None => false,
        };
    let destination = match kind.as_str() {
        "cacheonly" => return Ok(None),
        "local" => match destination.as_deref() {
            None | Some("" | "-") => {
                return Err(CliError::new(
                    "dest of a local output is a directory; for an archive on standard output say -o -",
                ));
            }
            Some(path) if std::path::Path::new(path).is_file() => {
                return Err(CliError::new(format!("destination directory {path} is a file")));
            }
            Some(path) => Destination::Directory(path.into()),
        },
        "oci" | "docker" if is_layout => match destination.as_deref() {
            None | Some("" | "-") => {
                return Err(CliError::new(format!("dest is required for an {kind} output with tar=false")));
            }
            Some(path) if std::path::Path::new(path).is_file() => {
                return Err(CliError::new(format!("destination directory {path} is a file")));
            }
            Some(path) => Destination::Layout(path.into()),
        },
        "docker" if destination.is_none() => Destination::Daemon,
        "tar" | "oci" | "docker" => archive(destination)?,
        _ => Destination::Daemon,
    };
    if kind == "registry" {
        set(&mut attributes, "push", "true");
    }
    if !tags.is_empty() && matches!(kind.as_str(), "image" | "registry" | "docker" | "oci") {
        set(&mut attributes, "name", &tags.join(","));
    } else if let Some(names) = fields::take(&mut attributes, "name") {
        let names: Result<Vec<String>, String> = names.split(',').map(tag).collect();
        set(&mut attributes, "name", &names.map_err(CliError::new)?.join(","));
    }
    let has = |key: &str, value: &str| attributes.iter().any(|(k, v)| k == key && v == value);
    if has("push", "true") && !attributes.iter().any(|(key, _)| key == "name") {
        return Err(CliError::new("tag is needed when pushing to registry"));
    }
    if has("push", "true") && !attributes.iter().any(|(key, _)| key == "compression") {
        // The digest that the build tells is that of the push.
        set(&mut attributes, "compression", "gzip");
    }
    let kind = if destination == Destination::Daemon { "moby".to_owned() } else { kind };
    Ok(Some(Export { kind, attributes, destination }))
}

fn set(attributes: &mut Vec<(String, String)>, key: &str, value: &str) {
    attributes.retain(|(known, _)| known != key);
    attributes.push((key.to_owned(), value.to_owned()));
}

/// `--annotation [type:]key=value`, which images take.
fn annotate(flags: &Parsed, exports: &mut [Export]) -> Result<()> {
    const TYPES: [&str; 4] = ["index", "index-descriptor", "manifest", "manifest-descriptor"];
    let annotations = flags.list("annotation");
    if annotations.is_empty() {
        return Ok(());
    }
    let mut taken = false;
    for export in
        exports.iter_mut().filter(|export| matches!(export.kind.as_str(), "moby" | "oci" | "docker"))
    {
        taken = true;
        for text in &annotations {
            let (key, value) = text.split_once('=').unwrap_or((text, ""));
            match key.split_once(':').filter(|(kinds, _)| kinds.split(',').all(|kind| TYPES.contains(&kind)))
            {
                None => set(&mut export.attributes, &format!("annotation.{key}"), value),
                Some((kinds, key)) => {
                    for kind in kinds.split(',') {
                        set(&mut export.attributes, &format!("annotation-{kind}.{key}"), value);
                    }
                }
            }
        }
    }
    match taken {
        true => Ok(()),
        false => Err(CliError::new("annotations are for images: none of the outputs is one")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags;

    fn exports(line: &[&str]) -> Result<Vec<Export>, String> {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let parsed =
            flags::parse(&[super::super::flags::TABLE], true, &words).map_err(|error| error.to_string())?;
        of_flags(&parsed, false).map_err(|error| error.message)
    }

    #[track_caller]
    fn check(line: &[&str], expected: &[(&str, &str, Destination)]) {
        let found = exports(line).unwrap();
        let found: Vec<(String, String, Destination)> = found
            .into_iter()
            .map(|export| {
                let pairs: Vec<String> =
                    export.attributes.iter().map(|(key, value)| format!("{key}={value}")).collect();
                (export.kind, pairs.join(" "), export.destination)
            })
            .collect();
        let expected: Vec<(String, String, Destination)> = expected
            .iter()
            .map(|(kind, pairs, destination)| ((*kind).to_owned(), (*pairs).to_owned(), destination.clone()))
            .collect();
        assert_eq!(found, expected, "{line:?}");
    }

    #[track_caller]
    fn check_error(line: &[&str], expected: &str) {
        let error = exports(line).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }

    #[test]
    fn what_becomes_of_the_result() {
        let file = |path: &str| Destination::File(path.into());
        let directory = |path: &str| Destination::Directory(path.into());
        check(&[], &[("moby", "", Destination::Daemon)]);
        check(
            &["-t", "a", "-t", "b:1"],
            &[("moby", "name=docker.io/library/a:latest,docker.io/library/b:1", Destination::Daemon)],
        );
        check(&["-o", "out"], &[("local", "", directory("out"))]);
        check(&["-o", "-"], &[("tar", "", Destination::Stdout)]);
        check(&["-o", "type=tar,dest=x.tar"], &[("tar", "", file("x.tar"))]);
        check(
            &["-t", "a", "-o", "type=oci,dest=x.tar,compression=zstd"],
            &[("oci", "compression=zstd name=docker.io/library/a:latest", file("x.tar"))],
        );
        check(&["-o", "type=oci,dest=x,tar=false"], &[("oci", "", Destination::Layout("x".into()))]);
        check(&["-o", "type=docker,dest=x,tar=true"], &[("docker", "", file("x"))]);
        check(&["-o", "type=docker"], &[("moby", "", Destination::Daemon)]);
        check(&["-o", "type=docker,dest=-"], &[("docker", "", Destination::Stdout)]);
        check(&["-o", "type=cacheonly"], &[]);
        check(
            &["-t", "a", "--push"],
            &[("moby", "push=true name=docker.io/library/a:latest compression=gzip", Destination::Daemon)],
        );
        check(
            &["-o", "type=image,name=x", "--push", "--load"],
            &[("moby", "push=true name=docker.io/library/x:latest compression=gzip", Destination::Daemon)],
        );
        check(
            &["-o", "out", "--load"],
            &[("local", "", directory("out")), ("moby", "", Destination::Daemon)],
        );
        check(
            &["--annotation", "a=b", "--annotation", "index,manifest:c=d"],
            &[("moby", "annotation.a=b annotation-index.c=d annotation-manifest.c=d", Destination::Daemon)],
        );
    }

    #[test]
    fn mistakes() {
        check_error(&["-o", "type=nope"], "exporter \"nope\" could not be found");
        check_error(&["-o", "dest=x"], "type is required for output");
        check_error(&["-o", "type=local"], "dest is required for local output");
        check_error(&["-o", "type=image,dest=x"], "dest is not a key of output type \"image\"");
        check_error(&["-o", "type=tar,dest=/"], "destination file / is a directory");
        check_error(&["-o", "type=oci,tar=false"], "dest is required for an oci output with tar=false");
        check_error(&["-o", "type=oci,dest=x,tar=perhaps"], "invalid value \"perhaps\" for tar");
        check_error(&["--push"], "tag is needed when pushing to registry");
        check_error(&["-t", "UPPER"], "invalid tag \"UPPER\"");
        check_error(&["-o", "-", "-o", "type=oci"], "only one output can go to standard output");
        check_error(&["--annotation", "a=b", "-o", "x"], "annotations are for images");
        check_error(&["--annotation", "a"], "invalid annotation");
    }
}
