//! libseccomp, which every other runtime compiles profiles with, as the witness: both filters answer alike.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use palan_test_support::requires;

use super::super::rules::Rules;
use super::*;

const AARCH64: u32 = 0xc000_00b7;
const ARM: u32 = 0x4000_0028;

const HEADER: &str = "/usr/include/seccomp.h";

/// The helper program, running.
struct Libseccomp {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _directory: tempfile::TempDir,
}

impl Libseccomp {
    /// Whether it can be had here.
    fn is_installed() -> bool {
        std::path::Path::new(HEADER).exists() && palan_test_support::skip::has_program("cc")
    }

    #[allow(clippy::disallowed_methods, reason = "test code; the oracle is a program of its own")]
    fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("oracle");
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/src/seccomp/tests/libseccomp.c");
        let compiled =
            Command::new("cc").args(["-O1", "-o"]).arg(&program).args([source, "-lseccomp"]).status();
        assert!(compiled.unwrap().success(), "the helper can't be compiled");
        let mut child = Command::new(program).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (input, output) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Self { child, input, output: BufReader::new(output), _directory: directory }
    }

    fn say(&mut self, line: &str) {
        self.input.write_all(line.as_bytes()).unwrap();
        self.input.write_all(b"\n").unwrap();
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim().to_owned()
    }

    fn number(&mut self, architecture: Architecture, name: &str) -> Option<u32> {
        self.say(&format!("number {} {name}", short(architecture)));
        self.line().parse().ok()
    }

    /// What it makes of a profile; an error number if it refuses.
    fn compile(&mut self, profile: &Seccomp) -> Result<Program, i32> {
        let rules = Rules::new(profile).unwrap();
        let names: Vec<_> = rules.architectures.iter().map(|one| short(*one)).collect();
        self.say(&format!("profile {} {} {}", rules.default, names.len(), names.join(" ")));
        for (rule, checked) in profile.syscalls.iter().zip(&rules.rules) {
            let answer = checked.answer;
            for name in &rule.names {
                let mut indexes: Vec<_> = rule.args.iter().map(|argument| argument.index).collect();
                indexes.sort_unstable();
                let doubled = indexes.windows(2).any(|pair| pair[0] == pair[1]);
                let sets: Vec<&[SeccompArg]> =
                    if doubled { rule.args.chunks(1).collect() } else { vec![&rule.args] };
                for set in sets {
                    let words: Vec<_> = set.iter().map(words).collect();
                    self.say(&format!("rule {answer} {name} {} {}", set.len(), words.join(" ")));
                }
            }
        }
        self.say("export");
        let count: i32 = self.line().parse().unwrap();
        if count < 0 {
            return Err(count);
        }
        let instructions = (0..count).map(|_| {
            let line = self.line();
            let numbers: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            Instruction {
                code: numbers[0].try_into().unwrap(),
                jt: numbers[1].try_into().unwrap(),
                jf: numbers[2].try_into().unwrap(),
                k: numbers[3],
            }
        });
        Ok(Program { instructions: instructions.collect(), flags: LoadFlags::default(), agent: None })
    }
}

impl Drop for Libseccomp {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// libseccomp's name.
fn short(architecture: Architecture) -> &'static str {
    match architecture {
        Architecture::X86_64 => "x86_64",
        Architecture::X86 => "x86",
        Architecture::X32 => "x32",
        Architecture::Aarch64 => "aarch64",
        Architecture::Arm => "arm",
    }
}

fn words(argument: &SeccompArg) -> String {
    let operators = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];
    let name = argument.op.trim_start_matches("SCMP_CMP_");
    let operator = operators.iter().position(|known| *known == name).unwrap() + 1;
    format!("{} {operator} {} {}", argument.index, argument.value, argument.value_two)
}

/// A generator with a seed (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        value ^ (value >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }

    fn one_in(&mut self, count: usize) -> bool {
        self.below(count) == 0
    }
}

/// The first ones can be a default, too.
const ACTIONS: [(&str, Option<u32>); 11] = [
    ("SCMP_ACT_ALLOW", None),
    ("SCMP_ACT_ERRNO", None),
    ("SCMP_ACT_ERRNO", Some(38)),
    ("SCMP_ACT_ERRNO", Some(97)),
    ("SCMP_ACT_KILL", None),
    ("SCMP_ACT_KILL_PROCESS", None),
    ("SCMP_ACT_TRAP", None),
    ("SCMP_ACT_TRACE", Some(7)),
    ("SCMP_ACT_LOG", None),
    ("SCMP_ACT_KILL_THREAD", None),
    ("SCMP_ACT_NOTIFY", None),
];
const DEFAULT_ACTIONS: usize = 10;

/// An action for a rule about `name`; nobody can be asked about `write`.
fn action(random: &mut Random, name: &str) -> (&'static str, Option<u32>) {
    let count = if name == "write" { DEFAULT_ACTIONS } else { ACTIONS.len() };
    ACTIONS[random.below(count)]
}

