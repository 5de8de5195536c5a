//! `api/services/control/control.proto` and `api/types/worker.proto`: `moby.buildkit.v1.Control`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::pb::{Definition, Platform, ProgressGroup, Range, SourceInfo};
use super::status::{Status, Timestamp};
use crate::wire::messages;

/// Paths of the calls.
#[allow(missing_docs, reason = "the names are the calls'")]
pub mod method {
    pub const DISK_USAGE: &str = "/moby.buildkit.v1.Control/DiskUsage";
    pub const PRUNE: &str = "/moby.buildkit.v1.Control/Prune";
    pub const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";
    pub const STATUS: &str = "/moby.buildkit.v1.Control/Status";
    pub const SESSION: &str = "/moby.buildkit.v1.Control/Session";
    pub const LIST_WORKERS: &str = "/moby.buildkit.v1.Control/ListWorkers";
    pub const INFO: &str = "/moby.buildkit.v1.Control/Info";
    pub const LISTEN_BUILD_HISTORY: &str = "/moby.buildkit.v1.Control/ListenBuildHistory";
    pub const UPDATE_BUILD_HISTORY: &str = "/moby.buildkit.v1.Control/UpdateBuildHistory";
}

/// Kinds of [`BuildHistoryEvent`]s.
#[allow(missing_docs, reason = "the names say it")]
pub mod history_event {
    pub const STARTED: i32 = 0;
    pub const COMPLETE: i32 = 1;
    pub const DELETED: i32 = 2;
}

