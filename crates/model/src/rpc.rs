//! RPC protocols that a mesh routes request by request, and how ports say that they speak one. Knows no
//! frame.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::protocol::Protocol;
use crate::route::StringMatch;

/// How many calls each workload of a service takes.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallLimit {
    /// For calls that meet no condition; `None`: they have no limit.
    pub rest: Option<CallBucket>,
    /// The first that holds gives the bucket.
    pub conditions: Vec<LimitCondition>,
}

/// Calls of a service that another service counts.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ServiceCallLimit {
    /// Attributes by name, all of which have to match; others are not limited.
    pub attributes: BTreeMap<Arc<str>, StringMatch>,
    /// Whose limits they are, to the service.
    pub domain: Arc<str>,
    /// The cluster of the service that counts.
    pub cluster: Arc<str>,
    /// Time for its answer, if not the usual one.
    pub timeout: Option<Duration>,
    /// Calls are answered with an error if it cannot be asked.
    pub deny_on_fail: bool,
    /// Attributes, and the keys under which the service gets their values.
    pub descriptors: Vec<(Arc<str>, Arc<str>)>,
}

/// What limits the calls of a service.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CallLimits {
    /// In each workload.
    pub local: Option<CallLimit>,
    /// By a service.
    pub global: Option<ServiceCallLimit>,
}

/// Calls with a bucket of their own.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LimitCondition {
    /// Attributes by name, all of which have to match.
    pub attributes: BTreeMap<Arc<str>, StringMatch>,
    /// The bucket.
    pub bucket: CallBucket,
}

/// Tokens, each for a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallBucket {
    /// Most that there are at once, and at the beginning; not 0.
    pub max_tokens: u32,
    /// How many come in each interval; not 0.
    pub tokens_per_fill: u32,
    /// 50 ms or more.
    pub fill_interval: Duration,
}

/// An RPC protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are the protocols
pub enum RpcProtocol {
    Bolt,
    Dubbo,
    Tars,
    Thrift,
}

impl RpcProtocol {
    const ALL: [Self; 4] = [Self::Bolt, Self::Dubbo, Self::Tars, Self::Thrift];

    /// Its name in ports and codecs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bolt => "bolt",
            Self::Dubbo => "dubbo",
            Self::Tars => "tars",
            Self::Thrift => "thrift",
        }
    }

    /// What a port speaks by its `appProtocol`, else by its name: the protocol, alone or before a `-`, behind
    /// `tcp-metaprotocol-` (Aeraki) or `x-` (`SOFAMesh`) or behind nothing. Istio sees TCP in such a port, or
    /// nothing that it knows. `tcp-bolt` is TCP, as it says: databases have ports of that name.
    pub fn of_port(name: &str, app_protocol: Option<&str>, protocol: Protocol) -> Option<Self> {
        if !matches!(protocol, Protocol::Tcp | Protocol::Unsupported) {
            return None;
        }
        let said = app_protocol.unwrap_or(name).to_ascii_lowercase();
        let behind = |prefix| said.strip_prefix(prefix);
        let rest = behind("tcp-metaprotocol-").or_else(|| behind("x-"));
        let rest = rest.unwrap_or(&said);
        let word = rest.split('-').next().unwrap_or_default();
        Self::ALL.into_iter().find(|one| one.as_str() == word)
    }
}

impl fmt::Display for RpcProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_say_it_in_the_words_of_several_meshes() {
        for (name, app, wanted) in [
            ("dubbo", None, Some(RpcProtocol::Dubbo)),
            ("dubbo-cart", None, Some(RpcProtocol::Dubbo)),
            ("Bolt-cart", None, Some(RpcProtocol::Bolt)),
            ("tcp-metaprotocol-dubbo", None, Some(RpcProtocol::Dubbo)),
            ("tcp-metaprotocol-bolt-1", None, Some(RpcProtocol::Bolt)),
            ("tcp-dubbo", None, None),
            ("tcp-bolt", None, None),
            ("bolt", Some("tcp"), None),
            ("x-bolt-cart", None, Some(RpcProtocol::Bolt)),
            ("any", Some("dubbo"), Some(RpcProtocol::Dubbo)),
            ("dubbo", Some("http"), None),
            ("dubbox", None, None),
            ("tcp-metaprotocol", None, None),
            ("tcp-metaprotocol-thrift", None, Some(RpcProtocol::Thrift)),
            ("thrift-cart", None, Some(RpcProtocol::Thrift)),
            ("x-tars-cart", None, Some(RpcProtocol::Tars)),
            ("tars", None, Some(RpcProtocol::Tars)),
            ("any", Some("thrift"), Some(RpcProtocol::Thrift)),
            ("tcp-thrift", None, None),
            ("tcp-metaprotocol-kafka", None, None),
            ("http-dubbo", None, None),
            ("", None, None),
        ] {
            let protocol = Protocol::select(80, name, "TCP", app);
            let found = RpcProtocol::of_port(name, app, protocol);
            assert_eq!(found, wanted, "{name} {app:?}");
        }
        assert_eq!(RpcProtocol::of_port("dubbo", None, Protocol::Http), None);
    }
}
