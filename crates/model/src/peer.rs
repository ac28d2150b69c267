//! Whether workloads take mutual TLS: Istio's `PeerAuthentication`, and what several of them say
//! together about one workload. Knows no certificates.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::labels::Labels;
use crate::name::{Namespace, ObjectRef, PortNumber, RuleMeta};

/// What connections a workload takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum MutualTlsMode {
    /// Plain text.
    Disable,
    /// Both.
    #[default]
    Permissive,
    /// Mutual TLS.
    Strict,
}

/// A rule about the connections that some workloads take.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PeerAuthentication {
    /// Whence it came. In the root namespace it is for the whole mesh.
    pub meta: RuleMeta,
    /// The workloads; empty: all of the namespace.
    pub selector: Labels,
    /// `None` (`UNSET`): as the next wider rule says.
    pub mode: Option<MutualTlsMode>,
    /// For ports of the workload; `None`: as for the workload.
    pub ports: BTreeMap<PortNumber, Option<MutualTlsMode>>,
}

/// What rules say together about one workload.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct PeerModes {
    /// For ports that are not named.
    pub mode: MutualTlsMode,
    /// For those that are.
    pub ports: BTreeMap<PortNumber, MutualTlsMode>,
    /// The rules that hold.
    pub rules: Vec<ObjectRef>,
}

impl PeerModes {
    /// The mode of a port.
    pub fn at(&self, port: PortNumber) -> MutualTlsMode {
        self.ports.get(&port).copied().unwrap_or(self.mode)
    }

    /// What holds for a workload with these labels, as Istio composes it: of each width (mesh,
    /// namespace, workload) the oldest rule; the narrowest that says something holds. `mesh` are
    /// the rules of the root namespace, `own` those of the workload's (`None` if that is the root
    /// namespace), both in order of precedence.
    pub fn of_workload(
        mesh: &[Arc<PeerAuthentication>],
        own: Option<&[Arc<PeerAuthentication>]>,
        labels: &Labels,
    ) -> Self {
        let mut out = Self::default();
        let wide = [whole(mesh), own.and_then(whole)];
        for rule in wide.into_iter().flatten() {
            out.mode = rule.mode.unwrap_or(out.mode);
            out.rules.push(rule.meta.origin.clone());
        }
        let narrow = own.unwrap_or_default().iter();
        let narrow = narrow.filter(|rule| !rule.selector.is_empty());
        if let Some(rule) = narrow.clone().find(|rule| rule.selector.selects(labels)) {
            out.mode = rule.mode.unwrap_or(out.mode);
            let ports = rule.ports.iter();
            out.ports = ports
                .map(|(port, mode)| (*port, mode.unwrap_or(out.mode)))
                .collect();
            out.rules.push(rule.meta.origin.clone());
        }
        out
    }

    /// What clients assume of all workloads of a namespace: rules for single workloads do not count.
    pub fn of_namespace(
        mesh: &[Arc<PeerAuthentication>],
        own: Option<&[Arc<PeerAuthentication>]>,
    ) -> MutualTlsMode {
        let said = |rule: Option<&PeerAuthentication>| rule.and_then(|rule| rule.mode);
        said(own.and_then(whole))
            .or_else(|| said(whole(mesh)))
            .unwrap_or_default()
    }
}

/// The rule for all workloads.
fn whole(rules: &[Arc<PeerAuthentication>]) -> Option<&PeerAuthentication> {
    rules
        .iter()
        .map(AsRef::as_ref)
        .find(|rule| rule.selector.is_empty())
}

/// The identity of workloads that run as a service account, as certificates name it (SPIFFE).
pub fn spiffe_id(trust_domain: &str, namespace: &Namespace, account: &str) -> String {
    format!("spiffe://{trust_domain}/ns/{namespace}/sa/{account}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::Kind;

    fn rule(
        name: &str,
        label: Option<&str>,
        mode: Option<MutualTlsMode>,
        ports: &[(u16, Option<MutualTlsMode>)],
    ) -> Arc<PeerAuthentication> {
        let port = |n: u16| PortNumber::new(n).expect("in range");
        Arc::new(PeerAuthentication {
            meta: RuleMeta {
                origin: ObjectRef::new(Kind::PeerAuthentication, Namespace::new("a"), name),
                created: None,
            },
            selector: label.map(|value| ("app", value)).into_iter().collect(),
            mode,
            ports: ports.iter().map(|(n, mode)| (port(*n), *mode)).collect(),
        })
    }

    #[test]
    fn the_narrowest_rule_that_says_something_holds() {
        use MutualTlsMode::{Disable, Permissive, Strict};
        let app: Labels = [("app", "x")].into_iter().collect();
        let port = |n: u16| PortNumber::new(n).expect("in range");
        let mesh = [rule("m", None, Some(Strict), &[])];
        let said = |own: &[Arc<PeerAuthentication>]| PeerModes::of_workload(&mesh, Some(own), &app);
        assert_eq!(
            PeerModes::of_workload(&[], Some(&[]), &app).mode,
            Permissive
        );
        assert_eq!(said(&[]).mode, Strict);
        assert_eq!(said(&[rule("n", None, None, &[])]).mode, Strict, "UNSET");
        assert_eq!(said(&[rule("n", None, Some(Disable), &[])]).mode, Disable);
        let own = [
            rule("n", None, Some(Disable), &[]),
            rule("other", Some("y"), Some(Strict), &[]),
            rule(
                "w",
                Some("x"),
                None,
                &[(80, Some(Permissive)), (81, None), (82, Some(Strict))],
            ),
            rule("younger", Some("x"), Some(Strict), &[]),
        ];
        let found = said(&own);
        let seen = [80, 81, 82, 83].map(|n| found.at(port(n)));
        assert_eq!(seen, [Permissive, Disable, Strict, Disable]);
        assert_eq!(found.rules.len(), 3, "mesh, namespace, workload");
        assert_eq!(PeerModes::of_namespace(&mesh, Some(&own)), Disable);
        assert_eq!(PeerModes::of_namespace(&mesh, Some(&own[1..])), Strict);
        let narrow = rule("w", Some("x"), Some(Disable), &[]);
        let root = [mesh[0].clone(), narrow];
        let found = PeerModes::of_workload(&root, None, &app);
        assert_eq!(
            found.mode, Strict,
            "the root namespace has no rules for single workloads"
        );
    }
}
