//! Looks for files: which there are, whether they look different from before, and what is in
//! them. Every limit on what a directory may demand is here.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use weft_proto::Problem;

/// Larger files are refused.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;
/// More files are not looked at.
pub(super) const MAX_FILES: usize = 50_000;
/// Deeper directories are not looked at; a symlink that leads back to itself ends here.
const MAX_DEPTH: usize = 16;

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) modified: Option<SystemTime>,
    pub(super) length: u64,
    /// The file behind all symlinks: Kubernetes swaps a link to change what is mounted.
    target: PathBuf,
}

/// Finds files below a directory, or the one file that `path` is. What cannot be looked at is
/// returned as problems.
pub(super) fn list(path: &Path) -> (BTreeMap<PathBuf, Stamp>, Vec<Problem>) {
    let mut found = Listing::default();
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => found.directory(path, 0),
        Ok(metadata) => found.file(path.to_owned(), &metadata),
        Err(error) => found
            .problems
            .push(problem(path, format!("cannot be read: {error}"))),
    }
    if found.files.len() > MAX_FILES {
        found.problems.push(problem(
            path,
            format!("has more than {MAX_FILES} files; the rest are not read: merge some of them"),
        ));
        let last = found.files.keys().nth(MAX_FILES).cloned();
        last.map(|last| found.files.split_off(&last));
    }
    (found.files, found.problems)
}

#[derive(Default)]
struct Listing {
    files: BTreeMap<PathBuf, Stamp>,
    problems: Vec<Problem>,
}

impl Listing {
    fn directory(&mut self, path: &Path, depth: usize) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) => {
                self.problems
                    .push(problem(path, format!("cannot be read: {error}")));
                return;
            }
        };
        for entry in entries.flatten() {
            if self.files.len() > MAX_FILES {
                return;
            }
            let path = entry.path();
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            // A file that vanished between the two calls is merely not there.
            let Ok(metadata) = fs::metadata(&path) else {
                continue;
            };
            if metadata.is_dir() {
                if !name.starts_with('.') && depth < MAX_DEPTH {
                    self.directory(&path, depth + 1);
                }
            } else if is_config_file(name) {
                self.file(path, &metadata);
            }
        }
    }

    fn file(&mut self, path: PathBuf, metadata: &fs::Metadata) {
        let stamp = Stamp {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            target: fs::canonicalize(&path).unwrap_or_default(),
        };
        self.files.insert(path, stamp);
    }
}

/// YAML and JSON files that are no hidden files and no leftovers of editors (`#x.yaml#`,
/// `x.yaml~`, `.x.yaml.swp`).
pub(super) fn is_config_file(name: &str) -> bool {
    let extension = Path::new(name)
        .extension()
        .and_then(|extension| extension.to_str());
    let known = extension.is_some_and(|extension| {
        ["yaml", "yml", "json"]
            .iter()
            .any(|known| extension.eq_ignore_ascii_case(known))
    });
    known && !name.starts_with(['.', '#', '~'])
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, Box<Problem>> {
    let failed =
        |error: std::io::Error| Box::new(problem(path, format!("cannot be read: {error}")));
    let file = fs::File::open(path).map_err(failed)?;
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large, even while it grows.
    file.take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(failed)?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let text = format!(
            "the file is larger than {} MiB: split it",
            MAX_FILE_BYTES >> 20
        );
        return Err(Box::new(problem(path, text)));
    }
    Ok(bytes)
}

fn problem(path: &Path, message: String) -> Problem {
    Problem {
        source: path.display().to_string().into(),
        line: 1,
        column: 1,
        object: None,
        path: String::new(),
        message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leftovers_of_editors_are_no_configuration() {
        for good in ["a.yaml", "a.b.yml", "A.JSON"] {
            assert!(is_config_file(good), "{good}");
        }
        for bad in [
            "a.yaml~",
            ".a.yaml",
            ".a.yaml.swp",
            "#a.yaml#",
            "a.txt",
            "yaml",
            "a.yaml.tmp",
        ] {
            assert!(!is_config_file(bad), "{bad}");
        }
    }
}
