//! Fetches a set of keys over HTTP. Must never know who wants it, or when.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use weft_model::KeyPlace;
use weft_sources::key_set;

use super::proxies::{HttpProxies, HttpProxy};

/// Bytes of an answer's body.
const MAX_BODY: usize = 1024 * 1024;
/// Bytes of a proxy's answer before a tunnel.
const MAX_HEAD: usize = 8 * 1024;
/// Redirections that are followed.
const MAX_REDIRECTS: usize = 5;
/// How long a name is looked up here that an HTTP proxy is to be asked for.
const OWN_LOOKUP: Duration = Duration::from_secs(1);
/// Addresses of a name that are tried.
const MAX_ADDRESSES: usize = 4;
/// Names that are looked up at once, those included for which nobody waits any more.
static LOOKUPS: Semaphore = Semaphore::const_new(16);
/// Where the configuration of an issuer is (`OpenID` Connect Discovery 1.0, 4).
const DISCOVERY: &str = "/.well-known/openid-configuration";
/// Where systems keep the roots that they trust; the first that exists counts.
const SYSTEM_ROOTS: [&str; 6] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/pki/tls/cacert.pem",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Trusts the system's roots, and those of a file if it exists; nothing that is not PEM.
pub(crate) fn connector(extra_roots: &Path) -> TlsConnector {
    let system = SYSTEM_ROOTS
        .iter()
        .map(Path::new)
        .find(|path| path.exists());
    let mut roots = RootCertStore::empty();
    for path in system.into_iter().chain([extra_roots]) {
        let Ok(certificates) = CertificateDer::pem_file_iter(path) else {
            continue;
        };
        roots.add_parsable_certificates(certificates.flatten());
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let versions =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = match versions {
        Ok(versions) => versions.with_root_certificates(roots).with_no_client_auth(),
        // The provider that this is built with has both versions.
        Err(error) => unreachable!("{error}"),
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// How servers are called.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) tls: &'a TlsConnector,
    pub(crate) proxies: &'a HttpProxies,
}

/// The keys of a place. The error says what was asked and what came of it.
pub(crate) async fn fetch(place: &KeyPlace, way: Way<'_>) -> Result<Arc<str>, String> {
    let url = match place {
        KeyPlace::Url(url) => url.to_string(),
        KeyPlace::Issuer(issuer) => discover(issuer, way).await?,
    };
    let text = get(&url, way).await?;
    key_set::check(&text).map_err(|problem| format!("{url}: the answer {problem}"))?;
    Ok(text.into())
}

async fn discover(issuer: &str, way: Way<'_>) -> Result<String, String> {
    let url = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
    let text = get(&url, way).await?;
    let answer: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("{url}: {error}"))?;
    let keys = answer.get("jwks_uri").and_then(serde_json::Value::as_str);
    let keys = keys.ok_or_else(|| format!("{url}: the answer has no jwks_uri"))?;
    key_set::check_url(keys).map_err(|problem| format!("{url}: jwks_uri \"{keys}\" {problem}"))?;
    Ok(keys.to_owned())
}

/// An answer's body, after redirections.
async fn get(url: &str, way: Way<'_>) -> Result<String, String> {
    let mut next = url.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let uri: Uri = next.parse().map_err(|error| format!("{next}: {error}"))?;
        match once(&uri, way)
            .await
            .map_err(|text| format!("{next}: {text}"))?
        {
            Answer::Body(text) => return Ok(text),
            Answer::Elsewhere(location) => {
                let target = redirected(&uri, &location);
                let was_secret = uri.scheme_str() == Some("https");
                if was_secret && !target.starts_with("https://") {
                    return Err(format!(
                        "{next}: redirects to \"{target}\", which is not https"
                    ));
                }
                key_set::check_url(&target).map_err(|problem| {
                    format!("{next}: redirects to \"{target}\", which {problem}")
                })?;
                next = target;
            }
        }
    }
    Err(format!("{url}: more than {MAX_REDIRECTS} redirections"))
}

/// The target of a redirection: a whole URL, or a path of the same server.
fn redirected(from: &Uri, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", http::uri::Authority::as_str);
    let slash = if location.starts_with('/') { "" } else { "/" };
    format!("{scheme}://{authority}{slash}{location}")
}

enum Answer {
    Body(String),
    Elsewhere(String),
}

async fn once(uri: &Uri, way: Way<'_>) -> Result<Answer, String> {
    let host = uri.host().ok_or("there is no host")?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let secret = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secret { 443 } else { 80 });
    let proxy = way.proxies.of(secret, &host, port);
    let mut tcp = match proxy {
        Some(proxy) => {
            if is_forbidden_elsewhere(&host, port).await {
                return Err(forbidden(&host));
            }
            let tcp = connect(&proxy.host, proxy.port).await;
            tcp.map_err(|error| format!("the HTTP proxy {proxy:?}: {error}"))?
        }
        None => connect(&host, port).await?,
    };
    if !secret {
        return ask(TokioIo::new(tcp), uri, proxy).await;
    }
    if let Some(proxy) = proxy {
        let tunnel = tunnel(&mut tcp, &host, port, proxy).await;
        tunnel.map_err(|error| format!("the HTTP proxy {proxy:?}: {error}"))?;
    }
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let stream = way
        .tls
        .connect(name, tcp)
        .await
        .map_err(|error| error.to_string())?;
    ask(TokioIo::new(stream), uri, None).await
}

