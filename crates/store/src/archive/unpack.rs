//! Unpacks layers that were put aside, several at once, and reports how far they are.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use palan_oci::Digest;

use super::LoadProgress;
use super::spool::Spooled;
use crate::{BeginLayer, LayerInfo, LayerRequest, Lease, Result, Store};

/// A layer that an image needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct WantedLayer {
    pub(super) blob: Spooled,
    pub(super) diff_id: Option<Digest>,
}

const REPORT_EVERY: Duration = Duration::from_millis(100);
const MAX_THREADS: usize = 4;

impl Store {
    /// Unpacks all layers; the first error ends it.
    pub(super) fn unpack_layers(
        &self,
        layers: &[WantedLayer],
        lease: &Lease,
        progress: &mut dyn FnMut(LoadProgress),
    ) -> Result<()> {
        let threads =
            thread::available_parallelism().map_or(1, usize::from).min(MAX_THREADS).min(layers.len());
        let next = AtomicUsize::new(0);
        let running: Mutex<Vec<(LoadProgress, Arc<AtomicU64>)>> = Mutex::new(Vec::new());
        let (report, reports) = channel();
        thread::scope(|scope| {
            for _ in 0..threads {
                let (report, next, running) = (report.clone(), &next, &running);
                scope.spawn(move || {
                    while let Some(layer) = layers.get(next.fetch_add(1, Ordering::Relaxed)) {
                        let outcome = self.unpack_with(layer, lease, |counter| {
                            let state = progress_of(layer, 0);
                            running.lock().unwrap_or_else(PoisonError::into_inner).push((state, counter));
                        });
                        if outcome.is_err() {
                            next.store(layers.len(), Ordering::Relaxed);
                        }
                        // The receiver is only gone when another layer's error is being returned.
                        let _ = report.send((layer, outcome));
                    }
                });
            }
            drop(report);
            let mut failure = None;
            loop {
                match reports.recv_timeout(REPORT_EVERY) {
                    Ok((layer, Ok(_))) => {
                        let id = id_of(layer);
                        let mut running = running.lock().unwrap_or_else(PoisonError::into_inner);
                        running.retain(|(LoadProgress::Layer { id: other, .. }, _)| *other != id);
                        progress(progress_of(layer, layer.blob.size));
                    }
                    Ok((_, Err(error))) => failure = failure.or(Some(error)),
                    Err(RecvTimeoutError::Disconnected) => break,
                    Err(RecvTimeoutError::Timeout) => {
                        for (LoadProgress::Layer { id, total, .. }, counter) in
                            &*running.lock().unwrap_or_else(PoisonError::into_inner)
                        {
                            let current = counter.load(Ordering::Relaxed);
                            progress(LoadProgress::Layer { id: *id, current, total: *total });
                        }
                    }
                }
            }
            failure.map_or(Ok(()), Err)
        })
    }

    /// Unpacks one layer.
    pub(super) fn unpack_layer(&self, layer: &WantedLayer, lease: &Lease) -> Result<LayerInfo> {
        self.unpack_with(layer, lease, |_| {})
    }

    fn unpack_with(
        &self,
        layer: &WantedLayer,
        lease: &Lease,
        started: impl FnOnce(Arc<AtomicU64>),
    ) -> Result<LayerInfo> {
        let request = LayerRequest { descriptor: layer.blob.descriptor(), diff_id: layer.diff_id };
        loop {
            match self.begin_layer(&request, lease)? {
                BeginLayer::Present(info) => return Ok(info),
                BeginLayer::Busy(busy) => busy.wait(),
                BeginLayer::Ready(writer) => {
                    started(writer.counter());
                    return writer.run(&mut std::io::empty());
                }
            }
        }
    }
}

fn progress_of(layer: &WantedLayer, current: u64) -> LoadProgress {
    LoadProgress::Layer { id: id_of(layer), current, total: layer.blob.size }
}

fn id_of(layer: &WantedLayer) -> Digest {
    layer.diff_id.unwrap_or(layer.blob.digest)
}
