//! Containers from their making to their removal, with a real supervisor and without a network.

mod support;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use palan_engine::Class;
use palan_engine::container::{
    ExecSpec, ExecStartOptions, LogOptions, RemoveOptions, Status, StopOptions, WaitCondition,
};
use palan_engine::events::EventQuery;
use support::{fixture, script, spec, within};

#[tokio::test]
async fn create_start_logs_wait_remove() {
    let Some(fixture) = fixture("create_start_logs_wait_remove").await else { return };
    let engine = &fixture.engine;
    let started = jiff::Timestamp::now();
    let id = fixture.run(script("echo out; echo err >&2; echo $GREETING $HOSTNAME; exit 3")).await;
    assert_eq!(fixture.exit_code(&id).await, 3);
    let out = LogOptions { stdout: true, ..LogOptions::default() };
    assert_eq!(fixture.read_log(&id, out).await, format!("out\nhello {}\n", &id[..12]));
    let err = LogOptions { stderr: true, ..LogOptions::default() };
    assert_eq!(fixture.read_log(&id, err).await, "err\n");
    let details = engine.inspect(&id).await.expect("known");
    assert_eq!((details.state.status, details.state.exit_code, details.state.pid), (Status::Exited, 3, 0));
    assert_eq!(details.config.labels["from"], "test");
    let volume = details.mounts[0].name.clone();
    assert!(
        fixture.data(&format!("volumes/{volume}/_data/seed")).exists(),
        "the volume was filled from the image"
    );
    engine.remove(&id, RemoveOptions { volumes: true, ..RemoveOptions::default() }).await.expect("removed");
    assert_eq!(engine.inspect(&id).await.expect_err("gone").class(), Class::NotFound);
    assert!(!fixture.data(&format!("containers/{id}")).exists());
    assert!(!fixture.data(&format!("volumes/{volume}")).exists());

    let query =
        EventQuery { since: Some(started), until: Some(jiff::Timestamp::now()), ..EventQuery::default() };
    let mut events = engine.events(query).await.expect("readable");
    let mut actions = Vec::new();
    while let Some(event) = events.next().await {
        let event = event.expect("an event");
        actions.push(format!("{} {}", event.kind.as_str(), event.action));
    }
    assert_eq!(
        actions,
        [
            "volume create",
            "container create",
            "volume mount",
            "network connect",
            "container start",
            "container die",
            "network disconnect",
            "volume unmount",
            "container destroy",
            "volume destroy",
        ]
    );
    fixture.finish().await;
}

#[tokio::test]
async fn failed_starts_say_why() {
    let Some(fixture) = fixture("failed_starts_say_why").await else { return };
    for (program, exit_code, text) in [
        ("nosuch", 127, "executable file not found in $PATH"),
        ("/bin/nosuch", 127, "no such file or directory"),
        ("/etc/plain", 126, "permission denied"),
        ("/etc", 126, "is a directory"),
    ] {
        let id = fixture.engine.create(spec(&[program])).await.expect("created").id;
        let error = within(fixture.engine.start_container(&id)).await.expect_err("can't be started");
        assert!(error.report().contains(text), "{program}: {}", error.report());
        assert_eq!(error.class(), Class::InvalidParameter, "{program}");
        let state = fixture.engine.inspect(&id).await.expect("known").state.clone();
        assert_eq!((state.status, state.exit_code), (Status::Created, exit_code), "{program}");
        assert!(state.error.contains(text), "{program}: {}", state.error);
    }
    fixture.finish().await;
}

