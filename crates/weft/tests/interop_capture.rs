//! Sidecars as in a Pod: a real Envoy, and our own proxy, in network namespaces whose traffic is
//! redirected to them, between applications that know nothing of a mesh. Plain calls to virtual
//! addresses, mutual TLS between the sidecars, TCP, and destinations that nobody knows.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use weft_testkit::{
    AdsMode, App, Certificate, ConfigFolder, Connection, Control, Dataplane, Echo, Identities,
    Namespace, Node, Peers, Program, eventually, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const SOON: Duration = Duration::from_secs(20);
/// The Pods.
const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Virtual addresses of the services.
const REVIEWS: SocketAddr = at(Ipv4Addr::new(10, 96, 0, 10), 9080);
const BYTES: SocketAddr = at(Ipv4Addr::new(10, 96, 0, 11), 9000);
/// A machine outside of the mesh, beyond the client's cable.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
const HOST: &str = "reviews.shop.svc.cluster.local:9080";
/// A host outside that the mesh knows, and its virtual address.
const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 12);
const KNOWN: &str = "known.example.org";
const RULES: &str = "50-rules.yaml";

const fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(ip), port)
}

const SERVICES: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local]
  addresses: [10.96.0.10]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9080, name: http, protocol: HTTP}]
  endpoints: [{address: 10.77.0.2, labels: {app: server}, serviceAccount: server}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: bytes, namespace: shop}
spec:
  hosts: [bytes.shop.svc.cluster.local]
  addresses: [10.96.0.11]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 9000, name: tcp, protocol: TCP}]
  endpoints: [{address: 10.77.0.2, labels: {app: server}, serviceAccount: server}]
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: known, namespace: shop}
spec:
  hosts: [known.example.org]
  addresses: [10.96.0.12]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}, {number: 443, name: tls, protocol: TLS}]
  endpoints: [{address: 10.88.0.1}]
";

const STRICT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: strict, namespace: shop}
spec: {mtls: {mode: STRICT}}
";

/// Opens the ports of the services.
const PORTS: &str = "---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: ports, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  rules: [{to: [{operation: {ports: ['9000', '9080']}}]}]
";

/// Where the egress gateway listens, on the machine of the server.
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 89, 0, 1);
/// TLS to a host outside goes through the egress gateway, which passes it on.
const EGRESS: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: egress, namespace: shop}
spec:
  hosts: [egress.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8443, name: tls, protocol: TLS}]
  endpoints: [{address: 10.89.0.1}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: egress, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - bind: 10.89.0.1
    port: {number: 8443, name: tls, protocol: TLS}
    hosts: [known.example.org]
    tls: {mode: PASSTHROUGH}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: egress, namespace: shop}
spec:
  hosts: [known.example.org]
  gateways: [mesh, egress]
  tls:
  - match: [{gateways: [mesh], port: 443, sniHosts: [known.example.org]}]
    route: [{destination: {host: egress.shop.svc.cluster.local, port: {number: 8443}}}]
  - match: [{gateways: [egress], port: 8443, sniHosts: [known.example.org]}]
    route: [{destination: {host: known.example.org, port: {number: 443}}}]
";

const REGISTRY_ONLY: &str = "---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: ['*/*']}]
";

/// The Pods of a client and of a server, each with its sidecar.
struct Pods {
    folder: ConfigFolder,
    client: Namespace,
    server: Namespace,
    control: Control,
    sidecars: [Dataplane; 2],
    reviews: App,
    certificate: Certificate,
    /// Kept alive.
    _outside: [App; 2],
    _bytes: [Echo; 3],
}

async fn proxy(
    program: &Program,
    namespace: &mut Namespace,
    node: &Node,
    control: &Control,
    folder: &ConfigFolder,
) -> Dataplane {
    let xds = control.grpc();
    let launch = || Dataplane::launch(program, node, AdsMode::Delta, xds, folder, &[]);
    let mut proxy = namespace.enter_as_proxy(launch);
    namespace.relay_out(proxy.admin_address()).await;
    proxy.wait_ready().await;
    control
        .wait_in_step(&proxy.id, &["CDS", "EDS", "LDS"])
        .await;
    proxy
}

