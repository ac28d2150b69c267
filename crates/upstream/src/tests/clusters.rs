//! Changes of clusters under traffic, discovery, and what outlives a change.

use super::*;
use weft_config::cluster::OutlierDetection;

fn eds(name: &str) -> Config {
    let mut config = config(name, Arc::new(LoadAssignment::empty(name.into())));
    config.discovery = Discovery::Eds {
        service_name: "service".into(),
    };
    config
}

fn outlier() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 3,
        enforcing_consecutive_5xx: 100,
        consecutive_gateway_failure: 5,
        enforcing_consecutive_gateway_failure: 0,
        split_external_local_origin_errors: false,
        consecutive_local_origin_failure: 5,
        enforcing_consecutive_local_origin_failure: 100,
        interval: Duration::from_millis(50),
        base_ejection_time: Duration::from_millis(200),
        max_ejection_time: Duration::from_mins(5),
        max_ejection_time_jitter: Duration::ZERO,
        max_ejection_percent: 50,
        always_eject_one_host: false,
        enforcing_success_rate: 0,
        enforcing_local_origin_success_rate: 0,
        success_rate_minimum_hosts: 5,
        success_rate_request_volume: 100,
        success_rate_stdev_factor: 1900,
        failure_percentage_threshold: 85,
        enforcing_failure_percentage: 0,
        enforcing_failure_percentage_local_origin: 0,
        failure_percentage_minimum_hosts: 5,
        failure_percentage_request_volume: 50,
    }
}

#[test]
fn a_cluster_change_that_concerns_no_connection_closes_none() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        let mut config = config("c", flat("c", &[server.address]));
        world.store.apply_cluster(Arc::new(config.clone()), true);
        world.text("/").await;
        config.lb = LbPolicy::Random;
        config.breakers.default.max_requests = 5;
        config.lb_common.healthy_panic_threshold = 10.0;
        world.store.apply_cluster(Arc::new(config.clone()), true);
        world.text("/").await;
        assert_eq!(server.accepted.get(), 1);
        assert_eq!(world.stat("upstream_rq_total"), 2);
        // One that does, makes new ones.
        config.connect_timeout = Duration::from_secs(1);
        world.store.apply_cluster(Arc::new(config), true);
        world.text("/").await;
        assert_eq!(server.accepted.get(), 2);
        world.until("upstream_cx_active", 1).await;
    });
}

#[test]
fn endpoints_that_stay_keep_their_connections_and_others_drain() {
    on_worker(async {
        let world = World::new();
        let (a, b, c) = (
            server("a", false).await,
            server("b", false).await,
            server("c", false).await,
        );
        world.store.apply_cluster(Arc::new(eds("c")), true);
        assert_eq!(world.store.unready(), ["c".into()]);
        assert!(world.cluster().pick(&PickContext::default()).is_none());
        assert!(
            world
                .store
                .apply_assignment(flat("service", &[a.address, b.address]))
        );
        assert!(world.store.unready().is_empty());
        for _ in 0..10 {
            world.text("/").await;
        }
        // A request is under way on each when `b` goes and `c` comes.
        let change = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            world
                .store
                .apply_assignment(flat("service", &[a.address, c.address]));
        };
        let requests = futures_util::future::join(world.text("/slow"), world.text("/slow"));
        let ((one, two), ()) = futures_util::future::join(requests, change).await;
        let mut served = [one, two];
        served.sort();
        assert_eq!(served, ["a", "b"]);
        for _ in 0..10 {
            assert_ne!(world.text("/").await, "b");
        }
        assert_eq!(a.accepted.get(), 1);
        while b.open.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(world.stat("membership_change"), 2);
        assert_eq!(world.stat("membership_total"), 2);
        assert_eq!(world.stat("membership_healthy"), 2);
    });
}

