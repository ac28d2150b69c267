//! `VirtualService` → [`VirtualService`]. Rules of validity follow Istio's
//! `ValidateVirtualService`; parts of a route have files of their own.

use std::time::Duration;

use weft_model::{
    DirectResponse, GatewayRef, Hostname, HttpAction, HttpRoute, Redirect, RedirectPath,
    RedirectPort, RegexRewrite, ResponseBody, Rewrite, VirtualService, routing_claim,
};
use weft_proto::regex;

use super::message as pb;
use super::virtual_service_cors::cors_policy_of;
use super::virtual_service_destination::{
    delegate_of, destinations, hostname, mirror_of, mirrors_of,
};
use super::virtual_service_fault::{MILLISECOND, fault_of, retries_of, status_of};
use super::virtual_service_headers::{header_operations, is_authority};
use super::virtual_service_match::{gateway_ref, http_match};
use super::virtual_service_stream::{tcp_route, tls_route};
use crate::check::{At, Context, optional};

pub(crate) fn convert(
    message: pb::VirtualService,
    context: &Context<'_>,
    at: At<'_>,
) -> VirtualService {
    let pb::VirtualService {
        hosts,
        gateways,
        http,
        tls,
        tcp,
        export_to,
    } = message;
    let delegated = hosts.is_empty();
    if delegated && !gateways.is_empty() {
        at.field("gateways")
            .error("a rule without hosts has the gateways of those that delegate to it: remove this, or name hosts");
    }
    for (field, set) in [("tls", !tls.is_empty()), ("tcp", !tcp.is_empty())] {
        if delegated && set {
            at.field(field)
                .error("only http routes can be delegated: remove this, or name hosts");
        }
    }
    if http.is_empty() && tls.is_empty() && tcp.is_empty() {
        at.field("http")
            .error("there is no route: write at least one");
    }
    let gateways = gateways_of(&gateways, context, at.field("gateways"));
    let in_mesh = gateways.contains(&GatewayRef::Mesh);
    let hosts = hosts_of(&hosts, in_mesh, context, at.field("hosts"));
    if in_mesh {
        refuse_claims(&http, at.field("http"));
    }
    let (list, mut routes) = (at.field("http"), Vec::with_capacity(http.len()));
    for (index, route) in http.into_iter().enumerate() {
        routes.extend(http_route(route, delegated, context, list.index(index)));
    }
    let (list, mut streams) = (at.field("tls"), Vec::with_capacity(tls.len()));
    for (index, route) in tls.into_iter().enumerate() {
        streams.extend(tls_route(route, &hosts, context, list.index(index)));
    }
    let list = at.field("tcp");
    let tcp = tcp.into_iter().enumerate();
    VirtualService {
        meta: context.meta(),
        hosts,
        gateways,
        export_to: at.field("exportTo").export_to(
            &export_to,
            context.namespace(),
            context.settings.default_virtual_service_export_to.as_ref(),
        ),
        http: routes,
        tls: streams,
        tcp: tcp
            .filter_map(|(index, route)| tcp_route(route, context, list.index(index)))
            .collect(),
        call_limit: None,
    }
}

fn gateways_of(names: &[String], context: &Context<'_>, at: At<'_>) -> Vec<GatewayRef> {
    if names.is_empty() {
        return vec![GatewayRef::Mesh];
    }
    let named = names.iter().enumerate();
    named
        .filter_map(|(index, name)| gateway_ref(name, context, at.index(index)))
        .collect()
}

fn hosts_of(hosts: &[String], in_mesh: bool, context: &Context<'_>, at: At<'_>) -> Vec<Hostname> {
    let mut found: Vec<Hostname> = Vec::with_capacity(hosts.len());
    for (index, host) in hosts.iter().enumerate() {
        let at = at.index(index);
        let Some(name) = at.ok(hostname(host, context)) else {
            continue;
        };
        if in_mesh && name.as_str() == "*" {
            at.error("the host \"*\" would take all traffic of the mesh: bind the rule to a gateway, or name the hosts");
        }
        // Istio refuses overlap with wildcards as well; only the same name twice is ambiguous.
        if found.contains(&name) {
            at.error(format_args!("host \"{name}\" is named twice: remove one"));
        }
        found.push(name);
    }
    found
}

