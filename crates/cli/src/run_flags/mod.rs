//! The flags that `run` and `create` share, as one table, and what they become: a create request.
//!
//! A flag has its row in [`TABLE`] with the check that pflag would make while parsing; whatever takes the whole set of
//! flags (conflicts, files, defaults) happens in [`request`]. Error texts are Docker's.

/// `--device` and the limits of devices.
pub(crate) mod devices;
/// `--gpus`.
pub(crate) mod gpus;
/// `--health-*`.
pub(crate) mod health;
/// `--env-file` and `--label-file`.
pub(crate) mod key_values;
/// `--mount` and `--volume`.
pub(crate) mod mounts;
/// `--pid`, `--uts` and the other namespaces.
pub(crate) mod namespaces;
/// `--network` and its long form.
pub(crate) mod networks;
/// `--publish` and `--expose`.
pub(crate) mod publish;
/// From flags to the create request.
pub(crate) mod request;

use std::net::IpAddr;

use crate::flags::{Flag, parse_int};

/// The flags of `create`; `run` has [`RUN_ONLY`] too.
#[rustfmt::skip]
pub(crate) static TABLE: &[Flag] = &[
    Flag::list("add-host", None, "Add a custom host-to-IP mapping (host:ip)").check(check_extra_host),
    Flag::list("annotation", None, "Add an annotation to the container (passed through to the OCI runtime)").named("map"),
    Flag::list("attach", Some('a'), "Attach to STDIN, STDOUT or STDERR").check(check_attach),
    Flag::int("blkio-weight", None, "Block IO (relative weight), between 10 and 1000, or 0 to disable").named("uint16").check(|text| parse_uint(text, 16).map(|_| ())),
    Flag::list("blkio-weight-device", None, "Block IO weight (relative device weight)").check(|text| devices::parse_weight(text).map(|_| ())),
    Flag::list("cap-add", None, "Add Linux capabilities"),
    Flag::list("cap-drop", None, "Drop Linux capabilities"),
    Flag::string("cgroup-parent", None, "Optional parent cgroup for the container"),
    Flag::string("cgroupns", None, "Cgroup namespace to use (host|private)"),
    Flag::string("cidfile", None, "Write the container ID to the file"),
    Flag::int("cpu-count", None, "CPU count (Windows only)").hidden(),
    Flag::int("cpu-percent", None, "CPU percent (Windows only)").hidden(),
    Flag::int("cpu-period", None, "Limit CPU CFS (Completely Fair Scheduler) period"),
    Flag::int("cpu-quota", None, "Limit CPU CFS (Completely Fair Scheduler) quota"),
    Flag::int("cpu-rt-period", None, "Limit CPU real-time period in microseconds"),
    Flag::int("cpu-rt-runtime", None, "Limit CPU real-time runtime in microseconds"),
    Flag::int("cpu-shares", Some('c'), "CPU shares (relative weight)"),
    Flag::string("cpus", None, "Number of CPUs").named("decimal").check(|text| parse_cpus(text).map(|_| ())),
    Flag::string("cpuset-cpus", None, "CPUs in which to allow execution (0-3, 0,1)"),
    Flag::string("cpuset-mems", None, "MEMs in which to allow execution (0-3, 0,1)"),
    Flag::list("device", None, "Add a host device to the container"),
    Flag::list("device-cgroup-rule", None, "Add a rule to the cgroup allowed devices list").check(devices::check_cgroup_rule),
    Flag::list("device-read-bps", None, "Limit read rate (bytes per second) from a device").check(|text| devices::parse_bytes_rate(text).map(|_| ())),
    Flag::list("device-read-iops", None, "Limit read rate (IO per second) from a device").check(|text| devices::parse_operations_rate(text).map(|_| ())),
    Flag::list("device-write-bps", None, "Limit write rate (bytes per second) to a device").check(|text| devices::parse_bytes_rate(text).map(|_| ())),
    Flag::list("device-write-iops", None, "Limit write rate (IO per second) to a device").check(|text| devices::parse_operations_rate(text).map(|_| ())),
    // Content trust is gone from Docker too, which still accepts the flag.
    Flag::bool("disable-content-trust", None, "Skip image verification").default("true").hidden(),
    Flag::list("dns", None, "Set custom DNS servers").check(check_address),
    Flag::list("dns-option", None, "Set DNS options"),
    Flag::list("dns-opt", None, "Set DNS options").hidden(),
    Flag::list("dns-search", None, "Set custom DNS search domains").check(check_dns_search),
    Flag::string("domainname", None, "Container NIS domain name"),
    Flag::string("entrypoint", None, "Overwrite the default ENTRYPOINT of the image"),
    Flag::list("env", Some('e'), "Set environment variables").check(check_env),
    Flag::list("env-file", None, "Read in a file of environment variables"),
    Flag::list("expose", None, "Expose a port or a range of ports"),
    Flag::list("gpus", None, "GPU devices to add to the container ('all' to pass all GPUs)").named("gpu-request").check(|text| gpus::parse(text).map(|_| ())),
    Flag::list("group-add", None, "Add additional groups to join"),
    Flag::string("health-cmd", None, "Command to run to check health"),
    Flag::string("health-interval", None, "Time between running the check (ms|s|m|h)").named("duration").check(health::check_duration),
    Flag::string("health-on-failure", None, "Action on a container that becomes unhealthy (none|kill|stop)").named("action").check(health::check_action),
    Flag::int("health-retries", None, "Consecutive failures needed to report unhealthy"),
    Flag::string("health-start-interval", None, "Time between running the check during the start period (ms|s|m|h)").named("duration").check(health::check_duration),
    Flag::string("health-start-period", None, "Start period for the container to initialize before starting health-retries countdown (ms|s|m|h)").named("duration").check(health::check_duration),
    Flag::string("health-timeout", None, "Maximum time to allow one check to run (ms|s|m|h)").named("duration").check(health::check_duration),
    Flag::bool("help", None, "Print usage"),
    Flag::string("hostname", Some('h'), "Container host name"),
    Flag::bool("init", None, "Run an init inside the container that forwards signals and reaps processes"),
    Flag::bool("interactive", Some('i'), "Keep STDIN open even if not attached"),
    Flag::string("io-maxbandwidth", None, "Maximum IO bandwidth limit for the system drive (Windows only)").named("bytes").check(|text| parse_bytes(text).map(|_| ())).hidden(),
    Flag::int("io-maxiops", None, "Maximum IOps limit for the system drive (Windows only)").named("uint").check(|text| parse_uint(text, 64).map(|_| ())).hidden(),
    Flag::string("ip", None, "IPv4 address (e.g., 172.30.100.104)").named("ip").check(networks::check_address),
    Flag::string("ip6", None, "IPv6 address (e.g., 2001:db8::33)").named("ip").check(networks::check_address),
    Flag::string("ipc", None, "IPC mode to use"),
    Flag::string("isolation", None, "Container isolation technology"),
    Flag::string("kernel-memory", None, "Kernel memory limit (deprecated)").named("bytes").check(|text| parse_bytes(text).map(|_| ())).hidden(),
    Flag::list("label", Some('l'), "Set meta data on a container").check(check_label),
    Flag::list("label-file", None, "Read in a line delimited file of labels"),
    Flag::list("link", None, "Add link to another container").check(networks::check_link),
    Flag::list("link-local-ip", None, "Container IPv4/IPv6 link-local addresses").check(networks::check_address),
    Flag::string("log-driver", None, "Logging driver for the container"),
    Flag::list("log-opt", None, "Log driver options"),
    Flag::string("mac-address", None, "Container MAC address (e.g., 92:d0:c6:0a:29:33)"),
    Flag::string("memory", Some('m'), "Memory limit").named("bytes").check(|text| parse_bytes(text).map(|_| ())),
    Flag::string("memory-reservation", None, "Memory soft limit").named("bytes").check(|text| parse_bytes(text).map(|_| ())),
    Flag::string("memory-swap", None, "Swap limit equal to memory plus swap: '-1' to enable unlimited swap").named("bytes").check(|text| parse_swap(text).map(|_| ())),
    Flag::int("memory-swappiness", None, "Tune container memory swappiness (0 to 100)").default("-1"),
    Flag::list("mount", None, "Attach a filesystem mount to the container").named("mount").check(|text| mounts::parse_mount(text).map(|_| ())),
    Flag::string("name", None, "Assign a name to the container"),
    Flag::list("net", None, "Connect a container to a network").hidden().check(|text| networks::parse(text).map(|_| ())),
    Flag::list("network", None, "Connect a container to a network").named("network").check(|text| networks::parse(text).map(|_| ())),
    Flag::list("network-alias", None, "Add network-scoped alias for the container"),
    Flag::bool("no-healthcheck", None, "Disable any container-specified HEALTHCHECK"),
    Flag::bool("oom-kill-disable", None, "Disable OOM Killer"),
    Flag::int("oom-score-adj", None, "Tune host's OOM preferences (-1000 to 1000)"),
    Flag::string("pid", None, "PID namespace to use"),
    Flag::int("pids-limit", None, "Tune container pids limit (set -1 for unlimited)"),
    Flag::string("platform", None, "Set platform if server is multi-platform capable"),
    Flag::bool("privileged", None, "Give extended privileges to this container"),
    Flag::list("publish", Some('p'), "Publish a container's port(s) to the host"),
    Flag::bool("publish-all", Some('P'), "Publish all exposed ports to random ports"),
    Flag::bool("quiet", Some('q'), "Suppress the pull output"),
    Flag::bool("read-only", None, "Mount the container's root filesystem as read only"),
    Flag::string("restart", None, "Restart policy to apply when a container exits").default("no"),
    Flag::bool("rm", None, "Automatically remove the container and its associated anonymous volumes when it exits"),
    Flag::string("runtime", None, "Runtime to use for this container"),
    Flag::list("security-opt", None, "Security Options"),
    Flag::string("shm-size", None, "Size of /dev/shm").named("bytes").check(|text| parse_bytes(text).map(|_| ())),
    Flag::string("stop-signal", None, "Signal to stop the container"),
    Flag::int("stop-timeout", None, "Timeout (in seconds) to stop a container"),
    Flag::list("storage-opt", None, "Storage driver options for the container"),
    Flag::list("sysctl", None, "Sysctl options").named("map").check(check_sysctl),
    Flag::list("tmpfs", None, "Mount a tmpfs directory"),
    Flag::bool("tty", Some('t'), "Allocate a pseudo-TTY"),
    Flag::list("ulimit", None, "Ulimit options").default("[]").named("ulimit").check(|text| parse_ulimit(text).map(|_| ())),
    Flag::bool("use-api-socket", None, "Bind mount Docker API socket and required auth"),
    Flag::string("user", Some('u'), "Username or UID (format: <name|uid>[:<group|gid>])"),
    Flag::string("userns", None, "User namespace to use"),
    Flag::string("uts", None, "UTS namespace to use"),
    Flag::list("volume", Some('v'), "Bind mount a volume"),
    Flag::string("volume-driver", None, "Optional volume driver for the container"),
    Flag::list("volumes-from", None, "Mount volumes from the specified container(s)"),
    Flag::string("workdir", Some('w'), "Working directory inside the container"),
];

