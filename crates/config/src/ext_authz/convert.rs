//! `ExtAuthz` → who decides and what it is told.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, StatusCode};

use super::{AuthzOverride, AuthzService, ExtAuthz, GrpcService, HttpService, ShownBody};
use crate::extension::api_version;
use crate::http_filter::FilterOverride;
use crate::http_uri::http_uri;
use crate::matching::{StringMatch, metadata_matcher, string_matcher};
use crate::pass::{IsSet as _, Pass, flag};
use crate::pb;
use pb::extensions::filters::http::ext_authz::v3 as authz;

const GRPC_TIMEOUT: Duration = Duration::from_millis(200);

#[allow(
    clippy::too_many_lines,
    reason = "one destructuring of a message with 30 fields"
)]
pub(crate) fn ext_authz(p: &mut Pass<'_>, message: &authz::ExtAuthz) -> Option<ExtAuthz> {
    use authz::ext_authz::Services;
    let authz::ExtAuthz {
        transport_api_version,
        failure_mode_allow,
        failure_mode_allow_header_add,
        with_request_body,
        clear_route_cache,
        status_on_error,
        validate_mutations,
        metadata_context_namespaces,
        typed_metadata_context_namespaces,
        route_metadata_context_namespaces,
        route_typed_metadata_context_namespaces,
        filter_enabled,
        filter_enabled_metadata,
        deny_at_disable,
        include_peer_certificate,
        stat_prefix,
        bootstrap_metadata_labels_key,
        allowed_headers,
        disallowed_headers,
        include_tls_session,
        charge_cluster_response_stats,
        encode_raw_headers,
        decoder_header_mutation_rules,
        enable_dynamic_metadata_ingestion,
        filter_metadata,
        emit_filter_state_stats,
        max_denied_response_body_bytes,
        enforce_response_header_limits,
        shadow_mode,
        emit_client_span,
        services,
    } = message;
    unsupported!(p; validate_mutations, typed_metadata_context_namespaces,
        route_typed_metadata_context_namespaces, include_peer_certificate,
        bootstrap_metadata_labels_key, encode_raw_headers, decoder_header_mutation_rules,
        filter_metadata, emit_filter_state_stats, shadow_mode);
    ignore!(p, "ext_authz.ExtAuthz"; charge_cluster_response_stats, enforce_response_header_limits,
        emit_client_span);
    api_version(p, "transport_api_version", *transport_api_version);
    let status = p.opt("status_on_error", status_on_error.as_ref(), |p, status| {
        let pb::typ::HttpStatus { code } = status;
        let found = u16::try_from(*code)
            .ok()
            .filter(|code| (100..600).contains(code));
        let found = found.and_then(|code| StatusCode::from_u16(code).ok());
        if found.is_none() {
            p.refuse_field("code", format!("{code} is no HTTP status"));
        }
        found
    });
    let enabled = p.opt(
        "filter_enabled",
        filter_enabled.as_ref(),
        Pass::runtime_fraction,
    );
    let deny = p.opt("deny_at_disable", deny_at_disable.as_ref(), |p, message| {
        let pb::core::RuntimeFeatureFlag {
            default_value,
            runtime_key,
        } = message;
        p.ignore(
            "core.RuntimeFeatureFlag",
            "runtime_key",
            runtime_key.is_set(),
        );
        Some(flag(default_value.as_ref(), false))
    });
    let service = match services {
        Some(Services::HttpService(message)) => p
            .at("http_service", |p| http_service(p, message))
            .map(|service| AuthzService::Http(Arc::new(service))),
        Some(Services::GrpcService(message)) => p
            .at("grpc_service", |p| grpc_service(p, message))
            .map(|service| AuthzService::Grpc(Arc::new(service))),
        None => {
            p.refuse("needs one of http_service, grpc_service");
            None
        }
    };
    let text = |text: &String| Arc::from(text.as_str());
    Some(ExtAuthz {
        failure_mode_allow: *failure_mode_allow,
        failure_mode_allow_header_add: *failure_mode_allow_header_add,
        clear_route_cache: *clear_route_cache,
        status_on_error: status.unwrap_or(StatusCode::FORBIDDEN),
        enabled,
        enabled_metadata: p.opt(
            "filter_enabled_metadata",
            filter_enabled_metadata.as_ref(),
            metadata_matcher,
        ),
        deny_at_disable: deny.unwrap_or(false),
        stat_prefix: Arc::from(stat_prefix.as_str()),
        allowed_headers: p.opt("allowed_headers", allowed_headers.as_ref(), list),
        disallowed_headers: p
            .opt("disallowed_headers", disallowed_headers.as_ref(), list)
            .unwrap_or_default(),
        metadata_namespaces: metadata_context_namespaces.iter().map(text).collect(),
        route_metadata_namespaces: route_metadata_context_namespaces.iter().map(text).collect(),
        include_tls_session: *include_tls_session,
        takes_metadata: flag(enable_dynamic_metadata_ingestion.as_ref(), true),
        body: p.opt("with_request_body", with_request_body.as_ref(), shown_body),
        max_denied_body: (*max_denied_response_body_bytes > 0)
            .then_some(*max_denied_response_body_bytes as usize),
        service: service?,
    })
}

