//! The certificate authority as a part of the control plane: its folder is watched, workloads ask it
//! for certificates, and who connects to the secure port is who its credentials say. Must never
//! know how certificates are made.

mod codec;
mod external;
mod gate;
mod gather;
mod identity_service;
mod issuer_keys;
mod journal;
mod keeper;
mod metrics;
mod review;
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

use arc_swap::ArcSwap;
use rustls::pki_types::CertificateDer;
use tokio::sync::{Notify, watch};
use weft_ca::authn::{IssuerKeys, JoinTokens, TokenIssuer, TokenIssuers, TrustDomains};
use weft_ca::authority::State;
use weft_ca::federation;
use weft_ca::own::OwnOptions;
use weft_ca::{
    Authenticator, Authority, AuthorityError, Caller, Credentials, FederatedFolder, ForeignBundles,
    JwtFolder, JwtKeys, KeyKind, Lifetimes, OwnFolder, PluggedFolder, Refusal, RootsFolder,
    TrustDomain,
};
use weft_jwt::Keys;
use weft_model::MeshSettings;
use weft_sources::Problem;
use weft_sources::token_issuers::{self, IssuerKeySource};

use external::GrpcSigner;
pub use external::SignerConfig;
pub(crate) use gate::{Gate, believed_by, may_ask, may_be};
pub(crate) use identity_service::IdentityService;
pub(crate) use issuer_keys::{FetchedIssuer, follow_issuers};
use journal::Lines;
pub(crate) use keeper::keep;
pub(crate) use metrics::metrics;
pub use review::ReviewConfig;
use review::Reviewer;
pub(crate) use server_certificate::ServerCertificate;
pub(crate) use service::CertificateService;
pub(crate) use streams::look_again;
pub(crate) use tls::{acceptor, incoming};
pub(crate) use workloads::{Account, Svid, serve as serve_workloads, want};

/// The service account of the control plane, by Istio's name.
const SERVICE_ACCOUNT: &str = "istiod";

/// How long roots last, as istiod's do.
const ROOT_LIFETIME: Duration = Duration::from_hours(3650 * 24);
const JWT_LIFETIME: Duration = Duration::from_mins(5);

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
    /// An external signer, instead of own roots.
    pub signer: Option<SignerConfig>,
    /// Keys of own roots.
    pub root_key: KeyKind,
    /// How long own roots last.
    pub root_lifetime: Duration,
    /// How long a new root is trusted before it signs.
    pub root_spread: Duration,
    /// How long certificates last.
    pub lifetimes: Lifetimes,
    /// How long a JWT-SVID lasts unless its workload asks for another time; an hour at most.
    pub jwt_lifetime: Duration,
    /// Folder with bundles of other trust domains, for applications.
    pub federated: Option<PathBuf>,
    /// File of issuers whose tokens are believed.
    pub token_issuers: Option<PathBuf>,
    /// A Kubernetes API that judges tokens of others.
    pub review: Option<ReviewConfig>,
}

impl SecureConfig {
    /// The defaults of `weft control` with this folder: own roots, and port 0 of loopback.
    pub fn new(folder: PathBuf) -> Self {
        let lifetimes = Lifetimes::default();
        Self {
            addr: ([127, 0, 0, 1], 0).into(),
            names: Vec::new(),
            folder,
            plugged: None,
            signer: None,
            root_key: KeyKind::default(),
            root_lifetime: ROOT_LIFETIME,
            // Agents hear of a new root when they renew their certificates.
            root_spread: lifetimes.longest,
            lifetimes,
            jwt_lifetime: JWT_LIFETIME,
            federated: None,
            token_issuers: None,
            review: None,
        }
    }
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
    /// The API of token reviews cannot be asked.
    #[error("token reviews: {0}")]
    Review(String),
    /// The external signer cannot be asked.
    #[error("the external signer: {0}")]
    Signer(String),
    /// The bundles of other trust domains cannot be used.
    #[error("bundles of other trust domains (--federated-bundles): {0}")]
    Federated(AuthorityError),
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
    /// Requests that are no protobuf, or longer than is read.
    pub(crate) unreadable: AtomicU64,
    /// Requests beyond the bound.
    pub(crate) overflow: AtomicU64,
    /// Signatures that failed, in the order of [`SIGN_ERRORS`].
    pub(crate) unsigned: [AtomicU64; SIGN_ERRORS.len()],
    /// Certificates issued to callers.
    pub(crate) issued: AtomicU64,
    /// JWT-SVIDs issued.
    pub(crate) jwt_issued: AtomicU64,
    /// Streams of nodes that are not who their credentials say.
    pub(crate) other_nodes: AtomicU64,
    /// Streams ended because their certificate was revoked, or is no longer valid.
    pub(crate) ended: AtomicU64,
    /// TLS handshakes that failed.
    pub(crate) handshakes: AtomicU64,
    /// Connections that were ended because no call of them was believed in time.
    pub(crate) unproved: AtomicU64,
    /// Fetches of token issuers' keys that failed.
    pub(crate) issuer_fetches_failed: AtomicU64,
    /// Certificates issued for workloads without an agent.
    pub(crate) served: AtomicU64,
    /// Changes of the authority's folder that cannot be used.
    pub(crate) updates_refused: AtomicU64,
    /// Answers to agents without lists of revoked certificates, which are too long.
    pub(crate) lists_not_served: AtomicU64,
}

