//! Tokens of known issuers: Kubernetes' service-account tokens checked by the cluster's public keys
//! (no call to Kubernetes), and those of others that name workloads. Never knows how a token came.
//!
//! Source: Kubernetes, "Managing Service Accounts" (claims of bound tokens); RFC 7519.

use std::sync::Arc;
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use serde_json::Value;
use weft_jwt::{Failure, Keys, Token};

use super::{Refusal, TrustDomains};
use crate::SpiffeId;
use crate::bundle::since_epoch;

/// What clocks may differ, in seconds.
const SKEW: u64 = 60;
/// How subjects of Kubernetes begin.
const KUBERNETES: &str = "system:serviceaccount:";
/// The claim with which Kubernetes says the same again.
const KUBERNETES_CLAIM: &str = "kubernetes.io";

/// An issuer whose tokens are believed.
#[derive(Debug)]
pub struct TokenIssuer {
    /// `iss` of its tokens.
    pub issuer: String,
    /// A token must be for one of them; there is at least one.
    pub audiences: Vec<String>,
    /// Keys that sign its tokens.
    pub keys: Arc<IssuerKeys>,
}

/// Keys of an issuer, which may come later and change.
#[derive(Debug, Default)]
pub struct IssuerKeys(ArcSwapOption<Keys>);

impl From<Keys> for IssuerKeys {
    fn from(keys: Keys) -> Self {
        Self(ArcSwapOption::from_pointee(keys))
    }
}

impl IssuerKeys {
    /// Takes other keys; or none, so that no token is believed.
    pub fn set(&self, keys: Option<Keys>) {
        self.0.store(keys.map(Arc::new));
    }

    /// Whether there are any.
    pub fn are_known(&self) -> bool {
        self.0.load().is_some()
    }
}

/// All issuers.
#[derive(Debug, Default)]
pub struct TokenIssuers(Vec<TokenIssuer>);

impl TokenIssuers {
    /// Takes issuers.
    pub fn new(issuers: Vec<TokenIssuer>) -> Self {
        Self(issuers)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a token says that it is of one of them.
    pub(super) fn know(&self, text: &str) -> bool {
        let token = Token::parse(text).ok();
        token.is_some_and(|token| self.0.iter().any(|known| known.issuer == token.issuer()))
    }

    /// The workload that a token is of: `sub` is `system:serviceaccount:namespace:name` or the
    /// workload's SPIFFE ID.
    pub(super) fn identity(
        &self,
        text: &str,
        domains: &TrustDomains,
        now: SystemTime,
    ) -> Result<SpiffeId, Refusal> {
        let token = Token::parse(text).map_err(|failure| Refusal::TokenForm(failure.text()))?;
        let issuer = self.0.iter().find(|known| known.issuer == token.issuer());
        let issuer = issuer
            .ok_or_else(|| Refusal::TokenIssuer(token.issuer().chars().take(128).collect()))?;
        let keys = issuer.keys.0.load();
        let unknown = Refusal::TokenSignature("the issuer's keys are not known yet");
        let verified = keys.as_ref().ok_or(unknown)?.verify(&token);
        verified.map_err(|failure| Refusal::TokenSignature(failure.text()))?;
        if token.expiry().is_none() {
            return Err(Refusal::TokenTime("it has no end (exp)"));
        }
        let time = token.check_time(since_epoch(now).as_secs(), SKEW);
        time.map_err(|failure: Failure| Refusal::TokenTime(failure.text()))?;
        if !token
            .audiences()
            .any(|one| issuer.audiences.iter().any(|own| own == one))
        {
            return Err(Refusal::TokenAudience);
        }
        subject(&token, domains)
            .ok_or_else(|| Refusal::TokenSubject(token.subject().chars().take(128).collect()))
    }
}

fn subject(token: &Token<'_>, domains: &TrustDomains) -> Option<SpiffeId> {
    let subject = token.subject();
    let Some(rest) = subject.strip_prefix(KUBERNETES) else {
        return domains.workload(&SpiffeId::parse(subject).ok()?);
    };
    let (namespace, account) = rest.split_once(':')?;
    if let Some(claim) = token.payload.get(KUBERNETES_CLAIM) {
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(str::to_owned);
        let said_account = claim
            .get("serviceaccount")
            .and_then(|account| account.get("name"));
        let said = (text(claim.get("namespace")), text(said_account));
        if said != (Some(namespace.to_owned()), Some(account.to_owned())) {
            return None;
        }
    }
    SpiffeId::workload(&domains.own, namespace, account).ok()
}
