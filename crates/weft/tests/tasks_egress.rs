//! Istio's task pages about ways out of the mesh, through real Envoy and through our own proxy;
//! the table of all pages is in `tasks_traffic`. Destinations that nobody knows are in
//! `interop_capture`.

use weft_testkit::{
    App, Certificate, Connection, Dataplane, Identities, Reply, Seen, SharedStage, Side, World,
    free_port, local,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
static STAGE: SharedStage<Exit> = SharedStage::new();
const HOST: &str = "edition.example.org";

/// A caller's sidecar, an egress gateway, and a host outside that has a plain and a TLS port.
struct Exit {
    side: Side,
    port: u16,
    /// Of the egress gateway: in plain text, and for callers of the mesh by mutual TLS.
    gateway_port: u16,
    gateway_tls: u16,
    sidecar: Dataplane,
    gateway: Dataplane,
    plain: App,
    secure: App,
    /// Serves this client only.
    mutual: App,
    client: [String; 2],
    /// The same, with the authority of the TLS port, as a document.
    credential: String,
    /// The file of the authority that the TLS port's certificate comes from.
    authority: String,
    /// The file of one that it does not come from.
    stranger: String,
}

/// Moves callers of one path to HTTPS, as servers do that have a plain port for nothing else.
fn plain(name: &'static str, seen: &Seen) -> Reply {
    if seen.path == "/politics" {
        let place = format!("https://{HOST}/politics");
        return (301, vec![("location", place)], String::new());
    }
    (200, Vec::new(), name.to_owned())
}

impl World for Exit {
    const SETTINGS: &'static str = "";

    async fn build(side: Side) -> Self {
        let certificate = Certificate::of(HOST);
        let plain = App::answering("plain", plain).await;
        let secure = App::start_tls("secure", &certificate, None).await;
        let client = Certificate::of("client");
        let mutual = App::start_tls("mutual", &certificate, Some(&client)).await;
        let file = |name: &str, text: &str| {
            let name = format!("{}-{name}.pem", side.name);
            side.folder.write_beside(&name, text).display().to_string()
        };
        let authority = file("outside", &certificate.certificate);
        let stranger = file("stranger", &Certificate::of(HOST).certificate);
        let credential = client.secret_with_client("outside", &certificate);
        let credential = credential.replace("namespace: shop", "namespace: $NS");
        let client = [
            file("client", &client.certificate),
            file("client-key", &client.key),
        ];
        let (gateway_port, gateway_tls) = (free_port(), free_port());
        let port = free_port();
        side.write(
            "10-gateway",
            &format!(
                "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: egress, namespace: $NS}}
spec:
  hosts: [egress.$NS.svc.cluster.local]
  exportTo: ['.']
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: {gateway_port}, name: http, protocol: HTTP}}, {{number: {gateway_tls}, name: https, protocol: HTTPS}}]
  endpoints: [{{address: 127.0.0.1}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: egress, namespace: $NS}}
spec:
  selector: {{gateway: $NS-egress}}
  servers:
  - bind: 127.0.0.1
    port: {{number: {gateway_port}, name: http, protocol: HTTP}}
    hosts: [{HOST}]
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: egress, namespace: $NS}}
spec:
  host: egress.$NS.svc.cluster.local
  exportTo: ['.']
  subsets: [{{name: edition}}]
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: default, namespace: $NS}}
spec:
  outboundTrafficPolicy: {{mode: REGISTRY_ONLY}}
  egress: [{{hosts: ['./*']}}]
"
            ),
        );
        side.write("50-rules", &outside(&plain, 80));
        let mut sidecar = side.sidecar("client", side.ip(9), port, &[]);
        let mut gateway = side.gateway("egress");
        let identities = Identities::new_for(&side.folder, side.name);
        for (node, account) in [(&mut sidecar, "caller"), (&mut gateway, "egress")] {
            let files = identities.issue_in(&side.folder, side.name, account);
            files.announce(&mut node.metadata);
        }
        let (sidecar, gateway) = tokio::join!(side.proxy(&sidecar), side.proxy(&gateway));
        Self {
            side,
            port,
            gateway_port,
            gateway_tls,
            sidecar,
            gateway,
            plain,
            secure,
            mutual,
            client,
            credential,
            authority,
            stranger,
        }
    }
}

/// The host outside; its port 80 is this application.
fn outside(app: &App, number: u16) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: edition, namespace: $NS}}
spec:
  hosts: [{HOST}]
  exportTo: ['.']
  location: MESH_EXTERNAL
  resolution: STATIC
  ports: [{{number: {number}, name: http-port, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http-port: {}}}}}]
---
",
        app.port()
    )
}

/// A rule that calls of the host's port 80 are secured on the way.
fn origination(authority: &str) -> String {
    originate(&format!("SIMPLE, caCertificates: {authority}"))
}

/// The same in this mode, with all that belongs to it.
fn originate(mode: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: edition, namespace: $NS}}
spec:
  host: {HOST}
  exportTo: ['.']
  trafficPolicy:
    portLevelSettings:
    - port: {{number: 80}}
      tls: {{mode: {mode}, sni: {HOST}, subjectAltNames: [{HOST}]}}
