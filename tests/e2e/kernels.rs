//! What a kernel may lack: ipvlan, VLANs, SCTP, NFS. Where it does, these tests are left to `cargo xtask test --vm`.

use std::process::Child;

use palan_test_support::daemon::{Daemon, Run, finish};
use palan_test_support::{PATIENCE, requires, wait_until};

use crate::images::{BUSYBOX, daemon};
use crate::names::Helper;
use crate::networks::{command, daemon_on_own_host, inspect, look_up, sleeper, within};

/// What a shell of the host says, whatever it is.
fn shell(script: &str) -> Run {
    finish(&mut command("sh", &["-c", script]), None)
}

/// Whether interfaces of a kind can be made.
fn has_links(kind: &str) -> bool {
    let script = format!("ip link add v0 type veth peer name v1 && ip link add link v0 name v2 type {kind}");
    finish(&mut command("unshare", &["--net", "sh", "-c", &script]), None).code == 0
}

/// Another host, on the other end of a cable to the daemon's: 198.51.100.9 and .1.
struct Lan {
    holder: Child,
    daemon: String,
}

impl Lan {
    fn of(daemon: &Daemon) -> Self {
        let holder = command("unshare", &["--net", "sleep", "1000"]).spawn().unwrap();
        let lan = Self { daemon: daemon.pid().to_string(), holder };
        let own = std::fs::read_link("/proc/self/ns/net").unwrap();
        let there = format!("/proc/{}/ns/net", lan.holder.id());
        assert!(wait_until(PATIENCE, || std::fs::read_link(&there).is_ok_and(|net| net != own)));
        let peer = format!("ip link add eth0 type veth peer name eth0 netns {}", lan.holder.id());
        lan.on_host(&format!("{peer}; ip address add 198.51.100.1/24 dev eth0; ip link set eth0 up"));
        lan.here("ip link set lo up; ip address add 198.51.100.9/24 dev eth0; ip link set eth0 up");
        lan
    }

    #[track_caller]
    fn at(pid: &str, script: &str) -> Run {
        finish(&mut command("nsenter", &["-t", pid, "-n", "sh", "-ec", script]), None)
    }

    /// In the daemon's network namespace.
    #[track_caller]
    fn on_host(&self, script: &str) -> String {
        Self::at(&self.daemon, script).ok().stdout
    }

    /// On the other host.
    #[track_caller]
    fn here(&self, script: &str) -> String {
        Self::at(&self.holder.id().to_string(), script).ok().stdout
    }

    fn reaches(&self, address: &str) -> bool {
        let ping = format!("busybox ping -c 1 -W 2 {address}");
        Self::at(&self.holder.id().to_string(), &ping).code == 0
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.holder.kill().ok();
        self.holder.wait().ok();
    }
}

#[test]
fn ipvlan_in_layer_2_and_3() {
    requires!(root);
    requires!(kernel has_links("ipvlan"), "IPVLAN");
    let daemon = daemon_on_own_host();
    let lan = Lan::of(&daemon);
    let create = |arguments: &[&str]| {
        daemon.palan(["network", "create", "-d", "ipvlan", "-o", "parent=eth0"].iter().chain(arguments)).ok()
    };
    let subnet = ["--subnet", "198.51.100.0/24", "--gateway", "198.51.100.9"];
    create(&[&subnet[..], &["--ip-range", "198.51.100.64/26", "two"]].concat());
    sleeper(&daemon, "one", &["--network", "two"]);
    sleeper(&daemon, "other", &["--network", "two"]);
    let address = |name: &str, network: &str| {
        inspect(&daemon, name, &format!("{{{{.NetworkSettings.Networks.{network}.IPAddress}}}}"))
    };
    let one = address("one", "two");
    assert!(one.starts_with("198.51.100."), "{one}");
    assert_eq!(look_up(&daemon, "other", "one"), [one.as_str()]);
    let answers = || within(&daemon, "other", "ping -c 1 -W 2 one").contains("1 packets received");
    assert!(wait_until(PATIENCE, answers));
    assert!(wait_until(PATIENCE, || lan.reaches(&one)), "from the other host");
    assert!(within(&daemon, "one", "ip route").contains("default via 198.51.100.9"));
    let mac = "ip link show eth0 | grep -o 'link/ether [0-9a-f:]*'";
    assert_eq!(within(&daemon, "one", mac), lan.on_host(mac), "the parent's own");
    daemon.palan(["rm", "-f", "one", "other"]).ok();
    daemon.palan(["network", "rm", "two"]).ok();

    create(&["-o", "ipvlan_mode=l3", "--subnet", "203.0.113.0/24", "three"]);
    sleeper(&daemon, "one", &["--network", "three"]);
    assert!(within(&daemon, "one", "ip route").contains("default dev eth0"));
    lan.here("ip route add 203.0.113.0/24 via 198.51.100.1");
    let one = address("one", "three");
    assert!(wait_until(PATIENCE, || lan.reaches(&one)), "by way of the parent");
    daemon.palan(["rm", "-f", "one"]).ok();
    daemon.palan(["network", "rm", "three"]).ok();
    assert_eq!(lan.on_host("ip -o link show type ipvlan"), "");
}

