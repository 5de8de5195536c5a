//! Words as a shell reads them: quotes, escapes, and variables with their modifiers.
//!
//! It is the shell of BuildKit's frontend, not of POSIX: there are no commands, no arithmetic and no assignment, `\`
//! may be replaced by `` ` ``, and what is not understood is an error.

use std::collections::BTreeSet;
use std::iter::Peekable;
use std::str::Chars;

use crate::pattern::{Length, Pattern};

/// How deep `${a:-${b:-…}}` may go.
const MAX_DEPTH: usize = 64;

/// How many bytes variables may bring to one text: `ENV a=$a$a` a few times over would fill the memory.
const MAX_EXPANSION: usize = 4 << 20;

/// Values of variables.
pub trait Variables {
    /// The value of a variable; none if it isn't set.
    fn get(&self, name: &str) -> Option<&str>;
}

/// No variable is set.
#[derive(Debug, Clone, Copy)]
pub struct Nothing;

impl Variables for Nothing {
    fn get(&self, _name: &str) -> Option<&str> {
        None
    }
}

/// What happens to quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quotes {
    /// They quote, and are removed.
    Remove,
    /// They quote, and stay.
    Keep,
    /// They are characters like others: in a heredoc.
    Ignore,
}

/// How words are read.
#[derive(Debug, Clone, Copy)]
pub struct Lexer {
    /// The character that takes the meaning of the next one.
    pub escape: char,
    /// What happens to quotes.
    pub quotes: Quotes,
    /// Escapes stay where they are.
    pub keep_escapes: bool,
    /// A variable that isn't set stays as it is written.
    pub keep_unset: bool,
}

/// What a text expanded to.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Expansion {
    /// The text, as one word.
    pub text: String,
    /// The words of it. Blanks out of variables split, too, those in quotes don't.
    pub words: Vec<String>,
    /// Variables that were used and set.
    pub matched: BTreeSet<String>,
    /// Variables that were used and not set.
    pub unmatched: BTreeSet<String>,
}

impl Lexer {
    /// Quotes and escapes are removed; variables that aren't set are empty.
    pub fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Remove, keep_escapes: false, keep_unset: false }
    }

    /// Expands a text. The error is BuildKit's text.
    pub fn expand(&self, text: &str, variables: &dyn Variables) -> Result<Expansion, String> {
        let mut reader = Reader {
            lexer: *self,
            variables,
            input: text.chars().peekable(),
            depth: 0,
            size: 0,
            matched: BTreeSet::new(),
            unmatched: BTreeSet::new(),
        };
        let (expanded, words) = reader
            .read(None, self.keep_escapes)
            .map_err(|message| format!("failed to process {text:?}: {message}"))?;
        Ok(Expansion { text: expanded, words, matched: reader.matched, unmatched: reader.unmatched })
    }
}

struct Reader<'a> {
    lexer: Lexer,
    variables: &'a dyn Variables,
    input: Peekable<Chars<'a>>,
    depth: usize,
    /// Bytes that variables brought so far.
    size: usize,
    matched: BTreeSet<String>,
    unmatched: BTreeSet<String>,
}

/// Words while they are read.
#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: String,
}

impl Words {
    fn push(&mut self, next: char) {
        if next.is_whitespace() { self.end() } else { self.current.push(next) }
    }

    fn end(&mut self) {
        if !self.current.is_empty() {
            self.done.push(std::mem::take(&mut self.current));
        }
    }
}

