//! Parsing as runc does it: `--name value`, `--name=value`, one dash or two.

use std::ffi::OsString;

use super::Failure;

/// An option that a command knows.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flag {
    pub(super) name: &'static str,
    pub(super) short: Option<char>,
    pub(super) takes_value: bool,
}

/// An option without a value.
pub(super) const fn flag(name: &'static str) -> Flag {
    Flag { name, short: None, takes_value: false }
}

/// An option with a value.
pub(super) const fn option(name: &'static str) -> Flag {
    Flag { name, short: None, takes_value: true }
}

impl Flag {
    /// The same with a letter of its own.
    pub(super) const fn short(mut self, letter: char) -> Self {
        self.short = Some(letter);
        self
    }
}

/// A parsed command line.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    options: Vec<(&'static str, String)>,
    pub(super) positional: Vec<OsString>,
}

impl Arguments {
    /// Options stand before the first other word.
    pub(super) fn parse(flags: &'static [Flag], words: &[OsString]) -> Result<Self, Failure> {
        Self::parse_words(flags, words, true)
    }

    /// Options stand anywhere before `--`.
    pub(super) fn parse_anywhere(flags: &'static [Flag], words: &[OsString]) -> Result<Self, Failure> {
        Self::parse_words(flags, words, false)
    }

    fn parse_words(flags: &'static [Flag], words: &[OsString], end_at_first: bool) -> Result<Self, Failure> {
        let mut result = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            let text = word.to_str().unwrap_or_default();
            if text == "--" {
                break;
            }
            if !text.starts_with('-') || text == "-" {
                result.positional.push(word.clone());
                if end_at_first {
                    break;
                }
                continue;
            }
            let body = text.trim_start_matches('-');
            let (name, value) = match body.split_once('=') {
                Some((name, value)) => (name, Some(value.to_owned())),
                None => (body, None),
            };
            let known = flags
                .iter()
                .find(|flag| {
                    flag.name == name
                        || flag.short.is_some_and(|letter| name.chars().eq(std::iter::once(letter)))
                })
                .ok_or_else(|| Failure::new(format!("flag provided but not defined: {text}")))?;
            let value = match (known.takes_value, value) {
                (true, Some(value)) => value,
                (true, None) => words
                    .next()
                    .and_then(|word| word.to_str())
                    .ok_or_else(|| Failure::new(format!("flag needs an argument: {text}")))?
                    .to_owned(),
                (false, None) => "true".to_owned(),
                (false, Some(value)) if matches!(value.as_str(), "true" | "false" | "1" | "0") => value,
                (false, Some(value)) => {
                    return Err(Failure::new(format!("invalid boolean value {value:?} for {text}")));
                }
            };
            result.options.push((known.name, value));
        }
        result.positional.extend(words.cloned());
        Ok(result)
    }

    /// Whether a flag is set.
    pub(super) fn has(&self, name: &str) -> bool {
        self.value(name).is_some_and(|value| matches!(value, "true" | "1"))
    }

    /// The last value of an option.
    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.options.iter().rev().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// All values of an option.
    pub(super) fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.options.iter().filter(move |(known, _)| *known == name).map(|(_, value)| value.as_str())
    }

    /// The value of an option as a number.
    pub(super) fn number(&self, name: &str) -> Result<Option<u32>, Failure> {
        self.value(name)
            .map(|text| {
                text.parse().map_err(|_| Failure::new(format!("invalid value {text:?} for flag --{name}")))
            })
            .transpose()
    }

    /// The first positional, a container ID.
    pub(super) fn container_id(&self) -> Result<&str, Failure> {
        let id = self.positional.first().and_then(|word| word.to_str()).unwrap_or_default();
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'+' | b'-' | b'.');
        if id.is_empty() {
            return Err(Failure::new("container id cannot be empty"));
        }
        if id.len() > 255 || !id.bytes().all(allowed) || matches!(id, "." | "..") {
            return Err(Failure::new(format!("invalid container ID format: {id:?}")));
        }
        Ok(id)
    }

    /// Refuses more positionals than `most`.
    pub(super) fn at_most(&self, most: usize) -> Result<(), Failure> {
        match self.positional.get(most) {
            None => Ok(()),
            Some(word) => Err(Failure::new(format!("unexpected argument {:?}", word.to_string_lossy()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLAGS: &[Flag] =
        &[flag("detach").short('d'), option("bundle").short('b'), option("env").short('e')];

    fn parse(line: &str) -> Result<Arguments, Failure> {
        let words: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Arguments::parse(FLAGS, &words)
    }

    #[test]
    fn options_end_at_the_first_word() {
        let arguments = parse("-d --bundle /b -e=A=1 -env B=2 id -d --x").unwrap();
        assert!(arguments.has("detach"));
        assert_eq!(arguments.value("bundle"), Some("/b"));
        assert_eq!(arguments.values("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(arguments.positional, ["id", "-d", "--x"]);
        assert_eq!(arguments.container_id().unwrap(), "id");
        assert!(!parse("--detach=false x").unwrap().has("detach"));
        assert_eq!(parse("-- -d").unwrap().positional, ["-d"]);
    }

    #[test]
    fn options_stand_anywhere_where_all_words_are_ours() {
        let words = ["-d", "id", "--bundle", "-1", "-", "--", "-d"].map(OsString::from);
        let arguments = Arguments::parse_anywhere(FLAGS, &words).unwrap();
        assert!(arguments.has("detach"));
        assert_eq!(arguments.value("bundle"), Some("-1"));
        assert_eq!(arguments.positional, ["id", "-", "-d"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for line in ["--what x", "--bundle", "--detach=maybe x"] {
            assert!(parse(line).is_err(), "{line}");
        }
        for id in ["", "a/b", "..", ".", "a b", "ä"] {
            let arguments = Arguments { options: vec![], positional: vec![id.into()] };
            assert!(arguments.container_id().is_err(), "{id}");
        }
    }
}
