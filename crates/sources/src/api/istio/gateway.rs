//! `Gateway` → [`Gateway`]. Rules of validity follow Istio's `ValidateGateway`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use weft_model::{
    Gateway, GatewayServer, HostScope, KeyPairFiles, Protocol, ScopedHost, ServerTls, TlsVersion,
};

use super::message as pb;
use crate::check::{At, Context, optional};

pub(crate) fn convert(message: pb::Gateway, context: &Context<'_>, at: At<'_>) -> Gateway {
    let pb::Gateway { servers, selector } = message;
    let list = at.field("servers");
    if servers.is_empty() {
        list.error("there is no server: write at least one");
    }
    let (mut names, mut found) = (BTreeSet::new(), Vec::with_capacity(servers.len()));
    for (index, server) in servers.into_iter().enumerate() {
        let at = list.index(index);
        let Some(server) = server_of(server, context, at) else {
            continue;
        };
        if !names.insert(server.port_name.clone()) {
            at.field("port").field("name").error(format_args!(
                "port name \"{}\" is used twice: names must differ within a Gateway",
                server.port_name
            ));
        }
        found.push(server);
    }
    Gateway {
        meta: context.meta(),
        selector: at.field("selector").labels(selector),
        servers: found,
    }
}

fn server_of(message: pb::Server, context: &Context<'_>, at: At<'_>) -> Option<GatewayServer> {
    let pb::Server {
        port,
        bind,
        hosts,
        tls,
        default_endpoint,
        name,
    } = message;
    at.field("defaultEndpoint")
        .refuse(!default_endpoint.is_empty());
    if !bind.is_empty() && bind.parse::<IpAddr>().is_err() {
        at.field("bind").error(format_args!(
            "\"{bind}\" is no IP address; Unix sockets are not supported yet"
        ));
    }
    let list = at.field("hosts");
    if hosts.is_empty() {
        list.error("there is no host: name at least one, or \"*\"");
    }
    let hosts: Vec<(usize, ScopedHost)> = hosts
        .iter()
        .enumerate()
        .filter_map(|(index, host)| Some((index, server_host(host, context, list.index(index))?)))
        .collect();
    let Some(port) = port else {
        at.field("port")
            .error("there is no port: write number, name and protocol");
        return None;
    };
    let place = at.field("port");
    #[allow(deprecated)]
    let pb::Port {
        number,
        protocol: protocol_name,
        name: port_name,
        target_port,
    } = port;
    place.field("targetPort").refuse(target_port != 0);
    if port_name.is_empty() {
        place
            .field("name")
            .error("the port has no name: it becomes part of the route's name");
    }
    let protocol = server_protocol(&protocol_name, place.field("protocol"));
    let number = place.field("number").port(number);
    let protocol = protocol?;
    let https_redirect = tls.as_ref().is_some_and(|tls| tls.https_redirect);
    let tls_at = at.field("tls");
    let tls = match (protocol, tls) {
        (Protocol::Https, Some(tls)) => Some(server_tls(tls, tls_at)?),
        (Protocol::Https, None) => {
            tls_at
                .error("there are no TLS settings: an HTTPS port needs mode and certificate files");
            return None;
        }
        (_, Some(tls)) => {
            let plain = pb::ServerTlsSettings {
                https_redirect: tls.https_redirect,
                ..pb::ServerTlsSettings::default()
            };
            if tls != plain {
                tls_at.error(format_args!(
                    "a port of protocol {protocol} takes httpsRedirect only: use protocol HTTPS for TLS"
                ));
            }
            None
        }
        (_, None) => None,
    };
    for (index, host) in hosts.iter().filter(|_| tls.is_some()) {
        sni_host(host, list.index(*index));
    }
    Some(GatewayServer {
        name: name.into(),
        port: number?,
        port_name: port_name.into(),
        protocol,
        bind: optional(bind),
        hosts: hosts.into_iter().map(|(_, host)| host).collect(),
        https_redirect,
        tls,
    })
}

fn server_host(text: &str, context: &Context<'_>, at: At<'_>) -> Option<ScopedHost> {
    let missing = Some(HostScope::Any);
    let host = at.scoped_host(text, context.namespace(), missing, context.settings)?;
    if host.scope == HostScope::Nothing {
        at.error("no rule is in namespace \"~\": write \"*\", \".\" or a name before the slash");
        return None;
    }
    Some(host)
}

/// A name that a TLS client may ask for: listeners match whole labels only.
fn sni_host(host: &ScopedHost, at: At<'_>) {
    let name = host.host.as_str();
    if name.starts_with('*') && name != "*" && !name.starts_with("*.") {
        at.error(format_args!(
            "\"{name}\" covers part of a label, which TLS servers cannot match: write \"*.\" and a domain, or whole names"
        ));
    }
}

