//! What an update of the control plane leaves in force.

use std::time::Duration;

use prost::Name;
use tokio::sync::mpsc;
use weft_core::metrics::Registry;

use super::*;
use crate::access_log::AccessLogs;
use crate::admin::{AdminParts, LogControl, LogLevel, ServerOptions};
use crate::server::clusters::Directory;
use crate::server::workers::WorkerPool;
use crate::stats::ListenerManagerStats;
use crate::worker::Command;

#[path = "certificate_files_tests.rs"]
mod certificate_files;
#[path = "own_identity_tests.rs"]
mod own_identity;

struct NoLogs;

impl LogControl for NoLogs {
    fn levels(&self) -> Vec<(String, LogLevel)> {
        Vec::new()
    }
    fn set(&self, _: Option<&str>, _: LogLevel) -> bool {
        false
    }
    fn reopen(&self) -> Result<(), String> {
        Ok(())
    }
}

/// Resources, what their listeners count, and the orders to a worker that nobody carries out.
type Scene = (
    Resources,
    Arc<ListenerManagerStats>,
    Vec<mpsc::Receiver<Command>>,
);

fn resources() -> Scene {
    let registry = Arc::new(Registry::default());
    let (pool, orders) = WorkerPool::new(1);
    let clusters = ClusterStore::new(Arc::clone(&registry), 1);
    let logs = AccessLogs::new(Arc::clone(&registry));
    let (admin, _) = AdminState::new(AdminParts {
        registry,
        options: ServerOptions::default(),
        clusters: Box::new(Directory(Arc::clone(&clusters))),
        logging: Box::new(NoLogs),
        access_logs: logs.clone(),
    });
    let routes = Arc::new(RouteTable::default());
    let stats = Arc::new(ListenerManagerStats::default());
    let listeners = Listeners::new(
        Arc::clone(&routes),
        logs,
        Arc::clone(&admin),
        Arc::clone(&stats),
        pool,
        Duration::from_secs(1),
    );
    let resources = Resources {
        context: Context::default(),
        listeners,
        clusters,
        leaving: Leaving::default(),
        routes,
        files: Arc::default(),
        admin,
        xds: Arc::default(),
        clusters_stats: Arc::default(),
        kept: Kept::default(),
        certificate_files: CertificateFiles::default(),
    };
    (resources, stats, orders)
}

impl Resources {
    async fn add_yaml<M: Message + Name + Default>(
        &mut self,
        kind: TypeUrl,
        name: &str,
        yaml: &str,
    ) -> Result<(), String> {
        let message: M =
            weft_proto::bootstrap::read_yaml_message(name, yaml, &M::full_name()).unwrap();
        let body = message.encode_to_vec();
        self.add(&kind, name, "1", &body).await?;
        self.settle().await;
        Ok(())
    }

    async fn add_certificate(&mut self, (chain, key): (&str, &str)) -> Result<(), String> {
        let inline = |text| serde_json::json!({ "inline_string": text });
        let secret = serde_json::json!({
            "name": "own",
            "tls_certificate": { "certificate_chain": inline(chain), "private_key": inline(key) },
        });
        let text = secret.to_string();
        self.add_yaml::<SecretMessage>(TypeUrl::SECRET, "own", &text)
            .await
    }
}

fn certificate() -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec!["a.test".to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// A cluster with TLS; `certificate` is a line that names its own.
fn cluster(certificate: &str) -> String {
    format!(
        r#"
name: up
type: STATIC
connect_timeout: 1s
load_assignment:
  cluster_name: up
  endpoints:
  - lb_endpoints:
    - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: 9 }} }} }}
transport_socket:
  name: tls
  typed_config:
    "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
    common_tls_context: {certificate}
"#
    )
}

const OWN: &str = "{ tls_certificate_sds_secret_configs: [{ name: own, sds_config: { ads: {}, resource_api_version: V3 } }] }";

/// A listener without a port of its own, with TLS, that gets its routes over RDS.
const LISTENER: &str = r#"
name: front
bind_to_port: false
address: { socket_address: { address: 127.0.0.1, port_value: 8443 } }
filter_chains:
- filters:
  - name: http
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: front
      rds: { route_config_name: r, config_source: { ads: {}, resource_api_version: V3 } }
      http_filters:
      - name: router
        typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
  transport_socket:
    name: tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
      common_tls_context:
        tls_certificate_sds_secret_configs:
        - { name: own, sds_config: { ads: {}, resource_api_version: V3 } }
