//! What the engine fetches from a client while it builds: over the client's session.
//!
//! The engine calls from threads of its own, which wait; the session is spoken to in the runtime.

use std::collections::BTreeMap;
use std::future::Future;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::BytesMut;
use palan_buildkit::grpc::{ClientCall, Code, Metadata, Status, encode_list, metadata};
use palan_buildkit::message::session::{
    BytesMessage, CheckAgentRequest, CheckAgentResponse, CheckPolicyRequest, CheckPolicyResponse,
    CredentialsRequest, CredentialsResponse, GetSecretRequest, GetSecretResponse, SourceMeta, SourceOp,
    metadata as name, method, policy_action,
};
use palan_buildkit::mirrors::Lent;
use palan_engine::build::classic::unpack_context;
use palan_engine::build::{
    Access, BuildClient, Cancel, ContentStore, ContextRequest, Digest, FailedStep, KnownContent, LentFiles,
    Reference, RootDir, Terminal,
};
use palan_engine::image::Auth;
use palan_engine::stream::{BodyReader, body_pipe};
use palan_engine::{Class, Error};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::gateway::unsupported;
use super::progress::{Build, Internal};
use super::request::ContextDirectory;
use super::sent::Known;
use super::sessions::Session;
use super::{BuildKit, caches, shell, solve};

/// What the session of a client gives.
pub(super) struct SessionClient {
    pub(super) state: Arc<BuildKit>,
    pub(super) build: Arc<Build>,
    /// None: the build has no session, and lacks everything that only a session has.
    pub(super) session: Option<Arc<Session>>,
    /// The main context, where it is a directory of the client's.
    pub(super) context: Option<ContextDirectory>,
    /// The main context, where it is an archive. It is read once.
    pub(super) archive: Mutex<Option<BodyReader>>,
    pub(super) directories: BTreeMap<String, ContextDirectory>,
    /// Lines of the ignore file.
    pub(super) exclude: Vec<String>,
    /// The session that says which sources may be used.
    pub(super) policy: Option<Arc<Session>>,
    pub(super) runtime: Handle,
    /// Told when nobody waits for the build any more; then nothing waits for the client either.
    pub(super) cancel: Cancel,
}

/// A call's failure in the engine's terms.
pub(super) fn engine_error(status: Status) -> Error {
    let class = match status.code {
        Code::NotFound => Class::NotFound,
        Code::InvalidArgument => Class::InvalidParameter,
        Code::PermissionDenied => Class::Forbidden,
        Code::Unauthenticated => Class::Unauthorized,
        Code::Unimplemented => Class::NotImplemented,
        _ => Class::System,
    };
    Error::new(class, status.to_string())
}

/// Waits for a call, unless it is cancelled or the session ends.
pub(super) fn wait<T>(
    runtime: &Handle,
    session: &Session,
    cancels: &[&Cancel],
    asked: impl Future<Output = Result<T, Status>>,
) -> Result<T, Error> {
    let stop = Arc::new(Notify::new());
    let watch = |cancel: &&Cancel| {
        let told = Arc::clone(&stop);
        cancel.watch(move || told.notify_one())
    };
    let _watches: Vec<_> = cancels.iter().map(watch).collect();
    let outcome = runtime.block_on(async {
        tokio::select! {
            outcome = asked => outcome,
            () = stop.notified() => Err(Status::new(Code::Cancelled, "the build was cancelled")),
            () = session.ended() => Err(Status::new(Code::Unavailable, "the client's session has ended")),
        }
    });
    outcome.map_err(engine_error)
}

impl SessionClient {
    pub(super) fn session(&self) -> Result<&Arc<Session>, Status> {
        self.session.as_ref().ok_or_else(|| {
            Status::new(Code::FailedPrecondition, "the build has no session, from which its files would come")
        })
    }

    /// Waits for a call, unless the build is cancelled or the session ends.
    pub(super) fn wait<T>(
        &self,
        session: &Session,
        cancel: &Cancel,
        asked: impl Future<Output = Result<T, Status>>,
    ) -> Result<T, Error> {
        // The step's, which may end before the build, and the build's.
        wait(&self.runtime, session, &[cancel, &self.cancel], asked)
    }

