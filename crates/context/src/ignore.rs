//! Ignore files: `.dockerignore`, or one for a single Dockerfile.

use crate::pattern::{MAX_PATTERN, Pattern};

/// The largest ignore file.
const MAX_FILE: usize = 1 << 20;

/// What is left out of a context.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ignore {
    rules: Vec<Rule>,
    /// An exception may be anywhere: nothing can be skipped early.
    is_open: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Rule {
    /// It began with `!`.
    is_exception: bool,
    pattern: Pattern,
}

/// Which rules matched a directory: what is in it need not be compared with them again.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Matches(Vec<bool>);

/// What is wrong with an ignore file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IgnoreError {
    /// It is not a list of patterns that somebody wrote.
    #[error("the ignore file has {0} bytes; at most {MAX_FILE} are allowed")]
    TooLarge(usize),
    /// It is not UTF-8.
    #[error("line {0} of the ignore file is not UTF-8 text")]
    NotText(usize),
    /// A `!` alone.
    #[error("line {0} of the ignore file: illegal exclusion pattern: \"!\"")]
    EmptyException(usize),
    /// A bracket without its end, a backslash at the end, or too long.
    #[error(
        "line {line} of the ignore file: syntax error in pattern {pattern:?} (of at most {MAX_PATTERN} bytes)"
    )]
    Syntax {
        /// From 1.
        line: usize,
        /// The pattern.
        pattern: String,
    },
}

/// The ignore files of a Dockerfile, the first one that exists counts: `<Dockerfile>.dockerignore` beside it, then
/// `.dockerignore` in the context's root. Paths are relative to where the Dockerfile's path is.
pub fn candidates(dockerfile: &str) -> [String; 2] {
    [format!("{dockerfile}.dockerignore"), ".dockerignore".to_owned()]
}

impl Ignore {
    /// Reads an ignore file.
    pub fn parse(bytes: &[u8]) -> Result<Self, IgnoreError> {
        if bytes.len() > MAX_FILE {
            return Err(IgnoreError::TooLarge(bytes.len()));
        }
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let mut rules = Vec::new();
        for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
            // Only in the first column it is a comment.
            if line.starts_with(b"#") {
                continue;
            }
            let number = index + 1;
            let line = std::str::from_utf8(line).map_err(|_| IgnoreError::NotText(number))?.trim();
            if !line.is_empty() {
                rules.push(rule(line, number)?);
            }
        }
        let is_open = rules.iter().any(|rule| rule.is_exception && rule.pattern.directory().is_none());
        Ok(Self { rules, is_open })
    }

    /// Whether nothing is left out.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// Whether there are lines that begin with `!`.
    pub fn has_exceptions(&self) -> bool {
        self.rules.iter().any(|rule| rule.is_exception)
    }

    /// Whether a path is left out: it, or a directory above it, and no exception after that.
    pub fn is_ignored(&self, path: &str) -> bool {
        let parents = || path.match_indices('/').map(|(index, _)| &path[..index]);
        let mut ignored = false;
        for rule in self.rules.iter().filter(|_| path != ".") {
            if rule.is_exception == ignored
                && (rule.pattern.matches(path) || parents().any(|parent| rule.pattern.matches(parent)))
            {
                ignored = !rule.is_exception;
            }
        }
        ignored
    }

    /// Whether the ignore file surely leaves a path out that a Dockerfile copies: with exceptions nothing is sure, and the whole
    /// context is left out only by `*`, `**` or `**/*`.
    pub fn surely_ignores(&self, path: &str) -> bool {
        if self.has_exceptions() {
            return false;
        }
        if path == "." {
            return self.rules.iter().any(|rule| matches!(rule.pattern.text(), "*" | "**" | "**/*"));
        }
        self.is_ignored(path)
    }

    /// The same as [`Self::is_ignored`] on the way down: with the matches of the directory that holds it (the default at the
    /// root), and its own for what is in it. This is what decides in Docker, and differs in one case: a rule that had no say
    /// about a directory, because it was left out (or not) already, is not asked about that directory again for what is in it.
    pub fn step(&self, path: &str, parent: &Matches) -> (bool, Matches) {
        let mut ignored = false;
        let mut matches = vec![false; self.rules.len()];
        for (index, rule) in self.rules.iter().enumerate() {
            let is_match = parent.0.get(index).copied().unwrap_or(false)
                || (rule.is_exception == ignored && rule.pattern.matches(path));
            matches[index] = is_match;
            if is_match {
                ignored = !rule.is_exception;
            }
        }
        (ignored, Matches(matches))
    }

    /// Whether an exception may be in a directory that is left out: if not, nobody needs to look.
    pub fn may_have_exceptions_in(&self, directory: &str) -> bool {
        let is_in = |rule: &Rule| {
            let below = rule.pattern.directory();
            rule.is_exception
                && below.is_some_and(|below| {
                    below == directory
                        || below.strip_prefix(directory).is_some_and(|rest| rest.starts_with('/'))
                })
        };
        self.is_open || self.rules.iter().any(is_in)
    }
}

