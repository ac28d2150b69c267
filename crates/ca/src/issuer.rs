//! An authority's certificate and key, and the certificates that they sign. Never knows where they
//! come from, nor who asks.

use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber,
};
use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::bundle::{expiry, since_epoch};
use crate::csr::Csr;
use crate::key::{KeyKind, KeyPair};
use crate::spiffe::{SpiffeId, TrustDomain};
use crate::{CLOCK_SKEW, TrustBundle, pem};

/// Certificates between an issuer and its root.
const MAX_CHAIN: usize = 8;
/// Bytes of a serial number; RFC 5280, 4.1.2.2 allows 20.
const SERIAL: usize = 16;
/// How long a list of revoked certificates lasts.
pub(crate) const CRL_LIFETIME: Duration = Duration::from_hours(7 * 24);

/// Why a certificate is not issued. The names of the kinds are those of istiod's metric.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignError {
    /// The authority has ended, or there is none.
    #[error("the certificate authority is not ready: {0}")]
    NotReady(String),
    /// A longer lifetime than allowed was asked for.
    #[error("a certificate of {asked:?} is asked for; the longest that is issued is {longest:?}")]
    Lifetime {
        /// What was asked for.
        asked: Duration,
        /// What may be had.
        longest: Duration,
    },
    /// It cannot be made.
    #[error("signing failed: {0}")]
    Sign(String),
}

impl SignError {
    /// istiod's name for it (label `error` of `citadel_server_csr_sign_err_count`).
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotReady(_) => "CA_NOT_READY",
            Self::Lifetime { .. } => "TTL_ERROR",
            Self::Sign(_) => "CERT_GEN_ERROR",
        }
    }
}

/// Whom a certificate is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subject {
    /// The one URI name.
    pub id: SpiffeId,
    /// Names by which clients that know no SPIFFE call a server; workloads have none.
    pub dns: Vec<String>,
    /// The same with addresses.
    pub addresses: Vec<IpAddr>,
}

impl From<SpiffeId> for Subject {
    fn from(id: SpiffeId) -> Self {
        Self {
            id,
            dns: Vec::new(),
            addresses: Vec::new(),
        }
    }
}

/// A certificate that was issued.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issued {
    /// The certificate, then its issuers without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
}

impl Issued {
    /// The chain in PEM, each certificate by itself.
    pub fn pem(&self) -> Vec<String> {
        self.chain.iter().map(|der| pem::certificate(der)).collect()
    }

    /// Its serial number in hexadecimal, as `revoked.txt` has it, and when it ends, as RFC 3339 writes it.
    pub fn serial_and_end(&self) -> Option<(String, String)> {
        let (_, certificate) = X509Certificate::from_der(self.chain.first()?).ok()?;
        let end = certificate.validity().not_after.to_datetime();
        let (date, (hour, minute, second)) = (end.date(), end.to_hms());
        Some((
            pem::hexadecimal(certificate.raw_serial()),
            // A date writes itself as RFC 3339 does.
            format!("{date}T{hour:02}:{minute:02}:{second:02}Z"),
        ))
    }
}

/// A certificate that may sign others, with its key.
pub struct Issuer {
    signer: rcgen::Issuer<'static, KeyPair>,
    own: CertificateDer<'static>,
    /// What is sent after a certificate: its issuers without the root.
    chain: Vec<CertificateDer<'static>>,
    /// When the first of its chain ends.
    expires: SystemTime,
    /// Its subject key identifier, if it has one.
    key_id: Option<Vec<u8>>,
}

impl std::fmt::Debug for Issuer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issuer")
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

impl Issuer {
    /// Makes a root for a trust domain that lasts `lifetime` from `now` on. Beside it, the root's
    /// certificate in DER.
    ///
    /// # Errors
    /// The key or the certificate cannot be made.
    pub fn new_root(
        trust_domain: &TrustDomain,
        kind: KeyKind,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(KeyPair, CertificateDer<'static>), String> {
        let key = KeyPair::generate(kind)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, trust_domain.as_str());
        // Roots of one trust domain must not share a name, or chains are tried in vain.
        let serial = serial()?;
        let name = pem::hexadecimal(serial.get(..8).unwrap_or_default());
        params
            .distinguished_name
            .push(DnType::CommonName, format!("weft root {name}"));
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = date(now.checked_sub(CLOCK_SKEW).unwrap_or(now))?;
        params.not_after = date(now.checked_add(lifetime).unwrap_or(now))?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        // X509-SVID, 3.1: a signing certificate may name its trust domain, without a path.
        let id = format!("spiffe://{trust_domain}");
        let id = id.as_str().try_into();
        params.subject_alt_names.push(SanType::URI(
            id.map_err(|error: rcgen::Error| error.to_string())?,
        ));
        let made = params
            .self_signed(&key)
            .map_err(|error| error.to_string())?;
        Ok((key, made.der().clone()))
    }

