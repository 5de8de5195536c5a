//! The processes of a container in the columns of `ps`. Read from the host's `/proc`: nothing of the image is executed. For arguments
//! that are not known here the host's own `ps` is asked, as Docker does for all.

use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use palan_linux::process::{self, ExitStatus, Program, Spawn};
use palan_supervisor::runtime::cgroup::{Cgroup, Place};

use crate::container::stop::is_restarting;
use crate::container::{Status, Top};
use crate::engine::{Engine, blocking};
use crate::error::Context;
use crate::{Error, Result};

const FULL: [Column; 8] = [
    Column::User,
    Column::Pid,
    Column::Parent,
    Column::Share,
    Column::Start,
    Column::Terminal,
    Column::Time,
    Column::Command,
];
const BSD: [Column; 11] = [
    Column::UserName,
    Column::Pid,
    Column::CpuPercent,
    Column::MemoryPercent,
    Column::VirtualSize,
    Column::ResidentSize,
    Column::TerminalBsd,
    Column::State,
    Column::StartBsd,
    Column::Time,
    Column::CommandBsd,
];

impl Engine {
    /// The processes, in the columns of `ps` with these arguments (`-ef` when empty).
    pub async fn top(&self, name: &str, ps_arguments: &str) -> Result<Top> {
        let columns = columns(ps_arguments);
        check_arguments(ps_arguments)?;
        let arguments = ps_arguments.to_owned();
        let search_path = self.config.runtimes.search_path().to_owned();
        let details = self.index.find(name)?.details();
        match details.state.status {
            Status::Running | Status::Paused => {}
            Status::Restarting => return Err(is_restarting(&details.id)),
            _ => return Err(crate::container::driver::not_running(&details.id)),
        }
        let host_memory = self.host.memory;
        blocking(move || {
            let cgroup = Cgroup::open(&Place::root(&details.cgroup_path))
                .context(|| "cannot list the processes".into())?;
            let mut pids = cgroup.processes().context(|| "cannot list the processes".into())?;
            pids.sort_unstable();
            pids.dedup();
            let Some(columns) = columns else { return by_ps(&search_path, &arguments, &pids) };
            let boot = boot_time();
            // A process that ended meanwhile has no row.
            let processes = pids.into_iter().filter_map(|pid| Process::read(pid, boot, host_memory));
            let rows = processes.map(|process| columns.iter().map(|column| column.value(&process)).collect());
            Ok(Top {
                titles: columns.iter().map(|column| column.title().to_owned()).collect(),
                processes: rows.collect(),
            })
        })
        .await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    UserName,
    Pid,
    Parent,
    Share,
    Start,
    StartBsd,
    Terminal,
    TerminalBsd,
    Time,
    Command,
    CommandBsd,
    Name,
    CpuPercent,
    MemoryPercent,
    VirtualSize,
    ResidentSize,
    State,
    Nice,
    Threads,
    Group,
    Elapsed,
}

/// The columns that arguments of `ps` ask for, where they are known here: `-ef`, `aux`, or `-o` with a list.
fn columns(arguments: &str) -> Option<Vec<Column>> {
    let words: Vec<&str> = arguments.split_whitespace().collect();
    match words[..] {
        [] | ["-ef" | "-fe" | "ef"] | ["-e", "-f"] => Some(FULL.to_vec()),
        ["aux" | "-aux" | "uax"] => Some(BSD.to_vec()),
        [ref options @ .., "-o" | "-eo" | "o", list]
            if options.iter().all(|word| matches!(*word, "-e" | "-A" | "ax")) =>
        {
            list.split(',').map(named).collect()
        }
        [list] if list.starts_with("-o") => list[2..].split(',').map(named).collect(),
        _ => None,
    }
}

/// Refuses what can't be given to a program, and another column under the title by which processes are known, as Docker does.
fn check_arguments(arguments: &str) -> Result<()> {
    if arguments.contains('\0') {
        return Err(Error::invalid("invalid arguments of ps: there is a NUL in them"));
    }
    for word in arguments.split([',', ' ', '\t']) {
        if let Some((name, title)) = word.split_once('=')
            && title.starts_with("PID")
            && name != "pid"
        {
            return Err(Error::invalid(format!("specifying \"{word}\" is not allowed")));
        }
    }
    Ok(())
}

/// What the host's `ps` says of these processes.
fn by_ps(search_path: &str, arguments: &str, pids: &[i32]) -> Result<Top> {
    let program = crate::runtimes::find_program(search_path, "ps").ok_or_else(|| {
        Error::invalid(format!(
            "top with the arguments {arguments:?} needs the program ps on the host: install the package procps, or use -ef, aux or -o \
             with column names"
        ))
    })?;
    let numbers: Vec<String> = pids.iter().map(i32::to_string).collect();
    // Not every choice of processes goes with the one by number.
    let chosen = format!("{arguments} -q {}", numbers.join(","));
    let output = match run(&program, search_path, &chosen)? {
        Ok(output) => output,
        Err(_) => run(&program, search_path, arguments)?
            .map_err(|said| Error::invalid(format!("ps: {}", said.trim())))?,
    };
    rows_of(&output, pids)
}

/// What it printed, or what it complained of.
fn run(program: &Path, search_path: &str, arguments: &str) -> Result<Result<String, String>> {
    let failed = |source: std::io::Error| Error::system("cannot run ps").with_source(source);
    let text = |text: &str| CString::new(text).map_err(|error| failed(error.into()));
    let path = CString::new(program.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    let words = ["ps"].into_iter().chain(arguments.split_whitespace());
    let ((mut output, output_end), (mut errors, errors_end)) =
        (std::io::pipe().map_err(failed)?, std::io::pipe().map_err(failed)?);
    let nothing = File::open("/dev/null").map_err(failed)?;
    let child = process::spawn(&Spawn {
        program: Program::Path(&path),
        arguments: words.map(text).collect::<Result<_>>()?,
        environment: vec![text(&format!("PATH={search_path}"))?, text("LC_ALL=C")?],
        descriptors: vec![nothing.as_fd(), output_end.as_fd(), errors_end.as_fd()],
        directory: c"/",
        new_session: true,
        cgroup_procs: None,
        umask: 0o022,
        bound: true,
    })
    .map_err(failed)?;
    drop((output_end, errors_end));
    let (mut printed, mut said) = (Vec::new(), Vec::new());
    // It complains in a line, which the pipe holds.
    let read = output.read_to_end(&mut printed).and_then(|_| errors.read_to_end(&mut said));
    let status = process::wait(&child.pidfd).map_err(failed)?;
    read.map_err(failed)?;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok(if status == ExitStatus::Exited(0) { Ok(text(printed)) } else { Err(text(said)) })
}

/// The rows of these processes, and what `ps` puts below each.
fn rows_of(output: &str, pids: &[i32]) -> Result<Top> {
    let mut lines = output.lines();
    let titles: Vec<String> =
        lines.next().unwrap_or_default().split_whitespace().map(str::to_owned).collect();
    let place = titles.iter().position(|title| title == "PID");
    let place = place.ok_or_else(|| Error::invalid("Couldn't find PID field in ps output"))?;
    let mut processes = Vec::new();
    let mut is_own = false;
    for line in lines {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let Some(pid) = fields.get(place) else { continue };
        // A thread has none of its own.
        if *pid != "-" {
            is_own = pid.parse().is_ok_and(|pid| pids.contains(&pid));
        }
        if is_own {
            let last = titles.len() - 1;
            let mut row: Vec<String> = fields.iter().take(last).map(|field| (*field).to_owned()).collect();
            row.push(fields.get(last..).unwrap_or_default().join(" "));
            processes.push(row);
        }
    }
    Ok(Top { titles, processes })
}

fn named(name: &str) -> Option<Column> {
    Some(match name {
        "uid" | "user" | "euser" | "uname" => Column::UserName,
        "pid" => Column::Pid,
        "ppid" => Column::Parent,
        "c" => Column::Share,
        "stime" | "start" | "lstart" | "start_time" => Column::Start,
        "tty" | "tt" | "tname" => Column::Terminal,
        "time" | "cputime" => Column::Time,
        "cmd" | "args" | "command" => Column::Command,
        "comm" | "ucmd" => Column::Name,
        "pcpu" | "%cpu" => Column::CpuPercent,
        "pmem" | "%mem" => Column::MemoryPercent,
        "vsz" | "vsize" => Column::VirtualSize,
        "rss" | "rssize" => Column::ResidentSize,
        "s" | "stat" | "state" => Column::State,
        "ni" | "nice" => Column::Nice,
        "nlwp" | "thcount" => Column::Threads,
        "gid" | "group" => Column::Group,
        "etime" => Column::Elapsed,
        _ => return None,
    })
}

struct Process {
    pid: i32,
    uid: String,
    gid: String,
    name: String,
    command: String,
    state: String,
    parent: String,
    terminal: u64,
    cpu_seconds: u64,
    elapsed: u64,
    started: i64,
    nice: String,
    threads: String,
    virtual_kib: u64,
    resident_kib: u64,
    memory_share: f64,
}

impl Process {
    fn read(pid: i32, boot: i64, host_memory: u64) -> Option<Self> {
        let file = |name: &str| palan_stdx::fs::read(Path::new(&format!("/proc/{pid}/{name}"))).ok();
        let stat = String::from_utf8_lossy(&file("stat")?).into_owned();
        // The name stands in parentheses and may contain some itself.
        let (before, after) = stat.rsplit_once(')')?;
        let name = before.split_once('(')?.1.to_owned();
        let fields: Vec<&str> = after.split_whitespace().collect();
        let number =
            |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
        let text = |index: usize| fields.get(index).copied().unwrap_or("0").to_owned();
        let ticks = rustix::param::clock_ticks_per_second().max(1);
        let page_kib = rustix::param::page_size() as u64 / 1024;
        let status = String::from_utf8_lossy(&file("status")?).into_owned();
        let id = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key))?;
            line.split_whitespace().nth(1).map(str::to_owned)
        };
        let started = boot + i64::try_from(number(19) / ticks).unwrap_or(0);
        let now = jiff::Timestamp::now().as_second();
        let resident_kib = number(21) * page_kib;
        Some(Self {
            pid,
            uid: id("Uid:")?,
            gid: id("Gid:")?,
            command: command_line(&file("cmdline")?, &name),
            name,
            state: text(0),
            parent: text(1),
            terminal: number(4),
            cpu_seconds: (number(11) + number(12)) / ticks,
            elapsed: u64::try_from(now - started).unwrap_or(0),
            started,
            nice: text(16),
            threads: text(17),
            virtual_kib: number(20) / 1024,
            resident_kib,
            memory_share: if host_memory == 0 {
                0.0
            } else {
                resident_kib as f64 * 102_400.0 / host_memory as f64
            },
        })
    }
}

