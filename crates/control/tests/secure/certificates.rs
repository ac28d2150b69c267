//! Who gets a certificate, and for whom.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::plane::{SERVICE, config, get, write};
use crate::setup::{
    CART, DAY, Identity, Secure, cart, identity, inline, names, open_to_all, request, request_for,
    secrets,
};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tonic::Code;
use weft_ca::{Issuer, KeyKind, Lifetimes, SpiffeId, TrustBundle, TrustDomain};
use weft_control::{ControlPlane, SecureConfig};
use weft_core::drain;
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3::secret::Type;
use weft_proto::pb::google::protobuf::{Struct, Value, value::Kind};

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
    let mut endless = request_for(None).1;
    endless.validity_duration = 1_000_000_000;
    let refused = secure
        .ask(None, Some(&token), endless)
        .await
        .expect_err("too long");
    assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
    let (key, first) = request_for(None);
    let chain = secure
        .ask(None, Some(&token), first.clone())
        .await
        .expect("issued");
    let own = identity(&key, &chain);
    assert_eq!(names(&own), [CART]);
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
    assert_eq!(
        names(&renewed),
        [CART],
        "what was asked for besides is not believed"
    );
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
    let counted = "weft_authentication_failures{reason=\"impersonation\"}";
    assert_eq!(secure.metric(counted).await, 1);
    secure.stop().await;
}

/// One of `text`'s characters is another one.
fn damaged(text: &str, at: usize) -> String {
    let mut bytes = text.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).expect("ASCII")
}

#[tokio::test]
async fn every_malformed_request_gets_a_clear_status() {
    let secure = Secure::start().await;
    let token = secure.kubernetes_token("istio-ca");
    let good = request().1;
    let twice = good.csr.repeat(2);
    let named = |name: &str| good.csr.replace("CERTIFICATE REQUEST", name);
    let no_base64 = good.csr.replace('M', "*");
    let mut bad = vec![
        (String::new(), "BEGIN CERTIFICATE REQUEST"),
        ("\u{0}\u{7f}".to_owned(), "BEGIN CERTIFICATE REQUEST"),
        (twice, "is not one"),
        (named("CERTIFICATE"), "BEGIN CERTIFICATE REQUEST"),
        (named("PRIVATE KEY"), "BEGIN CERTIFICATE REQUEST"),
        (no_base64, "BEGIN CERTIFICATE REQUEST"),
        ("x".repeat(20_000), "longer than 16 KiB"),
    ];
    // Whatever is different in it, it is not what its key has signed.
    let begin = good.csr.find('\n').expect("lines") + 1;
    let end = good.csr.rfind("\n-----END").expect("an end") - 4;
    let places = (begin..end).filter(|at| good.csr.as_bytes()[*at] != b'\n');
    bad.extend(places.step_by(9).map(|at| (damaged(&good.csr, at), "the ")));
    for (csr, says) in &bad {
        let mut asked = good.clone();
        asked.csr.clone_from(csr);
        let refused = secure.ask(None, Some(&token), asked).await;
        let refused = refused.expect_err(csr);
        assert_eq!(refused.code(), Code::InvalidArgument, "{refused}");
        let text = refused.message();
        assert!(text.starts_with("CSR signing error ("), "{text}");
        assert!(text.contains(says), "{csr}: {text}");
    }
    let counted = secure.metric("citadel_server_csr_parsing_err_count").await;
    assert_eq!(counted, bad.len() as u64);
    let issued = secure.ask(None, Some(&token), good).await;
    issued.expect("it goes on");
    secure.stop().await;
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

#[tokio::test]
async fn a_foreign_bundle_that_cannot_be_used_stops_the_start_and_names_flag_and_file() {
    let directory = tempfile::tempdir().expect("a directory");
    write(directory.path(), "mesh.yaml", SERVICE);
    let folder = tempfile::tempdir().expect("a folder");
    write(folder.path(), "example.org.json", "{");
    let mut config = config(directory.path());
    config.secure = Some(SecureConfig {
        federated: Some(folder.path().to_owned()),
        ..SecureConfig::new(directory.path().join("ca"))
    });
    let (_drain, signal) = drain::channel();
    let error = ControlPlane::start(config, signal).await;
    let error = error.err().expect("refused").to_string();
    for part in ["--federated-bundles", "example.org.json"] {
        assert!(error.contains(part), "{error}");
    }
}
