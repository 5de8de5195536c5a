//! A daemon that answers as the test says, on a unix socket of its own.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

/// A request as it arrived.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Without the version and the query.
    pub(super) path: String,
    pub(super) query: String,
    pub(super) head: String,
    pub(super) body: String,
    /// How many requests of the same method and path came before.
    pub(super) count: usize,
}

/// What is answered.
pub(super) enum Answer {
    /// A status and a JSON body.
    Body(u16, String),
    /// Bytes until the connection closes.
    Raw(Vec<u8>),
    /// 101, then these bytes, then the end.
    Upgrade(Vec<u8>),
    /// 101, then what comes in comes back as standard output, until the other side's end.
    Echo,
    /// The head of an answer, and a connection that breaks.
    Break,
}

impl Answer {
    pub(super) fn json(status: u16, body: &str) -> Self {
        Self::Body(status, body.to_owned())
    }

    pub(super) fn error(status: u16, message: &str) -> Self {
        Self::Body(status, serde_json::json!({ "message": message }).to_string())
    }

    pub(super) fn empty(status: u16) -> Self {
        Self::Body(status, String::new())
    }
}

/// The daemon; it ends with the test's process.
pub(super) struct Daemon {
    directory: tempfile::TempDir,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Daemon {
    pub(super) fn start(answer: impl Fn(&Seen) -> Answer + Send + Sync + 'static) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("daemon.sock")).unwrap();
        let seen: Arc<Mutex<Vec<Seen>>> = Arc::default();
        let (requests, answer) = (Arc::clone(&seen), Arc::new(answer));
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let (requests, answer) = (Arc::clone(&requests), Arc::clone(&answer));
                thread::spawn(move || serve(stream, &requests, &*answer));
            }
        });
        Self { directory, seen }
    }

    pub(super) fn address(&self) -> String {
        format!("unix://{}/daemon.sock", self.directory.path().display())
    }

    /// A home directory for the client.
    pub(super) fn home(&self) -> String {
        self.directory.path().display().to_string()
    }

    /// The requests as `METHOD path?query`, without what a test need not care for.
    pub(super) fn requests(&self) -> Vec<String> {
        let show = |seen: &Seen| match seen.query.as_str() {
            "" => format!("{} {}", seen.method, seen.path),
            query => format!("{} {}?{query}", seen.method, seen.path),
        };
        self.seen.lock().unwrap().iter().map(show).collect()
    }

    pub(super) fn bodies(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.body.clone()).collect()
    }

    pub(super) fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|seen| seen.head.clone()).collect()
    }
}

fn serve(stream: UnixStream, requests: &Mutex<Vec<Seen>>, answer: &dyn Fn(&Seen) -> Answer) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    while let Some(mut seen) = read_request(&mut reader) {
        {
            let mut requests = requests.lock().unwrap();
            let same = |other: &&Seen| other.method == seen.method && other.path == seen.path;
            seen.count = requests.iter().filter(same).count();
            requests.push(seen.clone());
        }
        let upgrade = b"HTTP/1.1 101 UPGRADED\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
        let goes_on = match answer(&seen) {
            Answer::Body(status, body) => {
                let head = format!(
                    "HTTP/1.1 {status} X\r\nApi-Version: 1.56\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                writer.write_all((head + &body).as_bytes()).is_ok()
            }
            Answer::Raw(bytes) => {
                let _ = writer.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n");
                let _ = writer.write_all(&bytes);
                false
            }
            Answer::Upgrade(bytes) => {
                let _ = writer.write_all(upgrade);
                let _ = writer.write_all(&bytes);
                false
            }
            Answer::Echo => {
                let _ = writer.write_all(upgrade);
                let mut input = Vec::new();
                let _ = reader.read_to_end(&mut input);
                let length = u32::try_from(input.len()).unwrap();
                let _ = writer.write_all(&[&[1, 0, 0, 0][..], &length.to_be_bytes(), &input].concat());
                false
            }
            Answer::Break => {
                let _ = writer.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                false
            }
        };
        if !goes_on {
            let _ = writer.shutdown(Shutdown::Both);
            return;
        }
    }
}

fn read_request(reader: &mut BufReader<UnixStream>) -> Option<Seen> {
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let mut words = head.split(' ');
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let (path, query) = target.split_once('?').unwrap_or((&target, ""));
    let path = match path.strip_prefix("/v1.") {
        Some(rest) => rest.find('/').map_or("", |slash| &rest[slash..]),
        None => path,
    };
    let headers: HashMap<String, String> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let length = headers.get("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    if headers.get("transfer-encoding").is_some_and(|coding| coding == "chunked") {
        body = read_chunks(reader)?;
    }
    let body = String::from_utf8_lossy(&body).into_owned();
    Some(Seen { method, path: path.to_owned(), query: query.to_owned(), head: head.clone(), body, count: 0 })
}

fn read_chunks(reader: &mut BufReader<UnixStream>) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let mut chunk = vec![0; usize::from_str_radix(line.trim(), 16).ok()? + 2];
        reader.read_exact(&mut chunk).ok()?;
        if chunk.len() == 2 {
            return Some(body);
        }
        body.extend(&chunk[..chunk.len() - 2]);
    }
}
