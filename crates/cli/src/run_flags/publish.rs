//! `--publish` and `--expose`: ports, ranges, addresses and protocols, with go-connections' error texts.

use std::net::IpAddr;

/// One container port and where it is published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Binding {
    /// `80/tcp`.
    pub(crate) port: String,
    pub(crate) host_address: String,
    /// Empty for a port that the daemon chooses; a range lets it choose from that.
    pub(crate) host_port: String,
}

/// Parses `[[address:][host port]:]container port[/protocol]` or the long `published=…,target=…,protocol=…`.
pub(crate) fn parse(text: &str) -> Result<Vec<Binding>, String> {
    let long;
    let text = if text.contains('=') {
        long = from_long_form(text)?;
        long.as_str()
    } else {
        text
    };
    let (address, host, container) = split(text);
    let (container, protocol) = container.split_once('/').unwrap_or((container, "tcp"));
    let protocol = if protocol.is_empty() { "tcp".to_owned() } else { protocol.to_ascii_lowercase() };
    if container.is_empty() {
        return Err(format!("no port specified: {text}<empty>"));
    }
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(format!("invalid proto: {protocol}"));
    }
    let address = parse_address(address)?;
    let (first, last) =
        parse_range(container).ok_or_else(|| format!("invalid containerPort: {container}"))?;
    let host_range = match host {
        "" => None,
        host => Some(parse_range(host).ok_or_else(|| format!("invalid hostPort: {host}"))?),
    };
    if let Some((host_first, host_last)) = host_range
        && last - first != host_last - host_first
        && first != last
    {
        return Err(format!("invalid ranges specified for container and host Ports: {container} and {host}"));
    }
    let host_port = |index: u16| match host_range {
        None => String::new(),
        Some((host_first, host_last)) if first == last && host_first != host_last => {
            format!("{host_first}-{host_last}")
        }
        Some((host_first, _)) => (host_first + index).to_string(),
    };
    Ok((0..=last - first)
        .map(|index| Binding {
            port: format!("{}/{protocol}", first + index),
            host_address: address.clone(),
            host_port: host_port(index),
        })
        .collect())
}

fn from_long_form(text: &str) -> Result<String, String> {
    let (mut published, mut target, mut protocol) = ("", "", "tcp");
    for field in text.split(',') {
        match field.split_once('=').filter(|(name, _)| !name.is_empty()) {
            Some(("published", value)) => published = value,
            Some(("target", value)) => target = value,
            Some(("protocol", value)) => protocol = value,
            Some(_) => {}
            None => {
                return Err(format!("invalid publish opts format (should be name=value but got '{field}')"));
            }
        }
    }
    Ok(format!("{published}:{target}/{protocol}"))
}

/// Address, host port and container port; an IPv6 address may hold colons.
fn split(text: &str) -> (&str, &str, &str) {
    let Some((rest, container)) = text.rsplit_once(':') else { return ("", "", text) };
    match rest.rsplit_once(':') {
        Some((address, host)) => (address, host, container),
        None => ("", rest, container),
    }
}

fn parse_address(text: &str) -> Result<String, String> {
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest
            .strip_suffix(']')
            .ok_or_else(|| format!("invalid IP address {text}: address {text}:: missing ']' in address"))?,
        None => text,
    };
    if !bare.is_empty() && bare.parse::<IpAddr>().is_err() {
        return Err(format!("invalid IP address: {bare}"));
    }
    Ok(bare.to_owned())
}

fn parse_range(text: &str) -> Option<(u16, u16)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some((first, last))
}

/// Parses `--expose`: a port or range with an optional protocol.
pub(crate) fn parse_expose(text: &str) -> Result<Vec<String>, String> {
    if text.contains(':') {
        return Err(format!("invalid port format for --expose: {text}"));
    }
    let failure = |why: &str| format!("invalid range format for --expose: {text}, error: {why}");
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    if range.is_empty() {
        return Err(failure("empty string specified for ports"));
    }
    let port = |text: &str| {
        text.parse::<u16>().map_err(|_| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let why = if digits { "value out of range" } else { "invalid syntax" };
            failure(&format!("strconv.ParseUint: parsing {text:?}: {why}"))
        })
    };
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(failure(&format!("invalid range specified for port: {range}")));
    }
    Ok((first..=last).map(|port| format!("{port}/{}", protocol.to_ascii_lowercase())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let shown = match parse(text) {
            Ok(bindings) => bindings
                .iter()
                .map(|binding| format!("{}|{}->{}", binding.host_address, binding.host_port, binding.port))
                .collect::<Vec<_>>()
                .join(" "),
            Err(error) => error,
        };
        assert_eq!(shown, expected, "{text:?}");
    }

    #[test]
    fn every_form_is_read() {
        check("80", "|->80/tcp");
        check("8080:80", "|8080->80/tcp");
        check("127.0.0.1:8080:80/udp", "127.0.0.1|8080->80/udp");
        check("127.0.0.1::80", "127.0.0.1|->80/tcp");
        check("[::1]:8080:80", "::1|8080->80/tcp");
        check("::1:8080:80", "::1|8080->80/tcp");
        check("8000-8001:80-81", "|8000->80/tcp |8001->81/tcp");
        check("8000-8010:80", "|8000-8010->80/tcp");
        check("80-81", "|->80/tcp |->81/tcp");
        check("0:80", "|0->80/tcp");
        check("published=8080,target=80,protocol=udp", "|8080->80/udp");
        check(":80:80", "|80->80/tcp");
    }

    #[test]
    fn error_texts_are_dockers() {
        check("99999:1", "invalid hostPort: 99999");
        check("a:1", "invalid hostPort: a");
        check("80:b", "invalid containerPort: b");
        check("80:99999", "invalid containerPort: 99999");
        check("1-3:1-2", "invalid ranges specified for container and host Ports: 1-2 and 1-3");
        check("3-1:1", "invalid hostPort: 3-1");
        check("80/foo", "invalid proto: foo");
        check("1.2.3:80:80", "invalid IP address: 1.2.3");
        check("", "no port specified: <empty>");
        check("80:", "no port specified: 80:<empty>");
        check("published=80", "no port specified: 80:/tcp<empty>");
        check("[::1:80:80", "invalid IP address [::1: address [::1:: missing ']' in address");
        check("1:2:3:4", "invalid IP address: 1:2");
        check("a=b,c", "invalid publish opts format (should be name=value but got 'c')");
    }

    #[test]
    fn exposed_ports_are_listed() {
        assert_eq!(parse_expose("80").unwrap(), ["80/tcp"]);
        assert_eq!(parse_expose("80-82/udp").unwrap(), ["80/udp", "81/udp", "82/udp"]);
        let error = |text: &str| parse_expose(text).unwrap_err();
        assert_eq!(
            error("a"),
            "invalid range format for --expose: a, error: strconv.ParseUint: parsing \"a\": invalid syntax"
        );
        assert_eq!(
            error("5-2"),
            "invalid range format for --expose: 5-2, error: invalid range specified for port: 5-2"
        );
        assert_eq!(error("1:2"), "invalid port format for --expose: 1:2");
        assert!(error("99999").ends_with("value out of range"));
    }
}
