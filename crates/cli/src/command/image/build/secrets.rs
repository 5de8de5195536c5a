//! `--secret`: what steps may see and images never hold. A secret is read when the daemon asks for it.

use std::fmt;
use std::path::{Path, PathBuf};

use palan_buildkit::session::{self, MAX_SECRET};
use palan_stdx::fs;

use super::fields;
use crate::environment::Environment;
use crate::error::{CliError, Result};
use crate::run_flags::key_values::go_open_error;

/// A secret as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Asked {
    id: String,
    file: Option<String>,
    variable: Option<String>,
}

/// A secret, and where it is.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret {
    pub(crate) id: String,
    source: Source,
}

#[derive(Clone, PartialEq, Eq)]
enum Source {
    File(PathBuf),
    /// A variable's value.
    Value(String),
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Secret").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Reads `id=ID[,src=FILE|,env=VARIABLE][,type=file|env]`.
pub(crate) fn parse(text: &str) -> Result<Asked, String> {
    let Some(pairs) = fields::pairs(text)? else {
        return Err(format!("invalid field '{text}' must be a key=value pair"));
    };
    let mut asked = Asked { id: String::new(), file: None, variable: None };
    let mut is_variable = false;
    for (key, value) in pairs {
        match key.as_str() {
            "type" if value == "env" => is_variable = true,
            "type" if value == "file" => {}
            "type" => return Err(format!("unsupported secret type {value:?}")),
            "id" => asked.id = value,
            "source" | "src" => asked.file = Some(value),
            "env" => asked.variable = Some(value),
            _ => return Err(format!("unexpected key '{key}' in '{key}={value}'")),
        }
    }
    if is_variable && asked.variable.is_none() {
        asked.variable = asked.file.take();
    }
    if asked.id.is_empty() {
        return Err("secret missing ID".to_owned());
    }
    Ok(asked)
}

impl Asked {
    /// Finds where the secret is. Without a source it is the variable of its name, else the file.
    pub(crate) fn find(self, environment: &Environment) -> Result<Secret> {
        let Self { id, file, variable } = self;
        let of_variable = |name: &str| environment.get(name).map(str::to_owned);
        let source = match (variable, file) {
            // One that is not set is empty, as in Docker.
            (Some(name), _) => Source::Value(of_variable(&name).unwrap_or_default()),
            (None, Some(file)) => Source::File(file.into()),
            (None, None) => match of_variable(&id) {
                Some(value) => Source::Value(value),
                None => Source::File((&id).into()),
            },
        };
        if let Source::File(path) = &source {
            check(&id, path)?;
        }
        Ok(Secret { id, source })
    }
}

impl Secret {
    /// As the daemon can ask for it.
    pub(crate) fn offered(&self) -> session::Secret {
        match &self.source {
            Source::Value(value) => session::Secret::Value(value.clone().into()),
            Source::File(path) => session::Secret::File(path.clone()),
        }
    }
}

fn check(id: &str, path: &Path) -> Result<()> {
    let metadata = fs::metadata(path).map_err(|error| failed(id, path, &error))?;
    if !metadata.is_file() && metadata.is_dir() {
        return Err(CliError::new(format!("secret {id:?}: {} is a directory", path.display())));
    }
    if metadata.len() > MAX_SECRET {
        return Err(CliError::new(format!(
            "secret {id:?}: {} has {} bytes, which is too big; at most {MAX_SECRET} are allowed",
            path.display(),
            metadata.len()
        )));
    }
    Ok(())
}

fn failed(id: &str, path: &Path, error: &fs::PathError) -> CliError {
    let why = go_open_error(&path.display().to_string(), error.kind(), error);
    CliError::new(format!("secret {id:?}: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_found() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("s");
        std::fs::write(&file, "of the file").unwrap();
        let environment = Environment::of(&[("TOKEN", "of the variable")]);
        let read = |text: &str| {
            let secret = parse(text).map_err(CliError::new)?.find(&environment)?;
            Ok::<_, CliError>(match secret.source {
                Source::Value(value) => value,
                Source::File(path) => std::fs::read_to_string(path).unwrap(),
            })
        };
        let path = file.display();
        assert_eq!(read(&format!("id=s,src={path}")).unwrap(), "of the file");
        assert_eq!(read(&format!("type=file,id=s,source={path}")).unwrap(), "of the file");
        assert_eq!(read("id=TOKEN").unwrap(), "of the variable");
        assert_eq!(read("id=x,env=TOKEN").unwrap(), "of the variable");
        assert_eq!(read("id=x,type=env,src=TOKEN").unwrap(), "of the variable");
        assert_eq!(read("id=x,env=NOT_SET").unwrap(), "", "as in Docker");
        assert_eq!(
            read("id=x,src=/nonexist").unwrap_err().message,
            "secret \"x\": open /nonexist: no such file or directory"
        );
        for wrong in ["x", "src=x", "id=x,nope=1", "id=x,type=y", "id=d,src=/"] {
            read(wrong).unwrap_err();
        }
        std::fs::write(&file, vec![0; 600 * 1024]).unwrap();
        assert!(read(&format!("id=s,src={path}")).unwrap_err().message.contains("too big"));
        let secret = parse("id=TOKEN").unwrap().find(&environment).unwrap();
        assert_eq!(format!("{secret:?}"), "Secret { id: \"TOKEN\", .. }");
    }
}
