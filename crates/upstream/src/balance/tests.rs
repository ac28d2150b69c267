//! Distributions against theory.

use super::*;
use crate::host_set::HostSet;
use crate::tests::{assignment, config, endpoint, locality};
use std::net::SocketAddr;
use weft_config::cluster::{HashFunction, LocalityBalancing};
use weft_config::{Endpoint, Health, LoadAssignment};

const PICKS: usize = 60_000;

fn host(i: u8, weight: u32, health: Health) -> Endpoint {
    Endpoint {
        weight,
        health,
        ..endpoint(SocketAddr::from(([10, 0, 0, i], 80)))
    }
}

fn healthy(weights: &[u32]) -> Vec<Endpoint> {
    let hosts = (0..).zip(weights);
    hosts.map(|(i, w)| host(i, *w, Health::Healthy)).collect()
}

struct World {
    balancer: Balancer,
    random: Random,
    hosts: usize,
}

impl World {
    fn new(config: Cluster, assignment: &Arc<LoadAssignment>) -> Self {
        let set = HostSet::build(assignment, &HostSet::default(), 1, &|_| Vec::new());
        let (config, hosts) = (Arc::new(config), set.hosts().len());
        let view = Arc::new(View::new(Arc::new(set), &config));
        Self {
            balancer: Balancer::new(config, view),
            random: Random::seeded(42),
            hosts,
        }
    }

    fn pick(&mut self, hash: Option<u64>, active: &dyn Fn(u32) -> u32) -> Option<Picked> {
        self.balancer.pick(&Request {
            levels: None,
            hash,
            attempt: 0,
            random: &self.random,
            active,
        })
    }

    fn shares(&mut self, active: &dyn Fn(u32) -> u32) -> Vec<f64> {
        let mut shares = vec![0.0; self.hosts];
        for _ in 0..PICKS {
            let picked = self.pick(None, active).unwrap();
            shares[picked.host as usize] += 1.0 / PICKS as f64;
        }
        shares
    }
}

fn one_locality(endpoints: Vec<Endpoint>) -> Arc<LoadAssignment> {
    assignment("c", vec![vec![locality(None, endpoints)]])
}

fn with_lb(lb: LbPolicy) -> Cluster {
    let mut config = config("c", one_locality(Vec::new()));
    config.lb = lb;
    config
}

fn round_robin() -> LbPolicy {
    LbPolicy::RoundRobin { slow_start: None }
}

fn least_request() -> LbPolicy {
    LbPolicy::LeastRequest {
        choice_count: 2,
        active_request_bias: 1.0,
        full_scan: false,
        slow_start: None,
    }
}

fn assert_near(got: &[f64], want: &[f64], tolerance: f64) {
    for (g, w) in got.iter().zip(want) {
        assert!((g - w).abs() < tolerance, "{got:?} is not {want:?}");
    }
}

#[test]
fn round_robin_is_even_and_follows_weights() {
    let mut even = World::new(with_lb(round_robin()), &one_locality(healthy(&[1; 4])));
    let turn: Vec<u32> = (0..8)
        .map(|_| even.pick(None, &|_| 0).unwrap().host)
        .collect();
    assert_eq!(turn[..4], turn[4..]);
    assert_near(&even.shares(&|_| 0), &[0.25; 4], 0.001);
    let mut weighted = World::new(with_lb(round_robin()), &one_locality(healthy(&[90, 10])));
    assert_near(&weighted.shares(&|_| 0), &[0.9, 0.1], 0.001);
}

#[test]
fn random_is_uniform() {
    let mut world = World::new(with_lb(LbPolicy::Random), &one_locality(healthy(&[1; 5])));
    assert_near(&world.shares(&|_| 0), &[0.2; 5], 0.01);
}

#[test]
fn least_request_takes_the_better_of_two() {
    let mut world = World::new(with_lb(least_request()), &one_locality(healthy(&[1; 4])));
    assert_near(&world.shares(&|_| 0), &[0.25; 4], 0.01);
    // A busy host is taken only when both choices are it: 1/16.
    let busy = |host: u32| if host == 2 { 10 } else { 0 };
    let rest = (1.0 - 1.0 / 16.0) / 3.0;
    assert_near(&world.shares(&busy), &[rest, rest, 1.0 / 16.0, rest], 0.01);
    // With weights: weight / (active + 1).
    let mut weighted = World::new(with_lb(least_request()), &one_locality(healthy(&[1, 2])));
    assert_near(&weighted.shares(&|_| 0), &[1.0 / 3.0, 2.0 / 3.0], 0.01);
    let busy = |host: u32| if host == 1 { 3 } else { 0 };
    assert_near(&weighted.shares(&busy), &[2.0 / 3.0, 1.0 / 3.0], 0.01);
}