---
"
    )
}

impl Exit {
    fn rules(&self, text: &str) {
        self.side.write("50-rules", text);
    }

    /// The host's calls go to the egress gateway, and from there out.
    fn through_gateway(&self) -> String {
        Self::through(self.gateway_port)
    }

    fn through(port: u16) -> String {
        format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edition, namespace: $NS}}
spec:
  hosts: [{HOST}]
  exportTo: ['.']
  gateways: [egress, mesh]
  http:
  - match: [{{gateways: [mesh], port: 80}}]
    route: [{{destination: {{host: egress.$NS.svc.cluster.local, subset: edition, port: {{number: {port}}}}}, weight: 100}}]
  - match: [{{gateways: [egress], port: {port}}}]
    route: [{{destination: {{host: {HOST}, port: {{number: 80}}}}, weight: 100}}]
    headers: {{request: {{set: {{x-exit: gateway}}}}}}
---
"
        )
    }

    /// Status and body of what the application's call of the host gives.
    async fn see(&self, host: &str, path: &str) -> (u16, String) {
        let called = async {
            let mut connection = Connection::open(local(self.port)).await?;
            let uri = format!("http://{host}{path}");
            connection.get(host, &uri).await
        };
        match called.await {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (0, error),
        }
    }

    /// Takes the rules of another test away.
    async fn begin(&self) {
        self.rules("");
        self.becomes("an unknown host is blocked", 502, "").await;
    }

    async fn becomes(&self, what: &str, status: u16, body: &str) {
        let see = async || self.see(HOST, "/").await;
        self.side
            .becomes(what, (status, body.to_owned()), see)
            .await;
    }

    /// Which way the last call came.
    fn way(app: &App) -> String {
        let seen = app.seen();
        seen.last()
            .map_or("", |seen| seen.header("x-exit"))
            .to_owned()
    }

    async fn nothing_refused(&self) {
        self.sidecar.assert_nothing_refused().await;
        self.gateway.assert_nothing_refused().await;
    }
}

#[test]
fn hosts_outside_are_known_or_blocked() {
    STAGE.play(WEFT, async |exit: &Exit| {
        exit.begin().await;
        exit.rules(&outside(&exit.plain, 80));
        exit.becomes("a known host", 200, "plain").await;
        assert_eq!(exit.see("other.example.org", "/").await.0, 502);

        // Rules hold for hosts outside as for services.
        let timeout = format!(
            "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: edition, namespace: $NS}}
spec:
  hosts: [{HOST}]
  exportTo: ['.']
  http: [{{timeout: 0.2s, route: [{{destination: {{host: {HOST}}}, weight: 100}}]}}]
"
        );
        let slow = async || exit.see(HOST, "/delay/500").await.0;
        assert_eq!(slow().await, 200);
        exit.rules(&(outside(&exit.plain, 80) + &timeout));
        exit.side.becomes("a timeout", 504, slow).await;
        exit.nothing_refused().await;
    });
}

#[test]
fn the_sidecar_originates_tls() {
    STAGE.play(WEFT, async |exit: &Exit| {
        exit.begin().await;
        exit.rules(&outside(&exit.plain, 80));
        exit.becomes("in plain text", 200, "plain").await;
        let moved = exit.see(HOST, "/politics").await;
        assert_eq!(moved, (301, String::new()), "the caller must call again");
        // The same port of the host, at its TLS port.
        let secure = format!("targetPort: {}, protocol: HTTP", exit.secure.port());
        let host = outside(&exit.secure, 80).replace("protocol: HTTP", &secure);
        let (before, after) = host.split_once(", ports: {http-port").expect("its ports");
        let host = format!(
            "{before}{}",
            &after[after.find('}').expect("their end") + 1..]
        );
        exit.rules(&(host.clone() + &origination(&exit.authority)));
        exit.becomes("over TLS", 200, "secure").await;
        let first = exit.see(HOST, "/politics").await;
        assert_eq!(
            first,
            (200, "secure".to_owned()),
            "nobody is sent elsewhere"
        );
        let seen = exit.secure.seen();
        assert_eq!(seen.last().map(|seen| &*seen.path), Some("/politics"));
        assert_eq!(exit.see(HOST, "/").await.0, 200);
        let seen = exit.secure.seen();
        let last = seen.last().expect("it was called");
        assert_eq!((last.header("host"), &*last.path), (HOST, "/"));
        assert_eq!(Exit::way(&exit.secure), "");

        exit.rules(&(host + &origination(&exit.stranger)));
        let status = async || exit.see(HOST, "/").await.0;
        exit.side
            .becomes("a certificate of nobody", 503, status)
            .await;
        exit.nothing_refused().await;
    });
}

