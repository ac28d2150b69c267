//! The control plane as a registration authority: an external signer signs, over gRPC.

mod plane;

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use http::Uri;
use hyper_util::rt::TokioIo;
use plane::{Running, SERVICE, config, get, write};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::client::TlsStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;
use weft_ca::authn::JoinTokens;
use weft_ca::issuer::Subject;
use weft_ca::{Csr, Issuer, KeyKind, KeyPair, SpiffeId, TrustBundle, TrustDomain};
use weft_control::{ControlError, ControlPlane, SecureConfig, SignerConfig};
use weft_core::drain;
use weft_proto::identity::{SignRequest, SignResponse};
use weft_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use weft_xds::server::grpc::Carrier;

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const HOUR: Duration = Duration::from_hours(1);

/// What the signer does.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Mood {
    Good,
    /// Signs for somebody else.
    Wrong,
    /// Says no.
    Refuses,
    /// Is busy.
    Busy,
    /// Never answers.
    Silent,
}

/// A signer with a root of its own.
#[derive(Clone)]
struct Signer {
    issuer: Arc<Issuer>,
    bundle: TrustBundle,
    mood: Arc<AtomicU8>,
}

impl Signer {
    fn new() -> Self {
        let domain = TrustDomain::parse("cluster.local").expect("valid");
        let now = SystemTime::now();
        let made = Issuer::new_root(&domain, KeyKind::P256, 1000 * HOUR, now);
        let (key, root) = made.expect("a root");
        let bundle = TrustBundle::new([root.clone()]).expect("a bundle");
        let issuer = Issuer::new(root, key, &[], &bundle, now).expect("an issuer");
        Self {
            issuer: Arc::new(issuer),
            bundle,
            mood: Arc::default(),
        }
    }

    fn is(&self, mood: Mood) {
        self.mood.store(mood as u8, Ordering::Relaxed);
    }

    fn sign(&self, request: &SignRequest) -> Result<SignResponse, Status> {
        let mood = self.mood.load(Ordering::Relaxed);
        if mood == Mood::Refuses as u8 {
            return Err(Status::permission_denied("not today"));
        }
        if mood == Mood::Busy as u8 {
            return Err(Status::unavailable("busy"));
        }
        let csr = Csr::from_pem(request.csr.as_bytes()).expect("it was checked");
        let id = if mood == Mood::Wrong as u8 {
            "spiffe://cluster.local/ns/bank/sa/vault"
        } else {
            &request.spiffe_id
        };
        let subject = Subject {
            id: SpiffeId::parse(id).expect("valid"),
            dns: request.dns_names.clone(),
            addresses: request
                .ip_addresses
                .iter()
                .map(|address| address.parse().expect("an address"))
                .collect(),
        };
        let lifetime = Duration::from_secs(request.validity_duration.unsigned_abs());
        let issued = self
            .issuer
            .issue(&csr, &subject, lifetime, SystemTime::now());
        let mut cert_chain = issued.expect("signed").pem();
        // Some send it, too.
        cert_chain.push(String::from_utf8(self.bundle.pem().to_vec()).expect("PEM"));
        Ok(SignResponse { cert_chain })
    }
}

impl NamedService for Signer {
    const NAME: &'static str = "weft.identity.v1.SignerService";
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl UnaryService<SignRequest> for Signer {
    type Response = SignResponse;
    type Future = Answer<Result<Response<SignResponse>, Status>>;

    fn call(&mut self, request: Request<SignRequest>) -> Self::Future {
        let signer = self.clone();
        Box::pin(async move {
            if signer.mood.load(Ordering::Relaxed) == Mood::Silent as u8 {
                std::future::pending::<()>().await;
            }
            signer.sign(request.get_ref()).map(Response::new)
        })
    }
}

impl Service<http::Request<Body>> for Signer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let signer = self.clone();
        Box::pin(async move {
            assert_eq!(request.uri().path(), "/weft.identity.v1.SignerService/Sign");
            let codec = ProstCodec::<SignResponse, SignRequest>::default();
            Ok(Grpc::new(codec).unary(signer, request).await)
        })
    }
}

