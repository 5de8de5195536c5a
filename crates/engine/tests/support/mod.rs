//! An engine of its own for each test: private directories, bridge, table and cgroup; all is gone when the test ends.

#![allow(dead_code, unreachable_pub, reason = "each test program uses a part of this")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use palan_engine::container::{AttachOptions, ClientStream, LogOptions, RemoveOptions, WaitCondition};
use palan_engine::image::ImportSpec;
use palan_engine::spec::{Config, ContainerSpec, HostConfig};
use palan_engine::stream::body_pipe;
use palan_engine::{Engine, EngineConfig, FileConfig, SupervisorSource};
use palan_supervisor::runtime::cgroup::{Cgroup, Place};
use palan_test_support::image::TarBuilder;
use palan_test_support::skip;

/// The image that every fixture has.
pub const IMAGE: &str = "bb:latest";

/// What a test works with.
pub struct Fixture {
    /// The engine.
    pub engine: Arc<Engine>,
    /// Its settings, for a restart.
    pub config: EngineConfig,
    traces: Traces,
    root: tempfile::TempDir,
}

/// What lies outside of the directories; taken away also when the test fails.
struct Traces {
    bridge: String,
    cgroup: String,
    run_root: PathBuf,
}

impl Drop for Traces {
    fn drop(&mut self) {
        use palan_supervisor::protocol::Request;
        if !std::thread::panicking() {
            return;
        }
        let directories = std::fs::read_dir(self.run_root.join("containers")).into_iter().flatten().flatten();
        for directory in directories {
            if let Ok(mut connection) = palan_supervisor::client::connect(&directory.path()) {
                connection.send(Request::Signal { signal: 9 }, Vec::new()).ok();
                // Until it has ended: the end of the connection.
                while connection
                    .receive_timeout(Duration::from_secs(2))
                    .is_ok_and(|message| message.is_some())
                {}
            }
        }
        if let Ok(manager) = palan_network::Manager::open(palan_network::HostConfig::for_bridge(&self.bridge))
        {
            let mut bridge = palan_network::NetworkConfig::bridge("default", "bridge", &self.bridge);
            bridge.adopt = true;
            manager.create(bridge).ok();
            manager.remove_all().ok();
        }
        if let Ok(cgroup) = Cgroup::open(&Place::root(&self.cgroup)) {
            cgroup.remove().ok();
        }
    }
}

/// A fixture, or nothing where the test can't run: it then says so.
pub async fn fixture(test: &str) -> Option<Fixture> {
    if !rustix::process::geteuid().is_root() {
        skip::note(test, "it needs root");
        return None;
    }
    let Some(supervisor) = supervisor_program() else {
        skip::note(
            test,
            "there is no palan-supervisor: run `cargo build -p palan-supervisor` or set PALAN_TEST_SUPERVISOR",
        );
        return None;
    };
    let Ok(busybox) = std::fs::read("/usr/bin/busybox") else {
        skip::note(test, "it needs Debian's busybox-static");
        return None;
    };
    let root = tempfile::tempdir().expect("a directory");
    let tag = format!("{:x}", rand_u32());
    let file = FileConfig {
        data_root: Some(root.path().join("data")),
        run_root: Some(root.path().join("run")),
        bridge: Some(format!("pl{tag}")),
        firewall_table: Some(format!("pl{tag}")),
        cgroup_parent: Some(format!("/palan-test-{tag}")),
        ..FileConfig::default()
    };
    let config =
        EngineConfig::resolve(&file, "0.0.0-test", SupervisorSource::File(supervisor)).expect("settings");
    let engine = Engine::start(config.clone()).await.expect("the engine starts");
    let traces = Traces {
        bridge: config.bridge.clone(),
        cgroup: config.cgroup_parent.clone(),
        run_root: config.run_root.clone(),
    };
    let fixture = Fixture { engine, config, traces, root };
    fixture.import(busybox).await;
    Some(fixture)
}

fn rand_u32() -> u32 {
    let mut bytes = [0; 4];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).expect("random numbers");
    u32::from_le_bytes(bytes)
}

fn supervisor_program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PALAN_TEST_SUPERVISOR") {
        return Some(path.into());
    }
    // Test programs are built into `deps` beside the workspace's programs.
    let own = std::env::current_exe().ok()?;
    let path = own.parent()?.parent()?.join("palan-supervisor");
    path.exists().then_some(path)
}

