//! Istio's task pages about ways into the mesh, through real Envoy and through our own proxy; the
//! table of all pages is in `tasks_traffic`.

use serde_json::json;
use weft_testkit::{
    Answer, App, Certificate, Connection, Dataplane, SharedStage, Side, World, free_port, local,
};

#[path = "security/tokens.rs"]
mod tokens;

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
static STAGE: SharedStage<Front> = SharedStage::new();

/// A gateway and two services behind it.
struct Front {
    side: Side,
    /// Ports of the gateway.
    ports: [u16; 2],
    gateway: Dataplane,
    httpbin: App,
    /// Kept alive.
    _hello: App,
}

fn service(name: &str, app: &App) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: $NS}}
spec:
  hosts: [{name}.$NS.svc.cluster.local]
  exportTo: ['.']
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 8000, name: http, protocol: HTTP}}]
  endpoints: [{{address: 127.0.0.1, ports: {{http: {}}}}}]
---
",
        app.port()
    )
}

/// A Gateway of these servers (lines of YAML).
fn gateway(servers: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {{name: front, namespace: $NS}}
spec:
  selector: {{gateway: $NS-ingress}}
  servers:
{servers}---
"
    )
}

/// A rule of the gateway for a host that leads to the service of this name; `matches` are lines
/// of YAML before the route.
fn rule(name: &str, host: &str, matches: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {name}, namespace: $NS}}
spec:
  hosts: ['{host}']
  gateways: [front]
  http:
  - {matches}route: [{{destination: {{host: {name}, port: {{number: 8000}}}}}}]
---
"
    )
}

const OPEN: &str = "match: [{uri: {prefix: /status}}, {uri: {prefix: /delay}}]\n    ";

impl World for Front {
    const SETTINGS: &'static str = "";

    async fn build(side: Side) -> Self {
        let (httpbin, hello) = (App::start("httpbin").await, App::start("hello").await);
        let services = service("httpbin", &httpbin) + &service("hello", &hello);
        side.write("10-services", &services);
        let ports = [free_port(), free_port()];
        side.write("50-rules", &plain(ports[0], "httpbin.example.com"));
        let mut gateway = side.gateway("ingress");
        // Before it stands a load balancer that tells the address of its caller.
        gateway.metadata["PROXY_CONFIG"] = json!({"gatewayTopology": {"numTrustedProxies": 1}});
        let gateway = side.proxy(&gateway).await;
        Self {
            side,
            ports,
            gateway,
            httpbin,
            _hello: hello,
        }
    }
}

/// A plain server for a host, and a rule that opens some paths.
fn plain(port: u16, host: &str) -> String {
    let server = format!(
        "  - {{bind: 127.0.0.1, port: {{number: {port}, name: http, protocol: HTTP}}, hosts: ['{host}']}}\n"
    );
    gateway(&server) + &rule("httpbin", host, OPEN)
}

impl Front {
    fn rules(&self, text: &str) {
        self.side.write("50-rules", text);
    }

    /// An answer on the first port, which is plain.
    async fn call(&self, host: &str, path: &str) -> Result<Answer, String> {
        let mut connection = Connection::open(local(self.ports[0])).await?;
        connection.get(host, path).await
    }

    /// Its status, 0 if there is none.
    async fn status(&self, host: &str, path: &str) -> u16 {
        let answer = self.call(host, path).await;
        answer.map_or(0, |answer| answer.status)
    }

    /// Waits until a plain call is answered so.
    async fn becomes(&self, host: &str, path: &str, wanted: u16) {
        let status = async || self.status(host, path).await;
        self.side
            .becomes(&format!("{host}{path}"), wanted, status)
            .await;
    }

    /// Body of an answer over TLS on the second port.
    async fn secure(
        &self,
        name: &str,
        trusted: &Certificate,
        own: Option<&Certificate>,
    ) -> Result<String, String> {
        let address = local(self.ports[1]);
        let mut connection = Connection::open_tls_with(address, name, trusted, own).await?;
        let answer = connection.get(name, "/").await;
        answer.map(|answer| answer.body)
    }
}

