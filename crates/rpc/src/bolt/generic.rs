//! Calls by names and values. Sources: sofa-rpc, `SofaRpcSerialization.java`, `SofaRequestHessianSerializer.java`,
//! `ConsumerGenericFilter.java`.
//!
//! The content is a `SofaRequest` with the names of the method and its parameters' types, and behind it the
//! arguments. Servers read each by the type that was named, so that a map without a class becomes an object of
//! that type, and its members those of its fields.

use std::borrow::Cow;

use bytes::{BufMut as _, BytesMut};

use super::{Bolt, HESSIAN2, Layout, MAX_HEADER, REQUEST, header};
use crate::bytes_at::u16_at;
use crate::codec::{Codec as _, Decoded, Limits};
use crate::frame::{Frame, Kind};
use crate::generic::{
    ArgumentError, Generic, GenericAnswer, GenericCall, GenericFailure, ResultForm, Unreadable,
};
use crate::hessian::{Dialect, Form, Node, Reader, TooLarge, Tree};
use crate::hessian::{argument, put_text, put_typed_list};

/// See the module.
#[derive(Debug)]
pub(super) struct ByNames;

const RPC_REQUEST: u16 = 1;
const REQUEST_CLASS: &str = "com.alipay.sofa.rpc.core.request.SofaRequest";
const RESPONSE_CLASS: &str = "com.alipay.sofa.rpc.core.response.SofaResponse";
const FIELDS: [&str; 5] = [
    "targetAppName",
    "methodName",
    "targetServiceUniqueName",
    "requestProps",
    "methodArgSigs",
];
/// What stands for "no version".
const NO_VERSION: &str = "1.0";
/// Entries of the header block that are the call's own.
const OWN: [&str; 6] = [
    "service",
    "sofa_head_target_service",
    "sofa_head_method_name",
    "sofa_head_generic_type",
    "type",
    "generic.revise",
];

fn wrong(text: &str) -> ArgumentError {
    ArgumentError {
        argument: 0,
        place: String::new(),
        text: text.to_owned(),
    }
}

impl Generic for ByNames {
    fn request(&self, call: &GenericCall<'_>) -> Result<Frame, ArgumentError> {
        let types = match call.types {
            Some(types) => types,
            None if call.arguments.is_empty() => &[],
            None => return Err(wrong("servers of Bolt need the types of parameters")),
        };
        let service = service_of(call);
        let content = content(call, &service, types)?;
        let own = [
            ("service", &*service),
            ("sofa_head_target_service", &service),
            ("sofa_head_method_name", call.method),
            ("sofa_head_generic_type", "2"),
            ("type", "sync"),
            ("generic.revise", "true"),
        ];
        let attachments = call.attachments.iter();
        let others = attachments.filter(|(name, _)| !OWN.contains(name));
        let pairs: Vec<(&str, &str)> = own.iter().chain(others).copied().collect();
        let block = header::changed(&[], &pairs, &[]).unwrap_or_default();
        if block.len() > MAX_HEADER {
            return Err(wrong("the attachments are too long"));
        }
        let content_len = u32::try_from(content.len())
            .ok()
            .filter(|len| *len < 1 << 31);
        let content_len = content_len.ok_or_else(|| wrong("the arguments are too long"))?;
        let mut out = BytesMut::with_capacity(64 + block.len() + content.len());
        out.put_slice(&[1, REQUEST]);
        out.put_u16(RPC_REQUEST);
        out.put_u8(1);
        out.put_u32(0);
        out.put_u8(HESSIAN2);
        out.put_u32(call.timeout_ms);
        out.put_u16(REQUEST_CLASS.len() as u16);
        out.put_u16(block.len() as u16);
        out.put_u32(content_len);
        out.put_slice(REQUEST_CLASS.as_bytes());
        out.put_slice(&block);
        out.put_slice(&content);
        let limits = Limits {
            max_frame: usize::MAX,
        };
        match Bolt.decode(&mut out, limits) {
            Ok(Decoded::Frame(frame)) => Ok(frame),
            _ => Err(wrong("the call is no frame")),
        }
    }

