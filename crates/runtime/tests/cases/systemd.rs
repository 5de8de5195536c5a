//! `--systemd-cgroup`: against a stand-in on a bus of its own, and against systemd where that runs.

use std::path::Path;
use std::process::Output;

use palan_linux::process as os;
use palan_oci::runtime_spec::{Cpu, Memory, Pids, Resources};
use palan_runtime::cgroup::{Cgroup, Location, Manager, Place, UnitRequest};

use super::cli::{Runtime, bundle};
use super::update::{directories, value};
use crate::support::Sandbox;
use crate::support::systemd::StandIn;

const SLICE: &str = "palantest.slice";

/// Takes away what the runtime has made above the scopes; systemd takes its own.
struct Slice;

impl Drop for Slice {
    fn drop(&mut self) {
        if let Ok(slice) = Cgroup::open(&Place::root(format!("/{SLICE}"))) {
            let _ = slice.kill();
            let _ = slice.remove();
        }
    }
}

/// A bundle for the unit `palan-test-<name>.scope`.
fn unit(name: &str, arguments: &[&str], annotations: &[(&str, &str)]) -> (Sandbox, String) {
    let mut sandbox = bundle(arguments);
    sandbox.linux().cgroups_path = format!("{SLICE}:palan-test:{name}");
    sandbox.linux().resources = Some(Resources {
        memory: Some(Memory { limit: Some(64 << 20), ..Memory::default() }),
        cpu: Some(Cpu { shares: Some(512), quota: Some(50_000), period: Some(100_000), ..Cpu::default() }),
        pids: Some(Pids { limit: Some(20) }),
        ..Resources::default()
    });
    for (key, value) in annotations {
        sandbox.spec.annotations.insert((*key).to_owned(), (*value).to_owned());
    }
    let json = serde_json::to_vec(&sandbox.spec).unwrap();
    std::fs::write(sandbox.directory.path().join("config.json"), json).unwrap();
    (sandbox, format!("/{SLICE}/palan-test-{name}.scope"))
}

fn call(runtime: &Runtime, bundle: &Path, arguments: &[&str]) -> Output {
    let mut words = vec!["--systemd-cgroup"];
    words.extend(arguments);
    runtime.call(bundle, &words)
}

