//! Files of objects as they are written for Kubernetes: the envelope of `apiVersion`, `kind`
//! and `metadata` around a body. It must never know what a kind means, only which message its
//! body is.

use std::sync::Arc;

use prost::{Message, Name};

use crate::{
    kubernetes::ObjectMeta,
    pool,
    presence::{self, SetField, Walk},
    problem::{ObjectRef, Problem},
    reader::{self, Fault, Options, closest},
    yaml::{self, Limits, Node},
};

/// The API group of Istio's traffic rules.
pub const ISTIO_NETWORKING: &str = "networking.istio.io";
/// Its versions, which differ in nothing that we read.
pub const ISTIO_NETWORKING_VERSIONS: [&str; 3] = ["v1", "v1beta1", "v1alpha3"];
/// Its kinds. `ProxyConfig` and `EnvoyFilter` exist in fewer versions, but do no harm in more.
pub const ISTIO_NETWORKING_KINDS: [&str; 9] = [
    "DestinationRule",
    "EnvoyFilter",
    "Gateway",
    "ProxyConfig",
    "ServiceEntry",
    "Sidecar",
    "VirtualService",
    "WorkloadEntry",
    "WorkloadGroup",
];

/// The API group of Istio's security rules.
pub const ISTIO_SECURITY: &str = "security.istio.io";
/// Its versions, which differ in nothing that we read.
pub const ISTIO_SECURITY_VERSIONS: [&str; 2] = ["v1", "v1beta1"];
/// Its kinds.
pub const ISTIO_SECURITY_KINDS: [&str; 3] = [
    "AuthorizationPolicy",
    "PeerAuthentication",
    "RequestAuthentication",
];
/// The API group of Istio's telemetry rules.
pub const ISTIO_TELEMETRY: &str = "telemetry.istio.io";
/// Its versions, which differ in nothing that we read.
pub const ISTIO_TELEMETRY_VERSIONS: [&str; 2] = ["v1", "v1alpha1"];
/// Its kinds.
pub const ISTIO_TELEMETRY_KINDS: [&str; 1] = ["Telemetry"];

/// The API group of Aeraki's rules for RPC requests.
pub const AERAKI: &str = "metaprotocol.aeraki.io";

/// The namespace of an object that names none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Lists of lists are not a thing that people write.
const MAX_LIST_DEPTH: usize = 4;

/// One object of a file. Its body becomes a message only through [`Document::read_spec`] and
/// [`Document::read_body`], which also return what is wrong with the envelope; so a document
/// with any fault cannot be used by accident, while its name is known for the last good state.
#[derive(Debug, Clone)]
pub struct Document {
    /// The file, as the user named it.
    pub source: Arc<str>,
    /// Where the object begins.
    pub line: u32,
    /// As written, e.g. `networking.istio.io/v1`.
    pub api_version: String,
    /// As written, e.g. `VirtualService`.
    pub kind: String,
    /// With `namespace` set to [`DEFAULT_NAMESPACE`] if it was empty, except for the kind
    /// `Namespace`, which lives in none.
    pub metadata: ObjectMeta,
    /// The whole object.
    pub body: Node,
    faults: Vec<Fault>,
}

/// What a document is, as far as this crate can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recognised {
    /// A kind of Istio's networking API, in a known version.
    IstioNetworking,
    /// A kind of Istio's security API, in a known version.
    IstioSecurity,
    /// A kind of Istio's telemetry API, in a known version.
    IstioTelemetry,
    /// A kind of Aeraki's API, in a known version.
    Aeraki,
    /// A plain Kubernetes object for which [`crate::kubernetes`] has a message.
    Kubernetes,
    /// Anything else: another group, or a core kind that a mesh does not read.
    Other,
}

impl Document {
    /// How messages name this object.
    pub fn object(&self) -> ObjectRef {
        ObjectRef {
            kind: self.kind.clone(),
            namespace: self.metadata.namespace.clone(),
            name: self.metadata.name.clone(),
        }
    }

    /// The API group; empty for Kubernetes' core kinds.
    pub fn group(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or("", |(group, _)| group)
    }

    /// The API version without its group.
    pub fn version(&self) -> &str {
        self.api_version
            .split_once('/')
            .map_or(&self.api_version, |(_, version)| version)
    }

