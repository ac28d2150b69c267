//! Certificate, key and roots as files for others on this machine (`OUTPUT_CERTS`), with Istio's
//! names: each is replaced as a whole, and only its owner reads it.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

const PRIVATE: u32 = 0o600;

/// Writes `key.pem`, `cert-chain.pem` and `root-cert.pem` into a folder, which is made if it is
/// missing. All are written before the first takes its place.
pub(crate) fn write(folder: &Path, key: &[u8], chain: &[u8], roots: &[u8]) -> Result<(), String> {
    let failed = |path: &Path, error: &io::Error| format!("{}: {error}", path.display());
    let made = DirBuilder::new().recursive(true).mode(0o700).create(folder);
    made.map_err(|error| failed(folder, &error))?;
    let files = [
        ("key.pem", key),
        ("cert-chain.pem", chain),
        ("root-cert.pem", roots),
    ];
    let mut ready: Vec<(PathBuf, PathBuf)> = Vec::new();
    let mut problem = None;
    for (name, bytes) in files {
        let path = folder.join(name);
        let beside = folder.join(format!(".{name}.{}.new", std::process::id()));
        if let Err(error) = write_new(&beside, bytes) {
            problem = Some(failed(&path, &error));
        }
        ready.push((beside, path));
    }
    for (beside, path) in ready {
        if problem.is_some() {
            let _ = fs::remove_file(&beside);
        } else if let Err(error) = fs::rename(&beside, &path) {
            problem = Some(failed(&path, &error));
        }
    }
    problem.map_or(Ok(()), Err)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    let mut file = options
        .write(true)
        .create_new(true)
        .mode(PRIVATE)
        .open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_replaced_as_a_whole_and_only_their_owner_reads_them() {
        let parent = tempfile::tempdir().expect("a folder");
        let folder = parent.path().join("certs");
        write(&folder, b"k1", b"c1", b"r1").expect("written");
        let old = fs::File::open(folder.join("key.pem")).expect("there");
        write(&folder, b"k2", b"c2", b"r2").expect("written again");
        let read = |name: &str| fs::read(folder.join(name)).expect("there");
        assert_eq!(
            [
                read("key.pem"),
                read("cert-chain.pem"),
                read("root-cert.pem")
            ],
            [b"k2".to_vec(), b"c2".to_vec(), b"r2".to_vec()]
        );
        assert_eq!(io::read_to_string(old).expect("still there"), "k1");
        let mut names = 0;
        for entry in fs::read_dir(&folder).expect("a folder") {
            let mode = entry
                .expect("an entry")
                .metadata()
                .expect("there")
                .permissions();
            assert_eq!(mode.mode() & 0o777, PRIVATE);
            names += 1;
        }
        assert_eq!(names, 3, "nothing is left beside them");
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_named() {
        let parent = tempfile::tempdir().expect("a folder");
        let file = parent.path().join("file");
        fs::write(&file, "").expect("written");
        let error = write(&file.join("certs"), b"k", b"c", b"r").expect_err("no folder");
        assert!(error.contains("file/certs"), "{error}");
    }
}
