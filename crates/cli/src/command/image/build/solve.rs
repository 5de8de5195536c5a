//! The conversation with the daemon.
//!
//! 1. Two connections, each upgraded to HTTP/2: `/session`, on which the daemon calls us, and `/grpc`, on which we call it.
//! 2. `Status` is asked before `Solve`, so that nothing of the progress is missed.
//! 3. Until `Solve` is answered, what `Status` tells is shown; a table is drawn again as time passes.
//! 4. A signal cancels the call: the daemon ends the steps that run and tells so by `Status`. A second one is not waited for. Before
//!    the daemon was asked to build there is nothing to wait for. A signal that was ignored when we began (`nohup`) stays so.

use std::future::Future;
use std::io::Write as _;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use palan_buildkit::control::{Answers, Control};
use palan_buildkit::errdefs;
use palan_buildkit::grpc::{Channel, Code, Status};
use palan_buildkit::message::control::{
    CacheOptions, CacheOptionsEntry, Exporter, SolveRequest, SolveResponse, StatusResponse,
};
use palan_buildkit::session::{self, SHELL_LABEL};
use palan_buildkit::upgrade::{UpgradeError, Upgraded, upgrade};
use palan_docker_api::client::{Client, Socket};
use palan_dockerfile::{Position, Source as Text, Span};
use palan_linux::signal::{Signal as Number, is_ignored};
use palan_stdx::error_chain;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};

use super::cache::Cache;
use super::request::Request;
use super::result::Outcome;
use super::shell::{Console, Pause};
use super::source::Source;
use super::{convert, services};
use crate::app::App;
use crate::environment::NO_COLOR;
use crate::error::{CliError, Kind, Result};
use crate::output::build::{Mode, Progress, Surface, Trace};
use crate::output::streams::Sink;

/// How often a table is drawn.
const FRAME: Duration = Duration::from_millis(100);
/// How long the progress may still come when the build is done, or was cancelled.
const PATIENCE: Duration = Duration::from_secs(5);
/// Messages of progress that may wait to be shown.
const AHEAD: usize = 16;
/// The frontend of Dockerfiles.
const FRONTEND: &str = "dockerfile.v0";
/// Lines of output below a step of the table.
const LOG_LINES: usize = 6;
/// The label by which a worker says which address is meant by `host-gateway`.
const GATEWAY_LABEL: &str = "org.mobyproject.buildkit.worker.moby.host-gateway-ip";
const GATEWAY: &str = "host-gateway";

/// Has it built.
pub(super) fn solve(
    app: &App,
    source: &Source,
    request: &Request,
    mode: Mode,
    wants_shell: bool,
) -> Result<Outcome> {
    let client = app.client()?;
    // What is sent can't be sent again in an older version.
    client.ping()?;
    let surface = Surface {
        colour: app.environment.set(NO_COLOR).is_none(),
        label: format!("{}:{}", app.name(), app.context()),
        log_lines: LOG_LINES,
    };
    let progress = Progress::new(mode, app.streams.errors_is_terminal(), surface, SystemTime::now());
    let (console, pauses) = Console::new(app);
    let view = Shown { app, progress, out: app.streams.errors(), pauses, is_over: false };
    let console = wants_shell.then_some(console);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| CliError::io("start the build", &error))?;
    let result = runtime.block_on(build(app, client, source, request, console, view));
    // A thread that reads standard input for the daemon can't be ended, and isn't waited for.
    runtime.shutdown_background();
    crate::terminal::restore();
    result
}

/// The progress, and where it goes.
struct Shown<'a> {
    app: &'a App,
    progress: Progress,
    out: Sink,
    /// A shell wants the terminal.
    pauses: mpsc::Receiver<Pause>,
    /// The table was drawn for the last time.
    is_over: bool,
}