/// A route; `delegated`: of a rule that others delegate to.
fn http_route(
    message: pb::HttpRoute,
    delegated: bool,
    context: &Context<'_>,
    at: At<'_>,
) -> Option<HttpRoute> {
    #[allow(deprecated)]
    let pb::HttpRoute {
        name,
        r#match,
        route,
        redirect,
        direct_response,
        delegate,
        rewrite,
        timeout,
        retries,
        fault,
        mirror,
        mirrors,
        mirror_percent,
        mirror_percentage,
        cors_policy,
        headers,
    } = message;
    if delegated && delegate.is_some() {
        at.field("delegate")
            .error("a rule without hosts is a delegate and cannot delegate further: name hosts, or write the routes here");
        return None;
    }
    let conditions = at.field("match");
    let matches = r#match
        .into_iter()
        .enumerate()
        .map(|(index, item)| http_match(item, context, conditions.index(index)))
        .collect();
    if redirect.is_some() {
        let conflicts = [("fault", fault.is_some()), ("rewrite", rewrite.is_some())];
        for (field, _) in conflicts.iter().filter(|(_, set)| *set) {
            at.field(field)
                .error("does nothing beside a redirect: remove one of them");
        }
    }
    if mirror.is_some() && !mirrors.is_empty() {
        at.field("mirror")
            .error("cannot stand beside mirrors: keep one of them");
    }
    let (mirror, mirror_percent) = mirror_of(
        mirror,
        mirror_percent.as_ref(),
        mirror_percentage.as_ref(),
        context,
        &at,
    );
    let mirrors = mirrors_of(mirrors, context, at.field("mirrors"));
    let headers = header_operations(headers, at.field("headers"));
    let rewrite = rewrite.map(|rewrite| rewrite_of(rewrite, at.field("rewrite")));
    if rewrite
        .as_ref()
        .is_some_and(|rewrite| rewrite.authority.is_some())
        && headers
            .request
            .set
            .keys()
            .chain(headers.request.add.keys())
            .any(|key| is_authority(key))
    {
        at.field("rewrite")
            .field("authority")
            .error("the authority is also set by headers.request: set it in one place");
    }
    let fault = fault.and_then(|fault| fault_of(fault, at.field("fault")));
    let retries = retries.map(|retries| retries_of(retries, at.field("retries")));
    let timeout = at.field("timeout").duration(timeout, Duration::ZERO);
    if timeout.is_some_and(|timeout| !timeout.is_zero() && timeout < MILLISECOND) {
        at.field("timeout")
            .error("the duration is too short: use at least 1ms, or 0s for no limit");
    }
    let action = action_of(route, redirect, direct_response, delegate, context, &at)?;
    Some(HttpRoute {
        name: name.into(),
        matches,
        action,
        rewrite,
        timeout,
        retries,
        fault,
        mirror,
        mirror_percent,
        mirrors,
        headers,
        cors: cors_policy.map(|policy| cors_policy_of(policy, at.field("corsPolicy"))),
    })
}

/// Tokens are checked before routes are chosen at gateways only; the same in Istio.
fn refuse_claims(routes: &[pb::HttpRoute], at: At<'_>) {
    for (index, route) in routes.iter().enumerate() {
        let at = at.index(index);
        let list = at.field("match");
        for (place, condition) in route.r#match.iter().enumerate() {
            let at = list.index(place);
            for (field, map) in [
                ("headers", &condition.headers),
                ("withoutHeaders", &condition.without_headers),
            ] {
                let at = at.field(field);
                for name in map.keys().filter(|name| routing_claim(name).is_some()) {
                    at.key(name).error(
                        "claims are known to routes at gateways only: bind the rule to gateways and not to mesh",
                    );
                }
            }
        }
    }
}

const ENDS: &str = "route, redirect, directResponse, delegate";

fn action_of(
    route: Vec<pb::HttpRouteDestination>,
    redirect: Option<pb::HttpRedirect>,
    direct_response: Option<pb::HttpDirectResponse>,
    delegate: Option<pb::Delegate>,
    context: &Context<'_>,
    at: &At<'_>,
) -> Option<HttpAction> {
    match (route.is_empty(), redirect, direct_response, delegate) {
        (false, None, None, None) => {
            destinations(route, context, at.field("route")).map(HttpAction::Forward)
        }
        (true, Some(redirect), None, None) => Some(HttpAction::Redirect(redirect_of(
            redirect,
            at.field("redirect"),
        ))),
        (true, None, Some(response), None) => {
            let at = at.field("directResponse");
            direct_response_of(response, at).map(HttpAction::Respond)
        }
        (true, None, None, Some(delegate)) => {
            delegate_of(delegate, context, at.field("delegate")).map(HttpAction::Delegate)
        }
        (true, None, None, None) => {
            at.error(format_args!("the route leads nowhere: write one of {ENDS}"));
            None
        }
        _ => {
            at.error(format_args!(
                "the route leads to several ends: keep one of {ENDS}"
            ));
            None
        }
    }
}

