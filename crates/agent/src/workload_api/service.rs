//! The methods of the Workload API: who may call, streams that follow the identity, tokens. Never
//! knows how the identity is kept.

use std::convert::Infallible;
use std::hash::{DefaultHasher, Hasher as _};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use prost::Message;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, ServerStreamingService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use weft_ca::JwtSvid;
use weft_proto::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};
use weft_proto::spiffe::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse,
    ValidateJwtsvidRequest, ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse,
    X509svidRequest,
};
use zeroize::Zeroizing;

use super::bundles::Bundles;
use super::socket::Peer;
use super::{Shared, tokens, x509};
use crate::agent::WorkloadIdentity;

/// The standard's service has no package.
const NAME: &str = "SpiffeWorkloadAPI";
/// Without this header a browser could be made to call (Workload Endpoint, 4.2).
const HEADER: &str = "workload.spiffe.io";
/// Bytes of a request.
const MAX_MESSAGE: usize = 64 * 1024;
/// How long a call waits for the first certificate or bundle.
const PATIENCE: Duration = Duration::from_secs(10);

/// The service, for the socket.
#[derive(Clone)]
pub(super) struct WorkloadService(pub(super) Arc<Shared>);

impl NamedService for WorkloadService {
    const NAME: &'static str = NAME;
}

impl WorkloadService {
    /// Whether a call may go on.
    fn admit(&self, request: &http::Request<Body>) -> Result<(), Status> {
        let stats = &self.0.stats.workload_api;
        stats.workload_api_requests.inc();
        let values = request.headers().get_all(HEADER);
        let mut values = values.iter().map(http::HeaderValue::as_bytes);
        if values.next() != Some(b"true") || values.next().is_some() {
            stats.workload_api_bad_requests.inc();
            return Err(Status::invalid_argument(format!(
                "security header missing from request: {HEADER}: true"
            )));
        }
        let peer = request.extensions().get::<Peer>();
        if peer.is_some_and(|peer| peer.is_believed) {
            return Ok(());
        }
        stats.workload_api_refused.inc();
        let user = peer.and_then(|peer| peer.user);
        let process = peer.and_then(|peer| peer.process);
        tracing::warn!(
            ?user,
            ?process,
            "a process is not of this workload; --workload-api-user lets in a user's processes"
        );
        Err(Status::permission_denied("no identity issued"))
    }
}

/// The identity, as soon as there is one that is valid.
async fn identity(shared: &Shared) -> Result<WorkloadIdentity, Status> {
    let mut follower = shared.identity.clone();
    let valid = |identity: &Option<WorkloadIdentity>| identity.as_ref().is_some_and(is_valid);
    let waited = tokio::time::timeout(PATIENCE, follower.wait_for(valid)).await;
    let found = waited.ok().and_then(Result::ok);
    found.and_then(|found| found.clone()).ok_or_else(nothing)
}

fn is_valid(identity: &WorkloadIdentity) -> bool {
    SystemTime::now() < identity.not_after
}

fn nothing() -> Status {
    Status::unavailable("the authority has given nothing that is valid now; try again")
}

/// An answer of a stream as things are now; none while something is missing.
type Now<A> = fn(&Shared) -> Result<Option<A>, Status>;

fn svid_now(shared: &Shared) -> Result<Option<x509::WithKeys>, Status> {
    of_identity(shared, x509::svid)
}

fn bundles_now(shared: &Shared) -> Result<Option<X509BundlesResponse>, Status> {
    of_identity(shared, x509::bundles)
}

fn of_identity<A>(
    shared: &Shared,
    make: fn(&WorkloadIdentity, &super::bundles::Known) -> Result<A, String>,
) -> Result<Option<A>, Status> {
    let identity = shared.identity.borrow();
    let Some(identity) = identity.as_ref().filter(|identity| is_valid(identity)) else {
        return Ok(None);
    };
    let known = shared.bundles.borrow().known();
    make(identity, &known).map(Some).map_err(Status::internal)
}

