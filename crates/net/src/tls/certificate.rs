//! What certificates say of themselves, for whoever watches them expire. Judges nothing.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::pem::PemSource;
use super::{ClientSpec, Identity, Pem, ServerSpec, Validation};

/// One certificate (RFC 5280).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CertificateDetails {
    /// Path of its file; `None` if its text is in the configuration or the environment.
    pub path: Option<Arc<str>>,
    /// Lower-case hexadecimal, two digits a byte, without leading zero bytes.
    pub serial_number: String,
    /// DNS names among the subject alternative names.
    pub dns_names: Vec<String>,
    /// URIs among them.
    pub uri_names: Vec<String>,
    /// IP addresses among them.
    pub addresses: Vec<IpAddr>,
    /// Start of validity; not before 1970.
    pub valid_from: SystemTime,
    /// End of validity; not before 1970.
    pub expiration: SystemTime,
}

/// The certificates of one TLS context.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContextCertificates {
    /// The authorities that the configuration trusts; not those of the system.
    pub trusted: Arc<[CertificateDetails]>,
    /// What is presented to peers: of each chain the first certificate.
    pub presented: Vec<CertificateDetails>,
}

/// Reads the certificates of many contexts; texts that they share are read once.
#[derive(Debug, Default)]
pub struct CertificateReader(HashMap<Pem, Arc<[CertificateDetails]>>);

impl CertificateReader {
    /// Those of a listener's context.
    pub fn server(&mut self, spec: &ServerSpec) -> ContextCertificates {
        self.context(&spec.identities, spec.validation.as_ref())
    }

    /// Those of a cluster's context.
    pub fn client(&mut self, spec: &ClientSpec) -> ContextCertificates {
        self.context(spec.identity.as_slice(), Some(&spec.validation))
    }

    fn context(
        &mut self,
        identities: &[Identity],
        validation: Option<&Validation>,
    ) -> ContextCertificates {
        let domains = validation.map_or(&[][..], |validation| &validation.trust_domains);
        let ca = validation.and_then(|validation| validation.trusted_ca.as_ref());
        let presented = identities.iter().filter_map(|identity| {
            let chain = self.read(&identity.chain);
            chain.first().cloned()
        });
        let presented = presented.collect();
        ContextCertificates {
            trusted: match ca {
                _ if !domains.is_empty() => {
                    let domains = domains.iter().map(|(_, pem)| self.read(pem));
                    domains.flat_map(|read| read.to_vec()).collect()
                }
                Some(ca) if ca.source != PemSource::System => self.read(ca),
                _ => Arc::default(),
            },
            presented,
        }
    }

    fn read(&mut self, pem: &Pem) -> Arc<[CertificateDetails]> {
        if let Some(known) = self.0.get(pem) {
            return Arc::clone(known);
        }
        let path = (pem.source == PemSource::File).then(|| Arc::from(&*pem.origin));
        // A text that cannot be read serves no connection, and its error is told there.
        let certificates = pem.certificates().unwrap_or_default();
        let details: Arc<[_]> = certificates
            .iter()
            .filter_map(|der| details(path.clone(), der))
            .collect();
        self.0.insert(pem.clone(), Arc::clone(&details));
        details
    }
}

fn details(path: Option<Arc<str>>, der: &CertificateDer<'_>) -> Option<CertificateDetails> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut details = CertificateDetails {
        path,
        serial_number: serial_number(certificate.raw_serial()),
        dns_names: Vec::new(),
        uri_names: Vec::new(),
        addresses: Vec::new(),
        valid_from: time(certificate.validity().not_before.timestamp()),
        expiration: time(certificate.validity().not_after.timestamp()),
    };
    let names = certificate.subject_alternative_name().ok().flatten();
    for name in names.iter().flat_map(|names| &names.value.general_names) {
        match name {
            GeneralName::DNSName(name) => details.dns_names.push((*name).to_owned()),
            GeneralName::URI(uri) => details.uri_names.push((*uri).to_owned()),
            GeneralName::IPAddress(bytes) => details.addresses.extend(address(bytes)),
            _ => {}
        }
    }
    Some(details)
}

