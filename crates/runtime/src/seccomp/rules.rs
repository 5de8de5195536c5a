//! What a profile says, checked, and the answer of each system call of one architecture.
//!
//! Where a profile is ambiguous the answer is libseccomp's, since that is what every other runtime uses:
//! - a rule without conditions beats all with conditions for the same call, wherever it stands, and the first of
//!   several such rules wins;
//! - a rule whose action is the default one says nothing;
//! - of overlapping rules with different actions the narrower one wins (see [`Condition::narrowness`]);
//! - 32-bit architectures compare the low half of a value.

use std::collections::BTreeMap;

use palan_linux::seccomp::LoadFlags;
use palan_oci::runtime_spec::{Seccomp, SeccompArg, SeccompSyscall};

use super::agent::Agent;
use super::{Architecture, KNOWN_ARCHITECTURES, SeccompError, multiplexer, table};

// What a filter returns, from linux/seccomp.h.
pub(super) const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
pub(super) const ERRNO: u32 = 0x0005_0000;
const NOTIFY: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const ACTION_MASK: u32 = 0xffff_0000;

const EPERM: u32 = 1;

/// Largest error number that a system call can return; the kernel cuts larger ones down to it.
const MAX_ERRNO: u32 = 0xfff;

/// Arguments of a system call.
const MAX_ARGUMENTS: usize = 6;

/// A profile without mistakes.
#[derive(Debug)]
pub(super) struct Rules<'a> {
    /// The answer to calls that no rule is about.
    pub(super) default: u32,
    pub(super) flags: LoadFlags,
    pub(super) agent: Option<Agent>,
    /// Those that processes of this host can have; the native one always.
    pub(super) architectures: Vec<Architecture>,
    pub(super) rules: Vec<Rule<'a>>,
}

/// An entry of `syscalls`.
#[derive(Debug)]
pub(super) struct Rule<'a> {
    pub(super) names: &'a [String],
    pub(super) conditions: Vec<Condition>,
    pub(super) answer: u32,
}

/// The calls of one architecture that the profile speaks of.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) by_number: BTreeMap<u32, Call>,
    /// The highest number among them, rules that say nothing included.
    pub(super) newest: Option<u32>,
}

/// The answer of one call.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Call {
    Always(u32),
    /// That of the first whose conditions all hold, else the default.
    Depending(Vec<Conditional>),
}

/// An answer for certain arguments.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Conditional {
    /// At most one for each argument, in the order of the arguments.
    pub(super) conditions: Vec<Condition>,
    pub(super) answer: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// Compares what `mask` leaves of an argument with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) argument: u32,
    pub(super) comparison: Comparison,
    pub(super) mask: u64,
    pub(super) value: u64,
}

fn invalid(text: impl Into<String>) -> SeccompError {
    SeccompError::Invalid(text.into())
}

/// The answer that `name` stands for. `place`: where in the profile it is.
fn action(name: &str, errno: Option<u32>, place: &str) -> Result<u32, SeccompError> {
    let data = |most: u32| {
        let value = errno.unwrap_or(EPERM);
        if value > most {
            return Err(invalid(format!("{place}: errnoRet {value} is more than {most}")));
        }
        Ok(value)
    };
    if errno.is_some() && !matches!(name, "SCMP_ACT_ERRNO" | "SCMP_ACT_TRACE") {
        return Err(invalid(format!("{place}: action {name} has no errnoRet")));
    }
    Ok(match name {
        "SCMP_ACT_ALLOW" => ALLOW,
        "SCMP_ACT_ERRNO" => ERRNO | data(MAX_ERRNO)?,
        // Here it is a number for the tracer, of any meaning.
        "SCMP_ACT_TRACE" => TRACE | data(!ACTION_MASK)?,
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => KILL_THREAD,
        "SCMP_ACT_KILL_PROCESS" => KILL_PROCESS,
        "SCMP_ACT_TRAP" => TRAP,
        "SCMP_ACT_LOG" => LOG,
        "SCMP_ACT_NOTIFY" => NOTIFY,
        other => return Err(invalid(format!("{place}: unknown action {other:?}"))),
    })
}

