//! An intermediate that an operator plugs in, in files with Istio's names. It is read again when the
//! files change. Never writes.
//!
//! ```text
//! DIR/
//!   ca-cert.pem      the certificate that signs
//!   ca-key.pem       its key
//!   cert-chain.pem   the certificates from it to the root; if missing, ca-cert.pem alone
//!   root-cert.pem    whom the mesh trusts; while the root changes, both
//!   ca-crl.pem       lists of revoked certificates, of each authority above this one; may be missing
//!   revoked.txt      serial numbers that hold no longer, if somebody wrote it
//! ```
//!
//! Source: Istio's documentation of plugged-in certificates.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{Context, SHA256};

use crate::authority::{RevocationLists, Signer, State};
use crate::issuer::Issuer;
use crate::key::KeyPair;
use crate::lists::Lists;
use crate::own::{LISTS, REVOKED, is_fresh, read_revoked};
use crate::{AuthorityError, TrustBundle, disk, pem};

const CERTIFICATE: &str = "ca-cert.pem";
const KEY: &str = "ca-key.pem";
const CHAIN: &str = "cert-chain.pem";
const ROOT: &str = "root-cert.pem";

/// See the module.
pub struct PluggedFolder {
    path: PathBuf,
    /// Of all files, as they were read last, used or not.
    seen: Vec<u8>,
    /// When a list of revoked certificates was made, if there is one.
    listed: Option<SystemTime>,
    /// When these were refused, if they were.
    refused: Option<SystemTime>,
}

/// What was refused is tried again: a certificate may begin only after it was put here.
pub(crate) const AGAIN: Duration = Duration::from_mins(1);

impl PluggedFolder {
    /// Reads a folder. Beside it, what is in force.
    ///
    /// # Errors
    /// A file is missing, or the files do not belong together.
    pub fn open(
        path: impl Into<PathBuf>,
        now: SystemTime,
    ) -> Result<(Self, State), AuthorityError> {
        let mut folder = Self {
            path: path.into(),
            seen: Vec::new(),
            listed: None,
            refused: None,
        };
        folder.seen = folder.digest()?;
        let state = folder.load(now)?;
        folder.note_lists(&state, now);
        Ok((folder, state))
    }

    /// Looks whether the files changed; `None` if not.
    ///
    /// # Errors
    /// As [`PluggedFolder::open`], once for each change and once a minute after it; what was in force
    /// before stays in force.
    pub fn poll(&mut self, now: SystemTime) -> Result<Option<State>, AuthorityError> {
        let digest = self.digest()?;
        let waited = |at: SystemTime| !now.duration_since(at).is_ok_and(|time| time < AGAIN);
        let rests = match self.refused {
            Some(at) => !waited(at),
            None => self.listed.is_none_or(|listed| is_fresh(listed, now)),
        };
        if digest == self.seen && rests {
            return Ok(None);
        }
        self.seen = digest;
        let loaded = self.load(now);
        self.refused = loaded.is_err().then_some(now);
        if let Ok(state) = &loaded {
            self.note_lists(state, now);
        }
        loaded.map(Some)
    }

    fn note_lists(&mut self, state: &State, now: SystemTime) {
        self.listed = (!state.lists.pem.is_empty()).then_some(now);
    }

    fn digest(&self) -> Result<Vec<u8>, AuthorityError> {
        let mut context = Context::new(&SHA256);
        for name in [CERTIFICATE, KEY, CHAIN, ROOT, LISTS, REVOKED] {
            let bytes = disk::read_if_there(&self.path.join(name))?;
            let length = bytes.as_ref().map_or(0, |bytes| bytes.len() as u64 + 1);
            context.update(&length.to_be_bytes());
            context.update(bytes.as_deref().map_or(&[], Vec::as_slice));
        }
        Ok(context.finish().as_ref().to_vec())
    }

    fn load(&self, now: SystemTime) -> Result<State, AuthorityError> {
        let at = |name: &str| self.path.join(name);
        let content = |name: &str| {
            let path = at(name);
            move |problem: String| AuthorityError::content(&path, problem)
        };
        let bundle = TrustBundle::from_pem(&disk::read(&at(ROOT))?).map_err(content(ROOT))?;
        let own =
            pem::certificates(&disk::read(&at(CERTIFICATE))?).map_err(content(CERTIFICATE))?;
        let key = KeyPair::from_pem(&disk::read(&at(KEY))?).map_err(content(KEY))?;
        // Istio's users put the whole chain into either file.
        let mut between = own.clone();
        if let Some(chain) = disk::read_if_there(&at(CHAIN))? {
            between = pem::certificates(&chain).map_err(content(CHAIN))?;
        }
        let own = own.into_iter().next();
        let own = own.ok_or_else(|| content(CERTIFICATE)("holds no certificate".to_owned()))?;
        let issuer = Issuer::new(own, key, &between, &bundle, now).map_err(content(CERTIFICATE))?;
        let (mut revoked, _) = read_revoked(&self.path)?;
        let mut lists = RevocationLists::default();
        if let Some(text) = disk::read_if_there(&at(LISTS))? {
            let given = Lists::read(&text).map_err(content(LISTS))?;
            // What the operator lists of this authority's own certificates goes into its own list.
            let serials = given.serials_of(&issuer);
            let mut all = revoked.clone();
            let added = all.extend(serials.iter().map(Vec::as_slice));
            added.map_err(content(LISTS))?;
            let own = issuer.revocation_list(&all.serials(), now);
            // Callers may have certificates of any authority below the roots.
            given.add_to(&mut revoked);
            lists = RevocationLists {
                pem: given.with(&issuer, &own.map_err(content(LISTS))?).into(),
                whole_chain: true,
            };
            issuer
                .check_lists(&bundle, &lists.pem, now)
                .map_err(content(LISTS))?;
        } else if !revoked.is_empty() {
            let own = issuer.revocation_list(&revoked.serials(), now);
            lists.pem = own.map_err(content(REVOKED))?.into();
        }
        Ok(State {
            signer: Signer::Own(Arc::new(issuer)),
            bundle: Arc::new(bundle),
            revoked: Arc::new(revoked),
            lists,
        })
    }
}
