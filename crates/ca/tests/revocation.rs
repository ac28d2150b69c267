//! Lists of revoked certificates that an operator or a signer gives.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DnType, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use weft_ca::authn::{TokenIssuers, TrustDomains};
use weft_ca::authority::State;
use weft_ca::signer::Signed;
use weft_ca::{
    Authenticator, Credentials, ExternalSigner, KeyKind, OwnFolder, PluggedFolder, Refusal,
    RootsFolder, SigningRequest, TrustDomain,
};

const HOUR: Duration = Duration::from_hours(1);

fn now() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.expect("after 1970").as_secs())
}

fn date(time: SystemTime) -> OffsetDateTime {
    time.into()
}

/// An authority, whose certificates have the serial numbers that a test wants.
struct Authority {
    issuer: Issuer<'static, rcgen::KeyPair>,
    certificate: rcgen::Certificate,
    key: String,
}

fn params(name: &str) -> (CertificateParams, rcgen::KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = date(now() - HOUR);
    params.not_after = date(now() + 1000 * HOUR);
    (params, rcgen::KeyPair::generate().expect("made"))
}

impl Authority {
    fn root(name: &str) -> Self {
        let (params, key) = params(name);
        let certificate = params.self_signed(&key).expect("signed");
        Self::with(params, key, certificate)
    }

    fn below(&self, name: &str, serial: u64) -> Self {
        let (mut params, key) = params(name);
        params.serial_number = Some(SerialNumber::from(serial));
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        Self::with(params, key, certificate)
    }

    fn with(
        params: CertificateParams,
        key: rcgen::KeyPair,
        certificate: rcgen::Certificate,
    ) -> Self {
        let text = key.serialize_pem();
        Self {
            issuer: Issuer::new(params, key),
            certificate,
            key: text,
        }
    }

    fn leaf(&self, serial: u64) -> CertificateDer<'static> {
        let (mut params, key) = params("");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.serial_number = Some(SerialNumber::from(serial));
        let id = "spiffe://cluster.local/ns/shop/sa/cart";
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("ASCII"))];
        let leaf = params.signed_by(&key, &self.issuer).expect("signed");
        leaf.der().clone()
    }

    /// A list of a week from `from` on.
    fn list(&self, serials: &[u64], from: SystemTime) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date(from),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date(from),
            next_update: date(from + 7 * 24 * HOUR),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let list = params.signed_by(&self.issuer).expect("signed");
        list.pem().expect("written")
    }
}

struct Nobody;

impl ExternalSigner for Nobody {
    fn sign(&self, _request: SigningRequest) -> Signed {
        Box::pin(async { Ok(Vec::new()) })
    }
}

