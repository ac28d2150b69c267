//! No lost traffic through our own proxy on our own control plane: constant load, of which every
//! answer is checked, through edits, changes of endpoints, clusters and listeners, a control plane
//! that is killed and comes back, refused resources, and the end of the proxy.

#[path = "proxy_live/traffic.rs"]
mod traffic;
#[path = "proxy_live/world.rs"]
mod world;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::Value;
use traffic::{Call, Target, Traffic};
use weft_testkit::{
    AdsMode, Control, Dataplane, Node, Program, Upstream, eventually, free_port, one_at_a_time,
};
use world::{PUBLIC, SERVICE, Server, World};

const WEFT: &str = env!("CARGO_BIN_EXE_weft");
const SOON: Duration = Duration::from_secs(20);
/// Between edits: faster than they are pushed, so that some are merged and some are not.
const BETWEEN_EDITS: Duration = Duration::from_millis(30);
/// Time within which an edit reaches traffic: the median of several, because a busy machine may
/// take any single one's time.
const EDIT_REACHES_TRAFFIC: Duration = Duration::from_secs(1);
/// Points by which an observed share may differ from the wanted one.
const TOLERANCE: f64 = 2.0;
/// For a share within the tolerance by more than four standard deviations.
const CALLS: usize = 10_000;
const ALL_TYPES: &[&str] = &["CDS", "EDS", "LDS", "RDS"];

fn weft() -> Program {
    Program::Weft(WEFT.into())
}

fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

fn plain(port: u16, http2: bool) -> Target {
    Target {
        address: local(port),
        host: PUBLIC,
        uri: "/",
        http2,
        ca: None,
    }
}

/// A mesh, its control plane, one proxy, and the upstreams.
struct Scene {
    world: World,
    control: Control,
    proxy: Dataplane,
    /// Running instances of v1 and v2 that the mesh lists.
    upstreams: [Vec<Upstream>; 2],
    /// Instances that the mesh does not list any more; they serve what they have.
    retired: Vec<Upstream>,
}

impl Scene {
    async fn start(node: &Node, mode: AdsMode, gateway_port: u16) -> Self {
        let (v1, v2) = (Upstream::start("v1").await, Upstream::start("v2").await);
        let world = World::new(v1.address(), v2.address(), gateway_port);
        let control = Control::start(WEFT, &world.folder, None).await;
        let proxy = Dataplane::start(&weft(), node, mode, control.grpc(), &world.folder).await;
        control.wait_in_step(&proxy.id, ALL_TYPES).await;
        Self {
            world,
            control,
            proxy,
            upstreams: [vec![v1], vec![v2]],
            retired: Vec::new(),
        }
    }

    /// Waits until new calls show the last edit.
    async fn wait_for_edit(&self, traffic: &Traffic) {
        let (edit, mut seen) = (self.world.edit, traffic.count());
        eventually(&format!("edit {edit} reaches traffic"), SOON, async || {
            let calls = traffic.since(seen);
            seen += calls.len().saturating_sub(60);
            let settled = calls.len() >= 60 && calls.iter().all(|call| call.edit == Some(edit));
            settled.then_some(()).ok_or_else(|| {
                format!(
                    "{:?} {}",
                    calls.last(),
                    traffic.failures().unwrap_or_default()
                )
            })
        })
        .await;
    }

    /// 200 edits of weights, headers, timeouts, retries and the number of routes, some with a
    /// change of the clusters' settings.
    async fn edits(&mut self, traffic: &Traffic, count: u32) {
        let closed = self.closed();
        for number in 0..count / 2 {
            self.world.next_edit([number % 101, 100 - number % 101]);
            tokio::time::sleep(BETWEEN_EDITS).await;
        }
        self.wait_for_edit(traffic).await;
        assert_eq!(
            self.closed(),
            closed,
            "edits of the routes closed connections to upstreams"
        );
        for number in 0..count / 2 {
            self.world.connect_timeout = 5 + number / 5 % 3;
            self.world.next_edit([100 - number % 101, number % 101]);
            tokio::time::sleep(BETWEEN_EDITS).await;
        }
        self.wait_for_edit(traffic).await;
        traffic.assert_fine("after the edits");
    }

