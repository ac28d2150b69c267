//! Certificates of a mesh: one authority, and workloads with SPIFFE identities. Must never know who
//! uses them.

use std::path::PathBuf;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::{Value, json};

use crate::folder::ConfigFolder;

/// An authority whose certificate is `mesh-ca.pem` beside the watched folder.
#[derive(Debug)]
pub struct Identities {
    issuer: Issuer<'static, KeyPair>,
    authorities: PathBuf,
}

/// The files of one identity.
#[derive(Clone, Debug)]
pub struct IdentityFiles {
    chain: PathBuf,
    key: PathBuf,
    authorities: PathBuf,
}

impl Identities {
    /// Makes the authority.
    pub fn new(folder: &ConfigFolder) -> Self {
        Self::new_for(folder, "mesh")
    }

    /// One whose certificate is `NAME-ca.pem`.
    pub fn new_for(folder: &ConfigFolder, name: &str) -> Self {
        // Names differ, so that no certificate looks as if it had signed itself.
        let mut params = named("authority of the mesh");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap_or_else(|error| panic!("a key: {error}"));
        let certificate = params.self_signed(&key);
        let certificate = certificate.unwrap_or_else(|error| panic!("an authority: {error}"));
        Self {
            authorities: folder.write_beside(&format!("{name}-ca.pem"), &certificate.pem()),
            issuer: Issuer::new(params, key),
        }
    }

    /// Makes the certificate of `spiffe://cluster.local/ns/shop/sa/<account>`.
    pub fn issue(&self, folder: &ConfigFolder, account: &str) -> IdentityFiles {
        self.issue_in(folder, "shop", account)
    }

    /// The same of another namespace.
    pub fn issue_in(&self, folder: &ConfigFolder, namespace: &str, account: &str) -> IdentityFiles {
        self.issue_of(folder, "cluster.local", namespace, account)
    }

    /// The same of another trust domain.
    pub fn issue_of(
        &self,
        folder: &ConfigFolder,
        domain: &str,
        namespace: &str,
        account: &str,
    ) -> IdentityFiles {
        let uri = format!("spiffe://{domain}/ns/{namespace}/sa/{account}");
        let account = format!("{namespace}-{account}");
        let mut params = named(&account);
        let name = uri
            .try_into()
            .unwrap_or_else(|error| panic!("a name: {error}"));
        params.subject_alt_names = vec![SanType::URI(name)];
        let key = KeyPair::generate().unwrap_or_else(|error| panic!("a key: {error}"));
        let certificate = params.signed_by(&key, &self.issuer);
        let certificate = certificate.unwrap_or_else(|error| panic!("a certificate: {error}"));
        let pem = certificate.pem();
        IdentityFiles {
            chain: folder.write_beside(&format!("{account}.pem"), &pem),
            key: folder.write_beside(&format!("{account}.key"), &key.serialize_pem()),
            authorities: self.authorities.clone(),
        }
    }
}

fn named(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

impl IdentityFiles {
    /// Adds them to a node's metadata, for connections that it takes and makes.
    pub fn announce(&self, metadata: &mut Value) {
        for side in ["SERVER", "CLIENT"] {
            let files = [
                ("CERT_CHAIN", &self.chain),
                ("KEY", &self.key),
                ("ROOT_CERT", &self.authorities),
            ];
            for (name, file) in files {
                metadata[format!("TLS_{side}_{name}")] = json!(file.display().to_string());
            }
        }
    }
}
