//! What is issued, as OpenSSL and the proxies' own library see it.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use proptest::prelude::*;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use weft_ca::authority::{Signer, State};
use weft_ca::issuer::Subject;
use weft_ca::own::OwnOptions;
use weft_ca::signer::{ExternalSigner, Signed, SigningRequest};
use weft_ca::{
    Authority, CLOCK_SKEW, Csr, CsrError, Issuer, KeyKind, KeyPair, Lifetimes, OwnFolder,
    PluggedFolder, Revoked, SignError, SpiffeId, TrustBundle, TrustDomain,
};

const DAY: Duration = Duration::from_hours(24);

/// Certificates know no parts of a second.
fn now_in_seconds() -> SystemTime {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.expect("after 1970").as_secs())
}

fn domain() -> TrustDomain {
    TrustDomain::parse("cluster.local").expect("valid")
}

fn cart() -> SpiffeId {
    SpiffeId::workload(&domain(), "shop", "cart").expect("valid")
}

fn options(key: KeyKind) -> OwnOptions {
    OwnOptions {
        trust_domain: domain(),
        key,
        root_lifetime: 3650 * DAY,
        spread: DAY,
        longest: 90 * DAY,
    }
}

fn issuer(kind: KeyKind) -> (Issuer, TrustBundle) {
    let now = now_in_seconds();
    let (key, root) = Issuer::new_root(&domain(), kind, 3650 * DAY, now).expect("made");
    let bundle = TrustBundle::new([root.clone()]).expect("a root");
    let issuer = Issuer::new(root, key, &[], &bundle, now).expect("usable");
    (issuer, bundle)
}

fn request(kind: KeyKind) -> (KeyPair, Csr) {
    let key = KeyPair::generate(kind).expect("made");
    let csr = Csr::from_pem(key.request(None).expect("made").as_bytes()).expect("good");
    (key, csr)
}

/// Runs `openssl` in a folder and gives what it prints.
fn openssl(folder: &Path, arguments: &[&str]) -> String {
    let output = Command::new("openssl")
        .args(arguments)
        .current_dir(folder)
        .output()
        .expect("openssl is installed");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(output.status.success(), "openssl {arguments:?}: {text}");
    text
}

fn serial_of(folder: &Path, file: &str) -> String {
    let printed = openssl(folder, &["x509", "-in", file, "-noout", "-serial"]);
    printed.trim().to_owned()
}

#[test]
fn what_is_issued_is_an_x509_svid_to_openssl() {
    for (root, leaf) in [
        (KeyKind::P256, KeyKind::P256),
        (KeyKind::P384, KeyKind::P384),
        (KeyKind::Rsa2048, KeyKind::Rsa2048),
        (KeyKind::P256, KeyKind::Rsa2048),
    ] {
        let (issuer, bundle) = issuer(root);
        let (_, csr) = request(leaf);
        let now = now_in_seconds();
        let issued = issuer
            .issue(&csr, &cart().into(), DAY, now)
            .expect("issued");
        let folder = tempfile::tempdir().expect("a folder");
        let at = folder.path();
        std::fs::write(at.join("root.pem"), bundle.pem()).expect("written");
        std::fs::write(at.join("leaf.pem"), issued.pem().concat()).expect("written");
        let verify = ["verify", "-x509_strict", "-CAfile", "root.pem"];
        for purpose in ["sslclient", "sslserver"] {
            openssl(
                at,
                &[&verify[..], &["-purpose", purpose, "leaf.pem"]].concat(),
            );
        }
        let text = openssl(at, &["x509", "-in", "leaf.pem", "-noout", "-text"]);
        let after = |heading: &str| {
            let (_, rest) = text
                .split_once(heading)
                .unwrap_or_else(|| panic!("{heading}: {text}"));
            rest.lines().nth(1).unwrap_or_default().trim().to_owned()
        };
        assert_eq!(
            after("Alternative Name: critical"),
            format!("URI:{}", cart())
        );
        assert_eq!(after("Basic Constraints: critical"), "CA:FALSE");
        let usage = if leaf == KeyKind::Rsa2048 {
            "Digital Signature, Key Encipherment"
        } else {
            "Digital Signature"
        };
        assert_eq!(after("X509v3 Key Usage: critical"), usage);
        let purposes = after("X509v3 Extended Key Usage");
        assert_eq!(
            purposes,
            "TLS Web Server Authentication, TLS Web Client Authentication"
        );
        bundle.verify(&issued.chain, now).expect("trusted");
        assert_eq!(issued.not_before, now - CLOCK_SKEW);
        assert_eq!(issued.not_after, now + DAY);
    }
}

