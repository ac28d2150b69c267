//! Looks for files: which there are, whether they look different from before, and what is in
//! them, all of a directory or only what events name. Every limit on what a directory may demand is here.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::SystemTime;

use weft_proto::Problem;

/// Larger files are refused.
pub(super) const MAX_FILE_BYTES: u64 = 64 << 20;
/// More files are not looked at.
pub(super) const MAX_FILES: usize = 50_000;
/// More directories are not looked at: links may lead to the same ones in many ways.
const MAX_DIRECTORIES: usize = 50_000;
/// Deeper directories are not looked at.
const MAX_DEPTH: usize = 16;
/// What the file system itself puts into the top of a volume, closed to all but root.
const LOST_AND_FOUND: &str = "lost+found";

/// Problems that are told of one look; the rest are counted.
const MAX_PROBLEMS: usize = 64;

/// What tells one state of a file from another without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) modified: Option<SystemTime>,
    pub(super) length: u64,
    /// When its content, mode or name changed last: `chmod` changes nothing else.
    changed: (i64, i64),
    /// Device and number of the file behind all symlinks: Kubernetes swaps a link to change what is mounted.
    inode: (u64, u64),
}

/// What looks at a directory found. Paths are compared as bytes: `Path` takes them apart each time.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub(super) files: BTreeMap<OsString, Stamp>,
    /// Files and directories that could not be looked at: what is at or below them is not known.
    unknown: BTreeSet<OsString>,
    /// Directories that were looked at.
    directories: BTreeSet<OsString>,
    /// Whether a symlink was met: what an event names is then not all that changes.
    linked: bool,
    pub(super) problems: Vec<Problem>,
    /// Problems that are not told.
    more_problems: usize,
}

/// Finds files below a directory, or the one file that `path` is.
pub(super) fn list(path: &Path) -> Listing {
    let mut found = Listing {
        linked: fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_symlink()),
        ..Listing::default()
    };
    match fs::metadata(path) {
        Ok(metadata) if metadata.is_dir() => found.directory(path, 0, &mut vec![id(&metadata)]),
        Ok(metadata) => found.file(path, &metadata),
        Err(error) => found.cannot_be_read(path, &error),
    }
    if found.is_full() {
        found.problem(
            path,
            format!(
                "has more than {MAX_FILES} files, or {MAX_DIRECTORIES} directories; the rest are not read: merge some of them"
            ),
        );
        let last = found.files.keys().nth(MAX_FILES).cloned();
        last.map(|last| found.files.split_off(&last));
        found.unknown.insert(path.into());
    }
    found.sort_problems();
    if found.more_problems > 0 {
        let text = format!("{} more problems are not told", found.more_problems);
        found.problems.push(problem(path, text));
    }
    found
}

/// Those of these files that are there.
pub(super) fn stamps(paths: &BTreeSet<OsString>) -> BTreeMap<OsString, Stamp> {
    let stamp = |path: &OsString| Some((path.clone(), Stamp::of(&fs::metadata(path).ok()?)));
    paths.iter().filter_map(stamp).collect()
}

impl Stamp {
    fn of(metadata: &fs::Metadata) -> Self {
        Self {
            modified: metadata.modified().ok(),
            length: metadata.len(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            inode: id(metadata),
        }
    }
}

impl Listing {
    /// Whether it is not known if a file is there.
    pub(super) fn is_unknown(&self, path: &OsStr) -> bool {
        let mut above = Path::new(path).ancestors();
        !self.unknown.is_empty() && above.any(|above| self.unknown.contains(above.as_os_str()))
    }

    /// Whether all of it could be looked at.
    pub(super) fn is_complete(&self) -> bool {
        self.unknown.is_empty()
    }

    fn is_full(&self) -> bool {
        let files = self.files.len() + self.unknown.len();
        files > MAX_FILES || self.directories.len() > MAX_DIRECTORIES
    }

