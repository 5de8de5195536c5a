//! `palan cp`.

mod paths;
mod progress;
pub(crate) mod unpack;
mod upload;

use std::io::{self, Read};

use palan_docker_api::client::Client;
use palan_docker_api::types::file_mode;
use palan_linux::path::RootDir;
use palan_stdx::{error_chain, size};

use super::super::{Arity, Command};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use paths::{Content, Destination, Source};
use progress::Counted;
use unpack::Unpacking;

pub(crate) static COMMAND: Command = Command {
    long: "Copy files/folders between a container and the local filesystem\n\nUse '-' as the source to read a tar archive from \
           stdin and extract it to a directory destination in a container. Use '-' as the destination to stream a tar archive of \
           a container source to stdout.",
    aliases: "palan container cp, palan cp",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER:SRC_PATH DEST_PATH|-\n\tpalan cp [OPTIONS] SRC_PATH|- CONTAINER:DEST_PATH",
        "Copy files/folders between a container and the local filesystem",
        Arity::Exactly(2),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::bool("archive", Some('a'), "Archive mode (copy all uid/gid information)"),
    Flag::bool("follow-link", Some('L'), "Always follow symlinks in SRC_PATH"),
    Flag::bool(
        "quiet",
        Some('q'),
        "Suppress progress output during copy. Progress output is automatically suppressed if no terminal is attached",
    ),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (source, destination) = (flags.args[0].as_str(), flags.args[1].as_str());
    if source.is_empty() {
        return Err(CliError::new("source can not be empty"));
    }
    if destination.is_empty() {
        return Err(CliError::new("destination can not be empty"));
    }
    let copy = Copy {
        app,
        archive: flags.bool("archive"),
        follow_link: flags.bool("follow-link"),
        quiet: if flags.changed("quiet") { flags.bool("quiet") } else { !app.streams.output_is_terminal() },
    };
    match (paths::split_argument(source), paths::split_argument(destination)) {
        ((Some(container), source), (None, destination)) => copy.out_of(container, source, destination),
        ((None, source), (Some(container), destination)) => copy.in_to(container, source, destination),
        ((Some(_), _), (Some(_), _)) => Err(CliError::new("copying between containers is not supported")),
        ((None, _), (None, _)) => Err(CliError::new("must specify at least one container source")),
    }
}

struct Copy<'a> {
    app: &'a App,
    archive: bool,
    follow_link: bool,
    quiet: bool,
}

impl Copy<'_> {
    fn out_of(&self, container: &str, source: &str, destination: &str) -> Result<()> {
        let client = self.app.client()?;
        let local = if destination == "-" { None } else { Some(paths::absolute(destination)?) };
        if let Some(local) = &local {
            paths::check_output(local)?;
        }
        let (mut source, mut called) = (source.to_owned(), None);
        if self.follow_link
            && let Ok(stat) = client.stat_path(container, &source)
            && stat.is_symlink()
        {
            (source, called) = paths::behind_link(&source, &stat.link_target);
        }
        let (stat, mut archive) = client.read_path(container, &source)?;
        let Some(local) = local else {
            let copied = io::copy(&mut archive, &mut self.app.streams.output());
            return copied.map(drop).map_err(|error| CliError::of_output(&error));
        };
        let (_, own_name) = paths::split_entry(&source);
        let name = called.unwrap_or_else(|| own_name.clone());
        let content = Content { is_directory: stat.is_directory(), name };
        let (directory, name) = paths::prepare(&content, &Destination::local(&local)?)?;
        let root =
            RootDir::open(&directory).map_err(|error| CliError::new(error_chain::to_string(&error)))?;
        // The names in an archive of the root begin with a slash.
        let bytes = |name: &str| if name == "/" { Vec::new() } else { name.as_bytes().to_vec() };
        let unpacking = Unpacking {
            root: &root,
            shown: &directory,
            from: bytes(&own_name),
            to: bytes(&name),
            keep_owners: self.archive,
        };
        let mut counted = self.counted(archive, "Copying from container - ");
        let unpacked = unpacking.run(&mut counted);
        let copied = counted.finish();
        let left_out = unpacked?;
        if left_out > 0 {
            self.app.streams.say(&format!(
                "WARNING: {left_out} device(s) of the container were left out: on this host they would be the host's own"
            ));
        }
        self.report(copied, &local);
        Ok(())
    }

    fn in_to(&self, container: &str, source: &str, given: &str) -> Result<()> {
        let client = self.app.client()?;
        let local = if source == "-" { None } else { Some(paths::absolute(source)?) };
        let destination = destination_in(client, container, given)?;
        let Some(local) = local else {
            if !destination.is_directory {
                return Err(CliError::new(format!(
                    "destination \"{container}:{given}\" must be a directory"
                )));
            }
            let mut archive = self.counted(self.app.streams.take_input(), INTO);
            let written = client.write_path(container, &destination.path, self.archive, &mut archive);
            let copied = archive.finish();
            written?;
            self.report(copied, &format!("{container}:{}", destination.path));
            return Ok(());
        };
        let source = Source::local(&local, self.follow_link)?;
        let (directory, name) = paths::prepare(&source.content, &destination)?;
        let upload = upload::Upload::start(&source, name)?;
        let mut archive = self.counted(upload, INTO);
        let written = client.write_path(container, &directory, self.archive, &mut archive);
        let copied = archive.finish();
        written?;
        self.report(copied, &format!("{container}:{}", destination.path));
        Ok(())
    }

    fn counted<R: Read>(&self, archive: R, header: &'static str) -> Counted<R> {
        let terminal = !self.quiet && self.app.streams.columns(true).is_some();
        Counted::new(archive, terminal.then(|| (self.app.streams.errors(), header)))
    }

    fn report(&self, copied: u64, place: &str) {
        if !self.quiet {
            let size = size::format_decimal_short(copied);
            self.app.streams.say(&format!("Successfully copied {size} to {place}"));
        }
    }
}

const INTO: &str = "Copying to container - ";

/// What is at the destination in the container. That it can't be told is left to the copy itself: the directory that it lies in may
/// be there.
fn destination_in(client: &Client, container: &str, given: &str) -> Result<Destination> {
    let absent = |path: String| Destination { path, exists: false, is_directory: false };
    let Ok(mut stat) = client.stat_path(container, given) else { return Ok(absent(given.to_owned())) };
    let mut path = given.to_owned();
    if stat.is_symlink() {
        path.clone_from(&stat.link_target);
        match client.stat_path(container, &path) {
            Ok(behind) => stat = behind,
            Err(_) => return Ok(absent(path)),
        }
    }
    let problem = if stat.mode & file_mode::DEVICE != 0 {
        "got a device"
    } else if stat.mode & file_mode::IRREGULAR != 0 {
        "got an irregular file"
    } else {
        return Ok(Destination { path, exists: true, is_directory: stat.is_directory() });
    };
    Err(CliError::new(format!(
        "destination \"{container}:{given}\" must be a directory or a regular file: {problem}"
    )))
}
