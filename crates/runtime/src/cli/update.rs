//! `update`: other limits for a container that exists.
//!
//! Only what is given is written. Two pairs bound each other, memory and swap as well as period and quota: there the
//! half that is not given comes from the last time, which `state.json` keeps.

use std::io::Read as _;
use std::process::ExitCode;
use std::str::FromStr;

use palan_oci::runtime_spec::{
    BlockIo, Cpu, MAX_SIZE, Memory, Pids, Resources, ThrottleDevice, WeightDevice,
};
use palan_stdx::size;

use super::arguments::{Arguments, Flag, option};
use super::state::{self, Existing};
use super::{Failure, Global, Outcome};
use crate::resctrl;

pub(super) const FLAGS: &[Flag] = &[
    option("resources").short('r'),
    option("blkio-weight"),
    option("cpu-period"),
    option("cpu-quota"),
    option("cpu-burst"),
    option("cpu-share"),
    option("cpu-rt-period"),
    option("cpu-rt-runtime"),
    option("cpuset-cpus"),
    option("cpuset-mems"),
    option("cpu-idle"),
    option("kernel-memory"),
    option("kernel-memory-tcp"),
    option("memory"),
    option("memory-reservation"),
    option("memory-swap"),
    option("pids-limit"),
    option("l3-cache-schema"),
    option("mem-bw-schema"),
];

pub(super) fn update(global: &Global, arguments: &Arguments) -> Outcome {
    arguments.at_most(1)?;
    let mut existing = Existing::load(global, arguments.container_id()?)?;
    let change = match arguments.value("resources").filter(|path| !path.is_empty()) {
        Some(path) => from_json(&read(path)?)?,
        None => from_options(arguments)?,
    };
    let schemata = schemata(arguments, &existing)?;
    if existing.pidfd.is_none() {
        return Err(Failure::new("container not running"));
    }
    let old = &existing.state.resources;
    let mut cgroup = existing.cgroup()?;
    let updated = cgroup.update(&completed(old, &change)).map_err(Failure::from).and_then(|warnings| {
        if let Some(group) = &existing.state.resource_group {
            schemata.iter().try_for_each(|schema| group.set(schema))?;
        }
        Ok(warnings)
    });
    match updated {
        Ok(warnings) => warnings.iter().for_each(|warning| global.log.warning(warning)),
        Err(failure) => {
            if let Err(again) = cgroup.update(&back(old, &change)) {
                let report = Failure::from(again).message;
                global.log.warning(&format!("some limits could not be set back: {report}"));
            }
            return Err(failure);
        }
    }
    existing.state.resources = merged(old, &change);
    existing.home.save(&existing.state)?;
    Ok(ExitCode::SUCCESS)
}

/// Lines for the container's group in resctrl. The texts are runc's.
fn schemata<'a>(arguments: &'a Arguments, existing: &Existing) -> Result<Vec<&'a str>, Failure> {
    let mut lines = Vec::new();
    for (name, resource, what) in [
        ("l3-cache-schema", "L3", "CAT: l3 cache schema"),
        ("mem-bw-schema", "MB", "MBA: memory bandwidth schema"),
    ] {
        let Some(schema) = given(arguments, name) else { continue };
        if !resctrl::divides(resource) {
            return Err(Failure::new(format!("Intel RDT/{what} is not enabled")));
        }
        if existing.state.resource_group.is_none() {
            return Err(Failure::new("updating a non-existent Intel RDT configuration is not supported"));
        }
        lines.push(schema);
    }
    Ok(lines)
}

fn read(path: &str) -> Result<Vec<u8>, Failure> {
    if path != "-" {
        return state::read_limited(path.as_ref(), MAX_SIZE);
    }
    let mut json = Vec::new();
    std::io::stdin()
        .take(MAX_SIZE as u64)
        .read_to_end(&mut json)
        .map_err(|error| Failure::new(format!("cannot read the resources from the input: {error}")))?;
    Ok(json)
}

fn from_json(json: &[u8]) -> Result<Resources, Failure> {
    palan_oci::runtime_spec::parse(json).map_err(|error| {
        let error = palan_stdx::error_chain::to_string(&error);
        Failure::new(format!("the resources are not valid: {error}"))
    })
}

