//! Incremental equals from scratch: random edits of a random mesh, after each of which the views
//! of some proxies are compared with those of a control plane that starts with the same objects.
//! Along the way every resource is checked as Envoy would check it.

mod networks;
mod proxies;
mod routes;
mod security;
mod settings;
mod sidecars;
mod workloads;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::sync::Arc;

use prost::Message;
use weft_model::{KeyPlace, MeshSettings, Object};
use weft_proto::rules;
use weft_sources::{Change, FileStore, ObjectState};
use weft_xds::{TypeUrl, Version};

use super::{oracle_gateways, oracle_patches, telemetry};
use crate::ca::{Account, Svid};
use crate::graph::{Key, ProxyFacts, ProxyView, Value};
use crate::pb::route::v3::RouteConfiguration;
use crate::world::World;

/// A small deterministic generator, so that a failure replays from its seed.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }

    pub(super) fn pick<'a>(&mut self, list: &[&'a str]) -> &'a str {
        list[self.below(list.len())]
    }

    pub(super) fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

pub(super) const NAMESPACES: [&str; 3] = ["a", "b", "istio-system"];
pub(super) const HOSTS: [&str; 9] = [
    "x.a.svc.cluster.local",
    "y.a.svc.cluster.local",
    "x.b.svc.cluster.local",
    "z.b.svc.cluster.local",
    "api.example.com",
    "www.example.com",
    "x.a",
    "*.example.com",
    "10.96.0.1",
];

fn export(random: &mut Random) -> &'static str {
    random.pick(&[
        "",
        "\n  exportTo: ['*']",
        "\n  exportTo: ['.']",
        "\n  exportTo: [a]",
    ])
}

pub(super) fn head(kind: &str, name: &str, namespace: &str) -> String {
    format!(
        "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:"
    )
}

/// Which endpoints callers prefer, as an object's metadata say it.
pub(super) fn prefers(random: &mut Random) -> &'static str {
    random.pick(&[
        "",
        "",
        ", annotations: {networking.istio.io/traffic-distribution: PreferClose}",
        ", annotations: {networking.istio.io/traffic-distribution: PreferSameNode}",
    ])
}

fn service(random: &mut Random, name: &str) -> String {
    let host = random.pick(&HOSTS);
    let resolution = if host.starts_with('*') {
        random.pick(&["NONE", "DYNAMIC_DNS"])
    } else {
        random.pick(&["STATIC", "STATIC", "DNS", "NONE"])
    };
    let mut out = head("ServiceEntry", name, random.pick(&NAMESPACES));
    let given = random.pick(&["true", "true", "false"]);
    let prefers = prefers(random);
    out = out.replace(
        "}\nspec:",
        &format!(
            ", labels: {{networking.istio.io/enable-autoallocate-ip: '{given}'}}{prefers}}}\nspec:"
        ),
    );
    let _ = write!(
        out,
        "\n  hosts: ['{host}']\n  location: MESH_INTERNAL\n  resolution: {resolution}"
    );
    out += export(random);
    if resolution != "DYNAMIC_DNS" && random.chance(50) {
        let _ = write!(out, "\n  addresses: ['10.96.0.{}']", random.below(4) + 1);
    }
    let mut ports = BTreeSet::new();
    for _ in 0..=random.below(2) {
        ports.insert(random.pick(&[
            "80 HTTP",
            "8080 HTTP",
            "80 TCP",
            "9000 TCP",
            "9001 GRPC",
            "9002 GRPC-WEB",
            "443 TLS",
            "7000 ''",
            "20880 TCP",
            "20881 ''",
        ]));
    }
    // A Unix socket is for one port.
    let socket = resolution == "STATIC" && random.chance(10);
    if socket {
        ports = ports.into_iter().take(1).collect();
    }
    out += "\n  ports:";
    let mut numbers = BTreeSet::new();
    for port in ports {
        let (number, protocol) = port.split_once(' ').expect("number and protocol");
        let named = matches!(protocol, "HTTP" | "GRPC" | "TLS");
        let protocol = if named || resolution != "DYNAMIC_DNS" {
            protocol
        } else {
            "TLS"
        };
        if numbers.insert(number) {
            let rpc = number
                .starts_with("2088")
                .then(|| random.pick(&["tcp-metaprotocol-dubbo-", "bolt-", "x-dubbo-", "p"]));
            let name = rpc.unwrap_or("p");
            let _ = write!(
                out,
                "\n  - {{number: {number}, name: {name}{number}, protocol: {protocol}}}"
            );
        }
    }
    if resolution == "STATIC" {
        out += "\n  endpoints:";
        if socket {
            out += "\n  - {address: 'unix:///run/a.sock', labels: {version: v1}}";
        }
        for i in 0..=random.below(3) {
            let network = random.pick(&["", "one", "two", "three"]);
            let hidden = !network.is_empty() && random.chance(15);
            let address = match random.below(6) + 1 + i {
                _ if hidden => "''".to_owned(),
                last => format!("10.0.0.{last}"),
            };
            let _ = write!(
                out,
                "\n  - {{address: {address}, network: '{network}', labels: {{version: v{}}}, weight: {}, locality: {}{}}}",
                random.below(3),
                random.below(3) + 1,
                random.pick(&["eu/eu-1", "eu/eu-2", "us/us-1", "''"]),
                random.pick(&["", ", serviceAccount: one", ", serviceAccount: two"]),
            );
        }
    }
    out
}

