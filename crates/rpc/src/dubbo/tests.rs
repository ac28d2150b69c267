//! Dubbo against the bytes of real peers.

use bytes::BytesMut;

use super::golden::{
    HEARTBEAT, HEARTBEAT_ANSWER, HEARTBEAT_FASTJSON2, MIXED, MIXED_RESPONSE, ONEWAY, REQUEST,
    REQUEST_FASTJSON2, RESPONSE, RESPONSE_FASTJSON2, SURROGATES,
};
use super::{Dubbo, body, event};
use crate::tests::{bytes, whole};
use crate::{
    Attribute, Attributes, Codec as _, DecodeError, Failure, Flavour, Frame, Kind, Limits, Origin,
    Outcome, RewriteError,
};

fn frame(parts: &[&str]) -> Frame {
    whole(&Dubbo, &bytes(parts))
}

/// The frame with other bytes at some places.
fn with(parts: &[&str], changes: &[(usize, u8)]) -> Frame {
    let mut bytes = bytes(parts);
    for (at, value) in changes {
        bytes[*at] = *value;
    }
    whole(&Dubbo, &bytes)
}

fn get(frame: &Frame, name: &str) -> Option<String> {
    let attributes = Attributes::new(&Dubbo, frame);
    attributes.get(&Attribute::named(name)).map(str::to_owned)
}

#[test]
fn frames_of_a_real_peer_are_understood() {
    for (parts, kind) in [
        (REQUEST, Kind::Request),
        (REQUEST_FASTJSON2, Kind::Request),
        (ONEWAY, Kind::Oneway),
        (RESPONSE, Kind::Response),
        (RESPONSE_FASTJSON2, Kind::Response),
        (HEARTBEAT, Kind::Heartbeat),
        (HEARTBEAT_FASTJSON2, Kind::Heartbeat),
        (HEARTBEAT_ANSWER, Kind::HeartbeatAnswer),
    ] {
        let frame = frame(parts);
        assert_eq!((frame.kind(), frame.outcome()), (kind, Outcome::Success));
        assert_eq!(frame.bytes(), bytes(parts));
    }
}

#[test]
fn a_request_says_what_it_calls_in_both_serializations() {
    for (parts, method, tag) in [
        (REQUEST, "where", Some("gray")),
        (REQUEST_FASTJSON2, "where", Some("gray")),
        (MIXED, "mixed", Some("gray")),
        (SURROGATES, "payload", None),
        (ONEWAY, "note", None),
    ] {
        let frame = frame(parts);
        for (name, value) in [
            ("interface", Some("shop.Cart")),
            ("method", Some(method)),
            ("version", Some("1.2.0")),
            ("group", Some("blue")),
            ("tag", tag),
            ("remote.application", Some("shop")),
            ("nothing", None),
        ] {
            assert_eq!(get(&frame, name).as_deref(), value, "{method} {name}");
        }
        assert_eq!(Dubbo.timeout_ms(&frame), 2000, "{method}");
    }
}

#[test]
fn other_serializations_are_carried_and_not_read() {
    for serialization in [3, 4, 6, 8, 16, 21, 31] {
        let mut frame = with(REQUEST, &[(2, 0xc0 | serialization)]);
        assert_eq!(frame.kind(), Kind::Request);
        assert_eq!(get(&frame, "interface"), None);
        assert_eq!(Dubbo.timeout_ms(&frame), 0);
        let refused = Dubbo.set_attachments(&mut frame, &[("a", "b")]);
        assert_eq!(refused, Err(RewriteError::Unreadable));
        let origin = frame.origin();
        // What we write ourselves is in a serialization that every Dubbo knows.
        let reply = Dubbo.error_reply(origin, "", Failure::NoRoute, "no route");
        assert_eq!(&reply[2..4], &[2, 60]);
        assert_eq!(&reply[16..], b"\x08no route");
        let beat = with(HEARTBEAT, &[(2, 0xe0 | serialization)]);
        let answer = Dubbo.heartbeat_answer(&beat).unwrap();
        assert_eq!(&answer[2..4], &[0x20 | serialization, 20]);
    }
}