fn from_options(arguments: &Arguments) -> Result<Resources, Failure> {
    let bytes = |name: &str| match given(arguments, name) {
        Some("-1") => Ok(Some(-1)),
        Some(text) => size::parse_memory(text)
            .ok()
            .and_then(|bytes| i64::try_from(bytes).ok())
            .map(Some)
            .ok_or_else(|| Failure::new(format!("invalid value for {name}: invalid size: '{text}'"))),
        None => Ok(None),
    };
    let text = |name: &str| given(arguments, name).unwrap_or_default().to_owned();
    let memory = Memory {
        limit: bytes("memory")?,
        reservation: bytes("memory-reservation")?,
        swap: bytes("memory-swap")?,
        kernel: bytes("kernel-memory")?,
        kernel_tcp: bytes("kernel-memory-tcp")?,
        ..Memory::default()
    };
    let cpu = Cpu {
        shares: number(arguments, "cpu-share")?,
        quota: number(arguments, "cpu-quota")?,
        burst: number(arguments, "cpu-burst")?,
        period: number(arguments, "cpu-period")?,
        realtime_runtime: number(arguments, "cpu-rt-runtime")?,
        realtime_period: number(arguments, "cpu-rt-period")?,
        cpus: text("cpuset-cpus"),
        mems: text("cpuset-mems"),
        idle: number(arguments, "cpu-idle")?,
    };
    Ok(Resources {
        memory: Some(memory),
        cpu: Some(cpu),
        pids: Some(Pids { limit: number(arguments, "pids-limit")? }),
        block_io: Some(BlockIo { weight: number(arguments, "blkio-weight")?, ..BlockIo::default() }),
        ..Resources::default()
    })
}

/// An empty value is one that is not given.
fn given<'a>(arguments: &'a Arguments, name: &str) -> Option<&'a str> {
    arguments.value(name).filter(|value| !value.is_empty())
}

fn number<T: FromStr>(arguments: &Arguments, name: &str) -> Result<Option<T>, Failure> {
    let invalid =
        |text: &str| Failure::new(format!("invalid value for {name}: {text:?} is no number in its range"));
    given(arguments, name).map(|text| text.parse().map_err(|_| invalid(text))).transpose()
}

/// The change with the other half of each pair.
fn completed(old: &Resources, change: &Resources) -> Resources {
    let mut complete = change.clone();
    if let (Some(memory), Some(before)) = (&mut complete.memory, &old.memory)
        && (memory.limit.is_some() || memory.swap.is_some())
    {
        // No limit of memory is none of swap either, whatever was before.
        if memory.limit != Some(-1) {
            memory.swap = memory.swap.or(before.swap);
        }
        memory.limit = memory.limit.or(before.limit);
        memory.check_before_update = memory.check_before_update.or(before.check_before_update);
    }
    if let (Some(cpu), Some(before)) = (&mut complete.cpu, &old.cpu) {
        let known = |value: Option<u64>| value.filter(|value| *value != 0);
        let quota = cpu.quota.filter(|quota| *quota != 0);
        if quota.is_some() || known(cpu.period).is_some() {
            cpu.quota = quota.or(before.quota);
            cpu.period = known(cpu.period).or(before.period);
        }
    }
    complete
}

/// What to set back when the change failed halfway. Files of v2 by name only if the change has some: later changes by
/// other names may have been about the same.
fn back(old: &Resources, change: &Resources) -> Resources {
    let mut back = Resources { devices: Vec::new(), ..old.clone() };
    if change.unified.is_empty() {
        back.unified.clear();
    }
    if !change.devices.is_empty() {
        back.devices.clone_from(&old.devices);
    }
    if let Some(memory) = &mut back.memory {
        memory.check_before_update = None;
    }
    back
}

/// What the container has after the change.
fn merged(old: &Resources, change: &Resources) -> Resources {
    let mut new = old.clone();
    if let Some(memory) = &change.memory {
        let known = new.memory.get_or_insert_default();
        if memory.limit == Some(-1) {
            known.swap = None;
        }
        replace(&mut known.limit, memory.limit);
        replace(&mut known.reservation, memory.reservation);
        replace(&mut known.swap, memory.swap);
        replace(&mut known.swappiness, memory.swappiness);
        replace(&mut known.disable_oom_killer, memory.disable_oom_killer);
        replace(&mut known.check_before_update, memory.check_before_update);
    }
    if let Some(cpu) = &change.cpu {
        let known = new.cpu.get_or_insert_default();
        replace(&mut known.shares, cpu.shares);
        replace(&mut known.quota, cpu.quota.filter(|quota| *quota != 0));
        replace(&mut known.burst, cpu.burst);
        replace(&mut known.period, cpu.period.filter(|period| *period != 0));
        replace(&mut known.realtime_runtime, cpu.realtime_runtime);
        replace(&mut known.realtime_period, cpu.realtime_period);
        replace(&mut known.idle, cpu.idle);
        for (known, given) in [(&mut known.cpus, &cpu.cpus), (&mut known.mems, &cpu.mems)] {
            if !given.is_empty() {
                known.clone_from(given);
            }
        }
    }
    if let Some(limit) = change.pids.and_then(|pids| pids.limit) {
        new.pids = Some(Pids { limit: Some(limit) });
    }
    if let Some(io) = &change.block_io {
        merge_block_io(new.block_io.get_or_insert_default(), io);
    }
    for limit in &change.hugepage_limits {
        new.hugepage_limits.retain(|known| known.page_size != limit.page_size);
        new.hugepage_limits.push(limit.clone());
    }
    if let Some(network) = &change.network {
        let known = new.network.get_or_insert_default();
        replace(&mut known.class_id, network.class_id);
        for priority in &network.priorities {
            known.priorities.retain(|known| known.name != priority.name);
            known.priorities.push(priority.clone());
        }
    }
    new.rdma.extend(change.rdma.clone());
    new.unified.extend(change.unified.clone());
    if !change.devices.is_empty() {
        new.devices.clone_from(&change.devices);
    }
    new
}

