//! `palan manifest inspect`.

use super::super::{Arity, Command};
use super::store::{Store, Stored};
use super::{Remote, ask, image, list, reference};
use crate::app::App;
use crate::error::Result;
use crate::flags::{Flag, Parsed};
use crate::output::json;

pub(crate) static COMMAND: Command = Command {
    flags: &[FLAGS],
    ..Command::new(
        "[OPTIONS] [MANIFEST_LIST] MANIFEST",
        "Display an image manifest, or manifest list",
        Arity::Between(1, 2),
        run,
    )
};

#[rustfmt::skip]
static FLAGS: &[Flag] = &[
    Flag::bool("insecure", None, "Allow communication with an insecure registry"),
    Flag::bool("verbose", Some('v'), "Output additional info including layers and platform"),
];

fn run(app: &App, flags: &Parsed) -> Result<()> {
    let (verbose, insecure) = (flags.bool("verbose"), flags.bool("insecure"));
    if let [own, name] = &flags.args[..] {
        let found = image(app, &reference(own)?, &reference(name)?, insecure)?;
        return show(app, &found, verbose);
    }
    let name = reference(&flags.args[0])?;
    let kept = Store::of(app).list(&name)?;
    if !kept.is_empty() {
        return show_list(app, &kept, verbose);
    }
    match ask(app, &name, insecure)? {
        Remote::Image(found) => show(app, &found, verbose),
        Remote::List(found) => show_list(app, &found, verbose),
    }
}

fn show(app: &App, image: &Stored, verbose: bool) -> Result<()> {
    let text = if verbose { image.to_json()? } else { image.raw.clone() };
    app.streams.line(&json::indent(&text, "\t"))
}

fn show_list(app: &App, images: &[Stored], verbose: bool) -> Result<()> {
    if !verbose {
        return app.streams.line(&list::render(images)?.0);
    }
    let documents: Vec<String> = images.iter().map(Stored::to_json).collect::<Result<_>>()?;
    app.streams.line(&json::indent(&format!("[{}]", documents.join(",")), "\t"))
}
