//! One named resource: opaque bytes and their content hash. Never knows the message.

use std::sync::Arc;
use std::{fmt, slice};

use bytes::{Bytes, BytesMut};
use xxhash_rust::xxh3::{Xxh3, xxh3_64};

use crate::type_url::TypeUrl;

/// A content hash: equal bytes of one type have equal versions on every replica and after every
/// restart. Written as 16 hex digits.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version(u64);

impl Version {
    /// The version of `body` as a resource of type `type_url`.
    pub fn of(type_url: &TypeUrl, body: &[u8]) -> Self {
        Version::of_pieces(type_url, [body])
    }

    /// The version of a body that comes in pieces: it does not depend on where they part.
    fn of_pieces<'a>(type_url: &TypeUrl, pieces: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut hasher = Xxh3::new();
        hasher.update(type_url.as_str().as_bytes());
        hasher.update(&[0]);
        for piece in pieces {
            hasher.update(piece);
        }
        Version(hasher.digest())
    }

    /// A version from its number.
    pub const fn from_u64(value: u64) -> Self {
        Version(value)
    }

    /// The version as a number.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// A version that depends on both.
    #[must_use]
    pub fn mix(self, other: Version) -> Version {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&self.0.to_le_bytes());
        both[8..].copy_from_slice(&other.0.to_le_bytes());
        Version(xxh3_64(&both))
    }

    /// Reads what `Display` writes.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == 16)
            .then(|| u64::from_str_radix(text, 16).ok().map(Version))
            .flatten()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The bytes of a resource: one piece, or several that other resources share. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Body {
    pieces: Pieces,
    length: usize,
}

#[derive(Clone, Debug)]
enum Pieces {
    One(Bytes),
    Some(Arc<[Bytes]>),
}

impl Body {
    /// In bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The pieces, in their order.
    pub fn pieces(&self) -> &[Bytes] {
        match &self.pieces {
            Pieces::One(piece) => slice::from_ref(piece),
            Pieces::Some(pieces) => pieces,
        }
    }

    /// All in one piece, which is copied if there are several.
    pub fn to_bytes(&self) -> Bytes {
        match &self.pieces {
            Pieces::One(piece) => piece.clone(),
            Pieces::Some(_) => self.to_vec().into(),
        }
    }

    /// A copy.
    pub fn to_vec(&self) -> Vec<u8> {
        self.pieces().concat()
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(piece: T) -> Self {
        let piece = piece.into();
        Body {
            length: piece.len(),
            pieces: Pieces::One(piece),
        }
    }
}

/// Pieces from this size on are kept as they are; smaller neighbours are joined, once for all who are sent them.
pub(crate) const WORTH_SHARING: usize = 8 << 10;

impl FromIterator<Bytes> for Body {
    fn from_iter<I: IntoIterator<Item = Bytes>>(pieces: I) -> Self {
        let mut kept: Vec<Bytes> = Vec::new();
        let mut small = BytesMut::new();
        for piece in pieces {
            if piece.len() < WORTH_SHARING {
                small.extend_from_slice(&piece);
            }
            let large = piece.len() >= WORTH_SHARING;
            if !small.is_empty() && (large || small.len() >= 2 * WORTH_SHARING) {
                kept.push(small.split().freeze());
            }
            if large {
                kept.push(piece);
            }
        }
        if !small.is_empty() {
            kept.push(small.freeze());
        }
        Body {
            length: kept.iter().map(Bytes::len).sum(),
            pieces: Pieces::Some(kept.into()),
        }
    }
}

/// One resource, ready to be sent; cheap to clone.
#[derive(Clone)]
pub struct Resource {
    /// Unique within its type. An endpoint resource is named as its cluster.
    pub name: Arc<str>,
    /// Content hash of type and body.
    pub version: Version,
    /// The encoded message, without the `Any` around it.
    pub body: Body,
    /// For a listener: the route configurations it refers to. When the listener changes for a
    /// client, these are pushed to it again, since the client may be warming on them. (A cluster
    /// and its endpoints are linked by their equal names.)
    pub links: Option<Arc<[Arc<str>]>>,
}

impl fmt::Debug for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A body may hold a private key.
        f.debug_struct("Resource")
            .field("name", &self.name)
            .field("version", &self.version)
            .field("bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

impl Resource {
    /// A resource from its encoded message.
    pub fn new(type_url: &TypeUrl, name: impl Into<Arc<str>>, body: impl Into<Body>) -> Self {
        let body = body.into();
        let pieces = body.pieces().iter().map(|piece| &piece[..]);
        Resource {
            name: name.into(),
            version: Version::of_pieces(type_url, pieces),
            body,
            links: None,
        }
    }

    /// A resource from its message.
    pub fn encode(
        type_url: &TypeUrl,
        name: impl Into<Arc<str>>,
        message: &impl prost::Message,
    ) -> Self {
        Resource::new(type_url, name, message.encode_to_vec())
    }

    /// The same resource with the names that it refers to; see [`Resource::links`].
    #[must_use]
    pub fn with_links(mut self, links: impl IntoIterator<Item = Arc<str>>) -> Self {
        let links: Arc<[Arc<str>]> = links.into_iter().collect();
        self.links = (!links.is_empty()).then_some(links);
        self
    }

    /// Stands for a resource that a client says it has and whose content is not known here.
    pub(crate) fn stand_in(name: &str, version: Version) -> Self {
        Resource {
            name: name.into(),
            version,
            body: Bytes::new().into(),
            links: None,
        }
    }
}

/// Equal name and content.
impl PartialEq for Resource {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.version == other.version
    }
}

impl Eq for Resource {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn where_a_body_parts_is_not_seen() {
        let whole = Resource::new(&TypeUrl::ROUTE, "r", &b"abcdef"[..]);
        let pieces = ["ab", "", "cdef"].map(|p| Bytes::from_static(p.as_bytes()));
        let parted = Resource::new(&TypeUrl::ROUTE, "r", Body::from_iter(pieces));
        assert_eq!(parted.version, whole.version);
        assert_eq!(parted.body.to_bytes(), whole.body.to_bytes());
        let sizes = [
            3,
            WORTH_SHARING,
            5,
            7,
            WORTH_SHARING - 1,
            WORTH_SHARING - 1,
            9,
        ];
        let pieces = sizes.map(|size| Bytes::from(vec![7; size]));
        let large = pieces[1].as_ptr();
        let body = Body::from_iter(pieces);
        let lengths: Vec<usize> = body.pieces().iter().map(Bytes::len).collect();
        let joined = [3, WORTH_SHARING, 2 * WORTH_SHARING + 10, 9];
        assert_eq!(lengths, joined);
        assert_eq!(body.pieces()[1].as_ptr(), large, "it is shared");
        assert_eq!(body.to_vec().len(), sizes.iter().sum::<usize>());
        let none = Body::from_iter([]);
        assert!(none.is_empty() && none.pieces().is_empty() && none.to_vec().is_empty());
    }
}
