//! The secure port: certificates for who is believed, and streams for nodes that are who their
//! credentials say.

mod plane;

use std::fmt::Write as _;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use http::Uri;
use hyper_util::rt::TokioIo;
use plane::{PATIENCE, Running, SERVICE, SIDECAR, Sotw, config, get, node, write};
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
use tonic::{Code, Request, Status, Streaming};
use tonic_prost::ProstCodec;
use weft_ca::authn::JoinTokens;
use weft_ca::{Issuer, KeyKind, KeyPair, Lifetimes, SpiffeId, TrustBundle, TrustDomain};
use weft_control::{ControlPlane, ReviewConfig, SecureConfig};
use weft_core::drain;
use weft_jwt::BASE64;
use weft_proto::Any;
use weft_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use weft_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::{Secret, secret::Type};
use weft_proto::pb::google::protobuf::{Struct, Value, value::Kind};
use weft_xds::TypeUrl;
use weft_xds::pb::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use weft_xds::pb::{DiscoveryRequest, DiscoveryResponse, Node};

const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";
const ISSUER: &str = "https://kubernetes.default.svc";
const DAY: Duration = Duration::from_hours(24);

struct Secure {
    running: Running,
    folder: tempfile::TempDir,
    signer: EcdsaKeyPair,
}

/// A certificate with its key, as a workload has it.
#[derive(Clone)]
struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Arc<Vec<u8>>,
}

impl Secure {
    async fn start() -> Self {
        Self::start_later(Duration::ZERO, Lifetimes::default()).await
    }

    /// Starts a control plane that finds its configuration after a time.
    async fn start_later(after: Duration, lifetimes: Lifetimes) -> Self {
        Self::start_with(after, lifetimes, |jwks| format!("jwks: '{jwks}'")).await
    }

    /// The same; `keys`: how the file of issuers has this key set.
    async fn start_with(
        after: Duration,
        lifetimes: Lifetimes,
        keys: impl FnOnce(&str) -> String,
    ) -> Self {
        Self::start_reviewed(after, lifetimes, keys, None).await
    }

