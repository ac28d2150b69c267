//! Whole clusters over loopback: small hyper servers as upstreams, one worker.

mod clusters;
mod http1;
mod http2;
mod names;
mod pools;
mod tls;

use std::cell::Cell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use weft_config::cluster::{CircuitBreakers, LbCommon, UpstreamHttp};
use weft_config::{
    Address, Cluster as Config, Discovery, Endpoint, Health, LbPolicy, LoadAssignment, Locality,
    LocalityEndpoints, Transport, UpstreamProtocol,
};
use weft_core::metrics::Registry;

use crate::*;

/// Runs a test as a worker would run.
pub(crate) fn on_worker<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .unwrap();
    let limit = Duration::from_secs(30);
    runtime.block_on(async {
        let ended = tokio::time::timeout(limit, test).await;
        ended.expect("test timeout");
    });
}

pub(crate) fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint {
        address: Address::Ip(address),
        hostname: "".into(),
        weight: 1,
        health: Health::Healthy,
        metadata: None,
        locality_metadata: None,
    }
}

pub(crate) fn locality(weight: Option<u32>, endpoints: Vec<Endpoint>) -> Arc<LocalityEndpoints> {
    Arc::new(LocalityEndpoints {
        locality: Locality::default(),
        weight,
        endpoints,
    })
}

pub(crate) fn assignment(
    name: &str,
    priorities: Vec<Vec<Arc<LocalityEndpoints>>>,
) -> Arc<LoadAssignment> {
    Arc::new(LoadAssignment {
        priorities,
        ..LoadAssignment::empty(name.into())
    })
}

pub(crate) fn flat(name: &str, addresses: &[SocketAddr]) -> Arc<LoadAssignment> {
    let endpoints = addresses.iter().copied().map(endpoint).collect();
    assignment(name, vec![vec![locality(None, endpoints)]])
}

/// A static round-robin cluster.
pub(crate) fn config(name: &str, endpoints: Arc<LoadAssignment>) -> Config {
    Config {
        name: name.into(),
        alt_stat_name: None,
        discovery: Discovery::Static,
        endpoints,
        lb: LbPolicy::RoundRobin { slow_start: None },
        lb_common: LbCommon::default(),
        connect_timeout: Duration::from_secs(5),
        per_connection_buffer_limit: 1 << 20,
        http: Arc::new(UpstreamHttp::default()),
        breakers: CircuitBreakers::default(),
        outlier: None,
        transport: Transport::Raw,
        proxy_protocol: None,
        transport_matches: Arc::new([]),
        bind_address: None,
        tcp_keepalive: None,
        metadata: None,
        close_connections_on_host_health_failure: false,
        connection_pool_per_downstream_connection: false,
    }
}

fn http2() -> Arc<UpstreamHttp> {
    Arc::new(UpstreamHttp {
        protocol: UpstreamProtocol::Http2,
        ..UpstreamHttp::default()
    })
}

/// A store and the manager of its only worker.
struct World {
    store: Arc<ClusterStore>,
    manager: Rc<ClusterManager>,
    registry: Arc<Registry>,
}

impl World {
    fn new() -> Self {
        let registry = Arc::new(Registry::default());
        let store = ClusterStore::new(Arc::clone(&registry), 1);
        Self::of(store, registry)
    }

    fn of(store: Arc<ClusterStore>, registry: Arc<Registry>) -> Self {
        let manager = ClusterManager::new(&store, 0);
        tokio::task::spawn_local(Rc::clone(&manager).follow());
        tokio::spawn(Arc::clone(&store).run());
        Self {
            store,
            manager,
            registry,
        }
    }

    fn cluster(&self) -> Rc<Cluster> {
        self.manager.get("c").unwrap()
    }

    /// One request to whatever host comes next.
    async fn send(&self, path: &str) -> Result<Response<ResponseBody>, SendFailure> {
        let cluster = self.cluster();
        let host = cluster.pick(&PickContext::default()).expect("no host");
        let options = SendOptions::default();
        cluster.send(&host, get(path), &options).await
    }

    async fn text(&self, path: &str) -> String {
        text(self.send(path).await.unwrap()).await
    }

