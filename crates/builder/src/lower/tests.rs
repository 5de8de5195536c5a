//! Which vertices come of which instructions, and what the image says.

use super::*;

fn base(on_build: &[&str]) -> BaseImage {
    let mut config = Image::scratch(&"linux/amd64".parse().expect("a platform")).config;
    config.config.env.push("BASE=1".to_owned());
    config.config.on_build = on_build.iter().map(|text| (*text).to_owned()).collect();
    BaseImage { manifest: Digest::of("manifest"), config }
}

fn lowered(
    text: &str,
    target: Option<&str>,
    args: &[(&str, &str)],
    images: &[(&str, BaseImage)],
) -> Result<Lowered, DockerfileError> {
    let file = palan_dockerfile::parse(text.as_bytes())?;
    let platform: Platform = "linux/amd64".parse().expect("a platform");
    let images = images
        .iter()
        .map(|(name, image)| {
            (ImageRequest { name: (*name).to_owned(), platform: "linux/amd64".to_owned() }, image.clone())
        })
        .collect();
    lower(&Build {
        file: &file,
        target,
        build_args: &args.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        build_platform: &platform,
        target_platform: &platform,
        contexts: &BTreeSet::new(),
        images: &images,
        no_cache: false,
        no_cache_filter: &BTreeSet::from(["fresh".to_owned()]),
        network: "",
        extra_hosts: &[],
        shows_platform: false,
    })
}

fn plan(text: &str) -> Plan {
    match lowered(text, None, &[("HTTP_PROXY", "p"), ("given", "yes")], &[("base", base(&[]))]) {
        Ok(Lowered::Plan(plan)) => *plan,
        other => panic!("{text}: {other:?}"),
    }
}

fn names(plan: &Plan) -> Vec<&str> {
    plan.vertices.iter().map(|vertex| vertex.name.as_str()).collect()
}

#[track_caller]
fn check_error(text: &str, message: &str) {
    let error = lowered(text, None, &[], &[]).expect_err(text);
    assert_eq!(error.to_string(), message, "{text}");
}

#[test]
fn images_are_asked_for_first() {
    let text = "FROM a\nFROM --platform=linux/arm64 b AS x\nFROM scratch\nCOPY --from=x / /\nRUN --mount=from=c,target=/c d";
    let Lowered::Needs(needs) = lowered(text, None, &[], &[]).expect("a plan") else {
        panic!("nothing needed")
    };
    let needs: Vec<(&str, &str)> =
        needs.iter().map(|need| (need.name.as_str(), need.platform.as_str())).collect();
    assert_eq!(needs, [("b", "linux/arm64"), ("c", "linux/amd64")]);
}

#[test]
fn instructions_become_vertices() {
    let plan = plan(
        "FROM base AS build\nENV A=1\nRUN make $A\nFROM scratch\nWORKDIR /app\nUSER u\nCOPY --from=build --chown=1 /out ./\nCOPY <<f x /\nhello\nf\nCMD [\"a\"]\n",
    );
    assert_eq!(
        names(&plan),
        [
            "[build 1/2] FROM base",
            "[build 2/2] RUN make $A",
            "[stage-1 1/3] WORKDIR /app",
            "[stage-1 2/3] COPY --from=build --chown=1 /out ./",
            "[stage-1 3/3] COPY <<f x /"
        ]
    );
    let Op::Run(run) = &plan.vertices[1].op else { panic!("no RUN") };
    assert_eq!(run.args, ["/bin/sh", "-c", "make $A"]);
    assert!(run.env.contains(&"A=1".to_owned()) && run.env.contains(&"BASE=1".to_owned()));
    assert_eq!(plan.vertices[1].inputs, [Input::Vertex(0)]);
    assert_eq!(plan.vertices[1].hidden_env, ["HTTP_PROXY=p"]);
    assert_eq!(plan.vertices[2].inputs, [Input::Scratch]);
    assert_eq!(plan.vertices[3].inputs, [Input::Vertex(2), Input::Vertex(1)]);
    let Op::Copy(copy) = &plan.vertices[3].op else { panic!("no COPY") };
    assert_eq!((copy.destination.as_str(), copy.owner.as_deref()), ("/app/", Some("1")));
    let Op::Copy(copy) = &plan.vertices[4].op else { panic!("no COPY") };
    assert_eq!(copy.inline, [("f".to_owned(), "hello\n".to_owned())]);
    assert_eq!(plan.vertices[4].inputs[1], Input::Context(String::new()));
    assert_eq!(plan.target, Input::Vertex(4));
    let config = &plan.config.config;
    assert_eq!((config.working_dir.as_str(), config.user.as_str()), ("/app", "u"));
    let history: Vec<&str> = plan.config.history.iter().map(|entry| entry.created_by.as_str()).collect();
    assert_eq!(
        history,
        [
            "WORKDIR /app",
            "USER u",
            "COPY --chown=1 /out ./ # buildkit",
            "COPY x <<f / # buildkit",
            "CMD [\"a\"]"
        ]
    );
}

