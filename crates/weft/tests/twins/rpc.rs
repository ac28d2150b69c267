//! Envoy's own filters for Thrift and Dubbo, with real clients and servers.

use std::path::PathBuf;
use std::process::Command;

use serde_json::json;
use weft_testkit::{ConfigFolder, Peers, Script, free_port, one_at_a_time};

use super::java::Java;
use super::proxy::{Proxy, same};

const CLUSTERS: &str = "
  clusters:
  - {name: one, type: STATIC, load_assignment: {cluster_name: one, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{one}}}}}}]}]}}
  - {name: two, type: STATIC, load_assignment: {cluster_name: two, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: {{two}}}}}}]}]}}
  - {name: empty, type: STATIC, load_assignment: {cluster_name: empty}}
";

const THRIFT: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: {{port}}}}
    filter_chains:
    - filters:
      - name: thrift
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.thrift_proxy.v3.ThriftProxy
          stat_prefix: t
          thrift_filters:
          - {name: envoy.filters.thrift.router, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.thrift_proxy.router.v3.Router, close_downstream_on_upstream_error: false}}
          route_config:
            name: cart
            routes:
            - {match: {method_name: "shop.Cart:fail"}, route: {cluster: empty}}
            - {match: {service_name: shop.Cart}, route: {cluster: two}}
            - {match: {method_name: where, headers: [{name: tag, string_match: {exact: gray}}]}, route: {cluster: two}}
            - {match: {method_name: where}, route: {weighted_clusters: {clusters: [{name: one, weight: 5}]}}}
            - {match: {method_name: fail}, route: {cluster: one}}
            - {match: {method_name: nope, invert: true, headers: [{name: ":method-name", string_match: {prefix: "no"}}]}, route: {cluster: one}}
"#;

fn script(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/rpc")
        .join(name)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thrift_calls_take_the_routes_of_thrift_proxy() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let python = Peers::new().python_with_thrift();
    let start = |name: &str, file: &str, arguments: &[&str]| {
        let mut command = Command::new(&python);
        command.arg(script(file)).args(arguments);
        Script::start(name, command, &folder.log(&format!("{name}.log")))
    };
    let mut hosts = Vec::new();
    let mut words = Vec::new();
    for name in ["one", "two"] {
        let port = free_port().to_string();
        let mut host = start(name, "thrift_server.py", &[&port, name, "auto"]);
        assert_eq!(host.answer().await, json!({"ready": true}));
        hosts.push(host);
        words.push((name, port));
    }
    let text = format!("{THRIFT}{CLUSTERS}");
    let proxies = Proxy::both(&folder, &text, &words).await;
    for (transport, protocol) in [
        ("framed", "strict"),
        ("framed", "compact"),
        ("header", "compact"),
    ] {
        same(&format!("{transport} {protocol}"), async |one| {
            let port = proxies[one].port.to_string();
            let name = format!("client-{one}-{transport}-{protocol}");
            let mut client = start(&name, "thrift_client.py", &[&port, transport, protocol]);
            let mut told = Vec::new();
            for (call, wanted) in [
                (
                    json!({"op": "call", "method": "where"}),
                    json!({"value": "one"}),
                ),
                (
                    json!({"op": "call", "method": "where", "service": "shop.Cart"}),
                    json!({"value": "two"}),
                ),
                (
                    json!({"op": "call", "method": "fail", "item": "no such item"}),
                    json!({"error": "no such item"}),
                ),
                (
                    json!({"op": "call", "method": "note", "oneway": true}),
                    json!({"sent": true}),
                ),
            ] {
                let answer = client.ask(&call.to_string()).await;
                for (key, value) in wanted.as_object().expect("an object") {
                    assert_eq!(&answer[key], value, "{call}: {answer}");
                }
                told.push(answer.to_string());
            }
            if transport == "header" {
                let call = json!({"op": "call", "method": "where", "headers": {"tag": "gray"}});
                let answer = client.ask(&call.to_string()).await;
                assert_eq!(answer["value"], "two", "{answer}");
            }
            // Each in its own words, as an answer to that call and of the same kind.
            for call in [
                json!({"op": "call", "method": "nope"}),
                json!({"op": "call", "method": "fail", "item": "x", "service": "shop.Cart"}),
            ] {
                let answer = client.ask(&call.to_string()).await;
                assert!(answer["refused"].is_string(), "{call}: {answer}");
                // Envoy names the service, too, which hosts leave out of their answers.
                let method = answer["method"].as_str().expect("a name");
                let method = method.rsplit(':').next().unwrap_or_default();
                told.push(format!("{} {method} {}", answer["type"], answer["id"]));
            }
            told.join("\n")
        })
        .await;
    }
}

const DUBBO: &str = r#"
static_resources:
  listeners:
  - name: l
    address: {socket_address: {address: 127.0.0.1, port_value: {{port}}}}
    filter_chains:
    - filters:
      - name: dubbo
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.dubbo_proxy.v3.DubboProxy
          stat_prefix: d
          protocol_type: Dubbo
          serialization_type: Hessian2
          dubbo_filters: [{name: envoy.filters.dubbo.router}]
          multiple_route_config:
            name: cart
            route_config:
            - name: strangers
              interface: "*.Nobody"
              routes: [{match: {method: {name: {safe_regex: {regex: ".*"}}}}, route: {cluster: empty}}]
            - name: gray
              interface: "shop.*"
              routes:
              - {match: {method: {name: {exact: where}}, headers: [{name: tag, string_match: {exact: gray}}]}, route: {cluster: two}}
            - name: cart
              interface: "*.Cart"
              routes:
              - {match: {method: {name: {safe_regex: {regex: "where|fail|note"}}}}, route: {weighted_clusters: {clusters: [{name: one, weight: 5}]}}}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dubbo_calls_take_the_routes_of_dubbo_proxy() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    let java = Java::dubbo(&folder, "3.2.14");
    let mut hosts = Vec::new();
    let mut words = Vec::new();
    for name in ["one", "two"] {
        let port = free_port().to_string();
        let mut host = java.start(&folder, name, &["provider", &port, name, "hessian2"]);
        assert_eq!(host.answer().await, json!({"ready": true}));
        hosts.push(host);
        words.push((name, port));
    }
    let text = format!("{DUBBO}{CLUSTERS}");
    let proxies = Proxy::both(&folder, &text, &words).await;
    same("calls", async |one| {
        let port = proxies[one].port.to_string();
        let name = format!("client-{one}");
        let mut client = java.start(&folder, &name, &["consumer", &port, "hessian2"]);
        assert_eq!(client.answer().await, json!({"ready": true}));
        let mut told = Vec::new();
        for (call, of_one, of_two) in [("where 20", 20, 0), ("where 20 gray", 0, 20)] {
            let answer = client.ask(call).await;
            let of = |name: &str| answer["seen"][name].as_u64().unwrap_or_default();
            assert_eq!((of("one"), of("two")), (of_one, of_two), "{call}: {answer}");
        }
        let answer = client.ask("fail").await;
        let error = answer["error"].as_str().unwrap_or_default();
        assert!(error.contains("no such item"), "{answer}");
        told.push(client.ask("note").await.to_string());
        // No route: an error of the proxy.
        let answer = client.ask("slow 1").await;
        assert!(answer["error"].is_string(), "{answer}");
        told.join("\n")
    })
    .await;
}
