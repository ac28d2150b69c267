//! Secrets as proxies get them. Must never know who may have them.

use prost::Message;
use weft_model::{CredentialName, Secret};
use weft_xds::{Resource, TypeUrl};

use super::sds;
use crate::ca::Svid;
use crate::emit::{Emitted, origins};
use crate::pb::core::v3::{DataSource, data_source::Specifier};
use crate::pb::tls::{
    CertificateValidationContext, Secret as SecretMessage, TlsCertificate, secret::Type,
};

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

/// The mesh's authorities, under Istio's name.
pub(crate) fn roots(svid: &Svid) -> Emitted {
    let context = CertificateValidationContext {
        trusted_ca: Some(inline(&svid.roots)),
        crl: (!svid.lists.pem.is_empty()).then(|| inline(svid.lists.pem.as_bytes())),
        only_verify_leaf_cert_crl: !svid.lists.pem.is_empty() && !svid.lists.whole_chain,
        ..CertificateValidationContext::default()
    };
    of_workload(sds::ROOTS, Type::ValidationContext(context))
}

fn of_workload(name: &str, r#type: Type) -> Emitted {
    let message = SecretMessage {
        name: name.to_owned(),
        r#type: Some(r#type),
    };
    let resource = Resource::new(&TypeUrl::SECRET, name, message.encode_to_vec());
    // No object of the configuration made it.
    Emitted::new(resource, origins([]))
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
    let body = message.encode_to_vec();
    let resource = Resource::new(&TypeUrl::SECRET, name.resource(), body);
    Emitted::new(resource, origins([secret.origin.clone()]))
}
