//! No lost traffic through our own proxy on our own control plane: constant load, of which every
//! answer is checked, through edits, changes of endpoints, clusters and listeners, a control plane
//! that is killed and comes back, refused resources, and the end of the proxy.

#[path = "proxy_live/scene.rs"]
mod scene;
#[path = "proxy_live/traffic.rs"]
mod traffic;
#[path = "proxy_live/world.rs"]
mod world;

use std::net::{Ipv4Addr, TcpListener};
use std::time::{Duration, Instant};

use scene::{ALL_TYPES, SOON, Scene, WEFT, assert_kept, local, plain, weft};
use serde_json::Value;
use traffic::{Target, Traffic};
use weft_testkit::{
    AdsMode, Connection, Control, Dataplane, Node, Upstream, eventually, free_port, one_at_a_time,
};
use world::{SERVICE, SLOW, Server, World};

async fn gateway(mode: AdsMode) {
    let _turn = one_at_a_time();
    let port = free_port();
    let mut scene = Scene::start(&Node::gateway("gateway"), mode, port).await;
    let traffic = scene
        .traffic_on(&[(plain(port, false), 5), (plain(port, true), 1)])
        .await;
    let began = Instant::now();
    let done = |what: &str| println!("{:5.1} s: {what}", began.elapsed().as_secs_f64());
    scene.edits(&traffic, 200).await;
    done("200 edits");
    scene.time_of_edit(&traffic).await;
    scene.endpoints(&traffic, 50).await;
    done("50 changes of endpoints");
    scene.clusters(&traffic, 10).await;
    done("10 changes of clusters");
    scene.listeners(&traffic, 2).await;
    done("2 rounds of listeners");
    scene.restarts(&traffic, 4).await;
    done("4 restarts of the control plane");
    scene.share(&traffic).await;
    scene.proxy.assert_nothing_refused().await;
    assert_kept(&traffic, "the unchanged listener");
    traffic.stop("the whole day").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_over_delta_loses_no_request() {
    gateway(AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_over_sotw_loses_no_request() {
    gateway(AdsMode::Sotw).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sidecar_with_an_http_proxy_port_loses_no_request() {
    let _turn = one_at_a_time();
    let port = free_port();
    let node = Node::sidecar("client", Ipv4Addr::new(127, 0, 0, 9), port, &[]);
    let mut scene = Scene::start(&node, AdsMode::Delta, free_port()).await;
    let target = Target {
        host: "reviews.shop.svc.cluster.local:9080",
        uri: "http://reviews.shop.svc.cluster.local:9080/",
        ..plain(port, false)
    };
    assert!(target.host.starts_with(SERVICE));
    let traffic = scene.traffic_on(&[(target, 5)]).await;
    scene.edits(&traffic, 40).await;
    scene.endpoints(&traffic, 12).await;
    scene.clusters(&traffic, 4).await;
    scene.restarts(&traffic, 2).await;
    scene.share(&traffic).await;
    scene.proxy.assert_nothing_refused().await;
    assert_kept(&traffic, "the HTTP proxy port");
    traffic.stop("a sidecar's day").await;
}

/// A proxy that finds no control plane waits for it, and its first answer is a right one.
async fn late_control_plane(mode: AdsMode) {
    let port = free_port();
    let (v1, v2) = (Upstream::start("v1").await, Upstream::start("v2").await);
    let world = World::new(v1.address(), v2.address(), port);
    let mut control = Control::start(WEFT, &world.folder, None).await;
    control.kill();
    let node = Node::gateway("early");
    let (xds, folder) = (control.grpc(), &world.folder);
    let mut proxy = Dataplane::launch(&weft(), &node, mode, xds, folder, &[]);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        proxy.assert_running();
        assert!(!proxy.is_ready().await, "ready without a configuration");
    }
    control.run().await;
    // From the first moment that the port takes connections, every call is answered well.
    eventually("the gateway's port takes connections", SOON, async || {
        let connected = tokio::net::TcpStream::connect(local(port)).await;
        connected.map(drop).map_err(|error| error.to_string())
    })
    .await;
    let traffic = Traffic::start(&[(plain(port, false), 2), (plain(port, true), 1)]);
    proxy.wait_ready().await;
    control.wait_in_step(&proxy.id, ALL_TYPES).await;
    let before = traffic.count();
    eventually("calls are answered", SOON, async || {
        let calls = traffic.count() - before;
        (calls > 100)
            .then_some(())
            .ok_or_else(|| format!("{calls} calls"))
    })
    .await;
    traffic.stop("from the first connection on").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_waits_for_its_control_plane() {
    let _turn = one_at_a_time();
    for mode in [AdsMode::Delta, AdsMode::Sotw] {
        // Several times: what comes first of routes, clusters and endpoints is a matter of luck.
        for _ in 0..3 {
            late_control_plane(mode).await;
        }
    }
}

/// Waits until the status of the Gateway says (or does not say) that a listener is refused.
async fn wait_for_refusal(scene: &Scene, says: Option<&str>) {
    let path = scene.world.gateway_path();
    eventually(
        &format!("the status of the Gateway says {says:?}"),
        SOON,
        async || {
            let objects = scene
                .control
                .objects(|o| o["object"] == "Gateway/shop/public")
                .await;
            let refusals: Vec<&Value> = objects
                .iter()
                .filter_map(|o| o["refusedBy"].as_array())
                .flatten()
                .collect();
            let fine = match says {
                None => !objects.is_empty() && refusals.is_empty(),
                Some(text) => {
                    objects.iter().all(|o| o["source"] == path.as_str())
                        && refusals.iter().any(|refusal| {
                            refusal["type"] == "LDS"
                                && refusal["error"].as_str().is_some_and(|e| e.contains(text))
                        })
                }
            };
            fine.then_some(()).ok_or_else(|| format!("{objects:#?}"))
        },
    )
    .await;
    if let Some(text) = says {
        assert!(
            scene.control.log().contains(text),
            "the log does not say {text}"
        );
    }
}

/// What the proxy refuses harms nothing else, is named, and is taken once it is repaired.
async fn refusals(mode: AdsMode) {
    let _turn = one_at_a_time();
    let port = free_port();
    let mut scene = Scene::start(&Node::gateway("gateway"), mode, port).await;
    let traffic = scene
        .traffic_on(&[(plain(port, false), 3), (plain(port, true), 1)])
        .await;

    let taken = TcpListener::bind(local(free_port())).expect("a free port");
    let taken_port = taken.local_addr().expect("it is bound").port();
    let (secure_port, other_port) = (free_port(), free_port());
    let certificate = scene.world.folder.write_certificate("*.example.com");
    let missing = Server::Https(secure_port, "a.example.com", "/nowhere".into());
    let faults = [
        (
            Server::Http(taken_port),
            Server::Http(free_port()),
            taken_port.to_string(),
        ),
        (
            missing,
            Server::Https(secure_port, "a.example.com", certificate.clone()),
            "/nowhere/cert.pem".to_owned(),
        ),
    ];
    for (number, (bad, repaired, says)) in faults.into_iter().enumerate() {
        println!("{bad:?}");
        scene.world.servers.push(bad);
        scene.world.write_gateway();
        wait_for_refusal(&scene, Some(&says)).await;

        // Routes, clusters, endpoints and another listener go on changing.
        scene.world.next_edit([30, 70]);
        scene.wait_for_edit(&traffic).await;
        scene.add_endpoint(number).await;
        scene.world.servers.push(Server::Http(other_port));
        scene.world.write_gateway();
        let beside = scene.traffic_on(&[(plain(other_port, false), 1)]).await;
        beside
            .stop("a listener that came beside a refused one")
            .await;
        scene.world.servers.pop();

        // Repaired, it is taken.
        scene.world.servers.pop();
        scene.world.servers.push(repaired.clone());
        scene.world.write_gateway();
        wait_for_refusal(&scene, None).await;
        let target = match repaired {
            Server::Http(port) => plain(port, false),
            Server::Https(port, host, _) => Target {
                host,
                ca: Some(certificate.join("ca.pem")),
                ..plain(port, false)
            },
        };
        scene
            .traffic_on(&[(target, 1)])
            .await
            .stop("what was refused and repaired")
            .await;
        scene.control.wait_in_step(&scene.proxy.id, ALL_TYPES).await;
        scene.world.servers.truncate(1);
        scene.world.write_gateway();
    }
    assert_kept(&traffic, "the unchanged listener");
    traffic.stop("beside refused resources").await;
    drop(taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_proxy_refuses_over_delta_is_contained() {
    refusals(AdsMode::Delta).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_proxy_refuses_over_sotw_is_contained() {
    refusals(AdsMode::Sotw).await;
}

/// Asks a proxy to end while there is traffic on it; gives how long it took.
async fn ends_under_load(limit: u64, stuck: bool) -> Duration {
    let port = free_port();
    let more = ["--shutdown-time-s", &limit.to_string()];
    let node = Node::gateway("ending");
    let scene = Scene::start_with(&node, AdsMode::Delta, port, &more).await;
    scene.world.write_slow_routes();
    let slow = |http2| Target {
        host: SLOW,
        uri: "/slow",
        ..plain(port, http2)
    };
    eventually("the slow routes are there", SOON, async || {
        let answer = Connection::open(local(port))
            .await?
            .get(SLOW, "/slow")
            .await?;
        (answer.status == 200).then_some(()).ok_or(answer.body)
    })
    .await;
    let slow = Traffic::start(&[(slow(false), 3), (slow(true), 2)]);
    let traffic = scene
        .traffic_on(&[(plain(port, false), 6), (plain(port, true), 2)])
        .await;
    let stuck = stuck.then(|| {
        tokio::spawn(async move {
            Connection::open(local(port))
                .await?
                .get(SLOW, "/stuck")
                .await
        })
    });
    eventually("slow requests are under way", SOON, async || {
        let under_way = slow.connections().0 == 5;
        under_way
            .then_some(())
            .ok_or_else(|| format!("{:?}", slow.connections()))
    })
    .await;
    // Also the stuck one is sent by then.
    tokio::time::sleep(Duration::from_millis(100)).await;
    traffic.server_may_go();
    slow.server_may_go();

    let Scene {
        mut proxy,
        world: _world,
        control: _control,
        upstreams: _upstreams,
        ..
    } = scene;
    let started = Instant::now();
    let time = Duration::from_secs(limit + 2);
    let ending = tokio::task::spawn_blocking(move || proxy.terminate(time));
    let status = ending.await.expect("it ends in time");
    let took = started.elapsed();
    println!("it ended after {took:?} with {status}");
    assert!(status.success(), "the proxy ended with {status}");
    for (traffic, what) in [
        (traffic, "while the proxy ended"),
        (slow, "slowly meanwhile"),
    ] {
        eventually("all clients have ended", SOON, async || {
            traffic
                .has_ended()
                .then_some(())
                .ok_or_else(|| format!("{:?}", traffic.connections()))
        })
        .await;
        traffic.stop(what).await;
    }
    if let Some(stuck) = stuck {
        let answer = stuck.await.expect("the client does not panic");
        assert!(
            answer.is_err(),
            "a request that outlived the limit got {answer:?}"
        );
    }
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_told_to_end_finishes_what_it_has_within_its_limit() {
    let _turn = one_at_a_time();
    for _ in 0..3 {
        let took = ends_under_load(10, false).await;
        // The slow requests were waited for, the limit was not.
        assert!(took < Duration::from_secs(5), "it took {took:?}");
    }
    let took = ends_under_load(3, true).await;
    assert!(
        took >= Duration::from_secs(2),
        "it did not wait for its requests, only {took:?}"
    );
}
