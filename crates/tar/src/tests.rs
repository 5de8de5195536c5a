//! Archives by hand and by other programs: what is read, what is refused, and what other readers make of it.

use std::io::Write as _;
use std::path::Path;

use super::*;
use crate::testing::{Header as Block, Tar, pax_records, seal};

/// Everything that a reader sees in an archive.
fn read(archive: &[u8]) -> Result<Vec<(Entry, Vec<u8>)>, TarError> {
    let limits = Limits::default();
    let mut reader = Reader::new(archive, &limits);
    let mut entries = Vec::new();
    while let Some(entry) = reader.next_entry()? {
        let mut content = Vec::new();
        while let Some(chunk) = reader.next_chunk()? {
            content.extend_from_slice(chunk);
        }
        entries.push((entry, content));
    }
    reader.drain()?;
    Ok(entries)
}

fn names(archive: &[u8]) -> Vec<String> {
    read(archive).expect("valid").iter().map(|(entry, _)| lossy(&entry.path)).collect()
}

#[track_caller]
fn refused(archive: &[u8], reason: &str) {
    let error = read(archive).expect_err("refused");
    let text = palan_stdx::error_chain::to_string(&error);
    assert!(text.contains(reason), "{text}");
}

#[test]
fn ustar_entries() {
    let long = Block { magic: *b"ustar\x0000", ..Block::new("name", b'0') };
    let mut prefixed = long.bytes();
    prefixed[345..351].copy_from_slice(b"prefix");
    seal(&mut prefixed);
    let archive = Tar::new()
        .directory("d/")
        .file("d/f", b"content")
        .symlink("s", "/target")
        .hard_link("h", "d/f")
        .entry(&Block { device: (8, 1), ..Block::new("b", b'4') }, b"")
        .raw(&prefixed)
        .finish();
    let entries = read(&archive).expect("valid");
    let kinds: Vec<Kind> = entries.iter().map(|(entry, _)| entry.kind).collect();
    use Kind::{BlockDevice, Directory, HardLink, Regular, Symlink};
    assert_eq!(kinds, [Directory, Regular, Symlink, HardLink, BlockDevice, Regular]);
    assert_eq!(entries[1].1, b"content");
    assert_eq!(entries[4].0.device, (8, 1));
    assert_eq!(entries[5].0.path, b"prefix/name");
    assert_eq!(entries[1].0.modified, Time { seconds: 1_600_000_000, nanoseconds: 0 });
}

#[test]
fn the_end_of_an_archive() {
    assert_eq!(names(b""), [""; 0]);
    assert_eq!(names(&[0; 1024]), [""; 0]);
    assert_eq!(names(&Tar::new().file("a", b"").unfinished()), ["a"]);
    assert_eq!(names(&Tar::new().file("a", b"").raw(&[0; 512]).unfinished()), ["a"]);
    // What is behind the end is not looked at, even if it could be an entry.
    let behind = Tar::new().file("a", b"").raw(&[0; 1024]).file("smuggled", b"").finish();
    assert_eq!(names(&behind), ["a"]);
    refused(&Tar::new().raw(&[0; 512]).file("a", b"").finish(), "a single block of zeros");
}