fn destination_rule(random: &mut Random, name: &str) -> String {
    let namespace = random.pick(&NAMESPACES);
    let map = format!("tls: {{mode: SIMPLE, credentialName: 'configmap://{namespace}/roots'}}, ");
    let mut out = head("DestinationRule", name, namespace);
    let host = random.pick(&[&HOSTS[..], &["*.svc.cluster.local"]].concat());
    let _ = write!(out, "\n  host: '{host}'");
    out += match random.below(5) {
        0 => "\n  workloadSelector: {matchLabels: {tier: beta}}",
        _ => export(random),
    };
    let balancer = balancer(random);
    let more = random.pick(&[
        "",
        "outlierDetection: {interval: 5s}, ",
        "outlierDetection: {}, retryBudget: {percent: 30}, ",
        "connectionPool: {tcp: {idleTimeout: 9s}}, tunnel: {targetHost: a.b, targetPort: 1}, ",
        "proxyProtocol: {}, ",
        "tls: {mode: ISTIO_MUTUAL}, ",
        "tls: {mode: SIMPLE}, ",
        "tls: {mode: SIMPLE, insecureSkipVerify: true, sni: a.b}, ",
        "tls: {mode: MUTUAL, clientCertificate: /c, privateKey: /k}, ",
        "tls: {mode: MUTUAL, credentialName: other}, ",
        "tls: {mode: MUTUAL, credentialName: 'sds://other'}, ",
        "tls: {mode: SIMPLE, credentialName: 'builtin://'}, ",
        "portLevelSettings: [{port: {number: 80}, tls: {mode: ISTIO_MUTUAL}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}}}], ",
        "connectionPool: {tcp: {maxConnections: 3, connectTimeout: 2s}, http: {useClientProtocol: true, maxRetries: 2}}, ",
        &map,
    ]);
    let _ = write!(out, "\n  trafficPolicy: {{{more}loadBalancer: {balancer}}}");
    if random.chance(60) {
        out += "\n  subsets: [{name: v1, labels: {version: v1}";
        if random.chance(30) {
            let _ = write!(
                out,
                ", trafficPolicy: {{loadBalancer: {}}}",
                self::balancer(random)
            );
        }
        out += "}]";
    }
    out
}

fn balancer(random: &mut Random) -> &'static str {
    random.pick(&[
        "{simple: ROUND_ROBIN, warmup: {duration: 5s}}",
        "{simple: RANDOM}",
        "{simple: PASSTHROUGH}",
        "{simple: LEAST_REQUEST, localityLbSetting: {enabled: false}}",
        "{consistentHash: {httpHeaderName: x}}",
        "{consistentHash: {useSourceIp: true, maglev: {tableSize: 17}}}",
        "{localityLbSetting: {distribute: [{from: eu, to: {eu: 90, us: 10}}]}}",
        "{localityLbSetting: {failover: [{from: eu, to: us}]}}",
        "{zoneAwareLbSetting: {failover: [{from: eu, to: us}]}}",
        "{zoneAwareLbSetting: {enabled: false}}",
        "{zoneAwareLbSetting: {failoverPriority: [version], minClusterSize: 2}}",
        "{localityLbSetting: {failoverPriority: [version, topology.kubernetes.io/region]}}",
    ])
}

fn object(random: &mut Random, name: &str) -> String {
    if random.chance(15) {
        return oracle_patches::envoy_filter(random, name);
    }
    if random.chance(10) {
        return networks::object(random, name);
    }
    if random.chance(20) {
        return workloads::object(random, name);
    }
    match random.below(14) {
        13 => telemetry::random_rule(random, name),
        10..=12 => security::rule(random, name),
        0..=3 => service(random, name),
        4..=6 => routes::virtual_service(random, name),
        7 | 8 => destination_rule(random, name),
        _ if random.chance(40) => oracle_gateways::gateways(random),
        _ if random.chance(40) => oracle_gateways::secret(random),
        _ => sidecars::sidecar(random),
    }
}