#[test]
fn names_in_a_request_are_not_believed() {
    let (issuer, _) = issuer(KeyKind::P256);
    let key = KeyPair::generate(KeyKind::P256).expect("made");
    let other = SpiffeId::workload(&domain(), "bank", "vault").expect("valid");
    let text = key.request(Some(&other)).expect("made");
    let csr = Csr::from_pem(text.as_bytes()).expect("good");
    let now = now_in_seconds();
    let issued = issuer
        .issue(&csr, &cart().into(), DAY, now)
        .expect("issued");
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("leaf.pem"), issued.pem().concat()).expect("written");
    let text = openssl(
        folder.path(),
        &["x509", "-in", "leaf.pem", "-noout", "-text"],
    );
    assert!(
        text.contains(&cart().to_string()) && !text.contains("bank"),
        "{text}"
    );
}

#[test]
fn requests_of_openssl_are_taken_and_weak_or_forged_ones_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let make = |algorithm: &[&str], digest: &str| {
        let key = [&["genpkey", "-out", "key.pem", "-algorithm"][..], algorithm].concat();
        openssl(at, &key);
        let subject = [
            "-subj",
            "/O=x/OU=a/OU=b",
            "-addext",
            "subjectAltName=URI:spiffe://a/b",
        ];
        let request = ["req", "-new", "-key", "key.pem", "-out", "csr.pem", digest];
        openssl(at, &[&request[..], &subject[..]].concat());
        std::fs::read(at.join("csr.pem")).expect("written")
    };
    let curve = |name: &'static str| ["EC", "-pkeyopt", name];
    let rsa = |bits: &'static str| ["RSA", "-pkeyopt", bits];
    for (algorithm, digest, verdict) in [
        (&curve("ec_paramgen_curve:P-256")[..], "-sha256", None),
        (&curve("ec_paramgen_curve:P-384")[..], "-sha384", None),
        (&rsa("rsa_keygen_bits:2048")[..], "-sha512", None),
        (
            &curve("ec_paramgen_curve:P-521")[..],
            "-sha512",
            Some(CsrError::Key),
        ),
        (
            &curve("ec_paramgen_curve:secp256k1")[..],
            "-sha256",
            Some(CsrError::Key),
        ),
        (
            &rsa("rsa_keygen_bits:1024")[..],
            "-sha256",
            Some(CsrError::Key),
        ),
        (&["ED25519"][..], "-sha256", Some(CsrError::Key)),
        (
            &rsa("rsa_keygen_bits:2048")[..],
            "-sha1",
            Some(CsrError::Algorithm),
        ),
    ] {
        let read = Csr::from_pem(&make(algorithm, digest));
        assert_eq!(read.err(), verdict, "{algorithm:?} {digest}");
    }
    let (_, good) = request(KeyKind::P256);
    let mut forged = good.der().to_vec();
    // The last byte is of the signature.
    *forged.last_mut().expect("not empty") ^= 1;
    assert_eq!(Csr::from_der(&forged).err(), Some(CsrError::Signature));
    let longer = [good.der(), b"x"].concat();
    assert_eq!(Csr::from_der(&longer).err(), Some(CsrError::Der));
    assert_eq!(Csr::from_pem(b"x").err(), Some(CsrError::Pem));
    assert_eq!(
        Csr::from_pem("x".repeat(20_000).as_bytes()).err(),
        Some(CsrError::Long)
    );
    let text = KeyPair::generate(KeyKind::P256).and_then(|key| key.request(None));
    let twice = text.expect("made").repeat(2);
    assert_eq!(Csr::from_pem(twice.as_bytes()).err(), Some(CsrError::Pem));
}

