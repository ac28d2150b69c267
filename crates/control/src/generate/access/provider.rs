//! The filters that ask an authorization provider. Must never know policies beyond the metadata
//! that says whether it is to be asked.

use std::time::Duration;

use weft_model::provider::{AuthorizationProvider, CheckProtocol, HttpCheck, RequestBodyLimit};

use super::matchers::metadata;
use super::{ASK_PREFIX, HTTP_RBAC, NETWORK_RBAC, http_filter};
use crate::pb;
use crate::pb::core::v3::{
    ApiVersion, GrpcService, HeaderValue, HttpUri,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    http_uri::HttpUpstreamType,
};
use crate::pb::hcm::HttpFilter;
use crate::pb::http_ext_authz::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService,
    ext_authz::Services,
};
use crate::pb::listener::v3::Filter;
use crate::pb::matcher::{
    ListStringMatcher, MetadataMatcher, StringMatcher, ValueMatcher, string_matcher::MatchPattern,
    value_matcher,
};
use crate::pb::network_ext_authz::ExtAuthz as NetworkExtAuthz;
use crate::pb::types::HttpStatus;

/// How names of rules begin for which a provider is asked.
pub(super) const POLICY_PREFIX: &str = "istio-ext-authz";
const DEFAULT_TIMEOUT: Duration = Duration::from_mins(10);

/// Whether the RBAC filter before found a rule of the provider.
fn asked(filter: &str, name: &str) -> MetadataMatcher {
    let key = format!("{ASK_PREFIX}shadow_effective_policy_id");
    let value = StringMatcher {
        match_pattern: Some(MatchPattern::Prefix(format!("{POLICY_PREFIX}-{name}"))),
        ..StringMatcher::default()
    };
    let value = ValueMatcher {
        match_pattern: Some(value_matcher::MatchPattern::StringMatch(value)),
    };
    metadata(filter, &[&key], value)
}

fn timeout(provider: &AuthorizationProvider) -> pb::protobuf::Duration {
    pb::duration(provider.timeout.unwrap_or(DEFAULT_TIMEOUT))
}

fn grpc_service(provider: &AuthorizationProvider, cluster: &str) -> GrpcService {
    GrpcService {
        target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
            cluster_name: cluster.to_owned(),
            authority: provider.service.host.to_string(),
            ..EnvoyGrpc::default()
        })),
        timeout: Some(timeout(provider)),
        ..GrpcService::default()
    }
}

/// For requests.
pub(super) fn http(provider: &AuthorizationProvider, cluster: &str, name: &str) -> HttpFilter {
    let (services, allowed_headers) = match &provider.protocol {
        CheckProtocol::Grpc => (Services::GrpcService(grpc_service(provider, cluster)), None),
        CheckProtocol::Http(check) => (
            Services::HttpService(http_service(provider, check, cluster)),
            headers(&check.request_headers),
        ),
    };
    let message = ExtAuthz {
        services: Some(services),
        allowed_headers,
        status_on_error: provider.status_on_error.map(|code| HttpStatus {
            code: i32::from(code),
        }),
        failure_mode_allow: provider.fail_open,
        transport_api_version: ApiVersion::V3 as i32,
        filter_enabled_metadata: Some(asked(HTTP_RBAC, name)),
        with_request_body: provider.body.map(body),
        ..ExtAuthz::default()
    };
    http_filter("envoy.filters.http.ext_authz", pb::any(&message))
}

fn body(limit: RequestBodyLimit) -> BufferSettings {
    BufferSettings {
        max_request_bytes: limit.max_bytes,
        allow_partial_message: limit.partial,
        pack_as_bytes: limit.as_bytes,
    }
}

fn http_service(provider: &AuthorizationProvider, check: &HttpCheck, cluster: &str) -> HttpService {
    let added = check.additional_headers.iter();
    let added: Vec<HeaderValue> = added
        .map(|(key, value)| HeaderValue {
            key: key.to_string(),
            value: value.to_string(),
            ..HeaderValue::default()
        })
        .collect();
    let response = AuthorizationResponse {
        allowed_upstream_headers: headers(&check.upstream_on_allow),
        allowed_client_headers: headers(&check.downstream_on_deny),
        allowed_client_headers_on_success: headers(&check.downstream_on_allow),
        ..AuthorizationResponse::default()
    };
    HttpService {
        server_uri: Some(HttpUri {
            // Wanted, and not looked at.
            uri: format!("http://{}", provider.service.host),
            http_upstream_type: Some(HttpUpstreamType::Cluster(cluster.to_owned())),
            timeout: Some(timeout(provider)),
        }),
        path_prefix: check.path_prefix.to_string(),
        authorization_request: (!added.is_empty()).then(|| AuthorizationRequest {
            headers_to_add: added,
            ..AuthorizationRequest::default()
        }),
        authorization_response: (response != AuthorizationResponse::default()).then_some(response),
        ..HttpService::default()
    }
}

/// Names of headers, without regard to case.
fn headers(names: &[std::sync::Arc<str>]) -> Option<ListStringMatcher> {
    let one = |name: &std::sync::Arc<str>| {
        let pattern = match (name.strip_prefix('*'), name.strip_suffix('*')) {
            (Some(end), _) => MatchPattern::Suffix(end.to_owned()),
            (None, Some(start)) => MatchPattern::Prefix(start.to_owned()),
            (None, None) => MatchPattern::Exact(name.to_string()),
        };
        StringMatcher {
            match_pattern: Some(pattern),
            ignore_case: true,
        }
    };
    (!names.is_empty()).then(|| ListStringMatcher {
        patterns: names.iter().map(one).collect(),
    })
}

/// For connections; providers over HTTP know requests only.
pub(super) fn network(
    provider: &AuthorizationProvider,
    cluster: &str,
    name: &str,
) -> Option<Filter> {
    if provider.protocol != CheckProtocol::Grpc {
        return None;
    }
    let message = NetworkExtAuthz {
        stat_prefix: super::TCP_PREFIX.to_owned(),
        failure_mode_allow: provider.fail_open,
        transport_api_version: ApiVersion::V3 as i32,
        grpc_service: Some(grpc_service(provider, cluster)),
        filter_enabled_metadata: Some(asked(NETWORK_RBAC, name)),
        ..NetworkExtAuthz::default()
    };
    Some(super::network_filter(
        "envoy.filters.network.ext_authz",
        pb::any(&message),
    ))
}