impl Shown<'_> {
    /// The next who wants the terminal.
    async fn paused(&mut self) -> Pause {
        match self.pauses.recv().await {
            Some(pause) => pause,
            // Nobody will.
            None => std::future::pending().await,
        }
    }

    fn update(&mut self, response: &StatusResponse) {
        let text = self.progress.update(&convert::update(response), SystemTime::now());
        self.write(&text);
    }

    fn draw(&mut self) {
        if self.progress.is_live() && !self.is_over {
            let (rows, columns) = self.app.streams.size_of_errors();
            let text = self.progress.draw(SystemTime::now(), rows, columns);
            self.write(&text);
        }
    }

    fn finish(&mut self) {
        if std::mem::replace(&mut self.is_over, true) {
            return;
        }
        let (rows, columns) = self.app.streams.size_of_errors();
        let text = self.progress.finish(SystemTime::now(), rows, columns);
        self.write(&text);
    }

    fn write(&mut self, text: &str) {
        if !text.is_empty() {
            // There is nobody to tell when talk can't be written.
            let _ = self.out.write_all(text.as_bytes());
        }
    }
}

async fn build(
    app: &App,
    client: &Client,
    source: &Source,
    request: &Request,
    console: Option<Arc<Console>>,
    mut shown: Shown<'_>,
) -> Result<Outcome> {
    let mut signals = Signals::new().map_err(|error| CliError::io("watch for signals", &error))?;
    let asking = tokio::select! {
        asking = ask(app, client, source, request, console) => asking?,
        number = signals.next() => return Err(interrupted(number)),
    };
    let Asking { control, question, answers } = asking;
    let solved = watch(control.solve(&question), follow(answers), &mut signals, &mut shown).await;
    if matches!(solved, Err(End::Signal(_))) {
        let text = shown.progress.cancel(SystemTime::now());
        shown.write(&text);
    }
    shown.finish();
    match solved {
        Ok(response) => {
            let text = warnings(shown.progress.trace(), app);
            if shown.progress.is_for_people() {
                shown.write(&text);
            }
            Ok(Outcome { reference: question.reference, answers: response.exporter_response })
        }
        Err(End::Failed(status)) => Err(failure(&status)),
        Err(End::Signal(number)) => Err(interrupted(number)),
    }
}

/// All that a build needs before it is asked for.
struct Asking {
    control: Control,
    question: SolveRequest,
    answers: Answers<StatusResponse>,
}

/// Begins the conversation. What serves the two connections goes on until the runtime ends.
async fn ask(
    app: &App,
    client: &Client,
    source: &Source,
    request: &Request,
    console: Option<Arc<Console>>,
) -> Result<Asking> {
    let failed = |error: std::io::Error| CliError::io("prepare the build", &error);
    let (id, reference) = (session::new_id().map_err(failed)?, session::new_id().map_err(failed)?);
    let mut offered = services::of(app, request)?;
    let wants_shell = console.is_some();
    if let Some(console) = console {
        offered = offered.shell(console);
    }
    let headers = offered.headers(&id, &services::name(source), &services::shared_key(app, source));
    let stream = connect(client, "/session", &headers).await?;
    tokio::spawn(offered.serve(stream));
    let stream = connect(client, "/grpc", &[]).await?;
    let (channel, driver) = Channel::connect(stream).await.map_err(|status| failure(&status))?;
    tokio::spawn(driver);
    let control = Control::new(channel);
    if wants_shell && label(&control, SHELL_LABEL).await?.is_none() {
        return Err(CliError::new(format!(
            "the daemon at {} opens no shell for steps that fail",
            client.host()
        ))
        .hint("Build without --on-error."));
    }
    let question = question(&control, request, &id, &reference).await?;
    let answers = control.status(&reference).await.map_err(|status| failure(&status))?;
    Ok(Asking { control, question, answers })
}

/// The end by a signal.
fn interrupted(number: i32) -> CliError {
    CliError::of(
        Kind::Exit(u8::try_from(128 + number).unwrap_or(u8::MAX)),
        "ERROR: failed to build: failed to solve: Canceled: context canceled",
    )
}