#[test]
fn the_sidecar_originates_mutual_tls() {
    STAGE.play(WEFT, async |exit: &Exit| {
        exit.begin().await;
        let host = outside(&exit.mutual, 80);
        let simple = origination(&exit.authority);
        exit.rules(&(host.clone() + &simple));
        let status = async || exit.see(HOST, "/").await.0;
        let what = "the server wants a certificate";
        exit.side.becomes(what, 503, status).await;
        let [certificate, key] = &exit.client;
        let own = format!("mode: MUTUAL, clientCertificate: {certificate}, privateKey: {key}");
        exit.rules(&(host + &simple.replace("mode: SIMPLE", &own)));
        exit.becomes("the sidecar shows one", 200, "mutual").await;

        // By the name of a Secret, which sidecars get by rules that choose them only.
        let host = outside(&exit.mutual, 80);
        let rule = originate("MUTUAL, credentialName: outside");
        exit.rules(&[&host, &*exit.credential, "---\n", &*rule].concat());
        exit.side
            .becomes("a rule for any workload: in plain text", 502, status)
            .await;
        let selector = "  workloadSelector: {matchLabels: {app: client}}\n  exportTo";
        let rule = rule.replace("  exportTo", selector);
        exit.rules(&[&host, &*exit.credential, "---\n", &*rule].concat());
        exit.becomes("a rule for this one", 200, "mutual").await;
        exit.nothing_refused().await;
    });
}

#[test]
fn calls_leave_through_the_egress_gateway() {
    STAGE.play(WEFT, async |exit: &Exit| {
        exit.begin().await;
        let host = outside(&exit.plain, 80);
        exit.rules(&host);
        exit.becomes("directly", 200, "plain").await;
        assert_eq!(Exit::way(&exit.plain), "");
        exit.rules(&(host + &exit.through_gateway()));
        let way = async || {
            let seen = exit.see(HOST, "/").await;
            (seen, Exit::way(&exit.plain))
        };
        let wanted = ((200, "plain".to_owned()), "gateway".to_owned());
        exit.side.becomes("through the gateway", wanted, way).await;
        let seen = exit.plain.seen();
        let last = seen.last().expect("it was called");
        assert_eq!(last.header("host"), HOST);
        exit.nothing_refused().await;
    });
}

#[test]
fn the_egress_gateway_originates_tls() {
    STAGE.play(WEFT, async |exit: &Exit| {
        // Sidecars make no call of the host themselves: what they would do does not matter.
        exit.begin().await;
        let host = outside(&exit.secure, 80);
        exit.rules(&[host, exit.through_gateway(), origination(&exit.authority)].concat());
        let way = async || {
            let seen = exit.see(HOST, "/").await;
            (seen, Exit::way(&exit.secure))
        };
        let wanted = ((200, "secure".to_owned()), "gateway".to_owned());
        exit.side
            .becomes("through the gateway over TLS", wanted, way)
            .await;
        exit.nothing_refused().await;
    });
}

#[test]
fn the_egress_gateway_originates_mutual_tls() {
    STAGE.play(WEFT, async |exit: &Exit| {
        exit.begin().await;
        let port = exit.gateway_tls;
        // The way to the gateway is mutual TLS of the mesh, the way from there the host's.
        let way_there = format!(
            "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: egress-tls, namespace: $NS}}
spec:
  selector: {{gateway: $NS-egress}}
  servers:
  - bind: 127.0.0.1
    port: {{number: {port}, name: https, protocol: HTTPS}}
    hosts: [{HOST}]
    tls: {{mode: ISTIO_MUTUAL}}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {{name: egress-tls, namespace: $NS}}
spec:
  host: egress.$NS.svc.cluster.local
  exportTo: ['.']
  subsets:
  - name: secured
    trafficPolicy:
      portLevelSettings:
      - {{port: {{number: {port}}}, tls: {{mode: ISTIO_MUTUAL, sni: {HOST}}}}}
---
"
        );
        let through = Exit::through(port).replace("[egress", "[egress-tls");
        let through = through.replace("subset: edition", "subset: secured");
        let rules = |mode: &str| {
            let host = outside(&exit.mutual, 80);
            let secret = exit.credential.clone() + "---\n";
            [
                host,
                way_there.clone(),
                through.clone(),
                secret,
                originate(mode),
            ]
            .concat()
        };
        let simple = format!("SIMPLE, caCertificates: {}", exit.authority);
        exit.rules(&rules(&simple));
        let status = async || exit.see(HOST, "/").await.0;
        let what = "the host wants a certificate";
        exit.side.becomes(what, 503, status).await;
        exit.rules(&rules("MUTUAL, credentialName: outside"));
        let way = async || (exit.see(HOST, "/").await, Exit::way(&exit.mutual));
        let wanted = ((200, "mutual".to_owned()), "gateway".to_owned());
        let what = "through the gateway, which shows one";
        exit.side.becomes(what, wanted, way).await;
        let stats = exit.gateway.stats().await;
        let secured = stats.get(&format!("listener.127.0.0.1_{port}.ssl.handshake"));
        assert!(secured > 0, "the way to the gateway is in plain text");
        exit.nothing_refused().await;
    });
}
