//! `palan build`: an image, or files, from a Dockerfile.
//!
//! ```text
//! flags ──▶ source    where the context and the Dockerfile are          ┐
//!       ──▶ request   what is asked for, in the frontend's words        ├──▶ check    --check, --call: answered here
//!                                                                       └──▶ solve    the daemon builds, asks for files, tells
//!                                                                              └─▶ result   --iidfile, --metadata-file
//! ```
//! The daemon is spoken with as BuildKit is (`palan_buildkit`): one connection on which it is asked to build and tells of the progress, and
//! a session, on which it asks for directories, secrets, credentials and agents, and sends what it has made.
//!
//! A mistake in the Dockerfile is told before the daemon is asked: the file is here, and so is the parser.

/// `--cache-from`, `--cache-to`.
mod cache;
/// `--call`.
mod call;
/// Answers that need no build.
mod check;
/// `--build-context`.
mod contexts;
/// Messages about the progress.
mod convert;
/// Files that are named for results.
mod destination;
/// `--output`.
mod export;
/// Comma-separated pairs.
mod fields;
/// The table of flags.
mod flags;
/// Standard input.
mod input;
/// Indexes of directories with content.
mod layout;
/// `--push`.
mod push;
/// The flags in the frontend's words.
mod request;
/// Files about the result.
mod result;
/// `--secret`.
mod secrets;
/// What the daemon may ask for.
mod services;
/// `--on-error`.
mod shell;
/// The conversation with the daemon.
mod solve;
/// The context and the Dockerfile.
mod source;
/// `--ssh`.
mod ssh;
/// Images as directories.
mod unpacked;

use super::super::{Arity, Command};
use crate::app::App;
use crate::environment::BUILDKIT_PROGRESS;
use crate::error::{CliError, Result};
use crate::flags::Parsed;
use crate::output::build::Mode;
use call::{Call, Method};
use check::Subject;
use request::Request;
use source::Source;

pub(crate) static COMMAND: Command = Command {
    aliases: "palan build, palan image build, palan builder build, palan buildx build, palan buildx b",
    flags: &[flags::TABLE],
    ..Command::new("[OPTIONS] PATH | URL | -", "Build an image from a Dockerfile", Arity::Exactly(1), run)
};

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let mode = mode(app, flags)?;
    let call = match flags.bool("check") {
        true => Call::parse("check").map_err(CliError::new)?,
        false => Call::parse(flags.string("call")).map_err(CliError::new)?,
    };
    let on_error = shell::wanted(app, flags)?;
    let source = Source::find(app, &flags.args[0], flags.string("file"))?;
    let request = Request::new(app, flags, &source)?;
    let target = flags.given("target").filter(|target| !target.is_empty());
    match (&source.text, source.shown()) {
        (Some(text), Some(shown)) => {
            let subject = Subject { source: &source, text, request: &request, target };
            if call.method != Method::Build {
                return check::answer(app, call, &subject);
            }
            check::validate(&subject).map_err(|error| check::mistake(&shown, &error))?;
        }
        _ if call.method != Method::Build => {
            return Err(CliError::new(
                "--call needs the Dockerfile on this side; of a remote context it is not",
            )
            .hint("Fetch the repository, and name its directory; or give the Dockerfile by -f -."));
        }
        _ => {}
    }
    result::forget_earlier(flags)?;
    let outcome = solve::solve(app, &source, &request, mode, on_error)?;
    cache::name(&request.cache_to, &outcome.answers)?;
    push::push(app, &request.exports, mode == Mode::Quiet)?;
    outcome.write(flags)?;
    match (mode, outcome.image_id()) {
        (Mode::Quiet, Some(id)) => app.streams.line(id),
        _ => Ok(()),
    }
}

/// How the progress is shown.
fn mode(app: &App, flags: &Parsed) -> Result<Mode> {
    let given = flags.given("progress");
    let text = given.or_else(|| app.environment.set(BUILDKIT_PROGRESS)).unwrap_or("auto");
    let mode = Mode::parse(text).ok_or_else(|| {
        CliError::new(format!("{BUILDKIT_PROGRESS}={text:?} is no type of progress output"))
    })?;
    match (flags.bool("quiet"), given.map(|_| mode)) {
        (true, None | Some(Mode::Auto | Mode::Quiet)) => Ok(Mode::Quiet),
        (true, Some(_)) => Err(CliError::new(format!("progress={text} and quiet cannot be used together"))),
        (false, _) => Ok(mode),
    }
}
