//! Networks of the user's own: made, listed, joined, left and removed; who reaches whom; names; what is refused. What a network
//! leaves on the host is counted before and after.

use std::time::Duration;

use palan_test_support::daemon::{Daemon, Options};
use palan_test_support::{requires, wait_until};

use crate::images::{BUSYBOX, daemon, daemon_with};

/// Interfaces of the host that a network of this daemon has made.
pub(crate) fn bridges(daemon: &Daemon) -> Vec<String> {
    let ids = daemon.palan(["network", "ls", "-q", "--no-trunc", "--filter", "driver=bridge"]).ok();
    let names = ids.stdout.lines().map(|id| format!("br-{}", &id[..12]));
    names.filter(|name| std::path::Path::new("/sys/class/net").join(name).exists()).collect()
}

/// A container that does nothing on a network.
pub(crate) fn sleeper(daemon: &Daemon, name: &str, flags: &[&str]) {
    let mut arguments = vec!["run", "-d", "--name", name];
    arguments.extend(flags);
    arguments.extend([BUSYBOX, "sleep", "1000"]);
    daemon.palan(arguments).ok();
}

pub(crate) fn inspect(daemon: &Daemon, name: &str, format: &str) -> String {
    daemon.palan(["inspect", "-f", format, name]).ok().line().to_owned()
}

/// What a shell in a running container says.
pub(crate) fn within(daemon: &Daemon, name: &str, script: &str) -> String {
    let run = daemon.palan(["exec", name, "sh", "-c", script]);
    format!("{}{}", run.stdout, run.stderr)
}

/// Whether one container reaches another's address.
fn reaches(daemon: &Daemon, from: &str, address: &str) -> bool {
    wait_until(Duration::from_secs(20), || !is_cut_off(daemon, from, address))
}

/// Whether it does not.
fn is_cut_off(daemon: &Daemon, from: &str, address: &str) -> bool {
    daemon.palan(["exec", from, "ping", "-c", "1", "-W", "1", address]).code != 0
}

