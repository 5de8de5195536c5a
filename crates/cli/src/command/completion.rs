//! `palan completion bash|zsh|fish`, and the hidden `__complete` that the shells' scripts call at each press of a key.
//!
//! `__complete WORD... CURRENT` prints a candidate a line, with a description behind a tab, and in the last line a colon and
//! what the shell is to do: the protocol of Docker's client, so that the scripts of either work with both. Live objects are
//! asked of the daemon that the words before choose. None is started for it, and what goes wrong gives no candidates.

use palan_docker_api::client::ListOptions;
use palan_docker_api::filters::Filters;

use super::{Arity, COMMON, Command, Entry, GLOBAL, GROUPS, OTHERS};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{self, Flag, Parsed, Support};

pub(crate) static COMMAND: Command = Command {
    long: "Generate the autocompletion script for the specified shell.\n\nLoad it into the running shell:\n\n  \
           bash:  source <(palan completion bash)\n  zsh:   source <(palan completion zsh)\n  fish:  palan completion fish | \
           source",
    ..Command::new(
        "bash|zsh|fish",
        "Generate the autocompletion script for the specified shell",
        Arity::Exactly(1),
        run,
    )
};

/// The first word of a call by a shell's script.
pub(super) const HIDDEN: [&str; 2] = ["__complete", "__completeNoDesc"];

