//! Real Envoys as sidecars of a service and of its caller, with certificates from files: mutual TLS
//! in each mode, and policies by path and by who calls.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use weft_testkit::{
    AdsMode, ConfigFolder, Connection, Control, Dataplane, Identities, Mesh, Node, Peers, Program,
    Upstream, eventually, free_port, get, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 21);
const SOON: Duration = Duration::from_secs(20);
const RULES: &str = "50-security.yaml";
/// The clusters that a proxy works with, at its admin address.
const CLUSTERS: &str = "/config_dump?resource=dynamic_active_clusters";

/// A service, the sidecar before it, and the sidecars of two callers.
struct World {
    folder: ConfigFolder,
    server: Dataplane,
    front: SocketAddr,
    back: SocketAddr,
    callers: [Dataplane; 2],
    /// Kept alive.
    _control: Control,
    _app: Upstream,
}

fn service() -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: reviews, namespace: shop}}\nspec:\n  hosts: [{}]\n  addresses: [10.96.0.10]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: {}, name: web, protocol: HTTP}}]\n  endpoints: [{{address: {SERVER}, labels: {{app: server}}, serviceAccount: server}}]\n",
        Mesh::HOST,
        Mesh::PORT,
    )
}

async fn world() -> World {
    let folder = ConfigFolder::new();
    folder.write(Mesh::SERVICE_FILE, &service());
    let control = Control::start(WEFT, &folder, None).await;
    let envoy = Program::Envoy(Peers::new().envoy());
    let identities = Identities::new(&folder);
    let app = Upstream::start("v1").await;
    let start = async |name: &str, ip: Ipv4Addr, inbound: &[(u16, u16)]| {
        let proxy_port = free_port();
        let mut node = Node::sidecar(name, ip, proxy_port, inbound);
        identities.issue(&folder, name).announce(&mut node.metadata);
        let proxy = Dataplane::start(&envoy, &node, AdsMode::Delta, control.grpc(), &folder).await;
        control
            .wait_in_step(&proxy.id, &["CDS", "EDS", "LDS", "RDS"])
            .await;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, proxy_port));
        (proxy, address)
    };
    let (server, _) = start("server", SERVER, &[(Mesh::PORT, app.address().port())]).await;
    let (one, front) = start("front", Ipv4Addr::new(127, 0, 0, 22), &[]).await;
    let (other, back) = start("back", Ipv4Addr::new(127, 0, 0, 23), &[]).await;
    World {
        folder,
        server,
        front,
        back,
        callers: [one, other],
        _control: control,
        _app: app,
    }
}

/// What came back: a status, or that the connection was refused.
type Seen = Option<u16>;

async fn plain(path: &str) -> Seen {
    let answer = get((SERVER, Mesh::PORT).into(), path).await;
    answer.ok().map(|answer| answer.status)
}

/// Through a caller's sidecar.
async fn through(caller: SocketAddr, path: &str) -> Seen {
    let host = format!("{}:{}", Mesh::HOST, Mesh::PORT);
    let mut connection = Connection::open(caller).await.ok()?;
    let answer = connection.get(&host, &format!("http://{host}{path}")).await;
    answer.ok().map(|answer| answer.status)
}

async fn becomes(what: &str, seen: impl AsyncFn() -> Seen, wanted: Seen) {
    eventually(what, SOON, async || {
        let seen = seen().await;
        (seen == wanted)
            .then_some(())
            .ok_or_else(|| format!("{seen:?}"))
    })
    .await;
}

impl World {
    fn rules(&self, text: &str) {
        self.folder.write(RULES, text);
    }

    /// How many connections came by mutual TLS.
    async fn handshakes(&self) -> u64 {
        let stats = self.server.stats().await;
        stats.ending(".ssl.handshake").values().sum()
    }
}

