//! Access logs in Envoy's forms: files, services, collectors. Must never know which rule asks for
//! them, nor for which listener.

use prost::{Message, Name};
use weft_model::provider::{FileLog, GrpcLog, Json, JsonObject, LogFormat, OtelLog};

use super::metadata::{Struct, Value, struct_of};
use super::reporting::Upstream;
use crate::pb::accesslog::v3::{
    AccessLog, AccessLogFilter, AndFilter, ExtensionFilter, ResponseFlagFilter, access_log,
    access_log_filter::FilterSpecifier, extension_filter,
};
use crate::pb::cel_log_filter::ExpressionFilter;
use crate::pb::core::v3::{
    ApiVersion, GrpcService, SubstitutionFormatString, TypedExtensionConfig,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    substitution_format_string::Format,
};
use crate::pb::file_log::{FileAccessLog, file_access_log::AccessLogFormat};
use crate::pb::grpc_log::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use crate::pb::otel::{AnyValue, KeyValue, KeyValueList, any_value};
use crate::pb::otel_log::OpenTelemetryAccessLogConfig;
use crate::pb::protobuf::Any;
use crate::pb::req_without_query::ReqWithoutQuery;
use crate::pb::{any, inline_text};

/// Istio's default line.
pub(super) const TEXT_FORMAT: &str = "[%START_TIME%] \"%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%\" %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %CONNECTION_TERMINATION_DETAILS% \"%UPSTREAM_TRANSPORT_FAILURE_REASON%\" %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% \"%REQ(X-FORWARDED-FOR)%\" \"%REQ(USER-AGENT)%\" \"%REQ(X-REQUEST-ID)%\" \"%REQ(:AUTHORITY)%\" \"%UPSTREAM_HOST%\" %UPSTREAM_CLUSTER_RAW% %UPSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS% %DOWNSTREAM_REMOTE_ADDRESS% %REQUESTED_SERVER_NAME% %ROUTE_NAME%\n";

/// Istio's default object.
const JSON_FORMAT: [(&str, &str); 24] = [
    ("authority", "%REQ(:AUTHORITY)%"),
    ("bytes_received", "%BYTES_RECEIVED%"),
    ("bytes_sent", "%BYTES_SENT%"),
    (
        "connection_termination_details",
        "%CONNECTION_TERMINATION_DETAILS%",
    ),
    ("downstream_local_address", "%DOWNSTREAM_LOCAL_ADDRESS%"),
    ("downstream_remote_address", "%DOWNSTREAM_REMOTE_ADDRESS%"),
    ("duration", "%DURATION%"),
    ("method", "%REQ(:METHOD)%"),
    ("path", "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%"),
    ("protocol", "%PROTOCOL%"),
    ("request_id", "%REQ(X-REQUEST-ID)%"),
    ("requested_server_name", "%REQUESTED_SERVER_NAME%"),
    ("response_code", "%RESPONSE_CODE%"),
    ("response_code_details", "%RESPONSE_CODE_DETAILS%"),
    ("response_flags", "%RESPONSE_FLAGS%"),
    ("route_name", "%ROUTE_NAME%"),
    ("start_time", "%START_TIME%"),
    ("upstream_cluster", "%UPSTREAM_CLUSTER_RAW%"),
    ("upstream_host", "%UPSTREAM_HOST%"),
    ("upstream_local_address", "%UPSTREAM_LOCAL_ADDRESS%"),
    (
        "upstream_service_time",
        "%RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)%",
    ),
    (
        "upstream_transport_failure_reason",
        "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    ),
    ("user_agent", "%REQ(USER-AGENT)%"),
    ("x_forwarded_for", "%REQ(X-FORWARDED-FOR)%"),
];

/// What Istio's filters leave in the filter state about the two ends of a call.
const PEERS: [&str; 2] = ["upstream_peer", "downstream_peer"];
/// The same, and under its names of before Istio 1.24.
const PEERS_OF_ALL_AGES: [&str; 6] = [
    "upstream_peer",
    "downstream_peer",
    "wasm.upstream_peer",
    "wasm.upstream_peer_id",
    "wasm.downstream_peer",
    "wasm.downstream_peer_id",
];

/// The cluster of a bootstrap where `enableEnvoyAccessLogService` sends logs.
const BOOTSTRAP_SERVICE: &str = "envoy_accesslog_service";

/// Which kind of listener or filter a log of the bootstrap's service is for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Http,
    Tcp,
    Listener,
}

fn log(name: &str, config: Any) -> AccessLog {
    AccessLog {
        name: name.to_owned(),
        config_type: Some(access_log::ConfigType::TypedConfig(config)),
        ..AccessLog::default()
    }
}

