//! Samples, their medians, and the tables.

use std::io::Write;
use std::time::{Duration, Instant};

use palan_linux::process::usage_of_children;
use serde_json::{Value, json};

use crate::Failure;
use crate::process::root;

/// How long the kernel may finish what a sample left to it (network namespaces, cgroups and mounts end in the background)
/// before the next one is timed: else each contender pays for the one before it.
const SETTLE: Duration = Duration::from_millis(30);

/// One contender: a name and what is timed.
pub(crate) struct Contender<'a> {
    pub(crate) name: &'a str,
    pub(crate) action: Box<dyn FnMut() -> Result<(), Failure> + 'a>,
    /// Runs before each sample, untimed.
    pub(crate) before: Option<Box<dyn FnMut() -> Result<(), Failure> + 'a>>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: &'a str, action: impl FnMut() -> Result<(), Failure> + 'a) -> Self {
        Self { name, action: Box::new(action), before: None }
    }

    pub(crate) fn before(mut self, before: impl FnMut() -> Result<(), Failure> + 'a) -> Self {
        self.before = Some(Box::new(before));
        self
    }
}

/// Who is measured after whom.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    /// One sample of each, again and again.
    Turns,
    /// All samples of one, then those of the next.
    Rows,
}

/// Everything that was measured.
pub(crate) struct Report {
    raw: Vec<Value>,
}

impl Report {
    pub(crate) fn new() -> Self {
        Self { raw: Vec::new() }
    }

    /// Measures the contenders in turn, `rounds` times each after one round of warm-up, and prints a table with the
    /// first contender as the measure of the others.
    pub(crate) fn compare(
        &mut self,
        title: &str,
        rounds: usize,
        contenders: Vec<Contender<'_>>,
    ) -> Result<(), Failure> {
        self.measure(title, 1, rounds, Order::Turns, contenders)
    }

    /// The same with all samples of a contender in a row, for what leaves the next one a burden that takes a minute to go.
    pub(crate) fn compare_in_rows(
        &mut self,
        title: &str,
        rounds: usize,
        contenders: Vec<Contender<'_>>,
    ) -> Result<(), Failure> {
        self.measure(title, 1, rounds, Order::Rows, contenders)
    }

    /// One sample of each, the first: for what takes minutes to be undone.
    pub(crate) fn once(&mut self, title: &str, contenders: Vec<Contender<'_>>) -> Result<(), Failure> {
        self.measure(title, 0, 1, Order::Turns, contenders)
    }

    fn measure(
        &mut self,
        title: &str,
        warm_up: usize,
        rounds: usize,
        order: Order,
        mut contenders: Vec<Contender<'_>>,
    ) -> Result<(), Failure> {
        let mut samples = vec![Vec::with_capacity(rounds); contenders.len()];
        let mut cpu = samples.clone();
        let (all, every) = (warm_up + rounds, contenders.len());
        for sample in 0..all * every {
            let (round, which) = match order {
                Order::Turns => (sample / every, sample % every),
                Order::Rows => (sample % all, sample / all),
            };
            let contender = &mut contenders[which];
            if let Some(before) = &mut contender.before {
                before()?;
            }
            std::thread::sleep(SETTLE);
            let (used, begun) = (usage_of_children()?.cpu, Instant::now());
            (contender.action)().map_err(|failure| format!("{title}, {}: {failure}", contender.name))?;
            if round >= warm_up {
                samples[which].push(begun.elapsed());
                cpu[which].push(usage_of_children()?.cpu.saturating_sub(used));
            }
        }
        say(&format!(
            "| {title} | median | minimum | ratio of medians | CPU of the command |\n|---|---|---|---|---|"
        ))?;
        let ours = median(&samples[0]);
        for ((contender, samples), cpu) in contenders.iter().zip(&samples).zip(&cpu) {
            let (middle, least) = (median(samples), samples.iter().min().copied().unwrap_or_default());
            let ratio = middle.as_secs_f64() / ours.as_secs_f64();
            let (name, used) = (contender.name, show(median(cpu)));
            say(&format!("| {name} | {} | {} | {ratio:.2} | {used} |", show(middle), show(least)))?;
            let milliseconds = |samples: &[Duration]| -> Vec<f64> {
                samples.iter().map(|sample| sample.as_secs_f64() * 1e3).collect()
            };
            let (wall, cpu) = (milliseconds(samples), milliseconds(cpu));
            self.raw.push(
                json!({"title": title, "contender": name, "milliseconds": wall, "cpu_milliseconds": cpu}),
            );
        }
        say("")
    }

    /// Prints and keeps a figure that is no duration.
    pub(crate) fn figure(
        &mut self,
        title: &str,
        value: f64,
        unit: &str,
        budget: &str,
    ) -> Result<(), Failure> {
        self.raw.push(json!({"title": title, "value": value, "unit": unit}));
        say(&format!("- {title}: {value:.2} {unit} (budget {budget})"))
    }

    /// Writes the raw results.
    pub(crate) fn save(&self) -> Result<(), Failure> {
        let directory = root().join("target/bench");
        std::fs::create_dir_all(&directory)?;
        let seconds = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?.as_secs();
        let path = directory.join(format!("{seconds}.json"));
        std::fs::write(&path, serde_json::to_vec_pretty(&self.raw)?)?;
        say(&format!("raw results: target/bench/{seconds}.json"))
    }
}

pub(crate) fn say(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

fn median(samples: &[Duration]) -> Duration {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

fn show(duration: Duration) -> String {
    let seconds = duration.as_secs_f64();
    if seconds >= 1.0 { format!("{seconds:.2} s") } else { format!("{:.2} ms", seconds * 1e3) }
}