/// The addresses that a name has, in order.
pub(crate) fn look_up(daemon: &Daemon, from: &str, name: &str) -> Vec<String> {
    let text = within(daemon, from, &format!("nslookup {name} 127.0.0.11"));
    let answer = text.split_once("\n\n").map_or("", |(_, answer)| answer);
    let addresses = answer.lines().filter_map(|line| line.strip_prefix("Address: "));
    let mut found: Vec<String> = addresses.map(|text| text.trim().to_owned()).collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn the_commands_say_what_docker_s_say() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    let id = daemon.palan(["network", "create", "--subnet", "10.231.7.0/24", "--label", "a=b", "front"]).ok();
    assert_eq!(id.line().len(), 64);
    let bridge = format!("/sys/class/net/br-{}", &id.line()[..12]);
    assert!(std::path::Path::new(&bridge).exists());
    for client in [Daemon::palan::<&str>, Daemon::docker::<&str>] {
        let run = |arguments: &[&'static str]| client(&daemon, arguments.to_vec());
        let listed = run(&["network", "ls", "--format", "{{.Name}} {{.Driver}} {{.Scope}}"]).ok();
        assert_eq!(
            listed.stdout,
            "bridge bridge local\nfront bridge local\nhost host local\nnone null local\n"
        );
        let filtered = run(&["network", "ls", "-q", "--filter", "label=a"]).ok();
        assert_eq!(filtered.line(), &id.line()[..12]);
        let custom = run(&["network", "ls", "--format", "{{.Name}}", "--filter", "type=custom"]).ok();
        assert_eq!(custom.line(), "front");
        let shown = run(&["network", "inspect", "front", "-f", "{{.Driver}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}} {{.Internal}} {{json .Labels}}"]).ok();
        assert_eq!(shown.line(), "bridge 10.231.7.0/24 10.231.7.1 false {\"a\":\"b\"}");
        let again = run(&["network", "create", "front"]);
        again.fails(1, "network with name front already exists");
        run(&["network", "inspect", "nowhere"]).fails(1, "network nowhere not found");
        run(&["network", "rm", "bridge"]).fails(1, "bridge is a pre-defined network and cannot be removed");
        run(&["network", "create", "host"]).fails(1, "operation is not permitted on predefined host network");
    }
    sleeper(&daemon, "web", &["--network", "front"]);
    let busy = daemon.palan(["network", "rm", "front"]);
    busy.fails(1, "error while removing network: network front has active endpoints (name:\"web\"");
    daemon.palan(["network", "create", "spare"]).ok();
    let pruned = daemon.docker(["network", "prune", "-f"]).ok();
    assert_eq!(pruned.stdout, "Deleted Networks:\nspare\n\n");
    daemon.palan(["rm", "-f", "web"]).ok();
    assert_eq!(daemon.docker(["network", "rm", "front"]).ok().line(), "front");
    assert!(!std::path::Path::new(&bridge).exists(), "the bridge is still there");
    let events = [
        "events",
        "--since",
        "1h",
        "--until",
        "0s",
        "--filter",
        "type=network",
        "--format",
        "{{.Action}} {{.Actor.Attributes.name}}",
    ];
    let told = daemon.palan(events).ok();
    for expected in ["create front", "connect front", "disconnect front", "destroy front", "destroy spare"] {
        assert!(told.stdout.lines().any(|line| line == expected), "{expected}: {}", told.stdout);
    }
}

#[test]
fn networks_are_apart_and_names_are_known() {
    requires!(root);
    let daemon = daemon();
    for name in ["front", "back"] {
        daemon.palan(["network", "create", name]).ok();
    }
    sleeper(&daemon, "web", &["--network", "front", "--network-alias", "www", "--network-alias", "all"]);
    sleeper(&daemon, "app", &["--network", "front", "--network-alias", "all"]);
    sleeper(&daemon, "db", &["--network", "back"]);
    let address =
        |name: &str| inspect(&daemon, name, "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
    let (web, app, db) = (address("web"), address("app"), address("db"));
    assert!(reaches(&daemon, "web", &app), "on one network");
    assert!(is_cut_off(&daemon, "web", &db), "across networks");
    assert!(is_cut_off(&daemon, "db", &web), "across networks");

    assert!(within(&daemon, "app", "cat /etc/resolv.conf").contains("nameserver 127.0.0.11\n"));
    assert_eq!(look_up(&daemon, "app", "web"), [web.as_str()]);
    assert_eq!(look_up(&daemon, "app", "WWW"), [web.as_str()]);
    assert_eq!(look_up(&daemon, "app", "web.front"), [web.as_str()]);
    let id = inspect(&daemon, "web", "{{.Id}}");
    assert_eq!(look_up(&daemon, "app", &id[..12]), [web.as_str()]);
    let mut both = vec![web.clone(), app.clone()];
    both.sort();
    assert_eq!(look_up(&daemon, "app", "all"), both);
    assert!(look_up(&daemon, "app", "db").is_empty());
    assert!(within(&daemon, "app", &format!("nslookup {web} 127.0.0.11")).contains("web.front"), "backwards");

    daemon.palan(["rename", "web", "site"]).ok();
    assert_eq!(look_up(&daemon, "app", "site"), [web.as_str()]);
    assert!(look_up(&daemon, "app", "web").is_empty());
    daemon.palan(["stop", "-t", "0", "site"]).ok();
    assert!(look_up(&daemon, "app", "site").is_empty());
    sleeper(&daemon, "next", &["--network", "front"]);
    assert_ne!(address("next"), web, "the address of a stopped container is kept for it");
    daemon.palan(["start", "site"]).ok();
    assert_eq!(address("site"), web);
    assert_eq!(look_up(&daemon, "app", "site"), [web]);
    assert_eq!(bridges(&daemon).len(), 2);
}

#[test]
fn addresses_of_one_s_own() {
    requires!(root);
    let daemon = daemon();
    let create = [
        "network",
        "create",
        "--subnet",
        "10.232.0.0/16",
        "--ip-range",
        "10.232.5.0/24",
        "--gateway",
        "10.232.0.9",
    ];
    daemon.palan(create.into_iter().chain(["--aux-address", "router=10.232.5.0", "own"])).ok();
    let own = ["--network", "own"];
    sleeper(&daemon, "aa", &[own[0], own[1], "--ip", "10.232.7.7", "--mac-address", "02:11:22:33:44:55"]);
    let shown = inspect(
        &daemon,
        "aa",
        "{{range .NetworkSettings.Networks}}{{.IPAddress}}/{{.IPPrefixLen}} {{.Gateway}} {{.MacAddress}}{{end}}",
    );
    assert_eq!(shown, "10.232.7.7/16 10.232.0.9 02:11:22:33:44:55");
    assert!(within(&daemon, "aa", "ip route").starts_with("default via 10.232.0.9 dev eth0"));
    sleeper(&daemon, "bb", &own);
    let second = inspect(&daemon, "bb", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}");
    assert_eq!(second, "10.232.5.1", "from the range, and not the auxiliary address");

    let refused = |flags: &[&str], text: &str| {
        let arguments = ["run", "--rm"].iter().chain(flags).chain(&[BUSYBOX, "true"]).copied();
        daemon.palan(arguments.collect::<Vec<_>>()).fails(125, text);
    };
    refused(&["--network", "own", "--ip", "10.232.7.7"], "Address already in use");
    refused(
        &["--network", "own", "--ip", "10.233.7.7"],
        "no configured subnet or ip-range contain the IP address 10.233.7.7",
    );
    refused(&["--ip", "10.232.7.8"], "user specified IP address is supported on user defined networks only");
    daemon.palan(["network", "create", "any"]).ok();
    refused(
        &["--network", "any", "--ip", "10.232.7.8"],
        "only when connecting to networks with user configured subnets",
    );
    refused(&["--network", "nowhere"], "network nowhere not found");
    refused(&["--network-alias", "x"], "network-scoped aliases are only supported for user-defined networks");

    let create = |arguments: &[&str]| {
        daemon.palan(["network", "create"].iter().chain(arguments).copied().collect::<Vec<_>>())
    };
    create(&["--subnet", "10.232.9.0/24", "x"])
        .fails(1, "Pool overlaps with other one on this address space");
    create(&["--subnet", "10.240.0.0/33", "x"]).fails(1, "invalid CIDR block notation");
    create(&["--subnet", "10.240.0.1/24", "x"]).fails(1, "it should be 10.240.0.0/24");
    create(&["--subnet", "10.240.0.0/24", "--gateway", "10.241.0.1", "x"])
        .fails(1, "no matching subnet for gateway");
    create(&["-d", "overlay", "x"]).fails(1, "This node is not a swarm manager.");
    create(&["-d", "weave", "x"]).fails(1, "plugin \"weave\" not found");
    create(&["--ingress", "x"]).fails(1, "Ingress network can only be global scope network");
    create(&["--scope", "swarm", "x"])
        .fails(1, "cannot create a swarm scoped network when swarm is not active");
    create(&["-o", "nonsense=1", "x"]).fails(1, "the option \"nonsense\" of the network driver");
    create(&["-d", "macvlan", "-o", "parent=nosuchlink", "x"])
        .fails(1, "the parent interface nosuchlink doesn't exist");
    assert_eq!(bridges(&daemon).len(), 2, "nothing of what was refused");
}

#[test]
fn an_exhausted_pool_and_an_exhausted_subnet() {
    requires!(root);
    let settings = r#""default-address-pools": [{"base": "10.245.0.0/29", "size": 30}]"#.to_owned();
    let daemon = daemon_with(Options { settings: Some(settings), ..Options::default() });
    for name in ["one", "two"] {
        daemon.palan(["network", "create", name]).ok();
    }
    let third = daemon.palan(["network", "create", "three"]);
    third.fails(1, "all predefined address pools have been fully subnetted");
    sleeper(&daemon, "aa", &["--network", "one"]);
    let second = daemon.palan(["run", "--rm", "--network", "one", BUSYBOX, "true"]);
    second.fails(125, "no available IPv4 addresses on this network's address pools: one (");
    daemon.palan(["stop", "-t", "0", "aa"]).ok();
    daemon.palan(["run", "--rm", "--network", "one", BUSYBOX, "true"]).ok();
}

#[test]
fn a_running_container_joins_and_leaves() {
    requires!(root);
    requires!(program "docker");
    let daemon = daemon();
    for name in ["front", "back"] {
        daemon.palan(["network", "create", name]).ok();
    }
    sleeper(&daemon, "web", &["--network", "front"]);
    sleeper(&daemon, "db", &["--network", "back"]);
    assert!(look_up(&daemon, "web", "db").is_empty());
    daemon.docker(["network", "connect", "--alias", "site", "--link", "db:store", "back", "web"]).ok();
    let db = inspect(&daemon, "db", "{{.NetworkSettings.Networks.back.IPAddress}}");
    assert_eq!(look_up(&daemon, "web", "db"), [db.as_str()]);
    assert_eq!(look_up(&daemon, "web", "store"), [db.as_str()], "a link");
    assert!(look_up(&daemon, "db", "store").is_empty(), "for one container alone");
    let second = inspect(&daemon, "web", "{{.NetworkSettings.Networks.back.IPAddress}}");
    assert_eq!(look_up(&daemon, "db", "site"), [second]);
    assert!(reaches(&daemon, "web", &db));
    assert!(within(&daemon, "web", "ip -o link").contains("eth1"));
    let again = daemon.palan(["network", "connect", "back", "web"]);
    again.fails(1, "endpoint with name web already exists in network back");
    daemon.palan(["network", "disconnect", "back", "web"]).ok();
    assert!(look_up(&daemon, "web", "db").is_empty());
    assert!(!within(&daemon, "web", "ip -o link").contains("eth1"));
    daemon.palan(["network", "disconnect", "back", "web"]).fails(1, "is not connected to network back");

    // From the default bridge, where there is no resolver, and with a port that moves.
    sleeper(&daemon, "late", &["-p", "127.0.0.1:0:80"]);
    daemon.palan(["network", "connect", "--gw-priority", "5", "front", "late"]).ok();
    let web = inspect(&daemon, "web", "{{.NetworkSettings.Networks.front.IPAddress}}");
    assert_eq!(look_up(&daemon, "late", "web"), [web]);
    let gateway = inspect(&daemon, "late", "{{.NetworkSettings.Networks.front.Gateway}}");
    assert!(within(&daemon, "late", "ip route").contains(&format!("default via {gateway} dev eth1")));
    assert!(daemon.palan(["port", "late", "80"]).ok().line().starts_with("127.0.0.1:"));
    daemon.palan(["network", "disconnect", "front", "late"]).ok();
    assert!(
        within(&daemon, "late", "ip route").contains(&format!("default via {} dev eth0", daemon.gateway()))
    );
    assert!(daemon.palan(["port", "late", "80"]).ok().line().starts_with("127.0.0.1:"));

    // One that doesn't run, and several from the beginning.
    daemon
        .palan([
            "create",
            "--name",
            "two",
            "--network",
            "front",
            "--network",
            "back",
            BUSYBOX,
            "sleep",
            "1000",
        ])
        .ok();
    daemon.palan(["network", "create", "third"]).ok();
    daemon.palan(["network", "connect", "third", "two"]).ok();
    daemon.palan(["start", "two"]).ok();
    let links = within(&daemon, "two", "ip -o link");
    assert!(links.contains("eth0") && links.contains("eth1") && links.contains("eth2"), "{links}");
    assert_eq!(look_up(&daemon, "two", "db"), [db]);
}

#[test]
fn the_network_of_another_container() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["network", "create", "front"]).ok();
    sleeper(&daemon, "web", &["--network", "front", "-h", "box"]);
    let address = inspect(&daemon, "web", "{{.NetworkSettings.Networks.front.IPAddress}}");
    let run = daemon.palan([
        "run",
        "--rm",
        "--network",
        "container:web",
        BUSYBOX,
        "sh",
        "-c",
        "hostname; ip -4 -o addr; cat /etc/hosts",
    ]);
    let shown = run.ok().stdout;
    assert!(shown.starts_with("box\n") && shown.matches(&address).count() == 2, "{shown}");
    let publish = daemon.palan(["run", "--rm", "--network", "container:web", "-p", "80", BUSYBOX, "true"]);
    publish.fails(125, "conflicting options: port publishing and the container type network mode");
    daemon
        .palan(["run", "--rm", "--network", "container:nobody", BUSYBOX, "true"])
        .fails(125, "No such container: nobody");
    daemon.palan(["stop", "-t", "0", "web"]).ok();
    let stopped = daemon.palan(["run", "--rm", "--network", "container:web", BUSYBOX, "true"]);
    stopped.fails(125, "cannot join network of a non running container");
}

