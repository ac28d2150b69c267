//! `x-forwarded-client-cert`: what the upstream is told of the client's certificate.
//!
//! Pure but for reading a connection's certificates. Source of the rules: Envoy,
//! "x-forwarded-client-cert"; a connection without a client's certificate is never trusted
//! with the header, unless the configuration says `ALWAYS_FORWARD_ONLY`.

use std::fmt::Write as _;

use http::header::{HeaderMap, HeaderName, HeaderValue};
use rustls::pki_types::CertificateDer;
use weft_config::HttpManager;
use weft_config::http_manager::{ClientCertDetails, ForwardClientCert};
use weft_config::rbac::PeerNames;
use weft_net::tls::subject_names;

use super::headers;

const XFCC: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
/// Characters of a line of PEM.
const PEM_LINE: usize = 64;

/// What a connection's client has shown.
#[derive(Debug, Default)]
pub(crate) struct ClientCert {
    shown: bool,
    /// The entry that the header gets, if the configuration wants one.
    entry: Option<HeaderValue>,
}

impl ClientCert {
    /// Reads the certificates of a connection, once; `own_uris` are the URIs in our own.
    pub(crate) fn of(
        config: &HttpManager,
        chain: Option<&[CertificateDer<'_>]>,
        own_uris: &[String],
    ) -> Self {
        let Some(chain @ [leaf, ..]) = chain else {
            return Self::default();
        };
        let wanted = matches!(
            config.forward_client_cert,
            ForwardClientCert::AppendForward | ForwardClientCert::SanitizeSet
        );
        let entry = wanted.then(|| describe(leaf, chain, config.client_cert_details, own_uris));
        Self {
            shown: true,
            entry: entry.and_then(|entry| HeaderValue::try_from(entry).ok()),
        }
    }

    /// Brings a request's header into the configured form.
    pub(crate) fn apply(&self, rule: ForwardClientCert, headers: &mut HeaderMap) {
        match rule {
            ForwardClientCert::AlwaysForwardOnly => return,
            ForwardClientCert::ForwardOnly if self.shown => return,
            ForwardClientCert::AppendForward if self.shown => {}
            _ => {
                headers::take(headers, &XFCC);
            }
        }
        if let Some(entry) = &self.entry {
            headers::append_joined(headers, &XFCC, b",", entry);
        }
    }
}

/// The names in a client's certificate; none if it showed none.
pub(crate) fn peer_names(chain: Option<&[CertificateDer<'_>]>) -> PeerNames {
    let Some([leaf, ..]) = chain else {
        return PeerNames::default();
    };
    let (uris, dns) = subject_names(leaf);
    PeerNames {
        uris,
        dns,
        subject: subject(leaf).unwrap_or_default(),
    }
}

fn describe(
    leaf: &CertificateDer<'_>,
    chain: &[CertificateDer<'_>],
    details: ClientCertDetails,
    own_uris: &[String],
) -> String {
    let mut parts = Vec::new();
    if !own_uris.is_empty() {
        parts.push(format!("By={}", own_uris.join(",")));
    }
    if let Some(hash) = sha256(leaf) {
        parts.push(format!("Hash={hash}"));
    }
    if details.cert {
        parts.push(format!("Cert=\"{}\"", url_encoded_pem(&[leaf])));
    }
    if details.chain {
        let all: Vec<_> = chain.iter().collect();
        parts.push(format!("Chain=\"{}\"", url_encoded_pem(&all)));
    }
    if details.subject {
        let subject = subject(leaf).unwrap_or_default();
        parts.push(format!("Subject=\"{}\"", subject.replace('"', "\\\"")));
    }
    let (uris, dns) = subject_names(leaf);
    if details.uri {
        if uris.is_empty() {
            parts.push("URI=".to_owned());
        }
        parts.extend(uris.iter().map(|uri| format!("URI={uri}")));
    }
    if details.dns {
        parts.extend(dns.iter().map(|name| format!("DNS={name}")));
    }
    parts.join(";")
}

/// SHA-256 in hexadecimal, by the TLS library's own implementation.
fn sha256(bytes: &[u8]) -> Option<String> {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let suite = TLS13_AES_128_GCM_SHA256.tls13()?;
    let hash = suite.common.hash_provider.hash(bytes);
    Some(hash.as_ref().iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

/// PEM of certificates with everything percent-encoded that a quoted header value cannot carry.
fn url_encoded_pem(certificates: &[&CertificateDer<'_>]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for certificate in certificates {
        text.push_str("-----BEGIN%20CERTIFICATE-----%0A");
        let mut column = 0;
        for group in certificate.chunks(3) {
            let bits = group
                .iter()
                .fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte))
                << (8 * (3 - group.len()));
            for place in 0..4 {
                let digit = (bits >> (18 - 6 * place)) & 0x3f;
                match ALPHABET.get(digit as usize) {
                    _ if place > group.len() => text.push_str("%3D"),
                    Some(b'+') => text.push_str("%2B"),
                    Some(b'/') => text.push_str("%2F"),
                    Some(letter) => text.push(char::from(*letter)),
                    None => {}
                }
            }
            column += 4;
            if column == PEM_LINE {
                text.push_str("%0A");
                column = 0;
            }
        }
        if column > 0 {
            text.push_str("%0A");
        }
        text.push_str("-----END%20CERTIFICATE-----%0A");
    }
    text
}

/// One DER value: its tag, its content, and what follows it.
fn der(bytes: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = bytes.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let size = usize::from(*first & 0x7f);
        let (length, rest) = rest
            .split_at_checked(size)
            .filter(|_| (1..=4).contains(&size))?;
        (
            length
                .iter()
                .fold(0, |sum, byte| sum << 8 | usize::from(*byte)),
            rest,
        )
    };
    let (content, rest) = rest.split_at_checked(length)?;
    Some((*tag, content, rest))
}

/// The subject in RFC 2253's form: the last component first, joined by commas.
fn subject(certificate: &[u8]) -> Option<String> {
    let (_, certificate, _) = der(certificate)?;
    let (_, mut rest, _) = der(certificate)?;
    // Version (optional), serial number, algorithm, issuer, validity; then the subject.
    let skipped = if rest.first() == Some(&0xa0) { 5 } else { 4 };
    for _ in 0..skipped {
        rest = der(rest)?.2;
    }
    let (_, mut names, _) = der(rest)?;
    let mut components = Vec::new();
    while !names.is_empty() {
        let (_, mut set, after) = der(names)?;
        names = after;
        let mut together = Vec::new();
        while !set.is_empty() {
            let (_, attribute, after) = der(set)?;
            set = after;
            let (_, oid, value) = der(attribute)?;
            let (_, value, _) = der(value)?;
            let value = escaped(&String::from_utf8_lossy(value));
            together.push(format!("{}={value}", attribute_name(oid)));
        }
        components.push(together.join("+"));
    }
    components.reverse();
    Some(components.join(","))
}

/// RFC 2253, section 2.4; what is no printable ASCII is escaped in hexadecimal.
fn escaped(value: &str) -> String {
    let mut out = String::new();
    let last = value.len().saturating_sub(1);
    for (place, byte) in value.bytes().enumerate() {
        let edge = (byte == b' ' && (place == 0 || place == last)) || (byte == b'#' && place == 0);
        if edge || b",+\"\\<>;".contains(&byte) {
            out.push('\\');
            out.push(char::from(byte));
        } else if byte.is_ascii_graphic() || byte == b' ' {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "\\{byte:02X}");
        }
    }
    out
}

fn attribute_name(oid: &[u8]) -> String {
    let short = match oid {
        [0x55, 4, 3] => "CN",
        [0x55, 4, 4] => "SN",
        [0x55, 4, 5] => "serialNumber",
        [0x55, 4, 6] => "C",
        [0x55, 4, 7] => "L",
        [0x55, 4, 8] => "ST",
        [0x55, 4, 9] => "street",
        [0x55, 4, 10] => "O",
        [0x55, 4, 11] => "OU",
        [0x55, 4, 12] => "title",
        [0x55, 4, 42] => "GN",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 1] => "UID",
        [0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 1, 25] => "DC",
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 9, 1] => "emailAddress",
        other => return dotted(other),
    };
    short.to_owned()
}

