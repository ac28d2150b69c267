//! What a request asks for: lists, names, nonces, types, and their bounds.

use weft_xds::pb::DiscoveryRequest;
use weft_xds::server::{Event, Limits, StreamError};
use weft_xds::{Delta, Sotw, TypeUrl, View};

use super::{CDS, EDS, LDS, RDS, Server, ack, bodies, delta, delta_ack, deltas, sotw, view};

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
fn a_name_asked_for_again_is_sent_again_in_delta() {
    let mut server = Server::<Delta>::new(view(&[(EDS, &["a=1"])]));
    let first = server.take(delta(&EDS, &["a"]));
    server.take(delta_ack(&first[0]));
    let mut gone = delta(&EDS, &[]);
    gone.resource_names_unsubscribe.push("a".to_owned());
    assert!(server.take(gone).is_empty());
    assert_eq!(deltas(&server.take(delta(&EDS, &["a"]))), ["EDS[a=1]"]);
}
#[test]
fn an_unknown_type_is_counted_and_not_answered() {
    let url = TypeUrl::new("type.googleapis.com/istio.workload.Workload");
    let mut server = Server::<Delta>::new(View::default());
    assert!(server.take(delta(&url, &[])).is_empty());
    assert!(server.events.contains(&Event::UnknownType {
        type_url: url.clone()
    }));
    assert_eq!(server.publish(view(&[(url, &["n=1"])])).len(), 1);
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
