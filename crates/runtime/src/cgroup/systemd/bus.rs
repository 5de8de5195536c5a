//! A connection to a bus, or to systemd itself, that calls methods and waits for jobs.

use std::collections::VecDeque;
use std::io::{self, Read as _, Write as _};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::{Duration, Instant};

use super::wire::{Kind, Message, PREFIX, Value};

/// How long an answer, or the end of a job, may take. runc waits as long.
const PATIENCE: Duration = Duration::from_secs(30);

/// What went wrong on a bus.
#[derive(Debug, thiserror::Error)]
pub enum BusError {
    /// There is nobody to talk to.
    #[error("cannot connect to systemd at {addresses}")]
    Connect {
        /// Where it was looked for.
        addresses: String,
        /// Why the last of them did not do.
        source: io::Error,
    },
    /// The connection failed.
    #[error("cannot talk to systemd")]
    Talk(#[source] io::Error),
    /// The answer is an error.
    #[error("{message} ({name})")]
    Answer {
        /// Its name on the bus.
        name: String,
        /// Its text.
        message: String,
    },
    /// A job did not end well.
    #[error("systemd's job for {unit} has ended with {result:?}")]
    Job {
        /// The unit that it was for.
        unit: String,
        /// What systemd says: `failed`, `timeout`, …
        result: String,
    },
}

impl BusError {
    /// Whether it is the answer with this name.
    pub(super) fn is(&self, wanted: &str) -> bool {
        matches!(self, Self::Answer { name, .. } if name == wanted)
    }
}

const SYSTEMD: &str = "org.freedesktop.systemd1";
const SYSTEMD_PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const BUS: &str = "org.freedesktop.DBus";

/// A connection.
#[derive(Debug)]
pub(super) struct Bus {
    stream: UnixStream,
    last_serial: u32,
    /// Signals that came while something else was waited for.
    signals: VecDeque<Message>,
    /// systemd's version, once it is known.
    version: Option<u32>,
}

impl Bus {
    /// Connects to the first of the addresses that answers: of a bus, or of systemd itself, which has a socket of its
    /// own named `private`.
    pub(super) fn connect(addresses: &[String]) -> Result<Self, BusError> {
        let mut source = io::Error::from(io::ErrorKind::NotFound);
        for address in addresses.iter().flat_map(|list| list.split(';')).filter(|one| !one.is_empty()) {
            match Self::connect_to(address) {
                Ok(bus) => return Ok(bus),
                Err(error) => source = error,
            }
        }
        Err(BusError::Connect { addresses: addresses.join(", "), source })
    }

    fn connect_to(address: &str) -> io::Result<Self> {
        let (socket, direct) = socket_address(address)?;
        let stream = connect_patiently(&socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut bus = Self { stream, last_serial: 0, signals: VecDeque::new(), version: None };
        bus.authenticate()?;
        if !direct {
            let rule = format!("type='signal',sender='{SYSTEMD}',interface='{MANAGER}',member='JobRemoved'");
            let calls = [("Hello", Vec::new()), ("AddMatch", vec![Value::Str(rule)])];
            for (member, body) in calls {
                let call = Message::call(BUS, "/org/freedesktop/DBus", BUS, member, body);
                bus.call(call).map_err(io::Error::other)?;
            }
        }
        Ok(bus)
    }

    /// SASL's EXTERNAL with an empty identity: the other side asks the kernel who we are, also across user namespaces.
    fn authenticate(&mut self) -> io::Result<()> {
        self.stream.write_all(b"\0AUTH EXTERNAL\r\n")?;
        let mut line = self.line()?;
        if line.starts_with("DATA") {
            self.stream.write_all(b"DATA\r\n")?;
            line = self.line()?;
        }
        if !line.starts_with("OK") {
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("the bus says {line:?}")));
        }
        self.stream.write_all(b"BEGIN\r\n")
    }