    fn answer(&self, response: &Frame, form: ResultForm) -> Result<GenericAnswer, Unreadable> {
        let layout = Layout::of(response.flavour);
        if response.kind != Kind::Response {
            return Err(Unreadable::Damaged);
        }
        let status = u16_at(&response.bytes, layout.varying_at()).unwrap_or_default();
        if status != 0 {
            let content = (layout.codec == HESSIAN2).then(|| Bolt::content(response));
            return Ok(failed(status, content.unwrap_or_default()));
        }
        if layout.codec != HESSIAN2 {
            return Err(Unreadable::Damaged);
        }
        let mut tree = Tree::default();
        let mut reader = Reader::new(Bolt::content(response), 0);
        let root = tree.read_draft(&mut reader).ok_or(Unreadable::Damaged)?;
        let class = tree.class_of(root).unwrap_or_default();
        if class != RESPONSE_CLASS {
            return Err(Unreadable::Damaged);
        }
        if let Some(Node::Bool(true)) = tree.field(root, "isError") {
            let text = first_line(text(&tree, root, "errorMsg").unwrap_or_default());
            let (failure, status) = (GenericFailure::Other, 0);
            return Ok(GenericAnswer::Failed {
                failure,
                status,
                text,
            });
        }
        let value = tree.field_at(root, "appResponse");
        let value = value.ok_or(Unreadable::Damaged)?;
        if let Some(thrown) = thrown(&tree, value) {
            return Ok(thrown);
        }
        let mut written = Form {
            omit_class: form.omit_class,
            bytes_left: form.max_bytes,
        };
        let json = tree.json(value, &mut written);
        json.map(GenericAnswer::Returned).map_err(|why| match why {
            TooLarge::Bytes => Unreadable::TooLarge,
            TooLarge::Depth => Unreadable::TooDeep,
        })
    }
}

/// SOFARPC's name of a service.
fn service_of(call: &GenericCall<'_>) -> String {
    let version = match call.version {
        "" => NO_VERSION,
        version => version,
    };
    let mut service = format!("{}:{version}", call.interface);
    if !call.group.is_empty() {
        service.push(':');
        service.push_str(call.group);
    }
    service
}

/// The name under which servers know a type: an array's is the JVM's, as in `[J`.
fn name_of(of: &str) -> Cow<'_, str> {
    let items = of.trim_end_matches("[]");
    let depth = (of.len() - items.len()) / 2;
    if depth == 0 {
        return Cow::Borrowed(of);
    }
    let brackets = "[".repeat(depth);
    let letter = match items {
        "boolean" => "Z",
        "byte" => "B",
        "char" => "C",
        "double" => "D",
        "float" => "F",
        "int" => "I",
        "long" => "J",
        "short" => "S",
        class => return Cow::Owned(format!("{brackets}L{class};")),
    };
    Cow::Owned(brackets + letter)
}

fn content(
    call: &GenericCall<'_>,
    service: &str,
    types: &[&str],
) -> Result<Vec<u8>, ArgumentError> {
    let put = |out: &mut Vec<u8>, text: &str| put_text(out, text, Dialect::Draft);
    let mut out = Vec::with_capacity(256);
    // Lengths from -16 to 47 are a byte from 0x80 on.
    out.extend([b'O', 0x90 + REQUEST_CLASS.len() as u8]);
    out.extend_from_slice(REQUEST_CLASS.as_bytes());
    out.push(0x90 + FIELDS.len() as u8);
    for field in FIELDS {
        put(&mut out, field);
    }
    out.extend(b"o\x90N");
    put(&mut out, call.method);
    put(&mut out, service);
    out.push(b'M');
    for (key, value) in [
        ("sofa_head_generic_type", "2"),
        ("type", "sync"),
        ("generic.revise", "true"),
    ] {
        put(&mut out, key);
        put(&mut out, value);
    }
    out.push(b'z');
    put_typed_list(&mut out, "[string", types.len(), Dialect::Draft);
    for one in types {
        put(&mut out, &name_of(one));
    }
    out.push(b'z');
    for (number, value) in call.arguments.iter().enumerate() {
        let of = types.get(number).copied().unwrap_or_default();
        let written = argument(&mut out, value, (of, call.allow_class), Dialect::Draft);
        written.map_err(|(place, text)| ArgumentError {
            argument: number,
            place,
            text,
        })?;
    }
    Ok(out)
}

