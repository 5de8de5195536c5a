//! Environment and label files: one `NAME=value` a line, `#` comments, a bare name taken from our own environment.

use std::path::Path;

use palan_stdx::fs;

/// What stands for a line without `=`.
#[derive(Clone, Copy)]
pub(crate) enum Bare<'a> {
    /// The variable of our own environment, and nothing if it isn't set: `--env-file`.
    FromEnvironment(&'a dyn Fn(&str) -> Option<String>),
    /// The name alone: `--label-file`.
    Keep,
}

/// Reads the files, in order. Errors are Docker's, without the flag's name.
pub(crate) fn read(files: &[&str], bare: Bare<'_>) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for file in files {
        let bytes = fs::read(Path::new(file)).map_err(|error| go_open_error(file, error.kind(), &error))?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            format!("env file {file} contains invalid utf8 bytes at line {line}")
        })?;
        parse(&text, bare, &mut lines)?;
    }
    Ok(lines)
}

/// `open /x: no such file or directory`, as Go says it.
pub(crate) fn go_open_error(path: &str, kind: std::io::ErrorKind, error: &dyn std::error::Error) -> String {
    match kind {
        std::io::ErrorKind::NotFound => format!("open {path}: no such file or directory"),
        std::io::ErrorKind::PermissionDenied => format!("open {path}: permission denied"),
        std::io::ErrorKind::IsADirectory => format!("read {path}: is a directory"),
        _ => {
            let source = error.source().map(|source| format!(": {source}")).unwrap_or_default();
            format!("{error}{source}")
        }
    }
}

fn parse(text: &str, bare: Bare<'_>, lines: &mut Vec<String>) -> Result<(), String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for line in text.lines() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains([' ', '\t']) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        match (line.contains('='), bare) {
            (true, _) | (false, Bare::Keep) => lines.push(line.to_owned()),
            (false, Bare::FromEnvironment(lookup)) => {
                if let Some(value) = lookup(name) {
                    lines.push(format!("{name}={value}"));
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_read_as_docker_does() {
        let lookup = |name: &str| (name == "HOME").then(|| "/root".to_owned());
        let mut lines = Vec::new();
        let text = "\u{feff}# comment\n\nA=1\n  B = 2 \nHOME\nNOPE\nC=\n";
        let error = parse(text, Bare::FromEnvironment(&lookup), &mut lines).unwrap_err();
        assert_eq!(error, "variable 'B ' contains whitespaces");
        lines.clear();
        parse("A=1 #x\r\nHOME\nNOPE\nC=\n", Bare::FromEnvironment(&lookup), &mut lines).unwrap();
        assert_eq!(lines, ["A=1 #x", "HOME=/root", "C="]);
        lines.clear();
        parse("a\nb=c", Bare::Keep, &mut lines).unwrap();
        assert_eq!(lines, ["a", "b=c"]);
        assert_eq!(parse("=x", Bare::Keep, &mut lines).unwrap_err(), "no variable name on line '=x'");
    }

    #[test]
    fn a_missing_file_has_gos_text() {
        assert_eq!(
            read(&["/nonexistent"], Bare::Keep).unwrap_err(),
            "open /nonexistent: no such file or directory"
        );
    }
}
