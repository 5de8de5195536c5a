//! Delivers logs to the receivers of the remote drivers, at least once.
//!
//! One task for each container with such a driver follows its file. How far it has come is written to `log-position` in the
//! container's directory after each delivery, so that a daemon that starts goes on there; a delivery whose position was not
//! written any more is made again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::attributes::Origin;
use super::fluentd::{self, Fluentd};
use super::gelf::{self, Gelf};
use super::journald::Journald;
use super::syslog::{self, Syslog};
use super::tail::{Position, Record, Tail};
use crate::Result;
use crate::container::Details;
use crate::container::index::Handle;
use crate::engine::{Engine, blocking};
use crate::error::Context;

/// The waits between attempts at a receiver that is away.
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
/// Attempts for a container that is gone: nobody else would end them.
const LAST_ATTEMPTS: u32 = 10;
/// Records in one delivery.
const BATCH: usize = 1000;
/// A look at the file although nobody said that it changed: a watch may be lost.
const PULSE: Duration = Duration::from_secs(30);

/// Starts to deliver a container's log, if its driver is a remote one.
pub(crate) fn start(engine: &Arc<Engine>, handle: &Arc<Handle>) {
    let details = handle.details();
    if !super::is_remote(&details.host.log.driver) {
        return;
    }
    let (engine, handle) = (Arc::clone(engine), Arc::clone(handle));
    tokio::spawn(async move {
        let mut wait = FIRST_WAIT;
        let mut told = String::new();
        loop {
            let begun = Instant::now();
            let shipped = match Shipper::new(Arc::clone(&engine), Arc::clone(&handle), &details).await {
                Ok(shipper) => shipper.run().await,
                Err(error) => Err(error),
            };
            let Err(error) = shipped else { return };
            let report = error.report();
            if handle.life.borrow().removed {
                tracing::error!(container = details.id, error = report, "a log was not delivered to its end");
                return;
            }
            // What is wrong with this host (too many open files, a certificate that can't be read) may pass.
            if begun.elapsed() > LONGEST_WAIT {
                wait = FIRST_WAIT;
                told.clear();
            }
            if report != told {
                tracing::error!(
                    container = details.id,
                    error = report,
                    "a log is not delivered; it is tried again"
                );
                told = report;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
    });
}

/// Who receives.
#[derive(Debug)]
enum Receiver {
    Syslog(Syslog),
    Gelf(Gelf),
    Fluentd(Fluentd),
    Journald(Journald),
}

impl Receiver {
    async fn send(&mut self, records: &[Record]) -> io::Result<()> {
        match self {
            Self::Syslog(syslog) => syslog.send(records).await,
            Self::Gelf(gelf) => gelf.send(records).await,
            Self::Fluentd(fluentd) => fluentd.send(records).await,
            Self::Journald(journald) => journald.send(records).await,
        }
    }
}

/// When to try again, and when to give up.
#[derive(Debug, Clone, Copy)]
struct Patience {
    first_wait: Duration,
    longest_wait: Duration,
    /// Attempts after which a batch is left out; none: never.
    attempts: Option<u32>,
    batch: usize,
}

struct Shipper {
    engine: Arc<Engine>,
    handle: Arc<Handle>,
    receiver: Receiver,
    patience: Patience,
    tail: Option<Tail>,
    directory: PathBuf,
}

impl Shipper {
    async fn new(engine: Arc<Engine>, handle: Arc<Handle>, details: &Arc<Details>) -> Result<Self> {
        let options = &details.host.log.options;
        let origin = Origin::of(details)?;
        let mut patience =
            Patience { first_wait: FIRST_WAIT, longest_wait: LONGEST_WAIT, attempts: None, batch: BATCH };
        let receiver = match details.host.log.driver.as_str() {
            "syslog" => Receiver::Syslog(Syslog::new(syslog::Settings::parse(options)?, origin)?),
            "gelf" => {
                let settings = gelf::Settings::parse(options)?;
                patience.attempts = settings.max_reconnect;
                patience.first_wait = settings.reconnect_delay.unwrap_or(FIRST_WAIT);
                Receiver::Gelf(Gelf::new(settings, &origin))
            }
            "fluentd" => {
                let settings = fluentd::Settings::parse(options)?;
                patience.attempts = settings.max_retries;
                patience.first_wait = settings.retry_wait.unwrap_or(FIRST_WAIT);
                patience.longest_wait = settings.longest_wait.unwrap_or(LONGEST_WAIT);
                patience.batch = settings.batch;
                Receiver::Fluentd(Fluentd::new(settings, origin))
            }
            _ => Receiver::Journald(Journald::new(&origin)),
        };
        let path = PathBuf::from(&details.log_path);
        let directory = engine.container_dir(&details.id);
        let kept = position_file(&directory);
        let tail = blocking(move || {
            let what = || "cannot read the log".to_owned();
            let position = palan_stdx::fs::read_to_string_if_exists(&kept).context(what)?;
            // A torn file is none: all is delivered again.
            let position: Option<Position> = position.and_then(|text| serde_json::from_str(&text).ok());
            Tail::open(&path, position).context(what)
        });
        let tail = Some(tail.await?);
        Ok(Self { engine, handle, receiver, patience, tail, directory })
    }

    async fn run(mut self) -> Result<()> {
        let watch = self.engine.watcher.watch(&self.directory)?;
        let mut life = self.handle.life.subscribe();
        loop {
            // In this order: what is written after the look at the status or the file is not missed.
            let changed = watch.changed();
            tokio::pin!(changed);
            changed.as_mut().enable();
            let is_removed = life.borrow_and_update().removed;
            while let Some(records) = self.read().await? {
                for batch in records.chunks(self.patience.batch) {
                    self.deliver(batch).await;
                }
                self.keep_position().await;
            }
            if is_removed {
                return Ok(());
            }
            tokio::select! {
                () = changed => {}
                outcome = life.changed() => if outcome.is_err() { return Ok(()) },
                () = tokio::time::sleep(PULSE) => {}
            }
        }
    }

    /// The next records, or `None` at the end of what there is.
    async fn read(&mut self) -> Result<Option<Vec<Record>>> {
        let Some(mut tail) = self.tail.take() else { return Ok(None) };
        let read = blocking(move || {
            let records = tail.read().context(|| "cannot read the log".into())?;
            Ok((tail, records))
        });
        let (tail, records) = read.await?;
        self.tail = Some(tail);
        Ok(Some(records).filter(|records| !records.is_empty()))
    }

    /// Delivers, however often it takes.
    async fn deliver(&mut self, records: &[Record]) {
        let mut wait = self.patience.first_wait;
        let mut attempts = 0_u32;
        loop {
            let Err(error) = self.receiver.send(records).await else {
                if attempts > 0 {
                    tracing::info!(container = self.handle.id, "the receiver of the log is back");
                }
                return;
            };
            attempts += 1;
            if attempts == 1 {
                tracing::warn!(container = self.handle.id, %error, "the log can't be delivered; it is tried again");
            }
            let is_last = self.patience.attempts.is_some_and(|most| attempts > most)
                || (attempts >= LAST_ATTEMPTS && self.handle.life.borrow().removed);
            if is_last {
                tracing::error!(
                    container = self.handle.id, lines = records.len(), %error,
                    "lines of the log were not delivered and are left out"
                );
                return;
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(self.patience.longest_wait.max(self.patience.first_wait));
        }
    }

    async fn keep_position(&self) {
        let Some(position) = self.tail.as_ref().map(Tail::position) else { return };
        let path = position_file(&self.directory);
        let kept = blocking(move || {
            let text = serde_json::to_string(&position).context(|| "cannot write the position".into())?;
            let temporary = path.with_extension("new");
            palan_stdx::fs::write(&temporary, text).context(|| "cannot write the position".into())?;
            palan_stdx::fs::rename(&temporary, &path).context(|| "cannot write the position".into())
        });
        if let Err(error) = kept.await
            && !self.handle.life.borrow().removed
        {
            tracing::debug!(
                container = self.handle.id,
                error = error.report(),
                "the log's position is not kept"
            );
        }
    }
}

fn position_file(directory: &Path) -> PathBuf {
    directory.join("log-position")
}
