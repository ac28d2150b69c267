//! Certificates and bundles in the form of the Workload API: DER in place of PEM. Never knows who
//! asks.

use std::collections::BTreeMap;
use std::fmt;

use prost::bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use weft_proto::spiffe::{X509BundlesResponse, X509svid, X509svidResponse};
use zeroize::{Zeroize, Zeroizing};

use super::bundles::Known;
use crate::agent::WorkloadIdentity;

/// A response with keys, which are wiped when it goes.
#[derive(Default)]
pub(super) struct WithKeys(X509svidResponse);

impl Drop for WithKeys {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for WithKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WithKeys(redacted)")
    }
}

impl Message for WithKeys {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        self.0.encode_raw(buffer);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.0.merge_field(tag, wire_type, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    fn clear(&mut self) {
        for svid in &mut self.0.svids {
            svid.x509_svid_key.zeroize();
        }
        self.0.clear();
    }
}

/// The answer of `FetchX509SVID`.
pub(super) fn svid(identity: &WorkloadIdentity, known: &Known) -> Result<WithKeys, String> {
    let key = PrivateKeyDer::from_pem_slice(identity.key.expose());
    let key = Zeroizing::new(key.map_err(|_| "the key is not PEM".to_owned())?);
    // The agent's own keys are PKCS#8, as the API wants them.
    let PrivateKeyDer::Pkcs8(key) = &*key else {
        return Err("the key is no PKCS#8".to_owned());
    };
    // What may fail comes before the copy.
    let (chain, roots) = (der(&identity.chain)?, der(&identity.roots)?);
    Ok(WithKeys(X509svidResponse {
        svids: vec![X509svid {
            spiffe_id: identity.id.to_string(),
            x509_svid: chain,
            x509_svid_key: key.secret_pkcs8_der().to_vec(),
            bundle: roots,
            hint: String::new(),
        }],
        crl: lists(identity, known),
        federated_bundles: foreign(identity, known),
    }))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_response_is_sent_as_it_is_and_cleared_of_keys() {
        let response = X509svidResponse {
            svids: vec![X509svid {
                x509_svid_key: b"secret".to_vec(),
                ..X509svid::default()
            }],
            ..X509svidResponse::default()
        };
        let wanted = response.encode_to_vec();
        let mut response = WithKeys(response);
        assert_eq!(response.encode_to_vec(), wanted);
        assert!(!format!("{response:?}").contains("115"));
        response.clear();
        assert!(response.0.svids.is_empty() && response.encode_to_vec().is_empty());
        assert_eq!(
            WithKeys::decode(&*wanted).expect("readable").0.svids[0].x509_svid_key,
            b"secret"
        );
    }
}
