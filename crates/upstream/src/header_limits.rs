//! How much a response may say in its head and in its trailers.

use http::HeaderMap;
use weft_config::http_options::CommonHttpOptions;

use crate::connector::Protocol;

/// Envoy's defaults.
const HTTP1_KB: u32 = 80;
const HTTP2_KB: u32 = 60;

/// What HPACK's accounting adds to each field (RFC 7541, 4.1).
const FIELD_OVERHEAD: usize = 32;

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
            count: options.max_headers_count as usize,
        }
    }

    pub(crate) fn allow(&self, headers: &HeaderMap) -> bool {
        let sizes = headers
            .iter()
            .map(|(name, v)| name.as_str().len() + v.len());
        headers.len() <= self.count && sizes.sum::<usize>() <= self.bytes
    }

    /// The limit of the HTTP/2 library. It leaves out the fields of trailers that are beyond it
    /// and says nothing, so it has to be so high that what is left is still refused here.
    pub(crate) fn of_library(&self) -> u32 {
        let size = 3 * self.bytes + FIELD_OVERHEAD.saturating_mul(self.count);
        u32::try_from(size).unwrap_or(u32::MAX)
    }
}
