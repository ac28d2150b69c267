//! `PeerAuthentication` → [`PeerAuthentication`]. Rules of validity follow Istio's
//! `ValidatePeerAuthentication`.

use std::collections::BTreeMap;

use weft_model::{MutualTlsMode, PeerAuthentication};
use weft_proto::istio::security::v1beta1 as pb;

use super::selector;
use crate::check::{At, Context};

pub(crate) fn convert(
    message: pb::PeerAuthentication,
    context: &Context<'_>,
    at: At<'_>,
) -> PeerAuthentication {
    let pb::PeerAuthentication {
        selector: chosen,
        mtls,
        port_level_mtls,
    } = message;
    let selector = selector::of(chosen, at.field("selector"));
    let list = at.field("portLevelMtls");
    if selector.is_empty() && !port_level_mtls.is_empty() {
        list.error("needs a selector: only rules for some workloads may name ports");
    }
    let in_root = context.settings.root_namespace == *context.namespace();
    if in_root && !selector.is_empty() {
        at.field("selector").error(format_args!(
            "rules of the root namespace {} are for the whole mesh: remove it, or write the rule in the workload's namespace",
            context.namespace()
        ));
    }
    let mut ports = BTreeMap::new();
    for (number, mtls) in port_level_mtls {
        let text = number.to_string();
        let at = list.key(&text);
        let mode = mode_of(Some(mtls), at);
        if let Some(port) = at.port(number) {
            ports.insert(port, mode);
        }
    }
    PeerAuthentication {
        meta: context.meta(),
        selector,
        mode: mode_of(mtls, at.field("mtls")),
        ports,
    }
}

fn mode_of(
    message: Option<pb::peer_authentication::MutualTls>,
    at: At<'_>,
) -> Option<MutualTlsMode> {
    use pb::peer_authentication::mutual_tls::Mode;
    let pb::peer_authentication::MutualTls { mode } = message?;
    match at.field("mode").ok(Mode::try_from(mode))? {
        Mode::Unset => None,
        Mode::Disable => Some(MutualTlsMode::Disable),
        Mode::Permissive => Some(MutualTlsMode::Permissive),
        Mode::Strict => Some(MutualTlsMode::Strict),
    }
}