fn rule(line: &str, number: usize) -> Result<Rule, IgnoreError> {
    let (is_exception, text) = match line.strip_prefix('!') {
        Some(rest) => (true, rest.trim()),
        None => (false, line),
    };
    let cleaned = if text.is_empty() { String::new() } else { clean(text) };
    let relative = if cleaned.len() > 1 { cleaned.strip_prefix('/').unwrap_or(&cleaned) } else { &cleaned };
    if is_exception && matches!(relative, "" | "/") {
        return Err(IgnoreError::EmptyException(number));
    }
    let pattern = Pattern::new(relative)
        .ok_or_else(|| IgnoreError::Syntax { line: number, pattern: relative.to_owned() })?;
    Ok(Rule { is_exception, pattern })
}

/// A path without `.`, `a/..`, doubled and final slashes. `..` above the start stays, and matches nothing.
fn clean(path: &str) -> String {
    let is_absolute = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            ".." if is_absolute => {}
            other => parts.push(other),
        }
    }
    let joined = parts.join("/");
    match (is_absolute, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".to_owned(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks a path both ways: at once, and directory by directory.
    #[track_caller]
    fn check(file: &str, ignored: &[&str], kept: &[&str]) {
        let ignore = Ignore::parse(file.as_bytes()).expect(file);
        for (paths, expected) in [(ignored, true), (kept, false)] {
            for path in paths {
                assert_eq!(ignore.is_ignored(path), expected, "{path} in {file:?}");
                let mut matches = Matches::default();
                let mut result = false;
                let ends = path.match_indices('/').map(|(index, _)| index).chain([path.len()]);
                for end in ends {
                    (result, matches) = ignore.step(&path[..end], &matches);
                }
                assert_eq!(result, expected, "{path} step by step in {file:?}");
            }
        }
    }

    #[test]
    fn lines() {
        check(
            "\u{feff}a \r\n\n  b\n# c\n #d\n/e\n./f/\ng//h/../i\n",
            &["a", "b", "e", "f", "g/i", "#d"],
            &["c", "g/h", "# c"],
        );
        check("", &[], &["a"]);
        check("../a\n.\n/\n", &[], &["a", "b/a"]);
    }

    #[test]
    fn anchoring_and_directories() {
        check(
            "a\n*/b\n**/c",
            &["a", "a/x", "x/b", "x/b/y", "c", "x/y/c", "c/d"],
            &["x/a", "b", "x/y/b", "xc"],
        );
    }

    #[test]
    fn the_last_rule_that_matches_counts() {
        check("*.md\n!README.md", &["a.md"], &["README.md", "b/a.md"]);
        check("*.md\n!README*.md\nREADME-secret.md", &["README-secret.md"], &["README-x.md"]);
        check("*\n!a/b\n", &["a", "a/c", "x"], &["a/b", "a/b/c"]);
        check("!a\na", &["a"], &[]);
        check("**\n!**/*.go", &["x", "x/y"], &["a.go", "x/a.go"]);
        check("a\n! a/b ", &["a/c"], &["a/b"]);
    }

    #[test]
    fn a_rule_without_a_say_about_a_directory_has_none_about_what_is_in_it() {
        let ignore = Ignore::parse(b"**\n!**/*.go\nvendor").expect("an ignore file");
        let (is_ignored, matches) = ignore.step("vendor", &Matches::default());
        assert!(is_ignored);
        assert!(!ignore.step("vendor/a.go", &matches).0);
        assert!(ignore.is_ignored("vendor/a.go"));
    }

    #[test]
    fn mistakes() {
        let error = |file: &[u8]| Ignore::parse(file).expect_err("a mistake").to_string();
        assert_eq!(error(b"a\n!\n"), "line 2 of the ignore file: illegal exclusion pattern: \"!\"");
        assert_eq!(error(b"! /"), "line 1 of the ignore file: illegal exclusion pattern: \"!\"");
        assert!(error(b"x\na[\n").starts_with("line 2 of the ignore file: syntax error in pattern \"a[\""));
        assert_eq!(error(b"\xff"), "line 1 of the ignore file is not UTF-8 text");
        assert!(Ignore::parse(b"# \xff\na").is_ok());
        assert!(error(&vec![b'#'; MAX_FILE + 1]).contains("at most 1048576 are allowed"));
    }

    #[test]
    fn what_a_directory_may_hold() {
        let may = |file: &str, directory: &str| {
            Ignore::parse(file.as_bytes()).expect(file).may_have_exceptions_in(directory)
        };
        assert!(!may("a", "a"));
        assert!(may("a\n!a/b/c", "a") && may("a\n!a/b/c", "a/b") && may("a\n!a/b/c", "a/b/c"));
        assert!(!may("a\n!a/b/c", "a/x") && !may("a\n!ab", "a"));
        assert!(may("a\n!**/x", "z") && may("a\n!b/**", "b") && !may("a\n!b/**", "a"));
    }

    #[test]
    fn what_is_sure() {
        let sure = |file: &str, path: &str| Ignore::parse(file.as_bytes()).expect(file).surely_ignores(path);
        assert!(sure("a", "a/b") && !sure("a", "b") && !sure("a\n!c", "a"));
        assert!(sure("*", ".") && sure("**/*", ".") && !sure(".*", ".") && !sure("a", "."));
    }

    #[test]
    fn files_for_one_dockerfile() {
        assert_eq!(
            candidates("docker/web.Dockerfile"),
            ["docker/web.Dockerfile.dockerignore", ".dockerignore"]
        );
    }
}
