//! The PROXY protocol, by which a proxy in front says whose connection it passes on: headers read
//! without I/O and written, and read from a connection. Knows nothing of what comes after them.
//!
//! Source: `HAProxy`, "The PROXY protocol", versions 1 and 2; what is refused, Envoy.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

use crate::Peeked;

/// First bytes of a header of version 2.
const SIGNATURE_V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// First bytes of a header of version 1.
const SIGNATURE_V1: &[u8; 6] = b"PROXY ";
/// What stands before the addresses in version 2.
const FIXED_V2: usize = 16;
/// Longest line of version 1.
const LONGEST_V1: usize = 108;

/// A form of the header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Bytes.
    V2,
}

/// What a header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Its form.
    pub version: Version,
    /// The client and the address that it called; `None` if the proxy speaks for itself or does not
    /// know.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// Bytes of the whole header.
    pub length: usize,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parsed {
    /// More bytes are needed to tell.
    NeedMore,
    /// A header that breaks the rules, or (`None`) no header at all.
    Invalid(Option<Version>),
    /// One of a form that is not allowed.
    Disallowed(Version),
    /// There is none, and there need not be.
    Absent,
    /// A header.
    Header(Header),
}

/// Which headers are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Accepts {
    /// Version 1.
    pub v1: bool,
    /// Version 2.
    pub v2: bool,
    /// Connections without a header, too. What cannot become a header that is taken is none.
    pub without: bool,
}

impl Accepts {
    /// Looks at the first bytes of a connection.
    pub fn parse(self, bytes: &[u8]) -> Parsed {
        let begins = |signature: &[u8]| {
            let seen = bytes.len().min(signature.len());
            bytes.get(..seen) == signature.get(..seen)
        };
        let (maybe_v1, maybe_v2) = (begins(SIGNATURE_V1), begins(SIGNATURE_V2));
        if self.without && !(self.v2 && maybe_v2) && !(self.v1 && maybe_v1) {
            return Parsed::Absent;
        }
        if bytes.len() >= FIXED_V2 {
            if maybe_v2 {
                return if self.v2 {
                    binary(bytes)
                } else {
                    Parsed::Disallowed(Version::V2)
                };
            }
            if !maybe_v1 {
                return Parsed::Invalid(None);
            }
        }
        self.line(bytes)
    }

    fn line(self, bytes: &[u8]) -> Parsed {
        let end = bytes.windows(2).position(|pair| pair == b"\r\n");
        match end.map(|end| end + 2) {
            // May still be the signature of version 2.
            Some(2) => Parsed::NeedMore,
            Some(length) if length > LONGEST_V1 => Parsed::Invalid(None),
            Some(_) if !self.v1 => Parsed::Disallowed(Version::V1),
            Some(length) => {
                let text = bytes
                    .get(..length)
                    .and_then(|b| std::str::from_utf8(b).ok());
                match text.and_then(|text| words(text.trim_ascii_end())) {
                    Some(addresses) => Parsed::Header(Header {
                        version: Version::V1,
                        addresses,
                        length,
                    }),
                    None => Parsed::Invalid(Some(Version::V1)),
                }
            }
            None if bytes.len() > LONGEST_V1 => Parsed::Invalid(None),
            None => Parsed::NeedMore,
        }
    }
}

/// `PROXY TCP4 source destination port port`, or `PROXY UNKNOWN` and anything. The outer `None` is a
/// line that breaks the rules.
#[expect(
    clippy::option_option,
    reason = "good or bad, and with addresses or without"
)]
fn words(line: &str) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let words: Vec<&str> = line.splitn(7, ' ').collect();
    match *words.as_slice() {
        ["PROXY", "UNKNOWN", ..] => Some(None),
        ["PROXY", family, source, destination, from, to] => {
            let ip = |text: &str| -> Option<IpAddr> {
                match family {
                    "TCP4" => text.parse().ok().map(IpAddr::V4),
                    "TCP6" => text.parse().ok().map(IpAddr::V6),
                    _ => None,
                }
            };
            let port = |text: &str| -> Option<u16> {
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                text.parse().ok().filter(|_| digits)
            };
            let source = SocketAddr::new(ip(source)?, port(from)?);
            let destination = SocketAddr::new(ip(destination)?, port(to)?);
            unicast((source, destination)).map(Some)
        }
        _ => None,
    }
}

