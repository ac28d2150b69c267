//! The tree: places, limits, and what a broken text leaves behind.

use std::time::{Duration, Instant};

use weft_proto::yaml::{Document, Limits, Node, Value, parse};

fn one(text: &str) -> Node {
    let mut documents = parse(text, &Limits::default());
    assert_eq!(documents.len(), 1, "{documents:?}");
    let document = documents.remove(0);
    assert_eq!(document.errors, [], "{text}");
    document.root.expect("a root")
}

fn errors(document: &Document) -> Vec<String> {
    document.errors.iter().map(ToString::to_string).collect()
}

fn only_errors(text: &str) -> Vec<String> {
    parse(text, &Limits::default())
        .iter()
        .flat_map(errors)
        .collect()
}

#[test]
fn nodes_and_keys_know_their_places() {
    let root = one("# a comment\na: 1\nb:\n  - x\n  - {c: d}\ne: >\n  folded\n  text\n");
    let entry = root.entry("b").expect("b");
    assert_eq!((entry.line, entry.column), (3, 1));
    let items = entry.value.items().expect("a list");
    assert_eq!((items[0].line, items[0].column), (4, 5));
    let inner = items[1].entry("c").expect("c");
    assert_eq!((inner.line, inner.column), (5, 6));
    assert_eq!((inner.value.line, inner.value.column), (5, 9));
    assert_eq!(root.entry("e").map(|entry| entry.line), Some(6));
    assert_eq!(root.get("e").and_then(Node::as_str), Some("folded text\n"));
}

#[test]
fn places_count_on_through_the_documents_of_a_file() {
    let text = "a: 1\n---\n# c\nb: 2\n...\n---\nc: 3\n";
    let lines: Vec<u32> = parse(text, &Limits::default())
        .iter()
        .filter_map(|document| document.root.as_ref()?.entries()?.first().map(|e| e.line))
        .collect();
    assert_eq!(lines, [1, 4, 7]);
}

#[test]
fn windows_line_ends_and_a_byte_order_mark_change_nothing() {
    let root = one("\u{feff}a: 1\r\nb:\r\n- x\r\n- z\r\n");
    assert_eq!(root.entry("b").map(|entry| entry.line), Some(2));
    assert_eq!(
        root.get("b").and_then(Node::items).map(<[Node]>::len),
        Some(2)
    );
    assert_eq!(
        root.get("b")
            .and_then(Node::items)
            .and_then(|i| i[1].as_str()),
        Some("z")
    );
}

#[test]
fn keys_that_look_like_booleans_stay_strings() {
    let root = one("n: 1\ny: 2\non: 3\n8080: 4\nnull: 5\n~: 6\n");
    let keys: Vec<&str> = root
        .entries()
        .expect("a map")
        .iter()
        .map(|e| &*e.key)
        .collect();
    assert_eq!(keys, ["n", "y", "on", "8080", "null", "~"]);
}

#[test]
fn quoted_scalars_are_strings_and_tags_of_the_core_schema_are_heeded() {
    let root = one("a: \"5\"\nb: 'on'\nc: !!str 5\nd: !!int \"5\"\ne: |\n  5\nf: 5\n");
    for key in ["a", "b", "c", "e"] {
        assert!(root.get(key).and_then(Node::as_str).is_some(), "{key}");
    }
    for key in ["d", "f"] {
        assert!(
            matches!(root.get(key).map(|n| &n.value), Some(Value::Number(_))),
            "{key}"
        );
    }
    assert_eq!(
        only_errors("a: 1\nb: !secret x\n"),
        ["2:12: the tag !secret is not supported; leave it out"]
    );
    assert_eq!(only_errors("a: !!int x\n"), ["1:10: \"x\" is no int"]);
}

