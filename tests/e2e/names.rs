//! Names on networks of the user's own: whom the resolver asks, that it leaves port 53 alone, and that it answers whatever the
//! daemon does.

use std::time::Duration;

use palan_test_support::daemon::{Daemon, finish};
use palan_test_support::image::{ImageBuilder, TarBuilder};
use palan_test_support::{requires, wait_until};

use crate::images::{busybox, daemon, load};
use crate::networks::{command, daemon_on_own_host, inspect, look_up, sleeper, within};

#[test]
fn a_dns_server_in_a_container() {
    requires!(root);
    requires!(program "python3");
    let daemon = daemon();
    daemon.palan(["network", "create", "front"]).ok();
    sleeper(&daemon, "web", &["--network", "front"]);
    sleeper(&daemon, "dns", &["--network", "front"]);
    let address = |name: &str| inspect(&daemon, name, "{{.NetworkSettings.Networks.front.IPAddress}}");
    // On port 53 of every address, by UDP and TCP: 127.0.0.11 is among them.
    let pid = inspect(&daemon, "dns", "{{.State.Pid}}");
    let _server = dns_server(&daemon, &pid, "0.0.0.0", "192.0.2.1");
    assert_eq!(look_up(&daemon, "dns", "web"), [address("web")], "its own resolver answers all the same");
    let asked = within(&daemon, "web", &format!("nslookup anything.test {}", address("dns")));
    assert!(asked.contains("192.0.2.1"), "{asked}");
}

/// Debian's dnsmasq with what it is linked to, above busybox.
fn dnsmasq() -> ImageBuilder {
    let program = "/usr/sbin/dnsmasq";
    let linked = finish(&mut command("ldd", &[program]), None).ok();
    let libraries =
        linked.stdout.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    let mut tar = TarBuilder::new();
    for path in libraries.chain([program]) {
        tar = tar.file(path.trim_start_matches('/'), 0o755, std::fs::read(path).unwrap());
    }
    busybox().layer(tar.finish())
}

#[test]
fn dnsmasq_on_port_53() {
    requires!(root);
    requires!(program "dnsmasq");
    let daemon = daemon();
    load(&daemon, dnsmasq(), "dnsmasq");
    daemon.palan(["network", "create", "front"]).ok();
    sleeper(&daemon, "web", &["--network", "front"]);
    let flags = ["run", "-d", "--name", "dns", "--network", "front", "dnsmasq"];
    // On port 53 of every address. It asks its own container's resolver for what it does not know.
    let arguments = [
        "/usr/sbin/dnsmasq",
        "--keep-in-foreground",
        "--user=root",
        "--pid-file=",
        "--no-resolv",
        "--no-hosts",
        "--server=127.0.0.11",
        "--address=/printer.corp.test/192.0.2.7",
    ];
    daemon.palan(flags.into_iter().chain(arguments)).ok();
    let address = |name: &str| inspect(&daemon, name, "{{.NetworkSettings.Networks.front.IPAddress}}");
    let asked = |name: &str| within(&daemon, "web", &format!("nslookup {name} {}", address("dns")));
    assert!(wait_until(Duration::from_secs(30), || asked("printer.corp.test").contains("Address: 192.0.2.7")));
    assert!(asked("web").contains(&format!("Address: {}", address("web"))), "{}", asked("web"));
    assert_eq!(look_up(&daemon, "dns", "web"), [address("web")], "its own resolver answers all the same");
    // Containers may be told to ask it. They still ask their resolver first, for each other's names.
    let server = address("dns");
    sleeper(&daemon, "app", &["--network", "front", "--dns", &server]);
    assert_eq!(look_up(&daemon, "app", "printer.corp.test"), ["192.0.2.7"]);
    assert_eq!(look_up(&daemon, "app", "web"), [address("web")]);
}

#[test]
fn a_hundred_containers_resolve_each_other() {
    requires!(root);
    requires!(program "python3");
    let daemon = daemon();
    daemon.palan(["network", "create", "front"]).ok();
    std::thread::scope(|scope| {
        for first in 0..4 {
            let daemon = &daemon;
            scope.spawn(move || {
                for number in (first..100).step_by(4) {
                    sleeper(daemon, &format!("n{number}"), &["--network", "front"]);
                }
            });
        }
    });
    let format = "{{.State.Pid}} {{slice .Name 1}} {{.NetworkSettings.Networks.front.IPAddress}}";
    let names = (0..100).map(|number| format!("n{number}"));
    let arguments = ["inspect", "-f", format].map(str::to_owned);
    let shown = daemon.palan(arguments.into_iter().chain(names)).ok();
    let rows: Vec<(&str, &str)> = shown.stdout.lines().filter_map(|line| line.split_once(' ')).collect();
    assert_eq!(rows.len(), 100);
    let file = daemon.scratch().join("names").display().to_string();
    let text: String = rows.iter().map(|(_, name)| format!("{name}\n")).collect();
    std::fs::write(&file, text).unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/scripts/resolve_all.py");
    for (pid, name) in &rows {
        let said = finish(&mut command("nsenter", &["-t", pid, "-n", "python3", script, &file]), None).ok();
        assert_eq!(said.line(), "200 right, 0 unanswered", "{name}");
    }
}

