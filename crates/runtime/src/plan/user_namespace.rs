//! The container's user namespace: whose numbers its users are on the host.

use std::os::fd::OwnedFd;

use palan_linux::capability::{self, CapabilitySet};
use palan_oci::runtime_spec::{IdMapping, Linux};

use super::{UserPlan, invalid};
use crate::error::{Context, Error};
use crate::id_maps::Mappings;

/// Most lines that the kernel takes (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_MAPPINGS: usize = 340;

/// The user namespace of a container.
#[derive(Debug)]
pub(crate) enum UserNamespace {
    /// A new one, in which numbers mean these of the host.
    New { users: Vec<IdMapping>, groups: Vec<IdMapping> },
    /// An existing one.
    Join(OwnedFd),
}

impl UserNamespace {
    pub(super) fn new(linux: &Linux) -> Result<Self, Error> {
        check_mappings("linux.uidMappings", &linux.uid_mappings)?;
        check_mappings("linux.gidMappings", &linux.gid_mappings)?;
        if linux.uid_mappings.is_empty() || linux.gid_mappings.is_empty() {
            return Err(invalid(
                "a new user namespace needs linux.uidMappings and linux.gidMappings: without them nobody has a number in it",
            ));
        }
        Ok(Self::New { users: linux.uid_mappings.clone(), groups: linux.gid_mappings.clone() })
    }
}

/// The rules between the namespace and the mappings.
pub(super) fn check(linux: &Linux, user: Option<&UserNamespace>) -> Result<(), Error> {
    let has_mappings = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    if user.is_none() && has_mappings {
        return Err(invalid(
            "linux.uidMappings and linux.gidMappings need a user namespace in linux.namespaces",
        ));
    }
    Ok(())
}

/// Mappings beside a path: they can only say what the namespace has already.
pub(super) fn expected(linux: &Linux) -> Result<Option<Mappings>, Error> {
    let (users, groups) = (&linux.uid_mappings, &linux.gid_mappings);
    check_mappings("linux.uidMappings", users)?;
    check_mappings("linux.gidMappings", groups)?;
    Ok((!users.is_empty() || !groups.is_empty())
        .then(|| Mappings { users: users.clone(), groups: groups.clone() }))
}

/// The numbers that a container starts with must mean somebody in its new user namespace. Of one that is joined the kernel
/// knows.
pub(super) fn check_user(user: &UserPlan, namespace: Option<&UserNamespace>) -> Result<(), Error> {
    let Some(UserNamespace::New { users, groups }) = namespace else { return Ok(()) };
    let check = |field: &str, number: u32, mappings: &[IdMapping], list: &str| {
        let within = |mapping: &IdMapping| {
            number.checked_sub(mapping.container_id).is_some_and(|offset| offset < mapping.size)
        };
        if mappings.iter().any(within) {
            Ok(())
        } else {
            Err(invalid(format!("process.user.{field}: {number} is not mapped in linux.{list}")))
        }
    };
    let (UserPlan::Numeric { groups: further, .. } | UserPlan::Named { groups: further, .. }) = user;
    if let UserPlan::Numeric { uid, gid, .. } = user {
        check("uid", *uid, users, "uidMappings")?;
        check("gid", *gid, groups, "gidMappings")?;
    }
    for (index, gid) in further.iter().enumerate() {
        check(&format!("additionalGids[{index}]"), *gid, groups, "gidMappings")?;
    }
    Ok(())
}

/// Refuses mappings that the kernel would refuse, with the reason that it does not give.
pub(crate) fn check_mappings(field: &str, mappings: &[IdMapping]) -> Result<(), Error> {
    if mappings.len() > MAX_MAPPINGS {
        return Err(invalid(format!("{field} has {} entries, {MAX_MAPPINGS} are possible", mappings.len())));
    }
    for (index, mapping) in mappings.iter().enumerate() {
        let ranges = [(mapping.container_id, "containerID"), (mapping.host_id, "hostID")];
        if mapping.size == 0 {
            return Err(invalid(format!("{field}[{index}].size must not be 0")));
        }
        for (start, name) in ranges {
            // The highest number stands for "no user".
            if start.checked_add(mapping.size).is_none() {
                return Err(invalid(format!(
                    "{field}[{index}]: {name} {start} and size {} go beyond the highest number",
                    mapping.size
                )));
            }
        }
        for (other_index, other) in mappings.iter().enumerate().take(index) {
            let overlap = |first: u32, second: u32| {
                u64::from(first) < u64::from(second) + u64::from(other.size)
                    && u64::from(second) < u64::from(first) + u64::from(mapping.size)
            };
            if overlap(mapping.container_id, other.container_id) || overlap(mapping.host_id, other.host_id) {
                return Err(invalid(format!("{field}[{index}] overlaps {field}[{other_index}]")));
            }
        }
    }
    Ok(())
}

/// Whether this process may do to the mounts of its namespace what root may.
pub(crate) fn is_privileged() -> Result<bool, Error> {
    let own = capability::current().context(|| "read this process's capabilities".to_owned())?;
    Ok(own.effective.contains(CapabilitySet::SYS_ADMIN))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(container_id: u32, host_id: u32, size: u32) -> IdMapping {
        IdMapping { container_id, host_id, size }
    }

    #[test]
    fn impossible_mappings_are_refused_with_their_place() {
        let check = |mappings: &[IdMapping]| check_mappings("linux.uidMappings", mappings);
        check(&[mapping(0, 100_000, 65536), mapping(65536, 5, 1)]).unwrap();
        for (mappings, part) in [
            (vec![mapping(0, 1, 0)], "[0].size"),
            (vec![mapping(0, 1, 1), mapping(0, 5, 1)], "[1] overlaps linux.uidMappings[0]"),
            (vec![mapping(0, 1, 10), mapping(10, 10, 1)], "[1] overlaps"),
            (vec![mapping(1, u32::MAX, 1)], "hostID"),
            (vec![mapping(0, 1, 1); 341], "341"),
        ] {
            let error = check(&mappings).unwrap_err().report();
            assert!(error.contains(part), "{error}");
        }
    }
}
