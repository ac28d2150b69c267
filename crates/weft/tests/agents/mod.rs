//! A mesh on the secure port whose proxies are their own agents. Must never know what is asserted.
#![allow(dead_code)] // each test uses a part of it

use std::fmt::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use weft_testkit::{
    AdsMode, ConfigFolder, Connection, Control, Dataplane, Mesh, Node, OwnAgent, Peers, Program,
    SecurePort, Tokens, Upstream, eventually, free_port, get,
};

pub(crate) const WEFT: &str = env!("CARGO_BIN_EXE_weft");
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 24);
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Where the server's sidecar takes calls of the mesh.
pub(crate) const SERVICE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(SERVER), Mesh::PORT);
/// The server under a name at which every request has a connection of its own.
pub(crate) const FRESH: &str = "fresh.shop.svc.cluster.local";

/// A service whose callers must come by mutual TLS, and who of them may.
fn rules() -> String {
    let port = Mesh::PORT;
    let mut text = String::new();
    for (name, host, address) in [("reviews", Mesh::HOST, 10), ("fresh", FRESH, 11)] {
        let _ = write!(
            text,
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n  hosts: [{host}]\n  addresses: [10.96.0.{address}]\n  location: MESH_INTERNAL\n  resolution: STATIC\n  ports: [{{number: {port}, name: web, protocol: HTTP}}]\n  endpoints: [{{address: {SERVER}, labels: {{app: server}}, serviceAccount: server}}]\n---\n"
        );
    }
    text + &format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {{name: fresh, namespace: shop}}\nspec:\n  host: {FRESH}\n  trafficPolicy: {{connectionPool: {{http: {{maxRequestsPerConnection: 1}}}}}}\n---\n"
    ) + "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: shop, namespace: shop}\nspec: {mtls: {mode: STRICT}}\n---\n"
        + "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: allow, namespace: shop}\nspec:\n  selector: {matchLabels: {app: server}}\n  rules: [{from: [{source: {principals: [cluster.local/ns/shop/sa/front]}}]}]\n"
}

pub(crate) struct World {
    pub(crate) folder: ConfigFolder,
    pub(crate) control: Control,
    pub(crate) secure: SocketAddr,
    pub(crate) tokens: Tokens,
    app: Upstream,
}

impl World {
    /// `more` goes to the control plane's command line.
    pub(crate) async fn start(more: &[&str]) -> Self {
        let folder = ConfigFolder::new();
        folder.write("50-security.yaml", &rules());
        let secure = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let tokens = Tokens::new();
        let issuers = folder.write_beside("issuers.yaml", &tokens.file());
        let own = [
            format!("--token-issuers={}", issuers.display()),
            format!("--ca-dir={}", folder.path("ca").display()),
            format!("--secure-grpc-addr={secure}"),
        ];
        let flags: Vec<&str> = own
            .iter()
            .map(String::as_str)
            .chain(more.iter().copied())
            .collect();
        let control = Control::start_with(WEFT, &folder, None, &flags).await;
        Self {
            folder,
            control,
            secure,
            tokens,
            app: Upstream::start("v1").await,
        }
    }

    /// The file with the mesh's roots.
    pub(crate) fn roots(&self) -> PathBuf {
        self.folder.path("ca").join("root-cert.pem")
    }

