//! Outlier detection: ejects hosts that keep failing, and lets them back. A state machine
//! over atomics that is told the time and the outcomes; it neither sends nor waits.
//! Source: Envoy, "Outlier detection".

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use weft_config::cluster::OutlierDetection;
use weft_core::metrics::{Counter, Gauge, StatSet, StatVisitor, Value};

use crate::host::HostShared;
use crate::random::Random;

/// One host's record.
#[derive(Debug)]
pub(crate) struct HostOutlier {
    ejected: AtomicBool,
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    external: Window,
    local: Window,
    ejection: Mutex<Ejection>,
}

impl Default for HostOutlier {
    fn default() -> Self {
        Self {
            ejected: AtomicBool::new(false),
            consecutive_5xx: AtomicU32::new(0),
            consecutive_gateway: AtomicU32::new(0),
            consecutive_local: AtomicU32::new(0),
            external: Window::default(),
            local: Window::default(),
            ejection: Mutex::new(Ejection::default()),
        }
    }
}

#[derive(Debug, Default)]
struct Ejection {
    at: Option<Instant>,
    jitter: Duration,
    /// Multiplies the base time; grows with each ejection, shrinks with each good interval.
    times: u32,
}

/// Successes of all requests within an interval.
#[derive(Debug)]
struct Window {
    total: AtomicU64,
    success: AtomicU64,
    /// Percent of the last interval as `f64` bits; NaN when there was too little traffic.
    rate: AtomicU64,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            total: AtomicU64::new(0),
            success: AtomicU64::new(0),
            rate: AtomicU64::new(f64::NAN.to_bits()),
        }
    }
}

impl Window {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Relaxed);
        if success {
            self.success.fetch_add(1, Relaxed);
        }
    }

    fn take(&self) -> (u64, u64) {
        (self.success.swap(0, Relaxed), self.total.swap(0, Relaxed))
    }

    fn rate(&self) -> Option<f64> {
        let rate = f64::from_bits(self.rate.load(Relaxed));
        (!rate.is_nan()).then_some(rate)
    }
}

impl HostOutlier {
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejected.load(Relaxed)
    }

    /// Success rates of the last interval in percent: of responses, and of local origin.
    pub(crate) fn rates(&self) -> (Option<f64>, Option<f64>) {
        (self.external.rate(), self.local.rate())
    }

    fn reset_counts(&self) {
        for count in [
            &self.consecutive_5xx,
            &self.consecutive_gateway,
            &self.consecutive_local,
        ] {
            reset(count);
        }
    }
}

/// Writes only if needed, so that good hosts do not move cache lines between cores.
fn reset(count: &AtomicU32) {
    if count.load(Relaxed) != 0 {
        count.store(0, Relaxed);
    }
}

/// How an attempt ended, as outlier detection sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// A response with this status (of gRPC: the status it stands for).
    Status(u16),
    /// No connection, a reset, or a timeout: this proxy found the failure.
    LocalOriginFailure,
    /// A connection without HTTP meaning succeeded.
    LocalOriginSuccess,
}

/// What made a host an outlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause {
    Consecutive5xx,
    ConsecutiveGateway,
    ConsecutiveLocal,
    SuccessRate,
    LocalSuccessRate,
    FailurePercentage,
    LocalFailurePercentage,
}

/// Envoy's counters by cause.
const CAUSES: [&str; 7] = [
    "consecutive_5xx",
    "consecutive_gateway_failure",
    "consecutive_local_origin_failure",
    "success_rate",
    "local_origin_success_rate",
    "failure_percentage",
    "local_origin_failure_percentage",
];

/// Statistics `outlier_detection.*` of a cluster.
#[derive(Debug, Default)]
pub(crate) struct OutlierStats {
    active: Gauge,
    overflow: Counter,
    enforced_total: Counter,
    detected: [Counter; 7],
    enforced: [Counter; 7],
}

impl StatSet for OutlierStats {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        let mut give =
            |name: &str, value| visitor.value(&format!("outlier_detection.{name}"), value);
        give("ejections_active", Value::Gauge(self.active.get()));
        give("ejections_overflow", Value::Counter(self.overflow.get()));
        give(
            "ejections_enforced_total",
            Value::Counter(self.enforced_total.get()),
        );
        for ((cause, detected), enforced) in CAUSES.iter().zip(&self.detected).zip(&self.enforced) {
            give(
                &format!("ejections_detected_{cause}"),
                Value::Counter(detected.get()),
            );
            give(
                &format!("ejections_enforced_{cause}"),
                Value::Counter(enforced.get()),
            );
        }
    }
}

/// Mean and threshold of the last interval's success rates in percent.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
#[allow(missing_docs)]
pub struct SuccessRates {
    pub average: Option<f64>,
    pub threshold: Option<f64>,
    pub local_average: Option<f64>,
    pub local_threshold: Option<f64>,
}

