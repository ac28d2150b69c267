//! Certificates and bundles in the form of the Workload API: DER in place of PEM. Never knows who
//! asks.

use std::collections::BTreeMap;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use weft_proto::spiffe::{X509BundlesResponse, X509svid, X509svidResponse};

use super::bundles::Known;
use crate::agent::WorkloadIdentity;

/// The answer of `FetchX509SVID`.
pub(super) fn svid(identity: &WorkloadIdentity, known: &Known) -> Result<X509svidResponse, String> {
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose());
    // The agent's own keys are PKCS#8, as the API wants them.
    let Ok(PrivateKeyDer::Pkcs8(key)) = key else {
        return Err("the key is no PKCS#8".to_owned());
    };
    Ok(X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: identity.id.to_string(),
            x509_svid: der(&identity.chain)?,
            x509_svid_key: key.secret_pkcs8_der().to_vec(),
            bundle: der(&identity.roots)?,
            hint: String::new(),
        }],
        crl: lists(identity, known),
        federated_bundles: foreign(identity, known),
    })
}

/// The answer of `FetchX509Bundles`.
pub(super) fn bundles(
    identity: &WorkloadIdentity,
    known: &Known,
) -> Result<X509BundlesResponse, String> {
    let mut bundles = foreign(identity, known);
    bundles.insert(name(identity.id.trust_domain()), der(&identity.roots)?);
    Ok(X509BundlesResponse {
        crl: lists(identity, known),
        bundles,
    })
}

/// The SPIFFE ID of a trust domain.
pub(super) fn name(domain: &weft_ca::TrustDomain) -> String {
    format!("spiffe://{domain}")
}

/// The mesh's lists of revoked certificates.
fn lists(identity: &WorkloadIdentity, known: &Known) -> Vec<Vec<u8>> {
    let own = known.get(identity.id.trust_domain());
    own.map(|own| own.lists.clone()).unwrap_or_default()
}

/// Roots of other trust domains.
fn foreign(identity: &WorkloadIdentity, known: &Known) -> BTreeMap<String, Vec<u8>> {
    let own = identity.id.trust_domain();
    let others = known.iter().filter(|(domain, _)| *domain != own);
    let roots = others.filter(|(_, bundle)| !bundle.roots.is_empty());
    roots
        .map(|(domain, bundle)| (name(domain), bundle.roots.clone()))
        .collect()
}

/// Certificates in PEM as one DER after the other.
fn der(pem: &[u8]) -> Result<Vec<u8>, String> {
    let mut all = Vec::new();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        all.extend_from_slice(&certificate.map_err(|error| error.to_string())?);
    }
    Ok(all)
}
