//! What proxies report: Istio's Telemetry.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::balancing::Number;
use crate::labels::Labels;
use crate::name::RuleMeta;

/// What some workloads of a namespace report; in the root namespace, all that do not say.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Telemetry {
    /// Whence it came.
    pub meta: RuleMeta,
    /// Labels of the workloads; `None` is the whole namespace.
    pub selector: Option<Labels>,
    /// Access logs, in order.
    pub access_logs: Vec<AccessLogging>,
    /// Spans, in order; a later one overrides an earlier.
    pub tracing: Vec<Tracing>,
}

/// Which side of a call a rule is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum CallSide {
    /// Both.
    #[default]
    Both,
    /// Outbound listeners of sidecars, and gateways.
    Client,
    /// Inbound listeners of sidecars.
    Server,
}

impl CallSide {
    /// Whether a rule for these is for listeners of `side`.
    pub fn includes(self, side: Self) -> bool {
        self == Self::Both || self == side
    }
}

/// Where access logs go.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct AccessLogging {
    /// For which listeners.
    pub side: CallSide,
    /// Names of providers; none are those of the level above.
    pub providers: Vec<Arc<str>>,
    /// They get none.
    pub disabled: bool,
    /// CEL expression for what is logged; `None` is all.
    pub filter: Option<Arc<str>>,
}

/// Where spans go, how many, and what they carry. `None` is what the level above says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Tracing {
    /// For which listeners.
    pub side: CallSide,
    /// Name of the provider.
    pub provider: Option<Arc<str>>,
    /// Share of requests in percent.
    pub sampling: Option<Number>,
    /// No spans.
    pub disabled: Option<bool>,
    /// Tags of every span, instead of those of the level above.
    pub tags: Option<BTreeMap<Arc<str>, TraceTag>>,
    /// Whether the request id says if a request is sampled.
    pub by_request_id: Option<bool>,
    /// Whether spans name service, namespace and cluster.
    pub istio_tags: Option<bool>,
    /// Trace headers are not passed on.
    pub no_propagation: Option<bool>,
}

/// The value of a span's tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum TraceTag {
    /// This.
    Literal(Arc<str>),
    /// A variable of the proxy's environment.
    Environment {
        /// Its name.
        name: Arc<str>,
        /// If it is not set.
        default: Arc<str>,
    },
    /// A header of the request.
    Header {
        /// Its name.
        name: Arc<str>,
        /// If the request has none.
        default: Arc<str>,
    },
    /// Text with access-log operators.
    Format(Arc<str>),
}
