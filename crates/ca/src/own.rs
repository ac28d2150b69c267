//! The folder of an authority that makes its own roots: created at the first start, rotated in time.
//! Never knows who is served.
//!
//! ```text
//! DIR/                       0700
//!   roots.json               which root signs, which comes next, which are trusted still
//!   root-<name>-cert.pem     a root
//!   root-<name>-key.pem      its key, 0600
//!   root-cert.pem            all roots that are trusted, to be copied to where they are needed
//!   revoked.txt              serial numbers that hold no longer, if somebody wrote it
//!   ca-crl.pem               the lists of them by all roots, to be copied, too; there if any is revoked
//!   lock                     held by the process that changes the folder: replicas may share it
//!   rotate                   asks for the next root, whatever is in it; it goes when that is made
//! ```

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::authority::{RevocationLists, Signer, State};
use crate::issuer::{CRL_LIFETIME, Issuer};
use crate::key::{KeyKind, KeyPair};
use crate::rotation::{Due, RootName, Rotation};
use crate::{AuthorityError, CLOCK_SKEW, Revoked, TrustBundle, TrustDomain, disk, pem};

const ROOTS: &str = "roots.json";
const BUNDLE: &str = "root-cert.pem";
const ROTATE: &str = "rotate";
/// Istio's name for lists of revoked certificates.
pub(crate) const LISTS: &str = "ca-crl.pem";
pub(crate) const REVOKED: &str = "revoked.txt";
const PUBLIC: u32 = 0o644;
const PRIVATE: u32 = 0o600;

/// How roots are made.
#[derive(Clone, Debug)]
pub struct OwnOptions {
    /// Whose roots they are.
    pub trust_domain: TrustDomain,
    /// Kind of their keys.
    pub key: KeyKind,
    /// How long a root lasts (istiod's `CITADEL_SELF_SIGNED_CA_CERT_TTL`).
    pub root_lifetime: Duration,
    /// From when a root is trusted until it signs: everybody must have heard of it.
    pub spread: Duration,
    /// The longest that what a root signs may last.
    pub longest: Duration,
}

/// See the module.
pub struct OwnFolder {
    path: PathBuf,
    options: OwnOptions,
    /// As the state that was given last has it.
    rotation: Rotation,
    /// The text of [`REVOKED`].
    revoked: Vec<u8>,
    /// When the lists of revoked certificates were made.
    listed: SystemTime,
    issuers: BTreeMap<RootName, Arc<Issuer>>,
    certificates: BTreeMap<RootName, CertificateDer<'static>>,
}

impl OwnFolder {
    /// Opens a folder; if nothing is in it, makes it and a root. Beside it, what is in force.
    ///
    /// # Errors
    /// It cannot be written, or what is in it cannot be used: a root that exists is never replaced
    /// by another one for that.
    pub fn open(
        path: impl Into<PathBuf>,
        options: OwnOptions,
        now: SystemTime,
    ) -> Result<(Self, State), AuthorityError> {
        let path = path.into();
        disk::private_folder(&path)?;
        let _alone = disk::lock(&path)?;
        disk::tidy(&path, now);
        let file = path.join(ROOTS);
        if disk::read_if_there(&file)?.is_none() {
            let name = make_root(&path, &options, now)?;
            // Of two that start at once, the second takes the first one's root.
            let first = Rotation::new(name.clone()).to_json();
            if disk::write_first(&file, first.as_bytes(), PRIVATE)? {
                tracing::info!(
                    folder = %path.display(), root = name, lasts = ?options.root_lifetime,
                    "the first root is made: root-cert.pem in the folder is what others must trust"
                );
            } else {
                remove_root(&path, &name)?;
            }
        }
        let rotation = read_rotation(&path)?;
        let mut folder = Self {
            path,
            options,
            rotation,
            revoked: Vec::new(),
            listed: now,
            issuers: BTreeMap::new(),
            certificates: BTreeMap::new(),
        };
        folder.replace_ended(now)?;
        let state = folder.load(now)?;
        Ok((folder, state))
    }

