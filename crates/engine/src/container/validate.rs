//! Checks of what a caller asks, with the texts that Docker's clients know. Pure: what depends on the host is handed in.

use crate::container::{namespaces, quota, restart};
use crate::host::HostFacts;
use crate::spec::{Config, ContainerSpec, HostConfig, Resources, Ulimit};
use crate::{Class, Error, Result};

/// The smallest memory limit in which a process can start.
const MINIMUM_MEMORY: i64 = 6 << 20;

/// Characters of container and volume names.
pub(crate) const NAME_CHARACTERS: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]";

/// Longest list of variables, labels, mounts … that one container may have.
const MAX_ITEMS: usize = 10_000;

/// Whether a text fits `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    name.len() > 1
        && name.len() <= 255
        && bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-'))
}

/// A container's name without its slash.
pub(crate) fn name(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::invalid(format!("Invalid container name ({name}), only {NAME_CHARACTERS} are allowed")))
}

/// All that can be said without the image.
pub(crate) fn spec(spec: &ContainerSpec, host: &HostFacts) -> Result<()> {
    if let Some(wanted) = &spec.name {
        name(wanted)?;
    }
    config(&spec.config)?;
    host_config(&spec.host)?;
    namespaces::check(spec)?;
    resources(&spec.host.resources, host, false)?;
    Ok(())
}

/// Refuses what is known and not done here.
pub(crate) fn unsupported(what: impl std::fmt::Display) -> Error {
    Error::invalid(format!("{what} is not supported by this version"))
}

fn config(config: &Config) -> Result<()> {
    if config.env.len() + config.labels.len() + config.volumes.len() + config.exposed_ports.len() > MAX_ITEMS
    {
        return Err(Error::invalid(format!("more than {MAX_ITEMS} variables, labels, volumes and ports")));
    }
    let texts = config
        .env
        .iter()
        .chain(config.cmd.iter().flatten())
        .chain(config.entrypoint.iter().flatten())
        .chain([&config.hostname, &config.domainname, &config.user, &config.working_dir, &config.image]);
    for text in texts {
        if text.contains('\0') {
            return Err(Error::invalid(format!("{text:?} contains a NUL byte")));
        }
    }
    for variable in &config.env {
        if variable.is_empty() || variable.starts_with('=') {
            return Err(Error::invalid(format!("invalid environment variable: {variable}")));
        }
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(Error::invalid(format!(
            "the working directory '{}' is invalid, it needs to be an absolute path",
            config.working_dir
        )));
    }
    if let Some(text) = config.stop_signal.as_deref().filter(|text| !text.is_empty()) {
        signal(text)?;
    }
    for port in &config.exposed_ports {
        exposed_port(port)?;
    }
    if let Some(check) = &config.healthcheck {
        super::health::check(check)?;
    }
    host_name(&config.hostname)
}

fn host_name(text: &str) -> Result<()> {
    let fine = text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
    if fine {
        return Ok(());
    }
    Err(Error::invalid(format!("invalid hostname format: {text}")))
}

