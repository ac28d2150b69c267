//! Files with keys: written so that only their owner reads them and no reader sees a half, read
//! within a bound. Never knows what is in them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use crate::AuthorityError;

/// Bytes of a file of certificates or keys.
const MAX_FILE: u64 = 4 << 20;
/// How files are called that are being written, behind the number of the process.
const NEW: &str = ".new";
/// After this time nobody writes them any more.
const OLD: Duration = Duration::from_mins(1);
/// Of a folder that is looked through.
const MAX_ENTRIES: usize = 65_536;
/// Permissions of others than the owner.
const OTHERS: u32 = 0o077;

fn failed(path: &Path) -> impl Fn(io::Error) -> AuthorityError {
    let path = path.display().to_string();
    move |source| AuthorityError::File {
        path: path.clone(),
        source,
    }
}

/// Makes a folder that only its owner enters; one that is there must be like that.
pub(crate) fn private_folder(path: &Path) -> Result<(), AuthorityError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(failed(path))?;
    let mode = fs::metadata(path).map_err(failed(path))?.mode();
    if mode & OTHERS != 0 {
        return Err(AuthorityError::content(
            path,
            "others than its owner may enter this folder of private keys; chmod 700 it",
        ));
    }
    Ok(())
}

/// Reads a file; its memory is wiped when it goes.
pub(crate) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    let file = File::open(path).map_err(failed(path))?;
    let length = file.metadata().map_err(failed(path))?.len();
    if length > MAX_FILE {
        return Err(AuthorityError::content(path, "is longer than 4 MiB"));
    }
    // With room for all of it from the start, so that growing leaves no copies.
    let mut bytes = Zeroizing::new(Vec::with_capacity(length as usize + 1));
    let read = file.take(MAX_FILE).read_to_end(&mut bytes);
    read.map_err(failed(path))?;
    Ok(bytes)
}

/// The same, of a file that need not be there.
pub(crate) fn read_if_there(path: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, AuthorityError> {
    match read(path) {
        Err(AuthorityError::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            Ok(None)
        }
        read => read.map(Some),
    }
}

/// Reads a private key's file, which only its owner may read.
pub(crate) fn read_private(path: &Path) -> Result<Zeroizing<Vec<u8>>, AuthorityError> {
    let mode = fs::metadata(path).map_err(failed(path))?.mode();
    if mode & OTHERS != 0 {
        return Err(AuthorityError::Readable {
            path: path.display().to_string(),
        });
    }
    read(path)
}

/// Removes what processes left that ended while they wrote: it may hold a key.
pub(crate) fn tidy(folder: &Path, now: SystemTime) {
    let Ok(entries) = fs::read_dir(folder) else {
        return;
    };
    for entry in entries.flatten().take(MAX_ENTRIES) {
        let name = entry.file_name();
        let is_left = name.to_str().is_some_and(|name| {
            let process = name
                .strip_suffix(NEW)
                .and_then(|name| name.rsplit_once('.'));
            process.is_some_and(|(_, process)| process.parse::<u32>().is_ok())
        });
        // Another process may be about to rename it.
        let is_old = |metadata: fs::Metadata| {
            let age = now.duration_since(metadata.modified().ok()?).ok()?;
            (metadata.is_file() && age > OLD).then_some(())
        };
        if is_left && entry.metadata().ok().and_then(is_old).is_some() {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Writes a file as a whole. `mode`: its permissions.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let beside = beside(path);
    let written = write_new(&beside, bytes, mode).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed(path)(error)
    })
}

/// The same, unless the file is there already; whether it was written.
pub(crate) fn write_first(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, AuthorityError> {
    let beside = beside(path);
    let written = write_new(&beside, bytes, mode).and_then(|()| fs::hard_link(&beside, path));
    let _ = fs::remove_file(&beside);
    match written {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        written => written.map(|()| true).map_err(failed(path)),
    }
}

pub(crate) fn remove(path: &Path) -> Result<(), AuthorityError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(path)(error)),
        _ => Ok(()),
    }
}

fn beside(path: &Path) -> std::path::PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}{NEW}", std::process::id()));
    name.into()
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let _ = fs::remove_file(path);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}