#[test]
fn links_on_the_default_bridge() {
    requires!(root);
    let daemon = daemon();
    sleeper(&daemon, "db", &[]);
    let address = inspect(&daemon, "db", "{{.NetworkSettings.IPAddress}}");
    let run = daemon.palan(["run", "--rm", "--link", "db:store", BUSYBOX, "cat", "/etc/hosts"]).ok();
    assert!(run.stdout.lines().any(|line| line.starts_with(&format!("{address}\tstore "))), "{}", run.stdout);
    daemon
        .palan(["run", "--rm", "--link", "nobody:x", BUSYBOX, "true"])
        .fails(125, "No such container: nobody");
}

#[test]
fn an_internal_network_leads_nowhere() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["network", "create", "--internal", "vault"]).ok();
    for name in ["one", "two"] {
        sleeper(&daemon, name, &["--network", "vault", "-p", "80"]);
    }
    let two = inspect(&daemon, "two", "{{.NetworkSettings.Networks.vault.IPAddress}}");
    assert!(reaches(&daemon, "one", &two));
    assert_eq!(look_up(&daemon, "one", "two"), [two]);
    assert!(!within(&daemon, "one", "ip route").contains("default"));
    assert!(is_cut_off(&daemon, "one", daemon.gateway().trim_end_matches(".1")));
    // Nothing is forwarded, wherever the servers are (CVE-2024-29018).
    let secret = within(&daemon, "one", "nslookup secret.example 127.0.0.11");
    assert!(secret.contains("NXDOMAIN"), "{secret}");
    assert_eq!(daemon.palan(["port", "one"]).ok().line(), "");
}