#[test]
fn the_same_endpoints_again_change_nothing() {
    on_worker(async {
        let (world, a) = (World::new(), server("a", false).await);
        world.store.apply_cluster(Arc::new(eds("c")), true);
        world.store.apply_assignment(flat("service", &[a.address]));
        let before = Arc::clone(world.cluster().hosts());
        world.store.apply_assignment(flat("service", &[a.address]));
        assert!(Arc::ptr_eq(&before, world.cluster().hosts()));
        assert_eq!(world.stat("update_no_rebuild"), 1);
        // The cluster again, as after a reconnect: endpoints stay known.
        let mut again = eds("c");
        again.connect_timeout = Duration::from_secs(3);
        world.store.apply_cluster(Arc::new(again), true);
        assert_eq!(world.text("/").await, "a");
        // Endpoints of a service that nobody uses are not kept.
        assert!(!world.store.apply_assignment(flat("stranger", &[a.address])));
    });
}

#[test]
fn a_new_service_name_keeps_the_old_hosts_until_its_endpoints_arrive() {
    on_worker(async {
        let (world, a, b) = (
            World::new(),
            server("a", false).await,
            server("b", false).await,
        );
        world.store.apply_cluster(Arc::new(eds("c")), true);
        world.store.apply_assignment(flat("service", &[a.address]));
        let mut moved = eds("c");
        moved.discovery = Discovery::Eds {
            service_name: "other".into(),
        };
        world.store.apply_cluster(Arc::new(moved), true);
        assert_eq!(world.text("/").await, "a");
        world.store.apply_assignment(flat("other", &[b.address]));
        assert_eq!(world.text("/").await, "b");
    });
}

#[test]
fn a_removed_cluster_finishes_requests_and_closes_idle_connections() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        world
            .store
            .apply_cluster(Arc::new(config("c", flat("c", &[server.address]))), true);
        futures_util::future::join(world.text("/slow"), world.text("/slow")).await;
        assert_eq!(server.open.get(), 2);
        let remove = async {
            tokio::time::sleep(Duration::from_millis(30)).await;
            assert!(world.store.remove_cluster("c"));
        };
        let (text, ()) = futures_util::future::join(world.text("/slow"), remove).await;
        assert_eq!(text, "a");
        assert!(world.manager.get("c").is_none());
        while server.open.get() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(!world.store.remove_cluster("c"));
    });
}

#[test]
fn a_failing_host_is_ejected_for_its_time_and_again_used() {
    on_worker(async {
        let world = World::new();
        let (a, b) = (server("a", false).await, server("b", false).await);
        let mut config = config("c", flat("c", &[a.address, b.address]));
        config.outlier = Some(Arc::new(outlier()));
        world.store.apply_cluster(Arc::new(config), false);
        let cluster = world.cluster();
        let first = cluster.pick(&PickContext::default()).unwrap();
        for _ in 0..3 {
            let sent = cluster
                .send(&first, get("/status/500"), &SendOptions::default())
                .await;
            text(sent.unwrap()).await;
        }
        assert!(first.shared().is_ejected());
        assert_eq!(world.stat("outlier_detection.ejections_active"), 1);
        assert_eq!(world.stat("membership_healthy"), 1);
        for _ in 0..10 {
            let host = cluster.pick(&PickContext::default()).unwrap();
            assert!(!host.same(&first));
        }
        world.until("outlier_detection.ejections_active", 0).await;
        assert_eq!(world.stat("membership_healthy"), 2);
        let back = (0..2).any(|_| cluster.pick(&PickContext::default()).unwrap().same(&first));
        assert!(back);
    });
}

#[test]
fn switching_outlier_detection_off_lets_everybody_back_and_closes_nothing() {
    on_worker(async {
        let world = World::new();
        let (a, b) = (server("a", false).await, server("b", false).await);
        let mut config = config("c", flat("c", &[a.address, b.address]));
        config.outlier = Some(Arc::new(outlier()));
        world.store.apply_cluster(Arc::new(config.clone()), true);
        for _ in 0..6 {
            let response = world.send("/status/500").await.unwrap();
            text(response).await;
        }
        assert_eq!(world.stat("outlier_detection.ejections_active"), 1);
        config.outlier = None;
        world.store.apply_cluster(Arc::new(config), true);
        let mut served: Vec<String> = Vec::new();
        for _ in 0..4 {
            served.push(world.text("/").await);
        }
        served.sort();
        assert_eq!(served, ["a", "a", "b", "b"]);
        assert_eq!((a.accepted.get(), b.accepted.get()), (1, 1));
        assert_eq!(world.stat("membership_healthy"), 2);
    });
}

