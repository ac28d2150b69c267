//! Counts of an agent, with the names of Istio's agent. Must never change anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use weft_core::metrics::{StatSet, StatVisitor, Value};
use weft_core::stat_set;

stat_set! {
    /// Calls of the authority, and what became of them.
    pub struct Calls {
        counters {
            num_outgoing_requests,
            num_failed_outgoing_requests,
            num_refused_outgoing_requests,
            num_revoked_certificates,
            num_unusable_answers,
            num_failed_outputs,
            certificates
        }
        histograms { outgoing_latency }
    }
}

stat_set! {
    /// Calls of the Workload API, and what became of them.
    pub struct WorkloadApiCalls {
        counters {
            workload_api_requests,
            workload_api_bad_requests,
            workload_api_refused,
            workload_api_overflow,
            jwt_svids,
            num_failed_jwt_svids
        }
    }
}

/// `agent.…`; besides, `cert_expiry_seconds`: what is left of the present certificate's life,
/// negative after its end, absent without one.
#[derive(Debug, Default)]
pub struct AgentStats {
    pub(crate) calls: Calls,
    pub(crate) workload_api: WorkloadApiCalls,
    /// Seconds since 1970; 0 without a certificate.
    end: AtomicU64,
}

impl AgentStats {
    pub(crate) fn ends(&self, end: SystemTime) {
        let since = end.duration_since(SystemTime::UNIX_EPOCH);
        let seconds = since.unwrap_or_default().as_secs();
        self.end.store(seconds, Ordering::Relaxed);
    }

    fn left(&self, now: SystemTime) -> Option<i64> {
        let end = self.end.load(Ordering::Relaxed);
        let end = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(end))?;
        if end == SystemTime::UNIX_EPOCH {
            return None;
        }
        Some(match end.duration_since(now) {
            Ok(left) => left.as_secs() as i64,
            Err(over) => -(over.duration().as_secs() as i64),
        })
    }
}

impl StatSet for AgentStats {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        self.calls.visit(visitor);
        self.workload_api.visit(visitor);
        if let Some(left) = self.left(SystemTime::now()) {
            visitor.value("cert_expiry_seconds", Value::Gauge(left));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_of_a_life_goes_below_zero() {
        let (stats, now) = (AgentStats::default(), SystemTime::now());
        assert_eq!(stats.left(now), None);
        stats.ends(now + Duration::from_secs(100));
        assert!(matches!(stats.left(now), Some(98..=100)));
        assert!(matches!(
            stats.left(now + Duration::from_secs(200)),
            Some(-102..=-99)
        ));
    }
}
