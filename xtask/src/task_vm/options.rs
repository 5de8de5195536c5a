//! The command line of `cargo xtask vm`.

use std::time::Duration;

use crate::Failure;

pub(super) const USAGE: &str = "\
Usage: cargo xtask vm [OPTIONS] -- COMMAND [ARGUMENT]...

  --timeout SECONDS    switch the machine off after this time and end with 124 (3600)
  --memory MIB         the machine's memory (4096)
  --cpus N             its processors (2)
  --kernel-arg ARG     add to the kernel's command line; may be repeated
  --env NAME[=VALUE]   set a variable for COMMAND, or pass it on; may be repeated
  --net                a network card behind QEMU's user mode network
  --systemd            boot Debian's systemd; COMMAND is a service of it
";

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// How long the machine may live.
    pub(super) timeout: Duration,
    /// Its memory in MiB.
    pub(super) memory: u32,
    /// Its processors.
    pub(super) cpus: u32,
    /// Additions to the kernel's command line.
    pub(super) kernel_arguments: Vec<String>,
    /// Variables as written: `NAME` or `NAME=VALUE`.
    pub(super) environment: Vec<String>,
    /// Whether it has a network card.
    pub(super) network: bool,
    /// Whether systemd is its init.
    pub(super) systemd: bool,
    /// The socket of a disk by NBD, in place of an empty one. Not for the command line.
    pub(super) disk: Option<std::path::PathBuf>,
    /// What runs in it.
    pub(super) command: Vec<String>,
}

impl Options {
    /// Reads the arguments after `vm`. The first that is no option starts the command; `--` ends the options.
    pub(super) fn parse(arguments: &[String]) -> Result<Self, Failure> {
        let mut options = Self {
            timeout: Duration::from_secs(3600),
            memory: 4096,
            cpus: 2,
            kernel_arguments: Vec::new(),
            environment: Vec::new(),
            network: false,
            systemd: false,
            disk: None,
            command: Vec::new(),
        };
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            let (name, inline) = match argument.split_once('=') {
                Some((name, value)) if name.starts_with("--") => (name, Some(value.to_owned())),
                _ => (argument.as_str(), None),
            };
            let mut value = || {
                inline.clone().or_else(|| rest.next().cloned()).ok_or_else(|| format!("{name} needs a value"))
            };
            match name {
                "--timeout" => options.timeout = Duration::from_secs(number(name, &value()?)?.into()),
                "--memory" => options.memory = number(name, &value()?)?,
                "--cpus" => options.cpus = number(name, &value()?)?,
                "--kernel-arg" => options.kernel_arguments.push(value()?),
                "--env" => options.environment.push(value()?),
                "--net" | "--systemd" if inline.is_some() => {
                    return Err(format!("{name} takes no value").into());
                }
                "--net" => options.network = true,
                "--systemd" => options.systemd = true,
                "--" => {
                    options.command.extend(rest.by_ref().cloned());
                }
                option if option.starts_with('-') => {
                    return Err(format!("no option is called {option:?}\n\n{USAGE}").into());
                }
                _ => {
                    options.command.push(argument.clone());
                    options.command.extend(rest.by_ref().cloned());
                }
            }
        }
        if options.command.is_empty() {
            return Err(format!("there is no command\n\n{USAGE}").into());
        }
        Ok(options)
    }
}

fn number(name: &str, value: &str) -> Result<u32, Failure> {
    match value.parse() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{name} needs a number greater than 0, not {value:?}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let arguments: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&arguments).map_err(|failure| failure.to_string())
    }

    #[test]
    fn options_end_where_the_command_starts() {
        let options = parse("--memory 512 --net -- ls -l --net").unwrap();
        assert_eq!((options.memory, options.network, options.cpus), (512, true, 2));
        assert_eq!(options.command, ["ls", "-l", "--net"]);
        assert_eq!(parse("ls --timeout 3").unwrap().command, ["ls", "--timeout", "3"]);
        assert_eq!(parse("-- --strange").unwrap().command, ["--strange"]);
    }

    #[test]
    fn values_stand_behind_or_in_the_option() {
        let options =
            parse("--timeout=5 --kernel-arg a=b --kernel-arg=c=d --env A=1 --env B --systemd --cpus 1 -- x")
                .unwrap();
        assert_eq!(options.timeout, Duration::from_secs(5));
        assert_eq!(options.kernel_arguments, ["a=b", "c=d"]);
        assert_eq!(options.environment, ["A=1", "B"]);
        assert!(options.systemd);
        assert_eq!(options.cpus, 1);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |line, expected: &str| {
            let message = parse(line).unwrap_err();
            assert!(message.contains(expected), "{line}: {message}");
        };
        check("", "no command");
        check("--net", "no command");
        check("--nett -- x", "\"--nett\"");
        check("--net=1 -- x", "--net takes no value");
        check("--memory", "--memory needs a value");
        check("--memory lots -- x", "not \"lots\"");
        check("--cpus 0 -- x", "not \"0\"");
        check("--timeout -1 -- x", "not \"-1\"");
    }
}
