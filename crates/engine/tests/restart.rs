//! What a restart of the daemon leaves as it was: everything.

mod support;

use std::io::{Read as _, Write as _};
use std::time::Duration;

use palan_engine::container::{Status, StopOptions};
use support::{fixture, script, spec, within};

#[tokio::test]
async fn containers_go_on_and_are_found_again() {
    let Some(fixture) = fixture("containers_go_on_and_are_found_again").await else { return };
    let mut echo = spec(&["cat"]);
    echo.config.open_stdin = true;
    let running = fixture.run(echo).await;
    let mut client = fixture.attach(&running).await;
    let ends = fixture.run(script("sleep 0.3; echo late; exit 9")).await;
    let ended = fixture.run(script("exit 2")).await;
    assert_eq!(fixture.exit_code(&ended).await, 2);
    let pid = fixture.engine.inspect(&running).await.expect("known").state.pid;
    fixture.engine.shutdown().await;
    tokio::time::sleep(Duration::from_millis(600)).await;

    let fixture = fixture.restarted().await;
    let state = fixture.engine.inspect(&running).await.expect("known").state.clone();
    assert_eq!((state.status, state.pid), (Status::Running, pid));
    assert_eq!(fixture.exit_code(&ends).await, 9);
    assert_eq!(fixture.log(&ends).await, "late\n");
    assert_eq!(fixture.exit_code(&ended).await, 2);
    let reading = tokio::task::spawn_blocking(move || {
        client.write_all(b"still here\n").expect("written");
        let mut answer = [0; 8 + 11];
        client.read_exact(&mut answer).expect("read");
        answer
    });
    let answer = within(reading).await.expect("read");
    assert_eq!(&answer[8..], b"still here\n");
    within(fixture.engine.stop(&running, StopOptions { timeout: Some(0), ..StopOptions::default() }))
        .await
        .expect("stopped");
    assert_eq!(fixture.exit_code(&running).await, 137);
    fixture.finish().await;
}

#[tokio::test]
async fn orphans_are_removed() {
    let Some(fixture) = fixture("orphans_are_removed").await else { return };
    let orphan = fixture.data("containers/0123");
    std::fs::create_dir_all(orphan.join("upper")).expect("made");
    std::fs::create_dir_all(fixture.data("volumes/orphan/_data")).expect("made");
    let fixture = fixture.restarted().await;
    assert!(!orphan.exists());
    assert!(!fixture.data("volumes/orphan").exists());
    fixture.finish().await;
}

#[tokio::test]
async fn a_killed_supervisor_is_noticed() {
    let Some(fixture) = fixture("a_killed_supervisor_is_noticed").await else { return };
    let id = fixture.run(spec(&["sleep", "60"])).await;
    let pid = fixture.engine.inspect(&id).await.expect("known").state.pid;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).expect("a parent");
    let parent: i32 = parent.trim().parse().expect("a number");
    let supervisor = rustix::process::Pid::from_raw(parent).expect("a process");
    rustix::process::kill_process(supervisor, rustix::process::Signal::KILL).expect("killed");
    assert_eq!(fixture.exit_code(&id).await, 137);
    let state = fixture.engine.inspect(&id).await.expect("known").state.clone();
    assert!(state.error.contains("supervisor"), "{}", state.error);
    fixture.finish().await;
}
