//! What a protocol has to be able to do for a proxy.

use bytes::BytesMut;

use crate::attributes::{Attachments, Call};
use crate::frame::{Frame, Origin};
use crate::generic::Generic;
use crate::scan::Scan;

/// A protocol. An implementation is a value without state: what a frame says is in the [`Frame`],
/// what a connection needs is with whoever has the connection.
pub trait Codec: Sync + std::fmt::Debug {
    /// Its name in configuration, in lower case: `bolt`.
    fn name(&self) -> &'static str;

    /// Whether a connection that begins with `prefix` speaks this protocol.
    fn sniff(&self, prefix: &[u8]) -> Sniffed;

    /// Takes the first frame off `input`, without copying it. With less than a frame, and with an
    /// error, `input` stays as it is.
    ///
    /// # Errors
    /// What is no frame of this protocol, or a longer one than `limits` allow; the connection cannot
    /// be read any further.
    fn decode(&self, input: &mut BytesMut, limits: Limits) -> Result<Decoded, DecodeError>;

    /// Like [`Codec::decode`], for the same input again and again. A frame that does not say its length is
    /// looked at from where the last call stopped, as `_scan` remembers; with a frame or an error it is new.
    ///
    /// # Errors
    /// As [`Codec::decode`].
    fn decode_on(
        &self,
        input: &mut BytesMut,
        limits: Limits,
        _scan: &mut Scan,
    ) -> Result<Decoded, DecodeError> {
        self.decode(input, limits)
    }

    /// How requests share a connection.
    fn pool_mode(&self) -> PoolMode;

    /// Whether answers repeat the method of their request: [`Codec::error_reply`] needs it.
    fn answers_name_method(&self) -> bool {
        false
    }

    /// Takes a frame that came from a host as the answer to one of its calls, where the protocol writes
    /// some answers like requests. `false`: it is none, and is as it was.
    fn read_as_answer(&self, _frame: &mut Frame) -> bool {
        false
    }

    /// The largest request id; ids go round from there.
    fn max_id(&self) -> u64;

    /// Writes another request id into the frame's bytes, and makes checksums right again. Of an id
    /// beyond [`Codec::max_id`] only the bits that fit are written.
    fn set_id(&self, frame: &mut Frame, id: u64);

    /// How long the caller waits for an answer, in milliseconds: 0 leaves it to the route, less than
    /// 0 is for ever.
    fn timeout_ms(&self, frame: &Frame) -> i32;

    /// What the head of a request says it calls. What cannot be read is absent.
    fn call<'f>(&self, frame: &'f Frame) -> Call<'f>;

    /// The key-value pairs of a request. What cannot be read is absent.
    fn attachments<'f>(&self, frame: &'f Frame) -> Attachments<'f>;

    /// The same, or `None` if what the frame has cannot be told: another serialization, or damaged. Policies
    /// must not take that for none.
    fn known_attachments<'f>(&self, frame: &'f Frame) -> Option<Attachments<'f>> {
        Some(self.attachments(frame))
    }

    /// The status in the bytes of a response, in the protocol's own numbers; `None` where it has none.
    fn status(&self, _response: &[u8]) -> Option<u32> {
        None
    }

    /// Takes attachments out of a request or response, whatever case their names are in.
    ///
    /// # Errors
    /// The frame's attachments cannot be changed; it is as it was.
    fn remove_attachments(&self, _frame: &mut Frame, _names: &[&str]) -> Result<(), RewriteError> {
        Err(RewriteError::Unreadable)
    }

    /// Sets the attachments of a request or response to new values, and adds those that it does not
    /// have.
    ///
    /// # Errors
    /// The frame cannot carry them; it is as it was.
    fn set_attachments(
        &self,
        frame: &mut Frame,
        changes: &[(&str, &str)],
    ) -> Result<(), RewriteError>;

    /// A heartbeat as somebody sends it whose other frames are like `origin`, whose id it takes; `None` if
    /// the protocol has none.
    fn heartbeat(&self, origin: Origin) -> Option<BytesMut>;

    /// The answer to a heartbeat, if it wants one.
    fn heartbeat_answer(&self, heartbeat: &Frame) -> Option<BytesMut>;

    /// Tells a client not to send anything new on this connection; `None` if the protocol has no word
    /// for it. With `extended` also in a word that only some peers know, and others may take amiss.
    fn goaway(&self, origin: Origin, extended: bool) -> Option<BytesMut>;

    /// The answer to a request that cannot be had from anybody else, in the protocol's own status. `method`
    /// is that of the request if [`Codec::answers_name_method`], else anything.
    fn error_reply(&self, request: Origin, method: &str, failure: Failure, text: &str) -> BytesMut;

    /// Its calls by names and values, for callers that do not have the interface; `None` if the protocol has
    /// none.
    fn generic(&self) -> Option<&'static dyn Generic> {
        None
    }
}

