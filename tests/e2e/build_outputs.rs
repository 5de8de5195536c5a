//! What a build can hand out: the same result twice, images for several platforms, statements about them, layouts.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Run};
use palan_test_support::registry::Registry;
use palan_test_support::{PATIENCE, requires, wait_until};
use serde_json::Value;

use crate::images::daemon;

/// Another architecture than this one.
fn foreign() -> &'static str {
    if cfg!(target_arch = "aarch64") { "amd64" } else { "arm64" }
}

fn native() -> &'static str {
    if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }
}

fn platforms() -> String {
    format!("linux/{},linux/{}", native(), foreign())
}

struct Context(PathBuf);

impl Context {
    fn new(daemon: &Daemon, files: &[(&str, &str)]) -> Self {
        let context = Self(daemon.scratch().join("context"));
        fs::create_dir_all(&context.0).unwrap();
        for (name, content) in files {
            fs::write(context.0.join(name), content).unwrap();
        }
        context
    }

    fn build(&self, daemon: &Daemon, flags: &[&str]) -> Run {
        let directory = self.0.display().to_string();
        let mut arguments = vec!["build", "--network", "none"];
        arguments.extend(flags);
        arguments.push(&directory);
        daemon.palan(arguments)
    }
}

fn place(daemon: &Daemon, name: &str) -> String {
    daemon.scratch().join(name).display().to_string()
}

/// The files of an archive by their names.
fn files(archive: &Path) -> BTreeMap<String, Vec<u8>> {
    let content = fs::read(archive).unwrap();
    let limits = palan_tar::Limits::default();
    let mut reader = palan_tar::Reader::new(&content[..], &limits);
    let mut files = BTreeMap::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let name = String::from_utf8(entry.path).unwrap();
        let mut content = Vec::new();
        while let Some(chunk) = reader.next_chunk().unwrap() {
            content.extend_from_slice(chunk);
        }
        files.insert(name, content);
    }
    files
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}

fn blob(files: &BTreeMap<String, Vec<u8>>, digest: &Value) -> Vec<u8> {
    let name = format!("blobs/sha256/{}", digest.as_str().unwrap().strip_prefix("sha256:").unwrap());
    files.get(&name).unwrap_or_else(|| panic!("no {name}")).clone()
}

fn inspect(daemon: &Daemon, name: &str, format: &str) -> String {
    daemon.palan(["image", "inspect", "-f", format, name]).ok().line().to_owned()
}

fn get(daemon: &Daemon, path: &str) -> (u16, Value) {
    use std::io::Write as _;
    let mut stream = std::os::unix::net::UnixStream::connect(daemon.socket()).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: palan\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    (status, serde_json::from_str(body).unwrap_or(Value::Null))
}

/// Nothing of a build, and nothing wrong with the store.
#[track_caller]
fn all_is_well(daemon: &Daemon) {
    let work = daemon.data_root().join("build/work");
    let is_clean = || fs::read_dir(&work).unwrap().next().is_none();
    assert!(wait_until(PATIENCE, is_clean), "a build's directory is left");
    let is_sound = || daemon.palan(["system", "fsck"]).code == 0;
    assert!(wait_until(PATIENCE, is_sound), "{}", daemon.palan(["system", "fsck"]));
}

