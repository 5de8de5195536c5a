//! From rules to a classic BPF program.
//!
//! The program looks at the architecture, then searches the number in a balanced tree of ranges with the same answer
//! (some 100 of them for a usual profile, so seven comparisons), and where arguments matter goes through the rules of
//! that call in their order: rules with conditions first, then one without, then the default.
//! All jumps go forward and every part ends in a return, so parts can be put together at any place.

use std::collections::BTreeMap;

use palan_linux::seccomp::{Instruction, LoadFlags, MAX_INSTRUCTIONS};
use palan_oci::runtime_spec::{Seccomp, SeccompArg};

use super::{Architecture, Program, SeccompError, table};

// Operations of classic BPF, from linux/bpf_common.h.
const LOAD: u16 = 0x20;
const AND: u16 = 0x54;
const JUMP: u16 = 0x05;
const JUMP_EQUAL: u16 = 0x15;
const JUMP_GREATER: u16 = 0x25;
const JUMP_GREATER_EQUAL: u16 = 0x35;
const RETURN: u16 = 0x06;

// Places in struct seccomp_data.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

// What a filter returns, from linux/seccomp.h.
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const ACTION_MASK: u32 = 0xffff_0000;

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

const X32_BIT: u32 = 0x4000_0000;

// AUDIT_ARCH_*, from linux/audit.h.
const AUDIT_X86_64: u32 = 0xc000_003e;
const AUDIT_I386: u32 = 0x4000_0003;
const AUDIT_AARCH64: u32 = 0xc000_00b7;

type Code = Vec<Instruction>;

const fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

pub(super) fn compile(rules: &Seccomp) -> Result<Program, SeccompError> {
    let default = action(&rules.default_action, rules.default_errno_ret)?;
    let architectures = architectures(rules)?;
    let mut flags = flags(rules)?;
    let has = |architecture| architectures.contains(&architecture);
    let calls: Vec<_> = architectures
        .iter()
        .map(|architecture| Ok((*architecture, rules_by_number(rules, *architecture)?)))
        .collect::<Result<_, SeccompError>>()?;
    let tree_of = |architecture| {
        let found = calls.iter().find(|(known, _)| *known == architecture);
        found.map_or_else(|| vec![op(RETURN, default)], |(_, calls)| tree(calls, default))
    };
    flags.new_listener |= rules.syscalls.iter().any(|rule| rule.action == "SCMP_ACT_NOTIFY");

    // An architecture that the profile does not name can't be judged.
    let mut code = vec![op(RETURN, KILL_PROCESS)];
    if has(Architecture::Aarch64) {
        code = on_architecture(AUDIT_AARCH64, tree_of(Architecture::Aarch64), code);
    }
    if has(Architecture::X86) {
        code = on_architecture(AUDIT_I386, tree_of(Architecture::X86), code);
    }
    if has(Architecture::X86_64) || has(Architecture::X32) {
        // Both have one architecture code; a bit in the number tells them apart. -1, which a tracer sets to skip a
        // call, is no x32 number, and any answer to it does.
        let mut x32 = tree_of(Architecture::X32);
        x32.insert(0, op(AND, !X32_BIT));
        let both = choose(JUMP_GREATER_EQUAL, X32_BIT, x32, tree_of(Architecture::X86_64));
        code = on_architecture(AUDIT_X86_64, both, code);
    }
    code.insert(0, op(LOAD, ARCHITECTURE));
    if code.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLarge(code.len()));
    }
    Ok(Program { instructions: code, flags })
}

fn on_architecture(audit: u32, mut block: Code, otherwise: Code) -> Code {
    block.insert(0, op(LOAD, NUMBER));
    choose(JUMP_EQUAL, audit, block, otherwise)
}

/// `yes` if the accumulator compares with `k`, else `no`.
fn choose(code: u16, k: u32, yes: Code, no: Code) -> Code {
    let mut result = Vec::with_capacity(yes.len() + no.len() + 2);
    match u8::try_from(no.len()) {
        Ok(length) => result.push(Instruction { code, jt: length, jf: 0, k }),
        Err(_) => {
            // Too far for the eight bits of a conditional jump. A program that is too long as a whole is refused in
            // the end.
            let length = u32::try_from(no.len()).unwrap_or(u32::MAX);
            result.push(Instruction { code, jt: 0, jf: 1, k });
            result.push(op(JUMP, length));
        }
    }
    result.extend(no);
    result.extend(yes);
    result
}

fn action(name: &str, errno: Option<u32>) -> Result<u32, SeccompError> {
    let data = |fallback: u32| {
        let value = errno.unwrap_or(fallback);
        if value > 0xfff {
            return Err(SeccompError::Invalid(format!("errnoRet {value} is out of range")));
        }
        Ok(value)
    };
    if errno.is_some() && !matches!(name, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") {
        return Err(SeccompError::Invalid(format!("action {name} has no errnoRet")));
    }
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | data(EPERM)?,
        "SCMP_ACT_TRACE" => TRACE | data(EPERM)?,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        other => return Err(SeccompError::Invalid(format!("unknown action {other:?}"))),
    })
}

