//! `MeshConfig.extensionProviders`: services that authorization policies may ask.

use std::time::Duration;

use weft_model::provider::{AuthorizationProvider, CheckProtocol, HttpCheck, RequestBodyLimit};
use weft_proto::Duration as ProtoDuration;
use weft_proto::istio::mesh::v1alpha1::mesh_config as pb;

use super::authorization_policy::shared;
use super::extension_providers::service;
use crate::check::At;

use pb::extension_provider as provider;

const MILLISECOND: Duration = Duration::from_millis(1);

/// What both kinds say.
struct Common {
    service: String,
    port: u32,
    fail_open: bool,
    status_on_error: String,
    timeout: Option<ProtoDuration>,
    body: Option<provider::EnvoyExternalAuthorizationRequestBody>,
    clear_route_cache: bool,
}

fn asked(common: &Common, protocol: CheckProtocol, at: At<'_>) -> Option<AuthorizationProvider> {
    at.field("clearRouteCache").refuse(common.clear_route_cache);
    let place = at.field("includeRequestBodyInCheck");
    let made = AuthorizationProvider {
        fail_open: common.fail_open,
        status_on_error: status(&common.status_on_error, at.field("statusOnError")),
        timeout: at.field("timeout").duration(common.timeout, MILLISECOND),
        body: common.body.map(|message| body(message, place)),
        protocol,
        service: service(&common.service, common.port, at)?,
    };
    Some(made)
}

/// A service that speaks `envoy.service.auth.v3.Authorization`.
pub(super) fn grpc(
    message: provider::EnvoyExternalAuthorizationGrpcProvider,
    at: At<'_>,
) -> Option<AuthorizationProvider> {
    let provider::EnvoyExternalAuthorizationGrpcProvider {
        service,
        port,
        fail_open,
        status_on_error,
        timeout,
        include_request_body_in_check,
        clear_route_cache,
    } = message;
    let common = Common {
        service,
        port,
        fail_open,
        status_on_error,
        timeout,
        body: include_request_body_in_check,
        clear_route_cache,
    };
    asked(&common, CheckProtocol::Grpc, at)
}

/// A service that takes a request for each request.
#[allow(deprecated)] // an older name of a list that is still read
pub(super) fn http(
    message: provider::EnvoyExternalAuthorizationHttpProvider,
    at: At<'_>,
) -> Option<AuthorizationProvider> {
    let provider::EnvoyExternalAuthorizationHttpProvider {
        service,
        port,
        path_prefix,
        fail_open,
        status_on_error,
        include_headers_in_check,
        headers_to_upstream_on_allow,
        headers_to_downstream_on_deny,
        timeout,
        include_request_headers_in_check,
        include_additional_headers_in_check,
        include_request_body_in_check,
        headers_to_downstream_on_allow,
        clear_route_cache,
    } = message;
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        at.field("pathPrefix").error(format_args!(
            "\"{path_prefix}\" is no path: it must start with '/'"
        ));
    }
    let list = |list: Vec<String>, at: At<'_>| {
        for (index, name) in list.iter().enumerate() {
            let at = at.index(index);
            if name.is_empty() || !name.bytes().all(in_header_name) {
                at.error(format_args!("\"{name}\" is no name of a header"));
            } else if name == "*" {
                at.error("\"*\" alone is not allowed: write a name, \"prefix*\" or \"*suffix\"");
            }
        }
        shared(list)
    };
    let old = list(include_headers_in_check, at.field("includeHeadersInCheck"));
    let request_headers = list(
        include_request_headers_in_check,
        at.field("includeRequestHeadersInCheck"),
    );
    let check = HttpCheck {
        path_prefix: path_prefix.into(),
        request_headers: if request_headers.is_empty() {
            old
        } else {
            request_headers
        },
        additional_headers: include_additional_headers_in_check
            .into_iter()
            .map(|(name, value)| {
                let at = at.field("includeAdditionalHeadersInCheck");
                let at = at.key(&name);
                if name.is_empty() || !name.bytes().all(in_header_name) {
                    at.error(format_args!("\"{name}\" is no name of a header"));
                }
                at.header_value(&value);
                (name.into(), value.into())
            })
            .collect(),
        upstream_on_allow: list(
            headers_to_upstream_on_allow,
            at.field("headersToUpstreamOnAllow"),
        ),
        downstream_on_deny: list(
            headers_to_downstream_on_deny,
            at.field("headersToDownstreamOnDeny"),
        ),
        downstream_on_allow: list(
            headers_to_downstream_on_allow,
            at.field("headersToDownstreamOnAllow"),
        ),
    };
    let common = Common {
        service,
        port,
        fail_open,
        status_on_error,
        timeout,
        body: include_request_body_in_check,
        clear_route_cache,
    };
    asked(&common, CheckProtocol::Http(check), at)
}

/// A status of HTTP that Envoy knows.
fn status(text: &str, at: At<'_>) -> Option<u16> {
    if text.is_empty() {
        return None;
    }
    let code = text.parse::<u16>().ok();
    let known = code.filter(|code| {
        let code = i32::from(*code);
        code != 0 && weft_proto::pb::envoy::r#type::v3::StatusCode::try_from(code).is_ok()
    });
    if known.is_none() {
        at.error(format_args!("\"{text}\" is no status of HTTP, such as 503"));
    }
    known
}

fn body(message: provider::EnvoyExternalAuthorizationRequestBody, at: At<'_>) -> RequestBodyLimit {
    let provider::EnvoyExternalAuthorizationRequestBody {
        max_request_bytes,
        allow_partial_message,
        pack_as_bytes,
    } = message;
    if max_request_bytes == 0 {
        at.field("maxRequestBytes")
            .error("is missing: write how many bytes the provider may get");
    }
    RequestBodyLimit {
        max_bytes: max_request_bytes,
        partial: allow_partial_message,
        as_bytes: pack_as_bytes,
    }
}

/// Whether a letter can stand in the name of a header; pseudo-headers have a colon.
fn in_header_name(letter: u8) -> bool {
    weft_proto::format::is_token(letter) || letter == b':'
}
