//! Flags with the exact semantics of Go's pflag, which Docker's command line is built on, driven by static tables.
//!
//! A table lists a command's flags once: name, type with its check, default and help. From it come parsing
//! (`--name value`, `--name=value`, `-it`, `-n5`, `-d=false`, `--`), Docker's error texts, and the help in Docker's layout.
//! Nothing is built at start: finding a flag is a scan of a short table.

use std::fmt::Write as _;

/// The type of a flag's value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ValueType {
    /// The word that stands for the value in the help.
    pub(crate) name: &'static str,
    /// Whether each occurrence adds a value; otherwise the last one counts.
    repeats: bool,
    /// Says in pflag's words why a text is no such value.
    check: fn(&str) -> Result<(), String>,
}

/// One flag of a command.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Flag {
    pub(crate) long: &'static str,
    pub(crate) short: Option<char>,
    pub(crate) value: ValueType,
    /// What the value is when the flag isn't given.
    pub(crate) default: &'static str,
    pub(crate) help: &'static str,
    pub(crate) support: Support,
}

/// How far a flag of Docker's is implemented.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Support {
    /// Fully.
    Full,
    /// Not yet: it is known, kept out of the help, and using it is an error that says so.
    NotYet,
    /// It works but isn't shown in the help.
    Hidden,
}

const fn accept(_: &str) -> Result<(), String> {
    Ok(())
}

const BOOL: ValueType = ValueType { name: "", repeats: false, check: |text| parse_bool(text).map(|_| ()) };
const STRING: ValueType = ValueType { name: "string", repeats: false, check: accept };
const INT: ValueType = ValueType { name: "int", repeats: false, check: |text| parse_int(text).map(|_| ()) };
const LIST: ValueType = ValueType { name: "list", repeats: true, check: accept };

impl Flag {
    /// A flag of any type.
    pub(crate) const fn of(
        value: ValueType,
        long: &'static str,
        short: Option<char>,
        help: &'static str,
    ) -> Self {
        Self { long, short, value, default: "", help, support: Support::Full }
    }

    pub(crate) const fn bool(long: &'static str, short: Option<char>, help: &'static str) -> Self {
        Self::of(BOOL, long, short, help).default("false")
    }

    pub(crate) const fn string(long: &'static str, short: Option<char>, help: &'static str) -> Self {
        Self::of(STRING, long, short, help)
    }

    pub(crate) const fn int(long: &'static str, short: Option<char>, help: &'static str) -> Self {
        Self::of(INT, long, short, help).default("0")
    }

    pub(crate) const fn list(long: &'static str, short: Option<char>, help: &'static str) -> Self {
        Self::of(LIST, long, short, help)
    }

    pub(crate) const fn default(mut self, default: &'static str) -> Self {
        self.default = default;
        self
    }

    /// Names the value differently in the help.
    pub(crate) const fn named(mut self, name: &'static str) -> Self {
        self.value.name = name;
        self
    }

    pub(crate) const fn check(mut self, check: fn(&str) -> Result<(), String>) -> Self {
        self.value.check = check;
        self
    }

    pub(crate) const fn not_yet(mut self) -> Self {
        self.support = Support::NotYet;
        self
    }

    pub(crate) const fn hidden(mut self) -> Self {
        self.support = Support::Hidden;
        self
    }

    pub(crate) fn is_bool(&self) -> bool {
        self.value.name.is_empty()
    }

    /// `-m, --memory`, as error texts name a flag.
    fn display(&self) -> String {
        match self.short {
            Some(short) => format!("-{short}, --{}", self.long),
            None => format!("--{}", self.long),
        }
    }
}

/// Go's `strconv.ParseBool`.
pub(crate) fn parse_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("strconv.ParseBool: parsing {text:?}: invalid syntax")),
    }
}

/// Go's `strconv.ParseInt` with base 0.
pub(crate) fn parse_int(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, digits) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, &lower[..]),
    };
    let failure = |why: &str| format!("strconv.ParseInt: parsing {text:?}: {why}");
    if digits.is_empty() || !digits.chars().all(|c| c.is_digit(radix)) {
        return Err(failure("invalid syntax"));
    }
    i64::from_str_radix(&format!("{sign}{digits}"), radix).map_err(|_| failure("value out of range"))
}

/// Why a command line could not be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FlagError {
    /// `--help` (or `-h` where it is not another flag) was given: not a failure.
    #[error("help requested")]
    Help,
    #[error("{0}")]
    Invalid(String),
}

