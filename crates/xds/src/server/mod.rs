//! The server's side of one aggregated stream, without I/O: requests, views and time go in,
//! answers and events come out. Never knows what a resource means or who the client is.

mod age;
mod alarm;
mod blame;
mod event;
pub mod grpc;
mod incoming;
mod plan;
mod question;
mod requests;
mod standing;
mod state;
mod wire;

use std::collections::VecDeque;
use std::marker::PhantomData;
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use event::{Event, Limits, Refusal, StreamError, TypeStatus};
use plan::{Step, Turn, plan};
pub use question::{Answered, Question};
pub use state::NamePool;
use state::{First, TypeState};

use crate::protocol::{Outgoing, Protocol};
use crate::set::ResourceSet;
use crate::type_url::TypeUrl;
use crate::view::View;

/// Bytes of the name of a type, which is kept even if the type is not served.
const MAX_TYPE: usize = 4096;

/// The machine of one stream.
///
/// Call [`request`](Self::request), [`set_view`](Self::set_view) and [`tick`](Self::tick) as
/// things happen, then [`poll_event`](Self::poll_event) and
/// [`poll_response`](Self::poll_response) until both are empty. At most one answer by type is
/// under way; newer states of the view wait for its ACK and are sent as one.
#[derive(Debug)]
pub struct ServerStream<P: Protocol> {
    limits: Limits,
    id: u64,
    answers: u64,
    identifier: Option<Arc<str>>,
    view: View,
    generation: u64,
    first_request: Option<Instant>,
    /// In the order of a push.
    types: Vec<TypeState>,
    events: VecDeque<Event>,
    pool: Arc<NamePool>,
    /// Whether there was nothing to send when it was last looked, and nothing has happened since: until the
    /// deadline nothing needs to be looked at.
    quiet: bool,
    /// Of then.
    deadline: Option<Instant>,
    protocol: PhantomData<P>,
}

impl<P: Protocol> ServerStream<P> {
    /// A stream on which nothing has happened. `id` makes the nonces differ from those of other
    /// streams; `identifier` goes into the first answer's `control_plane`.
    pub fn new(id: u64, view: View, limits: Limits, identifier: Option<Arc<str>>) -> Self {
        ServerStream {
            limits,
            id,
            answers: 0,
            identifier,
            view,
            generation: 1,
            first_request: None,
            types: Vec::new(),
            events: VecDeque::new(),
            pool: Arc::default(),
            quiet: false,
            deadline: None,
            protocol: PhantomData,
        }
    }

    /// Lets the stream share its names with those of other streams.
    #[must_use]
    pub fn with_pool(mut self, pool: Arc<NamePool>) -> Self {
        self.pool = pool;
        self
    }

    /// What the client is to have from now on.
    pub fn set_view(&mut self, view: View) {
        if !self.view.ptr_eq(&view) {
            self.quiet = false;
            self.view = view;
            self.generation += 1;
            for state in &mut self.types {
                if let Some(target) = self.view.get(&state.type_url) {
                    state.is_back(target);
                }
            }
        }
    }

    /// What the client is to have.
    pub fn view(&self) -> &View {
        &self.view
    }

    /// Takes in a request.
    pub fn request(&mut self, now: Instant, request: P::Request) -> Result<(), StreamError> {
        self.quiet = false;
        let request = P::read_request(request);
        self.first_request.get_or_insert(now);
        if request.type_url.is_empty() {
            return Err(StreamError::NoType);
        }
        if request.type_url.len() > MAX_TYPE {
            return Err(StreamError::TypeTooLong(MAX_TYPE));
        }
        let type_url = TypeUrl::new(&request.type_url);
        let index = match self.find(&type_url) {
            Ok(index) => index,
            Err(_) if self.types.len() >= self.limits.types => {
                return Err(StreamError::TooManyTypes(self.limits.types));
            }
            Err(index) => {
                if !self.is_served(&type_url) {
                    let type_url = type_url.clone();
                    self.events.push_back(Event::UnknownType { type_url });
                }
                self.types.insert(index, TypeState::new(type_url.clone()));
                index
            }
        };
        let target = self.target(&type_url);
        let first = First {
            parents: self.parents(&type_url),
            target: &target,
        };
        let mut events = Vec::new();
        // `index` is where the type was found or put.
        let outcome =
            self.types[index].request(P::MODE, &request, &first, &self.limits, &mut events);
        self.events.extend(events);
        self.types[index].share_names(&self.pool);
        outcome
    }

