//! Dockerfiles, as `docker/dockerfile` 1.26 reads them. No I/O: callers hand over bytes and values, and get a typed
//! description whose every part knows where it stands in the file.
//!
//! ```text
//! bytes ─[lines]─▶ logical lines ─[parse]─▶ Dockerfile { arguments before FROM, stages of instructions }
//!                                              │
//!                    build arguments, target ──┼─[stages]─▶ which stage needs which, and which are needed at all
//!                    environment of the base ──┴─[scope]──▶ instructions with their variables expanded
//!                                                  └──────▶ [lint]: what `docker build --check` warns of
//! ```
//!
//! Parsing knows no values: a variable is expanded when its stage is built ([`scope`]), because what it means depends
//! on the base image and on the arguments of the build. So a mistake in a stage that nothing needs is told by
//! `--check` and by nobody else, as in BuildKit.
//!
//! **Invariants.**
//! - Nothing here panics, recurses without a bound or grows without one, whatever the bytes: a file has at most
//!   [`MAX_FILE`] bytes and lines of [`MAX_LINE`], nesting ends at a fixed depth, an expansion at a fixed size.
//! - Errors carry a [`Span`], and their text is BuildKit's where tools match on it.

#![forbid(unsafe_code)]

pub mod ast;
pub mod expose;
pub mod heredoc;
pub mod lint;
pub mod mount;
pub mod scope;
pub mod source;
pub mod stages;
pub mod suggest;
pub mod word;

mod directive;
mod flags;
mod instruction;
mod json;
mod lines;
mod parse;
mod pattern;
mod words;

pub use ast::{Command, Dockerfile, Instruction, Stage};
pub use directive::Directives;
pub use parse::{parse, parse_instruction, parse_up_to_error};
pub use source::{DockerfileError, Position, Source, Span};

/// The most bytes that a Dockerfile may have. Nobody writes a tenth of it; what is larger is something else by mistake.
pub const MAX_FILE: usize = 16 << 20;

/// The most bytes that one line may have, its end included. It is BuildKit's limit.
pub const MAX_LINE: usize = 65_535;

/// The most instructions that a Dockerfile may have: an image has at most a hundred layers or so.
pub const MAX_INSTRUCTIONS: usize = 20_000;
