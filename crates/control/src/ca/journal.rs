//! The log: what is issued, line by line, for those who are to revoke it, and how many lines refusals
//! get. Must never know keys or tokens.

use std::net::SocketAddr;
use std::time::SystemTime;

use parking_lot::Mutex;
use tracing::Level;
use weft_ca::{Issued, SpiffeId};

/// The log's target: thousands of lines are only for who asks for them.
const TARGET: &str = "weft_ca::issued";

/// Tells of a certificate. `by`: how it was known whom it is for.
pub(super) fn issued(id: &SpiffeId, issued: &Issued, by: &str, address: Option<SocketAddr>) {
    if !tracing::enabled!(target: TARGET, Level::DEBUG) {
        return;
    }
    let (serial, expires) = issued.serial_and_end().unzip();
    tracing::debug!(
        target: TARGET,
        serial, identity = %id, expires, by, address = address.map(tracing::field::display),
        "a certificate is issued"
    );
}

/// Lines of the log about refusals in one second: anybody who reaches the port may cause them. The
/// metric counts all.
const LINES: u32 = 20;

/// The present second, and how many lines were told in it.
#[derive(Default)]
pub(super) struct Lines(Mutex<(u64, u32)>);

impl Lines {
    /// Whether a line may be told now; counts it.
    pub(super) fn may_tell(&self, now: SystemTime) -> bool {
        let second = now.duration_since(SystemTime::UNIX_EPOCH);
        let second = second.unwrap_or_default().as_secs();
        let mut told = self.0.lock();
        if told.0 != second {
            *told = (second, 0);
        }
        told.1 = told.1.saturating_add(1);
        told.1 <= LINES
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn refusals_do_not_fill_the_log() {
        let (lines, now) = (Lines::default(), SystemTime::UNIX_EPOCH);
        let told = |at: SystemTime| (0..100).filter(|_| lines.may_tell(at)).count();
        assert_eq!(told(now), 20);
        assert_eq!(told(now + Duration::from_millis(999)), 0);
        assert_eq!(told(now + Duration::from_secs(1)), 20);
    }
}
