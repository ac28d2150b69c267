//! The protocol of a service port and Istio's rule for choosing it. Knows no sniffing: that is
//! what a proxy does when the protocol is [`Protocol::Unsupported`].

use std::fmt;

/// What is spoken on a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)] // the names are the protocols
pub enum Protocol {
    Http,
    HttpProxy,
    Http2,
    Grpc,
    GrpcWeb,
    Https,
    Tls,
    Tcp,
    Udp,
    Mongo,
    MySql,
    Redis,
    /// Not declared: the proxy looks at the first bytes.
    Unsupported,
}

/// Ports whose protocols let the server speak first, so that nothing can be sniffed.
const SERVER_FIRST: [u16; 4] = [25, 53, 3306, 27017];

impl Protocol {
    /// Reads a protocol's name, in any case. Unknown names are [`Protocol::Unsupported`].
    pub fn parse(name: &str) -> Self {
        match name.to_ascii_lowercase().as_str() {
            "http" => Self::Http,
            "http_proxy" => Self::HttpProxy,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            "grpc-web" => Self::GrpcWeb,
            "https" => Self::Https,
            "tls" => Self::Tls,
            "tcp" => Self::Tcp,
            "udp" => Self::Udp,
            "mongo" => Self::Mongo,
            "mysql" => Self::MySql,
            "redis" => Self::Redis,
            _ => Self::Unsupported,
        }
    }

    /// Istio's selection for a Kubernetes port: UDP stays UDP; then `appProtocol`, else the
    /// port name up to its first `-`; then TCP for the well-known server-first ports. Dubbo's Triple, which
    /// Istio does not know, is the HTTP/2 that it is made of.
    pub fn select(port: u16, name: &str, transport: &str, app_protocol: Option<&str>) -> Self {
        if transport.eq_ignore_ascii_case("udp") {
            return Self::Udp;
        }
        match app_protocol {
            Some("kubernetes.io/h2c") => return Self::Http2,
            Some("kubernetes.io/ws") => return Self::Http,
            Some("kubernetes.io/wss") => return Self::Https,
            _ => {}
        }
        let declared = app_protocol.unwrap_or(name);
        let is_grpc_web = declared
            .get(..8)
            .is_some_and(|head| head.eq_ignore_ascii_case("grpc-web"));
        if is_grpc_web {
            return Self::GrpcWeb;
        }
        let prefix = declared.split('-').next().unwrap_or_default();
        match Self::parse(prefix) {
            Self::Unsupported if is_triple(prefix) => Self::Http2,
            Self::Unsupported if SERVER_FIRST.contains(&port) => Self::Tcp,
            protocol => protocol,
        }
    }

    /// Whether requests are routed (HTTP/1, HTTP/2, gRPC).
    pub fn is_http(self) -> bool {
        matches!(
            self,
            Self::Http | Self::HttpProxy | Self::Http2 | Self::Grpc | Self::GrpcWeb
        )
    }

    /// Whether upstream connections speak HTTP/2 from the first byte.
    pub fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc | Self::GrpcWeb)
    }

    /// Whether it is gRPC, of browsers or of programs.
    pub fn is_grpc(self) -> bool {
        matches!(self, Self::Grpc | Self::GrpcWeb)
    }

    /// Whether the client brings TLS of its own.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Https | Self::Tls)
    }

    /// Whether only bytes are forwarded.
    pub fn is_tcp(self) -> bool {
        matches!(
            self,
            Self::Tcp | Self::Https | Self::Tls | Self::Mongo | Self::MySql | Self::Redis
        )
    }

    /// Whether the proxy must look at the first bytes.
    pub fn is_sniffed(self) -> bool {
        self == Self::Unsupported
    }

    /// The name as it is written in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "HTTP",
            Self::HttpProxy => "HTTP_PROXY",
            Self::Http2 => "HTTP2",
            Self::Grpc => "GRPC",
            Self::GrpcWeb => "GRPC-Web",
            Self::Https => "HTTPS",
            Self::Tls => "TLS",
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
            Self::Mongo => "Mongo",
            Self::MySql => "MySQL",
            Self::Redis => "Redis",
            Self::Unsupported => "UnsupportedProtocol",
        }
    }
}

fn is_triple(prefix: &str) -> bool {
    let is = |name| prefix.eq_ignore_ascii_case(name);
    is("tri") || is("triple")
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selection_follows_istio() {
        let table = [
            (80, "http", "TCP", None, Protocol::Http),
            (80, "http-web", "TCP", None, Protocol::Http),
            (80, "HTTP2-web", "TCP", None, Protocol::Http2),
            (80, "grpc-web-x", "TCP", None, Protocol::GrpcWeb),
            (80, "grpc-webfoo", "TCP", None, Protocol::GrpcWeb),
            (50051, "tri", "TCP", None, Protocol::Http2),
            (50051, "Triple-cart", "TCP", None, Protocol::Http2),
            (50051, "any", "TCP", Some("tri"), Protocol::Http2),
            (50051, "tri-cart", "TCP", Some("tcp"), Protocol::Tcp),
            (50051, "tripleo", "TCP", None, Protocol::Unsupported),
            (80, "web", "TCP", None, Protocol::Unsupported),
            (80, "", "TCP", None, Protocol::Unsupported),
            (80, "tcp-x", "TCP", Some("grpc"), Protocol::Grpc),
            (
                80,
                "tcp-x",
                "TCP",
                Some("kubernetes.io/h2c"),
                Protocol::Http2,
            ),
            (
                80,
                "http",
                "TCP",
                Some("acme.io/own"),
                Protocol::Unsupported,
            ),
            (3306, "db", "TCP", None, Protocol::Tcp),
            (3306, "http", "TCP", None, Protocol::Http),
            (53, "dns", "UDP", None, Protocol::Udp),
            (443, "https", "", None, Protocol::Https),
        ];
        for (port, name, transport, app, expected) in table {
            assert_eq!(
                Protocol::select(port, name, transport, app),
                expected,
                "{port} {name}"
            );
        }
    }
}
