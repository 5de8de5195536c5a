//! Against bytes that `google.golang.org/protobuf` wrote of BuildKit's own types, and against bytes that nobody would write.

use bytes::Bytes;

use super::*;
use crate::message::control::{
    CacheOptions, CacheOptionsEntry, Exporter, ListWorkersResponse, SolveRequest, StatusResponse, Vertex,
    VertexLog, VertexStatus, VertexWarning,
};
use crate::message::gateway::{FrontendResult, Ref, RefMap, ReturnRequest};
use crate::message::pb::{Definition, Position, ProgressGroup, Range, SourceInfo};
use crate::message::session::{Packet, Stat};
use crate::message::status::Timestamp;

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<u8> =
        hex.chars().map(|digit| digit.to_digit(16).expect("a digit").try_into().expect("small")).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect::<Vec<_>>().into()
}

fn map<V: Clone>(entries: &[(&str, V)]) -> BTreeMap<String, V> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
}

fn texts(entries: &[(&str, &str)]) -> BTreeMap<String, String> {
    entries.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

#[track_caller]
fn check<M: Message + PartialEq + std::fmt::Debug>(go: &str, message: &M) {
    let go = bytes(go);
    assert_eq!(M::decode(go.clone()).as_ref(), Ok(message));
    assert_eq!(Bytes::from(message.encode()), go);
}

#[test]
fn a_build_as_go_writes_it() {
    let message = SolveRequest {
        reference: "abc".to_owned(),
        session: "s1".to_owned(),
        frontend: "dockerfile.v0".to_owned(),
        frontend_attrs: texts(&[("filename", "Dockerfile"), ("target", ""), ("build-arg:A", "é")]),
        cache: Some(CacheOptions {
            imports: vec![CacheOptionsEntry { kind: "registry".to_owned(), attrs: texts(&[("ref", "a/b")]) }],
            ..CacheOptions::default()
        }),
        entitlements: vec!["network.host".to_owned()],
        frontend_inputs: map(&[(
            "in",
            Definition { def: vec![Bytes::from_static(&[1, 2]), Bytes::new()], source: None },
        )]),
        internal: true,
        exporters: vec![Exporter { kind: "moby".to_owned(), attrs: texts(&[("name", "x:1")]) }],
        compatibility_version: 20,
        ..SolveRequest::default()
    };
    check(
        "0a036162632a027331320d646f636b657266696c652e76303a110a0b6275696c642d6172673a411202c3a93a160a0866696c656e616d\
         65120a446f636b657266696c653a0a0a06746172676574120042182a160a087265676973747279120a0a037265661203612f624a0c6e\
         6574776f726b2e686f7374520c0a02696e12060a0201020a0058016a130a046d6f6279120b0a046e616d651203783a31800114",
        &message,
    );
}

#[test]
fn progress_as_go_writes_it() {
    let vertex = Vertex {
        digest: "sha256:1".to_owned(),
        inputs: vec!["a".to_owned(), "b".to_owned()],
        name: "n".to_owned(),
        cached: true,
        started: Some(Timestamp { seconds: 1_700_000_000, nanos: 5 }),
        progress_group: Some(ProgressGroup { id: "g".to_owned(), weak: true, ..ProgressGroup::default() }),
        ..Vertex::default()
    };
    let status = VertexStatus {
        id: "x".to_owned(),
        vertex: "sha256:1".to_owned(),
        current: -1,
        total: 1 << 40,
        ..VertexStatus::default()
    };
    let log = VertexLog {
        vertex: "sha256:1".to_owned(),
        timestamp: Some(Timestamp { seconds: -1, nanos: 0 }),
        stream: 2,
        msg: Bytes::from_static(b"out\n"),
    };
    let position = |line, character| Some(Position { line, character });
    let warning = VertexWarning {
        short: Bytes::from_static(b"s"),
        detail: vec![Bytes::from_static(b"d")],
        info: Some(SourceInfo {
            filename: "Dockerfile".to_owned(),
            data: Bytes::from_static(b"FROM x"),
            ..SourceInfo::default()
        }),
        ranges: vec![Range { start: position(1, 0), end: position(2, 3) }],
        ..VertexWarning::default()
    };
    let message = StatusResponse {
        vertexes: vec![vertex],
        statuses: vec![status],
        logs: vec![log],
        warnings: vec![warning],
    };
    check(
        "0a260a087368613235363a311201611201621a016e20012a080880e2cfaa06100542050a01671801121f0a017812087368613235363a\
         3120ffffffffffffffffff01288080808080201a1f0a087368613235363a31120b08ffffffffffffffffff01180222046f75740a2228\
         1a017322016432140a0a446f636b657266696c65120646524f4d20783a0a0a020801120408021003",
        &message,
    );
}

#[test]
fn packets_and_results_as_go_writes_them() {
    let stat = Stat {
        path: Bytes::from_static(b"a/b"),
        mode: 0x8000_0000 | 0o755,
        uid: 1000,
        gid: u32::MAX,
        size: 1 << 33,
        mod_time: -5,
        linkname: Bytes::from_static(b"l"),
        devmajor: 1,
        devminor: 2,
        xattrs: map(&[("user.a", Bytes::from_static(&[0, 255]))]),
    };
    check(
        "123a0a03612f6210ed8380800818e80720ffffffff0f28808080802030fbffffffffffffffff013a016c40014802520c0a0675736572\
         2e61120200ff18ac02",
        &Packet { kind: 0, stat: Some(stat), id: 300, data: Bytes::new() },
    );
    check(
        "08021807220568656c6c6f",
        &Packet { kind: 2, stat: None, id: 7, data: Bytes::from_static(b"hello") },
    );
    let result = |result| ReturnRequest { result: Some(result), error: None };
    let named = Ref { id: "r1".to_owned(), def: None };
    // Go writes what is one of several after all others, we in the order of numbers: both are right.
    let several = result(FrontendResult {
        several: Some(RefMap { refs: map(&[("linux/amd64", named)]) }),
        metadata: map(&[("k", Bytes::from_static(b"v"))]),
        ..FrontendResult::default()
    });
    let go = bytes("0a1f52060a016b12017622150a130a0b6c696e75782f616d64363412040a027231");
    assert_eq!(ReturnRequest::decode(go), Ok(several));
    check("0a021a00", &result(FrontendResult { single: Some(Ref::default()), ..FrontendResult::default() }));
    check("", &ListWorkersResponse::default());
}

#[test]
fn long_values_have_long_lengths() {
    for length in [0x7f, 0x80, 0x3fff, 0x4000, 1 << 21] {
        let stat = Stat { path: vec![b'x'; length].into(), ..Stat::default() };
        let packet = Packet { stat: Some(stat), ..Packet::default() };
        assert_eq!(Packet::decode(packet.encode().into()), Ok(packet));
    }
}

#[test]
fn unknown_fields_are_skipped() {
    // 99: 1; 98: fixed64; 97: fixed32; 96: bytes.
    let mut encoded = Packet { id: 5, ..Packet::default() }.encode();
    encoded.extend([
        0x98, 0x06, 1, 0x91, 0x06, 0, 0, 0, 0, 0, 0, 0, 0, 0x8d, 0x06, 0, 0, 0, 0, 0x82, 0x06, 1, 0,
    ]);
    assert_eq!(Packet::decode(encoded.into()).map(|packet| packet.id), Ok(5));
}

#[test]
fn mistakes() {
    let error = |hex: &str| Packet::decode(bytes(hex)).expect_err(hex);
    assert_eq!(error("08"), DecodeError::Truncated);
    assert_eq!(error("2205"), DecodeError::Truncated);
    assert_eq!(error("22ffffffffffffffffff01"), DecodeError::Truncated);
    assert_eq!(error("08ffffffffffffffffffff01"), DecodeError::Varint);
    assert_eq!(error("08ffffffffffffffffff02"), DecodeError::Varint);
    assert_eq!(error("0001"), DecodeError::Number(0));
    assert_eq!(error("0a00"), DecodeError::Type(1));
    assert_eq!(error("0b"), DecodeError::Type(1), "a group");
    assert_eq!(error("1001"), DecodeError::Type(2));
    assert_eq!(Vertex::decode(bytes("0a01ff")).expect_err("no text"), DecodeError::Text(1));
}

#[test]
fn what_is_sent_is_bounded() {
    let many = [0x0a, 0].repeat(MAX_FIELDS + 1);
    assert_eq!(StatusResponse::decode(many.into()), Err(DecodeError::TooMany));
    // A definition in a file of a definition, and so on.
    let mut nested = Definition::default();
    for _ in 0..MAX_DEPTH {
        let info = SourceInfo { definition: Some(nested), ..SourceInfo::default() };
        let source =
            crate::message::pb::Source { infos: vec![info], ..crate::message::pb::Source::default() };
        nested = Definition { source: Some(source), ..Definition::default() };
    }
    assert_eq!(Definition::decode(nested.encode().into()), Err(DecodeError::TooDeep));
}
