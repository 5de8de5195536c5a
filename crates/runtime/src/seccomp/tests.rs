//! What filters answer, through an interpreter of classic BPF.

use palan_linux::capability::CapabilitySet;
use palan_oci::runtime_spec::{Seccomp, SeccompArg, SeccompSyscall};

use super::compile::{NO_CALL, X32_BIT};
use super::reference::{Data, check, run};
use super::rules::{ERRNO, KILL_PROCESS};
use super::*;

#[cfg(not(target_arch = "aarch64"))]
mod libseccomp;

#[cfg(not(target_arch = "aarch64"))]
const X86_64: u32 = 0xc000_003e;
#[cfg(not(target_arch = "aarch64"))]
const I386: u32 = 0x4000_0003;
const ALLOW: u32 = 0x7fff_0000;

#[cfg(not(target_arch = "aarch64"))]
const NATIVE: u32 = X86_64;
#[cfg(target_arch = "aarch64")]
const NATIVE: u32 = 0xc000_00b7;

fn answer(program: &Program, architecture: u32, number: u32, arguments: &[u64]) -> u32 {
    let mut all = [0; 6];
    all[..arguments.len()].copy_from_slice(arguments);
    run(program, &Data { number, architecture, arguments: all })
}

fn number(name: &str) -> u32 {
    table::numbers(name).unwrap()[Architecture::NATIVE as usize].unwrap()
}

fn native(program: &Program, name: &str, arguments: &[u64]) -> u32 {
    answer(program, NATIVE, number(name), arguments)
}

fn conditions(capabilities: CapabilitySet) -> Conditions {
    Conditions { capabilities, kernel: (6, 18) }
}

fn builtin(capabilities: CapabilitySet) -> Program {
    Profile::builtin().compile(&conditions(capabilities)).unwrap()
}

#[test]
fn the_default_profile() {
    let program = builtin(CapabilitySet::SYS_CHROOT);
    println!("{} instructions", program.instructions.len());
    for name in
        ["read", "execve", "openat", "futex", "socket", "chroot", "ptrace", "statx", "landlock_add_rule"]
    {
        assert_eq!(native(&program, name, &[]), ALLOW, "{name}");
    }
    for name in [
        "keyctl",
        "add_key",
        "request_key",
        "bpf",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "mount",
        "umount2",
        "unshare",
        "setns",
        "fsopen",
        "fsconfig",
        "fsmount",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "pivot_root",
        "init_module",
        "kexec_load",
        "reboot",
        "swapon",
        "perf_event_open",
        "open_by_handle_at",
        "settimeofday",
    ] {
        assert_eq!(native(&program, name, &[]), ERRNO | 1, "{name}");
    }
    // New namespaces are refused, threads and processes are not.
    assert_eq!(native(&program, "clone", &[0x3d_0f00]), ALLOW);
    for flag in [0x1000_0000, 0x0002_0000, 0x2000_0000, 0x4000_0000] {
        assert_eq!(native(&program, "clone", &[flag]), ERRNO | 1);
    }
    assert_eq!(native(&program, "clone3", &[]), ERRNO | 38);
    assert_eq!(native(&program, "personality", &[0x2_0008]), ALLOW);
    assert_eq!(native(&program, "personality", &[0x0040_0000]), ERRNO | 1);
    // Numbers that nobody knows yet.
    assert_eq!(answer(&program, NATIVE, 2000, &[]), ERRNO | 38);
    // An architecture of another world.
    assert_eq!(answer(&program, 0x1234, 0, &[]), KILL_PROCESS);
}

/// CVE-2026-31431: the kernel reads the family as an int, so the upper half must not matter.
#[test]
fn socket_families() {
    let program = builtin(CapabilitySet::empty());
    for family in [1, 2, 10, 16, 17, 37, 39, 41, 44] {
        assert_eq!(native(&program, "socket", &[family]), ALLOW, "{family}");
    }
    for family in [38, 40] {
        assert_eq!(native(&program, "socket", &[family]), ERRNO | 97);
        assert_eq!(native(&program, "socket", &[family | 1 << 32]), ERRNO | 97);
        assert_eq!(native(&program, "socket", &[family | 0xffff_ffff << 32]), ERRNO | 97);
    }
}

