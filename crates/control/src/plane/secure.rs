//! The secure port: TLS, certificates, and streams for nodes that are who their credentials say.
//! Must never know how a view is computed.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use weft_ca::issuer::Subject;
use weft_core::drain::DrainSignal;
use weft_model::MeshSettings;
use weft_xds::server::grpc as ads;

use super::{CONNECTIONS, ControlError, ads_options, bind, listen, stopping, until_late};
use crate::ca::{self, SecureConfig, SecureError};
use crate::core::Core;
use crate::keys::KeyFetch;

/// The secure port before it is opened.
pub(super) struct Secure {
    pub(super) addr: SocketAddr,
    socket: TcpSocket,
    pub(super) desk: Arc<ca::Desk>,
    folder: ca::Folder,
    issuers: Vec<ca::FetchedIssuer>,
    certificate: Arc<ca::ServerCertificate>,
    subject: Subject,
    life: Duration,
    /// When that life began.
    issued: Instant,
}

impl Secure {
    pub(super) async fn open(
        config: Option<&SecureConfig>,
        mesh: &MeshSettings,
    ) -> Result<Option<Self>, ControlError> {
        let Some(config) = config else {
            return Ok(None);
        };
        let socket = bind(config.addr)?;
        let (desk, folder, issuers) = ca::open(config, mesh)?;
        let subject = desk.own_subject(config)?;
        let certificate = Arc::new(ca::ServerCertificate::default());
        let life = certificate.get(&desk, &subject).await;
        Ok(Some(Self {
            addr: socket.local_addr().unwrap_or(config.addr),
            socket,
            life: life.map_err(SecureError::Own)?,
            issued: Instant::now(),
            desk,
            folder,
            issuers,
            certificate,
            subject,
        }))
    }

    pub(super) fn start(
        self,
        tasks: &mut JoinSet<Result<(), ControlError>>,
        core: &Arc<Core>,
        max_connection_age: Option<Duration>,
        keys: KeyFetch,
        drain: &DrainSignal,
    ) -> Result<(), ControlError> {
        let listener = listen(self.socket, self.addr)?;
        let keeping = ca::keep(Arc::clone(&self.desk), self.folder, drain.clone());
        tasks.spawn(async { keeping.await.map_err(ControlError::Part) });
        let tls = ca::acceptor(Arc::clone(&self.certificate));
        let tls = tls.map_err(|error| SecureError::Own(error.to_string()))?;
        let renewing = self.certificate.renew(
            Arc::clone(&self.desk),
            self.subject,
            // It may have been long until the configuration could be read.
            self.life.saturating_sub(self.issued.elapsed()),
            drain.clone(),
        );
        tasks.spawn(async {
            renewing.await;
            Ok(())
        });
        let issuers = self.issuers;
        let following = ca::follow_issuers(Arc::clone(&self.desk), issuers, keys, drain.clone());
        tasks.spawn(async {
            following.await;
            Ok(())
        });
        let serving = ca::serve_workloads(Arc::clone(core), Arc::clone(&self.desk), drain.clone());
        tasks.spawn(async {
            serving.await;
            Ok(())
        });
        let looking = ca::look_again(Arc::clone(core), Arc::clone(&self.desk), drain.clone());
        tasks.spawn(async { looking.await.map_err(ControlError::Part) });
        let counters = Arc::clone(&core.ads);
        let accepted = ca::incoming(
            listener,
            tls,
            CONNECTIONS,
            Arc::clone(&counters),
            Arc::clone(&self.desk),
        );
        let service = ads::service(Arc::clone(core), ads_options(max_connection_age), counters);
        let gated = ca::Gate {
            desk: Arc::clone(&self.desk),
            inner: service,
        };
        let server = ads::server_builder(max_connection_age)
            .add_service(gated)
            .add_service(ca::IdentityService(Arc::clone(&self.desk)))
            .add_service(ca::CertificateService::new(self.desk))
            .serve_with_incoming_shutdown(accepted, stopping(Arc::clone(core), drain.clone()));
        tasks.spawn(until_late(server, drain.clone()));
        tracing::info!(secure_addr = %self.addr, "the secure port serves");
        Ok(())
    }
}