#[test]
fn one_stage_has_no_name() {
    assert_eq!(names(&plan("FROM base\nRUN a\nrun b")), ["[1/3] FROM base", "[2/3] RUN a", "[3/3] RUN b"]);
    let many = plan(&format!("FROM scratch\n{}", "RUN a\n".repeat(10)));
    assert_eq!((names(&many)[0], names(&many)[9]), ("[ 1/10] RUN a", "[10/10] RUN a"));
}

#[test]
fn stages_that_nobody_needs_are_not_there() {
    let text = "FROM base AS a\nRUN x\nFROM scratch AS b\nRUN y\nFROM a\nRUN z";
    assert_eq!(plan(text).vertices.len(), 3);
    let Ok(Lowered::Plan(plan)) = lowered(text, Some("b"), &[], &[]) else { panic!("no plan") };
    assert_eq!(names(&plan), ["[b 1/1] RUN y"]);
}

#[test]
fn arguments_are_in_the_environment_and_the_history() {
    let plan = plan("FROM scratch\nARG given\nARG HTTP_PROXY\nARG none\nRUN a");
    let Op::Run(run) = &plan.vertices[0].op else { panic!("no RUN") };
    assert!(run.env.contains(&"given=yes".to_owned()));
    assert_eq!(
        plan.config.history.last().map(|entry| entry.created_by.as_str()),
        Some("RUN |2 given=yes none= /bin/sh -c a # buildkit")
    );
}

#[test]
fn proxies_change_no_key() {
    let key = |proxy: &str| {
        let text = "FROM scratch\nRUN a";
        let Ok(Lowered::Plan(plan)) = lowered(text, None, &[("https_proxy", proxy)], &[]) else {
            panic!("no plan")
        };
        plan.vertices[0].op.digest()
    };
    assert_eq!(key("a"), key("b"));
}

#[test]
fn mounts() {
    let plan = plan(
        "FROM base AS b\nRUN x\nFROM scratch\nWORKDIR /w\nRUN --mount=target=src --mount=from=b,source=/o,target=/b,rw \
         --mount=type=cache,target=/c --mount=type=cache,from=b,source=s,target=/d,id=i,sharing=locked,uid=3 --mount=type=tmpfs,target=/t,size=1m \
         --mount=type=secret,id=k --mount=type=secret,id=k,env=K,required --mount=type=ssh z",
    );
    let vertex = plan.vertices.last().expect("a vertex");
    let Op::Run(run) = &vertex.op else { panic!("no RUN") };
    assert_eq!(vertex.inputs[1..], [Input::Context(String::new()), Input::Vertex(1), Input::Vertex(1)]);
    let targets: Vec<Option<&str>> = run.mounts.iter().map(|mount| mount.target.as_deref()).collect();
    assert_eq!(
        targets,
        [
            Some("/w/src"),
            Some("/b"),
            Some("/c"),
            Some("/d"),
            Some("/t"),
            Some("/run/secrets/k"),
            None,
            Some("/run/buildkit/ssh_agent.3")
        ]
    );
    assert_eq!(run.mounts[0].kind, MountKind::Bind { input: 1, source: "/".to_owned() });
    assert!(run.mounts[0].read_only && !run.mounts[1].read_only);
    assert!(matches!(&run.mounts[2].kind, MountKind::Cache { id, seed: None, .. } if id == "/c"));
    assert!(
        matches!(&run.mounts[3].kind, MountKind::Cache { id, seed: Some((3, source)), owner, .. } if id == "i" && source == "/s" && owner.uid == 3)
    );
    assert_eq!(vertex.op.reads(2), ["/o"]);
    assert_eq!(vertex.op.reads(3), ["/s"]);
}

