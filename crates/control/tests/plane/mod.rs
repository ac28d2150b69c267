//! A control plane over loopback: a directory of YAML on one side, an ADS client and an HTTP client
//! on the other.
#![allow(dead_code, reason = "each test file uses a part")]

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use weft_control::{ControlConfig, ControlPlane, KeyFetch, Registration};
use weft_core::drain;
use weft_xds::TypeUrl;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::pb::{DiscoveryRequest, DiscoveryResponse, Node};

/// A service, its cluster, and a proxy that sees it.
pub(crate) const SERVICE: &str = r"
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.1}]
";
pub(crate) const CLUSTER: &str = "outbound|80||reviews.shop.svc.cluster.local";
pub(crate) const SIDECAR: &str = "sidecar~10.0.0.9~app.shop~shop.svc.cluster.local";
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

pub(crate) struct Running {
    pub(crate) control: ControlPlane,
    pub(crate) drain: drain::Drain,
    pub(crate) directory: tempfile::TempDir,
}

pub(crate) async fn start(files: &[(&str, &str)]) -> Running {
    let directory = tempfile::tempdir().expect("a directory");
    for (name, text) in files {
        write(directory.path(), name, text);
    }
    let (drain, signal) = drain::channel();
    let config = config(directory.path());
    let control = ControlPlane::start(config, signal).await.expect("starts");
    Running {
        control,
        drain,
        directory,
    }
}

pub(crate) fn config(directory: &Path) -> ControlConfig {
    let local = "127.0.0.1:0".parse().expect("an address");
    ControlConfig {
        config_dir: directory.to_owned(),
        serve_incomplete: false,
        mesh_config: None,
        networks_config: None,
        cluster_id: None,
        grpc_addr: local,
        monitoring_addr: local,
        max_connection_age: None,
        keys: KeyFetch::default(),
        registration: Registration::default(),
        secure: None,
    }
}

pub(crate) fn write(directory: &Path, name: &str, text: &str) {
    let temporary = directory.join(format!(".{name}.tmp"));
    std::fs::write(&temporary, text).expect("writes");
    std::fs::rename(&temporary, directory.join(name)).expect("renames");
}

pub(crate) fn node(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        ..Node::default()
    }
}

pub(crate) struct Sotw {
    pub(crate) requests: mpsc::Sender<DiscoveryRequest>,
    pub(crate) responses: tonic::Streaming<DiscoveryResponse>,
}

impl Sotw {
    pub(crate) async fn connect(plane: &Running, id: &str, types: &[TypeUrl]) -> Self {
        let address = format!("http://{}", plane.control.grpc_addr);
        let mut client = AggregatedDiscoveryServiceClient::connect(address)
            .await
            .expect("connects");
        let (requests, receiver) = mpsc::channel(16);
        for type_url in types {
            let request = DiscoveryRequest {
                node: Some(node(id)),
                type_url: type_url.as_str().to_owned(),
                ..DiscoveryRequest::default()
            };
            requests.send(request).await.expect("room");
        }
        let responses = client
            .stream_aggregated_resources(ReceiverStream::new(receiver))
            .await;
        Self {
            requests,
            responses: responses.expect("a stream").into_inner(),
        }
    }

    /// The next answer within a time, acknowledged.
    pub(crate) async fn next(
        &mut self,
        within: Duration,
        error: Option<&str>,
    ) -> Option<DiscoveryResponse> {
        let response = tokio::time::timeout(within, self.responses.message())
            .await
            .ok()?;
        let response = response
            .expect("the stream goes on")
            .expect("the stream goes on");
        let request = DiscoveryRequest {
            type_url: response.type_url.clone(),
            version_info: response.version_info.clone(),
            response_nonce: response.nonce.clone(),
            error_detail: error.map(|message| weft_xds::pb::Status {
                code: 3,
                message: message.to_owned(),
                ..Default::default()
            }),
            ..DiscoveryRequest::default()
        };
        self.requests.send(request).await.expect("room");
        Some(response)
    }
}

pub(crate) async fn get(plane: &Running, path: &str) -> String {
    get_from(plane.control.monitoring_addr, path).await
}

pub(crate) async fn get_from(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address)
        .await
        .expect("connects");
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("writes");
    let mut text = String::new();
    stream.read_to_string(&mut text).await.expect("reads");
    text
}
