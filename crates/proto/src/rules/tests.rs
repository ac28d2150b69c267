//! The table is complete, and the look at the bytes never calls sound what the walk does not.

use prost::bytes::Bytes;
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor};

use super::*;

#[test]
fn every_rule_that_the_descriptors_carry_is_understood() {
    assert_eq!(Table::build().1, [] as [String; 0]);
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % sides as u64) as usize
    }

    fn of<T: Clone>(&mut self, all: &[T]) -> T {
        all[self.roll(all.len())].clone()
    }
}

fn scalar(dice: &mut Dice, kind: &Kind) -> Field {
    let int = dice.of(&[
        0,
        1,
        2,
        5,
        99,
        100,
        101,
        600,
        70_000,
        i64::from(i32::MAX),
        -1,
        -7,
    ]);
    match kind {
        Kind::Double => Field::F64(int as f64 / 2.0),
        Kind::Float => Field::F32(int as f32 / 2.0),
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => Field::I32(int as i32),
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => Field::I64(int),
        Kind::Uint32 | Kind::Fixed32 => Field::U32(int as u32),
        Kind::Uint64 | Kind::Fixed64 => Field::U64(int as u64),
        Kind::Bool => Field::Bool(int % 2 == 0),
        Kind::String => {
            let texts = [
                "", "a", "x-b", "a\nb", ":path", "/p", "10.0.0.1", "ab cd", "\u{e9}",
            ];
            Field::String(dice.of(&texts).to_owned())
        }
        Kind::Bytes => Field::Bytes(Bytes::from(dice.of(&[&b""[..], b"a", b"\xff\xff"]))),
        Kind::Enum(descriptor) => {
            let numbers: Vec<i32> = descriptor.values().map(|value| value.number()).collect();
            Field::EnumNumber(if dice.roll(9) == 0 {
                77
            } else {
                dice.of(&numbers)
            })
        }
        Kind::Message(_) => unreachable!("no scalar"),
    }
}

fn single(dice: &mut Dice, kind: &Kind, depth: usize) -> Field {
    match kind {
        Kind::Message(message) => Field::Message(any_message(dice, message, depth + 1)),
        kind => scalar(dice, kind),
    }
}

fn any_value(dice: &mut Dice, field: &FieldDescriptor, depth: usize) -> Field {
    let kind = field.kind();
    if field.is_list() {
        let items = 0..dice.roll(4);
        return Field::List(items.map(|_| single(dice, &kind, depth)).collect());
    }
    match &kind {
        Kind::Message(entry) if field.is_map() => {
            let mut map = std::collections::HashMap::new();
            for _ in 0..dice.roll(3) {
                let key = scalar(dice, &entry.map_entry_key_field().kind());
                let value = single(dice, &entry.map_entry_value_field().kind(), depth);
                map.extend(key.into_map_key().map(|key| (key, value)));
            }
            Field::Map(map)
        }
        kind => single(dice, kind, depth),
    }
}

fn any_message(dice: &mut Dice, descriptor: &MessageDescriptor, depth: usize) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    let fields: Vec<FieldDescriptor> = descriptor.fields().collect();
    if descriptor.full_name() == "google.protobuf.Any" {
        let name = dice.of(&[
            "envoy.config.core.v3.Address",
            "envoy.config.core.v3.HeaderValueOption",
            "google.protobuf.Duration",
            "no.Such",
        ]);
        let inner = pool::message(name).map(|inner| any_message(dice, &inner, depth + 2));
        let value = inner.map_or_else(|| vec![7], |inner| inner.encode_to_vec());
        let url = format!("type.googleapis.com/{name}");
        message.set_field_by_number(1, Field::String(url));
        message.set_field_by_number(2, Field::Bytes(value.into()));
        return message;
    }
    let many = [60, 30, 10, 3, 1].get(depth).copied().unwrap_or_default();
    for field in fields {
        // What must be there mostly is.
        let wanted = if depth < 6 && field.number() < 4 {
            60
        } else {
            many
        };
        if dice.roll(100) < wanted {
            let value = any_value(dice, &field, depth);
            message.set_field(&field, value);
        }
    }
    message
}

fn walk(full_name: &str, bytes: &[u8]) -> Vec<Violation> {
    let plan = Table::get().index_of(full_name).expect("rules");
    let mut walk = Walk::default();
    walk.decoded(full_name, bytes, plan);
    walk.violations
}

#[test]
fn what_is_called_sound_is_sound() {
    let names = [
        "envoy.config.cluster.v3.Cluster",
        "envoy.config.endpoint.v3.ClusterLoadAssignment",
        "envoy.config.route.v3.VirtualHost",
        "envoy.config.route.v3.Route",
        "envoy.config.listener.v3.FilterChain",
        "envoy.config.core.v3.SocketAddress",
        "envoy.config.core.v3.HeaderValueOption",
        "envoy.config.core.v3.HealthCheck",
        "envoy.config.core.v3.Metadata",
        "envoy.config.cluster.v3.OutlierDetection",
        "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        "envoy.type.matcher.v3.StringMatcher",
        "envoy.type.v3.Percent",
    ];
    let table = Table::get();
    let mut dice = Dice(0x9e37_79b9_7f4a_7c15);
    let (mut sound, mut told) = (0, 0);
    for round in 0..6000 {
        let name = names[round % names.len()];
        let descriptor = pool::message(name).expect("a known message");
        let mut bytes = any_message(&mut dice, &descriptor, 0).encode_to_vec();
        // Every third is damaged.
        for _ in 0..(round % 3 / 2) * 2 {
            if !bytes.is_empty() {
                let at = dice.roll(bytes.len());
                match dice.roll(4) {
                    0 => bytes.truncate(at),
                    1 => bytes.insert(at, dice.roll(256) as u8),
                    2 => bytes.extend_from_within(at..),
                    _ => bytes[at] = dice.roll(256) as u8,
                }
            }
        }
        let violations = walk(name, &bytes);
        let surely = table.is_surely_sound(name, &bytes);
        assert!(
            !surely || violations.is_empty(),
            "{name} {bytes:?}: {violations:?}"
        );
        if violations.is_empty() && round % 3 < 2 {
            sound += 1;
            told += usize::from(surely);
        }
    }
    assert!(sound > 500, "{sound}");
    assert!(
        told * 10 >= sound * 9,
        "{told} of {sound} are seen to be sound"
    );
}
