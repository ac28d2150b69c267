//! Limits of requests by descriptors: what makes the descriptors of a request, and
//! `envoy.filters.http.ratelimit`, whose service decides about them. Asks nobody.
//!
//! Source: Envoy, "Rate limit" filter, and the rate limits of routes.

pub(crate) mod convert;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;

use crate::address::{CidrRange, mask};
use crate::ext_authz::GrpcService;
use crate::fraction::Fraction;
use crate::header_ops::HeaderOps;
use crate::matching::{HeaderKey, HeaderMatch, QueryCondition, QueryMatch, query_parameter};
use crate::metadata::Metadata;
use crate::route::RequestHead;

/// `envoy.filters.http.ratelimit`.
#[derive(Debug)]
pub struct RateLimitFilter {
    /// Whose limits they are, to the service.
    pub domain: Arc<str>,
    /// Rate limits of routes with this stage count.
    pub stage: u32,
    /// Which requests it looks at.
    pub requests: RequestKind,
    /// Who decides.
    pub service: GrpcService,
    /// Share of requests that are refused if the service cannot be asked.
    pub failure_deny: Fraction,
    /// Share of requests that it looks at.
    pub enabled: Fraction,
    /// Share of requests over the limit that are refused.
    pub enforced: Fraction,
    /// gRPC calls get `RESOURCE_EXHAUSTED`.
    pub resource_exhausted: bool,
    /// Responses tell the limit in `x-ratelimit-*`.
    pub x_headers: bool,
    /// Answers have `x-envoy-ratelimited`.
    pub envoy_header: bool,
    /// Status of the answer to a request too many.
    pub status: StatusCode,
    /// Status of the answer if the service cannot be asked.
    pub status_on_error: StatusCode,
    /// For the answer to a request too many.
    pub response_headers: Arc<HeaderOps>,
    /// Goes before its statistics; empty, or ends with a dot.
    pub stat_prefix: Arc<str>,
    /// Takes the place of what routes say, unless it is empty.
    pub limits: RateLimits,
    /// Namespace of the metadata that the service leaves.
    pub metadata_namespace: Arc<str>,
}

/// Which requests a filter looks at, by `x-envoy-internal`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestKind {
    /// All.
    Both,
    /// Those of the mesh.
    Internal,
    /// Those from elsewhere.
    External,
}

/// What a route changes about the filter.
#[derive(Debug, Clone, Default)]
pub struct RateLimitOverride {
    /// Whether those of the virtual host count.
    pub of_host: HostLimits,
    /// In the place of all others, unless it is empty.
    pub limits: RateLimits,
    /// Another domain, unless it is empty.
    pub domain: Arc<str>,
}

/// Whether the rate limits of the virtual host count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostLimits {
    /// If the route has none.
    #[default]
    Otherwise,
    /// Besides those of the route.
    Too,
    /// Not at all.
    Never,
}

/// Rate limits in their order.
pub type RateLimits = Arc<[RateLimit]>;

/// The rate limits of the route that a request takes.
#[derive(Debug, Clone, Copy, Default)]
pub struct RouteLimits<'a> {
    /// Those of the route.
    pub route: &'a [RateLimit],
    /// Those of its virtual host.
    pub host: &'a [RateLimit],
    /// The route wants those of the virtual host, too, whatever the filter says.
    pub include_host: bool,
}

impl<'a> RouteLimits<'a> {
    /// Those of a stage, in their order.
    pub fn of_stage(
        self,
        of_host: HostLimits,
        stage: u32,
    ) -> impl Iterator<Item = &'a RateLimit> + use<'a> {
        let host = match of_host {
            _ if self.include_host => self.host,
            HostLimits::Too => self.host,
            HostLimits::Otherwise if self.route.is_empty() => self.host,
            HostLimits::Otherwise | HostLimits::Never => &[],
        };
        let all = self.route.iter().chain(host);
        all.filter(move |limit| limit.stage == stage)
    }
}

/// What makes one descriptor.
#[derive(Debug)]
pub struct RateLimit {
    /// Which filters it is for.
    pub stage: u32,
    /// What makes its entries. If one of them cannot, there is no descriptor.
    pub actions: Vec<Action>,
    /// A limit in the place of the service's own.
    pub limit: Option<LimitOverride>,
    /// How many hits the request counts, if not 1.
    pub hits: Option<Hits>,
    /// Whether responses tell the limit, if not as the filter says.
    pub x_headers: Option<bool>,
}

