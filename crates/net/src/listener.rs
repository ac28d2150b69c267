//! Listening sockets: one socket a worker on one address (`SO_REUSEPORT`), accepting with
//! back-off, and closing without losing connections that already wait in the queue.
//! Knows nothing of filter chains.

use std::io;
use std::net::{SocketAddr, TcpListener as StdListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};

/// TCP keep-alive probes; `None` leaves the kernel's default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Keepalive {
    /// Unanswered probes before the connection is dead.
    pub probes: Option<u32>,
    /// Idle time before the first probe.
    pub time: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
}

impl Keepalive {
    pub(crate) fn to_socket2(self) -> TcpKeepalive {
        let mut keepalive = TcpKeepalive::new();
        if let Some(probes) = self.probes {
            keepalive = keepalive.with_retries(probes);
        }
        if let Some(time) = self.time {
            keepalive = keepalive.with_time(time);
        }
        if let Some(interval) = self.interval {
            keepalive = keepalive.with_interval(interval);
        }
        keepalive
    }
}

/// How listening sockets are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BindOptions {
    /// One socket a worker. Without it all workers accept from one shared socket.
    pub reuse_port: bool,
    /// Length of the accept queue; Envoy's default is the kernel's maximum.
    pub backlog: u32,
    /// `IP_TRANSPARENT`, for TPROXY; needs `CAP_NET_ADMIN`.
    pub transparent: bool,
    /// `IP_FREEBIND`: the address need not exist yet.
    pub freebind: bool,
}

impl Default for BindOptions {
    fn default() -> Self {
        Self {
            reuse_port: true,
            backlog: 4096,
            transparent: false,
            freebind: false,
        }
    }
}

/// Binds `address` and gives `workers` sockets, so that all of them exist before any worker
/// accepts. They hold the address, but clients are refused until [`listen`]. A port of 0 is
/// chosen once for all.
///
/// # Errors
/// The first failure, with the address in its text.
pub fn bind(
    address: SocketAddr,
    workers: usize,
    options: &BindOptions,
) -> io::Result<Vec<StdListener>> {
    let named = |error: io::Error| {
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    };
    let first = bind_one(address, options).map_err(named)?;
    let address_bound = first.local_addr().map_err(named)?;
    let mut sockets = vec![first];
    while sockets.len() < workers {
        let next = if options.reuse_port {
            bind_one(address_bound, options)
        } else {
            // Not empty: the first socket is in it.
            sockets[0].try_clone()
        };
        sockets.push(next.map_err(named)?);
    }
    Ok(sockets)
}

fn bind_one(address: SocketAddr, options: &BindOptions) -> io::Result<StdListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM.nonblocking(),
        Some(Protocol::TCP),
    )?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if address.is_ipv6() {
        // `::` must not take the IPv4 address of another listener.
        socket.set_only_v6(true)?;
        if options.transparent {
            socket.set_ip_transparent_v6(true)?;
        }
        if options.freebind {
            socket.set_freebind_v6(true)?;
        }
    } else {
        if options.transparent {
            socket.set_ip_transparent_v4(true)?;
        }
        if options.freebind {
            socket.set_freebind_v4(true)?;
        }
    }
    socket.bind(&address.into())?;
    Ok(socket.into())
}

/// From now on the kernel takes connections for a socket of [`bind`].
///
/// # Errors
/// Somebody else listens on the address since it was bound; the text names the address.
pub fn listen(socket: &StdListener, options: &BindOptions) -> io::Result<()> {
    let backlog = i32::try_from(options.backlog).unwrap_or(i32::MAX);
    SockRef::from(socket).listen(backlog).map_err(|error| {
        let address = socket.local_addr().map(|address| address.to_string());
        let address = address.unwrap_or_else(|_| "a bound address".to_owned());
        io::Error::new(error.kind(), format!("cannot listen on {address}: {error}"))
    })
}

/// One worker's side of a listening address.
#[derive(Debug)]
pub struct Acceptor {
    listener: TcpListener,
    keepalive: Option<Keepalive>,
}

