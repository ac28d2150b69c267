//! Keys of token issuers that are named by URL (`jwksUri`): fetched at the start and again and again;
//! the last good ones hold while the server is away. Must never know who shows tokens.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::Instant;
use weft_ca::authn::IssuerKeys;
use weft_core::drain::DrainSignal;
use weft_jwt::Keys;
use weft_model::KeyPlace;

use super::Desk;
use crate::keys::{KeyFetch, Way, connector, fetch};

/// Time for a fetch.
const FETCH: Duration = Duration::from_secs(10);
/// The first pause after a failure; it doubles.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// The longest.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The shortest time between two fetches, however many tokens have a key that is not known.
const REST: Duration = Duration::from_secs(10);
/// How long keys hold that cannot be fetched any more; as those of rules.
const KEPT: Duration = Duration::from_hours(7 * 24);

/// An issuer whose keys are fetched.
pub(crate) struct FetchedIssuer {
    pub(super) issuer: String,
    pub(super) url: Arc<str>,
    pub(super) keys: Arc<IssuerKeys>,
}

/// Fetches until the drain signal comes.
pub(crate) async fn follow_issuers(
    desk: Arc<Desk>,
    issuers: Vec<FetchedIssuer>,
    how: KeyFetch,
    drain: DrainSignal,
) {
    let mut tasks = JoinSet::new();
    for issuer in issuers {
        tasks.spawn(follow(Arc::clone(&desk), issuer, how.clone()));
    }
    // Without issuers there is nothing to do, but this part is not to end.
    drain.wait().await;
}

async fn follow(desk: Arc<Desk>, issuer: FetchedIssuer, how: KeyFetch) {
    let place = KeyPlace::Url(Arc::clone(&issuer.url));
    let mut pause = FIRST_PAUSE;
    let mut good = Instant::now();
    let mut told = String::new();
    loop {
        // The system's roots may have changed.
        let tls = connector(&how.extra_roots);
        let way = Way {
            tls: &tls,
            proxies: &how.proxies,
        };
        let fetched = tokio::time::timeout(FETCH, fetch(&place, way)).await;
        let fetched =
            fetched.unwrap_or_else(|_| Err(format!("{place}: no answer within {FETCH:?}")));
        let keys = fetched.and_then(|text| {
            Keys::parse(text.as_bytes()).ok_or_else(|| format!("{place}: no key in it can be used"))
        });
        let began = Instant::now();
        let wait = match keys {
            Ok(keys) => {
                issuer.keys.set(Some(keys));
                good = began;
                pause = FIRST_PAUSE;
                told.clear();
                how.refresh
            }
            Err(error) => {
                desk.counts
                    .issuer_fetches_failed
                    .fetch_add(1, Ordering::Relaxed);
                if good.elapsed() > KEPT {
                    issuer.keys.set(None);
                }
                if error != told {
                    let kept = issuer.keys.are_known();
                    tracing::warn!(
                        issuer = issuer.issuer,
                        error,
                        kept,
                        "keys of a token issuer cannot be fetched"
                    );
                    told = error;
                }
                let wait = pause;
                pause = pause.saturating_mul(2).min(LONGEST_PAUSE);
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = desk.unknown_key.notified() => tokio::time::sleep_until(began + REST.min(wait)).await,
        }
    }
}
