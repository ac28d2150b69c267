//! The agent at work: waits until its plan says so, asks, judges the answer, and hands it on.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::watch;
use weft_ca::{KeyKind, KeyPair, Received, SpiffeId};
use weft_core::drain::DrainSignal;
use weft_model::PrivateKey;
use weft_net::tls::{Identity, Pem, PemSource};
use weft_proto::istio::v1::auth::IstioCertificateRequest;

use crate::client::{CallError, Credential, Target, create_certificate};
use crate::credentials::{is_provisioned, provisioned};
use crate::doubts::Doubts;
use crate::options::AgentOptions;
use crate::output;
use crate::plan::{Plan, Shown, Trouble};
use crate::stats::AgentStats;
use crate::workload_api::{WorkloadApi, WorkloadApiOptions};

/// The longest sleep: the wall clock may be set meanwhile, or the machine may have slept.
const NAP: Duration = Duration::from_secs(10);

/// A certificate with its key, and whom its holder trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadIdentity {
    /// The certificate and its issuers in PEM.
    pub chain: Arc<[u8]>,
    /// The key in PEM.
    pub key: PrivateKey,
    /// The mesh's roots in PEM.
    pub roots: Arc<[u8]>,
    /// Who it is.
    pub id: SpiffeId,
    /// When the certificate ends.
    pub not_after: SystemTime,
    /// Its serial number in hexadecimal.
    pub serial: String,
}

impl WorkloadIdentity {
    pub(crate) fn shown(&self) -> Identity {
        let pem = |bytes: &[u8]| Pem::new("the present certificate", bytes).of(PemSource::Value);
        Identity {
            chain: pem(&self.chain),
            key: pem(self.key.expose()),
        }
    }
}

/// Is told each certificate.
pub type Publish = Box<dyn Fn(&WorkloadIdentity) + Send + Sync>;

/// See the crate.
pub struct Agent {
    options: Arc<AgentOptions>,
    plan: Plan,
    present: watch::Sender<Option<WorkloadIdentity>>,
    publish: Publish,
    stats: Arc<AgentStats>,
    doubts: Doubts,
    /// The same, as they are heard here.
    doubted: watch::Receiver<()>,
}

/// Why a call gave nothing.
struct Failed {
    trouble: Trouble,
    text: String,
}

impl Failed {
    fn other(text: impl Into<String>) -> Self {
        Self {
            trouble: Trouble::Other,
            text: text.into(),
        }
    }
}

impl From<CallError> for Failed {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Refused(text) => Self {
                trouble: Trouble::Refused,
                text,
            },
            CallError::Other(text) | CallError::Unserved(text) => Self::other(text),
        }
    }
}

impl Agent {
    /// An agent that has no certificate yet. `seed`: makes workloads differ.
    pub fn new(options: AgentOptions, seed: u64, publish: Publish) -> Self {
        let plan = Plan::new(options.schedule, seed, SystemTime::now());
        let doubts = Doubts::default();
        Self {
            options: Arc::new(options),
            plan,
            doubted: doubts.listen(),
            doubts,
            present: watch::Sender::default(),
            publish,
            stats: Arc::default(),
        }
    }

    /// Its counts.
    pub fn stats(&self) -> Arc<AgentStats> {
        Arc::clone(&self.stats)
    }

    /// Takes what others hear about the certificate.
    pub fn doubts(&self) -> Doubts {
        self.doubts.clone()
    }

    /// The SPIFFE Workload API with what this agent has.
    pub fn workload_api(&self, options: WorkloadApiOptions) -> WorkloadApi {
        WorkloadApi::new(
            options,
            Arc::clone(&self.options),
            self.present.subscribe(),
            Arc::clone(&self.stats),
            self.doubts.clone(),
        )
    }

    /// Works until the drain signal comes.
    pub async fn run(mut self, drain: DrainSignal) {
        loop {
            let left = self.plan.wait(SystemTime::now());
            if !left.is_zero() {
                tokio::select! {
                    () = drain.wait() => return,
                    // The sender is our own.
                    Ok(()) = self.doubted.changed() => self.revoked(),
                    () = tokio::time::sleep(left.min(NAP)) => {}
                }
                continue;
            }
            tokio::select! {
                () = drain.wait() => return,
                () = self.renew() => {}
            }
        }
    }

    fn revoked(&mut self) {
        if self.plan.revoked(SystemTime::now()) {
            self.stats.calls.num_revoked_certificates.inc();
            let present = self.present.borrow();
            let serial = present.as_ref().map(|present| &*present.serial);
            tracing::warn!(
                serial,
                "the certificate is revoked; another one is asked for, with something else if there is anything"
            );
        }
    }