#[test]
fn with_an_epoch_two_hosts_build_the_same_image() {
    requires!(root);
    let registry = Registry::start();
    let mut seen = Vec::new();
    for _ in 0..2 {
        let daemon = daemon();
        let dockerfile = "FROM bb\nWORKDIR /a/b\nCOPY file /copied\nRUN echo made > /made; mkdir /d; rm /etc/group; touch -d @5 /old\n\
                          RUN ln /made /linked; ln -s made /symlink\nENV A=b\n";
        let context = Context::new(&daemon, &[("Dockerfile", dockerfile), ("file", "content")]);
        let name = format!("{}/same/app:{}", registry.host(), seen.len());
        let (metadata, id) = (place(&daemon, "metadata"), place(&daemon, "id"));
        let epoch = "SOURCE_DATE_EPOCH=1600000000";
        let output = format!("type=image,rewrite-timestamp=true,push=true,name={name}");
        let flags = ["--build-arg", epoch, "-o", &output, "--metadata-file", &metadata, "--iidfile", &id];
        context.build(&daemon, &flags).ok();
        let metadata = json(&fs::read(metadata).unwrap());
        assert_eq!(metadata["containerimage.config.digest"], fs::read_to_string(id).unwrap());
        let digest = metadata["containerimage.digest"].clone();
        assert_eq!(metadata["containerimage.descriptor"]["digest"], digest);
        assert_eq!(metadata["containerimage.descriptor"]["platform"]["architecture"], native());
        assert_eq!(metadata["image.name"], name);
        let (_, pushed) = registry.manifest("same/app", &seen.len().to_string()).expect("a manifest");
        assert_eq!(palan_oci::Digest::of(&pushed).to_string(), digest.as_str().unwrap());
        let archive = place(&daemon, "oci.tar");
        let output = format!("type=oci,rewrite-timestamp=true,dest={archive}");
        context.build(&daemon, &["--build-arg", epoch, "-o", &output]).ok();
        let files = files(Path::new(&archive));
        assert_eq!(json(&files["index.json"])["manifests"][0]["digest"], digest);
        let script = "stat -c '%n %Y' /made /linked /d /a/b /old /copied /a; stat -c %h /made; readlink /symlink; test -e /etc/group || echo gone";
        let times = daemon.palan(["run", "--rm", "--network", "none", &name, "sh", "-c", script]).ok().stdout;
        let expected = "/made 1600000000\n/linked 1600000000\n/d 1600000000\n/a/b 1600000000\n/old 5\n/copied 1600000000\n/a 1600000000\n2\nmade\ngone\n";
        assert_eq!(times, expected);
        assert_eq!(inspect(&daemon, &name, "{{.Created}}"), "2020-09-13T12:26:40Z");
        all_is_well(&daemon);
        seen.push((metadata["containerimage.config.digest"].clone(), digest, files["index.json"].clone()));
    }
    assert_eq!((&seen[0].0, &seen[0].1), (&seen[1].0, &seen[1].1));
}

#[test]
fn files_that_are_handed_out_have_the_epoch() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, &[("Dockerfile", "FROM scratch\nCOPY file /d/\n"), ("file", "x")]);
    let (out, archive) = (place(&daemon, "out"), place(&daemon, "out.tar"));
    let tar = format!("type=tar,dest={archive}");
    context.build(&daemon, &["--build-arg", "SOURCE_DATE_EPOCH=1000", "-o", &out, "-o", &tar]).ok();
    let modified = fs::metadata(format!("{out}/d/file")).unwrap().modified().unwrap();
    assert_eq!(modified, std::time::UNIX_EPOCH + Duration::from_secs(1000));
    let first = fs::read(&archive).unwrap();
    context.build(&daemon, &["--no-cache", "--build-arg", "SOURCE_DATE_EPOCH=1000", "-o", &tar]).ok();
    assert!(first == fs::read(&archive).unwrap(), "the archives differ");
    context.build(&daemon, &["--build-arg", "SOURCE_DATE_EPOCH=noon"]).fails(1, "invalid SOURCE_DATE_EPOCH");
    let built = context.build(&daemon, &["-o", "type=image,rewrite-timestamp=true"]).ok();
    assert!(built.stderr.contains("no source-date-epoch was found"), "{built}");
}

const SEVERAL: &str = "FROM --platform=$BUILDPLATFORM bb AS tools\nARG TARGETPLATFORM\nARG BUILDPLATFORM\n\
    RUN echo \"for $TARGETPLATFORM on $BUILDPLATFORM\" > /made\nFROM scratch\nCOPY --from=tools /made /made\nCOPY file /file\n";