    /// Connections to upstreams that have ended.
    fn closed(&self) -> u64 {
        self.upstreams.iter().flatten().map(Upstream::closed).sum()
    }

    /// The median time from an edit to the last call that was sent by older rules.
    async fn time_of_edit(&mut self, traffic: &Traffic) {
        let mut times = Vec::new();
        for number in 0..5 {
            let before = traffic.count();
            let edited = Instant::now();
            self.world.next_edit([number * 20, 100 - number * 20]);
            self.wait_for_edit(traffic).await;
            let calls = traffic.since(before);
            let old = calls
                .iter()
                .filter(|call| call.edit != Some(self.world.edit));
            let last = old
                .map(|call| call.sent.saturating_duration_since(edited))
                .max();
            times.push(last.unwrap_or_default());
        }
        println!("an edit reached traffic after {times:?}");
        times.sort();
        assert!(
            times[2] <= EDIT_REACHES_TRAFFIC,
            "edits reached traffic only after {times:?}"
        );
    }

    /// Endpoints come, go and are replaced; there is always one of each version.
    async fn endpoints(&mut self, traffic: &Traffic, count: usize) {
        for number in 0..count {
            let which = number / 3 % 2;
            match number % 3 {
                0 => self.add_endpoint(which).await,
                1 => self.remove_endpoint(which).await,
                _ => {
                    self.retired.push(self.upstreams[which].remove(0));
                    self.add_endpoint(which).await;
                }
            }
            traffic.assert_fine(&format!("after change {number} of endpoints"));
            // Two changes ago is a moment: nobody connects to it any more.
            let over = self.retired.len().saturating_sub(2);
            self.retired.drain(..over);
        }
    }

    fn write_endpoints(&mut self) {
        for (listed, running) in self.world.endpoints.iter_mut().zip(&self.upstreams) {
            *listed = running.iter().map(Upstream::address).collect();
        }
        self.world.write_service();
    }

    async fn add_endpoint(&mut self, which: usize) {
        self.upstreams[which].push(Upstream::start(["v1", "v2"][which]).await);
        self.write_endpoints();
        let new = self.upstreams[which].last().expect("one was pushed");
        eventually("a new endpoint gets calls", SOON, async || {
            (new.requests() > 0)
                .then_some(())
                .ok_or_else(|| "none yet".to_owned())
        })
        .await;
    }

    async fn remove_endpoint(&mut self, which: usize) {
        let old = self.upstreams[which].remove(0);
        self.write_endpoints();
        let mut last = u64::MAX;
        eventually("a removed endpoint gets no more calls", SOON, async || {
            let before = std::mem::replace(&mut last, old.requests());
            tokio::time::sleep(Duration::from_millis(60)).await;
            (before == last)
                .then_some(())
                .ok_or_else(|| format!("{last} calls"))
        })
        .await;
        self.retired.push(old);
    }

    /// New clusters, routes that are switched to them, and the end of the old ones: in three
    /// edits, or all in one.
    async fn clusters(&mut self, traffic: &Traffic, count: u32) {
        for generation in 1..=count {
            self.world.generations.push(generation);
            if generation % 2 == 0 {
                self.world.write_rules();
                tokio::time::sleep(BETWEEN_EDITS).await;
                self.world.routed = generation;
                self.world.next_edit([50, 50]);
                tokio::time::sleep(BETWEEN_EDITS).await;
            }
            self.world.routed = generation;
            self.world.generations = vec![generation];
            self.world.next_edit([50, 50]);
            self.wait_for_edit(traffic).await;
            traffic.assert_fine(&format!("after the switch to clusters {generation}"));
        }
        let (proxy, last) = (&self.proxy, format!("v1-g{count}"));
        eventually("only the last clusters are left", SOON, async || {
            let clusters = proxy.admin("/clusters").await;
            let named = |name: &str| clusters.lines().any(|line| line.contains(name));
            let gone = (0..count).all(|old| !named(&format!("|v1-g{old}|")));
            (gone && named(&last)).then_some(()).ok_or(clusters)
        })
        .await;
    }

