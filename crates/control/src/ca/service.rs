//! `istio.v1.auth.IstioCertificateService`: workloads send a certificate request and get a
//! certificate for who they are. Must never know how callers are recognized, nor how is signed.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::body::Body;
use tonic::codegen::Service;
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use weft_ca::authn::Method;
use weft_ca::issuer::Subject;
use weft_ca::{Caller, Csr, Issued, Refusal, SignError};
use weft_proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse};

use super::codec::Reading;
use super::gate::{self, credentials};
use super::{Desk, SIGN_ERRORS, journal};

const NAME: &str = "istio.v1.auth.IstioCertificateService";
const CREATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";
/// Bytes of a request.
const MAX_MESSAGE: usize = 64 * 1024;
/// Requests that are worked on at once.
const AT_ONCE: usize = 256;
/// Time for a signature.
const SIGN: Duration = Duration::from_secs(10);
/// Entries of the metadata with which Istio asks for what is not done here.
const IMPERSONATED: &str = "ImpersonatedIdentity";
const SIGNER: &str = "CertSigner";

/// The service, for the secure port.
#[derive(Clone)]
pub(crate) struct CertificateService {
    desk: Arc<Desk>,
    places: Arc<Semaphore>,
}

impl CertificateService {
    pub(crate) fn new(desk: Arc<Desk>) -> Self {
        Self {
            desk,
            places: Arc::new(Semaphore::new(AT_ONCE)),
        }
    }

    async fn create(
        self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let counts = &self.desk.counts;
        counts.requests.fetch_add(1, Ordering::Relaxed);
        let (credentials, peer) = credentials(request.metadata(), request.extensions());
        let (desk, shown) = (Arc::clone(&self.desk), credentials);
        // Whom nobody knows yet takes no place from others, but that of a file.
        let mut place = None;
        let caller = if shown.has_join_token() {
            place = Some(self.place()?);
            let found =
                tokio::task::spawn_blocking(move || desk.authenticate(&shown, peer.address));
            let ended = |_| Status::internal("authentication ended");
            found.await.map_err(ended)?
        } else {
            // Shorter than the way to another thread and back.
            desk.believe(&shown, &peer).await
        };
        let unauthenticated =
            |refusal: &Refusal| gate::refused(refusal, "request authenticate failure");
        let caller = caller.map_err(|refusal| unauthenticated(&refusal))?;
        peer.believe();
        let _place = match place {
            Some(place) => place,
            None => self.place()?,
        };
        let IstioCertificateRequest {
            csr,
            validity_duration,
            metadata,
        } = request.into_inner();
        for key in metadata.iter().flat_map(|metadata| metadata.fields.keys()) {
            match key.as_str() {
                IMPERSONATED => {
                    let refusal = Refusal::Impersonation(caller.id.clone());
                    self.desk.refused(&refusal, peer.address);
                    return Err(Status::unauthenticated(
                        "request impersonation authentication failure",
                    ));
                }
                SIGNER => {
                    return Err(Status::invalid_argument(
                        "metadata.CertSigner: there is one signer; leave it away",
                    ));
                }
                _ => {}
            }
        }
        let csr = Csr::from_pem(csr.as_bytes()).map_err(|error| error.to_string());
        let csr = csr.and_then(|csr| is_for(&caller, csr)).map_err(|error| {
            counts.bad_requests.fetch_add(1, Ordering::Relaxed);
            tracing::warn!(identity = %caller.id, error, "a certificate request is refused");
            Status::invalid_argument(format!("CSR signing error ({error})"))
        })?;
        let asked = u64::try_from(validity_duration)
            .ok()
            .map(Duration::from_secs);
        self.check_lifetime(&caller, asked)?;
        let issued = self.sign(&caller, csr, asked).await?;
        if matches!(caller.method, Method::Join(_)) {
            let (desk, spender) = (Arc::clone(&self.desk), caller.clone());
            // It is used up when the certificate is there: a signer that is away costs nobody a token.
            // Of two that use it at once, one gets its certificate.
            let spent = tokio::task::spawn_blocking(move || desk.authenticator.spend(&spender));
            let spent = spent.await;
            let spent = spent.map_err(|_| Status::internal("authentication ended"))?;
            spent.map_err(|refusal| {
                self.desk.refused(&refusal, peer.address);
                unauthenticated(&refusal)
            })?;
        }
        counts.issued.fetch_add(1, Ordering::Relaxed);
        journal::issued(&caller.id, &issued, caller.method.name(), peer.address);
        let mut cert_chain = issued.pem();
        let roots = self.desk.authority.state();
        cert_chain.push(String::from_utf8_lossy(roots.bundle.pem()).into_owned());
        Ok(Response::new(IstioCertificateResponse { cert_chain }))
    }

