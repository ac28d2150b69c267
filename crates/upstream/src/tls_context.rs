//! TLS contexts of the configuration → specifications for `net`: reads the files, looks up
//! the secrets. Main thread only; workers get the finished result.

use std::collections::HashMap;
use std::sync::Arc;

use weft_config::secret::SecretKind;
use weft_config::tls::{
    CertificateSource, SanKind as ConfigSan, TlsCertificate, TlsContext, TlsValidation, TlsVersion,
    TrustDomainRoots, ValidationSource,
};
use weft_config::{Cluster, DataSource, DownstreamTls, Secret, UpstreamTls};
use weft_net::tls::{
    ClientSpec, Identity, Pem, PemSource, SanKind, SanMatcher, ServerSpec, TlsError, Validation,
    Version, client_config,
};

/// The secrets that are known now, by name.
#[derive(Debug, Clone, Default)]
pub struct Secrets(HashMap<Arc<str>, Arc<Secret>>);

impl Secrets {
    /// Adds or replaces a secret.
    pub fn insert(&mut self, secret: Arc<Secret>) {
        self.0.insert(Arc::clone(&secret.name), secret);
    }

    /// Forgets a secret.
    pub fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Whether every secret that `context` names is known.
    pub fn has_all(&self, context: &TlsContext) -> bool {
        let mut names = context.secret_names();
        names.all(|name| self.0.contains_key(name))
    }

    /// Whether every secret that a cluster names is known.
    pub(crate) fn has_all_of(&self, cluster: &Cluster) -> bool {
        cluster.tls_contexts().all(|tls| self.has_all(&tls.context))
    }

    /// The files that `context` is read from, by itself or by its secrets.
    pub fn files<'a>(&'a self, context: &'a TlsContext) -> impl Iterator<Item = &'a Arc<str>> {
        let certificates = context.certificates.iter();
        let certificates = certificates.filter_map(|source| match source {
            CertificateSource::Inline(certificate) => Some(&**certificate),
            CertificateSource::Sds(name) => self.certificate(name).ok(),
        });
        let (own, defaults) = match &context.validation {
            None => (None, None),
            Some(ValidationSource::Inline(own)) => (Some(&**own), None),
            Some(ValidationSource::Sds { name, defaults }) => {
                (self.validation(name).ok(), Some(&**defaults))
            }
        };
        let roots = own.into_iter().chain(defaults);
        let roots = roots.flat_map(TlsValidation::files);
        certificates.flat_map(TlsCertificate::files).chain(roots)
    }

    fn certificate(&self, name: &str) -> Result<&TlsCertificate, TlsError> {
        match self.0.get(name).map(|secret| &secret.kind) {
            Some(SecretKind::Certificate(certificate)) => Ok(certificate),
            Some(SecretKind::Validation(_)) => Err(TlsError::Setup(format!(
                "secret {name} is a validation context, not a certificate"
            ))),
            None => Err(missing(name)),
        }
    }

    fn validation(&self, name: &str) -> Result<&TlsValidation, TlsError> {
        match self.0.get(name).map(|secret| &secret.kind) {
            Some(SecretKind::Validation(validation)) => Ok(validation),
            Some(SecretKind::Certificate(_)) => Err(TlsError::Setup(format!(
                "secret {name} is a certificate, not a validation context"
            ))),
            None => Err(missing(name)),
        }
    }
}

fn missing(name: &str) -> TlsError {
    TlsError::Setup(format!("Secret is not supplied by SDS: {name}"))
}

/// What the client side of a cluster's TLS is made of.
///
/// # Errors
/// A file that cannot be read, or a secret that is not there (yet).
pub fn client_spec(tls: &UpstreamTls, secrets: &Secrets) -> Result<ClientSpec, TlsError> {
    let context = &tls.context;
    Ok(ClientSpec {
        identity: identities(context, secrets)?.into_iter().next(),
        validation: validation(context, secrets)?.unwrap_or_default(),
        alpn: alpn(context),
        versions: versions(context),
    })
}