fn peer(mode: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {{name: shop, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n---\n"
    )
}

fn policy(name: &str, spec: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  selector: {{matchLabels: {{app: server}}}}\n{spec}\n---\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mutual_tls_is_optional_demanded_or_absent() {
    let _turn = one_at_a_time();
    let world = world().await;
    let front = world.front;
    becomes("both are served at first", || plain("/"), Some(200)).await;
    becomes("by mutual TLS", || through(front, "/"), Some(200)).await;
    let before = world.handshakes().await;
    assert!(
        before > 0,
        "the caller's sidecar chose mutual TLS by itself"
    );

    world.rules(&peer("STRICT"));
    becomes("plain text is refused", || plain("/"), None).await;
    becomes("mutual TLS goes on", || through(front, "/"), Some(200)).await;

    world.rules(&peer("PERMISSIVE"));
    becomes("plain text is served again", || plain("/"), Some(200)).await;

    world.rules(&peer("DISABLE"));
    eventually("callers have no TLS to speak", SOON, async || {
        let [front, back] = &world.callers;
        let clusters = front.admin(CLUSTERS).await + &back.admin(CLUSTERS).await;
        let plain = clusters.contains(Mesh::HOST) && !clusters.contains("UpstreamTlsContext");
        plain.then_some(()).ok_or(clusters)
    })
    .await;
    becomes("callers use plain text", || through(front, "/"), Some(200)).await;
    becomes("as others do", || plain("/"), Some(200)).await;
    let settled = world.handshakes().await;
    assert_eq!(through(front, "/").await, Some(200));
    assert_eq!(world.handshakes().await, settled, "nobody uses TLS now");
    world.server.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn policies_tell_callers_and_paths_apart() {
    let _turn = one_at_a_time();
    let world = world().await;
    let (front, back) = (world.front, world.back);
    let allow = policy(
        "allow",
        "  rules:\n  - from: [{source: {principals: [cluster.local/ns/shop/sa/front]}}]\n    to: [{operation: {paths: [/shop*]}}]\n  - to: [{operation: {paths: ['/open/{*}']}}]",
    );
    world.rules(&(peer("PERMISSIVE") + &allow));
    becomes("no caller without a name", || plain("/shop"), Some(403)).await;
    becomes("the right caller", || through(front, "/shop"), Some(200)).await;
    assert_eq!(through(front, "/other").await, Some(403), "another path");
    assert_eq!(through(back, "/shop").await, Some(403), "another caller");
    assert_eq!(through(back, "/open/x").await, Some(200), "a template");
    assert_eq!(plain("/open/x").await, Some(200), "for everybody");

    let deny = policy(
        "deny",
        "  action: DENY\n  rules: [{to: [{operation: {paths: [/shop/secret]}}]}]",
    );
    world.rules(&(peer("PERMISSIVE") + &allow + &deny));
    let secret = || through(front, "/shop/secret");
    becomes("what is denied is denied to all", secret, Some(403)).await;
    assert_eq!(through(front, "/shop").await, Some(200));
    world.server.assert_nothing_refused().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strict_without_a_certificate_refuses_and_says_why() {
    let _turn = one_at_a_time();
    let folder = ConfigFolder::new();
    folder.write(Mesh::SERVICE_FILE, &service());
    let control = Control::start(WEFT, &folder, None).await;
    let envoy = Program::Envoy(Peers::new().envoy());
    let app = Upstream::start("v1").await;
    let inbound = [(Mesh::PORT, app.address().port())];
    let node = Node::sidecar("server", SERVER, free_port(), &inbound);
    let proxy = Dataplane::start(&envoy, &node, AdsMode::Delta, control.grpc(), &folder).await;
    becomes("plain text goes on", || plain("/"), Some(200)).await;
    folder.write(RULES, &peer("STRICT"));
    becomes("it is refused", || plain("/"), None).await;
    let status = control.json("/debug/status").await.to_string();
    assert!(
        status.contains("mutual TLS is STRICT") && status.contains("TLS_SERVER_KEY"),
        "{status}"
    );
    proxy.assert_nothing_refused().await;
}
