//! HTTP/1 pools.

use super::*;
use weft_config::cluster::Thresholds;
use weft_config::http_options::CommonHttpOptions;

#[test]
fn one_connection_serves_requests_that_follow_each_other() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[server.address]))), false);
        for _ in 0..50 {
            assert_eq!(world.text("/").await, "a");
        }
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(world.stat("upstream_cx_http1_total"), 1);
        assert_eq!(world.stat("upstream_rq_total"), 50);
        assert_eq!(world.stat("upstream_rq_2xx"), 50);
        assert_eq!(world.stat("upstream_rq_200"), 50);
        assert_eq!(world.stat("upstream_rq_active"), 0);
        assert_eq!(world.stat("upstream_cx_active"), 1);
        let status = world.store.statuses().remove(0);
        let stats = status.hosts.hosts()[0].shared.stats();
        assert_eq!(
            (stats.rq_total, stats.rq_success, stats.rq_active),
            (50, 50, 0)
        );
        assert_eq!((stats.cx_total, stats.cx_active), (1, 1));
    });
}

#[test]
fn requests_at_once_get_a_connection_each_and_then_share_them() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[server.address]))), false);
        for _ in 0..3 {
            let all = (0..8).map(|_| world.text("/slow"));
            let texts = futures_util::future::join_all(all).await;
            assert!(texts.iter().all(|t| t == "a"));
        }
        assert_eq!(server.accepted.get(), 8);
        assert_eq!(world.stat("upstream_cx_total"), 8);
        assert_eq!(world.stat("upstream_rq_pending_active"), 0);
    });
}

#[test]
fn a_body_goes_up_whole() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[server.address]))), false);
        let cluster = world.cluster();
        let host = cluster.pick(&PickContext::default()).unwrap();
        for size in [1_usize, 300_000] {
            let full = RequestBody::Full(vec![b'x'; size].into());
            let streamed = Full::new(Bytes::from(vec![b'x'; size]));
            let boxed = RequestBody::boxed(streamed.map_err(|never| match never {}));
            for body in [full, boxed] {
                let request = Request::post("/").header("host", "t").body(body).unwrap();
                let sent = cluster.send(&host, request, &SendOptions::default()).await;
                assert_eq!(text(sent.unwrap()).await, format!("a {size}"));
            }
        }
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn a_body_of_unknown_length_goes_up_with_every_method() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[server.address]))), false);
        let cluster = world.cluster();
        let host = cluster.pick(&PickContext::default()).unwrap();
        for method in ["GET", "DELETE", "OPTIONS", "POST"] {
            let frames = ["one", "two"].map(|text| Ok(http_body::Frame::data(text.into())));
            let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
            let request = Request::builder().method(method).uri("/");
            let request = request.body(RequestBody::boxed(body)).unwrap();
            let sent = cluster.send(&host, request, &SendOptions::default()).await;
            assert_eq!(text(sent.unwrap()).await, "a 6", "{method}");
        }
        assert_eq!(server.accepted.get(), 1);
    });
}

#[test]
fn a_connection_that_the_server_closed_is_noticed_while_idle() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[server.address]))), false);
        world.text("/").await;
        server.closing.send_replace(true);
        world.until("upstream_cx_active", 0).await;
        assert_eq!(world.stat("upstream_cx_destroy_remote"), 1);
        assert_eq!(world.stat("upstream_cx_destroy_remote_with_active_rq"), 0);
        server.closing.send_replace(false);
        assert_eq!(world.text("/").await, "a");
        assert_eq!(server.accepted.get(), 2);
    });
}

#[test]
fn a_server_that_closes_after_each_response_loses_no_request() {
    on_worker(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            loop {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let _ = tcp.read(&mut buffer).await;
                // Says nothing of closing, and closes.
                let _ = tcp
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nx")
                    .await;
            }
        });
        let world = World::new();
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[address]))), false);
        for _ in 0..100 {
            assert_eq!(world.text("/").await, "x");
            // The close arrives before the next request, as it does between two of a client.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
}

#[test]
fn giving_up_closes_the_connection_and_releases_everything() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[server.address]))), false);
        let given_up = tokio::time::timeout(Duration::from_millis(30), world.send("/slow")).await;
        assert!(given_up.is_err());
        world.until("upstream_cx_active", 0).await;
        assert_eq!(world.stat("upstream_rq_active"), 0);
        assert_eq!(world.stat("upstream_rq_tx_reset"), 1);
        assert_eq!(world.stat("upstream_cx_destroy_local_with_active_rq"), 1);
        let cluster = world.cluster();
        let breaker = cluster.breaker(Priority::Default);
        assert_eq!(
            (breaker.requests.used(), breaker.connections.used()),
            (0, 0)
        );
        assert_eq!(breaker.pending.used(), 0);
        assert_eq!(world.text("/").await, "a");
    });
}

#[test]
fn refused_connections_fail_every_waiting_request_and_say_so() {
    on_worker(async {
        let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = free.local_addr().unwrap();
        drop(free);
        let world = World::new();
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[address]))), false);
        let all = futures_util::future::join_all((0..5).map(|_| world.send("/"))).await;
        for result in all {
            let failure = result.unwrap_err();
            assert_eq!(failure.kind, FailureKind::RemoteConnectFailure);
            assert!(failure.certainly_unsent() && failure.request.is_some());
            assert_eq!(
                failure.to_string(),
                "remote connection failure, transport failure reason: \
                 delayed connect error: Connection refused"
            );
        }
        assert_eq!(world.stat("upstream_cx_connect_fail"), 5);
        assert_eq!(world.stat("upstream_cx_active"), 0);
        assert_eq!(world.stat("upstream_rq_pending_active"), 0);
    });
}

