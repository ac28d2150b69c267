//! Server and client machines against each other over a network that delays, repeats and breaks,
//! with edits, refusals, restarts and reconnects in every state. A seed replays a run:
//! `WEFT_XDS_SEED=17 cargo test -p weft-xds --test simulation`.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use weft_xds::client::{
    Added, ClientEvent, ClientOptions, ClientStream, Interest, Refused, Update,
};
use weft_xds::pb;
use weft_xds::server::{Limits, ServerStream};
use weft_xds::{Delta, Mode, Protocol, Resource, ResourceSet, Sotw, TypeUrl, View};

static TYPES: [TypeUrl; 5] = [
    TypeUrl::CLUSTER,
    TypeUrl::ENDPOINT,
    TypeUrl::LISTENER,
    TypeUrl::ROUTE,
    TypeUrl::SECRET,
];

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A stand-in for all resource messages: the name is field 1 as everywhere in xDS.
#[derive(Clone, PartialEq, prost::Message)]
struct Body {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(uint64, tag = "2")]
    content: u64,
    /// What it refers to.
    #[prost(string, tag = "3")]
    refers: String,
    /// The client refuses it.
    #[prost(bool, tag = "4")]
    bad: bool,
}

fn body(bytes: &[u8]) -> Body {
    prost::Message::decode(bytes).expect("the simulation made it")
}

/// The mesh: contents by type and name.
type Model = BTreeMap<(usize, String), Body>;

/// What a mangled NACK looks like: a client that does not say what it refuses.
trait Blur {
    fn blur(&mut self);
}

impl Blur for pb::DiscoveryRequest {
    fn blur(&mut self) {
        if let Some(error) = &mut self.error_detail {
            "invalid".clone_into(&mut error.message);
        }
    }
}

impl Blur for pb::DeltaDiscoveryRequest {
    fn blur(&mut self) {
        if let Some(error) = &mut self.error_detail {
            "invalid".clone_into(&mut error.message);
        }
    }
}

struct Settings {
    bad: bool,
    blur: bool,
    breaks: bool,
    limits: Limits,
}

struct World<P: Protocol> {
    seed: u64,
    random: Random,
    settings: Settings,
    noise: bool,
    now: Instant,
    model: Model,
    view: View,
    server: Option<ServerStream<P>>,
    streams: u64,
    client: ClientStream<P>,
    to_server: VecDeque<P::Request>,
    to_client: VecDeque<P::Response>,
    updates: VecDeque<Update>,
    listeners: BTreeSet<String>,
    responses: usize,
    refused_sent: BTreeMap<(u64, String, u64), usize>,
}

