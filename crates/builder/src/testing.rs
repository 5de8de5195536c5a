//! A backend in a temporary directory, which runs a few words instead of programs.
//!
//! A snapshot is a directory with all its files; the digest of its content is its only layer. Commands are lines of
//! `write <path> <text>`, `copy <path> <path>`, `wait <name>` (for another command that does the same), `fail <code>` and `hang`.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex};

use palan_context::Ignore;
use palan_linux::path::RootDir;
use palan_oci::Digest;

use crate::backend::{
    Backend, Bringing, Command, Imports, Layers, Material, Runner, Snapshot, Sources, StepError, Stream,
};
use crate::cache::Cache;
use crate::cancel::Cancel;
use crate::content::{self, Depth, Owners};
use crate::graph::{Copy, MountKind, Remote};

pub(crate) struct Fake {
    directory: tempfile::TempDir,
    /// What was executed.
    pub(crate) log: Mutex<Vec<String>>,
    /// What is elsewhere.
    pub(crate) remote_content: Mutex<String>,
    /// What a cache elsewhere knows, and whether it has the layers, too.
    pub(crate) elsewhere: Mutex<BTreeMap<Digest, Snapshot>>,
    pub(crate) is_reachable: AtomicBool,
    /// Results of the cache are not taken.
    pub(crate) refuses_cache: AtomicBool,
    waiting: Mutex<BTreeMap<String, u32>>,
    changed: Condvar,
    hanging: Condvar,
}

impl Fake {
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        for name in ["context", "snapshots", "work"] {
            fs::create_dir(directory.path().join(name)).expect("a directory");
        }
        let fake = Self {
            directory,
            log: Mutex::default(),
            remote_content: Mutex::default(),
            elsewhere: Mutex::default(),
            is_reachable: AtomicBool::new(true),
            refuses_cache: AtomicBool::new(false),
            waiting: Mutex::default(),
            changed: Condvar::new(),
            hanging: Condvar::new(),
        };
        fs::create_dir(fake.path_of(&Snapshot::default())).expect("a directory");
        fake
    }

    pub(crate) fn backend(&self) -> Backend<'_> {
        Backend { sources: self, layers: self, runner: self, imports: self }
    }

    pub(crate) fn cache(&self) -> Cache {
        Cache::open(self.directory.path().join("build")).expect("a cache")
    }

    /// A file of the main context.
    pub(crate) fn context_file(&self, name: &str) -> PathBuf {
        let path = self.directory.path().join("context").join(name);
        fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        path
    }

    /// What was executed since the last call.
    pub(crate) fn executed(&self) -> Vec<String> {
        let mut log = std::mem::take(&mut *self.log.lock().expect("a log"));
        log.sort();
        log
    }

    pub(crate) fn read(&self, files: &Material, path: &str) -> String {
        let Material::Snapshot(snapshot) = files else { panic!("{files:?}") };
        fs::read_to_string(self.path_of(snapshot).join(path)).expect(path)
    }

    pub(crate) fn forget(&self, files: &Material) {
        let Material::Snapshot(snapshot) = files else { panic!("{files:?}") };
        fs::remove_dir_all(self.path_of(snapshot)).expect("a snapshot");
    }

    fn path_of(&self, snapshot: &Snapshot) -> PathBuf {
        let name = snapshot.layers.last().map_or_else(|| "empty".to_owned(), Digest::hex);
        self.directory.path().join("snapshots").join(name)
    }

    /// Moves all results to where only a cache elsewhere has them, and forgets the cache here.
    pub(crate) fn export(&self, results: Vec<crate::solver::Keyed>) {
        let (here, there) =
            (self.directory.path().join("snapshots"), self.directory.path().join("elsewhere"));
        fs::rename(&here, there).expect("a directory");
        fs::create_dir_all(self.path_of(&Snapshot::default())).expect("a directory");
        fs::remove_dir_all(self.directory.path().join("build")).expect("a cache");
        let mut elsewhere = self.elsewhere.lock().expect("a lock");
        for keyed in results {
            elsewhere.extend(keyed.keys.into_iter().map(|key| (key, keyed.snapshot.clone())));
        }
    }

    fn note(&self, text: String) {
        self.log.lock().expect("a log").push(text);
    }

    /// A copy of a snapshot, changed.
    fn change(
        &self,
        base: &Snapshot,
        change: impl FnOnce(&Path) -> Result<(), StepError>,
    ) -> Result<Snapshot, StepError> {
        let work = tempfile::tempdir_in(self.directory.path().join("work")).expect("a directory");
        copy_into(&self.path_of(base), work.path());
        change(work.path())?;
        let root = RootDir::open(work.path()).expect("a root");
        let digest = content::digest(&root, &["."], Depth::One, &Ignore::default(), Owners::Root, None)
            .expect("a digest");
        let snapshot = Snapshot { layers: vec![digest] };
        let path = self.path_of(&snapshot);
        if !path.exists() {
            fs::rename(work.path(), path).expect("a snapshot");
        }
        Ok(snapshot)
    }

    fn root(&self, material: &Material) -> PathBuf {
        match material {
            Material::Snapshot(snapshot) => self.path_of(snapshot),
            Material::Context(name) if name.is_empty() => self.directory.path().join("context"),
            Material::Context(name) => self.directory.path().join(name),
        }
    }
}