    /// Looks again at what events named, and says which of it are, were or may be configuration files; `None` if only
    /// a look at all of the directory tells what has changed.
    pub(super) fn look_again(
        &mut self,
        directory: &Path,
        touched: &BTreeSet<OsString>,
    ) -> Option<BTreeSet<OsString>> {
        if self.linked || self.more_problems > 0 || self.is_full() {
            return None;
        }
        let mut files = BTreeSet::new();
        for path in touched {
            let name = Path::new(path).file_name()?;
            let below = Path::new(path).strip_prefix(directory).ok()?;
            if self.directories.contains(path) {
                return None;
            }
            if below.iter().any(is_hidden) || below.iter().any(|part| part == LOST_AND_FOUND) {
                continue;
            }
            // A directory that is not known yet, and whatever is in it.
            let above = Path::new(path).parent()?;
            if !self.directories.contains(above.as_os_str()) {
                return None;
            }
            match fs::symlink_metadata(path) {
                Ok(now) if now.is_dir() || now.is_symlink() => return None,
                _ => {}
            }
            self.files.remove(path);
            self.unknown.remove(path);
            let shown = Path::new(path).display().to_string();
            self.problems.retain(|problem| *problem.source != *shown);
            // It is no directory, so that nothing above it matters.
            let depth = below.components().count() - 1;
            self.entry(Path::new(path), name, depth, &mut Vec::new());
            files.insert(path.clone());
        }
        self.sort_problems();
        (!self.is_full() && self.more_problems == 0).then_some(files)
    }

    /// The order in which a directory gives its entries is any.
    fn sort_problems(&mut self) {
        self.problems.sort_by(|a, b| a.source.cmp(&b.source));
    }

    /// `above`: what tells the directory, and those through which it was reached, from others.
    fn directory(&mut self, path: &Path, depth: usize, above: &mut Vec<(u64, u64)>) {
        let entries = match fs::read_dir(path) {
            Ok(entries) => entries,
            Err(error) if depth > 0 && error.kind() == ErrorKind::NotFound => return,
            Err(error) => return self.cannot_be_read(path, &error),
        };
        self.directories.insert(path.into());
        for entry in entries {
            if self.is_full() {
                return;
            }
            match entry {
                Ok(entry) => {
                    let name = entry.file_name();
                    let followed = name != LOST_AND_FOUND && !is_hidden(&name);
                    // A hidden link is one that others lead through.
                    self.linked |= entry.file_type().is_ok_and(|kind| kind.is_symlink());
                    if followed {
                        self.entry(&entry.path(), &name, depth, above);
                    }
                }
                Err(error) => return self.cannot_be_read(path, &error),
            }
        }
    }

    fn entry(&mut self, path: &Path, name: &OsStr, depth: usize, above: &mut Vec<(u64, u64)>) {
        let shown = name.to_string_lossy();
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            // It vanished between the two calls, or is a link to nothing: it is merely not there.
            Err(error) if error.kind() == ErrorKind::NotFound => return,
            Err(error) => return self.cannot_be_read(path, &error),
        };
        if !metadata.is_dir() && !is_config_file(&shown) {
            return;
        }
        if name.to_str().is_none() {
            let text = "is not read: its name is not UTF-8; rename it".to_owned();
            self.problem(path, text);
        } else if !metadata.is_dir() {
            self.file(path, &metadata);
        } else if above.contains(&id(&metadata)) {
            // All that is in it is looked at already.
            let text = "is not read: it leads back to a directory that holds it".to_owned();
            self.problem(path, text);
        } else if depth < MAX_DEPTH {
            above.push(id(&metadata));
            self.directory(path, depth + 1, above);
            above.pop();
        } else {
            let text = format!("is not read: it is more than {MAX_DEPTH} directories deep");
            self.problem(path, text);
        }
    }

    fn file(&mut self, path: &Path, metadata: &fs::Metadata) {
        if !metadata.is_file() {
            // To open a pipe may take for ever.
            self.problem(path, "is not read: it is no regular file".to_owned());
            return;
        }
        self.files.insert(path.into(), Stamp::of(metadata));
    }

    fn cannot_be_read(&mut self, path: &Path, error: &std::io::Error) {
        self.unknown.insert(path.into());
        self.problem(path, format!("cannot be read: {error}"));
    }

    fn problem(&mut self, path: &Path, message: String) {
        if self.problems.len() < MAX_PROBLEMS {
            self.problems.push(problem(path, message));
        } else {
            self.more_problems += 1;
        }
    }
}

/// Device and number.
fn id(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

fn is_hidden(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
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

/// Why a file gives no bytes.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The file is not there any more.
    Gone(Box<Problem>),
    /// The system does not give it; it may a moment later, although the file looks the same.
    Unreadable(Box<Problem>),
    /// What it is, is refused.
    Refused(Box<Problem>),
}

impl ReadError {
    pub(super) fn into_problem(self) -> Box<Problem> {
        match self {
            Self::Gone(problem) | Self::Unreadable(problem) | Self::Refused(problem) => problem,
        }
    }
}

/// Reads a file.
pub(super) fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let file = fs::File::open(path).map_err(|error| failed(path, &error))?;
    read_from(file, path)
}

