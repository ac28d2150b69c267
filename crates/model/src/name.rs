//! Names and small numbers as types of their own, so that a port is never mistaken for a weight
//! and a namespace never for a name. Knows no API version but the one that is canonical.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

/// Why a name or a number was refused. The text ends with what is expected.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not a DNS-1123 label.
    #[error(
        "\"{0}\" is no valid name: use lower-case letters, digits and '-', at most 63, starting and ending with a letter or digit"
    )]
    Label(String),
    /// Not a port.
    #[error("port {0} is out of range: use 1 to 65535")]
    Port(i64),
}

/// Says whether `text` is a DNS-1123 label (RFC 1123 with Kubernetes' lower-case rule).
pub fn is_dns_label(text: &str) -> bool {
    let alnum = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let (Some(&first), Some(&last)) = (bytes.first(), bytes.last()) else {
        return false;
    };
    bytes.len() <= 63 && alnum(first) && alnum(last) && bytes.iter().all(|&b| alnum(b) || b == b'-')
}

/// A Kubernetes namespace (a DNS-1123 label). Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace(Arc<str>);

impl Namespace {
    /// Takes a name as it stands; use [`Namespace::parse`] for text from outside.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// Takes a name from outside.
    pub fn parse(name: &str) -> Result<Self, NameError> {
        if is_dns_label(name) {
            Ok(Self(name.into()))
        } else {
            Err(NameError::Label(name.to_owned()))
        }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A TCP or UDP port, 1 to 65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortNumber(u16);

impl PortNumber {
    /// Takes a number from outside.
    pub fn new(number: impl Into<i64>) -> Result<Self, NameError> {
        let number = number.into();
        match u16::try_from(number) {
            Ok(port) if port != 0 => Ok(Self(port)),
            _ => Err(NameError::Port(number)),
        }
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0
    }
}

impl fmt::Display for PortNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A relative share of traffic; meaningful only beside its siblings.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Weight(pub u32);

/// Seconds since 1970, UTC: `metadata.creationTimestamp`, which decides who was first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(pub i64);

/// The kinds of object that the mesh is made of. The version of an API group is not part of an
/// object's identity: `v1alpha3`, `v1beta1` and `v1` name the same object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are the kinds
pub enum Kind {
    Service,
    Endpoints,
    EndpointSlice,
    Pod,
    Namespace,
    Secret,
    ConfigMap,
    ServiceEntry,
    WorkloadEntry,
    VirtualService,
    DestinationRule,
    Gateway,
    Sidecar,
    EnvoyFilter,
    PeerAuthentication,
    AuthorizationPolicy,
    RequestAuthentication,
    ProxyConfig,
    Telemetry,
    WorkloadGroup,
    MeshNetworks,
    MetaRouter,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 22] = [
        Self::Service,
        Self::Endpoints,
        Self::EndpointSlice,
        Self::Pod,
        Self::Namespace,
        Self::Secret,
        Self::ConfigMap,
        Self::ServiceEntry,
        Self::WorkloadEntry,
        Self::VirtualService,
        Self::DestinationRule,
        Self::Gateway,
        Self::Sidecar,
        Self::EnvoyFilter,
        Self::PeerAuthentication,
        Self::AuthorizationPolicy,
        Self::RequestAuthentication,
        Self::ProxyConfig,
        Self::Telemetry,
        Self::WorkloadGroup,
        Self::MeshNetworks,
        Self::MetaRouter,
    ];

    /// The API group; empty for Kubernetes' core group.
    pub fn group(self) -> &'static str {
        match self {
            Self::Service
            | Self::Endpoints
            | Self::Pod
            | Self::Namespace
            | Self::Secret
            | Self::ConfigMap => "",
            Self::EndpointSlice => "discovery.k8s.io",
            Self::PeerAuthentication | Self::AuthorizationPolicy | Self::RequestAuthentication => {
                "security.istio.io"
            }
            Self::Telemetry => "telemetry.istio.io",
            Self::MetaRouter => "metaprotocol.aeraki.io",
            _ => "networking.istio.io",
        }
    }

