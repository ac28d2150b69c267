//! An authority's answer as the workload sees it that asked: is it for my key, do its roots confirm
//! it, whom does it name, how long does it last. Never asks, and never knows how it came.
//!
//! Source: Istio's `IstioCertificateResponse`: the certificate, its issuers, at last the roots.

use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authn::peer;
use crate::bundle::expiry;
use crate::{KeyPair, SpiffeId, TrustBundle, pem};

/// Elements of an answer, and certificates before its roots.
const MAX_CHAIN: usize = 10;

/// What an answer holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Received {
    /// The certificate, then its issuers without roots.
    pub chain: Vec<CertificateDer<'static>>,
    /// Whom to trust from now on.
    pub roots: TrustBundle,
    /// Whom the certificate is for.
    pub id: SpiffeId,
    /// When it begins.
    pub not_before: SystemTime,
    /// When it ends.
    pub not_after: SystemTime,
    /// Its serial number in hexadecimal.
    pub serial: String,
}

impl Received {
    /// Reads an answer, whose elements are PEM, to a request for `key`.
    ///
    /// # Errors
    /// What is wrong with it: a certificate that its own roots do not confirm at `now`, or that is
    /// for another key or for nobody, is of no use.
    pub fn read(answer: &[String], key: &KeyPair, now: SystemTime) -> Result<Self, String> {
        let (roots, sent) = answer.split_last().ok_or("the answer is empty")?;
        if sent.is_empty() {
            return Err("the answer holds no roots behind the certificate".to_owned());
        }
        if sent.len() > MAX_CHAIN {
            return Err(format!("the chain has more than {MAX_CHAIN} elements"));
        }
        let roots = TrustBundle::from_pem(roots.as_bytes());
        let roots = roots.map_err(|problem| format!("the roots: {problem}"))?;
        let mut chain = Vec::new();
        for element in sent {
            let found = pem::certificates(element.as_bytes());
            chain.extend(found.map_err(|problem| format!("the chain: an element {problem}"))?);
        }
        // Who checks it has the roots.
        chain.retain(|one| !roots.certificates().contains(one));
        if chain.len() > MAX_CHAIN {
            return Err(format!("the chain has more than {MAX_CHAIN} certificates"));
        }
        let first = chain.first().ok_or("the answer holds roots only")?;
        let unreadable = || "the certificate cannot be read".to_owned();
        let (_, certificate) = X509Certificate::from_der(first).map_err(|_| unreadable())?;
        if certificate.public_key().raw != key.public_key() {
            return Err("the certificate is for another key".to_owned());
        }
        let id = peer::named(&certificate).map_err(|refusal| refusal.to_string())?;
        let begin = certificate.validity().not_before.timestamp();
        let begin = Duration::from_secs(u64::try_from(begin).unwrap_or_default());
        let serial = pem::hexadecimal(certificate.raw_serial());
        roots.verify(&chain, now)?;
        Ok(Self {
            not_before: SystemTime::UNIX_EPOCH
                .checked_add(begin)
                .ok_or_else(unreadable)?,
            not_after: expiry(first).ok_or_else(unreadable)?,
            serial,
            id,
            chain,
            roots,
        })
    }

    /// The chain in PEM.
    pub fn chain_pem(&self) -> String {
        self.chain.iter().map(|one| pem::certificate(one)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Csr, Issuer, KeyKind, TrustDomain};

    const HOUR: Duration = Duration::from_hours(1);

    struct World {
        key: KeyPair,
        answer: Vec<String>,
        now: SystemTime,
    }

    fn world(name: &str) -> World {
        let now = SystemTime::UNIX_EPOCH + 500_000 * HOUR;
        let domain = TrustDomain::parse("cluster.local").expect("valid");
        let (root_key, root) =
            Issuer::new_root(&domain, KeyKind::P256, 1000 * HOUR, now).expect("a root");
        let bundle = TrustBundle::new([root.clone()]).expect("a bundle");
        let issuer = Issuer::new(root, root_key, &[], &bundle, now).expect("an issuer");
        let key = KeyPair::generate(KeyKind::P256).expect("a key");
        let request = key.request(None).expect("a request");
        let request = Csr::from_pem(request.as_bytes()).expect("valid");
        let id = SpiffeId::parse(name).expect("valid");
        let issued = issuer.issue(&request, &id.into(), HOUR, now);
        let mut answer = issued.expect("issued").pem();
        answer.push(String::from_utf8(bundle.pem().to_vec()).expect("PEM"));
        World { key, answer, now }
    }

    const CART: &str = "spiffe://cluster.local/ns/shop/sa/cart";

    #[test]
    fn a_good_answer_tells_whom_it_names_and_how_long_it_lasts() {
        let world = world(CART);
        let received = Received::read(&world.answer, &world.key, world.now).expect("good");
        assert_eq!(received.id.to_string(), CART);
        assert_eq!(received.chain.len(), 1);
        assert_eq!(received.not_after, world.now + HOUR);
        assert_eq!(received.not_before, world.now - crate::CLOCK_SKEW);
        let whole = vec![world.answer.concat(), world.answer[1].clone()];
        let again = Received::read(&whole, &world.key, world.now).expect("roots among the chain");
        assert_eq!(again, received);
        assert_eq!(received.chain_pem(), world.answer[0]);
    }

    #[test]
    fn answers_that_are_of_no_use_are_refused() {
        let (good, other) = (world(CART), world(CART));
        let refused = |answer: &[&String], key: &KeyPair, at: SystemTime| {
            let answer: Vec<String> = answer.iter().map(|part| (*part).clone()).collect();
            Received::read(&answer, key, at).expect_err("refused")
        };
        let [leaf, root] = [&good.answer[0], &good.answer[1]];
        assert!(refused(&[], &good.key, good.now).contains("empty"));
        assert!(refused(&[leaf], &good.key, good.now).contains("no roots"));
        assert!(refused(&[root, root], &good.key, good.now).contains("roots only"));
        assert!(refused(&[leaf, root], &other.key, good.now).contains("another key"));
        let strange = refused(&[leaf, &other.answer[1]], &good.key, good.now);
        assert!(strange.contains("UnknownIssuer"), "{strange}");
        let late = refused(&[leaf, root], &good.key, good.now + 2 * HOUR);
        assert!(late.contains("Expired"), "{late}");
        let text = "no PEM".to_owned();
        assert!(refused(&[&text, root], &good.key, good.now).contains("BEGIN CERTIFICATE"));
        assert!(refused(&[leaf, &text], &good.key, good.now).contains("the roots"));
        let many: Vec<&String> = std::iter::repeat_n(leaf, 12).collect();
        assert!(refused(&many, &good.key, good.now).contains("more than"));
    }
}
