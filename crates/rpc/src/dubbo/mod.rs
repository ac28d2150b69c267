//! Dubbo 2. Sources: Dubbo, `ExchangeCodec.java`, `DubboCodec.java`, `HeartbeatHandler.java`.
//!
//! A header of 16 bytes: 0xdabb; flags (0x80 request, 0x40 wants an answer, 0x20 event, 0x1f
//! serialization); status of a response; id(8); length of the body(4). Bodies in hessian2 and fastjson2
//! are read as far as rules ask; those of other serializations are carried as they are.

mod body;
mod generic;
#[cfg(test)]
pub(crate) mod golden;
mod jsonb;
#[cfg(test)]
mod tests;

use bytes::{BufMut as _, BytesMut};

use crate::attributes::{Attachments, Call};
use crate::bytes_at::{i32_at, put, u8_at};
use crate::codec::{Codec, DecodeError, Decoded, Failure, Limits, PoolMode, RewriteError, Sniffed};
use crate::frame::{Flavour, Frame, Kind, Origin, Outcome};
use crate::generic::Generic;
use crate::hessian;

/// See the module.
#[derive(Debug)]
pub(crate) struct Dubbo;

const MAGIC: [u8; 2] = [0xda, 0xbb];
const HEADER: usize = 16;
const ID_AT: usize = 4;
const LEN_AT: usize = 12;

const REQUEST: u8 = 0x80;
const TWO_WAY: u8 = 0x40;
const EVENT: u8 = 0x20;
const SERIALIZATION: u8 = 0x1f;

/// Serializations whose bodies are read.
const HESSIAN2: u8 = 2;
const FASTJSON2: u8 = 23;

const OK: u8 = 20;

/// What an event says; the sender stops or goes on taking requests.
const READONLY: u8 = b'R';
const WRITABLE: u8 = b'W';

fn body(frame: &Frame) -> &[u8] {
    frame.bytes.get(HEADER..).unwrap_or_default()
}

fn serialization(flavour: Flavour) -> u8 {
    flavour.0 as u8 & SERIALIZATION
}

/// The longest body of a heartbeat: a null in whatever serialization.
const MAX_NULL: usize = 16;

/// An event's word: a string of one letter, in any serialization that writes letters last.
fn word(body: &[u8]) -> Option<u8> {
    body.last()
        .copied()
        .filter(|_| (2..=6).contains(&body.len()))
}

fn kind_of(flags: u8, body: &[u8]) -> Kind {
    let (request, two_way, event) = (flags & REQUEST, flags & TWO_WAY, flags & EVENT);
    match (request != 0, event != 0, two_way != 0) {
        (false, true, _) => Kind::HeartbeatAnswer,
        (false, false, _) => Kind::Response,
        (true, true, two_way) => match (word(body), two_way) {
            (Some(READONLY), _) => Kind::GoAway,
            (Some(WRITABLE), _) => Kind::Resume,
            (_, true) if body.len() <= MAX_NULL => Kind::Heartbeat,
            _ => Kind::Notice,
        },
        (true, false, true) => Kind::Request,
        (true, false, false) => Kind::Oneway,
    }
}

fn outcome_of(status: u8, serialization: u8, body: &[u8]) -> Outcome {
    match status {
        OK => match (serialization, body) {
            // The result is an exception: without attachments, and with them.
            (HESSIAN2, [0x90 | 0x93, ..]) | (FASTJSON2, [0, 0, 0, 2, 0xbd, 0 | 3, ..]) => {
                Outcome::Exception
            }
            _ => Outcome::Success,
        },
        30 | 31 => Outcome::Timeout,
        40 | 60 | 90 => Outcome::ClientError,
        100 => Outcome::Overload,
        _ => Outcome::ServerError,
    }
}