fn binary(bytes: &[u8]) -> Parsed {
    const INVALID: Parsed = Parsed::Invalid(Some(Version::V2));
    let fixed = bytes.get(SIGNATURE_V2.len()..);
    let Some(&[command, family, high, low]) = fixed.and_then(<[u8]>::first_chunk) else {
        return Parsed::NeedMore;
    };
    let rest = usize::from(u16::from_be_bytes([high, low]));
    let addresses_length = match (command, family) {
        (0x20, _) => 0,
        (0x21, 0x11 | 0x12) => 12,
        (0x21, 0x21 | 0x22) => 36,
        _ => return INVALID,
    };
    if rest < addresses_length {
        return INVALID;
    }
    let length = FIXED_V2 + rest;
    let Some(body) = bytes.get(FIXED_V2..length) else {
        return Parsed::NeedMore;
    };
    let found = |addresses| {
        Parsed::Header(Header {
            version: Version::V2,
            addresses,
            length,
        })
    };
    if addresses_length == 0 {
        return found(None);
    }
    let Some((addresses, extensions)) = body.split_at_checked(addresses_length) else {
        return INVALID;
    };
    match pair(addresses).and_then(unicast) {
        Some(pair) if are_extensions(extensions) => found(Some(pair)),
        _ => INVALID,
    }
}

/// Two addresses and their two ports.
fn pair(bytes: &[u8]) -> Option<(SocketAddr, SocketAddr)> {
    let (ips, ports) = bytes.split_at_checked(bytes.len().checked_sub(4)?)?;
    let (source, destination) = ips.split_at_checked(ips.len() / 2)?;
    let ip = |bytes: &[u8]| -> Option<IpAddr> {
        match bytes.len() {
            4 => Some(Ipv4Addr::from(*bytes.first_chunk()?).into()),
            16 => Some(Ipv6Addr::from(*bytes.first_chunk()?).into()),
            _ => None,
        }
    };
    let &[a, b, c, d] = ports.first_chunk()?;
    let (from, to) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
    let source = SocketAddr::new(ip(source)?, from);
    Some((source, SocketAddr::new(ip(destination)?, to)))
}

/// TCP knows no others.
fn unicast(pair: (SocketAddr, SocketAddr)) -> Option<(SocketAddr, SocketAddr)> {
    let is_unicast = |address: SocketAddr| {
        let ip = address.ip();
        !ip.is_unspecified() && !ip.is_multicast() && ip != IpAddr::V4(Ipv4Addr::BROADCAST)
    };
    (is_unicast(pair.0) && is_unicast(pair.1)).then_some(pair)
}

/// Whether all of it is type, length and value.
fn are_extensions(mut bytes: &[u8]) -> bool {
    while let Some((&[_, high, low], rest)) = bytes.split_first_chunk() {
        let length = usize::from(u16::from_be_bytes([high, low]));
        match rest.get(length..) {
            Some(next) => bytes = next,
            None => return false,
        }
    }
    bytes.is_empty()
}

/// A header that tells of a connection from `source` to `destination`; without these the proxy
/// speaks for itself. Addresses of different families become IPv6 (mapped) in both versions, as
/// neither can say them else.
pub fn header(version: Version, addresses: Option<(SocketAddr, SocketAddr)>) -> Vec<u8> {
    match version {
        Version::V1 => text(addresses).into_bytes(),
        Version::V2 => {
            let mut out = SIGNATURE_V2.to_vec();
            let Some((source, destination)) = addresses else {
                out.extend([0x20, 0, 0, 0]);
                return out;
            };
            let ports = [
                source.port().to_be_bytes(),
                destination.port().to_be_bytes(),
            ];
            if let (IpAddr::V4(a), IpAddr::V4(b)) = (source.ip(), destination.ip()) {
                out.extend([0x21, 0x11, 0, 12]);
                out.extend([a.octets(), b.octets()].concat());
            } else {
                out.extend([0x21, 0x21, 0, 36]);
                out.extend(
                    [
                        mapped(source.ip()).octets(),
                        mapped(destination.ip()).octets(),
                    ]
                    .concat(),
                );
            }
            out.extend(ports.concat());
            out
        }
    }
}

