//! The folder of a registration authority: an external signer signs, and the files say whom the mesh
//! trusts. Read again when they change. Never writes, and never knows how the signer is reached.
//!
//! ```text
//! DIR/
//!   root-cert.pem    the signer's roots; while they change, both
//!   ca-crl.pem       the signer's list of revoked certificates; may be missing
//!   revoked.txt      serial numbers that hold no longer, if somebody wrote it
//! ```

use std::path::PathBuf;
use std::sync::Arc;

use crate::authority::{RevocationLists, Signer, State};
use crate::lists::Lists;
use crate::own::{LISTS, REVOKED, read_revoked};
use crate::signer::ExternalSigner;
use crate::{AuthorityError, TrustBundle, disk};

const ROOT: &str = "root-cert.pem";

/// See the module.
pub struct RootsFolder {
    path: PathBuf,
    signer: Arc<dyn ExternalSigner>,
    /// The texts of the files, as they were read last, used or not.
    seen: Texts,
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
    ) -> Result<(Self, State), AuthorityError> {
        let mut folder = Self {
            path: path.into(),
            signer,
            seen: Texts::new(),
        };
        folder.seen = folder.texts()?;
        let state = folder.load()?;
        Ok((folder, state))
    }

    /// Looks whether the files changed; `None` if not.
    ///
    /// # Errors
    /// As [`RootsFolder::open`], once for each change; what was in force before stays in force.
    pub fn poll(&mut self) -> Result<Option<State>, AuthorityError> {
        let texts = self.texts()?;
        if texts == self.seen {
            return Ok(None);
        }
        self.seen = texts;
        self.load().map(Some)
    }

    fn texts(&self) -> Result<Texts, AuthorityError> {
        let names = [ROOT, LISTS, REVOKED].iter();
        let texts = names.map(|name| disk::read_if_there(&self.path.join(name)));
        texts
            .map(|text| Ok(text?.map(|text| text.to_vec())))
            .collect()
    }

    fn load(&self) -> Result<State, AuthorityError> {
        let content = |name: &str| {
            let path = self.path.join(name);
            move |problem: String| AuthorityError::content(&path, problem)
        };
        let roots = disk::read(&self.path.join(ROOT))?;
        let bundle = TrustBundle::from_pem(&roots).map_err(content(ROOT))?;
        let (revoked, _) = read_revoked(&self.path)?;
        let mut lists = RevocationLists::default();
        if let Some(text) = disk::read_if_there(&self.path.join(LISTS))? {
            Lists::read(&text).map_err(content(LISTS))?;
            // The serial numbers of the other file cannot be added: the signer signs its lists.
            lists.pem = String::from_utf8_lossy(&text).as_ref().into();
        }
        Ok(State {
            signer: Signer::External(Arc::clone(&self.signer)),
            bundle: Arc::new(bundle),
            revoked: Arc::new(revoked),
            lists,
        })
    }
}