fn copy_into(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("entries") {
        let entry = entry.expect("an entry");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            copy_into(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).expect("a copy");
        }
    }
}

fn address(remote: &Remote) -> &str {
    match remote {
        Remote::Http { url, .. } => url,
        Remote::Git { remote, .. } => remote,
    }
}

fn below(root: &Path, path: &str) -> PathBuf {
    root.join(path.trim_start_matches('/'))
}

impl Sources for Fake {
    fn context(&self, name: &str) -> Result<RootDir, StepError> {
        RootDir::open(self.root(&Material::Context(name.to_owned()))).map_err(StepError::other)
    }

    fn pin(&self, remote: &Remote, _cancel: &Cancel) -> Result<Digest, StepError> {
        self.note(format!("pin {}", address(remote)));
        Ok(Digest::of(self.remote_content.lock().expect("a lock").as_bytes()))
    }

    fn remote(
        &self,
        remote: &Remote,
        _pinned: Digest,
        _cancel: &Cancel,
        _output: &dyn Fn(Stream, &[u8]),
    ) -> Result<Snapshot, StepError> {
        self.note(format!("fetch {}", address(remote)));
        self.change(&Snapshot::default(), |root| {
            let content = self.remote_content.lock().expect("a lock");
            fs::write(root.join("remote"), content.as_bytes()).expect("a file");
            Ok(())
        })
    }

    fn image(&self, name: &str, _manifest: Digest, _cancel: &Cancel) -> Result<Snapshot, StepError> {
        self.note(format!("pull {name}"));
        self.change(&Snapshot::default(), |root| {
            fs::write(root.join("image"), name).expect("a file");
            Ok(())
        })
    }
}

impl Layers for Fake {
    fn has(&self, snapshot: &Snapshot) -> bool {
        !self.refuses_cache.load(Ordering::SeqCst) && self.hold(snapshot)
    }

    fn hold(&self, snapshot: &Snapshot) -> bool {
        self.path_of(snapshot).exists()
    }

    fn open(&self, snapshot: &Snapshot) -> Result<RootDir, StepError> {
        RootDir::open(self.path_of(snapshot)).map_err(StepError::other)
    }