/// Has a proxy make a connection to a server (RFC 9110, 9.3.6).
async fn tunnel(
    stream: &mut TcpStream,
    host: &str,
    port: u16,
    proxy: &HttpProxy,
) -> Result<(), String> {
    let host = if host.contains(':') {
        format!("[{host}]:{port}")
    } else {
        format!("{host}:{port}")
    };
    let mut request = format!("CONNECT {host} HTTP/1.1\r\nhost: {host}\r\n");
    if let Some(authorization) = &proxy.authorization {
        request.push_str("proxy-authorization: ");
        request.push_str(authorization);
        request.push_str("\r\n");
    }
    request.push_str("\r\n");
    let text = |error: std::io::Error| error.to_string();
    stream.write_all(request.as_bytes()).await.map_err(text)?;
    // One byte after the other: what follows the head is the server's.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= MAX_HEAD {
            return Err(format!("its answer is longer than {MAX_HEAD} bytes"));
        }
        head.push(stream.read_u8().await.map_err(text)?);
    }
    let line = head.split(|byte| *byte == b'\r').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line);
    let status = line.split(' ').nth(1).unwrap_or_default();
    if line.starts_with("HTTP/1.") && status.len() == 3 && status.starts_with('2') {
        return Ok(());
    }
    Err(format!("its answer is \"{line}\""))
}

/// Looks a name up on a thread of its own. That lasts as long as the system takes, although nobody may
/// wait for it any more, and only then is its place free.
async fn resolved<T: Send + 'static>(
    places: &'static Semaphore,
    resolve: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let place = places.acquire().await;
    let place = place.map_err(|error| error.to_string())?;
    let found = tokio::task::spawn_blocking(move || {
        let found = resolve();
        drop(place);
        found
    });
    found.await.map_err(|error| error.to_string())
}

async fn addresses(host: &str, port: u16) -> Result<Vec<SocketAddr>, String> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, port)]);
    }
    let host = host.to_owned();
    let resolve = move || -> std::io::Result<Vec<SocketAddr>> {
        let found = (host.as_str(), port).to_socket_addrs()?;
        Ok(found.take(MAX_ADDRESSES).collect())
    };
    let found = resolved(&LOOKUPS, resolve).await?;
    found.map_err(|error| format!("the name cannot be resolved: {error}"))
}

/// Whether an HTTP proxy is not to be asked for a host: an address of the platform, however it is written, or a name that
/// is one here. What only the proxy can resolve is for the proxy to judge.
async fn is_forbidden_elsewhere(host: &str, port: u16) -> bool {
    let host = host.trim_end_matches('.');
    if let Ok(ip) = host.parse() {
        return is_forbidden(ip);
    }
    // `2852039166`, `0xa9fea9fe`, `169.254.43518`: some systems read these as addresses.
    let last = host.rsplit('.').next().unwrap_or_default();
    if last.starts_with("0x") || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return true;
    }
    let found = tokio::time::timeout(OWN_LOOKUP, addresses(host, port)).await;
    matches!(found, Ok(Ok(found)) if found.iter().any(|address| is_forbidden(address.ip())))
}

/// A connection to a name or an address, unless that is one of the platform itself.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let mut last = "the name has no address".to_owned();
    for address in addresses(host, port).await? {
        if is_forbidden(address.ip()) {
            last = forbidden(&address.ip());
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = failed(address, &error),
        }
    }
    Err(last)
}

fn forbidden(address: &impl std::fmt::Display) -> String {
    format!("{address} is an address of the platform itself, not asked")
}

fn failed(address: SocketAddr, error: &std::io::Error) -> String {
    format!("cannot connect to {address}: {error}")
}

/// Addresses at which clouds tell a machine its secrets: who may write rules must not have them
/// read out by the control plane.
fn is_forbidden(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local() || ip.octets() == [100, 100, 100, 200],
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments()[..2] == [0xfd00, 0x0ec2],
    }
}