    /// Ports of the gateway come, change and go.
    async fn listeners(&mut self, traffic: &Traffic, rounds: usize) {
        let certificate = self.world.folder.write_certificate("*.example.com");
        let ca = Some(certificate.join("ca.pem"));
        let secure = |port, host, http2| Target {
            host,
            ca: ca.clone(),
            ..plain(port, http2)
        };
        let (http, https) = (free_port(), free_port());
        for round in 0..rounds {
            self.world.servers.truncate(1);
            self.world.servers.push(Server::Http(http));
            let a = Server::Https(https, "a.example.com", certificate.clone());
            self.world.servers.push(a.clone());
            self.world.write_gateway();
            let on_http = self
                .traffic_on(&[(plain(http, false), 2), (plain(http, true), 1)])
                .await;
            let to_a = [
                (secure(https, "a.example.com", false), 2),
                (secure(https, "a.example.com", true), 1),
            ];
            let on_a = self.traffic_on(&to_a).await;

            // A server more on the same port is a filter chain more.
            let b = Server::Https(https, "b.example.com", certificate.clone());
            self.world.servers.push(b);
            self.world.write_gateway();
            let to_b = [
                (secure(https, "b.example.com", false), 1),
                (secure(https, "b.example.com", true), 1),
            ];
            let on_b = self.traffic_on(&to_b).await;
            // Its end closes its connections politely, and no others.
            self.world.servers.pop();
            self.world.write_gateway();
            self.ends_politely(on_b, &format!("b.example.com in round {round}"))
                .await;
            on_a.assert_fine("a.example.com beside b.example.com");
            assert_kept(&on_a, "a.example.com");

            // The ports go, one after the other.
            self.world.servers.truncate(2);
            self.world.write_gateway();
            self.ends_politely(on_a, &format!("a.example.com in round {round}"))
                .await;
            assert_kept(&on_http, "the other port");
            self.world.servers.truncate(1);
            self.world.write_gateway();
            self.ends_politely(on_http, &format!("the port in round {round}"))
                .await;
            traffic.assert_fine(&format!("after round {round} of listeners"));
        }
    }

    /// Traffic on what is about to come: it starts when a first connection is answered.
    async fn traffic_on(&self, targets: &[(Target, usize)]) -> Traffic {
        let (first, _) = &targets[0];
        eventually(&format!("{first:?} answers"), SOON, async || {
            let probe = Traffic::start(&[(first.clone(), 1)]);
            let _: Result<(), _> = eventually_one(&probe).await;
            match probe.failures() {
                Some(failures) => Err(failures),
                None => Ok(()),
            }
        })
        .await;
        let traffic = Traffic::start(targets);
        let clients: usize = targets.iter().map(|(_, count)| count).sum();
        eventually("all clients are at work", SOON, async || {
            let calls = traffic.count();
            (calls > clients * 10)
                .then_some(())
                .ok_or_else(|| format!("{calls} calls, {}", traffic.failures().unwrap_or_default()))
        })
        .await;
        traffic
    }

    /// The server of this traffic is going: every client is told so and nothing fails.
    async fn ends_politely(&self, traffic: Traffic, what: &str) {
        traffic.server_may_go();
        eventually(
            &format!("the clients of {what} have ended"),
            SOON,
            async || {
                traffic
                    .has_ended()
                    .then_some(())
                    .ok_or_else(|| format!("{:?}", traffic.connections()))
            },
        )
        .await;
        traffic.stop(what).await;
    }

