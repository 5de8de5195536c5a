//! What a build leaves beside its outputs: the image's identifier and the metadata. A file is there whole or not at all.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use palan_stdx::atomic_file::{self, Durability};
use palan_stdx::error_chain;
use serde_json::{Map, Value};

use super::destination;
use crate::error::{CliError, Result};
use crate::flags::Parsed;

const DIGEST: &str = "containerimage.digest";
const CONFIG_DIGEST: &str = "containerimage.config.digest";
const NAME: &str = "image.name";

/// What was made, in the daemon's words.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    /// The name of the build.
    pub(super) reference: String,
    pub(super) answers: BTreeMap<String, String>,
}

impl Outcome {
    /// The image's identifier; none if no image was made.
    pub(super) fn image_id(&self) -> Option<&str> {
        self.answers.get(CONFIG_DIGEST).or_else(|| self.answers.get(DIGEST)).map(String::as_str)
    }

    /// Writes what `--iidfile` and `--metadata-file` ask for.
    pub(super) fn write(&self, flags: &Parsed) -> Result<()> {
        if let Some(path) = flags.given("iidfile").filter(|path| !path.is_empty()) {
            write(path, self.image_id().unwrap_or_default().as_bytes())?;
        }
        if let Some(path) = flags.given("metadata-file").filter(|path| !path.is_empty()) {
            write(path, format!("{:#}\n", self.metadata()).as_bytes())?;
        }
        Ok(())
    }

    /// As `docker buildx build --metadata-file` has it.
    fn metadata(&self) -> Value {
        let mut all = Map::new();
        all.insert("buildx.build.ref".to_owned(), Value::from(format!("default/default/{}", self.reference)));
        for (key, text) in &self.answers {
            all.insert(key.clone(), value(key, text));
        }
        Value::Object(all)
    }
}

/// Structures come as base64 of JSON.
fn value(key: &str, text: &str) -> Value {
    if key != NAME
        && let Ok(bytes) = STANDARD.decode(text)
        && let Ok(json @ (Value::Object(_) | Value::Array(_))) = serde_json::from_slice(&bytes)
    {
        return json;
    }
    Value::from(text)
}

/// Makes sure that the image of an earlier build isn't taken for this one's.
pub(super) fn forget_earlier(flags: &Parsed) -> Result<()> {
    let Some(path) = flags.given("iidfile").filter(|path| !path.is_empty()) else { return Ok(()) };
    destination::remove_file(Path::new(path))
        .map_err(|error| CliError::io(&format!("removing the file of --iidfile, {path}"), &error))
}

fn write(path: &str, content: &[u8]) -> Result<()> {
    let failed = |error: std::io::Error| CliError::io(&format!("write {path}"), &error);
    match destination::through(Path::new(path)).map_err(failed)? {
        Some(mut file) => file.write_all(content).map_err(failed),
        None => atomic_file::write(Path::new(path), content, 0o644, Durability::Process)
            .map_err(|error| CliError::new(error_chain::to_string(&error))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata() {
        let descriptor = STANDARD.encode(r#"{"size":7}"#);
        let answers = [
            (CONFIG_DIGEST, "sha256:aa"),
            (DIGEST, "sha256:bb"),
            ("containerimage.descriptor", &descriptor),
            (NAME, "e30="),
        ];
        let answers = answers.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let outcome = Outcome { reference: "abc".to_owned(), answers };
        assert_eq!(outcome.image_id(), Some("sha256:aa"));
        assert_eq!(
            outcome.metadata().to_string(),
            r#"{"buildx.build.ref":"default/default/abc","containerimage.config.digest":"sha256:aa","containerimage.descriptor":{"size":7},"containerimage.digest":"sha256:bb","image.name":"e30="}"#
        );
        assert_eq!(Outcome::default().image_id(), None);
    }
}
