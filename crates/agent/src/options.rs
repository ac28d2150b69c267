//! What an agent is told.

use std::path::PathBuf;
use std::time::Duration;

use weft_ca::{KeyKind, SpiffeId};
use weft_net::tls::{Pem, TlsError};

use crate::credentials::TokenSource;
use crate::plan::Schedule;

/// By which roots the authority is checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Roots {
    /// Those of this PEM file, which is read with each call.
    File(PathBuf),
    /// Those that the system trusts.
    System,
}

impl Roots {
    /// The roots in PEM.
    ///
    /// # Errors
    /// Names the file.
    pub fn read(&self) -> Result<Pem, TlsError> {
        match self {
            Self::System => Pem::system(),
            Self::File(path) => Pem::read(&path.display().to_string()),
        }
    }
}

/// See the module.
#[derive(Debug)]
pub struct AgentOptions {
    /// Where the authority is: `host:port` (`CA_ADDR`).
    pub address: String,
    /// Name or address that its certificate must have (`ISTIOD_SAN`, else the host).
    pub server_name: String,
    /// See [`Roots`] (`CA_ROOT_CA`).
    pub roots: Roots,
    /// Says who the workload is, before it has a certificate.
    pub token: Option<TokenSource>,
    /// Folder with `cert-chain.pem` and `key.pem` that say so, too (`PROV_CERT`).
    pub provisioned: Option<PathBuf>,
    /// Folder into which certificate, key and roots are written (`OUTPUT_CERTS`).
    pub output: Option<PathBuf>,
    /// Kind of key.
    pub key: KeyKind,
    /// How long a certificate is to last (`SECRET_TTL`); as long as the authority likes if it is not
    /// said.
    pub lifetime: Option<Duration>,
    /// When it is renewed.
    pub schedule: Schedule,
    /// Whom it must name; any workload otherwise.
    pub id: Option<SpiffeId>,
    /// Cluster of the workload, by which istiod finds who checks its token.
    pub cluster_id: Option<String>,
}

impl AgentOptions {
    /// What an operator can do where nothing says who the workload is.
    pub(crate) fn without_credentials(&self) -> String {
        let token = match &self.token {
            Some(TokenSource::File(path)) => {
                format!("no token in {} (--token-file)", path.display())
            }
            _ => "no token (--token-file)".to_owned(),
        };
        let provisioned = match &self.provisioned {
            Some(path) => format!(
                "no cert-chain.pem with key.pem in {} (--prov-cert)",
                path.display()
            ),
            None => "no --prov-cert".to_owned(),
        };
        format!(
            "nothing says who this workload is: there is no valid certificate, {token} nor in WEFT_JOIN_TOKEN, and {provisioned}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_nothing_to_show_is_told_where_it_may_lie() {
        let mut options = AgentOptions {
            address: "127.0.0.1:15012".to_owned(),
            server_name: "127.0.0.1".to_owned(),
            roots: Roots::System,
            token: Some(TokenSource::File("tokens/one".into())),
            provisioned: None,
            output: None,
            key: KeyKind::default(),
            lifetime: None,
            schedule: Schedule::default(),
            id: None,
            cluster_id: None,
        };
        let told = options.without_credentials();
        for part in [
            "tokens/one (--token-file)",
            "WEFT_JOIN_TOKEN",
            "no --prov-cert",
        ] {
            assert!(told.contains(part), "{told}");
        }
        options.provisioned = Some("certs".into());
        let told = options.without_credentials();
        assert!(told.contains("key.pem in certs (--prov-cert)"), "{told}");
    }
}