impl Fixture {
    async fn import(&self, busybox: Vec<u8>) {
        let mut tar = TarBuilder::new()
            .directory("bin", 0o755)
            .file("bin/busybox", 0o755, busybox)
            .directory("etc", 0o755)
            .file("etc/passwd", 0o644, "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1000::/home/app:/bin/sh\n")
            .file("etc/group", 0o644, "root:x:0:\napp:x:1000:\n")
            .file("etc/plain", 0o644, "no program\n")
            .directory("data", 0o750)
            .file("data/seed", 0o640, "from the image\n")
            .directory("tmp", 0o1777);
        for applet in [
            "sh", "true", "false", "cat", "echo", "sleep", "ls", "id", "seq", "yes", "head", "mount", "stat",
            "kill", "hostname", "env",
        ] {
            tar = tar.symlink(&format!("bin/{applet}"), "busybox");
        }
        let changes = ["ENV GREETING=hello", "LABEL from=test", "VOLUME /data", "CMD [\"sh\"]"];
        let spec = ImportSpec {
            reference: IMAGE.into(),
            changes: changes.map(String::from).to_vec(),
            source: "-".into(),
            ..ImportSpec::default()
        };
        let (sender, reader) = body_pipe();
        let bytes = tar.finish();
        tokio::spawn(async move {
            for chunk in bytes.chunks(256 * 1024) {
                if !sender.send(Ok(bytes::Bytes::copy_from_slice(chunk))).await {
                    return;
                }
            }
        });
        let mut items = self.engine.import(spec, reader).await.expect("the image is imported");
        while let Some(item) = items.next().await {
            item.expect("the image is imported");
        }
    }

    /// Ends this engine and starts another on the same data.
    pub async fn restarted(self) -> Self {
        let Self { engine, config, traces, root } = self;
        engine.shutdown().await;
        let old = Arc::downgrade(&engine);
        drop(engine);
        // The data root is locked until the last task has let go.
        within(async {
            while old.strong_count() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let engine = Engine::start(config.clone()).await.expect("the engine starts again");
        Self { engine, config, traces, root }
    }

    /// Makes and starts a container; returns its id.
    pub async fn run(&self, spec: ContainerSpec) -> String {
        let id = self.engine.create(spec).await.expect("created").id;
        self.engine.start_container(&id).await.expect("started");
        id
    }

    /// Waits until a container does not run; returns its exit code.
    pub async fn exit_code(&self, id: &str) -> i32 {
        let ticket = self.engine.wait(id, WaitCondition::NotRunning).await.expect("registered");
        within(ticket.outcome()).await.exit_code
    }

    /// The whole log as text without frames.
    pub async fn log(&self, id: &str) -> String {
        let options = LogOptions { stdout: true, stderr: true, ..LogOptions::default() };
        self.read_log(id, options).await
    }

    /// A log as text without frames.
    pub async fn read_log(&self, id: &str, options: LogOptions) -> String {
        let mut stream = self.engine.logs(id, options).await.expect("readable");
        let mut bytes = Vec::new();
        while let Some(chunk) = within(stream.chunks.next()).await {
            bytes.extend_from_slice(&chunk.expect("readable").bytes);
        }
        String::from_utf8(unframe(&bytes)).expect("text")
    }

    /// Removes a container by force.
    pub async fn remove(&self, id: &str) {
        let options = RemoveOptions { force: true, volumes: true, link: false };
        within(self.engine.remove(id, options)).await.expect("removed");
    }

    /// Attaches to all streams; returns our end of the connection.
    pub async fn attach(&self, id: &str) -> std::os::unix::net::UnixStream {
        let options = AttachOptions {
            stdin: true,
            stdout: true,
            stderr: true,
            stream: true,
            ..AttachOptions::default()
        };
        let ticket = self.engine.attach(id, options).await.expect("attachable");
        let (ours, theirs) = std::os::unix::net::UnixStream::pair().expect("a pair");
        ticket.deliver(ClientStream { socket: theirs.into(), buffered: Vec::new() }).await.expect("attached");
        ours
    }

    /// A path below the data root.
    pub fn data(&self, path: &str) -> PathBuf {
        self.root.path().join("data").join(path)
    }

    /// Removes all containers and what the engine made outside of its directories.
    pub async fn finish(self) {
        let query = palan_engine::container::ListQuery { all: true, ..Default::default() };
        for container in self.engine.list(query).await.expect("a list") {
            self.remove(&container.details.id).await;
        }
        self.engine.remove_host_traces().await.expect("cleaned up");
        self.engine.shutdown().await;
    }
}

/// A container of the test image without a network.
pub fn spec(cmd: &[&str]) -> ContainerSpec {
    ContainerSpec {
        config: Config {
            image: IMAGE.into(),
            cmd: Some(cmd.iter().map(|word| (*word).to_owned()).collect()),
            ..Config::default()
        },
        host: HostConfig { network_mode: "none".into(), ..HostConfig::default() },
        ..ContainerSpec::default()
    }
}

/// A container that runs a script.
pub fn script(text: &str) -> ContainerSpec {
    spec(&["sh", "-c", text])
}

/// Bounds a wait that a defect could make endless.
pub async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("within 30 seconds")
}

/// Takes the eight-byte headers away.
pub fn unframe(mut bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    while let Some((header, rest)) = bytes.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        out.extend_from_slice(&rest[..length]);
        bytes = &rest[length..];
    }
    out
}
