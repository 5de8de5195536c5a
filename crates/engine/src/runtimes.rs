//! The runtimes that containers can have, by name: Palan's own, and programs with runc's command line that the
//! administrator has registered (`runtimes`, `--add-runtime`) or that a client names by their path.
//!
//! Docker always has `runc` and `io.containerd.runc.v2`, so clients and Compose files name them. Here they are other names
//! of Palan's own runtime, unless the settings say which program they mean.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use palan_supervisor::protocol::ExternalRuntime;
use serde_json::Value;

use crate::{Error, Result};

/// The name of Palan's own runtime.
pub const BUILTIN: &str = "palan";

/// Other names of Palan's own runtime.
const ALIASES: [&str; 2] = ["io.containerd.runc.v2", "runc"];

/// Where programs without a path are looked for if the daemon has no `PATH`.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A registered program.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OciRuntime {
    /// Its absolute path, or a name to be found in the daemon's `PATH`.
    pub path: String,
    /// Arguments that stand before all others.
    pub arguments: Vec<String>,
}

/// All runtimes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Runtimes {
    registered: BTreeMap<String, OciRuntime>,
    default: String,
    /// The daemon's `PATH`, which the programs get as well.
    search_path: String,
}

/// What a name means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Runtime {
    /// Palan's own, inside of the supervisor.
    Builtin,
    /// A program.
    Program(OciRuntime),
}

impl Default for Runtimes {
    fn default() -> Self {
        Self {
            registered: BTreeMap::new(),
            default: BUILTIN.to_owned(),
            search_path: DEFAULT_PATH.to_owned(),
        }
    }
}

impl Runtimes {
    /// Those that the settings name; `default` is for containers that name none.
    pub fn new(registered: BTreeMap<String, OciRuntime>, default: Option<&str>) -> Result<Self> {
        let mut runtimes = Self { registered, ..Self::default() };
        if let Some(name) = default {
            let known = runtimes.named(name);
            known.ok_or_else(|| {
                Error::invalid(format!("specified default runtime '{name}' does not exist"))
            })?;
            name.clone_into(&mut runtimes.default);
        }
        Ok(runtimes)
    }

    /// Sets where programs without a path are looked for.
    pub fn set_search_path(&mut self, path: String) {
        self.search_path = path;
    }

    /// The daemon's `PATH`.
    pub(crate) fn search_path(&self) -> &str {
        &self.search_path
    }

    /// The name of the runtime of containers that name none.
    pub fn default_name(&self) -> &str {
        &self.default
    }

    /// All names with what they mean, as `info` shows them: the builtin one has its own name for a path.
    pub fn all(&self) -> BTreeMap<String, OciRuntime> {
        let builtin = OciRuntime { path: BUILTIN.to_owned(), ..OciRuntime::default() };
        let names = ALIASES.iter().chain([&BUILTIN]);
        let mut all: BTreeMap<_, _> = names.map(|name| ((*name).to_owned(), builtin.clone())).collect();
        all.extend(self.registered.clone());
        all
    }

    /// The runtime that a container asks for.
    pub(crate) fn find(&self, name: &str) -> Result<Runtime> {
        // As in Docker a client may name a program that nobody has registered: the API is root's in any case.
        let by_path = || {
            let is_path = Path::new(name).is_absolute() && !name.contains('\0');
            is_path.then(|| Runtime::Program(OciRuntime { path: name.to_owned(), ..OciRuntime::default() }))
        };
        let found = self.named(name).or_else(by_path);
        found.ok_or_else(|| Error::invalid(format!("unknown or invalid runtime name: {name}")))
    }

    fn named(&self, name: &str) -> Option<Runtime> {
        if let Some(registered) = self.registered.get(name) {
            return Some(Runtime::Program(registered.clone()));
        }
        (name == BUILTIN || ALIASES.contains(&name)).then_some(Runtime::Builtin)
    }

    /// What the supervisor of container `id` needs to know; `None` for the builtin runtime.
    pub(crate) fn for_supervisor(&self, name: &str, id: &str) -> Result<Option<ExternalRuntime>> {
        let Runtime::Program(program) = self.find(name)? else { return Ok(None) };
        Ok(Some(ExternalRuntime {
            id: id.to_owned(),
            program: self.locate(name, &program.path)?,
            arguments: program.arguments,
            environment: vec![format!("PATH={}", self.search_path)],
        }))
    }

    fn locate(&self, name: &str, path: &str) -> Result<PathBuf> {
        if path.starts_with('/') {
            return Ok(PathBuf::from(path));
        }
        find_program(&self.search_path, path).ok_or_else(|| {
            Error::system(format!(
                "runtime {name}: exec: {path:?}: executable file not found in the daemon's $PATH"
            ))
        })
    }
}

/// Looks for a program in the directories of a `PATH`.
pub(crate) fn find_program(search_path: &str, name: &str) -> Option<PathBuf> {
    let directories = std::env::split_paths(search_path).filter(|directory| directory.is_absolute());
    let mut candidates = directories.map(|directory| directory.join(name));
    candidates.find(|candidate| candidate.is_file())
}

