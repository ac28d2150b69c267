//! Fetches of keys against a server that answers when it is told to, on a clock that stands still.

use std::cell::Cell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Response;
use tokio::task::LocalSet;
use weft_config::jwt::RemoteKeySource;

use super::{AHEAD, Fetched, MAX_WAITING, RemoteKeys};
use crate::call::Calling;
use crate::jwt::{FETCHED, NOT_FETCHED};
use crate::{Call, CallError, CallResponse, Calls, CounterGroup};

const KEYS: &[u8] = br#"{"keys": [{"kty": "oct", "kid": "k", "k": "c2VjcmV0"}]}"#;
const HOUR: Duration = Duration::from_hours(1);
const PAUSE: Duration = Duration::from_secs(3);

#[derive(Debug, Default)]
struct Server {
    away: Cell<bool>,
    /// Calls that have begun.
    begun: Cell<usize>,
    /// How long an answer takes.
    delay: Cell<Duration>,
}

impl Calls for Server {
    fn call<'a>(&'a self, call: Call<'a>) -> Calling<'a> {
        assert_eq!(call.max_body, 1 << 20, "the answer has a bound");
        Box::pin(async {
            self.begun.set(self.begun.get() + 1);
            tokio::time::sleep(self.delay.get()).await;
            if self.away.get() {
                return Err(CallError::Timeout);
            }
            Ok(CallResponse {
                response: Response::new(Bytes::from_static(KEYS)),
                trailers: None,
            })
        })
    }
}

fn keys(ahead: bool) -> Rc<RemoteKeys> {
    Rc::new(RemoteKeys::new(Arc::new(RemoteKeySource {
        cluster: "c".into(),
        host: "h".into(),
        path: "/jwks".into(),
        timeout: HOUR,
        cache_duration: HOUR,
        fetch_early: ahead,
        failed_refetch: PAUSE,
    })))
}

/// Whether a request gets keys, and how.
async fn get(keys: &RemoteKeys, server: &Server) -> (bool, Fetched) {
    let (keys, fetched) = keys.get(server).await;
    (keys.is_ok(), fetched)
}

fn run(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    LocalSet::new().block_on(&runtime, test);
}

#[test]
fn who_waits_shares_the_one_fetch() {
    run(async {
        let (keys, server) = (keys(false), Rc::new(Server::default()));
        server.delay.set(PAUSE);
        let start = tokio::time::Instant::now();
        let mut tasks = Vec::new();
        for _ in 0..MAX_WAITING + 2 {
            let (keys, server) = (Rc::clone(&keys), Rc::clone(&server));
            tasks.push(tokio::task::spawn_local(async move {
                get(&keys, &server).await
            }));
        }
        let mut seen = Vec::new();
        for task in tasks {
            seen.push(task.await.expect("no panic"));
        }
        assert_eq!(server.begun.get(), 1);
        assert_eq!(
            start.elapsed(),
            PAUSE,
            "nobody waits behind another's fetch"
        );
        let count = |wanted| seen.iter().filter(|one| **one == wanted).count();
        assert_eq!(count((true, Fetched::Yes)), 1);
        assert_eq!(count((true, Fetched::No)), MAX_WAITING);
        assert_eq!(count((false, Fetched::Crowded)), 1, "the bound");
        assert_eq!(keys.waiting.get(), 0);
    });
}

#[test]
fn a_fetch_that_is_given_up_is_taken_over() {
    run(async {
        let (keys, server) = (keys(false), Rc::new(Server::default()));
        server.delay.set(PAUSE);
        let begin = || {
            let (keys, server) = (Rc::clone(&keys), Rc::clone(&server));
            tokio::task::spawn_local(async move { get(&keys, &server).await })
        };
        let (first, second) = (begin(), begin());
        tokio::time::sleep(PAUSE / 2).await;
        first.abort();
        assert_eq!(second.await.expect("no panic"), (true, Fetched::Yes));
        assert_eq!(server.begun.get(), 2);
    });
}

#[test]
fn old_keys_do_not_hold_while_the_server_is_away_and_it_is_not_pressed() {
    run(async {
        let (keys, server) = (keys(false), Server::default());
        assert_eq!(get(&keys, &server).await, (true, Fetched::Yes));
        server.away.set(true);
        tokio::time::sleep(HOUR.checked_sub(PAUSE).expect("longer")).await;
        assert_eq!(get(&keys, &server).await, (true, Fetched::No));
        tokio::time::sleep(PAUSE).await;
        assert_eq!(get(&keys, &server).await, (false, Fetched::Failed));
        assert_eq!(get(&keys, &server).await, (false, Fetched::No));
        assert_eq!(server.begun.get(), 2, "it has a pause");
        server.away.set(false);
        tokio::time::sleep(PAUSE).await;
        assert_eq!(get(&keys, &server).await, (true, Fetched::Yes));
    });
}

#[test]
fn keys_that_are_fetched_ahead_are_renewed_in_time_and_hold_while_the_server_is_away() {
    run(async {
        let (keys, server) = (keys(true), Rc::new(Server::default()));
        let counters = Arc::new(CounterGroup::new("", super::super::COUNTERS));
        keys.watch(&counters);
        keys.watch(&counters);
        let weak = Rc::downgrade(&keys);
        let calls: Rc<dyn Calls> = Rc::<Server>::clone(&server);
        let task = tokio::task::spawn_local(RemoteKeys::keep_fresh(weak, calls));
        tokio::time::sleep(PAUSE).await;
        assert_eq!(
            get(&keys, &server).await,
            (true, Fetched::No),
            "before any token"
        );
        server.away.set(true);
        let wait = HOUR.checked_sub(AHEAD + PAUSE + PAUSE).expect("longer");
        tokio::time::sleep(wait).await;
        assert_eq!(server.begun.get(), 1);
        tokio::time::sleep(PAUSE + PAUSE / 2).await;
        assert_eq!(server.begun.get(), 2, "before the keys are old");
        tokio::time::sleep(PAUSE * 2).await;
        assert_eq!(server.begun.get(), 4, "with a pause after each failure");
        tokio::time::sleep(HOUR).await;
        assert_eq!(
            get(&keys, &server).await,
            (true, Fetched::No),
            "the last good ones hold"
        );
        assert_eq!(counters.get(FETCHED), 1);
        assert!(counters.get(NOT_FETCHED) > 100);
        drop(keys);
        tokio::time::sleep(PAUSE).await;
        assert!(task.is_finished(), "nobody has the keys");
    });
}
