//! `MeshConfig.extensionProviders` and `defaultProviders`. Those that policies ask are read in
//! `mesh_config_providers`.

use std::sync::Arc;
use std::time::Duration;

use weft_model::name::is_dns_label;
use weft_model::provider::{
    Collector, DefaultProviders, DynatraceSampler, Export, FileLog, GrpcExport, GrpcLog,
    HttpExport, Json, LogFormat, OpenTelemetry, OtelLog, Provider, ProviderHeader, ProviderKind,
    ProviderService, Zipkin,
};
use weft_model::{Hostname, Namespace};
use weft_proto::istio::mesh::v1alpha1::mesh_config as mesh;

use mesh::extension_provider as pb;
use pb::Provider as Kind;

use super::log_format::{object, operators, text_format};
use super::mesh_config_providers as authorization;
use crate::check::{At, optional};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Adds the providers of a mesh to those that every mesh has; one with the name of a built-in one
/// takes its place.
pub(super) fn providers(
    messages: Vec<mesh::ExtensionProvider>,
    built_in: Vec<Provider>,
    at: At<'_>,
) -> Vec<Provider> {
    let mut all = built_in;
    let mut own: Vec<Arc<str>> = Vec::new();
    for (index, message) in messages.into_iter().enumerate() {
        let at = at.index(index);
        let mesh::ExtensionProvider { name, provider } = message;
        let name: Arc<str> = name.into();
        if name.is_empty() {
            at.field("name").error("the provider has no name");
        } else if own.contains(&name) {
            at.field("name").error(format_args!(
                "\"{name}\" is the name of an earlier provider, too: rename one of them"
            ));
        }
        own.push(Arc::clone(&name));
        // The name becomes part of the names of policies, which filters compare by prefix.
        let asked = matches!(
            provider,
            Some(Kind::EnvoyExtAuthzHttp(_) | Kind::EnvoyExtAuthzGrpc(_))
        );
        if asked && !is_dns_label(&name) {
            at.field("name").error(format_args!(
                "\"{name}\" is no name for a provider that policies ask: use lower-case letters, digits and '-'"
            ));
        }
        let Some(kind) = kind(provider, at) else {
            continue;
        };
        match all.iter_mut().find(|known| known.name == name) {
            Some(known) => known.kind = kind,
            None => all.push(Provider { name, kind }),
        }
    }
    all
}

/// `defaultProviders`. Metrics are there to be scraped, whoever is named.
pub(super) fn defaults(
    message: mesh::DefaultProviders,
    known: &[Provider],
    at: At<'_>,
) -> DefaultProviders {
    let mesh::DefaultProviders {
        tracing,
        metrics,
        access_logging,
    } = message;
    let names = |list: Vec<String>, at: At<'_>| -> Vec<Arc<str>> {
        for (index, name) in list.iter().enumerate() {
            if !known.iter().any(|p| p.name.eq_ignore_ascii_case(name)) {
                at.index(index).error(format_args!(
                    "there is no provider \"{name}\" among extensionProviders"
                ));
            }
        }
        list.into_iter().map(Into::into).collect()
    };
    names(metrics, at.field("metrics"));
    DefaultProviders {
        tracing: names(tracing, at.field("tracing")),
        access_logs: names(access_logging, at.field("accessLogging")),
    }
}

