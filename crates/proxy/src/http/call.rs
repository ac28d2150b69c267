//! Filters' calls to other services, over the clusters of the worker.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use weft_config::name_cache::NameCache;
use weft_filters::call::{Calling, Resolving};
use weft_filters::{Call, CallError, CallResponse, Calls, CounterGroup, NameError};
use weft_upstream::{
    FailureKind, NameFailure, PickContext, RequestBody, ResponseBody, SendOptions,
};

use crate::worker::Worker;

impl Calls for Worker {
    fn call<'a>(&'a self, call: Call<'a>) -> Calling<'a> {
        Box::pin(async move {
            let cluster = self.clusters.get(call.cluster);
            let cluster = cluster.ok_or(CallError::NoCluster)?;
            let answer = async {
                let host = cluster.pick(&PickContext::default());
                let host =
                    host.ok_or_else(|| CallError::Failed("no healthy upstream".to_owned()))?;
                let request = call.request.map(|body| {
                    if body.is_empty() {
                        RequestBody::Empty
                    } else {
                        RequestBody::Full(body)
                    }
                });
                let options = SendOptions::default();
                let sent = cluster.send(&host, request, &options).await;
                let response = sent.map_err(|failure| {
                    let reason = failure.kind.reset_reason();
                    CallError::Failed(format!("{reason} {}", failure.transport))
                })?;
                let (parts, body) = response.into_parts();
                let (body, trailers) = collect(body, call.max_body).await?;
                Ok(CallResponse {
                    response: http::Response::from_parts(parts, body),
                    trailers,
                })
            };
            let answer = tokio::time::timeout(call.timeout, answer).await;
            answer.unwrap_or_else(|_| {
                cluster.stats.upstream_rq_timeout.inc();
                Err(CallError::Timeout)
            })
        })
    }

    fn counters(
        &self,
        cluster: &str,
        prefix: &Arc<str>,
        names: &'static [&'static str],
    ) -> Option<Arc<CounterGroup>> {
        let cluster = self.clusters.get(cluster)?;
        Some(cluster.counters(prefix, names))
    }

    fn charge(&self, cluster: &str, status: StatusCode) {
        if let Some(cluster) = self.clusters.get(cluster) {
            cluster.charge_local_response(None, status.as_u16());
        }
    }

    fn leads_to_named(&self, cluster: &str) -> bool {
        let cluster = self.clusters.get(cluster);
        cluster.is_some_and(|cluster| cluster.leads_to_named())
    }

    fn resolve<'a>(
        &'a self,
        cluster: &'a str,
        cache: &'a Arc<NameCache>,
        host: &'a str,
    ) -> Resolving<'a> {
        Box::pin(async move {
            let cluster = self.clusters.get(cluster);
            let called = cluster.and_then(|cluster| cluster.called(host, None));
            let cache = self.names(cache);
            let Some((called, cache)) = called.zip(cache) else {
                return Err(NameError::NotResolved("no_host".into()));
            };
            cache
                .resolve(&called)
                .await
                .map_err(|failure| match failure {
                    NameFailure::Overflow => NameError::Overflow,
                    NameFailure::PendingOverflow => NameError::PendingOverflow,
                    NameFailure::NotResolved(why) => NameError::NotResolved(why),
                })
        })
    }
}

/// All of a body of at most `limit` bytes, and its trailers.
async fn collect(
    mut body: ResponseBody,
    limit: usize,
) -> Result<(Bytes, Option<HeaderMap>), CallError> {
    let (mut bytes, mut trailers) = (BytesMut::new(), None);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            let kind = FailureKind::of_body(&error);
            CallError::Failed(kind.reset_reason().to_owned())
        })?;
        match frame.into_data() {
            Ok(data) if bytes.len() + data.len() > limit => return Err(CallError::TooLarge),
            Ok(data) => bytes.extend_from_slice(&data),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((bytes.freeze(), trailers))
}
