//! Device rules as an eBPF program of cgroup v2.

use palan_linux::bpf::Instruction;

use super::{Kind, Rule};

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
pub(super) fn compile(rules: &[Rule]) -> Vec<Instruction> {
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
pub(super) mod tests {
    use palan_linux::bpf;

    use super::super::plan;
    use super::super::tests::rule;
    use super::*;

    /// Interprets the few operations that `compile` emits.
    pub(in super::super) fn run(
        program: &[Instruction],
        kind: u64,
        major: u64,
        minor: u64,
        access: u64,
    ) -> bool {
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
