//! Whole files, every instruction, and their mistakes.

use std::time::Duration;

use super::*;
use crate::Source;
use crate::ast::*;
use crate::mount::Device;

fn parsed(text: &str) -> Dockerfile {
    parse(text.as_bytes()).unwrap_or_else(|error| panic!("{text}\n{error}"))
}

/// The commands of one stage.
fn commands(text: &str) -> Vec<Command> {
    let file = parsed(&format!("FROM scratch\n{text}\n"));
    file.stages[0].instructions.iter().map(|instruction| instruction.command.clone()).collect()
}

fn command(text: &str) -> Command {
    let [command] = <[Command; 1]>::try_from(commands(text)).expect(text);
    command
}

#[track_caller]
fn check_error(text: &str, line: usize, message: &str) {
    let error = parse(text.as_bytes()).expect_err(text);
    assert_eq!(error.to_string(), message, "{text}");
    assert_eq!(error.span().start.line, line, "{text}");
}

#[track_caller]
fn check_instruction_error(text: &str, message: &str) {
    check_error(
        &format!("FROM scratch\n{text}\n"),
        2,
        &format!("dockerfile parse error on line 2: {message}"),
    );
}

fn strings(items: &[&str]) -> Vec<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

fn shell(text: &str) -> CommandLine {
    CommandLine::Shell(text.to_owned())
}

fn exec(items: &[&str]) -> CommandLine {
    CommandLine::Exec(strings(items))
}

#[test]
fn a_whole_file() {
    let file = parsed(
        "# syntax=docker/dockerfile:1\n# escape=\\\n\n# version of the base\nARG version=12\nfrom --platform=$BUILDPLATFORM debian:$version AS Build\n\
         RUN make \\\n    all\n\nFROM scratch\nCOPY --from=build /a /b\n",
    );
    assert_eq!(file.directives.syntax.as_ref().map(|(text, _)| text.as_str()), Some("docker/dockerfile:1"));
    assert_eq!(file.arguments.len(), 1);
    assert_eq!(description(&file.arguments[0].comments, "version"), Some("of the base"));
    let [build, last] = file.stages.as_slice() else { panic!("{} stages", file.stages.len()) };
    assert_eq!((build.keyword.as_str(), build.as_keyword.as_deref()), ("from", Some("AS")));
    assert_eq!((build.name.as_deref(), build.id().as_deref()), (Some("Build"), Some("build")));
    assert_eq!((build.base.as_str(), build.platform.as_deref()), ("debian:$version", Some("$BUILDPLATFORM")));
    assert_eq!(build.instructions[0].text, "RUN make     all");
    let span = build.instructions[0].span;
    assert_eq!((span.start.line, span.end.line, span.end.column), (7, 8, 7));
    assert_eq!((last.base.as_str(), last.name.as_deref()), ("scratch", None));
    assert_eq!(last.instructions.len(), 1);
}

#[test]
fn copy_and_add() {
    let Command::Copy { files, from, parents } = command(
        "COPY --from=base --chown=1:2 --chmod=u+x --link --parents --exclude=*.o --exclude=tmp a ./b/ c/",
    ) else {
        panic!("no COPY")
    };
    let expected = Files {
        sources: strings(&["a", "./b/"]),
        destination: "c/".to_owned(),
        chown: Some("1:2".to_owned()),
        chmod: Some("u+x".to_owned()),
        link: true,
        exclude: strings(&["*.o", "tmp"]),
        ..Files::default()
    };
    assert_eq!((files, from.as_deref(), parents), (expected, Some("base"), true));

    let Command::Copy { files, parents, .. } = command(r#"COPY --parents=FALSE ["a b", "c"]"#) else {
        panic!("no COPY")
    };
    assert_eq!((files.sources, files.destination.as_str(), parents), (strings(&["a b"]), "c", false));

    let add = command("ADD --checksum=sha256:00 --keep-git-dir=true --unpack=false https://example.com/a /");
    let Command::Add { checksum, keep_git_dir, unpack, .. } = add else { panic!("no ADD") };
    assert_eq!((checksum.as_deref(), keep_git_dir, unpack), (Some("sha256:00"), Some(true), Some(false)));
}

