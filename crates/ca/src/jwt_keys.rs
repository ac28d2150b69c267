//! The keys that sign JWT-SVIDs, in the authority's own folder: made at the first start, replaced in
//! time. Never knows who gets tokens.
//!
//! ```text
//! DIR/
//!   jwt.json              which keys there are, and from when each signs
//!   jwt-<name>-key.pem    a key, 0600
//! ```
//!
//! The next key is published before it signs, and a former one while what it signed lasts, so that
//! nobody who looks every few minutes meets a token of a key that is not known.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::bundle::since_epoch;
use crate::jwt_svid::JwtKey;
use crate::key::{KeyKind, KeyPair};
use crate::{AuthorityError, CLOCK_SKEW, SpiffeId, disk, pem};

/// The longest that a token lasts.
pub const LONGEST: Duration = Duration::from_hours(1);
/// How often who judges tokens should look for keys (`spiffe_refresh_hint`).
pub const REFRESH: Duration = Duration::from_mins(5);
/// How long a key signs.
const LIFE: Duration = Duration::from_hours(30 * 24);
/// How long a key is published before it signs.
const SPREAD: Duration = Duration::from_hours(1);
/// Keys that are published at once; then the next one waits.
const MAX_KEYS: usize = 8;

const LIST: &str = "jwt.json";
const PRIVATE: u32 = 0o600;

/// What is in force: who signs tokens, and by which keys they are judged.
#[derive(Debug, Clone)]
pub struct JwtKeys {
    signing: Arc<JwtKey>,
    jwks: Arc<[u8]>,
}

impl JwtKeys {
    /// A token. `lifetime` is cut to an hour.
    ///
    /// # Errors
    /// The audiences are wrong, or the system has no random numbers.
    pub fn sign(
        &self,
        id: &SpiffeId,
        audiences: &[String],
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<String, String> {
        self.signing.sign(id, audiences, lifetime.min(LONGEST), now)
    }

    /// The keys as a JWK set in JSON.
    pub fn jwks(&self) -> &Arc<[u8]> {
        &self.jwks
    }
}

/// A key's name, which is its `kid`, and the time from which it signs. Sorted by time.
type Entry = (String, SystemTime);

/// See the module.
#[derive(Debug)]
pub struct JwtFolder {
    path: PathBuf,
    /// As the keys that were given last have it, with the one that signs.
    given: Vec<Entry>,
    signing: String,
    keys: BTreeMap<String, Arc<JwtKey>>,
}

impl JwtFolder {
    /// Opens a folder; makes it and a key if there is none.
    ///
    /// # Errors
    /// It cannot be written, or what is in it cannot be used.
    pub fn open(
        path: impl Into<PathBuf>,
        now: SystemTime,
    ) -> Result<(Self, JwtKeys), AuthorityError> {
        let path = path.into();
        disk::private_folder(&path)?;
        let _alone = disk::lock(&path)?;
        let file = path.join(LIST);
        if disk::read_if_there(&file)?.is_none() {
            let name = make(&path)?;
            let first = to_json(&[(name.clone(), now)]);
            if !disk::write_first(&file, first.as_bytes(), PRIVATE)? {
                disk::remove(&path.join(key_file(&name)))?;
            }
        }
        let mut folder = Self {
            path,
            given: Vec::new(),
            signing: String::new(),
            keys: BTreeMap::new(),
        };
        let keys = folder.load(read(&file)?, now)?;
        Ok((folder, keys))
    }

