//! What one build takes from elsewhere: repositories and downloads, for `ADD` and as contexts.
//!
//! Each is *pinned* once for a build, to a commit or to a digest, and then fetched. The files of a commit are a layer of the cache, so that
//! who wants the same commit again, under whatever name, fetches nothing; a download is asked for each time.

use std::collections::{BTreeMap, HashMap};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use palan_builder::backend::{Snapshot, StepError, Stream};
use palan_builder::cache::Record;
use palan_builder::cancel::Cancel;
use palan_builder::graph::{Op, Remote};
use palan_builder::placement::Placed;
use palan_context::Ignore;
use palan_context::refs::Found;
use palan_context::remote::{self, redacted};
use palan_linux::path::{RootDir, Time};
use palan_oci::Digest;
use palan_oci::digest::Hasher;
use palan_store::Lease;
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::copy::{Copier, Looks};
use super::git::{Repositories, Wanted};
use super::request::{BuildClient, BuildRequest};
use crate::engine::Engine;
use crate::image::registry_error;
use crate::{Error, Result};

/// The name of the file that a context by URL has, as BuildKit has it.
const DOWNLOAD: &str = "context";

/// Of so many parts of the file system one stays free of downloads.
const FREE_PART: u64 = 20;

/// After so many bytes it is looked at again.
const LOOK_AFTER: u64 = 64 << 20;

/// What an address of a context means: a repository, or a file. None: it is no address.
pub fn of_context(address: &str) -> Result<Option<Remote>> {
    let found = remote::context(address)
        .map_err(|source| Error::invalid("the build context can't be fetched").with_source(source))?;
    Ok(found.map(|found| match found {
        remote::Remote::Git(git) => Remote::of_git(git),
        remote::Remote::Http(url) => Remote::Http { url, name: DOWNLOAD.to_owned(), checksum: None },
    }))
}

/// The contexts of a build that are elsewhere, with what its arguments say about the main one.
pub(super) fn contexts(request: &BuildRequest) -> BTreeMap<String, Remote> {
    let mut contexts = request.remote_contexts.clone();
    if let Some(Remote::Git { keep_git_dir, commit_times, .. }) = contexts.get_mut("") {
        let argument = |name: &str| request.args.get(name).map_or("", String::as_str);
        *keep_git_dir |=
            matches!(argument("BUILDKIT_CONTEXT_KEEP_GIT_DIR"), "1" | "t" | "T" | "true" | "TRUE" | "True");
        *commit_times |= !argument("SOURCE_DATE_EPOCH").is_empty();
    }
    contexts
}

/// A file that was downloaded for this build.
#[derive(Debug, Clone)]
struct Downloaded {
    path: PathBuf,
    digest: Digest,
    modified: Time,
}

/// What a build has from elsewhere.
pub(super) struct Remotes<'a> {
    engine: &'a Engine,
    lease: &'a Lease,
    client: Arc<dyn BuildClient>,
    runtime: Handle,
    directory: PathBuf,
    downloads: Mutex<HashMap<String, Downloaded>>,
    found: Mutex<HashMap<String, Found>>,
}

impl<'a> Remotes<'a> {
    pub(super) fn new(
        engine: &'a Engine,
        lease: &'a Lease,
        client: Arc<dyn BuildClient>,
        runtime: Handle,
        directory: PathBuf,
    ) -> Self {
        let (downloads, found) = (Mutex::default(), Mutex::default());
        Self { engine, lease, client, runtime, directory, downloads, found }
    }

    /// What it is now.
    pub(super) fn pin(&self, remote: &Remote, cancel: &Cancel) -> Result<Digest, StepError> {
        match remote {
            Remote::Http { url, checksum, .. } => {
                let found = self.download(url, cancel)?;
                match checksum {
                    Some(wanted) if *wanted != found.digest => Err(StepError::other(format!(
                        "digest mismatch {} (expected: {wanted}) of {}",
                        found.digest,
                        redacted(url)
                    ))),
                    _ => Ok(found.digest),
                }
            }
            Remote::Git { .. } => {
                let wanted = wanted(remote)?;
                let found = self.find(remote, &wanted, cancel)?;
                Ok(Digest::of(wanted.key(&found)))
            }
        }
    }

