//! Keys of a server: fetched when a token wants them, or ahead of that; one fetch at a time, which
//! everybody shares who waits for it.
//!
//! Source: Envoy, "JWT Authentication", remote JWKS: keys that are fetched ahead (`async_fetch`) hold
//! until there are newer ones; others hold for their time, and no longer.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::sync::{Arc, Weak as Watched};
use std::time::Duration;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode, Uri};
use tokio::sync::Notify;
use tokio::time::Instant;
use weft_config::jwt::RemoteKeySource;
use weft_jwt::{Failure, Keys};

use super::{FETCHED, NOT_FETCHED};
use crate::{Call, CallError, Calls, CounterGroup};

/// A larger key set is refused.
const MAX_BYTES: usize = 1 << 20;
/// So many requests wait for a fetch; the tokens of others are refused.
const MAX_WAITING: usize = 1024;
/// Keys that are fetched ahead are fetched again so long before their time is over, as in Envoy.
const AHEAD: Duration = Duration::from_secs(5);

/// The keys of one server in one worker.
#[derive(Debug)]
pub struct RemoteKeys {
    source: Arc<RemoteKeySource>,
    known: RefCell<Option<Rc<Keys>>>,
    /// Until then nobody asks the server; what is known holds.
    good_until: Cell<Option<Instant>>,
    /// Until then nobody asks the server again, which has failed.
    failed_until: Cell<Option<Instant>>,
    /// Somebody asks the server.
    fetching: Cell<bool>,
    /// A fetch has ended, or was given up.
    ended: Notify,
    waiting: Cell<usize>,
    /// Counters of filters that fetches ahead are told.
    watchers: RefCell<Vec<Watched<CounterGroup>>>,
}

/// What it took to know the keys.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// No fetch of one's own.
    No,
    /// A fetch that gave keys.
    Yes,
    /// A fetch that gave none.
    Failed,
    /// Too many wait already.
    Crowded,
}

/// A fetch under way. Who gives it up wakes those that wait, and one of them takes over.
struct Fetching<'a>(&'a RemoteKeys);

impl Drop for Fetching<'_> {
    fn drop(&mut self) {
        self.0.fetching.set(false);
        self.0.ended.notify_waiters();
    }
}

/// Somebody waits for another's fetch.
struct Waiting<'a>(&'a Cell<usize>);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

impl RemoteKeys {
    /// No keys yet.
    pub fn new(source: Arc<RemoteKeySource>) -> Self {
        Self {
            source,
            known: RefCell::default(),
            good_until: Cell::new(None),
            failed_until: Cell::new(None),
            fetching: Cell::new(false),
            ended: Notify::new(),
            waiting: Cell::new(0),
            watchers: RefCell::default(),
        }
    }

    /// Tells a filter's counters of fetches ahead.
    pub(crate) fn watch(&self, counters: &Arc<CounterGroup>) {
        let mut watchers = self.watchers.borrow_mut();
        watchers.retain(|one| one.strong_count() > 0);
        if !watchers
            .iter()
            .any(|one| one.as_ptr() == Arc::as_ptr(counters))
        {
            watchers.push(Arc::downgrade(counters));
        }
    }

    /// Fetches the keys now, and again before they become old, as long as somebody has them.
    pub async fn keep_fresh(keys: Weak<Self>, calls: Rc<dyn Calls>) {
        while let Some(keys) = keys.upgrade() {
            let pause = keys.fetch_ahead(&*calls).await;
            drop(keys);
            tokio::time::sleep(pause).await;
        }
    }

    /// Fetches the keys, and gives the time until that is worth doing again.
    async fn fetch_ahead(&self, calls: &dyn Calls) -> Duration {
        if self.fetching.get() {
            // Whoever wanted them first has asked.
            self.ended.notified().await;
            return self.pause(self.failed_until.get().is_none());
        }
        let good = self.fetch(calls).await;
        let place = if good { FETCHED } else { NOT_FETCHED };
        for counters in self.watchers.borrow().iter().filter_map(Watched::upgrade) {
            counters.inc(place);
        }
        self.pause(good)
    }

    fn pause(&self, good: bool) -> Duration {
        if !good {
            return self.source.failed_refetch;
        }
        let whole = self.source.cache_duration;
        whole
            .checked_sub(AHEAD)
            .filter(|rest| !rest.is_zero())
            .unwrap_or(whole)
    }

    fn fresh(&self) -> Option<Rc<Keys>> {
        let good = self.source.fetch_early
            || self
                .good_until
                .get()
                .is_some_and(|until| Instant::now() < until);
        good.then(|| self.known.borrow().clone()).flatten()
    }

    fn has_failed(&self) -> bool {
        let until = self.failed_until.get();
        until.is_some_and(|until| Instant::now() < until)
    }

    /// The keys, from the server if those that are known have become old.
    pub(crate) async fn get(&self, calls: &dyn Calls) -> (Result<Rc<Keys>, Failure>, Fetched) {
        loop {
            if let Some(keys) = self.fresh() {
                return (Ok(keys), Fetched::No);
            }
            if self.has_failed() {
                return (Err(Failure::FetchFailed), Fetched::No);
            }
            if !self.fetching.get() {
                let good = self.fetch(calls).await;
                let known = self.known.borrow().clone().filter(|_| good);
                let fetched = if good { Fetched::Yes } else { Fetched::Failed };
                return (known.ok_or(Failure::FetchFailed), fetched);
            }
            if self.waiting.get() >= MAX_WAITING {
                return (Err(Failure::FetchFailed), Fetched::Crowded);
            }
            self.waiting.set(self.waiting.get() + 1);
            let _waiting = Waiting(&self.waiting);
            self.ended.notified().await;
        }
    }

    /// Asks the server; whether there are new keys.
    async fn fetch(&self, calls: &dyn Calls) -> bool {
        self.fetching.set(true);
        let _fetching = Fetching(self);
        match self.ask(calls).await {
            Ok(keys) => {
                *self.known.borrow_mut() = Some(Rc::new(keys));
                let now = Instant::now();
                self.good_until
                    .set(now.checked_add(self.source.cache_duration));
                self.failed_until.set(None);
                true
            }
            Err(error) => {
                let cluster = &*self.source.cluster;
                tracing::warn!(cluster, error, "keys for tokens cannot be fetched");
                let now = Instant::now();
                self.failed_until
                    .set(now.checked_add(self.source.failed_refetch));
                false
            }
        }
    }

    async fn ask(&self, calls: &dyn Calls) -> Result<Keys, String> {
        let source = &self.source;
        let mut request = Request::new(Bytes::new());
        *request.uri_mut() = source.path.parse::<Uri>().map_err(|e| e.to_string())?;
        let host = HeaderValue::from_str(&source.host).map_err(|e| e.to_string())?;
        request.headers_mut().insert(HOST, host);
        let call = Call {
            cluster: &source.cluster,
            request,
            timeout: source.timeout,
            max_body: MAX_BYTES,
        };
        let answer = calls.call(call).await;
        let answer = answer.map_err(|error: CallError| error.to_string())?;
        if answer.response.status() != StatusCode::OK {
            return Err(format!("the answer is {}", answer.response.status()));
        }
        let keys = Keys::parse(answer.response.body());
        keys.ok_or_else(|| "the answer has no key that can be used".to_owned())
    }
}

#[cfg(test)]
mod tests;