/// Whether what a secret holds can be used at all.
pub(crate) fn check_secret(secret: &Secret) -> Result<(), TlsError> {
    let mut spec = ClientSpec {
        identity: None,
        validation: Validation::default(),
        alpn: Vec::new(),
        versions: (Version::V12, Version::V13),
    };
    match &secret.kind {
        SecretKind::Certificate(certificate) => spec.identity = Some(identity(certificate)?),
        SecretKind::Validation(validation) => spec.validation = merged(validation, None)?,
    }
    client_config(&spec).map(drop)
}

/// Whether the TLS contexts of clusters can be used with these secrets; those that lack one
/// are passed over.
///
/// # Errors
/// Names the cluster.
pub fn check_clients<'a>(
    clusters: impl IntoIterator<Item = &'a Cluster>,
    secrets: &Secrets,
) -> Result<(), String> {
    // Clusters of a mesh differ in the names they accept, which cannot be wrong here.
    let mut fine = Vec::new();
    for cluster in clusters {
        let contexts = cluster.tls_contexts();
        for tls in contexts.filter(|tls| secrets.has_all(&tls.context)) {
            let refused =
                |error: TlsError| format!("cluster {}: transport_socket: {error}", cluster.name);
            let spec = client_spec(tls, secrets).map_err(refused)?;
            let parts = (
                spec.identity.clone(),
                spec.validation.trusted_ca.clone(),
                spec.validation.crl.clone(),
                spec.validation.trust_domains.clone(),
                spec.versions,
            );
            if !fine.contains(&parts) {
                client_config(&spec).map_err(refused)?;
                fine.push(parts);
            }
        }
    }
    Ok(())
}

/// What a listener's TLS is made of; see [`weft_net::tls::server_config`].
///
/// # Errors
/// A file that cannot be read, or a secret that is not there (yet).
pub fn server_spec(tls: &DownstreamTls, secrets: &Secrets) -> Result<ServerSpec, TlsError> {
    let context = &tls.context;
    Ok(ServerSpec {
        identities: identities(context, secrets)?,
        validation: validation(context, secrets)?,
        require_client_certificate: tls.require_client_certificate,
        alpn: alpn(context),
        versions: versions(context),
    })
}

fn alpn(context: &TlsContext) -> Vec<Vec<u8>> {
    context.alpn.iter().map(|p| p.as_bytes().to_vec()).collect()
}

fn versions(context: &TlsContext) -> (Version, Version) {
    let version = |v| match v {
        TlsVersion::V12 => Version::V12,
        TlsVersion::V13 => Version::V13,
    };
    (version(context.min_version), version(context.max_version))
}

fn identities(context: &TlsContext, secrets: &Secrets) -> Result<Vec<Identity>, TlsError> {
    let one = |source: &CertificateSource| match source {
        CertificateSource::Inline(certificate) => identity(certificate),
        CertificateSource::Sds(name) => identity(secrets.certificate(name)?),
    };
    context.certificates.iter().map(one).collect()
}

fn identity(certificate: &TlsCertificate) -> Result<Identity, TlsError> {
    Ok(Identity {
        chain: read(&certificate.chain)?,
        key: read(&certificate.key)?,
    })
}

fn validation(context: &TlsContext, secrets: &Secrets) -> Result<Option<Validation>, TlsError> {
    let (own, defaults) = match &context.validation {
        None => return Ok(None),
        Some(ValidationSource::Inline(own)) => (&**own, None),
        Some(ValidationSource::Sds { name, defaults }) => {
            (secrets.validation(name)?, Some(&**defaults))
        }
    };
    merged(own, defaults).map(Some)
}

