//! Certificates and keys that come as objects, and how rules name them. Knows no SDS and no PEM:
//! what is in here has been checked where it was read.

use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::name::{Namespace, ObjectRef, is_dns_label};

/// What a name ends with that means authorities instead of a key pair.
pub const AUTHORITIES: &str = "-cacert";

/// A Kubernetes `Secret` with something for TLS in it, or a `ConfigMap` with authorities.
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
        "\"{0}\" names no credential: write a Secret's name, \"kubernetes://name\", \"kubernetes-gateway://namespace/name\", \"configmap://namespace/name\", \"sds://name\" or \"builtin://\""
    )]
    Name(String),
}

/// A credential as a rule names it (`credentialName`), in the form of istiod's SDS resources:
/// `kubernetes://name`, `kubernetes://namespace/name` or `kubernetes-gateway://namespace/name`;
/// or the authorities of `configmap://namespace/name`, `sds://name`, which another server may have,
/// or `builtin://`, the workload's own identity.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CredentialName(Arc<str>);

const OF_PROXY: &str = "kubernetes://";
const OF_GATEWAY: &str = "kubernetes-gateway://";
const OF_MAPS: &str = "configmap://";
const OF_OTHERS: &str = "sds://";
const BUILT_IN: &str = "builtin://";

impl CredentialName {
    /// Takes a name from outside; one without a scheme is a Secret's.
    pub fn parse(text: &str) -> Result<Self, CredentialError> {
        let refused = || CredentialError::Name(text.to_owned());
        let (scheme, rest) = match text.split_once("://") {
            None => (OF_PROXY, text),
            Some(("kubernetes", rest)) => (OF_PROXY, rest),
            Some(("kubernetes-gateway", rest)) => (OF_GATEWAY, rest),
            Some(("builtin", "")) => return Ok(Self(BUILT_IN.into())),
            Some(("sds", rest)) => (OF_OTHERS, rest),
            Some(("configmap", rest)) => (OF_MAPS, rest),
            Some(_) => return Err(CredentialError::Source(text.to_owned())),
        };
        let (namespace, name) = match rest.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None if scheme == OF_GATEWAY || scheme == OF_MAPS => return Err(refused()),
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

    /// Whether it is the workload's own identity.
    pub fn is_built_in(&self) -> bool {
        self.0.starts_with(BUILT_IN)
    }

    /// Whether it is a `ConfigMap`'s, which anybody may have.
    pub fn is_config_map(&self) -> bool {
        self.0.starts_with(OF_MAPS)
    }

    /// Whether it means authorities.
    pub fn is_authorities(&self) -> bool {
        self.0.ends_with(AUTHORITIES)
    }

    /// The name by which another server than the control plane may have it.
    pub fn elsewhere(&self) -> Option<&str> {
        self.0.strip_prefix(OF_OTHERS)
    }

    /// The name under which the control plane has it, if no other server does.
    #[must_use]
    pub fn here(&self) -> Self {
        match self.elsewhere() {
            Some(name) => Self(format!("{OF_PROXY}{name}").into()),
            None => self.clone(),
        }
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
        assert_eq!(name("sds://cert"), Ok("sds://cert".to_owned()));
        assert_eq!(name("builtin://"), Ok("builtin://".to_owned()));
        assert_eq!(name("configmap://a/b"), Ok("configmap://a/b".to_owned()));
        assert!(name("configmap://b").is_err());
        for bad in ["builtin://x", "invalid://"] {
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
        let other = parse("sds://cert");
        assert_eq!(other.elsewhere(), Some("cert"));
        assert_eq!(other.here(), parse("cert"));
        assert_eq!(parse("cert").here(), parse("cert"));
        let own = parse("builtin://");
        assert!(own.is_built_in() && own.authorities().is_built_in());
        assert!(!own.is_authorities() && own.authorities().is_authorities());
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
