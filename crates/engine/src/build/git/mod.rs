//! Repositories: which commit a name stands for, and its files in a layer. Done by the host's `git`, as BuildKit does it.
//!
//! ```text
//! find  ── ls-remote ──▶ Found: object, full name        (nothing for a name that is a commit)
//! fill  ── init, fetch --depth=1 NAME ──▶ is it still that object? else fetch the object
//!       ── ls-tree ──▶ not too much? ── checkout ── submodule update
//!       ── subdirectory, by names of directories alone ──renamed──▶ the layer
//! ```
//!
//! A server that can't give a single commit is asked for all; one that has no shallow history for its whole. All is done in a directory
//! beside the layer, which goes with it: nothing is left of a build that is told to stop, nor of a killed daemon.
//!
//! **Invariant:** what is looked at after git has written it is reached through `RootDir`, and no symlink in it is a way: not to the
//! subdirectory (CVE-2026-33748), not from a submodule.

mod access;
mod command;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use palan_builder::backend::{StepError, Stream};
use palan_builder::cancel::Cancel;
use palan_builder::graph::Remote;
use palan_context::refs::{self, Found};
use palan_context::remote::redacted;
use palan_context::{Ignore, WalkError, walk};
use palan_linux::path::{FileKind, RootDir, Time};
use palan_store::{Limits, NewLayer};
use tokio::runtime::Handle;

use self::access::Access;
use self::command::{CommandError, Git, Host};
use super::request::BuildClient;
use crate::engine::Engine;

/// What one is asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Wanted<'a> {
    remote: &'a str,
    reference: Option<&'a str>,
    checksum: Option<&'a str>,
    subdirectory: &'a str,
    keep_git_dir: bool,
    submodules: bool,
    commit_times: bool,
    fetch_by_commit: bool,
}

impl<'a> Wanted<'a> {
    /// None: it is no repository.
    pub(super) fn of(remote: &'a Remote) -> Option<Self> {
        match remote {
            Remote::Http { .. } => None,
            Remote::Git {
                remote,
                reference,
                checksum,
                subdirectory,
                keep_git_dir,
                submodules,
                commit_times,
                fetch_by_commit,
            } => Some(Self {
                remote,
                reference: reference.as_deref(),
                checksum: checksum.as_deref(),
                subdirectory,
                keep_git_dir: *keep_git_dir,
                submodules: *submodules,
                commit_times: *commit_times,
                fetch_by_commit: *fetch_by_commit,
            }),
        }
    }

    /// What a source policy knows it by, as BuildKit has it.
    pub(super) fn identifier(&self) -> String {
        let place = match self.remote.split_once("://") {
            Some((_, rest)) => {
                let end = rest.find('/').unwrap_or(rest.len());
                let (host, path) = rest.split_at(end);
                format!("{}{path}", host.rsplit('@').next().unwrap_or(host))
            }
            None => {
                let (host, path) = self.remote.split_once(':').unwrap_or((self.remote, ""));
                format!("{}/{}", host.rsplit('@').next().unwrap_or(host), path.trim_start_matches('/'))
            }
        };
        let mut identifier = format!("git://{place}");
        if self.reference.is_some() || !self.subdirectory.is_empty() {
            identifier.push('#');
            identifier.push_str(self.reference.unwrap_or_default());
        }
        if !self.subdirectory.is_empty() {
            identifier.push(':');
            identifier.push_str(self.subdirectory);
        }
        identifier
    }

    /// What its files depend on, beside what it says itself.
    pub(super) fn key(&self, found: &Found) -> String {
        match self.keep_git_dir {
            true => format!("{} {}", found.object, found.name.as_deref().unwrap_or_default()),
            false => found.target().to_owned(),
        }
    }

    /// Its address for people.
    pub(super) fn shown(&self) -> String {
        redacted(self.remote)
    }

