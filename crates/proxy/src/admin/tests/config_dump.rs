//! `/config_dump` over the socket, with real resources.

use prost::Message;
use serde_json::json;
use weft_proto::pb::envoy::config::cluster::v3::Cluster;
use weft_proto::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use weft_proto::pb::envoy::config::route::v3::RouteConfiguration;
use weft_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;

use super::Fixture;
use crate::admin::Kind;

fn listener(name: &str, route: &str) -> Vec<u8> {
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "in".to_owned(),
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(
            RouteConfiguration {
                name: route.to_owned(),
                ..RouteConfiguration::default()
            },
        )),
        ..hcm::HttpConnectionManager::default()
    };
    let filter = Filter {
        name: "hcm".to_owned(),
        config_type: Some(
            weft_proto::pb::envoy::config::listener::v3::filter::ConfigType::TypedConfig(
                weft_proto::pack(&manager),
            ),
        ),
    };
    Listener {
        name: name.to_owned(),
        filter_chains: vec![FilterChain {
            filters: vec![filter],
            ..FilterChain::default()
        }],
        ..Listener::default()
    }
    .encode_to_vec()
}

fn cluster(name: &str) -> Vec<u8> {
    Cluster {
        name: name.to_owned(),
        ..Cluster::default()
    }
    .encode_to_vec()
}

#[tokio::test]
async fn config_dump_has_envoys_sections_and_states() {
    let fixture = Fixture::start().await;
    let dump = &fixture.state.dump;
    dump.set_static(Kind::Cluster, "fixed", cluster("fixed"));
    dump.set_dynamic(Kind::Cluster, "dyn", "7", cluster("dyn"));
    dump.set_warming(Kind::Cluster, "dyn", "8", cluster("dyn"));
    dump.set_version(Kind::Cluster, "8");
    dump.set_dynamic(Kind::Listener, "l1", "1", listener("l1", "inline"));
    let bad = Some(listener("l2", "x").into());
    dump.set_failed(Kind::Listener, "l2", "2", bad, "l2: filter_chains[0]: no");
    let all = fixture.json("/config_dump").await;
    let configs = all["configs"].as_array().unwrap();
    let types: Vec<_> = configs
        .iter()
        .map(|c| c["@type"].as_str().unwrap().rsplit('.').next().unwrap())
        .collect();
    let want = [
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "ListenersConfigDump",
        "ScopedRoutesConfigDump",
        "RoutesConfigDump",
        "SecretsConfigDump",
    ];
    assert_eq!(types, want);
    let clusters = &configs[1];
    assert_eq!(clusters["version_info"], "8");
    assert_eq!(clusters["static_clusters"][0]["cluster"]["name"], "fixed");
    assert_eq!(clusters["dynamic_active_clusters"][0]["version_info"], "7");
    assert_eq!(clusters["dynamic_warming_clusters"][0]["version_info"], "8");
    let cluster_type = &clusters["static_clusters"][0]["cluster"]["@type"];
    assert_eq!(
        cluster_type,
        "type.googleapis.com/envoy.config.cluster.v3.Cluster"
    );
    let listeners = &configs[2]["dynamic_listeners"];
    assert_eq!(listeners[0]["active_state"]["version_info"], "1");
    let failure = &listeners[1]["error_state"];
    assert_eq!(failure["details"], "l2: filter_chains[0]: no");
    assert_eq!(failure["failed_configuration"]["name"], "l2");
    let routes = &configs[4]["static_route_configs"];
    assert_eq!(routes[0]["route_config"]["name"], "inline");
    assert_eq!(
        routes.as_array().unwrap().len(),
        1,
        "a refused listener has no routes"
    );
    let eds = fixture.json("/config_dump?include_eds").await;
    let endpoints = &eds["configs"][2]["dynamic_endpoint_configs"][0]["endpoint_config"];
    assert_eq!(endpoints["cluster_name"], "svc");
    assert_eq!(
        endpoints["endpoints"][0]["lb_endpoints"][0]["health_status"],
        "UNHEALTHY"
    );

    dump.clear_failures(Kind::Listener);
    dump.set_dynamic(Kind::Cluster, "dyn", "8", cluster("dyn"));
    dump.set_draining(Kind::Listener, "l1");
    let all = fixture.json("/config_dump").await;
    assert!(all["configs"][1].get("dynamic_warming_clusters").is_none());
    let listeners = all["configs"][2]["dynamic_listeners"].as_array().unwrap();
    assert_eq!(listeners.len(), 1);
    assert_eq!(listeners[0]["draining_state"]["version_info"], "1");
    dump.remove(Kind::Listener, "l1");
    let all = fixture
        .json("/config_dump?resource=dynamic_listeners")
        .await;
    assert_eq!(all, json!({}));
}

