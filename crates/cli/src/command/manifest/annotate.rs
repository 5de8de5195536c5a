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

/// What Docker takes.
const PLATFORMS: &[(&str, &[&str])] = &[
    ("darwin", &["386", "amd64", "arm", "arm64"]),
    ("dragonfly", &["amd64"]),
    ("freebsd", &["386", "amd64", "arm", "arm64"]),
    (
        "linux",
        &["386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x"],
    ),
    ("netbsd", &["386", "amd64", "arm"]),
    ("openbsd", &["386", "amd64", "arm"]),
    ("plan9", &["386", "amd64"]),
    ("solaris", &["amd64"]),
    ("windows", &["386", "amd64", "arm", "arm64"]),
];

fn check(platform: &Platform) -> Result<()> {
    let (os, architecture) = (platform.os.as_str(), platform.architecture.as_str());
    if PLATFORMS.iter().any(|(known, all)| *known == os && all.contains(&architecture)) {
        return Ok(());
    }
    Err(CliError::new(format!(
        "manifest entry for image has unsupported os/arch combination: {os}/{architecture}"
    )))
}