/// Reads what a route has.
pub(crate) fn per_route(
    p: &mut Pass<'_>,
    message: &authz::ExtAuthzPerRoute,
) -> Option<FilterOverride> {
    use authz::ext_authz_per_route::Override;
    match &message.r#override {
        Some(Override::Disabled(true)) => {
            let own = AuthzOverride {
                disabled: true,
                ..AuthzOverride::default()
            };
            Some(FilterOverride::ExtAuthz(Arc::new(own)))
        }
        Some(Override::Disabled(false)) => {
            p.refuse_field("disabled", "must be true, as in Envoy");
            None
        }
        Some(Override::CheckSettings(message)) => p.at("check_settings", |p| {
            let authz::CheckSettings {
                context_extensions,
                disable_request_body_buffering,
                with_request_body,
                emit_client_span,
                service_override,
            } = message;
            unsupported!(p; service_override);
            ignore!(p, "ext_authz.ExtAuthz"; emit_client_span);
            let body = p.opt("with_request_body", with_request_body.as_ref(), shown_body);
            if *disable_request_body_buffering && with_request_body.is_some() {
                p.refuse_field(
                    "with_request_body",
                    "and disable_request_body_buffering exclude each other",
                );
            }
            // Envoy looks only at the filter's.
            p.ignore(
                "ext_authz.CheckSettings",
                "with_request_body.pack_as_bytes",
                body.as_ref().is_some_and(|body| body.pack_as_bytes),
            );
            let pairs = context_extensions.iter();
            let mut pairs: Vec<_> = pairs.map(|(k, v)| (k.clone(), v.clone())).collect();
            pairs.sort();
            let own = AuthzOverride {
                disabled: false,
                hides_body: *disable_request_body_buffering,
                body,
                context_extensions: pairs,
            };
            Some(FilterOverride::ExtAuthz(Arc::new(own)))
        }),
        None => {
            p.refuse("needs one of disabled, check_settings");
            None
        }
    }
}

fn shown_body(p: &mut Pass<'_>, message: &authz::BufferSettings) -> Option<ShownBody> {
    let authz::BufferSettings {
        max_request_bytes,
        allow_partial_message,
        pack_as_bytes,
    } = message;
    if *max_request_bytes == 0 {
        p.refuse_field("max_request_bytes", "must be at least 1");
        return None;
    }
    Some(ShownBody {
        max_bytes: *max_request_bytes as usize,
        allow_partial: *allow_partial_message,
        pack_as_bytes: *pack_as_bytes,
    })
}

fn list(p: &mut Pass<'_>, message: &pb::matcher::ListStringMatcher) -> Option<Vec<StringMatch>> {
    let pb::matcher::ListStringMatcher { patterns } = message;
    if patterns.is_empty() {
        p.refuse_field("patterns", "is required");
    }
    Some(p.each("patterns", patterns, string_matcher))
}

fn http_service(p: &mut Pass<'_>, message: &authz::HttpService) -> Option<HttpService> {
    let authz::HttpService {
        server_uri,
        path_prefix,
        path_override,
        authorization_request,
        authorization_response,
        retry_policy,
    } = message;
    unsupported!(p; retry_policy);
    for (field, path) in [
        ("path_prefix", path_prefix),
        ("path_override", path_override),
    ] {
        if !path.is_empty() && !path.starts_with('/') {
            p.refuse_field(field, "must begin with `/`");
        }
    }
    if !path_prefix.is_empty() && !path_override.is_empty() {
        p.refuse_field("path_override", "and path_prefix exclude each other");
    }
    let added = p.opt(
        "authorization_request",
        authorization_request.as_ref(),
        |p, request| {
            let authz::AuthorizationRequest {
                allowed_headers,
                headers_to_add,
            } = request;
            unsupported!(p; allowed_headers);
            Some(p.each("headers_to_add", headers_to_add, header))
        },
    );
    let nothing = authz::AuthorizationResponse::default();
    let authz::AuthorizationResponse {
        allowed_upstream_headers,
        allowed_upstream_headers_to_append,
        allowed_client_headers,
        allowed_client_headers_on_success,
        dynamic_metadata_from_headers,
    } = authorization_response.as_ref().unwrap_or(&nothing);
    let uri = p.required("server_uri", server_uri.as_ref(), http_uri);
    p.at("authorization_response", |p| {
        let mut some = |field, message: &Option<pb::matcher::ListStringMatcher>| {
            p.opt(field, message.as_ref(), list)
        };
        let to_upstream = some("allowed_upstream_headers", allowed_upstream_headers);
        let append = some(
            "allowed_upstream_headers_to_append",
            allowed_upstream_headers_to_append,
        );
        let to_client = some("allowed_client_headers", allowed_client_headers);
        let on_success = some(
            "allowed_client_headers_on_success",
            allowed_client_headers_on_success,
        );
        let metadata = some(
            "dynamic_metadata_from_headers",
            dynamic_metadata_from_headers,
        );
        Some(HttpService {
            uri: uri?,
            path_prefix: Arc::from(path_prefix.as_str()),
            path_override: (!path_override.is_empty()).then(|| Arc::from(path_override.as_str())),
            headers_to_add: added.unwrap_or_default(),
            to_upstream: to_upstream.unwrap_or_default(),
            append_to_upstream: append.unwrap_or_default(),
            to_client,
            to_client_on_success: on_success.unwrap_or_default(),
            to_metadata: metadata.unwrap_or_default(),
        })
    })
}

