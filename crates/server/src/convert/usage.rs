//! What takes how much of the disk.

use palan_docker_api::types as wire;
use palan_docker_api::version::ApiVersion;
use palan_docker_api::versions;
use palan_engine::build::BuildCacheRecord;
use palan_engine::image::ImageSummary;
use palan_engine::usage::{DiskUsage, ImagesUsage, VolumeUsage, is_active};

use super::{container, image, signed, volume};

/// From 1.52.
pub(crate) fn usage(usage: DiskUsage, verbose: bool) -> wire::DiskUsage {
    let DiskUsage { images, containers, volumes, build_cache } = usage;
    wire::DiskUsage {
        image_usage: images.map(|images| wire::KindUsage {
            active_count: count(images.active()),
            total_count: count(images.list.len()),
            reclaimable: signed(images.reclaimable()),
            total_size: signed(images.total),
            items: if verbose { images.list.into_iter().map(image::summary).collect() } else { Vec::new() },
        }),
        container_usage: containers.map(|containers| {
            let size = |only_idle: bool| {
                let counted = containers.iter().filter(|one| !only_idle || !is_active(one));
                signed(counted.filter_map(|container| container.size_rw).sum())
            };
            wire::KindUsage {
                active_count: count(containers.iter().filter(|container| is_active(container)).count()),
                total_count: count(containers.len()),
                reclaimable: size(true),
                total_size: size(false),
                items: if verbose { containers.iter().map(container::summary).collect() } else { Vec::new() },
            }
        }),
        volume_usage: volumes.map(|volumes| {
            let unused = volumes.iter().filter(|volume| volume.users == 0);
            wire::KindUsage {
                active_count: count(volumes.iter().filter(|volume| volume.users > 0).count()),
                total_count: count(volumes.len()),
                reclaimable: signed(unused.map(|volume| volume.size).sum()),
                total_size: signed(volumes.iter().map(|volume| volume.size).sum()),
                items: if verbose { volumes.into_iter().map(used_volume).collect() } else { Vec::new() },
            }
        }),
        build_cache_usage: build_cache.map(|records| {
            let idle = records.iter().filter(|record| !record.in_use && !record.shared);
            wire::KindUsage {
                active_count: count(records.iter().filter(|record| record.in_use).count()),
                total_count: count(records.len()),
                reclaimable: signed(idle.map(|record| record.size).sum()),
                total_size: signed(records.iter().map(|record| record.size).sum()),
                items: if verbose { records.into_iter().map(cached).collect() } else { Vec::new() },
            }
        }),
    }
}

/// Up to 1.51.
pub(crate) fn before_52(usage: DiskUsage, version: ApiVersion) -> wire::UsageBefore52 {
    let DiskUsage { images, containers, volumes, build_cache } = usage;
    wire::UsageBefore52 {
        layers_size: images.as_ref().map_or(0, |images: &ImagesUsage| signed(images.total)),
        images: images
            .map(|images| images.list.into_iter().map(|summary| listed_image(summary, version)).collect()),
        containers: containers.map(|containers| {
            let summary = |one| {
                let mut summary = container::summary(one);
                versions::container_summary(&mut summary, version);
                summary
            };
            containers.iter().map(summary).collect()
        }),
        volumes: volumes.map(|volumes| volumes.into_iter().map(used_volume).collect()),
        builder_size: build_cache
            .as_ref()
            .map_or(0, |records| signed(records.iter().map(|record| record.size).sum())),
        build_cache: build_cache.map(|records| records.into_iter().map(cached).collect()),
    }
}

/// Here the number of containers is told in every version.
fn listed_image(summary: ImageSummary, version: ApiVersion) -> wire::ImageSummary {
    let containers = summary.containers;
    let mut summary = image::summary(summary);
    versions::image_summary(&mut summary, version);
    summary.containers = containers;
    summary
}

fn used_volume(usage: VolumeUsage) -> wire::Volume {
    let usage_data = wire::VolumeUsage { ref_count: count(usage.users), size: signed(usage.size) };
    wire::Volume { usage_data: Some(usage_data), ..volume(usage.volume) }
}

fn cached(record: BuildCacheRecord) -> wire::BuildCache {
    wire::BuildCache {
        id: record.id,
        kind: record.kind,
        description: record.description,
        in_use: record.in_use,
        shared: record.shared,
        size: signed(record.size),
        created_at: record.created.to_string(),
        last_used_at: record.used.map(|used| used.to_string()),
        usage_count: 0,
    }
}

fn count(number: usize) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
