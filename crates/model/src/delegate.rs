//! Delegation: a rule with hosts leaves the routes under some condition to a rule without hosts.
//! What holds in the end is neither's alone; conditions are merged by Istio's rules. Knows neither
//! where rules are kept nor who reads the result.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::name::ObjectRef;
use crate::route::{GatewayRef, HttpAction, HttpMatch, HttpRoute, StringMatch, VirtualService};

/// Conditions that a rule may have together with its delegates; each of a delegate's is written
/// once for each of the root's.
const MAX_CONDITIONS: usize = 1 << 16;

/// A rule with the routes of its delegates in their places.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// What holds.
    pub rule: Arc<VirtualService>,
    /// The delegates in it, in order; one may come several times.
    pub delegates: Vec<ObjectRef>,
    /// What could not be put in.
    pub problems: Vec<DelegateProblem>,
}

/// Why routes of a delegate are not in force.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DelegateProblem {
    /// The delegate.
    pub delegate: ObjectRef,
    /// Field and reason, in the words of the rule that delegates.
    pub text: String,
}

impl VirtualService {
    /// Whether others delegate to this rule, which speaks for no host itself.
    pub fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }

    /// Whether some of its routes are another rule's.
    pub fn has_delegates(&self) -> bool {
        let mut routes = self.http.iter();
        routes.any(|route| matches!(route.action, HttpAction::Delegate(_)))
    }

    /// Puts the routes of delegates in the place of the routes that lead to them. A delegate that
    /// is not there, or not for this rule, costs its route only.
    pub fn resolve(
        &self,
        find: &mut dyn FnMut(&ObjectRef) -> Option<Arc<VirtualService>>,
    ) -> Resolved {
        let mut http = Vec::with_capacity(self.http.len());
        let (mut delegates, mut problems) = (Vec::new(), Vec::new());
        let mut conditions = 0_usize;
        for (index, root) in self.http.iter().enumerate() {
            let HttpAction::Delegate(name) = &root.action else {
                http.push(root.clone());
                continue;
            };
            let mut problem = |text: String| {
                problems.push(DelegateProblem {
                    delegate: name.clone(),
                    text: format!("http[{index}].delegate: {text}"),
                });
            };
            let found = find(name);
            if let Some(reason) = self.refusal(found.as_deref()) {
                problem(format!("{name} {reason}"));
                continue;
            }
            for (place, route) in found.iter().flat_map(|rule| rule.http.iter()).enumerate() {
                let pairs = root.matches.len().max(1) * route.matches.len().max(1);
                conditions = conditions.saturating_add(pairs);
                if conditions > MAX_CONDITIONS {
                    problem(format!(
                        "from http[{place}] of {name} on the routes are left out: there would be more than {MAX_CONDITIONS} conditions"
                    ));
                    break;
                }
                match merged(root, route) {
                    Some(route) => http.push(route),
                    None => problem(format!(
                        "http[{place}] of {name} is left out: a condition there lies in none of http[{index}].match"
                    )),
                }
            }
            delegates.push(name.clone());
        }
        let rule = Self {
            http,
            ..self.clone()
        };
        Resolved {
            rule: Arc::new(rule),
            delegates,
            problems,
        }
    }

    fn refusal(&self, delegate: Option<&Self>) -> Option<String> {
        let Some(delegate) = delegate else {
            return Some("does not exist: create it, or remove the route".to_owned());
        };
        let own = &self.meta.origin.namespace;
        if !delegate.is_delegate() {
            Some("has hosts of its own: only a rule without hosts can be delegated to".to_owned())
        } else if !delegate.export_to.allows(own) {
            Some(format!(
                "is not exported to namespace {own}: add it to exportTo there"
            ))
        } else {
            None
        }
    }
}

/// A delegate's route under the conditions of the root's: what it does not say itself, the root
/// says. Nothing if some condition of it lies outside of the root's.
fn merged(root: &HttpRoute, delegate: &HttpRoute) -> Option<HttpRoute> {
    let mirrors = if delegate.mirrors.is_empty() {
        &root.mirrors
    } else {
        &delegate.mirrors
    };
    let headers = if delegate.headers.is_empty() {
        &root.headers
    } else {
        &delegate.headers
    };
    Some(HttpRoute {
        name: joined(&root.name, &delegate.name),
        matches: merged_matches(&root.matches, &delegate.matches)?,
        action: delegate.action.clone(),
        rewrite: either(delegate.rewrite.as_ref(), root.rewrite.as_ref()),
        timeout: delegate.timeout.or(root.timeout),
        retries: either(delegate.retries.as_ref(), root.retries.as_ref()),
        fault: either(delegate.fault.as_ref(), root.fault.as_ref()),
        mirror: either(delegate.mirror.as_ref(), root.mirror.as_ref()),
        mirror_percent: delegate.mirror_percent.or(root.mirror_percent),
        mirrors: mirrors.clone(),
        headers: headers.clone(),
        cors: either(delegate.cors.as_ref(), root.cors.as_ref()),
    })
}

