//! The client's side of an aggregated stream, without I/O: interests, answers, verdicts and time
//! go in, requests and updates come out. It outlives streams, and what was accepted stays until
//! something better is accepted. Never validates a resource.

mod backoff;
mod event;
pub mod grpc;
mod state;

use std::collections::{BTreeMap, VecDeque};
use std::marker::PhantomData;
use std::time::{Duration, Instant};

use backoff::Backoff;
pub use event::{Added, ClientEvent, ClientOptions, Interest, Refused, Update, WorkloadHealth};
use state::TypeState;

use crate::protocol::Protocol;
use crate::type_url::TypeUrl;

/// The machine of one client.
///
/// Call the methods as things happen, then [`poll_event`](Self::poll_event) and
/// [`poll_request`](Self::poll_request) until both are empty. Each [`ClientEvent::Update`] must be
/// given its [`verdict`](Self::verdict); until then later answers of its type wait.
#[derive(Debug)]
pub struct ClientStream<P: Protocol> {
    options: ClientOptions,
    backoff: Backoff,
    /// In the order of a push.
    types: BTreeMap<TypeUrl, TypeState>,
    up: bool,
    node_sent: bool,
    next_id: u64,
    /// What is to be told of the workload, and whether this stream was told.
    health: Option<WorkloadHealth>,
    health_sent: bool,
    events: VecDeque<ClientEvent>,
    /// Answers of types that were not asked for.
    unexpected: u64,
    protocol: PhantomData<P>,
}

impl<P: Protocol> ClientStream<P> {
    /// A client without a stream; `seed` makes its pauses.
    pub fn new(options: ClientOptions, seed: u64) -> Self {
        ClientStream {
            backoff: Backoff::new(options.backoff_initial, options.backoff_max, seed),
            options,
            types: BTreeMap::new(),
            up: false,
            node_sent: false,
            next_id: 0,
            health: None,
            health_sent: false,
            events: VecDeque::new(),
            unexpected: 0,
            protocol: PhantomData,
        }
    }

    /// Says what is wanted of a type; it replaces what was wanted before. What is no longer wanted
    /// is forgotten without an event.
    pub fn set_interest(&mut self, type_url: &TypeUrl, interest: Interest) {
        let state = self
            .types
            .entry(type_url.clone())
            .or_insert_with(|| TypeState::new(type_url.clone(), P::MODE, self.options.parked));
        state.set_interest(interest);
        state.advance(&mut self.next_id, &mut self.events);
    }

    /// A stream is open; requests may be sent.
    pub fn connected(&mut self) {
        self.up = true;
        self.node_sent = false;
        self.health_sent = false;
        for state in self.types.values_mut() {
            state.disconnected();
        }
    }

    /// Says how the workload beside this client is; each stream is told the latest, once.
    pub fn set_health(&mut self, health: WorkloadHealth) {
        if self.health.as_ref() != Some(&health) {
            self.health = Some(health);
            self.health_sent = false;
        }
    }

    /// The stream has lasted. A server that resumes without news sends nothing, and is well all
    /// the same: the next pause is short again.
    pub fn lasted(&mut self) {
        self.backoff.reset();
    }

    /// The stream is gone or could not be opened. Returns the pause before the next attempt.
    pub fn disconnected(&mut self) -> Duration {
        self.up = false;
        for state in self.types.values_mut() {
            state.disconnected();
        }
        self.backoff.next_pause()
    }

    /// Takes in an answer.
    pub fn response(&mut self, response: P::Response) {
        let incoming = P::read_response(response);
        self.backoff.reset();
        match self.types.get_mut(&TypeUrl::new(&incoming.type_url)) {
            Some(state) => {
                state.receive(incoming);
                state.advance(&mut self.next_id, &mut self.events);
            }
            None => self.unexpected += 1,
        }
    }

    /// The caller has used the update of this id, except for what it refuses. The last good form
    /// of a refused resource stays accepted. An unknown id is ignored.
    pub fn verdict(&mut self, id: u64, refused: Vec<Refused>) {
        let waiting = self.types.values_mut().find(|state| state.awaits(id));
        if let Some(state) = waiting {
            state.verdict(refused, self.options.error_bytes);
            state.advance(&mut self.next_id, &mut self.events);
        }
    }

    /// Lets time pass: reports what the server does not have.
    pub fn tick(&mut self, now: Instant) {
        for state in self.types.values_mut() {
            state.tick(now, &mut self.events);
            state.advance(&mut self.next_id, &mut self.events);
        }
    }

    /// When [`tick`](Self::tick) has something to do.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.types
            .values()
            .filter_map(TypeState::next_deadline)
            .min()
    }

    /// The next request to send; none without a stream.
    pub fn poll_request(&mut self, now: Instant) -> Option<P::Request> {
        if !self.up {
            return None;
        }
        // Servers that know of it want to have heard of the node.
        if self.node_sent
            && !self.health_sent
            && let Some(health) = &self.health
        {
            self.health_sent = true;
            return Some(P::write_request(health.request()));
        }
        // Types start in order: a server that hears of routes before clusters cannot order them.
        let mut request = self
            .types
            .values_mut()
            .take_while(|state| !state.waits_to_start())
            .find_map(|state| state.request(now, &self.options))?;
        if !self.node_sent {
            self.node_sent = true;
            request.node = Some(self.options.node.clone());
        }
        Some(P::write_request(request))
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<ClientEvent> {
        self.events.pop_front()
    }

    /// Answers that wait for verdicts of earlier ones. Whoever reads the stream must stop reading
    /// when this grows.
    pub fn backlog(&self) -> usize {
        self.types.values().map(TypeState::backlog).sum::<usize>() + self.events.len()
    }

    /// Answers of types that were not asked for.
    pub fn unexpected(&self) -> u64 {
        self.unexpected
    }

    /// What is accepted of a type, by name.
    pub fn accepted(&self, type_url: &TypeUrl) -> impl Iterator<Item = Added> {
        let state = self.types.get(type_url);
        state
            .into_iter()
            .flat_map(|state| &state.accepted)
            .map(|(name, accepted)| Added {
                name: name.clone(),
                version: accepted.version.clone(),
                body: accepted.body.clone(),
            })
    }
}
