//! A control plane with a secure port, and who calls there.

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::plane::{PATIENCE, Running, SERVICE, config, get, node, write};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use http::Uri;
use hyper_util::rt::TokioIo;
use prost::Message as _;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::json;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::codegen::Service;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;
use weft_ca::authn::JoinTokens;
use weft_ca::{KeyKind, KeyPair, Lifetimes, SpiffeId, TrustBundle};
use weft_control::{ControlPlane, ReviewConfig, SecureConfig};
use weft_core::drain;
use weft_jwt::BASE64;
use weft_proto::Any;
use weft_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use weft_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::Secret;
use weft_proto::pb::google::protobuf::{Struct, Value, value::Kind};
use weft_xds::TypeUrl;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::pb::{DiscoveryRequest, DiscoveryResponse, Node};

pub(crate) const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
pub(crate) const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
pub(crate) const ISSUER: &str = "https://kubernetes.default.svc";
pub(crate) const DAY: Duration = Duration::from_hours(24);

pub(crate) struct Secure {
    pub(crate) running: Running,
    pub(crate) folder: tempfile::TempDir,
    pub(crate) signer: EcdsaKeyPair,
}

/// A certificate with its key, as a workload has it.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: Arc<Vec<u8>>,
}

impl Secure {
    pub(crate) async fn start() -> Self {
        Self::start_later(Duration::ZERO, Lifetimes::default()).await
    }

    /// Starts a control plane that finds its configuration after a time.
    pub(crate) async fn start_later(after: Duration, lifetimes: Lifetimes) -> Self {
        Self::start_with(after, lifetimes, |jwks| format!("jwks: '{jwks}'")).await
    }

    /// The same; `keys`: how the file of issuers has this key set.
    pub(crate) async fn start_with(
        after: Duration,
        lifetimes: Lifetimes,
        keys: impl FnOnce(&str) -> String,
    ) -> Self {
        Self::start_reviewed(after, lifetimes, keys, None).await
    }