/// The flag of `create` that has other words in `run`.
pub(crate) static CREATE_ONLY: &[Flag] =
    &[Flag::string("pull", None, "Pull image before creating (\"always\", \"|missing\", \"never\")")
        .default("missing")];

/// The flags that only `run` has.
pub(crate) static RUN_ONLY: &[Flag] = &[
    Flag::string("pull", None, "Pull image before running (\"always\", \"missing\", \"never\")")
        .default("missing"),
    Flag::bool("detach", Some('d'), "Run container in background and print container ID"),
    Flag::string("detach-keys", None, "Override the key sequence for detaching a container"),
    Flag::bool("sig-proxy", None, "Proxy received signals to the process").default("true"),
];

fn check_attach(text: &str) -> Result<(), String> {
    match text.to_ascii_lowercase().as_str() {
        "stdin" | "stdout" | "stderr" => Ok(()),
        _ => Err("valid streams are STDIN, STDOUT and STDERR".to_owned()),
    }
}

/// `--env`: only the name must be there; also for `exec`.
pub(crate) fn check_env(text: &str) -> Result<(), String> {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("invalid environment variable: {text}"));
    }
    Ok(())
}

/// `--label`, also of volumes.
pub(crate) fn check_label(text: &str) -> Result<(), String> {
    if text.is_empty() || text.starts_with('=') {
        return Err(format!("invalid label '{text}': empty name"));
    }
    Ok(())
}