/// A control plane with a signer.
struct World {
    folder: tempfile::TempDir,
    running: Running,
    bundle: TrustBundle,
}

/// The folder with the mesh's roots.
fn roots(folder: &Path, bundle: &TrustBundle) -> PathBuf {
    let roots = folder.join("roots");
    std::fs::create_dir_all(&roots).expect("made");
    std::fs::write(roots.join("root-cert.pem"), &**bundle.pem()).expect("written");
    roots
}

impl World {
    async fn start(
        folder: tempfile::TempDir,
        address: String,
        tls: Option<PathBuf>,
        bundle: TrustBundle,
    ) -> Result<Self, ControlError> {
        let directory = tempfile::tempdir().expect("a directory");
        write(directory.path(), "mesh.yaml", SERVICE);
        let mut config = config(directory.path());
        config.secure = Some(SecureConfig {
            signer: Some(SignerConfig {
                address,
                tls,
                roots: roots(folder.path(), &bundle),
            }),
            ..SecureConfig::new(folder.path().join("ca"))
        });
        let (drain, signal) = drain::channel();
        let control = ControlPlane::start(config, signal).await?;
        Ok(Self {
            folder,
            running: Running {
                control,
                drain,
                directory,
            },
            bundle,
        })
    }

    fn token(&self) -> String {
        let tokens = JoinTokens::open(&self.folder.path().join("ca")).expect("a folder");
        let token = tokens.create("shop", "cart", HOUR, SystemTime::now());
        format!("Bearer {}", *token.expect("made"))
    }

    async fn ask(&self, token: &str) -> Result<(KeyPair, Vec<String>), Status> {
        self.call(self.channel(None).await, Some(token)).await
    }

    /// The same by a certificate in place of a token.
    async fn renew(&self, own: &(KeyPair, Vec<String>)) -> Result<(KeyPair, Vec<String>), Status> {
        self.call(self.channel(Some(own)).await, None).await
    }

    async fn call(
        &self,
        channel: Channel,
        token: Option<&str>,
    ) -> Result<(KeyPair, Vec<String>), Status> {
        let key = KeyPair::generate(KeyKind::P256).expect("made");
        let mut client = tonic::client::Grpc::new(channel);
        client.ready().await.expect("connected");
        let mut request = Request::new(IstioCertificateRequest {
            csr: key.request(None).expect("made"),
            ..IstioCertificateRequest::default()
        });
        if let Some(token) = token {
            let bearer = token.parse().expect("a header");
            request.metadata_mut().insert("authorization", bearer);
        }
        let path = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
        let path = http::uri::PathAndQuery::from_static(path);
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        let answer = client.unary(request, path, codec).await?;
        Ok((key, answer.into_inner().cert_chain))
    }

    /// The secure port's own certificate is the signer's, too.
    async fn channel(&self, own: Option<&(KeyPair, Vec<String>)>) -> Channel {
        let mut store = RootCertStore::empty();
        for root in self.bundle.certificates() {
            store.add(root.clone()).expect("a root");
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider);
        let builder = builder.with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(store);
        let mut config = match own {
            None => builder.with_no_client_auth(),
            Some((key, chain)) => {
                let key = PrivateKeyDer::from_pem_slice(key.to_pem().expose());
                let chain = vec![certificate(chain)];
                let config = builder.with_client_auth_cert(chain, key.expect("PEM"));
                config.expect("they belong together")
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        let connector = Connector {
            address: self.running.control.secure_addr.expect("there is one"),
            tls: TlsConnector::from(Arc::new(config)),
        };
        let endpoint = Endpoint::from_static("http://secure");
        let connected = endpoint.connect_with_connector(connector).await;
        connected.expect("TLS with the signer's root")
    }

    async fn metric(&self, line: &str) -> u64 {
        let page = get(&self.running, "/metrics").await;
        let found = page
            .lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        let found = found.unwrap_or_else(|| panic!("no {line} in {page}"));
        found.parse().expect("a number")
    }
}

#[derive(Clone)]
struct Connector {
    address: std::net::SocketAddr,
    tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Answer<std::io::Result<Self::Response>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            let tcp = TcpStream::connect(own.address).await?;
            let address = ServerName::from(own.address.ip());
            Ok(TokioIo::new(own.tls.connect(address, tcp).await?))
        })
    }
}