/// Without a list, speculation stays as it is, as runc has it; an empty list means no flag at all.
fn flags(list: Option<&[String]>, notifies: bool) -> Result<LoadFlags, SeccompError> {
    let mut flags = LoadFlags { new_listener: notifies, ..LoadFlags::default() };
    let Some(list) = list else { return Ok(LoadFlags { speculation_allowed: true, ..flags }) };
    for flag in list {
        match flag.as_str() {
            "SECCOMP_FILTER_FLAG_LOG" => flags.log = true,
            "SECCOMP_FILTER_FLAG_SPEC_ALLOW" => flags.speculation_allowed = true,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" if notifies => flags.wait_killable = true,
            "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV" => {
                return Err(invalid(format!("flags: {flag} needs a rule with SCMP_ACT_NOTIFY")));
            }
            // About other threads: the loading process has none.
            "SECCOMP_FILTER_FLAG_TSYNC" => {}
            other => return Err(invalid(format!("flags: unknown flag {other:?}"))),
        }
    }
    Ok(flags)
}

/// Architectures of other processors are known and have no processes here, whatever the profile says of them.
/// (libseccomp refuses some of them, those of the other byte order, which serves nobody.)
fn architectures(list: &[String]) -> Result<Vec<Architecture>, SeccompError> {
    if let Some(name) = list.iter().find(|name| !KNOWN_ARCHITECTURES.contains(&name.as_str())) {
        return Err(invalid(format!("architectures: unknown architecture {name:?}")));
    }
    let named = |architecture: &Architecture| {
        *architecture == Architecture::NATIVE || list.iter().any(|name| name == architecture.name())
    };
    Ok(Architecture::of_host().filter(named).collect())
}

impl Condition {
    fn new(argument: &SeccompArg, place: &str) -> Result<Self, SeccompError> {
        if argument.index as usize >= MAX_ARGUMENTS {
            return Err(invalid(format!("{place}.index: a call has no argument number {}", argument.index)));
        }
        let (comparison, mask, value) = match argument.op.as_str() {
            "SCMP_CMP_EQ" => (Comparison::Equal, u64::MAX, argument.value),
            "SCMP_CMP_NE" => (Comparison::NotEqual, u64::MAX, argument.value),
            "SCMP_CMP_LT" => (Comparison::Less, u64::MAX, argument.value),
            "SCMP_CMP_LE" => (Comparison::LessOrEqual, u64::MAX, argument.value),
            "SCMP_CMP_GT" => (Comparison::Greater, u64::MAX, argument.value),
            "SCMP_CMP_GE" => (Comparison::GreaterOrEqual, u64::MAX, argument.value),
            // Bits that the mask hides don't count in either of the two.
            "SCMP_CMP_MASKED_EQ" => (Comparison::Equal, argument.value, argument.value_two & argument.value),
            other => return Err(invalid(format!("{place}.op: unknown operator {other:?}"))),
        };
        Ok(Self { argument: argument.index, comparison, mask, value })
    }

    /// As an architecture with registers of 32 bits sees it.
    fn narrow(self) -> Self {
        const LOW: u64 = 0xffff_ffff;
        let mask = self.mask & LOW;
        Self { mask, value: self.value & mask, ..self }
    }

    /// It holds for every value.
    fn is_void(&self) -> bool {
        self.mask == 0
    }

    /// Sorts conditions as libseccomp does: later arguments first; equality before ranges; the shorter range first.
    pub(super) fn narrowness(&self) -> impl Ord + use<> {
        let (class, value) = match self.comparison {
            Comparison::Equal | Comparison::NotEqual => (0, !self.value),
            Comparison::Less | Comparison::LessOrEqual => (1, self.value),
            Comparison::Greater | Comparison::GreaterOrEqual => (2, !self.value),
        };
        (u32::MAX - self.argument, class, value)
    }
}

impl<'a> Rule<'a> {
    fn new(rule: &'a SeccompSyscall, index: usize) -> Result<Self, SeccompError> {
        let place = format!("syscalls[{index}]");
        if rule.names.iter().any(String::is_empty) {
            return Err(invalid(format!("{place}.names: a system call has no name")));
        }
        let conditions = rule.args.iter().enumerate();
        let conditions = conditions
            .map(|(number, argument)| Condition::new(argument, &format!("{place}.args[{number}]")))
            .collect::<Result<_, _>>()?;
        Ok(Self { names: &rule.names, conditions, answer: action(&rule.action, rule.errno_ret, &place)? })
    }

