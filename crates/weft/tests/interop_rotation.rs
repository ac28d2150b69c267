//! Certificates that are renewed again and again, and a root that is replaced, under load: no
//! request fails and no connection closes. Between Weft proxies that are their own agents, and
//! between Envoys that the control plane serves.

mod agents;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use agents::{FRESH, SOON, World, call, lasting, metric, to};

use tokio::task::JoinHandle;
use weft_testkit::{Connection, Dataplane, Mesh, eventually, one_at_a_time};

/// Renewals of all proxies together; `WEFT_ROTATIONS=1000` for the long form.
const ROTATIONS: u64 = 150;
/// How long a new root is trusted before it signs (`--ca-root-spread`).
const SPREAD: &str = "10s";

/// A load over connections that are never opened again.
struct Load {
    stop: Arc<AtomicBool>,
    calls: Arc<AtomicU64>,
    clients: Vec<JoinHandle<Result<(), String>>>,
}

impl Load {
    async fn start(caller: std::net::SocketAddr) -> Self {
        let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let mut clients = Vec::new();
        // Two over connections between the proxies that last, two with one for each request.
        for host in [Mesh::HOST, FRESH, Mesh::HOST, FRESH] {
            let mut connection = Connection::open(caller).await.expect("connected");
            let (stop, calls) = (Arc::clone(&stop), Arc::clone(&calls));
            clients.push(tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let call = calls.fetch_add(1, Ordering::Relaxed);
                    match to(&mut connection, host).await {
                        Ok(200) => {}
                        other => return Err(format!("call {call} of {host}: {other:?}")),
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                Ok(())
            }));
        }
        Self {
            stop,
            calls,
            clients,
        }
    }

    fn assert_running(&self) {
        let ended = self.clients.iter().any(JoinHandle::is_finished);
        assert!(!ended || self.stop.load(Ordering::Relaxed), "a call failed");
    }

    /// Ends it; gives the number of calls, none of which failed.
    async fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let outcome = client.await.expect("no panic");
            assert_eq!(outcome, Ok(()));
        }
        self.calls.load(Ordering::Relaxed)
    }
}

async fn served(front: std::net::SocketAddr) {
    eventually("the caller is served", SOON, async || {
        let seen = call(front).await;
        (seen == Ok(200)).then_some(()).ok_or(format!("{seen:?}"))
    })
    .await;
}

/// Replaces the root; waits until the next one signs and everybody has a certificate of it.
async fn rotate_root(world: &World, load: &Load, renewed: impl AsyncFn() -> bool) {
    world.weft(&["ca", "rotate"]);
    eventually("both roots are trusted", SOON, async || {
        load.assert_running();
        let roots = world.control.metric("weft_ca_roots").await;
        (roots == 2).then_some(()).ok_or(roots.to_string())
    })
    .await;
    eventually(
        "the next root signs, and all have such a certificate",
        Duration::from_mins(1),
        async || {
            load.assert_running();
            renewed().await.then_some(()).ok_or("not yet".to_owned())
        },
    )
    .await;
}