#[allow(deprecated)] // old providers are refused by name
fn kind(provider: Option<Kind>, at: At<'_>) -> Option<ProviderKind> {
    Some(match provider {
        Some(Kind::EnvoyFileAccessLog(message)) => {
            ProviderKind::FileLog(file_log(message, at.field("envoyFileAccessLog")))
        }
        Some(Kind::EnvoyHttpAls(message)) => {
            ProviderKind::HttpLog(http_log(message, at.field("envoyHttpAls"))?)
        }
        Some(Kind::EnvoyTcpAls(message)) => {
            ProviderKind::TcpLog(tcp_log(message, at.field("envoyTcpAls"))?)
        }
        Some(Kind::EnvoyOtelAls(message)) => {
            ProviderKind::OtelLog(otel_log(message, at.field("envoyOtelAls"))?)
        }
        Some(Kind::Zipkin(message)) => ProviderKind::Zipkin(zipkin(message, at.field("zipkin"))?),
        Some(Kind::Datadog(message)) => {
            let pb::DatadogTracingProvider {
                service,
                port,
                max_tag_length,
            } = message;
            ProviderKind::Datadog(collector(
                &service,
                port,
                max_tag_length,
                at.field("datadog"),
            )?)
        }
        Some(Kind::Skywalking(message)) => {
            let pb::SkyWalkingTracingProvider {
                service,
                port,
                access_token,
            } = message;
            let at = at.field("skywalking");
            // istiod reads it and sends it to nobody.
            at.field("accessToken").refuse(!access_token.is_empty());
            ProviderKind::SkyWalking(collector(&service, port, 0, at)?)
        }
        Some(Kind::Opentelemetry(message)) => {
            let made = open_telemetry(message, at.field("opentelemetry"))?;
            ProviderKind::OpenTelemetry(Box::new(made))
        }
        Some(Kind::Prometheus(pb::PrometheusMetricsProvider {})) => ProviderKind::Prometheus,
        Some(Kind::EnvoyExtAuthzHttp(message)) => {
            let asked = authorization::http(message, at.field("envoyExtAuthzHttp"))?;
            ProviderKind::Authorization(Box::new(asked))
        }
        Some(Kind::EnvoyExtAuthzGrpc(message)) => {
            let asked = authorization::grpc(message, at.field("envoyExtAuthzGrpc"))?;
            ProviderKind::Authorization(Box::new(asked))
        }
        Some(Kind::Sds(message)) => {
            let at = at.field("sds");
            let pb::SdsProvider {
                // The API wants it; neither istiod nor anybody else looks at it.
                name: _,
                service: host,
                port,
            } = message;
            ProviderKind::Secrets(service(&host, port, at)?)
        }
        Some(Kind::Stackdriver(_)) => return gone(at.field("stackdriver")),
        Some(Kind::Lightstep(_)) => return gone(at.field("lightstep")),
        Some(Kind::Opencensus(_)) => return gone(at.field("opencensus")),
        None => {
            at.error("says no kind of provider: write one such as envoyFileAccessLog");
            return None;
        }
    })
}

fn gone(at: At<'_>) -> Option<ProviderKind> {
    at.error("Envoy no longer has it: use opentelemetry");
    None
}

/// `[namespace/]host` and a port.
pub(super) fn service(text: &str, port: u32, at: At<'_>) -> Option<ProviderService> {
    let port = at.field("port").port(port);
    let place = at.field("service");
    if text.is_empty() {
        place.error("there is no service: write its host, such as \"zipkin.istio-system.svc.cluster.local\"");
        return None;
    }
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(place.ok(Namespace::parse(namespace))?), host),
        None => (None, text),
    };
    let host = place.ok(Hostname::parse(host))?;
    if host.is_wildcard() {
        place.error("a wildcard is no service");
        return None;
    }
    Some(ProviderService {
        namespace,
        host,
        port: port?,
    })
}

fn collector(text: &str, port: u32, max_tag_length: u32, at: At<'_>) -> Option<Collector> {
    Some(Collector {
        service: service(text, port, at)?,
        max_tag_length: (max_tag_length != 0).then_some(max_tag_length),
    })
}

fn texts(list: Vec<String>) -> Vec<Arc<str>> {
    list.into_iter().map(Into::into).collect()
}

