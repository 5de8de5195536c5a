//! What a pull tells while it goes on, in Docker's words.

use std::fmt;

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
            Self::Retrying { seconds } => {
                return write!(
                    formatter,
                    "Retrying in {seconds} second{}",
                    if *seconds == 1 { "" } else { "s" }
                );
            }
            Self::Verifying => "Verifying Checksum",
            Self::Downloaded => "Download complete",
            Self::Extracting { .. } => "Extracting",
            Self::Complete => "Pull complete",
        })
    }
}
