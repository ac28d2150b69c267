//! When the process shall end: SIGTERM, Ctrl-C, or the parent's death. The first one starts the
//! drain, a second one quits at once. A proxy takes signals as Envoy does: SIGUSR1 reopens access
//! logs, SIGHUP does nothing. Must never know what is drained.

use std::io::Read;
use std::sync::Arc;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc};
use weft_core::drain::{Drain, DrainSignal};

/// Why the process shall end.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StopRequest {
    /// For the log.
    name: &'static str,
    /// Exit code if it is the second one: as a shell reports a process that the signal ended,
    /// 128 and the signal's number.
    code: i32,
}

/// Requests to stop, in the order they come.
pub(crate) struct StopRequests {
    terminate: Signal,
    interrupt: Signal,
    /// `None`: a hang-up is no request.
    hang_up: Option<Signal>,
    stdin: mpsc::Receiver<()>,
    /// Kept so that a process that does not watch its input waits for ever, not not at all.
    _stdin_open: mpsc::Sender<()>,
}

impl StopRequests {
    /// Begins to listen; needs a tokio runtime. `with_stdin`: the end of standard input is a
    /// request, too.
    ///
    /// # Errors
    /// The operating system refuses the signal handlers.
    pub(crate) fn listen(with_stdin: bool) -> std::io::Result<Self> {
        let requests = Self::without_hang_up(with_stdin)?;
        Ok(Self {
            hang_up: Some(signal(SignalKind::hangup())?),
            ..requests
        })
    }

    fn without_hang_up(with_stdin: bool) -> std::io::Result<Self> {
        let (closed, stdin) = mpsc::channel(1);
        if with_stdin {
            let closed = closed.clone();
            // A thread of its own: a blocked read of standard input cannot be cancelled.
            std::thread::Builder::new()
                .name("stdin".into())
                .spawn(move || {
                    let mut buffer = [0_u8; 256];
                    let mut stdin = std::io::stdin().lock();
                    while matches!(stdin.read(&mut buffer), Ok(1..)) {}
                    let _ = closed.blocking_send(());
                })?;
        }
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: None,
            stdin,
            _stdin_open: closed,
        })
    }

    /// The next request.
    pub(crate) async fn next(&mut self) -> StopRequest {
        let (name, code) = tokio::select! {
            _ = self.terminate.recv() => ("SIGTERM", 143),
            _ = self.interrupt.recv() => ("SIGINT", 130),
            () = received(&mut self.hang_up) => ("SIGHUP", 129),
            _ = self.stdin.recv() => ("end of standard input", 1),
        };
        StopRequest { name, code }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => {
            signal.recv().await;
        }
        None => std::future::pending().await,
    }
}

/// Starts `drain` with the first request and quits the process with the second. Returns a
/// signal for whoever serves.
///
/// # Errors
/// See [`StopRequests::listen`].
pub(crate) fn drain_on_request(with_stdin: bool) -> std::io::Result<DrainSignal> {
    StopRequests::listen(with_stdin).map(drain_on)
}

/// Like [`drain_on_request`], with the signals that Envoy does not die from: log rotation sends
/// SIGUSR1, which notifies `reopen_logs`, and scripts send SIGHUP to whatever runs.
///
/// # Errors
/// See [`StopRequests::listen`].
pub(crate) fn drain_on_request_as_envoy(
    with_stdin: bool,
    reopen_logs: Arc<Notify>,
) -> std::io::Result<DrainSignal> {
    let requests = StopRequests::without_hang_up(with_stdin)?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let mut user = signal(SignalKind::user_defined1())?;
    tokio::spawn(async move {
        loop {
            tokio::select! {
                Some(()) = hang_up.recv() => tracing::info!("SIGHUP is ignored"),
                Some(()) = user.recv() => {
                    tracing::info!("SIGUSR1: reopening logs");
                    reopen_logs.notify_one();
                }
                else => return,
            }
        }
    });
    Ok(drain_on(requests))
}

fn drain_on(mut requests: StopRequests) -> DrainSignal {
    let (drain, heard): (Drain, DrainSignal) = weft_core::drain::channel();
    tokio::spawn(async move {
        let first = requests.next().await;
        tracing::info!(
            reason = first.name,
            "draining; ask a second time to quit at once"
        );
        drain.start();
        let second = requests.next().await;
        tracing::warn!(reason = second.name, "quitting at once");
        // What the log holds is on its way already: the writer does not buffer.
        std::process::exit(second.code);
    });
    heard
}