    /// Which family of kinds this one belongs to. A misspelt kind or an unknown version of a
    /// known group is a problem; a group that is not known is not.
    #[allow(clippy::result_large_err)] // asked once for a document, and `?` serves the caller
    pub fn recognise(&self) -> Result<Recognised, Problem> {
        match (self.group(), self.kind.as_str()) {
            (ISTIO_NETWORKING, kind) => {
                self.known(kind, &ISTIO_NETWORKING_KINDS, &ISTIO_NETWORKING_VERSIONS)?;
                Ok(Recognised::IstioNetworking)
            }
            (ISTIO_SECURITY, kind) => {
                self.known(kind, &ISTIO_SECURITY_KINDS, &ISTIO_SECURITY_VERSIONS)?;
                Ok(Recognised::IstioSecurity)
            }
            (ISTIO_TELEMETRY, kind) => {
                self.known(kind, &ISTIO_TELEMETRY_KINDS, &ISTIO_TELEMETRY_VERSIONS)?;
                Ok(Recognised::IstioTelemetry)
            }
            (AERAKI, kind @ "MetaRouter") => {
                self.known(kind, &["MetaRouter"], &["v1alpha1"])?;
                Ok(Recognised::Aeraki)
            }
            ("", "Service" | "Endpoints" | "Pod" | "Namespace" | "Secret" | "ConfigMap")
            | ("discovery.k8s.io", "EndpointSlice") => Ok(Recognised::Kubernetes),
            _ => Ok(Recognised::Other),
        }
    }

