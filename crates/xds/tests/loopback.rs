//! The two gRPC drivers against each other over loopback, on one current-thread runtime.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::{Mutex, mpsc, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status, Streaming};
use weft_xds::client::grpc::{DriverConfig, Handle, connect_to, spawn};
use weft_xds::client::{ClientEvent, ClientOptions, Interest, Refused, Update};
use weft_xds::pb::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use weft_xds::pb::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node,
};
use weft_xds::server::grpc::{
    Connection, ConnectionId, Counters, Options, ViewSource, incoming, server_builder, service,
};
use weft_xds::server::{Event, Limits};
use weft_xds::{Mode, Resource, ResourceSet, TypeUrl, View};

/// Field 1 is the name, field 2 the content.
fn body(name: &str, content: u8) -> Vec<u8> {
    let mut body = vec![0x0a, u8::try_from(name.len()).expect("short")];
    body.extend_from_slice(name.as_bytes());
    body.extend_from_slice(&[0x10, content]);
    body
}

fn view(content: u8) -> View {
    View::new([TypeUrl::CLUSTER, TypeUrl::ENDPOINT].map(|type_url| {
        let resources = ["a", "b"].map(|name| Resource::new(&type_url, name, body(name, content)));
        ResourceSet::new(type_url, resources)
    }))
}

struct Source {
    views: Mutex<watch::Sender<View>>,
    events: mpsc::UnboundedSender<Event>,
    /// Ports from which streams came.
    ports: std::sync::Mutex<Vec<u16>>,
    /// What is published by the ear for events, after so many types more are in sync.
    next: std::sync::Mutex<Option<(usize, View)>>,
}

impl ViewSource for Source {
    fn connect(&self, connection: &Connection) -> Result<watch::Receiver<View>, Status> {
        if connection.node.id != "me" {
            return Err(Status::permission_denied("not you"));
        }
        let peer = connection.peer.expect("it is TCP");
        self.ports.lock().expect("no panic").push(peer.port());
        let views = self.views.try_lock().map_err(|_| Status::aborted("busy"))?;
        Ok(views.subscribe())
    }

    fn event(&self, _: ConnectionId, event: &Event) {
        let _ = self.events.send(event.clone());
        let mut next = self.next.lock().expect("no panic");
        if matches!(event, Event::InSync { .. })
            && let Some((left, view)) = &mut *next
        {
            *left -= 1;
            if *left == 0 {
                let views = self.views.try_lock().expect("nobody else publishes");
                views.send_replace(view.clone());
                *next = None;
            }
        }
    }

    fn closed(&self, _: ConnectionId) {}
}

struct Mesh {
    source: Arc<Source>,
    events: mpsc::UnboundedReceiver<Event>,
    counters: Arc<Counters>,
    address: String,
    client: Handle,
    contents: BTreeMap<(TypeUrl, String), u8>,
}

impl Mesh {
    async fn start(mode: Mode) -> Self {
        Self::bounded(mode, 100, Options::default()).await
    }

    async fn bounded(mode: Mode, connections: usize, options: Options) -> Self {
        let (events_in, events) = mpsc::unbounded_channel();
        let source = Arc::new(Source {
            views: Mutex::new(watch::Sender::new(view(1))),
            events: events_in,
            ports: std::sync::Mutex::default(),
            next: std::sync::Mutex::default(),
        });
        let counters = Arc::<Counters>::default();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        let server = server_builder(options.max_connection_age);
        let ads = service(source.clone(), options, counters.clone());
        let accepted = incoming(listener, connections, counters.clone());
        tokio::spawn(server.serve_with_incoming(ads, accepted));
        let node = Node {
            id: "me".to_owned(),
            ..Default::default()
        };
        let options = ClientOptions {
            backoff_initial: Duration::from_millis(20),
            ..ClientOptions::new(node)
        };
        // The first server refuses connections.
        let address = format!("http://{address}");
        let servers = vec!["http://127.0.0.1:1".to_owned(), address.clone()];
        let client = spawn(DriverConfig::new(mode, 2, connect_to(servers), options, 7));
        client
            .commands
            .set_interest(TypeUrl::CLUSTER, Interest::All)
            .await;
        client
            .commands
            .set_interest(TypeUrl::ENDPOINT, Interest::names(["a", "b"]))
            .await;
        Mesh {
            source,
            events,
            counters,
            address,
            client,
            contents: BTreeMap::new(),
        }
    }

    async fn event(&mut self) -> ClientEvent {
        let event = tokio::time::timeout(Duration::from_secs(20), self.client.events.recv()).await;
        event.expect("in time").expect("the driver runs")
    }

    /// Accepts what comes, except content 9, until all resources have this content.
    async fn until(&mut self, content: u8) {
        while self.contents.len() < 4 || self.contents.values().any(|it| *it != content) {
            if let ClientEvent::Update(update) = self.event().await {
                self.take(update).await;
            }
        }
    }

