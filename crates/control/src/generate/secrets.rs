//! Secrets as proxies get them. Must never know who may have them.

use std::collections::BTreeMap;

use bytes::Bytes;
use prost::Message;
use weft_model::{CredentialName, MeshSettings, Secret};
use weft_xds::{Resource, TypeUrl};
use zeroize::{Zeroize, Zeroizing};

use super::sds;
use crate::ca::Svid;
use crate::emit::{Emitted, origins};
use crate::pb::any;
use crate::pb::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use crate::pb::tls::{
    CertificateValidationContext, Secret as SecretMessage, SpiffeCertValidatorConfig,
    TlsCertificate, secret::Type, spiffe_cert_validator_config::TrustDomain,
};

/// Envoy's name for it.
const VALIDATOR: &str = "envoy.tls.cert_validator.spiffe";

/// The certificate and key of a secret; `None` if it has none.
pub(crate) fn pair(name: &CredentialName, secret: &Secret) -> Option<Emitted> {
    let pair = secret.pair.as_ref()?;
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(&pair.chain)),
        private_key: Some(inline(pair.key.expose())),
        ocsp_staple: pair.staple.as_deref().map(inline),
        ..TlsCertificate::default()
    };
    Some(emit(name, secret, Type::TlsCertificate(certificate)))
}

/// The authorities of a secret; `None` if it has none.
pub(crate) fn authorities(name: &CredentialName, secret: &Secret) -> Option<Emitted> {
    let authorities = secret.authorities.as_ref()?;
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(&authorities.certificates)),
        crl: authorities.revoked.as_deref().map(inline),
        ..CertificateValidationContext::default()
    };
    Some(emit(name, secret, Type::ValidationContext(context)))
}

/// A workload's own certificate and key, under Istio's name.
pub(crate) fn own(svid: &Svid) -> Emitted {
    let certificate = TlsCertificate {
        certificate_chain: Some(inline(&svid.pair.chain)),
        private_key: Some(inline(svid.pair.key.expose())),
        ..TlsCertificate::default()
    };
    of_workload(sds::OWN, Type::TlsCertificate(certificate))
}

/// The mesh's authorities, under Istio's name. Where others confirm identities of other trust domains,
/// the domain chooses: of a list of all, each could confirm identities of any domain.
pub(crate) fn roots(svid: &Svid, mesh: &MeshSettings) -> Emitted {
    let lists = &svid.lists;
    let context = if mesh.authorities.is_empty() {
        CertificateValidationContext {
            trusted_ca: Some(inline(&svid.roots)),
            crl: (!lists.pem.is_empty()).then(|| inline(lists.pem.as_bytes())),
            only_verify_leaf_cert_crl: !lists.pem.is_empty() && !lists.whole_chain,
            ..CertificateValidationContext::default()
        }
    } else {
        CertificateValidationContext {
            custom_validator_config: Some(by_trust_domain(svid, mesh)),
            ..CertificateValidationContext::default()
        }
    };
    of_workload(sds::ROOTS, Type::ValidationContext(context))
}

/// Envoy's SPIFFE validator.
fn by_trust_domain(svid: &Svid, mesh: &MeshSettings) -> TypedExtensionConfig {
    let mut own: Vec<&str> = std::iter::once(&*mesh.trust_domain)
        .chain(mesh.trust_domain_aliases.iter().map(|alias| &**alias))
        .collect();
    own.sort_unstable();
    own.dedup();
    let mut bundles: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for domain in &own {
        let bundle = bundles.entry(*domain).or_default();
        bundle.extend_from_slice(&svid.roots);
    }
    for authorities in &mesh.authorities {
        let named: Vec<&str> = authorities.trust_domains.iter().map(|d| &**d).collect();
        let domains = if named.is_empty() { &own } else { &named };
        for domain in domains {
            let bundle = bundles.entry(*domain).or_default();
            bundle.extend_from_slice(authorities.certificates.as_bytes());
            bundle.push(b'\n');
        }
    }
    // A bundle with lists wants one of each authority of a chain. Those of other authorities are not
    // known, so that lists count where the mesh's own are the only ones.
    let alone = |domain: &str| bundles.get(domain).map(Vec::len) == Some(svid.roots.len());
    if svid.lists.whole_chain {
        let alone: Vec<&str> = own.iter().copied().filter(|domain| alone(domain)).collect();
        for domain in alone {
            let bundle = bundles.entry(domain).or_default();
            bundle.extend_from_slice(svid.lists.pem.as_bytes());
        }
    }
    let domains = bundles.into_iter().map(|(name, bundle)| TrustDomain {
        name: name.to_owned(),
        trust_bundle: Some(inline(&bundle)),
        ..TrustDomain::default()
    });
    let config = SpiffeCertValidatorConfig {
        trust_domains: domains.collect(),
        ..SpiffeCertValidatorConfig::default()
    };
    TypedExtensionConfig {
        name: VALIDATOR.to_owned(),
        typed_config: Some(any(&config)),
    }
}

fn of_workload(name: &str, r#type: Type) -> Emitted {
    let message = SecretMessage {
        name: name.to_owned(),
        r#type: Some(r#type),
    };
    let resource = Resource::new(&TypeUrl::SECRET, name, body(message));
    // No object of the configuration made it.
    Emitted::new(resource, origins([]))
}

