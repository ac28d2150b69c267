//! Telemetry → model. `metrics` can only set up `istio.stats`, a filter of Istio's own Envoy: what
//! would change it is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use weft_model::balancing::Number;
use weft_model::telemetry::{AccessLogging, CallSide, Telemetry, TraceTag, Tracing};
use weft_proto::format;
use weft_proto::istio::telemetry::v1alpha1 as pb;

use crate::check::{At, Context};

pub(crate) fn convert(message: pb::Telemetry, context: &Context<'_>, at: At<'_>) -> Telemetry {
    let pb::Telemetry {
        selector,
        tracing,
        metrics,
        access_logging,
        target_ref,
        target_refs,
    } = message;
    at.field("targetRef").refuse(target_ref.is_some());
    at.field("targetRefs").refuse(!target_refs.is_empty());
    let labels = at.field("selector");
    let labels = labels.field("matchLabels");
    let selector = selector
        .map(|selector| labels.labels(selector.match_labels))
        .filter(|labels| !labels.is_empty());
    for (index, message) in metrics.into_iter().enumerate() {
        check_metrics(message, at.field("metrics").index(index));
    }
    let logs = access_logging.into_iter().enumerate();
    let spans = tracing.into_iter().enumerate();
    Telemetry {
        meta: context.meta(),
        selector,
        access_logs: logs
            .map(|(index, message)| access_log(message, at.field("accessLogging").index(index)))
            .collect(),
        tracing: spans
            .map(|(index, message)| self::tracing(message, at.field("tracing").index(index)))
            .collect(),
    }
}

fn check_metrics(message: pb::Metrics, at: At<'_>) {
    let pb::Metrics {
        providers: list,
        overrides,
        reporting_interval,
    } = message;
    providers(list, at.field("providers"));
    at.field("overrides").refuse(!overrides.is_empty());
    at.field("reportingInterval")
        .refuse(reporting_interval.is_some());
}

fn providers(list: Vec<pb::ProviderRef>, at: At<'_>) -> Vec<Arc<str>> {
    let mut names = Vec::with_capacity(list.len());
    for (index, pb::ProviderRef { name }) in list.into_iter().enumerate() {
        if name.is_empty() {
            at.index(index)
                .field("name")
                .error("the provider has no name");
        }
        names.push(name.into());
    }
    names
}

fn side(mode: Option<i32>, at: At<'_>) -> CallSide {
    let at = at.field("match");
    match at
        .field("mode")
        .ok(pb::WorkloadMode::try_from(mode.unwrap_or_default()))
    {
        Some(pb::WorkloadMode::Client) => CallSide::Client,
        Some(pb::WorkloadMode::Server) => CallSide::Server,
        Some(pb::WorkloadMode::ClientAndServer) | None => CallSide::Both,
    }
}

fn access_log(message: pb::AccessLogging, at: At<'_>) -> AccessLogging {
    let pb::AccessLogging {
        providers: list,
        disabled,
        filter,
        r#match,
    } = message;
    let filter = filter.map(|pb::access_logging::Filter { expression }| {
        let at = at.field("filter");
        let at = at.field("expression");
        if expression.trim().is_empty() {
            at.error("the expression is empty: write one such as \"response.code >= 400\"");
        } else if let Err(reason) = weft_proto::cel::check(&expression) {
            at.error(format_args!(
                "is no CEL expression: {reason}; write one such as \"response.code >= 400\""
            ));
        }
        expression.into()
    });
    AccessLogging {
        side: side(r#match.map(|selector| selector.mode), at),
        providers: providers(list, at.field("providers")),
        disabled: disabled.is_some_and(|flag| flag.value),
        filter,
    }
}

fn tracing(message: pb::Tracing, at: At<'_>) -> Tracing {
    let pb::Tracing {
        providers: list,
        random_sampling_percentage,
        disable_span_reporting,
        custom_tags,
        use_request_id_for_trace_sampling,
        r#match,
        enable_istio_tags,
        disable_context_propagation,
    } = message;
    let names = providers(list, at.field("providers"));
    if names.len() > 1 {
        at.field("providers")
            .index(1)
            .error("spans go to one provider: remove this one, which Istio would not use");
    }
    let sampling = random_sampling_percentage.map(|share| share.value);
    let field = at.field("randomSamplingPercentage");
    let sampling = sampling.and_then(|share| {
        if !(0.0..=100.0).contains(&share) {
            field.error(format_args!("{share} is no percentage: use 0 to 100"));
        }
        Number::new(share)
    });
    let tags = tags(custom_tags, at.field("customTags"));
    Tracing {
        side: side(r#match.map(|selector| selector.mode), at),
        provider: names.into_iter().next(),
        sampling,
        disabled: disable_span_reporting.map(|flag| flag.value),
        // As in Istio, an empty map says nothing.
        tags: (!tags.is_empty()).then_some(tags),
        by_request_id: use_request_id_for_trace_sampling.map(|flag| flag.value),
        istio_tags: enable_istio_tags.map(|flag| flag.value),
        no_propagation: disable_context_propagation.map(|flag| flag.value),
    }
}

fn tags(
    messages: BTreeMap<String, pb::tracing::CustomTag>,
    at: At<'_>,
) -> BTreeMap<Arc<str>, TraceTag> {
    use pb::tracing::{
        CustomTag, Environment, Formatter, Literal, RequestHeader, custom_tag::Type,
    };
    let mut tags = BTreeMap::new();
    for (name, CustomTag { r#type }) in messages {
        let tag = match r#type {
            Some(Type::Literal(Literal { value })) => TraceTag::Literal(value.into()),
            Some(Type::Environment(Environment {
                name,
                default_value,
            })) => TraceTag::Environment {
                name: name.into(),
                default: default_value.into(),
            },
            Some(Type::Header(RequestHeader {
                name,
                default_value,
            })) => TraceTag::Header {
                name: name.into(),
                default: default_value.into(),
            },
            Some(Type::Formatter(Formatter { value })) => TraceTag::Format(value.into()),
            None => {
                at.key(&name)
                    .error("sets nothing: write literal, environment, header or formatter");
                continue;
            }
        };
        check_tag(&name, &tag, at);
        tags.insert(Arc::from(name), tag);
    }
    tags
}

/// What Envoy would refuse a listener for.
pub(super) fn check_tag(name: &str, tag: &TraceTag, at: At<'_>) {
    let at = at.key(name);
    if name.is_empty() {
        at.error("the tag has no name");
    }
    match tag {
        TraceTag::Literal(text) if text.is_empty() => {
            at.field("literal").field("value").error("is empty");
        }
        TraceTag::Environment { name, .. } if name.is_empty() => {
            at.field("environment").field("name").error("is empty");
        }
        TraceTag::Header { name, .. } if !is_header(name) => {
            at.field("header").field("name").error(format_args!(
                "\"{name}\" is no name of a header: use letters, digits, '-' and '_'"
            ));
        }
        TraceTag::Format(text) => {
            let at = at.field("formatter");
            let at = at.field("value");
            if text.is_empty() {
                at.error("is empty");
            }
            at.ok(format::check(text));
        }
        _ => {}
    }
}

/// A token (RFC 9110, 5.6.2), or a pseudo-header.
fn is_header(name: &str) -> bool {
    let token = name.strip_prefix(':').unwrap_or(name);
    !token.is_empty() && token.bytes().all(format::is_token)
}
