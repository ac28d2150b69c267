//! Faults of routes: what befalls a call. Waits for nothing itself.

use std::borrow::Cow;
use std::time::Duration;

use weft_config::Fault;
use weft_config::call::CallView;
use weft_config::http_filter::AbortKind;
use weft_rpc::Failure;

use super::Refusal;
use crate::http::flags::ResponseFlags;

/// What befalls a call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Befalls {
    /// It waits so long.
    pub(super) delay: Option<Duration>,
    /// It is answered as if by this HTTP status.
    pub(super) abort: Option<u16>,
}

impl Befalls {
    /// By random numbers, for each a new one.
    pub(super) fn of(fault: &Fault, call: &dyn CallView, random: impl Fn() -> u64) -> Self {
        let matches = fault
            .headers
            .iter()
            .all(|one| one.matches_call(call) == Ok(true));
        if !matches {
            return Self::default();
        }
        let delay = fault.delay.as_ref();
        let delay = delay.filter(|delay| delay.share.holds(random()));
        let abort = fault.abort.as_ref();
        let abort = abort.filter(|abort| abort.share.holds(random()));
        Self {
            delay: delay.and_then(|delay| delay.fixed),
            abort: abort.and_then(|abort| match abort.kind {
                AbortKind::Http(status) => Some(status),
                AbortKind::Grpc(_) | AbortKind::Header => None,
            }),
        }
    }
}

/// The answer to a call instead of an HTTP status: the protocol's own that is nearest.
pub(super) fn abort(status: u16) -> Refusal {
    let failure = match status {
        400 => Failure::BadRequest,
        401 | 403 => Failure::Denied,
        404 => Failure::NoRoute,
        408 | 504 => Failure::Timeout,
        429 => Failure::Overload,
        503 => Failure::NoHost,
        _ => Failure::Internal,
    };
    Refusal {
        failure,
        text: format!("weft: fault filter abort ({status})"),
        flags: ResponseFlags::FAULT_INJECTED,
        details: Cow::Borrowed("fault_filter_abort"),
    }
}
