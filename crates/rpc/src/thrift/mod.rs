//! Apache Thrift. Sources: `doc/specs` of Apache Thrift; Envoy, `thrift_proxy`.
//!
//! Three transports: none, where only the end of the message's struct says where it ends; a length(4) in
//! front; the header transport ([`header`]). In each of them the protocol is binary, with a version or
//! without (old), or compact. All are told apart by a message's first bytes. Servers may answer in the order
//! of the calls, and some clients number all of theirs alike: a connection has one call at a time.

mod header;
pub(crate) mod message;
pub(crate) mod skip;
mod varint;

#[cfg(test)]
pub(crate) mod golden;
#[cfg(test)]
mod tests;

use bytes::{BufMut as _, BytesMut};

use crate::attributes::{Attachments, Call};
use crate::bytes_at::{i32_at, put, u8_at};
use crate::codec::{Codec, DecodeError, Decoded, Failure, Limits, PoolMode, RewriteError, Sniffed};
use crate::frame::{Flavour, Frame, Kind, Origin, Outcome};
use crate::scan::Scan;
use header::Head;
use message::{Begin, Protocol};
use skip::Stop;

/// See the module.
#[derive(Debug)]
pub(crate) struct Thrift;

/// A frame's only part: where its message begins.
const MESSAGE: usize = 0;
/// The length in front.
const LEN: usize = 4;

/// Around messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Unframed,
    Framed,
    Header,
}

fn flavour(transport: Transport, protocol: Protocol) -> Flavour {
    let transport = match transport {
        Transport::Unframed => 0,
        Transport::Framed => 1,
        Transport::Header => 2,
    };
    let protocol = match protocol {
        Protocol::Strict => 0,
        Protocol::Old => 1,
        Protocol::Compact => 2,
    };
    Flavour(transport | protocol << 4)
}

fn of_flavour(flavour: Flavour) -> (Transport, Protocol) {
    let transport = match flavour.0 & 0xf {
        0 => Transport::Unframed,
        1 => Transport::Framed,
        _ => Transport::Header,
    };
    let protocol = match flavour.0 >> 4 {
        0 => Protocol::Strict,
        1 => Protocol::Old,
        _ => Protocol::Compact,
    };
    (transport, protocol)
}

/// What message begins here; `None` with less than eight bytes of one that may have a length in front.
fn transport(input: &[u8]) -> Result<Option<Transport>, DecodeError> {
    match input.first() {
        Some(0x80 | 0x82) => return Ok(Some(Transport::Unframed)),
        Some(value @ 0x81..) => {
            let (what, value) = ("Thrift message", *value);
            return Err(DecodeError::Magic { what, at: 0, value });
        }
        _ => {}
    }
    Ok(match input.get(LEN..LEN + 4) {
        None | Some([]) => None,
        Some([0x0f, 0xff, ..]) => Some(Transport::Header),
        Some([0x80 | 0x82 | 0, ..]) => Some(Transport::Framed),
        // The name of an old message.
        Some([b' '..=b'~', ..]) if input.first() == Some(&0) => Some(Transport::Unframed),
        Some([value, ..]) => {
            let (what, at, value) = ("Thrift message", LEN, *value);
            return Err(DecodeError::Magic { what, at, value });
        }
    })
}

fn checked(len: usize, limits: Limits) -> Result<usize, DecodeError> {
    if len > limits.max_frame || u32::try_from(len).is_err() {
        return Err(DecodeError::TooLong {
            bytes: len as u64,
            limit: limits.max_frame,
        });
    }
    Ok(len)
}

/// The length of a message without a frame, or how many bytes there must be at least to tell.
fn unframed(
    input: &[u8],
    limits: Limits,
    scan: &mut Scan,
) -> Result<Result<usize, usize>, DecodeError> {
    let stopped = match &mut scan.0 {
        Some(skip) => skip.run(input),
        None => Begin::read(input, 0).and_then(|begin| {
            let mut skip = begin.skip();
            let stopped = skip.run(input);
            if let Err(Stop::Need(_)) = stopped {
                scan.0 = Some(Box::new(skip));
            }
            stopped
        }),
    };
    match stopped {
        Ok(end) => checked(end, limits).map(Ok),
        Err(Stop::Need(needed)) => checked(needed, limits).map(Err),
        Err(Stop::Bad(error)) => Err(error),
    }
}

fn framed_len(input: &[u8], limits: Limits) -> Result<usize, DecodeError> {
    let len = i32_at(input, 0).unwrap_or_default();
    let what = "frame";
    let len = usize::try_from(len).map_err(|_| DecodeError::Negative { what })?;
    checked(LEN + len, limits)
}

