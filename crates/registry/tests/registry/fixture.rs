//! A store, a client with short waiting times, and what a pull told.

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use palan_oci::Reference;
use palan_registry::{
    Client, ClientConfig, Credentials, ProgressEvent, PullOutcome, PullRequest, RegistryError, Timing,
};
use palan_store::{Limits, Store};
use palan_test_support::image::{Image, ImageBuilder, TarBuilder, noise};

/// The settings of tests.
pub(crate) fn settings() -> ClientConfig {
    ClientConfig {
        certificate_directories: Vec::new(),
        timing: Timing {
            connect: Duration::from_secs(5),
            stall: Duration::from_secs(20),
            attempts: 3,
            first_pause: Duration::from_millis(10),
            longest_pause: Duration::from_millis(200),
        },
        ..ClientConfig::default()
    }
}

/// A store of one's own with a client.
pub(crate) struct Fixture {
    pub(crate) store: Store,
    pub(crate) client: Client,
    pub(crate) root: tempfile::TempDir,
}

impl Fixture {
    pub(crate) fn new() -> Self {
        Self::with(settings())
    }

    /// For servers that fall silent.
    pub(crate) fn impatient() -> Self {
        let mut settings = settings();
        settings.timing.stall = Duration::from_millis(1500);
        Self::with(settings)
    }

    pub(crate) fn with(config: ClientConfig) -> Self {
        let root = tempfile::tempdir().unwrap();
        let store = Store::open(root.path(), Limits::default()).unwrap();
        Self { store, client: Client::new(config).unwrap(), root }
    }

    pub(crate) async fn pull(&self, name: &str) -> Result<PullOutcome, RegistryError> {
        self.pull_as(name, Credentials::Anonymous).await
    }

    pub(crate) async fn pull_as(
        &self,
        name: &str,
        credentials: Credentials,
    ) -> Result<PullOutcome, RegistryError> {
        self.client.pull(&request(name, credentials), &self.store, |_| {}).await
    }

    /// Pulls and returns the told lines.
    pub(crate) async fn pull_telling(&self, name: &str) -> (Result<PullOutcome, RegistryError>, Vec<String>) {
        let told = Arc::new(Mutex::new(Vec::new()));
        let listener = Arc::clone(&told);
        let outcome = self
            .client
            .pull(&request(name, Credentials::Anonymous), &self.store, move |event| {
                listener.lock().unwrap().push(line(&event));
            })
            .await;
        let lines = told.lock().unwrap().clone();
        (outcome, lines)
    }

    /// A file of a pulled image, found in the topmost layer that has it.
    pub(crate) fn read(&self, outcome: &PullOutcome, path: &str) -> Option<Vec<u8>> {
        let directories: Vec<PathBuf> = self.store.lower_dirs(&outcome.image).unwrap();
        directories.iter().find_map(|directory| std::fs::read(directory.join(path)).ok())
    }

    /// The number of kept parts of transfers.
    pub(crate) fn parts(&self) -> usize {
        self.lengths_of_parts().len()
    }

    /// How much of each is there, if anything.
    pub(crate) fn lengths_of_parts(&self) -> Vec<u64> {
        let directory = self.root.path().join("blobs/sha256/.ingest");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let lengths = entries.filter_map(|entry| Some(entry.metadata().ok()?.len()));
        lengths.filter(|length| *length > 0).collect()
    }
}

pub(crate) fn request(name: &str, credentials: Credentials) -> PullRequest {
    PullRequest { reference: Reference::parse(name).unwrap(), platform: None, credentials }
}

/// An event as a user reads it.
pub(crate) fn line(event: &ProgressEvent) -> String {
    match event {
        ProgressEvent::Started { reference, repository } => format!("{reference}: Pulling from {repository}"),
        ProgressEvent::Layer { id, status } => format!("{id}: {status}"),
        ProgressEvent::Upload { id, status } => format!("{id}: {status}"),
        ProgressEvent::Pushed(pushed) => format!("aux {} {} {}", pushed.tag, pushed.digest, pushed.size),
        ProgressEvent::Message(text) => text.clone(),
    }
}

/// An error with its causes, as a user reads it.
pub(crate) fn text(error: &RegistryError) -> String {
    palan_stdx::error_chain::to_string(error)
}

/// A layer with one incompressible file.
pub(crate) fn noise_layer(name: &str, length: usize, seed: u64) -> Vec<u8> {
    TarBuilder::new().file(name, 0o644, noise(length, seed)).finish()
}

/// An image of three layers, the first one large enough to be interrupted.
pub(crate) fn sample() -> Image {
    ImageBuilder::new()
        .layer(noise_layer("large", 900_000, 1))
        .file("etc-version", 0o644, "1")
        .file("top", 0o755, "hello")
        .build()
}

pub(crate) fn password(username: &str, password: &str) -> Credentials {
    Credentials::Password { username: username.to_owned(), password: password.to_owned() }
}