fn file_log(message: pb::EnvoyFileAccessLogProvider, at: At<'_>) -> FileLog {
    use pb::envoy_file_access_log_provider::{LogFormat as Message, log_format::LogFormat as Form};
    let pb::EnvoyFileAccessLogProvider {
        path,
        log_format,
        omit_empty_values,
    } = message;
    let place = at.field("logFormat");
    let format = log_format.map(|Message { log_format }| match log_format {
        Some(Form::Text(text)) => text_format(&text, place.field("text")),
        Some(Form::Labels(labels)) => {
            let object = object(labels, place.field("labels"));
            if object.is_empty() {
                LogFormat::DefaultJson
            } else {
                LogFormat::Json(object)
            }
        }
        None => {
            place.error("sets nothing: write text or labels");
            LogFormat::DefaultText
        }
    });
    FileLog {
        path: optional(path).unwrap_or_else(|| "/dev/stdout".into()),
        format,
        omit_empty: omit_empty_values,
    }
}

fn http_log(message: pb::EnvoyHttpGrpcV3LogProvider, at: At<'_>) -> Option<GrpcLog> {
    let pb::EnvoyHttpGrpcV3LogProvider {
        service: host,
        port,
        log_name,
        filter_state_objects_to_log,
        additional_request_headers_to_log,
        additional_response_headers_to_log,
        additional_response_trailers_to_log,
    } = message;
    Some(GrpcLog {
        service: service(&host, port, at)?,
        log_name: optional(log_name),
        filter_state: texts(filter_state_objects_to_log),
        request_headers: texts(additional_request_headers_to_log),
        response_headers: texts(additional_response_headers_to_log),
        response_trailers: texts(additional_response_trailers_to_log),
    })
}

fn tcp_log(message: pb::EnvoyTcpGrpcV3LogProvider, at: At<'_>) -> Option<GrpcLog> {
    let pb::EnvoyTcpGrpcV3LogProvider {
        service: host,
        port,
        log_name,
        filter_state_objects_to_log,
    } = message;
    Some(GrpcLog {
        service: service(&host, port, at)?,
        log_name: optional(log_name),
        filter_state: texts(filter_state_objects_to_log),
        request_headers: Vec::new(),
        response_headers: Vec::new(),
        response_trailers: Vec::new(),
    })
}

fn otel_log(message: pb::EnvoyOpenTelemetryLogProvider, at: At<'_>) -> Option<OtelLog> {
    use pb::envoy_open_telemetry_log_provider::LogFormat as Message;
    let pb::EnvoyOpenTelemetryLogProvider {
        service: host,
        port,
        log_name,
        log_format,
    } = message;
    let place = at.field("logFormat");
    let Message { text, labels } = log_format.unwrap_or_default();
    operators(&text, place.field("text"));
    let labels = labels.map(|labels| object(labels, place.field("labels")));
    let labels = labels.unwrap_or_default();
    for (key, value) in &labels {
        // istiod sends others as empty texts.
        if !matches!(value, Json::Text(_)) {
            place
                .field("labels")
                .key(key)
                .error("an attribute of a record is a text");
        }
    }
    Some(OtelLog {
        service: service(&host, port, at)?,
        log_name: optional(log_name),
        text: optional(text),
        labels,
    })
}

fn zipkin(message: pb::ZipkinTracingProvider, at: At<'_>) -> Option<Zipkin> {
    use pb::zipkin_tracing_provider::TraceContextOption;
    let pb::ZipkinTracingProvider {
        service,
        port,
        max_tag_length,
        enable_64bit_trace_id,
        path,
        trace_context_option,
        timeout,
        headers,
    } = message;
    let option = at.field("traceContextOption");
    let option = option.ok(TraceContextOption::try_from(trace_context_option));
    Some(Zipkin {
        collector: collector(&service, port, max_tag_length, at)?,
        short_ids: enable_64bit_trace_id,
        path: optional(path),
        with_w3c: option == Some(TraceContextOption::UseB3WithW3cPropagation),
        timeout: at.field("timeout").duration(timeout, MILLISECOND),
        headers: self::headers(headers, at.field("headers")),
    })
}

