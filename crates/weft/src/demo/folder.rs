//! The folder that holds everything of one demo: rules, bootstraps, logs. A temporary one goes
//! with the demo, a chosen one stays. Must never know what lies in it.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// The folder.
pub(crate) struct Root {
    path: PathBuf,
    temporary: bool,
}

impl Root {
    /// The chosen folder, or a new one that only this user reads.
    ///
    /// # Errors
    /// It cannot be made; the text names it.
    pub(crate) fn make(chosen: Option<&Path>) -> Result<Self, String> {
        if let Some(path) = chosen {
            std::fs::create_dir_all(path)
                .and_then(|()| path.canonicalize())
                .map(|path| Self {
                    path,
                    temporary: false,
                })
                .map_err(|error| format!("--dir {}: {error}", path.display()))
        } else {
            Self::temporary()
        }
    }

    fn temporary() -> Result<Self, String> {
        let parent = std::env::temp_dir();
        let mut last = None;
        for attempt in 0..100 {
            let path = parent.join(format!("weft-demo-{}-{attempt}", std::process::id()));
            // Never an existing one: it may be somebody else's.
            match std::fs::DirBuilder::new().mode(0o700).create(&path) {
                Ok(()) => {
                    return Ok(Self {
                        path,
                        temporary: true,
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        let error = last.map_or_else(String::new, |error| error.to_string());
        Err(format!(
            "making a folder in {}: {error}; choose one with --dir",
            parent.display()
        ))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Root {
    fn drop(&mut self) {
        if self.temporary {
            // Nothing can be done about what cannot be removed.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_and_a_chosen_one_stays() {
        let temporary = Root::make(None).expect("a folder");
        let chosen_path = temporary.path().join("chosen");
        drop(Root::make(Some(&chosen_path)).expect("a folder"));
        assert!(chosen_path.is_dir());
        let path = temporary.path().to_owned();
        drop(temporary);
        assert!(!path.exists());
    }
}
