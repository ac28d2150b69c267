//! `weft proxy` as its own agent: flags and environment in the terms of Istio's agent, and what they
//! make of the bootstrap. Must never know how a certificate is asked for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use clap::Args;
use tokio::sync::watch;
use weft_agent::{Agent, AgentOptions, Roots, Schedule, TokenSource, WorkloadApiOptions};
use weft_ca::{KeyKind, SpiffeId, TrustDomain};
use weft_core::metrics::Scope;
use weft_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use weft_proto::pb::google::protobuf::{Value, value::Kind};
use weft_proxy::{OwnIdentity, WorkloadSecrets};
use zeroize::Zeroizing;

use crate::Failure;
use crate::cli::Interval;

mod xds_cluster;

/// The file in which Kubernetes gives Istio's agent its token.
const TOKEN: &str = "./var/run/secrets/tokens/istio-token";
/// The file in which it gives it the mesh's roots.
const ROOTS: &str = "./var/run/secrets/istio/root-cert.pem";
/// The file in which it gives it the lists of revoked certificates.
const CRL: &str = "/var/run/secrets/istio/crl/ca-crl.pem";
/// Says "the system's roots".
const SYSTEM: &str = "SYSTEM";
/// The node's entry by which the control plane knows that nobody needs to make keys for it.
const ANNOUNCED: &str = "WEFT_AGENT";

/// Flags of `weft proxy`.
#[derive(Debug, Args)]
#[command(next_help_heading = "Identity: the proxy as its own agent")]
pub(crate) struct AgentArgs {
    /// The certificate authority, as host:port. With it the proxy makes its own key, asks for a
    /// certificate and renews it, and has the secrets `default` and `ROOTCA` itself
    #[arg(long, value_name = "ADDR", env = "CA_ADDR")]
    ca_addr: Option<String>,
    /// PEM file of the roots by which the authority is checked; SYSTEM: those of the system. Unless
    /// given: root-cert.pem of --prov-cert, else ./var/run/secrets/istio/root-cert.pem
    #[arg(long, value_name = "FILE", env = "CA_ROOT_CA")]
    ca_root: Option<String>,
    /// The same for the control plane; unless given, what the bootstrap says, else the mesh's roots
    #[arg(long, value_name = "FILE", env = "XDS_ROOT_CA", requires = "ca_addr")]
    xds_root: Option<String>,
    /// Name that the authority's certificate must have, if it is not the host of --ca-addr
    #[arg(long, value_name = "NAME", env = "ISTIOD_SAN")]
    ca_server_name: Option<String>,
    /// File with a token of a known issuer, or a join token (`weft token create`), for the first
    /// certificate; it may come later. `WEFT_JOIN_TOKEN` in the environment holds a token itself
    #[arg(long, value_name = "FILE", env = "WEFT_TOKEN_FILE", default_value = TOKEN)]
    token_file: PathBuf,
    /// Folder with cert-chain.pem, key.pem and root-cert.pem with which the proxy may ask, too
    #[arg(long, value_name = "DIR", env = "PROV_CERT")]
    prov_cert: Option<PathBuf>,
    /// Folder into which the certificate, its key and the roots are written, readable by their
    /// owner only; made if it is missing
    #[arg(long, value_name = "DIR", env = "OUTPUT_CERTS")]
    output_certs: Option<PathBuf>,
    /// Unix socket at which the SPIFFE Workload API is served to the workload's processes
    #[arg(long, value_name = "FILE", requires = "ca_addr")]
    workload_api: Option<PathBuf>,
    /// Number of a user whose processes may ask there, besides the proxy's own user and root; may be
    /// given several times
    #[arg(long, value_name = "UID", requires = "workload_api")]
    workload_api_user: Vec<u32>,
    /// PEM file of lists of revoked certificates (ca-crl.pem of the authority's folder), which may
    /// come later, change and go
    #[arg(long, value_name = "FILE", default_value = CRL)]
    ca_crl: PathBuf,
    /// How long a certificate is to last. The authority may refuse that; unless given, it lasts as long
    /// as the authority likes (`weft control --workload-cert-ttl`)
    #[arg(long, value_name = "TIME", env = "SECRET_TTL")]
    secret_ttl: Option<Interval>,
    /// Part of its life that is left when a certificate is renewed, 0 to 1
    #[arg(
        long,
        value_name = "PART",
        env = "SECRET_GRACE_PERIOD_RATIO",
        default_value_t = 0.5
    )]
    secret_grace_period_ratio: f64,
    /// How much that part differs between renewals
    #[arg(
        long,
        value_name = "PART",
        env = "SECRET_GRACE_PERIOD_RATIO_JITTER",
        default_value_t = 0.01
    )]
    secret_grace_period_ratio_jitter: f64,
    /// Kind of key: p256, p384, rsa2048, rsa3072, rsa4096
    #[arg(long, value_name = "KIND", default_value_t)]
    workload_key: KeyKind,
    /// The mesh's trust domain; counts with --service-account
    #[arg(
        long,
        value_name = "NAME",
        env = "TRUST_DOMAIN",
        default_value = "cluster.local"
    )]
    trust_domain: String,
    /// The service account that certificates must be for, in the node's namespace; unless given,
    /// whatever the authority says
    #[arg(long, value_name = "NAME", env = "SERVICE_ACCOUNT")]
    service_account: Option<String>,
}

