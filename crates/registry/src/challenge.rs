//! Parses `WWW-Authenticate` headers (RFC 9110, section 11.6.1), which a hostile registry may fill with anything.

/// The longest header value that is looked at.
const LONGEST_HEADER: usize = 8 * 1024;
/// The most parameters that are kept of one challenge.
const MOST_PARAMETERS: usize = 16;
/// The most challenges that are kept.
const MOST_CHALLENGES: usize = 8;

/// One challenge: a scheme and its parameters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Challenge {
    /// In lower case: `bearer`, `basic`.
    pub(crate) scheme: String,
    parameters: Vec<(String, String)>,
}

impl Challenge {
    /// A parameter by its lower-case name.
    pub(crate) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }
}

/// The challenges of one header value; what cannot be understood is left out.
pub(crate) fn parse(header: &str) -> Vec<Challenge> {
    let mut challenges: Vec<Challenge> = Vec::new();
    if header.len() > LONGEST_HEADER {
        return challenges;
    }
    let mut scanner = Scanner { rest: header };
    loop {
        scanner.skip(|byte| byte == b',' || is_space(byte));
        let Some(word) = scanner.token() else { return challenges };
        scanner.skip(is_space);
        if scanner.take(b'=') {
            scanner.skip(is_space);
            let Some(value) = scanner.value() else { return challenges };
            if let Some(challenge) = challenges.last_mut()
                && challenge.parameters.len() < MOST_PARAMETERS
            {
                challenge.parameters.push((word.to_ascii_lowercase(), value));
            }
        } else if challenges.len() < MOST_CHALLENGES {
            challenges.push(Challenge { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
        } else {
            return challenges;
        }
    }
}

struct Scanner<'a> {
    rest: &'a str,
}

impl<'a> Scanner<'a> {
    fn skip(&mut self, unwanted: impl Fn(u8) -> bool) {
        self.rest = self.rest.trim_start_matches(|letter: char| u8::try_from(letter).is_ok_and(&unwanted));
    }

    fn take(&mut self, wanted: u8) -> bool {
        match self.rest.strip_prefix(char::from(wanted)) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }

    fn token(&mut self) -> Option<&'a str> {
        let end = self.rest.find(|letter| !is_token(letter)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!token.is_empty()).then_some(token)
    }

    fn value(&mut self) -> Option<String> {
        if !self.take(b'"') {
            // Some registries leave URLs unquoted, so a value may have more letters than a token.
            let end = self
                .rest
                .find(|letter: char| letter == ',' || letter.is_ascii_whitespace())
                .unwrap_or(self.rest.len());
            let (value, rest) = self.rest.split_at(end);
            self.rest = rest;
            return Some(value.to_owned());
        }
        let mut value = String::new();
        let mut letters = self.rest.char_indices();
        while let Some((at, letter)) = letters.next() {
            match letter {
                '"' => {
                    self.rest = &self.rest[at + 1..];
                    return Some(value);
                }
                '\\' => value.push(letters.next()?.1),
                _ => value.push(letter),
            }
        }
        None
    }
}

fn is_space(byte: u8) -> bool {
    byte == b' ' || byte == b'\t'
}

fn is_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn understands_bearer_and_basic() {
        let parsed = parse(
            r#"Bearer realm="https://auth.example.com/token",service="registry.example.com",scope="repository:a/b:pull,push""#,
        );
        assert_eq!(parsed.len(), 1);
        assert_eq!(parsed[0].scheme, "bearer");
        assert_eq!(parsed[0].parameter("realm"), Some("https://auth.example.com/token"));
        assert_eq!(parsed[0].parameter("scope"), Some("repository:a/b:pull,push"));
        assert_eq!(parse("basic Realm = \"x\\\"y\"")[0].parameter("realm"), Some("x\"y"));
    }

    #[test]
    fn understands_several_challenges_in_one_header() {
        let parsed = parse(r#"Basic realm="a", Bearer realm=https://b/token,service=c , Negotiate"#);
        let schemes: Vec<_> = parsed.iter().map(|challenge| challenge.scheme.as_str()).collect();
        assert_eq!(schemes, ["basic", "bearer", "negotiate"]);
        assert_eq!(parsed[1].parameter("realm"), Some("https://b/token"));
        assert_eq!(parsed[1].parameter("service"), Some("c"));
    }

    #[test]
    fn nonsense_is_not_a_challenge_and_no_panic() {
        for text in
            ["", ",,,", "=", "\"", "Bearer realm=\"", "Bearer realm=\"\\", "=x", "ü=\"ü\"", "Bearer \u{7f}"]
        {
            let _ = parse(text);
        }
        assert!(parse(&"a ".repeat(100_000)).is_empty());
        assert_eq!(parse(&"a,".repeat(1_000)).len(), MOST_CHALLENGES);
        let many = format!("Bearer {}", "k=v,".repeat(1_000));
        assert_eq!(parse(&many)[0].parameters.len(), MOST_PARAMETERS);
    }

    #[test]
    fn every_prefix_of_a_header_is_survived() {
        let whole = r#"Bearer realm="https://ä.example/\"t",service="s", Basic realm=x"#;
        for (end, _) in whole.char_indices() {
            let _ = parse(&whole[..end]);
        }
    }
}
