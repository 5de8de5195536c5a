//! Secrets and ssh agents.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::grpc::{Call, Code, Status, text};
use crate::message::session::{
    BytesMessage, CheckAgentRequest, CheckAgentResponse, GetSecretRequest, GetSecretResponse, metadata,
};

/// The largest secret, as with BuildKit.
pub const MAX_SECRET: u64 = 500 << 10;

/// Where a secret is.
#[derive(Clone)]
pub enum Secret {
    /// In a file, which is read when it is asked for.
    File(PathBuf),
    /// Here.
    Value(Bytes),
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => formatter.debug_tuple("File").field(path).finish(),
            Self::Value(_) => formatter.write_str("Value(..)"),
        }
    }
}

/// An ssh agent.
#[derive(Debug, Clone)]
pub struct Agent {
    /// Its socket.
    pub socket: PathBuf,
}

pub(super) async fn get(secrets: &BTreeMap<String, Secret>, call: Call) -> Result<(), Status> {
    call.unary(|request: GetSecretRequest| async move {
        let Some(secret) = secrets.get(&request.id).cloned() else {
            return Err(Status::new(Code::NotFound, format!("secret {} not found", request.id)));
        };
        let data = match secret {
            Secret::Value(value) => value,
            Secret::File(path) => tokio::task::spawn_blocking(move || read(&path))
                .await
                .unwrap_or_else(|error| Err(Status::new(Code::Internal, error.to_string())))?,
        };
        Ok(GetSecretResponse { data })
    })
    .await
}

fn read(path: &Path) -> Result<Bytes, Status> {
    let failed = |error: std::io::Error| {
        let code = if error.kind() == std::io::ErrorKind::NotFound { Code::NotFound } else { Code::Unknown };
        Status::new(code, format!("cannot read the secret's file {}: {error}", path.display()))
    };
    let file = std::fs::File::open(path).map_err(failed)?;
    let mut data = Vec::new();
    file.take(MAX_SECRET + 1).read_to_end(&mut data).map_err(failed)?;
    if data.len() as u64 > MAX_SECRET {
        let error = format!("invalid secret size {}: at most {MAX_SECRET} bytes are allowed", data.len());
        return Err(Status::new(Code::InvalidArgument, error));
    }
    Ok(data.into())
}

fn agent<'a>(agents: &'a BTreeMap<String, Agent>, id: &str) -> Result<&'a Agent, Status> {
    let id = if id.is_empty() { "default" } else { id };
    agents.get(id).ok_or_else(|| Status::new(Code::NotFound, format!("unset ssh forward key {id}")))
}

pub(super) async fn check_agent(agents: &BTreeMap<String, Agent>, call: Call) -> Result<(), Status> {
    call.unary(|request: CheckAgentRequest| async move {
        agent(agents, &request.id)?;
        Ok(CheckAgentResponse {})
    })
    .await
}

pub(super) async fn forward_agent(agents: &BTreeMap<String, Agent>, call: Call) -> Result<(), Status> {
    let agent = agent(agents, text(&call.metadata, metadata::SSH_ID).unwrap_or_default())?;
    let Call { mut incoming, outgoing, .. } = call;
    let failed = |error: std::io::Error| {
        Status::new(Code::Unavailable, format!("the ssh agent at {}: {error}", agent.socket.display()))
    };
    let mut socket = UnixStream::connect(&agent.socket).await.map_err(failed)?;
    let (mut reader, mut writer) = socket.split();
    let to_agent = async {
        while let Some(message) = incoming.next::<BytesMessage>().await? {
            writer.write_all(&message.data).await.map_err(failed)?;
        }
        writer.shutdown().await.map_err(failed)
    };
    let from_agent = async {
        let mut buffer = BytesMut::new();
        while reader.read_buf(&mut buffer).await.map_err(failed)? > 0 {
            outgoing.send(&BytesMessage { data: buffer.split().freeze() }).await?;
        }
        Ok::<_, Status>(())
    };
    // The agent has the last word: once it has closed there is nothing to forward.
    tokio::pin!(from_agent);
    tokio::select! {
        ended = &mut from_agent => ended,
        sent = to_agent => match sent {
            Ok(()) => from_agent.await,
            Err(status) => Err(status),
        }
    }
}
