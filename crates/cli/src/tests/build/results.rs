//! Where the results of a build go.

use std::path::Path;

use palan_buildkit::grpc::{Code, Metadata, Status};
use palan_buildkit::message::session::{BytesMessage, method as session_method};

use super::super::outcome;
use super::builder::Builder;
use super::{answers, tree};

/// A daemon that sends an archive.
fn archiver() -> Builder {
    Builder::start(Vec::new(), |request, session| {
        Box::pin(async move {
            assert_eq!(request.exporters[0].kind, "tar");
            let call = session.call(session_method::FILE_SEND_DIFF_COPY, Metadata::new()).await?;
            for piece in ["an ", "archive"] {
                call.outgoing.send(&BytesMessage { data: piece.as_bytes().to_vec().into() }).await?;
            }
            drop(call.outgoing);
            let mut incoming = call.incoming;
            assert_eq!(incoming.next::<BytesMessage>().await?, None);
            Ok(answers(&[("containerimage.digest", "sha256:dd")]))
        })
    })
}

#[test]
fn an_output_is_written_when_it_is_whole() {
    let context = tree(&[("Dockerfile", "FROM scratch\n")]);
    let target = tempfile::tempdir().unwrap();
    let builder = archiver();
    let path = target.path().join("x.tar").display().to_string();
    let directory = context.path().display().to_string();
    let to_file = builder.run(&["build", "-o", &format!("type=tar,dest={path}"), &directory], b"", &[]);
    assert_eq!(to_file, outcome(0, "", ""));
    assert_eq!(std::fs::read_to_string(path).unwrap(), "an archive");
    let to_stdout = builder.run(&["build", "-o", "-", &directory], b"", &[]);
    assert_eq!(to_stdout, outcome(0, "an archive", ""));
}

#[test]
fn what_is_no_plain_file_is_written_through() {
    use rustix::fs::{CWD, Mode, mkfifoat};
    use std::io::Read as _;
    use std::os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _, symlink};

    let context = tree(&[("Dockerfile", "FROM scratch\n")]);
    let target = tempfile::tempdir().unwrap();
    let path = |name: &str| target.path().join(name);
    let pipe = |name: &str| {
        mkfifoat(CWD, path(name), Mode::RUSR | Mode::WUSR).unwrap();
        // Open at both ends, it is nothing that anybody waits for.
        let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
        std::fs::File::options().read(true).write(true).custom_flags(nonblocking).open(path(name)).unwrap()
    };
    let read = |mut pipe: std::fs::File| {
        let mut bytes = vec![0; 4096];
        let length = pipe.read(&mut bytes).unwrap();
        String::from_utf8(bytes[..length].to_vec()).unwrap()
    };
    let pipes = ["out", "id", "metadata"].map(pipe);
    let named = |name: &str| path(name).display().to_string();
    let line = |output: &str| format!("type=tar,dest={}", named(output));
    let (id, metadata, directory) = (named("id"), named("metadata"), context.path().display().to_string());
    let builder = archiver();
    let result = builder.run(
        &["build", "-o", &line("out"), "--iidfile", &id, "--metadata-file", &metadata, &directory],
        b"",
        &[],
    );
    assert_eq!(result, outcome(0, "", ""));
    let [out, id, metadata] = pipes.map(read);
    assert_eq!((out.as_str(), id.as_str()), ("an archive", "sha256:dd"));
    assert!(metadata.contains("sha256:dd"), "{metadata}");
    for name in ["out", "id", "metadata"] {
        assert!(std::fs::metadata(path(name)).unwrap().file_type().is_fifo(), "{name} was replaced");
    }
    // A link stays one, whether there is something behind it or not.
    std::fs::write(path("file"), "something longer than an archive").unwrap();
    symlink("file", path("link")).unwrap();
    symlink("new", path("dangling")).unwrap();
    for (link, file) in [("link", "file"), ("dangling", "new")] {
        let result = builder.run(&["build", "-o", &line(link), &directory], b"", &[]);
        assert_eq!(result, outcome(0, "", ""));
        assert!(path(link).is_symlink(), "{link} was replaced");
        assert_eq!(std::fs::read_to_string(path(file)).unwrap(), "an archive");
    }
}

#[test]
fn the_metadata_of_an_earlier_build_stays_if_the_build_fails() {
    let context = tree(&[("Dockerfile", "FROM scratch\n"), ("metadata", "earlier"), ("id", "earlier")]);
    let path = |name: &str| context.path().join(name).display().to_string();
    let builder = Builder::start(Vec::new(), |_, _| {
        Box::pin(async move { Err(Status::new(Code::Unknown, "as the test wants")) })
    });
    let line = [
        "build",
        "--metadata-file",
        &path("metadata"),
        "--iidfile",
        &path("id"),
        context.path().to_str().unwrap(),
    ];
    assert_eq!(builder.run(&line, b"", &[]).code, 1);
    assert_eq!(std::fs::read_to_string(path("metadata")).unwrap(), "earlier");
    assert!(!Path::new(&path("id")).exists());
}
