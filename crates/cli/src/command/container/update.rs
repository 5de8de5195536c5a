//! `palan update`.

use palan_docker_api::types::UpdateContainerRequest;

use super::super::{Arity, Command, common};
use crate::app::App;
use crate::error::{self, CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::run_flags::{parse_bytes, parse_cpus, parse_swap, request::restart_policy};

pub(crate) static COMMAND: Command = Command {
    aliases: "palan container update, palan update",
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] CONTAINER [CONTAINER...]",
        "Update configuration of one or more containers",
        Arity::AtLeast(1),
        run,
    )
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::int("blkio-weight", None, "Block IO (relative weight), between 10 and 1000, or 0 to disable (default 0)").named("uint16"),
    Flag::int("cpu-period", None, "Limit CPU CFS (Completely Fair Scheduler) period"),
    Flag::int("cpu-quota", None, "Limit CPU CFS (Completely Fair Scheduler) quota"),
    Flag::int("cpu-rt-period", None, "Limit the CPU real-time period in microseconds"),
    Flag::int("cpu-rt-runtime", None, "Limit the CPU real-time runtime in microseconds"),
    Flag::int("cpu-shares", Some('c'), "CPU shares (relative weight)"),
    Flag::string("cpus", None, "Number of CPUs").named("decimal").check(|text| parse_cpus(text).map(|_| ())),
    Flag::string("cpuset-cpus", None, "CPUs in which to allow execution (0-3, 0,1)"),
    Flag::string("cpuset-mems", None, "MEMs in which to allow execution (0-3, 0,1)"),
    Flag::string("memory", Some('m'), "Memory limit").named("bytes").check(|text| parse_bytes(text).map(|_| ())),
    Flag::string("memory-reservation", None, "Memory soft limit").named("bytes").check(|text| parse_bytes(text).map(|_| ())),
    Flag::string("memory-swap", None, "Swap limit equal to memory plus swap: -1 to enable unlimited swap").named("bytes").check(|text| parse_swap(text).map(|_| ())),
    Flag::int("pids-limit", None, "Tune container pids limit (set -1 for unlimited)"),
    Flag::string("restart", None, "Restart policy to apply when a container exits"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    if !FLAGS.iter().any(|flag| flags.changed(flag.long)) {
        return Err(CliError::new("you must provide one or more flags when using this command"));
    }
    let request = request(flags).map_err(CliError::new)?;
    let client = app.client()?;
    let (mut warnings, mut failures) = (Vec::new(), Vec::new());
    let answers = common::in_parallel(&flags.args, |name| client.update_container(name, &request));
    for (name, answer) in flags.args.iter().zip(answers) {
        match answer {
            Ok(answer) => {
                app.streams.line(name)?;
                warnings.extend(answer.warnings);
            }
            Err(error) => failures.push(CliError::from(error)),
        }
    }
    for warning in warnings {
        app.streams.line(&warning)?;
    }
    error::join(failures)
}

fn request(flags: &Parsed) -> std::result::Result<UpdateContainerRequest, String> {
    let bytes = |name: &str| flags.given(name).map_or(Ok(0), parse_bytes);
    Ok(UpdateContainerRequest {
        blkio_weight: u16::try_from(flags.int("blkio-weight"))
            .map_err(|_| "Range of blkio weight is from 10 to 1000".to_owned())?,
        cpu_period: flags.int("cpu-period"),
        cpu_quota: flags.int("cpu-quota"),
        cpu_realtime_period: flags.int("cpu-rt-period"),
        cpu_realtime_runtime: flags.int("cpu-rt-runtime"),
        cpu_shares: flags.int("cpu-shares"),
        nano_cpus: flags.given("cpus").map_or(Ok(0), parse_cpus)?,
        cpuset_cpus: flags.string("cpuset-cpus").to_owned(),
        cpuset_mems: flags.string("cpuset-mems").to_owned(),
        memory: bytes("memory")?,
        memory_reservation: bytes("memory-reservation")?,
        memory_swap: flags.given("memory-swap").map_or(Ok(0), parse_swap)?,
        pids_limit: flags.changed("pids-limit").then(|| flags.int("pids-limit")),
        restart_policy: restart_policy(flags.string("restart"))?,
        ..UpdateContainerRequest::default()
    })
}
