//! Kubernetes `Secret` → [`Secret`], if there is something for TLS in it, and `ConfigMap`, if there
//! are authorities in it. The names of its keys are
//! those that istiod knows: `tls.crt`, `tls.key`, `ca.crt`, `ca.crl`, `tls.ocsp-staple` of secrets of
//! Kubernetes' own kind, and `cert`, `key`, `cacert`, `crl` of generic ones, which come first.
//!
//! What a secret holds must not be told to anybody: no message here contains a value.

use std::collections::BTreeMap;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{CertificateError, Error, InconsistentKeys};
use weft_model::{Authorities, KeyPair, PrivateKey, Secret};
use weft_proto::{Problem, kubernetes as k8s};

use crate::check::{At, Context};

/// The type of secrets that hold a certificate and its key.
const TLS: &str = "kubernetes.io/tls";
/// Names of certificate, key, list of revoked certificates and OCSP answer.
const PAIRS: [[&str; 4]; 2] = [
    ["cert", "key", "crl", ""],
    ["tls.crt", "tls.key", "ca.crl", "tls.ocsp-staple"],
];
/// Names of authorities and list of revoked certificates.
const ROOTS: [[&str; 2]; 2] = [["cacert", "crl"], ["ca.crt", "ca.crl"]];

/// What was wrong with the document, without what stands in its data.
pub(crate) fn without_values(problems: Vec<Problem>) -> Vec<Problem> {
    let each = problems.into_iter().map(|mut problem| {
        if problem.path.starts_with("data") {
            "must hold texts in base64".clone_into(&mut problem.message);
        } else if problem.path.starts_with("stringData") {
            "must hold texts".clone_into(&mut problem.message);
        }
        problem
    });
    each.collect()
}

struct Data {
    values: BTreeMap<String, Vec<u8>>,
    /// Those that were written in plain.
    plain: Vec<String>,
    /// The fields of those in plain and of the others.
    fields: [&'static str; 2],
}

impl Data {
    fn get(&self, key: &str) -> Option<&[u8]> {
        let value = self.values.get(key)?;
        (!value.is_empty()).then_some(&value[..])
    }

