//! What a client offers in its session: `filesync`, `auth`, `secrets`, `sshforward`, `upload`, `fsutil`, `grpc.health`, and `palan.build`,
//! which BuildKit has not.

use std::collections::BTreeMap;

use bytes::Bytes;

pub use super::control::BytesMessage;
use super::control::Opaque;
use super::pb::Platform;
use crate::wire::messages;

/// Paths of the calls.
#[allow(missing_docs, reason = "the names are the calls'")]
pub mod method {
    pub const FILE_SYNC_DIFF_COPY: &str = "/moby.filesync.v1.FileSync/DiffCopy";
    pub const FILE_SYNC_TAR_STREAM: &str = "/moby.filesync.v1.FileSync/TarStream";
    pub const FILE_SEND_DIFF_COPY: &str = "/moby.filesync.v1.FileSend/DiffCopy";
    pub const AUTH_CREDENTIALS: &str = "/moby.filesync.v1.Auth/Credentials";
    pub const AUTH_FETCH_TOKEN: &str = "/moby.filesync.v1.Auth/FetchToken";
    pub const AUTH_GET_TOKEN_AUTHORITY: &str = "/moby.filesync.v1.Auth/GetTokenAuthority";
    pub const AUTH_VERIFY_TOKEN_AUTHORITY: &str = "/moby.filesync.v1.Auth/VerifyTokenAuthority";
    pub const GET_SECRET: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
    pub const SSH_CHECK_AGENT: &str = "/moby.sshforward.v1.SSH/CheckAgent";
    pub const SSH_FORWARD_AGENT: &str = "/moby.sshforward.v1.SSH/ForwardAgent";
    pub const UPLOAD_PULL: &str = "/moby.upload.v1.Upload/Pull";
    pub const CHECK_POLICY: &str = "/moby.buildkit.v1.sourcepolicy.policysession.PolicyVerifier/CheckPolicy";
    pub const SHELL: &str = "/palan.build.v1.OnError/Shell";
    pub const HEALTH_CHECK: &str = "/grpc.health.v1.Health/Check";
    pub const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
}

/// Metadata of file transfers.
#[allow(missing_docs, reason = "BuildKit's own names")]
pub mod metadata {
    pub const DIR_NAME: &str = "dir-name";
    pub const INCLUDE_PATTERNS: &str = "include-patterns";
    pub const EXCLUDE_PATTERNS: &str = "exclude-patterns";
    pub const FOLLOW_PATHS: &str = "followpaths";
    pub const EXPORTER_ID: &str = "buildkit-attachable-exporter-id";
    pub const EXPORTER_PREFIX: &str = "exporter-md-";
    pub const MULTI_PLATFORM: &str = "buildkit-exporter-multi-platform";
    pub const UPLOAD_PATH: &str = "urlpath";
    pub const SSH_ID: &str = "buildkit.ssh.id";
}

/// What a policy may decide.
#[allow(missing_docs, reason = "the names say it")]
pub mod policy_action {
    pub const ALLOW: i32 = 0;
    pub const DENY: i32 = 1;
    pub const CONVERT: i32 = 2;
}

/// Kinds of [`Packet`]s.
#[allow(missing_docs, reason = "the names say it")]
pub mod packet {
    pub const STAT: i32 = 0;
    pub const REQ: i32 = 1;
    pub const DATA: i32 = 2;
    pub const FIN: i32 = 3;
    pub const ERR: i32 = 4;
}

messages! {
    /// A packet of a file transfer.
    Packet {
        1 kind: i32,
        2 stat: Option<Stat>,
        3 id: u32,
        4 data: Bytes,
    }

    /// What a file is. Names are bytes, since Linux has no other names.
    Stat {
        1 path: Bytes,
        /// Permissions and kind, with Go's bits.
        2 mode: u32,
        3 uid: u32,
        4 gid: u32,
        5 size: i64,
        /// Nanoseconds since 1970.
        6 mod_time: i64,
        /// A symlink's target, or the path of another name of the same file.
        7 linkname: Bytes,
        8 devmajor: i64,
        9 devminor: i64,
        10 xattrs: BTreeMap<String, Bytes>,
    }

    /// Whose credentials.
    CredentialsRequest {
        1 host: String,
    }

    /// Credentials; none are empty.
    CredentialsResponse {
        1 username: String,
        2 secret: String,
    }

    /// What a token is for.
    FetchTokenRequest {
        1 client_id: String,
        2 host: String,
        3 realm: String,
        4 service: String,
        5 scopes: Vec<String>,
    }

    /// A token.
    FetchTokenResponse {
        1 token: String,
        2 expires_in: i64,
        3 issued_at: i64,
    }

    /// Whether the client itself gets tokens.
    GetTokenAuthorityRequest {
        1 host: String,
        2 salt: Bytes,
    }

    /// The key it proves itself with.
    GetTokenAuthorityResponse {
        1 public_key: Bytes,
    }

    /// A challenge for that key.
    VerifyTokenAuthorityRequest {
        1 host: String,
        2 payload: Bytes,
        3 salt: Bytes,
    }

    /// Its answer.
    VerifyTokenAuthorityResponse {
        1 signed: Bytes,
    }

    /// Which secret.
    GetSecretRequest {
        1 id: String,
        2 annotations: BTreeMap<String, String>,
    }

    /// A secret.
    GetSecretResponse {
        1 data: Bytes,
    }

    /// Which agent.
    CheckAgentRequest {
        1 id: String,
    }

    /// It is there.
    CheckAgentResponse {
    }

    /// Whether a source may be used (`sourcepolicy/policysession/policysession.proto`).
    CheckPolicyRequest {
        1 platform: Option<Platform>,
        2 source: Option<SourceMeta>,
        3 caps: BTreeMap<String, bool>,
    }

    /// What is known of a source.
    SourceMeta {
        1 source: Option<SourceOp>,
    }

    /// A source: an image, a download, a directory.
    SourceOp {
        1 identifier: String,
        2 attrs: BTreeMap<String, String>,
    }

    /// A decision, or a question back.
    CheckPolicyResponse {
        1 decision: Option<Decision>,
        2 request: Option<Opaque>,
    }

    /// What a policy says.
    Decision {
        1 action: i32,
        2 deny_messages: Vec<DenyMessage>,
        3 update: Option<SourceOp>,
    }

    /// Why not.
    DenyMessage {
        1 message: String,
    }

    /// What a failed step's shell writes; the first one says which step it is, and nothing else.
    ShellOutput {
        1 step: Option<FailedStep>,
        2 data: Bytes,
    }

    /// What is typed into it, and how large the terminal is; the first one says its size.
    ShellInput {
        1 data: Bytes,
        2 size: Option<TerminalSize>,
    }

    /// A step that has failed.
    FailedStep {
        1 command: String,
        2 exit_code: u32,
        /// The program that is opened.
        3 shell: String,
    }

    /// Rows and columns.
    TerminalSize {
        1 rows: u32,
        2 columns: u32,
    }

    /// Which service.
    HealthCheckRequest {
        1 service: String,
    }

    /// 1: it serves.
    HealthCheckResponse {
        1 status: i32,
    }
}
