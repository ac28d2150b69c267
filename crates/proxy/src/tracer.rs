//! Spans on their way to a collector that speaks Zipkin's JSON: gathered for a second or until there are many,
//! then sent. Must never know what they are of.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request};
use tokio::sync::Notify;
use weft_config::rpc::Zipkin;
use weft_core::metrics::Scope;
use weft_filters::{Call, CallError, Calls as _, CounterGroup};

use crate::worker::Worker;

/// Spans that wait; more are dropped.
const MAX_SPANS: usize = 1000;
/// Their bytes.
const MAX_BYTES: usize = 1024 * 1024;
/// So many are sent at once without waiting.
const ENOUGH: usize = 100;
/// The longest that one waits.
const INTERVAL: Duration = Duration::from_secs(1);
/// Reports under way; the spans of more are dropped.
const MAX_REPORTS: usize = 4;
/// Bytes of a collector's answer.
const MAX_ANSWER: usize = 64 * 1024;

/// Counters, by Envoy's names where it has them; the constants are their places.
const COUNTS: &[&str] = &[
    "spans_sent",
    "spans_dropped",
    "timer_flushed",
    "reports_sent",
    "reports_dropped",
    "reports_failed",
    "reports_skipped_no_cluster",
];
const SPANS_SENT: usize = 0;
const SPANS_DROPPED: usize = 1;
const TIMER_FLUSHED: usize = 2;
const REPORTS_SENT: usize = 3;
const REPORTS_DROPPED: usize = 4;
const REPORTS_FAILED: usize = 5;
const REPORTS_SKIPPED: usize = 6;

/// See the module; one for each manager in a worker.
pub(crate) struct Reporter(Rc<Shared>);

struct Shared {
    zipkin: Zipkin,
    worker: Rc<Worker>,
    counters: Arc<CounterGroup>,
    /// Objects of JSON with commas between them, and how many they are.
    waiting: RefCell<(String, usize)>,
    reports: Cell<usize>,
    /// Nobody makes spans any more.
    ended: Cell<bool>,
    news: Notify,
}

impl Reporter {
    /// One whose counters belong to a stat prefix.
    pub(crate) fn new(zipkin: &Zipkin, owner: &Arc<str>, worker: &Rc<Worker>) -> Rc<Self> {
        let scope = Scope::rpc(Arc::clone(owner));
        let names = ("tracing.zipkin.", COUNTS);
        let counters = worker
            .prefixes
            .counters(&worker.registry, owner, scope, names);
        let shared = Rc::new(Shared {
            zipkin: zipkin.clone(),
            worker: Rc::clone(worker),
            counters,
            waiting: RefCell::default(),
            reports: Cell::new(0),
            ended: Cell::new(false),
            news: Notify::new(),
        });
        tokio::task::spawn_local(Rc::clone(&shared).run());
        Rc::new(Self(shared))
    }

    /// The name of what makes the spans.
    pub(crate) fn service(&self) -> &str {
        match self.0.worker.node_cluster.to_str() {
            Ok(name) if !name.is_empty() => name,
            _ => "weft",
        }
    }

    /// Adds a span.
    pub(crate) fn push(&self, span: &str) {
        let mut waiting = self.0.waiting.borrow_mut();
        let (text, count) = &mut *waiting;
        if *count >= MAX_SPANS || text.len() + span.len() >= MAX_BYTES {
            self.0.counters.inc(SPANS_DROPPED);
            return;
        }
        if *count > 0 {
            text.push(',');
        }
        text.push_str(span);
        *count += 1;
        // The first begins the interval, and enough of them end it.
        if *count == 1 || *count == ENOUGH {
            self.0.news.notify_one();
        }
    }
}

impl Drop for Reporter {
    fn drop(&mut self) {
        self.0.ended.set(true);
        self.0.news.notify_one();
    }
}

impl Shared {
    async fn run(self: Rc<Self>) {
        loop {
            self.news.notified().await;
            let few = || self.waiting.borrow().1 < ENOUGH && !self.ended.get();
            if few() {
                let more = self.news.notified();
                if tokio::time::timeout(INTERVAL, more).await.is_err() {
                    self.counters.inc(TIMER_FLUSHED);
                }
            }
            self.flush();
            if self.ended.get() {
                return;
            }
        }
    }

    fn flush(self: &Rc<Self>) {
        let (spans, count) = std::mem::take(&mut *self.waiting.borrow_mut());
        if count == 0 {
            return;
        }
        if self.reports.get() >= MAX_REPORTS {
            self.counters.inc(REPORTS_DROPPED);
            for _ in 0..count {
                self.counters.inc(SPANS_DROPPED);
            }
            return;
        }
        self.reports.set(self.reports.get() + 1);
        let shared = Rc::clone(self);
        tokio::task::spawn_local(async move {
            let place = shared.report(format!("[{spans}]").into()).await;
            shared.counters.inc(place);
            if place == REPORTS_SENT {
                for _ in 0..count {
                    shared.counters.inc(SPANS_SENT);
                }
            }
            shared.reports.set(shared.reports.get() - 1);
        });
    }

    /// Sends spans; says which counter counts what came of it.
    async fn report(&self, body: Bytes) -> usize {
        let collector = &self.zipkin.collector;
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        let (Ok(path), Ok(host)) = (
            collector.path.parse(),
            HeaderValue::from_str(&collector.host),
        ) else {
            return REPORTS_FAILED;
        };
        *request.uri_mut() = path;
        let headers = request.headers_mut();
        headers.insert(HOST, host);
        let json = HeaderValue::from_static("application/json");
        headers.insert(CONTENT_TYPE, json);
        for (name, value) in &self.zipkin.headers {
            headers.insert(name.clone(), value.clone());
        }
        let call = Call {
            cluster: &collector.cluster,
            request,
            timeout: collector.timeout,
            max_body: MAX_ANSWER,
        };
        match self.worker.call(call).await {
            Ok(answer) if answer.response.status().is_success() => REPORTS_SENT,
            Ok(_) => REPORTS_DROPPED,
            Err(CallError::NoCluster) => REPORTS_SKIPPED,
            Err(error) => {
                tracing::debug!(%error, "spans do not reach their collector");
                REPORTS_FAILED
            }
        }
    }
}
