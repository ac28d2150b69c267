//! SOFA Bolt, versions 1 and 2. Sources: sofa-bolt, `RpcProtocol.java`, `RpcProtocolV2.java`,
//! `RpcCommandDecoderV2.java`; goaway as in MOSN.
//!
//! Version 1: proto=1, type, cmd(2), ver2, id(4), codec, then timeout(4) of a request or status(2) of a
//! response, classLen(2), headerLen(2), contentLen(4), class, header, content. Version 2: proto=2, then
//! its own version after proto and a byte of switches after codec; if the version is 2 and bit 0 of the
//! switches is set, a CRC-32 of the whole frame follows.

mod generic;
#[cfg(test)]
pub(crate) mod golden;
mod header;
mod sofa_request;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use bytes::{BufMut as _, BytesMut};

use crate::attributes::{Attachments, Call};
use crate::bytes_at::{i32_at, put, u8_at, u16_at, u32_at};
use crate::codec::{Codec, DecodeError, Decoded, Failure, Limits, PoolMode, RewriteError, Sniffed};
use crate::frame::{Flavour, Frame, Kind, Origin, Outcome};
use crate::generic::Generic;

/// See the module.
#[derive(Debug)]
pub(crate) struct Bolt;

const RESPONSE: u8 = 0;
const REQUEST: u8 = 1;
const ONEWAY: u8 = 2;

const HEARTBEAT: u16 = 0;
const RPC_RESPONSE: u16 = 2;
/// MOSN's own; sofa-bolt's peers close a connection on which they read a command that they do not know.
const GOAWAY: u16 = 100;

const CRC_SWITCH: u8 = 1;
const CRC_LEN: usize = 4;
/// The serialization of SOFARPC unless configured otherwise.
const HESSIAN2: u8 = 1;
/// What peers take for the longest header: they read the length as a signed number.
const MAX_HEADER: usize = 0x7fff;

/// The parts of a frame: where the header block begins, where the content begins, where it ends.
const HEADER: usize = 0;
const CONTENT: usize = 1;
const END: usize = 2;

/// How a peer writes frames: what follows from its first two bytes and the switches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layout {
    v2: bool,
    crc: bool,
    /// `ver1` of version 2.
    version: u8,
    codec: u8,
}

impl Layout {
    fn of(flavour: Flavour) -> Self {
        let [bits, codec] = flavour.0.to_be_bytes();
        Self {
            v2: bits & 1 != 0,
            crc: bits & 2 != 0,
            version: if bits & 4 != 0 { 2 } else { 1 },
            codec,
        }
    }

    fn flavour(self) -> Flavour {
        let version_2 = u8::from(self.version == 2) << 2;
        let bits = u8::from(self.v2) | u8::from(self.crc) << 1 | version_2;
        Flavour(u16::from_be_bytes([bits, self.codec]))
    }

    /// Bytes before `type`.
    fn shift(self) -> usize {
        usize::from(self.v2)
    }

    fn id_at(self) -> usize {
        5 + self.shift()
    }

    /// Where the timeout or status stands.
    fn varying_at(self) -> usize {
        if self.v2 { 12 } else { 10 }
    }

    fn trailer(self) -> usize {
        if self.crc { CRC_LEN } else { 0 }
    }
}

/// What decoding needs of a frame's head.
struct Head {
    layout: Layout,
    kind: u8,
    command: u16,
    class_len: usize,
    header_len: usize,
    content_len: usize,
    /// Bytes before the class name.
    fixed: usize,
}

/// The shortest head there is: that of a version 1 response.
const SHORTEST: usize = 20;

