//! Words of an instruction: quotes, escapes and variables, as a Dockerfile has them.

/// Text that ends too early; says what is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Unfinished(pub(super) &'static str);

const QUOTE: Unfinished = Unfinished("a quote is not closed");
const BRACE: Unfinished = Unfinished("a variable is not closed or has an unknown form");

/// Splits at white space outside of quotes. Quotes and escapes stay, for [`expand`].
pub(super) fn split(text: &str) -> Result<Vec<String>, Unfinished> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match (character, quote) {
            ('\\', None | Some('"')) => {
                word.push(character);
                word.extend(characters.next());
            }
            ('\'' | '"', None) => {
                quote = Some(character);
                word.push(character);
            }
            (character, Some(open)) => {
                word.push(character);
                if character == open {
                    quote = None;
                }
            }
            (space, None) if space.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
            }
            (other, None) => word.push(other),
        }
    }
    if quote.is_some() {
        return Err(QUOTE);
    }
    if !word.is_empty() {
        words.push(word);
    }
    Ok(words)
}

/// Removes quotes and escapes, and replaces `$NAME`, `${NAME}`, `${NAME:-default}` and `${NAME:+alternative}` outside of
/// single quotes. An unknown variable is empty.
pub(super) fn expand(text: &str, env: &[String]) -> Result<String, Unfinished> {
    let mut result = String::new();
    let mut double_quoted = false;
    let mut rest = text;
    while let Some(character) = rest.chars().next() {
        rest = &rest[character.len_utf8()..];
        match character {
            '\'' if !double_quoted => {
                let (quoted, after) = rest.split_once('\'').ok_or(QUOTE)?;
                result.push_str(quoted);
                rest = after;
            }
            '"' => double_quoted = !double_quoted,
            '\\' => {
                let Some(escaped) = rest.chars().next() else {
                    result.push('\\');
                    break;
                };
                rest = &rest[escaped.len_utf8()..];
                // Within double quotes a backslash only escapes what has a meaning there.
                if double_quoted && !matches!(escaped, '"' | '\\' | '$') {
                    result.push('\\');
                }
                result.push(escaped);
            }
            '$' => rest = variable(rest, env, &mut result)?,
            other => result.push(other),
        }
    }
    if double_quoted { Err(QUOTE) } else { Ok(result) }
}

/// Expands the variable at the start of `rest` (after the dollar sign), and returns what is behind it.
fn variable<'a>(rest: &'a str, env: &[String], result: &mut String) -> Result<&'a str, Unfinished> {
    let is_name = |character: char| character.is_ascii_alphanumeric() || character == '_';
    let Some(braced) = rest.strip_prefix('{') else {
        let end = rest.find(|character| !is_name(character)).unwrap_or(rest.len());
        let (name, after) = rest.split_at(end);
        if name.is_empty() {
            result.push('$');
        } else {
            result.push_str(lookup(name, env).unwrap_or_default());
        }
        return Ok(after);
    };
    let end = closing_brace(braced).ok_or(BRACE)?;
    let (inside, after) = (&braced[..end], &braced[end + 1..]);
    let name_end = inside.find(|character| !is_name(character)).unwrap_or(inside.len());
    let (name, operation) = inside.split_at(name_end);
    let value = lookup(name, env).filter(|value| !value.is_empty());
    if name.is_empty() {
        return Err(BRACE);
    }
    if operation.is_empty() {
        result.push_str(value.unwrap_or_default());
    } else if let Some(default) = operation.strip_prefix(":-") {
        match value {
            Some(value) => result.push_str(value),
            None => result.push_str(&expand(default, env)?),
        }
    } else if let Some(alternative) = operation.strip_prefix(":+") {
        if value.is_some() {
            result.push_str(&expand(alternative, env)?);
        }
    } else {
        return Err(BRACE);
    }
    Ok(after)
}

/// Deeper nesting is no text that somebody wrote, and each level is a call.
const MAX_NESTING: usize = 16;

fn closing_brace(text: &str) -> Option<usize> {
    let mut depth = 0;
    for (index, character) in text.char_indices() {
        match character {
            '{' => depth += 1,
            '}' if depth == 0 => return Some(index),
            '}' => depth -= 1,
            _ => {}
        }
        if depth > MAX_NESTING {
            return None;
        }
    }
    None
}

fn lookup<'a>(name: &str, env: &'a [String]) -> Option<&'a str> {
    env.iter()
        .find_map(|entry| entry.split_once('=').filter(|(other, _)| *other == name).map(|(_, value)| value))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words() {
        let env = ["A=1".to_owned(), "E=".to_owned()];
        let check =
            |text: &str, expected: &str| assert_eq!(expand(text, &env).as_deref(), Ok(expected), "{text}");
        check("$A", "1");
        check("${A}b$", "1b$");
        check("'$A'", "$A");
        check("\"$A \\\" \\x\"", "1 \" \\x");
        check("\\$A", "$A");
        check("${E:-x$A}${A:-y}${A:+z}${E:+w}", "x11z");
        check("$UNKNOWN.", ".");
        assert!(expand("${A", &env).is_err());
        assert!(expand("${}", &env).is_err());
        assert!(expand("${A?}", &env).is_err());
        assert!(expand("\"x", &env).is_err());
        assert!(expand(&"${A:-".repeat(100_000), &env).is_err());
        assert_eq!(
            split("a 'b c' d\\ e \"f g\""),
            Ok(vec!["a".into(), "'b c'".into(), "d\\ e".into(), "\"f g\"".into()])
        );
        assert!(split("a 'b").is_err());
    }
}
