//! `--cache-from` and `--cache-to`: where results of earlier builds come from, and where those of this one go.

use super::fields;
use palan_oci::Reference;

/// Which of the two flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    From,
    To,
}

/// One cache, in BuildKit's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cache {
    pub(crate) kind: String,
    pub(crate) attributes: Vec<(String, String)>,
}

/// Reads one. The kinds of others' clouds are known and refused; so is `local`, which needs a store of content at the client's
/// side.
pub(crate) fn parse(text: &str, direction: Direction) -> Result<Cache, String> {
    let Some(mut pairs) = fields::pairs(text)? else {
        let attributes = vec![("ref".to_owned(), reference(text)?)];
        return Ok(Cache { kind: "registry".to_owned(), attributes });
    };
    let kind = fields::take(&mut pairs, "type").unwrap_or_default();
    match kind.as_str() {
        "" => return Err(format!("type required form> {text:?}")),
        "registry" => {
            let name =
                fields::take(&mut pairs, "ref").ok_or("ref is required for cache type \"registry\"")?;
            pairs.insert(0, ("ref".to_owned(), reference(&name)?));
        }
        "inline" if direction == Direction::To => {}
        "inline" => {
            return Err("cache type \"inline\" is in an image: name it by type=registry,ref=IMAGE".to_owned());
        }
        "local" => {
            return Err(
                "cache type \"local\" is not supported yet; use type=registry, or type=inline".to_owned()
            );
        }
        "gha" | "s3" | "azblob" => return Err(format!("cache type {kind:?} is not supported")),
        _ => return Err(format!("unknown cache type {kind:?}: there are registry, inline, local")),
    }
    Ok(Cache { kind, attributes: pairs })
}

fn reference(text: &str) -> Result<String, String> {
    Reference::parse(text)
        .map(|reference| {
            if reference.digest().is_some() { reference } else { reference.or_latest() }.to_string()
        })
        .map_err(|error| format!("invalid cache reference {text:?}: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches() {
        let of = |text: &str, direction: Direction| {
            parse(text, direction).map(|cache| {
                let pairs: Vec<String> = cache.attributes.iter().map(|(k, v)| format!("{k}={v}")).collect();
                format!("{} {}", cache.kind, pairs.join(" "))
            })
        };
        let ok = |text: &str| Ok(text.to_owned());
        assert_eq!(of("user/app:cache", Direction::From), ok("registry ref=docker.io/user/app:cache"));
        assert_eq!(
            of("type=registry,mode=max,ref=h:5000/x", Direction::To),
            ok("registry ref=h:5000/x:latest mode=max")
        );
        assert_eq!(of("type=inline", Direction::To), ok("inline "));
        for (text, direction) in [
            ("type=inline", Direction::From),
            ("type=registry", Direction::To),
            ("type=local,dest=x", Direction::To),
            ("type=gha", Direction::From),
            ("type=x", Direction::From),
            ("mode=max", Direction::To),
            ("UPPER", Direction::From),
        ] {
            of(text, direction).unwrap_err();
        }
    }
}