#[test]
fn names_and_networks_outlive_the_daemon() {
    requires!(root);
    let mut daemon = daemon();
    daemon.palan(["network", "create", "--label", "keep=me", "front"]).ok();
    sleeper(&daemon, "web", &["--network", "front"]);
    sleeper(&daemon, "app", &["--network", "front"]);
    daemon.palan(["create", "--name", "idle", "--network", "front", BUSYBOX, "true"]).ok();
    let web = inspect(&daemon, "web", "{{.NetworkSettings.Networks.front.IPAddress}}");
    let before = daemon.palan(["network", "inspect", "front"]).ok().stdout;
    let pid = inspect(&daemon, "app", "{{.State.Pid}}");
    daemon.kill();
    // Nobody is there but the supervisors.
    let query = palan_test_support::daemon::finish(
        &mut command("nsenter", &["-t", &pid, "-n", "busybox", "nslookup", "web", "127.0.0.11"]),
        None,
    );
    assert!(query.stdout.contains(&web), "{query}");
    daemon.restart();
    assert_eq!(daemon.palan(["network", "inspect", "front"]).ok().stdout, before);
    assert_eq!(look_up(&daemon, "app", "web"), [web.as_str()]);
    sleeper(&daemon, "new", &["--network", "front"]);
    assert!(reaches(&daemon, "new", &web));
    assert_eq!(look_up(&daemon, "app", "new").len(), 1);
    daemon.palan(["network", "rm", "front"]).fails(1, "has active endpoints");
    // As after a restart of the host: the containers have ended, and no interface is left.
    daemon.palan(["stop", "-t", "0", "web", "app", "new"]).ok();
    daemon.terminate();
    daemon.restart();
    daemon.palan(["start", "app", "web"]).ok();
    assert_eq!(inspect(&daemon, "web", "{{.NetworkSettings.Networks.front.IPAddress}}"), web);
    assert_eq!(look_up(&daemon, "app", "web"), [web]);
}

