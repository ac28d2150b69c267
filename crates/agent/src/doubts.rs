//! What others hear about the certificate that they show: that it is revoked. Never decides what
//! follows from it.

use tokio::sync::watch;

/// The reason by which the control plane names a revoked certificate.
const REVOKED: &str = "certificate_revoked";

/// Tells the agent; cheap to clone.
#[derive(Clone, Debug)]
pub struct Doubts(watch::Sender<()>);

impl Default for Doubts {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}

impl Doubts {
    /// A refusal that somebody heard who showed the certificate, as code and message.
    pub fn heard(&self, refusal: &str) {
        if refusal.contains(REVOKED) {
            self.0.send_replace(());
        }
    }

    pub(crate) fn listen(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_revocation_is_told() {
        let doubts = Doubts::default();
        let listening = doubts.listen();
        let told = || listening.has_changed().expect("it is there");
        doubts.heard("Unauthenticated: authentication failure (certificate_invalid)");
        doubts.heard("Unavailable: error trying to connect");
        assert!(!told());
        doubts.heard("Unauthenticated: authentication failure (certificate_revoked)");
        assert!(told());
    }
}
