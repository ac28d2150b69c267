//! Tars. Sources: `TarsCloud`, `RequestF.tars`, `AppProtocol`, `ServantHandle`.
//!
//! Length(4), itself included; a packet of fields with tags. Of a request: version 1, type 2 (1 is oneway),
//! id 4, servant 5, function 6, contents 7, timeout 8, context 9, status 10; of a response: version 1, id 3,
//! result 5, contents 6, status 7, description 8, context 9. Peers that speak TUP (versions 2 and 3) write
//! responses as requests, with the result in the status.

mod jce;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::BytesMut;

use crate::attributes::{Attachments, Call};
use crate::bytes_at::{i32_at, put, splice, u8_at};
use crate::codec::{Codec, DecodeError, Decoded, Failure, Limits, PoolMode, RewriteError, Sniffed};
use crate::frame::{Flavour, Frame, Kind, Origin, Outcome};
use jce::{Field, put_bytes, put_int, put_map, put_text};

/// See the module.
#[derive(Debug)]
pub(crate) struct Tars;

const LEN: usize = 4;
/// The head of the first field: tag 1, a byte.
const VERSION_HEAD: u8 = 0x10;
const TARS: u8 = 1;
const ONEWAY: i64 = 1;
/// What clients call to see whether a server is alive.
const PING: &str = "tars_ping";

const RESULT_CODE: &str = "STATUS_RESULT_CODE";
const RESULT_DESC: &str = "STATUS_RESULT_DESC";

/// Tags of both packets.
const CONTEXT: u8 = 9;

fn is_version(byte: u8) -> bool {
    // TARS, TUP in two forms, JSON.
    matches!(byte, 1 | 2 | 3 | 5)
}

fn is_tup(version: u8) -> bool {
    matches!(version, 2 | 3)
}

/// The head of a packet.
#[derive(Debug, Clone, Copy)]
struct Packet {
    version: u8,
    /// It has the form of a request.
    asks: bool,
    oneway: bool,
    id: Field,
    /// Of a request its servant, of a response its result.
    five: Field,
}

impl Packet {
    fn read(frame: &[u8]) -> Option<Self> {
        let (mut at, mut fields) = (LEN, [None; 5]);
        let mut before = 0;
        // Fields stand in the order of their tags, each once: peers take the first of two.
        loop {
            let field = Field::read(frame, at)?;
            if field.tag <= before {
                return None;
            }
            before = field.tag;
            let place = fields.get_mut(usize::from(field.tag).checked_sub(1)?)?;
            *place = Some(field);
            at = field.end;
            if field.tag == 5 {
                break;
            }
        }
        let [version, kind, three, four, five] = fields;
        let five = five?;
        let asks = five.is_text();
        let version = u8::try_from(version?.int(frame)?).ok()?;
        let (id, result) = if asks {
            (four?, Some(0))
        } else {
            (three?, five.int(frame))
        };
        i32::try_from(id.int(frame)?).ok()?;
        result?;
        Some(Self {
            version,
            asks,
            oneway: kind?.int(frame)? == ONEWAY,
            id,
            five,
        })
    }

    fn id(&self, frame: &[u8]) -> u64 {
        let id = self.id.int(frame).unwrap_or_default();
        // As a number of 32 bits; negative ones are large.
        u64::from(id as u32)
    }

    fn status_tag(&self) -> u8 {
        if self.asks { 10 } else { 7 }
    }

    /// The fields behind those of the head.
    fn rest<'f>(&self, frame: &'f [u8]) -> impl Iterator<Item = Field> + use<'f> {
        let mut at = self.five.end;
        std::iter::from_fn(move || {
            let field = Field::read(frame, at)?;
            at = field.end;
            Some(field)
        })
    }

    /// All of them, if they can be read up to the end and each is there at most once.
    fn whole_rest(&self, frame: &[u8]) -> Option<Vec<Field>> {
        let fields: Vec<Field> = self.rest(frame).collect();
        let end = fields.last().map_or(self.five.end, |field| field.end);
        let sorted = fields.is_sorted_by(|one, next| one.tag < next.tag);
        (end == frame.len() && sorted).then_some(fields)
    }

    fn find(&self, frame: &[u8], tag: u8) -> Option<Field> {
        self.rest(frame)
            .take_while(|field| field.tag <= tag)
            .find(|field| field.tag == tag)
    }

    fn attachments<'f>(&self, frame: &'f [u8]) -> Attachments<'f> {
        let maps = self
            .rest(frame)
            .filter(|field| field.tag == CONTEXT || field.tag == self.status_tag());
        let pairs = maps.flat_map(|map| map.pairs(frame));
        pairs
            .filter_map(|(key, value)| Some((key.text(frame)?.into(), value.text(frame)?.into())))
            .collect()
    }
}

