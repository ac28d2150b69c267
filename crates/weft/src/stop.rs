//! When the process shall end: SIGTERM, Ctrl-C, or the parent's death. The first one starts the
//! drain, a second one quits at once. Must never know what is drained.

use std::io::Read;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use weft_core::drain::{Drain, DrainSignal};

/// Exit code after a second request to stop, as a shell reports an interrupt.
const QUIT: i32 = 130;

/// Requests to stop, in the order they come.
pub(crate) struct StopRequests {
    terminate: Signal,
    interrupt: Signal,
    hang_up: Signal,
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
            hang_up: signal(SignalKind::hangup())?,
            stdin,
            _stdin_open: closed,
        })
    }

    /// The next request, and its name for the log.
    pub(crate) async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.hang_up.recv() => "SIGHUP",
            _ = self.stdin.recv() => "end of standard input",
        }
    }
}

/// Starts `drain` with the first request and quits the process with the second. Returns a
/// signal for whoever serves.
///
/// # Errors
/// See [`StopRequests::listen`].
pub(crate) fn drain_on_request(with_stdin: bool) -> std::io::Result<DrainSignal> {
    let (drain, heard): (Drain, DrainSignal) = weft_core::drain::channel();
    let mut requests = StopRequests::listen(with_stdin)?;
    tokio::spawn(async move {
        let first = requests.next().await;
        tracing::info!(
            reason = first,
            "draining; ask a second time to quit at once"
        );
        drain.start();
        let second = requests.next().await;
        tracing::warn!(reason = second, "quitting at once");
        // What the log holds is on its way already: the writer does not buffer.
        std::process::exit(QUIT);
    });
    Ok(heard)
}
