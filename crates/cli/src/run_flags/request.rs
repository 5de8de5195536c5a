//! From the flags of `run` and `create` to the request that creates the container.

use std::path::Path;

use palan_docker_api::types::{
    ContainerConfig, CreateContainerRequest, Empty, HostConfig, LogConfig, NetworkingConfig, PortBinding,
    RestartPolicy, StringMap, Ulimit,
};
use palan_stdx::fs;

use super::key_values::{self, Bare};
use super::mounts::{self, Volume};
use super::{
    devices, gpus, health, namespaces, networks, parse_bytes, parse_cpus, parse_swap, parse_ulimit, publish,
    split_extra_host,
};
use crate::flags::Parsed;
use crate::output::json;

/// What the flags are read against.
pub(crate) struct Surroundings<'a> {
    /// Looks a variable of our own environment up, for `-e NAME`.
    pub(crate) lookup: &'a dyn Fn(&str) -> Option<String>,
    pub(crate) working_directory: &'a Path,
    /// `NAME=value` for the proxies that the client's configuration sets in every container.
    pub(crate) proxies: &'a [(String, String)],
}

/// Builds the request; `args` are the image and the command. Errors are Docker's texts.
pub(crate) fn build(
    flags: &Parsed,
    args: &[String],
    around: &Surroundings<'_>,
) -> Result<CreateContainerRequest, String> {
    let mut config = config(flags, args, around)?;
    let mut host = host_config(flags)?;
    set_devices(flags, &mut host)?;
    namespaces::set(flags, &mut host)?;
    set_mounts(flags, around, &mut config, &mut host)?;
    set_ports(flags, &mut config, &mut host)?;
    let mut names = flags.list("network");
    names.extend(flags.list("net"));
    let (mode, endpoints) = networks::resolve(&names, &networks::OfContainer::from_flags(flags))?;
    if !networks::is_user_defined(&mode) {
        host.links = flags.list("link").iter().map(|link| (*link).to_owned()).collect();
    }
    host.network_mode = mode;
    // With `on-failure` it is removed when it has ended for good.
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no" | "on-failure") {
        return Err("conflicting options: cannot specify both --restart and --rm".to_owned());
    }
    let networking_config = NetworkingConfig { endpoints_config: endpoints };
    Ok(CreateContainerRequest { config, host_config: host, networking_config })
}

fn config(flags: &Parsed, args: &[String], around: &Surroundings<'_>) -> Result<ContainerConfig, String> {
    let attach: Vec<String> = flags.list("attach").iter().map(|name| name.to_ascii_lowercase()).collect();
    let attached = |name: &str| attach.iter().any(|asked| asked == name);
    let interactive = flags.bool("interactive");
    let attach_stdin = interactive || attached("stdin");
    let entrypoint = flags.given("entrypoint").map(|path| vec![path.to_owned()]);
    Ok(ContainerConfig {
        hostname: flags.string("hostname").to_owned(),
        domainname: flags.string("domainname").to_owned(),
        user: flags.string("user").to_owned(),
        attach_stdin,
        attach_stdout: attach.is_empty() || attached("stdout"),
        attach_stderr: attach.is_empty() || attached("stderr"),
        tty: flags.bool("tty"),
        open_stdin: interactive,
        stdin_once: interactive && attach_stdin,
        env: environment(&flags.list("env-file"), &flags.list("env"), around)?,
        cmd: args.get(1..).unwrap_or_default().to_vec(),
        healthcheck: health::check(flags)?,
        image: args.first().cloned().unwrap_or_default(),
        working_dir: flags.string("workdir").to_owned(),
        entrypoint,
        labels: labels(flags)?,
        stop_signal: flags.string("stop-signal").to_owned(),
        stop_timeout: flags.changed("stop-timeout").then(|| flags.int("stop-timeout")),
        ..ContainerConfig::default()
    })
}

/// The variables of a container: files first, then `-e`, a bare name taking our own value; also for `exec`.
pub(crate) fn environment(
    files: &[&str],
    flags: &[&str],
    around: &Surroundings<'_>,
) -> Result<Vec<String>, String> {
    let mut variables = key_values::read(files, Bare::FromEnvironment(around.lookup))?;
    for text in flags {
        let value = if text.contains('=') { None } else { (around.lookup)(text) };
        variables.push(match value {
            Some(value) => format!("{text}={value}"),
            // A bare name that isn't set here removes the image's variable.
            None => (*text).to_owned(),
        });
    }
    let named = |name: &str, variables: &[String]| {
        variables.iter().any(|variable| variable.split('=').next() == Some(name))
    };
    for (name, value) in around.proxies {
        if !named(name, &variables) {
            variables.push(format!("{name}={value}"));
        }
    }
    Ok(variables)
}

