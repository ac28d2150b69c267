//! Bytes from a connection, and the frames in them.

use std::cell::Cell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use weft_net::Stream;
use weft_rpc::{Codec, DecodeError, Decoded, Frame, Limits, Scan};

/// Room for a first read.
const SMALL: usize = 2 * 1024;
/// Most room that is made at a time: the length that a frame claims is not believed before its bytes come.
const LARGE: usize = 256 * 1024;

thread_local! {
    /// Room that a connection had when nothing came any more, for the next one of this worker that reads:
    /// an idle connection keeps none.
    static SPARE: Cell<BytesMut> = Cell::new(BytesMut::new());
}

/// See the module.
#[derive(Debug)]
pub(super) struct Input {
    codec: &'static dyn Codec,
    limits: Limits,
    bytes: BytesMut,
    /// Less than this many bytes are no frame.
    needed: usize,
    scan: Scan,
    /// Bytes have come since somebody asked.
    progress: bool,
}

/// Why there are no more frames.
#[derive(Debug)]
pub(super) enum Ended {
    /// The peer has closed, between two frames or inside of one.
    Closed,
    /// The connection broke.
    Broken(io::Error),
    /// What comes is no frame.
    Undecodable(DecodeError),
}

impl Input {
    pub(super) fn new(codec: &'static dyn Codec, limits: Limits) -> Self {
        Self {
            codec,
            limits,
            bytes: BytesMut::new(),
            needed: 0,
            scan: Scan::default(),
            progress: false,
        }
    }

    /// Whether bytes have come since the last time this was asked.
    pub(super) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.progress)
    }

    /// Whether nothing of a frame has come yet.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The next frame.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut Stream,
    ) -> Poll<Result<Frame, Ended>> {
        loop {
            if self.bytes.len() >= self.needed.max(1) {
                let (bytes, scan) = (&mut self.bytes, &mut self.scan);
                match self.codec.decode_on(bytes, self.limits, scan) {
                    Ok(Decoded::Frame(frame)) => {
                        self.needed = 0;
                        return Poll::Ready(Ok(frame));
                    }
                    Ok(Decoded::NeedMore(needed)) => self.needed = needed,
                    Err(error) => return Poll::Ready(Err(Ended::Undecodable(error))),
                }
            }
            let missing = self.needed.saturating_sub(self.bytes.len());
            let room = missing.min(self.bytes.len().clamp(SMALL, LARGE)).max(SMALL);
            if self.bytes.is_empty() {
                if self.bytes.capacity() == 0 {
                    self.bytes = SPARE.take();
                } else if self.bytes.capacity() > LARGE {
                    self.bytes = BytesMut::new();
                }
            }
            self.bytes.reserve(room);
            match pin!(stream.read_buf(&mut self.bytes)).poll(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Err(Ended::Closed)),
                Poll::Ready(Ok(_)) => self.progress = true,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Ended::Broken(error))),
                Poll::Pending => {
                    if self.bytes.is_empty() && self.bytes.capacity() <= LARGE {
                        SPARE.set(std::mem::take(&mut self.bytes));
                    }
                    return Poll::Pending;
                }
            }
        }
    }
}