fn rewrite_of(message: pb::HttpRewrite, at: At<'_>) -> Rewrite {
    let pb::HttpRewrite {
        uri,
        authority,
        uri_regex_rewrite,
    } = message;
    if uri.is_empty() && authority.is_empty() && uri_regex_rewrite.is_none() {
        at.error("changes nothing: write uri, uriRegexRewrite or authority");
    }
    if !uri.is_empty() && uri_regex_rewrite.is_some() {
        at.field("uriRegexRewrite")
            .error("cannot stand beside uri: keep one of them");
    }
    let uri_regex = uri_regex_rewrite.map(|pb::RegexRewrite { r#match, rewrite }| {
        let at = at.field("uriRegexRewrite");
        at.field("match").regex(&r#match);
        if rewrite.is_empty() {
            at.field("rewrite")
                .error("is empty: write what takes the place of the match");
        }
        // An expression that is none has been told already.
        if let Ok((pattern, _)) = regex::compile(&r#match) {
            at.field("rewrite")
                .ok(regex::pieces(&rewrite, pattern.captures_len()));
        }
        RegexRewrite {
            pattern: r#match.into(),
            substitution: rewrite.into(),
        }
    });
    Rewrite {
        uri: optional(uri),
        uri_regex,
        authority: optional(authority),
    }
}

fn redirect_of(message: pb::HttpRedirect, at: At<'_>) -> Redirect {
    let pb::HttpRedirect {
        uri,
        authority,
        scheme,
        redirect_code,
        prefix_rewrite,
        redirect_port,
    } = message;
    let texts = [&uri, &authority, &scheme, &prefix_rewrite];
    let has_end = redirect_port.is_some() || texts.iter().any(|text| !text.is_empty());
    if !has_end {
        at.error("changes nothing: write uri, authority, scheme or port");
    }
    if !uri.is_empty() && !prefix_rewrite.is_empty() {
        at.field("prefixRewrite")
            .error("cannot stand beside uri: keep one of them");
    }
    if !matches!(scheme.as_str(), "" | "http" | "https") {
        at.field("scheme").error(format_args!(
            "\"{scheme}\" is no scheme here: use http or https"
        ));
    }
    let code = match redirect_code {
        0 => 301,
        301 | 302 | 303 | 307 | 308 => redirect_code as u16,
        other => {
            at.field("redirectCode").error(format_args!(
                "{other} is no redirect: use 301, 302, 303, 307 or 308"
            ));
            301
        }
    };
    use pb::http_redirect::{RedirectPort as Port, RedirectPortSelection as Selection};
    let port = match redirect_port {
        None => RedirectPort::Unchanged,
        Some(Port::Port(number)) => at
            .field("port")
            .port(number)
            .map_or(RedirectPort::Unchanged, RedirectPort::Number),
        Some(Port::DerivePort(value)) => match Selection::try_from(value) {
            Ok(Selection::FromProtocolDefault) => RedirectPort::ProtocolDefault,
            Ok(Selection::FromRequestPort) => RedirectPort::Request,
            Err(error) => {
                at.field("derivePort").error(error);
                RedirectPort::Unchanged
            }
        },
    };
    let path = match (uri.is_empty(), prefix_rewrite.is_empty()) {
        (false, _) => Some(RedirectPath::Full(uri.into())),
        (true, false) => Some(RedirectPath::ReplacePrefix(prefix_rewrite.into())),
        (true, true) => None,
    };
    Redirect {
        path,
        authority: optional(authority),
        scheme: optional(scheme),
        port,
        code,
    }
}

fn direct_response_of(message: pb::HttpDirectResponse, at: At<'_>) -> Option<DirectResponse> {
    let pb::HttpDirectResponse { status, body } = message;
    let body = match body.and_then(|pb::HttpBody { specifier }| specifier) {
        None => ResponseBody::Empty,
        Some(pb::http_body::Specifier::String(text)) => ResponseBody::Text(text.into()),
        Some(pb::http_body::Specifier::Bytes(bytes)) => ResponseBody::Bytes(bytes.into()),
    };
    let length = match &body {
        ResponseBody::Empty => 0,
        ResponseBody::Text(text) => text.len(),
        ResponseBody::Bytes(bytes) => bytes.len(),
    };
    if length > 1 << 20 {
        at.field("body")
            .error("the body is larger than 1 MiB: serve it from a service");
    }
    let status = status_of(i64::from(status), at.field("status"))?;
    Some(DirectResponse { status, body })
}
