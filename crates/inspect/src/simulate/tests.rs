//! Calls through one proxy: the answers that the data plane gives where no server does.

use std::pin::pin;
use std::task::{Context as Polled, Poll, Waker};

use http::header::{HOST, HeaderValue};
use http::{HeaderMap, Method};
use weft_config::{Cluster, Context, Listener};

use super::*;

const LISTENER: &str = r"
name: way-in
address: {socket_address: {address: 192.0.2.1, port_value: 80}}
filter_chains:
- filters:
  - name: http
    typed_config:
      '@type': type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: in
      http_filters:
      - name: rules
        typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC}
      - name: router
        typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
      route_config:
        name: all
        virtual_hosts:
        - name: all
          domains: ['*']
          routes:
          - {match: {prefix: /nowhere}, non_forwarding_action: {}}
          - match: {prefix: /named}
            route: {cluster_header: x-to, cluster_not_found_response_code: NOT_FOUND}
          - match: {prefix: /gone}
            route: {cluster: gone, cluster_not_found_response_code: INTERNAL_SERVER_ERROR}
          - {match: {prefix: /hole}, route: {cluster: BlackHoleCluster}}
          - match: {prefix: /shut}
            route: {cluster: gone}
            typed_per_filter_config:
              rules:
                '@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBACPerRoute
                rbac:
                  rules:
                    action: DENY
                    policies: {nobody: {permissions: [{any: true}], principals: [{any: true}]}}
";

fn message<M: prost::Message + prost::Name + Default>(text: &str) -> M {
    weft_proto::bootstrap::read_yaml_message("test.yaml", text, &M::full_name())
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

fn side() -> Side {
    let context = Context::default();
    let listener = Listener::from_proto(&message(LISTENER), &context);
    let hole = "{name: BlackHoleCluster, type: STATIC, connect_timeout: 10s}";
    let hole = Cluster::from_proto(&message(hole), &context);
    let mut side = Side::default();
    let listener = listener.unwrap_or_else(|error| panic!("{error}")).value;
    side.listeners.insert("way-in".to_owned(), listener);
    let hole = hole.unwrap_or_else(|error| panic!("{error}")).value;
    side.clusters.insert("BlackHoleCluster".to_owned(), hole);
    side
}

/// The verdict and the status of a call.
fn called(path: &str) -> (Value, Value) {
    let report = report(path, ([192, 0, 2, 1], 80).into(), Direction::Outbound);
    (report["verdict"].clone(), report["status"].clone())
}

fn report(path: &str, destination: std::net::SocketAddr, direction: Direction) -> Value {
    let head = Head {
        method: Method::GET,
        path: path.to_owned(),
        scheme: "http",
        headers: HeaderMap::from_iter([(HOST, HeaderValue::from_static("a"))]),
    };
    let call = Call {
        source: ([192, 0, 2, 9], 1).into(),
        destination,
        tls: None,
        head: Some(head),
        protocol: "http/1.1",
        random: 0,
    };
    let side = side();
    let passed = pin!(pass(&side, &call, direction));
    match passed.poll(&mut Polled::from_waker(Waker::noop())) {
        Poll::Ready(passage) => passage.report,
        Poll::Pending => panic!("nothing waits here"),
    }
}

#[test]
fn statuses_are_those_of_the_router() {
    for (path, status) in [
        ("/nowhere", 503),
        ("/named", 404),
        ("/gone", 500),
        ("/hole", 503),
        ("/else", 404),
    ] {
        assert_eq!(called(path), ("refused".into(), status.into()), "{path}");
    }
}

#[test]
fn who_captures_nothing_is_to_be_called_at_a_listeners_address() {
    let elsewhere = ([192, 0, 2, 7], 9080).into();
    let report = report("/", elsewhere, Direction::Outbound);
    assert_eq!(report["verdict"], "closed", "{report:#}");
    let reason = report["reason"].as_str().expect("told");
    assert!(reason.ends_with("--to 192.0.2.1:80"), "{reason}");
}

#[test]
fn rules_of_a_route_count_where_the_filter_has_none() {
    assert_eq!(called("/shut"), ("denied".into(), 403.into()));
}