impl Thrift {
    fn decode_scanned(
        input: &mut BytesMut,
        limits: Limits,
        scan: &mut Scan,
    ) -> Result<Decoded, DecodeError> {
        let Some(transport) = transport(input)? else {
            if input.len() >= LEN {
                framed_len(input, limits)?;
            }
            return Ok(Decoded::NeedMore(LEN + 4));
        };
        let len = match transport {
            Transport::Unframed => match unframed(input, limits, scan)? {
                Ok(len) => len,
                Err(needed) => return Ok(Decoded::NeedMore(needed)),
            },
            Transport::Framed | Transport::Header => framed_len(input, limits)?,
        };
        let Some(whole) = input.get(..len) else {
            return Ok(Decoded::NeedMore(len));
        };
        let message_at = match transport {
            Transport::Unframed => 0,
            Transport::Framed => LEN,
            Transport::Header => Head::read(whole)?.message_at,
        };
        let begin = Begin::read(whole, message_at).map_err(|stop| match stop {
            Stop::Bad(error) => error,
            Stop::Need(_) => DecodeError::Malformed {
                what: "message of a Thrift frame, which ends too early,",
            },
        })?;
        if transport != Transport::Unframed {
            // What is left of a frame some servers take for another call.
            let left = DecodeError::Malformed {
                what: "end of a Thrift frame, which is not that of its message,",
            };
            match begin.skip().run(whole) {
                Ok(end) if end == whole.len() => {}
                Err(Stop::Bad(error)) => return Err(error),
                Ok(_) | Err(Stop::Need(_)) => return Err(left),
            }
        }
        let kind = begin.frame_kind();
        let outcome = match kind {
            Kind::Response => begin.outcome(whole),
            _ => Outcome::Success,
        };
        Ok(Decoded::Frame(Frame {
            bytes: input.split_to(len),
            kind,
            id: begin.id.into(),
            flavour: flavour(transport, begin.protocol),
            outcome,
            parts: [message_at as u32, 0, 0],
        }))
    }

    fn head(frame: &Frame) -> Option<Head> {
        let (transport, _) = of_flavour(frame.flavour);
        (transport == Transport::Header).then(|| Head::read(&frame.bytes).ok())?
    }

    fn begin(frame: &Frame) -> Option<Begin> {
        Begin::read(&frame.bytes, frame.part(MESSAGE)).ok()
    }
}

