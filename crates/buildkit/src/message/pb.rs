//! `solver/pb/ops.proto`: what other messages take from it. Steps in BuildKit's own form (`def`) stay opaque.

use std::collections::BTreeMap;

use bytes::Bytes;

use crate::wire::messages;

messages! {
    /// A graph of steps in BuildKit's form, each one marshalled.
    Definition {
        1 def: Vec<Bytes>,
        3 source: Option<Source>,
    }

    /// Where steps come from.
    Source {
        1 locations: BTreeMap<String, Locations>,
        2 infos: Vec<SourceInfo>,
    }

    /// Places of a step.
    Locations {
        1 locations: Vec<Location>,
    }

    /// A place in one of the files.
    Location {
        1 source_index: i32,
        2 ranges: Vec<Range>,
    }

    /// A file, mostly a Dockerfile.
    SourceInfo {
        1 filename: String,
        2 data: Bytes,
        3 definition: Option<Definition>,
        4 language: String,
    }

    /// Lines of a file.
    Range {
        1 start: Option<Position>,
        2 end: Option<Position>,
    }

    /// A place in a file; lines count from 1.
    Position {
        1 line: i32,
        2 character: i32,
    }

    /// What an image or a step is made for.
    Platform {
        1 architecture: String,
        2 os: String,
        3 variant: String,
        4 os_version: String,
        5 os_features: Vec<String>,
    }

    /// Vertices that are shown as one.
    ProgressGroup {
        1 id: String,
        2 name: String,
        3 weak: bool,
    }
}
