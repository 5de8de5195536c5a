//! Disks that are too small, in memory and as ext4 in a file: whatever is refused, nothing is broken, and there is room again.

use super::*;

/// Mounts a file system of `KILOBYTES`, runs the child on it, makes room, and runs the checker. All in a mount namespace of its
/// own, so that nothing stays mounted whatever happens. Arguments: program, directory, size.
const ON_TMPFS: &str = r#"
mount -t tmpfs -o "size=$3k" tmpfs "$2"
PALAN_CRASH_ROOT=$2/root "$1" --exact crash::child --nocapture
mount -o remount,size=32m "$2"
rm -f "$2/filler"
[ -e "$2/root/images.db" ] || { echo checked; exit 0; }
PALAN_CRASH_ROOT=$2/root exec "$1" --exact crash::checker --nocapture
"#;

/// The same, where a file takes what of the disk is not `KILOBYTES`.
const ON_EXT4: &str = r#"
mount -o loop "$2/disk.img" "$2/mount"
free=$(($(stat -f -c '%a * %S' "$2/mount") / 1024))
fallocate -l "$((free - $3))k" "$2/mount/ballast"
PALAN_CRASH_ROOT=$2/mount/root "$1" --exact crash::child --nocapture
rm -f "$2/mount/filler" "$2/mount/ballast"
[ -e "$2/mount/root/images.db" ] || { echo checked; exit 0; }
PALAN_CRASH_ROOT=$2/mount/root "$1" --exact crash::checker --nocapture
umount "$2/mount"
exec e2fsck -fn "$2/disk.img"
"#;

#[track_caller]
fn run_on(script: &str, directory: &Path, kilobytes: u64, filler: Option<&Path>) -> String {
    let mut command = Command::new("unshare");
    command.args(["--mount", "--propagation", "private", "sh", "-ec", script, "sh"]);
    command.arg(std::env::current_exe().expect("this program")).arg(directory).arg(kilobytes.to_string());
    command.env("RUST_BACKTRACE", "0");
    if let Some(filler) = filler {
        command.env(FILLER, filler);
    }
    let output = command.output().expect("unshare");
    let text = format!(
        "{kilobytes} KiB: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success() && text.contains("checked"), "{text}");
    text
}

/// Of all sizes some must be too small, and the largest must do.
#[track_caller]
fn run_on_all(script: &str, directory: &Path, filler: &Path, sizes: impl Iterator<Item = u64>) {
    let refusals = |text: String| text.matches("refused: ").count();
    let all: Vec<usize> =
        sizes.map(|kilobytes| refusals(run_on(script, directory, kilobytes, None))).collect();
    println!("refusals: {all:?}");
    assert!(all.iter().filter(|refused| **refused > 0).count() > all.len() / 2, "{all:?}");
    let text = run_on(script, directory, 8192, Some(filler));
    // The disk is full to the last byte there, and what makes room must work nevertheless: only the layer of the last step does
    // not fit.
    println!("{text}");
    assert!(text.matches("refused: ").count() <= 1, "{text}");
    assert_eq!(refusals(run_on(script, directory, 8192, None)), 0);
}

#[test]
fn a_full_disk_breaks_nothing() {
    let directory = directory();
    let filler = directory.path().join("filler");
    run_on_all(ON_TMPFS, directory.path(), &filler, (140..860).step_by(40));
}

#[test]
fn a_full_ext4_breaks_nothing() {
    let directory = directory();
    let image = directory.path().join("disk.img");
    let mount = directory.path().join("mount");
    std::fs::create_dir(&mount).expect("made");
    std::fs::File::create(&image).and_then(|file| file.set_len(48 << 20)).expect("made");
    let made = Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0", "-b", "1024"]).arg(&image).status();
    assert!(made.is_ok_and(|status| status.success()), "mkfs.ext4");
    run_on_all(ON_EXT4, directory.path(), &mount.join("filler"), (100..780).step_by(40));
}