#[test]
fn original_destinations_are_hosts_while_they_are_used() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        let mut config = config("c", Arc::new(LoadAssignment::empty("c".into())));
        config.discovery = Discovery::OriginalDst {
            http_header: None,
            port_override: None,
            cleanup_interval: Duration::from_millis(20),
        };
        config.lb = LbPolicy::ClusterProvided;
        world.store.apply_cluster(Arc::new(config), false);
        let cluster = world.cluster();
        assert!(cluster.pick(&PickContext::default()).is_none());
        assert_eq!(world.stat("original_dst_host_invalid"), 1);
        let context = PickContext {
            original_dst: Some(server.address),
            ..PickContext::default()
        };
        let host = cluster.pick(&context).unwrap();
        assert!(host.same(&cluster.pick(&context).unwrap()));
        let sent = cluster.send(&host, get("/"), &SendOptions::default()).await;
        assert_eq!(text(sent.unwrap()).await, "a");
        drop(host);
        world.until("upstream_cx_active", 0).await;
    });
}

#[test]
fn tcp_connections_are_counted_and_limited() {
    on_worker(async {
        let (world, server) = (World::new(), server("a", false).await);
        let mut config = config("c", flat("c", &[server.address]));
        config.breakers.default.max_connections = 1;
        world.store.apply_cluster(Arc::new(config), false);
        let cluster = world.cluster();
        let host = cluster.pick(&PickContext::default()).unwrap();
        let first = cluster
            .connect_tcp(&host, Priority::Default, None)
            .await
            .unwrap();
        let second = cluster.connect_tcp(&host, Priority::Default, None).await;
        assert_eq!(second.unwrap_err().kind, FailureKind::Overflow);
        assert_eq!(world.stat("upstream_cx_active"), 1);
        drop(first);
        assert_eq!(world.stat("upstream_cx_active"), 0);
        assert!(
            cluster
                .connect_tcp(&host, Priority::Default, None)
                .await
                .is_ok()
        );
    });
}

#[test]
fn an_unused_cluster_is_small() {
    on_worker(async {
        let world = World::new();
        for i in 0..5000_u16 {
            let address = SocketAddr::from(([10, 0, 0, 1], i));
            let name = format!("cluster-{i}");
            let config = config(&name, flat(&name, &[address]));
            world.store.apply_cluster(Arc::new(config), true);
        }
        world.manager.refresh();
        assert_eq!(world.manager.len(), 5000);
        assert!(world.manager.get("cluster-4999").is_some());
        assert!(world.manager.get("cluster-5000").is_none());
    });
}

#[test]
fn the_tables_of_a_cluster_in_use_are_built_before_a_request_needs_them() {
    on_worker(async {
        let world = World::new();
        let address = |i: u8| SocketAddr::from(([10, 0, 0, i], 80));
        let mut config = config("c", flat("c", &[address(1)]));
        config.lb = LbPolicy::Maglev { table_size: 251 };
        let built = |world: &World| {
            let snapshot = Arc::clone(&world.cluster().snapshot);
            let (_, view) = snapshot.state.view(&snapshot.hosts, &snapshot.config);
            let group = view.group(0, balance::Source::Healthy);
            group.is_some_and(balance::view::Group::has_table)
        };
        world.store.apply_cluster(Arc::new(config.clone()), true);
        assert!(!built(&world));
        assert!(world.cluster().pick(&PickContext::default()).is_some());
        config.endpoints = flat("c", &[address(1), address(2)]);
        world.store.apply_cluster(Arc::new(config), true);
        assert!(built(&world));
    });
}
