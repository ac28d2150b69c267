//! What frames of Apache Thrift say, and what becomes of them.

use bytes::BytesMut;

use super::golden::*;
use super::{Thrift, Transport, message::Protocol, of_flavour};
use crate::codec::{Codec as _, DecodeError, Decoded, Failure, Limits, Sniffed};
use crate::frame::{Kind, Outcome};
use crate::scan::Scan;
use crate::tests::{bytes, whole};
use crate::{Frame, codec};

fn frame(golden: &[&str]) -> Frame {
    whole(&Thrift, &bytes(golden))
}

#[test]
fn messages_of_all_transports_and_protocols_are_read() {
    use Protocol::{Compact, Old, Strict};
    use Transport::{Framed, Header, Unframed};
    for (golden, kind, form, id, interface, method) in [
        (
            STRICT,
            Kind::Request,
            (Unframed, Strict),
            7,
            None,
            Some("pay"),
        ),
        (OLD, Kind::Request, (Unframed, Old), 7, None, Some("pay")),
        (
            COMPACT,
            Kind::Request,
            (Unframed, Compact),
            7,
            None,
            Some("pay"),
        ),
        (
            FRAMED,
            Kind::Request,
            (Framed, Strict),
            7,
            None,
            Some("pay"),
        ),
        (
            FRAMED_OLD,
            Kind::Request,
            (Framed, Old),
            7,
            None,
            Some("pay"),
        ),
        (
            FRAMED_COMPACT,
            Kind::Request,
            (Framed, Compact),
            70_000,
            None,
            Some("pay"),
        ),
        (
            HEADER,
            Kind::Request,
            (Header, Strict),
            7,
            None,
            Some("pay"),
        ),
        (
            HEADER_COMPACT,
            Kind::Request,
            (Header, Compact),
            7,
            Some("shop.Cart"),
            Some("pay"),
        ),
        (
            MULTIPLEXED,
            Kind::Request,
            (Framed, Strict),
            7,
            Some("shop.Cart"),
            Some("pay"),
        ),
        (
            ONEWAY,
            Kind::Oneway,
            (Unframed, Compact),
            7,
            None,
            Some("note"),
        ),
        (REPLY, Kind::Response, (Framed, Strict), 7, None, None),
    ] {
        let frame = frame(golden);
        assert_eq!((frame.kind(), frame.id()), (kind, id), "{golden:?}");
        assert_eq!(of_flavour(frame.flavour), form, "{golden:?}");
        let call = Thrift.call(&frame);
        assert_eq!((call.interface, call.method), (interface, method));
        assert_eq!(call.service, interface);
    }
}

#[test]
fn answers_say_how_the_call_ended() {
    for (golden, outcome) in [
        (REPLY, Outcome::Success),
        (REPLY_VOID, Outcome::Success),
        (REPLY_EXCEPTION, Outcome::Exception),
        (UNKNOWN_METHOD, Outcome::ClientError),
        (INTERNAL, Outcome::ServerError),
    ] {
        assert_eq!(frame(golden).outcome(), outcome, "{golden:?}");
    }
}

#[test]
fn an_id_of_another_length_changes_nothing_else() {
    for golden in ALL {
        let before = frame(golden);
        for id in [0, 1, 127, 128, 70_001, Thrift.max_id()] {
            let mut changed = before.duplicate();
            Thrift.set_id(&mut changed, id);
            let mut again = whole(&Thrift, changed.bytes());
            assert_eq!((again.id(), again.kind()), (id, before.kind()));
            assert_eq!(Thrift.call(&again), Thrift.call(&before));
            assert_eq!(again.outcome(), before.outcome());
            Thrift.set_id(&mut again, before.id());
            assert_eq!(again.bytes(), before.bytes());
        }
    }
}

