//! An external signer behind gRPC (`weft.identity.v1.SignerService`): the control plane is a
//! registration authority then. Must never judge its answers, which the authority does.

use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use http::uri::PathAndQuery;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsConnector;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use weft_ca::signer::Signed;
use weft_ca::{ExternalSigner, SignError, SigningRequest};
use weft_proto::identity::{SignRequest, SignResponse};

const SIGN: &str = "/weft.identity.v1.SignerService/Sign";
/// Time for an answer, less than a caller of the certificate service waits.
const ANSWER: Duration = Duration::from_secs(8);
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes of an answer.
const MAX_ANSWER: usize = 256 * 1024;
/// Certificates of an answer.
const MAX_CHAIN: usize = 16;
/// Requests at once; more wait, and no longer than for an answer.
const AT_ONCE: usize = 64;
/// Characters of an answer's error.
const MAX_TEXT: usize = 200;
const ROOTS: &str = "root-cert.pem";
const CHAIN: &str = "cert-chain.pem";
const KEY: &str = "key.pem";

/// Where an external signer is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignerConfig {
    /// `https://host:port`; `http://` on loopback only; or `unix:///path`.
    pub address: String,
    /// Folder with `root-cert.pem`, by which the signer is checked, and `cert-chain.pem` with `key.pem`,
    /// which are shown to it; read for each connection.
    pub tls: Option<PathBuf>,
    /// Folder with the roots of the mesh.
    pub roots: PathBuf,
}

/// How the signer is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Way {
    Unix(PathBuf),
    Plain(String),
    Tls {
        address: String,
        name: ServerName<'static>,
        folder: PathBuf,
    },
}

impl Way {
    fn read(config: &SignerConfig) -> Result<Self, String> {
        let text = &config.address;
        let wrong = || {
            format!(
                "{text}: write https://host:port, http://127.0.0.1:port on this machine, or unix:///path"
            )
        };
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(wrong())
            };
        }
        let uri: Uri = text.parse().map_err(|_| wrong())?;
        let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
            return Err(wrong());
        };
        if uri.path() != "/" || uri.query().is_some() {
            return Err(wrong());
        }
        let address = format!("{host}:{port}");
        let host = host.trim_start_matches('[').trim_end_matches(']');
        match (uri.scheme_str(), &config.tls) {
            (Some("https"), Some(folder)) => Ok(Self::Tls {
                address,
                name: ServerName::try_from(host.to_owned()).map_err(|_| wrong())?,
                folder: folder.clone(),
            }),
            (Some("https"), None) => Err(format!(
                "{text}: the signer cannot be checked without its roots; give their folder"
            )),
            (Some("http"), _) if is_local(host) => Ok(Self::Plain(address)),
            (Some("http"), _) => Err(format!(
                "{text}: whoever is on the way could sign for the signer; write https"
            )),
            _ => Err(wrong()),
        }
    }
}

fn is_local(host: &str) -> bool {
    let address = host.parse::<IpAddr>();
    address.map_or(host == "localhost", |address| address.is_loopback())
}

/// See the module.
pub(super) struct GrpcSigner {
    channel: Channel,
    places: Arc<Semaphore>,
}

impl GrpcSigner {
    /// Connects with the first request, and again whenever the connection is gone. Needs a tokio runtime.
    ///
    /// # Errors
    /// The address is wrong, or the files of TLS cannot be used.
    pub(super) fn new(config: &SignerConfig) -> Result<Self, String> {
        let way = Way::read(config)?;
        if let Way::Tls { folder, .. } = &way {
            tls(folder)?;
        }
        // Names nobody; where it goes, the connector says.
        let endpoint = Endpoint::from_static("http://signer")
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_timeout(Duration::from_secs(20));
        Ok(Self {
            channel: endpoint.connect_with_connector_lazy(Connector(way)),
            places: Arc::new(Semaphore::new(AT_ONCE)),
        })
    }
}

impl ExternalSigner for GrpcSigner {
    fn sign(&self, request: SigningRequest) -> Signed {
        let (channel, places) = (self.channel.clone(), Arc::clone(&self.places));
        Box::pin(async move {
            let asked = async {
                let place = places.acquire_owned().await;
                let _place = place.map_err(|error| SignError::NotReady(error.to_string()))?;
                ask(channel, &request).await
            };
            let late = |_| SignError::NotReady("the signer does not answer in time".to_owned());
            tokio::time::timeout(ANSWER, asked).await.map_err(late)?
        })
    }
}