fn flags(rules: &Seccomp) -> Result<LoadFlags, SeccompError> {
    let mut flags = LoadFlags::default();
    for flag in &rules.flags {
        match flag.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => flags.log = true,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => flags.speculation_allowed = true,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => flags.wait_killable = true,
            // About other threads: the loading process has none.
            "SECCOMP_FILTER_FLAG_TSYNC" => {}
            other => return Err(SeccompError::Invalid(format!("unknown flag {other:?}"))),
        }
    }
    Ok(flags)
}

/// The profile's architectures that processes of this host can have; the native one always.
fn architectures(rules: &Seccomp) -> Result<Vec<Architecture>, SeccompError> {
    for name in &rules.architectures {
        if !name.starts_with("SCMP_ARCH_") {
            return Err(SeccompError::Invalid(format!("unknown architecture {name:?}")));
        }
    }
    let named = |architecture: &Architecture| {
        *architecture == Architecture::NATIVE
            || rules.architectures.iter().any(|name| name == architecture.name())
    };
    Ok(Architecture::of_host().filter(named).collect())
}

/// What a call with certain arguments gets.
#[derive(Debug, Clone, PartialEq)]
struct Conditional {
    arguments: Vec<SeccompArg>,
    answer: u32,
}

/// The rules of one call.
#[derive(Debug, Clone, Default, PartialEq)]
struct Call {
    conditional: Vec<Conditional>,
    unconditional: Option<u32>,
}

fn rules_by_number(rules: &Seccomp, architecture: Architecture) -> Result<BTreeMap<u32, Call>, SeccompError> {
    let mut calls: BTreeMap<u32, Call> = BTreeMap::new();
    for rule in &rules.syscalls {
        let answer = action(&rule.action, rule.errno_ret)?;
        for argument in &rule.args {
            check_argument(argument)?;
        }
        for name in &rule.names {
            // A name that this architecture or this table does not have can't be called by it either.
            let Some(number) = table::numbers(name).and_then(|row| row[architecture as usize]) else {
                continue;
            };
            let call = calls.entry(number).or_default();
            if rule.args.is_empty() {
                call.unconditional.get_or_insert(answer);
                continue;
            }
            // Conditions on different arguments must all hold. Several on the same one could never: there each is a
            // rule of its own, as runc does it.
            let mut indexes: Vec<_> = rule.args.iter().map(|argument| argument.index).collect();
            indexes.sort_unstable();
            if indexes.windows(2).any(|pair| pair[0] == pair[1]) {
                let single = rule.args.iter().map(|argument| vec![argument.clone()]);
                call.conditional.extend(single.map(|arguments| Conditional { arguments, answer }));
            } else {
                call.conditional.push(Conditional { arguments: rule.args.clone(), answer });
            }
        }
    }
    Ok(calls)
}

fn check_argument(argument: &SeccompArg) -> Result<(), SeccompError> {
    if argument.index > 5 {
        return Err(SeccompError::Invalid(format!("a call has no argument number {}", argument.index)));
    }
    if comparison(argument, 0).is_none() {
        return Err(SeccompError::Invalid(format!("unknown operator {:?}", argument.op)));
    }
    Ok(())
}

/// Decides about the number in the accumulator.
fn tree(calls: &BTreeMap<u32, Call>, default: u32) -> Code {
    // Ranges by their first number; a call with conditions is a range of its own.
    let mut ranges: Vec<(u32, Code)> = Vec::new();
    let mut add = |first: u32, code: Code| {
        if ranges.last().is_none_or(|(_, last)| last.len() > 1 || *last != code) {
            ranges.push((first, code));
        }
    };
    let mut next = 0;
    for (number, call) in calls {
        if *number > next {
            add(next, vec![op(RETURN, default)]);
        }
        add(*number, answer(call, default));
        next = number + 1;
    }
    // A call that is newer than the profile: to programs that probe for it, the kernel has not got it.
    let newer = if default & ACTION_MASK == ERRNO { ERRNO | ENOSYS } else { default };
    add(next, vec![op(RETURN, newer)]);
    search(&ranges)
}

fn search(ranges: &[(u32, Code)]) -> Code {
    match ranges {
        [] => Vec::new(),
        [(_, code)] => code.clone(),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            choose(JUMP_GREATER_EQUAL, high[0].0, search(high), search(low))
        }
    }
}

fn answer(call: &Call, default: u32) -> Code {
    let mut code = Code::new();
    for rule in &call.conditional {
        code.extend(conditional(rule));
    }
    code.push(op(RETURN, call.unconditional.unwrap_or(default)));
    code
}