impl Pods {
    async fn start(program: &Program) -> Self {
        let (mut client, mut server) = (Namespace::new(), Namespace::new());
        client.connect_to(CLIENT, &server, SERVER);
        // The outside lies behind the server's machine, where nothing captures it.
        server.add_address(OUTSIDE);
        client.capture(CLIENT);
        server.capture(SERVER);
        let folder = ConfigFolder::new();
        folder.write("10-services.yaml", SERVICES);
        let control = Control::start(WEFT, &folder, None).await;
        for namespace in [&mut client, &mut server] {
            namespace.relay_in(control.grpc());
        }
        let identities = Identities::new(&folder);
        let node = |name, ip| {
            let mut node = Node::captured_sidecar(name, ip);
            identities.issue(&folder, name).announce(&mut node.metadata);
            node
        };
        let (one, other) = (node("client", CLIENT), node("server", SERVER));
        let reviews = App::listening("reviews", server.listen(at(SERVER, 9080)));
        let certificate = Certificate::of(KNOWN);
        let secure = server.listen(at(OUTSIDE, 443));
        let outside = [
            App::listening("outside", server.listen(at(OUTSIDE, 80))),
            App::listening_tls("secure", secure, &certificate),
        ];
        let bytes = [at(SERVER, 9000), at(SERVER, 9002), at(OUTSIDE, 7000)];
        let bytes = bytes.map(|address| Echo::listening("hello", server.listen(address)));
        let sidecars = tokio::join!(
            proxy(program, &mut client, &one, &control, &folder),
            proxy(program, &mut server, &other, &control, &folder)
        );
        Self {
            folder,
            client,
            server,
            control,
            sidecars: sidecars.into(),
            reviews,
            certificate,
            _outside: outside,
            _bytes: bytes,
        }
    }

    /// Status and body of a GET of a program in the client's Pod.
    async fn get(&self, address: SocketAddr, host: &str) -> (u16, String) {
        let called = async {
            let stream = self.client.connect(address).await?;
            Connection::on(stream).await?.get(host, "/").await
        };
        match called.await {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (0, error),
        }
    }

    /// What a TCP server says to a line of a program in the client's Pod; empty if it hangs up.
    async fn say(&self, address: SocketAddr) -> String {
        let Ok(stream) = self.client.connect(address).await else {
            return String::new();
        };
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        let said = async {
            stream.write_all(b"world\n").await?;
            stream.read_line(&mut line).await
        };
        let said = tokio::time::timeout(SOON, said).await;
        assert!(said.is_ok(), "{address} says nothing and does not hang up");
        line
    }

    /// Body of an answer over TLS of the known host, called at port 443 of this address.
    async fn secure(&self, ip: Ipv4Addr) -> Result<String, String> {
        let stream = self.client.connect(at(ip, 443)).await?;
        let mut connection = Connection::on_tls(stream, KNOWN, &self.certificate).await?;
        Ok(connection.get(KNOWN, "/").await?.body)
    }

    async fn gets(&self, what: &str, address: SocketAddr, host: &str, wanted: (u16, &str)) {
        eventually(what, SOON, async || {
            let seen = self.get(address, host).await;
            let fine = (seen.0, &*seen.1) == wanted;
            fine.then_some(()).ok_or_else(|| format!("{seen:?}"))
        })
        .await;
    }

    async fn says(&self, what: &str, address: SocketAddr, wanted: &str) {
        eventually(what, SOON, async || {
            let said = self.say(address).await;
            (said == wanted).then_some(()).ok_or(said)
        })
        .await;
    }
}

