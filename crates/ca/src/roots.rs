//! The folder of a registration authority: an external signer signs, and the files say whom the mesh
//! trusts. Read again when they change. Never writes, and never knows how the signer is reached.
//!
//! ```text
//! DIR/
//!   root-cert.pem    the signer's roots; while they change, both
//!   ca-crl.pem       the signer's list of revoked certificates; may be missing
//!   cert-chain.pem   authorities below the roots whose lists are in it; may be missing
//!   revoked.txt      serial numbers that hold no longer, if somebody wrote it
//! ```

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::authority::{RevocationLists, Signer, State};
use crate::lists::Lists;
use crate::own::{LISTS, REVOKED, read_revoked};
use crate::plugged::AGAIN;
use crate::signer::ExternalSigner;
use crate::{AuthorityError, TrustBundle, disk, pem};

const CHAIN: &str = "cert-chain.pem";
const ROOT: &str = "root-cert.pem";

/// See the module.
pub struct RootsFolder {
    path: PathBuf,
    signer: Arc<dyn ExternalSigner>,
    /// The texts of the files, as they were read last, used or not.
    seen: Texts,
    /// When the first list of revoked certificates that is in force ends.
    ends: Option<SystemTime>,
    /// When the files were refused, if they were.
    refused: Option<SystemTime>,
}

type Texts = Vec<Option<Vec<u8>>>;

impl RootsFolder {
    /// Reads a folder. Beside it, what is in force.
    ///
    /// # Errors
    /// There are no roots in it, or a file cannot be used.
    pub fn open(
        path: impl Into<PathBuf>,
        signer: Arc<dyn ExternalSigner>,
        now: SystemTime,
    ) -> Result<(Self, State), AuthorityError> {
        let mut folder = Self {
            path: path.into(),
            signer,
            seen: Texts::new(),
            ends: None,
            refused: None,
        };
        folder.seen = folder.texts()?;
        let state = folder.load(now)?;
        Ok((folder, state))
    }

    /// Looks whether the files changed; `None` if not.
    ///
    /// # Errors
    /// As [`RootsFolder::open`], once for each change and once a minute after it, and when a list
    /// that is in force ends; what was in force before stays in force.
    pub fn poll(&mut self, now: SystemTime) -> Result<Option<State>, AuthorityError> {
        let texts = self.texts()?;
        let waited = |at: SystemTime| !now.duration_since(at).is_ok_and(|time| time < AGAIN);
        let rests = match self.refused {
            Some(at) => !waited(at),
            None => self.ends.is_none_or(|end| now < end),
        };
        if texts == self.seen && rests {
            return Ok(None);
        }
        self.seen = texts;
        let loaded = self.load(now);
        self.refused = loaded.is_err().then_some(now);
        loaded.map(Some)
    }

    fn texts(&self) -> Result<Texts, AuthorityError> {
        let names = [ROOT, CHAIN, LISTS, REVOKED].iter();
        let texts = names.map(|name| disk::read_if_there(&self.path.join(name)));
        texts
            .map(|text| Ok(text?.map(|text| text.to_vec())))
            .collect()
    }

    fn load(&mut self, now: SystemTime) -> Result<State, AuthorityError> {
        let content = |name: &str| {
            let path = self.path.join(name);
            move |problem: String| AuthorityError::content(&path, problem)
        };
        let roots = disk::read(&self.path.join(ROOT))?;
        let bundle = TrustBundle::from_pem(&roots).map_err(content(ROOT))?;
        let (mut revoked, _) = read_revoked(&self.path)?;
        let (mut lists, mut ends) = (RevocationLists::default(), None);
        if let Some(text) = disk::read_if_there(&self.path.join(LISTS))? {
            let given = Lists::read(&text).map_err(content(LISTS))?;
            let between = match disk::read_if_there(&self.path.join(CHAIN))? {
                Some(chain) => pem::certificates(&chain).map_err(content(CHAIN))?,
                None => Vec::new(),
            };
            let end = given.check(&bundle, &between, now);
            ends = Some(end.map_err(content(LISTS))?);
            given.add_to(&mut revoked);
            // The serial numbers of the other file cannot be added: the signer signs its lists.
            lists.pem = String::from_utf8_lossy(&text).as_ref().into();
        }
        self.ends = ends;
        Ok(State {
            signer: Signer::External(Arc::clone(&self.signer)),
            bundle: Arc::new(bundle),
            revoked: Arc::new(revoked),
            lists,
        })
    }
}
