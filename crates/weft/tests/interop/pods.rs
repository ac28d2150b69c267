//! The Pods of a client and of a server in network namespaces, each with its sidecar, and machines
//! outside of the mesh. Must never know the rules.
#![allow(dead_code)] // each program of tests uses a part of it

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use weft_testkit::{
    AdsMode, App, Certificate, ConfigFolder, Connection, Control, Dataplane, Echo, Identities,
    Namespace, Node, Program, eventually,
};

pub(crate) const WEFT: &str = env!("CARGO_BIN_EXE_weft");
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// The Pods.
pub(crate) const CLIENT: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 1);
pub(crate) const SERVER: Ipv4Addr = Ipv4Addr::new(10, 77, 0, 2);
/// Virtual addresses of the services.
pub(crate) const REVIEWS: SocketAddr = at(Ipv4Addr::new(10, 96, 0, 10), 9080);
pub(crate) const BYTES: SocketAddr = at(Ipv4Addr::new(10, 96, 0, 11), 9000);
/// A machine outside of the mesh, beyond the client's cable.
pub(crate) const OUTSIDE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
pub(crate) const HOST: &str = "reviews.shop.svc.cluster.local:9080";
/// A host outside that the mesh knows, and its virtual address.
pub(crate) const VIRTUAL: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 12);
pub(crate) const KNOWN: &str = "known.example.org";
pub(crate) const RULES: &str = "50-rules.yaml";

pub(crate) const fn at(ip: Ipv4Addr, port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(ip), port)
}

pub(crate) const SERVICES: &str = "apiVersion: networking.istio.io/v1
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

pub(crate) const REGISTRY_ONLY: &str = "---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: default, namespace: shop}
spec:
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress: [{hosts: ['*/*']}]
";

/// The Pods of a client and of a server, each with its sidecar.
pub(crate) struct Pods {
    pub(crate) folder: ConfigFolder,
    pub(crate) client: Namespace,
    pub(crate) server: Namespace,
    pub(crate) control: Control,
    pub(crate) sidecars: [Dataplane; 2],
    pub(crate) reviews: App,
    certificate: Certificate,
    /// Kept alive.
    _outside: [App; 2],
    _bytes: [Echo; 3],
}

pub(crate) async fn proxy(
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
    pub(crate) async fn start(program: &Program) -> Self {
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
    pub(crate) async fn get(&self, address: SocketAddr, host: &str) -> (u16, String) {
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
    pub(crate) async fn say(&self, address: SocketAddr) -> String {
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
    pub(crate) async fn secure(&self, ip: Ipv4Addr) -> Result<String, String> {
        self.secure_as(ip, KNOWN, &self.certificate).await
    }

    pub(crate) async fn secure_as(
        &self,
        ip: Ipv4Addr,
        name: &str,
        trusted: &Certificate,
    ) -> Result<String, String> {
        let stream = self.client.connect(at(ip, 443)).await?;
        let mut connection = Connection::on_tls(stream, name, trusted).await?;
        Ok(connection.get(name, "/").await?.body)
    }

    pub(crate) async fn gets(
        &self,
        what: &str,
        address: SocketAddr,
        host: &str,
        wanted: (u16, &str),
    ) {
        eventually(what, SOON, async || {
            let seen = self.get(address, host).await;
            let fine = (seen.0, &*seen.1) == wanted;
            fine.then_some(()).ok_or_else(|| format!("{seen:?}"))
        })
        .await;
    }

    pub(crate) async fn says(&self, what: &str, address: SocketAddr, wanted: &str) {
        eventually(what, SOON, async || {
            let said = self.say(address).await;
            (said == wanted).then_some(()).ok_or(said)
        })
        .await;
    }
}
