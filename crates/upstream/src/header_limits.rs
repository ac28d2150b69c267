//! How much a response may say in its head and in its trailers.

use http::HeaderMap;
use weft_config::http_options::CommonHttpOptions;

use crate::connector::Protocol;

/// Envoy's defaults.
const HTTP1_KB: u32 = 80;
const HTTP2_KB: u32 = 60;

/// What HPACK's accounting adds to each field (RFC 7541, 4.1).
const FIELD_OVERHEAD: usize = 32;

/// A header map takes no more fields than a few thousand above.
const MAX_COUNT: u32 = 20_000;

/// More than a field from HPACK's table (4 KiB), or the name of one, can be large.
const TABLE: usize = 8 * 1024;

/// Limits of one head or trailer section.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeaderLimits {
    bytes: usize,
    count: usize,
}

impl HeaderLimits {
    pub(crate) fn of(options: &CommonHttpOptions, protocol: Protocol) -> Self {
        let default = match protocol {
            Protocol::Http1 => HTTP1_KB,
            Protocol::Http2 => HTTP2_KB,
        };
        let kb = options.max_response_headers_kb.unwrap_or(default);
        Self {
            bytes: kb as usize * 1024,
            count: options.max_headers_count.min(MAX_COUNT) as usize,
        }
    }

    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        let sizes = headers
            .iter()
            .map(|(name, v)| name.as_str().len() + v.len());
        headers.len() <= self.count && sizes.sum::<usize>() <= self.bytes
    }

    /// The limit of the HTTP/2 library, by HPACK's accounting. It leaves out the fields of
    /// trailers that are beyond it and says nothing, so it is so high that what is left is
    /// still refused here: all but the last field it took, which [`Self::of_wire`] bounds.
    pub(crate) fn of_library(&self) -> u32 {
        let size = 4 * self.bytes + FIELD_OVERHEAD * self.count + 2 * TABLE;
        u32::try_from(size).unwrap_or(u32::MAX)
    }

    /// Most encoded bytes of trailers. The shortest Huffman code has 5 bits.
    pub(crate) fn of_wire(&self) -> usize {
        (3 * self.bytes + TABLE) / 8 * 5
    }
}
