//! What is executed, what is found, and what happens when something goes wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::time::SystemTime;

use palan_dockerfile::scope::Values;
use palan_oci::Platform;

use super::*;
use crate::image::Image;
use crate::lower::{BaseImage, Build, ImageRequest, Lowered, lower};
use crate::testing::Fake;

fn plan_of(text: &str, no_cache: bool) -> Plan {
    let file = palan_dockerfile::parse(text.as_bytes()).expect(text);
    let platform: Platform = "linux/amd64".parse().expect("a platform");
    let image = BaseImage { manifest: Digest::of("base"), config: Image::scratch(&platform).config };
    let request = ImageRequest { name: "base".to_owned(), platform: platform.to_string() };
    let lowered = lower(&Build {
        file: &file,
        target: None,
        build_args: &Values::new(),
        build_platform: &platform,
        target_platform: &platform,
        contexts: &BTreeSet::new(),
        images: &BTreeMap::from([(request, image)]),
        no_cache,
        no_cache_filter: &BTreeSet::new(),
        network: "",
        extra_hosts: &[],
        shows_platform: false,
    });
    match lowered {
        Ok(Lowered::Plan(plan)) => *plan,
        other => panic!("{text}: {other:?}"),
    }
}

fn build(fake: &Fake, text: &str) -> Material {
    let solver = Solver::new(fake.cache(), 4);
    solver
        .solve(fake.backend(), &plan_of(text, false), &Nobody, &Cancel::new())
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .files
}

fn fail(fake: &Fake, text: &str) -> SolveError {
    let solver = Solver::new(fake.cache(), 4);
    solver.solve(fake.backend(), &plan_of(text, false), &Nobody, &Cancel::new()).expect_err(text)
}

#[test]
fn a_build_makes_files() {
    let fake = Fake::new();
    fs::write(fake.context_file("src/a"), "from the context").expect("a file");
    let files = build(
        &fake,
        "FROM base AS b\nCOPY src /src/\nRUN copy /src/a /made\nFROM scratch\nCOPY --from=b /made /image /\nCOPY <<x /\nhello\nx\nRUN --mount=from=b,target=/m copy /m/made /mounted",
    );
    assert_eq!(fake.read(&files, "made"), "from the context");
    assert_eq!(fake.read(&files, "mounted"), "from the context");
    assert_eq!(fake.read(&files, "image"), "base");
    assert_eq!(fake.read(&files, "x"), "hello\n");
}

#[test]
fn nothing_is_executed_twice() {
    let fake = Fake::new();
    fs::write(fake.context_file("a"), "a").expect("a file");
    let text = "FROM base\nCOPY a /\nRUN write /b b";
    build(&fake, text);
    assert_eq!(fake.executed(), ["copy a to /", "pull base", "run write /b b"]);
    build(&fake, text);
    assert!(fake.executed().is_empty());
    build(&fake, &format!("{text}\nRUN write /c c"));
    assert_eq!(fake.executed(), ["run write /c c"]);
}

#[test]
fn what_changed_is_executed_and_what_is_on_it() {
    let fake = Fake::new();
    fs::write(fake.context_file("a"), "a").expect("a file");
    fs::write(fake.context_file("b"), "b").expect("a file");
    let text = "FROM scratch\nRUN write /x x\nCOPY a /\nCOPY b /\nRUN write /y y";
    build(&fake, text);
    fake.executed();
    fs::write(fake.context_file("b"), "changed").expect("a file");
    build(&fake, text);
    assert_eq!(fake.executed(), ["copy b to /", "run write /y y"]);
    fs::File::open(fake.context_file("a"))
        .expect("a file")
        .set_modified(SystemTime::UNIX_EPOCH)
        .expect("a time");
    fs::write(fake.context_file("other"), "").expect("a file");
    build(&fake, text);
    assert!(
        fake.executed().is_empty(),
        "touching a file and adding another that nobody copies changes nothing"
    );
    fs::set_permissions(fake.context_file("b"), fs::Permissions::from_mode(0o700)).expect("a mode");
    build(&fake, text);
    assert_eq!(fake.executed(), ["copy b to /", "run write /y y"]);
}

#[test]
fn a_stage_that_comes_to_the_same_files_changes_nothing() {
    let fake = Fake::new();
    let text = |comment: &str| {
        format!(
            "FROM scratch AS s\nENV C={comment}\nRUN write /out same\nFROM scratch\nCOPY --from=s /out /\nRUN write /end end"
        )
    };
    build(&fake, &text("1"));
    assert_eq!(fake.executed().len(), 3);
    build(&fake, &text("2"));
    assert_eq!(fake.executed(), ["run write /out same"]);
    // And now it is known without a look at the stage.
    build(&fake, &text("2"));
    assert!(fake.executed().is_empty());
}

