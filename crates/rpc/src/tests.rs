//! What holds for every codec: frames do not depend on how the bytes arrive, and no bytes do harm.

use bytes::BytesMut;
use proptest::prelude::*;

use crate::{
    Attributes, CODECS, Codec, Decoded, Frame, Kind, Limits, ResultForm, Scan, Sniffed, codec,
};

/// Hexadecimal digits as bytes.
pub(crate) fn bytes(parts: &[&str]) -> Vec<u8> {
    let digits = parts.concat();
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// Bytes that are one frame.
pub(crate) fn whole(codec: &'static dyn Codec, bytes: &[u8]) -> Frame {
    let mut input = BytesMut::from(bytes);
    let Ok(Decoded::Frame(frame)) = codec.decode(&mut input, Limits::default()) else {
        panic!("no frame");
    };
    assert!(input.is_empty());
    frame
}

/// Frames of real peers, by codec. A codec without any fails the test below.
fn golden() -> Vec<(&'static dyn Codec, Vec<Vec<u8>>)> {
    let table: &[(&str, &[&[&str]])] = &[
        ("bolt", crate::bolt::golden::ALL),
        ("dubbo", crate::dubbo::golden::ALL),
        ("tars", crate::tars::golden::ALL),
        ("thrift", crate::thrift::golden::ALL),
    ];
    let frames = |all: &[&[&str]]| all.iter().map(|parts| bytes(parts)).collect();
    let row = |(name, all): &(&str, &[&[&str]])| (codec(name).unwrap(), frames(all));
    table.iter().map(row).collect()
}

/// Everything that a proxy does with a frame.
fn use_all(codec: &'static dyn Codec, mut frame: Frame) {
    for name in ["interface", "service", "method", "version", "group", "tag"] {
        let attributes = Attributes::new(codec, &frame);
        let _value = attributes.get(&crate::Attribute::named(name));
    }
    let method = codec.call(&frame).method.unwrap_or_default().to_owned();
    let _timeout = codec.timeout_ms(&frame);
    if frame.kind() == Kind::Heartbeat {
        let _answer = codec.heartbeat_answer(&frame);
    }
    let origin = frame.origin();
    for failure in crate::Failure::ALL {
        let reply = codec.error_reply(origin, &method, failure, "because of ünï");
        assert_eq!(whole(codec, &reply).id(), origin.id);
    }
    if let Some(heartbeat) = codec.heartbeat(origin) {
        assert_eq!(whole(codec, &heartbeat).kind(), Kind::Heartbeat);
    }
    if let Some(goaway) = codec.goaway(origin, true) {
        assert_eq!(whole(codec, &goaway).kind(), Kind::GoAway);
    }
    codec.set_id(&mut frame, codec.max_id());
    let again = whole(codec, frame.bytes());
    assert_eq!((again.id(), again.kind()), (codec.max_id(), frame.kind()));
    let mut changed = again;
    let attachments = codec.attachments(&changed).len();
    if codec
        .set_attachments(&mut changed, &[("weft", "1")])
        .is_ok()
    {
        let mut changed = whole(codec, changed.bytes());
        assert_eq!(changed.kind(), frame.kind());
        assert!(codec.attachments(&changed).len() <= attachments + 1);
        if codec.remove_attachments(&mut changed, &["Weft"]).is_ok() {
            let changed = whole(codec, changed.bytes());
            let all = codec.attachments(&changed);
            assert!(!all.iter().any(|(name, _)| name == "weft"));
        }
    }
    if let Some(known) = codec.known_attachments(&frame) {
        assert_eq!(known, codec.attachments(&frame));
    }
    let _ = codec.status(frame.bytes());
    if let Some(generic) = codec.generic() {
        let (omit_class, max_bytes) = (false, 1 << 16);
        let form = ResultForm {
            omit_class,
            max_bytes,
        };
        let _ = generic.answer(&frame, form);
    }
}

/// Decodes until more is needed or there is an error; whether there was one.
fn drain(codec: &'static dyn Codec, input: &mut BytesMut, frames: &mut Vec<Vec<u8>>) -> bool {
    drain_on(codec, input, &mut Scan::default(), frames)
}

fn drain_on(
    codec: &'static dyn Codec,
    input: &mut BytesMut,
    scan: &mut Scan,
    frames: &mut Vec<Vec<u8>>,
) -> bool {
    loop {
        let before = input.len();
        let anew = codec.decode(&mut input.clone(), Limits::default());
        let decoded = codec.decode_on(input, Limits::default(), scan);
        match (&anew, &decoded) {
            (Ok(Decoded::Frame(anew)), Ok(Decoded::Frame(frame))) => {
                assert_eq!(anew.bytes(), frame.bytes());
            }
            (Ok(Decoded::NeedMore(_)), Ok(Decoded::NeedMore(_))) => {}
            (Err(anew), Err(error)) => assert_eq!(anew, error),
            _ => panic!("{anew:?} is now {decoded:?}"),
        }
        match decoded {
            Ok(Decoded::Frame(frame)) => {
                assert_eq!(before, frame.bytes().len() + input.len());
                frames.push(frame.bytes().to_vec());
                use_all(codec, frame);
            }
            Ok(Decoded::NeedMore(needed)) => {
                assert!(needed > before);
                assert_eq!(input.len(), before);
                return false;
            }
            Err(_) => {
                assert_eq!(input.len(), before);
                return true;
            }
        }
    }
}

#[test]
fn every_codec_has_frames_of_real_peers_and_knows_its_own() {
    let golden = golden();
    for codec in CODECS {
        let (_, frames) = golden
            .iter()
            .find(|(of, _)| of.name() == codec.name())
            .unwrap();
        for frame in frames {
            assert_eq!(codec.sniff(frame), Sniffed::Yes);
            for other in CODECS.iter().filter(|other| other.name() != codec.name()) {
                assert_eq!(other.sniff(frame), Sniffed::No, "{}", other.name());
            }
        }
    }
}

proptest! {
    #[test]
    fn any_split_of_the_input_gives_the_same_frames(
        order in prop::collection::vec(any::<prop::sample::Index>(), 1..6),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12),
    ) {
        for (codec, golden) in golden() {
            let sent: Vec<_> = order.iter().map(|one| one.get(&golden).clone()).collect();
            let all = sent.concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(all.len())).collect();
            cuts.extend([0, all.len()]);
            cuts.sort_unstable();
            let (mut input, mut frames) = (BytesMut::new(), Vec::new());
            let mut scan = Scan::default();
            for part in cuts.windows(2) {
                input.extend_from_slice(&all[part[0]..part[1]]);
                prop_assert!(!drain_on(codec, &mut input, &mut scan, &mut frames));
            }
            prop_assert!(input.is_empty());
            prop_assert_eq!(&frames, &sent);
        }
    }

    #[test]
    fn damaged_frames_are_errors_or_other_frames_and_never_more(
        which: prop::sample::Index,
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut: prop::sample::Index,
    ) {
        for (codec, golden) in golden() {
            let mut bytes = which.get(&golden).clone();
            for (at, value) in &damage {
                // Heads more often than contents.
                let at = at.index(bytes.len() * 2);
                let at = if at < bytes.len() { at } else { at % 40 % bytes.len() };
                bytes[at] = *value;
            }
            bytes.truncate(cut.index(bytes.len() + 1).max(bytes.len() / 2));
            drain(codec, &mut BytesMut::from(&*bytes), &mut Vec::new());
        }
    }

    #[test]
    fn any_bytes_do_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        for codec in CODECS {
            let _sniffed = codec.sniff(&bytes);
            drain(*codec, &mut BytesMut::from(&*bytes), &mut Vec::new());
        }
    }
}
