//! `hosts.toml`: where an administrator wants a registry's images to be fetched from and pushed to, as containerd reads it
//! (its `docs/hosts.md`).
//!
//! ```toml
//! server = "https://registry-1.docker.io"        # asked last; the registry itself if it is not named
//!
//! [host."https://mirror.example.com/hub"]        # asked in this order
//! capabilities = ["pull", "resolve"]             # all three if nothing is said
//! ca = "mirror.pem"                              # or a list; relative to the directory of this file
//! client = [["client.pem", "client.key"]]        # or one file with both
//! skip_verify = false
//! override_path = false                          # the path is the API's root: no "/v2" is added
//! dial_timeout = "5s"
//! header = { x-team = "blue" }
//! ```
//! A registry's file is `<directory>/<host>_<port>_/hosts.toml` or `<directory>/<host:port>/hosts.toml`; `_default` is for
//! registries without a directory. Without the file, the directory holds certificates (see [`crate::certificates`]).
//!
//! Unlike containerd, a key that is not known is an error, and the user's credentials go to the registry itself alone:
//! a client gives them for that one, not for the hosts that stand in for it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use palan_stdx::fs;
use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use toml::{Table, Value};

use crate::config::without_userinfo;

/// The largest file that is read.
const LARGEST: usize = 256 * 1024;

/// What a file says, in its order; the server, if it names one, is apart.
#[derive(Debug, Default)]
pub(crate) struct HostsFile {
    pub(crate) hosts: Vec<Host>,
    pub(crate) server: Option<Host>,
}

/// One place to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Host {
    /// The API's root, ending in a slash.
    pub(crate) api: Url,
    pub(crate) capabilities: Capabilities,
    pub(crate) skip_verify: bool,
    pub(crate) extras: Arc<Extras>,
}

/// What a place may be asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Capabilities {
    /// Content by its digest.
    pub(crate) pull: bool,
    /// What a tag leads to: it must be trusted for that.
    pub(crate) resolve: bool,
    pub(crate) push: bool,
}

impl Capabilities {
    /// What is meant where nothing is said.
    pub(crate) const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// What else belongs to requests to a place.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Extras {
    /// Files with authorities.
    pub(crate) authorities: Vec<PathBuf>,
    /// Files with a certificate, and with its key where that is apart.
    pub(crate) clients: Vec<(PathBuf, Option<PathBuf>)>,
    pub(crate) headers: HeaderMap,
    /// How long to wait for a connection.
    pub(crate) connect: Option<Duration>,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {reason}", path.display())]
pub(crate) struct HostsError {
    path: PathBuf,
    reason: String,
}

/// The file for a registry (`host[:port]`); `None` where the administrator wrote none.
pub(crate) fn find(directories: &[PathBuf], registry: &str) -> Result<Option<HostsFile>, HostsError> {
    // The name comes from an image reference; it must stay one component.
    if registry.is_empty() || registry.starts_with(['.', '_']) || registry.contains(['/', '\0']) {
        return Ok(None);
    }
    let mut names = vec![registry.to_owned()];
    if let Some((host, port)) = registry.rsplit_once(':') {
        names.insert(0, format!("{host}_{port}_"));
    }
    let own = directories.iter().flat_map(|parent| names.iter().map(move |name| parent.join(name)));
    let own: Vec<PathBuf> = own.filter(|directory| directory.is_dir()).collect();
    let directories =
        if own.is_empty() { directories.iter().map(|parent| parent.join("_default")).collect() } else { own };
    for directory in directories {
        let path = directory.join("hosts.toml");
        let unusable = |reason: String| HostsError { path: path.clone(), reason };
        let content = fs::read_to_string_if_exists(&path)
            .map_err(|error| unusable(palan_stdx::error_chain::to_string(&error)))?;
        if let Some(content) = content {
            if content.len() > LARGEST {
                return Err(unusable(format!("it is larger than {LARGEST} bytes")));
            }
            return parse(&content, &directory).map(Some).map_err(unusable);
        }
    }
    Ok(None)
}

fn parse(text: &str, directory: &Path) -> Result<HostsFile, String> {
    let mut table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let hosts = match table.remove("host") {
        None => Table::new(),
        Some(Value::Table(hosts)) => hosts,
        Some(_) => return Err("\"host\" must be a table".to_owned()),
    };
    let server = match table.remove("server") {
        None => None,
        Some(server) => Some(text_of("server", &server)?.to_owned()),
    };
    let mut file = HostsFile::default();
    for (name, section) in hosts {
        let Value::Table(section) = section else { return Err(format!("host {name:?} must be a table")) };
        let host = host(&name, section, directory)
            .map_err(|why| format!("host {:?}: {why}", without_userinfo(&name)))?;
        file.hosts.push(host);
    }
    file.server = match server {
        Some(name) if !name.is_empty() => Some(host(&name, table, directory)?),
        _ if table.is_empty() => None,
        _ => return Err("settings of a server, but no \"server\"".to_owned()),
    };
    Ok(file)
}

fn host(name: &str, section: Table, directory: &Path) -> Result<Host, String> {
    let mut capabilities = Capabilities::ALL;
    let mut extras = Extras::default();
    let (mut skip_verify, mut override_path) = (false, false);
    for (key, value) in &section {
        match key.as_str() {
            "capabilities" => capabilities = parse_capabilities(value)?,
            "ca" => {
                extras.authorities = texts_of("ca", value)?.iter().map(|path| directory.join(path)).collect();
            }
            "client" => extras.clients = parse_clients(value, directory)?,
            "header" => extras.headers = parse_headers(value)?,
            "skip_verify" => skip_verify = truth_of("skip_verify", value)?,
            "override_path" => override_path = truth_of("override_path", value)?,
            "dial_timeout" => {
                let text = text_of("dial_timeout", value)?;
                let duration = palan_stdx::duration::parse(text)
                    .map_err(|_| format!("dial_timeout: {text:?} is no duration such as \"5s\""))?;
                extras.connect = Some(duration);
            }
            other => return Err(format!("the key {other:?} is not known")),
        }
    }
    let api = api_root(name, override_path)?;
    Ok(Host { api, capabilities, skip_verify, extras: Arc::new(extras) })
}

/// `https` where no scheme is named; `/v2` behind the path, unless it is there or not wanted.
fn api_root(name: &str, override_path: bool) -> Result<Url, String> {
    let whole = if name.contains("://") { name.to_owned() } else { format!("https://{name}") };
    let mut url = Url::parse(&whole).map_err(|error| format!("{name:?} is no URL: {error}"))?;
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(format!("{name:?} is no HTTP URL"));
    }
    if !url.username().is_empty()
        || url.password().is_some()
        || url.query().is_some()
        || url.fragment().is_some()
    {
        return Err("user, password, query and fragment are not allowed in the URL".to_owned());
    }
    let path = url.path().trim_end_matches('/').to_owned();
    let path = if override_path || path.ends_with("/v2") { path } else { format!("{path}/v2") };
    url.set_path(&format!("{path}/"));
    Ok(url)
}

