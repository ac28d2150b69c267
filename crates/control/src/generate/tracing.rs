//! The `tracing` of connection managers: where spans go, how many, and their tags. Must never know
//! which rule asks for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_model::ProxySettings;
use weft_model::provider::{
    Collector, DynatraceSampler, Export, HttpExport, OpenTelemetry, ProviderHeader, ProviderKind,
    ProviderService, Zipkin,
};
use weft_model::proxy::ProxyTracing;
use weft_model::telemetry::TraceTag;

use super::access_logs::grpc_to;
use super::reporting::Upstream;
use crate::pb::core::v3::{
    GrpcService, HeaderValue, HeaderValueOption, HttpService, HttpUri, TypedExtensionConfig,
    header_value_option::HeaderAppendAction, http_uri::HttpUpstreamType,
};
use crate::pb::hcm::http_connection_manager::Tracing;
use crate::pb::metadata_kind::{
    MetadataKey, MetadataKind,
    metadata_key::{PathSegment, path_segment::Segment},
    metadata_kind::{Kind, Request},
};
use crate::pb::otel_detectors::{
    DynatraceResourceDetectorConfig, EnvironmentResourceDetectorConfig,
};
use crate::pb::otel_samplers::DynatraceSamplerConfig;
use crate::pb::protobuf::Any;
use crate::pb::trace::v3::{
    DatadogConfig, OpenTelemetryConfig, SkyWalkingConfig, ZipkinConfig,
    tracing::{Http, http::ConfigType},
    zipkin_config::{CollectorEndpointVersion, TraceContextOption},
};
use crate::pb::tracing_tags::{
    CustomTag,
    custom_tag::{Environment, Header, Literal, Metadata, Type},
};
use crate::pb::types::Percent;
use crate::pb::{any, bool_value, duration, u32_value};

/// Istio's share of requests with spans, where nothing else is said, in percent.
const SAMPLING: f64 = 1.0;
/// Envoy wants a limit for calls of a collector; this is Istio's.
const ZIPKIN_TIMEOUT: Duration = Duration::from_secs(5);

/// What spans say of the proxy that makes them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct SpanIdentity {
    pub(crate) service: Arc<str>,
    pub(crate) revision: Arc<str>,
    pub(crate) mesh: Arc<str>,
    pub(crate) namespace: Arc<str>,
    pub(crate) site: Arc<str>,
    /// Of the node: the service in the words of Envoy's bootstrap.
    pub(crate) cluster: Arc<str>,
    /// The service in the words of OpenTelemetry's conventions; empty if nobody asks for it.
    pub(crate) workload: Arc<str>,
}

/// What is known of the spans of one side.
#[derive(Clone, Debug)]
pub(super) struct Spans<'a> {
    /// In percent; `None` is what the proxy's settings say.
    pub(super) sampling: Option<f64>,
    pub(super) tags: Option<&'a BTreeMap<Arc<str>, TraceTag>>,
    pub(super) istio_tags: bool,
    pub(super) no_propagation: bool,
}

/// `tracing` with shares and tags, but without a provider.
pub(super) fn spans(
    spans: &Spans<'_>,
    proxy: &ProxySettings,
    identity: Option<&SpanIdentity>,
) -> Tracing {
    let default = ProxyTracing::default();
    let proxy = proxy.tracing.as_ref().unwrap_or(&default);
    let said = proxy.sampling.map(weft_model::Number::get);
    let share = spans.sampling.or(said).unwrap_or(SAMPLING);
    let all = || Some(Percent { value: 100.0 });
    let own = spans.tags.filter(|tags| !tags.is_empty());
    let mut tags = Vec::new();
    if spans.istio_tags {
        tags.extend(identity.into_iter().flat_map(service_tags));
        tags.extend(dry_run_tags());
    }
    let more = own.unwrap_or(&proxy.tags);
    tags.extend(more.iter().map(|(name, tag)| custom(name, tag)));
    tags.sort_by(|a, b| a.tag.cmp(&b.tag));
    Tracing {
        client_sampling: all(),
        random_sampling: Some(Percent { value: share }),
        overall_sampling: all(),
        custom_tags: tags,
        max_path_tag_length: proxy.max_path_tag_length.and_then(u32_value),
        no_context_propagation: spans.no_propagation,
        ..Tracing::default()
    }
}

fn tag(name: &str, r#type: Type) -> CustomTag {
    CustomTag {
        tag: name.to_owned(),
        r#type: Some(r#type),
    }
}

fn custom(name: &str, said: &TraceTag) -> CustomTag {
    let r#type = match said {
        TraceTag::Literal(value) => Type::Literal(Literal {
            value: value.to_string(),
        }),
        TraceTag::Environment { name, default } => Type::Environment(Environment {
            name: name.to_string(),
            default_value: default.to_string(),
        }),
        TraceTag::Header { name, default } => Type::RequestHeader(Header {
            name: name.to_string(),
            default_value: default.to_string(),
        }),
        TraceTag::Format(text) => Type::Value(text.to_string()),
    };
    tag(name, r#type)
}

