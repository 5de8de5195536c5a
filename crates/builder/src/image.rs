//! What an image says of itself, instruction by instruction.

use std::time::Duration;

use palan_dockerfile::ast::{self, Command, CommandLine};
use palan_dockerfile::expose;
use palan_oci::Platform;
use palan_oci::image_config::{Empty, Healthcheck, HistoryEntry, ImageConfig};

/// Where programs are looked for if the image doesn't say.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The comment of history entries, by which tools know a builder with BuildKit's semantics.
const COMMENT: &str = "buildkit.dockerfile.v0";

const SIGNALS: [&str; 31] = [
    "ABRT", "ALRM", "BUS", "CHLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "KILL", "PIPE", "POLL", "PROF",
    "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP", "TTIN", "TTOU", "URG", "USR1",
    "USR2", "VTALRM", "WINCH", "XCPU",
];

/// An image that is being built.
#[derive(Debug, Clone)]
pub struct Image {
    /// What it says so far.
    pub config: ImageConfig,
    /// A `CMD` of this stage: an `ENTRYPOINT` takes away the one of the base, not this one.
    has_cmd: bool,
}

impl Image {
    /// From nothing.
    pub fn scratch(platform: &Platform) -> Self {
        let mut config = ImageConfig {
            architecture: platform.architecture.clone(),
            os: platform.os.clone(),
            variant: platform.variant.clone().unwrap_or_default(),
            os_version: platform.os_version.clone().unwrap_or_default(),
            ..ImageConfig::default()
        };
        config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        "/".clone_into(&mut config.config.working_dir);
        Self { config, has_cmd: false }
    }

    /// On another image, whose triggers are somebody else's business. How that one came to be says nothing of this
    /// one. As with BuildKit, there is always a `PATH`.
    pub fn on(base: &ImageConfig) -> Self {
        let mut config = base.clone();
        config.config.on_build.clear();
        config.comment.clear();
        let has_path = config.config.env.iter().any(|variable| variable.starts_with("PATH="));
        if !has_path && config.os != "windows" {
            config.config.env.push(format!("PATH={DEFAULT_PATH}"));
        }
        Self { config, has_cmd: false }
    }

    /// The shell of commands that are not in JSON form.
    pub fn shell(&self) -> Vec<String> {
        let default = || ["/bin/sh", "-c"].map(str::to_owned).to_vec();
        self.config.config.shell.clone().filter(|shell| !shell.is_empty()).unwrap_or_else(default)
    }

    /// The arguments of a command.
    pub fn arguments(&self, command: &CommandLine) -> Vec<String> {
        match command {
            CommandLine::Exec(arguments) => arguments.clone(),
            CommandLine::Shell(text) => {
                let mut arguments = self.shell();
                arguments.push(text.clone());
                arguments
            }
        }
    }

    /// A path, as seen from the working directory: absolute, with a `/` at the end if it had one or is a directory by its name.
    pub fn absolute(&self, path: &str) -> String {
        let mut parts: Vec<&str> = Vec::new();
        let start = if path.starts_with('/') { "" } else { self.config.config.working_dir.as_str() };
        for part in start.split('/').chain(path.split('/')) {
            match part {
                "" | "." => {}
                ".." => {
                    parts.pop();
                }
                other => parts.push(other),
            }
        }
        let is_directory = path.is_empty() || path.ends_with('/') || path == "." || path.ends_with("/.");
        let end = if is_directory && !parts.is_empty() { "/" } else { "" };
        format!("/{}{end}", parts.join("/"))
    }

    /// Adds a line to the history.
    pub fn record(&mut self, created_by: String, has_layer: bool) {
        self.config.history.push(HistoryEntry {
            created_by,
            comment: COMMENT.to_owned(),
            empty_layer: !has_layer,
            ..HistoryEntry::default()
        });
    }