/// The detector of one cluster.
#[derive(Debug, Default)]
pub(crate) struct Detector {
    pub(crate) stats: std::sync::Arc<OutlierStats>,
    rates: Mutex<SuccessRates>,
}

impl Detector {
    /// Records an outcome. `hosts` is the number of hosts of the cluster. Gives whether the
    /// host was ejected.
    pub(crate) fn report(
        &self,
        config: &OutlierDetection,
        host: &HostShared,
        outcome: Outcome,
        hosts: usize,
        (now, random): (Instant, &Random),
    ) -> bool {
        let record = &host.outlier;
        let split = config.split_external_local_origin_errors;
        let reached = |count: &AtomicU32, limit: u32| count.fetch_add(1, Relaxed) + 1 == limit;
        match outcome {
            Outcome::LocalOriginFailure if split => {
                record.local.count(false);
                let limit = config.consecutive_local_origin_failure;
                reached(&record.consecutive_local, limit) && {
                    reset(&record.consecutive_local);
                    self.eject(config, host, Cause::ConsecutiveLocal, hosts, (now, random))
                }
            }
            Outcome::LocalOriginSuccess => {
                if split {
                    record.local.count(true);
                    reset(&record.consecutive_local);
                }
                false
            }
            // Without the split such failures count as a gateway's 503.
            Outcome::LocalOriginFailure => self.status(config, host, 503, hosts, (now, random)),
            Outcome::Status(status) => {
                if split {
                    record.local.count(true);
                    reset(&record.consecutive_local);
                }
                self.status(config, host, status, hosts, (now, random))
            }
        }
    }

    fn status(
        &self,
        config: &OutlierDetection,
        host: &HostShared,
        status: u16,
        hosts: usize,
        at: (Instant, &Random),
    ) -> bool {
        let record = &host.outlier;
        record.external.count(status < 500);
        if status < 500 {
            reset(&record.consecutive_5xx);
            reset(&record.consecutive_gateway);
            return false;
        }
        let mut ejected = false;
        if matches!(status, 502..=504) {
            let count = record.consecutive_gateway.fetch_add(1, Relaxed) + 1;
            if count == config.consecutive_gateway_failure {
                reset(&record.consecutive_gateway);
                ejected |= self.eject(config, host, Cause::ConsecutiveGateway, hosts, at);
            }
        } else {
            reset(&record.consecutive_gateway);
        }
        let count = record.consecutive_5xx.fetch_add(1, Relaxed) + 1;
        if count == config.consecutive_5xx {
            reset(&record.consecutive_5xx);
            ejected |= self.eject(config, host, Cause::Consecutive5xx, hosts, at);
        }
        ejected
    }

    fn eject(
        &self,
        config: &OutlierDetection,
        host: &HostShared,
        cause: Cause,
        hosts: usize,
        (now, random): (Instant, &Random),
    ) -> bool {
        let enforcing = match cause {
            Cause::Consecutive5xx => config.enforcing_consecutive_5xx,
            Cause::ConsecutiveGateway => config.enforcing_consecutive_gateway_failure,
            Cause::ConsecutiveLocal => config.enforcing_consecutive_local_origin_failure,
            Cause::SuccessRate => config.enforcing_success_rate,
            Cause::LocalSuccessRate => config.enforcing_local_origin_success_rate,
            Cause::FailurePercentage => config.enforcing_failure_percentage,
            Cause::LocalFailurePercentage => config.enforcing_failure_percentage_local_origin,
        };
        // One ejection of a cluster at a time, so that the limit holds.
        let _one = self.rates.lock();
        if host.outlier.is_ejected() {
            return false;
        }
        let active = self.stats.active.get().max(0);
        let percent = 100.0 * (active + 1) as f64 / hosts.max(1) as f64;
        let first = config.always_eject_one_host && active == 0;
        if percent > f64::from(config.max_ejection_percent) && !first {
            self.stats.overflow.inc();
            return false;
        }
        if let Some(count) = self.stats.detected.get(cause as usize) {
            count.inc();
        }
        if random.below(100) as u32 >= enforcing {
            return false;
        }
        let mut ejection = host.outlier.ejection.lock();
        ejection.at = Some(now);
        ejection.jitter = config.max_ejection_time_jitter.mul_f64(random.unit());
        if config.base_ejection_time * ejection.times < config.max_ejection_time {
            ejection.times += 1;
        }
        host.outlier.ejected.store(true, Relaxed);
        self.stats.active.inc();
        self.stats.enforced_total.inc();
        if let Some(count) = self.stats.enforced.get(cause as usize) {
            count.inc();
        }
        tracing::debug!(host = %host.address(), ?cause, "host ejected");
        true
    }

