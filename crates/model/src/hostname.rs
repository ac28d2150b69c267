//! Host names of services and rules, with Istio's wildcards and their order of specificity.
//! Knows no DNS resolution.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use crate::name::Namespace;

/// Why a host name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing there.
    #[error("the host is empty: write a host name such as \"reviews.default.svc.cluster.local\"")]
    Empty,
    /// Longer than DNS allows.
    #[error("host \"{0}\" is longer than 255 characters")]
    TooLong(String),
    /// A label breaks the rules.
    #[error(
        "\"{label}\" in host \"{host}\" is no DNS label: use letters, digits and '-', at most 63, starting and ending with a letter or digit; '*' only at the very start"
    )]
    Label {
        /// The whole name.
        host: String,
        /// The wrong part.
        label: String,
    },
}

/// A lower-case FQDN, or a wildcard that matches by suffix: `*`, `*.example.com`,
/// `*-canary.example.com`. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Takes a name from outside, by the rules of Istio's `ValidateWildcardDomain`; a trailing
    /// dot is dropped.
    pub fn parse(text: &str) -> Result<Self, HostnameError> {
        let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
        if host.is_empty() {
            return Err(HostnameError::Empty);
        }
        if host.len() > 255 {
            return Err(HostnameError::TooLong(text.to_owned()));
        }
        if host == "*" {
            return Ok(Self(host.into()));
        }
        for (index, label) in host.split('.').enumerate() {
            let bare = match label.strip_prefix('*') {
                Some("") if index == 0 => continue,
                Some(rest) if index == 0 => rest.strip_prefix('-').unwrap_or(rest),
                _ => label,
            };
            // Underscores occur in real external names (`_dmarc`), which Envoy takes.
            let valid = crate::name::is_dns_label(&bare.replace('_', "a"));
            if !valid {
                return Err(HostnameError::Label {
                    host: text.to_owned(),
                    label: label.to_owned(),
                });
            }
        }
        Ok(Self(host.into()))
    }

    /// Takes a name from outside that may be short: one label without a dot is a service of
    /// `namespace` (Istio's `ResolveShortnameToFQDN`).
    pub fn resolve(
        text: &str,
        namespace: &Namespace,
        cluster_domain: &str,
    ) -> Result<Self, HostnameError> {
        let parsed = Self::parse(text)?;
        if text.contains('.') || parsed.is_wildcard() {
            return Ok(parsed);
        }
        Ok(Self::of_service(parsed.as_str(), namespace, cluster_domain))
    }

    /// `<name>.<namespace>.svc.<cluster_domain>`, the host of a Kubernetes service.
    pub fn of_service(name: &str, namespace: &Namespace, cluster_domain: &str) -> Self {
        Self(format!("{name}.{namespace}.svc.{cluster_domain}").into())
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it starts with `*`.
    pub fn is_wildcard(&self) -> bool {
        self.0.starts_with('*')
    }

    /// What must stand at the end of a name that this wildcard matches; `None` for a plain name.
    /// Empty for `*`.
    pub fn wildcard_suffix(&self) -> Option<&str> {
        self.0.strip_prefix('*')
    }

    /// Says whether every name that `other` stands for is also one of this (Istio's `SubsetOf`,
    /// turned around): `*.com` covers `*.example.com`, `a.com`, and itself.
    pub fn covers(&self, other: &Self) -> bool {
        match self.wildcard_suffix() {
            None => self == other,
            Some(suffix) => match other.wildcard_suffix() {
                Some(inner) => inner.ends_with(suffix),
                // `*.example.com` is not `.example.com`: the star stands for something.
                None => other.0.len() > suffix.len() && other.0.ends_with(suffix),
            },
        }
    }

    /// Says whether some name is meant by both (Istio's `Matches`).
    pub fn overlaps(&self, other: &Self) -> bool {
        self.covers(other) || other.covers(self)
    }

    /// The narrower of two names that overlap: what both mean.
    pub fn intersection(&self, other: &Self) -> Option<Self> {
        if self.covers(other) {
            Some(other.clone())
        } else if other.covers(self) {
            Some(self.clone())
        } else {
            None
        }
    }

    /// Orders the most specific first: plain names before wildcards, longer wildcards before
    /// shorter ones, then by the alphabet.
    pub fn cmp_specificity(&self, other: &Self) -> Ordering {
        (self.is_wildcard().cmp(&other.is_wildcard()))
            .then_with(|| {
                if self.is_wildcard() {
                    other.0.len().cmp(&self.0.len())
                } else {
                    Ordering::Equal
                }
            })
            .then_with(|| self.0.cmp(&other.0))
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The namespaces that a scoped host (`ns/host`) speaks of; `.` is resolved when it is read.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum HostScope {
    /// `*`: any.
    Any,
    /// `~`: none at all.
    Nothing,
    /// This one.
    Namespace(Namespace),
}

/// `namespace/host`, as Gateway servers and Sidecar egress write it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ScopedHost {
    /// Whose services (Sidecar) or whose `VirtualServices` (Gateway).
    pub scope: HostScope,
    /// Which names.
    pub host: Hostname,
}

impl ScopedHost {
    /// Says whether `host` of `namespace` is within.
    pub fn includes(&self, namespace: &Namespace, host: &Hostname) -> bool {
        let scope = match &self.scope {
            HostScope::Any => true,
            HostScope::Nothing => false,
            HostScope::Namespace(own) => own == namespace,
        };
        scope && self.host.covers(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Hostname {
        Hostname::parse(text).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn names_are_checked_and_lowered() {
        assert_eq!(host("Reviews.Shop.").as_str(), "reviews.shop");
        for good in [
            "*",
            "*.a.com",
            "*-x.a.com",
            "*x.com",
            "a",
            "a_b.com",
            "1.2.3.4",
        ] {
            assert!(Hostname::parse(good).is_ok(), "{good}");
        }
        for bad in [
            "", ".", "a..b", "a.*.b", "-a.com", "a b", "**", "http://a", "a.com:80",
        ] {
            assert!(Hostname::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn short_names_belong_to_the_namespace() {
        let ns = Namespace::new("shop");
        let resolve = |text| Hostname::resolve(text, &ns, "cluster.local").map(|h| h.to_string());
        assert_eq!(
            resolve("reviews"),
            Ok("reviews.shop.svc.cluster.local".to_owned())
        );
        assert_eq!(resolve("reviews.other"), Ok("reviews.other".to_owned()));
        assert_eq!(resolve("*"), Ok("*".to_owned()));
    }

    #[test]
    fn wildcards_cover_by_suffix() {
        assert!(host("*").covers(&host("a.com")) && host("*").covers(&host("*.com")));
        assert!(host("*.com").covers(&host("*.a.com")) && !host("*.a.com").covers(&host("*.com")));
        assert!(
            host("*.a.com").covers(&host("b.a.com")) && !host("*.a.com").covers(&host("a.com"))
        );
        assert!(
            host("*.a.com").overlaps(&host("*.com")) && !host("a.com").overlaps(&host("b.com"))
        );
        assert_eq!(
            host("*.com").intersection(&host("a.com")),
            Some(host("a.com"))
        );
    }

    #[test]
    fn the_most_specific_name_sorts_first() {
        let mut hosts = [
            host("*"),
            host("*.com"),
            host("b.com"),
            host("*.a.com"),
            host("a.com"),
        ];
        hosts.sort_by(Hostname::cmp_specificity);
        let sorted: Vec<_> = hosts.iter().map(Hostname::as_str).collect();
        assert_eq!(sorted, ["a.com", "b.com", "*.a.com", "*.com", "*"]);
    }
}
