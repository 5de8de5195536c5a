//! Tests that need what a machine may lack. A skip is loud: it is printed and counted, and CI forbids it.

use std::io::Write;

/// Notes that a test was skipped and why. Panics where skips are forbidden (`PALAN_FORBID_SKIPS`).
pub fn note(test: &str, reason: &str) {
    assert!(std::env::var_os("PALAN_FORBID_SKIPS").is_none(), "{test} would be skipped: {reason}");
    let mut out = std::io::stderr();
    writeln!(out, "SKIPPED {test}: {reason}").ok();
    if let Some(path) = std::env::var_os("PALAN_SKIP_LIST")
        && let Ok(mut list) = std::fs::OpenOptions::new().create(true).append(true).open(path)
    {
        writeln!(list, "{test}: {reason}").ok();
    }
}

/// Notes that a test is left to the virtual machine (`cargo xtask test --vm`), whose kernel has what this one lacks. There nothing
/// may be lacking.
pub fn leave_to_vm(test: &str, what: &str) {
    assert!(std::env::var_os("PALAN_VM").is_none(), "{test}: the virtual machine's kernel lacks {what}");
    writeln!(std::io::stderr(), "LEFT TO THE VM {test}: this kernel lacks {what}").ok();
}

/// Whether a program is installed.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/usr/bin".into()])
        .any(|directory| directory.join(name).is_file())
}

/// Returns from the test, noting the skip, unless the condition holds: `requires!(root)`, `requires!(program "nft")`,
/// `requires!(cond, "reason")`. A test of what not every kernel has is left to the virtual machine:
/// `requires!(kernel cond, "SCTP")`.
#[macro_export]
macro_rules! requires {
    (root) => {
        $crate::requires!(rustix::process::geteuid().is_root(), "needs root")
    };
    (program $name:literal) => {
        $crate::requires!($crate::skip::has_program($name), concat!("needs the program ", $name))
    };
    (kernel $condition:expr, $what:expr) => {
        if !$condition {
            $crate::skip::leave_to_vm(concat!(module_path!(), ":", line!()), $what);
            return;
        }
    };
    ($condition:expr, $reason:expr) => {
        if !$condition {
            $crate::skip::note(concat!(module_path!(), ":", line!()), $reason);
            return;
        }
    };
}
