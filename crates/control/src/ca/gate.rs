//! Who may open an xDS stream on the secure port, and as what. Must never know what is sent.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rustls::pki_types::CertificateDer;
use tonic::metadata::MetadataMap;
use tonic::service::Interceptor;
use tonic::{Extensions, Request, Status};
use weft_ca::authn::Method;
use weft_ca::{Caller, Credentials, Refusal};
use weft_xds::server::grpc::PeerAddress;

use super::Desk;
use super::tls::Peer;
use crate::node::Proxy;

/// How the header of a bearer token begins.
const BEARER: &str = "Bearer ";

/// Lets in whom the authenticator believes, and leaves who it is.
#[derive(Clone)]
pub(crate) struct Gate(pub(crate) Arc<Desk>);

impl Interceptor for Gate {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        let (credentials, peer) = credentials(request.metadata(), request.extensions());
        // Not looked up: this is no place to wait for a disk.
        let caller = if credentials.has_join_token() {
            let refusal = Refusal::JoinElsewhere;
            self.0.refused(&refusal, peer.address);
            Err(refusal)
        } else {
            self.0.authenticate(&credentials, peer.address)
        };
        let caller = caller.map_err(|refusal| {
            Status::unauthenticated(format!("authentication failure ({})", refusal.reason()))
        })?;
        let extensions = request.extensions_mut();
        if let Some(address) = peer.address {
            extensions.insert(PeerAddress(address));
        }
        extensions.insert(caller);
        Ok(request)
    }
}

/// What a call shows, and where it comes from.
pub(super) fn credentials(metadata: &MetadataMap, extensions: &Extensions) -> (Credentials, Peer) {
    let peer = extensions.get::<Peer>().cloned().unwrap_or_default();
    let header = metadata.get("authorization");
    let bearer = header
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.strip_prefix(BEARER));
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
