//! `metrics-addr`: what Prometheus scrapes, under the names that Docker's daemon uses, so that dashboards for one show the
//! other.
//!
//! Nothing is measured unless the setting asks for it. Durations are those of API requests until the head of the answer,
//! which for the actions named here is when the engine has done them. Counts begin with the daemon.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use http::{Method, header};
use palan_engine::Engine;
use palan_engine::events::EventQuery;
use palan_stdx::fs;

use crate::error::ApiResult;

/// Upper bounds of the histograms' buckets in seconds: Prometheus' own defaults, as in Docker.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// The metrics of durations and the actions that they have.
const CONTAINER: &str = "engine_daemon_container_actions_seconds";
const IMAGE: &str = "engine_daemon_image_actions_seconds";
const NETWORK: &str = "engine_daemon_network_actions_seconds";
const ACTIONS: [(&str, &str); 13] = [
    (CONTAINER, "changes"),
    (CONTAINER, "commit"),
    (CONTAINER, "create"),
    (CONTAINER, "delete"),
    (CONTAINER, "kill"),
    (CONTAINER, "restart"),
    (CONTAINER, "start"),
    (CONTAINER, "stop"),
    (IMAGE, "delete"),
    (IMAGE, "pull"),
    (IMAGE, "push"),
    (NETWORK, "connect"),
    (NETWORK, "disconnect"),
];

#[derive(Debug, Default)]
struct Histogram {
    /// How many lasted at most as long as each bound; the others are in `count` only.
    buckets: [AtomicU64; BUCKETS.len()],
    count: AtomicU64,
    microseconds: AtomicU64,
}

impl Histogram {
    fn observe(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (bucket, bound) in self.buckets.iter().zip(BUCKETS) {
            if seconds <= bound {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        self.count.fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }
}

/// What was counted.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    actions: [Histogram; ACTIONS.len()],
    events: AtomicU64,
}

impl Metrics {
    /// Begins to count. It ends with the engine.
    pub(crate) fn start(engine: &Arc<Engine>) -> Arc<Self> {
        let metrics = Arc::new(Self::default());
        tokio::spawn(count_events(Arc::downgrade(engine), Arc::downgrade(&metrics)));
        metrics
    }

    /// Measures the requests that go through a router.
    pub(crate) fn around(self: &Arc<Self>, router: Router) -> Router {
        router.layer(middleware::from_fn_with_state(Arc::clone(self), measure))
    }

    /// The one path of the address that is scraped.
    pub(crate) fn router(self: &Arc<Self>, engine: Arc<Engine>) -> Router {
        Router::new().route("/metrics", get(scrape)).with_state((Arc::clone(self), engine))
    }
}

async fn count_events(engine: Weak<Engine>, metrics: Weak<Metrics>) {
    let subscription = match engine.upgrade() {
        Some(engine) => engine.events(EventQuery::default()).await,
        None => return,
    };
    let Ok(mut events) = subscription else { return };
    while events.next().await.is_some() {
        let Some(metrics) = metrics.upgrade() else { return };
        metrics.events.fetch_add(1, Ordering::Relaxed);
    }
}

async fn measure(State(metrics): State<Arc<Metrics>>, request: Request, next: Next) -> Response {
    let Some(action) = action(request.method(), request.uri().path()) else { return next.run(request).await };
    let start = Instant::now();
    let answer = next.run(request).await;
    let index = ACTIONS.iter().position(|known| *known == action);
    if let Some(histogram) =
        index.and_then(|index| metrics.actions.get(index)).filter(|_| answer.status().is_success())
    {
        histogram.observe(start.elapsed());
    }
    answer
}

/// What a request is about to do, if it is measured.
fn action(method: &Method, path: &str) -> Option<(&'static str, &'static str)> {
    let mut parts = path.trim_start_matches('/').split('/');
    let (kind, last) = (parts.next()?, path.rsplit('/').next()?);
    let is_object = path.matches('/').count() == 2;
    let name = match (method, kind) {
        (&Method::POST, "commit") => return Some((CONTAINER, "commit")),
        (&Method::DELETE, "containers" | "images") => "delete",
        (&Method::GET, "containers") if last == "changes" => "changes",
        (&Method::POST, "containers") if last == "create" && is_object => "create",
        (&Method::POST, "images") if last == "create" && is_object => "pull",
        (&Method::POST, _) if !is_object => last,
        _ => return None,
    };
    let metric = match kind {
        "containers" => CONTAINER,
        "images" => IMAGE,
        "networks" => NETWORK,
        _ => return None,
    };
    ACTIONS.into_iter().find(|known| *known == (metric, name))
}

async fn scrape(State((metrics, engine)): State<(Arc<Metrics>, Arc<Engine>)>) -> ApiResult {
    let info = engine.info().await?;
    let mut page = Page::default();
    let mut metric = "";
    for ((name, action), histogram) in ACTIONS.into_iter().zip(&metrics.actions) {
        if name != metric {
            page.head(name, "The number of seconds it takes to process each action", "histogram");
            metric = name;
        }
        page.histogram(name, action, histogram);
    }
    page.head(
        "engine_daemon_container_states_containers",
        "The count of containers in various states",
        "gauge",
    );
    for (state, count) in [("paused", info.paused), ("running", info.running), ("stopped", info.stopped)] {
        page.line("engine_daemon_container_states_containers", &[("state", state)], count);
    }
    page.gauge(
        "engine_daemon_engine_cpus_cpus",
        "The number of cpus that the host system of the engine has",
        info.cpus,
    );
    page.head(
        "engine_daemon_engine_info",
        "The information related to the engine and the OS it is running on",
        "gauge",
    );
    let labels = [
        ("architecture", info.architecture.as_str()),
        ("daemon_id", info.id.as_str()),
        ("graphdriver", "overlayfs"),
        ("kernel", info.kernel_version.as_str()),
        ("os", info.operating_system.as_str()),
        ("os_type", "linux"),
        ("os_version", info.os_version.as_str()),
        ("version", env!("CARGO_PKG_VERSION")),
    ];
    page.line("engine_daemon_engine_info", &labels, 1);
    page.gauge(
        "engine_daemon_engine_memory_bytes",
        "The number of bytes of memory that the host system of the engine has",
        info.memory,
    );
    page.gauge(
        "engine_daemon_events_subscribers_total",
        "The number of current subscribers to events",
        // One is the subscription that counts the events.
        info.event_listeners.saturating_sub(1),
    );
    page.counter(
        "engine_daemon_events_total",
        "The number of events logged",
        metrics.events.load(Ordering::Relaxed),
    );
    page.process();
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], page.0).into_response())
}

