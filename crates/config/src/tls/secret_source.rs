//! Where a secret is: on the ADS stream or in the bootstrap, with the agent that this process is
//! itself, or in files that such an agent would read. Never reads any.
//!
//! Source: names of the secrets of Istio's agent (`file-cert:`, `file-root:`).

use std::sync::Arc;

use super::TlsCertificate;
use crate::data_source::DataSource;
use crate::extension::{ads_source, api_source, api_version};
use crate::pass::Pass;
use crate::pb;
use pb::extensions::transport_sockets::tls::v3::SdsSecretConfig;

/// The cluster of Istio's agent.
const AGENT: &str = "sds-grpc";
/// Names of secrets that are files: certificate and key, and authorities.
const PAIR: &str = "file-cert:";
const ROOTS: &str = "file-root:";
const SYSTEM: &str = "system";

/// See the module.
pub(super) enum SecretSource {
    /// A secret of this name.
    Name(Arc<str>),
    /// Files of a certificate and its key.
    Pair(TlsCertificate),
    /// A file of authorities; `None`: those of the system.
    Roots(Option<DataSource>),
}

pub(super) fn secret_source(p: &mut Pass<'_>, message: &SdsSecretConfig) -> Option<SecretSource> {
    use pb::core::config_source::ConfigSourceSpecifier as Source;
    let SdsSecretConfig { name, sds_config } = message;
    let name = p.name("name", name)?;
    let Some(config) = sds_config else {
        // Without a source the secret is one of the bootstrap's.
        return Some(SecretSource::Name(name));
    };
    let api = match &config.config_source_specifier {
        Some(Source::ApiConfigSource(api)) if p.context.agent => api,
        _ => {
            p.at("sds_config", |p| ads_source(p, config));
            return Some(SecretSource::Name(name));
        }
    };
    p.at("sds_config", |p| {
        let pb::core::ConfigSource {
            authorities,
            initial_fetch_timeout,
            resource_api_version,
            config_source_specifier: _,
        } = config;
        unsupported!(p; authorities);
        ignore!(p, "core.ConfigSource"; initial_fetch_timeout);
        api_version(p, "resource_api_version", *resource_api_version);
        p.at("api_config_source", |p| agent(p, api));
    });
    of_agent(p, &name)
}

/// Whether it is the agent's cluster that is asked. How it is asked does not matter: it is here.
fn agent(p: &mut Pass<'_>, message: &pb::core::ApiConfigSource) {
    use pb::core::grpc_service::TargetSpecifier;
    let (_, grpc_services) = api_source(p, message);
    let is_agent = |service: &pb::core::GrpcService| match &service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => target.cluster_name == AGENT,
        _ => false,
    };
    if grpc_services.is_empty() || !grpc_services.iter().all(is_agent) {
        p.refuse_field(
            "grpc_services",
            "must name the cluster sds-grpc: other servers of secrets than the agent and the ADS stream are not asked",
        );
    }
}

fn of_agent(p: &mut Pass<'_>, name: &Arc<str>) -> Option<SecretSource> {
    let file = |path: &str| DataSource::File {
        path: path.into(),
        watched_directory: None,
    };
    if let Some(files) = name.strip_prefix(PAIR) {
        let Some((chain, key)) = files
            .split_once('~')
            .filter(|(c, k)| !c.is_empty() && !k.is_empty())
        else {
            p.refuse_field("name", "must be file-cert:<certificate>~<key>");
            return None;
        };
        return Some(SecretSource::Pair(TlsCertificate {
            chain: file(chain),
            key: file(key),
        }));
    }
    match name.strip_prefix(ROOTS) {
        Some(SYSTEM) => Some(SecretSource::Roots(None)),
        Some("") => {
            p.refuse_field("name", "must be file-root:<file>");
            None
        }
        Some(path) => Some(SecretSource::Roots(Some(file(path)))),
        None => Some(SecretSource::Name(Arc::clone(name))),
    }
}
