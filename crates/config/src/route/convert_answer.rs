//! The actions that the proxy answers itself: redirects and direct responses.

use std::sync::Arc;

use super::action::RouteAction;
use super::redirect::{Redirect, RedirectPath};
use crate::data_source::data_source;
use crate::matching::regex_substitution;
use crate::pass::{IsSet as _, Pass};
use crate::pb;
use pb::config::route::v3 as route;

pub(super) fn redirect(p: &mut Pass<'_>, message: &route::RedirectAction) -> Option<Redirect> {
    use route::redirect_action::{
        PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
    };
    let route::RedirectAction {
        host_redirect,
        port_redirect,
        response_code,
        strip_query,
        scheme_rewrite_specifier,
        path_rewrite_specifier,
    } = message;
    let status = match p.enumeration("response_code", *response_code)? {
        RedirectResponseCode::MovedPermanently => 301,
        RedirectResponseCode::Found => 302,
        RedirectResponseCode::SeeOther => 303,
        RedirectResponseCode::TemporaryRedirect => 307,
        RedirectResponseCode::PermanentRedirect => 308,
    };
    let port = match port_redirect {
        0 => None,
        port => Some(p.port("port_redirect", *port)?),
    };
    let scheme = match scheme_rewrite_specifier {
        Some(SchemeRewriteSpecifier::HttpsRedirect(true)) => Some(Arc::from("https")),
        Some(SchemeRewriteSpecifier::SchemeRedirect(scheme)) if !scheme.is_empty() => {
            Some(Arc::from(scheme.as_str()))
        }
        _ => None,
    };
    let path = match path_rewrite_specifier {
        None => RedirectPath::Keep,
        // Envoy treats empty rewrites as none.
        Some(
            PathRewriteSpecifier::PathRedirect(path) | PathRewriteSpecifier::PrefixRewrite(path),
        ) if path.is_empty() => RedirectPath::Keep,
        Some(PathRewriteSpecifier::PathRedirect(path)) => {
            RedirectPath::Replace(Arc::from(path.as_str()))
        }
        Some(PathRewriteSpecifier::PrefixRewrite(prefix)) => {
            RedirectPath::Prefix(Arc::from(prefix.as_str()))
        }
        Some(PathRewriteSpecifier::RegexRewrite(regex)) => {
            RedirectPath::Regex(p.at("regex_rewrite", |p| regex_substitution(p, regex))?)
        }
        Some(PathRewriteSpecifier::PathRewrite(_)) => {
            p.unsupported("path_rewrite", true);
            return None;
        }
    };
    Some(Redirect {
        status,
        scheme,
        host: host_redirect
            .is_set()
            .then(|| Arc::from(host_redirect.as_str())),
        port,
        path,
        strip_query: *strip_query,
    })
}

pub(super) fn direct_response(
    p: &mut Pass<'_>,
    message: &route::DirectResponseAction,
) -> Option<RouteAction> {
    let route::DirectResponseAction {
        status,
        body,
        body_format,
    } = message;
    unsupported!(p; body_format);
    let status = u16::try_from(*status)
        .ok()
        .filter(|status| (200..600).contains(status));
    if status.is_none() {
        p.refuse_field("status", "must be from 200 to 599");
    }
    let body = match body {
        None => None,
        Some(body) => Some(p.at("body", |p| data_source(p, body))?),
    };
    Some(RouteAction::Direct {
        status: status?,
        body,
    })
}