    fn copy(
        &self,
        base: &Snapshot,
        inputs: &[Material],
        copy: &Copy,
        _cancel: &Cancel,
    ) -> Result<Snapshot, StepError> {
        let names: Vec<&str> = copy.sources.iter().map(|source| source.path.as_str()).collect();
        self.note(format!("copy {} to {}", names.join(" "), copy.destination));
        self.change(base, |target| {
            for source in &copy.sources {
                let source_root = self.root(&inputs[source.input]);
                let root = RootDir::open(&source_root).map_err(StepError::other)?;
                for path in content::select(&root, &source.path, Depth::One).map_err(StepError::other)? {
                    let (from, to) = (source_root.join(&path), below(target, &copy.destination));
                    if from.is_dir() {
                        copy_into(&from, &to);
                    } else {
                        let is_directory = copy.destination.ends_with('/');
                        let to = if is_directory { to.join(path.file_name().expect("a name")) } else { to };
                        fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
                        fs::copy(from, to).expect("a copy");
                    }
                }
            }
            for (name, content) in &copy.inline {
                fs::write(below(target, &copy.destination).join(name), content).expect("a file");
            }
            Ok(())
        })
    }

    fn make_directory(&self, base: &Snapshot, path: &str, _user: &str) -> Result<Snapshot, StepError> {
        self.note(format!("mkdir {path}"));
        self.change(base, |root| {
            fs::create_dir_all(below(root, path)).expect("a directory");
            Ok(())
        })
    }
}

impl Imports for Fake {
    fn known(&self, key: &Digest) -> Option<Snapshot> {
        self.elsewhere.lock().expect("a lock").get(key).cloned()
    }

    fn bring(&self, key: &Digest, told: &dyn Fn(Bringing<'_>), _cancel: &Cancel) -> Option<Snapshot> {
        let found = self.known(key)?;
        self.note("bring".to_owned());
        told(Bringing { layer: "layer", status: "downloading", current: 0, total: 1, done: false });
        if !self.is_reachable.load(Ordering::SeqCst) {
            return None;
        }
        let path = self.path_of(&found);
        if !path.exists() {
            let kept = self.directory.path().join("elsewhere").join(path.file_name().expect("a name"));
            copy_into(&kept, &path);
        }
        Some(found)
    }
}

impl Runner for Fake {
    fn run(&self, command: &Command<'_>, output: &dyn Fn(Stream, &[u8])) -> Result<Snapshot, StepError> {
        let text = command.run.args.last().cloned().unwrap_or_default();
        self.note(format!("run {text}"));
        output(Stream::Stdout, text.as_bytes());
        self.change(command.base, |root| {
            let mut mounted = BTreeMap::new();
            for mount in &command.run.mounts {
                if let (MountKind::Bind { input, source }, Some(target)) = (&mount.kind, &mount.target) {
                    mounted.insert(target.clone(), below(&self.root(&command.inputs[*input]), source));
                }
            }
            let find = |path: &str| {
                let under = mounted.iter().find_map(|(target, source)| {
                    Some(source.join(path.strip_prefix(target)?.strip_prefix('/')?))
                });
                under.unwrap_or_else(|| below(root, path))
            };
            for line in text.lines() {
                let words: Vec<&str> = line.split(' ').collect();
                match words.as_slice() {
                    ["write", path, text] => fs::write(find(path), text).map_err(StepError::other)?,
                    ["copy", from, to] => {
                        fs::copy(find(from), find(to)).map_err(StepError::other)?;
                    }
                    ["wait", name] => {
                        let mut waiting = self.waiting.lock().expect("a lock");
                        *waiting.entry((*name).to_owned()).or_default() += 1;
                        self.changed.notify_all();
                        while waiting[*name] < 2 {
                            waiting = self.changed.wait(waiting).expect("a lock");
                        }
                    }
                    ["hang"] => {
                        let told = Mutex::new(());
                        let mut guard = told.lock().expect("a lock");
                        while !command.cancel.is_cancelled() {
                            let pause = std::time::Duration::from_millis(5);
                            guard = self.hanging.wait_timeout(guard, pause).expect("a lock").0;
                        }
                        return Err(StepError::Cancelled);
                    }
                    ["fail", code] => {
                        let code = code.parse().expect("a code");
                        return Err(StepError::ExitCode { command: text.clone(), code });
                    }
                    other => panic!("no such command: {other:?}"),
                }
            }
            Ok(())
        })
    }
}