async fn traffic_is_captured(program: &Program) {
    let _turn = one_at_a_time();
    let pods = Pods::start(program).await;
    pods.gets("a virtual address", REVIEWS, HOST, (200, "reviews"))
        .await;
    let seen = pods.reviews.seen();
    let last = seen.last().expect("it was called");
    assert_eq!(last.header("host"), HOST);
    assert!(!last.header("x-request-id").is_empty(), "{last:?}");
    let caller = "URI=spiffe://cluster.local/ns/shop/sa/client";
    let names = last.header("x-forwarded-client-cert");
    assert!(names.contains(caller), "no mutual TLS: {names}");
    pods.says("TCP by its virtual address", BYTES, "hello world\n")
        .await;

    // Who has no sidecar is served in plain text, until that is forbidden.
    let plain = at(SERVER, 9080);
    let from_outside = async || {
        let called = async {
            let stream = pods.client.connect_uncaptured(plain).await?;
            Connection::on(stream).await?.get(HOST, "/").await
        };
        called.await.map_or(0, |answer| answer.status)
    };
    assert_eq!(from_outside().await, 200);
    assert_eq!(
        pods.say(at(SERVER, 9002)).await,
        "hello world\n",
        "no service's port"
    );
    pods.folder.write(RULES, STRICT);
    eventually("plain text is refused", SOON, async || {
        let status = from_outside().await;
        (status == 0)
            .then_some(())
            .ok_or_else(|| status.to_string())
    })
    .await;
    pods.gets("mutual TLS goes on", REVIEWS, HOST, (200, "reviews"))
        .await;
    pods.says("of bytes, too", BYTES, "hello world\n").await;

    // As the page about TCP has it: a port that no service has is under policies, too.
    pods.folder.write(RULES, PORTS);
    pods.says("a port that is not allowed", at(SERVER, 9002), "")
        .await;
    pods.says("one that is", BYTES, "hello world\n").await;
    pods.folder.write(RULES, STRICT);

    let (web, tcp) = (at(OUTSIDE, 80), at(OUTSIDE, 7000));
    pods.gets(
        "an unknown host",
        web,
        "unknown.example.org",
        (200, "outside"),
    )
    .await;
    assert_eq!(pods.say(tcp).await, "hello world\n", "an unknown port");
    pods.folder
        .write(RULES, &(STRICT.to_owned() + REGISTRY_ONLY));
    pods.gets(
        "an unknown host is blocked",
        web,
        "unknown.example.org",
        (502, ""),
    )
    .await;
    pods.says("unknown bytes are blocked", tcp, "").await;
    pods.gets("a known host", web, "known.example.org", (200, "outside"))
        .await;
    assert_eq!(pods.secure(VIRTUAL).await.as_deref(), Ok("secure"));
    let direct = pods.secure(OUTSIDE).await;
    assert!(direct.is_err(), "TLS to an unknown address: {direct:?}");
    pods.gets("a service", REVIEWS, HOST, (200, "reviews"))
        .await;
    for sidecar in &pods.sidecars {
        sidecar.assert_nothing_refused().await;
    }
}

/// The server's application is behind another port of its own machine, and may be so as bytes; the
/// client has sockets for one service, for all that it may call by name, and for bytes.
const LISTENERS: &str = "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: server, namespace: shop}
spec:
  workloadSelector: {labels: {app: server}}
  ingress:
  - {port: {number: 9080, protocol: HTTP}, defaultEndpoint: '127.0.0.1:8081'}
  - {port: {number: 9000, protocol: TCP}}
  - {port: {number: 9010, protocol: HTTP}, bind: 10.77.0.2, captureMode: NONE, defaultEndpoint: '127.0.0.1:8081'}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client, namespace: shop}
