//! What variables mean: the global scope before the first `FROM`, and the one of each stage.

use std::collections::{BTreeMap, BTreeSet};

use palan_oci::Platform;

use crate::ast::{Argument, Command, Dockerfile, Files, Instruction, Run};
use crate::mount::Mount;
use crate::word::{Expansion, Lexer, Quotes, Variables};
use crate::words::Pair;
use crate::{DockerfileError, Span};

/// Names and values: of `--build-arg`, of the global scope.
pub type Values = BTreeMap<String, String>;

impl Variables for Values {
    fn get(&self, name: &str) -> Option<&str> {
        Self::get(self, name).map(String::as_str)
    }
}

/// Arguments that say something to the builder and are never in the environment.
const NOT_IN_ENVIRONMENT: [&str; 2] = ["BUILDKIT_SBOM_SCAN_CONTEXT", "BUILDKIT_SBOM_SCAN_STAGE"];

/// Whether it is one of the proxy variables: a `RUN` gets them from `--build-arg` without an `ARG`, and they are neither in the
/// history nor in the cache's keys.
pub fn is_proxy(name: &str) -> bool {
    ["http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy"]
        .iter()
        .any(|proxy| proxy.eq_ignore_ascii_case(name))
}

/// The global scope.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Globals {
    /// Values of the platforms' variables and of the `ARG`s before the first `FROM`.
    pub values: Values,
    /// The `ARG`s before the first `FROM`, with or without a value.
    pub declared: BTreeSet<String>,
}

/// What the build was asked for.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `--build-arg`.
    pub build_args: &'a Values,
    /// Where steps are executed.
    pub build_platform: &'a Platform,
    /// What the result is for.
    pub target_platform: &'a Platform,
    /// `--target`, or the last stage's name if it has one.
    pub target: Option<&'a str>,
}

impl Globals {
    /// Expands the `ARG`s before the first `FROM` in their order.
    pub fn new(file: &Dockerfile, request: &Request<'_>) -> Result<Self, DockerfileError> {
        let mut values = platform_values(request);
        let mut declared = BTreeSet::new();
        let lexer = Lexer::new(file.directives.escape);
        for instruction in &file.arguments {
            let Command::Arg(arguments) = &instruction.command else { continue };
            for argument in arguments {
                declared.insert(argument.name.clone());
                let value = match (request.build_args.get(&argument.name), &argument.value) {
                    (Some(given), _) => given.clone(),
                    (None, Some(default)) => {
                        let expansion = lexer.expand(default, &values);
                        expansion.map_err(|message| DockerfileError::new(instruction.span, message))?.text
                    }
                    (None, None) => continue,
                };
                values.insert(argument.name.clone(), value);
            }
        }
        Ok(Self { values, declared })
    }
}

fn platform_values(request: &Request<'_>) -> Values {
    let mut values = Values::new();
    for (prefix, platform) in [("BUILD", request.build_platform), ("TARGET", request.target_platform)] {
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        values.insert(format!("{prefix}PLATFORM"), platform.to_string());
        values.insert(format!("{prefix}OS"), platform.os.clone());
        values.insert(format!("{prefix}OSVERSION"), text(&platform.os_version));
        values.insert(format!("{prefix}ARCH"), platform.architecture.clone());
        values.insert(format!("{prefix}VARIANT"), text(&platform.variant));
    }
    values.insert("TARGETSTAGE".to_owned(), request.target.unwrap_or("default").to_owned());
    for (name, value) in &mut values {
        if let Some(given) = request.build_args.get(name) {
            value.clone_from(given);
        }
    }
    values
}

/// A variable that is used and not set.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unset {
    /// Its name.
    pub name: String,
    /// A name that is set and was perhaps meant.
    pub meant: Option<String>,
}

/// The variables of a stage, instruction by instruction.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    lexer: Lexer,
    globals: &'a Globals,
    build_args: &'a Values,
    environment: Environment,
    arguments: Vec<Argument>,
}