    /// One line of the authentication; nothing behind it is read.
    fn line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            let mut byte = [0];
            self.stream.read_exact(&mut byte)?;
            line.push(byte[0]);
            if line.len() > 512 {
                return Err(io::ErrorKind::InvalidData.into());
            }
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    /// Calls a method of systemd's manager.
    pub(super) fn manager(&mut self, member: &str, body: Vec<Value>) -> Result<Vec<Value>, BusError> {
        self.call(Message::call(SYSTEMD, SYSTEMD_PATH, MANAGER, member, body))
    }

    /// The number of systemd's version.
    pub(super) fn version(&mut self) -> Result<u32, BusError> {
        if let Some(version) = self.version {
            return Ok(version);
        }
        let body = vec![Value::text(MANAGER), Value::text("Version")];
        let call = Message::call(SYSTEMD, SYSTEMD_PATH, "org.freedesktop.DBus.Properties", "Get", body);
        let version = match &self.call(call)?[..] {
            [Value::Variant(value)] => super::version_number(value.as_text().unwrap_or_default()),
            _ => return Err(unexpected("Get")),
        };
        self.version = Some(version);
        Ok(version)
    }

    /// Calls a method that starts a job, and waits until this has ended.
    pub(super) fn job(&mut self, unit: &str, member: &str, body: Vec<Value>) -> Result<(), BusError> {
        let answer = self.manager(member, body)?;
        let job = match &answer[..] {
            [Value::Path(job)] => job.clone(),
            _ => return Err(unexpected(member)),
        };
        let give_up = Instant::now() + PATIENCE;
        loop {
            let signal = match self.signals.pop_front() {
                Some(signal) => signal,
                None => self.receive(give_up).map_err(BusError::Talk)?,
            };
            // JobRemoved(u id, o job, s unit, s result)
            if signal.kind != Kind::Signal || signal.member != "JobRemoved" {
                continue;
            }
            if let [_, Value::Path(removed), _, Value::Str(result)] = &signal.body[..]
                && *removed == job
            {
                let result = result.clone();
                return if result == "done" {
                    Ok(())
                } else {
                    Err(BusError::Job { unit: unit.to_owned(), result })
                };
            }
        }
    }

    fn call(&mut self, mut call: Message) -> Result<Vec<Value>, BusError> {
        self.last_serial += 1;
        call.serial = self.last_serial;
        self.stream.write_all(&call.encode()).map_err(BusError::Talk)?;
        let give_up = Instant::now() + PATIENCE;
        loop {
            let message = self.receive(give_up).map_err(BusError::Talk)?;
            match message.kind {
                Kind::Return if message.reply_to == call.serial => return Ok(message.body),
                Kind::Error if message.reply_to == call.serial => {
                    let text = message.body.first().and_then(Value::as_text).unwrap_or_default();
                    return Err(BusError::Answer { name: message.error, message: text.to_owned() });
                }
                Kind::Signal => self.signals.push_back(message),
                // Nobody has a reason to call us.
                _ => {}
            }
        }
    }

    fn receive(&mut self, give_up: Instant) -> io::Result<Message> {
        let malformed = |error| io::Error::new(io::ErrorKind::InvalidData, error);
        let left = give_up.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        self.stream.set_read_timeout(Some(left))?;
        let timed_out = |error: io::Error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        };
        let mut bytes = vec![0; PREFIX];
        self.stream.read_exact(&mut bytes).map_err(timed_out)?;
        bytes.resize(Message::length(&bytes).map_err(malformed)?, 0);
        self.stream.read_exact(&mut bytes[PREFIX..]).map_err(timed_out)?;
        Message::decode(&bytes).map_err(malformed)
    }
}

fn unexpected(what: &str) -> BusError {
    BusError::Talk(io::Error::new(io::ErrorKind::InvalidData, format!("unexpected answer to {what}")))
}

