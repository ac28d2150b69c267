//! The worlds of rules that lie in this repository, as documents.

use std::path::{Path, PathBuf};

use serde_json::Value;
use weft_proto::yaml::{self, Limits, Node, NumberValue};

/// Folders of files of rules, below the repository's root.
const FOLDERS: [&str; 2] = ["interop/istiod/worlds", "crates/sources/tests/data/good"];

/// A file of rules and the mesh configuration beside it.
#[derive(Debug)]
pub struct WrittenWorld {
    /// The file's name without its end.
    pub name: String,
    /// Its documents.
    pub documents: Vec<Value>,
    /// Istio's `MeshConfig`: the file's name and text.
    pub mesh: Option<(String, String)>,
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

impl WrittenWorld {
    /// All of them, by name.
    ///
    /// # Panics
    /// A file cannot be read.
    pub fn all() -> Vec<Self> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let mut files: Vec<PathBuf> = Vec::new();
        for folder in FOLDERS {
            let entries = std::fs::read_dir(root.join(folder)).expect("the folder is there");
            files.extend(entries.map(|entry| entry.expect("an entry").path()));
        }
        files.sort();
        let beside = |path: &Path| {
            let name = path.file_name().and_then(|name| name.to_str());
            name.is_some_and(|n| n.ends_with(".mesh.yaml") || n.ends_with(".networks.yaml"))
        };
        let worlds = files.iter().filter(|path| !beside(path));
        worlds.map(|path| Self::of(path)).collect()
    }

    fn of(path: &Path) -> Self {
        let mesh = path.with_extension("mesh.yaml");
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        Self {
            name: name.into_owned(),
            documents: documents(&read(path)),
            mesh: mesh
                .exists()
                .then(|| (mesh.display().to_string(), read(&mesh))),
        }
    }
}

fn documents(text: &str) -> Vec<Value> {
    let documents = yaml::parse(text, &Limits::default()).into_iter();
    let roots = documents.filter_map(|document| document.root);
    roots.map(|root| json(&root)).collect()
}

fn json(node: &Node) -> Value {
    match &node.value {
        yaml::Value::Null => Value::Null,
        yaml::Value::Bool(is) => (*is).into(),
        yaml::Value::Number(number) => match number.value {
            NumberValue::Int(whole) => i64::try_from(whole).unwrap_or_default().into(),
            NumberValue::Float(float) => float.into(),
        },
        yaml::Value::String(text, _) => (&**text).into(),
        yaml::Value::Seq(items) => items.iter().map(json).collect(),
        yaml::Value::Map(entries) => {
            let entries = entries.iter();
            entries
                .map(|e| (e.key.to_string(), json(&e.value)))
                .collect()
        }
    }
}
