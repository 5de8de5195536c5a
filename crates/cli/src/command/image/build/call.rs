//! `--call`: what is asked about a Dockerfile, instead of building it.

/// A question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    Build,
    Check,
    Outline,
    Targets,
}

/// A question, and the form of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) json: bool,
}

impl Call {
    /// Reads `METHOD[,format=json|text]`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut fields = text.split(',');
        let method = match fields.next().unwrap_or_default() {
            "" | "build" => Method::Build,
            "check" | "lint" => Method::Check,
            "outline" => Method::Outline,
            "targets" => Method::Targets,
            other => return Err(format!("invalid call {other:?}: one of build, check, outline, targets")),
        };
        let mut json = false;
        for field in fields {
            match field.split_once('=') {
                Some(("format", "json")) => json = true,
                Some(("format", "text" | "")) => json = false,
                _ => return Err(format!("invalid option {field:?} of call: format=json or format=text")),
            }
        }
        Ok(Self { method, json })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn calls() {
        let call = |method: Method, json: bool| Ok(Call { method, json });
        assert_eq!(Call::parse("build"), call(Method::Build, false));
        assert_eq!(Call::parse("check,format=json"), call(Method::Check, true));
        assert_eq!(Call::parse("lint"), call(Method::Check, false));
        assert_eq!(Call::parse("targets"), call(Method::Targets, false));
        Call::parse("x").unwrap_err();
        Call::parse("check,format=yaml").unwrap_err();
    }
}
