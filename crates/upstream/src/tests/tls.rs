//! TLS towards upstreams.

use super::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use weft_config::secret::SecretKind;
use weft_config::tls::{
    SanKind, SanMatcher, TlsCertificate, TlsContext, TlsValidation, TlsVersion, ValidationSource,
};
use weft_config::{DataSource, Secret, UpstreamTls};
use weft_net::tls::{Identity, Pem, ServerSpec, Version};

/// A self-signed certificate and its key, as PEM.
fn certificate(name: &str) -> (String, String) {
    let made = rcgen::generate_simple_self_signed(vec![name.to_owned()]).unwrap();
    (made.cert.pem(), made.signing_key.serialize_pem())
}

/// Answers one request a connection with the server name it was asked for and its ALPN.
async fn tls_server(pem: &(String, String)) -> SocketAddr {
    let spec = ServerSpec {
        identities: vec![Identity {
            chain: Pem::new("cert", pem.0.as_bytes()),
            key: Pem::new("key", pem.1.as_bytes()),
        }],
        validation: None,
        require_client_certificate: false,
        alpn: vec![b"http/1.1".to_vec()],
        versions: (Version::V12, Version::V13),
    };
    let config = weft_net::tls::server_config(&spec).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        loop {
            let (tcp, _) = listener.accept().await.unwrap();
            let accepted = weft_net::tls::accept(tcp.into(), Arc::clone(&config), None).await;
            let Ok(mut stream) = accepted else { continue };
            let mut buffer = [0; 1024];
            let _ = stream.read(&mut buffer).await;
            let name = stream.server_name().unwrap_or("-").to_owned();
            let alpn = String::from_utf8_lossy(stream.alpn().unwrap_or(b"-")).into_owned();
            let body = format!("{name} {alpn}");
            let length = body.len();
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{body}");
            let _ = stream.write_all(head.as_bytes()).await;
            let _ = stream.flush().await;
        }
    });
    address
}

fn validation(ca: &str, san: Option<&str>) -> TlsValidation {
    TlsValidation {
        trusted_ca: Some(DataSource::Inline(ca.to_owned().into())),
        san_matchers: san
            .map(|name| SanMatcher {
                kind: SanKind::Dns,
                matcher: weft_config::matching::StringMatch::exact(name),
            })
            .into_iter()
            .collect(),
        ..TlsValidation::default()
    }
}

fn tls(validation: ValidationSource) -> Transport {
    Transport::Tls(Arc::new(UpstreamTls {
        context: TlsContext {
            min_version: TlsVersion::V12,
            max_version: TlsVersion::V13,
            certificates: Vec::new(),
            validation: Some(validation),
            alpn: Vec::new(),
        },
        sni: "up.test".into(),
        auto_host_sni: false,
        auto_sni_san_validation: false,
    }))
}

#[test]
fn upstreams_are_verified_by_authority_and_name() {
    on_worker(async {
        let (own, other) = (certificate("up.test"), certificate("up.test"));
        let address = tls_server(&own).await;
        for (ca, san, fine) in [
            (&own.0, None, true),
            (&own.0, Some("up.test"), true),
            (&own.0, Some("else.test"), false),
            (&other.0, None, false),
        ] {
            let world = World::new();
            let mut config = config("c", flat("c", &[address]));
            let inline = ValidationSource::Inline(Arc::new(validation(ca, san)));
            config.transport = tls(inline);
            world.store.apply_cluster(Arc::new(config), false);
            match world.send("/").await {
                Ok(response) => {
                    assert!(fine, "{san:?}");
                    assert_eq!(text(response).await, "up.test http/1.1");
                }
                Err(failure) => {
                    assert!(!fine, "{san:?} {failure}");
                    assert_eq!(failure.kind, FailureKind::RemoteConnectFailure);
                    assert!(failure.transport.starts_with("TLS_error"), "{failure}");
                }
            }
        }
    });
}

#[test]
fn a_secret_that_arrives_late_lets_the_cluster_connect() {
    on_worker(async {
        let own = certificate("up.test");
        let address = tls_server(&own).await;
        let world = World::new();
        let mut config = config("c", flat("c", &[address]));
        config.transport = tls(ValidationSource::Sds {
            name: "roots".into(),
            defaults: Arc::new(TlsValidation::default()),
        });
        world.store.apply_cluster(Arc::new(config), false);
        let failure = world.send("/").await.unwrap_err();
        assert_eq!(failure.kind, FailureKind::LocalConnectFailure);
        assert!(
            failure.transport.contains("not supplied by SDS: roots"),
            "{failure}"
        );
        world.store.apply_secret(Arc::new(Secret {
            name: "roots".into(),
            kind: SecretKind::Validation(Arc::new(validation(&own.0, None))),
        }));
        assert_eq!(world.text("/").await, "up.test http/1.1");
    });
}