    /// A command of the binary with the authority's folder; gives its output.
    pub(crate) fn weft(&self, arguments: &[&str]) -> String {
        let mut command = Command::new(WEFT);
        command
            .args(arguments)
            .arg("--ca-dir")
            .arg(self.folder.path("ca"));
        let output = command.output().expect("the binary is built with the test");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            text(&output.stderr)
        );
        text(&output.stdout).trim().to_owned()
    }

    pub(crate) fn token(&self, account: &str) -> String {
        self.weft(&["token", "create", "-n", "shop", "-s", account])
    }

    pub(crate) async fn server(&self, environment: &[(&str, &str)]) -> (Dataplane, SocketAddr) {
        let token = Some(self.token("server"));
        self.sidecar_of(token, "server", 24, true, environment)
            .await
    }

    /// The server's sidecar with more on its command line.
    pub(crate) async fn server_with(&self, more: &[&str]) -> (Dataplane, SocketAddr) {
        let token = Some(self.token("server"));
        let (mut proxy, port) = self.launch_with(token, ("server", 24, true), &[], more);
        proxy.wait_ready().await;
        (proxy, port)
    }

    /// Waits until the authority has refused a proxy for this reason, which both sides tell.
    pub(crate) async fn refusal(&self, proxy: &Dataplane, reason: &str) {
        let before = "weft_authentication_failures";
        eventually(reason, SOON, async || {
            let counted = self.control.metric(before).await;
            let (here, there) = (self.control.log(), proxy.log());
            let told = here.contains(reason) && there.contains(reason);
            // It may say so before its pages are there.
            let page = get(proxy.admin_address(), "/stats").await?.body;
            let name = "agent.num_refused_outgoing_requests: ";
            let mut lines = page.lines().filter_map(|line| line.strip_prefix(name));
            let refused = lines.next().is_some_and(|count| count != "0");
            let fine = counted > 0 && told && refused;
            fine.then_some(())
                .ok_or(format!("{counted} {told} {refused}"))
        })
        .await;
    }

    /// `host`: the last part of its address.
    pub(crate) async fn caller(
        &self,
        account: &str,
        host: u8,
        environment: &[(&str, &str)],
    ) -> (Dataplane, SocketAddr) {
        let token = Some(self.token(account));
        self.sidecar_of(token, account, host, false, environment)
            .await
    }

    /// A sidecar that is ready, and where its application finds it.
    pub(crate) async fn sidecar_of(
        &self,
        token: Option<String>,
        account: &str,
        host: u8,
        serves: bool,
        environment: &[(&str, &str)],
    ) -> (Dataplane, SocketAddr) {
        let (mut proxy, port) = self.launch(token, account, host, serves, environment);
        proxy.wait_ready().await;
        let types = ["CDS", "EDS", "LDS", "RDS"];
        self.control.wait_in_step(&proxy.id, &types).await;
        (proxy, port)
    }

    /// The same without waiting.
    pub(crate) fn launch(
        &self,
        token: Option<String>,
        account: &str,
        host: u8,
        serves: bool,
        environment: &[(&str, &str)],
    ) -> (Dataplane, SocketAddr) {
        self.launch_with(token, (account, host, serves), environment, &[])
    }

    fn launch_with(
        &self,
        token: Option<String>,
        (account, host, serves): (&str, u8, bool),
        environment: &[(&str, &str)],
        more: &[&str],
    ) -> (Dataplane, SocketAddr) {
        let app = serves.then(|| self.app.address().port());
        self.launch_before(token, (account, host, app), environment, more)
    }

    /// The sidecar of a workload whose application listens at a port of its own; it is ready.
    pub(crate) async fn sidecar_before(&self, account: &str, host: u8, app: u16) -> Dataplane {
        let token = Some(self.token(account));
        let (mut proxy, _) = self.launch_before(token, (account, host, Some(app)), &[], &[]);
        proxy.wait_ready().await;
        let types = ["CDS", "EDS", "LDS", "RDS"];
        self.control.wait_in_step(&proxy.id, &types).await;
        proxy
    }

    fn launch_before(
        &self,
        token: Option<String>,
        (account, host, app): (&str, u8, Option<u16>),
        environment: &[(&str, &str)],
        more: &[&str],
    ) -> (Dataplane, SocketAddr) {
        let port = free_port();
        let inbound: Vec<(u16, u16)> = app.iter().map(|app| (Mesh::PORT, *app)).collect();
        let node = Node::sidecar(account, Ipv4Addr::new(127, 0, 0, host), port, &inbound);
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let agent = OwnAgent {
            address: self.secure,
            roots: self.roots(),
            token,
            environment: environment.iter().map(own).collect(),
        };
        let proxy = Dataplane::launch_agent(WEFT, &node, &agent, &self.folder, more);
        (proxy, (Ipv4Addr::LOCALHOST, port).into())
    }

    /// An Envoy whose certificate the control plane makes.
    pub(crate) async fn envoy(
        &self,
        account: &str,
        host: u8,
        serves: bool,
    ) -> (Dataplane, SocketAddr) {
        let program = Program::Envoy(Peers::new().envoy());
        self.served(&program, account, host, serves).await
    }

    /// A proxy whose certificate the control plane makes.
    pub(crate) async fn served(
        &self,
        program: &Program,
        account: &str,
        host: u8,
        serves: bool,
    ) -> (Dataplane, SocketAddr) {
        let port = free_port();
        let app = [(Mesh::PORT, self.app.address().port())];
        let inbound: &[(u16, u16)] = if serves { &app } else { &[] };
        let node = Node::sidecar(account, Ipv4Addr::new(127, 0, 0, host), port, inbound);
        let secure = SecurePort {
            address: self.secure,
            roots: self.roots(),
            token: self.tokens.of("shop", account),
        };
        let mode = AdsMode::Delta;
        let proxy = Dataplane::start_secure(program, &node, mode, &secure, &self.folder).await;
        let types = ["CDS", "EDS", "LDS", "RDS", "SDS"];
        self.control.wait_in_step(&proxy.id, &types).await;
        (proxy, (Ipv4Addr::LOCALHOST, port).into())
    }

    /// A call over a connection between the proxies that is made for it.
    pub(crate) async fn fresh(&self, caller: SocketAddr) -> Result<u16, String> {
        to(&mut Connection::open(caller).await?, FRESH).await
    }
}

/// A call to a host.
pub(crate) async fn to(connection: &mut Connection, host: &str) -> Result<u16, String> {
    let host = format!("{host}:{}", Mesh::PORT);
    let answer = connection.get(&host, &format!("http://{host}/")).await?;
    Ok(answer.status)
}

/// A call over a connection of the application.
pub(crate) async fn through(connection: &mut Connection) -> Result<u16, String> {
    to(connection, Mesh::HOST).await
}

/// The same over a new one.
pub(crate) async fn call(caller: SocketAddr) -> Result<u16, String> {
    through(&mut Connection::open(caller).await?).await
}

pub(crate) async fn metric(proxy: &Dataplane, name: &str) -> u64 {
    proxy.stats().await.get(name)
}

/// Connections to the server that a caller's sidecar has closed or lost.
pub(crate) async fn lasting(front: &Dataplane) -> u64 {
    // Envoy cuts names of statistics at the semicolon.
    let cluster = format!("cluster.outbound|{}||{};", Mesh::PORT, Mesh::HOST);
    let made = metric(front, &format!("{cluster}.upstream_cx_total")).await;
    assert!(made > 0, "{cluster} has no connections");
    metric(front, &format!("{cluster}.upstream_cx_destroy")).await
}
