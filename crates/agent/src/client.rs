//! One call of the authority: TLS that is checked by its roots and name, and what says who asks.
//! Never decides when or with what.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::uri::PathAndQuery;
use tokio::net::TcpStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use weft_net::Stream;
use weft_net::tls::{
    ClientSpec, Identity, Pem, PemSource, SanKind, SanMatcher, Validation, client_config, connect,
};
use weft_proto::identity::{BundlesRequest, BundlesResponse, JwtSvidRequest, JwtSvidResponse};
use weft_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};
use weft_xds::client::grpc::{ConnectError, connect_over, of_status, with_causes};
use zeroize::Zeroizing;

use crate::agent::WorkloadIdentity;
use crate::options::AgentOptions;

const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
const CREATE_JWT: &str = "/weft.identity.v1.IdentityService/CreateJwtSvid";
const BUNDLES: &str = "/weft.identity.v1.IdentityService/GetBundles";
/// Time for a whole call, as in Istio.
const CALL: Duration = Duration::from_secs(10);
/// Bytes of an answer.
const MAX_ANSWER: usize = 1 << 20;
/// The same of bundles, with their lists of revoked certificates.
const MAX_BUNDLES: usize = 8 << 20;

/// Where the authority is, and how it is recognized.
pub(crate) struct Target<'a> {
    /// `host:port`.
    pub(crate) address: &'a str,
    pub(crate) server_name: &'a str,
    pub(crate) roots: Pem,
}

impl<'a> Target<'a> {
    /// The authority, checked by the roots of the file and those that it sent last.
    pub(crate) fn new(
        options: &'a AgentOptions,
        present: Option<&WorkloadIdentity>,
    ) -> Result<Self, String> {
        let roots = match (options.roots.read(), present.map(|present| &present.roots)) {
            (Ok(mut roots), Some(learnt)) => {
                roots.bytes.push(b'\n');
                roots.bytes.extend_from_slice(learnt);
                roots
            }
            (Ok(roots), None) => roots,
            (Err(error), Some(learnt)) => {
                tracing::warn!(%error, "the authority is checked by the roots that it sent last");
                Pem::new("the authority's roots", &**learnt).of(PemSource::Value)
            }
            (Err(error), None) => {
                return Err(format!("the authority's roots (--ca-root): {error}"));
            }
        };
        Ok(Self {
            address: &options.address,
            server_name: &options.server_name,
            roots,
        })
    }
}