fn labels(flags: &Parsed) -> Result<StringMap, String> {
    let mut lines = key_values::read(&flags.list("label-file"), Bare::Keep)?;
    lines.extend(flags.list("label").iter().map(|label| (*label).to_owned()));
    Ok(map(lines.iter().map(String::as_str)))
}

/// `name=value` texts as a map; a bare name has an empty value.
pub(crate) fn map<'a>(texts: impl IntoIterator<Item = &'a str>) -> StringMap {
    texts
        .into_iter()
        .map(|text| text.split_once('=').unwrap_or((text, "")))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

fn host_config(flags: &Parsed) -> Result<HostConfig, String> {
    let list = |name: &str| flags.list(name).iter().map(|text| (*text).to_owned()).collect::<Vec<String>>();
    let bytes = |name: &str| flags.given(name).map_or(Ok(0), parse_bytes);
    let log_options = flags.list("log-opt");
    let log_driver = flags.string("log-driver");
    if log_driver == "none" && !log_options.is_empty() {
        return Err(format!("invalid logging opts for driver {log_driver}"));
    }
    let (security_opt, system_paths) = security_options(&flags.list("security-opt"))?;
    let mut dns_options = list("dns-option");
    dns_options.extend(list("dns-opt"));
    Ok(HostConfig {
        container_id_file: flags.string("cidfile").to_owned(),
        log_config: LogConfig { kind: log_driver.to_owned(), config: map(log_options) },
        restart_policy: restart_policy(flags.string("restart"))?,
        auto_remove: flags.bool("rm"),
        annotations: map(flags.list("annotation")),
        cap_add: list("cap-add"),
        cap_drop: list("cap-drop"),
        dns: flags.list("dns").iter().map(|address| address.trim().to_owned()).collect(),
        dns_options,
        dns_search: list("dns-search"),
        extra_hosts: flags
            .list("add-host")
            .iter()
            .filter_map(|text| split_extra_host(text))
            .map(|(host, address)| {
                let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']'));
                format!("{host}:{}", bare.unwrap_or(address))
            })
            .collect(),
        group_add: list("group-add"),
        oom_score_adj: flags.int("oom-score-adj"),
        privileged: flags.bool("privileged"),
        publish_all_ports: flags.bool("publish-all"),
        readonly_rootfs: flags.bool("read-only"),
        runtime: flags.string("runtime").to_owned(),
        security_opt,
        storage_opt: storage_options(&flags.list("storage-opt"))?,
        volume_driver: flags.string("volume-driver").to_owned(),
        volumes_from: flags.list("volumes-from").into_iter().map(str::to_owned).collect(),
        tmpfs: flags
            .list("tmpfs")
            .iter()
            .map(|text| text.split_once(':').unwrap_or((text, "")))
            .map(|(path, options)| (path.to_owned(), options.to_owned()))
            .collect(),
        shm_size: bytes("shm-size")?,
        sysctls: map(flags.list("sysctl")),
        cpu_shares: flags.int("cpu-shares"),
        memory: bytes("memory")?,
        nano_cpus: flags.given("cpus").map_or(Ok(0), parse_cpus)?,
        cgroup_parent: flags.string("cgroup-parent").to_owned(),
        cpu_period: flags.int("cpu-period"),
        cpu_quota: flags.int("cpu-quota"),
        cpu_realtime_period: flags.int("cpu-rt-period"),
        cpu_realtime_runtime: flags.int("cpu-rt-runtime"),
        cpuset_cpus: flags.string("cpuset-cpus").to_owned(),
        cpuset_mems: flags.string("cpuset-mems").to_owned(),
        memory_reservation: bytes("memory-reservation")?,
        memory_swap: flags.given("memory-swap").map_or(Ok(0), parse_swap)?,
        memory_swappiness: Some(swappiness(flags.int("memory-swappiness"))?),
        oom_kill_disable: Some(flags.bool("oom-kill-disable")),
        pids_limit: Some(flags.int("pids-limit")),
        ulimits: flags
            .list("ulimit")
            .iter()
            .map(|text| {
                parse_ulimit(text).map(|limit| Ulimit {
                    name: limit.name,
                    hard: limit.hard,
                    soft: limit.soft,
                })
            })
            .collect::<Result<_, _>>()?,
        // An empty list masks nothing: what `systempaths=unconfined` means, which the daemon doesn't know.
        masked_paths: system_paths.then(Vec::new),
        readonly_paths: system_paths.then(Vec::new),
        init: flags.changed("init").then(|| flags.bool("init")),
        ..HostConfig::default()
    })
}

