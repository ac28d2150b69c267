//! `weft simulate` on files: what becomes of calls by the rules of a small mesh, and why.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// Two workloads of `reviews`, one of `client` with an account of its own; mutual TLS everywhere.
const MESH: &str = r#"
apiVersion: v1
kind: Service
metadata: {name: reviews, namespace: shop}
spec: {clusterIP: 10.96.0.1, selector: {app: reviews}, ports: [{name: http, port: 80, targetPort: 8080}, {name: tcp-db, port: 5432}]}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-v1, namespace: shop}
spec: {address: 10.0.0.1, labels: {app: reviews, version: v1, security.istio.io/tlsMode: istio}, serviceAccount: reviews, locality: eu/a}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: reviews-v2, namespace: shop}
spec: {address: 10.0.0.2, labels: {app: reviews, version: v2, security.istio.io/tlsMode: istio}, serviceAccount: reviews}
---
apiVersion: networking.istio.io/v1
kind: WorkloadEntry
metadata: {name: client, namespace: shop}
spec: {address: 10.0.0.9, labels: {app: client}, serviceAccount: client}
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: shop}
spec:
  host: reviews.shop.svc.cluster.local
  subsets: [{name: v1, labels: {version: v1}}, {name: v2, labels: {version: v2}}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: reviews, namespace: shop}
spec:
  hosts: [reviews.shop.svc.cluster.local, reviews.example.com]
  gateways: [mesh, shop/public]
  http:
  - name: tester
    match: [{headers: {x-tester: {exact: "yes"}}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2, port: {number: 80}}}]
  - name: moved
    match: [{uri: {prefix: /old}}]
    redirect: {uri: /new}
  - name: split
    match: [{uri: {prefix: /}}]
    rewrite: {uri: /api/}
    route:
    - {destination: {host: reviews.shop.svc.cluster.local, subset: v1, port: {number: 80}}, weight: 75}
    - {destination: {host: reviews.shop.svc.cluster.local, subset: v2, port: {number: 80}}, weight: 25}
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: public, namespace: shop}
spec:
  selector: {istio: ingressgateway}
  servers:
  - {port: {number: 8081, name: http, protocol: HTTP}, hosts: [reviews.example.com, staff.example.com]}
---
apiVersion: security.istio.io/v1
kind: PeerAuthentication
metadata: {name: default, namespace: shop}
spec: {mtls: {mode: STRICT}}
"#;

const POLICIES: &str = r"
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: readers, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  rules:
  - to: [{operation: {paths: [/health]}}]
  - from: [{source: {principals: [cluster.local/ns/shop/sa/client]}}]
    to: [{operation: {methods: [GET]}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: no-admin, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {app: reviews}}
  rules:
  - to: [{operation: {paths: [/api/admin*]}}]
";

const TOKENS: &str = r#"
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: tokens, namespace: shop}
spec:
  selector: {matchLabels: {app: reviews}}
  jwtRules: [{issuer: me, jwks: '{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}'}]
"#;

/// Whoever comes through the gateway needs no token; those of staff have a host of their own, which
/// only their tokens show.
const GATE: &str = r#"
---
apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {name: gate, namespace: shop}
spec:
  selector: {matchLabels: {istio: ingressgateway}}
  jwtRules: [{issuer: me, outputClaimToHeaders: [{header: x-group, claim: group}], jwks: '{"keys":[{"kty":"EC","crv":"P-256","kid":"1","x":"Yd6sV1bZQOHIBpZsBRu_fgBpo8OzyatDBeI04EXDMOU","y":"XgNJmc9_vJ0oG0H34CFA0rJz52cWcOLdLd2rMUFIRy8"}]}'}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: staff, namespace: shop}
spec:
  hosts: [staff.example.com]
  gateways: [shop/public]
  http:
  - match: [{headers: {x-group: {exact: staff}}}]
    route: [{destination: {host: reviews.shop.svc.cluster.local, subset: v2, port: {number: 80}}}]
---
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata: {name: closed, namespace: shop}
spec:
  action: DENY
  selector: {matchLabels: {istio: ingressgateway}}
  rules:
  - to: [{operation: {paths: [/closed*]}}]
