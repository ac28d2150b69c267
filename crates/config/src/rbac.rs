//! Role-based access control: policies, and what they say about a request or a connection.
//!
//! Source of the rules: Envoy, "Role Based Access Control (RBAC)"; policies are looked at in the
//! order of their names, and the first that matches is the effective one.

pub(crate) mod convert;
pub(crate) mod filters;
mod template;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

pub use filters::{NetworkRbac, RbacFilter};
pub use template::UriTemplate;

use crate::address::CidrRange;
use crate::call::CallView;
use crate::format::Pseudo;
use crate::matching::{HeaderMatch, MetadataMatch, StringMatch};
use crate::metadata::Metadata;
use crate::route::RequestHead;

/// What a policy that matches means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Whoever matches gets in, and nobody else.
    Allow,
    /// Whoever matches is kept out.
    Deny,
    /// Everybody gets in; whoever matches is marked for the log.
    Log,
}

/// A set of policies with one action.
#[derive(Debug, Clone, PartialEq)]
pub struct Rbac {
    /// What a match means.
    pub action: Action,
    /// In the order of their names.
    pub policies: Vec<Policy>,
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Its name, which answers and logs tell.
    pub name: Arc<str>,
    /// What is done: one of them must match.
    pub permissions: Vec<Condition>,
    /// Who does it: one of them must match.
    pub principals: Vec<Condition>,
}

/// Where metadata comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetadataSource {
    /// What filters have left on the request.
    Dynamic,
    /// What the configuration says of the route.
    Route,
}

/// One condition of a permission or principal.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// Always true.
    Any,
    /// All of them.
    All(Vec<Condition>),
    /// One of them.
    OneOf(Vec<Condition>),
    /// The other is not true.
    Not(Box<Condition>),
    /// A request header; no connection has one.
    Header(HeaderMatch),
    /// The path without query and fragment.
    Path(StringMatch),
    /// The path without query and fragment, by a template.
    Template(UriTemplate),
    /// The address that the client wanted to reach.
    DestinationIp(CidrRange),
    /// Its port, from the first up to, not including, the second.
    DestinationPorts(u16, u32),
    /// The peer of the connection.
    DirectRemoteIp(CidrRange),
    /// The client as far as trusted proxies in front tell.
    RemoteIp(CidrRange),
    /// The client came over TLS and, if a matcher is set, a name of its certificate matches.
    Authenticated(Option<StringMatch>),
    /// Server name of the TLS hello; empty if there was none.
    ServerName(StringMatch),
    /// A value that somebody left.
    Metadata(MetadataMatch, MetadataSource),
}

/// The names in a client's certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PeerNames {
    /// URI names, such as SPIFFE identities.
    pub uris: Vec<String>,
    /// DNS names.
    pub dns: Vec<String>,
    /// Subject in RFC 2253's form; empty without a certificate.
    pub subject: String,
}

/// What is asked for.
#[derive(Debug, Clone, Copy)]
pub enum Head<'a> {
    /// By a request.
    Http(RequestHead<'a>),
    /// By an RPC call.
    Call(&'a dyn CallView),
}

/// What policies look at.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// The request or call; `None` for a connection.
    pub head: Option<Head<'a>>,
    /// The client's certificate: `None` in plain text, no names if it showed none.
    pub peer: Option<&'a PeerNames>,
    /// Server name of the TLS hello, or empty.
    pub server_name: &'a str,
    /// The address that the client wanted to reach.
    pub destination: SocketAddr,
    /// The peer of the connection.
    pub direct_remote: IpAddr,
    /// The client as far as trusted proxies in front tell.
    pub remote: IpAddr,
    /// What filters have left.
    pub metadata: Option<&'a Metadata>,
    /// What the configuration says of the route.
    pub route_metadata: Option<&'a Metadata>,
}

impl Rbac {
    /// The first policy that matches. What of a call cannot be read is taken for what lets fewer in.
    pub fn effective_policy(&self, subject: &Subject<'_>) -> Option<&Arc<str>> {
        let doubt = self.action == Action::Deny;
        let mut policies = self.policies.iter();
        let found = policies.find(|policy| policy.matches(subject, doubt));
        found.map(|policy| &policy.name)
    }

    /// Whether a subject with this effective policy gets in.
    pub fn allows(&self, effective: Option<&Arc<str>>) -> bool {
        match self.action {
            Action::Allow => effective.is_some(),
            Action::Deny => effective.is_none(),
            Action::Log => true,
        }
    }

    /// Whether a policy looks at the names in the client's certificate.
    pub fn wants_names(&self) -> bool {
        self.policies.iter().any(|policy| {
            let mut conditions = policy.permissions.iter().chain(&policy.principals);
            conditions.any(Condition::wants_names)
        })
    }
}

impl Policy {
    fn matches(&self, subject: &Subject<'_>, doubt: bool) -> bool {
        let one = |conditions: &[Condition]| {
            let mut conditions = conditions.iter();
            conditions.any(|one| one.holds(subject, doubt))
        };
        one(&self.permissions) && one(&self.principals)
    }
}

impl Condition {
    fn wants_names(&self) -> bool {
        match self {
            Self::Authenticated(_) => true,
            Self::All(conditions) | Self::OneOf(conditions) => {
                conditions.iter().any(Self::wants_names)
            }
            Self::Not(condition) => condition.wants_names(),
            _ => false,
        }
    }

    /// Whether it is true of a subject. `doubt`: what to take for true that cannot be told.
    fn holds(&self, subject: &Subject<'_>, doubt: bool) -> bool {
        let path = |matches: &dyn Fn(&str) -> bool| match &subject.head {
            None => false,
            Some(Head::Http(head)) => matches(head.path_only()),
            Some(Head::Call(call)) => match call.pseudo(Pseudo::Path) {
                Ok(path) => path.is_some_and(|path| matches(&path)),
                Err(_) => doubt,
            },
        };
        match self {
            Self::Any => true,
            Self::All(conditions) => conditions.iter().all(|one| one.holds(subject, doubt)),
            Self::OneOf(conditions) => conditions.iter().any(|one| one.holds(subject, doubt)),
            Self::Not(condition) => !condition.holds(subject, !doubt),
            Self::Header(header) => match &subject.head {
                Some(Head::Http(head)) => header.matches(head),
                Some(Head::Call(call)) => header.matches_call(*call).unwrap_or(doubt),
                None => header.matches_none(),
            },
            Self::Path(text) => path(&|path| text.matches(path.as_bytes())),
            Self::Template(template) => path(&|path| template.matches(path)),
            Self::DestinationIp(range) => range.contains(subject.destination.ip().to_canonical()),
            Self::DestinationPorts(start, end) => {
                let port = subject.destination.port();
                *start <= port && u32::from(port) < *end
            }
            Self::DirectRemoteIp(range) => range.contains(subject.direct_remote.to_canonical()),
            Self::RemoteIp(range) => range.contains(subject.remote.to_canonical()),
            Self::Authenticated(name) => subject.peer.is_some_and(|peer| {
                name.as_ref().is_none_or(|name| {
                    let mut names = peer.uris.iter().chain(&peer.dns).chain([&peer.subject]);
                    names.any(|one| name.matches(one.as_bytes()))
                })
            }),
            Self::ServerName(name) => name.matches(subject.server_name.as_bytes()),
            Self::Metadata(matcher, MetadataSource::Dynamic) => matcher.matches(subject.metadata),
            // Without a route there is nothing to turn round.
            Self::Metadata(matcher, MetadataSource::Route) => {
                subject.head.is_some() && matcher.matches(subject.route_metadata)
            }
        }
    }
}

#[cfg(test)]
mod tests;