    /// Does what is due and looks whether something changed; `None` if nothing did.
    ///
    /// # Errors
    /// As [`OwnFolder::open`]; what was in force before stays in force.
    pub fn poll(&mut self, now: SystemTime) -> Result<Option<State>, AuthorityError> {
        let _alone = disk::lock(&self.path)?;
        let mut rotation = read_rotation(&self.path)?;
        let before = rotation.clone();
        rotation.mend(now);
        let active = self.certificate(&rotation.active)?;
        let asked = self.path.join(ROTATE);
        // While a rotation is under way it waits.
        let asked = (rotation.may_begin() && asked.exists()).then_some(asked);
        if asked.is_some() {
            let next = make_root(&self.path, &self.options, now)?;
            rotation.begin(next, self.options.spread, now);
        }
        while let Some(due) = rotation.due(life(&active), now) {
            match due {
                Due::Begin => {
                    let next = make_root(&self.path, &self.options, now)?;
                    rotation.begin(next, self.options.spread, now);
                }
                // Nobody has heard of it while the folder could not be loaded.
                Due::Activate if !self.rotation.is_next(&rotation) => {
                    rotation.wait_again(self.options.spread, now);
                    break;
                }
                Due::Activate => {
                    let longest = self.options.longest.saturating_add(CLOCK_SKEW);
                    rotation.activate(longest, now);
                    break;
                }
                Due::Drop(name) => rotation.drop_root(&name),
            }
        }
        if rotation != before {
            self.write_rotation(&rotation, &before)?;
            self.tell(&rotation, &before);
            for (name, _) in &before.former {
                if !rotation.trusted().any(|trusted| trusted == name) {
                    remove_root(&self.path, name)?;
                }
            }
        }
        if let Some(asked) = asked {
            // Of a process that ends before this, the next one rotates again, which does no harm.
            disk::remove(&asked)?;
        }
        let revoked = disk::read_if_there(&self.path.join(REVOKED))?.unwrap_or_default();
        if rotation == self.rotation
            && *revoked == self.revoked
            && (revoked.is_empty() || is_fresh(self.listed, now))
        {
            return Ok(None);
        }
        let kept = std::mem::replace(&mut self.rotation, rotation);
        let loaded = self.load(now);
        if loaded.is_err() {
            self.rotation = kept;
        }
        loaded.map(Some)
    }

    /// Begins to replace the root at once: it is trusted now and signs after the time to spread.
    ///
    /// # Errors
    /// A rotation is under way already, or the folder cannot be written.
    pub fn rotate(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        let _alone = disk::lock(&self.path)?;
        let mut rotation = read_rotation(&self.path)?;
        let file = self.path.join(ROOTS);
        if !rotation.may_begin() {
            return Err(AuthorityError::content(
                &file,
                "a rotation is under way; wait until the next root signs",
            ));
        }
        let before = rotation.clone();
        let next = make_root(&self.path, &self.options, now)?;
        rotation.begin(next, self.options.spread, now);
        self.write_rotation(&rotation, &before)
    }

    /// What becomes of roots, and when.
    fn tell(&self, rotation: &Rotation, before: &Rotation) {
        let spread = self.options.spread;
        if rotation.active != before.active {
            tracing::info!(root = rotation.active, "the next root signs from now on");
        } else if let Some((next, _)) = &rotation.next
            && before.next.as_ref().is_none_or(|(known, _)| known != next)
        {
            tracing::info!(
                root = next, signs_after = ?spread,
                "the next root is made and trusted from now on"
            );
        }
    }

    /// In place of a root that ended while nobody was here, the next one signs at once, or a new one:
    /// nothing holds any more that it signed. To be called by who has the lock.
    fn replace_ended(&mut self, now: SystemTime) -> Result<(), AuthorityError> {
        let before = self.rotation.clone();
        let mut rotation = before.clone();
        // The active one, the next one, and one that is made now.
        for _ in 0..3 {
            if life(&self.certificate(&rotation.active)?).1 > now {
                break;
            }
            rotation.mend(now);
            let ended = rotation.active.clone();
            let is_new = rotation.next.is_none();
            if is_new {
                let next = make_root(&self.path, &self.options, now)?;
                rotation.begin(next, Duration::ZERO, now);
            }
            let longest = self.options.longest.saturating_add(CLOCK_SKEW);
            rotation.activate(longest, now);
            let root = &rotation.active;
            tracing::error!(
                ended,
                root,
                is_new,
                "the root has ended, another one signs at once: whoever has its roots from a file must get root-cert.pem"
            );
        }
        if rotation != before {
            self.write_rotation(&rotation, &before)?;
            self.rotation = rotation;
        }
        Ok(())
    }