fn jwt_bundles_now(shared: &Shared) -> Result<Option<JwtBundlesResponse>, Status> {
    let known = match &*shared.bundles.borrow() {
        Bundles::Unknown => return Ok(None),
        Bundles::Unserved => return Err(unserved()),
        Bundles::Known(known) => Arc::clone(known),
    };
    let keys = known.iter().filter_map(|(domain, bundle)| {
        let keys = bundle.keys.as_ref()?;
        Some((x509::name(domain), keys.text().to_vec()))
    });
    let bundles = keys.collect();
    Ok(Some(JwtBundlesResponse { bundles }))
}

fn unserved() -> Status {
    Status::unimplemented("the authority has no JWT-SVIDs")
}

/// Sends an answer, and another one whenever it is different, until the caller goes.
async fn follow<A: Message>(
    shared: Arc<Shared>,
    now: Now<A>,
    sender: mpsc::Sender<Result<A, Status>>,
) {
    let (mut identity, mut bundles) = (shared.identity.clone(), shared.bundles.clone());
    let late = tokio::time::sleep(PATIENCE);
    tokio::pin!(late);
    let mut sent = None;
    loop {
        identity.mark_unchanged();
        bundles.mark_unchanged();
        match now(&shared) {
            Ok(None) => {}
            Ok(Some(answer)) => {
                let digest = Some(digest(&answer));
                if digest != sent {
                    sent = digest;
                    if sender.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
            }
            Err(status) => {
                let _ = sender.send(Err(status)).await;
                return;
            }
        }
        tokio::select! {
            () = sender.closed() => return,
            changed = identity.changed() => if changed.is_err() { return },
            changed = bundles.changed() => if changed.is_err() { return },
            () = &mut late, if sent.is_none() => {
                let _ = sender.send(Err(nothing())).await;
                return;
            }
        }
    }
}

/// Of an answer with a key no copy is kept.
fn digest(answer: &impl Message) -> u64 {
    let bytes = Zeroizing::new(answer.encode_to_vec());
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    hasher.finish()
}

async fn fetch_jwt(shared: &Shared, request: JwtsvidRequest) -> Result<JwtsvidResponse, Status> {
    let identity = identity(shared).await?;
    let JwtsvidRequest {
        audience,
        spiffe_id,
    } = request;
    let own = identity.id.to_string();
    if !spiffe_id.is_empty() && spiffe_id != own {
        return Err(Status::permission_denied(
            "no identity issued: this workload has another one",
        ));
    }
    let svid = tokens::token(shared, &identity, audience).await?;
    Ok(JwtsvidResponse {
        svids: vec![Jwtsvid {
            spiffe_id: own,
            svid,
            hint: String::new(),
        }],
    })
}

async fn validate_jwt(
    shared: &Shared,
    request: ValidateJwtsvidRequest,
) -> Result<ValidateJwtsvidResponse, Status> {
    let ValidateJwtsvidRequest { audience, svid } = request;
    if audience.is_empty() || svid.is_empty() {
        return Err(Status::invalid_argument("audience and svid must be given"));
    }
    let mut bundles = shared.bundles.clone();
    let there = bundles.wait_for(|bundles| !matches!(bundles, Bundles::Unknown));
    let there = tokio::time::timeout(PATIENCE, there).await;
    let there = there.ok().and_then(Result::ok).ok_or_else(nothing)?.clone();
    let Bundles::Known(known) = there else {
        return Err(unserved());
    };
    let keys = |domain: &weft_ca::TrustDomain| Some(known.get(domain)?.keys.as_ref()?.keys());
    let svid = JwtSvid::validate(&svid, &audience, keys, SystemTime::now());
    let svid = svid.map_err(Status::invalid_argument)?;
    Ok(ValidateJwtsvidResponse {
        spiffe_id: svid.id.to_string(),
        claims: Some(fields(svid.claims)),
    })
}

fn fields(claims: serde_json::Map<String, serde_json::Value>) -> Struct {
    let fields = claims.into_iter().map(|(name, claim)| (name, value(claim)));
    Struct {
        fields: fields.collect(),
    }
}

/// A claim; the reader of JSON bounds its depth.
fn value(json: serde_json::Value) -> Value {
    use serde_json::Value as Json;
    let kind = match json {
        Json::Null => Kind::NullValue(0),
        Json::Bool(value) => Kind::BoolValue(value),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or(f64::NAN)),
        Json::String(text) => Kind::StringValue(text),
        Json::Array(values) => Kind::ListValue(ListValue {
            values: values.into_iter().map(value).collect(),
        }),
        Json::Object(map) => Kind::StructValue(fields(map)),
    };
    Value { kind: Some(kind) }
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A method that streams.
struct Streams<A>(Arc<Shared>, Now<A>);

impl<Q, A: Message + 'static> ServerStreamingService<Q> for Streams<A> {
    type Response = A;
    type ResponseStream = ReceiverStream<Result<A, Status>>;
    type Future = std::future::Ready<Result<Response<Self::ResponseStream>, Status>>;

    fn call(&mut self, _request: Request<Q>) -> Self::Future {
        let (sender, receiver) = mpsc::channel(1);
        tokio::spawn(follow(Arc::clone(&self.0), self.1, sender));
        std::future::ready(Ok(Response::new(ReceiverStream::new(receiver))))
    }
}

