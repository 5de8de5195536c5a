//! Answers of the kernel, some of which carry names and comments that others chose.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| palan_linux::netlink::fuzz::answers(bytes));
