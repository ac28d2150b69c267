//! The workload's own certificate where this process is its own agent: the secrets `default` and
//! `ROOTCA` come from within, whoever else would have them. Never knows how they were got.

use std::sync::Arc;

use prost::Message as _;
use tokio::sync::watch;
use weft_config::secret::{AGENT_SECRETS, SecretKind};
use weft_config::tls::{TlsCertificate, TlsValidation};
use weft_config::{AdsConfig, DataSource, Secret};
use weft_core::metrics::Registry;
use weft_proto::pb::envoy::config::core::v3::{
    DataSource as DataSourceMessage, data_source::Specifier,
};
use weft_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use zeroize::Zeroize as _;

use super::resources::Resources;
use crate::admin::Kind;

/// In place of keys.
const REDACTED: &str = "[redacted]";

/// A certificate with its key, and whom its holder trusts. All in PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct WorkloadSecrets {
    /// The certificate, then its issuers.
    pub chain: Arc<[u8]>,
    /// The key: bytes that are wiped when the last copy goes ([`DataSource::wiped`]).
    pub key: DataSource,
    /// The mesh's roots.
    pub roots: Arc<[u8]>,
    /// The certificate's serial number, for the dump.
    pub serial: String,
    /// PEM file of lists of revoked certificates, which counts while it is there.
    pub crl_file: Option<Arc<str>>,
}

impl WorkloadSecrets {
    /// The file of lists, if it is there.
    pub(super) fn lists(&self) -> Option<&Arc<str>> {
        let file = self.crl_file.as_ref();
        file.filter(|file| std::path::Path::new(&***file).is_file())
    }
}

impl std::fmt::Debug for WorkloadSecrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "WorkloadSecrets({})", self.serial)
    }
}

/// Whence they come, and who counts that.
pub struct OwnIdentity {
    /// The latest ones; `None` until there are any.
    pub secrets: watch::Receiver<Option<WorkloadSecrets>>,
    /// Shows the agent's metrics.
    pub register: Box<dyn FnOnce(&Registry) + Send>,
    /// Is told why the control plane ended a stream, or took none.
    pub refused: Box<dyn Fn(&str) + Send>,
}

/// The same at work.
pub(super) struct Own {
    pub(super) secrets: watch::Receiver<Option<WorkloadSecrets>>,
    pub(super) refused: Box<dyn Fn(&str) + Send>,
}

impl OwnIdentity {
    pub(super) fn registered(self, registry: &Registry) -> Own {
        (self.register)(registry);
        Own {
            secrets: self.secrets,
            refused: self.refused,
        }
    }
}

impl std::fmt::Debug for OwnIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("OwnIdentity")
    }
}

/// The secrets as they change; for ever pending without an agent, or when it has ended.
pub(super) async fn next(own: &mut Option<Own>) -> Option<WorkloadSecrets> {
    match own {
        Some(own) => match own.secrets.changed().await {
            Ok(()) => own.secrets.borrow_and_update().clone(),
            Err(_) => std::future::pending().await,
        },
        None => std::future::pending().await,
    }
}

impl Resources {
    /// Whether the way to the control plane waits for the first certificate.
    pub(super) fn ads_waits(&self, ads: &AdsConfig) -> bool {
        let secrets = self.clusters.secrets();
        let all = self.clusters.statuses();
        let mut used = all
            .iter()
            .filter(|cluster| ads.clusters.contains(&cluster.config.name));
        used.any(|cluster| {
            let mut contexts = cluster.config.tls_contexts();
            contexts.any(|tls| !secrets.has_all(&tls.context))
        })
    }

    /// Puts a new certificate in force, roots first: connections that were made before stay.
    pub(super) fn set_own_secrets(&mut self, own: &WorkloadSecrets) {
        let [default, roots] = AGENT_SECRETS;
        let inline = |bytes: &Arc<[u8]>| DataSource::Inline(bytes.to_vec().into());
        let lists = own.lists().map(|path| DataSource::File {
            path: Arc::clone(path),
            watched_directory: None,
        });
        let validation = TlsValidation {
            trusted_ca: Some(inline(&own.roots)),
            crl: lists,
            ..TlsValidation::default()
        };
        let certificate = TlsCertificate {
            chain: inline(&own.chain),
            key: own.key.clone(),
        };
        let secrets = [
            (roots, SecretKind::Validation(Arc::new(validation))),
            (default, SecretKind::Certificate(Arc::new(certificate))),
        ];
        for (name, kind) in secrets {
            let name: Arc<str> = name.into();
            let secret = Secret {
                name: Arc::clone(&name),
                kind,
            };
            if let Err(error) = self.apply_secret(&Arc::new(secret)) {
                tracing::error!(
                    error,
                    "a secret of the agent is not used; the last good one stays"
                );
                continue;
            }
            // A file that is new is to be looked at.
            self.certificate_files.stale = true;
            let body = shown(&name, own).encode_to_vec();
            self.admin
                .dump
                .set_dynamic(Kind::Secret, &name, &own.serial, body);
        }
    }
}

/// A secret for the dump, in which keys do not lie even unseen: they would stay in memory. Empty for
/// what is no secret.
pub(super) fn without_key(body: &[u8]) -> Vec<u8> {
    let Ok(mut message) = tls::Secret::decode(body) else {
        return Vec::new();
    };
    if let Some(tls::secret::Type::TlsCertificate(certificate)) = &mut message.r#type
        && let Some(key) = &mut certificate.private_key
    {
        match &mut key.specifier {
            Some(Specifier::InlineBytes(bytes)) => {
                bytes.zeroize();
                *bytes = REDACTED.into();
            }
            Some(Specifier::InlineString(text)) => {
                text.zeroize();
                *text = REDACTED.into();
            }
            _ => {}
        }
    }
    message.encode_to_vec()
}

/// What the dump shows: never the key, not even in memory.
fn shown(name: &str, own: &WorkloadSecrets) -> tls::Secret {
    let inline = |bytes: Vec<u8>| DataSourceMessage {
        specifier: Some(Specifier::InlineBytes(bytes)),
        ..DataSourceMessage::default()
    };
    let kind = if name == AGENT_SECRETS[0] {
        tls::secret::Type::TlsCertificate(tls::TlsCertificate {
            certificate_chain: Some(inline(own.chain.to_vec())),
            private_key: Some(inline(REDACTED.into())),
            ..tls::TlsCertificate::default()
        })
    } else {
        tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
            trusted_ca: Some(inline(own.roots.to_vec())),
            crl: own.lists().map(|path| DataSourceMessage {
                specifier: Some(Specifier::Filename(path.to_string())),
                ..DataSourceMessage::default()
            }),
            ..tls::CertificateValidationContext::default()
        })
    };
    tls::Secret {
        name: name.to_owned(),
        r#type: Some(kind),
    }
}
