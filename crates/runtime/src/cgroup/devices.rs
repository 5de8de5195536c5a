//! Which devices a container may use: the v1 controller's files, or an eBPF program on v2.
//!
//! Rules apply in order, the last that matches a device decides, separately for reading, writing and mknod.

use palan_linux::bpf::{self, Instruction};
use palan_oci::runtime_spec::DeviceRule;

use super::{Cgroup, CgroupError};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    All,
    Character,
    Block,
}

/// A checked rule. `None` stands for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rule {
    allow: bool,
    kind: Kind,
    major: Option<u32>,
    minor: Option<u32>,
    access: u8,
}

// Access bits as eBPF has them.
const MKNOD: u8 = 1;
const READ: u8 = 2;
const WRITE: u8 = 4;
const EVERYTHING: u8 = MKNOD | READ | WRITE;

const fn character(major: u32, minor: Option<u32>) -> Rule {
    Rule { allow: true, kind: Kind::Character, major: Some(major), minor, access: EVERYTHING }
}

const fn make_any(kind: Kind) -> Rule {
    Rule { allow: true, kind, major: None, minor: None, access: MKNOD }
}

/// What every container may use: making nodes (without opening them), and the devices that the OCI specification
/// puts into every /dev.
const DEFAULTS: [Rule; 10] = [
    make_any(Kind::Character),
    make_any(Kind::Block),
    character(1, Some(3)),
    character(1, Some(5)),
    character(1, Some(7)),
    character(1, Some(8)),
    character(1, Some(9)),
    character(5, Some(0)),
    character(5, Some(2)),
    character(136, None),
];

pub(super) fn apply(cgroup: &mut Cgroup, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let rules = plan(rules)?;
    if cgroup.is_v2() {
        let group =
            cgroup.unified().ok_or(CgroupError::NoController { what: "devices", controller: "unified" })?;
        let loaded = bpf::load_device_program(&compile(&rules))
            .and_then(|program| bpf::replace_device_program(&group.directory, &program));
        return loaded.map_err(|source| CgroupError::Io {
            path: cgroup.path.clone(),
            action: "attach the device program".to_owned(),
            source,
        });
    }
    cgroup.controller_for_limit("devices", "devices")?;
    let group = cgroup.controller("devices", "devices")?;
    for rule in rules {
        let file = if rule.allow { "devices.allow" } else { "devices.deny" };
        cgroup.write_in(group, file, &v1_line(&rule))?;
    }
    Ok(())
}

/// The checked rules with the defaults, after the last rule that is about everything.
fn plan(rules: &[DeviceRule]) -> Result<Vec<Rule>, CgroupError> {
    let deny_all = Rule { allow: false, kind: Kind::All, major: None, minor: None, access: EVERYTHING };
    let mut planned = vec![deny_all];
    for rule in rules {
        let rule = check(rule)?;
        match rule.kind {
            // A rule about everything makes all before it void.
            Kind::All if rule.access == EVERYTHING && rule.major.is_none() && rule.minor.is_none() => {
                planned = vec![rule];
            }
            Kind::All => {
                planned.push(Rule { kind: Kind::Character, ..rule });
                planned.push(Rule { kind: Kind::Block, ..rule });
            }
            _ => planned.push(rule),
        }
    }
    // With everything allowed the defaults add nothing, and v1 refuses exceptions of the wrong kind.
    if !planned[0].allow {
        planned.extend(DEFAULTS);
    }
    Ok(planned)
}

fn check(rule: &DeviceRule) -> Result<Rule, CgroupError> {
    let invalid = |what: &str| CgroupError::Invalid(format!("invalid device rule: {what}"));
    let kind = match rule.kind.as_str() {
        "" | "a" => Kind::All,
        "c" | "u" => Kind::Character,
        "b" => Kind::Block,
        other => return Err(invalid(&format!("unknown type {other:?}"))),
    };
    let number = |value: Option<i64>| match value {
        None | Some(-1) => Ok(None),
        Some(number) => match u32::try_from(number) {
            Ok(number) if number <= i32::MAX.unsigned_abs() => Ok(Some(number)),
            _ => Err(invalid(&format!("device number {number} is out of range"))),
        },
    };
    let mut access = 0;
    for letter in rule.access.chars() {
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            other => return Err(invalid(&format!("unknown access {other:?}"))),
        };
    }
    if rule.access.is_empty() {
        access = EVERYTHING;
    }
    Ok(Rule { allow: rule.allow, kind, major: number(rule.major)?, minor: number(rule.minor)?, access })
}

