//! The statistics of clusters and hosts under Envoy's names.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};

weft_core::stat_set! {
    /// Statistics of one cluster in one worker; the main thread has a set of its own for
    /// membership and updates.
    pub struct ClusterStats {
        counters {
            assignment_stale,
            assignment_timeout_received,
            bind_errors,
            lb_healthy_panic,
            lb_recalculate_zone_structures,
            membership_change,
            original_dst_host_invalid,
            retry_or_shadow_abandoned,
            update_attempt,
            update_empty,
            update_failure,
            update_no_rebuild,
            update_success,
            upstream_cx_close_notify,
            upstream_cx_connect_attempts_exceeded,
            upstream_cx_connect_fail,
            upstream_cx_connect_timeout,
            upstream_cx_connect_with_0_rtt,
            upstream_cx_destroy,
            upstream_cx_destroy_local,
            upstream_cx_destroy_local_with_active_rq,
            upstream_cx_destroy_remote,
            upstream_cx_destroy_remote_with_active_rq,
            upstream_cx_destroy_with_active_rq,
            upstream_cx_http1_total,
            upstream_cx_http2_total,
            upstream_cx_idle_timeout,
            upstream_cx_max_duration_reached,
            upstream_cx_max_requests,
            upstream_cx_none_healthy,
            upstream_cx_overflow,
            upstream_cx_pool_overflow,
            upstream_cx_protocol_error,
            upstream_cx_rx_bytes_total,
            upstream_cx_total,
            upstream_cx_tx_bytes_total,
            upstream_internal_redirect_failed_total,
            upstream_internal_redirect_succeeded_total,
            upstream_rq_0rtt,
            upstream_rq_1xx,
            upstream_rq_2xx,
            upstream_rq_3xx,
            upstream_rq_4xx,
            upstream_rq_5xx,
            upstream_rq_cancelled,
            upstream_rq_completed,
            upstream_rq_dropped,
            upstream_rq_drop_overload,
            upstream_rq_maintenance_mode,
            upstream_rq_max_duration_reached,
            upstream_rq_pending_failure_eject,
            upstream_rq_pending_overflow,
            upstream_rq_pending_total,
            upstream_rq_per_try_idle_timeout,
            upstream_rq_per_try_timeout,
            upstream_rq_retry,
            upstream_rq_retry_backoff_exponential,
            upstream_rq_retry_backoff_ratelimited,
            upstream_rq_retry_limit_exceeded,
            upstream_rq_retry_overflow,
            upstream_rq_retry_success,
            upstream_rq_rx_reset,
            upstream_rq_timeout,
            upstream_rq_total,
            upstream_rq_tx_reset,
        }
        gauges {
            max_host_weight,
            membership_degraded,
            membership_excluded,
            membership_healthy,
            membership_total,
            upstream_cx_active,
            upstream_cx_rx_bytes_buffered,
            upstream_cx_tx_bytes_buffered,
            upstream_rq_active,
            upstream_rq_pending_active,
            version,
        }
        histograms { upstream_cx_connect_ms, upstream_cx_length_ms, upstream_rq_time }
        codes { upstream_rq }
    }
}

impl ClusterStats {
    /// Counts a response that counts as the upstream's: `upstream_rq_completed`, its class
    /// and its code.
    pub fn charge_status(&self, status: u16) {
        self.upstream_rq_completed.inc();
        match status / 100 {
            1 => self.upstream_rq_1xx.inc(),
            2 => self.upstream_rq_2xx.inc(),
            3 => self.upstream_rq_3xx.inc(),
            4 => self.upstream_rq_4xx.inc(),
            5 => self.upstream_rq_5xx.inc(),
            _ => {}
        }
        self.upstream_rq.inc(status);
    }
}

impl weft_net::Meter for ClusterStats {
    fn received(&self, bytes: u64) {
        self.upstream_cx_rx_bytes_total.add(bytes);
    }
    fn sent(&self, bytes: u64) {
        self.upstream_cx_tx_bytes_total.add(bytes);
    }
}

/// One worker's counts of one host, on a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
pub(crate) struct HostCounts {
    pub(crate) cx_active: AtomicI64,
    pub(crate) cx_connect_fail: AtomicU64,
    pub(crate) cx_total: AtomicU64,
    pub(crate) rq_active: AtomicI64,
    pub(crate) rq_error: AtomicU64,
    pub(crate) rq_success: AtomicU64,
    pub(crate) rq_timeout: AtomicU64,
    pub(crate) rq_total: AtomicU64,
}

/// What `/clusters` shows of a host, summed over workers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct HostStats {
    pub cx_active: u64,
    pub cx_connect_fail: u64,
    pub cx_total: u64,
    pub rq_active: u64,
    pub rq_error: u64,
    pub rq_success: u64,
    pub rq_timeout: u64,
    pub rq_total: u64,
}

impl HostStats {
    pub(crate) fn add(&mut self, counts: &HostCounts) {
        let gauge = |g: &AtomicI64| u64::try_from(g.load(Relaxed)).unwrap_or(0);
        self.cx_active += gauge(&counts.cx_active);
        self.cx_connect_fail += counts.cx_connect_fail.load(Relaxed);
        self.cx_total += counts.cx_total.load(Relaxed);
        self.rq_active += gauge(&counts.rq_active);
        self.rq_error += counts.rq_error.load(Relaxed);
        self.rq_success += counts.rq_success.load(Relaxed);
        self.rq_timeout += counts.rq_timeout.load(Relaxed);
        self.rq_total += counts.rq_total.load(Relaxed);
    }
}