    /// The same with a Kubernetes API; that and no file of issuers.
    pub(crate) async fn start_reviewed(
        after: Duration,
        lifetimes: Lifetimes,
        keys: impl FnOnce(&str) -> String,
        api: Option<SocketAddr>,
    ) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let folder = tempfile::tempdir().expect("a folder");
        let random = SystemRandom::new();
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &random);
        let document = document.expect("a key");
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref());
        let signer = signer.expect("a key");
        let point = signer.public_key().as_ref();
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k",
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..])}]});
        let issuers = folder.path().join("issuers.yaml");
        let keys = keys(&jwks.to_string());
        let text = format!("jwtRules:\n- issuer: {ISSUER}\n  audiences: [istio-ca]\n  {keys}\n");
        std::fs::write(&issuers, text).expect("written");
        let mut config = config(directory.path());
        config.secure = Some(SecureConfig {
            lifetimes,
            token_issuers: api.is_none().then_some(issuers),
            review: api.map(|api| {
                let token = folder.path().join("token");
                std::fs::write(&token, "own-token\n").expect("written");
                ReviewConfig {
                    url: format!("http://{api}"),
                    token,
                    roots: "none".into(),
                    audiences: vec!["istio-ca".to_owned()],
                }
            }),
            ..SecureConfig::new(folder.path().join("ca"))
        });
        let (drain, signal) = drain::channel();
        let configured = async {
            tokio::time::sleep(after).await;
            write(directory.path(), "mesh.yaml", SERVICE);
        };
        let (control, ()) = tokio::join!(ControlPlane::start(config, signal), configured);
        let control = control.expect("starts");
        Self {
            running: Running {
                control,
                drain,
                directory,
            },
            folder,
            signer,
        }
    }

    pub(crate) fn ca(&self) -> std::path::PathBuf {
        self.folder.path().join("ca")
    }

    pub(crate) fn roots(&self) -> TrustBundle {
        let text = std::fs::read(self.ca().join("root-cert.pem")).expect("written");
        TrustBundle::from_pem(&text).expect("a bundle")
    }

    pub(crate) fn join_token(&self, namespace: &str, account: &str) -> String {
        let tokens = JoinTokens::open(&self.ca()).expect("a folder");
        let hour = Duration::from_hours(1);
        let token = tokens.create(namespace, account, hour, SystemTime::now());
        format!("Bearer {}", *token.expect("made"))
    }

    pub(crate) fn kubernetes_token(&self, audience: &str) -> String {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("after 1970");
        let claims = json!({"iss": ISSUER, "aud": [audience], "exp": now.as_secs() + 600,
            "sub": "system:serviceaccount:shop:cart"});
        let part = |value: &serde_json::Value| BASE64.encode(value.to_string());
        let signed = format!(
            "{}.{}",
            part(&json!({"alg": "ES256", "kid": "k"})),
            part(&claims)
        );
        let signature = self.signer.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = BASE64.encode(signature.expect("signed").as_ref());
        format!("Bearer {signed}.{signature}")
    }

    pub(crate) async fn channel(&self, identity: Option<&Identity>) -> Channel {
        let connected = self.connect(identity).await;
        connected.expect("TLS with the mesh's root")
    }

    pub(crate) async fn connect(
        &self,
        identity: Option<&Identity>,
    ) -> Result<Channel, tonic::transport::Error> {
        let address = self.running.control.secure_addr.expect("there is one");
        let connector = Connector {
            address,
            tls: tls(&self.roots(), identity),
        };
        let endpoint = Endpoint::from_static("http://istiod.istio-system.svc:15012");
        endpoint.connect_with_connector(connector).await
    }

    /// Asks for a certificate.
    pub(crate) async fn ask(
        &self,
        identity: Option<&Identity>,
        bearer: Option<&str>,
        request: IstioCertificateRequest,
    ) -> Result<Vec<String>, Status> {
        let mut client = tonic::client::Grpc::new(self.channel(identity).await);
        client.ready().await.expect("connected");
        let mut request = Request::new(request);
        if let Some(bearer) = bearer {
            let bearer = bearer.parse().expect("a header");
            request.metadata_mut().insert("authorization", bearer);
        }
        let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
        let path = http::uri::PathAndQuery::from_static(CREATE);
        let answer = client.unary(request, path, codec).await?;
        Ok(answer.into_inner().cert_chain)
    }

    /// Gets a certificate by a join token.
    pub(crate) async fn join(&self, namespace: &str, account: &str) -> Identity {
        let token = self.join_token(namespace, account);
        let (key, request) = request_for(None);
        let chain = self.ask(None, Some(&token), request).await.expect("issued");
        identity(&key, &chain)
    }

    /// Opens a stream and gives the first answer.
    pub(crate) async fn stream(
        &self,
        identity: Option<&Identity>,
        bearer: Option<&str>,
        node: Node,
        type_url: &str,
    ) -> Result<DiscoveryResponse, Status> {
        let (_requests, mut stream) = self.open(identity, bearer, node, type_url).await?;
        answer(&mut stream).await
    }

    /// Opens a stream with its first request.
    pub(crate) async fn open(
        &self,
        identity: Option<&Identity>,
        bearer: Option<&str>,
        node: Node,
        type_url: &str,
    ) -> Result<(mpsc::Sender<DiscoveryRequest>, Streaming<DiscoveryResponse>), Status> {
        let channel = self.channel(identity).await;
        let (requests, receiver) = mpsc::channel(4);
        let first = DiscoveryRequest {
            node: Some(node),
            type_url: type_url.to_owned(),
            ..DiscoveryRequest::default()
        };
        requests.send(first).await.expect("room");
        let mut request = Request::new(ReceiverStream::new(receiver));
        if let Some(bearer) = bearer {
            let bearer = bearer.parse().expect("a header");
            request.metadata_mut().insert("authorization", bearer);
        }
        let mut client = AggregatedDiscoveryServiceClient::new(channel);
        let stream = client.stream_aggregated_resources(request).await?;
        Ok((requests, stream.into_inner()))
    }

    pub(crate) async fn metric(&self, line: &str) -> u64 {
        let page = get(&self.running, "/metrics").await;
        let found = page
            .lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        let found = found.unwrap_or_else(|| panic!("no {line} in {page}"));
        found.parse().expect("a number")
    }

    pub(crate) async fn stop(self) {
        self.running.drain.start();
        self.running.control.finished().await.expect("ends well");
    }
}

