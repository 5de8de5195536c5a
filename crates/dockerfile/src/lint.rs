//! What `docker build --check` warns of.
//!
//! Each [`Rule`] is data: name, description, page. `# check=skip=Rule,…;error=true` at the top of a file switches rules off for all
//! of it, the same comment right above an instruction for that one alone.

use std::collections::{BTreeMap, BTreeSet};

use palan_oci::{Platform, Reference};

use crate::ast::{Command, CommandLine, Dockerfile, Instruction, Stage};
use crate::scope::{Environment, Globals, Request, Scope, Values};
use crate::stages::{self, Graph, Origin};
use crate::word::{Expansion, Lexer};
use crate::{DockerfileError, Span, directive, expose, suggest};

pub use rule::Rule;

mod rule;

/// One warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// The rule.
    pub rule: Rule,
    /// What is wrong here.
    pub message: String,
    /// Where.
    pub span: Span,
}

/// Which rules are checked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// No rule but experimental ones that are named.
    pub skip_all: bool,
    /// Names of rules that are not checked.
    pub skip: BTreeSet<String>,
    /// All experimental rules.
    pub experimental_all: bool,
    /// Names of experimental rules that are checked.
    pub experimental: BTreeSet<String>,
    /// Warnings fail the build.
    pub error: bool,
}

impl Config {
    /// Reads `skip=A,B;experimental=all;error=true`: the value of the directive, and of `BUILDKIT_DOCKERFILE_CHECK`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut config = Self::default();
        for part in text.trim().split(';').filter(|_| !text.trim().is_empty()) {
            let invalid = |option: &str| format!("invalid check option {option:?}");
            let (key, value) = part.split_once('=').ok_or_else(|| invalid(part))?;
            let names = || value.split(',').map(|name| name.trim().to_owned()).collect();
            match (key.trim(), value.trim()) {
                ("skip", "all") => config.skip_all = true,
                ("skip", _) => config.skip = names(),
                ("experimental", "all") => config.experimental_all = true,
                ("experimental", _) => config.experimental = names(),
                ("error", "1" | "t" | "T" | "true" | "TRUE" | "True") => config.error = true,
                ("error", "0" | "f" | "F" | "false" | "FALSE" | "False") => config.error = false,
                ("error", _) => return Err(format!("failed to parse check option {part:?}")),
                (key, _) => return Err(invalid(key)),
            }
        }
        Ok(config)
    }

    fn wants(&self, rule: Rule) -> bool {
        if rule.is_experimental() {
            return self.experimental_all || self.experimental.contains(rule.name());
        }
        !self.skip_all && !self.skip.contains(rule.name())
    }

    /// The same with what the comments above an instruction add.
    fn with_comments(&self, comments: &[String]) -> Self {
        let mut config = self.clone();
        let check = comments.iter().find_map(|comment| match directive::split(comment) {
            Some(("check", value)) => Some(value),
            _ => None,
        });
        // A comment that can't be read is a comment.
        let Some(Ok(local)) = check.map(|value| Self::parse(value.split(' ').next().unwrap_or_default()))
        else {
            return config;
        };
        config.skip_all |= local.skip_all;
        config.experimental_all |= local.experimental_all;
        config.skip.extend(local.skip);
        config.experimental.extend(local.experimental);
        config
    }
}

/// What a check may know about an image.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BaseImage {
    /// Its environment.
    pub environment: Environment,
    /// Its platform.
    pub platform: Option<Platform>,
    /// It names a shell of its own.
    pub has_shell: bool,
}

/// What a check is given.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// Arguments, platforms and target of the build.
    pub request: Request<'a>,
    /// `--target`. Without one, all stages are checked.
    pub target: Option<&'a str>,
    /// Names of `--build-context`.
    pub contexts: &'a BTreeSet<String>,
    /// Rules given to the build; without them the file's directive counts.
    pub config: Option<&'a Config>,
    /// What is known about an image. Stages on an unknown one are not checked for undefined variables.
    pub base_image: &'a dyn Fn(&str) -> Option<BaseImage>,
    /// Whether the ignore file leaves a path of the context out. None if it has exceptions: then nothing is certain.
    pub is_ignored: Option<&'a dyn Fn(&str) -> bool>,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Options")
            .field("request", &self.request)
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

