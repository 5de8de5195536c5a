//! Tries from inside of a container what must not work there, and says how it ended: `probe socket alg`, …

#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "printing is what this program is for")]

use std::process::ExitCode;

use rustix::net::{AddressFamily, SocketType};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words[..] {
        ["socket", family] => socket(family),
        ["write-to", path] => write_to(path),
        _ => Err("usage: probe socket inet|unix|alg|vsock | write-to PATH".to_owned()),
    };
    match outcome {
        Ok(()) => {
            println!("allowed");
            ExitCode::SUCCESS
        }
        Err(problem) => {
            println!("{problem}");
            ExitCode::FAILURE
        }
    }
}

/// Opens a socket of a family that busybox has no use for.
fn socket(family: &str) -> Result<(), String> {
    let (family, kind) = match family {
        "inet" => (AddressFamily::INET, SocketType::STREAM),
        "unix" => (AddressFamily::UNIX, SocketType::STREAM),
        "alg" => (AddressFamily::from_raw(38), SocketType::SEQPACKET),
        "vsock" => (AddressFamily::from_raw(40), SocketType::STREAM),
        other => return Err(format!("no such family: {other}")),
    };
    rustix::net::socket(family, kind, None).map(drop).map_err(|error| std::io::Error::from(error).to_string())
}

/// Opens a file for writing and changes nothing.
fn write_to(path: &str) -> Result<(), String> {
    std::fs::OpenOptions::new().write(true).open(path).map(drop).map_err(|error| error.to_string())
}