    fn check(&self, found: &Found) -> Result<(), StepError> {
        let Some(sum) = self.checksum.map(str::to_ascii_lowercase) else { return Ok(()) };
        let peeled = found.peeled.as_deref();
        if found.object.starts_with(&sum) || peeled.is_some_and(|peeled| peeled.starts_with(&sum)) {
            return Ok(());
        }
        let or = peeled.map(|peeled| format!(" or {peeled}")).unwrap_or_default();
        Err(StepError::other(format!("expected checksum to match {sum}, got {}{or}", found.object)))
    }
}

/// What fetching needs.
pub(super) struct Repositories<'a> {
    pub(super) engine: &'a Engine,
    pub(super) client: &'a Arc<dyn BuildClient>,
    pub(super) runtime: &'a Handle,
    /// The build's own directory.
    pub(super) directory: &'a Path,
    pub(super) cancel: &'a Cancel,
}

/// Sockets of this process's builds have different directories.
static NEXT: AtomicUsize = AtomicUsize::new(0);

impl Repositories<'_> {
    fn reach(&self, remote: &str) -> Result<(Access, Host), StepError> {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let directory = self.directory.join(format!("ssh-{number}"));
        let access = Access::ask(remote, self.client, &directory, self.runtime)?;
        let socket = access.socket();
        let host = Host::find(self.engine, access::is_ssh(remote), socket.as_deref(), &access.settings)
            .map_err(StepError::other)?;
        Ok((access, host))
    }

    /// What a name stands for now.
    pub(super) fn find(&self, wanted: &Wanted<'_>) -> Result<Found, StepError> {
        let found = self.look(wanted)?;
        wanted.check(&found)?;
        Ok(found)
    }

    fn look(&self, wanted: &Wanted<'_>) -> Result<Found, StepError> {
        if let Some(digits) = wanted.reference.filter(|name| refs::is_object(name)) {
            return Ok(Found::commit(digits));
        }
        if wanted.fetch_by_commit {
            let digits = wanted.checksum.map(str::to_ascii_lowercase).unwrap_or_default();
            if !refs::is_object(&digits) {
                return Err(StepError::other("fetch-by-commit requires a full commit SHA checksum"));
            }
            // As BuildKit has it: without more a name is a branch's.
            let name = wanted.reference.map(|name| match name.starts_with("refs/") {
                true => name.to_owned(),
                false => format!("refs/heads/{name}"),
            });
            return Ok(Found { name, ..Found::commit(&digits) });
        }
        let (access, host) = self.reach(wanted.remote)?;
        let git = host.at(self.directory, self.cancel, &|_, _| {});
        let failed = |error| fetch_failed(wanted, error);
        let Some(name) = wanted.reference else {
            let said = git.run(&["ls-remote", "--symref", "--", &access.remote, "HEAD"]).map_err(failed)?;
            return refs::head(&said).ok_or_else(|| {
                let shown = wanted.shown();
                StepError::other(format!("could not find default branch for repository: {shown}"))
            });
        };
        let peeled = format!("{name}^{{}}");
        let said = git.run(&["ls-remote", "--", &access.remote, name, &peeled]).map_err(failed)?;
        refs::named(&said, name).ok_or_else(|| {
            StepError::other(format!("repository {} does not contain ref {name}", wanted.shown()))
        })
    }

    /// Puts files into an empty layer.
    pub(super) fn fill(
        &self,
        wanted: &Wanted<'_>,
        found: &Found,
        layer: &mut NewLayer,
        output: &dyn Fn(Stream, &[u8]),
    ) -> Result<(), StepError> {
        let (access, host) = self.reach(wanted.remote)?;
        let files = layer.work().map_err(StepError::other)?.join("files");
        palan_stdx::fs::create_dir(&files, 0o755).map_err(StepError::other)?;
        let root = RootDir::open(&files).map_err(StepError::other)?;
        root.set_mode("/", 0o755).map_err(StepError::other)?;
        let checkout = Checkout { wanted, found, git: host.at(&files, self.cancel, output), root };
        let commit = checkout.fetch(&access.remote)?;
        checkout.measure(&commit)?;
        checkout.files(&commit)?;
        let keeps = wanted.keep_git_dir && wanted.subdirectory.is_empty();
        let time = match wanted.commit_times {
            true => Some(checkout.time(&commit)?),
            false => None,
        };
        match keeps {
            true => checkout.tidy()?,
            false => checkout.strip()?,
        }
        let source = checkout.subdirectory()?;
        for entry in source.read_dir(".").map_err(StepError::other)? {
            let target = layer.root().as_directory();
            source.as_directory().rename(&entry.name, target, &entry.name).map_err(StepError::other)?;
        }
        match time {
            Some(time) => set_times(layer.root(), time),
            None => Ok(()),
        }
    }
}