    /// Its files, and whether they were here.
    pub(super) fn fetch(
        &self,
        remote: &Remote,
        pinned: Digest,
        cancel: &Cancel,
        output: &dyn Fn(Stream, &[u8]),
    ) -> Result<(Snapshot, bool), StepError> {
        match remote {
            Remote::Http { url, name, .. } => Ok((self.downloaded(url, name, pinned, cancel)?, false)),
            Remote::Git { .. } => self.commit(remote, pinned, cancel, output),
        }
    }

    /// Puts copies of the files of a layer into an empty directory, where some may be taken away.
    pub(super) fn copy(&self, files: &Snapshot, into: &RootDir, cancel: &Cancel) -> Result<(), StepError> {
        let found = self.engine.store.layer_dirs(&files.layers, self.lease).map_err(StepError::other)?;
        let directories =
            found.ok_or_else(|| StepError::other("a layer that was there is gone; build again"))?;
        for directory in directories {
            let from = RootDir::open(&directory).map_err(StepError::other)?;
            let all = Placed {
                from: PathBuf::from("."),
                to: PathBuf::from("/"),
                is_directory: true,
                parents: Vec::new(),
            };
            let mut copier = Copier::new(None, into, cancel);
            copier.source(&from, &all, Path::new(""), &Ignore::default(), &Looks::default())?;
            copier.finish()?;
        }
        Ok(())
    }

    fn find(&self, remote: &Remote, wanted: &Wanted<'_>, cancel: &Cancel) -> Result<Found, StepError> {
        let key = format!("{remote:?}");
        let known = self.found.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        self.client.allow(&wanted.identifier()).map_err(StepError::other)?;
        let found = self.repositories(cancel).find(wanted)?;
        self.found.lock().unwrap_or_else(PoisonError::into_inner).insert(key, found.clone());
        Ok(found)
    }

    fn repositories<'b>(&'b self, cancel: &'b Cancel) -> Repositories<'b> {
        Repositories {
            engine: self.engine,
            client: &self.client,
            runtime: &self.runtime,
            directory: &self.directory,
            cancel,
        }
    }

    /// The files of a commit.
    fn commit(
        &self,
        remote: &Remote,
        pinned: Digest,
        cancel: &Cancel,
        output: &dyn Fn(Stream, &[u8]),
    ) -> Result<(Snapshot, bool), StepError> {
        let wanted = wanted(remote)?;
        let found = self.find(remote, &wanted, cancel)?;
        let (store, cache) = (&self.engine.store, self.engine.builds.solver.cache());
        let key = Digest::of(format!("repository {} {pinned}", Op::Remote(remote.clone()).digest()));
        if let Some(record) = cache.get(key)
            && matches!(store.layer_dirs(&record.snapshot.layers, self.lease), Ok(Some(_)))
        {
            return Ok((record.snapshot, true));
        }
        let mut layer = store.new_layer().map_err(StepError::other)?;
        self.repositories(cancel).fill(&wanted, &found, &mut layer, output)?;
        let made = store.keep_layer(layer, None, self.lease).map_err(StepError::other)?;
        let snapshot = Snapshot { layers: vec![made.diff_id] };
        let description = format!("git snapshot for {}", wanted.shown());
        // Without the record it is fetched again next time.
        let _ = cache.put(key, &Record::new(snapshot.clone(), description));
        Ok((snapshot, false))
    }

    /// A layer with a downloaded file.
    fn downloaded(
        &self,
        url: &str,
        name: &str,
        pinned: Digest,
        cancel: &Cancel,
    ) -> Result<Snapshot, StepError> {
        let found = self.download(url, cancel)?;
        if found.digest != pinned {
            return Err(StepError::other(format!("{} has changed during the build", redacted(url))));
        }
        let layer = self.engine.store.new_layer().map_err(StepError::other)?;
        let mut source = palan_stdx::fs::open(&found.path).map_err(StepError::other)?;
        let target = layer.root().create_file(name, 0o600).map_err(StepError::other)?;
        std::io::copy(&mut source, &mut &target).map_err(StepError::other)?;
        drop(target);
        layer.root().set_mode(name, 0o600).map_err(StepError::other)?;
        layer.root().set_times(name, found.modified, found.modified).map_err(StepError::other)?;
        let made = self.engine.store.keep_layer(layer, None, self.lease).map_err(StepError::other)?;
        Ok(Snapshot { layers: vec![made.diff_id] })
    }