#[test]
fn files_in_the_dockerfile() {
    let both = commands("COPY <<one <<-\"two\" path /dir/\n$a\n\tb\none\n\tc\n\ttwo\nRUN true");
    let Command::Copy { files, .. } = &both[0] else { panic!("no COPY") };
    let inline = |name: &str, content: &str, expand| Inline {
        name: name.to_owned(),
        content: content.to_owned(),
        expand,
    };
    assert_eq!(files.inline, [inline("one", "$a\n\tb\n", true), inline("two", "c\n", false)]);
    assert_eq!(files.sources, ["path"]);
    assert!(matches!(both[1], Command::Run(_)));
}

#[test]
fn run_with_everything() {
    let Command::Run(run) = command(
        "RUN --mount=type=cache,target=/c --mount=from=base,target=/b --network=none --security=insecure \
         --device=vendor.com/gpu,required make",
    ) else {
        panic!("no RUN")
    };
    assert_eq!(run.command, shell("make"));
    assert_eq!((run.network, run.security), (Network::None, Security::Insecure));
    assert_eq!(run.mounts.iter().map(|mount| mount.from()).collect::<Vec<_>>(), [None, Some("base")]);
    assert_eq!(run.devices, [Device { name: "vendor.com/gpu".to_owned(), required: true }]);
    let Command::Run(run) = command(r#"RUN ["a", "b"]"#) else { panic!("no RUN") };
    assert_eq!(run.script(), Script::Exec(strings(&["a", "b"])));
}

#[test]
fn heredocs_of_run() {
    let script = |text: &str| {
        let Command::Run(run) = command(text) else { panic!("no RUN") };
        run.script()
    };
    assert_eq!(script("RUN <<EOF\na\nb\nEOF"), Script::Shell("a\nb\n".to_owned()));
    assert_eq!(script("RUN <<-EOF\n\ta\nEOF"), Script::Shell("a\n".to_owned()));
    assert_eq!(
        script("RUN <<x\n#!/bin/tool\na\nx"),
        Script::Program { name: "x".to_owned(), content: "#!/bin/tool\na\n".to_owned() }
    );
    assert_eq!(
        script("RUN cat <<a <<-b | sort\n1\na\n\t2\n\tb"),
        Script::Shell("cat <<a <<-b | sort\n1\na\n\t2\nb".to_owned())
    );
    assert_eq!(script("RUN echo '<<EOF'"), Script::Shell("echo '<<EOF'".to_owned()));
    // Comments and continuations mean nothing in a heredoc.
    assert_eq!(script("RUN <<EOF\n# a\n\nb \\\nc\nEOF"), Script::Shell("# a\n\nb \\\nc\n".to_owned()));
}

#[test]
fn onbuild_keeps_its_text() {
    assert_eq!(command("ONBUILD  RUN a"), Command::Onbuild("RUN a".to_owned()));
    assert_eq!(
        command("onbuild copy <<x /x\nhello\nx"),
        Command::Onbuild("copy <<x /x\nhello\nx".to_owned())
    );
    let span = Span::line(7);
    let trigger = parse_instruction("copy <<x /x\nhello\nx", span).expect("a trigger");
    assert!(
        matches!(trigger.command, Command::Copy { ref files, .. } if files.inline[0].content == "hello\n")
    );
    assert_eq!(trigger.span, span);
    assert!(parse_instruction("RUN a\nRUN b", span).is_err());
    assert_eq!(parse_instruction("FOO", span).expect_err("unknown").span(), span);
    assert!(parse_instruction("# c\n", span).is_err());
}

#[test]
fn pairs_and_arguments() {
    let pair = |name: &str, value: &str, is_legacy| Pair {
        name: name.to_owned(),
        value: value.to_owned(),
        is_legacy,
    };
    assert_eq!(
        command("ENV a=1 b=\"2 3\""),
        Command::Env(vec![pair("a", "1", false), pair("b", "\"2 3\"", false)])
    );
    assert_eq!(command("LABEL a b=c d"), Command::Label(vec![pair("a", "b=c d", true)]));
    let argument =
        |name: &str, value: Option<&str>| Argument { name: name.to_owned(), value: value.map(str::to_owned) };
    assert_eq!(
        command("ARG a b= c=\"d e\""),
        Command::Arg(vec![argument("a", None), argument("b", Some("")), argument("c", Some("\"d e\""))])
    );
}

#[test]
fn health_checks() {
    assert_eq!(command("HEALTHCHECK none"), Command::Healthcheck(Healthcheck::None));
    assert_eq!(
        command(
            "HEALTHCHECK --interval=1m30s --timeout=0 --start-period=2s --start-interval=500ms --retries=3 CMD [\"a\"]"
        ),
        Command::Healthcheck(Healthcheck::Test {
            command: exec(&["a"]),
            interval: Some(Duration::from_secs(90)),
            timeout: None,
            start_period: Some(Duration::from_secs(2)),
            start_interval: Some(Duration::from_millis(500)),
            retries: Some(3),
        })
    );
    assert!(matches!(
        command("HEALTHCHECK cmd curl a || exit 1"),
        Command::Healthcheck(Healthcheck::Test { command, .. }) if command == shell("curl a || exit 1")
    ));
}

#[test]
fn the_others() {
    assert_eq!(command("CMD a b"), Command::Cmd(shell("a b")));
    assert_eq!(command("CMD []"), Command::Cmd(exec(&[])));
    assert_eq!(command("CMD [ \"a\", b ]"), Command::Cmd(shell("[ \"a\", b ]")));
    assert_eq!(command("ENTRYPOINT [\"a\"]"), Command::Entrypoint(exec(&["a"])));
    assert_eq!(command("SHELL [\"sh\", \"-c\"]"), Command::Shell(strings(&["sh", "-c"])));
    assert_eq!(command("EXPOSE 80 53/udp"), Command::Expose(strings(&["53/udp", "80"])));
    assert_eq!(command("MAINTAINER A <a@example.com>"), Command::Maintainer("A <a@example.com>".to_owned()));
    assert_eq!(command("STOPSIGNAL SIGINT"), Command::Stopsignal("SIGINT".to_owned()));
    assert_eq!(command("USER a:b"), Command::User("a:b".to_owned()));
    assert_eq!(command("VOLUME /a /b"), Command::Volume(strings(&["/a", "/b"])));
    assert_eq!(command("VOLUME [\"/a b\"]"), Command::Volume(strings(&["/a b"])));
    assert_eq!(command("WORKDIR /a b"), Command::Workdir("/a b".to_owned()));
}

#[test]
fn backtick_escapes() {
    let file = parsed("# escape=`\nFROM a\nRUN dir c:\\ `\n  /s\nENV a=b` c\n");
    assert_eq!(file.stages[0].instructions[0].text, "RUN dir c:\\   /s");
    let Command::Env(pairs) = &file.stages[0].instructions[1].command else { panic!("no ENV") };
    assert_eq!(pairs[0].value, "b` c");
}

#[test]
fn mistakes_in_instructions() {
    check_instruction_error("FRMO a", "unknown instruction: FRMO (did you mean FROM?)");
    check_instruction_error("whatever a", "unknown instruction: whatever");
    check_instruction_error(
        "COPY a",
        "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
    );
    check_instruction_error(
        "ADD",
        "ADD requires at least two arguments, but only one was provided. Destination could not be determined",
    );
    check_instruction_error("COPY --form=a b c", "unknown flag: --form (did you mean from?)");
    check_instruction_error("COPY --from b c", "missing a value on flag: --from");
    check_instruction_error("COPY --from=a --from=b c d", "duplicate flag specified: --from");
    check_instruction_error("COPY --link=maybe c d", "expecting boolean value for flag --link, not: maybe");
    check_instruction_error("COPY --link= c d", "missing a value on flag: --link");
    check_instruction_error("COPY a <<EOF\nEOF", "COPY cannot accept a heredoc as a destination");
    check_instruction_error(
        "COPY [1, \"a\"]",
        "when using JSON array syntax, arrays must be comprised of strings only",
    );
    check_instruction_error("ENV PATH", "ENV must have two arguments");
    check_instruction_error("ENV =a", "ENV names can not be blank");
    check_instruction_error("LABEL", "LABEL requires at least one argument");
    check_instruction_error("ARG", "ARG requires at least one argument");
    check_instruction_error("ARG =a", "ARG names can not be blank");
    check_instruction_error("ARG --default=a b", "unknown flag: --default");
    check_instruction_error("MAINTAINER --boo a", "unknown flag: --boo");
    check_instruction_error("USER", "USER requires exactly one argument");
    check_instruction_error("EXPOSE", "EXPOSE requires at least one argument");
    check_instruction_error("VOLUME [\" \"]", "VOLUME specified can not be an empty string");
    check_instruction_error("SHELL []", "SHELL requires at least one argument");
    check_instruction_error("SHELL sh -c", "SHELL requires the arguments to be in JSON form");
    check_instruction_error("ONBUILD ONBUILD RUN a", "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed");
    check_instruction_error("ONBUILD from a", "FROM isn't allowed as an ONBUILD trigger");
    check_instruction_error("RUN --network=bridge a", "invalid network mode \"bridge\"");
    check_instruction_error("RUN --security=none a", "security \"none\" is not valid");
    check_instruction_error(
        "RUN --mount=from=$a b",
        "'from' doesn't support variable expansion, define alias stage instead",
    );
    check_instruction_error("HEALTHCHECK", "HEALTHCHECK requires at least one argument");
    check_instruction_error("HEALTHCHECK run a", "Unknown type \"RUN\" in HEALTHCHECK (try CMD)");
    check_instruction_error("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD");
    check_instruction_error("HEALTHCHECK NONE a", "HEALTHCHECK NONE takes no arguments");
    check_instruction_error(
        "HEALTHCHECK --interval=1us CMD a",
        "Interval \"interval\" cannot be less than 1ms",
    );
    check_instruction_error("HEALTHCHECK --timeout=x CMD a", "time: invalid duration \"x\"");
    check_instruction_error("HEALTHCHECK --retries=-1 CMD a", "--retries cannot be negative (-1)");
    check_instruction_error("FROM", "FROM requires either one or three arguments");
    check_instruction_error("FROM a b c", "FROM requires either one or three arguments");
    check_instruction_error(
        "FROM a AS 1x",
        "invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
    );
}

#[test]
fn mistakes_in_files() {
    check_error("", 0, "the Dockerfile cannot be empty");
    check_error("\n# only\n", 2, "file with no instructions");
    check_error("ARG a\n", 1, "dockerfile contains no stages to build");
    check_error("RUN a\n", 1, "dockerfile parse error on line 1: no build stage in current context");
    check_error("FROM a\nRUN <<EOF\nx\n", 2, "unterminated heredoc: no line is \"EOF\"");
    check_error("FROM a\n\nRUN \0\n", 3, "line 3 has a NUL byte: this is not a Dockerfile");
    check_error("# escape=x\nFROM a", 1, "invalid escape token 'x' does not match ` or \\");
    check_error(
        &format!("FROM a\nRUN {}", "x".repeat(100_000)),
        2,
        "dockerfile line greater than max allowed size of 65535",
    );
    let many = "#\n".repeat(MAX_FILE);
    check_error(&many, 0, "the Dockerfile has 33554432 bytes; at most 16777216 are allowed");
    let many = format!("FROM a\n{}", "RUN a\n".repeat(crate::MAX_INSTRUCTIONS));
    check_error(&many, crate::MAX_INSTRUCTIONS + 1, "the Dockerfile has more than 20000 instructions");
}

#[test]
fn errors_show_the_place() {
    let text = "FROM scratch\nCOPY a \\\n  --form=b\nCOPY --form=b c d\n";
    let error = parse(text.as_bytes()).expect_err("a flag");
    let shown = error.render(&Source::new("Dockerfile", text.as_bytes()));
    assert_eq!(
        shown,
        "Dockerfile:4\n--------------------\n   2 |     COPY a \\\n   3 |       --form=b\n   4 | >>> COPY --form=b c d\n     |          ^^^^^^^^\n   5 |     \n--------------------\ndockerfile parse error on line 4: unknown flag: --form (did you mean from?)"
    );
}

#[test]
fn byte_order_marks_and_line_ends() {
    let file = parsed("\u{feff}FROM a\r\nRUN b \\\r\n c\r\n");
    assert_eq!(file.stages[0].instructions[0].text, "RUN b  c");
    let file = parse(b"# caf\xe9\nFROM a\n# \xff\n").expect("Latin-1 in comments");
    assert_eq!(file.stages.len(), 1);
}
