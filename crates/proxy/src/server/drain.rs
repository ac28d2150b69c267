//! The end of the process: what is in flight may finish, within a time.

use std::time::Duration;

use tokio::sync::mpsc;

use super::workers::WorkerPool;
use crate::admin::AdminCommand;
use crate::worker::Command;

/// How often it is looked whether connections are left.
const LOOK: Duration = Duration::from_millis(50);
/// Idle clients get this long to send what they were about to send, and to read
/// `connection: close` on its answer.
const GRACE: Duration = Duration::from_millis(500);

/// Waits until no connection is left, at most `time`, or until the admin says to quit. Idle
/// connections are closed after a grace, the rest when the time is over.
pub(super) async fn finish(
    workers: &WorkerPool,
    time: Duration,
    commands: &mut mpsc::Receiver<AdminCommand>,
) {
    let start = tokio::time::Instant::now();
    let mut idle_closed = false;
    while start.elapsed() < time {
        if workers.connections(None).await == 0 {
            return;
        }
        if !idle_closed && start.elapsed() >= GRACE.min(time / 2) {
            idle_closed = true;
            close(workers, false).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            command = commands.recv() => if matches!(command, Some(AdminCommand::Quit) | None) {
                break;
            }
        }
    }
    close(workers, true).await;
}

async fn close(workers: &WorkerPool, now: bool) {
    workers
        .send_each(|_| Command::Close { chains: None, now })
        .await;
}
