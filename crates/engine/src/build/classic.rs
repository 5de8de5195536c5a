//! A build as the classic builder tells it: instructions one after the other, numbered, each with what it wrote.
//!
//! Steps run side by side all the same. What a later one writes is held until those before it have been told.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use palan_linux::path::RootDir;
use palan_oci::Digest;
use palan_store::Limits;
use palan_store::tree::{Unpacking, unpack_into};
use tokio::sync::mpsc;

use self::backlog::{CLIPPED, Heard, Sink};
use super::progress::{Event, Output, ProgressSink, Step, Vertex};
use super::request::{BuildClient, BuildOutcome, BuildRequest};
use super::{BuildError, Cancel};
use crate::container::driver::short;
use crate::engine::Engine;
use crate::error::Context as _;
use crate::image::{Progress, registry_error};
use crate::stream::{BodyReader, Items, body_pipe};
use crate::{Error, Result};

mod backlog;

/// Lines that wait for a slow client; then events do ([`backlog`]).
const BACKLOG: usize = 1024;

/// What of a step's output is held while steps before it run.
const MAX_HELD: usize = 4 << 20;

/// Around what a step writes to its standard error; clients look for it.
const RED: &str = "\x1b[91m";
const PLAIN: &str = "\x1b[0m";

/// One piece of the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClassicLine {
    /// Text, with its newline.
    Text(String),
    /// A layer that arrives.
    Progress(Progress),
    /// The image's id.
    Image(String),
    /// The end, if something went wrong.
    Failed {
        /// The command's exit code; none for another cause.
        code: Option<i64>,
        /// The text.
        message: String,
    },
}

/// A context that is somewhere else.
#[derive(Debug)]
pub enum RemoteContext {
    /// It is a Dockerfile.
    Dockerfile(Vec<u8>),
    /// It is an archive.
    Archive(BodyReader),
}

/// Unpacks the archive of a context, which may be compressed, into an empty directory, which nothing in it can leave. Everything in it
/// is root's.
pub fn unpack_context(source: &mut dyn Read, into: &RootDir) -> Result<()> {
    let unpacking = Unpacking { owner: Some((0, 0)), keep_kinds: false };
    let unpacked = unpack_into(source, into, std::path::Path::new(""), &unpacking, &Limits::default());
    unpacked.map_err(|source| {
        let error = match source.is_bad_archive() {
            true => Error::invalid("the build context can't be unpacked"),
            false => Error::system("the build context can't be kept"),
        };
        error.with_source(source)
    })
}

impl Engine {
    /// Builds, and tells it line by line. With `quiet` only the image's id and failures are told. An error that comes before the first
    /// line is returned. When the stream is dropped, the build ends.
    pub async fn build_classic(
        &self,
        request: BuildRequest,
        client: Arc<dyn BuildClient>,
        quiet: bool,
    ) -> Result<Items<ClassicLine>> {
        let (sender, items) = Items::channel(BACKLOG);
        let cancel = Cancel::new();
        let (told, gone) = (cancel.clone(), sender.clone());
        let (events, heard) = Sink::new();
        let teller = Teller { sender: sender.clone(), quiet, ..Teller::new(sender.clone()) };
        // A thread of its own: it lasts as long as the build, and waits for its client.
        let (tell_end, telling) = tokio::sync::oneshot::channel();
        std::thread::Builder::new()
            .name("build-progress".to_owned())
            .spawn(move || drop(tell_end.send(teller.run(&heard))))
            .context(|| "cannot start a thread".into())?;
        let engine = self.shared();
        tokio::spawn(async move {
            let progress: Arc<dyn ProgressSink> = Arc::new(events);
            let building = engine.build(request, client, Arc::clone(&progress), cancel);
            tokio::pin!(building);
            let outcome = tokio::select! {
                outcome = &mut building => outcome,
                // Nobody listens any more. The build is waited for, so that nothing of it is left.
                () = gone.closed() => {
                    told.cancel();
                    building.await
                }
            };
            drop(progress);
            // It ends with the last sender of events.
            let told = telling.await.ok();
            end(&sender, outcome, quiet, told.flatten()).await;
        });
        items.begun().await
    }

