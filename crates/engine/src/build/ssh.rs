//! `RUN --mount=type=ssh`: a socket in the step's directory, whose every connection is led to the client's agent.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use palan_builder::backend::StepError;
use palan_builder::graph::Owner;
use palan_linux::path::RootDir;
use tokio::net::UnixListener;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::request::{Access, BuildClient};

/// Connections of a step to one agent at a time; more wait in the socket's queue. Each takes descriptors, and a thread while the
/// client is asked.
const MAX_CONNECTIONS: usize = 32;

/// How long it is waited when a connection can't be accepted: there may be descriptors again.
const PAUSE: Duration = Duration::from_millis(100);

/// Sockets that are listened on for as long as this lives.
pub(super) struct Agents(Vec<JoinHandle<()>>);

impl Agents {
    /// Listens on each socket: its name in the directory, the agent behind it, who may connect.
    pub(super) fn listen(
        directory: &Path,
        sockets: &[(String, String, Owner)],
        client: &Arc<dyn BuildClient>,
        runtime: &Handle,
    ) -> Result<Self, StepError> {
        let mut agents = Self(Vec::new());
        if sockets.is_empty() {
            return Ok(agents);
        }
        let root = RootDir::open(directory).map_err(StepError::other)?;
        let _entered = runtime.enter();
        for (name, id, owner) in sockets {
            // One from before, where the same directory is used again.
            if let Err(error) = root.remove_file(name)
                && error.source.kind() != io::ErrorKind::NotFound
            {
                return Err(StepError::other(error));
            }
            let socket = palan_linux::socket::listen_at(&root, name, 0o600)
                .map_err(|errno| StepError::other(io::Error::from(errno)))?;
            root.set_owner(name, owner.uid, owner.gid).map_err(StepError::other)?;
            root.set_mode(name, owner.mode).map_err(StepError::other)?;
            let listener = std::os::unix::net::UnixListener::from(socket);
            listener.set_nonblocking(true).map_err(StepError::other)?;
            let listener = UnixListener::from_std(listener).map_err(StepError::other)?;
            agents.0.push(runtime.spawn(serve(listener, id.clone(), Arc::clone(client))));
        }
        Ok(agents)
    }
}

impl Drop for Agents {
    fn drop(&mut self) {
        self.0.iter().for_each(JoinHandle::abort);
    }
}

async fn serve(listener: UnixListener, id: String, client: Arc<dyn BuildClient>) {
    let mut relays = tokio::task::JoinSet::new();
    let free = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&free).acquire_owned().await else { return };
        let inside = match listener.accept().await {
            Ok((inside, _)) => inside,
            Err(error) => {
                tracing::debug!(%error, "a connection to an ssh agent was not accepted");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (id, client) = (id.clone(), Arc::clone(&client));
        relays.spawn(async move {
            let _permit = permit;
            let connecting = tokio::task::spawn_blocking(move || client.ssh(&id, Access::Connect));
            if let Ok(Ok(Some(outside))) = connecting.await
                && let Err(error) = relay(inside, outside).await
            {
                tracing::debug!(%error, "a connection to an ssh agent broke");
            }
        });
        while relays.try_join_next().is_some() {}
    }
}

async fn relay(mut inside: tokio::net::UnixStream, outside: UnixStream) -> io::Result<()> {
    outside.set_nonblocking(true)?;
    let mut outside = tokio::net::UnixStream::from_std(outside)?;
    tokio::io::copy_bidirectional(&mut inside, &mut outside).await.map(drop)
}
