//! Certificates of workloads that have no agent: the control plane makes their keys, one for each
//! service account, and serves them over SDS on the secure port. Must never know who is connected,
//! only whose certificates are wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_ca::authority::RevocationLists;
use weft_ca::issuer::Subject;
use weft_ca::{Csr, KeyKind, KeyPair, SpiffeId};
use weft_core::drain::DrainSignal;
use weft_model::Namespace;
use weft_model::secret;

use super::server_certificate::SHORTEST;
use super::{Desk, journal};
use crate::core::Core;

/// After a failure.
const AGAIN: Duration = Duration::from_secs(5);
/// Certificates that are issued at once, and published together.
const AT_ONCE: usize = 1024;
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
        let gone = due.keys().filter(|account| !accounts.contains_key(account));
        let gone: Vec<Account> = gone.cloned().collect();
        due.retain(|account, _| accounts.contains_key(account));
        core.set_svids(gone.into_iter().map(|account| (account, None)));
        let now = Instant::now();
        let is_due = |account: &&Account| due.get(*account).is_none_or(|at| *at <= now);
        let now_due: Vec<Account> = accounts.keys().filter(is_due).cloned().collect();
        for part in now_due.chunks(AT_ONCE) {
            // At a change of the root all are due: one publication, not one each.
            let (svids, waits) = issue_all(&desk, part).await;
            core.set_svids(
                svids
                    .into_iter()
                    .map(|(account, svid)| (account, Some(svid))),
            );
            due.extend(waits);
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

/// New certificates, as far as there are any, and when each account is due again.
async fn issue_all(
    desk: &Arc<Desk>,
    accounts: &[Account],
) -> (Vec<(Account, Svid)>, Vec<(Account, Instant)>) {
    let mut issuing = JoinSet::new();
    for account in accounts.iter().cloned() {
        let desk = Arc::clone(desk);
        // An external signer takes its time: all at once.
        issuing.spawn(async move { (issue(&desk, &account).await, account) });
    }
    let (mut svids, mut waits) = (Vec::new(), Vec::new());
    while let Some(issued) = issuing.join_next().await {
        let Ok((issued, account)) = issued else {
            continue;
        };
        let wait = match issued {
            Ok((svid, life)) => {
                svids.push((account.clone(), svid));
                desk.counts.served.fetch_add(1, Ordering::Relaxed);
                weft_ca::renewal(life).max(SHORTEST)
            }
            Err(error) => {
                let (namespace, name) = &account;
                tracing::error!(%namespace, %name, error, "no certificate for a workload");
                AGAIN
            }
        };
        waits.push((account, Instant::now() + wait));
    }
    (svids, waits)
}

async fn issue(desk: &Desk, (namespace, account): &Account) -> Result<(Svid, Duration), String> {
    let domain = &desk.authenticator.domains.own;
    let id = SpiffeId::workload(domain, namespace.as_str(), account);
    let id = id.map_err(|error| error.to_string())?;
    let key = KeyPair::generate(KeyKind::P256)?;
    let request = key.request(None)?;
    let request = Csr::from_pem(request.as_bytes()).map_err(|error| error.to_string())?;
    let now = SystemTime::now();
    let subject = Subject::from(id.clone());
    let issued = desk.authority.issue(request, subject, None, now);
    let issued = issued.await.map_err(|error| error.to_string())?;
    journal::issued(&id, &issued, "xDS", None);
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
