//! Where pages come from: a running control plane, or files that are read once. Must never know
//! what is on them.

use std::time::Duration;

use serde_json::Value;
use weft_control::Offline;
use weft_sources::load_with_networks;

use super::args::PageSource;
use super::fetch;
use crate::{Failure, analyze};

/// How long a control plane may take.
const LIMIT: Duration = Duration::from_mins(1);

/// A source of pages.
pub(super) enum Pages {
    /// The monitoring server at this address.
    Remote(String),
    /// What is in files.
    Offline(Box<Offline>),
}

impl Pages {
    /// Reads the files, if files are asked for; tells on standard error what is wrong with them.
    pub(super) fn open(source: &PageSource) -> Result<Self, Failure> {
        if source.config.is_empty() {
            return Ok(Self::Remote(source.control.control.clone()));
        }
        let settings = analyze::settings(source.mesh_config.as_deref(), &source.networks)?;
        let networks = source.networks.networks_config.as_deref();
        let loaded = load_with_networks(&source.config, networks, &settings);
        for problem in &loaded.problems {
            eprintln!("{problem}");
        }
        if loaded.objects.is_empty() {
            return Err("there is no object in these files".to_owned());
        }
        Ok(Self::Offline(Box::new(Offline::new(settings, loaded))))
    }

    /// A page of JSON.
    pub(super) async fn json(&self, target: &str) -> Result<Value, Failure> {
        let text = match self {
            Self::Remote(address) => fetch::get(address, target, LIMIT).await?,
            Self::Offline(offline) => offline.page(target).await?,
        };
        parsed(&text)
    }

    /// The same; `None` if there is no such page, which is not the same as not to know.
    pub(super) async fn find(&self, target: &str) -> Result<Option<Value>, Failure> {
        let text = match self {
            Self::Remote(address) => fetch::find(address, target, LIMIT).await?.ok(),
            Self::Offline(offline) => offline.find(target).await?,
        };
        text.map(|text| parsed(&text)).transpose()
    }
}

fn parsed(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|error| format!("the answer is no JSON ({error}); is it a Weft control plane?"))
}
