//! What a client offers the daemon while it builds, and how a session is opened.
//!
//! 1. The client makes up an id ([`new_id`]) and says it in its `Solve`.
//! 2. `POST /session`, upgraded, with [`Services::headers`]: the id, a key that is the same for the same directory, and the calls offered.
//! 3. The client *answers* on that connection ([`Services::serve`]); the daemon calls. Either may come first, the session or the build.
//! 4. The client closes the session when its `Solve` is answered.
//!
//! ```text
//! let services = Services::new()
//!     .directory("context", Directory::new(RootDir::open(".")?))
//!     .directory("dockerfile", Directory::new(RootDir::open(".")?))
//!     .secret("token", Secret::File("token.txt".into()))
//!     .credentials(Arc::new(MyCredentials));
//! let stream = upgrade(socket, "/session", &services.headers(&id, "palan", &shared_key)).await?;
//! let session = tokio::spawn(services.serve(stream));
//! ```
//!
//! **What the daemon can get** is what was offered: directories by their names, secrets by their ids, content by its digest, and no path of its choice. A
//! directory is read as `context` walks it, so nothing outside of it is.

mod auth;
mod content;
mod files;
mod secret;
mod shell;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

pub use auth::Credentials;
pub use content::ContentStore;
pub use files::{Directory, Output, Upload, Writer};
pub use secret::{Agent, MAX_SECRET, Secret};
pub use shell::{SHELL_LABEL, Shell};

use crate::grpc::{Call, Handled, Io, Service, Status, serve};
use crate::message::content::method as store;
use crate::message::session::{HealthCheckRequest, HealthCheckResponse, method};

/// Headers that open a session.
#[allow(missing_docs, reason = "BuildKit's own names")]
pub mod header {
    pub const ID: &str = "X-Docker-Expose-Session-Uuid";
    pub const NAME: &str = "X-Docker-Expose-Session-Name";
    pub const SHARED_KEY: &str = "X-Docker-Expose-Session-Sharedkey";
    pub const METHOD: &str = "X-Docker-Expose-Session-Grpc-Method";
}

/// What a client offers.
#[derive(Default)]
pub struct Services {
    directories: BTreeMap<String, Directory>,
    outputs: BTreeMap<i64, Output>,
    uploads: BTreeMap<String, Upload>,
    secrets: BTreeMap<String, Secret>,
    agents: BTreeMap<String, Agent>,
    credentials: Option<Arc<dyn Credentials>>,
    stores: BTreeMap<String, ContentStore>,
    shell: Option<Arc<dyn Shell>>,
}

impl fmt::Debug for Services {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Services").field("methods", &self.methods()).finish_non_exhaustive()
    }
}

/// Calls on stores of content.
const CONTENT_METHODS: &[&str] = &[store::INFO, store::READ, store::WRITE, store::STATUS, store::ABORT];