#[cfg(not(target_arch = "aarch64"))]
#[test]
fn foreign_system_calls_of_x86() {
    let program = builtin(CapabilitySet::empty());
    // i386: socket, keyctl, socketcall, clone with a user namespace.
    assert_eq!(answer(&program, I386, 359, &[38]), ERRNO | 97);
    assert_eq!(answer(&program, I386, 359, &[2]), ALLOW);
    assert_eq!(answer(&program, I386, 288, &[]), ERRNO | 1);
    assert_eq!(answer(&program, I386, 102, &[1]), ALLOW);
    assert_eq!(answer(&program, I386, 120, &[0x1000_0000]), ERRNO | 1);
    // x32: the same rules behind its bit; a number of x86_64 with the bit is not another call.
    assert_eq!(answer(&program, X86_64, 0x4000_0000, &[]), ALLOW);
    assert_eq!(answer(&program, X86_64, 0x4000_0000 | 250, &[]), ERRNO | 1);
    assert_eq!(answer(&program, X86_64, 0x4000_0000 | 41, &[38]), ERRNO | 97);
    assert_eq!(answer(&program, X86_64, 0x4000_0000 | 59, &[]), ERRNO | 1);
    assert_eq!(answer(&program, X86_64, 0x4000_0000 | 520, &[]), ALLOW);
}

#[test]
fn capabilities_bring_their_calls() {
    let program = builtin(CapabilitySet::SYS_ADMIN);
    for name in ["mount", "unshare", "setns", "fsopen", "clone3", "bpf"] {
        assert_eq!(native(&program, name, &[0x1000_0000]), ALLOW, "{name}");
    }
    assert_eq!(native(&program, "clone", &[0x1000_0000]), ALLOW);
    assert_eq!(native(&program, "keyctl", &[]), ERRNO | 1);
    assert_eq!(native(&program, "io_uring_setup", &[]), ERRNO | 1);
    assert_eq!(native(&builtin(CapabilitySet::BPF), "bpf", &[]), ALLOW);
    assert_eq!(native(&builtin(CapabilitySet::SYS_TIME), "settimeofday", &[]), ALLOW);
}

fn one_rule(op: &str, value: u64, value_two: u64) -> Program {
    let argument = SeccompArg { index: 2, value, value_two, op: op.to_owned() };
    let rule = SeccompSyscall {
        names: vec!["read".into()],
        action: "SCMP_ACT_KILL_PROCESS".into(),
        errno_ret: None,
        args: vec![argument],
    };
    let rules =
        Seccomp { default_action: "SCMP_ACT_ALLOW".into(), syscalls: vec![rule], ..Seccomp::default() };
    Program::compile(&rules).unwrap()
}

type Comparison = fn(u64, u64) -> bool;

#[test]
fn comparisons_are_of_64_bits() {
    let values = [
        0,
        1,
        2,
        0x7fff_ffff,
        0xffff_fffe,
        0xffff_ffff,
        0x1_0000_0000,
        0x1_0000_0001,
        0x2_0000_0000,
        u64::MAX - 1,
        u64::MAX,
    ];
    let operators: [(&str, Comparison); 6] = [
        ("SCMP_CMP_EQ", |a, b| a == b),
        ("SCMP_CMP_NE", |a, b| a != b),
        ("SCMP_CMP_LT", |a, b| a < b),
        ("SCMP_CMP_LE", |a, b| a <= b),
        ("SCMP_CMP_GT", |a, b| a > b),
        ("SCMP_CMP_GE", |a, b| a >= b),
    ];
    for (name, holds) in operators {
        for wanted in values {
            let program = one_rule(name, wanted, 0);
            for value in values {
                let expected = if holds(value, wanted) { KILL_PROCESS } else { ALLOW };
                assert_eq!(native(&program, "read", &[0, 0, value]), expected, "{value} {name} {wanted}");
            }
        }
    }
    for mask in values {
        for wanted in values {
            let program = one_rule("SCMP_CMP_MASKED_EQ", mask, wanted);
            for value in values {
                let expected = if value & mask == wanted & mask { KILL_PROCESS } else { ALLOW };
                assert_eq!(native(&program, "read", &[0, 0, value]), expected);
            }
        }
    }
}