    /// The same with a Kubernetes API; that and no file of issuers.
    async fn start_reviewed(
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

    fn ca(&self) -> std::path::PathBuf {
        self.folder.path().join("ca")
    }

    fn roots(&self) -> TrustBundle {
        let text = std::fs::read(self.ca().join("root-cert.pem")).expect("written");
        TrustBundle::from_pem(&text).expect("a bundle")
    }

    fn join_token(&self, namespace: &str, account: &str) -> String {
        let tokens = JoinTokens::open(&self.ca()).expect("a folder");
        let hour = Duration::from_hours(1);
        let token = tokens.create(namespace, account, hour, SystemTime::now());
        format!("Bearer {}", *token.expect("made"))
    }

    fn kubernetes_token(&self, audience: &str) -> String {
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

    async fn channel(&self, identity: Option<&Identity>) -> Channel {
        let connected = self.connect(identity).await;
        connected.expect("TLS with the mesh's root")
    }

    async fn connect(
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
    async fn ask(
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
    async fn join(&self, namespace: &str, account: &str) -> Identity {
        let token = self.join_token(namespace, account);
        let (key, request) = request();
        let chain = self.ask(None, Some(&token), request).await.expect("issued");
        identity(&key, &chain)
    }

    /// Opens a stream and gives the first answer.
    async fn stream(
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
    async fn open(
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

    async fn metric(&self, line: &str) -> u64 {
        let page = get(&self.running, "/metrics").await;
        let found = page
            .lines()
            .find_map(|l| l.strip_prefix(line)?.strip_prefix(' '));
        let found = found.unwrap_or_else(|| panic!("no {line} in {page}"));
        found.parse().expect("a number")
    }

    async fn stop(self) {
        self.running.drain.start();
        self.running.control.finished().await.expect("ends well");
    }
}

/// The next answer of a stream.
async fn answer(stream: &mut Streaming<DiscoveryResponse>) -> Result<DiscoveryResponse, Status> {
    let next = tokio::time::timeout(PATIENCE, stream.message()).await;
    Ok(next.expect("in time")?.expect("an answer"))
}

/// TLS that trusts the mesh's roots, and shows a certificate if there is one.
fn tls(roots: &TrustBundle, identity: Option<&Identity>) -> TlsConnector {
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
struct Connector {
    address: SocketAddr,
    tls: TlsConnector,
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
fn request() -> (KeyPair, IstioCertificateRequest) {
    let key = KeyPair::generate(KeyKind::P256).expect("made");
    let other = SpiffeId::parse("spiffe://cluster.local/ns/bank/sa/vault").expect("valid");
    let request = IstioCertificateRequest {
        csr: key.request(Some(&other)).expect("made"),
        ..IstioCertificateRequest::default()
    };
    (key, request)
}

/// What an answer holds for its key: all but the last element, which is the roots.
fn identity(key: &KeyPair, chain: &[String]) -> Identity {
    let (_, sent) = chain.split_last().expect("roots");
    let read = |pem: &String| CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
    Identity {
        chain: sent.iter().map(read).collect(),
        key: Arc::new(key.to_pem().expose().to_vec()),
    }
}

fn names(identity: &Identity) -> Vec<String> {
    let end = webpki::EndEntityCert::try_from(&identity.chain[0]).expect("a certificate");
    end.valid_uri_names().map(ToOwned::to_owned).collect()
}

fn cart(metadata: &[(&str, &str)]) -> Node {
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

#[tokio::test]
async fn a_join_token_gets_one_certificate_for_its_workload_and_that_gets_the_next() {
    let secure = Secure::start().await;
    let token = secure.join_token("shop", "cart");
    // What the caller can mend costs no token.
    let mut broken = request().1;
    broken.csr.truncate(100);
    let refused = secure
        .ask(None, Some(&token), broken)
        .await
        .expect_err("no request");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let mut endless = request().1;
    endless.validity_duration = 1_000_000_000;
    let refused = secure
        .ask(None, Some(&token), endless)
        .await
        .expect_err("too long");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let (key, first) = request();
    let chain = secure
        .ask(None, Some(&token), first.clone())
        .await
        .expect("issued");
    let own = identity(&key, &chain);
    assert_eq!(
        names(&own),
        [CART],
        "what was asked for besides is not believed"
    );
    let roots = chain.last().expect("roots").as_bytes();
    assert_eq!(
        TrustBundle::from_pem(roots).expect("a bundle"),
        secure.roots()
    );
    secure
        .roots()
        .verify(&own.chain, SystemTime::now())
        .expect("trusted");
    let refused = secure
        .ask(None, Some(&token), first)
        .await
        .expect_err("used");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(
        refused.message().contains("join_token_replayed"),
        "{refused}"
    );
    let (key, next) = request();
    let chain = secure.ask(Some(&own), None, next).await.expect("renewed");
    let renewed = identity(&key, &chain);
    assert_eq!(names(&renewed), [CART]);
    assert_ne!(renewed.chain, own.chain);
    assert_eq!(secure.metric("citadel_server_csr_count").await, 5);
    assert_eq!(
        secure.metric("citadel_server_csr_parsing_err_count").await,
        1
    );
    assert_eq!(
        secure
            .metric("citadel_server_success_cert_issuance_count")
            .await,
        2
    );
    let ttl = "citadel_server_csr_sign_err_count{error=\"TTL_ERROR\"}";
    assert_eq!(secure.metric(ttl).await, 1);
    let replayed = "weft_authentication_failures{reason=\"join_token_replayed\"}";
    assert_eq!(secure.metric(replayed).await, 1);
    secure.stop().await;
}

#[tokio::test]
async fn callers_without_good_credentials_get_no_certificate_and_the_reason_is_counted() {
    let secure = Secure::start().await;
    let stranger = {
        let domain = TrustDomain::parse("cluster.local").expect("valid");
        let now = SystemTime::now();
        let made = Issuer::new_root(&domain, KeyKind::P256, DAY, now).expect("made");
        let bundle = TrustBundle::new([made.1.clone()]).expect("a root");
        let issuer = Issuer::new(made.1, made.0, &[], &bundle, now).expect("usable");
        let (key, request) = request();
        let csr = weft_ca::Csr::from_pem(request.csr.as_bytes()).expect("good");
        let cart = SpiffeId::parse(CART).expect("valid");
        let issued = issuer.issue(&csr, &cart.into(), DAY, now).expect("issued");
        Identity {
            chain: issued.chain,
            key: Arc::new(key.to_pem().expose().to_vec()),
        }
    };
    let other_audience = secure.kubernetes_token("vault");
    for (identity, bearer, reason) in [
        (None, None, "no_credentials"),
        (Some(&stranger), None, "certificate_invalid"),
        (None, Some(&*other_audience), "token_audience"),
        (None, Some("Bearer x"), "token_form"),
        (None, Some("Bearer weft-join-x"), "join_token_unknown"),
        (None, Some("Basic eDp5"), "no_credentials"),
    ] {
        let refused = secure.ask(identity, bearer, request().1).await;
        let refused = refused.expect_err(reason);
        assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
        assert!(refused.message().contains(reason), "{refused}");
        let counted = format!("weft_authentication_failures{{reason=\"{reason}\"}}");
        assert!(secure.metric(&counted).await > 0);
    }
    let all = "citadel_server_authentication_failure_count";
    assert_eq!(secure.metric(all).await, 6);
    let token = secure.kubernetes_token("istio-ca");
    let (key, good) = request();
    let chain = secure.ask(None, Some(&token), good).await.expect("issued");
    let own = identity(&key, &chain);
    assert_eq!(names(&own), [CART]);
    let mut impersonating = request().1;
    let kind = Some(Kind::StringValue(
        "spiffe://cluster.local/ns/bank/sa/vault".to_owned(),
    ));
    let fields = [("ImpersonatedIdentity".to_owned(), Value { kind })].into();
    impersonating.metadata = Some(Struct { fields });
    let refused = secure
        .ask(Some(&own), None, impersonating)
        .await
        .expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    secure.stop().await;
}

#[tokio::test]
async fn streams_are_for_nodes_that_are_who_their_credentials_say() {
    let secure = Secure::start().await;
    let own = secure.join("shop", "cart").await;
    let cluster = TypeUrl::CLUSTER;
    let cluster = cluster.as_str();
    for (identity, bearer) in [
        (Some(&own), None),
        (None, Some(secure.kubernetes_token("istio-ca"))),
    ] {
        for metadata in [&[][..], &[("SERVICE_ACCOUNT", "cart")][..]] {
            let answer = secure
                .stream(identity, bearer.as_deref(), cart(metadata), cluster)
                .await;
            assert!(!answer.expect("served").resources.is_empty());
        }
    }
    for other in [
        node("sidecar~10.0.0.9~vault.bank~bank.svc.cluster.local"),
        cart(&[("NAMESPACE", "bank")]),
        cart(&[("SERVICE_ACCOUNT", "vault")]),
    ] {
        let refused = secure.stream(Some(&own), None, other, cluster).await;
        let refused = refused.expect_err("somebody else");
        assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    }
    assert_eq!(secure.metric("weft_xds_identity_mismatches").await, 3);
    let join = secure.join_token("shop", "cart");
    let unknown = Some("Bearer weft-join-x");
    for bearer in [None, Some(&*join), unknown] {
        let refused = secure.stream(None, bearer, cart(&[]), cluster).await;
        assert_eq!(refused.expect_err("nobody").code(), Code::Unauthenticated);
    }
    let elsewhere = "weft_authentication_failures{reason=\"join_token_elsewhere\"}";
    assert_eq!(secure.metric(elsewhere).await, 2, "neither is looked up");
    let (_, good) = request();
    let unspent = secure.ask(None, Some(&join), good).await;
    assert!(unspent.is_ok(), "a stream spends no join token");
    secure.stop().await;
}

#[tokio::test]
async fn workloads_register_themselves_as_who_they_are() {
    const GROUP: &str = r"
apiVersion: networking.istio.io/v1
kind: WorkloadGroup
metadata: {name: carts, namespace: shop}
spec: {template: {serviceAccount: cart}}
";
    let secure = Secure::start().await;
    let directory = secure.running.directory.path();
    write(directory, "group.yaml", GROUP);
    let other = GROUP
        .replace("carts", "vaults")
        .replace("Account: cart", "Account: vault");
    write(directory, "other.yaml", &other);
    get(&secure.running, "/debug/wait?refresh").await;
    let own = secure.join("shop", "cart").await;
    let cluster = TypeUrl::CLUSTER;
    let carts = cart(&[("AUTO_REGISTER_GROUP", "carts")]);
    let served = secure
        .stream(Some(&own), None, carts.clone(), cluster.as_str())
        .await;
    served.expect("it is one of them");
    assert_eq!(secure.metric("auto_registration_success_total").await, 1);
    let vaults = cart(&[("AUTO_REGISTER_GROUP", "vaults")]);
    let refused = secure
        .stream(Some(&own), None, vaults, cluster.as_str())
        .await;
    let refused = refused.expect_err("another account");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");

    // On the plain port nobody is anybody.
    let address = format!("http://{}", secure.running.control.grpc_addr);
    let client = AggregatedDiscoveryServiceClient::connect(address).await;
    let (requests, receiver) = mpsc::channel(4);
    let first = DiscoveryRequest {
        node: Some(carts),
        type_url: cluster.as_str().to_owned(),
        ..DiscoveryRequest::default()
    };
    requests.send(first).await.expect("room");
    let stream = client
        .expect("connects")
        .stream_aggregated_resources(ReceiverStream::new(receiver))
        .await;
    let refused = answer(&mut stream.expect("a stream").into_inner()).await;
    let refused = refused.expect_err("no identity");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    assert_eq!(secure.metric("auto_registration_errors_total").await, 2);
    secure.stop().await;
}

#[tokio::test]
async fn streams_of_the_two_ports_have_nothing_to_do_with_each_other() {
    let secure = Secure::start().await;
    let own = secure.join("shop", "cart").await;
    let cluster = TypeUrl::CLUSTER;
    // Each is the first of its port.
    let mut plain = Sotw::connect(&secure.running, SIDECAR, std::slice::from_ref(&cluster)).await;
    plain.next(PATIENCE, None).await.expect("clusters");
    let opened = secure.open(Some(&own), None, cart(&[]), cluster.as_str());
    let (requests, mut stream) = opened.await.expect("believed");
    let first = answer(&mut stream).await.expect("clusters");
    let accepted = DiscoveryRequest {
        type_url: first.type_url,
        version_info: first.version_info,
        response_nonce: first.nonce,
        ..DiscoveryRequest::default()
    };
    requests.send(accepted).await.expect("room");
    let page = get(&secure.running, "/debug/connections").await;
    assert!(
        page.contains("app.shop") && page.contains("cart.shop"),
        "{page}"
    );
    drop(plain);
    let since = std::time::Instant::now();
    while get(&secure.running, "/debug/connections")
        .await
        .contains("app.shop")
    {
        assert!(since.elapsed() < PATIENCE, "it is still there");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let page = get(&secure.running, "/debug/connections").await;
    assert!(page.contains("cart.shop"), "{page}");
    let edited = SERVICE.replace("number: 80", "number: 81");
    write(secure.running.directory.path(), "mesh.yaml", &edited);
    let edit = answer(&mut stream).await;
    edit.expect("the end of one stream is not that of the other");
    secure.stop().await;
}

#[tokio::test]
async fn only_members_of_the_root_namespace_ask_about_all_proxies() {
    let secure = Secure::start().await;
    let question = "istio.io/debug/syncz";
    let own = secure.join("shop", "cart").await;
    let refused = secure.stream(Some(&own), None, cart(&[]), question).await;
    assert_eq!(
        refused.expect_err("a tenant").code(),
        Code::PermissionDenied
    );
    let system = secure.join("istio-system", "operator").await;
    let answer = secure
        .stream(Some(&system), None, cart(&[]), question)
        .await;
    assert_eq!(answer.expect("answered").type_url, question);
    secure.stop().await;
}

#[tokio::test]
async fn a_revoked_certificate_is_refused_from_the_next_call_on_and_its_streams_end() {
    let secure = Secure::start().await;
    let lost = secure.join("shop", "cart").await;
    let kept = secure.join("shop", "cart").await;
    let cluster = TypeUrl::CLUSTER;
    let cluster = cluster.as_str();
    let opened = secure.open(Some(&lost), None, cart(&[]), cluster).await;
    let (_requests, mut of_lost) = opened.expect("it is good still");
    answer(&mut of_lost).await.expect("clusters");
    let opened = secure.open(Some(&kept), None, cart(&[]), cluster).await;
    let (_requests, mut of_kept) = opened.expect("it is good");
    answer(&mut of_kept).await.expect("clusters");
    let serial = serial(&lost);
    write(&secure.ca(), "revoked.txt", &format!("{serial}\n"));
    let since = std::time::Instant::now();
    while secure.metric("weft_ca_revoked").await == 0 {
        assert!(since.elapsed() < PATIENCE, "it is not read");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let refused = secure
        .ask(Some(&lost), None, request().1)
        .await
        .expect_err("revoked");
    assert!(
        refused.message().contains("certificate_revoked"),
        "{refused}"
    );
    let refused = secure.stream(Some(&lost), None, cart(&[]), cluster).await;
    assert_eq!(refused.expect_err("revoked").code(), Code::Unauthenticated);
    let ended = answer(&mut of_lost).await.expect_err("its stream ends");
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    let more = tokio::time::timeout(Duration::from_millis(300), of_kept.message()).await;
    assert!(more.is_err(), "that of another certificate goes on");
    assert_eq!(secure.metric("weft_xds_credentials_ended").await, 1);
    assert!(secure.ask(Some(&kept), None, request().1).await.is_ok());
    secure.stop().await;
}

/// The serial number in hexadecimal: the first INTEGER of 16 bytes in the certificate.
fn serial(identity: &Identity) -> String {
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
async fn secrets(secure: &Secure, identity: &Identity, node: Node) -> Vec<Secret> {
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

fn inline(source: Option<&DataSource>) -> Vec<u8> {
    match source.and_then(|source| source.specifier.clone()) {
        Some(Specifier::InlineBytes(bytes)) => bytes,
        other => panic!("{}", other.is_some()),
    }
}

#[tokio::test]
async fn nodes_without_an_agent_get_their_own_certificate_with_its_key() {
    let secure = Secure::start().await;
    let own = secure.join("shop", "cart").await;
    let found = secrets(&secure, &own, cart(&[])).await;
    let names_of: Vec<&str> = found.iter().map(|secret| &*secret.name).collect();
    assert_eq!(names_of, ["ROOTCA", "default"]);
    let (Some(Type::ValidationContext(roots)), Some(Type::TlsCertificate(pair))) =
        (&found[0].r#type, &found[1].r#type)
    else {
        panic!("a bundle and a certificate");
    };
    let roots = TrustBundle::from_pem(&inline(roots.trusted_ca.as_ref())).expect("roots");
    assert_eq!(roots, secure.roots());
    let chain = inline(pair.certificate_chain.as_ref());
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&chain).collect();
    let served = Identity {
        chain: chain.expect("PEM"),
        key: Arc::new(inline(pair.private_key.as_ref())),
    };
    assert_eq!(names(&served), [CART]);
    assert_ne!(served.chain, own.chain);
    // It works: the key is the certificate's.
    assert!(secure.ask(Some(&served), None, request().1).await.is_ok());
    let with_agent = cart(&[("ISTIO_VERSION", "1.32.0")]);
    let found = secrets(&secure, &own, with_agent).await;
    assert!(found.is_empty(), "its agent has them");
    assert_eq!(secure.metric("weft_ca_workload_certificates").await, 1);
    let id = "sidecar~10.0.0.9~cart.shop~shop.svc.cluster.local";
    let dump = get(&secure.running, &format!("/debug/config_dump?proxyID={id}")).await;
    assert!(!dump.contains("PRIVATE KEY"));
    secure.stop().await;
}

#[tokio::test]
async fn its_own_certificate_is_good_however_long_the_start_took() {
    let short = Lifetimes {
        default: Duration::from_secs(4),
        ..Lifetimes::default()
    };
    let began = std::time::Instant::now();
    let secure = Secure::start_later(Duration::from_secs(3), short).await;
    let ended = Duration::from_millis(4400);
    tokio::time::sleep(ended.saturating_sub(began.elapsed())).await;
    let connected = secure.connect(None).await;
    connected.expect("the first one has ended, and was renewed before");
    secure.stop().await;
}

#[tokio::test]
async fn a_folder_that_others_may_enter_is_no_folder_for_keys() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "mesh.yaml", SERVICE);
    let folder = tempfile::tempdir().expect("a folder");
    open_to_all(folder.path());
    let mut config = config(directory.path());
    config.secure = Some(SecureConfig::new(folder.path().to_owned()));
    let (_drain, signal) = drain::channel();
    let error = ControlPlane::start(config, signal)
        .await
        .err()
        .expect("refused");
    assert!(error.to_string().contains("chmod 700"), "{error}");
}

fn open_to_all(path: &Path) {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(path, mode).expect("mine");
}

/// Calls a method of `weft.identity.v1.IdentityService`.
async fn identity_call<Q, A>(
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

#[tokio::test]
async fn tokens_are_for_who_asks_and_are_checked_by_the_bundle() {
    use weft_proto::identity::{BundlesRequest, BundlesResponse, JwtSvidRequest, JwtSvidResponse};
    let secure = Secure::start().await;
    let cart = secure.join("shop", "cart").await;
    let request = |audience: &[&str], validity_duration| JwtSvidRequest {
        audience: audience.iter().map(ToString::to_string).collect(),
        validity_duration,
    };
    let ask = async |identity: Option<&Identity>, bearer: Option<&str>, request| {
        let channel = secure.channel(identity).await;
        identity_call::<_, JwtSvidResponse>(channel, "CreateJwtSvid", bearer, request).await
    };
    let svid = ask(Some(&cart), None, request(&["shop"], 0)).await;
    let svid = svid.expect("signed").svid;
    let channel = secure.channel(Some(&cart)).await;
    let bundles = identity_call(channel, "GetBundles", None, BundlesRequest {}).await;
    let bundles: BundlesResponse = bundles.expect("given");
    let own = &bundles.bundles["cluster.local"];
    assert_eq!(
        own.x509_authorities,
        [secure.roots().certificates()[0].to_vec()]
    );
    let keys = weft_jwt::Keys::parse(&own.jwks).expect("keys");
    let now = SystemTime::now();
    let judged = weft_ca::JwtSvid::validate(&svid, "shop", |_| Some(&keys), now);
    let judged = judged.expect("good");
    assert_eq!(judged.id.to_string(), CART);
    let life = judged.expiry.duration_since(now).expect("later");
    assert!(life <= Duration::from_mins(5), "{life:?}");
    // By a token of Kubernetes, too, and an hour at most.
    let token = secure.kubernetes_token("istio-ca");
    let long = ask(None, Some(&token), request(&["a", "b"], 1_000_000)).await;
    let long = weft_ca::JwtSvid::read(&long.expect("signed").svid).expect("read");
    let life = long.expiry.duration_since(now).expect("later");
    assert!(
        life > Duration::from_mins(50) && life <= Duration::from_mins(61),
        "{life:?}"
    );

    let nobody = ask(None, None, request(&["a"], 0))
        .await
        .expect_err("nobody");
    assert_eq!(nobody.code(), Code::Unauthenticated, "{nobody}");
    let token = secure.join_token("shop", "cart");
    let join = ask(None, Some(&token), request(&["a"], 0)).await;
    let join = join.expect_err("good for a certificate only");
    assert!(join.message().contains("join_token_elsewhere"), "{join}");
    for audiences in [&[][..], &[""], &["a"; 17]] {
        let wrong = ask(Some(&cart), None, request(audiences, 0)).await;
        assert_eq!(wrong.expect_err("refused").code(), Code::InvalidArgument);
    }
    let channel = secure.channel(None).await;
    let bundles = identity_call(channel, "GetBundles", None, BundlesRequest {}).await;
    let bundles: Result<BundlesResponse, Status> = bundles;
    assert_eq!(bundles.expect_err("nobody").code(), Code::Unauthenticated);
    assert_eq!(secure.metric("weft_ca_jwt_svids").await, 2);
    secure.stop().await;
}

/// A server of key sets: answers with what is there, and counts.
struct KeyServer {
    address: SocketAddr,
    answer: Arc<std::sync::Mutex<(u16, String)>>,
    asked: Arc<AtomicUsize>,
    /// The last request.
    request: Arc<std::sync::Mutex<String>>,
}

impl KeyServer {
    async fn start() -> Self {
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

    fn put(&self, status: u16, body: &str) {
        *self.answer.lock().expect("whole") = (status, body.to_owned());
    }

    async fn is_asked_again(&self) {
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

#[tokio::test]
async fn keys_of_an_issuer_are_fetched_and_the_last_good_ones_hold() {
    let server = KeyServer::start().await;
    let mut set = String::new();
    let url = format!("jwksUri: 'http://{}/keys'", server.address);
    let keys = |jwks: &str| {
        set = jwks.to_owned();
        url
    };
    let secure = Secure::start_with(Duration::ZERO, Lifetimes::default(), keys).await;
    let token = secure.kubernetes_token("istio-ca");
    let early = secure.ask(None, Some(&token), request().1).await;
    let early = early.expect_err("the server is away");
    assert_eq!(early.code(), Code::Unauthenticated, "{early}");
    assert!(early.message().contains("token_signature"), "{early}");
    server.put(200, &set);
    // By itself, after a failure.
    let believed = async {
        while secure.ask(None, Some(&token), request().1).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let believed = tokio::time::timeout(Duration::from_secs(30), believed).await;
    believed.expect("its keys are fetched");
    // Away again, and then with other keys: an unknown key has them fetched before their time.
    server.put(503, "");
    let mut forged = token.clone();
    forged.truncate(token.len() - 4);
    forged.push_str("AAAA");
    let stranger = secure.ask(None, Some(&forged), request().1).await;
    stranger.expect_err("another signature");
    server.is_asked_again().await;
    let kept = secure.ask(None, Some(&token), request().1).await;
    kept.expect("the last good keys hold");
    server.put(200, r#"{"keys": []}"#);
    server.is_asked_again().await;
    let kept = secure.ask(None, Some(&token), request().1).await;
    kept.expect("a set without a key is no set");
    let failed = secure.metric("weft_token_issuer_fetches_failed").await;
    assert!(failed >= 3, "{failed}");
    secure.stop().await;
}

#[tokio::test]
async fn a_kubernetes_api_judges_tokens_whose_keys_nobody_has() {
    let api = KeyServer::start().await;
    let (none, lifetimes) = (Duration::ZERO, Lifetimes::default());
    let secure = Secure::start_reviewed(none, lifetimes, str::to_owned, Some(api.address)).await;
    let token = secure.kubernetes_token("istio-ca");
    let away = secure.ask(None, Some(&token), request().1).await;
    let away = away.expect_err("the API is away");
    assert_eq!(away.code(), Code::Unavailable, "{away}");
    let status = |authenticated: bool, name: &str| {
        let user = json!({"username": name, "groups": ["system:serviceaccounts"]});
        let status =
            json!({"authenticated": authenticated, "audiences": ["istio-ca"], "user": user});
        json!({"kind": "TokenReview", "status": status}).to_string()
    };
    api.put(201, &status(true, "system:serviceaccount:shop:cart"));
    let (key, first) = request();
    let chain = secure.ask(None, Some(&token), first).await.expect("issued");
    assert_eq!(names(&identity(&key, &chain)), [CART]);
    let asked = api.request.lock().expect("whole").clone();
    let bare = token.strip_prefix("Bearer ").expect("one");
    assert!(
        asked.starts_with("POST /apis/authentication.k8s.io/v1/tokenreviews "),
        "{asked}"
    );
    assert!(asked.contains("authorization: Bearer own-token"), "{asked}");
    assert!(
        asked.contains(bare) && asked.contains("istio-ca"),
        "{asked}"
    );
    // A stream, too.
    let cluster = TypeUrl::CLUSTER;
    let cds = cluster.as_str();
    let answer = secure.stream(None, Some(&token), cart(&[]), cds).await;
    assert_eq!(answer.expect("a stream").type_url, cds);

    api.put(201, &status(false, ""));
    let refused = secure.ask(None, Some(&token), request().1).await;
    let refused = refused.expect_err("not authenticated");
    assert_eq!(refused.code(), Code::Unauthenticated);
    assert!(refused.message().contains("(token_review)"), "{refused}");
    let stream = secure.stream(None, Some(&token), cart(&[]), cds).await;
    assert_eq!(stream.expect_err("refused").code(), Code::Unauthenticated);
    // What cannot be good is not asked about.
    let before = api.asked.load(Ordering::Relaxed);
    let other = secure.kubernetes_token("vault");
    for token in ["Bearer x", &other] {
        let refused = secure.ask(None, Some(token), request().1).await;
        assert_eq!(refused.expect_err(token).code(), Code::Unauthenticated);
    }
    assert_eq!(api.asked.load(Ordering::Relaxed), before);
    // A join token is nobody else's matter.
    secure.join("shop", "cart").await;
    assert_eq!(api.asked.load(Ordering::Relaxed), before);
    secure.stop().await;
}