    /// Lets time pass: reports missing ACKs. [`poll_response`](Self::poll_response) may have
    /// something after [`next_deadline`](Self::next_deadline).
    pub fn tick(&mut self, now: Instant) {
        self.quiet = false;
        let overdue = self.limits.ack_overdue;
        for state in &mut self.types {
            if let Some(in_flight) = &mut state.in_flight
                && !in_flight.overdue
                && now.saturating_duration_since(in_flight.sent) >= overdue
            {
                in_flight.overdue = true;
                let type_url = state.type_url.clone();
                self.events.push_back(Event::AckOverdue { type_url });
            }
        }
    }

    /// When [`tick`](Self::tick) and [`poll_response`](Self::poll_response) are to be called at
    /// the latest if nothing else happens; later than `now`.
    pub fn next_deadline(&self, now: Instant) -> Option<Instant> {
        if self.is_quiet(now) {
            return self.deadline;
        }
        let grace = self
            .first_request
            .map(|first| first + self.limits.removal_grace);
        let of_type = |state: &TypeState| {
            let ack = state
                .in_flight
                .as_ref()
                .filter(|in_flight| !in_flight.overdue)
                .map(|in_flight| in_flight.sent + self.limits.ack_overdue);
            let clusters = state
                .in_flight
                .as_ref()
                .filter(|_| [TypeUrl::CLUSTER, TypeUrl::ENDPOINT].contains(&state.type_url))
                .map(|in_flight| in_flight.sent + self.limits.cluster_wait);
            let held = state.held.as_ref().filter(|_| state.in_flight.is_none());
            let held = held.map(|held| {
                let due = plan::removal_due(&state.type_url, held, &self.limits);
                let waits = state.type_url.removal_waits_for();
                let absent = waits.iter().any(|other| self.active(other).is_none());
                if absent {
                    due.max(grace.unwrap_or(due))
                } else {
                    due
                }
            });
            let all = ack.into_iter().chain(clusters).chain(held);
            all.filter(|at| *at > now).min()
        };
        self.types.iter().filter_map(of_type).min()
    }

    /// The next answer to send as a message, if there is one.
    pub fn poll_response(&mut self, now: Instant) -> Option<P::Response> {
        self.poll_outgoing(now).map(P::write_response)
    }

    /// The next answer to send, if there is one.
    pub fn poll_outgoing(&mut self, now: Instant) -> Option<Outgoing> {
        if self.is_quiet(now) {
            return None;
        }
        // What one type settles may release removals of another; the chain is four types long.
        for _ in 0..=4 {
            let mut progress = false;
            for index in 0..self.types.len() {
                let before = self.types[index].settled_at;
                if let Some(response) = self.turn(index, now) {
                    return Some(response);
                }
                progress |= self.types[index].settled_at != before;
            }
            if !progress {
                break;
            }
        }
        self.deadline = self.next_deadline(now);
        self.quiet = true;
        None
    }

    fn is_quiet(&self, now: Instant) -> bool {
        self.quiet && self.deadline.is_none_or(|deadline| now < deadline)
    }