#[tokio::test]
async fn lifetimes_are_bounded() {
    let now = now_in_seconds();
    let (key, root) = Issuer::new_root(&domain(), KeyKind::P256, 3 * DAY, now).expect("made");
    let bundle = TrustBundle::new([root.clone()]).expect("a root");
    let issuer = Issuer::new(root, key, &[], &bundle, now).expect("usable");
    let lifetimes = Lifetimes {
        default: DAY,
        longest: 5 * DAY,
    };
    let expires = issuer.expires();
    let authority = Authority::new(state(Signer::Own(Arc::new(issuer)), bundle), lifetimes);
    let ask = async |asked, now| {
        let (_, csr) = request(KeyKind::P256);
        let issued = authority.issue(csr, cart().into(), asked, now).await;
        issued.map(|issued| issued.not_after)
    };
    assert_eq!(ask(None, now).await, Ok(now + DAY));
    assert_eq!(ask(Some(Duration::ZERO), now).await, Ok(now + DAY));
    assert_eq!(ask(Some(DAY / 24), now).await, Ok(now + DAY / 24));
    assert_eq!(
        ask(Some(4 * DAY), now).await,
        Ok(expires),
        "not longer than its issuer"
    );
    let too_long = ask(Some(6 * DAY), now).await.expect_err("too long");
    assert_eq!(too_long.kind(), "TTL_ERROR");
    let too_late = ask(None, now + 4 * DAY)
        .await
        .expect_err("the root has ended");
    assert_eq!(too_late.kind(), "CA_NOT_READY");
}

fn state(signer: Signer, bundle: TrustBundle) -> State {
    State {
        signer,
        bundle: Arc::new(bundle),
        revoked: Arc::default(),
        lists: weft_ca::authority::RevocationLists::default(),
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).expect("there").permissions().mode() & 0o777
}

fn own(state: &State) -> Arc<Issuer> {
    match &state.signer {
        Signer::Own(issuer) => Arc::clone(issuer),
        Signer::External(_) => panic!("it is our own"),
    }
}

#[test]
fn a_root_is_made_once_and_read_by_its_owner_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let now = now_in_seconds();
    let (_, first) = OwnFolder::open(&path, options(KeyKind::P256), now).expect("made");
    let (_, second) = OwnFolder::open(&path, options(KeyKind::Rsa2048), now).expect("read");
    assert_eq!(first.bundle, second.bundle);
    assert_eq!(mode(&path), 0o700);
    let mut keys = 0;
    for entry in std::fs::read_dir(&path).expect("readable") {
        let entry = entry.expect("readable").path();
        let text = std::fs::read_to_string(&entry).expect("text");
        if text.contains("PRIVATE KEY") {
            assert_eq!(mode(&entry), 0o600, "{}", entry.display());
            keys += 1;
        }
    }
    assert_eq!(keys, 1);
    let key = std::fs::read_dir(&path).expect("readable").flatten();
    let key = key
        .map(|entry| entry.path())
        .find(|p| p.to_string_lossy().ends_with("-key.pem"));
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(key.expect("there"), open).expect("mine");
    let refused = OwnFolder::open(&path, options(KeyKind::P256), now).err();
    let refused = refused.expect("everybody reads the key").to_string();
    assert!(refused.contains("chmod 600"), "{refused}");
    let bundle = std::fs::read(path.join("root-cert.pem")).expect("written");
    assert_eq!(bundle, **first.bundle.pem());
}

#[test]
fn a_damaged_folder_is_refused_and_never_given_a_new_root() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let now = now_in_seconds();
    let (mut own, _) = OwnFolder::open(&path, options(KeyKind::P256), now).expect("made");
    let roots = path.join("roots.json");
    let good = std::fs::read(&roots).expect("there");
    std::fs::write(&roots, "{").expect("mine");
    assert!(own.poll(now).is_err());
    assert!(OwnFolder::open(&path, options(KeyKind::P256), now).is_err());
    std::fs::write(&roots, good).expect("mine");
    assert!(own.poll(now).expect("mended").is_none());
}

