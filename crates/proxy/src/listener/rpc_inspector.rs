//! The listener filter that tells RPC protocols by the first bytes of a connection. It must never know
//! what their frames say.

use std::sync::LazyLock;

use weft_config::listener::RpcInspector;
use weft_core::metrics::Scope;
use weft_net::inspect::{Inspected, Verdict};
use weft_rpc::{CODECS, Codec, Sniffed};

use crate::worker::Worker;

/// `<codec>_found` of each codec in its place, and then the two below.
static COUNTERS: LazyLock<Vec<&'static str>> = LazyLock::new(|| {
    let found = CODECS.iter().map(|codec| format!("{}_found", codec.name()));
    // Once in a process, for as many codecs as it has.
    let found = found.map(|name| &*name.leak());
    found.chain(["not_found", "timeout"]).collect()
});

/// The protocol of which `seen` is the beginning.
pub(super) fn tell(codecs: &[&'static dyn Codec], seen: &[u8]) -> Verdict<&'static str> {
    let mut more = false;
    for codec in codecs {
        match codec.sniff(seen) {
            Sniffed::Yes => return Verdict::Yes(codec.name()),
            Sniffed::NeedMore => more = true,
            Sniffed::No => {}
        }
    }
    if more { Verdict::NeedMore } else { Verdict::No }
}

pub(super) fn count(worker: &Worker, filter: &RpcInspector, inspected: &Inspected) {
    let found = inspected.other;
    let at = found.and_then(|name| CODECS.iter().position(|codec| codec.name() == name));
    let place = match at {
        Some(at) => at,
        None => CODECS.len() + usize::from(inspected.timed_out),
    };
    let group = (&*filter.stat_prefix, &COUNTERS[..]);
    let (owner, scope) = (&filter.stat_prefix, Scope::root(""));
    let counters = worker
        .prefixes
        .counters(&worker.registry, owner, scope, group);
    counters.inc(place);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_databases_and_web_servers_hear_first_is_no_rpc() {
        for (what, bytes) in [
            ("HTTP/1", &b"GET / HTTP/1.1\r\nhost: a\r\n\r\n"[..]),
            ("HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
            ("TLS 1.3", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
            ("PostgreSQL, SSLRequest", b"\0\0\0\x08\x04\xd2\x16\x2f"),
            (
                "PostgreSQL, StartupMessage",
                b"\0\0\0\x1a\0\x03\0\0user\0shop\0database\0",
            ),
            (
                "Kafka, ApiVersions 3",
                b"\0\0\0\x14\0\x12\0\x03\0\0\0\x01\0\x04shop\0\x02a\x02b\0",
            ),
            (
                "Kafka, Metadata 1",
                b"\0\0\0\x12\0\x03\0\x01\0\0\0\x01\0\x04shop\xff\xff\xff\xff",
            ),
            (
                "MongoDB, OP_MSG",
                b"\x2d\0\0\0\x01\0\0\0\0\0\0\0\xdd\x07\0\0\0\0\0\0",
            ),
            ("Redis", b"*1\r\n$4\r\nPING\r\n"),
            ("AMQP", b"AMQP\0\0\x09\x01"),
            ("MQTT", b"\x10\x10\0\x04MQTT\x04\x02\0\x3c\0\x04shop"),
            ("SSH", b"SSH-2.0-OpenSSH_9.2\r\n"),
        ] {
            assert_eq!(tell(CODECS, bytes), Verdict::No, "{what}");
        }
        // Whoever has it on a port looks for others there than Bolt.
        let fastcgi = b"\x01\x01\0\x01\0\x08\0\0\0\x01\0\0\0\0\0\0";
        assert_eq!(tell(CODECS, fastcgi), Verdict::Yes("bolt"));
        let others = CODECS.iter().copied().filter(|it| it.name() != "bolt");
        let others: Vec<_> = others.collect();
        assert_eq!(tell(&others, fastcgi), Verdict::No);
    }
}
