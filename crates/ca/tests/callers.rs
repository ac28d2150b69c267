//! Who is believed, and why others are not.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use base64::Engine as _;
use serde_json::{Value, json};
use weft_ca::authn::{JoinTokens, Method, TokenIssuer, TokenIssuers, TrustDomains};
use weft_ca::authority::{Signer, State};
use weft_ca::issuer::Subject;
use weft_ca::{
    Authenticator, Caller, Credentials, Csr, Issuer, KeyKind, KeyPair, Refusal, Revoked, SpiffeId,
    TrustBundle, TrustDomain,
};
use weft_jwt::{BASE64, Keys};

const HOUR: Duration = Duration::from_hours(1);
const ISSUER: &str = "https://kubernetes.default.svc";

fn domain(name: &str) -> TrustDomain {
    TrustDomain::parse(name).expect("valid")
}

fn id(text: &str) -> SpiffeId {
    SpiffeId::parse(text).expect("valid")
}

/// A mesh with its root, an issuer of tokens with its key, and join tokens.
struct Mesh {
    state: State,
    issuer: Arc<Issuer>,
    authenticator: Authenticator,
    key: EcdsaKeyPair,
    now: SystemTime,
    folder: tempfile::TempDir,
}

impl Mesh {
    fn new() -> Self {
        let now = SystemTime::now();
        let own = domain("cluster.local");
        let made = Issuer::new_root(&own, KeyKind::P256, 1000 * HOUR, now);
        let (key, root) = made.expect("made");
        let bundle = TrustBundle::new([root.clone()]).expect("a root");
        let issuer = Arc::new(Issuer::new(root, key, &[], &bundle, now).expect("usable"));
        let folder = tempfile::tempdir().expect("a folder");
        let document =
            EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let document = document.expect("a key");
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, document.as_ref());
        let key = key.expect("a key");
        let point = key.public_key().as_ref();
        let jwks = json!({"keys": [{"kty": "EC", "crv": "P-256", "kid": "k",
            "x": BASE64.encode(&point[1..33]), "y": BASE64.encode(&point[33..])}]});
        let issuers = vec![TokenIssuer {
            issuer: ISSUER.to_owned(),
            audiences: vec!["istio-ca".to_owned()],
            keys: {
                let keys = Keys::parse(jwks.to_string().as_bytes());
                Arc::new(keys.expect("a key set").into())
            },
        }];
        Self {
            state: State {
                signer: Signer::Own(Arc::clone(&issuer)),
                bundle: Arc::new(bundle),
                revoked: Arc::default(),
                lists: weft_ca::authority::RevocationLists::default(),
            },
            issuer,
            authenticator: Authenticator::new(
                TrustDomains {
                    own,
                    aliases: vec![domain("old.local")],
                },
                TokenIssuers::new(issuers),
                Some(JoinTokens::open(&folder.path().join("ca")).expect("a folder")),
            ),
            key,
            now,
            folder,
        }
    }

    fn chain(&self, name: &str, lifetime: Duration) -> Credentials {
        let key = KeyPair::generate(KeyKind::P256).expect("made");
        let csr = Csr::from_pem(key.request(None).expect("made").as_bytes()).expect("good");
        let subject = Subject::from(id(name));
        let issued = self.issuer.issue(&csr, &subject, lifetime, self.now);
        Credentials {
            chain: issued.expect("issued").chain,
            bearer: None,
        }
    }

    fn token(&self, payload: &Value) -> Credentials {
        let header = json!({"alg": "ES256", "kid": "k"});
        let part = |value: &Value| BASE64.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(payload));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes());
        let signature = BASE64.encode(signature.expect("signed").as_ref());
        bearer(&format!("{signed}.{signature}"))
    }

    /// Claims of a good token of Kubernetes.
    fn claims(&self) -> Value {
        let now = self
            .now
            .duration_since(UNIX_EPOCH)
            .expect("after 1970")
            .as_secs();
        json!({
            "iss": ISSUER, "aud": ["istio-ca"], "exp": now + 600, "nbf": now, "iat": now,
            "sub": "system:serviceaccount:shop:cart",
            "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "cart", "uid": "1"}},
        })
    }

    fn ask(&self, credentials: &Credentials) -> Result<Caller, Refusal> {
        self.at(credentials, self.now)
    }

    fn at(&self, credentials: &Credentials, now: SystemTime) -> Result<Caller, Refusal> {
        self.authenticator
            .authenticate(credentials, &self.state, now)
    }

    fn reason(&self, credentials: &Credentials) -> &'static str {
        let refusal = self.ask(credentials).expect_err("refused");
        assert!(Refusal::REASONS.contains(&refusal.reason()));
        refusal.reason()
    }
}

