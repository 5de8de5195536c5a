//! `POST /build`, the classic builder: Debian's `docker build` without BuildKit, and docker-py.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use palan_test_support::daemon::{Daemon, Run, finish};
use palan_test_support::image::TarBuilder;
use palan_test_support::registry::Registry;
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::daemon;

/// A directory with a Dockerfile and other files.
struct Context(PathBuf);

impl Context {
    fn new(daemon: &Daemon, name: &str, dockerfile: &str) -> Self {
        let context = Self(daemon.scratch().join(name));
        fs::create_dir_all(&context.0).unwrap();
        context.file("Dockerfile", dockerfile);
        context
    }

    fn file(&self, name: &str, content: &str) -> &Self {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn build(&self, daemon: &Daemon, flags: &[&str]) -> Run {
        let directory = self.0.display().to_string();
        let mut arguments = vec!["build"];
        arguments.extend(flags);
        arguments.push(&directory);
        classic(daemon, &arguments)
    }
}

/// The `docker` CLI without BuildKit.
fn classic(daemon: &Daemon, arguments: &[&str]) -> Run {
    let mut command = daemon.docker_command();
    command.args(arguments).env("DOCKER_BUILDKIT", "0");
    finish(&mut command, None)
}

/// A request to the API, and the status and all of its answer.
fn request(daemon: &Daemon, method: &str, path: &str, body: &[u8]) -> (u16, String) {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: palan\r\nConnection: close\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    // A refusal may come before all was sent.
    let _ = stream.write_all(body);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    (status, answer)
}

fn run(daemon: &Daemon, image: &str, script: &str) -> String {
    daemon.palan(["run", "--rm", "--network", "none", image, "sh", "-c", script]).ok().stdout
}

/// How many steps of a build came from the cache, and how many there are.
fn cached(output: &Run) -> usize {
    output.stdout.matches(" ---> Using cache\n").count()
}

/// Nothing of a build in progress is left.
#[track_caller]
fn nothing_is_left(daemon: &Daemon) {
    let work = daemon.data_root().join("build/work");
    let is_clean = || {
        let temporary = fs::read_dir(daemon.data_root().join("layers")).unwrap();
        fs::read_dir(&work).is_ok_and(|mut entries| entries.next().is_none())
            && temporary.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with(".tmp-"))
            && fs::read_dir(daemon.run_root().join("containers")).unwrap().next().is_none()
            && fs::read_dir(daemon.data_root().join("containers"))
                .unwrap()
                .flatten()
                .all(|entry| entry.file_name() == ".trash")
    };
    assert!(wait_until(PATIENCE, is_clean), "something of a build is left");
}

#[test]
fn stages_files_and_what_the_image_says() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "ARG BASE=bb\nFROM $BASE AS build\nARG WHO=nobody\nARG UNSET\nENV GREETING=\"hello ${WHO:-x}\"\n\
         WORKDIR /work/sub\nCOPY a b.txt ./\nCOPY --chmod=640 b.txt mode\nRUN echo $GREETING > made && mkdir -p /out/deep && cp a /out/deep/\n\
         FROM unused-and-missing AS unused\nRUN false\n\
         FROM bb AS last\nCOPY --from=build --chown=alice:staff /work/sub /got\nCOPY --from=build /out /out/\n\
         COPY --from=build --link /work/sub/made /linked/\nCOPY --parents tree/./x/y/z /parents/\nCOPY --exclude=*.md docs /docs\n\
         LABEL k=v other=\"two words\"\nEXPOSE 80/tcp\nUSER alice\nVOLUME /data\nSTOPSIGNAL SIGUSR1\nENTRYPOINT [\"cat\"]\nCMD [\"/got/made\"]\n",
    );
    context.file("a", "A").file("b.txt", "B").file("tree/x/y/z/file", "Z");
    context.file("docs/one.txt", "1").file("docs/two.md", "2").file("docs/in/three.md", "3");
    let output = context.build(&daemon, &["-t", "made:1", "-t", "made:2", "--build-arg", "WHO=you"]).ok();
    for line in ["Step 1/", "Successfully built ", "Successfully tagged made:1", "Successfully tagged made:2"]
    {
        assert!(output.stdout.contains(line), "{line}: {output}");
    }
    assert_eq!(daemon.palan(["run", "--rm", "--network", "none", "made:1"]).ok().stdout, "hello you\n");
    let look = |script: &str| {
        daemon
            .palan([
                "run",
                "--rm",
                "--network",
                "none",
                "--entrypoint",
                "sh",
                "-u",
                "0",
                "made:2",
                "-c",
                script,
            ])
            .ok()
            .stdout
    };
    assert_eq!(
        look("cd /got; stat -c '%n %a %u:%g' . a mode"),
        ". 755 1000:50\na 644 1000:50\nmode 640 1000:50\n"
    );
    assert_eq!(look("cat /out/deep/a /linked/made /parents/x/y/z/file"), "Ahello you\nZ");
    assert_eq!(look("ls /docs /docs/in"), "/docs:\nin\none.txt\n\n/docs/in:\nthree.md\n");
    let inspect = daemon.docker(["image", "inspect", "-f", "{{json .Config}}", "made:1"]).ok().stdout;
    let config: serde_json::Value = serde_json::from_str(&inspect).unwrap();
    assert_eq!(config["Labels"]["other"], "two words");
    assert_eq!(config["User"], "alice");
    assert_eq!(config["Cmd"][0], "/got/made");
    assert!(config["ExposedPorts"]["80/tcp"].is_object() && config["Volumes"]["/data"].is_object());
    nothing_is_left(&daemon);
}