/// -1 leaves it to the daemon.
fn swappiness(percent: i64) -> Result<i64, String> {
    match percent {
        -1..=100 => Ok(percent),
        _ => Err(format!("invalid value: {percent}. Valid memory swappiness range is 0-100")),
    }
}

fn storage_options(options: &[&str]) -> Result<StringMap, String> {
    if options.iter().any(|option| !option.contains('=')) {
        return Err("invalid storage option".to_owned());
    }
    Ok(map(options.iter().copied()))
}

fn set_devices(flags: &Parsed, host: &mut HostConfig) -> Result<(), String> {
    let rates = |name: &str, parse: fn(&str) -> Result<_, String>| {
        flags.list(name).into_iter().map(parse).collect::<Result<Vec<_>, _>>()
    };
    host.blkio_weight = devices::parse_own_weight(flags.string("blkio-weight"))?;
    let weights = flags.list("blkio-weight-device").into_iter();
    host.blkio_weight_device = weights.map(devices::parse_weight).collect::<Result<_, _>>()?;
    host.blkio_device_read_bps = rates("device-read-bps", devices::parse_bytes_rate)?;
    host.blkio_device_write_bps = rates("device-write-bps", devices::parse_bytes_rate)?;
    host.blkio_device_read_iops = rates("device-read-iops", devices::parse_operations_rate)?;
    host.blkio_device_write_iops = rates("device-write-iops", devices::parse_operations_rate)?;
    host.device_cgroup_rules = flags.list("device-cgroup-rule").into_iter().map(str::to_owned).collect();
    host.device_requests = flags.list("gpus").into_iter().map(gpus::parse).collect::<Result<_, _>>()?;
    let (mappings, described) = devices::parse(&flags.list("device"))?;
    host.devices = mappings;
    host.device_requests.extend(described);
    Ok(())
}

pub(crate) fn restart_policy(text: &str) -> Result<RestartPolicy, String> {
    let (name, count) = match text.split_once(':') {
        Some(("", _)) => {
            return Err("invalid restart policy format: no policy provided before colon".to_owned());
        }
        Some((name, count)) => {
            let count = count.parse().map_err(|_| {
                "invalid restart policy format: maximum retry count must be an integer".to_owned()
            })?;
            (name, count)
        }
        None => (text, 0),
    };
    Ok(RestartPolicy { name: name.to_owned(), maximum_retry_count: count })
}

/// The options for the daemon, with seccomp profiles read in, and whether system paths are unconfined.
fn security_options(asked: &[&str]) -> Result<(Vec<String>, bool), String> {
    let mut options = Vec::new();
    let mut unconfined = false;
    for text in asked {
        if *text == "systempaths=unconfined" {
            unconfined = true;
            continue;
        }
        let bare = text.split(['=', ':']).next() == Some("no-new-privileges");
        let pair =
            text.split_once('=').or_else(|| text.split_once(':')).filter(|(_, value)| !value.is_empty());
        match pair {
            None if !bare => return Err(format!("Invalid --security-opt: {text:?}")),
            Some(("seccomp", profile)) if !matches!(profile, "builtin" | "unconfined") => {
                options.push(format!("seccomp={}", seccomp_profile(profile)?));
            }
            _ => options.push((*text).to_owned()),
        }
    }
    Ok((options, unconfined))
}

fn seccomp_profile(path: &str) -> Result<String, String> {
    let bytes = fs::read(Path::new(path)).map_err(|error| {
        let why = key_values::go_open_error(path, error.kind(), &error);
        format!("opening seccomp profile ({path}) failed: {why}")
    })?;
    let invalid = |why: String| format!("compacting json for seccomp profile ({path}) failed: {why}");
    let text = String::from_utf8(bytes).map_err(|error| invalid(error.to_string()))?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text).map_err(|error| invalid(error.to_string()))?;
    Ok(json::compact(&text))
}

