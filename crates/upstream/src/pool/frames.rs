//! Watches the HTTP/2 frames that an upstream sends: trailers beyond a limit end the connection,
//! where the HTTP/2 library would leave fields out of them. Decodes nothing.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use weft_net::Stream;

const HEAD: usize = 9;
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// A connection whose frames are watched.
pub(super) struct Watched {
    stream: Stream,
    frames: Frames,
}

impl Watched {
    pub(super) fn new(stream: Stream, limit: usize) -> Self {
        Self {
            stream,
            frames: Frames::new(limit),
        }
    }
}

/// Where in the sequence of frames the connection is.
struct Frames {
    head: [u8; HEAD],
    /// Bytes of the frame's head that are there.
    have: usize,
    /// Bytes of its payload that are to come.
    payload: usize,
    /// Bytes of the block that ends a stream, so far.
    block: usize,
    limit: usize,
}

impl Frames {
    fn new(limit: usize) -> Self {
        Self {
            head: [0; HEAD],
            have: 0,
            payload: 0,
            block: 0,
            limit,
        }
    }

    /// Whether all trailers are within the limit.
    fn accept(&mut self, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len());
                self.payload -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
                continue;
            }
            let (Some(slot), [byte, rest @ ..]) = (self.head.get_mut(self.have), bytes) else {
                return false;
            };
            *slot = *byte;
            self.have += 1;
            bytes = rest;
            if self.have == HEAD && !self.begin() {
                return false;
            }
        }
        true
    }

    /// A frame's head is complete.
    fn begin(&mut self) -> bool {
        self.have = 0;
        let [high, middle, low, kind, flags, ..] = self.head;
        self.payload = u32::from_be_bytes([0, high, middle, low]) as usize;
        self.block = match kind {
            HEADERS if flags & END_STREAM != 0 => self.payload,
            // Nothing else may come between the frames of a block.
            CONTINUATION if self.block > 0 => self.block + self.payload,
            _ => 0,
        };
        self.block <= self.limit
    }
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let read = buf.filled().get(before..).unwrap_or_default();
        if self.frames.accept(read) {
            return Poll::Ready(Ok(()));
        }
        let text = "trailers are larger than max_response_headers_kb";
        Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)))
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.stream), cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(Pin::new(&mut self.stream), cx, bufs)
    }
    fn is_write_vectored(&self) -> bool {
        AsyncWrite::is_write_vectored(&self.stream)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.stream), cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.stream), cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, size: usize) -> Vec<u8> {
        let [_, high, middle, low] = u32::try_from(size).unwrap().to_be_bytes();
        let mut frame = vec![high, middle, low, kind, flags, 0, 0, 0, 1];
        frame.resize(HEAD + size, 0xff);
        frame
    }

    #[test]
    fn blocks_that_end_a_stream_are_bounded_however_they_are_cut() {
        let (data, open) = (frame(0, 0, 300), frame(HEADERS, 0, 300));
        let trailers = |first, second| {
            let first = frame(HEADERS, END_STREAM, first);
            [first, frame(CONTINUATION, 4, second)].concat()
        };
        for (first, second, fine) in [(60, 40, true), (60, 41, false), (101, 0, false)] {
            let parts = [&*data, &open, &frame(CONTINUATION, 0, 300), &data];
            let bytes = [parts.concat(), trailers(first, second), data.clone()].concat();
            for step in [1, 7, 64, bytes.len()] {
                let mut frames = Frames::new(100);
                let accepted = bytes.chunks(step).all(|chunk| frames.accept(chunk));
                assert_eq!(accepted, fine, "{first} {second} {step}");
            }
        }
    }
}
