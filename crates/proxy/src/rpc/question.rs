//! A call that waits for what a rate limit service says. Must never know which filters come next.

use std::borrow::Cow;
use std::sync::Arc;

use weft_config::rate_limit::Descriptor;
use weft_config::rpc::RpcServiceLimit;
use weft_filters::rate_limit::{METHOD, message};
use weft_filters::{CounterGroup, grpc};
use weft_proto::pb::envoy::service::ratelimit::v3 as service;
use weft_rpc::Failure;

use service::rate_limit_response::Code;

use super::Refusal;
use super::gate::Passed;
use crate::http::flags::ResponseFlags;
use crate::worker::Worker;

/// What services said of calls; the constants below are their places.
pub(super) const SERVICE_COUNTS: &[&str] = &["ok", "error", "over_limit", "failure_mode_allowed"];
const OK: usize = 0;
const ERROR: usize = 1;
const OVER_LIMIT: usize = 2;
const FAILURE_ALLOWED: usize = 3;

/// See the module.
#[derive(Debug)]
pub(super) struct Question {
    limit: Arc<RpcServiceLimit>,
    counters: Arc<CounterGroup>,
    request: service::RateLimitRequest,
    passed: Passed,
}

impl Question {
    pub(super) fn new(
        (limit, counters): (&Arc<RpcServiceLimit>, &Arc<CounterGroup>),
        descriptors: Vec<Descriptor<'_>>,
        passed: Passed,
    ) -> Self {
        Self {
            limit: Arc::clone(limit),
            counters: Arc::clone(counters),
            request: service::RateLimitRequest {
                domain: limit.domain.to_string(),
                descriptors: descriptors.into_iter().map(message).collect(),
                hits_addend: 0,
            },
            passed,
        }
    }

    /// Asks the service; gives where the call goes on.
    ///
    /// # Errors
    /// The answer to a call that goes no further.
    pub(super) async fn ask(self, worker: &Worker) -> Result<Passed, Refusal> {
        let limit = &self.limit;
        let answer = grpc::ask(worker, &limit.service, METHOD, &self.request).await;
        let answer: service::RateLimitResponse = match answer {
            Ok(answer) => answer,
            Err(why) => {
                tracing::debug!(why, "a rate limit service did not decide");
                self.counters.inc(ERROR);
                if limit.failure_deny {
                    return Err(Refusal {
                        flags: ResponseFlags::RATE_LIMITER_SERVICE_ERROR,
                        details: Cow::Borrowed("rate_limiter_error"),
                        ..Refusal::new(
                            Failure::Overload,
                            "weft: the rate limit service did not decide".to_owned(),
                        )
                    });
                }
                self.counters.inc(FAILURE_ALLOWED);
                return Ok(self.passed);
            }
        };
        if answer.overall_code() == Code::OverLimit {
            self.counters.inc(OVER_LIMIT);
            return Err(Refusal {
                flags: ResponseFlags::RATE_LIMITED,
                details: Cow::Borrowed("request_rate_limited"),
                ..Refusal::new(Failure::Overload, "weft: rate limited".to_owned())
            });
        }
        self.counters.inc(OK);
        Ok(self.passed)
    }
}