#[test]
fn a_step_is_run_again_when_something_it_sees_has_changed() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb\nRUN echo one > /one\nCOPY script /bin/script\nRUN echo two > /two\nCOPY last /last\nRUN cat /last\n",
    );
    context.file("script", "#!/bin/sh\n").file("last", "1");
    let first = context.build(&daemon, &["-t", "t"]).ok();
    assert_eq!(cached(&first), 0, "{first}");
    let id = |image: &str| daemon.docker(["inspect", "-f", "{{.Id}}", image]).ok().line().to_owned();
    let before = id("t");
    assert_eq!(cached(&context.build(&daemon, &["-t", "t"]).ok()), 5);
    assert_eq!(id("t"), before, "nothing new is the same image");
    // A time is no content.
    let file = fs::File::open(context.path("script")).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(1000)).unwrap();
    assert_eq!(cached(&context.build(&daemon, &[]).ok()), 5);
    context.file("last", "2");
    let changed = context.build(&daemon, &["-t", "t"]).ok();
    assert_eq!(cached(&changed), 3, "{changed}");
    fs::set_permissions(context.path("script"), fs::Permissions::from_mode(0o755)).unwrap();
    let changed = context.build(&daemon, &["-t", "t"]).ok();
    assert_eq!(cached(&changed), 1, "{changed}");
    assert_eq!(cached(&context.build(&daemon, &["--no-cache"]).ok()), 0);
    // The cache outlives the daemon.
    let mut daemon = daemon;
    daemon.kill();
    daemon.restart();
    assert_eq!(cached(&context.build(&daemon, &["-t", "t"]).ok()), 5);
    let (_, df) = request(&daemon, "GET", "/v1.44/system/df?type=build-cache", &[]);
    assert!(df.contains("\"Type\":\"regular\""), "{df}");
    let pruned = daemon.docker(["builder", "prune", "-a", "-f"]).ok();
    assert!(pruned.stdout.contains("Total"), "{pruned}");
    assert_eq!(run(&daemon, "t", "cat /one /two"), "one\ntwo\n", "the image has its layers");
    assert_eq!(cached(&context.build(&daemon, &[]).ok()), 0, "what was pruned is built again");
}

#[test]
fn a_copied_stage_that_was_rebuilt_to_the_same_files_changes_nothing() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let text = |word: &str| {
        format!(
            "FROM bb AS build\nRUN echo {word} > /dev/null; echo same > /out\nFROM bb\nCOPY --from=build /out /out\nRUN cat /out\n"
        )
    };
    let context = Context::new(&daemon, "context", &text("one"));
    context.build(&daemon, &[]).ok();
    context.file("Dockerfile", &text("two"));
    assert_eq!(cached(&context.build(&daemon, &[]).ok()), 2);
}

