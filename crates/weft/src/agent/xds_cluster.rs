//! The way to the control plane, in the bootstrap: shows the agent's certificate and is checked by
//! the mesh's roots, where the bootstrap does not say otherwise. Must never know the certificate.

use prost::Message;
use weft_agent::Roots;
use weft_proto::Any;
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::core::v3::{
    ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService,
    api_config_source::ApiType,
    config_source::ConfigSourceSpecifier,
    data_source::Specifier,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    transport_socket::ConfigType,
};
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, SdsSecretConfig, UpstreamTlsContext,
    certificate_validation_context::SystemRootCerts,
    common_tls_context::ValidationContextType as Validation,
};

use crate::Failure;

const TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";

/// Equips the clusters that the ADS configuration names. `roots`: by which they are checked,
/// whatever the bootstrap says.
pub(super) fn secure(bootstrap: &mut Bootstrap, roots: Option<&Roots>) -> Result<(), Failure> {
    let names = ads_clusters(bootstrap);
    let resources = bootstrap.static_resources.iter_mut();
    let clusters = resources.flat_map(|resources| &mut resources.clusters);
    for cluster in clusters.filter(|cluster| names.contains(&cluster.name)) {
        let Some(any) = tls_of(cluster) else {
            if roots.is_some() {
                let name = &cluster.name;
                return Err(format!(
                    "--xds-root: the cluster {name} has no TLS: give it a transport_socket"
                ));
            }
            continue;
        };
        // What cannot be read is told where all of the bootstrap is checked.
        if let Ok(mut context) = UpstreamTlsContext::decode(&*any.value) {
            equip(context.common_tls_context.get_or_insert_default(), roots);
            any.value = context.encode_to_vec();
        }
    }
    Ok(())
}

fn ads_clusters(bootstrap: &Bootstrap) -> Vec<String> {
    let dynamic = bootstrap.dynamic_resources.iter();
    let ads = dynamic.filter_map(|dynamic| dynamic.ads_config.as_ref());
    let services = ads.flat_map(|ads| &ads.grpc_services);
    let names = services.filter_map(|service| match &service.target_specifier {
        Some(TargetSpecifier::EnvoyGrpc(target)) => Some(target.cluster_name.clone()),
        _ => None,
    });
    names.collect()
}

fn tls_of(cluster: &mut Cluster) -> Option<&mut Any> {
    let socket = cluster.transport_socket.as_mut()?;
    match socket.config_type.as_mut()? {
        ConfigType::TypedConfig(any) if any.type_url == TLS => Some(any),
        ConfigType::TypedConfig(_) => None,
    }
}

fn equip(context: &mut CommonTlsContext, roots: Option<&Roots>) {
    let certificates = &mut context.tls_certificate_sds_secret_configs;
    if context.tls_certificates.is_empty() && certificates.is_empty() {
        certificates.push(of_agent("default"));
    }
    match (&mut context.validation_context_type, roots) {
        (None, None) => {
            let roots = of_agent("ROOTCA");
            context.validation_context_type =
                Some(Validation::ValidationContextSdsSecretConfig(roots));
        }
        // Names without roots would let in whoever calls himself so.
        (Some(Validation::ValidationContext(own)), None) if has_no_roots(own) => {
            let combined = weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::common_tls_context::CombinedCertificateValidationContext {
                default_validation_context: Some(std::mem::take(own)),
                validation_context_sds_secret_config: Some(of_agent("ROOTCA")),
                ..Default::default()
            };
            context.validation_context_type = Some(Validation::CombinedValidationContext(combined));
        }
        (Some(_), None) => {}
        (given, Some(roots)) => {
            let mut own = match given.take() {
                Some(Validation::ValidationContext(own)) => own,
                Some(Validation::CombinedValidationContext(combined)) => {
                    combined.default_validation_context.unwrap_or_default()
                }
                _ => CertificateValidationContext::default(),
            };
            own.trusted_ca = None;
            own.system_root_certs = None;
            match roots {
                Roots::System => own.system_root_certs = Some(SystemRootCerts::default()),
                Roots::File(path) => {
                    own.trusted_ca = Some(DataSource {
                        specifier: Some(Specifier::Filename(path.display().to_string())),
                        ..DataSource::default()
                    });
                }
            }
            *given = Some(Validation::ValidationContext(own));
        }
    }
}

fn has_no_roots(context: &CertificateValidationContext) -> bool {
    context.trusted_ca.is_none()
        && context.system_root_certs.is_none()
        && context.ca_certificate_provider_instance.is_none()
}

