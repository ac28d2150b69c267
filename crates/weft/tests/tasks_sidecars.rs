//! Istio's task pages about what a sidecar does with calls that come in, beside policies: TLS that it
//! ends itself, a service that decides by gRPC, claims in headers, dry runs, limits by patches. Through
//! real Envoy and through our own proxy; the table of all pages is in `tasks_traffic`.

use std::fmt::Write as _;
use weft_testkit::{Answer, App, Certificate, Connection, SharedStage, Side, free_port};

#[path = "tasks/guarded.rs"]
mod guarded;
#[path = "tasks/judge.rs"]
mod judge;
#[path = "twins/limit_service.rs"]
mod limit_service;
#[path = "security/tokens.rs"]
mod tokens;

use guarded::{Guarded, HTTP, policy};
use limit_service::LimitService;

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
static STAGE: SharedStage<Guarded> = SharedStage::new();
/// The port of the server at which its sidecar ends TLS.
const SECURE: u16 = 8443;
const NAME: &str = "httpbin.example.com";

/// Two listeners instead of those of the services: one for anybody with a certificate of the client's
/// authority, and one for the mesh.
fn ingress(world: &Guarded, server: &Certificate, client: &Certificate) -> String {
    let file = |name: &str, text: &str| {
        let name = format!("{}-ingress-{name}.pem", world.side.name);
        let path = world.side.folder.write_beside(&name, text);
        path.display().to_string()
    };
    let (ip, port) = (world.server, world.httpbin.port());
    let (chain, key) = (file("chain", &server.certificate), file("key", &server.key));
    let roots = file("roots", &client.certificate);
    format!(
        "apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {{name: server, namespace: $NS}}
spec:
  workloadSelector: {{labels: {{app: server}}}}
  ingress:
  - port: {{number: {SECURE}, name: external, protocol: HTTPS}}
    bind: {ip}
    captureMode: NONE
    defaultEndpoint: '127.0.0.1:{port}'
    tls: {{mode: MUTUAL, serverCertificate: {chain}, privateKey: {key}, caCertificates: {roots}}}
  - port: {{number: {HTTP}, name: internal, protocol: HTTP}}
    bind: {ip}
    captureMode: NONE
    defaultEndpoint: '127.0.0.1:{port}'
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: default, namespace: $NS}}
spec: {{mtls: {{mode: STRICT}}}}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {{name: external, namespace: $NS}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  mtls: {{mode: STRICT}}
  portLevelMtls: {{{SECURE}: {{mode: DISABLE}}}}
"
    )
}

#[test]
fn the_sidecar_ends_tls_of_callers_outside() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let (server, client) = (Certificate::of(NAME), Certificate::of("client"));
        world.rules(&ingress(world, &server, &client));
        let secure = async |own: Option<&Certificate>| {
            let address = (world.server, SECURE).into();
            let mut connection = Connection::open_tls_with(address, NAME, &server, own).await?;
            let answer = connection.get(NAME, "/status/201").await?;
            Ok::<_, String>(answer.status)
        };
        let known = async || secure(Some(&client)).await;
        let what = "a caller outside with a certificate";
        world.side.becomes(what, Ok(201), known).await;
        assert!(secure(None).await.is_err(), "a caller without one");
        let stranger = secure(Some(&Certificate::of("stranger"))).await;
        assert!(stranger.is_err(), "{stranger:?}");

        // The other listener is for the mesh only.
        let meshed = async || world.meshed("GET", "/").await;
        world
            .side
            .becomes("a caller of the mesh", 200, meshed)
            .await;
        world.becomes("plain text from outside", "/", 0).await;
        world.sidecar.assert_nothing_refused().await;
        world.rules("");
        world.becomes("as before", "/", 200).await;
    });
}

#[test]
fn another_service_decides_by_grpc() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let (proxy, app) = limited(&world.side).await;
        let call = async |path: &str, wish: &str| {
            let called = async {
                let mut connection = Connection::open((world.side.ip(31), HTTP).into()).await?;
                let wish = [("x-ext-authz", wish)];
                connection.call("GET", "limited", path, &wish).await
            };
            called.await.map(|answer| (answer.status, answer.body))
        };
        let judged = policy(
            "judged",
            "  action: CUSTOM
  provider: {name: grpc-$NS}
  rules: [{to: [{operation: {paths: [/headers]}}]}]",
        );
        world.rules(&judged.replace("app: server", "app: limited"));
        let denied = async || call("/headers", "deny").await;
        let answer = Ok((403, "denied by the judge".to_owned()));
        world.side.becomes("who may not", answer, denied).await;
        let served = Ok((200, "limited".to_owned()));
        assert_eq!(call("/headers", "allow").await, served);
        let seen = app.seen();
        let last = seen.last().expect("it was called");
        assert_eq!(last.header("x-judged"), "allowed /headers");
        assert_eq!(call("/ip", "deny").await, served, "another path");
        world.rules("");
        world.side.becomes("no policy", served, denied).await;
        proxy.assert_nothing_refused().await;
        world.side.write("20-limited", "");
    });
}

