//! The admin interface over a real socket: every path answers, in Envoy's shapes. The wanted
//! texts were written by hand beside an Envoy 1.40 with the same configuration.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc::Receiver;
use weft_core::metrics::{Registry, Scope};
use weft_net::tls::{CertificateDetails, ContextCertificates};

mod config_dump;
mod statistics;

use super::handlers::ENDPOINTS;
use super::*;
use crate::access_log::{AccessLogs, Target};

weft_core::stat_set! {
    #[allow(clippy::struct_field_names)] // the names are Envoy's
    struct ClusterStats {
        counters { upstream_rq_total, upstream_rq_2xx }
        gauges { upstream_cx_active }
        histograms { upstream_rq_time }
        codes { upstream_rq }
    }
}
weft_core::stat_set! {
    struct ListenerStats {
        counters { downstream_cx_total }
        gauges { downstream_cx_active }
    }
}

struct OneCluster;

impl ClusterDirectory for OneCluster {
    fn certificates(&self) -> Vec<Arc<ContextCertificates>> {
        vec![certificates()]
    }

    fn clusters(&self) -> Vec<ClusterStatus> {
        let host = HostStatus {
            address: address(9000).into(),
            hostname: "h".into(),
            stats: HostStats {
                rq_total: 4,
                rq_active: 1,
                ..HostStats::default()
            },
            health: HostHealth::Draining,
            ejected: true,
            weight: 3,
            locality: Locality {
                region: "r1".into(),
                ..Locality::default()
            },
            locality_weight: 0,
            priority: 1,
            canary: false,
            success_rate: Some(99.5),
            local_origin_success_rate: None,
        };
        vec![ClusterStatus {
            name: "up".into(),
            observability_name: "alt".into(),
            added_via_api: true,
            eds_service_name: Some("svc".into()),
            outlier: Some(OutlierStatus::default()),
            overprovisioning_factor: 140,
            hosts: vec![host],
            ..ClusterStatus::default()
        }]
    }
}

fn certificates() -> Arc<ContextCertificates> {
    let day = Duration::from_hours(24);
    let certificate = CertificateDetails {
        path: Some("/etc/ca.pem".into()),
        serial_number: "0a".to_owned(),
        dns_names: vec!["a.test".to_owned()],
        uri_names: vec!["spiffe://a".to_owned()],
        addresses: vec![Ipv4Addr::LOCALHOST.into()],
        valid_from: SystemTime::UNIX_EPOCH + day,
        expiration: SystemTime::now() + 3 * day + day / 2,
    };
    let expired = CertificateDetails {
        path: None,
        expiration: SystemTime::UNIX_EPOCH + 2 * day,
        ..certificate.clone()
    };
    Arc::new(ContextCertificates {
        trusted: [certificate].into(),
        presented: vec![expired],
    })
}

struct OneLogger(Mutex<LogLevel>);

impl LogControl for OneLogger {
    fn levels(&self) -> Vec<(String, LogLevel)> {
        vec![("weft".to_owned(), *self.0.lock())]
    }
    fn set(&self, _: Option<&str>, level: LogLevel) -> bool {
        *self.0.lock() = level;
        true
    }
    fn reopen(&self) -> Result<(), String> {
        Ok(())
    }
}

fn address(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A running admin server with one of everything.
struct Fixture {
    at: SocketAddr,
    state: Arc<AdminState>,
    orders: Receiver<AdminCommand>,
    logs: AccessLogs,
    cluster: Arc<ClusterStats>,
    _listener: Arc<ListenerStats>,
}

impl Fixture {
    async fn start() -> Self {
        let registry = Arc::new(Registry::default());
        let logs = AccessLogs::new(Arc::clone(&registry));
        let cluster = Arc::new(ClusterStats::default());
        registry.register(Scope::cluster("a.b|80"), &cluster);
        let listener = Arc::new(ListenerStats::default());
        registry.register(Scope::listener("127.0.0.1_80"), &listener);
        listener.downstream_cx_active.add(2);
        let (state, orders) = AdminState::new(AdminParts {
            registry,
            options: ServerOptions {
                config_yaml: "a: {very: secret}".to_owned(),
                version: "0000ff/1/Clean/DEBUG/x".to_owned(),
                ..ServerOptions::default()
            },
            clusters: Box::new(OneCluster),
            logging: Box::new(OneLogger(Mutex::new(LogLevel::Info))),
            access_logs: logs.clone(),
        });
        state.listeners.set("l1", vec![address(80), address(81)]);
        let server = AdminServer::bind(address(0)).await.unwrap();
        let at = server.local_addr().unwrap();
        tokio::spawn(server.serve(Arc::clone(&state)));
        Self {
            at,
            state,
            orders,
            logs,
            cluster,
            _listener: listener,
        }
    }

    /// Status, head and body.
    async fn send(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.at).await.unwrap();
        let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut bytes = Vec::new();
        let read = stream.read_to_end(&mut bytes);
        let read = tokio::time::timeout(Duration::from_secs(10), read).await;
        read.expect("the admin server answers in time").unwrap();
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let status = head[9..12].parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn get(&self, path: &str) -> String {
        let (status, _, body) = self.send("GET", path).await;
        assert_eq!(status, 200, "{path}: {body}");
        body
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.get(path).await).unwrap()
    }

    async fn post(&self, path: &str) -> (u16, String) {
        let (status, _, body) = self.send("POST", path).await;
        (status, body)
    }
}