/// Whether a certificate can be read and has not ended.
pub(super) fn has_not_ended(der: &CertificateDer<'_>, now: SystemTime) -> bool {
    X509Certificate::from_der(der)
        .is_ok_and(|(_, certificate)| now <= time(certificate.validity().not_after.timestamp()))
}

fn serial_number(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes.iter().skip_while(|byte| **byte == 0) {
        let _ = write!(text, "{byte:02x}"); // to a String: cannot fail
    }
    if text.is_empty() {
        text.push('0');
    }
    text
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = <[u8; 4]>::try_from(bytes).map(|bytes| Ipv4Addr::from(bytes).into());
    let v6 = <[u8; 16]>::try_from(bytes).map(|bytes| Ipv6Addr::from(bytes).into());
    v4.or(v6).ok()
}

fn time(unix_seconds: i64) -> SystemTime {
    let seconds = u64::try_from(unix_seconds).unwrap_or(0);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType, SerialNumber, date_time_ymd};

    fn pem(serial: &[u8], sans: Vec<SanType>) -> String {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from_slice(serial));
        params.subject_alt_names = sans;
        params.not_before = date_time_ymd(2026, 1, 2);
        params.not_after = date_time_ymd(2051, 3, 4);
        params.self_signed(&key).expect("a certificate").pem()
    }

    fn context(chain: &str, ca: &Pem) -> ContextCertificates {
        let spec = ClientSpec {
            identity: Some(Identity {
                chain: Pem::new("chain.pem", chain),
                key: Pem::new("key.pem", ""),
            }),
            validation: Validation {
                trusted_ca: Some(ca.clone()),
                ..Validation::default()
            },
            ..ClientSpec::default()
        };
        CertificateReader::default().client(&spec)
    }

    #[test]
    fn a_leaf_and_all_authorities_are_told_with_names_and_times() {
        let names = vec![
            SanType::IpAddress("::1".parse().expect("an address")),
            SanType::URI("spiffe://a/b".try_into().expect("a name")),
            SanType::DnsName("a.test".try_into().expect("a name")),
        ];
        let leaf = pem(&[0, 0xff, 1], names);
        let (one, two) = (pem(&[10], Vec::new()), pem(&[11], Vec::new()));
        let ca = Pem::new("inline", format!("{one}{two}")).of(PemSource::Value);
        let found = context(&format!("{leaf}{one}"), &ca);
        let [leaf] = &*found.presented else {
            panic!("only the leaf is presented as such: {found:?}")
        };
        assert_eq!(leaf.path.as_deref(), Some("chain.pem"));
        assert_eq!(leaf.serial_number, "ff01");
        assert_eq!(leaf.dns_names, ["a.test"]);
        assert_eq!(leaf.uri_names, ["spiffe://a/b"]);
        assert_eq!(leaf.addresses, [IpAddr::from(Ipv6Addr::LOCALHOST)]);
        let day = |days: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(days * 86_400);
        assert_eq!(
            (leaf.valid_from, leaf.expiration),
            (day(20_455), day(29_647))
        );
        let serials: Vec<_> = found.trusted.iter().map(|ca| &*ca.serial_number).collect();
        assert_eq!(serials, ["0a", "0b"]);
        assert!(found.trusted.iter().all(|ca| ca.path.is_none()));
    }

    #[test]
    fn the_systems_roots_and_broken_texts_are_not_told() {
        let system = Pem::new("/etc/roots", pem(&[1], Vec::new())).of(PemSource::System);
        let found = context("-----BEGIN CERTIFICATE-----\nAA", &system);
        assert!(found.trusted.is_empty() && found.presented.is_empty());
    }
}