    /// Fetches a context that is named by a URL.
    pub async fn remote_context(&self, url: &str) -> Result<RemoteContext> {
        let mut download = self.registry.download(url).await.map_err(registry_error)?;
        let mut start = Vec::new();
        while start.len() < 512 {
            match download.next().await.map_err(registry_error)? {
                Some(piece) => start.extend_from_slice(&piece),
                None => break,
            }
        }
        let is_archive = palan_store::tree::is_archive(&mut &start[..]).map_err(|source| {
            Error::invalid(format!("the context at {url} can't be used")).with_source(source)
        })?;
        // What is compressed can't be judged by its first bytes alone.
        let is_compressed = matches!(
            start[..],
            [0x1f, 0x8b, ..]
                | [0x28, 0xb5, 0x2f, 0xfd, ..]
                | [b'B', b'Z', b'h', b'1'..=b'9', ..]
                | [0xfd, b'7', b'z', b'X', b'Z', 0, ..]
        );
        if is_archive || is_compressed {
            let (pipe, body) = body_pipe();
            tokio::spawn(async move {
                let mut piece = Ok(start.into());
                loop {
                    let failed = piece.is_err();
                    if !pipe.send(piece).await || failed {
                        break;
                    }
                    piece = match download.next().await {
                        Ok(None) => break,
                        Ok(Some(more)) => Ok(more),
                        Err(error) => Err(std::io::Error::other(palan_stdx::error_chain::to_string(&error))),
                    };
                }
            });
            return Ok(RemoteContext::Archive(body));
        }
        while let Some(piece) = download.next().await.map_err(registry_error)? {
            start.extend_from_slice(&piece);
            if start.len() > palan_dockerfile::MAX_FILE {
                return Err(Error::invalid(format!("the Dockerfile at {url} is too large")));
            }
        }
        Ok(RemoteContext::Dockerfile(start))
    }
}

async fn end(
    sender: &mpsc::Sender<Result<ClassicLine>>,
    outcome: Result<BuildOutcome, BuildError>,
    quiet: bool,
    told: Option<Vec<Step>>,
) {
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            let item = match told {
                // Nothing was told yet: a status says more.
                None => Err(error.error),
                Some(steps) => Ok(failure(&error, &keyword(&steps, &error))),
            };
            // The client may have gone.
            let _ = sender.send(item).await;
            return;
        }
    };
    let image = outcome.image().image;
    let id = image.to_string();
    let mut lines = Vec::new();
    if quiet {
        lines.push(ClassicLine::Text(format!("{id}\n")));
    } else {
        lines.push(ClassicLine::Image(id));
        lines.push(ClassicLine::Text(format!("Successfully built {}\n", short(&image.hex()))));
        let tagged = outcome.names.iter().map(|name| format!("Successfully tagged {}\n", name.familiar()));
        lines.extend(tagged.map(ClassicLine::Text));
    }
    for line in lines {
        let _ = sender.send(Ok(line)).await;
    }
}

/// The keyword of the instruction at fault.
fn keyword(steps: &[Step], error: &BuildError) -> String {
    let step = steps.iter().find(|step| error.vertex.is_some() && step.vertex == error.vertex);
    step.and_then(|step| step.text.split_whitespace().next()).unwrap_or_default().to_uppercase()
}

/// In the classic builder's words. `keyword` is that of the instruction at fault.
fn failure(error: &BuildError, keyword: &str) -> ClassicLine {
    match error.exit.as_deref() {
        Some((command, code)) => ClassicLine::Failed {
            code: Some(i64::from(*code)),
            message: format!("The command '{command}' returned a non-zero code: {code}"),
        },
        None if matches!(keyword, "COPY" | "ADD") && error.vertex.is_some() => {
            ClassicLine::Failed { code: None, message: format!("{keyword} failed: {}", error.error.report()) }
        }
        None => ClassicLine::Failed { code: None, message: error.error.report() },
    }
}

/// What is known of a vertex.
#[derive(Default)]
struct Known {
    vertex: Option<Vertex>,
    /// Written while steps before it were told.
    held: Vec<String>,
    held_bytes: usize,
    is_clipped: bool,
}

/// Puts events in the order of the instructions.
struct Teller {
    sender: mpsc::Sender<Result<ClassicLine>>,
    quiet: bool,
    steps: Vec<Step>,
    /// Which one is being told.
    current: usize,
    is_announced: bool,
    known: HashMap<Digest, Known>,
    /// What the last step came to.
    last: String,
}