#[test]
fn several_platforms_are_one_image() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let context = Context::new(&daemon, &[("Dockerfile", SEVERAL), ("file", "content")]);
    let name = format!("{}/several/app:1", registry.host());
    let metadata = place(&daemon, "metadata");
    let platforms = platforms();
    let flags = ["--annotation", "index,manifest:org.example=said", "--platform", &platforms, "-t", &name];
    let flags = [&flags[..], &["--metadata-file", &metadata]].concat();
    let built = context.build(&daemon, &flags).ok();
    assert!(built.stderr.contains(&format!("[linux/{} stage-1 1/2] COPY", foreign())), "{built}");
    // Here it is the host's, which knows of the other.
    assert_eq!(inspect(&daemon, &name, "{{.Architecture}}"), native());
    let other = format!("linux/{}", foreign());
    let shown =
        daemon.palan(["image", "inspect", "--platform", &other, "-f", "{{.Architecture}} {{.Size}}", &name]);
    assert!(shown.ok().line().starts_with(foreign()));
    assert_eq!(daemon.palan(["images", "-q", "--no-trunc"]).ok().stdout.lines().count(), 2);
    assert!(daemon.palan(["image", "prune", "-f"]).ok().stdout.contains("0B"));
    let metadata = json(&fs::read(metadata).unwrap());
    let digest = metadata["containerimage.digest"].as_str().unwrap().to_owned();
    assert_eq!(metadata["containerimage.descriptor"]["mediaType"], "application/vnd.oci.image.index.v1+json");
    let (_, listed) = get(&daemon, "/v1.52/images/json?manifests=1");
    let listed =
        listed.as_array().unwrap().iter().find(|image| image["RepoTags"][0] == name.as_str()).unwrap();
    assert_eq!(listed["Descriptor"]["digest"], digest.as_str());
    let kinds: Vec<&str> = listed["Manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["ImageData"]["Platform"]["architecture"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, [native(), foreign()]);
    // A push brings all of it, and another host can take its part.
    daemon.palan(["push", &name]).ok();
    let (_, pushed) = registry.manifest("several/app", "1").expect("an index");
    assert_eq!(palan_oci::Digest::of(&pushed).to_string(), digest);
    assert_eq!(json(&pushed)["annotations"]["org.example"], "said");
    for entry in json(&pushed)["manifests"].as_array().unwrap() {
        let (_, manifest) =
            registry.manifest("several/app", entry["digest"].as_str().unwrap()).expect("a manifest");
        assert_eq!(json(&manifest)["annotations"]["org.example"], "said");
        assert!(json(&manifest)["layers"][0]["mediaType"].as_str().unwrap().ends_with("tar+gzip"));
    }
    let guest = Daemon::start();
    guest.palan(["pull", "--platform", &other, &name]).ok();
    let created = guest.palan(["create", "--platform", &other, &name, "x"]).ok().line().to_owned();
    let copied = guest.palan(["cp", &format!("{created}:/made"), "-"]).ok().stdout;
    let expected = format!("for linux/{} on linux/{}", foreign(), native());
    assert!(copied.contains(&expected), "{copied}");
    // An archive has all, and whoever loads it gets what is for him.
    let archive = place(&daemon, "saved.tar");
    daemon.palan(["save", "-o", &archive, &name]).ok();
    let saved = files(Path::new(&archive));
    let index = json(&blob(&saved, &json(&saved["index.json"])["manifests"][0]["digest"]));
    for entry in index["manifests"].as_array().unwrap() {
        let manifest = json(&blob(&saved, &entry["digest"]));
        for layer in manifest["layers"].as_array().unwrap() {
            blob(&saved, &layer["digest"]);
        }
    }
    guest.palan(["load", "-i", &archive]).ok();
    assert_eq!(inspect(&guest, &name, "{{.Architecture}}"), native());
    all_is_well(&daemon);
    // It goes as a whole.
    daemon.palan(["rmi", &name]).ok();
    daemon.palan(["builder", "prune", "-af"]).ok();
    all_is_well(&daemon);
    // Built as one again it is no more than that.
    context.build(&daemon, &["-t", &name]).ok();
    let (_, listed) = get(&daemon, &format!("/v1.52/images/{name}/json?manifests=1"));
    assert_eq!(listed["Manifests"].as_array().unwrap().len(), 1);
}

