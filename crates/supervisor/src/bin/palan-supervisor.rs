//! The supervisor as a program of its own, which `cargo xtask dist` embeds in `palan`.

fn main() {}
