//! The flags of `build`: those of Docker's build with BuildKit, and of the classic builder what there is a meaning for.

use crate::flags::Flag;
use crate::output::build::Mode;
use crate::run_flags::{check_extra_host, parse_bytes, parse_ulimit};

use super::call::Call;
use super::{cache, contexts, export, secrets, ssh};

/// The table.
#[rustfmt::skip]
pub(crate) static TABLE: &[Flag] = &[
    Flag::list("add-host", None, "Add a custom host-to-IP mapping (format: \"host:ip\")").named("strings").check(check_hosts),
    array("allow", None, "Allow extra privileged entitlement (e.g., \"network.host\", \"security.insecure\")").check(check_allow),
    array("annotation", None, "Add annotation to the image").check(check_pair),
    array("attest", None, "Attestation parameters (format: \"type=sbom,generator=image\")").check(check_attest),
    array("build-arg", None, "Set build-time variables"),
    array("build-context", None, "Additional build contexts (e.g., name=path)").check(|text| contexts::parse(text).map(drop)),
    Flag::string("builder", None, "Override the configured builder instance").default("default").check(check_builder),
    array("cache-from", None, "External cache sources (e.g., \"user/app:cache\", \"type=local,src=path/to/dir\")").check(|text| cache::parse(text, cache::Direction::From).map(drop)),
    array("cache-to", None, "Cache export destinations (e.g., \"user/app:cache\", \"type=local,dest=path/to/dir\")").check(|text| cache::parse(text, cache::Direction::To).map(drop)),
    Flag::string("call", None, "Set method for evaluating build (\"check\", \"outline\", \"targets\")").default("build").check(|text| Call::parse(text).map(drop)),
    Flag::string("cgroup-parent", None, "Set the parent cgroup for the \"RUN\" instructions during build"),
    Flag::bool("check", None, "Shorthand for \"--call=check\""),
    Flag::string("file", Some('f'), "Name of the Dockerfile (default: \"PATH/Dockerfile\")"),
    Flag::string("iidfile", None, "Write the image ID to a file"),
    array("label", None, "Set metadata for an image"),
    Flag::bool("load", None, "Shorthand for \"--output=type=docker\""),
    Flag::string("metadata-file", None, "Write build result metadata to a file"),
    Flag::string("network", None, "Set the networking mode for the \"RUN\" instructions during build").default("default").check(check_network),
    Flag::bool("no-cache", None, "Do not use cache when building the image"),
    array("no-cache-filter", None, "Do not cache specified stages"),
    Flag::string("on-error", None, "Open a shell in the files of the step that fails (\"shell\")").check(check_on_error),
    array("output", Some('o'), "Output destination (format: \"type=local,dest=path\")").check(|text| export::parse(text).map(drop)),
    array("platform", None, "Set target platform for build"),
    Flag::string("progress", None, "Set type of progress output (\"auto\", \"none\", \"plain\", \"quiet\", \"rawjson\", \"tty\"). Use plain to show container output").default("auto").check(check_progress),
    Flag::string("provenance", None, "Shorthand for \"--attest=type=provenance\""),
    Flag::bool("pull", None, "Always attempt to pull all referenced images"),
    Flag::bool("push", None, "Shorthand for \"--output=type=registry\""),
    Flag::bool("quiet", Some('q'), "Suppress the build output and print image ID on success"),
    Flag::string("sbom", None, "Shorthand for \"--attest=type=sbom\""),
    array("secret", None, "Secret to expose to the build (format: \"id=mysecret[,src=/local/secret]\")").check(|text| secrets::parse(text).map(drop)),
    Flag::string("shm-size", None, "Shared memory size for build containers").named("bytes").check(|text| parse_bytes(text).map(drop)),
    array("ssh", None, "SSH agent socket to expose to the build (format: \"default|<id>[=<socket>]\")").check(|text| ssh::parse(text).map(drop)),
    array("tag", Some('t'), "Name and optionally a tag (format: \"name:tag\")").check(|text| export::tag(text).map(drop)),
    Flag::string("target", None, "Set the target build stage to build"),
    Flag::list("ulimit", None, "Ulimit options").default("[]").named("ulimit").check(|text| parse_ulimit(text).map(drop)),

    // What BuildKit's clients have that needs more than a build.
    array("policy", None, "Policy configuration").not_yet(),
    array("resource", None, "Resource limits").not_yet(),

    // What the classic builder had. Containers of steps never stay, so these two say what is so anyway.
    Flag::bool("rm", None, "Remove intermediate containers after a successful build").default("true").hidden().check(check_removal),
    Flag::bool("force-rm", None, "Always remove intermediate containers").hidden(),
    Flag::bool("disable-content-trust", None, "Skip image verification").default("true").hidden().check(check_trust),
    Flag::bool("compress", None, "Compress the build context using gzip").not_yet(),
    Flag::string("isolation", None, "Container isolation technology").hidden().check(check_isolation),
    Flag::int("cpu-period", None, "Limit the CPU CFS (Completely Fair Scheduler) period").not_yet(),
    Flag::int("cpu-quota", None, "Limit the CPU CFS (Completely Fair Scheduler) quota").not_yet(),
    Flag::int("cpu-shares", Some('c'), "CPU shares (relative weight)").not_yet(),
    Flag::string("cpuset-cpus", None, "CPUs in which to allow execution (0-3, 0,1)").not_yet(),
    Flag::string("cpuset-mems", None, "MEMs in which to allow execution (0-3, 0,1)").not_yet(),
    Flag::string("memory", Some('m'), "Memory limit").named("bytes").not_yet(),
    Flag::string("memory-swap", None, "Swap limit equal to memory plus swap").named("bytes").not_yet(),
    Flag::list("security-opt", None, "Security options").not_yet(),
    Flag::bool("squash", None, "Squash newly built layers into a single new layer").not_yet(),
];

