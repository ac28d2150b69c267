//! The rules of the protocol on the server's side, one test each, as messages in and out.

use std::time::{Duration, Instant};

use weft_xds::pb::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Status,
};
use weft_xds::server::{Event, Limits, ServerStream, StreamError};
use weft_xds::{Delta, Protocol, Resource, ResourceSet, Sotw, TypeUrl, Version, View};

const CDS: TypeUrl = TypeUrl::CLUSTER;
const EDS: TypeUrl = TypeUrl::ENDPOINT;
const LDS: TypeUrl = TypeUrl::LISTENER;
const RDS: TypeUrl = TypeUrl::ROUTE;

/// Sets of resources given as `name=content`.
fn view(sets: &[(TypeUrl, &[&str])]) -> View {
    View::new(sets.iter().map(|(type_url, resources)| {
        ResourceSet::new(
            type_url.clone(),
            resources.iter().map(|resource| {
                let name = resource.split('=').next().unwrap_or_default();
                Resource::new(type_url, name, resource.as_bytes().to_vec())
            }),
        )
    }))
}

struct Server<P: Protocol> {
    machine: ServerStream<P>,
    now: Instant,
    events: Vec<Event>,
}

impl<P: Protocol> Server<P> {
    fn new(view: View) -> Self {
        Self::bounded(view, Limits::default())
    }

    fn bounded(view: View, limits: Limits) -> Self {
        Server {
            machine: ServerStream::new(1, view, limits, None),
            now: Instant::now(),
            events: Vec::new(),
        }
    }

    fn take(&mut self, request: P::Request) -> Vec<P::Response> {
        self.machine
            .request(self.now, request)
            .expect("within bounds");
        self.poll()
    }

    fn publish(&mut self, view: View) -> Vec<P::Response> {
        self.machine.set_view(view);
        self.poll()
    }

    fn wait(&mut self, time: Duration) -> Vec<P::Response> {
        self.now += time;
        self.machine.tick(self.now);
        self.poll()
    }

    fn poll(&mut self) -> Vec<P::Response> {
        let mut responses = Vec::new();
        while let Some(response) = self.machine.poll_response(self.now) {
            responses.push(response);
        }
        while let Some(event) = self.machine.poll_event() {
            self.events.push(event);
        }
        responses
    }
}

fn sotw(type_url: &TypeUrl, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: type_url.to_string(),
        resource_names: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn ack(response: &DiscoveryResponse, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: response.version_info.clone(),
        response_nonce: response.nonce.clone(),
        ..sotw(&TypeUrl::new(&response.type_url), names)
    }
}

fn delta(type_url: &TypeUrl, names: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: type_url.to_string(),
        resource_names_subscribe: names.iter().map(ToString::to_string).collect(),
        ..Default::default()
    }
}

fn delta_ack(response: &DeltaDiscoveryResponse) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        type_url: response.type_url.clone(),
        response_nonce: response.nonce.clone(),
        ..Default::default()
    }
}

fn nack(response: &DeltaDiscoveryResponse, message: &str) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        error_detail: Some(Status {
            code: 3,
            message: message.to_owned(),
            ..Default::default()
        }),
        ..delta_ack(response)
    }
}

/// `CDS[a=1 b=1]`, in the order of sending.
fn bodies(responses: &[DiscoveryResponse]) -> Vec<String> {
    let body = |response: &DiscoveryResponse| {
        let bodies = response.resources.iter().map(|any| {
            assert_eq!(any.type_url, response.type_url, "not wrapped");
            String::from_utf8_lossy(&any.value).into_owned()
        });
        let mut bodies: Vec<_> = bodies.collect();
        bodies.sort();
        format!(
            "{}[{}]",
            TypeUrl::new(&response.type_url).short(),
            bodies.join(" ")
        )
    };
    responses.iter().map(body).collect()
}

/// `CDS[a=1 -b]`, in the order of sending.
fn deltas(responses: &[DeltaDiscoveryResponse]) -> Vec<String> {
    let body = |response: &DeltaDiscoveryResponse| {
        let added = response.resources.iter().map(|wrapper| {
            let any = wrapper.resource.clone().expect("is wrapped");
            let body = String::from_utf8_lossy(&any.value).into_owned();
            assert!(body.starts_with(&wrapper.name) && Version::parse(&wrapper.version).is_some());
            body
        });
        let removed = response
            .removed_resources
            .iter()
            .map(|name| format!("-{name}"));
        let mut all: Vec<_> = added.chain(removed).collect();
        all.sort();
        format!(
            "{}[{}]",
            TypeUrl::new(&response.type_url).short(),
            all.join(" ")
        )
    };
    responses.iter().map(body).collect()
}

