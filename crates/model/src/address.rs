//! Addresses of services and endpoints, and where they stand. Opens no sockets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

/// Why an address was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither an address nor a range.
    #[error("\"{0}\" is neither an IP address nor a CIDR range such as 10.0.0.0/8")]
    Range(String),
}

/// An IP address or CIDR range: the virtual addresses of a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AddressRange {
    /// The address, as written (host bits are kept).
    pub ip: IpAddr,
    /// Bits of the network part.
    pub prefix_len: u8,
}

impl AddressRange {
    /// One address.
    pub fn host(ip: IpAddr) -> Self {
        Self {
            ip,
            prefix_len: if ip.is_ipv4() { 32 } else { 128 },
        }
    }

    /// Reads `10.1.2.3` or `10.0.0.0/8`.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let wrong = || AddressError::Range(text.to_owned());
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let whole = Self::host(ip.parse().map_err(|_| wrong())?);
        match bits {
            None => Ok(whole),
            Some(bits) => match bits.parse::<u8>() {
                Ok(bits) if bits <= whole.prefix_len => Ok(Self {
                    prefix_len: bits,
                    ..whole
                }),
                _ => Err(wrong()),
            },
        }
    }

    /// The same range without host bits.
    #[must_use]
    pub fn truncated(&self) -> Self {
        let bits = self.prefix_len;
        let ip = match self.ip {
            IpAddr::V4(ip) => {
                let shift = 32_u32.saturating_sub(u32::from(bits));
                let mask = u32::MAX.checked_shl(shift).unwrap_or(0);
                IpAddr::from((u32::from(ip) & mask).to_be_bytes())
            }
            IpAddr::V6(ip) => {
                let shift = 128_u32.saturating_sub(u32::from(bits));
                let mask = u128::MAX.checked_shl(shift).unwrap_or(0);
                IpAddr::from((u128::from(ip) & mask).to_be_bytes())
            }
        };
        Self {
            ip,
            prefix_len: bits,
        }
    }

    /// Whether it is a single address.
    pub fn is_host(&self) -> bool {
        *self == Self::host(self.ip)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_host() {
            self.ip.fmt(f)
        } else {
            write!(f, "{}/{}", self.ip, self.prefix_len)
        }
    }
}

/// Where an endpoint listens.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EndpointAddress {
    /// An IP address.
    Ip(IpAddr),
    /// A name that the proxy resolves.
    Dns(Arc<str>),
    /// A Unix domain socket's path (or abstract name with a leading `@`).
    Unix(Arc<str>),
    /// Not known here: it is reached through a gateway of its network only.
    Hidden,
}

impl EndpointAddress {
    /// The IP address, if it is one.
    pub fn ip(&self) -> Option<IpAddr> {
        match self {
            Self::Ip(ip) => Some(*ip),
            Self::Dns(_) | Self::Unix(_) | Self::Hidden => None,
        }
    }
}

impl fmt::Display for EndpointAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Dns(name) => f.write_str(name),
            Self::Unix(path) => write!(f, "unix://{path}"),
            Self::Hidden => f.write_str("behind a gateway of its network"),
        }
    }
}

/// Region, zone and sub-zone; each may be empty.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[allow(missing_docs)] // the names are the field's
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub sub_zone: Arc<str>,
}

impl Locality {
    /// Reads Istio's `region/zone/subzone`, of which the later parts may be missing.
    pub fn parse(text: &str) -> Self {
        let mut parts = text.splitn(3, '/').map(Arc::from);
        Self {
            region: parts.next().unwrap_or_default(),
            zone: parts.next().unwrap_or_default(),
            sub_zone: parts.next().unwrap_or_default(),
        }
    }

    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        self.region.is_empty() && self.zone.is_empty() && self.sub_zone.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_and_shown() {
        for good in ["10.0.0.1", "10.0.0.0/8", "::1", "fd00::/8"] {
            assert_eq!(
                AddressRange::parse(good).map(|r| r.to_string()),
                Ok(good.to_owned())
            );
        }
        for bad in [
            "",
            "10.0.0",
            "10.0.0.0/33",
            "10.0.0.0/",
            "a.b",
            "10.0.0.1/x",
        ] {
            assert!(AddressRange::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn host_bits_are_cut_off() {
        for (range, expected) in [
            ("10.1.2.3/8", "10.0.0.0/8"),
            ("10.1.2.3", "10.1.2.3"),
            ("10.1.2.3/0", "0.0.0.0/0"),
            ("fd00::1:2/16", "fd00::/16"),
            ("fd00::1/0", "::/0"),
        ] {
            let cut = AddressRange::parse(range).map(|r| r.truncated().to_string());
            assert_eq!(cut, Ok(expected.to_owned()));
        }
    }

    #[test]
    fn localities_may_be_partial() {
        let locality = Locality::parse("eu/west");
        assert_eq!(
            (&*locality.region, &*locality.zone, &*locality.sub_zone),
            ("eu", "west", "")
        );
        assert!(Locality::parse("").is_empty());
    }
}
