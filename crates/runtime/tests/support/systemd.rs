//! A stand-in for systemd on its bus: makes scopes as systemd does, as far as the runtime can tell, and notes what it
//! is told. It shows what the client says and understands, not how systemd behaves.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};

use wire::{Kind, Message, PREFIX, Value};

#[allow(dead_code, reason = "the stand-in needs a part of the protocol")]
#[path = "../../src/cgroup/systemd/wire.rs"]
mod wire;

/// One that runs in a process of its own, until it is dropped.
pub(crate) struct StandIn {
    directory: tempfile::TempDir,
    process: Child,
}

impl StandIn {
    #[allow(clippy::disallowed_methods, reason = "a test runs a helper")]
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut process = Command::new(std::env::current_exe().unwrap())
            .arg("stand-in-systemd")
            .arg(directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { directory, process }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:path={}/bus", self.directory.path().display())
    }

    /// What it has been told, a call each line.
    pub(crate) fn calls(&self) -> String {
        std::fs::read_to_string(self.directory.path().join("calls")).unwrap_or_default()
    }
}

impl Drop for StandIn {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Serves below this directory until it is killed.
pub(crate) fn serve(directory: &Path) -> ExitCode {
    let listener = UnixListener::bind(directory.join("bus")).unwrap();
    println!("ready");
    let calls = std::fs::File::create(directory.join("calls")).unwrap();
    for stream in listener.incoming() {
        let (stream, mut calls) = (stream.unwrap(), calls.try_clone().unwrap());
        // A client that goes away in the middle is the client's business.
        std::thread::spawn(move || drop(attend(stream, &mut calls)));
    }
    ExitCode::SUCCESS
}

fn attend(mut stream: UnixStream, calls: &mut std::fs::File) -> std::io::Result<()> {
    let line = |stream: &mut UnixStream| -> std::io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte)?;
            line.push(byte[0]);
        }
        Ok(String::from_utf8(line).unwrap())
    };
    assert_eq!(line(&mut stream)?, "\0AUTH EXTERNAL\r\n");
    stream.write_all(b"DATA\r\n")?;
    assert_eq!(line(&mut stream)?, "DATA\r\n");
    stream.write_all(b"OK 0123456789abcdef\r\n")?;
    assert_eq!(line(&mut stream)?, "BEGIN\r\n");
    let mut serial = 0;
    loop {
        let mut bytes = vec![0; PREFIX];
        stream.read_exact(&mut bytes)?;
        bytes.resize(Message::length(&bytes).unwrap(), 0);
        stream.read_exact(&mut bytes[PREFIX..])?;
        let call = Message::decode(&bytes).unwrap();
        writeln!(calls, "{} {}", call.member, texts(&call.body).join(" "))?;
        for mut message in answers(&call) {
            serial += 1;
            message.serial = serial;
            stream.write_all(&message.encode())?;
        }
    }
}

/// The answer to a call, and signals around it.
fn answers(call: &Message) -> Vec<Message> {
    let unit = call.body.first().and_then(Value::as_text).unwrap_or_default().to_owned();
    let reply = |kind, body| {
        let message = Message::call("", "", "", "", body);
        Message { kind, reply_to: call.serial, ..message }
    };
    let error = |name: &str| {
        let message = reply(Kind::Error, vec![Value::text(format!("{name} of the stand-in"))]);
        vec![Message { error: format!("org.freedesktop.systemd1.{name}"), ..message }]
    };
    let job = |path: &str, result: &str| {
        let body =
            vec![Value::U32(7), Value::Path(path.to_owned()), Value::text(&*unit), Value::text(result)];
        let path = "/org/freedesktop/systemd1";
        let message = Message::call("", path, "org.freedesktop.systemd1.Manager", "JobRemoved", body);
        Message { kind: Kind::Signal, ..message }
    };
    // Another job ends first, and this one before its call is answered.
    let with_job = |result: &str| {
        let path = "/org/freedesktop/systemd1/job/7";
        let answer = reply(Kind::Return, vec![Value::Path(path.to_owned())]);
        vec![job("/org/freedesktop/systemd1/job/6", "failed"), job(path, result), answer]
    };
    match call.member.as_str() {
        "Hello" => vec![reply(Kind::Return, vec![Value::text(":1.5")])],
        "Get" => vec![reply(Kind::Return, vec![Value::Variant(Box::new(Value::text("252.39-1~deb12u1")))])],
        "StartTransientUnit" => match start(&unit, &call.body[2]) {
            Some(true) => with_job("done"),
            Some(false) => with_job("failed"),
            None => error("UnitExists"),
        },
        "StopUnit" if directories(&unit).is_empty() => error("NoSuchUnit"),
        "StopUnit" => {
            stop(&unit);
            with_job("done")
        }
        "ResetFailedUnit" => error("NoSuchUnit"),
        _ => vec![reply(Kind::Return, Vec::new())],
    }
}

/// Names and values of everything that has a text.
fn texts(values: &[Value]) -> Vec<String> {
    let text = |value: &Value| match value {
        Value::Str(text) | Value::Path(text) => vec![text.clone()],
        Value::Variant(value) => texts(std::slice::from_ref(value)),
        Value::Struct(members) => vec![texts(members).join("=")],
        Value::Array(_, values) => vec![format!("[{}]", texts(values).join(" "))],
        Value::Bool(value) => vec![value.to_string()],
        Value::U32(value) => vec![value.to_string()],
        Value::U64(value) => vec![value.to_string()],
        Value::Byte(value) => vec![value.to_string()],
        other => vec![format!("{other:?}")],
    };
    values.iter().flat_map(text).collect()
}

/// Where systemd has its units: in its own hierarchy of v1 and in v2.
fn roots() -> Vec<PathBuf> {
    let roots = ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(PathBuf::from);
    roots.into_iter().filter(|root| root.join("cgroup.procs").exists()).collect()
}

const SLICE: &str = "palantest.slice";

fn directories(unit: &str) -> Vec<PathBuf> {
    let all = roots().into_iter().map(|root| root.join(SLICE).join(unit));
    all.filter(|directory| directory.exists()).collect()
}

/// Whether the unit has started; `None`: there is one.
fn start(unit: &str, properties: &Value) -> Option<bool> {
    let properties = texts(std::slice::from_ref(properties)).join(" ");
    if properties.contains("Refuse=") {
        return Some(false);
    }
    assert!(properties.contains(&format!("Slice={SLICE} Delegate=true PIDs=[")), "{properties}");
    if !directories(unit).is_empty() {
        return None;
    }
    let pid = properties.split("PIDs=[").nth(1).unwrap().split(']').next().unwrap().to_owned();
    for root in roots() {
        let directory = root.join(SLICE).join(unit);
        std::fs::create_dir_all(&directory).unwrap();
        std::fs::write(directory.join("cgroup.procs"), &pid).unwrap();
    }
    Some(true)
}

fn stop(unit: &str) {
    for directory in directories(unit) {
        while std::fs::remove_dir(&directory).is_err() {
            let pids = std::fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
            for pid in pids.lines() {
                let _ = palan_linux::process::kill(pid.parse().unwrap(), palan_linux::signal::Signal::TERM);
            }
            std::thread::sleep(std::time::Duration::from_millis(2));
        }
        let _ = std::fs::remove_dir(directory.parent().unwrap());
    }
}