/// A secret of the agent, as Istio's control plane names them.
fn of_agent(name: &str) -> SdsSecretConfig {
    let target = EnvoyGrpc {
        cluster_name: "sds-grpc".to_owned(),
        ..EnvoyGrpc::default()
    };
    let source = ApiConfigSource {
        api_type: ApiType::Grpc as i32,
        transport_api_version: ApiVersion::V3 as i32,
        grpc_services: vec![GrpcService {
            target_specifier: Some(TargetSpecifier::EnvoyGrpc(target)),
            ..GrpcService::default()
        }],
        ..ApiConfigSource::default()
    };
    SdsSecretConfig {
        name: name.to_owned(),
        sds_config: Some(ConfigSource {
            config_source_specifier: Some(ConfigSourceSpecifier::ApiConfigSource(source)),
            resource_api_version: ApiVersion::V3 as i32,
            ..ConfigSource::default()
        }),
    }
}

#[cfg(test)]
mod tests {
    use weft_proto::bootstrap::read_located_bootstrap;

    use super::*;

    fn bootstrap(tls: &str) -> Bootstrap {
        let text = format!(
            "dynamic_resources: {{ads_config: {{api_type: GRPC, grpc_services: [{{envoy_grpc: {{cluster_name: xds}}}}]}}}}\n\
             static_resources:\n  clusters:\n  - {{name: other}}\n  - {{name: xds{tls}}}\n"
        );
        let read = read_located_bootstrap(Some(("b.yaml", &text)), None);
        read.unwrap_or_else(|problems| panic!("{problems:?}")).0
    }

    fn with(common: &str) -> Bootstrap {
        bootstrap(&format!(
            ", transport_socket: {{name: tls, typed_config: {{\"@type\": {TLS}, common_tls_context: {common}}}}}"
        ))
    }

    fn context(bootstrap: &mut Bootstrap) -> CommonTlsContext {
        let resources = bootstrap.static_resources.as_mut().expect("resources");
        let any = tls_of(&mut resources.clusters[1]).expect("TLS");
        let context = UpstreamTlsContext::decode(&*any.value).expect("readable");
        context.common_tls_context.expect("equipped")
    }

    fn equipped(common: &str, roots: Option<&Roots>) -> CommonTlsContext {
        let mut bootstrap = with(common);
        secure(&mut bootstrap, roots).expect("TLS");
        context(&mut bootstrap)
    }

    #[test]
    fn the_agents_secrets_are_used_where_the_bootstrap_says_nothing() {
        let context = equipped("{}", None);
        assert_eq!(
            context.tls_certificate_sds_secret_configs,
            [of_agent("default")]
        );
        let roots = Validation::ValidationContextSdsSecretConfig(of_agent("ROOTCA"));
        assert_eq!(context.validation_context_type, Some(roots));
        let names = "{validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: istiod}}]}}";
        let Some(Validation::CombinedValidationContext(combined)) =
            equipped(names, None).validation_context_type
        else {
            panic!("names and roots");
        };
        let default = combined.default_validation_context.expect("the names");
        assert_eq!(default.match_typed_subject_alt_names.len(), 1);
        assert_eq!(
            combined.validation_context_sds_secret_config,
            Some(of_agent("ROOTCA"))
        );
    }

    #[test]
    fn what_the_bootstrap_says_counts_and_the_flag_counts_more() {
        let own = "{tls_certificates: [{certificate_chain: {filename: c}, private_key: {filename: k}}], validation_context: {trusted_ca: {filename: r}}}";
        let context = equipped(own, None);
        assert!(context.tls_certificate_sds_secret_configs.is_empty());
        let trusted = |context: CommonTlsContext| match context.validation_context_type {
            Some(Validation::ValidationContext(own)) => own,
            other => panic!("{other:?}"),
        };
        let file = |context: CommonTlsContext| match trusted(context).trusted_ca?.specifier? {
            Specifier::Filename(path) => Some(path),
            _ => None,
        };
        assert_eq!(file(context).as_deref(), Some("r"));
        let given = Roots::File("x".into());
        assert_eq!(file(equipped(own, Some(&given))).as_deref(), Some("x"));
        let system = trusted(equipped(own, Some(&Roots::System)));
        assert!(system.system_root_certs.is_some() && system.trusted_ca.is_none());
    }

    #[test]
    fn a_way_in_plain_text_stays_and_roots_for_it_are_a_fault() {
        let mut plain = bootstrap("");
        let before = plain.clone();
        secure(&mut plain, None).expect("nothing to do");
        assert_eq!(plain, before);
        let error = secure(&mut plain, Some(&Roots::System)).expect_err("no TLS");
        assert!(error.contains("xds has no TLS"), "{error}");
    }
}
