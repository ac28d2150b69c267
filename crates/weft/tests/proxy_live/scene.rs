//! A mesh with one proxy under load, and what happens to it in a day: edits, endpoints, clusters
//! and listeners that come and go, a control plane that dies. Each step ends when it has reached
//! traffic and no call has failed. Must never know which proxy or which form of ADS it is.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use weft_testkit::{AdsMode, Control, Dataplane, Node, Program, Upstream, eventually, free_port};

use crate::traffic::{Call, Target, Traffic};
use crate::world::{PUBLIC, Server, World};

pub(crate) const WEFT: &str = env!("CARGO_BIN_EXE_weft");
pub(crate) const SOON: Duration = Duration::from_secs(20);
/// Between edits: faster than they are pushed, so that some are merged and some are not.
const BETWEEN_EDITS: Duration = Duration::from_millis(30);
/// Time within which an edit reaches traffic: the median of several, because a busy machine may
/// take any single one's time.
const EDIT_REACHES_TRAFFIC: Duration = Duration::from_secs(1);
/// Points by which an observed share may differ from the wanted one.
const TOLERANCE: f64 = 2.0;
/// For a share within the tolerance by more than four standard deviations.
const CALLS: usize = 10_000;
pub(crate) const ALL_TYPES: &[&str] = &["CDS", "EDS", "LDS", "RDS"];

pub(crate) fn weft() -> Program {
    Program::Weft(WEFT.into())
}

pub(crate) fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

pub(crate) fn plain(port: u16, http2: bool) -> Target {
    Target {
        address: local(port),
        host: PUBLIC,
        uri: "/",
        http2,
        ca: None,
    }
}

/// A mesh, its control plane, one proxy, and the upstreams.
pub(crate) struct Scene {
    pub(crate) world: World,
    pub(crate) control: Control,
    pub(crate) proxy: Dataplane,
    /// Running instances of v1 and v2 that the mesh lists.
    pub(crate) upstreams: [Vec<Upstream>; 2],
    /// Instances that the mesh does not list any more; they serve what they have.
    pub(crate) retired: Vec<Upstream>,
}

impl Scene {
    pub(crate) async fn start(node: &Node, mode: AdsMode, gateway_port: u16) -> Self {
        Self::start_with(node, mode, gateway_port, &[]).await
    }

    /// `more` goes to the proxy's command line.
    pub(crate) async fn start_with(
        node: &Node,
        mode: AdsMode,
        gateway_port: u16,
        more: &[&str],
    ) -> Self {
        let (v1, v2) = (Upstream::start("v1").await, Upstream::start("v2").await);
        let world = World::new(v1.address(), v2.address(), gateway_port);
        let control = Control::start(WEFT, &world.folder, None).await;
        let (xds, folder) = (control.grpc(), &world.folder);
        let mut proxy = Dataplane::launch(&weft(), node, mode, xds, folder, more);
        proxy.wait_ready().await;
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
    pub(crate) async fn wait_for_edit(&self, traffic: &Traffic) {
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
    pub(crate) async fn edits(&mut self, traffic: &Traffic, count: u32) {
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
    pub(crate) fn closed(&self) -> u64 {
        self.upstreams.iter().flatten().map(Upstream::closed).sum()
    }

    /// The median time from an edit to the last call that was sent by older rules.
    pub(crate) async fn time_of_edit(&mut self, traffic: &Traffic) {
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
    pub(crate) async fn endpoints(&mut self, traffic: &Traffic, count: usize) {
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

    pub(crate) fn write_endpoints(&mut self) {
        for (listed, running) in self.world.endpoints.iter_mut().zip(&self.upstreams) {
            *listed = running.iter().map(Upstream::address).collect();
        }
        self.world.write_service();
    }

    pub(crate) async fn add_endpoint(&mut self, which: usize) {
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

    pub(crate) async fn remove_endpoint(&mut self, which: usize) {
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
    pub(crate) async fn clusters(&mut self, traffic: &Traffic, count: u32) {
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
    pub(crate) async fn listeners(&mut self, traffic: &Traffic, rounds: usize) {
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
    pub(crate) async fn traffic_on(&self, targets: &[(Target, usize)]) -> Traffic {
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
    pub(crate) async fn ends_politely(&self, traffic: Traffic, what: &str) {
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
    pub(crate) async fn restarts(&mut self, traffic: &Traffic, count: u64) {
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
    pub(crate) async fn share(&mut self, traffic: &Traffic) {
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
pub(crate) fn assert_kept(traffic: &Traffic, what: &str) {
    let (opened, clients) = traffic.connections();
    assert_eq!(
        opened, clients,
        "connections of {what} were closed and made again"
    );
}