#[test]
fn triggers_of_bases_come_first() {
    let images = [("base", base(&["RUN from-image", "COPY --from=other /a /b"])), ("other", base(&[]))];
    let text = "FROM base AS a\nONBUILD RUN from-stage\nRUN own\nFROM a\nRUN last";
    let Lowered::Needs(needs) = lowered(text, None, &[], &images[..1]).expect("a plan") else {
        panic!("no need")
    };
    assert_eq!(needs[0].name, "other");
    let Ok(Lowered::Plan(plan)) = lowered(text, None, &[], &images) else { panic!("no plan") };
    let names: Vec<&str> =
        names(&plan).into_iter().map(|name| name.split("] ").nth(1).expect("a name")).collect();
    assert_eq!(
        names,
        ["FROM base", "RUN from-image", "COPY --from=other /a /b", "RUN own", "RUN from-stage", "RUN last"]
    );
    assert!(plan.config.config.on_build.is_empty());
}

#[test]
fn stages_can_be_fresh() {
    let plan = plan("FROM base AS fresh\nRUN a\nFROM fresh\nRUN b");
    let fresh: Vec<bool> = plan.vertices.iter().map(|vertex| vertex.ignore_cache).collect();
    assert_eq!(fresh, [false, true, false]);
}

#[test]
fn scripts_in_heredocs() {
    let plan = plan("FROM scratch\nRUN <<EOF\n#!/usr/bin/env python3\nprint(1)\nEOF\n");
    let Op::Run(run) = &plan.vertices[0].op else { panic!("no RUN") };
    assert_eq!(run.args, ["/dev/pipes/EOF"]);
    assert_eq!(run.program, Some(("EOF".to_owned(), "#!/usr/bin/env python3\nprint(1)\n".to_owned())));
    assert_eq!(plan.vertices[0].name, "[1/1] RUN <<EOF (#!/usr/bin/env python3...)");
}

