//! 5,000 generated archives: nothing of any of them gets out of its directory, and what GNU tar and Python's tarfile make of
//! the honest ones is what we make of them.

#![allow(clippy::disallowed_methods, reason = "test code; other programs are the oracles")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;
use std::process::{Command, Stdio};

use palan_linux::path::RootDir;

use super::{Form, apply};
use crate::Limits;
use crate::testing::{Header, Tar};

const ARCHIVES: u64 = 5000;

/// A generator of numbers that is the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap_or_default() % limit
    }

    fn one<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.one(&[&0, &1, &511, &512, &513, &3000]);
        (0..*length).map(|_| b'a' + u8::try_from(self.below(26)).unwrap_or_default()).collect()
    }
}

/// An archive whose meaning no reader doubts, in one of the formats that are in use.
fn honest(random: &mut Random) -> Vec<u8> {
    let mut tar = Tar::new();
    let (mut directories, mut files) = (vec![String::new()], Vec::new());
    for number in 0..=random.below(12) {
        let parent = directories[random.below(directories.len())].clone();
        let stem = random.one(&["n", "name with spaces", "ü", "x.wh.", "-rf", "a\nb"]);
        let long = if random.below(6) == 0 { "l".repeat(120) } else { String::new() };
        let name = format!("{parent}{stem}{number}{long}");
        let prefix = random.one(&["", "./"]);
        let written = format!("{prefix}{name}");
        let mut header = Header {
            mode: u32::try_from(random.below(0o10000)).unwrap_or_default(),
            owner: (u32::try_from(random.below(3000)).unwrap_or_default(), 7),
            modified: 1_000_000_000 + random.below(1_000_000_000) as u64,
            ..Header::new(&written, b'0')
        };
        let mut content = Vec::new();
        match random.below(10) {
            0..=2 => {
                header.kind = b'5';
                header.name.push(b'/');
                directories.push(format!("{name}/"));
            }
            3 => {
                header.kind = b'2';
                header.link = random.one(&["/etc/passwd", "../../up", "n0", "."]).into();
            }
            4 if !files.is_empty() => {
                // With the attributes of its target: Python applies them, others leave them.
                let (target, same): &(String, Header) = &files[random.below(files.len())];
                header =
                    Header { name: header.name, kind: b'1', link: target.clone().into(), ..same.clone() };
            }
            5 => header.kind = b'6',
            6 => (header.kind, header.device) = (b'3', (1, 3)),
            _ => {
                content = random.bytes();
                if written.len() <= 100 {
                    files.push((written.clone(), header.clone()));
                }
            }
        }
        header.size = content.len() as u64;
        if header.name.len() > 100 {
            let full = header.name.clone();
            tar = match random.below(2) {
                0 => tar.extended(b'L', &[&full[..], b"\0"].concat()),
                _ => tar.pax(&[("path", &full[..])]),
            };
        } else if random.below(4) == 0 {
            tar = tar.pax(&[("comment", b"nothing")]);
        }
        if header.kind == b'0' && random.below(4) == 0 {
            header.magic = *b"ustar  \0";
        }
        tar = tar.entry(&header, &content);
    }
    tar.finish()
}

/// An archive that wants out.
fn evil(random: &mut Random) -> Vec<u8> {
    const PARTS: &[&str] =
        &["..", ".", "", "a", "b", "link", "out", ".wh.a", ".wh..wh..opq", ".wh...", "etc", "\0", "proc"];
    let mut tar = Tar::new();
    for _ in 0..=random.below(14) {
        let mut path = || -> String {
            let parts: Vec<&str> = (0..=random.below(4)).map(|_| random.one(PARTS)).collect();
            parts.join("/")
        };
        let (mut name, mut link) = (path(), path());
        if random.below(6) == 0 {
            name.insert(0, '/');
        }
        if random.below(3) == 0 {
            link = random
                .one(&["..", "../..", "../outside", "/", "/etc", "/proc/self/root", "../outside/canary"])
                .into();
        }
        let kind = *random
            .one(&[&b'0', &b'0', &b'1', &b'2', &b'2', &b'3', &b'4', &b'5', &b'5', &b'6', &b'7', &b'S']);
        let content = random.bytes();
        let mut header = Header {
            link: link.into_bytes(),
            mode: u32::try_from(random.below(0o10000)).unwrap_or_default(),
            size: if random.below(12) == 0 { random.below(9000) as u64 } else { content.len() as u64 },
            device: (u32::try_from(random.below(3)).unwrap_or_default(), 0),
            ..Header::new(&name, kind)
        };
        match random.below(8) {
            0 => tar = tar.pax(&[("path", random.one(&["../out", "/abs", "a/../../b", "fine"]).as_bytes())]),
            1 => tar = tar.pax(&[("size", b"99999999999"), ("linkpath", b"../outside")]),
            2 => tar = tar.pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/outside")]),
            3 => tar = tar.extended(b'L', b"../../outside/canary\0"),
            4 => header.magic = *b"ustar  \0",
            _ => {}
        }
        tar = tar.entry(&header, if matches!(kind, b'0' | b'7' | b'S') { &content } else { b"" });
    }
    let mut bytes = tar.finish();
    if random.below(4) == 0 {
        let place = random.below(bytes.len());
        bytes[place] ^= 1 << random.below(8);
    }
    if random.below(8) == 0 {
        bytes.truncate(random.below(bytes.len()));
    }
    bytes
}