impl Teller {
    fn new(sender: mpsc::Sender<Result<ClassicLine>>) -> Self {
        Self {
            sender,
            quiet: false,
            steps: Vec::new(),
            current: 0,
            is_announced: false,
            known: HashMap::new(),
            last: String::new(),
        }
    }

    /// Tells until there is nothing more; the steps, if there was a plan at all.
    fn run(mut self, heard: &Heard) -> Option<Vec<Step>> {
        while let Some(event) = heard.next() {
            self.hear(event);
            self.advance();
        }
        // A failed step may stand behind one that was stopped for its sake.
        let failed = (self.current..self.steps.len()).find(|step| self.has_failed(*step));
        if let Some(failed) = failed.filter(|failed| *failed != self.current || !self.is_announced) {
            (self.current, self.is_announced) = (failed, false);
            self.announce();
            self.release();
        }
        Some(self.steps).filter(|steps| !steps.is_empty())
    }

    fn has_failed(&self, step: usize) -> bool {
        let vertex = self.steps[step].vertex.and_then(|digest| self.known.get(&digest)?.vertex.as_ref());
        vertex.is_some_and(|vertex| !vertex.error.is_empty() && vertex.error != "the build was cancelled")
    }

    fn hear(&mut self, event: Event) {
        match event {
            Event::Steps(steps) => self.steps = steps,
            Event::Vertex(vertex) => {
                let known = self.known.entry(vertex.digest).or_default();
                known.vertex = Some(vertex);
            }
            Event::Log(log) => {
                let is_current = self.is_announced
                    && self.steps.get(self.current).is_some_and(|step| step.vertex == Some(log.vertex));
                let text = String::from_utf8_lossy(&log.bytes);
                let text = match log.stream {
                    Output::Stdout => text.into_owned(),
                    Output::Stderr => format!("{RED}{text}{PLAIN}"),
                };
                if is_current {
                    self.tell(ClassicLine::Text(text));
                } else {
                    let known = self.known.entry(log.vertex).or_default();
                    known.held_bytes = known.held_bytes.saturating_add(text.len());
                    if known.held_bytes <= MAX_HELD {
                        known.held.push(text);
                    } else if !std::mem::replace(&mut known.is_clipped, true) {
                        known.held.push(CLIPPED.to_owned());
                    }
                }
            }
            Event::Status(status) => {
                let (current, total) = (Some(status.current), Some(status.total));
                let progress =
                    Progress { id: status.id, status: status.name, current, total, ..Progress::default() };
                self.tell(ClassicLine::Progress(progress));
            }
            Event::Warning(warning) => self.text(&format!("[Warning] {}\n", warning.short)),
        }
    }

    fn advance(&mut self) {
        while let Some(step) = self.steps.get(self.current) {
            let is_base = step.text.to_uppercase().starts_with("FROM ");
            let Some(digest) = step.vertex else {
                let Some(cached) = self.is_said_again() else { return };
                self.announce();
                if cached {
                    self.text(" ---> Using cache\n");
                }
                let text = format!(" ---> {}\n", self.last);
                self.text(&text);
                self.next();
                continue;
            };
            let vertex = self.known.get(&digest).and_then(|known| known.vertex.clone());
            let Some(vertex) = vertex.filter(|vertex| vertex.started.is_some()) else { return };
            self.announce();
            self.release();
            if vertex.completed.is_none() || !vertex.error.is_empty() {
                return;
            }
            if vertex.cached && !is_base {
                self.text(" ---> Using cache\n");
            }
            if let Some(result) = vertex.result {
                short(&result.hex()).clone_into(&mut self.last);
            }
            let text = format!(" ---> {}\n", self.last);
            self.text(&text);
            self.next();
        }
    }

    /// Whether a step that only says something said it in an earlier build, too: the next one that does something shows it, or the one
    /// before if there is none. None as long as that is not known.
    fn is_said_again(&self) -> Option<bool> {
        let does = |step: &&Step| step.vertex.is_some();
        let is_base = |step: &Step| step.text.to_uppercase().starts_with("FROM ");
        let next = self.steps[self.current..].iter().find(does).filter(|next| !is_base(next));
        let vertex = |step: &Step| self.known.get(&step.vertex?)?.vertex.as_ref();
        match next {
            Some(next) => vertex(next).filter(|vertex| vertex.started.is_some()).map(|vertex| vertex.cached),
            None => {
                let last = self.steps[..self.current].iter().rfind(does).filter(|last| !is_base(last));
                Some(last.and_then(vertex).is_some_and(|vertex| vertex.cached))
            }
        }
    }