fn set_mounts(
    flags: &Parsed,
    around: &Surroundings<'_>,
    config: &mut ContainerConfig,
    host: &mut HostConfig,
) -> Result<(), String> {
    for text in flags.list("volume") {
        match mounts::parse_volume(text, around.working_directory)? {
            Volume::Anonymous(path) => drop(config.volumes.insert(path, Empty {})),
            Volume::Bind(bind) => host.binds.push(bind),
        }
    }
    for text in flags.list("mount") {
        let mut mount = mounts::parse_mount(text)?;
        mounts::absolute_source(&mut mount, around.working_directory);
        host.mounts.push(mount);
    }
    Ok(())
}

fn set_ports(flags: &Parsed, config: &mut ContainerConfig, host: &mut HostConfig) -> Result<(), String> {
    for text in flags.list("publish") {
        for binding in publish::parse(text)? {
            config.exposed_ports.insert(binding.port.clone(), Empty {});
            host.port_bindings
                .entry(binding.port)
                .or_default()
                .get_or_insert_default()
                .push(PortBinding { host_ip: binding.host_address, host_port: binding.host_port });
        }
    }
    for text in flags.list("expose") {
        for port in publish::parse_expose(text)? {
            config.exposed_ports.insert(port, Empty {});
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{RUN_ONLY, TABLE};
    use super::*;
    use crate::flags;

    fn run(line: &str) -> Result<CreateContainerRequest, String> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        let parsed = flags::parse(&[TABLE, RUN_ONLY], false, &words).map_err(|error| error.to_string())?;
        let around = Surroundings {
            lookup: &|name| (name == "HOME").then(|| "/root".to_owned()),
            working_directory: Path::new("/work"),
            proxies: &[("HTTP_PROXY".to_owned(), "http://proxy".to_owned())],
        };
        build(&parsed, &parsed.args.clone(), &around)
    }

    #[test]
    fn the_common_flags_arrive() {
        let request =
            run("-it --rm -e A=1 -e HOME -e NOPE -v /data -v ./src:/src -p 8080:80 -m 64m --cpus 1.5 \
                           --entrypoint /bin/sh --network none --init --label a=b --label c image -c ls")
            .unwrap();
        let config = &request.config;
        assert!(config.tty && config.open_stdin && config.attach_stdin && config.stdin_once);
        assert!(config.attach_stdout && config.attach_stderr);
        assert_eq!(config.env, ["A=1", "HOME=/root", "NOPE", "HTTP_PROXY=http://proxy"]);
        assert_eq!(config.image, "image");
        assert_eq!(config.cmd, ["-c", "ls"]);
        assert_eq!(config.entrypoint.as_deref(), Some(&["/bin/sh".to_owned()][..]));
        assert!(config.volumes.contains_key("/data"));
        assert!(config.exposed_ports.contains_key("80/tcp"));
        assert_eq!(config.labels["a"], "b");
        assert_eq!(config.labels["c"], "");
        let host = &request.host_config;
        assert_eq!(host.binds, ["/work/src:/src"]);
        assert_eq!(host.port_bindings["80/tcp"].as_ref().unwrap()[0].host_port, "8080");
        assert_eq!((host.memory, host.nano_cpus), (64 << 20, 1_500_000_000));
        assert_eq!((host.network_mode.as_str(), host.init), ("none", Some(true)));
        assert!(host.auto_remove);
    }

    #[test]
    fn conflicts_and_wrong_combinations_have_dockers_texts() {
        let check = |line: &str, expected: &str| assert_eq!(run(line).unwrap_err(), expected, "{line}");
        check("--rm --restart always x", "conflicting options: cannot specify both --restart and --rm");
        check(
            "--restart on-failure:a x",
            "invalid restart policy format: maximum retry count must be an integer",
        );
        check("--restart :1 x", "invalid restart policy format: no policy provided before colon");
        check("--log-driver none --log-opt a=b x", "invalid logging opts for driver none");
        check("--security-opt foo x", "Invalid --security-opt: \"foo\"");
        check(
            "--security-opt seccomp=/nonexist x",
            "opening seccomp profile (/nonexist) failed: open /nonexist: no such file or directory",
        );
        check("--env-file /nonexist x", "open /nonexist: no such file or directory");
        check("-p 99999:1 x", "invalid hostPort: 99999");
        check("--device a x", "a is not an absolute path");
        check("--device /dev/a:/b:z x", "bad mode specified: z");
        check("--pid container: x", "--pid: invalid PID mode");
        check("--uts container:a x", "--uts: invalid UTS mode");
        check("--userns private x", "--userns: invalid USER mode");
        check("--cgroupns none x", "--cgroupns: invalid CGROUP mode");
        check("--storage-opt size x", "invalid storage option");
        check("--memory-swappiness 101 x", "invalid value: 101. Valid memory swappiness range is 0-100");
        check(
            "--cpu-count 2 x",
            "\"--cpu-count\" is only supported on a Docker daemon running on windows, but the Docker daemon is \
             running on linux",
        );
    }

    #[test]
    fn health_checks() {
        let check =
            run("--health-cmd true --health-interval 1m30s --health-retries 2 --health-on-failure kill x");
        let check = check.unwrap().config.healthcheck.unwrap();
        assert_eq!(check.test, ["CMD-SHELL", "true"]);
        assert_eq!((check.interval, check.retries, check.on_failure.as_str()), (90_000_000_000, 2, "kill"));
        assert_eq!(run("x").unwrap().config.healthcheck, None);
        assert_eq!(run("--no-healthcheck x").unwrap().config.healthcheck.unwrap().test, ["NONE"]);
        let fails = |line: &str, expected: &str| assert_eq!(run(line).unwrap_err(), expected, "{line}");
        fails("--no-healthcheck --health-cmd a x", "--no-healthcheck conflicts with --health-* options");
        fails("--health-timeout -1s x", "--health-timeout cannot be negative");
        fails("--health-retries -1 x", "--health-retries cannot be negative");
        let wrong = run("--health-interval 5 x").unwrap_err();
        assert!(wrong.contains("time: missing unit in duration"), "{wrong}");
        let wrong = run("--health-on-failure panic x").unwrap_err();
        assert!(wrong.contains("valid actions are none, kill, restart and stop"), "{wrong}");
    }

    #[test]
    fn limits_devices_and_namespaces_arrive() {
        let request = run(
            "--annotation a=b --blkio-weight 300 --cgroup-parent /p --cpu-quota -1 --cpu-rt-runtime 5 \
                           --device-read-bps /dev/sda:1m --device v.com/c=d --gpus all --domainname d --ipc shareable \
                           --pid container:web --uts host --sysctl net.ipv4.ip_forward=1 --storage-opt size=1G \
                           --memory-swappiness 0 --oom-kill-disable --cpuset-mems 0 image",
        );
        let CreateContainerRequest { config, host_config: host, .. } = request.unwrap();
        assert_eq!(config.domainname, "d");
        assert_eq!((host.annotations["a"].as_str(), host.storage_opt["size"].as_str()), ("b", "1G"));
        assert_eq!((host.blkio_weight, host.cpu_quota, host.cpu_realtime_runtime), (300, -1, 5));
        assert_eq!(host.blkio_device_read_bps[0].rate, 1 << 20);
        let drivers: Vec<_> = host.device_requests.iter().map(|request| request.driver.as_str()).collect();
        assert_eq!(drivers, ["", "cdi"]);
        assert_eq!((host.ipc_mode.as_str(), host.pid_mode.as_str()), ("shareable", "container:web"));
        assert_eq!((host.uts_mode.as_str(), host.cpuset_mems.as_str()), ("host", "0"));
        assert_eq!((host.memory_swappiness, host.oom_kill_disable), (Some(0), Some(true)));
        assert_eq!(host.sysctls["net.ipv4.ip_forward"], "1");
    }

    #[test]
    fn security_options_and_devices_are_read() {
        let request = run("--security-opt no-new-privileges --security-opt systempaths=unconfined \
                           --device /dev/null:/dev/x:rw --device /dev/zero:r --entrypoint= -a stdout x")
        .unwrap();
        assert_eq!(request.host_config.security_opt, ["no-new-privileges"]);
        assert_eq!(request.host_config.masked_paths, Some(Vec::new()));
        assert_eq!(request.host_config.devices[0].cgroup_permissions, "rw");
        assert_eq!(request.host_config.devices[1].path_in_container, "/dev/zero");
        assert_eq!(request.config.entrypoint, Some(vec![String::new()]));
        assert!(request.config.attach_stdout && !request.config.attach_stderr);
    }
}
