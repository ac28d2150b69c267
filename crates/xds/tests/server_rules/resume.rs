//! What a client that comes back is sent.

use weft_xds::server::Event;
use weft_xds::{Delta, Sotw, TypeUrl};

use super::{CDS, EDS, Server, ack, bodies, delta, delta_ack, deltas, second, sotw, view};

/// Envoy and gRPC wait longer and longer before they come back if nothing came on the last stream.
#[test]
fn a_reconnect_to_the_same_contents_is_heard_and_sent_nothing() {
    let all: &[(TypeUrl, &[&str])] = &[(CDS, &["a=1", "b=1"]), (EDS, &["a=1", "b=1"])];
    let mut server = Server::<Sotw>::new(view(all));
    let clusters = server.take(sotw(&CDS, &[]));
    let endpoints = server.take(sotw(&EDS, &["a", "b"]));
    let mut again = Server::<Sotw>::new(view(all));
    for (response, names, answer) in [
        // A complete answer cannot be empty.
        (&clusters[0], &[][..], &[][..]),
        (&endpoints[0], &["a", "b"], &["EDS[]"]),
    ] {
        let mut request = ack(response, names);
        request.response_nonce.clear();
        let answers = again.take(request);
        assert_eq!(bodies(&answers), answer);
        for answer in answers {
            assert_eq!(answer.version_info, response.version_info);
            assert!(again.take(ack(&answer, names)).is_empty());
        }
    }
    assert!(again.machine.status().iter().all(|status| status.in_sync));
    assert_eq!(
        bodies(&again.publish(view(&[(CDS, &["a=2"]), (EDS, &["a=1"])]))),
        ["CDS[a=2 b=1]", "EDS[a=1]"]
    );
}

/// Envoy refuses an empty state-of-the-world answer of these.
#[test]
fn secrets_and_extensions_are_not_answered_with_nothing() {
    for type_url in [TypeUrl::SECRET, TypeUrl::EXTENSION_CONFIG] {
        let all = view(&[(type_url.clone(), &["a=1"])]);
        let mut server = Server::<Sotw>::new(all.clone());
        let sent = server.take(sotw(&type_url, &["a"]));
        let mut request = ack(&sent[0], &["a"]);
        request.response_nonce.clear();
        assert!(Server::<Sotw>::new(all).take(request).is_empty());
    }
}

#[test]
fn a_delta_reconnect_to_the_same_contents_is_heard_once_a_type() {
    let all: &[(TypeUrl, &[&str])] = &[
        (CDS, &["a=1"]),
        (EDS, &["a=1"]),
        (TypeUrl::SECRET, &["s=1"]),
    ];
    let mut server = Server::<Delta>::new(view(all));
    let mut again = Server::<Delta>::new(view(all));
    for (type_url, names, answer) in [
        (CDS, &[][..], "CDS[]"),
        (EDS, &["a"], "EDS[]"),
        (TypeUrl::SECRET, &["s"], "SDS[]"),
    ] {
        let sent = server.take(delta(&type_url, names));
        let mut request = delta(&type_url, names);
        for resource in &sent[0].resources {
            let (name, version) = (resource.name.clone(), resource.version.clone());
            request.initial_resource_versions.insert(name, version);
        }
        let answers = again.take(request);
        assert_eq!(deltas(&answers), [answer]);
        assert!(again.take(delta_ack(&answers[0])).is_empty());
    }
    let resumed = |event: &&Event| matches!(event, Event::Resumed { .. });
    assert_eq!(again.events.iter().filter(resumed).count(), 3);
    assert!(again.machine.status().iter().all(|status| status.in_sync));
}

/// What is gone waits for routes; the client is heard before.
#[test]
fn a_reconnect_that_only_loses_something_is_heard_at_once() {
    let mut server = Server::<Delta>::new(view(&[(CDS, &["a=1", "b=1"])]));
    let first = server.take(delta(&CDS, &[]));
    let mut request = delta(&CDS, &[]);
    let resources = first[0].resources.iter();
    request
        .initial_resource_versions
        .extend(resources.map(|it| (it.name.clone(), it.version.clone())));
    let mut again = Server::<Delta>::new(view(&[(CDS, &["a=1"])]));
    let sent = again.take(request);
    assert_eq!(deltas(&sent), ["CDS[]"]);
    assert!(again.take(delta_ack(&sent[0])).is_empty());
    assert_eq!(deltas(&again.wait(4 * second())), ["CDS[-b]"]);
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