fn bearer(token: &str) -> Credentials {
    Credentials {
        chain: Vec::new(),
        bearer: Some(token.to_owned()),
    }
}

const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

#[test]
fn a_certificate_of_the_mesh_is_believed_while_it_lasts() {
    let mesh = Mesh::new();
    let shown = mesh.chain(CART, HOUR);
    let caller = mesh.ask(&shown).expect("believed");
    assert_eq!(caller.id, id(CART));
    let late = mesh.at(&shown, mesh.now + 2 * HOUR).expect_err("expired");
    assert_eq!(late.reason(), "certificate_invalid");
    assert!(late.to_string().contains("Expired"), "{late}");
    let of_alias = mesh.chain("spiffe://old.local/ns/shop/sa/cart", HOUR);
    let caller = mesh.ask(&of_alias).expect("an alias of the trust domain");
    assert_eq!(caller.id, id(CART), "it gets today's name");
    assert_eq!(mesh.reason(&Credentials::default()), "no_credentials");
}

#[test]
fn certificates_of_strangers_and_revoked_ones_are_refused() {
    let mut mesh = Mesh::new();
    let stranger = Mesh::new().chain(CART, HOUR);
    let refusal = mesh.ask(&stranger).expect_err("another root");
    assert!(matches!(refusal, Refusal::Certificate(_)), "{refusal}");
    for name in [
        "spiffe://elsewhere/ns/shop/sa/cart",
        "spiffe://cluster.local/cart",
    ] {
        assert_eq!(
            mesh.reason(&mesh.chain(name, HOUR)),
            "certificate_name",
            "{name}"
        );
    }
    let root = Credentials {
        chain: mesh.state.bundle.certificates().to_vec(),
        bearer: None,
    };
    assert!(mesh.ask(&root).is_err(), "a root is no workload");
    let stolen = mesh.chain(CART, HOUR);
    let other = mesh.chain(CART, HOUR);
    assert!(mesh.ask(&stolen).is_ok());
    let (_, read) = x509_parser::parse_x509_certificate(&stolen.chain[0]).expect("readable");
    let serial = read.raw_serial_as_string();
    mesh.state.revoked = Arc::new(Revoked::parse(&serial).expect("a serial number"));
    assert_eq!(mesh.reason(&stolen), "certificate_revoked");
    assert!(mesh.ask(&other).is_ok());
}

#[test]
fn a_certificate_that_is_damaged_anywhere_proves_nobody() {
    let mesh = Mesh::new();
    let shown = mesh.chain(CART, HOUR);
    for again in [false, true] {
        // Also when the right one is remembered as confirmed.
        if again {
            assert!(mesh.ask(&shown).is_ok());
        }
        for at in 0..shown.chain[0].len() {
            for change in [1_u8, 0x80] {
                let mut bytes = shown.chain[0].to_vec();
                bytes[at] ^= change;
                let damaged = Credentials {
                    chain: vec![bytes.into()],
                    bearer: None,
                };
                let refusal = mesh.ask(&damaged).expect_err("damaged");
                assert!(
                    matches!(refusal, Refusal::Certificate(_)),
                    "{at}: {refusal}"
                );
            }
        }
        for length in 0..shown.chain[0].len() {
            let cut = shown.chain[0][..length].to_vec();
            let cut = Credentials {
                chain: vec![cut.into()],
                bearer: None,
            };
            assert!(mesh.ask(&cut).is_err(), "{length}");
        }
    }
}