/// The flags and arguments of one call, as written.
#[derive(Debug, Clone, Default)]
pub(crate) struct Parsed {
    set: Vec<(&'static Flag, String)>,
    table: Vec<&'static Flag>,
    /// What is left of the command line: the positional arguments.
    pub(crate) args: Vec<String>,
}

impl Parsed {
    /// Whether the flag was given at all.
    pub(crate) fn changed(&self, long: &str) -> bool {
        self.set.iter().any(|(flag, _)| flag.long == long)
    }

    /// The value of a flag that counts once: the last one given, or the default.
    pub(crate) fn string(&self, long: &str) -> &str {
        let given =
            self.set.iter().rev().find(|(flag, _)| flag.long == long).map(|(_, value)| value.as_str());
        given
            .or_else(|| self.table.iter().find(|flag| flag.long == long).map(|flag| flag.default))
            .unwrap_or("")
    }

    /// As [`Self::string`], `None` when the flag was not given.
    pub(crate) fn given(&self, long: &str) -> Option<&str> {
        self.changed(long).then(|| self.string(long))
    }

    pub(crate) fn bool(&self, long: &str) -> bool {
        // The table's check has let only booleans through.
        parse_bool(self.string(long)).unwrap_or(false)
    }

    pub(crate) fn int(&self, long: &str) -> i64 {
        parse_int(self.string(long)).unwrap_or(0)
    }

    /// Every value given for a flag that repeats.
    pub(crate) fn list(&self, long: &str) -> Vec<&str> {
        self.set.iter().filter(|(flag, _)| flag.long == long).map(|(_, value)| value.as_str()).collect()
    }

    fn record(&mut self, flag: &'static Flag, value: &str) -> Result<(), FlagError> {
        (flag.value.check)(value).map_err(|why| {
            FlagError::Invalid(format!(
                "invalid argument {} for \"{}\" flag: {why}",
                quote(value),
                flag.display()
            ))
        })?;
        if flag.support == Support::NotYet {
            return Err(FlagError::Invalid(format!("--{} is not supported yet", flag.long)));
        }
        if !flag.value.repeats {
            self.set.retain(|(other, _)| other.long != flag.long);
        }
        self.set.push((flag, value.to_owned()));
        Ok(())
    }
}

/// Parses `words` by the tables. With `interspersed`, flags may stand after arguments; otherwise the first argument
/// ends the flags, so that `run image -x` leaves `-x` to the image.
pub(crate) fn parse(
    tables: &[&'static [Flag]],
    interspersed: bool,
    words: &[String],
) -> Result<Parsed, FlagError> {
    let mut parsed =
        Parsed { table: tables.iter().flat_map(|table| table.iter()).collect(), ..Parsed::default() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.args.extend(words.cloned());
            break;
        }
        if let Some(long) = word.strip_prefix("--") {
            parse_long(&mut parsed, word, long, &mut words)?;
        } else if word.len() > 1 && word.starts_with('-') {
            parse_short(&mut parsed, word, &mut words)?;
        } else {
            parsed.args.push(word.clone());
            if !interspersed {
                parsed.args.extend(words.cloned());
                break;
            }
        }
    }
    Ok(parsed)
}

fn parse_long<'a>(
    parsed: &mut Parsed,
    word: &str,
    long: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<(), FlagError> {
    if long.starts_with(['-', '=']) {
        return Err(FlagError::Invalid(format!("bad flag syntax: {word}")));
    }
    let (name, value) = match long.split_once('=') {
        Some((name, value)) => (name, Some(value)),
        None => (long, None),
    };
    let Some(flag) = parsed.table.iter().copied().find(|flag| flag.long == name) else {
        return Err(if name == "help" {
            FlagError::Help
        } else {
            FlagError::Invalid(format!("unknown flag: --{name}"))
        });
    };
    if flag.long == "help" {
        return Err(FlagError::Help);
    }
    match value {
        Some(value) => parsed.record(flag, value),
        None if flag.is_bool() => parsed.record(flag, "true"),
        None => match rest.next() {
            Some(value) => parsed.record(flag, value),
            None => Err(FlagError::Invalid(format!("flag needs an argument: {word}"))),
        },
    }
}

fn parse_short<'a>(
    parsed: &mut Parsed,
    word: &str,
    rest: &mut impl Iterator<Item = &'a String>,
) -> Result<(), FlagError> {
    let mut cluster = &word[1..];
    while let Some(letter) = cluster.chars().next() {
        let after = &cluster[letter.len_utf8()..];
        let Some(flag) = parsed.table.iter().copied().find(|flag| flag.short == Some(letter)) else {
            return Err(if letter == 'h' {
                FlagError::Help
            } else {
                FlagError::Invalid(format!("unknown shorthand flag: '{letter}' in -{cluster}"))
            });
        };
        if let Some(value) = after.strip_prefix('=').filter(|_| cluster.len() > 2) {
            return parsed.record(flag, value);
        }
        if !flag.is_bool() {
            if !after.is_empty() {
                return parsed.record(flag, after);
            }
            return match rest.next() {
                Some(value) => parsed.record(flag, value),
                None => Err(FlagError::Invalid(format!("flag needs an argument: '{letter}' in -{cluster}"))),
            };
        }
        parsed.record(flag, "true")?;
        cluster = after;
    }
    Ok(())
}