/// A new id: 25 letters and digits, as BuildKit's are, with 128 bits of chance.
pub fn new_id() -> std::io::Result<String> {
    let mut random = [0; 16];
    let mut filled = 0;
    while filled < random.len() {
        filled += rustix::rand::getrandom(&mut random[filled..], rustix::rand::GetRandomFlags::empty())?;
    }
    let mut number = u128::from_le_bytes(random);
    let mut id = String::with_capacity(25);
    for _ in 0..25 {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        id.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    Ok(id)
}

impl Services {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a directory: `context`, `dockerfile`, or the name of another context.
    #[must_use]
    pub fn directory(mut self, name: &str, directory: Directory) -> Self {
        self.directories.insert(name.to_owned(), directory);
        self
    }

    /// Takes what an exporter makes. Exporters are numbered as they stand in the `Solve`, from 0.
    #[must_use]
    pub fn output(mut self, exporter: i64, output: Output) -> Self {
        self.outputs.insert(exporter, output);
        self
    }

    /// Offers a stream that is read once, as the context `http://buildkit-session/<name>`: an archive on standard input.
    #[must_use]
    pub fn upload(mut self, name: &str, upload: Upload) -> Self {
        self.uploads.insert(format!("/{name}"), upload);
        self
    }

    /// Offers a secret.
    #[must_use]
    pub fn secret(mut self, id: &str, secret: Secret) -> Self {
        self.secrets.insert(id.to_owned(), secret);
        self
    }

    /// Offers an ssh agent (`default`).
    #[must_use]
    pub fn agent(mut self, id: &str, socket: PathBuf) -> Self {
        self.agents.insert(id.to_owned(), Agent { socket });
        self
    }

    /// Offers credentials for registries.
    #[must_use]
    pub fn credentials(mut self, credentials: Arc<dyn Credentials>) -> Self {
        self.credentials = Some(credentials);
        self
    }

    /// Offers a store of content: a `local` cache has the id `local:<directory>`.
    #[must_use]
    pub fn store(mut self, id: &str, store: ContentStore) -> Self {
        self.stores.insert(id.to_owned(), store);
        self
    }

    /// Offers a terminal for the shell of a step that fails. A daemon that knows the call opens the shell, and the build ends after it.
    #[must_use]
    pub fn shell(mut self, shell: Arc<dyn Shell>) -> Self {
        self.shell = Some(shell);
        self
    }

    /// The calls that are offered.
    pub fn methods(&self) -> Vec<&'static str> {
        let offers: [(bool, &[&'static str]); 9] = [
            (true, &[method::HEALTH_CHECK]),
            (!self.directories.is_empty(), &[method::FILE_SYNC_DIFF_COPY]),
            (!self.outputs.is_empty(), &[method::FILE_SEND_DIFF_COPY]),
            (!self.uploads.is_empty(), &[method::UPLOAD_PULL]),
            (!self.secrets.is_empty(), &[method::GET_SECRET]),
            (!self.agents.is_empty(), &[method::SSH_CHECK_AGENT, method::SSH_FORWARD_AGENT]),
            (self.credentials.is_some(), &[method::AUTH_CREDENTIALS]),
            (!self.stores.is_empty(), CONTENT_METHODS),
            (self.shell.is_some(), &[method::SHELL]),
        ];
        offers
            .iter()
            .filter(|(is_offered, _)| *is_offered)
            .flat_map(|(_, methods)| *methods)
            .copied()
            .collect()
    }

    /// The headers that open the session.
    pub fn headers(&self, id: &str, name: &str, shared_key: &str) -> Vec<(String, String)> {
        let mut headers = vec![
            (header::ID.to_owned(), id.to_owned()),
            (header::NAME.to_owned(), name.to_owned()),
            (header::SHARED_KEY.to_owned(), shared_key.to_owned()),
        ];
        let methods = self.methods();
        headers.extend(methods.iter().map(|method| (header::METHOD.to_owned(), (*method).to_owned())));
        headers
    }

    /// Answers the daemon's calls, until the connection ends. Dropping it ends everything that is under way.
    pub async fn serve(self, io: impl Io) -> Result<(), Status> {
        serve(io, Arc::new(self)).await
    }
}

impl Service for Services {
    fn call(self: Arc<Self>, call: Call) -> Handled {
        Box::pin(async move {
            match call.method.as_str() {
                method::FILE_SYNC_DIFF_COPY => files::sync(&self.directories, call).await,
                method::FILE_SEND_DIFF_COPY => files::receive(&self.outputs, call).await,
                method::UPLOAD_PULL => files::upload(&self.uploads, call).await,
                method::GET_SECRET => secret::get(&self.secrets, call).await,
                method::SSH_CHECK_AGENT => secret::check_agent(&self.agents, call).await,
                method::SSH_FORWARD_AGENT => secret::forward_agent(&self.agents, call).await,
                method::AUTH_CREDENTIALS => auth::credentials(self.credentials.as_ref(), call).await,
                method::SHELL => shell::open(self.shell.as_ref(), call).await,
                method::HEALTH_CHECK => {
                    call.unary(|_: HealthCheckRequest| async { Ok(HealthCheckResponse { status: 1 }) }).await
                }
                known if CONTENT_METHODS.contains(&known) => content::answer(&self.stores, call).await,
                other => Err(Status::unimplemented(other)),
            }
        })
    }
}

#[cfg(test)]
mod tests;