fn second() -> Duration {
    Duration::from_secs(1)
}

#[test]
fn an_empty_list_means_all_for_clusters_and_nothing_for_endpoints() {
    let all = view(&[(CDS, &["a=1", "b=1"]), (EDS, &["a=1"])]);
    let mut server = Server::<Sotw>::new(all.clone());
    assert_eq!(bodies(&server.take(sotw(&CDS, &[]))), ["CDS[a=1 b=1]"]);
    assert!(server.take(sotw(&EDS, &[])).is_empty());
    let mut server = Server::<Delta>::new(all.clone());
    assert_eq!(deltas(&server.take(delta(&CDS, &[]))), ["CDS[a=1 b=1]"]);
    let subscribed = |event: &Event| matches!(event, Event::Subscribed { wildcard: true, .. });
    assert!(server.events.iter().any(subscribed));
    assert!(server.take(delta(&EDS, &[])).is_empty());
    let mut server = Server::<Delta>::new(all);
    assert_eq!(deltas(&server.take(delta(&CDS, &["*"]))), ["CDS[a=1 b=1]"]);
    assert_eq!(deltas(&server.take(delta(&EDS, &["*"]))), ["EDS[a=1]"]);
}

#[test]
fn an_empty_list_after_names_means_nothing() {
    let mut server = Server::<Sotw>::new(view(&[(LDS, &["a=1", "b=1"])]));
    let first = server.take(sotw(&LDS, &["a"]));
    assert_eq!(bodies(&first), ["LDS[a=1]"]);
    assert!(server.take(ack(&first[0], &[])).is_empty());
    assert!(server.publish(view(&[(LDS, &["a=2", "b=2"])])).is_empty());
}

#[test]
fn a_first_wildcard_request_is_answered_even_if_there_is_nothing() {
    let mut server = Server::<Sotw>::new(View::default());
    assert_eq!(bodies(&server.take(sotw(&CDS, &[]))), ["CDS[]"]);
    let mut server = Server::<Delta>::new(View::default());
    assert_eq!(deltas(&server.take(delta(&CDS, &[]))), ["CDS[]"]);
}

#[test]
fn clusters_come_whole_and_endpoints_in_part_in_state_of_the_world() {
    let mut server = Server::<Sotw>::new(view(&[(CDS, &["a=1", "b=1"]), (EDS, &["a=1", "b=1"])]));
    let clusters = server.take(sotw(&CDS, &[]));
    let endpoints = server.take(sotw(&EDS, &["a", "b"]));
    server.take(ack(&clusters[0], &[]));
    server.take(ack(&endpoints[0], &["a", "b"]));
    let sent = server.publish(view(&[(CDS, &["a=1", "b=2"]), (EDS, &["a=2", "b=1"])]));
    // `b` comes again since its cluster has changed.
    assert_eq!(bodies(&sent), ["CDS[a=1 b=2]", "EDS[a=2 b=1]"]);
}

#[test]
fn a_changed_cluster_brings_its_endpoints_again() {
    let mut server = Server::<Delta>::new(view(&[(CDS, &["a=1", "b=1"]), (EDS, &["a=1", "b=1"])]));
    let clusters = server.take(delta(&CDS, &[]));
    let endpoints = server.take(delta(&EDS, &["a", "b"]));
    server.take(delta_ack(&clusters[0]));
    server.take(delta_ack(&endpoints[0]));
    let sent = server.publish(view(&[(CDS, &["a=2", "b=1"]), (EDS, &["a=1", "b=1"])]));
    assert_eq!(deltas(&sent), ["CDS[a=2]", "EDS[a=1]"]);
    // A client that lost the stream between the two gets the endpoints when it comes back.
    let have = |response: &DeltaDiscoveryResponse| {
        let resources = response.resources.iter();
        resources
            .map(|it| (it.name.clone(), it.version.clone()))
            .collect::<Vec<_>>()
    };
    let mut again = Server::<Delta>::new(server.machine.view().clone());
    let mut request = delta(&CDS, &[]);
    request.initial_resource_versions.extend(have(&clusters[0]));
    request.initial_resource_versions.extend(have(&sent[0]));
    assert!(again.take(request).is_empty());
    let mut request = delta(&EDS, &["a", "b"]);
    request
        .initial_resource_versions
        .extend(have(&endpoints[0]));
    assert_eq!(deltas(&again.take(request)), ["EDS[a=1]"]);
}