/// The next answer of a stream.
pub(crate) async fn answer(
    stream: &mut Streaming<DiscoveryResponse>,
) -> Result<DiscoveryResponse, Status> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await;
    Ok(next.expect("in time")?.expect("an answer"))
}

/// TLS that trusts the mesh's roots, and shows a certificate if there is one.
pub(crate) fn tls(roots: &TrustBundle, identity: Option<&Identity>) -> TlsConnector {
    let mut store = RootCertStore::empty();
    for root in roots.certificates() {
        store.add(root.clone()).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(store);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let key = PrivateKeyDer::from_pem_slice(&identity.key).expect("a key");
            let own = builder.with_client_auth_cert(identity.chain.clone(), key);
            own.expect("they belong together")
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

#[derive(Clone)]
pub(crate) struct Connector {
    pub(crate) address: SocketAddr,
    pub(crate) tls: TlsConnector,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, io::Error>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), io::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _uri: Uri) -> Self::Future {
        let own = self.clone();
        Box::pin(async move {
            let tcp = TcpStream::connect(own.address).await?;
            let name = ServerName::try_from("istiod.istio-system.svc").expect("a name");
            Ok(TokioIo::new(own.tls.connect(name, tcp).await?))
        })
    }
}

/// A key, and a request for it that asks for somebody else's name.
pub(crate) fn request() -> (KeyPair, IstioCertificateRequest) {
    let other = SpiffeId::parse("spiffe://cluster.local/ns/bank/sa/vault").expect("valid");
    request_for(Some(&other))
}

/// A request that names this workload, or none.
pub(crate) fn request_for(id: Option<&SpiffeId>) -> (KeyPair, IstioCertificateRequest) {
    let key = KeyPair::generate(KeyKind::P256).expect("made");
    let request = IstioCertificateRequest {
        csr: key.request(id).expect("made"),
        ..IstioCertificateRequest::default()
    };
    (key, request)
}

/// What an answer holds for its key: all but the last element, which is the roots.
pub(crate) fn identity(key: &KeyPair, chain: &[String]) -> Identity {
    let (_, sent) = chain.split_last().expect("roots");
    let read = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    Identity {
        chain: sent.iter().map(read).collect(),
        key: Arc::new(key.to_pem().expose().to_vec()),
    }
}

pub(crate) fn names(identity: &Identity) -> Vec<String> {
    let end = webpki::EndEntityCert::try_from(&identity.chain[0]).expect("a certificate");
    end.valid_uri_names().map(ToOwned::to_owned).collect()
}

