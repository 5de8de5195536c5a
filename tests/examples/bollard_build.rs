//! Builds an image by bollard's client of BuildKit: `bollard_build SOCKET CONTEXT NAME [ARGUMENT=VALUE…]`.
//!
//! The context is a tar archive, as bollard wants it. A program of its own, so that development tasks can run it without linking it.

use std::error::Error;
use std::process::ExitCode;

use bollard::grpc::build::{ImageBuildFrontendOptions, ImageBuildLoadInput};
use bollard::grpc::driver::{Build as _, moby::Moby};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match build(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            #[expect(clippy::print_stderr, reason = "its caller shows what it says")]
            {
                eprintln!("bollard_build: {error}");
            }
            ExitCode::FAILURE
        }
    }
}

fn build(arguments: &[String]) -> Result<(), Box<dyn Error>> {
    let [socket, context, name, settings @ ..] = arguments else {
        return Err("usage: bollard_build SOCKET CONTEXT NAME [ARGUMENT=VALUE…]".into());
    };
    let mut options = ImageBuildFrontendOptions::builder();
    for setting in settings {
        let (argument, value) = setting.split_once('=').ok_or_else(|| format!("{setting} has no value"))?;
        options = options.buildarg(argument, value);
    }
    let input = ImageBuildLoadInput::Upload(std::fs::read(context)?.into());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let docker = bollard::Docker::connect_with_unix(socket, 3600, bollard::API_DEFAULT_VERSION)?;
        Moby::new(&docker).docker_build(name, options.build(), input, None, None).await?;
        Ok(())
    })
}
