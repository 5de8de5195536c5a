//! Takes the supervisor's program in when `cargo xtask dist` names it (see that task for how it is built), and names the
//! program's entry point (`palan_linux::entry`).

fn main() {
    println!("cargo::rustc-check-cfg=cfg(embedded_supervisor)");
    println!("cargo::rerun-if-env-changed=PALAN_SUPERVISOR_ELF");
    if let Some(path) = std::env::var_os("PALAN_SUPERVISOR_ELF") {
        println!("cargo::rustc-cfg=embedded_supervisor");
        println!("cargo::rerun-if-changed={}", path.display());
    }
    if std::env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|architecture| architecture == "x86_64") {
        println!("cargo::rustc-link-arg-bins=-Wl,--entry=palan_entry");
    }
}
