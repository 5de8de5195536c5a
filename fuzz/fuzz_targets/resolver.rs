//! The host's `resolv.conf`, from which the containers' are made, and subnets.

#![no_main]

use palan_network::Subnet;
use palan_network::files::{self, DnsOptions};

libfuzzer_sys::fuzz_target!(|text: &str| {
    let _ = files::host_resolv_conf_path(text);
    let made = files::resolv_conf(text, &DnsOptions::default());
    // What was made is complete: reading it again changes nothing.
    assert_eq!(files::resolv_conf(&made, &DnsOptions::default()), made);
    if let Ok(subnet) = text.parse::<Subnet>() {
        assert_eq!(subnet.to_string().parse::<Subnet>().expect("its own text"), subnet);
    }
});