#[test]
fn a_changed_listener_brings_the_routes_it_links_again() {
    let linked = |content: &str| {
        let listener = Resource::new(&LDS, "l", content.as_bytes().to_vec());
        let listener = listener.with_links(["r".into()]);
        view(&[(RDS, &["r=1", "s=1"])]).with(ResourceSet::new(LDS, [listener]))
    };
    let mut server = Server::<Delta>::new(linked("l=1"));
    let listeners = server.take(delta(&LDS, &[]));
    let routes = server.take(delta(&RDS, &["r", "s"]));
    server.take(delta_ack(&listeners[0]));
    server.take(delta_ack(&routes[0]));
    assert_eq!(
        deltas(&server.publish(linked("l=2"))),
        ["LDS[l=2]", "RDS[r=1]"]
    );
}

#[test]
fn a_push_goes_in_the_order_of_dependence() {
    let all = |content: &str| {
        let resource = format!("x={content}");
        let one: &[&str] = &[resource.as_str()];
        let types = [
            TypeUrl::EXTENSION_CONFIG,
            TypeUrl::SECRET,
            RDS,
            LDS,
            EDS,
            CDS,
        ];
        view(&types.map(|type_url| (type_url, one)))
    };
    let mut server = Server::<Delta>::new(all("1"));
    for type_url in [
        TypeUrl::EXTENSION_CONFIG,
        TypeUrl::SECRET,
        RDS,
        LDS,
        EDS,
        CDS,
    ] {
        let sent = server.take(delta(&type_url, &["x"]));
        server.take(delta_ack(&sent[0]));
    }
    assert_eq!(
        deltas(&server.publish(all("2"))),
        [
            "CDS[x=2]",
            "EDS[x=2]",
            "LDS[x=2]",
            "RDS[x=2]",
            "SDS[x=2]",
            "ECDS[x=2]"
        ]
    );
}

#[test]
fn routes_wait_until_new_clusters_are_accepted() {
    let mut server = Server::<Delta>::new(view(&[(CDS, &["a=1"]), (RDS, &["r=a"])]));
    let clusters = server.take(delta(&CDS, &[]));
    server.take(delta_ack(&clusters[0]));
    let routes = server.take(delta(&RDS, &["r"]));
    server.take(delta_ack(&routes[0]));
    let sent = server.publish(view(&[(CDS, &["a=1", "b=1"]), (RDS, &["r=b"])]));
    assert_eq!(deltas(&sent), ["CDS[b=1]"]);
    let routes = server.take(delta_ack(&sent[0]));
    assert_eq!(deltas(&routes), ["RDS[r=b]"]);
    server.take(delta_ack(&routes[0]));
    // A client that does not answer does not hold routes for ever.
    let sent = server.publish(view(&[(CDS, &["a=1", "b=1", "c=1"]), (RDS, &["r=c"])]));
    assert_eq!(deltas(&sent), ["CDS[c=1]"]);
    let deadline = server.machine.next_deadline(server.now);
    assert_eq!(deadline, Some(server.now + 5 * second()));
    assert!(server.wait(4 * second()).is_empty());
    assert_eq!(deltas(&server.wait(second())), ["RDS[r=c]"]);
}

#[test]
fn routes_wait_until_the_endpoints_of_new_clusters_are_sent() {
    let sets = |clusters, endpoints, route: &'static str| {
        view(&[(CDS, clusters), (EDS, endpoints), (RDS, &[route])])
    };
    let mut server = Server::<Delta>::new(sets(&["a=1"], &["a=1"], "r=a"));
    for (type_url, names) in [(CDS, &[][..]), (EDS, &["a"]), (RDS, &["r"])] {
        let sent = server.take(delta(&type_url, names));
        server.take(delta_ack(&sent[0]));
    }
    // Endpoints of another cluster are under way when those of the new one are asked for.
    let sent = server.publish(sets(&["a=1", "b=1"], &["a=2", "b=1"], "r=b"));
    assert_eq!(deltas(&sent), ["CDS[b=1]", "EDS[a=2]"]);
    assert!(server.take(delta(&EDS, &["b"])).is_empty());
    assert!(
        server.take(delta_ack(&sent[0])).is_empty(),
        "routes overtake endpoints"
    );
    let rest = server.take(delta_ack(&sent[1]));
    assert_eq!(deltas(&rest), ["EDS[b=1]", "RDS[r=b]"]);
}

