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

/// What an earlier process removed without a durable write may come back, too: until the first sync nothing is fast.
#[test]
fn a_new_process_owes_what_the_last_one_owed() {
    let mut store = TestStore::new();
    store.make("app:1", &[Tar::new().file("a", b"content").finish()]).expect("makes");
    store.settle();
    assert!(store.inner.lock().syncing.owes_nothing());
    store.reopen();
    assert!(!store.inner.lock().syncing.owes_nothing());
    store.make("app:2", &[Tar::new().file("b", b"content").finish()]).expect("makes");
    store.settle();
    assert!(store.inner.lock().syncing.owes_nothing());
}

/// A synced record that went without a durable write (a lease kept all its files) may come back: the next removal is durable, of whatever.
#[test]
fn a_removed_record_that_may_come_back_is_made_durable_first() {
    let store = TestStore::new();
    let tar = Tar::new().file("a", b"content").finish();
    let old = store.make("old", std::slice::from_ref(&tar)).expect("makes");
    store.settle();
    store.inner.background.pause();
    let mut state = store.inner.lock();
    assert!(state.syncing.owes_nothing());
    assert!(!state.syncing.forget_image(&old.id));
    assert!(!state.syncing.owes_nothing());
    drop(state);
    store.make("new", &[Tar::new().file("b", b"other").finish()]).expect("makes");
    store.remove_image("new", false, &|_| Vec::new()).expect("removes");
    assert!(store.inner.lock().syncing.owes_nothing(), "that was durable");
    store.inner.background.resume();
}