impl Acceptor {
    /// Takes a socket of [`bind`] onto the current worker's runtime.
    pub fn new(listener: StdListener, keepalive: Option<Keepalive>) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener: TcpListener::from_std(listener)?,
            keepalive,
        })
    }

    /// The bound address.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection, with `TCP_NODELAY` and keep-alive set. Does not fail: a connection
    /// that died in the queue is skipped, and lack of descriptors or memory is waited out with
    /// a pause that grows to one second. `on_error` hears every refusal (for a metric).
    pub async fn accept(&self, mut on_error: impl FnMut(&io::Error)) -> (TcpStream, SocketAddr) {
        let mut pause = Duration::from_millis(5);
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => {
                    self.prepare(&stream);
                    return (stream, peer);
                }
                Err(error) => {
                    on_error(&error);
                    if !is_about_the_connection(&error) {
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(1));
                    }
                }
            }
        }
    }

    /// Closes the socket after handing over what already waits in its queue, so that a removed
    /// listener does not reset connections which the kernel has established. At most 4,096.
    pub fn close(self) -> Vec<(TcpStream, SocketAddr)> {
        let mut queued = Vec::new();
        let Ok(listener) = self.listener.into_std() else {
            return queued;
        };
        while queued.len() < 4096 {
            match listener.accept() {
                Ok((stream, peer)) => {
                    if stream.set_nonblocking(true).is_err() {
                        continue;
                    }
                    if let Ok(stream) = TcpStream::from_std(stream) {
                        set_options(&stream, self.keepalive);
                        queued.push((stream, peer));
                    }
                }
                Err(error) if is_about_the_connection(&error) => {}
                Err(_) => break,
            }
        }
        queued
    }

    fn prepare(&self, stream: &TcpStream) {
        set_options(stream, self.keepalive);
    }
}

fn set_options(stream: &TcpStream, keepalive: Option<Keepalive>) {
    // A socket on which these fail is dead, which its first read will tell.
    let _ = stream.set_nodelay(true);
    if let Some(keepalive) = keepalive {
        let _ = SockRef::from(stream).set_tcp_keepalive(&keepalive.to_socket2());
    }
}

fn is_about_the_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_worker_socket_gets_connections_of_one_port() {
        let options = BindOptions::default();
        let sockets = bind("127.0.0.1:0".parse().unwrap(), 2, &options).unwrap();
        let address = sockets[0].local_addr().unwrap();
        let early = TcpStream::connect(address).await;
        assert!(
            early.is_err(),
            "a socket that does not listen took a connection"
        );
        for socket in &sockets {
            listen(socket, &options).unwrap();
        }
        assert_eq!(address, sockets[1].local_addr().unwrap());
        let acceptors: Vec<Acceptor> = sockets
            .into_iter()
            .map(|s| Acceptor::new(s, Some(Keepalive::default())).unwrap())
            .collect();
        let mut seen = [0, 0];
        let mut clients = Vec::new();
        for _ in 0..64 {
            clients.push(TcpStream::connect(address).await.unwrap());
            tokio::select! {
                _ = acceptors[0].accept(|_| ()) => seen[0] += 1,
                _ = acceptors[1].accept(|_| ()) => seen[1] += 1,
            }
        }
        assert!(seen[0] > 8 && seen[1] > 8, "{seen:?}");
    }

    #[tokio::test]
    async fn closing_hands_over_the_queue() {
        let options = BindOptions::default();
        let sockets = bind("[::1]:0".parse().unwrap(), 1, &options).unwrap();
        listen(&sockets[0], &options).unwrap();
        let acceptor = Acceptor::new(sockets.into_iter().next().unwrap(), None).unwrap();
        let address = acceptor.local_addr().unwrap();
        let _first = TcpStream::connect(address).await.unwrap();
        let _second = TcpStream::connect(address).await.unwrap();
        assert_eq!(acceptor.close().len(), 2);
        assert!(TcpStream::connect(address).await.is_err());
    }

    #[test]
    fn a_taken_address_is_named() {
        let options = BindOptions {
            reuse_port: false,
            ..BindOptions::default()
        };
        let held = bind("127.0.0.1:0".parse().unwrap(), 2, &options).unwrap();
        listen(&held[0], &options).unwrap();
        let address = held[0].local_addr().unwrap();
        let error = bind(address, 1, &options).unwrap_err();
        assert!(error.to_string().contains(&address.to_string()), "{error}");
    }
}
