//! Limits as properties of a unit (systemd.resource-control(5)), so that systemd does not set them back.
//!
//! What systemd has no property for is only written into the cgroup.

use palan_oci::runtime_spec::{Cpu, Resources};

use super::super::CgroupError;
use super::super::devices::List;
use super::super::limits::{DEFAULT_PERIOD, swap_v2, weight_of_shares};
use super::wire::Value;

/// A property with its value.
pub(super) type Property = (String, Value);

/// Versions of systemd that brought properties.
const DEVICE_NUMBERS: u32 = 240;
const CPU_QUOTA_PERIOD: u32 = 242;
const ALLOWED_CPUS: u32 = 244;
const CPU_IDLE: u32 = 252;
pub(super) const OOM_POLICY: u32 = 253;

pub(super) fn property(name: &str, value: Value) -> Property {
    (name.to_owned(), value)
}

/// The properties for these limits. A quota is brought to the next percent, as systemd does by itself.
pub(super) fn of(resources: &mut Resources, v2: bool, version: u32) -> Result<Vec<Property>, CgroupError> {
    let mut all = Vec::new();
    let mut add = |name: &str, value: Value| all.push(property(name, value));
    if let Some(memory) = &resources.memory {
        let given = |value: Option<i64>| value.filter(|value| *value != 0).map(i64::cast_unsigned);
        if let Some(limit) = given(memory.limit) {
            add(if v2 { "MemoryMax" } else { "MemoryLimit" }, Value::U64(limit));
        }
        if let Some(reservation) = given(memory.reservation).filter(|_| v2) {
            add("MemoryLow", Value::U64(reservation));
        }
        if let Some(swap) = swap_v2(memory.limit, memory.swap)?.filter(|_| v2) {
            add("MemorySwapMax", Value::U64(swap.cast_unsigned()));
        }
    }
    if let Some(weight) =
        resources.block_io.as_ref().and_then(|io| io.weight).filter(|weight| *weight != 0 && !v2)
    {
        add("BlockIOWeight", Value::U64(weight.into()));
    }
    if let Some(limit) = resources.pids.and_then(|pids| pids.limit) {
        add("TasksMax", tasks(limit));
    }
    if let Some(cpu) = &mut resources.cpu {
        all.extend(of_cpu(cpu, v2, version)?);
    }
    if v2 {
        for (file, value) in &resources.unified {
            all.extend(of_file(file, value.trim(), version)?);
        }
    }
    Ok(all)
}

/// The properties for a list of devices; `None` is one that systemd can't have.
///
/// systemd has its own program or list for them beside ours: what it can't tell apart it must not deny.
pub(super) fn of_devices(list: Option<&List>, version: u32) -> Vec<Property> {
    let entry = |(path, access)| Value::Struct(vec![Value::Str(path), Value::Str(access)]);
    let devices = |entries| property("DeviceAllow", Value::Array("(ss)".to_owned(), entries));
    let allowed = list.filter(|_| version >= DEVICE_NUMBERS).and_then(List::allowed);
    // Entries add up: an empty list starts anew.
    let mut all = vec![devices(Vec::new())];
    let policy = if allowed.is_some() { "strict" } else { "auto" };
    all.push(property("DevicePolicy", Value::text(policy)));
    if let Some(allowed) = allowed.filter(|allowed| !allowed.is_empty()) {
        all.push(devices(allowed.into_iter().map(entry).collect()));
    }
    all
}

fn tasks(limit: i64) -> Value {
    Value::U64(match limit {
        0 => 1,
        limit => u64::try_from(limit).unwrap_or(u64::MAX),
    })
}

