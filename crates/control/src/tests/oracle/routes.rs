//! Random rules for requests and connections.

use std::fmt::Write;

use super::{HOSTS, NAMESPACES, Random, export, head};

pub(super) fn virtual_service(random: &mut Random, name: &str) -> String {
    let mut out = head("VirtualService", name, random.pick(&NAMESPACES));
    let host = random.pick(&[&HOSTS[..], &["free.example.org", "*.svc.cluster.local"]].concat());
    let delegate = random.chance(20);
    if !delegate {
        let more = random.pick(&[
            "",
            "",
            "free.example.net",
            "x.b.svc.cluster.local",
            "x.a.svc",
        ]);
        let more = Some(more).filter(|more| !more.is_empty() && *more != host);
        let more = more.map_or_else(String::new, |more| format!(", '{more}'"));
        let _ = write!(out, "\n  hosts: ['{host}'{more}]");
        out += random.pick(&[
            "",
            "\n  gateways: [b/public]",
            "\n  gateways: [mesh, b/public]",
        ]);
    }
    out += export(random);
    if !delegate && random.chance(30) {
        streams(random, &mut out, host);
        if random.chance(50) {
            return out;
        }
    }
    out += "\n  http:";
    let edge = out.contains("gateways: [b/public]");
    for _ in 0..=random.below(2) {
        let condition = random.pick(&[
            "",
            if edge {
                "match: [{headers: {'@request.auth.claims.group': {exact: g}}}, {withoutHeaders: {'@request.auth.claims[a][b]': {prefix: g}}}]\n    "
            } else {
                "retries: {attempts: 1, retryRemoteLocalities: true}\n    "
            },
            "match: [{uri: {prefix: /a}}]\n    ",
            "match: [{sourceLabels: {tier: beta}}]\n    ",
            "match: [{headers: {x: {exact: v}}, port: 80}]\n    ",
            "match: [{statPrefix: s}]\n    corsPolicy: {allowOrigins: [{exact: '*'}], maxAge: 5s}\n    ",
            "corsPolicy: {allowMethods: [GET], unmatchedPreflights: IGNORE}\n    ",
            "match: [{authority: {exact: shop.Cart}, port: 20880}, {queryParams: {a: {exact: b}}}]\n    ",
            "match: [{queryParams: {q: {exact: v}}, method: {exact: GET}}, {sourceNamespace: b, authority: {prefix: x}}]\n    ",
        ]);
        let target = HOSTS[random.below(7)];
        let weight = random.below(100);
        let _ = match random.below(6) {
            4 if !delegate => write!(
                out,
                "\n  - {condition}delegate: {{name: o{}, namespace: {}}}",
                random.below(24),
                random.pick(&NAMESPACES)
            ),
            5 => write!(
                out,
                "\n  - {condition}directResponse: {{status: 50{}, body: {{string: b}}}}",
                weight % 5
            ),
            0 => write!(out, "\n  - {condition}redirect: {{uri: /r{weight}}}"),
            1 => write!(
                out,
                "\n  - {condition}route: [{{destination: {{host: {target}, subset: v1}}, weight: {weight}}}, {{destination: {{host: {target}, port: {{number: 80}}}}, weight: {}}}]",
                100 - weight
            ),
            _ => write!(
                out,
                "\n  - {condition}{}timeout: {weight}s\n    route: [{{destination: {{host: {target}}}}}]",
                action(random, condition)
            ),
        };
    }
    out
}

/// Routes of TCP and TLS connections.
fn streams(random: &mut Random, out: &mut String, host: &str) {
    let name = format!("sniHosts: ['{host}']");
    let kind = random.pick(&["tcp", "tls"]);
    let _ = write!(out, "\n  {kind}:");
    for _ in 0..=random.below(2) {
        let mut conditions = vec![random.pick(&[
            "",
            "port: 80",
            "sourceLabels: {tier: beta}",
            "sourceNamespace: b",
            "destinationSubnets: [10.96.0.0/16, 10.0.0.1]",
            "gateways: [b/public]",
        ])];
        if kind == "tls" {
            conditions.push(&name);
        }
        conditions.retain(|text| !text.is_empty());
        let target = HOSTS[random.below(7)];
        let _ = write!(
            out,
            "\n  - match: [{{{}}}]\n    route: [{{destination: {{host: {target}, subset: v1}}, weight: {}}}, {{destination: {{host: {target}}}, weight: 1}}]",
            conditions.join(", "),
            random.below(9)
        );
        if random.chance(30) {
            let _ = write!(
                out,
                "\n  - match: [{{{}}}]\n    route: [{{destination: {{host: {target}}}}}]",
                conditions.join(", ")
            );
        }
    }
}

/// What else is done with a request that goes to a service; `condition` is what stands before it.
fn action(random: &mut Random, condition: &str) -> String {
    let host = HOSTS[random.below(7)];
    let retries = if condition.contains("retries") {
        ""
    } else {
        "retries: {attempts: 2, perTryTimeout: 1s, retryOn: 5xx}\n    "
    };
    match random.below(8) {
        0 => format!("mirror: {{host: {host}, subset: v1}}\n    mirrorPercentage: {{value: 5}}\n    "),
        1 => format!("mirrors: [{{destination: {{host: {host}}}, percentage: {{value: 5}}}}, {{destination: {{host: {host}, port: {{number: 80}}}}}}]\n    "),
        2 => "fault: {delay: {fixedDelay: 1s, percentage: {value: 3}}, abort: {httpStatus: 503, percentage: {value: 4}}}\n    ".to_owned(),
        3 => "rewrite: {uri: /b, authority: b.example.com}\n    ".to_owned(),
        4 => "headers: {request: {set: {a: b}, remove: [c]}, response: {add: {d: e}}}\n    ".to_owned(),
        5 => retries.to_owned(),
        _ => String::new(),
    }
}
