//! `ServerTLSSettings` → [`ServerTls`]. Rules of validity follow Istio's `validateTLSOptions`.

use std::collections::BTreeSet;
use std::sync::Arc;

use weft_model::{
    ClientCertificates, ClientCheck, CredentialName, KeyPairFiles, ServerIdentity, ServerTls,
    TlsTermination, TlsVersion,
};

use super::message as pb;
use crate::check::{At, optional};
use pb::server_tls_settings::{TlSmode as Mode, TlsCertificate, TlsProtocol};

/// Cipher suites that Istio lets through to proxies.
pub(super) const CIPHER_SUITES: [&str; 15] = [
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];
/// The same of curves, save for two that Envoy 1.40 does not have (`P-224`,
/// `X25519Kyber768Draft00`): it would refuse the whole listener.
pub(super) const CURVES: [&str; 5] = ["P-256", "P-521", "P-384", "X25519", "X25519MLKEM768"];

pub(super) fn server_tls(message: pb::ServerTlsSettings, at: At<'_>) -> Option<ServerTls> {
    if message.https_redirect {
        at.field("httpsRedirect")
            .error("would redirect TLS to itself: put it on an HTTP port");
    }
    let mode = at.field("mode").ok(Mode::try_from(message.mode))?;
    match mode {
        Mode::Passthrough | Mode::AutoPassthrough => {
            let plain = pb::ServerTlsSettings {
                mode: message.mode,
                https_redirect: message.https_redirect,
                ..pb::ServerTlsSettings::default()
            };
            if message != plain {
                at.error(format_args!(
                    "mode {} passes TLS on as it is: remove everything else",
                    mode.as_str_name()
                ));
            }
            Some(if mode == Mode::Passthrough {
                ServerTls::Passthrough
            } else {
                ServerTls::AutoPassthrough
            })
        }
        Mode::Simple | Mode::Mutual | Mode::OptionalMutual | Mode::IstioMutual => {
            termination(message, mode, at).map(ServerTls::Terminate)
        }
    }
}

fn termination(message: pb::ServerTlsSettings, mode: Mode, at: At<'_>) -> Option<TlsTermination> {
    let pb::ServerTlsSettings {
        https_redirect: _,
        mode: _,
        server_certificate,
        private_key,
        ca_certificates,
        ca_crl,
        credential_name,
        credential_names,
        ca_cert_credential_name,
        tls_certificates,
        subject_alt_names,
        verify_certificate_spki,
        verify_certificate_hash,
        min_protocol_version,
        max_protocol_version,
        cipher_suites,
        insecure_skip_verify,
        ecdh_curves,
    } = message;
    let clients = match mode {
        Mode::Mutual | Mode::IstioMutual => ClientCertificates::Required,
        Mode::OptionalMutual => ClientCertificates::Optional,
        _ => ClientCertificates::None,
    };
    let skip = insecure_skip_verify.is_some_and(|flag| flag.value);
    if clients == ClientCertificates::None {
        let used = [
            ("caCertificates", !ca_certificates.is_empty()),
            ("caCertCredentialName", !ca_cert_credential_name.is_empty()),
            ("caCrl", !ca_crl.is_empty()),
            ("subjectAltNames", !subject_alt_names.is_empty()),
            ("verifyCertificateSpki", !verify_certificate_spki.is_empty()),
            ("verifyCertificateHash", !verify_certificate_hash.is_empty()),
            ("insecureSkipVerify", skip),
        ];
        for (field, _) in used.iter().filter(|(_, set)| *set) {
            at.field(field)
                .error("is not used by mode SIMPLE: use MUTUAL, or remove it");
        }
    }
    let files = Files {
        server_certificate,
        private_key,
        ca_certificates,
        tls_certificates,
    };
    let names = Names {
        one: credential_name,
        several: credential_names,
        authorities: ca_cert_credential_name,
    };
    let identity = identity(mode, files, names, clients, &at)?;
    if !ca_crl.is_empty() && matches!(identity, ServerIdentity::Credentials { .. }) {
        at.field("caCrl")
            .error("does not go with a credential: put the list into its Secret (ca.crl)");
    }
    hashes(&verify_certificate_spki, &verify_certificate_hash, &at);
    let (min, max) = (min_protocol_version, max_protocol_version);
    let (min_version, max_version) = versions(min, max, &at);
    let own = mode == Mode::IstioMutual;
    let tuned = min_version.is_some() || max_version.is_some();
    if own && (tuned || !cipher_suites.is_empty() || !ecdh_curves.is_empty()) {
        at.error(
            "ISTIO_MUTUAL has the mesh's TLS parameters: remove versions, cipher suites and curves",
        );
    }
    Some(TlsTermination {
        identity,
        clients,
        client_check: ClientCheck {
            subject_alt_names: shared(subject_alt_names),
            key_hashes: shared(verify_certificate_spki),
            certificate_hashes: shared(verify_certificate_hash),
            crl_file: optional(ca_crl),
            accept_untrusted: skip,
        },
        min_version,
        max_version,
        cipher_suites: known(cipher_suites, &CIPHER_SUITES, at.field("cipherSuites")),
        ecdh_curves: known(ecdh_curves, &CURVES, at.field("ecdhCurves")),
    })
}

