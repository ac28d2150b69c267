//! Keys that rules name by URL: fetched from servers over loopback, and what proxies get of them.

mod plane;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use weft_control::node::Proxy;
use weft_control::{ControlConfig, ControlPlane, HttpProxies, KeyFetch};
use weft_core::drain;
use weft_xds::TypeUrl;
use weft_xds::pb::Node;

const PATIENCE: Duration = Duration::from_secs(20);
/// Stands in the set that proxies get while there are no keys.
const NOBODY: &str = "0xObjM0UvS_oaazjpEYl";

fn keys(id: &str) -> String {
    format!("{{\"keys\":[{{\"kty\":\"oct\",\"k\":\"{id}\"}}]}}")
}

/// Path → the whole head and body of its answer, and how long it takes.
type Pages = Arc<Mutex<BTreeMap<String, (String, Duration)>>>;

struct Server {
    address: SocketAddr,
    pages: Pages,
}

impl Server {
    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let pages = Pages::default();
        let served = Arc::clone(&pages);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (pages, tls) = (Arc::clone(&served), tls.clone());
                tokio::spawn(async move {
                    match tls {
                        None => answer(stream, &pages).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &pages).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, pages }
    }

    fn put(&self, path: &str, status: &str, body: &str, delay: Duration) {
        let text = format!(
            "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut pages = self.pages.lock().expect("no panic");
        pages.insert(path.to_owned(), (text, delay));
    }

    fn keys(&self, path: &str, id: &str) {
        self.put(path, "200 OK", &keys(id), Duration::ZERO);
    }

    fn url(&self, scheme: &str, path: &str) -> String {
        format!("{scheme}://localhost:{}{path}", self.address.port())
    }
}

async fn answer(mut stream: impl AsyncRead + AsyncWrite + Unpin, pages: &Pages) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let page = pages.lock().expect("no panic").get(&path).cloned();
    let none = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".to_owned();
    let (text, delay) = page.unwrap_or((none, Duration::ZERO));
    tokio::time::sleep(delay).await;
    // A client that is gone is none of the server's business.
    let _ = stream.write_all(text.as_bytes()).await;
    let _ = stream.shutdown().await;
}

const SERVICE: &str = "apiVersion: networking.istio.io/v1
kind: ServiceEntry
metadata: {name: web, namespace: shop}
spec:
  hosts: [web.shop.svc.cluster.local]
  resolution: STATIC
  ports: [{number: 80, name: http, protocol: HTTP}]
  endpoints: [{address: 10.0.0.9}]
";

fn rule(what: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: r, namespace: shop}}\nspec: {{jwtRules: [{{{what}}}]}}\n"
    )
}

struct Mesh {
    control: ControlPlane,
    _drain: drain::Drain,
    folder: tempfile::TempDir,
}