#[test]
fn a_cluster_goes_only_after_the_routes_to_it_have_gone() {
    let mut server = Server::<Delta>::new(view(&[
        (CDS, &["a=1", "b=1"]),
        (EDS, &["a=1", "b=1"]),
        (LDS, &["l=1"]),
        (RDS, &["r=a"]),
    ]));
    let mut acks = Vec::new();
    for (type_url, names) in [
        (CDS, &[][..]),
        (EDS, &["a", "b"]),
        (LDS, &[]),
        (RDS, &["r"]),
    ] {
        acks.extend(server.take(delta(&type_url, names)));
        if type_url == CDS {
            server.take(delta_ack(&acks[0]));
        }
    }
    for response in &acks {
        server.take(delta_ack(response));
    }
    server.wait(10 * second());
    let sent = server.publish(view(&[
        (CDS, &["b=1"]),
        (EDS, &["b=1"]),
        (LDS, &["l=1"]),
        (RDS, &["r=b"]),
    ]));
    assert_eq!(deltas(&sent), ["RDS[r=b]"]);
    assert!(
        server.wait(10 * second()).is_empty(),
        "the route is not accepted yet"
    );
    let gone = server.take(delta_ack(&sent[0]));
    assert_eq!(deltas(&gone), ["CDS[-a]"]);
    // Endpoints go after their cluster, so that the client never empties a cluster in use.
    assert_eq!(deltas(&server.take(delta_ack(&gone[0]))), ["EDS[-a]"]);
}

#[test]
fn a_stale_nonce_is_ignored_and_an_empty_one_is_not() {
    let mut server = Server::<Sotw>::new(view(&[(EDS, &["a=1", "b=1", "c=1"])]));
    let first = server.take(sotw(&EDS, &["a"]));
    assert_eq!(bodies(&first), ["EDS[a=1]"]);
    // grpc-js asks for more before it has seen the answer.
    assert!(server.take(sotw(&EDS, &["a", "b"])).is_empty());
    let second = server.take(ack(&first[0], &["a", "b"]));
    assert_eq!(bodies(&second), ["EDS[b=1]"]);
    assert!(server.take(ack(&first[0], &["a", "b", "c"])).is_empty());
    assert!(server.events.contains(&Event::StaleNonce { type_url: EDS }));
    assert_eq!(
        bodies(&server.take(ack(&second[0], &["a", "b", "c"]))),
        ["EDS[c=1]"]
    );
}

#[test]
fn subscriptions_of_a_stale_delta_request_count() {
    let mut server = Server::<Delta>::new(view(&[(EDS, &["a=1", "b=1"])]));
    let first = server.take(delta(&EDS, &["a"]));
    server.take(delta_ack(&first[0]));
    let mut stale = delta(&EDS, &["b"]);
    stale.response_nonce = "0-0".to_owned();
    assert_eq!(deltas(&server.take(stale)), ["EDS[b=1]"]);
}

#[test]
fn one_answer_a_type_is_under_way_and_newer_states_become_one() {
    let mut server = Server::<Delta>::new(view(&[(CDS, &["a=1"])]));
    let first = server.take(delta(&CDS, &[]));
    assert!(server.publish(view(&[(CDS, &["a=2", "b=1"])])).is_empty());
    assert!(server.publish(view(&[(CDS, &["a=3", "b=1"])])).is_empty());
    assert_eq!(deltas(&server.take(delta_ack(&first[0]))), ["CDS[a=3 b=1]"]);
}

#[test]
fn an_equal_view_sends_nothing() {
    let all: &[(TypeUrl, &[&str])] = &[(CDS, &["a=1"]), (EDS, &["a=1"]), (LDS, &["l=1"])];
    let mut server = Server::<Delta>::new(view(all));
    for (type_url, names) in [(CDS, &[][..]), (EDS, &["a"]), (LDS, &[])] {
        for response in server.take(delta(&type_url, names)) {
            server.take(delta_ack(&response));
        }
    }
    assert!(server.publish(view(all)).is_empty());
    assert!(server.machine.status().iter().all(|status| status.in_sync));
}