struct Files {
    server_certificate: String,
    private_key: String,
    ca_certificates: String,
    tls_certificates: Vec<TlsCertificate>,
}

struct Names {
    one: String,
    several: Vec<String>,
    authorities: String,
}

fn identity(
    mode: Mode,
    files: Files,
    names: Names,
    clients: ClientCertificates,
    at: &At<'_>,
) -> Option<ServerIdentity> {
    let sources = [
        (
            "serverCertificate",
            !files.server_certificate.is_empty() || !files.private_key.is_empty(),
        ),
        ("tlsCertificates", !files.tls_certificates.is_empty()),
        ("credentialName", !names.one.is_empty()),
        ("credentialNames", !names.several.is_empty()),
    ];
    if mode == Mode::IstioMutual {
        let roots = [
            ("caCertificates", !files.ca_certificates.is_empty()),
            ("caCertCredentialName", !names.authorities.is_empty()),
        ];
        for (field, _) in sources.iter().chain(&roots).filter(|(_, set)| *set) {
            at.field(field)
                .error("does not go with ISTIO_MUTUAL, which uses the workload's own identity");
        }
        return Some(ServerIdentity::Workload);
    }
    let mut set = sources.iter().filter(|(_, set)| *set);
    let first = set.next().map(|(field, _)| *field);
    for (field, _) in set {
        at.field(field).error(format_args!(
            "is a second source of the certificate, beside {}: write one of them",
            first.unwrap_or_default()
        ));
    }
    if matches!(first, Some("credentialName" | "credentialNames")) {
        if !files.ca_certificates.is_empty() {
            at.field("caCertificates").error(
                "is not used with a credential: name a secret in caCertCredentialName, or remove it",
            );
        }
        return by_name(names, clients, at);
    }
    if !names.authorities.is_empty() {
        at.field("caCertCredentialName")
            .error("is not used with files: give caCertificates, or remove it");
    }
    Some(by_file(files, clients, at))
}

fn by_name(names: Names, clients: ClientCertificates, at: &At<'_>) -> Option<ServerIdentity> {
    let pair = |name: &str, at: At<'_>| {
        let name = at.ok(CredentialName::parse(name))?;
        if name.is_config_map() {
            at.error("a ConfigMap has no key: name a Secret");
        }
        Some(name)
    };
    let pairs: Option<Vec<CredentialName>> = if names.one.is_empty() {
        let list = at.field("credentialNames");
        let each = names.several.iter().enumerate();
        each.map(|(index, name)| pair(name, list.index(index)))
            .collect()
    } else {
        pair(&names.one, at.field("credentialName")).map(|name| vec![name])
    };
    let explicit = optional(names.authorities);
    let explicit = match explicit {
        Some(name) => Some(
            at.field("caCertCredentialName")
                .ok(CredentialName::parse(&name))?,
        ),
        None => None,
    };
    let pairs = pairs?;
    let authorities = match clients {
        ClientCertificates::None => None,
        // As in Istio, clients are checked with one set of authorities: the first name's.
        _ => explicit.or_else(|| pairs.first().map(CredentialName::authorities)),
    };
    Some(ServerIdentity::Credentials { pairs, authorities })
}