#[test]
fn a_change_waits_for_its_secret_and_the_old_form_serves_on() {
    on_worker(async {
        let own = certificate("up.test");
        let address = tls_server(&own).await;
        let world = World::new();
        let mut old = config("c", flat("c", &[address]));
        let inline = ValidationSource::Inline(Arc::new(validation(&own.0, None)));
        old.transport = tls(inline);
        world.store.apply_cluster(Arc::new(old.clone()), true);
        let mut new = old.clone();
        new.lb = LbPolicy::Random;
        new.transport = tls(ValidationSource::Sds {
            name: "roots".into(),
            defaults: Arc::new(TlsValidation::default()),
        });
        world.store.apply_cluster(Arc::new(new.clone()), true);
        assert_eq!(world.text("/").await, "up.test http/1.1");
        assert_eq!(world.cluster().config.lb, old.lb);
        // Another one in between takes its place.
        new.connect_timeout = Duration::from_secs(2);
        world.store.apply_cluster(Arc::new(new.clone()), true);
        assert_eq!(world.text("/").await, "up.test http/1.1");
        let roots = |ca: &str| {
            Arc::new(Secret {
                name: "roots".into(),
                kind: SecretKind::Validation(Arc::new(validation(ca, None))),
            })
        };
        assert!(world.store.check_secret(&roots("nothing")).is_err());
        assert!(world.store.check_secret(&roots(&own.0)).is_ok());
        world.store.apply_secret(roots(&own.0));
        assert_eq!(*world.cluster().config, new);
        assert_eq!(world.text("/").await, "up.test http/1.1");
        // Back to what was in force: nothing waits any more.
        let mut strange = new.clone();
        strange.transport = tls(ValidationSource::Sds {
            name: "strange".into(),
            defaults: Arc::new(TlsValidation::default()),
        });
        world.store.apply_cluster(Arc::new(strange), true);
        assert_eq!(world.store.count(), (1, 1));
        world.store.apply_cluster(Arc::new(new), true);
        assert_eq!(world.store.count(), (1, 0));
    });
}

#[test]
fn a_secret_of_the_wrong_kind_is_refused_where_it_is_used() {
    on_worker(async {
        let (own, world) = (certificate("up.test"), World::new());
        let mut config = config("c", flat("c", &[]));
        config.transport = tls(ValidationSource::Sds {
            name: "roots".into(),
            defaults: Arc::new(TlsValidation::default()),
        });
        world.store.apply_cluster(Arc::new(config), true);
        let inline = |text: &str| DataSource::Inline(text.to_owned().into());
        let certificate = TlsCertificate {
            chain: inline(&own.0),
            key: inline(&own.1),
        };
        let secret = |name: &str| {
            let kind = SecretKind::Certificate(Arc::new(certificate.clone()));
            let name = name.into();
            Arc::new(Secret { name, kind })
        };
        assert!(world.store.check_secret(&secret("unused")).is_ok());
        let error = world.store.check_secret(&secret("roots")).unwrap_err();
        assert!(
            error.starts_with("cluster c: transport_socket: "),
            "{error}"
        );
    });
}

/// A host that a request names has to show a certificate for that name, and is called where the name
/// leads now.
#[test]
fn hosts_that_are_named_show_certificates_for_their_names() {
    on_worker(async {
        let own = certificate("a.test");
        let address = tls_server(&own).await;
        let names = Arc::new(names::Names::default());
        let set = |name: &str, ip: &str| {
            let mut map = names.0.lock().unwrap();
            map.insert(name.to_owned(), vec![ip.parse().unwrap()]);
        };
        set("a.test", "127.0.0.1");
        set("b.test", "127.0.0.1");
        let registry = Arc::new(Registry::default());
        let store = ClusterStore::with_resolver(Arc::clone(&registry), 1, names.clone());
        let world = World::of(store, registry);
        let mut config = config("c", flat("c", &[]));
        config.discovery = Discovery::Named {
            names: Arc::new(weft_config::name_cache::NameCache {
                name: "names".into(),
                family: weft_config::cluster::DnsLookupFamily::V4Only,
                refresh: Duration::from_millis(20),
                failure_refresh: None,
                ttl: Duration::from_mins(5),
                max_hosts: 8,
                max_pending: 8,
                timeout: Duration::from_secs(5),
            }),
            insecure: false,
        };
        config.lb = LbPolicy::ClusterProvided;
        config.http = Arc::new(UpstreamHttp {
            auto_sni: true,
            auto_san_validation: true,
            ..UpstreamHttp::default()
        });
        let inline = ValidationSource::Inline(Arc::new(validation(&own.0, None)));
        config.transport = tls(inline);
        world.store.apply_cluster(Arc::new(config), false);
        let cluster = world.cluster();
        let port = address.port();
        let called = |name: &str| cluster.called(&format!("{name}:{port}"), None).unwrap();
        let host = |name: &str| {
            let called = called(name);
            cluster.pick(&PickContext {
                called: Some(&called),
                ..PickContext::default()
            })
        };
        assert_eq!(cluster.called("A.test", None).unwrap().key, "a.test:443");
        assert!(host("a.test").is_none(), "nobody has looked it up");
        let send = async |name: &str| {
            cluster.look_up(&called(name)).await.unwrap();
            let mut request = get("/");
            let value = format!("{name}:{port}").parse().unwrap();
            request.headers_mut().insert("host", value);
            let host = host(name).unwrap();
            cluster.send(&host, request, &SendOptions::default()).await
        };
        let answer = send("a.test").await.unwrap();
        assert_eq!(text(answer).await, "a.test http/1.1");
        let failure = send("b.test").await.unwrap_err();
        assert!(failure.transport.starts_with("TLS_error"), "{failure}");
        // Another address is another host.
        let before = host("a.test").unwrap();
        assert!(before.same(&host("a.test").unwrap()));
        set("a.test", "127.0.0.9");
        let mut now = host("a.test").unwrap();
        for _ in 0..200 {
            if !now.same(&before) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
            now = host("a.test").unwrap();
        }
        assert_eq!(now.address().to_string(), format!("127.0.0.9:{port}"));
    });
}