impl<P: Protocol> World<P>
where
    P::Request: Blur,
{
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let bad = random.chance(50);
        let settings = Settings {
            bad,
            blur: random.chance(30),
            breaks: random.chance(70),
            limits: Limits {
                response_bytes: if random.chance(30) { 40 } else { 1 << 20 },
                removal_grace: Duration::from_hours(1),
                cluster_wait: Duration::from_hours(1),
                ..Limits::default()
            },
        };
        let node = pb::Node {
            id: "sidecar~10.0.0.1~a.b~c".to_owned(),
            ..Default::default()
        };
        let options = ClientOptions {
            unnoticed_after: Duration::from_hours(1),
            ..ClientOptions::new(node)
        };
        let mut client = ClientStream::new(options, seed);
        client.set_interest(&TypeUrl::CLUSTER, Interest::All);
        client.set_interest(&TypeUrl::LISTENER, Interest::All);
        let mut world = World {
            seed,
            random,
            settings,
            noise: true,
            now: Instant::now(),
            model: Model::new(),
            view: View::default(),
            server: None,
            streams: 0,
            client,
            to_server: VecDeque::new(),
            to_client: VecDeque::new(),
            updates: VecDeque::new(),
            listeners: BTreeSet::new(),
            responses: 0,
            refused_sent: BTreeMap::new(),
        };
        world.edit();
        world
    }

    /// A change of the mesh that is consistent in itself: routes refer to clusters that exist.
    fn edit(&mut self) {
        let bad = self.settings.bad;
        for _ in 0..=self.random.below(4) {
            let kind = self.random.below(5);
            let names = if kind < 2 { 8 } else { 4 };
            let name = format!("n{}", self.random.below(names));
            let content = self.random.below(3) as u64;
            let body = Body {
                name: name.clone(),
                content,
                refers: if kind == 2 {
                    format!("n{}", self.random.below(4))
                } else {
                    String::new()
                },
                bad: bad && self.random.chance(15),
            };
            match kind {
                // A cluster and its endpoints come and go together, or change alone.
                // State of the world cannot say that a route is gone while a listener refers to it.
                0 | 1 if self.random.chance(30) && (P::MODE == Mode::Delta || name != "n0") => {
                    self.model.remove(&(0, name.clone()));
                    self.model.remove(&(1, name));
                }
                0 | 1 => {
                    for other in [1 - kind, kind] {
                        let place = (other, name.clone());
                        if other == kind || !self.model.contains_key(&place) {
                            self.model.insert(place, body.clone());
                        }
                    }
                }
                _ if self.random.chance(25) && (P::MODE == Mode::Delta || kind != 3) => {
                    self.model.remove(&(kind, name));
                }
                _ => {
                    self.model.insert((kind, name), body);
                }
            }
        }
        if P::MODE == Mode::Sotw {
            for kind in [0, 1] {
                let n0 = Body {
                    name: "n0".to_owned(),
                    ..Body::default()
                };
                self.model.entry((kind, "n0".to_owned())).or_insert(n0);
            }
        }
        self.point_routes();
        self.publish();
    }

    /// Every route refers to a cluster that exists; with no cluster there is no route.
    fn point_routes(&mut self) {
        let clusters: Vec<String> = self
            .model
            .keys()
            .filter(|(kind, _)| *kind == 0)
            .map(|(_, name)| name.clone())
            .collect();
        if clusters.is_empty() {
            assert_eq!(P::MODE, Mode::Delta, "n0 always exists");
            self.model.retain(|(kind, _), _| *kind != 3);
            return;
        }
        for ((kind, _), body) in &mut self.model {
            if *kind == 3 && (!clusters.contains(&body.refers) || self.random.chance(10)) {
                body.refers
                    .clone_from(&clusters[self.random.below(clusters.len())]);
            }
        }
    }

    fn publish(&mut self) {
        let sets =
            TYPES.iter().enumerate().map(|(kind, type_url)| {
                let resources = self.model.iter().filter(|((of, _), _)| *of == kind).map(
                    |((_, name), body)| {
                        Resource::encode(type_url, name.as_str(), body)
                            .with_links(Some(body.refers.as_str().into()).filter(|_| kind == 2))
                    },
                );
                ResourceSet::new(type_url.clone(), resources)
            });
        self.view = View::new(sets);
        if let Some(server) = &mut self.server {
            server.set_view(self.view.clone());
        }
    }

    fn connect(&mut self) {
        self.streams += 1;
        let view = self.view.clone();
        let limits = self.settings.limits.clone();
        self.server = Some(ServerStream::new(self.streams, view, limits, None));
        self.client.connected();
    }

    fn disconnect(&mut self) {
        self.server = None;
        self.to_server.clear();
        self.to_client.clear();
        self.client.disconnected();
    }

    fn step(&mut self) {
        self.now += Duration::from_millis(self.random.below(200) as u64);
        match self.random.below(100) {
            0..4 => self.edit(),
            4..6 if self.settings.breaks && self.server.is_some() => self.disconnect(),
            6..30 if self.server.is_none() => self.connect(),
            30..50 => self.server_reads(),
            50..70 => self.client_reads(),
            70..85 => self.judge(),
            85..87 => {
                let names = (0..4)
                    .filter(|_| self.random.chance(50))
                    .map(|n| format!("n{n}"));
                let names: Vec<String> = names.collect();
                self.client
                    .set_interest(&TypeUrl::SECRET, Interest::names(names));
            }
            87..93 => self.pump_server(),
            _ => self.pump_client(),
        }
        self.check_references();
    }

    fn server_reads(&mut self) {
        let Some(server) = &mut self.server else {
            return;
        };
        if let Some(request) = self.to_server.pop_front() {
            if self.noise && self.random.chance(5) {
                server
                    .request(self.now, request.clone())
                    .expect("within bounds");
            }
            server
                .request(self.now, request.clone())
                .expect("within bounds");
            let neutral = P::read_request(request);
            Self::trace(format_args!("server reads {neutral:?}"));
            if self.random.chance(80) {
                self.pump_server();
            }
        }
    }

    /// Prints what travels when one seed is replayed.
    fn trace(what: std::fmt::Arguments<'_>) {
        if std::env::var("WEFT_XDS_SEED").is_ok_and(|seeds| !seeds.contains('-')) {
            eprintln!("{what}");
        }
    }

    fn pump_server(&mut self) {
        let Some(mut server) = self.server.take() else {
            return;
        };
        server.tick(self.now);
        while server.poll_event().is_some() {}
        while let Some(response) = server.poll_response(self.now) {
            assert!(
                self.to_client.len() < 2 * TYPES.len(),
                "one in flight by type"
            );
            // An empty answer tells a client that has nothing that there is nothing.
            let incoming = P::read_response(response.clone());
            Self::trace(format_args!("answer {incoming:?}"));
            let empty = incoming.resources.is_empty() && incoming.removed.is_empty();
            self.responses += usize::from(P::MODE == Mode::Sotw || !empty);
            self.to_client.push_back(response);
        }
        while server.poll_event().is_some() {}
        self.server = Some(server);
    }

    fn client_reads(&mut self) {
        if let Some(response) = self.to_client.pop_front() {
            self.check_size(&response);
            self.client.response(response.clone());
            if self.noise && self.random.chance(5) {
                self.client.response(response);
            }
        }
        self.drain_client();
        if self.random.chance(80) {
            self.pump_client();
        }
    }

    fn check_size(&self, response: &P::Response) {
        let incoming = P::read_response(response.clone());
        if P::MODE == Mode::Delta && incoming.resources.len() > 1 {
            let bytes: usize = incoming.resources.iter().map(|r| r.body.len()).sum();
            assert!(bytes <= self.settings.limits.response_bytes);
        }
    }

    fn drain_client(&mut self) {
        self.client.tick(self.now);
        while let Some(event) = self.client.poll_event() {
            if let ClientEvent::Update(update) = event {
                self.updates.push_back(update);
            }
        }
    }

    fn pump_client(&mut self) {
        while let Some(mut request) = self.client.poll_request(self.now) {
            if self.settings.blur {
                request.blur();
            }
            if self.server.is_some() {
                self.to_server.push_back(request);
            }
        }
    }

    /// Gives a verdict on any one update, then asks for what the accepted ones refer to.
    fn judge(&mut self) {
        if self.updates.is_empty() {
            return;
        }
        let which = self.random.below(self.updates.len());
        let Some(update) = self.updates.remove(which) else {
            return;
        };
        let mut refused = Vec::new();
        for added in &update.added {
            let body = body(&added.body);
            assert_eq!(body.name, added.name);
            if body.bad {
                let key = (
                    self.streams,
                    format!("{:?} {}", update.type_url, added.name),
                    body.content,
                );
                *self.refused_sent.entry(key).or_default() += 1;
                refused.push(Refused {
                    name: added.name.clone(),
                    error: "is bad".to_owned(),
                });
            }
        }
        Self::trace(format_args!("verdict {} {:?}", update.id, update.type_url));
        self.client.verdict(update.id, refused);
        let clusters: BTreeSet<String> = self.accepted(&TypeUrl::CLUSTER).into_keys().collect();
        self.client
            .set_interest(&TypeUrl::ENDPOINT, Interest::Names(clusters));
        self.listeners = self
            .accepted(&TypeUrl::LISTENER)
            .into_values()
            .map(|listener| listener.refers)
            .filter(|name| !name.is_empty())
            .collect();
        let routes = self.listeners.clone();
        self.client
            .set_interest(&TypeUrl::ROUTE, Interest::Names(routes));
        self.drain_client();
    }

    fn accepted(&self, type_url: &TypeUrl) -> BTreeMap<String, Body> {
        self.client
            .accepted(type_url)
            .map(
                |Added {
                     name, body: bytes, ..
                 }| (name, body(&bytes)),
            )
            .collect()
    }

    /// Make before break: no route without its cluster, at any moment, if nothing is refused. A
    /// state-of-the-world stream that follows another one cannot know what to keep.
    fn check_references(&self) {
        if self.settings.bad || (P::MODE == Mode::Sotw && self.settings.breaks) {
            return;
        }
        let clusters = self.accepted(&TypeUrl::CLUSTER);
        for (name, route) in self.accepted(&TypeUrl::ROUTE) {
            assert!(
                clusters.contains_key(&route.refers),
                "seed {}: route {name} lost its cluster {}",
                self.seed,
                route.refers
            );
        }
    }

    fn quiet(&mut self) {
        self.noise = false;
        let mut idle = 0;
        for _ in 0..20_000 {
            self.now += Duration::from_secs(1);
            if self.server.is_none() {
                self.connect();
            }
            let before = (
                self.responses,
                self.to_server.len(),
                self.to_client.len(),
                self.updates.len(),
            );
            self.pump_client();
            self.server_reads();
            self.pump_server();
            self.client_reads();
            self.judge();
            self.pump_client();
            self.check_references();
            let after = (
                self.responses,
                self.to_server.len(),
                self.to_client.len(),
                self.updates.len(),
            );
            let still = before == after && after.1 + after.2 + after.3 == 0;
            idle = if still { idle + 1 } else { 0 };
            // Longer than the limits that hold removals and routes.
            if idle == 3 {
                self.now += Duration::from_hours(2);
            }
            if idle == 8 {
                return;
            }
        }
        panic!("seed {}: the two never come to rest", self.seed);
    }

    fn check_equal(&self) {
        // An earlier form of what is refused may need what is gone. Whether there is one, a server
        // cannot know if the client does not say what it refuses, nor, in state of the world,
        // after a reconnect.
        let unknown = self.settings.blur || (P::MODE == Mode::Sotw && self.settings.breaks);
        let has = |kind: usize, name: &str| self.accepted(&TYPES[kind]).contains_key(name);
        let waits = self.model.iter().any(|((kind, name), body)| {
            body.bad && [0, 2, 3].contains(kind) && (unknown || has(*kind, name))
        });
        for (kind, type_url) in TYPES.iter().enumerate() {
            let accepted = self.accepted(type_url);
            for (name, body) in &accepted {
                assert!(!body.bad, "seed {}: accepted what is bad", self.seed);
                if !self.model.contains_key(&(kind, name.clone())) {
                    // Removals are not said in SotW for types that are asked for by name.
                    assert!(
                        waits || (P::MODE == Mode::Sotw && type_url.is_partial()),
                        "seed {}: {type_url:?} {name} should be gone",
                        self.seed
                    );
                }
            }
            for ((of, name), body) in &self.model {
                let wanted = match kind {
                    0 | 2 => true,
                    1 => self.accepted(&TYPES[0]).contains_key(name),
                    3 => self.listeners.contains(name),
                    _ => false,
                };
                if *of == kind && wanted && !body.bad {
                    assert_eq!(
                        accepted.get(name),
                        Some(body),
                        "seed {}: {type_url:?} {name}",
                        self.seed
                    );
                }
            }
        }
    }

    fn run(seed: u64) {
        let mut world = Self::new(seed);
        for _ in 0..600 {
            world.step();
        }
        world.quiet();
        world.check_equal();
        // The same refused content is sent once by stream, or with its like in search of it.
        if !world.settings.blur && P::MODE == Mode::Delta {
            let most = world.refused_sent.values().max().copied().unwrap_or(0);
            assert!(
                most <= 12,
                "seed {seed}: refused content was sent {most} times"
            );
        }
        world.check_no_op();
        world.heal();
    }

    /// The same contents, built anew, send nothing.
    fn check_no_op(&mut self) {
        let before = self.responses;
        self.publish();
        self.quiet();
        assert_eq!(
            self.responses, before,
            "seed {}: a no-op was sent",
            self.seed
        );
    }

    /// With good contents everything is accepted, and reconnects send nothing.
    fn heal(&mut self) {
        for body in self.model.values_mut() {
            body.bad = false;
        }
        let secrets = self
            .model
            .keys()
            .filter(|(kind, _)| *kind == 4)
            .map(|(_, name)| name.clone());
        let secrets = Interest::names(secrets.collect::<Vec<_>>());
        self.client.set_interest(&TypeUrl::SECRET, secrets);
        for ((kind, _), body) in &mut self.model {
            if *kind == 2 {
                body.refers.clear();
            }
        }
        self.publish();
        self.quiet();
        self.check_equal();
        self.disconnect();
        self.quiet();
        self.check_equal();
        let before = self.responses;
        self.disconnect();
        self.quiet();
        assert_eq!(
            self.responses, before,
            "seed {}: a reconnect was sent something",
            self.seed
        );
        self.check_equal();
    }
}

/// One seed or a range of them, `1000-2000`; by default those that every change has to pass.
fn seeds() -> Vec<u64> {
    let number = |text: &str| text.parse().expect("WEFT_XDS_SEED is a number or a range");
    match std::env::var("WEFT_XDS_SEED") {
        Ok(seeds) => match seeds.split_once('-') {
            Some((first, last)) => (number(first)..=number(last)).collect(),
            None => vec![number(&seeds)],
        },
        Err(_) => (0..500).chain([1507, 1927]).collect(),
    }
}

fn run_all<P: Protocol>()
where
    P::Request: Blur,
{
    for seed in seeds() {
        let run = std::panic::catch_unwind(|| World::<P>::run(seed));
        if let Err(panic) = run {
            eprintln!("{} fails: replay with WEFT_XDS_SEED={seed}", P::MODE);
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn delta_converges_once_the_noise_stops() {
    run_all::<Delta>();
}

#[test]
fn state_of_the_world_converges_once_the_noise_stops() {
    run_all::<Sotw>();
}