/// The encoded message. It is wiped when the last resource that shares it goes; the message is wiped
/// here.
fn body(mut message: SecretMessage) -> Bytes {
    // As long as it will be from the start, so that growing leaves no copies.
    let encoded = Zeroizing::new(message.encode_to_vec());
    wipe(&mut message);
    Bytes::from_owner(encoded)
}

fn wipe(message: &mut SecretMessage) {
    if let Some(Type::TlsCertificate(certificate)) = &mut message.r#type
        && let Some(key) = &mut certificate.private_key
        && let Some(Specifier::InlineBytes(bytes)) = &mut key.specifier
    {
        bytes.zeroize();
    }
}

fn inline(bytes: &[u8]) -> DataSource {
    DataSource {
        specifier: Some(Specifier::InlineBytes(bytes.to_vec())),
        ..DataSource::default()
    }
}

fn emit(name: &CredentialName, secret: &Secret, r#type: Type) -> Emitted {
    let message = SecretMessage {
        name: name.resource().to_owned(),
        r#type: Some(r#type),
    };
    let resource = Resource::new(&TypeUrl::SECRET, name.resource(), body(message));
    Emitted::new(resource, origins([secret.origin.clone()]))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use weft_ca::authority::RevocationLists;
    use weft_model::{MeshAuthorities, PrivateKey, secret::KeyPair};

    use super::*;

    fn svid(whole_chain: bool) -> Svid {
        Svid {
            pair: KeyPair {
                chain: b"chain"[..].into(),
                key: PrivateKey::new(b"key".to_vec()),
                staple: None,
            },
            roots: b"own "[..].into(),
            lists: RevocationLists {
                pem: "lists ".into(),
                whole_chain,
            },
        }
    }

    fn mesh(authorities: &[(&str, &[&str])]) -> MeshSettings {
        let authorities = authorities.iter().map(|(pem, domains)| MeshAuthorities {
            certificates: (*pem).into(),
            trust_domains: domains.iter().map(|domain| Arc::from(*domain)).collect(),
        });
        MeshSettings {
            trust_domain_aliases: vec!["old".into()],
            authorities: authorities.collect(),
            ..MeshSettings::default()
        }
    }

    fn context(svid: &Svid, mesh: &MeshSettings) -> CertificateValidationContext {
        let body = roots(svid, mesh).resource.body.to_vec();
        match SecretMessage::decode(&*body).expect("a secret").r#type {
            Some(Type::ValidationContext(context)) => context,
            other => panic!("{other:?}"),
        }
    }

    fn bundles(svid: &Svid, mesh: &MeshSettings) -> Vec<(String, String)> {
        let context = context(svid, mesh);
        assert!(context.trusted_ca.is_none() && context.crl.is_none());
        let custom = context.custom_validator_config.expect("a validator");
        let config = custom.typed_config.expect("a message");
        let config = SpiffeCertValidatorConfig::decode(&*config.value).expect("readable");
        let domains = config.trust_domains.into_iter().map(|domain| {
            let bundle = domain.trust_bundle.and_then(|bundle| bundle.specifier);
            let Some(Specifier::InlineBytes(bytes)) = bundle else {
                panic!("{bundle:?}");
            };
            (domain.name, String::from_utf8(bytes).expect("text"))
        });
        domains.collect()
    }

    #[test]
    fn a_key_is_in_the_resource_and_no_longer_in_the_message() {
        let certificate = TlsCertificate {
            private_key: Some(inline(b"a key of the workload")),
            ..TlsCertificate::default()
        };
        let mut message = SecretMessage {
            name: "default".to_owned(),
            r#type: Some(Type::TlsCertificate(certificate)),
        };
        let encoded = body(message.clone());
        assert_eq!(&*encoded, message.encode_to_vec());
        assert!(encoded.windows(9).any(|part| part == b"a key of "));
        wipe(&mut message);
        let Some(Type::TlsCertificate(certificate)) = message.r#type else {
            panic!("it is still one");
        };
        let key = certificate.private_key.expect("an empty one");
        assert_eq!(key.specifier, Some(Specifier::InlineBytes(Vec::new())));
    }

    #[test]
    fn authorities_of_other_domains_confirm_only_theirs() {
        let plain = context(&svid(true), &mesh(&[]));
        assert!(plain.trusted_ca.is_some() && plain.custom_validator_config.is_none());
        let pairs = |pairs: &[(&str, &str)]| -> Vec<(String, String)> {
            let owned = pairs
                .iter()
                .map(|(a, b)| ((*a).to_owned(), (*b).to_owned()));
            owned.collect()
        };
        let two = mesh(&[("a", &["one", "two"]), ("b", &["two"])]);
        let wanted = [
            ("cluster.local", "own lists "),
            ("old", "own lists "),
            ("one", "a\n"),
            ("two", "a\nb\n"),
        ];
        assert_eq!(bundles(&svid(true), &two), pairs(&wanted));
        // Lists of a part of the chain would shut everybody out.
        let part = bundles(&svid(false), &two);
        assert_eq!(part.first().expect("one").1, "own ");
        // Without a domain it is one more of the mesh's own, of which there are no lists.
        let more = bundles(&svid(true), &mesh(&[("c", &[])]));
        let wanted = [("cluster.local", "own c\n"), ("old", "own c\n")];
        assert_eq!(more, pairs(&wanted));
    }
}