fn service_tags(identity: &SpanIdentity) -> [CustomTag; 5] {
    let or = |value: &str, default: &str| {
        let value = if value.is_empty() { default } else { value };
        Type::Literal(Literal {
            value: value.to_owned(),
        })
    };
    [
        tag("istio.canonical_revision", or(&identity.revision, "latest")),
        tag("istio.canonical_service", or(&identity.service, "unknown")),
        tag("istio.mesh_id", or(&identity.mesh, "unknown")),
        tag("istio.namespace", or(&identity.namespace, "default")),
        tag("istio.cluster_id", or(&identity.site, "unknown")),
    ]
}

/// What authorization policies that are only tried out would have said.
fn dry_run_tags() -> [CustomTag; 4] {
    [
        ("allow_policy.name", "allow_shadow_effective_policy_id"),
        ("allow_policy.result", "allow_shadow_engine_result"),
        ("deny_policy.name", "deny_shadow_effective_policy_id"),
        ("deny_policy.result", "deny_shadow_engine_result"),
    ]
    .map(|(name, key)| {
        let segment = PathSegment {
            segment: Some(Segment::Key(format!("istio_dry_run_{key}"))),
        };
        let metadata = Metadata {
            kind: Some(MetadataKind {
                kind: Some(Kind::Request(Request {})),
            }),
            metadata_key: Some(MetadataKey {
                key: "envoy.filters.http.rbac".to_owned(),
                path: vec![segment],
            }),
            default_value: String::new(),
        };
        tag(
            &format!("istio.authorization.dry_run.{name}"),
            Type::Metadata(metadata),
        )
    })
}

/// Finds the cluster of a provider's service.
pub(super) type Lookup<'a> = dyn FnMut(&ProviderService) -> Result<Upstream, String> + 'a;

/// Sends the spans to a provider.
pub(super) fn send_to(
    tracing: &mut Tracing,
    provider: &ProviderKind,
    identity: &SpanIdentity,
    gateway: bool,
    lookup: &mut Lookup<'_>,
) -> Result<(), String> {
    let mut child = gateway;
    let mut longest = None;
    let mut collector = |said: &Collector, lookup: &mut Lookup<'_>| {
        longest = said.max_tag_length;
        lookup(&said.service)
    };
    let (name, config) = match provider {
        ProviderKind::Zipkin(said) => {
            let to = collector(&said.collector, lookup)?;
            ("envoy.tracers.zipkin", any(&zipkin(said, &to)))
        }
        ProviderKind::Datadog(said) => {
            let to = collector(said, lookup)?;
            ("envoy.tracers.datadog", any(&datadog(identity, &to)))
        }
        ProviderKind::SkyWalking(said) => {
            let to = collector(said, lookup)?;
            child = true;
            let config = SkyWalkingConfig {
                grpc_service: Some(grpc_to(&to.cluster, &to.host)),
                ..SkyWalkingConfig::default()
            };
            ("envoy.tracers.skywalking", any(&config))
        }
        ProviderKind::OpenTelemetry(said) => {
            let to = collector(&said.collector, lookup)?;
            if said.sampler.is_some() {
                // The sampler is to see all of them.
                tracing.random_sampling = Some(Percent { value: 100.0 });
            }
            let config = open_telemetry(said, identity, &to, lookup)?;
            ("envoy.tracers.opentelemetry", any(&config))
        }
        ProviderKind::FileLog(_)
        | ProviderKind::HttpLog(_)
        | ProviderKind::TcpLog(_)
        | ProviderKind::OtelLog(_)
        | ProviderKind::Authorization(_)
        | ProviderKind::Secrets(_)
        | ProviderKind::Prometheus => return Err("it takes no spans".to_owned()),
    };
    if child {
        tracing.spawn_upstream_span = bool_value(true);
    }
    if let Some(longest) = longest {
        tracing.max_path_tag_length = u32_value(longest);
    }
    tracing.provider = Some(Http {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
    });
    Ok(())
}

fn datadog(identity: &SpanIdentity, to: &Upstream) -> DatadogConfig {
    // Envoy refuses an empty name; istiod writes it when the bootstrap has none.
    let names = [&*identity.cluster, &*identity.service, "unknown"];
    let name = names.into_iter().find(|name| !name.is_empty());
    DatadogConfig {
        collector_cluster: to.cluster.clone(),
        service_name: name.unwrap_or_default().to_owned(),
        collector_hostname: to.host.clone(),
        ..DatadogConfig::default()
    }
}

