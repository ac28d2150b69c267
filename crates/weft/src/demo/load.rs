//! The small load on the gateway: a few clients that ask for the page, one request after the
//! other each. Must never know what the answers should be.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, HOST};
use http::{HeaderMap, HeaderValue, Request, Uri};
use http_body_util::Empty;
use tokio::task::JoinSet;

use super::client::Client;
use super::service::{ATTEMPTS_HEADER, MARK_HEADER, VERSION_HEADER};
use super::tally::{Outcome, Record};

/// Clients at the same time.
const CLIENTS: u32 = 8;
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(20);
/// After a failed request a client waits, so that a dead gateway is not hammered.
const AFTER_FAILURE: Duration = Duration::from_millis(5);

/// The running load. It ends when this is dropped.
pub(crate) struct Load {
    /// What it has seen.
    pub(crate) record: Rc<RefCell<Record>>,
    clients: JoinSet<()>,
}

/// One slot of time for each request, for a steady rate; without a rate as fast as it goes.
struct Pace {
    interval: Option<Duration>,
    next: Cell<Instant>,
}

impl Load {
    /// Begins to load the gateway. `rate`: requests a second of all clients together.
    /// Needs a `LocalSet`.
    pub(crate) fn start(gateway: SocketAddr, rate: Option<u32>) -> Self {
        let record = Rc::new(RefCell::new(Record::new()));
        let pace = Rc::new(Pace {
            interval: rate.map(|rate| Duration::from_secs(1) / rate.max(1)),
            next: Cell::new(Instant::now()),
        });
        let client = Rc::new(Client::new(gateway, TIMEOUT));
        let mut clients = JoinSet::new();
        for _ in 0..CLIENTS {
            let (record, pace, client) = (Rc::clone(&record), Rc::clone(&pace), Rc::clone(&client));
            clients.spawn_local(async move {
                loop {
                    pace.wait().await;
                    let outcome = ask(&client, gateway).await;
                    let failed = outcome.failure.is_some();
                    record.borrow_mut().add(outcome);
                    if failed {
                        tokio::time::sleep(AFTER_FAILURE).await;
                    }
                }
            });
        }
        Self { record, clients }
    }

    /// Ends the load at once; requests on their way are given up and not counted.
    pub(crate) fn stop(&mut self) {
        self.clients.abort_all();
    }
}

impl Pace {
    async fn wait(&self) {
        let Some(interval) = self.interval else {
            return;
        };
        let now = Instant::now();
        // What was missed while everything was slow is not made up for in a burst.
        let oldest = now.checked_sub(4 * interval).unwrap_or(now);
        let slot = self.next.get().max(oldest);
        self.next.set(slot + interval);
        tokio::time::sleep_until(slot.into()).await;
    }
}

/// Asks for the page once.
pub(crate) async fn ask(client: &Client, gateway: SocketAddr) -> Outcome {
    let started = Instant::now();
    let host = HeaderValue::from_str(&gateway.to_string());
    let answered = client
        .call(|| {
            let mut request = Request::new(Empty::new());
            *request.uri_mut() = Uri::from_static("/productpage");
            if let Ok(host) = &host {
                request.headers_mut().insert(HOST, host.clone());
            }
            request
                .headers_mut()
                .insert(ACCEPT, HeaderValue::from_static("application/json"));
            request
        })
        .await;
    let latency = started.elapsed();
    match answered {
        Ok(response) => {
            let headers = response.headers();
            let failure = (response.status() != 200).then(|| {
                let body: String = String::from_utf8_lossy(response.body())
                    .chars()
                    .take(200)
                    .collect();
                format!("{} {body}", response.status().as_u16())
            });
            Outcome {
                started,
                latency,
                version: text(headers, VERSION_HEADER),
                mark: text(headers, MARK_HEADER),
                retried: text(headers, ATTEMPTS_HEADER).is_some_and(|attempts| attempts != "1"),
                failure,
            }
        }
        Err(error) => Outcome {
            started,
            latency,
            version: None,
            mark: None,
            retried: false,
            failure: Some(error),
        },
    }
}

fn text(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
