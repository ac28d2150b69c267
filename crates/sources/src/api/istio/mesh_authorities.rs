//! `caCertificates` of `MeshConfig`: authorities besides the mesh's own, and the trust domains whose
//! identities they confirm. Never fetches anything.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use weft_model::MeshAuthorities;
use weft_proto::istio::mesh::v1alpha1::mesh_config::{
    CertificateData, certificate_data::CertificateData as Source,
};

use super::mesh_config::trust_domain;
use crate::check::At;

/// Bytes of one entry; a root has 0.5 to 2 KB.
const MAX_BYTES: usize = 64 * 1024;

/// Entries, and trust domains of all of them; with the mesh's own a proxy takes 256 domains.
const MAX_ENTRIES: usize = 64;
const MAX_DOMAINS: usize = 128;

/// Those that are sound; what is wrong with others is noted.
pub(super) fn all(list: Vec<CertificateData>, at: At<'_>) -> Vec<MeshAuthorities> {
    let domains: usize = list.iter().map(|data| data.trust_domains.len()).sum();
    if list.len() > MAX_ENTRIES || domains > MAX_DOMAINS {
        at.error("has more than 64 entries, or more than 128 trust domains in all");
        return Vec::new();
    }
    let list = list.into_iter().enumerate();
    list.filter_map(|(index, data)| authorities(data, at.index(index)))
        .collect()
}

/// `None` with an error.
fn authorities(data: CertificateData, at: At<'_>) -> Option<MeshAuthorities> {
    let CertificateData {
        cert_signers,
        trust_domains,
        certificate_data,
    } = data;
    at.field("certSigners").refuse(!cert_signers.is_empty());
    let field = at.field("trustDomains");
    let names = trust_domains.iter().enumerate();
    let mut names: Vec<Arc<str>> = names
        .map(|(index, name)| trust_domain(name, field.index(index)))
        .collect();
    names.sort();
    names.dedup();
    let pem = match certificate_data {
        Some(Source::Pem(pem)) => pem,
        Some(Source::SpiffeBundleUrl(_)) => {
            at.field("spiffeBundleUrl").refuse(true);
            return None;
        }
        None => {
            at.field("pem")
                .error("is missing: write certificates in PEM");
            return None;
        }
    };
    if let Err(problem) = check(&pem) {
        at.field("pem").error(problem);
        return None;
    }
    Some(MeshAuthorities {
        certificates: pem.into(),
        trust_domains: names,
    })
}

fn check(pem: &str) -> Result<(), &'static str> {
    if pem.len() > MAX_BYTES {
        return Err("is longer than 64 KiB");
    }
    let mut roots = RootCertStore::empty();
    let mut count = 0;
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| "is no PEM")?;
        count += 1;
        let added = roots.add(certificate);
        added.map_err(|_| "holds a certificate that cannot be an authority's")?;
    }
    if roots.is_empty() {
        return Err("holds no `BEGIN CERTIFICATE` block");
    }
    // All of the text goes to proxies.
    if pem.matches("-----BEGIN ").count() != count {
        return Err("holds other blocks than certificates: take keys and lists out");
    }
    Ok(())
}
