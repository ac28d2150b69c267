//! Connections of clients that name the socket as authority. gRPC's C core (Python, C++, Ruby)
//! percent-encodes the path, others write it as it is; neither is a host and a port, so that the
//! HTTP/2 library refuses their requests as malformed. Who reads such a connection here reads an
//! authority of hyphens in place of what is wrong with it. Nothing here looks at the authority.

mod fields;
mod frames;
mod huffman;
#[cfg(test)]
mod tests;

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use frames::Frames;

/// Bytes read at once.
const READ: usize = 8 * 1024;

/// A connection on which every authority can be read.
#[derive(Debug)]
pub(super) struct Authorities<S> {
    stream: S,
    frames: Frames,
    buffer: Box<[u8]>,
    /// What the server is to read, from `at` on.
    ready: Vec<u8>,
    at: usize,
}

impl<S> Authorities<S> {
    pub(super) fn new(stream: S) -> Self {
        Self {
            stream,
            frames: Frames::new(),
            buffer: vec![0; READ].into(),
            ready: Vec::new(),
            at: 0,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Authorities<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let left = this.ready.get(this.at..).unwrap_or_default();
            if !left.is_empty() {
                let length = left.len().min(buffer.remaining());
                buffer.put_slice(&left[..length]);
                this.at += length;
                return Poll::Ready(Ok(()));
            }
            this.ready.clear();
            this.at = 0;
            let mut read = ReadBuf::new(&mut this.buffer);
            std::task::ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            let read = read.filled();
            if read.is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.frames.take(read, &mut this.ready);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Authorities<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
