//! Debian's kernel: fetched, unpacked beside our other build output, never installed.
//!
//! It is not the smaller kernel for virtual machines: that one lacks 9p, and its virtiofs needs a descriptor of the host for
//! each file that the machine has ever looked at, of which a container on the host's side may not have enough.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::process::{check, command, output};
use crate::{Failure, packages};

/// The package that depends on the newest kernel's.
const PACKAGE: &str = "linux-image-amd64";

/// Our name for the kernel as it is in memory.
const UNCOMPRESSED: &str = "vmlinux";

/// What must be loaded before the machine has its root, its disk and its port to the host.
const MODULES: &[&str] =
    &["virtio_pci", "virtio_console", "virtio_blk", "virtio_rng", "9pnet_virtio", "9p", "overlay", "ext4"];

/// An unpacked kernel.
#[derive(Debug)]
pub(super) struct Kernel {
    /// The file to boot.
    pub(super) image: PathBuf,
    /// `…/lib/modules/VERSION`.
    pub(super) modules: PathBuf,
}

impl Kernel {
    /// The kernel below `directory`, which is fetched if it is not there yet. Removing it fetches the newest again.
    pub(super) fn prepare(directory: &Path) -> Result<Self, Failure> {
        let unpacked = directory.join("kernel");
        if !unpacked.is_dir() {
            fetch(directory, &unpacked)?;
        }
        let modules = only_entry(&unpacked.join("lib/modules"))?;
        let version = modules.file_name().unwrap_or_default().to_string_lossy();
        let boot = unpacked.join("boot");
        let image = [boot.join(UNCOMPRESSED), boot.join(format!("vmlinuz-{version}"))];
        let image = image.into_iter().find(|image| image.exists()).ok_or("there is no kernel: remove it")?;
        Ok(Self { image, modules })
    }

    /// The files of the modules that the machine starts with, in the order in which they can be loaded.
    pub(super) fn early_modules(&self) -> Result<Vec<PathBuf>, Failure> {
        let read = |name: &str| {
            let path = self.modules.join(name);
            std::fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
        };
        let order = load_order(&read("modules.dep")?, &read("modules.builtin")?, MODULES)?;
        Ok(order.into_iter().map(|path| self.modules.join(path)).collect())
    }
}

/// Downloads and unpacks; the result appears under its name only when it is whole.
#[expect(clippy::print_stderr, reason = "tasks talk to the person at the terminal")]
fn fetch(directory: &Path, unpacked: &Path) -> Result<(), Failure> {
    eprintln!("fetching Debian's kernel");
    let work = directory.join("kernel.new");
    std::fs::remove_dir_all(&work).ok();
    let tree = work.join("tree");
    std::fs::create_dir_all(&tree)?;
    if download(&work).is_err() {
        packages::update_lists()?;
        download(&work)?;
    }
    let package = std::fs::read_dir(&work)?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .ok_or("apt-get has downloaded no kernel")?;
    check(command("dpkg-deb").arg("-x").arg(package).arg(&tree))?;
    let version = only_entry(&tree.join("lib/modules"))?;
    let version = version.file_name().unwrap_or_default();
    check(command("depmod").arg("-b").arg(&tree).arg(version))?;
    let image = std::fs::read(tree.join("boot").join(format!("vmlinuz-{}", version.display())))?;
    if let Some(payload) = xz_payload(&image) {
        // An emulated processor needs seconds to decompress what the host's does in a fraction of one.
        let compressed = work.join("vmlinux.xz");
        std::fs::write(&compressed, payload)?;
        let uncompressed = std::fs::File::create(tree.join("boot").join(UNCOMPRESSED))?;
        check(command("xz").args(["-dc", "--single-stream"]).arg(&compressed).stdout(uncompressed))?;
    }
    std::fs::rename(&tree, unpacked)?;
    std::fs::remove_dir_all(&work)?;
    Ok(())
}

fn download(into: &Path) -> Result<(), Failure> {
    let fields = output(command("apt-cache").args(["show", "--no-all-versions", PACKAGE]))?;
    let kernel = dependency(&fields).ok_or_else(|| format!("{PACKAGE} depends on no kernel"))?;
    // apt can't give up its privileges where its own user may not write.
    let mut apt = command("apt-get");
    apt.args(["-qq", "-o", "APT::Sandbox::User=root", "download", kernel]).current_dir(into);
    output(&mut apt).map(drop)
}

/// The kernel's package, from the description of the one that depends on it.
fn dependency(fields: &str) -> Option<&str> {
    let depends = fields.lines().find_map(|line| line.strip_prefix("Depends: "))?;
    depends.split([' ', ',']).find(|word| word.starts_with("linux-image-"))
}

