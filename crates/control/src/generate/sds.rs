//! Where proxies get certificates and keys from: secrets that this control plane serves, and those
//! of the workload itself, which its agent has. Must never know the secrets.

use weft_model::{CredentialName, KeyPairFiles};

use crate::identity::CertificateFiles;
use crate::pb::core::v3::{
    ApiConfigSource, ApiVersion, ConfigSource, GrpcService, api_config_source::ApiType,
    config_source::ConfigSourceSpecifier, grpc_service::EnvoyGrpc, grpc_service::TargetSpecifier,
};
use crate::pb::tls::SdsSecretConfig;
use crate::pb::{self, seconds};

/// The workload's certificate and key, by Istio's name.
pub(crate) const OWN: &str = "default";
/// The mesh's authorities, by Istio's name.
pub(crate) const ROOTS: &str = "ROOTCA";
/// The cluster in the bootstrap of Istio's agent that leads to the agent.
const AGENT: &str = "sds-grpc";

/// The cluster of the server behind [`SOCKET`].
pub(crate) const EXTERNAL: &str = "sds-external";
/// Where an operator's own server of credentials listens beside a proxy.
pub(crate) const SOCKET: &str = "./var/run/secrets/credential-uds/socket";

/// Who has credentials besides the control plane.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Keepers<'a> {
    /// An agent of Istio's: the workload's own identity, and files.
    pub(crate) agent: bool,
    /// A server at [`SOCKET`]: names that begin with `sds://`.
    pub(crate) socket: bool,
    /// The same by the mesh's provider: cluster and host.
    pub(crate) provider: Option<&'a (String, String)>,
    /// Files with the workload's own identity, for connections that it takes.
    pub(crate) own: Option<&'a CertificateFiles>,
}

/// A secret that the control plane serves, or one of its keepers. One that is not there must not
/// keep a listener from starting for ever, so the proxy's default time for a first answer holds,
/// as in Istio.
pub(crate) fn credential(name: &CredentialName, keepers: Keepers<'_>) -> SdsSecretConfig {
    if name.is_built_in() {
        let own = if name.is_authorities() { ROOTS } else { OWN };
        return workload(own, keepers.agent);
    }
    match (name.elsewhere(), keepers) {
        // Such servers are asked for the whole name.
        (Some(_), Keepers { socket: true, .. }) => {
            of_server(name.resource().to_owned(), EXTERNAL, "")
        }
        (
            Some(short),
            Keepers {
                provider: Some((cluster, host)),
                ..
            },
        ) => of_server(short.to_owned(), cluster, host),
        _ => of_control_plane(name.here().resource()),
    }
}

fn of_control_plane(name: &str) -> SdsSecretConfig {
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            initial_fetch_timeout: None,
            ..pb::ads()
        }),
    }
}

/// A secret of the workload ([`OWN`], [`ROOTS`]). An agent of Istio has it; who has no agent asks
/// the control plane.
pub(crate) fn workload(name: &str, agent: bool) -> SdsSecretConfig {
    if !agent {
        return of_control_plane(name);
    }
    let mut config = of_agent(name.to_owned());
    if let Some(source) = &mut config.sds_config {
        source.initial_fetch_timeout = seconds(0);
    }
    config
}

/// Files of a certificate and its key, which Istio's agent watches.
pub(crate) fn pair_of_files(pair: &KeyPairFiles) -> SdsSecretConfig {
    of_agent(format!(
        "file-cert:{}~{}",
        pair.certificate, pair.private_key
    ))
}

/// A file of authorities, which Istio's agent watches.
pub(crate) fn roots_of_file(path: &str) -> SdsSecretConfig {
    of_agent(format!("file-root:{path}"))
}

fn of_agent(name: String) -> SdsSecretConfig {
    of_server(name, AGENT, "")
}

fn of_server(name: String, cluster: &str, host: &str) -> SdsSecretConfig {
    let server = GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            authority: host.to_owned(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    };
    SdsSecretConfig {
        name,
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(
                ApiConfigSource {
                    api_type: ApiType::Grpc as i32,
                    transport_api_version: ApiVersion::V3 as i32,
                    grpc_services: vec![server],
                    set_node_on_first_message_only: true,
                    ..ApiConfigSource::default()
                },
            )),
            resource_api_version: ApiVersion::V3 as i32,
            ..ConfigSource::default()
        }),
    }
}
