//! Join tokens: random, for one workload, for a short time, and good once. They are files of a
//! folder, named by the token's digest, so that who reads the folder has no token, and that of two
//! who use one only one succeeds, on whatever replica. Never knows what a token is used for.
//!
//! ```text
//! DIR/tokens/<digest>.json        one that waits for its use
//! DIR/tokens/used/<digest>.json   one that was used, until its time is over
//! ```

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::json;
use zeroize::Zeroizing;

use super::Refusal;
use crate::bundle::since_epoch;
use crate::{AuthorityError, SpiffeId, TrustDomain, disk, pem};

/// How join tokens begin; no JWT begins so, as it has dots.
const PREFIX: &str = "weft-join-";
/// Random bytes of a token.
const RANDOM: usize = 32;
/// Tokens that wait for their use.
const MAX_TOKENS: usize = 10_000;
/// The longest life of a token.
pub const LONGEST: Duration = Duration::from_hours(7 * 24);
/// Folder of those that wait.
const WAITING: &str = "tokens";
const PRIVATE: u32 = 0o600;

/// A join token that was found and is not spent yet.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    file: String,
}

impl std::fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JoinToken")
    }
}

/// Whether a bearer token is one of these.
pub(super) fn is_join_token(text: &str) -> bool {
    text.starts_with(PREFIX)
}

/// The folder of join tokens.
#[derive(Debug)]
pub struct JoinTokens {
    waiting: PathBuf,
    used: PathBuf,
}

impl JoinTokens {
    /// The tokens below an authority's own folder, which is made if it is missing.
    ///
    /// # Errors
    /// The folder cannot be made, or others may enter it.
    pub fn open(folder: &Path) -> Result<Self, AuthorityError> {
        disk::private_folder(folder)?;
        let waiting = folder.join(WAITING);
        let used = waiting.join("used");
        disk::private_folder(&waiting)?;
        disk::private_folder(&used)?;
        Ok(Self { waiting, used })
    }

    /// The tokens of a control plane that has started with this folder before: nothing is made.
    ///
    /// # Errors
    /// There is none, or others may enter the folder.
    pub fn of_authority(folder: &Path) -> Result<Self, AuthorityError> {
        if !folder.join(WAITING).is_dir() {
            return Err(AuthorityError::content(
                folder,
                "is not the folder of a control plane: give that of `weft control --ca-dir`, which makes it at its first start",
            ));
        }
        Self::open(folder)
    }

    /// Makes a token for a workload.
    ///
    /// # Errors
    /// The names cannot be those of a workload, the time is too long, too many tokens wait for
    /// their use, or the folder cannot be written.
    pub fn create(
        &self,
        namespace: &str,
        service_account: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Zeroizing<String>, AuthorityError> {
        let wrong = |problem: String| AuthorityError::content(&self.waiting, problem);
        let domain = TrustDomain::parse("any").map_err(|error| wrong(error.to_string()))?;
        SpiffeId::workload(&domain, namespace, service_account)
            .map_err(|_| wrong(format!("{namespace}/{service_account} names no workload")))?;
        if lifetime > LONGEST || lifetime.is_zero() {
            return Err(wrong("a join token lasts up to 168h".to_owned()));
        }
        self.prune(now)?;
        if files(&self.waiting)?.len() >= MAX_TOKENS {
            return Err(wrong(format!(
                "{MAX_TOKENS} join tokens wait for their use"
            )));
        }
        let mut random = Zeroizing::new([0; RANDOM]);
        aws_lc_rs::rand::fill(random.as_mut())
            .map_err(|_| AuthorityError::Make("the system has no random numbers".to_owned()))?;
        let random = Zeroizing::new(URL_SAFE_NO_PAD.encode(random.as_ref()));
        let token = Zeroizing::new(format!("{PREFIX}{}", *random));
        let expires = now.checked_add(lifetime).unwrap_or(now);
        let record = json!({
            "namespace": namespace,
            "serviceAccount": service_account,
            "expires": since_epoch(expires).as_secs(),
        });
        let file = self.waiting.join(file_of(&token));
        disk::write(&file, format!("{record:#}\n").as_bytes(), PRIVATE)?;
        Ok(token)
    }

    /// The token, namespace and service account of a text.
    pub(super) fn find(
        &self,
        text: &str,
        now: SystemTime,
    ) -> Result<(JoinToken, String, String), Refusal> {
        let file = file_of(text);
        let record = match read(&self.waiting.join(&file))? {
            Some(record) => record,
            None if read(&self.used.join(&file))?.is_some() => return Err(Refusal::JoinReplayed),
            None => return Err(Refusal::JoinUnknown),
        };
        if record.expires <= now {
            return Err(Refusal::JoinExpired);
        }
        let token = JoinToken { file };
        Ok((token, record.namespace, record.service_account))
    }

    /// Uses a token up. Renaming is what only one of several can do.
    pub(super) fn spend(&self, token: &JoinToken) -> Result<(), Refusal> {
        let from = self.waiting.join(&token.file);
        match fs::rename(from, self.used.join(&token.file)) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => Err(Refusal::JoinReplayed),
            Err(error) => Err(Refusal::JoinStore(error.to_string())),
        }
    }

    /// Forgets tokens whose time is over.
    ///
    /// # Errors
    /// The folder cannot be read or written.
    pub fn prune(&self, now: SystemTime) -> Result<(), AuthorityError> {
        for folder in [&self.waiting, &self.used] {
            for path in files(folder)? {
                // What cannot be read is not forgotten: somebody shall look at it.
                if let Ok(Some(record)) = read(&path)
                    && record.expires <= now
                {
                    disk::remove(&path)?;
                }
            }
        }
        Ok(())
    }
}

struct Record {
    namespace: String,
    service_account: String,
    expires: SystemTime,
}

fn read(path: &Path) -> Result<Option<Record>, Refusal> {
    let bytes = disk::read_if_there(path);
    let Some(bytes) = bytes.map_err(|error| Refusal::JoinStore(error.to_string()))? else {
        return Ok(None);
    };
    let damaged = || Refusal::JoinStore(format!("{}: is damaged", path.display()));
    let value: serde_json::Value = serde_json::from_slice(&bytes).map_err(|_| damaged())?;
    let text = |name: &str| {
        let text = value.get(name).and_then(serde_json::Value::as_str);
        text.map(str::to_owned).ok_or_else(damaged)
    };
    let expires = value.get("expires").and_then(serde_json::Value::as_u64);
    let expires = Duration::from_secs(expires.ok_or_else(damaged)?);
    Ok(Some(Record {
        namespace: text("namespace")?,
        service_account: text("serviceAccount")?,
        expires: SystemTime::UNIX_EPOCH
            .checked_add(expires)
            .ok_or_else(damaged)?,
    }))
}

fn files(folder: &Path) -> Result<Vec<PathBuf>, AuthorityError> {
    let failed = |source| AuthorityError::File {
        path: folder.display().to_string(),
        source,
    };
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "json")
        {
            found.push(path);
        }
    }
    Ok(found)
}

fn file_of(token: &str) -> String {
    pem::hexadecimal(digest(&SHA256, token.as_bytes()).as_ref()) + ".json"
}
