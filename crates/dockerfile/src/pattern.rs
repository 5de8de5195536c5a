//! The patterns of `${name#pattern}`, `${name%pattern}` and `${name/pattern/…}`: `*`, `?`, and `\` in front of either.

/// How many steps one match may take. A line of 64 KB can hold a pattern and a value that need far more.
const MAX_STEPS: usize = 4_000_000;

/// A pattern, compiled.
#[derive(Debug)]
pub(crate) struct Pattern {
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    Any,
    One,
    Char(char),
}

/// Which of several matches is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    Shortest,
    Longest,
}

impl Pattern {
    /// Reads a pattern. `\}` and `\/` stand for themselves: that is how they are written inside of `${}`.
    pub(crate) fn new(text: &str) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut chars = text.chars();
        while let Some(next) = chars.next() {
            let token = match next {
                '*' if tokens.last() == Some(&Token::Any) => continue,
                '*' => Token::Any,
                '?' => Token::One,
                '\\' => match chars.next() {
                    Some(escaped @ ('}' | '/' | '*' | '?' | '\\')) => Token::Char(escaped),
                    Some(other) => return Err(format!("invalid escape '\\{other}'")),
                    None => return Err("it ends in an escape".to_owned()),
                },
                other => Token::Char(other),
            };
            tokens.push(token);
        }
        Ok(Self { tokens })
    }

    /// The value without the prefix that matches.
    pub(crate) fn strip_prefix(&self, value: &str, length: Length) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        let mut steps = 0;
        let end = self.match_at(&chars, 0, length, &mut steps)?.unwrap_or(0);
        Ok(chars[end..].iter().collect())
    }

    /// The value without the suffix that matches.
    pub(crate) fn strip_suffix(&self, value: &str, length: Length) -> Result<String, String> {
        let reversed = Self { tokens: self.tokens.iter().rev().copied().collect() };
        let chars: Vec<char> = value.chars().rev().collect();
        let mut steps = 0;
        let end = reversed.match_at(&chars, 0, length, &mut steps)?.unwrap_or(0);
        Ok(chars[end..].iter().rev().collect())
    }

    /// The value with the first match, or every one, replaced. What matches nothing replaces nothing.
    pub(crate) fn replace(&self, value: &str, replacement: &str, all: bool) -> Result<String, String> {
        let chars: Vec<char> = value.chars().collect();
        let mut out = String::with_capacity(value.len());
        let (mut at, mut steps) = (0, 0);
        while at < chars.len() {
            match self.match_at(&chars, at, Length::Longest, &mut steps)? {
                Some(end) if end > at => {
                    out.push_str(replacement);
                    at = end;
                    if out.len() > crate::MAX_FILE {
                        return Err("the result is too long".to_owned());
                    }
                    if !all {
                        break;
                    }
                }
                _ => {
                    out.push(chars[at]);
                    at += 1;
                }
            }
        }
        out.extend(&chars[at..]);
        Ok(out)
    }

    /// Where a match that starts at `start` ends.
    fn match_at(
        &self,
        value: &[char],
        start: usize,
        length: Length,
        steps: &mut usize,
    ) -> Result<Option<usize>, String> {
        // `live[i]`: the first i tokens match what was read so far.
        let mut live = vec![false; self.tokens.len() + 1];
        live[0] = true;
        self.skip_stars(&mut live);
        let mut found = None;
        let mut at = start;
        loop {
            if live[self.tokens.len()] {
                found = Some(at);
                if length == Length::Shortest {
                    break;
                }
            }
            let Some(next) = value.get(at) else { break };
            *steps += live.len();
            if *steps > MAX_STEPS {
                return Err("it takes too long to match".to_owned());
            }
            let mut any = false;
            for index in (0..self.tokens.len()).rev() {
                let moved = live[index]
                    && match self.tokens[index] {
                        Token::Any => false,
                        Token::One => true,
                        Token::Char(wanted) => wanted == *next,
                    };
                // A star stays where it is, whatever it eats.
                let stays = live[index + 1] && self.tokens[index] == Token::Any;
                live[index + 1] = moved || stays;
                any |= live[index + 1];
            }
            live[0] = false;
            if !any {
                break;
            }
            self.skip_stars(&mut live);
            at += 1;
        }
        Ok(found)
    }

    /// A star may match nothing.
    fn skip_stars(&self, live: &mut [bool]) {
        for (index, token) in self.tokens.iter().enumerate() {
            if *token == Token::Any && live[index] {
                live[index + 1] = true;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix(pattern: &str, value: &str, length: Length) -> String {
        Pattern::new(pattern).expect("a pattern").strip_prefix(value, length).expect("a match")
    }

    fn suffix(pattern: &str, value: &str, length: Length) -> String {
        Pattern::new(pattern).expect("a pattern").strip_suffix(value, length).expect("a match")
    }

    fn replace(pattern: &str, value: &str, by: &str, all: bool) -> String {
        Pattern::new(pattern).expect("a pattern").replace(value, by, all).expect("a match")
    }

    #[test]
    fn prefixes() {
        assert_eq!(prefix("*/", "a/b/c", Length::Shortest), "b/c");
        assert_eq!(prefix("*/", "a/b/c", Length::Longest), "c");
        assert_eq!(prefix("?b", "ab", Length::Shortest), "");
        assert_eq!(prefix("b", "ab", Length::Shortest), "ab");
        assert_eq!(prefix("", "ab", Length::Longest), "ab");
        assert_eq!(prefix("*", "ab", Length::Shortest), "ab");
        assert_eq!(prefix("*", "ab", Length::Longest), "");
        assert_eq!(prefix("\\*", "*b", Length::Shortest), "b");
        assert_eq!(prefix("ä?", "äöü", Length::Longest), "ü");
    }

    #[test]
    fn suffixes() {
        assert_eq!(suffix(".*", "a.tar.gz", Length::Shortest), "a.tar");
        assert_eq!(suffix(".*", "a.tar.gz", Length::Longest), "a");
        assert_eq!(suffix("\\?", "what?", Length::Longest), "what");
        assert_eq!(suffix("x", "ab", Length::Longest), "ab");
    }

    #[test]
    fn replacements() {
        assert_eq!(replace("a*c", "xabcabcx", "-", false), "x-x");
        assert_eq!(replace("b", "abcb", "-", false), "a-cb");
        assert_eq!(replace("b", "abcb", "-", true), "a-c-");
        assert_eq!(replace("", "abc", "-", true), "abc");
        assert_eq!(replace("\\/", "a/b/", "", true), "ab");
        assert_eq!(replace("z", "abc", "-", true), "abc");
    }

    #[test]
    fn bad_and_expensive_patterns() {
        assert!(Pattern::new("\\a").is_err());
        assert!(Pattern::new("a\\").is_err());
        let value = "a".repeat(30_000);
        let pattern = Pattern::new(&format!("{}b", "*a".repeat(1_000))).expect("a pattern");
        assert_eq!(pattern.replace(&value, "c", true).expect_err("too slow"), "it takes too long to match");
    }
}