/// Reads the head. `Err(Ok(n))`: `n` bytes are needed.
fn head(input: &[u8]) -> Result<Head, Result<usize, DecodeError>> {
    let byte = |at| u8_at(input, at).ok_or(Ok(SHORTEST));
    let wrong = |what, at, value| Err(Err(DecodeError::Magic { what, at, value }));
    let v2 = match byte(0)? {
        1 => false,
        2 => true,
        value => return wrong("Bolt frame", 0, value),
    };
    let version = if v2 { byte(1)? } else { 1 };
    if v2 && !(1..=2).contains(&version) {
        return wrong("version of Bolt", 1, version);
    }
    let shift = usize::from(v2);
    let kind = byte(1 + shift)?;
    if kind > ONEWAY {
        return wrong("type of a Bolt frame", 1 + shift, kind);
    }
    let mut layout = Layout {
        v2,
        crc: false,
        version,
        codec: 0,
    };
    let lengths = layout.varying_at() + if kind == RESPONSE { 2 } else { 4 };
    let fixed = lengths + 8;
    let need = || Ok(fixed);
    layout.codec = u8_at(input, 9 + shift).ok_or_else(need)?;
    let switches = if v2 {
        u8_at(input, 11).ok_or_else(need)?
    } else {
        0
    };
    layout.crc = version == 2 && switches & CRC_SWITCH != 0;
    let content = i32_at(input, lengths + 4).ok_or_else(need)?;
    let content_len =
        usize::try_from(content).map_err(|_| Err(DecodeError::Negative { what: "content" }))?;
    Ok(Head {
        layout,
        kind,
        command: u16_at(input, 2 + shift).ok_or_else(need)?,
        class_len: u16_at(input, lengths).ok_or_else(need)?.into(),
        header_len: u16_at(input, lengths + 2).ok_or_else(need)?.into(),
        content_len,
        fixed,
    })
}

fn kind_of(kind: u8, command: u16) -> Kind {
    match (kind, command) {
        (RESPONSE, HEARTBEAT) => Kind::HeartbeatAnswer,
        (_, HEARTBEAT) => Kind::Heartbeat,
        (RESPONSE, GOAWAY) => Kind::Notice,
        (_, GOAWAY) => Kind::GoAway,
        (RESPONSE, _) => Kind::Response,
        (ONEWAY, _) => Kind::Oneway,
        _ => Kind::Request,
    }
}

fn outcome_of(status: u16) -> Outcome {
    match status {
        0 => Outcome::Success,
        4 => Outcome::Overload,
        6 => Outcome::ClientError,
        7 => Outcome::Timeout,
        _ => Outcome::ServerError,
    }
}

fn status_of(failure: Failure) -> u16 {
    match failure {
        Failure::NoRoute => 6,
        Failure::NoHost | Failure::ConnectFailed | Failure::UpstreamClosed => 0x10,
        Failure::Overload => 4,
        Failure::Timeout => 7,
        Failure::Denied | Failure::Internal => 3,
        Failure::BadRequest => 9,
    }
}

/// Writes the checksum of a frame that has one.
fn seal(layout: Layout, bytes: &mut [u8]) {
    if layout.crc
        && let Some((frame, trailer)) = bytes.split_last_chunk_mut::<CRC_LEN>()
    {
        *trailer = crc32fast::hash(frame).to_be_bytes();
    }
}

/// A frame of our own, with a header block and a content.
fn write(origin: Origin, (kind, command): (u8, u16), varying: &[u8], content: &[u8]) -> BytesMut {
    let layout = Layout::of(origin.flavour);
    let mut out = BytesMut::with_capacity(28 + content.len());
    out.put_u8(if layout.v2 { 2 } else { 1 });
    if layout.v2 {
        out.put_u8(layout.version);
    }
    out.put_u8(kind);
    out.put_u16(command);
    out.put_u8(1);
    out.put_u32(origin.id as u32);
    out.put_u8(layout.codec);
    if layout.v2 {
        out.put_u8(if layout.crc { CRC_SWITCH } else { 0 });
    }
    out.put_slice(varying);
    out.put_u16(0);
    out.put_u16(0);
    out.put_u32(content.len() as u32);
    out.put_slice(content);
    if layout.crc {
        out.put_u32(0);
        seal(layout, &mut out);
    }
    out
}

impl Bolt {
    fn block(frame: &Frame) -> &[u8] {
        let place = frame.part(HEADER)..frame.part(CONTENT);
        frame.bytes.get(place).unwrap_or_default()
    }

    fn content(frame: &Frame) -> &[u8] {
        let place = frame.part(CONTENT)..frame.part(END);
        frame.bytes.get(place).unwrap_or_default()
    }

