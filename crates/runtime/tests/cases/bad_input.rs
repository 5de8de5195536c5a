//! Specifications that are wrong: each field of a whole one missing, of another type, out of range, contradictory. Whatever
//! is refused is refused at once, by its name, and leaves nothing.

mod contradictions;
mod mutations;
mod roots;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use palan_linux::namespace::{self, Kinds};
use palan_linux::process::{self as os, ForkOptions, Forked};
use palan_oci::runtime_spec::{Spec, check_version};
use palan_runtime::cgroup::Location;
use palan_runtime::{CreateRequest, Rootfs, Stdio};
use serde_json::{Value, json};

use super::cli::Runtime;
use crate::support::Sandbox;
use mutations::{Place, mutate, mutations, places};

pub(crate) use contradictions::*;
pub(crate) use roots::*;

/// How long the runtime may take to say no.
const PATIENCE: Duration = Duration::from_secs(10);

/// Every section that the specification has for Linux.
fn everything() -> Value {
    serde_json::from_str(include_str!("bad_input/config.json")).unwrap()
}

/// What of it every host with root can have.
fn runnable(sandbox: &Sandbox) -> Value {
    let mut config = everything();
    let process = config["process"].as_object_mut().unwrap();
    process.remove("apparmorProfile");
    process.remove("selinuxLabel");
    config["hooks"].as_object_mut().unwrap().retain(|name, _| name == "createRuntime" || name == "poststop");
    let bind = config["mounts"][5].as_object_mut().unwrap();
    bind.retain(|name, _| !name.ends_with("Mappings"));
    bind["options"] = json!(["rbind", "ro", "rprivate"]);
    let linux = config["linux"].as_object_mut().unwrap();
    for name in ["uidMappings", "gidMappings", "netDevices", "mountLabel", "intelRdt", "timeOffsets"] {
        linux.remove(name);
    }
    linux["memoryPolicy"] = json!({ "mode": "MPOL_DEFAULT" });
    linux["namespaces"].as_array_mut().unwrap().truncate(6);
    linux["cgroupsPath"] = json!(sandbox.cgroup);
    let resources = linux["resources"].as_object_mut().unwrap();
    resources.retain(|name, _| matches!(name.as_str(), "devices" | "memory" | "cpu" | "pids"));
    config
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new(&["true"]);
    std::fs::create_dir(sandbox.directory.path().join("data")).unwrap();
    std::fs::create_dir(sandbox.rootfs().join("data")).unwrap();
    sandbox
}

/// Reads and checks a specification as a creation does before anything exists.
fn check(sandbox: &Sandbox, json: &str) -> Result<(), String> {
    let chain = |error: palan_oci::runtime_spec::SpecError| palan_stdx::error_chain::to_string(&error);
    let spec = Spec::from_json(json.as_bytes()).map_err(chain)?;
    check_version(&spec.oci_version).map_err(chain)?;
    let rootfs = Rootfs::Directory(sandbox.rootfs());
    palan_runtime::check(&CreateRequest {
        id: "bad",
        spec: &spec,
        bundle: sandbox.directory.path(),
        rootfs: &rootfs,
        user: None,
        groups: &[],
        create_cwd: true,
        network_namespace: None,
        seccomp: None,
        stdio: Stdio::Null,
        cgroup: Location::Root(&sandbox.cgroup),
        parent_death_signal: true,
        init: false,
        extra_descriptors: &[],
        start_fifo: None,
        no_pivot: false,
        keep_keyring: false,
        sources: &[],
    })
    .map_err(|error| error.report())
}

/// Runs `case` in a process with namespaces of its own: what a wrong specification leaves out is taken from the caller.
fn apart(case: impl FnOnce()) {
    let Forked::Parent(child) = os::fork(&ForkOptions::default()).unwrap() else {
        let kinds = [Kinds::MOUNT, Kinds::NETWORK, Kinds::HOST_NAME_AND_NIS_DOMAIN_NAME];
        let enter = || {
            namespace::unshare(kinds.into_iter().collect()).unwrap();
            palan_linux::mount::set_root_propagation(palan_linux::mount::Propagation::Private).unwrap();
            rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            enter();
            case();
        }));
        os::exit_now(i32::from(done.is_err()));
    };
    assert_eq!(os::wait(&child.pidfd).unwrap().code(), 0, "see above");
}

