//! What the image says and the caller did not: both configurations become one, by Docker's rules.

use palan_oci::image_config::{self, ExecutionConfig};

use crate::spec::{Config, Healthcheck};
use crate::{Error, Result};

/// Fills what the caller left open from the image. Lists of the image come after the caller's, as in Docker.
pub(crate) fn merge(mut config: Config, image: &ExecutionConfig) -> Config {
    if config.user.is_empty() {
        config.user.clone_from(&image.user);
    }
    config.exposed_ports.extend(image.exposed_ports.keys().map(|port| with_protocol(port)));
    config.exposed_ports = config.exposed_ports.iter().map(|port| with_protocol(port)).collect();
    merge_environment(&mut config.env, &image.env);
    for (name, value) in &image.labels {
        config.labels.entry(name.clone()).or_insert_with(|| value.clone());
    }
    merge_command(&mut config, image);
    config.volumes.extend(image.volumes.keys().cloned());
    if config.working_dir.is_empty() {
        config.working_dir.clone_from(&image.working_dir);
    }
    if config.stop_signal.as_deref().unwrap_or_default().is_empty() {
        config.stop_signal = Some(image.stop_signal.clone()).filter(|signal| !signal.is_empty());
    }
    if config.shell.is_none() {
        config.shell.clone_from(&image.shell);
    }
    if let Some(check) = &image.healthcheck {
        merge_healthcheck(config.healthcheck.get_or_insert_default(), check);
    }
    if config.on_build.is_empty() {
        config.on_build.clone_from(&image.on_build);
    }
    config
}

/// What the caller has not said is as in the image, field by field.
fn merge_healthcheck(check: &mut Healthcheck, image: &image_config::Healthcheck) {
    let image = Healthcheck::from(image);
    if check.test.is_empty() {
        check.test = image.test;
    }
    let fields = [
        (&mut check.interval, image.interval),
        (&mut check.timeout, image.timeout),
        (&mut check.start_period, image.start_period),
        (&mut check.start_interval, image.start_interval),
        (&mut check.retries, image.retries),
    ];
    for (own, inherited) in fields {
        if *own == 0 {
            *own = inherited;
        }
    }
}

/// Program and arguments of a merged configuration.
pub(crate) fn command_line(config: &Config) -> Result<(String, Vec<String>)> {
    let mut words = config.entrypoint.iter().flatten().chain(config.cmd.iter().flatten()).cloned();
    match words.next() {
        Some(program) => Ok((program, words.collect())),
        None => Err(Error::invalid("no command specified")),
    }
}

fn with_protocol(port: &str) -> String {
    if port.contains('/') { port.to_owned() } else { format!("{port}/tcp") }
}

/// The image's program counts only when the caller named none, and its arguments only when the caller named neither. An
/// entrypoint of one empty string takes the image's away.
fn merge_command(config: &mut Config, image: &ExecutionConfig) {
    let no_entrypoint = config.entrypoint.as_ref().is_none_or(Vec::is_empty);
    if no_entrypoint {
        if config.cmd.as_ref().is_none_or(Vec::is_empty) {
            config.cmd.clone_from(&image.cmd);
            config.args_escaped = image.args_escaped;
        }
        if config.entrypoint.is_none() {
            config.entrypoint.clone_from(&image.entrypoint);
        }
    }
    if config.entrypoint.as_deref() == Some(&[String::new()]) {
        config.entrypoint = None;
    }
}

/// Adds the image's variables that the caller did not name. An entry of the image that is no assignment is dropped: it must
/// never take a value from this host.
fn merge_environment(env: &mut Vec<String>, image: &[String]) {
    for entry in image {
        let Some((name, _)) = entry.split_once('=') else { continue };
        let is_named = |own: &String| own.split_once('=').map_or(own.as_str(), |(own, _)| own) == name;
        if !name.is_empty() && !entry.contains('\0') && !env.iter().any(is_named) {
            env.push(entry.clone());
        }
    }
}

/// The environment of the process: the defaults, then the configuration's variables over them. An entry without `=` removes
/// a variable.
pub(crate) fn environment(config: &Config) -> Vec<String> {
    const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    let mut environment = vec![PATH.to_owned(), format!("HOSTNAME={}", config.hostname)];
    if config.tty {
        environment.push("TERM=xterm".into());
    }
    override_environment(&mut environment, &config.env);
    environment
}

/// Replaces variables in their place, appends new ones, removes those without `=`.
pub(crate) fn override_environment(environment: &mut Vec<String>, overrides: &[String]) {
    for entry in overrides {
        let (name, is_removal) =
            entry.split_once('=').map_or((entry.as_str(), true), |(name, _)| (name, false));
        let position =
            environment.iter().position(|own| own.split_once('=').is_some_and(|(own, _)| own == name));
        match (position, is_removal) {
            (Some(position), true) => drop(environment.remove(position)),
            (Some(position), false) => environment[position].clone_from(entry),
            (None, true) => {}
            (None, false) => environment.push(entry.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(words: &[&str]) -> Option<Vec<String>> {
        Some(words.iter().map(|word| (*word).to_owned()).collect())
    }

    fn command(entrypoint: Option<Vec<String>>, cmd: Option<Vec<String>>) -> Vec<String> {
        let image =
            ExecutionConfig { entrypoint: list(&["/init"]), cmd: list(&["serve"]), ..Default::default() };
        let merged = merge(Config { entrypoint, cmd, ..Config::default() }, &image);
        match command_line(&merged) {
            Ok((path, args)) => std::iter::once(path).chain(args).collect(),
            Err(error) => vec![format!("error: {error}")],
        }
    }

    #[test]
    fn commands() {
        assert_eq!(command(None, None), ["/init", "serve"]);
        assert_eq!(command(None, list(&["x"])), ["/init", "x"]);
        assert_eq!(command(list(&["/bin/sh"]), None), ["/bin/sh"]);
        assert_eq!(command(list(&[""]), list(&["ls"])), ["ls"]);
        assert_eq!(command(list(&[""]), None), ["error: no command specified"]);
    }

    #[test]
    fn environments() {
        let image = ExecutionConfig {
            env: ["PATH=/bin", "A=image", "B=image", "MALFORMED", "=x"].map(String::from).to_vec(),
            ..Default::default()
        };
        let asked =
            Config { env: vec!["A=own".into(), "PATH".into()], hostname: "h".into(), ..Config::default() };
        let merged = merge(asked, &image);
        assert_eq!(merged.env, ["A=own", "PATH", "B=image"]);
        assert_eq!(environment(&merged), ["HOSTNAME=h", "A=own", "B=image"]);
        let plain = merge(Config { tty: true, hostname: "h".into(), ..Config::default() }, &image);
        assert_eq!(environment(&plain), ["PATH=/bin", "HOSTNAME=h", "TERM=xterm", "A=image", "B=image"]);
    }

    #[test]
    fn the_callers_labels_and_settings_win() {
        let image = ExecutionConfig {
            user: "app".into(),
            working_dir: "/srv".into(),
            labels: [("a".into(), "image".into()), ("b".into(), "image".into())].into(),
            stop_signal: "SIGINT".into(),
            ..Default::default()
        };
        let asked =
            Config { labels: [("a".into(), "own".into())].into(), user: "root".into(), ..Config::default() };
        let merged = merge(asked, &image);
        assert_eq!((merged.labels["a"].as_str(), merged.labels["b"].as_str()), ("own", "image"));
        assert_eq!((merged.user.as_str(), merged.working_dir.as_str()), ("root", "/srv"));
        assert_eq!(merged.stop_signal.as_deref(), Some("SIGINT"));
    }
}
