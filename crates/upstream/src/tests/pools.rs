//! Pools with a key: of a server name, or of a downstream connection.

use super::*;

fn apart(downstream_id: u64) -> SendOptions {
    SendOptions {
        downstream_id,
        ..SendOptions::default()
    }
}

async fn world(http2: bool) -> (World, Server) {
    let (world, server) = (World::new(), server("a", http2).await);
    let mut config = config("c", flat("c", &[server.address]));
    config.connection_pool_per_downstream_connection = true;
    if http2 {
        config.http = super::http2();
    }
    world.store.apply_cluster(Arc::new(config), false);
    (world, server)
}

#[test]
fn a_downstream_connection_takes_its_connections_with_it() {
    for http2 in [false, true] {
        on_worker(async {
            let (world, server) = world(http2).await;
            let cluster = world.cluster();
            let host = cluster.pick(&PickContext::default()).unwrap();
            for id in [1, 2, 1] {
                let sent = cluster.send(&host, get("/"), &apart(id)).await;
                assert_eq!(text(sent.unwrap()).await, "a");
            }
            assert_eq!(server.accepted.get(), 2);
            let options = apart(2);
            let under_way = cluster.send(&host, get("/slow"), &options);
            let end = async {
                tokio::time::sleep(Duration::from_millis(30)).await;
                world.manager.downstream_ended(1);
                world.until("upstream_cx_active", 1).await;
                world.manager.downstream_ended(2);
                world.manager.downstream_ended(3);
            };
            let (sent, ()) = futures_util::future::join(under_way, end).await;
            assert_eq!(text(sent.unwrap()).await, "a");
            world.until("upstream_cx_active", 0).await;
        });
    }
}

#[test]
fn at_the_limit_the_pool_that_is_idle_longest_goes() {
    on_worker(async {
        let (world, server) = world(false).await;
        let cluster = world.cluster();
        let host = cluster.pick(&PickContext::default()).unwrap();
        for id in 0..1025 {
            let sent = cluster.send(&host, get("/"), &apart(id)).await;
            assert_eq!(text(sent.unwrap()).await, "a");
        }
        world.until("upstream_cx_active", 1024).await;
        // The second is still there, the first is not.
        for (id, accepted) in [(1, 1025), (0, 1026)] {
            let sent = cluster.send(&host, get("/"), &apart(id)).await;
            assert_eq!(text(sent.unwrap()).await, "a");
            assert_eq!(server.accepted.get(), accepted, "{id}");
        }
        assert_eq!(world.stat("upstream_cx_pool_overflow"), 0);
    });
}
