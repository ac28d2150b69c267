//! Keys of a server: fetched when a token wants them, kept for a time, and kept longer if the
//! server does not answer.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use http::header::{HOST, HeaderValue};
use http::{Request, StatusCode, Uri};
use tokio::sync::Mutex;
use weft_config::jwt::RemoteKeySource;

use super::failure::Failure;
use super::keys::Keys;
use crate::{Call, CallError, Calls};

/// A larger key set is refused.
const MAX_BYTES: usize = 1 << 20;

/// The keys of one server in one worker.
#[derive(Debug)]
pub struct RemoteKeys {
    source: Arc<RemoteKeySource>,
    known: RefCell<Option<Rc<Keys>>>,
    /// Until then nobody asks the server.
    good_until: Cell<Option<Instant>>,
    /// One fetch at a time; the others wait for it.
    fetching: Mutex<()>,
}

/// How a fetch ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fetched {
    /// There was none.
    No,
    /// With keys.
    Yes,
    /// Without.
    Failed,
}

impl RemoteKeys {
    /// No keys yet.
    pub fn new(source: Arc<RemoteKeySource>) -> Self {
        Self {
            source,
            known: RefCell::default(),
            good_until: Cell::new(None),
            fetching: Mutex::new(()),
        }
    }

    fn fresh(&self) -> Option<Rc<Keys>> {
        let good = self
            .good_until
            .get()
            .is_some_and(|until| Instant::now() < until);
        good.then(|| self.known.borrow().clone()).flatten()
    }

    /// Fetches them before anybody wants them.
    pub async fn warm(&self, calls: &dyn Calls) {
        // Whoever wants them tries again.
        let _result = self.get(calls).await;
    }

    /// The keys, from the server if those that are known have become old.
    pub(crate) async fn get(&self, calls: &dyn Calls) -> (Result<Rc<Keys>, Failure>, Fetched) {
        if let Some(keys) = self.fresh() {
            return (Ok(keys), Fetched::No);
        }
        let _turn = self.fetching.lock().await;
        if let Some(keys) = self.fresh() {
            return (Ok(keys), Fetched::No);
        }
        let (fetched, pause) = match self.fetch(calls).await {
            Ok(keys) => {
                *self.known.borrow_mut() = Some(Rc::new(keys));
                (Fetched::Yes, self.source.cache_duration)
            }
            Err(error) => {
                let cluster = &*self.source.cluster;
                tracing::warn!(cluster, error, "keys for tokens cannot be fetched");
                (Fetched::Failed, self.source.failed_refetch)
            }
        };
        let known = self.known.borrow().clone();
        if known.is_some() {
            // The last good keys hold while the server is away.
            self.good_until.set(Instant::now().checked_add(pause));
        }
        (known.ok_or(Failure::FetchFailed), fetched)
    }

    async fn fetch(&self, calls: &dyn Calls) -> Result<Keys, String> {
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