/// The text of BuildKit, and what may help.
fn fetch_failed(wanted: &Wanted<'_>, error: CommandError) -> StepError {
    let said = match error {
        CommandError::Cancelled => return StepError::Cancelled,
        CommandError::Failed { said } => format!("git stderr:\n{said}"),
        other => other.to_string(),
    };
    let has = |text: &str| said.contains(text);
    let hint = if has("terminal prompts disabled") || has("Authentication failed") {
        "\nThe repository wants credentials: give the secret GIT_AUTH_TOKEN (--secret id=GIT_AUTH_TOKEN)."
    } else if has("unable to update url base from redirection") || has("error: 301") || has("error: 302") {
        "\nThe repository has moved: no redirect is followed with credentials; use its new address."
    } else {
        ""
    };
    StepError::other(format!("failed to fetch remote {}: {said}{hint}", wanted.shown()))
}

/// A repository while its files are fetched.
struct Checkout<'a> {
    wanted: &'a Wanted<'a>,
    found: &'a Found,
    git: Git<'a>,
    root: RootDir,
}

impl Checkout<'_> {
    fn failed(&self, doing: &'static str) -> impl Fn(CommandError) -> StepError {
        let shown = self.wanted.shown();
        move |error| match error {
            CommandError::Cancelled => StepError::Cancelled,
            other => StepError::other(format!("failed to {doing} {shown}: {other}")),
        }
    }

    /// Fetches what was found; its commit.
    fn fetch(&self, remote: &str) -> Result<String, StepError> {
        let failed = self.failed("prepare the checkout of");
        let format = if self.found.object.len() == 64 { "sha256" } else { "sha1" };
        let format = format!("--object-format={format}");
        self.git.run(&["init", "--quiet", &format]).map_err(&failed)?;
        self.git.run(&["remote", "add", "--", "origin", remote]).map_err(&failed)?;
        let object = &self.found.object;
        match self.found.name.as_deref().filter(|_| !self.wanted.fetch_by_commit) {
            Some(name) => {
                self.shallow(&format!("+{name}:{name}")).map_err(|error| fetch_failed(self.wanted, error))?;
                let fetched = self.git.run(&["rev-parse", "--verify", name]).map_err(&failed)?;
                if fetched.trim() != object {
                    // It was moved meanwhile.
                    self.fetch_object(object)?;
                }
            }
            None => self.fetch_object(object)?,
        }
        if let Some(name) = self.found.name.as_deref().filter(|_| self.wanted.keep_git_dir) {
            self.git.run(&["update-ref", "--no-deref", name, object]).map_err(&failed)?;
        }
        let commit =
            self.git.run(&["rev-parse", "--verify", &format!("{object}^{{commit}}")]).map_err(&failed)?;
        Ok(commit.trim().to_owned())
    }

    fn fetch_object(&self, object: &str) -> Result<(), StepError> {
        let refused = match self.shallow(object) {
            Ok(()) => return Ok(()),
            Err(CommandError::Failed { said }) => said,
            Err(error) => return Err(fetch_failed(self.wanted, error)),
        };
        // A server need not give what no name stands for; then it is in the history of one, or nowhere.
        if !refused.contains("not our ref") && !refused.contains("unadvertised object") {
            return Err(fetch_failed(self.wanted, CommandError::Failed { said: refused }));
        }
        let all = ["+refs/heads/*:refs/remotes/origin/*", "+refs/tags/*:refs/tags/*"];
        let is_shallow = self.root.symlink_metadata(".git/shallow").is_ok();
        let options: &[&str] = if is_shallow { &["--unshallow"] } else { &[] };
        self.fetch_refs(options, &all).map_err(|error| fetch_failed(self.wanted, error))?;
        match self.git.run(&["cat-file", "-e", &format!("{object}^{{commit}}")]) {
            Ok(_) => Ok(()),
            Err(CommandError::Cancelled) => Err(StepError::Cancelled),
            Err(_) => Err(StepError::other(format!(
                "repository {} does not contain commit {object}",
                self.wanted.shown()
            ))),
        }
    }

    /// Fetches without history, from a server that can do so.
    fn shallow(&self, what: &str) -> Result<(), CommandError> {
        match self.fetch_refs(&["--depth=1"], &[what]) {
            Err(CommandError::Failed { said }) if said.contains("shallow") || said.contains("--depth") => {
                self.fetch_refs(&[], &[what])
            }
            other => other,
        }
    }

    fn fetch_refs(&self, options: &[&str], what: &[&str]) -> Result<(), CommandError> {
        let mut arguments =
            vec!["fetch", "--no-tags", "--no-recurse-submodules", "--update-head-ok", "--force"];
        arguments.push("--no-write-fetch-head");
        arguments.extend(options);
        arguments.extend(["--", "origin"]);
        arguments.extend(what);
        self.git.run(&arguments).map(drop)
    }

    /// Refuses a tree that is large for the sake of it: a few objects can stand for any number of files.
    fn measure(&self, commit: &str) -> Result<(), StepError> {
        let most = Limits::default().entries;
        let mut entries = 0;
        let listed = self.git.run_with(&["ls-tree", "-r", "-z", "--name-only", commit], &mut |bytes| {
            entries += memchr::memchr_iter(0, bytes).count() as u64;
            entries <= most
        });
        match listed {
            Err(CommandError::Talkative) => Err(StepError::other(format!(
                "repository {} has more than {most} files",
                self.wanted.shown()
            ))),
            other => other.map_err(self.failed("read")),
        }
    }

    fn files(&self, commit: &str) -> Result<(), StepError> {
        self.git
            .run(&["checkout", "--quiet", "--force", "--detach", commit])
            .map_err(self.failed("checkout remote"))?;
        let has_modules = self.root.symlink_metadata(".gitmodules").is_ok();
        if !self.wanted.submodules || !has_modules {
            return Ok(());
        }
        let update = ["submodule", "update", "--init", "--recursive", "--checkout", "--force"];
        let shallow: Vec<&str> = update.into_iter().chain(["--depth=1"]).collect();
        let updated = match self.git.run(&shallow) {
            Err(CommandError::Failed { said }) if is_shallow_refused(&said) => self.git.run(&update),
            other => other,
        };
        updated.map(drop).map_err(self.failed("update submodules for"))
    }

    fn time(&self, commit: &str) -> Result<Time, StepError> {
        let said = self.git.run(&["log", "-1", "--format=%ct", commit]).map_err(self.failed("read"))?;
        let seconds = said.trim().parse().map_err(StepError::other)?;
        Ok(Time { seconds, nanoseconds: 0 })
    }

    /// Takes git's own files away. No file of a repository is called `.git`: git refuses to check that out. In a submodule it is a
    /// file that says where on this host its repository was.
    fn strip(&self) -> Result<(), StepError> {
        self.root.remove_all(".git").map_err(StepError::other)?;
        if !self.wanted.submodules {
            return Ok(());
        }
        let mut found: Vec<PathBuf> = Vec::new();
        let walked = walk::<WalkError>(&self.root, &Ignore::default(), &mut |entry| {
            if entry.path.file_name().is_some_and(|name| name == ".git") {
                found.push(entry.path.to_owned());
            }
            Ok(())
        });
        walked.map_err(StepError::other)?;
        found.iter().try_for_each(|path| self.root.remove_all(path)).map_err(StepError::other)
    }

    /// Takes away what says only how it was fetched.
    fn tidy(&self) -> Result<(), StepError> {
        for path in [".git/FETCH_HEAD", ".git/ORIG_HEAD", ".git/logs"] {
            self.root.remove_all(path).map_err(StepError::other)?;
        }
        Ok(())
    }

    /// The directory that is wanted, to which nothing but directories leads.
    fn subdirectory(&self) -> Result<RootDir, StepError> {
        let wanted = self.wanted.subdirectory;
        let mut path = PathBuf::from(".");
        for name in wanted.split('/').filter(|name| !name.is_empty()) {
            path.push(name);
            match self.root.symlink_metadata(&path) {
                Ok(found) if found.kind == FileKind::Directory => {}
                Ok(_) => {
                    return Err(StepError::other(format!(
                        "invalid subdir {wanted}: git subpath {wanted:?} contains non-directory {:?}",
                        path.strip_prefix(".").unwrap_or(&path)
                    )));
                }
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let shown = self.wanted.shown();
                    return Err(StepError::other(format!(
                        "invalid subdir {wanted}: repository {shown} has no such directory"
                    )));
                }
                Err(error) => return Err(StepError::other(error)),
            }
        }
        self.root.open_root(&path).map_err(StepError::other)
    }
}

