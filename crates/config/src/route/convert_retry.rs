//! `RetryPolicy` → retry policy.

use std::time::Duration;

use super::retry::{RetryOn, RetryPolicy};
use crate::matching::header_matcher;
use crate::pass::Pass;
use crate::pb;
use pb::config::route::v3 as route;

const BACKOFF: Duration = Duration::from_millis(25);

pub(super) fn retry_policy(p: &mut Pass<'_>, message: &route::RetryPolicy) -> Option<RetryPolicy> {
    let route::RetryPolicy {
        retry_on,
        num_retries,
        per_try_timeout,
        per_try_idle_timeout,
        retry_priority,
        retry_host_predicate,
        retry_options_predicates,
        host_selection_retry_max_attempts,
        retriable_status_codes,
        retry_back_off,
        rate_limited_retry_back_off,
        retriable_headers,
        retriable_request_headers,
        refresh_cluster_on_retry,
    } = message;
    unsupported!(p; retry_options_predicates, refresh_cluster_on_retry,
        rate_limited_retry_back_off);
    let silence = p.timeout("per_try_idle_timeout", per_try_idle_timeout.as_ref(), None);
    p.unsupported("per_try_idle_timeout", silence.is_some());
    let on = p.at("retry_on", |p| {
        RetryOn::parse(retry_on, |word| {
            p.refuse(format!("{word:?} is no condition that Weft knows"));
        })
    });
    let predicates = p.each("retry_host_predicate", retry_host_predicate, host_predicate);
    let (backoff_base, backoff_max) = p
        .opt("retry_back_off", retry_back_off.as_ref(), backoff)
        .unwrap_or((BACKOFF, BACKOFF * 10));
    let attempts = *host_selection_retry_max_attempts;
    if attempts < 0 {
        p.refuse_field("host_selection_retry_max_attempts", "must not be negative");
    }
    Some(RetryPolicy {
        on,
        num_retries: num_retries.map_or(1, |count| count.value),
        per_try_timeout: p.timeout("per_try_timeout", per_try_timeout.as_ref(), None),
        backoff_base,
        backoff_max,
        retriable_status_codes: p.each(
            "retriable_status_codes",
            retriable_status_codes,
            |p, status| {
                let status = u16::try_from(*status)
                    .ok()
                    .filter(|status| (100..600).contains(status));
                if status.is_none() {
                    p.refuse("is no HTTP status");
                }
                status
            },
        ),
        retriable_headers: p.each("retriable_headers", retriable_headers, header_matcher),
        retriable_request_headers: p.each(
            "retriable_request_headers",
            retriable_request_headers,
            header_matcher,
        ),
        avoid_previous_hosts: !predicates.is_empty(),
        previous_priorities: p.opt("retry_priority", retry_priority.as_ref(), priority),
        host_selection_attempts: u32::try_from(attempts).unwrap_or(u32::MAX).max(1),
    })
}

/// After how many attempts the priorities that were tried are left out.
fn priority(p: &mut Pass<'_>, message: &route::retry_policy::RetryPriority) -> Option<u32> {
    use crate::extension::{Extension, decode, typed};
    use pb::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
    use route::retry_policy::retry_priority::ConfigType;
    const TABLE: &[Extension<u32>] = &[Extension {
        name: "envoy.extensions.retry.priority.previous_priorities.v3.PreviousPrioritiesConfig",
        read: |p, bytes| {
            let PreviousPrioritiesConfig { update_frequency } = decode(p, bytes)?;
            let frequency = u32::try_from(update_frequency).ok().filter(|n| *n > 0);
            if frequency.is_none() {
                p.refuse_field("update_frequency", "must be at least 1");
            }
            frequency
        },
    }];
    let route::retry_policy::RetryPriority { name, config_type } = message;
    match config_type {
        Some(ConfigType::TypedConfig(any)) => typed(p, "typed_config", Some(any), TABLE),
        None => {
            p.refuse_field("typed_config", format!("of {name} is required"));
            None
        }
    }
}

fn host_predicate(
    p: &mut Pass<'_>,
    message: &route::retry_policy::RetryHostPredicate,
) -> Option<()> {
    use crate::extension::{Extension, decode, typed};
    use pb::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
    use route::retry_policy::retry_host_predicate::ConfigType;
    const TABLE: &[Extension<()>] = &[Extension {
        name: "envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate",
        read: |p, bytes| {
            let PreviousHostsPredicate {} = decode(p, bytes)?;
            Some(())
        },
    }];
    let route::retry_policy::RetryHostPredicate { name, config_type } = message;
    match config_type {
        Some(ConfigType::TypedConfig(any)) => typed(p, "typed_config", Some(any), TABLE),
        None if name == "envoy.retry_host_predicates.previous_hosts" => Some(()),
        None => {
            p.refuse_field("typed_config", "is required");
            None
        }
    }
}

pub(crate) fn backoff(
    p: &mut Pass<'_>,
    message: &route::retry_policy::RetryBackOff,
) -> Option<(Duration, Duration)> {
    let route::retry_policy::RetryBackOff {
        base_interval,
        max_interval,
    } = message;
    let Some(base) = base_interval else {
        p.refuse_field("base_interval", "is required");
        return None;
    };
    // Envoy rounds up to a millisecond.
    let least = Duration::from_millis(1);
    let base = p.positive_duration("base_interval", Some(base))?.max(least);
    let max = p
        .positive_duration("max_interval", max_interval.as_ref())
        .map(|max| max.max(least));
    if max.is_some_and(|max| max < base) {
        p.refuse_field("max_interval", "must not be shorter than base_interval");
    }
    Some((base, max.unwrap_or(base.saturating_mul(10))))
}
