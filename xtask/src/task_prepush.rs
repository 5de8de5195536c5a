//! `cargo xtask prepush`: what CI runs, in the order in which it fails fastest.

use crate::process::{cargo, check};
use crate::{Failure, task_test, task_tidy};

/// Runs every check.
pub(crate) fn run() -> Result<(), Failure> {
    check(cargo().args(["fmt", "--all", "--check"]))?;
    task_tidy::run()?;
    check(cargo().args(["clippy", "--locked", "--workspace", "--all-targets", "--", "-D", "warnings"]))?;
    task_test::run(&[])
}
