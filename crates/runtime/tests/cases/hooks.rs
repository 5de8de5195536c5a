//! Hooks: when they run, what they see, and what their failure does.

use palan_oci::runtime_spec::{Hook, Hooks};

use crate::support::Sandbox;

fn shell(script: String) -> Hook {
    Hook {
        path: "/bin/sh".into(),
        args: vec!["sh".into(), "-c".into(), script],
        env: vec!["PATH=/usr/bin:/bin".into()],
        timeout: Some(30),
    }
}

pub(crate) fn each_runs_at_its_time_and_place() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "echo program"]);
    let log = sandbox.directory.path().join("log");
    let rootfs = sandbox.rootfs();
    let note = |word: &str, more: &str| {
        let log = log.display();
        shell(format!("read -r state; echo \"{word} $(readlink /proc/self/ns/mnt) $state\" >> {log}; {more}"))
    };
    let host = std::fs::read_link("/proc/self/ns/mnt").unwrap().to_string_lossy().into_owned();
    // From the host the container's root shows only in its mount namespace, which the hook of createContainer is in.
    let seen = format!(
        "test -e {0}/proc/version -a -c {0}/dev/null && echo there >> {1}",
        rootfs.display(),
        log.display()
    );
    sandbox.spec.hooks = Some(Hooks {
        prestart: vec![note("prestart", "")],
        create_runtime: vec![note("createRuntime", "")],
        create_container: vec![note("createContainer", &seen)],
        start_container: vec![shell("read -r state; echo startContainer $$ $state".into())],
        ..Hooks::default()
    });
    sandbox.spec.annotations.insert("org.example".into(), "x".into());
    let output = sandbox.output();
    // Its own output is kept for an error.
    assert_eq!(output, "program\n");
    let log = std::fs::read_to_string(log).unwrap();
    let lines: Vec<_> = log.lines().collect();
    assert_eq!(lines.len(), 4, "{log}");
    for (line, word) in lines.iter().zip(["prestart", "createRuntime"]) {
        assert!(line.starts_with(&format!("{word} {host} ")), "{log}");
    }
    assert!(lines[2].starts_with("createContainer mnt:") && !lines[2].contains(&host), "{log}");
    assert_eq!(lines[3], "there");
    let state: serde_json::Value = serde_json::from_str(lines[1].splitn(3, ' ').nth(2).unwrap()).unwrap();
    assert_eq!(state["id"], "test");
    assert_eq!(state["status"], "creating");
    assert_eq!(state["annotations"]["org.example"], "x");
    assert_eq!(state["bundle"], sandbox.directory.path().to_str().unwrap());
    assert!(state["pid"].as_i64().unwrap() > 1);
}

pub(crate) fn a_failing_hook_ends_the_container() {
    for kind in ["prestart", "createRuntime", "createContainer", "startContainer"] {
        let mut sandbox = Sandbox::new(&["echo", "never"]);
        let hooks = vec![shell("echo sorry >&2; exit 9".into())];
        let mut all = Hooks::default();
        match kind {
            "prestart" => all.prestart = hooks,
            "createRuntime" => all.create_runtime = hooks,
            "createContainer" => all.create_container = hooks,
            _ => all.start_container = hooks,
        }
        sandbox.spec.hooks = Some(all);
        let error = sandbox.error().report();
        assert_eq!(error, format!("error running {kind} hook #0: exit status 9, stdout and stderr: sorry"));
    }
    let mut sandbox = Sandbox::new(&["echo", "never"]);
    sandbox.spec.hooks = Some(Hooks { prestart: vec![shell("kill -SYS $$".into())], ..Hooks::default() });
    let error = sandbox.error().report();
    assert!(error.contains("error running prestart hook #0: signal: bad system call"), "{error}");
}

pub(crate) fn the_image_has_no_say_in_a_hooks_environment() {
    let mut sandbox = Sandbox::new(&["true"]);
    // CVE-2025-23266: a variable of the image made a privileged hook load a library of the image.
    sandbox.process().env.push("LD_PRELOAD=/evil.so".into());
    let check = "test -z \"$LD_PRELOAD\"";
    let hooks = vec![shell(check.into())];
    sandbox.spec.hooks = Some(Hooks {
        prestart: hooks.clone(),
        create_runtime: hooks.clone(),
        create_container: hooks.clone(),
        start_container: hooks,
        ..Hooks::default()
    });
    sandbox.output();
}

pub(crate) fn hooks_work_with_a_user_namespace() {
    let mut sandbox = super::namespaces::with_user_namespace(&["cat", "/made"]);
    let rootfs = sandbox.rootfs();
    let made = shell(format!("echo by the hook > {}/made", rootfs.display()));
    sandbox.spec.hooks = Some(Hooks { create_runtime: vec![made], ..Hooks::default() });
    assert_eq!(sandbox.output(), "by the hook\n");
}