fn zipkin(said: &Zipkin, to: &Upstream) -> ZipkinConfig {
    let path = said.path.as_deref().unwrap_or("/api/v2/spans");
    let context = if said.with_w3c {
        TraceContextOption::UseB3WithW3cPropagation
    } else {
        TraceContextOption::UseB3
    };
    let uri = format!("http://{}{path}", to.host);
    let timeout = Some(said.timeout.unwrap_or(ZIPKIN_TIMEOUT));
    ZipkinConfig {
        collector_endpoint_version: CollectorEndpointVersion::HttpJson as i32,
        trace_id_128bit: !said.short_ids,
        shared_span_context: bool_value(false),
        trace_context_option: context as i32,
        collector_service: Some(http_service(uri, to, timeout, &said.headers)),
        ..ZipkinConfig::default()
    }
}

fn http_service(
    uri: String,
    to: &Upstream,
    timeout: Option<Duration>,
    headers: &[ProviderHeader],
) -> HttpService {
    let headers = headers.iter().map(|header| HeaderValueOption {
        header: Some(header_value(header)),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd as i32,
        ..HeaderValueOption::default()
    });
    HttpService {
        http_uri: Some(HttpUri {
            uri,
            // Envoy wants one, which istiod leaves to the author.
            timeout: Some(duration(timeout.unwrap_or(ZIPKIN_TIMEOUT))),
            http_upstream_type: Some(HttpUpstreamType::Cluster(to.cluster.clone())),
        }),
        request_headers_to_add: headers.collect(),
        ..HttpService::default()
    }
}

fn header_value(header: &ProviderHeader) -> HeaderValue {
    HeaderValue {
        key: header.name.to_string(),
        value: header.value.to_string(),
        ..HeaderValue::default()
    }
}

/// A path below a host, without empty steps.
fn below(host: &str, path: &str) -> String {
    let steps: Vec<&str> = path.split('/').filter(|step| !step.is_empty()).collect();
    let mut uri = host.to_owned();
    for step in &steps {
        uri = format!("{uri}/{step}");
    }
    if path.ends_with('/') && !steps.is_empty() {
        uri.push('/');
    }
    uri
}

fn export_http(said: &HttpExport, to: &Upstream, path: &str) -> HttpService {
    http_service(below(&to.host, path), to, said.timeout, &said.headers)
}

fn open_telemetry(
    said: &OpenTelemetry,
    identity: &SpanIdentity,
    to: &Upstream,
    lookup: &mut Lookup<'_>,
) -> Result<OpenTelemetryConfig, String> {
    let service_name = if said.semantic_names {
        &identity.workload
    } else {
        &identity.cluster
    };
    let mut config = OpenTelemetryConfig {
        service_name: service_name.to_string(),
        ..OpenTelemetryConfig::default()
    };
    match &said.export {
        Export::Http(http) => config.http_service = Some(export_http(http, to, &http.path)),
        Export::Grpc(grpc) => {
            config.grpc_service = Some(GrpcService {
                timeout: grpc.timeout.map(duration),
                initial_metadata: grpc.metadata.iter().map(header_value).collect(),
                ..grpc_to(&to.cluster, &to.host)
            });
        }
    }
    const DETECTORS: &str = "envoy.tracers.opentelemetry.resource_detectors";
    let detector = |name: &str, config: Any| TypedExtensionConfig {
        name: format!("{DETECTORS}.{name}"),
        typed_config: Some(config),
    };
    let environment = any(&EnvironmentResourceDetectorConfig {});
    let dynatrace = any(&DynatraceResourceDetectorConfig {});
    let mut detectors = Vec::new();
    if said.from_environment {
        detectors.push(detector("environment", environment.clone()));
    }
    if said.from_dynatrace {
        detectors.push(detector("dynatrace", dynatrace));
    }
    if said.semantic_names && !said.from_environment {
        detectors.push(detector("environment", environment));
    }
    config.resource_detectors = detectors;
    if let Some(sampler) = &said.sampler {
        config.sampler = Some(dynatrace_sampler(sampler, &said.export, to, lookup)?);
    }
    Ok(config)
}

fn dynatrace_sampler(
    said: &DynatraceSampler,
    export: &Export,
    to: &Upstream,
    lookup: &mut Lookup<'_>,
) -> Result<TypedExtensionConfig, String> {
    let http_service = match (&said.api, export) {
        (Some((service, http)), _) => {
            let to = lookup(service)?;
            Some(export_http(http, &to, &http.path))
        }
        (None, Export::Http(http)) => Some(export_http(http, to, "api/v2/samplingConfiguration")),
        // Refused when the mesh configuration is read.
        (None, Export::Grpc(_)) => None,
    };
    let config = DynatraceSamplerConfig {
        tenant: said.tenant.to_string(),
        cluster_id: said.cluster_id,
        http_service,
        root_spans_per_minute: said.root_spans,
    };
    Ok(TypedExtensionConfig {
        name: "envoy.tracers.opentelemetry.samplers.dynatrace".to_owned(),
        typed_config: Some(any(&config)),
    })
}
