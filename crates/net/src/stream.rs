//! [`Stream`]: a TCP connection, plain or TLS, that hyper, tonic and the TCP proxy can use
//! directly. Knows nothing of what flows through it.

use std::fmt;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::rt::ReadBufCursor;
use rustls_pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// Hears how many bytes went through a stream; of plain TCP the payload, of TLS the clear text.
pub trait Meter: Send + Sync {
    /// `bytes` were read from the peer.
    fn received(&self, bytes: u64);
    /// `bytes` were written to the peer.
    fn sent(&self, bytes: u64);
    /// Whether anybody still wants what the peer sends; if not, reading fails.
    fn may_read(&self) -> bool {
        true
    }
}

/// A TCP connection of which a prefix was already read, by an inspector; the prefix is read
/// again first. Without a prefix this costs one comparison a read.
#[derive(Debug)]
pub struct Peeked {
    prefix: Bytes,
    tcp: TcpStream,
}

impl Peeked {
    /// `prefix` was read from `tcp` and will be read again.
    pub fn new(tcp: TcpStream, prefix: impl Into<Bytes>) -> Self {
        Self {
            prefix: prefix.into(),
            tcp,
        }
    }

    /// The socket.
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// The socket, and what was peeked and not yet read again.
    pub fn into_parts(self) -> (TcpStream, Bytes) {
        (self.tcp, self.prefix)
    }

    /// What was peeked and not yet read again.
    pub fn prefix(&self) -> &[u8] {
        &self.prefix
    }
}

impl From<TcpStream> for Peeked {
    fn from(tcp: TcpStream) -> Self {
        Self::new(tcp, Bytes::new())
    }
}

impl AsyncRead for Peeked {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.prefix.is_empty() {
            let take = self.prefix.len().min(buf.remaining());
            let taken = self.prefix.split_to(take);
            buf.put_slice(&taken);
            if self.prefix.is_empty() {
                // Gives the inspector's buffer back.
                self.prefix = Bytes::new();
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tcp).poll_read(cx, buf)
    }
}

impl AsyncWrite for Peeked {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, buf)
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match bufs {
            // A send is cheaper for the kernel than a vector of one.
            [only] => Pin::new(&mut self.tcp).poll_write(cx, only),
            _ => Pin::new(&mut self.tcp).poll_write_vectored(cx, bufs),
        }
    }
    fn is_write_vectored(&self) -> bool {
        true
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

/// A connection, plain or TLS, server or client side. Implements tokio's `AsyncRead` and
/// `AsyncWrite` and hyper's `Read` and `Write`.
pub struct Stream {
    io: Io,
    meter: Option<Arc<dyn Meter>>,
    /// Reads since the last that had to wait.
    burst: u8,
}

/// A connection whose peer sends faster than it can be served lets others have their turn after
/// so many reads.
const LONGEST_BURST: u8 = 8;

enum Io {
    Plain(Peeked),
    ServerTls(Box<tokio_rustls::server::TlsStream<Peeked>>),
    ClientTls(Box<tokio_rustls::client::TlsStream<Peeked>>),
}

macro_rules! each {
    ($io:expr, $inner:ident => $body:expr) => {
        match $io {
            Io::Plain($inner) => $body,
            Io::ServerTls($inner) => $body,
            Io::ClientTls($inner) => $body,
        }
    };
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("tls", &self.is_tls())
            .field("tcp", self.tcp())
            .finish()
    }
}

impl From<TcpStream> for Stream {
    fn from(tcp: TcpStream) -> Self {
        Self::plain(Peeked::from(tcp))
    }
}

impl Stream {
    /// A connection without TLS.
    pub fn plain(io: Peeked) -> Self {
        Self::new(Io::Plain(io))
    }

    pub(crate) fn server_tls(tls: tokio_rustls::server::TlsStream<Peeked>) -> Self {
        Self::new(Io::ServerTls(Box::new(tls)))
    }

    pub(crate) fn client_tls(tls: tokio_rustls::client::TlsStream<Peeked>) -> Self {
        Self::new(Io::ClientTls(Box::new(tls)))
    }

    fn new(io: Io) -> Self {
        Self {
            io,
            meter: None,
            burst: 0,
        }
    }

    /// From now on `meter` hears of every byte.
    #[must_use]
    pub fn with_meter(mut self, meter: Arc<dyn Meter>) -> Self {
        self.meter = Some(meter);
        self
    }

