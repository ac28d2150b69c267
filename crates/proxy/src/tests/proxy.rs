//! A whole proxy in this process, with ports of its own. Must never know what a test expects.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::oneshot;
use weft_core::drain::{Drain, channel};
use weft_proto::bootstrap::read_bootstrap;

use crate::admin::{LogControl, LogLevel, ServerOptions};
use crate::{CheckedBootstrap, ProxyOptions, run};

/// Nothing that a test waits for takes longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
const HCM: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "{name: envoy.filters.http.router, typed_config: {\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";

struct NoLogging;

impl LogControl for NoLogging {
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

/// A running proxy with one listener.
pub(super) struct Proxy {
    pub(super) address: SocketAddr,
    admin: SocketAddr,
    drain: Drain,
}

/// A connection manager: further fields of it, its HTTP filters before the router, its routes.
pub(super) fn manager(fields: &str, filters: &str, routes: &str) -> String {
    let comma = if fields.is_empty() { "" } else { "," };
    let routes = route_config(routes);
    manager_with(&format!("{fields}{comma} route_config: {routes}"), filters)
}

/// A connection manager: further fields of it with its source of routes, its HTTP filters before
/// the router.
pub(super) fn manager_with(fields: &str, filters: &str) -> String {
    format!(
        "{{name: hcm, typed_config: {{\"@type\": {HCM}, stat_prefix: tested, \
         http_filters: [{filters} {ROUTER}], {fields}}}}}"
    )
}

/// A route configuration named `r`.
pub(super) fn route_config(routes: &str) -> String {
    format!("{{name: r, virtual_hosts: [{{name: v, domains: [\"*\"], routes: [{routes}]}}]}}")
}

fn cluster(name: &str, host: SocketAddr, http2: bool) -> String {
    // Names say what is special about a cluster.
    let more = match name {
        "single" => "circuit_breakers: {thresholds: [{max_connections: 1}]}, ",
        "judged" => "outlier_detection: {consecutive_5xx: 1, max_ejection_percent: 100}, ",
        _ => "",
    };
    let protocol = if http2 {
        "typed_extension_protocol_options: {envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {\"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: {http2_protocol_options: {}}}}, "
    } else {
        ""
    };
    format!(
        "{{name: {name}, type: STATIC, connect_timeout: 1s, {more}{protocol}load_assignment: \
         {{cluster_name: {name}, endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]}}}}",
        host.ip(),
        host.port()
    )
}

impl Proxy {
    /// A proxy whose only network filter is `filter`, and its clusters.
    pub(super) async fn start(filter: &str, clusters: &[(&str, SocketAddr)]) -> Self {
        Self::start_with(filter, clusters, PATIENCE).await
    }

    pub(super) async fn start_with(
        filter: &str,
        clusters: &[(&str, SocketAddr)],
        shutdown_time: Duration,
    ) -> Self {
        Self::start_workers(filter, clusters, shutdown_time, 1).await
    }