    fn announce(&mut self) {
        if std::mem::replace(&mut self.is_announced, true) {
            return;
        }
        let Some(step) = self.steps.get(self.current) else { return };
        let text = format!("Step {}/{} : {}", self.current + 1, self.steps.len(), step.text);
        self.text(&text);
        self.text("\n");
    }

    fn release(&mut self) {
        let digest = self.steps.get(self.current).and_then(|step| step.vertex);
        let held = digest
            .and_then(|digest| self.known.get_mut(&digest))
            .map(|known| std::mem::take(&mut known.held));
        for text in held.unwrap_or_default() {
            self.tell(ClassicLine::Text(text));
        }
    }

    fn next(&mut self) {
        self.current += 1;
        self.is_announced = false;
    }

    fn text(&self, text: &str) {
        self.tell(ClassicLine::Text(text.to_owned()));
    }

    fn tell(&self, line: ClassicLine) {
        if !self.quiet {
            // The client may have gone.
            let _ = self.sender.blocking_send(Ok(line));
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;

    use super::super::progress::Log;
    use super::*;

    fn vertex(name: &str, ended: Option<&str>, cached: bool) -> Event {
        Event::Vertex(Vertex {
            digest: Digest::of(name),
            name: name.to_owned(),
            inputs: Vec::new(),
            started: Some(Timestamp::UNIX_EPOCH),
            completed: ended.map(|_| Timestamp::UNIX_EPOCH),
            cached,
            error: ended.unwrap_or_default().to_owned(),
            result: ended.map(|_| Digest::of(name)),
        })
    }

    fn log(name: &str, text: &str) -> Event {
        let (vertex, stream) = (Digest::of(name), Output::Stdout);
        Event::Log(Log { vertex, stream, time: Timestamp::UNIX_EPOCH, bytes: text.as_bytes().to_vec() })
    }

    fn told(events: Vec<Event>) -> (String, usize) {
        let (sender, mut receiver) = mpsc::channel(1000);
        let (sink, heard) = Sink::new();
        events.into_iter().for_each(|event| sink.event(event));
        drop(sink);
        let steps = Teller::new(sender).run(&heard).unwrap_or_default();
        let mut text = String::new();
        while let Ok(line) = receiver.try_recv() {
            if let Ok(ClassicLine::Text(line)) = line {
                text.push_str(&line);
            }
        }
        (text, steps.len())
    }

    fn steps() -> Event {
        let step =
            |text: &str, vertex: Option<&str>| Step { text: text.to_owned(), vertex: vertex.map(Digest::of) };
        Event::Steps(vec![
            step("FROM a", Some("a")),
            step("ENV x=1", None),
            step("RUN b", Some("b")),
            step("RUN c", Some("c")),
        ])
    }

    #[test]
    fn steps_are_told_in_their_order_whatever_comes_first() {
        let events = vec![
            steps(),
            vertex("c", None, false),
            log("c", "of c\n"),
            vertex("a", Some(""), true),
            vertex("b", None, false),
            log("b", "of b\n"),
            vertex("c", Some(""), false),
            vertex("b", Some(""), true),
        ];
        let short = |name: &str| short(&Digest::of(name).hex()).to_owned();
        let (a, b, c) = (short("a"), short("b"), short("c"));
        let expected = format!(
            "Step 1/4 : FROM a\n ---> {a}\nStep 2/4 : ENV x=1\n ---> {a}\nStep 3/4 : RUN b\nof b\n ---> Using cache\n ---> {b}\n\
             Step 4/4 : RUN c\nof c\n ---> {c}\n"
        );
        assert_eq!(told(events).0, expected);
    }

    #[test]
    fn the_step_that_failed_is_told_last() {
        let (text, steps) = told(vec![
            steps(),
            vertex("a", Some(""), true),
            vertex("b", Some("the build was cancelled"), false),
            log("c", "of c\n"),
            vertex("c", Some("exit code: 1"), false),
        ]);
        assert!(text.ends_with("Step 4/4 : RUN c\nof c\n"), "{text}");
        assert_eq!(steps, 4);
        assert_eq!(told(Vec::new()), (String::new(), 0));
    }
}
