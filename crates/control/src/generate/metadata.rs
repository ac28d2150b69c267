//! `filter_metadata.istio` of clusters and routes: which object made it, which services it
//! serves. Written with ordered maps, so that the same input gives the same bytes.

use std::collections::BTreeMap;

use prost::Message;

/// Number of `Route.metadata`.
pub(crate) const ROUTE_METADATA: u32 = 4;
/// Number of `Cluster.metadata`.
pub(crate) const CLUSTER_METADATA: u32 = 25;

#[derive(Clone, PartialEq, Message)]
struct Metadata {
    #[prost(btree_map = "string, message", tag = "1")]
    filter_metadata: BTreeMap<String, Struct>,
}

/// The wire shape of `google.protobuf.Struct`.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Struct {
    #[prost(btree_map = "string, message", tag = "1")]
    fields: BTreeMap<String, Value>,
}

/// A structure of these fields.
pub(super) fn struct_of(fields: impl IntoIterator<Item = (String, Value)>) -> Struct {
    Struct {
        fields: fields.into_iter().collect(),
    }
}

impl Struct {
    /// Texts that are fields, without those further in.
    pub(super) fn texts(&self) -> impl Iterator<Item = &str> {
        self.fields.values().filter_map(|value| match &value.kind {
            Some(Kind::Text(text)) => Some(text.as_str()),
            _ => None,
        })
    }
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct List {
    #[prost(message, repeated, tag = "1")]
    values: Vec<Value>,
}

/// The wire shape of `google.protobuf.Value`; the numbers are that message's.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Value {
    #[prost(oneof = "Kind", tags = "1, 2, 3, 4, 5, 6")]
    kind: Option<Kind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
pub(super) enum Kind {
    #[prost(int32, tag = "1")]
    Null(i32),
    #[prost(double, tag = "2")]
    Number(f64),
    #[prost(bool, tag = "4")]
    Bool(bool),
    #[prost(string, tag = "3")]
    Text(String),
    #[prost(message, tag = "5")]
    Struct(Struct),
    #[prost(message, tag = "6")]
    List(List),
}

impl Value {
    fn of(kind: Kind) -> Self {
        Self { kind: Some(kind) }
    }

    pub(super) fn text(text: &str) -> Self {
        Self::of(Kind::Text(text.to_owned()))
    }

    pub(super) fn null() -> Self {
        Self::of(Kind::Null(0))
    }

    pub(super) fn bool(flag: bool) -> Self {
        Self::of(Kind::Bool(flag))
    }

    pub(super) fn number(number: f64) -> Self {
        Self::of(Kind::Number(number))
    }

    pub(super) fn list(values: Vec<Self>) -> Self {
        Self::of(Kind::List(List { values }))
    }

    pub(super) fn object(object: Struct) -> Self {
        Self::of(Kind::Struct(object))
    }
}

fn strings<const N: usize>(pairs: [(&str, &str); N]) -> Struct {
    Struct {
        fields: pairs
            .into_iter()
            .map(|(k, v)| (k.to_owned(), Value::text(v)))
            .collect(),
    }
}

/// A service as the metadata of a cluster names it.
pub(crate) struct ServiceName<'a> {
    pub(crate) host: &'a str,
    pub(crate) name: &'a str,
    pub(crate) namespace: &'a str,
}

/// Encodes a `Metadata` message with the `istio` entry, or nothing if there is nothing to say.
pub(crate) fn istio(
    config: Option<&str>,
    services: &[ServiceName<'_>],
    subset: Option<&str>,
) -> Option<Vec<u8>> {
    encode(BTreeMap::new(), config, services, subset)
}

/// What else the metadata of a cluster tells.
#[derive(Clone, Copy, Default)]
pub(crate) struct ClusterMarks {
    /// Its servers lie outside of the mesh.
    pub(crate) external: bool,
    /// Its TLS is not the mesh's: Istio's proxies leave its ALPN as it is.
    pub(crate) own_alpn: bool,
}

/// The same for the cluster of a service, if it has one.
pub(crate) fn cluster(
    config: Option<&str>,
    service: Option<ServiceName<'_>>,
    subset: Option<&str>,
    marks: ClusterMarks,
) -> Option<Vec<u8>> {
    let mut fields = BTreeMap::new();
    if marks.external {
        fields.insert("external".to_owned(), Value::bool(true));
    }
    if marks.own_alpn {
        fields.insert("alpn_override".to_owned(), Value::text("false"));
    }
    let services = Vec::from_iter(service);
    encode(fields, config, &services, subset)
}

fn encode(
    mut fields: BTreeMap<String, Value>,
    config: Option<&str>,
    services: &[ServiceName<'_>],
    subset: Option<&str>,
) -> Option<Vec<u8>> {
    if let Some(config) = config {
        fields.insert("config".to_owned(), Value::text(config));
    }
    if let Some(subset) = subset {
        fields.insert("subset".to_owned(), Value::text(subset));
    }
    if !services.is_empty() {
        let values = services
            .iter()
            .map(|s| {
                let fields = strings([
                    ("host", s.host),
                    ("name", s.name),
                    ("namespace", s.namespace),
                ]);
                Value {
                    kind: Some(Kind::Struct(fields)),
                }
            })
            .collect();
        let list = Value {
            kind: Some(Kind::List(List { values })),
        };
        fields.insert("services".to_owned(), list);
    }
    if fields.is_empty() {
        return None;
    }
    let entry = ("istio".to_owned(), Struct { fields });
    Some(
        Metadata {
            filter_metadata: [entry].into(),
        }
        .encode_to_vec(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pb::core;
    use crate::pb::protobuf::value::Kind as PbKind;

    #[test]
    fn reads_as_envoys_metadata() {
        let services = [ServiceName {
            host: "a.b",
            name: "a",
            namespace: "b",
        }];
        let bytes = istio(Some("/apis/x"), &services, Some("v1")).expect("not empty");
        let metadata = core::v3::Metadata::decode(&bytes[..]).expect("valid bytes");
        let istio = &metadata.filter_metadata["istio"].fields;
        assert_eq!(
            istio["config"].kind,
            Some(PbKind::StringValue("/apis/x".to_owned()))
        );
        assert_eq!(
            istio["subset"].kind,
            Some(PbKind::StringValue("v1".to_owned()))
        );
        let Some(PbKind::ListValue(list)) = &istio["services"].kind else {
            panic!("a list")
        };
        let Some(PbKind::StructValue(service)) = &list.values[0].kind else {
            panic!("a struct")
        };
        assert_eq!(
            service.fields["host"].kind,
            Some(PbKind::StringValue("a.b".to_owned()))
        );
    }
}