#[test]
fn claims_become_headers() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let words = tokens::words();
        let authentication = format!(
            "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{name: claims, namespace: $NS}}
spec:
  selector: {{matchLabels: {{app: server}}}}
  jwtRules:
  - issuer: me
    jwks: {}
    outputClaimToHeaders: [{{header: x-jwt-sub, claim: sub}}, {{header: x-jwt-deep, claim: nest.c.d}}]
",
            words["jwks"]
        );
        world.rules(&authentication);
        let good = format!("Bearer {}", words["token:good"]);
        let claims = async || {
            // Nobody may bring the header himself.
            let headers = [("authorization", &*good), ("x-jwt-sub", "forged")];
            let status = world.status("GET", "/headers", &headers).await;
            let seen = world.httpbin.seen();
            let last = seen.last().expect("it was called");
            let headers = ["x-jwt-sub", "x-jwt-deep"].map(|name| last.header(name).to_owned());
            (status, headers)
        };
        let wanted = (200, ["someone".to_owned(), "x".to_owned()]);
        world.side.becomes("claims of the token", wanted, claims).await;
        world.rules("");
        world.sidecar.assert_nothing_refused().await;
    });
}

/// Counted under the names from which Istio's bootstrap takes the tags of its metric.
#[test]
fn dry_runs_count_what_they_would_do() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let rule = |action: &str, path: &str| {
            let spec = format!(
                "  action: {action}\n  rules: [{{to: [{{operation: {{paths: [{path}]}}}}]}}]"
            );
            let policy = policy(&action.to_lowercase(), &spec);
            policy.replace(
                "namespace: $NS}",
                "namespace: $NS, annotations: {istio.io/dry-run: 'true'}}",
            )
        };
        world.rules(&(rule("ALLOW", "/headers") + &rule("DENY", "/ip")));
        let counted = async || {
            for path in ["/headers", "/ip"] {
                assert_eq!(world.status("GET", path, &[]).await, 200, "{path}");
            }
            let stats = world.sidecar.stats().await;
            let count = |end: &str| {
                let end = format!("rbac.istio_dry_run_{end}");
                stats.ending(&end).values().sum::<u64>() > 0
            };
            [
                count("allow_.shadow_allowed"),
                count("allow_.shadow_denied"),
                count("deny_.shadow_allowed"),
                count("deny_.shadow_denied"),
            ]
        };
        world
            .side
            .becomes("each is counted", [true; 4], counted)
            .await;
        world.rules("");
        world.sidecar.assert_nothing_refused().await;
    });
}

/// A bucket of four requests a minute.
const BUCKET: &str = "{stat_prefix: limit, token_bucket: {max_tokens: 4, tokens_per_fill: 4, fill_interval: 60s}, filter_enabled: {runtime_key: limit_enabled, default_value: {numerator: 100}}, filter_enforced: {runtime_key: limit_enforced, default_value: {numerator: 100}}, response_headers_to_add: [{append_action: OVERWRITE_IF_EXISTS_OR_ADD, header: {key: x-local-rate-limit, value: 'true'}}]}";
const STRUCT: &str = "'@type': type.googleapis.com/udpa.type.v1.TypedStruct, type_url: type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit";

/// The filter before all others of the workload, and the same for its routes.
fn limits(filter: &str, route: Option<&str>) -> String {
    let mut text = format!(
        "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {{name: limit, namespace: $NS}}
spec:
  workloadSelector: {{labels: {{app: limited}}}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {{filterChain: {{filter: {{name: envoy.filters.network.http_connection_manager}}}}}}
    patch:
      operation: INSERT_BEFORE
      value: {{name: envoy.filters.http.local_ratelimit, typed_config: {{{STRUCT}, value: {filter}}}}}
"
    );
    if let Some(route) = route {
        let _ = write!(
            text,
            "  - applyTo: HTTP_ROUTE
    match:
      context: SIDECAR_INBOUND
      routeConfiguration: {{vhost: {{name: 'inbound|http|{HTTP}', route: {{action: ANY}}}}}}
    patch:
      operation: MERGE
      value: {{typed_per_filter_config: {{envoy.filters.http.local_ratelimit: {{{STRUCT}, value: {route}}}}}}}
"
        );
    }
    text
}

/// A workload of its own that speaks HTTP only. What our proxy refuses is none of the other tests' affair
/// then, such as the service that decides about bytes, too.
async fn limited(side: &Side) -> (weft_testkit::Dataplane, App) {
    let (ip, app) = (side.ip(31), App::start("limited").await);
    side.write(
        "20-limited",
        &format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: limited, namespace: $NS}}
spec:
  hosts: [limited.$NS.svc.cluster.local]
  exportTo: ['.']
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: {HTTP}, name: http, protocol: HTTP}}]
  endpoints: [{{address: {ip}, labels: {{app: limited}}}}]
