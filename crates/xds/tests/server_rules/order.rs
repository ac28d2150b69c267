//! What waits for what: make before break, and parents before children.

use weft_xds::pb::DeltaDiscoveryResponse;
use weft_xds::{Delta, Resource, ResourceSet, TypeUrl};

use super::{CDS, EDS, LDS, RDS, Server, delta, delta_ack, deltas, second, view};

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
    assert_eq!(deltas(&again.take(request)), ["CDS[]"]);
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

/// Cluster `b` goes, comes back while an answer is under way, and goes again: the route to it that
/// was sent in between counts.
#[test]
fn a_cluster_that_was_back_waits_for_its_routes_again() {
    let sets = |clusters, route| {
        let routes: &[&str] = &[route];
        view(&[(CDS, clusters), (LDS, &["l=1"]), (RDS, routes)])
    };
    let mut server = Server::<Delta>::new(sets(&["a=1", "b=1"], "r=a"));
    for (type_url, names) in [(CDS, &[][..]), (LDS, &[]), (RDS, &["r"])] {
        for response in server.take(delta(&type_url, names)) {
            server.take(delta_ack(&response));
        }
    }
    assert!(server.publish(sets(&["a=1"], "r=a")).is_empty());
    let changed = server.publish(sets(&["a=2"], "r=a"));
    assert_eq!(deltas(&changed), ["CDS[a=2]"]);
    let route = server.publish(sets(&["a=2", "b=1"], "r=b"));
    assert_eq!(deltas(&route), ["RDS[r=b]"]);
    assert!(server.publish(sets(&["a=2"], "r=a")).is_empty());
    assert!(server.wait(2 * second()).is_empty());
    assert!(
        server.take(delta_ack(&changed[0])).is_empty(),
        "the client is about to use the route to b"
    );
    let back = server.take(delta_ack(&route[0]));
    assert_eq!(deltas(&back), ["RDS[r=a]"]);
    assert!(server.take(delta_ack(&back[0])).is_empty());
    assert_eq!(deltas(&server.wait(2 * second())), ["CDS[-b]"]);
}