fn succeeds(runtime: &Runtime, bundle: &Path, arguments: &[&str]) -> String {
    let output = call(runtime, bundle, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn run_detached(runtime: &Runtime, bundle: &Path, name: &str) -> String {
    let pid_file = bundle.join("pid");
    let arguments = ["--systemd-cgroup", "run", "-d", "--pid-file", pid_file.to_str().unwrap(), name];
    assert!(runtime.call_detached(bundle, &arguments));
    std::fs::read_to_string(pid_file).unwrap()
}

/// The life of a container in a scope. `after` each step something can look.
fn live(runtime: &Runtime, name: &str, after: impl Fn(&str)) {
    let _slice = Slice;
    let annotations = [
        ("org.systemd.property.TimeoutStopSec", "7"),
        ("org.systemd.property.CollectMode", "'inactive-or-failed'"),
    ];
    let (sandbox, cgroup) = unit(name, &["sleep", "1000"], &annotations);
    let path = sandbox.directory.path();
    let pid = run_detached(runtime, path, name);
    after("start");
    // Only the container's process is in it, everywhere.
    let places = directories(&cgroup);
    assert!(!places.is_empty());
    for place in places {
        let inside = std::fs::read_to_string(place.join("cgroup.procs")).unwrap();
        assert_eq!(inside.trim(), pid, "{}", place.display());
    }
    assert_eq!(value(&cgroup, "pids.max").as_deref(), Some("20"));
    // Another container can't have the same unit.
    let output = call(runtime, path, &["run", "again"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains(&format!("palan-test-{name}.scope")), "{said}");
    succeeds(runtime, path, &["update", name, "--pids-limit", "30", "--cpu-quota", "1500"]);
    after("update");
    assert_eq!(value(&cgroup, "pids.max").as_deref(), Some("30"));
    // In whole percents, as systemd has it.
    let quota = value(&cgroup, "cpu.cfs_quota_us").or_else(|| value(&cgroup, "cpu.max")).unwrap();
    assert!(quota == "2000" || quota == "2000 100000", "{quota}");
    assert_eq!(succeeds(runtime, path, &["exec", name, "echo", "inside"]), "inside\n");
    succeeds(runtime, path, &["pause", name]);
    assert!(succeeds(runtime, path, &["state", name]).contains("paused"));
    succeeds(runtime, path, &["resume", name]);
    // Later commands know the unit by themselves.
    runtime.text(path, &["delete", "--force", name]);
    after("delete");
    assert!(directories(&cgroup).is_empty());
    // A container that ends by itself takes its unit with it.
    let (sandbox, cgroup) = unit(name, &["sh", "-c", "exit 5"], &[]);
    assert_eq!(call(runtime, sandbox.directory.path(), &["run", name]).status.code(), Some(5));
    assert!(directories(&cgroup).is_empty());
}

pub(crate) fn scopes_of_a_stand_in() {
    let bus = StandIn::start();
    let runtime = Runtime::palan().with("DBUS_SYSTEM_BUS_ADDRESS", &bus.address());
    let name = format!("live{}", std::process::id());
    live(&runtime, &name, |step| {
        let calls = bus.calls();
        let last = |member: &str| {
            let start = format!("{member} ");
            calls.lines().rfind(|line| line.starts_with(&start)).unwrap_or_default().to_owned()
        };
        match step {
            "start" => {
                let started = last("StartTransientUnit");
                for property in [
                    "TimeoutStopUSec=7000000",
                    "CollectMode=inactive-or-failed",
                    "MemoryAccounting=true",
                    "DefaultDependencies=false",
                    &format!("palan-test-{name}.scope replace"),
                ] {
                    assert!(started.contains(property), "{started}");
                }
                assert!(
                    calls.contains("DevicePolicy=strict") && calls.contains("/dev/char/1:3=rwm"),
                    "{calls}"
                );
                let limits = last("SetUnitProperties");
                for property in ["=67108864", "TasksMax=20", "CPUQuotaPerSecUSec=500000"] {
                    assert!(limits.contains(property), "{limits}");
                }
            }
            "update" => {
                let limits = last("SetUnitProperties");
                assert!(
                    limits.contains("TasksMax=30") && limits.contains("CPUQuotaPerSecUSec=20000"),
                    "{limits}"
                );
                assert!(!limits.contains("DeviceAllow"), "{limits}");
            }
            _ => assert!(last("StopUnit").contains(&format!("palan-test-{name}.scope replace"))),
        }
    });
}

/// Everybody of a restored container is in the scope, and nobody else. CRIU is to leave cgroups alone (criu#3029).
pub(crate) fn restored_into_a_scope() {
    if let Some(reason) = super::checkpoint::bench::missing() {
        println!("SKIPPED: {reason}");
        return;
    }
    let _slice = Slice;
    let bus = StandIn::start();
    let runtime = Runtime::palan().with("DBUS_SYSTEM_BUS_ADDRESS", &bus.address());
    let name = format!("restored{}", std::process::id());
    let (sandbox, cgroup) = unit(&name, &["sleep", "1000"], &[]);
    let path = sandbox.directory.path();
    run_detached(&runtime, path, &name);
    let images = path.join("images");
    let saved = call(
        &runtime,
        path,
        &["checkpoint", "--manage-cgroups-mode", "ignore", "--image-path", images.to_str().unwrap(), &name],
    );
    assert!(saved.status.success(), "{}", String::from_utf8_lossy(&saved.stderr));
    runtime.call(path, &["delete", "--force", &name]);
    assert!(directories(&cgroup).is_empty());
    let pid_file = path.join("restored");
    let pid_file = pid_file.to_str().unwrap();
    let images = images.to_str().unwrap();
    let log = path.join("log");
    let mut arguments = vec!["--systemd-cgroup", "--log", log.to_str().unwrap(), "restore", "-d"];
    arguments.extend([
        "--manage-cgroups-mode",
        "ignore",
        "--image-path",
        images,
        "--pid-file",
        pid_file,
        &name,
    ]);
    let restored = runtime.call_detached(path, &arguments);
    assert!(restored, "{}", std::fs::read_to_string(log).unwrap_or_default());
    let pid = std::fs::read_to_string(pid_file).unwrap();
    let places = directories(&cgroup);
    assert!(!places.is_empty());
    for place in places {
        let inside = std::fs::read_to_string(place.join("cgroup.procs")).unwrap();
        assert_eq!(inside.trim(), pid, "{}", place.display());
    }
    runtime.text(path, &["delete", "--force", &name]);
    assert!(directories(&cgroup).is_empty());
}

pub(crate) fn units_that_do_not_start() {
    let _slice = Slice;
    let bus = StandIn::start();
    let runtime = Runtime::palan().with("DBUS_SYSTEM_BUS_ADDRESS", &bus.address());
    let name = format!("bad{}", std::process::id());
    let refused = |sandbox: &Sandbox, cgroup: &str, text: &str| {
        let output = call(&runtime, sandbox.directory.path(), &["run", &name]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.contains(text), "{said}");
        assert!(directories(cgroup).is_empty());
        assert!(!runtime.root().join(&name).exists());
    };
    let (sandbox, cgroup) = unit(&name, &["true"], &[("org.systemd.property.Refuse", "true")]);
    refused(&sandbox, &cgroup, "failed");
    let (sandbox, cgroup) = unit(&name, &["true"], &[("org.systemd.property.Refuse", "maybe")]);
    refused(&sandbox, &cgroup, "org.systemd.property.Refuse=maybe");
    // What fails later takes the unit with it.
    let (sandbox, cgroup) = unit(&name, &["/nowhere"], &[]);
    refused(&sandbox, &cgroup, "/nowhere");
    let (mut sandbox, cgroup) = unit(&name, &["true"], &[]);
    sandbox.linux().resources.as_mut().unwrap().memory =
        Some(Memory { swappiness: Some(101), ..Memory::default() });
    std::fs::write(sandbox.directory.path().join("config.json"), serde_json::to_vec(&sandbox.spec).unwrap())
        .unwrap();
    refused(&sandbox, &cgroup, "swappiness");
    sandbox.linux().cgroups_path = "/not/a/unit".to_owned();
    std::fs::write(sandbox.directory.path().join("config.json"), serde_json::to_vec(&sandbox.spec).unwrap())
        .unwrap();
    refused(&sandbox, &cgroup, "slice:prefix:name");
    drop(bus);
    let (sandbox, cgroup) = unit(&name, &["true"], &[]);
    refused(&sandbox, &cgroup, "cannot connect to systemd");
}

#[allow(clippy::disallowed_methods, reason = "a test asks systemd")]
pub(crate) fn scopes_of_systemd() {
    if !Path::new("/run/systemd/system").is_dir() {
        println!("SKIPPED the test with systemd: it does not run here");
        return;
    }
    let runtime = Runtime::palan();
    let name = format!("real{}", std::process::id());
    let show = || {
        let unit = format!("palan-test-{name}.scope");
        let output = std::process::Command::new("systemctl").args(["show", &unit]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    live(&runtime, &name, |step| {
        let properties = show();
        let expected: &[&str] = match step {
            "start" => &[
                "ActiveState=active",
                "Delegate=yes",
                "TasksMax=20",
                "TimeoutStopUSec=7s",
                "Slice=palantest.slice",
            ],
            "update" => &["TasksMax=30", "CPUQuotaPerSecUSec=20ms"],
            _ => &["LoadState=not-found"],
        };
        for line in expected {
            assert!(properties.lines().any(|have| have == *line), "{step}: {line}: {properties}");
        }
    });
}

/// A user whose manager runs here, with the address of its own socket.
fn user_with_manager() -> Option<(u32, String)> {
    let entries = std::fs::read_dir("/run/user").into_iter().flatten().flatten();
    let mut users = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let socket = |uid: u32| format!("/run/user/{uid}/systemd/private");
    users
        .find(|uid| *uid != 0 && Path::new(&socket(*uid)).exists())
        .map(|uid| (uid, format!("unix:path={}", socket(uid))))
}

/// What an ordinary user can have: a scope below its own manager, with the controllers that it was given.
pub(crate) fn scopes_of_a_user() {
    let Some((uid, address)) = user_with_manager() else {
        println!("SKIPPED the test with systemd of a user: none runs here");
        return;
    };
    let mut spec = palan_oci::runtime_spec::Spec::default();
    spec.linux.get_or_insert_default().cgroups_path = format!(":palan-test:user{}", std::process::id());
    let resources = Resources { pids: Some(Pids { limit: Some(7) }), ..Resources::default() };
    let attempt = || {
        let request =
            UnitRequest::of(&spec, "x", Manager::User(vec![address])).map_err(|error| error.to_string())?;
        let text = |error| palan_runtime::Error::from(error).report();
        let mut cgroup = Cgroup::create(Location::Unit(&request)).map_err(text)?;
        let limited = cgroup.set_devices(&[]).and_then(|()| cgroup.apply(&resources)).map_err(text);
        let path = cgroup.path().to_owned();
        let limit = value(&path, "pids.max");
        cgroup.remove().map_err(text)?;
        limited?;
        if !path.contains(&format!("user@{uid}.service/user.slice/palan-test-user"))
            || limit.as_deref() != Some("7")
        {
            return Err(format!("{path}: {limit:?}"));
        }
        if directories(&path).is_empty() { Ok(()) } else { Err(format!("{path} is left")) }
    };
    match os::fork(&os::ForkOptions::default()).unwrap() {
        os::Forked::Parent(child) => assert_eq!(os::wait(&child.pidfd).unwrap().code(), 0),
        os::Forked::Child => {
            let (user, group) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(uid));
            rustix::thread::set_thread_groups(&[]).unwrap();
            rustix::thread::set_thread_res_gid(group, group, group).unwrap();
            rustix::thread::set_thread_res_uid(user, user, user).unwrap();
            let result = attempt();
            println!("as user {uid}: {result:?}");
            os::exit_now(i32::from(result.is_err()));
        }
    }
}
