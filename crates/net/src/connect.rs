//! Outgoing TCP connections with a deadline, a source address and keep-alive.

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::time::Duration;

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream, UnixStream};

use crate::listener::Keepalive;

/// How a connection is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectOptions {
    /// Source address; its port may be 0.
    pub bind: Option<SocketAddr>,
    /// TCP keep-alive; `None` switches it off.
    pub keepalive: Option<Keepalive>,
    /// Deadline of the TCP handshake; Envoy's default is 5 s.
    pub timeout: Duration,
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self {
            bind: None,
            keepalive: None,
            timeout: Duration::from_secs(5),
        }
    }
}

/// Why there is no connection. In every case nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The deadline passed.
    #[error("connection timeout")]
    Timeout,
    /// The source address could not be used.
    #[error("cannot bind the source address {0}: {1}")]
    Bind(SocketAddr, io::Error),
    /// The kernel or the other side refused.
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Connects to a Unix socket: a path, or (with `@` before it) a name in the abstract namespace. The
/// stream has neither addresses nor options of TCP.
///
/// # Errors
/// The kernel or the other side refused, or the deadline passed.
pub async fn connect_pipe(path: &str, timeout: Duration) -> Result<TcpStream, ConnectError> {
    let path = match path.strip_prefix('@') {
        Some(name) => format!("\0{name}"),
        None => path.to_owned(),
    };
    let stream = tokio::time::timeout(timeout, UnixStream::connect(path))
        .await
        .map_err(|_| ConnectError::Timeout)??;
    // Reading and writing is the same for both kinds, and one type costs connections nothing.
    let owned = OwnedFd::from(stream.into_std()?);
    Ok(TcpStream::from_std(owned.into())?)
}

/// Connects to `address` with `TCP_NODELAY`.
pub async fn connect(
    address: SocketAddr,
    options: &ConnectOptions,
) -> Result<TcpStream, ConnectError> {
    let socket = if address.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    socket.set_nodelay(true)?;
    if let Some(bind) = options.bind {
        socket
            .bind(bind)
            .map_err(|error| ConnectError::Bind(bind, error))?;
    }
    let stream = tokio::time::timeout(options.timeout, socket.connect(address))
        .await
        .map_err(|_| ConnectError::Timeout)??;
    if let Some(keepalive) = options.keepalive {
        SockRef::from(&stream).set_tcp_keepalive(&keepalive.to_socket2())?;
    }
    Ok(stream)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connects_from_the_given_source() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = ConnectOptions {
            bind: Some("127.0.0.2:0".parse().unwrap()),
            keepalive: Some(Keepalive {
                probes: Some(3),
                time: Some(Duration::from_secs(7)),
                interval: Some(Duration::from_secs(2)),
            }),
            ..ConnectOptions::default()
        };
        let stream = connect(listener.local_addr().unwrap(), &options)
            .await
            .unwrap();
        let (_accepted, peer) = listener.accept().await.unwrap();
        assert_eq!(peer.ip().to_string(), "127.0.0.2");
        assert_eq!(
            SockRef::from(&stream).tcp_keepalive_time().unwrap(),
            Duration::from_secs(7)
        );
    }

    #[tokio::test]
    async fn unix_sockets_are_streams_like_others() {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let path = std::env::temp_dir().join(format!("weft-pipe-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let path = path.to_str().unwrap();
        let wait = Duration::from_secs(5);
        let missing = connect_pipe(path, wait).await;
        assert!(matches!(missing, Err(ConnectError::Io(_))), "{missing:?}");
        let name = format!("@weft-{}", std::process::id());
        let abstract_listener = tokio::net::UnixListener::bind(name.replace('@', "\0")).unwrap();
        let listener = tokio::net::UnixListener::bind(path).unwrap();
        for (listener, path) in [(listener, path), (abstract_listener, &*name)] {
            let mut stream = connect_pipe(path, wait).await.unwrap();
            let (mut accepted, _) = listener.accept().await.unwrap();
            stream.write_all(b"ping").await.unwrap();
            stream.shutdown().await.unwrap();
            let mut got = Vec::new();
            accepted.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"ping");
            accepted.write_all(b"pong").await.unwrap();
            drop(accepted);
            got.clear();
            stream.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, b"pong");
        }
        std::fs::remove_file(path).unwrap();
    }

    #[tokio::test]
    async fn refusal_and_timeout_are_told_apart() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        drop(listener);
        let refused = connect(address, &ConnectOptions::default()).await;
        assert!(matches!(refused, Err(ConnectError::Io(_))));

        // A listener whose queue of one is full drops further SYNs.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let full = socket.listen(1).unwrap();
        let options = ConnectOptions {
            timeout: Duration::from_millis(100),
            ..ConnectOptions::default()
        };
        let mut held = Vec::new();
        let mut timed_out = false;
        for _ in 0..8 {
            match connect(full.local_addr().unwrap(), &options).await {
                Ok(stream) => held.push(stream),
                Err(ConnectError::Timeout) => timed_out = true,
                Err(other) => panic!("{other}"),
            }
        }
        assert!(timed_out);
    }
}