fn replace<T: Copy>(known: &mut Option<T>, given: Option<T>) {
    *known = given.or(*known);
}

fn merge_block_io(known: &mut BlockIo, io: &BlockIo) {
    replace(&mut known.weight, io.weight);
    replace(&mut known.leaf_weight, io.leaf_weight);
    for device in &io.weight_device {
        let same = |known: &&mut WeightDevice| (known.major, known.minor) == (device.major, device.minor);
        match known.weight_device.iter_mut().find(same) {
            Some(known) => {
                replace(&mut known.weight, device.weight);
                replace(&mut known.leaf_weight, device.leaf_weight);
            }
            None => known.weight_device.push(*device),
        }
    }
    for (known, given) in [
        (&mut known.throttle_read_bps_device, &io.throttle_read_bps_device),
        (&mut known.throttle_write_bps_device, &io.throttle_write_bps_device),
        (&mut known.throttle_read_iops_device, &io.throttle_read_iops_device),
        (&mut known.throttle_write_iops_device, &io.throttle_write_iops_device),
    ] {
        for device in given {
            let same =
                |known: &&mut ThrottleDevice| (known.major, known.minor) == (device.major, device.minor);
            match known.iter_mut().find(same) {
                Some(known) => known.rate = device.rate,
                None => known.push(*device),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(line: &str) -> Result<Resources, Failure> {
        let words: Vec<_> = line.split_whitespace().map(std::ffi::OsString::from).collect();
        from_options(&Arguments::parse_anywhere(FLAGS, &words)?)
    }

    #[test]
    fn options_become_resources() {
        let line =
            "x --memory 1.5g --memory-swap -1 --cpu-quota -1 --cpu-burst 0 --pids-limit 0 --cpuset-mems 1";
        let resources = options(line).unwrap();
        let memory = resources.memory.unwrap();
        assert_eq!((memory.limit, memory.swap, memory.reservation), (Some(3 << 29), Some(-1), None));
        let cpu = resources.cpu.unwrap();
        assert_eq!((cpu.quota, cpu.burst, cpu.period, cpu.mems.as_str()), (Some(-1), Some(0), None, "1"));
        assert_eq!(resources.pids.unwrap().limit, Some(0));
        for bad in ["--memory x", "--memory -2", "--cpu-share -1", "--cpu-idle 1.5", "--blkio-weight 70000"] {
            assert!(options(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn halves_of_pairs_come_from_before() {
        let old = from_json(
            br#"{"memory":{"limit":32,"swap":64},"cpu":{"quota":5,"period":10},"pids":{"limit":3}}"#,
        )
        .unwrap();
        let complete = |line: &str| completed(&old, &options(line).unwrap());
        let memory = |line: &str| {
            let memory = complete(line).memory.unwrap();
            (memory.limit, memory.swap)
        };
        assert_eq!(memory("--memory 48"), (Some(48), Some(64)));
        assert_eq!(memory("--memory-swap 48"), (Some(32), Some(48)));
        assert_eq!(memory("--memory -1"), (Some(-1), None));
        assert_eq!(memory("--pids-limit 1"), (None, None));
        let cpu = complete("--cpu-quota 7").cpu.unwrap();
        assert_eq!((cpu.quota, cpu.period), (Some(7), Some(10)));
        let cpu = complete("--cpu-period 7").cpu.unwrap();
        assert_eq!((cpu.quota, cpu.period), (Some(5), Some(7)));
        let cpu = complete("--cpu-share 7").cpu.unwrap();
        assert_eq!((cpu.quota, cpu.period), (None, None));
    }

    #[test]
    fn what_is_not_given_stays() {
        let old = from_json(
            br#"{"memory":{"limit":32,"swap":64,"swappiness":1},"cpu":{"quota":5,"cpus":"0"},"pids":{"limit":3},
                "blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":1}]},
                "devices":[{"allow":false,"access":"rwm"}],"unified":{"a.b":"1"}}"#,
        )
        .unwrap();
        let change = from_json(
            br#"{"memory":{"limit":-1},"cpu":{"cpus":"1"},"unified":{"a.c":"2"},
                "blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":2},{"major":9,"minor":0,"rate":3}]}}"#,
        )
        .unwrap();
        let new = merged(&old, &change);
        let memory = new.memory.unwrap();
        assert_eq!((memory.limit, memory.swap, memory.swappiness), (Some(-1), None, Some(1)));
        let cpu = new.cpu.unwrap();
        assert_eq!((cpu.quota, cpu.cpus.as_str()), (Some(5), "1"));
        assert_eq!(new.pids, old.pids);
        assert_eq!(new.devices, old.devices);
        let rates = new.block_io.unwrap().throttle_read_bps_device;
        assert_eq!(rates.iter().map(|device| device.rate).collect::<Vec<_>>(), [2, 3]);
        assert_eq!(new.unified.len(), 2);
    }
}