/// What says who asks.
pub(crate) enum Credential {
    Certificate(Identity),
    Token(Zeroizing<String>),
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum CallError {
    /// The authority does not believe what was shown, or what was shown cannot be used.
    Refused(String),
    /// The authority does not serve this; istiod serves certificates only.
    Unserved(String),
    /// Anything else.
    Other(String),
}

impl CallError {
    /// What happened.
    pub(crate) fn text(&self) -> &str {
        match self {
            Self::Refused(text) | Self::Unserved(text) | Self::Other(text) => text,
        }
    }
}

/// Asks for a certificate; gives Istio's `cert_chain`.
pub(crate) async fn create_certificate(
    target: Target<'_>,
    credential: Credential,
    cluster_id: Option<&str>,
    request: IstioCertificateRequest,
) -> Result<Vec<String>, CallError> {
    let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
    let answer = call(target, credential, cluster_id, CREATE, codec, request).await?;
    Ok(answer.cert_chain)
}

/// Asks for a JWT-SVID; gives the token.
pub(crate) async fn create_jwt_svid(
    target: Target<'_>,
    credential: Credential,
    cluster_id: Option<&str>,
    request: JwtSvidRequest,
) -> Result<String, CallError> {
    let codec = ProstCodec::<JwtSvidRequest, JwtSvidResponse>::default();
    let answer = call(target, credential, cluster_id, CREATE_JWT, codec, request).await?;
    Ok(answer.svid)
}

/// Asks by what identities are checked.
pub(crate) async fn get_bundles(
    target: Target<'_>,
    credential: Credential,
    cluster_id: Option<&str>,
) -> Result<BundlesResponse, CallError> {
    let codec = ProstCodec::<BundlesRequest, BundlesResponse>::default();
    let request = BundlesRequest {};
    call(target, credential, cluster_id, BUNDLES, codec, request).await
}

/// One call over a connection of its own, within its time.
async fn call<C: tonic::codec::Codec>(
    target: Target<'_>,
    credential: Credential,
    cluster_id: Option<&str>,
    path: &'static str,
    codec: C,
    request: C::Encode,
) -> Result<C::Decode, CallError>
where
    C::Encode: Send + Sync + 'static,
    C::Decode: Send + Sync + 'static,
{
    let called = async {
        let (channel, token) = connected(target, credential).await?;
        let longest = if path == BUNDLES {
            MAX_BUNDLES
        } else {
            MAX_ANSWER
        };
        let mut client = tonic::client::Grpc::new(channel).max_decoding_message_size(longest);
        let ready = client.ready().await;
        ready.map_err(|error| CallError::Other(with_causes(&error)))?;
        let request = with_headers(request, token, cluster_id)?;
        let answer = client.unary(request, PathAndQuery::from_static(path), codec);
        let answer = answer.await.map_err(|status| failed(&status))?;
        Ok(answer.into_inner())
    };
    match tokio::time::timeout(CALL, called).await {
        Ok(answer) => answer,
        Err(_) => Err(CallError::Other("no answer in time".to_owned())),
    }
}

/// A connection that has shown its certificate, and the token that calls are to show.
async fn connected(
    target: Target<'_>,
    credential: Credential,
) -> Result<(tonic::transport::Channel, Option<Zeroizing<String>>), CallError> {
    let (identity, token) = match credential {
        Credential::Certificate(identity) => (Some(identity), None),
        Credential::Token(token) => (None, Some(token)),
    };
    let host: Result<IpAddr, _> = target.server_name.parse();
    let kind = if host.is_ok() {
        SanKind::Ip
    } else {
        SanKind::Dns
    };
    let spec = ClientSpec {
        identity,
        validation: Validation {
            trusted_ca: Some(target.roots),
            sans: vec![SanMatcher::exact(kind, target.server_name)],
            ..Validation::default()
        },
        alpn: vec![b"h2".to_vec()],
        ..ClientSpec::default()
    };
    // A certificate and a key that are no pair cannot say who asks.
    let tls = client_config(&spec).map_err(|error| CallError::Refused(error.to_string()))?;
    let sni = host.is_err().then(|| Arc::from(target.server_name));
    let address: Arc<str> = target.address.into();
    let connector = connect_over(vec![format!("http://{address}")], move |_| {
        open(Arc::clone(&address), Arc::clone(&tls), sni.clone())
    });
    let channel = connector(0).await;
    let channel = channel.map_err(|error| {
        let text = with_causes(&*error);
        CallError::Other(unreached(text, target.server_name))
    })?;
    Ok((channel, token))
}

/// Why the authority was not reached; if it is not whom we look for, by what that is told.
fn unreached(text: String, server_name: &str) -> String {
    if !text.contains("peer certificate") {
        return text;
    }
    format!(
        "{text}; the authority is checked by the roots of --ca-root and for the name {server_name} (--ca-server-name)"
    )
}

fn with_headers<Q>(
    request: Q,
    token: Option<Zeroizing<String>>,
    cluster_id: Option<&str>,
) -> Result<Request<Q>, CallError> {
    let mut request = Request::new(request);
    let metadata = request.metadata_mut();
    if let Some(token) = token {
        let bearer = Zeroizing::new(format!("Bearer {}", *token));
        let mut bearer: MetadataValue<Ascii> = bearer
            .parse()
            .map_err(|_| CallError::Refused("the token cannot be a header".to_owned()))?;
        bearer.set_sensitive(true);
        metadata.insert("authorization", bearer);
    }
    if let Some(Ok(id)) = cluster_id.map(str::parse::<MetadataValue<Ascii>>) {
        metadata.insert("clusterid", id);
    }
    Ok(request)
}

async fn open(
    address: Arc<str>,
    tls: Arc<rustls::ClientConfig>,
    sni: Option<Arc<str>>,
) -> Result<Stream, ConnectError> {
    let tcp = TcpStream::connect(&*address).await?;
    tcp.set_nodelay(true)?;
    let stream: Result<Stream, _> = connect(tcp, tls, sni.as_deref(), Some(CALL)).await;
    Ok(stream?)
}

fn failed(status: &Status) -> CallError {
    let text = of_status(status);
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied => CallError::Refused(text),
        Code::Unimplemented => CallError::Unserved(text),
        _ => CallError::Other(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_that_is_not_believed_names_the_flags() {
        let strange = "invalid peer certificate: UnknownIssuer".to_owned();
        let told = unreached(strange, "istiod.istio-system.svc");
        for part in [
            "UnknownIssuer",
            "--ca-root",
            "istiod.istio-system.svc (--ca-server-name)",
        ] {
            assert!(told.contains(part), "{told}");
        }
        let away = "tcp connect error: Connection refused".to_owned();
        assert_eq!(unreached(away.clone(), "istiod"), away);
    }
}