/// A combined context merges the secret over its default: lists are appended.
fn merged(own: &TlsValidation, defaults: Option<&TlsValidation>) -> Result<Validation, TlsError> {
    let trusted_ca = own.trusted_ca.as_ref();
    let trusted_ca = trusted_ca.or(defaults.and_then(|d| d.trusted_ca.as_ref()));
    let system_roots = own.system_roots || defaults.is_some_and(|d| d.system_roots);
    let accept_untrusted = own.accept_untrusted || defaults.is_some_and(|d| d.accept_untrusted);
    let crl = own.crl.as_ref();
    let crl = crl.or(defaults.and_then(|d| d.crl.as_ref()));
    let sans = defaults.into_iter().chain([own]);
    let mut spiffe = std::iter::once(own).chain(defaults).map(|one| &one.spiffe);
    if let Some(domains) = spiffe.find(|domains| !domains.is_empty()) {
        let sans = sans.flat_map(|v| &v.san_matchers).filter_map(uri_san);
        let bundle = |domain: &TrustDomainRoots| {
            let pem = read(&domain.bundle)?;
            Ok((Arc::clone(&domain.name), pem))
        };
        return Ok(Validation {
            sans: sans.collect(),
            trust_domains: domains.iter().map(bundle).collect::<Result<_, _>>()?,
            ..Validation::default()
        });
    }
    Ok(Validation {
        trust_domains: Vec::new(),
        crl: crl.filter(|_| !accept_untrusted).map(read).transpose()?,
        crl_leaf_only: own.crl_leaf_only || defaults.is_some_and(|d| d.crl_leaf_only),
        trusted_ca: match trusted_ca {
            _ if accept_untrusted => None,
            Some(source) => Some(read(source)?),
            None if system_roots => Some(Pem::system().map_err(|error| no_system_roots(&error))?),
            None => None,
        },
        sans: if accept_untrusted {
            Vec::new()
        } else {
            sans.flat_map(|v| &v.san_matchers).map(san).collect()
        },
    })
}

/// A matcher for the SPIFFE validator, which looks at no other names.
fn uri_san(matcher: &weft_config::tls::SanMatcher) -> Option<SanMatcher> {
    let is_of_uris = matches!(matcher.kind, ConfigSan::Uri | ConfigSan::Any);
    is_of_uris.then(|| {
        san(&weft_config::tls::SanMatcher {
            kind: ConfigSan::Uri,
            matcher: matcher.matcher.clone(),
        })
    })
}

fn san(matcher: &weft_config::tls::SanMatcher) -> SanMatcher {
    let kind = match matcher.kind {
        ConfigSan::Dns => SanKind::Dns,
        ConfigSan::Uri => SanKind::Uri,
        ConfigSan::IpAddress => SanKind::Ip,
        ConfigSan::Any => SanKind::Any,
        // Certificates of a mesh carry none; such a matcher never matches.
        ConfigSan::Email => return SanMatcher::matching(SanKind::Dns, |_| false),
    };
    if let weft_config::matching::StringMatch::Exact(value, false) = &matcher.matcher {
        return SanMatcher::exact(kind, &**value);
    }
    let matcher = matcher.matcher.clone();
    SanMatcher::matching(kind, move |name| matcher.matches(name.as_bytes()))
}

/// The bytes of a data source.
///
/// # Errors
/// Names the file or variable.
pub fn read(source: &DataSource) -> Result<Pem, TlsError> {
    let failed = |origin: &str, what: String| TlsError::Pem {
        origin: origin.to_owned(),
        what,
    };
    match source {
        DataSource::File { path, .. } => Pem::read(path),
        DataSource::Inline(bytes) => Ok(Pem::new("inline", &**bytes).of(PemSource::Value)),
        DataSource::Environment(name) => match std::env::var(&**name) {
            Ok(text) => {
                Ok(Pem::new(format!("environment variable {name}"), text).of(PemSource::Value))
            }
            Err(error) => Err(failed(name, error.to_string())),
        },
    }
}

fn no_system_roots(error: &TlsError) -> TlsError {
    TlsError::Setup(format!("system_root_certs: {error}"))
}
