//! `cp`: files into containers and out of them, running or not, with Palan's client, Docker's, and docker-py.

use std::io::Read as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use palan_test_support::daemon::{Daemon, Run, finish};
use palan_test_support::image::TarBuilder;
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{BUSYBOX, daemon};

/// A daemon with a container `cc`, and a directory of the host.
struct Scene {
    daemon: Daemon,
    host: PathBuf,
}

fn scene(running: bool) -> Scene {
    let daemon = daemon();
    let host = daemon.scratch().join("host");
    std::fs::create_dir(&host).unwrap();
    let verb: &[&str] = if running { &["run", "-d"] } else { &["create"] };
    let rest = [
        "--name",
        "cc",
        "--network",
        "none",
        "-v",
        "data:/data",
        "--tmpfs",
        "/tmpfs",
        BUSYBOX,
        "sleep",
        "1000",
    ];
    daemon.palan(verb.iter().chain(&rest)).ok();
    Scene { daemon, host }
}

impl Scene {
    fn path(&self, name: &str) -> String {
        self.host.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, content: &str) -> String {
        let path = self.host.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, content).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> String {
        std::fs::read_to_string(self.host.join(name)).unwrap()
    }

    fn cp(&self, source: &str, destination: &str) -> Run {
        self.daemon.palan(["cp", source, destination])
    }

    /// What a path in the container holds, by way of a copy to standard output.
    fn content(&self, path: &str) -> Vec<(String, String)> {
        let run = self.daemon.command().args(["cp", &format!("cc:{path}"), "-"]).output().unwrap();
        assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
        entries(&run.stdout)
    }
}

/// Names and contents of a tar, as GNU tar reads it.
#[expect(clippy::disallowed_methods, reason = "an outside witness")]
fn entries(archive: &[u8]) -> Vec<(String, String)> {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("a.tar");
    std::fs::write(&file, archive).unwrap();
    let list = std::process::Command::new("tar").arg("-tf").arg(&file).output().unwrap();
    let names = String::from_utf8(list.stdout).unwrap();
    let content = |name: &str| {
        let mut tar = std::process::Command::new("tar");
        let out = tar.arg("-xOPf").arg(&file).arg("--no-recursion").arg(name).output().unwrap();
        String::from_utf8_lossy(&out.stdout).into_owned()
    };
    names.lines().map(|name| (name.to_owned(), content(name))).collect()
}

fn is(entries: &[(&str, &str)]) -> Vec<(String, String)> {
    entries.iter().map(|(name, content)| ((*name).to_owned(), (*content).to_owned())).collect()
}

fn both(check: impl Fn(&Scene)) {
    for running in [true, false] {
        check(&scene(running));
    }
}

#[test]
fn there_and_back() {
    requires!(root);
    both(|scene| {
        let file = scene.write("f", "hello");
        scene.cp(&file, "cc:/tmp/new").ok();
        scene.cp(&file, "cc:/tmp").ok();
        assert_eq!(scene.content("/tmp/f"), is(&[("f", "hello")]));
        scene.cp("cc:/tmp/new", &scene.path("back")).ok();
        assert_eq!(scene.read("back"), "hello");
        scene.write("tree/a/b", "deep");
        symlink("a/b", scene.host.join("tree/link")).unwrap();
        std::fs::set_permissions(scene.host.join("tree/a"), PermissionsExt::from_mode(0o711)).unwrap();
        let tree = scene.path("tree");
        scene.cp(&tree, "cc:/tmp/one").ok();
        let expected = [("one/", ""), ("one/a/", ""), ("one/a/b", "deep"), ("one/link", "")];
        assert_eq!(scene.content("/tmp/one"), is(&expected));
        // It is there now.
        scene.cp(&tree, "cc:/tmp/one").ok();
        assert!(scene.content("/tmp/one").contains(&("one/tree/a/b".into(), "deep".into())));
        scene.cp(&format!("{tree}/."), "cc:/tmp/two").ok();
        let names: Vec<String> = scene.content("/tmp/two/.").into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["./", "./a/", "./a/b", "./link"]);
        scene.cp("cc:/tmp/one/tree", &scene.path("out")).ok();
        assert_eq!(std::fs::read_link(scene.host.join("out/link")).unwrap(), Path::new("a/b"));
        let mode = std::fs::metadata(scene.host.join("out/a")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o711);
        scene.cp("cc:/tmp/two/.", &scene.path("out/a")).ok();
        assert_eq!(scene.read("out/a/a/b"), "deep");
    });
}