    async fn renew(&mut self) {
        let asked = self.ask().await;
        let now = SystemTime::now();
        let calls = &self.stats.calls;
        match asked {
            Ok(identity) => {
                calls.certificates.inc();
                self.stats.ends(identity.not_after);
                self.plan.received(identity.not_after, now);
                tracing::info!(
                    identity = %identity.id, serial = identity.serial,
                    lasts = ?identity.not_after.duration_since(now).unwrap_or_default(),
                    "the workload has a certificate"
                );
                self.write(&identity);
                (self.publish)(&identity);
                self.present.send_replace(Some(identity));
                // That was about the one before.
                self.doubted.mark_unchanged();
            }
            Err(Failed { trouble, text }) => {
                calls.num_failed_outgoing_requests.inc();
                if trouble == Trouble::Refused {
                    calls.num_refused_outgoing_requests.inc();
                }
                let valid = self.plan.is_valid(now);
                let pause = self.plan.failed(trouble, now);
                tracing::warn!(
                    error = text, authority = self.options.address, again_in = ?pause,
                    has_valid_certificate = valid,
                    "the authority gave no certificate"
                );
            }
        }
    }

    fn write(&self, identity: &WorkloadIdentity) {
        let Some(folder) = &self.options.output else {
            return;
        };
        let (key, chain) = (identity.key.expose(), &identity.chain);
        if let Err(error) = output::write(folder, key, chain, &identity.roots) {
            self.stats.calls.num_failed_outputs.inc();
            tracing::error!(error, "the certificate is not written to its folder");
        }
    }

    async fn ask(&self) -> Result<WorkloadIdentity, Failed> {
        let options = &self.options;
        let credential = self.credential()?;
        let (kind, id) = (options.key, options.id.clone());
        // RSA takes its time.
        let made = tokio::task::spawn_blocking(move || request(kind, id.as_ref())).await;
        let made = made.map_err(|error| Failed::other(error.to_string()))?;
        let (key, csr) = made.map_err(Failed::other)?;
        let learnt = self.present.borrow().clone();
        let target = Target::new(options, learnt.as_ref()).map_err(Failed::other)?;
        let request = IstioCertificateRequest {
            csr,
            // To Istio's authority, too, 0 is its own default.
            validity_duration: options.lifetime.map_or(0, seconds),
            metadata: None,
        };
        let calls = &self.stats.calls;
        calls.num_outgoing_requests.inc();
        let begun = Instant::now();
        let cluster = options.cluster_id.as_deref();
        let answer = create_certificate(target, credential, cluster, request).await;
        calls
            .outgoing_latency
            .record(begun.elapsed().as_millis() as u64);
        let received = Received::read(&answer?, &key, SystemTime::now());
        let received = received.and_then(|received| match &options.id {
            Some(id) if *id != received.id => Err(format!(
                "the certificate is for {}, and this workload is {id} (--service-account and the node's namespace)",
                received.id
            )),
            _ => Ok(received),
        });
        let received = received.map_err(|problem| {
            calls.num_unusable_answers.inc();
            Failed::other(format!("the authority's answer: {problem}"))
        })?;
        Ok(WorkloadIdentity {
            chain: received.chain_pem().into_bytes().into(),
            key: key.to_pem(),
            roots: Arc::clone(received.roots.pem()),
            not_after: received.not_after,
            id: received.id,
            serial: received.serial,
        })
    }

    fn credential(&self) -> Result<Credential, Failed> {
        let options = &self.options;
        let token = match options.token.as_ref().map(super::TokenSource::read) {
            None => None,
            Some(Ok(token)) => token,
            Some(Err(error)) => {
                tracing::warn!(error, "the token cannot be read");
                None
            }
        };
        let folder = options.provisioned.as_ref();
        let folder = folder.filter(|folder| is_provisioned(folder));
        let now = SystemTime::now();
        let shown = self.plan.shown(token.is_some(), folder.is_some(), now);
        let present = self.present.borrow();
        match (shown, &*present, token, folder) {
            (Some(Shown::Present), Some(present), _, _) => {
                Ok(Credential::Certificate(present.shown()))
            }
            (Some(Shown::Token), _, Some(token), _) => Ok(Credential::Token(token)),
            (Some(Shown::Provisioned), _, _, Some(folder)) => match provisioned(folder) {
                Ok(identity) => Ok(Credential::Certificate(identity)),
                Err(error) => Err(Failed {
                    trouble: Trouble::Refused,
                    text: error.to_string(),
                }),
            },
            _ => Err(Failed::other(self.options.without_credentials())),
        }
    }
}

fn seconds(time: Duration) -> i64 {
    // 0 would be another wish.
    i64::try_from(time.as_secs()).unwrap_or(i64::MAX).max(1)
}

fn request(kind: KeyKind, id: Option<&SpiffeId>) -> Result<(KeyPair, String), String> {
    let key = KeyPair::generate(kind)?;
    let csr = key.request(id)?;
    Ok((key, csr))
}
