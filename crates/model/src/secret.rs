//! Certificates and keys that come as objects, and how rules name them. Knows no SDS and no PEM:
//! what is in here has been checked where it was read.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::name::{Namespace, ObjectRef, is_dns_label};

/// What a name ends with that means authorities instead of a key pair.
pub const AUTHORITIES: &str = "-cacert";

/// A Kubernetes `Secret` with something for TLS in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Secret {
    /// Whence it came.
    pub origin: ObjectRef,
    /// Its certificate and key.
    pub pair: Option<KeyPair>,
    /// Its authorities.
    pub authorities: Option<Authorities>,
}

/// A certificate chain and its key, which belong together.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyPair {
    /// The chain in PEM, the server's own certificate first.
    pub chain: Arc<[u8]>,
    /// The key in PEM.
    pub key: PrivateKey,
    /// An OCSP answer in DER, to be shown with the certificate.
    pub staple: Option<Arc<[u8]>>,
}

/// Whom to trust.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Authorities {
    /// Certificates in PEM, at least one.
    pub certificates: Arc<[u8]>,
    /// Lists of revoked certificates in PEM.
    pub revoked: Option<Arc<[u8]>>,
}

/// A private key in PEM. Its memory is wiped when the last copy goes, and it never shows its bytes
/// in messages.
#[derive(Clone, PartialEq, Eq)]
pub struct PrivateKey(Arc<Zeroizing<Vec<u8>>>);

impl PrivateKey {
    /// Takes the bytes over.
    pub fn new(pem: Vec<u8>) -> Self {
        Self(Arc::new(Zeroizing::new(pem)))
    }

    /// The bytes; to be given to nobody but the proxies that may have them.
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl Hash for PrivateKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_slice().hash(state);
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrivateKey(redacted)")
    }
}

/// Why a credential's name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// A source of credentials that there is not.
    #[error(
        "\"{0}\" names a source of credentials that is not supported yet: write the name of a Secret (see docs/compatibility.md)"
    )]
    Source(String),
    /// Not a name.
    #[error(
        "\"{0}\" names no Secret: write its name, \"kubernetes://name\" or \"kubernetes-gateway://namespace/name\""
    )]
    Name(String),
}

/// A credential as a rule names it (`credentialName`), in the form of istiod's SDS resources:
/// `kubernetes://name`, `kubernetes://namespace/name` or `kubernetes-gateway://namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialName(Arc<str>);

const OF_PROXY: &str = "kubernetes://";
const OF_GATEWAY: &str = "kubernetes-gateway://";

impl CredentialName {
    /// Takes a name from outside; one without a scheme is a Secret's.
    pub fn parse(text: &str) -> Result<Self, CredentialError> {
        let refused = || CredentialError::Name(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            None => (OF_PROXY, text),
            Some(("kubernetes", rest)) => (OF_PROXY, rest),
            Some(("kubernetes-gateway", rest)) => (OF_GATEWAY, rest),
            Some(_) => return Err(CredentialError::Source(text.to_owned())),
        };
        let (namespace, name) = match rest.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None if scheme == OF_GATEWAY => return Err(refused()),
            None => (None, rest),
        };
        let is_name = name.len() <= 253 && name.split('.').all(is_dns_label);
        if !is_name || namespace.is_some_and(|namespace| !is_dns_label(namespace)) {
            return Err(refused());
        }
        Ok(Self(format!("{scheme}{rest}").into()))
    }

    /// The name of the SDS resource.
    pub fn resource(&self) -> &str {
        &self.0
    }

    /// The name for the authorities that belong to it.
    #[must_use]
    pub fn authorities(&self) -> Self {
        Self(format!("{}{AUTHORITIES}", self.0).into())
    }

    /// Whether only gateways may use it, and only by a `Gateway` of the Secret's namespace.
    pub fn is_for_gateways(&self) -> bool {
        self.0.starts_with(OF_GATEWAY)
    }

    /// The Secret's name, and its namespace if the name says it: else it is the proxy's.
    pub fn secret(&self) -> (Option<Namespace>, &str) {
        let rest = self.0.split_once("://").map_or("", |(_, rest)| rest);
        match rest.split_once('/') {
            Some((namespace, name)) => (Some(Namespace::new(namespace)), name),
            None => (None, rest),
        }
    }
}

impl fmt::Display for CredentialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_istiods_resources() {
        let name = |text| CredentialName::parse(text).map(|n| n.resource().to_owned());
        assert_eq!(name("cert"), Ok("kubernetes://cert".to_owned()));
        assert_eq!(
            name("kubernetes://a/cert"),
            Ok("kubernetes://a/cert".to_owned())
        );
        let gateway = "kubernetes-gateway://a/cert.v1";
        assert_eq!(name(gateway), Ok(gateway.to_owned()));
        for bad in [
            "",
            "kubernetes-gateway://cert",
            "a b",
            "/x",
            "a/b/c",
            "Cert",
        ] {
            assert!(matches!(name(bad), Err(CredentialError::Name(_))), "{bad}");
        }
        for bad in ["sds://x", "configmap://a/b", "builtin://", "invalid://"] {
            assert!(
                matches!(name(bad), Err(CredentialError::Source(_))),
                "{bad}"
            );
        }
    }

    #[test]
    fn a_name_tells_its_secret() {
        let parse = |text| CredentialName::parse(text).expect("valid");
        assert_eq!(parse("cert").secret(), (None, "cert"));
        let own = Some(Namespace::new("a"));
        assert_eq!(parse("kubernetes://a/cert").secret(), (own.clone(), "cert"));
        let roots = parse("kubernetes-gateway://a/cert").authorities();
        assert_eq!(roots.resource(), "kubernetes-gateway://a/cert-cacert");
        assert_eq!(roots.secret(), (own, "cert-cacert"));
    }

    #[test]
    fn a_key_never_shows_itself() {
        let key = PrivateKey::new(b"very secret".to_vec());
        let pair = KeyPair {
            chain: Arc::from(&b"chain"[..]),
            key,
            staple: None,
        };
        let bytes = "118, 101, 114, 121"; // "very", as a list of bytes would be shown
        let shown = format!("{pair:?} {pair:#?}");
        assert!(
            shown.contains("redacted") && !shown.contains("very"),
            "{shown}"
        );
        assert!(!shown.contains(bytes), "{shown}");
    }
}