/// How a run of `palan runtime` ended.
#[derive(Debug)]
struct Outcome {
    code: Option<i32>,
    stderr: String,
    /// Levels and messages.
    log: Vec<(String, String)>,
}

impl Outcome {
    #[track_caller]
    fn error(&self) -> &str {
        assert_eq!(self.code, Some(1), "{self:?}");
        self.log.iter().find(|(level, _)| level == "error").map_or("", |(_, message)| message)
    }
}

/// Runs a container by the command line, to its end, and sees that nothing is left of it.
fn run(runtime: &Runtime, sandbox: &Sandbox, json: &str) -> Outcome {
    call(runtime, sandbox, json, &["run"])
}

/// The same with other words for `run`, which must not leave a container either.
#[allow(clippy::disallowed_methods, reason = "a test runs the program under test")]
fn call(runtime: &Runtime, sandbox: &Sandbox, json: &str, words: &[&str]) -> Outcome {
    let bundle = sandbox.directory.path();
    std::fs::write(bundle.join("config.json"), json).unwrap();
    let log = runtime.log();
    std::fs::write(&log, "").unwrap();
    let stderr = bundle.join("stderr");
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let id = id(sandbox);
    let arguments: Vec<&str> = ["--log-format", "json"].iter().chain(words).copied().chain([&*id]).collect();
    let mut child = runtime
        .command(bundle, &arguments)
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::null())
        .stderr(std::fs::File::create(&stderr).unwrap())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        if started.elapsed() > PATIENCE {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("it hangs: {json}");
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let entry = |line: &str| {
        let entry: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| entry[name].as_str().unwrap().to_owned();
        (text("level"), text("msg"))
    };
    let outcome = Outcome {
        code: status.code(),
        stderr: std::fs::read_to_string(&stderr).unwrap(),
        log: std::fs::read_to_string(&log).unwrap().lines().map(entry).collect(),
    };
    let context = || format!("{outcome:?} of {json}");
    assert!(!outcome.stderr.contains("panicked"), "{}", context());
    let entries = std::fs::read_dir(runtime.root()).unwrap().flatten().map(|entry| entry.path());
    let states: Vec<_> = entries.filter(|path| *path != log).collect();
    assert!(states.is_empty(), "{states:?} is left: {}", context());
    let groups = cgroups(&sandbox.cgroup);
    assert!(groups.is_empty(), "{groups:?} are left: {}", context());
    assert_eq!(std::fs::read_to_string("/proc/self/mountinfo").unwrap(), mounts, "{}", context());
    // Orphans are this process's: there is none, not even a dead one.
    assert!(os::reap_any(false).is_err(), "a process is left: {}", context());
    if outcome.code != Some(0) {
        let error = outcome.error();
        assert!(!error.is_empty() && outcome.stderr.contains(error), "{}", context());
    }
    outcome
}

/// The directories of a cgroup, by hierarchy.
fn cgroups(path: &str) -> Vec<PathBuf> {
    let top = Path::new("/sys/fs/cgroup");
    let hierarchies = std::fs::read_dir(top).unwrap().flatten().map(|entry| entry.path());
    let all = hierarchies.chain([top.to_owned()]);
    all.map(|hierarchy| hierarchy.join(path.trim_start_matches('/'))).filter(|path| path.exists()).collect()
}

/// A container's ID that is also the name of its cgroup where the specification gives none.
fn id(sandbox: &Sandbox) -> String {
    let parent = sandbox.cgroup.trim_matches('/').split('/').next().unwrap();
    format!("{parent}-own")
}

/// Cgroups of this name, down to where a session of systemd has them.
fn cgroups_named(name: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut directories = vec![(PathBuf::from("/sys/fs/cgroup"), 0)];
    while let Some((directory, depth)) = directories.pop() {
        for entry in std::fs::read_dir(&directory).into_iter().flatten().flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) && depth < 6 {
                if entry.file_name() == name {
                    found.push(entry.path());
                }
                directories.push((entry.path(), depth + 1));
            }
        }
    }
    found
}

