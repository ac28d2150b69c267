//! Messages that stand alone in a file: Envoy's bootstrap, Istio's mesh configuration. It must
//! never know what their fields mean.

use std::sync::Arc;

use prost::{Message, Name};

use crate::{
    Problem,
    istio::mesh::v1alpha1::{MeshConfig, MeshNetworks, ProxyConfig},
    pb::envoy::config::bootstrap::v3::Bootstrap,
    pool,
    reader::{self, Naming, Options, UnknownFields},
    rules,
    yaml::{self, Limits, Node},
};

/// The name under which `--config-yaml` appears in messages.
pub const INLINE_SOURCE: &str = "--config-yaml";

/// Reads a YAML or JSON text that is one message. `full_name` says which message the text is;
/// `M` must be that message or one that shares its numbers.
pub fn read_yaml_message<M: Message + Default>(
    source: &str,
    text: &str,
    full_name: &str,
) -> Result<M, Vec<Problem>> {
    let root = single_document(source, text)?;
    read_node(source, &root, full_name, Options::ENVOY)
}

/// Reads Istio's mesh configuration; an empty text is an empty message.
pub fn read_mesh_config(source: &str, text: &str) -> Result<MeshConfig, Vec<Problem>> {
    if yaml::parse(text, &Limits::default()).is_empty() {
        return Ok(MeshConfig::default());
    }
    let root = single_document(source, text)?;
    read_node(source, &root, &MeshConfig::full_name(), Options::ISTIO)
}

/// Reads the networks of a mesh in Istio's form; an empty text is an empty message.
pub fn read_mesh_networks(source: &str, text: &str) -> Result<MeshNetworks, Vec<Problem>> {
    if yaml::parse(text, &Limits::default()).is_empty() {
        return Ok(MeshNetworks::default());
    }
    let root = single_document(source, text)?;
    read_node(source, &root, &MeshNetworks::full_name(), Options::ISTIO)
}

/// Reads the `ProxyConfig` that an agent of Istio says it runs with. Agents may be younger than
/// we are: fields that are not known are passed over.
pub fn read_proxy_config(source: &str, text: &str) -> Result<ProxyConfig, Vec<Problem>> {
    let root = single_document(source, text)?;
    let options = Options {
        unknown_fields: UnknownFields::Ignore,
        naming: Naming::Json,
    };
    read_node(source, &root, &ProxyConfig::full_name(), options)
}

/// The texts of a bootstrap, for the places of its fields.
#[derive(Debug)]
pub struct BootstrapTexts(Vec<(Arc<str>, Node)>);

impl BootstrapTexts {
    /// A problem with a field that a later stage found, placed at the line of the field, or of
    /// the nearest one above it that is written.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let roots: Vec<&Node> = self.0.iter().map(|(_, root)| root).collect();
        let (text, line, column) = reader::find_merged(&roots, path).unwrap_or((0, 1, 1));
        let source = self.0.get(text).map(|(source, _)| Arc::clone(source));
        Problem {
            source: source.unwrap_or_else(|| Arc::from("bootstrap")),
            line,
            column,
            object: None,
            path: path.to_owned(),
            message: message.into(),
        }
    }
}

/// Reads Envoy's bootstrap from a file's text, from the text of `--config-yaml`, or from both.
/// As in Envoy the second is merged over the first as protobuf merges: lists are joined,
/// messages merged, everything else replaced. The result is checked against the rules that
/// Envoy's messages carry.
pub fn read_bootstrap(
    file: Option<(&str, &str)>,
    config_yaml: Option<&str>,
) -> Result<Bootstrap, Vec<Problem>> {
    read_located_bootstrap(file, config_yaml).map(|(bootstrap, _)| bootstrap)
}

/// [`read_bootstrap`], with what tells the places of fields.
pub fn read_located_bootstrap(
    file: Option<(&str, &str)>,
    config_yaml: Option<&str>,
) -> Result<(Bootstrap, BootstrapTexts), Vec<Problem>> {
    let name = Bootstrap::full_name();
    let mut bootstrap = Bootstrap::default();
    let mut problems = Vec::new();
    let mut texts = BootstrapTexts(Vec::new());
    for (source, text) in file
        .into_iter()
        .chain(config_yaml.map(|text| (INLINE_SOURCE, text)))
    {
        let read = single_document(source, text).and_then(|root| {
            let message: Bootstrap = read_node(source, &root, &name, Options::ENVOY)?;
            Ok((root, message))
        });
        match read {
            Ok((root, message)) => {
                // Merging what was encoded is what protobuf defines merging to be.
                let merged = bootstrap.merge(message.encode_to_vec().as_slice());
                if let Err(error) = merged {
                    problems.push(problem_at(source, Some(&root), "", error.to_string()));
                }
                texts.0.push((Arc::from(source), root));
            }
            Err(more) => problems.extend(more),
        }
    }
    if problems.is_empty() {
        problems.extend(broken_rules(&bootstrap, &texts));
    }
    if problems.is_empty() {
        Ok((bootstrap, texts))
    } else {
        Err(problems)
    }
}

/// The rules that the merged message breaks, each placed in the text that has the field.
fn broken_rules(bootstrap: &Bootstrap, texts: &BootstrapTexts) -> Vec<Problem> {
    let violations = rules::validate(bootstrap).err().unwrap_or_default();
    violations
        .into_iter()
        .map(|violation| texts.problem(&violation.path, violation.message))
        .collect()
}

/// The only document of a text.
fn single_document(source: &str, text: &str) -> Result<Node, Vec<Problem>> {
    let mut documents = yaml::parse(text, &Limits::default()).into_iter();
    let Some(document) = documents.next() else {
        return Err(vec![problem_at(
            source,
            None,
            "",
            "the text is empty".to_owned(),
        )]);
    };
    let second = documents.next();
    let mut problems: Vec<Problem> = document
        .errors
        .into_iter()
        .map(|error| Problem {
            source: Arc::from(source),
            line: error.line,
            column: error.column,
            object: None,
            path: String::new(),
            message: error.message,
        })
        .collect();
    if let Some(root) = second.and_then(|second| second.root) {
        let message = "only one document is expected, a second one begins here".to_owned();
        problems.push(problem_at(source, Some(&root), "", message));
    }
    match document.root {
        Some(root) if problems.is_empty() => Ok(root),
        None if problems.is_empty() => Err(vec![problem_at(
            source,
            None,
            "",
            "the text is empty".to_owned(),
        )]),
        _ => Err(problems),
    }
}

fn read_node<M: Message + Default>(
    source: &str,
    root: &Node,
    full_name: &str,
    options: Options,
) -> Result<M, Vec<Problem>> {
    let failure = |message: String| vec![problem_at(source, Some(root), "", message)];
    let descriptor = pool::message(full_name)
        .ok_or_else(|| failure(format!("the type {full_name} is not built in")))?;
    let message = reader::read_dynamic(root, &descriptor, "", options).map_err(|faults| {
        let source = Arc::from(source);
        faults
            .into_iter()
            .map(|fault| Problem::from_fault(&source, None, fault))
            .collect::<Vec<_>>()
    })?;
    message
        .transcode_to()
        .map_err(|error| failure(format!("{full_name} cannot be read: {error}")))
}

fn problem_at(source: &str, root: Option<&Node>, path: &str, message: String) -> Problem {
    let (line, column) = root.map_or((1, 1), |root| reader::find(root, path));
    Problem {
        source: Arc::from(source),
        line,
        column,
        object: None,
        path: path.to_owned(),
        message,
    }
}
