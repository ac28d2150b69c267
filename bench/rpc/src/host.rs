//! The host: every call gets the same answer.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::wire::Protocol;

const READ: usize = 64 * 1024;

pub(crate) async fn serve(protocol: Protocol, port: u16) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))
        .await
        .map_err(|problem| format!("127.0.0.1:{port}: {problem}"))?;
    loop {
        let (stream, _) = listener
            .accept()
            .await
            .map_err(|problem| problem.to_string())?;
        tokio::spawn(async move {
            if let Err(problem) = converse(protocol, stream).await {
                eprintln!("weft-bench-rpc: {problem}");
            }
        });
    }
}

async fn converse(protocol: Protocol, mut stream: TcpStream) -> Result<(), String> {
    let (mut answer, mut heartbeat) = (protocol.answer(), protocol.heartbeat_answer());
    let _ = stream.set_nodelay(true);
    let (mut unread, mut out, mut chunk) = (Vec::new(), Vec::new(), vec![0; READ]);
    loop {
        let Ok(count @ 1..) = stream.read(&mut chunk).await else {
            return Ok(());
        };
        unread.extend_from_slice(&chunk[..count]);
        let mut at = 0;
        while let Some(head) = protocol.head(&unread[at..])? {
            if unread.len() - at < head.length {
                break;
            }
            let frame = if head.is_heartbeat {
                &mut heartbeat
            } else {
                &mut answer
            };
            protocol.set_id(frame, head.id);
            out.extend_from_slice(frame);
            at += head.length;
        }
        unread.drain(..at);
        if stream.write_all(&out).await.is_err() {
            return Ok(());
        }
        out.clear();
    }
}