fn check_address(text: &str) -> Result<(), String> {
    let address = text.trim();
    match address.parse::<IpAddr>() {
        Ok(_) => Ok(()),
        Err(_) => Err(format!("IP address is not correctly formatted: {text}")),
    }
}

fn check_dns_search(text: &str) -> Result<(), String> {
    let domain = text.trim();
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let name = domain.strip_suffix('.').unwrap_or(domain);
    let valid = domain == "." || (domain.len() <= 253 && name.split('.').all(label));
    if valid { Ok(()) } else { Err(format!("{text} is not a valid domain")) }
}

/// Splits `host:ip` or `host=ip`.
pub(crate) fn split_extra_host(text: &str) -> Option<(&str, &str)> {
    text.split_once('=').or_else(|| text.split_once(':')).filter(|(host, _)| !host.is_empty())
}

/// What is wrong with an `--add-host`.
pub(crate) fn check_extra_host(text: &str) -> Result<(), String> {
    let Some((_, address)) = split_extra_host(text) else {
        return Err(format!("bad format for add-host: {text:?}"));
    };
    let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if bare == "host-gateway" || bare.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    Err(format!("invalid IP address in add-host: {address:?}"))
}

/// A size as in `-m 512m`, with go-units' error texts.
pub(crate) fn parse_bytes(text: &str) -> Result<i64, String> {
    if let Ok(bytes) = palan_stdx::size::parse_memory(text) {
        return i64::try_from(bytes).map_err(|_| format!("invalid size: '{text}'"));
    }
    let Some(last) = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ') else {
        return Err(format!("invalid size: '{text}'"));
    };
    let (number, suffix) = text.split_at(last + 1);
    match number.trim_end_matches(' ').parse::<f64>() {
        Err(_) => {
            Err(format!("strconv.ParseFloat: parsing {:?}: invalid syntax", number.trim_end_matches(' ')))
        }
        Ok(number) if number < 0.0 => Err(format!("invalid size: '{text}'")),
        Ok(_) if suffix.is_empty() => Err(format!("invalid size: '{text}'")),
        Ok(_) => Err(format!("invalid suffix: '{}'", suffix.to_ascii_lowercase())),
    }
}