fn outcome_of(result: i64) -> Outcome {
    match result {
        0 => Outcome::Success,
        // Decoding, function, servant.
        -1 | -3 | -4 => Outcome::ClientError,
        // In the queue, of the call.
        -6 | -7 => Outcome::Timeout,
        -9 => Outcome::Overload,
        _ => Outcome::ServerError,
    }
}

fn result_of(failure: Failure) -> i32 {
    match failure {
        Failure::NoRoute => -4,
        Failure::NoHost => -10,
        Failure::ConnectFailed | Failure::UpstreamClosed => -8,
        Failure::Overload => -9,
        Failure::Timeout => -7,
        Failure::BadRequest => -1,
        Failure::Denied | Failure::Internal => -99,
    }
}

fn finish(mut packet: Vec<u8>) -> BytesMut {
    let len = (packet.len() as u32).to_be_bytes();
    put(&mut packet, 0, &len);
    BytesMut::from(&*packet)
}

/// The answer to a request, without contents but for `buffer`.
fn answer(request: Origin, result: i32, text: &str, buffer: &[u8]) -> BytesMut {
    let version = request.flavour.0 as u8;
    let id = request.id as i32;
    let mut out = vec![0; LEN];
    put_int(&mut out, 1, version.into());
    put_int(&mut out, 2, 0);
    if is_tup(version) {
        put_int(&mut out, 3, 0);
        put_int(&mut out, 4, id);
        put_text(&mut out, 5, "");
        put_text(&mut out, 6, "");
        // No values by name.
        let mut values = Vec::new();
        put_map(&mut values, 0, 0);
        put_bytes(&mut out, 7, &values);
        put_int(&mut out, 8, 0);
        put_map(&mut out, CONTEXT, 0);
        put_map(&mut out, 10, 2);
        for (key, value) in [(RESULT_CODE, &*result.to_string()), (RESULT_DESC, text)] {
            put_text(&mut out, 0, key);
            put_text(&mut out, 1, value);
        }
        return finish(out);
    }
    put_int(&mut out, 3, id);
    put_int(&mut out, 4, 0);
    put_int(&mut out, 5, result);
    put_bytes(&mut out, 6, buffer);
    put_map(&mut out, 7, 0);
    put_text(&mut out, 8, text);
    put_map(&mut out, CONTEXT, 0);
    finish(out)
}