/// How many hits a request counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hits {
    /// Their number, if not 1.
    pub number: Option<u64>,
    /// They are given back.
    pub negative: bool,
}

/// A limit in the place of the service's own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitOverride {
    /// This one.
    Fixed(Quota),
    /// In the metadata that filters left: an object with `requests_per_unit` and `unit`.
    Metadata(MetadataPath),
}

/// So many requests in a unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Quota {
    /// The requests.
    pub requests: u32,
    /// The number of Envoy's `RateLimitUnit`.
    pub unit: i32,
}

/// Where a value is in metadata.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataPath {
    /// The filter that left it.
    pub namespace: Arc<str>,
    /// Keys, from the outside.
    pub path: Vec<Arc<str>>,
}

/// What makes an entry of a descriptor.
#[derive(Debug)]
pub enum Action {
    /// Always this.
    Fixed(Arc<str>, Arc<str>),
    /// The cluster that the route leads to.
    DestinationCluster,
    /// The client's address, as far as trusted proxies tell, or its network.
    RemoteAddress {
        /// How many bits of IPv4 and IPv6; `None` is the plain address.
        masks: Option<(u8, u8)>,
    },
    /// The value of a header.
    Header(HeaderKey, Arc<str>, IfAbsent),
    /// The value of a query parameter.
    Query(Arc<str>, Arc<str>, IfAbsent),
    /// A text in metadata.
    Metadata {
        /// The entry's key.
        key: Arc<str>,
        /// Where it is.
        path: MetadataPath,
        /// In the route's metadata, not in what filters left.
        of_route: bool,
        /// If there is none; may be empty.
        default: Arc<str>,
        /// If there is none and no default.
        absent: IfAbsent,
    },
    /// A fixed entry, if a condition holds.
    If(Condition, Arc<str>, Arc<str>),
}

/// When a fixed entry is made.
#[derive(Debug)]
pub enum Condition {
    /// All of these hold (`true`), or not all of them.
    Headers(Vec<HeaderMatch>, bool),
    /// All of these hold (`true`), or not all of them.
    Query(Vec<QueryMatch>, bool),
    /// The client's address is in one of these, or (`true`) in none.
    Remote(Vec<CidrRange>, bool),
}

/// What happens if a request does not have what an action looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IfAbsent {
    /// There is no descriptor.
    NoDescriptor,
    /// The descriptor does without the entry.
    NoEntry,
}

/// What an action looks at.
#[derive(Debug, Clone, Copy)]
pub struct Seen<'a> {
    /// The request.
    pub head: RequestHead<'a>,
    /// The cluster that its route leads to.
    pub cluster: &'a str,
    /// The client as far as trusted proxies tell.
    pub remote: IpAddr,
    /// What filters left.
    pub metadata: &'a Metadata,
    /// That of the route.
    pub route_metadata: Option<&'a Metadata>,
}

/// Keys and values in their order.
pub type Entries<'a> = Vec<(&'a str, Cow<'a, str>)>;

/// What is limited, of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Descriptor<'a> {
    /// What it is.
    pub entries: Entries<'a>,
    /// A limit in the place of the service's own.
    pub limit: Option<Quota>,
    /// How many hits it counts, if not 1.
    pub hits: Option<Hits>,
    /// Whether responses tell the limit, if not as the filter says.
    pub x_headers: Option<bool>,
}

impl RateLimit {
    /// The descriptor of a request, if all actions can make their entries.
    pub fn descriptor<'a>(&'a self, seen: &Seen<'a>) -> Option<Descriptor<'a>> {
        let mut entries = Vec::with_capacity(self.actions.len());
        for action in &self.actions {
            action.add(seen, &mut entries)?;
        }
        let limit = self.limit.as_ref().and_then(|limit| limit.quota(seen));
        Some(Descriptor {
            entries,
            limit,
            hits: self.hits,
            x_headers: self.x_headers,
        })
    }
}

