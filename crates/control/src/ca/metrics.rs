//! Counts of the authority under istiod's names where it has one. Must never change anything.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use weft_ca::Refusal;
use weft_ca::authority::Signer;

use super::{Counts, Desk, SIGN_ERRORS};

/// Name, kind, help, and values with their labels.
type Family = (&'static str, &'static str, &'static str, Vec<(String, u64)>);

/// All of them.
pub(crate) fn metrics(desk: &Desk) -> Vec<Family> {
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    let counts = &desk.counts;
    let one = |value: u64| vec![(String::new(), value)];
    let refused = counts.refused.iter().map(load);
    let all_refused: u64 = refused.clone().sum();
    let reasons = Refusal::REASONS.iter().zip(refused);
    let reasons = reasons.map(|(reason, count)| (format!("{{reason=\"{reason}\"}}"), count));
    let unsigned = SIGN_ERRORS.iter().zip(&counts.unsigned);
    let unsigned = unsigned.map(|(kind, count)| (format!("{{error=\"{kind}\"}}"), load(count)));
    let since = |time: SystemTime| {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    };
    let state = desk.authority.state();
    let signer = match &state.signer {
        Signer::Own(issuer) => since(issuer.expires()),
        Signer::External(_) => 0,
    };
    let counter = |name, help, value| (name, "counter", help, one(value));
    let gauge = |name, help, value| (name, "gauge", help, one(value));
    let mut all = vec![
        counter(
            "citadel_server_csr_count",
            "Requests for certificates.",
            load(&counts.requests),
        ),
        counter(
            "citadel_server_authentication_failure_count",
            "Callers of the secure port that were not believed.",
            all_refused,
        ),
        (
            "weft_authentication_failures",
            "counter",
            "The same by reason.",
            reasons.collect(),
        ),
        counter(
            "citadel_server_csr_parsing_err_count",
            "Certificate requests that were refused.",
            load(&counts.bad_requests),
        ),
        (
            "citadel_server_csr_sign_err_count",
            "counter",
            "Certificates that were not issued.",
            unsigned.collect(),
        ),
        counter(
            "citadel_server_success_cert_issuance_count",
            "Certificates that were issued to callers.",
            load(&counts.issued),
        ),
        gauge(
            "citadel_server_root_cert_expiry_timestamp",
            "When the first root of the bundle ends, in seconds since 1970.",
            since(state.bundle.expires()),
        ),
        gauge(
            "citadel_server_cert_chain_expiry_timestamp",
            "When the certificate that signs, or an issuer of it, ends.",
            signer,
        ),
        counter(
            "weft_ca_workload_certificates",
            "Certificates that were issued for workloads without an agent, with their keys.",
            load(&counts.served),
        ),
        counter(
            "weft_ca_jwt_svids",
            "JWT-SVIDs that were issued.",
            load(&counts.jwt_issued),
        ),
        gauge(
            "weft_ca_roots",
            "Roots that are trusted.",
            state.bundle.certificates().len() as u64,
        ),
        gauge(
            "weft_ca_revoked",
            "Revoked serial numbers.",
            state.revoked.len() as u64,
        ),
        counter(
            "weft_ca_overflow",
            "Requests for certificates beyond the bound.",
            load(&counts.overflow),
        ),
        counter(
            "weft_secure_requests_unreadable",
            "Requests about identities that are no protobuf, or too long.",
            load(&counts.unreadable),
        ),
    ];
    all.extend(of_files(counts));
    all.extend(of_connections(counts));
    all
}

fn counter(name: &'static str, help: &'static str, value: &AtomicU64) -> Family {
    let value = value.load(Ordering::Relaxed);
    (name, "counter", help, vec![(String::new(), value)])
}

fn of_files(counts: &Counts) -> [Family; 2] {
    [
        counter(
            "weft_ca_updates_rejected",
            "Changes of the authority's folder that cannot be used.",
            &counts.updates_refused,
        ),
        counter(
            "weft_ca_lists_not_served",
            "Answers to agents without the lists of revoked certificates, which are too long.",
            &counts.lists_not_served,
        ),
    ]
}

fn of_connections(counts: &Counts) -> [Family; 5] {
    [
        counter(
            "weft_xds_identity_mismatches",
            "Streams of nodes that are not who their credentials say.",
            &counts.other_nodes,
        ),
        counter(
            "weft_xds_credentials_ended",
            "Streams that were ended as their certificate was revoked or is no longer valid.",
            &counts.ended,
        ),
        counter(
            "weft_secure_handshakes_failed",
            "TLS handshakes of the secure port that failed.",
            &counts.handshakes,
        ),
        counter(
            "weft_secure_connections_unproved",
            "Connections of the secure port that were ended as no call of them was believed in time.",
            &counts.unproved,
        ),
        counter(
            "weft_token_issuer_fetches_failed",
            "Fetches of token issuers' keys that failed.",
            &counts.issuer_fetches_failed,
        ),
    ]
}
