//! Names, records and removal, and what a kill or power loss leaves of them.

use std::io::{self, Read};

use super::*;
use crate::image::Removed;
use crate::testing::{Header, Tar, TestStore, gzip, image_of};
use crate::{BeginLayer, LayerRequest};

fn hello(text: &str) -> Vec<u8> {
    Tar::new().directory("etc/").file("etc/hello", text.as_bytes()).finish()
}

#[test]
fn an_image_from_two_layers() {
    let store = TestStore::new();
    let image = store.image("a:1", &[hello("lower"), hello("upper")]).expect("commits");
    assert_eq!(image.tags, ["a:1".parse().expect("a name")]);
    assert_eq!(image.size, 10);
    assert_eq!(store.file(&image.id, "/etc/hello"), Some(b"upper".to_vec()));
    assert_eq!(store.lower_dirs(&image.id).expect("there").len(), 2);
    assert_eq!(store.resolve("a:1").expect("found").id, image.id);
    assert_eq!(store.resolve(&image.id.to_string()).expect("found").id, image.id);
    assert_eq!(store.resolve(&image.id.digest().short()).expect("found").id, image.id);
    assert_eq!(store.resolve("b").expect_err("absent").to_string(), "No such image: b:latest");
    let history = store.history(&image.id).expect("there");
    assert_eq!(history.iter().map(|line| line.size).collect::<Vec<_>>(), [5, 5]);
}
