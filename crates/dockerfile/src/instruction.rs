//! One instruction: from its text to its meaning.

use std::time::Duration;

use crate::ast::{Argument, Command, CommandLine, Files, Healthcheck, Inline, Network, Run, Security, Stage};
use crate::flags::{Flags, Kind, RawFlag, Split};
use crate::heredoc::{self, Heredoc};
use crate::json::{self, Json};
use crate::lines::Logical;
use crate::mount::{Device, RawMount};
use crate::words::{self, Pair};
use crate::{DockerfileError, suggest};

/// Every keyword.
pub(crate) const KEYWORDS: [&str; 18] = [
    "add",
    "arg",
    "cmd",
    "copy",
    "entrypoint",
    "env",
    "expose",
    "from",
    "healthcheck",
    "label",
    "maintainer",
    "onbuild",
    "run",
    "shell",
    "stopsignal",
    "user",
    "volume",
    "workdir",
];

/// An instruction's parts.
pub(crate) struct Parts<'a> {
    pub(crate) logical: &'a Logical,
    pub(crate) split: Split<'a>,
    pub(crate) heredocs: Vec<Heredoc>,
    pub(crate) escape: char,
}

/// Whether the instruction may have heredocs: three may, not in JSON form, and so may `ONBUILD` with one of the three.
pub(crate) fn can_have_heredocs(split: &Split<'_>, line: &str, escape: char) -> bool {
    let is = |keyword: &str| split.keyword.eq_ignore_ascii_case(keyword);
    if is("onbuild") {
        let inner = crate::flags::split(line, split.arguments_range.start, escape);
        return !inner.keyword.eq_ignore_ascii_case("onbuild") && can_have_heredocs(&inner, line, escape);
    }
    (is("add") || is("copy") || is("run")) && json::parse(split.arguments) == Json::Nothing
}

