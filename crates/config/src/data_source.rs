//! Where bytes of configuration come from. Never reads them: the process that owns I/O does.

use std::fmt;
use std::sync::Arc;

use zeroize::Zeroizing;

use crate::pass::Pass;
use crate::pb;

/// A file, an environment variable or the bytes themselves, which never show themselves: they may be
/// a key.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum DataSource {
    /// Path of a file; with the directory whose change makes it worth reading again, if named.
    File {
        /// The file to read.
        path: Arc<str>,
        /// `watched_directory.path`.
        watched_directory: Option<Arc<str>>,
    },
    /// The bytes as configured.
    Inline(bytes::Bytes),
    /// Name of an environment variable.
    Environment(Arc<str>),
}

impl fmt::Debug for DataSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { path, .. } => f.debug_tuple("File").field(path).finish(),
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Environment(name) => f.debug_tuple("Environment").field(name).finish(),
        }
    }
}

impl DataSource {
    /// Bytes that are wiped from memory when the last copy goes.
    pub fn wiped(bytes: Vec<u8>) -> Self {
        Self::Inline(bytes::Bytes::from_owner(Zeroizing::new(bytes)))
    }

    /// The path, if it is a file.
    pub fn file(&self) -> Option<&Arc<str>> {
        match self {
            Self::File { path, .. } => Some(path),
            Self::Inline(_) | Self::Environment(_) => None,
        }
    }
}

/// Reads a data source; exactly one specifier must be there.
pub(crate) fn data_source(p: &mut Pass<'_>, message: &pb::core::DataSource) -> Option<DataSource> {
    use pb::core::data_source::Specifier;
    let pb::core::DataSource {
        watched_directory,
        specifier,
    } = message;
    let watched_directory = p.opt(
        "watched_directory",
        watched_directory.as_ref(),
        |p, directory| {
            let pb::core::WatchedDirectory { path, watch_modify } = directory;
            ignore!(p, "core.WatchedDirectory"; watch_modify);
            p.name("path", path)
        },
    );
    match specifier {
        Some(Specifier::Filename(path)) => Some(DataSource::File {
            path: p.name("filename", path)?,
            watched_directory,
        }),
        Some(Specifier::InlineBytes(bytes)) => Some(DataSource::Inline(bytes.clone().into())),
        Some(Specifier::InlineString(text)) => Some(DataSource::Inline(text.clone().into())),
        Some(Specifier::EnvironmentVariable(name)) => Some(DataSource::Environment(
            p.name("environment_variable", name)?,
        )),
        None => {
            p.refuse("needs one of filename, inline_bytes, inline_string, environment_variable");
            None
        }
    }
}

/// The same for a private key.
pub(crate) fn private_key(p: &mut Pass<'_>, message: &pb::core::DataSource) -> Option<DataSource> {
    use pb::core::data_source::Specifier;
    match &message.specifier {
        Some(Specifier::InlineBytes(bytes)) => Some(DataSource::wiped(bytes.clone())),
        Some(Specifier::InlineString(text)) => Some(DataSource::wiped(text.clone().into())),
        _ => data_source(p, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn inline_bytes_do_not_show_themselves() {
        let key = DataSource::wiped(b"secret".to_vec());
        assert_eq!(format!("{key:?}"), "Inline(6 bytes)");
        assert_eq!(
            key,
            DataSource::Inline(bytes::Bytes::from_static(b"secret"))
        );
    }
}