/// `80`, `80/tcp`: the port's number and protocol.
pub(crate) fn exposed_port(text: &str) -> Result<(u16, &str)> {
    let (number, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let invalid = |reason: &str| Error::invalid(format!("invalid port specification: \"{text}\"{reason}"));
    let number: u16 = number.parse().map_err(|_| invalid(""))?;
    match protocol {
        "tcp" | "udp" | "sctp" => Ok((number, protocol)),
        _ => Err(invalid(": the protocol must be tcp, udp or sctp")),
    }
}

fn host_config(host: &HostConfig) -> Result<()> {
    restart::check(&host.restart_policy, host.auto_remove)?;
    if !(-1000..=1000).contains(&host.oom_score_adj) {
        let value = host.oom_score_adj;
        return Err(Error::invalid(format!(
            "Invalid value {value}, range for oom score adj is [-1000, 1000]"
        )));
    }
    if host.shm_size < 0 {
        return Err(Error::invalid("SHM size can not be less than 0"));
    }
    if !matches!(host.isolation.to_ascii_lowercase().as_str(), "" | "default") {
        return Err(Error::invalid(format!(
            "invalid isolation ({}): linux only supports 'default'",
            host.isolation
        )));
    }
    if !host.cgroup.is_empty() {
        return Err(unsupported("a cgroup of another container"));
    }
    if host.annotations.contains_key("") {
        return Err(Error::invalid(
            "invalid Annotations: the empty string is not permitted as an annotation key",
        ));
    }
    quota::check(&host.storage_opt)?;
    for address in &host.dns {
        if address.parse::<std::net::IpAddr>().is_err() {
            return Err(Error::invalid(format!("bad parameter: {address} is not an ip address")));
        }
    }
    for line in &host.extra_hosts {
        extra_host(line)?;
    }
    for (key, value) in &host.sysctls {
        sysctl(key, value, host)?;
    }
    for limit in &host.resources.ulimits {
        ulimit(limit)?;
    }
    for group in &host.group_add {
        if group.is_empty() || group.contains(['\0', ':']) {
            return Err(Error::invalid(format!("invalid group: {group:?}")));
        }
    }
    Ok(())
}

/// One `net.….IFNAME.name=value` of an endpoint's interface, as a path below `/proc/sys` and a value.
pub(crate) fn sysctl_of_interface(text: &str, interface: &str) -> Result<(String, String)> {
    let invalid = |why: &str| Error::invalid(format!("invalid sysctl \"{text}\" of an endpoint: {why}"));
    let (key, value) = text.split_once('=').ok_or_else(|| invalid("it has no value"))?;
    let parts: Vec<&str> = key.split('.').collect();
    let [net, family, kind, placeholder, name] = parts[..] else {
        return Err(invalid("it must be like net.ipv4.conf.IFNAME.log_martians=1"));
    };
    // Docker's command line makes small letters of the whole field.
    if !placeholder.eq_ignore_ascii_case("IFNAME") {
        return Err(invalid("it must be like net.ipv4.conf.IFNAME.log_martians=1"));
    }
    let is_word = |word: &str| {
        !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    let is_known =
        net == "net" && matches!(family, "ipv4" | "ipv6" | "mpls") && matches!(kind, "conf" | "neigh");
    if !is_known || !is_word(name) {
        return Err(invalid("only settings of an interface are possible"));
    }
    Ok((format!("net/{family}/{kind}/{interface}/{name}"), value.to_owned()))
}

fn extra_host(line: &str) -> Result<()> {
    let (name, address) = line.split_once([':', '=']).unwrap_or((line, ""));
    let bare = address.trim_start_matches('[').trim_end_matches(']');
    if name.is_empty() || name.contains(char::is_whitespace) || address.is_empty() {
        return Err(Error::invalid(format!("bad format for add-host: \"{line}\"")));
    }
    if bare != "host-gateway" && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(Error::invalid(format!("invalid IP address in add-host: \"{bare}\"")));
    }
    Ok(())
}

fn sysctl(key: &str, value: &str, host: &HostConfig) -> Result<()> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    if value.contains(['\0', '\n']) || key.contains("..") {
        return Err(Error::invalid(format!("invalid value for sysctl '{key}'")));
    }
    let dotted = key.replace('/', ".");
    let private = if IPC.contains(&dotted.as_str()) || dotted.starts_with("fs.mqueue.") {
        host.ipc_mode != "host"
    } else {
        (dotted.starts_with("net.") && host.network_mode != "host")
            || (dotted == "kernel.domainname" && host.uts_mode != "host")
    };
    if private {
        return Ok(());
    }
    Err(Error::invalid(format!("sysctl \"{key}\" is not in a separate kernel namespace")))
}

