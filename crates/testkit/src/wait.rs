//! Waiting for what comes in its own time, and for one's turn. Must never decide what is waited
//! for.

use std::fs::File;
use std::time::{Duration, Instant};

/// Time between two looks.
const PAUSE: Duration = Duration::from_millis(40);

/// Looks until `look` gives a value and returns it.
///
/// # Panics
/// Nothing came in time; the text holds what the last look said instead.
pub async fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut look: impl AsyncFnMut() -> Result<T, String>,
) -> T {
    let started = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(reason) if started.elapsed() > timeout => {
                panic!("{what}: not within {timeout:?}: {reason}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}

/// The right to use the machine alone, given up when dropped.
#[derive(Debug)]
pub struct Turn {
    _lock: File,
}

/// Waits until no other test with real peers runs on this machine, in this process or another:
/// two of them would take each other's time.
pub fn one_at_a_time() -> Turn {
    let path = std::env::temp_dir().join("weft-interop.lock");
    let lock = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path);
    let lock = lock.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    lock.lock()
        .unwrap_or_else(|error| panic!("locking {}: {error}", path.display()));
    Turn { _lock: lock }
}
