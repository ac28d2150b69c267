//! Connections of the secure port. Certificates of callers are wanted, and judged later by the
//! authenticator, so that a refusal has a reason in log and metric; the handshake proves that the
//! caller has the key. Must never know who may do what.

use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms};
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::Sleep;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::Connected;
use weft_xds::server::grpc::{self as ads, Admitted, Carrier, Counters};

use super::gather::Gather;
use super::{Desk, ServerCertificate};

/// A handshake must be over within this time.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections that wait for the server after their handshake.
const WAITING: usize = 64;

/// A connection must make a call that is believed within this time: strangers are not to fill the
/// port's places.
const PROOF: Duration = Duration::from_secs(20);

/// Where a call comes from, and the certificates whose key its connection has proved.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    pub(crate) address: Option<SocketAddr>,
    pub(crate) chain: Arc<[CertificateDer<'static>]>,
    believed: Arc<AtomicBool>,
    /// Tokens of the connection that others were asked about in vain.
    doubted: Arc<AtomicU32>,
}

/// Tokens of a connection of which none was believed that others are asked about.
const MAX_DOUBTED: u32 = 3;

impl Peer {
    /// Whether others are to be asked about a token of the connection; counts it.
    pub(super) fn may_be_reviewed(&self) -> bool {
        self.believed.load(Ordering::Relaxed)
            || self.doubted.fetch_add(1, Ordering::Relaxed) < MAX_DOUBTED
    }

    /// A call of the connection is believed, so that it may stay.
    pub(super) fn believe(&self) {
        self.believed.store(true, Ordering::Relaxed);
    }
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
pub(crate) type Secured = Carrier<Probation<Gather<TlsStream<Admitted>>>, Peer>;

/// A connection that ends unless a call of it is believed in time.
pub(crate) struct Probation<S> {
    stream: S,
    believed: Arc<AtomicBool>,
    /// Gone when it is over.
    left: Option<Pin<Box<Sleep>>>,
    failed: bool,
    desk: Arc<Desk>,
}

impl<S> Probation<S> {
    fn new(stream: S, peer: &Peer, desk: Arc<Desk>, time: Duration) -> Self {
        Self {
            stream,
            believed: Arc::clone(&peer.believed),
            left: Some(Box::pin(tokio::time::sleep(time))),
            failed: false,
            desk,
        }
    }

    /// Fails when it is over and nobody was believed. Both directions ask: a connection that cannot write does
    /// not read.
    fn look(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        if let Some(left) = &mut self.left
            && left.as_mut().poll(context).is_ready()
        {
            self.left = None;
            self.failed = !self.believed.load(Ordering::Relaxed);
            if self.failed {
                self.desk.counts.unproved.fetch_add(1, Ordering::Relaxed);
            }
        }
        if self.failed {
            let text = "no call was believed in time";
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Ok(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Probation<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.look(context)?;
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Probation<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.look(context)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.look(context)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.look(context)?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

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
                            believed: Arc::default(),
                            doubted: Arc::default(),
                        };
                        let stream = Probation::new(Gather::new(stream), &peer, desk, PROOF);
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use weft_model::MeshSettings;

    use super::*;
    use crate::ca::{SecureConfig, open};

    const TIME: Duration = Duration::from_millis(50);

    fn desk(folder: &std::path::Path) -> Arc<Desk> {
        let config = SecureConfig::new(folder.join("ca"));
        let opened = open(&config, &MeshSettings::default());
        let (desk, _, _) = opened.expect("an authority");
        desk
    }

    #[tokio::test]
    async fn who_makes_no_call_that_is_believed_loses_the_connection() {
        let folder = tempfile::tempdir().expect("a folder");
        let desk = desk(folder.path());
        let unproved = || desk.counts.unproved.load(Ordering::Relaxed);
        for believed in [false, true] {
            let (mut client, server) = tokio::io::duplex(64);
            let peer = Peer::default();
            let mut server = Probation::new(server, &peer, Arc::clone(&desk), TIME);
            client.write_all(b"a").await.expect("written");
            assert_eq!(server.read_u8().await.expect("it has time"), b'a');
            if believed {
                peer.believe();
            }
            let read = tokio::time::timeout(4 * TIME, server.read_u8()).await;
            if believed {
                assert!(read.is_err(), "it stays open: {read:?}");
            } else {
                let error = read.expect("in time").expect_err("closed");
                assert_eq!(error.kind(), io::ErrorKind::TimedOut);
            }
            assert_eq!(unproved(), 1);
        }
    }
}
