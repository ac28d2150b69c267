//! `MeshConfig.extensionProviders`: services that authorization policies may ask. All other kinds
//! of providers are refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use weft_model::{
    AuthorizationProvider, CheckProtocol, Hostname, HttpCheck, Namespace, RequestBodyLimit,
    name::is_dns_label,
};
use weft_proto::Duration as ProtoDuration;
use weft_proto::istio::mesh::v1alpha1::mesh_config as pb;

use super::authorization_policy::shared;
use crate::check::At;

use pb::extension_provider as provider;

/// By name.
pub(super) fn authorization(
    list: Vec<pb::ExtensionProvider>,
    at: At<'_>,
) -> BTreeMap<Arc<str>, AuthorizationProvider> {
    let mut found = BTreeMap::new();
    for (index, message) in list.into_iter().enumerate() {
        let at = at.index(index);
        let pb::ExtensionProvider { name, provider } = message;
        // The name becomes part of the names of policies, which filters compare by prefix.
        if !is_dns_label(&name) {
            at.field("name").error(format_args!(
                "\"{name}\" is no name of a provider: use lower-case letters, digits and '-'"
            ));
        }
        let made = match provider {
            Some(provider::Provider::EnvoyExtAuthzHttp(message)) => {
                http(message, at.field("envoyExtAuthzHttp"))
            }
            Some(provider::Provider::EnvoyExtAuthzGrpc(message)) => {
                grpc(message, at.field("envoyExtAuthzGrpc"))
            }
            Some(_) => {
                at.error("this kind of provider is not supported yet: envoyExtAuthzHttp and envoyExtAuthzGrpc are (see docs/compatibility.md)");
                None
            }
            None => {
                at.error("says no kind of provider: write envoyExtAuthzHttp or envoyExtAuthzGrpc");
                None
            }
        };
        let Some(made) = made else { continue };
        if found.insert(name.as_str().into(), made).is_some() {
            at.field("name")
                .error(format_args!("\"{name}\" is defined twice: rename one"));
        }
    }
    found
}

fn grpc(
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
    at.field("clearRouteCache").refuse(clear_route_cache);
    let (service, namespace) = service_of(&service, at.field("service"))?;
    Some(AuthorizationProvider {
        service,
        namespace,
        port: at.field("port").port(port)?,
        fail_open,
        status_on_error: status(&status_on_error, at.field("statusOnError")),
        timeout: timeout_of(timeout, at.field("timeout")),
        body: body(
            include_request_body_in_check,
            at.field("includeRequestBodyInCheck"),
        ),
        protocol: CheckProtocol::Grpc,
    })
}

#[allow(deprecated)] // an older name of a list that is still read
fn http(
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
    at.field("clearRouteCache").refuse(clear_route_cache);
    if !path_prefix.is_empty() && !path_prefix.starts_with('/') {
        at.field("pathPrefix").error(format_args!(
            "\"{path_prefix}\" is no path: it must start with '/'"
        ));
    }
    let list = |list: Vec<String>, at: At<'_>| {
        for (index, name) in list.iter().enumerate() {
            let at = at.index(index);
            let fits = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:".contains(&b);
            if name.is_empty() || !name.bytes().all(fits) {
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
            .map(|(name, value)| (name.into(), value.into()))
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
    let (service, namespace) = service_of(&service, at.field("service"))?;
    Some(AuthorizationProvider {
        service,
        namespace,
        port: at.field("port").port(port)?,
        fail_open,
        status_on_error: status(&status_on_error, at.field("statusOnError")),
        timeout: timeout_of(timeout, at.field("timeout")),
        body: body(
            include_request_body_in_check,
            at.field("includeRequestBodyInCheck"),
        ),
        protocol: CheckProtocol::Http(check),
    })
}

/// `host`, or `namespace/host`.
fn service_of(text: &str, at: At<'_>) -> Option<(Arc<str>, Option<Namespace>)> {
    let (namespace, host) = match text.split_once('/') {
        Some((namespace, host)) => (Some(at.ok(Namespace::parse(namespace))?), host),
        None => (None, text),
    };
    let host = at.ok(Hostname::parse(host))?;
    Some((host.as_str().into(), namespace))
}

fn timeout_of(timeout: Option<ProtoDuration>, at: At<'_>) -> Option<Duration> {
    at.duration(timeout, Duration::from_millis(1))
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

fn body(
    message: Option<provider::EnvoyExternalAuthorizationRequestBody>,
    at: At<'_>,
) -> Option<RequestBodyLimit> {
    let provider::EnvoyExternalAuthorizationRequestBody {
        max_request_bytes,
        allow_partial_message,
        pack_as_bytes,
    } = message?;
    if max_request_bytes == 0 {
        at.field("maxRequestBytes")
            .error("is missing: write how many bytes the provider may get");
    }
    Some(RequestBodyLimit {
        max_bytes: max_request_bytes,
        partial: allow_partial_message,
        as_bytes: pack_as_bytes,
    })
}
