//! Lists of containers, `inspect`, and sizes.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use jiff::Timestamp;

use crate::container::{Details, ListQuery, Status, Summary};
use crate::engine::{Engine, blocking};
use crate::spec::Filters;
use crate::{Error, Result, image};

const FILTERS: [&str; 15] = [
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

impl Engine {
    /// A list, newest first.
    pub async fn list(&self, query: ListQuery) -> Result<Vec<Summary>> {
        let selection = Selection::new(self, &query.filters).await?;
        let all = query.all || query.limit > 0 || selection.wants_stopped;
        let mut found: Vec<Arc<Details>> = self
            .index
            .all()
            .iter()
            .map(|handle| handle.details())
            .filter(|details| (all || details.state.status.is_live()) && selection.fits(details))
            .collect();
        found.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        if query.limit > 0 {
            found.truncate(query.limit);
        }
        let now = Timestamp::now();
        let mut list = Vec::with_capacity(found.len());
        for details in found {
            let (size_rw, size_root_fs) = match query.size {
                true => self.sizes_of(&details).await.map(|(rw, root)| (Some(rw), Some(root)))?,
                false => (None, None),
            };
            let status = status_sentence(&details, now);
            let image = details.config.image.clone();
            list.push(Summary { image, status, size_rw, size_root_fs, details });
        }
        Ok(list)
    }

    /// All about one container.
    pub async fn inspect(&self, name: &str) -> Result<Arc<Details>> {
        let details = self.index.find(name)?.details();
        let exec_ids = self.sessions.open_ids(&details.id);
        if exec_ids.is_empty() {
            return Ok(details);
        }
        let mut details = Arc::unwrap_or_clone(details);
        details.exec_ids = exec_ids;
        Ok(Arc::new(details))
    }

    /// Bytes in the writable layer, and together with the image's.
    pub async fn sizes(&self, name: &str) -> Result<(u64, u64)> {
        let details = self.index.find(name)?.details();
        self.sizes_of(&details).await
    }

    async fn sizes_of(&self, details: &Details) -> Result<(u64, u64)> {
        let own = self.writable_size(details).await?;
        let (engine, image_id) = (self.shared(), details.image_id.clone());
        let image = blocking(move || {
            let Ok(id) = image_id.parse() else { return Ok(0) };
            let image = engine.store.image(&id).map_err(image::store_error)?;
            Ok(image.map_or(0, |image| image.size))
        });
        Ok((own, own + image.await?))
    }

    pub(crate) async fn writable_size(&self, details: &Details) -> Result<u64> {
        let upper = details.overlay.upper.clone();
        blocking(move || Ok(size_of_tree(Path::new(&upper)))).await
    }
}

/// Bytes of all files below a directory, each once however many names it has. What vanishes meanwhile is not counted.
pub(crate) fn size_of_tree(path: &Path) -> u64 {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut directories = vec![path.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in palan_stdx::fs::read_dir(&directory).unwrap_or_default() {
            match entry.metadata() {
                Ok(metadata) if metadata.is_dir() => directories.push(entry.path()),
                Ok(metadata) if metadata.nlink() > 1 && !seen.insert((metadata.dev(), metadata.ino())) => {}
                Ok(metadata) => total += metadata.len(),
                Err(_) => {}
            }
        }
    }
    total
}

/// The filters, checked and looked up once.
struct Selection<'a> {
    filters: &'a Filters,
    exited: Vec<i32>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    ancestors: Option<Vec<String>>,
    wants_stopped: bool,
}