#[test]
fn tokens_of_kubernetes_name_their_service_account() {
    let mesh = Mesh::new();
    let caller = mesh.ask(&mesh.token(&mesh.claims())).expect("believed");
    assert_eq!((caller.id, caller.method), (id(CART), Method::Token));
    let change = |name: &str, value: Value| {
        let mut claims = mesh.claims();
        claims[name] = value;
        mesh.reason(&mesh.token(&claims))
    };
    assert_eq!(change("iss", json!("https://elsewhere")), "token_issuer");
    assert_eq!(change("aud", json!("vault")), "token_audience");
    assert_eq!(change("exp", json!(1000)), "token_time");
    assert_eq!(change("exp", Value::Null), "token_form");
    assert_eq!(change("nbf", json!(4_000_000_000_u64)), "token_time");
    for subject in [
        "cart",
        "system:node:a",
        "system:serviceaccount:shop",
        "system:serviceaccount:a:b/c",
    ] {
        assert_eq!(change("sub", json!(subject)), "token_subject", "{subject}");
    }
    let lies = json!({"namespace": "bank", "serviceaccount": {"name": "cart"}});
    assert_eq!(change("kubernetes.io", lies), "token_subject");
    let mut endless = mesh.claims();
    endless.as_object_mut().expect("an object").remove("exp");
    assert_eq!(mesh.reason(&mesh.token(&endless)), "token_time");
    let forged = Mesh::new().token(&mesh.claims());
    assert_eq!(mesh.reason(&forged), "token_signature");
    let unsigned = format!(
        "{}.{}.AA",
        BASE64.encode(r#"{"alg":"none"}"#),
        BASE64.encode(mesh.claims().to_string())
    );
    assert_eq!(mesh.reason(&bearer(&unsigned)), "token_form");
    assert_eq!(mesh.reason(&bearer(&"a".repeat(20_000))), "token_form");
}

#[test]
fn other_issuers_name_workloads_by_spiffe_id() {
    let mesh = Mesh::new();
    let mut claims = mesh.claims();
    claims
        .as_object_mut()
        .expect("an object")
        .remove("kubernetes.io");
    claims["sub"] = json!(CART);
    assert_eq!(
        mesh.ask(&mesh.token(&claims)).expect("believed").id,
        id(CART)
    );
    claims["sub"] = json!("spiffe://elsewhere/ns/shop/sa/cart");
    assert_eq!(mesh.reason(&mesh.token(&claims)), "token_subject");
}

#[test]
fn a_join_token_is_good_once_and_lies_nowhere_in_the_clear() {
    let mesh = Mesh::new();
    let joins = mesh.authenticator.joins.as_ref().expect("there");
    let token = joins.create("shop", "cart", HOUR, mesh.now).expect("made");
    let shown = bearer(&token);
    let caller = mesh.ask(&shown).expect("believed");
    assert_eq!(caller.id, id(CART));
    let again = mesh.ask(&shown).expect("nothing was issued yet");
    mesh.authenticator.spend(&caller).expect("the first one");
    assert_eq!(mesh.authenticator.spend(&again), Err(Refusal::JoinReplayed));
    assert_eq!(mesh.reason(&shown), "join_token_replayed");
    assert_eq!(mesh.reason(&bearer("weft-join-x")), "join_token_unknown");
    let late = joins.create("shop", "cart", HOUR, mesh.now).expect("made");
    let refusal = mesh
        .at(&bearer(&late), mesh.now + HOUR)
        .expect_err("expired");
    assert_eq!(refusal, Refusal::JoinExpired);
    let mut folders = vec![mesh.folder.path().to_path_buf()];
    let mut seen = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).expect("readable").flatten() {
            if entry.path().is_dir() {
                folders.push(entry.path());
                continue;
            }
            let text = std::fs::read_to_string(entry.path()).expect("text");
            let name = entry.file_name().to_string_lossy().into_owned();
            for secret in [&token, &late] {
                let secret = secret.trim_start_matches("weft-join-");
                assert!(!text.contains(secret) && !name.contains(secret));
            }
            seen += 1;
        }
    }
    assert_eq!(seen, 2);
    joins.prune(mesh.now + HOUR).expect("pruned");
    assert_eq!(
        mesh.reason(&shown),
        "join_token_unknown",
        "forgotten with its time"
    );
    for (namespace, account, lifetime) in [
        ("a/b", "c", HOUR),
        ("a", "", HOUR),
        ("a", "b", 1000 * HOUR),
        ("a", "b", Duration::ZERO),
    ] {
        let refused = joins.create(namespace, account, lifetime, mesh.now);
        assert!(refused.is_err(), "{namespace}/{account} {lifetime:?}");
    }
}

#[test]
fn of_many_who_use_a_join_token_at_once_one_succeeds() {
    let mesh = Mesh::new();
    let joins = mesh.authenticator.joins.as_ref().expect("there");
    let token = joins.create("shop", "cart", HOUR, mesh.now).expect("made");
    let caller = mesh.ask(&bearer(&token)).expect("believed");
    let won = std::thread::scope(|scope| {
        let tries: Vec<_> = (0..8)
            .map(|_| scope.spawn(|| mesh.authenticator.spend(&caller).is_ok()))
            .collect();
        tries
            .into_iter()
            .map(|t| t.join().expect("no panic"))
            .filter(|won| *won)
            .count()
    });
    assert_eq!(won, 1);
}

#[test]
fn credentials_never_show_themselves() {
    let shown = format!("{:?}", bearer("weft-join-secret"));
    assert!(!shown.contains("secret"), "{shown}");
}