pub(crate) fn cart(metadata: &[(&str, &str)]) -> Node {
    let fields = metadata.iter().map(|(key, value)| {
        let kind = Some(Kind::StringValue((*value).to_owned()));
        ((*key).to_owned(), Value { kind })
    });
    Node {
        metadata: Some(Struct {
            fields: fields.collect(),
        }),
        ..node("sidecar~10.0.0.9~cart.shop~shop.svc.cluster.local")
    }
}
/// The serial number in hexadecimal: the first INTEGER of 16 bytes in the certificate.
pub(crate) fn serial(identity: &Identity) -> String {
    let der = &identity.chain[0];
    let at = der
        .windows(2)
        .position(|two| two == [2, 16])
        .expect("a serial number");
    let mut text = String::new();
    for byte in &der[at + 2..at + 18] {
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// The secrets of these names that a node is sent, or what came in half a second.
pub(crate) async fn secrets(secure: &Secure, identity: &Identity, node: Node) -> Vec<Secret> {
    let channel = secure.channel(Some(identity)).await;
    let (requests, receiver) = mpsc::channel(4);
    let first = DiscoveryRequest {
        node: Some(node),
        type_url: TypeUrl::SECRET.as_str().to_owned(),
        resource_names: vec!["default".to_owned(), "ROOTCA".to_owned()],
        ..DiscoveryRequest::default()
    };
    requests.send(first).await.expect("room");
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let stream = client.stream_aggregated_resources(ReceiverStream::new(receiver));
    let mut stream = stream.await.expect("believed").into_inner();
    let mut found = Vec::new();
    while found.len() < 2 {
        let next = tokio::time::timeout(Duration::from_millis(500), stream.message()).await;
        let Ok(next) = next else { break };
        let answer = next.expect("the stream goes on").expect("an answer");
        let read = |any: &Any| Secret::decode(&*any.value).expect("a secret");
        found = answer.resources.iter().map(read).collect();
        let ack = DiscoveryRequest {
            type_url: answer.type_url,
            version_info: answer.version_info,
            response_nonce: answer.nonce,
            resource_names: vec!["default".to_owned(), "ROOTCA".to_owned()],
            ..DiscoveryRequest::default()
        };
        requests.send(ack).await.expect("room");
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

pub(crate) fn inline(source: Option<&DataSource>) -> Vec<u8> {
    match source.and_then(|source| source.specifier.clone()) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        other => panic!("{}", other.is_some()),
    }
}

pub(crate) fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("mine");
}

/// Calls a method of `weft.identity.v1.IdentityService`.
pub(crate) async fn identity_call<Q, A>(
    channel: Channel,
    method: &str,
    bearer: Option<&str>,
    request: Q,
) -> Result<A, Status>
where
    Q: prost::Message + Default + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = tonic::client::Grpc::new(channel);
    client.ready().await.expect("connected");
    let mut request = Request::new(request);
    if let Some(bearer) = bearer {
        let bearer = bearer.parse().expect("a header");
        request.metadata_mut().insert("authorization", bearer);
    }
    let path = format!("/weft.identity.v1.IdentityService/{method}");
    let path = path.parse().expect("a path");
    let answer = client.unary(request, path, ProstCodec::<Q, A>::default());
    Ok(answer.await?.into_inner())
}

/// A server of key sets: answers with what is there, and counts.
pub(crate) struct KeyServer {
    pub(crate) address: SocketAddr,
    pub(crate) answer: Arc<std::sync::Mutex<(u16, String)>>,
    pub(crate) asked: Arc<AtomicUsize>,
    /// The last request.
    pub(crate) request: Arc<std::sync::Mutex<String>>,
}

impl KeyServer {
    pub(crate) async fn start() -> Self {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("bound");
        let server = Self {
            address: listener.local_addr().expect("bound"),
            answer: Arc::new(std::sync::Mutex::new((503, String::new()))),
            asked: Arc::default(),
            request: Arc::default(),
        };
        let (answer, asked) = (Arc::clone(&server.answer), Arc::clone(&server.asked));
        let last = Arc::clone(&server.request);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 8192];
                let read = stream.read(&mut request).await.unwrap_or(0);
                *last.lock().expect("whole") =
                    String::from_utf8_lossy(&request[..read]).into_owned();
                asked.fetch_add(1, Ordering::Relaxed);
                let (status, body) = answer.lock().expect("whole").clone();
                let head = format!(
                    "HTTP/1.1 {status} x\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        server
    }

    pub(crate) fn put(&self, status: u16, body: &str) {
        *self.answer.lock().expect("whole") = (status, body.to_owned());
    }

    pub(crate) async fn is_asked_again(&self) {
        let before = self.asked.load(Ordering::Relaxed);
        let again = async {
            while self.asked.load(Ordering::Relaxed) == before {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let asked = tokio::time::timeout(Duration::from_secs(30), again).await;
        asked.expect("it is asked again");
    }
}
