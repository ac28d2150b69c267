//! `MetaProtocolProxy.tracing`: which calls have spans, and where these go. Makes no span.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue};
use weft_proto::aeraki::meta_protocol_proxy::v1alpha as pb_rpc;

use crate::ext_authz::convert::header;
use crate::extension::{Extension, decode, typed};
use crate::fraction::Fraction;
use crate::http_uri::{HttpUri, http_uri};
use crate::pass::Pass;
use crate::pb;
use pb::config::trace::v3 as trace;

/// Envoy's.
const DEFAULT_TAG_LENGTH: u32 = 256;
/// The longest tag.
const MAX_TAG_LENGTH: u32 = 16 * 1024;

/// See the module.
#[derive(Debug, Clone, PartialEq)]
pub struct RpcTracing {
    /// Which calls have a span that belong to no trace yet.
    pub share: Fraction,
    /// Which of the calls that have one after that, or because their caller wants it, keep it.
    pub overall: Fraction,
    /// Bytes of a tag's value.
    pub max_tag: usize,
    /// Where spans go.
    pub zipkin: Zipkin,
}

/// A collector that speaks Zipkin's JSON, version 2.
#[derive(Debug, Clone, PartialEq)]
pub struct Zipkin {
    /// Where it is.
    pub collector: Arc<HttpUri>,
    /// What reports bring along.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Traces have ids of 128 bits.
    pub long_ids: bool,
    /// New traces are told in W3C's form as well as in B3.
    pub w3c: bool,
}

const PROVIDERS: &[Extension<Zipkin>] = &[Extension {
    name: "envoy.config.trace.v3.ZipkinConfig",
    read: |p, bytes| {
        let message = decode(p, bytes)?;
        zipkin(p, &message)
    },
}];

pub(super) fn tracing(p: &mut Pass<'_>, message: &pb_rpc::Tracing) -> Option<RpcTracing> {
    let pb_rpc::Tracing {
        client_sampling,
        random_sampling,
        overall_sampling,
        verbose,
        max_tag_length,
        provider,
    } = message;
    ignore!(p, "meta_protocol_proxy.Tracing"; client_sampling, verbose);
    let share = share(p, "random_sampling", random_sampling.as_ref());
    let overall = self::share(p, "overall_sampling", overall_sampling.as_ref());
    let max_tag = max_tag_length.map_or(DEFAULT_TAG_LENGTH, |length| length.value);
    if max_tag > MAX_TAG_LENGTH {
        p.refuse_field(
            "max_tag_length",
            format!("must be at most {MAX_TAG_LENGTH}"),
        );
    }
    let zipkin = p.required("provider", provider.as_ref(), |p, provider| {
        let trace::tracing::Http {
            name: _,
            config_type,
        } = provider;
        let Some(trace::tracing::http::ConfigType::TypedConfig(config)) = config_type else {
            p.refuse_field("typed_config", "is required");
            return None;
        };
        typed(p, "typed_config", Some(config), PROVIDERS)
    })?;
    Some(RpcTracing {
        share,
        overall,
        max_tag: max_tag as usize,
        zipkin,
    })
}

/// To a ten-thousandth of a percent.
fn share(p: &mut Pass<'_>, field: &'static str, value: Option<&pb::typ::Percent>) -> Fraction {
    let percent = p.percent(field, value).unwrap_or(100.0);
    Fraction {
        numerator: (percent * 10_000.0).round() as u32,
        denominator: 1_000_000,
    }
}

fn zipkin(p: &mut Pass<'_>, message: &trace::ZipkinConfig) -> Option<Zipkin> {
    use trace::zipkin_config::{CollectorEndpointVersion, TraceContextOption};
    let trace::ZipkinConfig {
        collector_cluster,
        collector_endpoint,
        trace_id_128bit,
        shared_span_context,
        collector_endpoint_version,
        collector_hostname,
        split_spans_for_request,
        trace_context_option,
        collector_service,
        timestamp_trace_ids,
    } = message;
    unsupported!(p; timestamp_trace_ids);
    ignore!(p, "trace.ZipkinConfig"; shared_span_context, split_spans_for_request);
    let version = p.enumeration("collector_endpoint_version", *collector_endpoint_version)?;
    if !matches!(version, CollectorEndpointVersion::HttpJson) && collector_service.is_none() {
        p.refuse_field("collector_endpoint_version", "only HTTP_JSON is spoken");
    }
    let w3c = match p.enumeration("trace_context_option", *trace_context_option)? {
        TraceContextOption::UseB3 => false,
        TraceContextOption::UseB3WithW3cPropagation => true,
    };
    let (collector, headers) = match collector_service {
        Some(service) => p.at("collector_service", |p| {
            let pb::core::HttpService {
                http_uri: uri,
                request_headers_to_add,
                formatters,
            } = service;
            unsupported!(p; formatters);
            // No report has headers before it gets these: how they are added makes no difference.
            let headers = p.each(
                "request_headers_to_add",
                request_headers_to_add,
                |p, one| p.required("header", one.header.as_ref(), header),
            );
            Some((p.required("http_uri", uri.as_ref(), http_uri)?, headers))
        })?,
        None => {
            let cluster = p.name("collector_cluster", collector_cluster)?;
            let path = p.name("collector_endpoint", collector_endpoint)?;
            let host = match collector_hostname.as_str() {
                "" => Arc::clone(&cluster),
                host => host.into(),
            };
            if !path.starts_with('/') || path.parse::<http::Uri>().is_err() {
                p.refuse_field("collector_endpoint", "is no path");
                return None;
            }
            let timeout = Duration::from_secs(5);
            let collector = HttpUri {
                cluster,
                host,
                path,
                timeout,
            };
            (collector, Vec::new())
        }
    };
    Some(Zipkin {
        collector: Arc::new(collector),
        headers,
        long_ids: *trace_id_128bit,
        w3c,
    })
}
