//! Arguments, cut into words: at blanks, or as `name=value` with quotes.

use crate::flags::is_blank;

/// Words between blanks; quotes mean nothing.
pub(crate) fn split_blank(text: &str) -> Vec<String> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Words between blanks that are neither quoted nor escaped. Quotes and escapes stay: the words are expanded later.
pub(crate) fn split_quoted(text: &str, escape: char) -> Vec<String> {
    let mut words = Vec::new();
    let mut word = String::new();
    let mut quote = None;
    let mut chars = text.chars().peekable();
    while let Some(next) = chars.next() {
        match quote {
            None if next.is_whitespace() => {
                if !word.is_empty() {
                    words.push(std::mem::take(&mut word));
                }
                continue;
            }
            None if matches!(next, '\'' | '"') => quote = Some(next),
            Some(end) if next == end => quote = None,
            _ => {}
        }
        // In single quotes nothing escapes; at the end it escapes nothing.
        if next == escape && quote != Some('\'') {
            let Some(escaped) = chars.next() else { break };
            word.push(next);
            word.push(escaped);
        } else {
            word.push(next);
        }
    }
    if !word.is_empty() {
        words.push(word);
    }
    words
}

/// A name and a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pair {
    /// The name.
    pub name: String,
    /// The value.
    pub value: String,
    /// It was written `name value`, not `name=value`.
    pub is_legacy: bool,
}

/// The pairs of `ENV` and `LABEL`: `a=b c="d e"`, or the old form `a b…` with one pair.
pub(crate) fn pairs(text: &str, keyword: &str, escape: char) -> Result<Vec<Pair>, String> {
    let words = split_quoted(text, escape);
    let Some(first) = words.first() else { return Ok(Vec::new()) };
    if !first.contains('=') {
        let Some((name, value)) = text.split_once(is_blank) else {
            return Err(format!("{keyword} must have two arguments"));
        };
        let value = value.trim_start_matches(is_blank);
        return Ok(vec![Pair { name: name.to_owned(), value: value.to_owned(), is_legacy: true }]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            Some((name, value)) => {
                Ok(Pair { name: name.to_owned(), value: value.to_owned(), is_legacy: false })
            }
            None => Err(format!("Syntax error - can't find = in {word:?}. Must be of the form: name=value")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quoted_words_keep_their_quotes() {
        assert_eq!(split_quoted(r#"a="b c" d='e "f' "#, '\\'), [r#"a="b c""#, r#"d='e "f'"#]);
        assert_eq!(split_quoted(r#"a=b\ c d=\"e f"#, '\\'), [r"a=b\ c", r#"d=\"e"#, "f"]);
        assert_eq!(split_quoted(r"'a\' b", '\\'), [r"'a\'", "b"]);
        assert_eq!(split_quoted(r"a\", '\\'), ["a"]);
        assert_eq!(split_quoted("a=`  b", '`'), ["a=` ", "b"]);
        assert_eq!(split_quoted("\"\" x", '\\'), ["\"\"", "x"]);
    }

    #[test]
    fn both_forms_of_pairs() {
        let pair = |name: &str, value: &str, is_legacy| Pair {
            name: name.to_owned(),
            value: value.to_owned(),
            is_legacy,
        };
        assert_eq!(pairs("a=b c=", "ENV", '\\'), Ok(vec![pair("a", "b", false), pair("c", "", false)]));
        assert_eq!(pairs("a   b=c d", "ENV", '\\'), Ok(vec![pair("a", "b=c d", true)]));
        assert_eq!(pairs("a", "ENV", '\\'), Err("ENV must have two arguments".to_owned()));
        assert_eq!(
            pairs("a=b c", "ENV", '\\'),
            Err("Syntax error - can't find = in \"c\". Must be of the form: name=value".to_owned())
        );
    }
}