    /// Takes a certificate that may sign others, its key, and the certificates between it and its
    /// root (in order; itself and roots among them are passed over).
    ///
    /// # Errors
    /// They do not belong together, or what it signs would not be trusted by `bundle` at `now`.
    pub fn new(
        certificate: CertificateDer<'static>,
        key: KeyPair,
        between: &[CertificateDer<'static>],
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<Self, String> {
        let seen = look_at(&certificate)?;
        if !seen.may_sign {
            return Err(
                "the certificate must not sign others: it needs CA:TRUE and the key usage keyCertSign"
                    .to_owned(),
            );
        }
        if seen.public_key != key.public_key() {
            return Err("the key is not the certificate's".to_owned());
        }
        if !seen.plain {
            return Err("the subject has an attribute without or with several values".to_owned());
        }
        let roots = bundle.certificates();
        let sent =
            std::iter::once(&certificate).chain(between.iter().filter(|c| **c != certificate));
        let chain: Vec<CertificateDer<'static>> =
            sent.filter(|c| !roots.contains(c)).cloned().collect();
        if chain.len() > MAX_CHAIN {
            return Err(format!(
                "more than {MAX_CHAIN} certificates lie before the root"
            ));
        }
        let ends = chain.iter().chain([&certificate]).filter_map(|c| expiry(c));
        let expires = ends.min().unwrap_or(SystemTime::UNIX_EPOCH);
        let signer = rcgen::Issuer::from_ca_cert_der(&certificate, key)
            .map_err(|error| format!("the certificate cannot be used: {error}"))?;
        let issuer = Self {
            signer,
            own: certificate,
            chain,
            expires,
            key_id: seen.key_id,
        };
        issuer.try_out(bundle, now)?;
        Ok(issuer)
    }

    /// Signs something and checks it as others would: what they do not trust is not worth having.
    fn try_out(&self, bundle: &TrustBundle, now: SystemTime) -> Result<(), String> {
        let issued = self.probe(now)?;
        bundle
            .verify(&issued.chain, now)
            .map_err(|problem| format!("what it signs is not trusted by the roots: {problem}"))
    }

    /// A certificate for nobody.
    fn probe(&self, now: SystemTime) -> Result<Issued, String> {
        let key = KeyPair::generate(KeyKind::P256)?;
        let request = Csr::from_pem(key.request(None)?.as_bytes()).map_err(|e| e.to_string())?;
        let domain = TrustDomain::parse("probe").map_err(|e| e.to_string())?;
        let id = SpiffeId::workload(&domain, "probe", "probe").map_err(|e| e.to_string())?;
        self.issue(&request, &id.into(), Duration::from_mins(1), now)
            .map_err(|error| error.to_string())
    }

    /// Whether lists of revoked certificates in PEM let in what it signs: there must be one of each
    /// authority of the chain, none may have ended, and none may revoke the issuer itself.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn check_lists(
        &self,
        bundle: &TrustBundle,
        lists: &str,
        now: SystemTime,
    ) -> Result<(), String> {
        let issued = self.probe(now)?;
        bundle
            .verify_with(&issued.chain, lists, now)
            .map_err(|problem| format!("with these lists nothing that it signs is trusted ({problem}): there must be a current one of each authority up to the root"))
    }

    /// Its own certificate in DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.own
    }

    /// When it, or an issuer of it, ends.
    pub fn expires(&self) -> SystemTime {
        self.expires
    }

