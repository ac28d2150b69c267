//! Where a workload's proxy listens, for its own workload and for the calls that it makes, and what
//! it sees of the mesh there: Istio's Sidecar.

use std::sync::Arc;

use crate::destination::ConnectionPool;
use crate::gateway::TlsTermination;
use crate::hostname::Hostname;
use crate::labels::Labels;
use crate::mesh::OutboundTrafficPolicy;
use crate::name::{Namespace, PortNumber, RuleMeta};
use crate::protocol::Protocol;
use crate::route::Destination;

/// The scope of some workloads of a namespace; in the root namespace, of all that have no own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Sidecar {
    /// Whence it came.
    pub meta: RuleMeta,
    /// Labels of the workloads; `None` is the default for the namespace.
    pub selector: Option<Labels>,
    /// Where the workload is called; empty is at the ports that its services lead to.
    pub ingress: Vec<IngressListener>,
    /// Limits of connections to the workload, at ports without own ones.
    pub inbound_pool: Option<ConnectionPool>,
    /// Where the workload calls others, and whom. Empty is everybody who is exported to its
    /// namespace. Only the last one may be without a port.
    pub egress: Vec<EgressListener>,
    /// What happens to calls of unknown hosts; `None` is the mesh's setting.
    pub outbound_policy: Option<OutboundTrafficPolicy>,
    /// Where calls of unknown hosts go, if they are allowed.
    pub egress_proxy: Option<Destination>,
}

impl Sidecar {
    /// The limits of connections to a port of the workload.
    pub fn pool_at(&self, port: u16) -> Option<&ConnectionPool> {
        let mut ingress = self.ingress.iter();
        ingress
            .find(|listener| listener.port.get() == port && listener.pool.is_some())
            .and_then(|listener| listener.pool.as_ref())
            .or(self.inbound_pool.as_ref())
    }

    /// The egress listeners, unless there is only one that says nothing.
    pub fn listeners(&self) -> &[EgressListener] {
        match &self.egress[..] {
            [only] if only.is_default() => &[],
            all => all,
        }
    }

    /// The egress listener whose routes and hosts hold for a port: the one with just this port,
    /// else the one without any. `None` is no port.
    pub fn egress_of(&self, port: Option<PortNumber>) -> Option<usize> {
        self.listeners().iter().position(|listener| {
            let own = listener.port.as_ref();
            own.is_none_or(|own| port.is_some() && own.number == port)
        })
    }
}

/// How connections come to a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CaptureMode {
    /// As the proxy says of itself.
    #[default]
    Default,
    /// They are redirected.
    Iptables,
    /// They are made to the listener's own socket.
    None,
}

/// A port where the workload is called.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IngressListener {
    /// Where clients connect.
    pub port: PortNumber,
    /// The port's name; may be empty.
    pub port_name: Arc<str>,
    /// What is spoken there.
    pub protocol: Protocol,
    /// The IP address, as it is written; `None` is the workload's own.
    pub bind: Option<Arc<str>>,
    /// How connections come.
    pub capture: CaptureMode,
    /// Where they go on to.
    pub endpoint: DefaultEndpoint,
    /// TLS that ends here, if the port's policy has no mutual TLS.
    pub tls: Option<TlsTermination>,
    /// Limits of connections to the workload.
    pub pool: Option<ConnectionPool>,
}

/// Where an application listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum DefaultEndpoint {
    /// Where the client wanted to connect.
    AsCalled,
    /// At a port of the loopback address.
    Loopback {
        /// Which of the two is preferred.
        v6: bool,
        /// The port.
        port: PortNumber,
    },
    /// At a port of the workload's address.
    Instance {
        /// Which family.
        v6: bool,
        /// The port.
        port: PortNumber,
    },
    /// At a Unix socket; `@` begins an abstract name.
    Unix(Arc<str>),
}

/// Where the workload calls others.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EgressListener {
    /// The port; `None` is each port of each service that no other listener has.
    pub port: Option<EgressPort>,
    /// An IP address, or `unix://` and a path; as it is written.
    pub bind: Option<Arc<str>>,
    /// How connections come.
    pub capture: CaptureMode,
    /// Whom it reaches; never empty.
    pub hosts: Vec<EgressHost>,
}

/// The port of an egress listener.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EgressPort {
    /// `None` with a Unix socket.
    pub number: Option<PortNumber>,
    /// What is spoken, whatever services say of themselves.
    pub protocol: Protocol,
    /// Its name; may be empty.
    pub name: Arc<str>,
}

/// `namespace/host` of an egress listener: an import, or an exception from all imports.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct EgressHost {
    /// Whose services and rules.
    pub scope: EgressScope,
    /// Which names.
    pub host: Hostname,
    /// Whether they are left out.
    pub excluded: bool,
}

/// The namespaces that an egress host speaks of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum EgressScope {
    /// Any.
    Any,
    /// The proxy's own, which is another one than the Sidecar's where that is in the root namespace.
    Own,
    /// This one.
    Namespace(Namespace),
}

