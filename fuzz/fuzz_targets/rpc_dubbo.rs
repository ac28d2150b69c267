//! Any bytes as Dubbo.

#![no_main]

mod rpc_frames;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rpc_frames::check("dubbo", bytes));
