//! `palan checkpoint create`.

use palan_docker_api::types::CheckpointCreateRequest;

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER CHECKPOINT",
        "Create a checkpoint from a running container",
        Arity::Exactly(2),
        run,
    )
};

static FLAGS: &[Flag] =
    &[super::DIRECTORY, Flag::bool("leave-running", None, "Leave the container running after checkpoint")];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let [container, checkpoint] = flags.args.as_slice() else { return Ok(()) };
    let request = CheckpointCreateRequest {
        checkpoint_id: checkpoint.clone(),
        checkpoint_dir: flags.string("checkpoint-dir").to_owned(),
        exit: !flags.bool("leave-running"),
    };
    app.client()?.create_checkpoint(container, &request)?;
    app.streams.line(checkpoint)
}
