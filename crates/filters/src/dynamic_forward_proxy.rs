//! `envoy.filters.http.dynamic_forward_proxy`: waits until the host that a request names has been looked
//! up, if its cluster leads there.
//!
//! Source: Envoy, "Dynamic forward proxy".

use std::sync::Arc;

use http::StatusCode;
use http::header::{HOST, HeaderValue};
use weft_config::http_filter::HostOverride;
use weft_config::name_cache::NameCache;

use crate::call::NameError;
use crate::{LocalReply, RequestContext, Verdict};

/// The filter in one worker.
#[derive(Debug)]
pub(crate) struct ForwardFilter(Arc<NameCache>);

impl ForwardFilter {
    pub(crate) fn new(cache: &Arc<NameCache>) -> Self {
        Self(Arc::clone(cache))
    }

    pub(crate) async fn request(
        &self,
        own: Option<&HostOverride>,
        context: &mut RequestContext<'_>,
    ) -> Verdict {
        let Some(cluster) = context.cluster.filter(|_| context.forwarded) else {
            return Verdict::Continue;
        };
        if !context.calls.leads_to_named(cluster) {
            return Verdict::Continue;
        }
        let other = match own {
            Some(HostOverride::Literal(host)) if !host.is_empty() => {
                HeaderValue::from_str(host).ok()
            }
            Some(HostOverride::Header(name)) => context.head.headers.get(name).cloned(),
            _ => None,
        };
        if let Some(other) = other {
            context.head.headers.insert(HOST, other);
        }
        let host = context.head.headers.get(HOST);
        let host = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
        match context.calls.resolve(cluster, &self.0, host).await {
            Ok(()) => Verdict::Continue,
            Err(error) => Verdict::Reply(reply(&error)),
        }
    }
}

fn reply(error: &NameError) -> LocalReply {
    let (body, details) = match error {
        NameError::Overflow => ("DNS cache overflow", "dns_cache_overflow".to_owned()),
        NameError::PendingOverflow => (
            "Dynamic forward proxy pending request overflow",
            "dynamic_forward_proxy_pending_request_overflow".to_owned(),
        ),
        NameError::NotResolved(why) => (
            "DNS resolution failure",
            format!("dns_resolution_failure{{{why}}}"),
        ),
    };
    let reply = LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details).body(body);
    match error {
        NameError::NotResolved(_) => reply.flag("DF"),
        NameError::Overflow | NameError::PendingOverflow => reply,
    }
}