/// `proxy`: the stream leads to it, which is told the whole URL.
async fn ask<S>(stream: TokioIo<S>, uri: &Uri, proxy: Option<&HttpProxy>) -> Result<Answer, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(stream).await.map_err(text)?;
    let path = uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let target = match proxy {
        Some(_) => uri.to_string(),
        None => path.to_owned(),
    };
    let mut request = Request::builder();
    if let Some(authorization) = proxy.and_then(|proxy| proxy.authorization.as_ref()) {
        request = request.header(header::PROXY_AUTHORIZATION, authorization);
    }
    let request = request
        .method(Method::GET)
        .uri(target)
        .header(
            header::HOST,
            uri.authority().map_or("", http::uri::Authority::as_str),
        )
        .header(header::ACCEPT, "application/json")
        .header(header::CONNECTION, "close")
        .header(
            header::USER_AGENT,
            concat!("weft-control/", env!("CARGO_PKG_VERSION")),
        )
        .body(Empty::<Bytes>::new())
        .map_err(|error| error.to_string())?;
    let exchange = async {
        let response = sender.send_request(request).await.map_err(text)?;
        let status = response.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            let location = response.headers().get(header::LOCATION);
            let location = location.and_then(|value| value.to_str().ok());
            let location = location.ok_or_else(|| format!("status {status} without a location"))?;
            return Ok(Answer::Elsewhere(location.to_owned()));
        }
        if !status.is_success() {
            return Err(format!("status {status}"));
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        let body = body
            .map_err(|error| format!("the body: {error}"))?
            .to_bytes();
        let text = String::from_utf8(body.to_vec());
        text.map(Answer::Body)
            .map_err(|_| "the body is no text".to_owned())
    };
    // The connection is driven here, so that it ends with the exchange.
    tokio::pin!(exchange, connection);
    tokio::select! {
        answer = &mut exchange => answer,
        ended = &mut connection => {
            ended.map_err(text)?;
            exchange.await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_the_platform_are_not_asked() {
        for bad in [
            "169.254.169.254",
            "fe80::1",
            "100.100.100.200",
            "fd00:ec2::254",
            "::ffff:169.254.1.1",
        ] {
            assert!(is_forbidden(bad.parse().expect("an address")), "{bad}");
        }
        for good in ["127.0.0.1", "10.0.0.1", "fd00::1", "8.8.8.8"] {
            assert!(!is_forbidden(good.parse().expect("an address")), "{good}");
        }
    }

    #[tokio::test]
    async fn a_look_up_that_was_given_up_keeps_its_place_until_it_ends() {
        use std::sync::mpsc;
        static ONE: Semaphore = Semaphore::const_new(1);
        let (end, ends) = mpsc::channel::<()>();
        let slow = resolved(&ONE, move || ends.recv());
        let given_up = tokio::time::timeout(Duration::from_millis(50), slow).await;
        assert!(given_up.is_err());
        let next = resolved(&ONE, || 7);
        let waits = tokio::time::timeout(Duration::from_millis(50), next).await;
        assert!(waits.is_err(), "a thread is busy with it still");
        end.send(()).expect("it waits");
        assert_eq!(resolved(&ONE, || 7).await, Ok(7));
    }

    #[tokio::test]
    async fn a_tunnel_begins_where_the_proxys_answer_ends() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let answers = [
            "HTTP/1.1 200 Made\r\nx: y\r\n\r\nhello",
            "HTTP/1.1 407 No\r\n\r\n",
        ];
        let server = tokio::spawn(async move {
            let mut heads = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().await.expect("a call");
                let mut head = vec![0; 1024];
                let read = stream.read(&mut head).await.expect("a request");
                head.truncate(read);
                heads.push(String::from_utf8(head).expect("text"));
                stream
                    .write_all(answer.as_bytes())
                    .await
                    .expect("it listens");
            }
            heads
        });
        let environment =
            |name: &str| (name == "HTTPS_PROXY").then(|| format!("http://me:it@{address}"));
        let proxies = HttpProxies::from_env(environment).expect("valid");
        let proxy = proxies.of(true, "keys.example", 443).expect("a proxy");
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let made = tunnel(&mut stream, "keys.example", 443, proxy).await;
        made.expect("made");
        let mut rest = String::new();
        stream
            .read_to_string(&mut rest)
            .await
            .expect("the server's");
        assert_eq!(rest, "hello");
        let mut stream = TcpStream::connect(address).await.expect("connects");
        let refused = tunnel(&mut stream, "fd00::1", 8443, proxy).await;
        assert!(refused.expect_err("refused").contains("407"));
        let heads = server.await.expect("no panic");
        let authorization = "proxy-authorization: Basic bWU6aXQ=\r\n";
        let wanted = format!(
            "CONNECT keys.example:443 HTTP/1.1\r\nhost: keys.example:443\r\n{authorization}\r\n"
        );
        assert_eq!(heads[0], wanted);
        assert!(
            heads[1].starts_with("CONNECT [fd00::1]:8443 "),
            "{}",
            heads[1]
        );
    }

    #[test]
    fn a_redirection_may_be_a_path() {
        let from: Uri = "https://a.example:8443/x".parse().expect("valid");
        assert_eq!(redirected(&from, "/y"), "https://a.example:8443/y");
        assert_eq!(redirected(&from, "http://b.example/"), "http://b.example/");
    }
}
