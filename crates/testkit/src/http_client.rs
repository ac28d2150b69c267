//! An HTTP/1.1 client that shows what pools hide: which connection a call went over, and that it
//! was closed. Must never retry.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::header::HOST;
use http::{HeaderMap, Request};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::certificate::Certificate;

/// The longest that a call may take.
const TIMEOUT: Duration = Duration::from_secs(20);

/// What came back.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Header fields.
    pub headers: HeaderMap,
    /// Body, as far as it is text.
    pub body: String,
}

/// One connection, kept alive.
#[derive(Debug)]
pub struct Connection {
    sender: SendRequest<Empty<Bytes>>,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The connection is refused or takes too long.
    pub async fn open(address: SocketAddr) -> Result<Self, String> {
        Self::over(connect(address)).await
    }

    /// Connects over TLS to a server of this name, and trusts this certificate only.
    ///
    /// # Errors
    /// As [`Connection::open`]; also, the server shows another certificate.
    pub async fn open_tls(
        address: SocketAddr,
        name: &str,
        trusted: &Certificate,
    ) -> Result<Self, String> {
        Self::open_tls_with(address, name, trusted, None).await
    }

    /// The same with a certificate of its own to show.
    ///
    /// # Errors
    /// As [`Connection::open_tls`]; also, the server wants another one.
    pub async fn open_tls_with(
        address: SocketAddr,
        name: &str,
        trusted: &Certificate,
        own: Option<&Certificate>,
    ) -> Result<Self, String> {
        Self::over_tls(connect(address), name, trusted, own).await
    }

    /// Speaks TLS over a connection that is there; else as [`Connection::open_tls`].
    ///
    /// # Errors
    /// As [`Connection::open_tls`].
    pub async fn on_tls(
        stream: TcpStream,
        name: &str,
        trusted: &Certificate,
    ) -> Result<Self, String> {
        Self::over_tls(std::future::ready(Ok(stream)), name, trusted, None).await
    }

    async fn over_tls(
        stream: impl Future<Output = Result<TcpStream, String>>,
        name: &str,
        trusted: &Certificate,
        own: Option<&Certificate>,
    ) -> Result<Self, String> {
        let connector = TlsConnector::from(trusted.client(own));
        let name = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        Self::over(async {
            let secure = connector.connect(name, stream.await?).await;
            secure.map_err(|error| error.to_string())
        })
        .await
    }

    /// Uses a connection that is there.
    ///
    /// # Errors
    /// It is not there any more.
    pub async fn on(stream: TcpStream) -> Result<Self, String> {
        Self::over(std::future::ready(Ok(stream))).await
    }

    async fn over<S>(stream: impl Future<Output = Result<S, String>>) -> Result<Self, String>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connecting = async {
            http1::handshake(TokioIo::new(stream.await?))
                .await
                .map_err(|error| error.to_string())
        };
        let (sender, connection) = within(connecting).await?;
        // Ends with the connection; its error reaches the caller through the call.
        tokio::spawn(connection);
        Ok(Self { sender })
    }

    /// GET. `uri` is a path, or a whole URI for an explicit proxy.
    ///
    /// # Errors
    /// The connection was closed or reset, the answer broke off, or it took too long.
    pub async fn get(&mut self, host: &str, uri: &str) -> Result<Answer, String> {
        self.call("GET", host, uri, &[]).await
    }

    /// A request without a body, with these header fields. `uri` is a path, or a whole URI for an
    /// explicit proxy.
    ///
    /// # Errors
    /// As [`Connection::get`].
    pub async fn call(
        &mut self,
        method: &str,
        host: &str,
        uri: &str,
        headers: &[(&str, &str)],
    ) -> Result<Answer, String> {
        let mut request = Request::builder()
            .method(method)
            .uri(uri)
            .header(HOST, host);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Empty::new());
        let request = request.map_err(|error| error.to_string())?;
        within(async {
            self.sender
                .ready()
                .await
                .map_err(|error| format!("closed: {error}"))?;
            let response = self.sender.send_request(request).await;
            let (head, body) = response.map_err(|error| error.to_string())?.into_parts();
            let body = body
                .collect()
                .await
                .map_err(|error| format!("in the body: {error}"))?;
            let body = String::from_utf8_lossy(&body.to_bytes()).into_owned();
            Ok(Answer {
                status: head.status.as_u16(),
                headers: head.headers,
                body,
            })
        })
        .await
    }
}

/// GET over a connection of its own.
///
/// # Errors
/// As [`Connection::open`] and [`Connection::get`].
pub async fn get(address: SocketAddr, path: &str) -> Result<Answer, String> {
    Connection::open(address)
        .await?
        .get(&address.to_string(), path)
        .await
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let stream = TcpStream::connect(address).await;
    let stream = stream.map_err(|error| error.to_string())?;
    stream
        .set_nodelay(true)
        .map_err(|error| error.to_string())?;
    Ok(stream)
}

async fn within<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("nothing within {TIMEOUT:?}"));
    tokio::time::timeout(TIMEOUT, work)
        .await
        .unwrap_or_else(late)
}
