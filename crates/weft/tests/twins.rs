//! The same bootstrap in a real Envoy and in Weft, for what the table of `proxy_parity` cannot say:
//! each scene has a bootstrap and upstreams of its own, and both proxies give the same transcript.

mod twins {
    mod addresses;
    mod hosts;
    #[allow(dead_code, reason = "programs of Dubbo alone are used here")]
    #[path = "../rpc/java.rs"]
    mod java;
    mod limit_service;
    mod limits;
    mod names;
    mod proxy;
    mod rpc;
    mod servers;
    mod service_limits;
    mod tunnels;
}