"#;
/// Signed by the key of `GATE`, for the group `staff`, until 2100.
const STAFF: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6IjEifQ.eyJpc3MiOiJtZSIsInN1YiI6ImEiLCJncm91cCI6InN0YWZmIiwiZXhwIjo0MTAyNDQ0ODAwfQ.XmDtnrQxnzkinYszDT8wEK308MHUF7fUFdA_r6dyxmGbKLgcpCF2J6rTn52SqqNRh1TODWbcBoyIXDU2ajez1A";

fn mesh(name: &str, more: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("simulate");
    std::fs::create_dir_all(&folder).expect("cargo's folder can be written");
    let path = folder.join(name);
    std::fs::write(&path, format!("{MESH}{more}")).expect("cargo's folder can be written");
    path
}

fn weft(file: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_weft"))
        .arg("simulate")
        .args(arguments)
        .arg(format!("--config={}", file.display()))
        .output()
        .expect("the binary is built with the test")
}

/// The report; the exit code must say whether the call got through.
fn simulate(file: &Path, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["-o=json"]].concat();
    let output = weft(file, &arguments);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let report: Value = serde_json::from_str(&text).unwrap_or_else(|error| {
        panic!(
            "{arguments:?}: {error}: {}",
            String::from_utf8_lossy(&output.stderr)
        )
    });
    let through = ["reached", "forwarded"].contains(&report["verdict"].as_str().unwrap_or(""));
    assert_eq!(output.status.success(), through, "{report:#}");
    report
}

