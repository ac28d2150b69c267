//! Configurations of extensions (ECDS) in the columns of `istioctl proxy-config ecds`.

use serde_json::Value;

use crate::fields::{field, text};
use crate::{Dump, Table};

/// The configurations, sorted by type and name.
pub fn select(dump: &Dump) -> Vec<&Value> {
    let mut all = dump.extensions();
    all.sort_by(|a, b| (kind(a), text(a, "name")).cmp(&(kind(b), text(b, "name"))));
    all
}

fn kind(config: &Value) -> &str {
    let url = field(config, "typed_config").get("@type");
    let url = url.and_then(Value::as_str).unwrap_or_default();
    url.trim_start_matches("type.googleapis.com/")
}

/// `ECDS NAME` and `TYPE`.
pub fn table(configs: &[&Value]) -> Table {
    let mut table = Table::new(["ECDS NAME", "TYPE"], 5);
    for config in configs {
        table.row([text(config, "name").to_owned(), kind(config).to_owned()]);
    }
    table
}