/// Name and values of one resource limit.
pub(crate) fn ulimit(limit: &Ulimit) -> Result<()> {
    const NAMES: [&str; 16] = [
        "as",
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
    if !NAMES.contains(&limit.name.as_str()) {
        return Err(Error::invalid(format!("invalid ulimit type: {}", limit.name)));
    }
    let unlimited_soft = limit.soft == -1 && limit.hard != -1;
    if limit.hard != -1 && limit.soft > limit.hard || unlimited_soft || limit.soft < -1 || limit.hard < -1 {
        return Err(Error::invalid(format!(
            "ulimit soft limit must be less than or equal to hard limit: {} > {}",
            limit.soft, limit.hard
        )));
    }
    Ok(())
}

/// `update`: the other half of what belongs together may be there already.
pub(super) fn resources(wanted: &Resources, host: &HostFacts, update: bool) -> Result<()> {
    memory(wanted, update)?;
    processors(wanted, host)?;
    if wanted.blkio_weight != 0 && !(10..=1000).contains(&wanted.blkio_weight) {
        return Err(Error::invalid("Range of blkio weight is from 10 to 1000"));
    }
    for rule in &wanted.device_cgroup_rules {
        device_rule(rule)?;
    }
    Ok(())
}

fn memory(wanted: &Resources, update: bool) -> Result<()> {
    if wanted.memory != 0 && wanted.memory < MINIMUM_MEMORY {
        return Err(Error::invalid("Minimum memory limit allowed is 6MB"));
    }
    if wanted.memory > 0 && wanted.memory_swap > 0 && wanted.memory_swap < wanted.memory {
        return Err(Error::invalid("Minimum memoryswap limit should be larger than memory limit, see usage"));
    }
    if wanted.memory == 0 && wanted.memory_swap > 0 && !update {
        return Err(Error::invalid(
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ));
    }
    if let Some(swappiness) = wanted.memory_swappiness.filter(|value| !(-1..=100).contains(value)) {
        return Err(Error::invalid(format!(
            "Invalid value: {swappiness}, valid memory swappiness range is 0-100"
        )));
    }
    if wanted.memory_reservation != 0 && wanted.memory_reservation < MINIMUM_MEMORY {
        return Err(Error::invalid("Minimum memory reservation allowed is 6MB"));
    }
    if wanted.memory > 0 && wanted.memory_reservation > wanted.memory {
        return Err(Error::invalid(
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ));
    }
    Ok(())
}

fn processors(wanted: &Resources, host: &HostFacts) -> Result<()> {
    if wanted.nano_cpus > 0 && wanted.cpu_period > 0 {
        return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Period cannot both be set"));
    }
    if wanted.nano_cpus > 0 && wanted.cpu_quota > 0 {
        return Err(Error::invalid("Conflicting options: Nano CPUs and CPU Quota cannot both be set"));
    }
    if wanted.nano_cpus > 0 && !host.cpu_quota {
        return Err(Error::invalid(
            "NanoCPUs can not be set, as your kernel does not support CPU CFS scheduler or the cgroup is not mounted",
        ));
    }
    let most = i64::try_from(host.cpus).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    if wanted.nano_cpus < 0 || wanted.nano_cpus > most || (1..10_000_000).contains(&wanted.nano_cpus) {
        return Err(Error::invalid(format!(
            "range of CPUs is from 0.01 to {0}.00, as there are only {0} CPUs available",
            host.cpus
        )));
    }
    if wanted.cpu_shares < 0 {
        return Err(Error::invalid(format!(
            "invalid CPU shares ({}): value must be a positive integer",
            wanted.cpu_shares
        )));
    }
    if wanted.cpu_period != 0 && !(1000..=1_000_000).contains(&wanted.cpu_period) {
        return Err(Error::invalid(
            "CPU cfs period can not be less than 1ms (i.e. 1000) or larger than 1s (i.e. 1000000)",
        ));
    }
    if wanted.cpu_quota > 0 && wanted.cpu_quota < 1000 {
        return Err(Error::invalid("CPU cfs quota can not be less than 1ms (i.e. 1000)"));
    }
    if (wanted.cpu_realtime_period != 0 || wanted.cpu_realtime_runtime != 0) && !host.cpu_realtime {
        return Err(Error::invalid("kernel does not support CPU real-time scheduler"));
    }
    if wanted.cpu_realtime_period != 0 && wanted.cpu_realtime_runtime > wanted.cpu_realtime_period {
        return Err(Error::invalid("cpu real-time runtime cannot be higher than cpu real-time period"));
    }
    cpu_set("cpus", &wanted.cpuset_cpus, &host.cpu_list)?;
    cpu_set("mems", &wanted.cpuset_mems, &host.memory_node_list)
}

fn cpu_set(what: &str, wanted: &str, available: &str) -> Result<()> {
    if wanted.is_empty() {
        return Ok(());
    }
    let ranges = parse_list(wanted)
        .ok_or_else(|| Error::invalid(format!("Invalid value {wanted} for cpuset {what}")))?;
    let present = parse_list(available).unwrap_or_default();
    let inside = |number: u32| present.iter().any(|range| range.contains(&number));
    if ranges.iter().all(|range| range.clone().all(inside)) {
        return Ok(());
    }
    let noun = if what == "cpus" { "CPUs" } else { "memory nodes" };
    Err(Error::invalid(format!(
        "Requested {noun} are not available - requested {wanted}, available: {available}"
    )))
}

fn parse_list(text: &str) -> Option<Vec<std::ops::RangeInclusive<u32>>> {
    const LARGEST: u32 = 8191;
    text.trim()
        .split(',')
        .map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            let (first, last): (u32, u32) = (first.parse().ok()?, last.parse().ok()?);
            (first <= last && last <= LARGEST).then_some(first..=last)
        })
        .collect()
}

