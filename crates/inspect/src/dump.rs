//! A configuration dump: `/config_dump` of an Envoy admin server, of Weft's proxy, or
//! `/debug/config_dump` of a control plane.

use serde_json::Value;

use crate::fields::{field, list, type_name};

/// Why a text is no dump.
#[derive(Debug)]
pub enum DumpError {
    /// It is no JSON.
    Json(serde_json::Error),
    /// It has no list `configs`.
    NoConfigs,
}

impl std::fmt::Display for DumpError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Json(error) => write!(f, "this is no JSON: {error}"),
            Self::NoConfigs => f.write_str(
                "there is no list `configs`; give what /config_dump of a proxy, or \
                 /debug/config_dump of a control plane, answers",
            ),
        }
    }
}

impl std::error::Error for DumpError {}

/// The sections of a dump.
#[derive(Debug, Clone)]
pub struct Dump {
    configs: Vec<Value>,
}

/// A secret and whether it is in use already.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DumpedSecret<'a> {
    pub(crate) name: &'a str,
    pub(crate) state: &'static str,
    pub(crate) secret: &'a Value,
}

impl Dump {
    /// Reads a dump.
    ///
    /// # Errors
    /// The text is no JSON, or has no list `configs`.
    pub fn parse(text: &str) -> Result<Self, DumpError> {
        let mut value: Value = serde_json::from_str(text).map_err(DumpError::Json)?;
        match value.get_mut("configs").map(Value::take) {
            Some(Value::Array(configs)) => Ok(Self { configs }),
            _ => Err(DumpError::NoConfigs),
        }
    }

    fn sections<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a Value> {
        let is_it = move |config: &&Value| type_name(config) == name;
        self.configs.iter().filter(is_it)
    }

    /// The last section of a type.
    pub(crate) fn section(&self, name: &str) -> Option<&Value> {
        let mut sections = self.configs.iter().rev();
        sections.find(|config| type_name(config) == name)
    }

    /// The elements of lists of a section, each one below `inner`.
    fn of<'a>(&'a self, section: &'a str, lists: &[(&str, &[&str])]) -> Vec<&'a Value> {
        let mut found = Vec::new();
        for part in self.sections(section) {
            for (name, inner) in lists {
                let elements = list(part, name).iter();
                let inside = elements
                    .map(|element| inner.iter().fold(element, |value, name| field(value, name)));
                found.extend(inside.filter(|value| !value.is_null()));
            }
        }
        found
    }

    /// Dynamic clusters, then static ones.
    pub fn clusters(&self) -> Vec<&Value> {
        self.of(
            "ClustersConfigDump",
            &[
                ("dynamic_active_clusters", &["cluster"]),
                ("static_clusters", &["cluster"]),
            ],
        )
    }

    /// Listeners in force: dynamic ones, then static ones.
    pub fn listeners(&self) -> Vec<&Value> {
        self.of(
            "ListenersConfigDump",
            &[
                ("dynamic_listeners", &["active_state", "listener"]),
                ("static_listeners", &["listener"]),
            ],
        )
    }

    /// Route configurations: dynamic ones, then those inside of listeners.
    pub fn routes(&self) -> Vec<&Value> {
        self.of(
            "RoutesConfigDump",
            &[
                ("dynamic_route_configs", &["route_config"]),
                ("static_route_configs", &["route_config"]),
            ],
        )
    }

    /// Load assignments; there are none in a dump without endpoints.
    pub fn endpoints(&self) -> Vec<&Value> {
        self.of(
            "EndpointsConfigDump",
            &[
                ("dynamic_endpoint_configs", &["endpoint_config"]),
                ("static_endpoint_configs", &["endpoint_config"]),
            ],
        )
    }

    /// Configurations of extensions that came by ECDS.
    pub fn extensions(&self) -> Vec<&Value> {
        self.of("EcdsConfigDump", &[("ecds_filters", &["ecds_filter"])])
    }

    pub(crate) fn secrets(&self) -> Vec<DumpedSecret<'_>> {
        let mut found = Vec::new();
        for part in self.sections("SecretsConfigDump") {
            for (name, state) in [
                ("dynamic_warming_secrets", "WARMING"),
                ("dynamic_active_secrets", "ACTIVE"),
            ] {
                found.extend(list(part, name).iter().map(|element| DumpedSecret {
                    name: crate::fields::text(element, "name"),
                    state,
                    secret: field(element, "secret"),
                }));
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_dump_is_told() {
        let error = |text: &str| Dump::parse(text).expect_err("no dump").to_string();
        assert!(error("{").contains("no JSON"));
        assert!(error("[]").contains("configs"));
        assert!(error(r#"{"configs": 3}"#).contains("configs"));
    }

    #[test]
    fn a_dump_of_strange_things_is_empty() {
        let text = r#"{"configs": [1, {"@type": "a/b.ClustersConfigDump", "static_clusters": 3},
            {"@type": "x.ListenersConfigDump", "dynamicListeners": [{"warmingState": {}}]}]}"#;
        let dump = Dump::parse(text).expect("a dump");
        assert!(dump.clusters().is_empty() && dump.listeners().is_empty());
    }
}
