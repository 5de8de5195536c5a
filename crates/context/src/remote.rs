//! Files that are somewhere else: Git repositories and downloads, as contexts and as sources of `ADD`.
//!
//! `https://host/repo.git#ref:dir`, `git@host:repo`, `ssh://…`, `git://…`; instead of the fragment a query says more:
//! `?ref=`, `?tag=`, `?branch=`, `?subdir=`, `?checksum=`, `?keep-git-dir=`, `?submodules=`, `?mtime=`, `?fetch-by-commit=`. As a context
//! `github.com/user/repo` is one, too.
//!
//! **Invariant:** no part of what is accepted begins with `-` where a program could take it for an option, none has control characters
//! (CVE-2019-13139, CVE-2018-17456), and a reference is one name: it can't say where in the repository it is to be put.

use std::collections::BTreeMap;

/// A Git repository, and what of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Git {
    /// What `git` calls the remote.
    pub remote: String,
    /// A branch, tag or commit; the remote's default if none.
    pub reference: Option<String>,
    /// The commit that it must be.
    pub checksum: Option<String>,
    /// A directory in the repository, without `/` at its ends; empty for all of it.
    pub subdirectory: String,
    /// The directory `.git` is kept.
    pub keep_git_dir: Option<bool>,
    /// Submodules are fetched.
    pub submodules: Option<bool>,
    /// Files are as old as their commit, and not as the checkout.
    pub commit_times: Option<bool>,
    /// The checksum is believed: nobody asks whether the reference is this commit.
    pub fetch_by_commit: bool,
}

/// Where files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A repository.
    Git(Git),
    /// Something to download.
    Http(String),
}

/// An address that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid remote source {address:?}: {reason}")]
pub struct RemoteError {
    /// The address.
    pub address: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Reads the source of an `ADD`. None: it is a path.
pub fn source(text: &str) -> Result<Option<Remote>, RemoteError> {
    let fail = |reason: String| RemoteError { address: text.to_owned(), reason };
    if let Some((scheme, rest)) = text.split_once("://").filter(|(scheme, _)| is_word(scheme)) {
        let scheme = scheme.to_ascii_lowercase();
        if !matches!(scheme.as_str(), "http" | "https" | "ssh" | "git") {
            return Ok(None);
        }
        let parts = Parts::cut(rest);
        let (host, path) = parts.address.split_once('/').unwrap_or((parts.address, ""));
        check_host(host.rsplit('@').next().unwrap_or(host)).map_err(fail)?;
        if host.starts_with('-') {
            return Err(fail("it begins with '-'".to_owned()));
        }
        if scheme.starts_with("http") && !path.ends_with(".git") {
            check_text(text).map_err(fail)?;
            return Ok(Some(Remote::Http(text.to_owned())));
        }
        check_git_host(host).map_err(fail)?;
        let remote = format!("{scheme}://{}", parts.address);
        return git(remote, &parts).map(|git| Some(Remote::Git(git))).map_err(fail);
    }
    let Some((user, rest)) = text.split_once('@').filter(|(user, _)| is_user(user)) else { return Ok(None) };
    let Some((host, path)) = rest.split_once(':').filter(|(host, _)| is_host(host)) else { return Ok(None) };
    check_host(host).map_err(fail)?;
    if user.starts_with('-') {
        return Err(fail("it begins with '-'".to_owned()));
    }
    if path.starts_with('-') {
        return Err(fail("its path begins with '-'".to_owned()));
    }
    let parts = Parts::cut(text);
    git(parts.address.to_owned(), &parts).map(|git| Some(Remote::Git(git))).map_err(fail)
}

/// Reads a build's context. None: it is a path, or `-`. A directory that exists comes first; who calls looks for it.
pub fn context(text: &str) -> Result<Option<Remote>, RemoteError> {
    if !text.starts_with("github.com/") {
        return source(text);
    }
    let parts = Parts::cut(text);
    let found = git(format!("https://{}", parts.address), &parts);
    found.map(|git| Some(Remote::Git(git))).map_err(|reason| RemoteError { address: text.to_owned(), reason })
}

/// An address without what is secret in it: for logs, names of steps, attestations (CVE-2023-26054).
pub fn redacted(text: &str) -> String {
    let Some((scheme, rest)) = text.split_once("://") else { return text.to_owned() };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    match rest[..host_end].rsplit_once('@') {
        Some((user, host)) => {
            let hidden = if user.contains(':') { "xxxxx:xxxxx" } else { "xxxxx" };
            format!("{scheme}://{hidden}@{host}{}", &rest[host_end..])
        }
        None => text.to_owned(),
    }
}

/// An address for `git` without the user and the password in it, and these: on a command line or in a file everybody would see them. Only of
/// HTTP: ssh has no passwords, and its user is part of the address.
pub fn without_user(address: &str) -> (String, Option<(String, String)>) {
    let Some((scheme, rest)) = address.split_once("://").filter(|(scheme, _)| scheme.starts_with("http"))
    else {
        return (address.to_owned(), None);
    };
    let host_end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let Some((user, host)) = rest[..host_end].rsplit_once('@') else { return (address.to_owned(), None) };
    let (name, password) = user.split_once(':').unwrap_or((user, ""));
    // What is no escape means itself.
    let plain = |text: &str| decode(text).unwrap_or_else(|_| text.to_owned());
    (format!("{scheme}://{host}{}", &rest[host_end..]), Some((plain(name), plain(password))))
}

/// An address without fragment and query.
struct Parts<'a> {
    address: &'a str,
    query: Option<&'a str>,
    fragment: Option<&'a str>,
}

