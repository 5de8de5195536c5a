//! From rules to a classic BPF program.
//!
//! The program looks at the architecture, then searches the number in a balanced tree of ranges with the same answer
//! (some 100 of them for a usual profile, so seven comparisons), and where arguments matter goes through the rules of
//! that call in their order, the default last.
//! All jumps go forward and every part ends in a return, so parts can be put together at any place.

use palan_linux::seccomp::{Instruction, MAX_INSTRUCTIONS};
use palan_oci::runtime_spec::Seccomp;

use super::rules::{Call, Calls, Comparison, Condition, Conditional, ERRNO, KILL_PROCESS, Rules};
use super::{Architecture, Program, SeccompError};

// Operations of classic BPF, from linux/bpf_common.h.
pub(super) const LOAD: u16 = 0x20;
pub(super) const AND: u16 = 0x54;
pub(super) const JUMP: u16 = 0x05;
pub(super) const JUMP_EQUAL: u16 = 0x15;
pub(super) const JUMP_GREATER: u16 = 0x25;
pub(super) const JUMP_GREATER_EQUAL: u16 = 0x35;
pub(super) const RETURN: u16 = 0x06;

// Places in struct seccomp_data.
pub(super) const NUMBER: u32 = 0;
pub(super) const ARCHITECTURE: u32 = 4;
pub(super) const ARGUMENTS: u32 = 16;

const ENOSYS: u32 = 38;

pub(super) const X32_BIT: u32 = 0x4000_0000;

/// What a tracer sets as number to skip a call.
pub(super) const NO_CALL: u32 = u32::MAX;

type Code = Vec<Instruction>;

const fn op(code: u16, k: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k }
}

pub(super) fn compile(profile: &Seccomp) -> Result<Program, SeccompError> {
    let rules = Rules::new(profile)?;
    let tree_of = |architecture| {
        let known = rules.architectures.contains(&architecture);
        known.then(|| tree(&rules, architecture, &rules.calls(architecture)))
    };
    // An architecture that the profile does not name can't be judged.
    let mut code = vec![op(RETURN, KILL_PROCESS)];
    for architecture in [Architecture::Aarch64, Architecture::Arm, Architecture::X86] {
        if let Some(tree) = tree_of(architecture) {
            code = on_architecture(architecture, tree, code);
        }
    }
    if let Some(tree) = tree_of(Architecture::X86_64) {
        // x32 has the same architecture code; a bit in the number tells them apart.
        let x32 = match tree_of(Architecture::X32) {
            Some(mut x32) => {
                x32.insert(0, op(AND, !X32_BIT));
                x32
            }
            None => {
                let skipped = vec![op(RETURN, rules.default)];
                choose(JUMP_EQUAL, NO_CALL, skipped, vec![op(RETURN, KILL_PROCESS)])
            }
        };
        let both = choose(JUMP_GREATER_EQUAL, X32_BIT, x32, tree);
        code = on_architecture(Architecture::X86_64, both, code);
    }
    code.insert(0, op(LOAD, ARCHITECTURE));
    if code.len() > MAX_INSTRUCTIONS {
        return Err(SeccompError::TooLarge(code.len()));
    }
    Ok(Program { instructions: code, flags: rules.flags, agent: rules.agent })
}

fn on_architecture(architecture: Architecture, mut block: Code, otherwise: Code) -> Code {
    block.insert(0, op(LOAD, NUMBER));
    choose(JUMP_EQUAL, architecture.audit(), block, otherwise)
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

/// Decides about the number in the accumulator.
fn tree(rules: &Rules<'_>, architecture: Architecture, calls: &Calls) -> Code {
    // Ranges by their first number; a call with conditions is a range of its own.
    let mut ranges: Vec<(u32, Code)> = Vec::new();
    let mut add = |first: u32, code: Code| {
        if ranges.last().is_none_or(|(_, last)| last.len() > 1 || *last != code) {
            ranges.push((first, code));
        }
    };
    let default = || vec![op(RETURN, rules.default)];
    let mut next = 0;
    for (number, call) in &calls.by_number {
        if *number > next {
            add(next, default());
        }
        add(*number, answer(call, rules.default, architecture.is_wide()));
        next = number + 1;
    }
    add(next, default());
    // A call that is newer than the profile: to programs that probe for it, the kernel has not got it. A profile that
    // knows no call, or only the very first, says nothing about its age; so does runc.
    let newest = calls.newest.filter(|newest| *newest > 0 || architecture == Architecture::X32);
    if let Some(newest) = newest.filter(|_| rules.hides_newer()) {
        ranges.retain(|(first, _)| *first <= newest);
        ranges.push((newest + 1, vec![op(RETURN, ERRNO | ENOSYS)]));
    }
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

fn answer(call: &Call, default: u32, wide: bool) -> Code {
    match call {
        Call::Always(answer) => vec![op(RETURN, *answer)],
        Call::Depending(rules) => {
            let mut code: Code = rules.iter().flat_map(|rule| conditional(rule, wide)).collect();
            code.push(op(RETURN, default));
            code
        }
    }
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

/// Instructions for one condition. A wide one looks at both halves of the argument, in little endian order.
fn comparison(condition: &Condition, wide: bool) -> Vec<Step> {
    use To::{Fails, Holds, Next};
    let place = ARGUMENTS + condition.argument * 8;
    let halves = |value: u64| {
        let low = u32::try_from(value & 0xffff_ffff).unwrap_or(0);
        let high = u32::try_from(value >> 32).unwrap_or(0);
        (high, low)
    };
    let (high, low) = halves(condition.value);
    let (high_mask, low_mask) = halves(condition.mask);
    let mut steps = Vec::new();
    let load = |steps: &mut Vec<Step>, place, mask| {
        steps.push((LOAD, place, Next, Next));
        if mask != u32::MAX {
            steps.push((AND, mask, Next, Next));
        }
    };
    if wide && high_mask != 0 {
        load(&mut steps, place + 4, high_mask);
        match condition.comparison {
            Comparison::Equal => steps.push((JUMP_EQUAL, high, Next, Fails)),
            Comparison::NotEqual => steps.push((JUMP_EQUAL, high, Next, Holds)),
            Comparison::Greater | Comparison::GreaterOrEqual => {
                steps.extend([(JUMP_GREATER, high, Holds, Next), (JUMP_EQUAL, high, Next, Fails)]);
            }
            Comparison::Less | Comparison::LessOrEqual => {
                steps.extend([(JUMP_GREATER, high, Fails, Next), (JUMP_EQUAL, high, Next, Holds)]);
            }
        }
    }
    if low_mask != 0 {
        load(&mut steps, place, low_mask);
        steps.push(match condition.comparison {
            Comparison::Equal => (JUMP_EQUAL, low, Next, Fails),
            Comparison::NotEqual => (JUMP_EQUAL, low, Fails, Next),
            Comparison::Greater => (JUMP_GREATER, low, Next, Fails),
            Comparison::GreaterOrEqual => (JUMP_GREATER_EQUAL, low, Next, Fails),
            Comparison::Less => (JUMP_GREATER_EQUAL, low, Fails, Next),
            Comparison::LessOrEqual => (JUMP_GREATER, low, Fails, Next),
        });
    }
    steps
}

/// Returns the rule's answer if all its conditions hold, else goes on behind it.
fn conditional(rule: &Conditional, wide: bool) -> Code {
    let comparisons: Vec<_> = rule.conditions.iter().map(|condition| comparison(condition, wide)).collect();
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
