//! JWT-SVIDs of the workload: asked of the authority with the present certificate, and kept for
//! half of their life. Never knows who asks for them.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::SystemTime;

use tokio::sync::Semaphore;
use tonic::Status;
use weft_ca::jwt_svid::{JwtSvid, check_audiences};
use weft_proto::identity::JwtSvidRequest;

use super::Shared;
use crate::agent::WorkloadIdentity;
use crate::client::{CallError, Credential, Target, create_jwt_svid};

/// Tokens that are kept; beyond them the one goes that ends first.
const KEPT: usize = 256;
/// Requests to the authority at once; more wait for their turn.
const AT_ONCE: usize = 8;

/// A token is for an identity and audiences.
type Key = (String, Vec<String>);

#[derive(Clone)]
struct Kept {
    svid: String,
    /// From then on another one is asked for.
    stale: SystemTime,
    end: SystemTime,
}

pub(super) struct Tokens {
    kept: Mutex<BTreeMap<Key, Kept>>,
    places: Semaphore,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            kept: Mutex::default(),
            places: Semaphore::new(AT_ONCE),
        }
    }
}

impl Tokens {
    fn find(&self, key: &Key) -> Option<Kept> {
        let kept = self.kept.lock().ok()?;
        kept.get(key).cloned()
    }

    fn keep(&self, key: Key, token: Kept, now: SystemTime) {
        let Ok(mut kept) = self.kept.lock() else {
            return;
        };
        kept.retain(|_, token| token.end > now);
        if kept.len() >= KEPT && !kept.contains_key(&key) {
            let first = kept.iter().min_by_key(|(_, token)| token.end);
            if let Some(first) = first.map(|(key, _)| key.clone()) {
                kept.remove(&first);
            }
        }
        kept.insert(key, token);
    }
}

/// A token of the workload for these audiences.
pub(super) async fn token(
    shared: &Shared,
    identity: &WorkloadIdentity,
    mut audience: Vec<String>,
) -> Result<String, Status> {
    check_audiences(&audience).map_err(Status::invalid_argument)?;
    // The order means nothing, but the first one is kept where it is one.
    audience.sort();
    audience.dedup();
    let key = (identity.id.to_string(), audience);
    let tokens = &shared.tokens;
    let fresh = |token: &Kept| SystemTime::now() < token.stale;
    if let Some(token) = tokens.find(&key).filter(fresh) {
        return Ok(token.svid);
    }
    let place = tokens.places.acquire().await;
    let _place = place.map_err(|_| Status::unavailable("the proxy ends"))?;
    // Somebody may have asked for the same meanwhile.
    if let Some(token) = tokens.find(&key).filter(fresh) {
        return Ok(token.svid);
    }
    let stats = &shared.stats.workload_api;
    match ask(shared, identity, &key.1).await {
        Ok(token) => {
            stats.jwt_svids.inc();
            let svid = token.svid.clone();
            tokens.keep(key, token, SystemTime::now());
            Ok(svid)
        }
        Err(error) => {
            stats.num_failed_jwt_svids.inc();
            shared.doubts.heard(error.text());
            tracing::warn!(error = error.text(), "the authority gave no JWT-SVID");
            let kept = tokens.find(&key);
            if let Some(token) = kept.filter(|token| SystemTime::now() < token.end) {
                return Ok(token.svid);
            }
            let text = format!("the authority gave no JWT-SVID: {}", error.text());
            Err(match error {
                CallError::Refused(_) => Status::permission_denied(text),
                CallError::Unserved(_) => Status::unimplemented(text),
                CallError::Other(_) => Status::unavailable(text),
            })
        }
    }
}

async fn ask(
    shared: &Shared,
    identity: &WorkloadIdentity,
    audience: &[String],
) -> Result<Kept, CallError> {
    let options = &shared.options;
    let now = SystemTime::now();
    if identity.not_after <= now {
        let text = "there is no valid certificate to ask with".to_owned();
        return Err(CallError::Other(text));
    }
    let target = Target::new(options, Some(identity)).map_err(CallError::Other)?;
    let credential = Credential::Certificate(identity.shown());
    let request = JwtSvidRequest {
        audience: audience.to_vec(),
        validity_duration: 0,
    };
    let cluster = options.cluster_id.as_deref();
    let svid = create_jwt_svid(target, credential, cluster, request).await?;
    let wrong = |problem: String| CallError::Other(format!("its answer: {problem}"));
    let read = JwtSvid::read(&svid).map_err(wrong)?;
    if read.id != identity.id {
        return Err(wrong(format!("the token is for {}", read.id)));
    }
    let life = read.expiry.duration_since(now);
    let life = life.map_err(|_| wrong("the token has ended".to_owned()))?;
    Ok(Kept {
        svid,
        stale: now.checked_add(life / 2).unwrap_or(now),
        end: read.expiry,
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn of_too_many_tokens_the_one_goes_that_ends_first() {
        let (tokens, now) = (Tokens::default(), SystemTime::now());
        let end = |minutes| now + Duration::from_mins(minutes);
        let key = |number: u64| ("id".to_owned(), vec![number.to_string()]);
        let token = |minutes| Kept {
            svid: String::new(),
            stale: now,
            end: end(minutes),
        };
        for number in 0..KEPT as u64 {
            tokens.keep(key(number), token(10 + number), now);
        }
        tokens.keep(key(1000), token(5), now);
        assert!(tokens.find(&key(0)).is_none());
        assert!(tokens.find(&key(1)).is_some() && tokens.find(&key(1000)).is_some());
        tokens.keep(key(1001), token(9), end(6));
        assert!(tokens.find(&key(1000)).is_none(), "its time is over");
        assert!(tokens.find(&key(1)).is_some());
    }
}