    /// The socket below.
    pub fn tcp(&self) -> &TcpStream {
        match &self.io {
            Io::Plain(io) => io.tcp(),
            Io::ServerTls(tls) => tls.get_ref().0.tcp(),
            Io::ClientTls(tls) => tls.get_ref().0.tcp(),
        }
    }

    /// Whether the connection is encrypted.
    pub fn is_tls(&self) -> bool {
        !matches!(self.io, Io::Plain(_))
    }

    /// Address of the other side.
    pub fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().peer_addr()
    }

    /// Address of this side.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.tcp().local_addr()
    }

    /// The protocol that ALPN agreed on.
    pub fn alpn(&self) -> Option<&[u8]> {
        match &self.io {
            Io::Plain(_) => None,
            Io::ServerTls(tls) => tls.get_ref().1.alpn_protocol(),
            Io::ClientTls(tls) => tls.get_ref().1.alpn_protocol(),
        }
    }

    /// The server name that the client asked for; only on the server side.
    pub fn server_name(&self) -> Option<&str> {
        match &self.io {
            Io::ServerTls(tls) => tls.get_ref().1.server_name(),
            _ => None,
        }
    }

    /// TLS version in Envoy's spelling (`TLSv1.3`).
    pub fn tls_version(&self) -> Option<&'static str> {
        let version = match &self.io {
            Io::Plain(_) => None,
            Io::ServerTls(tls) => tls.get_ref().1.protocol_version(),
            Io::ClientTls(tls) => tls.get_ref().1.protocol_version(),
        };
        match version? {
            rustls::ProtocolVersion::TLSv1_2 => Some("TLSv1.2"),
            rustls::ProtocolVersion::TLSv1_3 => Some("TLSv1.3"),
            _ => None,
        }
    }

    /// The certificates that the peer presented, its own first.
    pub fn peer_certificates(&self) -> Option<&[CertificateDer<'static>]> {
        match &self.io {
            Io::Plain(_) => None,
            Io::ServerTls(tls) => tls.get_ref().1.peer_certificates(),
            Io::ClientTls(tls) => tls.get_ref().1.peer_certificates(),
        }
    }

    /// When dropped, the socket sends RST instead of FIN and discards what was not sent.
    pub fn reset_on_drop(&self) {
        // A socket on which this fails is closed already.
        let _ = socket2::SockRef::from(self.tcp()).set_linger(Some(Duration::ZERO));
    }

    fn count_received(&self, bytes: usize) {
        if let Some(meter) = &self.meter
            && bytes > 0
        {
            meter.received(bytes as u64);
        }
    }

    fn count_sent(&self, written: &Poll<io::Result<usize>>) {
        if let Some(meter) = &self.meter
            && let Poll::Ready(Ok(bytes)) = written
        {
            meter.sent(*bytes as u64);
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.meter.as_ref().is_some_and(|meter| !meter.may_read()) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.burst >= LONGEST_BURST {
            self.burst = 0;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let before = buf.filled().len();
        let read = each!(&mut self.io, io => Pin::new(io).poll_read(cx, buf));
        self.burst = if read.is_ready() { self.burst + 1 } else { 0 };
        self.count_received(buf.filled().len().saturating_sub(before));
        read
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = each!(&mut self.io, io => Pin::new(io).poll_write(cx, buf));
        self.count_sent(&written);
        written
    }
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = each!(&mut self.io, io => Pin::new(io).poll_write_vectored(cx, bufs));
        self.count_sent(&written);
        written
    }
    fn is_write_vectored(&self) -> bool {
        each!(&self.io, io => AsyncWrite::is_write_vectored(io))
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.io, io => Pin::new(io).poll_flush(cx))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(&mut self.io, io => Pin::new(io).poll_shutdown(cx))
    }
}

impl hyper::rt::Read for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        mut cursor: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let filled = {
            // SAFETY: `ReadBuf` only ever writes initialised bytes into the slice and never
            // un-initialises any, which is what the cursor asks for.
            let mut buf = ReadBuf::uninit(unsafe { cursor.as_mut() });
            ready!(AsyncRead::poll_read(self, cx, &mut buf))?;
            buf.filled().len()
        };
        // SAFETY: `filled` bytes at the start of the cursor were initialised by `ReadBuf`.
        unsafe { cursor.advance(filled) };
        Poll::Ready(Ok(()))
    }
}

impl hyper::rt::Write for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self, cx, buf)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self, cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(self, cx)
    }
    fn is_write_vectored(&self) -> bool {
        AsyncWrite::is_write_vectored(self)
    }
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(self, cx, bufs)
    }
}