/// What follows is where in the server's code it went wrong.
fn first_line(text: String) -> String {
    match text.split_once(['\r', '\n']) {
        Some((first, _)) => first.to_owned(),
        None => text,
    }
}

/// The exception that a value is.
fn thrown(tree: &Tree<'_>, value: u32) -> Option<GenericAnswer> {
    tree.field(value, "stackTrace")?;
    Some(GenericAnswer::Thrown {
        class: tree.class_of(value).unwrap_or_default().to_owned(),
        message: text(tree, value, "detailMessage").unwrap_or_default(),
    })
}

/// A status other than success, and what the response says of it. Source: sofa-bolt, `ResponseStatus.java`.
fn failed(status: u16, content: &[u8]) -> GenericAnswer {
    let (failure, text) = match status {
        4 => (GenericFailure::Unavailable, "the server has too much to do"),
        6 => (GenericFailure::NotFound, "nobody there takes such requests"),
        7 => (GenericFailure::Timeout, "the server did not answer in time"),
        9 | 0x12 => (
            GenericFailure::BadRequest,
            "the server cannot read the call",
        ),
        0x10 => (GenericFailure::Unavailable, "the connection has gone"),
        _ => (GenericFailure::Other, "the server failed"),
    };
    let mut tree = Tree::default();
    let root = tree.read_draft(&mut Reader::new(content, 0));
    let said = root.and_then(|root| {
        let message = |field| self::text(&tree, root, field).filter(|text| !text.is_empty());
        message("errorMsg").or_else(|| message("detailMessage"))
    });
    GenericAnswer::Failed {
        failure,
        status: status.into(),
        text: said.map_or_else(|| text.to_owned(), first_line),
    }
}

