//! Istio's task pages as tests: what each page says that happens, through real Envoy and through
//! our own proxy. This file: traffic management inside of the mesh.
//!
//! | Page of Istio's tasks | Test |
//! |---|---|
//! | request routing; fault injection; request timeouts; circuit breaking; mirroring | here |
//! | locality load balancing: failover, distribution | here |
//! | traffic shifting | `interop_envoy`: `the_row_holds`; `proxy_live`: `share` |
//! | TCP traffic shifting | `interop_gateway`: `connections_are_divided` |
//! | ingress gateways; ingress access control; JWT claim based routing | `tasks_ingress` |
//! | secure gateways | `interop_gateway` (one host, renewal), `tasks_ingress` (several, mutual TLS) |
//! | ingress without TLS termination (SNI passthrough) | `interop_gateway` |
//! | ingress sidecar TLS termination; rate limits, local and global | `tasks_sidecars` |
//! | accessing external services; egress TLS origination; egress gateways | `tasks_egress`; `interop_capture` (unknown destinations), `interop_capture_egress` (HTTPS) |
//! | egress using wildcard hosts | `interop_capture_egress` |
//! | mutual TLS migration | `tasks_security`, `interop_security`, `interop_capture`; the whole mesh: `tasks_trust` |
//! | trust domain migration | `tasks_trust` |
//! | authorization: HTTP, TCP, JWT, deny, external (`CUSTOM`) | `tasks_security`, by gRPC: `tasks_sidecars`; principals, paths: `interop_security` |
//! | authorization: dry run | `tasks_security`; its metrics: `tasks_sidecars` |
//! | authentication policy: ports, tokens of end users; claims in headers | `tasks_security`; `tasks_sidecars` |

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use weft_testkit::{
    Answer, App, Connection, Dataplane, SharedStage, Side, World, free_port, local,
};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
static STAGE: SharedStage<Shop> = SharedStage::new();

/// Where the instances of `hello` and `spread` are; the caller is in the first place.
const PLACES: [(&str, &str); 4] = [
    ("h1", "region1/zone1"),
    ("h2", "region1/zone2"),
    ("h3", "region2/zone3"),
    ("h4", "region3/zone4"),
];

/// A caller's sidecar, and services of two versions, of one instance, and of four places.
struct Shop {
    side: Side,
    port: u16,
    proxy: Dataplane,
    versions: [App; 2],
    /// Kept alive.
    _single: App,
    hello: Vec<App>,
    spread: Vec<App>,
}

/// A service of the mesh; `endpoints` are lines of YAML.
fn service(name: &str, port: u16, endpoints: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {{name: {name}, namespace: $NS}}
spec:
  hosts: [{name}.$NS.svc.cluster.local]
  exportTo: ['.']
  location: MESH_INTERNAL
  resolution: STATIC
  ports: [{{number: {port}, name: http, protocol: HTTP}}]
  endpoints:
{endpoints}---
"
    )
}

fn endpoint(app: &App, more: &str) -> String {
    let address = app.address();
    let (ip, port) = (address.ip(), address.port());
    format!("  - {{address: {ip}, ports: {{http: {port}}}, {more}}}\n")
}

async fn placed() -> (Vec<App>, String) {
    let (mut apps, mut lines) = (Vec::new(), String::new());
    for (name, place) in PLACES {
        let app = App::start(name).await;
        lines += &endpoint(&app, &format!("locality: {place}"));
        apps.push(app);
    }
    (apps, lines)
}

impl World for Shop {
    const SETTINGS: &'static str = "";

