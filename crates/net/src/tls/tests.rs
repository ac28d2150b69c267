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
            params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
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
            ..Validation::default()
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
            ..Validation::default()
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

const DAY: time::Duration = time::Duration::days(1);

/// A list of an authority that ends in so many days and names these serial numbers.
fn list(ca: &Authority, days: i32, serials: &[&[u8]]) -> String {
    let now = time::OffsetDateTime::now_utc();
    let revoked = serials.iter().map(|serial| rcgen::RevokedCertParams {
        serial_number: rcgen::SerialNumber::from_slice(serial),
        revocation_time: now,
        reason_code: None,
        invalidity_date: None,
    });
    let params = rcgen::CertificateRevocationListParams {
        this_update: now - 10 * DAY,
        next_update: now + days * DAY,
        crl_number: rcgen::SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.collect(),
        key_identifier_method: rcgen::KeyIdMethod::Sha256,
    };
    params.signed_by(&ca.issuer).unwrap().pem().unwrap()
}

impl Authority {
    fn issue_serial(&self, serial: &[u8]) -> Identity {
        let mut params = CertificateParams::new(vec!["a.example.com".to_owned()]).unwrap();
        params.serial_number = Some(rcgen::SerialNumber::from_slice(serial));
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap();
        Identity {
            chain: Pem::new("cert.pem", cert.pem()),
            key: Pem::new("key.pem", key.serialize_pem()),
        }
    }
}

fn listing_authority(name: &str) -> Authority {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![
        rcgen::KeyUsagePurpose::KeyCertSign,
        rcgen::KeyUsagePurpose::CrlSign,
    ];
    let kind = rcgen::DnType::CommonName;
    params.distinguished_name.push(kind, name);
    let key = KeyPair::generate().unwrap();
    let pem = Pem::new("ca.pem", params.self_signed(&key).unwrap().pem());
    Authority {
        pem,
        issuer: Issuer::new(params, key),
    }
}

#[tokio::test]
async fn revoked_certificates_are_refused_by_both_sides() {
    let (ca, other) = (listing_authority("one"), listing_authority("other"));
    let (good, bad) = (ca.issue_serial(&[7]), ca.issue_serial(&[8]));
    let with = |text: &str| Validation {
        trusted_ca: Some(ca.pem.clone()),
        crl: Some(Pem::new("crl.pem", text)),
        ..Validation::default()
    };
    let current = list(&ca, 5, &[&[8]]);
    let ended = list(&ca, -5, &[&[8]]);
    let of_other = list(&other, 5, &[&[8]]);
    let cases = [
        (&current, &good, None),
        (&current, &bad, Some("Revoked")),
        (&ended, &good, Some("CrlExpired")),
        (&of_other, &good, Some("UnknownRevocationStatus")),
    ];
    for (text, identity, refused) in cases {
        let mut spec = server(vec![identity.clone()]);
        let mut caller = client(Some(&ca), vec![]);
        caller.validation = with(text);
        let (_, seen) = handshake(&spec, &caller, Some("a.example.com")).await;
        let seen = seen.err().map(|error| error.to_string());
        let as_wanted = |seen: Option<&String>| match (seen, refused) {
            (None, None) => true,
            (Some(text), Some(reason)) => text.contains(reason),
            _ => false,
        };
        assert!(as_wanted(seen.as_ref()), "client: {seen:?}, {refused:?}");
        spec = server(vec![good.clone()]);
        spec.validation = Some(with(text));
        spec.require_client_certificate = true;
        caller = client(Some(&ca), vec![]);
        caller.identity = Some(identity.clone());
        let (seen, _) = handshake(&spec, &caller, Some("a.example.com")).await;
        let why = seen.as_ref().err().and_then(HandshakeError::unverified);
        assert_eq!(why, refused.map(|_| Unverified::Chain));
        let seen = seen.err().map(|error| error.to_string());
        assert!(as_wanted(seen.as_ref()), "server: {seen:?}, {refused:?}");
    }
}

