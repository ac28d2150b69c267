//! What a workload has on its disk to say who it is: read anew for each call, since others renew
//! it. Never knows who is asked.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use weft_net::tls::{Identity, Pem, TlsError};
use zeroize::Zeroizing;

/// Bytes of a token; those of Kubernetes have 1 to 2 KB.
const MAX_TOKEN: u64 = 16 * 1024;
const CHAIN: &str = "cert-chain.pem";
const KEY: &str = "key.pem";

/// Whence a token is.
#[derive(Clone)]
pub enum TokenSource {
    /// A file, which may come later.
    File(PathBuf),
    /// The token itself.
    Text(Zeroizing<String>),
}

impl std::fmt::Debug for TokenSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("Text(redacted)"),
        }
    }
}

impl TokenSource {
    /// The token; `None` while the file is missing or empty.
    pub(crate) fn read(&self) -> Result<Option<Zeroizing<String>>, String> {
        let path = match self {
            Self::Text(text) => return Ok(Some(text.clone())),
            Self::File(path) => path,
        };
        let problem = |what: String| format!("{}: {what}", path.display());
        let text = match fs::metadata(path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(problem(error.to_string())),
            Ok(metadata) if metadata.len() > MAX_TOKEN => {
                return Err(problem("a token has up to 16 KiB".to_owned()));
            }
            Ok(_) => fs::read_to_string(path),
        };
        let text = Zeroizing::new(text.map_err(|error| problem(error.to_string()))?);
        let token = text.trim();
        if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(problem("is no token: it has other characters".to_owned()));
        }
        Ok((!token.is_empty()).then(|| Zeroizing::new(token.to_owned())))
    }
}

/// Whether a folder holds a certificate and its key.
pub(crate) fn is_provisioned(folder: &Path) -> bool {
    [CHAIN, KEY].iter().all(|name| folder.join(name).is_file())
}

/// The certificate and key of a folder.
pub(crate) fn provisioned(folder: &Path) -> Result<Identity, TlsError> {
    let read = |name: &str| Pem::read(&folder.join(name).display().to_string());
    Ok(Identity {
        chain: read(CHAIN)?,
        key: read(KEY)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tokens_file_may_come_later_and_holds_nothing_else() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        let source = TokenSource::File(path.clone());
        let read = || {
            source
                .read()
                .map(|token| token.map(|token| token.to_string()))
        };
        assert_eq!(read(), Ok(None));
        fs::write(&path, " \n").expect("written");
        assert_eq!(read(), Ok(None));
        fs::write(&path, "a.b.c\n").expect("written");
        assert_eq!(read(), Ok(Some("a.b.c".to_owned())));
        fs::write(&path, "a\nb").expect("written");
        assert!(read().expect_err("two lines").contains("is no token"));
        fs::write(&path, "a".repeat(20_000)).expect("written");
        assert!(read().expect_err("too long").contains("16 KiB"));
        let text = TokenSource::Text(Zeroizing::new("secret".to_owned()));
        assert!(!format!("{text:?}").contains("secret"));
    }

    #[test]
    fn a_folder_is_provisioned_with_both_files() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(CHAIN), "x").expect("written");
        assert!(!is_provisioned(folder.path()));
        fs::write(folder.path().join(KEY), "x").expect("written");
        assert!(is_provisioned(folder.path()));
        assert_eq!(provisioned(folder.path()).expect("read").key.bytes, b"x");
    }
}