    /// Takes an instruction that only says something, with its variables expanded. False: it does something, too.
    pub fn say(&mut self, command: &Command) -> Result<bool, String> {
        let created_by = match command {
            Command::Run(_) | Command::Copy { .. } | Command::Add { .. } | Command::Workdir(_) => {
                return Ok(false);
            }
            Command::Onbuild(trigger) => {
                self.config.config.on_build.push(trigger.clone());
                return Ok(true);
            }
            Command::Env(pairs) => {
                pairs.iter().for_each(|pair| set(&mut self.config.config.env, &pair.name, &pair.value));
                format!("ENV {}", joined(pairs))
            }
            Command::Label(pairs) => {
                let labels = pairs.iter().map(|pair| (pair.name.clone(), pair.value.clone()));
                self.config.config.labels.extend(labels);
                format!("LABEL {}", joined(pairs))
            }
            Command::Arg(arguments) => {
                let text = |argument: &ast::Argument| match &argument.value {
                    Some(value) => format!("{}={value}", argument.name),
                    None => argument.name.clone(),
                };
                format!("ARG {}", arguments.iter().map(text).collect::<Vec<_>>().join(" "))
            }
            Command::Cmd(line) => {
                let arguments = self.arguments(line);
                let text = format!("CMD {}", quoted(&arguments));
                self.config.config.cmd = Some(arguments);
                self.config.config.args_escaped = true;
                self.has_cmd = true;
                text
            }
            Command::Entrypoint(line) => {
                let arguments = self.arguments(line);
                let text = format!("ENTRYPOINT {}", quoted(&arguments));
                self.config.config.entrypoint = Some(arguments).filter(|arguments| !arguments.is_empty());
                if !self.has_cmd {
                    self.config.config.cmd = None;
                }
                text
            }
            Command::Expose(words) => {
                let mut ports = Vec::new();
                for word in words {
                    ports.extend(expose::parse(word)?.ports.iter().map(ToString::to_string));
                }
                let text = format!("EXPOSE [{}]", ports.join(" "));
                self.config.config.exposed_ports.extend(ports.into_iter().map(|port| (port, Empty {})));
                text
            }
            Command::Healthcheck(check) => {
                let check = self.health_check(check);
                let text = format!("HEALTHCHECK {}", health_text(&check));
                self.config.config.healthcheck = Some(check);
                text
            }
            Command::Maintainer(author) => {
                author.clone_into(&mut self.config.author);
                format!("MAINTAINER {author}")
            }
            Command::Shell(shell) => {
                self.config.config.shell = Some(shell.clone());
                format!("SHELL [{}]", shell.join(" "))
            }
            Command::Stopsignal(signal) => {
                if !is_signal(signal) {
                    return Err(format!("invalid signal: {signal}"));
                }
                signal.clone_into(&mut self.config.config.stop_signal);
                format!("STOPSIGNAL {signal}")
            }
            Command::User(user) => {
                user.clone_into(&mut self.config.config.user);
                format!("USER {user}")
            }
            Command::Volume(paths) => {
                if paths.iter().any(String::is_empty) {
                    return Err("VOLUME specified can not be an empty string".to_owned());
                }
                let volumes = paths.iter().map(|path| (path.clone(), Empty {}));
                self.config.config.volumes.extend(volumes);
                format!("VOLUME [{}]", paths.join(" "))
            }
        };
        self.record(created_by, false);
        Ok(true)
    }

    fn health_check(&self, check: &ast::Healthcheck) -> Healthcheck {
        let ast::Healthcheck::Test { command, interval, timeout, start_period, start_interval, retries } =
            check
        else {
            return Healthcheck { test: vec!["NONE".to_owned()], ..Healthcheck::default() };
        };
        let test = match command {
            CommandLine::Exec(arguments) => [&["CMD".to_owned()], arguments.as_slice()].concat(),
            CommandLine::Shell(text) => vec!["CMD-SHELL".to_owned(), text.clone()],
        };
        let nanoseconds = |duration: &Option<Duration>| {
            duration.map_or(0, |duration| i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX))
        };
        Healthcheck {
            test,
            interval: nanoseconds(interval),
            timeout: nanoseconds(timeout),
            start_period: nanoseconds(start_period),
            start_interval: nanoseconds(start_interval),
            retries: retries.unwrap_or(0).into(),
        }
    }
}

