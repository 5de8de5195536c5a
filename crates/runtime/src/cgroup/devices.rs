//! Which devices a container may use: the v1 controller's files, or an eBPF program on v2.
//!
//! Rules apply in order, the last that matches a device decides, separately for reading, writing and mknod.

mod list;
mod program;

use std::io;

use palan_linux::bpf;
use palan_oci::runtime_spec::DeviceRule;

use super::{Cgroup, CgroupError, InField, is_rootless};
pub(super) use list::List;

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

/// Sets the rules of a new cgroup.
pub(super) fn apply(cgroup: &mut Cgroup, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let rules = plan(rules)?;
    if cgroup.groups.is_empty() {
        return Ok(());
    }
    let list = List::of(&rules);
    cgroup.tell_devices(list.as_ref().ok())?;
    if cgroup.is_v2() {
        return unless_powerless(set_program(cgroup, &rules));
    }
    let writes = list.in_field("devices")?.anew();
    cgroup.controller_for_limit("devices", "devices")?;
    unless_powerless(write_list(cgroup, &writes))
}

/// Sets other rules for a cgroup in use: what was and stays allowed is never denied in between.
pub(super) fn change(cgroup: &mut Cgroup, rules: &[DeviceRule]) -> Result<(), CgroupError> {
    let rules = plan(rules)?;
    let list = List::of(&rules);
    cgroup.tell_devices(list.as_ref().ok())?;
    if cgroup.is_v2() {
        return unless_powerless(set_program(cgroup, &rules));
    }
    let target = list.in_field("devices")?;
    let group = cgroup.controller("devices", "devices")?;
    let now = List::parse(&cgroup.read_in(group, "devices.list")?);
    if let Some(writes) = now.changes_to(&target) {
        return unless_powerless(write_list(cgroup, &writes));
    }
    // The list has to be started anew, and whoever looks meanwhile is denied: nobody may look.
    let frozen = cgroup.is_frozen()?;
    if !frozen {
        cgroup.freeze()?;
    }
    let written = write_list(cgroup, &target.anew());
    if !frozen {
        cgroup.thaw()?;
    }
    unless_powerless(written)
}

/// Only root of the host may set device rules, and only it can make device nodes that would open.
fn unless_powerless(set: Result<(), CgroupError>) -> Result<(), CgroupError> {
    match set {
        Err(CgroupError::Io { source, .. })
            if source.kind() == io::ErrorKind::PermissionDenied && is_rootless() =>
        {
            Ok(())
        }
        other => other,
    }
}

/// The kernel asks all programs of a cgroup: while the old one is still there beside the new one, what both allow is
/// allowed.
fn set_program(cgroup: &Cgroup, rules: &[Rule]) -> Result<(), CgroupError> {
    let group =
        cgroup.unified().ok_or(CgroupError::NoController { what: "devices", controller: "unified" })?;
    bpf::load_device_program(&program::compile(rules))
        .and_then(|program| bpf::replace_device_program(&group.directory, &program))
        .map_err(|source| CgroupError::Io {
            path: cgroup.path().to_owned(),
            action: "attach the device program".to_owned(),
            source,
        })
}

fn write_list(cgroup: &Cgroup, writes: &[(&str, String)]) -> Result<(), CgroupError> {
    let group = cgroup.controller("devices", "devices")?;
    writes.chunk_by(|(one, _), (next, _)| one == next).try_for_each(|same| {
        let lines: Vec<_> = same.iter().map(|(_, line)| line.clone()).collect();
        cgroup.write_all_in(group, same[0].0, &lines)
    })
}

/// The checked rules with the defaults, after the last rule that is about everything.
fn plan(rules: &[DeviceRule]) -> Result<Vec<Rule>, CgroupError> {
    let deny_all = Rule { allow: false, kind: Kind::All, major: None, minor: None, access: EVERYTHING };
    let mut planned = vec![deny_all];
    for (index, rule) in rules.iter().enumerate() {
        let rule = check(rule).in_field(format_args!("devices[{index}]"))?;
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
        // runc passes over letters that it does not know, and rules such as "rwa" are about.
        access |= match letter {
            'r' => READ,
            'w' => WRITE,
            'm' => MKNOD,
            _ => 0,
        };
    }
    if rule.access.is_empty() {
        access = EVERYTHING;
    } else if access == 0 {
        return Err(invalid(&format!("access {:?} has none of the letters r, w and m", rule.access)));
    }
    Ok(Rule { allow: rule.allow, kind, major: number(rule.major)?, minor: number(rule.minor)?, access })
}

/// For the fuzz targets: both forms of the rules, as far as they are possible.
#[cfg(feature = "fuzz")]
pub(super) fn fuzz(rules: &[DeviceRule]) {
    let Ok(rules) = plan(rules) else { return };
    assert!(!program::compile(&rules).is_empty());
    if let Ok(list) = List::of(&rules) {
        let _ = (list.anew(), list.allowed());
    }
}

#[cfg(test)]
mod tests {
    use super::program::compile;
    use super::program::tests::run;
    use super::*;

    pub(super) fn rule(
        allow: bool,
        kind: &str,
        major: Option<i64>,
        minor: Option<i64>,
        access: &str,
    ) -> DeviceRule {
        DeviceRule { allow, kind: kind.to_owned(), major, minor, access: access.to_owned() }
    }

    fn allowed(rules: &[DeviceRule], kind: char, major: u64, minor: u64, access: u8) -> bool {
        let kind = if kind == 'b' { 1 } else { 2 };
        run(&compile(&plan(rules).unwrap()), kind, major, minor, u64::from(access))
    }

    #[test]
    fn letters_that_mean_nothing() {
        let access =
            |letters: &str| check(&rule(true, "c", Some(1), Some(1), letters)).map(|rule| rule.access);
        assert_eq!(access("rwa").unwrap(), READ | WRITE);
        assert_eq!(access("mrr").unwrap(), READ | MKNOD);
        assert!(access("a").is_err());
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
}
