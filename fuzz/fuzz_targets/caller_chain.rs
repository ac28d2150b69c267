//! Any bytes as the chain of certificates that a caller shows, cut into certificates by lengths of two bytes: as they are, and
//! with changes to a good certificate. Nobody is believed but who shows the good one as it is.

#![no_main]

use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use weft_ca::authn::{TokenIssuers, TrustDomains};
use weft_ca::authority::{RevocationLists, Signer, State};
use weft_ca::issuer::Subject;
use weft_ca::{
    Authenticator, Credentials, Csr, Issuer, KeyKind, KeyPair, SpiffeId, TrustBundle, TrustDomain,
};

struct Mesh {
    authenticator: Authenticator,
    state: State,
    good: Vec<u8>,
}

fn mesh() -> &'static Mesh {
    static MESH: OnceLock<Mesh> = OnceLock::new();
    MESH.get_or_init(|| {
        let now = SystemTime::now();
        let year = Duration::from_hours(24 * 365);
        let own = TrustDomain::parse("cluster.local").expect("a trust domain");
        let (key, root) = Issuer::new_root(&own, KeyKind::P256, year, now).expect("a root");
        let bundle = TrustBundle::new([root.clone()]).expect("a bundle");
        let issuer = Issuer::new(root, key, &[], &bundle, now).expect("an issuer");
        let request = KeyPair::generate(KeyKind::P256).and_then(|key| key.request(None));
        let request = Csr::from_pem(request.expect("a request").as_bytes()).expect("a request");
        let cart = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("an ID");
        let issued = issuer.issue(&request, &Subject::from(cart), year, now);
        Mesh {
            good: issued.expect("a certificate").chain[0].to_vec(),
            authenticator: Authenticator::new(
                TrustDomains { own, aliases: Vec::new() },
                TokenIssuers::new(Vec::new()),
                None,
            ),
            state: State {
                signer: Signer::Own(Arc::new(issuer)),
                bundle: Arc::new(bundle),
                revoked: Arc::default(),
                lists: RevocationLists::default(),
            },
        }
    })
}

fn is_believed(chain: Vec<Vec<u8>>) -> bool {
    let mesh = mesh();
    let shown = Credentials {
        chain: chain.into_iter().map(Into::into).collect(),
        bearer: None,
    };
    mesh.authenticator.authenticate(&shown, &mesh.state, SystemTime::now()).is_ok()
}

fuzz_target!(|bytes: &[u8]| {
    let mut chain = Vec::new();
    let mut rest = bytes;
    while let Some((length, after)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
        let (certificate, after) = after.split_at(length);
        chain.push(certificate.to_vec());
        rest = after;
    }
    let good = &mesh().good;
    let is_good = chain.first() == Some(good);
    assert!(is_good || !is_believed(chain));
    let mut changed = good.clone();
    for change in bytes.chunks_exact(3) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % changed.len();
        changed[at] ^= change[2];
    }
    let is_good = changed == *good;
    assert_eq!(is_believed(vec![changed]), is_good);
});
