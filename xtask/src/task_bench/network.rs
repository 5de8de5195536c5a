//! Networks: bytes and connections through a published port and over the bridge, many ports, many networks; beside Docker.
//!
//! The clients run where the engine's daemon has its host side: Palan's in this network namespace, Docker's in the one that
//! the benchmark made for it. Both have the same two processors for both ends of every connection.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use palan_test_support::image::{ImageBuilder, TarBuilder};
use serde_json::Value;

use super::peers::Bench;
use super::report::{Contender, Report, say};
use super::subjects::quietly;
use crate::Failure;
use crate::process::{cargo, check, command, find, output};

/// How long each throughput is measured, in seconds.
const SECONDS: &str = "2";

/// How often each of them.
const ROUNDS: usize = 5;

/// How an engine is called.
type Call<'a> = dyn Fn(&[&str]) -> Command + 'a;

/// One of the engines that are compared.
struct Side<'a> {
    name: &'static str,
    call: Box<Call<'a>>,
    /// The daemon, whose network namespace clients enter.
    daemon: u32,
}

impl Side<'_> {
    fn run(&self, arguments: &[&str]) -> Result<String, Failure> {
        Ok(output(&mut (self.call)(arguments))?.trim().to_owned())
    }

    /// A program beside the daemon.
    fn client(&self, program: &str, arguments: &[&str]) -> Command {
        let mut client = command("nsenter");
        client.arg(format!("--net=/proc/{}/ns/net", self.daemon)).arg(program).args(arguments);
        client
    }

    fn address(&self, container: &str) -> Result<String, Failure> {
        self.run(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", container])
    }

    /// The bridge's own address: one of the host that is not the loopback.
    fn gateway(&self, container: &str) -> Result<String, Failure> {
        self.run(&["inspect", "-f", "{{.NetworkSettings.Gateway}}", container])
    }
}

/// The engines that are compared.
fn sides(bench: &Bench) -> Result<Vec<Side<'_>>, Failure> {
    let mut sides = vec![Side {
        name: "palan",
        call: Box::new(|arguments| bench.ours(arguments)),
        daemon: bench.daemon_pid(),
    }];
    if let Some(daemon) = bench.docker_pid() {
        let call = |arguments: &[&str]| bench.docker(arguments).unwrap_or_else(|| command("docker"));
        sides.push(Side { name: "docker", call: Box::new(call), daemon });
        // A new network namespace has its loopback down.
        check(
            command("nsenter")
                .arg(format!("--net=/proc/{daemon}/ns/net"))
                .args(["ip", "link", "set", "lo", "up"]),
        )?;
    }
    Ok(sides)
}

/// Bytes and connections a second.
pub(super) fn traffic(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let sides = sides(bench)?;
    let (Some(iperf3), Some(nginx), Some(_)) = (find("iperf3"), find("nginx"), find("wrk")) else {
        return say("throughput and connections need iperf3, nginx and wrk");
    };
    let archive = bench.directory.join("net.tar");
    std::fs::write(&archive, servers(&iperf3, &nginx)?.build().docker_archive(&["bench/net:latest"]))?;
    for side in &sides {
        side.run(&["load", "-q", "-i", &archive.to_string_lossy()])?;
    }
    throughput(&sides, report)?;
    connections(&sides, report)
}

/// How long it takes to make many of them.
pub(super) fn many(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let sides = sides(bench)?;
    many_ports(&sides, report)?;
    many_networks(&sides, report)?;
    endpoints(report)
}

/// What of a container's start is its network: `crates/network/benches/endpoint.rs`.
fn endpoints(report: &mut Report) -> Result<(), Failure> {
    let told = output(cargo().args([
        "bench",
        "--locked",
        "--quiet",
        "--package",
        "palan-network",
        "--bench",
        "endpoint",
    ]))?;
    for line in told.lines() {
        let Some((name, times)) = line.split_once(": median ") else { continue };
        let time = times.split(' ').next().and_then(|time| time.parse::<f64>().ok());
        let time = time.ok_or_else(|| format!("no time: {line}"))?;
        report.figure(&format!("set-up of an {name}"), time / 1000.0, "ms", "2 ms")?;
    }
    Ok(())
}