impl AgentArgs {
    /// What the agent is to do; none without an authority. Says so in the bootstrap, and uses the
    /// certificate on the way to the control plane.
    pub(crate) fn equip(&self, bootstrap: &mut Bootstrap) -> Result<Option<AgentOptions>, Failure> {
        // As in Istio, an empty variable is none.
        let given = self.ca_addr.as_ref().filter(|address| !address.is_empty());
        let Some(address) = given else {
            return match self.workload_api {
                Some(_) => Err("--workload-api: there is no identity without --ca-addr".to_owned()),
                None => Ok(None),
            };
        };
        let options = self.options(address, bootstrap)?;
        let xds_root = self.xds_root.as_deref().map(roots).transpose();
        let xds_root = xds_root.map_err(|error| format!("--xds-root: {error}"))?;
        xds_cluster::secure(bootstrap, xds_root.as_ref())?;
        let node = bootstrap.node.get_or_insert_default();
        let kind = Some(Kind::StringValue("true".to_owned()));
        let metadata = &mut node.metadata.get_or_insert_default().fields;
        metadata.insert(ANNOUNCED.to_owned(), Value { kind });
        Ok(Some(options))
    }

    /// Where the Workload API is served; nowhere unless it is asked for.
    pub(crate) fn workload_api(&self) -> Option<WorkloadApiOptions> {
        Some(WorkloadApiOptions {
            socket: self.workload_api.clone()?,
            users: self.workload_api_user.clone(),
        })
    }

    /// The file of lists of revoked certificates.
    pub(crate) fn crl_file(&self) -> &Path {
        &self.ca_crl
    }

    fn options(&self, address: &str, bootstrap: &Bootstrap) -> Result<AgentOptions, Failure> {
        let host = host(address).ok_or_else(|| {
            format!("--ca-addr {address}: write host:port, such as istiod.istio-system.svc:15012")
        })?;
        for (flag, part) in [
            (
                "--secret-grace-period-ratio",
                self.secret_grace_period_ratio,
            ),
            (
                "--secret-grace-period-ratio-jitter",
                self.secret_grace_period_ratio_jitter,
            ),
        ] {
            if !(0.0..=1.0).contains(&part) {
                return Err(format!("{flag} {part}: write a number from 0 to 1"));
            }
        }
        let roots = match (&self.ca_root, &self.prov_cert) {
            (Some(given), _) => roots(given),
            // As in Istio it may come later.
            (None, Some(folder)) => Ok(Roots::File(folder.join("root-cert.pem"))),
            (None, None) => roots(ROOTS),
        };
        let roots = roots.map_err(|error| {
            format!("--ca-root: {error}; the authority cannot be checked without its roots")
        })?;
        // In the environment only: others on the machine see command lines.
        let token = match std::env::var("WEFT_JOIN_TOKEN") {
            Ok(text) if !text.trim().is_empty() => {
                TokenSource::Text(Zeroizing::new(text.trim().to_owned()))
            }
            _ => TokenSource::File(self.token_file.clone()),
        };
        Ok(AgentOptions {
            address: address.to_owned(),
            server_name: self
                .ca_server_name
                .clone()
                .unwrap_or_else(|| host.to_owned()),
            roots,
            token: Some(token),
            provisioned: self.prov_cert.clone(),
            output: self.output_certs.clone(),
            key: self.workload_key,
            lifetime: self.secret_ttl.as_ref().map(|time| time.0),
            schedule: Schedule {
                grace: self.secret_grace_period_ratio,
                jitter: self.secret_grace_period_ratio_jitter,
            },
            id: self.id(bootstrap)?,
            cluster_id: metadata(bootstrap, "CLUSTER_ID"),
        })
    }