spec:
  workloadSelector: {labels: {app: client}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress:
  - {port: {number: 9080, protocol: HTTP}, captureMode: NONE, hosts: [./reviews.shop.svc.cluster.local]}
  - {port: {number: 9000, protocol: TCP}, bind: 127.0.0.7, captureMode: NONE, hosts: [./bytes.shop.svc.cluster.local]}
  - {port: {number: 3128, protocol: HTTP_PROXY}, captureMode: NONE, hosts: [./reviews.shop.svc.cluster.local]}
  - {hosts: [./known.example.org]}
";

async fn listeners_of_sidecars(program: &Program) {
    let _turn = one_at_a_time();
    let pods = Pods::start(program).await;
    let loopback = |port| at(Ipv4Addr::LOCALHOST, port);
    let inside = App::listening("inside", pods.server.listen(loopback(8081)));
    let (web, all) = (loopback(9080), loopback(3128));
    let bytes = at(Ipv4Addr::new(127, 0, 0, 7), 9000);
    pods.gets("no ingress listener", REVIEWS, HOST, (200, "reviews"))
        .await;
    assert_eq!(pods.get(web, HOST).await.0, 0, "no egress listener");
    pods.folder.write(RULES, LISTENERS);
    // A socket leads to its hosts, and these to the application's own place.
    pods.gets("a listener's socket", web, HOST, (200, "inside"))
        .await;
    pods.gets("a generic proxy", all, HOST, (200, "inside"))
        .await;
    pods.says("bytes by a socket", bytes, "hello world\n").await;
    let seen = inside.seen();
    let last = seen.last().expect("it was called");
    let names = last.header("x-forwarded-client-cert");
    assert!(
        names.contains("ns/shop/sa/client"),
        "no mutual TLS: {names}"
    );
    for socket in [web, all] {
        let seen = pods.get(socket, KNOWN).await;
        assert_eq!(seen, (502, String::new()), "not one of its hosts");
    }
    // Unknown hosts may pass, but nobody knows where to, and back to the socket they must not go.
    let allowed = LISTENERS.replace("REGISTRY_ONLY", "ALLOW_ANY");
    pods.folder.write(RULES, &allowed);
    eventually("nowhere to pass on to", SOON, async || {
        let (status, _) = pods.get(web, KNOWN).await;
        (status == 503).then_some(()).ok_or(status.to_string())
    })
    .await;
    pods.folder.write(RULES, LISTENERS);
    // By the last listener the hosts of others are unknown, and its own is called as before.
    pods.gets("a captured call", at(VIRTUAL, 80), KNOWN, (200, "outside"))
        .await;
    pods.says("a port that is somebody's socket", BYTES, "")
        .await;
    // The socket stands behind what captures, as the application would.
    let plain = async {
        let stream = pods.client.connect_uncaptured(at(SERVER, 9010)).await?;
        Connection::on(stream).await?.get(HOST, "/").await
    };
    let plain = plain.await.map(|answer| (answer.status, answer.body));
    assert_eq!(plain, Ok((200, "inside".to_owned())));
    for sidecar in &pods.sidecars {
        sidecar.assert_nothing_refused().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_has_the_listeners_of_sidecars() {
    listeners_of_sidecars(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_has_the_listeners_of_sidecars() {
    listeners_of_sidecars(&Program::Weft(WEFT.into())).await;
}

async fn tls_leaves_through_the_egress_gateway(program: &Program) {
    let _turn = one_at_a_time();
    let mut pods = Pods::start(program).await;
    assert_eq!(pods.secure(VIRTUAL).await.as_deref(), Ok("secure"));
    pods.server.add_address(GATEWAY);
    pods.folder.write(RULES, EGRESS);
    let node = Node::gateway("egress");
    let (control, folder) = (&pods.control, &pods.folder);
    let gateway = proxy(program, &mut pods.server, &node, control, folder).await;
    eventually("TLS comes through the gateway", SOON, async || {
        let body = pods.secure(VIRTUAL).await?;
        assert_eq!(body, "secure");
        let stats = gateway.stats().await;
        let passed = stats.get("listener.10.89.0.1_8443.downstream_cx_total");
        (passed > 0).then_some(()).ok_or("directly".to_owned())
    })
    .await;
    gateway.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_passes_tls_through_the_egress_gateway() {
    tls_leaves_through_the_egress_gateway(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_passes_tls_through_the_egress_gateway() {
    tls_leaves_through_the_egress_gateway(&Program::Weft(WEFT.into())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoy_captures_the_traffic_of_a_pod() {
    traffic_is_captured(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weft_captures_the_traffic_of_a_pod() {
    traffic_is_captured(&Program::Weft(WEFT.into())).await;
}