#[test]
fn refusals_are_those_of_docker() {
    requires!(root);
    both(|scene| {
        let file = scene.write("f", "x");
        scene.write("tree/a", "x");
        let tree = scene.path("tree");
        scene.cp(&file, "cc:/nosuch/").fails(1, "no such directory");
        scene.cp(&file, "cc:/nosuch/x").fails(1, "Could not find the file /nosuch in container cc");
        scene
            .cp("cc:/nosuch", &scene.host.to_string_lossy())
            .fails(1, "Could not find the file /nosuch in container cc");
        scene.cp(&tree, "cc:/etc/passwd").fails(1, "cannot copy directory");
        scene.cp("cc:/etc", &file).fails(1, "cannot copy directory");
        scene.cp("cc:/etc/passwd/", &scene.host.to_string_lossy()).fails(1, "not a directory");
        scene.cp(&format!("{file}/"), "cc:/tmp").fails(1, "not a directory");
        scene.cp(&file, "cc:/etc/passwd/x").fails(1, "not a directory");
        scene.cp(&scene.path("nosuch"), "cc:/tmp").fails(1, "no such file or directory");
        scene.cp("cc:/etc/passwd", &scene.path("no/such")).fails(1, "does not exist");
        scene.cp("cc:/a", "cc:/b").fails(1, "copying between containers is not supported");
        scene.cp("a", "b").fails(1, "must specify at least one container source");
        scene.cp("nosuch:/a", &file).fails(1, "No such container: nosuch");
        scene.cp("-", "cc:/etc/passwd").fails(1, "destination \"cc:/etc/passwd\" must be a directory");
        // A directory of the container where the file would go, and the other way round.
        scene.write("names/etc", "a file");
        scene
            .cp(&scene.path("names/etc"), "cc:/")
            .fails(1, "cannot overwrite directory \"/etc\" with non-directory \"/\"");
        scene.write("names/passwd/x", "a directory");
        scene
            .cp(&scene.path("names/passwd"), "cc:/etc")
            .fails(1, "cannot overwrite non-directory \"/etc/passwd\" with directory \"/etc\"");
    });
}

#[test]
fn links() {
    requires!(root);
    both(|scene| {
        let file = scene.write("f", "content");
        symlink("f", scene.host.join("link")).unwrap();
        scene.cp(&scene.path("link"), "cc:/tmp/").ok();
        scene.cp(&file, "cc:/tmp/").ok();
        // The link itself, and with -L what it leads to, under the link's name.
        scene.cp("cc:/tmp/link", &scene.path("out")).ok();
        assert_eq!(std::fs::read_link(scene.host.join("out")).unwrap(), Path::new("f"));
        scene.daemon.palan(["cp", "-L", "cc:/tmp/link", &scene.path("followed")]).ok();
        assert_eq!(scene.read("followed"), "content");
        std::fs::create_dir(scene.host.join("into")).unwrap();
        scene.daemon.palan(["cp", "-L", "cc:/tmp/link", &scene.path("into")]).ok();
        assert_eq!(scene.read("into/link"), "content");
        scene.daemon.palan(["cp", "-L", &scene.path("link"), "cc:/tmp/real"]).ok();
        assert_eq!(scene.content("/tmp/real"), is(&[("real", "content")]));
        // A link in the container as destination is followed, and leads nowhere but to the container.
        symlink("/data", scene.host.join("to-data")).unwrap();
        scene.cp(&scene.path("to-data"), "cc:/tmp/").ok();
        scene.cp(&file, "cc:/tmp/to-data").ok();
        assert_eq!(scene.content("/data/f"), is(&[("f", "content")]));
        assert!(!Path::new("/data/f").exists());
    });
}

