//! One message laid over another, by the rules of Istio's `EnvoyFilter` (its `pkg/proto/merge`):
//! what the upper one sets is set; lists are appended; entries of maps replaced; messages merged
//! field by field, durations alone as a whole. A field with its default value counts as not set,
//! so that merging `{value: 0}` into a wrapper changes nothing. It must never know a message.

use prost_reflect::{DynamicMessage, Value as Field};

use crate::canonical;

/// What becomes of a list that both messages have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lists {
    /// The upper one's items come after those of the lower one.
    Append,
    /// Only the upper one's items stay.
    Replace,
}

/// The encoded `upper` laid over the encoded `lower`; both are of the type with this full name.
///
/// # Errors
/// The type is not built in, or the bytes are not of it; the text says which.
pub fn merge(full_name: &str, lower: &[u8], upper: &[u8], lists: Lists) -> Result<Vec<u8>, String> {
    let mut lower = canonical::decode(full_name, lower)?;
    merge_dynamic(&mut lower, &canonical::decode(full_name, upper)?, lists);
    Ok(canonical::encode(&lower))
}

/// [`merge`] for messages that are decoded; both must be of one type.
fn merge_dynamic(lower: &mut DynamicMessage, upper: &DynamicMessage, lists: Lists) {
    for (field, value) in upper.fields() {
        match value {
            Field::List(items) => {
                if let Some(list) = lower.get_field_mut(&field).as_list_mut() {
                    if lists == Lists::Replace {
                        list.clear();
                    }
                    list.extend(items.iter().cloned());
                }
            }
            Field::Map(entries) => {
                if let Some(map) = lower.get_field_mut(&field).as_map_mut() {
                    map.extend(entries.iter().map(|(k, v)| (k.clone(), v.clone())));
                }
            }
            Field::Message(inner) if !is_duration(inner) => {
                if let Some(message) = lower.get_field_mut(&field).as_message_mut() {
                    merge_dynamic(message, inner, lists);
                }
            }
            whole => lower.set_field(&field, whole.clone()),
        }
    }
}

fn is_duration(message: &DynamicMessage) -> bool {
    use prost_reflect::ReflectMessage as _;
    message.descriptor().full_name() == "google.protobuf.Duration"
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;
    use crate::pb::envoy::config::cluster::v3::{
        Cluster,
        cluster::{ClusterDiscoveryType, CustomClusterType, TransportSocketMatch},
    };
    use crate::pb::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
    use crate::pb::google::protobuf::{Any, Duration, UInt32Value};

    const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";

    fn over(lower: &Cluster, upper: &Cluster, lists: Lists) -> Cluster {
        let merged = merge(
            CLUSTER,
            &lower.encode_to_vec(),
            &upper.encode_to_vec(),
            lists,
        );
        Cluster::decode(&merged.expect("clusters")[..]).expect("a cluster")
    }

    fn time(seconds: i64, nanos: i32) -> Duration {
        Duration { seconds, nanos }
    }

    #[test]
    fn durations_are_replaced_as_a_whole_and_wrappers_of_nothing_change_nothing() {
        let lower = Cluster {
            name: "a".to_owned(),
            connect_timeout: Some(time(7, 5)),
            per_connection_buffer_limit_bytes: Some(UInt32Value { value: 9 }),
            ..Cluster::default()
        };
        let upper = Cluster {
            connect_timeout: Some(time(1, 0)),
            per_connection_buffer_limit_bytes: Some(UInt32Value { value: 0 }),
            ..Cluster::default()
        };
        let merged = over(&lower, &upper, Lists::Append);
        assert_eq!(merged.connect_timeout, Some(time(1, 0)));
        assert_eq!(merged.name, "a");
        let limit = merged.per_connection_buffer_limit_bytes;
        assert_eq!(limit, Some(UInt32Value { value: 9 }));
    }

    #[test]
    fn lists_are_appended_or_replaced() {
        let lower = Cluster {
            transport_socket_matches: vec![TransportSocketMatch::default()],
            ..Cluster::default()
        };
        let upper = &lower;
        let count = |lists| over(&lower, upper, lists).transport_socket_matches.len();
        assert_eq!((count(Lists::Append), count(Lists::Replace)), (2, 1));
        let silent = over(&lower, &Cluster::default(), Lists::Replace);
        assert_eq!(silent, lower, "a list that is not set replaces nothing");
    }

    #[test]
    fn of_a_oneof_the_upper_member_stays_and_an_any_keeps_bytes_that_are_not_set() {
        let socket = |url: &str, value: &[u8]| {
            let any = Any {
                type_url: url.to_owned(),
                value: value.to_vec(),
            };
            Some(TransportSocket {
                name: "s".to_owned(),
                config_type: Some(ConfigType::TypedConfig(any)),
            })
        };
        let lower = Cluster {
            cluster_discovery_type: Some(ClusterDiscoveryType::Type(3)),
            transport_socket: socket("a", b"x"),
            ..Cluster::default()
        };
        let kind = ClusterDiscoveryType::ClusterType(CustomClusterType::default());
        let upper = Cluster {
            cluster_discovery_type: Some(kind.clone()),
            transport_socket: socket("b", b""),
            ..Cluster::default()
        };
        let merged = over(&lower, &upper, Lists::Append);
        assert_eq!(merged.cluster_discovery_type, Some(kind));
        assert_eq!(merged.transport_socket, socket("b", b"x"));
    }
}