fn text(addresses: Option<(SocketAddr, SocketAddr)>) -> String {
    let Some((source, destination)) = addresses else {
        return "PROXY UNKNOWN\r\n".to_owned();
    };
    let (from, to) = (source.port(), destination.port());
    if let (IpAddr::V4(a), IpAddr::V4(b)) = (source.ip(), destination.ip()) {
        return format!("PROXY TCP4 {a} {b} {from} {to}\r\n");
    }
    let (a, b) = (mapped(source.ip()), mapped(destination.ip()));
    format!("PROXY TCP6 {a} {b} {from} {to}\r\n")
}

fn mapped(ip: IpAddr) -> Ipv6Addr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    }
}

/// Why no header was read.
#[derive(Debug)]
pub enum ReadError {
    /// The socket failed.
    Io(io::Error),
    /// The client closed first.
    Closed,
    /// Time was up; the connection with what was read of it.
    Timeout(Peeked),
}

/// Reads the header of a connection. Gives what it was (never [`Parsed::NeedMore`]) and the
/// connection with what follows the header, or all that was read if there was none. Reads at most one
/// header (64 KiB) and what came with its last bytes.
///
/// # Errors
/// There is no header to tell of.
pub async fn read(
    mut tcp: TcpStream,
    accepts: Accepts,
    timeout: Option<Duration>,
) -> Result<(Peeked, Parsed), ReadError> {
    let mut seen = Vec::new();
    let looking = async {
        seen.reserve(2048);
        loop {
            // Keeps what it got when the future is dropped by the deadline.
            let got = tcp.read_buf(&mut seen).await.map_err(ReadError::Io)?;
            match accepts.parse(&seen) {
                Parsed::NeedMore if got == 0 => return Err(ReadError::Closed),
                Parsed::NeedMore => {}
                parsed => return Ok(parsed),
            }
        }
    };
    let parsed = match timeout {
        None => Some(looking.await?),
        Some(timeout) => match tokio::time::timeout(timeout, looking).await {
            Ok(parsed) => Some(parsed?),
            Err(_) => None,
        },
    };
    let Some(parsed) = parsed else {
        return Err(ReadError::Timeout(Peeked::new(tcp, seen)));
    };
    if let Parsed::Header(header) = parsed {
        seen.drain(..header.length.min(seen.len()));
    }
    Ok((Peeked::new(tcp, seen), parsed))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Accepts = Accepts {
        v1: true,
        v2: true,
        without: false,
    };

    fn addresses(parsed: Parsed) -> (String, String) {
        match parsed {
            Parsed::Header(Header {
                addresses: Some((from, to)),
                ..
            }) => (from.to_string(), to.to_string()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_written_is_read_and_every_prefix_needs_more() {
        let four = (
            "1.2.3.4:1000".parse().unwrap(),
            "5.6.7.8:80".parse().unwrap(),
        );
        let six = (
            "[2001:db8::1]:9".parse().unwrap(),
            "[fd00::2]:80".parse().unwrap(),
        );
        for version in [Version::V1, Version::V2] {
            for pair in [Some(four), Some(six), None] {
                let bytes = header(version, pair);
                for cut in 0..bytes.len() {
                    assert_eq!(
                        ALL.parse(&bytes[..cut]),
                        Parsed::NeedMore,
                        "{cut} of {bytes:?}"
                    );
                }
                let length = bytes.len();
                let read = Parsed::Header(Header {
                    version,
                    addresses: pair,
                    length,
                });
                assert_eq!(ALL.parse(&bytes), read);
                assert_eq!(ALL.parse(&[&bytes[..], b"GET /"].concat()), read);
            }
        }
    }

    #[test]
    fn families_that_differ_are_mapped() {
        let mixed = ("1.2.3.4:1".parse().unwrap(), "[fd00::2]:2".parse().unwrap());
        for version in [Version::V1, Version::V2] {
            let read = addresses(ALL.parse(&header(version, Some(mixed))));
            let expected = ("[::ffff:1.2.3.4]:1".to_owned(), "[fd00::2]:2".to_owned());
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn what_breaks_the_rules_is_refused() {
        use Version::{V1, V2};
        let v2 = |rest: &[u8]| [SIGNATURE_V2, rest].concat();
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2];
        for (bytes, of) in [
            (b"GET / HTTP/1.1\r\n".to_vec(), None),
            (b"abc\r\n".to_vec(), Some(V1)),
            (b"PROXY \r\n".to_vec(), Some(V1)),
            (b"PROXY TCP5 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(), Some(V1)),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1\r\n".to_vec(), Some(V1)),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 2 3\r\n".to_vec(), Some(V1)),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 1 65536\r\n".to_vec(), Some(V1)),
            (b"PROXY TCP4 1.1.1.1 2.2.2.2 +1 2\r\n".to_vec(), Some(V1)),
            (b"PROXY TCP4 0.0.0.0 2.2.2.2 1 2\r\n".to_vec(), Some(V1)),
            (b"PROXY TCP4 1.1.1.1 224.0.0.1 1 2\r\n".to_vec(), Some(V1)),
            (b"PROXY TCP6 1.1.1.1 2.2.2.2 1 2\r\n".to_vec(), Some(V1)),
            (
                [&b"PROXY UNKNOWN "[..], &[b'x'; 120], b"\r\n"].concat(),
                None,
            ),
            (v2(&[0x11, 0x11, 0, 0]), Some(V2)),
            (v2(&[0x22, 0x11, 0, 12]), Some(V2)),
            (v2(&[0x21, 0x31, 0, 12]), Some(V2)),
            (v2(&[0x21, 0x00, 0, 0]), Some(V2)),
            (v2(&[0x21, 0x11, 0, 11]), Some(V2)),
            (
                v2(&[&[0x21, 0x11, 0, 14][..], &four, &[1, 0]].concat()),
                Some(V2),
            ),
            (
                v2(&[&[0x21, 0x11, 0, 15][..], &four, &[1, 0, 1]].concat()),
                Some(V2),
            ),
            (v2(&[&[0x21, 0x11, 0, 12][..], &[0; 12]].concat()), Some(V2)),
        ] {
            assert_eq!(ALL.parse(&bytes), Parsed::Invalid(of), "{bytes:?}");
        }
    }

    #[test]
    fn forms_may_be_left_out_and_headers_too() {
        let (v1, v2) = (header(Version::V1, None), header(Version::V2, None));
        let only_v1 = Accepts { v2: false, ..ALL };
        let only_v2 = Accepts { v1: false, ..ALL };
        assert_eq!(only_v1.parse(&v2), Parsed::Disallowed(Version::V2));
        assert_eq!(only_v2.parse(&v1), Parsed::Disallowed(Version::V1));
        let optional = Accepts {
            without: true,
            ..only_v1
        };
        assert_eq!(optional.parse(&v2), Parsed::Absent);
        assert_eq!(optional.parse(b"G"), Parsed::Absent);
        assert_eq!(optional.parse(b"PRO"), Parsed::NeedMore);
        assert!(matches!(optional.parse(&v1), Parsed::Header(_)));
    }

    #[test]
    fn extensions_are_passed_over_and_random_bytes_harm_nothing() {
        let mut long = SIGNATURE_V2.to_vec();
        long.extend([0x21, 0x11, 0, 12 + 5 + 3]);
        long.extend([1, 2, 3, 4, 5, 6, 7, 8, 0, 1, 0, 2]);
        long.extend([0xe0, 0, 2, b'h', b'i', 4, 0, 0]);
        addresses(ALL.parse(&long));
        let mut state = 7_u32;
        let mut random = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        for _ in 0..20_000 {
            let mut bytes = long.clone();
            let at = usize::from(random()) % bytes.len();
            bytes[at] = random();
            bytes.truncate(usize::from(random()) % (bytes.len() + 1));
            if let Parsed::Header(header) = ALL.parse(&bytes) {
                assert!(header.length <= bytes.len());
            }
        }
    }
}