#[test]
fn headers_are_attachments() {
    let mut frame = frame(HEADER_COMPACT);
    assert_eq!(Thrift.timeout_ms(&frame), 2000);
    let pairs = |frame: &Frame| {
        let all = Thrift.attachments(frame);
        let pair = |(key, value): &(_, _)| format!("{key}={value}");
        all.iter().map(pair).collect::<Vec<_>>()
    };
    assert_eq!(pairs(&frame), ["tag=gray", "client_timeout=2000"]);
    let changes = [("tag", "blue"), ("new", "ä"), ("new", "b"), ("tag", "red")];
    Thrift.set_attachments(&mut frame, &changes).unwrap();
    let mut again = whole(&Thrift, frame.bytes());
    assert_eq!(pairs(&again), ["tag=red", "client_timeout=2000", "new=b"]);
    assert_eq!(Thrift.call(&again).method, Some("pay"));
    Thrift.set_id(&mut again, 70_000);
    let again = whole(&Thrift, again.bytes());
    assert_eq!((pairs(&again).len(), again.id()), (3, 70_000));
    // What has no headers cannot have any.
    let mut plain = whole(&Thrift, &bytes(FRAMED));
    assert!(Thrift.attachments(&plain).is_empty());
    assert!(Thrift.set_attachments(&mut plain, &changes).is_err());
    assert_eq!(plain.bytes(), bytes(FRAMED));
    // Nor can there be more than the length of the header says.
    let long = "x".repeat(300_000);
    assert!(Thrift.set_attachments(&mut frame, &[("k", &long)]).is_err());
}

#[test]
fn headers_of_a_connection_and_unknown_ones_stay() {
    // Binary, no transforms; k=v, for the connection: p=q; a block of kind 9.
    let header = b"\0\0\x01\x01\x01k\x01v\x02\x01\x01p\x01q\x09ab";
    let mut input = vec![0, 0, 0, 0, 0x0f, 0xff, 0, 3, 0, 0, 0, 7, 0, 4];
    input.extend(header);
    input.resize(14 + 20, 0);
    input[13] = ((input.len() - 14) / 4) as u8;
    input.extend(bytes(STRICT));
    let len = (input.len() as u32 - 4).to_be_bytes();
    input[..4].copy_from_slice(&len);
    let mut frame = whole(&Thrift, &input);
    assert_eq!(Thrift.attachments(&frame).len(), 2);
    Thrift
        .set_attachments(&mut frame, &[("p", "r"), ("n", "1")])
        .unwrap();
    let frame = whole(&Thrift, frame.bytes());
    let all = Thrift.attachments(&frame);
    let keys: Vec<_> = all
        .iter()
        .map(|(key, value)| format!("{key}{value}"))
        .collect();
    assert_eq!(keys, ["kv", "n1", "pr"]);
    let contains = |part: &[u8]| frame.bytes().windows(part.len()).any(|w| w == part);
    assert!(contains(b"\x09ab") && contains(&[0x0f, 0xff, 0, 3, 0, 0, 0, 7]));
}

#[test]
fn errors_come_in_the_form_of_the_request() {
    for golden in [
        STRICT,
        OLD,
        COMPACT,
        FRAMED,
        FRAMED_OLD,
        FRAMED_COMPACT,
        HEADER,
        HEADER_COMPACT,
    ] {
        let request = frame(golden);
        for failure in Failure::ALL {
            let reply = Thrift.error_reply(request.origin(), "pay", failure, "no way");
            let reply = whole(&Thrift, &reply);
            assert_eq!((reply.kind(), reply.id()), (Kind::Response, request.id()));
            assert_eq!(reply.flavour, request.flavour);
            let client = matches!(failure, Failure::NoRoute | Failure::BadRequest);
            let wanted = if client {
                Outcome::ClientError
            } else {
                Outcome::ServerError
            };
            assert_eq!(reply.outcome(), wanted);
        }
    }
    // Byte for byte what Thrift's own server says.
    let request = frame(OLD);
    let reply = Thrift.error_reply(request.origin(), "pay", Failure::Internal, "unknown method");
    assert_eq!(reply, bytes(INTERNAL));
}

#[test]
fn messages_without_a_frame_follow_one_another() {
    let mut input = BytesMut::new();
    for golden in [COMPACT, ONEWAY, STRICT, OLD] {
        input.extend_from_slice(&bytes(golden));
    }
    for golden in [COMPACT, ONEWAY, STRICT, OLD] {
        let decoded = Thrift.decode(&mut input, Limits::default());
        let Ok(Decoded::Frame(frame)) = decoded else {
            panic!("{decoded:?}")
        };
        assert_eq!(frame.bytes(), bytes(golden));
    }
    assert!(input.is_empty());
}

/// A call with a list of so many empty structs.
fn long(count: u32) -> Vec<u8> {
    let mut input = vec![0x80, 1, 0, 1, 0, 0, 0, 1, b'm', 0, 0, 0, 1, 15, 0, 1, 12];
    input.extend(count.to_be_bytes());
    input.resize(input.len() + count as usize + 1, 0);
    input
}

