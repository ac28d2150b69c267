//! The whole control plane over loopback: a directory of YAML on one side, an ADS client and an
//! HTTP client on the other.

mod plane;

use std::net::SocketAddr;
use std::time::Duration;

use plane::{
    CLUSTER, PATIENCE, Running, SERVICE, SIDECAR, Sotw, config, get, get_from, node, start, write,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weft_control::{ControlConfig, ControlPlane};
use weft_core::drain;
use weft_xds::TypeUrl;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::pb::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest};

/// Long enough for the file source to see an edit and for a push to arrive.
const QUIET: Duration = Duration::from_millis(1500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn edits_reach_a_proxy_and_no_op_edits_do_not() {
    let plane = start(&[("mesh.yaml", SERVICE)]).await;
    let mut proxy = Sotw::connect(&plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
    let first = proxy.next(PATIENCE, None).await.expect("clusters");
    assert_eq!(
        first.resources.len(),
        4,
        "one service and three standing ones"
    );

    let annotated = SERVICE.replace("namespace: shop}", "namespace: shop, annotations: {a: b}}");
    write(plane.directory.path(), "mesh.yaml", &annotated);
    assert!(
        proxy.next(QUIET, None).await.is_none(),
        "an annotation sends nothing"
    );

    // A broken file harms nobody.
    write(plane.directory.path(), "broken.yaml", "kind: [");
    assert!(proxy.next(QUIET, None).await.is_none());
    let status = get(&plane, "/debug/status").await;
    assert!(
        status.contains("broken.yaml") && status.contains("refused"),
        "{status}"
    );

    write(
        plane.directory.path(),
        "mesh.yaml",
        &SERVICE.replace("number: 80", "number: 81"),
    );
    let second = proxy.next(PATIENCE, None).await.expect("an edit");
    assert_ne!(first.version_info, second.version_info);
    let pushes = get(&plane, "/debug/pushes").await;
    assert!(
        pushes.contains(SIDECAR) && pushes.contains("CDS"),
        "{pushes}"
    );
    plane.drain.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_resource_shows_on_its_objects() {
    let plane = start(&[("mesh.yaml", SERVICE)]).await;
    let mut proxy = Sotw::connect(&plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
    let error = format!("Error adding/updating cluster(s) {CLUSTER}: no such thing");
    proxy.next(PATIENCE, Some(&error)).await.expect("clusters");
    let mut status = String::new();
    for _ in 0..50 {
        status = get(&plane, "/debug/status").await;
        if status.contains("no such thing") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(
        status.contains("no such thing") && status.contains(CLUSTER),
        "{status}"
    );
    let metrics = get(&plane, "/metrics").await;
    assert!(
        metrics.contains("pilot_total_xds_rejects{type=\"cds\"} 1"),
        "{metrics}"
    );
    assert!(metrics.contains("pilot_services 1"), "{metrics}");
    assert!(get(&plane, "/ready").await.starts_with("HTTP/1.1 200"));
    plane.drain.finish().await;
}

const RULE: &str = r"
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  http:
  - route:
    - destination:
        host: revews
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: front, namespace: shop}
spec:
  selector: {istio: ingress}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*']
";

/// Asks for a page until it says something, or does not any more.
async fn until(plane: &Running, path: &str, text: &str, there: bool) -> String {
    let mut page = String::new();
    for _ in 0..100 {
        page = get(plane, path).await;
        if page.contains(text) == there {
            return page;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("{text:?} in {path} is not {there}: {page}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_that_leads_nowhere_is_in_force_and_its_status_says_so() {
    let plane = start(&[("mesh.yaml", SERVICE), ("rule.yaml", RULE)]).await;
    let said = "spec.http[0].route[0].destination.host: no service has the host";
    let status = until(&plane, "/debug/status", said, true).await;
    assert!(
        status.contains("rule.yaml:10: VirtualService/shop/reviews"),
        "{status}"
    );
    assert!(
        status.contains("accepted") && !status.contains("refused\""),
        "{status}"
    );
    let idle = "no workload and no proxy has the labels istio=ingress";
    assert!(status.contains(idle), "{status}");
    let metrics = get(&plane, "/metrics").await;
    assert!(metrics.contains("weft_config_warnings 1\n"), "{metrics}");

    write(
        plane.directory.path(),
        "rule.yaml",
        &RULE.replace("revews", "reviews"),
    );
    until(&plane, "/debug/status", said, false).await;
    until(&plane, "/metrics", "weft_config_warnings 0\n", true).await;
    plane.drain.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_with_delta_resumes_without_resources() {
    let plane = start(&[("mesh.yaml", SERVICE)]).await;
    let first = delta(&plane, std::collections::HashMap::new())
        .await
        .expect("clusters");
    assert_eq!(first.resources.len(), 4);
    let known = first
        .resources
        .iter()
        .map(|r| (r.name.clone(), r.version.clone()))
        .collect();
    let again = delta(&plane, known).await.expect("it is heard");
    assert!(again.resources.is_empty() && again.removed_resources.is_empty());
    let bytes = prost::Message::encoded_len(&again);
    assert!(bytes <= 1024, "{bytes}");
    plane.drain.finish().await;
}

/// Clusters in state of the world: there is no answer that could be acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_returning_client_says_it_has_is_shown() {
    let plane = start(&[("mesh.yaml", SERVICE)]).await;
    let mut proxy = Sotw::connect(&plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
    let first = proxy.next(PATIENCE, None).await.expect("clusters");
    drop(proxy);
    let mut is_there = true;
    for _ in 0..500 {
        is_there = get(&plane, "/debug/proxies").await.contains(SIDECAR);
        if !is_there {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(!is_there, "the first stream is gone");
    let address = format!("http://{}", plane.control.grpc_addr);
    let client = AggregatedDiscoveryServiceClient::connect(address).await;
    let (requests, receiver) = mpsc::channel(4);
    let request = DiscoveryRequest {
        node: Some(node(SIDECAR)),
        type_url: TypeUrl::CLUSTER.as_str().to_owned(),
        version_info: first.version_info.clone(),
        ..DiscoveryRequest::default()
    };
    requests.send(request).await.expect("room");
    let call = tokio::spawn(async move {
        let requests = ReceiverStream::new(receiver);
        let mut client = client.expect("connects");
        let stream = client.stream_aggregated_resources(requests).await;
        stream.expect("a stream").into_inner().message().await
    });
    let wanted = format!("\"acked\": \"{}\"", first.version_info);
    let mut page = String::new();
    for _ in 0..100 {
        page = get(&plane, "/debug/proxies").await;
        if page.contains(&wanted) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(page.contains(&wanted), "{page}");
    assert!(!call.is_finished(), "it is sent nothing");
    plane.drain.finish().await;
}

async fn delta(
    plane: &Running,
    known: std::collections::HashMap<String, String>,
) -> Option<DeltaDiscoveryResponse> {
    let address = format!("http://{}", plane.control.grpc_addr);
    let mut client = AggregatedDiscoveryServiceClient::connect(address)
        .await
        .expect("connects");
    let (requests, receiver) = mpsc::channel(4);
    let request = DeltaDiscoveryRequest {
        node: Some(node(SIDECAR)),
        type_url: TypeUrl::CLUSTER.as_str().to_owned(),
        initial_resource_versions: known,
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(request).await.expect("room");
    let mut responses = client
        .delta_aggregated_resources(ReceiverStream::new(receiver))
        .await
        .expect("a stream")
        .into_inner();
    let response = tokio::time::timeout(QUIET, responses.message())
        .await
        .ok()?;
    response.expect("the stream goes on")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_understood_is_told_why() {
    let plane = start(&[("none.yaml", "# nothing")]).await;
    let mut proxy = Sotw::connect(&plane, "envoy-1", &[TypeUrl::CLUSTER]).await;
    let error = proxy.responses.message().await.expect_err("refused");
    assert!(
        error.message().contains("type~ip~name.namespace~dnsDomain"),
        "{error}"
    );
    plane.drain.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_streams_and_servers() {
    let plane = start(&[("mesh.yaml", SERVICE)]).await;
    let mut proxy = Sotw::connect(&plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
    proxy.next(PATIENCE, None).await.expect("clusters");
    plane.drain.start();
    let ended = tokio::time::timeout(PATIENCE, plane.control.finished()).await;
    let ended = ended.expect("the control plane ends");
    ended.expect("as it was asked to");
    assert!(
        proxy
            .responses
            .message()
            .await
            .map_or(true, |m| m.is_none())
    );
}

/// An address that was free a moment ago.
fn free() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proxies_are_not_served_from_a_directory_that_cannot_be_all() {
    for (unreadable, repair) in [(None, "a file"), (Some("loop.yaml"), "the link")] {
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        if let Some(name) = unreadable {
            write(directory.path(), "mesh.yaml", SERVICE);
            std::os::unix::fs::symlink(path(name), path(name)).expect("linked");
        }
        let (drain, signal) = drain::channel();
        let config = ControlConfig {
            grpc_addr: free(),
            monitoring_addr: free(),
            ..config(directory.path())
        };
        let (ads, web) = (config.grpc_addr, config.monitoring_addr);
        let starting = tokio::spawn(ControlPlane::start(config, signal));
        tokio::time::sleep(QUIET).await;
        assert!(!starting.is_finished(), "it waits for {repair}");
        let ready = get_from(web, "/ready").await;
        assert!(ready.starts_with("HTTP/1.1 503"), "{ready}");
        let refused = tokio::net::TcpStream::connect(ads).await;
        assert!(refused.is_err(), "proxies go to another replica");
        if let Some(name) = unreadable {
            std::fs::remove_file(path(name)).expect("removed");
        } else {
            write(directory.path(), "mesh.yaml", SERVICE);
        }
        let started = tokio::time::timeout(PATIENCE, starting).await;
        let control = started.expect("in time").expect("no panic");
        let plane = Running {
            control: control.expect("starts"),
            drain,
            directory,
        };
        assert!(get(&plane, "/ready").await.starts_with("HTTP/1.1 200"));
        let mut proxy = Sotw::connect(&plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
        let first = proxy.next(PATIENCE, None).await.expect("clusters");
        assert_eq!(first.resources.len(), 4);
        plane.drain.finish().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_directory_that_is_not_all_is_served_if_it_is_asked_for() {
    let directory = tempfile::tempdir().expect("a directory");
    let (drain, signal) = drain::channel();
    let config = ControlConfig {
        serve_incomplete: true,
        ..config(directory.path())
    };
    let started = tokio::time::timeout(PATIENCE, ControlPlane::start(config, signal)).await;
    started.expect("in time").expect("starts");
    drain.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_object_does_not_keep_the_others_from_being_served() {
    let plane = start(&[("mesh.yaml", SERVICE), ("broken.yaml", "kind: [")]).await;
    assert!(get(&plane, "/ready").await.starts_with("HTTP/1.1 200"));
    plane.drain.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_the_wait_for_a_directory() {
    let directory = tempfile::tempdir().expect("a directory");
    let (drain, signal) = drain::channel();
    let run = tokio::spawn(ControlPlane::run(config(directory.path()), signal));
    tokio::time::sleep(Duration::from_millis(300)).await;
    drain.start();
    let ended = tokio::time::timeout(PATIENCE, run).await.expect("in time");
    ended.expect("no panic").expect("as it was asked to");
}
