//! Programs that drive an engine for their users, unmodified: docker-compose and testcontainers.

use palan_test_support::daemon::{Daemon, finish};
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::daemon;

const PROJECT: &str = r#"
version: "3.8"
services:
  web:
    image: bb
    command: sh -c "mkdir -p /www; echo from web > /www/index.html; exec httpd -f -p 80 -h /www"
    ports: ["127.0.0.1::80"]
    networks: [front]
    environment: [A=1]
    labels: {x: y}
    volumes: [data:/data, ./:/here:ro]
    healthcheck: {test: ["CMD", "true"], interval: 1s}
    ulimits: {nofile: {soft: 512, hard: 1024}}
    cap_drop: [ALL]
    cap_add: [NET_BIND_SERVICE]
    tmpfs: [/scratch]
    logging: {driver: json-file, options: {max-size: 1m}}
  client:
    image: bb
    command: sh -c "until wget -qO- http://web/; do sleep 0.1; done; exec sleep 1000"
    depends_on: [web]
    networks: {front: {aliases: [second]}}
    stop_grace_period: 1s
    init: true
networks: {front: {}}
volumes: {data: {}}
"#;

#[expect(clippy::disallowed_methods, reason = "an outside client, run as its users do")]
fn compose(daemon: &Daemon, words: &[&str]) -> palan_test_support::daemon::Run {
    let mut command = std::process::Command::new("docker-compose");
    command
        .args(["--project-name", "shop", "--no-ansi"])
        .args(words)
        .current_dir(daemon.scratch().join("project"))
        .env("DOCKER_HOST", daemon.host());
    finish(&mut command, None)
}

#[test]
fn a_project_of_docker_compose() {
    requires!(root);
    requires!(program "docker-compose");
    let daemon = daemon();
    let project = daemon.scratch().join("project");
    std::fs::create_dir_all(&project).unwrap();
    std::fs::write(project.join("docker-compose.yml"), PROJECT).unwrap();
    compose(&daemon, &["up", "-d"]).ok();
    let healthy = wait_until(PATIENCE, || compose(&daemon, &["ps"]).stdout.contains("(healthy)"));
    assert!(healthy, "{}", compose(&daemon, &["ps"]));
    let fetched = wait_until(PATIENCE, || compose(&daemon, &["logs"]).stdout.contains("from web"));
    assert!(fetched, "{}", compose(&daemon, &["logs"]));
    let inside = "echo $A; ls /here; ulimit -n; grep -c /scratch /proc/mounts";
    let run = compose(&daemon, &["exec", "-T", "web", "sh", "-c", inside]).ok();
    assert_eq!(run.stdout, "1\ndocker-compose.yml\n512\n1\n");
    assert!(compose(&daemon, &["port", "web", "80"]).ok().line().starts_with("127.0.0.1:"));
    assert!(compose(&daemon, &["top"]).ok().stdout.contains("httpd -f"));
    // What has not changed is left alone; more of a service are made.
    let again = compose(&daemon, &["up", "-d", "--scale", "client=3"]).ok();
    assert!(again.stderr.contains("shop_web_1 is up-to-date"), "{again}");
    assert_eq!(compose(&daemon, &["ps", "-q", "client"]).ok().stdout.lines().count(), 3);
    compose(&daemon, &["restart", "-t", "0", "web"]).ok();
    compose(&daemon, &["stop", "-t", "0"]).ok();
    compose(&daemon, &["start"]).ok();
    compose(&daemon, &["down", "-v", "-t", "0"]).ok();
    assert_eq!(daemon.palan(["ps", "-aq"]).ok().stdout, "");
    assert_eq!(daemon.palan(["volume", "ls", "-q"]).ok().stdout, "");
}

#[test]
#[expect(clippy::disallowed_methods, reason = "an outside client, run as its users do")]
fn testcontainers_in_python() {
    requires!(root);
    let python = std::env::var_os("PALAN_TEST_PYTHON");
    requires!(python.is_some(), "needs testcontainers: run by `cargo xtask test`");
    let daemon = daemon();
    let mut command = std::process::Command::new(python.unwrap_or_default());
    command
        .args(["-c", include_str!("scripts/testcontainers.py")])
        .env("DOCKER_HOST", daemon.host())
        // Its helper that removes what a killed test has left is an image of a registry.
        .env("TESTCONTAINERS_RYUK_DISABLED", "true");
    assert_eq!(finish(&mut command, None).ok().line(), "testcontainers is content");
}
