//! What hashing balancers hash of a request.

use std::net::IpAddr;
use std::sync::Arc;

use super::RequestHead;
use crate::matching::{HeaderKey, RegexSubstitution, cookie, query_parameter};

/// One source of the hash.
#[derive(Debug, Clone, PartialEq)]
pub struct HashPolicy {
    /// What is hashed.
    pub source: HashSource,
    /// Stop if a hash was found so far.
    pub terminal: bool,
}

/// What is hashed.
#[derive(Debug, Clone, PartialEq)]
pub enum HashSource {
    /// A request header, perhaps rewritten.
    Header {
        /// Its name.
        key: HeaderKey,
        /// Rewrites each value first.
        rewrite: Option<RegexSubstitution>,
    },
    /// The cookie of that name.
    Cookie(Arc<str>),
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(Arc<str>),
}

impl HashPolicy {
    /// The bytes to hash, if the request has them.
    pub fn input(&self, head: &RequestHead<'_>, source_ip: IpAddr) -> Option<Vec<u8>> {
        match &self.source {
            HashSource::Header { key, rewrite } => {
                let value = key.value_in(head)?;
                Some(match rewrite {
                    Some(rewrite) => rewrite
                        .replace_all(&String::from_utf8_lossy(&value))
                        .into_bytes(),
                    None => value.into_owned(),
                })
            }
            HashSource::Cookie(name) => {
                cookie(head.headers, name).map(|value| value.as_bytes().to_vec())
            }
            HashSource::SourceIp => Some(source_ip.to_string().into_bytes()),
            HashSource::Query(name) => {
                query_parameter(head.path, name).map(|value| value.as_bytes().to_vec())
            }
        }
    }

    /// Combines the policies as Envoy does: rotate and exclusive-or, stopping at a terminal one.
    pub fn combine(
        policies: &[Self],
        head: &RequestHead<'_>,
        source_ip: IpAddr,
        hash: impl Fn(&[u8]) -> u64,
    ) -> Option<u64> {
        let mut combined: Option<u64> = None;
        for policy in policies {
            if let Some(input) = policy.input(head, source_ip) {
                let new = hash(&input);
                combined = Some(combined.map_or(new, |old| old.rotate_left(1) ^ new));
            }
            if policy.terminal && combined.is_some() {
                break;
            }
        }
        combined
    }
}
