//! Where fields of objects are written, for findings that need more than one object to be seen.
//! Lines are not kept while a mesh runs: the file is read again when a finding is told.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use weft_model::{Kind, ObjectRef};
use weft_proto::document::{Document, decode_text, parse_file};
use weft_proto::{Problem, reader};

use super::scan;
use super::store::{ObjectState, ObjectStatus};
use crate::api::istio::mesh_networks;
use crate::document::model_name;

/// Something to be said of a field of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The object.
    pub object: ObjectRef,
    /// The field, e.g. `spec.http[0]`.
    pub path: String,
    /// The text.
    pub message: String,
}

/// Puts remarks to the lines where the fields are written, or to those of the objects if the
/// files are not as they were. In the order of the remarks; an object that no status knows has
/// the place `?:0`.
pub fn place<'a>(
    statuses: impl IntoIterator<Item = &'a ObjectStatus>,
    remarks: &[Remark],
) -> Vec<Problem> {
    let mut wanted: BTreeMap<&ObjectRef, Option<&ObjectStatus>> = remarks
        .iter()
        .map(|remark| (&remark.object, None))
        .collect();
    for status in statuses {
        let used = status.place == 0
            && matches!(
                status.state,
                ObjectState::Accepted | ObjectState::Conflicting | ObjectState::KeptLastGood
            );
        let name = status.object.as_ref().filter(|_| used);
        if let Some(entry) = name
            .and_then(model_name)
            .and_then(|name| wanted.get_mut(&name))
        {
            *entry = Some(status);
        }
    }
    let mut by_file: BTreeMap<&Arc<str>, Vec<usize>> = BTreeMap::new();
    for (index, remark) in remarks.iter().enumerate() {
        if let Some(Some(status)) = wanted.get(&remark.object) {
            by_file.entry(&status.source).or_default().push(index);
        }
    }
    let known = |remark: &Remark| wanted.get(&remark.object).copied().flatten();
    let mut placed: Vec<Problem> = remarks
        .iter()
        .map(|remark| at_object(remark, known(remark)))
        .collect();
    for (source, indexes) in by_file {
        let documents = documents_of(source);
        let networks = || mesh_networks::root_of(source);
        for index in indexes {
            let (Some(remark), Some(problem)) = (remarks.get(index), placed.get_mut(index)) else {
                continue;
            };
            if let Some(document) = documents.get(&remark.object) {
                *problem = document.problem(&remark.path, remark.message.as_str());
            } else if remark.object.kind == Kind::MeshNetworks
                && let Some(root) = networks()
            {
                (problem.line, problem.column) = reader::find(&root, &remark.path);
            }
        }
    }
    placed
}

fn at_object(remark: &Remark, status: Option<&ObjectStatus>) -> Problem {
    let written = status.and_then(|status| status.object.clone());
    let named = || weft_proto::ObjectRef {
        kind: remark.object.kind.as_str().to_owned(),
        namespace: remark.object.namespace.to_string(),
        name: remark.object.name.to_string(),
    };
    Problem {
        source: status.map_or_else(|| "?".into(), |status| Arc::clone(&status.source)),
        line: status.map_or(0, |status| status.line),
        column: 1,
        object: Some(written.unwrap_or_else(named)),
        path: remark.path.clone(),
        message: remark.message.clone(),
    }
}

/// The objects of a file; the first of a name counts, as it does when the file is read.
fn documents_of(source: &str) -> BTreeMap<ObjectRef, Document> {
    let mut found = BTreeMap::new();
    let Ok(bytes) = scan::read(Path::new(source)) else {
        return found;
    };
    let Ok(text) = decode_text(source, &bytes) else {
        return found;
    };
    for document in parse_file(source, text).0 {
        if let Some(name) = model_name(&document.object()) {
            found.entry(name).or_insert(document);
        }
    }
    found
}