    /// Does what is due; the keys if they changed.
    ///
    /// # Errors
    /// As [`JwtFolder::open`]; what was in force before stays in force.
    pub fn poll(&mut self, now: SystemTime) -> Result<Option<JwtKeys>, AuthorityError> {
        let _alone = disk::lock(&self.path)?;
        let file = self.path.join(LIST);
        let before = read(&file)?;
        let (mut entries, needs_key) = due(before.clone(), now);
        let made = needs_key.then(|| make(&self.path)).transpose()?;
        entries.extend(made.iter().map(|name| (name.clone(), later(now, SPREAD))));
        if entries != before {
            let written = disk::write(&file, to_json(&entries).as_bytes(), PRIVATE);
            if let (Err(_), Some(name)) = (&written, &made) {
                // Or one a second would be left behind.
                let _ = disk::remove(&self.path.join(key_file(name)));
            }
            written?;
            for (name, _) in &before {
                if !entries.iter().any(|(kept, _)| kept == name) {
                    disk::remove(&self.path.join(key_file(name)))?;
                }
            }
        }
        let same = entries == self.given && signing(&entries, now) == Some(self.signing.as_str());
        if same {
            return Ok(None);
        }
        self.load(entries, now).map(Some)
    }

    fn load(&mut self, entries: Vec<Entry>, now: SystemTime) -> Result<JwtKeys, AuthorityError> {
        let mut keys = BTreeMap::new();
        for (name, _) in &entries {
            let known = self.keys.get(name).cloned();
            let key = known.map_or_else(|| read_key(&self.path, name), Ok)?;
            keys.insert(name.clone(), key);
        }
        let signing = signing(&entries, now).unwrap_or_default().to_owned();
        let signs = keys.get(&signing).map(Arc::clone);
        let signs = signs.ok_or_else(|| {
            AuthorityError::content(&self.path.join(LIST), "names no key; remove the file")
        })?;
        let jwks = json!({
            "keys": keys.values().map(|key| key.jwk()).collect::<Vec<_>>(),
            "spiffe_refresh_hint": REFRESH.as_secs(),
        });
        (self.given, self.signing, self.keys) = (entries, signing, keys);
        Ok(JwtKeys {
            signing: signs,
            jwks: jwks.to_string().into_bytes().into(),
        })
    }
}

/// The key that signs: the last one whose time has come.
fn signing(entries: &[Entry], now: SystemTime) -> Option<&str> {
    let begun = entries.iter().rfind(|(_, from)| *from <= now);
    begun.or(entries.first()).map(|(name, _)| name.as_str())
}

/// What is left of the keys at `now`, and whether another one is to be made.
fn due(mut entries: Vec<Entry>, now: SystemTime) -> (Vec<Entry>, bool) {
    for (_, from) in &mut entries {
        // The clock was ahead when it was written.
        *from = (*from).min(later(now, SPREAD));
    }
    let lasts = LONGEST.saturating_add(CLOCK_SKEW);
    while let Some((_, successor)) = entries.get(1) {
        if later(*successor, lasts) > now {
            break;
        }
        entries.remove(0);
    }
    let last = entries.last().map(|(_, from)| *from);
    let ends = last.map(|from| later(from, LIFE.saturating_sub(SPREAD)));
    let needs = ends.is_none_or(|end| end <= now) && entries.len() < MAX_KEYS;
    (entries, needs)
}

fn later(time: SystemTime, by: Duration) -> SystemTime {
    time.checked_add(by).unwrap_or(time)
}

fn key_file(name: &str) -> String {
    format!("jwt-{name}-key.pem")
}

/// Makes a key; its name.
fn make(folder: &Path) -> Result<String, AuthorityError> {
    let key = KeyPair::generate(KeyKind::P256).map_err(AuthorityError::Make)?;
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &key.public_key());
    let name = pem::hexadecimal(digest.as_ref().get(..8).unwrap_or_default());
    let path = folder.join(key_file(&name));
    disk::write(&path, key.to_pem().expose(), PRIVATE)?;
    Ok(name)
}

fn read_key(folder: &Path, name: &str) -> Result<Arc<JwtKey>, AuthorityError> {
    let path = folder.join(key_file(name));
    let key = JwtKey::from_pem(name, &disk::read_private(&path)?);
    let key = key.map_err(|problem| AuthorityError::content(&path, problem))?;
    Ok(Arc::new(key))
}

fn to_json(entries: &[Entry]) -> String {
    let entry = |(name, from): &Entry| json!({"key": name, "from": since_epoch(*from).as_secs()});
    let keys: Vec<Value> = entries.iter().map(entry).collect();
    format!("{:#}\n", json!({"keys": keys}))
}