/// A file. `fallback` is the format of one that has none.
pub(super) fn file(said: &FileLog, fallback: &LogFormat) -> AccessLog {
    let config = match said.format.as_ref().unwrap_or(fallback) {
        LogFormat::DefaultText => text_file(said, TEXT_FORMAT),
        LogFormat::Text(text) => text_file(said, text),
        LogFormat::DefaultJson => {
            let fields = JSON_FORMAT.map(|(key, text)| (key.to_owned(), Value::text(text)));
            json_file(said, struct_of(fields))
        }
        LogFormat::Json(object) => json_file(said, structure(object)),
    };
    log("envoy.access_loggers.file", config)
}

fn text_file(said: &FileLog, text: &str) -> Any {
    let format = SubstitutionFormatString {
        format: Some(Format::TextFormatSource(inline_text(text))),
        omit_empty_values: said.omit_empty,
        formatters: formatters([text]),
        ..SubstitutionFormatString::default()
    };
    any(&FileAccessLog {
        path: said.path.to_string(),
        access_log_format: Some(AccessLogFormat::LogFormat(format)),
    })
}

/// The wire shape of a `FileAccessLog` with JSON, whose keys have an order here: equal settings must
/// give equal bytes. The numbers are those of Envoy's messages.
#[derive(Clone, PartialEq, Message)]
struct JsonFile {
    #[prost(string, tag = "1")]
    path: String,
    #[prost(message, optional, tag = "5")]
    log_format: Option<JsonFormat>,
}

#[derive(Clone, PartialEq, Message)]
#[allow(clippy::struct_field_names)] // the names are those of the message
struct JsonFormat {
    #[prost(message, optional, tag = "2")]
    json_format: Option<Struct>,
    #[prost(bool, tag = "3")]
    omit_empty_values: bool,
    #[prost(message, repeated, tag = "6")]
    formatters: Vec<TypedExtensionConfig>,
    #[prost(message, optional, tag = "7")]
    json_format_options: Option<JsonOptions>,
}

#[derive(Clone, PartialEq, Message)]
struct JsonOptions {}

fn json_file(said: &FileLog, object: Struct) -> Any {
    // As istiod, which looks for operators of extensions on the first level only.
    let texts: Vec<&str> = object.texts().collect();
    let formatters = formatters(texts);
    let file = JsonFile {
        path: said.path.to_string(),
        log_format: Some(JsonFormat {
            json_format: Some(object),
            omit_empty_values: said.omit_empty,
            formatters,
            json_format_options: Some(JsonOptions {}),
        }),
    };
    Any {
        type_url: FileAccessLog::type_url(),
        value: file.encode_to_vec(),
    }
}

fn structure(object: &JsonObject) -> Struct {
    struct_of(
        object
            .iter()
            .map(|(key, json)| (key.to_string(), value(json))),
    )
}

fn value(json: &Json) -> Value {
    match json {
        Json::Null => Value::null(),
        Json::Bool(flag) => Value::bool(*flag),
        Json::Number(number) => Value::number(number.get()),
        Json::Text(text) => Value::text(text),
        Json::List(list) => Value::list(list.iter().map(value).collect()),
        Json::Object(object) => Value::object(structure(object)),
    }
}

/// The extensions that the operators of these texts need.
fn formatters<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<TypedExtensionConfig> {
    let needed = texts
        .into_iter()
        .any(|text| text.contains("%REQ_WITHOUT_QUERY"));
    needed
        .then(|| TypedExtensionConfig {
            name: "envoy.formatter.req_without_query".to_owned(),
            typed_config: Some(any(&ReqWithoutQuery {})),
        })
        .into_iter()
        .collect()
}

pub(super) fn grpc_to(cluster: &str, authority: &str) -> GrpcService {
    GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            authority: authority.to_owned(),
            ..EnvoyGrpc::default()
        })),
        ..GrpcService::default()
    }
}

fn common<'a>(
    log_name: &str,
    to: GrpcService,
    objects: impl IntoIterator<Item = &'a str>,
) -> CommonGrpcAccessLogConfig {
    CommonGrpcAccessLogConfig {
        log_name: log_name.to_owned(),
        grpc_service: Some(to),
        transport_api_version: ApiVersion::V3 as i32,
        filter_state_objects_to_log: objects.into_iter().map(str::to_owned).collect(),
        ..CommonGrpcAccessLogConfig::default()
    }
}