/// Go's `strconv.ParseUint` with base 0, for a number of so many bits.
pub(crate) fn parse_uint(text: &str, bits: u32) -> Result<u64, String> {
    let failure = |why: &str| format!("strconv.ParseUint: parsing {text:?}: {why}");
    if text.starts_with(['-', '+']) {
        return Err(failure("invalid syntax"));
    }
    match parse_int(text) {
        Ok(number) => u64::try_from(number)
            .ok()
            .filter(|number| bits == 64 || number >> bits == 0)
            .ok_or_else(|| failure("value out of range")),
        Err(why) if why.ends_with("value out of range") => Err(failure("value out of range")),
        Err(_) => Err(failure("invalid syntax")),
    }
}

/// `--sysctl`: what belongs to a namespace that a container can have of its own.
fn check_sysctl(text: &str) -> Result<(), String> {
    const KERNEL: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    match text.split_once('=') {
        Some((key, _))
            if KERNEL.contains(&key) || key.starts_with("net.") || key.starts_with("fs.mqueue.") =>
        {
            Ok(())
        }
        _ => Err(format!("sysctl '{text}' is not allowed")),
    }
}

/// `--memory-swap`: a size, or -1 for no limit.
pub(crate) fn parse_swap(text: &str) -> Result<i64, String> {
    if text == "-1" { Ok(-1) } else { parse_bytes(text) }
}