/// An image with both servers and the libraries that they load.
fn servers(iperf3: &Path, nginx: &Path) -> Result<ImageBuilder, Failure> {
    let configuration = "daemon off; user root; worker_processes 2; error_log /dev/null; pid /run/nginx.pid;\n\
        events { worker_connections 4096; }\n\
        http { access_log off; keepalive_timeout 0; server { listen 80 backlog=4096; return 200 ok; } }\n";
    let passwd = "root:x:0:0:root:/:/bin/sh\n";
    let mut tar = TarBuilder::new();
    for directory in
        ["bin/", "etc/", "run/", "tmp/", "var/", "var/log/", "var/log/nginx/", "var/lib/", "var/lib/nginx/"]
    {
        tar = tar.directory(directory, 0o755);
    }
    tar = tar
        .file("etc/nginx.conf", 0o644, configuration)
        .file("etc/passwd", 0o644, passwd)
        .file("etc/group", 0o644, "root:x:0:\n")
        .file("bin/iperf3", 0o755, std::fs::read(iperf3)?)
        .file("bin/nginx", 0o755, std::fs::read(nginx)?);
    let mut libraries = std::collections::BTreeSet::new();
    for program in [iperf3, nginx] {
        let told = output(command("ldd").arg(program))?;
        libraries.extend(told.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned));
    }
    for library in libraries {
        tar = tar.file(library.trim_start_matches('/'), 0o755, std::fs::read(&library)?);
    }
    Ok(ImageBuilder::new().layer(tar.finish()).config("Env", serde_json::json!(["PATH=/bin"])))
}

/// What `iperf3` measures, in Gbit/s.
fn gigabits(mut client: Command) -> Result<f64, Failure> {
    let told: Value = serde_json::from_str(&output(&mut client)?)?;
    let rate = told["end"]["sum_received"]["bits_per_second"].as_f64();
    Ok(rate.ok_or("iperf3 tells no rate")? / 1e9)
}

/// Both ends of a side's streams.
struct Stream<'a> {
    side: &'a Side<'a>,
    server: String,
    other: String,
    address: String,
    gateway: String,
}

impl<'a> Stream<'a> {
    fn start(side: &'a Side<'a>) -> Result<Self, Failure> {
        let server = side.run(&["run", "-d", "-p", "15201:5201", "bench/net", "iperf3", "-s"])?;
        let other = side.run(&["run", "-d", "bench/net", "iperf3", "-s"])?;
        let (address, gateway) = (side.address(&server)?, side.gateway(&server)?);
        Ok(Self { side, server, other, address, gateway })
    }

    /// A client that measures one way.
    fn client(&self, way: &str) -> Command {
        let (host, port) = match way {
            "published port, an address of the host" => (self.gateway.as_str(), "15201"),
            "published port, 127.0.0.1" => ("127.0.0.1", "15201"),
            _ => (self.address.as_str(), "5201"),
        };
        let words = ["-c", host, "-p", port, "-t", SECONDS, "-J"];
        if way == FROM_CONTAINER {
            let exec = ["exec", &self.other, "iperf3"];
            return (self.side.call)(&exec.into_iter().chain(words).collect::<Vec<_>>());
        }
        self.side.client("iperf3", &words)
    }
}

const FROM_CONTAINER: &str = "another container";
const WAYS: [&str; 4] = [
    "published port, an address of the host",
    "published port, 127.0.0.1",
    "the bridge address",
    FROM_CONTAINER,
];