#[test]
fn json_files_are_read_with_tabs_escapes_and_places() {
    let text =
        "{\n\t\"a\": [1, true, null, \"x\\u00e4\\/\\n\"],\n\t\"b\": {\n\t\t\"c\": -1.5e3\n\t}\n}\n";
    let root = one(text);
    let items = root.get("a").and_then(Node::items).expect("a list");
    assert_eq!(items[3].as_str(), Some("xä/\n"));
    let c = root.get("b").and_then(|b| b.entry("c")).expect("c");
    assert_eq!(c.line, 4);
    assert_eq!(c.value.describe(), "the number -1.5e3");
    let emoji = one(r#"{"a": "\ud83d\ude00"}"#);
    assert_eq!(emoji.get("a").and_then(Node::as_str), Some("\u{1f600}"));
    assert_eq!(
        one("{\"a\":1,\"b\":\"c:d\",\"e\":[]}")
            .entries()
            .map(<[_]>::len),
        Some(3)
    );
}

#[test]
fn doubled_keys_name_both_lines() {
    assert_eq!(
        only_errors("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\na: 4\n"),
        [
            "5:3: key \"c\" is set twice, on lines 3 and 5",
            "6:1: key \"a\" is set twice, on lines 1 and 6"
        ]
    );
}

#[test]
fn a_broken_document_harms_neither_the_ones_before_nor_after() {
    let documents = parse("a: 1\n---\nb: [1, 2\nc: 3\n---\nd: 4\n", &Limits::default());
    let keys: Vec<Option<&str>> = documents
        .iter()
        .map(|d| {
            d.root
                .as_ref()
                .filter(|_| d.complete)?
                .entries()?
                .first()
                .map(|e| &*e.key)
        })
        .collect();
    assert_eq!(keys, [Some("a"), None, Some("d")]);
    let broken = &documents[1].errors;
    assert!(broken[0].line >= 3 && broken[0].line <= 5, "{broken:?}");
}

#[test]
fn a_document_that_breaks_off_leaves_what_was_read() {
    let documents = parse(
        "kind: Pod\nmetadata:\n  name: x\nspec:\n  a: \"open\n",
        &Limits::default(),
    );
    let root = documents[0].root.as_ref().expect("a root");
    assert!(!documents[0].complete);
    assert_eq!(root.get("kind").and_then(Node::as_str), Some("Pod"));
    assert_eq!(
        root.get("metadata")
            .and_then(|m| m.get("name"))
            .and_then(Node::as_str),
        Some("x")
    );
}

#[test]
fn aliases_and_merge_keys_are_expanded() {
    let root = one(
        "base: &b {x: 1, y: 2}\nother: &o {y: 9, z: 3}\none: {<<: *b, y: 5}\ntwo:\n  <<: [*b, *o]\nthree: *b\n",
    );
    let show = |key: &str| -> Vec<String> {
        root.get(key)
            .and_then(Node::entries)
            .expect("a map")
            .iter()
            .map(|e| format!("{}={}", e.key, e.value.describe()))
            .collect()
    };
    assert_eq!(show("one"), ["y=the number 5", "x=the number 1"]);
    assert_eq!(
        show("two"),
        ["x=the number 1", "y=the number 2", "z=the number 3"]
    );
    assert_eq!(show("three"), ["x=the number 1", "y=the number 2"]);
    assert_eq!(
        only_errors("a: {<<: 5}\n"),
        ["1:5: \"<<\" takes a mapping or a list of mappings, not the number 5"]
    );
    assert_eq!(
        only_errors("a: &a [*a]\n"),
        ["1:8: an alias stands inside of the value that it names"]
    );
    assert!(only_errors("a: *nowhere\n")[0].starts_with("1:"));
}

#[test]
fn bombs_are_refused_quickly() {
    let mut laughs = String::from("a: &a [lol,lol,lol,lol,lol,lol,lol,lol,lol,lol]\n");
    for (name, inner) in ["b", "c", "d", "e", "f", "g", "h", "i"]
        .iter()
        .zip("abcdefgh".chars())
    {
        let ten = vec![format!("*{inner}"); 10].join(",");
        laughs.extend([name, ": &", name, " [", &ten, "]\n"]);
    }
    let long = "x".repeat(1 << 20);
    let many = format!("a: &a {long}\nb: [{}]\n", vec!["*a"; 5000].join(","));
    let merges = format!(
        "a: &a {{{}}}\nb: {{<<: [{}]}}\n",
        (0..1000)
            .map(|i| format!("k{i}: v"))
            .collect::<Vec<_>>()
            .join(", "),
        vec!["*a"; 2000].join(",")
    );
    for (text, why) in [
        (laughs, "aliases stand for more than 200000 values"),
        (many, "aliases stand for more than 200000 values"),
        (merges, "aliases stand for more than 200000 values"),
        ("[\n".repeat(100_000), "nested deeper than 96 levels"),
        ("[".repeat(100_000), "nested deeper than 96 levels"),
        ("{\"a\": ".repeat(100_000), "nested deeper than 96 levels"),
        ("{a: ".repeat(100_000), "recursion limit exceeded"),
        ("- ".repeat(100_000), "nested deeper than 96 levels"),
        ("? ".repeat(100_000), ""),
        ("&a ".repeat(100_000), ""),
        ("!a ".repeat(100_000), ""),
        ("\"".repeat(100_001), ""),
        ("{".repeat(100_000), ""),
        ("- - ? {[ ".repeat(20_000), ""),
        (" ".repeat(1 << 20) + "a: b: c", ""),
        ("a".repeat(1 << 20) + ": 1", ""),
        ("%".repeat(1 << 20) + "\na", ""),
    ] {
        let begin = Instant::now();
        let found = only_errors(&text).join("\n");
        let start: String = text.chars().take(20).collect();
        assert!(found.contains(why), "{start}: {found}");
        assert!(
            begin.elapsed() < Duration::from_secs(5),
            "{start}: {:?}",
            begin.elapsed()
        );
    }
}

#[test]
fn a_text_and_a_document_have_a_largest_size() {
    let limits = Limits {
        bytes: 100,
        nodes: 10,
        ..Limits::default()
    };
    let found = |text: &str| {
        parse(text, &limits)
            .iter()
            .flat_map(errors)
            .collect::<Vec<_>>()
    };
    assert_eq!(
        found(&"a".repeat(101)),
        ["1:1: the text has 101 bytes, more than the 100 that are allowed"]
    );
    assert_eq!(
        found("[1,2,3,4,5,\n6,7,8,9,10]"),
        ["2:9: the document has more than 10 values; split it"]
    );
}

#[test]
fn an_alias_may_not_make_a_document_deeper_than_it_may_be() {
    let limits = Limits {
        depth: 5,
        ..Limits::default()
    };
    let found: Vec<String> = parse("a: &a [[[1]]]\nb: [[*a]]\n", &limits)
        .iter()
        .flat_map(errors)
        .collect();
    assert_eq!(
        found,
        ["2:6: lists and mappings are nested deeper than 5 levels"]
    );
}

#[test]
fn nothing_is_no_document() {
    for text in [
        "",
        "\n\n",
        "# only\n",
        "---\n---\n",
        "---\n# x\n...\n",
        "%YAML 1.2\n---\n",
    ] {
        assert!(parse(text, &Limits::default()).is_empty(), "{text:?}");
    }
}

#[test]
fn a_tab_that_indents_is_told_with_its_line() {
    let told = "a tab indents this line, use spaces";
    for (text, line) in [
        ("a: 1\nb:\n\tc: 1\n", 3),
        ("a:\n  - name: x\n\t  port: 1\n  - name: y\n", 3),
        ("a:\n  - name: x\n  \tport: 1\n", 3),
        ("a:\n  b: |\n    x\n  \tc: 1\n  d: 1\n", 4),
        ("x: 1\n---\na:\n\tb: 1\n", 4),
    ] {
        assert_eq!(only_errors(text), [format!("{line}:1: {told}")], "{text}");
    }
    // Inside of a text and before a comment, a tab is a tab; what is wrong elsewhere is told as it is.
    assert_eq!(
        only_errors("a: |\n  \tx\nb: 1\t# c\n"),
        Vec::<String>::new()
    );
    let other = only_errors("a: |\n  \tx\nb: [\nc: ]\n\n\td");
    assert!(!other.is_empty() && !other[0].contains(told), "{other:?}");
}
