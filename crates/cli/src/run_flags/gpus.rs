//! `--gpus`: `all`, a number, or `device=…,capabilities=…,driver=…,count=…,options=…`.

use palan_docker_api::types::DeviceRequest;

use super::mounts::split_csv;
use super::request::map;

/// Parses one `--gpus`, a line of comma-separated values.
pub(crate) fn parse(text: &str) -> Result<DeviceRequest, String> {
    let mut request = DeviceRequest::default();
    let mut seen: Vec<String> = Vec::new();
    for field in split_csv(text)? {
        let (key, value) = match field.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (field.as_str(), None),
        };
        if seen.iter().any(|earlier| earlier == key) {
            return Err(format!("gpu request key '{key}' can be specified only once"));
        }
        seen.push(key.to_owned());
        let words = |value: &str| value.split(',').map(str::to_owned).collect::<Vec<_>>();
        match (key, value) {
            (count, None) => {
                seen.push("count".to_owned());
                request.count = parse_count(count)?;
            }
            ("count", Some(value)) => request.count = parse_count(value)?,
            ("driver", Some(value)) => value.clone_into(&mut request.driver),
            ("device", Some(value)) => request.device_ids = words(value),
            ("capabilities", Some(value)) => {
                let mut capabilities = words(value);
                capabilities.push("gpu".to_owned());
                request.capabilities = vec![capabilities];
            }
            ("options", Some(value)) => {
                let options = split_csv(value).map_err(|why| format!("failed to read gpu options: {why}"))?;
                request.options = map(options.iter().map(String::as_str));
            }
            _ => return Err(format!("unexpected key '{key}' in '{field}'")),
        }
    }
    if request.device_ids.is_empty() && !seen.iter().any(|key| key == "count") {
        request.count = 1;
    }
    if request.capabilities.is_empty() {
        request.capabilities = vec![vec!["gpu".to_owned()]];
    }
    Ok(request)
}

/// -1 is all of them.
fn parse_count(text: &str) -> Result<i64, String> {
    if text == "all" {
        return Ok(-1);
    }
    let is_number = text.strip_prefix(['-', '+']).unwrap_or(text).bytes().all(|byte| byte.is_ascii_digit());
    text.parse().map_err(|_| {
        let why = if is_number && text.len() > 1 { "value out of range" } else { "invalid syntax" };
        format!("invalid count ({text}): value must be either \"all\" or an integer: {why}")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests() {
        let one = |text: &str| {
            let request = parse(text).unwrap();
            (request.count, request.device_ids.join(" "), request.capabilities[0].join(" "))
        };
        let expected =
            |count, ids: &str, capabilities: &str| (count, ids.to_owned(), capabilities.to_owned());
        assert_eq!(one("all"), expected(-1, "", "gpu"));
        assert_eq!(one("2"), expected(2, "", "gpu"));
        assert_eq!(one("driver=x"), expected(1, "", "gpu"));
        assert_eq!(one("\"device=0,1\""), expected(0, "0 1", "gpu"));
        assert_eq!(one("count=3,\"capabilities=compute,utility\""), expected(3, "", "compute utility gpu"));
        assert_eq!(parse("all,\"options=a=b,c\"").unwrap().options["a"], "b");
    }

    #[test]
    fn wrong_values_have_dockers_texts() {
        let check = |text: &str, expected: &str| assert_eq!(parse(text).unwrap_err(), expected);
        check("x", "invalid count (x): value must be either \"all\" or an integer: invalid syntax");
        check("count=1,count=2", "gpu request key 'count' can be specified only once");
        check("all,count=2", "gpu request key 'count' can be specified only once");
        check("colour=red", "unexpected key 'colour' in 'colour=red'");
    }
}
