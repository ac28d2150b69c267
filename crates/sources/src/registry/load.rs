//! Files and directories read once, without a watch.

use std::path::{Path, PathBuf};

use weft_model::{MeshSettings, Object};
use weft_proto::Problem;

use super::scan::{self, ReadError};
use super::store::{FileStore, ObjectStatus};

/// What some files hold.
#[derive(Debug, Default)]
pub struct Loaded {
    /// The mesh.
    pub objects: Vec<Object>,
    /// Everything that is wrong, in the order of files and lines.
    pub problems: Vec<Problem>,
    /// The status of every object.
    pub statuses: Vec<ObjectStatus>,
}

/// The path that means standard input.
const STANDARD_INPUT: &str = "-";

/// Reads files and directories once, as `weft validate` does. Files are named in errors as they
/// were reached from `paths`; `-` is standard input.
pub fn load_once(paths: &[PathBuf], settings: &MeshSettings) -> Loaded {
    load_with_networks(paths, None, settings)
}

/// The same with the file of the mesh's networks.
pub fn load_with_networks(
    paths: &[PathBuf],
    networks: Option<&Path>,
    settings: &MeshSettings,
) -> Loaded {
    let mut store = FileStore::new(settings.clone());
    let mut problems = Vec::new();
    if let Some(path) = networks {
        let name = path.display().to_string();
        let bytes = scan::read(path).map_err(ReadError::into_problem);
        let text = bytes
            .as_deref()
            .map_err(Clone::clone)
            .and_then(|bytes| weft_proto::document::decode_text(&name, bytes));
        store.apply_networks(&name, text);
    }
    // It may lie among the others, and is none of them.
    let apart = networks.and_then(|path| std::fs::canonicalize(path).ok());
    for path in paths {
        problems.extend(load_path(path, apart.as_deref(), &mut store));
    }
    let statuses: Vec<ObjectStatus> = store.statuses().cloned().collect();
    problems.extend(
        statuses
            .iter()
            .flat_map(|status| status.problems.iter().cloned()),
    );
    problems.sort_by(|a, b| (&a.source, a.line, a.column).cmp(&(&b.source, b.line, b.column)));
    Loaded {
        objects: store.objects().cloned().collect(),
        problems,
        statuses,
    }
}

fn load_path(path: &Path, apart: Option<&Path>, store: &mut FileStore) -> Vec<Problem> {
    if path.as_os_str() == STANDARD_INPUT {
        let read = scan::read_from(std::io::stdin().lock(), path);
        return load_bytes(STANDARD_INPUT, read, store)
            .into_iter()
            .collect();
    }
    let scan::Listing {
        files,
        mut problems,
        ..
    } = scan::list(path);
    for file in files.keys().map(Path::new) {
        let is_it = |apart: &Path| std::fs::canonicalize(file).is_ok_and(|file| *file == *apart);
        if apart.is_some_and(is_it) {
            continue;
        }
        let name = file.display().to_string();
        problems.extend(load_bytes(&name, scan::read(file), store));
    }
    problems
}

fn load_bytes(
    name: &str,
    read: Result<Vec<u8>, ReadError>,
    store: &mut FileStore,
) -> Option<Problem> {
    match read {
        Ok(bytes) => {
            let text = weft_proto::document::decode_text(name, &bytes);
            store.apply_all([(name, Some(text))]);
            None
        }
        Err(error) => Some(*error.into_problem()),
    }
}