#[test]
fn a_network_on_a_vlan() {
    requires!(root);
    requires!(kernel has_links("vlan id 10"), "VLANs");
    let daemon = daemon_on_own_host();
    let lan = Lan::of(&daemon);
    lan.here("ip link add link eth0 name eth0.10 type vlan id 10; ip link set eth0.10 up; ip address add 192.0.2.9/24 dev eth0.10");
    let subnet = ["--subnet", "192.0.2.0/24", "--gateway", "192.0.2.9", "--ip-range", "192.0.2.64/26"];
    let create = ["network", "create", "-d", "macvlan", "-o", "parent=eth0.10"];
    daemon.palan(create.iter().chain(&subnet).chain(&["v"])).ok();
    assert!(lan.on_host("ip -d link show eth0.10").contains("vlan protocol 802.1Q id 10"));
    sleeper(&daemon, "one", &["--network", "v"]);
    let one = inspect(&daemon, "one", "{{.NetworkSettings.Networks.v.IPAddress}}");
    assert!(wait_until(PATIENCE, || lan.reaches(&one)), "with the tag");
    let answers = || within(&daemon, "one", "ping -c 1 -W 2 192.0.2.9").contains("1 packets received");
    assert!(wait_until(PATIENCE, answers));
    lan.here("ip link del eth0.10; ip address add 192.0.2.9/24 dev eth0");
    assert!(!lan.reaches(&one), "without");
    daemon.palan(["rm", "-f", "one"]).ok();
    daemon.palan(["network", "rm", "v"]).ok();
    assert!(!lan.on_host("ip -o link").contains("eth0.10"));
}

#[test]
fn a_port_of_sctp() {
    requires!(root);
    requires!(program "python3");
    let has_sctp = rustix::net::socket_with(
        rustix::net::AddressFamily::INET,
        rustix::net::SocketType::STREAM,
        rustix::net::SocketFlags::CLOEXEC,
        Some(rustix::net::ipproto::SCTP),
    )
    .is_ok();
    requires!(kernel has_sctp, "SCTP");
    let daemon = daemon_on_own_host();
    let lan = Lan::of(&daemon);
    sleeper(&daemon, "one", &["-p", "9000:7007/sctp"]);
    let shown = daemon.palan(["port", "one"]).ok();
    assert_eq!(shown.line(), "7007/sctp -> 0.0.0.0:9000");
    let pid = inspect(&daemon, "one", "{{.State.Pid}}");
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/e2e/scripts/sctp.py");
    let _server = Helper::when_ready(&mut command("nsenter", &["-t", &pid, "-n", "python3", script, "7007"]));
    assert_eq!(lan.here(&format!("python3 {script} 198.51.100.1 9000")), "198.51.100.9\n", "another host");
    let gateway = daemon.gateway();
    assert_eq!(lan.on_host(&format!("python3 {script} 198.51.100.1 9000")), "198.51.100.1\n", "the host");
    assert_eq!(lan.on_host(&format!("python3 {script} 127.0.0.1 9000")), format!("{gateway}\n"));
    let taken = daemon.palan(["run", "--rm", "-p", "9000:1/sctp", BUSYBOX, "true"]);
    taken.fails(125, "Bind for 0.0.0.0:9000 failed: port is already allocated");
}

