//! Virtual hosts and how a host header finds one.

use std::sync::Arc;

use ahash::AHashMap;

use super::index::PathIndex;
use super::retry::RetryPolicy;
use super::{RequestHead, Route, path_only};
use crate::header_ops::HeaderOps;
use crate::http_filter::FilterOverrides;
use crate::rate_limit::RateLimits;

/// Who must use TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequireTls {
    /// Nobody.
    None,
    /// Requests that are not internal (`x-envoy-internal`).
    External,
    /// All.
    All,
}

/// A virtual host.
#[derive(Debug)]
pub struct VirtualHost {
    /// Its name.
    pub name: Arc<str>,
    /// Domains as configured.
    pub domains: Vec<Arc<str>>,
    pub(super) routes: Vec<Arc<Route>>,
    pub(super) index: PathIndex,
    /// Who must use TLS.
    pub require_tls: RequireTls,
    /// Headers of requests.
    pub request_headers: HeaderOps,
    /// Headers of responses.
    pub response_headers: HeaderOps,
    /// Filter overrides.
    pub overrides: FilterOverrides,
    /// What is limited of its requests.
    pub rate_limits: RateLimits,
    /// Retries of routes that say nothing about retries.
    pub retry: Option<Arc<RetryPolicy>>,
    /// Send `x-envoy-attempt-count` upstream.
    pub include_request_attempt_count: bool,
    /// Send `x-envoy-attempt-count` downstream.
    pub include_attempt_count_in_response: bool,
}

impl VirtualHost {
    /// Routes in their order.
    pub fn routes(&self) -> &[Arc<Route>] {
        &self.routes
    }

    /// The first route that matches.
    pub fn find(
        &self,
        head: &RequestHead<'_>,
        random: u64,
        ignore_path_parameters: bool,
    ) -> Option<&Arc<Route>> {
        let mut path = path_only(head.path);
        if ignore_path_parameters {
            path = path.split_once(';').map_or(path, |(before, _)| before);
        }
        self.index.first(&self.routes, path, |route| {
            route.matcher.conditions_match(head, random)
        })
    }

    pub(super) fn wants_tls(&self, head: &RequestHead<'_>) -> bool {
        match self.require_tls {
            RequireTls::None => false,
            RequireTls::All => true,
            RequireTls::External => head
                .headers
                .get("x-envoy-internal")
                .is_none_or(|value| value.as_bytes() != b"true"),
        }
    }
}

/// Domains → virtual hosts.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    exact: AHashMap<Box<str>, usize>,
    /// By length of the part after `*`, longest first.
    suffixes: Vec<(usize, AHashMap<Box<str>, usize>)>,
    /// By length of the part before `*`, longest first.
    prefixes: Vec<(usize, AHashMap<Box<str>, usize>)>,
    default: Option<usize>,
}

impl Hosts {
    /// Adds a domain; `false` if it is there already.
    pub(super) fn add(&mut self, domain: &str, vhost: usize) -> bool {
        let domain = domain.to_ascii_lowercase();
        if domain == "*" {
            return self.default.replace(vhost).is_none();
        }
        if let Some(suffix) = domain.strip_prefix('*') {
            return by_length(&mut self.suffixes, suffix, vhost);
        }
        if let Some(prefix) = domain.strip_suffix('*') {
            return by_length(&mut self.prefixes, prefix, vhost);
        }
        self.exact.insert(domain.into(), vhost).is_none()
    }

    pub(super) fn find(&self, authority: &str, ignore_port: bool) -> Option<usize> {
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.default;
        }
        if authority.is_empty() {
            return None;
        }
        let host = if ignore_port {
            without_port(authority)
        } else {
            authority
        };
        let lower;
        let host = if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
            lower = host.to_ascii_lowercase();
            lower.as_str()
        } else {
            host
        };
        if let Some(found) = self.exact.get(host) {
            return Some(*found);
        }
        let suffix = self.suffixes.iter().find_map(|(len, names)| {
            // At least one byte stands for the star: `*.foo.com` is not `.foo.com`.
            let start = host.len().checked_sub(*len).filter(|start| *start > 0)?;
            names.get(host.get(start..)?)
        });
        let prefix = || {
            self.prefixes.iter().find_map(|(len, names)| {
                (*len < host.len()).then_some(())?;
                names.get(host.get(..*len)?)
            })
        };
        suffix.or_else(prefix).copied().or(self.default)
    }
}

fn by_length(
    table: &mut Vec<(usize, AHashMap<Box<str>, usize>)>,
    text: &str,
    vhost: usize,
) -> bool {
    let place = match table.binary_search_by(|(len, _)| text.len().cmp(len)) {
        Ok(place) => place,
        Err(place) => {
            table.insert(place, (text.len(), AHashMap::new()));
            place
        }
    };
    match table.get_mut(place) {
        Some((_, names)) => names.insert(text.into(), vhost).is_none(),
        None => false,
    }
}

/// A host header without its port; the brackets of IPv6 stay.
pub(crate) fn without_port(host: &str) -> &str {
    match host.rfind(':') {
        Some(colon) if host.rfind(']').is_none_or(|bracket| bracket < colon) => {
            host.get(..colon).unwrap_or(host)
        }
        _ => host,
    }
}
