//! Protocol sniffing before a filter chain is chosen: reads the first bytes of a connection,
//! asks the sans-io parsers what they are, and gives the bytes back to be read again.

mod http;
mod tls;

use std::fmt;
use std::io;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

pub use http::{HttpVersion, inspect_http};
pub use tls::{ClientHello, inspect_tls};

use crate::Peeked;

/// Most bytes that an inspector reads before it gives up (Envoy: 16 KiB for TLS, 8 KiB for
/// HTTP; a hello that spans its records fits).
pub const MAX_PEEK: usize = 64 * 1024;

/// What a parser makes of a prefix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict<T> {
    /// More bytes are needed to tell.
    NeedMore,
    /// It is not this protocol.
    No,
    /// It is.
    Yes(T),
}

/// Tells other protocols by a prefix: the application protocol that a filter chain matches on.
pub type Look<'l> = &'l dyn Fn(&[u8]) -> Verdict<&'static str>;

/// What to look for. Whoever is sure first is right: no two protocols have a prefix that both are sure of.
#[derive(Clone, Copy)]
pub struct Wanted<'l> {
    /// TLS `ClientHello`, for server name and ALPN.
    pub tls: bool,
    /// HTTP/1 or HTTP/2 with prior knowledge. Not looked for inside TLS.
    pub http: bool,
    /// What this crate does not know. Not looked for inside TLS.
    pub other: Option<Look<'l>>,
}

impl fmt::Debug for Wanted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let other = self.other.is_some();
        write!(
            f,
            "Wanted(tls {}, http {}, other {other})",
            self.tls, self.http
        )
    }
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inspected {
    /// The TLS hello, if it is TLS.
    pub hello: Option<ClientHello>,
    /// The HTTP version, if it is plain HTTP.
    pub http: Option<HttpVersion>,
    /// What [`Wanted::other`] found.
    pub other: Option<&'static str>,
    /// The client closed or was silent until the deadline before the inspectors were sure.
    pub incomplete: bool,
    /// It was the deadline that made it incomplete.
    pub timed_out: bool,
}

/// Reads from `tcp` until every wanted inspector has decided, `timeout` passed, the client
/// closed, or [`MAX_PEEK`] bytes were read; the last three set `incomplete`. What was read
/// is read again from the returned stream.
///
/// # Errors
/// The socket failed.
pub async fn inspect(
    tcp: TcpStream,
    wanted: Wanted<'_>,
    timeout: Option<Duration>,
) -> io::Result<(Peeked, Inspected)> {
    inspect_more(tcp.into(), wanted, timeout).await
}

/// The same of a connection of which something was read for another inspector.
///
/// # Errors
/// The socket failed.
pub async fn inspect_more(
    io: Peeked,
    wanted: Wanted<'_>,
    timeout: Option<Duration>,
) -> io::Result<(Peeked, Inspected)> {
    let (mut tcp, seen) = io.into_parts();
    let mut seen = Vec::from(seen);
    let mut found = Inspected::default();
    if !seen.is_empty() && decide(&seen, wanted, &mut found) {
        return Ok((Peeked::new(tcp, seen), found));
    }
    let read = read_until_sure(&mut tcp, wanted, &mut seen, &mut found);
    match timeout {
        Some(timeout) => {
            if let Ok(done) = tokio::time::timeout(timeout, read).await {
                done?;
            } else {
                found.incomplete = true;
                found.timed_out = true;
            }
        }
        None => read.await?,
    }
    Ok((Peeked::new(tcp, seen), found))
}

async fn read_until_sure(
    tcp: &mut TcpStream,
    wanted: Wanted<'_>,
    seen: &mut Vec<u8>,
    found: &mut Inspected,
) -> io::Result<()> {
    seen.reserve(2048);
    loop {
        // `read_buf` keeps what it got when the future is dropped by the deadline.
        let got = tcp.read_buf(seen).await?;
        if decide(seen, wanted, found) {
            return Ok(());
        }
        if got == 0 || seen.len() >= MAX_PEEK {
            found.incomplete = true;
            return Ok(());
        }
    }
}

