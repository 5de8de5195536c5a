//! Records on their way to the disk, and removals meanwhile.

use crate::database;
use crate::testing::{Tar, TestStore};

/// Pull, removal and pull again while the first pull's data is being written: what is marked as synced must be.
#[test]
fn what_is_recorded_anew_during_a_sync_is_not_marked_by_it() {
    let store = TestStore::new();
    let tar = Tar::new().file("a", b"content").finish();
    let image = store.make("app:1", std::slice::from_ref(&tar)).expect("makes");
    store.settle();
    let synced = database::unsynced(&store.inner.lock().db).expect("reads");
    assert_eq!(synced, database::Unsynced::default());

    store.remove_image("app:1", false, &|_| Vec::new()).expect("removes");
    store.inner.background.pause();
    let again = store.make("app:1", std::slice::from_ref(&tar)).expect("makes");
    assert_eq!(again.id, image.id);
    let mut state = store.inner.lock();
    state.begin_sync().expect("begins");
    drop(state);
    store.remove_image("app:1", false, &|_| Vec::new()).expect("removes");
    store.make("app:1", std::slice::from_ref(&tar)).expect("makes");
    let mut state = store.inner.lock();
    state.end_sync().expect("ends");
    let unsynced = database::unsynced(&state.db).expect("reads");
    assert_eq!((unsynced.layers.len(), unsynced.images.len()), (1, 1));
    drop(state);
    store.inner.background.resume();
}

/// The removal of what was never marked waits for nothing; that of what was is durable.
#[test]
fn only_fresh_records_go_without_a_sync() {
    let store = TestStore::new();
    let tar = Tar::new().file("a", b"content").finish();
    store.inner.background.pause();
    let image = store.make("app:1", std::slice::from_ref(&tar)).expect("makes");
    let mut state = store.inner.lock();
    assert!(state.syncing.forget_image(&image.id) && state.syncing.forget_layer(&store.names("layers")[0]));
    drop(state);
    store.remove_image("app:1", true, &|_| Vec::new()).expect("removes");
    store.inner.background.resume();
    let image = store.make("app:1", std::slice::from_ref(&tar)).expect("makes");
    store.settle();
    let mut state = store.inner.lock();
    assert!(!state.syncing.forget_image(&image.id));
    assert!(!state.syncing.forget_layer(&store.names("layers")[0]));
}
