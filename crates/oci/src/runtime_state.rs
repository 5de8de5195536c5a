//! The state of a container as the runtime specification passes it on: to hooks, to seccomp agents, on `state`.

#![allow(missing_docs, reason = "names and meaning of the fields are the specification's")]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The name of a seccomp listener in [`ContainerProcessState::fds`].
pub const SECCOMP_FD_NAME: &str = "seccompFd";

/// "State" in the specification's `runtime.md`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct State {
    pub oci_version: String,
    pub id: String,
    /// `creating`, `created`, `running` or `stopped`.
    pub status: String,
    /// 0 if there is no process.
    #[serde(skip_serializing_if = "is_zero")]
    pub pid: i32,
    pub bundle: String,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// "The container process state" in the specification's `config-linux.md`: what comes with descriptors of a process.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerProcessState {
    pub oci_version: String,
    /// Names of the descriptors that come along, in their order.
    pub fds: Vec<String>,
    /// As the runtime sees it.
    pub pid: i32,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub metadata: String,
    pub state: State,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes the field by reference")]
fn is_zero(value: &i32) -> bool {
    *value == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_the_specification() {
        let state = State {
            oci_version: "1.3.0".into(),
            id: "c".into(),
            status: "creating".into(),
            pid: 7,
            ..State::default()
        };
        let message = ContainerProcessState {
            oci_version: "1.3.0".into(),
            fds: vec![SECCOMP_FD_NAME.into()],
            pid: 7,
            state,
            ..ContainerProcessState::default()
        };
        assert_eq!(
            serde_json::to_string(&message).unwrap(),
            r#"{"ociVersion":"1.3.0","fds":["seccompFd"],"pid":7,"state":{"ociVersion":"1.3.0","id":"c","status":"creating","pid":7,"bundle":""}}"#
        );
    }
}
