//! Proxies for registries, as values that the daemon hands in; nothing is read from the environment here.

use reqwest::{NoProxy, Proxy, Url};

use crate::config::{ConfigError, Proxies, without_userinfo};

/// What is never asked for through a proxy.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// Checked proxies.
#[derive(Debug, Clone, Default)]
pub(crate) struct ProxySettings {
    http: Option<Url>,
    https: Option<Url>,
    exceptions: String,
}

impl ProxySettings {
    pub(crate) fn parse(proxies: &Proxies) -> Result<Self, ConfigError> {
        let given = proxies.exceptions.as_deref().unwrap_or("");
        Ok(Self {
            http: proxies.http.as_deref().map(parse_proxy).transpose()?.flatten(),
            https: proxies.https.as_deref().map(parse_proxy).transpose()?.flatten(),
            exceptions: if given.is_empty() { LOOPBACK.to_owned() } else { format!("{given},{LOOPBACK}") },
        })
    }

    /// The proxies in the HTTP client's own type.
    pub(crate) fn for_client(&self) -> Result<Vec<Proxy>, reqwest::Error> {
        let exceptions = || NoProxy::from_string(&self.exceptions);
        let mut proxies = Vec::new();
        if let Some(url) = &self.http {
            proxies.push(Proxy::http(url.clone())?.no_proxy(exceptions()));
        }
        if let Some(url) = &self.https {
            proxies.push(Proxy::https(url.clone())?.no_proxy(exceptions()));
        }
        Ok(proxies)
    }

    /// The proxies' host names.
    pub(crate) fn hosts(&self) -> Vec<String> {
        [&self.http, &self.https]
            .into_iter()
            .flatten()
            .filter_map(|url| url.host_str().map(str::to_owned))
            .collect()
    }
}

fn parse_proxy(text: &str) -> Result<Option<Url>, ConfigError> {
    if text.is_empty() {
        return Ok(None);
    }
    // As everywhere, `proxy:3128` means HTTP.
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    match Url::parse(&whole) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.has_host() => Ok(Some(url)),
        _ => Err(ConfigError::Proxy { proxy: without_userinfo(text) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_are_checked() {
        let parse = |http: &str| {
            ProxySettings::parse(&Proxies { http: Some(http.into()), ..Proxies::default() })
                .map(|parsed| parsed.hosts())
        };
        assert_eq!(parse("proxy:3128").unwrap(), ["proxy"]);
        assert_eq!(parse("").unwrap(), [""; 0]);
        let error = parse("socks9://u:secret@p").unwrap_err().to_string();
        assert!(!error.contains("secret"), "{error}");
    }
}