impl Codec for Thrift {
    fn name(&self) -> &'static str {
        "thrift"
    }

    fn sniff(&self, prefix: &[u8]) -> Sniffed {
        let begins = |wanted: &[u8]| {
            let known = prefix.len().min(wanted.len());
            (prefix.get(..known) == wanted.get(..known)).then_some(known == wanted.len())
        };
        let sure = |yes| if yes { Sniffed::Yes } else { Sniffed::NeedMore };
        match prefix.first() {
            None => return Sniffed::NeedMore,
            Some(0x80) => return begins(&[0x80, 1]).map_or(Sniffed::No, sure),
            Some(0x82) => {
                let version = u8_at(prefix, 1).map(|byte| (byte & 0x1f, byte >> 5));
                return match version {
                    None => Sniffed::NeedMore,
                    Some((1, message::CALL..=message::ONEWAY)) => Sniffed::Yes,
                    Some(_) => Sniffed::No,
                };
            }
            // 16 MiB and more in front are no length that anybody means.
            Some(1..) => return Sniffed::No,
            Some(0) => {}
        }
        match prefix.get(LEN..) {
            None | Some([] | [0x80 | 0x82 | 0x0f]) => Sniffed::NeedMore,
            Some([0x0f, 0xff, ..] | [0x80, 1, ..]) => Sniffed::Yes,
            Some([0x82, version, ..]) if version & 0x1f == 1 => Sniffed::Yes,
            Some([0, ..]) => old_name(prefix, LEN),
            Some([b' '..=b'~', ..]) => old_name(prefix, 0),
            Some(_) => Sniffed::No,
        }
    }

    fn decode(&self, input: &mut BytesMut, limits: Limits) -> Result<Decoded, DecodeError> {
        Self::decode_scanned(input, limits, &mut Scan::default())
    }

    fn decode_on(
        &self,
        input: &mut BytesMut,
        limits: Limits,
        scan: &mut Scan,
    ) -> Result<Decoded, DecodeError> {
        let decoded = Self::decode_scanned(input, limits, scan);
        if !matches!(decoded, Ok(Decoded::NeedMore(_))) {
            *scan = Scan::default();
        }
        decoded
    }

    fn pool_mode(&self) -> PoolMode {
        PoolMode::PingPong
    }

    fn answers_name_method(&self) -> bool {
        true
    }

    fn max_id(&self) -> u64 {
        i32::MAX as u64
    }

    fn set_id(&self, frame: &mut Frame, id: u64) {
        let id = id as u32;
        if frame.id == u64::from(id) {
            return;
        }
        let Some(begin) = Self::begin(frame) else {
            return;
        };
        let (transport, _) = of_flavour(frame.flavour);
        begin.set_id(&mut frame.bytes, id);
        if transport != Transport::Unframed {
            let len = frame.bytes.len().saturating_sub(LEN) as u32;
            put(&mut frame.bytes, 0, &len.to_be_bytes());
        }
        if transport == Transport::Header {
            Head::set_id(&mut frame.bytes, id);
        }
        frame.id = id.into();
    }

    /// The header `client_timeout` of fbthrift.
    fn timeout_ms(&self, frame: &Frame) -> i32 {
        if !matches!(frame.kind, Kind::Request | Kind::Oneway) {
            return 0;
        }
        let attachments = self.attachments(frame);
        let timeout = attachments.iter().find(|(key, _)| key == "client_timeout");
        // Peers mean nothing by a negative one.
        timeout.map_or(0, |(_, value)| value.parse().unwrap_or(0).max(0))
    }

    /// The name of a message is that of the method, behind that of the service and a colon if several services
    /// share a port.
    fn call<'f>(&self, frame: &'f Frame) -> Call<'f> {
        if !matches!(frame.kind, Kind::Request | Kind::Oneway) {
            return Call::default();
        }
        let name = Self::begin(frame).and_then(|begin| begin.name(&frame.bytes));
        call_of(name)
    }

    fn attachments<'f>(&self, frame: &'f Frame) -> Attachments<'f> {
        let head = Self::head(frame);
        head.map(|head| head.attachments(&frame.bytes))
            .unwrap_or_default()
    }

    /// Other transports have none.
    fn known_attachments<'f>(&self, frame: &'f Frame) -> Option<Attachments<'f>> {
        match of_flavour(frame.flavour) {
            (Transport::Header, _) => Self::head(frame)?.known(&frame.bytes),
            _ => Some(Attachments::new()),
        }
    }

    fn set_attachments(
        &self,
        frame: &mut Frame,
        changes: &[(&str, &str)],
    ) -> Result<(), RewriteError> {
        let head = Self::head(frame).ok_or(RewriteError::Unreadable)?;
        let (bytes, message_at) = head.changed(&frame.bytes, changes)?;
        frame.bytes = bytes;
        frame.parts = [message_at as u32, 0, 0];
        Ok(())
    }

    fn heartbeat(&self, _origin: Origin) -> Option<BytesMut> {
        None
    }

    fn heartbeat_answer(&self, _heartbeat: &Frame) -> Option<BytesMut> {
        None
    }

    fn goaway(&self, _origin: Origin, _extended: bool) -> Option<BytesMut> {
        None
    }

    fn error_reply(&self, request: Origin, method: &str, failure: Failure, text: &str) -> BytesMut {
        let (transport, protocol) = of_flavour(request.flavour);
        let id = request.id as u32;
        // Without a name there is nothing by which an old message could be told.
        let method = if method.is_empty() { "?" } else { method };
        let message = message::exception(protocol, (method, id), failure, text);
        match transport {
            Transport::Unframed => BytesMut::from(&*message),
            Transport::Framed => {
                let mut out = BytesMut::with_capacity(LEN + message.len());
                out.put_u32(message.len() as u32);
                out.put_slice(&message);
                out
            }
            Transport::Header => header::wrap(protocol, id, &message),
        }
    }
}

/// What a message's name says.
pub(crate) fn call_of(name: Option<&str>) -> Call<'_> {
    let (service, method) = match name.and_then(|name| name.split_once(':')) {
        Some((service, method)) => (Some(service), Some(method)),
        None => (None, name),
    };
    Call {
        interface: service.filter(|service| !service.is_empty()),
        service: service.filter(|service| !service.is_empty()),
        method,
        ..Call::default()
    }
}

/// Whether an old message is at `at`: a length, a name of letters, a type.
fn old_name(prefix: &[u8], at: usize) -> Sniffed {
    let Some(len) = i32_at(prefix, at) else {
        return match prefix.get(at..) {
            Some([0] | [0, 0] | [0, 0, 0..=4]) => Sniffed::NeedMore,
            _ => Sniffed::No,
        };
    };
    if !(1..=1024).contains(&len) {
        return Sniffed::No;
    }
    let name_at = at + 4;
    let end = name_at + len as usize;
    let name = prefix
        .get(name_at..end.min(prefix.len()))
        .unwrap_or_default();
    if !name.iter().all(u8::is_ascii_graphic) {
        return Sniffed::No;
    }
    match u8_at(prefix, end) {
        None => Sniffed::NeedMore,
        Some(message::CALL..=message::ONEWAY) => Sniffed::Yes,
        Some(_) => Sniffed::No,
    }
}