#[test]
fn triggers_and_args() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let base = Context::new(
        &daemon,
        "base",
        "FROM bb\nONBUILD COPY f /triggered\nONBUILD RUN echo ran >> /triggered\n",
    );
    base.build(&daemon, &["-t", "base"]).ok();
    let context = Context::new(
        &daemon,
        "context",
        "FROM base\nARG A\nRUN echo \"$A-$B-$HTTP_PROXY\" > /args; cat /triggered\n",
    );
    context.file("f", "copied\n");
    let output = context
        .build(
            &daemon,
            &["-t", "t", "--build-arg", "A=1", "--build-arg", "B=2", "--build-arg", "HTTP_PROXY=p"],
        )
        .ok();
    assert!(output.stdout.contains("copied\nran\n"), "{output}");
    assert_eq!(run(&daemon, "t", "cat /args"), "1--p\n");
    // A proxy is in no key and no image.
    let again = context.build(&daemon, &["--build-arg", "A=1", "--build-arg", "HTTP_PROXY=q"]).ok();
    // The instruction `ARG` counts with what follows it.
    assert_eq!(cached(&again), 4, "{again}");
    assert_eq!(cached(&context.build(&daemon, &["--build-arg", "A=2"]).ok()), 2);
    assert!(!daemon.docker(["history", "--no-trunc", "t"]).ok().stdout.contains("HTTP_PROXY=p"));
}

#[test]
fn mounts_are_there_for_their_step_alone() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb AS other\nRUN echo from > /other\nFROM bb\n\
         RUN --mount=type=cache,target=/cache/deep,id=c echo more >> /cache/deep/log; cat /cache/deep/log\n\
         RUN --mount=type=bind,target=/ctx --mount=type=bind,from=other,source=/other,target=/other cat /ctx/f /other; ! touch /ctx/x\n\
         RUN --mount=type=bind,target=/ctx,rw echo lost > /ctx/f; cat /ctx/f\n\
         RUN --mount=type=tmpfs,target=/mem --mount=type=secret,id=s touch /mem/x; test ! -e /run/secrets/s\n\
         RUN <<EOF\necho here\necho document > /doc\nEOF\n\
         RUN <<-\"PROGRAM\"\n#!/bin/cat\nas it is $HOME\nPROGRAM\n\
         COPY <<f1 <<f2 /files/\none\nf1\ntwo\nf2\n\
         RUN test ! -e /cache; test ! -e /ctx; test ! -e /mem; test ! -e /run; cat /doc /files/f1 /files/f2\n",
    );
    context.file("f", "file\n");
    let first = context.build(&daemon, &["-t", "t"]).ok();
    assert!(first.stdout.contains("file\nfrom\n") && first.stdout.contains("lost\n"), "{first}");
    assert!(first.stdout.contains("document\none\ntwo\n"), "{first}");
    assert!(first.stdout.contains("as it is $HOME"), "{first}");
    assert_eq!(fs::read_to_string(context.path("f")).unwrap(), "file\n");
    let again = context.build(&daemon, &["--no-cache"]).ok();
    assert!(again.stdout.contains("more\nmore\n"), "the cache outlives the build: {again}");
    let secret = Context::new(&daemon, "secret", "FROM bb\nRUN --mount=type=secret,id=s,required true\n");
    secret.build(&daemon, &[]).fails(1, "secret s: not found");
    let ssh = Context::new(&daemon, "ssh", "FROM bb\nRUN --mount=type=ssh,required true\n");
    ssh.build(&daemon, &[]).fails(1, "no ssh agent");
    nothing_is_left(&daemon);
}

#[test]
fn archives_and_downloads() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb\nRUN mkdir -p /usr/lib && ln -s usr/lib /lib && mkdir -m 700 /private\nADD a.tar /\nADD a.tar /sub/\nADD --unpack=false a.tar /kept/\nCOPY a.tar /copied.tar\nADD plain.gz /\n",
    );
    let tar = TarBuilder::new()
        .directory("private/", 0o711)
        .file("private/x", 0o600, "x")
        .file("lib/so", 0o644, "so")
        .finish();
    fs::write(context.path("a.tar"), tar).unwrap();
    fs::write(context.path("plain.gz"), "not really").unwrap();
    context.build(&daemon, &["-t", "t"]).ok();
    assert_eq!(run(&daemon, "t", "cat /usr/lib/so; stat -c %a /private /private/x"), "so711\n600\n");
    assert_eq!(
        run(&daemon, "t", "ls /sub /kept /copied.tar; cat /plain.gz"),
        "/copied.tar\n\n/kept:\na.tar\n\n/sub:\nlib\nprivate\nnot really"
    );
}

