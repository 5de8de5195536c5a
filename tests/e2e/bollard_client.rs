//! The `bollard` crate as the client: typed requests and answers, whose types were generated from Docker's own description of its API.

use std::collections::HashMap;

use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerUpdateBody, EventMessageTypeEnum, HostConfig, NetworkConnectRequest,
    NetworkCreateRequest, NetworkDisconnectRequest, VolumeCreateRequest,
};
use bollard::query_parameters as query;
use bollard::{API_DEFAULT_VERSION, Docker, body_full};
use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use palan_test_support::daemon::Daemon;
use palan_test_support::image::TarBuilder;
use palan_test_support::requires;

use crate::images::{BUSYBOX, busybox, daemon};

/// Runs a test with a client of a daemon that has busybox.
fn with_client<F: Future<Output = Result<(), bollard::errors::Error>>>(test: impl FnOnce(Docker) -> F) {
    let daemon: Daemon = daemon();
    let socket = daemon.socket();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let client =
            Docker::connect_with_unix(&socket.display().to_string(), 60, API_DEFAULT_VERSION).unwrap();
        let client = client.negotiate_version().await.unwrap();
        let tested = tokio::time::timeout(std::time::Duration::from_secs(60), test(client)).await;
        tested.unwrap_or_else(|_| panic!("no answer\n{}", daemon.log())).unwrap();
    });
}