#[test]
fn mounts_are_seen_as_the_container_sees_them() {
    requires!(root);
    for running in [true, false] {
        let scene = scene(running);
        let file = scene.write("f", "in the volume");
        scene.cp(&file, "cc:/data/").ok();
        let on_host = scene.daemon.data_root().join("volumes/data/_data/f");
        assert_eq!(std::fs::read_to_string(on_host).unwrap(), "in the volume");
        assert_eq!(scene.content("/data/f"), is(&[("f", "in the volume")]));
        let hosts = scene.content("/etc/hostname");
        assert_eq!(hosts.len(), 1);
        if running {
            scene.cp(&file, "cc:/tmpfs/").ok();
            assert_eq!(scene.daemon.palan(["exec", "cc", "cat", "/tmpfs/f"]).ok().stdout, "in the volume");
            // Whole, but without what the kernel makes up.
            let all: Vec<String> = scene.content("/").into_iter().map(|(name, _)| name).collect();
            assert!(all.contains(&"/proc/".to_owned()) && all.contains(&"/data/f".to_owned()));
            assert!(!all.iter().any(|name| name.starts_with("/proc/1")), "{all:?}");
            scene.cp(&file, "cc:/proc").fails(1, "a file system of the kernel's own");
            scene.cp("cc:/proc/cpuinfo", &scene.path("x")).fails(1, "a file system of the kernel's own");
        } else {
            // What was copied into a container that never ran is there when it does.
            scene.cp(&file, "cc:/etc/copied").ok();
            scene.daemon.palan(["start", "cc"]).ok();
            let seen = scene.daemon.palan(["exec", "cc", "cat", "/etc/copied", "/data/f"]).ok();
            assert_eq!(seen.stdout, "in the volumein the volume");
        }
    }
}

#[test]
fn what_is_read_only_stays_as_it_is() {
    requires!(root);
    let daemon = daemon();
    let file = daemon.scratch().join("f");
    std::fs::write(&file, "x").unwrap();
    let file = file.to_str().unwrap();
    let bind = format!("{}:/bind:ro", daemon.scratch().display());
    for (verb, name) in [(&["run", "-d"][..], "live"), (&["create"][..], "made")] {
        let flags = [
            "--read-only",
            "--name",
            name,
            "--network",
            "none",
            "-v",
            "vol:/rw",
            "-v",
            "vol:/ro:ro",
            "-v",
            &bind,
        ];
        daemon.palan(verb.iter().chain(&flags).chain(&[BUSYBOX, "sleep", "1000"])).ok();
        let cp = |to: &str| daemon.palan(["cp", file, &format!("{name}:{to}")]);
        cp("/").fails(1, "container rootfs is marked read-only");
        cp("/etc/").fails(1, "container rootfs is marked read-only");
        cp("/ro/").fails(1, "mounted volume is marked read-only");
        cp("/bind/").fails(1, "mounted volume is marked read-only");
        cp("/rw/").ok();
        assert_eq!(daemon.palan(["cp", &format!("{name}:/ro/f"), "-"]).ok().stdout.len(), 2048 + 1024);
    }
}

