//! `SPIFFECertValidatorConfig` → roots by trust domain. Reads no certificate.
//!
//! Source: Envoy's `envoy.tls.cert_validator.spiffe`.

use super::TrustDomainRoots;
use crate::data_source::data_source;
use crate::extension::{Extension, decode, typed};
use crate::pass::Pass;
use crate::pb;
use pb::extensions::transport_sockets::tls::v3 as tls;

/// Trust domains of one context.
const MAX_DOMAINS: usize = 256;

const VALIDATORS: &[Extension<Vec<TrustDomainRoots>>] = &[Extension {
    name: "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
    read: |p, bytes| {
        let message = decode(p, bytes)?;
        trust_domains(p, &message)
    },
}];

/// What takes the place of the usual check of chains.
pub(super) fn custom_validator(
    p: &mut Pass<'_>,
    message: &pb::core::TypedExtensionConfig,
) -> Option<Vec<TrustDomainRoots>> {
    // The name is for humans.
    let pb::core::TypedExtensionConfig {
        name: _,
        typed_config,
    } = message;
    typed(p, "typed_config", typed_config.as_ref(), VALIDATORS)
}

fn trust_domains(
    p: &mut Pass<'_>,
    message: &tls::SpiffeCertValidatorConfig,
) -> Option<Vec<TrustDomainRoots>> {
    let tls::SpiffeCertValidatorConfig {
        trust_domains,
        trust_bundles,
    } = message;
    unsupported!(p; trust_bundles);
    let mut domains: Vec<TrustDomainRoots> = p.each("trust_domains", trust_domains, trust_domain);
    if trust_domains.is_empty() || trust_domains.len() > MAX_DOMAINS {
        p.refuse_field("trust_domains", format!("must have 1 to {MAX_DOMAINS}"));
    }
    domains.sort_by(|a, b| a.name.cmp(&b.name));
    let pairs = domains.iter().zip(domains.iter().skip(1));
    for (twice, _) in pairs.filter(|(a, b)| a.name == b.name) {
        let name = &twice.name;
        p.refuse_field("trust_domains", format!("has {name} twice"));
    }
    Some(domains)
}

fn trust_domain(
    p: &mut Pass<'_>,
    message: &tls::spiffe_cert_validator_config::TrustDomain,
) -> Option<TrustDomainRoots> {
    let tls::spiffe_cert_validator_config::TrustDomain {
        name,
        trust_bundle,
        workload_trust_domain,
    } = message;
    unsupported!(p; workload_trust_domain);
    if name.is_empty() || name.contains('/') {
        p.refuse_field("name", "must be a trust domain such as example.org");
    }
    let bundle = p.required("trust_bundle", trust_bundle.as_ref(), data_source)?;
    Some(TrustDomainRoots {
        name: name.as_str().into(),
        bundle,
    })
}