#[test]
fn what_does_not_exist_is_said_in_delta_except_for_extensions() {
    let mut server = Server::<Delta>::new(View::default());
    assert_eq!(deltas(&server.take(delta(&RDS, &["r"]))), ["RDS[-r]"]);
    assert!(
        server
            .take(delta(&TypeUrl::EXTENSION_CONFIG, &["e"]))
            .is_empty()
    );
    let mut server = Server::<Sotw>::new(View::default());
    assert!(server.take(sotw(&RDS, &["r"])).is_empty());
    assert_eq!(
        bodies(&server.publish(view(&[(RDS, &["r=1"])]))),
        ["RDS[r=1]"]
    );
}

#[test]
fn extensions_are_never_removed() {
    let ecds = TypeUrl::EXTENSION_CONFIG;
    let mut server = Server::<Delta>::new(view(&[(ecds.clone(), &["e=1"])]));
    let first = server.take(delta(&ecds, &["e"]));
    server.take(delta_ack(&first[0]));
    assert!(server.publish(view(&[(ecds, &[])])).is_empty());
}

#[test]
fn a_reconnect_to_the_same_contents_is_sent_nothing() {
    let all: &[(TypeUrl, &[&str])] = &[(CDS, &["a=1", "b=1"]), (EDS, &["a=1", "b=1"])];
    let mut server = Server::<Sotw>::new(view(all));
    let clusters = server.take(sotw(&CDS, &[]));
    let endpoints = server.take(sotw(&EDS, &["a", "b"]));
    let mut again = Server::<Sotw>::new(view(all));
    for (response, names) in [(&clusters[0], &[][..]), (&endpoints[0], &["a", "b"])] {
        let mut request = ack(response, names);
        request.response_nonce.clear();
        assert!(again.take(request).is_empty());
    }
    assert_eq!(
        bodies(&again.publish(view(&[(CDS, &["a=2"]), (EDS, &["a=1"])]))),
        ["CDS[a=2 b=1]", "EDS[a=1]"]
    );
}

#[test]
fn a_delta_reconnect_is_sent_the_difference() {
    let mut server = Server::<Delta>::new(view(&[(CDS, &["a=1", "b=1", "c=1"])]));
    let first = server.take(delta(&CDS, &[]));
    let mut request = delta(&CDS, &[]);
    let resources = first[0].resources.iter();
    request
        .initial_resource_versions
        .extend(resources.map(|it| (it.name.clone(), it.version.clone())));
    let mut again = Server::<Delta>::new(view(&[(CDS, &["a=1", "b=2", "d=1"])]));
    let sent = again.take(request);
    assert_eq!(deltas(&sent), ["CDS[b=2 d=1]"]);
    assert!(again.take(delta_ack(&sent[0])).is_empty());
    // The client may be about to ask for the routes that still lead to `c`.
    assert_eq!(deltas(&again.wait(4 * second())), ["CDS[-c]"]);
}

#[test]
fn refused_content_is_not_sent_again_and_the_rest_goes_on() {
    let mut server = Server::<Delta>::new(view(&[(CDS, &["a=1", "b=1"])]));
    let first = server.take(delta(&CDS, &[]));
    server.take(delta_ack(&first[0]));
    let sent = server.publish(view(&[(CDS, &["a=bad", "b=2"])]));
    assert_eq!(deltas(&sent), ["CDS[a=bad b=2]"]);
    let again = server.take(nack(
        &sent[0],
        "Error adding/updating cluster(s) a: no good",
    ));
    assert_eq!(deltas(&again), ["CDS[b=2]"]);
    assert!(server.take(delta_ack(&again[0])).is_empty());
    let status = &server.machine.status()[0];
    assert!(!status.in_sync);
    assert_eq!(&*status.refused[0].0, "a");
    let sent = server.publish(view(&[(CDS, &["a=bad", "b=3"])]));
    assert_eq!(deltas(&sent), ["CDS[b=3]"]);
    server.take(delta_ack(&sent[0]));
    let sent = server.publish(view(&[(CDS, &["a=good", "b=3"])]));
    assert_eq!(deltas(&sent), ["CDS[a=good]"]);
    server.take(delta_ack(&sent[0]));
    assert!(server.machine.status()[0].in_sync && server.machine.status()[0].refused.is_empty());
}