#[test]
fn attachments_are_replaced_and_added_at_the_end() {
    for parts in [REQUEST, MIXED, SURROGATES, ONEWAY, RESPONSE, MIXED_RESPONSE] {
        let old = frame(parts);
        let mut new = frame(parts);
        let long = "ü😀".repeat(20_000);
        let changes = [("group", "old"), ("é", &*long), ("group", "green")];
        Dubbo.set_attachments(&mut new, &changes).unwrap();
        let new = whole(&Dubbo, new.bytes());
        let attachments = Dubbo.attachments(&new);
        let value = |key: &str| attachments.iter().find(|(name, _)| name == key);
        assert_eq!(value("group").unwrap().1, "green");
        assert_eq!(value("é").unwrap().1, long);
        let kept = Dubbo.attachments(&old);
        for (key, old) in kept.iter().filter(|(key, _)| key != "group") {
            assert_eq!(&value(key).unwrap().1, old);
        }
        assert_eq!((new.id(), new.kind()), (old.id(), old.kind()));
    }
    let mut same = frame(REQUEST);
    Dubbo
        .set_attachments(&mut same, &[("tag", "gray")])
        .unwrap();
    assert_eq!(same.bytes(), bytes(REQUEST));
}

#[test]
fn attachments_are_taken_out_whatever_their_case() {
    for parts in [REQUEST, MIXED, RESPONSE] {
        let old = frame(parts);
        let mut new = frame(parts);
        Dubbo.set_attachments(&mut new, &[("Gone", "x")]).unwrap();
        Dubbo.remove_attachments(&mut new, &["gone", "no"]).unwrap();
        let new = whole(&Dubbo, new.bytes());
        assert_eq!(Dubbo.known_attachments(&new), Dubbo.known_attachments(&old));
    }
}

#[test]
fn what_cannot_be_read_is_not_taken_for_nothing() {
    let known = |frame: &Frame| Dubbo.known_attachments(frame).map(|all| all.len());
    assert!(known(&frame(REQUEST)).is_some_and(|count| count > 0));
    assert_eq!(known(&with(REQUEST, &[(2, 0xc3)])), None);
    // A null in place of the map, and a map that does not end.
    let plain = |end: &[u8]| {
        let body = [b"\x052.0.2\x01I\x010\x01m\0", end].concat();
        let mut bytes = b"\xda\xbb\xc2\0\0\0\0\0\0\0\0\x01\0\0\0".to_vec();
        bytes.push(body.len() as u8);
        bytes.extend(body);
        whole(&Dubbo, &bytes)
    };
    assert_eq!(known(&plain(b"N")), Some(0));
    assert_eq!(known(&plain(b"HZ")), Some(0));
    assert_eq!(known(&plain(b"H\x01a\x01b")), None);
}

#[test]
fn a_response_without_attachments_is_left_alone() {
    // A value without attachments; a failed call.
    for changes in [&[(16, 0x91)][..], &[(3, 70)]] {
        let mut response = with(RESPONSE, changes);
        let before = response.bytes().to_vec();
        let refused = Dubbo.set_attachments(&mut response, &[("a", "b")]);
        assert_eq!(refused, Err(RewriteError::Unreadable));
        assert_eq!(response.bytes(), before);
    }
}

#[test]
fn an_id_is_rewritten_in_place() {
    let mut request = frame(REQUEST);
    let old = request.id();
    let place = request.bytes().as_ptr();
    Dubbo.set_id(&mut request, 5);
    assert_eq!(request.bytes().as_ptr(), place);
    assert_eq!(whole(&Dubbo, request.bytes()).id(), 5);
    Dubbo.set_id(&mut request, old);
    assert_eq!(request.bytes(), bytes(REQUEST));
}

#[test]
fn heartbeats_are_answered_as_the_peer_does() {
    let mut answer = bytes(HEARTBEAT_ANSWER);
    let beat = frame(HEARTBEAT);
    answer[4..12].copy_from_slice(&beat.id().to_be_bytes());
    assert_eq!(Dubbo.heartbeat_answer(&beat).unwrap(), answer);
    assert_eq!(Dubbo.heartbeat(beat.origin()).unwrap(), bytes(HEARTBEAT));
    let beat = frame(HEARTBEAT_FASTJSON2);
    assert_eq!(
        Dubbo.heartbeat(beat.origin()).unwrap(),
        bytes(HEARTBEAT_FASTJSON2)
    );
    let answer = Dubbo.heartbeat_answer(&beat).unwrap();
    let answer = whole(&Dubbo, &answer);
    assert_eq!(answer.kind(), Kind::HeartbeatAnswer);
    assert_eq!((answer.id(), body(&answer)), (beat.id(), body(&beat)));
}

