//! Bundles of other trust domains, and our own in their form. Never knows how they came.
//!
//! ```text
//! DIR/
//!   example.org.json    the bundle of the trust domain example.org
//! ```
//!
//! Source: SPIFFE Trust Domain and Bundle, section 4 (spiffe.io).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde_json::{Value, json};
use weft_jwt::BASE64;
use x509_parser::prelude::{FromDer, X509Certificate};
use x509_parser::public_key::PublicKey;

use crate::authn::TrustDomains;
use crate::{AuthorityError, TrustBundle, TrustDomain, disk};

/// Trust domains of a folder.
const MAX_DOMAINS: usize = 64;
/// Bytes of all of them: every agent gets them.
const MAX_BYTES: usize = 512 * 1024;
/// Keys of a bundle.
const MAX_KEYS: usize = 256;
const ENDING: &str = ".json";
const OWN: &str = "spiffe-bundle.json";
const PUBLIC: u32 = 0o644;

/// By what identities of a trust domain are checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForeignBundle {
    /// Roots; there may be none.
    pub roots: Vec<CertificateDer<'static>>,
    /// The JWK set of its tokens; empty if there is none.
    pub jwks: Vec<u8>,
}

impl ForeignBundle {
    /// Reads a bundle. Keys for what the specification does not know are passed over.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(text: &[u8]) -> Result<Self, String> {
        let bundle: Value = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        let keys = bundle["keys"].as_array().ok_or("has no list `keys`")?;
        if keys.len() > MAX_KEYS {
            return Err(format!("has more than {MAX_KEYS} keys"));
        }
        let (mut roots, mut tokens) = (Vec::new(), Vec::new());
        for (at, key) in keys.iter().enumerate() {
            let wrong = |what: &str| format!("keys[{at}]: {what}");
            match key["use"].as_str() {
                Some("x509-svid") => {
                    let chain = key["x5c"].as_array().map_or(&[][..], Vec::as_slice);
                    let [Value::String(root)] = chain else {
                        return Err(wrong("x5c must hold the one root"));
                    };
                    let root = STANDARD
                        .decode(root)
                        .map_err(|_| wrong("x5c is not base64"))?;
                    let root = CertificateDer::from(root);
                    TrustBundle::new([root.clone()]).map_err(|problem| wrong(&problem))?;
                    roots.push(root);
                }
                Some("jwt-svid") if !key["kid"].is_string() => {
                    return Err(wrong("a key of tokens must have a kid"));
                }
                Some("jwt-svid") => tokens.push(key.clone()),
                _ => {}
            }
        }
        if roots.is_empty() && tokens.is_empty() {
            return Err(
                "has neither roots (use x509-svid) nor keys of tokens (jwt-svid)".to_owned(),
            );
        }
        let jwks = if tokens.is_empty() {
            Vec::new()
        } else {
            json!({"keys": tokens}).to_string().into_bytes()
        };
        Ok(Self { roots, jwks })
    }
}

/// Our bundle as others read it: `jwks` is the JWK set of our tokens.
pub fn own_bundle(roots: &TrustBundle, jwks: &[u8]) -> String {
    let mut keys: Vec<Value> = roots.certificates().iter().filter_map(root_key).collect();
    let tokens: Value = serde_json::from_slice(jwks).unwrap_or_default();
    keys.extend(tokens["keys"].as_array().into_iter().flatten().cloned());
    let hint = crate::jwt_keys::REFRESH.as_secs();
    format!("{:#}\n", json!({"keys": keys, "spiffe_refresh_hint": hint}))
}

/// Writes our bundle into the authority's own folder, to be copied to other trust domains.
///
/// # Errors
/// It cannot be written.
pub fn publish(folder: &Path, text: &str) -> Result<(), AuthorityError> {
    let path = folder.join(OWN);
    if disk::read_if_there(&path)?.is_none_or(|there| *there != text.as_bytes()) {
        disk::write(&path, text.as_bytes(), PUBLIC)?;
    }
    Ok(())
}

