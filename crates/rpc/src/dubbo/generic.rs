//! Calls by names and values. Sources: Dubbo, `GenericService.java`, `GenericFilter.java`, `PojoUtils.java`.
//!
//! The method `$invoke` takes the name of the method that is meant, the types of its parameters (null: it is the
//! only one of its name) and the arguments: maps for objects, lists, strings, numbers. The attachment `generic`
//! says so.

use bytes::BytesMut;

use super::{HEADER, HESSIAN2, MAGIC, OK, REQUEST, TWO_WAY, body, serialization};
use crate::bytes_at::u8_at;
use crate::frame::{Flavour, Frame, Kind, Outcome};
use crate::generic::{
    ArgumentError, Generic, GenericAnswer, GenericCall, GenericFailure, ResultForm, Unreadable,
};
use crate::hessian::{Dialect, argument, put_string, put_typed_list};
use crate::hessian::{Form, Node, Reader, Scalar, TooLarge, Tree};

/// See the module.
#[derive(Debug)]
pub(super) struct ByNames;

/// The version of the protocol that Dubbo's clients name since 2.6.3.
const PROTOCOL: &str = "2.0.2";
const METHOD: &str = "$invoke";
const TYPES: &str = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";
/// What stands for "no version".
const NO_VERSION: &str = "0.0.0";

impl Generic for ByNames {
    fn request(&self, call: &GenericCall<'_>) -> Result<Frame, ArgumentError> {
        let mut out = Vec::with_capacity(256);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&[REQUEST | TWO_WAY | HESSIAN2, 0]);
        out.extend_from_slice(&[0; HEADER - 4]);
        let version = match call.version {
            "" => NO_VERSION,
            version => version,
        };
        for text in [
            PROTOCOL,
            call.interface,
            version,
            METHOD,
            TYPES,
            call.method,
        ] {
            put_string(&mut out, text);
        }
        match call.types {
            Some(types) => {
                put_typed_list(&mut out, "[string", types.len(), Dialect::Final);
                for one in types {
                    put_string(&mut out, one);
                }
            }
            None => out.push(b'N'),
        }
        put_typed_list(&mut out, "[object", call.arguments.len(), Dialect::Final);
        for (number, value) in call.arguments.iter().enumerate() {
            let of = call.types.and_then(|types| types.get(number).copied());
            let of = (of.unwrap_or_default(), call.allow_class);
            let written = argument(&mut out, value, of, Dialect::Final);
            written.map_err(|(place, text)| ArgumentError {
                argument: number,
                place,
                text,
            })?;
        }
        out.push(b'H');
        let timeout = call.timeout_ms.to_string();
        let own = [
            ("path", call.interface),
            ("interface", call.interface),
            ("version", call.version),
            ("group", call.group),
            ("timeout", &timeout),
            ("generic", "true"),
        ];
        let own_name = |name: &str| own.iter().any(|(own, _)| name == *own);
        let others = call.attachments.iter().filter(|(name, _)| !own_name(name));
        for (name, value) in own.iter().chain(others) {
            if !value.is_empty() {
                put_string(&mut out, name);
                put_string(&mut out, value);
            }
        }
        out.push(b'Z');
        let Ok(len) = i32::try_from(out.len() - HEADER) else {
            return Err(ArgumentError {
                argument: 0,
                place: String::new(),
                text: "the arguments are too long".to_owned(),
            });
        };
        let mut bytes = BytesMut::from(&*out);
        crate::bytes_at::put(&mut bytes, super::LEN_AT, &len.to_be_bytes());
        Ok(Frame {
            bytes,
            kind: Kind::Request,
            id: 0,
            flavour: Flavour(HESSIAN2.into()),
            outcome: Outcome::Success,
            parts: [0; 3],
        })
    }

    fn answer(&self, response: &Frame, form: ResultForm) -> Result<GenericAnswer, Unreadable> {
        if response.kind != Kind::Response || serialization(response.flavour) != HESSIAN2 {
            return Err(Unreadable::Damaged);
        }
        let mut reader = Reader::new(body(response), 0);
        let status = u8_at(&response.bytes, 3).unwrap_or_default();
        if status != OK {
            let text = reader.string().unwrap_or_default();
            // What follows is where in the server's code it went wrong.
            let text = text.lines().next().unwrap_or_default().to_owned();
            return Ok(GenericAnswer::Failed {
                failure: failure_of(status),
                status: status.into(),
                text,
            });
        }
        let Some(Scalar::Text(code)) = reader.scalar() else {
            return Err(Unreadable::Damaged);
        };
        // With attachments behind the value, and without.
        match &*code {
            "2" | "5" => Ok(GenericAnswer::Returned(serde_json::Value::Null)),
            "1" | "4" => {
                let mut tree = Tree::default();
                let root = tree.read(&mut reader).ok_or(Unreadable::Damaged)?;
                let mut written = Form {
                    omit_class: form.omit_class,
                    bytes_left: form.max_bytes,
                };
                let value = tree.json(root, &mut written);
                value.map(GenericAnswer::Returned).map_err(|why| match why {
                    TooLarge::Bytes => Unreadable::TooLarge,
                    TooLarge::Depth => Unreadable::TooDeep,
                })
            }
            "0" | "3" => {
                let mut tree = Tree::default();
                let root = tree.read(&mut reader).ok_or(Unreadable::Damaged)?;
                Ok(thrown(&tree, root))
            }
            _ => Err(Unreadable::Damaged),
        }
    }
}

