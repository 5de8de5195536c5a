//! `frontend/gateway/pb/gateway.proto`, `util/apicaps/pb/caps.proto`: `moby.buildkit.v1.frontend.LLBBridge`.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::control::{CacheOptionsEntry, Opaque, WorkerRecord};
use super::pb::{Definition, Platform, Range, SourceInfo};
use super::session::Stat;
use super::status::Status;
use crate::wire::messages;

/// Metadata that names the build a call belongs to.
pub const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// Paths of the calls.
#[allow(missing_docs, reason = "the names are the calls'")]
pub mod method {
    pub const SERVICE: &str = "/moby.buildkit.v1.frontend.LLBBridge/";
    pub const RESOLVE_IMAGE_CONFIG: &str = "/moby.buildkit.v1.frontend.LLBBridge/ResolveImageConfig";
    pub const SOLVE: &str = "/moby.buildkit.v1.frontend.LLBBridge/Solve";
    pub const READ_FILE: &str = "/moby.buildkit.v1.frontend.LLBBridge/ReadFile";
    pub const READ_DIR: &str = "/moby.buildkit.v1.frontend.LLBBridge/ReadDir";
    pub const STAT_FILE: &str = "/moby.buildkit.v1.frontend.LLBBridge/StatFile";
    pub const EVALUATE: &str = "/moby.buildkit.v1.frontend.LLBBridge/Evaluate";
    pub const PING: &str = "/moby.buildkit.v1.frontend.LLBBridge/Ping";
    pub const RETURN: &str = "/moby.buildkit.v1.frontend.LLBBridge/Return";
    pub const INPUTS: &str = "/moby.buildkit.v1.frontend.LLBBridge/Inputs";
    pub const WARN: &str = "/moby.buildkit.v1.frontend.LLBBridge/Warn";
}

messages! {
    /// What a frontend has made: one result, or one for each platform.
    FrontendResult {
        1 ref_deprecated: Option<String>,
        2 refs_deprecated: Option<RefMapDeprecated>,
        3 single: Option<Ref>,
        4 several: Option<RefMap>,
        10 metadata: BTreeMap<String, Bytes>,
        12 attestations: BTreeMap<String, Opaque>,
    }

    /// Results by platform.
    RefMapDeprecated {
        1 refs: BTreeMap<String, String>,
    }

    /// A result, by a name that the daemon chose.
    Ref {
        1 id: String,
        2 def: Option<Definition>,
    }

    /// Results by platform.
    RefMap {
        1 refs: BTreeMap<String, Ref>,
    }

    /// The end of a client's work on a build.
    ReturnRequest {
        1 result: Option<FrontendResult>,
        2 error: Option<Status>,
    }

    /// It is heard.
    ReturnResponse {
    }

    /// What the build was given.
    InputsRequest {
    }

    /// What the build was given.
    InputsResponse {
        1 definitions: BTreeMap<String, Definition>,
    }

    /// Which image to look up.
    ResolveImageConfigRequest {
        1 reference: String,
        2 platform: Option<Platform>,
        3 resolve_mode: String,
        4 log_name: String,
        5 resolver_type: i32,
        6 session_id: String,
        7 store_id: String,
    }

    /// An image's configuration.
    ResolveImageConfigResponse {
        1 digest: String,
        2 config: Bytes,
        3 reference: String,
    }

    /// What to build.
    SolveRequest {
        1 definition: Option<Definition>,
        2 frontend: String,
        3 frontend_opt: BTreeMap<String, String>,
        5 allow_result_return: bool,
        6 allow_result_array_ref: bool,
        10 is_final: bool,
        11 exporter_attr: Bytes,
        12 cache_imports: Vec<CacheOptionsEntry>,
        13 frontend_inputs: BTreeMap<String, Definition>,
        14 evaluate: bool,
        15 source_policies: Vec<Opaque>,
    }

    /// What was built.
    SolveResponse {
        1 ref_deprecated: String,
        3 result: Option<FrontendResult>,
    }

    /// A file of a result.
    ReadFileRequest {
        1 reference: String,
        2 file_path: String,
        3 range: Option<FileRange>,
        4 mount_index: i32,
    }

    /// A part of a file.
    FileRange {
        1 offset: i64,
        2 length: i64,
    }

    /// A file's content.
    ReadFileResponse {
        1 data: Bytes,
    }

    /// A directory of a result.
    ReadDirRequest {
        1 reference: String,
        2 dir_path: String,
        3 include_pattern: String,
        4 mount_index: i32,
    }

    /// What is in a directory.
    ReadDirResponse {
        1 entries: Vec<Stat>,
    }

    /// A file of a result.
    StatFileRequest {
        1 reference: String,
        2 path: String,
        3 mount_index: i32,
    }

    /// What a file is.
    StatFileResponse {
        1 stat: Option<Stat>,
    }

    /// A result that is wanted now.
    EvaluateRequest {
        1 reference: String,
    }

    /// It is there.
    EvaluateResponse {
    }

    /// Who is there.
    PingRequest {
    }

    /// Who is there, and what it can.
    PongResponse {
        1 frontend_api_caps: Vec<ApiCap>,
        2 llb_caps: Vec<ApiCap>,
        3 workers: Vec<WorkerRecord>,
    }

    /// Something a daemon can.
    ApiCap {
        1 id: String,
        2 enabled: bool,
        3 deprecated: bool,
        4 disabled_reason: String,
        5 disabled_reason_msg: String,
        6 disabled_alternative: String,
    }

    /// A warning to show.
    WarnRequest {
        1 digest: String,
        2 level: i64,
        3 short: Bytes,
        4 detail: Vec<Bytes>,
        5 url: String,
        6 info: Option<SourceInfo>,
        7 ranges: Vec<Range>,
    }

    /// It is shown.
    WarnResponse {
    }
}
