//! Named services outside of the data path that proxies call: Istio's extension providers.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::balancing::Number;
use crate::hostname::Hostname;
use crate::name::{Namespace, PortNumber};

/// A provider, by the name that rules call it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Provider {
    /// Its name; rules may write it in any case.
    pub name: Arc<str>,
    /// What it is.
    pub kind: ProviderKind,
}

/// What a provider is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are those of Istio's API
pub enum ProviderKind {
    FileLog(FileLog),
    HttpLog(GrpcLog),
    TcpLog(GrpcLog),
    OtelLog(OtelLog),
    Zipkin(Zipkin),
    Datadog(Collector),
    SkyWalking(Collector),
    OpenTelemetry(Box<OpenTelemetry>),
    Authorization(Box<AuthorizationProvider>),
    /// A server of certificates and keys (SDS).
    Secrets(ProviderService),
    /// Proxies are scraped; nothing is sent.
    Prometheus,
}

/// A service of the mesh.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProviderService {
    /// Whose, if several namespaces define the host.
    pub namespace: Option<Namespace>,
    /// Its host.
    pub host: Hostname,
    /// Its port.
    pub port: PortNumber,
}

impl fmt::Display for ProviderService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}:{}", self.host, self.port)
    }
}

/// JSON with its keys in order.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are JSON's
pub enum Json {
    Null,
    Bool(bool),
    Number(Number),
    Text(Arc<str>),
    List(Vec<Json>),
    Object(JsonObject),
}

/// Keys, sorted, with their values.
pub type JsonObject = BTreeMap<Arc<str>, Json>;

/// How a line looks; it ends with a line feed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum LogFormat {
    /// Istio's default line.
    DefaultText,
    /// Istio's default object.
    DefaultJson,
    /// A line with operators.
    Text(Arc<str>),
    /// An object whose values have operators.
    Json(JsonObject),
}

/// A file on the proxy's machine.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FileLog {
    /// Its path.
    pub path: Arc<str>,
    /// How a line looks; `None` is the default, which for the provider `envoy` is the mesh's.
    pub format: Option<LogFormat>,
    /// Empty values are left out.
    pub omit_empty: bool,
}

/// An access-log service (Envoy's ALS).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcLog {
    /// Where it is.
    pub service: ProviderService,
    /// Name of the log; `None` is Istio's.
    pub log_name: Option<Arc<str>>,
    /// Objects of the filter state that are sent; none are Istio's.
    pub filter_state: Vec<Arc<str>>,
    /// Request headers that are sent beside the usual.
    pub request_headers: Vec<Arc<str>>,
    /// Response headers.
    pub response_headers: Vec<Arc<str>>,
    /// Response trailers.
    pub response_trailers: Vec<Arc<str>>,
}

/// An OpenTelemetry collector for logs.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct OtelLog {
    /// Where it is.
    pub service: ProviderService,
    /// Name of the log; `None` is Istio's.
    pub log_name: Option<Arc<str>>,
    /// Body of a record; `None` is Istio's default line.
    pub text: Option<Arc<str>>,
    /// Attributes of a record.
    pub labels: JsonObject,
}

/// A collector of spans.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Collector {
    /// Where it is.
    pub service: ProviderService,
    /// Longest path in a tag; `None` is Envoy's default.
    pub max_tag_length: Option<u32>,
}

/// A header that is sent to a collector.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ProviderHeader {
    /// Its name.
    pub name: Arc<str>,
    /// Its value.
    pub value: Arc<str>,
}

/// A collector of Zipkin's API.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Zipkin {
    /// Where it is.
    pub collector: Collector,
    /// Trace ids of 64 bits.
    pub short_ids: bool,
    /// Path of the API; `None` is version 2's.
    pub path: Option<Arc<str>>,
    /// W3C headers beside B3's.
    pub with_w3c: bool,
    /// Longest call; `None` is five seconds.
    pub timeout: Option<Duration>,
    /// Headers of a call.
    pub headers: Vec<ProviderHeader>,
}

/// How spans travel by HTTP.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HttpExport {
    /// Path below the service's host.
    pub path: Arc<str>,
    /// Longest call.
    pub timeout: Option<Duration>,
    /// Headers of a call.
    pub headers: Vec<ProviderHeader>,
}

/// How spans travel by gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct GrpcExport {
    /// Longest call.
    pub timeout: Option<Duration>,
    /// Metadata of a call.
    pub metadata: Vec<ProviderHeader>,
}

/// How spans travel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // the names are the protocols
pub enum Export {
    Http(HttpExport),
    Grpc(GrpcExport),
}

/// Dynatrace's sampler.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DynatraceSampler {
    /// The tenant.
    pub tenant: Arc<str>,
    /// Its cluster.
    pub cluster_id: i32,
    /// New traces a minute.
    pub root_spans: u32,
    /// Where its API is; `None` is the exporter's.
    pub api: Option<(ProviderService, HttpExport)>,
}

/// An OpenTelemetry collector for spans.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
#[allow(clippy::struct_excessive_bools)] // switches of Istio's API, one each
pub struct OpenTelemetry {
    /// Where it is.
    pub collector: Collector,
    /// How spans travel.
    pub export: Export,
    /// Attributes come from the proxy's environment.
    pub from_environment: bool,
    /// Attributes come from Dynatrace's files.
    pub from_dynatrace: bool,
    /// The service is named as OpenTelemetry's conventions say.
    pub semantic_names: bool,
    /// Who samples; `None` is the proxy, by share.
    pub sampler: Option<DynatraceSampler>,
}

/// A service that policies with the action `CUSTOM` ask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AuthorizationProvider {
    /// Where it is.
    pub service: ProviderService,
    /// Whether requests pass when it cannot be asked.
    pub fail_open: bool,
    /// The status of requests that are kept out because it cannot be asked; `None`: 403.
    pub status_on_error: Option<u16>,
    /// Time for an answer; `None`: ten minutes.
    pub timeout: Option<Duration>,
    /// How much of a request's body it gets; `None`: nothing.
    pub body: Option<RequestBodyLimit>,
    /// How it is asked.
    pub protocol: CheckProtocol,
}

/// How much of a request's body goes to an authorization provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestBodyLimit {
    /// At most so many bytes.
    pub max_bytes: u32,
    /// Whether a longer body is cut instead of refused.
    pub partial: bool,
    /// Whether it is sent as bytes instead of text.
    pub as_bytes: bool,
}

/// How an authorization provider is asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CheckProtocol {
    /// `envoy.service.auth.v3.Authorization`.
    Grpc,
    /// A request for each request.
    Http(HttpCheck),
}

/// What goes to an authorization provider over HTTP, and comes back. Names of headers are exact,
/// `prefix*` or `*suffix`, without regard to case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct HttpCheck {
    /// Put before the path.
    pub path_prefix: Arc<str>,
    /// Headers of the request that it sees.
    pub request_headers: Vec<Arc<str>>,
    /// Headers that are added.
    pub additional_headers: BTreeMap<Arc<str>, Arc<str>>,
    /// Headers of its answer that go to the workload.
    pub upstream_on_allow: Vec<Arc<str>>,
    /// Headers of its answer that go to the client with a refusal.
    pub downstream_on_deny: Vec<Arc<str>>,
    /// Headers of its answer that go to the client with the workload's answer.
    pub downstream_on_allow: Vec<Arc<str>>,
}

/// The providers that count where no rule names any.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DefaultProviders {
    /// For spans; the first counts.
    pub tracing: Vec<Arc<str>>,
    /// For access logs.
    pub access_logs: Vec<Arc<str>>,
}
