//! A client's view of `moby.buildkit.v1.Control`.
//!
//! ```text
//! let (channel, driver) = Channel::connect(upgrade(socket, "/grpc", &[]).await?).await?;   // the driver runs in a task
//! let control = Control::new(channel);
//! // in parallel: the session (crate::session), the status, the build
//! control.solve(&SolveRequest { reference, session, frontend: "dockerfile.v0", … }).await?;
//! ```
//!
//! The build ends when `solve` answers; `status` ends by itself soon after. Dropping the future of `solve` cancels the build.

use crate::grpc::{Channel, Incoming, Metadata, Status};
use crate::message::control::{
    DiskUsageRequest, DiskUsageResponse, InfoRequest, InfoResponse, ListWorkersRequest, ListWorkersResponse,
    PruneRequest, SolveRequest, SolveResponse, StatusRequest, StatusResponse, UsageRecord, method,
};
use crate::wire::Message;

/// The calls on a connection.
#[derive(Debug, Clone)]
pub struct Control {
    channel: Channel,
}

/// Answers that come one by one.
#[derive(Debug)]
pub struct Answers<M> {
    incoming: Incoming,
    kind: std::marker::PhantomData<fn() -> M>,
}

impl<M: Message> Answers<M> {
    /// The next answer; none is the good end.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        self.incoming.next().await
    }
}

impl Control {
    /// Calls over this connection.
    pub fn new(channel: Channel) -> Self {
        Self { channel }
    }

    /// Builds, and answers when it is built.
    pub async fn solve(&self, request: &SolveRequest) -> Result<SolveResponse, Status> {
        self.channel.unary(method::SOLVE, Metadata::new(), request).await
    }

    /// The progress of a build, which may be asked for before the build is.
    pub async fn status(&self, reference: &str) -> Result<Answers<StatusResponse>, Status> {
        self.ask(method::STATUS, &StatusRequest { reference: reference.to_owned() }).await
    }

    /// Who executes steps.
    pub async fn list_workers(&self) -> Result<ListWorkersResponse, Status> {
        self.channel.unary(method::LIST_WORKERS, Metadata::new(), &ListWorkersRequest::default()).await
    }

    /// What the daemon is.
    pub async fn info(&self) -> Result<InfoResponse, Status> {
        self.channel.unary(method::INFO, Metadata::new(), &InfoRequest {}).await
    }

    /// What is in the cache.
    pub async fn disk_usage(&self, request: &DiskUsageRequest) -> Result<DiskUsageResponse, Status> {
        self.channel.unary(method::DISK_USAGE, Metadata::new(), request).await
    }

    /// Removes things of the cache, and tells each.
    pub async fn prune(&self, request: &PruneRequest) -> Result<Answers<UsageRecord>, Status> {
        self.ask(method::PRUNE, request).await
    }

    async fn ask<Q: Message, A>(&self, method: &str, question: &Q) -> Result<Answers<A>, Status> {
        let incoming = self.channel.ask(method, Metadata::new(), question).await?;
        Ok(Answers { incoming, kind: std::marker::PhantomData })
    }
}
