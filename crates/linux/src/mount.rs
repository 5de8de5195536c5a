//! The mount API by file descriptors: open_tree, fsopen, move_mount, mount_setattr, and overlay on top of it.
