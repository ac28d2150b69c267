//! Reads server name and ALPN out of a TLS `ClientHello` (RFC 8446 §4.1.2, RFC 6066 §3,
//! RFC 7301 §3.1). Sans-io, bounds-checked; anything malformed is "not TLS".

use super::Verdict;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const EXTENSION_SERVER_NAME: u16 = 0;
const EXTENSION_ALPN: u16 = 16;
/// RFC 8446 §5.1: the longest plaintext record.
const MAX_RECORD: usize = 1 << 14;
/// Longer hellos are refused, as `BoringSSL` and rustls do.
const MAX_HELLO: usize = 0xffff;

/// What a `ClientHello` says that a filter chain can match on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ClientHello {
    /// The server name in lower case.
    pub server_name: Option<String>,
    /// The application protocols in the client's order.
    pub alpn: Vec<Vec<u8>>,
}

/// Tells from the first bytes of a connection whether they are a TLS `ClientHello`.
pub fn inspect_tls(seen: &[u8]) -> Verdict<ClientHello> {
    match handshake_message(seen) {
        Verdict::NeedMore => Verdict::NeedMore,
        Verdict::No => Verdict::No,
        Verdict::Yes(message) => match parse_hello(&mut Reader(&message)) {
            Some(hello) => Verdict::Yes(hello),
            None => Verdict::No,
        },
    }
}

/// The body of the first handshake message, put together from its records.
fn handshake_message(seen: &[u8]) -> Verdict<Vec<u8>> {
    let mut rest = Reader(seen);
    let mut message = Vec::new();
    loop {
        if let Some(length) = hello_length(&message) {
            match length {
                Err(()) => return Verdict::No,
                Ok(length) if message.len() >= length + 4 => {
                    message.truncate(length + 4);
                    message.drain(..4);
                    return Verdict::Yes(message);
                }
                Ok(_) => {}
            }
        }
        // Each byte of the header is judged as soon as it is there.
        match rest.0 {
            [kind, ..] if *kind != HANDSHAKE => return Verdict::No,
            [_, major, ..] if *major != 3 => return Verdict::No,
            _ => {}
        }
        let Some(header) = rest.take(5) else {
            return Verdict::NeedMore;
        };
        // `take` gave exactly five bytes.
        let length = usize::from(header[3]) << 8 | usize::from(header[4]);
        if length == 0 || length > MAX_RECORD {
            return Verdict::No;
        }
        let part = rest.0.get(..length).unwrap_or(rest.0);
        if message.is_empty() && part.first().is_some_and(|kind| *kind != CLIENT_HELLO) {
            return Verdict::No;
        }
        let complete = part.len() == length;
        message.extend_from_slice(part);
        if !complete {
            return match hello_length(&message) {
                Some(Err(())) => Verdict::No,
                _ => Verdict::NeedMore,
            };
        }
        rest.take(length);
    }
}

/// Length of the hello that `message` starts with, once its header is there.
fn hello_length(message: &[u8]) -> Option<Result<usize, ()>> {
    let [kind, a, b, c, ..] = message else {
        return None;
    };
    let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
    Some(if *kind == CLIENT_HELLO && length <= MAX_HELLO {
        Ok(length)
    } else {
        Err(())
    })
}

fn parse_hello(hello: &mut Reader<'_>) -> Option<ClientHello> {
    hello.take(2)?; // legacy version
    hello.take(32)?; // random
    hello.vector8()?; // session id
    hello.vector16()?; // cipher suites
    hello.vector8()?; // compression methods
    let mut found = ClientHello::default();
    if hello.0.is_empty() {
        return Some(found); // TLS 1.2 without extensions
    }
    let mut extensions = Reader(hello.vector16()?);
    while !extensions.0.is_empty() {
        let kind = extensions.u16()?;
        let mut body = Reader(extensions.vector16()?);
        match kind {
            EXTENSION_SERVER_NAME => found.server_name = server_name(&mut body)?,
            EXTENSION_ALPN => found.alpn = alpn(&mut body)?,
            _ => {}
        }
    }
    Some(found)
}