    fn id(&self, bootstrap: &Bootstrap) -> Result<Option<SpiffeId>, Failure> {
        let Some(account) = self
            .service_account
            .as_ref()
            .filter(|name| !name.is_empty())
        else {
            return Ok(None);
        };
        let namespace = metadata(bootstrap, "NAMESPACE").or_else(|| {
            // `type~address~name.namespace~domain`
            let id = &bootstrap.node.as_ref()?.id;
            let (_, namespace) = id.split('~').nth(2)?.rsplit_once('.')?;
            Some(namespace.to_owned())
        });
        let namespace = namespace
            .ok_or("--service-account: the node says no namespace (metadata NAMESPACE)")?;
        let domain = TrustDomain::parse(&self.trust_domain)
            .map_err(|error| format!("--trust-domain: {error}"))?;
        let id = SpiffeId::workload(&domain, &namespace, account);
        id.map(Some)
            .map_err(|error| format!("--service-account: {error}"))
    }
}

/// An agent that is about to work, and what the proxy gets of it.
pub(crate) fn start(options: AgentOptions, crl: &Path, seed: u64) -> (Agent, OwnIdentity) {
    let crl: Arc<str> = crl.display().to_string().into();
    let (sender, secrets) = watch::channel(None);
    let publish = Box::new(move |identity: &weft_agent::WorkloadIdentity| {
        let key = weft_proxy::DataSource::wiped(identity.key.expose().to_vec());
        sender.send_replace(Some(WorkloadSecrets {
            chain: identity.chain.clone(),
            key,
            roots: identity.roots.clone(),
            serial: identity.serial.clone(),
            crl_file: Some(Arc::clone(&crl)),
        }));
    });
    let agent = Agent::new(options, seed, publish);
    let (stats, doubts) = (agent.stats(), agent.doubts());
    let identity = OwnIdentity {
        secrets,
        register: Box::new(move |registry| registry.register(Scope::root("agent"), &stats)),
        refused: Box::new(move |error| doubts.heard(error)),
    };
    (agent, identity)
}

/// Roots that must be there: an error at the start is clearer than handshakes that fail.
fn roots(given: &str) -> Result<Roots, String> {
    if given == SYSTEM {
        return Ok(Roots::System);
    }
    if Path::new(given).is_file() {
        return Ok(Roots::File(given.into()));
    }
    Err(format!("there is no file {given}"))
}

/// The host of `host:port`, without brackets.
fn host(address: &str) -> Option<&str> {
    let (host, port) = address.rsplit_once(':')?;
    port.parse::<u16>().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']')?,
        None if host.contains(':') => return None,
        None => host,
    };
    (!host.is_empty()).then_some(host)
}

fn metadata(bootstrap: &Bootstrap, name: &str) -> Option<String> {
    let fields = &bootstrap.node.as_ref()?.metadata.as_ref()?.fields;
    match fields.get(name)?.kind.as_ref()? {
        Kind::StringValue(text) if !text.is_empty() => Some(text.clone()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_have_a_host_and_a_port() {
        assert_eq!(
            host("istiod.istio-system.svc:15012"),
            Some("istiod.istio-system.svc")
        );
        assert_eq!(host("[::1]:15012"), Some("::1"));
        for wrong in [
            "istiod",
            "istiod:",
            ":15012",
            "istiod:0",
            "::1:15012",
            "[::1:15012",
            "a:99999",
        ] {
            assert_eq!(host(wrong), None, "{wrong}");
        }
    }
}
