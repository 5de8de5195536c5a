//! The ports of `EXPOSE`.

use std::collections::BTreeSet;

/// A part of an `EXPOSE`, read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ports {
    /// The ports, `80/tcp` each, in order.
    pub ports: BTreeSet<Port>,
    /// The protocol is not written in lower case.
    pub has_odd_case: bool,
    /// An address or a port of the host stands in front: they mean nothing here.
    pub has_host_part: bool,
}

/// A port that a container serves.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port {
    /// 0 to 65535.
    pub number: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
}

impl std::fmt::Display for Port {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.number, self.protocol)
    }
}

/// Reads `[ip:][port:]port[-port][/protocol]`.
pub fn parse(text: &str) -> Result<Ports, String> {
    let (host, container) = match text.rsplit_once(':') {
        Some((host, container)) => (Some(host), container),
        None => (None, text),
    };
    let (range, protocol) = container.split_once('/').unwrap_or((container, ""));
    if range.is_empty() {
        return Err(format!("invalid port: {text:?}: no port specified"));
    }
    let known = ["tcp", "udp", "sctp"].into_iter().find(|known| known.eq_ignore_ascii_case(protocol));
    let protocol_name = match known {
        Some(known) => known,
        None if protocol.is_empty() => "tcp",
        None => return Err(format!("invalid port: {text:?}: invalid proto: {protocol}")),
    };
    let (start, end) = self::range(range).ok_or_else(|| format!("invalid containerPort: {range}"))?;
    let has_host_part = match host {
        Some(host) => host_part(host, range, end - start)?,
        None => false,
    };
    Ok(Ports {
        ports: (start..=end).map(|number| Port { number, protocol: protocol_name }).collect(),
        has_odd_case: protocol != protocol.to_lowercase(),
        has_host_part,
    })
}

/// Checks what stands in front of the container's ports; true if there is anything.
fn host_part(host: &str, container: &str, length: u16) -> Result<bool, String> {
    let (address, port) = match host.rsplit_once(':') {
        Some((address, port)) => (address, port),
        None => ("", host),
    };
    let bare = address.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(address);
    if !bare.is_empty() && bare.parse::<std::net::IpAddr>().is_err() {
        return Err(format!("invalid IP address: {address}"));
    }
    if !port.is_empty() {
        let (start, end) = range(port).ok_or_else(|| format!("invalid hostPort: {port}"))?;
        if end - start != length && length != 0 {
            return Err(format!(
                "invalid ranges specified for container and host Ports: {container} and {port}"
            ));
        }
    }
    Ok(!address.is_empty() || !port.is_empty())
}

fn range(text: &str) -> Option<(u16, u16)> {
    let (start, end) = text.split_once('-').unwrap_or((text, text));
    let number =
        |text: &str| text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten();
    let (start, end): (u16, u16) = (number(start)?, number(end)?);
    (start <= end).then_some((start, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ports(text: &str) -> Vec<String> {
        parse(text).expect(text).ports.iter().map(Port::to_string).collect()
    }

    #[test]
    fn ports_and_ranges() {
        assert_eq!(ports("80"), ["80/tcp"]);
        assert_eq!(ports("53/UDP"), ["53/udp"]);
        assert_eq!(ports("7000-7002/sctp"), ["7000/sctp", "7001/sctp", "7002/sctp"]);
        assert_eq!(ports("127.0.0.1:8080:80"), ["80/tcp"]);
        assert_eq!(ports("[::1]:8080:80"), ["80/tcp"]);
        assert_eq!(parse("0-65535").expect("all").ports.len(), 65_536);
    }

    #[test]
    fn what_checks_warn_of() {
        let odd = parse("53/Udp").expect("a port");
        assert!(odd.has_odd_case && !odd.has_host_part);
        let host = parse("8080:80").expect("a port");
        assert!(host.has_host_part && !host.has_odd_case);
    }

    #[test]
    fn mistakes() {
        for (text, message) in [
            ("x", "invalid containerPort: x"),
            ("65536", "invalid containerPort: 65536"),
            ("+1", "invalid containerPort: +1"),
            ("2-1", "invalid containerPort: 2-1"),
            ("80/http", "invalid port: \"80/http\": invalid proto: http"),
            ("/tcp", "invalid port: \"/tcp\": no port specified"),
            ("x:80", "invalid hostPort: x"),
            ("a:1:80", "invalid IP address: a"),
            ("1-2:80-82", "invalid ranges specified for container and host Ports: 80-82 and 1-2"),
        ] {
            assert_eq!(parse(text).expect_err(text), message);
        }
    }
}