/// Outer `None`: malformed. Inner: no host name among the names.
#[allow(clippy::option_option)]
fn server_name(body: &mut Reader<'_>) -> Option<Option<String>> {
    let mut names = Reader(body.vector16()?);
    while !names.0.is_empty() {
        let kind = names.take(1)?;
        let name = names.vector16()?;
        if kind == [0] {
            let name = std::str::from_utf8(name).ok()?;
            return Some(Some(name.to_ascii_lowercase()));
        }
    }
    Some(None)
}

fn alpn(body: &mut Reader<'_>) -> Option<Vec<Vec<u8>>> {
    let mut names = Reader(body.vector16()?);
    let mut found = Vec::new();
    while !names.0.is_empty() {
        found.push(names.vector8()?.to_vec());
    }
    Some(found)
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }
    fn u16(&mut self) -> Option<u16> {
        let bytes: [u8; 2] = self.take(2)?.try_into().ok()?;
        Some(u16::from_be_bytes(bytes))
    }
    fn vector8(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(*self.take(1)?.first()?);
        self.take(length)
    }
    fn vector16(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u16()?);
        self.take(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};
    use std::sync::Arc;

    /// The hello that rustls sends.
    fn real_hello(name: &'static str, alpn: &[&[u8]]) -> Vec<u8> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(rustls::RootCertStore::empty())
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        let name = rustls_pki_types::ServerName::try_from(name).unwrap();
        let mut client = rustls::ClientConnection::new(Arc::new(config), name).unwrap();
        let mut bytes = Vec::new();
        client.write_tls(&mut bytes).unwrap();
        bytes
    }

    /// The same handshake message in records of `size` bytes.
    fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
        let mut out = Vec::new();
        for part in hello[5..].chunks(size) {
            out.extend_from_slice(&[HANDSHAKE, 3, 1]);
            out.extend_from_slice(&u16::try_from(part.len()).unwrap().to_be_bytes());
            out.extend_from_slice(part);
        }
        out
    }

    fn wanted() -> Verdict<ClientHello> {
        Verdict::Yes(ClientHello {
            server_name: Some("a.example.com".to_owned()),
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
        })
    }

    #[test]
    fn server_name_and_alpn_of_a_real_hello() {
        let hello = real_hello("A.example.com", &[b"h2", b"http/1.1"]);
        assert_eq!(inspect_tls(&hello), wanted());
        let no_name = real_hello("127.0.0.1", &[]);
        assert_eq!(inspect_tls(&no_name), Verdict::Yes(ClientHello::default()));
    }

    #[test]
    fn every_true_prefix_needs_more() {
        let hello = real_hello("a.example.com", &[b"h2", b"http/1.1"]);
        for bytes in [hello.clone(), in_records(&hello, 7)] {
            for end in 0..bytes.len() {
                assert_eq!(inspect_tls(&bytes[..end]), Verdict::NeedMore, "{end}");
            }
            assert_eq!(inspect_tls(&bytes), wanted());
        }
    }

    #[test]
    fn strangers_are_refused_by_their_first_bytes() {
        for bytes in [
            &b"GET / HTTP/1.1\r\n"[..],
            &[0x16, 2],
            &[0x16, 3, 1, 0, 0],
            &[0x16, 3, 1, 0xff, 0xff],
            &[0x16, 3, 1, 0, 5, 2],
            &[0x16, 3, 1, 0, 5, 1, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(inspect_tls(bytes), Verdict::No, "{bytes:?}");
        }
    }

    #[test]
    fn mutated_hellos_never_panic_and_answers_do_not_depend_on_later_bytes() {
        let hello = real_hello("a.example.com", &[b"h2", b"http/1.1"]);
        let mut random = StdRng::seed_from_u64(0x5eed);
        for _ in 0..20_000 {
            let mut bytes = if random.random_bool(0.5) {
                hello.clone()
            } else {
                in_records(&hello, random.random_range(1..64))
            };
            for _ in 0..random.random_range(1..6) {
                let at = random.random_range(0..bytes.len());
                bytes[at] = random.random();
            }
            bytes.truncate(random.random_range(0..=bytes.len()));
            let verdict = inspect_tls(&bytes);
            if verdict != Verdict::NeedMore {
                let mut longer = bytes.clone();
                longer.extend_from_slice(b"more");
                assert_eq!(inspect_tls(&longer), verdict);
            }
        }
    }
}
