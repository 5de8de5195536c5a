//! Settings of the kernel for the container's processes, and what its mounts are filled with.

use palan_oci::runtime_spec::{
    ExecCpuAffinity, IoPriority, MemoryPolicy, Mount, NetDevice, Personality, Scheduler,
};

use super::exec::Running;
use crate::support::Sandbox;

pub(crate) fn scheduling_is_set() {
    let mut sandbox = Sandbox::new(&["cat", "/proc/self/stat"]);
    sandbox.process().scheduler =
        Some(Scheduler { policy: "SCHED_BATCH".into(), nice: Some(7), ..Scheduler::default() });
    sandbox.process().io_priority = Some(IoPriority { class: "IOPRIO_CLASS_IDLE".into(), priority: 0 });
    let output = sandbox.output();
    let fields: Vec<_> = output.rsplit_once(')').unwrap().1.split_whitespace().collect();
    // nice and policy, fields 19 and 41 of proc(5).
    assert_eq!((fields[16], fields[38]), ("7", "3"), "{output}");
    sandbox.process().scheduler = Some(Scheduler { policy: "SCHED_NONE".into(), ..Scheduler::default() });
    assert!(sandbox.error().report().contains("process.scheduler.policy"));
}

pub(crate) fn processes_run_on_their_cpus() {
    let running = Running::new();
    let mut process = running.process(&["grep", "Cpus_allowed_list", "/proc/self/status"]);
    process.exec_cpu_affinity = Some(ExecCpuAffinity { initial: "0".into(), last: "0".into() });
    let (code, output) = running.exec(&process, None).unwrap();
    assert_eq!((code, output.as_str()), (0, "Cpus_allowed_list:\t0\n"));
    process.exec_cpu_affinity = Some(ExecCpuAffinity { initial: String::new(), last: "1-0".into() });
    let error = running.exec(&process, None).unwrap_err().report();
    assert!(error.contains("process.execCPUAffinity.final"), "{error}");
}

pub(crate) fn the_execution_domain_is_set() {
    let mut sandbox = Sandbox::new(&["cat", "/proc/self/personality"]);
    sandbox.linux().personality = Some(Personality { domain: "LINUX32".into(), flags: vec![] });
    assert_eq!(sandbox.output(), "00000008\n");
}

pub(crate) fn memory_comes_from_its_nodes() {
    let mut sandbox = Sandbox::new(&["grep", "-m1", "heap\\|stack", "/proc/self/numa_maps"]);
    sandbox.linux().memory_policy = Some(MemoryPolicy {
        mode: "MPOL_BIND".into(),
        nodes: "0".into(),
        flags: vec!["MPOL_F_STATIC_NODES".into()],
    });
    match sandbox.run() {
        Ok((0, output)) => assert!(output.contains("bind=static:0"), "{output}"),
        // A kernel without NUMA has neither the call nor the file.
        Ok((_, output)) => assert!(output.contains("numa_maps"), "{output}"),
        Err(error) => assert!(error.report().contains("memory policy"), "{}", error.report()),
    }
}

pub(crate) fn a_tmpfs_starts_with_what_it_covers() {
    let script = "cat /full/file; stat -c '%a %u' /full /full/dir/deep; touch /full/new";
    let mut sandbox = Sandbox::new(&["sh", "-c", script]);
    let covered = sandbox.rootfs().join("full");
    std::fs::create_dir_all(covered.join("dir/deep")).unwrap();
    std::fs::write(covered.join("file"), "content\n").unwrap();
    std::os::unix::fs::chown(covered.join("dir/deep"), Some(33), Some(33)).unwrap();
    sandbox.spec.mounts.push(Mount {
        destination: "/full".into(),
        kind: "tmpfs".into(),
        source: "tmpfs".into(),
        options: vec!["tmpcopyup".into(), "size=1m".into()],
        ..Mount::default()
    });
    assert_eq!(sandbox.output(), "content\n755 0\n755 33\n");
    assert!(!covered.join("new").exists());
}

pub(crate) fn an_interface_of_the_host_moves_in() {
    let mut sandbox = Sandbox::new(&["sh", "-c", "cat /proc/net/dev /proc/net/fib_trie"]);
    sandbox.linux().net_devices.insert("palan-nowhere".into(), NetDevice::default());
    let error = sandbox.error().report();
    assert!(error.contains("palan-nowhere") && error.contains("no such device"), "{error}");
    sandbox.linux().net_devices.clear();
    sandbox.linux().net_devices.insert("eth0/../x".into(), NetDevice::default());
    assert!(sandbox.error().report().contains("invalid device name"));
    use palan_linux::netlink::{Batch, Protocol, Socket, link, route};
    let mut host = Socket::open(Protocol::Route).unwrap();
    let mut batch = Batch::new();
    let elsewhere = palan_linux::namespace::open(0, palan_linux::namespace::Kind::Network).unwrap();
    link::add_bridge(&mut batch, "palantestbr", [2, 0, 0, 0, 0, 9], 1400);
    host.execute(&mut batch).unwrap();
    let bridge = link::get(&mut host, link::Target::Name("palantestbr")).unwrap().unwrap().index;
    let mut batch = Batch::new();
    link::add_veth(
        &mut batch,
        &link::VethPair {
            name: "palantestpeer",
            mtu: 1400,
            master: bridge,
            peer_namespace: &elsewhere,
            peer_name: "palantest0",
            peer_index: 7_777_777,
            peer_mac: [2, 0, 0, 0, 0, 10],
        },
    );
    let address = std::net::Ipv4Addr::new(192, 0, 2, 77);
    host.execute(&mut batch).unwrap();
    let index = link::get(&mut host, link::Target::Name("palantest0")).unwrap().unwrap().index;
    let mut batch = Batch::new();
    route::add_address(&mut batch, route::Address { index, address: address.into(), prefix: 32 });
    let made = host.execute(&mut batch);
    sandbox.linux().net_devices.clear();
    sandbox.linux().net_devices.insert("palantest0".into(), NetDevice { name: "inside0".into() });
    let result = made.map(|()| sandbox.run());
    let mut batch = Batch::new();
    link::delete_all(&mut batch, ["palantestpeer", "palantestbr"].into_iter());
    // The container's end took its peer along.
    let _ = host.execute(&mut batch);
    let (code, output) = result.unwrap().unwrap_or_else(|error| panic!("{}", error.report()));
    assert_eq!(code, 0);
    assert!(output.contains("192.0.2.77"), "{output}");
    assert!(output.contains("inside0") && !output.contains("palantest0"), "{output}");
}

pub(crate) fn unknown_capabilities_are_told_and_left_out() {
    let mut sandbox = Sandbox::new(&["true"]);
    sandbox.process().capabilities.as_mut().unwrap().bounding.push("CAP_FUTURE".into());
    let container = sandbox.start(palan_runtime::Stdio::Null).unwrap();
    palan_linux::process::wait(&container.pidfd).unwrap();
    container.cgroup.remove().unwrap();
    assert_eq!(container.warnings, [r#"ignoring unknown or unavailable capabilities: ["CAP_FUTURE"]"#]);
}
