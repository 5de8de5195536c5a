//! The file as a whole.

use crate::ast::{Command, Dockerfile, Instruction};
use crate::heredoc::{self, Heredoc};
use crate::instruction::{Parts, can_have_heredocs};
use crate::lines::{Logical, Reader};
use crate::{DockerfileError, MAX_FILE, MAX_INSTRUCTIONS, Position, Span, flags};

/// Parses a Dockerfile.
pub fn parse(bytes: &[u8]) -> Result<Dockerfile, DockerfileError> {
    match parse_up_to_error(bytes) {
        (file, None) => Ok(file),
        (_, Some(error)) => Err(error),
    }
}

/// Parses a Dockerfile, and returns what stands in front of a mistake with it: there may be something to warn of. Without an error
/// there is at least one stage.
pub fn parse_up_to_error(bytes: &[u8]) -> (Dockerfile, Option<DockerfileError>) {
    let mut file = Dockerfile {
        directives: crate::Directives::default(),
        arguments: Vec::new(),
        stages: Vec::new(),
        empty_continuations: Vec::new(),
    };
    let error = fill(bytes, &mut file).err();
    (file, error)
}

fn fill(bytes: &[u8], file: &mut Dockerfile) -> Result<(), DockerfileError> {
    if bytes.len() > MAX_FILE {
        let message = format!("the Dockerfile has {} bytes; at most {MAX_FILE} are allowed", bytes.len());
        return Err(DockerfileError::new(Span::default(), message));
    }
    if let Some(offset) = bytes.iter().position(|byte| *byte == 0) {
        let line = 1 + bytes[..offset].iter().filter(|byte| **byte == b'\n').count();
        let message = format!("line {line} has a NUL byte: this is not a Dockerfile");
        return Err(DockerfileError::new(Span::line(line), message));
    }
    if bytes.is_empty() {
        return Err(DockerfileError::new(Span::default(), "the Dockerfile cannot be empty"));
    }
    let mut reader = Reader::new(bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes));
    let mut count = 0;
    while let Some(logical) = reader.next()? {
        reader.directives().clone_into(&mut file.directives);
        count += 1;
        if count > MAX_INSTRUCTIONS {
            let message = format!("the Dockerfile has more than {MAX_INSTRUCTIONS} instructions");
            return Err(DockerfileError::new(logical.whole(), message));
        }
        file.empty_continuations.extend(logical.empty_continuation);
        instruction(&mut reader, &logical, file)?;
    }
    let end = Span::line(reader.lines.number);
    if count == 0 {
        return Err(DockerfileError::new(end, "file with no instructions"));
    }
    if file.stages.is_empty() {
        return Err(DockerfileError::new(end, "dockerfile contains no stages to build"));
    }
    Ok(())
}

/// Parses one instruction that stands somewhere else: a trigger of a base image, or a change of `docker commit`. Errors and the
/// result point at `span`.
pub fn parse_instruction(text: &str, span: Span) -> Result<Instruction, DockerfileError> {
    let at = |error: DockerfileError| DockerfileError::new(span, error.to_string());
    if text.len() > MAX_FILE || text.contains('\0') {
        return Err(DockerfileError::new(span, "the instruction is too long or has a NUL byte"));
    }
    let mut reader = Reader::new(text.as_bytes());
    let Some(logical) = reader.next().map_err(at)? else {
        return Err(DockerfileError::new(span, "an empty text is no instruction"));
    };
    let escape = reader.directives().escape;
    let parts = parts(&mut reader, &logical, escape).map_err(at)?;
    let mut parsed = parsed(&parts, logical.whole()).map_err(at)?;
    parsed.span = span;
    if reader.next().map_err(at)?.is_some() {
        return Err(DockerfileError::new(span, "onbuild trigger should be a single expression"));
    }
    Ok(parsed)
}

/// One instruction, put where it belongs.
fn instruction(
    reader: &mut Reader<'_>,
    logical: &Logical,
    file: &mut Dockerfile,
) -> Result<(), DockerfileError> {
    let start = logical.whole();
    let in_instruction = |error: DockerfileError| error.in_instruction(start.start.line);
    let escape = reader.directives().escape;
    let parts = parts(reader, logical, escape)?;
    if parts.split.keyword.eq_ignore_ascii_case("from") {
        file.stages.push(parts.stage().map_err(in_instruction)?);
        return Ok(());
    }
    let end = Position { line: reader.lines.number, column: 0 };
    let span = if parts.heredocs.is_empty() { start } else { Span { start: start.start, end } };
    let parsed = parsed(&parts, span).map_err(in_instruction)?;
    match (file.stages.last_mut(), &parsed.command) {
        (Some(stage), _) => stage.instructions.push(parsed),
        (None, Command::Arg(_)) => file.arguments.push(parsed),
        (None, _) => {
            return Err(in_instruction(DockerfileError::new(start, "no build stage in current context")));
        }
    }
    Ok(())
}

fn parsed(parts: &Parts<'_>, span: Span) -> Result<Instruction, DockerfileError> {
    Ok(Instruction {
        keyword: parts.split.keyword.to_owned(),
        text: parts.logical.text.trim().to_owned(),
        span,
        comments: parts.logical.comments.clone(),
        command: parts.command()?,
    })
}

/// Cuts the line and reads the heredocs that follow it.
fn parts<'a>(
    reader: &mut Reader<'_>,
    logical: &'a Logical,
    escape: char,
) -> Result<Parts<'a>, DockerfileError> {
    let split = flags::split(&logical.text, 0, escape);
    let mut heredocs = Vec::new();
    if logical.text.contains("<<") && can_have_heredocs(&split, &logical.text, escape) {
        heredocs = heredoc::in_line(&logical.text);
        for heredoc in &mut heredocs {
            read_heredoc(reader, heredoc, logical)?;
        }
    }
    Ok(Parts { logical, split, heredocs, escape })
}

fn read_heredoc(
    reader: &mut Reader<'_>,
    heredoc: &mut Heredoc,
    logical: &Logical,
) -> Result<(), DockerfileError> {
    while let Some(line) = reader.lines.next_text()? {
        if heredoc.is_end(line) {
            return Ok(());
        }
        heredoc.content.push_str(line);
    }
    Err(DockerfileError::new(logical.whole(), format!("unterminated heredoc: no line is {:?}", heredoc.name)))
}

#[cfg(test)]
mod tests;