fn status_of(failure: Failure) -> u8 {
    match failure {
        Failure::NoRoute => 60,
        Failure::NoHost | Failure::ConnectFailed | Failure::Internal => 80,
        Failure::UpstreamClosed => 35,
        Failure::Overload => 100,
        Failure::Denied => 70,
        Failure::Timeout => 31,
        Failure::BadRequest => 40,
    }
}

fn write((flags, status): (u8, u8), id: u64, body: &[u8]) -> BytesMut {
    let mut out = BytesMut::with_capacity(HEADER + body.len());
    out.put_slice(&MAGIC);
    out.put_u8(flags);
    out.put_u8(status);
    out.put_u64(id);
    out.put_u32(body.len() as u32);
    out.put_slice(body);
    out
}

/// The serialization in which we write to a peer that uses `flavour`, of which it knows one more at
/// least: Dubbo's own default.
fn own_serialization(flavour: Flavour) -> u8 {
    match serialization(flavour) {
        FASTJSON2 => FASTJSON2,
        _ => HESSIAN2,
    }
}

fn event(origin: Origin, text: Option<u8>, flags: u8) -> BytesMut {
    let serialization = own_serialization(origin.flavour);
    let body = match (serialization, text) {
        (FASTJSON2, None) => jsonb::NULL,
        (FASTJSON2, Some(letter)) => &[0, 0, 0, 2, 0x4a, letter],
        (_, None) => b"N",
        (_, Some(letter)) => &[1, letter],
    };
    write(
        (REQUEST | EVENT | flags | serialization, 0),
        origin.id,
        body,
    )
}

/// Sets attachments, and takes others out.
fn rewrite(
    frame: &mut Frame,
    changes: &[(&str, &str)],
    removed: &[&str],
) -> Result<(), RewriteError> {
    let ok = u8_at(&frame.bytes, 3) == Some(OK);
    let readable = match frame.kind {
        Kind::Request | Kind::Oneway => true,
        Kind::Response => ok,
        _ => false,
    };
    if !readable {
        return Err(RewriteError::Unreadable);
    }
    let old = body(frame);
    let edit = (changes, removed);
    let (from, new) = body::changed(serialization(frame.flavour), frame.kind, old, edit)?;
    let len = from + new.len();
    if i32::try_from(len).is_err() {
        return Err(RewriteError::TooLong {
            bytes: new.len(),
            limit: i32::MAX as usize,
        });
    }
    let mut bytes = BytesMut::with_capacity(HEADER + len);
    let kept = frame.bytes.get(..HEADER + from).unwrap_or_default();
    bytes.extend_from_slice(kept);
    bytes.extend_from_slice(&new);
    put(&mut bytes, LEN_AT, &(len as u32).to_be_bytes());
    frame.bytes = bytes;
    Ok(())
}