fn either<T: Clone>(first: Option<&T>, second: Option<&T>) -> Option<T> {
    first.or(second).cloned()
}

fn joined(root: &Arc<str>, delegate: &Arc<str>) -> Arc<str> {
    match (root.is_empty(), delegate.is_empty()) {
        (_, true) => Arc::clone(root),
        (true, false) => Arc::clone(delegate),
        (false, false) => format!("{root}-{delegate}").into(),
    }
}

/// Each condition of the delegate within each of the root's that it fits.
fn merged_matches(root: &[HttpMatch], delegate: &[HttpMatch]) -> Option<Vec<HttpMatch>> {
    if root.is_empty() || delegate.is_empty() {
        return Some([root, delegate].concat());
    }
    let mut out = Vec::new();
    for inner in delegate {
        let before = out.len();
        let outer = root.iter().filter(|outer| !conflict(outer, inner));
        out.extend(outer.map(|outer| merged_match(outer, inner)));
        if out.len() == before {
            return None;
        }
    }
    Some(out)
}

fn merged_match(root: &HttpMatch, delegate: &HttpMatch) -> HttpMatch {
    let gateways = if delegate.gateways.is_empty() {
        &root.gateways
    } else {
        &delegate.gateways
    };
    let stat_prefix = if delegate.stat_prefix.is_empty() {
        &root.stat_prefix
    } else {
        &delegate.stat_prefix
    };
    let labels = root.source_labels.iter();
    HttpMatch {
        name: joined(&root.name, &delegate.name),
        uri: either(delegate.uri.as_ref(), root.uri.as_ref()),
        ignore_uri_case: delegate.ignore_uri_case,
        scheme: either(delegate.scheme.as_ref(), root.scheme.as_ref()),
        method: either(delegate.method.as_ref(), root.method.as_ref()),
        authority: either(delegate.authority.as_ref(), root.authority.as_ref()),
        headers: overlaid(&root.headers, &delegate.headers),
        without_headers: overlaid(&root.without_headers, &delegate.without_headers),
        query_params: overlaid(&root.query_params, &delegate.query_params),
        port: delegate.port.or(root.port),
        source_labels: labels.chain(delegate.source_labels.iter()).collect(),
        source_namespace: either(
            delegate.source_namespace.as_ref(),
            root.source_namespace.as_ref(),
        ),
        gateways: gateways.clone(),
        stat_prefix: Arc::clone(stat_prefix),
    }
}

type Conditions = BTreeMap<Arc<str>, StringMatch>;

fn overlaid(root: &Conditions, delegate: &Conditions) -> Conditions {
    let all = root.iter().chain(delegate);
    all.map(|(k, v)| (Arc::clone(k), v.clone())).collect()
}

/// Whether a condition of a delegate is not within one of the root's.
fn conflict(root: &HttpMatch, delegate: &HttpMatch) -> bool {
    let texts = [
        (&root.uri, &delegate.uri),
        (&root.scheme, &delegate.scheme),
        (&root.method, &delegate.method),
        (&root.authority, &delegate.authority),
    ];
    let maps = [
        (&root.headers, &delegate.headers),
        (&root.without_headers, &delegate.without_headers),
        (&root.query_params, &delegate.query_params),
    ];
    let text = |outer: Option<&StringMatch>, inner: Option<&StringMatch>| match (outer, inner) {
        (Some(outer), Some(inner)) => outside(outer, inner),
        _ => false,
    };
    let labels = &root.source_labels;
    texts
        .iter()
        .any(|(outer, inner)| text(outer.as_ref(), inner.as_ref()))
        || maps.iter().any(|(outer, inner)| {
            let mut pairs = inner.iter();
            pairs.any(|(name, value)| text(outer.get(name), Some(value)))
        })
        || root.ignore_uri_case != delegate.ignore_uri_case
        || matches!((root.port, delegate.port), (Some(outer), Some(inner)) if outer != inner)
        // Istio wants the namespace to be said again.
        || (root.source_namespace.is_some() && root.source_namespace != delegate.source_namespace)
        || delegate
            .source_labels
            .iter()
            .any(|(key, value)| labels.get(key).is_some_and(|other| other != value))
        || beyond(&root.gateways, &delegate.gateways)
}

fn beyond(root: &[GatewayRef], delegate: &[GatewayRef]) -> bool {
    let fits = delegate.len() <= root.len() && delegate.iter().all(|g| root.contains(g));
    !root.is_empty() && !delegate.is_empty() && !fits
}

