//! The control plane's own certificate on the secure port: issued by its authority, renewed at half
//! of its life and whenever the authority changes. Must never know who connects.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwapOption;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use weft_ca::issuer::Subject;
use weft_ca::{Csr, KeyKind, KeyPair};
use weft_core::drain::DrainSignal;

use super::{Desk, journal};

/// After a failure.
const AGAIN: Duration = Duration::from_secs(10);

/// Between two certificates: an issuer that is about to end gives ever shorter ones.
pub(super) const SHORTEST: Duration = Duration::from_secs(1);

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct ServerCertificate(ArcSwapOption<CertifiedKey>);

impl ResolvesServerCert for ServerCertificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0.load_full()
    }
}

impl ServerCertificate {
    /// Gets a certificate; returns how long it lasts.
    pub(crate) async fn get(&self, desk: &Desk, subject: &Subject) -> Result<Duration, String> {
        let key = KeyPair::generate(KeyKind::P256)?;
        let request = key.request(None)?;
        let request = Csr::from_pem(request.as_bytes()).map_err(|error| error.to_string())?;
        let now = SystemTime::now();
        let issued = desk.authority.issue(request, subject.clone(), None, now);
        let issued = issued.await.map_err(|error| error.to_string())?;
        journal::issued(&subject.id, &issued, "control plane", None);
        let private = PrivateKeyDer::from_pem_slice(key.to_pem().expose());
        let private = private.map_err(|error| error.to_string())?;
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let loaded = provider.key_provider.load_private_key(private);
        let loaded = loaded.map_err(|error| error.to_string())?;
        let certified = CertifiedKey::new(issued.chain, loaded);
        self.0.store(Some(Arc::new(certified)));
        Ok(issued.not_after.duration_since(now).unwrap_or_default())
    }

    /// Renews it until the drain signal comes. `life`: what is left of the first one's.
    pub(crate) async fn renew(
        self: Arc<Self>,
        desk: Arc<Desk>,
        subject: Subject,
        life: Duration,
        drain: DrainSignal,
    ) {
        let mut changed = desk.changed.subscribe();
        let mut wait = weft_ca::renewal(life);
        loop {
            tokio::select! {
                () = drain.wait() => return,
                changed = changed.changed() => if changed.is_err() { return },
                () = tokio::time::sleep(wait) => {}
            }
            wait = match self.get(&desk, &subject).await {
                Ok(life) => weft_ca::renewal(life).max(SHORTEST),
                Err(error) => {
                    tracing::error!(error, "the control plane's own certificate stays as it was");
                    AGAIN
                }
            };
        }
    }
}
