//! A small ext4 file system in a file, for what happens when it is full.

/// A mounted file system; unmounted when dropped.
pub(crate) struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    #[expect(clippy::disallowed_methods, reason = "the test prepares the host with its own tools")]
    pub(crate) fn mount(directory: &std::path::Path, megabytes: u32) -> Option<Self> {
        let (image, target) = (directory.join("disk.img"), directory.join("disk"));
        std::fs::create_dir(&target).ok()?;
        let file = std::fs::File::create(&image).ok()?;
        file.set_len(u64::from(megabytes) << 20).ok()?;
        let done = |program: &str, arguments: &[&std::ffi::OsStr]| {
            std::process::Command::new(program)
                .args(arguments)
                .output()
                .is_ok_and(|output| output.status.success())
        };
        let made = done("mkfs.ext4", &["-q".as_ref(), "-m".as_ref(), "0".as_ref(), image.as_ref()])
            && done("mount", &["-o".as_ref(), "loop".as_ref(), image.as_ref(), target.as_ref()]);
        std::fs::remove_dir(target.join("lost+found")).ok();
        made.then_some(Self(target))
    }

    pub(crate) fn path(&self) -> std::path::PathBuf {
        self.0.clone()
    }

    /// Blocks that ordinary users could still have.
    pub(crate) fn free(&self) -> u64 {
        rustix::fs::statvfs(&self.0).map_or(u64::MAX, |facts| facts.f_bavail)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).ok();
    }
}
