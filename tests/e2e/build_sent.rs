//! Contexts that clients have sent before: only what has changed is sent and read again, whatever happens to them in between.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

use palan_test_support::daemon::{Daemon, Run};
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::daemon;

/// A context, and an image of each of its builds.
struct Context(PathBuf);

impl Context {
    fn new(daemon: &Daemon, dockerfile: &str) -> Self {
        let context = Self(daemon.scratch().join("context"));
        fs::create_dir_all(context.0.join("d")).unwrap();
        context.file("Dockerfile", dockerfile);
        context.file("a", "1");
        context.file("d/b", "2");
        context
    }

    fn file(&self, name: &str, content: &str) {
        fs::write(self.0.join(name), content).unwrap();
    }

    fn build(&self, daemon: &Daemon, image: &str) -> Run {
        daemon.palan(["build", "--network", "none", "-t", image, &self.0.display().to_string()])
    }

    fn begin(&self, daemon: &Daemon, image: &str) -> Child {
        let mut command = daemon.command();
        command.args(["build", "--network", "none", "-t", image]).arg(&self.0);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }
}

/// What the files of an image say.
fn content(daemon: &Daemon, image: &str, script: &str) -> String {
    daemon.palan(["run", "--rm", "--network", "none", image, "sh", "-c", script]).ok().stdout
}

fn mirrors(daemon: &Daemon) -> Vec<PathBuf> {
    let entries = fs::read_dir(daemon.data_root().join("build/sent")).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).filter(|path| path.is_dir()).collect()
}

fn mirror(daemon: &Daemon) -> PathBuf {
    let mirrors = mirrors(daemon);
    assert_eq!(mirrors.len(), 1, "{mirrors:?}");
    mirrors.into_iter().next().unwrap()
}

#[test]
fn they_are_part_of_the_build_cache() {
    requires!(root);
    let daemon = daemon();
    let context = Context::new(&daemon, "FROM bb\nRUN echo x > /x\nCOPY a /a\n");
    context.file("not-copied", &"x".repeat(5000));
    context.build(&daemon, "app").ok();
    let name = mirror(&daemon).file_name().unwrap().to_string_lossy().into_owned();
    let format = "{{range .BuildCache}}{{.ID}} {{.CacheType}} {{.Size}}\n{{end}}";
    let listed = || daemon.palan(["system", "df", "-v", "--format", format]).ok().stdout;
    let line = listed().lines().find(|line| line.contains("source.local")).unwrap().to_owned();
    assert!(name.starts_with(line.split(' ').next().unwrap()), "{line}");
    let pruned = daemon.palan(["builder", "prune", "-f", "--filter", "type=source.local"]).ok();
    assert!(pruned.stdout.contains(&name), "{pruned}");
    assert!(!pruned.stdout.contains("Total reclaimed space: 0B"), "{pruned}");
    assert_eq!(mirrors(&daemon), Vec::<PathBuf>::new());
    // What the image has stays; the cache knows of it no more.
    context.build(&daemon, "app").ok();
    daemon.palan(["system", "prune", "-af"]).ok();
    assert_eq!((listed(), mirrors(&daemon)), (String::new(), Vec::<PathBuf>::new()));
    let again = daemon.palan(["builder", "prune", "-af"]).ok();
    assert_eq!(again.stdout, "Total reclaimed space: 0B\n");
}

#[test]
fn what_somebody_removed_is_sent_again() {
    requires!(root);
    let mut daemon = daemon();
    let context = Context::new(&daemon, "FROM bb\nCOPY . /c\n");
    let all = "cat /c/a /c/d/b";
    context.build(&daemon, "app:1").ok();
    fs::remove_file(mirror(&daemon).join("d/b")).unwrap();
    context.file("a", "changed");
    context.build(&daemon, "app:2").ok();
    assert_eq!(content(&daemon, "app:2", all), "changed2");
    fs::remove_dir_all(mirror(&daemon)).unwrap();
    context.file("a", "once more");
    context.build(&daemon, "app:3").ok();
    assert_eq!(content(&daemon, "app:3", all), "once more2");
    // What is known of the content of files is only of use while it is whole.
    let digests = mirror(&daemon).with_extension("digests");
    assert!(digests.exists());
    daemon.terminate();
    fs::write(&digests, "palan digests 1\nnothing").unwrap();
    daemon.restart();
    context.file("d/b", "new");
    context.build(&daemon, "app:4").ok();
    assert_eq!(content(&daemon, "app:4", all), "once morenew");
    assert_eq!(content(&daemon, "app:1", all), "12");
}

