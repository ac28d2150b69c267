//! What a NACK changes, and what an ACK takes back.

use weft_xds::pb::{DiscoveryRequest, DiscoveryResponse, Status};
use weft_xds::{Delta, Sotw};

use super::{
    CDS, LDS, RDS, Server, ack, bodies, delta, delta_ack, deltas, nack, second, sotw, view,
};

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

fn refusal(response: &DiscoveryResponse, message: &str) -> DiscoveryRequest {
    DiscoveryRequest {
        version_info: String::new(),
        error_detail: Some(Status {
            message: message.to_owned(),
            ..Default::default()
        }),
        ..ack(response, &[])
    }
}

/// A client of state of the world comes back with something that the server does not know, and
/// refuses without a name: all that was offered counts as refused, and is repeated, since the
/// client may have earlier forms. Once it accepts such an answer it has all of it.
#[test]
fn an_accepted_answer_takes_back_every_refusal_of_what_it_repeats() {
    let sets = |clusters, listeners| view(&[(CDS, clusters), (LDS, listeners), (RDS, &[])]);
    let mut server = Server::<Sotw>::new(sets(&["a=1", "b=1"], &["k=bad", "l=1"]));
    let clusters = server.take(sotw(&CDS, &[]));
    server.take(ack(&clusters[0], &[]));
    let mut first = sotw(&LDS, &[]);
    "of an earlier life".clone_into(&mut first.version_info);
    let listeners = server.take(first);
    let again = server.take(refusal(&listeners[0], "invalid"));
    assert_eq!(bodies(&again), ["LDS[k=bad l=1]"]);
    server.take(refusal(&again[0], "invalid"));
    let sent = server.publish(sets(&["a=1"], &["k=good", "l=1"]));
    assert_eq!(bodies(&sent), ["LDS[k=good l=1]"]);
    let refused = &server.machine.status()[1].refused;
    assert!(
        refused.iter().any(|(name, _)| &**name == "l"),
        "{refused:?}"
    );
    server.take(ack(&sent[0], &[]));
    let status = &server.machine.status()[1];
    assert!(status.refused.is_empty() && status.in_sync, "{status:?}");
    assert_eq!(
        bodies(&server.wait(10 * second())),
        ["CDS[a=1]"],
        "nothing holds the removal up"
    );
}

/// Clients keep the good part of what they refuse, so the server takes it that `l` may be there;
/// an accepted complete answer without it says that it is not.
#[test]
fn an_accepted_complete_answer_leaves_nothing_in_doubt() {
    let sets = |clusters, listeners| view(&[(CDS, clusters), (LDS, listeners), (RDS, &[])]);
    let mut server = Server::<Sotw>::new(sets(&["a=1", "b=1"], &["k=bad", "l=1"]));
    let clusters = server.take(sotw(&CDS, &[]));
    server.take(ack(&clusters[0], &[]));
    let first = server.take(sotw(&LDS, &[]));
    assert!(
        server
            .publish(sets(&["a=1"], &["k=bad", "l=bad"]))
            .is_empty()
    );
    let second_try = server.take(refusal(&first[0], "k: no good"));
    assert_eq!(bodies(&second_try), ["LDS[l=bad]"]);
    let third_try = server.take(refusal(&second_try[0], "l: no good"));
    assert_eq!(bodies(&third_try), ["LDS[]"]);
    assert!(
        server.wait(10 * second()).is_empty(),
        "l=1 may be there, and may need b"
    );
    assert_eq!(bodies(&server.take(ack(&third_try[0], &[]))), ["CDS[a=1]"]);
}