#[test]
fn truncation_and_damage() {
    let archive = Tar::new().file("a", &[1; 1000]).finish();
    for length in [1, 511, 513, 1000, 1512, 1535] {
        refused(&archive[..length], "truncated");
    }
    for (index, value) in [(0, b'x'), (124, b'8'), (148, b'z'), (100, b'9')] {
        let mut damaged = archive.clone();
        damaged[index] = value;
        refused(&damaged, "malformed");
    }
    let mut signed = Block::new([0xff], b'0').bytes();
    let sum: i64 = signed
        .iter()
        .enumerate()
        .map(|(index, byte)| if (148..156).contains(&index) { 32 } else { i64::from(byte.cast_signed()) })
        .sum();
    signed[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    assert_eq!(read(&Tar::new().raw(&signed).finish()).expect("old archivers added signed bytes").len(), 1);
}

#[test]
fn sizes_come_from_one_place() {
    // CVE-2025-62518: the header says 0, PAX says the truth; whoever believes the header reads the content as entries.
    let inner = Tar::new().file("smuggled", b"evil").finish();
    let size = inner.len().to_string();
    let archive = Tar::new()
        .pax(&[("size", size.as_bytes())])
        .entry(&Block::new("outer.tar", b'0'), &inner)
        .file("after", b"")
        .finish();
    let entries = read(&archive).expect("valid");
    assert_eq!(entries.len(), 2);
    assert_eq!(entries[0].1, inner);
    // The other way round: the header's size is not the content's.
    let archive = Tar::new()
        .pax(&[("size", b"0")])
        .raw(&Block { size: 1024, ..Block::new("a", b'0') }.bytes())
        .file("b", b"x")
        .finish();
    assert_eq!(names(&archive), ["a", "b"]);
    // Links and directories have no content, whatever they say.
    for kind in [b'1', b'2', b'5', b'6'] {
        let archive = Tar::new()
            .pax(&[("size", b"512")])
            .raw(&Block { size: 512, link: b"x".to_vec(), ..Block::new("a", kind) }.bytes())
            .file("b", b"x")
            .finish();
        assert_eq!(names(&archive), ["a", "b"]);
    }
    let mut negative = Block::new("a", b'0').bytes();
    negative[124..136].copy_from_slice(&[0xff; 12]);
    seal(&mut negative);
    refused(&Tar::new().raw(&negative).finish(), "size is not a number");
    refused(&Tar::new().pax(&[("size", b"9223372036854775807")]).file("a", b"x").finish(), "truncated");
}

#[test]
fn names_that_readers_disagree_about() {
    let long = "l".repeat(300);
    let gnu = Tar::new().extended(b'L', format!("{long}\0").as_bytes()).file("short", b"");
    assert_eq!(names(&gnu.clone().finish()), [long.as_str()]);
    let pax = Tar::new().pax(&[("path", long.as_bytes())]).file("short", b"");
    assert_eq!(names(&pax.finish()), [long.as_str()]);
    let both = |pax: &str| {
        Tar::new().extended(b'L', b"one").pax(&[("path", pax.as_bytes())]).file("x", b"").finish()
    };
    assert_eq!(names(&both("one")), ["one"]);
    refused(&both("two"), "name different files");
    refused(&Tar::new().extended(b'L', b"a").extended(b'L', b"b").file("x", b"").finish(), "two long names");
    refused(&Tar::new().pax(&[]).pax(&[]).file("x", b"").finish(), "two extended headers");
    refused(&Tar::new().pax(&[("path", b"a")]).finish(), "no entry behind it");
    refused(
        &Tar::new().extended(b'g', &pax_records(&[("path", b"a")])).file("x", b"").finish(),
        "global header",
    );
    refused(
        &Tar::new().extended(b'g', &pax_records(&[("size", b"5")])).file("x", b"").finish(),
        "global header",
    );
    refused(&Tar::new().entry(&Block::new("", b'0'), b"").finish(), "without a name");
    refused(&Tar::new().pax(&[("path", b"a\0b")]).file("x", b"").finish(), "NUL");
    refused(&Tar::new().extended(b'x', b"99 path=a\n").file("x", b"").finish(), "broken record");
    refused(&Tar::new().entry(&Block::new("x", b'V'), b"").finish(), "not supported");
}

#[test]
fn global_and_extended_attributes() {
    let archive = Tar::new()
        .extended(b'g', &pax_records(&[("comment", b"a commit"), ("uid", b"7"), ("mtime", b"5.5")]))
        .pax(&[("uid", b"9"), ("SCHILY.xattr.user.a", b"b\0c\n"), ("linkpath", b"")])
        .file("own", b"")
        .file("global", b"")
        .finish();
    let entries = read(&archive).expect("valid");
    assert_eq!((entries[0].0.uid, entries[1].0.uid), (9, 7));
    assert_eq!(entries[1].0.modified, Time { seconds: 5, nanoseconds: 500_000_000 });
    assert_eq!(entries[0].0.xattrs, [(b"user.a".to_vec(), b"b\0c\n".to_vec())]);
    refused(&Tar::new().pax(&[("uid", b"4294967295")]).file("x", b"").finish(), "owner or group");
    refused(&Tar::new().pax(&[("gid", b"99999999999")]).file("x", b"").finish(), "owner or group");
}

#[test]
fn limits_of_headers() {
    let mut huge = Block { size: 1 << 40, ..Block::new("x", b'x') };
    huge.size = 0o77_777_777_777;
    refused(&Tar::new().raw(&huge.bytes()).finish(), "extended header");
    let name = "n".repeat(5000);
    refused(&Tar::new().pax(&[("path", name.as_bytes())]).file("x", b"").finish(), "a name of more than");
    // CVE-2025-58183: the count of segments is only a claim.
    let map = Tar::new()
        .pax(&[("GNU.sparse.major", b"1"), ("GNU.sparse.minor", b"0"), ("GNU.sparse.realsize", b"9")])
        .file("x", format!("99999999999\n{}", "0\n".repeat(250)).as_bytes());
    refused(&map.finish(), "sparse segments");
}

#[test]
fn maps_that_lie() {
    let version_0 = |map: &str, size: &str, content: &[u8]| {
        let records = [("GNU.sparse.map", map.as_bytes()), ("GNU.sparse.size", size.as_bytes())];
        Tar::new().pax(&records).file("x", content).finish()
    };
    assert!(read(&version_0("0,1,5,2", "7", b"abc")).is_ok());
    assert!(read(&version_0("", "7", b"")).is_ok());
    refused(&version_0("0,2,1,1", "7", b"abc"), "overlap");
    refused(&version_0("0,1,7,2", "7", b"abc"), "behind the end");
    refused(&version_0("0,1,5,1", "7", b"abc"), "not as long as");
    refused(&version_0("0,1,5", "7", b"abc"), "announced number");
    refused(&version_0("9223372036854775807,9223372036854775807", "7", b"abc"), "");
    refused(&version_0("-1,3", "7", b"abc"), "");
    let old = Block { magic: *b"ustar\x0000", ..Block::new("x", b'S') };
    refused(&Tar::new().entry(&old, b"").finish(), "a format that has none");
}

#[test]
fn nothing_panics() {
    // Every byte of a rich archive damaged in turn, and random blocks: errors at most.
    let archive = Tar::new()
        .extended(b'g', &pax_records(&[("comment", b"x")]))
        .pax(&[("path", b"long"), ("GNU.sparse.map", b"0,1"), ("GNU.sparse.size", b"1"), ("mtime", b"1.5")])
        .file("a", b"x")
        .extended(b'L', b"name\0")
        .entry(&Block { magic: *b"ustar  \0", ..Block::new("s", b'S') }, b"")
        .finish();
    for index in 0..archive.len() - 1024 {
        for value in [0, b'9', 0xff, 0x80] {
            let mut damaged = archive.clone();
            damaged[index] = value;
            let block = index / 512 * 512;
            if let Ok(header) = <&mut [u8; 512]>::try_from(&mut damaged[block..block + 512]) {
                let is_content = header.iter().take(100).any(|byte| *byte == b'=');
                if !is_content {
                    seal(header);
                }
            }
            let _ = read(&damaged);
        }
    }
    let mut state = 1u64;
    for _ in 0..2000 {
        let mut block = [0; 512];
        for byte in &mut block {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *byte = (state >> 56) as u8;
        }
        block[156] = b"0gxLKS\x001"[usize::from(block[0] % 8)];
        seal(&mut block);
        let _ = read(&[&block[..], &[b'7'; 2048]].concat());
    }
}

/// A tree as other programs pack it, with everything that has its own form in a header.
fn tree(directory: &Path) {
    use std::os::unix::fs::FileExt as _;
    let long = directory.join("d".repeat(120)).join("e".repeat(120));
    std::fs::create_dir_all(&long).expect("creates");
    std::fs::write(long.join("f".repeat(120)), "deep").expect("writes");
    std::fs::write(directory.join("plain"), vec![42; 70_000]).expect("writes");
    std::fs::hard_link(directory.join("plain"), directory.join("second")).expect("links");
    std::os::unix::fs::symlink("t".repeat(150), directory.join("link")).expect("links");
    std::fs::write(directory.join("ünï"), "name").expect("writes");
    let sparse = std::fs::File::create(directory.join("sparse")).expect("creates");
    for segment in 0..30u64 {
        sparse.write_all_at(b"data", segment << 20).expect("writes");
    }
    sparse.set_len(40 << 20).expect("sets");
}

/// Sparse content put where it belongs.
fn whole(entry: &Entry, content: &[u8]) -> Vec<u8> {
    let Some(segments) = &entry.sparse else { return content.to_vec() };
    let mut whole = vec![0; usize::try_from(entry.size).expect("fits")];
    let mut content = content;
    for segment in segments {
        let (now, later) = content.split_at(usize::try_from(segment.length).expect("fits"));
        let offset = usize::try_from(segment.offset).expect("fits");
        whole[offset..offset + now.len()].copy_from_slice(now);
        content = later;
    }
    whole
}

#[test]
fn archives_of_gnu_tar_and_python() {
    let directory = tempfile::tempdir().expect("temporary");
    tree(directory.path());
    let mut commands: Vec<Vec<&str>> = [
        &["--format=gnu", "--sparse"][..],
        &["--format=posix", "--sparse", "--sparse-version=0.0"],
        &["--format=posix", "--sparse", "--sparse-version=0.1"],
        &["--format=posix", "--sparse", "--sparse-version=1.0"],
        &["--format=gnu"],
        &["--format=posix", "--xattrs"],
    ]
    .iter()
    .map(|options| [&["tar", "-cf", "-"][..], options, &["."]].concat())
    .collect();
    let python = |format: &str| {
        format!(
            "import sys,tarfile;t=tarfile.open(fileobj=sys.stdout.buffer,mode='w|',format=tarfile.{format});t.add('.');t.close()"
        )
    };
    let (python_gnu, python_pax) = (python("GNU_FORMAT"), python("PAX_FORMAT"));
    commands.push(vec!["python3", "-c", &python_gnu]);
    commands.push(vec!["python3", "-c", &python_pax]);
    for command in commands {
        #[allow(clippy::disallowed_methods, reason = "test code; other programs are the oracles")]
        let output =
            std::process::Command::new(command[0]).args(&command[1..]).current_dir(directory.path()).output();
        let Ok(output) = output else {
            writeln!(std::io::stderr(), "{} is not installed: not compared", command[0]).expect("tells");
            continue;
        };
        assert!(output.status.success(), "{command:?}: {}", lossy(&output.stderr));
        let entries = read(&output.stdout).unwrap_or_else(|error| panic!("{command:?}: {error}"));
        assert_eq!(entries.len(), 9, "{command:?}");
        for (entry, content) in &entries {
            let path = directory.path().join(lossy(&entry.path));
            match entry.kind {
                Kind::Regular => {
                    assert!(
                        whole(entry, content) == std::fs::read(&path).expect("there"),
                        "{command:?}: {path:?}"
                    );
                }
                Kind::Symlink => assert_eq!(entry.link, "t".repeat(150).into_bytes()),
                Kind::HardLink => {
                    assert!(matches!(lossy(&entry.link).trim_start_matches("./"), "plain" | "second"))
                }
                Kind::Directory => assert!(path.is_dir()),
                kind => panic!("{kind:?}"),
            }
        }
    }
}