#[test]
fn add_fetches_and_unpacks() {
    let digest = Digest::of("x");
    let plan = plan(&format!(
        "FROM scratch\nADD a.tar https://me:secret@h/d/b.tar?x git@h:c.git#v1 /\nADD --unpack=false a.tar /\nADD --checksum={digest} --unpack https://h /x"
    ));
    assert_eq!(
        names(&plan),
        [
            "[internal] load https://xxxxx:xxxxx@h/d/b.tar?x",
            "[internal] load git@h:c.git#v1",
            "[1/3] ADD a.tar https://xxxxx:xxxxx@h/d/b.tar?x git@h:c.git#v1 /",
            "[2/3] ADD --unpack=false a.tar /",
            "[internal] load https://h",
            &format!("[3/3] ADD --checksum={digest} --unpack https://h /x"),
        ]
    );
    assert!(plan.config.history.iter().all(|entry| !entry.created_by.contains("secret")));
    let copy = |number: usize| match &plan.vertices[number].op {
        Op::Copy(copy) => copy
            .sources
            .iter()
            .map(|source| (source.input, source.path.as_str(), source.unpack))
            .collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(copy(2), [(1, "a.tar", true), (2, "b.tar", false), (3, ".", false)]);
    assert_eq!(copy(3), [(1, "a.tar", false)]);
    assert_eq!(copy(5), [(2, "__unnamed__", true)]);
    assert!(
        matches!(&plan.vertices[1].op, Op::Remote(Remote::Git { reference: Some(reference), submodules: true, .. }) if reference == "v1")
    );
    assert!(
        matches!(&plan.vertices[4].op, Op::Remote(Remote::Http { checksum: Some(found), .. }) if *found == digest)
    );
}

#[test]
fn mistakes() {
    let error =
        lowered("# syntax=example/frontend\nFROM scratch", None, &[], &[]).expect_err("another frontend");
    assert!(error.to_string().contains("\"example/frontend\" of the syntax directive is not supported"));
    check_error(
        "FROM scratch\nCOPY <<../x /\na\n../x",
        "the heredoc's name \"../x\" can't be the name of a file",
    );
    check_error(
        "FROM scratch\nRUN <<a/b\n#!/bin/sh\na/b",
        "the heredoc's name \"a/b\" can't be the name of a file",
    );
    check_error("FROM scratch\nADD --checksum=x a /", "checksum requires HTTP(S) or Git sources");
    check_error(
        "FROM scratch\nADD --checksum=x git@h:a b /",
        "checksum can't be specified for multiple sources",
    );
    check_error(
        "FROM scratch\nADD --checksum=aa git@h:a?checksum=bb /",
        "checksum mismatch \"aa\" != \"bb\"",
    );
    check_error(
        "FROM scratch\nADD --keep-git-dir git@h:a?keep-git-dir=false /",
        "inconsistent keep-git-dir configuration",
    );
    check_error(
        "FROM scratch\nADD git@h:a#-x /",
        "invalid remote source \"git@h:a#-x\": the reference \"-x\" begins with '-'",
    );
    check_error("FROM scratch\nCOPY https://h/a /", "source can't be a URL or a git ref for COPY");
    check_error(
        "FROM scratch\nCOPY --chmod=999 a /",
        "invalid chmod parameter: '999'. it should be octal string and between 0 and 07777",
    );
    check_error("FROM scratch\nRUN --mount=target=/ a", "invalid mount target \"/\"");
    check_error("FROM scratch\nSTOPSIGNAL NOPE", "invalid signal: NOPE");
    check_error("FROM scratch\nVOLUME $a", "VOLUME specified can not be an empty string");
}

#[test]
fn commands_run_on_what_their_base_is_for() {
    let text = "FROM base AS tools\nFROM tools\nRUN a\n";
    let file = palan_dockerfile::parse(text.as_bytes()).expect("a Dockerfile");
    let (host, target): (Platform, Platform) =
        ("linux/amd64".parse().expect("one"), "linux/arm64".parse().expect("one"));
    let request = ImageRequest { name: "base".to_owned(), platform: "linux/arm64".to_owned() };
    let lowered = lower(&Build {
        file: &file,
        target: None,
        build_args: &BTreeMap::new(),
        build_platform: &host,
        target_platform: &target,
        contexts: &BTreeSet::new(),
        images: &BTreeMap::from([(request, base(&[]))]),
        no_cache: false,
        no_cache_filter: &BTreeSet::new(),
        network: "",
        extra_hosts: &[],
        shows_platform: true,
    });
    let Ok(Lowered::Plan(plan)) = lowered else { panic!("no plan: {lowered:?}") };
    assert_eq!(names(&plan), ["[linux/arm64 tools 1/1] FROM base", "[linux/amd64 stage-1 1/1] RUN a"]);
    let Op::Run(run) = &plan.vertices[1].op else { panic!("{:?}", plan.vertices[1]) };
    assert_eq!(run.platform, "linux/amd64");
}
