//! The engine: one value that owns all objects. Every operation of a front door is a method here.

use std::sync::Arc;

use bytes::Bytes;

use crate::Result;
use crate::config::EngineConfig;
use crate::container::{
    AttachOptions, ClientStream, Created, Details, ExecDetails, ExecSpec, ExecStartOptions, Framing,
    ListQuery, LogOptions, RemoveOptions, StopOptions, Summary, Top, WaitCondition, WaitHold, WaitOutcome,
};
use crate::events::{Event, EventQuery};
use crate::image::{
    Auth, HistoryEntry, ImageDetails, ImageListQuery, ImageRemoval, ImageSummary, ImportSpec, Progress,
    PullSpec,
};
use crate::info::Info;
use crate::network::NetworkDetails;
use crate::spec::{ContainerSpec, Filters};
use crate::stats::Stats;
use crate::stream::{BodyReader, Items};
use crate::volume::{Pruned, Volume, VolumeSpec};

/// The engine. Cheap to share; all methods take `&self`.
#[derive(Debug)]
pub struct Engine {
    config: Arc<EngineConfig>,
}

/// Checked permission to attach: the container exists and can be attached to. The front door now sends its response head
/// and delivers the connection.
#[derive(Debug)]
pub struct AttachTicket {
    /// The container has a terminal: bytes are raw.
    pub tty: bool,
    /// How bytes towards the client are framed.
    pub framing: Framing,
}

/// A registered wait. The front door sends its response head, optionally hands over a duplicate of the connection, then
/// awaits the outcome.
#[derive(Debug)]
pub struct WaitTicket {}

/// Checked permission to start an exec session with a client attached.
#[derive(Debug)]
pub struct ExecTicket {
    /// The session has a terminal: bytes are raw.
    pub tty: bool,
    /// How bytes towards the client are framed.
    pub framing: Framing,
}

/// Log lines as chunks that are ready to be sent.
#[derive(Debug)]
pub struct LogStream {
    /// The container has a terminal: the chunks are raw, otherwise framed with eight-byte headers.
    pub tty: bool,
    /// The chunks.
    pub chunks: Items<Bytes>,
}

impl AttachTicket {
    /// Hands the connection over. From here on the supervisor speaks on it.
    pub async fn deliver(self, stream: ClientStream) -> Result<()> {
        let _ = stream;
        todo!()
    }
}

impl WaitTicket {
    /// Hands a duplicate of the client's connection to the supervisor, which answers on it if the daemon has died.
    pub fn hold(&mut self, hold: WaitHold) {
        let _ = hold;
        todo!()
    }

    /// Waits. When this returns, the supervisor no longer holds the connection: the answer is the caller's to write.
    pub async fn outcome(self) -> WaitOutcome {
        todo!()
    }
}

impl ExecTicket {
    /// Starts the process on the connection. A failure is written to the connection as Docker does, and returned.
    pub async fn deliver(self, stream: ClientStream) -> Result<()> {
        let _ = stream;
        todo!()
    }
}

/// Life of the engine.
impl Engine {
    /// Opens the data root, restores all containers and is ready to serve.
    pub async fn start(config: EngineConfig) -> Result<Arc<Self>> {
        let _ = config;
        todo!()
    }

    /// Ends the daemon's work in order: containers go on, the database is flushed.
    pub async fn shutdown(&self) {
        todo!()
    }

    /// The settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// Facts about daemon and host.
    pub async fn info(&self) -> Result<Info> {
        todo!()
    }

    /// Checks credentials against their registry. Returns Docker's status line and an identity token where one is given.
    pub async fn login(&self, auth: Auth) -> Result<(String, String)> {
        let _ = auth;
        todo!()
    }

    /// A stream of events.
    pub async fn events(&self, query: EventQuery) -> Result<Items<Event>> {
        let _ = query;
        todo!()
    }
}

/// Containers. `name` is a name, an id, or an unambiguous prefix of an id.
impl Engine {
    /// Makes a container.
    pub async fn create(&self, spec: ContainerSpec) -> Result<Created> {
        let _ = spec;
        todo!()
    }

