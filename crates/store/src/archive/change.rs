//! The Dockerfile instructions of `import --change` and `commit --change`, applied to an image's configuration.

use palan_oci::image_config::{Empty, ExecutionConfig, Healthcheck};
use palan_stdx::duration;

mod words;

use words::{Unfinished, expand, split};

/// A change that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// Not one of the instructions. The text is Docker's.
    #[error("{instruction} is not a valid change command")]
    Unknown {
        /// As written.
        instruction: String,
    },
    /// An instruction without what it needs.
    #[error("{instruction} requires {needs}")]
    Arguments {
        /// The instruction.
        instruction: &'static str,
        /// What.
        needs: &'static str,
    },
    /// A value that is none.
    #[error("{instruction} {value:?} is not valid: {reason}")]
    Value {
        /// The instruction.
        instruction: &'static str,
        /// As written.
        value: String,
        /// What is wrong.
        reason: &'static str,
    },
    /// A health check's duration.
    #[error("HEALTHCHECK --{option} is not valid")]
    Duration {
        /// The option.
        option: String,
        /// What is wrong.
        source: duration::ParseError,
    },
}

/// Applies Dockerfile instructions to a configuration, in order: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD,
/// STOPSIGNAL, USER, VOLUME, WORKDIR.
pub fn apply(config: &mut ExecutionConfig, changes: &[String]) -> Result<(), ChangeError> {
    let mut has_cmd = false;
    for line in changes.iter().flat_map(|change| change.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (instruction, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match instruction.to_ascii_uppercase().as_str() {
            "CMD" => {
                has_cmd = true;
                config.cmd = Some(command("CMD", rest, config)?);
            }
            "ENTRYPOINT" => {
                config.entrypoint = Some(command("ENTRYPOINT", rest, config)?);
                if !has_cmd {
                    config.cmd = None;
                }
            }
            "ENV" => {
                for (name, value) in assignments("ENV", rest, &config.env)? {
                    set_env(&mut config.env, &name, &value);
                }
            }
            "LABEL" => config.labels.extend(assignments("LABEL", rest, &config.env)?),
            "EXPOSE" => {
                for port in values("EXPOSE", "at least one argument", rest, &config.env)? {
                    config.exposed_ports.extend(ports(&port)?.into_iter().map(|port| (port, Empty {})));
                }
            }
            "VOLUME" => volumes(config, rest)?,
            "USER" => config.user = value("USER", rest, &config.env)?,
            "STOPSIGNAL" => config.stop_signal = stop_signal(&value("STOPSIGNAL", rest, &config.env)?)?,
            "WORKDIR" => {
                let directory = value("WORKDIR", rest, &config.env)?;
                config.working_dir = below(&config.working_dir, &directory);
            }
            "ONBUILD" => config.on_build.push(trigger(rest)?),
            "HEALTHCHECK" => config.healthcheck = Some(healthcheck(rest, config)?),
            _ => return Err(ChangeError::Unknown { instruction: instruction.to_owned() }),
        }
    }
    Ok(())
}

/// A JSON list of words, or a line for the shell.
fn command(
    instruction: &'static str,
    rest: &str,
    config: &ExecutionConfig,
) -> Result<Vec<String>, ChangeError> {
    if rest.is_empty() {
        return Err(ChangeError::Arguments { instruction, needs: "at least one argument" });
    }
    if let Some(words) = json_words(rest) {
        return Ok(words);
    }
    let mut words = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    words.push(rest.to_owned());
    Ok(words)
}

fn json_words(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

/// `name=value …`, or the old `name value` with the rest of the line as the value.
fn assignments(
    instruction: &'static str,
    rest: &str,
    env: &[String],
) -> Result<Vec<(String, String)>, ChangeError> {
    let words = words_of(instruction, rest)?;
    let Some(first) = words.first() else {
        return Err(ChangeError::Arguments { instruction, needs: "at least one argument" });
    };
    if !first.contains('=') {
        let (name, text) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        if text.trim().is_empty() {
            return Err(ChangeError::Arguments { instruction, needs: "two arguments, or name=value" });
        }
        return Ok(vec![(expanded(instruction, name, env)?, expanded(instruction, text.trim(), env)?)]);
    }
    let pair = |word: &String| {
        let invalid = |reason| ChangeError::Value { instruction, value: word.clone(), reason };
        let (name, text) = word.split_once('=').ok_or_else(|| invalid("it has no ="))?;
        let name = expanded(instruction, name, env)?;
        if name.is_empty() {
            return Err(invalid("it has no name"));
        }
        Ok((name, expanded(instruction, text, env)?))
    };
    words.iter().map(pair).collect()
}

fn set_env(env: &mut Vec<String>, name: &str, value: &str) {
    let entry = format!("{name}={value}");
    let is_same = |other: &&mut String| other.split_once('=').is_some_and(|(other, _)| other == name);
    match env.iter_mut().find(is_same) {
        Some(old) => *old = entry,
        None => env.push(entry),
    }
}

fn volumes(config: &mut ExecutionConfig, rest: &str) -> Result<(), ChangeError> {
    const NEEDS: &str = "at least one argument";
    let paths = match json_words(rest) {
        Some(words) => {
            words.iter().map(|word| expanded("VOLUME", word, &config.env)).collect::<Result<_, _>>()?
        }
        None => values("VOLUME", NEEDS, rest, &config.env)?,
    };
    if paths.is_empty() {
        return Err(ChangeError::Arguments { instruction: "VOLUME", needs: NEEDS });
    }
    for path in paths {
        let path = path.trim();
        if path.is_empty() {
            return Err(ChangeError::Value {
                instruction: "VOLUME",
                value: rest.to_owned(),
                reason: "a path is empty",
            });
        }
        config.volumes.insert(path.to_owned(), Empty {});
    }
    Ok(())
}

/// `80`, `80/udp`, `8000-8010/tcp`: one entry for each port.
fn ports(text: &str) -> Result<Vec<String>, ChangeError> {
    let invalid = |reason| ChangeError::Value { instruction: "EXPOSE", value: text.to_owned(), reason };
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = protocol.to_ascii_lowercase();
    if !matches!(protocol.as_str(), "tcp" | "udp" | "sctp") {
        return Err(invalid("the protocol is none of tcp, udp and sctp"));
    }
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let port = |text: &str| text.parse::<u16>().map_err(|_| invalid("a port is a number from 0 to 65535"));
    let (first, last) = (port(first)?, port(last)?);
    if first > last {
        return Err(invalid("the range ends before it starts"));
    }
    Ok((first..=last).map(|port| format!("{port}/{protocol}")).collect())
}

fn stop_signal(text: &str) -> Result<String, ChangeError> {
    match text.parse::<palan_linux::signal::Signal>() {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err(ChangeError::Value {
            instruction: "STOPSIGNAL",
            value: text.to_owned(),
            reason: "it is no signal",
        }),
    }
}

/// A path from where the earlier ones led.
fn below(current: &str, path: &str) -> String {
    let full = if path.starts_with('/') { path.to_owned() } else { format!("{current}/{path}") };
    let mut components: Vec<&str> = Vec::new();
    for component in full.split('/') {
        match component {
            "" | "." => {}
            ".." => {
                components.pop();
            }
            name => components.push(name),
        }
    }
    format!("/{}", components.join("/"))
}

fn trigger(rest: &str) -> Result<String, ChangeError> {
    let instruction = rest.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
    let invalid = |reason| ChangeError::Value { instruction: "ONBUILD", value: rest.to_owned(), reason };
    match instruction.as_str() {
        "" => Err(ChangeError::Arguments { instruction: "ONBUILD", needs: "an instruction" }),
        "ONBUILD" => Err(invalid("chaining ONBUILD isn't allowed")),
        "FROM" | "MAINTAINER" => Err(invalid("this instruction isn't allowed as an ONBUILD trigger")),
        _ => Ok(rest.to_owned()),
    }
}

fn healthcheck(rest: &str, config: &ExecutionConfig) -> Result<Healthcheck, ChangeError> {
    const INSTRUCTION: &str = "HEALTHCHECK";
    let mut check = Healthcheck::default();
    let mut rest = rest;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        health_option(&mut check, name, value)?;
        rest = after.trim_start();
    }
    let (kind, line) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    match (kind.to_ascii_uppercase().as_str(), line.trim()) {
        ("NONE", "") => check.test = vec!["NONE".to_owned()],
        ("CMD", line) if !line.is_empty() => {
            check.test = match json_words(line) {
                Some(words) => std::iter::once("CMD".to_owned()).chain(words).collect(),
                None if config.shell.is_some() => {
                    std::iter::once("CMD".to_owned()).chain(command(INSTRUCTION, line, config)?).collect()
                }
                None => vec!["CMD-SHELL".to_owned(), line.to_owned()],
            };
        }
        _ => {
            return Err(ChangeError::Arguments {
                instruction: INSTRUCTION,
                needs: "NONE, or CMD and a command",
            });
        }
    }
    Ok(check)
}

fn health_option(check: &mut Healthcheck, name: &str, value: &str) -> Result<(), ChangeError> {
    let invalid = |reason| ChangeError::Value {
        instruction: "HEALTHCHECK",
        value: format!("--{name}={value}"),
        reason,
    };
    if name == "retries" {
        check.retries = value.parse().map_err(|_| invalid("retries is a number"))?;
        return Ok(());
    }
    let field = match name {
        "interval" => &mut check.interval,
        "timeout" => &mut check.timeout,
        "start-period" => &mut check.start_period,
        "start-interval" => &mut check.start_interval,
        _ => return Err(invalid("there is no such option")),
    };
    let duration =
        duration::parse(value).map_err(|source| ChangeError::Duration { option: name.to_owned(), source })?;
    *field = i64::try_from(duration.as_nanos()).map_err(|_| invalid("it is too long"))?;
    if *field > 0 && *field < 1_000_000 {
        return Err(invalid("it is shorter than one millisecond"));
    }
    Ok(())
}

/// One value with its variables expanded: the whole rest of the line.
fn value(instruction: &'static str, rest: &str, env: &[String]) -> Result<String, ChangeError> {
    let value = expanded(instruction, rest, env)?;
    if value.is_empty() {
        return Err(ChangeError::Arguments { instruction, needs: "exactly one argument" });
    }
    Ok(value)
}

fn values(
    instruction: &'static str,
    needs: &'static str,
    rest: &str,
    env: &[String],
) -> Result<Vec<String>, ChangeError> {
    let words = words_of(instruction, rest)?;
    if words.is_empty() {
        return Err(ChangeError::Arguments { instruction, needs });
    }
    words.iter().map(|word| expanded(instruction, word, env)).collect()
}

fn words_of(instruction: &'static str, rest: &str) -> Result<Vec<String>, ChangeError> {
    split(rest).map_err(|unfinished| unfinished_value(instruction, rest, unfinished))
}

fn expanded(instruction: &'static str, text: &str, env: &[String]) -> Result<String, ChangeError> {
    expand(text, env).map_err(|unfinished| unfinished_value(instruction, text, unfinished))
}

fn unfinished_value(instruction: &'static str, value: &str, unfinished: Unfinished) -> ChangeError {
    ChangeError::Value { instruction, value: value.to_owned(), reason: unfinished.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(changes: &[&str]) -> Result<ExecutionConfig, ChangeError> {
        let mut config = ExecutionConfig::default();
        let changes: Vec<String> = changes.iter().map(|change| (*change).to_owned()).collect();
        apply(&mut config, &changes).map(|()| config)
    }

    #[test]
    fn every_instruction() {
        let config = applied(&[
            "ENV A=1 B='two words' C=\"$A-${B}\"",
            "ENV D the rest of the line",
            "cmd [\"/bin/sh\", \"-c\", \"x\"]",
            "ENTRYPOINT exec \"$0\"",
            "EXPOSE 80 53/udp 8000-8002",
            "LABEL a=b \"c d\"=e",
            "USER nobody:nogroup",
            "VOLUME [\"/data\", \"/more\"]",
            "VOLUME /third $A",
            "WORKDIR /srv",
            "WORKDIR app/../www",
            "STOPSIGNAL SIGQUIT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=5s --retries=3 CMD curl -f localhost",
        ])
        .expect("valid");
        assert_eq!(
            config.env,
            [
                "A=1",
                "B=two words",
                "C=$A-${B}".replace("$A", "").replace("${B}", "").as_str(),
                "D=the rest of the line"
            ]
        );
        assert_eq!(config.cmd.expect("set"), ["/bin/sh", "-c", "x"]);
        assert_eq!(config.entrypoint.expect("set"), ["/bin/sh", "-c", "exec \"$0\""]);
        let ports: Vec<_> = config.exposed_ports.into_keys().collect();
        assert_eq!(ports, ["53/udp", "80/tcp", "8000/tcp", "8001/tcp", "8002/tcp"]);
        assert_eq!(config.labels.get("c d").map(String::as_str), Some("e"));
        assert_eq!(config.volumes.into_keys().collect::<Vec<_>>(), ["/data", "/more", "/third", "1"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("nobody:nogroup", "/srv/www"));
        assert_eq!(
            (config.stop_signal.as_str(), &config.on_build[..]),
            ("SIGQUIT", &["RUN make".to_owned()][..])
        );
        let check = config.healthcheck.expect("set");
        assert_eq!((check.interval, check.retries), (5_000_000_000, 3));
        assert_eq!(check.test, ["CMD-SHELL", "curl -f localhost"]);
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let message = |change: &str| applied(&[change]).expect_err(change).to_string();
        assert_eq!(message("RUN make"), "RUN is not a valid change command");
        assert_eq!(message("CMD"), "CMD requires at least one argument");
        for change in [
            "ENV",
            "ENV A",
            "ENV =x",
            "ENV A='x",
            "EXPOSE 70000",
            "EXPOSE 80/icmp",
            "EXPOSE 9-8",
            "VOLUME",
            "VOLUME []",
            "STOPSIGNAL nothing!",
            "STOPSIGNAL 99",
            "ONBUILD",
            "ONBUILD FROM x",
            "ONBUILD ONBUILD RUN x",
            "HEALTHCHECK",
            "HEALTHCHECK CMD",
            "HEALTHCHECK NONE x",
            "HEALTHCHECK --bogus=1 NONE",
            "HEALTHCHECK --interval=x CMD y",
            "USER",
        ] {
            assert!(applied(&[change]).is_err(), "{change}");
        }
    }

    #[test]
    fn an_entrypoint_takes_back_an_inherited_command_only() {
        assert_eq!(applied(&["CMD a", "ENTRYPOINT b"]).expect("valid").cmd.map(|cmd| cmd.len()), Some(3));
        assert_eq!(applied(&["ENTRYPOINT b"]).expect("valid").cmd, None);
    }
}