/// What an outside program makes of it.
#[expect(clippy::disallowed_methods, reason = "an outside maker of archives")]
fn compressed(program: &str, bytes: &[u8]) -> Vec<u8> {
    let mut command = std::process::Command::new(program);
    command.arg("-c").stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let bytes = bytes.to_vec();
    let writer = std::thread::spawn(move || input.write_all(&bytes).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert!(output.status.success());
    output.stdout
}

#[test]
fn archives_in_bzip2_and_xz() {
    requires!(root);
    requires!(program "xz");
    requires!(program "bzip2");
    let daemon = daemon();
    let tar = TarBuilder::new()
        .file("Dockerfile", 0o644, "FROM bb\nCOPY f /f\n")
        .file("f", 0o644, vec![b'x'; 300_000])
        .finish();
    let files =
        vec![("/context.tar.xz", compressed("xz", &tar)), ("/context.tar.bz2", compressed("bzip2", &tar))];
    let port = serve(files.clone());
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb\nADD a.tar.xz /xz/\nADD a.tar.bz2 /bz2/\nADD text.xz broken.bz2 /\n",
    );
    fs::write(context.path("a.tar.xz"), &files[0].1).unwrap();
    fs::write(context.path("a.tar.bz2"), &files[1].1).unwrap();
    fs::write(context.path("text.xz"), compressed("xz", b"no archive")).unwrap();
    fs::write(context.path("broken.bz2"), "BZh9 not really").unwrap();
    let directory = context.0.display().to_string();
    let build = |arguments: &[&str], input: &[u8]| {
        let arguments = [&["build", "--network", "none", "-t", "t"][..], arguments].concat();
        daemon.palan_with_input(arguments, input)
    };
    build(&[&directory], &[]).ok();
    assert_eq!(
        run(&daemon, "t", "wc -c < /xz/f; wc -c < /bz2/f; ls /*.xz /*.bz2"),
        "300000\n300000\n/broken.bz2\n/text.xz\n"
    );
    for (path, archive) in &files {
        build(&["-"], archive).ok();
        assert_eq!(run(&daemon, "t", "wc -c < /f"), "300000\n");
        build(&[&format!("http://127.0.0.1:{port}{path}")], &[]).ok();
        let (status, answer) =
            request(&daemon, "POST", &format!("/build?t=t&remote=http://127.0.0.1:{port}{path}"), &[]);
        assert!(status == 200 && answer.contains("Successfully built"), "{status} {answer}");
        let (status, answer) = request(&daemon, "POST", "/build?t=t", archive);
        assert!(status == 200 && answer.contains("Successfully built"), "{status} {answer}");
        let cut = &archive[..archive.len() / 2];
        build(&["-"], cut).fails(1, "");
        let imported = daemon.palan_with_input(["import", "-", "imported"], archive).ok();
        assert!(imported.line().starts_with("sha256:"), "{imported}");
        daemon.palan_with_input(["import", "-"], cut).fails(1, "");
    }
    let image =
        daemon.palan(["save", "-o", &daemon.scratch().join("saved").display().to_string(), "imported"]).ok();
    assert_eq!(image.stdout, "");
    let saved = fs::read(daemon.scratch().join("saved")).unwrap();
    daemon.palan(["rmi", "imported"]).ok();
    for program in ["xz", "bzip2"] {
        daemon.palan_with_input(["load"], &compressed(program, &saved)).ok();
        daemon.palan(["rmi", "imported"]).ok();
    }
    nothing_is_left(&daemon);
}

/// Measured beside BuildKit.
#[test]
fn what_is_made_for_a_copy_is_a_new_directory() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb AS a\nRUN mkdir -m 2770 /q && mkdir -m 700 /q/in && chown alice:staff /q /q/in && ln -s q /way\n\
         FROM bb AS last\nCOPY --from=a /q /m1\nCOPY --from=a /way/ /m2/\nCOPY --from=a --chown=alice:staff /q /m3\n\
         COPY d /n1\nCOPY --chmod=711 d /n2/n3\nCOPY --chmod=u+s f /n4/f\n\
         RUN mkdir -m 2775 /sg && chown 0:50 /sg\nCOPY d /sg/n1\nCOPY --chown=1:2 f /sg/n2/f\nWORKDIR /sg/w\n\
         FROM last AS linked\nRUN mkdir -p /l/in && echo > /l/one && ln /l/one /l/in/two\n\
         FROM last\nCOPY --from=linked /l /n5\n",
    );
    context.file("f", "F").file("d/in/x", "X");
    fs::set_permissions(context.path("d"), fs::Permissions::from_mode(0o700)).unwrap();
    fs::set_permissions(context.path("d/in"), fs::Permissions::from_mode(0o750)).unwrap();
    context.build(&daemon, &["-t", "t"]).ok();
    let look = |script: &str| run(&daemon, "t", script);
    assert_eq!(
        look("stat -c '%n %a %u:%g' /m1 /m1/in /m2 /m3 /n1 /n1/in /n2 /n2/n3 /n4 /sg/*"),
        "/m1 755 0:0\n/m1/in 700 1000:50\n/m2 755 0:0\n/m3 755 1000:50\n/n1 755 0:0\n/n1/in 750 0:0\n\
         /n2 711 0:0\n/n2/n3 711 0:0\n/n4 755 0:0\n/sg/n1 2755 0:50\n/sg/n2 2755 1:2\n/sg/w 2755 0:50\n"
    );
    // Cron, for one, passes over files with several names. What has them within one copy keeps them.
    assert_eq!(look("stat -c %h /n1/in/x /n5/one /n5/in/two"), "1\n2\n2\n");
}

