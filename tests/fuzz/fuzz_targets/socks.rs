#![no_main]

#[path = "../../common/fuzz.rs"]
mod bodies;

libfuzzer_sys::fuzz_target!(|octets: &[u8]| bodies::of_socks(octets));
