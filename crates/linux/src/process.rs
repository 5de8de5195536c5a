//! Creating and watching processes: clone3, pidfds, descriptors at exec.