    /// Writes which roots there are. If it cannot, what is new goes again: it would be made anew at
    /// every look, until the disk is full of roots that nobody knows.
    fn write_rotation(&self, new: &Rotation, before: &Rotation) -> Result<(), AuthorityError> {
        let file = self.path.join(ROOTS);
        let written = disk::write(&file, new.to_json().as_bytes(), PRIVATE);
        if written.is_err() {
            let known = |name: &RootName| before.trusted().any(|known| known == name);
            for name in new.trusted().filter(|name| !known(name)) {
                let _ = remove_root(&self.path, name);
            }
        }
        written
    }

    /// Asks the process whose folder it is to replace the root at its next look.
    ///
    /// # Errors
    /// There are no own roots in it, a rotation is under way already, or it cannot be written.
    pub fn ask_rotation(path: &Path) -> Result<(), AuthorityError> {
        let file = path.join(ROOTS);
        if disk::read_if_there(&file)?.is_none() {
            return Err(AuthorityError::content(
                path,
                "holds no own roots: give the folder of `weft control --ca-dir`, which signs with no intermediate (--ca-certs)",
            ));
        }
        if !read_rotation(path)?.may_begin() {
            return Err(AuthorityError::content(
                &file,
                "a rotation is under way; wait until the next root signs",
            ));
        }
        disk::write(&path.join(ROTATE), b"", PRIVATE)
    }

    fn load(&mut self, now: SystemTime) -> Result<State, AuthorityError> {
        let mut roots = Vec::new();
        let names: Vec<RootName> = self.rotation.trusted().cloned().collect();
        for name in &names {
            roots.push(self.certificate(name)?);
        }
        let file = self.path.join(ROOTS);
        let bundle = TrustBundle::new(roots);
        let bundle = bundle.map_err(|problem| AuthorityError::content(&file, problem))?;
        let signer = self.issuer(&self.rotation.active.clone(), &bundle, now)?;
        let (revoked, text) = read_revoked(&self.path)?;
        let mut lists = String::new();
        if !revoked.is_empty() {
            // A certificate may be of any root that is trusted still.
            for name in &names {
                // What it signed has ended with it, so that nothing is to be looked up; and it can
                // sign no list that anybody would believe.
                let ended =
                    *name != self.rotation.active && life(&self.certificate(name)?).1 <= now;
                if ended {
                    continue;
                }
                let issuer = self.issuer(name, &bundle, now)?;
                let list = issuer.revocation_list(&revoked.serials(), now);
                let _ = write!(lists, "{}", list.map_err(AuthorityError::Make)?);
            }
        }
        let path = self.path.join(BUNDLE);
        if disk::read_if_there(&path)?.is_none_or(|there| **there != **bundle.pem()) {
            disk::write(&path, bundle.pem(), PUBLIC)?;
        }
        self.revoked = text;
        self.issuers.retain(|name, _| names.contains(name));
        self.certificates.retain(|name, _| names.contains(name));
        let path = self.path.join(LISTS);
        if lists.is_empty() {
            disk::remove(&path)?;
        } else {
            disk::write(&path, lists.as_bytes(), PUBLIC)?;
        }
        self.listed = now;
        Ok(State {
            signer: Signer::Own(signer),
            bundle: Arc::new(bundle),
            revoked: Arc::new(revoked),
            lists: RevocationLists {
                pem: lists.into(),
                // A root signs what it issues itself.
                whole_chain: true,
            },
        })
    }