    fn turn(&mut self, index: usize, now: Instant) -> Option<Outgoing> {
        let state = self.types.get(index)?;
        if state.in_flight.is_some() && state.removals.are_reported() {
            return None;
        }
        let type_url = state.type_url.clone();
        if !self.is_served(&type_url) || self.waits_for_clusters(&type_url, now) {
            return None;
        }
        let (id, answer) = (self.id, self.answers + 1);
        let turn = Turn {
            mode: P::MODE,
            now,
            target: self.target(&type_url),
            generation: self.generation,
            parents: self.parents(&type_url),
            released_upto: self.released_upto(&type_url, now),
            limits: &self.limits,
        };
        let state = self.types.get_mut(index)?;
        let step = plan(state, &turn, || format!("{id:x}-{answer:x}"));
        let removals = &mut state.removals;
        if !removals.are_reported() {
            removals.reported = removals.held;
            self.events.push_back(Event::RemovalsHeld {
                type_url: type_url.clone(),
                held: removals.held,
                forced: std::mem::take(&mut removals.forced),
            });
        }
        match step {
            Step::Busy | Step::Idle(None) => None,
            Step::Idle(Some(version)) => {
                if state.reported != Some(version) {
                    state.reported = Some(version);
                    self.events.push_back(Event::InSync { type_url, version });
                }
                None
            }
            Step::Send(mut outgoing) => {
                self.answers += 1;
                outgoing.control_plane = self.identifier.take();
                self.events.push_back(Event::Sent {
                    type_url,
                    resources: outgoing.resources.len(),
                    removed: outgoing.removed.len(),
                    bytes: outgoing.resources.iter().map(|(r, _)| r.body.len()).sum(),
                });
                Some(outgoing)
            }
        }
    }

    /// The next event, oldest first.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Where the stream stands with every type that the client asked for.
    pub fn status(&self) -> Vec<TypeStatus> {
        let of_type = |state: &TypeState| state.status(&self.target(&state.type_url));
        self.types.iter().map(of_type).collect()
    }

    /// How long the oldest answer waits for its ACK.
    pub fn oldest_in_flight(&self, now: Instant) -> Option<Duration> {
        self.types
            .iter()
            .filter_map(|state| state.in_flight.as_ref())
            .map(|in_flight| now.saturating_duration_since(in_flight.sent))
            .max()
    }

    /// Make before break: nothing that refers to clusters goes out while new ones, or the
    /// endpoints that the client has asked for, are on their way.
    fn waits_for_clusters(&self, type_url: &TypeUrl, now: Instant) -> bool {
        if !type_url.refers_to_clusters() {
            return false;
        }
        let is_waiting = |state: &&TypeState| {
            let in_flight = state.in_flight.as_ref();
            in_flight.is_some_and(|in_flight| now < in_flight.sent + self.limits.cluster_wait)
        };
        let clusters = self.active(&TypeUrl::CLUSTER).filter(is_waiting);
        if clusters.is_some_and(|state| state.is_adding(&self.target(&TypeUrl::CLUSTER))) {
            return true;
        }
        // The endpoints of new clusters may be asked for while others are on their way.
        let endpoints = self.active(&TypeUrl::ENDPOINT).filter(is_waiting);
        endpoints.is_some_and(|state| {
            let target = self.target(&TypeUrl::ENDPOINT);
            state.pending.iter().any(|name| target.get(name).is_some())
        })
    }

    fn find(&self, type_url: &TypeUrl) -> Result<usize, usize> {
        self.types
            .binary_search_by(|state| state.type_url.cmp(type_url))
    }

    fn active(&self, type_url: &TypeUrl) -> Option<&TypeState> {
        let index = self.find(type_url).ok()?;
        self.types.get(index).filter(|state| state.is_active())
    }

    fn is_served(&self, type_url: &TypeUrl) -> bool {
        type_url.is_known() || self.view.get(type_url).is_some()
    }

    fn target(&self, type_url: &TypeUrl) -> ResourceSet {
        self.view
            .get(type_url)
            .cloned()
            .unwrap_or_else(|| ResourceSet::empty(type_url.clone()))
    }

    fn parents(&self, type_url: &TypeUrl) -> ResourceSet {
        let parent = type_url.parent();
        let state = parent.and_then(|parent| self.active(&parent));
        state.map_or_else(ResourceSet::none, |state| state.sent().clone())
    }

    /// The generation of the view of which the types that a removal waits for have everything.
    fn released_upto(&self, type_url: &TypeUrl, now: Instant) -> u64 {
        let in_grace = self
            .first_request
            .is_none_or(|first| now < first + self.limits.removal_grace);
        let of_type = |other: &TypeUrl| match self.active(other) {
            Some(state) => state.settled(),
            None if in_grace => 0,
            None => u64::MAX,
        };
        type_url
            .removal_waits_for()
            .iter()
            .map(of_type)
            .min()
            .unwrap_or(u64::MAX)
    }
}