#[test]
fn every_number_gets_the_answer_of_its_rules() {
    let rules = Profile::builtin().resolve(&conditions(CapabilitySet::empty()));
    let program = Program::compile(&rules).unwrap();
    let allowed: Vec<u32> = rules
        .syscalls
        .iter()
        .filter(|rule| rule.args.is_empty() && rule.action == "SCMP_ACT_ALLOW")
        .flat_map(|rule| &rule.names)
        .filter_map(|name| table::numbers(name)?[Architecture::NATIVE as usize])
        .collect();
    let conditional = ["clone", "clone3", "socket", "personality"].map(number);
    for candidate in (0..600).filter(|candidate| !conditional.contains(candidate)) {
        let expected = if allowed.contains(&candidate) {
            ALLOW
        } else if candidate > *allowed.iter().max().unwrap() {
            ERRNO | 38
        } else {
            ERRNO | 1
        };
        assert_eq!(answer(&program, NATIVE, candidate, &[]), expected, "{candidate}");
    }
}

const JSON: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"listenerPath":"/run/agent.sock",
  "archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]},
             {"architecture":"SCMP_ARCH_AARCH64","subArchitectures":null}],
  "syscalls":[
   {"names":["read","made_up"],"action":"SCMP_ACT_ALLOW","args":null,"includes":{},"excludes":{}},
   {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
   {"names":["process_vm_readv"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"99.0"}},
   {"names":["reboot"],"action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_BOOT"]}},
   {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]},
    "args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
   {"name":"mount","action":"SCMP_ACT_ALLOW","includes":{"arches":["s390x"]}},
   {"names":["uname"],"action":"SCMP_ACT_TRAP","includes":{"arches":["amd64","arm64"]}},
   {"names":["write"],"action":"SCMP_ACT_LOG","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},
                                                     {"index":0,"value":2,"op":"SCMP_CMP_EQ"}]},
   {"names":["writev"],"action":"SCMP_ACT_NOTIFY","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},
                                                     {"index":1,"value":2,"op":"SCMP_CMP_EQ"}]}
  ]}"#;

#[test]
fn profiles_in_dockers_json() {
    let profile = Profile::from_json(JSON.as_bytes()).unwrap();
    let program = profile.compile(&conditions(CapabilitySet::empty())).unwrap();
    assert_eq!(native(&program, "read", &[]), ALLOW);
    assert_eq!(native(&program, "ptrace", &[]), ALLOW);
    // Above the highest number of the profile a call is unknown rather than forbidden.
    assert_eq!(native(&program, "process_vm_readv", &[]), ERRNO | 38);
    assert_eq!(native(&program, "bpf", &[]), ERRNO | 38);
    assert_eq!(native(&program, "open_by_handle_at", &[]), ERRNO | 38);
    assert_eq!(native(&program, "clone", &[0x11]), ALLOW);
    assert_eq!(native(&program, "clone", &[0x1000_0000]), ERRNO | 1);
    assert_eq!(native(&program, "mkdirat", &[]), ERRNO | 38);
    assert_eq!(native(&program, "uname", &[]), 0x0003_0000);
    // Two conditions on one argument: either. On two arguments: both.
    for (first, expected) in [(1, 0x7ffc_0000), (2, 0x7ffc_0000), (3, ERRNO | 1)] {
        assert_eq!(native(&program, "write", &[first]), expected);
    }
    assert_eq!(native(&program, "writev", &[1, 2]), 0x7fc0_0000);
    assert_eq!(native(&program, "writev", &[1, 3]), ERRNO | 1);
    assert!(program.flags.new_listener);
    let admin = conditions(CapabilitySet::SYS_ADMIN | CapabilitySet::SYS_BOOT);
    let program = profile.compile(&admin).unwrap();
    assert_eq!(native(&program, "reboot", &[]), ALLOW);
    assert_eq!(native(&program, "clone", &[0x11]), ERRNO | 1);
}

