//! What is built: where the context is, and the Dockerfile.
//!
//! ```text
//! PATH       a directory, sent as far as the daemon asks for it; the Dockerfile in it, by -f anywhere here, or -f - on stdin
//! -          stdin: an archive (plain, gzip, zstd, bzip2, xz) is a context, anything else a Dockerfile without one
//! URL        a repository or an archive; the daemon fetches it, and the Dockerfile with it, unless -f is - or an absolute path here
//! ```
//! What comes by stdin is put in a directory of our own, which goes with the build.

use std::io;
use std::path::{Path, PathBuf};

use palan_context::remote;
use palan_dockerfile::{MAX_FILE, Source as Text};
use palan_linux::path::RootDir;
use palan_stdx::{error_chain, fs};

use super::input::{self, Input, OwnDirectory};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::run_flags::key_values::go_open_error;

const DOCKERFILE: &str = "Dockerfile";

/// What is built.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) context: Context,
    /// The name of the Dockerfile in its directory, or in the context elsewhere.
    pub(crate) filename: String,
    /// The directory of the Dockerfile, unless it is in a context elsewhere.
    pub(crate) directory: Option<PathBuf>,
    /// The Dockerfile, where it is here.
    pub(crate) text: Option<Vec<u8>>,
    /// What was made for stdin.
    own: Vec<OwnDirectory>,
}

/// Where the context is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Context {
    Directory(PathBuf),
    /// What the daemon fetches.
    Remote(String),
}

impl Source {
    /// Finds it.
    pub(crate) fn find(app: &App, context: &str, file: &str) -> Result<Self> {
        if context == "-" {
            return Self::of_input(app, file);
        }
        let is_directory = Path::new(context).is_dir();
        let address =
            if is_directory { None } else { remote::context(context).map_err(|error| wrong(&error))? };
        if address.is_some() {
            return Self::elsewhere(app, context, file);
        }
        if !is_directory {
            return Err(CliError::new(format!(
                "ERROR: unable to prepare context: path {context:?} not found"
            )));
        }
        let context = PathBuf::from(context);
        if file == "-" {
            return Self::with_text(app, Context::Directory(context), input::text(app)?);
        }
        let path = match file {
            "" => default_dockerfile(&context)?,
            file if file.starts_with("http://") || file.starts_with("https://") => {
                return Err(CliError::new(format!(
                    "the Dockerfile {file:?} can't be an address: download it, and give it with -f"
                )));
            }
            file => PathBuf::from(file),
        };
        Self::with_file(Context::Directory(context), &path)
    }

    /// The Dockerfile for messages; nothing if the daemon has it.
    pub(crate) fn shown(&self) -> Option<Text> {
        self.text.as_ref().map(|text| Text::new(self.filename.clone(), text))
    }

    fn elsewhere(app: &App, address: &str, file: &str) -> Result<Self> {
        if file == "-" {
            return Self::with_text(app, Context::Remote(address.to_owned()), input::text(app)?);
        }
        // A path from the root on means nothing in the context; as in Docker, it is ours.
        if Path::new(file).is_absolute() {
            return Self::with_file(Context::Remote(address.to_owned()), Path::new(file));
        }
        Ok(Self {
            context: Context::Remote(address.to_owned()),
            filename: if file.is_empty() { DOCKERFILE.to_owned() } else { file.to_owned() },
            directory: None,
            text: None,
            own: Vec::new(),
        })
    }

    fn of_input(app: &App, file: &str) -> Result<Self> {
        if file == "-" {
            return Err(CliError::new(
                "invalid argument: can't use stdin for both build context and dockerfile",
            ));
        }
        match input::read(app)? {
            Input::Archive(own) => {
                let name = if file.is_empty() { DOCKERFILE } else { file };
                // It may be a symlink, which leads nowhere else than into the archive.
                let root = RootDir::open(own.path()).map_err(|error| wrong(&error))?;
                let text = root
                    .read(name, MAX_FILE as u64 + 1)
                    .map_err(|error| unreadable(&go_open_error(name, error.kind(), &error)))?;
                Ok(Self {
                    context: Context::Directory(own.path().to_owned()),
                    filename: name.to_owned(),
                    directory: Some(own.path().to_owned()),
                    text: Some(text),
                    own: vec![own],
                })
            }
            Input::Text(_) if !file.is_empty() => Err(CliError::new(
                "ambiguous Dockerfile source: both stdin and flag correspond to Dockerfiles",
            )),
            Input::Text(text) => {
                let empty = OwnDirectory::new(app)?;
                let mut source = Self::with_text(app, Context::Directory(empty.path().to_owned()), text)?;
                source.own.push(empty);
                Ok(source)
            }
        }
    }

    fn with_file(context: Context, path: &Path) -> Result<Self> {
        let text = read(path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        Ok(Self {
            context,
            filename: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            directory: Some(directory.unwrap_or(Path::new(".")).to_owned()),
            text: Some(text),
            own: Vec::new(),
        })
    }

    fn with_text(app: &App, context: Context, text: Vec<u8>) -> Result<Self> {
        let own = OwnDirectory::new(app)?;
        fs::write(&own.path().join(DOCKERFILE), &text).map_err(|error| wrong(&error))?;
        Ok(Self {
            context,
            filename: DOCKERFILE.to_owned(),
            directory: Some(own.path().to_owned()),
            text: Some(text),
            own: vec![own],
        })
    }
}

/// The Dockerfile of a directory; Docker takes one in lower case, too.
fn default_dockerfile(context: &Path) -> Result<PathBuf> {
    let path = context.join(DOCKERFILE);
    let lower = context.join("dockerfile");
    if path.exists() || !lower.exists() {
        return Ok(path);
    }
    Ok(lower)
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display().to_string();
    let failed = |error: &fs::PathError| {
        let failure = unreadable(&go_open_error(&shown, error.kind(), error));
        let other = path.with_file_name("Containerfile");
        match error.kind() {
            io::ErrorKind::NotFound if other.exists() => {
                failure.hint(format!("There is a {}: name it with -f.", other.display()))
            }
            io::ErrorKind::NotFound => failure.hint("Name the Dockerfile with -f."),
            _ => failure,
        }
    };
    let metadata = fs::metadata(path).map_err(|error| failed(&error))?;
    if metadata.is_dir() {
        return Err(unreadable(&format!("{shown} is a directory")));
    }
    if metadata.len() > MAX_FILE as u64 {
        let length = metadata.len();
        return Err(unreadable(&format!("{shown} has {length} bytes; at most {MAX_FILE} are allowed")));
    }
    fs::read(path).map_err(|error| failed(&error))
}

fn unreadable(why: &str) -> CliError {
    CliError::new(format!("ERROR: failed to build: failed to read dockerfile: {why}"))
}

fn wrong(error: &(dyn std::error::Error + 'static)) -> CliError {
    CliError::new(error_chain::to_string(error))
}