    /// The end of an interval: lets hosts back and judges success rates. Gives whether the
    /// set of ejected hosts changed.
    pub(crate) fn sweep<'a>(
        &self,
        config: &OutlierDetection,
        hosts: &(impl Iterator<Item = &'a HostShared> + Clone),
        (now, random): (Instant, &Random),
    ) -> bool {
        let mut changed = false;
        for host in hosts.clone() {
            changed |= self.let_back(config, host, now);
        }
        let mut rates = SuccessRates::default();
        for local in [false, true] {
            let (average, threshold, ejected) =
                self.judge(config, hosts.clone(), local, (now, random));
            changed |= ejected;
            if local {
                (rates.local_average, rates.local_threshold) = (average, threshold);
            } else {
                (rates.average, rates.threshold) = (average, threshold);
            }
        }
        *self.rates.lock() = rates;
        changed
    }

    fn let_back(&self, config: &OutlierDetection, host: &HostShared, now: Instant) -> bool {
        let mut ejection = host.outlier.ejection.lock();
        if !host.outlier.is_ejected() {
            ejection.times = ejection.times.saturating_sub(1);
            return false;
        }
        let time = (config.base_ejection_time * ejection.times).min(config.max_ejection_time);
        let over = ejection
            .at
            .is_none_or(|at| now >= at + time + ejection.jitter);
        if over {
            drop(ejection);
            self.release(host);
        }
        over
    }

    /// Ends an ejection at once: its time is over, or outlier detection was switched off.
    pub(crate) fn release(&self, host: &HostShared) {
        if host.outlier.ejected.swap(false, Relaxed) {
            host.outlier.reset_counts();
            self.stats.active.dec();
            tracing::debug!(host = %host.address(), "host is used again");
        }
    }

    /// The host is gone; it must not count as ejected any more.
    pub(crate) fn forget(&self, host: &HostShared) {
        if host.outlier.ejected.swap(false, Relaxed) {
            self.stats.active.dec();
        }
    }

    /// Success-rate and failure-percentage ejection. Gives average, threshold, and whether a
    /// host was ejected.
    fn judge<'a>(
        &self,
        config: &OutlierDetection,
        hosts: impl Iterator<Item = &'a HostShared>,
        local: bool,
        at: (Instant, &Random),
    ) -> (Option<f64>, Option<f64>, bool) {
        let mut count = 0;
        let (mut for_rate, mut for_percentage) = (Vec::new(), Vec::new());
        for host in hosts {
            count += 1;
            let window = if local {
                &host.outlier.local
            } else {
                &host.outlier.external
            };
            let (success, total) = window.take();
            let rate = 100.0 * success as f64 / total.max(1) as f64;
            let enough = |volume: u32| total >= u64::from(volume.max(1));
            let rate_counts = enough(config.success_rate_request_volume);
            let shown = if rate_counts { rate } else { f64::NAN };
            window.rate.store(shown.to_bits(), Relaxed);
            if host.outlier.is_ejected() {
                continue;
            }
            if rate_counts {
                for_rate.push((host, rate));
            }
            if enough(config.failure_percentage_request_volume) {
                for_percentage.push((host, rate));
            }
        }
        if local && !config.split_external_local_origin_errors {
            return (None, None, false);
        }
        let mut changed = false;
        let (mut average, mut threshold) = (None, None);
        if !for_rate.is_empty() && for_rate.len() >= config.success_rate_minimum_hosts as usize {
            let n = for_rate.len() as f64;
            let mean = for_rate.iter().map(|(_, rate)| rate).sum::<f64>() / n;
            let variance = for_rate
                .iter()
                .map(|(_, r)| (r - mean).powi(2))
                .sum::<f64>()
                / n;
            let limit =
                mean - variance.sqrt() * f64::from(config.success_rate_stdev_factor) / 1000.0;
            (average, threshold) = (Some(mean), Some(limit));
            let cause = if local {
                Cause::LocalSuccessRate
            } else {
                Cause::SuccessRate
            };
            for (host, _) in for_rate.iter().filter(|(_, rate)| *rate < limit) {
                changed |= self.eject(config, host, cause, count, at);
            }
        }
        if for_percentage.len() >= config.failure_percentage_minimum_hosts as usize {
            let limit = f64::from(config.failure_percentage_threshold);
            let cause = if local {
                Cause::LocalFailurePercentage
            } else {
                Cause::FailurePercentage
            };
            for (host, _) in for_percentage
                .iter()
                .filter(|(_, rate)| 100.0 - rate >= limit)
            {
                changed |= self.eject(config, host, cause, count, at);
            }
        }
        (average, threshold, changed)
    }

    /// Of the last interval.
    pub(crate) fn rates(&self) -> SuccessRates {
        *self.rates.lock()
    }
}

#[cfg(test)]
#[path = "outlier_tests.rs"]
mod tests;