    /// The canonical version of the kind's group.
    pub fn version(self) -> &'static str {
        match self {
            Self::EnvoyFilter => "v1alpha3",
            Self::MetaRouter => "v1alpha1",
            _ => "v1",
        }
    }

    /// The kind as it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Service => "Service",
            Self::Endpoints => "Endpoints",
            Self::EndpointSlice => "EndpointSlice",
            Self::Pod => "Pod",
            Self::Namespace => "Namespace",
            Self::Secret => "Secret",
            Self::ConfigMap => "ConfigMap",
            Self::ServiceEntry => "ServiceEntry",
            Self::WorkloadEntry => "WorkloadEntry",
            Self::VirtualService => "VirtualService",
            Self::DestinationRule => "DestinationRule",
            Self::Gateway => "Gateway",
            Self::Sidecar => "Sidecar",
            Self::EnvoyFilter => "EnvoyFilter",
            Self::PeerAuthentication => "PeerAuthentication",
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::RequestAuthentication => "RequestAuthentication",
            Self::ProxyConfig => "ProxyConfig",
            Self::Telemetry => "Telemetry",
            Self::WorkloadGroup => "WorkloadGroup",
            Self::MeshNetworks => "MeshNetworks",
            Self::MetaRouter => "MetaRouter",
        }
    }

    /// The kind as Istio writes it in `config:` paths.
    pub fn kebab(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Endpoints => "endpoints",
            Self::EndpointSlice => "endpoint-slice",
            Self::Pod => "pod",
            Self::Namespace => "namespace",
            Self::Secret => "secret",
            Self::ConfigMap => "config-map",
            Self::ServiceEntry => "service-entry",
            Self::WorkloadEntry => "workload-entry",
            Self::VirtualService => "virtual-service",
            Self::DestinationRule => "destination-rule",
            Self::Gateway => "gateway",
            Self::Sidecar => "sidecar",
            Self::EnvoyFilter => "envoy-filter",
            Self::PeerAuthentication => "peer-authentication",
            Self::AuthorizationPolicy => "authorization-policy",
            Self::RequestAuthentication => "request-authentication",
            Self::ProxyConfig => "proxy-config",
            Self::Telemetry => "telemetry",
            Self::WorkloadGroup => "workload-group",
            Self::MeshNetworks => "mesh-networks",
            Self::MetaRouter => "meta-router",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The object that a piece of the model came from. Displayed as `kind/namespace/name`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ObjectRef {
    /// What it is.
    pub kind: Kind,
    /// Where it lives.
    pub namespace: Namespace,
    /// What it is called there.
    pub name: Arc<str>,
}

impl ObjectRef {
    /// Names an object.
    pub fn new(kind: Kind, namespace: Namespace, name: impl Into<Arc<str>>) -> Self {
        Self {
            kind,
            namespace,
            name: name.into(),
        }
    }

    /// The value of Istio's `filter_metadata.istio.config`:
    /// `/apis/<group>/<version>/namespaces/<ns>/<kebab-kind>/<name>`.
    pub fn config_path(&self) -> String {
        let version = self.kind.version();
        let root = match self.kind.group() {
            "" => format!("/api/{version}"),
            group => format!("/apis/{group}/{version}"),
        };
        format!(
            "{root}/namespaces/{}/{}/{}",
            self.namespace,
            self.kind.kebab(),
            self.name
        )
    }
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.kind, self.namespace, self.name)
    }
}

/// What every rule has: whence it came and since when it exists. Rules that compete are ordered
/// by [`RuleMeta::precedence`], the older first, as Istio does.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RuleMeta {
    /// The object.
    pub origin: ObjectRef,
    /// `metadata.creationTimestamp`; files usually have none.
    pub created: Option<Timestamp>,
}

impl RuleMeta {
    /// A key that sorts the winner first: older, then by name, then by namespace (the order of
    /// Istio's `sortByCreationComparator`). Objects without a time sort before those with one,
    /// as Go's zero time does.
    pub fn precedence(&self) -> (Option<Timestamp>, &str, &str) {
        (
            self.created,
            &self.origin.name,
            self.origin.namespace.as_str(),
        )
    }
}

/// Who may see a service or a rule (`exportTo`).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ExportTo {
    /// Everybody (`*`).
    All,
    /// Nobody (`~`).
    Nobody,
    /// These namespaces; `.` is resolved to the object's own.
    Namespaces(BTreeSet<Namespace>),
}

impl ExportTo {
    /// Says whether a proxy of `namespace` may see the object.
    pub fn allows(&self, namespace: &Namespace) -> bool {
        match self {
            Self::All => true,
            Self::Nobody => false,
            Self::Namespaces(set) => set.contains(namespace),
        }
    }

    /// The same for an object of `own`: in a default for many objects, `.` is each one's own
    /// namespace.
    #[must_use]
    pub fn of_object(&self, own: &Namespace) -> Self {
        match self {
            Self::Namespaces(set) => {
                let each = set.iter().map(|name| match name.as_str() {
                    "." => own.clone(),
                    _ => name.clone(),
                });
                Self::Namespaces(each.collect())
            }
            Self::All | Self::Nobody => self.clone(),
        }
    }

    /// Whether a rule exported like this may be merged into an older one exported like `older`:
    /// to the same, or by name to all of those and more, as in Istio.
    pub fn merges_into(&self, older: &Self) -> bool {
        match (self, older) {
            (Self::Namespaces(own), Self::Namespaces(older)) => own.is_superset(older),
            _ => self == older,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_path_is_istios() {
        let rule = ObjectRef::new(Kind::DestinationRule, Namespace::new("shop"), "reviews");
        assert_eq!(
            rule.config_path(),
            "/apis/networking.istio.io/v1/namespaces/shop/destination-rule/reviews"
        );
        let service = ObjectRef::new(Kind::Service, Namespace::new("shop"), "reviews");
        assert_eq!(
            service.config_path(),
            "/api/v1/namespaces/shop/service/reviews"
        );
    }

    #[test]
    fn ports_outside_of_the_range_are_refused() {
        assert!(PortNumber::new(0).is_err());
        assert!(PortNumber::new(65_536).is_err());
        assert!(PortNumber::new(-1).is_err());
        assert_eq!(PortNumber::new(65_535).map(PortNumber::get), Ok(65_535));
    }

    #[test]
    fn the_older_rule_comes_first_and_one_without_a_time_before_it() {
        let rule = |name: &str, created| RuleMeta {
            origin: ObjectRef::new(Kind::VirtualService, Namespace::new("a"), name),
            created,
        };
        let (none, old, new) = (
            rule("z", None),
            rule("b", Some(Timestamp(1))),
            rule("a", Some(Timestamp(2))),
        );
        assert!(none.precedence() < old.precedence());
        assert!(old.precedence() < new.precedence());
    }

    #[test]
    fn labels_of_dns_are_told_from_other_text() {
        assert!(is_dns_label("a-1"));
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
    }
}
