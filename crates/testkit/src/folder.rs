//! The watched folder of a control plane, and the ways in which files change in it. Must never
//! know what is in them.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

/// A temporary folder of configuration, with room beside it for logs.
#[derive(Debug)]
pub struct ConfigFolder {
    root: TempDir,
}

impl Default for ConfigFolder {
    fn default() -> Self {
        Self::new()
    }
}

impl ConfigFolder {
    /// An empty one.
    pub fn new() -> Self {
        let root = tempfile::Builder::new().prefix("weft-interop-").tempdir();
        let root = root.unwrap_or_else(|error| panic!("no temporary folder: {error}"));
        for folder in ["mesh", "staging", "logs"] {
            let path = root.path().join(folder);
            std::fs::create_dir(&path).unwrap_or_else(|error| panic!("{folder}: {error}"));
        }
        Self { root }
    }

    /// The folder that is watched.
    pub fn watched(&self) -> PathBuf {
        self.root.path().join("mesh")
    }

    /// A watched file's path, as errors name it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.watched().join(name)
    }

    /// Where a program's output goes.
    pub fn log(&self, name: &str) -> PathBuf {
        self.root.path().join("logs").join(name)
    }

    /// Writes a file that nobody watches and returns its path.
    pub fn write_beside(&self, name: &str, text: &str) -> PathBuf {
        let path = self.root.path().join(name);
        put(&path, text);
        path
    }

    /// Makes `ca.pem`, `cert.pem` and `key.pem` for a server of this name, which nobody watches,
    /// and returns their folder.
    pub fn write_certificate(&self, name: &str) -> PathBuf {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]);
        let made = made.unwrap_or_else(|error| panic!("a certificate of {name}: {error}"));
        for file in ["ca.pem", "cert.pem"] {
            self.write_beside(file, &made.cert.pem());
        }
        self.write_beside("key.pem", &made.signing_key.serialize_pem());
        self.root.path().to_owned()
    }

    /// Replaces a watched file as a whole: written elsewhere, then moved.
    pub fn write(&self, name: &str, text: &str) {
        let staged = self.root.path().join("staging").join(name);
        put(&staged, text);
        let moved = std::fs::rename(&staged, self.path(name));
        moved.unwrap_or_else(|error| panic!("moving {name}: {error}"));
    }

    /// Overwrites a watched file where it is, as a careless editor does.
    pub fn write_in_place(&self, name: &str, text: &str) {
        put(&self.path(name), text);
    }

    /// Removes a watched file.
    pub fn remove(&self, name: &str) {
        let removed = std::fs::remove_file(self.path(name));
        removed.unwrap_or_else(|error| panic!("removing {name}: {error}"));
    }

    /// The text of a watched file.
    pub fn read(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.path(name));
        text.unwrap_or_else(|error| panic!("reading {name}: {error}"))
    }
}

fn put(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}
