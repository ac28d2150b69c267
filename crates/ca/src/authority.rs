//! What is in force: who signs, whom the mesh trusts, what is revoked. It changes under the hands of
//! those who use it. Never knows folders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;

use crate::csr::Csr;
use crate::issuer::{Issued, Issuer, SignError, Subject};
use crate::signer::{self, ExternalSigner, SigningRequest};
use crate::{Revoked, TrustBundle};

/// How long certificates last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lifetimes {
    /// If the asker says nothing (istiod's `DEFAULT_WORKLOAD_CERT_TTL`).
    pub default: Duration,
    /// The longest that may be asked for (istiod's `MAX_WORKLOAD_CERT_TTL`).
    pub longest: Duration,
}

impl Default for Lifetimes {
    fn default() -> Self {
        Self {
            default: Duration::from_hours(24),
            longest: Duration::from_hours(90 * 24),
        }
    }
}

/// Who signs.
#[derive(Clone)]
pub enum Signer {
    /// This process.
    Own(Arc<Issuer>),
    /// Somebody else, who has this long for an answer.
    External(Arc<dyn ExternalSigner>),
}

/// What is in force at a time.
#[derive(Clone)]
pub struct State {
    /// Who signs.
    pub signer: Signer,
    /// Whom the mesh trusts.
    pub bundle: Arc<TrustBundle>,
    /// What is revoked.
    pub revoked: Arc<Revoked>,
    /// The issuers' lists of it.
    pub lists: RevocationLists,
}

/// Lists of revoked certificates, for those who check certificates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RevocationLists {
    /// In PEM; empty if nothing is revoked.
    pub pem: Arc<str>,
    /// Whether there is one of each authority of a chain. If not, only the last certificate of a
    /// chain can be looked up in them.
    pub whole_chain: bool,
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    /// Certificates issued.
    pub issued: AtomicU64,
    /// Changes of the state.
    pub changes: AtomicU64,
}

/// The authority of the mesh.
pub struct Authority {
    state: ArcSwap<State>,
    lifetimes: Lifetimes,
    /// See [`Counters`].
    pub counters: Counters,
}

impl Authority {
    /// An authority in this state.
    pub fn new(state: State, lifetimes: Lifetimes) -> Self {
        Self {
            state: ArcSwap::from_pointee(state),
            lifetimes,
            counters: Counters::default(),
        }
    }

    /// Puts another state in force.
    pub fn replace(&self, state: State) {
        self.state.store(Arc::new(state));
        self.counters.changes.fetch_add(1, Ordering::Relaxed);
    }

    /// What is in force.
    pub fn state(&self) -> Arc<State> {
        self.state.load_full()
    }

    /// Issues a certificate for the key of a request. `asked`: the lifetime, if the asker says one.
    ///
    /// # Errors
    /// See [`SignError`].
    pub async fn issue(
        &self,
        request: Csr,
        subject: Subject,
        asked: Option<Duration>,
        now: SystemTime,
    ) -> Result<Issued, SignError> {
        let lifetime = self.lifetime(asked)?;
        let state = self.state();
        let issued = match &state.signer {
            Signer::Own(issuer) => issuer.issue(&request, &subject, lifetime, now),
            Signer::External(external) => {
                let request = SigningRequest {
                    csr: request,
                    subject,
                    lifetime,
                };
                let chain = external.sign(request.clone()).await?;
                signer::accept(&request, chain, &state.bundle, now)
            }
        }?;
        self.counters.issued.fetch_add(1, Ordering::Relaxed);
        Ok(issued)
    }

    /// How long a certificate lasts for which this is asked.
    ///
    /// # Errors
    /// More than is allowed.
    pub fn lifetime(&self, asked: Option<Duration>) -> Result<Duration, SignError> {
        let asked = asked.filter(|asked| !asked.is_zero());
        let lifetime = asked.unwrap_or(self.lifetimes.default);
        if lifetime > self.lifetimes.longest {
            return Err(SignError::Lifetime {
                asked: lifetime,
                longest: self.lifetimes.longest,
            });
        }
        Ok(lifetime)
    }
}
