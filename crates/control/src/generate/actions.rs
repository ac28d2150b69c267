//! What routes do besides choosing a cluster: retries, mirrors, redirects, answers of their own,
//! faults and header changes. Must never know when a route is chosen.

use std::sync::Arc;
use std::time::Duration;

use weft_model::{
    Abort, AbortKind, DirectResponse, Fault, HeaderOperations, HeaderOps, Percent, Redirect,
    RedirectPath, RedirectPort, ResponseBody, RetryPolicy,
};

use super::routes::Reader;
use crate::pb::common_fault::{FaultDelay, fault_delay::FaultDelaySecifier};
use crate::pb::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, RuntimeFractionalPercent, data_source,
    header_value_option::HeaderAppendAction,
};
use crate::pb::fault::{FaultAbort, HttpFault, fault_abort::ErrorType};
use crate::pb::previous_hosts::PreviousHostsPredicate;
use crate::pb::route::v3::{
    DirectResponseAction, RedirectAction, RetryPolicy as PbRetry,
    redirect_action::{PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier},
    retry_policy::{RetryBackOff, RetryHostPredicate, retry_host_predicate},
    route_action::RequestMirrorPolicy,
};
use crate::pb::types::{FractionalPercent, fractional_percent::DenominatorType};
use crate::pb::{any, bool_value, duration, inline_text, u32_value};

pub(super) fn mirror(percent: Option<Percent>, cluster: String) -> RequestMirrorPolicy {
    RequestMirrorPolicy {
        cluster,
        runtime_fraction: Some(RuntimeFractionalPercent {
            default_value: Some(percent.map_or_else(all, fraction)),
            ..RuntimeFractionalPercent::default()
        }),
        trace_sampled: bool_value(false),
        disable_shadow_host_suffix_append: true,
        ..RequestMirrorPolicy::default()
    }
}

/// The whole, as Istio writes it where nothing was said.
pub(super) fn all() -> FractionalPercent {
    FractionalPercent {
        numerator: 100,
        denominator: DenominatorType::Hundred as i32,
    }
}

fn fraction(percent: Percent) -> FractionalPercent {
    FractionalPercent {
        numerator: percent.millionths(),
        denominator: DenominatorType::Million as i32,
    }
}

const RETRY_ON: &str =
    "connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes";
const INBOUND_RETRY_ON: &str = "reset-before-request";

/// The retry policy of a route: what the rule says over Istio's default of two attempts. `None`
/// when the rule forbids retries.
pub(crate) fn retry(policy: Option<&RetryPolicy>) -> Option<PbRetry> {
    let previous_hosts = || RetryHostPredicate {
        name: "envoy.retry_host_predicates.previous_hosts".to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(any(
            &PreviousHostsPredicate {},
        ))),
    };
    let mut out = PbRetry {
        retry_on: RETRY_ON.to_owned(),
        num_retries: u32_value(2),
        host_selection_retry_max_attempts: 5,
        retry_host_predicate: vec![previous_hosts()],
        ..PbRetry::default()
    };
    let Some(policy) = policy else {
        return Some(out);
    };
    if policy.attempts == 0 {
        return None;
    }
    out.num_retries = u32_value(policy.attempts);
    out.per_try_timeout = policy.per_try_timeout.map(duration);
    set_conditions(&mut out, policy);
    if policy.ignore_previous_hosts == Some(false) {
        out.retry_host_predicate.clear();
    }
    if policy.remote_localities == Some(true) {
        out.retry_priority = Some(previous_priorities());
    }
    out.retry_back_off = policy.backoff.map(back_off);
    Some(out)
}

/// The retry policy of a workload's own ports: of requests of which nothing reached the
/// application, unless the mesh says otherwise. There is one server, so what chooses among several
/// has no say.
pub(crate) fn inbound_retry(policy: Option<&RetryPolicy>) -> Option<PbRetry> {
    let mut out = PbRetry {
        retry_on: INBOUND_RETRY_ON.to_owned(),
        num_retries: u32_value(2),
        ..PbRetry::default()
    };
    let Some(policy) = policy else {
        return Some(out);
    };
    if policy.attempts == 0 {
        return None;
    }
    out.num_retries = u32_value(policy.attempts);
    set_conditions(&mut out, policy);
    out.retry_back_off = policy.backoff.map(back_off);
    Some(out)
}

fn set_conditions(out: &mut PbRetry, policy: &RetryPolicy) {
    let Some(conditions) = &policy.retry_on else {
        return;
    };
    let parts = conditions
        .split(',')
        .map(str::trim)
        .filter(|p| !p.is_empty());
    let (codes, mut names): (Vec<&str>, Vec<&str>) = parts.partition(|p| p.parse::<u32>().is_ok());
    out.retriable_status_codes = codes.iter().filter_map(|c| c.parse().ok()).collect();
    if !codes.is_empty() && !names.contains(&"retriable-status-codes") {
        names.push("retriable-status-codes");
    }
    out.retry_on = names.join(",");
}

pub(super) fn back_off(base: Duration) -> RetryBackOff {
    RetryBackOff {
        base_interval: Some(duration(base)),
        // Envoy's own default is ten times the base.
        max_interval: None,
    }
}

