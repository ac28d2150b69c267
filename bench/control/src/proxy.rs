//! One simulated proxy: it asks for what an Envoy asks for, accepts everything, and keeps names and
//! versions only.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use prost::Message;
use tokio::sync::watch;
use weft_xds::TypeUrl;
use weft_xds::pb::{DeltaDiscoveryRequest, Node};

use crate::follow::Known;
use crate::link::Link;
use crate::tally::Tally;
use crate::wire::Response;

const METHOD: &str =
    "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";
/// Between attempts to connect.
const PAUSE: Duration = Duration::from_millis(20);

const CDS: usize = 0;
const EDS: usize = 1;
const LDS: usize = 2;
const RDS: usize = 3;
static URLS: [TypeUrl; 4] = [
    TypeUrl::CLUSTER,
    TypeUrl::ENDPOINT,
    TypeUrl::LISTENER,
    TypeUrl::ROUTE,
];

type Links = Arc<[Arc<str>]>;

/// What all proxies share.
pub(crate) struct Shared {
    /// Where the control plane is, `HOST:PORT`.
    pub(crate) address: String,
    /// What contents lead to.
    pub(crate) known: Known,
    /// What was sent.
    pub(crate) tally: Tally,
}

#[derive(Default)]
struct Type {
    have: HashMap<Arc<str>, Arc<str>>,
    /// How many resources of the parent type lead to a name.
    asked: HashMap<Arc<str>, usize>,
    missing: HashSet<Arc<str>>,
    links: HashMap<Arc<str>, Links>,
    /// Since the stream began.
    answered: bool,
    bytes: u64,
}

/// A simulated proxy.
pub(crate) struct Proxy {
    shared: Arc<Shared>,
    node: Node,
    types: [Type; 4],
    complete: bool,
    back: bool,
}

impl Proxy {
    /// A proxy that has nothing.
    pub(crate) fn new(shared: Arc<Shared>, node: Node) -> Self {
        Proxy {
            shared,
            node,
            types: Default::default(),
            complete: false,
            back: false,
        }
    }

    /// Connects, and again whenever the stream ends or `rounds` changes, until `rounds` is gone.
    pub(crate) async fn run(mut self, mut rounds: watch::Receiver<u64>) {
        loop {
            rounds.borrow_and_update();
            tokio::select! {
                outcome = self.stream() => {
                    let told = [io::ErrorKind::InvalidData, io::ErrorKind::Other];
                    if let Err(error) = outcome && told.contains(&error.kind()) {
                        eprintln!("{}: {error}", self.node.id);
                    }
                    tokio::time::sleep(PAUSE).await;
                }
                changed = rounds.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
            }
        }
    }

    async fn stream(&mut self) -> io::Result<()> {
        for state in &mut self.types {
            (state.answered, state.bytes) = (false, 0);
        }
        self.back = false;
        let mut link = Link::open(&self.shared.address, METHOD).await?;
        for request in self.first_requests() {
            link.push(&request);
        }
        let mut heard = false;
        while let Some(answer) = link.message().await? {
            heard = true;
            let bytes = answer.len() as u64;
            self.answer(&Response::decode(answer)?, bytes, &mut link);
        }
        if !heard {
            return Err(io::Error::other("the call ended without an answer"));
        }
        Ok(())
    }

    /// Clusters and listeners, and whatever else it had asked for before.
    fn first_requests(&self) -> Vec<DeltaDiscoveryRequest> {
        let mut requests = Vec::new();
        for kind in [CDS, EDS, LDS, RDS] {
            let state = &self.types[kind];
            if (kind == EDS || kind == RDS) && state.asked.is_empty() {
                continue;
            }
            let have = state.have.iter();
            requests.push(DeltaDiscoveryRequest {
                node: requests.is_empty().then(|| self.node.clone()),
                type_url: URLS[kind].to_string(),
                resource_names_subscribe: state.asked.keys().map(ToString::to_string).collect(),
                initial_resource_versions: have
                    .map(|(name, version)| (name.to_string(), version.to_string()))
                    .collect(),
                ..Default::default()
            });
        }
        requests
    }

