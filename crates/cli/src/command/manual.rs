//! The manual pages, made of the same tables as the help, in roff with the macros of man(7).
//!
//! The hidden command `__man DIRECTORY` writes `palan.1`, a page for each group and one for each command below
//! (`palan-container-run.1`). `cargo xtask dist` calls it, so that a package has only to copy files.

use std::fmt::Write as _;
use std::path::Path;

use palan_stdx::{error_chain, fs};

use super::{COMMON, Command, Entry, GLOBAL, GROUPS, OTHERS};
use crate::app::App;
use crate::environment::VARIABLES;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Support};

/// The first word of the hidden command.
pub(super) const HIDDEN: &str = "__man";

/// Writes all pages into a directory.
pub(super) fn write(app: &App, words: &[String]) -> Result<()> {
    let [directory] = words else { return Err(CliError::new("__man takes a directory")) };
    for (name, page) in pages(app.name()) {
        let path = Path::new(directory).join(format!("{name}.1"));
        fs::write(&path, page).map_err(|error| CliError::new(error_chain::to_string(&error)))?;
    }
    Ok(())
}

fn pages(program: &str) -> Vec<(String, String)> {
    let mut pages = vec![(program.to_owned(), overview(program))];
    for Entry(names, command) in COMMON.iter().chain(OTHERS) {
        pages.push((format!("{program}-{}", names[0]), page(program, &[names[0]], command)));
    }
    for group in GROUPS {
        let mut text = head(program, &[group.name], group.short);
        let _ = write!(text, ".SH SYNOPSIS\n.B {program} {}\n.I COMMAND\n", group.name);
        text.push_str(".SH COMMANDS\n");
        for Entry(names, command) in group.entries {
            let _ = write!(
                text,
                ".TP\n.BR {program}\\-{}\\-{} (1)\n{}\n",
                group.name,
                names[0],
                escape(command.short)
            );
            pages.push((
                format!("{program}-{}-{}", group.name, names[0]),
                page(program, &[group.name, names[0]], command),
            ));
        }
        let _ = write!(text, ".SH SEE ALSO\n.BR {program} (1)\n");
        pages.push((format!("{program}-{}", group.name), text));
    }
    pages
}

fn overview(program: &str) -> String {
    let mut text = head(program, &[], "a self-sufficient runtime for containers");
    let _ = write!(
        text,
        ".SH SYNOPSIS\n.B {program}\n[\\fIOPTIONS\\fR] \\fICOMMAND\\fR [\\fIARG\\fR...]\n.SH DESCRIPTION\n\
         Runs, stores and shares containers. Each command talks to a daemon, which is started where nobody named one and none \
         runs.\n"
    );
    options(&mut text, &[GLOBAL]);
    text.push_str(".SH COMMANDS\n");
    for Entry(names, command) in COMMON.iter().chain(OTHERS) {
        let _ = write!(text, ".TP\n.BR {program}\\-{} (1)\n{}\n", names[0], escape(command.short));
    }
    for group in GROUPS {
        let _ = write!(text, ".TP\n.BR {program}\\-{} (1)\n{}\n", group.name, escape(group.short));
    }
    text.push_str(".SH ENVIRONMENT\n");
    for variable in VARIABLES {
        let _ = write!(text, ".TP\n.B {}\n{}\n", variable.name, escape(&variable.help.replace('`', "")));
    }
    text
}

fn page(program: &str, names: &[&str], command: &Command) -> String {
    let mut text = head(program, names, command.short);
    let _ = write!(text, ".SH SYNOPSIS\n.B {program} {}\n{}\n", names.join(" "), escape(command.usage));
    if !command.long.is_empty() {
        let _ = write!(text, ".SH DESCRIPTION\n.nf\n{}\n.fi\n", escape(command.long));
    }
    options(&mut text, command.flags);
    if !command.aliases.is_empty() {
        let _ = write!(text, ".SH ALIASES\n{}\n", escape(command.aliases));
    }
    let _ = write!(text, ".SH SEE ALSO\n.BR {program} (1)\n");
    text
}

fn head(program: &str, names: &[&str], short: &str) -> String {
    let name = std::iter::once(program).chain(names.iter().copied()).collect::<Vec<_>>().join("\\-");
    format!(
        ".TH \"{}\" 1 \"\" \"{program} {}\" \"User Commands\"\n.SH NAME\n{name} \\- {}\n",
        name.to_uppercase(),
        super::VERSION,
        escape(short)
    )
}

fn options(text: &mut String, tables: &[&'static [Flag]]) {
    let shown = tables.iter().flat_map(|table| table.iter()).filter(|flag| flag.support == Support::Full);
    let mut flags: Vec<&Flag> = shown.collect();
    flags.sort_by_key(|flag| flag.long);
    if flags.is_empty() {
        return;
    }
    text.push_str(".SH OPTIONS\n");
    for flag in flags {
        let short = flag.short.map(|short| format!("\\fB\\-{short}\\fR, ")).unwrap_or_default();
        let _ = write!(text, ".TP\n{short}\\fB\\-\\-{}\\fR", escape(flag.long));
        if !flag.is_bool() {
            let _ = write!(text, " \\fI{}\\fR", escape(flag.value.name));
        }
        let _ = write!(text, "\n{}", escape(flag.help).replace('\n', "\n.br\n"));
        if !matches!((flag.value.name, flag.default), (_, "") | ("", "false") | ("int", "0")) {
            let _ = write!(text, " (default {})", escape(flag.default));
        }
        text.push('\n');
    }
}

/// What roff would take for a command or an escape.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for (index, line) in text.split('\n').enumerate() {
        if index > 0 {
            escaped.push('\n');
        }
        if line.starts_with(['.', '\'']) {
            escaped.push_str("\\&");
        }
        escaped.push_str(&line.replace('\\', "\\e").replace('-', "\\-"));
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page() {
        let pages = pages("palan");
        let names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        for name in ["palan", "palan-run", "palan-container", "palan-container-ls", "palan-context-use"] {
            assert!(names.contains(&name), "{name}");
        }
        let (_, run) = pages.iter().find(|(name, _)| name == "palan-run").unwrap();
        assert!(run.starts_with(".TH \"PALAN\\-RUN\" 1"), "{run}");
        assert!(
            run.contains("\\fB\\-e\\fR, \\fB\\-\\-env\\fR \\fIlist\\fR\nSet environment variables\n"),
            "{run}"
        );
    }

    #[test]
    fn nothing_is_taken_for_a_command() {
        assert_eq!(escape(".dot\n'quote\na-b \\x"), "\\&.dot\n\\&'quote\na\\-b \\ex");
    }
}