const OPERATORS: [&str; 7] = ["NE", "LT", "LE", "EQ", "GE", "GT", "MASKED_EQ"];

/// Where comparisons of halves go wrong, if they do.
const VALUES: [u64; 16] = [
    0,
    1,
    2,
    5,
    38,
    40,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fffe,
    0xffff_ffff,
    0x1_0000_0000,
    0x1_0000_0001,
    0x5_0000_0005,
    0xffff_ffff_0000_0000,
    0xffff_ffff_ffff_fffe,
    0xffff_ffff_ffff_ffff,
];

fn argument(random: &mut Random, index: u32) -> SeccompArg {
    SeccompArg {
        index,
        value: *random.pick(&VALUES),
        value_two: *random.pick(&VALUES),
        op: format!("SCMP_CMP_{}", random.pick(&OPERATORS)),
    }
}

/// Rules with conditions for one call.
fn conditional(random: &mut Random, name: &str) -> Vec<SeccompSyscall> {
    let rule = |random: &mut Random, args| {
        let (action, errno_ret) = action(random, name);
        SeccompSyscall { names: vec![name.into()], action: action.into(), errno_ret, args }
    };
    if random.one_in(2) {
        // One rule: all of its conditions.
        let mut indexes = vec![0, 1, 2, 3, 4, 5];
        let args = (0..1 + random.below(3))
            .map(|_| {
                let index = indexes.remove(random.below(indexes.len()));
                argument(random, index)
            })
            .collect();
        return vec![rule(random, args)];
    }
    // Values of one argument, an answer for each.
    let index = u32::try_from(random.below(6)).unwrap();
    let mut values = VALUES.to_vec();
    (0..1 + random.below(4))
        .map(|_| {
            let value = values.remove(random.below(values.len()));
            let op = "SCMP_CMP_EQ".to_owned();
            rule(random, vec![SeccompArg { index, value, value_two: 0, op }])
        })
        .collect()
}

/// A profile of a kind that libseccomp gets right. Versions before 2.6.1 make wrong filters of others: where ranges of
/// one argument meet (GHSA-4q85-33p6-j5g6), and of conditions on calls that only some of the architectures have, where
/// they forget to load the number.
fn profile(random: &mut Random, names: &[&str]) -> Seccomp {
    let mut architectures = Vec::new();
    for name in ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32", "SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"] {
        if random.one_in(2) {
            architectures.push(name.to_owned());
        }
    }
    let plain = random.one_in(3);
    let everywhere = |name: &&str| {
        table::numbers(name).is_some_and(|row| row.iter().all(Option::is_some))
            && multiplexer::of(name).is_none()
    };
    let names: Vec<&str> = names.iter().copied().filter(|name| plain || everywhere(name)).collect();
    let mut chosen: Vec<&str> = (0..1 + random.below(12)).map(|_| *random.pick(&names)).collect();
    chosen.sort_unstable();
    chosen.dedup();
    let mut syscalls = Vec::new();
    for name in chosen {
        let kind = random.below(3);
        if kind < 2 && !plain {
            syscalls.extend(conditional(random, name));
        }
        if kind > 0 || plain {
            let (action, errno_ret) = action(random, name);
            let rule =
                SeccompSyscall { names: vec![name.into()], action: action.into(), errno_ret, args: vec![] };
            syscalls.insert(random.below(syscalls.len() + 1), rule);
        }
    }
    let (default_action, default_errno_ret) = ACTIONS[random.below(DEFAULT_ACTIONS)];
    let default_action = default_action.to_owned();
    let notifies = syscalls.iter().any(|rule| rule.action == "SCMP_ACT_NOTIFY");
    let listener_path = if notifies { "/run/agent.sock".to_owned() } else { String::new() };
    Seccomp {
        default_action,
        default_errno_ret,
        architectures,
        syscalls,
        listener_path,
        ..Seccomp::default()
    }
}