    fn certificate(&mut self, name: &str) -> Result<CertificateDer<'static>, AuthorityError> {
        if let Some(known) = self.certificates.get(name) {
            return Ok(known.clone());
        }
        let path = self.path.join(certificate_file(name));
        let found = pem::certificates(&disk::read(&path)?);
        let found = found.map_err(|problem| AuthorityError::content(&path, problem))?;
        let Ok([certificate]) = <[_; 1]>::try_from(found) else {
            return Err(AuthorityError::content(
                &path,
                "holds more than one certificate",
            ));
        };
        self.certificates
            .insert(name.to_owned(), certificate.clone());
        Ok(certificate)
    }

    fn issuer(
        &mut self,
        name: &str,
        bundle: &TrustBundle,
        now: SystemTime,
    ) -> Result<Arc<Issuer>, AuthorityError> {
        if let Some(known) = self.issuers.get(name) {
            return Ok(Arc::clone(known));
        }
        let certificate = self.certificate(name)?;
        let path = self.path.join(key_file(name));
        let key = KeyPair::from_pem(&disk::read_private(&path)?);
        let key = key.map_err(|problem| AuthorityError::content(&path, problem))?;
        let issuer = Issuer::new(certificate, key, &[], bundle, now);
        let path = self.path.join(certificate_file(name));
        let issuer = issuer.map_err(|problem| AuthorityError::content(&path, problem))?;
        let issuer = Arc::new(issuer);
        self.issuers.insert(name.to_owned(), Arc::clone(&issuer));
        Ok(issuer)
    }
}

/// Whether lists that were made then need not be made anew: they last twice as long. Those of a clock that
/// was ahead begin in the future.
pub(crate) fn is_fresh(listed: SystemTime, now: SystemTime) -> bool {
    match now.duration_since(listed) {
        Ok(age) => age < CRL_LIFETIME / 2,
        Err(ahead) => ahead.duration() <= CLOCK_SKEW,
    }
}

/// The list of revoked serial numbers in a folder, and its text.
pub(crate) fn read_revoked(folder: &Path) -> Result<(Revoked, Vec<u8>), AuthorityError> {
    let path = folder.join(REVOKED);
    let text = disk::read_if_there(&path)?.unwrap_or_default().to_vec();
    let list = std::str::from_utf8(&text).map_err(|_| "is not UTF-8".to_owned());
    let list = list.and_then(Revoked::parse);
    let list = list.map_err(|problem| AuthorityError::content(&path, problem))?;
    Ok((list, text))
}

fn read_rotation(folder: &Path) -> Result<Rotation, AuthorityError> {
    let path = folder.join(ROOTS);
    Rotation::from_json(&disk::read(&path)?).ok_or_else(|| {
        AuthorityError::content(&path, "is damaged; put a copy in its place, or (proxies then trust another root) start with an empty folder")
    })
}

fn certificate_file(name: &str) -> String {
    format!("root-{name}-cert.pem")
}

fn key_file(name: &str) -> String {
    format!("root-{name}-key.pem")
}

fn make_root(
    folder: &Path,
    options: &OwnOptions,
    now: SystemTime,
) -> Result<RootName, AuthorityError> {
    let (domain, kind) = (&options.trust_domain, options.key);
    let made = Issuer::new_root(domain, kind, options.root_lifetime, now);
    let (key, certificate) = made.map_err(AuthorityError::Make)?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &certificate);
    let name = pem::hexadecimal(digest.as_ref().get(..8).unwrap_or_default());
    // The key first: a certificate without its key would be of no use.
    disk::write(
        &folder.join(key_file(&name)),
        key.to_pem().expose(),
        PRIVATE,
    )?;
    let text = pem::certificate(&certificate);
    disk::write(
        &folder.join(certificate_file(&name)),
        text.as_bytes(),
        PUBLIC,
    )?;
    Ok(name)
}

fn remove_root(folder: &Path, name: &str) -> Result<(), AuthorityError> {
    disk::remove(&folder.join(key_file(name)))?;
    disk::remove(&folder.join(certificate_file(name)))
}

/// Begin and end of a certificate.
fn life(der: &CertificateDer<'_>) -> (SystemTime, SystemTime) {
    let time = |seconds: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or_default());
        SystemTime::UNIX_EPOCH
            .checked_add(seconds)
            .unwrap_or(SystemTime::UNIX_EPOCH)
    };
    match X509Certificate::from_der(der) {
        Ok((_, certificate)) => {
            let validity = certificate.validity();
            (
                time(validity.not_before.timestamp()),
                time(validity.not_after.timestamp()),
            )
        }
        // It was a certificate when it was read.
        Err(_) => (SystemTime::UNIX_EPOCH, SystemTime::UNIX_EPOCH),
    }
}

#[cfg(test)]
mod tests;