#[test]
fn owners() {
    requires!(root);
    let daemon = daemon();
    let file = daemon.scratch().join("f");
    std::fs::write(&file, "x").unwrap();
    std::os::unix::fs::chown(&file, Some(4321), Some(1234)).unwrap();
    let path = file.to_str().unwrap();
    daemon
        .palan(["run", "-d", "--name", "cc", "-u", "alice", "--network", "none", BUSYBOX, "sleep", "1000"])
        .ok();
    daemon.palan(["cp", path, "cc:/tmp/plain"]).ok();
    daemon.palan(["cp", "-a", path, "cc:/tmp/archive"]).ok();
    let owners = daemon.palan(["exec", "cc", "stat", "-c", "%u:%g", "/tmp/plain", "/tmp/archive"]).ok();
    assert_eq!(owners.stdout, "4321:1234\n1000:1000\n");
    let out = daemon.scratch().join("out");
    daemon.palan(["cp", "cc:/tmp/plain", out.to_str().unwrap()]).ok();
    assert_eq!(std::fs::metadata(&out).unwrap().uid(), 0);
    daemon.palan(["cp", "-a", "cc:/tmp/plain", out.to_str().unwrap()]).ok();
    let kept = std::fs::metadata(&out).unwrap();
    assert_eq!((kept.uid(), kept.gid()), (4321, 1234));
}

#[test]
fn streams_and_words() {
    requires!(root);
    let scene = scene(true);
    let tar = TarBuilder::new().directory("d", 0o755).file("d/f", 0o644, "from stdin").finish();
    scene.daemon.palan_with_input(["cp", "-", "cc:/tmp"], &tar).ok();
    assert_eq!(scene.content("/tmp/d/f"), is(&[("f", "from stdin")]));
    let file = scene.write("f", "x");
    let quiet = scene.cp(&file, "cc:/tmp/").ok();
    assert_eq!((quiet.stdout.as_str(), quiet.stderr.as_str()), ("", ""));
    let said = scene.daemon.palan(["cp", "--quiet=false", &file, "cc:/tmp/"]).ok();
    assert!(
        said.stderr.starts_with("Successfully copied ") && said.stderr.ends_with("kB to cc:/tmp/\n"),
        "{said}"
    );
    let out = scene.path("out");
    let said = scene.daemon.palan(["container", "cp", "--quiet=false", "cc:/tmp/f", &out]).ok();
    assert!(said.stderr.ends_with(&format!("kB to {out}\n")), "{said}");
    let events =
        scene.daemon.palan(["events", "--since", "1h", "--until", "0s", "--format", "{{.Action}}"]).ok();
    for action in ["archive-path", "extract-to-dir"] {
        assert!(events.stdout.lines().any(|line| line == action), "{events}");
    }
}

/// The unmodified client.
#[test]
fn dockers_client() {
    requires!(root);
    requires!(
        Path::new("/usr/local/bin/docker").exists() || Path::new("/usr/bin/docker").exists(),
        "needs the docker CLI"
    );
    both(|scene| {
        let docker = |source: &str, destination: &str| scene.daemon.docker(["cp", source, destination]);
        scene.write("tree/a/b", "deep");
        symlink("a/b", scene.host.join("tree/link")).unwrap();
        docker(&scene.path("tree"), "cc:/tmp/one").ok();
        docker(&scene.path("tree/a/b"), "cc:/data/").ok();
        docker("cc:/tmp/one", &scene.path("out")).ok();
        assert_eq!((scene.read("out/a/b"), scene.read("out/link")), ("deep".into(), "deep".into()));
        docker("cc:/data/.", &scene.path("volume")).ok();
        assert_eq!(scene.read("volume/b"), "deep");
        docker("cc:/tmp/one/link", &scene.path("link")).ok();
        assert_eq!(std::fs::read_link(scene.host.join("link")).unwrap(), Path::new("a/b"));
        scene.daemon.docker(["cp", "-L", "cc:/tmp/one/link", &scene.path("followed")]).ok();
        assert_eq!(scene.read("followed"), "deep");
        docker("cc:/nosuch", &scene.path("x")).fails(1, "Could not find the file /nosuch in container cc");
        docker(&scene.path("tree"), "cc:/etc/passwd").fails(1, "cannot copy directory");
        docker(&scene.path("tree/a/b"), "cc:/nosuch/").fails(1, "no such directory");
        docker("cc:/etc/", &scene.path("etc")).ok();
        assert!(scene.read("etc/passwd").contains("alice"));
        docker("cc:/", &scene.path("all")).ok();
        assert!(scene.read("all/etc/passwd").contains("alice"));
    });
}