/// Whether the certificates that a proxy writes are of the root that signs now, which is the first
/// of the bundle.
fn is_of_new_root(world: &World, folder: &std::path::Path) -> bool {
    let read = |path: std::path::PathBuf| std::fs::read_to_string(path).unwrap_or_default();
    let bundle = read(world.roots());
    let trusted = read(folder.join("root-cert.pem"));
    // The bundle begins with the root that signs.
    let first = |text: &str| text.split("-----END").next().map(str::to_owned);
    trusted.matches("BEGIN").count() == 2 && first(&bundle) == first(&trusted)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_rotations_and_a_new_root_cost_no_request_and_no_connection() {
    let _turn = one_at_a_time();
    let wanted = std::env::var("WEFT_ROTATIONS").ok();
    let wanted = wanted
        .and_then(|text| text.parse().ok())
        .unwrap_or(ROTATIONS);
    let world = World::start(&[
        &format!("--ca-root-spread={SPREAD}"),
        "--max-workload-cert-ttl=1h",
    ])
    .await;
    let folders = ["server-certs", "front-certs"].map(|name| world.folder.path(name));
    let environment = |at: usize| {
        vec![
            ("SECRET_TTL".to_owned(), "10s".to_owned()),
            ("SECRET_GRACE_PERIOD_RATIO".to_owned(), "0.97".to_owned()),
            ("OUTPUT_CERTS".to_owned(), folders[at].display().to_string()),
        ]
    };
    let (own, its) = (environment(0), environment(1));
    let (server, _) = world.server(&borrowed(&own)).await;
    let (front, front_port) = world.caller("front", 25, &borrowed(&its)).await;
    served(front_port).await;
    let load = Load::start(front_port).await;
    let closed = lasting(&front).await;
    let old_root = std::fs::read_to_string(world.roots()).expect("there");
    let rotations = async || {
        let counts = [&server, &front].map(|proxy| metric(proxy, "agent.certificates"));
        let [a, b] = counts;
        a.await + b.await
    };
    let limit = Duration::from_secs(60 + wanted / 2);
    let until = async |count: u64| {
        eventually(&format!("{count} rotations"), limit, async || {
            load.assert_running();
            let seen = rotations().await;
            (seen >= count).then_some(()).ok_or(seen.to_string())
        })
        .await;
    };
    until(wanted / 2).await;
    rotate_root(&world, &load, async || {
        let root = std::fs::read_to_string(world.roots()).unwrap_or_default();
        // The next root signs once it stands first.
        !root.starts_with(&old_root) && folders.iter().all(|folder| is_of_new_root(&world, folder))
    })
    .await;
    let so_far = rotations().await;
    until(wanted.max(so_far + 20)).await;
    // Of the lasting connections none closed; those of one request each are another cluster's.
    assert_eq!(lasting(&front).await, closed);
    let calls = load.finish().await;
    assert!(calls > 500, "{calls}");
    for proxy in [&server, &front] {
        assert_eq!(metric(proxy, "agent.num_failed_outgoing_requests").await, 0);
        assert_upstream_never_failed(proxy).await;
    }
    let issued = world
        .control
        .metric("citadel_server_success_cert_issuance_count")
        .await;
    assert!(issued >= wanted, "{issued}");
}

/// No handshake between the proxies failed.
async fn assert_upstream_never_failed(proxy: &Dataplane) {
    let stats = proxy.stats().await;
    for end in ["ssl.connection_error", "upstream_cx_connect_fail"] {
        let failed = stats
            .ending(end)
            .into_iter()
            .filter(|(_, count)| *count > 0);
        let failed: Vec<_> = failed.collect();
        assert!(failed.is_empty(), "{}: {failed:?}", proxy.id);
    }
}

fn borrowed(all: &[(String, String)]) -> Vec<(&str, &str)> {
    all.iter()
        .map(|(name, value)| (&**name, &**value))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn envoys_notice_neither_renewals_nor_a_new_root() {
    let _turn = one_at_a_time();
    let world = World::start(&["--workload-cert-ttl=6s", "--ca-root-spread=6s"]).await;
    let (_server, _) = world.envoy("server", 24, true).await;
    let (front, front_port) = world.envoy("front", 25, false).await;
    served(front_port).await;
    let load = Load::start(front_port).await;
    let closed = lasting(&front).await;
    let made = async || world.control.metric("weft_ca_workload_certificates").await;
    let old_root = std::fs::read_to_string(world.roots()).expect("there");
    let began = Instant::now();
    rotate_root(&world, &load, async || {
        let root = std::fs::read_to_string(world.roots()).unwrap_or_default();
        !root.starts_with(&old_root)
    })
    .await;
    let so_far = made().await;
    eventually("ten more certificates", SOON * 2, async || {
        load.assert_running();
        let seen = made().await;
        (seen >= so_far + 10).then_some(()).ok_or(seen.to_string())
    })
    .await;
    assert_eq!(lasting(&front).await, closed, "after {:?}", began.elapsed());
    let calls = load.finish().await;
    assert!(calls > 300, "{calls}");
}
