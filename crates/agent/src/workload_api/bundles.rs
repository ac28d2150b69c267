//! By what identities of the trust domains are checked, as the authority says it: asked for with the
//! present certificate, every few minutes and whenever that is renewed. Never knows who asks for it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use weft_ca::jwt_keys::REFRESH;
use weft_ca::{TrustDomain, jwt_svid::JwtBundle};
use weft_proto::identity::BundlesResponse;

use crate::agent::WorkloadIdentity;
use crate::client::{CallError, Credential, Target, get_bundles};
use crate::doubts::Doubts;
use crate::options::AgentOptions;

/// Bytes of all lists of revoked certificates: gRPC clients take messages of 4 MiB, and these are not
/// alone in theirs.
const MAX_LISTS: usize = 3 * 1024 * 1024;
/// Trust domains that are taken over; more are passed over.
const MAX_DOMAINS: usize = 256;
/// The first pause after a failure; it doubles up to [`REFRESH`].
const PAUSE: Duration = Duration::from_secs(1);

/// Of one trust domain.
#[derive(Debug, PartialEq)]
pub(super) struct Bundle {
    /// Concatenated DER.
    pub(super) roots: Vec<u8>,
    /// Keys of tokens, if there are any.
    pub(super) keys: Option<JwtBundle>,
    /// Its authorities' lists of revoked certificates in DER.
    pub(super) lists: Vec<Vec<u8>>,
}

pub(super) type Known = BTreeMap<TrustDomain, Bundle>;

/// What is known.
#[derive(Debug, Clone)]
pub(super) enum Bundles {
    /// Not asked yet, or not answered.
    Unknown,
    /// The authority gives no bundles; istiod does not.
    Unserved,
    /// The last good answer.
    Known(Arc<Known>),
}

impl Bundles {
    /// As far as they are known.
    pub(super) fn known(&self) -> Arc<Known> {
        match self {
            Self::Known(known) => Arc::clone(known),
            Self::Unknown | Self::Unserved => Arc::default(),
        }
    }
}

/// Asks again and again; ends with the agent.
pub(super) async fn follow(
    (options, doubts): (Arc<AgentOptions>, Doubts),
    mut identity: watch::Receiver<Option<WorkloadIdentity>>,
    sender: watch::Sender<Bundles>,
) {
    let mut pause = PAUSE;
    loop {
        let present = identity.borrow_and_update().clone();
        let wait = match present {
            None => REFRESH,
            Some(present) => match ask(&options, &present).await {
                Ok(answer) => {
                    pause = PAUSE;
                    take(&sender, read(answer));
                    REFRESH
                }
                Err(CallError::Unserved(_)) => {
                    sender.send_if_modified(|now| match now {
                        Bundles::Unknown => {
                            tracing::info!(
                                "the authority has no JWT-SVIDs and no bundles of others"
                            );
                            *now = Bundles::Unserved;
                            true
                        }
                        Bundles::Unserved | Bundles::Known(_) => false,
                    });
                    REFRESH
                }
                Err(error) => {
                    doubts.heard(error.text());
                    tracing::warn!(error = error.text(), "bundles stay as they were");
                    let wait = pause;
                    pause = pause.saturating_mul(2).min(REFRESH);
                    wait
                }
            },
        };
        tokio::select! {
            changed = identity.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(wait) => {}
        }
    }
}

async fn ask(
    options: &AgentOptions,
    present: &WorkloadIdentity,
) -> Result<BundlesResponse, CallError> {
    if present.not_after <= SystemTime::now() {
        let text = "there is no valid certificate to ask with".to_owned();
        return Err(CallError::Other(text));
    }
    let target = Target::new(options, Some(present)).map_err(CallError::Other)?;
    let credential = Credential::Certificate(present.shown());
    get_bundles(target, credential, options.cluster_id.as_deref()).await
}

/// What of an answer can be used.
fn read(answer: BundlesResponse) -> Known {
    let mut known = Known::new();
    for (name, bundle) in answer.bundles.into_iter().take(MAX_DOMAINS) {
        let Ok(domain) = TrustDomain::parse(&name) else {
            tracing::warn!(name, "a bundle of what is no trust domain is passed over");
            continue;
        };
        let bundle = Bundle {
            roots: bundle.x509_authorities.concat(),
            keys: JwtBundle::parse(bundle.jwks),
            lists: lists(&name, bundle.crl),
        };
        known.insert(domain, bundle);
    }
    known
}

/// Lists that applications can be given.
fn lists(domain: &str, lists: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let bytes: usize = lists.iter().map(Vec::len).sum();
    if bytes > MAX_LISTS {
        tracing::error!(
            domain,
            bytes,
            "the lists of revoked certificates are too long for the Workload API, which goes on without"
        );
        return Vec::new();
    }
    lists
}

fn take(sender: &watch::Sender<Bundles>, new: Known) {
    sender.send_if_modified(|now| {
        let same = matches!(now, Bundles::Known(known) if **known == new);
        if !same {
            *now = Bundles::Known(Arc::new(new));
        }
        !same
    });
}