"#;

#[tokio::test]
async fn a_broken_secret_is_refused_and_the_last_good_one_stays() {
    let (mut resources, _, _orders) = resources();
    let yaml = cluster(OWN);
    resources
        .add_yaml::<ClusterMessage>(TypeUrl::CLUSTER, "up", &yaml)
        .await
        .unwrap();
    let (good, other) = (certificate(), certificate());
    resources.add_certificate((&good.0, &good.1)).await.unwrap();
    for broken in [(&*good.0, &*other.1), ("nothing", "nothing")] {
        let error = resources.add_certificate(broken).await.unwrap_err();
        assert!(error.starts_with("secret own: "), "{error}");
    }
    let status = resources.clusters.statuses().remove(0);
    let tls = status.config.tls_contexts().next().unwrap().clone();
    let secrets = resources.clusters.secrets();
    let spec = weft_upstream::client_spec(&tls, &secrets).unwrap();
    assert_eq!(spec.identity.unwrap().key.bytes, good.1.as_bytes());
}

#[tokio::test]
async fn a_cluster_change_asks_for_its_secret_and_waits_for_it() {
    let (mut resources, _, _orders) = resources();
    for yaml in [cluster("{}"), cluster(OWN)] {
        resources
            .add_yaml::<ClusterMessage>(TypeUrl::CLUSTER, "up", &yaml)
            .await
            .unwrap();
    }
    assert!(resources.references().secrets.contains("own"));
    let status = resources.clusters.statuses().remove(0);
    assert!(status.pending.is_some());
    assert_eq!(resources.clusters.count(), (1, 1));
    let own = certificate();
    resources.add_certificate((&own.0, &own.1)).await.unwrap();
    let status = resources.clusters.statuses().remove(0);
    assert!(status.pending.is_none());
    assert_eq!(resources.clusters.count(), (1, 0));
    assert!(resources.references().secrets.contains("own"));
}

const ROUTES: &str = "{ name: r, virtual_hosts: [{ name: v, domains: ['*'], routes: [] }] }";

#[tokio::test]
async fn a_secret_that_one_listener_cannot_use_is_in_force_in_none() {
    let (mut resources, stats, _orders) = resources();
    let own = certificate();
    let inline = |text: &str| serde_json::json!({ "inline_string": text });
    let context = serde_json::json!({
        "tls_certificates": [{ "certificate_chain": inline(&own.0), "private_key": inline(&own.1) }],
        "validation_context_sds_secret_config":
            { "name": "own", "sds_config": { "ads": {}, "resource_api_version": "V3" } },
    });
    let (before, _) = LISTENER.split_once("common_tls_context:").unwrap();
    let other = format!("{before}common_tls_context: {context}\n");
    let other = other
        .replace("name: front", "name: other")
        .replace("8443", "8444");
    for (name, yaml) in [("front", LISTENER), ("other", &other)] {
        resources
            .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, name, yaml)
            .await
            .unwrap();
    }
    resources
        .add_yaml::<RouteConfiguration>(TypeUrl::ROUTE, "r", ROUTES)
        .await
        .unwrap();
    let error = resources
        .add_certificate((&own.0, &own.1))
        .await
        .unwrap_err();
    assert!(error.starts_with("listener other: "), "{error}");
    resources.settle().await;
    assert_eq!(stats.listener_create_success.get(), 0);
}

#[tokio::test]
async fn removed_routes_and_secrets_stay_while_a_listener_needs_them() {
    let (mut resources, stats, _orders) = resources();
    let own = certificate();
    resources
        .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "front", LISTENER)
        .await
        .unwrap();
    resources
        .add_yaml::<RouteConfiguration>(TypeUrl::ROUTE, "r", ROUTES)
        .await
        .unwrap();
    resources.add_certificate((&own.0, &own.1)).await.unwrap();
    assert_eq!(stats.listener_create_success.get(), 1);
    let slot = resources.routes.http.slot(&"r".into());
    for (kind, name) in [(TypeUrl::ROUTE, "r"), (TypeUrl::SECRET, "own")] {
        resources.remove(&kind, name).await;
        resources.settle().await;
    }
    assert!(slot.load().is_some());
    assert!(resources.routes.http.ready("r"));
    // A change of the listener finds both.
    let changed = LISTENER.replace("stat_prefix: front", "stat_prefix: other");
    resources
        .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "front", &changed)
        .await
        .unwrap();
    assert_eq!(stats.listener_create_success.get(), 2);
    resources.remove(&TypeUrl::LISTENER, "front").await;
    resources.settle().await;
    assert!(!resources.routes.http.ready("r"));
    assert_eq!(resources.references(), References::default());
}

