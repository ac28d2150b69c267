//! `HttpUri`: a service that filters call. Calls nobody.

use std::sync::Arc;
use std::time::Duration;

use http::Uri;

use crate::pass::Pass;
use crate::pb;

/// A service behind a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpUri {
    /// Cluster that is asked.
    pub cluster: Arc<str>,
    /// `host` of requests.
    pub host: Arc<str>,
    /// Path and query.
    pub path: Arc<str>,
    /// Bound of a request.
    pub timeout: Duration,
}

pub(crate) fn http_uri(p: &mut Pass<'_>, message: &pb::core::HttpUri) -> Option<HttpUri> {
    use pb::core::http_uri::HttpUpstreamType;
    let pb::core::HttpUri {
        uri,
        timeout,
        http_upstream_type,
    } = message;
    let cluster = match http_upstream_type {
        Some(HttpUpstreamType::Cluster(cluster)) => p.name("cluster", cluster),
        None => {
            p.refuse_field("cluster", "is required");
            None
        }
    };
    if timeout.is_none() {
        p.refuse_field("timeout", "is required");
    }
    let timeout = p.duration("timeout", timeout.as_ref());
    // Without a scheme the text up to the first slash is the host.
    let rest = uri.split_once("://").map_or(uri.as_str(), |(_, rest)| rest);
    let (host, path) = match rest.split_once('/') {
        Some((host, path)) => (host, format!("/{path}")),
        None => (rest, "/".to_owned()),
    };
    if host.is_empty() || host.parse::<Uri>().is_err() || path.parse::<Uri>().is_err() {
        p.refuse_field("uri", format!("{uri:?} is no URI with a host"));
        return None;
    }
    Some(HttpUri {
        cluster: cluster?,
        host: Arc::from(host),
        path: Arc::from(path),
        timeout: timeout?,
    })
}
