//! Connections of the secure port. Certificates of callers are wanted, and judged later by the
//! authenticator, so that a refusal has a reason in log and metric; the handshake proves that the
//! caller has the key. Must never know who may do what.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use weft_xds::server::grpc::{self as ads, Admitted, Carrier, Counters};

use super::{Desk, ServerCertificate};

/// A handshake must be over within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that wait for the server after their handshake.
const WAITING: usize = 64;

/// Where a call comes from, and the certificates whose key its connection has proved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
}

/// TLS with this certificate, for HTTP/2.
pub(crate) fn acceptor(certificate: Arc<ServerCertificate>) -> Result<TlsAcceptor, rustls::Error> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = Arc::new(Want {
        algorithms: provider.signature_verification_algorithms,
    });
    let mut config = ServerConfig::builder_with_provider(Arc::<CryptoProvider>::clone(&provider))
        .with_safe_default_protocol_versions()?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(certificate);
    config.alpn_protocols = vec![b"h2".to_vec()];
    // A resumed session would bring back a certificate that was judged long ago.
    config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Wants certificates, and believes none.
#[derive(Debug)]
struct Want {
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Want {
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        // The authenticator does, with every call.
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

/// A connection after its handshake.
pub(crate) type Secured = Carrier<TlsStream<Admitted>, Peer>;

/// Accepts at most `limit` connections at once, and gives those whose handshake succeeds.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: TlsAcceptor,
    limit: usize,
    counters: Arc<Counters>,
    desk: Arc<Desk>,
) -> ReceiverStream<io::Result<Secured>> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::spawn(async move {
        let mut accepted = pin!(ads::incoming(listener, limit, counters));
        loop {
            let next = tokio::select! {
                next = accepted.next() => next,
                () = sender.closed() => return,
            };
            let Some(Ok(admitted)) = next else { return };
            let (tls, sender, desk) = (tls.clone(), sender.clone(), Arc::clone(&desk));
            // As many at once as connections.
            tokio::spawn(async move {
                let address = admitted.connect_info().remote_addr();
                let shaken = tokio::time::timeout(HANDSHAKE, tls.accept(admitted)).await;
                let problem = match shaken {
                    Ok(Ok(stream)) => {
                        let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
                        let peer = Peer {
                            address,
                            chain: chain.iter().cloned().collect(),
                        };
                        // The server may be about to end.
                        let _ = sender.send(Ok(Carrier::new(stream, peer))).await;
                        return;
                    }
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "it took too long".to_owned(),
                };
                desk.counts.handshakes.fetch_add(1, Ordering::Relaxed);
                tracing::debug!(?address, problem, "TLS handshake of the secure port");
            });
        }
    });
    ReceiverStream::new(receiver)
}