/// A listener that speaks Dubbo, with its routes.
fn dubbo(routes: &str) -> String {
    format!(
        "name: dubbo\naddress: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}\n\
         filter_chains: [{{filters: [{{name: rpc, typed_config: {{'@type': \
         type.googleapis.com/aeraki.meta_protocol_proxy.v1alpha.MetaProtocolProxy, stat_prefix: p, \
         protocol: {{name: d, codec: {{name: dubbo}}}}, {routes}}}}}]}}]"
    )
}

const BY_NAME: &str = "rds: {config_source: {ads: {}}, route_config_name: shop.Cart_20880}";

fn sent(cluster: &str) -> String {
    format!(
        "name: shop.Cart_20880\nvirtual_hosts: [{{name: h, domains: ['*'], routes: \
         [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}}}]}}]"
    )
}

/// The listener that the worker was last told of.
fn told(orders: &mut mpsc::Receiver<Command>) -> Option<Arc<crate::listener::ListenerSpec>> {
    let mut last = None;
    while let Ok(command) = orders.try_recv() {
        if let Command::Listener { spec, .. } = command {
            last = Some(spec);
        }
    }
    last
}

fn leads_to(slot: &crate::routes::RpcRouteSlot) -> String {
    let routes = slot.load_full().expect("routes");
    routes.clusters().map(ToString::to_string).collect()
}

#[tokio::test]
async fn rpc_routes_come_by_name_and_change_without_their_listener() {
    let (mut resources, stats, mut orders) = resources();
    let by_name = dubbo(BY_NAME);
    resources
        .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "dubbo", &by_name)
        .await
        .unwrap();
    assert_eq!(stats.listener_create_success.get(), 0, "it has no routes");
    assert!(resources.references().routes.contains("shop.Cart_20880"));
    for cluster in ["one", "two"] {
        resources
            .add_yaml::<RouteConfiguration>(TypeUrl::ROUTE, "shop.Cart_20880", &sent(cluster))
            .await
            .unwrap();
        let slot = resources.routes.rpc.slot(&"shop.Cart_20880".into());
        assert_eq!(leads_to(&slot), cluster);
    }
    assert!(told(&mut orders[0]).is_some());
    assert_eq!(stats.listener_create_success.get(), 1);
    // What RPC cannot have changes nothing.
    let bad = sent("three").replace("prefix: /", "path: /pay");
    let error = resources
        .add_yaml::<RouteConfiguration>(TypeUrl::ROUTE, "shop.Cart_20880", &bad)
        .await
        .unwrap_err();
    assert!(
        error.contains("virtual_hosts[0].routes[0].match"),
        "{error}"
    );
    let slot = resources.routes.rpc.slot(&"shop.Cart_20880".into());
    assert_eq!(leads_to(&slot), "two");
    // One name, one kind of routes.
    let http = LISTENER.replace("route_config_name: r", "route_config_name: shop.Cart_20880");
    assert_ne!(http, LISTENER);
    let error = resources
        .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "front", &http)
        .await
        .unwrap_err();
    assert!(error.contains("HTTP routes and of RPC routes"), "{error}");
    resources.remove(&TypeUrl::LISTENER, "dubbo").await;
    resources.settle().await;
    assert!(!resources.routes.rpc.ready("shop.Cart_20880"));
}

