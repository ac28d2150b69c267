//! A constant load over kept-alive connections that remembers every call. Must never open a
//! connection again: a closed one is what it is here to find.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use crate::http_client::Connection;
use crate::scene::Way;
use crate::wait::eventually;

/// Calls that tell what goes on.
const ENOUGH: usize = 60;
/// The longest that an edit may take on a busy machine.
const SETTLED: Duration = Duration::from_secs(20);

/// A call that was made.
#[derive(Clone, Debug)]
pub struct Call {
    /// When it was sent.
    pub sent: Instant,
    /// Status and body, or why there is none.
    pub outcome: Result<(u16, String), String>,
}

impl Call {
    /// Whether the answer is 200 with this body.
    pub fn is_from(&self, version: &str) -> bool {
        matches!(&self.outcome, Ok((200, body)) if body == version)
    }

    /// Whether the answer is 200.
    pub fn succeeded(&self) -> bool {
        matches!(&self.outcome, Ok((200, _)))
    }
}

/// A load that runs until it is stopped.
#[derive(Debug)]
pub struct Load {
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// GETs over so many connections, with a pause after each answer. A
    /// connection whose call failed without an answer makes no more calls.
    pub fn start(way: Way, connections: usize, pause: Duration) -> Self {
        let calls = Arc::<Mutex<Vec<Call>>>::default();
        let stop = Arc::<AtomicBool>::default();
        let clients = (0..connections).map(|_| {
            let (calls, stop) = (Arc::clone(&calls), Arc::clone(&stop));
            let note = move |call| {
                calls
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(call);
            };
            tokio::spawn(async move {
                let mut connection = match Connection::open(way.address).await {
                    Ok(connection) => connection,
                    Err(error) => {
                        return note(Call {
                            sent: Instant::now(),
                            outcome: Err(error),
                        });
                    }
                };
                while !stop.load(Ordering::Relaxed) {
                    let sent = Instant::now();
                    let answer = connection.get(way.host, way.uri).await;
                    let broken = answer.is_err();
                    note(Call {
                        sent,
                        outcome: answer.map(|a| (a.status, a.body)),
                    });
                    if broken {
                        return;
                    }
                    tokio::time::sleep(pause).await;
                }
            })
        });
        Self {
            clients: clients.collect(),
            calls,
            stop,
        }
    }

    /// The calls so far from this one on.
    pub fn since(&self, number: usize) -> Vec<Call> {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.get(number..).unwrap_or_default().to_vec()
    }

    /// How many calls were made so far.
    pub fn count(&self) -> usize {
        self.calls
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// Waits until the latest calls all went to this version.
    pub async fn wait_until_all_from(&self, version: &str) {
        let before = self.count();
        eventually(&format!("all calls go to {version}"), SETTLED, async || {
            let calls = self.since(before);
            let latest = calls.iter().rev().take(ENOUGH);
            let all = calls.len() > ENOUGH && latest.into_iter().all(|call| call.is_from(version));
            all.then_some(())
                .ok_or_else(|| format!("{:?}", calls.last()))
        })
        .await;
    }

    /// Ends the load and asserts that calls were made and none of them failed.
    pub async fn assert_no_failure(self) {
        let calls = self.stop().await;
        let failed: Vec<_> = calls.iter().filter(|call| !call.succeeded()).collect();
        assert!(calls.len() > ENOUGH, "only {} calls were made", calls.len());
        let some = failed.iter().take(5).collect::<Vec<_>>();
        let count = (failed.len(), calls.len());
        assert!(
            failed.is_empty(),
            "{} of {} calls failed: {some:?}",
            count.0,
            count.1
        );
        println!("{} calls, none failed", calls.len());
    }

    /// Ends the load and returns all calls.
    pub async fn stop(self) -> Vec<Call> {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client
                .await
                .unwrap_or_else(|error| panic!("a client of the load: {error}"));
        }
        std::mem::take(&mut self.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