#[test]
fn while_the_root_rotates_certificates_of_both_are_trusted() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let start = now_in_seconds();
    let (mut own_folder, first) =
        OwnFolder::open(&path, options(KeyKind::P256), start).expect("made");
    let (_, csr) = request(KeyKind::P256);
    let issue = |state: &State, now| {
        let subject = Subject::from(cart());
        own(state)
            .issue(&csr, &subject, 90 * DAY, now)
            .expect("issued")
            .chain
    };
    let of_first = issue(&first, start);
    own_folder.rotate(start).expect("begins");
    assert!(own_folder.rotate(start).is_err(), "one at a time");
    let both = own_folder.poll(start).expect("readable").expect("changed");
    assert_eq!(both.bundle.certificates().len(), 2);
    assert_eq!(
        own(&both).certificate(),
        own(&first).certificate(),
        "the first one signs"
    );
    assert!(
        own_folder
            .poll(start + DAY / 2)
            .expect("readable")
            .is_none()
    );
    let now = start + DAY;
    let second = own_folder.poll(now).expect("readable").expect("changed");
    assert_ne!(own(&second).certificate(), own(&first).certificate());
    let of_second = issue(&second, now);
    // Who knows both trusts both, whoever signed.
    for bundle in [&both.bundle, &second.bundle] {
        bundle.verify(&of_first, now).expect("trusted");
        bundle.verify(&of_second, now).expect("trusted");
    }
    let wrong = first.bundle.verify(&of_second, now);
    assert!(
        wrong.is_err(),
        "the first bundle does not know the second root"
    );
    let end = now + 91 * DAY;
    let last = own_folder.poll(end).expect("readable").expect("changed");
    assert_eq!(last.bundle.certificates().len(), 1);
    assert!(last.bundle.verify(&of_first, now).is_err());
    let keys = std::fs::read_dir(&path).expect("readable").flatten();
    let keys = keys.filter(|entry| entry.file_name().to_string_lossy().ends_with("-key.pem"));
    assert_eq!(keys.count(), 1, "the former root's key is gone");
    let (_, again) = OwnFolder::open(&path, options(KeyKind::P256), end).expect("readable");
    assert_eq!(again.bundle, last.bundle);
}

#[test]
fn a_file_asks_for_the_next_root_and_waits_while_a_rotation_is_under_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let asked = path.join("rotate");
    assert!(OwnFolder::ask_rotation(&path).is_err(), "there is no root");
    let start = now_in_seconds();
    let (mut own, _) = OwnFolder::open(&path, options(KeyKind::P256), start).expect("made");
    assert!(own.poll(start).expect("readable").is_none());
    OwnFolder::ask_rotation(&path).expect("written");
    let both = own.poll(start).expect("readable").expect("changed");
    assert_eq!(both.bundle.certificates().len(), 2);
    assert!(!asked.exists(), "it is done");
    let error = OwnFolder::ask_rotation(&path).expect_err("under way");
    assert!(error.to_string().contains("under way"), "{error}");
    std::fs::write(&asked, "").expect("mine");
    assert!(own.poll(start + DAY / 2).expect("readable").is_none());
    assert!(asked.exists(), "it waits");
    let second = own.poll(start + DAY).expect("readable").expect("changed");
    assert_eq!(second.bundle.certificates().len(), 2);
    let third = own.poll(start + DAY).expect("readable").expect("changed");
    assert_eq!(third.bundle.certificates().len(), 3);
    assert!(!asked.exists());
}

#[test]
fn a_next_root_that_could_not_be_told_waits_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let start = now_in_seconds();
    let (mut own_folder, first) =
        OwnFolder::open(&path, options(KeyKind::P256), start).expect("made");
    let signs = |state: &State| own(state).certificate().clone();
    std::fs::write(path.join("revoked.txt"), "no number\n").expect("mine");
    OwnFolder::ask_rotation(&path).expect("written");
    for hours in [0, 25, 50] {
        assert!(own_folder.poll(start + hours * DAY / 24).is_err());
    }
    std::fs::write(path.join("revoked.txt"), "").expect("mine");
    let mended = start + 51 * DAY / 24;
    let both = own_folder.poll(mended).expect("readable").expect("changed");
    assert_eq!(both.bundle.certificates().len(), 2);
    assert_eq!(
        signs(&both),
        signs(&first),
        "nobody has heard of the next one"
    );
    let later = own_folder
        .poll(mended + DAY)
        .expect("readable")
        .expect("changed");
    assert_ne!(signs(&later), signs(&first));
}

#[test]
fn lists_of_a_clock_that_was_ahead_are_made_anew() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let start = now_in_seconds();
    let ahead = start + 3 * DAY;
    OwnFolder::open(&path, options(KeyKind::P256), start).expect("made");
    std::fs::write(path.join("revoked.txt"), "0a\n").expect("mine");
    let (mut own_folder, _) = OwnFolder::open(&path, options(KeyKind::P256), ahead).expect("there");
    assert!(own_folder.poll(ahead).expect("readable").is_none());
    let anew = own_folder
        .poll(start)
        .expect("readable")
        .expect("the clock was set back");
    assert!(!anew.lists.pem.is_empty());
    assert!(own_folder.poll(start).expect("readable").is_none());
}

