//! Identities on the command line: the flags of the certificate authority, `weft token` and `weft ca`.
//! Must never know how certificates are made.

use std::io::Write;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, Subcommand};
use weft_ca::authn::JoinTokens;
use weft_ca::{KeyKind, Lifetimes, OwnFolder};
use weft_control::{ReviewConfig, SecureConfig, SignerConfig};

use crate::Failure;
use crate::cli::Interval;

/// Where Kubernetes puts a Pod's token, and the roots of its API.
const REVIEW_TOKEN: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";
const REVIEW_ROOTS: &str = "/var/run/secrets/kubernetes.io/serviceaccount/ca.crt";

/// Flags of `weft control`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Identities")]
pub(crate) struct SecureArgs {
    /// Folder of the certificate authority, which is made if it is missing: its roots and join
    /// tokens. With it workloads get identities, and the secure port is opened
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// Folder with an intermediate that signs in place of own roots, in files with Istio's names:
    /// ca-cert.pem, ca-key.pem, cert-chain.pem, root-cert.pem. It is read again when they change
    #[arg(long, value_name = "DIR", requires = "ca_dir")]
    ca_certs: Option<PathBuf>,
    /// An external signer that signs in place of own roots (`weft.identity.v1.SignerService`):
    /// `https://host:port`, `http://127.0.0.1:port`, or `unix:///path`
    #[arg(
        long,
        value_name = "URL",
        requires = "ca_signer_roots",
        conflicts_with = "ca_certs"
    )]
    ca_signer: Option<String>,
    /// Folder with the roots of what the external signer signs: root-cert.pem, and ca-crl.pem if there
    /// is one. It is read again when they change
    #[arg(long, value_name = "DIR", requires_all = ["ca_signer", "ca_dir"])]
    ca_signer_roots: Option<PathBuf>,
    /// Folder with root-cert.pem, by which the external signer is checked, and cert-chain.pem with
    /// key.pem, if it wants a certificate. They are read for each connection
    #[arg(long, value_name = "DIR", requires = "ca_signer")]
    ca_signer_tls: Option<PathBuf>,
    /// Where proxies and agents connect with TLS, for xDS and for certificates
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:15012")]
    secure_grpc_addr: SocketAddr,
    /// A DNS name or address by which they call the secure port, besides istiod.istio-system.svc,
    /// localhost and the address itself; may be given several times
    #[arg(long, value_name = "NAME", requires = "ca_dir")]
    secure_grpc_name: Vec<String>,
    /// Kind of key of a root that is made: p256, p384, rsa2048, rsa3072, rsa4096
    #[arg(long, value_name = "KIND", default_value_t)]
    ca_root_key: KeyKind,
    /// How long certificates last unless the workload asks for another time
    #[arg(
        long,
        value_name = "TIME",
        default_value = "24h",
        env = "DEFAULT_WORKLOAD_CERT_TTL"
    )]
    workload_cert_ttl: Interval,
    /// The longest time that a workload may ask for
    #[arg(
        long,
        value_name = "TIME",
        default_value = "2160h",
        env = "MAX_WORKLOAD_CERT_TTL"
    )]
    max_workload_cert_ttl: Interval,
    /// How long a new root of the control plane's own is trusted before it signs. A workload that has asked for no
    /// certificate meanwhile does not know it; one asks again at half of its certificate's life. As long as the
    /// longest certificate lasts unless said
    #[arg(long, value_name = "TIME", requires = "ca_dir")]
    ca_root_spread: Option<Interval>,
    /// How long a JWT-SVID lasts unless its workload asks for another time; 1h at most
    #[arg(long, value_name = "TIME", default_value = "5m")]
    jwt_svid_ttl: Interval,
    /// File of issuers whose tokens get certificates: `jwtRules` with issuer, audiences and jwks or jwksUri, as
    /// in a `RequestAuthentication`
    #[arg(long, value_name = "FILE", requires = "ca_dir")]
    token_issuers: Option<PathBuf>,
    /// Folder with SPIFFE bundles of other trust domains, as example.org.json, which applications get
    /// over the Workload API. It is read again when they change
    #[arg(long, value_name = "DIR", requires = "ca_dir")]
    federated_bundles: Option<PathBuf>,
    /// URL of a Kubernetes API that is asked about tokens of other issuers (`TokenReview`)
    #[arg(long, value_name = "URL", requires = "ca_dir")]
    token_review: Option<String>,
    /// File with the token that is shown to that API
    #[arg(long, value_name = "FILE", default_value = REVIEW_TOKEN)]
    token_review_token: PathBuf,
    /// PEM file of the roots by which that API is checked
    #[arg(long, value_name = "FILE", default_value = REVIEW_ROOTS)]
    token_review_roots: PathBuf,
    /// An audience that tokens may be for which that API judges; may be given several times
    #[arg(
        long,
        value_name = "NAME",
        env = "TOKEN_AUDIENCES",
        value_delimiter = ',',
        default_value = "istio-ca"
    )]
    token_review_audience: Vec<String>,
}

