//! Bolt against the bytes of real peers.

use bytes::BytesMut;

use super::golden::{
    HEARTBEAT_ANSWER_CRC, HEARTBEAT_ANSWER_V1, HEARTBEAT_ANSWER_V2, HEARTBEAT_CRC, HEARTBEAT_V1,
    ONEWAY_V2, REQUEST_CRC, REQUEST_V1, RESPONSE_CRC, RESPONSE_V1,
};
use super::{Bolt, Layout};
use crate::tests::{bytes, whole};
use crate::{
    Attribute, Attributes, Codec as _, DecodeError, Decoded, Failure, Flavour, Frame, Kind, Limits,
    Origin, Outcome, RewriteError, Sniffed,
};

fn frame(parts: &[&str]) -> Frame {
    whole(&Bolt, &bytes(parts))
}

#[test]
fn frames_of_a_real_peer_are_understood() {
    let cases: &[(&[&str], Kind, u64, i32)] = &[
        (REQUEST_V1, Kind::Request, 7, 3000),
        (REQUEST_CRC, Kind::Request, 7, 3000),
        (ONEWAY_V2, Kind::Oneway, 8, 3000),
        (RESPONSE_V1, Kind::Response, 7, 0),
        (RESPONSE_CRC, Kind::Response, 7, 0),
        (HEARTBEAT_V1, Kind::Heartbeat, 9, 3000),
        (HEARTBEAT_CRC, Kind::Heartbeat, 9, 3000),
        (HEARTBEAT_ANSWER_V1, Kind::HeartbeatAnswer, 9, 0),
        (HEARTBEAT_ANSWER_CRC, Kind::HeartbeatAnswer, 9, 0),
    ];
    for (parts, kind, id, timeout) in cases {
        let frame = frame(parts);
        let seen = (frame.kind(), frame.id(), Bolt.timeout_ms(&frame));
        assert_eq!(seen, (*kind, *id, *timeout));
        assert_eq!(frame.outcome(), Outcome::Success);
        assert_eq!(frame.bytes(), bytes(parts));
    }
}

#[test]
fn a_request_says_what_it_calls() {
    for parts in [REQUEST_V1, ONEWAY_V2, REQUEST_CRC] {
        let frame = frame(parts);
        let attributes = Attributes::new(&Bolt, &frame);
        for (name, value) in [
            ("interface", Some("com.shop.Cart")),
            ("service", Some("com.shop.Cart:1.0")),
            ("version", Some("1.0")),
            // Only the hessian content has it.
            ("method", Some("add")),
            ("group", None),
            ("sofa_head_target_app", None),
        ] {
            assert_eq!(attributes.get(&Attribute::named(name)), value, "{name}");
        }
    }
}

#[test]
fn the_header_block_comes_before_the_content() {
    let mut request = frame(REQUEST_CRC);
    let changes = [
        ("sofa_head_target_service", "com.shop.Cart:1.0:blue"),
        ("sofa_head_method_name", "remove"),
        ("service", "hidden"),
        ("tag", "x"),
        ("tag", "gray"),
    ];
    Bolt.set_attachments(&mut request, &changes).unwrap();
    let request = whole(&Bolt, request.bytes());
    let attributes = Attributes::new(&Bolt, &request);
    let get = |name| attributes.get(&Attribute::named(name));
    assert_eq!(get("method"), Some("remove"));
    assert_eq!(get("group"), Some("blue"));
    assert_eq!(get("interface"), Some("com.shop.Cart"));
    assert_eq!(get("tag"), Some("gray"));
    assert_eq!(Bolt.attachments(&request).len(), 4);
    let content = |frame: &Frame| Bolt::content(frame).to_vec();
    assert_eq!(content(&request), content(&frame(REQUEST_CRC)));
    // A response has no pairs yet.
    let mut response = frame(RESPONSE_V1);
    Bolt.set_attachments(&mut response, &[("k", "v")]).unwrap();
    let response = whole(&Bolt, response.bytes());
    assert_eq!(Bolt.attachments(&response).len(), 1);
}

#[test]
fn pairs_are_taken_out_and_the_status_is_told() {
    let mut request = frame(REQUEST_CRC);
    let before = Bolt.attachments(&request).len();
    Bolt.set_attachments(&mut request, &[("Gone", "x")])
        .unwrap();
    Bolt.remove_attachments(&mut request, &["gone"]).unwrap();
    let request = whole(&Bolt, request.bytes());
    assert_eq!(Bolt.attachments(&request).len(), before);
    for parts in [REQUEST_V1, REQUEST_CRC] {
        let origin = frame(parts).origin();
        let reply = Bolt.error_reply(origin, "", Failure::Timeout, "");
        assert_eq!(Bolt.status(&reply), Some(7));
    }
}

#[test]
fn a_header_block_that_is_too_long_or_damaged_is_left_alone() {
    let mut request = frame(REQUEST_V1);
    let long = "v".repeat(0x8000);
    let refused = Bolt.set_attachments(&mut request, &[("k", &long)]);
    assert!(matches!(refused, Err(RewriteError::TooLong { .. })));
    assert_eq!(request.bytes(), bytes(REQUEST_V1));
    let mut damaged = bytes(REQUEST_V1);
    // The length of the first key: more than there is.
    damaged[22 + 44 + 2] = 0x7f;
    let mut request = whole(&Bolt, &damaged);
    let refused = Bolt.set_attachments(&mut request, &[("k", "v")]);
    assert_eq!(refused, Err(RewriteError::Unreadable));
    assert_eq!(Bolt.attachments(&request).len(), 0);
    assert_eq!(Bolt.known_attachments(&request), None);
    assert_eq!(Bolt.call(&request).service, None);
}

