//! Requests that go up as calls of an RPC protocol, and their answers as JSON.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::Value;
use weft_config::RpcBridge;
use weft_filters::BridgedCall;
use weft_filters::rpc_bridge::error_body;
use weft_rpc::{Failure, Frame, GenericAnswer, GenericFailure, ResultForm};
use weft_upstream::{
    Cluster, FailureKind, Host, PickContext, ResponseBody as UpstreamBody, SendFailure,
};

use super::{Outcome, Routing};
use crate::http::exchange::Exchange;
use crate::rpc::{Asked, RpcStats, ask};

/// The statistics of a bridge in a worker.
fn stats(bridge: &RpcBridge, exchange: &Exchange) -> Arc<RpcStats> {
    let worker = &exchange.manager().worker;
    worker.prefixes.rpc(&worker.registry, &bridge.stat_prefix)
}

impl Routing {
    /// Like an attempt with a request.
    pub(super) async fn attempt_call(&self, exchange: &Exchange, host: &Rc<Host>) -> Outcome {
        let Some(call) = &self.rpc else {
            return Outcome::Failed(SendFailure::of(FailureKind::LocalReset, "there is no call"));
        };
        let stats = stats(&call.bridge, exchange);
        let asked = Asked {
            codec: call.bridge.codec,
            limits: call.bridge.limits,
            stats: &stats,
        };
        let send = Box::pin(async {
            let frame = call.frame.duplicate();
            match ask(&asked, &self.cluster, host, frame).await {
                Ok(frame) => Ok(response(&call.bridge, &frame)),
                Err((failure, text)) => Err(failed(failure, &text)),
            }
        });
        self.within_limits(exchange, host, send).await
    }
}

/// Sends a copy of a call, whose answer nobody waits for.
pub(super) fn mirror(call: &BridgedCall, exchange: &Exchange, cluster: Rc<Cluster>) {
    let stats = stats(&call.bridge, exchange);
    let Some(host) = cluster.pick(&PickContext::default()) else {
        stats.request_mirror_dropped.inc();
        return;
    };
    stats.request_mirrored.inc();
    let (codec, limits) = (call.bridge.codec, call.bridge.limits);
    let (frame, timeout) = (call.frame.duplicate(), call.timeout);
    tokio::task::spawn_local(async move {
        let stats = &stats;
        let asked = Asked {
            codec,
            limits,
            stats,
        };
        let asking = ask(&asked, &cluster, &host, frame);
        // Whatever comes of it.
        let _ = tokio::time::timeout(timeout, asking).await;
    });
}

/// A failure as the router knows them.
fn failed(failure: Failure, text: &str) -> SendFailure {
    let kind = match failure {
        Failure::Overload => FailureKind::Overflow,
        Failure::ConnectFailed => FailureKind::RemoteConnectFailure,
        _ => FailureKind::ConnectionTermination,
    };
    SendFailure::of(kind, text)
}

/// The answer as a response.
fn response(bridge: &RpcBridge, frame: &Frame) -> Response<UpstreamBody> {
    let form = ResultForm {
        omit_class: bridge.omit_class,
        max_bytes: bridge.limits.max_frame,
    };
    let (status, body) = match bridge.generic.answer(frame, form) {
        Ok(answer) => said(answer),
        Err(why) => {
            let body = error_body("bad_answer", &why.to_string(), &[]);
            (StatusCode::BAD_GATEWAY, body)
        }
    };
    let length = HeaderValue::from(body.len());
    let mut response = Response::new(UpstreamBody::made(body));
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response.headers_mut().insert(CONTENT_LENGTH, length);
    response
}

fn said(answer: GenericAnswer) -> (StatusCode, Bytes) {
    let (failure, status, text) = match answer {
        GenericAnswer::Returned(value) => return (StatusCode::OK, value.to_string().into()),
        GenericAnswer::Thrown { class, message } => {
            let class = [("class", Value::String(class))];
            let body = error_body("exception", &message, &class);
            return (StatusCode::INTERNAL_SERVER_ERROR, body);
        }
        GenericAnswer::Failed {
            failure,
            status,
            text,
        } => (failure, status, text),
    };
    let (code, kind) = match failure {
        GenericFailure::BadRequest => (StatusCode::BAD_REQUEST, "bad_request"),
        GenericFailure::NotFound => (StatusCode::NOT_FOUND, "not_found"),
        GenericFailure::Timeout => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
        GenericFailure::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
        GenericFailure::Other => (StatusCode::BAD_GATEWAY, "failed"),
    };
    let status = [("status", Value::from(status))];
    (code, error_body(kind, &text, &status))
}
