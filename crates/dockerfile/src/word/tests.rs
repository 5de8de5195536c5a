//! Words, quotes, variables and their modifiers.

use std::collections::BTreeMap;

use super::*;

struct Map(BTreeMap<&'static str, &'static str>);

impl Variables for Map {
    fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).copied()
    }
}

fn variables() -> Map {
    Map(BTreeMap::from([
        ("HOME", "/root"),
        ("EMPTY", ""),
        ("FILE", "src/lib/name.tar.gz"),
        ("TWO", "one  two"),
        ("PAT", "*/"),
        ("WORT", "größe"),
    ]))
}

fn expand(text: &str) -> Result<String, String> {
    Lexer::new('\\').expand(text, &variables()).map(|expansion| expansion.text)
}

#[track_caller]
fn check(text: &str, expected: &str) {
    assert_eq!(expand(text).as_deref(), Ok(expected), "{text}");
}

#[track_caller]
fn check_error(text: &str, part: &str) {
    let error = expand(text).expect_err(text);
    assert!(error.contains(part), "{text}: {error}");
}

#[test]
fn quotes_and_escapes() {
    check("plain", "plain");
    check("a'b c'd", "ab cd");
    check(r#"a"b 'c"d"#, "ab 'cd");
    check(r"a\'b", "a'b");
    check(r"a\\b", r"a\b");
    check(r"a\tb", "atb");
    check(r#""a\tb""#, r"a\tb");
    check(r#""a\\\"b""#, r#"a\"b"#);
    check(r"'a\b'", r"a\b");
    check(r"end\", "end");
    check(r"end\\", r"end\");
    check("a<b", "a<b");
    check_error("a'b", "single-quote");
    check_error("a\"b", "double-quote");
    check_error(r#"a"b\""#, "double-quote");
}

#[test]
fn another_escape_character() {
    let lexer = Lexer::new('`');
    let expand = |text: &str| lexer.expand(text, &variables()).map(|expansion| expansion.text);
    assert_eq!(expand(r"c:\dir\`$HOME").as_deref(), Ok(r"c:\dir\$HOME"));
    assert_eq!(expand("`\"$HOME").as_deref(), Ok("\"/root"));
}

#[test]
fn plain_variables() {
    check("$HOME/x", "/root/x");
    check("${HOME}x", "/rootx");
    check("a$UNSET-b", "a-b");
    check(r"\$HOME", "$HOME");
    check(r#""$HOME" '$HOME'"#, "/root $HOME");
    check("$.", "$.");
    check("5$", "5$");
    check("a$1b", "ab");
    check("a$12b", "ab");
    check("$WORT!", "größe!");
    check("$@$*$#", "");
    check_error("${}", "bad substitution");
    check_error("${:-x}", "bad substitution");
    check_error("${{HOME}}", "bad substitution");
    check_error("${HOME", "missing '}'");
    check_error("${", "missing '}'");
    check_error("${HOME:", "missing '}'");
    check_error("${HOME.}", "unsupported modifier (.)");
}

#[test]
fn defaults_and_alternatives() {
    check("${UNSET:-a}", "a");
    check("${UNSET-a}", "a");
    check("${EMPTY:-a}", "a");
    check("${EMPTY-a}", "");
    check("${HOME:-a}", "/root");
    check("${UNSET:+a}", "");
    check("${UNSET+a}", "");
    check("${EMPTY:+a}", "");
    check("${EMPTY+a}", "a");
    check("${HOME:+a}", "a");
    check("${UNSET:-$HOME}x", "/rootx");
    check("${UNSET:-${ALSO:-${EMPTY:-deep}}}", "deep");
    check("${UNSET:-a b}", "a b");
    check(r"${UNSET:-\}}", "}");
    check(r#"${UNSET:-"}"}"#, "}");
    check("${1:-one}", "one");
    check_error("${UNSET=a}", "unsupported modifier (=)");
    check_error("${UNSET:=a}", "unsupported modifier (:=)");
    check_error("${UNSET:#a}", "unsupported modifier (:#)");
}

#[test]
fn what_must_be_set() {
    check("${HOME:?no}", "/root");
    check("${EMPTY?no}", "");
    check_error("${EMPTY:?}", "EMPTY: is not allowed to be empty");
    check_error("${EMPTY:?give a value}", "EMPTY: give a value");
    check_error("${UNSET?}", "UNSET: is not allowed to be unset");
    check_error("${UNSET:?please}", "UNSET: please");
}

#[test]
fn prefixes_suffixes_and_replacements() {
    check("${FILE#*/}", "lib/name.tar.gz");
    check("${FILE##*/}", "name.tar.gz");
    check("${FILE%.*}", "src/lib/name.tar");
    check("${FILE%%.*}", "src/lib/name");
    check("${FILE#$PAT}", "lib/name.tar.gz");
    check("${FILE/a/A}", "src/lib/nAme.tar.gz");
    check("${FILE//a/A}", "src/lib/nAme.tAr.gz");
    check(r"${FILE//\//-}", "src-lib-name.tar.gz");
    check("${FILE//l*b/x}", "src/x/name.tar.gz");
    check("${FILE/gz/$TWO}", "src/lib/name.tar.one  two");
    check("${FILE///}", "src/lib/name.tar.gz");
    check("${UNSET#a}${UNSET//a/b}", "");
    check(r"${TWO%?\*}", "one  two");
    check_error("${FILE//a}", "missing '/'");
    check_error("${FILE/a/b", "missing '}'");
    check_error(r"${FILE#\q}", "invalid pattern");
}

#[test]
fn words_split_after_expansion_but_not_in_quotes() {
    let words = |text: &str| Lexer::new('\\').expand(text, &variables()).expect(text).words;
    assert_eq!(words("a  b\tc "), ["a", "b", "c"]);
    assert_eq!(words("x$TWO"), ["xone", "two"]);
    assert_eq!(words("x\"$TWO\""), ["xone  two"]);
    assert_eq!(words(r"a\ b"), ["a b"]);
    assert_eq!(words("80${UNSET:-80}/tcp 1"), ["8080/tcp", "1"]);
    assert_eq!(words("'' $EMPTY"), [""; 0]);
    assert_eq!(words("cat << EOF"), ["cat", "<< EOF"]);
}

#[test]
fn what_is_not_set_can_stay() {
    let lexer = Lexer { keep_unset: true, ..Lexer::new('\\') };
    let expand = |text: &str| lexer.expand(text, &variables()).expect(text).text;
    assert_eq!(
        expand("$UNSET ${UNSET} ${UNSET:-a} ${UNSET##b} $HOME"),
        "$UNSET ${UNSET} ${UNSET:-a} ${UNSET##b} /root"
    );
    assert_eq!(expand("${UNSET/a/b}${UNSET//a/b}"), "${UNSET/a/b}${UNSET//a/b}");
}

#[test]
fn which_variables_were_used() {
    let expansion =
        Lexer::new('\\').expand("$HOME ${UNSET:-$ALSO} '$NOT'", &variables()).expect("it expands");
    assert_eq!(expansion.matched, BTreeSet::from(["HOME".to_owned()]));
    assert_eq!(expansion.unmatched, BTreeSet::from(["UNSET".to_owned(), "ALSO".to_owned()]));
}

#[test]
fn quotes_can_stay_or_be_ignored() {
    let keep = Lexer { quotes: Quotes::Keep, keep_escapes: true, ..Lexer::new('\\') };
    assert_eq!(
        keep.expand(r#"a "b c" 'd' \e"#, &Nothing).expect("words").words,
        ["a", "\"b c\"", "'d'", r"\e"]
    );
    let ignore = Lexer { quotes: Quotes::Ignore, ..Lexer::new('\\') };
    assert_eq!(ignore.expand("it's $HOME", &variables()).expect("text").text, "it's /root");
}

#[test]
fn nesting_and_size_are_bounded() {
    let deep = format!("{}x{}", "${A:-".repeat(10_000), "}".repeat(10_000));
    check_error(&deep, "nested too deeply");
    struct Big(String);
    impl Variables for Big {
        fn get(&self, _name: &str) -> Option<&str> {
            Some(&self.0)
        }
    }
    let big = Big("x".repeat(1 << 20));
    let error = Lexer::new('\\').expand(&"$A".repeat(100), &big).expect_err("too much");
    assert!(error.contains("expand to more than"), "{error}");
}