/// Serves the pages of a mesh to one simulation, except that the servers' sides are what `server` says:
/// a status, or the proxy that is there.
fn with_control(file: &Path, arguments: &[&str], server: Result<&str, &str>) -> Output {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let control = format!("--control={}", listener.local_addr().expect("its address"));
    let file = file.to_owned();
    let server = server.map(str::to_owned).map_err(str::to_owned);
    let serving = std::thread::spawn(move || {
        let settings = weft_model::MeshSettings::default();
        let loaded = weft_sources::load_once(&[file], &settings);
        let pages = weft_control::Offline::new(settings, loaded);
        let runtime = tokio::runtime::Builder::new_current_thread().build();
        let runtime = runtime.expect("a runtime");
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut head = BufReader::new(stream.try_clone().expect("its other half")).lines();
            let line = head.next().and_then(Result::ok).unwrap_or_default();
            if line == "stop" {
                return;
            }
            while head
                .next()
                .and_then(Result::ok)
                .is_some_and(|line| !line.is_empty())
            {}
            let target = line.split(' ').nth(1).unwrap_or_default();
            let found = match &server {
                _ if !target.contains("proxyID=10.") => runtime.block_on(pages.page(target)),
                Ok(proxy) => runtime.block_on(pages.page(&format!("/debug/view?proxyID={proxy}"))),
                Err(status) => Err(status.clone()),
            };
            let (status, body) = match found {
                Ok(body) => ("200 OK".to_owned(), body),
                Err(status) => (status, "refused".to_owned()),
            };
            let length = body.len();
            let answer = format!(
                "HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}"
            );
            // Whoever breaks off has ended its connection.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    let output = Command::new(env!("CARGO_BIN_EXE_weft"))
        .arg("simulate")
        .args(arguments)
        .arg(&control)
        .output()
        .expect("the binary is built with the test");
    let address = control.trim_start_matches("--control=");
    let mut stop = std::net::TcpStream::connect(address).expect("it still listens");
    stop.write_all(b"stop\n").expect("it still reads");
    serving.join().expect("it did not panic");
    output
}

fn last(report: &Value) -> &Value {
    report["passages"]
        .as_array()
        .and_then(|all| all.last())
        .expect("a passage")
}

#[test]
fn a_call_takes_the_route_the_subset_and_mutual_tls() {
    let file = mesh("routes.yaml", "");
    let report = simulate(&file, &["shop/client", "http://reviews/things"]);
    let first = &report["passages"][0];
    assert_eq!(report["verdict"], "reached", "{report:#}");
    assert_eq!(first["listener"]["name"], "0.0.0.0_80");
    assert_eq!(
        first["virtualHost"]["name"],
        "reviews.shop.svc.cluster.local:80"
    );
    assert_eq!(
        (&first["route"]["number"], &first["route"]["object"]),
        (&2.into(), &"reviews.shop".into())
    );
    assert_eq!(
        first["passedOver"][0]["why"],
        "the header x-tester does not match"
    );
    assert_eq!(first["passedOver"][1]["why"], "the path is not /old*");
    assert_eq!(
        (
            &first["clusters"][0]["weight"],
            &first["clusters"][1]["weight"]
        ),
        (&75.into(), &25.into())
    );
    assert_eq!(
        first["cluster"],
        "outbound|80|v1|reviews.shop.svc.cluster.local"
    );
    let endpoint = &first["endpoints"][0];
    assert_eq!(endpoint["address"], "10.0.0.1:8080");
    assert_eq!(
        (&endpoint["transport"], &endpoint["locality"]),
        (&"mutual TLS".into(), &"eu/a".into())
    );
    // The server's side sees the rewritten path and who calls.
    let server = last(&report);
    assert_eq!(server["request"]["path"], "/api/things");
    assert_eq!(
        server["request"]["principal"],
        "spiffe://cluster.local/ns/shop/sa/client"
    );
    assert_eq!(server["chain"]["tls"], "mutual");

    let heavy = simulate(
        &file,
        &["shop/client", "http://reviews/things", "--random=80"],
    );
    assert_eq!(
        heavy["passages"][0]["endpoints"][0]["address"],
        "10.0.0.2:8080"
    );
    let tester = [
        "shop/client",
        "http://reviews.shop:80/",
        "-H",
        "x-tester: yes",
    ];
    let tester = simulate(&file, &tester);
    assert_eq!(tester["passages"][0]["route"]["name"], "tester");
    let moved = simulate(&file, &["shop/client", "http://reviews/old/a"]);
    assert_eq!(
        (&moved["verdict"], &moved["status"]),
        (&"redirected".into(), &301.into())
    );
    assert!(
        moved["reason"]
            .as_str()
            .is_some_and(|it| it.ends_with("http://reviews/new")),
        "{moved:#}"
    );

    // Bytes, an unknown host, and a gateway.
    let bytes = simulate(&file, &["shop/client", "tcp://reviews:5432"]);
    assert_eq!(
        bytes["passages"][0]["cluster"],
        "outbound|5432||reviews.shop.svc.cluster.local"
    );
    assert_eq!(bytes["verdict"], "reached", "{bytes:#}");
    let outside = simulate(&file, &["shop/client", "http://www.example.com/"]);
    assert_eq!(outside["passages"][0]["cluster"], "PassthroughCluster");
    let gateway = ["gateway/shop/public", "http://reviews.example.com:8081/"];
    let gateway = simulate(&file, &gateway);
    assert_eq!(
        gateway["passages"][0]["cluster"],
        "outbound|80|v1|reviews.shop.svc.cluster.local"
    );
    let nobody = simulate(
        &file,
        &["gateway/shop/public", "http://other.example.com:8081/"],
    );
    assert_eq!(nobody["status"], 404);
    let closed = simulate(
        &file,
        &["gateway/shop/public", "http://reviews.example.com:9999/"],
    );
    assert!(
        closed["reason"]
            .as_str()
            .is_some_and(|it| it.contains("ports [8081]")),
        "{closed:#}"
    );
}

#[test]
fn authz_check_names_the_policies_that_decide() {
    let file = mesh("authz.yaml", POLICIES);
    let check = |url: &str| {
        let output = Command::new(env!("CARGO_BIN_EXE_weft"))
            .args(["authz", "check", "shop/client", url, "--config"])
            .arg(&file)
            .output()
            .expect("the binary is built with the test");
        (
            output.status.code(),
            String::from_utf8_lossy(&output.stdout).into_owned(),
        )
    };
    let (code, text) = check("http://reviews/things");
    assert_eq!(code, Some(0), "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("PROXY"), "{text}");
    assert!(
        lines[1].contains("DENY") && lines[1].contains("no rule matches: passes"),
        "{text}"
    );
    assert!(
        lines[2].contains("ALLOW")
            && lines[2].ends_with("AuthorizationPolicy/shop/readers spec.rules[1]"),
        "{text}"
    );
    assert_eq!(lines[3], "ALLOWED");
    let (code, text) = check("http://reviews/admin/x");
    assert_eq!(code, Some(1), "{text}");
    assert!(
        text.ends_with(
            "NOT ALLOWED: DENIED: denied by AuthorizationPolicy/shop/no-admin spec.rules[0]\n"
        ),
        "{text}"
    );
    let (code, text) = check("http://nobody.example.com/");
    assert!(
        text.starts_with("No policy looks at this call."),
        "{code:?} {text}"
    );
}

#[test]
fn the_servers_side_says_which_policy_decides() {
    let file = mesh("policies.yaml", POLICIES);
    let fine = simulate(&file, &["shop/client", "http://reviews/things"]);
    let policies = last(&fine)["policies"]
        .as_array()
        .expect("policies")
        .clone();
    assert_eq!(policies[0]["action"], "DENY");
    assert_eq!(
        policies[1]["rule"],
        "AuthorizationPolicy/shop/readers spec.rules[1]"
    );
    let denied = simulate(&file, &["shop/client", "http://reviews/admin/x"]);
    assert_eq!(
        (&denied["verdict"], &denied["status"]),
        (&"denied".into(), &403.into())
    );
    assert_eq!(
        denied["reason"],
        "denied by AuthorizationPolicy/shop/no-admin spec.rules[0]"
    );
    // In the form that the data plane gives paths before it looks at them.
    for path in ["/x/../admin/y", "/%61dmin", "/x/%2e%2e/admin"] {
        let url = format!("http://reviews{path}");
        let hidden = simulate(&file, &["shop/client", &url]);
        assert_eq!(hidden["status"], 403, "{path}: {hidden:#}");
    }
    let none = simulate(&file, &["shop/client", "http://reviews/%00"]);
    assert_eq!(none["status"], 400, "{none:#}");
    let post = simulate(&file, &["shop/client", "http://reviews/", "-X", "POST"]);
    assert!(
        post["reason"]
            .as_str()
            .is_some_and(|it| it.contains("none of their rules matches"))
    );
    let other = [
        "shop/client",
        "http://reviews/",
        "--principal=spiffe://cluster.local/ns/a/sa/b",
    ];
    assert_eq!(simulate(&file, &other)["status"], 403);

    // Without mutual TLS the connection ends before any of them.
    let plain = [
        "shop/client",
        "http://x/",
        "--to=10.0.0.1:8080",
        "--no-identity",
    ];
    let plain = simulate(&file, &plain);
    assert_eq!(
        (&plain["verdict"], &plain["status"]),
        (&"closed".into(), &Value::Null)
    );
    assert!(
        plain["reason"]
            .as_str()
            .is_some_and(|it| it.contains("STRICT")),
        "{plain:#}"
    );

    let file = mesh("tokens.yaml", TOKENS);
    let without = simulate(&file, &["shop/client", "http://reviews/"]);
    assert_eq!(without["verdict"], "reached", "no token is needed");
    let bad = [
        "shop/client",
        "http://reviews/",
        "-H",
        "authorization: Bearer a.b.c",
    ];
    let bad = simulate(&file, &bad);
    assert_eq!(
        (&bad["verdict"], &bad["status"]),
        (&"denied".into(), &401.into()),
        "{bad:#}"
    );
    assert!(
        bad["reason"]
            .as_str()
            .is_some_and(|it| it.contains("RequestAuthentication"))
    );
}

const LISTENERS: &str = r"
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: client, namespace: shop}
spec:
  workloadSelector: {labels: {app: client}}
  outboundTrafficPolicy: {mode: REGISTRY_ONLY}
  egress:
  - {port: {number: 80, protocol: HTTP}, bind: 127.0.0.7, captureMode: NONE, hosts: [./reviews.shop.svc.cluster.local]}
---
apiVersion: networking.istio.io/v1
kind: Sidecar
metadata: {name: reviews, namespace: shop}
spec:
  workloadSelector: {labels: {app: reviews}}
  ingress:
  - {port: {number: 8080, protocol: HTTP}, defaultEndpoint: '127.0.0.1:9090'}
";

#[test]
fn listeners_of_sidecars_are_called_at_their_sockets() {
    let file = mesh("listeners.yaml", LISTENERS);
    let call = |more: &[&str], url: &str| {
        let arguments = [&["shop/client"], more, &[url]].concat();
        simulate(&file, &arguments)
    };
    let to = ["--to", "127.0.0.7:80"];
    let report = call(&to, "http://reviews.shop.svc.cluster.local/x");
    assert_eq!(report["verdict"], "reached", "{report:#}");
    let passages = report["passages"].as_array().expect("a list");
    assert_eq!(passages[0]["listener"]["name"], "127.0.0.7_80");
    assert_eq!(last(&report)["cluster"], "inbound|8080||");
    let unknown = call(&to, "http://elsewhere.example.com/");
    assert_eq!(unknown["status"], 502, "{unknown:#}");
    // Redirected to the proxy there is no such listener, and unknown calls fail.
    let captured = call(&[], "http://reviews.shop.svc.cluster.local/x");
    assert_eq!(captured["verdict"], "closed", "{captured:#}");
}

#[test]
fn filters_decide_before_the_route_and_route_again() {
    let file = mesh("gate.yaml", GATE);
    let call = |url: &str, token: Option<&str>| {
        let token = token.map(|token| format!("-Hauthorization: Bearer {token}"));
        let arguments = ["gateway/shop/public", url].into_iter();
        let arguments: Vec<&str> = arguments.chain(token.as_deref()).collect();
        simulate(&file, &arguments)
    };
    // Nobody's host and nobody's route: the filters still run first.
    for host in ["other", "staff"] {
        let url = |path: &str| format!("http://{host}.example.com:8081{path}");
        assert_eq!(call(&url("/"), None)["status"], 404);
        let bad = call(&url("/"), Some("a.b.c"));
        assert_eq!(bad["status"], 401, "{bad:#}");
        let closed = call(&url("/closed"), None);
        assert_eq!(closed["status"], 403, "{closed:#}");
        assert_eq!(
            closed["reason"],
            "denied by AuthorizationPolicy/shop/closed spec.rules[0]"
        );
    }
    // The token's claims lead to a route that is not there without them.
    let staff = call("http://staff.example.com:8081/", Some(STAFF));
    let first = &staff["passages"][0];
    assert_eq!(first["verdict"], "forwarded", "{staff:#}");
    assert_eq!(first["endpoints"][0]["address"], "10.0.0.2:8080");
}

#[test]
fn a_server_that_cannot_be_asked_about_is_not_reached() {
    let file = mesh("unknown.yaml", "");
    let call = ["shop/client", "http://reviews/things"];
    let unknown = with_control(&file, &call, Err("503 Service Unavailable"));
    assert_eq!(unknown.status.code(), Some(1));
    let why = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(why.contains("503 Service Unavailable: refused"), "{why}");
    assert!(unknown.stdout.is_empty(), "there is no verdict");

    let nobody = with_control(&file, &call, Err("404 Not Found"));
    assert!(nobody.status.success(), "nobody is there to refuse");
    let text = String::from_utf8_lossy(&nobody.stdout).into_owned();
    assert!(text.contains("nobody decides there"), "{text}");

    // A gateway decides like any other proxy.
    let gateway = with_control(&file, &call, Ok("gateway/shop/public"));
    let text = String::from_utf8_lossy(&gateway.stdout).into_owned();
    assert_eq!(gateway.status.code(), Some(1));
    assert!(text.contains("At router~"), "{text}");
    assert!(
        text.contains("there are listeners on ports [8081]"),
        "{text}"
    );
}

#[test]
fn keys_that_are_not_fetched_are_told() {
    let (before, _) = TOKENS.split_once("jwks:").expect("the keys");
    let tokens = format!("{before}jwksUri: 'http://127.0.0.1:1/keys'}}]\n");
    let file = mesh("fetched.yaml", &tokens);
    let staff = format!("-Hauthorization: Bearer {STAFF}");
    let refused = simulate(&file, &["shop/client", "http://reviews/", &staff]);
    assert_eq!(refused["status"], 401, "{refused:#}");
    let notes = last(&refused)["notes"].to_string();
    assert!(
        notes.contains("held back") && notes.contains("127.0.0.1:1/keys"),
        "{notes}"
    );
}

#[test]
fn faults_of_routes_are_told_or_are_the_verdict() {
    let faults = r"
---
apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: shaky, namespace: shop}
spec:
  hosts: [shaky.example.com]
  ports: [{number: 80, name: http, protocol: HTTP}]
  resolution: STATIC
  endpoints: [{address: 192.0.2.9}]
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: shaky, namespace: shop}
spec:
  hosts: [shaky.example.com]
  http:
  - match: [{uri: {prefix: /always}}]
    fault: {abort: {percentage: {value: 100}, httpStatus: 418}}
    route: [{destination: {host: shaky.example.com}}]
  - fault: {abort: {percentage: {value: 10}, httpStatus: 418}, delay: {percentage: {value: 100}, fixedDelay: 5s}}
    route: [{destination: {host: shaky.example.com}}]
";
    let file = mesh("faults.yaml", faults);
    let to = |path: &str| {
        let url = format!("http://shaky.example.com{path}");
        simulate(&file, &["shop/client", &url, "--client-only"])
    };
    let always = to("/always");
    assert_eq!(
        (&always["verdict"], &always["status"]),
        (&"aborted".into(), &418.into()),
        "{always:#}"
    );
    let sometimes = to("/sometimes");
    assert_eq!(sometimes["verdict"], "forwarded", "{sometimes:#}");
    let notes = sometimes["passages"][0]["notes"].to_string();
    for words in ["every request waits for 5s", "requests get 418"] {
        assert!(notes.contains(words), "{words} in {notes}");
    }
}