#[tokio::test]
async fn every_path_answers_and_mutations_want_post() {
    let fixture = Fixture::start().await;
    fixture.state.readiness.set(ServerState::Live);
    let mut seen = HashSet::new();
    for endpoint in ENDPOINTS {
        assert!(seen.insert(endpoint.path), "{} twice", endpoint.path);
        let (status, head, body) = fixture.send("GET", endpoint.path).await;
        if endpoint.mutates {
            assert_eq!(status, 405, "{}", endpoint.path);
            assert_eq!(body, "Method GET not allowed, POST required.");
            let (status, body) = fixture.post(endpoint.path).await;
            assert_eq!(status, 200, "{}: {body}", endpoint.path);
        } else {
            assert_eq!(status, 200, "{}: {body}", endpoint.path);
        }
        assert!(
            head.contains("cache-control: no-cache, max-age=0"),
            "{head}"
        );
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        assert!(head.contains("content-type: "), "{head}");
    }
    let (status, _, body) = fixture.send("GET", "/nope").await;
    assert_eq!(status, 404);
    assert!(
        body.starts_with("invalid path. admin commands are:\n  /: "),
        "{body}"
    );
    assert!(body.contains("\n  /quitquitquit (POST): "), "{body}");
}

#[tokio::test]
async fn ready_follows_the_state_and_failed_health_drains() {
    let fixture = Fixture::start().await;
    let ready = async || {
        let (status, _, body) = fixture.send("GET", "/ready").await;
        (status, body)
    };
    assert_eq!(ready().await, (503, "PRE_INITIALIZING\n".to_owned()));
    fixture.state.readiness.set(ServerState::Initializing);
    fixture
        .state
        .init
        .wait_for("init manager server", "target LDS");
    assert_eq!(ready().await, (503, "INITIALIZING\n".to_owned()));
    let dump = fixture.json("/init_dump").await;
    let want = json!([{"name": "init manager server", "target_names": ["target LDS"]}]);
    assert_eq!(dump["unready_targets_dumps"], want);
    fixture
        .state
        .init
        .ready("init manager server", "target LDS");
    assert_eq!(fixture.get("/init_dump").await, "{}\n");
    fixture.state.readiness.set(ServerState::Live);
    assert_eq!(ready().await, (200, "LIVE\n".to_owned()));
    fixture.post("/healthcheck/fail").await;
    assert_eq!(ready().await, (503, "DRAINING\n".to_owned()));
    assert!(
        fixture
            .get("/stats?filter=server.live")
            .await
            .contains("live: 0")
    );
    fixture.post("/healthcheck/ok").await;
    assert_eq!(ready().await, (200, "LIVE\n".to_owned()));
}

#[tokio::test]
async fn orders_reach_the_data_path_and_never_pile_up() {
    let mut fixture = Fixture::start().await;
    let path = "/drain_listeners?graceful&inboundonly";
    assert_eq!(fixture.post(path).await, (200, "OK\n".to_owned()));
    let want = DrainRequest {
        graceful: true,
        inbound_only: true,
        skip_exit: false,
    };
    let got = fixture.orders.recv().await;
    assert_eq!(got, Some(AdminCommand::DrainListeners(want)));
    for _ in 0..16 {
        assert_eq!(fixture.post("/quitquitquit").await.0, 200);
    }
    assert_eq!(fixture.post("/quitquitquit").await.0, 503);
    assert_eq!(fixture.orders.recv().await, Some(AdminCommand::Quit));
}