#[test]
fn events_say_whether_requests_are_wanted() {
    for flavour in [Flavour(2), Flavour(23)] {
        let origin = Origin { id: 1, flavour };
        let kind = |text, flags| whole(&Dubbo, &event(origin, text, flags)).kind();
        assert_eq!(kind(Some(b'R'), 0), Kind::GoAway);
        assert_eq!(kind(Some(b'W'), 0), Kind::Resume);
        assert_eq!(kind(None, 0), Kind::Notice);
        assert_eq!(kind(None, super::TWO_WAY), Kind::Heartbeat);
        let goaway = whole(&Dubbo, &Dubbo.goaway(origin, false).unwrap());
        assert_eq!(goaway.kind(), Kind::GoAway);
        assert_eq!(Dubbo.heartbeat_answer(&goaway), None);
    }
}

#[test]
fn an_event_with_a_long_body_is_no_heartbeat_and_is_not_sent_back() {
    let flags = super::REQUEST | super::EVENT | super::TWO_WAY | 3;
    for (len, kind) in [(16, Kind::Heartbeat), (17, Kind::Notice)] {
        let event = whole(&Dubbo, &super::write((flags, 0), 5, &vec![0; len]));
        assert_eq!(event.kind(), kind, "{len}");
        let answer = Dubbo.heartbeat_answer(&event);
        assert_eq!(answer.is_some(), kind == Kind::Heartbeat, "{len}");
    }
}

#[test]
fn statuses_and_exceptions_say_how_a_call_ended() {
    for (status, outcome) in [
        (20, Outcome::Success),
        (30, Outcome::Timeout),
        (31, Outcome::Timeout),
        (40, Outcome::ClientError),
        (70, Outcome::ServerError),
        (100, Outcome::Overload),
        (0, Outcome::ServerError),
    ] {
        assert_eq!(with(RESPONSE, &[(3, status)]).outcome(), outcome);
    }
    for code in [0x90, 0x93] {
        assert_eq!(with(RESPONSE, &[(16, code)]).outcome(), Outcome::Exception);
    }
    let thrown = with(RESPONSE_FASTJSON2, &[(21, 3)]);
    assert_eq!(thrown.outcome(), Outcome::Exception);
    for parts in [REQUEST, REQUEST_FASTJSON2] {
        let origin = frame(parts).origin();
        for failure in Failure::ALL {
            let reply = whole(&Dubbo, &Dubbo.error_reply(origin, "pay", failure, "why"));
            assert_eq!((reply.kind(), reply.origin()), (Kind::Response, origin));
            assert_ne!(reply.outcome(), Outcome::Success, "{failure:?}");
        }
    }
}

#[test]
fn what_is_no_dubbo_is_refused_with_its_place() {
    let error = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = bytes(REQUEST);
        change(&mut bytes);
        let mut input = BytesMut::from(&*bytes);
        let error = Dubbo.decode(&mut input, Limits::default()).unwrap_err();
        assert_eq!(input, bytes, "nothing is lost");
        error
    };
    let what = "Dubbo frame";
    let magic = |at, value| DecodeError::Magic { what, at, value };
    assert_eq!(error(&|b| b[0] = 0xdb), magic(0, 0xdb));
    assert_eq!(error(&|b| b[1] = 0), magic(1, 0));
    let negative = DecodeError::Negative { what: "body" };
    assert_eq!(error(&|b| b[12] = 0xff), negative);
    let long = error(&|b| b[12] = 0x7f);
    assert!(matches!(long, DecodeError::TooLong { .. }));
}

#[test]
fn values_inside_of_values_have_a_bound() {
    // A map in a map in a map, as the only argument.
    let mut bytes = bytes(REQUEST);
    let argument = bytes
        .windows(5)
        .position(|five| five == b"\x04item")
        .unwrap();
    bytes.splice(argument..argument + 5, [b'H'].repeat(100_000));
    let len = (bytes.len() - 16) as u32;
    bytes[12..16].copy_from_slice(&len.to_be_bytes());
    let frame = whole(&Dubbo, &bytes);
    assert_eq!(get(&frame, "method").as_deref(), Some("where"));
    assert_eq!(get(&frame, "tag"), None);
}
