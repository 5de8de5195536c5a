//! Names of entries: cleaned as text, as Docker does, and refused where they leave the layer.

use super::LayerError;
use super::tar::lossy;
use crate::Limits;

/// The path of an entry: components joined by `/`, no `.`, no `..`, no slash at either end; empty for the root.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Name(Vec<u8>);

impl Name {
    /// Cleans a name as written. `/a`, `./a` and `b/../a` are `a`; `../a` is refused.
    pub(crate) fn parse(raw: &[u8], limits: &Limits) -> Result<Self, LayerError> {
        if raw.contains(&0) {
            return Err(LayerError::Nul { entry: lossy(raw) });
        }
        let mut components: Vec<&[u8]> = Vec::new();
        for component in raw.split(|byte| *byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    components.pop().ok_or_else(|| LayerError::Outside { entry: lossy(raw) })?;
                }
                name => components.push(name),
            }
        }
        if components.len() > limits.depth {
            return Err(LayerError::Depth { entry: lossy(raw), limit: limits.depth });
        }
        Ok(Self(components.join(&b'/')))
    }

    /// The same name in a directory of the root; empty for the root itself.
    pub(crate) fn below(self, directory: &[u8]) -> Self {
        if directory.is_empty() { self } else { Self([directory, b"/", &self.0].concat()) }
    }

    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The path of the parent (empty for the root) and the last component.
    pub(crate) fn split(&self) -> (&[u8], &[u8]) {
        match self.0.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (&self.0[..slash], &self.0[slash + 1..]),
            None => (b"", &self.0),
        }
    }
}

/// What a name means in a layer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning<'a> {
    /// A file of its own.
    Plain,
    /// `.wh..wh..opq`: nothing of the lower layers shows through in this directory.
    Opaque,
    /// `.wh.<name>`: this name of the lower layers is gone.
    Whiteout(&'a [u8]),
    /// `.wh..wh.…` at the top: AUFS's own bookkeeping, which is not part of the layer.
    Bookkeeping,
    /// A whiteout of nothing that could be a name.
    Invalid,
}

pub(crate) fn meaning<'a>(parent: &[u8], last: &'a [u8]) -> Meaning<'a> {
    const WHITEOUT: &[u8] = b".wh.";
    if last == b".wh..wh..opq" {
        return Meaning::Opaque;
    }
    let top = parent.split(|byte| *byte == b'/').next().filter(|first| !first.is_empty()).unwrap_or(last);
    if top.starts_with(b".wh..wh.") {
        return Meaning::Bookkeeping;
    }
    match last.strip_prefix(WHITEOUT) {
        None => Meaning::Plain,
        Some(b"" | b"." | b"..") => Meaning::Invalid,
        Some(name) => Meaning::Whiteout(name),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_cleaned_or_refused() {
        let limits = Limits::default();
        let clean = |raw: &str| Name::parse(raw.as_bytes(), &limits).map(|name| lossy(name.as_bytes()));
        for (raw, expected) in [
            ("a", "a"),
            ("./a/", "a"),
            ("/a//b", "a/b"),
            ("a/./b", "a/b"),
            ("a/../b", "b"),
            (".", ""),
            ("/", ""),
        ] {
            assert_eq!(clean(raw).expect(raw), expected);
        }
        for raw in ["..", "../a", "a/../../b", "/..", "./../etc"] {
            assert!(matches!(clean(raw), Err(LayerError::Outside { .. })), "{raw}");
        }
        assert!(matches!(clean(&"a/".repeat(2000)), Err(LayerError::Depth { .. })));
        assert!(matches!(clean("a\0b"), Err(LayerError::Nul { .. })));
    }

    #[test]
    fn meanings() {
        assert_eq!(meaning(b"a", b".wh.x"), Meaning::Whiteout(b"x"));
        assert_eq!(meaning(b"a", b".wh..wh..opq"), Meaning::Opaque);
        assert_eq!(meaning(b"", b".wh..wh.plnk"), Meaning::Bookkeeping);
        assert_eq!(meaning(b".wh..wh.plnk", b"1.2"), Meaning::Bookkeeping);
        assert_eq!(meaning(b"", b".wh..hidden"), Meaning::Whiteout(b".hidden"));
        for invalid in [&b".wh."[..], b".wh..", b".wh..."] {
            assert_eq!(meaning(b"", invalid), Meaning::Invalid);
        }
        assert_eq!(meaning(b"", b"wh.x"), Meaning::Plain);
    }
}
