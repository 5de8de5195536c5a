//! Repositories as contexts and as sources of `ADD`: from a server of the test's own, by both front doors.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use palan_test_support::daemon::{Daemon, Options, Run};
use palan_test_support::git::{GitServer, Repository, Tricks};
use palan_test_support::{PATIENCE, free_port, requires, wait_until};

use crate::images::{daemon, daemon_with};

/// Nothing of a build in progress is left, on the disk or as a process.
#[track_caller]
fn nothing_is_left(daemon: &Daemon) {
    let work = daemon.data_root().join("build/work");
    let is_clean = || {
        let layers = fs::read_dir(daemon.data_root().join("layers")).unwrap();
        fs::read_dir(&work).unwrap().next().is_none()
            && layers.flatten().all(|entry| !entry.file_name().to_string_lossy().starts_with(".tmp-"))
            && programs(daemon).is_empty()
    };
    assert!(wait_until(PATIENCE, is_clean), "something is left: {:?}", programs(daemon));
}

/// The processes whose working directory is in the daemon's data root: those that fetch.
fn programs(daemon: &Daemon) -> Vec<String> {
    let processes = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path());
    let fetches = |path: &PathBuf| {
        fs::read_link(path.join("cwd")).is_ok_and(|directory| directory.starts_with(daemon.data_root()))
    };
    let name = |path: PathBuf| fs::read_to_string(path.join("comm")).unwrap_or_default().trim().to_owned();
    processes.filter(fetches).map(name).collect()
}

fn build(daemon: &Daemon, context: &str, flags: &[&str]) -> Run {
    let mut arguments = vec!["build", "--network", "none"];
    arguments.extend(flags);
    arguments.push(context);
    daemon.palan(arguments)
}

