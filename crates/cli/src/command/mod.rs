//! The tree of commands, and how a command line becomes a call of one of them.
//!
//! A command is a static [`Command`]: its words, flags, number of arguments, help, and the function that runs it. It stands
//! once in its file and may be reached by several names (`ps`, `container ls`, `container ps`).

/// Commands on builds.
mod builder;
/// Commands on checkpoints.
mod checkpoint;
/// What commands share: objects named in arguments, filters, `inspect`.
mod common;
/// Completion in shells.
mod completion;
/// Commands on containers.
mod container;
/// Commands on contexts.
mod context;
/// Commands on images.
mod image;
/// Commands on manifests and lists of them.
mod manifest;
/// The manual.
mod manual;
/// Commands on networks.
mod network;
/// Commands on the daemon and the host.
mod system;
/// Commands on volumes.
mod volume;

use std::fmt::Write as _;

use crate::app::App;
use crate::error::{CliError, Kind, Result};
use crate::flags::{self, Flag, FlagError, Parsed};
use crate::plugin;

/// How many arguments a command takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Arity {
    None,
    Exactly(usize),
    AtLeast(usize),
    AtMost(usize),
    Between(usize, usize),
}

/// One command.
#[derive(Debug)]
pub(crate) struct Command {
    /// What stands behind the name in the usage line.
    pub(crate) usage: &'static str,
    /// What it does, in a line.
    pub(crate) short: &'static str,
    /// What it does, if more is to be said.
    pub(crate) long: &'static str,
    /// Its full names, as the help lists them.
    pub(crate) aliases: &'static str,
    pub(crate) flags: &'static [&'static [Flag]],
    pub(crate) arity: Arity,
    /// Whether flags may stand behind arguments; not where arguments are another program's command line.
    pub(crate) interspersed: bool,
    pub(crate) run: fn(&App, &Parsed) -> Result<()>,
}

impl Command {
    /// What most commands are like.
    pub(crate) const fn new(
        usage: &'static str,
        short: &'static str,
        arity: Arity,
        run: fn(&App, &Parsed) -> Result<()>,
    ) -> Self {
        Self { usage, short, long: "", aliases: "", flags: &[], arity, interspersed: true, run }
    }
}

/// A command under its names; the first is shown.
#[derive(Debug)]
pub(crate) struct Entry(pub(crate) &'static [&'static str], pub(crate) &'static Command);

/// A management command: `container`, `image`, ….
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) name: &'static str,
    pub(crate) short: &'static str,
    pub(crate) entries: &'static [Entry],
    /// Docker's commands that we know of and don't have yet.
    pub(crate) missing: &'static [&'static str],
}

/// The commands that the top of the help names first.
static COMMON: &[Entry] = &[
    Entry(&["run"], &container::run::COMMAND),
    Entry(&["exec"], &container::exec::COMMAND),
    Entry(&["ps"], &container::ls::COMMAND),
    Entry(&["build"], &image::build::COMMAND),
    Entry(&["pull"], &image::pull::COMMAND),
    Entry(&["push"], &image::push::COMMAND),
    Entry(&["images"], &image::ls::COMMAND),
    Entry(&["search"], &system::search::COMMAND),
    Entry(&["login"], &system::login::COMMAND),
    Entry(&["logout"], &system::logout::COMMAND),
    Entry(&["version"], &system::version::COMMAND),
    Entry(&["info"], &system::info::COMMAND),
];

static GROUPS: &[Group] = &[
    builder::GROUP,
    builder::BUILDX,
    checkpoint::GROUP,
    container::GROUP,
    context::GROUP,
    image::GROUP,
    manifest::GROUP,
    network::GROUP,
    system::GROUP,
    volume::GROUP,
];