/// A map of strings with other values, and what it did not have if `add`. Empty if nothing changes.
fn changed_map(
    frame: &[u8],
    map: Option<Field>,
    tag: u8,
    changes: &[(&str, &str)],
    add: bool,
) -> Result<Vec<u8>, RewriteError> {
    let mut pairs: Vec<(Cow<'_, str>, &str)> = Vec::new();
    let mut different = false;
    for (key, value) in map.iter().flat_map(|map| map.pairs(frame)) {
        let (Some(key), Some(mut value)) = (key.text(frame), value.text(frame)) else {
            return Err(RewriteError::Unreadable);
        };
        if let Some((_, new)) = changes.iter().rfind(|(name, _)| *name == key) {
            different |= value != *new;
            value = new;
        }
        pairs.push((key.into(), value));
    }
    if add {
        for (key, value) in changes {
            match pairs.iter_mut().find(|(name, _)| name == key) {
                Some(pair) => pair.1 = value,
                None => pairs.push(((*key).into(), value)),
            }
            different = true;
        }
    }
    if !different {
        return Ok(Vec::new());
    }
    let mut out = Vec::new();
    put_map(&mut out, tag, pairs.len());
    for (key, value) in pairs {
        put_text(&mut out, 0, &key);
        put_text(&mut out, 1, value);
    }
    Ok(out)
}

impl Codec for Tars {
    fn name(&self) -> &'static str {
        "tars"
    }

    fn sniff(&self, prefix: &[u8]) -> Sniffed {
        let wanted: [fn(u8) -> bool; 7] = [
            // 16 MiB and more are no length that anybody means.
            |byte| byte == 0,
            |_| true,
            |_| true,
            |_| true,
            |byte| byte == VERSION_HEAD,
            is_version,
            // Tag 2: a byte, or zero.
            |byte| matches!(byte, 0x20 | 0x2c),
        ];
        let fits = prefix.iter().zip(wanted).all(|(byte, fits)| fits(*byte));
        match (fits, prefix.len() >= wanted.len()) {
            (false, _) => Sniffed::No,
            (true, false) => Sniffed::NeedMore,
            (true, true) => Sniffed::Yes,
        }
    }

    fn decode(&self, input: &mut BytesMut, limits: Limits) -> Result<Decoded, DecodeError> {
        let magic = |at, value| DecodeError::Magic {
            what: "Tars packet",
            at,
            value,
        };
        if let Some(value) = u8_at(input, LEN).filter(|value| *value != VERSION_HEAD) {
            return Err(magic(LEN, value));
        }
        if let Some(value) = u8_at(input, LEN + 1).filter(|value| !is_version(*value)) {
            return Err(magic(LEN + 1, value));
        }
        let Some(len) = i32_at(input, 0) else {
            return Ok(Decoded::NeedMore(LEN + 2));
        };
        let len = usize::try_from(len).map_err(|_| DecodeError::Negative { what: "packet" })?;
        if len > limits.max_frame {
            return Err(DecodeError::TooLong {
                bytes: len as u64,
                limit: limits.max_frame,
            });
        }
        let what = "head of a Tars packet";
        if len <= LEN {
            return Err(DecodeError::Malformed { what });
        }
        let Some(whole) = input.get(..len) else {
            return Ok(Decoded::NeedMore(len));
        };
        let packet = Packet::read(whole).ok_or(DecodeError::Malformed { what })?;
        let function = || packet.find(whole, 6).and_then(|field| field.text(whole));
        let kind = match (packet.asks, packet.oneway) {
            (false, _) => Kind::Response,
            (true, true) => Kind::Oneway,
            (true, false) if function() == Some(PING) => Kind::Heartbeat,
            (true, false) => Kind::Request,
        };
        let outcome = match kind {
            Kind::Response => outcome_of(packet.five.int(whole).unwrap_or_default()),
            _ => Outcome::Success,
        };
        let (id, version) = (packet.id(whole), packet.version);
        Ok(Decoded::Frame(Frame {
            bytes: input.split_to(len),
            kind,
            id,
            flavour: Flavour(version.into()),
            outcome,
            parts: [0; 3],
        }))
    }

    fn pool_mode(&self) -> PoolMode {
        PoolMode::Multiplex
    }

    /// By TUP's peers, whose responses have the form of requests.
    fn read_as_answer(&self, frame: &mut Frame) -> bool {
        if !is_tup(frame.flavour.0 as u8) {
            return false;
        }
        let attachments = self.attachments(frame);
        let code = attachments.iter().find(|(key, _)| key == RESULT_CODE);
        let code = code.map_or(0, |(_, value)| value.parse().unwrap_or(-99));
        drop(attachments);
        frame.kind = Kind::Response;
        frame.outcome = outcome_of(code);
        true
    }

    fn max_id(&self) -> u64 {
        i32::MAX as u64
    }

    fn set_id(&self, frame: &mut Frame, id: u64) {
        let Some(packet) = Packet::read(&frame.bytes) else {
            return;
        };
        let mut field = Vec::with_capacity(5);
        put_int(&mut field, packet.id.tag, id as i32);
        splice(&mut frame.bytes, packet.id.at..packet.id.end, &field);
        let len = (frame.bytes.len() as u32).to_be_bytes();
        put(&mut frame.bytes, 0, &len);
        frame.id = u64::from(id as u32);
    }

    fn timeout_ms(&self, frame: &Frame) -> i32 {
        if frame.kind != Kind::Request {
            return 0;
        }
        let bytes = &*frame.bytes;
        let field = Packet::read(bytes).and_then(|packet| packet.find(bytes, 8));
        let timeout = field.and_then(|field| field.int(bytes)).unwrap_or_default();
        // Peers mean nothing by a negative one.
        i32::try_from(timeout).unwrap_or_default().max(0)
    }

    fn call<'f>(&self, frame: &'f Frame) -> Call<'f> {
        if !matches!(frame.kind, Kind::Request | Kind::Oneway) {
            return Call::default();
        }
        let bytes = &*frame.bytes;
        let Some(packet) = Packet::read(bytes) else {
            return Call::default();
        };
        let servant = packet.five.text(bytes).filter(|name| !name.is_empty());
        let function = packet.find(bytes, 6);
        Call {
            interface: servant,
            service: servant,
            method: function.and_then(|field| field.text(bytes)),
            ..Call::default()
        }
    }

    /// The context, and the status.
    fn attachments<'f>(&self, frame: &'f Frame) -> Attachments<'f> {
        let packet = Packet::read(&frame.bytes);
        packet
            .map(|packet| packet.attachments(&frame.bytes))
            .unwrap_or_default()
    }

    fn known_attachments<'f>(&self, frame: &'f Frame) -> Option<Attachments<'f>> {
        let bytes = &*frame.bytes;
        let packet = Packet::read(bytes)?;
        let fields = packet.whole_rest(bytes)?;
        let is_map = |field: &&Field| field.tag == CONTEXT || field.tag == packet.status_tag();
        let pairs = fields
            .iter()
            .filter(is_map)
            .flat_map(|map| map.pairs(bytes));
        pairs
            .map(|(key, value)| Some((key.text(bytes)?.into(), value.text(bytes)?.into())))
            .collect()
    }

    /// `iRet` without its sign.
    fn status(&self, response: &[u8]) -> Option<u32> {
        let packet = Packet::read(response)?;
        let result = packet.five.int(response).filter(|_| !packet.asks)?;
        u32::try_from(result.unsigned_abs()).ok()
    }

    /// In the context, but for keys that the status has.
    fn set_attachments(
        &self,
        frame: &mut Frame,
        changes: &[(&str, &str)],
    ) -> Result<(), RewriteError> {
        let bytes = &*frame.bytes;
        let packet = Packet::read(bytes).ok_or(RewriteError::Unreadable)?;
        let fields = packet.whole_rest(bytes).ok_or(RewriteError::Unreadable)?;
        let of_tag = |tag| fields.iter().find(|field| field.tag == tag).copied();
        let (status, context) = (of_tag(packet.status_tag()), of_tag(CONTEXT));
        let in_status = |key: &str| {
            let mut pairs = status.iter().flat_map(|map| map.pairs(bytes));
            pairs.any(|(name, _)| name.text(bytes) == Some(key))
        };
        let (of_status, of_context): (Vec<_>, Vec<_>) =
            changes.iter().copied().partition(|(key, _)| in_status(key));
        let new_status = changed_map(bytes, status, packet.status_tag(), &of_status, false)?;
        let new_context = changed_map(bytes, context, CONTEXT, &of_context, true)?;
        let mut out = Vec::with_capacity(bytes.len() + 64);
        out.extend_from_slice(bytes.get(..packet.five.end).unwrap_or_default());
        let mut added = context.is_some();
        for field in &fields {
            if field.tag > CONTEXT && !added {
                out.extend_from_slice(&new_context);
                added = true;
            }
            let new = match field.tag {
                CONTEXT => &new_context,
                tag if tag == packet.status_tag() => &new_status,
                _ => &Vec::new(),
            };
            let old = bytes.get(field.at..field.end).unwrap_or_default();
            out.extend_from_slice(if new.is_empty() { old } else { new });
        }
        if !added {
            out.extend_from_slice(&new_context);
        }
        if i32::try_from(out.len()).is_err() {
            return Err(RewriteError::TooLong {
                bytes: out.len(),
                limit: i32::MAX as usize,
            });
        }
        frame.bytes = finish(out);
        Ok(())
    }

    /// A ping of no servant, which servers answer all the same, be it with an error.
    fn heartbeat(&self, origin: Origin) -> Option<BytesMut> {
        let mut out = vec![0; LEN];
        put_int(&mut out, 1, TARS.into());
        put_int(&mut out, 2, 0);
        put_int(&mut out, 3, 0);
        put_int(&mut out, 4, origin.id as i32);
        put_text(&mut out, 5, "");
        put_text(&mut out, 6, PING);
        put_bytes(&mut out, 7, &[]);
        put_int(&mut out, 8, 0);
        put_map(&mut out, CONTEXT, 0);
        put_map(&mut out, 10, 0);
        Some(finish(out))
    }

    fn heartbeat_answer(&self, heartbeat: &Frame) -> Option<BytesMut> {
        let ping = heartbeat.kind == Kind::Heartbeat;
        // What the ping returns: 0.
        ping.then(|| answer(heartbeat.origin(), 0, "", &[0x0c]))
    }

    fn goaway(&self, _origin: Origin, _extended: bool) -> Option<BytesMut> {
        None
    }

    fn error_reply(
        &self,
        request: Origin,
        _method: &str,
        failure: Failure,
        text: &str,
    ) -> BytesMut {
        answer(request, result_of(failure), text, &[])
    }
}