    async fn build(side: Side) -> Self {
        let versions = [App::start("v1").await, App::start("v2").await];
        let single = App::start("single").await;
        let (hello, hello_lines) = placed().await;
        let (spread, spread_lines) = placed().await;
        let of_version = |app: &App, name| endpoint(app, &format!("labels: {{version: {name}}}"));
        let [v1, v2] = &versions;
        side.write(
            "10-services",
            &[
                service(
                    "reviews",
                    9080,
                    &(of_version(v1, "v1") + &of_version(v2, "v2")),
                ),
                service(
                    "httpbin",
                    8000,
                    &endpoint(&single, "labels: {app: httpbin}"),
                ),
                service("hello", 5000, &hello_lines),
                service("spread", 5000, &spread_lines),
                "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: reviews, namespace: $NS}
spec:
  host: reviews
  subsets:
  - {name: v1, labels: {version: v1}}
  - {name: v2, labels: {version: v2}}
"
                .to_owned(),
            ]
            .concat(),
        );
        let port = free_port();
        let mut node = side.sidecar("client", side.ip(9), port, &[]);
        node.metadata["LABELS"] = serde_json::json!({
            "app": "client",
            "topology.kubernetes.io/region": "region1",
            "topology.kubernetes.io/zone": "zone1",
        });
        let proxy = side.proxy(&node).await;
        Self {
            side,
            port,
            proxy,
            versions,
            _single: single,
            hello,
            spread,
        }
    }
}

impl Shop {
    /// The only rules beside those of the services.
    fn rules(&self, text: &str) {
        self.side.write("50-rules", text);
    }

    /// Calls `service:port`, whose name is short, as the application of the sidecar.
    async fn call(
        &self,
        service: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, String> {
        let host = service.replacen(':', &format!(".{}.svc.cluster.local:", self.side.name), 1);
        let mut connection = Connection::open(local(self.port)).await?;
        let uri = format!("http://{host}{path}");
        connection.call("GET", &host, &uri, headers).await
    }

    /// Status and body of a call.
    async fn see(&self, service: &str, path: &str, user: &str) -> (u16, String) {
        let headers = [("end-user", user)];
        let headers = if user.is_empty() { &[][..] } else { &headers };
        match self.call(service, path, headers).await {
            Ok(answer) => (answer.status, answer.body),
            Err(error) => (0, error),
        }
    }

    /// Four calls of `httpbin` at the same time.
    async fn four_at_once(&self, path: &str) -> [Answer; 4] {
        let call = async || {
            let answer = self.call("httpbin:8000", path, &[]).await;
            answer.expect("an answer")
        };
        tokio::join!(call(), call(), call(), call()).into()
    }

    /// Waits until ten calls of `reviews` by this user, one after the other, are answered so.
    async fn all_become(&self, user: &str, status: u16, body: &str) {
        let ten = async || {
            let mut answers = Vec::new();
            for _ in 0..10 {
                answers.push(self.see("reviews:9080", "/", user).await);
            }
            answers
        };
        let wanted = vec![(status, body.to_owned()); 10];
        let what = format!("reviews answers {user:?}");
        self.side.becomes(&what, wanted, ten).await;
    }
}

/// A rule for a service's host; `http` are lines of YAML below `http:`.
fn virtual_service(service: &str, http: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {{name: {service}, namespace: $NS}}
spec:
  hosts: [{service}]
  exportTo: ['.']
  http:
{http}---
"
    )
}

const TO_V1: &str = "  - route: [{destination: {host: reviews, subset: v1}}]\n";

#[test]
fn requests_are_routed_by_version_and_user() {
    STAGE.play(WEFT, async |shop: &Shop| {
        shop.rules(&virtual_service("reviews", TO_V1));
        shop.all_become("", 200, "v1").await;
        let jason = "  - match: [{headers: {end-user: {exact: jason}}}]
    route: [{destination: {host: reviews, subset: v2}}]
";
        shop.rules(&virtual_service("reviews", &(jason.to_owned() + TO_V1)));
        shop.all_become("jason", 200, "v2").await;
        shop.all_become("jasons", 200, "v1").await;
        shop.all_become("", 200, "v1").await;
        shop.proxy.assert_nothing_refused().await;
    });
}