fn body(cmd: &[&str]) -> ContainerCreateBody {
    ContainerCreateBody {
        image: Some(BUSYBOX.to_owned()),
        cmd: Some(cmd.iter().map(|&word| word.to_owned()).collect()),
        host_config: Some(HostConfig { network_mode: Some("none".to_owned()), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    }
}

async fn create(
    client: &Docker,
    name: &str,
    body: ContainerCreateBody,
) -> Result<(), bollard::errors::Error> {
    let options = query::CreateContainerOptionsBuilder::new().name(name).build();
    let created = client.create_container(Some(options), body).await?;
    assert_eq!(created.id.len(), 64);
    Ok(())
}

fn status(error: bollard::errors::Error) -> (u16, String) {
    match error {
        bollard::errors::Error::DockerResponseServerError { status_code, message } => (status_code, message),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_container_from_its_making_to_its_end() {
    requires!(root);
    with_client(|client| async move {
        assert_eq!(client.ping().await?, "OK");
        assert!(client.version().await?.api_version.is_some());
        let script = "echo out; echo err >&2; trap 'exit 7' TERM; while :; do sleep 0.05; done";
        create(&client, "one", body(&["sh", "-c", script])).await?;
        let twice = create(&client, "one", body(&["true"])).await.unwrap_err();
        assert_eq!(status(twice).0, 409);
        let inspected = client.inspect_container("one", None).await?;
        assert_eq!(inspected.state.unwrap().running, Some(false));
        client.start_container("one", None).await?;
        let listed = client.list_containers(None).await?;
        assert_eq!(listed.len(), 1);
        assert_eq!(listed[0].names.as_deref(), Some(&["/one".to_owned()][..]));
        let top = client.top_processes("one", None).await?;
        assert!(!top.processes.unwrap().is_empty());
        client.pause_container("one").await?;
        client.unpause_container("one").await?;
        let update =
            ContainerUpdateBody { memory: Some(64 << 20), memory_swap: Some(64 << 20), ..Default::default() };
        client.update_container("one", update).await?;
        let rename = query::RenameContainerOptionsBuilder::new().name("two").build();
        client.rename_container("one", rename).await?;

        let options = query::LogsOptionsBuilder::new().stdout(true).stderr(true).follow(true).build();
        let mut lines: Vec<LogOutput> = client.logs("two", Some(options)).take(2).try_collect().await?;
        lines.sort_by_key(|line| matches!(line, LogOutput::StdErr { .. }));
        assert!(matches!(&lines[0], LogOutput::StdOut { message } if message == "out\n"), "{lines:?}");
        assert!(matches!(&lines[1], LogOutput::StdErr { message } if message == "err\n"), "{lines:?}");
        let options = query::StatsOptionsBuilder::new().stream(true).build();
        let samples: Vec<_> = client.stats("two", Some(options)).take(2).try_collect().await?;
        assert!(samples.iter().all(|sample| sample.name.as_deref() == Some("/two")));
        assert!(samples[1].cpu_stats.as_ref().unwrap().cpu_usage.is_some());

        let waiting = client.clone();
        let waiting = tokio::spawn(async move { waiting.wait_container("two", None).next().await });
        client.stop_container("two", None).await?;
        let waited = waiting.await.unwrap().unwrap();
        // As bollard sees it, another code than 0 is an error.
        let is_seven =
            matches!(&waited, Err(bollard::errors::Error::DockerContainerWaitError { code: 7, .. }));
        assert!(is_seven, "{waited:?}");
        let changes = client.container_changes("two").await?;
        assert!(changes.unwrap_or_default().iter().all(|change| !change.path.is_empty()));
        let exported: Vec<Bytes> = client.export_container("two").try_collect().await?;
        assert!(exported.concat().len() > 10_000);
        client.remove_container("two", None).await?;
        let gone = status(client.inspect_container("two", None).await.unwrap_err());
        assert_eq!(gone, (404, "No such container: two".to_owned()));
        Ok(())
    });
}

#[test]
fn sessions_in_a_container() {
    requires!(root);
    with_client(|client| async move {
        create(&client, "ss", body(&["sleep", "1000"])).await?;
        client.start_container("ss", None).await?;
        let spec = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            cmd: Some(vec!["sh", "-c", "read line; echo got $line; echo end >&2; exit 3"]),
            ..CreateExecOptions::default()
        };
        let exec = client.create_exec("ss", spec).await?;
        let StartExecResults::Attached { mut output, mut input } =
            client.start_exec(&exec.id, None::<StartExecOptions>).await?
        else {
            panic!("not attached");
        };
        tokio::io::AsyncWriteExt::write_all(&mut input, b"word\n").await.unwrap();
        let mut seen = (String::new(), String::new());
        while let Some(piece) = output.next().await {
            match piece? {
                LogOutput::StdOut { message } => seen.0 += &String::from_utf8_lossy(&message),
                LogOutput::StdErr { message } => seen.1 += &String::from_utf8_lossy(&message),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, ("got word\n".to_owned(), "end\n".to_owned()));
        let inspected = client.inspect_exec(&exec.id).await?;
        assert_eq!((inspected.running, inspected.exit_code), (Some(false), Some(3)));

        let tar = TarBuilder::new().file("in/file", 0o640, b"content").finish();
        let upload = query::UploadToContainerOptionsBuilder::new().path("/tmp").build();
        client.upload_to_container("ss", Some(upload), body_full(tar.into())).await?;
        let download = query::DownloadFromContainerOptionsBuilder::new().path("/tmp/in").build();
        let pieces: Vec<Bytes> = client.download_from_container("ss", Some(download)).try_collect().await?;
        let archive = pieces.concat();
        assert!(archive.windows(7).any(|window| window == b"content"));
        let info = query::ContainerArchiveInfoOptionsBuilder::new().path("/tmp/in/file").build();
        let stat = client.get_container_archive_info("ss", Some(info)).await?;
        assert_eq!((stat.name.as_str(), stat.size), ("file", 7));
        let force = query::RemoveContainerOptionsBuilder::new().force(true).build();
        client.remove_container("ss", Some(force)).await
    });
}

#[test]
fn images_networks_volumes_and_their_events() {
    requires!(root);
    with_client(|client| async move {
        let begun = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        let archive = busybox().file("etc/mark", 0o644, "x").build().docker_archive(&["own:1"]);
        let load = query::ImportImageOptionsBuilder::new().build();
        let told: Vec<_> = client.import_image(load, body_full(archive.into()), None).try_collect().await?;
        assert!(told.iter().any(|info| info.stream.as_deref() == Some("Loaded image: own:1\n")), "{told:?}");
        let tag = query::TagImageOptionsBuilder::new().repo("own").tag("2").build();
        client.tag_image("own:1", Some(tag)).await?;
        let inspected = client.inspect_image("own:2").await?;
        assert_eq!(inspected.repo_tags.unwrap(), ["own:1", "own:2"]);
        assert!(!client.image_history("own:1").await?.is_empty());
        let listed = client.list_images(None::<query::ListImagesOptions>).await?;
        assert_eq!(listed.len(), 2);
        let saved: Vec<Bytes> = client.export_image("own:1").try_collect().await?;
        assert!(saved.concat().len() > 10_000);
        let gone = client.remove_image("own:1", None::<query::RemoveImageOptions>, None).await?;
        assert_eq!(gone[0].untagged.as_deref(), Some("own:1"));
        client.remove_image("own:2", None::<query::RemoveImageOptions>, None).await?;
        let missing = status(client.inspect_image("own:2").await.unwrap_err());
        assert_eq!(missing.0, 404);

        let labels = HashMap::from([("a".to_owned(), "b".to_owned())]);
        let volume = VolumeCreateRequest {
            name: Some("vv".to_owned()),
            labels: Some(labels),
            ..VolumeCreateRequest::default()
        };
        assert_eq!(client.create_volume(volume).await?.driver, "local");
        assert_eq!(client.inspect_volume("vv").await?.labels["a"], "b");
        let listed = client.list_volumes(None::<query::ListVolumesOptions>).await?;
        assert_eq!(listed.volumes.unwrap().len(), 1);

        for name in ["nn", "mm"] {
            let network = NetworkCreateRequest {
                name: name.to_owned(),
                internal: Some(true),
                ..NetworkCreateRequest::default()
            };
            client.create_network(network).await?;
        }
        let mut on_network = body(&["sleep", "1000"]);
        on_network.host_config =
            Some(HostConfig { network_mode: Some("nn".into()), ..HostConfig::default() });
        create(&client, "cc", on_network).await?;
        client.start_container("cc", None).await?;
        let connect = NetworkConnectRequest { container: "cc".into(), endpoint_config: None };
        client.connect_network("mm", connect).await?;
        for name in ["nn", "mm"] {
            let inspected = client.inspect_network(name, None).await?;
            assert_eq!(inspected.containers.unwrap().len(), 1);
        }
        let disconnect = NetworkDisconnectRequest { container: "cc".into(), force: None };
        client.disconnect_network("mm", disconnect).await?;
        let force = query::RemoveContainerOptionsBuilder::new().force(true).build();
        client.remove_container("cc", Some(force)).await?;
        client.remove_network("nn").await?;
        client.remove_network("mm").await?;
        client.remove_volume("vv", None::<query::RemoveVolumeOptions>).await?;

        let until = begun + 3600;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() + 1;
        let options = query::EventsOptions {
            since: Some(begun.to_string()),
            until: Some(now.min(until).to_string()),
            filters: None,
        };
        let events: Vec<_> = client.events(Some(options)).try_collect().await?;
        let seen = |kind: EventMessageTypeEnum, action: &str| {
            events.iter().any(|event| event.typ == Some(kind) && event.action.as_deref() == Some(action))
        };
        for (kind, action) in [
            (EventMessageTypeEnum::IMAGE, "untag"),
            (EventMessageTypeEnum::IMAGE, "delete"),
            (EventMessageTypeEnum::VOLUME, "create"),
            (EventMessageTypeEnum::VOLUME, "destroy"),
            (EventMessageTypeEnum::NETWORK, "connect"),
            (EventMessageTypeEnum::CONTAINER, "die"),
            (EventMessageTypeEnum::CONTAINER, "destroy"),
        ] {
            assert!(seen(kind, action), "{kind} {action}: {events:?}");
        }
        Ok(())
    });
}