#[tokio::test]
async fn rpc_routes_inside_of_a_listener_change_while_its_connections_stay() {
    let (mut resources, _, mut orders) = resources();
    let mut seen = Vec::new();
    for (prefix, cluster) in [("p", "one"), ("p", "two"), ("q", "two")] {
        let routes = format!("route_config: {{routes: [{{route: {{cluster: {cluster}}}}}]}}");
        let yaml = dubbo(&routes).replace("stat_prefix: p", &format!("stat_prefix: {prefix}"));
        resources
            .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "dubbo", &yaml)
            .await
            .unwrap();
        let spec = told(&mut orders[0]).expect("a listener");
        let chain = spec.chains.values().next().expect("a chain");
        let slot = chain.rpc_routes.as_ref().expect("routes");
        assert_eq!(leads_to(slot), cluster);
        seen.push(chain.id);
    }
    assert_eq!(seen[0], seen[1], "connections of the chain stay");
    assert_ne!(seen[1], seen[2], "another configuration is another chain");
}

#[tokio::test]
async fn a_listener_that_becomes_one_of_rpc_finds_the_routes_that_are_there() {
    let (mut resources, _, _orders) = resources();
    let by_name = "rds: {config_source: {ads: {}}, route_config_name: r}";
    let rpc = dubbo(by_name);
    let http = "name: dubbo\naddress: {socket_address: {address: 127.0.0.1, port_value: 0}}\n\
        filter_chains: [{filters: [{name: hcm, typed_config: {\"@type\": type.googleapis.com/\
        envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
        stat_prefix: p, http_filters: [{name: router, typed_config: {\"@type\": \
        type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}], \
        rds: {config_source: {ads: {}}, route_config_name: r}}}]}]\n";
    let routes = "name: r\nvirtual_hosts: [{name: v, domains: [\"*\"], routes: [{match: {prefix: /}, \
        route: {cluster: one}}]}]\n";
    for yaml in [http, &rpc, http] {
        resources
            .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "dubbo", yaml)
            .await
            .unwrap();
        if !resources.kept.routes.contains_key("r") {
            resources
                .add_yaml::<RouteConfiguration>(TypeUrl::ROUTE, "r", routes)
                .await
                .unwrap();
        }
        let failures = resources.settle().await;
        assert!(failures.is_empty(), "{failures:?}");
        let of_rpc = yaml == rpc;
        assert_eq!(resources.routes.rpc.ready("r"), of_rpc);
        assert_eq!(resources.routes.http.ready("r"), !of_rpc);
    }
}

#[tokio::test]
async fn policies_of_rpc_calls_change_while_connections_stay() {
    let (mut resources, _, mut orders) = resources();
    let rbac = "{name: envoy.filters.http.rbac, config: {\"@type\": type.googleapis.com/\
        envoy.extensions.filters.http.rbac.v3.RBAC, rules: {action: DENY}}}";
    let mut seen = Vec::new();
    for (filters, count) in [("", 0), (rbac, 1), ("", 0)] {
        let fields = format!("meta_protocol_filters: [{filters}], route_config: {{}}");
        resources
            .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "dubbo", &dubbo(&fields))
            .await
            .unwrap();
        let spec = told(&mut orders[0]).expect("a listener");
        let chain = spec.chains.values().next().expect("a chain");
        let slot = chain.rpc_filters.as_ref().expect("filters");
        assert_eq!(slot.load().as_ref().map(|all| all.len()), Some(count));
        seen.push(chain.id);
    }
    assert!(seen.iter().all(|id| *id == seen[0]), "{seen:?}");
}

#[tokio::test]
async fn keys_that_cannot_be_used_are_refused() {
    let (mut resources, stats, _orders) = resources();
    let filter = |keys: &str| {
        let jwt = format!(
            "      http_filters:\n      - name: jwt\n        typed_config: {{ \"@type\": type.googleapis.com/\
             envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication, providers: {{ a: {{ local_jwks: {{ {keys} }} }} }} }}"
        );
        LISTENER.replace("      http_filters:", &jwt)
    };
    // Tokens are refused then, not the listener.
    resources
        .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "odd", &filter("inline_string: odd"))
        .await
        .expect("it is accepted, as by Envoy");
    let refused = resources
        .add_yaml::<ListenerMessage>(
            TypeUrl::LISTENER,
            "front",
            &filter("filename: /no/such/file"),
        )
        .await
        .unwrap_err();
    let place = "listener front: http_filters jwt: providers[\"a\"].local_jwks: ";
    assert!(
        refused.starts_with(place) && refused.contains("/no/such/file: cannot be read"),
        "{refused}"
    );
    let good = "inline_string: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"eA\"}]}'";
    resources
        .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "front", &filter(good))
        .await
        .unwrap();
    assert_eq!(stats.listener_added.get(), 2);
}

