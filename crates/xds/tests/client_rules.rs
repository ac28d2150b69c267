//! The rules of the protocol on the client's side, one test each, as messages in and out.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use prost::Message;
use weft_xds::client::{ClientEvent, ClientOptions, ClientStream, Interest, Refused, Update};
use weft_xds::pb::{
    Any, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Node,
    WireResource,
};
use weft_xds::{Delta, Protocol, Sotw, TypeUrl};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;

fn any(type_url: &TypeUrl, name: &str, content: u8) -> Any {
    let mut value = vec![0x0a, u8::try_from(name.len()).expect("short")];
    value.extend_from_slice(name.as_bytes());
    value.extend_from_slice(&[0x10, content]);
    Any {
        type_url: type_url.to_string(),
        value,
    }
}

fn sotw(type_url: &TypeUrl, version: &str, resources: &[(&str, u8)]) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.to_owned(),
        nonce: format!("nonce of {version}"),
        type_url: type_url.to_string(),
        resources: resources
            .iter()
            .map(|(name, content)| any(type_url, name, *content))
            .collect(),
        ..Default::default()
    }
}

fn delta(type_url: &TypeUrl, resources: &[(&str, u8)], removed: &[&str]) -> DeltaDiscoveryResponse {
    DeltaDiscoveryResponse {
        nonce: "n".to_owned(),
        type_url: type_url.to_string(),
        resources: resources
            .iter()
            .map(|(name, content)| WireResource {
                name: (*name).to_owned(),
                version: format!("v{content}"),
                resource: Some(any(type_url, name, *content)),
                ..Default::default()
            })
            .collect(),
        removed_resources: removed.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

struct Client<P: Protocol> {
    machine: ClientStream<P>,
    now: Instant,
}

impl<P: Protocol> Client<P> {
    fn connected(interests: &[(TypeUrl, Interest)]) -> Self {
        let node = Node {
            id: "me".to_owned(),
            ..Default::default()
        };
        let mut machine = ClientStream::new(ClientOptions::new(node), 1);
        for (type_url, interest) in interests {
            machine.set_interest(type_url, interest.clone());
        }
        machine.connected();
        Client {
            machine,
            now: Instant::now(),
        }
    }

    fn requests(&mut self) -> Vec<P::Request> {
        let mut requests = Vec::new();
        while let Some(request) = self.machine.poll_request(self.now) {
            requests.push(request);
        }
        requests
    }

    fn update(&mut self) -> Update {
        match self.machine.poll_event() {
            Some(ClientEvent::Update(update)) => update,
            other => panic!("no update but {other:?}"),
        }
    }

    fn accept(&mut self) -> Update {
        let update = self.update();
        self.machine.verdict(update.id, Vec::new());
        update
    }

    fn has(&self, type_url: &TypeUrl) -> Vec<(String, u8)> {
        let content = |body: &[u8]| body.last().copied().unwrap_or_default();
        let accepted = self.machine.accepted(type_url);
        accepted.map(|it| (it.name, content(&it.body))).collect()
    }
}

fn names(update: &Update) -> Vec<&str> {
    update
        .added
        .iter()
        .map(|added| added.name.as_str())
        .collect()
}

fn had(entries: &[(&str, u8)]) -> Vec<(String, u8)> {
    entries
        .iter()
        .map(|(name, content)| ((*name).to_owned(), *content))
        .collect()
}

fn all() -> [(TypeUrl, Interest); 2] {
    [(CDS, Interest::All), (EDS, Interest::names(["a"]))]
}

#[test]
fn the_node_goes_with_the_first_request_of_each_stream_only() {
    let mut client = Client::<Delta>::connected(&all());
    for _ in 0..2 {
        let requests: Vec<DeltaDiscoveryRequest> = client.requests();
        let nodes: Vec<bool> = requests
            .iter()
            .map(|request| request.node.is_some())
            .collect();
        assert_eq!(nodes, [true, false]);
        client.machine.disconnected();
        client.machine.connected();
    }
}

#[test]
fn absence_removes_clusters_and_not_endpoints_in_state_of_the_world() {
    let mut client =
        Client::<Sotw>::connected(&[(CDS, Interest::All), (EDS, Interest::names(["a", "b"]))]);
    for type_url in [CDS, EDS] {
        client
            .machine
            .response(sotw(&type_url, "1", &[("a", 1), ("b", 1)]));
        client.accept();
        client.machine.response(sotw(&type_url, "2", &[("b", 2)]));
        let update = client.accept();
        assert_eq!(names(&update), ["b"]);
    }
    assert_eq!(client.has(&CDS), had(&[("b", 2)]));
    assert_eq!(client.has(&EDS), had(&[("a", 1), ("b", 2)]));
}

#[test]
fn a_refusal_keeps_the_last_good_form_and_the_good_rest() {
    let mut client = Client::<Sotw>::connected(&all());
    client
        .machine
        .response(sotw(&CDS, "1", &[("a", 1), ("b", 1)]));
    client.accept();
    client.requests();
    client
        .machine
        .response(sotw(&CDS, "2", &[("a", 9), ("b", 2)]));
    let update = client.update();
    let refused = Refused {
        name: "a".to_owned(),
        error: "lb_policy: is unknown".to_owned(),
    };
    client.machine.verdict(update.id, vec![refused]);
    let requests: Vec<DiscoveryRequest> = client.requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(requests[0].version_info, "1");
    assert_eq!(requests[0].response_nonce, "nonce of 2");
    let message = requests[0]
        .error_detail
        .as_ref()
        .map(|error| error.message.as_str());
    assert_eq!(message, Some("a: lb_policy: is unknown"));
    assert_eq!(client.has(&CDS), had(&[("a", 1), ("b", 2)]));
    // What we have is no state that a server ever sent, so the next one must not take it for one.
    client.machine.disconnected();
    client.machine.connected();
    assert_eq!(client.requests()[0].version_info, "1~");
}

#[test]
fn a_reconnect_says_what_is_accepted() {
    let mut client = Client::<Delta>::connected(&all());
    client.requests();
    client.machine.response(delta(&EDS, &[("a", 1)], &[]));
    client.accept();
    client.machine.disconnected();
    assert!(client.requests().is_empty());
    assert_eq!(
        client.has(&EDS),
        had(&[("a", 1)]),
        "the last good state stays"
    );
    client.machine.connected();
    let requests = client.requests();
    assert!(requests[0].initial_resource_versions.is_empty());
    assert_eq!(
        requests[1]
            .initial_resource_versions
            .get("a")
            .map(String::as_str),
        Some("v1")
    );
    assert_eq!(requests[1].resource_names_subscribe, ["a"]);
}

#[test]
fn unchanged_contents_are_acknowledged_without_an_update() {
    let mut client = Client::<Delta>::connected(&all());
    client.requests();
    client.machine.response(delta(&EDS, &[("a", 1)], &[]));
    client.accept();
    client.requests();
    client.machine.response(delta(&EDS, &[("a", 1)], &[]));
    assert_eq!(client.machine.poll_event(), None);
    assert_eq!(client.requests()[0].response_nonce, "n");
}

#[test]
fn a_first_answer_is_an_update_even_if_it_is_empty() {
    let mut client = Client::<Delta>::connected(&all());
    client.machine.response(delta(&CDS, &[], &[]));
    let update = client.accept();
    assert!(update.first && update.added.is_empty());
    client.machine.response(delta(&CDS, &[], &[]));
    assert_eq!(client.machine.poll_event(), None);
}

#[test]
fn what_the_server_lacks_is_reported_at_once_or_after_the_time() {
    let missing = |name: Option<&str>, type_url: TypeUrl| ClientEvent::NotFound {
        type_url,
        name: name.map(ToOwned::to_owned),
    };
    let mut client =
        Client::<Delta>::connected(&[(CDS, Interest::All), (EDS, Interest::names(["a", "b"]))]);
    client.requests();
    client.machine.response(delta(&EDS, &[], &["a"]));
    assert_eq!(client.machine.poll_event(), Some(missing(Some("a"), EDS)));
    client.accept();
    assert_eq!(
        client.machine.next_deadline(),
        Some(client.now + Duration::from_secs(15))
    );
    client.machine.tick(client.now + Duration::from_secs(14));
    assert_eq!(client.machine.poll_event(), None);
    client.machine.tick(client.now + Duration::from_secs(15));
    assert_eq!(client.machine.poll_event(), Some(missing(None, CDS)));
    assert_eq!(client.machine.poll_event(), Some(missing(Some("b"), EDS)));
    client.machine.tick(client.now + Duration::from_mins(1));
    assert_eq!(client.machine.poll_event(), None);
}

#[test]
fn interests_travel_as_differences_in_delta_and_whole_in_state_of_the_world() {
    let mut client = Client::<Delta>::connected(&all());
    client.requests();
    client
        .machine
        .set_interest(&EDS, Interest::names(["b", "c"]));
    let requests = client.requests();
    assert_eq!(requests[0].resource_names_subscribe, ["b", "c"]);
    assert_eq!(requests[0].resource_names_unsubscribe, ["a"]);
    let mut client = Client::<Sotw>::connected(&all());
    client.requests();
    client
        .machine
        .set_interest(&EDS, Interest::names(["b", "c"]));
    assert_eq!(client.requests()[0].resource_names, ["b", "c"]);
}

#[test]
fn later_answers_wait_for_the_verdict_on_earlier_ones() {
    let mut client = Client::<Delta>::connected(&all());
    client.requests();
    client.machine.response(delta(&CDS, &[("a", 1)], &[]));
    client.machine.response(delta(&CDS, &[("a", 2)], &[]));
    let first = client.update();
    assert_eq!(client.machine.poll_event(), None);
    assert_eq!(client.machine.backlog(), 1);
    client.machine.verdict(first.id, Vec::new());
    assert_eq!(names(&client.accept()), ["a"]);
    assert_eq!(client.has(&CDS), had(&[("a", 2)]));
    assert_eq!(client.requests().len(), 2);
}

#[test]
fn wrapped_state_of_the_world_resources_are_understood() {
    let mut client = Client::<Sotw>::connected(&all());
    let wrapper = WireResource {
        name: "a".to_owned(),
        resource: Some(any(&CDS, "a", 7)),
        ..Default::default()
    };
    let mut response = sotw(&CDS, "1", &[]);
    response.resources.push(Any {
        type_url: "type.googleapis.com/envoy.service.discovery.v3.Resource".to_owned(),
        value: wrapper.encode_to_vec(),
    });
    client.machine.response(response);
    client.accept();
    assert_eq!(client.has(&CDS), had(&[("a", 7)]));
}

#[test]
fn nameless_double_and_foreign_resources_are_refused_one_by_one() {
    let mut client = Client::<Delta>::connected(&all());
    client.requests();
    let mut response = delta(
        &CDS,
        &[("good", 1), ("double", 1), ("double", 2), ("", 1)],
        &[],
    );
    let mut foreign = delta(&EDS, &[("foreign", 1)], &[]);
    response.resources.append(&mut foreign.resources);
    client.machine.response(response);
    client.accept();
    let error = client.requests()[0]
        .error_detail
        .clone()
        .expect("a NACK")
        .message;
    assert!(error.contains("double: occurs twice"), "{error}");
    assert!(error.contains("resources[3]: has no name"), "{error}");
    assert!(error.contains("foreign: is a "), "{error}");
    assert_eq!(client.has(&CDS), had(&[("good", 1)]));
}

#[test]
fn garbage_in_a_body_is_the_callers_to_refuse() {
    let mut client = Client::<Sotw>::connected(&all());
    let mut response = sotw(&CDS, "1", &[("a", 1)]);
    response.resources.push(Any {
        type_url: CDS.to_string(),
        value: vec![0xff; 40],
    });
    client.machine.response(response);
    client.accept();
    let error = client.requests()[0]
        .error_detail
        .clone()
        .expect("a NACK")
        .message;
    assert_eq!(error, "resources[1]: has no name");
}

#[test]
fn interest_that_ends_and_comes_back_at_once_keeps_the_resource() {
    let mut client = Client::<Delta>::connected(&all());
    client.requests();
    client.machine.response(delta(&EDS, &[("a", 1)], &[]));
    client.accept();
    client.requests();
    client
        .machine
        .set_interest(&EDS, Interest::Names(BTreeSet::new()));
    assert!(client.has(&EDS).is_empty());
    client.machine.set_interest(&EDS, Interest::names(["a"]));
    assert!(
        client.requests().is_empty(),
        "the server was told nothing, so it will send nothing"
    );
    assert_eq!(names(&client.accept()), ["a"]);
}

#[test]
fn pauses_grow_until_a_server_answers() {
    let mut client = Client::<Delta>::connected(&all());
    let longest = (0..12).map(|_| client.machine.disconnected()).max();
    assert!(longest.is_some_and(|pause| pause > Duration::from_secs(2)));
    client.machine.connected();
    client.machine.response(delta(&CDS, &[], &[]));
    assert!(client.machine.disconnected() <= Duration::from_millis(500));
}

#[test]
fn pauses_are_short_again_after_a_stream_that_lasted_without_news() {
    let mut client = Client::<Delta>::connected(&all());
    for _ in 0..12 {
        client.machine.disconnected();
    }
    client.machine.connected();
    client.machine.lasted();
    assert!(client.machine.disconnected() <= Duration::from_millis(500));
}