/// `c 1:3 rwm`: kind, major, minor, access; `None` stands for `*`.
pub(crate) fn device_rule(rule: &str) -> Result<(char, Option<i64>, Option<i64>, &str)> {
    let parsed = (|| {
        let mut words = rule.split(' ');
        let (kind, numbers, access) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || access.is_empty() || !access.chars().all(|letter| "rwm".contains(letter))
        {
            return None;
        }
        let kind = kind.chars().next().filter(|letter| kind.len() == 1 && "abc".contains(*letter))?;
        let (major, minor) = numbers.split_once(':')?;
        let number = |text: &str| match text {
            "*" => Some(None),
            digits => digits.parse::<u32>().ok().map(|number| Some(i64::from(number))),
        };
        Some((kind, number(major)?, number(minor)?, access))
    })();
    parsed.ok_or_else(|| Error::invalid(format!("invalid device cgroup rule format: '{rule}'")))
}

/// A signal by name (with or without `SIG`) or number.
pub(crate) fn signal(text: &str) -> Result<i32> {
    const NAMES: [(&str, i32); 34] = [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("TRAP", 5),
        ("ABRT", 6),
        ("IOT", 6),
        ("BUS", 7),
        ("FPE", 8),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("USR2", 12),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("STKFLT", 16),
        ("CHLD", 17),
        ("CLD", 17),
        ("CONT", 18),
        ("STOP", 19),
        ("TSTP", 20),
        ("TTIN", 21),
        ("TTOU", 22),
        ("URG", 23),
        ("XCPU", 24),
        ("XFSZ", 25),
        ("VTALRM", 26),
        ("PROF", 27),
        ("WINCH", 28),
        ("IO", 29),
        ("POLL", 29),
        ("PWR", 30),
        ("SYS", 31),
    ];
    const FIRST_REAL_TIME: i32 = 34;
    const LAST_REAL_TIME: i32 = 64;
    let unknown = || Error::new(Class::InvalidParameter, format!("invalid signal: {text}"));
    if let Ok(number) = text.parse::<i32>() {
        return if (1..=LAST_REAL_TIME).contains(&number) { Ok(number) } else { Err(unknown()) };
    }
    let upper = text.to_ascii_uppercase();
    let short = upper.strip_prefix("SIG").unwrap_or(&upper);
    if let Some((_, number)) = NAMES.iter().find(|(name, _)| *name == short) {
        return Ok(*number);
    }
    let offset = |text: &str, sign: char| {
        let digits = text.strip_prefix(sign)?;
        digits.parse::<i32>().ok().filter(|number| (0..=30).contains(number))
    };
    let number = match (short, short.strip_prefix("RTMIN"), short.strip_prefix("RTMAX")) {
        ("RTMIN", ..) => Some(FIRST_REAL_TIME),
        ("RTMAX", ..) => Some(LAST_REAL_TIME),
        (_, Some(rest), _) => offset(rest, '+').map(|number| FIRST_REAL_TIME + number),
        (_, _, Some(rest)) => offset(rest, '-').map(|number| LAST_REAL_TIME - number),
        _ => None,
    };
    number.ok_or_else(unknown)
}