static OTHERS: &[Entry] = &[
    Entry(&["attach"], &container::attach::COMMAND),
    Entry(&["commit"], &container::commit::COMMAND),
    Entry(&["completion"], &completion::COMMAND),
    Entry(&["cp"], &container::cp::COMMAND),
    Entry(&["create"], &container::create::COMMAND),
    Entry(&["diff"], &container::diff::COMMAND),
    Entry(&["doctor"], &system::doctor::COMMAND),
    Entry(&["events"], &system::events::COMMAND),
    Entry(&["export"], &container::export::COMMAND),
    Entry(&["history"], &image::history::COMMAND),
    Entry(&["import"], &image::import::COMMAND),
    Entry(&["inspect"], &system::inspect::COMMAND),
    Entry(&["kill"], &container::kill::COMMAND),
    Entry(&["load"], &image::load::COMMAND),
    Entry(&["logs"], &container::logs::COMMAND),
    Entry(&["pause"], &container::pause::PAUSE),
    Entry(&["port"], &container::port::COMMAND),
    Entry(&["rename"], &container::rename::COMMAND),
    Entry(&["restart"], &container::stop::RESTART),
    Entry(&["rm"], &container::rm::COMMAND),
    Entry(&["rmi"], &image::rm::COMMAND),
    Entry(&["save"], &image::save::COMMAND),
    Entry(&["start"], &container::start::COMMAND),
    Entry(&["stats"], &container::stats::COMMAND),
    Entry(&["stop"], &container::stop::STOP),
    Entry(&["tag"], &image::tag::COMMAND),
    Entry(&["top"], &container::top::COMMAND),
    Entry(&["unpause"], &container::pause::UNPAUSE),
    Entry(&["update"], &container::update::COMMAND),
    Entry(&["wait"], &container::wait::COMMAND),
];

/// Docker's commands that we know of and don't have yet.
static MISSING: &[&str] =
    &["compose", "config", "node", "plugin", "secret", "service", "stack", "swarm", "trust"];

/// The flags before the command.
#[rustfmt::skip]
static GLOBAL: &[Flag] = &[
    Flag::string("config", None, "Location of client config files (default \"~/.docker\")"),
    Flag::string("context", Some('c'), "Name of the context to use to connect to the daemon (overrides PALAN_HOST and DOCKER_HOST env vars)"),
    Flag::bool("debug", Some('D'), "Enable debug mode"),
    Flag::bool("help", Some('h'), "Print usage").hidden(),
    Flag::list("host", Some('H'), "Daemon socket to connect to"),
    Flag::string("log-level", Some('l'), "Set the logging level (\"debug\", \"info\", \"warn\", \"error\", \"fatal\")").default("info").check(check_log_level),
    Flag::bool("tls", None, "Use TLS; implied by --tlsverify").hidden(),
    Flag::string("tlscacert", None, "Trust certs signed only by this CA").hidden(),
    Flag::string("tlscert", None, "Path to TLS certificate file").hidden(),
    Flag::string("tlskey", None, "Path to TLS key file").hidden(),
    Flag::bool("tlsverify", None, "Use TLS and verify the remote").hidden(),
    Flag::bool("version", Some('v'), "Print version information and quit"),
];

fn check_log_level(text: &str) -> std::result::Result<(), String> {
    match text.to_ascii_lowercase().as_str() {
        "panic" | "fatal" | "error" | "warn" | "warning" | "info" | "debug" | "trace" => Ok(()),
        _ => Err(format!("unable to parse logging level: {text}")),
    }
}

/// The version of this program.
pub(crate) const VERSION: &str = env!("CARGO_PKG_VERSION");

/// The commit it was built from, if the build was told.
pub(crate) fn build() -> &'static str {
    option_env!("PALAN_BUILD").unwrap_or("unknown")
}

