//! The response's body on its way down: counted, timed, and the owner of the exchange until it
//! ends.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::Sleep;
use weft_upstream::{FailureKind, ResponseBody as UpstreamBody};

use super::exchange::Exchange;
use super::flags::ResponseFlags;
use super::serve::Aborted;
use crate::connection::{Key, Patience};

/// What is sent to the client.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: Source,
    /// Dropped when the client's connection has taken everything, or has given up.
    exchange: Box<Exchange>,
    limits: Limits,
    timer: Option<Pin<Box<Sleep>>>,
    /// Since when the upstream keeps us waiting, while there is a timer.
    waits_since: Instant,
    /// Bytes until the announced length is reached; the connection asks for nothing after it.
    left: Option<u64>,
    /// Whether trailers are passed on.
    trailers: bool,
    /// Its place among the answers that the client may leave lying, if it has a limit.
    watched: Option<Key>,
}

#[derive(Debug)]
enum Source {
    Local(Bytes),
    Upstream(UpstreamBody),
}

/// How long the body may take.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Limits {
    /// The stream must be over.
    pub(crate) deadline: Option<Instant>,
    /// When the router began, and the time from then, or from the end of the request if that is
    /// later, to the end of the response.
    pub(crate) route: Option<(Instant, Duration)>,
    /// Longest silence.
    pub(crate) idle: Option<Duration>,
}

impl ResponseBody {
    /// A body that is there already; may be empty.
    pub(crate) fn local(body: Bytes, exchange: Box<Exchange>) -> Self {
        let limits = Limits {
            idle: exchange.downstream.manager().config.stream_idle_timeout,
            ..Limits::default()
        };
        Self::waiting(Source::Local(body), exchange, limits)
    }

    /// A body that streams from an upstream.
    pub(crate) fn upstream(
        body: UpstreamBody,
        exchange: Box<Exchange>,
        limits: Limits,
        trailers: bool,
    ) -> Self {
        let left = body.size_hint().exact();
        let mut this = Self::waiting(Source::Upstream(body), exchange, limits);
        this.left = left;
        this.trailers = trailers;
        this
    }

    fn waiting(source: Source, exchange: Box<Exchange>, limits: Limits) -> Self {
        let waits_since = exchange.started();
        let mut this = Self {
            source,
            exchange,
            limits,
            timer: None,
            waits_since,
            left: None,
            trailers: false,
            watched: None,
        };
        // An HTTP/2 client without a window never lets the body be asked for anything.
        let limited = this.limits.idle.is_some() || this.limits.deadline.is_some();
        if limited && !this.is_end_stream() {
            let patience = Patience {
                idle: this.limits.idle,
                deadline: this.limits.deadline,
                received: this.exchange.received.clone(),
            };
            this.watched = Some(this.exchange.downstream.handle().watch(patience));
        }
        this
    }

    /// When the whole response must be there. The route's time begins when the request has
    /// ended, which an upload that goes on has not done before `now`.
    fn deadline(&self, now: Instant) -> Option<Instant> {
        let route = self.limits.route.map(|(began, limit)| {
            let ended = match &self.exchange.received {
                None => began,
                Some(received) => received.ended_at.get().unwrap_or(now),
            };
            ended.max(began) + limit
        });
        route.into_iter().chain(self.limits.deadline).min()
    }

    /// The time at which the wait for the next frame is over, as far as is known at `now`.
    fn next_limit(&self, now: Instant) -> Option<Instant> {
        let received = self.exchange.received.as_ref();
        let received = received.and_then(|received| received.moved_at.get());
        let moved = self.waits_since.max(received.unwrap_or(self.waits_since));
        let idle = self.limits.idle.map(|idle| moved + idle);
        self.deadline(now).into_iter().chain(idle).min()
    }