#[tokio::test]
async fn clusters_and_listeners_have_envoys_lines() {
    let fixture = Fixture::start().await;
    let text = fixture.get("/clusters").await;
    let want = [
        "up::observability_name::alt",
        "up::outlier::success_rate_average::-1",
        "up::default_priority::max_retries::3",
        "up::high_priority::max_connections::1024",
        "up::added_via_api::true",
        "up::eds_service_name::svc",
        "up::127.0.0.1:9000::rq_active::1",
        "up::127.0.0.1:9000::rq_total::4",
        "up::127.0.0.1:9000::health_flags::/failed_outlier_check/eds_status_draining",
        "up::127.0.0.1:9000::weight::3",
        "up::127.0.0.1:9000::sub_zone::",
        "up::127.0.0.1:9000::success_rate::99.5",
        "up::127.0.0.1:9000::local_origin_success_rate::-1",
    ];
    let mut lines = text.lines();
    for line in want {
        assert!(lines.any(|l| l == line), "{line} in its place in\n{text}");
    }
    assert_eq!(fixture.get("/clusters?filter=nope").await, "");
    let json = fixture.json("/clusters?format=json").await;
    let cluster = &json["cluster_statuses"][0];
    assert_eq!(
        cluster["circuit_breakers"]["thresholds"][1]["priority"],
        "HIGH"
    );
    let host = &cluster["host_statuses"][0];
    let health = json!({"failed_outlier_check": true, "eds_health_status": "DRAINING"});
    assert_eq!(host["health_status"], health);
    assert_eq!(host["stats"][0], json!({"name": "cx_connect_fail"}));
    assert_eq!(host["stats"][5], json!({"value": "4", "name": "rq_total"}));
    let active = json!({"type": "GAUGE", "value": "1", "name": "rq_active"});
    assert_eq!(host["stats"][7], active);
    assert_eq!(
        fixture.get("/listeners").await,
        "l1::127.0.0.1:80\nl1::127.0.0.1:81\n"
    );
    let text = fixture.get("/listeners?format=json").await;
    let start =
        "{\n \"listener_statuses\": [\n  {\n   \"name\": \"l1\",\n   \"local_address\": {\n";
    assert!(text.starts_with(start), "{text}");
    assert!(text.contains("additional_local_addresses"), "{text}");
}

#[tokio::test]
async fn log_levels_change_all_or_nothing() {
    let fixture = Fixture::start().await;
    let (status, body) = fixture.post("/logging?level=debug").await;
    assert_eq!(
        (status, body.as_str()),
        (200, "active loggers:\n  weft: debug\n\n")
    );
    for bad in ["level=bogus", "nobody=info", "paths=weft:trace,nobody:info"] {
        let (status, body) = fixture.post(&format!("/logging?{bad}")).await;
        assert_eq!(status, 400);
        assert!(body.contains("  weft: debug\n"), "{bad}: {body}");
    }
    assert_eq!(fixture.post("/logging?paths=weft:warning").await.0, 200);
    assert!(fixture.post("/logging").await.1.contains("weft: warning"));
}

#[tokio::test]
async fn reopen_logs_rotates_files() {
    let fixture = Fixture::start().await;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let _file = fixture.logs.open(&Target::File(path.clone())).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(fixture.post("/reopen_logs").await, (200, "OK\n".to_owned()));
    assert!(fixture.logs.finish(Duration::from_secs(5)));
    assert!(path.exists());
}

#[tokio::test]
async fn certificates_are_told_with_names_and_times() {
    let fixture = Fixture::start().await;
    let certs = fixture.json("/certs").await;
    let names = json!([
        {"dns": "a.test"},
        {"uri": "spiffe://a"},
        {"ip_address": "127.0.0.1"},
    ]);
    let [context] = certs["certificates"].as_array().expect("a list").as_slice() else {
        panic!("one context: {certs}")
    };
    let trusted = &context["ca_cert"][0];
    assert_eq!(trusted["path"], "/etc/ca.pem");
    assert_eq!(trusted["subject_alt_names"], names);
    assert_eq!(trusted["days_until_expiration"], "3");
    let expired = json!([{
        "path": "<inline>",
        "serial_number": "0a",
        "subject_alt_names": names,
        "days_until_expiration": "0",
        "valid_from": "1970-01-02T00:00:00Z",
        "expiration_time": "1970-01-03T00:00:00Z",
    }]);
    assert_eq!(context["cert_chain"], expired);
    let days = fixture.get("/stats?filter=days_until").await;
    assert_eq!(days, "server.days_until_first_cert_expiring: 0\n");
}
