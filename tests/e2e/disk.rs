//! What images take and what goes: lists and their filters, trees, `system df`, `prune`; and docker-py's image methods.

use palan_test_support::daemon::{Daemon, finish};
use palan_test_support::{requires, wait_until};
use serde_json::Value;

use crate::images::{BUSYBOX, busybox, daemon, load};

fn lines(daemon: &Daemon, arguments: &[&str]) -> Vec<String> {
    let mut all = vec!["images", "--format", "{{.Repository}}:{{.Tag}}"];
    all.extend(arguments);
    let mut lines: Vec<String> = daemon.palan(all).ok().stdout.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

#[test]
fn lists_are_filtered() {
    requires!(root);
    let daemon = Daemon::start();
    for (name, created, label) in [
        ("old:1", "2020-01-01T00:00:00Z", "a"),
        ("mid:1", "2021-01-01T00:00:00Z", "b"),
        ("new:1", "2022-01-01T00:00:00Z", "a"),
    ] {
        let image = busybox()
            .config("Labels", serde_json::json!({ "kind": label }))
            .history(serde_json::json!([{ "created": created, "created_by": name }]));
        load(&daemon, image, name);
    }
    assert_eq!(lines(&daemon, &[]), ["mid:1", "new:1", "old:1"]);
    assert_eq!(lines(&daemon, &["-f", "label=kind=a"]), ["new:1", "old:1"]);
    assert_eq!(lines(&daemon, &["-f", "reference=?ew*"]), ["new:1"]);
    assert_eq!(lines(&daemon, &["m*"]), ["mid:1"]);
    assert_eq!(lines(&daemon, &["-f", "dangling=true"]), [""; 0]);
    daemon.palan(["tag", "mid:1", "old:1"]).ok();
    assert_eq!(lines(&daemon, &["-f", "dangling=true"]), ["<none>:<none>"]);
    assert_eq!(lines(&daemon, &["-f", "dangling=false"]), ["mid:1", "new:1", "old:1"]);
    daemon.palan(["images", "-f", "nosuch=1"]).fails(1, "invalid filter");
    // Untagged once more: an image that nothing needs goes, the rest stays.
    let pruned = daemon.palan(["image", "prune", "-f"]).ok();
    assert!(pruned.stdout.starts_with("Deleted Images:\ndeleted: sha256:"), "{pruned}");
    let reclaimed = daemon.palan(["image", "prune", "-af"]).ok();
    assert!(reclaimed.stdout.contains("untagged: new:1"), "{reclaimed}");
    assert_eq!(lines(&daemon, &["-a"]), [""; 0]);
    let blobs = std::fs::read_dir(daemon.data_root().join("blobs/sha256")).unwrap().flatten();
    let left: Vec<_> =
        blobs.filter(|entry| entry.metadata().unwrap().is_file()).map(|entry| entry.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What `docker` prints and what `palan` prints, of the same daemon.
#[test]
fn tables_are_dockers() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    daemon
        .palan([
            "run",
            "--name",
            "work",
            "--network",
            "none",
            "-v",
            "vol:/data",
            BUSYBOX,
            "sh",
            "-c",
            "echo 12345 > /data/x; echo 12 > /y",
        ])
        .ok();
    daemon.palan(["commit", "work", "made:1"]).ok();
    daemon.palan(["tag", "made:1", "made:again"]).ok();
    for arguments in [
        &["system", "df"][..],
        &["system", "df", "-v"],
        &["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}} {{.Size}} {{.Reclaimable}}"],
        &["system", "df", "--format", "json"],
        // Newer clients than this one say more of containers.
        &["system", "df", "-v", "--format", "{{json .Images}} {{json .Volumes}} {{json .BuildCache}}"],
        &[
            "system",
            "df",
            "-v",
            "--format",
            "{{range .Images}}{{.Repository}} {{.ID}}\n{{end}}{{len .Containers}}",
        ],
        &["system", "df", "-v", "--format", "{{range .Containers}}{{json .Command}}{{.ID}}{{end}}"],
        &["history", "made:1"],
        &["history", "--no-trunc", "-H=false", "made:1"],
        &["history", "-q", "made:1"],
        &["history", "--format", "json", "made:1"],
        &["images"],
        &["images", "-q", "--no-trunc"],
        &["images", "--digests"],
        &["images", "--format", "{{.Repository}}:{{.Tag}} {{.Digest}} {{.SharedSize}} {{.VirtualSize}}"],
        &["ps", "-as"],
        &["diff", "work"],
    ] {
        // Ages move on between the two: each second for the first minute, which may be too often for slow ones.
        let same = wait_until(std::time::Duration::from_secs(90), || {
            daemon.palan(arguments).ok().stdout == daemon.docker(arguments).ok().stdout
        });
        assert!(same, "{}{}", daemon.palan(arguments), daemon.docker(arguments));
    }
    let (tree, theirs) = (daemon.palan(["images", "--tree"]).ok(), daemon.docker(["images", "--tree"]).ok());
    assert_eq!(
        tree.stdout.trim_start_matches(|letter| letter != '\n'),
        plain(&theirs.stdout).trim_start_matches(|letter| letter != '\n')
    );
    let table = daemon.palan(["system", "df"]).ok();
    let containers = table.stdout.lines().nth(2).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(containers, "Containers 1 0 3B 3B (100%)");
    let volumes = table.stdout.lines().nth(3).unwrap().split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(volumes, "Local Volumes 1 1 6B 0B (0%)");
}

/// A text without colours.
fn plain(text: &str) -> String {
    let mut parts = text.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| text + part.split_once('m').map_or("", |(_, rest)| rest))
}

/// Old clients are told lists, new ones sums.
#[test]
fn disk_usage_in_every_version() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["create", "--name", "one", "--network", "none", BUSYBOX]).ok();
    let get = |path: &str| -> Value { serde_json::from_str(&http_get(&daemon, path)).unwrap() };
    let new = get("/v1.52/system/df");
    assert_eq!((&new["ImageUsage"]["TotalCount"], &new["ImageUsage"]["ActiveCount"]), (&1.into(), &1.into()));
    assert_eq!(new["ContainerUsage"]["TotalCount"], 1);
    assert!(new["ImageUsage"]["Items"].is_null(), "{new}");
    // For clients that speak the newest version without knowing it.
    assert_eq!(new["Images"][0]["RepoTags"][0], "bb:latest");
    let verbose = get("/v1.52/system/df?verbose=1&type=image");
    assert_eq!(verbose["ImageUsage"]["Items"][0]["RepoTags"][0], "bb:latest");
    assert!(verbose["ContainerUsage"].is_null() && verbose["Images"].is_null(), "{verbose}");
    let old = get("/v1.41/system/df");
    assert_eq!(old["Images"][0]["Containers"], 1);
    assert!(old["LayersSize"].as_i64().unwrap() > 100_000);
    assert_eq!(old["BuildCache"], serde_json::json!([]));
    let typed = get("/v1.44/system/df?type=container");
    assert!(typed["Images"].is_null() && typed["Containers"].is_array(), "{typed}");
    let listed = get("/v1.47/images/json?manifests=1&shared-size=1");
    assert_eq!(listed[0]["Manifests"][0]["Kind"], "image");
    assert_eq!(listed[0]["SharedSize"], 0);
    assert!(get("/v1.46/images/json?manifests=1")[0]["Manifests"].is_null());
    let with = get("/v1.48/images/bb/json?manifests=1");
    assert_eq!(with["Manifests"][0]["ID"], with["Descriptor"]["digest"]);
}