impl<'a> Parts<'a> {
    fn cut(text: &'a str) -> Self {
        let (rest, fragment) = match text.split_once('#') {
            Some((rest, fragment)) => (rest, Some(fragment)),
            None => (text, None),
        };
        match rest.split_once('?') {
            Some((address, query)) => Self { address, query: Some(query), fragment },
            None => Self { address: rest, query: None, fragment },
        }
    }
}

fn git(remote: String, parts: &Parts<'_>) -> Result<Git, String> {
    let mut git = Git { remote, ..Git::default() };
    if let Some(fragment) = parts.fragment {
        let fragment = decode(fragment)?;
        let (reference, directory) = fragment.split_once(':').unwrap_or((&fragment, ""));
        git.reference = Some(reference.to_owned()).filter(|reference| !reference.is_empty());
        git.subdirectory = clean(directory);
    }
    if let Some(query) = parts.query {
        git.query(query)?;
    }
    check_text(&git.remote)?;
    check_text(&git.subdirectory)?;
    for value in [&git.reference, &git.checksum].into_iter().flatten() {
        check_text(value)?;
        if value.starts_with('-') {
            return Err(format!("the reference {value:?} begins with '-'"));
        }
        if value.contains(['~', '^', ':', '?', '*', '[', '\\'])
            || value.contains("..")
            || value.contains("@{")
        {
            return Err(format!("{value:?} is no name of a branch, tag or commit"));
        }
    }
    if git.checksum.as_ref().is_some_and(|sum| !sum.bytes().all(|byte| byte.is_ascii_hexdigit())) {
        return Err("the checksum of a repository is a commit's hexadecimal digits".to_owned());
    }
    Ok(git)
}

impl Git {
    fn query(&mut self, query: &str) -> Result<(), String> {
        let mut pairs: BTreeMap<String, String> = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let (key, value) = (decode(key)?, decode(&value.replace('+', " "))?);
            if value.is_empty() && !matches!(key.as_str(), "submodules" | "keep-git-dir" | "fetch-by-commit")
            {
                return Err(format!("query {key:?} has no value"));
            }
            if pairs.insert(key.clone(), value).is_some() {
                return Err(format!("query {key:?} has multiple values"));
            }
        }
        if pairs.contains_key("tag") && pairs.contains_key("branch") {
            return Err("branch conflicts with tag".to_owned());
        }
        for (key, value) in pairs {
            match key.as_str() {
                "ref" => self.refer(value)?,
                "tag" => self.refer(prefixed("refs/tags/", &value))?,
                "branch" => self.refer(prefixed("refs/heads/", &value))?,
                "subdir" => {
                    let directory = clean(&value);
                    if !self.subdirectory.is_empty() && self.subdirectory != directory {
                        return Err(format!("subdir conflicts: {:?} vs {directory:?}", self.subdirectory));
                    }
                    self.subdirectory = directory;
                }
                "checksum" | "commit" => self.checksum = Some(value),
                "keep-git-dir" => self.keep_git_dir = Some(boolean(&key, &value)?),
                "submodules" => self.submodules = Some(boolean(&key, &value)?),
                "fetch-by-commit" => self.fetch_by_commit = boolean(&key, &value)?,
                "mtime" => match value.as_str() {
                    "commit" => self.commit_times = Some(true),
                    "checkout" => self.commit_times = Some(false),
                    _ => {
                        return Err(format!(
                            "invalid mtime value: {value:?} (must be \"checkout\" or \"commit\")"
                        ));
                    }
                },
                _ => return Err(format!("unexpected query {key:?}")),
            }
        }
        Ok(())
    }

    fn refer(&mut self, reference: String) -> Result<(), String> {
        if let Some(other) = self.reference.as_ref().filter(|other| **other != reference) {
            return Err(format!("ref conflicts: {other:?} vs {reference:?}"));
        }
        self.reference = Some(reference);
        Ok(())
    }
}