    /// A value of the cluster's statistics, summed over main thread and worker.
    fn stat(&self, name: &str) -> i64 {
        use weft_core::metrics::Value;
        let all = self.registry.collect();
        let found = all.iter().find_map(|(_, values)| values.get(name));
        match found {
            Some(Value::Counter(n)) => i64::try_from(*n).unwrap(),
            Some(Value::Gauge(n)) => *n,
            Some(Value::Histogram(h)) => i64::try_from(h.count()).unwrap(),
            None => 0,
        }
    }

    async fn until(&self, name: &str, value: i64) {
        for _ in 0..500 {
            if self.stat(name) == value {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("{name} is {}, not {value}", self.stat(name));
    }
}

fn get(path: &str) -> Request<RequestBody> {
    let request = Request::builder().uri(path).header("host", "test");
    request.body(RequestBody::Empty).unwrap()
}

async fn text(response: Response<ResponseBody>) -> String {
    let body = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(body.to_vec()).unwrap()
}

/// A server that answers with its name; `/slow` takes 100 ms, `/status/N` has that status,
/// `/header/N` and `/trailer/N` a header or a trailer of that size.
#[derive(Clone)]
struct Server {
    address: SocketAddr,
    accepted: Rc<Cell<u32>>,
    open: Rc<Cell<u32>>,
    /// Told to close every connection when it is idle.
    closing: tokio::sync::watch::Sender<bool>,
}

async fn answer(
    name: &'static str,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await;
    let size = body.map_or(0, |b| b.to_bytes().len());
    if path == "/slow" {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = path.strip_prefix("/status/").and_then(|s| s.parse().ok());
    let text = if size > 0 {
        format!("{name} {size}")
    } else {
        name.to_owned()
    };
    let mut response = Response::builder().status(status.unwrap_or(200));
    let header = |prefix| {
        let size: usize = path.strip_prefix(prefix)?.parse().ok()?;
        Some(http::HeaderValue::from_bytes(&vec![b'a'; size]).unwrap())
    };
    if let Some(value) = header("/header/") {
        response = response.header("x-large", value);
    }
    let trailers = header("/trailer/").map(|value| {
        let before = (
            http::HeaderName::from_static("x-first"),
            "1".parse().unwrap(),
        );
        let large = (http::HeaderName::from_static("x-large"), value);
        Ok(http::HeaderMap::from_iter([before, large]))
    });
    let body = Full::new(text.into()).with_trailers(std::future::ready(trailers));
    Ok(response.body(body.boxed()).unwrap())
}

#[derive(Clone, Copy)]
struct Exec;
impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Exec {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// Most streams that a connection of the HTTP/2 server takes.
const SERVER_STREAMS: u32 = 4;

async fn server(name: &'static str, http2: bool) -> Server {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = Server {
        address: listener.local_addr().unwrap(),
        accepted: Rc::default(),
        open: Rc::default(),
        closing: tokio::sync::watch::Sender::new(false),
    };
    let this = server.clone();
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let (this, mut closing) = (this.clone(), this.closing.subscribe());
            this.accepted.set(this.accepted.get() + 1);
            this.open.set(this.open.get() + 1);
            let service = hyper::service::service_fn(move |request| answer(name, request));
            tokio::task::spawn_local(async move {
                let stream = weft_net::Stream::from(tcp);
                if http2 {
                    let mut builder = hyper::server::conn::http2::Builder::new(Exec);
                    builder.max_concurrent_streams(SERVER_STREAMS);
                    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
                    tokio::select! {
                        _ = &mut connection => {}
                        () = async { drop(closing.wait_for(|c| *c).await) } => {
                            connection.as_mut().graceful_shutdown();
                            let _ = connection.await;
                        }
                    }
                } else {
                    let builder = hyper::server::conn::http1::Builder::new();
                    let mut connection = std::pin::pin!(builder.serve_connection(stream, service));
                    tokio::select! {
                        _ = &mut connection => {}
                        () = async { drop(closing.wait_for(|c| *c).await) } => {
                            connection.as_mut().graceful_shutdown();
                            let _ = connection.await;
                        }
                    }
                }
                this.open.set(this.open.get() - 1);
            });
        }
    });
    server
}