/// A log service. `tcp`: its messages are about connections.
pub(super) fn service(said: &GrpcLog, to: &Upstream, tcp: bool) -> AccessLog {
    let default = if tcp {
        "tcp_envoy_accesslog"
    } else {
        "http_envoy_accesslog"
    };
    let name = said.log_name.as_deref().unwrap_or(default);
    let own: Vec<&str> = said.filter_state.iter().map(AsRef::as_ref).collect();
    let objects = if own.is_empty() { PEERS.to_vec() } else { own };
    let common = common(name, grpc_to(&to.cluster, &to.host), objects);
    if tcp {
        return log("envoy.tcp_grpc_access_log", any(&tcp_config(common)));
    }
    let texts = |list: &[std::sync::Arc<str>]| list.iter().map(ToString::to_string).collect();
    let config = HttpGrpcAccessLogConfig {
        common_config: Some(common),
        additional_request_headers_to_log: texts(&said.request_headers),
        additional_response_headers_to_log: texts(&said.response_headers),
        additional_response_trailers_to_log: texts(&said.response_trailers),
    };
    log("envoy.access_loggers.http_grpc", any(&config))
}

fn tcp_config(common: CommonGrpcAccessLogConfig) -> TcpGrpcAccessLogConfig {
    TcpGrpcAccessLogConfig {
        common_config: Some(common),
    }
}

/// The log service of the bootstrap.
pub(super) fn bootstrap_service(level: Level) -> AccessLog {
    let name = match level {
        Level::Http => "http_envoy_accesslog",
        Level::Tcp => "tcp_envoy_accesslog",
        Level::Listener => "listener_envoy_accesslog",
    };
    let common = common(name, grpc_to(BOOTSTRAP_SERVICE, ""), PEERS_OF_ALL_AGES);
    if level == Level::Http {
        let config = HttpGrpcAccessLogConfig {
            common_config: Some(common),
            ..HttpGrpcAccessLogConfig::default()
        };
        return log("envoy.access_loggers.http_grpc", any(&config));
    }
    log("envoy.tcp_grpc_access_log", any(&tcp_config(common)))
}

/// An OpenTelemetry collector.
#[allow(deprecated)] // as istiod: the field that replaces `common_config` is younger than most proxies
pub(super) fn collector(said: &OtelLog, to: &Upstream) -> AccessLog {
    let text = |text: &str| AnyValue {
        value: Some(any_value::Value::StringValue(text.to_owned())),
    };
    let body = said.text.as_deref().unwrap_or(TEXT_FORMAT);
    let name = said.log_name.as_deref().unwrap_or("otel_envoy_accesslog");
    let labels: Vec<(&str, &str)> = said
        .labels
        .iter()
        .filter_map(|(key, json)| match json {
            Json::Text(text) => Some((&**key, &**text)),
            _ => None,
        })
        .collect();
    let values: Vec<KeyValue> = labels
        .iter()
        .map(|(key, label)| KeyValue {
            key: (*key).to_owned(),
            value: Some(text(label)),
            ..KeyValue::default()
        })
        .collect();
    let config = OpenTelemetryAccessLogConfig {
        common_config: Some(common(
            name,
            grpc_to(&to.cluster, &to.host),
            PEERS_OF_ALL_AGES,
        )),
        disable_builtin_labels: true,
        body: Some(text(body)),
        attributes: (!values.is_empty()).then_some(KeyValueList { values }),
        formatters: formatters(std::iter::once(body).chain(labels.iter().map(|(_, v)| *v))),
        ..OpenTelemetryAccessLogConfig::default()
    };
    log("envoy.access_loggers.open_telemetry", any(&config))
}

/// Only what a CEL expression is true for.
pub(super) fn expression(expression: &str) -> AccessLogFilter {
    let config = ExpressionFilter {
        expression: expression.to_owned(),
        ..ExpressionFilter::default()
    };
    filter(FilterSpecifier::ExtensionFilter(ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".to_owned(),
        config_type: Some(extension_filter::ConfigType::TypedConfig(any(&config))),
    }))
}

/// Only connections that no filter chain takes: what chains take, they log themselves.
pub(super) fn unmatched() -> AccessLogFilter {
    filter(FilterSpecifier::ResponseFlagFilter(ResponseFlagFilter {
        flags: vec!["NR".to_owned()],
    }))
}

/// What passes all of these.
pub(super) fn all(mut filters: Vec<AccessLogFilter>) -> Option<AccessLogFilter> {
    if filters.len() > 1 {
        return Some(filter(FilterSpecifier::AndFilter(AndFilter { filters })));
    }
    filters.pop()
}

fn filter(specifier: FilterSpecifier) -> AccessLogFilter {
    AccessLogFilter {
        filter_specifier: Some(specifier),
    }
}
