//! What tools ask: istiod's debug types over ADS, on the wire as `istioctl` asks them, the pages in
//! istiod's forms, and whether an edit is live.

mod plane;

use std::time::Duration;

use plane::{CLUSTER, PATIENCE, Running, SERVICE, SIDECAR, Sotw, get, node, start, write};
use prost::Message;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weft_proto::pb::envoy::admin::v3::ClustersConfigDump;
use weft_proto::pb::envoy::service::status::v3::{ClientConfig, ConfigStatus};
use weft_xds::TypeUrl;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::pb::{DiscoveryRequest, DiscoveryResponse};

const RULE: &str = r"---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews.shop.svc.cluster.local
  trafficPolicy: {connectionPool: {http: {http2MaxRequests: 7}}}
";
const GATEWAY: &str = "router~10.0.0.8~front.shop~shop.svc.cluster.local";
const SYNCZ: &str = "istio.io/debug/syncz";
const CONFIG_DUMP: &str = "istio.io/debug/config_dump";

fn mesh() -> String {
    format!("{SERVICE}{RULE}")
}

/// A stream of questions, as `istioctl` opens it: a node that is no proxy, and a nonce that answers
/// nothing.
struct Asking {
    requests: mpsc::Sender<DiscoveryRequest>,
    responses: tonic::Streaming<DiscoveryResponse>,
}

impl Asking {
    async fn start(plane: &Running, type_url: &str, names: &[&str]) -> Self {
        let address = format!("http://{}", plane.control.grpc_addr);
        let client = AggregatedDiscoveryServiceClient::connect(address).await;
        let (requests, receiver) = mpsc::channel(4);
        let first = question(type_url, names);
        requests.send(first).await.expect("room");
        let responses = client
            .expect("connects")
            .stream_aggregated_resources(ReceiverStream::new(receiver))
            .await;
        Self {
            requests,
            responses: responses.expect("a stream").into_inner(),
        }
    }

    async fn answer(&mut self) -> Result<DiscoveryResponse, tonic::Status> {
        let message = tokio::time::timeout(PATIENCE, self.responses.message()).await;
        message.expect("in time").map(|it| it.expect("an answer"))
    }
}

fn question(type_url: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        node: Some(node("sidecar~~test-1.default~default.svc.cluster.local")),
        type_url: type_url.to_owned(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        response_nonce: "2026-11-23 05:16:10.1 +0000 UTC m=+0.1".to_owned(),
        ..DiscoveryRequest::default()
    }
}

async fn ask(plane: &Running, type_url: &str, names: &[&str]) -> DiscoveryResponse {
    let mut asking = Asking::start(plane, type_url, names).await;
    asking.answer().await.expect("an answer")
}

/// The JSON of a page.
async fn page(plane: &Running, path: &str) -> Value {
    let answer = get(plane, path).await;
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    serde_json::from_str(body).unwrap_or_else(|error| panic!("{path}: {error}: {answer}"))
}

/// Type, status and error.
type Told = (String, i32, String);