    /// Issues an X.509-SVID for the key of a request (X509-SVID, 2 to 4): one URI name, no
    /// authority, for both sides of TLS. It begins [`CLOCK_SKEW`] before `now` and ends with its
    /// issuer at the latest.
    ///
    /// # Errors
    /// The issuer has ended, or the signature fails.
    pub fn issue(
        &self,
        request: &Csr,
        subject: &Subject,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Issued, SignError> {
        if now >= self.expires {
            return Err(SignError::NotReady(
                "its own certificate has ended".to_owned(),
            ));
        }
        // Certificates know no parts of a second.
        let now = SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_secs(since_epoch(now).as_secs()))
            .unwrap_or(now);
        let not_before = now.checked_sub(CLOCK_SKEW).unwrap_or(now);
        let not_after = now.checked_add(lifetime).unwrap_or(self.expires);
        let not_after = not_after.min(self.expires);
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.serial_number = Some(SerialNumber::from(serial().map_err(SignError::Sign)?));
        params.not_before = date(not_before).map_err(SignError::Sign)?;
        params.not_after = date(not_after).map_err(SignError::Sign)?;
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        if request.is_rsa() {
            params.key_usages.push(KeyUsagePurpose::KeyEncipherment);
        }
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        params.subject_alt_names = names(subject)
            .map_err(|error| SignError::Sign(format!("a name cannot be written: {error}")))?;
        let signed = params.signed_by(request, &self.signer);
        let signed = signed.map_err(|error| SignError::Sign(error.to_string()))?;
        let mut chain = vec![signed.der().clone()];
        chain.extend(self.chain.iter().cloned());
        Ok(Issued {
            chain,
            not_before,
            not_after,
        })
    }

    /// A list of revoked serial numbers in PEM (RFC 5280, 5), for a week from `now` on.
    ///
    /// # Errors
    /// The signature fails.
    pub fn revocation_list(&self, serials: &[Vec<u8>], now: SystemTime) -> Result<String, String> {
        // Clocks differ.
        let this_update = date(now.checked_sub(CLOCK_SKEW).unwrap_or(now))?;
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(serial.clone()),
            revocation_time: this_update,
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update,
            next_update: date(now.checked_add(CRL_LIFETIME).unwrap_or(now))?,
            // It must grow with each list.
            crl_number: SerialNumber::from(since_epoch(now).as_secs()),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: match &self.key_id {
                Some(id) => rcgen::KeyIdMethod::PreSpecified(id.clone()),
                None => rcgen::KeyIdMethod::Sha256,
            },
        };
        let list = params.signed_by(&self.signer);
        let list = list.map_err(|error| error.to_string())?;
        Ok(pem::encode("X509 CRL", list.der()).to_string())
    }
}

fn names(subject: &Subject) -> Result<Vec<SanType>, rcgen::Error> {
    let mut names = vec![SanType::URI(subject.id.to_string().as_str().try_into()?)];
    for name in &subject.dns {
        names.push(SanType::DnsName(name.as_str().try_into()?));
    }
    names.extend(subject.addresses.iter().copied().map(SanType::IpAddress));
    Ok(names)
}

/// What is to be known of a certificate that shall sign others.
struct Seen {
    public_key: Vec<u8>,
    /// Whether it is an authority whose key usage lets it sign.
    may_sign: bool,
    /// Whether each part of the subject has one attribute.
    plain: bool,
    key_id: Option<Vec<u8>>,
}

fn look_at(der: &CertificateDer<'_>) -> Result<Seen, String> {
    let (rest, certificate) =
        X509Certificate::from_der(der).map_err(|_| "is no certificate".to_owned())?;
    if !rest.is_empty() {
        return Err("has bytes after its end".to_owned());
    }
    let usage = certificate.key_usage().map_err(|error| error.to_string())?;
    let may_sign = usage.is_none_or(|usage| usage.value.key_cert_sign());
    let mut key_ids =
        certificate
            .iter_extensions()
            .filter_map(|extension| match extension.parsed_extension() {
                ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
                _ => None,
            });
    Ok(Seen {
        public_key: certificate.public_key().raw.to_vec(),
        may_sign: certificate.is_ca() && may_sign,
        plain: (certificate.subject().iter()).all(|part| part.iter().count() == 1),
        key_id: key_ids.next(),
    })
}

/// A random serial number that is positive (RFC 5280, 4.1.2.2).
fn serial() -> Result<Vec<u8>, String> {
    let mut serial = vec![0; SERIAL];
    aws_lc_rs::rand::fill(&mut serial)
        .map_err(|_| "the system has no random numbers".to_owned())?;
    if let Some(first) = serial.first_mut() {
        // Neither negative nor with a zero before it.
        *first = *first & 0x7f | 0x40;
    }
    Ok(serial)
}

fn date(time: SystemTime) -> Result<OffsetDateTime, String> {
    let seconds = i64::try_from(since_epoch(time).as_secs()).unwrap_or(i64::MAX);
    OffsetDateTime::from_unix_timestamp(seconds)
        .map_err(|_| "the time lies after the year 9999".to_owned())
}