/// Medians of rounds in which the sides take turns, so that a noisy minute hits all.
fn throughput(sides: &[Side<'_>], report: &mut Report) -> Result<(), Failure> {
    let streams: Vec<Stream<'_>> = sides.iter().map(Stream::start).collect::<Result<_, _>>()?;
    std::thread::sleep(Duration::from_secs(1));
    for way in WAYS {
        let mut rates = vec![Vec::new(); streams.len()];
        for _ in 0..ROUNDS {
            for (stream, rates) in streams.iter().zip(&mut rates) {
                rates.push(gigabits(stream.client(way))?);
            }
        }
        for (stream, rates) in streams.iter().zip(rates) {
            let title = format!("iperf3 by {way}, {}", stream.side.name);
            report.figure(&title, median(rates), "Gbit/s", "docker's")?;
        }
    }
    for Stream { side, server, other, .. } in &streams {
        side.run(&["rm", "-f", server, other])?;
    }
    Ok(())
}

/// Names of ways to a server, and addresses there.
type Ways = [(&'static str, String); 3];

/// Short connections a second, each with one request: medians, measured in turns as the streams are.
fn connections(sides: &[Side<'_>], report: &mut Report) -> Result<(), Failure> {
    let start = |side: &Side<'_>| -> Result<(String, Ways), Failure> {
        let server =
            side.run(&["run", "-d", "-p", "18080:80", "bench/net", "nginx", "-c", "/etc/nginx.conf"])?;
        let (address, gateway) = (side.address(&server)?, side.gateway(&server)?);
        let urls = [
            ("published port, an address of the host", format!("http://{gateway}:18080/")),
            ("published port, 127.0.0.1", "http://127.0.0.1:18080/".to_owned()),
            ("the bridge address", format!("http://{address}/")),
        ];
        Ok((server, urls))
    };
    let servers = sides.iter().map(start).collect::<Result<Vec<_>, _>>()?;
    std::thread::sleep(Duration::from_secs(1));
    for way in 0..servers[0].1.len() {
        let mut rates = vec![Vec::new(); sides.len()];
        for _ in 0..ROUNDS {
            for ((side, (_, urls)), rates) in sides.iter().zip(&servers).zip(&mut rates) {
                rates.push(requests(side, &urls[way].1)?);
            }
        }
        for ((side, (_, urls)), rates) in sides.iter().zip(&servers).zip(rates) {
            let title = format!("connections by {}, {}", urls[way].0, side.name);
            report.figure(&title, median(rates), "a second", "docker's")?;
        }
    }
    for (side, (server, _)) in sides.iter().zip(&servers) {
        side.run(&["rm", "-f", server])?;
    }
    Ok(())
}

/// What `wrk` measures.
fn requests(side: &Side<'_>, url: &str) -> Result<f64, Failure> {
    let words = ["-t1", "-c32", "-d3s", "-H", "Connection: close", url];
    let told = output(&mut side.client("wrk", &words))?;
    let rate = told.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse::<f64>().ok());
    rate.ok_or_else(|| format!("wrk tells no rate: {told}").into())
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Processes below a daemon, and what they and it take.
fn family(daemon: u32) -> Result<(f64, f64), Failure> {
    let mut open = vec![daemon];
    let (mut count, mut memory) = (0.0, 0.0);
    while let Some(pid) = open.pop() {
        // One may end while we look.
        let Ok(rollup) = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")) else { continue };
        let pss = rollup.lines().find_map(|line| {
            line.strip_prefix("Pss:")?.trim().strip_suffix(" kB")?.trim().parse::<f64>().ok()
        });
        count += 1.0;
        memory += pss.unwrap_or_default() / 1024.0;
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))?.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            open.extend(children.split_whitespace().filter_map(|word| word.parse::<u32>().ok()));
        }
    }
    Ok((count, memory))
}

fn many_ports(sides: &[Side<'_>], report: &mut Report) -> Result<(), Failure> {
    for side in sides {
        let (processes, memory) = family(side.daemon)?;
        let begun = Instant::now();
        let server = side.run(&["run", "-d", "-p", "20000-20999:20000-20999", "bb", "sleep", "1000"])?;
        let took = begun.elapsed();
        let (after, more) = family(side.daemon)?;
        let title = format!("1,000 published ports, {}", side.name);
        report.figure(&format!("{title}: start"), took.as_secs_f64(), "s", "docker's")?;
        report.figure(
            &format!("{title}: processes more"),
            after - processes,
            "",
            "2: supervisor and container",
        )?;
        report.figure(&format!("{title}: memory more, PSS"), more - memory, "MiB", "docker's")?;
        let begun = Instant::now();
        side.run(&["rm", "-f", &server])?;
        report.figure(&format!("{title}: removal"), begun.elapsed().as_secs_f64(), "s", "docker's")?;
    }
    Ok(())
}

fn many_networks(sides: &[Side<'_>], report: &mut Report) -> Result<(), Failure> {
    let names: Vec<String> = (0..100).map(|number| format!("bench{number}")).collect();
    let create = |side: &Side<'_>| -> Result<(), Failure> {
        for (number, name) in names.iter().enumerate() {
            let subnet = format!("10.213.{number}.0/24");
            quietly((side.call)(&["network", "create", "--subnet", &subnet, name]))?;
        }
        Ok(())
    };
    let remove = |side: &Side<'_>| -> Result<(), Failure> {
        let words: Vec<&str> =
            ["network", "rm"].into_iter().chain(names.iter().map(String::as_str)).collect();
        quietly((side.call)(&words))
    };
    let contenders =
        sides.iter().map(|side| Contender::new(side.name, || create(side).and_then(|()| remove(side))));
    report.compare("100 networks created one by one, and removed", 2, contenders.collect())
}
