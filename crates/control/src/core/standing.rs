//! Where connected proxies stand, asked of their streams. Must never change what is published.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::task::JoinSet;
use weft_xds::server::{Refusal, TypeStatus};
use weft_xds::{TypeUrl, Version};

use super::{Connected, Core};

/// How long a stream may take to say where it stands.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far a type has come, in the words of `istioctl proxy-status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The proxy has accepted everything that it is to have.
    Synced,
    /// Something is on its way, or waits for something else.
    Stale,
    /// Nothing was sent yet.
    NotSent,
    /// The proxy refuses something.
    Error,
}

/// Where a proxy stands with one type.
#[derive(Clone, Debug)]
pub(crate) struct TypePosition {
    pub(crate) type_url: TypeUrl,
    pub(crate) step: Step,
    /// When something was sent last on this stream.
    pub(crate) sent: Option<SystemTime>,
    pub(crate) acked: Option<Version>,
    /// The proxy's words, if it refuses something.
    pub(crate) error: Option<String>,
    /// Resources that it is to have and has not accepted, without those that it refuses.
    pub(crate) missing: Vec<Arc<str>>,
    /// How many that are gone are still to be taken from it.
    pub(crate) leftover: usize,
    pub(crate) refused: Vec<(Arc<str>, Refusal)>,
}

/// A connected proxy and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Position {
    pub(crate) connected: Connected,
    pub(crate) types: Vec<TypePosition>,
}

impl Position {
    fn new(connected: Connected, types: Vec<TypeStatus>) -> Self {
        let known = types
            .into_iter()
            .filter(|status| status.type_url.is_known());
        let types = known.map(|status| position(&connected, status)).collect();
        Self { connected, types }
    }
}

fn position(connected: &Connected, status: TypeStatus) -> TypePosition {
    let noted = connected.types.get(&status.type_url);
    let noted = noted.cloned().unwrap_or_default();
    let outstanding = !status.missing.is_empty() || status.leftover > 0 || status.in_flight;
    let refused = status.refused.first().map(|(_, r)| r.error.to_string());
    // A refusal without a name is one whose resource is being searched for.
    let error = refused.or(noted.error.filter(|_| outstanding));
    let step = if error.is_some() {
        Step::Error
    } else if !outstanding {
        Step::Synced
    } else if noted.sent.is_none() && noted.acked.is_none() {
        Step::NotSent
    } else {
        Step::Stale
    };
    TypePosition {
        type_url: status.type_url,
        step,
        sent: noted.sent,
        acked: noted.acked,
        error,
        missing: status.missing,
        leftover: status.leftover,
        refused: status.refused,
    }
}

impl Core {
    /// Where these proxies stand, by node id. A stream that has ended meanwhile is left out; one
    /// that does not answer has no types.
    pub(crate) async fn positions(&self, wanted: impl Fn(&Connected) -> bool) -> Vec<Position> {
        let connected: Vec<Connected> = self.connected().into_iter().filter(wanted).collect();
        let mut asking = JoinSet::new();
        for connected in connected {
            asking.spawn(async move {
                let answer = tokio::time::timeout(PATIENCE, connected.standing.ask()).await;
                match answer {
                    Ok(None) => None,
                    Ok(Some(types)) => Some(Position::new(connected, types)),
                    Err(_) => Some(Position::new(connected, Vec::new())),
                }
            });
        }
        let mut positions = Vec::with_capacity(asking.len());
        while let Some(answer) = asking.join_next().await {
            positions.extend(answer.ok().flatten());
        }
        positions.sort_by(|a, b| a.connected.proxy.id.cmp(&b.connected.proxy.id));
        positions
    }
}
