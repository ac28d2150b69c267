//! Outlier detection.

use std::time::Duration;

use crate::pass::{Pass, flag};
use crate::pb;
use pb::config::cluster::v3 as cluster;

/// Passive health. Percentages are 0–100.
#[derive(Debug, Clone, PartialEq)]
pub struct OutlierDetection {
    /// 5xx in a row; default 5.
    pub consecutive_5xx: u32,
    /// Chance that they eject; default 100.
    pub enforcing_consecutive_5xx: u32,
    /// 502, 503, 504 in a row; default 5.
    pub consecutive_gateway_failure: u32,
    /// Chance that they eject; default 0.
    pub enforcing_consecutive_gateway_failure: u32,
    /// Count failures without a response apart.
    pub split_external_local_origin_errors: bool,
    /// Such failures in a row; default 5.
    pub consecutive_local_origin_failure: u32,
    /// Chance that they eject; default 100.
    pub enforcing_consecutive_local_origin_failure: u32,
    /// Time between sweeps; default 10 s.
    pub interval: Duration,
    /// Ejection lasts this times the number of ejections; default 30 s.
    pub base_ejection_time: Duration,
    /// At most this; default 300 s or the base, whichever is longer.
    pub max_ejection_time: Duration,
    /// Random addition to it; default 0.
    pub max_ejection_time_jitter: Duration,
    /// Most hosts ejected at once; default 10, but one may always be if `always_eject_one_host`.
    pub max_ejection_percent: u32,
    /// Allow one ejection whatever the percentage says.
    pub always_eject_one_host: bool,
    /// Chance that a low success rate ejects; default 100.
    pub enforcing_success_rate: u32,
    /// The same for failures without a response; default 100.
    pub enforcing_local_origin_success_rate: u32,
    /// Hosts needed; default 5.
    pub success_rate_minimum_hosts: u32,
    /// Requests needed in an interval; default 100.
    pub success_rate_request_volume: u32,
    /// Thousandths of a standard deviation below the mean; default 1900.
    pub success_rate_stdev_factor: u32,
    /// Percentage of failures that ejects; default 85.
    pub failure_percentage_threshold: u32,
    /// Chance that it ejects; default 0.
    pub enforcing_failure_percentage: u32,
    /// The same for failures without a response; default 0.
    pub enforcing_failure_percentage_local_origin: u32,
    /// Hosts needed; default 5.
    pub failure_percentage_minimum_hosts: u32,
    /// Requests needed in an interval; default 50.
    pub failure_percentage_request_volume: u32,
}

#[allow(
    clippy::too_many_lines,
    reason = "one destructuring of a message with 26 fields"
)]
pub(super) fn outlier(
    p: &mut Pass<'_>,
    message: &cluster::OutlierDetection,
) -> Option<OutlierDetection> {
    let cluster::OutlierDetection {
        consecutive_5xx,
        interval,
        base_ejection_time,
        max_ejection_percent,
        enforcing_consecutive_5xx,
        enforcing_success_rate,
        success_rate_minimum_hosts,
        success_rate_request_volume,
        success_rate_stdev_factor,
        consecutive_gateway_failure,
        enforcing_consecutive_gateway_failure,
        split_external_local_origin_errors,
        consecutive_local_origin_failure,
        enforcing_consecutive_local_origin_failure,
        enforcing_local_origin_success_rate,
        failure_percentage_threshold,
        enforcing_failure_percentage,
        enforcing_failure_percentage_local_origin,
        failure_percentage_minimum_hosts,
        failure_percentage_request_volume,
        max_ejection_time,
        max_ejection_time_jitter,
        successful_active_health_check_uneject_host,
        monitors,
        always_eject_one_host,
        detect_degraded_hosts,
    } = message;
    unsupported!(p; monitors);
    ignore!(p, "cluster.OutlierDetection"; successful_active_health_check_uneject_host);
    p.unsupported(
        "detect_degraded_hosts",
        flag(detect_degraded_hosts.as_ref(), false),
    );
    let or = |value: &Option<pb::google::UInt32Value>, default| value.map_or(default, |v| v.value);
    let percent = |p: &mut Pass<'_>, field, value: &Option<pb::google::UInt32Value>, default| {
        p.percent_u32(field, value.map(|v| v.value), default)
    };
    let base = p
        .positive_duration("base_ejection_time", base_ejection_time.as_ref())
        .unwrap_or(Duration::from_secs(30));
    let max = p.positive_duration("max_ejection_time", max_ejection_time.as_ref());
    if max.is_some_and(|max| max < base) {
        p.refuse_field(
            "max_ejection_time",
            "must not be shorter than base_ejection_time",
        );
    }
    Some(OutlierDetection {
        consecutive_5xx: or(consecutive_5xx, 5),
        enforcing_consecutive_5xx: percent(
            p,
            "enforcing_consecutive_5xx",
            enforcing_consecutive_5xx,
            100,
        ),
        consecutive_gateway_failure: or(consecutive_gateway_failure, 5),
        enforcing_consecutive_gateway_failure: percent(
            p,
            "enforcing_consecutive_gateway_failure",
            enforcing_consecutive_gateway_failure,
            0,
        ),
        split_external_local_origin_errors: *split_external_local_origin_errors,
        consecutive_local_origin_failure: or(consecutive_local_origin_failure, 5),
        enforcing_consecutive_local_origin_failure: percent(
            p,
            "enforcing_consecutive_local_origin_failure",
            enforcing_consecutive_local_origin_failure,
            100,
        ),
        interval: p
            .positive_duration("interval", interval.as_ref())
            .unwrap_or(Duration::from_secs(10)),
        base_ejection_time: base,
        max_ejection_time: max.unwrap_or(base.max(Duration::from_mins(5))),
        max_ejection_time_jitter: p
            .duration(
                "max_ejection_time_jitter",
                max_ejection_time_jitter.as_ref(),
            )
            .unwrap_or_default(),
        max_ejection_percent: percent(p, "max_ejection_percent", max_ejection_percent, 10),
        always_eject_one_host: flag(always_eject_one_host.as_ref(), false),
        enforcing_success_rate: percent(p, "enforcing_success_rate", enforcing_success_rate, 100),
        enforcing_local_origin_success_rate: percent(
            p,
            "enforcing_local_origin_success_rate",
            enforcing_local_origin_success_rate,
            100,
        ),
        success_rate_minimum_hosts: or(success_rate_minimum_hosts, 5),
        success_rate_request_volume: or(success_rate_request_volume, 100),
        success_rate_stdev_factor: or(success_rate_stdev_factor, 1900),
        failure_percentage_threshold: percent(
            p,
            "failure_percentage_threshold",
            failure_percentage_threshold,
            85,
        ),
        enforcing_failure_percentage: percent(
            p,
            "enforcing_failure_percentage",
            enforcing_failure_percentage,
            0,
        ),
        enforcing_failure_percentage_local_origin: percent(
            p,
            "enforcing_failure_percentage_local_origin",
            enforcing_failure_percentage_local_origin,
            0,
        ),
        failure_percentage_minimum_hosts: or(failure_percentage_minimum_hosts, 5),
        failure_percentage_request_volume: or(failure_percentage_request_volume, 50),
    })
}
