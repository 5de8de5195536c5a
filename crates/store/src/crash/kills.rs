//! Kills: at each step, before each system call, and at any moment.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use super::*;

/// The system calls that change a disk, or name what is about to change. Some of them the store does not use; who reads a
/// trace should see that.
const CHANGES: &str = "openat,?openat2,creat,write,pwrite64,writev,pwritev,?pwritev2,copy_file_range,sendfile,ftruncate,truncate,\
    fallocate,rename,renameat,renameat2,link,linkat,symlink,symlinkat,unlink,unlinkat,rmdir,mkdir,mkdirat,mknod,mknodat,chmod,\
    fchmod,fchmodat,?fchmodat2,chown,lchown,fchown,fchownat,utimensat,setxattr,lsetxattr,fsetxattr,removexattr,lremovexattr,\
    fremovexattr,ioctl,fsync,fdatasync,syncfs,sync_file_range,?move_mount";

/// Does all of it, on as many threads as there are processors; how many said so.
fn each<T: Sync>(work: &[T], action: impl Fn(&T) -> bool + Sync) -> u64 {
    let (next, counted) = (AtomicU64::new(0), AtomicU64::new(0));
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                let take =
                    || work.get(usize::try_from(next.fetch_add(1, Ordering::Relaxed)).unwrap_or(usize::MAX));
                while let Some(item) = take() {
                    counted.fetch_add(u64::from(action(item)), Ordering::Relaxed);
                }
            });
        }
    });
    counted.into_inner()
}

/// Killed or at its end, but not refused anything.
#[track_caller]
fn assert_not_failed(output: &Output) {
    assert!(output.status.signal().is_some() || output.status.success(), "{output:?}");
}

fn points_of(output: &Output) -> u64 {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let points = text.split("points passed: ").nth(1).and_then(|rest| rest.split_whitespace().next());
    points.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{output:?}"))
}

#[test]
fn killed_at_every_step() {
    let whole = directory();
    let points = points_of(&run(whole.path(), 0));
    assert!(points > 150, "{points} steps");
    check(whole.path(), "without a kill");
    let numbers: Vec<u64> = (1..=points).collect();
    let killed = each(&numbers, |number| {
        let directory = directory();
        let output = run(directory.path(), *number);
        // Twice more, anywhere: early, when what the first kill left is not put right yet, and among what builds upon it.
        let mut random = noise(*number, 2).into_iter().map(u64::from);
        let early = 1 + random.next().unwrap_or_default() % 8;
        let late = 1 + random.next().unwrap_or_default() * points / 256;
        for step in [early, late] {
            assert_not_failed(&run(directory.path(), step));
        }
        check(
            directory.path(),
            &format!("killed at step {number} of {points}, then at {early}, then at {late}"),
        );
        output.status.signal().is_some()
    });
    // The background's steps come in between, so the last numbers may not be reached.
    assert!(killed + 10 > points, "{killed} kills of {points}");
    println!("{killed} kills");
}

/// All of them take minutes; every how many are tried unless the variable says otherwise.
const EVERY: usize = 29;

#[test]
fn killed_before_a_system_call() {
    let whole = directory();
    let trace = whole.path().join("trace");
    let only = format!("trace={CHANGES}");
    let traced =
        ["strace", "-f", "-qq", "-e", &only, "-e", "signal=none", "-o", &trace.display().to_string()];
    match command(&traced, &whole.path().join("root")).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: needs strace");
            return;
        }
        output => assert!(output.expect("strace").status.success()),
    }
    // The tracer counts each call of each thread by itself.
    let mut counts: BTreeMap<String, BTreeMap<String, u64>> = BTreeMap::new();
    for line in std::fs::read_to_string(&trace).expect("a trace").lines() {
        let Some((thread, call)) = line.split_once(' ') else { continue };
        let Some((name, _)) = call.trim_start().split_once('(') else { continue };
        *counts.entry(name.to_owned()).or_default().entry(thread.to_owned()).or_default() += 1;
    }
    let mut calls = Vec::new();
    for (name, threads) in counts.iter().filter(|(name, _)| !name.starts_with("<...")) {
        let most = threads.values().copied().max().unwrap_or_default();
        calls.extend((1..=most).map(|number| (name.clone(), number)));
    }
    assert!(calls.len() > 300, "{} calls", calls.len());
    let all = calls.len();
    let every =
        std::env::var("PALAN_CRASH_EVERY").ok().and_then(|number| number.parse().ok()).unwrap_or(EVERY);
    let seed = seed();
    let first = usize::try_from(seed % every as u64).unwrap_or(0);
    let calls: Vec<_> = calls.into_iter().skip(first).step_by(every).collect();
    let killed = each(&calls, |(name, number)| {
        let directory = directory();
        let root = directory.path().join("root");
        let inject = format!("inject={name}:signal=KILL:when={number}");
        let tracer = ["strace", "-f", "-qq", "-e", &inject, "-o", "/dev/null"];
        let output = command(&tracer, &root).output().expect("strace");
        if root.join("images.db").exists() {
            check(&root, &format!("killed before {name} number {number}, PALAN_CRASH_SEED={seed}"));
        }
        output.status.signal().is_some() || output.status.code() == Some(137)
    });
    println!("{killed} kills at {} of {all} calls, PALAN_CRASH_SEED={seed}", calls.len());
    assert!(killed * 10 > calls.len() as u64 * 9, "{killed} kills of {}", calls.len());
}

fn seed() -> u64 {
    let seed = std::env::var("PALAN_CRASH_SEED").ok().and_then(|number| number.parse().ok());
    seed.unwrap_or_else(|| std::time::UNIX_EPOCH.elapsed().map_or(1, |elapsed| elapsed.subsec_nanos().into()))
}

#[test]
fn killed_at_random_moments() {
    let kills =
        std::env::var("PALAN_CRASH_KILLS").ok().and_then(|number| number.parse().ok()).unwrap_or(40u32);
    let seed = seed();
    let begun = Instant::now();
    let whole = directory();
    run(whole.path(), 0);
    let usual = begun.elapsed();
    let mut random = noise(seed | 1, 4 * kills as usize).into_iter();
    // The same directory again and again: what one kill left is what the next one finds.
    let directory = directory();
    let mut hit = 0;
    for number in 0..kills {
        let mut child = start(directory.path(), 0);
        let share =
            u32::from(random.next().unwrap_or_default()) * 256 + u32::from(random.next().unwrap_or_default());
        thread::sleep(usual * share / 65_536);
        // It may have ended by itself.
        let _ = child.kill();
        let output = child.wait_with_output().expect("ends");
        assert_not_failed(&output);
        hit += u32::from(output.status.signal().is_some());
        if number % 8 == 7 || number + 1 == kills {
            check(directory.path(), &format!("kill {number}, PALAN_CRASH_SEED={seed}"));
        }
    }
    println!("{hit} of {kills} met it at work, PALAN_CRASH_SEED={seed}");
}
