//! `SOURCE_DATE_EPOCH`: the time that a result has whenever it is built.
//!
//! - What the image says of this build is not later, nor is any entry of its history; what came with the base image stays.
//! - With `rewrite-timestamp` neither is a file of a layer that was made here. A layer that has later ones is copied, and the copy is the
//!   image's; steps have seen the times as they were. The copy is in the cache by the layer and the time.
//! - Files that are handed out as files all have this time.

use palan_builder::backend::{Layers as _, Snapshot, StepError};
use palan_builder::cache::{Cache, Record};
use palan_builder::cancel::Cancel;
use palan_linux::copy::copy_layer;
use palan_linux::path::{RootDir, Time};
use palan_oci::Digest;

use super::layers::{BuildLayers, inherit};
use crate::{Error, Result};

/// The build argument.
pub(super) const NAME: &str = "SOURCE_DATE_EPOCH";

/// Reads a time in seconds since 1970; an empty text is none.
pub(super) fn parse(text: &str) -> Result<Option<jiff::Timestamp>> {
    if text.is_empty() {
        return Ok(None);
    }
    let seconds = text.parse::<i64>().ok().and_then(|seconds| jiff::Timestamp::from_second(seconds).ok());
    let invalid = || Error::invalid(format!("invalid {NAME}: {text:?} is no number of seconds since 1970"));
    seconds.map(Some).ok_or_else(invalid)
}

impl BuildLayers<'_> {
    /// The layers of a snapshot without later times. Those of the base image, which are the lowest, stay as they are.
    pub(super) fn rewritten(
        &self,
        snapshot: &Snapshot,
        base: &[Digest],
        epoch: jiff::Timestamp,
        cache: &Cache,
        cancel: &Cancel,
    ) -> Result<Snapshot, StepError> {
        let kept = snapshot.layers.iter().zip(base).take_while(|(layer, base)| layer == base).count();
        let latest = Time { seconds: epoch.as_second(), nanoseconds: 0 };
        let mut layers = snapshot.layers.clone();
        for (number, layer) in layers.iter_mut().enumerate().skip(kept) {
            if cancel.is_cancelled() {
                return Err(StepError::Cancelled);
            }
            let key = Digest::of(format!("rewritten {layer} {}", latest.seconds));
            let known = cache.get(key).map(|record| record.snapshot).filter(|known| self.hold(known));
            let known = known.and_then(|known| known.layers.first().copied());
            *layer = match known {
                Some(known) => known,
                None => {
                    let below = Snapshot { layers: snapshot.layers[..number].to_vec() };
                    let made = self.rewrite(&below, layer, latest)?;
                    let record = Record::new(Snapshot { layers: vec![made] }, format!("times of {layer}"));
                    // Without it the layer is copied again next time.
                    let _ = cache.put(key, &record);
                    made
                }
            };
        }
        Ok(Snapshot { layers })
    }

    fn rewrite(&self, below: &Snapshot, layer: &Digest, latest: Time) -> Result<Digest, StepError> {
        let whole = Snapshot { layers: [&below.layers[..], &[*layer]].concat() };
        let directories = self.directories(&whole)?;
        let source = directories.first().ok_or_else(|| StepError::other("a layer without a directory"))?;
        let source = RootDir::open(source).map_err(StepError::other)?;
        let copy = self.store.new_layer().map_err(StepError::other)?;
        inherit(Some(&source), copy.root())?;
        copy_layer(&source, copy.root(), latest).map_err(StepError::other)?;
        let below = self.view(below)?;
        let kept = self.store.keep_layer(copy, Some(&below), self.lease).map_err(StepError::other)?;
        Ok(kept.diff_id)
    }
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn times() {
        assert_eq!(parse("").expect("none"), None);
        assert_eq!(parse("0").expect("a time"), Some(jiff::Timestamp::UNIX_EPOCH));
        for wrong in ["x", "1.5", "99999999999999999999", "9223372036854775807", " 1"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }
}
