//! Addresses of what is elsewhere, and a server's list of names: nothing that is accepted is an option, or says where it is to be put.

#![no_main]

use palan_context::remote::{self, Remote};
use palan_context::refs;

fn check_name(name: &str) {
    assert!(!name.starts_with('-') && !name.contains([':', '*', '^']) && !name.contains(char::is_control), "{name:?}");
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(Some(Remote::Git(git))) = remote::context(text) {
        assert!(!git.remote.starts_with('-') && !git.remote.contains(char::is_control), "{git:?}");
        assert!(!git.subdirectory.split('/').any(|part| part == ".."), "{git:?}");
        git.reference.iter().chain(&git.checksum).for_each(|name| check_name(name));
        let (address, user) = remote::without_user(&git.remote);
        if user.is_some() {
            assert_eq!(remote::without_user(&address).1, None, "{address}");
            assert_eq!(remote::redacted(&address), address);
        }
    }
    let _ = remote::redacted(text);
    let (name, said) = text.split_once('\n').unwrap_or(("main", text));
    for found in [refs::head(said), refs::named(said, name)].into_iter().flatten() {
        assert!(refs::is_object(&found.object) && refs::is_object(found.target()), "{found:?}");
        if let Some(full) = &found.name {
            assert!(full.starts_with("refs/"), "{found:?}");
        }
    }
    if let Some(Some(name)) = refs::head(said).map(|found| found.name) {
        check_name(&name);
    }
});
