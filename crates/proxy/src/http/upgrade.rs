//! Upgraded connections (WebSocket): after the 101 both sides speak something that the proxy
//! only copies.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::time::Instant;

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::flags::ResponseFlags;

/// Bytes copied at once in one direction.
const BUFFER: usize = 16 * 1024;

/// How long a client may take to close after its upstream has.
const LINGER: Duration = Duration::from_secs(1);

/// Copies between the two connections once both have switched, until the upstream closes, one of
/// them fails, nothing moves for `idle`, the stream has lived for `longest`, or the client's
/// connection has to go. Gives the empty body of the 101.
pub(crate) fn tunnel(
    mut exchange: Box<Exchange>,
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    (idle, longest): (Option<Duration>, Option<Duration>),
) -> ResponseBody {
    let logged = exchange.hand_over();
    tokio::task::spawn_local(async move {
        let mut exchange = logged;
        let stats = std::sync::Arc::clone(&exchange.manager().stats);
        let (Ok(downstream), Ok(upstream)) = (downstream.await, upstream.await) else {
            return;
        };
        stats.downstream_cx_upgrades_total.inc();
        stats.downstream_cx_upgrades_active.inc();
        let copied = Copied::default();
        let end = tokio::select! {
            end = copy(downstream, upstream, &copied) => end,
            () = silence(&copied.moved, idle) => End::Idle,
            () = old(exchange.started(), longest) => End::MaxDuration,
            () = exchange.downstream.handle().closing() => End::Closing,
        };
        stats.downstream_cx_upgrades_active.dec();
        exchange.received().bytes.set(copied.up.get());
        exchange.sent += copied.down.get();
        exchange.complete();
        note_end(&mut exchange, end);
    });
    exchange.complete();
    ResponseBody::local(Bytes::new(), exchange)
}

/// Why a tunnel ended.
#[derive(Debug, Clone, Copy)]
enum End {
    Client,
    Upstream,
    Idle,
    MaxDuration,
    Closing,
}

fn note_end(exchange: &mut Exchange, end: End) {
    let (flag, details) = match end {
        End::Upstream => return,
        End::Client => (
            ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
            "downstream_remote_disconnect",
        ),
        End::Idle => {
            exchange.manager().stats.downstream_rq_idle_timeout.inc();
            (ResponseFlags::STREAM_IDLE_TIMEOUT, "stream_idle_timeout")
        }
        End::MaxDuration => (ResponseFlags::default(), "max_duration_timeout"),
        End::Closing => (
            ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
            "downstream_local_disconnect",
        ),
    };
    exchange.flags.add(flag);
    exchange.details = details.into();
}

/// Bytes so far, and when the last of them passed.
struct Copied {
    up: Cell<u64>,
    down: Cell<u64>,
    moved: Cell<Instant>,
}

impl Default for Copied {
    fn default() -> Self {
        Self {
            up: Cell::new(0),
            down: Cell::new(0),
            moved: Cell::new(Instant::now()),
        }
    }
}

/// Copies both ways. A client that closes its side may hear the rest of the answer; nothing
/// is left to do once its upstream has closed.
async fn copy(downstream: Upgraded, upstream: Upgraded, copied: &Copied) -> End {
    let (down_read, down_write) = tokio::io::split(TokioIo::new(downstream));
    let (up_read, up_write) = tokio::io::split(TokioIo::new(upstream));
    let mut up = pin!(one_way(down_read, up_write, &copied.moved, &copied.up));
    let mut down = pin!(one_way(up_read, down_write, &copied.moved, &copied.down));
    let way = tokio::select! {
        way = &mut down => {
            if way == Way::WriteFailed {
                return End::Client;
            }
            // A socket with unread bytes would be reset, and take with it what was just sent.
            let _ = tokio::time::timeout(LINGER, up).await;
            return End::Upstream;
        }
        way = &mut up => way,
    };
    if way != Way::ReadFailed {
        // To an upstream that failed nothing is written, but it may have answered before.
        let _ = down.await;
    }
    if way == Way::WriteFailed {
        End::Upstream
    } else {
        End::Client
    }
}

/// How a direction ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Closed,
    ReadFailed,
    WriteFailed,
}

async fn one_way<T>(
    mut from: ReadHalf<T>,
    mut to: WriteHalf<T>,
    moved: &Cell<Instant>,
    count: &Cell<u64>,
) -> Way
where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let mut buffer = vec![0; BUFFER];
    loop {
        let Ok(read) = from.read(&mut buffer).await else {
            return Way::ReadFailed;
        };
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        moved.set(Instant::now());
        count.set(count.get() + read as u64);
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            return Way::WriteFailed;
        }
    }
    match to.shutdown().await {
        Ok(()) => Way::Closed,
        Err(_) => Way::WriteFailed,
    }
}

/// Ends `longest` after `started`.
async fn old(started: std::time::Instant, longest: Option<Duration>) {
    match longest {
        Some(longest) => tokio::time::sleep_until((started + longest).into()).await,
        None => std::future::pending().await,
    }
}

/// Ends when nothing has moved for `idle`.
async fn silence(moved: &Cell<Instant>, idle: Option<Duration>) {
    let Some(idle) = idle else {
        return std::future::pending().await;
    };
    loop {
        let limit = moved.get() + idle;
        if Instant::now() >= limit {
            return;
        }
        tokio::time::sleep_until(limit).await;
    }
}
