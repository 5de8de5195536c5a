//! Parser directives: `# name=value` at the top of the file.

use crate::{DockerfileError, Span};

/// What the directives said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directives {
    /// `# syntax=`: the image of the frontend that should read the file.
    pub syntax: Option<(String, Span)>,
    /// `# check=`: options of the checks.
    pub check: Option<(String, Span)>,
    /// `# escape=`: `\` or `` ` ``.
    pub escape: char,
}

impl Default for Directives {
    fn default() -> Self {
        Self { syntax: None, check: None, escape: '\\' }
    }
}

impl Directives {
    /// Whether the file is written for the frontend that we are: `docker/dockerfile` of any registry, version and channel.
    /// Nothing else can read it.
    pub fn check_syntax(&self) -> Result<(), DockerfileError> {
        let Some((text, span)) = &self.syntax else { return Ok(()) };
        let image = text.split(' ').next().unwrap_or_default();
        let reference = palan_oci::Reference::parse(image);
        let is_ours = reference.is_ok_and(|reference| {
            let mut names = reference.path().rsplit('/');
            names.next().is_some_and(|name| name.starts_with("dockerfile")) && names.next() == Some("docker")
        });
        if is_ours {
            return Ok(());
        }
        let message = format!(
            "the frontend {image:?} of the syntax directive is not supported: Dockerfiles are read by a built-in docker/dockerfile; remove the directive or name that one"
        );
        Err(DockerfileError::new(*span, message))
    }
}

/// Reads directives until something else stands there.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    pub(crate) found: Directives,
    has_escape: bool,
    is_closed: bool,
}

impl Reader {
    /// What follows is no directive, whatever it looks like.
    pub(crate) fn close(&mut self) {
        self.is_closed = true;
    }

    /// Takes a comment line; true if it was a directive.
    pub(crate) fn comment(&mut self, comment: &str, line: usize) -> Result<bool, DockerfileError> {
        if self.is_closed {
            return Ok(false);
        }
        // A file may be a program, too: its first line says of which interpreter.
        if line == 1 && comment.starts_with("#!") {
            return Ok(true);
        }
        let span = Span::line(line);
        let once = |is_repeated: bool, name: &str| match is_repeated {
            true => Err(DockerfileError::new(span, format!("only one {name} parser directive can be used"))),
            false => Ok(()),
        };
        match split(&comment[1..]) {
            Some(("syntax", value)) => {
                once(self.found.syntax.is_some(), "syntax")?;
                self.found.syntax = Some((value.to_owned(), span));
            }
            Some(("check", value)) => {
                once(self.found.check.is_some(), "check")?;
                self.found.check = Some((value.to_owned(), span));
            }
            Some(("escape", value)) => {
                once(self.has_escape, "escape")?;
                self.has_escape = true;
                self.found.escape = match value {
                    "\\" => '\\',
                    "`" => '`',
                    _ => {
                        let message = format!("invalid escape token '{value}' does not match ` or \\");
                        return Err(DockerfileError::new(span, message));
                    }
                };
            }
            _ => {
                self.close();
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// A known directive's name and value.
pub(crate) fn split(text: &str) -> Option<(&'static str, &str)> {
    let (name, value) = text.split_once('=')?;
    let name = name.trim_end();
    let value = value.trim();
    let known =
        ["syntax", "check", "escape"].into_iter().find(|known| name.trim_start().eq_ignore_ascii_case(known));
    known.filter(|_| !value.is_empty()).map(|known| (known, value))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(lines: &[&str]) -> Result<Directives, DockerfileError> {
        let mut reader = Reader::default();
        for (index, line) in lines.iter().enumerate() {
            reader.comment(line, index + 1)?;
        }
        Ok(reader.found)
    }

    #[test]
    fn directives_are_read_in_any_case_and_spacing() {
        let found =
            read(&["# Syntax = docker/dockerfile:1 ", "#ESCAPE=`", "#check=skip=all"]).expect("directives");
        assert_eq!(found.syntax.expect("syntax").0, "docker/dockerfile:1");
        assert_eq!(found.check.expect("check").0, "skip=all");
        assert_eq!(found.escape, '`');
        assert_eq!(read(&["#!/usr/bin/env palan", "# escape=`"]).expect("directives").escape, '`');
    }

    #[test]
    fn one_frontend_is_built_in() {
        let syntax = |text: &str| read(&[&format!("# syntax={text}")]).expect("a directive").check_syntax();
        for ours in [
            "docker/dockerfile:1",
            "docker/dockerfile",
            "docker.io/docker/dockerfile:1.7-labs",
            "docker/dockerfile-upstream:master",
            "mirror.example.com/hub/docker/dockerfile:1@sha256:0000000000000000000000000000000000000000000000000000000000000000",
            "docker/dockerfile:1 --option",
        ] {
            assert_eq!(syntax(ours), Ok(()), "{ours}");
        }
        for other in ["example/frontend", "dockerfile", "docker/other", "docker/dockerfile/x", "!"] {
            let error = syntax(other).expect_err(other);
            assert!(error.to_string().starts_with(&format!("the frontend {other:?}")), "{error}");
        }
        assert_eq!(Directives::default().check_syntax(), Ok(()));
    }

    #[test]
    fn a_comment_ends_them() {
        let found = read(&["# hello", "# escape=`"]).expect("directives");
        assert_eq!(found, Directives::default());
        let found = read(&["# unknown=1", "# escape=`"]).expect("directives");
        assert_eq!(found, Directives::default());
        let found = read(&["# syntax=", "# escape=`"]).expect("directives");
        assert_eq!(found, Directives::default());
    }

    #[test]
    fn mistakes() {
        let error = read(&["# escape=\\", "# escape=`"]).expect_err("twice");
        assert_eq!(
            (error.to_string().as_str(), error.span()),
            ("only one escape parser directive can be used", Span::line(2))
        );
        let error = read(&["# escape=x"]).expect_err("no such token");
        assert_eq!(error.to_string(), "invalid escape token 'x' does not match ` or \\");
    }
}