#[test]
fn files_of_several_platforms_have_directories() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, &[("Dockerfile", SEVERAL), ("file", "content")]);
    let (out, archive, oci) = (place(&daemon, "out"), place(&daemon, "out.tar"), place(&daemon, "oci.tar"));
    let (tar, layout) = (format!("type=tar,dest={archive}"), format!("type=oci,dest={oci}"));
    context.build(&daemon, &["--platform", &platforms(), "-o", &out, "-o", &tar, "-o", &layout]).ok();
    let archived = files(Path::new(&archive));
    for architecture in [native(), foreign()] {
        let expected = format!("for linux/{architecture} on linux/{}\n", native());
        assert_eq!(fs::read_to_string(format!("{out}/linux_{architecture}/made")).unwrap(), expected);
        assert_eq!(archived[&format!("linux_{architecture}/made")], expected.as_bytes());
    }
    let saved = files(Path::new(&oci));
    let index = json(&blob(&saved, &json(&saved["index.json"])["manifests"][0]["digest"]));
    assert_eq!(index["manifests"].as_array().unwrap().len(), 2);
    // One platform has none, unless it is asked for.
    let one = place(&daemon, "one");
    context.build(&daemon, &["-o", &one]).ok();
    assert!(fs::metadata(format!("{one}/made")).is_ok());
    let split = place(&daemon, "split");
    context.build(&daemon, &["-o", &format!("type=local,dest={split},platform-split=true")]).ok();
    assert!(fs::metadata(format!("{split}/linux_{}/made", native())).is_ok());
    context
        .build(
            &daemon,
            &["--platform", &platforms(), "-o", &format!("type=local,dest={out},platform-split=false")],
        )
        .fails(1, "platform-split=false with several platforms");
    all_is_well(&daemon);
}

#[test]
fn commands_of_a_platform_that_nothing_runs_are_refused() {
    requires!(root);
    let registered = fs::read_dir("/proc/sys/fs/binfmt_misc").map_or(0, Iterator::count);
    if registered > 2 {
        eprintln!("skipped: this host may run what is foreign");
        return;
    }
    let daemon = daemon();
    let text = format!("FROM --platform=linux/{} scratch\nCOPY file /\nRUN [\"/file\"]\n", foreign());
    let context = Context::new(&daemon, &[("Dockerfile", &text), ("file", "x")]);
    let platform = format!("linux/{}", foreign());
    let failed = context.build(&daemon, &["--platform", &platform]).fails(1, "binfmt_misc");
    assert!(
        failed.stderr.contains(&format!("commands for {platform} can't run on linux/{}", native())),
        "{failed}"
    );
    // One failure is the build's, whichever comes first: the file is no program for the other, either.
    context.build(&daemon, &["--platform", &platforms()]).fails(1, "failed to solve");
    all_is_well(&daemon);
}

/// An image's statements by the types of what they say.
fn statements(daemon: &Daemon, name: &str, query: &str) -> BTreeMap<String, Value> {
    let (status, found) = get(daemon, &format!("/v1.56/images/{name}/attestations?statement=true{query}"));
    assert_eq!(status, 200, "{found}");
    let list = found.as_array().unwrap().iter();
    list.map(|one| (one["PredicateType"].as_str().unwrap().to_owned(), one["Statement"].clone())).collect()
}

