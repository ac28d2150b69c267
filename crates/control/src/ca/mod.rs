//! The certificate authority as a part of the control plane: its folder is watched, workloads ask it
//! for certificates, and who connects to the secure port is who its credentials say. Must never
//! know how certificates are made.

mod gate;
mod keeper;
mod metrics;
mod server_certificate;
mod service;
mod streams;
mod tls;
mod workloads;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use rustls::pki_types::CertificateDer;
use tokio::sync::watch;
use weft_ca::authn::{JoinTokens, TokenIssuer, TokenIssuers, TrustDomains};
use weft_ca::authority::State;
use weft_ca::own::OwnOptions;
use weft_ca::{
    Authenticator, Authority, AuthorityError, Caller, Credentials, KeyKind, Lifetimes, OwnFolder,
    PluggedFolder, Refusal, TrustDomain,
};
use weft_jwt::Keys;
use weft_model::MeshSettings;
use weft_sources::{Problem, token_issuers};

pub(crate) use gate::{Gate, believed_by, may_ask, may_be};
pub(crate) use keeper::keep;
pub(crate) use metrics::metrics;
pub(crate) use server_certificate::ServerCertificate;
pub(crate) use service::CertificateService;
pub(crate) use streams::look_again;
pub(crate) use tls::{acceptor, incoming};
pub(crate) use workloads::{Account, Svid, serve as serve_workloads, want};

/// The service account of the control plane, by Istio's name.
const SERVICE_ACCOUNT: &str = "istiod";

/// Where identities are proved, and who issues them.
#[derive(Clone, Debug)]
pub struct SecureConfig {
    /// Where proxies and agents connect with TLS; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Names and addresses by which they call, besides istiod's and those of `addr`.
    pub names: Vec<String>,
    /// The authority's own folder: its roots, and join tokens.
    pub folder: PathBuf,
    /// A folder with an intermediate that is plugged in, instead of own roots.
    pub plugged: Option<PathBuf>,
    /// Keys of own roots.
    pub root_key: KeyKind,
    /// How long own roots last.
    pub root_lifetime: Duration,
    /// How long a new root is trusted before it signs.
    pub root_spread: Duration,
    /// How long certificates last.
    pub lifetimes: Lifetimes,
    /// File of issuers whose tokens are believed.
    pub token_issuers: Option<PathBuf>,
}

/// Why identities cannot be given.
#[derive(Debug, thiserror::Error)]
pub enum SecureError {
    /// The folder of the authority cannot be used.
    #[error(transparent)]
    Authority(#[from] AuthorityError),
    /// A trust domain of the mesh configuration is none to SPIFFE.
    #[error("the mesh configuration: {0}; SPIFFE wants lower-case letters")]
    TrustDomain(#[from] weft_ca::spiffe::SpiffeError),
    /// The file of issuers cannot be read.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file of issuers is wrong.
    #[error("the file of token issuers is refused:\n{}", crate::plane::lines(.0))]
    Issuers(Vec<Problem>),
    /// The control plane's own certificate cannot be made.
    #[error("the control plane's own certificate: {0}")]
    Own(String),
}

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    /// Requests for certificates.
    pub(crate) requests: AtomicU64,
    /// Callers that were not believed, in the order of [`Refusal::REASONS`].
    pub(crate) refused: [AtomicU64; Refusal::REASONS.len()],
    /// Requests whose CSR is refused.
    pub(crate) bad_requests: AtomicU64,
    /// Requests beyond the bound.
    pub(crate) overflow: AtomicU64,
    /// Signatures that failed, in the order of [`SIGN_ERRORS`].
    pub(crate) unsigned: [AtomicU64; SIGN_ERRORS.len()],
    /// Certificates issued to callers.
    pub(crate) issued: AtomicU64,
    /// Streams of nodes that are not who their credentials say.
    pub(crate) other_nodes: AtomicU64,
    /// Streams ended because their certificate was revoked, or is no longer valid.
    pub(crate) ended: AtomicU64,
    /// TLS handshakes that failed.
    pub(crate) handshakes: AtomicU64,
    /// Certificates issued for workloads without an agent.
    pub(crate) served: AtomicU64,
    /// Changes of the authority's folder that cannot be used.
    pub(crate) updates_refused: AtomicU64,
}

/// Kinds of [`weft_ca::SignError`].
pub(crate) const SIGN_ERRORS: [&str; 3] = ["CA_NOT_READY", "TTL_ERROR", "CERT_GEN_ERROR"];

/// What the servers share.
pub(crate) struct Desk {
    pub(crate) authority: Authority,
    pub(crate) counts: Counts,
    authenticator: Authenticator,
    /// Of the log, about refusals.
    lines: Lines,
    /// The namespace whose members may ask about all proxies.
    system: String,
    changed: watch::Sender<u64>,
    /// Workloads that get certificates with their keys.
    pub(crate) wanted: watch::Sender<workloads::Wanted>,
}

/// Lines of the log about refusals in one second: anybody who reaches the port may cause them. The
/// metric counts all.
const LINES: u32 = 20;

/// The present second, and how many lines were told in it.
#[derive(Default)]
struct Lines(Mutex<(u64, u32)>);

impl Lines {
    fn may_tell(&self, now: SystemTime) -> bool {
        let second = now.duration_since(SystemTime::UNIX_EPOCH);
        let second = second.unwrap_or_default().as_secs();
        let mut told = self.0.lock();
        if told.0 != second {
            *told = (second, 0);
        }
        told.1 = told.1.saturating_add(1);
        told.1 <= LINES
    }
}

/// The folder that is watched.
pub(crate) enum Folder {
    Own(Box<OwnFolder>),
    Plugged(PluggedFolder),
}

impl Folder {
    fn poll(&mut self, now: SystemTime) -> Result<Option<State>, AuthorityError> {
        match self {
            Self::Own(folder) => folder.poll(now),
            Self::Plugged(folder) => folder.poll(now),
        }
    }
}

/// Opens the authority.
pub(crate) fn open(
    config: &SecureConfig,
    mesh: &MeshSettings,
) -> Result<(Arc<Desk>, Folder), SecureError> {
    let now = SystemTime::now();
    let domain = |name: &Arc<str>| TrustDomain::parse(name);
    let own = domain(&mesh.trust_domain)?;
    let aliases = mesh.trust_domain_aliases.iter().map(domain);
    let domains = TrustDomains {
        own: own.clone(),
        aliases: aliases.collect::<Result<_, _>>()?,
    };
    let (folder, state) = if let Some(path) = &config.plugged {
        let (folder, state) = PluggedFolder::open(path, now)?;
        (Folder::Plugged(folder), state)
    } else {
        let options = OwnOptions {
            trust_domain: own,
            key: config.root_key,
            root_lifetime: config.root_lifetime,
            spread: config.root_spread,
            longest: config.lifetimes.longest,
        };
        let (folder, state) = OwnFolder::open(&config.folder, options, now)?;
        (Folder::Own(Box::new(folder)), state)
    };
    let desk = Desk {
        authority: Authority::new(state, config.lifetimes),
        counts: Counts::default(),
        authenticator: Authenticator {
            domains,
            issuers: read_issuers(config)?,
            joins: Some(JoinTokens::open(&config.folder)?),
        },
        lines: Lines::default(),
        system: mesh.root_namespace.to_string(),
        changed: watch::Sender::new(0),
        wanted: watch::Sender::default(),
    };
    Ok((Arc::new(desk), folder))
}

fn read_issuers(config: &SecureConfig) -> Result<TokenIssuers, SecureError> {
    let Some(path) = &config.token_issuers else {
        return Ok(TokenIssuers::default());
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| SecureError::File {
        path: name.clone(),
        source,
    })?;
    let rules = token_issuers::parse(&name, &text).map_err(SecureError::Issuers)?;
    let mut issuers = Vec::new();
    for rule in rules {
        let keys = Keys::parse(rule.keys.as_bytes());
        let keys = keys.ok_or_else(|| {
            let what = format!(
                "{name}: issuer {:?}: no key of jwks can be used",
                rule.issuer
            );
            SecureError::Own(what)
        })?;
        issuers.push(TokenIssuer {
            issuer: rule.issuer,
            audiences: rule.audiences,
            keys,
        });
    }
    Ok(TokenIssuers::new(issuers))
}

impl Desk {
    /// Who a caller is. A refusal is counted, and logged with its reason.
    fn authenticate(
        &self,
        credentials: &Credentials,
        address: Option<SocketAddr>,
    ) -> Result<Caller, Refusal> {
        let state = self.authority.state();
        let now = SystemTime::now();
        let found = self.authenticator.authenticate(credentials, &state, now);
        found.inspect_err(|refusal| self.refused(refusal, address))
    }