#[test]
fn requests_in_bytes_and_names_in_certificates_count() {
    // By its address the server is reached through a cluster for bytes; it still sees a request.
    let file = mesh("bytes.yaml", POLICIES);
    let permissive = format!("{MESH}{POLICIES}").replace("STRICT", "PERMISSIVE");
    std::fs::write(&file, permissive).expect("cargo's folder can be written");
    let health = simulate(&file, &["shop/client", "http://10.0.0.1:8080/health"]);
    assert_eq!(health["passages"][0]["cluster"], "PassthroughCluster");
    assert_eq!(last(&health)["request"]["path"], "/health");
    assert_eq!(health["verdict"], "reached", "{health:#}");
    let other = simulate(&file, &["shop/client", "http://10.0.0.1:8080/other"]);
    assert_eq!(other["status"], 403, "{other:#}");
    // The same in the caller's own TLS, which ends nowhere in the mesh.
    let inside = simulate(&file, &["shop/client", "https://10.0.0.1:8080/health"]);
    assert_eq!(inside["passages"][0]["verdict"], "forwarded", "{inside:#}");
    assert_eq!(last(&inside)["connection"]["transport"], "tls");

    let gateway = ["gateway/shop/public", "https://reviews.example.com:8081/"];
    assert_eq!(simulate(&file, &gateway)["status"], 400);

    // Nobody has the name that the rule wants.
    let file = mesh("names.yaml", "");
    let picky = MESH.replace(
        "  subsets: [{name: v1",
        "  trafficPolicy: {tls: {mode: ISTIO_MUTUAL, subjectAltNames: [spiffe://cluster.local/ns/shop/sa/other]}}\n  subsets: [{name: v1",
    );
    std::fs::write(&file, picky).expect("cargo's folder can be written");
    let refused = simulate(&file, &["shop/client", "http://reviews/"]);
    assert_eq!(refused["verdict"], "closed", "{refused:#}");
    let reason = refused["reason"].to_string();
    assert!(reason.contains("subjectAltNames"), "{reason}");
}