#[test]
fn a_gateway_opens_some_paths_of_a_host() {
    STAGE.play(WEFT, async |front: &Front| {
        let host = "httpbin.example.com";
        front.rules(&plain(front.ports[0], host));
        front.becomes(host, "/status/200", 200).await;
        assert_eq!(front.status(host, "/delay/5").await, 200);
        assert_eq!(front.status(host, "/status/418").await, 418);
        assert_eq!(front.status(host, "/headers").await, 404, "no route");
        assert_eq!(front.status("other.example.com", "/status/200").await, 404);
        let seen = front.httpbin.seen();
        let last = seen.last().expect("it was called");
        assert_eq!(last.header("host"), host);
        assert!(!last.header("x-forwarded-for").is_empty(), "{last:?}");
        assert_eq!(last.header("x-forwarded-proto"), "http");

        // A browser that names no host of the mesh.
        front.rules(&plain(front.ports[0], "*"));
        front.becomes("127.0.0.1", "/status/200", 200).await;
        assert_eq!(front.status("other.example.com", "/headers").await, 404);
        front.gateway.assert_nothing_refused().await;
    });
}

#[test]
fn hosts_have_certificates_of_their_own() {
    STAGE.play(WEFT, async |front: &Front| {
        let names = ["httpbin.example.com", "hello.example.com"];
        let certificates = names.map(Certificate::of);
        let client = Certificate::of("client");
        let server = |name: &str, mode: &str| {
            let port = front.ports[1];
            let short = name.split('.').next().unwrap_or_default();
            format!(
                "  - bind: 127.0.0.1
    port: {{number: {port}, name: https-{short}, protocol: HTTPS}}
    hosts: [{name}]
    tls: {{mode: {mode}, credentialName: {short}}}
"
            )
        };
        let redirect = format!(
            "  - {{bind: 127.0.0.1, port: {{number: {}, name: http, protocol: HTTP}}, hosts: ['*'], tls: {{httpsRedirect: true}}}}\n",
            front.ports[0]
        );
        let documents = |mode: &str| {
            [
                gateway(&(redirect.clone() + &server(names[0], mode) + &server(names[1], "SIMPLE"))),
                rule("httpbin", names[0], ""),
                rule("hello", names[1], ""),
            ]
            .concat()
        };
        let here = |text: String| text.replace("namespace: shop", "namespace: $NS");
        let secrets = [
            certificates[0].secret_with_client("httpbin", &client),
            certificates[1].secret("hello"),
        ];
        front.side.write("60-secrets", &here(secrets.join("---\n")));

        front.rules(&documents("SIMPLE"));
        for (name, certificate, body) in [
            (names[0], &certificates[0], "httpbin"),
            (names[1], &certificates[1], "hello"),
        ] {
            let called = async || front.secure(name, certificate, None).await;
            front.side.becomes(name, Ok(body.to_owned()), called).await;
        }
        let wrong = front.secure(names[0], &certificates[1], None).await;
        assert!(wrong.is_err(), "the certificate of another host");
        let moved = front.call(names[0], "/").await.expect("an answer");
        assert_eq!((moved.status, &moved.headers["location"]), (301, &format!("https://{}/", names[0]).parse().expect("a value")));

        front.rules(&documents("MUTUAL"));
        let nameless = async || front.secure(names[0], &certificates[0], None).await.is_err();
        front.side.becomes("nobody without a certificate", true, nameless).await;
        let named = front.secure(names[0], &certificates[0], Some(&client)).await;
        assert_eq!(named.as_deref(), Ok("httpbin"));
        let stranger = Certificate::of("stranger");
        let stranger = front.secure(names[0], &certificates[0], Some(&stranger)).await;
        assert!(stranger.is_err(), "{stranger:?}");
        let other = front.secure(names[1], &certificates[1], None).await;
        assert_eq!(other.as_deref(), Ok("hello"));
        front.gateway.assert_nothing_refused().await;
    });
}