fn pin(world: &mut World, facts: &Arc<ProxyFacts>) -> Arc<ProxyView> {
    match world.engine.pin(&Key::ProxyView(Arc::clone(facts))) {
        Value::ProxyView(view) => view,
        other => panic!("{other:?}"),
    }
}

type Seen = BTreeSet<(String, Version)>;

/// What a mesh has besides the documents of its files.
struct Brought {
    settings: MeshSettings,
    keys: BTreeMap<KeyPlace, Arc<str>>,
    svids: BTreeMap<Account, Arc<Svid>>,
    registered: workloads::Registered,
    /// The files, and the one with the mesh's networks.
    texts: BTreeMap<String, String>,
    networks: Option<String>,
}

impl Brought {
    /// A store that reads all files for the first time knows the same, unless a last good form is kept.
    fn assert_read_alike(&self, store: &FileStore, step: &str) {
        if store
            .statuses()
            .any(|s| s.state == ObjectState::KeptLastGood)
        {
            return;
        }
        let mut fresh = FileStore::new(self.settings.clone());
        let news = self.registered.iter();
        let news = news.map(|(origin, workload)| (origin.clone(), Some(Arc::clone(workload))));
        fresh.register(news.collect());
        if let Some(text) = &self.networks {
            fresh.apply_networks("networks.yaml", Ok(text));
        }
        let texts = self.texts.iter();
        fresh.apply_all(texts.map(|(file, text)| (&**file, Some(Ok(&**text)))));
        let of = |store: &FileStore| -> BTreeMap<String, Object> {
            let objects = store.objects();
            objects.map(|o| (o.key().to_string(), o.clone())).collect()
        };
        let (ours, theirs) = (of(store), of(&fresh));
        for (key, object) in &ours {
            assert_eq!(Some(object), theirs.get(key), "{step}: {key}");
        }
        assert_eq!(ours.len(), theirs.len(), "{step}");
    }
}

fn compare(
    told: &BTreeMap<usize, Arc<ProxyView>>,
    world: &World,
    all: &[Arc<ProxyFacts>],
    brought: &Brought,
    step: &str,
) {
    // Whose namespaces share nothing.
    let mut fresh = World::with_sharing(brought.settings.clone(), false);
    for (place, keys) in &brought.keys {
        let value = Value::Text(Arc::clone(keys));
        fresh.engine.set(Key::TokenKeys(place.clone()), value);
    }
    for (account, svid) in &brought.svids {
        let key = Key::Svid(account.0.clone(), Arc::clone(&account.1));
        fresh.engine.set(key, Value::Svid(Arc::clone(svid)));
    }
    let changes: Vec<Change> = world
        .objects()
        .map(|o| Change {
            key: o.key(),
            object: Some(o.clone()),
        })
        .collect();
    fresh.apply(&changes);
    for (index, view) in told {
        let scratch = pin(&mut fresh, &all[*index]);
        for set in view.view.sets() {
            let other = scratch.view.get(set.type_url()).expect("the same types");
            let difference = set.difference(other);
            let names: Vec<_> = difference
                .changed
                .iter()
                .map(|r| Arc::clone(&r.name))
                .collect();
            assert!(
                names.is_empty() && difference.removed.is_empty() && set == other,
                "{step}: proxy {index}, {:?}: {names:?} differ, {:?} are too many",
                set.type_url(),
                difference.removed
            );
        }
        assert!(**view == *scratch, "{step}: proxy {index}: origins differ");
    }
}

/// What Envoy would say to each resource that was not seen before.
fn check(view: &ProxyView, seen: &mut Seen) {
    for set in view.view.sets() {
        for resource in set.iter() {
            if !seen.insert((resource.name.to_string(), resource.version)) {
                continue;
            }
            let any = weft_proto::Any {
                type_url: set.type_url().as_str().to_owned(),
                value: resource.body.to_vec(),
            };
            let verdict = rules::validate_any(&any);
            assert!(verdict.is_ok(), "{}: {verdict:?}", resource.name);
            assert!(
                view.origins(set.type_url(), &resource.name).is_some(),
                "{}",
                resource.name
            );
            if *set.type_url() == TypeUrl::ROUTE {
                let body = resource.body.to_bytes();
                let configuration = RouteConfiguration::decode(body).expect("valid");
                unique_domains(&configuration);
                short_names(&configuration);
            }
        }
    }
}

