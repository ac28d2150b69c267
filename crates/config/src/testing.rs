//! What this crate's tests share: YAML → messages, and seeded randomness that replays.

use http::{HeaderMap, Method};
use prost::{Message, Name};

use crate::pass::Context;
use crate::route::{RequestHead, RouteConfig};

/// Reads one message written as YAML in Envoy's form.
pub(crate) fn yaml<M: Message + Name + Default>(text: &str) -> M {
    weft_proto::bootstrap::read_yaml_message("test.yaml", text, &M::full_name())
        .unwrap_or_else(|problems| panic!("{problems:?}"))
}

pub(crate) fn routes(text: &str) -> RouteConfig {
    RouteConfig::from_proto(&yaml(text), &Context::default())
        .unwrap_or_else(|e| panic!("{e}"))
        .value
}

/// A request's head with its parts owned.
pub(crate) struct Request {
    pub(crate) authority: String,
    pub(crate) path: String,
    pub(crate) method: Method,
    pub(crate) scheme: &'static str,
    pub(crate) forwarded_proto: &'static str,
    pub(crate) headers: HeaderMap,
}

impl Request {
    pub(crate) fn get(authority: &str, path: &str) -> Self {
        Self {
            authority: authority.to_owned(),
            path: path.to_owned(),
            method: Method::GET,
            scheme: "http",
            forwarded_proto: "http",
            headers: HeaderMap::new(),
        }
    }

    pub(crate) fn header(mut self, name: &'static str, value: &str) -> Self {
        self.headers
            .append(name, value.parse().expect("a test's header value"));
        self
    }

    pub(crate) fn head(&self) -> RequestHead<'_> {
        RequestHead {
            authority: &self.authority,
            path: &self.path,
            method: &self.method,
            scheme: self.scheme,
            forwarded_proto: self.forwarded_proto,
            headers: &self.headers,
            metadata: None,
        }
    }
}

/// `SplitMix64`.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}