/// The result of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// In the file's order.
    pub warnings: Vec<Warning>,
    /// A mistake that would end the build as well. What is behind it was not looked at.
    pub error: Option<DockerfileError>,
    /// The build fails because of the warnings, with this text.
    pub failure: Option<String>,
}

/// Checks a file, or what of it stands in front of a mistake.
pub fn check(file: &Dockerfile, options: &Options<'_>) -> Report {
    let mut checker = Checker {
        file,
        options,
        current: Config::default(),
        config: Config::default(),
        warnings: Vec::new(),
        lexer: Lexer::new(file.directives.escape),
    };
    let error = checker.all().err();
    let (mut warnings, config) = (checker.warnings, checker.config);
    warnings.sort_by_key(|warning| warning.span.start.line);
    let failed: BTreeSet<&str> = warnings.iter().map(|warning| warning.rule.name()).collect();
    let failure = (config.error && !failed.is_empty()).then(|| {
        format!("lint violation found for rules: {}", failed.into_iter().collect::<Vec<_>>().join(", "))
    });
    Report { warnings, error, failure }
}

struct Checker<'a> {
    file: &'a Dockerfile,
    options: &'a Options<'a>,
    lexer: Lexer,
    config: Config,
    /// With the comments of the instruction that is looked at.
    current: Config,
    warnings: Vec<Warning>,
}

/// What a stage leaves to one that is built on it.
#[derive(Clone)]
struct Left<'a> {
    scope: Scope<'a>,
    has_workdir: bool,
    has_shell: bool,
    is_known: bool,
}

impl<'a> Checker<'a> {
    fn all(&mut self) -> Result<(), DockerfileError> {
        self.config = match (self.options.config, &self.file.directives.check) {
            (Some(config), _) => config.clone(),
            (None, Some((text, span))) => {
                let text = text.split(' ').next().unwrap_or_default();
                Config::parse(text).map_err(|why| {
                    DockerfileError::new(*span, format!("failed to parse check options: {why}"))
                })?
            }
            (None, None) => Config::default(),
        };
        self.current = self.config.clone();
        self.texts();
        if self.file.stages.is_empty() {
            return Ok(());
        }
        self.names();
        self.casing();
        self.defaults();
        let options = self.options;
        let globals = Globals::new(self.file, &options.request)?;
        self.bases(&globals);
        let selection = stages::Options {
            target: options.target,
            contexts: options.contexts,
            all: options.target.is_none(),
        };
        let graph = stages::resolve(self.file, &globals, &selection)?;
        self.stages(&graph, &globals)
    }

    fn enter(&mut self, comments: &[String]) {
        self.current = self.config.with_comments(comments);
    }

    fn warn(&mut self, rule: Rule, span: Span, message: String) {
        if self.current.wants(rule) {
            self.warnings.push(Warning { rule, message, span });
        }
    }

    /// What the text of single instructions shows.
    fn texts(&mut self) {
        for line in &self.file.empty_continuations {
            self.warn(Rule::NoEmptyContinuation, Span::line(*line), "Empty continuation line".to_owned());
        }
        for instruction in &self.file.arguments {
            self.text(instruction);
        }
        for stage in &self.file.stages {
            self.enter(&stage.comments);
            self.from(stage);
            for instruction in &stage.instructions {
                self.text(instruction);
            }
        }
        self.current = self.config.clone();
    }

    fn text(&mut self, instruction: &Instruction) {
        self.enter(&instruction.comments);
        match &instruction.command {
            Command::Maintainer(_) => {
                let message = "Maintainer instruction is deprecated in favor of using label".to_owned();
                self.warn(Rule::MaintainerDeprecated, instruction.span, message);
            }
            Command::Arg(arguments) => {
                let names: Vec<&str> = arguments.iter().map(|argument| argument.name.as_str()).collect();
                self.description("ARG", &names, &instruction.comments, instruction.span);
            }
            _ => {}
        }
    }

    fn from(&mut self, stage: &Stage) {
        let Some(name) = &stage.name else { return };
        if *name != name.to_lowercase() {
            self.warn(Rule::StageNameCasing, stage.span, format!("Stage name '{name}' should be lowercase"));
        }
        if let Some(as_keyword) = &stage.as_keyword {
            let from = &stage.keyword;
            let matches = if *from == from.to_lowercase() {
                *as_keyword == as_keyword.to_lowercase()
            } else {
                *from != from.to_uppercase() || *as_keyword == as_keyword.to_uppercase()
            };
            if !matches {
                let message = format!("'{as_keyword}' and '{from}' keywords' casing do not match");
                self.warn(Rule::FromAsCasing, stage.span, message);
            }
        }
        let id = name.to_lowercase();
        self.description("FROM", &[&id], &stage.comments, stage.span);
    }

