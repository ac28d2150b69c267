//! Proxies of every kind, with certificates and without.

use std::sync::Arc;

use super::super::{gateway, grpc, proxy, sidecar, weft};
use crate::graph::ProxyFacts;
use crate::node::Proxy;

pub(super) fn all() -> Vec<Arc<ProxyFacts>> {
    let none = &[
        ("INTERCEPTION_MODE", "NONE"),
        ("HTTP_PROXY_PORT", "15007"),
        ("WEFT_INBOUND", "{\"80\": 1080}"),
        ("TLS_SERVER_CERT_CHAIN", "/s.pem"),
        ("TLS_SERVER_KEY", "/s.key"),
        ("TLS_SERVER_ROOT_CERT", "/ca.pem"),
    ];
    let all: [Proxy; 13] = [
        sidecar("10.0.0.1", "a"),
        proxy(
            "sidecar~10.0.0.2~w.a~a.svc.cluster.local",
            &[(
                "LABELS",
                "{\"tier\":\"beta\",\"version\":\"v1\",\"istio-locality\":\"eu.eu-1\"}",
            )],
        ),
        proxy(
            "sidecar~10.0.0.3~app.b~b.svc.cluster.local",
            &[("ISTIO_VERSION", "1.32.0")],
        ),
        proxy("sidecar~10.0.0.4~n.a~a.svc.cluster.local", none),
        proxy(
            "router~10.0.0.5~g.b~b.svc.cluster.local",
            &[("LABELS", "{\"app\":\"gw\",\"istio-locality\":\"us.us-1\"}")],
        ),
        gateway(),
        proxy(
            "router~10.0.0.6~h.b~b.svc.cluster.local",
            &[
                ("LABELS", "{\"app\":\"gw\"}"),
                ("ISTIO_VERSION", "1.32.0"),
                ("credential", "true"),
            ],
        ),
        grpc("a"),
        weft("sidecar~10.0.0.1~r.a~a.svc.cluster.local", &[]),
        weft("sidecar~10.0.0.4~s.b~b.svc.cluster.local", none),
        proxy(
            "sidecar~10.0.0.8~v.b~b.svc.cluster.local",
            &[
                ("NETWORK", "two"),
                ("REQUESTED_NETWORK_VIEW", "two,three"),
                ("ENABLE_SELF_DISCOVERY", "true"),
            ],
        ),
        proxy(
            "router~10.0.0.9~e.a~a.svc.cluster.local",
            &[("LABELS", "{\"app\":\"gw\"}"), ("NETWORK", "three")],
        ),
        proxy(
            "sidecar~10.0.0.7~d.a~a.svc.cluster.local",
            &[
                ("DNS_CAPTURE", "true"),
                ("INSTANCE_IPS", "10.0.0.7,fd00::7"),
                ("NETWORK", "one"),
            ],
        ),
    ];
    all.iter().map(|p| Arc::new(ProxyFacts::of(p))).collect()
}