    async fn take(&mut self, update: Update) {
        let mut refused = Vec::new();
        for added in update.added {
            let content = *added.body.last().expect("not empty");
            if content == 9 {
                refused.push(Refused {
                    name: added.name,
                    error: "content: must not be 9".to_owned(),
                });
            } else {
                self.contents
                    .insert((update.type_url.clone(), added.name), content);
            }
        }
        self.client.commands.verdict(update.id, refused).await;
    }

    async fn server_event(&mut self, wanted: impl Fn(&Event) -> bool) -> Event {
        let found = async {
            loop {
                let event = self.events.recv().await.expect("the server runs");
                if wanted(&event) {
                    return event;
                }
            }
        };
        let event = tokio::time::timeout(Duration::from_secs(20), found).await;
        event.expect("in time")
    }
}

async fn run(mode: Mode) {
    let mut mesh = Mesh::start(mode).await;
    mesh.until(1).await;
    mesh.source.views.lock().await.send_replace(view(2));
    mesh.until(2).await;

    // A refused content reaches the server with its name, and the good one stays.
    let bad = ResourceSet::new(
        TypeUrl::CLUSTER,
        [
            Resource::new(&TypeUrl::CLUSTER, "a", body("a", 9)),
            Resource::new(&TypeUrl::CLUSTER, "b", body("b", 2)),
        ],
    );
    mesh.source
        .views
        .lock()
        .await
        .send_replace(view(2).with(bad));
    while let ClientEvent::Update(update) = mesh.event().await {
        let refusal = update.added.iter().any(|added| added.body.ends_with(&[9]));
        mesh.take(update).await;
        if refusal {
            break;
        }
    }
    let nack = mesh
        .server_event(|event| matches!(event, Event::Nacked { .. }))
        .await;
    let Event::Nacked { names, error, .. } = nack else {
        panic!("is a NACK");
    };
    assert_eq!(names, ["a".into()]);
    assert_eq!(error, "a: content: must not be 9");
    mesh.source.views.lock().await.send_replace(view(3));
    mesh.until(3).await;
    let clusters = |event: &Event| {
        matches!(event, Event::InSync { type_url, version }
        if *type_url == TypeUrl::CLUSTER && view(3).get(type_url).is_some_and(|set| set.version() == *version))
    };
    mesh.server_event(clusters).await;
    let endpoints = |event: &Event| {
        matches!(event, Event::InSync { type_url, version }
        if *type_url == TypeUrl::ENDPOINT && view(3).get(type_url).is_some_and(|set| set.version() == *version))
    };
    mesh.server_event(endpoints).await;

    // The control plane drops the stream; the client comes back, and is only told that it is heard.
    let before = mesh.counters.response_bytes.load(Ordering::Relaxed);
    *mesh.source.views.lock().await = watch::Sender::new(view(3));
    for _ in 0..2 {
        mesh.server_event(|event| matches!(event, Event::Resumed { .. }))
            .await;
    }
    mesh.server_event(endpoints).await;
    let sent = mesh.counters.response_bytes.load(Ordering::Relaxed) - before;
    assert!((1..=512).contains(&sent), "{sent} bytes");
    assert_eq!(mesh.counters.streams.load(Ordering::Relaxed), 2);
    assert_eq!(mesh.counters.nacks.load(Ordering::Relaxed), 1);
    mesh.source.views.lock().await.send_replace(view(4));
    mesh.until(4).await;
}

#[tokio::test]
async fn delta_drivers_deliver_refuse_and_resume() {
    run(Mode::Delta).await;
}

#[tokio::test]
async fn state_of_the_world_drivers_deliver_refuse_and_resume() {
    run(Mode::Sotw).await;
}

