//! `envoy.filters.http.ext_authz` as configured: who decides about requests, what it is told, and
//! what of its answer counts. Asks nobody.

pub(crate) mod convert;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use crate::fraction::Fraction;
use crate::http_uri::HttpUri;
use crate::matching::{MetadataMatch, StringMatch};

/// The filter.
#[derive(Debug, Clone)]
pub struct ExtAuthz {
    /// Who decides.
    pub service: AuthzService,
    /// A request passes if the service cannot be asked.
    pub failure_mode_allow: bool,
    /// Such a request gets `x-envoy-auth-failure-mode-allowed: true`.
    pub failure_mode_allow_header_add: bool,
    /// Route again if the service changed the request's headers.
    pub clear_route_cache: bool,
    /// Answer if the service cannot be asked; default 403.
    pub status_on_error: StatusCode,
    /// Share of the requests that are asked about.
    pub enabled: Option<Fraction>,
    /// Only requests whose metadata match are asked about.
    pub enabled_metadata: Option<MetadataMatch>,
    /// Those that are not are refused.
    pub deny_at_disable: bool,
    /// Goes before the filter's statistics.
    pub stat_prefix: Arc<str>,
    /// Headers that the service sees; by default all with gRPC, hardly any with HTTP.
    pub allowed_headers: Option<Vec<StringMatch>>,
    /// Headers that it never sees.
    pub disallowed_headers: Vec<StringMatch>,
    /// Metadata that a gRPC service sees, by namespace.
    pub metadata_namespaces: Vec<Arc<str>>,
    /// Metadata of the route that a gRPC service sees.
    pub route_metadata_namespaces: Vec<Arc<str>>,
    /// A gRPC service sees the server name of the TLS hello.
    pub include_tls_session: bool,
    /// What a gRPC service says is left as metadata.
    pub takes_metadata: bool,
    /// What the service sees of bodies.
    pub body: Option<ShownBody>,
    /// A longer body of a refusal is cut; `None` is unbounded but for the answer's own bound.
    pub max_denied_body: Option<usize>,
}

/// What a service sees of requests' bodies. So many bytes are kept in memory until it has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownBody {
    /// No more bytes than these, at least 1.
    pub max_bytes: usize,
    /// Of a longer body the service sees the beginning; otherwise it is refused with 413.
    pub allow_partial: bool,
    /// A gRPC service gets bytes, not text.
    pub pack_as_bytes: bool,
}

/// Who decides.
#[derive(Debug, Clone)]
pub enum AuthzService {
    /// By HTTP.
    Http(Arc<HttpService>),
    /// By gRPC, `envoy.service.auth.v3.Authorization`.
    Grpc(Arc<GrpcService>),
}

/// A service that is asked by HTTP.
#[derive(Debug, Clone)]
pub struct HttpService {
    /// Where it is.
    pub uri: HttpUri,
    /// Goes before the request's path.
    pub path_prefix: Arc<str>,
    /// Stands in the path's place.
    pub path_override: Option<Arc<str>>,
    /// Headers that it gets besides.
    pub headers_to_add: Vec<(HeaderName, HeaderValue)>,
    /// Of its answer, set in the request.
    pub to_upstream: Vec<StringMatch>,
    /// Of its answer, appended to those of the request.
    pub append_to_upstream: Vec<StringMatch>,
    /// Of its refusal, passed to the client; `None` passes all.
    pub to_client: Option<Vec<StringMatch>>,
    /// Of its consent, added to the response.
    pub to_client_on_success: Vec<StringMatch>,
    /// Of its consent, left as metadata.
    pub to_metadata: Vec<StringMatch>,
}

/// A service that is asked by gRPC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcService {
    /// Cluster that is asked.
    pub cluster: Arc<str>,
    /// `:authority`; by default the cluster's name.
    pub authority: Arc<str>,
    /// Bound of a call; default 200 ms.
    pub timeout: Duration,
}

/// What a route has beside the filter's settings.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuthzOverride {
    /// The service is not asked.
    pub disabled: bool,
    /// The service sees no body.
    pub hides_body: bool,
    /// What it sees of bodies, if not what the filter says.
    pub body: Option<ShownBody>,
    /// Told to a gRPC service.
    pub context_extensions: Vec<(String, String)>,
}
