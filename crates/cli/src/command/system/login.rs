//! `palan login`.

use std::io::{BufRead, BufReader, Read};

use palan_docker_api::types::AuthConfig;

use super::super::{Arity, Command};
use crate::app::App;
use crate::config_file::HUB;
use crate::credentials;
use crate::environment::DOCKER_AUTH_CONFIG;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};
use crate::terminal;

pub(crate) static COMMAND: Command = Command {
    long: "Authenticate to a registry.\nDefaults to Docker Hub if no server is specified.",
    flags: &[FLAGS],
    ..Command::new("[OPTIONS] [SERVER]", "Authenticate to a registry", Arity::AtMost(1), run)
};

static FLAGS: &[Flag] = &[
    Flag::string("password", Some('p'), "Password or Personal Access Token (PAT)"),
    Flag::bool("password-stdin", None, "Take the Password or Personal Access Token (PAT) from stdin"),
    Flag::string("username", Some('u'), "Username"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    check(flags)?;
    let username = flags.string("username").trim().to_owned();
    let password = password(app, flags)?;
    warn_of_environment(app);
    let server = credentials::server_address(flags.args.first().map(String::as_str));
    let known = if username.is_empty() && password.is_empty() {
        credentials::get(app.config(), &app.environment, &server)?
    } else {
        None
    };
    let known_user = known.as_ref().map(|auth| auth.username.clone()).unwrap_or_default();
    if let Some(auth) = known.filter(|auth| !auth.username.is_empty() && !auth.password.is_empty())
        && let Some(status) = with_stored(app, &auth)?
    {
        return app.streams.line(&status);
    }
    let auth = ask(app, username, password, &known_user, &server)?;
    let status = check_and_store(app, auth)?;
    if status.is_empty() { Ok(()) } else { app.streams.line(&status) }
}

fn check(flags: &Parsed) -> Result<()> {
    let failure = |text: &str| Err(CliError::new(text));
    if flags.bool("password-stdin") {
        if flags.changed("password") {
            return failure("conflicting options: cannot specify both --password and --password-stdin");
        }
        if !flags.changed("username") {
            return failure("the --password-stdin option requires --username to be set");
        }
    }
    if flags.changed("username") && flags.string("username").is_empty() {
        return failure("username is empty");
    }
    if flags.changed("password") && flags.string("password").is_empty() {
        return failure("password is empty");
    }
    Ok(())
}

fn password(app: &App, flags: &Parsed) -> Result<String> {
    if let Some(password) = flags.given("password") {
        app.streams.say("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
        return Ok(password.to_owned());
    }
    if !flags.bool("password-stdin") {
        return Ok(String::new());
    }
    let mut text = String::new();
    let read = app.streams.take_input().read_to_string(&mut text);
    read.map_err(|error| CliError::io("read stdin", &error))?;
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.trim().is_empty() {
        return Err(CliError::new("password is empty"));
    }
    Ok(text.to_owned())
}

/// A login is kept in the file, but the variable is asked first.
pub(super) fn warn_of_environment(app: &App) {
    if app.environment.set(DOCKER_AUTH_CONFIG).is_some() {
        app.streams.say(&format!(
            "WARNING: {DOCKER_AUTH_CONFIG} is set and takes precedence.\nUnset {DOCKER_AUTH_CONFIG} to restore the \
             CLI auth behaviour."
        ));
    }
}

/// Tries the credentials that are kept already; `None` if others must be asked for.
fn with_stored(app: &App, auth: &AuthConfig) -> Result<Option<String>> {
    app.streams.say(&format!("Authenticating with existing credentials... [Username: {}]", auth.username));
    app.streams
        .say("\nInfo → To login with a different account, run 'palan logout' followed by 'palan login'\n\n");
    match app.client()?.check_auth(auth) {
        Ok(answer) => Ok(Some(answer.status)),
        Err(error) if error.status() == Some(401) => {
            app.streams.say("Stored credentials invalid or expired");
            Ok(None)
        }
        Err(error) => {
            let error = CliError::from(error);
            app.streams.say(&format!("Login did not succeed, error: {}", error.message));
            Ok(None)
        }
    }
}

fn ask(app: &App, username: String, password: String, known_user: &str, server: &str) -> Result<AuthConfig> {
    if (username.is_empty() || password.is_empty()) && !app.streams.input_is_terminal() {
        return Err(CliError::new("Error: Cannot perform an interactive login from a non TTY device"));
    }
    let mut input = if username.is_empty() || password.is_empty() {
        Some(BufReader::new(app.streams.take_input()))
    } else {
        None
    };
    let mut read_line = || -> Result<String> {
        let mut line = String::new();
        if let Some(input) = &mut input {
            input.read_line(&mut line).map_err(|error| CliError::io("read stdin", &error))?;
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    };
    let mut username = username;
    if username.is_empty() {
        let prompt = if known_user.is_empty() {
            "Username: ".to_owned()
        } else {
            format!("Username ({known_user}): ")
        };
        app.streams.print(&prompt)?;
        username = read_line()?.trim().to_owned();
        if username.is_empty() {
            known_user.clone_into(&mut username);
        }
        if username.is_empty() {
            return Err(CliError::new("Error: Non-null Username Required"));
        }
    }
    let mut password = password;
    if password.is_empty() {
        if server == HUB {
            app.streams.say("\nInfo → A Personal Access Token (PAT) can be used instead.\n");
        }
        let mut shown = Ok(());
        let line = terminal::without_echo(|| shown = app.streams.print("Password: "), read_line);
        shown.and_then(|()| app.streams.print("\n"))?;
        password = line.map_err(|signal| CliError::exit(i64::from(128 + signal)))??;
        if password.is_empty() {
            return Err(CliError::new("Error: Password Required"));
        }
    }
    Ok(AuthConfig { username, password, server_address: server.to_owned(), ..AuthConfig::default() })
}

fn check_and_store(app: &App, mut auth: AuthConfig) -> Result<String> {
    let answer = app.client()?.check_auth(&auth)?;
    if !answer.identity_token.is_empty() {
        auth.password = String::new();
        auth.identity_token = answer.identity_token;
    }
    let mut config = app.config().clone();
    if credentials::store(&mut config, &auth)? {
        app.streams.say(&format!(
            "\nWARNING! Your credentials are stored unencrypted in '{}'.\nConfigure a credential helper to remove this \
             warning. See\nhttps://docs.docker.com/go/credential-store/\n",
            config.path().display()
        ));
    }
    Ok(answer.status)
}