fn read(path: &Path) -> Result<Vec<Entry>, AuthorityError> {
    let text = disk::read(path)?;
    let entries = from_json(&text).filter(|entries| (1..=MAX_KEYS).contains(&entries.len()));
    entries.ok_or_else(|| {
        AuthorityError::content(path, "is damaged; put a copy in its place, or remove it: then there is another key, and tokens that were given out are good no longer")
    })
}

/// `None` for what was not written by [`to_json`]. Times are to the second.
fn from_json(text: &[u8]) -> Option<Vec<Entry>> {
    let value: Value = serde_json::from_slice(text).ok()?;
    let entry = |value: &Value| {
        let name = value.get("key")?.as_str()?;
        let fits = !name.is_empty() && name.len() <= 64;
        let from = Duration::from_secs(value.get("from")?.as_u64()?);
        (fits && name.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(())?;
        Some((name.to_owned(), SystemTime::UNIX_EPOCH.checked_add(from)?))
    };
    let entries = value.get("keys")?.as_array()?.iter().map(entry);
    let mut entries = entries.collect::<Option<Vec<Entry>>>()?;
    entries.sort_by_key(|(_, from)| *from);
    Some(entries)
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use weft_jwt::Keys;

    use super::*;
    use crate::TrustDomain;
    use crate::jwt_svid::JwtSvid;

    const HOUR: Duration = Duration::from_hours(1);
    const MINUTE: Duration = Duration::from_mins(1);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + 500_000 * HOUR
    }

    fn cart() -> SpiffeId {
        SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/cart").expect("valid")
    }

    fn judge(
        svid: &str,
        audience: &str,
        keys: &JwtKeys,
        at: SystemTime,
    ) -> Result<SpiffeId, String> {
        let known = Keys::parse(keys.jwks()).expect("keys");
        let of = |domain: &TrustDomain| (domain.as_str() == "cluster.local").then_some(&known);
        JwtSvid::validate(svid, audience, of, at).map(|svid| svid.id)
    }

    #[test]
    fn tokens_are_good_for_their_audience_and_their_time() {
        let folder = tempfile::tempdir().expect("a folder");
        let (_, keys) = JwtFolder::open(folder.path().join("ca"), start()).expect("made");
        let audiences = ["shop".to_owned(), "bank".to_owned()];
        let svid = keys
            .sign(&cart(), &audiences, 5 * MINUTE, start())
            .expect("signed");
        assert_eq!(judge(&svid, "bank", &keys, start()), Ok(cart()));
        let refused =
            |svid: &str, audience: &str, at| judge(svid, audience, &keys, at).expect_err("refused");
        assert!(refused(&svid, "vault", start()).contains("other audiences"));
        assert!(refused(&svid, "shop", start() + 7 * MINUTE).contains("expired"));
        let (head, signature) = svid.rsplit_once('.').expect("three parts");
        let (header, _) = head.split_once('.').expect("three parts");
        let forged = json!({"sub": "spiffe://cluster.local/ns/bank/sa/vault", "aud": "shop", "exp": u32::MAX});
        let forged = weft_jwt::BASE64.encode(forged.to_string());
        let forged = format!("{header}.{forged}.{signature}");
        assert!(refused(&forged, "shop", start()).contains("verification"));
        let strange = SpiffeId::parse("spiffe://other/ns/a/sa/b").expect("valid");
        let strange = keys
            .sign(&strange, &audiences, HOUR, start())
            .expect("signed");
        assert!(refused(&strange, "shop", start()).contains("no keys of other"));
        for audiences in [&[][..], &[String::new()], &["a".repeat(2000)]] {
            assert!(keys.sign(&cart(), audiences, HOUR, start()).is_err());
        }
        let long = keys
            .sign(&cart(), &audiences, 100 * HOUR, start())
            .expect("signed");
        assert_eq!(JwtSvid::read(&long).expect("read").expiry, start() + HOUR);
    }

    /// What is no JWT-SVID although a key of the domain signed it, or a shared key would.
    #[test]
    fn tokens_that_the_specification_forbids_are_refused() {
        let part = |value: &Value| weft_jwt::BASE64.encode(value.to_string());
        let claims = json!({"sub": cart().to_string(), "aud": "a", "exp": u32::MAX});
        let read = |header: &Value, claims: &Value| {
            JwtSvid::read(&format!(
                "{}.{}.{}",
                part(header),
                part(claims),
                part(&json!(1))
            ))
        };
        let es = json!({"alg": "ES256"});
        read(&es, &claims).expect("it has the form");
        for header in [
            json!({"alg": "HS256"}),
            json!({"alg": "EdDSA"}),
            json!({"alg": "none"}),
            json!({"alg": "ES256", "typ": "at+jwt"}),
        ] {
            read(&header, &claims).expect_err(&header.to_string());
        }
        for (name, value) in [
            ("sub", json!("cart")),
            ("aud", json!([])),
            ("exp", json!(0)),
        ] {
            let mut claims = claims.clone();
            claims[name] = value;
            read(&es, &claims).expect_err(name);
        }
        assert!(JwtSvid::read("a..b.c").is_err());
    }

    #[test]
    fn nobody_who_looks_every_hour_meets_an_unknown_key() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca");
        let (mut keeper, mut keys) = JwtFolder::open(&path, start()).expect("made");
        let mut seen = keys.clone();
        let (mut signers, mut token) = (1, String::new());
        for hour in 0..(62 * 24) {
            let now = start() + hour * HOUR;
            if !token.is_empty() {
                // An hour old, and by the keys of an hour ago.
                judge(&token, "a", &keys, now).expect("the former key is known");
            }
            if let Some(next) = keeper.poll(now).expect("polled") {
                signers += usize::from(!Arc::ptr_eq(&next.signing, &keys.signing));
                keys = next;
            }
            token = keys
                .sign(&cart(), &["a".to_owned()], HOUR, now)
                .expect("signed");
            judge(&token, "a", &seen, now).expect("it was published before");
            seen = keys.clone();
        }
        assert_eq!(signers, 3, "a key a month");
        let files = || {
            std::fs::read_dir(&path)
                .expect("a folder")
                .map(|file| file.expect("a file"))
        };
        assert!(files().count() <= 3, "former keys go");
        for file in files() {
            assert_eq!(
                file.metadata().expect("there").permissions().mode() & 0o777,
                0o600
            );
        }
        let (_, again) = JwtFolder::open(&path, start() + 62 * 24 * HOUR).expect("opened");
        assert_eq!(again.jwks(), keys.jwks(), "after a restart the same keys");
    }

    #[test]
    fn a_clock_that_was_ahead_stops_nothing() {
        let days = |count: u32| start() + count * 24 * HOUR;
        let (entries, needs) = due(
            vec![("a".into(), days(0)), ("b".into(), days(4000))],
            days(1),
        );
        assert_eq!(entries[1].1, days(1) + SPREAD);
        assert!(!needs);
        assert_eq!(signing(&entries, days(2)), Some("b"));
    }

    #[test]
    fn what_is_damaged_is_named() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("ca");
        JwtFolder::open(&path, start()).expect("made");
        for text in [
            "",
            "{}",
            r#"{"keys": []}"#,
            r#"{"keys": [{"key": "../a", "from": 1}]}"#,
        ] {
            std::fs::write(path.join(LIST), text).expect("written");
            let error = JwtFolder::open(&path, start())
                .expect_err("damaged")
                .to_string();
            assert!(error.contains("jwt.json: is damaged"), "{error}");
        }
        std::fs::write(path.join(LIST), r#"{"keys": [{"key": "ab", "from": 1}]}"#)
            .expect("written");
        let error = JwtFolder::open(&path, start())
            .expect_err("no key")
            .to_string();
        assert!(error.contains("jwt-ab-key.pem"), "{error}");
    }
}
