//! What a container uses.

use jiff::Timestamp;
use palan_docker_api::types as wire;
use palan_engine::stats::{BlockIo, CpuStats, InterfaceStats, Stats};

/// One sample of `GET /containers/{id}/stats`.
pub(crate) fn sample(stats: &Stats) -> wire::StatsResponse {
    wire::StatsResponse {
        id: stats.id.clone(),
        name: format!("/{}", stats.name),
        os_type: "linux".to_owned(),
        read: moment(stats.read),
        cpu_stats: stats.cpu.as_ref().map(cpu).unwrap_or_default(),
        memory_stats: wire::MemoryStats {
            usage: stats.memory.usage,
            max_usage: stats.memory.max_usage,
            stats: stats.memory.counters.clone(),
            failcnt: stats.memory.fail_count,
            limit: stats.memory.limit,
        },
        networks: stats
            .networks
            .iter()
            .flatten()
            .map(|(name, value)| (name.clone(), interface(value)))
            .collect(),
        pids_stats: wire::PidsStats { current: stats.pids_current, limit: stats.pids_limit },
        blkio_stats: wire::BlkioStats {
            io_service_bytes_recursive: block_io(&stats.block_io, |io| io.bytes),
            io_serviced_recursive: block_io(&stats.block_io, |io| io.requests),
            ..wire::BlkioStats::default()
        },
        num_procs: 0,
        storage_stats: wire::Empty {},
        preread: moment(stats.preread),
        precpu_stats: stats.precpu.as_ref().map(cpu).unwrap_or_default(),
    }
}

/// The epoch stands for no reading.
fn moment(moment: Timestamp) -> String {
    super::time(Some(moment).filter(|moment| *moment != Timestamp::UNIX_EPOCH))
}

fn cpu(cpu: &CpuStats) -> wire::CpuStats {
    let (periods, throttled_periods, throttled_time) = cpu.throttling;
    wire::CpuStats {
        cpu_usage: wire::CpuUsage {
            total_usage: cpu.total,
            percpu_usage: cpu.per_cpu.clone(),
            usage_in_kernelmode: cpu.kernel,
            usage_in_usermode: cpu.user,
        },
        system_cpu_usage: cpu.system,
        online_cpus: cpu.online_cpus,
        throttling_data: wire::ThrottlingData { periods, throttled_periods, throttled_time },
    }
}

fn block_io(list: &[BlockIo], value: impl Fn(&BlockIo) -> u64) -> Vec<wire::BlkioEntry> {
    let entry = |io: &BlockIo| wire::BlkioEntry {
        major: io.major,
        minor: io.minor,
        op: io.operation.to_owned(),
        value: value(io),
    };
    list.iter().map(entry).collect()
}

fn interface(stats: &InterfaceStats) -> wire::NetworkStats {
    wire::NetworkStats {
        rx_bytes: stats.rx_bytes,
        rx_packets: stats.rx_packets,
        rx_errors: stats.rx_errors,
        rx_dropped: stats.rx_dropped,
        tx_bytes: stats.tx_bytes,
        tx_packets: stats.tx_packets,
        tx_errors: stats.tx_errors,
        tx_dropped: stats.tx_dropped,
    }
}