/// Whether some text that `inner` takes is not taken by `outer`, as far as one can tell: two
/// conditions with an expression among them never fit.
fn outside(outer: &StringMatch, inner: &StringMatch) -> bool {
    use StringMatch::{Exact, Prefix};
    match (outer, inner) {
        (Exact(outer), Exact(inner)) => outer.is_empty() || outer != inner,
        (Prefix(outer), Exact(inner) | Prefix(inner)) => !inner.starts_with(&**outer),
        _ => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(text: &str) -> StringMatch {
        StringMatch::Exact(text.into())
    }

    fn prefix(text: &str) -> StringMatch {
        StringMatch::Prefix(text.into())
    }

    fn regex(text: &str) -> StringMatch {
        StringMatch::Regex(text.into())
    }

    fn path(uri: StringMatch) -> HttpMatch {
        HttpMatch {
            uri: Some(uri),
            ..HttpMatch::default()
        }
    }

    #[test]
    fn texts_fit_within_others() {
        let fits = [
            (prefix("/a"), prefix("/a/b")),
            (prefix("/a"), exact("/a")),
            (exact("/a"), exact("/a")),
        ];
        for (outer, inner) in fits {
            assert!(!outside(&outer, &inner), "{outer:?} {inner:?}");
        }
        let conflicts = [
            (prefix("/a/b"), prefix("/a")),
            (prefix("/a"), regex("/a.*")),
            (regex("/a"), regex("/a")),
            (exact("/a"), prefix("/a")),
            (exact("/a"), exact("/b")),
            (StringMatch::Present, exact("x")),
            (exact("x"), StringMatch::Present),
        ];
        for (outer, inner) in conflicts {
            assert!(outside(&outer, &inner), "{outer:?} {inner:?}");
        }
    }

    #[test]
    fn conditions_are_merged_pair_by_pair() {
        let root = [path(prefix("/a")), path(prefix("/b"))];
        let both = HttpMatch {
            method: Some(exact("GET")),
            name: "get".into(),
            ..HttpMatch::default()
        };
        let merged = merged_matches(&root, std::slice::from_ref(&both)).expect("no conflict");
        let uris: Vec<_> = merged.iter().filter_map(|m| m.uri.clone()).collect();
        assert_eq!(uris, [prefix("/a"), prefix("/b")]);
        assert!(
            merged
                .iter()
                .all(|m| m.method == both.method && &*m.name == "get")
        );
        let outside = [both, path(exact("/c"))];
        assert_eq!(merged_matches(&root, &outside), None);
        assert_eq!(merged_matches(&root, &[]), Some(root.to_vec()));
        assert_eq!(merged_matches(&[], &root), Some(root.to_vec()));
    }

    #[test]
    fn conditions_do_not_multiply_without_end() {
        let (namespace, many) = (crate::Namespace::new("a"), vec![path(prefix("/a")); 300]);
        let rule = |hosts, matches, action| VirtualService {
            meta: crate::RuleMeta {
                origin: ObjectRef::new(crate::Kind::VirtualService, namespace.clone(), "x"),
                created: None,
            },
            hosts,
            gateways: vec![GatewayRef::Mesh],
            export_to: crate::ExportTo::All,
            http: vec![HttpRoute {
                name: "".into(),
                matches,
                action,
                rewrite: None,
                timeout: None,
                retries: None,
                fault: None,
                mirror: None,
                mirror_percent: None,
                mirrors: Vec::new(),
                headers: crate::HeaderOperations::default(),
                cors: None,
            }],
            call_limit: None,
            tls: Vec::new(),
            tcp: Vec::new(),
        };
        let name = ObjectRef::new(crate::Kind::VirtualService, namespace.clone(), "y");
        let host = crate::Hostname::parse("a.com").expect("valid");
        let to = HttpAction::Delegate(name);
        let root = rule(vec![host], many.clone(), to);
        let respond = HttpAction::Respond(crate::DirectResponse {
            status: 200,
            body: crate::ResponseBody::Empty,
        });
        let delegate = Arc::new(rule(Vec::new(), many, respond));
        let resolved = root.resolve(&mut |_| Some(Arc::clone(&delegate)));
        assert!(resolved.rule.http.is_empty());
        assert!(
            resolved.problems[0].text.contains("more than 65536"),
            "{resolved:?}"
        );
    }

    #[test]
    fn conditions_on_the_caller_conflict_where_istio_says_so() {
        let with = |change: fn(&mut HttpMatch)| {
            let mut condition = HttpMatch::default();
            change(&mut condition);
            condition
        };
        let any = HttpMatch::default();
        let shop = with(|m| m.source_namespace = Some(crate::Namespace::new("shop")));
        assert!(conflict(&shop, &any) && !conflict(&any, &shop) && !conflict(&shop, &shop));
        let one = with(|m| m.source_labels.insert("a", "1"));
        let two = with(|m| m.source_labels.insert("a", "2"));
        assert!(conflict(&one, &two) && !conflict(&one, &any) && !conflict(&any, &one));
        let mesh = with(|m| m.gateways = vec![GatewayRef::Mesh]);
        let other = with(|m| {
            m.gateways = vec![GatewayRef::Named {
                namespace: crate::Namespace::new("shop"),
                name: "front".into(),
            }];
        });
        assert!(conflict(&mesh, &other) && !conflict(&mesh, &any) && !conflict(&any, &mesh));
        let case = with(|m| m.ignore_uri_case = true);
        assert!(conflict(&case, &any));
        let header = with(|m| drop(m.headers.insert("x".into(), exact("1"))));
        let present = with(|m| drop(m.headers.insert("x".into(), StringMatch::Present)));
        assert!(conflict(&header, &present) && !conflict(&header, &any));
    }
}
