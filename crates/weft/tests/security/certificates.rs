//! The certificates of the tests: a root, identities it signed, and those that nobody should
//! accept. Must never know who shows them.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
    date_time_ymd,
};
use weft_testkit::ConfigFolder;

/// Writes `<name>.pem` and `<name>.key` for each identity, `root.pem` and `stranger.pem`, and gives
/// their folder.
pub(crate) fn write(folder: &ConfigFolder) -> PathBuf {
    let root = root("root");
    let stranger = root_of_strangers();
    let mut place = folder.write_beside("root.pem", &root.0);
    folder.write_beside("strangers.pem", &stranger.0);
    for (name, issuer, uri, expired) in [
        ("server", &root.1, "spiffe://td/ns/default/sa/server", false),
        ("web", &root.1, "spiffe://td/ns/default/sa/web", false),
        ("other", &root.1, "spiffe://td/ns/other/sa/web", false),
        ("expired", &root.1, "spiffe://td/ns/default/sa/web", true),
        (
            "stranger",
            &stranger.1,
            "spiffe://td/ns/default/sa/web",
            false,
        ),
        (
            "foreign",
            &stranger.1,
            "spiffe://strange/ns/default/sa/web",
            false,
        ),
        (
            "pretender",
            &root.1,
            "spiffe://strange/ns/default/sa/web",
            false,
        ),
        (
            "nobody",
            &root.1,
            "spiffe://unknown/ns/default/sa/web",
            false,
        ),
        ("unsaid", &root.1, "spiffe://td/ns/default/sa/web", false),
        ("pathless", &root.1, "spiffe://td", false),
        ("elsewhere", &root.1, "https://td/ns/default/sa/web", false),
    ] {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(["a.tls.test".to_owned()]).expect("a name");
        params
            .subject_alt_names
            .push(SanType::URI(uri.try_into().expect("a URI")));
        params.distinguished_name.remove(DnType::CommonName);
        params.distinguished_name.push(DnType::CommonName, name);
        if name != "unsaid" {
            params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        }
        if expired {
            params.not_before = date_time_ymd(2001, 1, 1);
            params.not_after = date_time_ymd(2002, 1, 1);
        }
        let made = params.signed_by(&key, issuer).expect("a certificate");
        folder.write_beside(&format!("{name}.key"), &key.serialize_pem());
        place = folder.write_beside(&format!("{name}.pem"), &made.pem());
    }
    place.parent().expect("a file is in a folder").to_owned()
}

fn root_of_strangers() -> (String, Issuer<'static, KeyPair>) {
    root("strangers")
}

fn root(name: &str) -> (String, Issuer<'static, KeyPair>) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    let made = params.self_signed(&key).expect("a root");
    (made.pem(), Issuer::new(params, key))
}