/// Sets a variable in `NAME=value` entries.
pub(crate) fn set(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let is_it = |known: &&mut String| known.split('=').next() == Some(name);
    match env.iter_mut().find(is_it) {
        Some(known) => *known = entry,
        None => env.push(entry),
    }
}

fn joined(pairs: &[ast::Pair]) -> String {
    let text = |pair: &ast::Pair| match pair.is_legacy {
        true => format!("{} {}", pair.name, pair.value),
        false => format!("{}={}", pair.name, pair.value),
    };
    pairs.iter().map(text).collect::<Vec<_>>().join(" ")
}

/// A list of strings, as Go's `%q` has it.
fn quoted(arguments: &[String]) -> String {
    format!("[{}]", arguments.iter().map(|argument| format!("{argument:?}")).collect::<Vec<_>>().join(" "))
}

/// A structure, as Go's `%+v` has it.
fn health_text(check: &Healthcheck) -> String {
    let duration = |nanoseconds: i64| {
        palan_stdx::duration::format(Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0)))
    };
    format!(
        "{{Test:[{}] Interval:{} Timeout:{} StartPeriod:{} StartInterval:{} Retries:{}}}",
        check.test.join(" "),
        duration(check.interval),
        duration(check.timeout),
        duration(check.start_period),
        duration(check.start_interval),
        check.retries
    )
}

