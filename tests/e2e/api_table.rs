//! Each operation of the API with what its parameters and bodies can't be: an answer with a reason, and never 500, a panic or silence.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use palan_test_support::daemon::Daemon;
use palan_test_support::requires;

use crate::images::{BUSYBOX, daemon};

/// Method, path, query parameters, fields of the body with something that each can be.
type Operation =
    (&'static str, &'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

/// `OBJ` is a container that was never started, `RUN` one that runs, `EXEC` one of its exec sessions, `VOL`, `NET` and `IMG` are what they are.
/// Those that take something away come last.
const OPERATIONS: &[Operation] = &[
    ("GET", "/_ping", &[], &[]),
    ("HEAD", "/_ping", &[], &[]),
    ("GET", "/version", &[], &[]),
    ("GET", "/info", &[], &[]),
    ("GET", "/system/df", &["type", "verbose"], &[]),
    ("GET", "/events", &["since", "until", "filters"], &[]),
    (
        "POST",
        "/auth",
        &[],
        &[("username", r#""u""#), ("password", r#""p""#), ("serveraddress", r#""127.0.0.1:1""#)],
    ),
    ("GET", "/containers/json", &["all", "limit", "size", "filters"], &[]),
    (
        "POST",
        "/containers/create",
        &["name", "platform"],
        &[
            ("Image", r#""bb""#),
            ("Cmd", r#"["true"]"#),
            ("Env", r#"["A=1"]"#),
            ("Entrypoint", "[]"),
            ("ExposedPorts", r#"{"80/tcp":{}}"#),
            ("Volumes", r#"{"/v":{}}"#),
            ("Labels", r#"{"a":"b"}"#),
            ("Healthcheck", r#"{"Test":["NONE"],"Interval":0}"#),
            ("Hostname", r#""h""#),
            ("User", r#""0""#),
            ("WorkingDir", r#""/""#),
            ("StopTimeout", "1"),
            ("StopSignal", r#""SIGTERM""#),
            ("Tty", "true"),
            ("HostConfig", r#"{"NetworkMode":"none"}"#),
            ("NetworkingConfig", r#"{"EndpointsConfig":{}}"#),
        ],
    ),
    ("GET", "/containers/OBJ/json", &["size"], &[]),
    ("GET", "/containers/RUN/top", &["ps_args"], &[]),
    (
        "GET",
        "/containers/RUN/logs",
        &["stdout", "stderr", "since", "until", "timestamps", "tail", "follow", "details"],
        &[],
    ),
    ("GET", "/containers/RUN/changes", &[], &[]),
    ("GET", "/containers/RUN/stats", &["stream", "one-shot"], &[]),
    ("POST", "/containers/RUN/resize", &["h", "w"], &[]),
    ("POST", "/containers/OBJ/stop", &["signal", "t"], &[]),
    ("POST", "/containers/OBJ/kill", &["signal"], &[]),
    (
        "POST",
        "/containers/RUN/update",
        &[],
        &[("Memory", "0"), ("CpuShares", "0"), ("RestartPolicy", r#"{"Name":"no"}"#), ("BlkioWeight", "0")],
    ),
    (
        "POST",
        "/containers/OBJ/checkpoints",
        &[],
        &[("CheckpointID", r#""one""#), ("CheckpointDir", r#""/tmp""#), ("Exit", "true")],
    ),
    ("GET", "/containers/OBJ/checkpoints", &["dir"], &[]),
    ("DELETE", "/containers/OBJ/checkpoints/nothing", &["dir"], &[]),
    ("POST", "/containers/nobody/start", &["checkpoint", "checkpoint-dir"], &[]),
    ("POST", "/containers/OBJ/rename", &["name"], &[]),
    ("POST", "/containers/OBJ/pause", &[], &[]),
    ("POST", "/containers/OBJ/unpause", &[], &[]),
    ("POST", "/containers/OBJ/attach", &["detachKeys", "logs", "stream", "stdin", "stdout", "stderr"], &[]),
    ("GET", "/containers/OBJ/attach/ws", &["detachKeys", "logs", "stream"], &[]),
    ("POST", "/containers/OBJ/wait", &["condition"], &[]),
    ("GET", "/containers/RUN/archive", &["path"], &[]),
    ("HEAD", "/containers/RUN/archive", &["path"], &[]),
    ("PUT", "/containers/RUN/archive", &["path", "noOverwriteDirNonDir", "copyUIDGID"], &[]),
    ("GET", "/containers/RUN/export", &[], &[]),
    (
        "POST",
        "/commit",
        &["container", "repo", "tag", "comment", "author", "pause", "changes"],
        &[("Cmd", r#"["x"]"#)],
    ),
    (
        "POST",
        "/containers/RUN/exec",
        &[],
        &[
            ("Cmd", r#"["true"]"#),
            ("Env", r#"["A=1"]"#),
            ("User", r#""0""#),
            ("Tty", "false"),
            ("ConsoleSize", "[1,1]"),
        ],
    ),
    ("POST", "/exec/EXEC/resize", &["h", "w"], &[]),
    ("GET", "/exec/EXEC/json", &[], &[]),
    ("POST", "/exec/EXEC/start", &[], &[("Detach", "true"), ("Tty", "false"), ("ConsoleSize", "[1,1]")]),
    ("GET", "/images/json", &["all", "filters", "shared-size", "digests", "manifests"], &[]),
    ("GET", "/images/IMG/json", &["manifests", "platform"], &[]),
    ("GET", "/images/IMG/history", &["platform"], &[]),
    ("POST", "/images/IMG/tag", &["repo", "tag"], &[]),
    ("GET", "/images/search", &["term", "limit", "filters"], &[]),
    (
        "POST",
        "/images/create",
        &["fromImage", "fromSrc", "repo", "tag", "message", "changes", "platform"],
        &[],
    ),
    ("POST", "/images/load", &["quiet", "platform"], &[]),
    ("GET", "/images/get", &["names", "platform"], &[]),
    ("GET", "/distribution/127.0.0.1:1/x/json", &[], &[]),
    ("GET", "/volumes", &["filters"], &[]),
    (
        "POST",
        "/volumes/create",
        &[],
        &[
            ("Name", r#""v""#),
            ("Driver", r#""local""#),
            ("DriverOpts", "{}"),
            ("Labels", "{}"),
            ("ClusterVolumeSpec", "null"),
        ],
    ),
    ("GET", "/volumes/VOL", &[], &[]),
    ("PUT", "/volumes/VOL", &["version"], &[("Spec", "{}")]),
    ("GET", "/networks", &["filters"], &[]),
    ("GET", "/networks/NET", &["verbose", "scope"], &[]),
    (
        "POST",
        "/networks/create",
        &[],
        &[
            ("Name", r#""n""#),
            ("Driver", r#""nodriver""#),
            ("Internal", "false"),
            ("EnableIPv6", "false"),
            ("IPAM", r#"{"Config":[{"Subnet":"10.9.8.0/24"}]}"#),
            ("Options", "{}"),
            ("Labels", "{}"),
        ],
    ),
    (
        "POST",
        "/networks/NET/connect",
        &[],
        &[("Container", r#""nobody""#), ("EndpointConfig", r#"{"IPAMConfig":{}}"#)],
    ),
    ("POST", "/networks/NET/disconnect", &[], &[("Container", r#""nobody""#), ("Force", "false")]),
    ("GET", "/plugins", &["filters"], &[]),
    ("GET", "/swarm", &[], &[]),
    ("GET", "/nodes", &["filters"], &[]),
    ("GET", "/services", &["filters"], &[]),
    ("GET", "/tasks", &["filters"], &[]),
    ("GET", "/secrets", &["filters"], &[]),
    ("GET", "/configs", &["filters"], &[]),
    ("DELETE", "/containers/nobody", &["v", "force", "link"], &[]),
    ("DELETE", "/images/nobody", &["force", "noprune", "platforms"], &[]),
    ("DELETE", "/volumes/nobody", &["force"], &[]),
    ("DELETE", "/networks/nobody", &[], &[]),
    ("POST", "/volumes/prune", &["filters"], &[]),
    ("POST", "/networks/prune", &["filters"], &[]),
    ("POST", "/images/prune", &["filters"], &[]),
];

/// What no value should be.
const VALUES: &[&str] = &[
    "",
    "-1",
    "0",
    "1",
    "x",
    "true",
    "%00",
    "%FF",
    "%F0%9F%90%99",
    "99999999999999999999",
    "1e400",
    "NaN",
    "..%2F..%2Fetc",
    "[]",
    "%7B%7D",
    "%7B%22a%22%3A1%7D",
    "%7B%22label%22%3A%5B%22%22%5D%7D",
    "%7B%22label%22%3A%7B%22a%22%3A7%7D%7D",
    "%5B%5B%5B",
    "a=b%26c",
    "%20",
    "%0D%0AX:1",
];

/// The same in JSON.
const JSON: &[&str] = &[
    "null",
    "7",
    "-1",
    "1.5",
    "1e400",
    "true",
    r#""""#,
    r#""x""#,
    r#""\u0000""#,
    r#""\ud800""#,
    "[]",
    "[null]",
    "[7]",
    r#"[""]"#,
    "{}",
    r#"{"":null}"#,
    r#"{"x":7}"#,
    r#"{"x":{"x":[]}}"#,
    "99999999999999999999",
    "-9223372036854775808",
];

/// Names that nothing has.
const NAMES: &[&str] =
    &["nobody", "%00", "%2e%2e", "%FF", "a%2Fb", "%20", "-", "sha256:", "%F0%9F%90%99", "x%0D%0Ay"];

/// What an engine can't do although it is asked well: the host's part in it, or another's.
const CAUSES: &[&str] = &["File name too long (os error 36)", r#""message":"Get \"http"#];

struct Answer {
    status: u16,
    text: String,
}

/// Asks; reads the head and as much as comes at once.
fn ask(daemon: &Daemon, method: &str, target: &str, body: Option<&str>) -> Result<Answer, String> {
    let failed = |error: std::io::Error| format!("no answer: {error}");
    let mut stream = UnixStream::connect(daemon.socket()).map_err(failed)?;
    stream.set_read_timeout(Some(Duration::from_secs(30))).map_err(failed)?;
    let mut request = format!("{method} {target} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n");
    match body {
        Some(body) => {
            request +=
                &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        }
        None => request += "Content-Length: 0\r\n\r\n",
    }
    stream.write_all(request.as_bytes()).map_err(failed)?;
    let mut seen = Vec::new();
    let mut piece = [0; 16384];
    while !seen.windows(4).any(|window| window == b"\r\n\r\n") {
        match stream.read(&mut piece).map_err(failed)? {
            0 => return Err(format!("it hung up after {:?}", String::from_utf8_lossy(&seen))),
            count => seen.extend_from_slice(&piece[..count]),
        }
    }
    let text = String::from_utf8_lossy(&seen).into_owned();
    let status: u16 = text.split(' ').nth(1).and_then(|status| status.parse().ok()).ok_or("no status")?;
    let mut answer = Answer { status, text };
    if status >= 400 && method != "HEAD" {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).map_err(failed)?;
        answer.text += &String::from_utf8_lossy(&rest);
    }
    Ok(answer)
}

/// What an answer may not be.
fn judge(answer: &Result<Answer, String>) -> Option<String> {
    let answer = match answer {
        Ok(answer) => answer,
        Err(error) => return Some(error.clone()),
    };
    let has_reason = answer.text.contains("\"message\":\"") && !answer.text.contains("\"message\":\"\"");
    let is_head = answer.text.contains("\r\n\r\n") && answer.text.ends_with("\r\n\r\n");
    match answer.status {
        0..400 => None,
        500 if CAUSES.iter().any(|cause| answer.text.contains(cause)) => None,
        // No body says why.
        500 if is_head => None,
        500 => Some(answer.text.clone()),
        _ if has_reason || is_head => None,
        _ => Some(answer.text.clone()),
    }
}

#[test]
fn each_operation_with_what_it_cannot_take() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["create", "--name", "OBJ", "--network", "none", BUSYBOX, "true"]).ok();
    daemon.palan(["run", "-d", "--name", "RUN", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    daemon.palan(["volume", "create", "VOL"]).ok();
    daemon.palan(["network", "create", "--internal", "NET"]).ok();
    let made = ask(&daemon, "POST", "/containers/RUN/exec", Some(r#"{"Cmd":["true"]}"#)).unwrap();
    let exec = made.text.split("\"Id\":\"").nth(1).and_then(|rest| rest.get(..64)).unwrap().to_owned();
    let mut wrong = Vec::new();
    let mut count = 0;
    let mut check = |method: &str, target: &str, body: Option<&str>| {
        count += 1;
        if let Some(problem) = judge(&ask(&daemon, method, target, body)) {
            let body = body.unwrap_or_default();
            wrong.push(format!("{method} {target} {body}\n  {}", problem.lines().last().unwrap_or_default()));
        }
    };
    for (method, path, parameters, fields) in OPERATIONS {
        let path = path.replace("EXEC", &exec).replace("IMG", BUSYBOX);
        let whole = |changed: &str, value: &str| {
            let pairs = fields.iter().map(|(name, good)| {
                let value = if *name == changed { value } else { good };
                format!("\"{name}\":{value}")
            });
            format!("{{{}}}", pairs.collect::<Vec<_>>().join(","))
        };
        let good = whole("", "");
        let body = (!fields.is_empty()).then_some(good.as_str());
        for parameter in *parameters {
            for value in VALUES {
                check(method, &format!("{path}?{parameter}={value}"), body);
            }
            check(method, &format!("{path}?{parameter}"), body);
            check(method, &format!("{path}?{parameter}={}", "9".repeat(5000)), body);
        }
        for name in NAMES {
            let other = ["OBJ", "RUN", "VOL", "NET", BUSYBOX, exec.as_str()]
                .iter()
                .fold(path.clone(), |path, own| path.replace(&format!("/{own}"), &format!("/{name}")));
            if other != path {
                check(method, &other, body);
            }
        }
        if *method != "GET" && *method != "HEAD" {
            for body in [
                None,
                Some(""),
                Some("{"),
                Some("[]"),
                Some("null"),
                Some("7"),
                Some("\"x\""),
                Some("{}{}"),
                Some("\u{feff}{}"),
            ] {
                check(method, &path, body);
            }
        }
        for (field, _) in *fields {
            for value in JSON {
                check(method, &path, Some(&whole(field, value)));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {count}:\n{}\n{}", wrong.len(), wrong.join("\n"), tail(&daemon.log()));
    assert!(!daemon.log().contains("panicked"), "{}", daemon.log());
    assert_eq!(daemon.palan(["exec", "RUN", "echo", "on"]).ok().line(), "on");
}

fn tail(log: &str) -> String {
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("panicked")).collect();
    lines.join("\n")
}