    /// Armed only when the upstream keeps us waiting: most bodies never need a timer.
    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut now = Instant::now();
        if self.timer.is_none() {
            self.waits_since = now;
        }
        loop {
            if let Some(timer) = &mut self.timer {
                ready!(timer.as_mut().poll(cx));
                now = Instant::now();
            }
            let Some(limit) = self.next_limit(now) else {
                return Poll::Pending;
            };
            if limit <= now {
                return Poll::Ready(());
            }
            // The first time, or the client has sent something meanwhile.
            match &mut self.timer {
                Some(timer) => timer.as_mut().reset(limit.into()),
                None => self.timer = Some(Box::pin(tokio::time::sleep_until(limit.into()))),
            }
        }
    }

    /// Tells the connection whether its client has something to take. Says whether the stream has
    /// lasted too long. One without limits may be taken as slowly as the client likes.
    fn note_unread(&self, unread: bool) -> bool {
        let handle = self.exchange.downstream.handle();
        self.watched
            .is_some_and(|answer| handle.unread(answer, unread))
    }

    fn timed_out(&mut self) {
        let now = Instant::now();
        let late = self.deadline(now).is_some_and(|deadline| now >= deadline);
        let stats = &self.exchange.downstream.manager().stats;
        if late {
            self.exchange
                .flags
                .add(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT);
            self.exchange.details = "response_timeout".into();
        } else {
            stats.downstream_rq_idle_timeout.inc();
            self.exchange.flags.add(ResponseFlags::STREAM_IDLE_TIMEOUT);
            self.exchange.details = "stream_idle_timeout".into();
        }
        stats.rq_reset_after_downstream_response_started.inc();
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Aborted;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Aborted>>> {
        let this = &mut *self;
        if this.note_unread(false) {
            this.timed_out();
            return Poll::Ready(Some(Err(Aborted)));
        }
        let upstream = match &mut this.source {
            Source::Local(body) => {
                this.exchange.complete();
                let body = std::mem::take(body);
                this.exchange.sent += body.len() as u64;
                // Over HTTP/2 even the last part may wait for a window, and the body with it.
                this.note_unread(true);
                return Poll::Ready((!body.is_empty()).then(|| Ok(Frame::data(body))));
            }
            Source::Upstream(upstream) => upstream,
        };
        let frame = match Pin::new(upstream).poll_frame(cx) {
            Poll::Ready(frame) => frame,
            Poll::Pending => {
                ready!(this.poll_timer(cx));
                this.timed_out();
                return Poll::Ready(Some(Err(Aborted)));
            }
        };
        this.timer = None;
        match frame {
            None => {
                this.exchange.complete();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                let kind = FailureKind::of_body(&error);
                this.exchange.flags.add(ResponseFlags::of_failure(kind));
                let reason = kind.reset_reason().replace(' ', "_");
                this.exchange.details =
                    format!("upstream_reset_after_response_started{{{reason}}}").into();
                let stats = &this.exchange.downstream.manager().stats;
                stats.rq_reset_after_downstream_response_started.inc();
                Poll::Ready(Some(Err(Aborted)))
            }
            Some(Ok(frame)) => {
                if let Some(data) = frame.data_ref() {
                    let length = data.len() as u64;
                    this.exchange.sent += length;
                    this.left = this.left.map(|left| left.saturating_sub(length));
                    if this.left == Some(0) {
                        this.exchange.complete();
                    }
                } else if let Some(trailers) = frame.trailers_ref() {
                    this.exchange.trailers(trailers);
                    this.exchange.complete();
                    if !this.trailers {
                        return Poll::Ready(None);
                    }
                }
                if this.is_end_stream() {
                    this.exchange.complete();
                }
                this.note_unread(true);
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(body) => body.is_empty(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(body) => SizeHint::with_exact(body.len() as u64),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}

impl Drop for ResponseBody {
    fn drop(&mut self) {
        let lying = self
            .watched
            .take()
            .is_some_and(|key| self.exchange.downstream.handle().forget(key));
        if lying {
            self.timed_out();
        }
        // A body without frames is not polled, and an upgraded connection has none.
        if self.is_end_stream() {
            self.exchange.complete();
        }
    }
}
