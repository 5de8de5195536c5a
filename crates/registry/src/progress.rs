//! What a pull or push tells while it goes on, in Docker's words.

use std::fmt;

use crate::push::PushOutcome;

/// One thing to tell the user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ProgressEvent {
    /// A tag or digest is being pulled from a repository: `latest: Pulling from library/debian`.
    Started {
        /// The tag or digest.
        reference: String,
        /// The repository's path.
        repository: String,
    },
    /// News of one layer.
    Layer {
        /// The first 12 digits of its digest.
        id: String,
        /// The news.
        status: LayerStatus,
    },
    /// News of one layer that is pushed.
    Upload {
        /// The first 12 digits of its diff-id.
        id: String,
        /// The news.
        status: UploadStatus,
    },
    /// A tag was pushed; for programs.
    Pushed(PushOutcome),
    /// A line without a layer: the digest, the final status, a warning.
    Message(String),
}

/// Where a layer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LayerStatus {
    /// It is in the store.
    AlreadyExists,
    /// It will be fetched.
    Pulling,
    /// It waits for other downloads.
    Waiting,
    /// Bytes arrive.
    Downloading {
        /// How many came.
        current: u64,
        /// How many there are.
        total: u64,
    },
    /// The transfer broke and is tried again.
    Retrying {
        /// After this many seconds.
        seconds: u64,
    },
    /// All bytes are here and being checked.
    Verifying,
    /// The transfer is over.
    Downloaded,
    /// What has not been unpacked on the way is unpacked now.
    Extracting {
        /// How many packed bytes are done.
        current: u64,
        /// How many there are.
        total: u64,
    },
    /// It is in the store.
    Complete,
}

impl LayerStatus {
    /// The two numbers of a bar, where there is one.
    pub fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Self::Downloading { current, total } | Self::Extracting { current, total } => {
                Some((*current, *total))
            }
            _ => None,
        }
    }
}

impl fmt::Display for LayerStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::AlreadyExists => "Already exists",
            Self::Pulling => "Pulling fs layer",
            Self::Waiting => "Waiting",
            Self::Downloading { .. } => "Downloading",
            Self::Retrying { seconds } => return retrying(formatter, *seconds),
            Self::Verifying => "Verifying Checksum",
            Self::Downloaded => "Download complete",
            Self::Extracting { .. } => "Extracting",
            Self::Complete => "Pull complete",
        })
    }
}

/// Where the upload of a layer stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadStatus {
    /// It will be brought.
    Preparing,
    /// It waits for other uploads.
    Waiting,
    /// Bytes go.
    Pushing {
        /// How many went.
        current: u64,
        /// How many there are.
        total: u64,
    },
    /// The transfer broke and is tried again.
    Retrying {
        /// After this many seconds.
        seconds: u64,
    },
    /// The repository has it already.
    AlreadyExists,
    /// The registry took it from this repository.
    MountedFrom(String),
    /// It may only be fetched from where its descriptor says.
    SkippedForeign,
    /// It is there now.
    Pushed,
}

impl UploadStatus {
    /// The two numbers of a bar, where there is one.
    pub fn progress(&self) -> Option<(u64, u64)> {
        match self {
            Self::Pushing { current, total } => Some((*current, *total)),
            _ => None,
        }
    }
}

impl fmt::Display for UploadStatus {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Preparing => "Preparing",
            Self::Waiting => "Waiting",
            Self::Pushing { .. } => "Pushing",
            Self::Retrying { seconds } => return retrying(formatter, *seconds),
            Self::AlreadyExists => "Layer already exists",
            Self::MountedFrom(repository) => return write!(formatter, "Mounted from {repository}"),
            Self::SkippedForeign => "Skipped foreign layer",
            Self::Pushed => "Pushed",
        })
    }
}

fn retrying(formatter: &mut fmt::Formatter<'_>, seconds: u64) -> fmt::Result {
    write!(formatter, "Retrying in {seconds} second{}", if seconds == 1 { "" } else { "s" })
}
