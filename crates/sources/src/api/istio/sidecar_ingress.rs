//! `ingress` of a `Sidecar`: where a workload is called, and where its application listens.

use std::collections::BTreeSet;

use weft_model::{
    DefaultEndpoint, IngressListener, PortNumber, Protocol, ServerTls, TlsTermination,
};

use super::destination_rule_pool::connection_pool;
use super::gateway_tls::server_tls;
use super::message as pb;
use super::sidecar::{UNIX, address, capture_mode_of, port_of, unix_socket};
use crate::check::{At, optional};
use pb::server_tls_settings::TlSmode as Mode;

pub(super) fn listeners(list: Vec<pb::IstioIngressListener>, at: At<'_>) -> Vec<IngressListener> {
    let mut ports = BTreeSet::new();
    let mut found = Vec::with_capacity(list.len());
    for (index, message) in list.into_iter().enumerate() {
        let at = at.index(index);
        let Some(listener) = listener(message, at) else {
            continue;
        };
        if !ports.insert(listener.port) {
            at.field("port").field("number").error(format_args!(
                "port {} is used twice: only one ingress listener can have it",
                listener.port
            ));
        }
        found.push(listener);
    }
    found
}

fn listener(message: pb::IstioIngressListener, at: At<'_>) -> Option<IngressListener> {
    let pb::IstioIngressListener {
        port,
        bind,
        capture_mode,
        default_endpoint,
        tls,
        connection_pool: pool,
    } = message;
    address(&bind, at.field("bind"));
    let capture = capture_mode_of(capture_mode, at.field("captureMode"));
    let endpoint = endpoint(&default_endpoint, at.field("defaultEndpoint"));
    let pool = pool.map(|pool| connection_pool(pool, at.field("connectionPool")));
    let Some(port) = port else {
        at.field("port")
            .error("there is no port: write number and protocol");
        return None;
    };
    let place = at.field("port");
    let number = place.field("number").port(port.number);
    let (protocol, port_name) = port_of(port, place)?;
    let tls = tls.and_then(|tls| termination(tls, protocol, at.field("tls")));
    Some(IngressListener {
        port: number?,
        port_name,
        protocol,
        bind: optional(bind),
        capture,
        endpoint: endpoint?,
        tls,
        pool,
    })
}

fn endpoint(text: &str, at: At<'_>) -> Option<DefaultEndpoint> {
    if text.is_empty() {
        return Some(DefaultEndpoint::AsCalled);
    }
    if let Some(path) = text.strip_prefix(UNIX) {
        unix_socket(path, at);
        return Some(DefaultEndpoint::Unix(path.into()));
    }
    let wrong = || {
        at.error(format_args!(
            "\"{text}\" is no place of the workload: write 127.0.0.1:<port>, 0.0.0.0:<port>, [::1]:<port>, [::]:<port>, unix:///path, or nothing"
        ));
    };
    let Some((host, port)) = text.rsplit_once(':') else {
        wrong();
        return None;
    };
    let Ok(port) = port.parse::<u32>() else {
        wrong();
        return None;
    };
    let port: PortNumber = at.port(port)?;
    match host {
        "127.0.0.1" => Some(DefaultEndpoint::Loopback { v6: false, port }),
        "[::1]" => Some(DefaultEndpoint::Loopback { v6: true, port }),
        "0.0.0.0" => Some(DefaultEndpoint::Instance { v6: false, port }),
        "[::]" => Some(DefaultEndpoint::Instance { v6: true, port }),
        // Without an address, Istio looks at the port no further.
        "" => Some(DefaultEndpoint::AsCalled),
        _ => {
            wrong();
            None
        }
    }
}

/// What Istio does not take here is refused before the rest is looked at.
fn termination(
    message: pb::ServerTlsSettings,
    protocol: Protocol,
    at: At<'_>,
) -> Option<TlsTermination> {
    let unused = [
        ("subjectAltNames", !message.subject_alt_names.is_empty()),
        ("httpsRedirect", message.https_redirect),
        ("credentialName", !message.credential_name.is_empty()),
        ("credentialNames", !message.credential_names.is_empty()),
        (
            "caCertCredentialName",
            !message.ca_cert_credential_name.is_empty(),
        ),
        ("tlsCertificates", !message.tls_certificates.is_empty()),
    ];
    let mut wrong = false;
    for (field, _) in unused.iter().filter(|(_, set)| *set) {
        at.field(field).error(
            "is not for ingress listeners: write serverCertificate, privateKey and caCertificates",
        );
        wrong = true;
    }
    let mode = at.field("mode").ok(Mode::try_from(message.mode))?;
    if !matches!(mode, Mode::Simple | Mode::Mutual | Mode::OptionalMutual) {
        at.field("mode").error(format_args!(
            "{} is not for ingress listeners: use SIMPLE, MUTUAL or OPTIONAL_MUTUAL; mutual TLS of the mesh is PeerAuthentication's",
            mode.as_str_name()
        ));
        wrong = true;
    }
    if !protocol.is_tls() {
        at.error(format_args!(
            "a port of protocol {protocol} has no TLS: use HTTPS or TLS"
        ));
        wrong = true;
    }
    if wrong {
        return None;
    }
    match server_tls(message, at)? {
        ServerTls::Terminate(termination) => Some(termination),
        ServerTls::Passthrough | ServerTls::AutoPassthrough => None,
    }
}
