//! What this machine is set up with: package sources, certificates, registries, proxies; and a Debian base that has them.
//!
//! A company's base image has its mirrors, too; so the Dockerfiles upon it are those of any machine. What names a registry is
//! taken: credentials are not, nor what names files of this machine.

use std::path::{Path, PathBuf};

use crate::Failure;
use crate::process::{check, command, find, output};

/// The settings, and files for the base that carry them.
pub(crate) struct Machine {
    suite: String,
    /// Lists of sources that serve the suite.
    sources: Vec<PathBuf>,
    /// A file of this machine, and where it belongs in the base.
    files: Vec<(PathBuf, String)>,
    /// Proxies, which builders know without `ARG`.
    pub(super) build_arguments: Vec<(String, String)>,
}

/// Debian's official image cleans up like this after each installation, and Dockerfiles rely on it.
const CLEAN: &str = r#"DPkg::Post-Invoke { "rm -f /var/cache/apt/archives/*.deb /var/cache/apt/archives/partial/*.deb /var/cache/apt/*.bin || true"; };
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
"#;

const PROXIES: [&str; 8] = [
    "http_proxy",
    "https_proxy",
    "ftp_proxy",
    "no_proxy",
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "FTP_PROXY",
    "NO_PROXY",
];

impl Machine {
    /// Reads them; what is made of them lies in `scratch`.
    pub(crate) fn read(scratch: &Path) -> Result<Self, Failure> {
        let release = std::fs::read_to_string("/etc/os-release")?;
        let suite = release
            .lines()
            .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
            .map(|name| name.trim_matches('"').to_owned())
            .ok_or("/etc/os-release has no VERSION_CODENAME: this task needs Debian")?;
        let mut machine = Self { suite, sources: Vec::new(), files: Vec::new(), build_arguments: Vec::new() };
        machine.read_sources(scratch)?;
        machine.read_certificates()?;
        let settings = output(command("apt-config").arg("dump"))?;
        let acquire: String =
            settings.lines().filter(|line| is_way_to_mirror(line)).map(|line| format!("{line}\n")).collect();
        machine.add(scratch, "apt-clean", "/etc/apt/apt.conf.d/docker-clean", CLEAN)?;
        machine.add(scratch, "apt-acquire", "/etc/apt/apt.conf.d/90acquire", &acquire)?;
        machine.add(scratch, "pip", "/etc/pip.conf", &pip())?;
        machine.add(scratch, "npm", "/root/.npmrc", &npm())?;
        machine.add(scratch, "cargo", "/root/.cargo/config.toml", &cargo())?;
        for name in PROXIES {
            if let Ok(value) = std::env::var(name) {
                machine.build_arguments.push((name.to_owned(), value));
            }
        }
        Ok(machine)
    }

    /// Makes a tar archive of a small Debian with what apt needs; `more` are arguments of mmdebstrap.
    pub(crate) fn make_base(&self, archive: &Path, more: &[&str]) -> Result<(), Failure> {
        let mut make = command("mmdebstrap");
        make.args(["--quiet", "--variant=apt", "--format=tar", "--include=ca-certificates"]);
        for (from, to) in &self.files {
            let parent = Path::new(to).parent().unwrap_or(Path::new("/"));
            make.arg(format!("--customize-hook=mkdir -p \"$1{}\"", parent.display()));
            make.arg(format!("--customize-hook=upload {} {to}", from.display()));
        }
        make.arg("--customize-hook=chroot \"$1\" update-ca-certificates");
        make.args(more);
        // They are this machine's, and containers have their own.
        make.arg("--customize-hook=rm -f \"$1/etc/hostname\" \"$1/etc/resolv.conf\"");
        // Of the installation on this machine; the settings above keep none.
        make.arg("--customize-hook=rm -f \"$1\"/var/cache/apt/*.bin");
        make.arg(&self.suite).arg(archive).args(&self.sources);
        check(make.stdout(std::process::Stdio::null()))
    }

    fn add(&mut self, scratch: &Path, name: &str, to: &str, text: &str) -> Result<(), Failure> {
        if !text.is_empty() {
            let path = scratch.join(name);
            std::fs::write(&path, text)?;
            self.files.push((path, to.to_owned()));
        }
        Ok(())
    }

    fn read_sources(&mut self, scratch: &Path) -> Result<(), Failure> {
        let mut lists = vec![PathBuf::from("/etc/apt/sources.list")];
        if let Ok(entries) = std::fs::read_dir("/etc/apt/sources.list.d") {
            lists.extend(entries.filter_map(Result::ok).map(|entry| entry.path()));
        }
        lists.sort();
        for (number, list) in lists.iter().enumerate() {
            let Ok(text) = std::fs::read_to_string(list) else { continue };
            let kept = match list.extension().and_then(|extension| extension.to_str()) {
                Some("list") => lines_of(&text, &self.suite),
                Some("sources") => stanzas_of(&text, &self.suite),
                _ => continue,
            };
            if kept.is_empty() {
                continue;
            }
            for key in keys_of(&kept) {
                if !self.files.iter().any(|(_, to)| *to == key) {
                    self.files.push((PathBuf::from(&key), key));
                }
            }
            let path = scratch.join(format!("sources{number}"));
            std::fs::write(&path, kept)?;
            self.sources.push(path);
        }
        if self.sources.is_empty() {
            return Err(format!("no source of /etc/apt serves {}", self.suite).into());
        }
        Ok(())
    }

