//! Secrets of a dump in the columns of `istioctl proxy-config secret`. Keys are never shown: dumps
//! hold none.

use std::fmt::Write as _;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::pem::parse_x509_pem;
use x509_parser::time::ASN1Time;

use crate::fields::{list, path, text};
use crate::{Dump, Table};

/// A secret and what its first certificate says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SecretItem {
    /// Its name.
    pub name: String,
    /// `CA`, `Cert Chain`, or empty.
    pub kind: String,
    /// `ACTIVE` or `WARMING`.
    pub state: &'static str,
    /// Whether there is a certificate that holds now.
    pub valid: bool,
    /// In hexadecimal.
    pub serial: String,
    /// RFC 3339.
    pub not_after: String,
    /// RFC 3339.
    pub not_before: String,
    /// From the SPIFFE name.
    pub trust_domain: String,
}

/// The secrets of a dump, those that are not in use yet first. `now` is in seconds since 1970.
pub fn select(dump: &Dump, now: i64) -> Vec<SecretItem> {
    let items = dump.secrets().into_iter().flat_map(|dumped| {
        let chain = path(dumped.secret, &["tls_certificate", "certificate_chain"]);
        let authority = path(dumped.secret, &["validation_context", "trusted_ca"]);
        let pem = bytes(chain).or_else(|| bytes(authority));
        let named = SecretItem {
            name: dumped.name.to_owned(),
            state: dumped.state,
            ..SecretItem::default()
        };
        let domains = by_trust_domain(dumped.secret, now, &named);
        if pem.is_none() && !domains.is_empty() {
            return domains;
        }
        let item = pem.and_then(|pem| read(&pem, now, named.clone()));
        vec![item.unwrap_or(named)]
    });
    items.collect()
}

/// The bundles of Envoy's SPIFFE validator, each under its domain.
fn by_trust_domain(secret: &Value, now: i64, named: &SecretItem) -> Vec<SecretItem> {
    let validator = ["validation_context", "custom_validator_config"];
    let config = path(path(secret, &validator), &["typed_config"]);
    let items = list(config, "trust_domains").iter().map(|domain| {
        let pem = bytes(path(domain, &["trust_bundle"]));
        let item = pem.and_then(|pem| read(&pem, now, named.clone()));
        SecretItem {
            trust_domain: text(domain, "name").to_owned(),
            ..item.unwrap_or_else(|| named.clone())
        }
    });
    items.collect()
}

/// The content of a `DataSource`, if it is in the dump.
fn bytes(source: &Value) -> Option<Vec<u8>> {
    let inline = text(source, "inline_bytes");
    if !inline.is_empty() {
        return STANDARD.decode(inline).ok();
    }
    let inline = text(source, "inline_string");
    (!inline.is_empty()).then(|| inline.as_bytes().to_vec())
}

fn read(pem: &[u8], now: i64, item: SecretItem) -> Option<SecretItem> {
    let (_, pem) = parse_x509_pem(pem).ok()?;
    let certificate = pem.parse_x509().ok()?;
    let validity = certificate.validity();
    let kind = if certificate.is_ca() {
        "CA"
    } else {
        "Cert Chain"
    };
    let (from, to) = (validity.not_before, validity.not_after);
    Some(SecretItem {
        kind: kind.to_owned(),
        valid: from.timestamp() < now && now < to.timestamp(),
        serial: format!("{:0>32}", hex(certificate.raw_serial())),
        not_after: rfc3339(to),
        not_before: rfc3339(from),
        trust_domain: trust_domain(&certificate).unwrap_or_default(),
        ..item
    })
}

fn hex(bytes: &[u8]) -> String {
    let mut digits = String::new();
    for byte in bytes {
        // Writing to a string cannot fail.
        let _ = write!(digits, "{byte:02x}");
    }
    digits.trim_start_matches('0').to_owned()
}

fn rfc3339(time: ASN1Time) -> String {
    let time = time.to_datetime();
    format!(
        "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
        time.year(),
        u8::from(time.month()),
        time.day(),
        time.hour(),
        time.minute(),
        time.second()
    )
}

fn trust_domain(certificate: &X509Certificate<'_>) -> Option<String> {
    let names = certificate.subject_alternative_name().ok()??;
    names
        .value
        .general_names
        .iter()
        .find_map(|name| match name {
            GeneralName::URI(uri) => {
                let rest = uri.strip_prefix("spiffe://")?;
                Some(rest.split('/').next().unwrap_or_default().to_owned())
            }
            _ => None,
        })
}