fn server_protocol(name: &str, at: At<'_>) -> Option<Protocol> {
    match Protocol::parse(name) {
        protocol @ (Protocol::Http | Protocol::Http2 | Protocol::Grpc | Protocol::Https) => {
            Some(protocol)
        }
        // gRPC-Web is HTTP until a browser's gateway translates it, which is a filter's work.
        Protocol::GrpcWeb
        | Protocol::HttpProxy
        | Protocol::Tls
        | Protocol::Tcp
        | Protocol::Mongo
        | Protocol::MySql
        | Protocol::Redis => {
            at.error(format_args!(
                "{name} is not supported yet (see docs/compatibility.md)"
            ));
            None
        }
        Protocol::Udp | Protocol::Unsupported => {
            at.error(format_args!(
                "\"{name}\" is no protocol of a gateway: use HTTP, HTTPS, HTTP2 or GRPC"
            ));
            None
        }
    }
}

fn server_tls(message: pb::ServerTlsSettings, at: At<'_>) -> Option<ServerTls> {
    use pb::server_tls_settings::TlSmode as Mode;
    let pb::ServerTlsSettings {
        https_redirect,
        mode,
        server_certificate,
        private_key,
        ca_certificates,
        ca_crl,
        credential_name,
        credential_names,
        ca_cert_credential_name,
        tls_certificates,
        subject_alt_names,
        verify_certificate_spki,
        verify_certificate_hash,
        min_protocol_version,
        max_protocol_version,
        cipher_suites,
        insecure_skip_verify,
    } = message;
    if https_redirect {
        at.field("httpsRedirect")
            .error("would redirect HTTPS to itself: put it on an HTTP port");
    }
    let unsupported = [
        ("caCrl", !ca_crl.is_empty()),
        ("credentialName", !credential_name.is_empty()),
        ("credentialNames", !credential_names.is_empty()),
        ("caCertCredentialName", !ca_cert_credential_name.is_empty()),
        ("tlsCertificates", !tls_certificates.is_empty()),
        ("verifyCertificateSpki", !verify_certificate_spki.is_empty()),
        ("verifyCertificateHash", !verify_certificate_hash.is_empty()),
        ("cipherSuites", !cipher_suites.is_empty()),
        ("insecureSkipVerify", insecure_skip_verify.is_some()),
    ];
    for (field, set) in unsupported {
        at.field(field).refuse(set);
    }
    let by_name = unsupported[1..5].iter().any(|(_, set)| *set);
    let mutual = match at.field("mode").ok(Mode::try_from(mode))? {
        Mode::Simple => false,
        Mode::Mutual => true,
        other => {
            at.field("mode").error(format_args!(
                "{} is not supported yet (see docs/compatibility.md)",
                other.as_str_name()
            ));
            return None;
        }
    };
    let files = [
        ("serverCertificate", server_certificate.is_empty()),
        ("privateKey", private_key.is_empty()),
        ("caCertificates", mutual && ca_certificates.is_empty()),
    ];
    for (field, missing) in files {
        if missing && !by_name {
            at.field(field)
                .error("is missing: give the path of a PEM file");
        }
    }
    if !mutual && !ca_certificates.is_empty() {
        at.field("caCertificates")
            .error("is not used by mode SIMPLE: use MUTUAL, or remove it");
    }
    if !mutual && !subject_alt_names.is_empty() {
        at.field("subjectAltNames")
            .error("is not used by mode SIMPLE: use MUTUAL, or remove it");
    }
    let min_version = tls_version(min_protocol_version, at.field("minProtocolVersion"));
    let max_version = tls_version(max_protocol_version, at.field("maxProtocolVersion"));
    if min_version
        .zip(max_version)
        .is_some_and(|(min, max)| min > max)
    {
        at.field("minProtocolVersion")
            .error("is newer than maxProtocolVersion");
    }
    Some(ServerTls {
        key_pair: KeyPairFiles {
            certificate: server_certificate.into(),
            private_key: private_key.into(),
        },
        client_ca_file: optional(ca_certificates),
        subject_alt_names: subject_alt_names.into_iter().map(Into::into).collect(),
        min_version,
        max_version,
    })
}

fn tls_version(value: i32, at: At<'_>) -> Option<TlsVersion> {
    use pb::server_tls_settings::TlsProtocol;
    match at.ok(TlsProtocol::try_from(value))? {
        TlsProtocol::TlsAuto => None,
        TlsProtocol::Tlsv12 => Some(TlsVersion::V1_2),
        TlsProtocol::Tlsv13 => Some(TlsVersion::V1_3),
        old @ (TlsProtocol::Tlsv10 | TlsProtocol::Tlsv11) => {
            at.error(format_args!(
                "{} is not safe: use TLSV1_2 or TLSV1_3",
                old.as_str_name()
            ));
            None
        }
    }
}
