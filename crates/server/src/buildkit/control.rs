//! What `Control` tells besides builds: who builds, what is in the cache, what was built.

use std::collections::BTreeMap;
use std::sync::Arc;

use palan_buildkit::grpc::{Call, Code, Status};
use palan_buildkit::message::control::{
    BuildHistoryEvent, BuildHistoryRequest, BuildkitVersion, DiskUsageRequest, DiskUsageResponse,
    InfoRequest, InfoResponse, ListWorkersRequest, ListWorkersResponse, PruneRequest,
    UpdateBuildHistoryRequest, UpdateBuildHistoryResponse, UsageRecord, WorkerRecord, history_event,
};
use palan_buildkit::message::pb::Platform;
use palan_engine::build::{BuildCacheRecord, CachePruneSpec};
use palan_engine::spec::Filters;

use super::BuildKit;
use super::client::status;
use super::gateway::unsupported;
use super::progress::time;
use crate::convert::signed;

/// Of the Dockerfile's language.
const DOCKERFILE_VERSION: &str = "1.26.0";

fn version() -> BuildkitVersion {
    BuildkitVersion {
        package: "palan".to_owned(),
        version: format!("v{}", env!("CARGO_PKG_VERSION")),
        revision: String::new(),
        dockerfile_version: DOCKERFILE_VERSION.to_owned(),
    }
}

/// A platform on the wire.
pub(super) fn platform(platform: &palan_oci::Platform) -> Platform {
    Platform {
        architecture: platform.architecture.clone(),
        os: platform.os.clone(),
        variant: platform.variant.clone().unwrap_or_default(),
        ..Platform::default()
    }
}

impl BuildKit {
    /// The only worker.
    pub(super) async fn worker(&self) -> Result<WorkerRecord, Status> {
        let info = self.engine.info().await.map_err(|error| status(&error))?;
        let host = palan_oci::Platform::host();
        let mut labels = BTreeMap::from([
            ("org.mobyproject.buildkit.worker.executor".to_owned(), "palan".to_owned()),
            ("org.mobyproject.buildkit.worker.hostname".to_owned(), info.host_name),
            (palan_buildkit::session::SHELL_LABEL.to_owned(), "true".to_owned()),
        ]);
        if let Some(gateway) = self.engine.host_gateway() {
            labels.insert("org.mobyproject.buildkit.worker.moby.host-gateway-ip".to_owned(), gateway);
        }
        Ok(WorkerRecord {
            id: info.id,
            labels,
            platforms: vec![platform(&host)],
            buildkit_version: Some(version()),
            ..WorkerRecord::default()
        })
    }

    pub(super) async fn list_workers(&self, call: Call) -> Result<(), Status> {
        call.unary(|request: ListWorkersRequest| async move {
            if !request.filter.is_empty() {
                return Err(unsupported("a filter for workers"));
            }
            Ok(ListWorkersResponse { record: vec![self.worker().await?] })
        })
        .await
    }

    pub(super) async fn info(&self, call: Call) -> Result<(), Status> {
        call.unary(|_: InfoRequest| async { Ok(InfoResponse { buildkit_version: Some(version()) }) }).await
    }

    pub(super) async fn disk_usage(&self, call: Call) -> Result<(), Status> {
        call.unary(|request: DiskUsageRequest| async move {
            // buildx sends an empty one where it has none.
            if request.filter.iter().any(|filter| !filter.is_empty()) || request.age_limit != 0 {
                return Err(unsupported("a filter for the build cache's usage"));
            }
            let records = self.engine.build_cache().await.map_err(|error| status(&error))?;
            Ok(DiskUsageResponse { record: records.into_iter().map(usage).collect() })
        })
        .await
    }

    pub(super) async fn prune(&self, mut call: Call) -> Result<(), Status> {
        let request: PruneRequest = call.question().await?;
        let spec = prune_spec(&request)?;
        let error = |error: palan_engine::Error| status(&error);
        let before = self.engine.build_cache().await.map_err(error)?;
        let pruned = self.engine.prune_build_cache(spec).await.map_err(error)?;
        let removed: std::collections::BTreeSet<String> = pruned.removed.into_iter().collect();
        for record in before.into_iter().filter(|record| removed.contains(&record.id)) {
            call.outgoing.send(&usage(record)).await?;
        }
        Ok(())
    }

