//! Streams whose certificate was believed when they began are ended when it is revoked or has expired: who
//! stole it must not go on to be sent keys. Must never know what is sent.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinError;
use weft_core::drain::DrainSignal;

use super::Desk;
use crate::core::Core;

/// How often it looks although the authority did not change: certificates expire.
const EVERY: Duration = Duration::from_mins(5);

/// Looks at the certificates of open streams until the drain signal comes.
pub(crate) async fn look_again(
    core: Arc<Core>,
    desk: Arc<Desk>,
    drain: DrainSignal,
) -> Result<(), JoinError> {
    let mut changed = desk.changed.subscribe();
    loop {
        tokio::select! {
            () = drain.wait() => return Ok(()),
            changed = changed.changed() => if changed.is_err() { return Ok(()) },
            () = tokio::time::sleep(EVERY) => {}
        }
        let (core, desk) = (Arc::clone(&core), Arc::clone(&desk));
        // Thousands of signatures do not belong among the connections.
        tokio::task::spawn_blocking(move || core.end_unbelieved(&desk)).await?;
    }
}