    fn description(&mut self, keyword: &str, names: &[&str], comments: &[String], span: Span) {
        let Some(comment) = comments.last() else { return };
        if names.contains(&comment.split(' ').next().unwrap_or_default()) {
            return;
        }
        let name = if let [name] = names { name } else { "<arg_key>" };
        let message = format!("Comment for {keyword} should follow the format: `# {name} <description>`");
        self.warn(Rule::InvalidDefinitionDescription, span, message);
    }

    fn names(&mut self) {
        let mut seen = BTreeSet::new();
        for stage in &self.file.stages {
            let Some(id) = stage.id() else { continue };
            self.enter(&stage.comments);
            if matches!(id.as_str(), "context" | "scratch") {
                let message = format!("Stage name should not use the same name as reserved stage {id:?}");
                self.warn(Rule::ReservedStageName, stage.span, message);
            }
            if !seen.insert(id.clone()) {
                let message = format!("Duplicate stage name {id:?}, stage names should be unique");
                self.warn(Rule::DuplicateStageName, stage.span, message);
            }
        }
        self.current = self.config.clone();
    }

    /// Keywords are to be written as most of them are.
    fn casing(&mut self) {
        let mut keywords = Vec::new();
        for stage in &self.file.stages {
            keywords.push((stage.keyword.as_str(), stage.span, &stage.comments));
            for instruction in &stage.instructions {
                keywords.push((instruction.keyword.as_str(), instruction.span, &instruction.comments));
            }
        }
        let is_lower = |text: &str| text == text.to_lowercase();
        let is_upper = |text: &str| text == text.to_uppercase();
        let lower = keywords.iter().filter(|(text, ..)| is_lower(text)).count();
        let upper = keywords.iter().filter(|(text, ..)| is_upper(text)).count();
        for (text, span, comments) in keywords {
            let (is_right, wanted) =
                if lower > upper { (is_lower(text), "lowercase") } else { (is_upper(text), "uppercase") };
            if !is_right {
                self.enter(comments);
                let message =
                    format!("Command '{text}' should match the case of the command majority ({wanted})");
                self.warn(Rule::ConsistentInstructionCasing, span, message);
            }
        }
        self.current = self.config.clone();
    }

    /// Without any `--build-arg`, bases should still be names of images.
    fn defaults(&mut self) {
        let none = Values::new();
        let request = Request { build_args: &none, ..self.options.request };
        let Ok(globals) = Globals::new(self.file, &request) else { return };
        for stage in &self.file.stages {
            let Ok(name) = self.lexer.expand(&stage.base, &globals.values) else { return };
            if Reference::parse(&name.text).is_err() {
                self.enter(&stage.comments);
                let message = format!(
                    "Default value for ARG {} results in empty or invalid base image name",
                    stage.base
                );
                self.warn(Rule::InvalidDefaultArgInFrom, stage.span, message);
            }
        }
        self.current = self.config.clone();
    }

    /// Variables in `FROM`.
    fn bases(&mut self, globals: &Globals) {
        for stage in &self.file.stages {
            self.enter(&stage.comments);
            if let Ok(name) = self.lexer.expand(&stage.base, &globals.values) {
                self.undeclared(&name, globals, stage.span);
            }
            let Some(platform) = &stage.platform else { continue };
            let Ok(expansion) = self.lexer.expand(platform, &globals.values) else { continue };
            self.undeclared(&expansion, globals, stage.span);
            self.platform(stage, platform, &expansion, globals);
        }
        self.current = self.config.clone();
    }

    fn undeclared(&mut self, expansion: &Expansion, globals: &Globals, span: Span) {
        for name in &expansion.unmatched {
            if globals.declared.contains(name) {
                continue;
            }
            let known = globals.declared.iter().chain(globals.values.keys()).map(String::as_str);
            let hint = suggest::hint(name, known);
            self.warn(
                Rule::UndefinedArgInFrom,
                span,
                format!("FROM argument '{name}' is not declared{hint}"),
            );
        }
    }

