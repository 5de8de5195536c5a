//! `cp`: a tar into a directory of a tree that is in use. (The other way is [`super::Picked`].)

use std::io::{self, Read};
use std::path::{Component, Path};

use palan_linux::path::RootDir;
use rustix::io::Errno;

use super::plain::UnpackError;
use crate::Limits;
use crate::layer::LayerError;
use crate::layer::apply::{Form, Placement, apply_at};
use crate::layer::decode::Decoder;

/// How a tar is unpacked into a directory in use.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unpacking {
    /// Who owns what is created, instead of whom the archive names.
    pub owner: Option<(u32, u32)>,
    /// Refuse to replace a directory by something else and the other way round.
    pub keep_kinds: bool,
}

/// Unpacks a tar, which may be compressed, into `directory` of `root`, which must exist. What is there already stays where the
/// archive has nothing of its name.
pub fn unpack_into(
    source: &mut dyn Read,
    root: &RootDir,
    directory: &Path,
    unpacking: &Unpacking,
    limits: &Limits,
) -> Result<(), UnpackError> {
    let mut names: Vec<&[u8]> = Vec::new();
    for component in directory.components() {
        match component {
            Component::Normal(name) => names.push(name.as_encoded_bytes()),
            // By its letters `a/..` is where we are, and by a symlink it is somewhere else.
            Component::ParentDir => {
                let source = io::Error::from(Errno::INVAL);
                let entry = directory.to_string_lossy().into_owned();
                return Err(UnpackError(LayerError::Entry { action: "unpack into", entry, source }));
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    let placement = Placement {
        directory: names.join(&b'/'),
        owner: unpacking.owner,
        keep_kinds: unpacking.keep_kinds,
        adds: true,
    };
    apply_at(Decoder::new(source), root, Form::Plain, &placement, limits)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use palan_tar::pack::Picked;
    use palan_tar::testing::{Header, Tar};

    use super::*;

    struct Scene {
        directory: tempfile::TempDir,
        root: RootDir,
    }

    fn scene() -> Scene {
        let directory = tempfile::tempdir().expect("temporary");
        let root = RootDir::open(directory.path()).expect("opens");
        Scene { directory, root }
    }

    impl Scene {
        fn names(&self, path: &str, asserts_directory: bool, name: &str) -> Vec<String> {
            let picked = Picked::find(&self.root, Path::new(path), asserts_directory).expect(path);
            let mut archive = Vec::new();
            picked.write(name.as_bytes(), &mut archive).expect("packs");
            let limits = Limits::default();
            let mut reader = palan_tar::Reader::new(archive.as_slice(), &limits);
            let mut names = Vec::new();
            while let Some(entry) = reader.next_entry().expect("valid") {
                names.push(palan_tar::lossy(&entry.path));
            }
            names
        }

        fn unpack(&self, into: &str, tar: Tar, unpacking: &Unpacking) -> Result<(), UnpackError> {
            let archive = tar.finish();
            unpack_into(&mut &archive[..], &self.root, Path::new(into), unpacking, &Limits::default())
        }
    }

    #[test]
    fn names_are_those_of_docker() {
        let scene = scene();
        scene.root.create_dir_all("a/b", 0o755).expect("creates");
        scene.root.create_file("a/b/c", 0o644).expect("creates");
        scene.root.create_symlink("a/b", "link").expect("links");
        assert_eq!(scene.names("/a/b", false, "b"), ["b/", "b/c"]);
        assert_eq!(scene.names("/a/b", true, "."), ["./", "./c"]);
        assert_eq!(scene.names("/a/b/c", false, "c"), ["c"]);
        assert_eq!(scene.names("/link", false, "link"), ["link"]);
        assert_eq!(scene.names("/link", true, "link"), ["link/", "link/c"]);
        assert_eq!(scene.names("/", true, "/"), ["/", "/a/", "/a/b/", "/a/b/c", "/link"]);
        let error = Picked::find(&scene.root, Path::new("/a/b/c"), true).expect_err("a file");
        assert_eq!(error.errno(), Some(Errno::NOTDIR));
    }

    #[test]
    fn what_is_there_stays() {
        let scene = scene();
        scene.root.create_dir_all("into/kept", 0o711).expect("creates");
        scene.root.write("into/kept/old", b"old", 0o600).expect("writes");
        scene.root.set_mode("into", 0o750).expect("sets");
        let tar = Tar::new()
            .directory("./")
            .directory("kept")
            .file("kept/new", b"new")
            .hard_link("other", "kept/new");
        scene
            .unpack("/into", tar, &Unpacking { owner: Some((5, 6)), ..Unpacking::default() })
            .expect("unpacks");
        assert_eq!(
            scene.root.metadata("into").expect("there").mode,
            0o750,
            "the directory itself is not touched"
        );
        assert_eq!(scene.root.read("into/kept/old", 9).expect("there"), b"old");
        let new = scene.root.metadata("into/other").expect("there");
        assert_eq!((new.uid, new.gid, new.links), (5, 6, 2));
    }

    #[test]
    fn kinds_are_kept() {
        let scene = scene();
        scene.root.create_dir_all("into/directory/deep", 0o755).expect("creates");
        scene.root.create_file("into/file", 0o644).expect("creates");
        let keep = Unpacking { keep_kinds: true, ..Unpacking::default() };
        let refused =
            |tar| scene.unpack("/into", tar, &keep).expect_err("refused").kept_kind().expect("by kind");
        assert_eq!(
            refused(Tar::new().file("directory", b"")),
            "cannot overwrite directory \"/into/directory\" with non-directory \"/into\""
        );
        assert_eq!(
            refused(Tar::new().directory("file")),
            "cannot overwrite non-directory \"/into/file\" with directory \"/into\""
        );
        scene.unpack("/into", Tar::new().file("file", b"new"), &keep).expect("a file over a file");
        scene.unpack("/into", Tar::new().file("directory", b""), &Unpacking::default()).expect("replaces");
        assert!(scene.root.metadata("into/directory").expect("there").is_file());
    }

    #[test]
    fn nothing_leads_out() {
        let scene = scene();
        let outside = tempfile::tempdir().expect("temporary");
        let escape = outside.path().to_str().expect("text");
        scene.root.create_dir("into", 0o755).expect("creates");
        scene.root.create_symlink(escape, "into/link").expect("links");
        scene.root.create_symlink("../../../../..", "into/up").expect("links");
        let any = Unpacking::default();
        for tar in [
            Tar::new().file("../../x", b""),
            Tar::new().file("link/x", b""),
            Tar::new().file("up/x", b""),
            Tar::new().symlink("own", escape).file("own/x", b""),
            Tar::new().hard_link("x", "../../../etc/passwd"),
            Tar::new().entry(&Header::new("/../x", b'0'), b""),
        ] {
            // Refused, or taken for a path inside; either is right.
            let _ = scene.unpack("/into", tar, &any);
        }
        assert_eq!(std::fs::read_dir(outside.path()).expect("there").count(), 0);
        assert!(!scene.directory.path().parent().expect("has one").join("x").exists());
        assert!(scene.unpack("/into/..", Tar::new(), &any).is_err());
    }
}
