//! The certificate authority of the mesh: roots and intermediates, requests, X.509-SVIDs, trust
//! bundles, revocation. Reads files of its own folders and nothing else; never knows sockets, gRPC
//! or xDS, and no clock: time is an argument.
//!
//! ```text
//! folder (own root or plugged intermediate) → Issuer ┐
//!                          external signer ──────────┴→ Authority → certificates of a SpiffeId
//! ```
//!
//! Invariants:
//! - What a request asks for besides its key is not believed: who was authenticated decides.
//! - A certificate has one URI name, cannot sign others, and outlives neither its issuer nor the
//!   longest lifetime allowed.
//! - A folder that is broken keeps the last good authority in force.
//! - Keys are wiped from memory, never printed, and lie in files that only their owner reads. What
//!   decoders of PEM and libraries copy while they work is theirs to wipe.
//! - Of processes that share a folder one changes it at a time.
//!
//! Sources: SPIFFE-ID, X509-SVID (spiffe.io), RFC 5280, RFC 2986; file names and lifetimes of
//! Istio's authority.

pub mod authn;
pub mod authority;
pub mod bundle;
pub mod csr;
mod disk;
pub mod federation;
pub mod issuer;
pub mod jwt_keys;
pub mod jwt_svid;
pub mod key;
mod lists;
pub mod own;
mod pem;
pub mod plugged;
pub mod received;
mod renewal;
pub mod revoked;
pub mod roots;
pub mod rotation;
pub mod signer;
pub mod spiffe;

pub use authn::{Authenticator, Caller, Credentials, Refusal};
pub use authority::{Authority, Lifetimes};
pub use bundle::TrustBundle;
pub use csr::{Csr, CsrError};
pub use federation::{FederatedFolder, ForeignBundles};
pub use issuer::{Issued, Issuer, SignError};
pub use jwt_keys::{JwtFolder, JwtKeys};
pub use jwt_svid::JwtSvid;
pub use key::{KeyKind, KeyPair};
pub use own::OwnFolder;
pub use plugged::PluggedFolder;
pub use received::Received;
pub use renewal::renewal;
pub use revoked::Revoked;
pub use roots::RootsFolder;
pub use signer::{ExternalSigner, SigningRequest};
pub use spiffe::{SpiffeId, TrustDomain};

/// Certificates begin so long before they are issued, since clocks differ; as in Istio.
pub const CLOCK_SKEW: std::time::Duration = std::time::Duration::from_mins(2);

/// Why a file or folder of an authority cannot be used. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The system refuses.
    #[error("{path}: {source}")]
    File {
        /// The file or folder.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// What is in a file cannot be used.
    #[error("{path}: {problem}")]
    Content {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// Others than the owner may read a private key.
    #[error("{path}: others than its owner may read this private key; chmod 600 it")]
    Readable {
        /// The file.
        path: String,
    },
    /// A key or certificate cannot be made.
    #[error("making a certificate: {0}")]
    Make(String),
}

impl AuthorityError {
    fn content(path: &std::path::Path, problem: impl Into<String>) -> Self {
        Self::Content {
            path: path.display().to_string(),
            problem: problem.into(),
        }
    }
}
