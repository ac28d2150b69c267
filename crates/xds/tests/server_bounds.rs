//! What a client that refuses, floods or never answers can make the server keep.

use std::time::{Duration, Instant};

use weft_xds::pb::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, Status};
use weft_xds::server::{Event, Limits, ServerStream, StreamError};
use weft_xds::{Delta, Resource, ResourceSet, TypeUrl, View};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;

/// Clusters, and listeners given as `name=content`.
fn view(clusters: &[&str], listeners: &[&str]) -> View {
    let set = |type_url: TypeUrl, resources: &[&str]| {
        let resources = resources.iter().map(|resource| {
            let name = resource.split('=').next().unwrap_or_default();
            Resource::new(&type_url, name, resource.as_bytes().to_vec())
        });
        ResourceSet::new(type_url.clone(), resources.collect::<Vec<_>>())
    };
    View::new([set(CDS, clusters), set(LDS, listeners), set(RDS, &[])])
}

/// A delta client that wants all clusters and listeners, and refuses what it is told to.
struct Client {
    server: ServerStream<Delta>,
    now: Instant,
    refuses: &'static str,
    removed: Vec<String>,
    events: Vec<Event>,
}

impl Client {
    fn new(view: View, refuses: &'static str) -> Self {
        let limits = Limits {
            held_removals: 2,
            names: 10,
            ..Limits::default()
        };
        let mut client = Client {
            server: ServerStream::new(1, view, limits, None),
            now: Instant::now(),
            refuses,
            removed: Vec::new(),
            events: Vec::new(),
        };
        for type_url in [CDS, LDS] {
            let request = subscribe(&type_url, &[], &[]);
            client.ask(request).expect("within bounds");
        }
        client.settle();
        client
    }

    fn ask(&mut self, request: DeltaDiscoveryRequest) -> Result<(), StreamError> {
        self.server.request(self.now, request)
    }

    /// Answers until there is nothing more to answer.
    fn settle(&mut self) {
        self.server.tick(self.now);
        while let Some(response) = self.server.poll_response(self.now) {
            self.removed.extend(response.removed_resources.clone());
            let bad = |name: &str| !self.refuses.is_empty() && name == self.refuses;
            let refused = response.resources.iter().any(|r| {
                let body = r.resource.as_ref().map(|any| any.value.clone());
                bad(&String::from_utf8_lossy(&body.unwrap_or_default()))
            });
            let name = self.refuses.split('=').next().unwrap_or_default();
            let request = verdict(&response, refused.then(|| format!("{name}: no")));
            self.ask(request).expect("within bounds");
        }
        while let Some(event) = self.server.poll_event() {
            self.events.push(event);
        }
    }

    fn publish(&mut self, view: View) {
        self.server.set_view(view);
        self.settle();
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.settle();
    }

    /// The last report of removals of a type: held, forced.
    fn reported(&self, wanted: &TypeUrl) -> Option<(usize, usize)> {
        self.events.iter().rev().find_map(|event| match event {
            Event::RemovalsHeld {
                type_url,
                held,
                forced,
            } if type_url == wanted => Some((*held, *forced)),
            _ => None,
        })
    }
}

fn subscribe(type_url: &TypeUrl, names: &[&str], not: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_string(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        resource_names_unsubscribe: not.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn verdict(response: &DeltaDiscoveryResponse, error: Option<String>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        error_detail: error.map(|message| Status {
            code: 3,
            message,
            ..Default::default()
        }),
        ..Default::default()
    }
}

#[test]
fn a_refused_listener_that_the_client_never_had_holds_nothing_up() {
    let mut client = Client::new(view(&["a", "b"], &["l=1"]), "new=1");
    client.publish(view(&["a", "b"], &["l=1", "new=1"]));
    client.publish(view(&["a"], &["l=1", "new=1"]));
    client.wait(Duration::from_secs(10));
    assert_eq!(client.removed, ["b"]);
    assert_eq!(client.reported(&CDS), Some((0, 0)));
}

#[test]
fn a_refused_listener_keeps_what_its_earlier_form_may_need_within_bounds() {
    let mut client = Client::new(view(&["a", "b", "c", "d"], &["l=1"]), "l=2");
    client.publish(view(&["a", "b", "c"], &["l=2"]));
    client.publish(view(&["a", "b"], &["l=2"]));
    client.wait(Duration::from_hours(1));
    assert_eq!(client.removed, Vec::<String>::new());
    assert_eq!(client.reported(&CDS), Some((2, 0)));

    client.publish(view(&["a"], &["l=2"]));
    assert_eq!(client.removed.len(), 3, "more than may be held for so long");
    assert_eq!(client.reported(&CDS), Some((0, 3)));

    // What was let go no longer counts.
    client.publish(view(&[], &["l=2"]));
    client.wait(Duration::from_secs(10));
    assert_eq!(client.removed.len(), 3);
    assert_eq!(client.reported(&CDS), Some((1, 0)));
}

#[test]
fn many_removals_at_once_are_still_made_before_break() {
    let mut client = Client::new(view(&["a", "b", "c", "d"], &["l=1"]), "l=2");
    client.publish(view(&[], &["l=2"]));
    client.wait(Duration::from_secs(10));
    assert_eq!(client.removed, Vec::<String>::new(), "their time is not up");
}

#[test]
fn names_that_are_given_up_under_a_wildcard_are_bounded() {
    let mut client = Client::new(view(&["a"], &[]), "");
    // An answer that waits for its ACK, so that nothing is answered.
    client.server.set_view(view(&["a", "b"], &[]));
    assert!(client.server.poll_response(client.now).is_some());
    let outcome = (0..100).try_for_each(|number| {
        let name = format!("n{number}");
        client.ask(subscribe(&CDS, &[&name], &[]))?;
        client.ask(subscribe(&CDS, &[], &[&name]))
    });
    let expected = StreamError::TooManyNames {
        type_url: CDS,
        limit: 10,
    };
    assert_eq!(outcome, Err(expected));
}

#[test]
fn the_text_of_a_refusal_is_cut() {
    let mut client = Client::new(view(&["a"], &[]), "");
    client.server.set_view(view(&["a", "b"], &[]));
    let response = client.server.poll_response(client.now).expect("an answer");
    let text = format!("b: {}", "é ".repeat(1 << 20));
    client
        .ask(verdict(&response, Some(text)))
        .expect("within bounds");
    client.settle();
    let told = client.events.iter().find_map(|event| match event {
        Event::Nacked { names, error, .. } => Some((names.clone(), error.len())),
        _ => None,
    });
    let (names, length) = told.expect("a refusal");
    assert_eq!(names, ["b".into()]);
    assert!(length <= 4096, "{length}");
}

#[test]
fn the_name_of_a_type_is_bounded() {
    let mut client = Client::new(view(&["a"], &[]), "");
    let longest = TypeUrl::new(&"t".repeat(4096));
    client.ask(subscribe(&longest, &[], &[])).expect("kept");
    let longer = TypeUrl::new(&"t".repeat(4097));
    let refused = client.ask(subscribe(&longer, &[], &[]));
    assert_eq!(refused, Err(StreamError::TypeTooLong(4096)));
}