    /// The alternatives of conditions under which it applies. Conditions on different arguments must all hold. Several
    /// on the same one could never: there each is a rule of its own, as runc does it.
    pub(super) fn alternatives(&self, architecture: Architecture) -> Vec<Vec<Condition>> {
        let narrow = |condition: &Condition| {
            if architecture.is_wide() { *condition } else { condition.narrow() }
        };
        let mut conditions: Vec<Condition> = self.conditions.iter().map(narrow).collect();
        conditions.sort_by_key(|condition| condition.argument);
        let doubled = conditions.windows(2).any(|pair| pair[0].argument == pair[1].argument);
        let sets = if doubled {
            conditions.into_iter().map(|condition| vec![condition]).collect()
        } else {
            vec![conditions]
        };
        let without_void = |set: Vec<Condition>| set.into_iter().filter(|one| !one.is_void()).collect();
        sets.into_iter().map(without_void).collect()
    }
}

impl<'a> Rules<'a> {
    pub(super) fn new(profile: &'a Seccomp) -> Result<Self, SeccompError> {
        let default = action(&profile.default_action, profile.default_errno_ret, "defaultAction")?;
        let rules = profile.syscalls.iter().enumerate();
        let rules =
            rules.map(|(index, rule)| Rule::new(rule, index)).collect::<Result<Vec<_>, SeccompError>>()?;
        if default == NOTIFY {
            return Err(invalid("SCMP_ACT_NOTIFY cannot be used as default action"));
        }
        let notifying = || rules.iter().filter(|rule| rule.answer == NOTIFY);
        // The new process has to tell the listener's number, for which it writes; who should answer it, does not have
        // the listener yet.
        if notifying().any(|rule| rule.names.iter().any(|name| name == "write")) {
            return Err(invalid("SCMP_ACT_NOTIFY cannot be used for the write syscall"));
        }
        let notifies = notifying().any(|rule| !rule.names.is_empty());
        let path = &profile.listener_path;
        if path.is_empty() && notifies {
            return Err(invalid("listenerPath is not set, and SCMP_ACT_NOTIFY needs it"));
        }
        if path.is_empty() && !profile.listener_metadata.is_empty() {
            return Err(invalid("listenerMetadata is set, but listenerPath is not"));
        }
        let agent = notifies.then(|| Agent::new(path, &profile.listener_metadata)).transpose()?;
        Ok(Self {
            default,
            flags: flags(profile.flags.as_deref(), notifies)?,
            agent,
            architectures: architectures(&profile.architectures)?,
            rules,
        })
    }

    /// Whether calls that are newer than the profile get ENOSYS instead of the default answer.
    pub(super) fn hides_newer(&self) -> bool {
        !Self::lets_through(self.default)
    }

    /// Whether calls with this answer happen in some way, so that a program can find out for itself what the kernel
    /// has.
    pub(super) fn lets_through(answer: u32) -> bool {
        matches!(answer & ACTION_MASK, ALLOW | LOG | TRACE)
    }

    pub(super) fn calls(&self, architecture: Architecture) -> Calls {
        let mut calls = Calls::default();
        for rule in &self.rules {
            let alternatives = rule.alternatives(architecture);
            for name in rule.names {
                let number = table::numbers(name).and_then(|row| row[architecture as usize]);
                calls.newest = calls.newest.max(number);
                if architecture == Architecture::X86 {
                    // A call that is only behind a multiplexer is not newer than that.
                    calls.newest = calls.newest.max(multiplexer::of(name).map(|(number, _)| number));
                }
                if rule.answer == self.default {
                    continue;
                }
                if let Some(number) = number {
                    for conditions in &alternatives {
                        calls.add(number, conditions.clone(), rule.answer);
                    }
                }
                if architecture == Architecture::X86 {
                    calls.add_multiplexed(name, rule);
                }
            }
        }
        for call in calls.by_number.values_mut() {
            if let Call::Depending(rules) = call {
                rules.sort_by_cached_key(|rule| {
                    rule.conditions.iter().map(Condition::narrowness).collect::<Vec<_>>()
                });
            }
        }
        calls
    }
}

impl Calls {
    fn add(&mut self, number: u32, conditions: Vec<Condition>, answer: u32) {
        let call = self.by_number.entry(number).or_insert_with(|| Call::Depending(Vec::new()));
        match call {
            Call::Always(_) => {}
            Call::Depending(_) if conditions.is_empty() => *call = Call::Always(answer),
            Call::Depending(rules) => rules.push(Conditional { conditions, answer }),
        }
    }

    /// The same for the second way to a call. A filter does not see its arguments there, so a rule with conditions
    /// forbids it altogether, or does not allow it.
    fn add_multiplexed(&mut self, name: &str, rule: &Rule<'_>) {
        let Some((number, selector)) = multiplexer::of(name) else { return };
        if rule.conditions.is_empty() || !Rules::lets_through(rule.answer) {
            self.add(number, vec![selector], rule.answer);
        }
    }
}