/// The detach keys as bytes: `ctrl-p,ctrl-q` is `[16, 17]`.
pub(crate) fn detach_keys(text: &str) -> Result<Vec<u8>> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let unknown = |key: &str| {
        Error::invalid(format!("Invalid detach keys ({text}) provided: Unknown character: '{key}'"))
    };
    text.split(',')
        .map(|key| match (key.strip_prefix("ctrl-"), key.as_bytes()) {
            (Some(rest), _) => match rest.as_bytes() {
                [letter @ b'a'..=b'z'] => Ok(letter - b'a' + 1),
                [b'@'] => Ok(0),
                [b'['] => Ok(27),
                [b'\\'] => Ok(28),
                [b']'] => Ok(29),
                [b'^'] => Ok(30),
                [b'_'] => Ok(31),
                _ => Err(unknown(key)),
            },
            (None, [single]) => Ok(*single),
            (None, _) if key.eq_ignore_ascii_case("del") => Ok(127),
            _ => Err(unknown(key)),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host() -> HostFacts {
        HostFacts {
            cpus: 2,
            cpu_list: "0-1".into(),
            memory_node_list: "0".into(),
            cpu_quota: true,
            cpu_realtime: true,
            ..HostFacts::default()
        }
    }

    fn check(change: impl FnOnce(&mut ContainerSpec), expected: &str) {
        let mut asked = ContainerSpec::default();
        change(&mut asked);
        match spec(&asked, &host()) {
            Ok(()) => assert_eq!(expected, "", "was accepted"),
            Err(error) => assert_eq!(error.report(), expected),
        }
    }

    #[test]
    fn names() {
        check(|spec| spec.name = Some("web-1.x_y".into()), "");
        check(
            |spec| spec.name = Some("-x".into()),
            "Invalid container name (-x), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        );
        check(
            |spec| spec.name = Some("a".into()),
            "Invalid container name (a), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        );
    }

    #[test]
    fn limits() {
        check(|spec| spec.host.resources.memory = 1024, "Minimum memory limit allowed is 6MB");
        check(
            |spec| {
                spec.host.resources.memory = 64 << 20;
                spec.host.resources.memory_swap = 32 << 20;
            },
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        );
        check(
            |spec| spec.host.resources.memory_swap = 32 << 20,
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        );
        check(
            |spec| spec.host.resources.nano_cpus = 3_000_000_000,
            "range of CPUs is from 0.01 to 2.00, as there are only 2 CPUs available",
        );
        check(|spec| spec.host.resources.nano_cpus = 1_500_000_000, "");
        check(
            |spec| spec.host.resources.cpuset_cpus = "0-7".into(),
            "Requested CPUs are not available - requested 0-7, available: 0-1",
        );
        check(|spec| spec.host.resources.cpuset_cpus = "a".into(), "Invalid value a for cpuset cpus");
        check(|spec| spec.host.shm_size = -1, "SHM size can not be less than 0");
        check(
            |spec| {
                spec.host.resources.cpu_realtime_period = 1000;
                spec.host.resources.cpu_realtime_runtime = 2000;
            },
            "cpu real-time runtime cannot be higher than cpu real-time period",
        );
        check(|spec| spec.host.resources.cpu_realtime_runtime = 2000, "");
        check(|spec| spec.host.resources.blkio_weight = 5, "Range of blkio weight is from 10 to 1000");
    }

    #[test]
    fn the_rest() {
        check(
            |spec| spec.config.working_dir = "tmp".into(),
            "the working directory 'tmp' is invalid, it needs to be an absolute path",
        );
        check(|spec| spec.config.env = vec!["=x".into()], "invalid environment variable: =x");
        check(|spec| spec.config.stop_signal = Some("SIGFOO".into()), "invalid signal: SIGFOO");
        check(|spec| spec.host.dns = vec!["x".into()], "bad parameter: x is not an ip address");
        check(
            |spec| spec.host.restart_policy.name = "sometimes".into(),
            "invalid restart policy: unknown policy 'sometimes'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'",
        );
        check(
            |spec| spec.host.isolation = "hyperv".into(),
            "invalid isolation (hyperv): linux only supports 'default'",
        );
        check(|spec| spec.host.isolation = "Default".into(), "");
        check(
            |spec| drop(spec.host.annotations.insert(String::new(), "x".into())),
            "invalid Annotations: the empty string is not permitted as an annotation key",
        );
        check(
            |spec| drop(spec.host.sysctls.insert("kernel.panic".into(), "1".into())),
            "sysctl \"kernel.panic\" is not in a separate kernel namespace",
        );
    }

    #[test]
    fn signals() {
        assert_eq!(signal("SIGTERM").ok(), Some(15));
        assert_eq!(signal("kill").ok(), Some(9));
        assert_eq!(signal("RTMIN+3").ok(), Some(37));
        assert_eq!(signal("9").ok(), Some(9));
        assert!(
            signal("0").is_err()
                && signal("65").is_err()
                && signal("").is_err()
                && signal("RTMIN+31").is_err()
        );
    }

    #[test]
    fn keys_that_detach() {
        assert_eq!(detach_keys("ctrl-p,ctrl-q").ok(), Some(vec![16, 17]));
        assert_eq!(detach_keys("a,b").ok(), Some(vec![b'a', b'b']));
        assert!(detach_keys("ctrl-1").is_err());
    }

    #[test]
    fn device_rules() {
        assert_eq!(device_rule("c 1:* rw").ok(), Some(('c', Some(1), None, "rw")));
        assert!(device_rule("c 1:3 rwx").is_err());
        assert!(device_rule("cc 1:3 r").is_err());
    }
}