#[test]
fn nonsense_is_refused() {
    for (from, to) in [
        ("SCMP_ACT_TRAP", "SCMP_ACT_WHAT"),
        ("SCMP_CMP_EQ", "SCMP_CMP_ALMOST"),
        ("\"index\":0", "\"index\":6"),
        ("\"defaultErrnoRet\":1", "\"defaultErrnoRet\":70000"),
        ("\"archMap\"", "\"flags\":[\"X\"],\"archMap\""),
    ] {
        let json = JSON.replace(from, to);
        let result = Profile::from_json(json.as_bytes())
            .and_then(|profile| profile.compile(&conditions(CapabilitySet::empty())));
        assert!(result.is_err(), "{to}");
    }
    for (from, to) in [
        ("\"4.8\"", "\"new\""),
        ("\"archMap\"", "\"architectures\":[\"SCMP_ARCH_X86\"],\"archMap\""),
        ("\"syscalls\":[", "\"syscalls\":[7,"),
    ] {
        assert!(Profile::from_json(JSON.replace(from, to).as_bytes()).is_err(), "{to}");
    }
    assert!(Profile::from_json(b"").is_err());
}

#[test]
fn programs_travel_as_bytes() {
    let program = builtin(CapabilitySet::empty());
    let bytes = program.to_bytes();
    assert_eq!(Program::from_bytes(&bytes).unwrap(), program);
    for bad in [&bytes[..0], &bytes[..3], &bytes[..4], &bytes[..bytes.len() - 1]] {
        assert!(Program::from_bytes(bad).is_err());
    }
    assert!(Program::from_bytes(&vec![0; 4 + 8 * 5000]).is_err());
}

fn profile(default: &str, syscalls: Vec<SeccompSyscall>) -> Seccomp {
    Seccomp { default_action: default.into(), syscalls, ..Seccomp::default() }
}

fn rule(names: &[&str], action: &str, args: Vec<SeccompArg>) -> SeccompSyscall {
    let names = names.iter().map(|&name| name.to_owned()).collect();
    SeccompSyscall { names, action: action.into(), errno_ret: None, args }
}

fn first(op: &str, value: u64) -> Vec<SeccompArg> {
    vec![SeccompArg { index: 0, value, value_two: 0, op: format!("SCMP_CMP_{op}") }]
}

#[track_caller]
fn refused(rules: &Seccomp, text: &str) {
    let error = Program::compile(rules).unwrap_err().to_string();
    assert!(error.contains(text), "{error}");
}

#[test]
fn filters_follow_their_profiles() {
    let kinds = [CapabilitySet::empty(), CapabilitySet::all()];
    let mut profiles: Vec<Seccomp> =
        kinds.iter().map(|set| Profile::builtin().resolve(&conditions(*set))).collect();
    profiles.push(Profile::from_json(JSON.as_bytes()).unwrap().resolve(&conditions(kinds[0])));
    for profile in profiles {
        check(&profile, &[1]);
    }
}