fn ask(state: &State, chain: &[&CertificateDer<'static>]) -> Result<(), Refusal> {
    let domains = TrustDomains {
        own: TrustDomain::parse("cluster.local").expect("valid"),
        aliases: Vec::new(),
    };
    let authenticator = Authenticator::new(domains, TokenIssuers::new(Vec::new()), None);
    let credentials = Credentials {
        chain: chain.iter().map(|one| (*one).clone()).collect(),
        bearer: None,
    };
    let caller = authenticator.authenticate(&credentials, state, now());
    caller.map(|_| ())
}

fn revoked(state: &State, chain: &[&CertificateDer<'static>]) -> bool {
    match ask(state, chain) {
        Ok(()) => false,
        Err(Refusal::Revoked(_)) => true,
        Err(other) => panic!("{other}"),
    }
}

fn write(at: &Path, name: &str, text: &str) {
    std::fs::write(at.join(name), text).expect("mine");
}

#[test]
fn whom_a_signers_list_names_is_not_believed() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let (one, two) = (Authority::root("one"), Authority::root("two"));
    let below = one.below("below", 9);
    write(
        at,
        "root-cert.pem",
        &[one.certificate.pem(), two.certificate.pem()].concat(),
    );
    let (mut roots, first) = RootsFolder::open(at, Arc::new(Nobody), now()).expect("usable");
    let (stolen, good, of_two) = (one.leaf(5), one.leaf(6), two.leaf(5));
    let of_below = below.leaf(5);
    let between = below.certificate.der();
    for chain in [&[&stolen][..], &[&good], &[&of_two], &[&of_below, between]] {
        assert!(!revoked(&first, chain));
    }
    write(at, "ca-crl.pem", &one.list(&[5], now()));
    let state = roots.poll(now()).expect("good").expect("changed");
    assert!(revoked(&state, &[&stolen]));
    assert!(!revoked(&state, &[&good]));
    assert!(!revoked(&state, &[&of_two]), "of another issuer");
    assert!(!revoked(&state, &[&of_below, between]), "of another issuer");
    assert_eq!(state.revoked.len(), 1);
    // An authority of the chain.
    write(at, "ca-crl.pem", &one.list(&[9], now()));
    let state = roots.poll(now()).expect("good").expect("changed");
    assert!(revoked(&state, &[&of_below, between]));
    assert!(!revoked(&state, &[&stolen]));
    // What the other file names holds for any issuer.
    write(at, "revoked.txt", "05\n");
    let state = roots.poll(now()).expect("good").expect("changed");
    assert!(revoked(&state, &[&stolen]) && revoked(&state, &[&of_two]));
    assert!(!revoked(&state, &[&good]));
}

#[test]
fn a_signers_list_must_be_current_and_of_an_authority_that_is_known() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let (root, namesake) = (Authority::root("root"), Authority::root("root"));
    let below = root.below("below", 9);
    let lower = below.below("lower", 10);
    write(at, "root-cert.pem", &root.certificate.pem());
    write(at, "ca-crl.pem", &root.list(&[5], now()));
    let (mut roots, first) = RootsFolder::open(at, Arc::new(Nobody), now()).expect("usable");
    let stolen = root.leaf(5);
    assert!(revoked(&first, &[&stolen]));
    let week = 7 * 24 * HOUR;
    let delta = "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n";
    let refused = [
        (root.list(&[], now() - week), "its time is over"),
        (root.list(&[], now() + HOUR), "its time has not come"),
        (namesake.list(&[], now()), "not signed by the authority"),
        (below.list(&[], now()), "no root of root-cert.pem"),
        (
            root.list(&[], now()) + &namesake.list(&[], now()),
            "list 2: ",
        ),
        (delta.to_owned(), "list 1 cannot be read"),
        ("nothing".to_owned(), "1 to 64"),
    ];
    for (text, why) in refused {
        write(at, "ca-crl.pem", &text);
        let error = roots.poll(now()).err().expect(why).to_string();
        assert!(error.contains("ca-crl.pem: "), "{error}");
        assert!(error.contains(why), "{error}");
        assert!(roots.poll(now()).expect("told once").is_none());
        let again = roots.poll(now() + Duration::from_mins(1));
        if why == "its time has not come" {
            assert!(again.is_err());
        }
    }
    // Authorities between, in any order.
    let both = [lower.certificate.pem(), below.certificate.pem()].concat();
    write(at, "cert-chain.pem", &both);
    write(at, "ca-crl.pem", &lower.list(&[5], now()));
    let state = roots.poll(now()).expect("good").expect("changed");
    let leaf = lower.leaf(5);
    let chain = [&leaf, lower.certificate.der(), below.certificate.der()];
    assert!(revoked(&state, &chain) && !revoked(&state, &[&stolen]));
    // What no root confirms confirms nothing.
    let stranger = Authority::root("stranger").below("below", 9);
    let both = [stranger.certificate.pem(), lower.certificate.pem()].concat();
    write(at, "cert-chain.pem", &both);
    assert!(roots.poll(now()).is_err());
    // A list that ends while it is in force is told, and goes on to hold.
    write(at, "ca-crl.pem", &root.list(&[5], now()));
    roots.poll(now()).expect("good").expect("changed");
    assert!(
        (roots.poll(now() + week - HOUR))
            .expect("still good")
            .is_none()
    );
    let error = roots.poll(now() + week).err().expect("over").to_string();
    assert!(error.contains("its time is over"), "{error}");
    assert!(
        RootsFolder::open(at, Arc::new(Nobody), now() + week).is_err(),
        "it does not start with it"
    );
}

#[test]
fn lists_beside_an_intermediate_hold_for_its_siblings() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let root = Authority::root("root");
    let (own, sibling) = (root.below("own", 2), root.below("sibling", 3));
    write(at, "root-cert.pem", &root.certificate.pem());
    write(at, "ca-cert.pem", &own.certificate.pem());
    write(at, "ca-key.pem", &own.key);
    let lists = [
        root.list(&[], now()),
        own.list(&[6], now()),
        sibling.list(&[5], now()),
    ];
    write(at, "ca-crl.pem", &lists.concat());
    let (_, state) = PluggedFolder::open(at, now()).expect("usable");
    let chain = |authority: &Authority, serial| {
        let leaf = authority.leaf(serial);
        revoked(&state, &[&leaf, authority.certificate.der()])
    };
    assert!(chain(&sibling, 5) && !chain(&sibling, 6));
    assert!(chain(&own, 6) && !chain(&own, 5));
    let lists = state.lists.pem.matches("BEGIN X509 CRL").count();
    assert_eq!(lists, 3, "its own in place of what was given");
}

#[test]
fn an_own_folder_is_opened_beside_who_changes_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let options = weft_ca::own::OwnOptions {
        trust_domain: TrustDomain::parse("cluster.local").expect("valid"),
        key: KeyKind::P256,
        root_lifetime: 1000 * HOUR,
        spread: HOUR,
        longest: HOUR,
    };
    let path = folder.path().join("ca");
    let (mut one, first) = OwnFolder::open(&path, options.clone(), now()).expect("made");
    // Neither holds the lock between its looks.
    let (mut two, second) = OwnFolder::open(&path, options, now()).expect("read");
    assert_eq!(first.bundle, second.bundle);
    one.rotate(now()).expect("begun");
    let state = two.poll(now()).expect("readable").expect("changed");
    assert_eq!(state.bundle.certificates().len(), 2);
}