    /// The certificates that the administrator has added.
    fn read_certificates(&mut self) -> Result<(), Failure> {
        let directory = Path::new("/usr/local/share/ca-certificates");
        let Ok(entries) = std::fs::read_dir(directory) else { return Ok(()) };
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == "crt") {
                let to = path.display().to_string();
                self.files.push((path, to));
            }
        }
        Ok(())
    }
}

/// `deb` lines whose suite is this one, or one of its additions: `bookworm`, `bookworm-security`, `bookworm/updates`.
fn lines_of(text: &str, suite: &str) -> String {
    let serves = |line: &&str| {
        let mut words = line.split_whitespace();
        words.next() == Some("deb") && words.any(|word| is_of_suite(word, suite))
    };
    text.lines().filter(serves).map(|line| format!("{line}\n")).collect()
}

/// The same of the newer format.
fn stanzas_of(text: &str, suite: &str) -> String {
    let serves = |stanza: &&str| {
        let suites = stanza.lines().filter_map(|line| line.strip_prefix("Suites:"));
        suites.flat_map(str::split_whitespace).any(|word| is_of_suite(word, suite))
    };
    text.split("\n\n").filter(serves).map(|stanza| format!("{}\n\n", stanza.trim())).collect()
}

fn is_of_suite(word: &str, suite: &str) -> bool {
    word.strip_prefix(suite).is_some_and(|rest| rest.is_empty() || rest.starts_with(['-', '/']))
}

/// Files of keys that sources name.
fn keys_of(text: &str) -> Vec<String> {
    let words = text.split(|letter: char| letter.is_whitespace() || "[],=:".contains(letter));
    words.filter(|word| word.starts_with('/') && Path::new(word).is_file()).map(str::to_owned).collect()
}

fn is_way_to_mirror(line: &str) -> bool {
    ["Acquire::http::Proxy", "Acquire::https::Proxy", "Acquire::Check-"]
        .iter()
        .any(|name| line.starts_with(name))
}

/// What names an index, of pip's settings.
fn pip() -> String {
    let listed = find("python3").and_then(|python| {
        output(command(python).args(["-m", "pip", "config", "list"]).stderr(std::process::Stdio::null())).ok()
    });
    let mut text = String::new();
    for line in listed.unwrap_or_default().lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let key = key.rsplit('.').next().unwrap_or(key);
        if ["index-url", "extra-index-url", "trusted-host"].contains(&key) {
            text += &format!("{key} = {}\n", value.trim_matches('\''));
        }
    }
    if text.is_empty() { text } else { format!("[global]\n{text}") }
}

fn npm() -> String {
    let asked = find("npm").and_then(|npm| output(command(npm).args(["config", "get", "registry"])).ok());
    asked
        .filter(|registry| registry.starts_with("http"))
        .map_or_else(String::new, |registry| format!("registry={registry}"))
}

/// The tables of cargo's settings that say where crates come from.
fn cargo() -> String {
    let home = std::env::var_os("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
    let text = home.and_then(|home| std::fs::read_to_string(home.join("config.toml")).ok());
    tables_of(&text.unwrap_or_default())
}

fn tables_of(text: &str) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in text.lines() {
        if let Some(name) = line.trim_start().strip_prefix('[') {
            inside = ["source.", "registries.", "registry]"].iter().any(|table| name.starts_with(table));
        }
        if inside && !line.trim_start().starts_with("token") {
            kept += &format!("{line}\n");
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_of_other_suites_are_left_out() {
        let text = "# deb http://a trixie main\ndeb http://a trixie main\ndeb [signed-by=/k] http://a trixie-security main\n\
                    deb http://b forky main\ndeb http://c cloud-trixie main\ndeb-src http://a trixie main\n";
        let kept = "deb http://a trixie main\ndeb [signed-by=/k] http://a trixie-security main\n";
        assert_eq!(lines_of(text, "trixie"), kept);
        let text = "Types: deb\nURIs: http://a\nSuites: trixie trixie-updates\n\nTypes: deb\nURIs: http://b\nSuites: nodistro\n";
        assert_eq!(
            stanzas_of(text, "trixie"),
            "Types: deb\nURIs: http://a\nSuites: trixie trixie-updates\n\n"
        );
    }

    #[test]
    fn of_cargos_settings_only_sources_are_taken() {
        let text = "[build]\nrustflags = []\n[source.crates-io]\nreplace-with = \"m\"\n[source.m]\nregistry = \"sparse+http://m/\"\n\
                    [net]\nretry = 3\n[registries.own]\nindex = \"i\"\ntoken = \"secret\"\n";
        let kept = "[source.crates-io]\nreplace-with = \"m\"\n[source.m]\nregistry = \"sparse+http://m/\"\n[registries.own]\nindex = \"i\"\n";
        assert_eq!(tables_of(text), kept);
    }
}