fn previous_priorities() -> crate::pb::route::v3::retry_policy::RetryPriority {
    use crate::pb::previous_priorities::PreviousPrioritiesConfig;
    use crate::pb::route::v3::retry_policy::{RetryPriority, retry_priority::ConfigType};
    RetryPriority {
        name: "envoy.retry_priorities.previous_priorities".to_owned(),
        config_type: Some(ConfigType::TypedConfig(any(&PreviousPrioritiesConfig {
            // After every second attempt the next priority is tried.
            update_frequency: 2,
        }))),
    }
}

pub(super) fn translate_redirect(redirect: &Redirect, reader: &Reader<'_>) -> RedirectAction {
    let scheme = redirect.scheme.as_deref();
    let effective = scheme.unwrap_or(if reader.tls { "https" } else { "http" });
    let port = match redirect.port {
        RedirectPort::Unchanged | RedirectPort::ProtocolDefault => 0,
        RedirectPort::Number(port) => port.get(),
        RedirectPort::Request => reader.port.get(),
    };
    // The scheme's own port is not written.
    let implied = matches!((port, effective), (80, "http") | (443, "https"));
    let code = match redirect.code {
        302 => RedirectResponseCode::Found,
        303 => RedirectResponseCode::SeeOther,
        307 => RedirectResponseCode::TemporaryRedirect,
        308 => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::MovedPermanently,
    };
    RedirectAction {
        host_redirect: redirect.authority.as_deref().unwrap_or_default().to_owned(),
        port_redirect: if implied { 0 } else { port.into() },
        response_code: code as i32,
        scheme_rewrite_specifier: scheme
            .map(|s| SchemeRewriteSpecifier::SchemeRedirect(s.to_owned())),
        path_rewrite_specifier: redirect.path.as_ref().map(|path| match path {
            RedirectPath::Full(path) => PathRewriteSpecifier::PathRedirect(path.to_string()),
            RedirectPath::ReplacePrefix(p) => PathRewriteSpecifier::PrefixRewrite(p.to_string()),
        }),
        ..RedirectAction::default()
    }
}

pub(super) fn translate_response(response: &DirectResponse) -> DirectResponseAction {
    let body = match &response.body {
        ResponseBody::Empty => None,
        ResponseBody::Text(text) => Some(inline_text(text)),
        ResponseBody::Bytes(bytes) => Some(DataSource {
            specifier: Some(data_source::Specifier::InlineBytes(bytes.to_vec())),
            ..DataSource::default()
        }),
    };
    DirectResponseAction {
        status: response.status.into(),
        body,
        ..Default::default()
    }
}

pub(super) fn translate_fault(fault: &Fault) -> Option<HttpFault> {
    let delay = fault.delay.as_ref().map(|delay| FaultDelay {
        percentage: Some(fraction(delay.percent)),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(delay.duration))),
    });
    let abort = fault
        .abort
        .as_ref()
        .map(|Abort { percent, kind }| FaultAbort {
            percentage: Some(fraction(*percent)),
            error_type: Some(match kind {
                AbortKind::Http(status) => ErrorType::HttpStatus((*status).into()),
                AbortKind::Grpc(status) => ErrorType::GrpcStatus(*status),
            }),
            ..FaultAbort::default()
        });
    (delay.is_some() || abort.is_some()).then(|| HttpFault {
        delay,
        abort,
        ..HttpFault::default()
    })
}

/// Header changes in Envoy's four lists. `host` and `:authority` are no headers to Envoy; their
/// last value becomes a host rewrite.
pub(super) struct Headers {
    pub(super) request_add: Vec<HeaderValueOption>,
    pub(super) request_remove: Vec<String>,
    pub(super) response_add: Vec<HeaderValueOption>,
    pub(super) response_remove: Vec<String>,
    pub(super) authority: Option<String>,
}

impl Headers {
    pub(super) fn of(operations: &HeaderOperations) -> Self {
        let authority = |map: &std::collections::BTreeMap<Arc<str>, Arc<str>>| {
            let mut found = map.iter().filter(|(name, _)| is_authority(name));
            found.next_back().map(|(_, value)| value.to_string())
        };
        let HeaderOperations { request, response } = operations;
        Self {
            request_add: additions(request),
            request_remove: removals(request),
            response_add: additions(response),
            response_remove: removals(response),
            authority: authority(&request.set).or_else(|| authority(&request.add)),
        }
    }
}

fn is_authority(name: &str) -> bool {
    name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority")
}

fn is_internal(name: &str) -> bool {
    name.starts_with(':') || name.eq_ignore_ascii_case("host")
}

fn additions(ops: &HeaderOps) -> Vec<HeaderValueOption> {
    let set = ops
        .set
        .iter()
        .map(|pair| (pair, HeaderAppendAction::OverwriteIfExistsOrAdd));
    let add = ops
        .add
        .iter()
        .map(|pair| (pair, HeaderAppendAction::AppendIfExistsOrAdd));
    set.chain(add)
        .filter(|((name, _), _)| !is_internal(name))
        .map(|((name, value), action)| HeaderValueOption {
            header: Some(HeaderValue {
                key: name.to_string(),
                value: value.to_string(),
                ..HeaderValue::default()
            }),
            append_action: action as i32,
            ..HeaderValueOption::default()
        })
        .collect()
}

fn removals(ops: &HeaderOps) -> Vec<String> {
    ops.remove
        .iter()
        .filter(|name| !is_internal(name))
        .map(ToString::to_string)
        .collect()
}
