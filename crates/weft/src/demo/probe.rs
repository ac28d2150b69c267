//! Whether a part of the demo serves yet.

use std::net::SocketAddr;
use std::time::Duration;

use super::client;

/// Whether the address takes connections.
pub(crate) async fn connects(address: SocketAddr) -> Result<(), String> {
    let connected = tokio::net::TcpStream::connect(address).await;
    connected
        .map(drop)
        .map_err(|error| format!("{address}: {error}"))
}

/// Whether the proxy with this admin address says that it is ready.
pub(crate) async fn ready(admin: SocketAddr) -> Result<(), String> {
    let answer = client::get(admin, "/ready", Duration::from_secs(5)).await?;
    if answer.status() == 200 {
        return Ok(());
    }
    let text = String::from_utf8_lossy(answer.body()).trim().to_owned();
    Err(format!(
        "http://{admin}/ready answers {}: {text}",
        answer.status().as_u16()
    ))
}
