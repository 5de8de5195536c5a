//! Whether this kernel runs programs of another platform.
//!
//! It does where an interpreter is registered for them (`binfmt_misc`), with the flag `F`: the interpreter was opened then, so it need not be
//! in the root file system of the step. Nothing is registered here: that is the host's, and for the time until it reboots.

use std::path::Path;

use palan_oci::Platform;

use crate::{Error, Result};

/// Where the kernel says what it knows.
const DIRECTORY: &str = "/proc/sys/fs/binfmt_misc";

/// The beginning of an ELF file as an architecture has it: class, byte order, machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Machine {
    is_64: bool,
    is_big: bool,
    number: u16,
    /// What QEMU calls it.
    name: &'static str,
}

/// By the names of platforms.
const MACHINES: [(&str, Machine); 10] = [
    ("386", machine(false, false, 3, "i386")),
    ("amd64", machine(true, false, 62, "x86_64")),
    ("arm", machine(false, false, 40, "arm")),
    ("arm64", machine(true, false, 183, "aarch64")),
    ("loong64", machine(true, false, 258, "loongarch64")),
    ("mips64le", machine(true, false, 8, "mips64el")),
    ("ppc64le", machine(true, false, 21, "ppc64le")),
    ("riscv64", machine(true, false, 243, "riscv64")),
    ("s390x", machine(true, true, 22, "s390x")),
    ("mips64", machine(true, true, 8, "mips64")),
];

const fn machine(is_64: bool, is_big: bool, number: u16, name: &'static str) -> Machine {
    Machine { is_64, is_big, number, name }
}

/// Refuses to run a command of a platform that nothing here runs. An empty text is the host's.
pub(super) fn check(platform: &str) -> Result<()> {
    let host = Platform::host();
    let Ok(wanted) = platform.parse::<Platform>() else { return Ok(()) };
    if is_native(&wanted, &host) {
        return Ok(());
    }
    let machine = MACHINES.iter().find(|(name, _)| *name == wanted.architecture).map(|(_, machine)| *machine);
    match machine {
        Some(machine) if wanted.os == "linux" => match find(Path::new(DIRECTORY), &machine) {
            Found::Fixed => Ok(()),
            Found::Unfixed(name) => Err(Error::invalid(format!(
                "commands for {wanted} can't run on {host}: the interpreter {name} is registered in {DIRECTORY} without the flag F, \
                 so containers don't find it; register it with that flag (qemu-{} from a package like qemu-user-static does)",
                machine.name
            ))),
            Found::Nothing => Err(Error::invalid(format!(
                "commands for {wanted} can't run on {host}: no interpreter for them is registered in {DIRECTORY}; install qemu-{} \
                 with the flag F (a package like qemu-user-static does), or do without RUN for this platform: FROM \
                 --platform=$BUILDPLATFORM and a cross compiler",
                machine.name
            ))),
        },
        _ => Err(Error::invalid(format!("commands for {wanted} can't run on {host}"))),
    }
}