#[test]
fn statements_say_how_an_image_was_made_and_what_it_has() {
    requires!(root);
    let daemon = daemon();
    let registry = Registry::start();
    let dockerfile = "FROM bb\nARG HIDDEN\nCOPY status /var/lib/dpkg/status\nCOPY package.json /app/node_modules/left-pad/package.json\n";
    let context = Context::new(
        &daemon,
        &[
            ("Dockerfile", dockerfile),
            (
                "status",
                "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.41-1\n",
            ),
            ("package.json", r#"{"name":"left-pad","version":"1.3.0"}"#),
        ],
    );
    let name = format!("{}/said/app:1", registry.host());
    let argument = ["--build-arg", "HIDDEN=given"];
    let flags = ["--provenance=mode=min", "--sbom=true", "-t", &name, "--push"];
    context.build(&daemon, &[&argument[..], &flags].concat()).ok();
    let found = statements(&daemon, &name, "");
    let provenance = &found["https://slsa.dev/provenance/v1"];
    assert_eq!(provenance["_type"], "https://in-toto.io/Statement/v1");
    let definition = &provenance["predicate"]["buildDefinition"];
    assert_eq!(definition["externalParameters"]["configSource"]["path"], "Dockerfile");
    assert!(
        definition["resolvedDependencies"][0]["uri"].as_str().unwrap().starts_with("pkg:docker/bb@latest")
    );
    assert!(!provenance.to_string().contains("given"), "{provenance}");
    let packages = found["https://spdx.dev/Document"]["predicate"]["packages"].to_string();
    assert!(packages.contains("pkg:deb/debian/libc6@2.41-1?arch=amd64"), "{packages}");
    assert!(packages.contains("pkg:npm/left-pad@1.3.0"), "{packages}");
    // The subject is the image's manifest, and so the registry has it.
    let (_, pushed) = registry.manifest("said/app", "1").expect("an index");
    let index = json(&pushed);
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2);
    let about = entries[0]["digest"].as_str().unwrap();
    assert_eq!(provenance["subject"][0]["digest"]["sha256"], about.strip_prefix("sha256:").unwrap());
    assert_eq!(entries[1]["annotations"]["vnd.docker.reference.type"], "attestation-manifest");
    assert_eq!(entries[1]["annotations"]["vnd.docker.reference.digest"], about);
    assert_eq!(entries[1]["platform"]["architecture"], "unknown");
    let (_, manifest) =
        registry.manifest("said/app", entries[1]["digest"].as_str().unwrap()).expect("statements");
    for layer in json(&manifest)["layers"].as_array().unwrap() {
        assert_eq!(layer["mediaType"], "application/vnd.in-toto+json");
    }
    let (_, listed) = get(&daemon, &format!("/v1.52/images/{name}/json?manifests=1"));
    assert_eq!(listed["Manifests"][1]["Kind"], "attestation");
    assert_eq!(listed["Manifests"][1]["AttestationData"]["For"], about);
    // A filter, another platform, an image without, one that is not there.
    assert_eq!(statements(&daemon, &name, "&type=https://spdx.dev/Document").len(), 1);
    assert_eq!(get(&daemon, "/v1.56/images/bb/attestations"), (200, Value::Array(Vec::new())));
    let platform = "%7B%22os%22%3A%22linux%22%2C%22architecture%22%3A%22s390x%22%7D";
    assert_eq!(get(&daemon, &format!("/v1.56/images/{name}/attestations?platform={platform}")).0, 404);
    assert_eq!(get(&daemon, "/v1.56/images/nothing/attestations").0, 404);
    // It runs as any other.
    let ran = daemon.palan(["run", "--rm", "--network", "none", &name, "echo", "alive"]).ok();
    assert_eq!(ran.line(), "alive");
    // With all that is known, in the version before.
    let max =
        ["--attest", "type=provenance,mode=max,version=v0.2,builder-id=https://example.com/me", "-t", "max"];
    context.build(&daemon, &[&argument[..], &max].concat()).ok();
    let found = statements(&daemon, "max", "");
    let predicate = &found["https://slsa.dev/provenance/v0.2"]["predicate"];
    assert_eq!(predicate["invocation"]["parameters"]["args"]["build-arg:HIDDEN"], "given");
    assert_eq!(predicate["builder"]["id"], "https://example.com/me");
    context
        .build(&daemon, &["--attest", "type=sbom,generator=me/scanner"])
        .fails(1, "the SBOM generator \"me/scanner\"");
    context.build(&daemon, &["--provenance=false", "-t", "plain"]).ok();
    assert_eq!(get(&daemon, "/v1.56/images/plain/attestations"), (200, Value::Array(Vec::new())));
    all_is_well(&daemon);
}

#[test]
fn a_layout_is_a_directory() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, &[("Dockerfile", "FROM scratch\nCOPY file /\n"), ("file", "1")]);
    let layout = place(&daemon, "layout");
    let output = format!("type=oci,tar=false,dest={layout}");
    context.build(&daemon, &["-t", "one", "-o", &output]).ok();
    fs::write(context.0.join("file"), "2").unwrap();
    context.build(&daemon, &["-t", "two", "-o", &output]).ok();
    context.build(&daemon, &["-t", "one", "-o", &output]).ok();
    let index = json(&fs::read(format!("{layout}/index.json")).unwrap());
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{index}");
    assert_eq!(entries[0]["digest"], entries[1]["digest"]);
    for entry in entries {
        let hex = entry["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        let manifest = json(&fs::read(format!("{layout}/blobs/sha256/{hex}")).unwrap());
        let layer = manifest["layers"][0]["digest"].as_str().unwrap().strip_prefix("sha256:").unwrap();
        assert!(fs::metadata(format!("{layout}/blobs/sha256/{layer}")).is_ok());
    }
    assert!(fs::metadata(format!("{layout}/oci-layout")).is_ok());
    all_is_well(&daemon);
}
