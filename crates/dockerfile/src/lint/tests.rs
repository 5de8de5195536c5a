//! Each rule, where it speaks and where it is silent.

use super::*;
use crate::parse_up_to_error;

fn report(text: &str, ignored: Option<&dyn Fn(&str) -> bool>) -> Report {
    let (file, _) = parse_up_to_error(text.as_bytes());
    let platform = "linux/amd64".parse().expect("a platform");
    let build_args = Values::new();
    let request = Request {
        build_args: &build_args,
        build_platform: &platform,
        target_platform: &platform,
        target: None,
    };
    let image = |name: &str| {
        (name != "unknown").then(|| BaseImage {
            environment: Environment::of_image(&["PATH=/bin".to_owned()]),
            platform: Some(
                if name == "arm" { "linux/arm64" } else { "linux/amd64" }.parse().expect("a platform"),
            ),
            has_shell: name == "shell",
        })
    };
    let options = Options {
        request,
        target: None,
        contexts: &BTreeSet::new(),
        config: None,
        base_image: &image,
        is_ignored: ignored,
    };
    check(&file, &options)
}

/// `line rule: message` of each warning.
#[track_caller]
fn check_warnings(text: &str, expected: &[&str]) {
    let found: Vec<String> = report(text, None)
        .warnings
        .iter()
        .map(|warning| format!("{} {}: {}", warning.span.start.line, warning.rule.name(), warning.message))
        .collect();
    assert_eq!(found, expected, "{text}");
}

#[test]
fn nothing_to_say() {
    check_warnings(
        "FROM a AS x\nARG v=1\nENV p=$v q=$PATH\nRUN $z\nFROM x\nENV p=$q\nCMD [\"a\"]\nWORKDIR /\nWORKDIR a\n",
        &[],
    );
}

#[test]
fn casing() {
    check_warnings(
        "from a as X\nRun b\nfrom c AS y\n",
        &[
            "1 StageNameCasing: Stage name 'X' should be lowercase",
            "2 ConsistentInstructionCasing: Command 'Run' should match the case of the command majority (lowercase)",
            "3 FromAsCasing: 'AS' and 'from' keywords' casing do not match",
        ],
    );
    check_warnings(
        "FROM a as x\nFrom b As y\nRUN c",
        &[
            "1 FromAsCasing: 'as' and 'FROM' keywords' casing do not match",
            "2 ConsistentInstructionCasing: Command 'From' should match the case of the command majority (uppercase)",
        ],
    );
}

#[test]
fn stage_names() {
    check_warnings(
        "FROM a AS context\nFROM a AS x\nFROM a AS X\n",
        &[
            "1 ReservedStageName: Stage name should not use the same name as reserved stage \"context\"",
            "3 StageNameCasing: Stage name 'X' should be lowercase",
            "3 DuplicateStageName: Duplicate stage name \"x\", stage names should be unique",
        ],
    );
}

#[test]
fn forms() {
    check_warnings(
        "FROM a\nMAINTAINER b\nENV c d\nLABEL e f\nCMD g\nENTRYPOINT h\nRUN i \\\n\n j\n",
        &[
            "2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label",
            "3 LegacyKeyValueFormat: \"ENV key=value\" should be used instead of legacy \"ENV key value\" format",
            "4 LegacyKeyValueFormat: \"LABEL key=value\" should be used instead of legacy \"LABEL key value\" format",
            "5 JSONArgsRecommended: JSON arguments recommended for CMD to prevent unintended behavior related to OS signals",
            "6 JSONArgsRecommended: JSON arguments recommended for ENTRYPOINT to prevent unintended behavior related to OS signals",
            "9 NoEmptyContinuation: Empty continuation line",
        ],
    );
    check_warnings("FROM a\nSHELL [\"b\"]\nCMD c\nFROM shell\nENTRYPOINT c", &[]);
}

#[test]
fn only_the_last_counts() {
    check_warnings(
        "FROM a AS x\nCMD [\"1\"]\nCMD [\"2\"]\nENTRYPOINT [\"3\"]\nHEALTHCHECK NONE\nHEALTHCHECK CMD 4\nFROM x\nCMD [\"5\"]",
        &[
            "2 MultipleInstructionsDisallowed: Multiple CMD instructions should not be used in the same stage because only the last one will be used",
            "5 MultipleInstructionsDisallowed: Multiple HEALTHCHECK instructions should not be used in the same stage because only the last one will be used",
        ],
    );
}

#[test]
fn variables() {
    check_warnings(
        "ARG version\nFROM a:${versoin:-1}\nARG foo\nENV bar=$fo$foo\nCOPY $PAHT /\nRUN --mount=target=$baz true",
        &[
            "2 UndefinedArgInFrom: FROM argument 'versoin' is not declared (did you mean version?)",
            "4 UndefinedVar: Usage of undefined variable '$fo'",
            "5 UndefinedVar: Usage of undefined variable '$PAHT' (did you mean $PATH?)",
            "6 UndefinedVar: Usage of undefined variable '$baz' (did you mean $bar?)",
        ],
    );
    check_warnings("FROM unknown\nENV a=$b\n", &[]);
    check_warnings("FROM scratch\nENV a=$PATH$b\n", &["2 UndefinedVar: Usage of undefined variable '$b'"]);
    check_warnings(
        "ARG tag\nFROM a:$tag",
        &[
            "2 InvalidDefaultArgInFrom: Default value for ARG a:$tag results in empty or invalid base image name",
        ],
    );
}