#[test]
fn breakers_limit_connections_pending_and_requests() {
    on_worker(async {
        let server = server("a", false).await;
        let with = |thresholds: Thresholds| {
            let world = World::new();
            let mut config = config("c", flat("c", &[server.address]));
            config.breakers.default = thresholds;
            world.store.apply_cluster(Arc::new(config), false);
            world
        };
        // Two connections: the third request waits for one of them.
        let world = with(Thresholds {
            max_connections: 2,
            ..Thresholds::default()
        });
        let all = futures_util::future::join_all((0..3).map(|_| world.text("/slow"))).await;
        assert_eq!(all.len(), 3);
        assert_eq!(world.stat("upstream_cx_total"), 2);
        assert_eq!(world.stat("upstream_cx_overflow"), 1);
        // One connection, one pending request: the rest overflow.
        let world = with(Thresholds {
            max_connections: 1,
            max_pending_requests: 1,
            ..Thresholds::default()
        });
        let all = futures_util::future::join_all((0..3).map(|_| world.send("/slow"))).await;
        let failed = all.iter().filter_map(|r| r.as_ref().err());
        let kinds: Vec<_> = failed.map(|f| f.kind).collect();
        assert_eq!(kinds, [FailureKind::Overflow; 2]);
        assert_eq!(world.stat("upstream_rq_pending_overflow"), 2);
        // One request at a time.
        let world = with(Thresholds {
            max_requests: 1,
            ..Thresholds::default()
        });
        let all = futures_util::future::join_all((0..2).map(|_| world.send("/slow"))).await;
        assert_eq!(all.iter().filter(|r| r.is_err()).count(), 1);
        drop(all);
        assert_eq!(world.text("/").await, "a");
    });
}

#[test]
fn idle_timeout_request_count_and_age_close_connections() {
    on_worker(async {
        let server = server("a", false).await;
        let with = |common: CommonHttpOptions| {
            let world = World::new();
            let mut config = config("c", flat("c", &[server.address]));
            config.http = Arc::new(UpstreamHttp {
                common,
                ..UpstreamHttp::default()
            });
            world.store.apply_cluster(Arc::new(config), false);
            world
        };
        let world = with(CommonHttpOptions {
            idle_timeout: Some(Duration::from_millis(50)),
            ..CommonHttpOptions::default()
        });
        world.text("/").await;
        world.until("upstream_cx_idle_timeout", 1).await;
        world.until("upstream_cx_active", 0).await;
        let world = with(CommonHttpOptions {
            max_requests_per_connection: Some(2),
            ..CommonHttpOptions::default()
        });
        for _ in 0..6 {
            world.text("/").await;
        }
        assert_eq!(world.stat("upstream_cx_total"), 3);
        assert_eq!(world.stat("upstream_cx_max_requests"), 3);
        let world = with(CommonHttpOptions {
            max_connection_duration: Some(Duration::from_millis(50)),
            ..CommonHttpOptions::default()
        });
        world.text("/").await;
        world.until("upstream_cx_max_duration_reached", 1).await;
    });
}

#[test]
fn an_answer_that_is_not_http_is_a_protocol_error() {
    on_worker(async {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            for answer in [&b"SSH-2.0-x\r\n\r\n"[..], b""] {
                let (mut tcp, _) = listener.accept().await.unwrap();
                let mut buffer = [0; 1024];
                let _ = tcp.read(&mut buffer).await;
                let _ = tcp.write_all(answer).await;
            }
        });
        let world = World::new();
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[address]))), false);
        let failure = world.send("/").await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ProtocolError);
        let failure = world.send("/").await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ConnectionTermination);
        assert!(!failure.certainly_unsent());
    });
}

#[test]
fn an_upgraded_connection_counts_until_it_closes() {
    on_worker(async {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::task::spawn_local(async move {
            let (mut tcp, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 1024];
            let _ = tcp.read(&mut buffer).await;
            let head =
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n";
            tcp.write_all(head).await.unwrap();
            let byte = tcp.read_u8().await.unwrap();
            tcp.write_all(&[byte + 1]).await.unwrap();
        });
        let world = World::new();
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[address]))), false);
        let mut request = get("/");
        let headers = request.headers_mut();
        headers.insert("upgrade", "x".parse().unwrap());
        headers.insert("connection", "upgrade".parse().unwrap());
        let cluster = world.cluster();
        let host = cluster.pick(&PickContext::default()).unwrap();
        let sent = cluster.send(&host, request, &SendOptions::default()).await;
        let mut response = sent.unwrap();
        assert_eq!(response.status(), 101);
        let upgraded = hyper::upgrade::on(&mut response).await.unwrap();
        let parts = upgraded.downcast::<weft_net::Stream>().unwrap();
        let mut stream = parts.io;
        stream.write_all(&[41]).await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), 42);
        assert_eq!(world.stat("upstream_cx_active"), 1);
        assert_eq!(world.stat("upstream_rq_active"), 1);
        drop((stream, response));
        world.until("upstream_cx_active", 0).await;
        assert_eq!(world.stat("upstream_rq_active"), 0);
    });
}

#[test]
fn a_head_that_is_too_large_is_a_protocol_error() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[server.address]))), false);
        assert!(world.send("/header/80000").await.is_ok());
        let failure = world.send("/header/82000").await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::ProtocolError);
        assert_eq!(world.stat("upstream_cx_protocol_error"), 1);
        assert_eq!(world.text("/").await, "a");
    });
}