/// Variables in the order in which they were set first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Environment(Vec<(String, String)>);

impl Environment {
    /// Takes `NAME=value` entries of an image's configuration.
    pub fn of_image(entries: &[String]) -> Self {
        let mut environment = Self::default();
        for entry in entries {
            let (name, value) = entry.split_once('=').unwrap_or((entry, ""));
            environment.set(name, value);
        }
        environment
    }

    /// Sets a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.0.push((name.to_owned(), value.to_owned())),
        }
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl Variables for Environment {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

impl<'a> Scope<'a> {
    /// The scope at the start of a stage on an image with that environment. A stage on another stage starts with a clone of
    /// that one's scope at its end.
    pub fn new(file: &Dockerfile, globals: &'a Globals, build_args: &'a Values, base: Environment) -> Self {
        let lexer = Lexer::new(file.directives.escape);
        Self { lexer, globals, build_args, environment: base, arguments: Vec::new() }
    }

    /// What a `RUN` finds in its environment, proxies aside.
    pub fn environment(&self) -> &Environment {
        &self.environment
    }

    /// The `ARG`s so far, with their values: what the history of a `RUN` names.
    pub fn arguments(&self) -> &[Argument] {
        &self.arguments
    }

    /// The instruction with all variables expanded, except for a `RUN`'s mounts ([`Self::mounts`]); `ENV` and `ARG` then
    /// hold for what follows. Variables that aren't set are told to `unset`.
    pub fn step(
        &mut self,
        instruction: &Instruction,
        unset: &mut dyn FnMut(Unset),
    ) -> Result<Command, DockerfileError> {
        let fail = |message: String| DockerfileError::new(instruction.span, message);
        let command = self.expand(&instruction.command, unset).map_err(fail)?;
        match &command {
            Command::Env(pairs) => {
                pairs.iter().for_each(|pair| self.environment.set(&pair.name, &pair.value))
            }
            Command::Arg(arguments) => arguments.iter().for_each(|argument| self.declare(argument)),
            _ => {}
        }
        Ok(command)
    }

    /// A `RUN`'s mounts with their variables expanded.
    pub fn mounts(
        &self,
        run: &Run,
        span: Span,
        unset: &mut dyn FnMut(Unset),
    ) -> Result<Vec<Mount>, DockerfileError> {
        let mut expand = |text: &str| self.word(text, unset);
        let mounts: Result<Vec<Mount>, String> =
            run.mounts.iter().map(|mount| mount.resolve(&mut expand)).collect();
        mounts.map_err(|message| DockerfileError::new(span, message))
    }

    fn expand(&mut self, command: &Command, unset: &mut dyn FnMut(Unset)) -> Result<Command, String> {
        let mut list =
            |texts: &[String]| texts.iter().map(|text| self.word(text, unset)).collect::<Result<_, _>>();
        Ok(match command {
            Command::Volume(paths) => Command::Volume(list(paths)?),
            Command::Workdir(path) => Command::Workdir(self.word(path, unset)?),
            Command::User(user) => Command::User(self.word(user, unset)?),
            Command::Stopsignal(signal) => Command::Stopsignal(self.word(signal, unset)?),
            Command::Env(pairs) => Command::Env(self.pairs(pairs, unset)?),
            Command::Label(pairs) => Command::Label(self.pairs(pairs, unset)?),
            Command::Expose(ports) => {
                let mut words = Vec::new();
                for port in ports {
                    words.extend(self.lexer.expand(port, &self.environment)?.words);
                }
                Command::Expose(words)
            }
            Command::Arg(arguments) => Command::Arg(self.argument_values(arguments, unset)?),
            Command::Copy { files, from, parents } => {
                Command::Copy { files: self.files(files, unset)?, from: from.clone(), parents: *parents }
            }
            Command::Add { files, checksum, keep_git_dir, unpack } => Command::Add {
                files: self.files(files, unset)?,
                checksum: self.optional(checksum.as_deref(), unset)?,
                keep_git_dir: *keep_git_dir,
                unpack: *unpack,
            },
            Command::Cmd(_)
            | Command::Entrypoint(_)
            | Command::Healthcheck(_)
            | Command::Maintainer(_)
            | Command::Onbuild(_)
            | Command::Run(_)
            | Command::Shell(_) => command.clone(),
        })
    }

    fn word(&self, text: &str, unset: &mut dyn FnMut(Unset)) -> Result<String, String> {
        let expansion = self.lexer.expand(text, &self.environment)?;
        self.report(&expansion, unset);
        Ok(expansion.text)
    }

    fn optional(&self, text: Option<&str>, unset: &mut dyn FnMut(Unset)) -> Result<Option<String>, String> {
        let expanded = text.map(|text| self.word(text, unset)).transpose()?;
        Ok(expanded.filter(|text| !text.is_empty()))
    }

    /// A declared argument without a value is no mistake.
    fn report(&self, expansion: &Expansion, unset: &mut dyn FnMut(Unset)) {
        for name in &expansion.unmatched {
            let is_declared = self.arguments.iter().any(|argument| argument.name == *name);
            if !is_declared && !NOT_IN_ENVIRONMENT.contains(&name.as_str()) {
                let known = self.environment.iter().map(|(name, _)| name);
                let meant = crate::suggest::closest(name, known).map(str::to_owned);
                unset(Unset { name: name.clone(), meant });
            }
        }
    }

    fn pairs(&self, pairs: &[Pair], unset: &mut dyn FnMut(Unset)) -> Result<Vec<Pair>, String> {
        let mut pair = |pair: &Pair| {
            Ok(Pair {
                name: self.word(&pair.name, unset)?,
                value: self.word(&pair.value, unset)?,
                is_legacy: pair.is_legacy,
            })
        };
        pairs.iter().map(&mut pair).collect()
    }

    fn files(&self, files: &Files, unset: &mut dyn FnMut(Unset)) -> Result<Files, String> {
        let mut expanded = Files {
            sources: Vec::with_capacity(files.sources.len()),
            inline: files.inline.clone(),
            destination: self.word(&files.destination, unset)?,
            chown: self.optional(files.chown.as_deref(), unset)?,
            chmod: self.optional(files.chmod.as_deref(), unset)?,
            link: files.link,
            exclude: files.exclude.clone(),
        };
        for source in &files.sources {
            expanded.sources.push(self.word(source, unset)?);
        }
        let lexer = Lexer { quotes: Quotes::Ignore, ..Lexer::new('\\') };
        for inline in expanded.inline.iter_mut().filter(|inline| inline.expand) {
            let expansion = lexer.expand(&inline.content, &self.environment)?;
            self.report(&expansion, unset);
            inline.content = expansion.text;
        }
        Ok(expanded)
    }

    /// The arguments with their values: `--build-arg`, else the default, else the global scope's. A default may use the arguments
    /// in front of it.
    fn argument_values(
        &mut self,
        arguments: &[Argument],
        unset: &mut dyn FnMut(Unset),
    ) -> Result<Vec<Argument>, String> {
        let before = self.environment.clone();
        let mut resolved = Vec::with_capacity(arguments.len());
        for argument in arguments {
            let value = match (self.build_args.get(&argument.name), &argument.value) {
                (Some(given), _) => Some(given.clone()),
                (None, Some(default)) => Some(self.word(default, unset)?),
                (None, None) => self.globals.values.get(&argument.name).cloned(),
            };
            if let Some(value) = &value {
                self.environment.set(&argument.name, value);
            }
            resolved.push(Argument { name: argument.name.clone(), value });
        }
        self.environment = before;
        Ok(resolved)
    }

    fn declare(&mut self, argument: &Argument) {
        if let Some(value) = &argument.value
            && !NOT_IN_ENVIRONMENT.contains(&argument.name.as_str())
        {
            self.environment.set(&argument.name, value);
        }
        self.arguments.push(argument.clone());
    }
}

#[cfg(test)]
mod tests;