const DOCKER_PY: &str = r#"
import docker, io, tarfile
client = docker.from_env()
container = client.containers.get("cc")
content = io.BytesIO()
with tarfile.open(fileobj=content, mode="w") as tar:
    member = tarfile.TarInfo("from-python"); member.size = 5
    tar.addfile(member, io.BytesIO(b"hello"))
assert container.put_archive("/tmp", content.getvalue()) is True
chunks, stat = container.get_archive("/tmp/from-python")
assert stat["name"] == "from-python" and stat["size"] == 5 and stat["linkTarget"] == "", stat
with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as tar:
    assert tar.getnames() == ["from-python"] and tar.extractfile("from-python").read() == b"hello"
for path, error in [("/nosuch", docker.errors.NotFound)]:
    try:
        container.get_archive(path)
        raise SystemExit("no error")
    except error:
        pass
try:
    container.put_archive("/etc/passwd", content.getvalue())
    raise SystemExit("no error")
except docker.errors.APIError as error:
    assert "extraction point is not a directory" in str(error), error
print("copied")
"#;

#[test]
#[expect(clippy::disallowed_methods, reason = "an outside client, run as its users do")]
fn docker_py() {
    requires!(root);
    let python = std::env::var_os("PALAN_TEST_PYTHON");
    requires!(python.is_some(), "needs docker-py: run by `cargo xtask test`");
    let scene = scene(true);
    let mut command = std::process::Command::new(python.unwrap_or_default());
    command.args(["-c", DOCKER_PY]).env("DOCKER_HOST", scene.daemon.host());
    assert_eq!(finish(&mut command, None).ok().line(), "copied");
}

/// The usual /etc/resolv.conf of distributions leads to what is not in their images.
#[test]
fn an_image_with_a_dangling_link() {
    requires!(root);
    let scene = scene(false);
    let tar =
        TarBuilder::new().directory("etc", 0o755).symlink("etc/resolv.conf", "../run/resolve/stub.conf");
    std::fs::write(scene.host.join("image.tar"), tar.finish()).unwrap();
    scene.daemon.palan(["import", &scene.path("image.tar"), "dangling"]).ok();
    scene.daemon.palan(["create", "--name", "dd", "dangling", "sh"]).ok();
    scene.cp(&scene.write("f", "x"), "dd:/f").ok();
    scene.cp("dd:/f", &scene.path("back")).ok();
    assert_eq!(scene.read("back"), "x");
}

/// An overlay is never mounted twice: a start makes the copies to and from the container end.
#[test]
fn a_start_comes_before_a_copy() {
    requires!(root);
    let scene = scene(false);
    let mut copy = scene.daemon.command();
    copy.args(["cp", "-", "cc:/tmp"]);
    copy.stdin(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let mut copy = copy.spawn().unwrap();
    let mut input = copy.stdin.take().unwrap();
    let tar = TarBuilder::new().file("big", 0o644, vec![b'x'; 16 << 20]).finish();
    let feeding = std::thread::spawn(move || {
        use std::io::Write as _;
        // Half of it at once, and a rest that goes on for longer than all that is done meanwhile.
        let (first, rest) = tar.split_at(tar.len() / 2);
        for piece in std::iter::once(first).chain(rest.chunks(4 << 10)) {
            if input.write_all(piece).is_err() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    });
    assert!(wait_until(PATIENCE, || scene.daemon.palan(["diff", "cc"]).stdout.contains("/tmp/big")));
    scene.daemon.palan(["start", "cc"]).ok();
    let mut said = String::new();
    copy.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(!copy.wait().unwrap().success());
    assert!(said.contains("the container was started meanwhile"), "{said}");
    feeding.join().unwrap();
}
