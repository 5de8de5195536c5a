//! What a Dockerfile says.

use std::time::Duration;

use crate::heredoc::{self, Heredoc};
use crate::mount::{Device, RawMount};
use crate::{Directives, Span};

pub use crate::words::Pair;

/// A Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What stands in the comments at the top.
    pub directives: Directives,
    /// The `ARG`s before the first `FROM`: they are values for the `FROM`s, and defaults for the `ARG`s of stages.
    pub arguments: Vec<Instruction>,
    /// The stages; at least one.
    pub stages: Vec<Stage>,
    /// Lines at which an instruction ends that has an empty line between its continuation lines.
    pub empty_continuations: Vec<usize>,
}

/// A stage: `FROM` and what follows up to the next one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// `FROM`, as it is written.
    pub keyword: String,
    /// An image, `scratch` or a stage before; may contain variables.
    pub base: String,
    /// `--platform`; may contain variables.
    pub platform: Option<String>,
    /// The name behind `AS`, as it is written. Stages are found by it in any case.
    pub name: Option<String>,
    /// `AS`, as it is written.
    pub as_keyword: Option<String>,
    /// The instruction's text.
    pub text: String,
    /// Where the `FROM` stands.
    pub span: Span,
    /// The comments right above it.
    pub comments: Vec<String>,
    /// Its instructions.
    pub instructions: Vec<Instruction>,
}

impl Stage {
    /// The name by which others find it.
    pub fn id(&self) -> Option<String> {
        self.name.as_ref().map(|name| name.to_lowercase())
    }

    /// What the comment above says about the stage: `# <name> <description>`.
    pub fn description(&self) -> Option<&str> {
        description(&self.comments, &self.id()?)
    }
}

/// The description in a comment that starts with the name of what it describes.
pub fn description<'a>(comments: &'a [String], name: &str) -> Option<&'a str> {
    comments.iter().find_map(|comment| comment.strip_prefix(name)?.strip_prefix(' '))
}

/// An instruction of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Instruction {
    /// The keyword, as it is written.
    pub keyword: String,
    /// The whole instruction with continuation lines joined, without heredocs' content.
    pub text: String,
    /// Where it stands, heredocs included.
    pub span: Span,
    /// The comments right above it.
    pub comments: Vec<String>,
    /// What it says.
    pub command: Command,
}

/// What an instruction says. Texts may contain variables, unless said otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Copies files from the context, a URL, a Git repository or the Dockerfile.
    Add {
        /// From where to where.
        files: Files,
        /// `--checksum`: what the file's digest, or the commit, must be.
        checksum: Option<String>,
        /// `--keep-git-dir`.
        keep_git_dir: Option<bool>,
        /// `--unpack`: whether archives are unpacked; local ones are if it isn't given.
        unpack: Option<bool>,
    },
    /// Declares variables of the build.
    Arg(Vec<Argument>),
    /// What a container runs, or the arguments of what it runs.
    Cmd(CommandLine),
    /// Copies files from the context, another stage, an image or the Dockerfile.
    Copy {
        /// From where to where.
        files: Files,
        /// `--from`: a stage's name or number, or an image. Without variables.
        from: Option<String>,
        /// `--parents`: directories above a source are made, too.
        parents: bool,
    },
    /// What a container runs.
    Entrypoint(CommandLine),
    /// Sets environment variables.
    Env(Vec<Pair>),
    /// Ports that a container serves, as written; see [`crate::expose`].
    Expose(Vec<String>),
    /// How to see whether a container is healthy. Without variables.
    Healthcheck(Healthcheck),
    /// Labels of the image.
    Label(Vec<Pair>),
    /// The author. Without variables.
    Maintainer(String),
    /// An instruction that is carried out where the image is a base. Without variables.
    Onbuild(String),
    /// Runs a command.
    Run(Run),
    /// The shell of what is not in JSON form. Without variables.
    Shell(Vec<String>),
    /// The signal that ends a container.
    Stopsignal(String),
    /// The user of what is run.
    User(String),
    /// Directories whose content is not the image's.
    Volume(Vec<String>),
    /// The working directory.
    Workdir(String),
}

/// A variable of the build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Argument {
    /// Its name.
    pub name: String,
    /// Its default.
    pub value: Option<String>,
}

/// What `COPY` and `ADD` have in common.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Files {
    /// Paths, patterns or URLs.
    pub sources: Vec<String>,
    /// Files whose content is in the Dockerfile.
    pub inline: Vec<Inline>,
    /// Where they go. With a `/` at the end it is a directory.
    pub destination: String,
    /// `--chown`: `user[:group]`.
    pub chown: Option<String>,
    /// `--chmod`: octal or symbolic.
    pub chmod: Option<String>,
    /// `--link`: the files don't depend on what is below them.
    pub link: bool,
    /// `--exclude`: patterns of what is left out.
    pub exclude: Vec<String>,
}

/// A file whose content is in the Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inline {
    /// Its name.
    pub name: String,
    /// Its content.
    pub content: String,
    /// Variables in the content are expanded.
    pub expand: bool,
}

/// A command, in one of two forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CommandLine {
    /// `["program", "argument"]`.
    Exec(Vec<String>),
    /// Whatever the shell understands.
    Shell(String),
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// The command, without heredocs' content. Without variables of ours: the shell has them in its environment.
    pub command: CommandLine,
    /// Heredocs in their order.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`.
    pub mounts: Vec<RawMount>,
    /// `--network`.
    pub network: Network,
    /// `--security`.
    pub security: Security,
    /// `--device`.
    pub devices: Vec<Device>,
}

/// The network of a `RUN`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Network {
    /// The one of the build.
    #[default]
    Default,
    /// None but the loopback device.
    None,
    /// The host's.
    Host,
}

/// How much a `RUN` may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Security {
    /// What a container may.
    #[default]
    Sandbox,
    /// What a privileged container may.
    Insecure,
}

/// What a `RUN` executes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Script {
    /// A program with its arguments.
    Exec(Vec<String>),
    /// A text for the shell.
    Shell(String),
    /// A heredoc that starts with `#!`: a program of that name with this content.
    Program {
        /// The heredoc's name.
        name: String,
        /// Its content.
        content: String,
    },
}

impl Run {
    /// What is executed: a heredoc alone is the script itself, others are put back behind the command for the shell.
    pub fn script(&self) -> Script {
        let command = match &self.command {
            CommandLine::Exec(arguments) => return Script::Exec(arguments.clone()),
            CommandLine::Shell(command) => command,
        };
        let Some(first) = self.heredocs.first() else { return Script::Shell(command.clone()) };
        if heredoc::parse(command).is_none() {
            let mut text = command.clone();
            for heredoc in &self.heredocs {
                text.push('\n');
                text.push_str(&heredoc.content);
                text.push_str(&heredoc.name);
            }
            return Script::Shell(text);
        }
        let content = first.text();
        if content.starts_with("#!") {
            return Script::Program { name: first.name.clone(), content };
        }
        Script::Shell(content)
    }
}

/// `HEALTHCHECK`. What isn't given is the daemon's default.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Healthcheck {
    /// Not even the base image's.
    None,
    /// A command that fails if the container is not healthy.
    Test {
        /// The command.
        command: CommandLine,
        /// Time between two of them.
        interval: Option<Duration>,
        /// How long one may take.
        timeout: Option<Duration>,
        /// How long after the start failures don't count.
        start_period: Option<Duration>,
        /// Time between two of them until then.
        start_interval: Option<Duration>,
        /// How many failures in a row make it unhealthy.
        retries: Option<u32>,
    },
}