/// Where a jump of a comparison goes.
#[derive(Debug, Clone, Copy, PartialEq)]
enum To {
    /// The next instruction.
    Next,
    /// The end of this comparison: it holds.
    Holds,
    /// The end of the rule: it does not apply.
    Fails,
}

type Step = (u16, u32, To, To);

/// Instructions for one condition on the half of an argument that `ARGUMENTS` and the little endian order give.
fn comparison(argument: &SeccompArg, index: u32) -> Option<Vec<Step>> {
    use To::{Fails, Holds, Next};
    let place = ARGUMENTS + index * 8;
    let halves = |value: u64| {
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let high = u32::try_from(value >> 32).unwrap_or(0);
        (high, low)
    };
    let (high, low) = halves(argument.value);
    let load_high: Step = (LOAD, place + 4, Next, Next);
    let load_low: Step = (LOAD, place, Next, Next);
    Some(match argument.op.as_str() {
        "SCMP_CMP_EQ" => {
            vec![load_high, (JUMP_EQUAL, high, Next, Fails), load_low, (JUMP_EQUAL, low, Next, Fails)]
        }
        "SCMP_CMP_NE" => {
            vec![load_high, (JUMP_EQUAL, high, Next, Holds), load_low, (JUMP_EQUAL, low, Fails, Next)]
        }
        "SCMP_CMP_GT" | "SCMP_CMP_GE" => {
            let last = if argument.op == "SCMP_CMP_GT" { JUMP_GREATER } else { JUMP_GREATER_EQUAL };
            vec![
                load_high,
                (JUMP_GREATER, high, Holds, Next),
                (JUMP_EQUAL, high, Next, Fails),
                load_low,
                (last, low, Next, Fails),
            ]
        }
        "SCMP_CMP_LT" | "SCMP_CMP_LE" => {
            let last = if argument.op == "SCMP_CMP_LT" { JUMP_GREATER_EQUAL } else { JUMP_GREATER };
            vec![
                load_high,
                (JUMP_GREATER, high, Fails, Next),
                (JUMP_EQUAL, high, Next, Holds),
                load_low,
                (last, low, Fails, Next),
            ]
        }
        "SCMP_CMP_MASKED_EQ" => {
            // `value` is the mask, `valueTwo` what must remain.
            let (wanted_high, wanted_low) = halves(argument.value_two);
            vec![
                load_high,
                (AND, high, Next, Next),
                (JUMP_EQUAL, wanted_high, Next, Fails),
                load_low,
                (AND, low, Next, Next),
                (JUMP_EQUAL, wanted_low, Next, Fails),
            ]
        }
        _ => return None,
    })
}

/// Returns the rule's answer if all its conditions hold, else goes on behind it.
fn conditional(rule: &Conditional) -> Code {
    let comparisons: Vec<_> =
        rule.arguments.iter().filter_map(|argument| comparison(argument, argument.index)).collect();
    let total: usize = comparisons.iter().map(Vec::len).sum();
    let mut code = Code::new();
    for steps in comparisons {
        let end = code.len() + steps.len();
        for (name, k, yes, no) in steps {
            let here = code.len() + 1;
            // At most six conditions of six instructions: every distance fits.
            let distance = |to: To| {
                let target = match to {
                    To::Next => here,
                    To::Holds => end,
                    To::Fails => total + 1,
                };
                u8::try_from(target - here).unwrap_or(u8::MAX)
            };
            code.push(Instruction { code: name, jt: distance(yes), jf: distance(no), k });
        }
    }
    code.push(op(RETURN, rule.answer));
    code
}

#[cfg(test)]
pub(super) mod interpreter {
    //! Runs a filter as the kernel would.

    use super::*;

    pub(in super::super) struct Data {
        pub(in super::super) number: u32,
        pub(in super::super) architecture: u32,
        pub(in super::super) arguments: [u64; 6],
    }

    pub(in super::super) fn run(program: &Program, data: &Data) -> u32 {
        let word = |offset: u32| match offset {
            NUMBER => data.number,
            ARCHITECTURE => data.architecture,
            8 | 12 => 0,
            _ => {
                let index = (offset - ARGUMENTS) as usize;
                let value = data.arguments[index / 8];
                let half = if index.is_multiple_of(8) { value & 0xffff_ffff } else { value >> 32 };
                u32::try_from(half).unwrap()
            }
        };
        let (mut accumulator, mut at) = (0, 0);
        loop {
            let Instruction { code, jt, jf, k } = program.instructions[at];
            at += 1;
            let mut branch = |holds: bool| at += usize::from(if holds { jt } else { jf });
            match code {
                LOAD => accumulator = word(k),
                AND => accumulator &= k,
                JUMP => at += k as usize,
                JUMP_EQUAL => branch(accumulator == k),
                JUMP_GREATER => branch(accumulator > k),
                JUMP_GREATER_EQUAL => branch(accumulator >= k),
                RETURN => return k,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }
}
