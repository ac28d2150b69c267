//! The end of the process, and of filter chains that are gone: what is in flight may finish, within
//! a time.

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
            close(workers, None, false).await;
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            command = commands.recv() => if matches!(command, Some(AdminCommand::Quit) | None) {
                break;
            }
        }
    }
    close(workers, None, true).await;
}

/// How often it is looked whether connections of a filter chain are left.
const LOOK_AT_CHAINS: Duration = Duration::from_millis(500);
/// How long idle connections of a filter chain may take to close when its time is over.
const GOODBYE: Duration = Duration::from_secs(1);

/// Waits until no connection of these filter chains is left, at most `time`. What is idle then is
/// closed in order, and what goes on for longer than that is cut off.
pub(super) async fn end_chains(workers: &WorkerPool, chains: &[u64], time: Duration) {
    let left = async || workers.connections(Some(chains.to_vec())).await > 0;
    let deadline = tokio::time::Instant::now() + time;
    while left().await {
        if tokio::time::Instant::now() < deadline {
            tokio::time::sleep(LOOK_AT_CHAINS).await;
            continue;
        }
        close(workers, Some(chains), false).await;
        tokio::time::sleep(GOODBYE).await;
        close(workers, Some(chains), true).await;
        return;
    }
}

/// Orders the end of connections of some filter chains, or of all.
async fn close(workers: &WorkerPool, chains: Option<&[u64]>, now: bool) {
    let order = |_| Command::Close {
        chains: chains.map(<[u64]>::to_vec),
        now,
    };
    workers.send_each(order).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_outlives_the_drain_time_is_cut_off() {
        let (workers, mut receivers) = WorkerPool::new(1);
        let mut commands = receivers.remove(0);
        let begun = tokio::time::Instant::now();
        let drain = tokio::spawn(async move {
            end_chains(&workers, &[7], Duration::from_mins(10)).await;
        });
        let mut orders = Vec::new();
        while let Some(command) = commands.recv().await {
            match command {
                Command::Count { chains, answer } => {
                    assert_eq!(chains, Some(vec![7]));
                    let _ = answer.send(1);
                }
                Command::Close { chains, now } => {
                    assert_eq!(chains, Some(vec![7]));
                    orders.push((begun.elapsed().as_secs(), now));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(orders, [(600, false), (601, true)]);
        drain.await.unwrap();
    }
}
