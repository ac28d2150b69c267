//! HTTP/2 pools.

use super::*;
use weft_config::http_options::CommonHttpOptions;

fn world(address: SocketAddr) -> World {
    let world = World::new();
    let mut config = config("c", flat("c", &[address]));
    config.http = http2();
    world.store.apply_cluster(Arc::new(config), false);
    world
}

#[test]
fn one_connection_carries_requests_at_once() {
    on_worker(async {
        let server = server("b", true).await;
        let world = world(server.address);
        for _ in 0..3 {
            let all = (0..SERVER_STREAMS).map(|_| world.text("/slow"));
            let texts = futures_util::future::join_all(all).await;
            assert!(texts.iter().all(|t| t == "b"));
        }
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(world.stat("upstream_cx_http2_total"), 1);
        assert_eq!(world.stat("upstream_rq_total"), 12);
        assert_eq!(world.stat("upstream_rq_active"), 0);
    });
}

#[test]
fn a_full_connection_gets_a_second_one_beside_it() {
    on_worker(async {
        let server = server("b", true).await;
        let world = world(server.address);
        // Learns what the server allows.
        world.text("/").await;
        world.text("/").await;
        let all = (0..2 * SERVER_STREAMS).map(|_| world.text("/slow"));
        let texts = futures_util::future::join_all(all).await;
        assert!(texts.iter().all(|t| t == "b"));
        assert_eq!(server.accepted.get(), 2);
    });
}

#[test]
fn goaway_moves_requests_to_another_connection() {
    on_worker(async {
        let server = server("b", true).await;
        let world = world(server.address);
        let slow = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            server.closing.send_replace(true);
            tokio::time::sleep(Duration::from_millis(10)).await;
            server.closing.send_replace(false);
            world.text("/").await
        };
        let (first, second) = futures_util::future::join(world.text("/slow"), slow).await;
        assert_eq!((first.as_str(), second.as_str()), ("b", "b"));
        assert_eq!(server.accepted.get(), 2);
        world.until("upstream_cx_active", 1).await;
    });
}

#[test]
fn who_waits_for_a_connection_that_retires_gets_the_next_one() {
    on_worker(async {
        let server = server("b", true).await;
        let world = World::new();
        let mut config = config("c", flat("c", &[server.address]));
        config.http = Arc::new(UpstreamHttp {
            protocol: UpstreamProtocol::Http2,
            common: CommonHttpOptions {
                max_requests_per_connection: Some(1),
                ..CommonHttpOptions::default()
            },
            ..UpstreamHttp::default()
        });
        config.breakers.default.max_connections = 1;
        world.store.apply_cluster(Arc::new(config), false);
        let all = futures_util::future::join_all((0..3).map(|_| world.text("/slow"))).await;
        assert_eq!(all, ["b", "b", "b"]);
        assert_eq!(server.accepted.get(), 3);
    });
}

#[test]
fn giving_up_resets_the_stream_and_keeps_the_connection() {
    on_worker(async {
        let server = server("b", true).await;
        let world = world(server.address);
        world.text("/").await;
        let given_up = tokio::time::timeout(Duration::from_millis(30), world.send("/slow")).await;
        assert!(given_up.is_err());
        assert_eq!(world.text("/").await, "b");
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(world.stat("upstream_rq_tx_reset"), 1);
        assert_eq!(world.stat("upstream_rq_active"), 0);
    });
}

#[test]
fn a_failed_connection_fails_all_who_wait_for_it() {
    on_worker(async {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let world = world(address);
        let all = futures_util::future::join_all((0..5).map(|_| world.send("/"))).await;
        let refused = |r: &Result<_, SendFailure>| {
            r.as_ref()
                .is_err_and(|f| f.kind == FailureKind::RemoteConnectFailure)
        };
        assert!(all.iter().all(refused));
        assert_eq!(world.stat("upstream_cx_connect_fail"), 1);
    });
}

#[test]
fn heads_and_trailers_come_whole_or_not_at_all() {
    on_worker(async {
        let server = server("b", true).await;
        let world = world(server.address);
        for kb in [20, 59] {
            let response = world.send(&format!("/header/{}", kb * 1024)).await.unwrap();
            assert_eq!(response.headers()["x-large"].len(), kb * 1024);
            let response = world
                .send(&format!("/trailer/{}", kb * 1024))
                .await
                .unwrap();
            let body = response.into_body().collect().await.unwrap();
            let trailers = body.trailers().unwrap();
            assert_eq!((trailers.len(), trailers["x-large"].len()), (2, kb * 1024));
        }
        for kb in [61, 100, 150] {
            let failure = world.send(&format!("/header/{}", kb * 1024)).await;
            assert_eq!(failure.unwrap_err().kind, FailureKind::RemoteReset);
            let response = world
                .send(&format!("/trailer/{}", kb * 1024))
                .await
                .unwrap();
            let error = response.into_body().collect().await.unwrap_err();
            assert_eq!(FailureKind::of_body(&error), FailureKind::RemoteReset);
        }
        assert_eq!(world.text("/").await, "b");
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(world.stat("upstream_rq_active"), 0);
    });
}

#[test]
fn trailers_that_the_library_would_cut_end_the_connection() {
    on_worker(async {
        let server = server("b", true).await;
        let world = world(server.address);
        for kb in [200, 300, 900] {
            let response = world
                .send(&format!("/trailer/{}", kb * 1024))
                .await
                .unwrap();
            assert!(response.into_body().collect().await.is_err(), "{kb}");
        }
        assert_eq!(world.text("/").await, "b");
    });
}

#[test]
fn the_limit_of_heads_is_configured() {
    on_worker(async {
        let server = server("b", true).await;
        let world = World::new();
        let mut config = config("c", flat("c", &[server.address]));
        config.http = Arc::new(UpstreamHttp {
            protocol: UpstreamProtocol::Http2,
            common: CommonHttpOptions {
                max_response_headers_kb: Some(200),
                ..CommonHttpOptions::default()
            },
            ..UpstreamHttp::default()
        });
        world.store.apply_cluster(Arc::new(config), false);
        let path = |kb: usize| format!("/header/{}", kb * 1024);
        assert!(world.send(&path(190)).await.is_ok());
        assert!(world.send(&path(201)).await.is_err());
    });
}
