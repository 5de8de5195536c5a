//! `--device`, by path or by a name of the Container Device Interface, and the limits of block devices.

use palan_docker_api::types::{DeviceMapping, DeviceRequest, ThrottleDevice, WeightDevice};

use super::{parse_bytes, parse_uint};

/// Sorts the values of `--device`: devices of the host, and a request for those that a CDI specification describes.
pub(crate) fn parse(values: &[&str]) -> Result<(Vec<DeviceMapping>, Option<DeviceRequest>), String> {
    let (described, paths): (Vec<&str>, Vec<&str>) =
        values.iter().partition(|value| is_qualified_name(value));
    let request = DeviceRequest {
        driver: "cdi".to_owned(),
        device_ids: described.into_iter().map(str::to_owned).collect(),
        ..DeviceRequest::default()
    };
    let mappings = paths.into_iter().map(mapping).collect::<Result<_, _>>()?;
    Ok((mappings, Some(request).filter(|request| !request.device_ids.is_empty())))
}

/// `vendor.com/class=name`.
fn is_qualified_name(text: &str) -> bool {
    let Some((kind, name)) = text.split_once('=') else { return false };
    let Some((vendor, class)) = kind.split_once('/') else { return false };
    let is_word = |word: &str, others: &[u8]| {
        word.bytes().next_back().is_some_and(|last| last.is_ascii_alphanumeric())
            && word.bytes().all(|byte| byte.is_ascii_alphanumeric() || others.contains(&byte))
    };
    let begins_with_letter = |word: &str| word.starts_with(|first: char| first.is_ascii_alphabetic());
    [vendor, class].iter().all(|word| begins_with_letter(word) && is_word(word, b"._-"))
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && is_word(name, b"._-:")
}

/// `host[:container[:permissions]]` or `host[:permissions]`.
fn mapping(text: &str) -> Result<DeviceMapping, String> {
    let is_mode = |text: &str| {
        !text.is_empty()
            && text.len() <= 3
            && text
                .chars()
                .enumerate()
                .all(|(index, c)| matches!(c, 'r' | 'w' | 'm') && !text[..index].contains(c))
    };
    let (host, inside, mode) = match text.split(':').collect::<Vec<_>>()[..] {
        [host] => (host, host, "rwm"),
        [host, mode] if is_mode(mode) => (host, host, mode),
        [host, inside] => (host, inside, "rwm"),
        [_, _, mode] if !is_mode(mode) => return Err(format!("bad mode specified: {mode}")),
        [host, inside, mode] => (host, inside, mode),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if host.is_empty() {
        return Err(format!("bad format for path: {text}"));
    }
    if !inside.starts_with('/') {
        return Err(format!("{inside} is not an absolute path"));
    }
    Ok(DeviceMapping {
        path_on_host: host.to_owned(),
        path_in_container: inside.to_owned(),
        cgroup_permissions: mode.to_owned(),
    })
}

/// `--device-cgroup-rule`: `c 1:3 rwm`, `*` for any number.
pub(crate) fn check_cgroup_rule(text: &str) -> Result<(), String> {
    let number =
        |text: &str| text == "*" || (!text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()));
    let fits = match text.split(' ').collect::<Vec<_>>()[..] {
        [kind, numbers, access] => {
            matches!(kind, "a" | "b" | "c")
                && numbers.split_once(':').is_some_and(|(major, minor)| number(major) && number(minor))
                && (1..=3).contains(&access.len())
                && access.bytes().all(|letter| b"rwm".contains(&letter))
        }
        _ => false,
    };
    if fits { Ok(()) } else { Err(format!("invalid device cgroup format '{text}'")) }
}

/// `--blkio-weight-device`: `/dev/sda:500`.
pub(crate) fn parse_weight(text: &str) -> Result<WeightDevice, String> {
    let (path, weight) = split(text)?;
    let weight = parse_decimal(weight).and_then(|weight| u16::try_from(weight).ok());
    match weight.filter(|weight| matches!(weight, 0 | 10..=1000)) {
        Some(weight) => Ok(WeightDevice { path: path.to_owned(), weight }),
        None => Err(format!("invalid weight for device: {text}")),
    }
}

