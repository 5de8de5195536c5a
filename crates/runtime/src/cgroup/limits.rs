//! Writing the limits of `linux.resources` into a cgroup: one function for each kind, v1 and v2 side by side.

mod block_io;
mod cpu;
mod memory;

use palan_oci::runtime_spec::{HugepageLimit, Resources};
use rustix::io::Errno;

use super::{Cgroup, CgroupError, InField, write_file};
pub(super) use cpu::{DEFAULT_PERIOD, weight_of_shares};
pub(super) use memory::{check_usage as check_memory_usage, swap_v2};

/// Sets everything but device rules. Returns sentences about what this host can't do.
pub(super) fn apply(cgroup: &mut Cgroup, resources: &Resources) -> Result<Vec<String>, CgroupError> {
    let mut warnings = Vec::new();
    if let Some(memory) = &resources.memory {
        memory::apply(cgroup, memory, &mut warnings)?;
    }
    if let Some(cpu) = &resources.cpu {
        cpu::apply(cgroup, cpu, &mut warnings)?;
    }
    if let Some(limit) = resources.pids.and_then(|pids| pids.limit) {
        set(cgroup, ("pids", "processes"), "pids.max", &pids_value(limit)).in_field("pids.limit")?;
    }
    if let Some(block_io) = &resources.block_io {
        block_io::apply(cgroup, block_io, &mut warnings)?;
    }
    huge_pages(cgroup, resources)?;
    network(cgroup, resources, &mut warnings)?;
    rdma(cgroup, resources)?;
    unified(cgroup, resources)?;
    Ok(warnings)
}

/// A controller and what it limits, for the error where it is missing.
type Controller = (&'static str, &'static str);

fn set(cgroup: &mut Cgroup, controller: Controller, file: &str, value: &str) -> Result<(), CgroupError> {
    match attempt(cgroup, controller, file, value)? {
        Ok(()) => Ok(()),
        Err(errno) => Err(cgroup.failed(format!("write {value:?} to {file}"), errno)),
    }
}

/// Like [`set`], but tells what the kernel said, if there is such a controller at all.
fn attempt(
    cgroup: &mut Cgroup,
    controller: Controller,
    file: &str,
    value: &str,
) -> Result<Result<(), Errno>, CgroupError> {
    let (name, what) = controller;
    let group = cgroup.controller_for_limit(name, what)?;
    let written = write_file(&group.directory, file, value);
    if written != Err(Errno::NOENT) || !cgroup.is_in_unified(name) {
        return Ok(written);
    }
    // The hierarchy has the controller: either nobody has passed it down so far, or this kernel lacks the file.
    if cgroup.pass_down(name) {
        return Ok(write_file(&cgroup.controller(name, what)?.directory, file, value));
    }
    Err(CgroupError::NoController { what, controller: name })
}

/// Like [`set`], but a file that this kernel lacks is told as a warning.
fn set_if_known(
    cgroup: &mut Cgroup,
    controller: Controller,
    (file, value): (&str, &str),
    warning: &str,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    match attempt(cgroup, controller, file, value)? {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::OPNOTSUPP) => warnings.push(warning.to_owned()),
        Err(errno) => return Err(cgroup.failed(format!("write {value:?} to {file}"), errno)),
    }
    Ok(())
}

/// No limit below zero; zero is one, as for systemd, which can't have zero.
fn pids_value(limit: i64) -> String {
    match limit {
        0 => "1".to_owned(),
        1.. => limit.to_string(),
        _ => "max".to_owned(),
    }
}

fn huge_pages(cgroup: &mut Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    const HUGETLB: Controller = ("hugetlb", "huge pages");
    let huge_page = |cgroup: &mut Cgroup, limit: &HugepageLimit| {
        let size = &limit.page_size;
        if size.is_empty() || !size.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
            return Err(CgroupError::Invalid(format!("pageSize: invalid huge page size {size:?}")));
        }
        // On hybrid hosts v2 has what v1 leaves to it, and this is often left.
        cgroup.controller_for_limit(HUGETLB.0, HUGETLB.1)?;
        let end = if cgroup.is_in_unified(HUGETLB.0) { "max" } else { "limit_in_bytes" };
        let value = limit.limit.to_string();
        set(cgroup, HUGETLB, &format!("hugetlb.{size}.{end}"), &value)?;
        // Pages that are only reserved count on their own since Linux 5.7.
        let reserved = format!("hugetlb.{size}.rsvd.{end}");
        match attempt(cgroup, HUGETLB, &reserved, &value)? {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(errno) => Err(cgroup.failed(format!("write {value:?} to {reserved}"), errno)),
        }
    };
    for (index, limit) in resources.hugepage_limits.iter().enumerate() {
        huge_page(cgroup, limit).in_field(format_args!("hugepageLimits[{index}]"))?;
    }
    Ok(())
}

