//! Secrets as SDS delivers them. Never reads key files.

use std::sync::Arc;

use crate::error::{ConfigError, Loaded};
use crate::pass::{Context, Pass};
use crate::pb;
use crate::tls::{TlsCertificate, TlsValidation, convert as tls};
use pb::extensions::transport_sockets::tls::v3 as messages;

/// Secrets that a process which is its own agent has: its certificate, and the mesh's authorities.
pub const AGENT_SECRETS: [&str; 2] = ["default", "ROOTCA"];

/// A named secret.
#[derive(Debug, Clone, PartialEq)]
pub struct Secret {
    /// Resource name.
    pub name: Arc<str>,
    /// What it holds.
    pub kind: SecretKind,
}

/// What a secret holds; other kinds of Envoy are refused.
#[derive(Debug, Clone, PartialEq)]
pub enum SecretKind {
    /// A certificate with its key.
    Certificate(Arc<TlsCertificate>),
    /// Roots and names to verify a peer with.
    Validation(Arc<TlsValidation>),
}

impl Secret {
    /// Compiles Envoy's message.
    pub fn from_proto(
        message: &messages::Secret,
        context: &Context,
    ) -> Result<Loaded<Self>, ConfigError> {
        Pass::run(context, format!("secret {}", message.name), |p| {
            secret(p, message)
        })
    }
}

pub(crate) fn secret(p: &mut Pass<'_>, message: &messages::Secret) -> Option<Secret> {
    use messages::secret::Type;
    let messages::Secret { name, r#type } = message;
    let name = p.name("name", name)?;
    let kind = match r#type {
        Some(Type::TlsCertificate(certificate)) => SecretKind::Certificate(Arc::new(
            p.at("tls_certificate", |p| tls::certificate(p, certificate))?,
        )),
        Some(Type::ValidationContext(validation)) => SecretKind::Validation(Arc::new(
            p.at("validation_context", |p| tls::validation(p, validation))?,
        )),
        Some(Type::SessionTicketKeys(_)) => {
            p.unsupported("session_ticket_keys", true);
            return None;
        }
        Some(Type::GenericSecret(_)) => {
            p.unsupported("generic_secret", true);
            return None;
        }
        None => {
            p.refuse("needs one of tls_certificate, validation_context");
            return None;
        }
    };
    Some(Secret { name, kind })
}