#[test]
fn faults_are_injected_for_one_user() {
    STAGE.play(WEFT, async |shop: &Shop| {
        let fault = |fault: &str| {
            let rule = format!(
                "  - match: [{{headers: {{end-user: {{exact: jason}}}}}}]
    fault: {{{fault}}}
    route: [{{destination: {{host: reviews, subset: v1}}}}]
"
            );
            virtual_service("reviews", &(rule + TO_V1))
        };
        shop.rules(&fault("abort: {percentage: {value: 100}, httpStatus: 500}"));
        shop.all_become("jason", 500, "fault filter abort").await;
        shop.all_become("", 200, "v1").await;

        shop.rules(&fault(
            "delay: {percentage: {value: 100}, fixedDelay: 0.7s}",
        ));
        shop.side
            .becomes("the delay", (200, true), async || {
                let began = Instant::now();
                let (status, _) = shop.see("reviews:9080", "/", "jason").await;
                (status, began.elapsed() >= Duration::from_millis(700))
            })
            .await;
        let began = Instant::now();
        shop.all_become("", 200, "v1").await;
        assert!(began.elapsed() < Duration::from_secs(7), "others wait, too");
    });
}

#[test]
fn requests_time_out() {
    STAGE.play(WEFT, async |shop: &Shop| {
        let rule = |timeout: &str| {
            let route = format!("  - {{{timeout}route: [{{destination: {{host: httpbin}}}}]}}\n");
            virtual_service("httpbin", &route)
        };
        let see = async || shop.see("httpbin:8000", "/delay/600", "").await;
        shop.rules(&rule(""));
        let answered = (200, "single".to_owned());
        shop.side.becomes("no timeout", answered, see).await;
        shop.rules(&rule("timeout: 0.2s, "));
        let late = (504, "upstream request timeout".to_owned());
        shop.side.becomes("a timeout", late, see).await;
        let quick = shop.see("httpbin:8000", "/", "").await;
        assert_eq!(quick, (200, "single".to_owned()));
        shop.rules("");
    });
}

#[test]
fn circuits_break() {
    STAGE.play(WEFT, async |shop: &Shop| {
        shop.rules(
            "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: httpbin, namespace: $NS}
spec:
  host: httpbin
  trafficPolicy:
    connectionPool:
      tcp: {maxConnections: 1}
      http: {http1MaxPendingRequests: 1, maxRequestsPerConnection: 1}
    outlierDetection: {consecutive5xxErrors: 1, interval: 1s, baseEjectionTime: 1s, maxEjectionPercent: 100}
",
        );
        // One alone is always served.
        let alone = async || shop.see("httpbin:8000", "/", "").await.0;
        shop.side.becomes("one at a time", 200, alone).await;
        let together = async || {
            let answers = shop.four_at_once("/delay/250").await;
            let count = |wanted: &dyn Fn(&Answer) -> bool| {
                answers.iter().filter(|answer| wanted(answer)).count()
            };
            let overloaded = count(&|answer| {
                answer.status == 503 && answer.headers.contains_key("x-envoy-overloaded")
            });
            let served = count(&|answer| answer.status == 200);
            assert_eq!(served + overloaded, 4, "{answers:?}");
            (served > 0, overloaded > 0)
        };
        shop.side.becomes("the circuit breaks", (true, true), together).await;
        let stats = shop.proxy.stats().await;
        let overflows = stats.ending("upstream_rq_pending_overflow");
        let of_httpbin = overflows.iter().filter(|(name, _)| name.contains("httpbin"));
        assert!(of_httpbin.map(|(_, count)| count).sum::<u64>() > 0, "{overflows:?}");
        shop.rules("");
        let all = async || {
            let answers = shop.four_at_once("/delay/100").await;
            answers.map(|answer| answer.status)
        };
        shop.side.becomes("the circuit is closed", [200; 4], all).await;
    });
}

