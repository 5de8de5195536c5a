//! The log of one run, in the two forms that runc's callers read.

use std::fs::File;
use std::io::Write as _;
use std::sync::Mutex;

use super::{Failure, time};

/// Where errors and warnings go besides the terminal. Callers such as containerd show the last error in it.
#[derive(Debug)]
pub(super) struct Log {
    file: Option<Mutex<File>>,
    json: bool,
    debug: bool,
}

impl Log {
    pub(super) fn open(path: Option<&str>, format: &str, debug: bool) -> Result<Self, Failure> {
        let json = match format {
            "text" => false,
            "json" => true,
            other => return Err(Failure::new(format!("invalid log-format: {other}"))),
        };
        let path = path.filter(|path| !path.is_empty());
        let open = |path: &str| {
            palan_stdx::fs::append(path.as_ref(), 0o644)
                .map(Mutex::new)
                .map_err(|error| Failure::new(palan_stdx::error_chain::to_string(&error)))
        };
        Ok(Self { file: path.map(open).transpose()?, json, debug })
    }

    pub(super) fn error(&self, message: &str) {
        self.write("error", message);
    }

    pub(super) fn warning(&self, message: &str) {
        if self.file.is_none() {
            say(&format!("palan runtime: warning: {message}\n"));
        }
        self.write("warning", message);
    }

    pub(super) fn debug(&self, message: &str) {
        if self.debug {
            if self.file.is_none() {
                say(&format!("palan runtime: level=debug {message}\n"));
            }
            self.write("debug", message);
        }
    }

    fn write(&self, level: &str, message: &str) {
        let Some(file) = &self.file else { return };
        let time = time::now();
        let line = if self.json {
            format!("{}\n", serde_json::json!({ "level": level, "msg": message, "time": time }))
        } else {
            format!("time={time:?} level={level} msg={message:?}\n")
        };
        // A log that can't be written must not stop the work it is about.
        if let Ok(mut file) = file.lock() {
            let _ = file.write_all(line.as_bytes());
        }
    }
}

/// Prints in one piece: standard error has no buffer, and the container's own output may come between.
fn say(line: &str) {
    // Nobody may be left to read it.
    let _ = std::io::stderr().write_all(line.as_bytes());
}
