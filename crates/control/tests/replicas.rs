//! Two replicas of the control plane over one set of objects: a proxy that moves from one to the
//! other gets nothing again, however each came to what it knows.

mod plane;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::time::Duration;

use plane::{PATIENCE, Running, get, node, start, write};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weft_xds::TypeUrl;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::pb::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};

const NODES: [&str; 2] = [
    "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local",
    "router~10.0.0.8~gateway.shop~shop.svc.cluster.local",
];

/// The documents that the source's own tests read as good: every kind, most fields.
fn documents() -> Vec<(String, String)> {
    let good = Path::new(env!("CARGO_MANIFEST_DIR")).join("../sources/tests/data/good");
    let entries = std::fs::read_dir(good).expect("the good documents are there");
    let mut documents: Vec<(String, String)> = entries
        .map(|entry| {
            let path = entry.expect("readable").path();
            let name = path.file_name().and_then(|name| name.to_str());
            let text = std::fs::read_to_string(&path).expect("readable");
            (name.expect("a plain name").to_owned(), text)
        })
        .collect();
    documents.sort();
    documents
}

/// What a proxy is to have by type: names and versions.
async fn wanted(plane: &Running, node: &str) -> BTreeMap<String, HashMap<String, String>> {
    let page = get(plane, &format!("/debug/resources?proxyID={node}")).await;
    let body = page.split("\r\n\r\n").nth(1).expect("a body");
    let mut types: BTreeMap<String, HashMap<String, String>> = BTreeMap::new();
    // The page is for proxies whose connection is known already.
    let Ok(page) = serde_json::from_str::<serde_json::Value>(body) else {
        return types;
    };
    for resource in page["resources"].as_array().expect("a list") {
        let text = |key: &str| resource[key].as_str().expect("a text").to_owned();
        let of_type = types.entry(text("type")).or_default();
        of_type.insert(text("name"), text("version"));
    }
    types
}

/// The answer to a proxy that asks for these names and says that it has these versions.
async fn ask(
    plane: &Running,
    id: &str,
    type_url: &TypeUrl,
    known: &HashMap<String, String>,
) -> DeltaDiscoveryResponse {
    let address = format!("http://{}", plane.control.grpc_addr);
    let mut client = AggregatedDiscoveryServiceClient::connect(address)
        .await
        .expect("connects");
    let (requests, receiver) = mpsc::channel(4);
    let request = DeltaDiscoveryRequest {
        node: Some(node(id)),
        type_url: type_url.as_str().to_owned(),
        resource_names_subscribe: known.keys().cloned().collect(),
        initial_resource_versions: known.clone(),
        ..DeltaDiscoveryRequest::default()
    };
    requests.send(request).await.expect("room");
    let stream = ReceiverStream::new(receiver);
    let responses = client.delta_aggregated_resources(stream).await;
    let mut responses = responses.expect("a stream").into_inner();
    let response = tokio::time::timeout(PATIENCE, responses.message()).await;
    let response = response.expect("it is answered in time");
    response.expect("the stream goes on").expect("an answer")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_moves_to_another_replica_gets_nothing_again() {
    let documents = documents();
    let all: Vec<(&str, &str)> = documents.iter().map(|(n, t)| (&**n, &**t)).collect();
    let first = start(&all).await;
    // The other one begins with a part, sees another form of it, and gets the rest backwards.
    let (name, text) = all[0];
    let second = start(&[(name, "# nothing yet"), all[1]]).await;
    for (name, text) in all.iter().rev() {
        write(second.directory.path(), name, text);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    write(second.directory.path(), name, text);

    for id in NODES {
        let mut streams = Vec::new();
        for plane in [&first, &second] {
            // A page is for proxies that are connected.
            let stream = plane::Sotw::connect(plane, id, &[TypeUrl::CLUSTER]).await;
            streams.push(stream);
        }
        let mut ours = BTreeMap::new();
        let mut theirs = BTreeMap::new();
        for _ in 0..100 {
            (ours, theirs) = (wanted(&first, id).await, wanted(&second, id).await);
            if !ours.is_empty() && ours == theirs {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(ours, theirs, "{id}");
        assert!(!ours.is_empty(), "{id} has nothing");
        let types = [
            TypeUrl::CLUSTER,
            TypeUrl::ENDPOINT,
            TypeUrl::LISTENER,
            TypeUrl::ROUTE,
        ];
        for type_url in types {
            // A gateway without labels takes no Gateway, so that it has clusters only.
            let Some(known) = ours.get(type_url.short()) else {
                assert!(id.starts_with("router"), "{id}: {}", type_url.short());
                continue;
            };
            let answer = ask(&second, id, &type_url, known).await;
            let sent: Vec<&String> = answer.resources.iter().map(|r| &r.name).collect();
            assert!(sent.is_empty(), "{id}: {}: {sent:?}", type_url.short());
            assert_eq!(answer.removed_resources, [""; 0], "{id}");
        }
    }
    first.drain.finish().await;
    second.drain.finish().await;
}