/// A number, or a name with or without `SIG`.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<u32>() {
        return (1..=64).contains(&number);
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let offset = |text: &str| text.strip_prefix(['+', '-']).and_then(|number| number.parse::<u32>().ok());
    let is_real_time = ["RTMIN", "RTMAX"]
        .iter()
        .filter_map(|prefix| name.strip_prefix(prefix))
        .any(|rest| rest.is_empty() || offset(rest).is_some_and(|offset| offset <= 30));
    SIGNALS.contains(&name) || name == "XFSZ" || is_real_time
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(lines: &str) -> Image {
        let file = palan_dockerfile::parse(format!("FROM scratch\n{lines}\n").as_bytes()).expect(lines);
        let mut image = Image::scratch(&"linux/amd64".parse().expect("a platform"));
        for instruction in &file.stages[0].instructions {
            assert!(image.say(&instruction.command).expect(lines));
        }
        image
    }

    fn history(lines: &str) -> Vec<String> {
        image(lines).config.history.into_iter().map(|entry| entry.created_by).collect()
    }

    #[test]
    fn what_is_said_is_in_the_configuration() {
        let config = image(
            "ENV A=1 PATH=/bin\nENV A=2\nLABEL a=b\nUSER u:g\nVOLUME /v\nEXPOSE 80 1-2/udp\nSTOPSIGNAL SIGRTMIN+3\nSHELL [\"sh\", \"-e\"]\nCMD c\nONBUILD RUN x",
        )
        .config
        .config;
        assert_eq!(config.env, ["PATH=/bin", "A=2"]);
        assert_eq!(config.labels["a"], "b");
        assert_eq!((config.user.as_str(), config.stop_signal.as_str()), ("u:g", "SIGRTMIN+3"));
        assert_eq!(config.exposed_ports.keys().collect::<Vec<_>>(), ["1/udp", "2/udp", "80/tcp"]);
        assert!(config.volumes.contains_key("/v"));
        assert_eq!(config.cmd, Some(["sh", "-e", "c"].map(str::to_owned).to_vec()));
        assert_eq!(config.on_build, ["RUN x"]);
    }

    #[test]
    fn of_an_imported_base_no_comment_is_left_and_a_path_is_added() {
        let base = ImageConfig {
            os: "linux".to_owned(),
            author: "a".to_owned(),
            comment: "Imported from -".to_owned(),
            ..ImageConfig::default()
        };
        let config = Image::on(&base).config;
        assert_eq!((config.comment.as_str(), config.author.as_str()), ("", "a"));
        assert_eq!(config.config.env, [format!("PATH={DEFAULT_PATH}")]);
        assert_eq!(Image::on(&config).config.config.env.len(), 1);
    }

    #[test]
    fn an_entrypoint_takes_away_the_bases_command_only() {
        let mut base = image("CMD [\"base\"]");
        base.config.config.on_build.push("RUN x".to_owned());
        let say = |lines: &str| {
            let file = palan_dockerfile::parse(format!("FROM x\n{lines}").as_bytes()).expect(lines);
            let mut image = Image::on(&base.config);
            file.stages[0].instructions.iter().for_each(|instruction| {
                image.say(&instruction.command).expect(lines);
            });
            image.config.config
        };
        assert_eq!(say("ENTRYPOINT [\"a\"]").cmd, None);
        assert_eq!(say("CMD [\"b\"]\nENTRYPOINT [\"a\"]").cmd, Some(vec!["b".to_owned()]));
        assert!(say("USER a").on_build.is_empty());
    }

    #[test]
    fn health_checks() {
        let check = image("HEALTHCHECK --interval=1m30s --retries=2 CMD a b")
            .config
            .config
            .healthcheck
            .expect("a check");
        assert_eq!(
            (check.test, check.interval, check.retries),
            (vec!["CMD-SHELL".to_owned(), "a b".to_owned()], 90_000_000_000, 2)
        );
        let check = image("HEALTHCHECK NONE").config.config.healthcheck.expect("a check");
        assert_eq!(check.test, ["NONE"]);
    }

    #[test]
    fn history_is_written_as_buildkit_does() {
        assert_eq!(
            history(
                "ENV a=b c=\"d e\"\nARG x y=1\nCMD [\"a\", \"b\"]\nENTRYPOINT z\nEXPOSE 80\nVOLUME /a /b\nLABEL k v\nSHELL [\"sh\"]\nHEALTHCHECK --interval=2s CMD [\"t\"]\nMAINTAINER me"
            ),
            [
                "ENV a=b c=\"d e\"",
                "ARG x y=1",
                "CMD [\"a\" \"b\"]",
                "ENTRYPOINT [\"/bin/sh\" \"-c\" \"z\"]",
                "EXPOSE [80/tcp]",
                "VOLUME [/a /b]",
                "LABEL k v",
                "SHELL [sh]",
                "HEALTHCHECK {Test:[CMD t] Interval:2s Timeout:0s StartPeriod:0s StartInterval:0s Retries:0}",
                "MAINTAINER me"
            ]
        );
    }

    #[test]
    fn paths_start_at_the_working_directory() {
        let mut image = image("USER x");
        assert_eq!(
            (image.absolute("a/../b"), image.absolute("."), image.absolute("")),
            ("/b".into(), "/".into(), "/".into())
        );
        "/work".clone_into(&mut image.config.config.working_dir);
        assert_eq!(
            (image.absolute("a/"), image.absolute("."), image.absolute("/x/./y")),
            ("/work/a/".into(), "/work/".into(), "/x/y".into())
        );
        assert_eq!(image.absolute("../../../etc"), "/etc");
    }

    #[test]
    fn signals() {
        for good in ["9", "SIGTERM", "quit", "SIGRTMAX-1", "rtmin", "SIGXFSZ"] {
            assert!(is_signal(good), "{good}");
        }
        for bad in ["0", "65", "SIGNOPE", "SIGRTMIN+99", "", "RTMINä"] {
            assert!(!is_signal(bad), "{bad}");
        }
    }
}