/// Kinds of [`weft_ca::SignError`].
pub(crate) const SIGN_ERRORS: [&str; 3] = ["CA_NOT_READY", "TTL_ERROR", "CERT_GEN_ERROR"];

/// What the servers share.
pub(crate) struct Desk {
    pub(crate) authority: Authority,
    pub(crate) counts: Counts,
    jwt_keys: ArcSwap<JwtKeys>,
    /// Of other trust domains, for applications.
    foreign: ArcSwap<ForeignBundles>,
    jwt_lifetime: Duration,
    authenticator: Authenticator,
    reviewer: Option<Reviewer>,
    /// Of the log, about refusals.
    lines: Lines,
    /// The state about whose lists the log was told, by its number from one on.
    told_lists: AtomicU64,
    /// The namespace whose members may ask about all proxies.
    system: String,
    changed: watch::Sender<u64>,
    /// Workloads that get certificates with their keys.
    pub(crate) wanted: watch::Sender<workloads::Wanted>,
    /// A token has a key that is not known.
    unknown_key: Notify,
}

/// The folders that are watched.
pub(crate) struct Folder {
    signer: SignerFolder,
    jwt: JwtFolder,
    federated: Option<FederatedFolder>,
    /// The authority's own, and the bundle that was written into it last.
    path: PathBuf,
    published: String,
}

impl Folder {
    /// Writes our bundle for other trust domains, if it changed.
    fn publish(&mut self, desk: &Desk) -> Result<(), AuthorityError> {
        let roots = &desk.authority.state().bundle;
        let text = federation::own_bundle(roots, desk.jwt_keys.load().jwks());
        if text != self.published {
            federation::publish(&self.path, &text)?;
            self.published = text;
        }
        Ok(())
    }
}

enum SignerFolder {
    Own(Box<OwnFolder>),
    Plugged(PluggedFolder),
    External(RootsFolder),
}

impl SignerFolder {
    fn poll(&mut self, now: SystemTime) -> Result<Option<State>, AuthorityError> {
        match self {
            Self::Own(folder) => folder.poll(now),
            Self::Plugged(folder) => folder.poll(now),
            Self::External(folder) => folder.poll(now),
        }
    }
}

/// Opens the authority.
pub(crate) fn open(
    config: &SecureConfig,
    mesh: &MeshSettings,
) -> Result<(Arc<Desk>, Folder, Vec<FetchedIssuer>), SecureError> {
    let now = SystemTime::now();
    let domain = |name: &Arc<str>| TrustDomain::parse(name);
    let own = domain(&mesh.trust_domain)?;
    let aliases = mesh.trust_domain_aliases.iter().map(domain);
    let domains = TrustDomains {
        own: own.clone(),
        aliases: aliases.collect::<Result<_, _>>()?,
    };
    let (signer, state) = if let Some(config) = &config.signer {
        let signer = GrpcSigner::new(config).map_err(SecureError::Signer)?;
        let (folder, state) = RootsFolder::open(&config.roots, Arc::new(signer), now)?;
        (SignerFolder::External(folder), state)
    } else if let Some(path) = &config.plugged {
        let (folder, state) = PluggedFolder::open(path, now)?;
        (SignerFolder::Plugged(folder), state)
    } else {
        let options = OwnOptions {
            trust_domain: own,
            key: config.root_key,
            root_lifetime: config.root_lifetime,
            spread: config.root_spread,
            longest: config.lifetimes.longest,
        };
        let (folder, state) = OwnFolder::open(&config.folder, options, now)?;
        (SignerFolder::Own(Box::new(folder)), state)
    };
    let (jwt, jwt_keys) = JwtFolder::open(&config.folder, now)?;
    let (issuers, fetched) = read_issuers(config)?;
    let federated = config.federated.as_ref();
    let federated = federated.map(|path| FederatedFolder::open(path, domains.clone()));
    let (federated, foreign) = federated
        .transpose()
        .map_err(SecureError::Federated)?
        .unzip();
    let foreign = foreign.unwrap_or_default();
    let desk = Desk {
        authority: Authority::new(state, config.lifetimes),
        counts: Counts::default(),
        jwt_keys: ArcSwap::from_pointee(jwt_keys),
        foreign: ArcSwap::from_pointee(foreign),
        jwt_lifetime: config.jwt_lifetime,
        authenticator: Authenticator::new(
            domains,
            issuers,
            Some(JoinTokens::open(&config.folder)?),
        ),
        reviewer: config
            .review
            .as_ref()
            .map(Reviewer::new)
            .transpose()
            .map_err(SecureError::Review)?,
        lines: Lines::default(),
        told_lists: AtomicU64::new(0),
        system: mesh.root_namespace.to_string(),
        changed: watch::Sender::new(0),
        wanted: watch::Sender::default(),
        unknown_key: Notify::new(),
    };
    let folder = Folder {
        signer,
        jwt,
        federated,
        path: config.folder.clone(),
        published: String::new(),
    };
    Ok((Arc::new(desk), folder, fetched))
}

