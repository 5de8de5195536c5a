//! Which value a variable has where.

use super::*;
use crate::parse;

fn platform(text: &str) -> Platform {
    text.parse().expect("a platform")
}

fn values(pairs: &[(&str, &str)]) -> Values {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// The expanded commands of the last stage, each stage starting with `BASE=base`.
fn expand(
    text: &str,
    build_args: &[(&str, &str)],
) -> Result<(Vec<Command>, Vec<String>, Environment), DockerfileError> {
    let file = parse(text.as_bytes()).expect(text);
    let build_args = values(build_args);
    let (build, target) = (platform("linux/amd64"), platform("linux/arm/v7"));
    let request =
        Request { build_args: &build_args, build_platform: &build, target_platform: &target, target: None };
    let globals = Globals::new(&file, &request)?;
    let base = Environment::of_image(&["BASE=base".to_owned(), "EMPTY".to_owned()]);
    let mut scope = Scope::new(&file, &globals, &build_args, base);
    let mut unset = Vec::new();
    let mut commands = Vec::new();
    for instruction in &file.stages.last().expect("a stage").instructions {
        commands.push(scope.step(instruction, &mut |variable| unset.push(variable.name))?);
    }
    Ok((commands, unset, scope.environment().clone()))
}

/// The value of the last `ENV x=…`.
fn value(text: &str, build_args: &[(&str, &str)]) -> String {
    let (_, _, environment) = expand(text, build_args).expect(text);
    environment.get("x").unwrap_or("(unset)").to_owned()
}

#[test]
fn env_holds_for_what_follows_not_for_itself() {
    assert_eq!(value("FROM a\nENV v=1\nENV v=2 x=$v", &[]), "1");
    assert_eq!(value("FROM a\nENV x=$BASE-$EMPTY-", &[]), "base--");
    assert_eq!(value("FROM a\nENV n=x\nENV $n=1", &[]), "1");
    assert_eq!(value("FROM a\nENV x a  b", &[]), "a  b");
}

#[test]
fn args_have_scopes() {
    assert_eq!(value("ARG v=1\nFROM a\nENV x=$v", &[]), "");
    assert_eq!(value("ARG v=1\nFROM a\nARG v\nENV x=$v", &[]), "1");
    assert_eq!(value("ARG v=1\nFROM a\nARG v=2\nENV x=$v", &[]), "2");
    assert_eq!(value("ARG v=1\nFROM a\nARG v=2\nENV x=$v", &[("v", "3")]), "3");
    assert_eq!(value("FROM a\nENV x=$v", &[("v", "3")]), "");
    assert_eq!(value("FROM a\nARG v=${BASE}2 w=$v\nENV x=$w", &[]), "base2");
    assert_eq!(value("ARG a=1\nARG b=${a}2\nFROM a\nARG b\nENV x=$b", &[("a", "0")]), "02");
    assert_eq!(value("FROM a\nARG v=1\nENV v=2\nENV x=$v", &[("v", "3")]), "2");
}

#[test]
fn platforms_are_arguments_of_the_global_scope() {
    let text = "FROM a\nARG TARGETPLATFORM TARGETARCH TARGETVARIANT BUILDPLATFORM TARGETSTAGE\n\
                ENV x=$TARGETPLATFORM,$TARGETARCH,$TARGETVARIANT,$BUILDPLATFORM,$TARGETSTAGE";
    assert_eq!(value(text, &[]), "linux/arm/v7,arm,v7,linux/amd64,default");
    assert_eq!(value("FROM a\nENV x=$TARGETARCH", &[]), "");
    assert_eq!(value("FROM a\nARG TARGETARCH\nENV x=$TARGETARCH", &[("TARGETARCH", "mine")]), "mine");
}

#[test]
fn what_is_expanded_and_what_is_not() {
    let (commands, _, _) = expand(
        "FROM a\nCOPY --chown=$BASE --chmod=$EMPTY --exclude=$BASE $BASE/a <<f /$BASE\nit's \\$1 $BASE\nf\n\
         RUN echo $BASE\nCMD $BASE\nEXPOSE 80$EMPTY\nWORKDIR /$BASE\nUSER $BASE\nVOLUME [\"/$BASE\"]\n\
         STOPSIGNAL $BASE\nLABEL $BASE=$BASE\nADD --checksum=$BASE a b",
        &[],
    )
    .expect("it expands");
    let Command::Copy { files, .. } = &commands[0] else { panic!("no COPY") };
    assert_eq!((files.chown.as_deref(), files.chmod.as_deref()), (Some("base"), None));
    assert_eq!((files.sources[0].as_str(), files.destination.as_str()), ("base/a", "/base"));
    assert_eq!(files.exclude, ["$BASE"]);
    assert_eq!(files.inline[0].content, "it's $1 base\n");
    assert!(
        matches!(&commands[1], Command::Run(run) if run.command == crate::ast::CommandLine::Shell("echo $BASE".into()))
    );
    assert!(matches!(&commands[2], Command::Cmd(crate::ast::CommandLine::Shell(text)) if text == "$BASE"));
    assert!(matches!(&commands[4], Command::Workdir(path) if path == "/base"));
    assert!(matches!(&commands[7], Command::Stopsignal(signal) if signal == "base"));
    assert!(
        matches!(&commands[8], Command::Label(pairs) if pairs[0].name == "base" && pairs[0].value == "base")
    );
    assert!(matches!(&commands[9], Command::Add { checksum: Some(checksum), .. } if checksum == "base"));
}

#[test]
fn mounts_are_expanded() {
    let file = parse(b"FROM a\nRUN --mount=type=cache,target=/$BASE,id=$nope b").expect("a file");
    let none = Values::new();
    let (build, target) = (platform("linux/amd64"), platform("linux/amd64"));
    let request =
        Request { build_args: &none, build_platform: &build, target_platform: &target, target: None };
    let globals = Globals::new(&file, &request).expect("globals");
    let scope = Scope::new(&file, &globals, &none, Environment::of_image(&["BASE=base".to_owned()]));
    let Command::Run(run) = &file.stages[0].instructions[0].command else { panic!("no RUN") };
    let mut unset = Vec::new();
    let mounts = scope.mounts(run, Span::line(2), &mut |variable| unset.push(variable.name)).expect("mounts");
    assert_eq!((mounts[0].target.as_str(), mounts[0].id.as_deref()), ("/base", None));
    assert_eq!(unset, ["nope"]);
}

#[test]
fn what_is_not_set_is_told() {
    let (_, unset, _) =
        expand("FROM a\nARG declared\nENV x=$declared$nope y=${z:-1} w='$q'", &[]).expect("it expands");
    assert_eq!(unset, ["nope", "z"]);
    let error = expand("FROM a\n\nWORKDIR ${x:?must be given}", &[]).expect_err("not set");
    assert!(error.to_string().contains("x: must be given"), "{error}");
    assert_eq!(error.span().start.line, 3);
    assert!(expand("ARG a=${b\nFROM a", &[]).is_err());
}

#[test]
fn proxies() {
    assert!(is_proxy("HTTP_PROXY") && is_proxy("no_proxy") && !is_proxy("PROXY"));
}
