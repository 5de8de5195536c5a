//! `palan runtime`: runc's command line, so that whatever drives runc can drive Palan's runtime.
//!
//! One file for each group of commands. The parser is a table and a loop ([`arguments`]): a start counts here, and
//! nothing but what the command needs is done.

#![allow(clippy::print_stderr, reason = "this is a command line")]

mod arguments;
mod checkpoint;
mod create;
mod events;
mod exec;
mod foreground;
mod info;
mod list;
mod log;
mod manage;
mod notify;
mod protect;
mod ps;
mod state;
mod time;
mod update;

use std::ffi::OsString;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use arguments::{Arguments, Flag, flag, option};

/// A failed command: its text, and the exit code if it is not 1.
#[derive(Debug)]
struct Failure {
    message: String,
    code: u8,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), code: 1 }
    }
}

impl From<crate::error::RuntimeError> for Failure {
    fn from(error: crate::error::RuntimeError) -> Self {
        Self::new(error.report())
    }
}

impl From<crate::cgroup::CgroupError> for Failure {
    fn from(error: crate::cgroup::CgroupError) -> Self {
        crate::error::RuntimeError::from(error).into()
    }
}

type Outcome = Result<ExitCode, Failure>;

/// What stands before the command.
#[derive(Debug)]
struct Global {
    /// Directory of all containers' state.
    root: PathBuf,
    /// Whether the command line says where.
    root_named: bool,
    /// Run for somebody who is not root: what only root can have is left out.
    rootless: bool,
    /// The program that makes and restores checkpoints: a path, or a name in `PATH`.
    criu: String,
    log: log::Log,
    /// Who makes cgroups, if it is not us.
    systemd: Option<crate::cgroup::Manager>,
}

const GLOBAL_FLAGS: &[Flag] = &[
    flag("debug"),
    option("log"),
    option("log-format"),
    option("root"),
    option("criu"),
    flag("systemd-cgroup"),
    option("rootless"),
    flag("help").short('h'),
    flag("version").short('v'),
];

/// A command: its name, what it takes, and the function behind it.
struct Command {
    name: &'static str,
    usage: &'static str,
    flags: &'static [Flag],
    run: fn(&Global, &Arguments) -> Outcome,
}

const COMMANDS: &[Command] = &[
    Command {
        name: "checkpoint",
        usage: "[options] <container-id>",
        flags: checkpoint::CHECKPOINT_FLAGS,
        run: checkpoint::checkpoint,
    },
    Command { name: "create", usage: "[options] <container-id>", flags: create::FLAGS, run: create::create },
    Command {
        name: "delete",
        usage: "[--force] <container-id>",
        flags: manage::DELETE_FLAGS,
        run: manage::delete,
    },
    Command {
        name: "events",
        usage: "[--interval <duration>] [--stats] <container-id>",
        flags: events::FLAGS,
        run: events::events,
    },
    Command {
        name: "exec",
        usage: "[options] <container-id> <command> [argument...]",
        flags: exec::FLAGS,
        run: exec::exec,
    },
    Command { name: "features", usage: "", flags: &[], run: info::features },
    Command {
        name: "kill",
        usage: "[--all] <container-id> [signal]",
        flags: manage::KILL_FLAGS,
        run: manage::kill,
    },
    Command { name: "list", usage: "[--format table|json] [--quiet]", flags: list::FLAGS, run: list::list },
    Command { name: "pause", usage: "<container-id>", flags: &[], run: manage::pause },
    Command {
        name: "ps",
        usage: "[--format table|json] <container-id> [ps options]",
        flags: ps::FLAGS,
        run: ps::ps,
    },
    Command {
        name: "restore",
        usage: "[options] <container-id>",
        flags: checkpoint::RESTORE_FLAGS,
        run: checkpoint::restore,
    },
    Command { name: "resume", usage: "<container-id>", flags: &[], run: manage::resume },
    Command { name: "run", usage: "[options] <container-id>", flags: create::FLAGS, run: create::run },
    Command { name: "spec", usage: "[--bundle <directory>]", flags: info::SPEC_FLAGS, run: info::spec },
    Command { name: "start", usage: "<container-id>", flags: &[], run: create::start },
    Command { name: "state", usage: "<container-id>", flags: &[], run: manage::state },
    Command { name: "update", usage: "[options] <container-id>", flags: update::FLAGS, run: update::update },
];