async fn ask(
    channel: Channel,
    request: &SigningRequest,
) -> Result<Vec<CertificateDer<'static>>, SignError> {
    let SigningRequest {
        csr,
        subject,
        lifetime,
    } = request;
    let message = SignRequest {
        csr: csr.to_pem(),
        spiffe_id: subject.id.to_string(),
        dns_names: subject.dns.clone(),
        ip_addresses: subject.addresses.iter().map(IpAddr::to_string).collect(),
        validity_duration: i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX),
    };
    let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(MAX_ANSWER);
    let ready = client.ready().await;
    ready.map_err(|error| SignError::NotReady(with_cause(&error)))?;
    let codec = ProstCodec::<SignRequest, SignResponse>::default();
    let path = PathAndQuery::from_static(SIGN);
    let answer = client.unary(Request::new(message), path, codec).await;
    let SignResponse { cert_chain } = answer.map_err(|status| failed(&status))?.into_inner();
    let mut chain = Vec::new();
    for text in &cert_chain {
        for certificate in CertificateDer::pem_slice_iter(text.as_bytes()) {
            let wrong = |_| SignError::Sign("the external signer's answer is not PEM".to_owned());
            chain.push(certificate.map_err(wrong)?);
        }
        if chain.len() > MAX_CHAIN {
            let text =
                format!("the external signer's answer has more than {MAX_CHAIN} certificates");
            return Err(SignError::Sign(text));
        }
    }
    Ok(chain)
}

fn failed(status: &Status) -> SignError {
    let text: String = status.message().chars().take(MAX_TEXT).collect();
    let text = format!("the external signer: {:?}: {text}", status.code());
    match status.code() {
        Code::Unavailable | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Cancelled => {
            SignError::NotReady(text)
        }
        _ => SignError::Sign(text),
    }
}

fn with_cause(error: &(dyn std::error::Error + 'static)) -> String {
    let cause = error.source().map(|cause| format!(": {cause}"));
    format!("the external signer: {error}{}", cause.unwrap_or_default())
}

/// A connection of any kind.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

#[derive(Clone)]
struct Connector(Way);

type Connecting = Pin<Box<dyn Future<Output = io::Result<TokioIo<Box<dyn Io>>>> + Send>>;

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Connecting;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let way = self.0.clone();
        Box::pin(async move {
            let late = || io::Error::new(io::ErrorKind::TimedOut, "it took too long");
            let connected = tokio::time::timeout(CONNECT, connect(&way)).await;
            Ok(TokioIo::new(connected.map_err(|_| late())??))
        })
    }
}

async fn connect(way: &Way) -> io::Result<Box<dyn Io>> {
    Ok(match way {
        Way::Unix(path) => Box::new(UnixStream::connect(path).await?),
        Way::Plain(address) => Box::new(tcp(address).await?),
        Way::Tls {
            address,
            name,
            folder,
        } => {
            let connector = tls(folder).map_err(io::Error::other)?;
            Box::new(connector.connect(name.clone(), tcp(address).await?).await?)
        }
    })
}

async fn tcp(address: &str) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

fn tls(folder: &Path) -> Result<TlsConnector, String> {
    let problem = |name: &str, what: String| format!("{}: {what}", folder.join(name).display());
    let read = |name: &'static str| {
        let text = std::fs::read(folder.join(name));
        text.map_err(|error| problem(name, error.to_string()))
    };
    let certificates = |name: &'static str| {
        let text = read(name)?;
        let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&text).collect();
        found.map_err(|error| problem(name, error.to_string()))
    };
    let mut roots = RootCertStore::empty();
    for root in certificates(ROOTS)? {
        let added = roots.add(root);
        added.map_err(|error| problem(ROOTS, error.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_root_certificates(roots);
    let mut config = if folder.join(CHAIN).exists() || folder.join(KEY).exists() {
        let key = PrivateKeyDer::from_pem_slice(&zeroize(read(KEY)?));
        let key = key.map_err(|error| problem(KEY, error.to_string()))?;
        let own = builder.with_client_auth_cert(certificates(CHAIN)?, key);
        own.map_err(|error| problem(CHAIN, error.to_string()))?
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A key's text, wiped when it goes.
fn zeroize(text: Vec<u8>) -> zeroize::Zeroizing<Vec<u8>> {
    zeroize::Zeroizing::new(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(address: &str, tls: Option<&str>) -> Result<Way, String> {
        Way::read(&SignerConfig {
            address: address.to_owned(),
            tls: tls.map(PathBuf::from),
            roots: PathBuf::new(),
        })
    }

    #[test]
    fn in_plain_text_a_signer_is_on_this_machine() {
        assert_eq!(way("unix:///run/s", None), Ok(Way::Unix("/run/s".into())));
        for local in ["127.0.0.1:9", "[::1]:9", "localhost:9"] {
            let read = way(&format!("http://{local}"), None);
            assert_eq!(read, Ok(Way::Plain(local.to_owned())));
        }
        assert!(
            way("http://10.0.0.1:9", None)
                .expect_err("far")
                .contains("https")
        );
        let checked = way("https://signer:9", Some("/tls")).expect("valid");
        assert!(matches!(checked, Way::Tls { address, .. } if address == "signer:9"));
        assert!(
            way("https://signer:9", None)
                .expect_err("unchecked")
                .contains("roots")
        );
        for wrong in [
            "",
            "signer:9",
            "https://signer",
            "ftp://signer:9",
            "unix://run",
            "https://s:9/path",
        ] {
            assert!(way(wrong, Some("/tls")).is_err(), "{wrong}");
        }
    }
}