fn by_file(files: Files, clients: ClientCertificates, at: &At<'_>) -> ServerIdentity {
    let missing = |at: At<'_>, value: &str| {
        if value.is_empty() {
            at.error("is missing: give the path of a PEM file");
        }
    };
    let pairs = if files.tls_certificates.is_empty() {
        missing(at.field("serverCertificate"), &files.server_certificate);
        missing(at.field("privateKey"), &files.private_key);
        vec![KeyPairFiles {
            certificate: files.server_certificate.into(),
            private_key: files.private_key.into(),
        }]
    } else {
        let list = at.field("tlsCertificates");
        let each = files.tls_certificates.into_iter().enumerate();
        let pair = |(index, one): (usize, TlsCertificate)| {
            let TlsCertificate {
                server_certificate,
                private_key,
                ca_certificates,
            } = one;
            let at = list.index(index);
            missing(at.field("serverCertificate"), &server_certificate);
            missing(at.field("privateKey"), &private_key);
            if !ca_certificates.is_empty() {
                at.field("caCertificates")
                    .error("has no effect in any proxy: write it beside tlsCertificates");
            }
            KeyPairFiles {
                certificate: server_certificate.into(),
                private_key: private_key.into(),
            }
        };
        each.map(pair).collect()
    };
    if clients != ClientCertificates::None {
        missing(at.field("caCertificates"), &files.ca_certificates);
    }
    ServerIdentity::Files {
        pairs,
        authorities: optional(files.ca_certificates),
    }
}

fn shared(texts: Vec<String>) -> Vec<Arc<str>> {
    texts.into_iter().map(Into::into).collect()
}

/// Names that proxies know, for they would refuse the whole listener for another one.
pub(super) fn known(names: Vec<String>, all: &[&str], at: At<'_>) -> Vec<Arc<str>> {
    let mut seen = BTreeSet::new();
    for (index, name) in names.iter().enumerate() {
        let at = at.index(index);
        if !is_known(name, all) {
            at.error(format_args!(
                "\"{name}\" is unknown: use some of {}",
                all.join(", ")
            ));
        } else if !seen.insert(name.clone()) {
            at.error(format_args!("\"{name}\" is there twice: remove one"));
        }
    }
    shared(names)
}

/// A name, or a group of equal rank (`[A|B]`).
fn is_known(name: &str, all: &[&str]) -> bool {
    let group = name.strip_prefix('[').and_then(|n| n.strip_suffix(']'));
    match group {
        Some(group) => group.split('|').all(|name| all.contains(&name)),
        None => all.contains(&name),
    }
}

/// SHA-256 of public keys in base64, and of certificates in hexadecimal, as Envoy reads them.
fn hashes(keys: &[String], certificates: &[String], at: &At<'_>) {
    let list = at.field("verifyCertificateSpki");
    for (index, key) in keys.iter().enumerate() {
        let digits = key.strip_suffix('=').unwrap_or_default();
        let base64 = |b: u8| b.is_ascii_alphanumeric() || b == b'+' || b == b'/';
        if digits.len() != 43 || !digits.bytes().all(base64) {
            list.index(index)
                .error("is no SHA-256 hash in base64: write 44 characters");
        }
    }
    let list = at.field("verifyCertificateHash");
    for (index, hash) in certificates.iter().enumerate() {
        let bytes: Vec<&str> = hash.split(':').collect();
        let fits = match &bytes[..] {
            [whole] => whole.len() == 64,
            each => each.len() == 32 && each.iter().all(|byte| byte.len() == 2),
        };
        let hex = |b: u8| b.is_ascii_hexdigit() || b == b':';
        if !fits || !hash.bytes().all(hex) {
            list.index(index)
                .error("is no SHA-256 hash in hexadecimal: write 64 digits");
        }
    }
}

fn versions(min: i32, max: i32, at: &At<'_>) -> (Option<TlsVersion>, Option<TlsVersion>) {
    let min = version(min, at.field("minProtocolVersion"));
    let max = version(max, at.field("maxProtocolVersion"));
    if min.zip(max).is_some_and(|(min, max)| min > max) {
        at.field("minProtocolVersion")
            .error("is newer than maxProtocolVersion");
    }
    (min, max)
}

fn version(value: i32, at: At<'_>) -> Option<TlsVersion> {
    match at.ok(TlsProtocol::try_from(value))? {
        TlsProtocol::TlsAuto => None,
        TlsProtocol::Tlsv10 => Some(TlsVersion::V1_0),
        TlsProtocol::Tlsv11 => Some(TlsVersion::V1_1),
        TlsProtocol::Tlsv12 => Some(TlsVersion::V1_2),
        TlsProtocol::Tlsv13 => Some(TlsVersion::V1_3),
    }
}
