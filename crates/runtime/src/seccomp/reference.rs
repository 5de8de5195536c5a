//! Two witnesses for tests and fuzz targets: the kernel's side, which runs a filter, and a reading of the profile rule
//! by rule, without any filter.

use palan_linux::seccomp::Instruction;
use palan_oci::runtime_spec::Seccomp;

use super::compile::{
    AND, ARCHITECTURE, ARGUMENTS, JUMP, JUMP_EQUAL, JUMP_GREATER, JUMP_GREATER_EQUAL, LOAD, NO_CALL, NUMBER,
    RETURN, X32_BIT,
};
use super::rules::{Comparison, Condition, ERRNO, KILL_PROCESS, Rules};
use super::{Architecture, Program, multiplexer, table};

/// A system call as a filter sees it (`struct seccomp_data`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Data {
    pub(super) number: u32,
    pub(super) architecture: u32,
    pub(super) arguments: [u64; 6],
}

/// Runs a filter as the kernel would.
pub(super) fn run(program: &Program, data: &Data) -> u32 {
    let word = |offset: u32| match offset {
        NUMBER => data.number,
        ARCHITECTURE => data.architecture,
        8 | 12 => 0,
        _ => {
            let index = (offset - ARGUMENTS) as usize;
            let value = data.arguments[index / 8];
            let half = if index.is_multiple_of(8) { value & 0xffff_ffff } else { value >> 32 };
            u32::try_from(half).unwrap_or(0)
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

/// What the profile says about a call. `None` if it is not valid.
pub(super) fn answer(profile: &Seccomp, data: &Data) -> Option<u32> {
    let rules = Rules::new(profile).ok()?;
    let default = rules.default;
    let x32 = data.architecture == Architecture::X32.audit() && data.number >= X32_BIT;
    let named = rules.architectures.iter().find(|architecture| {
        architecture.audit() == data.architecture && (**architecture == Architecture::X32) == x32
    });
    let Some(architecture) = named else {
        return Some(if x32 && data.number == NO_CALL { default } else { KILL_PROCESS });
    };
    let number = if x32 { data.number & !X32_BIT } else { data.number };
    let mut newest = None;
    let mut always = None;
    let mut holding: Vec<(Vec<_>, u32)> = Vec::new();
    for rule in &rules.rules {
        let answer = rule.answer;
        for name in rule.names {
            let own = table::numbers(name).and_then(|row| row[*architecture as usize]);
            newest = newest.max(own);
            if *architecture == Architecture::X86 {
                newest = newest.max(multiplexer::of(name).map(|(way, _)| way));
            }
            if answer == default {
                continue;
            }
            let multiplexed =
                multiplexer::of(name).filter(|(way, _)| *architecture == Architecture::X86 && *way == number);
            if let Some((_, selector)) = multiplexed {
                let sees = rule.conditions.is_empty() || !Rules::lets_through(answer);
                if sees && holds(&selector, data, *architecture) {
                    holding.push((vec![selector.narrowness()], answer));
                }
            }
            if own != Some(number) {
                continue;
            }
            for conditions in rule.alternatives(*architecture) {
                if conditions.is_empty() {
                    always = always.or(Some(answer));
                } else if conditions.iter().all(|condition| holds(condition, data, *architecture)) {
                    holding.push((conditions.iter().map(Condition::narrowness).collect(), answer));
                }
            }
        }
    }
    let narrowest = holding.iter().enumerate().min_by_key(|(place, (key, _))| (key, *place));
    let narrowest = narrowest.map(|(_, (_, answer))| *answer);
    let is_newer = newest.is_some_and(|newest| number > newest && (newest > 0 || x32));
    let unspoken = if is_newer && rules.hides_newer() { ERRNO | 38 } else { default };
    Some(always.or(narrowest).unwrap_or(unspoken))
}

fn holds(condition: &Condition, data: &Data, architecture: Architecture) -> bool {
    let mask = if architecture.is_wide() { condition.mask } else { condition.mask & 0xffff_ffff };
    let value = data.arguments[condition.argument as usize] & mask;
    match condition.comparison {
        Comparison::Equal => value == condition.value,
        Comparison::NotEqual => value != condition.value,
        Comparison::Less => value < condition.value,
        Comparison::LessOrEqual => value <= condition.value,
        Comparison::Greater => value > condition.value,
        Comparison::GreaterOrEqual => value >= condition.value,
    }
}

/// Compares the filter of a profile with the profile itself, at the places that it speaks of and beside them. `seeds`
/// choose the arguments.
pub(super) fn check(profile: &Seccomp, seeds: &[u64]) {
    let Ok(program) = Program::compile(profile) else { return };
    let Ok(rules) = Rules::new(profile) else { return };
    let values: Vec<u64> = profile
        .syscalls
        .iter()
        .flat_map(|rule| &rule.args)
        .flat_map(|argument| [argument.value, argument.value_two])
        .flat_map(|value| [value, value.wrapping_add(1), value.wrapping_sub(1), value ^ (1 << 32)])
        .chain([0, u64::MAX])
        .collect();
    let mut numbers = vec![0, 1, 2000, NO_CALL, X32_BIT];
    for architecture in &rules.architectures {
        let calls = rules.calls(*architecture);
        numbers.extend(calls.by_number.keys().flat_map(|number| [*number, number + 1, number | X32_BIT]));
    }
    numbers.truncate(4096);
    for seed in seeds {
        let mut state = *seed;
        for number in &numbers {
            for architecture in [0xc000_003e, 0x4000_0003, 0xc000_00b7, 0x4000_0028, 0] {
                let arguments = std::array::from_fn(|_| {
                    state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                    let index = usize::try_from(state >> 33).unwrap_or(0) % (values.len() + 1);
                    let value = values.get(index).copied().unwrap_or(state);
                    // Registers of 32 bits are all that i386 and ARM have.
                    if architecture < 0x8000_0000 { value & 0xffff_ffff } else { value }
                });
                let data = Data { number: *number, architecture, arguments };
                let expected = answer(profile, &data);
                assert_eq!(Some(run(&program, &data)), expected, "{data:x?} of {profile:?}");
            }
        }
    }
}