    pub(super) async fn listen_build_history(&self, mut call: Call) -> Result<(), Status> {
        let request: BuildHistoryRequest = call.question().await?;
        if !request.filter.is_empty() {
            return Err(unsupported("a filter for the history of builds"));
        }
        let mut changed = self.builds.watch();
        // What was told of a build, so that each news is told once.
        let mut told: BTreeMap<String, i32> = BTreeMap::new();
        loop {
            changed.borrow_and_update();
            let mut records = self.builds.records();
            records.retain(|(ended, record)| {
                (request.reference.is_empty() || record.reference == request.reference)
                    && !(request.active_only && *ended && !told.contains_key(&record.reference))
            });
            if let Ok(limit @ 1..) = usize::try_from(request.limit) {
                let surplus = records.len().saturating_sub(limit);
                records.drain(..surplus);
            }
            let known: std::collections::BTreeSet<String> =
                records.iter().map(|(_, record)| record.reference.clone()).collect();
            for (ended, record) in records {
                let kind = if ended { history_event::COMPLETE } else { history_event::STARTED };
                if told.insert(record.reference.clone(), kind) == Some(kind) {
                    continue;
                }
                call.outgoing.send(&BuildHistoryEvent { kind, record: Some(record) }).await?;
            }
            let gone: Vec<String> = told.keys().filter(|name| !known.contains(*name)).cloned().collect();
            for reference in gone {
                told.remove(&reference);
                let record =
                    palan_buildkit::message::control::BuildHistoryRecord { reference, ..Default::default() };
                let event = BuildHistoryEvent { kind: history_event::DELETED, record: Some(record) };
                call.outgoing.send(&event).await?;
            }
            if request.early_exit {
                return Ok(());
            }
            // The sender is the daemon's.
            let _ = changed.changed().await;
        }
    }

    pub(super) async fn update_build_history(self: Arc<Self>, call: Call) -> Result<(), Status> {
        call.unary(|request: UpdateBuildHistoryRequest| async move {
            if request.pinned {
                return Err(unsupported("to pin a build's record"));
            }
            let is_known =
                self.builds.records().iter().any(|(_, record)| record.reference == request.reference);
            if !is_known {
                let text = format!("failed to retrieve build record {}: not found", request.reference);
                return Err(Status::new(Code::NotFound, text));
            }
            if request.delete && !self.builds.forget(&request.reference) {
                return Err(Status::new(Code::FailedPrecondition, "the build still goes on"));
            }
            Ok(UpdateBuildHistoryResponse {})
        })
        .await
    }
}

fn usage(record: BuildCacheRecord) -> UsageRecord {
    UsageRecord {
        id: record.id,
        mutable: record.kind == "exec.cachemount",
        in_use: record.in_use,
        size: signed(record.size),
        created_at: Some(time(record.created)),
        last_used_at: record.used.map(time),
        usage_count: i64::from(record.used.is_some()),
        description: record.description,
        record_type: record.kind,
        shared: record.shared,
        ..UsageRecord::default()
    }
}

/// What to remove. Filters are containerd's: `type==regular`, `id~=abc`.
fn prune_spec(request: &PruneRequest) -> Result<CachePruneSpec, Status> {
    if request.min_free_space != 0 {
        return Err(unsupported("min-free-space of a prune of the build cache"));
    }
    let mut filters: BTreeMap<String, std::collections::BTreeSet<String>> = BTreeMap::new();
    for filter in request.filter.iter().filter(|filter| !filter.is_empty()) {
        let wrong = || unsupported(&format!("the filter {filter:?}"));
        let (name, value) = match filter.split_once("==").or_else(|| filter.split_once("~=")) {
            Some((name, value)) => (name.trim(), value.trim()),
            None => (filter.trim(), "true"),
        };
        if value.contains([',', '^', '$', '*', '"'])
            || !matches!(name, "id" | "type" | "shared" | "private" | "inuse")
        {
            return Err(wrong());
        }
        filters.entry(name.to_owned()).or_default().insert(value.to_owned());
    }
    if request.keep_duration > 0 {
        let seconds = request.keep_duration / 1_000_000_000;
        filters.insert("until".to_owned(), [format!("{seconds}s")].into());
    }
    let bytes = |number: i64| u64::try_from(number).ok().filter(|number| *number > 0);
    Ok(CachePruneSpec {
        all: request.all,
        keep_bytes: bytes(request.max_used_space).or_else(|| bytes(request.reserved_space)),
        filters: Filters(filters),
    })
}