/// The methods that answer once.
struct Once(Arc<Shared>);

impl UnaryService<JwtsvidRequest> for Once {
    type Response = JwtsvidResponse;
    type Future = Answer<Result<Response<JwtsvidResponse>, Status>>;

    fn call(&mut self, request: Request<JwtsvidRequest>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = fetch_jwt(&shared, request.into_inner()).await;
            answer.map(Response::new)
        })
    }
}

impl UnaryService<ValidateJwtsvidRequest> for Once {
    type Response = ValidateJwtsvidResponse;
    type Future = Answer<Result<Response<ValidateJwtsvidResponse>, Status>>;

    fn call(&mut self, request: Request<ValidateJwtsvidRequest>) -> Self::Future {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let answer = validate_jwt(&shared, request.into_inner()).await;
            answer.map(Response::new)
        })
    }
}

async fn stream<Q, A>(
    shared: Arc<Shared>,
    request: http::Request<Body>,
    now: Now<A>,
) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
{
    let codec = ProstCodec::<A, Q>::default();
    let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), None);
    grpc.server_streaming(Streams(shared, now), request).await
}

async fn once<Q, A>(shared: Arc<Shared>, request: http::Request<Body>) -> http::Response<Body>
where
    Q: Message + Default + 'static,
    A: Message + Default + 'static,
    Once: UnaryService<Q, Response = A>,
{
    let codec = ProstCodec::<A, Q>::default();
    let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), None);
    grpc.unary(Once(shared), request).await
}

impl Service<http::Request<Body>> for WorkloadService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if let Err(status) = service.admit(&request) {
                return Ok(status.into_http());
            }
            let (path, shared) = (request.uri().path(), service.0);
            Ok(match path.strip_prefix("/SpiffeWorkloadAPI/") {
                Some("FetchX509SVID") => {
                    stream::<X509svidRequest, _>(shared, request, svid_now).await
                }
                Some("FetchX509Bundles") => {
                    stream::<X509BundlesRequest, _>(shared, request, bundles_now).await
                }
                Some("FetchJWTBundles") => {
                    stream::<JwtBundlesRequest, _>(shared, request, jwt_bundles_now).await
                }
                Some("FetchJWTSVID") => once::<JwtsvidRequest, _>(shared, request).await,
                Some("ValidateJWTSVID") => once::<ValidateJwtsvidRequest, _>(shared, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_become_the_values_that_they_are() {
        let claims = serde_json::json!({"a": [1.5, "x", null], "b": {"c": true}});
        let serde_json::Value::Object(claims) = claims else {
            panic!("an object");
        };
        let fields = fields(claims).fields;
        let Some(Kind::ListValue(list)) = &fields["a"].kind else {
            panic!("a list");
        };
        let kinds: Vec<_> = list.values.iter().map(|value| value.kind.clone()).collect();
        let text = Kind::StringValue("x".to_owned());
        let wanted = [Kind::NumberValue(1.5), text, Kind::NullValue(0)];
        assert_eq!(kinds, wanted.map(Some));
        let Some(Kind::StructValue(inner)) = &fields["b"].kind else {
            panic!("an object");
        };
        assert_eq!(inner.fields["c"].kind, Some(Kind::BoolValue(true)));
    }
}