fn is_shallow_refused(said: &str) -> bool {
    let texts = ["shallow", "--depth", "did not contain", "not our ref", "unadvertised object"];
    texts.iter().any(|text| said.contains(text))
}

fn set_times(root: &RootDir, time: Time) -> Result<(), StepError> {
    let mut failure = None;
    let walked = walk::<WalkError>(root, &Ignore::default(), &mut |entry| {
        let (directory, name) = entry.place();
        if let Err(error) = directory.set_times(name, time, time) {
            failure.get_or_insert(error);
        }
        Ok(())
    });
    walked.map_err(StepError::other)?;
    match failure {
        Some(error) => Err(StepError::other(error)),
        None => {
            let time = rustix::fs::Timespec { tv_sec: time.seconds, tv_nsec: 0 };
            let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
            rustix::fs::futimens(root.as_directory(), &times)
                .map_err(|errno| StepError::other(std::io::Error::from(errno)))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(address: &str) -> Remote {
        match palan_context::remote::context(address) {
            Ok(Some(palan_context::remote::Remote::Git(git))) => Remote::of_git(git),
            other => panic!("{address}: {other:?}"),
        }
    }

    #[test]
    fn policies_know_repositories_by_their_places() {
        let of = |address: &str| Wanted::of(&wanted(address)).map(|wanted| wanted.identifier());
        for (address, identifier) in [
            ("https://me:secret@h/a.git", "git://h/a.git"),
            ("https://h:8443/a.git#main", "git://h:8443/a.git#main"),
            ("git@h:a/b.git#:d/e", "git://h/a/b.git#:d/e"),
            ("ssh://git@h/a#v1:d", "git://h/a#v1:d"),
            ("github.com/a/b", "git://github.com/a/b"),
        ] {
            assert_eq!(of(address).as_deref(), Some(identifier));
        }
    }

    #[test]
    fn checksums() {
        let (object, peeled) = ("ab".repeat(20), "cd".repeat(20));
        let found = Found { object: object.clone(), peeled: Some(peeled), name: None };
        let check = |sum: &str| {
            let remote = wanted(&format!("git@h:a?checksum={sum}"));
            Wanted::of(&remote).expect("a repository").check(&found).map_err(|error| error.to_string())
        };
        assert_eq!((check("abab"), check("CDcd")), (Ok(()), Ok(())));
        let error = check("ba").expect_err("another commit");
        assert!(
            error.starts_with(&format!("expected checksum to match ba, got {object} or cdcd")),
            "{error}"
        );
    }
}
