//! What containers send to their resolver, and what servers reply to it.

#![no_main]

use palan_dns::answer::{self, Decision, Transport};
use palan_dns::config::Config;
use palan_dns::message::{self, Query};
use palan_dns::names::Zone;
use palan_dns::upstream;

const NAMES: &str = "# palan-names 1 front\n172.18.0.2 web www\nfd00::2 web www\n172.18.0.3 db www\n";

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let zones = [Zone::new(NAMES)];
    for (forward, transport) in [(true, Transport::Udp), (false, Transport::Tcp)] {
        let config = Config { forward, ..Config::default() };
        match answer::decide(bytes, transport, &config, &zones) {
            Decision::Answer(reply) => {
                assert!(reply.len() <= usize::from(u16::MAX) && reply[2] & 0x80 != 0);
                assert_eq!(reply[..2], bytes[..2], "the client's own id");
                if let Ok(query) = Query::parse(bytes) {
                    assert!(transport == Transport::Tcp || reply.len() <= query.udp_limit().max(bytes.len()));
                    assert!(message::is_reply_to(&reply, bytes, query.id));
                }
            }
            Decision::Forward => assert!(forward && Query::parse(bytes).is_ok()),
            Decision::Drop => {}
        }
    }
    let _ = (message::is_failure(bytes), message::is_reply_to(bytes, bytes, 0));
    if let Ok(text) = std::str::from_utf8(bytes) {
        let config = Config::parse(text);
        assert_eq!(Config::parse(&config.render()), config, "what is written is read back");
        let _ = (Zone::new(text).addresses("web"), upstream::servers(text));
    }
});