#[test]
fn lists_need_roots_and_must_be_lists() {
    let ca = listing_authority("one");
    let refused = |trusted_ca: Option<Pem>, text: &str| {
        let mut spec = client(None, vec![]);
        spec.validation.trusted_ca = trusted_ca;
        spec.validation.crl = Some(Pem::new("crl.pem", text));
        client_config(&spec).expect_err("refused").to_string()
    };
    let good = list(&ca, 5, &[]);
    assert!(refused(None, &good).contains("needs trusted_ca"));
    let roots = || Some(ca.pem.clone());
    assert!(refused(roots(), "").contains("crl.pem: must hold 1 to 64"));
    let damaged = "-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n";
    assert!(refused(roots(), damaged).contains("crl.pem: a list of revoked"));
}

#[tokio::test]
async fn refusals_of_certificates_are_told_apart() {
    let (ca, other) = (authority("ca.pem"), authority("other.pem"));
    let mut spec = server(vec![ca.issue(&["a.example.com"], None)]);
    spec.validation = Some(Validation {
        trusted_ca: Some(ca.pem.clone()),
        sans: vec![SanMatcher::exact(SanKind::Uri, "spiffe://mesh/a")],
        ..Validation::default()
    });
    spec.require_client_certificate = true;
    let cases = [
        (Some(ca.issue(&[], Some("spiffe://mesh/a"))), None),
        (
            Some(ca.issue(&[], Some("spiffe://mesh/b"))),
            Some(Unverified::Name),
        ),
        (
            Some(other.issue(&[], Some("spiffe://mesh/a"))),
            Some(Unverified::Chain),
        ),
        (None, Some(Unverified::NoCertificate)),
    ];
    for (identity, wanted) in cases {
        let mut caller = client(Some(&ca), vec![]);
        caller.identity = identity;
        let (seen, _) = handshake(&spec, &caller, Some("a.example.com")).await;
        assert_eq!(seen.err().and_then(|error| error.unverified()), wanted);
    }
}

/// Both sides know the domains `one.test` and `two.test`, each by its own authority; gives what the
/// server makes of a client with this certificate.
async fn by_domain(
    authorities: [&Authority; 2],
    client_certificate: Option<Identity>,
    sans: Vec<SanMatcher>,
) -> Result<(), HandshakeError> {
    let names = ["one.test", "two.test"].map(Arc::from);
    let bundles = authorities.map(|authority| authority.pem.clone());
    let validation = Validation {
        sans,
        trust_domains: names.into_iter().zip(bundles).collect(),
        ..Validation::default()
    };
    let own = authorities[1].issue(&[], Some("spiffe://two.test/ns/a/sa/server"));
    let spec = ServerSpec {
        validation: Some(validation.clone()),
        ..server(vec![own])
    };
    let client = ClientSpec {
        identity: client_certificate,
        validation: Validation {
            sans: Vec::new(),
            ..validation
        },
        ..client(None, vec![])
    };
    let (server, client) = handshake(&spec, &client, None).await;
    assert_eq!(server.is_ok(), client.is_ok());
    server.map(drop)
}

#[tokio::test]
async fn the_trust_domain_of_a_name_chooses_who_must_confirm_it() {
    let (one, two) = (authority("one"), authority("two"));
    let both = [&one, &two];
    let of = |authority: &Authority, id: &str| Some(authority.issue(&[], Some(id)));
    let fine = "spiffe://one.test/ns/a/sa/b";
    by_domain(both, of(&one, fine), vec![])
        .await
        .expect("its own");
    let foreign = "spiffe://two.test/ns/a/sa/b";
    by_domain(both, of(&two, foreign), vec![])
        .await
        .expect("its own");
    for (certificate, why) in [
        (of(&two, fine), "another domain's authority"),
        (of(&one, "spiffe://three.test/a"), "an unknown domain"),
        (of(&one, "spiffe://one.test"), "no path"),
        (of(&one, "https://one.test/a"), "no SPIFFE ID"),
        (Some(one.issue(&["one.test"], None)), "no URI"),
    ] {
        let refused = by_domain(both, certificate, vec![]).await;
        let refused = refused.expect_err(why).unverified();
        assert_eq!(refused, Some(Unverified::Chain), "{why}");
    }
    let refused = by_domain(both, None, vec![])
        .await
        .expect_err("nothing shown");
    assert_eq!(refused.unverified(), Some(Unverified::NoCertificate));

    // Names are looked at afterwards.
    let only = |id: &str| vec![SanMatcher::exact(SanKind::Uri, id)];
    by_domain(both, of(&one, fine), only(fine))
        .await
        .expect("wanted");
    let other = by_domain(both, of(&one, fine), only(foreign)).await;
    let other = other.expect_err("another name").unverified();
    assert_eq!(other, Some(Unverified::Name));
}