fn command_line(raw: &[u8], name: &str) -> String {
    let words: Vec<_> = raw.split(|byte| *byte == 0).filter(|word| !word.is_empty()).collect();
    if words.is_empty() {
        return format!("[{name}]");
    }
    words.iter().map(|word| String::from_utf8_lossy(word)).collect::<Vec<_>>().join(" ")
}

/// Seconds since the epoch at which the host was started.
fn boot_time() -> i64 {
    let stat = palan_stdx::fs::read_to_string(Path::new("/proc/stat")).unwrap_or_default();
    stat.lines().find_map(|line| line.strip_prefix("btime ")?.trim().parse().ok()).unwrap_or(0)
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::User => "UID",
            Self::UserName => "USER",
            Self::Pid => "PID",
            Self::Parent => "PPID",
            Self::Share => "C",
            Self::Start => "STIME",
            Self::StartBsd => "START",
            Self::Terminal | Self::TerminalBsd => "TTY",
            Self::Time => "TIME",
            Self::Command => "CMD",
            Self::CommandBsd | Self::Name => "COMMAND",
            Self::CpuPercent => "%CPU",
            Self::MemoryPercent => "%MEM",
            Self::VirtualSize => "VSZ",
            Self::ResidentSize => "RSS",
            Self::State => "STAT",
            Self::Nice => "NI",
            Self::Threads => "NLWP",
            Self::Group => "GID",
            Self::Elapsed => "ELAPSED",
        }
    }

    fn value(self, process: &Process) -> String {
        let percent = process.cpu_seconds * 100 / process.elapsed.max(1);
        match self {
            Self::User | Self::UserName => user_name(&process.uid),
            Self::Pid => process.pid.to_string(),
            Self::Parent => process.parent.clone(),
            Self::Share => percent.min(99).to_string(),
            Self::Start | Self::StartBsd => start_text(process),
            Self::Terminal | Self::TerminalBsd => terminal_name(process.terminal),
            Self::Time => clock(process.cpu_seconds),
            Self::Command | Self::CommandBsd => process.command.clone(),
            Self::Name => process.name.clone(),
            Self::CpuPercent => format!("{percent}.0"),
            Self::MemoryPercent => format!("{:.1}", process.memory_share),
            Self::VirtualSize => process.virtual_kib.to_string(),
            Self::ResidentSize => process.resident_kib.to_string(),
            Self::State => process.state.clone(),
            Self::Nice => process.nice.clone(),
            Self::Threads => process.threads.clone(),
            Self::Group => process.gid.clone(),
            Self::Elapsed => clock(process.elapsed),
        }
    }
}