/// `RESOURCE NAME`, `TYPE`, `STATUS`, `VALID CERT`, `SERIAL NUMBER`, `NOT AFTER`, `NOT BEFORE`, and
/// `TRUST DOMAIN` if all have one.
pub fn table(items: &[SecretItem], named: bool) -> Table {
    let header = [
        "RESOURCE NAME",
        "TYPE",
        "STATUS",
        "VALID CERT",
        "SERIAL NUMBER",
        "NOT AFTER",
        "NOT BEFORE",
    ];
    let domains = items.iter().all(|item| !item.trust_domain.is_empty());
    let mut table = Table::new(
        header.into_iter().chain(domains.then_some("TRUST DOMAIN")),
        5,
    );
    for item in items {
        let name = if named {
            format!("secret/{}", item.name)
        } else {
            item.name.clone()
        };
        let cells = [
            name,
            item.kind.clone(),
            item.state.to_owned(),
            item.valid.to_string(),
            item.serial.clone(),
            item.not_after.clone(),
            item.not_before.clone(),
        ];
        let domain = domains.then(|| item.trust_domain.clone());
        table.row(cells.into_iter().chain(domain));
    }
    table
}

/// The secrets section of a dump, for other forms.
pub fn section(dump: &Dump) -> Value {
    dump.section("SecretsConfigDump")
        .cloned()
        .unwrap_or_else(|| json!({}))
}

/// Whether a secret holds a key in clear, which no dump may.
#[cfg(test)]
fn shows_key(dump: &Dump) -> bool {
    dump.secrets().iter().any(|dumped| {
        let key = path(dumped.secret, &["tls_certificate", "private_key"]);
        bytes(key).is_some_and(|bytes| bytes != b"[redacted]")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dump(pem: &str) -> Dump {
        let secret = json!({
            "name": "default",
            "secret": {"tls_certificate": {
                "certificate_chain": {"inline_bytes": STANDARD.encode(pem)},
                "private_key": {"inline_string": "[redacted]"},
            }},
        });
        let text = json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": [secret],
        }]});
        Dump::parse(&text.to_string()).expect("a dump")
    }

    #[test]
    fn a_certificate_is_read() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new([]).expect("parameters");
        let uri = "spiffe://cluster.local/ns/a/sa/b"
            .try_into()
            .expect("a name");
        params.subject_alt_names = vec![rcgen::SanType::URI(uri)];
        params.not_before = rcgen::date_time_ymd(2024, 2, 3);
        params.not_after = rcgen::date_time_ymd(2024, 4, 5);
        params.serial_number = Some(rcgen::SerialNumber::from(vec![0x0a, 0xbc]));
        let certificate = params.self_signed(&key).expect("signed");
        let dump = dump(&certificate.pem());
        assert!(!shows_key(&dump));
        let in_march = 1_709_300_000;
        let items = select(&dump, in_march);
        let [item] = &items[..] else {
            panic!("{items:?}")
        };
        assert_eq!(item.not_before, "2024-02-03T00:00:00Z");
        assert_eq!(item.not_after, "2024-04-05T00:00:00Z");
        assert_eq!(item.serial, format!("{:0>32}", "abc"));
        assert_eq!((item.valid, item.state), (true, "ACTIVE"));
        assert_eq!(item.trust_domain, "cluster.local");
        assert!(table(&items, false).to_string().contains("TRUST DOMAIN"));
        assert!(!select(&dump, in_march + 10_000_000).iter().any(|i| i.valid));
    }

    #[test]
    fn authorities_of_trust_domains_are_listed_each() {
        let key = rcgen::KeyPair::generate().expect("a key");
        let mut params = rcgen::CertificateParams::new([]).expect("parameters");
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).expect("signed").pem();
        let domain = |name: &str| {
            let bundle = json!({"inline_bytes": STANDARD.encode(&pem)});
            json!({"name": name, "trust_bundle": bundle})
        };
        let config = json!({"trust_domains": [domain("a.test"), domain("b.test")]});
        let secret = json!({
            "name": "ROOTCA",
            "secret": {"validation_context": {"custom_validator_config": {"typed_config": config}}},
        });
        let text = json!({"configs": [{
            "@type": "type.googleapis.com/envoy.admin.v3.SecretsConfigDump",
            "dynamic_active_secrets": [secret],
        }]});
        let dump = Dump::parse(&text.to_string()).expect("a dump");
        let items = select(&dump, 0);
        let told = items.iter().map(|i| [&*i.name, &*i.kind, &*i.trust_domain]);
        let told: Vec<_> = told.collect();
        let wanted = [["ROOTCA", "CA", "a.test"], ["ROOTCA", "CA", "b.test"]];
        assert_eq!(told, wanted);
    }

    #[test]
    fn what_cannot_be_read_is_listed_without_more() {
        let items = select(&dump("no certificate"), 0);
        assert_eq!(items.len(), 1);
        assert_eq!((items[0].valid, items[0].name.as_str()), (false, "default"));
    }
}
