//! Sockets: listening, connecting, original destination, TLS, protocol sniffing, workers and
//! byte copying, giving memory back. The only crate with `unsafe`. It must never know what HTTP
//! means, which cluster a connection belongs to, or how configuration is written in protobuf.

pub mod connect;
pub mod copy;
pub mod inspect;
pub mod listener;
pub mod memory;
pub mod original_dst;
pub mod proxy_protocol;
pub mod stream;
pub mod tls;
pub mod worker;

pub use connect::{ConnectError, ConnectOptions, connect, connect_pipe};
pub use copy::{Copied, CopyEnd, CopyOptions, copy_bidirectional};
pub use listener::{Acceptor, BindOptions, Keepalive, bind, listen};
pub use original_dst::original_dst;
pub use stream::{Meter, Peeked, Stream};
pub use worker::Workers;