messages! {
    /// What to remove of the cache.
    PruneRequest {
        1 filter: Vec<String>,
        2 all: bool,
        /// In nanoseconds.
        3 keep_duration: i64,
        4 reserved_space: i64,
        5 max_used_space: i64,
        6 min_free_space: i64,
    }

    /// What to tell of the cache.
    DiskUsageRequest {
        1 filter: Vec<String>,
        2 age_limit: i64,
    }

    /// What is in the cache.
    DiskUsageResponse {
        1 record: Vec<UsageRecord>,
    }

    /// An entry of the cache.
    UsageRecord {
        1 id: String,
        2 mutable: bool,
        3 in_use: bool,
        4 size: i64,
        5 parent: String,
        6 created_at: Option<Timestamp>,
        7 last_used_at: Option<Timestamp>,
        8 usage_count: i64,
        9 description: String,
        10 record_type: String,
        11 shared: bool,
        12 parents: Vec<String>,
    }

    /// A build.
    SolveRequest {
        /// Chosen by the client; `Status` and the gateway name the build by it.
        1 reference: String,
        2 definition: Option<Definition>,
        3 exporter_deprecated: String,
        4 exporter_attrs_deprecated: BTreeMap<String, String>,
        5 session: String,
        /// None: the client drives the build over the gateway.
        6 frontend: String,
        7 frontend_attrs: BTreeMap<String, String>,
        8 cache: Option<CacheOptions>,
        9 entitlements: Vec<String>,
        10 frontend_inputs: BTreeMap<String, Definition>,
        11 internal: bool,
        /// A policy, which is not looked into.
        12 source_policy: Option<Opaque>,
        13 exporters: Vec<Exporter>,
        14 enable_session_exporter: bool,
        15 source_policy_session: String,
        16 compatibility_version: i64,
        17 proxy_network: bool,
    }

    /// A message that is not looked into.
    Opaque {
    }

    /// Where results of steps come from and go to.
    CacheOptions {
        1 export_ref_deprecated: String,
        2 import_refs_deprecated: Vec<String>,
        3 export_attrs_deprecated: BTreeMap<String, String>,
        4 exports: Vec<CacheOptionsEntry>,
        5 imports: Vec<CacheOptionsEntry>,
    }

    /// A cache elsewhere.
    CacheOptionsEntry {
        1 kind: String,
        2 attrs: BTreeMap<String, String>,
    }

    /// What was built.
    SolveResponse {
        1 exporter_response: BTreeMap<String, String>,
    }

    /// Whose progress to tell.
    StatusRequest {
        1 reference: String,
    }

    /// Progress since the last one.
    StatusResponse {
        1 vertexes: Vec<Vertex>,
        2 statuses: Vec<VertexStatus>,
        3 logs: Vec<VertexLog>,
        4 warnings: Vec<VertexWarning>,
    }

    /// A step, each time something about it changes.
    Vertex {
        1 digest: String,
        2 inputs: Vec<String>,
        3 name: String,
        4 cached: bool,
        5 started: Option<Timestamp>,
        6 completed: Option<Timestamp>,
        7 error: String,
        8 progress_group: Option<ProgressGroup>,
    }

    /// A part of a step: a layer that is pulled, files that are sent.
    VertexStatus {
        1 id: String,
        2 vertex: String,
        3 name: String,
        4 current: i64,
        5 total: i64,
        6 timestamp: Option<Timestamp>,
        7 started: Option<Timestamp>,
        8 completed: Option<Timestamp>,
    }

    /// A step's output.
    VertexLog {
        1 vertex: String,
        2 timestamp: Option<Timestamp>,
        /// 1 or 2.
        3 stream: i64,
        4 msg: Bytes,
    }

    /// A lint rule that was broken.
    VertexWarning {
        1 vertex: String,
        2 level: i64,
        3 short: Bytes,
        4 detail: Vec<Bytes>,
        5 url: String,
        6 info: Option<SourceInfo>,
        7 ranges: Vec<Range>,
    }

    /// A piece of a stream.
    BytesMessage {
        1 data: Bytes,
    }

    /// Which workers to tell of.
    ListWorkersRequest {
        1 filter: Vec<String>,
    }

    /// Who executes steps.
    ListWorkersResponse {
        1 record: Vec<WorkerRecord>,
    }

    /// Who executes steps.
    WorkerRecord {
        1 id: String,
        2 labels: BTreeMap<String, String>,
        3 platforms: Vec<Platform>,
        4 gc_policy: Vec<GcPolicy>,
        5 buildkit_version: Option<BuildkitVersion>,
        6 cdi_devices: Vec<CdiDevice>,
    }

    /// What is removed of the cache by itself.
    GcPolicy {
        1 all: bool,
        2 keep_duration: i64,
        3 reserved_space: i64,
        4 filters: Vec<String>,
        5 max_used_space: i64,
        6 min_free_space: i64,
    }

    /// Whose protocol it is.
    BuildkitVersion {
        1 package: String,
        2 version: String,
        3 revision: String,
        4 dockerfile_version: String,
    }

    /// A device that a step may ask for.
    CdiDevice {
        1 name: String,
        2 auto_allow: bool,
        3 annotations: BTreeMap<String, String>,
        4 on_demand: bool,
    }

    /// What a daemon is.
    InfoRequest {
    }

    /// What a daemon is.
    InfoResponse {
        1 buildkit_version: Option<BuildkitVersion>,
    }

    /// Which builds to tell of.
    BuildHistoryRequest {
        1 active_only: bool,
        2 reference: String,
        3 early_exit: bool,
        4 filter: Vec<String>,
        5 limit: i32,
    }

    /// A build has begun, ended, or is forgotten.
    BuildHistoryEvent {
        1 kind: i32,
        2 record: Option<BuildHistoryRecord>,
    }

    /// A build.
    BuildHistoryRecord {
        1 reference: String,
        2 frontend: String,
        3 frontend_attrs: BTreeMap<String, String>,
        4 exporters: Vec<Exporter>,
        5 error: Option<Status>,
        6 created_at: Option<Timestamp>,
        7 completed_at: Option<Timestamp>,
        8 logs: Option<Descriptor>,
        9 exporter_response: BTreeMap<String, String>,
        12 generation: i32,
        14 pinned: bool,
        15 num_cached_steps: i32,
        16 num_total_steps: i32,
        17 num_completed_steps: i32,
        19 num_warnings: i32,
    }

    /// A change of what is known of a build.
    UpdateBuildHistoryRequest {
        1 reference: String,
        2 pinned: bool,
        3 delete: bool,
        4 finalize: bool,
    }

    /// It is done.
    UpdateBuildHistoryResponse {
    }

    /// A blob.
    Descriptor {
        1 media_type: String,
        2 digest: String,
        3 size: i64,
        5 annotations: BTreeMap<String, String>,
    }

    /// Where a result goes to.
    Exporter {
        1 kind: String,
        2 attrs: BTreeMap<String, String>,
    }
}