fn root_key(der: &CertificateDer<'static>) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let mut key = match certificate.public_key().parsed().ok()? {
        PublicKey::EC(point) => {
            // Uncompressed: 4, then both coordinates.
            let point = point.data().get(1..)?;
            let (x, y) = point.split_at(point.len() / 2);
            let curve = if x.len() == 32 { "P-256" } else { "P-384" };
            json!({"kty": "EC", "crv": curve, "x": BASE64.encode(x), "y": BASE64.encode(y)})
        }
        PublicKey::RSA(key) => {
            let plain = |number: &[u8]| {
                let zeros = number.iter().take_while(|byte| **byte == 0).count();
                BASE64.encode(number.get(zeros..).unwrap_or_default())
            };
            json!({"kty": "RSA", "n": plain(key.modulus), "e": plain(key.exponent)})
        }
        _ => return None,
    };
    key["use"] = json!("x509-svid");
    key["x5c"] = json!([STANDARD.encode(der)]);
    Some(key)
}

/// Bundles by their trust domains.
pub type ForeignBundles = BTreeMap<TrustDomain, ForeignBundle>;

/// A folder of bundles, which is read again when its files change.
#[derive(Debug)]
pub struct FederatedFolder {
    path: PathBuf,
    own: TrustDomains,
    /// The texts by names of files, as they were read last, used or not.
    seen: BTreeMap<String, Vec<u8>>,
}

impl FederatedFolder {
    /// Reads a folder. Beside it, what is in force.
    ///
    /// # Errors
    /// It cannot be read, or a bundle in it is wrong.
    pub fn open(
        path: impl Into<PathBuf>,
        own: TrustDomains,
    ) -> Result<(Self, ForeignBundles), AuthorityError> {
        let mut folder = Self {
            path: path.into(),
            own,
            seen: BTreeMap::new(),
        };
        folder.seen = folder.texts()?;
        let bundles = folder.load()?;
        Ok((folder, bundles))
    }

    /// Looks whether the files changed; `None` if not.
    ///
    /// # Errors
    /// As [`FederatedFolder::open`], once for each change; what was in force before stays in force.
    pub fn poll(&mut self) -> Result<Option<ForeignBundles>, AuthorityError> {
        let texts = self.texts()?;
        if texts == self.seen {
            return Ok(None);
        }
        self.seen = texts;
        self.load().map(Some)
    }