impl Action {
    /// Adds its entry; `None` if there is to be no descriptor.
    fn add<'a>(&'a self, seen: &Seen<'a>, entries: &mut Entries<'a>) -> Option<()> {
        let found = match self {
            Self::Fixed(key, value) => (&**key, Cow::Borrowed(&**value)),
            Self::DestinationCluster => ("destination_cluster", Cow::Borrowed(seen.cluster)),
            Self::RemoteAddress { masks: None } => {
                ("remote_address", Cow::Owned(seen.remote.to_string()))
            }
            Self::RemoteAddress {
                masks: Some((v4, v6)),
            } => {
                let length = if seen.remote.is_ipv4() { *v4 } else { *v6 };
                let network = format!("{}/{length}", mask(seen.remote, length));
                ("masked_remote_address", Cow::Owned(network))
            }
            Self::Header(header, key, absent) => match header.first_in(&seen.head) {
                Some(value) => (&**key, String::from_utf8_lossy(value)),
                None => return absent.without(),
            },
            Self::Query(name, key, absent) => match decoded_parameter(seen.head.path, name) {
                Some(value) => (&**key, value),
                None => return absent.without(),
            },
            Self::Metadata {
                key,
                path,
                of_route,
                default,
                absent,
            } => {
                let metadata = if *of_route {
                    seen.route_metadata
                } else {
                    Some(seen.metadata)
                };
                let value = metadata.and_then(|metadata| path.value(metadata));
                let text = value.and_then(Value::as_str);
                match text.filter(|text| !text.is_empty()).unwrap_or(default) {
                    "" => return absent.without(),
                    text => (&**key, Cow::Borrowed(text)),
                }
            }
            Self::If(condition, key, value) if condition.holds(seen) => {
                (&**key, Cow::Borrowed(&**value))
            }
            Self::If(..) => return None,
        };
        entries.push(found);
        Some(())
    }
}

impl Condition {
    fn holds(&self, seen: &Seen<'_>) -> bool {
        match self {
            Self::Headers(matchers, expected) => {
                matchers.iter().all(|one| one.matches(&seen.head)) == *expected
            }
            Self::Query(matchers, expected) => {
                let all = matchers.iter().all(|one| {
                    let value = decoded_parameter(seen.head.path, &one.name);
                    match &one.condition {
                        QueryCondition::Present(wanted) => value.is_some() == *wanted,
                        QueryCondition::Text(text) => {
                            value.is_some_and(|value| text.matches(value.as_bytes()))
                        }
                    }
                });
                all == *expected
            }
            Self::Remote(ranges, inverted) => {
                ranges.iter().any(|range| range.contains(seen.remote)) != *inverted
            }
        }
    }
}

impl IfAbsent {
    fn without(self) -> Option<()> {
        (self == Self::NoEntry).then_some(())
    }
}

impl MetadataPath {
    fn value<'m>(&self, metadata: &'m Metadata) -> Option<&'m Value> {
        metadata.get(&self.namespace, &self.path)
    }
}

impl LimitOverride {
    fn quota(&self, seen: &Seen<'_>) -> Option<Quota> {
        match self {
            Self::Fixed(quota) => Some(*quota),
            Self::Metadata(path) => {
                let fields = path.value(seen.metadata)?;
                let requests = fields.get("requests_per_unit")?.as_f64()?;
                let unit = fields.get("unit")?.as_str()?;
                let unit = crate::pb::typ::RateLimitUnit::from_str_name(unit)?;
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "a cast from float saturates"
                )]
                let requests = requests as u32;
                Some(Quota {
                    requests,
                    unit: unit.into(),
                })
            }
        }
    }
}

/// The value of a query parameter, its escapes decoded.
fn decoded_parameter<'a>(path: &'a str, name: &str) -> Option<Cow<'a, str>> {
    query_parameter(path, name).map(decoded)
}

fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains('%') {
        return Cow::Borrowed(text);
    }
    let digit = |byte: Option<&u8>| byte.and_then(|byte| char::from(*byte).to_digit(16));
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let pair = digit(bytes.get(at + 1)).zip(digit(bytes.get(at + 2)));
        match pair.filter(|_| *byte == b'%') {
            Some((high, low)) => {
                out.push(u8::try_from(high * 16 + low).unwrap_or(*byte));
                at += 3;
            }
            None => {
                out.push(*byte);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

#[cfg(test)]
mod tests;
