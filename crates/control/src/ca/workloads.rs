//! Certificates of workloads that have no agent: the control plane makes their keys, one for each
//! service account, and serves them over SDS on the secure port. Must never know who is connected,
//! only whose certificates are wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::time::Instant;
use weft_ca::authority::RevocationLists;
use weft_ca::issuer::Subject;
use weft_ca::{Csr, KeyKind, KeyPair, SpiffeId};
use weft_core::drain::DrainSignal;
use weft_model::Namespace;
use weft_model::secret;

use super::Desk;
use super::server_certificate::SHORTEST;
use crate::core::Core;

/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// How often it looks when nothing is due.
const REST: Duration = Duration::from_mins(1);

/// A namespace and a service account.
pub(crate) type Account = (Namespace, Arc<str>);

/// A workload's certificate with its key, and whom it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Svid {
    pub(crate) pair: secret::KeyPair,
    /// In PEM.
    pub(crate) roots: Arc<[u8]>,
    /// What is revoked.
    pub(crate) lists: RevocationLists,
}

/// Whose certificates are wanted, with the number of proxies that want them.
pub(crate) type Wanted = BTreeMap<Account, usize>;

/// Issues and renews until the drain signal comes.
pub(crate) async fn serve(core: Arc<Core>, desk: Arc<Desk>, drain: DrainSignal) {
    let mut wanted = desk.wanted.subscribe();
    let mut changed = desk.changed.subscribe();
    let mut due: BTreeMap<Account, Instant> = BTreeMap::new();
    loop {
        let accounts = wanted.borrow_and_update().clone();
        due.retain(|account, _| {
            let kept = accounts.contains_key(account);
            if !kept {
                core.set_svid(account, None);
            }
            kept
        });
        let now = Instant::now();
        for account in accounts.keys() {
            if due.get(account).is_some_and(|at| *at > now) {
                continue;
            }
            let wait = match issue(&desk, account).await {
                Ok((svid, life)) => {
                    core.set_svid(account, Some(svid));
                    desk.counts.served.fetch_add(1, Ordering::Relaxed);
                    weft_ca::renewal(life).max(SHORTEST)
                }
                Err(error) => {
                    let (namespace, name) = account;
                    tracing::error!(%namespace, %name, error, "no certificate for a workload");
                    AGAIN
                }
            };
            due.insert(account.clone(), Instant::now() + wait);
        }
        let next = due.values().min().copied();
        let next = next.unwrap_or_else(|| Instant::now() + REST);
        tokio::select! {
            () = drain.wait() => return,
            changed = wanted.changed() => if changed.is_err() { return },
            changed = changed.changed() => {
                if changed.is_err() { return }
                // Another root or another signer: all are to know it.
                let now = Instant::now();
                for at in due.values_mut() {
                    *at = now;
                }
            }
            () = tokio::time::sleep_until(next) => {}
        }
    }
}

async fn issue(desk: &Desk, (namespace, account): &Account) -> Result<(Svid, Duration), String> {
    let domain = &desk.authenticator.domains.own;
    let id = SpiffeId::workload(domain, namespace.as_str(), account);
    let id = id.map_err(|error| error.to_string())?;
    let key = KeyPair::generate(KeyKind::P256)?;
    let request = key.request(None)?;
    let request = Csr::from_pem(request.as_bytes()).map_err(|error| error.to_string())?;
    let now = SystemTime::now();
    let issued = desk.authority.issue(request, Subject::from(id), None, now);
    let issued = issued.await.map_err(|error| error.to_string())?;
    let state = desk.authority.state();
    let svid = Svid {
        pair: secret::KeyPair {
            chain: issued.pem().concat().into_bytes().into(),
            key: key.to_pem(),
            staple: None,
        },
        roots: Arc::clone(state.bundle.pem()),
        lists: state.lists.clone(),
    };
    Ok((
        svid,
        issued.not_after.duration_since(now).unwrap_or_default(),
    ))
}

/// Says that one proxy more, or one less, wants the certificate of an account.
pub(crate) fn want(wanted: &watch::Sender<Wanted>, account: &Account, more: bool) {
    wanted.send_if_modified(|all| {
        let count = all.entry(account.clone()).or_insert(0);
        let before = *count;
        *count = if more {
            count.saturating_add(1)
        } else {
            count.saturating_sub(1)
        };
        let is_news = (before == 0) != (*count == 0);
        if *count == 0 {
            all.remove(account);
        }
        is_news
    });
}