/// A root that lasts shorter than it is trusted, and a serial number to be listed.
#[test]
fn a_former_root_that_has_ended_stops_no_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let start = now_in_seconds();
    let short = OwnOptions {
        root_lifetime: 10 * DAY,
        ..options(KeyKind::P256)
    };
    let (mut own_folder, _) = OwnFolder::open(&path, short.clone(), start).expect("made");
    std::fs::write(path.join("revoked.txt"), "0a\n").expect("mine");
    own_folder.poll(start + 8 * DAY).expect("the next root");
    own_folder.poll(start + 9 * DAY).expect("it signs");
    let ended = start + 11 * DAY;
    let (_, state) = OwnFolder::open(&path, short, ended).expect("the former root has ended");
    assert_eq!(state.bundle.certificates().len(), 2);
    let lists = state.lists.pem.matches("BEGIN X509 CRL").count();
    assert_eq!(lists, 1, "of the root that signs");
}

#[test]
fn halves_of_processes_that_ended_are_removed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let start = now_in_seconds();
    let open = |now| drop(OwnFolder::open(&path, options(KeyKind::P256), now).expect("readable"));
    open(start);
    let left = path.join("roots.json.00ab54a98ceb1f0a.new");
    let earlier = path.join("roots.json.4000000000.new");
    let others = path.join("mine.new");
    for file in [&left, &earlier, &others] {
        std::fs::write(file, "half").expect("mine");
    }
    open(start);
    assert!(left.exists(), "it may be about to be renamed");
    open(start + DAY / 24);
    assert!(!left.exists() && !earlier.exists() && others.exists());
}

/// Makes a root and an intermediate with OpenSSL, as an operator would.
fn plug(at: &Path, name: &str) {
    let root = [
        "req",
        "-x509",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-days",
        "30",
        "-keyout",
        "root-key.pem",
        "-out",
        "root-cert.pem",
        "-addext",
        "keyUsage=critical,keyCertSign,cRLSign",
        "-subj",
    ];
    openssl(
        at,
        &[&root[..], &[&format!("/O=Istio/CN=Root CA {name}")]].concat(),
    );
    let request = [
        "req",
        "-newkey",
        "rsa:2048",
        "-nodes",
        "-keyout",
        "ca-key.pem",
        "-out",
        "ca.csr",
        "-subj",
    ];
    openssl(
        at,
        &[
            &request[..],
            &[&format!("/O=Istio/CN=Intermediate CA {name}/L=cluster1")],
        ]
        .concat(),
    );
    let extensions = "basicConstraints=critical,CA:TRUE,pathlen:0\nkeyUsage=critical,digitalSignature,keyCertSign,cRLSign\nsubjectKeyIdentifier=hash\n";
    std::fs::write(at.join("ext"), extensions).expect("written");
    openssl(
        at,
        &[
            "x509",
            "-req",
            "-in",
            "ca.csr",
            "-CA",
            "root-cert.pem",
            "-CAkey",
            "root-key.pem",
            "-CAcreateserial",
            "-days",
            "20",
            "-extfile",
            "ext",
            "-out",
            "ca-cert.pem",
        ],
    );
    let read = |name: &str| std::fs::read_to_string(at.join(name)).expect("made");
    let chain = read("ca-cert.pem") + &read("root-cert.pem");
    std::fs::write(at.join("cert-chain.pem"), chain).expect("written");
}