#[test]
fn requests_are_mirrored() {
    STAGE.play(WEFT, async |shop: &Shop| {
        shop.rules(&virtual_service("reviews", TO_V1));
        shop.all_become("", 200, "v1").await;
        let [v1, v2] = &shop.versions;
        let of = |app: &App| {
            let seen = app.seen().into_iter();
            seen.filter(|seen| seen.path == "/mirrored")
                .collect::<Vec<_>>()
        };
        shop.see("reviews:9080", "/mirrored", "").await;
        assert_eq!((of(v1).len(), of(v2).len()), (1, 0), "nothing is mirrored");
        shop.rules(&virtual_service(
            "reviews",
            "  - route: [{destination: {host: reviews, subset: v1}, weight: 100}]
    mirror: {host: reviews, subset: v2}
    mirrorPercentage: {value: 100}
",
        ));
        // The answer is always that of v1, also while v2 gets a copy.
        shop.side
            .becomes("v2 gets copies", true, async || {
                let answer = shop.see("reviews:9080", "/mirrored", "").await;
                assert_eq!(answer, (200, "v1".to_owned()));
                !of(v2).is_empty()
            })
            .await;
        // As Istio has it today, without `-shadow` at the end.
        let host = format!("reviews.{}.svc.cluster.local:9080", shop.side.name);
        assert_eq!(of(v2)[0].header("host"), host);
    });
}

#[test]
fn places_fail_over_in_order() {
    STAGE.play(WEFT, async |shop: &Shop| {
        shop.rules(
            "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: hello, namespace: $NS}
spec:
  host: hello
  trafficPolicy:
    connectionPool: {http: {maxRequestsPerConnection: 1}}
    loadBalancer:
      simple: ROUND_ROBIN
      localityLbSetting: {enabled: true, failover: [{from: region1, to: region2}]}
    outlierDetection: {consecutive5xxErrors: 1, interval: 0.2s, baseEjectionTime: 60s, maxEjectionPercent: 100}
",
        );
        for (app, (name, place)) in shop.hello.iter().zip(PLACES) {
            let ten = async || {
                let mut names = Vec::new();
                for _ in 0..10 {
                    names.push(shop.see("hello:5000", "/", "").await);
                }
                names
            };
            let wanted = vec![(200, name.to_owned()); 10];
            shop.side.becomes(&format!("all go to {place}"), wanted, ten).await;
            app.stop();
        }
    });
}

#[test]
fn load_is_distributed_over_places() {
    STAGE.play(WEFT, async |shop: &Shop| {
        shop.rules(
            "apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: spread, namespace: $NS}
spec:
  host: spread
  trafficPolicy:
    loadBalancer:
      localityLbSetting:
        enabled: true
        distribute:
        - from: region1/zone1/*
          to: {'region1/zone1/*': 70, 'region1/zone2/*': 20, 'region2/zone3/*': 10}
    outlierDetection: {consecutive5xxErrors: 100, interval: 1s, baseEjectionTime: 60s}
",
        );
        let see = async || {
            let mut names = BTreeMap::<String, u32>::new();
            for _ in 0..30 {
                *names
                    .entry(shop.see("spread:5000", "/", "").await.1)
                    .or_default() += 1;
            }
            names.contains_key("h4")
        };
        shop.side.becomes("none go to region3", false, see).await;
        let before = shop
            .spread
            .iter()
            .map(|app| app.seen().len())
            .collect::<Vec<_>>();
        for _ in 0..400 {
            assert_eq!(shop.see("spread:5000", "/", "").await.0, 200);
        }
        // Four standard deviations of each share, in points.
        let shares = [(70.0, 9.2), (20.0, 8.0), (10.0, 6.0), (0.0, 0.0)];
        for ((app, before), (wanted, off)) in shop.spread.iter().zip(before).zip(shares) {
            let share: f64 = (app.seen().len() - before) as f64 / 4.0;
            let fine = (share - wanted).abs() <= off;
            assert!(fine, "{share} % instead of {wanted} %");
        }
    });
}
