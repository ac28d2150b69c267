//! The main thread's end of the workers: orders to all of them, and their answers.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};

use crate::worker::Command;

/// Orders that may wait for one worker.
const QUEUE: usize = 256;

/// Sends orders to every worker; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct WorkerPool {
    commands: Arc<[mpsc::Sender<Command>]>,
}

impl WorkerPool {
    /// The two ends of the queues of `count` workers.
    pub(crate) fn new(count: usize) -> (Self, Vec<mpsc::Receiver<Command>>) {
        let (commands, receivers): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mpsc::channel(QUEUE)).unzip();
        let commands = commands.into();
        (Self { commands }, receivers)
    }

    /// How many workers there are.
    pub(crate) fn count(&self) -> usize {
        self.commands.len()
    }

    /// Sends each worker what `make` gives for its number. Waits for room in the queues; a
    /// worker that has ended is passed over.
    pub(crate) async fn send_each(&self, mut make: impl FnMut(usize) -> Command) {
        for (number, commands) in self.commands.iter().enumerate() {
            let _ = commands.send(make(number)).await;
        }
    }

    /// Connections that are left, of all or of some filter chains.
    pub(crate) async fn connections(&self, chains: Option<Vec<u64>>) -> usize {
        let mut pending = Vec::with_capacity(self.count());
        self.send_each(|_| {
            let (answer, count) = oneshot::channel();
            pending.push(count);
            Command::Count {
                chains: chains.clone(),
                answer,
            }
        })
        .await;
        let mut sum = 0;
        for count in pending {
            sum += count.await.unwrap_or(0);
        }
        sum
    }
}