#[test]
fn an_id_is_rewritten_in_place_and_the_checksum_follows() {
    for parts in [REQUEST_V1, ONEWAY_V2, REQUEST_CRC, RESPONSE_CRC] {
        let mut frame = frame(parts);
        let place = frame.bytes().as_ptr();
        let old = frame.id();
        Bolt.set_id(&mut frame, 0x1234_5678);
        assert_eq!(frame.bytes().as_ptr(), place);
        assert_eq!(whole(&Bolt, frame.bytes()).id(), 0x1234_5678);
        Bolt.set_id(&mut frame, old);
        assert_eq!(frame.bytes(), bytes(parts));
    }
}

#[test]
fn heartbeats_are_answered_as_the_peer_does() {
    for (asked, answer) in [
        (HEARTBEAT_V1, HEARTBEAT_ANSWER_V1),
        (HEARTBEAT_CRC, HEARTBEAT_ANSWER_CRC),
    ] {
        let given = Bolt.heartbeat_answer(&frame(asked)).unwrap();
        assert_eq!(given, bytes(answer));
    }
    let origin = Origin {
        id: 9,
        ..frame(ONEWAY_V2).origin()
    };
    let beat = whole(&Bolt, &Bolt.heartbeat(origin).unwrap());
    let given = Bolt.heartbeat_answer(&beat).unwrap();
    assert_eq!(given, bytes(HEARTBEAT_ANSWER_V2));
}

#[test]
fn errors_have_the_protocols_status() {
    for parts in [REQUEST_V1, ONEWAY_V2, REQUEST_CRC] {
        let origin = frame(parts).origin();
        for (failure, outcome) in [
            (Failure::NoRoute, Outcome::ClientError),
            (Failure::NoHost, Outcome::ServerError),
            (Failure::Overload, Outcome::Overload),
            (Failure::Timeout, Outcome::Timeout),
        ] {
            let reply = whole(&Bolt, &Bolt.error_reply(origin, "pay", failure, "why"));
            assert_eq!((reply.kind(), reply.origin()), (Kind::Response, origin));
            assert_eq!(reply.outcome(), outcome, "{failure:?}");
        }
        for failure in Failure::ALL {
            let reply = whole(&Bolt, &Bolt.error_reply(origin, "pay", failure, "why"));
            assert_ne!(reply.outcome(), Outcome::Success, "{failure:?}");
        }
        assert_eq!(Bolt.goaway(origin, false), None);
        let goaway = Bolt.goaway(origin, true).unwrap();
        let type_at = if goaway[0] == 2 { 2 } else { 1 };
        assert_eq!(goaway[type_at], super::REQUEST);
        assert_eq!(whole(&Bolt, &goaway).kind(), Kind::GoAway);
    }
}

#[test]
fn what_is_no_bolt_is_refused_with_its_place() {
    let error = |change: &dyn Fn(&mut Vec<u8>), parts: &[&str]| {
        let mut bytes = bytes(parts);
        change(&mut bytes);
        let mut input = BytesMut::from(&*bytes);
        let error = Bolt.decode(&mut input, Limits::default()).unwrap_err();
        assert_eq!(input, bytes, "nothing is lost");
        error
    };
    let magic = |at, what| move |e| matches!(e, DecodeError::Magic { at: a, what: w, .. } if a == at && w == what);
    assert!(magic(0, "Bolt frame")(error(&|b| b[0] = 3, REQUEST_V1)));
    assert!(magic(1, "type of a Bolt frame")(error(
        &|b| b[1] = 3,
        REQUEST_V1
    )));
    assert!(magic(1, "version of Bolt")(error(&|b| b[1] = 0, ONEWAY_V2)));
    let negative = error(&|b| b[18] = 0x80, REQUEST_V1);
    assert_eq!(negative, DecodeError::Negative { what: "content" });
    let long = error(&|b| b[18] = 0x7f, REQUEST_V1);
    assert!(matches!(long, DecodeError::TooLong { .. }));
    let sum = error(&|b| b[40] ^= 1, REQUEST_CRC);
    assert!(matches!(sum, DecodeError::Checksum { .. }));
}

#[test]
fn a_frame_may_be_as_long_as_the_limit() {
    let bytes = bytes(REQUEST_CRC);
    let decode = |max_frame| {
        let mut input = BytesMut::from(&*bytes);
        Bolt.decode(&mut input, Limits { max_frame })
    };
    assert!(matches!(decode(bytes.len()), Ok(Decoded::Frame(_))));
    let error = DecodeError::TooLong {
        bytes: bytes.len() as u64,
        limit: bytes.len() - 1,
    };
    assert_eq!(decode(bytes.len() - 1).unwrap_err(), error);
}

#[test]
fn sniffing_needs_five_bytes_at_most() {
    for parts in super::golden::ALL {
        let bytes = bytes(parts);
        assert_eq!(Bolt.sniff(&bytes[..5]), Sniffed::Yes);
        for len in 0..4 {
            assert_ne!(Bolt.sniff(&bytes[..len]), Sniffed::No, "{len}");
        }
    }
    for other in [
        &b"GET /"[..],
        b"PRI *",
        b"\xda\xbb",
        b"\x16\x03\x01",
        b"\x01\x03\0\0\x01",
    ] {
        assert_eq!(Bolt.sniff(other), Sniffed::No);
    }
}

#[test]
fn flavours_say_all_of_a_layout() {
    for bits in 0..8 {
        let flavour = Flavour(bits << 8 | 0x0b);
        assert_eq!(Layout::of(flavour).flavour(), flavour);
    }
}
