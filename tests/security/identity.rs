//! Users, groups and capabilities: never more than what was asked for.

use palan_test_support::bundle::Bundle;
use palan_test_support::requires;
use palan_tests::images::{BUSYBOX, daemon};
use serde_json::json;

/// CVE-2022-29162 (runc), CVE-2022-24769 (moby), CVE-2022-27650 (crun): inheritable capabilities come back with a program that has
/// file capabilities.
#[test]
fn no_capability_is_inheritable() {
    requires!(root);
    let daemon = daemon();
    let status = "grep -h '^CapInh\\|^CapAmb' /proc/self/status";
    let none = "CapInh:\t0000000000000000\nCapAmb:\t0000000000000000";
    for flags in [&[][..], &["-u", "alice"], &["--cap-add", "NET_ADMIN"], &["--privileged"]] {
        let words = ["run", "--rm", "--network", "none"].iter().chain(flags);
        let run = daemon.palan(words.chain(&[BUSYBOX, "sh", "-c", status])).ok();
        assert_eq!(run.line(), none, "{flags:?}");
    }
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    for flags in [&[][..], &["-u", "alice"], &["--privileged"]] {
        let run = daemon.palan(["exec"].iter().chain(flags).chain(&["cc", "sh", "-c", status])).ok();
        assert_eq!(run.line(), none, "exec {flags:?}");
    }
}

/// CVE-2022-29162 (runc): `exec --cap` made what it adds inheritable.
#[test]
fn exec_adds_no_inheritable_capability() {
    requires!(root);
    let bundle = Bundle::new(&["sleep", "1000"]);
    let running = bundle.start();
    let status = ["grep", "^CapInh", "/proc/self/status"];
    for flags in [&[][..], &["--cap", "CAP_NET_ADMIN"], &["--user", "1000:1001"]] {
        let run = running.exec(flags, &status).ok();
        assert_eq!(run.stdout, "CapInh:\t0000000000000000\n", "{flags:?}");
    }
}

/// CVE-2026-30892 (crun): `exec -u 1` was user 0. Whatever is written there is that number, or an error.
#[test]
fn no_user_is_root_that_does_not_say_so() {
    requires!(root);
    let bundle = Bundle::new(&["sleep", "1000"]);
    let running = bundle.start();
    let mut state = 30_892_u64;
    let mut random = |bound: usize| {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        usize::try_from(state >> 33).unwrap() % bound
    };
    let letters: Vec<char> = "0123456789:+-x. ab\t_".chars().collect();
    let mut texts: Vec<String> =
        (0..300).map(|_| (0..1 + random(6)).map(|_| letters[random(letters.len())]).collect()).collect();
    for known in [
        "1",
        "1:1",
        "01",
        "1 ",
        " 1",
        "+1",
        "1e0",
        "0x0",
        "0b0",
        "1:",
        ":1",
        ":",
        "-0",
        "0.0",
        "1000:1001",
        "2147483647",
        "2147483648",
        "4294967295",
        "4294967296",
        "4294967297",
        "18446744073709551616",
        "99999999999999999999",
        "alice",
        "root",
    ] {
        texts.push(known.to_owned());
    }
    let (mut ran, mut refused) = (0, 0);
    for text in texts {
        let run = running.exec(&["--user", &text], &["sh", "-c", "echo $(id -u):$(id -g)"]);
        if run.code != 0 {
            assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{text:?}: {run}");
            refused += 1;
            continue;
        }
        ran += 1;
        let (user, group) = run.stdout.trim().split_once(':').unwrap();
        let (wanted, wanted_group) = match text.split_once(':') {
            Some((user, group)) => (user, Some(group)),
            None => (text.as_str(), None),
        };
        // A program that takes names may do so.
        let wanted = if wanted == "alice" { "1000" } else { wanted };
        let is_root = wanted == "root" || wanted.is_empty();
        assert_eq!(user.parse::<u32>().ok(), wanted.parse().ok().or(is_root.then_some(0)), "{text:?}: {run}");
        if let Some(wanted) = wanted_group.filter(|group| !group.is_empty()) {
            assert_eq!(group.parse::<u32>().ok(), wanted.parse().ok(), "{text:?}: {run}");
        }
    }
    assert!(ran > 20 && refused > 20, "{ran} ran, {refused} refused");
}

/// CVE-2022-36109 (moby), CVE-2023-25173 (containerd), CVE-2022-2989 (podman), CVE-2022-2990 (buildah): without the primary group
/// among the supplementary ones a file that shuts that group out can be read after a change of groups.
#[test]
fn no_primary_group_is_missing_from_the_groups() {
    requires!(root);
    let daemon = daemon();
    let script = "grep Groups: /proc/self/status | tr -s '\\t ' ' '";
    let cases = [
        ("alice", "Groups: 50 1000 "),
        ("7:8", "Groups: 8 "),
        ("alice:50", "Groups: 50 "),
        ("12345", "Groups: 0 "),
    ];
    daemon.palan(["run", "-d", "--name", "cc", "--network", "none", BUSYBOX, "sleep", "1000"]).ok();
    for (user, groups) in cases {
        let words = ["run", "--rm", "--network", "none", "-u", user, BUSYBOX, "sh", "-c", script];
        assert_eq!(daemon.palan(words).ok().stdout.trim_end(), groups.trim_end(), "run -u {user}");
        let exec = daemon.palan(["exec", "-u", user, "cc", "sh", "-c", script]).ok();
        assert_eq!(exec.stdout.trim_end(), groups.trim_end(), "exec -u {user}");
    }
    // Everybody but the group may read it: the group's member can't, also with another group.
    daemon.palan(["exec", "cc", "sh", "-c", "echo x > /tmp/f; chown 0:1000 /tmp/f; chmod 604 /tmp/f"]).ok();
    for user in ["alice", "alice:1000"] {
        let read = daemon.palan(["exec", "-u", user, "cc", "cat", "/tmp/f"]);
        assert!(read.code != 0 && read.stdout.is_empty(), "{user}: {read}");
    }
}

/// CVE-2024-40635, CVE-2026-46680 (containerd) as a runtime gets it: numbers of the specification that are none.
#[test]
fn no_number_out_of_range_is_a_user() {
    requires!(root);
    for user in [
        json!(-1),
        json!(4_294_967_296_u64),
        json!(u64::MAX),
        json!("0"),
        json!(1.5),
        json!(4_294_967_295_u32),
    ] {
        for field in ["uid", "gid"] {
            let mut bundle = Bundle::new(&["id"]);
            bundle.spec["process"]["user"][field] = user.clone();
            let run = bundle.run();
            assert!(run.code != 0 && run.stdout.is_empty(), "{field} {user}: {run}");
        }
    }
}