/// Whether processors of the host run such programs by themselves.
fn is_native(wanted: &Platform, host: &Platform) -> bool {
    let wanted = wanted.normalised();
    if wanted.os != host.os {
        return false;
    }
    match (host.architecture.as_str(), wanted.architecture.as_str()) {
        (host, wanted) if host == wanted => true,
        ("amd64", "386") => true,
        // Some can, and the kernel says nothing of it; QEMU is asked for where none is registered.
        _ => false,
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Found {
    Nothing,
    /// It is opened when a program runs, in that program's root.
    Unfixed(String),
    Fixed,
}

fn find(directory: &Path, machine: &Machine) -> Found {
    let mut found = Found::Nothing;
    for entry in palan_stdx::fs::read_dir(directory).unwrap_or_default() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if matches!(name.as_str(), "register" | "status") {
            continue;
        }
        let Ok(text) = palan_stdx::fs::read_to_string(&entry.path()) else { continue };
        match entry_for(&text, machine) {
            Some(true) => return Found::Fixed,
            Some(false) => found = Found::Unfixed(name),
            None => {}
        }
    }
    found
}

/// Whether an entry is for such programs, and then whether it has the flag `F`.
fn entry_for(text: &str, machine: &Machine) -> Option<bool> {
    let line = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if text.lines().next().map(str::trim) != Some("enabled") {
        return None;
    }
    let magic = bytes(line("magic ")?)?;
    let mask = match line("mask ") {
        Some(mask) => bytes(mask)?,
        None => vec![0xff; magic.len()],
    };
    let offset: usize = line("offset ").unwrap_or("0").parse().ok()?;
    let header = machine.header();
    let begins = header.get(offset..)?;
    let fits = magic.len() <= begins.len()
        && mask.len() == magic.len()
        && magic.iter().zip(&mask).zip(begins).all(|((magic, mask), byte)| byte & mask == magic & mask);
    fits.then(|| line("flags:").is_some_and(|flags| flags.contains('F')))
}

fn bytes(hex: &str) -> Option<Vec<u8>> {
    let digits = hex.as_bytes();
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    if !digits.len().is_multiple_of(2) || digits.is_empty() {
        return None;
    }
    digits.chunks(2).map(pair).collect()
}

impl Machine {
    /// An executable of version 1.
    fn header(&self) -> [u8; 64] {
        let mut header = [0; 64];
        header[..4].copy_from_slice(b"\x7fELF");
        header[4] = if self.is_64 { 2 } else { 1 };
        header[5] = if self.is_big { 2 } else { 1 };
        header[6] = 1;
        let number = |number: u16| if self.is_big { number.to_be_bytes() } else { number.to_le_bytes() };
        header[16..18].copy_from_slice(&number(2));
        header[18..20].copy_from_slice(&number(self.number));
        header[20] = u8::from(!self.is_big);
        header[23] = u8::from(self.is_big);
        header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QEMU: &str = "enabled\ninterpreter /usr/bin/qemu-aarch64-static\nflags: OCF\noffset 0\n\
        magic 7f454c460201010000000000000000000200b700\nmask ffffffffffffff00fffffffffffffffffeffffff\n";

    fn of(name: &str) -> Machine {
        MACHINES.iter().find(|(known, _)| *known == name).expect("known").1
    }

    #[test]
    fn entries_are_for_what_their_magic_says() {
        assert_eq!(entry_for(QEMU, &of("arm64")), Some(true));
        assert_eq!(entry_for(QEMU, &of("riscv64")), None);
        assert_eq!(entry_for(QEMU, &of("arm")), None);
        assert_eq!(entry_for(&QEMU.replace("OCF", ""), &of("arm64")), Some(false));
        assert_eq!(entry_for(&QEMU.replace("enabled", "disabled"), &of("arm64")), None);
        for broken in [
            "",
            "enabled",
            "enabled\nmagic x",
            "enabled\nmagic 7\n",
            "enabled\nmagic 7f\nmask 7f7f\n",
            "enabled\nmagic 7f\noffset 99\n",
        ] {
            assert_eq!(entry_for(broken, &of("arm64")), None, "{broken:?}");
        }
        // By the name of a file: of no machine.
        assert_eq!(entry_for("enabled\ninterpreter /x\nflags:\nextension .py\n", &of("arm64")), None);
    }

    #[test]
    fn the_registered_are_looked_through() {
        let directory = tempfile::tempdir().expect("temporary");
        assert_eq!(find(&directory.path().join("none"), &of("arm64")), Found::Nothing);
        for (name, text) in [("status", "enabled"), ("python3", "enabled\nextension .py\n"), ("z", QEMU)] {
            std::fs::write(directory.path().join(name), text).expect("writes");
        }
        assert_eq!(find(directory.path(), &of("arm64")), Found::Fixed);
        assert_eq!(find(directory.path(), &of("s390x")), Found::Nothing);
        std::fs::write(directory.path().join("z"), QEMU.replace("OCF", "")).expect("writes");
        assert_eq!(find(directory.path(), &of("arm64")), Found::Unfixed("z".to_owned()));
    }

    #[test]
    fn what_the_host_runs_needs_nobody() {
        check("").expect("the host's");
        check(&Platform::host().to_string()).expect("the host's");
        let error = check("windows/amd64").expect_err("no Windows").to_string();
        assert!(error.contains("commands for windows/amd64 can't run on"), "{error}");
    }
}
