//! The `palan` program: looks at its arguments and becomes the command line, the daemon, a supervisor or the runtime.

fn main() {}
