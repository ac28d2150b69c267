//! Calls of gRPC methods with one message each way.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST, HeaderMap, HeaderName, HeaderValue, TE};
use http::{Method, Request, StatusCode, Uri};
use prost::Message;
use weft_config::ext_authz::GrpcService;

use crate::{Call, CallResponse, Calls};

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// A longer answer of the service counts as none.
const MAX_ANSWER: usize = 1 << 20;

/// Asks a service.
///
/// # Errors
/// Why there is no answer, for a log.
pub async fn ask<M: Message + Default>(
    calls: &dyn Calls,
    service: &GrpcService,
    method: &'static str,
    message: &impl Message,
) -> Result<M, String> {
    let request = request(service, method, message);
    let request = request.ok_or("the service's authority is none")?;
    let call = Call {
        cluster: &service.cluster,
        request,
        timeout: service.timeout,
        max_body: MAX_ANSWER,
    };
    let answer = calls.call(call).await;
    read(&answer.map_err(|error| error.to_string())?)
}

fn request(
    service: &GrpcService,
    method: &'static str,
    message: &impl Message,
) -> Option<Request<Bytes>> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(message.encoded_len()).ok()?);
    message.encode(&mut body).ok()?;
    let mut request = Request::new(body.freeze());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(method);
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&service.authority).ok()?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let timeout = format!("{}m", service.timeout.as_millis().min(99_999_999));
    headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(&timeout).ok()?);
    Some(request)
}

/// The one message of an answer without an error.
fn read<M: Message + Default>(answer: &CallResponse) -> Result<M, String> {
    let status = answer.response.status();
    if status != StatusCode::OK {
        return Err(format!("the answer is {status}"));
    }
    let in_head = answer.response.headers().get("grpc-status");
    let trailers: Option<&HeaderMap> = answer.trailers.as_ref();
    let code = in_head.or_else(|| trailers?.get("grpc-status"));
    if code.map(HeaderValue::as_bytes) != Some(b"0") {
        return Err(format!("the gRPC status is {code:?}"));
    }
    let frame = answer.response.body();
    let (Some([0, a, b, c, d]), Some(rest)) = (frame.first_chunk::<5>(), frame.get(5..)) else {
        return Err("the answer has no message".to_owned());
    };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    let bytes = rest.get(..length).ok_or("the message is cut off")?;
    M::decode(bytes).map_err(|error| error.to_string())
}
