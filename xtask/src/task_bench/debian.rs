//! Builds on Debian, as people have them: packages installed by apt, a Python environment by pip.
//!
//! What is installed comes with the context, so that builders are measured and not the way to a registry.

use std::path::{Path, PathBuf};

use super::builds::Yard;
use super::peers::Bench;
use super::report::Report;
use super::subjects::quietly;
use crate::Failure;
use crate::packages;
use crate::process::{check, command};
use crate::task_dockerfiles::machine::Machine;

/// What the image with packages has.
const PACKAGES: &str = "jq nginx-light sqlite3";

/// Of these there are wheels for every newer Python.
const REQUIREMENTS: &str =
    "certifi==2024.8.30\ncharset-normalizer==3.3.2\nidna==3.10\nrequests==2.32.3\nurllib3==2.2.3\n";

/// A Debian with Python as an archive for all builders, and the packages to be installed upon it.
struct Ground {
    archive: PathBuf,
    debs: PathBuf,
}

impl Ground {
    fn prepare(bench: &Bench) -> Result<Self, Failure> {
        let directory = bench.directory.join("ground");
        let ground = Self { archive: directory.join("image.tar"), debs: directory.join("debs") };
        if ground.archive.exists() {
            return Ok(ground);
        }
        packages::install(&[("mmdebstrap", "mmdebstrap")])?;
        std::fs::create_dir_all(&ground.debs)?;
        let base = directory.join("base.tar");
        let fetch = format!(
            "--customize-hook=chroot \"$1\" apt-get install -y -qq --download-only --no-install-recommends {PACKAGES}"
        );
        let take = format!("--customize-hook=copy-out /var/cache/apt/archives {}", ground.debs.display());
        let more = ["--include=python3,python3-venv", &fetch, &take];
        Machine::read(&directory)?.make_base(&base, &more)?;
        let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        quietly({
            let mut import = bench.ours(&["import", "--change", path]);
            import.arg(&base).arg("debian:latest");
            import
        })?;
        let mut save = bench.ours(&["save", "-o"]);
        save.arg(&ground.archive).arg("debian:latest");
        quietly(save)?;
        std::fs::remove_file(base)?;
        Ok(ground)
    }
}

/// Three packages and what they need, with their scripts.
pub(super) fn packages(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let ground = Ground::prepare(bench)?;
    let mut yard = Yard::prepare(
        bench,
        "FROM debian\nENV DEBIAN_FRONTEND=noninteractive\nCOPY debs /debs\n\
         RUN apt-get install -y --no-install-recommends /debs/*.deb && rm -rf /var/log/*\n\
         RUN useradd -m app\nUSER app\nCMD [\"jq\", \"--version\"]\n",
    )?;
    let debs = yard.place.join("debs");
    std::fs::create_dir_all(&debs)?;
    copy_debs(&ground.debs, &debs)?;
    yard.load(&ground.archive)?;
    yard.cold(report, "Debian, packages by apt, cold", 3)?;
    yard.cached(report, "Debian, packages by apt, cached", 5)?;
    yard.end()
}

/// An environment with five packages, and a program upon it.
pub(super) fn python(bench: &Bench, report: &mut Report) -> Result<(), Failure> {
    let ground = Ground::prepare(bench)?;
    let mut yard = Yard::prepare(
        bench,
        "FROM debian\nWORKDIR /app\nCOPY requirements.txt wheels /wheels/\n\
         RUN python3 -m venv /venv && /venv/bin/pip install --no-index --find-links /wheels -r /wheels/requirements.txt\n\
         COPY app.py .\nRUN /venv/bin/python app.py\nCMD [\"/venv/bin/python\", \"app.py\"]\n",
    )?;
    std::fs::write(yard.place.join("requirements.txt"), REQUIREMENTS)?;
    let program = yard.place.join("app.py");
    std::fs::write(&program, "import requests\n")?;
    let any = ["--only-binary=:all:", "--platform", "any", "--python-version", "3.9", "--no-deps"];
    let mut download = command("python3");
    download.args(["-m", "pip", "download", "-q"]).args(any).arg("-d").arg(yard.place.join("wheels"));
    check(download.arg("-r").arg(yard.place.join("requirements.txt")))?;
    yard.load(&ground.archive)?;
    yard.cold(report, "Python, packages by pip, cold", 3)?;
    yard.cached(report, "Python, packages by pip, cached", 5)?;
    let changes = std::cell::Cell::new(0_u32);
    yard.after(report, "Python, the program changed", 5, || {
        changes.set(changes.get() + 1);
        Ok(std::fs::write(&program, format!("import requests\n# change {}\n", changes.get()))?)
    })?;
    yard.end()
}

fn copy_debs(from: &Path, to: &Path) -> Result<(), Failure> {
    for entry in std::fs::read_dir(from.join("archives"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            std::fs::copy(&path, to.join(path.file_name().unwrap_or_default()))?;
        }
    }
    Ok(())
}
