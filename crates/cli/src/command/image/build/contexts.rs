//! `--build-context`: contexts with names, which a Dockerfile takes files from or builds on.

use std::path::PathBuf;

use palan_context::remote;
use palan_oci::Reference;

/// A context with a name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) place: Place,
}

/// Where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Place {
    /// A directory here.
    Directory(PathBuf),
    /// An image, a repository or a download, as the frontend is told.
    Elsewhere(String),
}

/// Reads `NAME=PLACE`.
pub(crate) fn parse(text: &str) -> Result<Named, String> {
    let (name, place) = match text.split_once('=') {
        Some((name, place)) if !name.is_empty() && !place.is_empty() => (name, place),
        _ => return Err(format!("invalid context value: {text}, expected key=value")),
    };
    // A name is compared with images' and stages'.
    let reference =
        Reference::parse(name).map_err(|error| format!("invalid context name {name}: {error}"))?;
    let familiar = reference.familiar();
    let name = familiar.strip_suffix(":latest").unwrap_or(&familiar).to_owned();
    let place = match place.split_once("://") {
        Some(("docker-image", image)) => {
            Reference::parse(image).map_err(|error| format!("invalid image {image:?}: {error}"))?;
            Place::Elsewhere(place.to_owned())
        }
        Some(("oci-layout", _)) => {
            return Err("contexts of type oci-layout are not supported yet; load the image and name it by docker-image://".to_owned());
        }
        _ if place.starts_with("target:") => {
            return Err("contexts of type target are for bake, which is not supported yet".to_owned());
        }
        _ if std::path::Path::new(place).is_dir() => Place::Directory(place.into()),
        _ => match remote::context(place).map_err(|error| error.to_string())? {
            Some(_) => Place::Elsewhere(place.to_owned()),
            None => return Err(format!("failed to find context {name}: {place} is no directory")),
        },
    };
    Ok(Named { name, place })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contexts_with_names() {
        let named = |text: &str| parse(text).map(|Named { name, place }| (name, place));
        let elsewhere = |text: &str| Place::Elsewhere(text.to_owned());
        assert_eq!(named("src=/"), Ok(("src".to_owned(), Place::Directory("/".into()))));
        assert_eq!(
            named("docker.io/library/base:latest=docker-image://other:1"),
            Ok(("base".to_owned(), elsewhere("docker-image://other:1")))
        );
        let git = "https://example.com/a.git#main";
        assert_eq!(named(&format!("a={git}")), Ok(("a".to_owned(), elsewhere(git))));
        for wrong in
            ["a", "=x", "a=", "A=/", "a=/nonexist", "a=oci-layout://x", "a=target:x", "a=docker-image://B"]
        {
            named(wrong).unwrap_err();
        }
    }
}
