//! How a proxy comes by certificates of the mesh, as its node says it. Must never know what is
//! generated from it.

use std::sync::Arc;

use crate::node::NodeError;

/// Whence a proxy's certificates are. Nothing is the default: there is no identity, and no
/// mutual TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Identity {
    /// An agent beside the proxy serves them over SDS, as Istio's does (metadata `ISTIO_VERSION`); or
    /// the proxy is its own agent, as ours can be (metadata `WEFT_AGENT`).
    pub agent: bool,
    /// The control plane serves them over SDS: the proxy's stream has proved who it is.
    pub served: bool,
    /// A server of credentials listens beside the proxy (metadata `credential`).
    pub credential_socket: bool,
    /// Files for connections that it takes (metadata `TLS_SERVER_…`).
    pub server: Option<CertificateFiles>,
    /// Files for connections that it makes (metadata `TLS_CLIENT_…`).
    pub client: Option<CertificateFiles>,
}

/// PEM files, as the proxy sees them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// Certificate chain.
    pub chain: Arc<str>,
    /// Private key.
    pub key: Arc<str>,
    /// Authorities of the other side; `None`: those that the agent knows.
    pub authorities: Option<Arc<str>>,
}

const SERVER: [&str; 3] = [
    "TLS_SERVER_CERT_CHAIN",
    "TLS_SERVER_KEY",
    "TLS_SERVER_ROOT_CERT",
];
const CLIENT: [&str; 3] = [
    "TLS_CLIENT_CERT_CHAIN",
    "TLS_CLIENT_KEY",
    "TLS_CLIENT_ROOT_CERT",
];

impl Identity {
    /// Reads it from metadata.
    pub(crate) fn read(text: impl Fn(&str) -> Option<String>) -> Result<Self, NodeError> {
        let agent = text("ISTIO_VERSION").is_some()
            || text("WEFT_AGENT").is_some_and(|said| said == "true");
        let files = |names: [&'static str; 3]| {
            let [chain, key, root] = names.map(|name| text(name).map(Arc::from));
            match (chain, key, root) {
                (None, None, None) => Ok(None),
                (Some(chain), Some(key), authorities) if agent || authorities.is_some() => {
                    Ok(Some(CertificateFiles {
                        chain,
                        key,
                        authorities,
                    }))
                }
                _ => Err(NodeError::Metadata {
                    key: names[0],
                    problem: format!(
                        "{} belong together: write all of them, or none",
                        names.join(", ")
                    ),
                }),
            }
        };
        Ok(Self {
            agent,
            served: false,
            credential_socket: text("credential").is_some_and(|said| said == "true"),
            server: files(SERVER)?,
            client: files(CLIENT)?,
        })
    }

    /// Whether it has a certificate for connections that it takes.
    pub fn serves(&self) -> bool {
        self.agent || self.served || self.server.is_some()
    }

    /// Whether it has a certificate for connections that it makes.
    pub fn calls(&self) -> bool {
        self.agent || self.served || self.client.is_some()
    }

    /// What of it clusters depend on.
    pub(crate) fn of_client(&self) -> Self {
        Self {
            server: None,
            ..self.clone()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Identity, NodeError> {
        Identity::read(|name| {
            let mut found = pairs.iter().filter(|(key, _)| *key == name);
            found.next().map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn files_come_together_or_not_at_all() {
        let none = read(&[]).expect("valid");
        assert!(!none.serves() && !none.calls());
        let all = [
            ("TLS_SERVER_CERT_CHAIN", "/c"),
            ("TLS_SERVER_KEY", "/k"),
            ("TLS_SERVER_ROOT_CERT", "/r"),
        ];
        let server = read(&all).expect("valid");
        assert!(server.serves() && !server.calls());
        let error = read(&all[..2]).expect_err("no authorities").to_string();
        assert!(error.contains("TLS_SERVER_ROOT_CERT"), "{error}");
        let agent = [&all[..2], &[("ISTIO_VERSION", "1.32.0")]].concat();
        let agent = read(&agent).expect("the agent knows the authorities");
        assert!(agent.serves() && agent.calls());
        let own = read(&[("WEFT_AGENT", "true")]).expect("valid");
        assert!(own.agent && own.serves() && own.calls());
        let error = read(&[("TLS_CLIENT_KEY", "/k")]).expect_err("no chain");
        assert!(error.to_string().contains("TLS_CLIENT_CERT_CHAIN"));
    }
}
