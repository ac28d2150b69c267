//! Workloads that register themselves: from the connection of a proxy to the endpoints of others.

mod plane;

use std::time::Duration;

use plane::{PATIENCE, Running, SIDECAR, Sotw, config, get, node, write};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use weft_control::{ControlPlane, Registration};
use weft_core::drain;
use weft_proto::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use weft_proto::pb::google::protobuf::{Struct, Value, value::Kind};
use weft_xds::TypeUrl;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::pb::{DiscoveryRequest, DiscoveryResponse, Status as Error};

const MESH: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: cart, namespace: shop}
spec:
  hosts: [cart.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  workloadSelector: {labels: {app: cart}}
";
const GROUP: &str = r"
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: carts, namespace: shop}
spec:
  metadata: {labels: {app: cart}}
  template: {ports: {http: 8080}}
";
const CLUSTER: &str = "outbound|80||cart.shop.svc.cluster.local";
const GRACE: Duration = Duration::from_millis(300);

async fn start(files: &[(&str, &str)]) -> Running {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        write(directory.path(), name, text);
    }
    let (drain, signal) = drain::channel();
    let mut config = config(directory.path());
    config.registration = Registration {
        grace: GRACE,
        verified_only: false,
    };
    let control = ControlPlane::start(config, signal).await.expect("starts");
    Running {
        control,
        drain,
        directory,
    }
}

/// A proxy of the group at an address; its first answer, or why it is refused.
struct Cart {
    requests: mpsc::Sender<DiscoveryRequest>,
    answers: Streaming<DiscoveryResponse>,
}

impl Cart {
    async fn connect(plane: &Running, address: &str, config: Option<&str>) -> Result<Self, Status> {
        let text = |text: &str| Value {
            kind: Some(Kind::StringValue(text.to_owned())),
        };
        let mut fields = vec![("AUTO_REGISTER_GROUP".to_owned(), text("carts"))];
        fields.extend(config.map(|config| ("PROXY_CONFIG".to_owned(), text(config))));
        let mut node = node(&format!(
            "sidecar~{address}~cart.shop~shop.svc.cluster.local"
        ));
        node.metadata = Some(Struct {
            fields: fields.into_iter().collect(),
        });
        let (requests, receiver) = mpsc::channel(4);
        let first = DiscoveryRequest {
            node: Some(node),
            type_url: TypeUrl::CLUSTER.as_str().to_owned(),
            ..DiscoveryRequest::default()
        };
        requests.send(first).await.expect("room");
        let address = format!("http://{}", plane.control.grpc_addr);
        let client = AggregatedDiscoveryServiceClient::connect(address).await;
        let mut client = client.expect("connects");
        let stream = client.stream_aggregated_resources(ReceiverStream::new(receiver));
        let mut answers = stream.await?.into_inner();
        let first = tokio::time::timeout(PATIENCE, answers.message()).await;
        first.expect("in time")?;
        Ok(Self { requests, answers })
    }

    async fn tell(&self, trouble: Option<&str>) {
        let error_detail = trouble.map(|message| Error {
            code: 500,
            message: message.to_owned(),
            ..Error::default()
        });
        let request = DiscoveryRequest {
            type_url: "type.googleapis.com/istio.v1.HealthInformation".to_owned(),
            error_detail,
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.expect("room");
    }
}

/// A proxy that follows the endpoints of the service.
struct Caller(Sotw);

impl Caller {
    async fn connect(plane: &Running) -> Self {
        let mut stream = Sotw::connect(plane, SIDECAR, &[TypeUrl::CLUSTER]).await;
        stream.next(PATIENCE, None).await.expect("clusters");
        let request = DiscoveryRequest {
            type_url: TypeUrl::ENDPOINT.as_str().to_owned(),
            resource_names: vec![CLUSTER.to_owned()],
            ..DiscoveryRequest::default()
        };
        stream.requests.send(request).await.expect("room");
        Self(stream)
    }

    /// The next answer, accepted.
    async fn next(&mut self) -> Option<DiscoveryResponse> {
        let answer = tokio::time::timeout(PATIENCE, self.0.responses.message());
        let answer = answer.await.ok()?.expect("it goes on")?;
        let is_endpoints = answer.type_url == TypeUrl::ENDPOINT.as_str();
        let request = DiscoveryRequest {
            type_url: answer.type_url.clone(),
            version_info: answer.version_info.clone(),
            response_nonce: answer.nonce.clone(),
            resource_names: is_endpoints
                .then(|| CLUSTER.to_owned())
                .into_iter()
                .collect(),
            ..DiscoveryRequest::default()
        };
        self.0.requests.send(request).await.expect("room");
        Some(answer)
    }