fn of_cpu(cpu: &mut Cpu, v2: bool, version: u32) -> Result<Vec<Property>, CgroupError> {
    let mut all = Vec::new();
    let shares = cpu.shares.filter(|shares| *shares != 0);
    if v2 && cpu.idle == Some(1) && version >= CPU_IDLE {
        // systemd's way to say it; a weight beside it would take it back.
        all.push(property("CPUWeight", Value::U64(0)));
    } else if let Some(shares) = shares {
        all.push(match v2 {
            true => property("CPUWeight", Value::U64(weight_of_shares(shares))),
            false => property("CPUShares", Value::U64(shares)),
        });
    }
    all.extend(of_quota(&mut cpu.quota, cpu.period.unwrap_or(0), version));
    for (name, list) in [("AllowedCPUs", &cpu.cpus), ("AllowedMemoryNodes", &cpu.mems)] {
        if !list.is_empty() && version >= ALLOWED_CPUS {
            all.push(property(name, bits(list)?));
        }
    }
    Ok(all)
}

fn of_quota(quota: &mut Option<i64>, period: u64, version: u32) -> Vec<Property> {
    let mut all = Vec::new();
    if period != 0 && version >= CPU_QUOTA_PERIOD {
        all.push(property("CPUQuotaPeriodUSec", Value::U64(period)));
    }
    let wanted = quota.filter(|quota| *quota != 0);
    if wanted.is_none() && period == 0 {
        return all;
    }
    let mut per_second = u64::MAX;
    if let Some(wanted) = wanted.and_then(|wanted| u64::try_from(wanted).ok()) {
        /// Microseconds of one percent of a second.
        const PERCENT: u128 = 10_000;
        let period = u128::from(if period == 0 { DEFAULT_PERIOD } else { period });
        let rounded = (u128::from(wanted) * 1_000_000 / period).next_multiple_of(PERCENT);
        per_second = u64::try_from(rounded).unwrap_or(u64::MAX);
        *quota = i64::try_from(rounded * period / 1_000_000).ok().or(*quota);
    }
    all.push(property("CPUQuotaPerSecUSec", Value::U64(per_second)));
    all
}

/// The property for a file of v2, if there is one.
fn of_file(file: &str, value: &str, version: u32) -> Result<Vec<Property>, CgroupError> {
    let invalid = || CgroupError::Invalid(format!("unified resource {file:?} value invalid: {value:?}"));
    let number = || if value == "max" { Ok(u64::MAX) } else { value.parse::<u64>().map_err(|_| invalid()) };
    let one = |name: &str, number: u64| Ok(vec![property(name, Value::U64(number))]);
    match file {
        "cpu.idle" if value == "1" && version >= CPU_IDLE => one("CPUWeight", 0),
        "cpu.weight" => one("CPUWeight", number()?),
        "cpu.max" => {
            let mut words = value.split_whitespace();
            let mut quota = match words.next() {
                Some("max") => None,
                Some(quota) => Some(quota.parse().map_err(|_| invalid())?),
                None => return Err(invalid()),
            };
            let period = words.next().map(str::parse).transpose().map_err(|_| invalid())?;
            Ok(of_quota(&mut quota, period.unwrap_or(DEFAULT_PERIOD), version))
        }
        "cpuset.cpus" | "cpuset.mems" if version >= ALLOWED_CPUS && !value.is_empty() => {
            let name = if file == "cpuset.cpus" { "AllowedCPUs" } else { "AllowedMemoryNodes" };
            Ok(vec![property(name, bits(value)?)])
        }
        "memory.high" => one("MemoryHigh", number()?),
        "memory.low" => one("MemoryLow", number()?),
        "memory.min" => one("MemoryMin", number()?),
        "memory.max" => one("MemoryMax", number()?),
        "memory.swap.max" => one("MemorySwapMax", number()?),
        "pids.max" => one("TasksMax", number()?.max(1)),
        _ => Ok(Vec::new()),
    }
}

