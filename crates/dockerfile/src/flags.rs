//! An instruction's flags: `--name=value` between the keyword and the arguments.

use std::ops::Range;

use crate::lines::Logical;
use crate::{DockerfileError, suggest};

/// A logical line, cut: keyword, flags, arguments. Ranges are offsets in the line's text.
#[derive(Debug)]
pub(crate) struct Split<'a> {
    pub(crate) keyword: &'a str,
    pub(crate) keyword_range: Range<usize>,
    pub(crate) flags: Vec<RawFlag>,
    /// What follows the flags, without blanks around it.
    pub(crate) arguments: &'a str,
    pub(crate) arguments_range: Range<usize>,
}

/// A word that starts with `--`, without quotes and escapes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RawFlag {
    pub(crate) text: String,
    pub(crate) range: Range<usize>,
}

/// Blanks between words, as the frontend counts them: not all that Unicode has.
pub(crate) fn is_blank(c: char) -> bool {
    matches!(c, '\t' | '\u{b}' | '\u{c}' | '\r' | ' ')
}

/// Cuts `line[from..]`.
pub(crate) fn split(line: &str, from: usize, escape: char) -> Split<'_> {
    let start = from + (line[from..].len() - line[from..].trim_start().len());
    let end = start + line[start..].trim_end().len();
    let keyword_end = line[start..end].find(is_blank).map_or(end, |length| start + length);
    let (flags, rest) = flags(&line[..end], keyword_end, escape);
    let arguments = line[rest..end].trim();
    let arguments_start = end - line[rest..end].trim_start().len();
    Split {
        keyword: &line[start..keyword_end],
        keyword_range: start..keyword_end,
        flags,
        arguments,
        arguments_range: arguments_start..arguments_start + arguments.len(),
    }
}

/// The flags at `line[from..]`, and where the rest starts. `--` ends them.
fn flags(line: &str, from: usize, escape: char) -> (Vec<RawFlag>, usize) {
    let mut found = Vec::new();
    let mut at = from;
    loop {
        let start = at + (line[at..].len() - line[at..].trim_start().len());
        if !line[start..].starts_with("--") {
            return (found, start);
        }
        let (text, end) = word(line, start, escape);
        if text == "--" {
            return (found, end);
        }
        found.push(RawFlag { text, range: start..end });
        at = end;
    }
}

/// A word up to the next blank, quotes and escapes removed, and where it ends.
fn word(line: &str, start: usize, escape: char) -> (String, usize) {
    let mut text = String::new();
    let mut quote = None;
    let mut chars = line[start..].char_indices();
    while let Some((offset, next)) = chars.next() {
        match quote {
            None if next.is_whitespace() => return (text, start + offset),
            None if matches!(next, '\'' | '"') => quote = Some(next),
            Some(end) if next == end => quote = None,
            _ if next == escape => text.extend(chars.next().map(|(_, escaped)| escaped)),
            _ => text.push(next),
        }
    }
    (text, line.len())
}

/// What a flag takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Nothing, `true` or `false`.
    Switch,
    /// A value, once.
    Value,
    /// A value, as often as one likes.
    Values,
}

/// The flags of one instruction, checked against what it knows.
#[derive(Debug)]
pub(crate) struct Flags {
    values: Vec<(&'static str, String)>,
}

impl Flags {
    /// Checks names and kinds.
    pub(crate) fn parse(
        logical: &Logical,
        raw: &[RawFlag],
        known: &[(&'static str, Kind)],
    ) -> Result<Self, DockerfileError> {
        let mut values: Vec<(&'static str, String)> = Vec::new();
        for flag in raw {
            let fail = |message: String| DockerfileError::new(logical.span(flag.range.clone()), message);
            let (dashed, value) = match flag.text.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (flag.text.as_str(), None),
            };
            let name = &dashed[2..];
            let Some((name, kind)) = known.iter().find(|(known, _)| *known == name) else {
                let hint = suggest::hint(name, known.iter().map(|(name, _)| *name));
                return Err(fail(format!("unknown flag: {dashed}{hint}")));
            };
            if *kind != Kind::Values && values.iter().any(|(used, _)| used == name) {
                return Err(fail(format!("duplicate flag specified: {dashed}")));
            }
            let value = match (kind, value) {
                (Kind::Switch, None) => "true".to_owned(),
                (Kind::Switch, Some(value)) if value.eq_ignore_ascii_case("true") => "true".to_owned(),
                (Kind::Switch, Some(value)) if value.eq_ignore_ascii_case("false") => "false".to_owned(),
                (Kind::Switch, Some("")) | (Kind::Value | Kind::Values, None) => {
                    return Err(fail(format!("missing a value on flag: {dashed}")));
                }
                (Kind::Switch, Some(value)) => {
                    return Err(fail(format!("expecting boolean value for flag {dashed}, not: {value}")));
                }
                (Kind::Value | Kind::Values, Some(value)) => value.to_owned(),
            };
            values.push((name, value));
        }
        Ok(Self { values })
    }

    /// A flag's value.
    pub(crate) fn value(&self, name: &str) -> Option<String> {
        self.values.iter().find(|(used, _)| *used == name).map(|(_, value)| value.clone())
    }

    /// A switch's state; none if it wasn't given.
    pub(crate) fn switch(&self, name: &str) -> Option<bool> {
        self.value(name).map(|value| value == "true")
    }

    /// All values of a flag.
    pub(crate) fn values(&self, name: &str) -> Vec<String> {
        self.values.iter().filter(|(used, _)| *used == name).map(|(_, value)| value.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(line: &str) -> (String, Vec<String>, String) {
        let split = split(line, 0, '\\');
        assert_eq!(&line[split.keyword_range.clone()], split.keyword);
        assert_eq!(&line[split.arguments_range.clone()], split.arguments);
        (
            split.keyword.to_owned(),
            split.flags.into_iter().map(|flag| flag.text).collect(),
            split.arguments.to_owned(),
        )
    }

    #[track_caller]
    fn check(line: &str, keyword: &str, flags: &[&str], arguments: &str) {
        let (found, found_flags, found_arguments) = cut(line);
        assert_eq!((found.as_str(), found_arguments.as_str()), (keyword, arguments), "{line}");
        assert_eq!(found_flags, flags, "{line}");
    }

    #[test]
    fn lines_are_cut() {
        check("RUN a b ", "RUN", &[], "a b");
        check("  COPY --from=x  --link a b", "COPY", &["--from=x", "--link"], "a b");
        check("RUN --mount=\"type=cache, x\" c", "RUN", &["--mount=type=cache, x"], "c");
        check(r"RUN --a=b\ c d", "RUN", &["--a=b c"], "d");
        check("RUN -- --x", "RUN", &[], "--x");
        check("RUN --a", "RUN", &["--a"], "");
        check("RUN -a --b", "RUN", &[], "-a --b");
        check("RUN", "RUN", &[], "");
        check("", "", &[], "");
        check("RUN --größe=ü x", "RUN", &["--größe=ü"], "x");
        check(r"RUN --a\", "RUN", &["--a"], "");
    }
}
