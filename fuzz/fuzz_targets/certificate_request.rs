//! Any bytes as a certificate request, a bundle, a SPIFFE ID and a list of revoked serial numbers:
//! each is read or refused, and a request that is read carries a key that can be certified.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weft_ca::{Csr, Revoked, SpiffeId, TrustBundle};

fuzz_target!(|bytes: &[u8]| {
    for read in [Csr::from_der(bytes), Csr::from_pem(bytes)].into_iter().flatten() {
        assert!(!read.public_key().is_empty());
    }
    let _bundle = TrustBundle::from_pem(bytes);
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _id = SpiffeId::parse(text);
        let _list = Revoked::parse(text);
    }
});
