//! Outlier detection over simulated time.

use super::*;

fn config() -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: 5,
        enforcing_consecutive_5xx: 100,
        consecutive_gateway_failure: 5,
        enforcing_consecutive_gateway_failure: 0,
        split_external_local_origin_errors: false,
        consecutive_local_origin_failure: 5,
        enforcing_consecutive_local_origin_failure: 100,
        interval: Duration::from_secs(10),
        base_ejection_time: Duration::from_secs(30),
        max_ejection_time: Duration::from_mins(5),
        max_ejection_time_jitter: Duration::ZERO,
        max_ejection_percent: 50,
        always_eject_one_host: false,
        enforcing_success_rate: 100,
        enforcing_local_origin_success_rate: 100,
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

struct World {
    config: OutlierDetection,
    hosts: Vec<HostShared>,
    detector: Detector,
    now: Instant,
    random: Random,
}

impl World {
    fn new(hosts: usize, config: OutlierDetection) -> Self {
        let host = |i| {
            let address = std::net::SocketAddr::from(([10, 0, 0, i as u8], 80));
            HostShared::new(address, "".into(), 1)
        };
        Self {
            config,
            hosts: (0..hosts).map(host).collect(),
            detector: Detector::default(),
            now: Instant::now(),
            random: Random::seeded(1),
        }
    }

    fn report(&self, host: usize, outcome: Outcome) -> bool {
        let at = (self.now, &self.random);
        let count = self.hosts.len();
        self.detector
            .report(&self.config, &self.hosts[host], outcome, count, at)
    }

    fn statuses(&self, host: usize, status: u16, times: usize) -> bool {
        (0..times).fold(false, |any, _| {
            any | self.report(host, Outcome::Status(status))
        })
    }

    fn sweep_after(&mut self, seconds: u64) -> bool {
        self.now += Duration::from_secs(seconds);
        let at = (self.now, &self.random);
        self.detector.sweep(&self.config, &self.hosts.iter(), at)
    }

    fn ejected(&self) -> Vec<usize> {
        let ejected = |i: &usize| self.hosts[*i].is_ejected();
        (0..self.hosts.len()).filter(ejected).collect()
    }
}

#[test]
fn five_errors_in_a_row_eject_and_a_success_between_does_not() {
    let world = World::new(2, config());
    assert!(!world.statuses(0, 500, 4));
    world.statuses(0, 200, 1);
    assert!(!world.statuses(0, 500, 4));
    assert!(world.statuses(0, 503, 1));
    assert_eq!(world.ejected(), [0]);
    assert_eq!(world.detector.stats.active.get(), 1);
}

#[test]
fn ejection_lasts_longer_each_time_and_is_forgiven_slowly() {
    let mut world = World::new(2, config());
    world.statuses(0, 500, 5);
    assert!(!world.sweep_after(29));
    assert!(world.sweep_after(1));
    assert!(world.ejected().is_empty());
    // The second ejection follows at once and lasts twice as long.
    world.statuses(0, 500, 5);
    assert!(!world.sweep_after(59));
    assert!(world.sweep_after(1));
    // Two good intervals make up for both.
    world.sweep_after(10);
    world.sweep_after(10);
    world.statuses(0, 500, 5);
    assert!(world.sweep_after(30));
}

#[test]
fn no_more_hosts_than_allowed_are_ejected() {
    let world = World::new(4, config());
    for host in 0..4 {
        world.statuses(host, 500, 5);
    }
    assert_eq!(world.ejected(), [0, 1]);
    assert_eq!(world.detector.stats.overflow.get(), 2);
    // Ten percent of three hosts is none, as in Envoy since 1.28, unless one is always allowed.
    let mut strict = config();
    strict.max_ejection_percent = 10;
    let world = World::new(3, strict.clone());
    world.statuses(0, 500, 5);
    assert!(world.ejected().is_empty());
    strict.always_eject_one_host = true;
    let world = World::new(3, strict);
    world.statuses(0, 500, 5);
    world.statuses(1, 500, 5);
    assert_eq!(world.ejected(), [0]);
}

#[test]
fn gateway_failures_eject_only_when_enforced() {
    let mut enforced = config();
    enforced.consecutive_5xx = 100;
    let world = World::new(2, enforced.clone());
    assert!(!world.statuses(0, 502, 5));
    assert_eq!(
        world.detector.stats.detected[Cause::ConsecutiveGateway as usize].get(),
        1
    );
    enforced.enforcing_consecutive_gateway_failure = 100;
    let world = World::new(2, enforced);
    assert!(!world.statuses(0, 500, 5));
    assert!(world.statuses(0, 504, 5));
}

#[test]
fn failures_without_a_response_count_apart_when_split() {
    let world = World::new(2, config());
    for _ in 0..5 {
        world.report(0, Outcome::LocalOriginFailure);
    }
    assert_eq!(world.ejected(), [0]);
    let mut split = config();
    split.split_external_local_origin_errors = true;
    split.consecutive_local_origin_failure = 3;
    let world = World::new(2, split);
    assert!(!world.report(1, Outcome::LocalOriginFailure));
    assert!(!world.report(1, Outcome::LocalOriginFailure));
    world.statuses(1, 500, 1);
    assert!(!world.report(1, Outcome::LocalOriginFailure));
    assert!(!world.report(1, Outcome::LocalOriginFailure));
    assert!(world.report(1, Outcome::LocalOriginFailure));
}

#[test]
fn a_host_below_the_others_success_rate_is_ejected() {
    let mut world = World::new(6, config());
    world.config.consecutive_5xx = 1000;
    for host in 0..6 {
        world.statuses(host, 200, if host == 3 { 60 } else { 100 });
    }
    world.statuses(3, 500, 40);
    assert!(world.sweep_after(10));
    assert_eq!(world.ejected(), [3]);
    let rates = world.detector.rates();
    assert!(rates.average.unwrap() > rates.threshold.unwrap());
    assert_eq!(world.hosts[3].outlier.rates().0, Some(60.0));
    // Without traffic nobody is judged.
    assert!(!world.sweep_after(10));
    assert_eq!(world.hosts[0].outlier.rates().0, None);
}

#[test]
fn failure_percentage_ejects_when_enforced() {
    let mut world = World::new(5, config());
    world.config.consecutive_5xx = 1000;
    world.config.enforcing_success_rate = 0;
    world.config.enforcing_failure_percentage = 100;
    for host in 0..5 {
        world.statuses(host, 200, 10);
        world.statuses(host, 500, if host < 2 { 90 } else { 40 });
    }
    assert!(world.sweep_after(10));
    assert_eq!(world.ejected(), [0, 1]);
}

#[test]
fn a_removed_host_makes_room() {
    let world = World::new(4, config());
    world.statuses(0, 500, 5);
    world.statuses(1, 500, 5);
    world.detector.forget(&world.hosts[0]);
    world.statuses(2, 500, 5);
    assert_eq!(world.ejected(), [1, 2]);
}