fn parse_capabilities(value: &Value) -> Result<Capabilities, String> {
    let mut capabilities = Capabilities { pull: false, resolve: false, push: false };
    let names = texts_of("capabilities", value)?;
    if names.is_empty() {
        return Ok(Capabilities::ALL);
    }
    for name in names {
        match name.to_ascii_lowercase().as_str() {
            "pull" => capabilities.pull = true,
            "resolve" => capabilities.resolve = true,
            "push" => capabilities.push = true,
            _ => return Err(format!("unknown capability {name}")),
        }
    }
    Ok(capabilities)
}

/// A file, several, or pairs of certificate and key.
fn parse_clients(value: &Value, directory: &Path) -> Result<Vec<(PathBuf, Option<PathBuf>)>, String> {
    let list = match value {
        Value::String(path) => return Ok(vec![(directory.join(path), None)]),
        Value::Array(list) => list,
        _ => return Err("client must be a file or a list of files".to_owned()),
    };
    let pair = |item: &Value| match item {
        Value::String(path) => Ok((directory.join(path), None)),
        Value::Array(_) => match texts_of("client", item)?[..] {
            [certificate] => Ok((directory.join(certificate), None)),
            [certificate, ""] => Ok((directory.join(certificate), None)),
            [certificate, key] => Ok((directory.join(certificate), Some(directory.join(key)))),
            _ => Err("client: a pair is a certificate and its key".to_owned()),
        },
        _ => Err("client must be a file or a list of files".to_owned()),
    };
    list.iter().map(pair).collect()
}

fn parse_headers(value: &Value) -> Result<HeaderMap, String> {
    let Value::Table(table) = value else { return Err("header must be a table".to_owned()) };
    let mut headers = HeaderMap::new();
    for (name, value) in table {
        let wrong = || format!("header {name:?} cannot be sent");
        let key: HeaderName = name.parse().map_err(|_| wrong())?;
        for text in texts_of("header", value)? {
            let mut value = HeaderValue::from_str(text).map_err(|_| wrong())?;
            value.set_sensitive(true);
            headers.append(key.clone(), value);
        }
    }
    Ok(headers)
}

fn text_of<'a>(key: &str, value: &'a Value) -> Result<&'a str, String> {
    value.as_str().ok_or_else(|| format!("{key} must be a string"))
}

