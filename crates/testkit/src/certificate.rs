//! Certificates of tests, and TLS with them on both sides. Must never be used where secrecy
//! matters: nobody keeps these keys.

use std::fmt::Write;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// A certificate that signs itself, and its key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// In PEM.
    pub certificate: String,
    /// In PEM.
    pub key: String,
}

impl Certificate {
    /// A new one for a server of this name.
    pub fn of(name: &str) -> Self {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]);
        let made = made.unwrap_or_else(|error| panic!("a certificate of {name}: {error}"));
        Self {
            certificate: made.cert.pem(),
            key: made.signing_key.serialize_pem(),
        }
    }

    /// A Kubernetes Secret of namespace `shop` with it.
    pub fn secret(&self, name: &str) -> String {
        Self::secret_of(
            name,
            &[("tls.crt", &self.certificate), ("tls.key", &self.key)],
        )
    }

    /// The same with the certificate of the only client that is let in.
    pub fn secret_with_client(&self, name: &str, client: &Self) -> String {
        Self::secret_of(
            name,
            &[
                ("tls.crt", &self.certificate),
                ("tls.key", &self.key),
                ("ca.crt", &client.certificate),
            ],
        )
    }

    fn secret_of(name: &str, entries: &[(&str, &String)]) -> String {
        let mut text = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\n\
             type: kubernetes.io/tls\nstringData:\n"
        );
        for (key, value) in entries {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "  {key}: |");
            for line in value.lines() {
                let _ = writeln!(text, "    {line}");
            }
        }
        text
    }

    fn key(&self) -> PrivateKeyDer<'static> {
        let key = PrivateKeyDer::from_pem_slice(self.key.as_bytes());
        key.unwrap_or_else(|error| panic!("a key: {error}"))
    }

    fn chain(&self) -> Vec<CertificateDer<'static>> {
        let read: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(self.certificate.as_bytes()).collect();
        read.unwrap_or_else(|error| panic!("a certificate: {error}"))
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        for certificate in self.chain() {
            let added = roots.add(certificate);
            added.unwrap_or_else(|error| panic!("an authority: {error}"));
        }
        roots
    }

    /// What a server needs to show it, and to serve nobody but `client` if there is one.
    pub(crate) fn server(&self, client: Option<&Self>) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients = client.map(|client| {
            let roots = Arc::new(client.roots());
            let clients = WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider));
            let clients = clients.build();
            clients.unwrap_or_else(|error| panic!("the judge of clients: {error}"))
        });
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|config| match clients {
                None => config.with_no_client_auth(),
                Some(clients) => config.with_client_cert_verifier(clients),
            })
            .and_then(|config| config.with_single_cert(self.chain(), self.key()));
        Arc::new(config.unwrap_or_else(|error| panic!("a server's TLS: {error}")))
    }

    /// What a client needs that trusts nothing else, and shows `own`.
    pub(crate) fn client(&self, own: Option<&Self>) -> Arc<ClientConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map(|config| config.with_root_certificates(self.roots()))
            .and_then(|config| match own {
                None => Ok(config.with_no_client_auth()),
                Some(own) => config.with_client_auth_cert(own.chain(), own.key()),
            });
        Arc::new(config.unwrap_or_else(|error| panic!("a client's TLS: {error}")))
    }
}
