//! An upstream that does to the proxy what the last part of the path says. Must never end by
//! itself what it should keep going.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Starts it; gives its port and the count of the requests it got.
pub(crate) async fn start() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("it is bound").port();
    let requests = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&requests);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                // The proxy may close whenever it likes.
                let _ = serve(stream, &counted).await;
            });
        }
    });
    (port, requests)
}

async fn serve(mut stream: TcpStream, counted: &AtomicUsize) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = vec![0; 64 * 1024];
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = stream.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..read]);
    }
    counted.fetch_add(1, Ordering::Relaxed);
    let end = head
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map_or(0, |at| at + 4);
    let body_read = head.len() - end;
    let head = String::from_utf8_lossy(&head).into_owned();
    let path = head.split(' ').nth(1).unwrap_or_default();
    match path.rsplit('/').next().unwrap_or_default() {
        "garbage" => stream.write_all(&[0xff; 5000]).await?,
        "half-head" => stream.write_all(b"HTTP/1.1 200 OK\r\nx-half: ").await?,
        "half-body" => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\nhalf")
                .await?;
        }
        "bad-chunk" => {
            stream
                .write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nnot a size\r\n")
                .await?;
        }
        "many-headers" => {
            let headers = "x-many: 1\r\n".repeat(20_000);
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\n{headers}\r\n").as_bytes())
                .await?;
        }
        "large-header" => {
            let header = "x".repeat(4 * 1024 * 1024);
            stream
                .write_all(format!("HTTP/1.1 200 OK\r\nx-large: {header}\r\n\r\n").as_bytes())
                .await?;
        }
        "interim" => loop {
            stream
                .write_all(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n")
                .await?;
        },
        "endless-head" => loop {
            stream.write_all(b"x").await?;
            tokio::time::sleep(Duration::from_millis(20)).await;
        },
        "endless-body" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await?;
            loop {
                stream.write_all(&buffer).await?;
            }
        }
        "silent" | "silent-body" => {
            if path.ends_with("body") {
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 999\r\n\r\nhalf")
                    .await?;
            }
            while stream.read(&mut buffer).await? > 0 {}
        }
        // Takes the whole body first: a large one must reach it in spite of the retry's limit.
        "fails" => {
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
            let mut left = length.unwrap_or(0).saturating_sub(body_read);
            while left > 0 {
                let read = stream.read(&mut buffer).await?;
                if read == 0 {
                    break;
                }
                left = left.saturating_sub(read);
            }
            stream.write_all(b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await?;
        }
        _ => {}
    }
    Ok(())
}
