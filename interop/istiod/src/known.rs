//! Resources that differ from istiod's although both are normalised, and why they may. Whatever
//! else differs is a fault: the test over the records says so.

/// World and `node kind name`, with `*` for any text in both, and the reason.
pub const KNOWN: &[(&str, &str, &str)] = &[
    (
        "edge",
        "* endpoint outbound|7001||picked.shop.svc.cluster.local",
        "istiod takes a WorkloadEntry at a Unix socket, and loses it where a ServiceEntry selects it",
    ),
    (
        "networks-*",
        "* cluster outbound*.named.shop.svc.cluster.local",
        BY_NAME,
    ),
    (
        "networks-*",
        "* cluster outbound|9080||named.shop.svc.cluster.local",
        BY_NAME,
    ),
    (
        "networks-*",
        "grpc endpoint outbound|9080||reviews.shop.svc.cluster.local",
        "gRPC clients refuse an address that comes twice, so they get each gateway once",
    ),
    (
        "sidecar-scope",
        "gateway names *",
        "istiod gives gateways the table only where a sidecar of their namespace without a Sidecar came before",
    ),
    ("policies*", "gateway * *simple-passthrough*", PASSTHROUGH),
    (
        "policies-*ports",
        "* cluster outbound|80|*|simple-passthrough.shop.svc.cluster.local",
        "istiod calls all endpoints by mutual TLS where PASSTHROUGH is a port's, also those without it",
    ),
    (
        "sidecar-pools",
        "reviews listener virtualInbound",
        "istiod forgets the hashes of certificates at ingress listeners, and lets others in",
    ),
    (
        "unknown-names*",
        "* listener virtualOutbound",
        "istiod has Envoy close captured connections whose first bytes do not come within 15 seconds",
    ),
];

const PASSTHROUGH: &str =
    "istiod gives gateways a cluster that leads nowhere: nobody chose an address there";
const BY_NAME: &str =
    "istiod gives clusters that are resolved by name no gateways until these have changed once";

/// Why a resource of a world may differ; `None`: it must not.
pub fn reason(world: &str, resource: &str) -> Option<&'static str> {
    KNOWN
        .iter()
        .find(|(of, pattern, _)| fits(of, world) && fits(pattern, resource))
        .map(|(.., reason)| *reason)
}

/// Whether a text is a pattern's, in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else {
        return pattern == text;
    };
    let Some(mut left) = text.strip_prefix(start) else {
        return false;
    };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let end = pieces.pop().unwrap_or_default();
    for piece in pieces {
        match left.split_once(piece) {
            Some((_, after)) => left = after,
            None => return false,
        }
    }
    left.ends_with(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_is_any_text() {
        for (pattern, text, expected) in [
            ("a", "a", true),
            ("a", "ab", false),
            ("*", "", true),
            ("a*", "ab", true),
            ("*b", "ab", true),
            ("a*c*e", "abcde", true),
            ("a*c*e", "abcd", false),
            ("* cluster *", "client cluster x", true),
            ("* cluster *", "client listener x", false),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
        assert_eq!(reason("no such world", "client cluster x"), None);
    }
}
