//! Who a caller is: by the certificate it has, by a token of a known issuer, or by a join token.
//! Never knows what the caller wants, nor how the credentials came.

mod confirmed;
pub mod issuers;
pub mod join;
pub(crate) mod peer;

use std::time::SystemTime;

use rustls_pki_types::CertificateDer;

use crate::authority::State;
use crate::{SpiffeId, TrustDomain};
pub use issuers::{IssuerKeys, TokenIssuer, TokenIssuers};
pub use join::{JoinToken, JoinTokens};

/// Bytes of a token; those of Kubernetes have 1 to 2 KB.
const MAX_TOKEN: usize = 16 * 1024;

/// The mesh's trust domain, and others whose names mean the same workloads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrustDomains {
    /// The one in which certificates are issued.
    pub own: TrustDomain,
    /// `trustDomainAliases`.
    pub aliases: Vec<TrustDomain>,
}

impl TrustDomains {
    /// The workload of an ID under the name that it has today; none if the ID is of a stranger, or
    /// not of Istio's form.
    fn workload(&self, id: &SpiffeId) -> Option<SpiffeId> {
        let known = *id.trust_domain() == self.own || self.aliases.contains(id.trust_domain());
        let (namespace, account) = id.of_workload().filter(|_| known)?;
        SpiffeId::workload(&self.own, namespace, account).ok()
    }
}

/// How a caller was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Method {
    /// By a certificate of the mesh.
    Certificate,
    /// By a token of a known issuer.
    Token,
    /// By a join token, which is to be spent before a certificate is issued for it.
    Join(JoinToken),
}

impl Method {
    /// A word for it, for logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Certificate => "certificate",
            Self::Token => "token",
            Self::Join(_) => "join token",
        }
    }
}

/// A caller whose identity was proved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caller {
    /// Who it is.
    pub id: SpiffeId,
    /// How that is known.
    pub method: Method,
}

/// Why a caller is not believed. Told to the log and to metrics; to the caller only that it is so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It shows nothing.
    #[error("neither a certificate nor a bearer token was shown")]
    NoCredentials,
    /// A certificate that the mesh's roots do not confirm.
    #[error("the certificate is not valid: {0}")]
    Certificate(String),
    /// A certificate that was revoked.
    #[error("the certificate is revoked (serial number {0})")]
    Revoked(String),
    /// A certificate without one SPIFFE ID of a workload in the mesh's trust domains.
    #[error("the certificate names no workload of this mesh: {0}")]
    Name(String),
    /// A token that cannot be read.
    #[error("the token cannot be read: {0}")]
    TokenForm(&'static str),
    /// A token of a stranger.
    #[error("the token's issuer {0:?} is not configured")]
    TokenIssuer(String),
    /// A token that no key of its issuer signed.
    #[error("the token's signature: {0}")]
    TokenSignature(&'static str),
    /// A token out of its time, or without an end.
    #[error("the token's time: {0}")]
    TokenTime(&'static str),
    /// A token for somebody else.
    #[error("the token is for other audiences")]
    TokenAudience,
    /// A token that names no service account.
    #[error("the token's subject {0:?} is no service account of this mesh")]
    TokenSubject(String),
    /// A token that the Kubernetes API does not believe.
    #[error("the Kubernetes API says of the token: {0}")]
    Review(String),
    /// A token that the Kubernetes API is to judge, which cannot be asked.
    #[error("the Kubernetes API cannot be asked about the token: {0}")]
    ReviewUnavailable(String),
    /// A join token that nobody gave out, or whose record is gone.
    #[error("the join token is not known")]
    JoinUnknown,
    /// A join token that was used before.
    #[error("the join token was used before")]
    JoinReplayed,
    /// A join token whose time is over.
    #[error("the join token has expired")]
    JoinExpired,
    /// A join token where it is good for nothing.
    #[error("a join token is good for a certificate; show that certificate here")]
    JoinElsewhere,
    /// A caller that is known asks for a certificate of another identity.
    #[error("{0} asks for a certificate of somebody else")]
    Impersonation(SpiffeId),
    /// The records of join tokens cannot be read or written.
    #[error("the records of join tokens: {0}")]
    JoinStore(String),
}

impl Refusal {
    /// All labels of [`Refusal::reason`].
    pub const REASONS: [&'static str; 18] = [
        "no_credentials",
        "certificate_invalid",
        "certificate_revoked",
        "certificate_name",
        "token_form",
        "token_issuer",
        "token_signature",
        "token_time",
        "token_audience",
        "token_subject",
        "token_review",
        "token_review_unavailable",
        "join_token_unknown",
        "join_token_replayed",
        "join_token_expired",
        "join_token_elsewhere",
        "join_token_store",
        "impersonation",
    ];

    /// A label for metrics.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoCredentials => "no_credentials",
            Self::Certificate(_) => "certificate_invalid",
            Self::Revoked(_) => "certificate_revoked",
            Self::Name(_) => "certificate_name",
            Self::TokenForm(_) => "token_form",
            Self::TokenIssuer(_) => "token_issuer",
            Self::TokenSignature(_) => "token_signature",
            Self::TokenTime(_) => "token_time",
            Self::TokenAudience => "token_audience",
            Self::TokenSubject(_) => "token_subject",
            Self::Review(_) => "token_review",
            Self::ReviewUnavailable(_) => "token_review_unavailable",
            Self::JoinUnknown => "join_token_unknown",
            Self::JoinReplayed => "join_token_replayed",
            Self::JoinExpired => "join_token_expired",
            Self::JoinElsewhere => "join_token_elsewhere",
            Self::JoinStore(_) => "join_token_store",
            Self::Impersonation(_) => "impersonation",
        }
    }
}