fn v1_line(rule: &Rule) -> String {
    let kind = match rule.kind {
        Kind::All => return "a".to_owned(),
        Kind::Character => 'c',
        Kind::Block => 'b',
    };
    let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |number| number.to_string());
    let mut access = String::new();
    for (bit, letter) in [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')] {
        if rule.access & bit != 0 {
            access.push(letter);
        }
    }
    format!("{kind} {}:{} {access}", number(rule.major), number(rule.minor))
}

// eBPF operations, from linux/bpf.h.
const LOAD_WORD: u8 = 0x61;
const MOVE: u8 = 0xb7;
const MOVE_REGISTER: u8 = 0xbf;
const SHIFT_RIGHT: u8 = 0x77;
const AND: u8 = 0x57;
const JUMP: u8 = 0x05;
const JUMP_UNLESS_EQUAL: u8 = 0x55;
const JUMP_IF_ANY_BIT: u8 = 0x45;
const EXIT: u8 = 0x95;

// Registers of the program.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const TYPE: u8 = 2;
const REMAINING: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;

const fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction { code, registers, offset, immediate }
}

/// The rules as a program: from the last rule to the first, each takes the access bits it decides about out of what
/// remains to be decided; the first denial ends it, and so does an empty remainder.
fn compile(rules: &[Rule]) -> Vec<Instruction> {
    let load = |register: u8, offset: i16| instruction(LOAD_WORD, register | (CONTEXT << 4), offset, 0);
    let mut program = vec![
        load(TYPE, 0),
        instruction(MOVE_REGISTER, REMAINING | (TYPE << 4), 0, 0),
        instruction(SHIFT_RIGHT, REMAINING, 0, 16),
        instruction(AND, TYPE, 0, 0xffff),
        load(MAJOR, 4),
        load(MINOR, 8),
    ];
    for rule in rules.iter().rev() {
        let mut body = vec![];
        let access = i32::from(rule.access);
        if rule.allow {
            body.push(instruction(AND, REMAINING, 0, !access));
            body.push(instruction(JUMP_UNLESS_EQUAL, REMAINING, 2, 0));
        } else {
            body.push(instruction(JUMP_IF_ANY_BIT, REMAINING, 1, access));
            body.push(instruction(JUMP, 0, 2, 0));
        }
        body.push(instruction(MOVE, RESULT, 0, i32::from(rule.allow)));
        body.push(instruction(EXIT, 0, 0, 0));
        let kind = match rule.kind {
            Kind::All => None,
            Kind::Block => Some(1),
            Kind::Character => Some(2),
        };
        let tests = [(TYPE, kind), (MAJOR, rule.major), (MINOR, rule.minor)];
        let tests: Vec<_> =
            tests.into_iter().filter_map(|(register, value)| Some((register, value?))).collect();
        for (index, (register, value)) in tests.iter().enumerate() {
            let skip = i16::try_from(tests.len() - index - 1 + body.len()).unwrap_or(i16::MAX);
            // Numbers are at most i32::MAX (see `check`).
            let value = i32::try_from(*value).unwrap_or(i32::MAX);
            program.push(instruction(JUMP_UNLESS_EQUAL, *register, skip, value));
        }
        program.extend(body);
    }
    program.push(instruction(MOVE, RESULT, 0, 0));
    program.push(instruction(EXIT, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interprets the few operations that `compile` emits.
    fn run(program: &[Instruction], kind: u64, major: u64, minor: u64, access: u64) -> bool {
        let mut registers = [0u64; 16];
        let mut at = 0usize;
        loop {
            let Instruction { code, registers: r, offset, immediate } = program[at];
            let (to, from) = (usize::from(r & 15), usize::from(r >> 4));
            let value = i64::from(immediate).cast_unsigned();
            at += 1;
            let jump = |at: usize| at.checked_add_signed(isize::from(offset)).unwrap();
            match code {
                LOAD_WORD => {
                    registers[to] = match offset {
                        0 => access << 16 | kind,
                        4 => major,
                        _ => minor,
                    };
                }
                MOVE => registers[to] = value,
                MOVE_REGISTER => registers[to] = registers[from],
                SHIFT_RIGHT => registers[to] >>= value,
                AND => registers[to] &= value,
                JUMP => at = jump(at),
                JUMP_UNLESS_EQUAL if registers[to] != value => at = jump(at),
                JUMP_IF_ANY_BIT if registers[to] & value != 0 => at = jump(at),
                JUMP_UNLESS_EQUAL | JUMP_IF_ANY_BIT => {}
                EXIT => return registers[0] == 1,
                other => panic!("unknown operation {other:#x}"),
            }
        }
    }

    fn rule(allow: bool, kind: &str, major: Option<i64>, minor: Option<i64>, access: &str) -> DeviceRule {
        DeviceRule { allow, kind: kind.to_owned(), major, minor, access: access.to_owned() }
    }

    fn allowed(rules: &[DeviceRule], kind: char, major: u64, minor: u64, access: u8) -> bool {
        let kind = if kind == 'b' { 1 } else { 2 };
        run(&compile(&plan(rules).unwrap()), kind, major, minor, u64::from(access))
    }

    #[test]
    fn defaults_allow_null_and_nodes_only() {
        assert!(allowed(&[], 'c', 1, 3, READ | WRITE));
        assert!(allowed(&[], 'c', 136, 7, READ | WRITE));
        assert!(allowed(&[], 'b', 8, 0, MKNOD));
        assert!(!allowed(&[], 'b', 8, 0, READ));
        assert!(!allowed(&[], 'b', 1, 3, READ));
        assert!(!allowed(&[], 'c', 10, 229, READ));
    }

    #[test]
    fn later_rules_win_bit_by_bit() {
        let rules = [
            rule(true, "b", Some(8), None, "rw"),
            rule(false, "b", Some(8), Some(1), "w"),
            rule(true, "c", Some(10), Some(229), "rwm"),
        ];
        assert!(allowed(&rules, 'b', 8, 0, READ | WRITE));
        assert!(allowed(&rules, 'b', 8, 1, READ));
        assert!(!allowed(&rules, 'b', 8, 1, READ | WRITE));
        assert!(allowed(&rules, 'c', 10, 229, READ | WRITE | MKNOD));
        assert!(!allowed(&rules, 'c', 10, 228, READ));
    }

    #[test]
    fn everything_resets() {
        assert!(allowed(&[rule(true, "a", None, None, "rwm")], 'b', 8, 0, READ | WRITE | MKNOD));
        let rules = [rule(true, "a", None, None, "rwm"), rule(false, "", None, None, "rwm")];
        assert!(!allowed(&rules, 'b', 8, 0, READ));
        let rules = [rule(true, "a", Some(7), Some(1), "r")];
        assert!(allowed(&rules, 'b', 7, 1, READ));
        assert!(allowed(&rules, 'c', 7, 1, READ));
    }

    #[test]
    fn bad_rules_are_named() {
        for bad in [
            rule(true, "x", None, None, "r"),
            rule(true, "c", Some(-2), None, "r"),
            rule(true, "c", Some(1 << 40), None, "r"),
            rule(true, "c", None, None, "z"),
        ] {
            assert!(plan(&[bad]).is_err());
        }
    }

    #[test]
    fn v1_lines() {
        assert_eq!(v1_line(&DEFAULTS[0]), "c *:* m");
        assert_eq!(v1_line(&DEFAULTS[9]), "c 136:* rwm");
    }

    /// The verifier has the last word. The unified hierarchy takes device programs on hybrid hosts, too.
    #[test]
    fn the_kernel_accepts_the_program() {
        let rules = [
            rule(true, "b", Some(8), Some(1), "rw"),
            rule(false, "c", Some(1), None, "w"),
            rule(true, "a", Some(7), None, "r"),
        ];
        let program = compile(&plan(&rules).unwrap());
        let loaded = match bpf::load_device_program(&program) {
            Ok(loaded) => loaded,
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
                println!("SKIPPED: loading a device program needs root: {error}");
                return;
            }
            Err(error) => panic!("{error}"),
        };
        let Some(root) = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"]
            .into_iter()
            .find(|path| std::path::Path::new(path).join("cgroup.controllers").exists())
        else {
            println!("SKIPPED attaching: no unified hierarchy is mounted");
            return;
        };
        let path = std::path::Path::new(root).join(format!("palan-test-bpf-{}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        let directory = std::fs::File::open(&path).unwrap();
        // The second replaces the first.
        let attached = bpf::replace_device_program(&directory, &loaded)
            .and_then(|()| bpf::replace_device_program(&directory, bpf::load_device_program(&program)?));
        std::fs::remove_dir(&path).unwrap();
        attached.unwrap();
    }
}
