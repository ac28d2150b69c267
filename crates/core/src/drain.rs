//! The drain signal: one sender says "stop taking new work", everyone who holds a
//! [`DrainSignal`] hears it, and the sender learns when the last holder of a
//! [`DrainGuard`] has finished.

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

/// The side that starts the drain.
#[derive(Debug)]
pub struct Drain {
    started: watch::Sender<bool>,
    guard: Arc<mpsc::Sender<()>>,
    finished: mpsc::Receiver<()>,
}

/// The side that hears of it. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct DrainSignal {
    started: watch::Receiver<bool>,
    guard: std::sync::Weak<mpsc::Sender<()>>,
}

/// While one of these lives, [`Drain::finish`] waits.
#[derive(Debug, Clone)]
pub struct DrainGuard {
    _guard: Option<Arc<mpsc::Sender<()>>>,
}

/// Makes a drain that has not started and a signal to hand out.
pub fn channel() -> (Drain, DrainSignal) {
    let (started, heard) = watch::channel(false);
    let (guard, finished) = mpsc::channel(1);
    let guard = Arc::new(guard);
    let signal = DrainSignal {
        started: heard,
        guard: Arc::downgrade(&guard),
    };
    (
        Drain {
            started,
            guard,
            finished,
        },
        signal,
    )
}

impl Drain {
    /// Tells every holder of a signal to stop taking new work. Saying it twice is harmless.
    pub fn start(&self) {
        self.started.send_replace(true);
    }

    /// Starts the drain and waits until no [`DrainGuard`] is left.
    pub async fn finish(mut self) {
        self.start();
        drop(self.guard);
        // `recv` ends with `None` when the last guard is dropped; nothing is ever sent.
        let _ = self.finished.recv().await;
    }
}

impl DrainSignal {
    /// Whether the drain has started. A drain whose sender is gone counts as started.
    pub fn started(&self) -> bool {
        *self.started.borrow() || self.started.has_changed().is_err()
    }

    /// Ends when the drain starts, or when its sender is gone.
    pub async fn wait(&self) {
        let mut started = self.started.clone();
        let _ = started.wait_for(|started| *started).await;
    }

    /// Work that the drain has to wait for holds one of these.
    pub fn guard(&self) -> DrainGuard {
        DrainGuard {
            _guard: self.guard.upgrade(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn finish_waits_for_every_guard() {
        let (drain, signal) = channel();
        let guard = signal.guard();
        assert!(!signal.started());
        let finish = tokio::spawn(drain.finish());
        signal.wait().await;
        assert!(!finish.is_finished());
        drop(guard);
        finish.await.unwrap();
    }

    #[tokio::test]
    async fn a_lost_sender_counts_as_started() {
        let (drain, signal) = channel();
        drop(drain);
        signal.wait().await;
        assert!(signal.started());
    }
}