/// A text in double quotes with Go's `%q` escapes for what a command line can hold.
pub(crate) fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        match c {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            '\n' => quoted.push_str("\\n"),
            '\r' => quoted.push_str("\\r"),
            '\t' => quoted.push_str("\\t"),
            '\x07' => quoted.push_str("\\a"),
            '\x08' => quoted.push_str("\\b"),
            '\x0b' => quoted.push_str("\\v"),
            '\x0c' => quoted.push_str("\\f"),
            c if u32::from(c) < 0x20 || c == '\x7f' => {
                let _ = write!(quoted, "\\x{:02x}", u32::from(c));
            }
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

/// The flags' part of a help text, wrapped to `columns`.
pub(crate) fn usages(tables: &[&'static [Flag]], columns: usize) -> String {
    let mut flags: Vec<&Flag> =
        tables.iter().flat_map(|table| table.iter()).filter(|flag| flag.support == Support::Full).collect();
    flags.sort_by_key(|flag| flag.long);
    let heads: Vec<String> = flags.iter().map(|flag| head(flag)).collect();
    let width = heads.iter().map(String::len).max().unwrap_or(0) + 3;
    let mut text = String::new();
    for (flag, head) in flags.iter().zip(heads) {
        let mut usage = flag.help.to_owned();
        match (flag.value.name, flag.default) {
            (_, "") | ("", "false") | ("int", "0") => {}
            ("string", default) => {
                let _ = write!(usage, " (default {})", quote(default));
            }
            (_, default) => {
                let _ = write!(usage, " (default {default})");
            }
        }
        let _ = writeln!(text, "{head:width$}{}", wrap(width, columns, &usage));
    }
    text
}

fn head(flag: &Flag) -> String {
    let mut head = match flag.short {
        Some(short) => format!("  -{short}, --{}", flag.long),
        None => format!("      --{}", flag.long),
    };
    if !flag.is_bool() {
        head.push(' ');
        head.push_str(flag.value.name);
    }
    head
}

/// Breaks a help text into lines between `indent` and `columns`, the way pflag does: a break comes five columns early,
/// so that a short last word can stay on its line.
fn wrap(indent: usize, columns: usize, text: &str) -> String {
    const SLOP: usize = 5;
    const LEAST: usize = 24;
    let (mut indent, mut room, mut wrapped) = (indent, columns.saturating_sub(indent), String::new());
    if room < LEAST {
        indent = 16;
        room = columns.saturating_sub(indent);
        wrapped.push('\n');
        wrapped.push_str(&" ".repeat(indent));
    }
    if room < LEAST {
        return text.replace('\n', &wrapped);
    }
    let room = room - SLOP;
    let margin = format!("\n{}", " ".repeat(indent));
    let mut rest = text;
    loop {
        let (line, after) = first_line(room, SLOP, rest);
        wrapped.push_str(&line.replace('\n', &margin));
        rest = after;
        if rest.is_empty() {
            return wrapped;
        }
        wrapped.push_str(&margin);
    }
}

fn first_line(room: usize, slop: usize, text: &str) -> (&str, &str) {
    if room + slop > text.len() || !text.is_char_boundary(room) {
        return (text, "");
    }
    let space = text[..room].rfind([' ', '\t', '\n']).unwrap_or(0);
    if space == 0 {
        return (text, "");
    }
    let end = match text[..room].rfind('\n') {
        Some(newline) if newline > 0 && newline < space => newline,
        _ => space,
    };
    (&text[..end], &text[end + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;

    static TABLE: &[Flag] = &[
        Flag::bool("detach", Some('d'), "Run in background"),
        Flag::bool("interactive", Some('i'), "Keep STDIN open"),
        Flag::bool("tty", Some('t'), "Allocate a pseudo-TTY"),
        Flag::bool("sig-proxy", None, "Proxy signals").default("true"),
        Flag::list("env", Some('e'), "Set environment variables"),
        Flag::string("name", None, "Assign a name"),
        Flag::int("last", Some('n'), "Show n last").default("-1"),
        Flag::string("gpus", None, "GPUs").not_yet(),
    ];

    fn run(words: &[&str]) -> Result<Parsed, FlagError> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parse(&[TABLE], false, &words)
    }

    #[test]
    fn short_flags_cluster_and_take_values() {
        let parsed = run(&["-itd=false", "-n5", "-eA=1", "-e", "B=2", "-e=C=3", "image", "-d"]).unwrap();
        assert!(parsed.bool("interactive") && parsed.bool("tty") && !parsed.bool("detach"));
        assert_eq!(parsed.int("last"), 5);
        assert_eq!(parsed.list("env"), ["A=1", "B=2", "C=3"]);
        assert_eq!(parsed.args, ["image", "-d"]);
    }

    #[test]
    fn long_flags_take_values_either_way_and_the_last_counts() {
        let parsed = run(&["--name=a", "--name", "b", "--sig-proxy=false", "--", "--name"]).unwrap();
        assert_eq!(parsed.string("name"), "b");
        assert!(!parsed.bool("sig-proxy"));
        assert_eq!(parsed.args, ["--name"]);
        assert!(run(&[]).unwrap().bool("sig-proxy"));
        assert_eq!(run(&[]).unwrap().int("last"), -1);
        assert_eq!(run(&["--detach", "false"]).unwrap().args, ["false"]);
    }

    #[test]
    fn interspersed_flags_stand_anywhere() {
        let words: Vec<String> = ["a", "-d", "-", "--", "-t"].iter().map(|word| (*word).to_owned()).collect();
        let parsed = parse(&[TABLE], true, &words).unwrap();
        assert!(parsed.bool("detach"));
        assert_eq!(parsed.args, ["a", "-", "-t"]);
    }

    #[test]
    fn error_texts_are_pflags() {
        let check = |words: &[&str], expected: &str| {
            assert_eq!(run(words).unwrap_err().to_string(), expected, "{words:?}");
        };
        check(&["--foo"], "unknown flag: --foo");
        check(&["-dZ"], "unknown shorthand flag: 'Z' in -Z");
        check(&["--name"], "flag needs an argument: --name");
        check(&["-e"], "flag needs an argument: 'e' in -e");
        check(&["---x"], "bad flag syntax: ---x");
        check(
            &["-d=foo"],
            "invalid argument \"foo\" for \"-d, --detach\" flag: strconv.ParseBool: parsing \"foo\": invalid syntax",
        );
        check(
            &["-n", "x"],
            "invalid argument \"x\" for \"-n, --last\" flag: strconv.ParseInt: parsing \"x\": invalid syntax",
        );
        check(&["--gpus", "all"], "--gpus is not supported yet");
        check(&["--help"], "help requested");
        check(&["-h"], "help requested");
    }

    #[test]
    fn integers_have_gos_notations() {
        assert_eq!(parse_int("0x10"), Ok(16));
        assert_eq!(parse_int("-7"), Ok(-7));
        assert_eq!(parse_int("010"), Ok(8));
        assert!(parse_int("99999999999999999999").unwrap_err().contains("value out of range"));
    }

    #[test]
    fn help_is_aligned_and_wrapped() {
        assert_eq!(
            usages(&[TABLE], 46),
            "  -d, --detach        Run in background\n\
             \x20 -e, --env list      Set environment\n\
             \x20                     variables\n\
             \x20 -i, --interactive   Keep STDIN open\n\
             \x20 -n, --last int      Show n last\n\
             \x20                     (default -1)\n\
             \x20     --name string   Assign a name\n\
             \x20     --sig-proxy     Proxy signals\n\
             \x20                     (default true)\n\
             \x20 -t, --tty           Allocate a pseudo-TTY\n"
        );
    }
}
