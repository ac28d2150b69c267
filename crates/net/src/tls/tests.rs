//! Handshakes over loopback between the two sides.

use super::*;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, SanType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

struct Authority {
    pem: Pem,
    issuer: Issuer<'static, KeyPair>,
}

fn authority(origin: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
        .distinguished_name
        .push(rcgen::DnType::CommonName, origin);
    let key = KeyPair::generate().unwrap();
    let pem = Pem::new(origin, params.self_signed(&key).unwrap().pem());
    Authority {
        pem,
        issuer: Issuer::new(params, key),
    }
}

impl Authority {
    fn issue(&self, dns: &[&str], uri: Option<&str>) -> Identity {
        let names: Vec<String> = dns.iter().map(|n| (*n).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        if let Some(uri) = uri {
            let uri = SanType::URI(uri.try_into().unwrap());
            params.subject_alt_names.push(uri);
        }
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: Pem::new("cert.pem", cert.pem()),
            key: Pem::new("key.pem", key.serialize_pem()),
        }
    }
}

fn server(identities: Vec<Identity>) -> ServerSpec {
    ServerSpec {
        identities,
        validation: None,
        require_client_certificate: false,
        alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        versions: (Version::V12, Version::V13),
    }
}

fn client(ca: Option<&Authority>, sans: Vec<SanMatcher>) -> ClientSpec {
    ClientSpec {
        validation: Validation {
            trusted_ca: ca.map(|ca| ca.pem.clone()),
            sans,
        },
        alpn: vec![b"h2".to_vec()],
        ..ClientSpec::default()
    }
}

type Ends = (
    Result<Stream, HandshakeError>,
    Result<Stream, HandshakeError>,
);

/// Handshakes and exchanges a byte, so that a TLS 1.3 refusal by the server is seen.
async fn handshake(server: &ServerSpec, client: &ClientSpec, name: Option<&str>) -> Ends {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (server, client) = (
        server_config(server).unwrap(),
        client_config(client).unwrap(),
    );
    let serve = async {
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = accept(tcp.into(), server, Some(Duration::from_secs(5))).await?;
        let _ = stream.write_all(b"!").await;
        let _ = stream.flush().await;
        Ok(stream)
    };
    let dial = async {
        let tcp = TcpStream::connect(address).await.unwrap();
        let mut stream = connect(tcp, client, name, Some(Duration::from_secs(5))).await?;
        stream.read_u8().await.map_err(HandshakeError::Failed)?;
        Ok(stream)
    };
    tokio::join!(serve, dial)
}

#[tokio::test]
async fn alpn_version_and_name_are_known_on_both_sides() {
    let ca = authority("ca.pem");
    let spec = server(vec![ca.issue(&["a.example.com"], None)]);
    let (server, client) =
        handshake(&spec, &client(Some(&ca), vec![]), Some("a.example.com")).await;
    let (server, client) = (server.unwrap(), client.unwrap());
    assert_eq!(server.alpn(), Some(&b"h2"[..]));
    assert_eq!(client.alpn(), Some(&b"h2"[..]));
    assert_eq!(server.server_name(), Some("a.example.com"));
    assert_eq!(server.tls_version(), Some("TLSv1.3"));
}

#[tokio::test]
async fn who_offers_only_other_protocols_is_served_without_one() {
    let ca = authority("ca.pem");
    let spec = server(vec![ca.issue(&["a.example.com"], None)]);
    for version in [Version::V12, Version::V13] {
        let strange = ClientSpec {
            alpn: vec![b"istio".to_vec()],
            versions: (version, version),
            ..client(Some(&ca), vec![])
        };
        let (server, client) = handshake(&spec, &strange, Some("a.example.com")).await;
        assert_eq!(server.unwrap().alpn(), None, "{version:?}");
        assert_eq!(client.unwrap().alpn(), None, "{version:?}");
    }
}

#[tokio::test]
async fn certificate_is_chosen_by_server_name() {
    let ca = authority("ca.pem");
    let spec = server(vec![
        ca.issue(&["default.test"], None),
        ca.issue(&["a.example.com"], None),
        ca.issue(&["*.example.com"], None),
    ]);
    for (asked, got) in [
        (Some("a.example.com"), "a.example.com"),
        (Some("b.example.com"), "*.example.com"),
        (Some("a.b.example.com"), "default.test"),
        (Some("other.test"), "default.test"),
        (None, "default.test"),
    ] {
        let (_, client) = handshake(&spec, &client(Some(&ca), vec![]), asked).await;
        let certificates = client.unwrap().peer_certificates().unwrap()[0].clone();
        assert_eq!(subject_names(&certificates).1, [got], "{asked:?}");
    }
}

