//! What needs what, and what can't.

use super::*;
use crate::parse;
use crate::scope::{Request, Values};

fn graph(text: &str, target: Option<&str>, contexts: &[&str]) -> Result<Graph, DockerfileError> {
    let file = parse(text.as_bytes()).expect(text);
    let platform = "linux/amd64".parse().expect("a platform");
    let build_args = Values::from([("given".to_owned(), "yes".to_owned())]);
    let request =
        Request { build_args: &build_args, build_platform: &platform, target_platform: &platform, target };
    let globals = Globals::new(&file, &request).expect(text);
    let contexts = contexts.iter().map(|name| (*name).to_owned()).collect();
    resolve(&file, &globals, &Options { target, contexts: &contexts, all: false })
}

#[track_caller]
fn check_error(text: &str, line: usize, message: &str) {
    let error = graph(text, None, &[]).expect_err(text);
    assert_eq!((error.to_string().as_str(), error.span().start.line), (message, line), "{text}");
}

fn needed(text: &str, target: Option<&str>) -> Vec<usize> {
    graph(text, target, &[]).expect(text).needed.into_iter().collect()
}

#[test]
fn bases() {
    let graph = graph(
        "ARG given\nARG tag=1\nFROM debian:$tag AS Base\nFROM base\nFROM scratch\nFROM other\nFROM $given",
        None,
        &["other"],
    )
    .expect("a graph");
    let bases: Vec<&Origin> = graph.stages.iter().map(|stage| &stage.base).collect();
    assert_eq!(
        bases,
        [
            &Origin::Image("debian:1".to_owned()),
            &Origin::Stage(0),
            &Origin::Scratch,
            &Origin::Context("other".to_owned()),
            &Origin::Image("yes".to_owned())
        ]
    );
}

#[test]
fn only_what_is_needed() {
    let text = "FROM a AS one\nFROM b AS two\nFROM c AS three\nCOPY --from=one / /\nFROM d\nRUN --mount=from=Three,target=/x y\n";
    assert_eq!(needed(text, None), [0, 2, 3]);
    assert_eq!(needed(text, Some("TWO")), [1]);
    assert_eq!(needed(text, Some("three")), [0, 2]);
    assert_eq!(needed("FROM a AS x\nFROM x\nCOPY --from=0 a b", None), [0, 1]);
}

#[test]
fn a_name_means_the_last_stage_above_for_from_and_the_last_of_all_else() {
    let text = "FROM a AS x\nFROM b AS x\nFROM x\nCOPY --from=x a b";
    let graph = graph(text, None, &[]).expect("a graph");
    assert_eq!(graph.stages[2].base, Origin::Stage(1));
    assert_eq!(graph.stages[2].uses, [(0, vec![Origin::Stage(1)])]);
}

#[test]
fn names_of_images_and_contexts() {
    let text = "FROM a AS x\nRUN nothing\nCOPY --from=x a b\nFROM scratch\nCOPY --from=alpine:3 a b\nCOPY --from=data a b\nCOPY --from=x a b";
    let graph = graph(text, None, &["data", "x"]).expect("a graph");
    assert!(graph.stages[0].is_replaced && graph.stages[0].uses.is_empty());
    assert_eq!(graph.stages[0].base, Origin::Context("x".to_owned()));
    assert_eq!(
        graph.stages[1].uses,
        [
            (0, vec![Origin::Image("alpine:3".to_owned())]),
            (1, vec![Origin::Context("data".to_owned())]),
            (2, vec![Origin::Stage(0)])
        ]
    );
}

#[test]
fn mistakes() {
    check_error("FROM a AS x\nCOPY --from=x b c", 2, "circular dependency detected on stage: x");
    check_error("FROM a\nCOPY --from=0 b c", 2, "circular dependency detected on stage: stage-0");
    check_error(
        "FROM a AS x\nCOPY --from=y b c\nFROM b AS y\nCOPY --from=x b c",
        4,
        "circular dependency detected on stage: x",
    );
    check_error("FROM a AS x\nCOPY --from=y b c\nFROM x AS y", 3, "circular dependency detected on stage: x");
    check_error("FROM a\nCOPY --from=3 b c", 2, "invalid stage index 3");
    check_error(
        "FROM a AS x\nCOPY --from=y b c\nFROM b AS y\nFROM x",
        2,
        "cannot copy from stage \"y\", it needs to be defined before current stage \"x\"",
    );
    check_error(
        "FROM a AS x\nRUN --mount=from=y,target=/a b\nFROM b AS y\nFROM x",
        2,
        "cannot mount from stage \"y\", stage needs to be defined before current command",
    );
    check_error("ARG e\nFROM $e", 2, "base name ($e) should not be blank");
    check_error("FROM --platform=$e a", 1, "empty platform value from expression $e");
    check_error(
        "FROM --platform=$BULIDPLATFORM a",
        1,
        "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)",
    );
    check_error(
        "FROM a\nCOPY --from=$x b c",
        2,
        "variable expansion is not supported for --from, define a new stage with FROM using ARG from global scope as a workaround",
    );
    let error = graph("FROM a AS build", Some("biuld"), &[]).expect_err("no such target");
    assert_eq!(error.to_string(), "target stage \"biuld\" could not be found (did you mean build?)");
    let error = graph("FROM --platform=linux/a/b/c a", None, &[]).expect_err("no platform").to_string();
    assert!(error.starts_with("failed to parse platform linux/a/b/c"), "{error}");
}

#[test]
fn many_stages_need_no_stack() {
    let mut text = "FROM a AS s0\n".to_owned();
    for index in 1..10_000 {
        text.push_str(&format!("FROM s{} AS s{index}\n", index - 1));
    }
    assert_eq!(needed(&text, None).len(), 10_000);
}
