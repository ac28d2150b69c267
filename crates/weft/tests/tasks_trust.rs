//! Istio's task pages about a whole mesh: migration of its trust domain, and mutual TLS for all of it.
//! Through real Envoys and through our own proxies; the table of all pages is in `tasks_traffic`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use weft_testkit::{
    AdsMode, App, ConfigFolder, Connection, Control, Dataplane, Identities, Node, Peers, Program,
    eventually, free_port, local, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const SOON: Duration = Duration::from_secs(20);
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 3, 21);
const PORT: u16 = 8000;
const HOST: &str = "httpbin.shop.svc.cluster.local:8000";

/// The policy names the caller as he was called in the old trust domain.
const RULES: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: httpbin, namespace: shop}
spec:
  hosts: [httpbin.shop.svc.cluster.local]
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{number: 8000, name: http, protocol: HTTP}]
  endpoints: [{address: 127.0.3.21, labels: {app: server}, serviceAccount: server}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: httpbin, namespace: shop}
spec:
  selector: {matchLabels: {app: server}}
  rules:
  - from: [{source: {principals: [old-td/ns/shop/sa/friend]}}]
    to: [{operation: {methods: [GET]}}]
";
const STRICT: &str = "apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: istio-system}
spec: {mtls: {mode: STRICT}}
";

/// A mesh whose workloads have certificates of some trust domains.
struct Mesh {
    folder: ConfigFolder,
    callers: [u16; 2],
    /// Kept alive.
    proxies: Vec<Dataplane>,
    _control: Control,
    _app: App,
}

impl Mesh {
    /// `domains` are those of the server's certificate and of those of its two callers.
    async fn start(program: &Program, settings: &str, domains: [&str; 3]) -> Self {
        let folder = ConfigFolder::new();
        folder.write("10-rules.yaml", RULES);
        let settings = folder.write_beside("mesh.yaml", settings);
        let control = Control::start(WEFT, &folder, Some(&settings)).await;
        let identities = Identities::new(&folder);
        let app = App::start("httpbin").await;
        let callers = [free_port(), free_port()];
        let [of_server, of_friend, of_other] = domains;
        let ip = |last| Ipv4Addr::new(127, 0, 3, last);
        let inbound = [(PORT, app.port())];
        let nodes = [
            (
                of_server,
                "server",
                Node::sidecar("server", SERVER, free_port(), &inbound),
            ),
            (
                of_friend,
                "friend",
                Node::sidecar("friend", ip(22), callers[0], &[]),
            ),
            (
                of_other,
                "other",
                Node::sidecar("other", ip(23), callers[1], &[]),
            ),
        ];
        let mut proxies = Vec::new();
        for (domain, account, mut node) in nodes {
            let files = identities.issue_of(&folder, domain, "shop", account);
            files.announce(&mut node.metadata);
            let xds = control.grpc();
            let proxy = Dataplane::start(program, &node, AdsMode::Delta, xds, &folder).await;
            let types = ["CDS", "EDS", "LDS", "RDS"];
            control.wait_in_step(&proxy.id, &types).await;
            proxies.push(proxy);
        }
        Self {
            folder,
            callers,
            proxies,
            _control: control,
            _app: app,
        }
    }

    /// Statuses of calls of the friend and of the other one; 0 without an answer.
    async fn statuses(&self) -> [u16; 2] {
        let call = async |port: u16| {
            let called = async {
                let mut connection = Connection::open(local(port)).await?;
                connection.get(HOST, &format!("http://{HOST}/ip")).await
            };
            called.await.map_or(0, |answer| answer.status)
        };
        let [friend, other] = self.callers;
        [call(friend).await, call(other).await]
    }

    /// Status of a call of a program without a sidecar; 0 without an answer.
    async fn plain(&self) -> u16 {
        let called = async {
            let address = SocketAddr::from((SERVER, PORT));
            Connection::open(address).await?.get(HOST, "/ip").await
        };
        called.await.map_or(0, |answer| answer.status)
    }

    async fn answers(&self, what: &str, wanted: [u16; 2]) {
        eventually(what, SOON, async || {
            let seen = self.statuses().await;
            (seen == wanted).then_some(()).ok_or(format!("{seen:?}"))
        })
        .await;
        for proxy in &self.proxies {
            proxy.assert_nothing_refused().await;
        }
    }
}

async fn the_trust_domain_moves(program: &Program) {
    let _turn = one_at_a_time();
    let (old, new) = ("old-td", "new-td");
    let mesh = Mesh::start(program, "trustDomain: old-td\n", [old; 3]).await;
    mesh.answers("before", [200, 403]).await;
    drop(mesh);
    let mesh = Mesh::start(program, "trustDomain: new-td\n", [new; 3]).await;
    mesh.answers("the policy knows nobody of the new domain", [403, 403])
        .await;
    drop(mesh);
    // Workloads get their new certificates one after the other.
    let settings = "trustDomain: new-td\ntrustDomainAliases: [old-td]\n";
    let mesh = Mesh::start(program, settings, [new, new, old]).await;
    mesh.answers("with an alias", [200, 403]).await;
    drop(mesh);
    let mesh = Mesh::start(program, settings, [old, old, new]).await;
    mesh.answers("with an alias, the other way round", [200, 403])
        .await;

    // As the page about mutual TLS ends: for the whole mesh.
    assert_eq!(mesh.plain().await, 403, "no name in plain text");
    mesh.folder.write("20-strict.yaml", STRICT);
    eventually("no plain text in the mesh", SOON, async || {
        let status = mesh.plain().await;
        (status == 0).then_some(()).ok_or(status.to_string())
    })
    .await;
    mesh.answers("mutual TLS goes on", [200, 403]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trust_domain_moves_through_envoy() {
    the_trust_domain_moves(&Program::Envoy(Peers::new().envoy())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_trust_domain_moves_through_weft() {
    the_trust_domain_moves(&Program::Weft(WEFT.into())).await;
}
