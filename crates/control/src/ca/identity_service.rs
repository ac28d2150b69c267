//! `weft.identity.v1.IdentityService`: JWT-SVIDs for who the caller is, and the bundles by which
//! identities are checked. Must never know how callers are recognized, nor how is signed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use prost::Message;
use rustls::pki_types::CertificateRevocationListDer;
use rustls::pki_types::pem::PemObject;
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use weft_ca::{SpiffeId, jwt_svid};
use weft_proto::identity::{
    Bundle, BundlesRequest, BundlesResponse, JwtSvidRequest, JwtSvidResponse,
};

use super::codec::Reading;
use super::{Desk, gate};

/// Bytes of lists of revoked certificates that agents hand on.
const MAX_LISTS: usize = 3 << 20;

const NAME: &str = "weft.identity.v1.IdentityService";
const CREATE: &str = "/weft.identity.v1.IdentityService/CreateJwtSvid";
const BUNDLES: &str = "/weft.identity.v1.IdentityService/GetBundles";
/// Bytes of a request.
const MAX_MESSAGE: usize = 64 * 1024;

/// The service, for the secure port.
#[derive(Clone)]
pub(crate) struct IdentityService(pub(crate) Arc<Desk>);

impl IdentityService {
    /// Who calls. A join token is good for a certificate only.
    async fn caller<T>(&self, request: &Request<T>) -> Result<SpiffeId, Status> {
        let shown = gate::credentials(request.metadata(), request.extensions());
        let believed = gate::believed(&self.0, shown).await;
        believed.map(|(caller, _)| caller.id)
    }
}

impl NamedService for IdentityService {
    const NAME: &'static str = NAME;
}

/// A method.
trait Answers<Q> {
    type Answer;

    fn answer(&self, caller: &SpiffeId, request: Q) -> Result<Self::Answer, Status>;
}

impl Answers<JwtSvidRequest> for IdentityService {
    type Answer = JwtSvidResponse;

    fn answer(&self, id: &SpiffeId, request: JwtSvidRequest) -> Result<JwtSvidResponse, Status> {
        let desk = &self.0;
        let JwtSvidRequest {
            audience,
            validity_duration,
        } = request;
        jwt_svid::check_audiences(&audience).map_err(Status::invalid_argument)?;
        let asked = u64::try_from(validity_duration)
            .ok()
            .filter(|seconds| *seconds > 0);
        let lifetime = asked.map_or(desk.jwt_lifetime, Duration::from_secs);
        let keys = desk.jwt_keys.load();
        let svid = keys.sign(id, &audience, lifetime, SystemTime::now());
        let svid = svid.map_err(|error| {
            tracing::error!(error, identity = %id, "a JWT-SVID is not issued");
            Status::internal(error)
        })?;
        desk.counts.jwt_issued.fetch_add(1, Ordering::Relaxed);
        Ok(JwtSvidResponse { svid })
    }
}

/// Lists of revoked certificates if agents hand them on. Longer ones would cost them the whole answer:
/// that is counted, and told once for each state of the authority.
fn short(lists: Vec<Vec<u8>>, desk: &Desk) -> Vec<Vec<u8>> {
    let bytes: usize = lists.iter().map(Vec::len).sum();
    if bytes <= MAX_LISTS {
        return lists;
    }
    desk.counts.lists_not_served.fetch_add(1, Ordering::Relaxed);
    let changes = desk.authority.counters.changes.load(Ordering::Relaxed);
    let state = changes.wrapping_add(1);
    if desk.told_lists.swap(state, Ordering::Relaxed) != state {
        tracing::error!(
            bytes,
            most = MAX_LISTS,
            "agents get no lists of revoked certificates, which are too long: take those away whose certificates have ended"
        );
    }
    Vec::new()
}

impl Answers<BundlesRequest> for IdentityService {
    type Answer = BundlesResponse;

    fn answer(&self, _id: &SpiffeId, request: BundlesRequest) -> Result<BundlesResponse, Status> {
        let BundlesRequest {} = request;
        let desk = &self.0;
        let state = desk.authority.state();
        let roots = state.bundle.certificates().iter();
        let lists = CertificateRevocationListDer::pem_slice_iter(state.lists.pem.as_bytes());
        let own = Bundle {
            x509_authorities: roots.map(|root| root.to_vec()).collect(),
            jwks: desk.jwt_keys.load().jwks().to_vec(),
            // They were written, or read, before.
            crl: short(lists.flatten().map(|list| list.to_vec()).collect(), desk),
        };
        let domain = desk.authenticator.domains.own.to_string();
        let foreign = desk.foreign.load();
        let others = foreign.iter().map(|(domain, bundle)| {
            let roots = bundle.roots.iter().map(|root| root.to_vec());
            let bundle = Bundle {
                x509_authorities: roots.collect(),
                jwks: bundle.jwks.clone(),
                crl: Vec::new(),
            };
            (domain.to_string(), bundle)
        });
        let mut bundles: BTreeMap<String, Bundle> = others.collect();
        bundles.insert(domain, own);
        Ok(BundlesResponse { bundles })
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One call of a method.
struct Method(IdentityService);

impl<Q: Send + Sync + 'static> UnaryService<Q> for Method
where
    IdentityService: Answers<Q>,
    <IdentityService as Answers<Q>>::Answer: Send + 'static,
{
    type Response = <IdentityService as Answers<Q>>::Answer;
    type Future = Answer<Result<Response<Self::Response>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let service = self.0.clone();
        Box::pin(async move {
            let caller = service.caller(&request).await?;
            let answer = service.answer(&caller, request.into_inner());
            answer.map(Response::new)
        })
    }
}

async fn unary<Q>(service: IdentityService, request: http::Request<Body>) -> http::Response<Body>
where
    IdentityService: Answers<Q>,
    Q: Message + Default + 'static,
    <IdentityService as Answers<Q>>::Answer: Message + Default + 'static,
{
    let codec = Reading::<<IdentityService as Answers<Q>>::Answer, Q>::of(&service.0, &request);
    let reader = codec.reader();
    let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), None);
    let answer = grpc.unary(Method(service), request).await;
    reader.look_at(&answer);
    answer
}

impl Service<http::Request<Body>> for IdentityService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            Ok(match request.uri().path() {
                CREATE => unary::<JwtSvidRequest>(service, request).await,
                BUNDLES => unary::<BundlesRequest>(service, request).await,
                _ => Status::unimplemented("no such method").into_http(),
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use weft_model::MeshSettings;

    use super::*;
    use crate::SecureConfig;

    #[test]
    fn lists_that_are_too_long_are_counted_and_told_once_for_each_state() {
        let folder = tempfile::tempdir().expect("a folder");
        let config = SecureConfig::new(folder.path().join("ca"));
        let (desk, _, _) = crate::ca::open(&config, &MeshSettings::default()).expect("made");
        let count = || desk.counts.lists_not_served.load(Ordering::Relaxed);
        let told = || desk.told_lists.load(Ordering::Relaxed);
        let fits = vec![vec![0; MAX_LISTS - 1], vec![0]];
        assert_eq!(short(fits.clone(), &desk), fits);
        assert_eq!((count(), told()), (0, 0));
        for times in 1..3 {
            assert!(short(vec![vec![0; MAX_LISTS], vec![0]], &desk).is_empty());
            assert_eq!((count(), told()), (times, 1));
        }
        let state = desk.authority.state();
        desk.authority.replace((*state).clone());
        assert!(short(vec![vec![0; MAX_LISTS + 1]], &desk).is_empty());
        assert_eq!((count(), told()), (3, 2));
    }
}