#[tokio::test]
async fn stop_kill_pause_restart_rename() {
    let Some(fixture) = fixture("stop_kill_pause_restart_rename").await else { return };
    let engine = &fixture.engine;
    let id = fixture.run(script("trap 'exit 5' TERM; echo ready; while :; do sleep 0.05; done")).await;
    engine.pause(&id).await.expect("paused");
    assert_eq!(engine.inspect(&id).await.expect("known").state.status, Status::Paused);
    assert_eq!(engine.pause(&id).await.expect_err("twice").class(), Class::Conflict);
    engine.unpause(&id).await.expect("running");
    let error = engine.start_container(&id).await.expect_err("it runs");
    assert_eq!(error.class(), Class::NotModified);
    engine.rename(&id, "other-name").await.expect("renamed");
    assert_eq!(engine.inspect("other-name").await.expect("found").id, id);
    within(async {
        while fixture.log(&id).await != "ready\n" {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
    within(engine.stop(&id, StopOptions::default())).await.expect("stopped");
    assert_eq!(engine.inspect(&id).await.expect("known").state.exit_code, 5);
    assert_eq!(
        engine.stop(&id, StopOptions::default()).await.expect_err("stopped").class(),
        Class::NotModified
    );
    within(engine.restart(&id, StopOptions::default())).await.expect("started again");
    assert_eq!(engine.inspect(&id).await.expect("known").state.status, Status::Running);
    let error = engine.remove(&id, RemoveOptions::default()).await.expect_err("it runs");
    assert!(
        error.report().contains("stop the container before removing or force remove"),
        "{}",
        error.report()
    );
    within(engine.kill(&id, None)).await.expect("killed");
    assert_eq!(engine.inspect(&id).await.expect("known").state.exit_code, 137);
    fixture.finish().await;
}

#[tokio::test]
async fn auto_remove_and_waits() {
    let Some(fixture) = fixture("auto_remove_and_waits").await else { return };
    let engine = &fixture.engine;
    let mut asked = script("exit 7");
    asked.host.auto_remove = true;
    let id = engine.create(asked).await.expect("created").id;
    let removed = engine.wait(&id, WaitCondition::Removed).await.expect("registered");
    let next = engine.wait(&id, WaitCondition::NextExit).await.expect("registered");
    engine.start_container(&id).await.expect("started");
    assert_eq!(within(next.outcome()).await.exit_code, 7);
    assert_eq!(within(removed.outcome()).await.exit_code, 7);
    assert_eq!(engine.inspect(&id).await.expect_err("gone").class(), Class::NotFound);
    assert_eq!(engine.list_volumes(Default::default()).await.expect("a list").len(), 0);
    fixture.finish().await;
}

#[tokio::test]
async fn attached_before_the_start() {
    let Some(fixture) = fixture("attached_before_the_start").await else { return };
    let mut asked = spec(&["cat"]);
    asked.config.open_stdin = true;
    asked.config.stdin_once = true;
    let id = fixture.engine.create(asked).await.expect("created").id;
    let mut client = fixture.attach(&id).await;
    fixture.engine.start_container(&id).await.expect("started");
    let reading = tokio::task::spawn_blocking(move || {
        client.write_all(b"bonjour\n").expect("written");
        client.shutdown(std::net::Shutdown::Write).expect("half closed");
        let mut output = Vec::new();
        client.read_to_end(&mut output).expect("read");
        output
    });
    let output = within(reading).await.expect("read");
    assert_eq!(support::unframe(&output), b"bonjour\n");
    assert_eq!(fixture.exit_code(&id).await, 0);
    assert_eq!(fixture.log(&id).await, "bonjour\n");
    fixture.finish().await;
}

#[tokio::test]
async fn exec_sessions() {
    let Some(fixture) = fixture("exec_sessions").await else { return };
    let engine = &fixture.engine;
    let id = fixture.run(spec(&["sleep", "60"])).await;
    let run = async |cmd: &[&str], user: &str| {
        let exec = ExecSpec {
            attach_stdout: true,
            attach_stderr: true,
            cmd: cmd.iter().map(|word| (*word).to_owned()).collect(),
            user: user.into(),
            env: vec!["EXTRA=1".into()],
            ..ExecSpec::default()
        };
        let exec = engine.exec_create(&id, exec).await.expect("made");
        let ticket = engine.exec_attach(&exec, ExecStartOptions::default()).await.expect("startable");
        let (mut ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let stream = palan_engine::container::ClientStream { socket: theirs.into(), buffered: Vec::new() };
        // A failure is on the connection, too.
        let _ = within(ticket.deliver(stream)).await;
        let reading = tokio::task::spawn_blocking(move || {
            let mut output = Vec::new();
            ours.read_to_end(&mut output).expect("read");
            String::from_utf8(support::unframe(&output)).expect("text")
        });
        let output = within(reading).await.expect("read");
        let mut details = engine.exec_inspect(&exec).await.expect("known");
        for _ in 0..3000 {
            if details.exit_code.is_some() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            details = engine.exec_inspect(&exec).await.expect("known");
        }
        (output, details.exit_code)
    };
    let (output, code) = run(&["sh", "-c", "echo $EXTRA $GREETING; id -u; exit 4"], "app").await;
    assert_eq!((output.as_str(), code), ("1 hello\n1000\n", Some(4)));
    let (output, code) = run(&["nosuch"], "").await;
    assert!(output.contains("executable file not found in $PATH"), "{output}");
    assert_eq!(code, Some(127));
    let top = engine.top(&id, "").await.expect("a table");
    assert_eq!(top.processes.len(), 1);
    assert_eq!(top.processes[0][7], "sleep 60");
    let mut stats = engine.stats(&id, false, true).await.expect("readable");
    let reading = within(stats.next()).await.expect("one").expect("readable");
    assert!(reading.pids_current >= 1 && reading.memory.usage > 0, "{reading:?}");
    fixture.finish().await;
}

#[tokio::test]
async fn following_a_log() {
    let Some(fixture) = fixture("following_a_log").await else { return };
    let id = fixture.run(script("for i in 1 2 3 4 5; do echo $i; sleep 0.1; done")).await;
    let options = LogOptions { stdout: true, follow: true, ..LogOptions::default() };
    assert_eq!(fixture.read_log(&id, options).await, "1\n2\n3\n4\n5\n");
    let tail = LogOptions { stdout: true, tail: Some(2), ..LogOptions::default() };
    assert_eq!(fixture.read_log(&id, tail).await, "4\n5\n");
    fixture.finish().await;
}

#[tokio::test]
async fn limits_and_mounts_reach_the_container() {
    let Some(fixture) = fixture("limits_and_mounts_reach_the_container").await else { return };
    let source = tempfile::tempdir().expect("a directory");
    let path = source.path().display();
    std::fs::write(source.path().join("file"), "from the host\n").expect("written");
    let mut asked = script(
        "cat /in/file; (echo x > /in/new) 2>/dev/null || echo read-only; cat /data/seed; echo t > /scratch/t && echo tmpfs; \
         cat /named/seed 2>/dev/null; stat -c %a /data; hostname; id -u",
    );
    asked.host.binds = vec![format!("{path}:/in:ro"), "named:/named".into()];
    asked.host.tmpfs.insert("/scratch".into(), "size=1m".into());
    asked.host.resources.memory = 32 << 20;
    asked.config.hostname = "box".into();
    asked.config.user = "root".into();
    let id = fixture.run(asked).await;
    assert_eq!(fixture.exit_code(&id).await, 0);
    assert_eq!(fixture.log(&id).await, "from the host\nread-only\nfrom the image\ntmpfs\n750\nbox\n0\n");
    fixture.finish().await;
}

#[tokio::test]
async fn conflicts_and_unknown_names() {
    let Some(fixture) = fixture("conflicts_and_unknown_names").await else { return };
    let engine = &fixture.engine;
    let mut named = spec(&["true"]);
    named.name = Some("taken".into());
    engine.create(named.clone()).await.expect("created");
    assert_eq!(engine.create(named).await.expect_err("taken").class(), Class::Conflict);
    let mut unknown = spec(&["true"]);
    unknown.config.image = "nosuch:1".into();
    let error = engine.create(unknown).await.expect_err("no such image");
    assert_eq!((error.class(), error.report().as_str()), (Class::NotFound, "No such image: nosuch:1"));
    let mut missing = spec(&["true"]);
    missing.host.mounts = vec![palan_engine::spec::Mount {
        kind: "bind".into(),
        source: "/nosuch/path".into(),
        target: "/x".into(),
        ..Default::default()
    }];
    let error = engine.create(missing).await.expect_err("no source");
    assert!(error.report().contains("bind source path does not exist: /nosuch/path"));
    let left = std::fs::read_dir(fixture.data("containers")).expect("readable").count();
    assert_eq!(left, 2, "only the container and the trash: {left}");
    let error = engine.remove_image(support::IMAGE, false, false, Vec::new()).await.expect_err("in use");
    assert_eq!(error.class(), Class::Conflict, "{}", error.report());
    fixture.finish().await;
}
