//! The statistics of RPC connection managers: Aeraki's names where it has them.

weft_core::stat_set! {
    /// `meta_protocol.<protocol>.<stat prefix>.…` of one worker.
    pub struct RpcStats {
        counters {
            cx_destroy_local_with_active_rq,
            cx_destroy_remote_with_active_rq,
            cx_destroy_stalled,
            cx_drain_goaway,
            cx_total,
            fault_aborts_injected,
            fault_delays_injected,
            idle_timeout,
            local_response_error,
            mutation_failed,
            oneway_dropped,
            paused_reading_total,
            request,
            request_cancelled,
            request_decoding_error,
            request_decoding_success,
            request_denied,
            request_event,
            request_mirrored,
            request_mirror_dropped,
            request_no_route,
            request_oneway,
            request_retry,
            request_timeout,
            request_twoway,
            response,
            response_business_exception,
            response_decoding_error,
            response_decoding_success,
            response_error,
            response_success,
            response_unknown,
            trace_context_failed,
            upstream_heartbeat,
            upstream_heartbeat_failed,
            upstream_reply_dropped,
            upstream_request_refused
        }
        gauges { cx_active, request_active }
        histograms { request_time_ms }
    }
}
