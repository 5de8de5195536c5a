//! The text of an error with all of its causes, outermost first, as every surface of Palan prints it.

use std::error::Error;
use std::fmt::{self, Display};

/// Displays `error: cause: cause of the cause`.
#[derive(Debug, Clone, Copy)]
pub struct Chain<'a>(pub &'a (dyn Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(formatter, ": {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

/// The whole chain as a string.
pub fn to_string(error: &(dyn Error + 'static)) -> String {
    Chain(error).to_string()
}

#[cfg(test)]
mod tests {
    #[test]
    fn prints_every_cause() {
        let error = crate::fs::read(std::path::Path::new("/nonexistent")).unwrap_err();
        assert_eq!(
            super::to_string(&error),
            "cannot read /nonexistent: No such file or directory (os error 2)"
        );
    }
}
