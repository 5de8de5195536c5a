//! `palan manifest annotate`.

use palan_docker_api::types::Platform;

use super::super::{Arity, Command};
use super::store::Store;
use super::{image, reference};
use crate::app::App;
use crate::error::{CliError, Result};
use crate::flags::{Flag, Parsed};

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] MANIFEST_LIST MANIFEST",
        "Add additional information to a local image manifest",
        Arity::Exactly(2),
        run,
    )
};

static FLAGS: &[Flag] = &[
    Flag::string("arch", None, "Set architecture"),
    Flag::string("os", None, "Set operating system"),
    Flag::list("os-features", None, "Set operating system feature"),
    Flag::string("os-version", None, "Set operating system version"),
    Flag::string("variant", None, "Set architecture variant"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (target, name) = (reference(&flags.args[0])?, reference(&flags.args[1])?);
    let store = Store::of(app);
    let mut found = image(app, &target, &name, false)?;
    let mut platform = found.descriptor.platform.take().unwrap_or_default();
    let set = |place: &mut String, flag: &str| {
        let value = flags.string(flag);
        if !value.is_empty() {
            value.clone_into(place);
        }
    };
    set(&mut platform.os, "os");
    set(&mut platform.architecture, "arch");
    set(&mut platform.variant, "variant");
    set(&mut platform.os_version, "os-version");
    for feature in flags.list("os-features").into_iter().flat_map(|list| list.split(',')) {
        if !platform.os_features.iter().any(|known| known == feature) {
            platform.os_features.push(feature.to_owned());
        }
    }
    check(&platform)?;
    found.descriptor.platform = Some(platform);
    store.save(&target, &found)
}

/// Operating systems and architectures that Go knows; Docker refuses others.
fn check(platform: &Platform) -> Result<()> {
    let text = format!("{}/{}", platform.os, platform.architecture);
    match text.parse::<palan_oci::Platform>() {
        Ok(_) if !platform.os.is_empty() && !platform.architecture.is_empty() => Ok(()),
        _ => Err(CliError::new(format!(
            "manifest entry for image has unsupported os/arch combination: {text}"
        ))),
    }
}
