//! containerd's store of content (`services/content/v1/content.proto`), which a client offers for caches in directories of its own.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::status::Timestamp;
use crate::wire::messages;

/// Paths of the calls.
#[allow(missing_docs, reason = "the names are the calls'")]
pub mod method {
    pub const INFO: &str = "/containerd.services.content.v1.Content/Info";
    pub const READ: &str = "/containerd.services.content.v1.Content/Read";
    pub const STATUS: &str = "/containerd.services.content.v1.Content/Status";
    pub const WRITE: &str = "/containerd.services.content.v1.Content/Write";
    pub const ABORT: &str = "/containerd.services.content.v1.Content/Abort";
}

/// The metadata that says which of a client's stores is meant.
pub const STORE_ID: &str = "buildkit-attachable-store-id";

/// What a [`WriteRequest`] wants.
#[allow(missing_docs, reason = "the names say it")]
pub mod action {
    pub const STAT: i32 = 0;
    pub const WRITE: i32 = 1;
    pub const COMMIT: i32 = 2;
}

messages! {
    /// What is known of content.
    Info {
        1 digest: String,
        2 size: i64,
        3 created_at: Option<Timestamp>,
        4 updated_at: Option<Timestamp>,
        5 labels: BTreeMap<String, String>,
    }

    /// Which content.
    InfoRequest {
        1 digest: String,
    }

    /// What is known of it.
    InfoResponse {
        1 info: Option<Info>,
    }

    /// Which content, and what of it; a size of 0 is all.
    ReadRequest {
        1 digest: String,
        2 offset: i64,
        3 size: i64,
    }

    /// A piece.
    ReadResponse {
        1 offset: i64,
        2 data: Bytes,
    }

    /// Which transfer.
    StatusRequest {
        1 reference: String,
    }

    /// A step of a transfer.
    WriteRequest {
        1 action: i32,
        /// Names the transfer.
        2 reference: String,
        3 total: i64,
        /// The digest.
        4 expected: String,
        5 offset: i64,
        6 data: Bytes,
        7 labels: BTreeMap<String, String>,
    }

    /// Where a transfer is.
    WriteResponse {
        1 action: i32,
        2 started_at: Option<Timestamp>,
        3 updated_at: Option<Timestamp>,
        4 offset: i64,
        5 total: i64,
        6 digest: String,
    }

    /// Which transfer shall be forgotten.
    AbortRequest {
        1 reference: String,
    }

    /// Nothing.
    Empty {
    }
}