#[expect(clippy::disallowed_methods, reason = "the test looks from outside of the product")]
pub(crate) fn command(program: &str, arguments: &[&str]) -> std::process::Command {
    let mut command = std::process::Command::new(program);
    command.args(arguments);
    command
}

/// A daemon on a host of its own: a network namespace in which even forwarding is nobody else's.
pub(crate) fn daemon_on_own_host() -> Daemon {
    let launcher = ["unshare", "--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"];
    daemon_with(Options { launcher: launcher.map(str::to_owned).to_vec(), ..Options::default() })
}

#[test]
fn ipv6_with_addresses_names_and_ports() {
    requires!(root);
    requires!(program "unshare");
    let daemon = daemon_on_own_host();
    daemon.palan(["network", "create", "--ipv6", "dual"]).ok();
    let shown = daemon
        .palan([
            "network",
            "inspect",
            "dual",
            "-f",
            "{{.EnableIPv6}} {{range .IPAM.Config}}{{.Subnet}} {{end}}",
        ])
        .ok();
    assert!(shown.line().starts_with("true ") && shown.line().contains("/64"), "{}", shown.line());
    let own = [
        "network",
        "create",
        "--subnet",
        "10.250.0.0/24",
        "--subnet",
        "fd12:3456::/64",
        "--gateway",
        "fd12:3456::1",
        "own",
    ];
    daemon.palan(own).ok();
    let serve = [BUSYBOX, "nc", "-ll", "-p", "80", "-e", "echo", "hello"];
    let fixed = [
        "run",
        "-d",
        "--name",
        "web",
        "--network",
        "own",
        "--ip",
        "10.250.0.7",
        "--ip6",
        "fd12:3456::7",
        "-p",
        "8080:80",
    ];
    daemon.palan(fixed.into_iter().chain(serve)).ok();
    sleeper(&daemon, "app", &["--network", "own"]);
    assert_eq!(look_up(&daemon, "app", "web"), ["10.250.0.7", "fd12:3456::7"]);
    let routes = within(&daemon, "app", "ip -6 route");
    assert!(routes.contains("default via fd12:3456::1"), "{routes}");
    assert_eq!(daemon.palan(["port", "web"]).ok().stdout, "80/tcp -> 0.0.0.0:8080\n80/tcp -> [::]:8080\n");
    let said =
        |from: &str, host: &str, port: &str| within(&daemon, from, &format!("echo | nc -w 2 {host} {port}"));
    assert_eq!(said("app", "fd12:3456::7", "80"), "hello\n");
    sleeper(&daemon, "other", &["--network", "dual"]);
    assert_eq!(
        said("other", "fd12:3456::1", "8080"),
        "hello\n",
        "by the published port, from another bridge"
    );
    assert_ne!(said("other", "fd12:3456::7", "80"), "hello\n", "not by the address");
    let pid = daemon.pid().to_string();
    for host in ["127.0.0.1", "fd12:3456::1"] {
        let script = format!("echo | nc -w 2 {host} 8080");
        let mut ask = command("nsenter", &["-t", &pid, "-n", "busybox", "sh", "-c", &script]);
        assert_eq!(palan_test_support::daemon::finish(&mut ask, None).stdout, "hello\n", "{host}");
    }
    let refused = daemon.palan(["run", "--rm", "--network", "own", "--ip6", "fd99::1", BUSYBOX, "true"]);
    refused.fails(125, "no configured subnet or ip-range contain the IP address fd99::1");
}

