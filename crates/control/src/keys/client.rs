//! Fetches a set of keys over HTTP. Must never know who wants it, or when.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use weft_model::KeyPlace;
use weft_sources::key_set;

/// Bytes of an answer's body.
const MAX_BODY: usize = 1024 * 1024;
/// Redirections that are followed.
const MAX_REDIRECTS: usize = 5;
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

/// The keys of a place. The error says what was asked and what came of it.
pub(crate) async fn fetch(place: &KeyPlace, tls: &TlsConnector) -> Result<Arc<str>, String> {
    let url = match place {
        KeyPlace::Url(url) => url.to_string(),
        KeyPlace::Issuer(issuer) => discover(issuer, tls).await?,
    };
    let text = get(&url, tls).await?;
    key_set::check(&text).map_err(|problem| format!("{url}: the answer {problem}"))?;
    Ok(text.into())
}

async fn discover(issuer: &str, tls: &TlsConnector) -> Result<String, String> {
    let url = format!("{}{DISCOVERY}", issuer.trim_end_matches('/'));
    let text = get(&url, tls).await?;
    let answer: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| format!("{url}: {error}"))?;
    let keys = answer.get("jwks_uri").and_then(serde_json::Value::as_str);
    let keys = keys.ok_or_else(|| format!("{url}: the answer has no jwks_uri"))?;
    key_set::check_url(keys).map_err(|problem| format!("{url}: jwks_uri \"{keys}\" {problem}"))?;
    Ok(keys.to_owned())
}

/// An answer's body, after redirections.
async fn get(url: &str, tls: &TlsConnector) -> Result<String, String> {
    let mut next = url.to_owned();
    for _ in 0..=MAX_REDIRECTS {
        let uri: Uri = next.parse().map_err(|error| format!("{next}: {error}"))?;
        match once(&uri, tls)
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

async fn once(uri: &Uri, tls: &TlsConnector) -> Result<Answer, String> {
    let host = uri.host().ok_or("there is no host")?;
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let secret = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if secret { 443 } else { 80 });
    let tcp = connect(&host, port).await?;
    if !secret {
        return ask(TokioIo::new(tcp), uri).await;
    }
    let name = ServerName::try_from(host).map_err(|error| error.to_string())?;
    let stream = tls
        .connect(name, tcp)
        .await
        .map_err(|error| error.to_string())?;
    ask(TokioIo::new(stream), uri).await
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

/// A connection to a name or an address, unless that is one of the platform itself.
pub(crate) async fn connect(host: &str, port: u16) -> Result<TcpStream, String> {
    let mut last = "the name has no address".to_owned();
    for address in addresses(host, port).await? {
        if is_forbidden(address.ip()) {
            last = format!(
                "{} is an address of the platform itself, not asked",
                address.ip()
            );
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = failed(address, &error),
        }
    }
    Err(last)
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

async fn ask<S>(stream: TokioIo<S>, uri: &Uri) -> Result<Answer, String>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: hyper::Error| error.to_string();
    let (mut sender, connection) = http1::handshake(stream).await.map_err(text)?;
    let path = uri
        .path_and_query()
        .map_or("/", http::uri::PathAndQuery::as_str);
    let request = Request::builder()
        .method(Method::GET)
        .uri(path)
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
        use std::time::Duration;
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

    #[test]
    fn a_redirection_may_be_a_path() {
        let from: Uri = "https://a.example:8443/x".parse().expect("valid");
        assert_eq!(redirected(&from, "/y"), "https://a.example:8443/y");
        assert_eq!(redirected(&from, "http://b.example/"), "http://b.example/");
    }
}