/// `--cpus`: a decimal (or fraction) number of CPUs in units of 10⁻⁹.
pub(crate) fn parse_cpus(text: &str) -> Result<i64, String> {
    let invalid = || format!("failed to parse {text} as a rational number");
    let (numerator, denominator) = match text.split_once('/') {
        Some((numerator, denominator)) => {
            (numerator, denominator.parse::<i128>().ok().filter(|d| *d > 0).ok_or_else(invalid)?)
        }
        None => (text, 1),
    };
    let (whole, fraction) = numerator.split_once('.').unwrap_or((numerator, ""));
    let digits = format!("{whole}{fraction}");
    let digits = digits.strip_prefix('+').unwrap_or(&digits);
    if digits.is_empty()
        || digits.len() > 24
        || !digits.strip_prefix('-').unwrap_or(digits).bytes().all(|b| b.is_ascii_digit())
    {
        return Err(invalid());
    }
    let value: i128 = digits.parse().map_err(|_| invalid())?;
    let scale = 10i128.pow(u32::try_from(fraction.len()).map_err(|_| invalid())?);
    let nano = value * 1_000_000_000;
    if nano % (scale * denominator) != 0 {
        return Err("value is too precise".to_owned());
    }
    i64::try_from(nano / scale / denominator).map_err(|_| invalid())
}

/// One `--ulimit`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Ulimit {
    pub(crate) name: String,
    pub(crate) soft: i64,
    pub(crate) hard: i64,
}

