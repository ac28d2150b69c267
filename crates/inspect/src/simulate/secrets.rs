//! Secrets that come from somewhere else than ADS, as from Istio's agent, made look like those of
//! ADS, which is what the data plane's code understands: whence a certificate comes changes nothing
//! about where a call goes.

use std::borrow::Cow;

use prost::Message;
use prost_reflect::{DynamicMessage, ReflectMessage, Value};
use weft_proto::pool;

const SDS: &str = "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig";
const ANY: &str = "google.protobuf.Any";
/// Messages in each other beyond this are left alone.
const MAX_DEPTH: usize = 100;

/// An encoded message with every secret from ADS; the same bytes if it cannot be read.
pub(super) fn from_ads(full_name: &str, body: &[u8]) -> Vec<u8> {
    let descriptor = pool::message(full_name);
    let decoded = descriptor.and_then(|it| DynamicMessage::decode(it, body).ok());
    let Some(mut message) = decoded else {
        return body.to_vec();
    };
    if change(&mut message, 0) {
        message.encode_to_vec()
    } else {
        body.to_vec()
    }
}

/// Whether something was changed.
fn change(message: &mut DynamicMessage, depth: usize) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    let descriptor = message.descriptor();
    if descriptor.full_name() == SDS {
        return ads(message);
    }
    if descriptor.full_name() == ANY {
        return inside(message, depth);
    }
    let mut changed = false;
    for (_, value) in message.fields_mut() {
        changed |= of_value(value, depth + 1);
    }
    changed
}

fn of_value(value: &mut Value, depth: usize) -> bool {
    match value {
        Value::Message(message) => change(message, depth),
        Value::List(values) => {
            let each = values.iter_mut().map(|value| of_value(value, depth));
            each.fold(false, |any, one| any | one)
        }
        Value::Map(values) => {
            let each = values.values_mut().map(|value| of_value(value, depth));
            each.fold(false, |any, one| any | one)
        }
        _ => false,
    }
}

fn ads(config: &mut DynamicMessage) -> bool {
    let source = pool::message("envoy.config.core.v3.ConfigSource");
    let aggregated = pool::message("envoy.config.core.v3.AggregatedConfigSource");
    let (Some(source), Some(aggregated)) = (source, aggregated) else {
        return false;
    };
    let mut source = DynamicMessage::new(source);
    source.set_field_by_name("ads", Value::Message(DynamicMessage::new(aggregated)));
    config.set_field_by_name("sds_config", Value::Message(source));
    true
}

fn inside(any: &mut DynamicMessage, depth: usize) -> bool {
    let text = |name: &str| any.get_field_by_name(name).map(Cow::into_owned);
    let (Some(Value::String(url)), Some(Value::Bytes(bytes))) = (text("type_url"), text("value"))
    else {
        return false;
    };
    let name = url.rsplit('/').next().unwrap_or_default();
    let decoded = pool::message(name).and_then(|it| DynamicMessage::decode(it, bytes).ok());
    let Some(mut message) = decoded else {
        return false;
    };
    if !change(&mut message, depth + 1) {
        return false;
    }
    any.set_field_by_name("value", Value::Bytes(message.encode_to_vec().into()));
    true
}