/// The first of a chain.
fn certificate(chain: &[String]) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(chain[0].as_bytes()).expect("PEM")
}

fn judge(world: &World, key: &KeyPair, chain: &[String]) {
    let received = weft_ca::Received::read(chain, key, SystemTime::now()).expect("good");
    assert_eq!(received.id.to_string(), CART);
    assert_eq!(received.roots, world.bundle);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_are_the_signers_and_its_faults_are_told() {
    let signer = Signer::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("signer.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let serving = Server::builder()
        .add_service(signer.clone())
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(serving);
    let address = format!("unix://{}", path.display());
    let world = World::start(folder, address, None, signer.bundle.clone()).await;
    let world = world.expect("starts with a certificate of the signer");

    let token = world.token();
    let refusals = [
        (Mood::Wrong, Code::Internal, "has not the name"),
        (Mood::Refuses, Code::Internal, "PermissionDenied: not today"),
        (Mood::Busy, Code::Unavailable, "Unavailable: busy"),
        (Mood::Silent, Code::Unavailable, "does not answer in time"),
    ];
    for (mood, code, text) in refusals {
        signer.is(mood);
        let refused = world.ask(&token).await.expect_err(text);
        assert_eq!(refused.code(), code, "{refused}");
        assert!(refused.message().contains(text), "{refused}");
    }
    signer.is(Mood::Good);
    // The token is as good as before: nobody got anything for it.
    let (key, chain) = world.ask(&token).await.expect("signed");
    judge(&world, &key, &chain);
    let replayed = world.ask(&token).await.expect_err("used");
    assert!(
        replayed.message().contains("join_token_replayed"),
        "{replayed}"
    );
    let errors = "citadel_server_csr_sign_err_count";
    assert_eq!(
        world
            .metric(&format!("{errors}{{error=\"CERT_GEN_ERROR\"}}"))
            .await,
        2
    );
    assert_eq!(
        world
            .metric(&format!("{errors}{{error=\"CA_NOT_READY\"}}"))
            .await,
        2
    );
    assert_eq!(
        world
            .metric("citadel_server_success_cert_issuance_count")
            .await,
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whom_the_signers_list_names_gets_no_certificate() {
    let signer = Signer::new();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("signer.sock");
    let listener = UnixListener::bind(&path).expect("bound");
    let serving = Server::builder()
        .add_service(signer.clone())
        .serve_with_incoming(UnixListenerStream::new(listener));
    tokio::spawn(serving);
    let address = format!("unix://{}", path.display());
    let world = World::start(folder, address, None, signer.bundle.clone()).await;
    let world = world.expect("starts");
    let stolen = world.ask(&world.token()).await.expect("signed");
    let good = world.renew(&stolen).await.expect("by its certificate");
    let leaf = certificate(&stolen.1);
    let read = webpki::EndEntityCert::try_from(&leaf).expect("a certificate");
    let serial = read.serial().to_vec();
    let at = |name: &str| world.folder.path().join("roots").join(name);
    let list = |serials: &[Vec<u8>], now| {
        let list = signer.issuer.revocation_list(serials, now);
        std::fs::write(at("ca-crl.pem"), list.expect("signed")).expect("written");
    };
    let until = async |line: &str, count: u64| {
        let started = std::time::Instant::now();
        while world.metric(line).await != count {
            assert!(started.elapsed() < Duration::from_secs(30), "{line}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    list(&[serial], SystemTime::now());
    until("weft_ca_revoked", 1).await;
    let refused = async || {
        let refused = world.renew(&stolen).await.expect_err("revoked");
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert!(
            refused.message().contains("certificate_revoked"),
            "{refused}"
        );
    };
    refused().await;
    world.renew(&good).await.expect("it is not on the list");
    // A list whose time is over does not take its place.
    list(&[], SystemTime::now() - 8 * 24 * HOUR);
    until("weft_ca_updates_rejected", 1).await;
    assert_eq!(world.metric("weft_ca_revoked").await, 1);
    refused().await;
}

/// Files of a TLS peer of `authority`.
fn peer(authority: &Signer, folder: &Path, name: &str, trusted: &TrustBundle) {
    std::fs::create_dir_all(folder).expect("made");
    let key = KeyPair::generate(KeyKind::P256).expect("made");
    let csr = Csr::from_pem(key.request(None).expect("made").as_bytes()).expect("good");
    let subject = Subject {
        dns: vec!["localhost".to_owned()],
        ..Subject::from(SpiffeId::parse(&format!("spiffe://tools/{name}")).expect("valid"))
    };
    let issued = authority
        .issuer
        .issue(&csr, &subject, HOUR, SystemTime::now());
    let chain = issued.expect("signed").pem().concat();
    std::fs::write(folder.join("cert-chain.pem"), chain).expect("written");
    std::fs::write(folder.join("key.pem"), key.to_pem().expose()).expect("written");
    std::fs::write(folder.join("root-cert.pem"), &**trusted.pem()).expect("written");
}

fn acceptor(folder: &Path) -> TlsAcceptor {
    let read = |name: &str| std::fs::read(folder.join(name)).expect("written");
    let mut roots = RootCertStore::empty();
    let root = CertificateDer::from_pem_slice(&read("root-cert.pem"));
    roots.add(root.expect("PEM")).expect("a root");
    let chain = CertificateDer::from_pem_slice(&read("cert-chain.pem")).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(&read("key.pem")).expect("PEM");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider));
    let builder = ServerConfig::builder_with_provider(provider);
    let mut config = builder
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_client_cert_verifier(verifier.build().expect("a verifier"))
        .with_single_cert(vec![chain], key)
        .expect("they belong together");
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signer_over_tls_is_checked_and_sees_a_certificate() {
    let (signer, tools) = (Signer::new(), Signer::new());
    let folder = tempfile::tempdir().expect("a folder");
    let at = |name: &str| folder.path().join(name);
    peer(&tools, &at("server"), "server", &tools.bundle);
    peer(&tools, &at("client"), "client", &tools.bundle);
    // Checks the server by the mesh's root, which is not that of the server's certificate.
    peer(&tools, &at("astray"), "client", &signer.bundle);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let port = listener.local_addr().expect("bound").port();
    let acceptor = acceptor(&at("server"));
    let incoming = TcpListenerStream::new(listener).then(move |tcp| {
        let acceptor = acceptor.clone();
        async move { acceptor.accept(tcp?).await }
    });
    // A handshake that fails does not end the server.
    let incoming = incoming.filter_map(|shaken: std::io::Result<_>| {
        let stream = shaken.ok()?;
        Some(Ok::<_, std::io::Error>(Carrier::new(stream, ())))
    });
    let serving = Server::builder()
        .add_service(signer.clone())
        .serve_with_incoming(incoming);
    tokio::spawn(serving);
    let address = format!("https://localhost:{port}");
    let client = at("client");
    let astray = {
        let folder_of_it = tempfile::tempdir().expect("a folder");
        let tls = Some(at("astray"));
        World::start(folder_of_it, address.clone(), tls, signer.bundle.clone()).await
    };
    let error = astray.err().expect("another root").to_string();
    assert!(error.contains("UnknownIssuer"), "{error}");
    let world = World::start(folder, address, Some(client), signer.bundle.clone()).await;
    let world = world.expect("starts");
    let (key, chain) = world.ask(&world.token()).await.expect("signed");
    judge(&world, &key, &chain);
}