#[test]
fn what_is_elsewhere_is_asked_for_each_time_and_fetched_when_it_changed() {
    let fake = Fake::new();
    let text = "FROM scratch\nADD https://h/remote /\nRUN copy /remote /copy";
    let files = build(&fake, text);
    assert_eq!(fake.read(&files, "copy"), "");
    assert_eq!(
        fake.executed(),
        ["copy remote to /", "fetch https://h/remote", "pin https://h/remote", "run copy /remote /copy"]
    );
    build(&fake, text);
    assert_eq!(fake.executed(), ["pin https://h/remote"]);
    "new".clone_into(&mut lock(&fake.remote_content));
    let files = build(&fake, text);
    assert_eq!(fake.read(&files, "copy"), "new");
    assert_eq!(fake.executed().len(), 4);
}

#[test]
fn stages_are_built_side_by_side() {
    let fake = Fake::new();
    // Each waits for the other.
    build(
        &fake,
        "FROM scratch AS a\nRUN <<E\nwait x\nwrite /a a\nE\nFROM scratch AS b\nRUN <<E\nwait x\nwrite /b b\nE\nFROM scratch\nCOPY --from=a /a /\nCOPY --from=b /b /",
    );
    assert_eq!(fake.executed().len(), 4);
}

#[test]
fn the_cache_can_be_left_aside() {
    let fake = Fake::new();
    let text = "FROM base\nRUN write /a a";
    build(&fake, text);
    fake.executed();
    let solver = Solver::new(fake.cache(), 1);
    solver.solve(fake.backend(), &plan_of(text, true), &Nobody, &Cancel::new()).expect("a build");
    assert_eq!(fake.executed(), ["run write /a a"]);
}

#[test]
fn layers_that_are_gone_are_made_again() {
    let fake = Fake::new();
    let text = "FROM scratch\nRUN write /a a\nRUN write /b b";
    let files = build(&fake, text);
    fake.executed();
    fake.forget(&files);
    let files = build(&fake, text);
    assert_eq!(fake.executed(), ["run write /b b"]);
    assert_eq!(fake.read(&files, "a"), "a");
}

#[test]
fn a_failure_names_its_vertex_and_stops_the_others() {
    let fake = Fake::new();
    let text = "FROM scratch AS a\nRUN hang\nFROM scratch AS b\nRUN fail 7\nFROM scratch\nCOPY --from=a / /\nCOPY --from=b / /";
    let error = fail(&fake, text);
    assert_eq!(
        error.to_string(),
        "failed to solve: process \"fail 7\" did not complete successfully: exit code: 7"
    );
    let vertex = &plan_of(text, false).vertices[error.vertex.expect("a vertex")];
    assert_eq!((vertex.name.as_str(), vertex.span.start.line), ("[b 1/1] RUN fail 7", 4));
    // A failure is not kept.
    fail(&fake, text);
    assert!(fake.executed().contains(&"run fail 7".to_owned()));
}

#[test]
fn a_file_that_is_not_there() {
    let error = fail(&Fake::new(), "FROM scratch\nRUN write /a a\nCOPY none /");
    assert_eq!(error.to_string(), "failed to solve: \"/none\": not found");
    assert_eq!(error.vertex, Some(1));
}

#[test]
fn a_build_can_be_cancelled() {
    let fake = Fake::new();
    let solver = Solver::new(fake.cache(), 2);
    let cancel = Cancel::new();
    struct OnStart<'a>(&'a Cancel);
    impl Observer for OnStart<'_> {
        fn output(&self, _id: VertexId, _stream: Stream, _bytes: &[u8]) {
            self.0.cancel();
        }
    }
    let error = solver.solve(
        fake.backend(),
        &plan_of("FROM scratch\nRUN hang\nRUN write /a a", false),
        &OnStart(&cancel),
        &cancel,
    );
    assert!(matches!(error.expect_err("cancelled").source, StepError::Cancelled));
    assert_eq!(fake.executed(), ["run hang"]);
}

#[test]
fn builds_at_the_same_time_share_their_steps() {
    let fake = Fake::new();
    let solver = Solver::new(fake.cache(), 2);
    let plan = plan_of("FROM base\nRUN write /a a\nRUN write /b b", false);
    let results: Vec<Material> = thread::scope(|scope| {
        let builds: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| solver.solve(fake.backend(), &plan, &Nobody, &Cancel::new())))
            .collect();
        builds.into_iter().map(|build| build.join().expect("a thread").expect("a build").files).collect()
    });
    assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fake.executed(), ["pull base", "run write /a a", "run write /b b"]);
}

#[test]
fn builds_share_their_steps_also_where_they_take_nothing_from_the_cache() {
    let fake = Fake::new();
    fake.refuses_cache.store(true, std::sync::atomic::Ordering::SeqCst);
    let solver = Solver::new(fake.cache(), 2);
    let plan = plan_of("FROM base\nRUN write /a a\nRUN write /b b", false);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                solver.solve(fake.backend(), &plan, &Nobody, &Cancel::new()).expect("a build");
            });
        }
    });
}