fn statuses(answer: &DiscoveryResponse) -> Vec<(String, Vec<Told>)> {
    let configs = answer.resources.iter().map(|resource| {
        assert_eq!(
            resource.type_url,
            "type.googleapis.com/envoy.service.status.v3.ClientConfig"
        );
        ClientConfig::decode(&resource.value[..]).expect("a client's configuration")
    });
    let one = |config: ClientConfig| {
        let types = config.generic_xds_configs.into_iter().map(|it| {
            let error = it.error_state.map(|state| state.details);
            (it.type_url, it.config_status, error.unwrap_or_default())
        });
        (config.node.expect("a node").id, types.collect())
    };
    configs.map(one).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istioctl_hears_who_is_connected_and_how_far_they_are() {
    let plane = start(&[("mesh.yaml", &mesh())]).await;
    let nobody = ask(&plane, SYNCZ, &[]).await;
    assert!(nobody.resources.is_empty(), "who asks is no proxy");

    let types = [TypeUrl::CLUSTER];
    let mut proxy = Sotw::connect(&plane, SIDECAR, &types).await;
    let mut other = Sotw::connect(&plane, GATEWAY, &types).await;
    proxy.next(PATIENCE, None).await.expect("clusters");
    other
        .next(PATIENCE, Some("no such thing"))
        .await
        .expect("clusters");
    let mut seen = Vec::new();
    for _ in 0..100 {
        seen = statuses(&ask(&plane, SYNCZ, &[]).await);
        let status = |index: usize| seen.get(index).and_then(|(_, types)| types.first());
        let done = |it: Option<&(String, i32, String)>, wanted: ConfigStatus| {
            it.is_some_and(|(_, status, _)| *status == wanted as i32)
        };
        if done(status(0), ConfigStatus::Error) && done(status(1), ConfigStatus::Synced) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let cds = TypeUrl::CLUSTER.as_str().to_owned();
    let refused = (
        cds.clone(),
        ConfigStatus::Error as i32,
        "no such thing".to_owned(),
    );
    let synced = (cds, ConfigStatus::Synced as i32, String::new());
    assert_eq!(
        seen,
        [
            ("front.shop".to_owned(), vec![refused]),
            ("app.shop".to_owned(), vec![synced]),
        ]
    );
    let answer = ask(&plane, SYNCZ, &[]).await;
    assert_eq!(answer.type_url, SYNCZ);
    let identifier = answer.control_plane.expect("who answers").identifier;
    let identifier: Value = serde_json::from_str(&identifier).expect("JSON");
    assert_eq!(identifier["Component"], "weft-control");

    // The same over HTTP, in istiod's form.
    let list = page(&plane, "/debug/syncz?namespace=shop").await;
    let sidecar = list
        .as_array()
        .and_then(|all| all.iter().find(|it| it["proxy"] == "app.shop"));
    let sidecar = sidecar.expect("the sidecar");
    assert_eq!(sidecar["cluster_sent"], sidecar["cluster_acked"]);
    let empty = page(&plane, "/debug/syncz?namespace=other").await;
    assert_eq!(empty, Value::Array(Vec::new()));
    plane.drain.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istioctl_gets_the_dump_of_a_proxy() {
    let plane = start(&[("mesh.yaml", &mesh())]).await;
    let _proxy = Sotw::connect(&plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
    let mut answer = ask(&plane, CONFIG_DUMP, &["app.shop"]).await;
    for _ in 0..100 {
        if !answer.resources.is_empty() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        answer = ask(&plane, CONFIG_DUMP, &["app.shop"]).await;
    }
    let kinds: Vec<&str> = answer
        .resources
        .iter()
        .filter_map(|any| {
            any.type_url
                .strip_prefix("type.googleapis.com/envoy.admin.v3.")
        })
        .collect();
    let wanted = [
        "BootstrapConfigDump",
        "ClustersConfigDump",
        "ListenersConfigDump",
        "ScopedRoutesConfigDump",
        "RoutesConfigDump",
        "SecretsConfigDump",
        "EcdsConfigDump",
    ];
    assert_eq!(kinds, wanted);
    let clusters = ClustersConfigDump::decode(&answer.resources[1].value[..]).expect("clusters");
    let named = clusters.dynamic_active_clusters.iter().any(|cluster| {
        let body = cluster.cluster.as_ref().map(|any| any.value.clone());
        String::from_utf8_lossy(&body.unwrap_or_default()).contains(CLUSTER)
    });
    assert!(named);
    assert!(
        ask(&plane, CONFIG_DUMP, &["nobody"])
            .await
            .resources
            .is_empty()
    );
    assert!(ask(&plane, CONFIG_DUMP, &[]).await.resources.is_empty());

    let dump = page(&plane, "/debug/config_dump?proxyID=app.shop&include_eds").await;
    let kinds: Vec<&str> = dump["configs"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|section| section["@type"].as_str())
        .collect();
    assert!(
        kinds
            .iter()
            .any(|kind| kind.ends_with(".EndpointsConfigDump")),
        "{kinds:?}"
    );
    assert_eq!(kinds.len(), 8);
    let only = page(&plane, "/debug/edsz?proxyID=app.shop").await;
    assert_eq!(only["configs"][0]["cluster_name"], CLUSTER);
    assert!(
        get(&plane, "/debug/config_dump")
            .await
            .contains("You must provide a proxyID")
    );
    assert!(
        get(&plane, "/debug/config_dump?proxyID=no")
            .await
            .starts_with("HTTP/1.1 404")
    );
    plane.drain.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_questions_is_answered_once_a_question() {
    let plane = start(&[("mesh.yaml", &mesh())]).await;
    let mut asking = Asking::start(&plane, "istio.io/debug", &["list"]).await;
    let list = asking.answer().await.expect("an answer");
    let [resource] = &list.resources[..] else {
        panic!("{list:?}")
    };
    assert_eq!(resource.type_url, "istio.io/debug");
    let pages: Vec<String> = serde_json::from_slice(&resource.value).expect("a list");
    assert!(pages.contains(&"syncz".to_owned()), "{pages:?}");

    // An ACK is no question.
    let mut ack = question("istio.io/debug", &["list"]);
    ack.response_nonce = list.nonce;
    asking.requests.send(ack).await.expect("room");
    let silence = tokio::time::timeout(Duration::from_millis(300), asking.responses.message());
    assert!(silence.await.is_err());
    let next = question("istio.io/debug", &["nonsense"]);
    asking.requests.send(next).await.expect("room");
    let answer = asking.answer().await.expect("an answer");
    let words = String::from_utf8_lossy(&answer.resources[0].value).into_owned();
    assert!(
        words.contains("404 page not found"),
        "istioctl looks for it: {words}"
    );

    for (type_url, names) in [("istio.io/debug", &[][..]), ("istio.io/debug/x", &["a"])] {
        let mut wrong = Asking::start(&plane, type_url, names).await;
        let error = wrong.answer().await.expect_err("no question of istiod's");
        assert_eq!(error.code(), tonic::Code::InvalidArgument, "{type_url}");
    }
    assert_eq!(page(&plane, "/debug/connections").await["totalClients"], 0);
    plane.drain.finish().await;
}

/// The verdicts that `weft wait` makes of these pages are `weft-inspect`'s.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_is_waited_for_until_every_proxy_has_accepted_it() {
    const RULE: &str = "/debug/wait?object=DestinationRule/shop/reviews";
    let plane = start(&[("mesh.yaml", &mesh())]).await;
    let mut proxy = Sotw::connect(&plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
    proxy.next(PATIENCE, None).await.expect("clusters");
    let settled = |page: &Value| page["proxies"].as_array().is_some_and(Vec::is_empty);
    let mut before = page(&plane, &format!("{RULE}&refresh")).await;
    for _ in 0..100 {
        if settled(&before) && before["concerned"] == 1 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        before = page(&plane, RULE).await;
    }
    assert!(settled(&before), "{before}");
    assert_eq!(before["concerned"], 1);
    assert_eq!(before["objects"][0]["state"], "accepted");

    // With the refresh, the edit is known; the proxy has not answered.
    write(
        plane.directory.path(),
        "mesh.yaml",
        &mesh().replace(": 7", ": 8"),
    );
    let lags = page(&plane, &format!("{RULE}&refresh")).await;
    assert_eq!(lags["refreshed"], true, "{lags}");
    let state = &lags["proxies"][0]["types"][0];
    assert_eq!(
        (&state["type"], &state["status"]),
        (&"CDS".into(), &"STALE".into()),
        "{lags}"
    );
    assert_eq!(state["waiting"][0], CLUSTER);
    let other = "/debug/wait?object=Gateway/shop/nothing";
    let nothing = page(&plane, other).await;
    assert_eq!(nothing["unknown"][0], "Gateway/shop/nothing");

    // It refuses: the rule is told, and an object that has nothing to do with it is not.
    let refusal = format!("Error adding cluster {CLUSTER}: too many");
    proxy
        .next(PATIENCE, Some(&refusal))
        .await
        .expect("the edit");
    let mut refused = page(&plane, RULE).await;
    for _ in 0..100 {
        if refused["proxies"][0]["types"][0]["refused"][0].is_object() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        refused = page(&plane, RULE).await;
    }
    let told = &refused["proxies"][0]["types"][0]["refused"][0];
    assert_eq!(
        (&told["resource"], &told["error"]),
        (&CLUSTER.into(), &refusal.into())
    );
    write(
        plane.directory.path(),
        "other.yaml",
        &mesh()
            .split("---")
            .next()
            .unwrap_or_default()
            .replace("reviews", "ratings"),
    );
    let file = format!(
        "/debug/wait?refresh&file={}",
        plane.directory.path().join("other.yaml").display()
    );
    let mut fine = page(&plane, &file).await;
    for _ in 0..50 {
        if settled(&fine) {
            break;
        }
        // What it took of the answer that it refused is sent again, too.
        proxy.next(Duration::from_millis(100), None).await;
        fine = page(&plane, &file).await;
    }
    assert!(settled(&fine), "{fine}");
    assert_eq!(fine["objects"][0]["object"], "ServiceEntry/shop/ratings");
    let unread = page(&plane, "/debug/wait?file=/nowhere/mesh.yaml").await;
    assert_eq!(unread["unread"][0], "/nowhere/mesh.yaml");
    plane.drain.finish().await;
}
