//! Bodies that the docker CLI 28.2 sends, recorded from its socket: they must be understood in full, and our CLI must
//! send the same.

use palan_docker_api::types::CreateContainerRequest;
use serde_json::Value;

const PLAIN: &str = include_str!("data/create-plain.json");
const FULL: &str = include_str!("data/create-full.json");

fn parsed(body: &str) -> CreateContainerRequest {
    CreateContainerRequest::from_slice(body.as_bytes()).expect("as recorded")
}

/// What differs on purpose: `OnBuild` is left out when empty since 1.52.
fn without_on_build(body: &str) -> Value {
    let mut value: Value = serde_json::from_str(body).expect("as recorded");
    value.as_object_mut().expect("as recorded").remove("OnBuild");
    value
}

/// The CLI sends `"Volumes":{}` where a daemon answers `null`.
fn with_null_volumes(mut body: Value) -> Value {
    body["Volumes"] = Value::Null;
    body
}

#[test]
fn round_trips_without_loss() {
    for body in [PLAIN, FULL] {
        let again = serde_json::to_value(parsed(body)).expect("as recorded");
        assert_eq!(again, with_null_volumes(without_on_build(body)));
    }
}

#[test]
fn flags_arrive_where_they_should() {
    let request = parsed(FULL);
    let (config, host) = (&request.config, &request.host_config);
    assert_eq!(
        (config.user.as_str(), config.working_dir.as_str(), config.hostname.as_str()),
        ("1:2", "/x", "host")
    );
    assert_eq!(config.entrypoint.as_deref(), Some(&["sh".to_owned()][..]));
    assert_eq!(config.cmd, ["-c", "echo hi"]);
    assert_eq!((config.tty, config.open_stdin, config.stdin_once), (true, true, true));
    assert_eq!((config.stop_signal.as_str(), config.stop_timeout), ("TERM", Some(3)));
    assert_eq!(host.binds, ["vol:/c", "/a:/b:ro"]);
    assert_eq!((host.memory, host.memory_swap, host.nano_cpus), (512 << 20, 1 << 30, 1_500_000_000));
    assert_eq!((host.pids_limit, host.init, host.memory_swappiness), (Some(10), Some(true), Some(-1)));
    assert_eq!(host.port_bindings["80/udp"].as_ref().expect("as recorded")[0].host_port, "8080");
    assert_eq!((host.cap_add[0].as_str(), host.cap_drop[0].as_str()), ("CAP_NET_ADMIN", "ALL"));
    assert_eq!(host.tmpfs["/t"], "size=1m");
    assert!(host.privileged && host.publish_all_ports && host.readonly_rootfs && host.auto_remove);
}

#[test]
fn keys_match_in_any_case() {
    let request = parsed(
        r#"{"image":"a","hostconfig":{"MEMORY":5,"portbindings":{"80/tcp":null}},"networkingConfig":null}"#,
    );
    assert_eq!((request.config.image.as_str(), request.host_config.memory), ("a", 5));
    assert_eq!(request.host_config.port_bindings["80/tcp"], None);
}

#[test]
fn wrong_types_name_the_field() {
    let error = CreateContainerRequest::from_slice(br#"{"HostConfig":{"Memory":"1g"}}"#).unwrap_err();
    assert_eq!(error.to_string(), "HostConfig.Memory: invalid type: string \"1g\", expected i64");
}
