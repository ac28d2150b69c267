//! Looks at the authority's folder and puts in force what changed. Must never know what is in it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use tokio::task::JoinError;
use weft_ca::{AuthorityError, FederatedFolder};
use weft_core::drain::DrainSignal;

use super::{Desk, Folder};

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// After how many looks join tokens are forgotten whose time is over.
const PRUNE: u64 = 60;

/// Watches until the drain signal comes.
pub(crate) async fn keep(
    desk: Arc<Desk>,
    mut folder: Folder,
    drain: DrainSignal,
) -> Result<(), JoinError> {
    let [
        mut told,
        mut told_of_keys,
        mut told_of_others,
        mut told_of_own,
    ] = [(); 4].map(|()| String::new());
    for look in 1_u64.. {
        tokio::select! {
            () = drain.wait() => break,
            () = tokio::time::sleep(EVERY) => {}
        }
        let own = Arc::clone(&desk);
        // Disks may be slow.
        let looked = tokio::task::spawn_blocking(move || {
            let now = SystemTime::now();
            let changed = folder.signer.poll(now);
            let keys = folder.jwt.poll(now);
            let foreign = folder.federated.as_mut().map(FederatedFolder::poll);
            if look.is_multiple_of(PRUNE)
                && let Some(joins) = &own.authenticator.joins
                && let Err(error) = joins.prune(now)
            {
                tracing::warn!(%error, "join tokens");
            }
            let published = folder.publish(&own);
            (folder, changed, keys, foreign, published)
        });
        let (again, changed, keys, foreign, published) = looked.await?;
        folder = again;
        match published {
            Ok(()) => told_of_own.clear(),
            Err(error) => refused(
                &desk,
                &error,
                "our bundle for other trust domains",
                &mut told_of_own,
            ),
        }
        match foreign {
            Some(Ok(Some(bundles))) => {
                tracing::info!(
                    domains = bundles.len(),
                    "the bundles of other trust domains changed"
                );
                desk.foreign.store(Arc::new(bundles));
                told_of_others.clear();
            }
            Some(Ok(None)) | None => {}
            Some(Err(error)) => refused(
                &desk,
                &error,
                "the bundles of other trust domains",
                &mut told_of_others,
            ),
        }
        match keys {
            Ok(Some(keys)) => {
                tracing::info!("the keys of JWT-SVIDs changed");
                desk.jwt_keys.store(Arc::new(keys));
                told_of_keys.clear();
            }
            Ok(None) => {}
            Err(error) => refused(&desk, &error, "the keys of JWT-SVIDs", &mut told_of_keys),
        }
        match changed {
            Ok(Some(state)) => {
                let roots = state.bundle.certificates().len();
                let revoked = state.revoked.len();
                tracing::info!(roots, revoked, "the certificate authority changed");
                desk.authority.replace(state);
                desk.changed.send_modify(|count| *count += 1);
                told.clear();
            }
            Ok(None) => {}
            Err(error) => refused(&desk, &error, "the certificate authority", &mut told),
        }
    }
    Ok(())
}

/// Counts and tells an error, unless it was told last.
fn refused(desk: &Desk, error: &AuthorityError, what: &str, told: &mut String) {
    let error = error.to_string();
    if error != *told {
        tracing::error!(error, "a change is refused: {what} stays as before");
        desk.counts.updates_refused.fetch_add(1, Ordering::Relaxed);
        *told = error;
    }
}