/// Takes the progress as it comes: a message that is waited for can't be left half read.
fn follow(mut answers: Answers<StatusResponse>) -> mpsc::Receiver<StatusResponse> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    tokio::spawn(async move {
        // Why it ends is what the build itself tells.
        while let Ok(Some(response)) = answers.next().await {
            if sender.send(response).await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// How a build ends that ends badly.
enum End {
    Failed(Status),
    /// We were sent this signal.
    Signal(i32),
}

/// Shows the progress until the build is done.
async fn watch(
    solve: impl Future<Output = std::result::Result<SolveResponse, Status>>,
    mut told: mpsc::Receiver<StatusResponse>,
    signals: &mut Signals,
    shown: &mut Shown<'_>,
) -> std::result::Result<SolveResponse, End> {
    // Dropping it is what cancels the build.
    let mut solve = Some(Box::pin(solve));
    let mut result = None;
    let mut is_told = false;
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let end = tokio::time::sleep(Duration::MAX / 4);
    tokio::pin!(end);
    let mut pause: Option<oneshot::Receiver<()>> = None;
    while result.is_none() || !is_told || pause.is_some() {
        tokio::select! {
            wanted = shown.paused(), if pause.is_none() => {
                shown.finish();
                // Who has asked may have gone.
                let _ = wanted.ready.send(());
                pause = Some(wanted.over);
            },
            () = over(&mut pause), if pause.is_some() => pause = None,
            response = told.recv(), if !is_told && pause.is_none() => match response {
                Some(response) => shown.update(&response),
                None => is_told = true,
            },
            solved = async { match &mut solve {
                Some(solve) => solve.await,
                None => std::future::pending().await,
            } }, if result.is_none() => {
                result = Some(solved.map_err(End::Failed));
                end.as_mut().reset(tokio::time::Instant::now() + PATIENCE);
            },
            number = signals.next() => {
                if matches!(result, Some(Err(End::Signal(_)))) {
                    break;
                }
                solve = None;
                result = Some(Err(End::Signal(number)));
                end.as_mut().reset(tokio::time::Instant::now() + PATIENCE);
            },
            _ = frames.tick(), if pause.is_none() => shown.draw(),
            () = &mut end, if result.is_some() => break,
        }
    }
    result.unwrap_or_else(|| Err(End::Failed(Status::new(Code::Unavailable, "the connection has ended"))))
}

/// Waits until who has the terminal gives it back.
async fn over(pause: &mut Option<oneshot::Receiver<()>>) {
    if let Some(pause) = pause {
        // It is closed; nothing is sent.
        let _ = pause.await;
    }
}

/// The signals that end us, but for those that whoever started us wants ignored.
struct Signals {
    interrupt: Option<Signal>,
    terminate: Option<Signal>,
    hang_up: Option<Signal>,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let watched = |number, kind| match is_ignored(number) {
            true => Ok(None),
            false => signal(kind).map(Some),
        };
        Ok(Self {
            interrupt: watched(Number::INT, SignalKind::interrupt())?,
            terminate: watched(Number::TERM, SignalKind::terminate())?,
            hang_up: watched(Number::HUP, SignalKind::hangup())?,
        })
    }

    /// The number of the next one.
    async fn next(&mut self) -> i32 {
        async fn next(signal: &mut Option<Signal>) {
            match signal {
                Some(signal) => drop(signal.recv().await),
                None => std::future::pending().await,
            }
        }
        tokio::select! {
            () = next(&mut self.interrupt) => SignalKind::interrupt().as_raw_value(),
            () = next(&mut self.terminate) => SignalKind::terminate().as_raw_value(),
            () = next(&mut self.hang_up) => SignalKind::hangup().as_raw_value(),
        }
    }
}

/// A connection of either kind, seen by `upgrade`.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

async fn connect(
    client: &Client,
    path: &str,
    headers: &[(String, String)],
) -> Result<Upgraded<Box<dyn Stream>>> {
    let failed = |error: std::io::Error| CliError::io("connect to the daemon", &error);
    let dialer = client.clone();
    // A host that doesn't answer takes its time, in which signals have to be heard.
    let socket = tokio::task::spawn_blocking(move || dialer.dial()).await;
    let socket = socket.map_err(|error| failed(std::io::Error::other(error)))??;
    let stream = asynchronous(socket).map_err(failed)?;
    let path = format!("/v{}{path}", client.version());
    upgrade(stream, &path, headers).await.map_err(|error| match error {
        UpgradeError::Refused { status: 404, .. } => {
            CliError::new(format!("the daemon at {} does not build images", client.host()))
        }
        error => CliError::new(format!("Error response from daemon: {}", error_chain::to_string(&error))),
    })
}

fn asynchronous(socket: Socket) -> std::io::Result<Box<dyn Stream>> {
    Ok(match socket {
        Socket::Unix(socket) => {
            socket.set_nonblocking(true)?;
            Box::new(tokio::net::UnixStream::from_std(socket)?)
        }
        Socket::Tcp(socket) => {
            socket.set_nonblocking(true)?;
            Box::new(tokio::net::TcpStream::from_std(socket)?)
        }
    })
}

async fn question(
    control: &Control,
    request: &Request,
    session: &str,
    reference: &str,
) -> Result<SolveRequest> {
    let mut attributes = request.attributes.clone();
    if let Some(hosts) = attributes.get_mut("add-hosts")
        && hosts.contains(GATEWAY)
        && let Some(address) = label(control, GATEWAY_LABEL).await?
    {
        let hosts_with = hosts.split(',').map(|host| match host.strip_suffix(GATEWAY) {
            Some(name) => format!("{name}{address}"),
            None => host.to_owned(),
        });
        *hosts = hosts_with.collect::<Vec<_>>().join(",");
    }
    let entry = |cache: &Cache| CacheOptionsEntry {
        kind: cache.kind.clone(),
        attrs: cache.attributes.iter().cloned().collect(),
    };
    let exporters = request.exports.iter().map(|export| Exporter {
        kind: export.kind.clone(),
        attrs: export.attributes.iter().cloned().collect(),
    });
    let exporters: Vec<Exporter> = exporters.collect();
    // Before BuildKit 0.13 a build had one output, in fields of its own.
    let only = exporters.first().cloned().unwrap_or_default();
    Ok(SolveRequest {
        reference: reference.to_owned(),
        session: session.to_owned(),
        frontend: FRONTEND.to_owned(),
        frontend_attrs: attributes,
        cache: Some(CacheOptions {
            exports: request.cache_to.iter().map(entry).collect(),
            imports: request.cache_from.iter().map(entry).collect(),
            ..CacheOptions::default()
        }),
        entitlements: request.entitlements.clone(),
        exporter_deprecated: only.kind,
        exporter_attrs_deprecated: only.attrs,
        exporters,
        ..SolveRequest::default()
    })
}

/// What the daemon says of itself.
async fn label(control: &Control, name: &str) -> Result<Option<String>> {
    let workers = control.list_workers().await.map_err(|status| failure(&status))?;
    Ok(workers.record.iter().find_map(|worker| worker.labels.get(name).cloned()))
}

/// What the daemon says, with the places in the Dockerfile that it names.
fn failure(status: &Status) -> CliError {
    let mut text = String::new();
    for source in errdefs::sources(status) {
        let shown = Text::new(source.info.filename.clone(), &source.info.data);
        if let (Some(first), Some(last)) = (source.ranges.first(), source.ranges.last()) {
            let position = |position: &Option<palan_buildkit::message::pb::Position>| {
                let position = position.clone().unwrap_or_default();
                let number = |number: i32| usize::try_from(number).unwrap_or_default();
                Position { line: number(position.line), column: number(position.character) }
            };
            text.push_str(&shown.excerpt(Span { start: position(&first.start), end: position(&last.end) }));
        }
    }
    CliError::new(format!("{text}ERROR: failed to build: failed to solve: {status}"))
}

/// What the frontend advised; in full for those who want to know.
fn warnings(trace: &Trace, app: &App) -> String {
    let warnings = trace.warnings();
    let mut text = match warnings.len() {
        0 => return String::new(),
        1 => "\n 1 warning found".to_owned(),
        count => format!("\n {count} warnings found"),
    };
    if !app.debug() {
        text.push_str(&format!(" (use {} --debug build to expand)", app.name()));
    }
    text.push_str(":\n");
    for warning in warnings {
        text.push_str(&format!(" - {}\n", warning.short));
        if !app.debug() {
            continue;
        }
        for line in &warning.detail {
            text.push_str(&format!("{line}\n"));
        }
        if !warning.url.is_empty() {
            text.push_str(&format!("More info: {}\n", warning.url));
        }
        if let (Some(file), Some((first, last))) = (&warning.file, warning.ranges.first()) {
            let at = |line: usize| Position { line, column: 0 };
            let span = Span { start: at(first.line), end: at(last.line) };
            text.push_str(&Text::new(file.name.clone(), &file.content).excerpt(span));
        }
        text.push('\n');
    }
    text
}
