//! Which commit a name stands for: the answer of `git ls-remote`, read.
//!
//! A name is looked for as `refs/NAME`, as a branch, as a tag, in this order. The server answers with whatever it likes; what counts are lines
//! with exactly these names and something that looks like an object.

/// What a repository has under a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Found {
    /// The object: a commit, or a tag that has one.
    pub object: String,
    /// The commit of a tag that is an object of its own.
    pub peeled: Option<String>,
    /// The full name, `refs/heads/main`; none: it was named by its digits.
    pub name: Option<String>,
}

impl Found {
    /// By its digits.
    pub fn commit(digits: &str) -> Self {
        Self { object: digits.to_owned(), peeled: None, name: None }
    }

    /// The commit, as far as it is known.
    pub fn target(&self) -> &str {
        self.peeled.as_deref().unwrap_or(&self.object)
    }
}

/// Whether these are all digits of an object.
pub fn is_object(text: &str) -> bool {
    matches!(text.len(), 40 | 64) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

/// The branch that `HEAD` stands for, of `ls-remote --symref URL HEAD`. Without a branch its commit.
pub fn head(said: &str) -> Option<Found> {
    let mut branch = None;
    let mut object = None;
    for (left, right) in said.lines().filter_map(|line| line.split_once('\t')) {
        if right != "HEAD" {
            continue;
        }
        if let Some(name) = left.strip_prefix("ref: ") {
            branch = branch.or(Some(name).filter(|name| is_branch(name)));
        } else if is_object(left) {
            object = object.or(Some(left));
        }
    }
    Some(Found { object: object?.to_owned(), peeled: None, name: branch.map(str::to_owned) })
}

/// A branch's name that says nothing else: it becomes a part of what is fetched.
fn is_branch(name: &str) -> bool {
    let is_plain = |c: char| !c.is_control() && !c.is_whitespace() && !"~^:?*[\\".contains(c);
    name.starts_with("refs/heads/")
        && name.chars().all(is_plain)
        && !name.contains("..")
        && !name.contains("@{")
}

/// What a name stands for, of `ls-remote URL NAME NAME^{}`.
pub fn named(said: &str, name: &str) -> Option<Found> {
    let lines: Vec<(&str, &str)> = said.lines().filter_map(|line| line.split_once('\t')).collect();
    let find = |wanted: &str| {
        let object = lines.iter().find(|(object, name)| *name == wanted && is_object(object));
        object.map(|(object, _)| (*object).to_owned())
    };
    let below = |prefix: &str| format!("{prefix}{}", name.strip_prefix(prefix).unwrap_or(name));
    for full in [below("refs/"), below("refs/heads/"), below("refs/tags/")] {
        if let Some(object) = find(&full) {
            let peeled = find(&format!("{full}^{{}}"));
            return Some(Found { object, peeled, name: Some(full) });
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digits(digit: char) -> String {
        digit.to_string().repeat(40)
    }

    #[track_caller]
    fn check(lines: &[(char, &str)], name: &str, expected: Option<(char, Option<char>, &str)>) {
        let said: String =
            lines.iter().map(|(digit, name)| format!("{}\t{name}\n", digits(*digit))).collect();
        let expected = expected.map(|(object, peeled, name)| Found {
            object: digits(object),
            peeled: peeled.map(digits),
            name: Some(name.to_owned()),
        });
        assert_eq!(named(&said, name), expected, "{said}");
    }

    #[test]
    fn names() {
        let both = [('1', "refs/heads/x"), ('2', "refs/tags/x"), ('3', "refs/tags/x^{}")];
        check(&both, "x", Some(('1', None, "refs/heads/x")));
        check(&both, "refs/heads/x", Some(('1', None, "refs/heads/x")));
        check(&both, "tags/x", Some(('2', Some('3'), "refs/tags/x")));
        check(&both[1..], "x", Some(('2', Some('3'), "refs/tags/x")));
        check(&[('1', "refs/pull/1/head")], "pull/1/head", Some(('1', None, "refs/pull/1/head")));
        check(&[('1', "refs/heads/a/x")], "x", None);
        check(&[], "x", None);
        // Neither an object nor the name.
        assert_eq!(named("--upload-pack=x\trefs/heads/x\nno line\n", "x"), None);
        check(&[('g', "refs/heads/x")], "x", None);
    }

    #[test]
    fn the_default_branch() {
        let one = digits('1');
        let of = |text: &str| head(text).map(|found| (found.object, found.name));
        assert_eq!(
            of(&format!("ref: refs/heads/main\tHEAD\n{one}\tHEAD\n")),
            Some((one.clone(), Some("refs/heads/main".to_owned())))
        );
        assert_eq!(of(&format!("{one}\tHEAD\n")), Some((one.clone(), None)));
        assert_eq!(of("ref: refs/heads/main\tHEAD\n"), None, "an empty repository");
        assert_eq!(
            of(&format!("ref: refs/heads/a:refs/heads/b\tHEAD\nref: -x\tHEAD\n{one}\tHEAD\n")),
            Some((one, None))
        );
    }
}
