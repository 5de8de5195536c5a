//! One pattern of an ignore file, or of an instruction that copies.
//!
//! `*` and `?` don't match `/`, `**` matches any number of directories, `[a-z]` and `[^a-z]` match one character, `\` takes
//! the meaning of the next one. What `**` means depends on where it stands, as in Docker: at the end it matches all that begins
//! with what is before it, at the start all that ends in what follows, which may be part of a name.

/// The longest pattern; no path is longer.
pub(crate) const MAX_PATTERN: usize = 4096;

/// A pattern, compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    text: String,
    matcher: Matcher,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Matcher {
    /// No wildcards.
    Exact,
    /// Nothing but `**` at the end: what is before it.
    Prefix(String),
    /// Nothing but `**` at the start: what follows.
    Suffix(String),
    Tokens(Vec<Token>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Char(char),
    /// Any character but `/`.
    One,
    /// Any characters but `/`.
    Star,
    /// Nothing, or anything that ends in `/`.
    Directories,
    /// Anything.
    All,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Pattern {
    /// Compiles a cleaned pattern. None: its syntax is wrong, or it is longer than any path.
    pub fn new(text: &str) -> Option<Self> {
        if text.len() > MAX_PATTERN {
            return None;
        }
        let mut chars = text.chars().peekable();
        let mut tokens = Vec::new();
        let mut kind = Kind::Exact;
        while let Some(next) = chars.next() {
            let is_first = tokens.is_empty();
            let token = match next {
                '*' if chars.next_if_eq(&'*').is_some() => {
                    chars.next_if_eq(&'/');
                    let is_last = chars.peek().is_none();
                    kind = match kind {
                        _ if is_first => Kind::Suffix,
                        Kind::Exact if is_last => Kind::Prefix,
                        _ => Kind::Tokens,
                    };
                    if is_last { Token::All } else { Token::Directories }
                }
                '*' => Token::Star,
                '?' => Token::One,
                '[' => class(&mut chars)?,
                '\\' => {
                    kind = Kind::Tokens;
                    Token::Char(chars.next()?)
                }
                other => Token::Char(other),
            };
            if matches!(token, Token::Star | Token::One | Token::Class { .. }) {
                kind = Kind::Tokens;
            }
            tokens.push(token);
        }
        let matcher = match kind {
            Kind::Exact => Matcher::Exact,
            Kind::Prefix => Matcher::Prefix(text.strip_suffix("**").unwrap_or(text).to_owned()),
            Kind::Suffix => Matcher::Suffix(text.strip_prefix("**").unwrap_or(text).to_owned()),
            Kind::Tokens => Matcher::Tokens(tokens),
        };
        Some(Self { text: text.to_owned(), matcher })
    }

    /// The pattern, as it was given.
    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether it has no wildcards but `/*` or `/**` at its end: then what it matches lies below this directory.
    pub(crate) fn directory(&self) -> Option<&str> {
        // One of both: what `a/*/**` matches lies in the directories of `a`, whatever they are called.
        let text =
            self.text.strip_suffix("/**").or_else(|| self.text.strip_suffix("/*")).unwrap_or(&self.text);
        (!text.contains(['*', '[', ']', '?', '^', '\\'])).then_some(text)
    }

    /// Whether it matches a path, from its start to its end.
    pub fn matches(&self, path: &str) -> bool {
        match &self.matcher {
            Matcher::Exact => path == self.text,
            Matcher::Prefix(prefix) => path.starts_with(prefix.as_str()),
            Matcher::Suffix(suffix) => {
                path.ends_with(suffix.as_str()) || suffix.strip_prefix('/').is_some_and(|name| path == name)
            }
            Matcher::Tokens(tokens) => matches(tokens, path),
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Exact,
    Prefix,
    Suffix,
    Tokens,
}

/// The rest of a class, the `[` being read.
fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Token> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        if !ranges.is_empty() && chars.next_if_eq(&']').is_some() {
            return Some(Token::Class { negated, ranges });
        }
        let from = class_character(chars)?;
        let to = if chars.next_if_eq(&'-').is_some() { class_character(chars)? } else { from };
        ranges.push((from, to));
    }
}

fn class_character(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<char> {
    match chars.next()? {
        '-' | ']' => None,
        '\\' => chars.next(),
        other => Some(other),
    }
}

/// All ways at once, so that the time grows with the product of both lengths and no faster.
fn matches(tokens: &[Token], path: &str) -> bool {
    match (tokens.first(), tokens.last()) {
        (Some(Token::Char(first)), _) if !path.starts_with(*first) => return false,
        (_, Some(Token::Char(last))) if !path.ends_with(*last) => return false,
        _ => {}
    }
    let count = tokens.len();
    // `live[i]`: the first i tokens match what was read. `inside[i]`: token i, `Directories`, is in the middle of a name.
    let mut live = vec![false; count + 1];
    let mut inside = vec![false; count];
    live[0] = true;
    skip(tokens, &mut live);
    for next in path.chars() {
        let mut any = false;
        for index in (0..count).rev() {
            let here = live[index];
            let (moved, stays) = match &tokens[index] {
                Token::Char(wanted) => (here && *wanted == next, false),
                Token::One => (here && next != '/', false),
                Token::Class { negated, ranges } => {
                    let is_in = ranges.iter().any(|(from, to)| (*from..=*to).contains(&next));
                    (here && is_in != *negated, false)
                }
                // A star that is entered has been skipped, too: the state behind it is where it stays.
                Token::Star => (false, live[index + 1] && next != '/'),
                Token::All => (false, live[index + 1]),
                Token::Directories => {
                    inside[index] |= here;
                    any |= inside[index];
                    (inside[index] && next == '/', false)
                }
            };
            live[index + 1] = moved || stays;
            any |= live[index + 1];
        }
        live[0] = false;
        if !any {
            return false;
        }
        skip(tokens, &mut live);
    }
    live[count]
}

/// What may match nothing is passed.
fn skip(tokens: &[Token], live: &mut [bool]) {
    for (index, token) in tokens.iter().enumerate() {
        if live[index] && matches!(token, Token::Star | Token::All | Token::Directories) {
            live[index + 1] = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(pattern: &str, yes: &[&str], no: &[&str]) {
        let compiled = Pattern::new(pattern).expect(pattern);
        for path in yes {
            assert!(compiled.matches(path), "{pattern} should match {path}");
        }
        for path in no {
            assert!(!compiled.matches(path), "{pattern} should not match {path}");
        }
    }

    #[test]
    fn plain_names() {
        check("a/b", &["a/b"], &["a", "a/b/c", "xa/b", "a/bb"]);
        check("a.b", &["a.b"], &["axb"]);
        check("a$b+(c)|{d}", &["a$b+(c)|{d}"], &["a"]);
    }

    #[test]
    fn single_wildcards() {
        check("*", &["a", ".b"], &["a/b"]);
        check("*.go", &["a.go", ".go"], &["a/b.go", "a.gox"]);
        check("a*/c", &["ab/c", "a/c"], &["ab/x/c", "b/c"]);
        check("a?c", &["abc", "aäc"], &["ac", "a/c"]);
        check("a*b*c", &["abc", "aXbYc", "abbbc"], &["acb", "ab/c"]);
        check("*/*", &["a/b"], &["a", "a/b/c"]);
    }

    #[test]
    fn classes() {
        check("[a-c]x", &["ax", "cx"], &["dx", "x"]);
        check("[^a-c]x", &["dx"], &["ax"]);
        check("[\\]a]x", &["]x", "ax"], &["\\x"]);
    }

    #[test]
    fn escapes() {
        check("a\\*b", &["a*b"], &["axb", "a\\*b"]);
        check("\\[x\\]", &["[x]"], &["x"]);
        check("a\\\\b", &["a\\b"], &["ab"]);
    }

    #[test]
    fn double_stars() {
        check("**", &["a", "a/b"], &[]);
        check("**/a", &["a", "x/a", "x/y/a"], &["xa", "a/x"]);
        check("**a", &["a", "xa", "x/a", "x/ya"], &["ab"]);
        check("a/**", &["a/b", "a/b/c", "a/"], &["a", "ab"]);
        check("a**", &["a", "ab", "a/b"], &["ba"]);
        check("a/**/b", &["a/b", "a/x/b", "a/x/y/b"], &["a/xb", "ab", "a/b/c"]);
        check("**/*.go", &["a.go", "x/a.go", "x/y/a.go"], &["a.go/x"]);
        check("**/a/**", &["a/b", "x/a/b", "x/y/a/b/c"], &["a", "xa/b"]);
        check("a*/**/b", &["ax/b", "a/y/b"], &["b", "x/b"]);
        check("**/**/a", &["a", "x/a"], &["xa"]);
        check("*/**", &["a/b", "a/b/c"], &["a"]);
        check("a**/b", &["ab", "axx/b", "a/b"], &["axb"]);
    }

    #[test]
    fn wrong_syntax() {
        for pattern in ["[", "[a", "[]a]", "[^]", "[a-", "[-a]", "[\\", "a\\", "[]", "[a-]]"] {
            assert_eq!(Pattern::new(pattern), None, "{pattern}");
        }
        assert_eq!(Pattern::new(&"a".repeat(MAX_PATTERN + 1)), None);
    }

    #[test]
    fn many_stars_take_no_time() {
        let path = "a".repeat(4000);
        let pattern = Pattern::new(&format!("{}b", "*a".repeat(1000))).expect("a pattern");
        assert!(!pattern.matches(&path));
        let pattern = Pattern::new(&format!("x{}", "**/a/".repeat(500))).expect("a pattern");
        assert!(!pattern.matches(&path));
        let pattern = Pattern::new(&"*a".repeat(100)).expect("a pattern");
        assert!(pattern.matches(&path[..200]));
    }

    #[test]
    fn directories_of_simple_patterns() {
        let directory = |text: &str| Pattern::new(text).expect(text).directory().map(str::to_owned);
        assert_eq!(directory("a/b"), Some("a/b".to_owned()));
        assert_eq!(directory("a/*"), Some("a".to_owned()));
        assert_eq!(directory("a/**"), Some("a".to_owned()));
        assert_eq!(directory("a/*/b"), None);
        assert_eq!(directory("a/*/**"), None);
        assert_eq!(directory("**/a"), None);
    }
}