fn http_get(daemon: &Daemon, path: &str) -> String {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: x\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

const SCRIPT: &str = r#"
import docker, io, os, tarfile
client = docker.from_env()
container = client.containers.run("bb", ["sh", "-c", "echo made > /made"], name="py", network_mode="none", detach=True)
container.wait()
assert {"Path": "/made", "Kind": 1} in container.diff(), container.diff()
image = container.commit("made", "py", message="by hand", author="me", changes='CMD ["cat", "/made"]', conf={"Labels": {"k": "v"}})
assert image.tags == ["made:py"] and image.labels == {"k": "v"}, (image.tags, image.labels)
assert client.containers.run("made:py", network_mode="none", remove=True) == b"made\n"
assert image.history()[0]["Comment"] == "by hand"
tree = tarfile.open(fileobj=io.BytesIO(b"".join(container.export())))
assert tree.extractfile("made").read() == b"made\n"
saved = b"".join(image.save(named=True))
assert image.tag("other", "1")
image.reload()
assert sorted(image.tags) == ["made:py", "other:1"]
client.images.remove("other:1"); client.images.remove("made:py")
try:
    client.images.get("made:py")
    raise SystemExit("a removed image is still there")
except docker.errors.ImageNotFound:
    pass
[loaded] = client.images.load(saved)
assert loaded.id == image.id and loaded.tags == ["made:py"]
assert [i.tags for i in client.images.list(name="made")] == [["made:py"]]
assert client.images.list(filters={"dangling": True}) == []
assert client.images.list(filters={"label": "k=v"})[0].id == image.id
assert client.images.list(all=True)
out = client.api.import_image_from_data(tree.fileobj.getvalue(), repository="imported", tag="1", changes=["ENV A=1"])
assert client.images.get("imported:1").attrs["Config"]["Env"] == ["A=1"], out
usage = client.df()
assert {i["Id"] for i in usage["Images"]} == {i.id for i in client.images.list()} and usage["LayersSize"] > 0
container.remove()
assert client.images.prune(filters={"dangling": False})["SpaceReclaimed"] > 100000
assert client.images.list() == []
print("docker-py is content")
"#;

#[test]
#[expect(clippy::disallowed_methods, reason = "an outside client, run as its users do")]
fn docker_py_and_images() {
    requires!(root);
    let python = std::env::var_os("PALAN_TEST_PYTHON");
    requires!(python.is_some(), "needs docker-py: run by `cargo xtask test`");
    let daemon = daemon();
    let mut command = std::process::Command::new(python.unwrap_or_default());
    command.args(["-c", SCRIPT]).env("DOCKER_HOST", daemon.host());
    assert_eq!(finish(&mut command, None).ok().line(), "docker-py is content");
}