fn unique_domains(configuration: &RouteConfiguration) {
    let (mut domains, mut names) = (BTreeSet::new(), BTreeSet::new());
    for host in &configuration.virtual_hosts {
        assert!(
            names.insert(&host.name),
            "{}: {} twice",
            configuration.name,
            host.name
        );
        for domain in &host.domains {
            assert!(
                domains.insert(domain),
                "{}: {domain} twice",
                configuration.name
            );
        }
    }
}

/// Somebody has the short name of each service: the service, or the host that is called just so.
fn short_names(configuration: &RouteConfiguration) {
    let all: BTreeSet<&str> = configuration
        .virtual_hosts
        .iter()
        .flat_map(|h| h.domains.iter().map(String::as_str))
        .collect();
    for host in &configuration.virtual_hosts {
        let Some((name, port)) = host.name.rsplit_once(':') else {
            continue;
        };
        // Only names of services have forms, one of them with a dot at the end.
        let forms = [format!("{name}."), format!("{name}.:{port}")];
        let short = name.strip_suffix(".svc.cluster.local");
        let Some(short) = short.filter(|_| forms.iter().any(|f| all.contains(&**f))) else {
            continue;
        };
        assert!(
            all.contains(short) || all.contains(&*format!("{short}:{port}")),
            "{}: nobody has {short}",
            configuration.name
        );
    }
}

fn run(seed: u64, steps: usize) {
    let mut random = Random(seed);
    let settings = settings::of(seed);
    let mut store = FileStore::new(settings.clone());
    let mut world = World::new(settings.clone());
    let mut brought = Brought {
        settings,
        keys: BTreeMap::new(),
        svids: BTreeMap::new(),
        registered: BTreeMap::new(),
        texts: BTreeMap::new(),
        networks: None,
    };
    let all = proxies::all();
    let mut told: BTreeMap<usize, Arc<ProxyView>> = BTreeMap::new();
    let mut seen = Seen::new();
    for step in 0..steps {
        let mut changes = Vec::new();
        for _ in 0..=random.below(3) {
            let slot = random.below(24);
            let file = format!("{slot}.yaml");
            let text = (!random.chance(25)).then(|| object(&mut random, &format!("o{slot}")));
            changes.extend(store.apply(&file, text.as_deref()).changes);
            match text {
                Some(text) => brought.texts.insert(file, text),
                None => brought.texts.remove(&file),
            };
        }
        if random.chance(15) {
            let text = networks::document(&mut random);
            changes.extend(store.apply_networks("networks.yaml", Ok(&text)).changes);
            brought.networks = Some(text);
        }
        if random.chance(20) {
            let known = &mut brought.registered;
            changes.extend(workloads::register(&mut random, &mut store, known));
        }
        world.apply(&changes);
        if random.chance(20) {
            security::fetch(&mut random, &mut world, &mut brought.keys);
        }
        if random.chance(10) {
            security::renew(&mut random, &mut world, &mut brought.svids);
        }
        for (key, value) in world.engine.settle() {
            let (Key::ProxyView(facts), Value::ProxyView(view)) = (key, value) else {
                panic!("only proxies are pinned")
            };
            let index = all.iter().position(|f| *f == facts).expect("a known proxy");
            told.insert(index, view);
        }
        // Proxies come and go.
        let index = random.below(all.len());
        if told.remove(&index).is_some() {
            world.engine.unpin(&Key::ProxyView(Arc::clone(&all[index])));
        }
        if random.chance(80) {
            let index = random.below(all.len());
            told.entry(index)
                .or_insert_with(|| pin(&mut world, &all[index]));
        }
        let step = format!("seed {seed}, step {step}");
        brought.assert_read_alike(&store, &step);
        compare(&told, &world, &all, &brought, &step);
        for view in told.values() {
            check(view, &mut seen);
        }
    }
    for index in told.keys() {
        world
            .engine
            .unpin(&Key::ProxyView(Arc::clone(&all[*index])));
    }
    let sources = world.engine.len();
    assert!(
        sources < 450,
        "{sources} nodes are left with nobody to read them"
    );
    assert!(
        seen.len() > 90,
        "only {} resources were made: the world is too poor",
        seen.len()
    );
}

/// Each seed is a history of its own, and together they have all settings; `WEFT_ORACLE_SEEDS=FROM..TO`
/// runs others.
#[test]
fn incremental_equals_from_scratch() {
    let seeds = std::env::var("WEFT_ORACLE_SEEDS").unwrap_or_else(|_| "0..12".to_owned());
    let (from, to) = seeds.split_once("..").expect("FROM..TO");
    for seed in from.parse().expect("a number")..to.parse().expect("a number") {
        run(seed, 60);
    }
}