    /// Sets pairs of the header block, and takes others out.
    fn rewrite(
        frame: &mut Frame,
        changes: &[(&str, &str)],
        removed: &[&str],
    ) -> Result<(), RewriteError> {
        let layout = Layout::of(frame.flavour);
        let block = header::changed(Self::block(frame), changes, removed)?;
        if block.len() > MAX_HEADER {
            return Err(RewriteError::TooLong {
                bytes: block.len(),
                limit: MAX_HEADER,
            });
        }
        let (before, after) = (frame.part(HEADER), frame.part(CONTENT));
        let content_len = frame.part(END) - after;
        let mut bytes = BytesMut::with_capacity(before + block.len() + content_len + CRC_LEN);
        bytes.extend_from_slice(frame.bytes.get(..before).unwrap_or_default());
        bytes.extend_from_slice(&block);
        bytes.extend_from_slice(frame.bytes.get(after..).unwrap_or_default());
        let varying = match frame.kind {
            Kind::Response | Kind::HeartbeatAnswer | Kind::Notice => 2,
            _ => 4,
        };
        let at = layout.varying_at() + varying + 2;
        put(&mut bytes, at, &(block.len() as u16).to_be_bytes());
        seal(layout, &mut bytes);
        frame.bytes = bytes;
        let content_at = before + block.len();
        frame.parts = [before, content_at, content_at + content_len].map(|at| at as u32);
        Ok(())
    }
}

/// The pairs that have a value.
fn read<'f>(pairs: &mut header::Pairs<'f>) -> Attachments<'f> {
    pairs
        .filter_map(|(key, value)| Some((Cow::Borrowed(key), Cow::Borrowed(value?))))
        .collect()
}

