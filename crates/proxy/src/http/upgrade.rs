//! Upgraded connections (WebSocket): after the 101 both sides speak something that the proxy
//! only copies.

use std::time::Duration;

use bytes::Bytes;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};

use super::body::ResponseBody;
use super::exchange::Exchange;
use super::flags::ResponseFlags;

/// Bytes copied at once in one direction.
const BUFFER: usize = 16 * 1024;

/// Copies between the two connections once both have switched, until both directions closed or
/// nothing moved for `idle`. Gives the empty body of the 101.
pub(crate) fn tunnel(
    mut exchange: Box<Exchange>,
    downstream: OnUpgrade,
    upstream: OnUpgrade,
    idle: Option<Duration>,
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
        let (up, down, client_first) = copy(downstream, upstream, idle).await;
        stats.downstream_cx_upgrades_active.dec();
        exchange.received().bytes.set(up);
        exchange.sent += down;
        exchange.complete();
        if client_first {
            exchange
                .flags
                .add(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION);
            exchange.details = "downstream_remote_disconnect".into();
        }
    });
    exchange.complete();
    ResponseBody::local(Bytes::new(), exchange)
}

/// Bytes up and down, and whether the client was the first to close.
async fn copy(
    downstream: Upgraded,
    upstream: Upgraded,
    idle: Option<Duration>,
) -> (u64, u64, bool) {
    let (down_read, down_write) = tokio::io::split(TokioIo::new(downstream));
    let (up_read, up_write) = tokio::io::split(TokioIo::new(upstream));
    let moved = std::cell::Cell::new(tokio::time::Instant::now());
    let (up, down) = (std::cell::Cell::new(0), std::cell::Cell::new(0));
    let (client_ended, upstream_ended) = (std::cell::Cell::new(false), std::cell::Cell::new(false));
    let both = async {
        tokio::join!(
            async {
                one_way(down_read, up_write, &moved, &up).await;
                client_ended.set(!upstream_ended.get());
            },
            async {
                one_way(up_read, down_write, &moved, &down).await;
                upstream_ended.set(true);
            },
        );
    };
    tokio::select! {
        () = both => {}
        () = silence(&moved, idle) => {}
    }
    (up.get(), down.get(), client_ended.get())
}

async fn one_way<T>(
    mut from: ReadHalf<T>,
    mut to: WriteHalf<T>,
    moved: &std::cell::Cell<tokio::time::Instant>,
    count: &std::cell::Cell<u64>,
) where
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite,
{
    let mut buffer = vec![0; BUFFER];
    while let Ok(read) = from.read(&mut buffer).await {
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else {
            break;
        };
        moved.set(tokio::time::Instant::now());
        count.set(count.get() + read as u64);
        if to.write_all(bytes).await.is_err() || to.flush().await.is_err() {
            break;
        }
    }
    let _ = to.shutdown().await;
}

/// Ends when nothing has moved for `idle`.
async fn silence(moved: &std::cell::Cell<tokio::time::Instant>, idle: Option<Duration>) {
    let Some(idle) = idle else {
        return std::future::pending().await;
    };
    loop {
        let limit = moved.get() + idle;
        if tokio::time::Instant::now() >= limit {
            return;
        }
        tokio::time::sleep_until(limit).await;
    }
}