#[test]
fn a_plugged_intermediate_is_read_again_and_a_broken_change_keeps_the_last_good_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    assert!(
        PluggedFolder::open(at, now_in_seconds()).is_err(),
        "nothing is there"
    );
    plug(at, "one");
    let now = now_in_seconds();
    let (mut plugged, first) = PluggedFolder::open(at, now).expect("usable");
    let (_, csr) = request(KeyKind::P256);
    let issued = own(&first)
        .issue(&csr, &cart().into(), 90 * DAY, now)
        .expect("issued");
    assert_eq!(
        issued.chain.len(),
        2,
        "the intermediate is sent, the root is not"
    );
    assert!(
        issued.not_after <= now + 20 * DAY,
        "not longer than the intermediate"
    );
    std::fs::write(at.join("leaf.pem"), &issued.pem()[0]).expect("written");
    std::fs::write(at.join("sent.pem"), &issued.pem()[1]).expect("written");
    let verify = [
        "verify",
        "-CAfile",
        "root-cert.pem",
        "-untrusted",
        "sent.pem",
        "leaf.pem",
    ];
    openssl(at, &verify);
    assert!(plugged.poll(now).expect("unchanged").is_none());
    let key = std::fs::read(at.join("ca-key.pem")).expect("there");
    let other = KeyPair::generate(KeyKind::P256).expect("made").to_pem();
    for (broken, why) in [
        (other.expose(), "not the certificate's"),
        (&key[..key.len() / 2], "no unencrypted private key"),
        (&b""[..], "no unencrypted private key"),
    ] {
        std::fs::write(at.join("ca-key.pem"), broken).expect("mine");
        let error = plugged.poll(now).err().expect("broken").to_string();
        assert!(error.contains(why), "{error}");
        assert!(plugged.poll(now).expect("told once").is_none());
    }
    let root = std::fs::read(at.join("root-cert.pem")).expect("there");
    plug(at, "two");
    let now = now_in_seconds();
    let new_root = std::fs::read(at.join("root-cert.pem")).expect("there");
    std::fs::write(at.join("root-cert.pem"), &root).expect("mine");
    let error = plugged.poll(now).err().expect("another root").to_string();
    assert!(error.contains("not trusted by the roots"), "{error}");
    std::fs::write(at.join("root-cert.pem"), [new_root, root].concat()).expect("mine");
    let second = plugged.poll(now).expect("good").expect("changed");
    second
        .bundle
        .verify(&issued.chain, now)
        .expect("the old root is trusted still");
    assert_ne!(own(&second).certificate(), own(&first).certificate());
}

#[test]
fn an_intermediate_that_begins_later_is_taken_then() {
    let folder = tempfile::tempdir().expect("a folder");
    plug(folder.path(), "one");
    let now = now_in_seconds();
    let (mut plugged, _) = PluggedFolder::open(folder.path(), now).expect("usable");
    plug(folder.path(), "two");
    // As if the clock of who made it were ahead.
    let before = now - DAY;
    let error = plugged.poll(before).err().expect("too early").to_string();
    assert!(error.contains("not trusted by the roots"), "{error}");
    let soon = before + Duration::from_secs(1);
    assert!(plugged.poll(soon).expect("told once").is_none());
    let taken = plugged.poll(now_in_seconds()).expect("it has begun");
    assert!(taken.is_some(), "the files are those that were refused");
    assert!(plugged.poll(now_in_seconds()).expect("good").is_none());
}

#[test]
fn revoked_certificates_are_on_a_list_that_openssl_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("ca");
    let now = now_in_seconds();
    let (mut own_folder, state) =
        OwnFolder::open(&path, options(KeyKind::P256), now).expect("made");
    assert!(state.lists.pem.is_empty());
    let at = folder.path();
    for name in ["good.pem", "lost.pem"] {
        let (_, csr) = request(KeyKind::P256);
        let issued = own(&state)
            .issue(&csr, &cart().into(), DAY, now)
            .expect("issued");
        std::fs::write(at.join(name), issued.pem().concat()).expect("written");
    }
    let lost = serial_of(at, "lost.pem");
    std::fs::write(
        path.join("revoked.txt"),
        format!("{lost} # a stolen laptop\n"),
    )
    .expect("mine");
    let state = own_folder.poll(now).expect("readable").expect("changed");
    assert_eq!(state.revoked.len(), 1);
    std::fs::write(at.join("crl.pem"), &*state.lists.pem).expect("written");
    std::fs::write(at.join("root.pem"), state.bundle.pem()).expect("written");
    let check = [
        "verify",
        "-crl_check",
        "-CAfile",
        "root.pem",
        "-CRLfile",
        "crl.pem",
    ];
    openssl(at, &[&check[..], &["good.pem"]].concat());
    let output = Command::new("openssl")
        .args(check)
        .arg("lost.pem")
        .current_dir(at)
        .output();
    let output = output.expect("openssl is installed");
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(
        !output.status.success() && text.contains("revoked"),
        "{text}"
    );
    let file = std::fs::read_to_string(path.join("ca-crl.pem")).expect("written");
    assert_eq!(file, *state.lists.pem);
    assert!(own_folder.poll(now + 3 * DAY).expect("readable").is_none());
    let later = own_folder.poll(now + 4 * DAY).expect("readable");
    let later = later.expect("lists that end after a week are made anew");
    assert_ne!(later.lists, state.lists);
    std::fs::write(path.join("revoked.txt"), "what?\n").expect("mine");
    let error = own_folder.poll(now).err().expect("broken").to_string();
    assert!(error.contains("revoked.txt: line 1"), "{error}");
    assert_eq!(Revoked::parse(&lost).expect("valid"), *state.revoked);
}