#[tokio::test]
async fn config_dump_selects_like_envoy() {
    let fixture = Fixture::start().await;
    let dump = &fixture.state.dump;
    dump.set_static(Kind::Cluster, "up", cluster("up"));
    dump.set_static(Kind::Cluster, "upper", cluster("upper"));
    let path = "/config_dump?resource=static_clusters&name_regex=up&mask=cluster.name";
    let want = json!({"configs": [{
        "@type": "type.googleapis.com/envoy.admin.v3.ClustersConfigDump.StaticCluster",
        "cluster": {"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "name": "up"},
    }]});
    assert_eq!(fixture.json(path).await, want);
    let masked = fixture.json("/config_dump?mask=static_clusters").await;
    assert_eq!(masked["configs"].as_array().unwrap().len(), 1);
    for (query, status, text) in [
        ("resource=bogus", 404, "bogus not found in config dump"),
        (
            "resource=bootstrap",
            400,
            "bootstrap is not a repeated field. Use ?mask=bootstrap to get only this field",
        ),
        (
            "mask=bogus",
            400,
            "FieldMask bogus could not be successfully applied to any configs.",
        ),
        (
            "mask=static_clusters.cluster",
            400,
            "FieldMask static_clusters.cluster could not be successfully applied to any configs.",
        ),
        (
            "resource=static_clusters&mask=bogus.x",
            400,
            "FieldMask bogus.x could not be successfully used.",
        ),
        (
            "resource=static_endpoint_configs",
            404,
            "static_endpoint_configs not found in config dump",
        ),
    ] {
        let (got, _, body) = fixture.send("GET", &format!("/config_dump?{query}")).await;
        assert_eq!((got, body.as_str()), (status, text), "{query}");
    }
    assert_eq!(
        fixture.send("GET", "/config_dump?name_regex=[").await.0,
        400
    );
}

#[tokio::test]
async fn secrets_and_the_node_are_shown_without_keys() {
    use weft_proto::pb::envoy::config::bootstrap::v3::{Bootstrap, bootstrap::DynamicResources};
    use weft_proto::pb::envoy::config::core::v3::{
        ApiConfigSource, DataSource, GrpcService, HeaderValue, Node, data_source::Specifier,
    };
    use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
    let fixture = Fixture::start().await;
    let inline = |text: &str| {
        Some(DataSource {
            specifier: Some(Specifier::InlineString(text.to_owned())),
            ..DataSource::default()
        })
    };
    let secret = tls::Secret {
        name: "s".to_owned(),
        r#type: Some(tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: inline("CHAIN"),
            private_key: inline("KEY"),
            ..tls::TlsCertificate::default()
        })),
    };
    fixture
        .state
        .dump
        .set_dynamic(Kind::Secret, "s", "1", secret.encode_to_vec());
    let ads = ApiConfigSource {
        grpc_services: vec![GrpcService {
            initial_metadata: vec![HeaderValue {
                key: "authorization".to_owned(),
                value: "Bearer TOKEN".to_owned(),
                ..HeaderValue::default()
            }],
            ..GrpcService::default()
        }],
        ..ApiConfigSource::default()
    };
    let bootstrap = Bootstrap {
        node: Some(Node {
            id: "n1".to_owned(),
            ..Node::default()
        }),
        dynamic_resources: Some(DynamicResources {
            ads_config: Some(ads),
            ..DynamicResources::default()
        }),
        ..Bootstrap::default()
    };
    fixture.state.dump.set_bootstrap(bootstrap.encode_to_vec());
    let all = fixture.get("/config_dump").await;
    assert!(all.contains("CHAIN") && all.contains("[redacted]"), "{all}");
    assert!(!all.contains("\"KEY\""), "{all}");
    assert!(
        all.contains("authorization") && !all.contains("TOKEN"),
        "{all}"
    );
    let bootstrap = fixture.json("/config_dump?mask=bootstrap.node.id").await;
    assert_eq!(
        bootstrap["configs"][0]["bootstrap"],
        json!({"node": {"id": "n1"}})
    );
    let info = fixture.json("/server_info").await;
    assert_eq!(info["node"]["id"], "n1");
    assert_eq!(info["command_line_options"]["config_yaml"], "[redacted]");
    assert_eq!(info["state"], "PRE_INITIALIZING");
}