fn prefixed(prefix: &str, value: &str) -> String {
    if value.starts_with(prefix) { value.to_owned() } else { format!("{prefix}{value}") }
}

fn boolean(key: &str, value: &str) -> Result<bool, String> {
    match value {
        "" | "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err(format!("invalid {key} value: {value:?}")),
    }
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

fn is_user(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

fn check_host(host: &str) -> Result<(), String> {
    match host {
        "" => Err("it has no host".to_owned()),
        _ if host.starts_with('-') => Err("its host begins with '-'".to_owned()),
        _ => Ok(()),
    }
}

/// What may follow a user's name and `@` in a repository's address: git and ssh decode nothing in it, and take nothing in it for an option.
fn check_git_host(host: &str) -> Result<(), String> {
    let host = host.rsplit('@').next().unwrap_or(host);
    match host.chars().find(|c| !c.is_ascii_alphanumeric() && !"._-:[]".contains(*c)) {
        Some(c) => Err(format!("its host has a character {c:?}")),
        None => Ok(()),
    }
}

fn check_text(text: &str) -> Result<(), String> {
    match text.chars().find(|c| c.is_control() || c.is_whitespace()) {
        Some(c) => Err(format!("it has a character {c:?}")),
        None => Ok(()),
    }
}

/// A directory inside: `..` ends at the top.
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            other => parts.push(other),
        }
    }
    parts.join("/")
}

