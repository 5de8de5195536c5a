//! `save`, and what others make of its archives: skopeo, umoci, and `load` of another daemon. And the other way round.

use std::path::Path;

use palan_test_support::daemon::{Daemon, Run, finish};
use palan_test_support::image::{Compression, Flavour};
use palan_test_support::requires;
use serde_json::Value;

use crate::images::{BUSYBOX, busybox, busybox_layer, daemon};

#[expect(clippy::disallowed_methods, reason = "outside readers of archives")]
fn outside(program: &str, arguments: &[&str]) -> Run {
    finish(std::process::Command::new(program).args(arguments), None).ok()
}

/// The lines of `tar -t`.
fn names(archive: &str) -> Vec<String> {
    outside("tar", &["-tf", archive]).stdout.lines().map(str::to_owned).collect()
}

fn document(archive: &str, name: &str) -> Value {
    serde_json::from_str(&outside("tar", &["-xOf", archive, name]).stdout).unwrap()
}

fn image_id(daemon: &Daemon, name: &str) -> String {
    daemon.palan(["image", "inspect", "-f", "{{.Id}}", name]).ok().line().to_owned()
}

fn path(daemon: &Daemon, name: &str) -> String {
    daemon.scratch().join(name).display().to_string()
}

/// Layers of each compression, several names, and the same from Docker's client and from standard output.
#[test]
fn an_archive_is_a_layout_and_dockers_format() {
    requires!(root);
    requires!(program "docker");
    let daemon = Daemon::start();
    for (number, compression) in
        [Compression::Plain, Compression::Gzip, Compression::Zstd].into_iter().enumerate()
    {
        let image = busybox()
            .flavour(Flavour::Oci)
            .compression(compression)
            .file("which", 0o644, format!("{number}"))
            .build();
        let layout = image.oci_layout(Some(&format!("saved:{number}")));
        daemon.palan_with_input(["load"], &layout).ok();
    }
    daemon.palan(["tag", "saved:0", "other/name:x"]).ok();
    let archive = path(&daemon, "all.tar");
    daemon.palan(["save", "-o", &archive, "saved", "other/name:x"]).ok();
    let list = names(&archive);
    assert_eq!(&list[..2], ["blobs/", "blobs/sha256/"]);
    assert_eq!(&list[list.len() - 3..], ["index.json", "manifest.json", "oci-layout"]);
    assert_eq!(document(&archive, "oci-layout")["imageLayoutVersion"], "1.0.0");
    let items = document(&archive, "manifest.json");
    let tags: Vec<&Value> = items.as_array().unwrap().iter().map(|item| &item["RepoTags"]).collect();
    assert_eq!(tags.len(), 3);
    assert_eq!(*tags[0], serde_json::json!(["saved:0", "other/name:x"]));
    let index = document(&archive, "index.json");
    let named: Vec<&Value> = index["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["annotations"]["io.containerd.image.name"])
        .collect();
    assert_eq!(named.len(), 4);
    assert_eq!(*named[0], "docker.io/library/saved:0");

    // Whoever asks, and however often: the same bytes.
    let again = path(&daemon, "again.tar");
    daemon.docker(["save", "-o", &again, "saved", "other/name:x"]).ok();
    assert!(std::fs::read(&archive).unwrap() == std::fs::read(&again).unwrap(), "the archives differ");

    // Into a daemon that has nothing: the same images, with the same content.
    let other = Daemon::start();
    let loaded = other.palan(["load", "-i", &archive]).ok();
    assert_eq!(loaded.stdout.matches("Loaded image: ").count(), 4, "{loaded}");
    for name in ["saved:0", "saved:1", "saved:2", "other/name:x"] {
        assert_eq!(image_id(&daemon, name), image_id(&other, name), "{name}");
    }
    let third = path(&other, "third.tar");
    other.palan(["save", "-o", &third, "saved", "other/name:x"]).ok();
    assert!(
        std::fs::read(&archive).unwrap() == std::fs::read(&third).unwrap(),
        "manifests, configurations and layers have come through"
    );
}

#[test]
fn images_by_id_and_platform() {
    requires!(root);
    let daemon = daemon();
    let id = image_id(&daemon, BUSYBOX);
    let archive = path(&daemon, "id.tar");
    daemon.palan(["save", "-o", &archive, &id]).ok();
    assert_eq!(document(&archive, "manifest.json")[0]["RepoTags"], Value::Null);
    daemon.palan(["rmi", BUSYBOX]).ok();
    assert_eq!(daemon.palan(["load", "-i", &archive]).ok().line(), format!("Loaded image ID: {id}"));
    daemon.palan(["tag", &id, "again:1"]).ok();
    let host = format!("linux/{}", palan_test_support::image::host_architecture());
    daemon.palan(["save", "--platform", &host, "-o", &archive, "again:1"]).ok();
    let refused =
        "image with reference again:1 was found but does not provide the specified platform (linux/s390x)";
    daemon.palan(["save", "--platform", "linux/s390x", "-o", &archive, "again:1"]).fails(1, refused);
    daemon
        .palan(["load", "--platform", "linux/s390x", "-i", &archive])
        .fails(1, "has no image for linux/s390x");
    daemon.palan(["load", "--platform", &host, "-i", &archive]).ok();
    daemon.palan(["history", "--platform", "linux/s390x", "again:1"]).fails(1, "does not provide");
    daemon.palan(["image", "inspect", "--platform", "linux/s390x", "again:1"]).fails(1, "does not provide");
    daemon.palan(["rmi", "--platform", "linux/s390x", "again:1"]).fails(1, "does not provide");
    daemon.palan(["save", "nosuch"]).fails(1, "No such image: nosuch:latest");
    daemon
        .palan(["save", "-o", "/nonexistent/x", "again:1"])
        .fails(1, "failed to save image: invalid output path: stat /nonexistent: no such file or directory");
}

/// skopeo reads it both ways, umoci unpacks it, and what skopeo writes is loaded.
#[test]
fn skopeo_and_umoci_read_it() {
    requires!(root);
    requires!(program "skopeo");
    requires!(program "umoci");
    let daemon = daemon();
    daemon
        .palan([
            "run",
            "--name",
            "work",
            "--network",
            "none",
            BUSYBOX,
            "sh",
            "-c",
            "echo made > /etc/made; rm /etc/group",
        ])
        .ok();
    daemon.palan(["commit", "work", "made:1"]).ok();
    let id = image_id(&daemon, "made:1");
    let archive = path(&daemon, "made.tar");
    daemon.palan(["save", "-o", &archive, "made:1"]).ok();
    for transport in ["docker-archive", "oci-archive"] {
        let shown = outside("skopeo", &["inspect", "--config", "--raw", &format!("{transport}:{archive}")]);
        assert_eq!(palan_test_support::image::digest(shown.stdout.as_bytes()), id, "{transport}");
    }
    let layout = path(&daemon, "layout");
    outside("skopeo", &["copy", "-q", &format!("oci-archive:{archive}"), &format!("oci:{layout}:1")]);
    let bundle = path(&daemon, "bundle");
    outside("umoci", &["unpack", "--image", &format!("{layout}:1"), &bundle]);
    let root = Path::new(&bundle).join("rootfs");
    assert_eq!(std::fs::read_to_string(root.join("etc/made")).unwrap(), "made\n");
    assert!(!root.join("etc/group").exists() && root.join("etc/passwd").exists());
    std::fs::remove_dir_all(&bundle).unwrap();

    // Docker's older form (a directory for each layer), gzip around it, as `docker save | gzip` leaves it.
    let theirs = path(&daemon, "theirs.tar");
    outside(
        "skopeo",
        &["copy", "-q", &format!("docker-archive:{archive}"), &format!("docker-archive:{theirs}:back:1")],
    );
    let packed = Compression::Gzip.pack(&std::fs::read(&theirs).unwrap());
    assert_eq!(daemon.palan_with_input(["load"], &packed).ok().line(), "Loaded image: back:1");
    let shown = daemon.palan(["run", "--rm", "--network", "none", "back:1", "cat", "/etc/made"]).ok();
    assert_eq!(shown.line(), "made");
}

/// A blob that the disk has damaged breaks the archive off: nobody takes half of it for the whole.
#[test]
fn damaged_content_is_not_passed_on() {
    requires!(root);
    let daemon = daemon();
    let blobs = daemon.data_root().join("blobs/sha256");
    let largest = std::fs::read_dir(&blobs)
        .unwrap()
        .flatten()
        .filter(|entry| entry.metadata().unwrap().is_file())
        .max_by_key(|entry| entry.metadata().unwrap().len())
        .unwrap();
    let mut content = std::fs::read(largest.path()).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    std::fs::write(largest.path(), content).unwrap();
    let archive = path(&daemon, "broken.tar");
    let saved = daemon.palan(["save", "-o", &archive, BUSYBOX]);
    assert_eq!(saved.code, 1, "{saved}");
    assert!(!Path::new(&archive).exists());
    let left: Vec<_> =
        std::fs::read_dir(daemon.scratch()).unwrap().flatten().map(|entry| entry.file_name()).collect();
    assert!(!left.iter().any(|name| name.to_string_lossy().contains("broken")), "{left:?}");
}

/// The daemon fetches it itself, but from no address that only it may reach.
#[test]
fn import_from_a_url() {
    requires!(root);
    let daemon = Daemon::start();
    let server = serve(busybox_layer());
    let run = daemon
        .palan([
            "import",
            "-c",
            "CMD [\"/bin/echo\", \"fetched\"]",
            &format!("http://{server}/tree.tar"),
            "url:1",
        ])
        .ok();
    assert!(run.stdout.contains("sha256:"), "{run}");
    assert_eq!(daemon.palan(["run", "--rm", "--network", "none", "url:1"]).ok().line(), "fetched");
    daemon.palan(["import", &format!("http://{server}/missing"), "x:1"]).fails(1, "404");
    daemon
        .palan(["import", &format!("http://{server}/metadata"), "x:1"])
        .fails(1, "link-local and metadata addresses");
    daemon
        .palan(["import", "http://169.254.169.254/latest/meta-data", "x:1"])
        .fails(1, "link-local and metadata addresses");
    daemon.palan(["images", "-q", "x:1"]).ok();
}

/// A server of one file; `/missing` is not there, `/metadata` leads where no registry may lead.
fn serve(file: Vec<u8>) -> std::net::SocketAddr {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map_while(Result::ok);
            let request = lines.next().unwrap_or_default();
            let _: Vec<String> = lines.take_while(|line| !line.is_empty()).collect();
            let answer = match request.split(' ').nth(1) {
                Some("/tree.tar") => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", file.len()),
                Some("/metadata") => "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
                _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
            };
            // The client may have gone.
            let _ = stream.write_all(answer.as_bytes());
            if answer.starts_with("HTTP/1.1 200") {
                let _ = stream.write_all(&file);
            }
        }
    });
    address
}