"
        ),
    );
    let node = side.sidecar("limited", ip, free_port(), &[(HTTP, app.port())]);
    (side.proxy(&node).await, app)
}

#[test]
fn a_patch_limits_requests_of_a_workload() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let (proxy, _app) = limited(&world.side).await;
        let call = async || -> Answer {
            let mut connection = Connection::open((world.side.ip(31), HTTP).into()).await;
            let connection = connection.as_mut().expect("it listens");
            connection.get("limited", "/").await.expect("an answer")
        };
        assert_eq!(call().await.status, 200);
        let filters = [
            limits(BUCKET, None),
            limits("{stat_prefix: limit}", Some(BUCKET)),
        ];
        for text in filters {
            world.rules(&text);
            let status = async || call().await.status;
            world.side.becomes("the bucket is empty", 429, status).await;
            let answer = call().await;
            assert_eq!(answer.status, 429);
            assert_eq!(answer.headers["x-local-rate-limit"], "true");
            assert_eq!(answer.body, "local_rate_limited");
            let stats = proxy.stats().await;
            let count = |name: &str| -> u64 {
                let end = format!("limit.http_local_rate_limit.{name}");
                stats.ending(&end).values().sum()
            };
            assert!(count("ok") >= 4, "a bucket of four");
            assert!(count("enforced") >= 2);
            assert_eq!(count("enforced"), count("rate_limited"));
            proxy.assert_nothing_refused().await;
            world.rules("");
            let status = async || call().await.status;
            world.side.becomes("no limit", 200, status).await;
        }
        world.side.write("20-limited", "");
    });
}

/// A rate limit service counts requests by their path, as the page has it; here a workload's own.
const COUNTED: &str = "apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: filter-ratelimit, namespace: $NS}
spec:
  workloadSelector: {labels: {app: limited}}
  configPatches:
  - applyTo: HTTP_FILTER
    match:
      context: SIDECAR_INBOUND
      listener: {filterChain: {filter: {name: envoy.filters.network.http_connection_manager, subFilter: {name: envoy.filters.http.router}}}}
    patch:
      operation: INSERT_BEFORE
      value:
        name: envoy.filters.http.ratelimit
        typed_config:
          '@type': type.googleapis.com/envoy.extensions.filters.http.ratelimit.v3.RateLimit
          domain: productpage-ratelimit
          failure_mode_deny: true
          timeout: 10s
          rate_limit_service:
            grpc_service:
              envoy_grpc: {cluster_name: outbound|8081||ratelimit.$NS.svc.cluster.local, authority: ratelimit.$NS.svc.cluster.local}
            transport_api_version: V3
---
apiVersion: networking.istio.io/v1alpha3
kind: EnvoyFilter
metadata: {name: filter-ratelimit-svc, namespace: $NS}
spec:
  workloadSelector: {labels: {app: limited}}
  configPatches:
  - applyTo: VIRTUAL_HOST
    match:
      context: SIDECAR_INBOUND
      routeConfiguration: {vhost: {name: 'inbound|http|8000', route: {action: ANY}}}
    patch:
      operation: MERGE
      value:
        rate_limits:
        - actions: [{request_headers: {header_name: ':path', descriptor_key: PATH}}]
";

#[test]
fn a_service_limits_requests_of_a_workload() {
    STAGE.play(WEFT, async |world: &Guarded| {
        let (proxy, _app) = limited(&world.side).await;
        let service = LimitService::start().await;
        let entry = format!(
            "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: ratelimit, namespace: $NS}}
spec:
  hosts: [ratelimit.$NS.svc.cluster.local]
  exportTo: ['.']
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: 8081, name: grpc, protocol: GRPC, targetPort: {}}}]
  endpoints: [{{address: 127.0.0.1}}]
---
",
            service.port
        );
        let call = async |path: &str| -> Answer {
            let mut connection = Connection::open((world.side.ip(31), HTTP).into()).await;
            let connection = connection.as_mut().expect("it listens");
            connection.get("limited", path).await.expect("an answer")
        };
        assert_eq!(call("/productpage").await.status, 200);
        world.rules(&(entry + COUNTED));
        let status = async || call("/productpage").await.status;
        let what = "the service has counted enough";
        world.side.becomes(what, 429, status).await;
        let answer = call("/productpage").await;
        assert_eq!(answer.headers["x-envoy-ratelimited"], "true");
        assert_eq!(answer.headers["x-limits"], "a");
        assert_eq!(call("/other").await.status, 200, "another path");
        let asked = service.asked().join("\n");
        let wanted = "productpage-ratelimit 0 [\"PATH=/productpage None None false\"]";
        assert!(asked.contains(wanted), "{asked}");
        let stats = proxy.stats().await;
        let over: u64 = stats.ending("ratelimit.over_limit").values().sum();
        assert!(over >= 2, "two at least");
        proxy.assert_nothing_refused().await;
        world.rules("");
        let status = async || call("/productpage").await.status;
        world.side.becomes("no limit", 200, status).await;
        world.side.write("20-limited", "");
    });
}