/// Runs `palan runtime` with the arguments after these two words.
pub fn main(args: impl Iterator<Item = OsString>) -> ExitCode {
    let words: Vec<OsString> = args.collect();
    let (arguments, global) = match Arguments::parse(GLOBAL_FLAGS, &words).and_then(|arguments| {
        let global = global(&arguments)?;
        Ok((arguments, global))
    }) {
        Ok(parsed) => parsed,
        Err(failure) => {
            eprintln!("palan runtime: {}", failure.message);
            return ExitCode::from(failure.code);
        }
    };
    match dispatch(&arguments, &global) {
        Ok(code) => code,
        Err(failure) => {
            global.log.error(&failure.message);
            eprintln!("palan runtime: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

fn global(arguments: &Arguments) -> Result<Global, Failure> {
    let is_root = rustix::process::geteuid().is_root();
    let rootless = match arguments.value("rootless").unwrap_or("auto") {
        "auto" => !is_root,
        "true" => true,
        "false" => false,
        other => return Err(Failure::new(format!("--rootless: {other:?} is not true, false or auto"))),
    };
    Ok(Global {
        root: arguments.value("root").map_or_else(|| default_root(is_root), PathBuf::from),
        root_named: arguments.value("root").is_some(),
        rootless,
        criu: arguments.value("criu").unwrap_or("criu").to_owned(),
        log: log::Log::open(
            arguments.value("log"),
            arguments.value("log-format").unwrap_or("text"),
            arguments.has("debug"),
        )?,
        systemd: arguments.has("systemd-cgroup").then(|| manager(rootless)),
    })
}

/// Where state lies unless `--root` says otherwise: for anybody but root below their own runtime directory.
fn default_root(is_root: bool) -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) if !is_root && !directory.is_empty() => {
            PathBuf::from(directory).join("palan-runtime")
        }
        _ => PathBuf::from("/run/palan-runtime"),
    }
}

/// The manager whose units are ours, where the environment says it is.
fn manager(rootless: bool) -> crate::cgroup::Manager {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    if !rootless && !crate::cgroup::is_rootless() {
        return crate::cgroup::Manager::System(variable("DBUS_SYSTEM_BUS_ADDRESS"));
    }
    let run = variable("XDG_RUNTIME_DIR");
    let below = run.iter().flat_map(|run| {
        ["bus", "systemd/private"].map(|name| format!("unix:path={}/{name}", run.replace('%', "%25")))
    });
    crate::cgroup::Manager::User(variable("DBUS_SESSION_BUS_ADDRESS").into_iter().chain(below).collect())
}

fn dispatch(arguments: &Arguments, global: &Global) -> Outcome {
    if arguments.has("version") {
        return print(&info::version());
    }
    let Some((name, rest)) = arguments.positional.split_first() else {
        return print(&help());
    };
    if arguments.has("help") || name == "help" {
        return print(&help());
    }
    let command = COMMANDS.iter().find(|command| name == command.name).ok_or_else(|| {
        let name = name.to_string_lossy();
        // The first words are those that runc's callers know.
        Failure::new(format!("No help topic for '{name}'; palan runtime --help lists the commands"))
    })?;
    // What follows the ID belongs to another program, or is a signal.
    let ends_at_id = matches!(command.name, "exec" | "kill" | "ps");
    if rest.iter().any(|word| word == "--help" || word == "-h") && !ends_at_id {
        return print(&usage(command));
    }
    let parse = if ends_at_id { Arguments::parse } else { Arguments::parse_anywhere };
    let parsed = parse(command.flags, rest)
        .map_err(|failure| Failure::new(format!("{}: {}", command.name, failure.message)))?;
    global.log.debug(&format!("{} {:?}", command.name, parsed.positional));
    (command.run)(global, &parsed)
}

/// Prints what was asked for. Who closes the other end has seen enough.
fn print(text: &str) -> Outcome {
    let mut output = std::io::stdout().lock();
    match output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::new(format!("cannot print: {error}")))
        }
        _ => Ok(ExitCode::SUCCESS),
    }
}

fn help() -> String {
    let mut text = "Usage: palan runtime [global options] <command> [options]\n\nCommands:\n".to_owned();
    for command in COMMANDS {
        text += &format!("  {:<10}{}\n", command.name, command.usage);
    }
    text + "\nGlobal options:\n" + &list_of(GLOBAL_FLAGS)
}

fn usage(command: &Command) -> String {
    let line = format!("Usage: palan runtime {} {}\n", command.name, command.usage);
    if command.flags.is_empty() { line } else { line + "\nOptions:\n" + &list_of(command.flags) }
}

fn list_of(flags: &[Flag]) -> String {
    let line = |flag: &Flag| {
        let short = flag.short.map_or_else(String::new, |short| format!("-{short}, "));
        let value = if flag.takes_value { " <value>" } else { "" };
        format!("  {short}--{}{value}\n", flag.name)
    };
    flags.iter().map(line).collect()
}
