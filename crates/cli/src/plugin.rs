//! Plugins of Docker's command line: `docker-compose` in a directory of plugins is the command `compose`.
//!
//! A plugin gets the whole command line and takes this program's place, so its exit code, signals and terminal are the
//! user's. It knows nothing of Palan: the daemon that was chosen is named to it as Docker's variables name one. Its answer
//! to `docker-cli-plugin-metadata` describes it in the help.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use palan_stdx::fs;
use serde::Deserialize;

use crate::app::App;
use crate::autostart;
use crate::environment::{DOCKER_CONTEXT, DOCKER_HOST};
use crate::error::{CliError, Kind, Result};

/// Where plugins are, besides `cli-plugins` of the user's configuration; earlier ones win.
const DIRECTORIES: [&str; 4] = [
    "/usr/local/lib/docker/cli-plugins",
    "/usr/local/libexec/docker/cli-plugins",
    "/usr/lib/docker/cli-plugins",
    "/usr/libexec/docker/cli-plugins",
];

/// What the file of a plugin is called before its name.
const PREFIX: &str = "docker-";

/// How a plugin knows that it was not called by itself.
const CALLED_BY: &str = "DOCKER_CLI_PLUGIN_ORIGINAL_CLI_COMMAND";

/// A plugin that is installed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plugin {
    pub(crate) name: String,
    path: PathBuf,
}

/// What a plugin says about itself.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Metadata {
    schema_version: String,
    vendor: String,
    short_description: String,
}

/// The plugin of this name.
pub(crate) fn find(app: &App, name: &str) -> Option<Plugin> {
    is_name(name).then_some(())?;
    let file = format!("{PREFIX}{name}");
    let found =
        directories(app).into_iter().map(|directory| directory.join(&file)).find(|path| is_program(path));
    found.map(|path| Plugin { name: name.to_owned(), path })
}

/// All plugins, by name.
pub(crate) fn all(app: &App) -> Vec<Plugin> {
    let mut plugins: Vec<Plugin> = Vec::new();
    for directory in directories(app) {
        for entry in fs::if_exists(fs::read_dir(&directory)).ok().flatten().unwrap_or_default() {
            let file = entry.file_name();
            let Some(name) = file.to_str().and_then(|file| file.strip_prefix(PREFIX)) else { continue };
            let is_new = is_name(name) && plugins.iter().all(|plugin| plugin.name != name);
            if is_new && is_program(&entry.path()) {
                plugins.push(Plugin { name: name.to_owned(), path: entry.path() });
            }
        }
    }
    plugins.sort_by(|a, b| a.name.cmp(&b.name));
    plugins
}

fn directories(app: &App) -> Vec<PathBuf> {
    let own = app.config_directory().join("cli-plugins");
    std::iter::once(own).chain(DIRECTORIES.into_iter().map(PathBuf::from)).collect()
}

fn is_name(name: &str) -> bool {
    name.starts_with(|c: char| c.is_ascii_lowercase())
        && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit())
}

fn is_program(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.is_file() && metadata.permissions().mode() & 0o111 != 0)
}

impl Plugin {
    /// A line about it for the help; `None` for a program that is no plugin.
    #[expect(
        clippy::disallowed_methods,
        reason = "the user's own program, with the user's environment and terminal"
    )]
    pub(crate) fn describe(&self) -> Option<String> {
        let mut command = Command::new(&self.path);
        let output = command.arg("docker-cli-plugin-metadata").stdin(Stdio::null()).output().ok()?;
        let metadata: Metadata = serde_json::from_slice(&output.stdout).ok()?;
        let fits = metadata.schema_version.split('.').next() == Some("0") && !metadata.vendor.is_empty();
        fits.then(|| match metadata.short_description.as_str() {
            "" => format!("({})", metadata.vendor),
            text => format!("{text} ({})", metadata.vendor),
        })
    }

    /// Becomes the plugin; returns only if that fails.
    #[expect(
        clippy::disallowed_methods,
        reason = "the user's own program, with the user's environment and terminal"
    )]
    pub(crate) fn run(&self, app: &App, words: &[String]) -> Result<()> {
        let target = app.target()?;
        if let (true, palan_docker_api::host::Host::Unix(socket)) = (target.by_default, &target.host) {
            autostart::ensure(socket, &app.environment)?;
        }
        let mut command = Command::new(&self.path);
        command.args(words).env(CALLED_BY, std::env::args_os().next().unwrap_or_default());
        if target.context == crate::context::store::DEFAULT {
            command.env(DOCKER_HOST, target.host.to_string()).env_remove(DOCKER_CONTEXT);
        } else {
            command.env(DOCKER_CONTEXT, target.context).env_remove(DOCKER_HOST);
        }
        let error = command.exec();
        let path = String::from_utf8_lossy(self.path.as_os_str().as_bytes()).into_owned();
        Err(CliError::of(Kind::NotExecutable, format!("cannot run the plugin {path}: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::app::Program;
    use crate::environment::Environment;
    use crate::output::streams::{Sink, Streams};

    fn install(directory: &Path, name: &str, mode: u32, script: &str) {
        fs::create_dir_all(directory, 0o755).unwrap();
        let path = directory.join(name);
        fs::write(&path, script).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn plugins_are_found_and_described() {
        let home = tempfile::tempdir().unwrap();
        let directory = home.path().join(".docker/cli-plugins");
        let good = "#!/bin/sh\necho '{\"SchemaVersion\":\"0.1.0\",\"Vendor\":\"V\",\"ShortDescription\":\"Does it\"}'\n";
        install(&directory, "docker-one", 0o755, good);
        install(&directory, "docker-two", 0o755, "#!/bin/sh\necho no metadata\n");
        install(&directory, "docker-three", 0o644, good);
        install(&directory, "docker-not_a_name", 0o755, good);
        let streams = Streams::of_test(
            std::io::empty(),
            Sink::new("stdout", std::io::sink()),
            Sink::new("stderr", std::io::sink()),
        );
        let environment = Environment::of(&[("HOME", home.path().to_str().unwrap())]);
        let app = App::new(Program::Palan, streams, environment);
        let names: Vec<String> = all(&app).into_iter().map(|plugin| plugin.name).collect();
        assert!(names.contains(&"one".to_owned()) && names.contains(&"two".to_owned()), "{names:?}");
        assert!(!names.contains(&"three".to_owned()), "{names:?}");
        assert_eq!(find(&app, "one").unwrap().describe().unwrap(), "Does it (V)");
        assert_eq!(find(&app, "two").unwrap().describe(), None);
        for name in ["three", "not_a_name", "../one", ""] {
            assert_eq!(find(&app, name), None, "{name}");
        }
    }
}
