//! Git repositories, and a server for them on the loopback: smart HTTP by `git http-backend`, with every trick that a server can play.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

/// A repository with a work tree, whose commits are all of one author and time.
#[derive(Debug)]
pub struct Repository(PathBuf);

impl Repository {
    /// Makes one, with the branch `main`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        let repository = Self(path.into());
        std::fs::create_dir_all(&repository.0).expect("a directory");
        repository.git(&["init", "--quiet", "--initial-branch=main"]);
        repository
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs a command in it; what that printed.
    #[expect(clippy::disallowed_methods, reason = "the outside program that the product runs")]
    pub fn git(&self, arguments: &[&str]) -> String {
        let mut command = Command::new("git");
        command.args(["-c", "protocol.file.allow=always"]).args(arguments).current_dir(&self.0);
        for (name, value) in [
            ("GIT_CONFIG_GLOBAL", "/dev/null"),
            ("GIT_CONFIG_NOSYSTEM", "1"),
            ("GIT_AUTHOR_NAME", "a"),
            ("GIT_AUTHOR_EMAIL", "a@example.com"),
            ("GIT_AUTHOR_DATE", "1000000000 +0000"),
            ("GIT_COMMITTER_NAME", "a"),
            ("GIT_COMMITTER_EMAIL", "a@example.com"),
            ("GIT_COMMITTER_DATE", "1000000000 +0000"),
        ] {
            command.env(name, value);
        }
        let output = command.output().expect("git runs");
        assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// Writes files and commits them; the commit.
    pub fn commit(&self, files: &[(&str, &str)]) -> String {
        for (name, content) in files {
            let path = self.0.join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, content).expect("a file");
        }
        self.git(&["add", "--all"]);
        self.git(&["commit", "--quiet", "--allow-empty", "-m", "a commit"]);
        self.git(&["rev-parse", "HEAD"])
    }
}

/// What a server does beside serving.
#[derive(Debug, Clone, Default)]
pub struct Tricks {
    /// Whoever asks must have this `Authorization`.
    pub authorization: Option<String>,
    /// Everything is elsewhere: there.
    pub redirect: Option<String>,
    /// Requests for files of commits are never answered.
    pub hangs: bool,
}

/// A server of all repositories below a directory.
#[derive(Debug)]
pub struct GitServer {
    port: u16,
    log: Arc<Mutex<Vec<String>>>,
}

impl GitServer {
    /// Starts it; it lasts as long as the test program.
    pub fn start(directory: &Path, tricks: Tricks) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (directory, noted) = (directory.to_owned(), Arc::clone(&log));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (directory, tricks, log) = (directory.clone(), tricks.clone(), Arc::clone(&noted));
                // Who asks may have gone.
                std::thread::spawn(move || answer(stream, &directory, &tricks, &log).ok());
            }
        });
        Self { port, log }
    }

    /// The address of a repository: `http://127.0.0.1:PORT/PATH`.
    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/{path}", self.port)
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Requests since the last call: `GET PATH`, `POST PATH`, and `fetch` where files of commits were asked for; each with the
    /// `Authorization` that it had.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut *self.log.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// How often files of commits were asked for since the last call of [`GitServer::requests`], which this is one of.
    pub fn fetches(&self) -> usize {
        self.requests().iter().filter(|request| request.starts_with("fetch")).count()
    }
}

#[expect(clippy::disallowed_methods, reason = "the outside program that the product runs")]
fn answer(
    stream: TcpStream,
    directory: &Path,
    tricks: &Tricks,
    log: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut stream = stream;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let mut headers: Vec<(String, String)> = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 || line.trim().is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
    }
    let header =
        |name: &str| headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str());
    let authorization = header("authorization").unwrap_or_default();
    let note = |what: String| log.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    note(format!("{method} {path} {authorization}"));
    if let Some(place) = &tricks.redirect {
        let location = format!("{place}{target}");
        return write!(
            stream,
            "HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        );
    }
    if tricks.authorization.as_ref().is_some_and(|wanted| wanted != authorization) {
        return stream.write_all(
            b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"x\"\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
    }
    if header("expect").is_some() {
        stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let body = match (header("content-length"), header("transfer-encoding")) {
        (Some(length), _) => {
            let mut body = vec![0; length.parse().unwrap_or(0)];
            reader.read_exact(&mut body)?;
            body
        }
        (None, Some(_)) => chunks(&mut reader)?,
        (None, None) => Vec::new(),
    };
    let asks_for_files = body.windows(13).any(|window| window == b"command=fetch");
    if asks_for_files {
        note(format!("fetch {path} {authorization}"));
        if tricks.hangs {
            // Until the other side has gone.
            let mut rest = [0];
            let _ = reader.read(&mut rest);
            return Ok(());
        }
    }
    let mut command = Command::new("git");
    command
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", directory)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("PATH_INFO", path)
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", method)
        .env("CONTENT_TYPE", header("content-type").unwrap_or_default())
        .env("CONTENT_LENGTH", body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", header("content-encoding").unwrap_or_default())
        .env("GIT_PROTOCOL", header("git-protocol").unwrap_or_default())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn()?;
    if let Some(mut input) = child.stdin.take() {
        // It may have had enough.
        let _ = input.write_all(&body);
    }
    let output = child.wait_with_output()?.stdout;
    let end = output.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(output.len());
    let (head, body) = output.split_at(end);
    let head = String::from_utf8_lossy(head).into_owned();
    let status = head.lines().find_map(|line| line.strip_prefix("Status: ")).unwrap_or("200 OK");
    write!(stream, "HTTP/1.1 {status}\r\nConnection: close\r\n")?;
    for line in head.lines().filter(|line| !line.starts_with("Status: ")) {
        write!(stream, "{line}\r\n")?;
    }
    let body = body.get(4..).unwrap_or_default();
    write!(stream, "Content-Length: {}\r\n\r\n", body.len())?;
    stream.write_all(body)
}

fn chunks(reader: &mut impl std::io::BufRead) -> std::io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let length = usize::from_str_radix(line.trim(), 16).unwrap_or(0);
        let mut piece = vec![0; length + 2];
        reader.read_exact(&mut piece)?;
        if length == 0 {
            return Ok(body);
        }
        body.extend_from_slice(&piece[..length]);
    }
}