    fn texts(&self) -> Result<BTreeMap<String, Vec<u8>>, AuthorityError> {
        let failed = |source| AuthorityError::File {
            path: self.path.display().to_string(),
            source,
        };
        let mut texts = BTreeMap::new();
        let mut bytes = 0;
        for entry in std::fs::read_dir(&self.path).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let name = name.to_string_lossy();
            // Editors and tools that copy leave others.
            if name.starts_with('.') || !name.ends_with(ENDING) {
                continue;
            }
            let text = disk::read(&self.path.join(&*name))?;
            bytes += text.len();
            if texts.len() >= MAX_DOMAINS || bytes > MAX_BYTES {
                let limit = format!("holds more than {MAX_DOMAINS} bundles or 512 KiB");
                return Err(AuthorityError::content(&self.path, limit));
            }
            texts.insert(name.into_owned(), text.to_vec());
        }
        Ok(texts)
    }

    fn load(&self) -> Result<ForeignBundles, AuthorityError> {
        let mut bundles = ForeignBundles::new();
        for (name, text) in &self.seen {
            let wrong = |problem: String| AuthorityError::content(&self.path.join(name), problem);
            let domain = name.strip_suffix(ENDING).unwrap_or_default();
            let domain = TrustDomain::parse(domain).map_err(|error| wrong(error.to_string()))?;
            if domain == self.own.own || self.own.aliases.contains(&domain) {
                return Err(wrong(
                    "is of the mesh's own trust domain or an alias of it, which nobody else may \
                     confirm; remove it"
                        .to_owned(),
                ));
            }
            let bundle = ForeignBundle::read(text).map_err(wrong)?;
            bundles.insert(domain, bundle);
        }
        Ok(bundles)
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;
    use crate::{Issuer, JwtFolder, KeyKind};

    fn domain(name: &str) -> TrustDomain {
        TrustDomain::parse(name).expect("valid")
    }

    fn roots(kind: KeyKind) -> TrustBundle {
        let life = Duration::from_hours(1000);
        let made = Issuer::new_root(&domain("cluster.local"), kind, life, SystemTime::now());
        TrustBundle::new([made.expect("a root").1]).expect("a bundle")
    }

    #[test]
    fn what_is_published_is_read_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let opened = JwtFolder::open(folder.path().join("ca"), SystemTime::now());
        let (_, tokens) = opened.expect("made");
        for kind in [KeyKind::P256, KeyKind::P384, KeyKind::Rsa2048] {
            let roots = roots(kind);
            let text = own_bundle(&roots, tokens.jwks());
            let read = ForeignBundle::read(text.as_bytes()).expect("a bundle");
            assert_eq!(read.roots, roots.certificates());
            let of =
                |text: &[u8]| serde_json::from_slice::<Value>(text).expect("JSON")["keys"].clone();
            assert_eq!(of(&read.jwks), of(tokens.jwks()));
            assert!(weft_jwt::Keys::parse(&read.jwks).is_some());
            // The root's key is a JWK like any other.
            assert!(weft_jwt::Keys::parse(text.as_bytes()).is_some());
        }
    }

    #[test]
    fn bundles_that_cannot_be_used_are_refused_with_the_place() {
        let root = STANDARD.encode(&roots(KeyKind::P256).certificates()[0]);
        let good = json!({"use": "x509-svid", "x5c": [root]});
        let strange = json!({"keys": [good, {"use": "other"}, {"kty": "EC"}]});
        let read = ForeignBundle::read(strange.to_string().as_bytes()).expect("a bundle");
        assert_eq!((read.roots.len(), read.jwks.len()), (1, 0));
        for (keys, text) in [
            (json!(1), "no list"),
            (json!([]), "neither"),
            (json!([good, {"use": "x509-svid"}]), "keys[1]: x5c"),
            (json!([{"use": "x509-svid", "x5c": ["%"]}]), "base64"),
            (json!([{"use": "x509-svid", "x5c": ["AAAA"]}]), "keys[0]"),
            (json!([{"use": "jwt-svid", "kty": "EC"}]), "kid"),
        ] {
            let error = ForeignBundle::read(json!({"keys": keys}).to_string().as_bytes());
            let error = error.expect_err(text);
            assert!(error.contains(text), "{error}");
        }
        assert!(ForeignBundle::read(b"{").is_err());
    }

    #[test]
    fn a_folder_is_read_again_and_nobody_confirms_our_own_domain() {
        let folder = tempfile::tempdir().expect("a folder");
        let own = || TrustDomains {
            own: domain("cluster.local"),
            aliases: vec![domain("old.local")],
        };
        let text = own_bundle(&roots(KeyKind::P256), b"{}");
        let write = |name: &str, text: &str| {
            std::fs::write(folder.path().join(name), text).expect("written");
        };
        write("example.org.json", &text);
        write("readme.txt", "no bundle");
        let (mut watched, bundles) = FederatedFolder::open(folder.path(), own()).expect("read");
        assert!(bundles.keys().eq([&domain("example.org")]));
        assert!(watched.poll().expect("read").is_none());
        write("two.json", "{");
        let error = watched.poll().expect_err("damaged").to_string();
        assert!(error.contains("two.json"), "{error}");
        assert!(watched.poll().expect("told once").is_none());
        write("two.json", &text);
        let bundles = watched.poll().expect("read").expect("changed");
        assert_eq!(bundles.len(), 2);
        for ours in ["cluster.local.json", "old.local.json"] {
            write(ours, &text);
            let error = watched.poll().expect_err("ours").to_string();
            assert!(error.contains("own trust domain"), "{error}");
            std::fs::remove_file(folder.path().join(ours)).expect("removed");
        }
        write("cluster.local.json", &text);
        assert!(FederatedFolder::open(folder.path(), own()).is_err());
    }
}