impl Codec for Dubbo {
    fn name(&self) -> &'static str {
        "dubbo"
    }

    fn sniff(&self, prefix: &[u8]) -> Sniffed {
        match prefix {
            [] | [0xda] => Sniffed::NeedMore,
            [0xda, 0xbb, ..] => Sniffed::Yes,
            _ => Sniffed::No,
        }
    }

    fn decode(&self, input: &mut BytesMut, limits: Limits) -> Result<Decoded, DecodeError> {
        for (at, wanted) in MAGIC.into_iter().enumerate() {
            if let Some(value) = u8_at(input, at).filter(|value| *value != wanted) {
                let what = "Dubbo frame";
                return Err(DecodeError::Magic { what, at, value });
            }
        }
        let Some(header) = input.first_chunk::<HEADER>() else {
            return Ok(Decoded::NeedMore(HEADER));
        };
        let [_, _, flags, status, rest @ ..] = *header;
        let body_len = i32_at(header, LEN_AT).unwrap_or_default();
        let body_len =
            usize::try_from(body_len).map_err(|_| DecodeError::Negative { what: "body" })?;
        let len = HEADER + body_len;
        if len > limits.max_frame {
            return Err(DecodeError::TooLong {
                bytes: len as u64,
                limit: limits.max_frame,
            });
        }
        let Some(body) = input.get(HEADER..len) else {
            return Ok(Decoded::NeedMore(len));
        };
        let id = rest.first_chunk().map_or(0, |id| u64::from_be_bytes(*id));
        let kind = kind_of(flags, body);
        let outcome = match kind {
            Kind::Response => outcome_of(status, flags & SERIALIZATION, body),
            _ => Outcome::Success,
        };
        Ok(Decoded::Frame(Frame {
            bytes: input.split_to(len),
            kind,
            id,
            flavour: Flavour((flags & SERIALIZATION).into()),
            outcome,
            parts: [0; 3],
        }))
    }

    fn pool_mode(&self) -> PoolMode {
        PoolMode::Multiplex
    }

    fn max_id(&self) -> u64 {
        i64::MAX as u64
    }

    fn set_id(&self, frame: &mut Frame, id: u64) {
        put(&mut frame.bytes, ID_AT, &id.to_be_bytes());
        frame.id = id;
    }

    /// The attachment `timeout`, which Dubbo's clients send with each call.
    fn timeout_ms(&self, frame: &Frame) -> i32 {
        if !matches!(frame.kind, Kind::Request | Kind::Oneway) {
            return 0;
        }
        let attachments = self.attachments(frame);
        let timeout = attachments.iter().find(|(key, _)| key == "timeout");
        timeout.map_or(0, |(_, value)| value.parse().unwrap_or(0))
    }

    fn call<'f>(&self, frame: &'f Frame) -> Call<'f> {
        match frame.kind {
            Kind::Request | Kind::Oneway => body::call(serialization(frame.flavour), body(frame)),
            _ => Call::default(),
        }
    }

    fn attachments<'f>(&self, frame: &'f Frame) -> Attachments<'f> {
        self.known_attachments(frame).unwrap_or_default()
    }

    fn known_attachments<'f>(&self, frame: &'f Frame) -> Option<Attachments<'f>> {
        match frame.kind {
            Kind::Request | Kind::Oneway | Kind::Response => {
                body::attachments(serialization(frame.flavour), frame.kind, body(frame))
            }
            _ => Some(Attachments::new()),
        }
    }

    fn status(&self, response: &[u8]) -> Option<u32> {
        u8_at(response, 3).map(u32::from)
    }

    fn remove_attachments(&self, frame: &mut Frame, names: &[&str]) -> Result<(), RewriteError> {
        rewrite(frame, &[], names)
    }

    fn set_attachments(
        &self,
        frame: &mut Frame,
        changes: &[(&str, &str)],
    ) -> Result<(), RewriteError> {
        rewrite(frame, changes, &[])
    }

    fn heartbeat(&self, origin: Origin) -> Option<BytesMut> {
        Some(event(origin, None, TWO_WAY))
    }

    /// With the heartbeat's own body, which is a null in whatever serialization it has.
    fn heartbeat_answer(&self, heartbeat: &Frame) -> Option<BytesMut> {
        if heartbeat.kind != Kind::Heartbeat {
            return None;
        }
        let flags = EVENT | serialization(heartbeat.flavour);
        Some(write((flags, OK), heartbeat.id, body(heartbeat)))
    }

    fn goaway(&self, origin: Origin, _extended: bool) -> Option<BytesMut> {
        Some(event(origin, Some(READONLY), 0))
    }

    fn error_reply(
        &self,
        request: Origin,
        _method: &str,
        failure: Failure,
        text: &str,
    ) -> BytesMut {
        let serialization = own_serialization(request.flavour);
        let mut body = Vec::with_capacity(text.len() + 10);
        if serialization == FASTJSON2 {
            jsonb::put_string(&mut body, text);
        } else {
            hessian::put_string(&mut body, text);
        }
        write((serialization, status_of(failure)), request.id, &body)
    }

    fn generic(&self) -> Option<&'static dyn Generic> {
        Some(&generic::ByNames)
    }
}
