//! The proxies that the daemon reaches registries by: `proxies` of `daemon.json`, flags, or the environment.

use serde_json::Value;

use crate::{Error, Result};

/// The daemon's proxies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProxySettings {
    /// For plain HTTP: `http-proxy`, else `HTTP_PROXY`.
    pub http: Option<String>,
    /// For HTTPS: `https-proxy`, else `HTTPS_PROXY`.
    pub https: Option<String>,
    /// Hosts and networks that are reached without: `no-proxy`, else `NO_PROXY`.
    pub exceptions: Option<String>,
}

impl ProxySettings {
    /// Reads the object of `daemon.json`.
    pub(crate) fn parse(value: &Value, wrong: impl Fn() -> Error) -> Result<Self> {
        let mut proxies = Self::default();
        for (key, value) in value.as_object().ok_or_else(&wrong)? {
            proxies.set(key, value.as_str().ok_or_else(&wrong)?)?;
        }
        Ok(proxies)
    }

    /// Sets one of the three by the name of its key.
    pub(crate) fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let place = match key {
            "http-proxy" => &mut self.http,
            "https-proxy" => &mut self.https,
            "no-proxy" => &mut self.exceptions,
            _ => return Err(Error::invalid(format!("the configuration key \"proxies\" has no {key:?}"))),
        };
        if place.replace(value.to_owned()).is_some() {
            return Err(Error::invalid(format!(
                "the following directives are specified both as a flag and in the configuration file: {key}"
            )));
        }
        Ok(())
    }

    /// Takes from the environment what no setting says. As everywhere, both cases of letters count.
    pub fn or_environment(&mut self, variable: impl Fn(&str) -> Option<String>) {
        let find = |name: &str| {
            let found = variable(name).or_else(|| variable(&name.to_lowercase()));
            found.filter(|value| !value.is_empty())
        };
        for (place, name) in [
            (&mut self.http, "HTTP_PROXY"),
            (&mut self.https, "HTTPS_PROXY"),
            (&mut self.exceptions, "NO_PROXY"),
        ] {
            if place.is_none() {
                *place = find(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_come_before_the_environment() {
        let value = serde_json::json!({"http-proxy": "http://a:1", "no-proxy": ""});
        let mut proxies = ProxySettings::parse(&value, || Error::invalid("wrong")).unwrap();
        let variables = [("HTTP_PROXY", "http://b:1"), ("https_proxy", "http://c:1"), ("NO_PROXY", "d")];
        proxies.or_environment(|name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        });
        let text = |value: &str| Some(value.to_owned());
        let expected =
            ProxySettings { http: text("http://a:1"), https: text("http://c:1"), exceptions: text("") };
        assert_eq!(proxies, expected);
    }

    #[test]
    fn what_is_no_proxy_is_said() {
        let parse = |value: Value| ProxySettings::parse(&value, || Error::invalid("wrong"));
        assert!(parse(serde_json::json!({"ftp-proxy": "x"})).is_err());
        assert!(parse(serde_json::json!({"http-proxy": 1})).is_err());
        assert!(parse(serde_json::json!("x")).is_err());
        let mut twice = ProxySettings::default();
        twice.set("http-proxy", "a").unwrap();
        assert!(twice.set("http-proxy", "b").unwrap_err().report().contains("both as a flag"));
    }
}
