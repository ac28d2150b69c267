//! `ProxyConfig` objects. All that they can say is for those who inject sidecars and start them:
//! they are checked, so that they may stay where they are, and nothing follows from them.

use weft_proto::istio::networking::v1beta1 as pb;

use crate::check::At;

pub(crate) fn check(message: pb::ProxyConfig, at: At<'_>) {
    let pb::ProxyConfig {
        selector,
        concurrency,
        environment_variables,
        image,
    } = message;
    if let Some(selector) = selector {
        let place = at.field("selector");
        place.field("matchLabels").labels(selector.match_labels);
    }
    if concurrency.is_some_and(|number| number.value < 0) {
        at.field("concurrency")
            .error("is negative: use 0 for all cores, or a number of threads");
    }
    for name in environment_variables.keys() {
        if name.is_empty() || name.contains(['=', '\0']) {
            at.field("environmentVariables")
                .key(name)
                .error("is no name of a variable");
        }
    }
    // Text that only an injector understands.
    let _: Option<pb::ProxyImage> = image;
}