impl EgressHost {
    fn speaks_of(&self, reader: &Namespace, namespace: &Namespace) -> bool {
        match &self.scope {
            EgressScope::Any => true,
            EgressScope::Own => reader == namespace,
            EgressScope::Namespace(own) => own == namespace,
        }
    }
}

impl EgressListener {
    /// Whether a proxy of `reader` sees a service here.
    pub fn imports(&self, reader: &Namespace, namespace: &Namespace, host: &Hostname) -> bool {
        let covers = |h: &EgressHost| h.speaks_of(reader, namespace) && h.host.covers(host);
        self.hosts.iter().any(|h| !h.excluded && covers(h)) && !self.excludes(&covers)
    }

    /// Whether a rule with these hosts holds here: whole, if one of its hosts is meant.
    pub fn imports_rule(
        &self,
        reader: &Namespace,
        namespace: &Namespace,
        hosts: &[Hostname],
    ) -> bool {
        hosts.iter().any(|host| {
            let mut own = self.hosts.iter();
            own.any(|h| !h.excluded && h.speaks_of(reader, namespace) && h.host.overlaps(host))
                && !self.excludes(&|h| h.speaks_of(reader, namespace) && h.host.covers(host))
        })
    }

    fn excludes(&self, covers: &dyn Fn(&EgressHost) -> bool) -> bool {
        self.hosts.iter().any(|h| h.excluded && covers(h))
    }

    /// Whether nothing that is exported to the namespace is left out.
    pub fn imports_all(&self) -> bool {
        let all = |h: &EgressHost| h.scope == EgressScope::Any && h.host.as_str() == "*";
        self.matched_port().is_none()
            && self.hosts.iter().any(|h| !h.excluded && all(h))
            && !self.hosts.iter().any(|h| h.excluded)
    }

    /// Whether it is as if it were not there.
    fn is_default(&self) -> bool {
        self.imports_all()
            && self.port.is_none()
            && self.bind.is_none()
            && self.capture != CaptureMode::None
    }

    /// The port that services must have to be reached here. A generic HTTP proxy and a Unix socket
    /// reach all.
    pub fn matched_port(&self) -> Option<PortNumber> {
        let port = self.port.as_ref()?;
        port.number.filter(|_| port.protocol != Protocol::HttpProxy)
    }

    /// The path, if it is a Unix socket.
    pub fn unix_path(&self) -> Option<&str> {
        unix_path(self.bind.as_deref()?)
    }
}

/// The path in `unix://<path>`.
pub fn unix_path(bind: &str) -> Option<&str> {
    bind.strip_prefix("unix://")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(hosts: &[(&str, &str)]) -> EgressListener {
        let hosts = hosts.iter().map(|(scope, host)| EgressHost {
            excluded: scope.starts_with('~'),
            scope: match scope.trim_start_matches('~') {
                "*" | "" => EgressScope::Any,
                "." => EgressScope::Own,
                name => EgressScope::Namespace(Namespace::new(name)),
            },
            host: Hostname::parse(host).expect("a host"),
        });
        EgressListener {
            port: None,
            bind: None,
            capture: CaptureMode::Default,
            hosts: hosts.collect(),
        }
    }

    #[test]
    fn exceptions_take_from_imports_and_the_own_namespace_is_the_readers() {
        let (shop, other) = (Namespace::new("shop"), Namespace::new("other"));
        let host = |text| Hostname::parse(text).expect("a host");
        let own = listener(&[(".", "*")]);
        assert!(own.imports(&shop, &shop, &host("a.b")));
        assert!(own.imports(&other, &other, &host("a.b")));
        assert!(!own.imports(&shop, &other, &host("a.b")));
        let but = listener(&[("*", "*"), ("~other", "*.b"), ("~", "x.y")]);
        assert!(but.imports(&shop, &shop, &host("a.b")));
        assert!(!but.imports(&shop, &other, &host("a.b")));
        assert!(but.imports(&shop, &other, &host("a.c")));
        assert!(!but.imports(&shop, &shop, &host("x.y")));
        assert!(!but.imports_all() && listener(&[("*", "*")]).imports_all());
        assert!(!listener(&[("~", "*")]).imports(&shop, &shop, &host("a.b")));
    }

    #[test]
    fn a_rule_is_imported_whole() {
        let shop = Namespace::new("shop");
        let hosts = ["a.b", "c.d"].map(|h| Hostname::parse(h).expect("a host"));
        let one = listener(&[("shop", "a.b")]);
        assert!(one.imports_rule(&shop, &shop, &hosts));
        assert!(!one.imports_rule(&shop, &shop, &hosts[1..]));
        let none = listener(&[("shop", "a.b"), ("~shop", "a.b")]);
        assert!(!none.imports_rule(&shop, &shop, &hosts));
    }
}