/// What a caller shows.
#[derive(Clone, Default)]
pub struct Credentials {
    /// The chain of its TLS connection, whose key the handshake has proved; or none.
    pub chain: Vec<CertificateDer<'static>>,
    /// What follows `Bearer ` in its `authorization`.
    pub bearer: Option<String>,
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A token is as good as a key.
        f.debug_struct("Credentials")
            .field("certificates", &self.chain.len())
            .field("bearer", &self.bearer.as_ref().map(|_| "redacted"))
            .finish()
    }
}

impl Credentials {
    /// Whether a join token is shown, which is looked up on a disk.
    pub fn has_join_token(&self) -> bool {
        self.bearer.as_deref().is_some_and(join::is_join_token)
    }
}

/// Authenticates callers.
#[derive(Debug)]
pub struct Authenticator {
    /// Whose workloads are believed.
    pub domains: TrustDomains,
    /// Whose tokens are believed.
    pub issuers: TokenIssuers,
    /// Join tokens, if there are any.
    pub joins: Option<JoinTokens>,
    confirmed: confirmed::Confirmed,
}

impl Authenticator {
    /// Believes workloads of these domains, and these tokens.
    pub fn new(domains: TrustDomains, issuers: TokenIssuers, joins: Option<JoinTokens>) -> Self {
        Self {
            domains,
            issuers,
            joins,
            confirmed: confirmed::Confirmed::default(),
        }
    }

    /// Finds out who shows these credentials. A token counts before a certificate: who has both
    /// renews by the token what its certificate may no longer be good for.
    ///
    /// # Errors
    /// Why nobody is believed.
    pub fn authenticate(
        &self,
        credentials: &Credentials,
        state: &State,
        now: SystemTime,
    ) -> Result<Caller, Refusal> {
        if let Some(bearer) = &credentials.bearer {
            return self.by_token(bearer, now);
        }
        if credentials.chain.is_empty() {
            return Err(Refusal::NoCredentials);
        }
        let id = peer::identity(&credentials.chain, &self.confirmed, state, now)?;
        let workload = self.domains.workload(&id);
        Ok(Caller {
            id: workload.ok_or_else(|| Refusal::Name(id.to_string()))?,
            method: Method::Certificate,
        })
    }

    fn by_token(&self, bearer: &str, now: SystemTime) -> Result<Caller, Refusal> {
        if bearer.len() > MAX_TOKEN {
            return Err(Refusal::TokenForm("it is longer than 16 KiB"));
        }
        if !join::is_join_token(bearer) {
            return Ok(Caller {
                id: self.issuers.identity(bearer, &self.domains, now)?,
                method: Method::Token,
            });
        }
        let joins = self.joins.as_ref().ok_or(Refusal::JoinUnknown)?;
        let (token, namespace, account) = joins.find(bearer, now)?;
        let id = SpiffeId::workload(&self.domains.own, &namespace, &account);
        Ok(Caller {
            id: id.map_err(|_| Refusal::JoinUnknown)?,
            method: Method::Join(token),
        })
    }

    /// Whether a token is of an issuer whose keys are here.
    pub fn knows_issuer_of(&self, token: &str) -> bool {
        self.issuers.know(token)
    }

    /// The caller of a token that somebody else judged.
    ///
    /// # Errors
    /// Its name cannot be that of a workload.
    pub fn reviewed(&self, namespace: &str, account: &str) -> Result<Caller, Refusal> {
        let id = SpiffeId::workload(&self.domains.own, namespace, account);
        Ok(Caller {
            id: id.map_err(|_| Refusal::TokenSubject(format!("{namespace}:{account}")))?,
            method: Method::Token,
        })
    }

    /// Uses up what can be used once. To be called when all else is right, just before a
    /// certificate is issued.
    ///
    /// # Errors
    /// Somebody else was faster.
    pub fn spend(&self, caller: &Caller) -> Result<(), Refusal> {
        match (&caller.method, &self.joins) {
            (Method::Join(token), Some(joins)) => joins.spend(token),
            (Method::Join(_), None) => Err(Refusal::JoinUnknown),
            (Method::Certificate | Method::Token, _) => Ok(()),
        }
    }
}