/// The compressed kernel within the file that boot loaders load, if xz made it: where the header says
/// (`Documentation/x86/boot.rst` of the kernel, `payload_offset`).
fn xz_payload(image: &[u8]) -> Option<&[u8]> {
    const SETUP_SECTORS: usize = 0x1f1;
    const PAYLOAD_OFFSET: usize = 0x248;
    const PAYLOAD_LENGTH: usize = 0x24c;
    let number = |at: usize| -> Option<usize> {
        let bytes = image.get(at..)?.first_chunk()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    let setup = (usize::from(*image.get(SETUP_SECTORS)?) + 1) * 512;
    let payload = image.get(setup.checked_add(number(PAYLOAD_OFFSET)?)?..)?;
    payload.get(..number(PAYLOAD_LENGTH)?).filter(|payload| payload.starts_with(b"\xfd7zXZ\0"))
}

fn only_entry(directory: &Path) -> Result<PathBuf, Failure> {
    let entries = std::fs::read_dir(directory)
        .map_err(|error| format!("cannot read {}: {error}; remove the kernel", directory.display()))?;
    let entries = entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>()?;
    match <[PathBuf; 1]>::try_from(entries) {
        Ok([entry]) => Ok(entry),
        Err(entries) => Err(format!("{} has {} entries, not one", directory.display(), entries.len()).into()),
    }
}

/// Files of the `wanted` modules and of all that they depend on, each after what it depends on. `dependencies` is
/// depmod's `modules.dep`, `built_in` is `modules.builtin`.
fn load_order(dependencies: &str, built_in: &str, wanted: &[&str]) -> Result<Vec<String>, Failure> {
    let files: BTreeMap<String, (&str, &str)> = dependencies
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(file, needs)| (module_name(file), (file, needs)))
        .collect();
    let mut order = Vec::new();
    for name in wanted {
        if files.contains_key(*name) {
            visit(name, &files, &mut Vec::new(), &mut order)?;
        } else if !built_in.lines().any(|file| module_name(file) == *name) {
            return Err(format!("the kernel has no module {name}").into());
        }
    }
    Ok(order)
}

fn visit(
    name: &str,
    files: &BTreeMap<String, (&str, &str)>,
    above: &mut Vec<String>,
    order: &mut Vec<String>,
) -> Result<(), Failure> {
    let (file, needs) = files.get(name).ok_or_else(|| format!("the kernel has no module {name}"))?;
    if order.iter().any(|loaded| loaded == file) {
        return Ok(());
    }
    if above.iter().any(|waiting| waiting == name) {
        return Err(format!("the module {name} depends on itself").into());
    }
    above.push(name.to_owned());
    for need in needs.split_whitespace() {
        visit(&module_name(need), files, above, order)?;
    }
    above.pop();
    order.push((*file).to_owned());
    Ok(())
}

/// `kernel/drivers/char/hw_random/virtio-rng.ko.xz` is the module `virtio_rng`.
fn module_name(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.split_once(".ko").map_or(name, |(stem, _)| stem).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_module_comes_after_what_it_depends_on() {
        let dependencies = "a/virtio_pci.ko: a/modern.ko a/virtio.ko a/ring.ko\n\
            a/modern.ko: a/ring.ko a/virtio.ko\na/ring.ko: a/virtio.ko\na/virtio.ko:\nb/virtio-rng.ko.xz: a/virtio.ko\nc/x.ko:\n";
        let built_in = "kernel/fs/ext4/ext4.ko\n";
        let order = load_order(dependencies, built_in, &["virtio_pci", "ext4", "virtio_rng"]).unwrap();
        assert_eq!(
            order,
            ["a/virtio.ko", "a/ring.ko", "a/modern.ko", "a/virtio_pci.ko", "b/virtio-rng.ko.xz"]
        );
    }

    #[test]
    fn a_module_that_is_nowhere_is_named() {
        let check = |dependencies, expected: &str| {
            let message = load_order(dependencies, "", &["a"]).unwrap_err().to_string();
            assert_eq!(message, expected);
        };
        check("", "the kernel has no module a");
        check("a.ko: b.ko\n", "the kernel has no module b");
        check("a.ko: b.ko\nb.ko: a.ko\n", "the module a depends on itself");
    }

    #[test]
    fn the_kernel_is_the_first_dependency() {
        let fields =
            "Package: linux-image-cloud-amd64\nDepends: linux-image-6.1.0-56-cloud-amd64 (= 6.1.192-2)\n";
        assert_eq!(dependency(fields), Some("linux-image-6.1.0-56-cloud-amd64"));
        assert_eq!(dependency("Package: x\n"), None);
    }
}
