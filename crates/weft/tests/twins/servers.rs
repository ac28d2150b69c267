//! Servers of the scenes: each says what it saw. Must never know which proxy asks.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Requests for tunnels, as they came.
pub(crate) type Asked = Arc<Mutex<Vec<String>>>;

/// A server that answers each request head with what it has read so far in the body.
pub(crate) async fn mirror() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut seen = Vec::new();
                let mut buffer = [0; 4096];
                while let Ok(got) = stream.read(&mut buffer).await {
                    seen.extend_from_slice(&buffer[..got]);
                    if got == 0 {
                        return;
                    }
                    if seen.ends_with(b"\r\n\r\n") {
                        let text = String::from_utf8_lossy(&seen);
                        let kept: Vec<_> = text
                            .split("\r\n")
                            .filter(|l| !l.starts_with("x-request-id"))
                            .collect();
                        let body = kept.join("\n");
                        let head =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                        if stream.write_all((head + &body).as_bytes()).await.is_err() {
                            return;
                        }
                        seen.clear();
                    }
                }
            });
        }
    });
    port
}

/// A server that answers with the status that the path says, and counts.
pub(crate) async fn statuses() -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let hits = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&hits);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let counted = Arc::clone(&counted);
            tokio::spawn(async move {
                let mut buffer = [0; 4096];
                while let Ok(got) = stream.read(&mut buffer).await {
                    let text = String::from_utf8_lossy(&buffer[..got]);
                    let Some(status) = text.split(['/', ' ', '?']).nth(2) else {
                        return;
                    };
                    let status: u16 = status.parse().unwrap_or(200);
                    counted.fetch_add(1, Ordering::Relaxed);
                    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: 0\r\n\r\n");
                    if stream.write_all(head.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (port, hits)
}

/// A server that answers requests with what came before them, in hexadecimal digits if it is no text,
/// and the number of the request on its connection.
pub(crate) async fn before_requests() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut seen, mut buffer, mut count) = (Vec::new(), [0; 4096], 0);
                while let Ok(got @ 1..) = stream.read(&mut buffer).await {
                    seen.extend_from_slice(&buffer[..got]);
                    let find = |what: &[u8]| seen.windows(what.len()).position(|w| w == what);
                    if !seen.ends_with(b"\r\n\r\n") {
                        continue;
                    }
                    let Some(at) = find(b"GET ") else { continue };
                    let text = match std::str::from_utf8(&seen[..at]) {
                        Ok(text) if text.is_empty() || text.starts_with("PROXY") => {
                            text.trim().to_owned()
                        }
                        _ => seen[..at]
                            .iter()
                            .map(|byte| format!("{byte:02x}"))
                            .collect(),
                    };
                    count += 1;
                    let body = format!("{count}: {text}");
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    if stream.write_all((head + &body).as_bytes()).await.is_err() {
                        return;
                    }
                    seen.clear();
                }
            });
        }
    });
    port
}

/// Answers with all that came, in capitals, after the word `end`.
async fn shout(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
    while let Ok(got @ 1..) = stream.read(&mut buffer).await {
        seen.extend_from_slice(&buffer[..got]);
        if seen.ends_with(b"end") {
            break;
        }
    }
    // A client that is gone hears nothing.
    let _ = stream.write_all(&seen.to_ascii_uppercase()).await;
    let _ = stream.shutdown().await;
}

/// An HTTP/1 proxy that tells what it was asked for, and refuses some.
pub(crate) async fn connect_proxy() -> (u16, Asked) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = Asked::default();
    let told = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    match stream.read_u8().await {
                        Ok(byte) => head.push(byte),
                        Err(_) => return,
                    }
                }
                let head = String::from_utf8_lossy(&head).into_owned();
                let refused = head.contains("refuse.test");
                told.lock().expect("nobody panics with it").push(head);
                let answer: &[u8] = if refused {
                    b"HTTP/1.1 403 No\r\ncontent-length: 0\r\n\r\n"
                } else {
                    b"HTTP/1.1 200 OK\r\nx-tunnel: yes\r\n\r\n"
                };
                if stream.write_all(answer).await.is_ok() && !refused {
                    shout(stream).await;
                }
            });
        }
    });
    (port, asked)
}

/// The same in HTTP/2.
pub(crate) async fn connect_proxy_2() -> (u16, Asked) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let asked = Asked::default();
    let told = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = Arc::clone(&told);
            tokio::spawn(async move {
                let service = hyper::service::service_fn(
                    move |request: http::Request<hyper::body::Incoming>| {
                        let mut headers: Vec<_> =
                            request.headers().iter().map(|h| format!("{h:?}")).collect();
                        headers.sort();
                        let line = format!("{} {} {headers:?}", request.method(), request.uri());
                        told.lock().expect("nobody panics with it").push(line);
                        tokio::spawn(async move {
                            if let Ok(upgraded) = hyper::upgrade::on(request).await {
                                shout(hyper_util::rt::TokioIo::new(upgraded)).await;
                            }
                        });
                        std::future::ready(Ok::<_, std::convert::Infallible>(http::Response::new(
                            http_body_util::Empty::<bytes::Bytes>::new(),
                        )))
                    },
                );
                let executor = hyper_util::rt::TokioExecutor::new();
                // However it ends is the proxy's affair.
                let _ = hyper::server::conn::http2::Builder::new(executor)
                    .serve_connection(hyper_util::rt::TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    (port, asked)
}
