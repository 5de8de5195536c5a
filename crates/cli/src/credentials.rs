//! Registry credentials: from `DOCKER_AUTH_CONFIG`, a credential helper, or the configuration file.
//!
//! A helper is the program `docker-credential-<name>`, which is told `get`, `store` or `erase` and speaks JSON on its
//! standard streams.

use std::io::Write as _;
use std::process::{Command, Stdio};

use palan_docker_api::types::AuthConfig;
use serde::{Deserialize, Serialize};

use crate::config_file::{self, ConfigFile, auth_key, decode_auth, hostname};
use crate::environment::{DOCKER_AUTH_CONFIG, Environment};
use crate::error::{CliError, Result};
use crate::output::json::Ordered;

/// The user name by which a helper says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";

/// The credentials for a registry's domain or address; `None` if there are none.
pub(crate) fn get(
    config: &ConfigFile,
    environment: &Environment,
    domain: &str,
) -> Result<Option<AuthConfig>> {
    let key = auth_key(domain);
    if let Some(auth) = from_environment(environment, key)? {
        return Ok(Some(auth));
    }
    match config.helper(key) {
        Some(helper) => from_helper(helper, key),
        None => Ok(config.auth(key)),
    }
}

/// Keeps credentials, and says whether they lie in the file as they are.
pub(crate) fn store(config: &mut ConfigFile, auth: &AuthConfig) -> Result<bool> {
    let helper = config.helper(&auth.server_address).map(str::to_owned);
    if let Some(helper) = &helper {
        let (username, secret) = if auth.identity_token.is_empty() {
            (auth.username.as_str(), auth.password.as_str())
        } else {
            (TOKEN_USER, auth.identity_token.as_str())
        };
        let credentials = HelperCredentials {
            server_url: auth.server_address.clone(),
            username: username.to_owned(),
            secret: secret.to_owned(),
        };
        let input = serde_json::to_vec(&credentials)
            .map_err(|error| CliError::new(format!("error storing credentials: {error}")))?;
        run_helper(helper, "store", &input).map_err(|why| {
            CliError::new(format!("error saving credentials: error storing credentials - {why}"))
        })?;
    }
    config.set_auth(auth, helper.is_some());
    config
        .save()
        .map_err(|error| CliError { message: format!("error saving credentials: {error}"), ..error })?;
    Ok(helper.is_none() && !auth.password.is_empty())
}

/// Forgets the credentials of a registry.
pub(crate) fn erase(config: &mut ConfigFile, registry: &str) -> Result<()> {
    if let Some(helper) = config.helper(registry).map(str::to_owned) {
        run_helper(&helper, "erase", registry.as_bytes())
            .map_err(|why| CliError::new(format!("error erasing credentials - {why}")))?;
    }
    if config.remove_auth(registry) { config.save() } else { Ok(()) }
}

fn from_environment(environment: &Environment, key: &str) -> Result<Option<AuthConfig>> {
    let Some(text) = environment.set(DOCKER_AUTH_CONFIG) else { return Ok(None) };
    let broken = |why: &str| CliError::new(format!("{DOCKER_AUTH_CONFIG}: {why}"));
    let value = Ordered::parse(text).map_err(|error| broken(&error.to_string()))?;
    let Some(Ordered::Map(entries)) = value.get("auths") else { return Ok(None) };
    let Some((_, entry)) = entries.iter().find(|(name, _)| name == key || hostname(name) == hostname(key))
    else {
        return Ok(None);
    };
    let auth = entry
        .get("auth")
        .and_then(Ordered::as_str)
        .ok_or_else(|| broken(&format!("the key `auth` is missing for {key}")))?;
    let (username, password) = decode_auth(auth).ok_or_else(|| broken("invalid auth configuration"))?;
    Ok(Some(AuthConfig { username, password, server_address: key.to_owned(), ..AuthConfig::default() }))
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct HelperCredentials {
    #[serde(rename = "ServerURL")]
    server_url: String,
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: String,
}

fn from_helper(helper: &str, key: &str) -> Result<Option<AuthConfig>> {
    let output = match run_helper(helper, "get", key.as_bytes()) {
        Ok(output) => output,
        // The protocol has no other way to say that there are none.
        Err(why) if why.contains("credentials not found") => return Ok(None),
        Err(why) => return Err(CliError::new(format!("error getting credentials - {why}"))),
    };
    let found: HelperCredentials = serde_json::from_slice(&output).map_err(|error| {
        CliError::new(format!(
            "error getting credentials - docker-credential-{helper} answered no JSON: {error}"
        ))
    })?;
    let mut auth = AuthConfig { server_address: key.to_owned(), ..AuthConfig::default() };
    if found.username == TOKEN_USER {
        auth.identity_token = found.secret;
    } else {
        (auth.username, auth.password) = (found.username, found.secret);
    }
    Ok((auth != AuthConfig { server_address: key.to_owned(), ..AuthConfig::default() }).then_some(auth))
}

#[allow(
    clippy::disallowed_methods,
    reason = "a credential helper is the user's own program and needs the user's environment, directory and terminal"
)]
fn run_helper(helper: &str, action: &str, input: &[u8]) -> Result<Vec<u8>, String> {
    let program = format!("docker-credential-{helper}");
    let failed = |error: &std::io::Error| format!("err: exec: {program:?}: {error}, out: ``");
    let mut child = Command::new(&program)
        .arg(action)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(&error))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A helper that doesn't read its input tells by its exit status what was wrong.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output().map_err(|error| failed(&error))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let text = String::from_utf8_lossy(&output.stdout);
    Err(format!("err: {}, out: `{}`", output.status, text.trim()))
}

/// The address under which `login` and `logout` know a registry.
pub(crate) fn server_address(asked: Option<&str>) -> String {
    match asked {
        None | Some("" | "docker.io") => config_file::HUB.to_owned(),
        Some(address) if address == config_file::HUB => address.to_owned(),
        Some(address) => hostname(address).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_comes_first() {
        let directory = tempfile::tempdir().unwrap();
        let config = ConfigFile::load(directory.path());
        let environment =
            Environment::of(&[(DOCKER_AUTH_CONFIG, r#"{"auths":{"r.example":{"auth":"dTpw"}}}"#)]);
        assert_eq!(get(&config, &environment, "r.example").unwrap().unwrap().username, "u");
        assert_eq!(get(&config, &environment, "other").unwrap(), None);
    }

    #[test]
    fn registries_are_named_as_in_the_file() {
        assert_eq!(server_address(None), config_file::HUB);
        assert_eq!(server_address(Some("https://r.example/v2/")), "r.example");
    }

    #[test]
    fn a_missing_helper_is_named() {
        let error = from_helper("palan-test-missing", "x").unwrap_err();
        assert!(error.message.contains("docker-credential-palan-test-missing"), "{error}");
    }
}