/// A header that is added as it stands.
pub(crate) fn header(
    p: &mut Pass<'_>,
    message: &pb::core::HeaderValue,
) -> Option<(HeaderName, HeaderValue)> {
    let pb::core::HeaderValue {
        key,
        value,
        raw_value,
    } = message;
    let name = HeaderName::from_bytes(key.as_bytes()).ok();
    if name.is_none() {
        p.refuse_field("key", format!("{key:?} is no header name"));
    }
    if value.contains('%') {
        p.refuse_field(
            "value",
            "must be plain text: operators are not supported here",
        );
    }
    let bytes = if raw_value.is_empty() {
        value.as_bytes()
    } else {
        raw_value
    };
    let value = HeaderValue::from_bytes(bytes).ok();
    if value.is_none() {
        p.refuse_field("value", "is no header value");
    }
    Some((name?, value?))
}

/// Reads a service that is asked by gRPC.
pub(crate) fn grpc_service(
    p: &mut Pass<'_>,
    message: &pb::core::GrpcService,
) -> Option<GrpcService> {
    use pb::core::grpc_service::{EnvoyGrpc, TargetSpecifier};
    let pb::core::GrpcService {
        timeout,
        initial_metadata,
        retry_policy,
        target_specifier,
    } = message;
    unsupported!(p; initial_metadata, retry_policy);
    let timeout = p.positive_duration("timeout", timeout.as_ref());
    let Some(TargetSpecifier::EnvoyGrpc(target)) = target_specifier else {
        p.refuse("needs envoy_grpc");
        return None;
    };
    p.at("envoy_grpc", |p| {
        let EnvoyGrpc {
            cluster_name,
            authority,
            retry_policy,
            max_receive_message_length,
            skip_envoy_headers,
        } = target;
        unsupported!(p; retry_policy);
        ignore!(p, "core.GrpcService.EnvoyGrpc"; max_receive_message_length, skip_envoy_headers);
        let cluster = p.name("cluster_name", cluster_name)?;
        let authority = if authority.is_empty() {
            Arc::clone(&cluster)
        } else {
            Arc::from(authority.as_str())
        };
        Some(GrpcService {
            cluster,
            authority,
            timeout: timeout.unwrap_or(GRPC_TIMEOUT),
        })
    })
}

#[cfg(test)]
mod tests {
    use weft_proto::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz as Pb;

    use crate::pass::{Context, Pass};
    use crate::testing::yaml;

    #[test]
    fn what_weft_does_not_have_is_refused_with_its_path() {
        let uri = "server_uri: {uri: 'http://a', cluster: c, timeout: 1s}";
        for (text, wanted) in [
            ("{}".to_owned(), "filter: needs one of http_service, grpc_service"),
            (
                format!("{{http_service: {{{uri}}}, validate_mutations: true}}"),
                "filter: validate_mutations: is not supported",
            ),
            (format!("{{http_service: {{{uri}, path_prefix: a}}}}"), "http_service.path_prefix: must begin with"),
            (
                format!("{{http_service: {{{uri}, authorization_request: {{headers_to_add: [{{key: a, value: '%REQ(x)%'}}]}}}}}}"),
                "headers_to_add[0].value: must be plain text",
            ),
            (
                format!("{{http_service: {{{uri}, authorization_response: {{allowed_client_headers: {{}}}}}}}}"),
                "allowed_client_headers.patterns: is required",
            ),
            ("{grpc_service: {google_grpc: {target_uri: a, stat_prefix: b}}}".to_owned(), "grpc_service: needs envoy_grpc"),
            ("{grpc_service: {envoy_grpc: {cluster_name: a}, initial_metadata: [{key: a, value: b}]}}".to_owned(), "grpc_service.initial_metadata: is not supported"),
        ] {
            let message: Pb = yaml(&text);
            let loaded = Pass::run(&Context::default(), "filter".to_owned(), |p| {
                super::ext_authz(p, &message)
            });
            let error = loaded.expect_err(&text).to_string();
            assert!(error.contains(wanted), "{error}\nwanted {wanted}");
        }
    }

    #[test]
    fn a_status_that_is_none_is_refused_off_the_wire() {
        let mut message: Pb = yaml(
            "{grpc_service: {envoy_grpc: {cluster_name: a}}, status_on_error: {code: Forbidden}}",
        );
        if let Some(status) = &mut message.status_on_error {
            status.code = 1000;
        }
        let loaded = Pass::run(&Context::default(), "filter".to_owned(), |p| {
            super::ext_authz(p, &message)
        });
        let error = loaded.expect_err("no status").to_string();
        assert!(
            error.contains("status_on_error.code: 1000 is no HTTP status"),
            "{error}"
        );
    }
}