/// `POST /build?remote=…`, without a session: what docker-py does.
fn classic(daemon: &Daemon, parameters: &str) -> String {
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let head = format!(
        "POST /build?networkmode=none&{parameters} HTTP/1.1\r\nHost: palan\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace('#', "%23").replace('&', "%26").replace('?', "%3F")
}

fn run(daemon: &Daemon, image: &str, script: &str) -> String {
    daemon.palan(["run", "--rm", "--network", "none", image, "sh", "-c", script]).ok().stdout
}

fn cached(run: &Run) -> usize {
    run.stderr.matches(" CACHED\n").count()
}

/// A directory for repositories, and one repository: two commits on `main`, the tags `v1` and `light`, the branch `other`.
struct Scene {
    directory: PathBuf,
    app: Repository,
    first: String,
    second: String,
}

const DOCKERFILE: &str = "FROM bb\nCOPY . /app\nRUN cat /app/version > /said\n";

impl Scene {
    fn new(daemon: &Daemon) -> Self {
        let directory = daemon.scratch().join("repositories");
        let app = Repository::new(directory.join("app.git"));
        symlink("/etc", app.path().join("escape")).unwrap();
        symlink("sub", app.path().join("shortcut")).unwrap();
        let first = app.commit(&[
            ("Dockerfile", DOCKERFILE),
            (".dockerignore", "ignored\n.git\n"),
            ("version", "one\n"),
            ("ignored", "x"),
            ("sub/dir/Dockerfile", "FROM bb\nCOPY file /file\n"),
            ("sub/dir/file", "of the subdirectory"),
        ]);
        app.git(&["tag", "-a", "v1", "-m", "a tag"]);
        app.git(&["tag", "light"]);
        let second = app.commit(&[("version", "two\n")]);
        app.git(&["branch", "other", &first]);
        Self { directory, app, first, second }
    }

    fn serve(&self) -> GitServer {
        GitServer::start(&self.directory, Tricks::default())
    }
}

#[test]
fn a_repository_is_a_context() {
    requires!(root);
    requires!(program "git");
    let daemon = daemon();
    let scene = Scene::new(&daemon);
    let server = scene.serve();
    let url = server.url("app.git");
    let first = build(&daemon, &url, &["-t", "app"]).ok();
    assert!(first.stderr.contains(&format!("[internal] load git source {url}\n")), "{first}");
    assert_eq!(
        run(&daemon, "app", "cat /said; ls -A /app"),
        "two\n.dockerignore\nDockerfile\nescape\nshortcut\nsub\nversion\n"
    );
    assert_eq!(
        run(&daemon, "app", "stat -c '%a %u' /app/version /app/sub; readlink /app/escape"),
        "644 0\n755 0\n/etc\n"
    );
    assert_eq!(server.fetches(), 1);
    // The same commit is here, by whatever name it is asked for.
    for same in
        [url.clone(), format!("{url}#main"), format!("{url}#{}", scene.second), format!("{url}?branch=main")]
    {
        let again = build(&daemon, &same, &[]).ok();
        assert!(cached(&again) >= 2, "{again}");
    }
    assert_eq!(server.fetches(), 0);
    for (reference, said) in [
        ("#v1", "one"),
        ("#light", "one"),
        ("#refs/tags/v1", "one"),
        ("#other", "one"),
        (&format!("#{}", scene.first), "one"),
        ("?tag=v1", "one"),
        (&format!("?ref=other&checksum={}", &scene.first[..12]), "one"),
        (&format!("?checksum={}&fetch-by-commit=1", scene.first), "one"),
        ("#main", "two"),
    ] {
        build(&daemon, &format!("{url}{reference}"), &["-t", "app"]).ok();
        assert_eq!(run(&daemon, "app", "cat /said"), format!("{said}\n"), "{reference}");
    }
    for subdirectory in ["#main:sub/dir", "?subdir=sub/dir", "#:/sub/../sub/dir/"] {
        build(&daemon, &format!("{url}{subdirectory}"), &["-t", "sub"]).ok();
        assert_eq!(run(&daemon, "sub", "cat /file"), "of the subdirectory", "{subdirectory}");
    }
    // The Dockerfile may be elsewhere: in the repository, or here.
    build(&daemon, &url, &["-t", "sub", "-f", "sub/dir/Dockerfile"]).fails(1, "\"/file\": not found");
    let own = daemon.scratch().join("Own");
    fs::write(&own, "FROM bb\nCOPY version /own\n").unwrap();
    build(&daemon, &url, &["-t", "own", "-f", &own.display().to_string()]).ok();
    assert_eq!(run(&daemon, "own", "cat /own"), "two\n");
    nothing_is_left(&daemon);
}

#[test]
fn the_classic_builder_fetches_repositories() {
    requires!(root);
    requires!(program "git");
    let daemon = daemon();
    let scene = Scene::new(&daemon);
    let server = scene.serve();
    let remote = escaped(&server.url("app.git#v1"));
    let answer = classic(&daemon, &format!("t=app&remote={remote}"));
    assert!(
        answer.contains("Step 1/3 : FROM bb") && answer.contains("Successfully tagged app:latest"),
        "{answer}"
    );
    assert_eq!(run(&daemon, "app", "cat /said; ls /app/ignored || true"), "one\n");
    let remote = escaped(&server.url("app.git#main:sub/dir"));
    let answer = classic(&daemon, &format!("t=app&remote={remote}"));
    assert!(answer.contains("Successfully built"), "{answer}");
    let answer = classic(&daemon, &format!("remote={}", escaped(&server.url("app.git#nosuch"))));
    assert!(answer.contains("does not contain ref nosuch"), "{answer}");
    let answer = classic(&daemon, &format!("remote={}", escaped("git@127.0.0.1:app")));
    assert!(answer.contains("no SSH key \\\"default\\\" forwarded from the client"), "{answer}");
    nothing_is_left(&daemon);
}

#[test]
fn repositories_are_added_and_are_named_contexts() {
    requires!(root);
    requires!(program "git");
    let daemon = daemon();
    let scene = Scene::new(&daemon);
    let module = Repository::new(scene.directory.join("module.git"));
    let pinned = module.commit(&[("m", "of the submodule")]);
    module.commit(&[("m", "newer")]);
    scene.app.git(&["submodule", "--quiet", "add", "../module.git", "mod"]);
    let at = scene.app.path().join("mod");
    Repository::git(&Repository::new(at), &["checkout", "--quiet", &pinned]);
    let commit = scene.app.commit(&[]);
    let server = scene.serve();
    let url = server.url("app.git");
    let context = daemon.scratch().join("context");
    fs::create_dir(&context).unwrap();
    let dockerfile = |text: &str| fs::write(context.join("Dockerfile"), text).unwrap();
    let directory = context.display().to_string();
    dockerfile(&format!(
        "FROM bb\nADD --chown=alice --chmod=0600 --exclude=sub {url}#main /a\nADD --link {url}?subdir=sub/dir /b/\n"
    ));
    let first = build(&daemon, &directory, &["-t", "app"]).ok();
    assert!(first.stderr.contains(&format!("ADD --link {url}?subdir=sub/dir /b/\n")), "{first}");
    let look = "cd /a; cat version mod/m /b/file; stat -c ' %a %u' version; find . -name .git; ls sub; true";
    assert_eq!(run(&daemon, "app", look), "two\nof the submoduleof the subdirectory 600 1000\n");
    server.requests();
    let again = build(&daemon, &directory, &[]).ok();
    assert_eq!((cached(&again) >= 2, server.fetches()), (true, 0), "{again}");
    // With its history's last commit, and nothing of where it came from but the address.
    dockerfile(&format!("FROM bb\nADD --keep-git-dir --checksum={commit} {url}#main /a\n"));
    build(&daemon, &directory, &["-t", "kept"]).ok();
    let look = "cd /a/.git; cat HEAD refs/heads/main; cat shallow | wc -l; grep url config; ls FETCH_HEAD hooks logs 2>/dev/null; cat ../mod/.git";
    assert_eq!(
        run(&daemon, "kept", look),
        format!(
            "{commit}\n{commit}\n1\n\turl = {url}\n\turl = {}\ngitdir: ../.git/modules/mod\n",
            server.url("module.git")
        )
    );
    build(&daemon, &url, &["-t", "kept", "--build-arg", "BUILDKIT_CONTEXT_KEEP_GIT_DIR=1"]).ok();
    assert_eq!(
        run(&daemon, "kept", "cat /app/.git/HEAD; ls /app/ignored 2>/dev/null || true"),
        format!("{commit}\n")
    );
    build(&daemon, &format!("{url}?mtime=commit&submodules=0"), &["-t", "old"]).ok();
    assert_eq!(
        run(&daemon, "old", "stat -c %Y /app/version /app/sub; ls /app/mod"),
        "1000000000\n1000000000\n"
    );
    dockerfile(
        "FROM src AS files\nFROM bb\nCOPY --from=files version /x\nCOPY --from=src sub/dir/file /y\nRUN --mount=from=file,target=/m cat /m/context > /z\n",
    );
    let (source, file) = (format!("src={url}#v1"), format!("file={}", server.url("app.git/HEAD")));
    build(&daemon, &directory, &["-t", "named", "--build-context", &source, "--build-context", &file]).ok();
    assert_eq!(run(&daemon, "named", "cat /x /y /z"), "one\nof the subdirectoryref: refs/heads/main\n");
    nothing_is_left(&daemon);
}

#[test]
fn what_is_wrong_with_a_repository_is_said() {
    requires!(root);
    requires!(program "git");
    let daemon = daemon();
    let scene = Scene::new(&daemon);
    let server = scene.serve();
    let url = server.url("app.git");
    let nobody = format!("127.0.0.1:{}", free_port());
    for (address, text) in [
        (format!("{url}#nosuch"), "does not contain ref nosuch"),
        (format!("{url}#{}", "0".repeat(40)), "does not contain commit 0000"),
        (format!("{url}#{}", &scene.first[..12]), "does not contain ref"),
        (format!("{url}?ref=main&checksum={}", scene.first), "expected checksum to match"),
        (format!("{url}#-x"), "begins with '-'"),
        (format!("{url}?ref=--upload-pack%3Dx"), "begins with '-'"),
        (format!("{url}?ref=main:refs/heads/x"), "is no name of a branch"),
        (format!("{url}#:nosuch"), "invalid subdir nosuch"),
        (format!("{url}#:version"), "contains non-directory \"version\""),
        (format!("{url}#:escape"), "contains non-directory \"escape\""),
        (format!("{url}#:escape/ssl"), "contains non-directory \"escape\""),
        (format!("{url}#:shortcut/dir"), "contains non-directory \"shortcut\""),
        (format!("{url}#:.git"), "invalid subdir .git"),
        (format!("{url}?what=x"), "unexpected query \"what\""),
        (server.url("nosuch.git"), "failed to fetch remote"),
        (format!("http://{nobody}/a.git"), "failed to fetch remote"),
        (format!("git://{nobody}/a.git"), "failed to fetch remote"),
        ("http://nosuch.invalid/a.git".to_owned(), "failed to fetch remote"),
    ] {
        build(&daemon, &address, &["-t", "never"]).fails(1, text);
    }
    daemon.palan(["image", "inspect", "never"]).fails(1, "No such image");
    nothing_is_left(&daemon);
}

#[test]
fn nothing_in_a_repository_leads_out() {
    requires!(root);
    requires!(program "git");
    let canary = tempfile::tempdir().unwrap();
    let secret = Repository::new(canary.path().join("secret"));
    secret.commit(&[("secret", "of the host")]);
    let touched = canary.path().join("touched");
    let evil = format!("touch {}", touched.display());
    // What the daemon's user has set up for himself counts for nothing.
    let global = canary.path().join(".gitconfig");
    fs::write(
        &global,
        format!(
            "[core]\n\tfsmonitor = {evil}\n[filter \"x\"]\n\tsmudge = {evil}\n[protocol]\n\tallow = always\n"
        ),
    )
    .unwrap();
    let environment = [
        "env".to_owned(),
        format!("HOME={}", canary.path().display()),
        format!("GIT_SSH_COMMAND={evil}"),
        "GIT_CONFIG_COUNT=1".to_owned(),
        "GIT_CONFIG_KEY_0=core.fsmonitor".to_owned(),
        format!("GIT_CONFIG_VALUE_0={evil}"),
    ];
    let daemon = daemon_with(Options { launcher: environment.to_vec(), ..Options::default() });
    let scene = Scene::new(&daemon);
    let server = scene.serve();
    let submodule = |url: &str, more: &str| {
        fs::write(
            scene.app.path().join(".gitmodules"),
            format!("[submodule \"m\"]\n\tpath = m\n\turl = {url}\n{more}"),
        )
        .unwrap();
        let link = format!("160000,{},m", secret.git(&["rev-parse", "HEAD"]));
        scene.app.git(&["add", ".gitmodules"]);
        scene.app.git(&["update-index", "--add", "--cacheinfo", &link]);
        scene.app.git(&["commit", "--quiet", "-m", "a submodule"]);
    };
    for url in [
        secret.path().display().to_string(),
        format!("file://{}", secret.path().display()),
        format!("ext::sh -c '{evil}'"),
        "../../../../../../../../etc".to_owned(),
        format!("-u{evil}"),
    ] {
        submodule(&url, "");
        let failed = build(&daemon, &server.url("app.git"), &["-t", "app"]);
        assert_ne!(failed.code, 0, "{url}: {failed}");
    }
    submodule(&server.url("app.git"), &format!("\tupdate = !{evil}\n"));
    assert_ne!(build(&daemon, &server.url("app.git"), &[]).code, 0);
    scene.app.git(&["rm", "--quiet", "--cached", "m", ".gitmodules"]);
    fs::remove_file(scene.app.path().join(".gitmodules")).unwrap();
    scene.app.commit(&[(".gitattributes", "* filter=x\n"), ("version", "three\n")]);
    build(&daemon, &server.url("app.git"), &["-t", "app"]).ok();
    assert_eq!(run(&daemon, "app", "cat /said"), "three\n");
    assert!(!touched.exists(), "something was run");
    // A file that would remove another in a layer is none of an image.
    scene.app.commit(&[(".wh.version", "")]);
    build(&daemon, &server.url("app.git"), &["-t", "app"]).fails(1, ".wh.version");
    // A tree of a few objects that is a great many files.
    let mut tree = scene.app.git(&["rev-parse", "HEAD:version"]);
    let mut kind = "100644 blob";
    for _ in 0..8 {
        let listing: String = (0..32).map(|number| format!("{kind} {tree}\t{number}\n")).collect();
        let file = daemon.scratch().join("listing");
        fs::write(&file, listing).unwrap();
        tree = shell(scene.app.path(), &format!("git mktree < {}", file.display()));
        kind = "040000 tree";
    }
    let bomb = shell(
        scene.app.path(),
        &format!("git -c user.name=a -c user.email=a@example.com commit-tree -m bomb {tree}"),
    );
    scene.app.git(&["branch", "bomb", &bomb]);
    build(&daemon, &server.url("app.git#bomb"), &[]).fails(1, "has more than 10000000 files");
    nothing_is_left(&daemon);
}

#[expect(clippy::disallowed_methods, reason = "objects that no command makes by itself")]
fn shell(directory: &Path, script: &str) -> String {
    let output =
        std::process::Command::new("sh").args(["-c", script]).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "{script}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn credentials_go_where_they_are_for() {
    requires!(root);
    requires!(program "git");
    let daemon = daemon();
    let scene = Scene::new(&daemon);
    // x-access-token:t0ken
    let header = "basic eC1hY2Nlc3MtdG9rZW46dDBrZW4=";
    let tricks = Tricks { authorization: Some(header.to_owned()), ..Tricks::default() };
    let server = GitServer::start(&scene.directory, tricks);
    let (url, place) = (server.url("app.git"), format!("127.0.0.1:{}", server.port()));
    build(&daemon, &url, &[]).fails(1, "give the secret GIT_AUTH_TOKEN");
    let file = |name: &str, content: &str| {
        let path = daemon.scratch().join(name);
        fs::write(&path, content).unwrap();
        path.display().to_string()
    };
    let (token, whole, wrong) = (file("token", "t0ken\n"), file("header", header), file("wrong", "x"));
    build(&daemon, &url, &["-t", "app", "--secret", &format!("id=GIT_AUTH_TOKEN,src={token}")]).ok();
    assert_eq!(run(&daemon, "app", "cat /said"), "two\n");
    // That of the host comes first, and a header before a token.
    let of_host = format!("id=GIT_AUTH_HEADER.{place},src={whole}");
    let other = format!("id=GIT_AUTH_TOKEN,src={wrong}");
    build(&daemon, &format!("{url}#v1"), &["--secret", &other, "--secret", &of_host]).ok();
    build(&daemon, &format!("{url}#v1"), &["--secret", &other]).fails(1, "failed to fetch remote");
    let broken = file("broken", "a\nb");
    build(&daemon, &url, &["--secret", &format!("id=GIT_AUTH_HEADER,src={broken}")]).fails(1, "not one line");
    // In the address: in no progress, no history, no file.
    let context = daemon.scratch().join("context");
    fs::create_dir(&context).unwrap();
    let with_user = format!("http://x-access-token:t0ken@{place}/app.git");
    fs::write(context.join("Dockerfile"), format!("FROM bb\nADD --keep-git-dir {with_user}#main /a\n"))
        .unwrap();
    let built = build(&daemon, &context.display().to_string(), &["-t", "app"]).ok();
    let history = daemon.palan(["history", "--no-trunc", "app"]).ok();
    let inside = run(&daemon, "app", "grep -r t0ken /a/.git || true");
    let outside = build(&daemon, &with_user, &["--no-cache"]).ok();
    for text in [&built.stderr, &history.stdout, &inside, &outside.stderr, &daemon.log()] {
        assert!(!text.contains("t0ken"), "{text}");
    }
    // Nobody else gets them.
    let thief = GitServer::start(&scene.directory, Tricks::default());
    let redirect = Some(thief.url("").trim_end_matches('/').to_owned());
    let leading = GitServer::start(&scene.directory, Tricks { redirect, ..Tricks::default() });
    build(&daemon, &leading.url("app.git"), &["-t", "app"]).ok();
    thief.requests();
    let secret = format!("id=GIT_AUTH_TOKEN,src={token}");
    build(&daemon, &leading.url("app.git#v1"), &["--secret", &secret]).fails(1, "no redirect is followed");
    assert_eq!(thief.requests(), [""; 0]);
    nothing_is_left(&daemon);
}

#[test]
fn repositories_over_ssh_have_the_agent_of_the_client() {
    requires!(root);
    requires!(program "git");
    let programs = tempfile::tempdir().unwrap();
    // In the place of ssh: says which agent answers, and serves what is asked for.
    let ssh = programs.path().join("ssh");
    let script = "#!/bin/sh\ntest -S \"$SSH_AUTH_SOCK\" || exit 9\necho \"agent is there\" >&2\n\
                  for last; do :; done\nGIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*' exec sh -c \"$last\"\n";
    fs::write(&ssh, script).unwrap();
    fs::set_permissions(&ssh, fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("PATH={}:{}", programs.path().display(), std::env::var("PATH").unwrap());
    let daemon = daemon_with(Options { launcher: vec!["env".to_owned(), path], ..Options::default() });
    let scene = Scene::new(&daemon);
    let socket = daemon.scratch().join("agent");
    let _agent = UnixListener::bind(&socket).unwrap();
    let agent = format!("default={}", socket.display());
    for address in [
        format!("ssh://git@127.0.0.1{}", scene.app.path().display()),
        format!("git@127.0.0.1:{}#v1", scene.app.path().display()),
    ] {
        let built = build(&daemon, &address, &["-t", "app", "--ssh", &agent]).ok();
        assert!(built.stderr.contains("agent is there"), "{built}");
    }
    assert_eq!(run(&daemon, "app", "cat /said"), "one\n");
    // It is implied, as in buildx.
    let mut command = daemon.command();
    command.args(["build", &format!("git@127.0.0.1:{}", scene.app.path().display())]);
    let run = palan_test_support::daemon::finish(command.env("SSH_AUTH_SOCK", &socket), None);
    run.ok();
    let mut command = daemon.command();
    command.args(["build", "--ssh", &format!("other={}", socket.display()), "git@127.0.0.1:x"]);
    palan_test_support::daemon::finish(&mut command, None)
        .fails(1, "no SSH key \"default\" forwarded from the client");
    nothing_is_left(&daemon);
}

#[test]
fn whoever_goes_ends_the_fetching() {
    requires!(root);
    requires!(program "git");
    let mut daemon = daemon();
    let scene = Scene::new(&daemon);
    let server = GitServer::start(&scene.directory, Tricks { hangs: true, ..Tricks::default() });
    let url = server.url("app.git");
    let fetching = |daemon: &Daemon| wait_until(PATIENCE, || !programs(daemon).is_empty());
    let mut client = daemon.command().args(["build", &url]).spawn().unwrap();
    assert!(fetching(&daemon));
    client.kill().unwrap();
    client.wait().unwrap();
    nothing_is_left(&daemon);
    let mut stream = UnixStream::connect(daemon.socket()).unwrap();
    let head =
        format!("POST /build?remote={} HTTP/1.1\r\nHost: palan\r\nContent-Length: 0\r\n\r\n", escaped(&url));
    stream.write_all(head.as_bytes()).unwrap();
    assert!(fetching(&daemon));
    drop(stream);
    nothing_is_left(&daemon);
    let mut client = daemon.command().args(["build", &url]).spawn().unwrap();
    assert!(fetching(&daemon));
    daemon.kill();
    client.wait().unwrap();
    assert!(wait_until(PATIENCE, || programs(&daemon).is_empty()), "{:?}", programs(&daemon));
    daemon.restart();
    nothing_is_left(&daemon);
}

#[test]
fn a_host_without_git_says_so() {
    requires!(root);
    let empty = tempfile::tempdir().unwrap();
    let path = format!("PATH={}", empty.path().display());
    let daemon =
        daemon_with(Options { launcher: vec!["/usr/bin/env".to_owned(), path], ..Options::default() });
    build(&daemon, "https://127.0.0.1/a.git", &[]).fails(1, "install the package git");
    let git = empty.path().join("git");
    fs::write(&git, "#!/bin/sh\necho git version 2.30.2\n").unwrap();
    fs::set_permissions(&git, fs::Permissions::from_mode(0o755)).unwrap();
    build(&daemon, "https://127.0.0.1/a.git", &[]).fails(1, "git 2.30 of this host is too old");
    nothing_is_left(&daemon);
}