#[test]
fn platforms() {
    check_warnings(
        "FROM --platform=$TARGETPLATFORM a\nFROM --platform=linux/amd64 b\nFROM --platform=linux/amd64 b AS build_amd64\nFROM --platform=$BUILDPLATFORM b\nFROM arm\n",
        &[
            "1 RedundantTargetPlatform: Setting platform to predefined $TARGETPLATFORM in FROM is redundant as this is the default behavior",
            "2 FromPlatformFlagConstDisallowed: FROM --platform flag should not use constant value \"linux/amd64\"",
            "5 InvalidBaseImagePlatform: Base image arm was pulled with platform \"linux/arm64\", expected \"linux/amd64\" for current build",
        ],
    );
}

#[test]
fn secrets() {
    check_warnings(
        "FROM a\nARG GITHUB_TOKEN\nENV password=a monkey=b public_key=c AUTH_FILE=d\n",
        &[
            "2 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ARG \"GITHUB_TOKEN\")",
            "3 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"password\")",
        ],
    );
}

#[test]
fn workdir_and_ports() {
    check_warnings(
        "FROM a\nWORKDIR b\nWORKDIR c\nEXPOSE 80/TCP 127.0.0.1:1:2\n",
        &[
            "2 WorkdirRelativePath: Relative workdir \"b\" can have unexpected results if the base image changes",
            "4 ExposeInvalidFormat: EXPOSE instruction should not define an IP address or host-port mapping, found '127.0.0.1:1:2'",
            "4 ExposeProtoCasing: Defined protocol '80/TCP' in EXPOSE instruction should be lowercase",
        ],
    );
}

#[test]
fn descriptions_only_where_asked_for() {
    let text = "# wrong\nARG a\n# a right\nARG a\n# wrong\nFROM b AS c\n# wrong\nARG d e\n# wrong\n#\nARG f\n# wrong\nRUN x\n";
    check_warnings(text, &[]);
    check_warnings(
        &format!("# check=experimental=all\n{text}"),
        &[
            "3 InvalidDefinitionDescription: Comment for ARG should follow the format: `# a <description>`",
            "7 InvalidDefinitionDescription: Comment for FROM should follow the format: `# c <description>`",
            "9 InvalidDefinitionDescription: Comment for ARG should follow the format: `# <arg_key> <description>`",
        ],
    );
}

#[test]
fn files_that_the_ignore_file_leaves_out() {
    let ignored = |path: &str| path == "a/b" || path == ".";
    let report = report(
        "FROM x AS y\nFROM x\nCOPY ./a//b /\nADD . https://example.com/a/b /\nCOPY --from=y a/b /\nADD ok /",
        Some(&ignored),
    );
    let found: Vec<&str> = report.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(
        found,
        [
            "Attempting to Copy file \"a/b\" that is excluded by .dockerignore",
            "Attempting to Add file \".\" that is excluded by .dockerignore"
        ]
    );
}

#[test]
fn rules_can_be_skipped() {
    check_warnings(
        "# check=skip=MaintainerDeprecated,LegacyKeyValueFormat\nFROM a\nMAINTAINER b\nENV c d",
        &[],
    );
    check_warnings("# check=skip=all // everything\nFROM a\nMAINTAINER b", &[]);
    check_warnings(
        "FROM a\n# check=skip=SecretsUsedInArgOrEnv // here it is right\nENV token=b\nENV token=c",
        &["4 SecretsUsedInArgOrEnv: Do not use ARG or ENV instructions for sensitive data (ENV \"token\")"],
    );
}

#[test]
fn warnings_can_fail_the_build() {
    let failing = report("# check=error=true\nFROM a\nMAINTAINER b\nENV c d\nENV e f", None);
    assert_eq!(
        failing.failure.as_deref(),
        Some("lint violation found for rules: LegacyKeyValueFormat, MaintainerDeprecated")
    );
    assert_eq!(report("# check=error=true\nFROM a", None).failure, None);
    assert_eq!(report("FROM a\nMAINTAINER b", None).failure, None);
}

#[test]
fn warnings_come_in_front_of_a_mistake() {
    check_warnings(
        "FROM scratch AS Bad\nMAINTAINER me\nBADCMD\nMAINTAINER you",
        &[
            "1 StageNameCasing: Stage name 'Bad' should be lowercase",
            "2 MaintainerDeprecated: Maintainer instruction is deprecated in favor of using label",
        ],
    );
    let report = report("FROM --platform=$BULIDPLATFORM scratch", None);
    assert_eq!(report.warnings[0].rule, Rule::UndefinedArgInFrom);
    assert_eq!(
        report.error.expect("a mistake").to_string(),
        "empty platform value from expression $BULIDPLATFORM (did you mean BUILDPLATFORM?)"
    );
}

#[test]
fn options_of_checks() {
    let config = Config::parse("skip = A, B;experimental=all;error=1").expect("options");
    assert!(config.skip.contains("B") && config.experimental_all && config.error && !config.skip_all);
    assert_eq!(Config::parse(""), Ok(Config::default()));
    for (text, message) in [
        ("skip", "invalid check option \"skip\""),
        ("stop=a", "invalid check option \"stop\""),
        ("error=maybe", "failed to parse check option \"error=maybe\""),
    ] {
        assert_eq!(Config::parse(text).expect_err(text), message);
    }
}

#[test]
fn every_rule_has_a_page_but_one() {
    let without: Vec<Rule> = Rule::ALL.into_iter().filter(|rule| rule.url().is_none()).collect();
    assert_eq!(without, [Rule::InvalidBaseImagePlatform]);
    let names: BTreeSet<&str> = Rule::ALL.into_iter().map(Rule::name).collect();
    assert_eq!(names.len(), 22);
}