impl<'a> Selection<'a> {
    async fn new(engine: &Engine, filters: &'a Filters) -> Result<Self> {
        const STATES: [&str; 7] =
            ["created", "running", "paused", "restarting", "removing", "exited", "dead"];
        filters.check(&FILTERS)?;
        for status in filters.values("status") {
            if !STATES.contains(&status) {
                return Err(Error::invalid(format!(
                    "invalid value for state ({status}): must be one of {}",
                    STATES.join(", ")
                )));
            }
        }
        for health in filters.values("health") {
            if !matches!(health, "starting" | "healthy" | "unhealthy" | "none") {
                return Err(Error::invalid(format!(
                    "invalid value for health ({health}): must be one of none, starting, healthy, unhealthy"
                )));
            }
        }
        let exited = filters.values("exited").map(|code| {
            code.parse().map_err(|_| Error::invalid(format!("invalid filter 'exited=[{code}]'")))
        });
        let exited: Vec<i32> = exited.collect::<Result<_>>()?;
        let created = |key: &str| {
            let times = filters.values(key).map(|name| Ok(engine.index.find(name)?.details().created));
            times.collect::<Result<Vec<_>>>()
        };
        let wants_stopped = ["status", "exited", "before", "since"].iter().any(|key| filters.has(key));
        Ok(Self {
            filters,
            exited,
            before: created("before")?.into_iter().min(),
            since: created("since")?.into_iter().max(),
            ancestors: ancestors(engine, filters).await?,
            wants_stopped,
        })
    }

    fn fits(&self, details: &Details) -> bool {
        let filters = self.filters;
        let any = |key: &str, test: &dyn Fn(&str) -> bool| !filters.has(key) || filters.values(key).any(test);
        let state = &details.state;
        let has_exited = matches!(state.status, Status::Exited | Status::Dead);
        (self.exited.is_empty() || (has_exited && self.exited.contains(&state.exit_code)))
            && self.before.is_none_or(|before| details.created < before)
            && self.since.is_none_or(|since| details.created > since)
            && self.ancestors.as_ref().is_none_or(|ids| ids.contains(&details.image_id))
            && any("id", &|prefix| details.id.starts_with(prefix))
            && any("name", &|part| name_fits(&details.name, part))
            && filters.labels("label", &details.config.labels)
            && any("status", &|status| state.status.as_str() == status)
            && any("health", &|health| health == health_word(details))
            && any("is-task", &|value| matches!(value, "false" | "0"))
            && any("network", &|network| network_fits(details, network))
            && any("volume", &|volume| {
                details.mounts.iter().any(|mount| {
                    let is_volume = mount.kind == "volume" && mount.name == volume;
                    is_volume || mount.destination == volume || mount.source == volume
                })
            })
            && any("publish", &|port| {
                details.ports.iter().any(|(key, bindings)| {
                    bindings
                        .iter()
                        .flatten()
                        .any(|binding| published_port_fits(port, &binding.host_port, key))
                })
            })
            && any("expose", &|port| {
                details.config.exposed_ports.iter().any(|exposed| port_fits(port, exposed))
            })
    }
}

/// A part of the name, or with `^` and `$` its beginning and end.
fn name_fits(name: &str, pattern: &str) -> bool {
    let pattern = pattern.strip_prefix('/').unwrap_or(pattern);
    let (starts, pattern) = match pattern.strip_prefix('^') {
        Some(rest) => (true, rest.strip_prefix('/').unwrap_or(rest)),
        None => (false, pattern),
    };
    let (ends, pattern) = pattern.strip_suffix('$').map_or((false, pattern), |rest| (true, rest));
    match (starts, ends) {
        (true, true) => name == pattern,
        (true, false) => name.starts_with(pattern),
        (false, true) => name.ends_with(pattern),
        (false, false) => name.contains(pattern),
    }
}

fn network_fits(details: &Details, network: &str) -> bool {
    details.endpoints.iter().any(|(name, endpoint)| {
        name == network || (!network.is_empty() && endpoint.network_id.starts_with(network))
    })
}

fn port_fits(wanted: &str, exposed: &str) -> bool {
    if wanted.contains('/') { wanted == exposed } else { exposed.split('/').next() == Some(wanted) }
}

fn published_port_fits(wanted: &str, host_port: &str, container_port: &str) -> bool {
    match wanted.split_once('/') {
        Some((number, protocol)) => number == host_port && container_port.ends_with(protocol),
        None => wanted == host_port || port_fits(wanted, container_port),
    }
}