#[test]
fn the_narrower_rule_wins() {
    for reversed in [false, true] {
        let mut rules = vec![
            rule(&["kill"], "SCMP_ACT_LOG", first("GT", 0)),
            rule(&["kill"], "SCMP_ACT_KILL_PROCESS", first("EQ", 9)),
            rule(&["kill"], "SCMP_ACT_TRAP", first("LT", 20)),
            rule(&["kill"], "SCMP_ACT_ERRNO", first("LT", 5)),
        ];
        if reversed {
            rules.reverse();
        }
        let program = Program::compile(&profile("SCMP_ACT_ALLOW", rules.clone())).unwrap();
        for (value, expected) in [(9, KILL_PROCESS), (4, ERRNO | 1), (5, 0x3_0000), (20, 0x7ffc_0000)] {
            assert_eq!(native(&program, "kill", &[value]), expected, "{value}");
        }
        // Without conditions it beats all of them.
        rules.insert(2, rule(&["kill"], "SCMP_ACT_ERRNO", vec![]));
        let program = Program::compile(&profile("SCMP_ACT_ALLOW", rules)).unwrap();
        assert_eq!(native(&program, "kill", &[9]), ERRNO | 1);
    }
}

#[test]
fn architectures_of_other_processors_are_known() {
    let syscalls = vec![rule(&["mkdir"], "SCMP_ACT_ERRNO", vec![])];
    let all = KNOWN_ARCHITECTURES.iter().map(|&name| name.to_owned()).collect();
    let mut rules = Seccomp { architectures: all, ..profile("SCMP_ACT_ALLOW", syscalls) };
    let program = Program::compile(&rules).unwrap();
    assert_eq!(native(&program, "read", &[]), ALLOW);
    // AUDIT_ARCH_S390X: no process here can have it.
    assert_eq!(answer(&program, 0x8000_0016, 1, &[]), KILL_PROCESS);
    rules.architectures.push("SCMP_ARCH_Z80".into());
    refused(&rules, "architectures: unknown architecture \"SCMP_ARCH_Z80\"");
}

/// An architecture that the profile does not name can't be a way around it.
#[cfg(not(target_arch = "aarch64"))]
#[test]
fn x32_and_i386_are_no_way_around() {
    let syscalls = vec![rule(&["mount", "socket", "semop"], "SCMP_ACT_ERRNO", vec![])];
    let mut rules = profile("SCMP_ACT_ALLOW", syscalls);
    let program = Program::compile(&rules).unwrap();
    assert_eq!(answer(&program, X86_64, X32_BIT | 165, &[]), KILL_PROCESS);
    assert_eq!(answer(&program, X86_64, X32_BIT, &[]), KILL_PROCESS);
    assert_eq!(answer(&program, I386, 21, &[]), KILL_PROCESS);
    // No call: a tracer skips one.
    assert_eq!(answer(&program, X86_64, NO_CALL, &[]), ALLOW);
    rules.architectures = ["SCMP_ARCH_X86", "SCMP_ARCH_X32"].map(str::to_owned).to_vec();
    let program = Program::compile(&rules).unwrap();
    assert_eq!(answer(&program, X86_64, X32_BIT | 165, &[]), ERRNO | 1);
    assert_eq!(answer(&program, X86_64, X32_BIT, &[]), ALLOW);
    assert_eq!(answer(&program, I386, 21, &[]), ERRNO | 1);
    // The second way to each of them: socketcall, and ipc with any version in its upper half.
    assert_eq!(answer(&program, I386, 359, &[2]), ERRNO | 1);
    assert_eq!(answer(&program, I386, 102, &[1]), ERRNO | 1);
    assert_eq!(answer(&program, I386, 102, &[3]), ALLOW);
    assert_eq!(answer(&program, I386, 117, &[1]), ERRNO | 1);
    assert_eq!(answer(&program, I386, 117, &[0x1_0001]), ERRNO | 1);
    assert_eq!(answer(&program, I386, 117, &[2]), ALLOW);
    // What lies behind a pointer can't be compared: forbidden where a comparison would forbid, else not allowed by it.
    let forbids = vec![rule(&["socket"], "SCMP_ACT_ERRNO", first("EQ", 38))];
    let architectures = rules.architectures.clone();
    let rules = Seccomp { architectures: architectures.clone(), ..profile("SCMP_ACT_ALLOW", forbids) };
    assert_eq!(answer(&Program::compile(&rules).unwrap(), I386, 102, &[1]), ERRNO | 1);
    let allows = vec![rule(&["socket", "accept4"], "SCMP_ACT_ALLOW", first("EQ", 2))];
    let rules = Seccomp { architectures, ..profile("SCMP_ACT_ERRNO", allows) };
    assert_eq!(answer(&Program::compile(&rules).unwrap(), I386, 102, &[1]), ERRNO | 1);
}

