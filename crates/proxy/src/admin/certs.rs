//! `/certs`: the certificates in use, as whoever loads them tells. Parses none.

use std::collections::BTreeMap;
use std::time::SystemTime;

use parking_lot::Mutex;
use serde_json::{Value, json};

use super::clusters::compact;
use super::request::{AdminRequest, Reply};
use super::server_info::timestamp;
use super::state::AdminState;

/// One certificate, with what its loader knows of it.
#[derive(Debug, Clone, Default)]
pub struct CertificateDetails {
    /// File, or `<inline>`.
    pub path: String,
    /// Lower-case hexadecimal.
    pub serial_number: String,
    /// `URI` names.
    pub uri_names: Vec<String>,
    /// DNS names.
    pub dns_names: Vec<String>,
    /// Start of validity.
    pub valid_from: Option<SystemTime>,
    /// End of validity.
    pub expiration: Option<SystemTime>,
}

/// The certificates of one TLS context.
#[derive(Debug, Clone, Default)]
pub struct CertificateStatus {
    /// Trusted roots.
    pub ca_cert: Vec<CertificateDetails>,
    /// What is presented.
    pub cert_chain: Vec<CertificateDetails>,
}

/// All TLS contexts by an owner's name of the caller's choice (`listener x`, `secret y`).
#[derive(Debug, Default)]
pub struct CertificateDirectory(Mutex<BTreeMap<String, CertificateStatus>>);

impl CertificateDirectory {
    /// Shows the certificates of `owner` in place of earlier ones.
    pub fn set(&self, owner: &str, status: CertificateStatus) {
        self.0.lock().insert(owner.to_owned(), status);
    }

    /// Forgets `owner`.
    pub fn remove(&self, owner: &str) {
        self.0.lock().remove(owner);
    }
}

pub(super) fn handle(state: &AdminState, _: &AdminRequest) -> Reply {
    let now = SystemTime::now();
    let details = |all: &[CertificateDetails]| -> Value {
        all.iter()
            .map(|certificate| json_details(certificate, now))
            .collect()
    };
    let all = state.certificates.0.lock().clone();
    let all: Vec<Value> = all
        .values()
        .map(|s| json!({"ca_cert": details(&s.ca_cert), "cert_chain": details(&s.cert_chain)}))
        .collect();
    Reply::json(&json!({"certificates": all}))
}

fn json_details(certificate: &CertificateDetails, now: SystemTime) -> Value {
    let uris = certificate
        .uri_names
        .iter()
        .map(|name| json!({"uri": name}));
    let names = uris.chain(
        certificate
            .dns_names
            .iter()
            .map(|name| json!({"dns": name})),
    );
    let left = certificate.expiration.map(|end| {
        let left = end.duration_since(now).unwrap_or_default();
        (left.as_secs() / 86_400).to_string()
    });
    compact([
        ("path", certificate.path.as_str().into()),
        ("serial_number", certificate.serial_number.as_str().into()),
        ("subject_alt_names", names.collect()),
        ("days_until_expiration", left.into()),
        ("valid_from", certificate.valid_from.map(timestamp).into()),
        (
            "expiration_time",
            certificate.expiration.map(timestamp).into(),
        ),
    ])
}