/// Runs a command line without the program's name.
pub(crate) fn execute(app: &App, words: &[String]) -> Result<()> {
    match words.split_first() {
        Some((first, rest)) if completion::HIDDEN.contains(&first.as_str()) => {
            return completion::answer(app, rest, first == completion::HIDDEN[0]);
        }
        Some((first, rest)) if first == manual::HIDDEN => return manual::write(app, rest),
        _ => {}
    }
    let globals = match flags::parse(&[GLOBAL], false, words) {
        Ok(globals) => globals,
        Err(FlagError::Help) => return root_help(app),
        Err(error) => return Err(usage_error(&error, app.name(), "[OPTIONS] COMMAND [ARG...]")),
    };
    if globals.bool("version") {
        return app.streams.line(&format!("Palan version {VERSION}, build {}", build()));
    }
    let all = words;
    let words = globals.args.clone();
    app.set_globals(globals);
    let Some((name, rest)) = words.split_first() else {
        app.streams.say_part(&root_text(app));
        return Ok(());
    };
    if name == "help" {
        return help(app, rest);
    }
    if let Some(Entry(_, command)) = top(name) {
        return call(app, &format!("{} {name}", app.name()), command, rest);
    }
    match GROUPS.iter().find(|group| group.name == name) {
        Some(group) => in_group(app, group, rest),
        None => match plugin::find(app, name) {
            Some(plugin) => plugin.run(app, all),
            None => Err(unknown(app, name, app.name(), MISSING, "")),
        },
    }
}

fn top(name: &str) -> Option<&'static Entry> {
    COMMON.iter().chain(OTHERS).find(|entry| entry.0.contains(&name))
}

fn in_group(app: &App, group: &'static Group, words: &[String]) -> Result<()> {
    let path = format!("{} {}", app.name(), group.name);
    let parsed = match flags::parse(&[], false, words) {
        Ok(parsed) => parsed,
        Err(FlagError::Help) => return group_help(app, group),
        Err(error) => return Err(usage_error(&error, &path, "COMMAND")),
    };
    let Some((name, rest)) = parsed.args.split_first() else {
        // Nobody asked for help, so it is no data.
        app.streams.say_part(&group_text(app, group));
        return Ok(());
    };
    match group.entries.iter().find(|entry| entry.0.contains(&name.as_str())) {
        Some(Entry(names, command)) => call(app, &format!("{path} {}", names[0]), command, rest),
        None => Err(unknown(app, name, &path, group.missing, &format!("\n\nUsage:  {path} COMMAND"))),
    }
}

fn unknown(app: &App, name: &str, path: &str, missing: &[&str], usage: &str) -> CliError {
    if missing.contains(&name) {
        return CliError::new(format!("{}: '{path} {name}' is not supported yet", app.name()));
    }
    CliError::new(format!("{}: unknown command: {path} {name}{usage}", app.name()))
        .hint(format!("Run '{path} --help' for more information"))
}

fn usage_error(error: &FlagError, path: &str, usage: &str) -> CliError {
    CliError::of(Kind::Usage, format!("{error}\n\nUsage:  {path} {usage}"))
        .hint(format!("Run '{path} --help' for more information"))
}

fn call(app: &App, path: &str, command: &'static Command, words: &[String]) -> Result<()> {
    match flags::parse(command.flags, command.interspersed, words) {
        Ok(parsed) => {
            check_arity(app, command, path, parsed.args.len())?;
            (command.run)(app, &parsed)
        }
        Err(FlagError::Help) => app.streams.print(&command_help(app, command, path)),
        Err(error) => Err(usage_error(&error, path, command.usage)),
    }
}

fn check_arity(app: &App, command: &Command, path: &str, count: usize) -> Result<()> {
    let plural = |count: usize| if count == 1 { "argument" } else { "arguments" };
    let (fits, wants, verb) = match command.arity {
        Arity::None => (count == 0, "accepts no arguments".to_owned(), "Run"),
        Arity::Exactly(n) => (count == n, format!("requires {n} {}", plural(n)), "Run"),
        Arity::AtLeast(n) => (count >= n, format!("requires at least {n} {}", plural(n)), "See"),
        Arity::AtMost(n) => (count <= n, format!("requires at most {n} {}", plural(n)), "Run"),
        Arity::Between(least, most) => (
            (least..=most).contains(&count),
            format!("requires at least {least} and at most {most} {}", plural(most)),
            "Run",
        ),
    };
    if fits {
        return Ok(());
    }
    Err(CliError::new(format!("{}: '{path}' {wants}\n\nUsage:  {path} {}", app.name(), command.usage))
        .hint(format!("{verb} '{path} --help' for more information")))
}