impl Mesh {
    async fn start(rule: &str, fetch: KeyFetch) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text);
        write("a.yaml", SERVICE).expect("written");
        write("r.yaml", rule).expect("written");
        let (drain, signal) = drain::channel();
        let config = ControlConfig {
            keys: fetch,
            ..plane::config(folder.path())
        };
        Self {
            control: ControlPlane::start(config, signal).await.expect("starts"),
            _drain: drain,
            folder,
        }
    }

    fn edit(&self, rule: &str) {
        std::fs::write(self.folder.path().join("r.yaml"), rule).expect("written");
    }

    /// Whether a workload's listeners have this text.
    fn has(&self, text: &str) -> bool {
        let node = Node {
            id: "sidecar~10.0.0.9~web.shop~shop.svc.cluster.local".to_owned(),
            ..Node::default()
        };
        let proxy = Proxy::parse(&node).expect("a valid node");
        let view = self.control.status().view_of(&proxy);
        let listeners = view.view.get(&TypeUrl::LISTENER).expect("listeners");
        let text = text.as_bytes();
        let has = |body: &[u8]| body.windows(text.len()).any(|part| part == text);
        listeners
            .iter()
            .any(|resource| has(&resource.body.to_bytes()))
    }

    async fn gets(&self, text: &str) {
        let began = Instant::now();
        while !self.has(text) {
            assert!(began.elapsed() < PATIENCE, "no {text} in {PATIENCE:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn every_second() -> KeyFetch {
    KeyFetch {
        refresh: Duration::from_secs(1),
        ..KeyFetch::default()
    }
}

#[tokio::test]
async fn keys_are_there_when_the_first_proxy_asks() {
    let server = Server::start(None).await;
    server.put("/keys", "200 OK", &keys("slow"), Duration::from_millis(700));
    let uri = server.url("http", "/keys");
    let mesh = Mesh::start(
        &rule(&format!("issuer: i, jwksUri: '{uri}'")),
        KeyFetch::default(),
    )
    .await;
    assert!(mesh.has("\"k\":\"slow\"") && !mesh.has(NOBODY));
}

#[tokio::test]
async fn keys_are_renewed_and_the_last_good_ones_kept() {
    let server = Server::start(None).await;
    server.keys("/keys", "one");
    let uri = server.url("http", "/keys");
    let mesh = Mesh::start(
        &rule(&format!("issuer: i, jwksUri: '{uri}'")),
        every_second(),
    )
    .await;
    mesh.gets("\"k\":\"one\"").await;
    server.keys("/keys", "two");
    mesh.gets("\"k\":\"two\"").await;
    for (status, body) in [
        ("500 No", ""),
        ("200 OK", "{}"),
        ("200 OK", "{\"keys\":[]}"),
    ] {
        server.put("/keys", status, body, Duration::ZERO);
        tokio::time::sleep(Duration::from_millis(1500)).await;
        assert!(mesh.has("\"k\":\"two\""), "{status} {body}");
    }
    server.keys("/keys", "three");
    mesh.gets("\"k\":\"three\"").await;
}

#[tokio::test]
async fn without_keys_no_token_is_accepted_until_there_are_some() {
    let server = Server::start(None).await;
    let uri = server.url("http", "/keys");
    let mesh = Mesh::start(
        &rule(&format!("issuer: i, jwksUri: '{uri}'")),
        KeyFetch::default(),
    )
    .await;
    assert!(mesh.has(NOBODY));
    server.keys("/keys", "late");
    mesh.gets("\"k\":\"late\"").await;
    assert!(!mesh.has(NOBODY));
}

#[tokio::test]
async fn an_edit_takes_effect_with_its_keys() {
    let server = Server::start(None).await;
    server.keys("/old", "old");
    server.put("/new", "200 OK", &keys("new"), Duration::from_secs(2));
    let at = |path: &str| {
        rule(&format!(
            "issuer: i, jwksUri: '{}'",
            server.url("http", path)
        ))
    };
    let mesh = Mesh::start(&at("/old"), KeyFetch::default()).await;
    mesh.edit(&at("/new"));
    let began = Instant::now();
    while !mesh.has("\"k\":\"new\"") {
        assert!(mesh.has("\"k\":\"old\"") && !mesh.has(NOBODY));
        assert!(began.elapsed() < PATIENCE);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // Keys in the rule need no fetch, and take the place of those that are waited for.
    server.put("/never", "200 OK", &keys("never"), PATIENCE);
    mesh.edit(&at("/never"));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(mesh.has("\"k\":\"new\""));
    mesh.edit(&rule(&format!("issuer: i, jwks: '{}'", keys("own"))));
    mesh.gets("\"k\":\"own\"").await;
}

#[tokio::test]
async fn keys_are_fetched_by_the_environments_proxy() {
    let server = Server::start(None).await;
    server.put(
        "http://keys.nowhere.example/keys",
        "200 OK",
        &keys("far"),
        Duration::ZERO,
    );
    let proxy = server.url("http", "").replace("localhost", "127.0.0.1");
    let environment = |name: &str| (name == "HTTP_PROXY").then(|| proxy.clone());
    let fetch = KeyFetch {
        proxies: HttpProxies::from_env(environment).expect("a proxy"),
        ..KeyFetch::default()
    };
    let uri = "http://keys.nowhere.example/keys";
    let mesh = Mesh::start(&rule(&format!("issuer: i, jwksUri: '{uri}'")), fetch).await;
    mesh.gets("\"k\":\"far\"").await;
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    let server = Server::start(None).await;
    let place = format!("{{\"jwks_uri\": \"{}\"}}", server.url("http", "/moved"));
    server.put(
        "/x/.well-known/openid-configuration",
        "200 OK",
        &place,
        Duration::ZERO,
    );
    server.put("/moved", "302 Found\r\nlocation: /keys", "", Duration::ZERO);
    server.keys("/keys", "found");
    let issuer = server.url("http", "/x/");
    let mesh = Mesh::start(&rule(&format!("issuer: '{issuer}'")), KeyFetch::default()).await;
    assert!(mesh.has("\"k\":\"found\""));
}

#[tokio::test]
async fn what_is_too_large_or_loops_is_not_taken() {
    let server = Server::start(None).await;
    let large = keys(&"A".repeat(2 * 1024 * 1024));
    server.put("/large", "200 OK", &large, Duration::ZERO);
    server.put("/loop", "302 Found\r\nlocation: /loop", "", Duration::ZERO);
    let mesh = Mesh::start(SERVICE, KeyFetch::default()).await;
    for path in ["/large", "/loop"] {
        let uri = server.url("http", path);
        mesh.edit(&rule(&format!("issuer: i, jwksUri: '{uri}'")));
        mesh.gets(NOBODY).await;
        mesh.edit(&rule(&format!("issuer: i, jwks: '{}'", keys("own"))));
        mesh.gets("\"k\":\"own\"").await;
    }
}

/// A server's certificate for `localhost` of an authority of its own, which is written to a file.
fn acceptor(authority: &Path) -> TlsAcceptor {
    let mut params = rcgen::CertificateParams::default();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = rcgen::KeyPair::generate().expect("a key");
    let root = params.self_signed(&key).expect("signed");
    std::fs::write(authority, root.pem()).expect("written");
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().expect("a key");
    let names = vec!["localhost".to_owned()];
    let params = rcgen::CertificateParams::new(names).expect("valid");
    let certificate = params.signed_by(&key, &issuer).expect("signed");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a pair");
    TlsAcceptor::from(Arc::new(config))
}

#[tokio::test]
async fn a_server_is_asked_only_if_its_certificate_is_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let authority = folder.path().join("ca.pem");
    let server = Server::start(Some(acceptor(&authority))).await;
    server.keys("/keys", "secret");
    let rule = rule(&format!(
        "issuer: i, jwksUri: '{}'",
        server.url("https", "/keys")
    ));
    let mesh = Mesh::start(&rule, KeyFetch::default()).await;
    assert!(mesh.has(NOBODY) && !mesh.has("\"k\":\"secret\""));
    let trusting = KeyFetch {
        extra_roots: authority,
        ..KeyFetch::default()
    };
    let mesh = Mesh::start(&rule, trusting).await;
    assert!(mesh.has("\"k\":\"secret\"") && !mesh.has(NOBODY));
}