    /// Downloads a file, once for the build.
    fn download(&self, url: &str, cancel: &Cancel) -> Result<Downloaded, StepError> {
        let mut downloads = self.downloads.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = downloads.get(url) {
            return Ok(known.clone());
        }
        self.client.allow(url).map_err(StepError::other)?;
        let path = self.directory.join(format!("download-{}", downloads.len()));
        let stop = Arc::new(Notify::new());
        let told = Arc::clone(&stop);
        let _watch = cancel.watch(move || told.notify_one());
        let downloaded = self.runtime.block_on(async {
            tokio::select! {
                downloaded = self.receive(url, path) => downloaded,
                () = stop.notified() => Err(StepError::Cancelled),
            }
        })?;
        downloads.insert(url.to_owned(), downloaded.clone());
        Ok(downloaded)
    }

    async fn receive(&self, url: &str, path: PathBuf) -> Result<Downloaded, StepError> {
        let failed = |error| StepError::other(registry_error(error).report());
        let mut download = self.engine.registry.download(url).await.map_err(failed)?;
        let modified = download.modified().and_then(http_date).unwrap_or_default();
        let mut file = palan_stdx::fs::create_new(&path, 0o600).map_err(StepError::other)?;
        let mut hasher = Hasher::new();
        let mut looked = 0;
        while let Some(piece) = download.next().await.map_err(failed)? {
            hasher.update(&piece);
            file.write_all(&piece).map_err(StepError::other)?;
            if hasher.length() - looked >= LOOK_AFTER {
                looked = hasher.length();
                if is_full(&file) {
                    return Err(StepError::other(format!(
                        "{} is too large: after {looked} bytes the disk is nearly full",
                        redacted(url)
                    )));
                }
            }
        }
        Ok(Downloaded { path, digest: hasher.finish(), modified })
    }
}

fn wanted(remote: &Remote) -> Result<Wanted<'_>, StepError> {
    Wanted::of(remote).ok_or_else(|| StepError::other("it is no repository"))
}

/// Whether the file system of a file has no room for more: whoever sends without end fills no disk.
fn is_full(file: &std::fs::File) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|space| space.f_bavail < space.f_blocks / FREE_PART)
}

/// A date as HTTP has it; nothing where it can't be read.
fn http_date(text: &str) -> Option<Time> {
    let parsed = jiff::fmt::rfc2822::parse(text).ok()?;
    Some(Time { seconds: parsed.timestamp().as_second(), nanoseconds: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_about_the_main_context() {
        let git = |context: &str| of_context(context).expect("an address").expect("a repository");
        let mut request = BuildRequest::default();
        for name in ["", "other"] {
            request.remote_contexts.insert(name.to_owned(), git("https://h/a.git"));
        }
        let keeps = |request: &BuildRequest| -> Vec<(bool, bool)> {
            let contexts = contexts(request).into_values();
            contexts
                .map(|context| match context {
                    Remote::Git { keep_git_dir, commit_times, .. } => (keep_git_dir, commit_times),
                    Remote::Http { .. } => panic!("a download"),
                })
                .collect()
        };
        assert_eq!(keeps(&request), [(false, false); 2]);
        let mut set = |name: &str, value: &str| drop(request.args.insert(name.to_owned(), value.to_owned()));
        set("BUILDKIT_CONTEXT_KEEP_GIT_DIR", "1");
        set("SOURCE_DATE_EPOCH", "0");
        assert_eq!(keeps(&request), [(true, true), (false, false)]);
        assert!(
            matches!(of_context("https://h/a.tar"), Ok(Some(Remote::Http { name, .. })) if name == "context")
        );
        assert!(matches!(of_context("directory"), Ok(None)));
        of_context("https://h/a.git#-x").expect_err("an option");
    }
}
