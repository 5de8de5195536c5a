//! The command's run in the machine: its streams, its end, and the report of both to the host.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use palan_linux::event::{Epoll, Interest};
use palan_linux::process::{self, Program, Spawn};
use palan_linux::tty::{self, WindowSize};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};

use super::message::{Decoder, Message};
use super::request::Request;
use crate::Failure;

/// As shells end when a program is not there, or is none.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Runs the command and reports to the host, which then ends the machine.
pub(super) fn run(request: &Request) -> Result<(), Failure> {
    let mut port = open_port()?;
    let last = match execute(request, &mut port) {
        Ok(code) => Message::Ended(code),
        Err(failure) => Message::Failed(failure.to_string()),
    };
    // Results that are still on their way to the host would be lost with the machine.
    rustix::fs::syncfs(File::open(&request.out)?)?;
    port.write_all(&last.encode())?;
    loop {
        std::thread::park();
    }
}

/// The virtio port to the host, found by its name.
fn open_port() -> Result<File, Failure> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        if std::fs::read_to_string(entry.path().join("name"))?.trim() == super::PORT {
            let path = Path::new("/dev").join(entry.file_name());
            return Ok(File::options().read(true).write(true).open(path)?);
        }
    }
    Err(format!("there is no virtio port {}", super::PORT).into())
}

/// Our ends of the command's streams.
struct Streams {
    /// Its output, or the terminal's master.
    output: File,
    /// Its errors, unless a terminal carries both.
    errors: Option<File>,
}

const OUTPUT: u64 = 1;
const ERRORS: u64 = 2;
const PORT: u64 = 3;
const END: u64 = 4;

fn execute(request: &Request, port: &mut File) -> Result<u8, Failure> {
    let terminal = request.terminal.is_some();
    port.write_all(&Message::Started.encode())?;
    let (child, mut streams) = match start(request)? {
        Ok(started) => started,
        Err((code, text)) => {
            port.write_all(&Message::Stderr(text.into_bytes()).encode())?;
            return Ok(code);
        }
    };
    let ended = reap(child)?;
    let epoll = Epoll::new()?;
    epoll.add(&streams.output, OUTPUT, Interest::READ)?;
    if let Some(errors) = &streams.errors {
        epoll.add(errors, ERRORS, Interest::READ)?;
    }
    epoll.add(&ended, END, Interest::READ)?;
    if terminal {
        epoll.add(&*port, PORT, Interest::READ)?;
    }
    let mut decoder = Decoder::default();
    let mut ready = Vec::new();
    loop {
        ready.clear();
        epoll.wait(&mut ready, None)?;
        for event in &ready {
            match event.token {
                OUTPUT if forward(&mut streams.output, port, Message::Stdout)?.is_none() => {
                    epoll.remove(&streams.output)?;
                }
                ERRORS => {
                    if let Some(errors) = &mut streams.errors
                        && forward(errors, port, Message::Stderr)?.is_none()
                    {
                        epoll.remove(&*errors)?;
                    }
                }
                PORT => {
                    let mut buffer = [0; 4096];
                    let length = port.read(&mut buffer)?;
                    for message in decoder.push(&buffer[..length])? {
                        take(message, &mut streams.output)?;
                    }
                }
                END => {
                    drain(&mut streams.output, port, Message::Stdout)?;
                    if let Some(errors) = &mut streams.errors {
                        drain(errors, port, Message::Stderr)?;
                    }
                    let mut code = [0];
                    File::from(ended).read_exact(&mut code)?;
                    return Ok(code[0]);
                }
                _ => {}
            }
        }
    }
}

/// Does what the host says about the terminal.
fn take(message: Message, master: &mut File) -> Result<(), Failure> {
    match message {
        Message::Input(bytes) => master.write_all(&bytes)?,
        Message::Size { rows, columns } => tty::set_window_size(&*master, WindowSize { rows, columns })?,
        _ => {}
    }
    Ok(())
}

/// Passes on what there is to read, and says how much: nothing when there is nothing more at the moment, `None` at the
/// stream's end.
fn forward(
    stream: &mut File,
    port: &mut File,
    message: impl Fn(Vec<u8>) -> Message,
) -> Result<Option<usize>, Failure> {
    let mut buffer = vec![0; 32 << 10];
    match rustix::io::read(&*stream, &mut buffer[..]) {
        // A terminal that no process has open any more reports an error.
        Ok(0) | Err(Errno::IO) => Ok(None),
        Ok(length) => {
            buffer.truncate(length);
            port.write_all(&message(buffer).encode())?;
            Ok(Some(length))
        }
        Err(Errno::AGAIN | Errno::INTR) => Ok(Some(0)),
        Err(error) => Err(error.into()),
    }
}

