//! Heredocs: content in the Dockerfile itself.

use crate::word::{Lexer, Nothing, Quotes};

/// One heredoc.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Heredoc {
    /// The word that ends it, which is also the name of the file that `COPY` makes of it.
    pub name: String,
    /// The descriptor in front of `<<`; 0 if there was none.
    pub descriptor: u32,
    /// The name was not quoted: variables in the content are expanded by `COPY` and `ADD`.
    pub expand: bool,
    /// It was written `<<-`: leading tabs don't count.
    pub strip_tabs: bool,
    /// The lines up to the end, each with its line end, as they stand in the file.
    pub content: String,
}

impl Heredoc {
    /// What the content is: without leading tabs if they don't count.
    pub fn text(&self) -> String {
        if !self.strip_tabs {
            return self.content.clone();
        }
        self.content.split_inclusive('\n').map(|line| line.trim_start_matches('\t')).collect()
    }

    /// Whether a line ends it.
    pub(crate) fn is_end(&self, line: &str) -> bool {
        let line = line.trim_end_matches(['\r', '\n']);
        let line = if self.strip_tabs { line.trim_start_matches('\t') } else { line };
        line == self.name
    }
}

/// Reads a word as the start of a heredoc: `<<EOF`, `3<<-"EOF"`. Its content is still empty.
pub fn parse(word: &str) -> Option<Heredoc> {
    let digits = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let rest = word[digits..].strip_prefix("<<")?;
    let (strip_tabs, rest) = match rest.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let rest = rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
    if rest.is_empty() || rest.contains('<') {
        return None;
    }
    let lexer = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let name = one(lexer.expand(rest, &Nothing).ok()?.words)?;
    let raw = one(Lexer { quotes: Quotes::Keep, ..lexer }.expand(rest, &Nothing).ok()?.words)?;
    let quotes = |text: &str| text.matches(['\'', '"']).count();
    Some(Heredoc {
        expand: quotes(&name) == quotes(&raw),
        name,
        descriptor: word[..digits].parse().unwrap_or(0),
        strip_tabs,
        content: String::new(),
    })
}

/// The heredocs that a line starts, in their order.
pub(crate) fn in_line(line: &str) -> Vec<Heredoc> {
    if !line.contains("<<") {
        return Vec::new();
    }
    let lexer = Lexer { quotes: Quotes::Keep, keep_escapes: true, keep_unset: true, ..Lexer::new('\\') };
    // A line that the lexer can't read is the shell's business: then there is no heredoc in it.
    let words = lexer.expand(line, &Nothing).map(|expansion| expansion.words).unwrap_or_default();
    words.iter().filter_map(|word| parse(word)).collect()
}

fn one(words: Vec<String>) -> Option<String> {
    let [word] = <[String; 1]>::try_from(words).ok()?;
    Some(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heredoc(name: &str, descriptor: u32, expand: bool, strip_tabs: bool) -> Heredoc {
        Heredoc { name: name.to_owned(), descriptor, expand, strip_tabs, content: String::new() }
    }

    #[test]
    fn starts() {
        assert_eq!(parse("<<EOF"), Some(heredoc("EOF", 0, true, false)));
        assert_eq!(parse("3<<-EOF"), Some(heredoc("EOF", 3, true, true)));
        assert_eq!(parse("<< EOF"), Some(heredoc("EOF", 0, true, false)));
        assert_eq!(parse("<<'EOF'"), Some(heredoc("EOF", 0, false, false)));
        assert_eq!(parse("<<-\"E F\""), Some(heredoc("E F", 0, false, true)));
        assert_eq!(parse("<<E\"O\"F"), Some(heredoc("EOF", 0, false, false)));
        for none in ["<EOF", "<<<EOF", "<<", "<<-", "<<a b", "<<'a", "x<<EOF", ""] {
            assert_eq!(parse(none), None, "{none}");
        }
    }

    #[test]
    fn lines_with_several() {
        let names = |line: &str| in_line(line).into_iter().map(|doc| doc.name).collect::<Vec<_>>();
        assert_eq!(names("COPY <<a <<-'b' /x"), ["a", "b"]);
        assert_eq!(names("RUN cat << EOF > x"), ["EOF"]);
        assert_eq!(names("RUN echo '<<EOF' \"<<EOF\""), [""; 0]);
        assert_eq!(names("RUN echo $((1<<2)) 'x"), [""; 0]);
        assert_eq!(names("RUN cat <<<word"), [""; 0]);
    }

    #[test]
    fn tabs_are_stripped_where_they_do_not_count() {
        let doc = Heredoc { content: "\ta\n\t\tb \n\n c".to_owned(), ..heredoc("E", 0, true, true) };
        assert_eq!(doc.text(), "a\nb \n\n c");
        assert!(doc.is_end("\t\tE\r\n") && !doc.is_end(" E") && !doc.is_end("E "));
        assert!(!heredoc("E", 0, true, false).is_end("\tE"));
    }
}
