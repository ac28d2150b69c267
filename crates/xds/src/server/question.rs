//! Streams that only ask: the first request names a type that the control plane answers by itself,
//! once for each request and without ACKs, as Istio's debug types (`istio.io/debug/…`) are. Such a
//! client gets no view and is no proxy.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Extensions, Status};

use super::grpc::{Counters, Options, ViewSource};
use super::requests::Requests;
use super::wire::Message;
use crate::pb;
use crate::protocol::Protocol;

/// Longest name of a page with its query.
const LONGEST_NAME: usize = 4096;
/// How long a stream may be open without a question.
const IDLE: Duration = Duration::from_mins(1);

/// What a client asks.
#[derive(Clone, Debug)]
pub struct Question {
    /// As on the wire.
    pub type_url: String,
    /// `resource_names` of the request.
    pub names: Vec<String>,
    /// What interceptors left of the call, such as who asks.
    pub extensions: Extensions,
}

/// Who asks, and the two directions of the stream.
pub(super) struct Asker<'a, P: Protocol> {
    pub(super) extensions: Extensions,
    pub(super) inbound: Requests<P::Request>,
    pub(super) answers: &'a mpsc::Sender<Result<Message, Status>>,
}

/// Answers question after question. The answer is given to `answers` before the next is read, so
/// that one at a time is worked on.
pub(super) async fn serve<P: Protocol, S: ViewSource>(
    source: &S,
    counters: &Counters,
    options: &Options,
    first: P::Request,
    asker: Asker<'_, P>,
) -> Result<(), Status> {
    let Asker {
        extensions,
        mut inbound,
        answers,
    } = asker;
    let mut request = P::read_request(first);
    let mut asked = 0u64;
    let mut last = String::new();
    loop {
        let is_ack = asked > 0 && request.nonce == last;
        if !is_ack {
            if request.names.len() > options.limits.names {
                return Err(Status::invalid_argument(format!(
                    "resource_names: more than {}",
                    options.limits.names
                )));
            }
            if request.names.iter().any(|name| name.len() > LONGEST_NAME) {
                return Err(Status::invalid_argument(format!(
                    "resource_names: a name is longer than {LONGEST_NAME} bytes"
                )));
            }
            asked += 1;
            last = format!("q-{asked}");
            let question = Question {
                type_url: request.type_url.clone(),
                names: request.names,
                extensions: extensions.clone(),
            };
            let resources = source.answer(question).await?;
            let identifier = options.identifier.clone();
            let response = P::write_answer(&request.type_url, &last, identifier, resources);
            let response = Message::of(&response, options.max_response_bytes)?;
            counters.responses.fetch_add(1, Ordering::Relaxed);
            if answers.send(Ok(response)).await.is_err() {
                return Ok(());
            }
        }
        request = match tokio::time::timeout(IDLE, inbound.message()).await {
            Ok(Ok(Some(next))) => P::read_request(next),
            Ok(Ok(None)) | Err(_) => return Ok(()),
            Ok(Err(broken)) => return broken.end(),
        };
        counters.requests.fetch_add(1, Ordering::Relaxed);
        if !source.answers(&request.type_url) {
            return Err(Status::invalid_argument(format!(
                "type_url: {:?} is no question; open another stream for resources",
                request.type_url
            )));
        }
    }
}

/// A resource of an answer: its name, and the message with the type that it has.
pub type Answered = (String, pb::Any);
