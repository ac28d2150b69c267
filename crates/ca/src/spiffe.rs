//! SPIFFE IDs and trust domains. Never knows certificates.
//!
//! Source: the SPIFFE-ID specification, sections 2.1 to 2.4; the path of workloads is Istio's.

use std::fmt;
use std::sync::Arc;

/// Bytes of a whole ID (SPIFFE-ID, 2.4).
const MAX_ID: usize = 2048;
/// Bytes of a trust domain's name.
const MAX_TRUST_DOMAIN: usize = 255;
const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE ID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeError {
    /// Not a trust domain's name.
    #[error(
        "{0:?} is no trust domain: 1 to 255 lower-case letters, digits, dots, dashes and underscores"
    )]
    TrustDomain(String),
    /// Not an ID.
    #[error(
        "{0:?} is no SPIFFE ID: write spiffe://trust-domain/path, with segments of letters, digits, dots, dashes and underscores"
    )]
    Id(String),
}

/// Name of a trust domain, such as `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Reads a name.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let allowed = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'.' | b'-' | b'_')
        };
        if text.is_empty() || text.len() > MAX_TRUST_DOMAIN || !text.bytes().all(allowed) {
            return Err(SpiffeError::TrustDomain(shortened(text)));
        }
        Ok(Self(text.into()))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An ID, such as `spiffe://cluster.local/ns/shop/sa/cart`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SpiffeId {
    trust_domain: TrustDomain,
    /// Empty, or with a slash before each segment.
    path: Arc<str>,
}

impl SpiffeId {
    /// Reads an ID.
    pub fn parse(text: &str) -> Result<Self, SpiffeError> {
        let wrong = || SpiffeError::Id(shortened(text));
        if text.len() > MAX_ID {
            return Err(wrong());
        }
        let rest = text.strip_prefix(SCHEME).ok_or_else(wrong)?;
        let (domain, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let trust_domain = TrustDomain::parse(domain).map_err(|_| wrong())?;
        let mut segments = path.split('/').skip(1);
        if !path.is_empty() && !segments.all(is_segment) {
            return Err(wrong());
        }
        Ok(Self {
            trust_domain,
            path: path.into(),
        })
    }

    /// The ID of a service account's workloads, in Istio's form.
    ///
    /// # Errors
    /// A name has characters that a path may not have.
    pub fn workload(
        trust_domain: &TrustDomain,
        namespace: &str,
        service_account: &str,
    ) -> Result<Self, SpiffeError> {
        let path = format!("/ns/{namespace}/sa/{service_account}");
        let text = format!("{SCHEME}{trust_domain}{path}");
        if !is_segment(namespace) || !is_segment(service_account) || text.len() > MAX_ID {
            return Err(SpiffeError::Id(shortened(&text)));
        }
        Ok(Self {
            trust_domain: trust_domain.clone(),
            path: path.into(),
        })
    }

    /// Whose ID it is.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Namespace and service account, if it is of Istio's form.
    pub fn of_workload(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path.strip_prefix("/ns/")?.split_once("/sa/")?;
        let plain = |part: &str| !part.is_empty() && !part.contains('/');
        (plain(namespace) && plain(account)).then_some((namespace, account))
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}{}", self.trust_domain, self.path)
    }
}

fn is_segment(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !matches!(text, "" | "." | "..") && text.bytes().all(allowed)
}

/// Foreign text for a message: not without end.
fn shortened(text: &str) -> String {
    text.chars().take(128).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_read_as_the_specification_says() {
        for good in [
            "spiffe://cluster.local",
            "spiffe://cluster.local/ns/a/sa/b",
            "spiffe://a_b-c.9/X/y.z",
        ] {
            assert_eq!(SpiffeId::parse(good).expect(good).to_string(), good);
        }
        for bad in [
            "",
            "spiffe://",
            "SPIFFE://a/b",
            "https://a/b",
            "spiffe://A/b",
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b/",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a:80/b",
            "spiffe://u@a/b",
            "spiffe://a/%41",
            "spiffe://a/ä",
        ] {
            assert!(SpiffeId::parse(bad).is_err(), "{bad}");
        }
        let longest = format!("spiffe://a/{}", "b".repeat(MAX_ID - 11));
        assert!(SpiffeId::parse(&longest).is_ok());
        assert!(SpiffeId::parse(&format!("{longest}b")).is_err());
        assert!(TrustDomain::parse(&"a".repeat(255)).is_ok());
        assert!(TrustDomain::parse(&"a".repeat(256)).is_err());
    }

    #[test]
    fn namespace_and_account_come_from_istios_form_alone() {
        let of = |text: &str| {
            let id = SpiffeId::parse(text).expect(text);
            id.of_workload().map(|(n, a)| (n.to_owned(), a.to_owned()))
        };
        assert_eq!(of("spiffe://d/ns/a/sa/b"), Some(("a".into(), "b".into())));
        for other in [
            "spiffe://d",
            "spiffe://d/a",
            "spiffe://d/ns/a",
            "spiffe://d/ns/a/sa/b/c",
            "spiffe://d/ns/a/x/sa/b",
            "spiffe://d/x/ns/a/sa/b",
        ] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    proptest! {
        #[test]
        fn what_is_made_of_names_is_read_back(ns in "[a-z0-9.-]{1,20}", sa in ".{0,20}") {
            let domain = TrustDomain::parse("cluster.local").expect("valid");
            match SpiffeId::workload(&domain, &ns, &sa) {
                Ok(id) => {
                    let read = SpiffeId::parse(&id.to_string()).expect("it was made");
                    prop_assert_eq!(read.of_workload(), Some((ns.as_str(), sa.as_str())));
                }
                Err(_) => prop_assert!(!is_segment(&ns) || !is_segment(&sa)),
            }
        }

        #[test]
        fn any_text_is_read_or_refused(text in ".{0,200}") {
            if let Ok(id) = SpiffeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text);
            }
        }
    }
}
