//! Gateways of this mesh make calls of requests whose route leads to a port of an RPC protocol; Envoy's are told
//! nothing of it.

use prost::Message as _;
use weft_config::{Context, HttpFilterConfig, Listener, NetworkFilter, RouteConfig};
use weft_proto::weft_http::RpcBridge;

use super::rpc::CART;
use super::{Config, Mesh, gateway, weft};
use crate::pb::route::v3::route::Action;
use crate::pb::route::v3::route_action::ClusterSpecifier;

const BRIDGE: &str = "weft.filters.http.rpc_bridge";

const RULES: &str = r#"
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: infra}
spec:
  selector: {istio: ingressgateway}
  servers: [{port: {number: 80, name: http, protocol: HTTP}, hosts: ["*"]}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: api, namespace: infra}
spec:
  hosts: [api.example]
  gateways: [front]
  http:
  - match: [{uri: {prefix: /api/}}]
    rewrite: {uri: /}
    headers: {request: {set: {tri-service-version: 1.2.0, Tri-Service-Group: blue}}}
    route: [{destination: {host: cart.shop.svc.cluster.local, port: {number: 20880}}}]
  - match: [{uri: {prefix: /bytes}}]
    route: [{destination: {host: cart.shop.svc.cluster.local, port: {number: 20881}}}]
  - match: [{uri: {prefix: /both}}]
    route:
    - {destination: {host: cart.shop.svc.cluster.local, subset: v1, port: {number: 20880}}, weight: 90}
    - {destination: {host: cart.shop.svc.cluster.local, subset: v2, port: {number: 20880}}, weight: 10}
  - route:
    - {destination: {host: cart.shop.svc.cluster.local, port: {number: 20881}}, weight: 50}
    - {destination: {host: cart.shop.svc.cluster.local, port: {number: 20880}}, weight: 50}
"#;

fn ours() -> crate::node::Proxy {
    let labels = ("LABELS", r#"{"istio":"ingressgateway"}"#);
    weft(
        "router~10.9.9.9~gw.infra~infra.svc.cluster.local",
        &[labels],
    )
}

/// The bridges of each route of the gateway: its own, then those of its clusters.
fn bridges(config: &Config) -> Vec<Vec<Option<RpcBridge>>> {
    let of = |map: &std::collections::HashMap<String, crate::pb::protobuf::Any>| {
        let any = map.get(BRIDGE)?;
        Some(RpcBridge::decode(&*any.value).expect("a bridge"))
    };
    let routes = config.route("http.80");
    let routes = routes.virtual_hosts.iter().flat_map(|host| &host.routes);
    let all = routes.map(|route| {
        let mut all = vec![of(&route.typed_per_filter_config)];
        if let Some(Action::Route(action)) = &route.action
            && let Some(ClusterSpecifier::WeightedClusters(to)) = &action.cluster_specifier
        {
            all.extend(to.clusters.iter().map(|to| of(&to.typed_per_filter_config)));
        }
        all
    });
    all.collect()
}

#[test]
fn routes_to_rpc_ports_make_calls_at_gateways_of_this_mesh() {
    let mut mesh = Mesh::new(&format!("{CART}---{RULES}"));
    let config = mesh.config(&ours());
    let all = bridges(&config);
    let [api, bytes, both, mixed] = &all[..] else {
        panic!("{all:?}");
    };
    let [Some(api)] = &api[..] else {
        panic!("{api:?}");
    };
    assert_eq!((&*api.protocol, &*api.path_prefix), ("dubbo", "/api"));
    assert_eq!((&*api.version, &*api.group), ("1.2.0", "blue"));
    assert!(api.attachments.iter().any(|name| name == "traceparent"));
    assert_eq!(bytes, &[None]);
    let protocols = |list: &[Option<RpcBridge>]| -> Vec<Option<String>> {
        list.iter()
            .map(|one| Some(one.as_ref()?.protocol.clone()))
            .collect()
    };
    let dubbo = || Some("dubbo".to_owned());
    assert_eq!(protocols(both), [dubbo(), None, None]);
    assert_eq!(protocols(mixed), [None, None, dubbo()]);
    // Our proxy takes it.
    let routes = RouteConfig::from_proto(&config.route("http.80"), &Context::default());
    routes.unwrap_or_else(|error| panic!("{error}"));
    let listener = Listener::from_proto(&config.listener("0.0.0.0_80"), &Context::default());
    let listener = listener.unwrap_or_else(|error| panic!("{error}")).value;
    let filters = listener
        .chains
        .chains
        .iter()
        .chain(&listener.chains.default);
    let filters: Vec<_> = filters.flat_map(|chain| &chain.filters).collect();
    let Some(NetworkFilter::Http(manager)) = filters.first() else {
        panic!("{filters:?}");
    };
    let at = manager.filters.len() - 2;
    let bridge = &manager.filters[at];
    assert!(matches!(bridge.config, HttpFilterConfig::RpcBridge(_)) && bridge.disabled);
}

#[test]
fn an_envoy_filter_takes_the_place_of_a_routes_bridge() {
    let filter = r#"
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: api, namespace: infra}
spec:
  configPatches:
  - applyTo: HTTP_ROUTE
    match: {context: GATEWAY, routeConfiguration: {vhost: {name: "api.example:80", route: {name: ""}}}}
    patch:
      operation: MERGE
      value:
        typed_per_filter_config:
          weft.filters.http.rpc_bridge:
            '@type': type.googleapis.com/weft.http.v1.RpcBridge
            protocol: dubbo
            mapped_only: true
            mappings: [{http_method: GET, path: '/items/{id}', interface: shop.Cart, method: get,
              parameters: [{type: long, path: id}]}]
"#;
    let mut mesh = Mesh::new(&format!("{CART}---{RULES}---{filter}"));
    let config = mesh.config(&ours());
    let all = bridges(&config);
    let Some(Some(Some(api))) = all.first().map(|route| route.first()) else {
        panic!("{all:?}");
    };
    assert!(api.mapped_only && api.path_prefix.is_empty(), "{api:?}");
    assert_eq!(api.mappings.len(), 1);
    let routes = RouteConfig::from_proto(&config.route("http.80"), &Context::default());
    routes.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn gateways_of_envoy_are_told_of_no_bridge() {
    let mut mesh = Mesh::new(&format!("{CART}---{RULES}"));
    let config = mesh.config(&gateway());
    assert!(bridges(&config).iter().flatten().all(Option::is_none));
    let listener = config.listener("0.0.0.0_80").encode_to_vec();
    let named = |bytes: &[u8]| {
        bytes
            .windows(BRIDGE.len())
            .any(|part| part == BRIDGE.as_bytes())
    };
    assert!(!named(&listener));
}