    fn error(&self, at: &At<'_>, key: &str, text: impl std::fmt::Display) {
        let plain = self.plain.iter().any(|name| name == key);
        let [in_plain, others] = self.fields;
        let map = at.field(if plain { in_plain } else { others });
        map.key(key).error(text);
    }
}

/// `None` without an error: nothing in it is for TLS.
pub(crate) fn convert(message: k8s::Secret, context: &Context<'_>, at: At<'_>) -> Option<Secret> {
    let k8s::Secret {
        metadata: _,
        r#type: kind,
        data: mut values,
        string_data,
        immutable: _,
    } = message;
    let plain = string_data.keys().cloned().collect();
    values.extend(
        string_data
            .into_iter()
            .map(|(key, text)| (key, text.into_bytes())),
    );
    let data = Data {
        values,
        plain,
        fields: ["stringData", "data"],
    };
    if kind == TLS {
        for key in ["tls.crt", "tls.key"] {
            if data.get(key).is_none() {
                let map = at.field("data");
                map.key(key)
                    .error("is missing: a secret of this type has a certificate and its key");
            }
        }
    }
    let pair = PAIRS.iter().find_map(|[chain, key, _, staple]| {
        let (chain, key) = ((*chain, data.get(chain)?), (*key, data.get(key)?));
        Some((chain, key, data.get(staple)))
    });
    let pair = match pair {
        Some((chain, key, staple)) => Some(pair_of(&data, chain, key, staple, &at)?),
        None => None,
    };
    let authorities = match roots_of(&data) {
        Some((name, roots, crl)) => Some(authorities_of(&data, (name, roots), crl, &at)?),
        None => None,
    };
    (pair.is_some() || authorities.is_some()).then(|| Secret {
        origin: context.origin.clone(),
        pair,
        authorities,
    })
}

/// `None` without an error: there are no authorities in it.
pub(crate) fn config_map(
    message: k8s::ConfigMap,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<Secret> {
    let k8s::ConfigMap {
        metadata: _,
        data: texts,
        binary_data: mut values,
        immutable: _,
    } = message;
    let plain = texts.keys().cloned().collect();
    let texts = texts.into_iter();
    values.extend(texts.map(|(key, text)| (key, text.into_bytes())));
    let data = Data {
        values,
        plain,
        fields: ["data", "binaryData"],
    };
    let (name, roots, crl) = roots_of(&data)?;
    Some(Secret {
        origin: context.origin.clone(),
        pair: None,
        authorities: Some(authorities_of(&data, (name, roots), crl, &at)?),
    })
}

/// Authorities with their name, and that of the list of revoked certificates beside them.
fn roots_of(data: &Data) -> Option<(&'static str, &[u8], &'static str)> {
    let mut names = ROOTS.iter();
    names.find_map(|[roots, crl]| Some((*roots, data.get(roots)?, *crl)))
}

fn pair_of(
    data: &Data,
    (chain_name, chain): (&str, &[u8]),
    (key_name, key): (&str, &[u8]),
    staple: Option<&[u8]>,
    at: &At<'_>,
) -> Option<KeyPair> {
    let certificates = certificates(data, chain_name, chain, at);
    let Ok(parsed) = PrivateKeyDer::from_pem_slice(key) else {
        data.error(
            at,
            key_name,
            "holds no private key in PEM: write one that is not encrypted",
        );
        return None;
    };
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let Ok(parsed) = provider.key_provider.load_private_key(parsed) else {
        data.error(
            at,
            key_name,
            "holds a key that cannot be used: write one for RSA, ECDSA or Ed25519",
        );
        return None;
    };
    match CertifiedKey::new(certificates?, parsed).keys_match() {
        // Certificates of version 1 are not understood here, but by proxies.
        Ok(())
        | Err(
            Error::InconsistentKeys(InconsistentKeys::Unknown)
            | Error::InvalidCertificate(CertificateError::Other(_)),
        ) => {}
        Err(Error::InconsistentKeys(_)) => {
            data.error(
                at,
                key_name,
                format_args!("is not the key of the first certificate in {chain_name}"),
            );
            return None;
        }
        Err(_) => {
            data.error(at, chain_name, "begins with what is no certificate");
            return None;
        }
    }
    Some(KeyPair {
        chain: chain.into(),
        key: PrivateKey::new(key.to_vec()),
        staple: staple.map(Arc::from),
    })
}

fn certificates(
    data: &Data,
    name: &str,
    pem: &[u8],
    at: &At<'_>,
) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Some(found),
        Ok(_) => {
            data.error(at, name, "holds no certificate in PEM");
            None
        }
        Err(_) => {
            data.error(at, name, "holds broken PEM");
            None
        }
    }
}

fn authorities_of(
    data: &Data,
    (name, roots): (&str, &[u8]),
    crl_name: &str,
    at: &At<'_>,
) -> Option<Authorities> {
    for certificate in certificates(data, name, roots, at)? {
        let parsed = rustls::server::ParsedCertificate::try_from(&certificate);
        let readable = match parsed {
            Ok(_) | Err(Error::InvalidCertificate(CertificateError::Other(_))) => true,
            Err(_) => false,
        };
        if !readable {
            data.error(at, name, "holds what is no certificate");
            return None;
        }
    }
    let revoked = data.get(crl_name);
    let lists = revoked.map(|pem| CertificateRevocationListDer::pem_slice_iter(pem).collect());
    match lists {
        Some(Ok::<Vec<_>, _>(lists)) if !lists.is_empty() => {}
        Some(_) => {
            data.error(at, crl_name, "holds no list of revoked certificates in PEM");
            return None;
        }
        None => {}
    }
    Some(Authorities {
        certificates: roots.into(),
        revoked: revoked.map(Arc::from),
    })
}
