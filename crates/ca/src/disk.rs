//! Files with keys: written so that only their owner reads them and no reader sees a half, read
//! within a bound; of processes that share a folder one writes at a time. Never knows what is in them.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use crate::{AuthorityError, pem};

/// Bytes of a file of certificates or keys.
const MAX_FILE: u64 = 4 << 20;
/// How files are called that are being written, behind a random number.
const NEW: &str = ".new";
/// Bytes of that number. Processes in containers share folders and have the same process id.
const RANDOM: usize = 8;
/// The file whose lock is held by who changes a folder.
const LOCK: &str = "lock";
/// How often the lock is tried, and the time between: five seconds in all.
const TRIES: u32 = 250;
const BETWEEN: Duration = Duration::from_millis(20);
const PRIVATE: u32 = 0o600;
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

/// Waits until no other process changes a folder. Others wait until what is returned goes, or this
/// process ends.
pub(crate) fn lock(folder: &Path) -> Result<File, AuthorityError> {
    let path = folder.join(LOCK);
    let mut options = OpenOptions::new();
    let options = options.write(true).create(true).truncate(false);
    let file = options.mode(PRIVATE).open(&path).map_err(failed(&path))?;
    for _ in 0..TRIES {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) => std::thread::sleep(BETWEEN),
            Err(TryLockError::Error(error)) => return Err(failed(&path)(error)),
        }
    }
    Err(AuthorityError::content(
        &path,
        "another process has held this lock for five seconds; it is tried again",
    ))
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
            let number = name
                .strip_suffix(NEW)
                .and_then(|name| name.rsplit_once('.'));
            number.is_some_and(|(_, number)| is_number(number))
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

/// Of a file that is being written; earlier versions had the process id, in decimal digits.
fn is_number(text: &str) -> bool {
    let random = text.len() == 2 * RANDOM && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    random || text.parse::<u32>().is_ok()
}

/// Writes a file as a whole. `mode`: its permissions.
pub(crate) fn write(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AuthorityError> {
    let beside = beside(path).map_err(failed(path))?;
    let written = write_new(&beside, bytes, mode).and_then(|()| fs::rename(&beside, path));
    written.map_err(|error| {
        let _ = fs::remove_file(&beside);
        failed(path)(error)
    })
}

/// The same, unless the file is there already; whether it was written.
pub(crate) fn write_first(path: &Path, bytes: &[u8], mode: u32) -> Result<bool, AuthorityError> {
    let beside = beside(path).map_err(failed(path))?;
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

/// The name of a file that is being written, which no other process takes.
fn beside(path: &Path) -> io::Result<PathBuf> {
    #[cfg(test)]
    tests::fail(path)?;
    let mut number = [0; RANDOM];
    aws_lc_rs::rand::fill(&mut number)
        .map_err(|_| io::Error::other("the system has no random numbers"))?;
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{}{NEW}", pem::hexadecimal(&number)));
    Ok(name.into())
}

fn write_new(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

#[cfg(test)]
pub(crate) mod tests {
    use std::cell::Cell;

    use super::*;

    thread_local! {
        /// Name of a file that this thread cannot write.
        pub(crate) static UNWRITABLE: Cell<&'static str> = const { Cell::new("") };
    }

    pub(super) fn fail(path: &Path) -> io::Result<()> {
        let name = UNWRITABLE.get();
        if !name.is_empty() && path.ends_with(name) {
            return Err(io::Error::other("the disk is full"));
        }
        Ok(())
    }

    #[test]
    fn files_being_written_share_no_name() {
        let path = Path::new("/folder/roots.json");
        let (one, other) = (beside(path).expect("made"), beside(path).expect("made"));
        assert_ne!(one, other, "process ids are equal in containers");
        let name = one.to_str().and_then(|name| name.strip_suffix(NEW));
        let (file, number) = name.and_then(|name| name.rsplit_once('.')).expect("both");
        assert_eq!(Path::new(file), path);
        assert!(is_number(number) && is_number("4294967295"));
        for other in ["", "json", "cafe", "00112233445566778", "0123456789abcdeg"] {
            assert!(!is_number(other), "{other}");
        }
    }

    #[test]
    fn of_many_who_write_a_first_file_one_does_and_it_is_whole() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("first");
        let write = |number: u8| write_first(&path, &[number; 10_000], PRIVATE).expect("written");
        let first: Vec<u8> = std::thread::scope(|scope| {
            let write = &write;
            let all: Vec<_> = (0..8)
                .map(|number| scope.spawn(move || write(number).then_some(number)))
                .collect();
            let all = all.into_iter();
            all.filter_map(|one| one.join().expect("ended")).collect()
        });
        let [first] = first[..] else {
            panic!("{first:?}");
        };
        assert_eq!(*read(&path).expect("there"), [first; 10_000]);
        let left = fs::read_dir(folder.path()).expect("readable").count();
        assert_eq!(left, 1, "nothing is left beside it");
    }

    #[test]
    fn one_changes_a_folder_at_a_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let held = lock(folder.path()).expect("free");
        let error = lock(folder.path()).expect_err("held").to_string();
        assert!(error.contains("lock: another process"), "{error}");
        let waited = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| lock(folder.path()).map(drop));
            std::thread::sleep(5 * BETWEEN);
            drop(held);
            waiting.join().expect("ended")
        });
        waited.expect("free in time");
    }
}