/// An object identifier in numbers.
fn dotted(oid: &[u8]) -> String {
    let mut text = String::new();
    let mut number = 0_u64;
    for byte in oid {
        number = number.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if text.is_empty() {
                let first = (number / 40).min(2);
                let _ = write!(text, "{first}.{}", number - first * 40);
            } else {
                let _ = write!(text, ".{number}");
            }
            number = 0;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(value: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(XFCC, HeaderValue::from_static(value))])
    }

    fn after(cert: &ClientCert, rule: ForwardClientCert) -> Option<String> {
        let mut headers = with("By=old");
        cert.apply(rule, &mut headers);
        headers
            .get(XFCC)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    }

    #[test]
    fn only_a_client_with_a_certificate_may_bring_the_header() {
        use ForwardClientCert::{
            AlwaysForwardOnly, AppendForward, ForwardOnly, Sanitize, SanitizeSet,
        };
        let none = ClientCert::default();
        for rule in [Sanitize, ForwardOnly, AppendForward, SanitizeSet] {
            assert_eq!(after(&none, rule), None, "{rule:?}");
        }
        assert_eq!(after(&none, AlwaysForwardOnly).as_deref(), Some("By=old"));
        let shown = |entry: Option<&'static str>| ClientCert {
            shown: true,
            entry: entry.map(HeaderValue::from_static),
        };
        assert_eq!(after(&shown(None), Sanitize), None);
        assert_eq!(after(&shown(None), ForwardOnly).as_deref(), Some("By=old"));
        assert_eq!(
            after(&shown(Some("Hash=1")), AppendForward).as_deref(),
            Some("By=old,Hash=1")
        );
        assert_eq!(
            after(&shown(Some("Hash=1")), SanitizeSet).as_deref(),
            Some("Hash=1")
        );
    }

    #[test]
    fn the_subject_is_read_backwards_and_escaped() {
        let wrap = |tag: u8, parts: &[Vec<u8>]| {
            let content = parts.concat();
            let mut out = vec![tag, u8::try_from(content.len()).expect("short")];
            out.extend(content);
            out
        };
        let rdn = |last: u8, value: &str| {
            let oid = wrap(6, &[vec![0x55, 4, last]]);
            let value = wrap(12, &[value.as_bytes().to_vec()]);
            wrap(0x31, &[wrap(0x30, &[oid, value])])
        };
        let empty = || wrap(0x30, &[]);
        let name = wrap(0x30, &[rdn(10, "Acme, Inc"), rdn(3, "web")]);
        let tbs = [
            wrap(0xa0, &[]),
            wrap(2, &[vec![1]]),
            empty(),
            empty(),
            empty(),
            name,
        ];
        let certificate = wrap(0x30, &[wrap(0x30, &tbs)]);
        assert_eq!(
            subject(&certificate).as_deref(),
            Some("CN=web,O=Acme\\, Inc")
        );
        for cut in 0..certificate.len() {
            assert_eq!(subject(&certificate[..cut]), None);
        }
    }

    #[test]
    fn certificates_are_hashed_and_encoded() {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(sha256(b"abc").as_deref(), Some(hash));
        let pem = |bytes: &'static [u8]| url_encoded_pem(&[&CertificateDer::from(bytes)]);
        let wrapped = |inner: &str| {
            format!("-----BEGIN%20CERTIFICATE-----%0A{inner}%0A-----END%20CERTIFICATE-----%0A")
        };
        assert_eq!(pem(b"abcd"), wrapped("YWJjZA%3D%3D"));
        assert_eq!(pem(&[0xfb, 0xff]), wrapped("%2B%2F8%3D"));
    }
}