/// Ids of the images named by `ancestor`, and of those built on top of them.
async fn ancestors(engine: &Engine, filters: &Filters) -> Result<Option<Vec<String>>> {
    if !filters.has("ancestor") {
        return Ok(None);
    }
    let names: Vec<String> = filters.values("ancestor").map(str::to_owned).collect();
    let engine = engine.shared();
    blocking(move || {
        let mut ids = Vec::new();
        let images = engine.store.images().map_err(image::store_error)?;
        for name in names {
            // An ancestor that does not exist has no descendants.
            let Ok(ancestor) = engine.store.resolve(&name) else { continue };
            let layers = &ancestor.config.rootfs.diff_ids;
            let descends = |image: &&palan_store::Image| image.config.rootfs.diff_ids.starts_with(layers);
            ids.extend(images.iter().filter(descends).map(|image| image.id.to_string()));
        }
        Ok(Some(ids))
    })
    .await
}

/// The word that lists and filters use for the health.
pub(crate) fn health_word(details: &Details) -> &'static str {
    details.state.health.as_ref().map_or("none", super::Health::word)
}

/// Docker's sentence about the state.
pub(crate) fn status_sentence(details: &Details, now: Timestamp) -> String {
    let state = &details.state;
    let since = |time: Option<Timestamp>| human_duration(now.duration_since(time.unwrap_or(now)).as_secs());
    match state.status {
        Status::Created => "Created".into(),
        Status::Running => match &state.health {
            Some(health) => format!("Up {} ({})", since(state.started_at), health.sentence()),
            None => format!("Up {}", since(state.started_at)),
        },
        Status::Paused => format!("Up {} (Paused)", since(state.started_at)),
        Status::Restarting => {
            format!("Restarting ({}) {} ago", state.exit_code, since(state.finished_at))
        }
        Status::Removing => "Removal In Progress".into(),
        Status::Dead => "Dead".into(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, since(state.finished_at)),
    }
}

/// `Less than a second`, `About a minute`, `3 hours`, as Docker says it.
fn human_duration(seconds: i64) -> String {
    let (minutes, hours) = (seconds / 60, (seconds + 1800) / 3600);
    match seconds {
        ..1 => "Less than a second".into(),
        1 => "1 second".into(),
        2..60 => format!("{seconds} seconds"),
        60..120 => "About a minute".into(),
        120..3600 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".into(),
        _ if hours < 48 => format!("{hours} hours"),
        _ if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        _ if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        _ if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        _ => format!("{} years", hours / 24 / 365),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let cases = [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (61, "About a minute"),
            (600, "10 minutes"),
            (3600, "About an hour"),
            (7200, "2 hours"),
            (3 * 86400, "3 days"),
            (21 * 86400, "3 weeks"),
            (90 * 86400, "3 months"),
            (800 * 86400, "2 years"),
        ];
        for (seconds, expected) in cases {
            assert_eq!(human_duration(seconds), expected);
        }
    }

    #[test]
    fn names() {
        assert!(name_fits("web-1", "eb") && name_fits("web-1", "^web") && name_fits("web-1", "^/web-1$"));
        assert!(!name_fits("web-1", "^eb") && !name_fits("web-1", "web$"));
    }

    #[test]
    fn sentences() {
        let mut details = Details::default();
        assert_eq!(status_sentence(&details, Timestamp::now()), "Created");
        details.state.status = Status::Exited;
        details.state.exit_code = 3;
        details.state.finished_at = Some(Timestamp::UNIX_EPOCH);
        let now = Timestamp::from_second(120).expect("a time");
        assert_eq!(status_sentence(&details, now), "Exited (3) 2 minutes ago");
        details.state.status = Status::Restarting;
        assert_eq!(status_sentence(&details, now), "Restarting (3) 2 minutes ago");
    }
}