    fn answer(&mut self, answer: &Response, bytes: u64, link: &mut Link) {
        let Some(kind) = URLS.iter().position(|url| url.as_str() == answer.type_url) else {
            return;
        };
        let state = &mut self.types[kind];
        state.answered = true;
        state.bytes += bytes;
        let (resources, removed) = (answer.resources.len(), answer.removed.len());
        self.shared
            .tally
            .answer(kind, bytes, state.bytes, resources, removed);
        let ack = DeltaDiscoveryRequest {
            type_url: answer.type_url.clone(),
            response_nonce: answer.nonce.clone(),
            ..Default::default()
        };
        link.push(&ack);
        let (added, dropped) = self.take(kind, answer);
        if !added.is_empty() || !dropped.is_empty() {
            let child = kind + 1;
            let names = |names: Vec<Arc<str>>| names.iter().map(ToString::to_string).collect();
            let request = DeltaDiscoveryRequest {
                type_url: URLS[child].to_string(),
                resource_names_subscribe: names(added),
                resource_names_unsubscribe: names(dropped),
                ..Default::default()
            };
            link.push(&request);
        }
        self.note();
    }

    /// Takes an answer over; returns names of the child type to ask for and to give up.
    fn take(&mut self, kind: usize, answer: &Response) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let known = &self.shared.known;
        let mut news: Vec<(Arc<str>, Option<Links>)> = Vec::new();
        for resource in &answer.resources {
            let name = known.shared(&resource.name);
            let version = known.shared(&resource.version);
            let links = match kind {
                CDS => Some(known.endpoints_of(resource)),
                LDS => Some(known.routes_of(resource)),
                _ => None,
            };
            let state = &mut self.types[kind];
            state.missing.remove(&name);
            state.have.insert(Arc::clone(&name), version);
            news.push((name, links));
        }
        self.shared.tally.arrived(news.iter().map(|(name, _)| name));
        for name in &answer.removed {
            let state = &mut self.types[kind];
            state.have.remove(name.as_str());
            state.missing.remove(name.as_str());
            if kind == CDS || kind == LDS {
                news.push((known.shared(name), Some(Arc::from([]))));
            }
        }
        let (mut added, mut dropped) = (Vec::new(), Vec::new());
        for (name, links) in news {
            let Some(links) = links else { continue };
            let before = self.types[kind].links.insert(name, Arc::clone(&links));
            let child = &mut self.types[kind + 1];
            for link in links.iter() {
                let count = child.asked.entry(Arc::clone(link)).or_default();
                *count += 1;
                if *count == 1 {
                    added.push(Arc::clone(link));
                    child.missing.insert(Arc::clone(link));
                }
            }
            for link in before.iter().flat_map(|links| links.iter()) {
                let Some(count) = child.asked.get_mut(link) else {
                    continue;
                };
                *count -= 1;
                if *count == 0 {
                    child.asked.remove(link);
                    child.have.remove(link);
                    child.missing.remove(link);
                    dropped.push(Arc::clone(link));
                }
            }
        }
        (added, dropped)
    }

    /// Counts itself among those that have everything, or that were answered since they came back.
    fn note(&mut self) {
        let [clusters, endpoints, listeners, routes] = &self.types;
        let nothing_missing = endpoints.missing.is_empty() && routes.missing.is_empty();
        if !self.complete && clusters.answered && listeners.answered && nothing_missing {
            self.complete = true;
            self.shared.tally.complete.fetch_add(1, Ordering::Relaxed);
        }
        let answered = |state: &Type| state.answered || state.asked.is_empty();
        let all = clusters.answered && listeners.answered;
        if !self.back && all && answered(endpoints) && answered(routes) {
            self.back = true;
            self.shared.tally.back.fetch_add(1, Ordering::Relaxed);
        }
    }
}
