//! "Did you mean": the known word that a wrong one is closest to.

/// Words that differ more than this are not what was meant.
const FARTHEST: usize = 2;

/// The option closest to `word` if it is close enough. None if the word is one of the options: then it isn't the mistake.
pub fn closest<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let mut best = None;
    for option in options {
        if option == word {
            return None;
        }
        let distance = distance(word, option);
        if best.is_none_or(|(nearest, _)| distance < nearest) && distance <= FARTHEST {
            best = Some((distance, option));
        }
    }
    best.map(|(_, option)| option)
}

/// ` (did you mean X?)`, or nothing.
pub fn hint<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> String {
    closest(word, options).map(|option| format!(" (did you mean {option}?)")).unwrap_or_default()
}

/// Like [`hint`], for options in lower case of which case doesn't matter; the answer is written like the word.
pub fn hint_any_case<'a>(word: &str, options: impl IntoIterator<Item = &'a str>) -> String {
    let Some(option) = closest(&word.to_lowercase(), options) else { return String::new() };
    let is_upper = word == word.to_uppercase() && word != word.to_lowercase();
    format!(" (did you mean {}?)", if is_upper { option.to_uppercase() } else { option.to_owned() })
}

/// Levenshtein's distance, or more than [`FARTHEST`] if the lengths alone say so.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let length = left.chars().take(right.len() + FARTHEST + 1).count();
    if length.abs_diff(right.len()) > FARTHEST {
        return FARTHEST + 1;
    }
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, from) in left.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = index + 1;
        for (column, to) in right.iter().enumerate() {
            let replaced = diagonal + usize::from(from != *to);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(diagonal + 1).min(row[column] + 1);
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_what_is_close() {
        let options = ["from", "run", "copy", "env"];
        assert_eq!(closest("frmo", options), Some("from"));
        assert_eq!(closest("cpy", options), Some("copy"));
        assert_eq!(closest("healthcheck", options), None);
        assert_eq!(closest("run", options), None);
        assert_eq!(hint_any_case("FRMO", options), " (did you mean FROM?)");
        assert_eq!(hint_any_case("Frmo", options), " (did you mean from?)");
        assert_eq!(hint("nv", options), " (did you mean env?)");
    }

    #[test]
    fn distance_is_levenshteins() {
        assert_eq!(distance("kitten", "sittin"), 2);
        assert_eq!(distance("", "ab"), 2);
        assert_eq!(distance("ab", "ba"), 2);
    }
}