    /// Waits until the endpoints are these; `address:port`, sorted.
    async fn sees(&mut self, wanted: &[&str]) {
        let mut seen = Vec::new();
        for _ in 0..50 {
            let Some(answer) = self.next().await else {
                break;
            };
            if answer.type_url != TypeUrl::ENDPOINT.as_str() {
                continue;
            }
            let bodies = answer.resources.iter();
            seen = bodies.flat_map(|any| endpoints(&any.value)).collect();
            seen.sort();
            if seen == wanted {
                return;
            }
        }
        panic!("{wanted:?}, but the last was {seen:?}");
    }
}

fn endpoints(body: &[u8]) -> Vec<String> {
    use weft_proto::pb::envoy::config::core::v3::{address::Address, socket_address};
    let assignment = ClusterLoadAssignment::decode(body).expect("an assignment");
    let all = assignment
        .endpoints
        .into_iter()
        .flat_map(|place| place.lb_endpoints);
    let socket = |identifier| {
        let lb_endpoint::HostIdentifier::Endpoint(endpoint) = identifier else {
            return None;
        };
        let Address::SocketAddress(socket) = endpoint.address?.address? else {
            return None;
        };
        let socket_address::PortSpecifier::PortValue(port) = socket.port_specifier? else {
            return None;
        };
        Some(format!("{}:{port}", socket.address))
    };
    all.filter_map(|endpoint| socket(endpoint.host_identifier?))
        .collect()
}

async fn metric(plane: &Running, name: &str) -> u64 {
    let page = get(plane, "/metrics").await;
    let mut lines = page.lines();
    let value = lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let value = value.unwrap_or_else(|| panic!("no {name}"));
    value.parse().expect("a number")
}

async fn stop(plane: Running) {
    plane.drain.start();
    plane.control.finished().await.expect("ends well");
}

#[tokio::test]
async fn workloads_come_and_go_with_their_proxies() {
    let plane = start(&[("mesh.yaml", MESH), ("group.yaml", GROUP)]).await;
    let mut caller = Caller::connect(&plane).await;
    let first = Cart::connect(&plane, "10.0.0.1", None)
        .await
        .expect("served");
    caller.sees(&["10.0.0.1:8080"]).await;
    let second = Cart::connect(&plane, "10.0.0.2", None)
        .await
        .expect("served");
    caller.sees(&["10.0.0.1:8080", "10.0.0.2:8080"]).await;
    assert_eq!(metric(&plane, "auto_registration_success_total").await, 2);
    assert_eq!(metric(&plane, "weft_auto_registered_workloads").await, 2);

    // Who comes back in time was never gone; who does not, is.
    drop(first);
    let first = Cart::connect(&plane, "10.0.0.1", None)
        .await
        .expect("served");
    assert_eq!(metric(&plane, "auto_registration_updates_total").await, 1);
    drop(second);
    caller.sees(&["10.0.0.1:8080"]).await;
    assert_eq!(metric(&plane, "auto_registration_deletes_total").await, 1);

    // An edit of the group is one of its workloads.
    let edited = GROUP.replace("8080", "9090");
    write(plane.directory.path(), "group.yaml", &edited);
    caller.sees(&["10.0.0.1:9090"]).await;
    // A document of the same name comes first.
    let written = r"
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: carts-10.0.0.1, namespace: shop}
spec: {address: 10.0.0.3, labels: {app: cart}}
";
    write(plane.directory.path(), "entry.yaml", written);
    caller.sees(&["10.0.0.3:80"]).await;
    std::fs::remove_file(plane.directory.path().join("entry.yaml")).expect("there");
    caller.sees(&["10.0.0.1:9090"]).await;

    // Without the group there is nobody in it, until it is back.
    std::fs::remove_file(plane.directory.path().join("group.yaml")).expect("there");
    caller.sees(&[]).await;
    let refused = Cart::connect(&plane, "10.0.0.4", None).await;
    let refused = refused.err().expect("no group");
    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
    assert_eq!(metric(&plane, "auto_registration_errors_total").await, 1);
    write(plane.directory.path(), "group.yaml", GROUP);
    caller.sees(&["10.0.0.1:8080"]).await;
    drop(first);
    stop(plane).await;
}

#[tokio::test]
async fn workloads_that_do_not_serve_are_no_endpoints() {
    let plane = start(&[("mesh.yaml", MESH), ("group.yaml", GROUP)]).await;
    let mut caller = Caller::connect(&plane).await;
    let other = Cart::connect(&plane, "10.0.0.9", None)
        .await
        .expect("served");
    caller.sees(&["10.0.0.9:8080"]).await;
    let config = r#"{"readinessProbe":{"tcpSocket":{"port":8080}}}"#;
    let mut probed = Cart::connect(&plane, "10.0.0.1", Some(config))
        .await
        .expect("served");
    assert_eq!(
        metric(&plane, "weft_auto_registered_workloads_unhealthy").await,
        1
    );
    probed.tell(None).await;
    caller.sees(&["10.0.0.1:8080", "10.0.0.9:8080"]).await;
    probed.tell(Some("it burns")).await;
    caller.sees(&["10.0.0.9:8080"]).await;
    // What nobody asked about changes nothing.
    other.tell(Some("a lie")).await;
    probed.tell(None).await;
    caller.sees(&["10.0.0.1:8080", "10.0.0.9:8080"]).await;
    let more = tokio::time::timeout(Duration::from_millis(200), probed.answers.message()).await;
    assert!(more.is_err(), "no answer follows: {more:?}");
    stop(plane).await;
}
