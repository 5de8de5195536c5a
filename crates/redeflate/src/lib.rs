//! Writes down how a gzip stream was made, so that the same bytes can be made again from its content.
//!
//! A compressor has choices, and no two make the same. To keep both a layer's content and the exact bytes it was
//! transferred as, one need not keep the bytes, only the choices: which repetitions were taken, where blocks end, which codes
//! they use. [`Recorder`] reads a stream and writes a *recipe*; [`Rebuilder`] makes the stream again from content and recipe.
//! For what zlib, gzip, pigz and Go write, a recipe has about one percent of the stream's size: the choices are
//! foretold by doing as those compressors do, and only what differs is written. For others it is larger, never wrong.
//!
//! ```text
//! gzip stream ──Parser──▶ members, blocks, tokens ──Model + Predictor──▶ arithmetic coder ──▶ recipe
//!                    └──▶ content
//! ```
//!
//! Memory is bounded (some megabytes), whatever the stream. Nothing here panics on any input: streams come from
//! strangers. The idea of predicting and correcting is Dirk Steinke's *preflate* (2018).
//!
//! **Invariant:** the format of a recipe includes every detail of the prediction. Whatever changes an outcome in `predict`,
//! `model`, `coder` or `parse` needs a new [`VERSION`], and the code of the old one stays for as long as recipes of it may
//! exist. The test `recipes_of_this_version` fails if that is forgotten.

#![forbid(unsafe_code)]

use std::io;

mod bits;
mod coder;
mod huffman;
mod model;
mod parse;
mod predict;
mod rebuild;
mod record;
mod token;
mod window;

#[cfg(test)]
mod tests;

pub use rebuild::Rebuilder;
pub use record::Recorder;

/// The version of the format. The first byte of every recipe.
pub const VERSION: u8 = 1;

/// Why a stream has no recipe, or a recipe makes no stream.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// The source failed.
    #[error("cannot read")]
    Read(#[source] io::Error),
    /// The stream is not what this crate takes apart.
    #[error("the gzip stream is refused: {0}")]
    Stream(&'static str),
    /// The recipe contradicts itself or the content.
    #[error("the recipe of a gzip stream is broken: {0}")]
    Recipe(&'static str),
    /// The recipe has another version.
    #[error("the recipe of a gzip stream has version {found}, this program knows {VERSION}")]
    Version {
        /// Which.
        found: u8,
    },
}

impl From<RecipeError> for io::Error {
    fn from(error: RecipeError) -> Self {
        match error {
            RecipeError::Read(error) => error,
            error => Self::new(io::ErrorKind::InvalidData, error),
        }
    }
}
