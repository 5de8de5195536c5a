//! Users as images and command lines name them, looked up in a container's own `passwd` and `group`.

use palan_linux::path::RootDir;

/// Who a process runs as.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ResolvedUser {
    /// User.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups, the primary one included.
    pub groups: Vec<u32>,
    /// Home directory; `/` if unknown.
    pub home: String,
}

/// A user that can't be resolved. Texts are Docker's.
#[derive(Debug, thiserror::Error)]
pub enum UserError {
    /// No such user.
    #[error("unable to find user {0}: no matching entries in passwd file")]
    UnknownUser(String),
    /// No such group.
    #[error("unable to find group {0}: no matching entries in group file")]
    UnknownGroup(String),
    /// A number that is no ID.
    #[error("uids and gids must be in range 0-2147483647, not {0}")]
    OutOfRange(String),
    /// The file can't be used.
    #[error("cannot read {file}")]
    File {
        /// Which one.
        file: &'static str,
        /// Why.
        source: palan_linux::path::PathError,
    },
}

/// Looks `user` up: `name`, `uid`, `name:group`, `uid:gid` and mixtures. A number is never looked up as a name.
/// `additional` are names or numbers of further groups.
pub fn resolve(root: &RootDir, user: &str, additional: &[String]) -> Result<ResolvedUser, UserError> {
    let _ = (root, user, additional);
    todo!()
}

/// The home directory of a numeric user, if the container's passwd knows one.
pub fn home_of(root: &RootDir, uid: u32) -> Option<String> {
    let _ = (root, uid);
    todo!()
}