/// The text format, version 0.0.4.
#[derive(Debug, Default)]
struct Page(String);

impl Page {
    fn head(&mut self, name: &str, help: &str, kind: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn line(&mut self, name: &str, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        self.0.push_str(name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let _ = write!(self.0, "{}{label}=\"{text}\"", if index == 0 { '{' } else { ',' });
        }
        if !labels.is_empty() {
            self.0.push('}');
        }
        let _ = writeln!(self.0, " {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, help, "gauge");
        self.line(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: impl std::fmt::Display) {
        self.head(name, help, "counter");
        self.line(name, &[], value);
    }

    fn histogram(&mut self, name: &str, action: &str, histogram: &Histogram) {
        let bucket = format!("{name}_bucket");
        for (count, bound) in histogram.buckets.iter().zip(BUCKETS) {
            let labels = [("action", action), ("le", &bound.to_string())];
            self.line(&bucket, &labels, count.load(Ordering::Relaxed));
        }
        let count = histogram.count.load(Ordering::Relaxed);
        self.line(&bucket, &[("action", action), ("le", "+Inf")], count);
        let microseconds = Duration::from_micros(histogram.microseconds.load(Ordering::Relaxed));
        self.line(&format!("{name}_sum"), &[("action", action)], microseconds.as_secs_f64());
        self.line(&format!("{name}_count"), &[("action", action)], count);
    }

    /// The daemon itself, by the names of Prometheus' client libraries; from proc_pid_stat(5).
    fn process(&mut self) {
        let stat = fs::read_generated_at("/proc/self/stat".as_ref()).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        // The third field of the file is the first here.
        let field =
            |number: usize| fields.get(number - 3).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        let ticks = rustix::param::clock_ticks_per_second();
        let seconds = Duration::from_millis((field(14) + field(15)) * 1000 / ticks.max(1));
        self.counter(
            "process_cpu_seconds_total",
            "Total user and system CPU time spent in seconds",
            seconds.as_secs_f64(),
        );
        let files = fs::read_dir("/proc/self/fd".as_ref()).map_or(0, |entries| entries.len());
        self.gauge("process_open_fds", "Number of open file descriptors", files);
        let resident = field(24) * u64::try_from(rustix::param::page_size()).unwrap_or(4096);
        self.gauge("process_resident_memory_bytes", "Resident memory size in bytes", resident);
        self.gauge("process_virtual_memory_bytes", "Virtual memory size in bytes", field(23));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_actions() {
        let get = |method: Method, path: &str| {
            action(&method, path).map(|(metric, name)| (metric == CONTAINER, name))
        };
        assert_eq!(get(Method::POST, "/containers/create"), Some((true, "create")));
        assert_eq!(get(Method::POST, "/containers/x/start"), Some((true, "start")));
        assert_eq!(get(Method::DELETE, "/containers/x"), Some((true, "delete")));
        assert_eq!(get(Method::GET, "/containers/x/changes"), Some((true, "changes")));
        assert_eq!(get(Method::POST, "/commit"), Some((true, "commit")));
        assert_eq!(get(Method::POST, "/images/create"), Some((false, "pull")));
        assert_eq!(get(Method::POST, "/images/a/b/push"), Some((false, "push")));
        assert_eq!(get(Method::POST, "/networks/n/connect"), Some((false, "connect")));
        for (method, path) in [
            (Method::GET, "/containers/json"),
            (Method::POST, "/volumes/create"),
            (Method::POST, "/containers/x/wait"),
        ] {
            assert_eq!(get(method, path), None, "{path}");
        }
    }

    #[test]
    fn the_text_is_what_prometheus_reads() {
        let histogram = Histogram::default();
        histogram.observe(Duration::from_millis(20));
        histogram.observe(Duration::from_secs(20));
        let mut page = Page::default();
        page.histogram("m", "start", &histogram);
        page.line("i", &[("os", "a \"b\"")], 1);
        let lines: Vec<&str> = page.0.lines().collect();
        assert_eq!(lines[1], "m_bucket{action=\"start\",le=\"0.01\"} 0");
        assert_eq!(lines[2], "m_bucket{action=\"start\",le=\"0.025\"} 1");
        assert_eq!(lines[11], "m_bucket{action=\"start\",le=\"+Inf\"} 2");
        assert_eq!(lines[12], "m_sum{action=\"start\"} 20.02");
        assert_eq!(lines[13], "m_count{action=\"start\"} 2");
        assert_eq!(lines[14], "i{os=\"a \\\"b\\\"\"} 1");
    }
}