/// `--device-read-bps` and `--device-write-bps`: `/dev/sda:10mb`.
pub(crate) fn parse_bytes_rate(text: &str) -> Result<ThrottleDevice, String> {
    let (path, rate) = split(text)?;
    let rate = parse_bytes(rate).ok().and_then(|rate| u64::try_from(rate).ok()).ok_or_else(|| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>[<unit>]. Number must be a \
             positive integer. Unit is optional and can be kb, mb, or gb"
        )
    })?;
    Ok(ThrottleDevice { path: path.to_owned(), rate })
}

/// `--device-read-iops` and `--device-write-iops`: `/dev/sda:100`.
pub(crate) fn parse_operations_rate(text: &str) -> Result<ThrottleDevice, String> {
    let (path, rate) = split(text)?;
    let rate = parse_decimal(rate).ok_or_else(|| {
        format!(
            "invalid rate for device: {text}. The correct format is <device-path>:<number>. Number must be a positive \
             integer"
        )
    })?;
    Ok(ThrottleDevice { path: path.to_owned(), rate })
}

fn split(text: &str) -> Result<(&str, &str), String> {
    match text.split_once(':') {
        None | Some(("", _)) => Err(format!("bad format: {text}")),
        Some((path, _)) if !path.starts_with("/dev/") => Err(format!("bad format for device path: {text}")),
        Some(parts) => Ok(parts),
    }
}

/// A number of decimal digits only.
fn parse_decimal(text: &str) -> Option<u64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// `--blkio-weight`.
pub(crate) fn parse_own_weight(text: &str) -> Result<u16, String> {
    let weight = parse_uint(text, 16)?;
    u16::try_from(weight).map_err(|_| format!("invalid weight: {text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_by_path_and_by_name() {
        let (mappings, request) = parse(&["/dev/null:r", "vendor.com/net=eth-0", "a/b=0:1"]).unwrap();
        assert_eq!((mappings.len(), mappings[0].cgroup_permissions.as_str()), (1, "r"));
        let request = request.unwrap();
        assert_eq!(
            (request.driver.as_str(), request.device_ids),
            ("cdi", vec!["vendor.com/net=eth-0".to_owned(), "a/b=0:1".to_owned()])
        );
        assert_eq!(parse(&[]).unwrap(), (Vec::new(), None));
        // None of these is a qualified name, so they are wrong paths.
        for text in ["vendor.com/net", "1v/net=x", "v/net=", "v/net=x.", "/v/net=x", "v=x"] {
            assert!(!is_qualified_name(text), "{text}");
        }
        assert_eq!(parse(&["v/net=x."]).unwrap_err(), "v/net=x. is not an absolute path");
    }

    #[test]
    fn limits_of_devices() {
        let wrong =
            |outcome: Result<String, String>, expected: &str| assert_eq!(outcome, Err(expected.into()));
        let weight = |text: &str| parse_weight(text).map(|device| format!("{device:?}"));
        assert_eq!(parse_weight("/dev/sda:500"), Ok(WeightDevice { path: "/dev/sda".into(), weight: 500 }));
        wrong(weight("/dev/sda"), "bad format: /dev/sda");
        wrong(weight("sda:500"), "bad format for device path: sda:500");
        wrong(weight("/dev/sda:5"), "invalid weight for device: /dev/sda:5");
        wrong(weight("/dev/sda:+50"), "invalid weight for device: /dev/sda:+50");
        let rate = |text: &str| parse_bytes_rate(text).map(|device| format!("{device:?}"));
        assert_eq!(
            parse_bytes_rate("/dev/a:1mb"),
            Ok(ThrottleDevice { path: "/dev/a".into(), rate: 1 << 20 })
        );
        assert!(rate("/dev/a:x").unwrap_err().starts_with("invalid rate for device: /dev/a:x. The correct"));
        assert_eq!(parse_operations_rate("/dev/a:7").unwrap().rate, 7);
        assert!(parse_operations_rate("/dev/a:7k").is_err() && parse_operations_rate("/dev/a:").is_err());
        assert_eq!(check_cgroup_rule("c 1:* rwm"), Ok(()));
        wrong(check_cgroup_rule("c 1:3").map(|()| String::new()), "invalid device cgroup format 'c 1:3'");
        assert!(check_cgroup_rule("x 1:3 r").is_err() && check_cgroup_rule("c :3 r").is_err());
    }
}
