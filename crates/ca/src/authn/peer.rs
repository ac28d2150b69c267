//! The identity in a certificate. Never knows the connection; its handshake has proved the key.
//!
//! Source: X509-SVID, 5 (validation): one URI name, which is a SPIFFE ID; no authority.

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Refusal;
use super::confirmed::Confirmed;
use crate::authority::State;
use crate::{SpiffeId, pem};

/// Certificates of a chain that a caller may show.
const MAX_CHAIN: usize = 10;

/// Checks a chain as it is now: connections outlive certificates and roots.
pub(super) fn identity(
    chain: &[CertificateDer<'static>],
    confirmed: &Confirmed,
    state: &State,
    now: SystemTime,
) -> Result<SpiffeId, Refusal> {
    if chain.len() > MAX_CHAIN {
        return Err(Refusal::Certificate("the chain is too long".to_owned()));
    }
    (confirmed.verify(&state.bundle, chain, now)).map_err(Refusal::Certificate)?;
    let unreadable = || Refusal::Certificate("it cannot be read".to_owned());
    let first = chain.first().ok_or_else(unreadable)?;
    let (_, certificate) = X509Certificate::from_der(first).map_err(|_| unreadable())?;
    let serial = certificate.raw_serial();
    if state.revoked.contains(serial) {
        return Err(Refusal::Revoked(pem::hexadecimal(serial)));
    }
    if state.revoked.has_lists() {
        for der in chain {
            let (_, one) = X509Certificate::from_der(der).map_err(|_| unreadable())?;
            let serial = one.raw_serial();
            if state.revoked.lists(one.issuer().as_raw(), serial) {
                return Err(Refusal::Revoked(pem::hexadecimal(serial)));
            }
        }
    }
    named(&certificate)
}

/// The one SPIFFE ID of a workload's certificate.
pub(crate) fn named(certificate: &X509Certificate<'_>) -> Result<SpiffeId, Refusal> {
    let unreadable = || Refusal::Certificate("it cannot be read".to_owned());
    if certificate.is_ca() {
        return Err(Refusal::Name("it is of an authority".to_owned()));
    }
    let names = certificate.subject_alternative_name();
    let names = names.map_err(|_| unreadable())?;
    let names = names.map_or(&[][..], |names| &names.value.general_names);
    let mut uris = names.iter().filter_map(|name| match name {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (Some(uri), None) = (uris.next(), uris.next()) else {
        return Err(Refusal::Name("it has not one URI".to_owned()));
    };
    SpiffeId::parse(uri).map_err(|error| Refusal::Name(error.to_string()))
}