/// `%41` is `A`.
fn decode(text: &str) -> Result<String, String> {
    let invalid = || format!("invalid URL escape in {text:?}");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&next, after)) = rest.split_first() {
        rest = after;
        if next != b'%' {
            bytes.push(next);
            continue;
        }
        let digits =
            rest.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)).ok_or_else(invalid)?;
        let digits = std::str::from_utf8(digits).map_err(|_| invalid())?;
        bytes.push(u8::from_str_radix(digits, 16).map_err(|_| invalid())?);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| invalid())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn git_of(text: &str) -> Git {
        match context(text) {
            Ok(Some(Remote::Git(git))) => git,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[track_caller]
    fn check(text: &str, remote: &str, reference: Option<&str>, subdirectory: &str) {
        let git = git_of(text);
        assert_eq!((git.remote.as_str(), git.reference.as_deref()), (remote, reference), "{text}");
        assert_eq!(git.subdirectory, subdirectory, "{text}");
    }

    #[track_caller]
    fn check_error(text: &str, reason: &str) {
        assert_eq!(context(text).expect_err(text).reason, reason, "{text}");
    }

    #[test]
    fn repositories() {
        check("https://example.com/a/b.git", "https://example.com/a/b.git", None, "");
        check(
            "https://example.com/b.git#main:sub/./dir/",
            "https://example.com/b.git",
            Some("main"),
            "sub/dir",
        );
        check("https://example.com/b.git#:../../etc", "https://example.com/b.git", None, "etc");
        check("git@example.com:a/b.git#v1", "git@example.com:a/b.git", Some("v1"), "");
        check("ssh://git@example.com:22/b", "ssh://git@example.com:22/b", None, "");
        check("git://example.com/b#x%2Fy", "git://example.com/b", Some("x/y"), "");
        check("github.com/user/repo#dev", "https://github.com/user/repo", Some("dev"), "");
        check(
            "HTTPS://example.com/b.git?tag=v1&subdir=d",
            "https://example.com/b.git",
            Some("refs/tags/v1"),
            "d",
        );
        check(
            "https://example.com/b.git?branch=refs/heads/x#",
            "https://example.com/b.git",
            Some("refs/heads/x"),
            "",
        );
        let git = git_of("git@example.com:b?checksum=0aF&keep-git-dir&submodules=false");
        assert_eq!(
            (git.checksum.as_deref(), git.keep_git_dir, git.submodules),
            (Some("0aF"), Some(true), Some(false))
        );
        let git = git_of("git@example.com:b?checksum=aa&fetch-by-commit&mtime=commit");
        assert_eq!((git.fetch_by_commit, git.commit_times), (true, Some(true)));
    }

    #[test]
    fn downloads_and_paths() {
        let url = "https://example.com/a.tar.gz?x=1#y";
        assert_eq!(source(url), Ok(Some(Remote::Http(url.to_owned()))));
        for path in
            [".", "a/b", "github.com/user/repo", "a@b", "./git@x:y", "c:\\x", "ftp://x/y", "user@host"]
        {
            assert_eq!(source(path), Ok(None), "{path}");
        }
        assert_eq!(context("-"), Ok(None));
    }

    #[test]
    fn secrets_are_hidden() {
        assert_eq!(redacted("https://me:pa@ss@h/a@b?c"), "https://xxxxx:xxxxx@h/a@b?c");
        assert_eq!(redacted("ssh://git@h/a"), "ssh://xxxxx@h/a");
        assert_eq!(redacted("https://h/a@b"), "https://h/a@b");
        assert_eq!(redacted("git@h:a"), "git@h:a");
    }

    #[test]
    fn users_are_taken_out() {
        let of = |text: &str| without_user(text);
        let user = |name: &str, password: &str| Some((name.to_owned(), password.to_owned()));
        assert_eq!(of("https://me:p%40s%zz@h:8/a"), ("https://h:8/a".to_owned(), user("me", "p%40s%zz")));
        assert_eq!(of("https://me:p%40s@h/a@b"), ("https://h/a@b".to_owned(), user("me", "p@s")));
        assert_eq!(of("http://token@h/a"), ("http://h/a".to_owned(), user("token", "")));
        for other in ["https://h/a@b", "ssh://git@h/a", "git@h:a"] {
            assert_eq!(of(other), (other.to_owned(), None));
        }
    }

    #[test]
    fn nothing_is_an_option() {
        check_error("https://example.com/b.git#--upload-pack=touch x", "it has a character ' '");
        check_error("https://example.com/b.git#-x", "the reference \"-x\" begins with '-'");
        check_error("https://example.com/b.git?ref=%2Dx", "the reference \"-x\" begins with '-'");
        check_error("ssh://-oProxyCommand=x/b", "its host begins with '-'");
        check_error("ssh://git@-oProxyCommand=x/b", "its host begins with '-'");
        check_error("git@-host:b", "its host begins with '-'");
        check_error("-x@host:b", "it begins with '-'");
        check_error("https://example.com/b.git#a%0Ab", "it has a character '\\n'");
        check_error("https:///b.git", "it has no host");
        check_error("git@host:-b", "its path begins with '-'");
        check_error("ssh://%2DoProxyCommand=x/b", "its host has a character '%'");
    }

    #[test]
    fn a_reference_is_one_name() {
        for reference in ["a:refs/heads/b", "a..b", "a^{}", "a~1", "a*", "a@{1}", "a\\b", "[a]"] {
            let text = format!("git@h:b?ref={reference}");
            check_error(&text, &format!("{reference:?} is no name of a branch, tag or commit"));
        }
        check_error("git@h:b#a^:c", "\"a^\" is no name of a branch, tag or commit");
    }

    #[test]
    fn mistakes() {
        check_error("git@h:b?ref=a#b", "ref conflicts: \"b\" vs \"a\"");
        check_error("git@h:b?tag=a&branch=b", "branch conflicts with tag");
        check_error("git@h:b?subdir=a#x:b", "subdir conflicts: \"b\" vs \"a\"");
        check_error("git@h:b?ref", "query \"ref\" has no value");
        check_error("git@h:b?ref=a&ref=a", "query \"ref\" has multiple values");
        check_error("git@h:b?what=a", "unexpected query \"what\"");
        check_error("git@h:b?submodules=maybe", "invalid submodules value: \"maybe\"");
        check_error("git@h:b?mtime=now", "invalid mtime value: \"now\" (must be \"checkout\" or \"commit\")");
        check_error("git@h:b?checksum=xyz", "the checksum of a repository is a commit's hexadecimal digits");
        check_error("git@h:b#%zz", "invalid URL escape in \"%zz\"");
    }
}