#[test]
fn bytes_that_were_read_are_not_read_again() {
    // Byte by byte, looking at all of it each time would take hours.
    let whole = long(1_000_000);
    let (mut input, mut scan) = (BytesMut::with_capacity(whole.len()), Scan::default());
    let mut frames = 0;
    for byte in &whole {
        input.extend_from_slice(&[*byte]);
        match Thrift.decode_on(&mut input, Limits::default(), &mut scan) {
            Ok(Decoded::Frame(frame)) => {
                frames += 1;
                assert_eq!(frame.bytes().len(), whole.len());
            }
            Ok(Decoded::NeedMore(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!(input.is_empty() && scan.0.is_none());
    assert_eq!(frames, 1);
}

#[test]
fn what_is_no_thrift_is_an_error() {
    let nested = {
        // A list of lists of lists.
        let mut input = vec![0x82, 0x21, 1, 1, b'm', 0x19];
        input.extend([0x19; 100]);
        input
    };
    let mut transformed = bytes(HEADER);
    transformed[15] = 1;
    let mut unknown = bytes(HEADER);
    unknown[14] = 3;
    // A second call behind the first, in one frame.
    let framed = bytes(FRAMED);
    let mut double = [&framed[..], &framed[4..]].concat();
    let len = double.len() as u32 - 4;
    double[..4].copy_from_slice(&len.to_be_bytes());
    let mut cut = framed[..framed.len() - 1].to_vec();
    let len = cut.len() as u32 - 4;
    cut[..4].copy_from_slice(&len.to_be_bytes());
    let mut huge = long(0);
    huge[16] = 10;
    huge[17..21].copy_from_slice(&0x7fff_ffff_u32.to_be_bytes());
    let cases: [(&[u8], &str); 14] = [
        (b"GET / HTTP/1.1\r\n", "byte 4 is 0x2f"),
        (&[0x80, 2, 0, 1, 0, 0, 0, 0], "version of Thrift's binary"),
        (&[0x82, 0x22, 1, 0], "version of Thrift's compact"),
        (
            &[0x80, 1, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "type of a Thrift message",
        ),
        (&[0x80, 1, 0, 1, 0xff, 0, 0, 0], "name of a Thrift method"),
        (&[0, 0, 0, 5, 0x80, 1, 0, 1, 0], "ends too early"),
        (&[0, 0, 0, 0x20, 0xfe, 1, 0, 1, 0], "byte 4 is 0xfe"),
        (
            &[0x80, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 1, 99, 0, 1, 0],
            "struct cannot be read",
        ),
        (&nested, "too deep"),
        (&transformed, "transform of a Thrift frame"),
        (&unknown, "protocol of a Thrift frame"),
        (&huge, "longer than the allowed"),
        (&double, "not that of its message"),
        (&cut, "not that of its message"),
    ];
    for (input, wanted) in cases {
        let decoded = Thrift.decode(&mut BytesMut::from(input), Limits::default());
        let error = decoded.expect_err(wanted).to_string();
        assert!(error.contains(wanted), "{error}, wanted {wanted}");
    }
    let error = Thrift.decode(
        &mut BytesMut::from(&*long(2000)),
        Limits { max_frame: 1000 },
    );
    assert_eq!(
        error.expect_err("too long"),
        DecodeError::TooLong {
            bytes: 2022,
            limit: 1000
        }
    );
}

#[test]
fn others_are_told_from_it_by_their_first_bytes() {
    for other in [
        &b"GET / HTTP/1.1\r\n"[..],
        b"PRI * HTTP/2.0\r\n",
        &[0x16, 3, 1, 2, 0, 1, 0, 1],
        &[0, 0, 0, 0x40, 0x10, 1, 0x2c, 0x3c],
        &[0, 0, 0, 4, 1, 2, 3, 4],
        &[0x80, 2],
        &[0x82, 0x22],
    ] {
        assert_eq!(Thrift.sniff(other), Sniffed::No, "{other:?}");
    }
    for golden in ALL {
        let frame = bytes(golden);
        for cut in 0..frame.len() {
            assert_ne!(Thrift.sniff(&frame[..cut]), Sniffed::No, "{golden:?} {cut}");
        }
        // That is known long before there is a whole frame.
        assert_eq!(Thrift.sniff(&frame[..frame.len().min(20)]), Sniffed::Yes);
    }
    assert!(codec("thrift").is_some());
}