/// Serial numbers of what `/certs` lists.
fn listed(resources: &Resources) -> Vec<String> {
    let contexts = crate::admin::certificate_contexts(&resources.admin);
    let presented = contexts.iter().flat_map(|context| &context.presented);
    presented
        .map(|certificate| certificate.serial_number.clone())
        .collect()
}

#[tokio::test]
async fn certificates_are_listed_while_a_listener_or_cluster_has_them() {
    let (mut resources, _, mut orders) = resources();
    resources
        .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "front", LISTENER)
        .await
        .unwrap();
    let yaml = cluster(OWN);
    resources
        .add_yaml::<ClusterMessage>(TypeUrl::CLUSTER, "up", &yaml)
        .await
        .unwrap();
    assert!(listed(&resources).is_empty(), "the secret is missing");
    let (first, second) = (certificate(), certificate());
    resources
        .add_certificate((&first.0, &first.1))
        .await
        .unwrap();
    let of_first = listed(&resources);
    assert_eq!(of_first.len(), 2, "the listener's and the cluster's");
    assert_eq!(of_first.first(), of_first.last());
    resources
        .add_certificate((&second.0, &second.1))
        .await
        .unwrap();
    let of_second = listed(&resources);
    assert_eq!(of_second.len(), 2);
    assert!(!of_second.iter().any(|serial| of_first.contains(serial)));

    resources.remove(&TypeUrl::CLUSTER, "up").await;
    resources.settle().await;
    assert_eq!(listed(&resources).len(), 1);
    resources.remove(&TypeUrl::LISTENER, "front").await;
    resources.settle().await;
    // What a worker would drop when it removes the listener.
    while orders.iter_mut().any(|orders| orders.try_recv().is_ok()) {}
    assert_eq!(listed(&resources), [""; 0]);
}

#[tokio::test]
async fn routes_inside_of_a_listener_lead_to_clusters_that_are_there() {
    let (mut resources, stats, _orders) = resources();
    let inline = |config: &str| {
        let routes = format!(
            "route_config: {{ name: r, {config} virtual_hosts: [{{ name: v, domains: ['*'], \
             routes: [{{ match: {{ prefix: / }}, route: {{ cluster: up }} }}] }}] }}"
        );
        let (before, _) = LISTENER.split_once("  transport_socket:").unwrap();
        let rds =
            "rds: { route_config_name: r, config_source: { ads: {}, resource_api_version: V3 } }";
        assert!(before.contains(rds));
        before.replace(rds, &routes)
    };
    let add = async |resources: &mut Resources, yaml: &str| {
        resources
            .add_yaml::<ListenerMessage>(TypeUrl::LISTENER, "front", yaml)
            .await
    };
    let error = add(&mut resources, &inline("")).await.unwrap_err();
    let place = "listener front: filter_chains[0].filters[0].typed_config.route_config.\
                 virtual_hosts[0].routes[0].route.cluster: leads to the cluster \"up\"";
    assert!(error.starts_with(place), "{error}");
    let later = inline("validate_clusters: false,");
    add(&mut resources, &later).await.unwrap();
    let yaml = cluster("{}");
    resources
        .add_yaml::<ClusterMessage>(TypeUrl::CLUSTER, "up", &yaml)
        .await
        .unwrap();
    add(&mut resources, &inline("")).await.unwrap();
    assert_eq!(stats.listener_create_success.get(), 2);
}

#[tokio::test]
async fn routes_of_rds_are_checked_if_they_ask_for_it() {
    let (mut resources, _, _orders) = resources();
    let routes = |config: &str| {
        format!(
            "{{ name: r, {config} virtual_hosts: [{{ name: v, domains: ['*'], \
             routes: [{{ match: {{ prefix: / }}, route: {{ cluster: up }} }}] }}] }}"
        )
    };
    let add = async |resources: &mut Resources, yaml: &str| {
        resources
            .add_yaml::<RouteConfiguration>(TypeUrl::ROUTE, "r", yaml)
            .await
    };
    let wanted = routes("validate_clusters: true,");
    let error = add(&mut resources, &wanted).await.unwrap_err();
    assert!(
        error.starts_with("route configuration r: virtual_hosts[0]."),
        "{error}"
    );
    add(&mut resources, &routes("")).await.unwrap();
}