/// Passes on what the command had written before it ended. Whoever goes on writing does not keep us for ever: no more can
/// have been in a pipe than its largest size.
fn drain(stream: &mut File, port: &mut File, message: impl Fn(Vec<u8>) -> Message) -> Result<(), Failure> {
    const PIPE_MAX: usize = 1 << 20;
    let mut drained = 0;
    while drained < PIPE_MAX {
        match forward(stream, port, &message)? {
            None | Some(0) => break,
            Some(length) => drained += length,
        }
    }
    Ok(())
}

/// Reaps whatever ends, as an init must, in a thread of its own. The descriptor delivers the command's exit code.
fn reap(child: process::Child) -> Result<OwnedFd, Failure> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let mut writer = Some(writer);
    std::thread::Builder::new().name("reaper".to_owned()).spawn(move || {
        loop {
            match process::reap_any(true) {
                Ok(Some((pid, status))) if pid == child.pid => {
                    if let Some(writer) = writer.take() {
                        rustix::io::write(writer, &[u8::try_from(status.code()).unwrap_or(u8::MAX)]).ok();
                    }
                }
                Ok(_) => {}
                // No child is left, and the machine is about to end.
                Err(_) => return,
            }
        }
    })?;
    Ok(reader)
}

/// Starts the command, or says with which code and words it can't be.
#[expect(clippy::type_complexity, reason = "used once, and said in the line above")]
fn start(request: &Request) -> Result<Result<(process::Child, Streams), (u8, String)>, Failure> {
    let name = request.command.first().ok_or("there is no command")?;
    let Some(path) = locate(name, request) else {
        return Ok(Err((NOT_FOUND, format!("{name}: not found in the virtual machine\n"))));
    };
    let (streams, descriptors) = match request.terminal {
        Some((rows, columns)) => {
            let pty = tty::open()?;
            tty::set_window_size(&pty.master, WindowSize { rows, columns })?;
            let others = [pty.peer.try_clone()?, pty.peer.try_clone()?];
            let [second, third] = others;
            rustix::fs::fcntl_setfl(&pty.master, OFlags::RDWR | OFlags::NONBLOCK)?;
            (Streams { output: pty.master.into(), errors: None }, [pty.peer, second, third])
        }
        None => {
            let null = rustix::fs::open("/dev/null", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
            let (output, to_output) = pipe()?;
            let (errors, to_errors) = pipe()?;
            (Streams { output, errors: Some(errors) }, [null, to_output, to_errors])
        }
    };
    let mut arguments = request.command.clone();
    let mut program = path.clone();
    if request.terminal.is_some() {
        // The command leads a session whose terminal this is; only a process of that session can make it so.
        program = "/usr/bin/setsid".into();
        arguments.splice(0..1, ["setsid".to_owned(), "--ctty".to_owned(), path.display().to_string()]);
    }
    let environment = request.environment.iter().map(|(name, value)| CString::new(format!("{name}={value}")));
    let spawned = process::spawn(&Spawn {
        program: Program::Path(&CString::new(program.as_os_str().as_bytes())?),
        arguments: arguments.into_iter().map(CString::new).collect::<Result<_, _>>()?,
        environment: environment.collect::<Result<_, _>>()?,
        descriptors: descriptors.iter().map(|descriptor| descriptor.as_fd()).collect(),
        directory: &CString::new(request.directory.as_os_str().as_bytes())?,
        new_session: request.terminal.is_none(),
        cgroup_procs: None,
        umask: 0o022,
        bound: false,
    });
    Ok(match spawned {
        Ok(child) => Ok((child, streams)),
        Err(error) => {
            let directory = request.directory.display();
            Err((NOT_EXECUTABLE, format!("{name}: cannot be executed in {directory}: {error}\n")))
        }
    })
}

/// A pipe of which only our end never blocks.
fn pipe() -> Result<(File, OwnedFd), Failure> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::fs::fcntl_setfl(&reader, OFlags::NONBLOCK)?;
    Ok((reader.into(), writer))
}

/// The command's file: as written if it has a slash, else looked up in the command's own `PATH`.
fn locate(name: &str, request: &Request) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(request.directory.join(name)).filter(|path| path.exists());
    }
    let (_, path) = request.environment.iter().find(|(variable, _)| variable == "PATH")?;
    std::env::split_paths(path).map(|directory| request.directory.join(directory).join(name)).find(
        |candidate| rustix::fs::access(candidate, rustix::fs::Access::EXEC_OK).is_ok() && candidate.is_file(),
    )
}
