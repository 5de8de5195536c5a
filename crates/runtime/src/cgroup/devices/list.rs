//! Device rules as the v1 controller keeps them: a default, and exceptions from it in no order.
//!
//! The last rule that matches wins, but an exception can't have a hole: rules that would need one are refused, since
//! the kernel takes them without a word and without effect.

use std::collections::BTreeMap;

use super::super::CgroupError;
use super::{EVERYTHING, Kind, MKNOD, READ, Rule, WRITE};

/// Devices of a kind. `None` stands for any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Devices {
    block: bool,
    major: Option<u32>,
    minor: Option<u32>,
}

/// The list of a cgroup.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) struct List {
    allows: bool,
    /// Access bits that are the other way round than the default.
    exceptions: BTreeMap<Devices, u8>,
}

/// Files with lines to write into them, in order.
type Writes = Vec<(&'static str, String)>;

const ALLOW: &str = "devices.allow";
const DENY: &str = "devices.deny";

impl Devices {
    fn of(rule: &Rule) -> Self {
        Self { block: rule.kind == Kind::Block, major: rule.major, minor: rule.minor }
    }

    fn covers(&self, other: &Self) -> bool {
        let covers = |own: Option<u32>, other| own.is_none() || own == other;
        self.block == other.block && covers(self.major, other.major) && covers(self.minor, other.minor)
    }

    fn overlaps(&self, other: &Self) -> bool {
        let meet = |own: Option<u32>, other: Option<u32>| own.is_none() || other.is_none() || own == other;
        self.block == other.block && meet(self.major, other.major) && meet(self.minor, other.minor)
    }

    fn line(&self, access: u8) -> String {
        let number = |value: Option<u32>| value.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let kind = if self.block { 'b' } else { 'c' };
        format!("{kind} {}:{} {}", number(self.major), number(self.minor), letters(access))
    }

    /// Reads `c 1:3 rwm`.
    fn parse(line: &str) -> Option<(Self, u8)> {
        let mut words = line.split_whitespace();
        let block = match words.next()? {
            "b" => true,
            "c" => false,
            _ => return None,
        };
        let (major, minor) = words.next()?.split_once(':')?;
        let number = |text: &str| if text == "*" { Some(None) } else { text.parse().ok().map(Some) };
        let devices = Self { block, major: number(major)?, minor: number(minor)? };
        let letters = words.next()?;
        let bits = LETTERS.iter().filter(|(_, letter)| letters.contains(*letter)).map(|(bit, _)| bit);
        Some((devices, bits.sum()))
    }
}

fn letters(access: u8) -> String {
    LETTERS.iter().filter(|(bit, _)| access & bit != 0).map(|(_, letter)| letter).collect()
}

const LETTERS: [(u8, char); 3] = [(READ, 'r'), (WRITE, 'w'), (MKNOD, 'm')];

impl List {
    /// The list that planned rules come to: the first is about everything.
    pub(super) fn of(rules: &[Rule]) -> Result<Self, CgroupError> {
        let mut list = Self { allows: false, exceptions: BTreeMap::new() };
        for rule in rules {
            match rule.kind {
                Kind::All => list = Self { allows: rule.allow, exceptions: BTreeMap::new() },
                _ if rule.allow == list.allows => list.take_back(rule)?,
                _ => *list.exceptions.entry(Devices::of(rule)).or_default() |= rule.access,
            }
        }
        list.exceptions.retain(|_, access| *access != 0);
        Ok(list)
    }

    fn take_back(&mut self, rule: &Rule) -> Result<(), CgroupError> {
        let devices = Devices::of(rule);
        for (exception, access) in &mut self.exceptions {
            if devices.covers(exception) {
                *access &= !rule.access;
            } else if devices.overlaps(exception) && *access & rule.access != 0 {
                return Err(CgroupError::Invalid(format!(
                    "device rule {:?} takes a part out of {:?}, which cgroup v1 can't do",
                    devices.line(rule.access),
                    exception.line(*access)
                )));
            }
        }
        Ok(())
    }

    /// Reads `devices.list`. A default that allows hides its exceptions.
    pub(super) fn parse(text: &str) -> Self {
        let allows = text.lines().any(|line| line.starts_with('a'));
        Self { allows, exceptions: text.lines().filter_map(Devices::parse).collect() }
    }

    /// The devices as systemd names them, with the access to each. `None`: it has no names for these rules.
    pub(in super::super) fn allowed(&self) -> Option<Vec<(String, String)>> {
        if self.allows {
            return None;
        }
        let name = |devices: &Devices| {
            let kind = if devices.block { "block" } else { "char" };
            match (devices.major, devices.minor) {
                (None, None) => Some(format!("{kind}-*")),
                (Some(major), None) => Some(format!("{kind}-{major}")),
                (Some(major), Some(minor)) => Some(format!("/dev/{kind}/{major}:{minor}")),
                (None, Some(_)) => None,
            }
        };
        self.exceptions.iter().map(|(devices, access)| Some((name(devices)?, letters(*access)))).collect()
    }

    /// What makes this list out of any other.
    pub(super) fn anew(&self) -> Writes {
        let (default, other) = if self.allows { (ALLOW, DENY) } else { (DENY, ALLOW) };
        let exceptions = self.exceptions.iter().map(|(devices, access)| (other, devices.line(*access)));
        [(default, "a".to_owned())].into_iter().chain(exceptions).collect()
    }

    /// What makes `target` out of this list, additions first. `None`: only a new start does.
    pub(super) fn changes_to(&self, target: &Self) -> Option<Writes> {
        if self.allows || target.allows {
            return None;
        }
        let beyond = |from: &Self, than: &Self, file| -> Writes {
            let rest = from.exceptions.iter().map(|(devices, access)| {
                (devices, access & !than.exceptions.get(devices).copied().unwrap_or(0) & EVERYTHING)
            });
            rest.filter(|(_, access)| *access != 0)
                .map(|(devices, access)| (file, devices.line(access)))
                .collect()
        };
        let mut writes = beyond(target, self, ALLOW);
        writes.extend(beyond(self, target, DENY));
        Some(writes)
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan;
    use super::super::tests::rule;
    use super::*;

    fn list(rules: &[palan_oci::runtime_spec::DeviceRule]) -> List {
        List::of(&plan(rules).unwrap()).unwrap()
    }

    fn text(writes: &Writes) -> Vec<String> {
        writes.iter().map(|(file, line)| format!("{} {line}", file.trim_start_matches("devices."))).collect()
    }

    #[test]
    fn a_new_list_starts_with_its_default() {
        let writes = text(&list(&[rule(true, "b", Some(8), Some(0), "r")]).anew());
        assert_eq!(writes[0], "deny a");
        for line in ["allow c *:* m", "allow c 136:* rwm", "allow b 8:0 r"] {
            assert!(writes.contains(&line.to_owned()), "{writes:?}");
        }
        let rules = [rule(true, "a", None, None, "rwm"), rule(false, "c", Some(1), Some(3), "w")];
        assert_eq!(text(&list(&rules).anew()), ["allow a", "deny c 1:3 w"]);
    }

    #[test]
    fn later_rules_take_back() {
        let all = rule(true, "a", None, None, "rwm");
        let rules =
            [all.clone(), rule(false, "b", Some(8), Some(1), "rw"), rule(true, "b", Some(8), None, "r")];
        assert_eq!(text(&list(&rules).anew()), ["allow a", "deny b 8:1 w"]);
        let rules = [rule(true, "b", Some(8), None, "rw"), rule(false, "b", Some(8), Some(1), "w")];
        let error = List::of(&plan(&rules).unwrap()).unwrap_err().to_string();
        assert!(error.contains("b 8:1 w") && error.contains("b 8:* rw"), "{error}");
        // Nothing is taken out where the access is another.
        list(&[rule(true, "b", Some(8), None, "r"), rule(false, "b", Some(8), Some(1), "w")]);
    }

    #[test]
    fn names_for_systemd() {
        let list = List::parse("c 1:3 rw\nb *:* m\nc 136:* rwm\n");
        let allowed = list.allowed().unwrap();
        let texts: Vec<_> = allowed.iter().map(|(name, access)| format!("{name} {access}")).collect();
        assert_eq!(texts, ["/dev/char/1:3 rw", "char-136 rwm", "block-* m"]);
        assert_eq!(List::parse("c *:3 r\n").allowed(), None);
        assert_eq!(List::parse("a *:* rwm\n").allowed(), None);
    }

    #[test]
    fn changes_are_no_more_than_needed() {
        let now = List::parse("c 1:3 rwm\nb 8:* r\nc *:* m\nnonsense\n\n");
        let target = List::parse("c 1:3 rw\nb 8:* rw\nc *:* m\nc 10:229 rwm\n");
        let writes = text(&now.changes_to(&target).unwrap());
        assert_eq!(writes, ["allow c 10:229 rwm", "allow b 8:* w", "deny c 1:3 m"]);
        assert_eq!(now.changes_to(&now), Some(Vec::new()));
        let everything = List::parse("a *:* rwm\n");
        assert_eq!((everything.changes_to(&now), now.changes_to(&everything)), (None, None));
    }
}