#[test]
fn a_network_that_is_a_configuration_for_others() {
    requires!(root);
    let mut daemon = daemon();
    let create = |arguments: &[&str]| daemon.palan(["network", "create"].iter().chain(arguments).copied());
    let subnet = ["--subnet", "10.247.0.0/24", "--gateway", "10.247.0.254"];
    let rest = ["--label", "a=b", "-o", "com.docker.network.driver.mtu=1400", "plan"];
    create(&[&["--config-only"], &subnet[..], &rest[..]].concat()).ok();
    assert!(bridges(&daemon).is_empty(), "nothing is made of it");
    let shown = "{{.Driver}} {{.ConfigOnly}} {{.ConfigFrom.Network}} {{range .IPAM.Config}}{{.Subnet}} {{.Gateway}}{{end}} {{json .Labels}}";
    let inspected = |daemon: &Daemon, name: &str| {
        daemon.palan(["network", "inspect", "-f", shown, name]).ok().line().to_owned()
    };
    assert_eq!(inspected(&daemon, "plan"), "null true  10.247.0.0/24 10.247.0.254 {\"a\":\"b\"}");
    create(&["--config-from", "plan", "real"]).ok();
    let real = "bridge false plan 10.247.0.0/24 10.247.0.254 {\"a\":\"b\"}";
    assert_eq!(inspected(&daemon, "real"), real);
    create(&["--config-from", "nowhere", "x"]).fails(1, "configuration network \"nowhere\" does not exist");
    create(&["--config-from", "real", "x"]).fails(1, "configuration network \"real\" does not exist");
    let only = ["--config-only", "--config-from", "plan", "x"];
    create(&only).fails(1, "a configuration network cannot depend on another configuration network");
    create(&["--config-only", "--internal", "x"]).fails(1, "can only contain network specific fields");
    let own = ["--config-from", "plan", "--label", "c=d", "x"];
    create(&own).fails(1, "user-specified configurations are not supported if the network depends on");
    let own = ["--config-from", "plan", "-o", "parent=eth0", "x"];
    create(&own).fails(1, "network driver options are not supported if the network depends on");
    let run = daemon.palan(["run", "--rm", "--network", "plan", BUSYBOX, "true"]);
    run.fails(125, "cannot create endpoint on configuration-only network");
    daemon.palan(["network", "rm", "plan"]).fails(1, "configuration network \"plan\" is in use");

    daemon.kill();
    daemon.restart();
    assert_eq!(inspected(&daemon, "real"), real);
    sleeper(&daemon, "web", &["--network", "real", "--ip", "10.247.0.7"]);
    assert!(within(&daemon, "web", "ip link show eth0").contains("mtu 1400"));
    daemon.palan(["rm", "-f", "web"]).ok();
    daemon.palan(["network", "prune", "-f"]).ok();
    let left = daemon.palan(["network", "ls", "--format", "{{.Name}}", "--filter", "type=custom"]).ok();
    assert_eq!(left.stdout, "plan\n", "a configuration is not pruned");
    daemon.palan(["network", "rm", "plan"]).ok();
}