    fn platform(&mut self, stage: &Stage, written: &str, expansion: &Expansion, globals: &Globals) {
        let only = |name: &str| expansion.matched.len() == 1 && expansion.matched.contains(name);
        if only("TARGETPLATFORM")
            && expansion.unmatched.is_empty()
            && globals.values.get("TARGETPLATFORM") == Some(&expansion.text)
        {
            let message = format!(
                "Setting platform to predefined {written} in FROM is redundant as this is the default behavior"
            );
            self.warn(Rule::RedundantTargetPlatform, stage.span, message);
        }
        if !expansion.matched.is_empty() || !expansion.unmatched.is_empty() {
            return;
        }
        let Ok(platform) = expansion.text.parse::<Platform>() else { return };
        let platform = platform.normalised();
        let name = stage.id().unwrap_or_default();
        // A stage that is named for its platform means it.
        if !name.contains(&platform.os) && !name.contains(&platform.architecture) {
            let message = format!("FROM --platform flag should not use constant value {:?}", expansion.text);
            self.warn(Rule::FromPlatformFlagConstDisallowed, stage.span, message);
        }
    }

    fn stages<'g>(&mut self, graph: &Graph, globals: &'g Globals) -> Result<(), DockerfileError>
    where
        'a: 'g,
    {
        let mut left: BTreeMap<usize, Left<'g>> = BTreeMap::new();
        for index in &graph.needed {
            let resolved = &graph.stages[*index];
            if resolved.is_replaced {
                continue;
            }
            let stage = &self.file.stages[*index];
            let start = match &resolved.base {
                Origin::Stage(base) => left.get(base).cloned(),
                Origin::Scratch => {
                    let mut environment = Environment::default();
                    environment.set("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
                    Some(self.start(globals, BaseImage { environment, ..BaseImage::default() }, true))
                }
                Origin::Image(name) => {
                    let image = (self.options.base_image)(name);
                    if let Some(image) = &image {
                        self.image_platform(name, image, resolved.platform.as_deref(), stage);
                    }
                    let is_known = image.is_some();
                    Some(self.start(globals, image.unwrap_or_default(), is_known))
                }
                Origin::Context(_) => None,
            };
            let mut state = start.unwrap_or_else(|| self.start(globals, BaseImage::default(), false));
            self.stage(stage, &mut state)?;
            left.insert(*index, state);
        }
        Ok(())
    }

    fn start<'g>(&self, globals: &'g Globals, image: BaseImage, is_known: bool) -> Left<'g>
    where
        'a: 'g,
    {
        let scope = Scope::new(self.file, globals, self.options.request.build_args, image.environment);
        Left { scope, has_workdir: false, has_shell: image.has_shell, is_known }
    }

    fn image_platform(&mut self, name: &str, image: &BaseImage, wanted: Option<&str>, stage: &Stage) {
        let Some(actual) = image.platform.as_ref().map(Platform::normalised) else { return };
        let expected = match wanted.map(str::parse::<Platform>) {
            Some(Ok(platform)) => platform,
            _ => self.options.request.target_platform.clone(),
        }
        .normalised();
        if (&expected.os, &expected.architecture) != (&actual.os, &actual.architecture) {
            self.enter(&stage.comments);
            let message = format!(
                "Base image {name} was pulled with platform \"{actual}\", expected \"{expected}\" for current build"
            );
            self.warn(Rule::InvalidBaseImagePlatform, stage.span, message);
        }
    }

    fn stage(&mut self, stage: &Stage, state: &mut Left<'_>) -> Result<(), DockerfileError> {
        // Where the last one of a kind stands, of which only one counts.
        let mut last: BTreeMap<&str, Span> = BTreeMap::new();
        for instruction in &stage.instructions {
            self.enter(&instruction.comments);
            let span = instruction.span;
            let mut unset = Vec::new();
            let command = state.scope.step(instruction, &mut |variable| unset.push(variable))?;
            if let Command::Run(run) = &command {
                state.scope.mounts(run, span, &mut |variable| unset.push(variable))?;
            }
            if state.is_known {
                unset.sort();
                unset.dedup();
                for variable in unset {
                    let hint =
                        variable.meant.map(|name| format!(" (did you mean ${name}?)")).unwrap_or_default();
                    let message = format!("Usage of undefined variable '${}'{hint}", variable.name);
                    self.warn(Rule::UndefinedVar, span, message);
                }
            }
            let keyword = instruction.keyword.to_uppercase();
            if matches!(command, Command::Cmd(_) | Command::Entrypoint(_) | Command::Healthcheck(_)) {
                let kind = match command {
                    Command::Cmd(_) => "CMD",
                    Command::Entrypoint(_) => "ENTRYPOINT",
                    _ => "HEALTHCHECK",
                };
                if let Some(before) = last.insert(kind, span) {
                    let message = format!(
                        "Multiple {} instructions should not be used in the same stage because only the last one will be used",
                        instruction.keyword
                    );
                    self.warn(Rule::MultipleInstructionsDisallowed, before, message);
                }
            }
            self.command(&keyword, instruction, &command, state)?;
        }
        Ok(())
    }

    fn command(
        &mut self,
        keyword: &str,
        instruction: &Instruction,
        command: &Command,
        state: &mut Left<'_>,
    ) -> Result<(), DockerfileError> {
        let span = instruction.span;
        match command {
            Command::Env(pairs) | Command::Label(pairs) => {
                if pairs.iter().any(|pair| pair.is_legacy) {
                    let written = &instruction.keyword;
                    let message = format!(
                        "\"{written} key=value\" should be used instead of legacy \"{written} key value\" format"
                    );
                    self.warn(Rule::LegacyKeyValueFormat, span, message);
                }
                if matches!(command, Command::Env(_)) {
                    pairs.iter().for_each(|pair| self.secret(keyword, &pair.name, span));
                }
            }
            Command::Arg(arguments) => {
                arguments.iter().for_each(|argument| self.secret(keyword, &argument.name, span));
            }
            Command::Cmd(CommandLine::Shell(_)) | Command::Entrypoint(CommandLine::Shell(_))
                if !state.has_shell =>
            {
                let message = format!(
                    "JSON arguments recommended for {} to prevent unintended behavior related to OS signals",
                    instruction.keyword
                );
                self.warn(Rule::JSONArgsRecommended, span, message);
            }
            Command::Shell(_) => state.has_shell = true,
            Command::Workdir(path) => {
                if !state.has_workdir && !path.starts_with('/') {
                    let message = format!(
                        "Relative workdir {path:?} can have unexpected results if the base image changes"
                    );
                    self.warn(Rule::WorkdirRelativePath, span, message);
                }
                state.has_workdir = true;
            }
            Command::Expose(ports) => {
                for port in ports {
                    let read = expose::parse(port).map_err(|message| DockerfileError::new(span, message))?;
                    if read.has_odd_case {
                        let message =
                            format!("Defined protocol '{port}' in EXPOSE instruction should be lowercase");
                        self.warn(Rule::ExposeProtoCasing, span, message);
                    }
                    if read.has_host_part {
                        let message = format!(
                            "EXPOSE instruction should not define an IP address or host-port mapping, found '{port}'"
                        );
                        self.warn(Rule::ExposeInvalidFormat, span, message);
                    }
                }
            }
            Command::Copy { files, from: None, .. } => self.ignored("Copy", &files.sources, span),
            Command::Add { files, .. } => self.ignored("Add", &files.sources, span),
            _ => {}
        }
        Ok(())
    }

    fn secret(&mut self, keyword: &str, name: &str, span: Span) {
        if rule::is_secret(name) {
            let message =
                format!("Do not use ARG or ENV instructions for sensitive data ({keyword} {name:?})");
            self.warn(Rule::SecretsUsedInArgOrEnv, span, message);
        }
    }

    fn ignored(&mut self, verb: &str, sources: &[String], span: Span) {
        let Some(is_ignored) = self.options.is_ignored else { return };
        for source in sources {
            if is_remote(source) {
                continue;
            }
            let path = clean(source);
            if is_ignored(&path) {
                let message = format!("Attempting to {verb} file {path:?} that is excluded by .dockerignore");
                self.warn(Rule::CopyIgnoredFile, span, message);
            }
        }
    }
}

/// Whether `ADD` fetches it from elsewhere.
fn is_remote(source: &str) -> bool {
    ["http://", "https://", "git://", "ssh://", "git@"].iter().any(|prefix| source.starts_with(prefix))
}

/// A path without `.`, `..`, empty and doubled parts, relative to the context; `.` for all of it.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    if parts.is_empty() { ".".to_owned() } else { parts.join("/") }
}

#[cfg(test)]
mod tests;
