//! Who may open an xDS stream on the secure port, and as what. Must never know what is sent.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use http::HeaderMap;
use rustls::pki_types::CertificateDer;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::metadata::MetadataMap;
use tonic::server::NamedService;
use tonic::{Extensions, Status};
use weft_ca::authn::Method;
use weft_ca::{Caller, Credentials, Refusal};
use weft_xds::server::grpc::PeerAddress;

use super::Desk;
use super::tls::Peer;
use crate::node::Proxy;

/// How the header of a bearer token begins.
const BEARER: &str = "Bearer ";

/// A service that only those reach whom the authenticator believes; it leaves who it is.
#[derive(Clone)]
pub(crate) struct Gate<S> {
    pub(crate) desk: Arc<Desk>,
    pub(crate) inner: S,
}

impl<S: NamedService> NamedService for Gate<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<http::Request<Body>> for Gate<S>
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + 'static,
    S::Future: Send,
{
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        let clone = self.inner.clone();
        // The one that is ready.
        let mut inner = std::mem::replace(&mut self.inner, clone);
        let desk = Arc::clone(&self.desk);
        Box::pin(async move {
            let shown = shown(request.headers(), request.extensions());
            let (caller, peer) = match believed(&desk, shown).await {
                Ok(believed) => believed,
                Err(status) => return Ok(status.into_http()),
            };
            let extensions = request.extensions_mut();
            if let Some(address) = peer.address {
                extensions.insert(PeerAddress(address));
            }
            extensions.insert(caller);
            inner.call(request).await
        })
    }
}

/// Who calls, and where from, where join tokens are good for nothing: this is no place to wait for a
/// disk. A refusal is counted and logged.
pub(super) async fn believed(
    desk: &Desk,
    (credentials, peer): (Credentials, Peer),
) -> Result<(Caller, Peer), Status> {
    let caller = if credentials.has_join_token() {
        let refusal = Refusal::JoinElsewhere;
        desk.refused(&refusal, peer.address);
        Err(refusal)
    } else {
        desk.believe(&credentials, &peer).await
    };
    let caller = caller.map_err(|refusal| refused(&refusal, "authentication failure"))?;
    peer.believe();
    Ok((caller, peer))
}

/// The status of a refusal: `what` and its reason. Who cannot be judged now may come again.
pub(super) fn refused(refusal: &Refusal, what: &str) -> Status {
    let text = format!("{what} ({})", refusal.reason());
    match refusal {
        Refusal::ReviewUnavailable(_) => Status::unavailable(text),
        _ => Status::unauthenticated(text),
    }
}

/// What a call shows, and where it comes from.
pub(super) fn shown(headers: &HeaderMap, extensions: &Extensions) -> (Credentials, Peer) {
    let header = headers.get(http::header::AUTHORIZATION);
    let bearer = header.and_then(|value| value.to_str().ok());
    with(bearer, extensions.get::<Peer>())
}

/// The same of a call that tonic has taken apart.
pub(super) fn credentials(metadata: &MetadataMap, extensions: &Extensions) -> (Credentials, Peer) {
    let header = metadata.get("authorization");
    let bearer = header.and_then(|value| value.to_str().ok());
    with(bearer, extensions.get::<Peer>())
}

fn with(header: Option<&str>, peer: Option<&Peer>) -> (Credentials, Peer) {
    let peer = peer.cloned().unwrap_or_default();
    let bearer = header.and_then(|text| text.strip_prefix(BEARER));
    let credentials = Credentials {
        chain: peer.chain.to_vec(),
        bearer: bearer.map(str::to_owned),
    };
    (credentials, peer)
}

/// Whether a node is one of its caller's, as in Istio: of the same namespace, and of the same
/// service account if it names one. Returns that account; calls of the plain port have none.
pub(crate) fn may_be(
    proxy: &Proxy,
    extensions: &Extensions,
    desk: Option<&Arc<Desk>>,
) -> Result<Option<String>, Status> {
    let Some(caller) = extensions.get::<Caller>() else {
        return Ok(None);
    };
    let said = proxy.metadata.get("SERVICE_ACCOUNT");
    let fits = |(namespace, account): (&str, &str)| {
        namespace == proxy.namespace && said.is_none_or(|said| said.is_empty() || said == account)
    };
    if let Some((_, account)) = caller.id.of_workload().filter(|workload| fits(*workload)) {
        return Ok(Some(account.to_owned()));
    }
    if let Some(desk) = desk {
        desk.counts.other_nodes.fetch_add(1, Ordering::Relaxed);
    }
    let account = said.map_or("", String::as_str);
    tracing::warn!(
        node = proxy.id, namespace = proxy.namespace, account, identity = %caller.id,
        "a node is not who its credentials say"
    );
    Err(Status::permission_denied(format!(
        "authorization failed: {} is not {}/{account}; the node's namespace and service account must be those of its identity",
        caller.id, proxy.namespace
    )))
}

/// The certificate by which a stream's caller was believed, to be looked at again while the stream
/// lasts; tokens are looked at once, as in Istio.
pub(crate) fn believed_by(extensions: &Extensions) -> Option<Arc<[CertificateDer<'static>]>> {
    let caller = extensions.get::<Caller>()?;
    let peer = extensions.get::<Peer>()?;
    (caller.method == Method::Certificate).then(|| Arc::clone(&peer.chain))
}

/// Whether a caller may ask about all proxies: those of the root namespace may, as in Istio. Calls
/// of the plain port have no caller.
pub(crate) fn may_ask(extensions: &Extensions, desk: Option<&Arc<Desk>>) -> Result<(), Status> {
    let Some(caller) = extensions.get::<Caller>() else {
        return Ok(());
    };
    // A stream of questions lasts as long as somebody asks.
    let doubts = |desk: &Arc<Desk>| desk.doubts(&believed_by(extensions)?);
    if let Some(refusal) = desk.and_then(doubts) {
        let reason = refusal.reason();
        return Err(Status::unauthenticated(format!(
            "authentication failure ({reason})"
        )));
    }
    let namespace = caller.id.of_workload().map(|(namespace, _)| namespace);
    if desk.is_some_and(|desk| namespace == Some(&desk.system)) {
        return Ok(());
    }
    Err(Status::permission_denied(format!(
        "{} is not of the root namespace, whose members may ask this",
        caller.id
    )))
}