fn text(tree: &Tree<'_>, of: u32, field: &str) -> Option<String> {
    match tree.field(of, field)? {
        Node::Text(text) => Some(text.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::write;
    use super::*;
    use crate::frame::Origin;

    fn call() -> GenericCall<'static> {
        GenericCall {
            interface: "shop.Cart",
            method: "add",
            version: "",
            group: "blue",
            types: None,
            arguments: &[],
            allow_class: false,
            attachments: &[("tag", "gray"), ("type", "oneway")],
            timeout_ms: 1500,
        }
    }

    #[test]
    fn a_call_by_names_is_a_request_that_routes_can_read() {
        let arguments = [json!({"name": "tea"}), json!([1])];
        let call = GenericCall {
            types: Some(&["shop.Item", "int[]"]),
            arguments: &arguments,
            ..call()
        };
        let frame = ByNames.request(&call).expect("good arguments");
        assert_eq!(
            (frame.kind(), Bolt.timeout_ms(&frame)),
            (Kind::Request, 1500)
        );
        let seen = Bolt.call(&frame);
        assert_eq!(seen.service, Some("shop.Cart:1.0:blue"));
        assert_eq!(seen.method, Some("add"));
        let attachments = Bolt.known_attachments(&frame).expect("they can be read");
        let of = |name: &str| {
            let mut all = attachments.iter().filter(|(key, _)| key == name);
            all.next().map(|(_, value)| value.to_string())
        };
        assert_eq!(of("tag").as_deref(), Some("gray"));
        assert_eq!(of("type").as_deref(), Some("sync"));
        // The request, and each argument behind it.
        let mut tree = Tree::default();
        let mut reader = Reader::new(Bolt::content(&frame), 0);
        let request = tree.read_draft(&mut reader).expect("a request");
        assert_eq!(tree.class_of(request), Some(REQUEST_CLASS));
        assert_eq!(text(&tree, request, "methodName").as_deref(), Some("add"));
        for wanted in arguments {
            let at = tree.read_draft(&mut reader).expect("an argument");
            let (omit_class, bytes_left) = (false, 100);
            let mut form = Form {
                omit_class,
                bytes_left,
            };
            assert_eq!(tree.json(at, &mut form), Ok(wanted));
        }
    }

    #[test]
    fn arrays_have_the_names_of_the_jvm() {
        for (of, name) in [
            ("int", "int"),
            ("shop.Item", "shop.Item"),
            ("long[]", "[J"),
            ("shop.Item[][]", "[[Lshop.Item;"),
        ] {
            assert_eq!(name_of(of), name);
        }
    }

    #[test]
    fn what_servers_cannot_take_is_told() {
        let arguments = [json!({"class": "java.io.File"})];
        let mut call = call();
        call.arguments = &arguments;
        let error = ByNames.request(&call).expect_err("without types");
        assert!(error.text.contains("types"), "{error:?}");
        call.types = Some(&["java.lang.Object"]);
        let error = ByNames
            .request(&call)
            .expect_err("who calls chooses no class");
        assert_eq!((error.argument, &*error.place), (0, ".class"));
        call.allow_class = true;
        assert!(ByNames.request(&call).is_ok());
        let long = "x".repeat(MAX_HEADER);
        let attachments = [("tag", &*long)];
        call.attachments = &attachments;
        let error = ByNames.request(&call).expect_err("too long");
        assert!(error.text.contains("attachments"), "{error:?}");
    }

    fn answer(status: u16, content: &[u8]) -> Result<GenericAnswer, Unreadable> {
        let codec = u16::from(HESSIAN2);
        let origin = Origin {
            id: 1,
            flavour: crate::frame::Flavour(codec),
        };
        let mut bytes = write(origin, (0, 2), &status.to_be_bytes(), content);
        let decoded = Bolt.decode(&mut bytes, Limits::default());
        let Ok(Decoded::Frame(frame)) = decoded else {
            panic!("{decoded:?}");
        };
        let form = ResultForm {
            omit_class: true,
            max_bytes: 1000,
        };
        ByNames.answer(&frame, form)
    }

    fn response(error: bool, message: &str, value: &[u8]) -> Vec<u8> {
        let mut out = vec![b'O', 0x90 + RESPONSE_CLASS.len() as u8];
        out.extend_from_slice(RESPONSE_CLASS.as_bytes());
        out.push(0x93);
        for field in ["isError", "errorMsg", "appResponse"] {
            put_text(&mut out, field, Dialect::Draft);
        }
        out.extend([b'o', 0x90, if error { b'T' } else { b'F' }]);
        put_text(&mut out, message, Dialect::Draft);
        out.extend_from_slice(value);
        out
    }

    #[test]
    fn answers_are_results_exceptions_and_failures() {
        let returned = answer(0, &response(false, "", b"V\x91z"));
        assert_eq!(returned, Ok(GenericAnswer::Returned(json!([1]))));
        // Its cause is itself.
        let exception =
            b"O\x93E.x\x93\x0ddetailMessage\x05cause\x0astackTraceo\x91\x03why\x4a\x01Vz";
        let thrown = GenericAnswer::Thrown {
            class: "E.x".to_owned(),
            message: "why".to_owned(),
        };
        assert_eq!(answer(0, &response(false, "", exception)), Ok(thrown));
        let failed = |failure, status, text: &str| {
            Ok(GenericAnswer::Failed {
                failure,
                status,
                text: text.to_owned(),
            })
        };
        let error = answer(0, &response(true, "why\n\tat x", b"N"));
        assert_eq!(error, failed(GenericFailure::Other, 0, "why"));
        assert_eq!(
            answer(7, b""),
            failed(
                GenericFailure::Timeout,
                7,
                "the server did not answer in time"
            )
        );
        let error = answer(2, &response(true, "why", b"N"));
        assert_eq!(error, failed(GenericFailure::Other, 2, "why"));
        assert_eq!(answer(0, b""), Err(Unreadable::Damaged));
        assert_eq!(answer(0, b"N"), Err(Unreadable::Damaged));
        let itself = answer(0, &response(false, "", b"V\x4a\x01z"));
        assert_eq!(itself, Err(Unreadable::TooDeep));
    }
}