#[test]
fn lists_of_an_operator_hold_for_the_whole_chain() {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    plug(at, "one");
    let now = now_in_seconds();
    let read = |name: &str| std::fs::read(at.join(name)).expect("there");
    let issuer = |certificate: &str, key: &str| {
        let own = CertificateDer::from_pem_slice(&read(certificate)).expect("PEM");
        let key = KeyPair::from_pem(&read(key)).expect("a key");
        let bundle = TrustBundle::from_pem(&read("root-cert.pem")).expect("roots");
        Issuer::new(own, key, &[], &bundle, now).expect("usable")
    };
    let (root, intermediate) = (
        issuer("root-cert.pem", "root-key.pem"),
        issuer("ca-cert.pem", "ca-key.pem"),
    );
    let write = |text: &str| std::fs::write(at.join("ca-crl.pem"), text).expect("mine");
    let nobody = root.revocation_list(&[], now).expect("signed");
    write(&nobody);
    let (mut plugged, first) = PluggedFolder::open(at, now).expect("usable");
    assert!(first.lists.whole_chain);
    assert_eq!(first.lists.pem.matches("BEGIN X509 CRL").count(), 2);
    let (_, csr) = request(KeyKind::P256);
    let issued = own(&first)
        .issue(&csr, &cart().into(), DAY, now)
        .expect("issued");
    let trusted = |state: &State| {
        state
            .bundle
            .verify_with(&issued.chain, &state.lists.pem, now)
    };
    trusted(&first).expect("nothing is revoked");
    // The intermediate itself: nothing that it signs is worth having.
    std::fs::write(at.join("leaf.pem"), issued.pem().concat()).expect("written");
    let hex = |text: String| Revoked::parse(&text).expect("a serial number").serials();
    let own_serial = hex(serial_of(at, "ca-cert.pem"));
    write(&root.revocation_list(&own_serial, now).expect("signed"));
    let error = plugged.poll(now).err().expect("revoked").to_string();
    assert!(error.contains("ca-crl.pem: with these lists"), "{error}");
    // Without a list of the root its certificates are of unknown state.
    let leaf = hex(serial_of(at, "leaf.pem"));
    let of_leaf = intermediate.revocation_list(&leaf, now).expect("signed");
    write(&of_leaf);
    let error = plugged.poll(now).err().expect("unknown").to_string();
    assert!(error.contains("UnknownRevocationStatus"), "{error}");
    // What the operator lists of the intermediate's own certificates counts here, too.
    write(&(of_leaf + &nobody));
    let last = plugged.poll(now).expect("good").expect("changed");
    assert_eq!((last.revoked.len(), last.revoked.serials().len()), (1, 0));
    let (_, read) = x509_parser::parse_x509_certificate(&issued.chain[0]).expect("readable");
    assert!(last.revoked.lists(read.issuer().as_raw(), &leaf[0]));
    assert!(trusted(&last).expect_err("revoked").contains("CertRevoked"));
    write("nothing");
    assert!(plugged.poll(now).is_err());
}

type Answer = dyn Fn(&SigningRequest) -> Vec<CertificateDer<'static>> + Send + Sync;

/// A signer outside that answers what a test wants.
struct Outside<F>(F);

impl<F> ExternalSigner for Outside<F>
where
    F: Fn(&SigningRequest) -> Vec<CertificateDer<'static>> + Send + Sync,
{
    fn sign(&self, request: SigningRequest) -> Signed {
        let chain = (self.0)(&request);
        Box::pin(async move { Ok(chain) })
    }
}