    /// The control plane dies and comes back, with edits in between.
    async fn restarts(&mut self, traffic: &Traffic, count: u64) {
        for number in 0..count {
            self.control.kill();
            // Without it everything goes on, by the last rules.
            let last = self.world.edit;
            let before = traffic.count();
            self.world.next_edit([20, 80]);
            if number % 2 == 1 {
                // Clusters and an endpoint change, too.
                let generation = self.world.routed + 1;
                self.world.routed = generation;
                self.world.generations = vec![generation];
                self.upstreams[0].push(Upstream::start("v1").await);
                self.write_endpoints();
                self.world.next_edit([80, 20]);
            }
            eventually("calls go on without a control plane", SOON, async || {
                let calls = traffic.since(before);
                assert!(
                    calls.iter().all(|call| call.edit == Some(last)),
                    "not the last rules"
                );
                (calls.len() > 500)
                    .then_some(())
                    .ok_or_else(|| format!("{} calls", calls.len()))
            })
            .await;
            self.control.run().await;
            self.control.wait_in_step(&self.proxy.id, ALL_TYPES).await;
            self.wait_for_edit(traffic).await;
            traffic.assert_fine(&format!("after restart {number} of the control plane"));
        }
    }

    /// The shares that are observed under the last edit.
    async fn share(&mut self, traffic: &Traffic) {
        self.world.next_edit([90, 10]);
        self.wait_for_edit(traffic).await;
        let before = traffic.count();
        eventually(
            "there are enough calls",
            Duration::from_mins(1),
            async || {
                let calls = traffic.count() - before;
                (calls >= CALLS)
                    .then_some(())
                    .ok_or_else(|| format!("{calls} calls"))
            },
        )
        .await;
        let calls: Vec<Call> = traffic.since(before);
        let v2 = calls.iter().filter(|call| call.version == "v2").count();
        let share = 100.0 * v2 as f64 / calls.len() as f64;
        println!(
            "share of v2: wanted 10, seen {share:.2} of {} calls",
            calls.len()
        );
        assert!(
            (share - 10.0).abs() <= TOLERANCE,
            "wanted 10 % of v2, saw {share:.2} %"
        );
    }
}

/// Waits until a traffic has one call or one failure.
async fn eventually_one(traffic: &Traffic) -> Result<(), ()> {
    for _ in 0..250 {
        if traffic.count() > 0 || traffic.failures().is_some() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(())
}

/// No connection of this traffic has ended.
fn assert_kept(traffic: &Traffic, what: &str) {
    let (opened, clients) = traffic.connections();
    assert_eq!(
        opened, clients,
        "connections of {what} were closed and made again"
    );
}

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_is_told_to_end_loses_no_request() {
    const LIMIT: u64 = 10;
    let _turn = one_at_a_time();
    for _ in 0..3 {
        let port = free_port();
        let (v1, v2) = (Upstream::start("v1").await, Upstream::start("v2").await);
        let world = World::new(v1.address(), v2.address(), port);
        let control = Control::start(WEFT, &world.folder, None).await;
        let (node, limit) = (Node::gateway("ending"), LIMIT.to_string());
        let more = ["--shutdown-time-s", &limit];
        let (mode, xds) = (AdsMode::Delta, control.grpc());
        let mut proxy = Dataplane::launch(&weft(), &node, mode, xds, &world.folder, &more);
        proxy.wait_ready().await;
        let upstreams = [vec![v1], vec![v2]];
        let scene = Scene {
            world,
            control,
            proxy,
            upstreams,
            retired: Vec::new(),
        };
        let traffic = scene
            .traffic_on(&[(plain(port, false), 6), (plain(port, true), 2)])
            .await;
        traffic.server_may_go();
        let Scene {
            mut proxy,
            world: _world,
            control: _control,
            upstreams: _upstreams,
            ..
        } = scene;
        let started = Instant::now();
        let ending =
            tokio::task::spawn_blocking(move || proxy.terminate(Duration::from_secs(LIMIT + 2)));
        let status = ending.await.expect("it ends in time");
        println!("it ended after {:?} with {status}", started.elapsed());
        assert!(status.success(), "the proxy ended with {status}");
        eventually("all clients have ended", SOON, async || {
            traffic
                .has_ended()
                .then_some(())
                .ok_or_else(|| format!("{:?}", traffic.connections()))
        })
        .await;
        traffic.stop("while the proxy ended").await;
    }
}
