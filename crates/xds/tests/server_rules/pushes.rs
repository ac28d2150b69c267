//! What a new view sends: the difference, whole or in parts, once.

use weft_xds::server::{Event, Limits};
use weft_xds::{Delta, Sotw, TypeUrl};

use super::{CDS, EDS, LDS, Server, ack, bodies, delta, delta_ack, deltas, second, sotw, view};

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
fn extensions_are_never_removed() {
    let ecds = TypeUrl::EXTENSION_CONFIG;
    let mut server = Server::<Delta>::new(view(&[(ecds.clone(), &["e=1"])]));
    let first = server.take(delta(&ecds, &["e"]));
    server.take(delta_ack(&first[0]));
    assert!(server.publish(view(&[(ecds, &[])])).is_empty());
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