fn failure_of(status: u8) -> GenericFailure {
    match status {
        30 | 31 => GenericFailure::Timeout,
        40 => GenericFailure::BadRequest,
        60 => GenericFailure::NotFound,
        80 | 100 => GenericFailure::Unavailable,
        _ => GenericFailure::Other,
    }
}

/// The exception. Generic servers put what was thrown into one of their own, which names it.
fn thrown(tree: &Tree<'_>, root: u32) -> GenericAnswer {
    let text = |field: &str| match tree.field(root, field) {
        Some(Node::Text(text)) if !text.is_empty() => Some(text.to_string()),
        _ => None,
    };
    let class = text("exceptionClass").or_else(|| Some(tree.class_of(root)?.to_owned()));
    let message = text("exceptionMessage").or_else(|| text("detailMessage"));
    GenericAnswer::Thrown {
        class: class.unwrap_or_default(),
        message: message.unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::{Dubbo, write};
    use super::*;
    use crate::codec::{Codec as _, Decoded, Limits};

    fn decoded(mut bytes: BytesMut) -> Frame {
        match Dubbo.decode(&mut bytes, Limits::default()) {
            Ok(Decoded::Frame(frame)) if bytes.is_empty() => frame,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_call_by_names_is_a_request_that_routes_can_read() {
        let call = GenericCall {
            interface: "shop.Cart",
            method: "add",
            version: "1.2.0",
            group: "blue",
            types: Some(&["java.lang.String", "shop.Item", "int[]"]),
            arguments: &[json!("a"), json!({"price": 1.5}), json!([1, 2])],
            allow_class: false,
            attachments: &[("tag", "gray"), ("generic", "nativejava")],
            timeout_ms: 1500,
        };
        let frame = ByNames.request(&call).expect("good arguments");
        let frame = decoded(frame.bytes);
        assert_eq!(
            (frame.kind(), Dubbo.timeout_ms(&frame)),
            (Kind::Request, 1500)
        );
        let seen = Dubbo.call(&frame);
        assert_eq!(seen.interface, Some("shop.Cart"));
        assert_eq!(
            (seen.method, seen.version),
            (Some("$invoke"), Some("1.2.0"))
        );
        let attachments = Dubbo.known_attachments(&frame).expect("they can be read");
        let of = |name: &str| {
            let mut all = attachments.iter().filter(|(key, _)| key == name);
            let first = all.next().map(|(_, value)| value.to_string());
            assert!(all.next().is_none(), "{name} is there twice");
            first
        };
        assert_eq!(of("generic").as_deref(), Some("true"));
        assert_eq!(of("group").as_deref(), Some("blue"));
        assert_eq!(of("tag").as_deref(), Some("gray"));
        let wrong = GenericCall {
            types: Some(&["int"]),
            arguments: &[json!([1])],
            ..call
        };
        let error = ByNames.request(&wrong).expect_err("an array is no int");
        assert_eq!((error.argument, &*error.text), (0, "an array is no int"));
        let named = [json!([{"class": "javax.swing.JFrame"}])];
        let mut named = GenericCall {
            types: None,
            arguments: &named,
            ..call
        };
        let error = ByNames
            .request(&named)
            .expect_err("who calls chooses no class");
        assert_eq!((error.argument, &*error.place), (0, "[0].class"));
        named.allow_class = true;
        assert!(ByNames.request(&named).is_ok());
    }

    fn answer(status: u8, body: &[u8]) -> Result<GenericAnswer, Unreadable> {
        let form = ResultForm {
            omit_class: false,
            max_bytes: 1000,
        };
        ByNames.answer(&decoded(write((HESSIAN2, status), 1, body)), form)
    }

    #[test]
    fn answers_are_results_exceptions_and_failures() {
        let returned = |value: Value| Ok(GenericAnswer::Returned(value));
        assert_eq!(answer(20, b"\x92"), returned(Value::Null));
        assert_eq!(answer(20, b"\x95H\x01a\x01bZ"), returned(Value::Null));
        assert_eq!(answer(20, b"\x94\x79\x91HZ"), returned(json!([1])));
        assert_eq!(answer(20, b"\x91"), Err(Unreadable::Damaged));
        assert_eq!(answer(20, b"\x91\x79\x51\x90"), Err(Unreadable::TooDeep));
        // The cause of an exception is itself.
        let mut body = b"\x93C\x01E\x93\x05cause".to_vec();
        for text in ["exceptionClass", "exceptionMessage"] {
            put_string(&mut body, text);
        }
        body.extend(b"\x60\x51\x90");
        for text in ["shop.NoSuchItem", "no such item"] {
            put_string(&mut body, text);
        }
        let thrown = GenericAnswer::Thrown {
            class: "shop.NoSuchItem".to_owned(),
            message: "no such item".to_owned(),
        };
        assert_eq!(answer(20, &body), Ok(thrown));
        for (status, failure) in [
            (31, GenericFailure::Timeout),
            (40, GenericFailure::BadRequest),
            (60, GenericFailure::NotFound),
            (70, GenericFailure::Other),
            (80, GenericFailure::Unavailable),
        ] {
            let failed = GenericAnswer::Failed {
                failure,
                status: status.into(),
                text: "why".to_owned(),
            };
            assert_eq!(answer(status, b"\x0awhy\n\tat x:1"), Ok(failed));
        }
    }
}
