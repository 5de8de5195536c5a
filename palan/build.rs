//! Takes the supervisor's program in when `cargo xtask dist` names it; see that task for how it is built.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(embedded_supervisor)");
    println!("cargo::rerun-if-env-changed=PALAN_SUPERVISOR_ELF");
    if let Some(path) = std::env::var_os("PALAN_SUPERVISOR_ELF") {
        println!("cargo::rustc-cfg=embedded_supervisor");
        println!("cargo::rerun-if-changed={}", path.display());
    }
}