#[test]
fn unhealthy_hosts_get_nothing_until_panic() {
    let mut endpoints = healthy(&[1; 4]);
    endpoints[0].health = Health::Unhealthy;
    endpoints[1].health = Health::Draining;
    let mut world = World::new(with_lb(round_robin()), &one_locality(endpoints.clone()));
    assert_near(&world.shares(&|_| 0), &[0.0, 0.0, 0.5, 0.5], 0.001);
    endpoints[2].health = Health::Unhealthy;
    let mut panic = World::new(with_lb(round_robin()), &one_locality(endpoints.clone()));
    assert!(panic.pick(None, &|_| 0).unwrap().panic);
    assert_near(&panic.shares(&|_| 0), &[0.25; 4], 0.001);
    endpoints[3].health = Health::Unhealthy;
    let mut off = with_lb(round_robin());
    off.lb_common.healthy_panic_threshold = 0.0;
    let mut world = World::new(off, &one_locality(endpoints));
    assert_eq!(world.pick(None, &|_| 0), None);
}

#[test]
fn priorities_share_by_health() {
    // Half of priority 0 is healthy: 70 % stay there.
    let mut first = healthy(&[1; 4]);
    first[0].health = Health::Unhealthy;
    first[1].health = Health::Unhealthy;
    let second = vec![host(9, 1, Health::Healthy)];
    let both = assignment(
        "c",
        vec![vec![locality(None, first)], vec![locality(None, second)]],
    );
    let mut world = World::new(with_lb(round_robin()), &both);
    assert_near(&world.shares(&|_| 0), &[0.0, 0.0, 0.35, 0.35, 0.3], 0.01);
}

#[test]
fn localities_share_by_weight_and_health() {
    let mut config = with_lb(round_robin());
    config.lb_common.locality = LocalityBalancing::Weighted;
    let near = vec![host(1, 1, Health::Healthy), host(2, 1, Health::Unhealthy)];
    let far = vec![host(3, 1, Health::Healthy)];
    let unweighted = vec![host(4, 1, Health::Healthy)];
    let all = vec![
        locality(Some(2), near),
        locality(Some(1), far),
        locality(None, unweighted),
    ];
    let mut world = World::new(config, &assignment("c", vec![all]));
    // The first locality's weight is 2 × 0.7.
    let first = 1.4 / 2.4;
    assert_near(&world.shares(&|_| 0), &[first, 0.0, 1.0 - first, 0.0], 0.01);
}

#[test]
fn without_a_weighted_locality_all_usable_hosts_share() {
    let healthy = |i| vec![host(i, 1, Health::Healthy)];
    for dead_weight in [None, Some(5)] {
        for lb in [round_robin(), least_request(), LbPolicy::Random] {
            let mut config = with_lb(lb);
            config.lb_common.locality = LocalityBalancing::Weighted;
            let all = vec![
                locality(dead_weight, vec![host(1, 1, Health::Unhealthy)]),
                locality(None, healthy(2)),
                locality(None, healthy(3)),
            ];
            let mut world = World::new(config, &assignment("c", vec![all]));
            assert_near(&world.shares(&|_| 0), &[0.0, 0.5, 0.5], 0.02);
        }
    }
}

#[test]
fn hashes_stick_and_bounded_load_spills() {
    for lb in [
        LbPolicy::Maglev { table_size: 65_537 },
        LbPolicy::RingHash {
            min_size: 1024,
            max_size: 8 << 20,
            function: HashFunction::XxHash,
        },
    ] {
        let mut world = World::new(with_lb(lb.clone()), &one_locality(healthy(&[1; 4])));
        for hash in 0..200_u64 {
            let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let first = world.pick(Some(hash), &|_| 0).unwrap();
            let again = world.pick(Some(hash), &|_| 5).unwrap();
            assert_eq!(first, again);
        }
        let mut bounded = with_lb(lb);
        bounded.lb_common.hash_balance_factor = Some(125);
        let mut world = World::new(bounded, &one_locality(healthy(&[1; 4])));
        let own = world.pick(Some(77), &|_| 1).unwrap();
        let full = |host: u32| if host == own.host { 50 } else { 0 };
        assert_ne!(world.pick(Some(77), &full).unwrap(), own);
    }
}

#[test]
fn nobody_is_nobody() {
    let mut world = World::new(with_lb(round_robin()), &one_locality(Vec::new()));
    assert_eq!(world.pick(None, &|_| 0), None);
}