    /// Starts a container. Class `NotModified` when it runs already.
    pub async fn start_container(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// Stops a container: its signal, then SIGKILL. Class `NotModified` when it does not run.
    pub async fn stop(&self, name: &str, options: StopOptions) -> Result<()> {
        let _ = (name, options);
        todo!()
    }

    /// Sends a signal (name or number; SIGKILL when absent).
    pub async fn kill(&self, name: &str, signal: Option<&str>) -> Result<()> {
        let _ = (name, signal);
        todo!()
    }

    /// Stops and starts a container.
    pub async fn restart(&self, name: &str, options: StopOptions) -> Result<()> {
        let _ = (name, options);
        todo!()
    }

    /// Freezes the processes.
    pub async fn pause(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// Lets them go on.
    pub async fn unpause(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// Gives another name.
    pub async fn rename(&self, name: &str, new_name: &str) -> Result<()> {
        let _ = (name, new_name);
        todo!()
    }

    /// Removes a container.
    pub async fn remove(&self, name: &str, options: RemoveOptions) -> Result<()> {
        let _ = (name, options);
        todo!()
    }

    /// Removes all stopped containers. Filters: `label`, `label!`, `until`.
    pub async fn prune_containers(&self, filters: Filters) -> Result<Pruned> {
        let _ = filters;
        todo!()
    }

    /// Registers a wait for an exit or the removal.
    pub async fn wait(&self, name: &str, condition: WaitCondition) -> Result<WaitTicket> {
        let _ = (name, condition);
        todo!()
    }

    /// Checks that a client can attach.
    pub async fn attach(&self, name: &str, options: AttachOptions) -> Result<AttachTicket> {
        let _ = (name, options);
        todo!()
    }

    /// Changes the size of the terminal.
    pub async fn resize(&self, name: &str, height: u16, width: u16) -> Result<()> {
        let _ = (name, height, width);
        todo!()
    }

    /// Reads the log.
    pub async fn logs(&self, name: &str, options: LogOptions) -> Result<LogStream> {
        let _ = (name, options);
        todo!()
    }

    /// Readings once a second, or one only. With `one_shot` the first comes at once and has no `precpu`.
    pub async fn stats(&self, name: &str, stream: bool, one_shot: bool) -> Result<Items<Stats>> {
        let _ = (name, stream, one_shot);
        todo!()
    }

    /// The processes, in the columns of `ps` with these arguments (`-ef` when empty).
    pub async fn top(&self, name: &str, ps_arguments: &str) -> Result<Top> {
        let _ = (name, ps_arguments);
        todo!()
    }

    /// A list, newest first.
    pub async fn list(&self, query: ListQuery) -> Result<Vec<Summary>> {
        let _ = query;
        todo!()
    }

    /// All about one container.
    pub async fn inspect(&self, name: &str) -> Result<Arc<Details>> {
        let _ = name;
        todo!()
    }

    /// Bytes in the writable layer, and together with the image's.
    pub async fn sizes(&self, name: &str) -> Result<(u64, u64)> {
        let _ = name;
        todo!()
    }

    /// Makes an exec session; returns its id.
    pub async fn exec_create(&self, name: &str, spec: ExecSpec) -> Result<String> {
        let _ = (name, spec);
        todo!()
    }

    /// Checks that an exec session can be started with a client attached.
    pub async fn exec_attach(&self, id: &str, options: ExecStartOptions) -> Result<ExecTicket> {
        let _ = (id, options);
        todo!()
    }

    /// Starts an exec session without a client.
    pub async fn exec_start_detached(&self, id: &str, options: ExecStartOptions) -> Result<()> {
        let _ = (id, options);
        todo!()
    }

    /// All about an exec session.
    pub async fn exec_inspect(&self, id: &str) -> Result<ExecDetails> {
        let _ = id;
        todo!()
    }

    /// Changes the size of its terminal.
    pub async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<()> {
        let _ = (id, height, width);
        todo!()
    }
}

/// Images.
impl Engine {
    /// Pulls an image. Errors that come before the first progress are returned; later ones are the stream's last item.
    pub async fn pull(&self, spec: PullSpec) -> Result<Items<Progress>> {
        let _ = spec;
        todo!()
    }

    /// Loads an archive of images (`docker save` or OCI layout).
    pub async fn load(&self, body: BodyReader, quiet: bool) -> Result<Items<Progress>> {
        let _ = (body, quiet);
        todo!()
    }

    /// Makes an image of one layer from a tar of a root filesystem.
    pub async fn import(&self, spec: ImportSpec, body: BodyReader) -> Result<Items<Progress>> {
        let _ = (spec, body);
        todo!()
    }

    /// A list, newest first.
    pub async fn list_images(&self, query: ImageListQuery) -> Result<Vec<ImageSummary>> {
        let _ = query;
        todo!()
    }

    /// All about one image.
    pub async fn inspect_image(&self, name: &str) -> Result<ImageDetails> {
        let _ = name;
        todo!()
    }

    /// Its history, newest first.
    pub async fn image_history(&self, name: &str) -> Result<Vec<HistoryEntry>> {
        let _ = name;
        todo!()
    }

    /// Gives an image a further name.
    pub async fn tag_image(&self, name: &str, repository: &str, tag: &str) -> Result<()> {
        let _ = (name, repository, tag);
        todo!()
    }

    /// Takes a name from an image, and deletes it with its last name.
    pub async fn remove_image(&self, name: &str, force: bool, no_prune: bool) -> Result<Vec<ImageRemoval>> {
        let _ = (name, force, no_prune);
        todo!()
    }

    /// Deletes images without names (all unused ones with `dangling=false`). Filters: `dangling`, `label`, `label!`, `until`.
    pub async fn prune_images(&self, filters: Filters) -> Result<(Vec<ImageRemoval>, u64)> {
        let _ = filters;
        todo!()
    }
}

/// Volumes and networks.
impl Engine {
    /// Makes a volume, or finds the one of that name.
    pub async fn create_volume(&self, spec: VolumeSpec) -> Result<Volume> {
        let _ = spec;
        todo!()
    }

    /// All volumes. Filters: `dangling`, `driver`, `label`, `name`.
    pub async fn list_volumes(&self, filters: Filters) -> Result<Vec<Volume>> {
        let _ = filters;
        todo!()
    }

    /// One volume.
    pub async fn inspect_volume(&self, name: &str) -> Result<Volume> {
        let _ = name;
        todo!()
    }

    /// Removes a volume; with `force` it may be missing.
    pub async fn remove_volume(&self, name: &str, force: bool) -> Result<()> {
        let _ = (name, force);
        todo!()
    }

    /// Removes unused anonymous volumes (all unused ones with `all=true`). Filters: `all`, `label`, `label!`.
    pub async fn prune_volumes(&self, filters: Filters) -> Result<Pruned> {
        let _ = filters;
        todo!()
    }

    /// The networks. Filters: `dangling`, `driver`, `id`, `label`, `name`, `scope`, `type`.
    pub async fn list_networks(&self, filters: Filters) -> Result<Vec<NetworkDetails>> {
        let _ = filters;
        todo!()
    }

    /// One network by name or id.
    pub async fn inspect_network(&self, name: &str) -> Result<NetworkDetails> {
        let _ = name;
        todo!()
    }
}