/// A socket whose queue is full is tried again: many containers may start at once.
fn connect_patiently(address: &SocketAddr) -> io::Result<UnixStream> {
    let mut pause = Duration::from_millis(50);
    loop {
        match UnixStream::connect_addr(address) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && pause < Duration::from_secs(8) => {
                std::thread::sleep(pause);
                pause *= 2;
            }
            other => return other,
        }
    }
}

/// Reads `unix:path=/run/dbus/system_bus_socket,guid=…`, and tells whether it is systemd's own socket.
fn socket_address(address: &str) -> io::Result<(SocketAddr, bool)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, format!("unknown bus address {address:?}"));
    let parts = address.strip_prefix("unix:").ok_or_else(invalid)?;
    for (key, value) in parts.split(',').filter_map(|part| part.split_once('=')) {
        let value = unescape(value).ok_or_else(invalid)?;
        match key {
            "path" => return Ok((SocketAddr::from_pathname(&value)?, value.ends_with("/systemd/private"))),
            "abstract" => return Ok((SocketAddr::from_abstract_name(value)?, false)),
            _ => {}
        }
    }
    Err(invalid())
}

/// Undoes `%2f`.
fn unescape(text: &str) -> Option<String> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        if first == b'%' {
            let digits = std::str::from_utf8(after.get(..2)?).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(first);
            rest = after;
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        let path = |address: &str| {
            socket_address(address).map(|(socket, direct)| {
                let path = socket.as_pathname().map(|path| path.to_str().unwrap().to_owned());
                let name = socket.as_abstract_name().map(|name| String::from_utf8(name.to_vec()).unwrap());
                (path.or(name).unwrap(), direct)
            })
        };
        for (address, expected, direct) in [
            ("unix:path=/run/dbus/system_bus_socket", "/run/dbus/system_bus_socket", false),
            ("unix:guid=0,path=/a%2cb%20c", "/a,b c", false),
            ("unix:path=/run/systemd/private", "/run/systemd/private", true),
            ("unix:abstract=/tmp/x,guid=1", "/tmp/x", false),
        ] {
            assert_eq!(path(address).unwrap(), (expected.to_owned(), direct));
        }
        for bad in ["", "unix:", "tcp:host=x", "unix:path=/a%2", "unix:path=/a%zz", "unix:guid=1"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert!(matches!(Bus::connect(&[]), Err(BusError::Connect { .. })));
        let error = Bus::connect(&["unix:path=/nowhere/at/all".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("/nowhere/at/all"), "{error}");
    }

    /// A real bus understands us, and we it.
    #[test]
    #[allow(clippy::disallowed_methods, reason = "a test runs the bus")]
    fn a_bus_of_dbus_daemon() {
        let directory = tempfile::tempdir().unwrap();
        let address = format!("unix:path={}/bus", directory.path().display());
        let started = std::process::Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--nopidfile", "--address", &address])
            .stderr(std::process::Stdio::null())
            .spawn();
        let Ok(mut daemon) = started else {
            println!("SKIPPED: dbus-daemon is not installed");
            return;
        };
        let start = Instant::now();
        let bus = loop {
            match Bus::connect(std::slice::from_ref(&address)) {
                Err(_)
                    if start.elapsed() < Duration::from_secs(10) && daemon.try_wait().unwrap().is_none() =>
                {
                    std::thread::sleep(Duration::from_millis(10));
                }
                other => break other,
            }
        };
        let answer = bus.map(|mut bus| {
            let arguments = vec![Value::text("x.scope"), Value::text("replace")];
            (bus.manager("StopUnit", arguments), bus.version())
        });
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        // Nobody on this bus is systemd, and nothing can start it.
        let (stopped, version) = answer.unwrap();
        for error in [stopped.unwrap_err(), version.unwrap_err()] {
            let BusError::Answer { name, message } = error else { panic!("{error}") };
            assert!(
                name.starts_with("org.freedesktop.DBus.Error.") && message.contains(SYSTEMD),
                "{name} {message}"
            );
        }
    }
}