/// Reads all of something; `path` names it in errors.
pub(super) fn read_from(source: impl Read, path: &Path) -> Result<Vec<u8>, ReadError> {
    let mut bytes = Vec::new();
    // One byte more than allowed tells a file that is too large, even while it grows.
    let mut source = source.take(MAX_FILE_BYTES + 1);
    let read = source.read_to_end(&mut bytes);
    read.map_err(|error| failed(path, &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        let text = format!(
            "the file is larger than {} MiB: split it",
            MAX_FILE_BYTES >> 20
        );
        return Err(ReadError::Refused(Box::new(problem(path, text))));
    }
    Ok(bytes)
}

fn failed(path: &Path, error: &std::io::Error) -> ReadError {
    let told = Box::new(problem(path, format!("cannot be read: {error}")));
    if error.kind() == ErrorKind::NotFound {
        ReadError::Gone(told)
    } else {
        ReadError::Unreadable(told)
    }
}

pub(super) fn problem(path: &Path, message: String) -> Problem {
    Problem {
        source: path.display().to_string().into(),
        line: 0,
        column: 0,
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
    fn told(listing: &Listing) -> Vec<String> {
        listing.problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn what_cannot_be_looked_at_is_unknown_and_nothing_else_is() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::write(path("a.yaml"), "").expect("written");
        symlink(path("loop.yaml"), path("loop.yaml")).expect("linked");
        symlink(path("sub"), path("sub")).expect("linked");
        symlink(path("nothing"), path("gone.yaml")).expect("linked");
        symlink(path(".hidden"), path(".hidden")).expect("linked");
        let found = list(directory.path());
        assert_eq!(
            found.files.keys().collect::<Vec<_>>(),
            [path("a.yaml").as_os_str()]
        );
        assert!(!found.is_complete());
        for unknown in ["loop.yaml", "sub", "sub/deep/b.yaml"] {
            assert!(found.is_unknown(path(unknown).as_os_str()), "{unknown}");
        }
        for known in ["a.yaml", "gone.yaml", "other/b.yaml"] {
            assert!(!found.is_unknown(path(known).as_os_str()), "{known}");
        }
        let told = told(&found);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[0].contains("loop.yaml: cannot be read: "), "{told:?}");
    }

    #[test]
    fn links_that_lead_back_are_followed_once() {
        use std::os::unix::fs::symlink;
        let directory = tempfile::tempdir().expect("a directory");
        let path = |name: &str| directory.path().join(name);
        fs::create_dir(path("sub")).expect("created");
        fs::write(path("sub/a.yaml"), "").expect("written");
        // Each way through them would be a directory of its own: 4 to the power of the depth.
        for name in ["one", "two", "three", "sub/up"] {
            symlink(directory.path(), path(name)).expect("linked");
        }
        let found = list(directory.path());
        assert_eq!(
            found.files.keys().collect::<Vec<_>>(),
            [path("sub/a.yaml").as_os_str()]
        );
        let told = told(&found);
        assert_eq!(told.len(), 4, "{told:?}");
        assert!(told[0].contains("leads back"), "{told:?}");
        assert!(found.is_complete(), "nothing is missing");
    }

    #[test]
    fn what_is_passed_over_is_told() {
        use std::os::unix::ffi::OsStrExt;
        let directory = tempfile::tempdir().expect("a directory");
        let mut deep = directory.path().to_owned();
        for _ in 0..=MAX_DEPTH {
            deep.push("d");
        }
        fs::create_dir_all(&deep).expect("created");
        fs::write(deep.join("a.yaml"), "").expect("written");
        fs::write(directory.path().join(OsStr::from_bytes(b"\xff.yaml")), "").expect("written");
        fs::write(directory.path().join(OsStr::from_bytes(b"\xff.txt")), "").expect("written");
        fs::create_dir(directory.path().join(LOST_AND_FOUND)).expect("created");
        let _socket = std::os::unix::net::UnixListener::bind(directory.path().join("s.yaml"));
        let found = list(directory.path());
        let told = told(&found).join("\n");
        for expected in [
            "more than 16 directories deep",
            "not UTF-8",
            "no regular file",
        ] {
            assert!(told.contains(expected), "{told}");
        }
        assert_eq!(found.problems.len(), 3, "{told}");
        assert!(found.files.is_empty() && found.is_complete());
    }

    #[test]
    fn a_change_of_the_mode_alone_is_a_change() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a.yaml");
        fs::write(&file, "").expect("written");
        let before = list(directory.path()).files;
        // Clocks of file systems are coarse.
        std::thread::sleep(std::time::Duration::from_millis(30));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
        assert_ne!(before, list(directory.path()).files);
    }
}