/// Nothing else would wake the stream.
#[tokio::test]
async fn a_view_that_comes_while_events_are_told_is_sent() {
    let late = Duration::from_hours(1);
    let limits = Limits {
        cluster_wait: late,
        ack_overdue: late,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let mut mesh = Mesh::bounded(Mode::Delta, 100, options).await;
    *mesh.source.next.lock().expect("no panic") = Some((2, view(2)));
    mesh.until(2).await;
}

#[tokio::test]
async fn a_refused_node_is_told_why() {
    let mut mesh = Mesh::start(Mode::Delta).await;
    let stranger = ClientOptions {
        backoff_initial: Duration::from_millis(20),
        ..ClientOptions::new(Node::default())
    };
    mesh.until(1).await;
    let address = mesh.address.clone();
    let mut other = spawn(DriverConfig::new(
        Mode::Sotw,
        1,
        connect_to(vec![address]),
        stranger,
        1,
    ));
    other
        .commands
        .set_interest(TypeUrl::CLUSTER, Interest::All)
        .await;
    loop {
        match other.events.recv().await {
            Some(ClientEvent::Disconnected { error, .. }) => {
                assert!(error.contains("not you"), "{error}");
                return;
            }
            Some(_) => {}
            None => panic!("the driver runs"),
        }
    }
}

/// Why a client without a name cannot get a stream.
async fn failure(config: DriverConfig) -> String {
    let mut client = spawn(config);
    let commands = &client.commands;
    commands.set_interest(TypeUrl::CLUSTER, Interest::All).await;
    let failure = async {
        loop {
            match client.events.recv().await {
                Some(ClientEvent::Disconnected { error, .. }) => return error,
                Some(_) => {}
                None => panic!("the driver runs"),
            }
        }
    };
    let failure = tokio::time::timeout(Duration::from_secs(20), failure).await;
    failure.expect("in time")
}

fn stranger(address: &str) -> DriverConfig {
    let options = ClientOptions::new(Node::default());
    DriverConfig::new(Mode::Sotw, 1, connect_to(vec![address.into()]), options, 1)
}

#[tokio::test]
async fn streams_and_connections_are_bounded() {
    let one = Options {
        max_streams: 1,
        ..Options::default()
    };
    let mut mesh = Mesh::bounded(Mode::Delta, 2, one).await;
    mesh.until(1).await;
    let second = failure(stranger(&mesh.address)).await;
    assert!(second.contains("too many streams"), "{second}");
    let refused = mesh.counters.streams_refused.load(Ordering::Relaxed);
    assert!(refused >= 1);

    let mut mesh = Mesh::bounded(Mode::Delta, 1, Options::default()).await;
    mesh.until(1).await;
    failure(stranger(&mesh.address)).await;
    let refused = mesh.counters.connections_refused.load(Ordering::Relaxed);
    assert!(refused >= 1);
    // The place of a connection that ends is free again.
    let (address, source) = (mesh.address.clone(), Arc::clone(&mesh.source));
    drop(mesh.client);
    loop {
        let error = failure(stranger(&address)).await;
        if error.contains("not you") {
            break;
        }
    }
    drop(source);
}

#[tokio::test]
async fn a_node_that_is_too_long_is_refused() {
    let mesh = Mesh::start(Mode::Delta).await;
    let long = Node {
        id: "me".to_owned(),
        cluster: "c".repeat(1 << 20),
        ..Node::default()
    };
    let options = ClientOptions::new(long);
    let servers = connect_to(vec![mesh.address.clone()]);
    let refused = failure(DriverConfig::new(Mode::Sotw, 1, servers, options, 1)).await;
    assert!(refused.contains("node: is longer than"), "{refused}");
}

#[tokio::test]
async fn who_sends_too_much_is_told_so() {
    let small = Options {
        max_request_bytes: 1000,
        ..Options::default()
    };
    let mesh = Mesh::bounded(Mode::Delta, 100, small).await;
    let long = Node {
        id: "me".to_owned(),
        cluster: "c".repeat(1000),
        ..Node::default()
    };
    let options = ClientOptions::new(long);
    let servers = connect_to(vec![mesh.address.clone()]);
    let refused = failure(DriverConfig::new(Mode::Sotw, 1, servers, options, 1)).await;
    assert!(refused.contains("1000 are allowed"), "{refused}");
    assert_eq!(mesh.counters.streams_refused.load(Ordering::Relaxed), 1);
}

/// Streams that have lasted end, one a second here; their client comes back on a new connection,
/// as it would to another replica, and is sent no resource again.
#[tokio::test]
async fn streams_that_have_lasted_end_and_cost_nothing() {
    for mode in [Mode::Delta, Mode::Sotw] {
        let aged = Options {
            max_connection_age: Some(Duration::from_millis(100)),
            ..Options::default()
        };
        let mut mesh = Mesh::bounded(mode, 100, aged).await;
        mesh.until(1).await;
        let (mut sent, mut in_step) = (0, 0);
        while in_step < 6 {
            let event = tokio::time::timeout(Duration::from_secs(20), mesh.events.recv()).await;
            match event.expect("in time").expect("it runs") {
                Event::Sent { resources, .. } => sent += resources,
                Event::InSync { .. } => in_step += 1,
                _ => {}
            }
        }
        assert_eq!(sent, 4, "two types of two, on the first of three streams");
        let ports = mesh.source.ports.lock().expect("no panic").clone();
        let distinct: std::collections::BTreeSet<_> = ports.iter().collect();
        assert!(
            ports.len() >= 3 && distinct.len() == ports.len(),
            "{ports:?}"
        );
        assert!(mesh.counters.streams_aged.load(Ordering::Relaxed) >= 2);
    }
}

/// A server that takes calls and never answers them.
struct Mute;

type Never<T> = tokio_stream::Pending<Result<T, Status>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Mute {
    type StreamAggregatedResourcesStream = Never<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Never<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        std::future::pending().await
    }

    async fn delta_aggregated_resources(
        &self,
        _: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_server_that_never_accepts_the_stream_is_left() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = format!("http://{}", listener.local_addr().expect("bound"));
    let mute = AggregatedDiscoveryServiceServer::new(Mute);
    let server = server_builder(None);
    tokio::spawn(server.serve_with_incoming(mute, TcpListenerStream::new(listener)));
    let config = DriverConfig {
        open_timeout: Duration::from_millis(200),
        ..stranger(&address)
    };
    let error = failure(config).await;
    assert!(
        error.contains("did not accept the stream in time"),
        "{error}"
    );
}