impl Reader<'_> {
    /// Reads up to `stop`, which is consumed, or to the end.
    fn read(&mut self, stop: Option<char>, keep_escapes: bool) -> Result<(String, Vec<String>), String> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("substitutions are nested too deeply".to_owned());
        }
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(&next) = self.input.peek() {
            if stop == Some(next) {
                self.input.next();
                self.depth -= 1;
                words.end();
                return Ok((text, words.done));
            }
            match next {
                '$' => {
                    let value = self.dollar(keep_escapes)?;
                    value.chars().for_each(|c| words.push(c));
                    text.push_str(&value);
                }
                '\'' | '"' if self.lexer.quotes != Quotes::Ignore => {
                    let start = text.len();
                    if next == '\'' {
                        self.single(&mut text)?
                    } else {
                        self.double(&mut text, keep_escapes)?
                    }
                    words.current.push_str(&text[start..]);
                }
                '<' => {
                    let start = text.len();
                    self.possible_heredoc(&mut text);
                    words.current.push_str(&text[start..]);
                }
                _ => {
                    self.input.next();
                    if next != self.lexer.escape {
                        words.push(next);
                        text.push(next);
                        continue;
                    }
                    if keep_escapes {
                        words.current.push(next);
                        text.push(next);
                    }
                    // At the end it escapes nothing and vanishes.
                    let Some(escaped) = self.input.next() else { break };
                    words.current.push(escaped);
                    text.push(escaped);
                }
            }
        }
        if let Some(stop) = stop {
            return Err(match stop {
                '}' => "syntax error: missing '}'".to_owned(),
                _ => format!("syntax error: missing '{stop}' in ${{}}"),
            });
        }
        self.depth -= 1;
        words.end();
        Ok((text, words.done))
    }

    fn single(&mut self, text: &mut String) -> Result<(), String> {
        self.quote(text);
        for next in self.input.by_ref() {
            if next == '\'' {
                if self.lexer.quotes == Quotes::Keep {
                    text.push(next);
                }
                return Ok(());
            }
            text.push(next);
        }
        Err("unexpected end of statement while looking for matching single-quote".to_owned())
    }

    fn double(&mut self, text: &mut String, keep_escapes: bool) -> Result<(), String> {
        self.quote(text);
        while let Some(&next) = self.input.peek() {
            if next == '"' {
                self.quote(text);
                return Ok(());
            }
            if next == '$' {
                let value = self.dollar(keep_escapes)?;
                text.push_str(&value);
                continue;
            }
            self.input.next();
            if next != self.lexer.escape {
                text.push(next);
                continue;
            }
            if keep_escapes {
                text.push(next);
            }
            match self.input.peek().copied() {
                None => {}
                Some(escaped) if escaped == '"' || escaped == '$' || escaped == self.lexer.escape => {
                    self.input.next();
                    text.push(escaped);
                }
                // In front of anything else it is a character.
                Some(_) => text.push(next),
            }
        }
        Err("unexpected end of statement while looking for matching double-quote".to_owned())
    }

    /// Takes a quote, and keeps it if quotes stay.
    fn quote(&mut self, text: &mut String) {
        let quote = self.input.next();
        if self.lexer.quotes == Quotes::Keep {
            text.extend(quote);
        }
    }

    /// `<<` and the blanks behind it belong to the word that names a heredoc's end.
    fn possible_heredoc(&mut self, text: &mut String) {
        text.extend(self.input.next());
        if self.input.peek() != Some(&'<') {
            return;
        }
        text.extend(self.input.next());
        while let Some(blank) = self.input.next_if(|c| matches!(c, ' ' | '\t' | '\r')) {
            text.push(blank);
        }
    }

    /// `$name`, `${name}` and `${name<modifier>…}`.
    fn dollar(&mut self, keep_escapes: bool) -> Result<String, String> {
        self.input.next();
        if self.input.peek() != Some(&'{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".to_owned());
            }
            return match self.lookup(&name)? {
                None if self.lexer.keep_unset => Ok(format!("${name}")),
                value => Ok(value.unwrap_or_default()),
            };
        }
        self.input.next();
        match self.input.peek() {
            None => return Err("syntax error: missing '}'".to_owned()),
            Some('{' | '}' | ':') => return Err("syntax error: bad substitution".to_owned()),
            Some(_) => {}
        }
        let name = self.name();
        match self.input.next() {
            None => Err("syntax error: missing '}'".to_owned()),
            Some('}') => match self.lookup(&name)? {
                None if self.lexer.keep_unset => Ok(format!("${{{name}}}")),
                value => Ok(value.unwrap_or_default()),
            },
            Some('/') => self.replacement(&name),
            Some(':') => match self.input.next() {
                Some(modifier @ ('-' | '+' | '?')) => self.modified(&name, modifier, true, keep_escapes),
                Some(other) => Err(unsupported(&format!(":{other}"))),
                None => Err("syntax error: missing '}'".to_owned()),
            },
            Some(modifier @ ('-' | '+' | '?' | '#' | '%')) => {
                self.modified(&name, modifier, false, keep_escapes)
            }
            Some(other) => Err(unsupported(&other.to_string())),
        }
    }

    /// The part behind a modifier, and what becomes of the variable. With `null_is_unset`, an empty value counts as none.
    fn modified(
        &mut self,
        name: &str,
        modifier: char,
        null_is_unset: bool,
        keep_escapes: bool,
    ) -> Result<String, String> {
        let is_pattern = matches!(modifier, '#' | '%');
        let (word, _) = self.read(Some('}'), keep_escapes || is_pattern)?;
        let value = self.lookup(name)?;
        let Some(value) = value else {
            if self.lexer.keep_unset {
                let colon = if null_is_unset { ":" } else { "" };
                return Ok(format!("${{{name}{colon}{modifier}{word}}}"));
            }
            return match modifier {
                '-' => Ok(word),
                '?' if word.is_empty() => Err(format!("{name}: is not allowed to be unset")),
                '?' => Err(format!("{name}: {word}")),
                _ => Ok(String::new()),
            };
        };
        let is_null = null_is_unset && value.is_empty();
        match modifier {
            '-' if is_null => Ok(word),
            '+' if is_null => Ok(value),
            '+' => Ok(word),
            '?' if is_null && word.is_empty() => Err(format!("{name}: is not allowed to be empty")),
            '?' if is_null => Err(format!("{name}: {word}")),
            '#' | '%' => {
                let (pattern, length) = match word.strip_prefix(modifier) {
                    Some(rest) => (rest, Length::Longest),
                    None => (word.as_str(), Length::Shortest),
                };
                let invalid = |why| format!("invalid pattern ({word}) in substitution: {why}");
                let compiled = Pattern::new(pattern).map_err(invalid)?;
                let stripped = if modifier == '#' {
                    compiled.strip_prefix(&value, length)
                } else {
                    compiled.strip_suffix(&value, length)
                };
                stripped.map_err(invalid)
            }
            _ => Ok(value),
        }
    }

    /// `${name/pattern/replacement}` and `${name//pattern/replacement}`.
    fn replacement(&mut self, name: &str) -> Result<String, String> {
        let all = self.input.next_if_eq(&'/').is_some();
        let (pattern, _) = self.read(Some('/'), true)?;
        let (replacement, _) = self.read(Some('}'), true)?;
        let Some(value) = self.lookup(name)? else {
            let slashes = if all { "//" } else { "/" };
            return Ok(if self.lexer.keep_unset {
                format!("${{{name}{slashes}{pattern}/{replacement}}}")
            } else {
                String::new()
            });
        };
        let invalid = |why| format!("invalid pattern ({pattern}) in substitution: {why}");
        Pattern::new(&pattern).map_err(invalid)?.replace(&value, &replacement, all).map_err(invalid)
    }

    /// A name, a number, or one of the shell's special parameters; empty if there is none of them.
    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.input.peek() {
            Some(c) if c.is_numeric() => {
                while let Some(digit) = self.input.next_if(|c| c.is_numeric()) {
                    name.push(digit);
                }
            }
            Some('@' | '*' | '#' | '?' | '-' | '$' | '!') => name.extend(self.input.next()),
            _ => {
                while let Some(letter) = self.input.next_if(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(letter);
                }
            }
        }
        name
    }

    fn lookup(&mut self, name: &str) -> Result<Option<String>, String> {
        let Some(value) = self.variables.get(name) else {
            self.unmatched.insert(name.to_owned());
            return Ok(None);
        };
        self.size += value.len();
        if self.size > MAX_EXPANSION {
            return Err(format!("variables expand to more than {MAX_EXPANSION} bytes"));
        }
        self.matched.insert(name.to_owned());
        Ok(Some(value.to_owned()))
    }
}

fn unsupported(modifier: &str) -> String {
    format!("unsupported modifier ({modifier}) in substitution")
}

#[cfg(test)]
mod tests;
