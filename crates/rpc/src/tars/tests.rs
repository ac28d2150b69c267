//! What packets of Tars say, and what becomes of them.

use bytes::BytesMut;

use super::Tars;
use super::golden::*;
use crate::Frame;
use crate::codec::{Codec as _, Failure, Limits, Sniffed};
use crate::frame::{Kind, Outcome};
use crate::tests::{bytes, whole};

fn frame(golden: &[&str]) -> Frame {
    whole(&Tars, &bytes(golden))
}

fn pairs(frame: &Frame) -> Vec<String> {
    let all = Tars.attachments(frame);
    let pair = |(key, value): &(_, _)| format!("{key}={value}");
    all.iter().map(pair).collect()
}

#[test]
fn packets_are_read() {
    for (golden, kind, id, version) in [
        (REQUEST, Kind::Request, 7, 1),
        (LARGE_ID, Kind::Request, 70_000, 1),
        (ONEWAY, Kind::Oneway, 8, 1),
        (TUP, Kind::Request, 9, 3),
        (PING, Kind::Heartbeat, 10, 1),
        (RESPONSE, Kind::Response, 7, 1),
        (NO_FUNCTION, Kind::Response, 7, 1),
    ] {
        let frame = frame(golden);
        assert_eq!((frame.kind(), frame.id()), (kind, id), "{golden:?}");
        assert_eq!(frame.flavour.0, version);
    }
    let request = frame(REQUEST);
    let call = Tars.call(&request);
    assert_eq!(call.interface, Some("Shop.CartServer.CartObj"));
    assert_eq!((call.service, call.method), (call.interface, Some("where")));
    assert_eq!(Tars.timeout_ms(&request), 3000);
    assert_eq!(pairs(&request), ["tag=gray", "user=ann"]);
    assert_eq!(pairs(&frame(LARGE_ID)), ["STATUS_DYED_KEY=k"]);
    assert_eq!(pairs(&frame(RESPONSE)), ["seen=1"]);
    assert_eq!(frame(RESPONSE).outcome(), Outcome::Success);
    assert_eq!(frame(NO_FUNCTION).outcome(), Outcome::ClientError);
}

#[test]
fn answers_in_the_form_of_requests_are_taken_for_answers() {
    for (golden, outcome) in [
        (TUP_RESPONSE, Outcome::Success),
        (TUP_ERROR, Outcome::Timeout),
    ] {
        let mut frame = frame(golden);
        assert_eq!((frame.kind(), frame.id()), (Kind::Request, 9));
        assert!(Tars.read_as_answer(&mut frame));
        assert_eq!((frame.kind(), frame.outcome()), (Kind::Response, outcome));
    }
    let mut plain = frame(REQUEST);
    assert!(!Tars.read_as_answer(&mut plain));
    assert_eq!(plain.kind(), Kind::Request);
}

#[test]
fn an_id_of_another_length_changes_nothing_else() {
    for golden in ALL {
        let before = frame(golden);
        for id in [0, 1, 127, 128, 40_000, Tars.max_id()] {
            let mut changed = before.duplicate();
            Tars.set_id(&mut changed, id);
            let mut again = whole(&Tars, changed.bytes());
            assert_eq!((again.id(), again.kind()), (id, before.kind()));
            assert_eq!(Tars.call(&again), Tars.call(&before));
            assert_eq!(pairs(&again), pairs(&before));
            Tars.set_id(&mut again, before.id());
            assert_eq!(again.bytes(), before.bytes());
        }
    }
}

#[test]
fn attachments_are_set_where_they_are() {
    let mut request = frame(REQUEST);
    let changes = [("tag", "x"), ("tag", "blue"), ("new", "ä")];
    Tars.set_attachments(&mut request, &changes).unwrap();
    let again = whole(&Tars, request.bytes());
    assert_eq!(pairs(&again), ["tag=blue", "user=ann", "new=ä"]);
    assert_eq!(Tars.call(&again).method, Some("where"));
    assert_eq!(Tars.timeout_ms(&again), 3000);
    // The contents are the same.
    let content = b"\x16\x04item";
    let has = |frame: &Frame| frame.bytes().windows(content.len()).any(|w| w == content);
    assert!(has(&again));

    let mut dyed = frame(LARGE_ID);
    let changes = [("STATUS_DYED_KEY", "l"), ("tag", "gray")];
    Tars.set_attachments(&mut dyed, &changes).unwrap();
    let dyed = whole(&Tars, dyed.bytes());
    assert_eq!(pairs(&dyed), ["tag=gray", "STATUS_DYED_KEY=l"]);

    let mut response = frame(RESPONSE);
    Tars.set_attachments(&mut response, &[("a", "b")]).unwrap();
    assert_eq!(pairs(&whole(&Tars, response.bytes())), ["seen=1", "a=b"]);
}

