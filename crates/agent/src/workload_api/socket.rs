//! The Unix socket: made, guarded by the users of its callers, and removed. Never reads from
//! connections.
//!
//! The proxy has one identity, that of its workload, so that the question is only whether a process
//! is of that workload. A process of the proxy's own user or of root could read its memory and is
//! believed; for others their user must be named. The kernel says who is at the other end
//! (`SO_PEERCRED`, as of the connecting).

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{Stream, stream};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use weft_xds::server::grpc::Carrier;

use super::WorkloadApiOptions;
use super::authority::Authorities;
use crate::stats::AgentStats;

/// Connections at once; beyond them one is closed at once and counted.
const CONNECTIONS: usize = 256;
/// Of them, those of users who are told that they may not; others take no place from the workload.
const STRANGERS: usize = 8;
/// After an error of the system, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);
/// Only the proxy's own user and root.
const OWN: u32 = 0o600;
/// Anybody may connect; who is at the other end is looked at then.
const ALL: u32 = 0o666;
const ROOT: u32 = 0;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    /// Somebody serves it.
    #[error("{0}: another process serves this socket; stop it or choose another path")]
    Taken(String),
    /// Something else is there.
    #[error("{0}: is there and is no socket; choose another path")]
    NoSocket(String),
    /// The system refuses.
    #[error("{path}: {source}")]
    System {
        /// The socket.
        path: String,
        /// Why.
        source: io::Error,
    },
}

/// A socket that is listened on.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    file: SocketFile,
    own: u32,
    users: Vec<u32>,
}

/// Removes the socket's file, unless another one has taken its place.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|there| there.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Who is at the other end.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) user: Option<u32>,
    pub(super) process: Option<i32>,
    pub(super) is_believed: bool,
    _place: Arc<OwnedSemaphorePermit>,
}

/// A connection.
pub(super) type Connection = Carrier<Authorities<UnixStream>, Peer>;

impl Socket {
    pub(super) fn open(options: &WorkloadApiOptions) -> Result<Self, SocketError> {
        let path = &options.socket;
        let name = || path.display().to_string();
        let system = |source| SocketError::System {
            path: name(),
            source,
        };
        match fs::symlink_metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(system(error)),
            Ok(there) if !there.file_type().is_socket() => {
                return Err(SocketError::NoSocket(name()));
            }
            // What a process left that ended badly.
            Ok(_) if is_left(path) => fs::remove_file(path).map_err(system)?,
            Ok(_) => return Err(SocketError::Taken(name())),
        }
        let listener = bind(path, options.users.is_empty()).map_err(system)?;
        let there = fs::symlink_metadata(path).map_err(system)?;
        Ok(Self {
            listener,
            file: SocketFile {
                path: path.clone(),
                inode: there.ino(),
            },
            // The file may be another one by now.
            own: own_user().map_err(system)?,
            users: options.users.clone(),
        })
    }

    /// Connections, and the file, which goes when it is dropped.
    pub(super) fn incoming(
        self,
        stats: Arc<AgentStats>,
    ) -> (impl Stream<Item = io::Result<Connection>>, SocketFile) {
        let Self {
            listener,
            file,
            own,
            users,
        } = self;
        let places = [CONNECTIONS, STRANGERS].map(|places| Arc::new(Semaphore::new(places)));
        let accepted = stream::unfold((listener, places, stats), move |state| {
            let users = users.clone();
            async move {
                let (listener, places, stats) = &state;
                loop {
                    let stream = match listener.accept().await {
                        Ok((stream, _)) => stream,
                        Err(error) => {
                            tracing::warn!(%error, "the Workload API: accept");
                            tokio::time::sleep(PAUSE).await;
                            continue;
                        }
                    };
                    let peer = stream.peer_cred().ok();
                    let user = peer.map(|peer| peer.uid());
                    let believed = |user| user == own || user == ROOT || users.contains(&user);
                    let is_believed = user.is_some_and(believed);
                    let [own_places, of_strangers] = places;
                    let place = if is_believed {
                        own_places
                    } else {
                        of_strangers
                    };
                    let Ok(place) = Arc::clone(place).try_acquire_owned() else {
                        stats.workload_api.workload_api_overflow.inc();
                        continue;
                    };
                    let peer = Peer {
                        user,
                        process: peer.and_then(|peer| peer.pid()),
                        is_believed,
                        _place: Arc::new(place),
                    };
                    return Some((Ok(Carrier::new(Authorities::new(stream), peer)), state));
                }
            }
        });
        (accepted, file)
    }
}

/// The user of this process, as others see it on sockets.
fn own_user() -> io::Result<u32> {
    let (one, _other) = UnixStream::pair()?;
    Ok(one.peer_cred()?.uid())
}

/// Whether nobody listens.
fn is_left(path: &Path) -> bool {
    let tried = std::os::unix::net::UnixStream::connect(path);
    tried.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

fn bind(path: &Path, only_own: bool) -> io::Result<UnixListener> {
    let listener = UnixListener::bind(path)?;
    let mode = if only_own { OWN } else { ALL };
    // Meanwhile connecting is up to the umask; callers are looked at in any case.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(socket: &Path, users: &[u32]) -> WorkloadApiOptions {
        WorkloadApiOptions {
            socket: socket.to_owned(),
            users: users.to_vec(),
        }
    }

    #[tokio::test]
    async fn a_socket_that_was_left_is_replaced_and_one_in_use_or_something_else_is_not() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("api.sock");
        let mode = || fs::metadata(&path).expect("there").mode() & 0o777;
        let socket = Socket::open(&options(&path, &[])).expect("opened");
        assert_eq!(mode(), OWN);
        let taken = Socket::open(&options(&path, &[])).expect_err("in use");
        assert!(matches!(taken, SocketError::Taken(_)), "{taken}");
        drop(socket);
        assert!(!path.exists(), "it goes with its process");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("bound"));
        let socket = Socket::open(&options(&path, &[1234])).expect("nobody listens");
        assert_eq!(mode(), ALL);
        drop(socket);
        fs::write(&path, "text").expect("written");
        let other = Socket::open(&options(&path, &[])).expect_err("a file");
        assert!(matches!(other, SocketError::NoSocket(_)), "{other}");
        assert!(path.exists());
    }
}