/// What a directory has, as text that can be compared and read.
fn listing(directory: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut pending = vec![directory.to_owned()];
    while let Some(place) = pending.pop() {
        for entry in fs::read_dir(&place).expect("lists") {
            let path = entry.expect("an entry").path();
            let metadata = fs::symlink_metadata(&path).expect("is there");
            let kind = metadata.file_type();
            let mut text = format!("{}:{} ", metadata.uid(), metadata.gid());
            if kind.is_symlink() {
                text += &format!("-> {}", fs::read_link(&path).expect("reads").display());
            } else {
                text += &format!("{:o} {} {} ", metadata.mode(), metadata.mtime(), metadata.nlink().min(2));
            }
            if kind.is_dir() {
                pending.push(path.clone());
            } else if kind.is_file() {
                text += &String::from_utf8_lossy(&fs::read(&path).expect("reads"));
            } else if kind.is_char_device() {
                text += &metadata.rdev().to_string();
            }
            found.insert(path.strip_prefix(directory).expect("is below").display().to_string(), text);
        }
    }
    found
}

const PYTHON: &str = "
import os, sys, tarfile
for name in sorted(os.listdir(sys.argv[1])):
    target = os.path.join(sys.argv[2], name)
    os.mkdir(target)
    with tarfile.open(os.path.join(sys.argv[1], name)) as archive:
        archive.errorlevel = 1
        if hasattr(tarfile, 'fully_trusted_filter'):
            archive.extraction_filter = staticmethod(tarfile.fully_trusted_filter)
        archive.extractall(target, numeric_owner=True)
";

fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    directory.expect("a directory")
}

#[test]
fn honest_archives_mean_what_others_say_and_evil_ones_stay_inside() {
    let seed = std::env::var("PALAN_TAR_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(20_261);
    let work = directory();
    let [outside, archives, python] = ["outside", "archives", "python"].map(|name| work.path().join(name));
    for directory in [&outside, &archives, &python] {
        fs::create_dir(directory).expect("creates");
    }
    fs::write(outside.join("canary"), b"alive").expect("writes");
    let before = listing(&outside);
    let limits = Limits::default();
    let mut ours = BTreeMap::new();
    let mut accepted = 0;
    for number in 0..ARCHIVES {
        let mut random = Random(seed + number * 2 + 1);
        for _ in 0..4 {
            random.below(1);
        }
        let is_honest = number % 3 == 0;
        let tar = if is_honest { honest(&mut random) } else { evil(&mut random) };
        let target = work.path().join("root");
        fs::create_dir(&target).expect("creates");
        let root = RootDir::open(&target).expect("opens");
        let applied = apply(&tar[..], &root, Form::Alone, &limits);
        let names: Vec<_> = fs::read_dir(work.path()).expect("lists").collect();
        assert_eq!(names.len(), 4, "archive {number} of seed {seed} got out");
        match applied {
            Ok(_) => accepted += 1,
            Err(error) if is_honest => panic!("archive {number} of seed {seed}: {error:?}"),
            Err(error) => assert!(!error.to_string().is_empty()),
        }
        if is_honest {
            let name = format!("{number:05}");
            fs::write(archives.join(&name), &tar).expect("writes");
            ours.insert(name, listing(&target));
        }
        RootDir::open(work.path()).expect("opens").remove_all("root").expect("removes");
    }
    assert_eq!(listing(&outside), before, "seed {seed}: something outside was changed");
    assert!(accepted > ours.len(), "evil ones that do no harm are accepted, too");

    let status = Command::new("python3").args(["-c", PYTHON]).args([&archives, &python]).status();
    assert!(status.expect("python3").success());
    for (name, ours) in ours {
        let target = work.path().join("gnu");
        fs::create_dir(&target).expect("creates");
        // Else it sets a directory's times when it meets the first entry of another one; and without -P it puts symlinks in
        // their places after that.
        let delayed = "--delay-directory-restore";
        let arguments = ["-x", "-p", "-P", delayed, "--same-owner", "--numeric-owner", "-f", "-", "-C"];
        let mut tar = Command::new("tar")
            .args(arguments)
            .arg(&target)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("tar");
        let archive = fs::read(archives.join(&name)).expect("reads");
        tar.stdin.take().expect("a pipe").write_all(&archive).expect("writes");
        assert!(tar.wait().expect("ends").success(), "GNU tar refuses archive {name} of seed {seed}");
        assert_eq!(ours, listing(&target), "GNU tar, archive {name} of seed {seed}");
        assert_eq!(ours, listing(&python.join(&name)), "tarfile, archive {name} of seed {seed}");
        fs::remove_dir_all(&target).expect("removes");
    }
}
