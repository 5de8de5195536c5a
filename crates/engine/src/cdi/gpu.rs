//! `--gpus`: which devices of which vendor are meant.

use super::Registry;
use crate::spec::DeviceRequest;
use crate::{Error, Result};

/// A vendor whose GPUs can be asked for without naming a CDI device.
struct Vendor {
    /// Names of the driver in a request.
    drivers: &'static [&'static str],
    /// The kind of its devices.
    kind: &'static str,
    /// What a request may want of them.
    capabilities: &'static [&'static str],
}

/// More than any host has; a client's number is not to fill the daemon's memory.
const MOST: i64 = 1024;

/// In the order of preference, as in Docker.
const VENDORS: [Vendor; 2] = [
    Vendor {
        drivers: &["nvidia", "nvidia.cdi"],
        kind: "nvidia.com/gpu",
        capabilities: &["gpu", "nvidia", "compute", "compat32", "graphics", "utility", "video", "display"],
    },
    Vendor { drivers: &["amd"], kind: "amd.com/gpu", capabilities: &["gpu", "amd"] },
];

/// The names of the devices that a request means.
pub(super) fn names(request: &DeviceRequest, registry: &Registry) -> Result<Vec<String>> {
    let suits = |vendor: &&Vendor| {
        if request.driver.is_empty() {
            request.capabilities.iter().any(|alternative| {
                alternative.iter().all(|wanted| vendor.capabilities.contains(&wanted.as_str()))
            })
        } else {
            vendor.drivers.contains(&request.driver.as_str())
        }
    };
    let vendor = VENDORS.iter().filter(suits).find(|vendor| registry.has_kind(vendor.kind));
    let vendor = vendor.ok_or_else(|| no_driver(request, registry))?;
    if !request.options.is_empty() {
        return Err(Error::invalid("unexpected options in a request for GPUs that CDI describes"));
    }
    if request.count != 0 && !request.device_ids.is_empty() {
        return Err(Error::invalid("cannot set both Count and DeviceIDs on device request"));
    }
    let of_vendor = |device: &str| {
        if device.contains('=') { device.to_owned() } else { format!("{}={device}", vendor.kind) }
    };
    Ok(match request.count {
        0 => request.device_ids.iter().map(|device| of_vendor(device)).collect(),
        count if count < 0 => vec![of_vendor("all")],
        count if count > MOST => {
            return Err(Error::invalid(format!(
                "a request for {count} GPUs: at most {MOST} can be asked for at once"
            )));
        }
        count => (0..count).map(|number| of_vendor(&number.to_string())).collect(),
    })
}

/// Docker's words for a request that nobody can serve, and what would help.
fn no_driver(request: &DeviceRequest, registry: &Registry) -> Error {
    let lists = request.capabilities.iter().map(|list| format!("[{}]", list.join(" ")));
    let mut text = format!(
        "could not select device driver \"{}\" with capabilities: [{}]: no CDI specification describes such devices (the \
         vendor's tools write it, as `nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml` does)",
        request.driver,
        lists.collect::<Vec<_>>().join(" ")
    );
    for problem in &registry.problems {
        text = format!("{text}; {problem}");
    }
    Error::invalid(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(kinds: &[&str]) -> Registry {
        let devices = kinds.iter().map(|kind| (format!("{kind}=all"), (0, 0))).collect();
        Registry { devices, ..Registry::default() }
    }

    fn asked(count: i64, ids: &[&str], capabilities: &[&str]) -> DeviceRequest {
        let own = |list: &[&str]| list.iter().map(|&word| word.to_owned()).collect::<Vec<_>>();
        DeviceRequest {
            count,
            device_ids: own(ids),
            capabilities: vec![own(capabilities)],
            ..DeviceRequest::default()
        }
    }

    #[test]
    fn vendors_and_numbers() {
        let both = registry(&["amd.com/gpu", "nvidia.com/gpu"]);
        let amd = registry(&["amd.com/gpu"]);
        let names =
            |request: &DeviceRequest, registry| names(request, registry).map_err(|error| error.report());
        assert_eq!(names(&asked(-1, &[], &["gpu"]), &both), Ok(vec!["nvidia.com/gpu=all".into()]));
        assert_eq!(
            names(&asked(2, &[], &["gpu"]), &amd),
            Ok(vec!["amd.com/gpu=0".into(), "amd.com/gpu=1".into()])
        );
        assert_eq!(
            names(&asked(0, &["GPU-1", "a.b/c=d"], &["gpu", "utility"]), &both),
            Ok(vec!["nvidia.com/gpu=GPU-1".into(), "a.b/c=d".into()])
        );
        let by_name = DeviceRequest { driver: "amd".into(), ..asked(-1, &[], &["gpu"]) };
        assert_eq!(names(&by_name, &both), Ok(vec!["amd.com/gpu=all".into()]));
        assert_eq!(
            names(&asked(1, &["0"], &["gpu"]), &both),
            Err("cannot set both Count and DeviceIDs on device request".into())
        );
        let nobody = names(&asked(1, &[], &["gpu", "compute"]), &amd).expect_err("AMD does not say so");
        assert!(
            nobody.starts_with(
                "could not select device driver \"\" with capabilities: [[gpu compute]]: no CDI"
            ),
            "{nobody}"
        );
    }
}
