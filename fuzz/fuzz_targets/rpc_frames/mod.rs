//! What holds for any bytes and any codec: they are frames or an error, nothing is lost, and what is
//! rewritten is a frame again.

use bytes::BytesMut;
use weft_rpc::{
    Attribute, Attributes, Codec, Decoded, Failure, Frame, Limits, ResultForm, Scan,
};

/// Bytes of a frame: small, so that lengths beyond it are found.
const LIMITS: Limits = Limits { max_frame: 4096 };

pub fn check(name: &str, bytes: &[u8]) {
    let codec = weft_rpc::codec(name).expect("a codec of the table");
    let _sniffed = codec.sniff(bytes);
    let mut input = BytesMut::from(bytes);
    let pieces = in_pieces(codec, bytes);
    let mut count = 0;
    loop {
        let before = input.len();
        match codec.decode(&mut input, LIMITS) {
            Ok(Decoded::Frame(frame)) => {
                assert_eq!(before, frame.bytes().len() + input.len());
                assert_eq!(pieces.get(count).map(|piece| &**piece), Some(frame.bytes()));
                count += 1;
                frame_is_sound(codec, frame);
            }
            Ok(Decoded::NeedMore(needed)) => {
                assert!(needed > before && input.len() == before);
                break;
            }
            Err(_) => {
                assert_eq!(input.len(), before);
                break;
            }
        }
    }
}

/// The frames that there are when the bytes come a few at a time.
fn in_pieces(codec: &'static dyn Codec, bytes: &[u8]) -> Vec<Vec<u8>> {
    let (mut input, mut scan, mut frames) = (BytesMut::new(), Scan::default(), Vec::new());
    for piece in bytes.chunks(3) {
        input.extend_from_slice(piece);
        loop {
            match codec.decode_on(&mut input, LIMITS, &mut scan) {
                Ok(Decoded::Frame(frame)) => frames.push(frame.bytes().to_vec()),
                Ok(Decoded::NeedMore(_)) => break,
                Err(_) => return frames,
            }
        }
    }
    frames
}

fn decode(codec: &'static dyn Codec, bytes: &[u8]) -> Frame {
    let mut input = BytesMut::from(bytes);
    let Ok(Decoded::Frame(frame)) = codec.decode(&mut input, Limits::default()) else {
        panic!("what was written is no frame");
    };
    assert!(input.is_empty());
    frame
}

fn frame_is_sound(codec: &'static dyn Codec, mut frame: Frame) {
    let attributes = Attributes::new(codec, &frame);
    for name in ["service", "method", "version", "group", "tag"] {
        let _value = attributes.get(&Attribute::named(name));
    }
    drop(attributes);
    let _timeout = codec.timeout_ms(&frame);
    let _answer = codec.heartbeat_answer(&frame);
    for failure in Failure::ALL {
        decode(codec, &codec.error_reply(frame.origin(), "m", failure, "text"));
    }
    if let Some(heartbeat) = codec.heartbeat(frame.origin()) {
        decode(codec, &heartbeat);
    }
    if let Some(generic) = codec.generic() {
        let (omit_class, max_bytes) = (false, 1 << 16);
        let _said = generic.answer(&frame, ResultForm { omit_class, max_bytes });
    }
    codec.set_id(&mut frame, 77);
    assert_eq!(decode(codec, frame.bytes()).id(), 77);
    if codec.set_attachments(&mut frame, &[("key", "value")]).is_ok() {
        let again = decode(codec, frame.bytes());
        assert_eq!((again.id(), again.kind()), (77, frame.kind()));
    }
}