    /// Asks the client's policy, if there is one.
    pub(super) async fn ask_policy(&self, source: &str) -> Result<(), Status> {
        let Some(session) = &self.policy else { return Ok(()) };
        let host = palan_oci::Platform::host();
        let source_op = SourceOp { identifier: source.to_owned(), attrs: BTreeMap::new() };
        let request = CheckPolicyRequest {
            platform: Some(super::control::platform(&host)),
            source: Some(SourceMeta { source: Some(source_op) }),
            caps: BTreeMap::new(),
        };
        let answer: CheckPolicyResponse =
            session.channel.unary(method::CHECK_POLICY, Metadata::new(), &request).await?;
        let Some(decision) = answer.decision else {
            return Err(unsupported(&format!("a source policy that wants to know more about {source}")));
        };
        match decision.action {
            policy_action::ALLOW => Ok(()),
            policy_action::DENY => {
                let why: Vec<String> = decision.deny_messages.into_iter().map(|one| one.message).collect();
                let why = if why.is_empty() { String::new() } else { format!(": {}", why.join("; ")) };
                let text = format!("source {source} not allowed by policy{why}");
                Err(Status::new(Code::PermissionDenied, text))
            }
            _ => Err(unsupported(&format!("a source policy that replaces {source}"))),
        }
    }

    /// Receives a directory of the client's.
    pub(super) async fn fetch(
        &self,
        directory: &ContextDirectory,
        follow: &[String],
        exclude: &[String],
        into: RootDir,
        told: (&Internal, &str),
    ) -> Result<Option<Lent>, Status> {
        let session = match &directory.session {
            Some(id) => self.state.sessions.get(id).await?,
            None => Arc::clone(self.session()?),
        };
        if !session.supports(method::FILE_SYNC_DIFF_COPY) {
            return Err(Status::new(Code::FailedPrecondition, "no local sources enabled"));
        }
        let mut metadata = Metadata::new();
        encode_list(&mut metadata, name::DIR_NAME, std::slice::from_ref(&directory.name));
        encode_list(&mut metadata, name::FOLLOW_PATHS, follow);
        encode_list(&mut metadata, name::EXCLUDE_PATTERNS, exclude);
        let call = session.channel.call(method::FILE_SYNC_DIFF_COPY, metadata);
        let key = directory.shared_key.as_ref().unwrap_or(&session.shared_key);
        // Single files are not worth a directory.
        let key = match key.as_str() {
            "" => String::new(),
            _ if !follow.is_empty() => String::new(),
            key => format!("{}\n{} {key}", session.peer, directory.name),
        };
        let (internal, what) = told;
        let mirrors = self.state.sent.mirrors().await?;
        let (received, lent) = mirrors.receive(&key, call, into, Some(internal.teller(what))).await?;
        internal.part(what, received.bytes, true);
        Ok(lent)
    }
}

/// A mirror in the engine's words.
struct Files(Lent);

impl LentFiles for Files {
    fn path(&self) -> &Path {
        self.0.path()
    }

    fn identity(&self) -> Digest {
        Digest::of(self.0.stamp().to_be_bytes())
    }

    fn known_content(&self) -> Option<Arc<dyn KnownContent>> {
        Some(Arc::new(Known(Arc::clone(self.0.digests()))))
    }

    fn altered(&self) {
        self.0.altered();
    }
}

impl BuildClient for SessionClient {
    fn context(
        &self,
        wanted: &ContextRequest<'_>,
        into: &RootDir,
        cancel: &Cancel,
    ) -> Result<Option<Box<dyn LentFiles>>, Error> {
        let title = match wanted.name {
            "" => "[internal] load build context".to_owned(),
            name => format!("[context {name}] load from client"),
        };
        let internal = Internal::begin(&self.build, &title, None);
        let archive = match wanted.name {
            "" => self.archive.lock().unwrap_or_else(PoisonError::into_inner).take(),
            _ => None,
        };
        if let Some(mut archive) = archive {
            let unpacked = unpack_context(&mut archive, into);
            let told =
                unpacked.as_ref().map(drop).map_err(|error| Status::new(Code::Unknown, error.report()));
            let _ = internal.end(told);
            return unpacked.map(|()| None);
        }
        let main = (wanted.name.is_empty()).then_some(self.context.as_ref()).flatten();
        let Some(directory) = main.or_else(|| self.directories.get(wanted.name)) else {
            // A Dockerfile alone has an empty context.
            let outcome = match wanted.name {
                "" => Ok(()),
                name => Err(Status::new(Code::NotFound, format!("there is no build context {name:?}"))),
            };
            return internal.end(outcome).map(|()| None).map_err(engine_error);
        };
        let exclude = if wanted.name.is_empty() { &self.exclude[..] } else { &[] };
        let into = into
            .try_clone()
            .map_err(|source| Error::system("cannot keep the build's context").with_source(source))?;
        let session = self.session().map_err(engine_error)?;
        let fetched = self.wait(session, cancel, async {
            self.fetch(directory, &[], exclude, into, (&internal, "transferring context:")).await
        });
        let told = fetched.as_ref().map(drop).map_err(|error| Status::new(Code::Unknown, error.report()));
        let _ = internal.end(told);
        Ok(fetched?.map(|lent| Box::new(Files(lent)) as Box<dyn LentFiles>))
    }

    fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Error> {
        let Some(session) = &self.session else { return Ok(None) };
        if !session.supports(method::GET_SECRET) {
            return Ok(None);
        }
        let request = GetSecretRequest { id: id.to_owned(), ..GetSecretRequest::default() };
        let asked = self.wait(session, &self.cancel, async {
            let answer = session
                .channel
                .unary::<_, GetSecretResponse>(method::GET_SECRET, Metadata::new(), &request)
                .await;
            match answer {
                Ok(answer) => Ok(Some(answer.data.to_vec())),
                Err(status) if matches!(status.code, Code::NotFound | Code::Unimplemented) => Ok(None),
                Err(status) => Err(status),
            }
        });
        asked.map_err(|error| {
            Error::new(error.class(), format!("the secret {id:?} can't be read: {}", error.report()))
        })
    }

    fn ssh(&self, id: &str, access: Access) -> Result<Option<UnixStream>, Error> {
        let Some(session) = &self.session else { return Ok(None) };
        if !session.supports(method::SSH_FORWARD_AGENT) {
            return Ok(None);
        }
        let (ours, theirs) = UnixStream::pair()
            .map_err(|source| Error::system("cannot make a socket pair").with_source(source))?;
        if access == Access::Check {
            let request = CheckAgentRequest { id: id.to_owned() };
            let is_there = self.wait(session, &self.cancel, async {
                let answer = session
                    .channel
                    .unary::<_, CheckAgentResponse>(method::SSH_CHECK_AGENT, Metadata::new(), &request)
                    .await;
                match answer {
                    Ok(_) => Ok(true),
                    // What BuildKit's own client says has no better code.
                    Err(status)
                        if matches!(status.code, Code::NotFound | Code::Unimplemented | Code::Unknown) =>
                    {
                        Ok(false)
                    }
                    Err(status) => Err(status),
                }
            })?;
            return Ok(is_there.then_some(theirs));
        }
        let metadata = metadata(&[(name::SSH_ID, id)]);
        let call =
            self.wait(session, &self.cancel, session.channel.call(method::SSH_FORWARD_AGENT, metadata))?;
        let _runtime = self.runtime.enter();
        let ours = ours
            .set_nonblocking(true)
            .and_then(|()| tokio::net::UnixStream::from_std(ours))
            .map_err(|source| Error::system("cannot forward an ssh agent").with_source(source))?;
        self.runtime.spawn(forward(ours, call));
        Ok(Some(theirs))
    }

    fn credentials(&self, image: &Reference) -> Result<Option<Auth>, Error> {
        let Some(session) = &self.session else { return Ok(None) };
        if !session.supports(method::AUTH_CREDENTIALS) {
            return Ok(None);
        }
        // What BuildKit calls Docker Hub, and its clients know.
        let host = if image.domain() == "docker.io" { "registry-1.docker.io" } else { image.domain() };
        let request = CredentialsRequest { host: host.to_owned() };
        let answer = self.wait(session, &self.cancel, async {
            session
                .channel
                .unary::<_, CredentialsResponse>(method::AUTH_CREDENTIALS, Metadata::new(), &request)
                .await
        })?;
        if answer.username.is_empty() && answer.secret.is_empty() {
            return Ok(None);
        }
        let mut auth = Auth { server_address: image.domain().to_owned(), ..Auth::default() };
        if answer.username.is_empty() {
            auth.identity_token = answer.secret;
        } else {
            auth.username = answer.username;
            auth.password = answer.secret;
        }
        Ok(Some(auth))
    }

