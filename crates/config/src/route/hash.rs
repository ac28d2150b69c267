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
    /// A cookie.
    Cookie {
        /// Its name.
        name: Arc<str>,
        /// What makes one for clients that have none, if there is to be one.
        made: Option<MadeCookie>,
    },
    /// The client's address.
    SourceIp,
    /// A query parameter.
    Query(Arc<str>),
}

/// A cookie that a client is given, so that it comes back to the same host.
#[derive(Debug, Clone, PartialEq)]
pub struct MadeCookie {
    /// What follows its value: lifetime, path and attributes, as in `set-cookie`.
    pub suffix: Arc<str>,
}

/// The hash of a request.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RequestHash {
    /// None if the request has nothing that is to be hashed.
    pub hash: Option<u64>,
    /// Values of `set-cookie` for the answer.
    pub cookies: Vec<String>,
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
            HashSource::Cookie { name, .. } => {
                cookie(head.headers, name).map(|value| value.as_bytes().to_vec())
            }
            HashSource::SourceIp => Some(source_ip.to_string().into_bytes()),
            HashSource::Query(name) => {
                query_parameter(head.path, name).map(|value| value.as_bytes().to_vec())
            }
        }
    }

    /// The cookie that the client is to be given because it has none.
    fn made(&self, input: Option<&[u8]>) -> Option<(&str, &MadeCookie)> {
        match &self.source {
            HashSource::Cookie {
                name,
                made: Some(made),
            } if input.is_none_or(<[u8]>::is_empty) => Some((name, made)),
            _ => None,
        }
    }

    /// Combines the policies as Envoy does: rotate and exclusive-or, stopping at a terminal one.
    /// `connection` gives the value of a cookie that is to be made: the same for all requests of a
    /// connection, so that those that race get the same one.
    pub fn combine(
        policies: &[Self],
        head: &RequestHead<'_>,
        source_ip: IpAddr,
        connection: impl Fn() -> String,
        hash: impl Fn(&[u8]) -> u64,
    ) -> RequestHash {
        let mut found = RequestHash::default();
        for policy in policies {
            let mut input = policy.input(head, source_ip);
            if let Some((name, made)) = policy.made(input.as_deref()) {
                let value = connection();
                let cookie = format!("{name}=\"{value}\"{}", made.suffix);
                found.cookies.push(cookie);
                input = Some(value.into_bytes());
            }
            if let Some(input) = input {
                let new = hash(&input);
                found.hash = Some(found.hash.map_or(new, |old| old.rotate_left(1) ^ new));
            }
            if policy.terminal && found.hash.is_some() {
                break;
            }
        }
        found
    }
}