    /// Whether its group has the kind in the version.
    #[allow(clippy::result_large_err)] // as its caller
    fn known(&self, kind: &str, kinds: &[&'static str], versions: &[&str]) -> Result<(), Problem> {
        if !kinds.contains(&kind) {
            let near = closest(kind, kinds.iter().copied());
            let hint = near.map_or_else(
                || format!("it must be one of {}", kinds.join(", ")),
                |near| format!("did you mean {near:?}?"),
            );
            return Err(self.problem("kind", format!("unknown kind {kind:?}, {hint}")));
        }
        if !versions.contains(&self.version()) {
            let message = format!(
                "unknown version {:?} of {}, it must be one of {}",
                self.version(),
                self.group(),
                versions.join(", ")
            );
            return Err(self.problem("apiVersion", message));
        }
        Ok(())
    }

    /// The full name of the message that this document's `spec` (Istio) or whole body
    /// (Kubernetes) is, for kinds that are recognised.
    pub fn message_name(&self) -> Option<String> {
        match self.recognise().ok()? {
            Recognised::IstioNetworking if self.kind == "ProxyConfig" => {
                Some("istio.networking.v1beta1.ProxyConfig".to_owned())
            }
            Recognised::IstioNetworking => Some(format!("istio.networking.v1alpha3.{}", self.kind)),
            Recognised::IstioSecurity => Some(format!("istio.security.v1beta1.{}", self.kind)),
            Recognised::IstioTelemetry => Some(format!("istio.telemetry.v1alpha1.{}", self.kind)),
            Recognised::Aeraki => Some(format!("aeraki.metaprotocol.v1alpha1.{}", self.kind)),
            Recognised::Kubernetes => Some(format!("weft.kubernetes.v1.{}", self.kind)),
            Recognised::Other => None,
        }
    }

    /// The node under `spec`, if there is one.
    pub fn spec(&self) -> Option<&Node> {
        self.body.get("spec").filter(|node| !node.is_null())
    }

    /// What is wrong with the envelope, doubled keys included. [`Document::read_spec`] and
    /// [`Document::read_body`] return these too; ask for them only if neither is called.
    pub fn envelope_problems(&self) -> Vec<Problem> {
        self.problems(self.faults.clone())
    }

    /// Reads `spec`, strictly, as Istio's messages want it; an absent `spec` is an empty one.
    /// On error every fault of the document is listed.
    pub fn read_spec<M: Message + Name + Default>(&self) -> Result<M, Vec<Problem>> {
        let mut faults = self.faults.clone();
        let known = ["apiVersion", "kind", "metadata", "spec", "status"];
        for entry in self.body.entries().unwrap_or_default() {
            if !known.contains(&&*entry.key) {
                let hint = closest(&entry.key, known.into_iter()).map_or_else(
                    || format!(", an object has {}", known.join(", ")),
                    |near| format!(", did you mean {near:?}?"),
                );
                let message = format!("unknown field {:?}{hint}", entry.key);
                let path = entry.key.to_string();
                faults.push(Fault {
                    line: entry.line,
                    column: entry.column,
                    path,
                    message,
                });
            }
        }
        let message = match self.spec() {
            Some(spec) => reader::read(spec, "spec", Options::ISTIO),
            None => Ok(M::default()),
        };
        self.outcome(message, faults)
    }

    /// Reads the whole object, as the messages of [`crate::kubernetes`] want it: fields that
    /// these do not have are of no interest to a mesh and are left out.
    pub fn read_body<M: Message + Name + Default>(&self) -> Result<M, Vec<Problem>> {
        let message = reader::read(&self.body, "", Options::KUBERNETES);
        // The envelope's faults list those of the metadata already.
        let message = message.map_err(|faults: Vec<Fault>| {
            faults
                .into_iter()
                .filter(|fault| !self.faults.contains(fault))
                .collect()
        });
        self.outcome(message, self.faults.clone())
    }

    /// The same document without the fields at these places (line and column), whose faults are told
    /// already: what is left can be read, so that all that is wrong is told at once. Also gives the
    /// paths of what is left out.
    pub fn without(&self, places: &[(u32, u32)]) -> (Self, Vec<String>) {
        let mut document = self.clone();
        document.faults.clear();
        let removed = reader::remove_at(&mut document.body, "", places);
        (document, removed)
    }

    fn outcome<M>(
        &self,
        message: Result<M, Vec<Fault>>,
        mut faults: Vec<Fault>,
    ) -> Result<M, Vec<Problem>> {
        let message = message.map_err(|more| faults.extend(more)).ok();
        match message {
            Some(message) if faults.is_empty() => Ok(message),
            _ => {
                faults.sort_by_key(|fault| (fault.line, fault.column));
                Err(self.problems(faults))
            }
        }
    }

    fn problems(&self, faults: Vec<Fault>) -> Vec<Problem> {
        let object = self.object();
        faults
            .into_iter()
            .map(|fault| Problem::from_fault(&self.source, Some(&object), fault))
            .collect()
    }

    /// A problem with a field of this object that a later stage found; the line is that of the
    /// field, or of the nearest one above it that is written.
    pub fn problem(&self, path: &str, message: impl Into<String>) -> Problem {
        let (line, column) = reader::find(&self.body, path);
        Problem {
            source: Arc::clone(&self.source),
            line,
            column,
            object: Some(self.object()),
            path: path.to_owned(),
            message: message.into(),
        }
    }

    /// Calls `visit` for every field that `spec` sets, if the kind is one of Istio's.
    pub fn visit_spec(&self, visit: &mut dyn FnMut(&SetField<'_>) -> Walk) {
        let descriptor = self.message_name().and_then(|name| pool::message(&name));
        if let (Some(descriptor), Some(spec)) = (descriptor, self.spec()) {
            presence::visit(spec, &descriptor, "spec", visit);
        }
    }
}

/// Reads a file. Problems in the list belong to no usable document (broken text, no kind, no
/// name); those of a document come from reading it. Objects of a `List` stand for themselves.
pub fn parse_file(source_name: &str, text: &str) -> (Vec<Document>, Vec<Problem>) {
    parse_file_with(source_name, text, &Limits::default())
}

/// [`parse_file`] with other limits than the default ones.
pub fn parse_file_with(
    source_name: &str,
    text: &str,
    limits: &Limits,
) -> (Vec<Document>, Vec<Problem>) {
    let mut parse = FileParse {
        source: Arc::from(source_name),
        documents: Vec::new(),
        problems: Vec::new(),
    };
    for document in yaml::parse(text, limits) {
        let faults: Vec<Fault> = document
            .errors
            .into_iter()
            .map(|e| Fault {
                line: e.line,
                column: e.column,
                path: String::new(),
                message: e.message,
            })
            .collect();
        match document.root {
            Some(root) if document.complete => parse.object(root, faults, 0),
            root => {
                let object = root.as_ref().and_then(identity);
                let source = &parse.source;
                parse.problems.extend(
                    faults
                        .into_iter()
                        .map(|f| Problem::from_fault(source, object.as_ref(), f)),
                );
            }
        }
    }
    (parse.documents, parse.problems)
}

struct FileParse {
    source: Arc<str>,
    documents: Vec<Document>,
    problems: Vec<Problem>,
}

impl FileParse {
    fn object(&mut self, body: Node, mut faults: Vec<Fault>, depth: usize) {
        let place = |node: &Node, path: &str, message: String| {
            let (line, column) = reader::find(node, path);
            Fault {
                line,
                column,
                path: path.to_owned(),
                message,
            }
        };
        if body.entries().is_none() {
            let message = format!(
                "expected an object with apiVersion, kind and metadata, got {}",
                body.describe()
            );
            faults.push(place(&body, "", message));
            return self.refuse(&body, faults);
        }
        let text = |key: &str| {
            body.get(key)
                .and_then(Node::as_str)
                .filter(|text| !text.is_empty())
        };
        let (api_version, kind) = (text("apiVersion"), text("kind"));
        let (Some(api_version), Some(kind)) = (api_version, kind) else {
            for (key, value) in [("apiVersion", api_version), ("kind", kind)] {
                if value.is_none() {
                    let message = unnamed(&body, key, kind);
                    faults.push(place(&body, key, message));
                }
            }
            return self.refuse(&body, faults);
        };
        if kind.ends_with("List")
            && body
                .get("items")
                .is_some_and(|items| items.items().is_some())
        {
            return self.list(&body, faults, depth);
        }
        let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
        let mut metadata = match body.get("metadata").filter(|node| !node.is_null()) {
            None => ObjectMeta::default(),
            Some(node) => match reader::read(node, "metadata", Options::ISTIO) {
                Ok(metadata) => metadata,
                Err(more) => {
                    faults.extend(more);
                    let named = |key| {
                        node.get(key)
                            .and_then(Node::as_str)
                            .unwrap_or("")
                            .to_owned()
                    };
                    ObjectMeta {
                        name: named("name"),
                        namespace: named("namespace"),
                        ..ObjectMeta::default()
                    }
                }
            },
        };
        if metadata.name.is_empty() {
            if faults.is_empty() || body.get("metadata").is_none() {
                faults.push(place(
                    &body,
                    "metadata.name",
                    format!("is missing: give the {kind} a name"),
                ));
            }
            return self.refuse(&body, faults);
        }
        if kind == "Namespace" {
            metadata.namespace.clear();
        } else if metadata.namespace.is_empty() {
            DEFAULT_NAMESPACE.clone_into(&mut metadata.namespace);
        }
        self.documents.push(Document {
            source: Arc::clone(&self.source),
            line: body.line,
            api_version,
            kind,
            metadata,
            body,
            faults,
        });
    }

    fn list(&mut self, body: &Node, faults: Vec<Fault>, depth: usize) {
        if !faults.is_empty() {
            return self.refuse(body, faults);
        }
        let items = body.get("items").and_then(Node::items).unwrap_or_default();
        for item in items {
            if depth >= MAX_LIST_DEPTH {
                let message = format!("lists are nested deeper than {MAX_LIST_DEPTH} levels");
                let (line, column) = (item.line, item.column);
                self.refuse(
                    item,
                    vec![Fault {
                        line,
                        column,
                        path: String::new(),
                        message,
                    }],
                );
            } else {
                self.object(item.clone(), Vec::new(), depth + 1);
            }
        }
    }

    fn refuse(&mut self, body: &Node, faults: Vec<Fault>) {
        let object = identity(body);
        let source = &self.source;
        self.problems.extend(
            faults
                .into_iter()
                .map(|f| Problem::from_fault(source, object.as_ref(), f)),
        );
    }
}

/// The name of an object whose document may be broken; it needs a kind and a name at least.
fn identity(body: &Node) -> Option<ObjectRef> {
    let kind = body.get("kind")?.as_str()?.to_owned();
    let metadata = body.get("metadata")?;
    let name = metadata.get("name")?.as_str()?.to_owned();
    let namespace = match metadata.get("namespace").and_then(Node::as_str) {
        _ if kind == "Namespace" => "",
        Some(namespace) if !namespace.is_empty() => namespace,
        _ => DEFAULT_NAMESPACE,
    };
    Some(ObjectRef {
        namespace: namespace.to_owned(),
        kind,
        name,
    })
}

/// Why an object without a sound `apiVersion` or `kind` is not one, and what to write.
fn unnamed(body: &Node, key: &str, kind: Option<&str>) -> String {
    let version = match kind {
        Some("Service" | "Endpoints" | "Pod" | "Namespace") => "v1",
        Some("EndpointSlice") => "discovery.k8s.io/v1",
        _ => "networking.istio.io/v1",
    };
    let remedy = match key {
        "kind" => "write what the object is, such as VirtualService".to_owned(),
        _ => format!("write the API that the object is of, such as {version}"),
    };
    match body.get(key) {
        Some(node) if node.as_str() == Some("") || node.is_null() => format!("is empty: {remedy}"),
        Some(node) => format!("must be a string, got {}", node.describe()),
        None => format!("is missing: {remedy}"),
    }
}

/// The text of a file; a file that is not UTF-8 is a problem with a line.
pub fn decode_text<'a>(source_name: &str, bytes: &'a [u8]) -> Result<&'a str, Box<Problem>> {
    std::str::from_utf8(bytes).map_err(|error| {
        let before = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = before.split(|byte| *byte == b'\n').count();
        let column = before
            .iter()
            .rev()
            .take_while(|byte| **byte != b'\n')
            .count()
            + 1;
        Box::new(Problem {
            source: Arc::from(source_name),
            line: u32::try_from(line).unwrap_or(u32::MAX),
            column: u32::try_from(column).unwrap_or(u32::MAX),
            object: None,
            path: String::new(),
            message: "the file is not UTF-8 text; save it as UTF-8".to_owned(),
        })
    })
}