fn read_issuers(config: &SecureConfig) -> Result<(TokenIssuers, Vec<FetchedIssuer>), SecureError> {
    let Some(path) = &config.token_issuers else {
        return Ok(<_>::default());
    };
    let name = path.display().to_string();
    let text = std::fs::read_to_string(path).map_err(|source| SecureError::File {
        path: name.clone(),
        source,
    })?;
    let rules = token_issuers::parse(&name, &text).map_err(SecureError::Issuers)?;
    let (mut issuers, mut fetched) = (Vec::new(), Vec::new());
    for rule in rules {
        let keys = match rule.keys {
            IssuerKeySource::Inline(text) => {
                let keys = Keys::parse(text.as_bytes()).ok_or_else(|| {
                    let issuer = &rule.issuer;
                    let what = format!("{name}: issuer {issuer:?}: no key of jwks can be used");
                    SecureError::Own(what)
                })?;
                Arc::new(IssuerKeys::from(keys))
            }
            IssuerKeySource::Url(url) => {
                let keys = Arc::new(IssuerKeys::default());
                fetched.push(FetchedIssuer {
                    issuer: rule.issuer.clone(),
                    url: url.into(),
                    keys: Arc::clone(&keys),
                });
                keys
            }
        };
        issuers.push(TokenIssuer {
            issuer: rule.issuer,
            audiences: rule.audiences,
            keys,
        });
    }
    Ok((TokenIssuers::new(issuers), fetched))
}

impl Desk {
    /// Who a caller is, the Kubernetes API asked if only that can know. A refusal is counted, and logged
    /// with its reason.
    async fn believe(
        &self,
        credentials: &Credentials,
        peer: &tls::Peer,
    ) -> Result<Caller, Refusal> {
        let address = peer.address;
        let (Some(reviewer), Some(token)) = (&self.reviewer, &credentials.bearer) else {
            return self.authenticate(credentials, address);
        };
        if credentials.has_join_token() || self.authenticator.knows_issuer_of(token) {
            return self.authenticate(credentials, address);
        }
        let reviewed = if peer.may_be_reviewed() {
            reviewer.review(token).await
        } else {
            let text = "too many tokens of this connection: open another one";
            Err(Refusal::Review(text.to_owned()))
        };
        let caller = reviewed
            .and_then(|(namespace, account)| self.authenticator.reviewed(&namespace, &account));
        caller.inspect_err(|refusal| self.refused(refusal, address))
    }

    /// Who a caller is. A refusal is counted, and logged with its reason.
    fn authenticate(
        &self,
        credentials: &Credentials,
        address: Option<SocketAddr>,
    ) -> Result<Caller, Refusal> {
        let state = self.authority.state();
        let now = SystemTime::now();
        let found = self.authenticator.authenticate(credentials, &state, now);
        found.inspect_err(|refusal| {
            if matches!(refusal, Refusal::TokenSignature(_)) {
                self.unknown_key.notify_waiters();
            }
            self.refused(refusal, address);
        })
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

    /// A request cannot be read: counted and logged.
    fn unreadable(&self, problem: &str, address: Option<SocketAddr>) {
        self.counts.unreadable.fetch_add(1, Ordering::Relaxed);
        if self.lines.may_tell(SystemTime::now()) {
            let address = address.map_or_else(String::new, |address| address.to_string());
            tracing::warn!(
                address,
                problem,
                "a request of the secure port cannot be read"
            );
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