/// `semop` has no number of its own on i386; the fuzz target `seccomp_filter` found it hidden as a call newer than the profile.
#[test]
fn a_call_that_is_only_multiplexed_is_not_newer() {
    let allows = vec![rule(&["semop", "read"], "SCMP_ACT_ALLOW", vec![])];
    let architectures = vec!["SCMP_ARCH_X86".to_owned()];
    let rules = Seccomp { architectures, ..profile("SCMP_ACT_ERRNO", allows) };
    let program = Program::compile(&rules).unwrap();
    assert_eq!(answer(&program, I386, 117, &[1]), ALLOW);
    assert_eq!(answer(&program, I386, 117, &[2]), ERRNO | 1);
    assert_eq!(answer(&program, I386, 118, &[]), ERRNO | 38);
}

/// As runc has it: a profile that allows little hides what it can't know, whatever its default is.
#[test]
fn calls_newer_than_the_profile() {
    let newest = number("getcwd").max(number("read"));
    for (default, expected) in [
        ("SCMP_ACT_ERRNO", ERRNO | 38),
        ("SCMP_ACT_KILL_PROCESS", ERRNO | 38),
        ("SCMP_ACT_TRAP", ERRNO | 38),
        ("SCMP_ACT_LOG", 0x7ffc_0000),
        ("SCMP_ACT_TRACE", 0x7ff0_0001),
        ("SCMP_ACT_ALLOW", ALLOW),
    ] {
        // The last one says nothing but that its author knew it.
        let rules = vec![rule(&["read"], "SCMP_ACT_LOG", vec![]), rule(&["getcwd"], default, vec![])];
        let program = Program::compile(&profile(default, rules)).unwrap();
        assert_eq!(answer(&program, NATIVE, newest + 1, &[]), expected, "{default}");
        assert_ne!(answer(&program, NATIVE, newest, &[]), ERRNO | 38, "{default}");
    }
    for rules in [vec![], vec![rule(&["made_up"], "SCMP_ACT_ALLOW", vec![])]] {
        let program = Program::compile(&profile("SCMP_ACT_ERRNO", rules)).unwrap();
        assert_eq!(answer(&program, NATIVE, 400, &[]), ERRNO | 1);
    }
}

#[test]
fn flags_of_a_filter() {
    let notify = vec![rule(&["mkdir"], "SCMP_ACT_NOTIFY", vec![])];
    let mut rules = Seccomp { listener_path: "/agent".into(), ..profile("SCMP_ACT_ALLOW", notify) };
    let flags = |rules: &Seccomp| Program::compile(rules).unwrap().flags;
    assert!(flags(&rules).speculation_allowed && flags(&rules).new_listener);
    rules.flags = Some(vec![]);
    assert_eq!(flags(&rules), LoadFlags { new_listener: true, ..LoadFlags::default() });
    let list =
        |names: &[&str]| Some(names.iter().map(|name| format!("SECCOMP_FILTER_FLAG_{name}")).collect());
    rules.flags = list(&["TSYNC", "LOG", "SPEC_ALLOW", "WAIT_KILLABLE_RECV"]);
    let all = LoadFlags { log: true, speculation_allowed: true, new_listener: true, wait_killable: true };
    assert_eq!(flags(&rules), all);
    rules.syscalls[0].action = "SCMP_ACT_LOG".into();
    refused(&rules, "flags: SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV needs a rule with SCMP_ACT_NOTIFY");
    rules.flags = list(&["NEW_LISTENER"]);
    refused(&rules, "flags: unknown flag \"SECCOMP_FILTER_FLAG_NEW_LISTENER\"");
}

