//! Interfaces of the kernel through which containers broke out of others' sandboxes: the default filter has none of them.

use std::collections::BTreeMap;

use palan_test_support::daemon::Daemon;
use palan_test_support::requires;
use palan_tests::images::{BUSYBOX, daemon};
use serde_json::{Value, json};

use crate::host::compile;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;
const EAFNOSUPPORT: u32 = 97;

/// Runs `calls.c` in a container; the error of each call, 0 if it went through. `None` where it can't be compiled or run.
fn calls(daemon: &Daemon, flags: &[&str], compiler: &[&str]) -> Option<BTreeMap<String, u32>> {
    let common = ["-static", "-nostdlib", "-no-pie", "-fno-stack-protector"];
    let all: Vec<&str> = common.iter().chain(compiler).copied().collect();
    let program = compile("calls.c", &all, daemon.scratch())?;
    let bind = format!("{}:/calls:ro", program.display());
    let words = ["run", "--rm", "--network", "none", "-v", &bind].into_iter().chain(flags.iter().copied());
    let run = daemon.palan(words.chain([BUSYBOX, "/calls"]));
    if compiler.contains(&"-m32") && run.code == 126 {
        palan_test_support::skip::note("programs of 32 bits", "this kernel runs none");
        return None;
    }
    let table = run.ok().stdout;
    let rows = table.lines().map(|line| line.split_once(' ').unwrap());
    Some(rows.map(|(name, error)| (name.to_owned(), error.parse().unwrap())).collect())
}

/// The ways to a call: the machine's own, and that of 32-bit programs, which has numbers of its own.
const WAYS: [&[&str]; 2] = [&[], &["-m32"]];

/// CVE-2022-0185 (fsconfig in a user namespace), CVE-2022-0492 (unshare), CVE-2023-0386 (overlay in a user namespace) and the many in
/// io_uring, bpf, keyrings, userfaultfd and perf: what they need is not there.
#[test]
fn no_call_is_open_that_exploits_begin_with() {
    requires!(root);
    requires!(cfg!(target_arch = "x86_64"), "needs x86_64");
    let daemon = daemon();
    for flags in [&[][..], &["-u", "alice"], &["--cap-add", "NET_ADMIN"]] {
        for way in WAYS {
            let Some(calls) = calls(&daemon, flags, way) else { return };
            for (name, error) in &calls {
                let expected = match name.as_str() {
                    "socket-inet" | "socket-unix" | "socketcall-inet" | "socketcall-unix" => &[0][..],
                    "socket-alg" | "socket-vsock" | "x32-socket-alg" => &[EAFNOSUPPORT],
                    // glibc asks for it and goes on without.
                    "clone3" => &[ENOSYS],
                    // See the next test.
                    "socketcall-alg" => continue,
                    _ => &[EPERM],
                };
                assert!(expected.contains(error), "{way:?} {flags:?}: {name} ends with {error}");
            }
            assert!(calls.len() > 33);
        }
    }
}

/// CVE-2026-31431 "Copy Fail" (Linux): sockets of the kernel's cryptography write to pages of files that can only be read. They are
/// refused by `socket` on every architecture. The i386 `socketcall` has the family behind a pointer, which no filter can
/// follow, and libraries for i386 know no other way to a socket: it can only be closed as a whole, by a profile.
#[test]
fn no_crypto_socket_is_open_where_socketcall_is_closed() {
    requires!(root);
    requires!(cfg!(target_arch = "x86_64"), "needs x86_64");
    let daemon = daemon();
    let Some(calls_of_default) = calls(&daemon, &[], &["-m32"]) else { return };
    assert_eq!(calls_of_default["socket-alg"], EAFNOSUPPORT);
    assert_eq!(calls_of_default["socketcall-inet"], 0);

    let rule = |names: Value, action: &str, more: Value| {
        let mut rule = json!({"names": names, "action": action});
        rule.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        rule
    };
    let alg = json!({"errnoRet": EAFNOSUPPORT, "args": [{"index": 0, "value": 38, "op": "SCMP_CMP_EQ"}]});
    let profile = json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86", "SCMP_ARCH_X32"]}],
        "syscalls": [
            rule(json!(["socketcall"]), "SCMP_ACT_ERRNO", json!({"errnoRet": ENOSYS})),
            rule(json!(["socket"]), "SCMP_ACT_ERRNO", alg),
        ],
    });
    let file = daemon.scratch().join("profile.json");
    std::fs::write(&file, profile.to_string()).unwrap();
    let option = format!("seccomp={}", file.display());
    let closed = calls(&daemon, &["--security-opt", &option], &["-m32"]).unwrap();
    assert_eq!(closed["socket-alg"], EAFNOSUPPORT);
    assert_eq!(closed["socketcall-alg"], ENOSYS);
    assert_eq!(closed["socketcall-inet"], ENOSYS);
    assert_eq!(closed["socket-inet"], 0);
}