#[test]
fn the_last_good_form_of_a_refused_resource_stays_in_a_whole_answer() {
    let mut server = Server::<Sotw>::new(view(&[(LDS, &["a=1", "b=1"])]));
    let first = server.take(sotw(&LDS, &[]));
    server.take(ack(&first[0], &[]));
    let sent = server.publish(view(&[(LDS, &["a=bad", "b=2"])]));
    let mut refusal = ack(&sent[0], &[]);
    refusal.version_info.clone_from(&first[0].version_info);
    refusal.error_detail = Some(Status {
        message: "listener a: no good".to_owned(),
        ..Default::default()
    });
    assert_eq!(bodies(&server.take(refusal)), ["LDS[a=1 b=2]"]);
}

#[test]
fn a_refusal_without_a_name_is_narrowed_down_to_its_resource() {
    let names: Vec<String> = (0..32).map(|i| format!("c{i:02}=1")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut server = Server::<Delta>::new(view(&[(CDS, &names)]));
    let mut sent = server.take(delta(&CDS, &[]));
    let mut answers = 0;
    while let Some(response) = sent.pop() {
        answers += 1;
        let bad = response.resources.iter().any(|it| it.name == "c17");
        sent = server.take(if bad {
            nack(&response, "invalid")
        } else {
            delta_ack(&response)
        });
    }
    assert!(answers < 20, "{answers} answers");
    let refused = server.machine.status()[0].refused.clone();
    assert_eq!(refused.len(), 1);
    assert_eq!(&*refused[0].0, "c17");
}

#[test]
fn large_answers_are_split_where_the_protocol_allows() {
    let names: Vec<String> = (0..9).map(|i| format!("c{i}={}", "x".repeat(96))).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let limits = Limits {
        response_bytes: 350,
        ..Limits::default()
    };
    let mut server = Server::<Delta>::bounded(view(&[(CDS, &names)]), limits);
    let mut sent = server.take(delta(&CDS, &[]));
    let mut sizes = Vec::new();
    while let Some(response) = sent.pop() {
        sizes.push(response.resources.len());
        sent = server.take(delta_ack(&response));
    }
    assert_eq!(sizes, [3, 3, 3]);
}

#[test]
fn bounds_end_the_stream_with_the_place() {
    let limits = Limits {
        names: 2,
        name_bytes: 4,
        types: 2,
        ..Limits::default()
    };
    let error = |request| {
        let mut server = Server::<Sotw>::bounded(View::default(), limits.clone());
        server.take(sotw(&CDS, &[]));
        server.take(sotw(&EDS, &["a"]));
        server
            .machine
            .request(server.now, request)
            .map_err(|error| error.to_string())
    };
    assert_eq!(
        error(sotw(&LDS, &[])),
        Err("type_url: the stream asks for more than 2 types".to_owned())
    );
    assert!(
        error(sotw(&EDS, &["a", "b", "c"]))
            .is_err_and(|error| error.contains("more than 2 resources"))
    );
    assert!(
        error(sotw(&EDS, &["abcde"])).is_err_and(|error| error.contains("longer than 4 bytes"))
    );
    assert_eq!(
        error(DiscoveryRequest::default()),
        Err(StreamError::NoType.to_string())
    );
}

#[test]
fn an_unknown_type_is_counted_and_not_answered() {
    let url = TypeUrl::new("type.googleapis.com/istio.networking.nds.v1.NameTable");
    let mut server = Server::<Delta>::new(View::default());
    assert!(server.take(delta(&url, &[])).is_empty());
    assert!(server.events.contains(&Event::UnknownType {
        type_url: url.clone()
    }));
    assert_eq!(server.publish(view(&[(url, &["n=1"])])).len(), 1);
}

#[test]
fn a_missing_ack_is_reported_once() {
    let mut server = Server::<Delta>::new(view(&[(CDS, &["a=1"])]));
    server.take(delta(&CDS, &[]));
    for _ in 0..3 {
        assert!(server.wait(30 * second()).is_empty());
    }
    let overdue = Event::AckOverdue { type_url: CDS };
    assert_eq!(
        server
            .events
            .iter()
            .filter(|event| **event == overdue)
            .count(),
        1
    );
}

#[test]
fn a_name_asked_for_again_is_sent_again_in_delta() {
    let mut server = Server::<Delta>::new(view(&[(EDS, &["a=1"])]));
    let first = server.take(delta(&EDS, &["a"]));
    server.take(delta_ack(&first[0]));
    let mut gone = delta(&EDS, &[]);
    gone.resource_names_unsubscribe.push("a".to_owned());
    assert!(server.take(gone).is_empty());
    assert_eq!(deltas(&server.take(delta(&EDS, &["a"]))), ["EDS[a=1]"]);
}