/// A string or a list of strings.
fn texts_of<'a>(key: &str, value: &'a Value) -> Result<Vec<&'a str>, String> {
    match value {
        Value::String(text) => Ok(vec![text]),
        Value::Array(list) => list.iter().map(|item| text_of(key, item)).collect(),
        _ => Err(format!("{key} must be a string or a list of strings")),
    }
}

fn truth_of(key: &str, value: &Value) -> Result<bool, String> {
    value.as_bool().ok_or_else(|| format!("{key} must be true or false"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<HostsFile, String> {
        parse(text, Path::new("/d"))
    }

    #[test]
    fn hosts_keep_their_order_and_get_their_paths() {
        let file = read(
            r#"
            server = "https://registry.example.com"
            [host."https://z.example.com"]
            [host."http://a.example.com:5000/hub"]
            [host."m.example.com/v2"]
            [host."https://n.example.com/api"]
            override_path = true
            "#,
        )
        .unwrap();
        let urls: Vec<&str> = file.hosts.iter().map(|host| host.api.as_str()).collect();
        assert_eq!(
            urls,
            [
                "https://z.example.com/v2/",
                "http://a.example.com:5000/hub/v2/",
                "https://m.example.com/v2/",
                "https://n.example.com/api/"
            ]
        );
        assert_eq!(file.server.unwrap().api.as_str(), "https://registry.example.com/v2/");
    }

    #[test]
    fn every_setting_has_its_forms() {
        let file = read(
            r#"
            [host."https://m"]
            capabilities = ["pull", "Resolve"]
            ca = ["/abs.pem", "rel.pem"]
            client = [["c.pem", "c.key"], ["both.pem"], "one.pem"]
            skip_verify = true
            dial_timeout = "1500ms"
            [host."https://m".header]
            x-one = "1"
            x-two = ["2", "3"]
            "#,
        )
        .unwrap();
        let host = &file.hosts[0];
        assert_eq!(host.capabilities, Capabilities { pull: true, resolve: true, push: false });
        assert!(host.skip_verify);
        let path = |text: &str| PathBuf::from(text);
        assert_eq!(host.extras.authorities, [path("/abs.pem"), path("/d/rel.pem")]);
        assert_eq!(
            host.extras.clients,
            [
                (path("/d/c.pem"), Some(path("/d/c.key"))),
                (path("/d/both.pem"), None),
                (path("/d/one.pem"), None)
            ]
        );
        assert_eq!(host.extras.connect, Some(Duration::from_millis(1500)));
        assert_eq!(host.extras.headers.get_all("x-two").iter().count(), 2);
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (text, why) in [
            ("x = 1", "settings of a server"),
            ("server = 1", "must be a string"),
            ("host = 1", "must be a table"),
            ("[host.\"ftp://x\"]", "no HTTP URL"),
            ("[host.\"https://u:p@x\"]", "not allowed in the URL"),
            ("[host.\"https://x\"]\ncapabilities = [\"fly\"]", "unknown capability fly"),
            ("[host.\"https://x\"]\nskip_verify = \"yes\"", "must be true or false"),
            ("[host.\"https://x\"]\nspeed = 9", "\"speed\" is not known"),
            ("[host.\"https://x\"]\ndial_timeout = \"soon\"", "no duration"),
            ("[host.\"https://x\".header]\n\"a b\" = \"c\"", "cannot be sent"),
            ("[host", ""),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(why), "{text}: {error}");
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_file_is_found_by_the_registrys_name() {
        let parent = tempfile::tempdir().unwrap();
        let directories = [parent.path().to_owned()];
        let write = |name: &str, server: &str| {
            let directory = parent.path().join(name);
            std::fs::create_dir_all(&directory).unwrap();
            std::fs::write(directory.join("hosts.toml"), format!("server = {server:?}")).unwrap();
        };
        let server = |registry: &str| {
            let file = find(&directories, registry).unwrap();
            file.and_then(|file| file.server).map(|server| server.api.host_str().unwrap().to_owned())
        };
        assert_eq!(server("r.example.com"), None);
        write("_default", "https://default");
        write("r.example.com", "https://own");
        write("r.example.com:5000", "https://with-port");
        assert_eq!(server("r.example.com").as_deref(), Some("own"));
        assert_eq!(server("r.example.com:5000").as_deref(), Some("with-port"));
        write("r.example.com_5000_", "https://underscores");
        assert_eq!(server("r.example.com:5000").as_deref(), Some("underscores"));
        assert_eq!(server("other").as_deref(), Some("default"));
        for bad in ["../_default", "_default", "..", ""] {
            assert_eq!(server(bad), None, "{bad}");
        }
        // Certificates only: nothing to say about hosts, and the default is not for it.
        std::fs::create_dir(parent.path().join("certs")).unwrap();
        assert_eq!(server("certs"), None);
    }
}