impl Parts<'_> {
    /// An error about the whole instruction.
    fn fail<T>(&self, message: impl Into<String>) -> Result<T, DockerfileError> {
        Err(self.error(message))
    }

    fn error(&self, message: impl Into<String>) -> DockerfileError {
        DockerfileError::new(self.logical.whole(), message)
    }

    /// An error about the arguments, if there are any.
    fn fail_arguments<T>(&self, message: impl Into<String>) -> Result<T, DockerfileError> {
        if self.split.arguments.is_empty() {
            return self.fail(message);
        }
        Err(DockerfileError::new(self.logical.span(self.split.arguments_range.clone()), message))
    }

    fn flags(&self, known: &[(&'static str, Kind)]) -> Result<Flags, DockerfileError> {
        Flags::parse(self.logical, &self.split.flags, known)
    }

    /// What the instruction says.
    pub(crate) fn command(&self) -> Result<Command, DockerfileError> {
        let keyword = self.split.keyword.to_ascii_uppercase();
        match keyword.as_str() {
            "ADD" => return self.add(),
            "COPY" => return self.copy(),
            "RUN" => return self.run(),
            "HEALTHCHECK" => return self.healthcheck().map(Command::Healthcheck),
            _ if !KEYWORDS.contains(&keyword.to_ascii_lowercase().as_str()) => return self.unknown(),
            _ => {}
        }
        self.flags(&[])?;
        Ok(match keyword.as_str() {
            "ARG" => Command::Arg(self.arguments()?),
            "CMD" => Command::Cmd(self.command_line(self.split.arguments)?),
            "ENTRYPOINT" => Command::Entrypoint(self.command_line(self.split.arguments)?),
            "ENV" => Command::Env(self.pairs("ENV")?),
            "LABEL" => Command::Label(self.pairs("LABEL")?),
            "EXPOSE" => Command::Expose(self.ports()?),
            "MAINTAINER" => Command::Maintainer(self.one("MAINTAINER")?),
            "ONBUILD" => Command::Onbuild(self.onbuild()?),
            "SHELL" => Command::Shell(self.shell()?),
            "STOPSIGNAL" => Command::Stopsignal(self.one("STOPSIGNAL")?),
            "USER" => Command::User(self.one("USER")?),
            "VOLUME" => Command::Volume(self.volumes()?),
            _ => Command::Workdir(self.one("WORKDIR")?),
        })
    }

    fn unknown<T>(&self) -> Result<T, DockerfileError> {
        let keyword = self.split.keyword;
        let hint = suggest::hint_any_case(keyword, KEYWORDS);
        let span = self.logical.span(self.split.keyword_range.clone());
        Err(DockerfileError::new(span, format!("unknown instruction: {keyword}{hint}")))
    }

    /// `FROM`.
    pub(crate) fn stage(&self) -> Result<Stage, DockerfileError> {
        let arguments = words::split_blank(self.split.arguments);
        let (base, as_keyword, name) = match arguments.as_slice() {
            [base] => (base, None, None),
            [base, keyword, name] if keyword.eq_ignore_ascii_case("as") => (base, Some(keyword), Some(name)),
            _ => return self.fail_arguments("FROM requires either one or three arguments"),
        };
        if let Some(name) = name.filter(|name| !is_stage_name(&name.to_lowercase())) {
            return self.fail_arguments(format!(
                "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
            ));
        }
        let flags = self.flags(&[("platform", Kind::Value)])?;
        Ok(Stage {
            keyword: self.split.keyword.to_owned(),
            base: base.clone(),
            platform: given(flags.value("platform")),
            name: name.cloned(),
            as_keyword: as_keyword.cloned(),
            text: self.logical.text.trim().to_owned(),
            span: self.logical.whole(),
            comments: self.logical.comments.clone(),
            instructions: Vec::new(),
        })
    }

    fn one(&self, keyword: &str) -> Result<String, DockerfileError> {
        if self.split.arguments.is_empty() {
            return self.fail(format!("{keyword} requires exactly one argument"));
        }
        Ok(self.split.arguments.to_owned())
    }

    fn at_least_one<T>(&self, keyword: &str) -> Result<T, DockerfileError> {
        self.fail(format!("{keyword} requires at least one argument"))
    }

    /// Words, or the strings of a JSON array.
    fn list(&self) -> Result<Vec<String>, DockerfileError> {
        match json::parse(self.split.arguments) {
            Json::Strings(strings) => Ok(strings),
            Json::OtherArray => self.fail_arguments(NOT_STRINGS),
            Json::Nothing => Ok(words::split_blank(self.split.arguments)),
        }
    }

    fn command_line(&self, text: &str) -> Result<CommandLine, DockerfileError> {
        match json::parse(text) {
            Json::Strings(strings) => Ok(CommandLine::Exec(strings)),
            Json::OtherArray => self.fail_arguments(NOT_STRINGS),
            Json::Nothing => Ok(CommandLine::Shell(text.to_owned())),
        }
    }

    fn arguments(&self) -> Result<Vec<Argument>, DockerfileError> {
        let words = words::split_quoted(self.split.arguments, self.escape);
        if words.is_empty() {
            return self.at_least_one("ARG");
        }
        let argument = |word: String| match word.split_once('=') {
            Some(("", _)) => self.fail_arguments("ARG names can not be blank"),
            Some((name, value)) => Ok(Argument { name: name.to_owned(), value: Some(value.to_owned()) }),
            None => Ok(Argument { name: word, value: None }),
        };
        words.into_iter().map(argument).collect()
    }

    fn pairs(&self, keyword: &str) -> Result<Vec<Pair>, DockerfileError> {
        let pairs = words::pairs(self.split.arguments, keyword, self.escape)
            .or_else(|message| self.fail_arguments(message))?;
        if pairs.is_empty() {
            return self.at_least_one(keyword);
        }
        if pairs.iter().any(|pair| pair.name.is_empty()) {
            return self.fail_arguments(format!("{keyword} names can not be blank"));
        }
        Ok(pairs)
    }

    fn ports(&self) -> Result<Vec<String>, DockerfileError> {
        let mut ports = words::split_blank(self.split.arguments);
        if ports.is_empty() {
            return self.at_least_one("EXPOSE");
        }
        ports.sort();
        Ok(ports)
    }

    fn volumes(&self) -> Result<Vec<String>, DockerfileError> {
        let volumes = self.list()?;
        if volumes.is_empty() {
            return self.at_least_one("VOLUME");
        }
        let volumes: Vec<String> = volumes.iter().map(|volume| volume.trim().to_owned()).collect();
        if volumes.iter().any(String::is_empty) {
            return self.fail_arguments("VOLUME specified can not be an empty string");
        }
        Ok(volumes)
    }

    fn shell(&self) -> Result<Vec<String>, DockerfileError> {
        match self.command_line(self.split.arguments)? {
            CommandLine::Exec(shell) if !shell.is_empty() => Ok(shell),
            CommandLine::Shell(text) if !text.is_empty() => {
                self.fail_arguments("SHELL requires the arguments to be in JSON form")
            }
            _ => self.at_least_one("SHELL"),
        }
    }

    fn onbuild(&self) -> Result<String, DockerfileError> {
        let trigger =
            self.split.arguments.split(crate::flags::is_blank).next().unwrap_or_default().to_uppercase();
        match trigger.as_str() {
            "" => return self.at_least_one("ONBUILD"),
            "ONBUILD" => return self.fail_arguments("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
            "MAINTAINER" | "FROM" => {
                return self.fail_arguments(format!("{trigger} isn't allowed as an ONBUILD trigger"));
            }
            _ => {}
        }
        let mut text = self.split.arguments.to_owned();
        for heredoc in &self.heredocs {
            text.push('\n');
            text.push_str(&heredoc.content);
            text.push_str(&heredoc.name);
        }
        Ok(text)
    }

    fn files(&self, keyword: &str, flags: &Flags) -> Result<Files, DockerfileError> {
        let mut words = self.list()?;
        let destination = words.pop().filter(|_| !words.is_empty());
        let Some(destination) = destination else {
            return self.fail(format!(
                "{keyword} requires at least two arguments, but only one was provided. Destination could not be determined"
            ));
        };
        if heredoc::parse(&destination).is_some() {
            return self.fail_arguments(format!("{keyword} cannot accept a heredoc as a destination"));
        }
        let mut files = Files {
            destination,
            chown: given(flags.value("chown")),
            chmod: given(flags.value("chmod")),
            link: flags.switch("link").unwrap_or(false),
            exclude: flags.values("exclude"),
            ..Files::default()
        };
        for word in words {
            let Some(start) = heredoc::parse(&word) else {
                files.sources.push(word);
                continue;
            };
            let Some(heredoc) = self.heredocs.iter().rfind(|heredoc| heredoc.name == start.name) else {
                return self
                    .fail_arguments(format!("the heredoc {word} can't be read: its line has an open quote"));
            };
            files.inline.push(Inline { name: start.name, content: heredoc.text(), expand: start.expand });
        }
        Ok(files)
    }

    fn add(&self) -> Result<Command, DockerfileError> {
        let flags = self.flags(&[
            ("chown", Kind::Value),
            ("chmod", Kind::Value),
            ("link", Kind::Switch),
            ("keep-git-dir", Kind::Switch),
            ("checksum", Kind::Value),
            ("unpack", Kind::Switch),
            ("exclude", Kind::Values),
        ])?;
        Ok(Command::Add {
            files: self.files("ADD", &flags)?,
            checksum: given(flags.value("checksum")),
            keep_git_dir: flags.switch("keep-git-dir"),
            unpack: flags.switch("unpack"),
        })
    }

    fn copy(&self) -> Result<Command, DockerfileError> {
        let flags = self.flags(&[
            ("chown", Kind::Value),
            ("from", Kind::Value),
            ("chmod", Kind::Value),
            ("link", Kind::Switch),
            ("exclude", Kind::Values),
            ("parents", Kind::Switch),
        ])?;
        Ok(Command::Copy {
            files: self.files("COPY", &flags)?,
            from: given(flags.value("from")),
            parents: flags.switch("parents").unwrap_or(false),
        })
    }

    fn run(&self) -> Result<Command, DockerfileError> {
        let flags = self.flags(&[
            ("mount", Kind::Values),
            ("network", Kind::Value),
            ("security", Kind::Value),
            ("device", Kind::Values),
        ])?;
        let network = match flags.value("network").as_deref() {
            None | Some("default") => Network::Default,
            Some("none") => Network::None,
            Some("host") => Network::Host,
            Some(other) => return self.fail_flag("network", format!("invalid network mode {other:?}")),
        };
        let security = match flags.value("security").as_deref() {
            None | Some("sandbox") => Security::Sandbox,
            Some("insecure") => Security::Insecure,
            Some(other) => return self.fail_flag("security", format!("security {other:?} is not valid")),
        };
        let mounts: Result<_, String> =
            flags.values("mount").iter().map(|text| RawMount::parse(text)).collect();
        let devices: Result<_, String> =
            flags.values("device").iter().map(|text| Device::parse(text)).collect();
        Ok(Command::Run(Run {
            command: self.command_line(self.split.arguments)?,
            heredocs: self.heredocs.clone(),
            mounts: mounts.or_else(|message| self.fail_flag("mount", message))?,
            network,
            security,
            devices: devices.or_else(|message| self.fail_flag("device", message))?,
        }))
    }

    /// An error about the first flag of that name.
    fn fail_flag<T>(&self, name: &str, message: String) -> Result<T, DockerfileError> {
        let is_it = |flag: &&RawFlag| flag.text[2..].split('=').next() == Some(name);
        match self.split.flags.iter().find(is_it) {
            Some(flag) => Err(DockerfileError::new(self.logical.span(flag.range.clone()), message)),
            None => self.fail(message),
        }
    }

    fn healthcheck(&self) -> Result<Healthcheck, DockerfileError> {
        let arguments = self.split.arguments;
        let end = arguments.find(char::is_whitespace).unwrap_or(arguments.len());
        let (kind, rest) = (arguments[..end].to_uppercase(), arguments[end..].trim_start());
        if kind == "NONE" {
            self.flags(&[])?;
            if !rest.is_empty() {
                return self.fail_arguments("HEALTHCHECK NONE takes no arguments");
            }
            return Ok(Healthcheck::None);
        }
        let flags = self.flags(&[
            ("interval", Kind::Value),
            ("timeout", Kind::Value),
            ("start-period", Kind::Value),
            ("start-interval", Kind::Value),
            ("retries", Kind::Value),
        ])?;
        match kind.as_str() {
            "" => return self.at_least_one("HEALTHCHECK"),
            "CMD" => {}
            _ => return self.fail_arguments(format!("Unknown type {kind:?} in HEALTHCHECK (try CMD)")),
        }
        let command = self.command_line(rest)?;
        if matches!(&command, CommandLine::Shell(text) if text.is_empty())
            || matches!(&command, CommandLine::Exec(arguments) if arguments.is_empty())
        {
            return self.fail("Missing command after HEALTHCHECK CMD");
        }
        Ok(Healthcheck::Test {
            command,
            interval: self.interval(&flags, "interval")?,
            timeout: self.interval(&flags, "timeout")?,
            start_period: self.interval(&flags, "start-period")?,
            start_interval: self.interval(&flags, "start-interval")?,
            retries: self.retries(&flags)?,
        })
    }

    /// A duration of at least a millisecond; zero is the default.
    fn interval(&self, flags: &Flags, name: &str) -> Result<Option<Duration>, DockerfileError> {
        let Some(value) = given(flags.value(name)) else { return Ok(None) };
        let duration =
            palan_stdx::duration::parse(&value).or_else(|error| self.fail_flag(name, error.to_string()))?;
        if duration.is_zero() {
            return Ok(None);
        }
        if duration < Duration::from_millis(1) {
            return self.fail_flag(name, format!("Interval {name:?} cannot be less than 1ms"));
        }
        Ok(Some(duration))
    }

    fn retries(&self, flags: &Flags) -> Result<Option<u32>, DockerfileError> {
        let Some(value) = given(flags.value("retries")) else { return Ok(None) };
        match value.parse::<i32>().map(|number| (number, u32::try_from(number))) {
            Ok((_, Ok(0))) => Ok(None),
            Ok((_, Ok(number))) => Ok(Some(number)),
            Ok((number, Err(_))) => {
                self.fail_flag("retries", format!("--retries cannot be negative ({number})"))
            }
            Err(_) => self.fail_flag("retries", format!("invalid value {value:?} for --retries")),
        }
    }
}

const NOT_STRINGS: &str = "when using JSON array syntax, arrays must be comprised of strings only";

/// An empty value counts as none.
fn given(value: Option<String>) -> Option<String> {
    value.filter(|value| !value.is_empty())
}

fn is_stage_name(name: &str) -> bool {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    name.starts_with(|c: char| c.is_ascii_lowercase()) && name.bytes().all(is_inner)
}