    pub(super) async fn start_workers(
        filter: &str,
        clusters: &[(&str, SocketAddr)],
        shutdown_time: Duration,
        workers: usize,
    ) -> Self {
        let clusters: Vec<_> = clusters
            .iter()
            .map(|(name, host)| cluster(name, *host, name.ends_with("http2")))
            .collect();
        let any = "{socket_address: {address: 127.0.0.1, port_value: 0}}";
        // A control plane is a cluster like others.
        let ads = "dynamic_resources: {ads_config: {api_type: DELTA_GRPC, transport_api_version: \
                   V3, grpc_services: [{envoy_grpc: {cluster_name: ads_http2}}]}}, ";
        let has_ads = clusters.iter().any(|text| text.contains("ads_http2"));
        let ads = if has_ads { ads } else { "" };
        let text = format!(
            "{{node: {{id: node, cluster: cluster}}, admin: {{address: {any}}}, {ads}static_resources: \
             {{listeners: [{{name: l, address: {any}, filter_chains: [{{filters: [{filter}]}}]}}], \
             clusters: [{}]}}}}",
            clusters.join(", ")
        );
        let bootstrap = read_bootstrap(Some(("test.yaml", &text)), None);
        let (ready, is_ready) = oneshot::channel();
        let options = ProxyOptions {
            identity: None,
            workload_health: None,
            bootstrap: CheckedBootstrap::new(
                bootstrap.unwrap_or_else(|problems| panic!("{problems:?}\n{text}")),
            )
            .unwrap_or_else(|error| panic!("{error}\n{text}")),
            concurrency: Some(workers),
            drain_time: Duration::from_secs(1),
            shutdown_time,
            server: ServerOptions::default(),
            logging: Box::new(NoLogging),
            reopen_logs: std::sync::Arc::default(),
            on_ready: Some(Box::new(|admin| {
                let _ = ready.send(admin);
            })),
        };
        let (drain, signal) = channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime
                .block_on(run(options, signal))
                .unwrap_or_else(|error| panic!("{error}"));
        });
        let admin = is_ready.await.expect("it starts").expect("it has an admin");
        let mut proxy = Self {
            address: admin,
            admin,
            drain,
        };
        proxy.address = proxy.listener().await;
        proxy
    }

    /// Where the listener is, when it has its routes.
    async fn listener(&self) -> SocketAddr {
        let begun = Instant::now();
        loop {
            let listeners = self.ask("/listeners").await;
            if let Some(address) = listeners.trim().strip_prefix("l::") {
                return address.parse().unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "no listener: {listeners:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ask(&self, path: &str) -> String {
        let mut client = Client::connect(self.admin).await;
        client
            .send(&format!(
                "GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
            ))
            .await;
        let answer = client.rest().await;
        let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
        body.to_owned()
    }

    /// One number of the statistics; 0 if there is none of this name.
    pub(super) async fn stat(&self, name: &str) -> u64 {
        let stats = self.ask("/stats").await;
        let line = stats
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        line.map_or(0, |number| number.parse().unwrap())
    }

    /// Waits until a number of the statistics is this.
    pub(super) async fn wait_for_stat(&self, name: &str, wanted: u64) {
        let begun = Instant::now();
        loop {
            let is = self.stat(name).await;
            if is == wanted {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{name} is {is}, not {wanted}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The process is told to end.
    pub(super) fn drain(&self) {
        self.drain.start();
    }
}

/// A connection as plain bytes.
pub(super) struct Client(pub(super) TcpStream);

impl Client {
    pub(super) async fn connect(address: SocketAddr) -> Self {
        Self(TcpStream::connect(address).await.unwrap())
    }

    pub(super) async fn send(&mut self, text: impl AsRef<[u8]>) {
        self.0.write_all(text.as_ref()).await.unwrap();
    }

    /// Reads until the text so far ends as wanted.
    pub(super) async fn until(&mut self, end: &str) -> String {
        let mut got = Vec::new();
        let reading = async {
            while !got.ends_with(end.as_bytes()) {
                let byte = self.0.read_u8().await;
                got.push(byte.map_err(|error| error.to_string())?);
            }
            Ok::<_, String>(())
        };
        let ended = tokio::time::timeout(PATIENCE, reading).await;
        let text = String::from_utf8_lossy(&got).into_owned();
        assert!(
            matches!(ended, Ok(Ok(()))),
            "no {end:?} after {text:?}: {ended:?}"
        );
        text
    }

    /// Everything until the connection is closed.
    pub(super) async fn rest(&mut self) -> String {
        let mut got = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut got)).await;
        let text = String::from_utf8_lossy(&got).into_owned();
        assert!(ended.is_ok(), "still open after {text:?}");
        text
    }

    /// Reads HTTP/2 frames up to one of this type; gives its payload.
    pub(super) async fn until_frame(&mut self, wanted: u8) -> Vec<u8> {
        let reading = async {
            loop {
                let mut head = [0; 9];
                self.0.read_exact(&mut head).await.unwrap();
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                self.0.read_exact(&mut payload).await.unwrap();
                if head[3] == wanted {
                    return payload;
                }
            }
        };
        let read = tokio::time::timeout(PATIENCE, reading).await;
        read.unwrap_or_else(|_| panic!("no frame of type {wanted}"))
    }

    /// Closes the sending side.
    pub(super) async fn finish(&mut self) {
        self.0.shutdown().await.unwrap();
    }
}

/// An upstream whose connections the test takes one by one.
pub(super) struct Upstream(TcpListener);

impl Upstream {
    pub(super) async fn start() -> (Self, SocketAddr) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self(listener), address)
    }

    /// One for whose connections the kernel keeps little.
    pub(super) fn start_small() -> (Self, SocketAddr) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(64 * 1024).unwrap();
        socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
        let listener = socket.listen(16).unwrap();
        let address = listener.local_addr().unwrap();
        (Self(listener), address)
    }

    pub(super) async fn accept(&self) -> Client {
        let accepted = tokio::time::timeout(PATIENCE, self.0.accept()).await;
        Client(accepted.expect("nobody came").unwrap().0)
    }
}
