//! Configurations of extensions that do not say of what type they are. An `Any` may be empty, but nothing
//! can be set up by one. Must never know which extensions there are.

use prost_reflect::{DynamicMessage, ReflectMessage};

use crate::{Any, pool};

/// Paths below `root` of fields named `typed_config` that hold an `Any` without a type, also inside of other
/// ones. Envoy finds no extension for them (`Config::Utility::getAndCheckFactory`).
pub fn find(message: &DynamicMessage, root: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (field, value) in message.fields() {
        let path = format!("{root}.{}", field.name());
        let list = value.as_list().unwrap_or(std::slice::from_ref(value));
        for (index, inner) in list.iter().enumerate() {
            let Some(inner) = inner.as_message() else {
                continue;
            };
            let path = if field.is_list() {
                format!("{path}[{index}]")
            } else {
                path.clone()
            };
            if inner.descriptor().full_name() != "google.protobuf.Any" {
                found.extend(find(inner, &path));
            } else if let Ok(any) = inner.transcode_to::<Any>() {
                if any.type_url.is_empty() && field.name() == "typed_config" {
                    found.push(path);
                } else if let Some(kind) = pool::message(pool::full_name_of(&any.type_url))
                    && let Ok(held) = DynamicMessage::decode(kind, any.value.as_slice())
                {
                    found.extend(find(&held, &path));
                }
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use prost::Message;

    use super::*;
    use crate::pack;
    use crate::pb::envoy::config::cluster::v3::Cluster;
    use crate::pb::envoy::config::core::v3::TypedExtensionConfig;

    #[test]
    fn configurations_without_a_type_are_found_wherever_they_are() {
        let empty = TypedExtensionConfig {
            name: "a".to_owned(),
            typed_config: Some(Any::default()),
        };
        let cluster = |inner| Cluster {
            upstream_config: Some(TypedExtensionConfig {
                name: "b".to_owned(),
                typed_config: Some(inner),
            }),
            typed_extension_protocol_options: [("c".to_owned(), Any::default())].into(),
            ..Cluster::default()
        };
        let found = |message: &Cluster| {
            let kind = pool::message("envoy.config.cluster.v3.Cluster").expect("known");
            let bytes = message.encode_to_vec();
            find(
                &DynamicMessage::decode(kind, bytes.as_slice()).expect("valid"),
                "x",
            )
        };
        assert_eq!(
            found(&cluster(Any::default())),
            ["x.upstream_config.typed_config"]
        );
        let nested = cluster(pack(&empty));
        assert_eq!(
            found(&nested),
            ["x.upstream_config.typed_config.typed_config"]
        );
    }
}
