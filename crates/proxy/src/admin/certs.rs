//! `/certs` and `server.days_until_first_cert_expiring`: the certificates of the TLS contexts
//! that are alive. Parses none.

use std::sync::{Arc, Weak};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use parking_lot::Mutex;
use serde_json::{Value, json};
use weft_net::tls::{CertificateDetails, ContextCertificates};

use super::request::{AdminRequest, Reply};
use super::server_info::timestamp_seconds;
use super::state::AdminState;
use crate::chain::{ServerTls, TlsSlot};

/// The TLS contexts of filter chains. It keeps none of them alive: what is listed is what a
/// listener, or a connection that drains, still has. Those of clusters come from the
/// [`super::ClusterDirectory`].
#[derive(Debug, Default)]
pub struct CertificateDirectory(Mutex<Vec<Weak<ArcSwapOption<ServerTls>>>>);

impl CertificateDirectory {
    /// Lists a context for as long as it lives.
    pub(crate) fn add(&self, slot: &TlsSlot) {
        let mut slots = self.0.lock();
        slots.retain(|slot| slot.strong_count() > 0);
        slots.push(Arc::downgrade(slot));
    }

    /// Contexts that wait for their secrets have no certificates and are left out.
    fn contexts(&self) -> Vec<Arc<ContextCertificates>> {
        let slots = self.0.lock();
        slots
            .iter()
            .filter_map(|slot| Some(Arc::clone(&slot.upgrade()?.load().as_ref()?.certificates)))
            .collect()
    }
}

/// Of all contexts that are alive, one entry each.
pub(crate) fn contexts(state: &AdminState) -> Vec<Arc<ContextCertificates>> {
    let mut all = state.certificates.contexts();
    all.extend(state.clusters.certificates());
    all
}

pub(super) fn handle(state: &AdminState, _: &AdminRequest) -> Reply {
    let now = SystemTime::now();
    let details = |all: &[CertificateDetails]| -> Value {
        all.iter()
            .map(|certificate| json_details(certificate, now))
            .collect()
    };
    let all: Vec<Value> = contexts(state)
        .iter()
        .map(|c| json!({"ca_cert": details(&c.trusted), "cert_chain": details(&c.presented)}))
        .collect();
    Reply::json(&json!({"certificates": all}))
}

/// Whole days until the first certificate expires; 0 if one has expired. As in Envoy the
/// largest 32-bit number says that there are none.
pub(super) fn days_until_first_expires(state: &AdminState, now: SystemTime) -> u32 {
    let contexts = contexts(state);
    let certificates = contexts
        .iter()
        .flat_map(|context| context.trusted.iter().chain(&context.presented));
    let days = certificates.map(|certificate| days_left(certificate, now));
    days.min()
        .map_or(u32::MAX, |days| u32::try_from(days).unwrap_or(u32::MAX))
}

fn days_left(certificate: &CertificateDetails, now: SystemTime) -> u64 {
    let left = certificate.expiration.duration_since(now);
    left.unwrap_or_default().as_secs() / 86_400
}

fn json_details(certificate: &CertificateDetails, now: SystemTime) -> Value {
    let dns = certificate.dns_names.iter();
    let uris = certificate.uri_names.iter();
    let addresses = certificate.addresses.iter();
    let names = dns
        .map(|name| json!({"dns": name}))
        .chain(uris.map(|name| json!({"uri": name})))
        .chain(addresses.map(|address| json!({"ip_address": address.to_string()})));
    json!({
        "path": certificate.path.as_deref().unwrap_or("<inline>"),
        "serial_number": certificate.serial_number,
        "subject_alt_names": names.collect::<Value>(),
        "days_until_expiration": days_left(certificate, now).to_string(),
        "valid_from": timestamp_seconds(certificate.valid_from),
        "expiration_time": timestamp_seconds(certificate.expiration),
    })
}