fn command_help(app: &App, command: &Command, path: &str) -> String {
    let long = if command.long.is_empty() { command.short } else { command.long };
    let mut text = format!("Usage:  {path} {}", command.usage).trim_end().to_owned();
    let _ = write!(text, "\n\n{long}\n");
    if !command.aliases.is_empty() {
        let aliases = command.aliases.replace("palan ", &format!("{} ", app.name()));
        let _ = write!(text, "\nAliases:\n  {aliases}\n");
    }
    let usages = flags::usages(command.flags, app.streams.help_columns().saturating_sub(1));
    if !usages.is_empty() {
        let _ = write!(text, "\nOptions:\n{}\n", usages.trim_end());
    }
    text
}

fn list(text: &mut String, title: &str, entries: &[(&str, &str)]) {
    if entries.is_empty() {
        return;
    }
    let _ = write!(text, "\n{title}:\n");
    for (name, short) in entries {
        let _ = writeln!(text, "  {name:<11} {short}");
    }
}

fn named(entries: &'static [Entry]) -> Vec<(&'static str, &'static str)> {
    entries.iter().map(|Entry(names, command)| (names[0], command.short)).collect()
}

fn group_help(app: &App, group: &'static Group) -> Result<()> {
    app.streams.print(&group_text(app, group))
}

fn group_text(app: &App, group: &'static Group) -> String {
    let mut text = format!("Usage:  {} {} COMMAND\n\n{}\n", app.name(), group.name, group.short);
    list(&mut text, "Commands", &named(group.entries));
    let (program, group) = (app.name(), group.name);
    let _ = write!(text, "\nRun '{program} {group} COMMAND --help' for more information on a command.\n");
    text
}

fn root_help(app: &App) -> Result<()> {
    app.streams.print(&root_text(app))
}

fn root_text(app: &App) -> String {
    let program = app.name();
    let mut text =
        format!("Usage:  {program} [OPTIONS] COMMAND\n\nA self-sufficient runtime for containers\n");
    list(&mut text, "Common Commands", &named(COMMON));
    let plugins: Vec<(String, String)> = plugin::all(app)
        .into_iter()
        .filter(|plugin| top(&plugin.name).is_none() && GROUPS.iter().all(|group| group.name != plugin.name))
        .filter_map(|plugin| Some((format!("{}*", plugin.name), plugin.describe()?)))
        .collect();
    let plugins = plugins.iter().map(|(name, short)| (name.as_str(), short.as_str()));
    let mut groups: Vec<(&str, &str)> =
        GROUPS.iter().map(|group| (group.name, group.short)).chain(plugins).collect();
    groups.sort_unstable();
    list(&mut text, "Management Commands", &groups);
    let mut others = named(OTHERS);
    // The program itself dispatches it before it comes here.
    others.push(("daemon", "Run the daemon"));
    others.sort_unstable();
    list(&mut text, "Commands", &others);
    let usages = flags::usages(&[GLOBAL], app.streams.help_columns().saturating_sub(1));
    let _ = write!(text, "\nGlobal Options:\n{}\n", usages.trim_end());
    let _ = write!(text, "\nRun '{program} COMMAND --help' for more information on a command.\n");
    text
}

fn help(app: &App, words: &[String]) -> Result<()> {
    let unknown = || CliError::new(format!("unknown help topic: {}", words.join(" ")));
    let Some((name, rest)) = words.split_first() else { return root_help(app) };
    if let (Some(Entry(_, command)), []) = (top(name), rest) {
        return app.streams.print(&command_help(app, command, &format!("{} {name}", app.name())));
    }
    let group = GROUPS.iter().find(|group| group.name == name).ok_or_else(unknown)?;
    match rest {
        [] => group_help(app, group),
        [name] => {
            let entry =
                group.entries.iter().find(|entry| entry.0.contains(&name.as_str())).ok_or_else(unknown)?;
            let path = format!("{} {} {}", app.name(), group.name, entry.0[0]);
            app.streams.print(&command_help(app, entry.1, &path))
        }
        _ => Err(unknown()),
    }
}