/// What docker-py's own tests of networks look at.
#[test]
fn names_addresses_and_ends_as_docker_py_expects_them() {
    requires!(root);
    let daemon = daemon();
    daemon.palan(["network", "create", "test 01"]).ok();
    assert_eq!(daemon.palan(["network", "inspect", "-f", "{{.Name}}", "test 01"]).ok().line(), "test 01");
    daemon.palan(["create", "--name", "idle", BUSYBOX, "true"]).ok();
    daemon.palan(["network", "connect", "--alias", "other", "test 01", "idle"]).ok();
    let mac = ["run", "-d", "--name", "web", "--network", "test 01", "--mac-address", "02:42:ac:11:00:02"];
    daemon.palan(mac.into_iter().chain([BUSYBOX, "sleep", "1000"])).ok();
    let shown = "{{(index .NetworkSettings.Networks \"test 01\").MacAddress}}";
    assert_eq!(inspect(&daemon, "web", shown), "02:42:ac:11:00:02");
    let in_use = "{{range .Status.IPAM.Subnets}}{{.IPsInUse}}{{end}}";
    let in_use = || daemon.palan(["network", "inspect", "-f", in_use, "test 01"]).ok().line().to_owned();
    assert_eq!(in_use(), "4", "the network's address, everybody's, the gateway's, the container's");
    daemon.palan(["stop", "-t", "0", "web"]).ok();
    assert_eq!(inspect(&daemon, "web", shown), "02:42:ac:11:00:02", "what it will have again");
    assert_eq!(in_use(), "3");
    daemon.palan(["network", "disconnect", "-f", "test 01", "web"]).ok();
    let again = daemon.palan(["network", "disconnect", "-f", "test 01", "web"]);
    again.fails(1, "is not connected to network test 01");
    daemon.palan(["rm", "idle"]).ok();
    daemon.palan(["network", "rm", "test 01"]).ok();
}