#[test]
fn copied_files_meet_what_is_there() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb\nRUN mkdir -p -m 700 /own/in /real && chown alice:staff /own && chmod 711 /own && echo old > /own/old && ln -s real /way && ln -s /own/old /own/link && echo 1 > /one && ln /one /two\n\
         COPY d /own/\nCOPY f /way/\nCOPY f /new/deep/\nCOPY f /own/link\nCOPY --chown=1000 f /numbers/f\nCOPY d/* g /flat/\n\
         RUN (sleep 1000 &) ; true\n",
    );
    context.file("f", "F").file("g", "G").file("d/in/x", "X").file("d/y", "Y");
    fs::set_permissions(context.path("d/in"), fs::Permissions::from_mode(0o750)).unwrap();
    context.build(&daemon, &["-t", "t"]).ok();
    let look = |script: &str| run(&daemon, "t", script);
    // What is there stays, also what directories above are; what is new is root's.
    assert_eq!(look("cat /own/in/x /own/y /real/f /own/old"), "XYFF");
    assert_eq!(
        look("stat -c '%n %a %u:%g' /own /own/in /new /numbers /numbers/f"),
        "/own 711 1000:50\n/own/in 750 0:0\n/new 755 0:0\n/numbers 755 1000:1000\n/numbers/f 644 1000:1000\n"
    );
    assert_eq!(
        look("readlink /own/link; readlink /way; ls /flat; stat -c %h /one"),
        "/own/old\nreal\ng\nx\ny\n2\n"
    );
    // A layer over another base is the same layer, and hides nothing there.
    let other = Context::new(
        &daemon,
        "other",
        "FROM bb\nRUN mkdir /new && echo kept > /new/kept\nCOPY --link f /new/deep/\nRUN cat /new/kept /new/deep/f\n",
    );
    other.file("f", "F");
    other.build(&daemon, &[]).ok();
    for (copy, text) in [
        ("COPY f /bin/", ""),
        ("COPY f /bin", ""),
        ("COPY f g /nodir", "must be a directory and end with a /"),
        ("COPY d /etc/passwd", "cannot copy to non-directory: /etc/passwd"),
        ("RUN mkdir -p /t/y\nCOPY d /t/", "cannot replace to directory /t/y with file"),
        ("COPY whiteout /w/", "a name that begins with .wh."),
    ] {
        context.file("Dockerfile", &format!("FROM bb\n{copy}\n")).file("whiteout/.wh.bin", "");
        let built = context.build(&daemon, &[]);
        assert_eq!(built.code != 0, !text.is_empty(), "{copy}: {built}");
        assert!(built.stderr.contains(text), "{copy}: {built}");
    }
    nothing_is_left(&daemon);
}

/// Serves one answer for each connection, by the path.
fn serve(files: Vec<(&'static str, Vec<u8>)>) -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).unwrap_or(0);
            let request = String::from_utf8_lossy(&request[..length]).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let found = files.iter().find(|(name, _)| *name == path);
            let (status, body) = found.map_or(("404 Not Found", &[][..]), |(_, body)| ("200 OK", &body[..]));
            let head = format!(
                "HTTP/1.1 {status}\r\nConnection: close\r\nLast-Modified: Tue, 01 Dec 2020 00:00:00 GMT\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body));
        }
    });
    port
}

#[test]
fn files_and_contexts_from_elsewhere() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let context_tar = TarBuilder::new()
        .file("Dockerfile", 0o644, "FROM bb\nCOPY f /f\n")
        .file("f", 0o644, "from a tar")
        .finish();
    let port = serve(vec![
        ("/dir/file.txt", b"downloaded".to_vec()),
        ("/context.tar", context_tar),
        ("/Dockerfile", b"FROM bb\nRUN echo alone > /f\n".to_vec()),
    ]);
    let digest = palan_test_support::image::digest(b"downloaded");
    let url = format!("http://127.0.0.1:{port}");
    let context = Context::new(
        &daemon,
        "context",
        &format!(
            "FROM bb\nADD {url}/dir/file.txt /d/\nADD --checksum={digest} --chown=alice {url}/dir/file.txt /named\n"
        ),
    );
    context.build(&daemon, &["-t", "t"]).ok();
    let look = "cat /d/file.txt /named; stat -c ' %a %u %Y' /d/file.txt /named";
    assert_eq!(run(&daemon, "t", look), "downloadeddownloaded 600 0 1606780800\n 600 1000 1606780800\n");
    assert_eq!(cached(&context.build(&daemon, &[]).ok()), 2);
    let wrong = format!("FROM bb\nADD --checksum=sha256:{} {url}/dir/file.txt /d/\n", "0".repeat(64));
    context.file("Dockerfile", &wrong).build(&daemon, &[]).fails(1, "digest mismatch");
    context
        .file("Dockerfile", &format!("FROM bb\nADD {url}/missing /d/\n"))
        .build(&daemon, &[])
        .fails(1, "404");
    for (path, content) in [("context.tar", "from a tar"), ("Dockerfile", "alone\n")] {
        let (status, answer) = request(&daemon, "POST", &format!("/build?t=r&remote={url}/{path}"), &[]);
        assert!(status == 200 && answer.contains("Successfully built"), "{status} {answer}");
        assert_eq!(run(&daemon, "r", "cat /f"), content);
    }
    nothing_is_left(&daemon);
}

#[test]
fn a_built_image_goes_to_a_registry_and_is_a_base_from_there() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let registry = Registry::start();
    let name = format!("{}/team/app:1", registry.host());
    let context = Context::new(&daemon, "context", "FROM bb\nCOPY f /f\nRUN echo made > /made && rm /f\n");
    context.file("f", "f").build(&daemon, &["-t", &name]).ok();
    daemon.docker(["push", &name]).ok();
    let id = daemon.docker(["inspect", "-f", "{{.Id}}", &name]).ok().stdout;
    daemon.docker(["rmi", &name]).ok();
    daemon.docker(["builder", "prune", "-af"]).ok();
    // A base that is not here is pulled.
    let above = Context::new(&daemon, "above", &format!("FROM {name}\nRUN cat /made; ! test -e /f\n"));
    let built = above.build(&daemon, &["-t", "above"]).ok();
    assert!(built.stdout.contains("made\n"), "{built}");
    assert_eq!(daemon.docker(["inspect", "-f", "{{.Id}}", &name]).ok().stdout, id);
    let missing = Context::new(&daemon, "missing", &format!("FROM {}/no/such\n", registry.host()));
    assert_ne!(missing.build(&daemon, &[]).code, 0);
    nothing_is_left(&daemon);
    let checked = daemon.palan(["system", "fsck"]).ok();
    assert!(checked.stdout.contains("no problem") || checked.stderr.contains("no problem"), "{checked}");
}

#[test]
fn a_build_that_fails_leaves_nothing() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let failing = [
        (
            "FROM bb\nRUN echo before; exit 7\n",
            "The command '/bin/sh -c echo before; exit 7' returned a non-zero code: 7",
        ),
        ("FROM bb\nRUN [\"nosuch\"]\n", "executable file not found"),
        ("FROM bb\nCOPY missing /\n", "COPY failed: "),
        ("FROM bb\nCOPY --from=bb /missing /\n", "COPY failed: "),
        ("FROM bb\nUSER nobody-there\nRUN true\n", "unable to find user nobody-there"),
        ("FROM bb\nRUN --network=host true\n", "network.host is not allowed"),
        ("FROM bb\nRUN --security=insecure true\n", "security.insecure is not allowed"),
        ("FROM bb\nFROBNICATE x\n", "unknown instruction: FROBNICATE"),
        ("FROM bb\nCOPY --from=0 x /\n", ""),
        ("", "cannot be empty"),
        ("# nothing\n", "file with no instructions"),
    ];
    for (number, (dockerfile, text)) in failing.into_iter().enumerate() {
        let context = Context::new(&daemon, &format!("context-{number}"), dockerfile);
        let failed = context.build(&daemon, &["-t", "never"]);
        assert_ne!(failed.code, 0, "{dockerfile}: {failed}");
        assert!(failed.stderr.contains(text), "{dockerfile}: {failed}");
    }
    daemon.palan(["image", "inspect", "never"]).fails(1, "No such image");
    nothing_is_left(&daemon);
}

#[test]
fn whoever_goes_ends_the_build() {
    requires!(root);
    requires!(program "docker");
    let mut daemon = daemon();
    let context = Context::new(&daemon, "context", "FROM bb\nRUN (sleep 1000 &) ; echo begun; sleep 1000\n");
    let directory = context.0.display().to_string();
    let running = |daemon: &Daemon| {
        fs::read_dir(daemon.run_root().join("containers")).is_ok_and(|mut entries| entries.next().is_some())
    };
    let mut client =
        daemon.docker_command().args(["build", &directory]).env("DOCKER_BUILDKIT", "0").spawn().unwrap();
    assert!(wait_until(PATIENCE, || running(&daemon)));
    client.kill().unwrap();
    client.wait().unwrap();
    nothing_is_left(&daemon);
    let mut client =
        daemon.docker_command().args(["build", &directory]).env("DOCKER_BUILDKIT", "0").spawn().unwrap();
    assert!(wait_until(PATIENCE, || running(&daemon)));
    daemon.kill();
    client.wait().unwrap();
    daemon.restart();
    nothing_is_left(&daemon);
}

#[test]
fn nothing_in_a_context_or_a_dockerfile_leads_out() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let outside = daemon.scratch().join("outside");
    fs::write(&outside, "SECRET").unwrap();
    let target = outside.display().to_string();
    let context = Context::new(&daemon, "context", "FROM bb\nCOPY link /got\n");
    symlink(&outside, context.path("link")).unwrap();
    // CVE-2015-3627 and its kin: a link in the context is followed inside of it, where nothing is.
    let failed = context.build(&daemon, &[]);
    assert!(failed.code != 0 && !failed.stdout.contains("SECRET"), "{failed}");
    // In a directory it is copied as what it is.
    context
        .file("dir/f", "f")
        .file("Dockerfile", "FROM bb\nCOPY dir /dir\nRUN ls -l /dir; ! cat /dir/link\n");
    symlink(&outside, context.path("dir/link")).unwrap();
    context.build(&daemon, &[]).ok();
    // A Dockerfile that is a link (CVE-2014-9356).
    let linked = Context::new(&daemon, "linked", "");
    fs::remove_file(linked.path("Dockerfile")).unwrap();
    symlink(&outside, linked.path("Dockerfile")).unwrap();
    let tar = TarBuilder::new().symlink("Dockerfile", &target).finish();
    let (status, answer) = request(&daemon, "POST", "/build", &tar);
    assert!(status >= 400 && !answer.contains("SECRET"), "{status} {answer}");
    // Entries of a hostile archive.
    for hostile in [
        TarBuilder::new().file("../../escape", 0o644, "x"),
        TarBuilder::new().file("/escape", 0o644, "x").symlink("d", "/").file("d/escape", 0o644, "x"),
        TarBuilder::new().symlink("d", "../../../..").file("d/tmp/escape", 0o644, "x"),
    ] {
        let tar = hostile.file("Dockerfile", 0o644, "FROM bb\nCOPY . /x\n").finish();
        request(&daemon, "POST", "/build", &tar);
        for place in ["/escape", "/tmp/escape"] {
            assert!(!Path::new(place).exists(), "{place}");
        }
    }
    // A mount's source in an image that leads to the host's root (CVE-2024-1753), a cache's name that is a path (CVE-2024-9675).
    let dockerfile = format!(
        "FROM bb AS evil\nRUN ln -s / /root-link && ln -s {target} /file-link\nFROM bb\n\
         RUN --mount=type=cache,id=../../../../..,target=/c ls /c; test ! -e /c/etc\n\
         RUN --mount=type=bind,from=evil,source=/root-link,target=/m,rw test ! -e /m{target}\n"
    );
    let evil = Context::new(&daemon, "evil", &dockerfile);
    let built = evil.build(&daemon, &[]);
    assert!(!built.stdout.contains("SECRET"), "{built}");
    let dockerfile = format!(
        "FROM bb AS evil\nRUN ln -s {target} /file-link\nFROM bb\nRUN --mount=type=bind,from=evil,source=/file-link,target=/m cat /m\n"
    );
    let evil = Context::new(&daemon, "evil-file", &dockerfile);
    let built = evil.build(&daemon, &[]);
    assert!(built.code != 0 && !built.stdout.contains("SECRET"), "{built}");
    // A working directory that is a descriptor of whoever starts the step (CVE-2024-21626).
    for descriptor in 3..12 {
        let dockerfile = format!("FROM bb\nWORKDIR /proc/self/fd/{descriptor}\nRUN ls ../../..\n");
        let context = Context::new(&daemon, &format!("fd-{descriptor}"), &dockerfile);
        let built = context.build(&daemon, &[]);
        assert!(!built.stdout.contains("outside"), "{built}");
    }
    nothing_is_left(&daemon);
}

#[test]
fn ignored_files_are_no_part_of_the_context() {
    requires!(root);
    let daemon = daemon();
    let tar = TarBuilder::new()
        .file("Dockerfile", 0o644, "FROM bb\nCOPY . /all\nRUN find /all 2>/dev/null || ls -a /all /all/d\n")
        .file(".dockerignore", 0o644, "*.log\nd/*\n!d/keep\n")
        .file("a.log", 0o644, "x")
        .file("b", 0o644, "x")
        .directory("d/", 0o755)
        .file("d/gone", 0o644, "x")
        .file("d/keep", 0o644, "x")
        .finish();
    let (status, answer) = request(&daemon, "POST", "/build?t=t", &tar);
    assert_eq!(status, 200, "{answer}");
    assert_eq!(run(&daemon, "t", "ls /all /all/d"), "/all:\nDockerfile\nb\nd\n\n/all/d:\nkeep\n");
    assert_eq!(run(&daemon, "t", "stat -c %a /all"), "755\n", "as open as a new directory");
    // What the query asks for and is not there is refused by name.
    for (query, text) in [
        ("version=2", "version=2"),
        ("squash=1", "squash"),
        ("outputs=%5B%7B%7D%5D", "outputs"),
        ("buildargs=%7B", "buildargs"),
        ("t=UPPER", "must be lowercase"),
        ("dockerfile=missing", "Cannot locate specified Dockerfile: missing"),
        ("remote=nosuch", "is no URL"),
    ] {
        let (status, answer) = request(&daemon, "POST", &format!("/build?{query}"), &tar);
        assert!(status >= 400 && answer.contains(text), "{query}: {status} {answer}");
    }
}

const PYTHON: &str = r#"
import docker, io
client = docker.from_env()
image, logs = client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN echo from python\nLABEL a=b\n"), tag="py:1", labels={"c": "d"})
text = "".join(line.get("stream", "") for line in logs)
assert "from python" in text, text
assert image.labels["a"] == "b" and image.labels["c"] == "d", image.labels
assert "py:1" in image.tags, image.tags
try:
    client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN exit 3\n"))
    raise SystemExit("no error")
except docker.errors.BuildError as error:
    assert "returned a non-zero code: 3" in error.msg, error.msg
image, _ = client.images.build(fileobj=io.BytesIO(b"FROM bb\nRUN grep '10.1.2.3.*named' /etc/hosts; ls /sys/class/net\n"), extra_hosts={"named": "10.1.2.3"}, network_mode="none", rm=True, forcerm=True, container_limits={"memory": 64 << 20})
assert client.api.prune_builds()["SpaceReclaimed"] >= 0
"#;

#[test]
#[expect(clippy::disallowed_methods, reason = "an outside client, run as its users do")]
fn docker_py_builds() {
    requires!(root);
    let python = std::env::var_os("PALAN_TEST_PYTHON");
    requires!(python.is_some(), "needs docker-py: run by `cargo xtask test`");
    let daemon = daemon();
    let mut command = std::process::Command::new(python.unwrap_or_default());
    command.args(["-c", PYTHON]).env("DOCKER_HOST", daemon.host());
    finish(&mut command, None).ok();
}

#[test]
fn a_step_has_the_network_it_was_given() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let context = Context::new(
        &daemon,
        "context",
        "FROM bb\nRUN grep -q '10.1.2.3.*named' /etc/hosts && ls /sys/class/net\nRUN --network=none ls /sys/class/net | wc -l\nRUN df -k /dev/shm | tail -n 1\n",
    );
    let output = context
        .build(&daemon, &["--add-host", "named:10.1.2.3", "--shm-size", "8m", "--ulimit", "nofile=77:77"])
        .ok();
    assert!(output.stdout.contains("eth0\n") && output.stdout.contains("\n1\n"), "{output}");
    assert!(output.stdout.contains("8192"), "{output}");
    let host = Context::new(&daemon, "host", "FROM bb\nRUN ls /sys/class/net; ulimit -n\n");
    host.build(&daemon, &["--network", "none", "--ulimit", "nofile=77:77"]).ok();
}
