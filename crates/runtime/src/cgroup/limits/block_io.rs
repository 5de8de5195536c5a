//! Block devices: weights and rates.

use palan_oci::runtime_spec::{BlockIo, ThrottleDevice};
use rustix::io::Errno;

use super::{Cgroup, CgroupError, Controller, InField, attempt, set, set_if_known};

const BLKIO: Controller = ("blkio", "block I/O");
const IO: Controller = ("io", "block I/O");

const NO_WEIGHT: &str = "This kernel has no block I/O weights (no BFQ scheduler); the weight was not set.";
const NO_LEAF_WEIGHT: &str = "Kernels since 5.0 have no block I/O leaf weights; the leaf weight was not set.";

pub(super) fn apply(
    cgroup: &mut Cgroup,
    io: &BlockIo,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    if cgroup.is_v2() { apply_v2(cgroup, io, warnings) } else { apply_v1(cgroup, io, warnings) }
}

/// Writes into the first of the files that this kernel has.
fn set_first(
    cgroup: &mut Cgroup,
    controller: Controller,
    choices: &[(&str, &str)],
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    for (file, value) in choices {
        match attempt(cgroup, controller, file, value)? {
            Ok(()) => return Ok(()),
            Err(Errno::NOENT | Errno::OPNOTSUPP) => {}
            Err(errno) => return Err(cgroup.failed(format!("write {value:?} to {file}"), errno)),
        }
    }
    warnings.push(NO_WEIGHT.to_owned());
    Ok(())
}

fn apply_v1(cgroup: &mut Cgroup, io: &BlockIo, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    // The first of each is of the CFQ scheduler, which went with Linux 5.0.
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        let value = weight.to_string();
        set_first(cgroup, BLKIO, &[("blkio.weight", &value), ("blkio.bfq.weight", &value)], warnings)
            .in_field("blockIO.weight")?;
    }
    if let Some(weight) = io.leaf_weight.filter(|weight| *weight != 0) {
        let write = ("blkio.leaf_weight", weight.to_string());
        set_if_known(cgroup, BLKIO, (write.0, &write.1), NO_LEAF_WEIGHT, warnings)
            .in_field("blockIO.leafWeight")?;
    }
    for (index, device) in io.weight_device.iter().enumerate() {
        let line = |weight: u16| format!("{}:{} {weight}", device.major, device.minor);
        if let Some(weight) = device.weight.filter(|weight| *weight != 0) {
            let value = line(weight);
            let files = [("blkio.weight_device", &*value), ("blkio.bfq.weight_device", &value)];
            set_first(cgroup, BLKIO, &files, warnings)
                .in_field(format_args!("blockIO.weightDevice[{index}].weight"))?;
        }
        if let Some(weight) = device.leaf_weight.filter(|weight| *weight != 0) {
            let write = ("blkio.leaf_weight_device", line(weight));
            set_if_known(cgroup, BLKIO, (write.0, &write.1), NO_LEAF_WEIGHT, warnings)
                .in_field(format_args!("blockIO.weightDevice[{index}].leafWeight"))?;
        }
    }
    let files = ["read_bps", "write_bps", "read_iops", "write_iops"];
    for (file, (field, devices)) in files.into_iter().zip(throttles(io)) {
        for (index, ThrottleDevice { major, minor, rate }) in devices.iter().enumerate() {
            let file = format!("blkio.throttle.{file}_device");
            set(cgroup, BLKIO, &file, &format!("{major}:{minor} {rate}"))
                .in_field(format_args!("blockIO.{field}[{index}]"))?;
        }
    }
    Ok(())
}

fn apply_v2(cgroup: &mut Cgroup, io: &BlockIo, warnings: &mut Vec<String>) -> Result<(), CgroupError> {
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        let (bfq, scaled) = (weight.to_string(), io_weight(weight).to_string());
        set_first(cgroup, IO, &[("io.bfq.weight", &bfq), ("io.weight", &scaled)], warnings)
            .in_field("blockIO.weight")?;
    }
    for (index, device) in io.weight_device.iter().enumerate() {
        if let Some(weight) = device.weight.filter(|weight| *weight != 0) {
            let name = format!("{}:{}", device.major, device.minor);
            let (bfq, scaled) = (format!("{name} {weight}"), format!("{name} {}", io_weight(weight)));
            set_first(cgroup, IO, &[("io.bfq.weight", &bfq), ("io.weight", &scaled)], warnings)
                .in_field(format_args!("blockIO.weightDevice[{index}].weight"))?;
        }
    }
    let leaf = |weight: Option<u16>| weight.is_some_and(|weight| weight != 0);
    if leaf(io.leaf_weight) || io.weight_device.iter().any(|device| leaf(device.leaf_weight)) {
        warnings.push(NO_LEAF_WEIGHT.to_owned());
    }
    let keys = ["rbps", "wbps", "riops", "wiops"];
    for (key, (field, devices)) in keys.into_iter().zip(throttles(io)) {
        for (index, ThrottleDevice { major, minor, rate }) in devices.iter().enumerate() {
            // Zero takes a limit away, as in v1's files.
            let rate = if *rate == 0 { "max".to_owned() } else { rate.to_string() };
            set(cgroup, IO, "io.max", &format!("{major}:{minor} {key}={rate}"))
                .in_field(format_args!("blockIO.{field}[{index}]"))?;
        }
    }
    Ok(())
}

/// The four lists of rates with their names.
fn throttles(io: &BlockIo) -> [(&'static str, &[ThrottleDevice]); 4] {
    [
        ("throttleReadBpsDevice", &io.throttle_read_bps_device),
        ("throttleWriteBpsDevice", &io.throttle_write_bps_device),
        ("throttleReadIOPSDevice", &io.throttle_read_iops_device),
        ("throttleWriteIOPSDevice", &io.throttle_write_iops_device),
    ]
}

/// blkio's 10 to 1000 as io.weight's 1 to 10000.
fn io_weight(weight: u16) -> u64 {
    1 + (u64::from(weight).max(10) - 10) * 9999 / 990
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weights_of_v2() {
        for (weight, scaled) in [(0, 1), (10, 1), (100, 910), (500, 4950), (1000, 10_000)] {
            assert_eq!(io_weight(weight), scaled);
        }
    }
}
