//! The command line as a user's environment shapes it: contexts, hosts behind SSH, plugins, completion, the name `docker`.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use palan_test_support::daemon::{finish, program};
use palan_test_support::requires;

use crate::images::{BUSYBOX, daemon};

fn install(path: &Path, script: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, script).unwrap();
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

/// A stand-in for `ssh` that writes down where it was to go, and runs the command here. The true one adds a network and keys.
#[test]
fn a_daemon_behind_ssh() {
    requires!(root);
    let daemon = daemon();
    let bin = daemon.scratch().join("bin");
    let log = daemon.scratch().join("ssh.log");
    let far = daemon.host();
    install(
        &bin.join("ssh"),
        &format!(
            "#!/bin/sh\necho \"$@\" >> {}\nwhile [ \"$1\" != -- ]; do shift; done\nexport PALAN_HOST={far}\nexec sh -c \"$3\"\n",
            log.display()
        ),
    );
    std::os::unix::fs::symlink(program(), bin.join("palan")).unwrap();
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let over_ssh = |words: &[&str], input: Option<&[u8]>| {
        let mut command = daemon.command();
        command.env_remove("DOCKER_HOST").env("PATH", &path).args(words);
        finish(&mut command, input)
    };
    let created = over_ssh(&["context", "create", "far", "--docker", "host=ssh://me@far.example:2222"], None);
    assert_eq!(created.ok().line(), "far");
    over_ssh(&["context", "use", "far"], None).ok();
    assert!(over_ssh(&["images"], None).ok().stdout.contains(BUSYBOX));
    let said = std::fs::read_to_string(&log).unwrap();
    assert!(said.starts_with("-o ConnectTimeout=30 -T -l me -p 2222 -- far.example if "), "{said}");
    let run = over_ssh(&["run", "--rm", "-i", "--network", "none", BUSYBOX, "cat"], Some(b"there and back"));
    assert_eq!(run.ok().stdout, "there and back");
    over_ssh(&["-H", "ssh://-oProxyCommand=x", "ps"], None).fails(1, "unable to parse docker host");
}

#[test]
fn plugins_take_the_programs_place() {
    requires!(root);
    let daemon = daemon();
    let plugin = daemon.scratch().join("docker-config/cli-plugins/docker-echo");
    install(
        &plugin,
        "#!/bin/sh\nif [ \"$1\" = docker-cli-plugin-metadata ]; then\n  echo '{\"SchemaVersion\":\"0.1.0\",\"Vendor\":\"Tests\",\
         \"ShortDescription\":\"Say it again\"}'; exit\nfi\necho \"$DOCKER_HOST $@\"\nexit 7\n",
    );
    let run = daemon.palan(["echo", "--flag", "word"]);
    assert_eq!((run.line(), run.code), (format!("{} echo --flag word", daemon.host()).as_str(), 7), "{run}");
    assert!(daemon.palan(["--help"]).ok().stdout.contains("echo*       Say it again (Tests)"));
    daemon.palan(["ech"]).fails(1, "unknown command: palan ech");
}

#[test]
fn it_is_docker_when_called_so() {
    requires!(root);
    let daemon = daemon();
    let docker = daemon.scratch().join("docker");
    std::os::unix::fs::symlink(program(), &docker).unwrap();
    let call = |words: &[&str]| {
        let script = format!("exec {} \"$@\"", docker.display());
        let mut command = daemon.command();
        let environment: Vec<_> = command
            .get_envs()
            .filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned())))
            .collect();
        command = sh(&script);
        command.envs(environment).arg("sh").args(words);
        finish(&mut command, None)
    };
    assert_eq!(call(&["run", "--rm", "--network", "none", BUSYBOX, "echo", "hi"]).ok().line(), "hi");
    call(&["run"]).fails(1, "docker: 'docker run' requires at least 1 argument");
    assert!(call(&["ps", "--help"]).ok().stdout.starts_with("Usage:  docker ps [OPTIONS]"));
}

#[expect(clippy::disallowed_methods, reason = "a shell, as a user has it")]
fn sh(script: &str) -> std::process::Command {
    let mut command = std::process::Command::new("bash");
    command.arg("-c").arg(script);
    command
}

/// What bash offers at a press of the tab key.
#[test]
fn bash_completes_names_of_live_objects() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["create", "--name", "web", "--network", "none", BUSYBOX]).ok();
    daemon.palan(["create", "--name", "wide", "--network", "none", BUSYBOX]).ok();
    daemon.palan(["tag", BUSYBOX, "bb:two"]).ok();
    let bin = daemon.scratch().join("bin");
    std::fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(program(), bin.join("palan")).unwrap();
    let offers = |line: &str| {
        let script = "source <(palan completion bash)\ncompopt() { :; }\nCOMP_LINE=$1 COMP_POINT=${#1}\n_palan\n\
                      echo \"${COMPREPLY[*]}\"";
        let mut command = sh(script);
        command
            .env("PATH", format!("{}:{}", bin.display(), std::env::var("PATH").unwrap()))
            .env("DOCKER_HOST", daemon.host())
            .args(["bash", line]);
        finish(&mut command, None).ok().line().to_owned()
    };
    assert_eq!(offers("palan start w"), "wide web");
    assert_eq!(offers("palan stop w"), "");
    assert_eq!(offers("palan rmi bb:t"), "two");
    assert_eq!(offers("palan run --network=ho"), "host");
    assert_eq!(offers("palan image pru"), "prune");
}
