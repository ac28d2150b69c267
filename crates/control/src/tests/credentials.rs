//! Credentials that are no secrets of this control plane: the workload's own, those of other
//! servers, and authorities of `ConfigMaps`.

use prost::Message as _;
use weft_model::MeshSettings;
use weft_xds::TypeUrl;

use super::gateway_secrets::{pair, secret};
use super::{Config, Mesh, gateway, proxy, sidecar};
use crate::pb::core::v3::config_source::ConfigSourceSpecifier;
use crate::pb::core::v3::grpc_service::TargetSpecifier;
use crate::pb::core::v3::transport_socket::ConfigType;
use crate::pb::tls::common_tls_context::ValidationContextType;
use crate::pb::tls::{DownstreamTlsContext, SdsSecretConfig};

const FRONT: &str = "---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: infra}
spec:
  selector: {istio: ingressgateway}
  servers:
  - port: {number: 443, name: https, protocol: HTTPS}
    hosts: [a.example.com]
    tls: {mode: MUTUAL, credentialName: '$NAME'}
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: keys, namespace: infra}
spec:
  hosts: [keys.infra.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8234, name: grpc, protocol: GRPC}]
  endpoints: [{address: 10.1.6.1}]
";

fn front(credential: &str) -> String {
    FRONT.replace("$NAME", credential)
}

/// Who is asked for a secret (nobody: the control plane), and for what.
fn asked(secret: &SdsSecretConfig) -> (String, String) {
    let source = secret.sds_config.as_ref().expect("a source");
    let server = match &source.config_source_specifier {
        Some(ConfigSourceSpecifier::Ads(_)) => String::new(),
        Some(ConfigSourceSpecifier::ApiConfigSource(api)) => {
            let [service] = &api.grpc_services[..] else {
                panic!("{api:?}")
            };
            match &service.target_specifier {
                Some(TargetSpecifier::EnvoyGrpc(to)) => {
                    format!("{} {}", to.cluster_name, to.authority)
                }
                other => panic!("{other:?}"),
            }
        }
        other => panic!("{other:?}"),
    };
    (server.trim().to_owned(), secret.name.clone())
}

/// The same of the first server's certificate and authorities.
fn of_server(config: &Config) -> [(String, String); 2] {
    let listener = config.listener("0.0.0.0_443");
    let socket = listener.filter_chains[0].transport_socket.clone();
    let Some(ConfigType::TypedConfig(any)) = socket.expect("TLS").config_type else {
        panic!("no TLS")
    };
    let context = DownstreamTlsContext::decode(&any.value[..]).expect("a valid message");
    let common = context.common_tls_context.expect("set");
    let Some(ValidationContextType::CombinedValidationContext(check)) =
        common.validation_context_type
    else {
        panic!("nothing is checked")
    };
    let roots = check.validation_context_sds_secret_config.expect("set");
    let own = &common.tls_certificate_sds_secret_configs[0];
    [asked(own), asked(&roots)]
}

fn pairs(server: &str, names: [&str; 2]) -> [(String, String); 2] {
    names.map(|name| (server.to_owned(), name.to_owned()))
}

fn labelled(more: &[(&str, &str)]) -> crate::node::Proxy {
    let labels = [("LABELS", r#"{"istio":"ingressgateway"}"#)];
    proxy(
        "router~10.9.9.9~gw.infra~infra.svc.cluster.local",
        &[&labels[..], more].concat(),
    )
}

fn faults(mesh: &mut Mesh, of: &crate::node::Proxy) -> usize {
    mesh.view(of).faults().count()
}

#[test]
fn the_workloads_own_identity_is_its_agents() {
    let mut mesh = Mesh::new(&front("builtin://"));
    let agent = labelled(&[("ISTIO_VERSION", "1.32.0")]);
    let config = mesh.config(&agent);
    assert_eq!(of_server(&config), pairs("sds-grpc", ["default", "ROOTCA"]));
    assert!(config.names(&TypeUrl::SECRET).is_empty());
    assert_eq!(faults(&mut mesh, &agent), 0);
}

#[test]
fn credentials_of_others_are_asked_of_the_socket_then_the_provider_then_here() {
    let settings = "extensionProviders: [{name: keys, sds: {name: keys, service: keys.infra.svc.cluster.local, port: 8234}}]";
    let settings = weft_sources::mesh_config::parse("mesh.yaml", settings).expect("valid");
    let socket = labelled(&[("credential", "true")]);
    let mut mesh = Mesh::with(settings, &front("sds://kept"));
    let config = mesh.config(&socket);
    let whole = ["sds://kept", "sds://kept-cacert"];
    assert_eq!(of_server(&config), pairs("sds-external", whole));
    let cluster = config.cluster("sds-external");
    assert!(format!("{cluster:?}").contains("credential-uds/socket"));
    let config = mesh.config(&gateway());
    assert!(
        !config
            .names(&TypeUrl::CLUSTER)
            .contains(&"sds-external".to_owned())
    );
    let provider = "outbound|8234||keys.infra.svc.cluster.local keys.infra.svc.cluster.local";
    assert_eq!(of_server(&config), pairs(provider, ["kept", "kept-cacert"]));
    assert_eq!(faults(&mut mesh, &gateway()), 0);

    let (certificate, key) = pair();
    let own = secret(
        "kept",
        "infra",
        &[
            ("tls.crt", &certificate),
            ("tls.key", &key),
            ("ca.crt", &certificate),
        ],
    );
    let mut mesh = Mesh::with(MeshSettings::default(), &front("sds://kept"));
    assert_eq!(faults(&mut mesh, &gateway()), 2, "nobody has it");
    mesh.edit("kept.yaml", &own);
    let config = mesh.config(&gateway());
    let here = ["kubernetes://kept", "kubernetes://kept-cacert"];
    assert_eq!(of_server(&config), pairs("", here));
    assert_eq!(config.names(&TypeUrl::SECRET), here);
    assert_eq!(faults(&mut mesh, &gateway()), 0);
}

#[test]
fn authorities_of_a_config_map_are_for_everybody_who_calls_by_its_rule() {
    let out = "---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: out, namespace: infra}
spec:
  hosts: [out.example.net]
  resolution: STATIC
  ports: [{number: 443, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1}]
";
    let rule = "---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: out, namespace: infra}
spec:
  host: out.example.net
  trafficPolicy: {tls: {mode: SIMPLE, credentialName: 'configmap://infra/roots'}}
";
    let (certificate, _) = pair();
    let map = secret("roots", "infra", &[("ca.crt", &certificate)]);
    let map = map.replace("kind: Secret", "kind: ConfigMap");
    let map = map.replace("stringData:", "data:");
    let mut mesh = Mesh::new(out);
    mesh.edit("map.yaml", &map);
    let caller = sidecar("10.0.0.3", "other");
    let names = |mesh: &mut Mesh| mesh.config(&caller).names(&TypeUrl::SECRET);
    assert!(names(&mut mesh).is_empty(), "nobody names it");
    mesh.edit("rule.yaml", rule);
    assert_eq!(names(&mut mesh), ["configmap://infra/roots-cacert"]);
    let config = mesh.config(&caller);
    let cluster = config.cluster("outbound|443||out.example.net");
    assert!(cluster.transport_socket.is_some(), "{cluster:?}");
    mesh.edit("map.yaml", "");
    assert!(names(&mut mesh).is_empty(), "it is gone");
    mesh.edit("map.yaml", &map);
    mesh.edit("rule.yaml", "");
    assert!(names(&mut mesh).is_empty(), "nobody names it");
}
