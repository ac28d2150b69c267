use super::*;
use crate::testing::Random;

fn chain() -> Arc<FilterChain> {
    Arc::new(FilterChain {
        name: Arc::from(""),
        tls: None,
        guards: Vec::new(),
        filters: Vec::new(),
        transport_socket_connect_timeout: None,
    })
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("a test's address")
}

const PROTOCOLS: [&[&str]; 4] = [&[], &["h2", "http/1.1"], &["http/1.1"], &["istio", "h2"]];

/// Best first; chains that lose a step are out for good. `None`: does not match.
type Rank = fn(&ChainMatch, &ConnectionInfo<'_>) -> Option<u32>;

fn longest(ranges: &[CidrRange], address: IpAddr) -> Option<u32> {
    if ranges.is_empty() {
        return Some(0);
    }
    ranges
        .iter()
        .filter(|range| range.contains(address))
        .map(|range| u32::from(range.prefix_len))
        .max()
}

/// Envoy's documented order, one step after the other over all chains.
const STEPS: &[Rank] = &[
    |m, c| match m.destination_port {
        None => Some(0),
        Some(port) => (port == c.destination.port()).then_some(1),
    },
    |m, c| longest(&m.destinations, c.destination.ip()),
    |m, c| {
        if m.server_names.is_empty() {
            return Some(0);
        }
        let rank = |name: &String| match name.strip_prefix('*') {
            Some(suffix) => (c.server_name.len() > suffix.len() && c.server_name.ends_with(suffix))
                .then_some(suffix.len() as u32),
            None => (name == c.server_name).then_some(1000),
        };
        m.server_names.iter().filter_map(rank).max()
    },
    |m, c| match m.transport_protocol.as_str() {
        "" => Some(0),
        protocol => (protocol == c.transport_protocol).then_some(1),
    },
    |m, c| {
        if m.application_protocols.is_empty() {
            return Some(0);
        }
        let place = |wanted: &String| c.application_protocols.iter().position(|one| one == wanted);
        m.application_protocols
            .iter()
            .filter_map(place)
            .min()
            .map(|place| 100 - place as u32)
    },
    |m, c| longest(&m.direct_sources, c.direct_source),
    |m, c| match (m.source_type, is_local(c)) {
        (SourceType::Any, _) => Some(0),
        (SourceType::SameIpOrLoopback, true) | (SourceType::External, false) => Some(1),
        _ => None,
    },
    |m, c| longest(&m.sources, c.source.ip()),
    |m, c| {
        if m.source_ports.is_empty() {
            return Some(0);
        }
        m.source_ports.contains(&c.source.port()).then_some(1)
    },
];

fn naive(matches: &[ChainMatch], connection: &ConnectionInfo<'_>) -> Option<usize> {
    let mut left: Vec<usize> = (0..matches.len()).collect();
    for step in STEPS {
        let best = left
            .iter()
            .filter_map(|number| step(&matches[*number], connection))
            .max()?;
        left.retain(|number| step(&matches[*number], connection) == Some(best));
    }
    left.first().copied()
}

fn some<T: Clone>(random: &mut Random, items: &[T]) -> Vec<T> {
    if random.below(3) > 0 {
        return Vec::new();
    }
    let start = random.below(items.len());
    items[start..(start + 1 + random.below(2)).min(items.len())].to_vec()
}

fn ranges() -> Vec<CidrRange> {
    [
        ("10.0.0.0", 8),
        ("10.1.0.0", 16),
        ("10.1.2.3", 32),
        ("127.0.0.0", 8),
        ("::1", 128),
        ("fd00::", 8),
    ]
    .map(|(address, len)| CidrRange::new(ip(address), len))
    .to_vec()
}

fn random_match(random: &mut Random) -> ChainMatch {
    let names = ["a.example.com", "*.example.com", "*.com", "b.org"].map(String::from);
    let protocols = ["h2", "http/1.1", "istio"].map(String::from);
    ChainMatch {
        destination_port: (random.below(3) == 0).then(|| random.pick(&[80, 443])),
        destinations: some(random, &ranges()),
        server_names: some(random, &names),
        transport_protocol: random.pick(&["", "", "tls", "raw_buffer"]).to_owned(),
        application_protocols: some(random, &protocols),
        direct_sources: some(random, &ranges()),
        source_type: random.pick(&[
            SourceType::Any,
            SourceType::Any,
            SourceType::SameIpOrLoopback,
            SourceType::External,
        ]),
        sources: some(random, &ranges()),
        source_ports: some(random, &[1000, 2000]),
    }
}

#[test]
fn the_nested_maps_choose_like_envoys_documented_order() {
    let addresses = [
        "10.1.2.3",
        "10.1.9.9",
        "10.9.9.9",
        "127.0.0.1",
        "192.168.0.1",
        "::1",
        "fd00::1",
    ];
    let (mut chosen, mut unmatched) = (0, 0);
    for seed in 0..400 {
        let mut random = Random(seed);
        let mut chains = FilterChains::default();
        let mut matches = Vec::new();
        for _ in 0..=random.below(8) {
            let matcher = random_match(&mut random);
            let mut tried = chains.clone();
            // Chains that share a match are refused, by Envoy too.
            if tried.add(&matcher, chain()).is_ok() {
                chains = tried;
                matches.push(matcher);
            }
        }
        for _ in 0..50 {
            let protocols: &[&str] = random.pick(&PROTOCOLS);
            let connection = ConnectionInfo {
                destination: SocketAddr::new(
                    ip(random.pick(&addresses)),
                    random.pick(&[80, 443, 9]),
                ),
                source: SocketAddr::new(
                    ip(random.pick(&addresses)),
                    random.pick(&[1000, 2000, 3000]),
                ),
                direct_source: ip(random.pick(&addresses)),
                server_name: random.pick(&[
                    "",
                    "a.example.com",
                    "x.example.com",
                    "x.com",
                    "com",
                    "b.org",
                ]),
                transport_protocol: random.pick(&["", "tls", "raw_buffer"]),
                application_protocols: protocols,
            };
            let found = chains.find_number(&connection);
            assert_eq!(
                found,
                naive(&matches, &connection),
                "seed {seed}: {connection:?} in {matches:#?}"
            );
            if found.is_some() {
                chosen += 1;
            } else {
                unmatched += 1;
            }
        }
    }
    assert!(chosen > 1000 && unmatched > 1000, "{chosen} {unmatched}");
}

#[test]
fn a_chain_that_shares_a_match_is_refused() {
    let mut chains = FilterChains::default();
    let names = |list: &[&str]| ChainMatch {
        server_names: list.iter().map(|name| (*name).to_owned()).collect(),
        ..ChainMatch::default()
    };
    assert!(chains.add(&names(&["a", "b"]), chain()).is_ok());
    assert!(chains.add(&names(&["*.a"]), chain()).is_ok());
    let error = chains
        .add(&names(&["c", "b"]), chain())
        .expect_err("a clash");
    assert_eq!(error, "matches the same connections as filter_chains[0]");
}

#[test]
fn what_no_chain_matches_goes_to_the_default_chain() {
    let mut chains = FilterChains::default();
    let only_80 = ChainMatch {
        destination_port: Some(80),
        ..ChainMatch::default()
    };
    chains.add(&only_80, chain()).expect("a first chain");
    let connection = ConnectionInfo {
        destination: SocketAddr::new(ip("10.0.0.1"), 81),
        source: SocketAddr::new(ip("10.0.0.2"), 9),
        direct_source: ip("10.0.0.2"),
        server_name: "",
        transport_protocol: "",
        application_protocols: &[],
    };
    assert!(chains.find(&connection).is_none());
    chains.default = Some(chain());
    assert!(chains.find(&connection).is_some());
}