impl Codec for Bolt {
    fn name(&self) -> &'static str {
        "bolt"
    }

    fn sniff(&self, prefix: &[u8]) -> Sniffed {
        let shift = match prefix {
            [1, ..] => 0,
            [2, 1 | 2, ..] => 1,
            [] | [2] => return Sniffed::NeedMore,
            _ => return Sniffed::No,
        };
        match (u8_at(prefix, 1 + shift), u16_at(prefix, 2 + shift)) {
            (Some(3..), _) => Sniffed::No,
            (_, Some(HEARTBEAT..=RPC_RESPONSE | GOAWAY)) => Sniffed::Yes,
            (_, Some(_)) => Sniffed::No,
            (_, None) => Sniffed::NeedMore,
        }
    }

    fn decode(&self, input: &mut BytesMut, limits: Limits) -> Result<Decoded, DecodeError> {
        let head = match head(input) {
            Ok(head) => head,
            Err(Ok(needed)) => return Ok(Decoded::NeedMore(needed.max(input.len() + 1))),
            Err(Err(error)) => return Err(error),
        };
        let layout = head.layout;
        let header_at = head.fixed + head.class_len;
        let content_at = header_at + head.header_len;
        // Four lengths below 2^32 each.
        let end = content_at as u64 + head.content_len as u64;
        let total = end + layout.trailer() as u64;
        let Some(len) = usize::try_from(total)
            .ok()
            .filter(|len| *len <= limits.max_frame && u32::try_from(*len).is_ok())
        else {
            return Err(DecodeError::TooLong {
                bytes: total,
                limit: limits.max_frame,
            });
        };
        let Some(whole) = input.get(..len) else {
            return Ok(Decoded::NeedMore(len));
        };
        if layout.crc
            && let Some((frame, trailer)) = whole.split_last_chunk::<CRC_LEN>()
        {
            let (found, expected) = (u32::from_be_bytes(*trailer), crc32fast::hash(frame));
            if found != expected {
                return Err(DecodeError::Checksum { found, expected });
            }
        }
        let id = u32_at(whole, layout.id_at()).unwrap_or_default();
        let kind = kind_of(head.kind, head.command);
        let outcome = match kind {
            Kind::Response => outcome_of(u16_at(whole, layout.varying_at()).unwrap_or_default()),
            _ => Outcome::Success,
        };
        Ok(Decoded::Frame(Frame {
            bytes: input.split_to(len),
            kind,
            id: id.into(),
            flavour: layout.flavour(),
            outcome,
            parts: [header_at as u32, content_at as u32, end as u32],
        }))
    }

    fn pool_mode(&self) -> PoolMode {
        PoolMode::Multiplex
    }

    fn max_id(&self) -> u64 {
        // A signed number to the peers; they take any, but print the positive ones as they are.
        i32::MAX as u64
    }

    fn set_id(&self, frame: &mut Frame, id: u64) {
        let layout = Layout::of(frame.flavour);
        let bytes = (id as u32).to_be_bytes();
        put(&mut frame.bytes, layout.id_at(), &bytes);
        frame.id = u32::from_be_bytes(bytes).into();
        seal(layout, &mut frame.bytes);
    }

    fn timeout_ms(&self, frame: &Frame) -> i32 {
        match frame.kind {
            Kind::Request | Kind::Oneway | Kind::Heartbeat => {
                let at = Layout::of(frame.flavour).varying_at();
                i32_at(&frame.bytes, at).unwrap_or_default()
            }
            _ => 0,
        }
    }

    /// From the header block; SOFARPC's name of a service is `interface:version[:unique id]`. A request
    /// whose header block does not name the method is read a little way into.
    fn call<'f>(&self, frame: &'f Frame) -> Call<'f> {
        let mut call = Call::default();
        let mut plain = None;
        for (key, value) in header::pairs(Self::block(frame)) {
            match key {
                "sofa_head_target_service" => call.service = value,
                "sofa_head_method_name" => call.method = value,
                "service" => plain = value,
                _ => {}
            }
        }
        call.service = call.service.or(plain);
        if call.method.is_none() && Layout::of(frame.flavour).codec == HESSIAN2 {
            call.method = sofa_request::method(Self::content(frame));
        }
        if let Some(service) = call.service {
            let mut parts = service.splitn(3, ':');
            call.interface = parts.next();
            call.version = parts.next().filter(|part| !part.is_empty());
            call.group = parts.next().filter(|part| !part.is_empty());
        }
        call
    }

    fn attachments<'f>(&self, frame: &'f Frame) -> Attachments<'f> {
        read(&mut header::pairs(Self::block(frame)))
    }

    fn known_attachments<'f>(&self, frame: &'f Frame) -> Option<Attachments<'f>> {
        let mut pairs = header::pairs(Self::block(frame));
        let found = read(&mut pairs);
        pairs.is_read().then_some(found)
    }

    fn status(&self, response: &[u8]) -> Option<u32> {
        let at = match u8_at(response, 0)? {
            1 => 10,
            _ => 12,
        };
        u16_at(response, at).map(u32::from)
    }

    fn remove_attachments(&self, frame: &mut Frame, names: &[&str]) -> Result<(), RewriteError> {
        Self::rewrite(frame, &[], names)
    }

    fn set_attachments(
        &self,
        frame: &mut Frame,
        changes: &[(&str, &str)],
    ) -> Result<(), RewriteError> {
        Self::rewrite(frame, changes, &[])
    }

    fn heartbeat(&self, origin: Origin) -> Option<BytesMut> {
        // Peers wait a second for the answer to theirs.
        let wait = 1000_i32.to_be_bytes();
        Some(write(origin, (REQUEST, HEARTBEAT), &wait, &[]))
    }

    fn heartbeat_answer(&self, heartbeat: &Frame) -> Option<BytesMut> {
        let code = (RESPONSE, HEARTBEAT);
        Some(write(heartbeat.origin(), code, &0_u16.to_be_bytes(), &[]))
    }

    /// A request, as MOSN's are, and only with `extended`: see [`GOAWAY`].
    fn goaway(&self, origin: Origin, extended: bool) -> Option<BytesMut> {
        let code = (REQUEST, GOAWAY);
        extended.then(|| write(origin, code, &0_i32.to_be_bytes(), &[]))
    }

    /// Status and nothing else: peers make the exception from the status, and what they would read in
    /// the content depends on the serialization.
    fn error_reply(
        &self,
        request: Origin,
        _method: &str,
        failure: Failure,
        _text: &str,
    ) -> BytesMut {
        let status = status_of(failure).to_be_bytes();
        write(request, (RESPONSE, RPC_RESPONSE), &status, &[])
    }

    fn generic(&self) -> Option<&'static dyn Generic> {
        Some(&generic::ByNames)
    }
}