const fn array(long: &'static str, short: Option<char>, help: &'static str) -> Flag {
    Flag::list(long, short, help).named("stringArray")
}

fn check_hosts(text: &str) -> Result<(), String> {
    text.split(',').try_for_each(check_extra_host)
}

fn check_allow(text: &str) -> Result<(), String> {
    match text {
        "network.host" | "security.insecure" => Ok(()),
        "device" => Err("devices are not supported yet".to_owned()),
        _ if text.starts_with("device=") => Err("devices are not supported yet".to_owned()),
        // Bake asks with these whether a file may be read; `build` never does without being told to.
        _ if text
            .split_once('=')
            .is_some_and(|(kind, _)| matches!(kind, "fs" | "fs.read" | "fs.write" | "ssh")) =>
        {
            Ok(())
        }
        _ => Err(format!("invalid entitlement: {text} (one of network.host, security.insecure)")),
    }
}

fn check_pair(text: &str) -> Result<(), String> {
    match text.split_once('=') {
        Some((key, _)) if !key.is_empty() => Ok(()),
        _ => Err("invalid annotation, expected key=value".to_owned()),
    }
}

fn check_attest(text: &str) -> Result<(), String> {
    super::request::attest(text).map(drop)
}

fn check_builder(text: &str) -> Result<(), String> {
    match text {
        "" | "default" => Ok(()),
        _ => Err(format!(
            "no builder {text:?} found: builds are the daemon's own; choose a daemon with --context or --host"
        )),
    }
}

fn check_network(text: &str) -> Result<(), String> {
    match text {
        "" | "default" | "none" | "host" => Ok(()),
        _ => Err(format!(
            "network mode {text:?} not supported: steps of a build run with \"default\", \"none\" or \"host\""
        )),
    }
}

fn check_progress(text: &str) -> Result<(), String> {
    Mode::parse(text).map(drop).ok_or_else(|| {
        let names: Vec<&str> = Mode::NAMES.iter().map(|(name, _)| *name).collect();
        format!("must be one of: {}", names.join(", "))
    })
}

fn check_on_error(text: &str) -> Result<(), String> {
    match text {
        "" | "shell" => Ok(()),
        _ => Err("must be \"shell\"".to_owned()),
    }
}

fn check_removal(text: &str) -> Result<(), String> {
    match crate::flags::parse_bool(text)? {
        true => Ok(()),
        false => Err("the containers of a build's steps are always removed".to_owned()),
    }
}

fn check_trust(text: &str) -> Result<(), String> {
    match crate::flags::parse_bool(text)? {
        true => Ok(()),
        false => Err("content trust is not supported".to_owned()),
    }
}

fn check_isolation(text: &str) -> Result<(), String> {
    match text {
        "" | "default" => Ok(()),
        _ => Err(format!("invalid isolation {text:?}: on Linux there is \"default\" only")),
    }
}