/// `name=soft[:hard]`.
pub(crate) fn parse_ulimit(text: &str) -> Result<Ulimit, String> {
    const NAMES: [&str; 15] = [
        "core",
        "cpu",
        "data",
        "fsize",
        "locks",
        "memlock",
        "msgqueue",
        "nice",
        "nofile",
        "nproc",
        "rss",
        "rtprio",
        "rttime",
        "sigpending",
        "stack",
    ];
    let (name, limits) = text.split_once('=').ok_or_else(|| format!("invalid ulimit argument: {text}"))?;
    if !NAMES.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let number = |text: &str| {
        text.parse::<i64>().map_err(|_| format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
    };
    let (soft, hard) = match limits.split(':').collect::<Vec<_>>()[..] {
        [soft] => (number(soft)?, number(soft)?),
        [soft, hard] => {
            let hard = number(hard)?;
            (number(soft)?, hard)
        }
        _ => {
            return Err(format!(
                "too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"
            ));
        }
    };
    let order = "ulimit soft limit must be less than or equal to hard limit";
    if hard != -1 && soft == -1 {
        return Err(format!("{order}: soft: -1 (unlimited), hard: {hard}"));
    }
    if hard != -1 && soft > hard {
        return Err(format!("{order}: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::flags::{self, Support};

    #[test]
    fn the_table_has_no_name_twice() {
        let all: Vec<&Flag> = TABLE.iter().chain(RUN_ONLY).collect();
        for (index, flag) in all.iter().enumerate() {
            for other in &all[index + 1..] {
                assert_ne!(flag.long, other.long);
                assert!(flag.short.is_none() || flag.short != other.short, "-{:?}", flag.short);
            }
        }
        let shown = all.iter().filter(|flag| flag.support != Support::Hidden);
        let known = shown.clone().count();
        let full = shown.filter(|flag| flag.support == Support::Full).count();
        assert!(full == known && known >= 97, "{full} of {known}");
    }

    #[test]
    fn wrong_values_have_dockers_texts() {
        let check = |words: &[&str], expected: &str| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            let error = flags::parse(&[TABLE, RUN_ONLY], false, &words).unwrap_err().to_string();
            let error = error.split_once("flag: ").map_or(error.as_str(), |(_, why)| why);
            assert_eq!(error, expected, "{words:?}");
        };
        check(&["-a", "foo", "x"], "valid streams are STDIN, STDOUT and STDERR");
        check(&["-e", "=x", "y"], "invalid environment variable: =x");
        check(&["-l", "=x"], "invalid label '=x': empty name");
        check(&["--dns", "1.2.3"], "IP address is not correctly formatted: 1.2.3");
        check(&["--dns-search", "a b"], "a b is not a valid domain");
        check(&["--add-host", "a"], "bad format for add-host: \"a\"");
        check(&["--add-host", "a:b"], "invalid IP address in add-host: \"b\"");
        check(&["--ulimit", "foo"], "invalid ulimit argument: foo");
        check(&["--ulimit", "foo=1"], "invalid ulimit type: foo");
        check(&["--ulimit", "nofile=a"], "strconv.ParseInt: parsing \"a\": invalid syntax");
        check(
            &["--ulimit", "nofile=5:2"],
            "ulimit soft limit must be less than or equal to hard limit: 5 > 2",
        );
        check(
            &["--ulimit", "nofile=1:2:3"],
            "too many limit value arguments - 1:2:3, can only have up to two, `soft[:hard]`",
        );
        check(&["--cpus", "0.0000000001"], "value is too precise");
        check(&["--cpus", "1.5.5"], "failed to parse 1.5.5 as a rational number");
        check(&["--cpus", "a"], "failed to parse a as a rational number");
        check(&["-m", ""], "invalid size: ''");
        check(&["-m", "-1"], "invalid size: '-1'");
        check(&["-m", "1.5.5m"], "strconv.ParseFloat: parsing \"1.5.5\": invalid syntax");
        check(&["-m", "1mm"], "invalid suffix: 'mm'");
        check(&["-m", "1x"], "invalid suffix: 'x'");
        check(&["--memory-swap", "-2"], "invalid size: '-2'");
        check(&["--sysctl", "kernel.panic=1"], "sysctl 'kernel.panic=1' is not allowed");
        check(&["--sysctl", "net.ipv4.ip_forward"], "sysctl 'net.ipv4.ip_forward' is not allowed");
        check(&["--blkio-weight", "70000"], "strconv.ParseUint: parsing \"70000\": value out of range");
        check(&["--blkio-weight", "-1"], "strconv.ParseUint: parsing \"-1\": invalid syntax");
    }

    #[test]
    fn right_values_are_read() {
        assert_eq!(parse_cpus("1.5"), Ok(1_500_000_000));
        assert_eq!(parse_cpus(".25"), Ok(250_000_000));
        assert_eq!(parse_cpus("1/2"), Ok(500_000_000));
        assert_eq!(parse_bytes("512m"), Ok(512 << 20));
        assert_eq!(parse_swap("-1"), Ok(-1));
        assert_eq!(
            parse_ulimit("nofile=1024:2048"),
            Ok(Ulimit { name: "nofile".to_owned(), soft: 1024, hard: 2048 })
        );
        assert!(check_dns_search("example.com").is_ok() && check_dns_search(".").is_ok());
        assert!(check_extra_host("db:10.0.0.1").is_ok() && check_extra_host("db=[::1]").is_ok());
        assert!(check_extra_host("h:host-gateway").is_ok());
    }
}
