//! The terminal of a client for the shell of a failed step: `palan_buildkit::session` has the protocol.

use std::os::unix::net::UnixStream;

use bytes::BytesMut;
use palan_buildkit::grpc::{ClientCall, Code, Incoming, Metadata, Outgoing, Status};
use palan_buildkit::message::session::{
    FailedStep as WireStep, ShellInput, ShellOutput, TerminalSize, method,
};
use palan_engine::Error;
use palan_engine::build::{FailedStep, Terminal};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

use super::client::SessionClient;

/// Asks the client for its terminal.
pub(super) fn terminal(client: &SessionClient, step: &FailedStep) -> Result<Terminal, Error> {
    let failed = |source: std::io::Error| Error::system("cannot make a terminal").with_source(source);
    let session = client.session().map_err(super::client::engine_error)?;
    let (ours, theirs) = UnixStream::pair().map_err(failed)?;
    let said = WireStep { command: step.command.clone(), exit_code: step.code, shell: step.shell.clone() };
    let opened = client.wait(session, &client.cancel, async {
        let ClientCall { outgoing, mut incoming } =
            session.channel.call(method::SHELL, Metadata::new()).await?;
        outgoing.send(&ShellOutput { step: Some(said), ..ShellOutput::default() }).await?;
        let gone = || Status::new(Code::Cancelled, "the client has no terminal any more");
        let first: ShellInput = incoming.next().await?.ok_or_else(gone)?;
        Ok((outgoing, incoming, first.size.as_ref().map(size).unwrap_or_default()))
    });
    let (outgoing, incoming, first) = opened?;
    let (sizes, size) = watch::channel(first);
    let _runtime = client.runtime.enter();
    let ours =
        ours.set_nonblocking(true).and_then(|()| tokio::net::UnixStream::from_std(ours)).map_err(failed)?;
    client.runtime.spawn(forward(ours, outgoing, incoming, sizes));
    Ok(Terminal { socket: theirs, size })
}

/// Rows and columns; the kernel knows no more than 16 bits of them.
fn size(size: &TerminalSize) -> (u16, u16) {
    let number = |number: u32| u16::try_from(number).unwrap_or(u16::MAX);
    (number(size.rows), number(size.columns))
}

/// Carries bytes between the shell and the client until one of them has ended. That the sender of sizes goes tells the engine of the
/// client's end.
async fn forward(
    mut socket: tokio::net::UnixStream,
    outgoing: Outgoing,
    mut incoming: Incoming,
    sizes: watch::Sender<(u16, u16)>,
) {
    let (mut reader, mut writer) = socket.split();
    let to_client = async {
        let mut buffer = BytesMut::new();
        while let Ok(1..) = reader.read_buf(&mut buffer).await {
            let data = buffer.split().freeze();
            if outgoing.send(&ShellOutput { data, ..ShellOutput::default() }).await.is_err() {
                break;
            }
        }
    };
    let from_client = async {
        while let Ok(Some(input)) = incoming.next::<ShellInput>().await {
            if let Some(changed) = &input.size {
                sizes.send_replace(size(changed));
            }
            if !input.data.is_empty() && writer.write_all(&input.data).await.is_err() {
                break;
            }
        }
    };
    let is_shells_end = tokio::select! {
        () = to_client => true,
        () = from_client => false,
    };
    // The engine learns of the client's end by this, and the client of the shell's by that.
    drop((sizes, socket, outgoing));
    if is_shells_end {
        let rest = async { while let Ok(Some(_)) = incoming.next::<ShellInput>().await {} };
        let _ = tokio::time::timeout(LINGER, rest).await;
    }
}

/// How long the client may take to end its side of the call.
const LINGER: std::time::Duration = std::time::Duration::from_secs(5);