fn network(
    cgroup: &mut Cgroup,
    resources: &Resources,
    warnings: &mut Vec<String>,
) -> Result<(), CgroupError> {
    let Some(network) = &resources.network else { return Ok(()) };
    let class = network.class_id.filter(|class| *class != 0);
    if cgroup.is_v2() {
        if class.is_some() || !network.priorities.is_empty() {
            warnings.push("cgroup v2 has no network classes and priorities; they were not set.".to_owned());
        }
        return Ok(());
    }
    if let Some(class) = class {
        set(cgroup, ("net_cls", "network classes"), "net_cls.classid", &class.to_string())
            .in_field("network.classID")?;
    }
    for (index, priority) in network.priorities.iter().enumerate() {
        let line = format!("{} {}", priority.name, priority.priority);
        set(cgroup, ("net_prio", "network priorities"), "net_prio.ifpriomap", &line)
            .in_field(format_args!("network.priorities[{index}]"))?;
    }
    Ok(())
}

fn rdma(cgroup: &mut Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    for (device, limit) in &resources.rdma {
        let mut line = device.clone();
        if let Some(handles) = limit.hca_handles {
            line.push_str(&format!(" hca_handle={handles}"));
        }
        if let Some(objects) = limit.hca_objects {
            line.push_str(&format!(" hca_object={objects}"));
        }
        set(cgroup, ("rdma", "RDMA"), "rdma.max", &line).in_field(format_args!("rdma.{device}"))?;
    }
    Ok(())
}

/// Files of cgroup v2 by their names, after all else: they win. The texts are runc's.
fn unified(cgroup: &mut Cgroup, resources: &Resources) -> Result<(), CgroupError> {
    if resources.unified.is_empty() {
        return Ok(());
    }
    if !cgroup.is_v2() {
        let refused = "invalid configuration: cannot use unified on cgroup v1".to_owned();
        return Err(CgroupError::Invalid(refused)).in_field("unified");
    }
    for (file, value) in &resources.unified {
        unified_file(cgroup, file, value).in_field(format_args!("unified.{file}"))?;
    }
    Ok(())
}

fn unified_file(cgroup: &Cgroup, file: &str, value: &str) -> Result<(), CgroupError> {
    let controller = unified_controller(file)?;
    for line in value.lines() {
        let group = cgroup.unified().ok_or(CgroupError::NoCgroups)?;
        let mut written = write_file(&group.directory, file, line);
        if written == Err(Errno::NOENT) && controller != "cgroup" {
            if !cgroup.pass_down(controller) {
                return Err(CgroupError::Invalid(format!(
                    "unified resource {file:?} can't be set: controller {controller:?} not available"
                )));
            }
            let group = cgroup.unified().ok_or(CgroupError::NoCgroups)?;
            written = write_file(&group.directory, file, line);
        }
        written.map_err(|errno| cgroup.failed(format!("set unified resource {file:?}"), errno))?;
    }
    Ok(())
}

/// The controller that a file of cgroup v2 belongs to.
fn unified_controller(file: &str) -> Result<&str, CgroupError> {
    if file.contains(['/', '\0']) {
        return Err(CgroupError::Invalid(format!(
            "unified resource {file:?} must be a file name (no slashes)"
        )));
    }
    match file.split_once('.') {
        Some((controller, parameter)) if !controller.is_empty() && !parameter.is_empty() => Ok(controller),
        _ => Err(CgroupError::Invalid(format!(
            "unified resource {file:?} must be in the form CONTROLLER.PARAMETER"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_of_processes() {
        for (limit, value) in [(-1, "max"), (0, "1"), (7, "7"), (i64::MIN, "max")] {
            assert_eq!(pids_value(limit), value);
        }
    }

    #[test]
    fn unified_resources_are_files_of_controllers() {
        assert_eq!(unified_controller("memory.swap.max").unwrap(), "memory");
        for bad in ["", "memory", ".max", "memory.", "../memory.max", "a.b/c", ".."] {
            assert!(unified_controller(bad).is_err(), "{bad}");
        }
    }
}