/// Whether an error tells which field it is about: the one at `place` or the object or list that it is in. Those after it
/// may be told instead, where one without the other makes no sense.
fn tells(error: &str, place: &Place) -> bool {
    // What else a field is called, in words that runc's users know.
    const WORDS: [(&str, &str); 13] = [
        ("process.args", "exec: \""),
        ("process.env", "exec: \""),
        ("hooks.", " hook #0"),
        ("process.capabilities", "process.capabilities"),
        ("mounts[", ": Unknown parameter '"),
        ("process.rlimits", "too many open files"),
        // What needs a namespace says so.
        ("linux.namespaces", "namespace"),
        ("linux", "hostname needs a UTS namespace"),
        ("linux.uidMappings", "process.user"),
        ("linux.gidMappings", "process.user"),
        ("linux.seccomp.flags", "linux.seccomp"),
        ("linux.resources", "linux.resources.memory.limit: it is too low"),
        // Without /dev or /proc there is no null device, or there are no parameters.
        ("mounts", "null device"),
    ];
    let path = place.to_string();
    let parent = place.parent().map(|parent| parent.to_string()).filter(|parent| parent.contains(['.', '[']));
    // `mounts[2] (/data): options: ...` is as good as `mounts[2].options: ...`.
    let in_parts = |path: &str| {
        let mut cuts = path.match_indices('.').map(|(at, _)| path.split_at(at));
        let told = |(head, rest): (&str, &str)| {
            head.contains(['.', '[']) && error.contains(head) && error.contains(&rest[1..])
        };
        error.contains(path) || cuts.any(told)
    };
    in_parts(&path)
        || parent.is_some_and(|parent| in_parts(&parent))
        || WORDS.iter().any(|(field, words)| path.starts_with(field) && error.contains(words))
}

/// The bulk, in this process: all mutations of a specification with everything in it.
pub(crate) fn every_field_is_checked_before_anything_exists() {
    let sandbox = sandbox();
    let config = everything();
    check(&sandbox, &config.to_string()).unwrap();
    let mut nameless = BTreeMap::new();
    let (mut refused, mut accepted) = (0, 0);
    for place in places(&config) {
        for mutation in mutations("nonsense") {
            match check(&sandbox, &mutate(&config, &place, &mutation)) {
                Ok(()) => accepted += 1,
                Err(error) => {
                    refused += 1;
                    if !tells(&error, &place) {
                        nameless.insert(format!("{place} {}", mutation.name), error);
                    }
                }
            }
        }
    }
    println!("{refused} refused, {accepted} accepted");
    assert!(nameless.is_empty(), "{} errors do not name their field: {nameless:#?}", nameless.len());
    assert!(refused > 2000 && accepted > 200);
}

/// Processes for all of those that pass and for some that don't: it runs, or it is refused by the field's name.
pub(crate) fn what_is_wrong_leaves_nothing() {
    apart(|| {
        let sandbox = sandbox();
        let runtime = Runtime::palan();
        let config = runnable(&sandbox);
        let outcome = run(&runtime, &sandbox, &config.to_string());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let word = id(&sandbox);
        let mut nameless = BTreeMap::new();
        let (mut ran, mut refused, mut skipped) = (0, 0, 0);
        for place in places(&config) {
            for mutation in mutations(&word) {
                let json = mutate(&config, &place, &mutation);
                if check(&sandbox, &json).is_err() {
                    skipped += 1;
                    // In another order than the mutations come.
                    if skipped % 23 != 0 {
                        continue;
                    }
                }
                let outcome = run(&runtime, &sandbox, &json);
                if outcome.code == Some(0) {
                    ran += 1;
                } else {
                    refused += 1;
                    if !tells(outcome.error(), &place) {
                        nameless.insert(format!("{place} {}", mutation.name), outcome.error().to_owned());
                    }
                }
            }
        }
        assert_eq!(cgroups_named(&word), Vec::<PathBuf>::new());
        println!("{ran} ran, {refused} were refused, {skipped} were not tried");
        assert!(nameless.is_empty(), "{} errors do not name their field: {nameless:#?}", nameless.len());
    });
}
