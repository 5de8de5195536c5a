//! One answer seen by clients of several versions.

use super::*;
use crate::types::{EventActor, ImageConfig, OrNull};
use serde_json::{Value, json};

fn image(version: u16) -> Value {
    let config = ImageConfig { cmd: OrNull::from(vec!["sh".to_owned()]), ..ImageConfig::default() };
    let mut answer = ImageInspect { id: "sha256:1".into(), size: 5, config, ..ImageInspect::default() };
    image_inspect(&mut answer, ApiVersion::v1(version));
    serde_json::to_value(answer).unwrap()
}

#[test]
fn image_inspect_by_version() {
    let newest = image(56);
    assert_eq!(newest["Config"], json!({"Cmd": ["sh"]}));
    for name in
        ["Parent", "Comment", "Author", "DockerVersion", "VirtualSize", "Container", "ContainerConfig"]
    {
        assert_eq!(newest.get(name), None, "{name}");
    }
    assert_eq!(
        image(51)["Config"],
        json!({"Cmd": ["sh"], "Entrypoint": null, "Env": null, "Labels": null, "OnBuild": null, "User": "",
               "Volumes": null, "WorkingDir": ""})
    );
    assert_eq!(image(51)["Parent"], "");
    assert_eq!(image(49)["Config"]["Tty"], false);
    assert_eq!(image(45).get("Container"), None);
    assert_eq!(image(44)["Container"], "");
    assert_eq!(image(44)["ContainerConfig"]["Cmd"], Value::Null);
    assert_eq!(image(44).get("VirtualSize"), None);
    assert_eq!(image(43)["VirtualSize"], 5);
    assert_eq!(image(43)["Created"], "0001-01-01T00:00:00Z");
}

#[test]
fn events_by_version() {
    let message = |kind: &str, action: &str| EventMessage {
        kind: kind.into(),
        action: action.into(),
        actor: EventActor { id: "1".into(), attributes: [("image".to_owned(), "i".to_owned())].into() },
        ..EventMessage::default()
    };
    let seen = |mut message: EventMessage, version| {
        event(&mut message, ApiVersion::v1(version)).then(|| serde_json::to_value(message).unwrap())
    };
    let newest = seen(message("container", "start"), 52).unwrap();
    assert_eq!(newest.get("status"), None);
    let old = seen(message("container", "start"), 51).unwrap();
    assert_eq!((&old["status"], &old["id"], &old["from"]), (&json!("start"), &json!("1"), &json!("i")));
    assert_eq!(seen(message("image", "tag"), 51).unwrap().get("from"), None);
    assert_eq!(seen(message("network", "connect"), 51).unwrap().get("status"), None);
    assert_eq!(seen(message("image", "create"), 45), None);
    assert!(seen(message("image", "create"), 46).is_some());
}

#[test]
fn container_inspect_by_version() {
    let seen = |version| {
        let mut answer = ContainerInspect::default();
        answer.network_settings.ip_address = Some("172.17.0.2".into());
        container_inspect(&mut answer, ApiVersion::v1(version));
        serde_json::to_value(answer).unwrap()
    };
    let newest = seen(56);
    assert_eq!(newest["NetworkSettings"]["IPAddress"], "172.17.0.2");
    assert_eq!(newest["NetworkSettings"].get("Bridge"), None);
    assert_eq!(newest["Config"].get("OnBuild"), None);
    let old = seen(51);
    assert_eq!(old["NetworkSettings"]["IPAddress"], "172.17.0.2");
    assert_eq!(old["NetworkSettings"]["SecondaryIPAddresses"], Value::Null);
    assert!(old["NetworkSettings"].as_object().unwrap().contains_key("SecondaryIPAddresses"));
    assert_eq!(old["NetworkSettings"]["Gateway"], "");
    assert!(old["Config"].as_object().unwrap().contains_key("OnBuild"));
}

#[test]
fn unnamed_images_by_version() {
    let seen = |version| {
        let mut answer = ImageSummary { containers: 2, ..ImageSummary::default() };
        image_summary(&mut answer, ApiVersion::v1(version));
        (answer.containers, answer.repo_tags)
    };
    assert_eq!(seen(51), (2, vec![]));
    assert_eq!(seen(43), (-1, vec![]));
    assert_eq!(seen(42), (-1, vec!["<none>:<none>".to_owned()]));
}

fn created(body: &Value, version: u16) -> Result<CreateContainerRequest, String> {
    let mut request = CreateContainerRequest::from_slice(body.to_string().as_bytes()).unwrap();
    create_container(&mut request, ApiVersion::v1(version)).map_err(|e| e.to_string())?;
    Ok(request)
}

#[test]
fn create_by_version() {
    let mac =
        json!({"Image": "i", "MacAddress": "02:00:00:00:00:01", "HostConfig": {"NetworkMode": "bridge"}});
    let endpoints = |version| created(&mac, version).unwrap().networking_config.endpoints_config;
    for version in [41, 44, 51] {
        assert_eq!(
            endpoints(version)["bridge"].as_ref().unwrap().mac_address,
            "02:00:00:00:00:01",
            "1.{version}"
        );
    }
    assert!(endpoints(52).is_empty());

    let two = json!({"NetworkingConfig": {"EndpointsConfig": {"a": null, "b": {}}}});
    let message = "Container cannot be created with multiple network endpoints: a, b";
    assert_eq!(created(&two, 43).unwrap_err(), message);
    assert!(created(&two, 44).is_ok());

    let subpath = json!({"HostConfig": {"Mounts": [{"Type": "volume", "VolumeOptions": {"Subpath": "x"}}]}});
    assert_eq!(created(&subpath, 44).unwrap_err(), "VolumeOptions.Subpath needs API v1.45 or newer");
    let image = json!({"HostConfig": {"Mounts": [{"Type": "image"}]}});
    assert_eq!(created(&image, 47).unwrap_err(), r#"Mount type "Image" needs API v1.48 or newer"#);
    assert_eq!(created(&json!({}), 39).unwrap().host_config.ipc_mode, "shareable");
    assert_eq!(created(&json!({}), 40).unwrap().host_config.ipc_mode, "");
}
