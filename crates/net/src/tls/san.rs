//! Subject alternative names: reading them from a certificate and matching them.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use rustls::{CertificateError, Error};
use rustls_pki_types::CertificateDer;

use super::{covers, end_entity, is_for_address};

/// The kinds of subject alternative name that can be matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SanKind {
    /// Host names.
    Dns,
    /// URIs, such as SPIFFE identities.
    Uri,
    /// IP addresses; only exact ones can be matched.
    Ip,
    /// DNS or URI names; Envoy's deprecated untyped `match_subject_alt_names`.
    Any,
}

type Test = dyn Fn(&str) -> bool + Send + Sync;

/// A condition on one subject alternative name.
#[derive(Clone)]
pub struct SanMatcher {
    kind: SanKind,
    /// Set for exact matches: wildcard DNS names and addresses need the wanted value.
    exact: Option<String>,
    test: Arc<Test>,
}

impl fmt::Debug for SanMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SanMatcher({:?}, {:?})", self.kind, self.exact)
    }
}

impl SanMatcher {
    /// The name is exactly `value`. A DNS name of the certificate may be a wildcard that
    /// covers it, as in Envoy.
    pub fn exact(kind: SanKind, value: impl Into<String>) -> Self {
        let value = value.into();
        let wanted = value.clone();
        Self {
            kind,
            exact: Some(value),
            test: Arc::new(move |name| name == wanted),
        }
    }

    /// The name satisfies `test`. For [`SanKind::Ip`] use [`SanMatcher::exact`].
    pub fn matching(kind: SanKind, test: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self {
            kind,
            exact: None,
            test: Arc::new(test),
        }
    }

    fn matches(&self, cert: &webpki::EndEntityCert<'_>) -> bool {
        let dns = || {
            cert.valid_dns_names().any(|name| match &self.exact {
                Some(wanted) => covers(name, wanted),
                None => (self.test)(name),
            })
        };
        let uri = || cert.valid_uri_names().any(|name| (self.test)(name));
        let ip = || {
            let wanted = self.exact.as_ref().and_then(|w| w.parse::<IpAddr>().ok());
            wanted.is_some_and(|address| is_for_address(cert, address))
        };
        match self.kind {
            SanKind::Dns => dns(),
            SanKind::Uri => uri(),
            SanKind::Ip => ip(),
            SanKind::Any => dns() || uri() || ip(),
        }
    }
}

/// Refuses a certificate of which no name matches; an empty list accepts all.
pub(super) fn check(sans: &[SanMatcher], certificate: &CertificateDer<'_>) -> Result<(), Error> {
    if sans.is_empty() {
        return Ok(());
    }
    let cert = end_entity(certificate)?;
    if sans.iter().any(|san| san.matches(&cert)) {
        Ok(())
    } else {
        Err(Error::InvalidCertificate(CertificateError::NotValidForName))
    }
}

/// The URI and DNS names of a certificate, for access logs and forwarded client certificates.
/// Empty if it cannot be read.
pub fn subject_names(certificate: &CertificateDer<'_>) -> (Vec<String>, Vec<String>) {
    match end_entity(certificate) {
        Ok(cert) => (
            cert.valid_uri_names().map(str::to_owned).collect(),
            cert.valid_dns_names().map(str::to_owned).collect(),
        ),
        Err(_) => (Vec::new(), Vec::new()),
    }
}
