//! `--push`: a daemon's builder leaves the push of what it has recorded to its clients, who have the credentials.

use palan_docker_api::client::PushOptions;
use palan_oci::Reference;

use super::super::pull::{To, show};
use super::export::Export;
use crate::app::App;
use crate::credentials;
use crate::error::{CliError, Result};

/// Pushes all names of outputs that are to be pushed.
pub(super) fn push(app: &App, exports: &[Export], quiet: bool) -> Result<()> {
    for name in names(exports) {
        let reference = Reference::parse(name).map_err(|error| CliError::new(error.to_string()))?.or_latest();
        let auth = credentials::get(app.config(), &app.environment, reference.domain())?;
        let options = PushOptions {
            image: &reference.familiar_name(),
            tag: reference.tag().unwrap_or_default(),
            platform: None,
            auth: auth.as_ref(),
        };
        show(app, app.client()?.push_image(&options)?, quiet, To::Errors)?;
    }
    Ok(())
}

fn names(exports: &[Export]) -> Vec<&str> {
    let mut names = Vec::new();
    for export in exports {
        let get = |key: &str| export.attributes.iter().find(|(known, _)| known == key);
        if get("push").is_none_or(|(_, value)| value != "true") {
            continue;
        }
        let own = get("name").map(|(_, names)| names.as_str()).unwrap_or_default();
        for name in own.split(',').filter(|name| !name.is_empty()) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}