fn headers(list: Vec<pb::HttpHeader>, at: At<'_>) -> Vec<ProviderHeader> {
    use pb::http_header::HeaderValue;
    let mut made = Vec::with_capacity(list.len());
    for (index, message) in list.into_iter().enumerate() {
        let at = at.index(index);
        let pb::HttpHeader { name, header_value } = message;
        at.field("name").header_name(&name);
        if let Some(HeaderValue::Value(value)) = &header_value {
            at.field("value").header_value(value);
        }
        let value = match header_value {
            Some(HeaderValue::Value(value)) => value,
            Some(HeaderValue::EnvName(_)) => {
                at.field("envName").refuse(true);
                continue;
            }
            None => {
                at.error("the header has no value");
                continue;
            }
        };
        made.push(ProviderHeader {
            name: name.into(),
            value: value.into(),
        });
    }
    made
}

fn http_export(message: pb::HttpService, at: At<'_>) -> HttpExport {
    let pb::HttpService {
        path,
        timeout,
        headers: list,
    } = message;
    HttpExport {
        path: path.into(),
        timeout: at.field("timeout").duration(timeout, MILLISECOND),
        headers: headers(list, at.field("headers")),
    }
}

fn open_telemetry(message: pb::OpenTelemetryTracingProvider, at: At<'_>) -> Option<OpenTelemetry> {
    use pb::open_telemetry_tracing_provider::Sampling;
    let pb::OpenTelemetryTracingProvider {
        service,
        port,
        max_tag_length,
        http,
        resource_detectors,
        sampling,
        grpc,
        service_attribute_enrichment,
    } = message;
    if http.is_some() && grpc.is_some() {
        at.field("grpc")
            .error("stands beside http: write one of them");
    }
    let export = match http {
        Some(message) => Export::Http(http_export(message, at.field("http"))),
        None => Export::Grpc(
            grpc.map(|message| grpc_export(message, at.field("grpc")))
                .unwrap_or_default(),
        ),
    };
    let sampler = sampling.and_then(|Sampling::DynatraceSampler(message)| {
        sampler(message, &export, at.field("dynatraceSampler"))
    });
    let pb::ResourceDetectors {
        environment,
        dynatrace,
    } = resource_detectors.unwrap_or_default();
    let enrichment =
        at.field("serviceAttributeEnrichment")
            .ok(pb::ServiceAttributeEnrichment::try_from(
                service_attribute_enrichment,
            ));
    Some(OpenTelemetry {
        collector: collector(&service, port, max_tag_length, at)?,
        export,
        from_environment: environment.is_some(),
        from_dynatrace: dynatrace.is_some(),
        semantic_names: enrichment == Some(pb::ServiceAttributeEnrichment::OtelSemanticConventions),
        sampler,
    })
}

fn grpc_export(message: pb::GrpcService, at: At<'_>) -> GrpcExport {
    let pb::GrpcService {
        timeout,
        initial_metadata,
    } = message;
    GrpcExport {
        timeout: at.field("timeout").duration(timeout, MILLISECOND),
        metadata: headers(initial_metadata, at.field("initialMetadata")),
    }
}

fn sampler(
    message: pb::open_telemetry_tracing_provider::DynatraceSampler,
    export: &Export,
    at: At<'_>,
) -> Option<DynatraceSampler> {
    use pb::open_telemetry_tracing_provider::{DynatraceSampler as Message, dynatrace_sampler};
    let Message {
        tenant,
        cluster_id,
        root_spans_per_minute,
        http_service,
    } = message;
    let place = at.field("httpService");
    let api = match http_service {
        None => {
            if !matches!(export, Export::Http(_)) {
                place.error("is needed where spans do not go by http");
            }
            None
        }
        Some(dynatrace_sampler::DynatraceApi {
            service: host,
            port,
            http,
        }) => {
            let http = http_export(http.unwrap_or_default(), place.field("http"));
            Some((service(&host, port, place)?, http))
        }
    };
    Some(DynatraceSampler {
        tenant: tenant.into(),
        cluster_id,
        root_spans: root_spans_per_minute,
        api,
    })
}
