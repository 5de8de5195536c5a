//! `palan manifest`: lists made here and pushed, with Docker's client as the witness of what is shown and kept.

use palan_test_support::daemon::Daemon;
use palan_test_support::image::{Flavour, Image, Index};
use palan_test_support::registry::Registry;
use palan_test_support::{requires, skip};
use serde_json::Value;

use crate::images::busybox;

fn images(flavour: Flavour) -> [Image; 2] {
    [
        busybox().flavour(flavour).build(),
        busybox().flavour(flavour).architecture("s390x", None).file("other", 0o644, "x").build(),
    ]
}

/// What both clients print for the same command line.
#[track_caller]
fn both(daemon: &Daemon, arguments: &[&str]) -> String {
    let ours = daemon.palan(arguments).ok().stdout;
    if skip::has_program("docker") {
        assert_eq!(ours, daemon.docker(arguments).ok().stdout, "{arguments:?}");
    }
    ours
}

#[test]
fn inspect_shows_what_a_registry_has() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    for flavour in [Flavour::Docker, Flavour::Oci] {
        let [here, other] = images(flavour);
        let single = registry.push("team/app", "single", &here);
        let index = Index::new(flavour, vec![here.clone(), other]);
        let listed = registry.push_index("team/app", "listed", &index);
        for name in [&single, &listed] {
            let shown = both(&daemon, &["manifest", "inspect", "--insecure", name]);
            serde_json::from_str::<Value>(&shown).unwrap();
            both(&daemon, &["manifest", "inspect", "--insecure", "-v", name]);
        }
        let by_digest = format!("{}/team/app@{}", registry.host(), here.manifest_digest);
        both(&daemon, &["manifest", "inspect", "--insecure", &by_digest]);
    }
    daemon.palan(["manifest", "inspect", &format!("{}/none", registry.host())]).fails(1, "not found");
    let distribution = registry.push("team/app", "api", &images(Flavour::Oci)[1]);
    let answer = api(&daemon, &format!("/distribution/{distribution}/json"));
    assert_eq!(answer["Platforms"][0]["architecture"], "s390x", "{answer}");
    assert_eq!(answer["Descriptor"]["mediaType"], Flavour::Oci.manifest(), "{answer}");
}

#[test]
fn a_list_is_made_annotated_and_pushed() {
    requires!(root);
    let daemon = Daemon::start();
    let registry = Registry::start();
    registry.separate_repositories();
    let [here, other] = images(Flavour::Docker);
    let first = registry.push("team/app", "amd64", &here);
    let second = registry.push("elsewhere/app", "s390x", &other);
    let list = format!("{}/team/app:latest", registry.host());
    let created = daemon.palan(["manifest", "create", "--insecure", &list, &first, &second]).ok();
    assert_eq!(created.line(), format!("Created manifest list {list}"));
    daemon.palan(["manifest", "create", &list, &first]).fails(1, "no --amend flag");
    daemon.palan(["manifest", "annotate", "--os-version", "1.2", &list, &first]).ok();
    daemon
        .palan(["manifest", "annotate", "--arch", "nonsense", &list, &first])
        .fails(1, "unsupported os/arch");
    // Docker's client reads what ours keeps, and shows the same.
    let shown = both(&daemon, &["manifest", "inspect", &list]);
    assert!(shown.contains("\"os.version\": \"1.2\""), "{shown}");
    both(&daemon, &["manifest", "inspect", "-v", &list]);
    both(&daemon, &["manifest", "inspect", &list, &first]);
    let pushed = daemon.palan(["manifest", "push", "--insecure", "--purge", &list]).ok();
    let (media_type, body) = registry.manifest("team/app", "latest").unwrap();
    assert_eq!(media_type, Flavour::Docker.index());
    let digest = palan_test_support::image::digest(&body);
    assert_eq!(pushed.stdout.lines().last(), Some(digest.as_str()), "{pushed}");
    assert!(
        pushed.stdout.starts_with(&format!(
            "Pushed ref {}/team/app@{}",
            registry.host(),
            other.manifest_digest
        )),
        "{pushed}"
    );
    assert_eq!(
        registry.manifest("team/app", &other.manifest_digest).map(|(_, body)| body),
        Some(other.manifest.clone())
    );
    assert_eq!(registry.count("PATCH", "/"), 0, "no blob came through here");
    daemon.palan(["manifest", "push", &list]).fails(1, "not found");
    // Both platforms come back out of it.
    daemon.palan(["pull", "-q", &list]).ok();
    daemon.palan(["pull", "-q", "--platform", "linux/s390x", &list]).ok();
    assert_eq!(daemon.palan(["image", "inspect", "-f", "{{.Architecture}}", &list]).ok().line(), "s390x");
}

#[test]
fn lists_that_cannot_be() {
    requires!(root);
    let daemon = Daemon::start();
    let (registry, another) = (Registry::start(), Registry::start());
    let [here, _] = images(Flavour::Oci);
    let name = another.push("app", "1", &here);
    let list = format!("{}/app:list", registry.host());
    daemon.palan(["manifest", "create", &list, &name]).ok();
    daemon.palan(["manifest", "push", &list]).fails(1, "different registry than the target image");
    daemon.palan(["manifest", "rm", &list]).ok();
    daemon.palan(["manifest", "rm", &list]).fails(1, "No such manifest");
    let index = another.push_index("app", "index", &Index::new(Flavour::Oci, vec![here]));
    daemon.palan(["manifest", "create", &list, &index]).fails(1, "is a manifest list");
    assert!(
        !daemon
            .scratch()
            .join("docker-config/manifests")
            .join(list.replace(':', "-").replace('/', "_"))
            .exists()
    );
}

fn api(daemon: &Daemon, path: &str) -> Value {
    use std::io::{Read, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let body = &answer[answer.find("\r\n\r\n").unwrap()..];
    let json = body.find('{').map_or("null", |at| &body[at..=body.rfind('}').unwrap_or(at)]);
    serde_json::from_str(json).unwrap()
}