/// Whether one of the wanted inspectors is sure, or none of them can become it.
fn decide(seen: &[u8], wanted: Wanted<'_>, found: &mut Inspected) -> bool {
    let mut more = false;
    if wanted.tls {
        match inspect_tls(seen) {
            Verdict::NeedMore => more = true,
            Verdict::Yes(hello) => {
                found.hello = Some(hello);
                return true;
            }
            Verdict::No => {}
        }
    }
    if wanted.http {
        match inspect_http(seen) {
            Verdict::NeedMore => more = true,
            Verdict::Yes(version) => {
                found.http = Some(version);
                return true;
            }
            Verdict::No => {}
        }
    }
    match wanted.other.map(|look| look(seen)) {
        Some(Verdict::NeedMore) => more = true,
        Some(Verdict::Yes(protocol)) => {
            found.other = Some(protocol);
            return true;
        }
        Some(Verdict::No) | None => {}
    }
    !more
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    const BOTH: Wanted<'static> = Wanted {
        tls: true,
        http: true,
        other: None,
    };

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        (client, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn split_request_is_recognised_and_read_again() {
        let (mut client, server) = pair().await;
        let send = async {
            for byte in b"GET / HTTP/1.1\r\nhost: a\r\n\r\n" {
                client.write_all(&[*byte]).await.unwrap();
                tokio::task::yield_now().await;
            }
            client.shutdown().await.unwrap();
        };
        let (inspected, ()) = tokio::join!(inspect(server, BOTH, None), send);
        let (mut stream, found) = inspected.unwrap();
        assert_eq!(found.http, Some(HttpVersion::Http11));
        assert!(!found.incomplete);
        let mut all = Vec::new();
        stream.read_to_end(&mut all).await.unwrap();
        assert_eq!(all, b"GET / HTTP/1.1\r\nhost: a\r\n\r\n");
    }

    #[tokio::test]
    async fn a_silent_client_ends_at_the_deadline_and_a_closing_one_at_once() {
        let (mut client, server) = pair().await;
        client.write_all(b"\x16\x03").await.unwrap();
        let (stream, found) = inspect(server, BOTH, Some(Duration::from_millis(50)))
            .await
            .unwrap();
        assert!(found.incomplete && found.hello.is_none());
        assert_eq!(stream.prefix(), b"\x16\x03");

        let (client, server) = pair().await;
        drop(client);
        let (_, found) = inspect(server, BOTH, None).await.unwrap();
        assert!(found.incomplete);
    }

    #[tokio::test]
    async fn what_was_read_for_one_inspector_is_looked_at_by_the_next() {
        let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
        for cut in [1, 4, preface.len()] {
            let (mut client, server) = pair().await;
            client.write_all(&preface[..cut]).await.unwrap();
            let tls = Wanted {
                http: false,
                ..BOTH
            };
            let (io, found) = inspect(server, tls, None).await.unwrap();
            assert_eq!((found.hello, io.prefix()), (None, &preface[..cut]));
            client.write_all(&preface[cut..]).await.unwrap();
            let http = Wanted { tls: false, ..BOTH };
            let (_, found) = inspect_more(io, http, None).await.unwrap();
            assert_eq!(found.http, Some(HttpVersion::H2c), "{cut} bytes");
        }
    }

    #[tokio::test]
    async fn a_protocol_of_the_caller_is_found_beside_the_others() {
        let magic = |seen: &[u8]| match seen {
            [] | [0] => Verdict::NeedMore,
            [0, 7, ..] => Verdict::Yes("seven"),
            _ => Verdict::No,
        };
        let wanted = Wanted {
            other: Some(&magic),
            ..BOTH
        };
        for (sent, other, http) in [
            (&b"\x00\x07binary"[..], Some("seven"), None),
            (b"\x00\x08binary", None, None),
            (b"GET / HTTP/1.1\r\n", None, Some(HttpVersion::Http11)),
            (
                b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
                None,
                Some(HttpVersion::H2c),
            ),
        ] {
            let (mut client, server) = pair().await;
            let send = async {
                for byte in sent {
                    client.write_all(&[*byte]).await.unwrap();
                    tokio::task::yield_now().await;
                }
            };
            let (inspected, ()) = tokio::join!(inspect(server, wanted, None), send);
            let (stream, found) = inspected.unwrap();
            assert_eq!((found.other, found.http), (other, http), "{sent:?}");
            assert!(!found.incomplete && sent.starts_with(stream.prefix()));
        }
    }

    #[tokio::test]
    async fn other_protocols_are_decided_by_their_first_bytes() {
        let (mut client, server) = pair().await;
        client.write_all(b"\x00\x01binary").await.unwrap();
        let (stream, found) = inspect(server, BOTH, None).await.unwrap();
        assert_eq!(found, Inspected::default());
        assert_eq!(stream.prefix(), b"\x00\x01binary");
    }
}