#[tokio::test]
async fn servers_are_judged_by_chain_and_names() {
    let (ca, other) = (authority("ca.pem"), authority("other.pem"));
    let id = "spiffe://cluster.local/ns/a/sa/b";
    let spec = server(vec![ca.issue(&["*.example.com"], Some(id))]);
    let dns = |name: &str| vec![SanMatcher::exact(SanKind::Dns, name)];
    let uri = |start: &'static str| {
        vec![SanMatcher::matching(SanKind::Uri, move |u| {
            u.starts_with(start)
        })]
    };
    for (ca, sans, fine) in [
        (Some(&ca), vec![], true),
        (Some(&other), vec![], false),
        (None, vec![], true),
        (Some(&ca), dns("x.example.com"), true),
        (Some(&ca), dns("x.y.example.com"), false),
        (Some(&ca), dns(id), false),
        (Some(&ca), vec![SanMatcher::exact(SanKind::Uri, id)], true),
        (Some(&ca), uri("spiffe://cluster.local/"), true),
        (Some(&ca), uri("spiffe://else/"), false),
        (
            Some(&ca),
            vec![SanMatcher::exact(SanKind::Ip, "127.0.0.1")],
            false,
        ),
    ] {
        let what = format!("{:?} {sans:?}", ca.map(|c| &c.pem));
        let (_, client) = handshake(&spec, &client(ca, sans), None).await;
        assert_eq!(client.is_ok(), fine, "{what}");
    }
}

#[tokio::test]
async fn clients_are_judged_by_chain_and_names() {
    let (ca, other) = (authority("ca.pem"), authority("other.pem"));
    let mut spec = server(vec![ca.issue(&["a.test"], None)]);
    spec.require_client_certificate = true;
    let id = "spiffe://td/ns/a/sa/b";
    let good = || Some(ca.issue(&[], Some(id)));
    let exact = |uri: &str| vec![SanMatcher::exact(SanKind::Uri, uri)];
    for (trusted, sans, required, identity, fine) in [
        (Some(&ca), vec![], true, good(), true),
        (Some(&ca), vec![], true, None, false),
        (Some(&ca), vec![], false, None, true),
        (
            Some(&ca),
            vec![],
            false,
            Some(other.issue(&[], Some(id))),
            false,
        ),
        (Some(&ca), exact(id), true, good(), true),
        (
            Some(&ca),
            exact("spiffe://td/ns/a/sa/c"),
            true,
            good(),
            false,
        ),
        (None, vec![], true, None, false),
        (None, vec![], true, Some(other.issue(&[], None)), true),
    ] {
        spec.require_client_certificate = required;
        let what = format!(
            "{:?} {sans:?} {required} {identity:?}",
            trusted.map(|c| &c.pem)
        );
        spec.validation = Some(Validation {
            trusted_ca: trusted.map(|ca| ca.pem.clone()),
            sans,
        });
        let mut client = client(Some(&ca), vec![]);
        client.identity = identity;
        let (server, client) = handshake(&spec, &client, Some("a.test")).await;
        assert_eq!(server.is_ok() && client.is_ok(), fine, "{what}");
    }
}

#[tokio::test]
async fn a_silent_peer_ends_at_the_deadline() {
    let ca = authority("ca.pem");
    let config = server_config(&server(vec![ca.issue(&["a.test"], None)])).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let _client = TcpStream::connect(listener.local_addr().unwrap()).await;
    let (tcp, _) = listener.accept().await.unwrap();
    let end = accept(tcp.into(), config, Some(Duration::from_millis(50))).await;
    assert!(matches!(end, Err(HandshakeError::Timeout)), "{end:?}");
}

#[test]
fn errors_name_the_file() {
    let ca = authority("ca.pem");
    let good = ca.issue(&["a.test"], None);
    let with = |chain: Pem, key: Pem| {
        server_config(&server(vec![Identity { chain, key }]))
            .unwrap_err()
            .to_string()
    };
    let bad = Pem::new("/etc/bad.pem", "no pem at all");
    assert!(with(bad.clone(), good.key.clone()).starts_with("/etc/bad.pem: no `BEGIN CERT"));
    assert!(with(good.chain.clone(), bad).starts_with("/etc/bad.pem: no unencrypted private key"));
    let other = ca.issue(&["b.test"], None);
    assert_eq!(
        with(good.chain, other.key),
        "key.pem: the private key does not belong to the certificate in cert.pem"
    );
    let mut versions = server(vec![ca.issue(&["a.test"], None)]);
    versions.versions = (Version::V13, Version::V12);
    assert!(server_config(&versions).is_err());
    assert!(verify_pem(&Pem::new("x", "-----BEGIN CERTIFICATE-----\nAA")).is_err());
}