    fn store(&self, id: &str) -> Result<Option<Arc<dyn ContentStore>>, Error> {
        caches::store(self.session.as_ref(), id, &self.runtime, &self.cancel)
    }

    fn wants_shell(&self) -> bool {
        self.session.as_ref().is_some_and(|session| session.supports(method::SHELL))
    }

    fn terminal(&self, step: &FailedStep) -> Result<Terminal, Error> {
        shell::terminal(self, step)
    }

    fn allow(&self, source: &str) -> Result<(), Error> {
        let Some(session) = &self.policy else { return Ok(()) };
        self.wait(session, &self.cancel, self.ask_policy(source))
    }
}

/// Carries bytes between a process and the client's agent, until one of them has closed.
async fn forward(mut socket: tokio::net::UnixStream, call: ClientCall) {
    let ClientCall { outgoing, mut incoming } = call;
    let (mut reader, mut writer) = socket.split();
    let mut outgoing = Some(outgoing);
    let to_agent = async {
        let mut buffer = BytesMut::new();
        while let Ok(1..) = reader.read_buf(&mut buffer).await {
            let message = BytesMessage { data: buffer.split().freeze() };
            let Some(outgoing) = &outgoing else { break };
            if outgoing.send(&message).await.is_err() {
                break;
            }
        }
        // The end, for the agent.
        outgoing = None;
    };
    let from_agent = async {
        while let Ok(Some(message)) = incoming.next::<BytesMessage>().await {
            if writer.write_all(&message.data).await.is_err() {
                break;
            }
        }
    };
    tokio::pin!(from_agent);
    tokio::select! {
        () = &mut from_agent => {}
        () = to_agent => from_agent.await,
    }
}

/// A stream of the client's, as blocking code reads it.
pub(super) async fn upload(session: &Session, path: &str, cancel: &Cancel) -> Result<BodyReader, Status> {
    if !session.supports(method::UPLOAD_PULL) {
        return Err(Status::new(Code::FailedPrecondition, "the client's session has no uploads"));
    }
    let call = session.channel.call(method::UPLOAD_PULL, metadata(&[(name::UPLOAD_PATH, path)])).await?;
    let (sender, reader) = body_pipe();
    let stop = Arc::new(Notify::new());
    let told = Arc::clone(&stop);
    let watch = cancel.watch(move || told.notify_one());
    tokio::spawn(async move {
        let _watch = watch;
        // BuildKit's clients end the stream when the other side has ended its own; it has nothing to say.
        let ClientCall { outgoing, mut incoming } = call;
        drop(outgoing);
        loop {
            let next = tokio::select! {
                next = incoming.next::<BytesMessage>() => next,
                // Or whoever reads would wait for as long as the client pleases.
                () = stop.notified() => Err(Status::new(Code::Cancelled, "the build was cancelled")),
            };
            let (piece, is_last) = match next {
                Ok(Some(message)) => (Ok(message.data), false),
                Ok(None) => return,
                Err(status) => (Err(std::io::Error::other(status)), true),
            };
            if !sender.send(piece).await || is_last {
                return;
            }
        }
    });
    Ok(reader)
}

/// The lines of an ignore file that leave something out or in, as patterns.
pub(super) fn exclude(ignore: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(ignore);
    let lines = text.trim_start_matches('\u{feff}').lines();
    let lines = lines.filter(|line| !line.starts_with('#')).map(str::trim).filter(|line| !line.is_empty());
    let pattern = |line: &str| match line.strip_prefix('!') {
        Some(rest) => format!("!{}", relative(rest.trim())),
        None => relative(line).to_owned(),
    };
    lines.map(pattern).collect()
}

/// A slash at the start is of no consequence.
fn relative(pattern: &str) -> &str {
    let stripped = pattern.trim_start_matches('/');
    if stripped.is_empty() { pattern } else { stripped }
}

/// What the engine says went wrong.
pub(super) fn status(error: &Error) -> Status {
    Status::new(solve::code(error.class()), error.report())
}

#[cfg(test)]
mod tests {
    use super::exclude;

    #[test]
    fn lines_of_an_ignore_file() {
        let file = "\u{feff}a\r\n# no\n  /b \n!/c\n! d\n\n #e\n/\n";
        assert_eq!(exclude(file.as_bytes()), ["a", "b", "!c", "!d", "#e", "/"]);
    }
}