#[test]
fn errors_and_pings_are_answered_in_the_callers_version() {
    for golden in [REQUEST, LARGE_ID, TUP] {
        let request = frame(golden);
        for (failure, outcome) in [
            (Failure::NoRoute, Outcome::ClientError),
            (Failure::Timeout, Outcome::Timeout),
            (Failure::Overload, Outcome::Overload),
            (Failure::NoHost, Outcome::ServerError),
        ] {
            let reply = Tars.error_reply(request.origin(), "", failure, "because");
            let mut reply = whole(&Tars, &reply);
            if golden == TUP {
                assert!(Tars.read_as_answer(&mut reply));
            }
            assert_eq!((reply.kind(), reply.id()), (Kind::Response, request.id()));
            assert_eq!((reply.outcome(), reply.flavour), (outcome, request.flavour));
        }
    }
    // Byte for byte what Tars' own server says.
    let reply = Tars.error_reply(frame(TUP).origin(), "", Failure::Timeout, "late");
    let reply = whole(&Tars, &reply);
    assert_eq!(pairs(&reply), pairs(&frame(TUP_ERROR)));
    let ping = frame(PING);
    let answer = whole(&Tars, &Tars.heartbeat_answer(&ping).unwrap());
    assert_eq!((answer.kind(), answer.id()), (Kind::Response, 10));
    assert_eq!(answer.outcome(), Outcome::Success);
}

#[test]
fn what_is_no_tars_is_an_error() {
    let good = bytes(REQUEST);
    let damaged = |at: usize, value: &[u8]| {
        let mut bytes = good.clone();
        bytes[at..at + value.len()].copy_from_slice(value);
        bytes
    };
    let deep = {
        let mut bytes = vec![0, 0, 0, 0, 0x10, 1, 0x2c, 0x3c, 0x4c];
        // A list of a list of a list.
        bytes.extend(
            [0x59]
                .into_iter()
                .chain([0, 1, 9].into_iter().cycle().take(300)),
        );
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        bytes
    };
    let packet = |fields: &[u8]| {
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend(fields);
        let len = bytes.len() as u32;
        bytes[..4].copy_from_slice(&len.to_be_bytes());
        bytes
    };
    // The number of a list's elements is a list, and so on: deeper than any stack.
    let counts = packet(
        &[
            &[0x10, 1, 0x2c, 0x3c, 0x4c, 0x59][..],
            &vec![0x09; 1_000_000],
        ]
        .concat(),
    );
    // Two ids, of which a peer may take either.
    let twice = packet(&[&[0x10, 1, 0x2c, 0x3c, 0x40, 7, 0x40, 8][..], &good[11..]].concat());
    for (input, wanted) in [
        (b"GET / HTTP/1.1".to_vec(), "byte 4 is 0x2f"),
        (damaged(5, &[9]), "byte 5 is 0x09"),
        (damaged(0, &[0xff]), "length of the packet is negative"),
        (damaged(0, &[0x7f]), "longer than the allowed"),
        (vec![0, 0, 0, 3], "head of a Tars packet"),
        (
            vec![0, 0, 0, 8, 0x10, 1, 0x2c, 0x3c],
            "head of a Tars packet",
        ),
        (deep, "head of a Tars packet"),
        (counts, "head of a Tars packet"),
        (twice, "head of a Tars packet"),
    ] {
        let decoded = Tars.decode(&mut BytesMut::from(&*input), Limits::default());
        let error = decoded.expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}, wanted {wanted}");
    }
    for golden in ALL {
        let frame = bytes(golden);
        assert_eq!(Tars.sniff(&frame[..6]), Sniffed::NeedMore);
        assert_eq!(Tars.sniff(&frame[..7]), Sniffed::Yes);
    }
    assert_eq!(Tars.sniff(b"GET /"), Sniffed::No);
    assert_eq!(Tars.sniff(&[0, 0, 0, 9, 0x80]), Sniffed::No);
}
