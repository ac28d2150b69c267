//! Where bytes of configuration come from. Never reads them: the process that owns I/O does.

use std::sync::Arc;

use crate::pass::Pass;
use crate::pb;

/// A file, an environment variable or the bytes themselves.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
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

impl DataSource {
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