/// Names resolve and connections stay up across ten restarts of the daemon, by signal and by SIGKILL in turn.
#[test]
fn ten_restarts_under_load() {
    requires!(root);
    requires!(program "nsenter");
    let python = std::env::var("PALAN_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let mut daemon = daemon();
    daemon.palan(["network", "create", "front"]).ok();
    sleeper(&daemon, "echo", &["--network", "front", "-p", "7007"]);
    sleeper(&daemon, "app", &["--network", "front"]);
    let scripts = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/scripts");
    let pid = inspect(&daemon, "echo", "{{.State.Pid}}");
    let server = format!("{scripts}/echo_server.py");
    let mut server = command("nsenter", &["-t", &pid, "-n", &python, &server, "7007"]);
    let _server = Helper::when_ready(&mut server);
    let address = inspect(&daemon, "echo", "{{.NetworkSettings.Networks.front.IPAddress}}");
    let published = daemon.palan(["port", "echo", "7007"]).ok();
    let published = published.line().rsplit(':').next().unwrap().to_owned();
    let places = [format!("{address}:7007"), format!("{}:{published}", daemon.gateway())];
    let pid = inspect(&daemon, "app", "{{.State.Pid}}");
    let script = format!("{scripts}/network_load.py");
    let mut load =
        command("nsenter", &["-t", &pid, "-n", &python, &script, "echo", &address, &places[0], &places[1]]);
    let mut load = Helper::when_ready(load.stdin(std::process::Stdio::piped()));
    for round in 0..10 {
        if round % 2 == 0 {
            daemon.kill()
        } else {
            daemon.terminate()
        }
        std::thread::sleep(Duration::from_millis(300));
        daemon.restart();
        std::thread::sleep(Duration::from_millis(300));
    }
    drop(load.0.stdin.take());
    let mut said = String::new();
    std::io::Read::read_to_string(load.0.stdout.as_mut().unwrap(), &mut said).unwrap();
    let numbers: Vec<u64> =
        said.split(|c: char| !c.is_ascii_digit()).filter_map(|word| word.parse().ok()).collect();
    let [asked, failed, echoed, broken] = numbers[..] else { panic!("the load said {said:?}") };
    assert!(asked > 300 && echoed > 1000, "{said}");
    assert_eq!((failed, broken), (0, 0), "{said}");
}

/// A program of the test's, ended with it.
pub(crate) struct Helper(std::process::Child);

impl Helper {
    /// Starts it and waits for its first line, "ready".
    pub(crate) fn when_ready(command: &mut std::process::Command) -> Self {
        let mut helper = Self(command.stdout(std::process::Stdio::piped()).spawn().unwrap());
        let mut line = [0; 6];
        std::io::Read::read_exact(helper.0.stdout.as_mut().unwrap(), &mut line).unwrap();
        assert_eq!(&line, b"ready\n");
        helper
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// A DNS server in the network namespace of a process that answers with this address, or fails.
fn dns_server(daemon: &Daemon, pid: &str, listen: &str, answer: &str) -> Helper {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/scripts/dns_server.py");
    let log = daemon.scratch().join(format!("dns-{listen}")).display().to_string();
    Helper::when_ready(&mut command("nsenter", &["-t", pid, "-n", "python3", script, listen, answer, &log]))
}

#[test]
fn other_names_are_asked_of_servers_one_after_the_other() {
    requires!(root);
    requires!(program "python3");
    let daemon = daemon_on_own_host();
    daemon.palan(["network", "create", "front"]).ok();
    daemon.palan(["network", "create", "--internal", "vault"]).ok();
    let host = daemon.pid().to_string();
    let _failing = dns_server(&daemon, &host, "127.0.0.3", "servfail");
    let _good = dns_server(&daemon, &host, "127.0.0.4", "192.0.2.53");
    // Nobody listens on the first, the second fails, the third knows.
    let servers = ["--dns", "127.0.0.2", "--dns", "127.0.0.3", "--dns", "127.0.0.4"];
    sleeper(&daemon, "app", &[&servers[..], &["--network", "front", "--dns-search", "corp.test"]].concat());
    assert_eq!(look_up(&daemon, "app", "example.org"), ["192.0.2.53"]);
    assert!(within(&daemon, "app", "cat /etc/resolv.conf").contains("search corp.test\n"));
    let asked = |server: &str| {
        std::fs::read_to_string(daemon.scratch().join(format!("dns-{server}"))).unwrap_or_default()
    };
    assert!(asked("127.0.0.3").contains("example.org"));
    let before = asked("127.0.0.4").lines().count();
    assert_eq!(look_up(&daemon, "app", "EXAMPLE.org"), ["192.0.2.53"], "once more, from memory");
    // Only the question for an IPv6 address, which had no answer, was asked again.
    assert!(asked("127.0.0.4").lines().count() <= before + 1, "{}", asked("127.0.0.4"));
    // By TCP, several questions on one connection, ours and others'.
    let pid = inspect(&daemon, "app", "{{.State.Pid}}");
    let own = inspect(&daemon, "app", "{{.NetworkSettings.Networks.front.IPAddress}}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/scripts/dns_by_tcp.py");
    let mut ask = command("nsenter", &["-t", &pid, "-n", "python3", script, "app", "example.net"]);
    let said = finish(&mut ask, None).ok();
    assert_eq!(said.stdout, format!("{own}\n192.0.2.53\n"));
    // What an internal network's containers ask reaches nobody, nor do the names of containers.
    sleeper(&daemon, "spy", &[&servers[..], &["--network", "vault"]].concat());
    assert!(look_up(&daemon, "spy", "secret.attacker.test").is_empty());
    look_up(&daemon, "app", "app");
    for server in ["127.0.0.3", "127.0.0.4"] {
        assert!(!asked(server).contains("secret") && !asked(server).lines().any(|name| name == "app"));
    }
}