const BASH: &str = r#"# bash completion for PROGRAM
_PROGRAM() {
    # COMP_WORDS is parted at = and : as well; what the program is asked for is parted at white space only.
    local line directive=0 words typed=${COMP_LINE:0:COMP_POINT}
    read -ra words <<<"$typed"
    [[ $typed == *[[:space:]] ]] && words+=("")
    local current=${words[${#words[@]}-1]} candidates=()
    while IFS= read -r line; do
        case $line in
        :*) directive=${line#:} ;;
        *) candidates+=("$line") ;;
        esac
    done < <("${words[0]}" __completeNoDesc "${words[@]:1}" 2>/dev/null)
    local before=
    [[ $current == *[=:]* ]] && before=${current%"${current##*[=:]}"}
    COMPREPLY=()
    for line in "${candidates[@]}"; do
        COMPREPLY+=("${line#"$before"}")
    done
    if (( ${#COMPREPLY[@]} == 0 && (directive & 4) == 0 )); then
        compopt -o default
    fi
    if (( directive & 2 )); then
        compopt -o nospace
    fi
}
complete -F _PROGRAM PROGRAM
"#;

const ZSH: &str = r#"#compdef PROGRAM
compdef _PROGRAM PROGRAM
_PROGRAM() {
    local line directive=0
    local -a candidates
    for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
        if [[ $line == :* ]]; then
            directive=${line#:}
        elif [[ -n $line ]]; then
            # _describe parts name and description at a colon.
            line=${line//:/\\:}
            candidates+=("${line/$'\t'/:}")
        fi
    done
    if (( ${#candidates} )); then
        if (( directive & 2 )); then
            _describe 'completions' candidates -S ''
        else
            _describe 'completions' candidates
        fi
    elif (( (directive & 4) == 0 )); then
        _files
    fi
}
if [ "$funcstack[1]" = "_PROGRAM" ]; then
    _PROGRAM
fi
"#;

const FISH: &str = r#"# fish completion for PROGRAM
function __PROGRAM_candidates
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    $words[1] __complete $words[2..-1] "$current" 2>/dev/null | string match -v -r '^:'
end
complete -c PROGRAM -f -a '(__PROGRAM_candidates)'
complete -c PROGRAM -n 'test (count (__PROGRAM_candidates)) -eq 0' -F
"#;

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let script = match flags.args[0].as_str() {
        "bash" => BASH,
        "zsh" => ZSH,
        "fish" => FISH,
        shell => {
            let message = format!("there is no completion for {shell:?}: use bash, zsh or fish");
            return Err(CliError::new(message));
        }
    };
    app.streams.print(&script.replace("PROGRAM", app.name()))
}

/// What the shell is to do beside offering the candidates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Directive {
    /// Offer files if there are none.
    Default = 0,
    /// Let the user write on: no space behind the candidate, no files.
    NoSpace = 6,
    /// Offer no files.
    NoFiles = 4,
}

/// Candidates and what to do with them.
#[derive(Debug)]
struct Answer {
    candidates: Vec<(String, &'static str)>,
    directive: Directive,
}

impl Answer {
    fn of(candidates: Vec<(String, &'static str)>) -> Self {
        Self { candidates, directive: Directive::NoFiles }
    }

    fn files() -> Self {
        Self { candidates: Vec::new(), directive: Directive::Default }
    }
}

/// Answers a shell.
pub(super) fn answer(app: &App, words: &[String], with_descriptions: bool) -> Result<()> {
    let (current, before) =
        words.split_last().map_or(("", [].as_slice()), |(last, before)| (last.as_str(), before));
    let found = candidates(app, before, current);
    let mut text = String::new();
    for (candidate, description) in found.candidates {
        if !candidate.starts_with(current) {
            continue;
        }
        text.push_str(&candidate);
        if with_descriptions && !description.is_empty() {
            text.push('\t');
            text.push_str(description.lines().next().unwrap_or_default());
        }
        text.push('\n');
    }
    app.streams.print(&format!("{text}:{}\n", found.directive as u8))
}

fn candidates(app: &App, before: &[String], current: &str) -> Answer {
    let Ok(globals) = flags::parse(&[GLOBAL], false, before) else {
        return wanted(&[GLOBAL], before).map_or_else(Answer::files, |flag| value(app, flag, current));
    };
    let words = globals.args.clone();
    app.set_globals(globals);
    let Some((name, rest)) = words.split_first() else {
        return if current.starts_with('-') { options(&[GLOBAL], current) } else { Answer::of(top_level()) };
    };
    if let Some(group) = GROUPS.iter().find(|group| group.name == name) {
        return match rest.split_first() {
            None => Answer::of(entries(group.entries)),
            Some((name, rest)) => match group.entries.iter().find(|entry| entry.0.contains(&name.as_str())) {
                Some(Entry(names, command)) => of_command(app, command, names[0], rest, current),
                None => Answer::of(Vec::new()),
            },
        };
    }
    match super::top(name) {
        Some(Entry(names, command)) => of_command(app, command, names[0], rest, current),
        None => Answer::files(),
    }
}

fn top_level() -> Vec<(String, &'static str)> {
    let groups = GROUPS.iter().map(|group| (group.name.to_owned(), group.short));
    let mut all: Vec<_> = entries(COMMON).into_iter().chain(entries(OTHERS)).chain(groups).collect();
    all.sort();
    all
}

fn entries(entries: &'static [Entry]) -> Vec<(String, &'static str)> {
    entries.iter().map(|Entry(names, command)| (names[0].to_owned(), command.short)).collect()
}

/// The flag that waits for its value at the end of these words.
fn wanted<'a>(tables: &[&'a [Flag]], words: &[String]) -> Option<&'a Flag> {
    let last = words.last()?;
    let mut flags = tables.iter().flat_map(|table| table.iter()).filter(|flag| !flag.is_bool());
    match (last.strip_prefix("--"), last.strip_prefix('-')) {
        (Some(long), _) => flags.find(|flag| flag.long == long),
        // In -itp the last letter is the one.
        (None, Some(letters)) => {
            flags.find(|flag| flag.short.is_some() && letters.chars().last() == flag.short)
        }
        (None, None) => None,
    }
}

fn options(tables: &[&'static [Flag]], current: &str) -> Answer {
    let shown = tables.iter().flat_map(|table| table.iter()).filter(|flag| flag.support == Support::Full);
    let mut candidates: Vec<(String, &'static str)> =
        shown.map(|flag| (format!("--{}", flag.long), flag.help)).collect();
    candidates.sort();
    candidates.retain(|(name, _)| name.starts_with(current));
    Answer::of(candidates)
}

fn of_command(app: &App, command: &'static Command, name: &str, words: &[String], current: &str) -> Answer {
    if let Some(flag) = wanted(command.flags, words) {
        return value(app, flag, current);
    }
    if let Some((flag, partial)) = current.strip_prefix("--").and_then(|text| text.split_once('=')) {
        let mut all = command.flags.iter().flat_map(|table| table.iter());
        let Some(flag) = all.find(|known| known.long == flag) else { return Answer::of(Vec::new()) };
        let mut answer = value(app, flag, partial);
        for (candidate, _) in &mut answer.candidates {
            candidate.insert_str(0, &format!("--{}=", flag.long));
        }
        return answer;
    }
    let given = match flags::parse(command.flags, command.interspersed, words) {
        Ok(parsed) => parsed.args,
        Err(_) => return Answer::of(Vec::new()),
    };
    let flags_are_over =
        words.iter().any(|word| word == "--") || (!command.interspersed && !given.is_empty());
    if current.starts_with('-') && !flags_are_over {
        return options(command.flags, current);
    }
    let Some(kind) = argument(command.usage, given.len()) else { return Answer::files() };
    if name == "create" && !matches!(kind, "IMAGE" | "CONTAINER") {
        return Answer::of(Vec::new());
    }
    if let ("CHECKPOINT", [container]) = (kind, given.as_slice()) {
        return Answer::of(checkpoints(app, container).into_iter().map(|name| (name, "")).collect());
    }
    match objects(app, kind, name) {
        Some(mut found) => {
            found.retain(|name| !given.contains(name));
            Answer::of(found.into_iter().map(|name| (name, "")).collect())
        }
        None => Answer::files(),
    }
}

/// What stands at this place of a usage line, without brackets: `CONTAINER` of `[OPTIONS] CONTAINER [CONTAINER...]`. The last
/// word may be repeated.
fn argument(usage: &'static str, index: usize) -> Option<&'static str> {
    let words: Vec<&str> = usage.split_whitespace().filter(|word| *word != "[OPTIONS]").collect();
    let word = words.get(index).or_else(|| words.last().filter(|last| last.ends_with("...]")))?;
    Some(word.trim_start_matches('[').split(['[', ']', '.', '|', ':']).next().unwrap_or_default())
}

/// The checkpoints of a container.
fn checkpoints(app: &App, container: &str) -> Vec<String> {
    let client = app.target().ok().and_then(|target| target.client(None).ok());
    let found = client.and_then(|client| client.list_checkpoints(container, "").ok());
    found.unwrap_or_default().into_iter().map(|checkpoint| checkpoint.name).collect()
}

/// The objects of a kind that a command can be about; `None` if the kind is none that lives in a daemon.
fn objects(app: &App, kind: &str, command: &str) -> Option<Vec<String>> {
    let none = Filters::new;
    let client = || app.target().ok()?.client(None).ok();
    match kind {
        "CONTAINER" => {
            let state: &[&str] = match command {
                // Of a checkpoint.
                "create" => &["running"],
                "attach" | "exec" | "kill" | "pause" | "port" | "stats" | "stop" | "top" => &["running"],
                "start" => &["created", "exited", "dead"],
                "unpause" => &["paused"],
                _ => &[],
            };
            let mut filters = Filters::new();
            state.iter().for_each(|state| filters.add("status", *state));
            let options = ListOptions { all: true, filters, ..ListOptions::default() };
            let found = client()?.list_containers(&options).unwrap_or_default();
            let names = found.into_iter().flat_map(|container| container.names);
            // A link is no name of its own.
            Some(
                names
                    .map(|name| name.trim_start_matches('/').to_owned())
                    .filter(|name| !name.contains('/'))
                    .collect(),
            )
        }
        "IMAGE" | "SOURCE_IMAGE" => {
            let found = client()?.list_images(false, &none()).unwrap_or_default();
            let tags = found.into_iter().flat_map(|image| image.repo_tags);
            Some(tags.filter(|tag| !tag.starts_with("<none>")).flat_map(short_and_full).collect())
        }
        "NETWORK" => Some(
            client()?
                .list_networks(&none())
                .unwrap_or_default()
                .into_iter()
                .map(|network| network.name)
                .collect(),
        ),
        "VOLUME" => {
            let found = client()?.list_volumes(&none()).ok().map(|list| list.volumes);
            Some(found.unwrap_or_default().into_iter().map(|volume| volume.name).collect())
        }
        "CONTEXT" => {
            let all = app.contexts().all().unwrap_or_default();
            Some(
                std::iter::once("default".to_owned())
                    .chain(all.into_iter().map(|context| context.name))
                    .collect(),
            )
        }
        "NAME" | "COMMAND" | "file" => None,
        // New names, terms, servers: nothing to offer, and no files either.
        _ => Some(Vec::new()),
    }
}

/// `debian` is `debian:latest` to every command.
fn short_and_full(tag: String) -> Vec<String> {
    match tag.strip_suffix(":latest") {
        Some(short) => vec![short.to_owned(), tag],
        None => vec![tag],
    }
}

/// Candidates for the value of a flag.
fn value(app: &App, flag: &Flag, current: &str) -> Answer {
    let words =
        |words: &[&'static str]| Answer::of(words.iter().map(|word| ((*word).to_owned(), "")).collect());
    let named = |kind: &str| {
        let found = objects(app, kind, "").unwrap_or_default();
        Answer::of(found.into_iter().map(|name| (name, "")).collect())
    };
    match flag.long {
        "network" | "net" => named("NETWORK"),
        "link" | "volumes-from" => named("CONTAINER"),
        "context" | "from" => named("CONTEXT"),
        "restart" => words(&["always", "no", "on-failure", "unless-stopped"]),
        "pull" => words(&["always", "missing", "never"]),
        "log-driver" => words(&["fluentd", "gelf", "journald", "json-file", "local", "none", "syslog"]),
        "log-level" => words(&["debug", "error", "fatal", "info", "warn"]),
        "health-on-failure" => words(&["kill", "none", "restart", "stop"]),
        "cap-add" | "cap-drop" => words(&[
            "ALL",
            "AUDIT_CONTROL",
            "AUDIT_WRITE",
            "BPF",
            "CHOWN",
            "DAC_OVERRIDE",
            "DAC_READ_SEARCH",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_ADMIN",
            "NET_BIND_SERVICE",
            "NET_RAW",
            "PERFMON",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_ADMIN",
            "SYS_CHROOT",
            "SYS_MODULE",
            "SYS_NICE",
            "SYS_PTRACE",
            "SYS_RESOURCE",
            "SYS_TIME",
        ]),
        "platform" => words(&["linux/amd64", "linux/arm64"]),
        "volume" if !current.contains(':') && !current.starts_with(['/', '.']) => {
            let mut answer = named("VOLUME");
            answer.candidates.iter_mut().for_each(|(name, _)| name.push(':'));
            if !answer.candidates.is_empty() {
                answer.directive = Directive::NoSpace;
            }
            answer
        }
        "config" | "cidfile" | "env-file" | "label-file" | "input" | "output" | "tlscacert" | "tlscert"
        | "tlskey" | "volume" => Answer::files(),
        _ => Answer::of(Vec::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_in_usage_lines_are_known() {
        assert_eq!(argument("[OPTIONS] CONTAINER [CONTAINER...]", 0), Some("CONTAINER"));
        assert_eq!(argument("[OPTIONS] CONTAINER [CONTAINER...]", 7), Some("CONTAINER"));
        assert_eq!(argument("[OPTIONS] NETWORK CONTAINER", 1), Some("CONTAINER"));
        assert_eq!(argument("[OPTIONS] NETWORK CONTAINER", 2), None);
        assert_eq!(argument("SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]", 0), Some("SOURCE_IMAGE"));
        assert_eq!(argument("[OPTIONS] IMAGE [COMMAND] [ARG...]", 1), Some("COMMAND"));
        assert_eq!(argument("[OPTIONS] [VOLUME]", 0), Some("VOLUME"));
        assert_eq!(argument("[OPTIONS]", 0), None);
    }
}
