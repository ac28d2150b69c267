//! What would become of a call: the listener, filter chain, route, cluster and endpoints that it
//! takes at one proxy, and what policies say. Decides nothing by itself: chains, routes, policies and
//! tokens are looked up by the code that the data plane runs (`weft-config`, `weft-filters`).
//!
//! Left out: what needs traffic (breakers, ejections, retries, shares of faults) and what needs another
//! service (keys of remote servers, external authorization); where that counts, a note says so.

mod admit;
mod authz;
mod call;
mod faults;
mod filters;
mod listen;
mod reach;
mod render;
mod route;
mod secrets;
mod selection;
mod side;

pub use authz::{authorization, render_authorization};
pub use call::{Call, Head, Hello};
pub use listen::Direction;
pub use render::render;
pub use side::{Side, SideError};

use serde_json::{Value, json};

/// What became of a call at one proxy.
#[derive(Debug)]
pub struct Passage {
    /// Each step, for people and tools.
    pub report: Value,
    /// The call as it goes on; `None` if it ends here.
    pub next: Option<Next>,
}

/// A call that goes on to a cluster.
#[derive(Debug)]
pub struct Next {
    /// The cluster.
    pub cluster: String,
    /// The call as an endpoint gets it; `None` if there is no endpoint.
    pub call: Option<Call>,
}

/// How a passage ended without going on.
#[derive(Debug)]
pub(crate) struct End {
    /// What happened.
    verdict: &'static str,
    /// Why, for people.
    reason: String,
    /// The HTTP status that the caller gets; `None`: the connection is closed.
    status: Option<u16>,
}

impl End {
    pub(crate) fn closed(reason: impl Into<String>) -> Self {
        Self {
            verdict: "closed",
            reason: reason.into(),
            status: None,
        }
    }

    pub(crate) fn answered(verdict: &'static str, status: u16, reason: impl Into<String>) -> Self {
        Self {
            verdict,
            reason: reason.into(),
            status: Some(status),
        }
    }
}

/// Takes a call through a proxy.
pub async fn pass(side: &Side, call: &Call, direction: Direction) -> Passage {
    let mut report = json!({ "proxy": side.proxy, "connected": side.connected });
    let held_back = side.held_back.iter();
    let mut notes = held_back
        .map(|fault| format!("held back from the proxy: {fault}"))
        .collect();
    let passed = listen::pass(side, call, direction, &mut report, &mut notes).await;
    let next = match passed {
        Ok(next) => {
            report["verdict"] = "forwarded".into();
            Some(next)
        }
        Err(end) => {
            report["verdict"] = end.verdict.into();
            report["reason"] = end.reason.into();
            report["status"] = end.status.into();
            None
        }
    };
    report["notes"] = notes.into();
    Passage { report, next }
}

#[cfg(test)]
mod tests;