/// A list such as `0-2,7` as a bit mask, lowest byte first.
fn bits(list: &str) -> Result<Value, CgroupError> {
    let invalid = || CgroupError::Invalid(format!("invalid list of processors or memory nodes {list:?}"));
    let mut mask: Vec<u8> = Vec::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let number = |text: &str| text.trim().parse::<u16>().map_err(|_| invalid());
        let (first, last) = (number(first)?, number(last)?);
        if first > last {
            return Err(invalid());
        }
        for bit in usize::from(first)..=usize::from(last) {
            if mask.len() <= bit / 8 {
                mask.resize(bit / 8 + 1, 0);
            }
            mask[bit / 8] |= 1 << (bit % 8);
        }
    }
    if mask.is_empty() {
        return Err(invalid());
    }
    Ok(Value::Array("y".to_owned(), mask.into_iter().map(Value::Byte).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(json: &str, v2: bool, version: u32) -> (Vec<String>, Resources) {
        let mut resources: Resources = serde_json::from_str(json).unwrap();
        let properties = of(&mut resources, v2, version).unwrap();
        let text = |(name, value): Property| match value {
            Value::U64(u64::MAX) => format!("{name}=max"),
            Value::U64(number) => format!("{name}={number}"),
            Value::Array(_, bytes) => format!("{name}={bytes:?}"),
            other => format!("{name}={other:?}"),
        };
        (properties.into_iter().map(text).collect(), resources)
    }

    #[test]
    fn limits_become_properties() {
        let json = r#"{"memory":{"limit":100,"swap":300,"reservation":50},"cpu":{"shares":1024,"quota":5,"period":10,
            "cpus":"0,2-3"},"pids":{"limit":0},"blockIO":{"weight":10}}"#;
        let (properties, _) = texts(json, true, 252);
        assert_eq!(
            properties,
            [
                "MemoryMax=100",
                "MemoryLow=50",
                "MemorySwapMax=200",
                "TasksMax=1",
                "CPUWeight=100",
                "CPUQuotaPeriodUSec=10",
                "CPUQuotaPerSecUSec=500000",
                "AllowedCPUs=[Byte(13)]"
            ]
        );
        let (properties, _) = texts(json, false, 239);
        assert_eq!(
            properties,
            [
                "MemoryLimit=100",
                "BlockIOWeight=10",
                "TasksMax=1",
                "CPUShares=1024",
                "CPUQuotaPerSecUSec=500000"
            ]
        );
        let (properties, _) = texts(
            r#"{"memory":{"limit":-1},"pids":{"limit":-1},"cpu":{"idle":1,"shares":5,"period":7}}"#,
            true,
            252,
        );
        assert_eq!(
            properties,
            [
                "MemoryMax=max",
                "MemorySwapMax=max",
                "TasksMax=max",
                "CPUWeight=0",
                "CPUQuotaPeriodUSec=7",
                "CPUQuotaPerSecUSec=max"
            ]
        );
        assert_eq!(texts("{}", true, 252).0, [""; 0]);
    }

    #[test]
    fn quotas_come_in_percent() {
        let quota = |json: &str| texts(json, true, 252).1.cpu.unwrap().quota;
        assert_eq!(quota(r#"{"cpu":{"quota":1501,"period":100000}}"#), Some(2000));
        assert_eq!(quota(r#"{"cpu":{"quota":2000}}"#), Some(2000));
        assert_eq!(quota(r#"{"cpu":{"quota":-1,"period":100000}}"#), Some(-1));
    }

    #[test]
    fn files_become_properties() {
        let json = r#"{"unified":{"cpu.max":"5000","memory.high":"max","pids.max":"0","cpuset.cpus":"9","x.y":"z"}}"#;
        assert_eq!(
            texts(json, true, 252).0,
            [
                "CPUQuotaPeriodUSec=100000",
                "CPUQuotaPerSecUSec=50000",
                "AllowedCPUs=[Byte(0), Byte(2)]",
                "MemoryHigh=max",
                "TasksMax=1"
            ]
        );
        for bad in ["x", "1-", "3-1", "", ",", "70000"] {
            assert!(bits(bad).is_err(), "{bad}");
        }
        assert!(of_file("memory.max", "x", 252).is_err());
        assert!(of_file("cpu.max", "", 252).is_err());
    }
}