/// Whether bytes are of a protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// They are.
    Yes,
    /// They are not, whatever follows.
    No,
    /// More bytes are needed to say.
    NeedMore,
}

/// What [`Codec::decode`] has found.
#[derive(Debug)]
pub enum Decoded {
    /// A whole frame, which is gone from the input.
    Frame(Frame),
    /// The frame is not there yet: with less than so many bytes in all there is no point in asking
    /// again.
    NeedMore(usize),
}

/// Bounds of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a whole frame.
    pub max_frame: usize,
}

impl Default for Limits {
    /// Dubbo's own default for a payload, and room for its header.
    fn default() -> Self {
        Self {
            max_frame: 8 * 1024 * 1024 + 16,
        }
    }
}

/// How requests share a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// Many at a time, told apart by their ids.
    Multiplex,
    /// One at a time.
    PingPong,
}

/// Why bytes are no frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// They do not begin as one.
    #[error("byte {at} is {value:#04x}, which no {what} has")]
    Magic {
        /// Of what it was to be a part.
        what: &'static str,
        /// Where.
        at: usize,
        /// What stands there.
        value: u8,
    },
    /// The frame is there, but its parts do not fit into it, or are none.
    #[error("the {what} cannot be read")]
    Malformed {
        /// The part.
        what: &'static str,
    },
    /// A length is negative.
    #[error("the length of the {what} is negative")]
    Negative {
        /// Of what.
        what: &'static str,
    },
    /// The frame is longer than allowed.
    #[error("a frame of {bytes} bytes is longer than the allowed {limit}")]
    TooLong {
        /// Its length.
        bytes: u64,
        /// The bound.
        limit: usize,
    },
    /// The checksum is that of other bytes.
    #[error("the checksum is {found:#010x} instead of {expected:#010x}")]
    Checksum {
        /// What the frame says.
        found: u32,
        /// What its bytes have.
        expected: u32,
    },
}

/// Why attachments cannot be changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RewriteError {
    /// They are not to be found: another serialization, or damaged.
    #[error("the attachments cannot be read")]
    Unreadable,
    /// There is no room for more of them.
    #[error("{bytes} bytes of attachments are more than the protocol's {limit}")]
    TooLong {
        /// Bytes that were to be written.
        bytes: usize,
        /// What the protocol's length field holds.
        limit: usize,
    },
}

/// Why a proxy answers a request itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// No route matches it, or the route's cluster does not exist.
    NoRoute,
    /// The cluster has no host to send it to.
    NoHost,
    /// A limit on requests or connections is reached.
    Overload,
    /// A policy does not allow it.
    Denied,
    /// It took too long.
    Timeout,
    /// The host could not be reached.
    ConnectFailed,
    /// The connection to the host ended before the answer came.
    UpstreamClosed,
    /// The request is not sound.
    BadRequest,
    /// This proxy failed.
    Internal,
}

impl Failure {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::NoRoute,
        Self::NoHost,
        Self::Overload,
        Self::Denied,
        Self::Timeout,
        Self::ConnectFailed,
        Self::UpstreamClosed,
        Self::BadRequest,
        Self::Internal,
    ];
}
