//! Redirects: how Envoy builds the `Location`.

use std::borrow::Cow;
use std::sync::Arc;

use super::matcher::RouteMatch;
use super::{RequestHead, path_only};
use crate::matching::RegexSubstitution;

/// What happens to the path.
#[derive(Debug, Clone, PartialEq)]
pub enum RedirectPath {
    /// Stays.
    Keep,
    /// This one; its own query, if any, replaces the request's.
    Replace(Arc<str>),
    /// The matched part becomes this.
    Prefix(Arc<str>),
    /// Matches of an expression are replaced.
    Regex(RegexSubstitution),
}

/// A redirect.
#[derive(Debug, Clone, PartialEq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    /// New scheme, if any.
    pub scheme: Option<Arc<str>>,
    /// New host, if any.
    pub host: Option<Arc<str>>,
    /// New port, if any.
    pub port: Option<u16>,
    /// New path.
    pub path: RedirectPath,
    /// Leave out the query.
    pub strip_query: bool,
}

impl Redirect {
    /// The redirect of virtual hosts that require TLS.
    pub(super) fn to_tls() -> Self {
        Self {
            status: 301,
            scheme: Some(Arc::from("https")),
            host: None,
            port: None,
            path: RedirectPath::Keep,
            strip_query: false,
        }
    }

    /// The `Location`. `matcher` is that of the route, for prefix rewrites.
    pub fn location(&self, head: &RequestHead<'_>, matcher: Option<&RouteMatch>) -> String {
        let scheme = self.scheme.as_deref().unwrap_or(head.scheme);
        let host = match &self.host {
            Some(host) => host,
            None => self.request_host(head, scheme),
        };
        let (path, own_query) = self.path(head, matcher);
        let path = if self.strip_query && !own_query {
            path.split_once('?').map_or(&*path, |(before, _)| before)
        } else {
            &path
        };
        match self.port {
            Some(port) => format!("{scheme}://{host}:{port}{path}"),
            None => format!("{scheme}://{host}{path}"),
        }
    }

    /// The request's host; without its port if a port is set, or if the scheme changes and the port
    /// was the old scheme's default.
    fn request_host<'a>(&self, head: &RequestHead<'a>, scheme: &str) -> &'a str {
        let host = head.authority;
        let colon = if host.starts_with('[') {
            host.rfind("]:").map(|bracket| bracket + 1)
        } else {
            host.rfind(':')
        };
        let Some((name, port)) = colon.and_then(|colon| host.split_at_checked(colon)) else {
            return host;
        };
        let was = head.forwarded_proto;
        let was_default = (was == "https" && port == ":443") || (was == "http" && port == ":80");
        if self.port.is_some() || (scheme != was && was_default) {
            name
        } else {
            host
        }
    }

    /// The new path, and whether its query is its own.
    fn path<'a>(
        &'a self,
        head: &RequestHead<'a>,
        matcher: Option<&RouteMatch>,
    ) -> (Cow<'a, str>, bool) {
        match &self.path {
            RedirectPath::Keep => (Cow::Borrowed(head.path), false),
            RedirectPath::Replace(path) if path.contains('?') => (Cow::Borrowed(path), true),
            RedirectPath::Replace(path) => {
                match head.path.find('?').and_then(|at| head.path.get(at..)) {
                    Some(query) => (Cow::Owned(format!("{path}{query}")), false),
                    None => (Cow::Borrowed(path), false),
                }
            }
            RedirectPath::Prefix(prefix) => {
                let matched = matcher.map_or("", |matcher| matcher.matched_part(head.path));
                let rest = head.path.get(matched.len()..).unwrap_or_default();
                (Cow::Owned(format!("{prefix}{rest}")), false)
            }
            RedirectPath::Regex(substitution) => {
                let new = replace_in_path(substitution, head.path);
                // A substitution that leaves no path is no rewrite, as in Envoy.
                if path_only(&new).is_empty() {
                    return (Cow::Borrowed(head.path), false);
                }
                (Cow::Owned(new), false)
            }
        }
    }
}

/// Replaces in the path and leaves query and fragment alone.
pub(super) fn replace_in_path(substitution: &RegexSubstitution, path: &str) -> String {
    let only = path_only(path);
    let mut new = substitution.replace_all(only);
    new.push_str(path.get(only.len()..).unwrap_or_default());
    new
}
