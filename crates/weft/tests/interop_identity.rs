//! Unmodified Envoys and Weft proxies without an agent on the control plane's secure port: they prove who they are
//! with a token, get certificates over SDS, and speak mutual TLS with each other.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;
use weft_testkit::{
    AdsMode, ConfigFolder, Connection, Control, Dataplane, Mesh, Node, Peers, Program, SecurePort,
    Tokens, Upstream, eventually, free_port, get, one_at_a_time,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 24);
const SOON: Duration = Duration::from_secs(20);
const RULES: &str = "50-security.yaml";
/// Lifetime of certificates, so that a renewal falls into the test.
const LIFETIME: &str = "20s";
const WATCHED: Duration = Duration::from_secs(14);

/// A service whose callers must come by mutual TLS, and who of them may.
fn rules() -> String {
    let service = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: reviews, namespace: shop}}\nspec:\n  hosts: [{}]\n  addresses: [10.96.0.10]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: {}, name: web, protocol: HTTP}}]\n  endpoints: [{{address: {SERVER}, labels: {{app: server}}, serviceAccount: server}}]\n---\n",
        Mesh::HOST,
        Mesh::PORT,
    );
    service
        + "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: shop, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n---\n"
        + "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: allow, namespace: shop}\nspec:\n  selector: {matchLabels: {app: server}}\n  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/front]}}]}]\n"
}

struct World {
    folder: ConfigFolder,
    control: Control,
    tokens: Tokens,
    secure: SocketAddr,
    app: Upstream,
}

impl World {
    async fn start() -> Self {
        let folder = ConfigFolder::new();
        folder.write(RULES, &rules());
        let tokens = Tokens::new();
        let issuers = folder.write_beside("issuers.yaml", &tokens.file());
        let secure = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let flags = [
            format!("--ca-dir={}", folder.path("ca").display()),
            format!("--secure-grpc-addr={secure}"),
            format!("--token-issuers={}", issuers.display()),
            format!("--workload-cert-ttl={LIFETIME}"),
        ];
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let control = Control::start_with(WEFT, &folder, None, &flags).await;
        Self {
            folder,
            control,
            tokens,
            secure,
            app: Upstream::start("v1").await,
        }
    }

    /// A sidecar of a service account, and where its application finds it.
    async fn sidecar(
        &self,
        program: &Program,
        account: &str,
        ip: Ipv4Addr,
        inbound: &[(u16, u16)],
    ) -> (Dataplane, SocketAddr) {
        let proxy_port = free_port();
        let node = Node::sidecar(account, ip, proxy_port, inbound);
        let port = SecurePort {
            address: self.secure,
            roots: self.folder.path("ca").join("root-cert.pem"),
            token: self.tokens.of("shop", account),
        };
        let mode = AdsMode::Delta;
        let proxy = Dataplane::start_secure(program, &node, mode, &port, &self.folder).await;
        let types = ["CDS", "EDS", "LDS", "RDS", "SDS"];
        self.control.wait_in_step(&proxy.id, &types).await;
        (proxy, (Ipv4Addr::LOCALHOST, proxy_port).into())
    }
}

async fn through(connection: &mut Connection) -> Result<u16, String> {
    let host = format!("{}:{}", Mesh::HOST, Mesh::PORT);
    let answer = connection.get(&host, &format!("http://{host}/")).await?;
    Ok(answer.status)
}

async fn call(caller: SocketAddr) -> Result<u16, String> {
    through(&mut Connection::open(caller).await?).await
}

/// Serial numbers of the certificates that a proxy uses.
async fn serials(proxy: &Dataplane) -> Vec<String> {
    let page: Value = serde_json::from_str(&proxy.admin("/certs").await).expect("JSON");
    let all = page["certificates"].as_array().expect("a list").iter();
    let chains = all.flat_map(|entry| entry["cert_chain"].as_array().into_iter().flatten());
    let serials = chains.filter_map(|one| one["serial_number"].as_str().map(str::to_owned));
    serials.collect()
}

/// A server's sidecar and a caller's: plain text is refused, the right caller is served, and while
/// certificates are renewed no connection closes.
async fn speak(server: &Program, caller: &Program) {
    let world = World::start().await;
    let inbound = [(Mesh::PORT, world.app.address().port())];
    let (server, _) = world.sidecar(server, "server", SERVER, &inbound).await;
    let front = Ipv4Addr::new(127, 0, 0, 25);
    let (front, front_port) = world.sidecar(caller, "front", front, &[]).await;
    let back = Ipv4Addr::new(127, 0, 0, 26);
    let (_back, other) = world.sidecar(caller, "back", back, &[]).await;
    eventually("the caller is served", SOON, async || {
        let seen = call(front_port).await;
        (seen == Ok(200)).then_some(()).ok_or(format!("{seen:?}"))
    })
    .await;
    eventually("another account is refused", SOON, async || {
        let seen = call(other).await;
        (seen == Ok(403)).then_some(()).ok_or(format!("{seen:?}"))
    })
    .await;
    let plain = get((SERVER, Mesh::PORT).into(), "/").await;
    assert!(plain.is_err(), "STRICT refuses plain text: {plain:?}");

    let before = serials(&server).await;
    assert!(!before.is_empty());
    let mut lasting = Connection::open(front_port).await.expect("connected");
    let began = Instant::now();
    let mut calls = 0;
    while began.elapsed() < WATCHED {
        let seen = (through(&mut lasting).await, call(front_port).await);
        assert_eq!(seen, (Ok(200), Ok(200)), "after {:?}", began.elapsed());
        calls += 2;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(calls > 50, "{calls}");
    let after = serials(&server).await;
    assert!(
        after.iter().all(|serial| !before.contains(serial)),
        "renewed: {before:?}, {after:?}"
    );
    let issued = world.control.metric("weft_ca_workload_certificates").await;
    assert!(
        issued >= 6,
        "three accounts, renewed once at least: {issued}"
    );
    server.assert_nothing_refused().await;
    front.assert_nothing_refused().await;
    for proxy in [&server, &front] {
        let page = format!("/debug/config_dump?proxyID={}", proxy.id);
        let dump = world.control.json(&page).await.to_string();
        assert!(!dump.contains("PRIVATE KEY"), "{}", proxy.id);
    }
    assert!(!world.control.log().contains("PRIVATE KEY"));
}

fn envoy() -> Program {
    Program::Envoy(Peers::new().envoy())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_without_an_agent_speak_mutual_tls_and_never_notice_a_renewal() {
    let _turn = one_at_a_time();
    speak(&envoy(), &envoy()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_envoy_calls_a_weft_proxy_of_its_mesh() {
    let _turn = one_at_a_time();
    speak(&Program::Weft(WEFT.into()), &envoy()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_weft_proxy_calls_an_envoy_of_its_mesh() {
    let _turn = one_at_a_time();
    speak(&envoy(), &Program::Weft(WEFT.into())).await;
}
