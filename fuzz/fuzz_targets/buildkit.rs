//! Messages of BuildKit's protocol: whatever is read can be written and read again.

#![no_main]

use bytes::Bytes;
use palan_buildkit::message::content::{InfoResponse, WriteRequest};
use palan_buildkit::message::control::{BuildHistoryEvent, ListWorkersResponse, SolveRequest, StatusResponse};
use palan_buildkit::message::gateway::{PongResponse, ReturnRequest, WarnRequest};
use palan_buildkit::message::session::{FetchTokenRequest, GetSecretRequest, Packet};
use palan_buildkit::message::status::Status;
use palan_buildkit::wire::Message;

fn check<M: Message + PartialEq + std::fmt::Debug>(bytes: &[u8]) {
    if let Ok(message) = M::decode(Bytes::copy_from_slice(bytes)) {
        assert_eq!(M::decode(message.encode().into()).as_ref(), Ok(&message));
    }
}

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    check::<SolveRequest>(bytes);
    check::<StatusResponse>(bytes);
    check::<ListWorkersResponse>(bytes);
    check::<BuildHistoryEvent>(bytes);
    check::<PongResponse>(bytes);
    check::<ReturnRequest>(bytes);
    check::<WarnRequest>(bytes);
    check::<Packet>(bytes);
    check::<GetSecretRequest>(bytes);
    check::<FetchTokenRequest>(bytes);
    check::<Status>(bytes);
    check::<InfoResponse>(bytes);
    check::<WriteRequest>(bytes);
});