/// Reads the value of `runtimes`. `wrong` makes the error for a value of another form.
pub(crate) fn parse(value: &Value, wrong: impl Fn() -> Error) -> Result<BTreeMap<String, OciRuntime>> {
    let list = value.as_object().ok_or_else(&wrong)?;
    let mut runtimes = BTreeMap::new();
    for (name, value) in list {
        check_name(name)?;
        let invalid = |problem: &str| Error::invalid(format!("runtimes: runtime {name}: {problem}"));
        let mut runtime = OciRuntime::default();
        for (key, value) in value.as_object().ok_or_else(&wrong)? {
            match key.as_str() {
                "path" => value.as_str().ok_or_else(&wrong)?.clone_into(&mut runtime.path),
                "runtimeArgs" => {
                    let words = value.as_array().ok_or_else(&wrong)?.iter();
                    let words = words.map(|word| word.as_str().map(str::to_owned)).collect::<Option<_>>();
                    runtime.arguments = words.ok_or_else(&wrong)?;
                }
                "runtimeType" | "options" => {
                    return Err(invalid(&format!(
                        "{key:?} configures a containerd shim, which Palan does not use: give the \"path\" of a \
                         program with runc's command line instead"
                    )));
                }
                other => return Err(invalid(&format!("unknown key {other:?}"))),
            }
        }
        match runtime.path.as_str() {
            "" => return Err(invalid("a path must be configured")),
            path if path.contains('/') && !path.starts_with('/') => {
                return Err(invalid(&format!(
                    "the path {path:?} must be absolute, or a name to be found in $PATH"
                )));
            }
            _ => {}
        }
        runtimes.insert(name.clone(), runtime);
    }
    Ok(runtimes)
}

fn check_name(name: &str) -> Result<()> {
    if name == BUILTIN {
        return Err(Error::invalid(format!("runtimes: runtime name '{name}' is reserved")));
    }
    if name.is_empty() || name.contains(['/', '\0']) {
        return Err(Error::invalid(format!("runtimes: {name:?} can't be the name of a runtime")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<BTreeMap<String, OciRuntime>> {
        parse(&serde_json::from_str(json).expect("JSON"), || Error::invalid("wrong"))
    }

    fn refused(json: &str, expected: &str) {
        assert!(read(json).expect_err("refused").to_string().contains(expected), "{json}");
    }

    #[test]
    fn settings() {
        let read =
            read(r#"{"other": {"path": "/opt/o", "runtimeArgs": ["--debug"]}, "runc": {"path": "runc"}}"#);
        let read = read.expect("fine");
        assert_eq!(read["other"], OciRuntime { path: "/opt/o".into(), arguments: vec!["--debug".into()] });
        refused(r#"{"x": {"runtimeType": "io.containerd.kata.v2"}}"#, "configures a containerd shim");
        refused(r#"{"x": {"path": "/x", "options": {}}}"#, "configures a containerd shim");
        refused(r#"{"x": {}}"#, "a path must be configured");
        refused(r#"{"x": {"path": "bin/x"}}"#, "must be absolute");
        refused(r#"{"x": {"path": "/x", "args": []}}"#, "unknown key \"args\"");
        refused(r#"{"palan": {"path": "/x"}}"#, "'palan' is reserved");
        refused(r#"{"x": "/x"}"#, "wrong");
        refused("[]", "wrong");
    }

    #[test]
    fn names() {
        let registered = read(r#"{"own": {"path": "/opt/o"}}"#).expect("fine");
        let runtimes = Runtimes::new(registered.clone(), None).expect("fine");
        assert_eq!(runtimes.default_name(), "palan");
        for name in ["palan", "runc", "io.containerd.runc.v2"] {
            assert_eq!(runtimes.find(name).expect("known"), Runtime::Builtin);
        }
        let program =
            |path: &str| Runtime::Program(OciRuntime { path: path.into(), ..OciRuntime::default() });
        assert_eq!(runtimes.find("own").expect("known"), program("/opt/o"));
        assert_eq!(runtimes.find("/usr/bin/crun").expect("a path"), program("/usr/bin/crun"));
        for name in ["crun", "bin/crun", ""] {
            let error = runtimes.find(name).expect_err("unknown");
            assert_eq!(error.to_string(), format!("unknown or invalid runtime name: {name}"));
            assert_eq!(error.class(), crate::Class::InvalidParameter);
        }
        // What is registered wins over what the name means otherwise.
        let runtimes = Runtimes::new(read(r#"{"runc": {"path": "/r"}}"#).expect("fine"), Some("runc"));
        let runtimes = runtimes.expect("fine");
        assert_eq!(runtimes.find("runc").expect("known"), program("/r"));
        assert_eq!(runtimes.all().len(), 3);
        let missing = Runtimes::new(registered, Some("crun")).expect_err("unknown");
        assert_eq!(missing.to_string(), "specified default runtime 'crun' does not exist");
    }

    #[test]
    fn programs_without_a_path_are_looked_for() {
        let mut runtimes =
            Runtimes::new(read(r#"{"s": {"path": "sh"}}"#).expect("fine"), None).expect("fine");
        runtimes.set_search_path("relative:/nosuch:/bin".into());
        let found = runtimes.for_supervisor("s", "c").expect("found").expect("a program");
        assert_eq!((found.program, found.id.as_str()), (PathBuf::from("/bin/sh"), "c"));
        assert_eq!(found.environment, ["PATH=relative:/nosuch:/bin"]);
        runtimes.set_search_path("/nosuch".into());
        let missing = runtimes.for_supervisor("s", "c").expect_err("missing").to_string();
        assert!(missing.contains("not found in the daemon's $PATH"), "{missing}");
        assert_eq!(runtimes.for_supervisor("runc", "c").expect("builtin"), None);
    }
}