    /// Why a chain that was believed is not believed any more; `None` if it is.
    pub(crate) fn doubts(&self, chain: &[CertificateDer<'static>]) -> Option<Refusal> {
        let credentials = Credentials {
            chain: chain.to_vec(),
            bearer: None,
        };
        let (state, now) = (self.authority.state(), SystemTime::now());
        let found = self.authenticator.authenticate(&credentials, &state, now);
        found.err()
    }

    fn refused(&self, refusal: &Refusal, address: Option<SocketAddr>) {
        let reason = refusal.reason();
        let counted = Refusal::REASONS.iter().zip(&self.counts.refused);
        for (_, count) in counted.filter(|(known, _)| **known == reason) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        if self.lines.may_tell(SystemTime::now()) {
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::warn!(address, reason, %refusal, "a caller is not believed");
        }
    }

    /// The ID of the control plane, and the names by which it is called.
    pub(crate) fn own_subject(
        &self,
        config: &SecureConfig,
    ) -> Result<weft_ca::issuer::Subject, SecureError> {
        let domain = &self.authenticator.domains.own;
        let id = weft_ca::SpiffeId::workload(domain, &self.system, SERVICE_ACCOUNT)?;
        let mut dns = vec!["localhost".to_owned()];
        for host in [SERVICE_ACCOUNT, "istio-pilot"] {
            dns.push(format!("{host}.{}.svc", self.system));
            dns.push(format!("{host}.{}", self.system));
        }
        let mut addresses = vec![
            IpAddr::from([127, 0, 0, 1]),
            IpAddr::from(std::net::Ipv6Addr::LOCALHOST),
        ];
        if !config.addr.ip().is_unspecified() {
            addresses.push(config.addr.ip());
        }
        for name in &config.names {
            match name.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => dns.push(name.clone()),
            }
        }
        addresses.sort();
        addresses.dedup();
        Ok(weft_ca::issuer::Subject { id, dns, addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_do_not_fill_the_log() {
        let (lines, now) = (Lines::default(), SystemTime::UNIX_EPOCH);
        let told = |at: SystemTime| (0..100).filter(|_| lines.may_tell(at)).count();
        assert_eq!(told(now), 20);
        assert_eq!(told(now + Duration::from_millis(999)), 0);
        assert_eq!(told(now + Duration::from_secs(1)), 20);
    }
}