#[test]
fn builds_of_one_directory_have_what_each_was_sent() {
    requires!(root);
    let daemon = daemon();
    let waits = "FROM bb AS first\nRUN echo run > /run-it; sleep 3\nFROM bb\nCOPY --from=first /run-it /\nCOPY . /c\n";
    let context = Context::new(&daemon, waits);
    let mut first = context.begin(&daemon, "app:1");
    assert!(wait_until(PATIENCE, || !mirrors(&daemon).is_empty()));
    let says = |name: &str, text: &str| {
        fs::read_to_string(mirror(&daemon).join(name)).is_ok_and(|content| content == text)
    };
    assert!(wait_until(PATIENCE, || says("a", "1") && says("d/b", "2")));
    std::thread::sleep(Duration::from_millis(300));
    context.file("a", "changed");
    context.file("Dockerfile", "FROM bb\nCOPY . /c\n");
    let others: Vec<Child> = (2..5).map(|number| context.begin(&daemon, &format!("app:{number}"))).collect();
    for mut other in others {
        assert!(other.wait().unwrap().success());
    }
    assert!(first.wait().unwrap().success());
    assert_eq!(content(&daemon, "app:1", "cat /c/a /c/d/b"), "12");
    for number in 2..5 {
        assert_eq!(content(&daemon, &format!("app:{number}"), "cat /c/a /c/d/b"), "changed2", "{number}");
    }
    let is_one = || mirrors(&daemon).len() == 1;
    assert!(wait_until(PATIENCE, is_one), "{:?}", mirrors(&daemon));
}

/// A build, broken off while a file is on its way.
#[track_caller]
fn break_off(daemon: &mut Daemon, context: &Context, how: impl FnOnce(&mut Daemon, &mut Child)) {
    let large = fs::File::create(context.0.join("d/large")).unwrap();
    large.set_len(3 << 30).unwrap();
    let mut client = context.begin(daemon, "never");
    let is_under_way = |daemon: &Daemon| {
        let sizes = mirrors(daemon).into_iter().map(|mirror: PathBuf| size(&mirror.join("d/large")));
        sizes.max().unwrap_or(0) > 1 << 20
    };
    assert!(wait_until(PATIENCE, || is_under_way(daemon)), "the transfer did not begin");
    how(daemon, &mut client);
    let _ = client.kill();
    assert!(!client.wait().unwrap().success());
    fs::remove_file(context.0.join("d/large")).unwrap();
}

fn size(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |metadata| metadata.len())
}

#[test]
fn a_transfer_that_breaks_off_is_taken_up() {
    requires!(root);
    let mut daemon = daemon();
    let context = Context::new(&daemon, "FROM bb\nCOPY . /c\n");
    context.build(&daemon, "app:1").ok();
    let all = "cat /c/a /c/d/b; ls /c/d";
    break_off(&mut daemon, &context, |_, client| client.kill().unwrap());
    context.file("a", "after the client");
    context.build(&daemon, "app:2").ok();
    assert_eq!(content(&daemon, "app:2", all), "after the client2b\n");
    break_off(&mut daemon, &context, |daemon, _| daemon.kill());
    daemon.restart();
    context.file("a", "after the daemon");
    context.build(&daemon, "app:3").ok();
    assert_eq!(content(&daemon, "app:3", all), "after the daemon2b\n");
    assert!(!mirror(&daemon).join("d/large").exists());
}
