//! Chains that the roots confirm, so that their signatures are not checked again with each call and
//! each look at a stream. What may change is looked at every time: the roots, and the clock. Never
//! knows names, nor what is revoked.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use aws_lc_rs::digest::{Context, SHA256, SHA256_OUTPUT_LEN};
use rustls_pki_types::CertificateDer;

use crate::TrustBundle;
use crate::bundle::validity;

/// Chains of one half of the memory; when it is full, the older half goes.
const HALF: usize = 8192;

type Key = [u8; SHA256_OUTPUT_LEN];
/// When all certificates of a chain are valid: from and until.
type Times = (SystemTime, SystemTime);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Confirmed(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    /// By whose roots.
    bundle: Option<Arc<TrustBundle>>,
    recent: HashMap<Key, Times>,
    older: HashMap<Key, Times>,
}

impl Memory {
    fn find(&mut self, bundle: &Arc<TrustBundle>, key: &Key) -> Option<Times> {
        let same = |known: &Arc<TrustBundle>| Arc::ptr_eq(known, bundle);
        if !self.bundle.as_ref().is_some_and(same) {
            *self = Self {
                bundle: Some(Arc::clone(bundle)),
                ..Self::default()
            };
        }
        let found = self.recent.get(key).copied();
        found.or_else(|| {
            let times = self.older.remove(key)?;
            self.insert(*key, times);
            Some(times)
        })
    }

    fn insert(&mut self, key: Key, times: Times) {
        if self.recent.len() >= HALF {
            self.older = std::mem::take(&mut self.recent);
        }
        self.recent.insert(key, times);
    }
}

impl Confirmed {
    /// As [`TrustBundle::verify`].
    pub(super) fn verify(
        &self,
        bundle: &Arc<TrustBundle>,
        chain: &[CertificateDer<'_>],
        now: SystemTime,
    ) -> Result<(), String> {
        let key = key(chain);
        let known = self.memory(|memory| memory.find(bundle, &key));
        if known.is_some_and(|(from, until)| from < now && now < until) {
            return Ok(());
        }
        bundle.verify(chain, now)?;
        if let Some(times) = times(chain) {
            self.memory(|memory| {
                // Other roots may be in force by now.
                let same = |known: &Arc<TrustBundle>| Arc::ptr_eq(known, bundle);
                if memory.bundle.as_ref().is_some_and(same) {
                    memory.insert(key, times);
                }
            });
        }
        Ok(())
    }

    fn memory<T>(&self, work: impl FnOnce(&mut Memory) -> T) -> T {
        // Nothing in it is half done when a thread ends.
        let mut memory = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        work(&mut memory)
    }
}

fn key(chain: &[CertificateDer<'_>]) -> Key {
    let mut context = Context::new(&SHA256);
    for certificate in chain {
        context.update(&(certificate.len() as u64).to_be_bytes());
        context.update(certificate);
    }
    let mut key = [0; SHA256_OUTPUT_LEN];
    key.copy_from_slice(context.finish().as_ref());
    key
}

fn times(chain: &[CertificateDer<'_>]) -> Option<Times> {
    let mut all = None;
    for certificate in chain {
        let (from, until) = validity(certificate)?;
        let (first, last) = all.unwrap_or((from, until));
        all = Some((from.max(first), until.min(last)));
    }
    all
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Csr, Issuer, KeyKind, KeyPair, SpiffeId, TrustDomain};

    const LIFE: Duration = Duration::from_hours(1);

    fn new_issuer(now: SystemTime) -> (Issuer, Arc<TrustBundle>) {
        let domain = TrustDomain::parse("cluster.local").expect("valid");
        let made = Issuer::new_root(&domain, KeyKind::P256, 10 * LIFE, now);
        let (key, root) = made.expect("a root");
        let bundle = Arc::new(TrustBundle::new([root.clone()]).expect("a bundle"));
        let issuer = Issuer::new(root, key, &[], &bundle, now);
        (issuer.expect("an issuer"), bundle)
    }

    fn chain(issuer: &Issuer, now: SystemTime) -> Vec<CertificateDer<'static>> {
        let domain = TrustDomain::parse("cluster.local").expect("valid");
        let id = SpiffeId::workload(&domain, "shop", "front").expect("valid");
        let key = KeyPair::generate(KeyKind::P256).expect("a key");
        let request = Csr::from_pem(key.request(None).expect("made").as_bytes());
        let issued = issuer.issue(&request.expect("valid"), &id.into(), LIFE, now);
        issued.expect("issued").chain
    }

    #[test]
    fn what_was_confirmed_is_so_for_its_time_and_its_roots_only() {
        let now = SystemTime::now();
        let (issuer, bundle) = new_issuer(now);
        let (_, others) = new_issuer(now);
        let chain = chain(&issuer, now);
        let confirmed = Confirmed::default();
        let known = || confirmed.memory(|memory| memory.recent.len() + memory.older.len());
        for _ in 0..2 {
            assert_eq!(confirmed.verify(&bundle, &chain, now), Ok(()));
            assert_eq!(known(), 1);
        }
        let mut damaged = chain.clone();
        let mut bytes = damaged[0].to_vec();
        *bytes.last_mut().expect("not empty") ^= 1;
        damaged[0] = bytes.into();
        assert!(confirmed.verify(&bundle, &damaged, now).is_err());
        assert!(confirmed.verify(&bundle, &[], now).is_err());
        for late in [now + 2 * LIFE, now - LIFE] {
            assert!(confirmed.verify(&bundle, &chain, late).is_err());
        }
        assert_eq!(known(), 1, "what is refused is not kept");
        assert!(confirmed.verify(&others, &chain, now).is_err());
        assert_eq!(known(), 0, "other roots confirm nothing of it");
        assert_eq!(confirmed.verify(&bundle, &chain, now), Ok(()));
    }

    #[test]
    fn memory_has_a_bound_and_keeps_what_is_used() {
        let mut memory = Memory::default();
        let (_, bundle) = new_issuer(SystemTime::now());
        let times = (SystemTime::UNIX_EPOCH, SystemTime::now());
        let used = [0xff; SHA256_OUTPUT_LEN];
        memory.find(&bundle, &used);
        memory.insert(used, times);
        for number in 0..4 * HALF as u64 {
            let mut key = [0; SHA256_OUTPUT_LEN];
            key[..8].copy_from_slice(&number.to_be_bytes());
            memory.insert(key, times);
            assert!(memory.find(&bundle, &used).is_some());
            assert!(memory.recent.len() + memory.older.len() <= 2 * HALF);
        }
    }
}