impl SecureArgs {
    /// What the control plane is to do; none without a folder.
    pub(crate) fn config(&self) -> Option<SecureConfig> {
        let lifetimes = Lifetimes {
            default: self.workload_cert_ttl.0.min(self.max_workload_cert_ttl.0),
            longest: self.max_workload_cert_ttl.0,
        };
        Some(SecureConfig {
            addr: self.secure_grpc_addr,
            names: self.secure_grpc_name.clone(),
            plugged: self.ca_certs.clone(),
            signer: self.signer(),
            root_key: self.ca_root_key,
            root_spread: self.ca_root_spread.map_or(lifetimes.longest, |time| time.0),
            lifetimes,
            jwt_lifetime: self.jwt_svid_ttl.0.min(weft_ca::jwt_keys::LONGEST),
            token_issuers: self.token_issuers.clone(),
            review: self.review(),
            federated: self.federated_bundles.clone(),
            ..SecureConfig::new(self.ca_dir.clone()?)
        })
    }
}

impl SecureArgs {
    fn review(&self) -> Option<ReviewConfig> {
        Some(ReviewConfig {
            url: self.token_review.clone()?,
            token: self.token_review_token.clone(),
            roots: self.token_review_roots.clone(),
            audiences: self.token_review_audience.clone(),
        })
    }

    fn signer(&self) -> Option<SignerConfig> {
        Some(SignerConfig {
            address: self.ca_signer.clone()?,
            tls: self.ca_signer_tls.clone(),
            roots: self.ca_signer_roots.clone()?,
        })
    }
}

#[derive(Debug, Args)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    command: TokenCommand,
}

#[derive(Debug, Subcommand)]
enum TokenCommand {
    /// Print a new join token: with it one workload gets its first certificate, once
    #[command(display_name = "weft")]
    Create(CreateArgs),
}

#[derive(Debug, Args)]
struct CreateArgs {
    /// Folder of the certificate authority (`weft control --ca-dir`)
    #[arg(long, value_name = "DIR")]
    ca_dir: PathBuf,
    /// The workload's namespace
    #[arg(short, long, default_value = "default")]
    namespace: String,
    /// The workload's service account
    #[arg(short, long, value_name = "NAME")]
    service_account: String,
    /// How long the token may wait for its use; 168h at most
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: Interval,
}

#[derive(Debug, Args)]
pub(crate) struct AuthorityArgs {
    #[command(subcommand)]
    command: AuthorityCommand,
}

#[derive(Debug, Subcommand)]
enum AuthorityCommand {
    /// Replace the root: the control plane makes the next one within a second, which is trusted at
    /// once and signs after its --ca-root-spread (--max-workload-cert-ttl, 90 days, unless given); the
    /// former is trusted while what it signed lasts. A file `rotate` in the folder does the same
    #[command(display_name = "weft")]
    Rotate(RotateArgs),
}

#[derive(Debug, Args)]
struct RotateArgs {
    /// Folder of the certificate authority (`weft control --ca-dir`)
    #[arg(long, value_name = "DIR")]
    ca_dir: PathBuf,
}

/// `weft ca`.
pub(crate) fn run_authority(args: &AuthorityArgs) -> Result<ExitCode, Failure> {
    let AuthorityCommand::Rotate(args) = &args.command;
    OwnFolder::ask_rotation(&args.ca_dir).map_err(|error| format!("ca rotate: {error}"))?;
    crate::output::line(
        "the control plane of this folder makes the next root at its next look; it is trusted at once, and signs after --ca-root-spread of `weft control` (90 days unless given, or --max-workload-cert-ttl)",
    );
    Ok(ExitCode::SUCCESS)
}

/// `weft token`.
pub(crate) fn run(args: &TokenArgs) -> Result<ExitCode, Failure> {
    let TokenCommand::Create(args) = &args.command;
    let now = SystemTime::now();
    let token = JoinTokens::of_authority(&args.ca_dir)
        .and_then(|joins| joins.create(&args.namespace, &args.service_account, args.ttl.0, now))
        .map_err(|error| format!("token create: --ca-dir: {error}"))?;
    let written = writeln!(std::io::stdout(), "{}", *token);
    written.map_err(|error| format!("writing to standard output: {error}"))?;
    Ok(ExitCode::SUCCESS)
}