#[tokio::test]
async fn who_may_sign_is_no_workload_and_lists_in_a_bundle_count() {
    let mut one = listing_authority("one");
    let two = authority("two");
    let identity = |change: fn(&mut CertificateParams)| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        let uri = SanType::URI("spiffe://one.test/a".try_into().unwrap());
        params.subject_alt_names.push(uri);
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &one.issuer).unwrap();
        Some(Identity {
            chain: Pem::new("cert.pem", certificate.pem()),
            key: Pem::new("key.pem", key.serialize_pem()),
        })
    };
    let plain = identity(|_| {});
    let signs = identity(|params| params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign]);
    let serial = |params: &mut CertificateParams| {
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[77]));
    };
    let revoked = identity(serial);
    let unsaid = identity(|params| params.key_usages.clear());
    for (certificate, why) in [(signs, "it may sign"), (unsaid, "it may do anything")] {
        let refused = by_domain([&one, &two], certificate, vec![]).await;
        let refused = refused.expect_err(why).unverified();
        assert_eq!(refused, Some(Unverified::Chain), "{why}");
    }
    for certificate in [&plain, &revoked] {
        let taken = by_domain([&one, &two], certificate.clone(), vec![]).await;
        taken.expect("without a list");
    }
    let list = list(&one, 1, &[&[77]]);
    one.pem.bytes.extend_from_slice(list.as_bytes());
    let taken = by_domain([&one, &two], plain, vec![]).await;
    taken.expect("not listed");
    let refused = by_domain([&one, &two], revoked, vec![]).await;
    let refused = refused.expect_err("listed").to_string();
    assert!(
        refused.contains("revoked") || refused.contains("Revoked"),
        "{refused}"
    );
}

#[tokio::test]
async fn a_session_does_not_outlast_the_certificate_of_its_client() {
    let ca = authority("ca.pem");
    let mut spec = server(vec![ca.issue(&["a.test"], None)]);
    spec.require_client_certificate = true;
    spec.validation = Some(client(Some(&ca), vec![]).validation);
    let server = server_config(&spec).unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.not_after = time::OffsetDateTime::now_utc() + time::Duration::seconds(3);
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, &ca.issuer).unwrap();
    let mut dialer = client(Some(&ca), vec![]);
    dialer.identity = Some(Identity {
        chain: Pem::new("cert.pem", cert.pem()),
        key: Pem::new("key.pem", key.serialize_pem()),
    });
    let dialer = client_config(&dialer).unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let call = async || {
        let serve = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut stream = accept(tcp.into(), Arc::clone(&server), None).await?;
            stream.write_all(b"!").await.unwrap();
            stream.flush().await.unwrap();
            Ok::<_, HandshakeError>(stream)
        };
        let dial = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let mut stream = connect(tcp, Arc::clone(&dialer), Some("a.test"), None).await?;
            stream.read_u8().await.map_err(HandshakeError::Failed)?;
            Ok(stream)
        };
        let (served, dialed): Ends = tokio::join!(serve, dial);
        // The client's side sees the end of its handshake first.
        served.inspect(|_| assert!(dialed.is_ok()))
    };
    assert!(call().await.is_ok());
    assert!(call().await.is_ok(), "resumed in time");
    tokio::time::sleep(Duration::from_secs(4)).await;
    let late = call().await.expect_err("it has ended");
    assert_eq!(late.unverified(), Some(Unverified::Chain), "{late}");
}
