//! Any bytes as Tars.

#![no_main]

mod rpc_frames;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| rpc_frames::check("tars", bytes));