/// The kernel's own server, told by hand what `exportfs` and `rpc.mountd` would tell it: 127.0.0.1 may mount the directory as `/`.
struct NfsServer;

impl NfsServer {
    fn start(export: &std::path::Path) -> Self {
        let export = export.display();
        let script = format!(
            r"set -e
            mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
            mkdir -p /var/lib/nfs/v4recovery
            cd /proc/fs/nfsd
            echo 10 > nfsv4leasetime; echo 10 > nfsv4gracetime
            echo '-2 -3 +4 +4.1 +4.2' > versions
            echo 'nfsd 127.0.0.1 2147483647 test' > /proc/net/rpc/auth.unix.ip/channel
            # Any port of the client, no check of subtrees, a number for the file system.
            echo 'test {export} 2147483647 9218 65534 65534 0' > /proc/net/rpc/nfsd.export/channel
            echo 'test 1 \x00000000 2147483647 {export}' > /proc/net/rpc/nfsd.fh/channel
            echo 'tcp 2049' > portlist
            echo 2 > threads"
        );
        shell(&script).ok();
        Self
    }
}

impl Drop for NfsServer {
    fn drop(&mut self) {
        shell(
            "echo 0 > /proc/fs/nfsd/threads; for c in auth.unix.ip nfsd.export nfsd.fh; do date +%s > /proc/net/rpc/$c/flush; done",
        );
    }
}

#[test]
fn a_volume_on_nfs() {
    requires!(root);
    let has_nfs = shell(
        "modprobe -a nfs nfsv4 nfsd; grep -qw nfs4 /proc/filesystems && grep -qw nfsd /proc/filesystems",
    );
    requires!(kernel has_nfs.code == 0, "NFS, client and server");
    let mut daemon = daemon();
    let export = daemon.data_root().with_file_name("export");
    std::fs::create_dir(&export).unwrap();
    std::fs::write(export.join("greeting"), "hello\n").unwrap();
    let _server = NfsServer::start(&export);
    let options = ["-o", "type=nfs", "-o", "device=:/", "-o", "o=addr=127.0.0.1,vers=4.2,soft,timeo=50"];
    daemon.palan(["volume", "create"].iter().chain(&options).chain(&["shared"])).ok();
    let run = ["run", "--rm", "--network", "none", "-v", "shared:/data", BUSYBOX, "sh", "-c"];
    let said = daemon.palan(run.iter().chain(&["cat /data/greeting; echo there > /data/new; id -u"])).ok();
    assert_eq!(said.stdout, "hello\n0\n");
    assert_eq!(std::fs::read_to_string(export.join("new")).unwrap(), "there\n");
    let mounted = || std::fs::read_to_string("/proc/self/mounts").unwrap().contains(" nfs4 ");
    assert!(!mounted(), "only while it is used");
    // One mount for all, which outlives the daemon.
    let sleep = ["run", "-d", "--network", "none", "-v", "shared:/data", "--name"];
    for name in ["one", "two"] {
        daemon.palan(sleep.iter().chain(&[name, BUSYBOX, "sleep", "1000"])).ok();
    }
    daemon.kill();
    daemon.restart();
    assert_eq!(within(&daemon, "one", "cat /data/new"), "there\n");
    daemon.palan(["rm", "-f", "one"]).ok();
    assert!(mounted() && within(&daemon, "two", "cat /data/new") == "there\n");
    daemon.palan(["rm", "-f", "two"]).ok();
    assert!(wait_until(PATIENCE, || !mounted()));
    daemon.palan(["volume", "rm", "shared"]).ok();
    assert!(export.join("new").exists(), "the server's files stay");
    let wrong = ["-o", "type=nfs", "-o", "device=:/", "-o", "o=addr=127.0.0.1,vers=4.2,nonsense"];
    daemon.palan(["volume", "create"].iter().chain(&wrong).chain(&["wrong"])).ok();
    let refused = daemon.palan(["run", "--rm", "-v", "wrong:/data", BUSYBOX, "true"]);
    assert!(refused.code == 125 && refused.stderr.contains("wrong"), "{refused}");
}
