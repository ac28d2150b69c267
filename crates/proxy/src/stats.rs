//! The stat sets of listeners and connection managers, with Envoy's names.
//!
//! Cluster stats live in `upstream`; this file knows no text format.

use std::ops::Deref;

use weft_core::metrics::{Counter, StatSet, StatVisitor, Value};
use weft_core::stat_set;

stat_set! {
    /// `http.<stat prefix>.…` of one worker.
    pub struct HttpStats {
        counters {
            downstream_cx_total,
            downstream_cx_ssl_total,
            downstream_cx_http1_total,
            downstream_cx_http2_total,
            downstream_cx_upgrades_total,
            downstream_cx_destroy,
            downstream_cx_destroy_active_rq,
            downstream_cx_destroy_local,
            downstream_cx_destroy_remote,
            downstream_cx_protocol_error,
            downstream_cx_idle_timeout,
            downstream_cx_max_duration_reached,
            downstream_cx_max_requests_reached,
            downstream_cx_drain_close,
            downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total,
            downstream_rq_total,
            downstream_rq_http1_total,
            downstream_rq_http2_total,
            downstream_rq_completed,
            downstream_rq_1xx,
            downstream_rq_2xx,
            downstream_rq_3xx,
            downstream_rq_4xx,
            downstream_rq_5xx,
            downstream_rq_rx_reset,
            downstream_rq_tx_reset,
            downstream_rq_non_relative_path,
            downstream_rq_too_large,
            downstream_rq_timeout,
            downstream_rq_header_timeout,
            downstream_rq_idle_timeout,
            downstream_rq_response_before_rq_complete,
            downstream_rq_ws_on_non_ws_route,
            no_route,
            no_cluster,
            rq_total,
            rq_direct_response,
            rq_redirect,
            rq_reset_after_downstream_response_started
        }
        gauges {
            downstream_cx_active,
            downstream_cx_ssl_active,
            downstream_cx_http1_active,
            downstream_cx_http2_active,
            downstream_cx_upgrades_active,
            downstream_rq_active
        }
        histograms {
            downstream_cx_length_ms,
            downstream_rq_time
        }
    }
}

stat_set! {
    /// What a listener counts without TLS.
    pub struct ListenerCounters {
        counters {
            downstream_cx_total,
            downstream_cx_destroy,
            downstream_cx_overflow,
            downstream_cx_transport_socket_connect_timeout,
            downstream_pre_cx_timeout,
            downstream_listener_filter_error,
            downstream_listener_filter_remote_close,
            no_filter_chain_match
        }
        gauges {
            downstream_cx_active,
            downstream_pre_cx_active
        }
        histograms { downstream_cx_length_ms }
    }
}

/// `listener.<address>.…` of one worker; its other counters read as its own fields.
#[derive(Debug, Default)]
pub(crate) struct ListenerStats {
    counters: ListenerCounters,
    /// `ssl.handshake`: TLS handshakes that gave a connection.
    pub(crate) ssl_handshake: Counter,
    /// `ssl.connection_error`: those that failed, but not for the client's certificate.
    pub(crate) ssl_connection_error: Counter,
    /// `ssl.fail_verify_no_cert`: the client has no certificate.
    pub(crate) ssl_fail_verify_no_cert: Counter,
    /// `ssl.fail_verify_san`: none of its names is wanted.
    pub(crate) ssl_fail_verify_san: Counter,
    /// `ssl.fail_verify_error`: its chain is not trusted, has ended or is revoked.
    pub(crate) ssl_fail_verify_error: Counter,
}

impl Deref for ListenerStats {
    type Target = ListenerCounters;

    fn deref(&self) -> &ListenerCounters {
        &self.counters
    }
}

impl StatSet for ListenerStats {
    fn visit(&self, visitor: &mut dyn StatVisitor) {
        self.counters.visit(visitor);
        let ssl = [
            ("ssl.handshake", &self.ssl_handshake),
            ("ssl.connection_error", &self.ssl_connection_error),
            ("ssl.fail_verify_no_cert", &self.ssl_fail_verify_no_cert),
            ("ssl.fail_verify_san", &self.ssl_fail_verify_san),
            ("ssl.fail_verify_error", &self.ssl_fail_verify_error),
        ];
        for (name, counter) in ssl {
            visitor.value(name, Value::Counter(counter.get()));
        }
    }
}

stat_set! {
    /// `tcp.<stat prefix>.…` of one worker.
    pub struct TcpStats {
        counters {
            downstream_cx_total,
            downstream_cx_no_route,
            downstream_cx_rx_bytes_total,
            downstream_cx_tx_bytes_total,
            idle_timeout,
            max_downstream_connection_duration
        }
        gauges { downstream_cx_active }
    }
}

stat_set! {
    /// `listener_manager.…`, kept by the main thread.
    pub struct ListenerManagerStats {
        counters {
            listener_added,
            listener_modified,
            listener_removed,
            listener_create_success,
            listener_create_failure,
            listener_in_place_updated,
            listener_stopped
        }
        gauges {
            total_listeners_active,
            total_listeners_draining,
            total_listeners_warming,
            total_filter_chains_draining,
            workers_started
        }
    }
}

stat_set! {
    /// `cluster_manager.…`, kept by the main thread.
    pub struct ClusterManagerStats {
        counters { cluster_added, cluster_modified, cluster_removed }
        gauges { active_clusters, warming_clusters }
    }
}

stat_set! {
    /// `control_plane.…` and the outcome of xDS updates, kept by the main thread.
    pub struct XdsStats {
        counters {
            update_success,
            update_rejected,
            ignored_fields
        }
        gauges { connected_state }
    }
}

stat_set! {
    /// `certificate_files.…`: owners of certificates whose files have changed, kept by the main
    /// thread.
    pub struct CertificateFileStats {
        counters { update_success, update_rejected }
    }
}

impl HttpStats {
    /// Counts a response's class.
    pub(crate) fn count_response(&self, status: u16) {
        match status / 100 {
            1 => self.downstream_rq_1xx.inc(),
            2 => self.downstream_rq_2xx.inc(),
            3 => self.downstream_rq_3xx.inc(),
            4 => self.downstream_rq_4xx.inc(),
            5 => self.downstream_rq_5xx.inc(),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handshakes_have_envoys_names() {
        #[derive(Default)]
        struct Names(Vec<(String, bool)>);
        impl StatVisitor for Names {
            fn value(&mut self, name: &str, value: Value) {
                let counted = matches!(value, Value::Counter(1));
                self.0.push((name.to_owned(), counted));
            }
        }
        let stats = ListenerStats::default();
        stats.ssl_handshake.inc();
        stats.downstream_cx_total.inc();
        let mut names = Names::default();
        stats.visit(&mut names);
        for (name, counted) in [
            ("ssl.handshake", true),
            ("ssl.connection_error", false),
            ("ssl.fail_verify_no_cert", false),
            ("ssl.fail_verify_san", false),
            ("ssl.fail_verify_error", false),
            ("downstream_cx_total", true),
        ] {
            assert!(names.0.contains(&(name.to_owned(), counted)), "{name}");
        }
    }
}