/// What a daemon has of the host: interfaces, rules, addresses given out, network namespaces held, volumes.
fn taken(daemon: &Daemon) -> Vec<String> {
    let pid = daemon.pid().to_string();
    let on_host = |words: &[&str]| {
        let mut tool = command("nsenter", &[&["-t", pid.as_str(), "-n"], words].concat());
        palan_test_support::daemon::finish(&mut tool, None).ok().stdout
    };
    let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let namespaces = descriptors.filter(|entry| {
        std::fs::read_link(entry.path()).is_ok_and(|target| target.to_string_lossy().starts_with("net:["))
    });
    let in_use = "{{range .Status.IPAM.Subnets}}{{.IPsInUse}} {{end}}";
    let networks = daemon.palan(["network", "ls", "-q"]).ok().stdout;
    let inspect = ["network", "inspect", "-f", in_use].into_iter().chain(networks.split_whitespace());
    vec![
        on_host(&["ip", "-brief", "link"]),
        on_host(&["nft", "list", "ruleset"]),
        daemon.palan(inspect).ok().stdout,
        format!("{} namespaces", namespaces.count()),
        daemon.palan(["volume", "ls", "-q"]).ok().stdout,
        daemon.palan(["ps", "-aq"]).ok().stdout,
    ]
}

#[test]
fn what_is_refused_leaves_nothing() {
    requires!(root);
    requires!(program "nft");
    let daemon = daemon_on_own_host();
    daemon.palan(["network", "create", "--subnet", "10.230.0.0/29", "own"]).ok();
    sleeper(&daemon, "holder", &["--network", "own", "--ip", "10.230.0.2", "-p", "8080:80", "-v", "data:/d"]);
    let mut before = taken(&daemon);
    // The daemon goes on for a moment after its answer: it makes a namespace in reserve.
    let rests = wait_until(Duration::from_secs(30), || {
        std::thread::sleep(Duration::from_secs(1));
        let now = taken(&daemon);
        std::mem::replace(&mut before, now) == before
    });
    assert!(rests, "{before:#?}");
    let pid = daemon.pid().to_string();
    let server = ["-t", &pid, "-n", "busybox", "nc", "-ll", "-p", "9090", "-e", "true"];
    let _server = Killed(command("nsenter", &server).spawn().unwrap());
    let check = |words: &[&str], code: i32, text: &str| {
        let run = daemon.palan(words);
        let name = run.stderr.clone();
        run.fails(code, text);
        daemon.palan(["rm", "-f", "-v", "xx"]);
        let mut after = Vec::new();
        let same = wait_until(Duration::from_secs(30), || {
            after = taken(&daemon);
            after == before
        });
        assert!(same, "after {name}\nbefore {before:#?}\nafter {after:#?}");
    };
    let run = |flags: &[&str], text: &str| {
        check(&[&["run", "-d", "--name", "xx"], flags, &[BUSYBOX, "sleep", "9"]].concat(), 125, text);
    };
    let create =
        |flags: &[&str], text: &str| check(&[&["network", "create"], flags, &["x"]].concat(), 1, text);
    create(&["--subnet", "10.230.0.0/24"], "Pool overlaps with other one on this address space");
    create(
        &["--subnet", "10.231.0.0/24", "--gateway", "10.232.0.1"],
        "no matching subnet for gateway 10.232.0.1",
    );
    create(&["-d", "macvlan", "-o", "parent=nosuchlink"], "nosuchlink");
    create(&["-o", "nonsense=1"], "the option \"nonsense\" of the network driver");
    check(&["network", "create", "own"], 1, "network with name own already exists");
    check(&["network", "rm", "own"], 1, "has active endpoints");
    check(&["volume", "rm", "data"], 1, "volume is in use");
    run(&["--network", "own", "--ip", "10.230.0.2"], "Address already in use");
    run(
        &["--network", "own", "--ip", "10.240.0.2"],
        "no configured subnet or ip-range contain the IP address",
    );
    run(&["--network", "nowhere"], "network nowhere not found");
    run(&["--network", "own", "-p", "8080:80"], "Bind for 0.0.0.0:8080 failed: port is already allocated");
    run(&["-p", "[::1]:8080:80"], "Bind for [::1]:8080 failed: port is already allocated");
    run(&["-p", "7000-7005:7000-7005", "-p", "9090:80"], "address already in use by ");
    run(&["--mount", "type=bind,source=/nosuchpath,target=/x"], "bind source path does not exist");
    run(&["--network", "container:holder", "-p", "1:1"], "conflicting options: port publishing");
    run(&["--network", "host", "--link", "holder"], "conflicting options");
}

/// A program that ends with the test.
struct Killed(std::process::Child);

impl Drop for Killed {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}