#[tokio::test]
async fn of_an_external_signer_only_what_was_asked_is_taken() {
    let now = now_in_seconds();
    let (own, bundle) = issuer(KeyKind::P256);
    let own = Arc::new(own);
    let (_, stranger_key) = request(KeyKind::P256);
    let (stranger, _) = issuer(KeyKind::P256);
    let ask = async |answer: Box<Answer>| {
        let signer = Signer::External(Arc::new(Outside(answer)));
        let authority = Authority::new(state(signer, bundle.clone()), Lifetimes::default());
        let (_, csr) = request(KeyKind::P256);
        authority.issue(csr, cart().into(), None, now).await
    };
    let sign = move |issuer: &Issuer, csr: &Csr, subject: &Subject, lifetime| {
        issuer
            .issue(csr, subject, lifetime, now)
            .expect("issued")
            .chain
    };
    let signer = Arc::clone(&own);
    let good = ask(Box::new(move |r| {
        sign(&signer, &r.csr, &r.subject, r.lifetime)
    }))
    .await;
    assert_eq!(good.expect("good").not_after, now + DAY);
    let refused = async |answer, why: &str| {
        let error = ask(answer).await.expect_err(why);
        assert!(
            matches!(&error, SignError::Sign(text) if text.contains(why)),
            "{error}"
        );
    };
    refused(Box::new(|_| Vec::new()), "is empty").await;
    let signer = Arc::clone(&own);
    let other_key = stranger_key.clone();
    refused(
        Box::new(move |r| sign(&signer, &other_key, &r.subject, r.lifetime)),
        "another key",
    )
    .await;
    let signer = Arc::clone(&own);
    let other = SpiffeId::workload(&domain(), "bank", "vault").expect("valid");
    refused(
        Box::new(move |r| sign(&signer, &r.csr, &other.clone().into(), r.lifetime)),
        "one URI",
    )
    .await;
    let signer = Arc::clone(&own);
    let more = Subject {
        dns: vec!["bank.example".to_owned()],
        ..cart().into()
    };
    refused(
        Box::new(move |r| sign(&signer, &r.csr, &more, r.lifetime)),
        "nobody asked for",
    )
    .await;
    let signer = Arc::clone(&own);
    refused(
        Box::new(move |r| sign(&signer, &r.csr, &r.subject, 2 * r.lifetime)),
        "lasts longer",
    )
    .await;
    refused(
        Box::new(move |r| sign(&stranger, &r.csr, &r.subject, r.lifetime)),
        "not trusted",
    )
    .await;
}

#[test]
fn keys_never_show_themselves() {
    let key = KeyPair::generate(KeyKind::P256).expect("made");
    let shown = format!("{key:?} {:?}", key.to_pem());
    assert_eq!(shown, "KeyPair(redacted) PrivateKey(redacted)");
    let (issuer, _) = issuer(KeyKind::P256);
    assert!(!format!("{issuer:?}").contains("PRIVATE"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn damaged_requests_are_refused_without_a_panic(at in 0usize..400, byte: u8, cut in 0usize..400) {
        let (_, csr) = request(KeyKind::P256);
        let mut der = csr.der().to_vec();
        let at = at % der.len();
        der[at] = byte;
        // What lies around the signed part and the signature (an outer tag, say) says nothing.
        if let Ok(read) = Csr::from_der(&der) {
            prop_assert_eq!(read.public_key(), csr.public_key());
        }
        der.truncate(cut % der.len());
        prop_assert!(Csr::from_der(&der).is_err());
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = (Csr::from_der(&bytes), Csr::from_pem(&bytes), TrustBundle::from_pem(&bytes));
    }

    #[test]
    fn whoever_is_named_gets_that_name_alone(ns in "[a-z0-9-]{1,20}", sa in "[a-z0-9.-]{1,20}") {
        prop_assume!(sa != "." && sa != "..");
        let (issuer, bundle) = issuer(KeyKind::P256);
        let (_, csr) = request(KeyKind::P256);
        let id = SpiffeId::workload(&domain(), &ns, &sa).expect("valid names");
        let now = now_in_seconds();
        let issued = issuer.issue(&csr, &id.clone().into(), DAY, now).expect("issued");
        bundle.verify(&issued.chain, now).expect("trusted");
        let pem = issued.pem().concat();
        let read = CertificateDer::from_pem_slice(pem.as_bytes()).expect("PEM");
        prop_assert_eq!(&read, &issued.chain[0]);
        let end = webpki_names(&read);
        prop_assert_eq!(end, vec![id.to_string()]);
    }
}

fn webpki_names(der: &CertificateDer<'_>) -> Vec<String> {
    let end = webpki::EndEntityCert::try_from(der).expect("a certificate");
    end.valid_uri_names().map(ToOwned::to_owned).collect()
}