/// The host's name for a user: the process's ids are the host's. Without one it is the number.
fn user_name(uid: &str) -> String {
    let passwd = palan_stdx::fs::read_to_string(Path::new("/etc/passwd")).unwrap_or_default();
    let found = passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1) == Some(uid)).then(|| name.to_owned())
    });
    found.unwrap_or_else(|| uid.to_owned())
}

/// Hours and minutes today, else month and day.
fn start_text(process: &Process) -> String {
    const DAY: u64 = 86_400;
    let Ok(time) = jiff::Timestamp::from_second(process.started) else { return "?".into() };
    let local = time.to_zoned(jiff::tz::TimeZone::system());
    local.strftime(if process.elapsed < DAY { "%H:%M" } else { "%b%d" }).to_string()
}

fn terminal_name(device: u64) -> String {
    let (major, minor) = ((device >> 8) & 0xfff, (device & 0xff) | ((device >> 12) & 0xfff00));
    match major {
        136..144 => format!("pts/{}", (major - 136) * 256 + minor),
        4 => format!("tty{minor}"),
        _ => "?".into(),
    }
}

fn clock(seconds: u64) -> String {
    format!("{:02}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments() {
        assert_eq!(columns("").expect("default"), FULL);
        assert_eq!(columns("aux").expect("known"), BSD);
        assert_eq!(columns("-o pid,cmd").expect("known"), [Column::Pid, Column::Command]);
        assert_eq!(columns("-eo pid,comm").expect("known"), [Column::Pid, Column::Name]);
        assert!(columns("-o colour").is_none() && columns("--forest").is_none());
        check_arguments("-eo pid=PID,comm=X").expect("the same column");
        let error = check_arguments("-o comm=PID2,pid").expect_err("another's title").to_string();
        assert_eq!(error, "specifying \"comm=PID2\" is not allowed");
    }

    #[test]
    fn rows_of_ps() {
        let output =
            "  PID COMMAND\n    1 init\n   17 sh -c  true\n    - thread\n   18 other\n    - thread\n";
        let top = rows_of(output, &[17, 19]).expect("a table");
        assert_eq!(top.titles, ["PID", "COMMAND"]);
        assert_eq!(top.processes, [["17", "sh -c true"], ["-", "thread"]]);
        assert_eq!(
            rows_of("USER\nx\n", &[1]).expect_err("no PID").to_string(),
            "Couldn't find PID field in ps output"
        );
    }

    #[test]
    fn this_process_has_a_row() {
        let pid = i32::try_from(std::process::id()).expect("a pid");
        let process = Process::read(pid, boot_time(), 1 << 30).expect("it runs");
        assert!(process.command.contains("palan"));
        assert_eq!(Column::Pid.value(&process), pid.to_string());
        assert_eq!(terminal_name(0x8803), "pts/3");
        assert_eq!(clock(3725), "01:02:05");
    }
}