#[test]
fn a_mounts_source_is_no_pattern() {
    let fake = Fake::new();
    fs::write(fake.context_file("[a]/f"), "1").expect("a file");
    fs::write(fake.context_file("a/f"), "1").expect("a file");
    let text = "FROM base\nRUN --mount=source=/[a],target=/m copy /m/f /x";
    build(&fake, text);
    fake.executed();
    fs::write(fake.context_file("a/f"), "2").expect("a file");
    build(&fake, text);
    assert!(fake.executed().is_empty(), "it mounts another directory");
    fs::write(fake.context_file("[a]/f"), "2").expect("a file");
    build(&fake, text);
    assert_eq!(fake.executed(), ["run copy /m/f /x"]);
}

#[test]
fn observers_hear_what_happens() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Observer for Heard {
        fn output(&self, _id: VertexId, _stream: Stream, bytes: &[u8]) {
            lock(&self.0).push(format!("output {}", String::from_utf8_lossy(bytes)));
        }
        fn finished(&self, _id: VertexId, vertex: &Vertex, origin: Origin, _result: Option<&Snapshot>) {
            lock(&self.0).push(format!("{origin:?} {}", vertex.name));
        }
    }
    let fake = Fake::new();
    let solver = Solver::new(fake.cache(), 1);
    let plan = plan_of("FROM base\nRUN write /a a", false);
    let heard = Heard::default();
    solver.solve(fake.backend(), &plan, &heard, &Cancel::new()).expect("a build");
    solver.solve(fake.backend(), &plan, &heard, &Cancel::new()).expect("a build");
    assert_eq!(
        *lock(&heard.0),
        [
            "Executed [1/2] FROM base",
            "output write /a a",
            "Executed [2/2] RUN write /a a",
            "Cached [1/2] FROM base",
            "Cached [2/2] RUN write /a a"
        ]
    );
}

#[test]
fn scratch_alone_is_an_empty_image() {
    let files = build(&Fake::new(), "FROM scratch\nENV a=b");
    assert_eq!(files, Material::Snapshot(Snapshot::default()));
}

const STAGES: &str = "FROM base AS made\nCOPY src /src/\nRUN copy /src/a /made\n\
    FROM base\nCOPY --from=made /made /made\nRUN write /b b";

fn keyed(fake: &Fake, text: &str) -> Vec<Keyed> {
    let (solver, plan, cancel) = (Solver::new(fake.cache(), 2), plan_of(text, false), Cancel::new());
    let solved = solver.solve(fake.backend(), &plan, &Nobody, &cancel).expect("a build");
    solver.keyed(fake.backend(), &plan, &solved, &cancel)
}

#[test]
fn results_have_the_same_keys_however_they_were_come_by() {
    let fake = Fake::new();
    fs::write(fake.context_file("src/a"), "a").expect("a file");
    let executed = keyed(&fake, STAGES);
    let keys: Vec<usize> = executed.iter().map(|keyed| keyed.keys.len()).collect();
    assert_eq!(keys, [2, 2, 2, 2], "no image is among them");
    assert_eq!(keyed(&fake, STAGES), executed, "from the cache");
    fake.export(executed.clone());
    fake.executed();
    let brought = keyed(&fake, STAGES);
    assert_eq!(fake.executed(), ["bring", "pull base"]);
    // The stage was not brought, so what of it is taken can't be looked at.
    assert!(brought.len() == 4 && brought[2].keys == executed[2].keys[..1], "{brought:?}");
    assert_eq!(brought[3], executed[3]);
}

#[test]
fn what_is_elsewhere_is_brought_once() {
    let fake = Fake::new();
    fs::write(fake.context_file("src/a"), "a").expect("a file");
    let first = keyed(&fake, STAGES);
    fake.export(first);
    fake.executed();
    let files = build(&fake, STAGES);
    assert_eq!((fake.read(&files, "made"), fake.executed()), ("a".to_owned(), vec!["bring".to_owned()]));
    build(&fake, STAGES);
    assert_eq!(fake.executed(), [""; 0], "it is recorded here");
    // Another last step: the one before it is looked for, and no further.
    build(&fake, &STAGES.replace("write /b b", "write /c c"));
    assert_eq!(fake.executed(), ["bring", "run write /c c"]);
}

#[test]
fn what_cannot_be_brought_is_made() {
    let fake = Fake::new();
    fs::write(fake.context_file("src/a"), "a").expect("a file");
    let first = keyed(&fake, STAGES);
    fake.export(first);
    fake.is_reachable.store(false, std::sync::atomic::Ordering::SeqCst);
    fake.executed();
    let files = build(&fake, STAGES);
    assert_eq!(fake.read(&files, "b"), "b");
    assert!(fake.executed().contains(&"run copy /src/a /made".to_owned()));
}
