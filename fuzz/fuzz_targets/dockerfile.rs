//! Dockerfiles: every byte sequence gets an answer, places lie in the file, and an instruction's text means the same alone.

#![no_main]

use std::collections::BTreeSet;

use palan_dockerfile::lint::{self, BaseImage};
use palan_dockerfile::scope::{Request, Values};
use palan_dockerfile::{Source, parse, parse_instruction};

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let source = Source::new("Dockerfile", bytes);
    let file = match parse(bytes) {
        Ok(file) => file,
        Err(error) => {
            assert!(error.span().start <= error.span().end, "{error:?}");
            let _ = error.render(&source);
            return;
        }
    };
    let lines = bytes.split(|byte| *byte == b'\n').count();
    let instructions = file.stages.iter().flat_map(|stage| &stage.instructions).chain(&file.arguments);
    for instruction in instructions {
        assert!(instruction.span.start <= instruction.span.end && instruction.span.end.line <= lines);
        assert!(source.excerpt(instruction.span).contains(">>>"));
        let is_alone = file.directives.escape == '\\' && !instruction.text.ends_with('\\') && !instruction.text.contains("<<");
        if is_alone {
            let again = parse_instruction(&instruction.text, instruction.span).expect("it was parsed before");
            assert_eq!(again.command, instruction.command);
        }
    }
    let platform = "linux/amd64".parse().expect("a platform");
    let build_args = Values::new();
    let request =
        Request { build_args: &build_args, build_platform: &platform, target_platform: &platform, target: None };
    let options = lint::Options {
        request,
        target: None,
        contexts: &BTreeSet::new(),
        config: None,
        base_image: &|_| Some(BaseImage::default()),
        is_ignored: Some(&|path| path.len() % 2 == 0),
    };
    let report = lint::check(&file, &options);
    for warning in report.warnings {
        assert!(source.excerpt(warning.span).contains(">>>"), "{warning:?}");
    }
    if let Some(error) = report.error {
        let _ = error.render(&source);
    }
});