#[test]
fn the_text_tells_each_step_and_mistakes_are_told() {
    let file = mesh("text.yaml", POLICIES);
    let output = weft(&file, &["shop/client", "http://reviews/admin"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    for words in [
        "At sidecar~10.0.0.9~client.shop~shop.svc.cluster.local (not connected: made up",
        "not:         route 0 \"tester\": the header x-tester does not match",
        "share:       75 of 100 to outbound|80|v1|reviews.shop.svc.cluster.local",
        "10.0.0.1:8080 HEALTHY, priority 0, eu/a, weight 1, mutual TLS",
        "(DENY) refuses it by AuthorizationPolicy/shop/no-admin spec.rules[0]",
        "DENIED 403: denied by AuthorizationPolicy/shop/no-admin spec.rules[0]",
    ] {
        assert!(text.contains(words), "{words:?} in\n{text}");
    }
    for (arguments, words) in [
        (&["shop/nobody", "http://a/"][..], "is no connected proxy"),
        (&["shop/client", "ftp://a/"], "none of http, https, tcp"),
        (&["shop/client", "tcp://a"], "there is no port"),
        (
            &["shop/client", "http://a/", "-H", "nonsense"],
            "is no header",
        ),
        (&["shop/client", "http://a/", "-X", "A B"], "is no method"),
    ] {
        let output = weft(&file, arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(why.contains(words), "{arguments:?}: {why}");
    }
}
