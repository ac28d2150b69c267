//! A frame: its bytes as they came, and what its header says.

use bytes::{Bytes, BytesMut};

/// What a frame is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A call that wants an answer.
    Request,
    /// A call that wants none.
    Oneway,
    /// The answer to a call.
    Response,
    /// Asks whether the connection is alive.
    Heartbeat,
    /// Says that it is.
    HeartbeatAnswer,
    /// Nothing new is wanted on the connection.
    GoAway,
    /// The connection takes new requests again.
    Resume,
    /// Something that only the two ends of a connection may care for.
    Notice,
}

/// How a call ended, as far as the head of its response tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It came back with what the callee returned.
    Success,
    /// The callee threw an exception of its own.
    Exception,
    /// The caller is at fault: unknown service, bad request.
    ClientError,
    /// The callee, or the way to it, is at fault.
    ServerError,
    /// The callee has too much to do.
    Overload,
    /// It took too long.
    Timeout,
}

/// How a sender writes its frames: version, checksum, serialization. Only its codec reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Flavour(pub(crate) u16);

/// What is needed to answer a request that has been passed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Origin {
    /// The request's id.
    pub id: u64,
    /// How its sender writes frames.
    pub flavour: Flavour,
}

/// A whole frame.
#[derive(Debug)]
pub struct Frame {
    pub(crate) bytes: BytesMut,
    pub(crate) kind: Kind,
    pub(crate) id: u64,
    pub(crate) flavour: Flavour,
    pub(crate) outcome: Outcome,
    /// Places in `bytes`, all within it; what each is, its codec says.
    pub(crate) parts: [u32; 3],
}

impl Frame {
    /// What it is for.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Its request id.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// How a response says that the call ended; [`Outcome::Success`] for all other kinds.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    /// What is needed to answer it.
    pub fn origin(&self) -> Origin {
        Origin {
            id: self.id,
            flavour: self.flavour,
        }
    }

    /// As on the wire.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Its bytes, to be sent.
    pub fn into_bytes(self) -> Bytes {
        self.bytes.freeze()
    }

    /// A frame that can be sent elsewhere as well; copies the bytes.
    #[must_use]
    pub fn duplicate(&self) -> Self {
        Self {
            bytes: BytesMut::from(&*self.bytes),
            ..*self
        }
    }

    pub(crate) fn part(&self, which: usize) -> usize {
        self.parts.get(which).map_or(0, |at| *at as usize)
    }
}