    /// One of the places for requests that are worked on.
    fn place(&self) -> Result<SemaphorePermit<'_>, Status> {
        self.places.try_acquire().map_err(|_| {
            self.desk.counts.overflow.fetch_add(1, Ordering::Relaxed);
            Status::resource_exhausted("too many certificate requests at once; try again")
        })
    }

    fn check_lifetime(&self, caller: &Caller, asked: Option<Duration>) -> Result<(), Status> {
        let checked = self.desk.authority.lifetime(asked);
        let checked = checked.map(|_| ());
        checked.map_err(|error| self.unsigned(caller, &error))
    }

    async fn sign(
        &self,
        caller: &Caller,
        csr: Csr,
        asked: Option<Duration>,
    ) -> Result<Issued, Status> {
        let authority = &self.desk.authority;
        let subject = Subject::from(caller.id.clone());
        let issued = authority.issue(csr, subject, asked, SystemTime::now());
        let issued = tokio::time::timeout(SIGN, issued).await;
        let issued = issued.map_err(|_| {
            let late = SignError::NotReady("the signer does not answer".to_owned());
            self.unsigned(caller, &late)
        })?;
        issued.map_err(|error| self.unsigned(caller, &error))
    }

    fn unsigned(&self, caller: &Caller, error: &SignError) -> Status {
        let counted = SIGN_ERRORS.iter().zip(&self.desk.counts.unsigned);
        for (_, count) in counted.filter(|(kind, _)| **kind == error.kind()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        tracing::warn!(identity = %caller.id, %error, "a certificate is not issued");
        let hint = match error {
            SignError::Lifetime { .. } => {
                "; ask for less (SECRET_TTL, --secret-ttl), or the authority for more (--max-workload-cert-ttl)"
            }
            SignError::NotReady(_) | SignError::Sign(_) => "",
        };
        let text = format!("CSR signing error ({error}{hint})");
        match error {
            SignError::NotReady(_) => Status::unavailable(text),
            SignError::Lifetime { .. } => Status::invalid_argument(text),
            SignError::Sign(_) => Status::internal(text),
        }
    }
}

/// A join token is good once: a certificate that its user takes for somebody else's, and throws away,
/// is not to cost it. What others name is not read.
fn is_for(caller: &Caller, csr: Csr) -> Result<Csr, String> {
    if matches!(caller.method, Method::Join(_))
        && let Some(named) = csr.named()
        && named.of_workload() != caller.id.of_workload()
    {
        return Err(format!(
            "it is for {named}, and the join token, which is not used up, for {}",
            caller.id
        ));
    }
    Ok(csr)
}

impl NamedService for CertificateService {
    const NAME: &'static str = NAME;
}

type Answer<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl UnaryService<IstioCertificateRequest> for CertificateService {
    type Response = IstioCertificateResponse;
    type Future = Answer<Result<Response<IstioCertificateResponse>, Status>>;

    fn call(&mut self, request: Request<IstioCertificateRequest>) -> Self::Future {
        Box::pin(self.clone().create(request))
    }
}

impl Service<http::Request<Body>> for CertificateService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Answer<Result<http::Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != CREATE {
                return Ok(Status::unimplemented("no such method").into_http());
            }
            let desk = Arc::clone(&service.desk);
            let codec =
                Reading::<IstioCertificateResponse, IstioCertificateRequest>::of(&desk, &request);
            let reader = codec.reader();
            let mut grpc = Grpc::new(codec).apply_max_message_size_config(Some(MAX_MESSAGE), None);
            let answer = grpc.unary(service, request).await;
            reader.look_at(&answer);
            Ok(answer)
        })
    }
}