/// Compares the filters at many places; returns how many.
fn compare(random: &mut Random, profile: &Seccomp, theirs: &Program, samples: usize) -> usize {
    let ours = Program::compile(profile).unwrap();
    let rules = Rules::new(profile).unwrap();
    let calls: BTreeMap<(u32, u32), _> = rules
        .architectures
        .iter()
        .map(|architecture| {
            let bit = if *architecture == Architecture::X32 { X32_BIT } else { 0 };
            ((architecture.audit(), bit), rules.calls(*architecture))
        })
        .collect();
    let mut values: Vec<u64> = VALUES.to_vec();
    for argument in profile.syscalls.iter().flat_map(|rule| &rule.args) {
        let (value, other) = (argument.value, argument.value_two);
        values.extend([value, value.wrapping_add(1), value.wrapping_sub(1), other, value & other, !value]);
    }
    let numbers: Vec<u32> = calls.values().flat_map(|calls| calls.by_number.keys().copied()).collect();
    for _ in 0..samples {
        let architecture = *random.pick(&[X86_64, X86_64, I386, I386, AARCH64, ARM, 0]);
        let mut number = match random.below(8) {
            0 => u32::try_from(random.below(600)).unwrap(),
            1 => NO_CALL,
            2 => u32::try_from(random.next() >> 32).unwrap(),
            3.. if numbers.is_empty() => 0,
            3..6 => *random.pick(&numbers),
            6 => random.pick(&numbers).wrapping_add(1),
            _ => random.pick(&numbers).wrapping_sub(1),
        };
        if architecture == X86_64 && random.one_in(3) {
            number |= X32_BIT;
        }
        let mut arguments = [0; 6];
        for argument in &mut arguments {
            *argument = if random.one_in(8) { random.next() } else { *random.pick(&values) };
            if [I386, ARM].contains(&architecture) {
                // So the kernel has it.
                *argument &= 0xffff_ffff;
            }
        }
        if architecture == I386 && [102, 117].contains(&number) {
            arguments[0] = u64::try_from(random.below(26)).unwrap();
        }
        let data = Data { number, architecture, arguments };
        let mut expected = run(theirs, &data);
        let bit = if architecture == X86_64 && number >= X32_BIT { X32_BIT } else { 0 };
        match calls.get(&(architecture, bit)) {
            None if bit != 0 && number == NO_CALL => {}
            // Stricter than theirs: the whole process.
            None => expected = KILL_PROCESS,
            Some(calls) => {
                // Stands before the filter, at runc's.
                let limit = calls.newest.filter(|newest| *newest > 0 || bit != 0);
                if rules.hides_newer() && limit.is_some_and(|limit| (number & !bit) > limit) {
                    expected = ERRNO | 38;
                }
                let multiplexed = architecture == I386 && [102, 117].contains(&number);
                if multiplexed && has_conditions_behind_a_pointer(profile) {
                    continue;
                }
            }
        }
        assert_eq!(
            run(&ours, &data),
            expected,
            "{architecture:#x} {number:#x} {arguments:x?} of {}",
            serde_json::to_string(profile).unwrap()
        );
    }
    samples
}

/// What ours is careful about, and theirs is not.
fn has_conditions_behind_a_pointer(profile: &Seccomp) -> bool {
    let by_pointer = |rule: &&SeccompSyscall| rule.names.iter().any(|name| multiplexer::of(name).is_some());
    profile.syscalls.iter().filter(by_pointer).any(|rule| !rule.args.is_empty())
}

/// Names with the same numbers in the installed libseccomp, which may be older than our table.
fn known(libseccomp: &mut Libseccomp) -> Vec<&'static str> {
    let mut known = Vec::new();
    for (name, numbers) in table::all() {
        let mut same = true;
        for architecture in [
            Architecture::X86_64,
            Architecture::X86,
            Architecture::X32,
            Architecture::Aarch64,
            Architecture::Arm,
        ] {
            if architecture == Architecture::X86 && multiplexer::of(name).is_some() {
                // It tells the multiplexer's number.
                continue;
            }
            let ours = numbers[architecture as usize].map(|number| match architecture {
                Architecture::X32 => number | X32_BIT,
                _ => number,
            });
            let theirs = libseccomp.number(architecture, name);
            assert!(theirs.is_none() || ours == theirs, "{name} on {architecture:?}: {ours:?}, {theirs:?}");
            same &= ours == theirs;
        }
        if same {
            known.push(name);
        }
    }
    known
}

#[test]
fn libseccomp_answers_alike() {
    requires!(Libseccomp::is_installed(), "needs cc and libseccomp-dev");
    let mut libseccomp = Libseccomp::start();
    let names = known(&mut libseccomp);
    assert!(names.len() > 300, "{}", names.len());
    let mut random = Random(2026);
    let (mut compared, mut refused) = (0, 0);
    for _ in 0..1500 {
        let profile = profile(&mut random, &names);
        match libseccomp.compile(&profile) {
            Ok(theirs) => compared += compare(&mut random, &profile, &theirs, 200),
            // Rules that it can't tell apart; ours takes the first.
            Err(_) => refused += 1,
        }
    }
    println!("{compared} answers, {refused} profiles refused by libseccomp");
    assert!(refused < 300);
}

/// As a container of another runtime gets it: libseccomp has to take it whole.
#[test]
fn libseccomp_takes_the_default_profile() {
    requires!(Libseccomp::is_installed(), "needs cc and libseccomp-dev");
    let mut libseccomp = Libseccomp::start();
    let names = known(&mut libseccomp);
    let mut random = Random(2026);
    for capabilities in [CapabilitySet::empty(), CapabilitySet::SYS_ADMIN, CapabilitySet::all()] {
        let mut profile = Profile::builtin().resolve(&conditions(capabilities));
        for rule in &mut profile.syscalls {
            // Newer calls are not known to older versions, nor are the few whose ways have changed.
            rule.names.retain(|name| names.contains(&name.as_str()));
        }
        let theirs = libseccomp.compile(&profile).unwrap();
        compare(&mut random, &profile, &theirs, 50_000);
    }
}