#[test]
fn rules_of_notify() {
    let notify = |names: &[&str]| vec![rule(names, "SCMP_ACT_NOTIFY", vec![])];
    let mut rules = profile("SCMP_ACT_ALLOW", notify(&["mkdir"]));
    refused(&rules, "listenerPath is not set");
    rules.listener_path = "@agent".into();
    rules.listener_metadata = "opaque".into();
    let program = Program::compile(&rules).unwrap();
    assert_eq!(native(&program, "mkdirat", &[]), ALLOW);
    assert_eq!(Program::from_bytes(&program.to_bytes()).unwrap(), program);
    let agent = program.agent().unwrap();
    assert_eq!((agent.path.as_str(), agent.metadata.as_str()), ("@agent", "opaque"));
    rules.listener_path = "x".repeat(108);
    refused(&rules, "is no path of a socket");
    rules.listener_path.clear();
    rules.syscalls = vec![];
    refused(&rules, "listenerMetadata is set, but listenerPath is not");
    // Without rules for it nobody needs the agent.
    rules.listener_path = "/agent".into();
    assert!(Program::compile(&rules).unwrap().agent().is_none());
    rules.syscalls = notify(&["mkdir", "write"]);
    refused(&rules, "SCMP_ACT_NOTIFY cannot be used for the write syscall");
    rules = profile("SCMP_ACT_NOTIFY", vec![]);
    refused(&rules, "SCMP_ACT_NOTIFY cannot be used as default action");
}

#[test]
fn errors_say_where() {
    let with = |change: fn(&mut SeccompSyscall)| {
        let mut bad = rule(&["write"], "SCMP_ACT_ERRNO", first("EQ", 1));
        change(&mut bad);
        profile("SCMP_ACT_ALLOW", vec![rule(&["read"], "SCMP_ACT_LOG", vec![]), bad])
    };
    refused(&with(|rule| rule.action = "ALLOW".into()), "syscalls[1]: unknown action \"ALLOW\"");
    refused(&with(|rule| rule.args[0].op = "EQ".into()), "syscalls[1].args[0].op: unknown operator \"EQ\"");
    refused(
        &with(|rule| rule.args[0].index = 6),
        "syscalls[1].args[0].index: a call has no argument number 6",
    );
    refused(&with(|rule| rule.errno_ret = Some(4096)), "syscalls[1]: errnoRet 4096 is more than 4095");
    refused(&with(|rule| rule.names.push(String::new())), "syscalls[1].names: a system call has no name");
    refused(
        &with(|rule| {
            rule.errno_ret = Some(1);
            rule.action = "SCMP_ACT_KILL".into();
        }),
        "syscalls[1]: action SCMP_ACT_KILL has no errnoRet",
    );
    let mut rules = profile("SCMP_ACT_LOG", vec![]);
    rules.default_errno_ret = Some(1);
    refused(&rules, "defaultAction: action SCMP_ACT_LOG has no errnoRet");
    rules.default_action = "SCMP_ACT_TRACE".into();
    rules.default_errno_ret = Some(0xffff);
    assert_eq!(native(&Program::compile(&rules).unwrap(), "read", &[]), 0x7ff0_ffff);
    rules.default_errno_ret = Some(0x1_0000);
    refused(&rules, "defaultAction: errnoRet 65536 is more than 65535");
}

#[test]
fn names_that_nobody_knows() {
    let rules =
        profile("SCMP_ACT_ALLOW", vec![rule(&["read", "made_up", "send", "mkdri"], "SCMP_ACT_LOG", vec![])]);
    assert_eq!(unknown_calls(&rules).collect::<Vec<_>>(), ["made_up", "mkdri"]);
    #[cfg(not(target_arch = "aarch64"))]
    assert_eq!(unknown_calls(&Profile::builtin().resolve(&conditions(CapabilitySet::all()))).count(), 0);
}