#[test]
fn addresses_are_let_in_or_kept_out() {
    STAGE.play(WEFT, async |front: &Front| {
        let host = "httpbin.example.com";
        let policy = |action: &str, source: &str| {
            let policy = format!(
                "apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {{name: ingress, namespace: $NS}}
spec:
  selector: {{matchLabels: {{gateway: $NS-ingress}}}}
  action: {action}
  rules: [{{from: [{{source: {{{source}}}}}]}}]
"
            );
            plain(front.ports[0], host) + &policy
        };
        front.rules(&policy("ALLOW", "ipBlocks: [1.2.3.4, 127.0.0.0/8]"));
        front.becomes(host, "/status/200", 200).await;
        front.rules(&policy("ALLOW", "ipBlocks: [1.2.3.4, 5.6.7.0/24]"));
        front.becomes(host, "/status/200", 403).await;
        front.rules(&policy("DENY", "ipBlocks: [5.6.7.0/24]"));
        front.becomes(host, "/status/200", 200).await;
        front.rules(&policy("DENY", "remoteIpBlocks: [127.0.0.1]"));
        front.becomes(host, "/status/200", 403).await;

        // Of the addresses that are told only the last one counts, which the load balancer wrote.
        let told = async |addresses: &str| {
            let called = async {
                let mut connection = Connection::open(local(front.ports[0])).await?;
                let headers = [("x-forwarded-for", addresses)];
                connection.call("GET", host, "/status/200", &headers).await
            };
            called.await.map_or(0, |answer| answer.status)
        };
        front.rules(&policy("ALLOW", "remoteIpBlocks: [1.2.3.4, 5.6.7.0/24]"));
        let unknown = async || told("9.9.9.9").await;
        let what = "an address that is told";
        front.side.becomes(what, 403, unknown).await;
        let allowed = async || told("5.6.7.8").await;
        assert_eq!(allowed().await, 200);
        assert_eq!(told("9.9.9.9, 1.2.3.4").await, 200);
        assert_eq!(told("1.2.3.4, 9.9.9.9").await, 403);
        assert_eq!(front.status(host, "/status/200").await, 403);
        front.rules(&policy("DENY", "remoteIpBlocks: [5.6.7.8]"));
        front
            .side
            .becomes("one that is kept out", 403, allowed)
            .await;
        assert_eq!(told("5.6.7.9").await, 200);
        front.rules(&plain(front.ports[0], host));
        front.becomes(host, "/status/200", 200).await;
    });
}

#[test]
fn claims_of_tokens_choose_the_route() {
    STAGE.play(WEFT, async |front: &Front| {
        let host = "httpbin.example.com";
        let words = tokens::words();
        let server = format!(
            "  - {{bind: 127.0.0.1, port: {{number: {}, name: http, protocol: HTTP}}, hosts: ['{host}']}}\n",
            front.ports[0]
        );
        let authentication = format!(
            "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: ingress, namespace: $NS}}
spec:
  selector: {{matchLabels: {{gateway: $NS-ingress}}}}
  jwtRules: [{{issuer: me, jwks: {}}}]
---
",
            words["jwks"]
        );
        let claims = "match:
    - {uri: {prefix: /status}, headers: {'@request.auth.claims[nest][a.b]': {exact: deep}}}
    - uri: {prefix: /delay}
      headers: {'@request.auth.claims.scope': {exact: write}}
      withoutHeaders: {'@request.auth.claims.sub': {prefix: oth}}
    ";
        front.rules(&(gateway(&server) + &authentication + &rule("httpbin", host, claims)));
        let call = async |path: &str, token: &str| {
            let value = format!("Bearer {}", words.get(token).map_or(token, |token| token));
            let status = async {
                let mut connection = Connection::open(local(front.ports[0])).await?;
                let headers = [("authorization", &*value)];
                connection.call("GET", host, path, &headers).await
            };
            status.await.map_or(0, |answer| answer.status)
        };
        let good = async || call("/status/200", "token:good").await;
        front.side.becomes("a claim leads on", 200, good).await;
        front.becomes(host, "/status/200", 404).await;
        assert_eq!(call("/status/200", "token:no-exp").await, 404, "no claim");
        assert_eq!(call("/status/200", "token:stranger").await, 401);
        assert_eq!(call("/delay/0", "token:good").await, 200, "one of a list");
        assert_eq!(call("/delay/0", "token:sub-other").await, 404);
        front.rules(&plain(front.ports[0], host));
        front.becomes(host, "/status/200", 200).await;
        front.gateway.assert_nothing_refused().await;
    });
}
